//! Named sets of networks.

use crate::shape::object;

object! {
    /// Spec of a `NetworkSet`: networks that the selectors of its namespace can name by label.
    pub struct NetworkSetSpec {
        /// CIDRs or bare addresses.
        nets: Vec<String> = "nets",
    }

    /// Spec of a `GlobalNetworkSet`: networks that every policy can name by label.
    pub struct GlobalNetworkSetSpec {
        /// CIDRs or bare addresses.
        nets: Vec<String> = "nets",
    }
}
