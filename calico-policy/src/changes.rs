//! What the graph tells a dataplane: one [`Changes`] per flush.
//!
//! The fields are listed in the order that is safe to apply: everything referenced comes before its
//! referrer, everything removed after. A key never appears both as updated and as removed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::ir::{Direction, Member, Policy, PolicyId, Profile, SetId, SetKind};

/// Everything that changed since the last flush.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// The effective agent configuration, when it changed: Felix parameter name to value text.
    pub config: Option<Arc<BTreeMap<String, String>>>,
    /// New sets with their whole membership.
    pub sets: Vec<SetUpdate>,
    /// Membership deltas of sets sent before.
    pub set_deltas: Vec<SetDelta>,
    /// New or changed policies.
    pub policies: Vec<Arc<Policy>>,
    /// New or changed profiles.
    pub profiles: Vec<Arc<Profile>>,
    /// New or changed workload endpoints of this node.
    pub workload_endpoints: Vec<Arc<WorkloadEndpoint>>,
    /// New or changed host endpoints of this node.
    pub host_endpoints: Vec<Arc<HostEndpoint>>,
    /// Workload endpoints that are gone.
    pub removed_workload_endpoints: Vec<WorkloadEndpointId>,
    /// Host endpoints that are gone, by name.
    pub removed_host_endpoints: Vec<Arc<str>>,
    /// Profiles no longer used.
    pub removed_profiles: Vec<Arc<str>>,
    /// Policies no longer used.
    pub removed_policies: Vec<PolicyId>,
    /// Sets no longer used.
    pub removed_sets: Vec<SetId>,
    /// Routes that are gone.
    pub removed_routes: Vec<IpNet>,
    /// Tunnel endpoints that are gone, by node name.
    pub removed_vteps: Vec<Arc<str>>,
    /// New or changed tunnel endpoints.
    pub vteps: Vec<Vtep>,
    /// New or changed routes.
    pub routes: Vec<Route>,
    /// Nodes that are gone.
    pub removed_hosts: Vec<Arc<str>>,
    /// New or changed nodes.
    pub hosts: Vec<HostMetadata>,
    /// Pools that are gone, by CIDR.
    pub removed_pools: Vec<IpNet>,
    /// New or changed pools.
    pub pools: Vec<Pool>,
    /// Which encapsulations any pool needs, when that changed.
    pub encapsulation: Option<Encapsulation>,
    /// WireGuard peers that are gone, by node name.
    pub removed_wireguard: Vec<Arc<str>>,
    /// New or changed WireGuard peers, this node included.
    pub wireguard: Vec<WireguardPeer>,
    /// Service address ranges from the default BGPConfiguration, when they changed.
    pub service_cidrs: Option<Arc<ServiceCidrs>>,
    /// Every input that is applied in its fail-closed form and why, when that list changed. Sorted.
    pub problems: Option<Arc<[Problem]>>,
}

impl Changes {
    /// True when there is nothing to apply.
    ///
    /// ```
    /// assert!(calico_policy::Changes::default().is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// An object that was accepted by the store but cannot be enforced as written. What is enforced instead
/// never permits more than the object could have meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Problem {
    /// The object, as `Kind/namespace/name` or `Kind/name`.
    pub object: Arc<str>,
    /// Field path inside the object, for example `spec.ingress[2].source.selector`.
    pub field: String,
    /// What is wrong and what is done instead.
    pub reason: String,
}

/// A set with its whole membership; it replaces whatever a set of that id held before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetUpdate {
    /// Identity.
    pub id: SetId,
    /// What the members are.
    pub kind: SetKind,
    /// All members, sorted.
    pub members: Vec<Member>,
}

/// Members that came to or left a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetDelta {
    /// Identity.
    pub id: SetId,
    /// Members that came, sorted.
    pub added: Vec<Member>,
    /// Members that left, sorted.
    pub removed: Vec<Member>,
}

