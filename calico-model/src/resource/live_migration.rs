//! Live migrations of virtual machines.

use crate::shape::object;

object! {
    /// Spec of a `LiveMigration`.
    pub struct LiveMigrationSpec {
        /// What moves.
        source: Option<LiveMigrationSource> = "source",
        /// Where it moves.
        target: Option<LiveMigrationTarget> = "target",
    }

    /// What moves: one of the two.
    pub struct LiveMigrationSource {
        /// A workload with all its endpoints.
        workload: Option<WorkloadIdentifier> = "workload",
        /// One endpoint.
        workload_endpoint: Option<WorkloadEndpointIdentifier> = "workloadEndpoint",
    }

    /// Where it moves: one of the two.
    pub struct LiveMigrationTarget {
        /// Selects the target endpoints.
        selector: Option<String> = "selector",
        /// One endpoint.
        workload_endpoint: Option<WorkloadEndpointIdentifier> = "workloadEndpoint",
    }

    /// A workload.
    pub struct WorkloadIdentifier {
        /// Node.
        hostname: String = "hostname",
        /// Orchestrator.
        orchestrator_id: String = "orchestratorID",
        /// Workload.
        workload_id: String = "workloadID",
    }

    /// An endpoint of a workload.
    pub struct WorkloadEndpointIdentifier {
        /// Node.
        hostname: String = "hostname",
        /// Orchestrator.
        orchestrator_id: String = "orchestratorID",
        /// Workload.
        workload_id: String = "workloadID",
        /// Endpoint.
        endpoint_id: String = "endpointID",
    }
}
