//! Reading objects and showing them.

use std::sync::Arc;

use calico_datastore::{Backend, KeyRanges, StoreError, yaml};
use calico_model::{AnyResource, Key, Kind};
use serde_json::{Value as Json, json};

use super::apply::client;
use super::columns::{self, Facts};
use super::object::{ObjectId, ObjectKind, text_at};
use super::table;

/// How objects are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// The table of the kind.
    Table {
        /// With more columns.
        wide: bool,
    },
    /// YAML.
    Yaml,
    /// JSON.
    Json,
    /// `kind/name` lines.
    Name,
    /// A table of chosen columns: headings of the kind's table, or `HEADING:.path.in.the.object`.
    Columns(Vec<String>),
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "ps" | "" => Ok(Self::Table { wide: false }),
            "wide" => Ok(Self::Table { wide: true }),
            "yaml" | "yml" => Ok(Self::Yaml),
            "json" => Ok(Self::Json),
            "name" => Ok(Self::Name),
            "custom-columns" | "custom-columns=" => Err("need to specify at least one column".into()),
            other => match other.strip_prefix("custom-columns=") {
                Some(list) => Ok(Self::Columns(list.split(',').map(str::to_owned).collect())),
                None => Err(format!(
                    "unrecognized output format '{other}'; use ps, wide, yaml, json, name or custom-columns=…"
                )),
            },
        }
    }
}

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// Kind of the objects.
    pub kind: ObjectKind,
    /// One object that was asked for by name, or the list of all.
    pub content: Content,
}

/// One object or many.
#[derive(Debug)]
pub enum Content {
    /// Asked for by name.
    One(Json),
    /// A list and its revision.
    List(Vec<Json>, String),
}

impl Found {
    fn objects(&self) -> &[Json] {
        match &self.content {
            Content::One(object) => std::slice::from_ref(object),
            Content::List(objects, _) => objects,
        }
    }

    fn tree(&self) -> Json {
        match &self.content {
            Content::One(object) => object.clone(),
            Content::List(objects, revision) => json!({
                "apiVersion": self.kind.api_version(),
                "kind": format!("{}List", self.kind.name()),
                "metadata": {"resourceVersion": revision},
                "items": objects,
            }),
        }
    }
}

/// Reads one object; `None` when it is not there.
pub async fn one(store: &Arc<dyn Backend>, id: &ObjectId) -> Result<Option<Json>, StoreError> {
    match id.kind {
        ObjectKind::Calico(kind) => match client(store).get(kind, &id.namespace, &id.name).await {
            Ok(resource) => Ok(Some(resource.to_tree())),
            Err(StoreError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        },
        ObjectKind::Kubernetes(_) => {
            let Some(entry) = store.get(&id.key().path()).await? else { return Ok(None) };
            as_given(&entry.key, &entry.value, &entry.revision.to_string()).map(Some)
        }
    }
}

/// Reads all objects of a kind, of one namespace or of all. Objects that are not what their kind demands are shown as
/// they are stored.
pub async fn list(
    store: &Arc<dyn Backend>,
    kind: ObjectKind,
    namespace: Option<&str>,
) -> Result<(Vec<Json>, String), StoreError> {
    let ObjectKind::Calico(calico) = kind else {
        let list = store.list(&KeyRanges::prefix(kind.prefix(namespace))).await?;
        let objects =
            list.entries.iter().map(|entry| as_given(&entry.key, &entry.value, &entry.revision.to_string()));
        return Ok((objects.collect::<Result<_, _>>()?, list.revision.to_string()));
    };
    let list = client(store).list(calico, namespace).await?;
    let mut objects: Vec<Json> = list.items.iter().map(AnyResource::to_tree).collect();
    for failure in &list.failures {
        objects.push(as_given(&failure.key, &failure.value, failure.revision.as_str())?);
    }
    if calico == Kind::Tier {
        let order = |tier: &Json| tier.pointer("/spec/order").and_then(Json::as_f64).unwrap_or(f64::INFINITY);
        objects.sort_by(|a, b| order(a).total_cmp(&order(b)));
    }
    Ok((objects, list.revision.to_string()))
}

fn as_given(key: &str, value: &[u8], revision: &str) -> Result<Json, StoreError> {
    let mut tree: Json = serde_json::from_slice(value)
        .map_err(|error| StoreError::Undecodable { key: key.to_owned(), reason: error.to_string() })?;
    if let Some(metadata) = tree.get_mut("metadata").and_then(Json::as_object_mut) {
        metadata.insert("resourceVersion".into(), revision.into());
    }
    Ok(tree)
}

/// Facts that cells need: the AS number of nodes that name none.
pub async fn facts(store: &Arc<dyn Backend>) -> Facts {
    let key = Key::resource(Kind::BGPConfiguration, "", "default").path();
    let default_as_number = match store.get(&key).await {
        Ok(Some(entry)) => {
            let tree: Json = serde_json::from_slice(&entry.value).unwrap_or_default();
            tree.pointer("/spec/asNumber").map_or_else(|| "64512".to_owned(), ToString::to_string)
        }
        Ok(None) => "64512".to_owned(),
        Err(_) => "unknown".to_owned(),
    };
    Facts { default_as_number }
}

/// Removes what only this cluster knows of an object, so that it can be written to another.
pub fn strip_for_export(object: &mut Json) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Json::as_object_mut) {
        for name in [
            "namespace",
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ] {
            metadata.remove(name);
        }
    }
}

