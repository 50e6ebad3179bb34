//! IP pools and reservations.

use crate::resource::tier::Condition;
use crate::shape::{object, text_enum};

text_enum! {
    /// When traffic between nodes is encapsulated.
    pub enum EncapMode {
        /// Never.
        Never = "Never",
        /// Always.
        Always = "Always",
        /// Only between nodes of different subnets.
        CrossSubnet = "CrossSubnet",
    }

    /// What addresses of a pool are for.
    pub enum AllowedUse {
        /// Workloads (pods).
        Workload = "Workload",
        /// Tunnel addresses of nodes.
        Tunnel = "Tunnel",
        /// Addresses of services of type LoadBalancer.
        LoadBalancer = "LoadBalancer",
    }

    /// Whether a pool serves requests that do not name it.
    pub enum AssignmentMode {
        /// Yes.
        Automatic = "Automatic",
        /// Only requests that name the pool.
        Manual = "Manual",
    }
}

object! {
    /// Spec of an `IPPool`.
    pub struct IPPoolSpec {
        /// Network of the pool; required, immutable.
        cidr: String = "cidr",
        /// VXLAN mode; unset means `Never`.
        vxlan_mode: EncapMode = "vxlanMode",
        /// IP-in-IP mode; unset means `Never`. Excludes VXLAN.
        ipip_mode: EncapMode = "ipipMode",
        /// Masquerade traffic from the pool to addresses outside all pools.
        nat_outgoing: bool = "natOutgoing",
        /// Assign no more addresses from the pool.
        disabled: bool = "disabled",
        /// Do not advertise the pool over BGP.
        disable_bgp_export: bool = "disableBGPExport",
        /// Prefix length of blocks; 0 means 26 (IPv4) or 122 (IPv6). Immutable.
        block_size: i32 = "blockSize",
        /// Selects nodes that take addresses from the pool; empty means `all()`.
        node_selector: String = "nodeSelector",
        /// Selects namespaces whose pods take addresses from the pool.
        namespace_selector: String = "namespaceSelector",
        /// Uses; empty means workloads and tunnels.
        allowed_uses: Vec<AllowedUse> = "allowedUses",
        /// Whether requests must name the pool; unset means `Automatic`.
        assignment_mode: AssignmentMode = "assignmentMode",
    }

    /// Status of an `IPPool`.
    pub struct IPPoolStatus {
        /// Conditions; `Allocatable` false keeps the pool out of allocation.
        conditions: Vec<Condition> = "conditions",
    }

    /// Spec of an `IPReservation`: addresses that are never assigned automatically.
    pub struct IPReservationSpec {
        /// The reserved networks.
        reserved_cidrs: Vec<String> = "reservedCIDRs",
    }
}
