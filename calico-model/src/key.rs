//! Keys: the name of any object in any store, and its path.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::Kind;
use crate::shape::text_enum;

/// Prefix of the paths of resources.
pub const RESOURCE_PREFIX: &str = "/calico/resources/v3/projectcalico.org/";
/// Prefix of the paths of raw Kubernetes objects (embedded store only).
pub const KUBERNETES_PREFIX: &str = "/registry/";
/// Prefix of the paths of IPAM data.
pub const IPAM_PREFIX: &str = "/calico/ipam/v2/";

/// Names any object in any store.
///
/// ```
/// use calico_model::{Key, Kind};
/// let key = Key::resource(Kind::NetworkPolicy, "prod", "allow-dns");
/// assert_eq!(key.path(), "/calico/resources/v3/projectcalico.org/networkpolicies/prod/allow-dns");
/// assert_eq!(Key::parse(&key.path()), Ok(key));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Key {
    /// A resource of this model.
    Resource(ResourceKey),
    /// A Kubernetes object as it is.
    Kubernetes(KubernetesKey),
    /// A block of addresses.
    Block(BlockKey),
    /// A claim on a block.
    BlockAffinity(BlockAffinityKey),
    /// Addresses of one owner.
    IpamHandle(IpamHandleKey),
    /// Settings of address management.
    IpamConfig,
    /// Marks a host that IPAM knows.
    IpamHost(IpamHostKey),
    /// True when programs may work with the datastore.
    ReadyFlag,
    /// One Felix parameter for all nodes.
    GlobalConfig {
        /// Parameter.
        name: String,
    },
    /// One Felix parameter of a node.
    HostConfig {
        /// Node.
        host: String,
        /// Parameter.
        name: String,
    },
    /// Marks a node that Felix serves.
    HostMetadata {
        /// Node.
        host: String,
    },
    /// WireGuard keys and addresses of a node.
    Wireguard {
        /// Node.
        host: String,
    },
    /// Names of a node in orchestrators.
    OrchRef {
        /// Node.
        host: String,
    },
    /// A workload endpoint in the form that dataplanes read.
    WorkloadEndpoint(WorkloadEndpointKey),
    /// A host endpoint in the form that dataplanes read.
    HostEndpoint {
        /// Node.
        host: String,
        /// Endpoint.
        name: String,
    },
    /// A network set in the form that dataplanes read; `ns/name` for namespaced ones.
    NetworkSet {
        /// Name.
        name: String,
    },
    /// A policy in the form that dataplanes read.
    Policy {
        /// Kind.
        kind: Kind,
        /// Namespace; empty for global kinds.
        namespace: String,
        /// Name.
        name: String,
    },
    /// A policy as old versions stored it.
    LegacyPolicy {
        /// Tier.
        tier: String,
        /// Name.
        name: String,
    },
    /// A tier in the form that dataplanes read.
    Tier {
        /// Name.
        name: String,
    },
    /// Rules of a profile in the form that dataplanes read.
    ProfileRules {
        /// Profile.
        name: String,
    },
    /// Labels of a profile in the form that dataplanes read.
    ProfileLabels {
        /// Profile.
        name: String,
    },
    /// A pool in the form that dataplanes read.
    IpPool {
        /// Network, masked.
        cidr: IpNet,
    },
    /// One BGP setting of a node.
    NodeBgpConfig {
        /// Node.
        node: String,
        /// Setting.
        name: String,
    },
    /// One BGP setting of all nodes.
    GlobalBgpConfig {
        /// Setting.
        name: String,
    },
    /// A BGP peer of a node, as old versions stored it.
    NodeBgpPeer {
        /// Node.
        node: String,
        /// Address of the peer.
        ip: IpAddr,
        /// TCP port of the peer.
        port: u16,
    },
    /// A BGP peer of all nodes, as old versions stored it.
    GlobalBgpPeer {
        /// Address of the peer.
        ip: IpAddr,
        /// TCP port of the peer.
        port: u16,
    },
    /// Sign of life of a Felix, gone when it stops.
    ActiveStatusReport {
        /// Region, `no-region` or `region-…`.
        region: String,
        /// Node.
        host: String,
    },
    /// Last sign of life of a Felix.
    LastStatusReport {
        /// Region.
        region: String,
        /// Node.
        host: String,
    },
    /// Whether a workload endpoint is up.
    WorkloadEndpointStatus {
        /// Region.
        region: String,
        /// The endpoint.
        endpoint: WorkloadEndpointKey,
    },
    /// Whether a host endpoint is up.
    HostEndpointStatus {
        /// Node.
        host: String,
        /// Endpoint.
        name: String,
    },
}

/// Key of a resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceKey {
    /// Kind.
    pub kind: Kind,
    /// Namespace; empty for kinds of cluster scope.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// Kinds of raw Kubernetes objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KubernetesKind {
    /// A namespace.
    Namespace,
    /// A service account.
    ServiceAccount,
    /// A pod.
    Pod,
    /// A network policy.
    NetworkPolicy,
    /// A cluster network policy.
    ClusterNetworkPolicy,
    /// A node.
    Node,
    /// A service.
    Service,
    /// Endpoints of a service.
    EndpointSlice,
}