/// The text that shows what was found. `with_namespace` puts the namespace in front of tables of namespaced kinds.
///
/// # Errors
/// A column that the kind does not have.
pub fn show(found: &[Found], format: &Format, with_namespace: bool, facts: &Facts) -> Result<String, String> {
    match format {
        Format::Yaml => Ok(yaml::to_string(&together(found))),
        Format::Json => Ok(serde_json::to_string_pretty(&together(found)).unwrap_or_default()),
        Format::Name => Ok(names(found)),
        Format::Table { wide } => found
            .iter()
            .map(|one| {
                let mut chosen = columns::of(one.kind, *wide);
                if with_namespace && one.kind.is_namespaced() {
                    chosen.insert(0, columns::NAMESPACE);
                }
                let headings: Vec<&str> = chosen.iter().map(|column| column.heading).collect();
                let rows: Vec<Vec<String>> = one
                    .objects()
                    .iter()
                    .map(|object| chosen.iter().map(|column| column.cell(object, facts)).collect())
                    .collect();
                Ok(table::columns(&headings, &rows))
            })
            .collect(),
        Format::Columns(wanted) => {
            found.iter().map(|one| chosen_columns(one, wanted, with_namespace, facts)).collect()
        }
    }
}

/// One object as it is, several as a list.
fn together(found: &[Found]) -> Json {
    match found {
        [one] => one.tree(),
        [] => Json::Null,
        many => many.iter().map(Found::tree).collect(),
    }
}

fn names(found: &[Found]) -> String {
    let mut out = String::new();
    for one in found {
        for object in one.objects() {
            let kind = one.kind.name().to_lowercase();
            out.push_str(&format!("{kind}/{}\n", text_at(object, "/metadata/name")));
        }
    }
    out
}

fn chosen_columns(
    found: &Found,
    wanted: &[String],
    with_namespace: bool,
    facts: &Facts,
) -> Result<String, String> {
    let known = columns::all(found.kind);
    let namespace = "NAMESPACE".to_owned();
    let front =
        (with_namespace && found.kind.is_namespaced() && !wanted.contains(&namespace)).then_some(&namespace);
    let mut headings: Vec<&str> = Vec::new();
    let mut rows: Vec<Vec<String>> = vec![Vec::new(); found.objects().len()];
    for name in front.into_iter().chain(wanted) {
        let cell: Box<dyn Fn(&Json) -> String> = if let Some((heading, path)) = name.split_once(':') {
            headings.push(heading);
            Box::new(move |object| at_path(object, path))
        } else if let Some(column) = known.iter().find(|column| column.heading == name) {
            headings.push(column.heading);
            Box::new(|object| column.cell(object, facts))
        } else {
            let mut valid: Vec<&str> = known.iter().map(|column| column.heading).collect();
            valid.sort_unstable();
            return Err(format!("unknown heading {name}, valid values are: {}", valid.join(", ")));
        };
        for (row, object) in rows.iter_mut().zip(found.objects()) {
            row.push(cell(object));
        }
    }
    Ok(table::columns(&headings, &rows))
}

/// The value at `.spec.ingress[0].action`, `<none>` when there is none.
fn at_path(object: &Json, path: &str) -> String {
    let pointer = path.replace(']', "").replace(['.', '['], "/");
    let pointer = if pointer.starts_with('/') { pointer } else { format!("/{pointer}") };
    match object.pointer(&pointer) {
        None | Some(Json::Null) => "<none>".into(),
        Some(Json::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}
