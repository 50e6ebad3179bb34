//! Facts about the cluster.

use crate::shape::object;

object! {
    /// Spec of the `ClusterInformation` named `default`.
    pub struct ClusterInformationSpec {
        /// Random id of the cluster, 32 hexadecimal digits.
        cluster_guid: String = "clusterGUID",
        /// Kinds of the cluster, comma-separated, for example `k8s,bgp,kdd`.
        cluster_type: String = "clusterType",
        /// Version of Calico that wrote the datastore.
        calico_version: String = "calicoVersion",
        /// False makes every program wait.
        datastore_ready: Option<bool> = "datastoreReady",
        /// Product variant.
        variant: String = "variant",
    }
}
