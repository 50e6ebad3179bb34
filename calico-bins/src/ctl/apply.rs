//! Writing objects: create, apply, replace, delete.
//!
//! A library: `calicoctl`, the lab and tests call the same functions.
//!
//! ```
//! use calico_bins::ctl::{apply, input};
//! use calico_datastore::{Backend, MemoryStore};
//! use std::sync::Arc;
//!
//! let text = b"apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: sec}\nspec: {order: 7}\n";
//! let objects = input::read_bytes("tier.yaml", text, &input::Options::default()).unwrap();
//! let store: Arc<dyn Backend> = Arc::new(MemoryStore::new());
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let outcomes = apply::apply(&store, &objects).await;
//! assert_eq!(outcomes[0].result.as_ref().unwrap(), &apply::Done::Created);
//! let outcomes = apply::apply(&store, &objects).await;
//! assert_eq!(outcomes[0].result.as_ref().unwrap(), &apply::Done::Unchanged);
//! # });
//! ```

use std::sync::Arc;

use calico_datastore::{Backend, Client, Expect, RawEntry, RawWrite, Store, StoreError};
use calico_model::decode::Mode;
use calico_model::{AnyResource, FieldError, Key, Kind, ModelError, Revision, defaults};
use serde_json::{Map, Value as Json};

use super::object::{Object, ObjectId, ObjectKind, Place};
use super::{admission, initialise};

/// What to do with objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Write objects that are not there yet.
    Create,
    /// Write objects, whether they are there or not.
    Apply,
    /// Write objects that are there.
    Replace,
    /// Remove objects.
    Delete,
}

impl Action {
    /// `create`
    pub fn verb(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Apply => "apply",
            Self::Replace => "replace",
            Self::Delete => "delete",
        }
    }

    /// `created`
    pub fn past(self) -> &'static str {
        match self {
            Self::Create => "created",
            Self::Apply => "applied",
            Self::Replace => "replaced",
            Self::Delete => "deleted",
        }
    }
}

/// What became of one object.
#[derive(Debug)]
pub struct Outcome {
    /// The object.
    pub id: ObjectId,
    /// Where it was read.
    pub place: Place,
    /// What was done, or why not.
    pub result: Result<Done, WriteError>,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// The object was not there and is now.
    Created,
    /// The object was there and differs now.
    Configured,
    /// The object was there already as given; nothing was written.
    Unchanged,
    /// The object was there and is gone.
    Deleted,
}

/// Why an object was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It is not there.
    #[error("resource does not exist: {id} with error: <nil>")]
    Missing {
        /// The object.
        id: ObjectId,
    },
    /// It is there already.
    #[error("resource already exists: {id} with error: <nil>")]
    Exists {
        /// The object.
        id: ObjectId,
    },
    /// It was changed since the given `resourceVersion`.
    #[error("update conflict: {id}")]
    Conflict {
        /// The object.
        id: ObjectId,
    },
    /// Nobody may do that.
    #[error("operation {operation} is not supported on {id}: {reason}")]
    NotSupported {
        /// The operation.
        operation: &'static str,
        /// The object.
        id: ObjectId,
        /// Why, and what to do instead.
        reason: String,
    },
    /// The object contradicts others in the datastore.
    #[error("{id}: {}", .problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Refused {
        /// The object.
        id: ObjectId,
        /// Why.
        problems: Vec<FieldError>,
    },
    /// The datastore failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How often a write is tried again when others change the object at the same time.
const TRIES: usize = 5;

/// Resources through the rules of the API.
pub fn client(store: &Arc<dyn Backend>) -> Client {
    Client::new(Arc::new(Store::new(Arc::clone(store))))
}

/// Writes objects, whether they are there or not, in the given order. One that fails does not stop the others.
pub async fn apply(store: &Arc<dyn Backend>, objects: &[Object]) -> Vec<Outcome> {
    perform(store, objects, Action::Apply).await
}

/// Does `action` with each object, in the given order. One that fails does not stop the others. A store that is new
/// first gets what every cluster has.
pub async fn perform(store: &Arc<dyn Backend>, objects: &[Object], action: Action) -> Vec<Outcome> {
    let mut outcomes = Vec::with_capacity(objects.len());
    if action != Action::Delete {
        // A store that cannot be initialised, such as one without write access, says so at the first write.
        let _ = initialise::initialise(store).await;
    }
    for object in objects {
        let result = match action {
            Action::Create => create(store, object).await,
            Action::Apply | Action::Replace => update(store, object, action).await,
            Action::Delete => delete(store, &object.id, object.resource_version()).await,
        };
        outcomes.push(Outcome { id: object.id.clone(), place: object.place.clone(), result });
    }
    outcomes
}

