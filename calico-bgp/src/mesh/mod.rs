//! From resources to a speaker: what Calico's BGPConfiguration, BGPPeer, BGPFilter, Node, IPPool and service objects
//! mean on one node.
//!
//! [`Mesh`] keeps the resources that [`Mesh::apply`] is fed with; [`Mesh::derive`] turns them into a
//! [`SpeakerConfig`]. The derivation looks at the whole state and is repeatable: the same resources in any order give
//! the same configuration. An object that makes no sense spoils its own part and is named in [`Derived::problems`].
//!
//! ```
//! use calico_bgp::mesh::{Mesh, MeshSettings};
//! use calico_model::{Key, Kind, NodeBgpSpec, NodeSpec, Resource, Update, Value, AnyResource};
//!
//! let mut mesh = Mesh::new(MeshSettings::new("node1"));
//! for (name, address) in [("node1", "10.0.0.1/24"), ("node2", "10.0.0.2/24")] {
//!     let bgp = NodeBgpSpec { ipv4_address: address.into(), ..NodeBgpSpec::default() };
//!     let node = Resource::new(name, NodeSpec { bgp: Some(bgp), ..NodeSpec::default() });
//!     let value = Value::Resource(AnyResource::from(node).into());
//!     mesh.apply(&Update::set(Key::resource(Kind::Node, "", name), value, 1.into()));
//! }
//! let derived = mesh.derive();
//! let config = derived.config.unwrap();
//! assert_eq!(config.router_id.to_string(), "10.0.0.1");
//! assert!(config.peers.contains_key("Mesh_10_0_0_2"));
//! ```

mod derive;
mod extensions;
mod filters;
mod peering;
mod services;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use calico_model::k8s::KubernetesObject;
use calico_model::{
    AffinityType, AnyResource, BGPConfigurationSpec, BGPFilterSpec, BGPPeerSpec, BlockAffinityState,
    IPPoolSpec, Key, Kind, KubernetesKind, Labels, NodeSpec, Update, Value,
};
use ipnet::IpNet;

use crate::config::SpeakerConfig;
use extensions::Extensions;

pub use services::{Exclusion, ServiceCidrs};

/// The AS of a cluster that names none.
pub const DEFAULT_AS: u32 = 64512;

/// Where the router identifier comes from (`CALICO_ROUTER_ID`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RouterId {
    /// The node's IPv4 address.
    #[default]
    NodeAddress,
    /// A digest of the node's name; for nodes without IPv4.
    Hash,
    /// This one.
    Fixed(Ipv4Addr),
}

impl RouterId {
    /// The identifier that a name's digest leads to: the first four octets of its SHA-256, kept out of the multicast
    /// range.
    pub fn hash(name: &str) -> Ipv4Addr {
        use sha2::Digest;
        let digest: [u8; 32] = sha2::Sha256::digest(name.as_bytes()).into();
        let [first, second, third, fourth, ..] = digest;
        let first = if first > 223 { first - 32 } else { first };
        Ipv4Addr::new(first, second, third, fourth)
    }
}

impl std::str::FromStr for RouterId {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" => Ok(RouterId::NodeAddress),
            "hash" => Ok(RouterId::Hash),
            literal => literal.parse().map(RouterId::Fixed),
        }
    }
}

/// What a node is told apart from the datastore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshSettings {
    /// The name of this node.
    pub node: String,
    /// The name of this node in Kubernetes.
    pub kubernetes_node: String,
    /// Where the router identifier comes from.
    pub router_id: RouterId,
    /// Ranges of cluster addresses that replace `serviceClusterIPs` (`CALICO_ADVERTISE_CLUSTER_IPS`).
    pub advertise_cluster_ips: Option<Vec<IpNet>>,
    /// Announce the addresses of local workloads that lie outside of the node's blocks, taken from WorkloadEndpoints.
    pub workload_routes: bool,
}

