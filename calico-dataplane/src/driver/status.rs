//! The status of every endpoint, for whoever waits for one.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use calico_policy::changes::WorkloadEndpointId;

use crate::manager::EndpointStatus;

/// What the driver last said about each endpoint. A CNI request waits here until the policy of its pod is in force.
#[derive(Debug, Default)]
pub struct StatusBoard {
    statuses: Mutex<BTreeMap<WorkloadEndpointId, EndpointStatus>>,
    changed: Condvar,
}

impl StatusBoard {
    /// How an endpoint is; `None` when the driver has not heard of it.
    pub fn get(&self, id: &WorkloadEndpointId) -> Option<EndpointStatus> {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// All endpoints.
    pub fn all(&self) -> BTreeMap<WorkloadEndpointId, EndpointStatus> {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until an endpoint is up. After `patience` returns how it is then.
    pub fn wait_until_up(&self, id: &WorkloadEndpointId, patience: Duration) -> Option<EndpointStatus> {
        let deadline = Instant::now() + patience;
        let mut statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let status = statuses.get(id).cloned();
            let left = deadline.saturating_duration_since(Instant::now());
            if status == Some(EndpointStatus::Up) || left.is_zero() {
                return status;
            }
            statuses = self.changed.wait_timeout(statuses, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn record(&self, changes: &[(WorkloadEndpointId, Option<EndpointStatus>)]) {
        if changes.is_empty() {
            return;
        }
        let mut statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, status) in changes {
            match status {
                Some(status) => statuses.insert(id.clone(), status.clone()),
                None => statuses.remove(id),
            };
        }
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn id(workload: &str) -> WorkloadEndpointId {
        WorkloadEndpointId { orchestrator: "k8s".into(), workload: workload.into(), endpoint: "eth0".into() }
    }

    #[test]
    fn waiting_ends_when_the_endpoint_is_up_or_patience_is_over() {
        let board = Arc::new(StatusBoard::default());
        assert_eq!(board.wait_until_up(&id("a"), Duration::ZERO), None);
        let down = EndpointStatus::Down("policy is being programmed".to_owned());
        board.record(&[(id("a"), Some(down.clone()))]);
        assert_eq!(board.wait_until_up(&id("a"), Duration::from_millis(1)), Some(down));
        let waiter = std::thread::spawn({
            let board = board.clone();
            move || board.wait_until_up(&id("a"), Duration::from_secs(20))
        });
        board.record(&[(id("b"), Some(EndpointStatus::Up))]);
        board.record(&[(id("a"), Some(EndpointStatus::Up))]);
        assert_eq!(waiter.join().unwrap(), Some(EndpointStatus::Up));
        board.record(&[(id("a"), None)]);
        assert_eq!(board.all().len(), 1);
    }
}