async fn create(store: &Arc<dyn Backend>, object: &Object) -> Result<Done, WriteError> {
    let id = &object.id;
    admission::may_write(id, "create")?;
    let mut tree = object.tree.clone();
    if let Some(metadata) = tree.get_mut("metadata").and_then(Json::as_object_mut) {
        metadata.retain(|name, _| ["name", "namespace", "labels", "annotations"].contains(&name.as_str()));
    }
    let created = match id.kind {
        ObjectKind::Calico(kind) => client(store).create(resource(id, kind, tree)?).await.map(drop),
        ObjectKind::Kubernetes(_) => {
            if let Some(metadata) = tree.get_mut("metadata").and_then(Json::as_object_mut) {
                metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
                metadata.insert("creationTimestamp".into(), now().into());
            }
            put(store, id, Expect::Absent, &tree).await
        }
    };
    created.map(|()| Done::Created).map_err(|error| named(error, id))
}

/// Replaces what is there; `Apply` creates what is not.
async fn update(store: &Arc<dyn Backend>, object: &Object, action: Action) -> Result<Done, WriteError> {
    let id = &object.id;
    admission::may_write(id, action.verb())?;
    let path = id.key().path();
    let given = object.resource_version();
    let mut last = WriteError::Conflict { id: id.clone() };
    for _ in 0..TRIES {
        let Some(entry) = store.get(&path).await? else {
            if action == Action::Replace {
                return Err(WriteError::Missing { id: id.clone() });
            }
            match create(store, object).await {
                // Somebody else created it in between: update that.
                Err(WriteError::Exists { .. }) => continue,
                result => return result,
            }
        };
        if !given.is_empty() && given != entry.revision.to_string() {
            return Err(last);
        }
        match replace(store, object, &entry).await {
            Ok(done) => return Ok(done),
            // Changed or removed since it was read: look again, unless the user insists on a version.
            Err(error) if given.is_empty() && (error.is_conflict() || error.is_missing()) => {
                last = named(error, id);
            }
            Err(error) => return Err(named(error, id)),
        }
    }
    Err(last)
}

/// Puts an object in place of what was just read, if they differ.
async fn replace(store: &Arc<dyn Backend>, object: &Object, entry: &RawEntry) -> Result<Done, StoreError> {
    let id = &object.id;
    let undecodable = |reason: String| StoreError::Undecodable { key: entry.key.clone(), reason };
    let ObjectKind::Calico(kind) = id.kind else {
        let old: Json =
            serde_json::from_slice(&entry.value).map_err(|error| undecodable(error.to_string()))?;
        let new = merged(&old, &object.tree);
        if new == old {
            return Ok(Done::Unchanged);
        }
        put(store, id, Expect::Revision(entry.revision), &new).await?;
        return Ok(Done::Configured);
    };
    let client = client(store);
    let old = client.get(kind, &id.namespace, &id.name).await?;
    let new = merged(&old.to_tree(), &object.tree);
    let mut new = AnyResource::from_tree(kind, new, Mode::Lenient).map_err(|e| undecodable(e.to_string()))?;
    defaults::apply(&mut new);
    new.metadata_mut().resource_version.clone_from(&old.metadata().resource_version);
    if new == old {
        return Ok(Done::Unchanged);
    }
    let metadata = new.metadata_mut();
    // Objects that others stored may lack what an update needs.
    if metadata.uid.is_empty() {
        metadata.uid = uuid::Uuid::new_v4().to_string();
    }
    if metadata.creation_timestamp.is_none() {
        metadata.creation_timestamp = now().parse().ok();
    }
    client.update(new).await?;
    Ok(Done::Configured)
}

/// Removes one object; with a `resource_version` only in that version.
pub async fn delete(
    store: &Arc<dyn Backend>,
    id: &ObjectId,
    resource_version: &str,
) -> Result<Done, WriteError> {
    admission::may_write(id, "delete")?;
    let deleted = match id.kind {
        ObjectKind::Calico(kind) => {
            let revision = (!resource_version.is_empty()).then(|| Revision::new(resource_version));
            client(store).delete(kind, &id.namespace, &id.name, revision).await.map(drop)
        }
        ObjectKind::Kubernetes(_) => {
            let expect = match resource_version {
                "" => Expect::Any,
                text => match text.parse() {
                    Ok(revision) => Expect::Revision(revision),
                    Err(_) => return Err(WriteError::Conflict { id: id.clone() }),
                },
            };
            store.txn(vec![RawWrite::delete(id.key().path(), expect)]).await.map(drop)
        }
    };
    deleted.map(|()| Done::Deleted).map_err(|error| named(error, id))
}

async fn put(store: &Arc<dyn Backend>, id: &ObjectId, expect: Expect, tree: &Json) -> Result<(), StoreError> {
    let mut tree = tree.clone();
    if let Some(metadata) = tree.get_mut("metadata").and_then(Json::as_object_mut) {
        metadata.remove("resourceVersion");
    }
    store.txn(vec![RawWrite::put(id.key().path(), expect, tree.to_string().into_bytes())]).await.map(drop)
}