impl MeshSettings {
    /// The settings of a node that has the same name everywhere.
    pub fn new(node: &str) -> Self {
        MeshSettings {
            node: node.into(),
            kubernetes_node: node.into(),
            router_id: RouterId::NodeAddress,
            advertise_cluster_ips: None,
            workload_routes: true,
        }
    }
}

/// A place in an object that makes no sense, and what was done about it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Kind of the object.
    pub kind: Kind,
    /// Name of the object.
    pub name: String,
    /// Path of the field.
    pub field: String,
    /// What is wrong and what follows.
    pub text: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}: {}", self.kind.name(), self.name, self.field, self.text)
    }
}

/// A key of a Kubernetes secret that holds a password.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretRef {
    /// Name of the secret.
    pub name: String,
    /// Key within it.
    pub key: String,
}

/// What the resources of a node lead to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Derived {
    /// The speaker's configuration; `None` while the node itself is unknown or cannot have a router identifier.
    pub config: Option<SpeakerConfig>,
    /// What makes no sense.
    pub problems: Vec<Problem>,
    /// Interfaces whose prefixes are not taken in as direct routes.
    pub ignored_interfaces: Vec<String>,
    /// Passwords that are needed; hand them in with [`Mesh::set_secret`].
    pub secrets: BTreeSet<SecretRef>,
}

#[derive(Debug, Clone, PartialEq)]
struct NodeInfo {
    spec: NodeSpec,
    labels: Labels,
}

impl NodeInfo {
    fn bgp(&self) -> Option<&calico_model::NodeBgpSpec> {
        self.spec.bgp.as_ref()
    }

    /// Address and subnet of a family.
    fn address_v4(&self) -> Option<(Ipv4Addr, Option<ipnet::Ipv4Net>)> {
        match split_address(&self.bgp()?.ipv4_address)? {
            (IpAddr::V4(address), Some(IpNet::V4(net))) => Some((address, Some(net))),
            (IpAddr::V4(address), _) => Some((address, None)),
            _ => None,
        }
    }

    fn address_v6(&self) -> Option<Ipv6Addr> {
        match split_address(&self.bgp()?.ipv6_address)? {
            (IpAddr::V6(address), _) => Some(address),
            _ => None,
        }
    }

    fn address(&self, family: crate::wire::Family) -> Option<IpAddr> {
        match family {
            crate::wire::Family::Ipv4 => self.address_v4().map(|(address, _)| address.into()),
            crate::wire::Family::Ipv6 => self.address_v6().map(Into::into),
        }
    }

    fn asn(&self) -> Option<u32> {
        self.bgp()?.as_number.map(|number| number.0)
    }

    fn cluster_id(&self) -> Option<Ipv4Addr> {
        self.bgp()?.route_reflector_cluster_id.parse().ok()
    }

    /// A cluster identifier is set, readable or not: the node takes no part in the mesh.
    fn is_reflector(&self) -> bool {
        self.bgp().is_some_and(|bgp| !bgp.route_reflector_cluster_id.is_empty())
    }

    fn has_wireguard(&self, family: crate::wire::Family) -> bool {
        self.spec.wireguard.as_ref().is_some_and(|wireguard| match family {
            crate::wire::Family::Ipv4 => !wireguard.interface_ipv4_address.is_empty(),
            crate::wire::Family::Ipv6 => !wireguard.interface_ipv6_address.is_empty(),
        })
    }
}

