//! From settings to a store.

use std::sync::Arc;

use crate::backend::Backend;
use crate::config::DatastoreConfig;
use crate::datastore::Datastore;
use crate::error::StoreError;

/// What kind of program opens the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A long-lived program that also looks after the store: integrity check at start, repair, backups.
    Agent,
    /// A command or plugin that starts often and must start fast.
    Tool,
}

/// Opens the configured store. Network stores connect when they are first used.
///
/// # Errors
/// Whatever opening the file reports; [`StoreError::Config`] for a store that this build does not have.
pub fn open(config: &DatastoreConfig, role: Role) -> Result<Arc<dyn Datastore>, StoreError> {
    match config {
        DatastoreConfig::Kubernetes(_) => Err(absent("kubernetes", role)),
        _ => Ok(Arc::new(crate::Store::new(open_backend(config, role)?))),
    }
}

/// Opens the bytes of the configured store, for work on the store as a whole: copies, exports, fan-out. Kubernetes
/// objects of the embedded store are moved to and from etcd like everything else.
///
/// # Errors
/// As [`open`]; [`StoreError::Config`] for Kubernetes, which is no store of bytes.
pub fn open_backend(config: &DatastoreConfig, role: Role) -> Result<Arc<dyn Backend>, StoreError> {
    match config {
        #[cfg(feature = "sqlite")]
        DatastoreConfig::Sqlite { path } => {
            let mut options = crate::SqliteOptions::new(path);
            options.maintain = role == Role::Agent;
            Ok(Arc::new(crate::SqliteStore::open(options)?))
        }
        #[cfg(not(feature = "sqlite"))]
        DatastoreConfig::Sqlite { .. } => Err(absent("sqlite", role)),
        #[cfg(feature = "etcd")]
        DatastoreConfig::Etcd(config) => Ok(Arc::new(crate::EtcdStore::with_kubernetes_objects(config)?)),
        #[cfg(not(feature = "etcd"))]
        DatastoreConfig::Etcd(_) => Err(absent("etcdv3", role)),
        DatastoreConfig::Kubernetes(_) => Err(StoreError::Config {
            name: "DATASTORE_TYPE".to_owned(),
            reason: "kubernetes keeps objects, not bytes; name a sqlite or etcdv3 datastore".to_owned(),
        }),
    }
}

fn absent(kind: &str, _role: Role) -> StoreError {
    StoreError::Config {
        name: "DATASTORE_TYPE".to_owned(),
        reason: match kind {
            "kubernetes" => {
                "the Kubernetes API is no datastore of this version; use sqlite or etcdv3".to_owned()
            }
            _ => format!("this program was built without {kind}; build it with --features {}", feature(kind)),
        },
    }
}

/// The feature that brings a store in.
fn feature(kind: &str) -> &str {
    if kind == "etcdv3" { "etcd" } else { kind }
}