fn resource(id: &ObjectId, kind: Kind, tree: Json) -> Result<AnyResource, WriteError> {
    AnyResource::from_tree(kind, tree, Mode::Lenient).map_err(|error| WriteError::Refused {
        id: id.clone(),
        problems: match error {
            ModelError::Fields { problems, .. } => problems,
            error => vec![FieldError::new("", error.to_string())],
        },
    })
}

/// The stored metadata stays, except labels and annotations; the rest is as given. A status stays when none is given.
fn merged(old: &Json, given: &Json) -> Json {
    let mut new = given.clone();
    let Some(fields) = new.as_object_mut() else { return new };
    let mut metadata = old.get("metadata").and_then(Json::as_object).cloned().unwrap_or_default();
    let wanted = fields.remove("metadata");
    let empty = Map::new();
    let wanted = wanted.as_ref().and_then(Json::as_object).unwrap_or(&empty);
    for name in ["name", "namespace", "labels", "annotations"] {
        match wanted.get(name) {
            Some(value) => metadata.insert(name.into(), value.clone()),
            None => metadata.remove(name),
        };
    }
    metadata.remove("resourceVersion");
    fields.insert("metadata".into(), metadata.into());
    if let Some(status) = old.get("status") {
        fields.entry("status").or_insert_with(|| status.clone());
    }
    new
}

fn named(error: StoreError, id: &ObjectId) -> WriteError {
    match error {
        StoreError::Exists { .. } => WriteError::Exists { id: id.clone() },
        StoreError::Missing { key } if key != id.key().path() => {
            let reason = match Key::parse(&key) {
                Ok(Key::Resource(needed)) => {
                    format!("{} {} does not exist; create it first", needed.kind.name(), needed.name)
                }
                _ => format!("{key} does not exist"),
            };
            WriteError::Refused { id: id.clone(), problems: vec![FieldError::new("", reason)] }
        }
        StoreError::Missing { .. } => WriteError::Missing { id: id.clone() },
        StoreError::Conflict { .. } => WriteError::Conflict { id: id.clone() },
        StoreError::NotSupported { operation, reason, .. } => {
            WriteError::NotSupported { operation, id: id.clone(), reason }
        }
        StoreError::Rejected { problems, .. } => WriteError::Refused { id: id.clone(), problems },
        StoreError::Invalid { field, reason, .. } => {
            WriteError::Refused { id: id.clone(), problems: vec![FieldError::new(field, reason)] }
        }
        error => WriteError::Store(error),
    }
}

/// The time in the form of `creationTimestamp`: whole seconds, UTC.
pub(super) fn now() -> String {
    let seconds = jiff::Timestamp::now().as_second();
    jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::input::{Options, read_bytes};
    use super::*;
    use calico_datastore::MemoryStore;

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
    }

    fn objects(text: &str) -> Vec<Object> {
        read_bytes("test.yaml", text.as_bytes(), &Options::default()).unwrap_or_else(|errors| {
            panic!("{}", errors.iter().map(|e| format!("{e}\n")).collect::<String>())
        })
    }

    fn stored(store: &Arc<dyn Backend>, object: &Object) -> Json {
        let entry = block_on(store.get(&object.id.key().path())).unwrap().unwrap();
        serde_json::from_slice(&entry.value).unwrap()
    }

    fn results(store: &Arc<dyn Backend>, objects: &[Object], action: Action) -> Vec<String> {
        let outcomes = block_on(perform(store, objects, action));
        outcomes.into_iter().map(|o| o.result.map_or_else(|e| e.to_string(), |d| format!("{d:?}"))).collect()
    }

    const POLICY: &str = "apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: p, namespace: prod, labels: {a: b}}
