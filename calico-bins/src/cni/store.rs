//! The datastore as a plugin sees it: blocking, and through the agent when there is one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use calico_datastore::config::DatastoreConfig;
use calico_datastore::{Blocking, Role, Store, StoreError};
use calico_policy::changes::WorkloadEndpointId;

use super::conf::NetConf;
use super::error::{CniError, code};
use crate::node::protocol::{Client, Request, Response, SOCKET_VARIABLE, socket_path};
use crate::node::store::AgentStore;

/// Longest time that one request to the agent may take.
const AGENT_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection to the datastore.
#[derive(Debug)]
pub struct Connection {
    /// The datastore.
    pub store: Blocking,
    /// The agent's socket, when the agent answered on it.
    agent: Option<PathBuf>,
}

impl Connection {
    /// Connects: to the agent when it answers, else to the datastore itself.
    pub fn open(conf: &NetConf) -> Result<Self, CniError> {
        let socket = socket_path(Some(&conf.agent_socket), std::env::var(SOCKET_VARIABLE).ok().as_deref());
        match AgentStore::connect(&socket, AGENT_TIMEOUT) {
            Ok(agent) => Ok(Self { store: Blocking::new(Arc::new(Store::new(agent))), agent: Some(socket) }),
            Err(error) => {
                tracing::debug!(%error, "no agent; using the datastore directly");
                let settings = conf.datastore_settings();
                let lookup = |name: &str| settings.get(name).cloned().or_else(|| std::env::var(name).ok());
                let store = DatastoreConfig::from_environment(lookup)
                    .and_then(|config| Blocking::open(&config, Role::Tool))
                    .map_err(store_error)?;
                Ok(Self { store, agent: None })
            }
        }
    }

    /// Whether the agent of this node answers.
    pub fn has_agent(&self) -> bool {
        self.agent.is_some()
    }

    /// Waits until the agent says that the policy of `id`, as of datastore revision `revision`, is in the
    /// kernel. `Ok(false)`: there is no agent to ask.
    pub fn wait_until_programmed(
        &self,
        id: &WorkloadEndpointId,
        revision: u64,
        timeout: Duration,
    ) -> Result<bool, CniError> {
        let Some(socket) = &self.agent else { return Ok(false) };
        let request = Request::WaitEndpoint {
            orchestrator: id.orchestrator.to_string(),
            workload: id.workload.to_string(),
            endpoint: id.endpoint.to_string(),
            timeout_ms: timeout.as_millis().try_into().unwrap_or(u64::MAX),
            revision,
        };
        let answer =
            Client::connect(socket).and_then(|mut agent| agent.ask(&request, timeout + AGENT_TIMEOUT));
        match answer {
            Ok(Response::Endpoint { programmed: true, .. }) => Ok(true),
            Ok(Response::Endpoint { reason, .. }) => Err(CniError::new(
                code::TRY_AGAIN_LATER,
                format!("the policy of {} is not in force after {timeout:?}", id.workload),
            )
            .details(reason)),
            Ok(Response::Error(failure)) => Err(CniError::generic(failure.message)),
            Ok(_) => Err(CniError::generic("the agent answered another question")),
            Err(error) => Err(CniError::new(code::TRY_AGAIN_LATER, error.to_string())),
        }
    }
}

/// A datastore failure in CNI's words: what may pass is "try again later".
pub fn store_error(error: StoreError) -> CniError {
    let class =
        if error.is_retryable() || error.is_conflict() { code::TRY_AGAIN_LATER } else { code::GENERIC };
    CniError::new(class, error.to_string())
}
