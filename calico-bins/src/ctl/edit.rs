//! Changing one object in place: labels and patches.

use std::sync::Arc;

use calico_datastore::Backend;
use serde_json::{Map, Value as Json};

use super::apply::{self, Action, Done, WriteError};
use super::get;
use super::input::{self, InputError, Options};
use super::object::{Object, ObjectId, Place, text_at};

/// A change of one label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelChange<'a> {
    /// Give the label this value.
    Set {
        /// The value.
        value: &'a str,
        /// Also when it has another one.
        overwrite: bool,
    },
    /// Take the label away.
    Remove,
}

/// What became of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Labelled {
    /// It is new.
    Set,
    /// It was there.
    Updated,
    /// It is gone.
    Removed,
}

/// Why an object was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// There is no such object.
    #[error("{kind} {name} not found")]
    NotFound {
        /// Kind.
        kind: &'static str,
        /// Name.
        name: String,
    },
    /// The label has another value.
    #[error(
        "failed to update label of {kind} {name}, key {label} is already present. please use '--overwrite' to set a \
         new value"
    )]
    LabelExists {
        /// Kind.
        kind: &'static str,
        /// Name.
        name: String,
        /// Label.
        label: String,
    },
    /// The label is not there.
    #[error("cannot remove label of {kind} {name}, key {label} does not exist")]
    LabelMissing {
        /// Kind.
        kind: &'static str,
        /// Name.
        name: String,
        /// Label.
        label: String,
    },
    /// The patch is neither JSON nor YAML.
    #[error("the patch cannot be read: {0}")]
    Patch(String),
    /// The patched object would break rules.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<InputError>),
    /// The object was not written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Changes one label of an object.
pub async fn label(
    store: &Arc<dyn Backend>,
    id: &ObjectId,
    label: &str,
    change: LabelChange<'_>,
) -> Result<Labelled, EditError> {
    let (kind, name) = (id.kind.name(), id.name.clone());
    let mut tree = read(store, id).await?;
    let labels = tree
        .get_mut("metadata")
        .and_then(Json::as_object_mut)
        .map(|metadata| metadata.entry("labels").or_insert_with(|| Json::Object(Map::new())));
    let Some(labels) = labels.and_then(Json::as_object_mut) else {
        return Err(EditError::NotFound { kind, name });
    };
    let old = labels.get(label).and_then(Json::as_str).map(str::to_owned);
    let labelled = match (change, old) {
        (LabelChange::Set { value, .. }, Some(old)) if old == value => return Ok(Labelled::Updated),
        (LabelChange::Set { overwrite: false, .. }, Some(_)) => {
            return Err(EditError::LabelExists { kind, name, label: label.to_owned() });
        }
        (LabelChange::Set { value, .. }, old) => {
            labels.insert(label.to_owned(), value.into());
            if old.is_some() { Labelled::Updated } else { Labelled::Set }
        }
        (LabelChange::Remove, Some(_)) => {
            labels.remove(label);
            Labelled::Removed
        }
        (LabelChange::Remove, None) => {
            return Err(EditError::LabelMissing { kind, name, label: label.to_owned() });
        }
    };
    write(store, tree).await?;
    Ok(labelled)
}

/// Merges a patch into an object (RFC 7386: fields replace, `null` removes, lists are replaced whole).
pub async fn patch(store: &Arc<dyn Backend>, id: &ObjectId, patch: &str) -> Result<Done, EditError> {
    let documents =
        calico_datastore::yaml::parse(patch).map_err(|error| EditError::Patch(error.to_string()))?;
    let [document] = documents.as_slice() else {
        return Err(EditError::Patch(format!("one object expected, found {}", documents.len())));
    };
    let mut tree = read(store, id).await?;
    merge(&mut tree, &document.value);
    write(store, tree).await
}

async fn read(store: &Arc<dyn Backend>, id: &ObjectId) -> Result<Json, EditError> {
    match get::one(store, id).await.map_err(WriteError::from)? {
        Some(tree) => Ok(tree),
        None => Err(EditError::NotFound { kind: id.kind.name(), name: id.name.clone() }),
    }
}