impl KubernetesKind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Namespace,
        Self::ServiceAccount,
        Self::Pod,
        Self::NetworkPolicy,
        Self::ClusterNetworkPolicy,
        Self::Node,
        Self::Service,
        Self::EndpointSlice,
    ];

    /// Name of the kind.
    pub fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::ServiceAccount => "ServiceAccount",
            Self::Pod => "Pod",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::Node => "Node",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
        }
    }

    /// Plural, as in paths.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Namespace => "namespaces",
            Self::ServiceAccount => "serviceaccounts",
            Self::Pod => "pods",
            Self::NetworkPolicy => "networkpolicies",
            Self::ClusterNetworkPolicy => "clusternetworkpolicies",
            Self::Node => "nodes",
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices",
        }
    }

    /// API version of the kind.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::ClusterNetworkPolicy => "policy.networking.k8s.io/v1alpha2",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            _ => "v1",
        }
    }

    /// True when objects live in namespaces.
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node | Self::ClusterNetworkPolicy)
    }

    /// The kind of an object by its `apiVersion` and `kind`.
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.name() == kind && k.api_version() == api_version)
    }
}

/// Key of a raw Kubernetes object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KubernetesKey {
    /// Kind.
    pub kind: KubernetesKind,
    /// Namespace; empty for kinds of cluster scope.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// Key of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockKey {
    /// Network of the block, masked.
    pub cidr: IpNet,
}

/// What owns a block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AffinityType {
    /// A node.
    #[default]
    Host,
    /// Something that is no node, for example the load-balancer controller.
    Virtual,
}

impl AffinityType {
    /// The text in paths and affinities.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Virtual => "virtual",
        }
    }
}

impl fmt::Display for AffinityType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Key of a claim on a block.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockAffinityKey {
    /// What owns the block.
    pub owner_type: AffinityType,
    /// Name of the owner.
    pub host: String,
    /// Network of the block, masked.
    pub cidr: IpNet,
}

/// Key of a handle.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpamHandleKey {
    /// The handle.
    pub handle_id: String,
}

/// Key of the IPAM mark of a host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpamHostKey {
    /// The host.
    pub host: String,
}

/// Identity of a workload endpoint in the form that dataplanes read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadEndpointKey {
    /// Node.
    pub host: String,
    /// Orchestrator.
    pub orchestrator: String,
    /// Workload; `ns/pod` on Kubernetes.
    pub workload: String,
    /// Endpoint.
    pub endpoint: String,
}

text_enum! {
    /// IP version as it stands in paths.
    pub enum PathFamily {
        /// IPv4.
        V4 = "ipv4",
        /// IPv6.
        V6 = "ipv6",
    }
}

impl Key {
    /// Key of a resource; `namespace` is empty for kinds of cluster scope.
    pub fn resource(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self::Resource(ResourceKey { kind, namespace: namespace.into(), name: name.into() })
    }

    /// Key of a raw Kubernetes object.
    pub fn kubernetes(kind: KubernetesKind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self::Kubernetes(KubernetesKey { kind, namespace: namespace.into(), name: name.into() })
    }

    /// Key of a block; the network is masked.
    pub fn block(cidr: IpNet) -> Self {
        Self::Block(BlockKey { cidr: cidr.trunc() })
    }

    /// Key of a claim of a host on a block; the network is masked.
    pub fn affinity(owner_type: AffinityType, host: impl Into<String>, cidr: IpNet) -> Self {
        Self::BlockAffinity(BlockAffinityKey { owner_type, host: host.into(), cidr: cidr.trunc() })
    }

    /// Key of a handle.
    pub fn handle(handle_id: impl Into<String>) -> Self {
        Self::IpamHandle(IpamHandleKey { handle_id: handle_id.into() })
    }

    /// The resource key, if it is one.
    pub fn as_resource(&self) -> Option<&ResourceKey> {
        match self {
            Self::Resource(r) => Some(r),
            _ => None,
        }
    }