spec: {selector: role == 'db', types: [Ingress]}
";

    #[test]
    fn the_life_of_an_object() {
        let store: Arc<dyn Backend> = Arc::new(MemoryStore::new());
        let policy = objects(POLICY);
        assert_eq!(
            results(&store, &policy, Action::Replace),
            ["resource does not exist: NetworkPolicy(prod/p) with error: <nil>"]
        );
        assert_eq!(results(&store, &policy, Action::Create), ["Created"]);
        let first = stored(&store, &policy[0]);
        assert_eq!(first["metadata"]["uid"].as_str().unwrap().len(), 36);
        assert!(first["metadata"]["creationTimestamp"].as_str().unwrap().ends_with('Z'));
        assert_eq!(
            results(&store, &policy, Action::Create),
            ["resource already exists: NetworkPolicy(prod/p) with error: <nil>"]
        );
        assert_eq!(results(&store, &policy, Action::Apply), ["Unchanged"]);
        let changed = objects(&POLICY.replace("'db'", "'fe'").replace(", labels: {a: b}", ""));
        assert_eq!(results(&store, &changed, Action::Apply), ["Configured"]);
        let second = stored(&store, &policy[0]);
        assert_eq!(second["spec"]["selector"], "role == 'fe'");
        assert_eq!(second["metadata"]["uid"], first["metadata"]["uid"]);
        assert_eq!(second["metadata"]["labels"]["a"], Json::Null);
        assert_eq!(results(&store, &policy, Action::Delete), ["Deleted"]);
        assert_eq!(
            results(&store, &policy, Action::Delete),
            ["resource does not exist: NetworkPolicy(prod/p) with error: <nil>"]
        );
    }

    #[test]
    fn a_version_in_the_file_is_compared() {
        let store: Arc<dyn Backend> = Arc::new(MemoryStore::new());
        assert_eq!(results(&store, &objects(POLICY), Action::Apply), ["Created"]);
        let path = "/calico/resources/v3/projectcalico.org/networkpolicies/prod/p";
        let revision = block_on(store.get(path)).unwrap().unwrap().revision;
        let versioned = |n: u64| {
            objects(
                &POLICY
                    .replace("'db'", "'x'")
                    .replace("name: p,", &format!("name: p, resourceVersion: '{n}',")),
            )
        };
        let conflict = ["update conflict: NetworkPolicy(prod/p)"];
        assert_eq!(results(&store, &versioned(revision + 1), Action::Apply), conflict);
        assert_eq!(results(&store, &versioned(revision + 1), Action::Delete), conflict);
        assert_eq!(results(&store, &versioned(revision), Action::Apply), ["Configured"]);
        assert!(
            !block_on(store.get(path)).unwrap().unwrap().value.windows(15).any(|w| w == b"resourceVersion")
        );
        assert_eq!(results(&store, &versioned(revision), Action::Delete), conflict);
    }

    #[test]
    fn kubernetes_objects_stay_as_given() {
        let store: Arc<dyn Backend> = Arc::new(MemoryStore::new());
        let pod = objects(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: w, namespace: x}\nspec: {containers: [{name: c, tty: true}]}",
        );
        assert_eq!(pod[0].id.key().path(), "/registry/pods/x/w");
        assert_eq!(results(&store, &pod, Action::Apply), ["Created"]);
        assert_eq!(stored(&store, &pod[0])["spec"]["containers"][0]["tty"], true);
        let with_status = objects(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: w, namespace: x}\nspec: {}\nstatus: {podIP: 10.0.0.1}",
        );
        assert_eq!(results(&store, &with_status, Action::Apply), ["Configured"]);
        assert_eq!(results(&store, &pod, Action::Apply), ["Configured"]);
        assert_eq!(stored(&store, &pod[0])["status"]["podIP"], "10.0.0.1", "a status is not lost");
    }

    #[test]
    fn what_contradicts_other_objects_is_refused() {
        let store: Arc<dyn Backend> = Arc::new(MemoryStore::new());
        let pool = |name: &str, cidr: &str| {
            objects(&format!(
                "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: {name}}}\nspec: {{cidr: {cidr}}}"
            ))
        };
        assert_eq!(results(&store, &pool("a", "10.0.0.0/16"), Action::Apply), ["Created"]);
        assert_eq!(
            results(&store, &pool("b", "10.0.8.0/24"), Action::Apply),
            ["IPPool(b): spec.cidr: 10.0.8.0/24 overlaps 10.0.0.0/16 of the pool a"]
        );
        assert_eq!(
            results(&store, &pool("a", "10.9.0.0/16"), Action::Apply),
            [
                "IPPool(a): spec.cidr: cannot be changed; create a second pool, disable this one and move the pods (got \"10.9.0.0/16\")"
            ]
        );
        let orphan = objects(&POLICY.replace("spec: {", "spec: {tier: sec, "));
        assert_eq!(
            results(&store, &orphan, Action::Apply),
            ["NetworkPolicy(prod/p): Tier sec does not exist; create it first"]
        );
        let tier =
            objects("apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: sec}\nspec: {order: 1}");
        assert_eq!(results(&store, &tier, Action::Apply), ["Created"]);
        assert_eq!(results(&store, &orphan, Action::Apply), ["Created"]);
        assert_eq!(
            results(&store, &tier, Action::Delete),
            [
                "operation delete is not supported on Tier(sec): it is not empty: NetworkPolicy p belongs to it"
            ]
        );
        let builtin =
            objects("apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: default}\nspec: {}");
        assert_eq!(
            results(&store, &builtin, Action::Delete),
            ["operation delete is not supported on Tier(default): this tier is part of every cluster"]
        );
    }
}