/// Writes a changed tree as if it came from a file: strictly read, held to all rules, in the version that was read.
async fn write(store: &Arc<dyn Backend>, tree: Json) -> Result<Done, EditError> {
    let place = format!("{} {}", text_at(&tree, "/kind"), text_at(&tree, "/metadata/name"));
    let objects = input::read_bytes(&place, tree.to_string().as_bytes(), &Options::default())
        .map_err(EditError::Invalid)?;
    let objects: Vec<Object> = objects.into_iter().map(|o| Object { place: Place::default(), ..o }).collect();
    let mut done = Done::Unchanged;
    for outcome in apply::perform(store, &objects, Action::Replace).await {
        done = outcome.result?;
    }
    Ok(done)
}

fn merge(into: &mut Json, patch: &Json) {
    let Json::Object(changes) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = Json::Object(Map::new());
    }
    let Some(fields) = into.as_object_mut() else { return };
    for (name, change) in changes {
        if change.is_null() {
            fields.remove(name);
        } else {
            merge(fields.entry(name).or_insert(Json::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::object::ObjectKind;
    use super::*;
    use calico_datastore::MemoryStore;
    use calico_model::{Kind, KubernetesKind};

    async fn with(text: &str) -> Arc<dyn Backend> {
        let store: Arc<dyn Backend> = Arc::new(MemoryStore::new());
        let objects = input::read_bytes("t", text.as_bytes(), &Options::default()).unwrap();
        for outcome in apply::apply(&store, &objects).await {
            outcome.result.unwrap();
        }
        store
    }

    #[tokio::test]
    async fn labels_of_a_pod() {
        let store = with("apiVersion: v1\nkind: Pod\nmetadata: {name: w, namespace: x}\nspec: {}").await;
        let id = ObjectId {
            kind: ObjectKind::Kubernetes(KubernetesKind::Pod),
            namespace: "x".into(),
            name: "w".into(),
        };
        let set = |value, overwrite| LabelChange::Set { value, overwrite };
        assert_eq!(label(&store, &id, "run", set("a", false)).await.unwrap(), Labelled::Set);
        assert_eq!(label(&store, &id, "run", set("a", false)).await.unwrap(), Labelled::Updated);
        assert!(matches!(
            label(&store, &id, "run", set("b", false)).await,
            Err(EditError::LabelExists { .. })
        ));
        assert_eq!(label(&store, &id, "run", set("b", true)).await.unwrap(), Labelled::Updated);
        let tree = get::one(&store, &id).await.unwrap().unwrap();
        assert_eq!(tree["metadata"]["labels"]["run"], "b");
        assert_eq!(label(&store, &id, "run", LabelChange::Remove).await.unwrap(), Labelled::Removed);
        assert!(matches!(
            label(&store, &id, "run", LabelChange::Remove).await,
            Err(EditError::LabelMissing { .. })
        ));
    }

    #[tokio::test]
    async fn patches_merge_and_are_checked() {
        let store = with(
            "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: sec}\nspec: {order: 7, defaultAction: Pass}",
        )
        .await;
        let id =
            ObjectId { kind: ObjectKind::Calico(Kind::Tier), namespace: String::new(), name: "sec".into() };
        assert_eq!(patch(&store, &id, "{\"spec\": {\"order\": 9}}").await.unwrap(), Done::Configured);
        let tree = get::one(&store, &id).await.unwrap().unwrap();
        assert_eq!(tree["spec"]["order"].as_f64(), Some(9.0));
        assert_eq!(tree["spec"]["defaultAction"], "Pass");
        let error = patch(&store, &id, "spec: {oder: 9}").await.unwrap_err();
        assert!(error.to_string().contains("spec.oder: unknown field; did you mean order?"), "{error}");
        assert!(matches!(patch(&store, &id, "[").await, Err(EditError::Patch(_))));
        let missing = ObjectId { name: "nope".into(), ..id };
        assert_eq!(patch(&store, &missing, "{}").await.unwrap_err().to_string(), "Tier nope not found");
    }
}