    /// The path, which is the etcd key and the key on the wire of the fan-out.
    pub fn path(&self) -> String {
        match self {
            Self::Resource(ResourceKey { kind, namespace, name }) => {
                let plural = kind.plural();
                if kind.is_namespaced() {
                    format!("{RESOURCE_PREFIX}{plural}/{namespace}/{name}")
                } else {
                    format!("{RESOURCE_PREFIX}{plural}/{name}")
                }
            }
            Self::Kubernetes(KubernetesKey { kind, namespace, name }) => {
                let plural = kind.plural();
                if kind.is_namespaced() {
                    format!("{KUBERNETES_PREFIX}{plural}/{namespace}/{name}")
                } else {
                    format!("{KUBERNETES_PREFIX}{plural}/{name}")
                }
            }
            Self::Block(BlockKey { cidr }) => {
                format!("{IPAM_PREFIX}assignment/{}/block/{}", family(cidr), dashed(cidr))
            }
            Self::BlockAffinity(BlockAffinityKey { owner_type, host, cidr }) => {
                format!("{IPAM_PREFIX}{owner_type}/{host}/{}/block/{}", family(cidr), dashed(cidr))
            }
            Self::IpamHandle(IpamHandleKey { handle_id }) => format!("{IPAM_PREFIX}handle/{handle_id}"),
            Self::IpamConfig => format!("{IPAM_PREFIX}config"),
            Self::IpamHost(IpamHostKey { host }) => format!("{IPAM_PREFIX}host/{host}"),
            Self::ReadyFlag => "/calico/v1/Ready".to_owned(),
            Self::GlobalConfig { name } => format!("/calico/v1/config/{name}"),
            Self::HostConfig { host, name } => format!("/calico/v1/host/{host}/config/{name}"),
            Self::HostMetadata { host } => format!("/calico/v1/host/{host}/metadata"),
            Self::Wireguard { host } => format!("/calico/v1/host/{host}/wireguard"),
            Self::OrchRef { host } => format!("/calico/v1/host/{host}/orchestrator_refs"),
            Self::WorkloadEndpoint(w) => format!("/calico/v1/host/{}/workload/{}", w.host, w.tail()),
            Self::HostEndpoint { host, name } => format!("/calico/v1/host/{host}/endpoint/{}", escape(name)),
            Self::NetworkSet { name } => format!("/calico/v1/netset/{}", escape(name)),
            Self::Policy { kind, namespace, name } => format!("/calico/v1/policy/{kind}/{namespace}/{name}"),
            Self::LegacyPolicy { tier, name } => {
                format!("/calico/v1/policy/tier/{tier}/policy/{}", escape(name))
            }
            Self::Tier { name } => format!("/calico/v1/policy/tier/{name}/metadata"),
            Self::ProfileRules { name } => format!("/calico/v1/policy/profile/{}/rules", escape(name)),
            Self::ProfileLabels { name } => format!("/calico/v1/policy/profile/{}/labels", escape(name)),
            Self::IpPool { cidr } => {
                let v = if cidr.addr().is_ipv4() { 4 } else { 6 };
                format!("/calico/v1/ipam/v{v}/pool/{}", dashed(cidr))
            }
            Self::NodeBgpConfig { node, name } => format!("/calico/bgp/v1/host/{node}/{name}"),
            Self::GlobalBgpConfig { name } => format!("/calico/bgp/v1/global/{name}"),
            Self::NodeBgpPeer { node, ip, port } => {
                format!("/calico/bgp/v1/host/{node}/{}", peer_tail(ip, *port))
            }
            Self::GlobalBgpPeer { ip, port } => format!("/calico/bgp/v1/global/{}", peer_tail(ip, *port)),
            Self::ActiveStatusReport { region, host } => {
                format!("/calico/felix/v2/{region}/host/{host}/status")
            }
            Self::LastStatusReport { region, host } => {
                format!("/calico/felix/v2/{region}/host/{host}/last_reported_status")
            }
            Self::WorkloadEndpointStatus { region, endpoint } => {
                format!("/calico/felix/v2/{region}/host/{}/workload/{}", endpoint.host, endpoint.tail())
            }
            Self::HostEndpointStatus { host, name } => {
                format!("/calico/felix/v1/host/{host}/endpoint/{}", escape(name))
            }
        }
    }

    /// Prefix of the paths of all resources of a kind, or of those of one namespace.
    pub fn resource_prefix(kind: Kind, namespace: Option<&str>) -> String {
        match namespace {
            Some(ns) if kind.is_namespaced() => format!("{RESOURCE_PREFIX}{}/{ns}/", kind.plural()),
            _ => format!("{RESOURCE_PREFIX}{}/", kind.plural()),
        }
    }

    /// Prefix of the paths of all raw Kubernetes objects of a kind.
    pub fn kubernetes_prefix(kind: KubernetesKind) -> String {
        format!("{KUBERNETES_PREFIX}{}/", kind.plural())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}

impl WorkloadEndpointKey {
    fn tail(&self) -> String {
        let (o, w, e) = (escape(&self.orchestrator), escape(&self.workload), escape(&self.endpoint));
        format!("{o}/{w}/endpoint/{e}")
    }
}

fn family(cidr: &IpNet) -> PathFamily {
    if cidr.addr().is_ipv4() { PathFamily::V4 } else { PathFamily::V6 }
}

/// `10.0.0.64-26`: masked, canonical, dash instead of slash.
fn dashed(cidr: &IpNet) -> String {
    let masked = cidr.trunc();
    format!("{}-{}", masked.addr(), masked.prefix_len())
}

fn peer_tail(ip: &IpAddr, port: u16) -> String {
    let v = if ip.is_ipv4() { 4 } else { 6 };
    match port {
        0 | 179 => format!("peer_v{v}/{ip}"),
        _ => format!("peer_v{v}/{ip}-{port}"),
    }
}

/// `%` becomes `%25`, `/` becomes `%2f`.
pub(crate) fn escape(s: &str) -> String {
    s.replace('%', "%25").replace('/', "%2f")
}

/// Undoes [`escape`].
pub(crate) fn unescape(s: &str) -> String {
    s.replace("%2f", "/").replace("%25", "%")
}