/// Identity of a workload endpoint on this node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadEndpointId {
    /// Orchestrator, `k8s` or `cni`.
    pub orchestrator: Arc<str>,
    /// Workload, `namespace/pod` for Kubernetes.
    pub workload: Arc<str>,
    /// Endpoint, usually `eth0`.
    pub endpoint: Arc<str>,
}

/// What happens at the end of a tier that had policies but no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DefaultAction {
    /// Drop.
    Deny,
    /// Go on with the next tier.
    Pass,
}

/// The policies of one tier that apply to an endpoint, in evaluation order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TierPolicies {
    /// Tier name.
    pub tier: Arc<str>,
    /// End-of-tier behaviour.
    pub default_action: DefaultAction,
    /// Policies that govern ingress; staged ones included. Endpoints with equal lists share them.
    pub ingress: Arc<[PolicyId]>,
    /// Policies that govern egress; staged ones included. Endpoints with equal lists share them.
    pub egress: Arc<[PolicyId]>,
}

impl TierPolicies {
    /// The policies that govern `direction`.
    pub fn policies(&self, direction: Direction) -> &[PolicyId] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// A workload endpoint of this node with the policy that applies to it.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkloadEndpoint {
    /// Identity.
    pub id: WorkloadEndpointId,
    /// Host-side interface, `cali…`.
    pub interface: Arc<str>,
    /// False: all its traffic is dropped.
    pub active: bool,
    /// MAC address of the workload side.
    pub mac: Option<[u8; 6]>,
    /// Its addresses as /32 and /128.
    pub nets: Vec<IpNet>,
    /// Floating addresses: (external, internal).
    pub nat: Vec<(IpAddr, IpAddr)>,
    /// Source prefixes it may use besides its own addresses.
    pub allowed_source_prefixes: Vec<IpNet>,
    /// Tiers with at least one matching policy, in order; shared between endpoints with equal policy.
    pub tiers: Arc<[TierPolicies]>,
    /// Profiles in order.
    pub profiles: Arc<[Arc<str>]>,
    /// Traffic shaping and limits.
    pub qos: QosControls,
}

/// Traffic shaping and limits of a workload endpoint; 0 means no limit. Ingress is towards the workload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QosControls {
    /// Bits per second towards the workload.
    pub ingress_bandwidth: u64,
    /// Bits per second from the workload.
    pub egress_bandwidth: u64,
    /// Burst towards the workload, bits.
    pub ingress_burst: u64,
    /// Burst from the workload, bits.
    pub egress_burst: u64,
    /// Peak rate towards the workload, bits per second.
    pub ingress_peakrate: u64,
    /// Peak rate from the workload, bits per second.
    pub egress_peakrate: u64,
    /// Burst at the peak rate towards the workload, bytes.
    pub ingress_minburst: u64,
    /// Burst at the peak rate from the workload, bytes.
    pub egress_minburst: u64,
    /// Packets per second towards the workload.
    pub ingress_packet_rate: u64,
    /// Packets per second from the workload.
    pub egress_packet_rate: u64,
    /// Burst of packets towards the workload.
    pub ingress_packet_burst: u64,
    /// Burst of packets from the workload.
    pub egress_packet_burst: u64,
    /// Concurrent connections towards the workload.
    pub ingress_max_connections: u64,
    /// Concurrent connections from the workload.
    pub egress_max_connections: u64,
    /// DSCP value written on traffic that leaves the cluster.
    pub dscp: Option<u8>,
}

/// A host endpoint of this node with the policy that applies to it.
#[derive(Debug, Clone, PartialEq)]
pub struct HostEndpoint {
    /// Resource name.
    pub name: Arc<str>,
    /// Interface name, `*` for all, empty when matched by address.
    pub interface: Arc<str>,
    /// Addresses that identify its interface.
    pub expected_ips: Vec<IpAddr>,
    /// Policy of traffic that ends or starts at the host.
    pub normal: Arc<[TierPolicies]>,
    /// Policy of traffic forwarded through the interface.
    pub forward: Arc<[TierPolicies]>,
    /// `doNotTrack` policy.
    pub untracked: Arc<[TierPolicies]>,
    /// `preDNAT` policy (ingress only).
    pub pre_dnat: Arc<[TierPolicies]>,
    /// Profiles in order.
    pub profiles: Arc<[Arc<str>]>,
    /// DSCP value written on traffic that leaves the cluster.
    pub dscp: Option<u8>,
}

