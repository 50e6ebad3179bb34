//! What the agent knows of the kernel's state, endpoint by endpoint: the answer to "may the pod start?".

use std::collections::BTreeMap;

use calico_policy::changes::WorkloadEndpointId;

/// State of one workload endpoint in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointState {
    /// Policy and routes are in force.
    Up,
    /// Not yet or no longer, and why.
    Down(String),
    /// The kernel refused something; the endpoint is closed, and it is tried again.
    Error(String),
}

/// The endpoints of this node as of a datastore revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointTable {
    /// Every datastore change up to here is in the kernel.
    pub revision: u64,
    /// State of each endpoint.
    pub endpoints: BTreeMap<WorkloadEndpointId, EndpointState>,
}

/// Whether an endpoint is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Programmed {
    /// It is.
    Yes,
    /// The kernel does not take it, with its words.
    Refused(String),
    /// It may still come, and what is missing.
    NotYet(String),
}

impl EndpointTable {
    /// Whether `id`, as it is at datastore revision `revision` or later, is in force.
    ///
    /// ```
    /// use calico_bins::node::endpoints::{EndpointState, EndpointTable, Programmed};
    /// use calico_policy::changes::WorkloadEndpointId;
    /// let id = WorkloadEndpointId { orchestrator: "k8s".into(), workload: "a/b".into(), endpoint: "eth0".into() };
    /// let mut table = EndpointTable { revision: 7, ..Default::default() };
    /// table.endpoints.insert(id.clone(), EndpointState::Up);
    /// assert_eq!(table.programmed(&id, 7), Programmed::Yes);
    /// // What is in force may be an older form of the endpoint.
    /// assert!(matches!(table.programmed(&id, 8), Programmed::NotYet(_)));
    /// ```
    pub fn programmed(&self, id: &WorkloadEndpointId, revision: u64) -> Programmed {
        if self.revision < revision {
            return Programmed::NotYet(format!(
                "the agent has applied the datastore up to revision {}, not {revision} yet",
                self.revision
            ));
        }
        match self.endpoints.get(id) {
            Some(EndpointState::Up) => Programmed::Yes,
            Some(EndpointState::Down(why)) => Programmed::NotYet(why.clone()),
            Some(EndpointState::Error(why)) => Programmed::Refused(why.clone()),
            None => Programmed::NotYet("the agent does not know the endpoint".to_owned()),
        }
    }

    /// Number of endpoints that are up.
    pub fn up(&self) -> usize {
        self.endpoints.values().filter(|state| **state == EndpointState::Up).count()
    }
}
