//! The datastore as a plugin sees it: blocking, typed, through the agent when there is one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use calico_datastore::config::DatastoreConfig;
use calico_datastore::{Backend, Expect, RawWrite, SqliteOptions, SqliteStore, StoreError};
use calico_model::{Key, Value};

use super::conf::NetConf;
use super::error::{CniError, code};
use crate::node::protocol::{SOCKET_VARIABLE, socket_path};
use crate::node::store::AgentStore;

/// Longest time that one request to the agent may take.
const AGENT_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection to the datastore.
pub struct Store {
    runtime: tokio::runtime::Runtime,
    backend: Arc<dyn Backend>,
    agent: Option<Arc<AgentStore>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("agent", &self.agent).finish_non_exhaustive()
    }
}

impl Store {
    /// Connects: to the agent when it answers, else to the datastore itself.
    pub fn open(conf: &NetConf) -> Result<Self, CniError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| CniError::new(code::IO, "cannot start").details(e.to_string()))?;
        let socket = socket_path(Some(&conf.agent_socket), std::env::var(SOCKET_VARIABLE).ok().as_deref());
        match AgentStore::connect(&socket, AGENT_TIMEOUT) {
            Ok(agent) => {
                let agent = Arc::new(agent);
                Ok(Self { runtime, backend: agent.clone(), agent: Some(agent) })
            }
            Err(error) => {
                tracing::debug!(%error, "no agent; using the datastore directly");
                let backend = open_backend(conf).map_err(store_error)?;
                Ok(Self { runtime, backend, agent: None })
            }
        }
    }

    /// The connection to the agent, when there is one.
    pub fn agent(&self) -> Option<&AgentStore> {
        self.agent.as_deref()
    }

    /// The bytes underneath.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// Waits for `future`.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// One object with its revision; `None` when it is not there.
    pub fn get(&self, key: &Key) -> Result<Option<(Value, u64)>, CniError> {
        let path = key.path();
        let Some(entry) = self.block_on(self.backend.get(&path)).map_err(store_error)? else {
            return Ok(None);
        };
        let value = Value::from_json(key, &entry.value).map_err(|e| {
            CniError::generic(format!("stored object {path} cannot be read")).details(e.to_string())
        })?;
        Ok(Some((value, entry.revision)))
    }

    /// Writes one object; returns the revision of the write.
    pub fn put(&self, key: &Key, value: &Value, expect: Expect) -> Result<u64, StoreError> {
        let write = RawWrite::put(key.path(), expect, value.to_json());
        Ok(self.block_on(self.backend.txn(vec![write]))?.revision)
    }

    /// Deletes one object.
    pub fn delete(&self, key: &Key, expect: Expect) -> Result<(), StoreError> {
        self.block_on(self.backend.txn(vec![RawWrite::delete(key.path(), expect)]))?;
        Ok(())
    }
}

fn open_backend(conf: &NetConf) -> Result<Arc<dyn Backend>, StoreError> {
    let settings = conf.datastore_settings();
    let lookup = |name: &str| settings.get(name).cloned().or_else(|| std::env::var(name).ok());
    match DatastoreConfig::from_environment(lookup)? {
        DatastoreConfig::Sqlite { path } => open_sqlite(&path),
        other => Err(StoreError::Config {
            name: "datastore_type".to_owned(),
            reason: format!("this plugin reaches {other:?} through the node's agent only; start calico-node"),
        }),
    }
}

fn open_sqlite(path: &Path) -> Result<Arc<dyn Backend>, StoreError> {
    Ok(Arc::new(SqliteStore::open(SqliteOptions::new(path))?))
}

/// A datastore failure in CNI's words: what may pass is "try again later".
pub fn store_error(error: StoreError) -> CniError {
    let class = if error.is_retryable() || error.is_conflict() { code::TRY_AGAIN_LATER } else { code::GENERIC };
    CniError::new(class, error.to_string())
}