/// How packets to a route's destination travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tunnel {
    /// No encapsulation.
    None,
    /// IP in IP.
    IpIp,
    /// VXLAN.
    Vxlan,
    /// WireGuard.
    WireGuard,
}

/// What a route leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// A workload or block of this node.
    LocalWorkload,
    /// A workload or block of another node.
    RemoteWorkload,
    /// An address of this node.
    LocalHost,
    /// An address of another node.
    RemoteHost,
    /// A tunnel address of this node.
    LocalTunnel,
    /// A tunnel address of another node.
    RemoteTunnel,
    /// A pool, shown so that consumers know its properties.
    Pool,
}

/// One entry of the layer-3 routing picture (`policy.md` §7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination, masked.
    pub dst: IpNet,
    /// What it leads to.
    pub kind: RouteKind,
    /// Node that hosts the destination.
    pub node: Option<Arc<str>>,
    /// Address of that node in the destination's family.
    pub node_ip: Option<IpAddr>,
    /// True when that node is on this node's subnet.
    pub same_subnet: bool,
    /// Encapsulation that the pool demands for this route, cross-subnet already decided.
    pub tunnel: Tunnel,
    /// True when the pool masquerades outgoing traffic.
    pub nat_outgoing: bool,
    /// True for a /32 or /128 borrowed from another node's block.
    pub borrowed: bool,
}

/// A VXLAN tunnel endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vtep {
    /// Node name.
    pub node: Arc<str>,
    /// MAC of its tunnel device.
    pub mac: [u8; 6],
    /// Tunnel address.
    pub addr: IpAddr,
    /// Underlay address.
    pub parent: IpAddr,
}

/// Addresses of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostMetadata {
    /// Node name.
    pub name: Arc<str>,
    /// BGP IPv4 address.
    pub ipv4: Option<IpAddr>,
    /// BGP IPv6 address.
    pub ipv6: Option<IpAddr>,
    /// AS number, when the node has its own.
    pub as_number: Option<u32>,
}

/// A node as WireGuard peer; at least one family is present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireguardPeer {
    /// Node name.
    pub node: Arc<str>,
    /// IPv4: base64 public key.
    pub public_key: Option<Arc<str>>,
    /// IPv4: address of the WireGuard interface.
    pub addr: Option<IpAddr>,
    /// IPv6: base64 public key.
    pub public_key_v6: Option<Arc<str>>,
    /// IPv6: address of the WireGuard interface.
    pub addr_v6: Option<IpAddr>,
}

/// Address ranges of Services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceCidrs {
    /// ClusterIP ranges, sorted.
    pub cluster: Vec<IpNet>,
    /// External IP ranges, sorted.
    pub external: Vec<IpNet>,
    /// LoadBalancer IP ranges, sorted.
    pub load_balancer: Vec<IpNet>,
}

/// A pool as the dataplane needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// CIDR, masked.
    pub cidr: IpNet,
    /// Masquerade traffic that leaves the pools.
    pub nat_outgoing: bool,
    /// Only LoadBalancer addresses come from it.
    pub load_balancer_only: bool,
    /// When IPIP is used.
    pub ipip: EncapMode,
    /// When VXLAN is used.
    pub vxlan: EncapMode,
}

/// When a pool's traffic is encapsulated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EncapMode {
    /// Never.
    #[default]
    Never,
    /// Between any two nodes.
    Always,
    /// Between nodes of different subnets.
    CrossSubnet,
}

/// Which encapsulations are in use anywhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Encapsulation {
    /// Some pool uses IPIP.
    pub ipip: bool,
    /// Some IPv4 pool uses VXLAN.
    pub vxlan: bool,
    /// Some IPv6 pool uses VXLAN.
    pub vxlan_v6: bool,
    /// Some pool uses none and the agent programs the routes of such pools.
    pub no_encap: bool,
}