/// Address and, when a length is given, network of `1.2.3.4/24` or `1.2.3.4`.
fn split_address(text: &str) -> Option<(IpAddr, Option<IpNet>)> {
    match text.parse::<IpNet>() {
        Ok(net) => Some((net.addr(), Some(net.trunc()))),
        Err(_) => Some((text.parse().ok()?, None)),
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Workload {
    networks: Vec<IpNet>,
    interface: Arc<str>,
    labels: Labels,
    profiles: Vec<String>,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Mesh {
    settings: MeshSettings,
    nodes: BTreeMap<String, NodeInfo>,
    global: Option<BGPConfigurationSpec>,
    own: Option<BGPConfigurationSpec>,
    felix_cluster_routes: Option<String>,
    peers: BTreeMap<String, BGPPeerSpec>,
    /// Annotations of BGPPeers by name, and those of the global BGPConfiguration.
    extensions: BTreeMap<String, Extensions>,
    global_extensions: Extensions,
    filters: BTreeMap<String, BGPFilterSpec>,
    pools: BTreeMap<String, IPPoolSpec>,
    blocks: BTreeMap<IpNet, BlockAffinityState>,
    workloads: BTreeMap<(String, String), Workload>,
    profiles: BTreeMap<String, Labels>,
    services: services::Services,
    kubernetes_labels: Labels,
    secrets: BTreeMap<SecretRef, Result<Arc<[u8]>, Arc<str>>>,
}

impl Mesh {
    /// Knows nothing yet.
    pub fn new(settings: MeshSettings) -> Self {
        Mesh {
            settings,
            nodes: BTreeMap::new(),
            global: None,
            own: None,
            felix_cluster_routes: None,
            peers: BTreeMap::new(),
            extensions: BTreeMap::new(),
            global_extensions: Extensions::default(),
            filters: BTreeMap::new(),
            pools: BTreeMap::new(),
            blocks: BTreeMap::new(),
            workloads: BTreeMap::new(),
            profiles: BTreeMap::new(),
            services: services::Services::default(),
            kubernetes_labels: Labels::new(),
            secrets: BTreeMap::new(),
        }
    }

    /// Takes in a change of the datastore. `true` when [`Mesh::derive`] may now give something else.
    pub fn apply(&mut self, update: &Update) -> bool {
        match &update.key {
            Key::Resource(key) => {
                self.apply_resource(key.kind, &key.namespace, &key.name, update.value.as_ref())
            }
            Key::BlockAffinity(key) => {
                if key.owner_type != AffinityType::Host || key.host != self.settings.node {
                    return false;
                }
                let state = match &update.value {
                    Some(Value::BlockAffinity(value)) if !value.deleted => Some(value.state.clone()),
                    _ => None,
                };
                replace(&mut self.blocks, key.cidr, state)
            }
            Key::Kubernetes(key) => match (key.kind, &update.value) {
                (KubernetesKind::Node, value) if key.name == self.settings.kubernetes_node => {
                    let labels = match value {
                        Some(Value::Kubernetes(object)) => match &**object {
                            KubernetesObject::Node(node) => node.metadata.labels.clone(),
                            _ => Labels::new(),
                        },
                        _ => Labels::new(),
                    };
                    std::mem::replace(&mut self.kubernetes_labels, labels.clone()) != labels
                }
                (KubernetesKind::Service | KubernetesKind::EndpointSlice, value) => {
                    let object = match value {
                        Some(Value::Kubernetes(object)) => Some(&**object),
                        _ => None,
                    };
                    self.services.apply(key, object)
                }
                _ => false,
            },
            _ => false,
        }
    }

    fn apply_resource(&mut self, kind: Kind, namespace: &str, name: &str, value: Option<&Value>) -> bool {
        let resource = match value {
            Some(Value::Resource(resource)) => Some(&**resource),
            _ => None,
        };
        let name = name.to_owned();
        match (kind, resource) {
            (Kind::Node, resource) => {
                let info = match resource {
                    Some(AnyResource::Node(node)) => {
                        Some(NodeInfo { spec: node.spec.clone(), labels: node.metadata.labels.clone() })
                    }
                    _ => None,
                };
                replace(&mut self.nodes, name, info)
            }
            (Kind::BGPConfiguration, resource) => {
                let spec = match resource {
                    Some(AnyResource::BGPConfiguration(config)) => Some(config.spec.clone()),
                    _ => None,
                };
                let mut changed = false;
                let place = if name == "default" {
                    let extensions = match resource {
                        Some(AnyResource::BGPConfiguration(config)) => {
                            Extensions::read(&config.metadata.annotations)
                        }
                        _ => Extensions::default(),
                    };
                    changed =
                        std::mem::replace(&mut self.global_extensions, extensions.clone()) != extensions;
                    &mut self.global
                } else if name.strip_prefix("node.") == Some(&self.settings.node) {
                    &mut self.own
                } else {
                    // Ports of other nodes are asked for by name.
                    return self.services.set_node_port(&name, spec.map(|spec| spec.listen_port));
                };
                std::mem::replace(place, spec.clone()) != spec || changed
            }
            (Kind::BGPPeer, resource) => {
                let (spec, extensions) = match resource {
                    Some(AnyResource::BGPPeer(peer)) => {
                        (Some(peer.spec.clone()), Some(Extensions::read(&peer.metadata.annotations)))
                    }
                    _ => (None, None),
                };
                let extended = replace(&mut self.extensions, name.clone(), extensions);
                replace(&mut self.peers, name, spec) || extended
            }
            (Kind::BGPFilter, resource) => {
                let spec = match resource {
                    Some(AnyResource::BGPFilter(filter)) => Some(filter.spec.clone()),
                    _ => None,
                };
                replace(&mut self.filters, name, spec)
            }
            (Kind::IPPool, resource) => {
                let spec = match resource {
                    Some(AnyResource::IPPool(pool)) => Some(pool.spec.clone()),
                    _ => None,
                };
                replace(&mut self.pools, name, spec)
            }
            (Kind::FelixConfiguration, resource) => {
                if name != "default" {
                    return false;
                }
                let text = match resource {
                    Some(AnyResource::FelixConfiguration(felix)) => {
                        Some(felix.spec.program_cluster_routes.clone())
                    }
                    _ => None,
                };
                let text = text.filter(|text| !text.is_empty());
                std::mem::replace(&mut self.felix_cluster_routes, text.clone()) != text
            }
            (Kind::Profile, resource) => {
                let labels = match resource {
                    Some(AnyResource::Profile(profile)) => Some(profile.spec.labels_to_apply.clone()),
                    _ => None,
                };
                replace(&mut self.profiles, name, labels)
            }
            (Kind::WorkloadEndpoint, resource) => {
                let workload = match resource {
                    Some(AnyResource::WorkloadEndpoint(endpoint))
                        if endpoint.spec.node == self.settings.node =>
                    {
                        Some(Workload {
                            networks: endpoint
                                .spec
                                .ip_networks
                                .iter()
                                .filter_map(|net| parse_net(net))
                                .collect(),
                            interface: endpoint.spec.interface_name.as_str().into(),
                            labels: endpoint.metadata.labels.clone(),
                            profiles: endpoint.spec.profiles.clone(),
                        })
                    }
                    _ => None,
                };
                replace(&mut self.workloads, (namespace.to_owned(), name), workload)
            }
            _ => false,
        }
    }

    /// Hands in a password that [`Derived::secrets`] asked for, or says why it cannot be had.
    pub fn set_secret(&mut self, secret: SecretRef, value: Result<Arc<[u8]>, Arc<str>>) -> bool {
        self.secrets.insert(secret, value.clone()) != Some(value)
    }
}

/// Sets or removes an entry; `true` when something changed.
fn replace<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> bool {
    match value {
        Some(value) => {
            if map.get(&key) == Some(&value) {
                return false;
            }
            map.insert(key, value);
            true
        }
        None => map.remove(&key).is_some(),
    }
}

/// A prefix, or a bare address as the prefix of its full length.
fn parse_net(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().map(|net| net.trunc()).or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok()
}

/// The configuration that a set of resources leads to on a node: [`Mesh`] for callers that have everything at hand.
pub fn speaker_config<'a>(
    settings: MeshSettings,
    resources: impl IntoIterator<Item = &'a Update>,
) -> Derived {
    let mut mesh = Mesh::new(settings);
    for update in resources {
        mesh.apply(update);
    }
    mesh.derive()
}
