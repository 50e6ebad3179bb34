//! The calculation graph: updates of a store in, [`Changes`] out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use calico_model::k8s::KubernetesObject;
use calico_model::k8s::types::EndpointSlice;
use calico_model::{AnyResource, Key, Kind, KubernetesKind, ResourceKey, Update, Value};
use rustc_hash::FxHashMap;

use crate::active::{Active, as_profile, profile_labels};
use crate::changes::{Changes, DefaultAction};
use crate::endpoints::Labelled;
use crate::ir::{PolicyId, PolicyKind};
use crate::nodes::{NodeFacts, Nodes};
use crate::order::TierOrder;
use crate::packet::{SCTP, TCP, UDP};
use crate::policies::PolicyInput;
use crate::pools::{Pools, pool_of, service_cidrs};
use crate::problems::Problems;
use crate::routes::Routes;
use crate::rules::{RuleOptions, shared};
use crate::services::{Backends, ServiceName};
use crate::sets::{ItemId, Sets};
use crate::settings::Settings;

/// What a graph is told when it is made.
#[derive(Debug, Clone, Default)]
pub struct GraphConfig {
    /// Name of the node whose dataplane the graph serves.
    pub node: String,
    /// How ambiguous rules are compiled.
    pub rules: RuleOptions,
    /// Routes come from the addresses of all workloads instead of from IPAM blocks (`RouteSource: WorkloadIPs`).
    pub routes_from_workloads: bool,
    /// Parameters from configuration file and environment, which win over the store: name to value text.
    pub local_parameters: BTreeMap<String, String>,
}

/// The incremental calculation of what the dataplane of one node must do.
///
/// Updates may come in any order, repeated or contradictory; the state after a flush depends only on the last value of
/// every key. Nothing comes out before [`Graph::in_sync`].
///
/// ```
/// use calico_model::{AnyResource, GlobalNetworkPolicy, GlobalNetworkPolicySpec, Update, Value};
/// use calico_policy::{Graph, GraphConfig};
///
/// let mut graph = Graph::new(GraphConfig { node: "node-1".into(), ..GraphConfig::default() });
/// let policy = GlobalNetworkPolicy::new("deny-all", GlobalNetworkPolicySpec::default());
/// let resource = AnyResource::from(policy);
/// graph.apply(Update::set(resource.key(), Value::Resource(resource.into()), 1.into()));
/// assert!(graph.flush().is_empty(), "the store has not been read to its end");
/// graph.in_sync();
/// assert!(graph.flush().policies.is_empty(), "no endpoint of this node is selected");
/// ```
#[derive(Debug)]
pub struct Graph {
    config: GraphConfig,
    synced: bool,
    /// The first flush after in-sync reports even what is empty.
    announced: bool,
    items: FxHashMap<(Kind, Box<str>), ItemId>,
    next_item: ItemId,
    sets: Sets,
    active: Active,
    routes: Routes,
    nodes: Nodes,
    pools: Pools,
    settings: Settings,
    problems: Problems,
}

impl Graph {
    /// An empty graph.
    pub fn new(config: GraphConfig) -> Self {
        Self {
            synced: false,
            announced: false,
            items: FxHashMap::default(),
            next_item: 0,
            sets: Sets::default(),
            active: Active::new(config.rules),
            routes: Routes::new(&config.node),
            nodes: Nodes::default(),
            pools: Pools::default(),
            settings: Settings::new(&config.node, config.local_parameters.clone()),
            problems: Problems::default(),
            config,
        }
    }

    /// Takes in the new value of a key, or its deletion. Keys that do not matter are ignored.
    pub fn apply(&mut self, update: Update) {
        match (&update.key, update.value) {
            (Key::Resource(key), Some(Value::Resource(resource))) => self.resource(key, Some(resource)),
            (Key::Resource(key), Some(Value::Kubernetes(object))) => {
                self.slice(&key.namespace, &key.name, Some(&object));
            }
            (Key::Resource(key), None) => {
                self.resource(key, None);
                if key.kind == Kind::KubernetesEndpointSlice {
                    self.slice(&key.namespace, &key.name, None);
                }
            }
            (Key::Kubernetes(key), value) if key.kind == KubernetesKind::EndpointSlice => match value {
                Some(Value::Kubernetes(object)) => self.slice(&key.namespace, &key.name, Some(&object)),
                _ => self.slice(&key.namespace, &key.name, None),
            },
            (Key::Block(key), value) if !self.config.routes_from_workloads => match value {
                Some(Value::Block(block)) => self.routes.set_block(key.cidr, Some(&block)),
                _ => self.routes.set_block(key.cidr, None),
            },
            (Key::GlobalConfig { name }, value) => self.settings.set_global(name, text(value)),
            (Key::HostConfig { host, name }, value) if *host == self.config.node => {
                self.settings.set_own(name, text(value));
            }
            _ => {}
        }
    }

    /// The store has been read to its end: what is known now is consistent and may go out.
    pub fn in_sync(&mut self) {
        self.synced = true;
    }

    /// Everything that changed since the last flush; empty before [`Graph::in_sync`].
    pub fn flush(&mut self) -> Changes {
        if !self.synced {
            return Changes::default();
        }
        let first = !std::mem::replace(&mut self.announced, true);
        let config = self.settings.flush(first, &mut self.problems);
        if let Some(config) = &config {
            let value = |name: &str| config.get(name).map(String::as_str);
            let spoofing = value("WorkloadSourceSpoofing").is_some_and(|v| v.eq_ignore_ascii_case("any"));
            self.active.set_spoofing_allowed(spoofing);
            self.pools.configure(config);
        }
        let active = self.active.flush(&mut self.sets, &mut self.problems);
        let (sets, set_deltas, removed_sets) = self.sets.flush();
        let nodes = self.nodes.flush();
        let (routes, removed_routes) = self.routes.flush();
        let pools = self.pools.flush(first);
        Changes {
            config,
            sets,
            set_deltas,
            policies: active.policies,
            profiles: active.profiles,
            workload_endpoints: active.workload_endpoints,
            host_endpoints: active.host_endpoints,
            removed_workload_endpoints: active.removed_workload_endpoints,
            removed_host_endpoints: active.removed_host_endpoints,
            removed_profiles: active.removed_profiles,
            removed_policies: active.removed_policies,
            removed_sets,
            removed_routes,
            removed_vteps: nodes.removed_vteps,
            vteps: nodes.vteps,
            routes,
            removed_hosts: nodes.removed_hosts,
            hosts: nodes.hosts,
            removed_pools: pools.removed_pools,
            pools: pools.pools,
            encapsulation: pools.encapsulation,
            removed_wireguard: nodes.removed_wireguard,
            wireguard: nodes.wireguard,
            service_cidrs: pools.service_cidrs,
            problems: self.problems.flush(),
        }
    }

    fn resource(&mut self, key: &ResourceKey, resource: Option<Arc<AnyResource>>) {
        if let Some(kind) = policy_kind(key.kind) {
            let id = PolicyId { kind, namespace: shared(&key.namespace), name: shared(&key.name) };
            let input = resource.as_ref().and_then(|resource| PolicyInput::of(&id, resource));
            self.active.set_policy(id, input);
            return;
        }
        let name = || shared(&key.name);
        match (key.kind, resource.as_deref()) {
            (Kind::WorkloadEndpoint | Kind::HostEndpoint | Kind::NetworkSet | Kind::GlobalNetworkSet, _) => {
                self.item(key, resource);
            }
            (Kind::Profile, model) => {
                let name = name();
                let labels = model.and_then(as_profile).map(profile_labels);
                self.sets.set_parent(&name, labels);
                self.active.set_profile(&name, resource);
            }
            (Kind::Tier, Some(AnyResource::Tier(tier))) => {
                let action = match tier.spec.default_action.as_str() {
                    "Pass" => DefaultAction::Pass,
                    _ => DefaultAction::Deny,
                };
                let order =
                    TierOrder { name: name(), exists: true, order: tier.spec.order, default_action: action };
                self.active.set_tier(&key.name, Some(order));
            }
            (Kind::Tier, _) => self.active.set_tier(&key.name, None),
            (Kind::Node, node) => {
                let node = match node {
                    Some(AnyResource::Node(node)) => Some(&**node),
                    _ => None,
                };
                self.routes.set_node(&name(), node.map(NodeFacts::of));
                self.nodes.set(&name(), node);
                if key.name == self.config.node {
                    self.settings.set_own_node(node);
                }
            }
            (Kind::IPPool, pool) => {
                let pool = match pool {
                    Some(AnyResource::IPPool(pool)) => pool_of(&pool.spec),
                    _ => None,
                };
                self.routes.set_pool(&name(), pool.clone());
                self.pools.set(&name(), pool);
            }
            (Kind::FelixConfiguration, felix) => {
                let felix = match felix {
                    Some(AnyResource::FelixConfiguration(felix)) => Some(&**felix),
                    _ => None,
                };
                self.settings.set_resource(&key.name, felix);
            }
            (Kind::BGPConfiguration, bgp) if key.name == "default" => {
                let bgp = match bgp {
                    Some(AnyResource::BGPConfiguration(bgp)) => Some(&bgp.spec),
                    _ => None,
                };
                self.pools.set_service_cidrs(service_cidrs(bgp));
            }
            _ => {}
        }
    }

    /// An endpoint or network set.
    fn item(&mut self, key: &ResourceKey, resource: Option<Arc<AnyResource>>) {
        let labelled = resource.as_deref().and_then(Labelled::of);
        let object = if key.namespace.is_empty() {
            format!("{}/{}", key.kind, key.name)
        } else {
            format!("{}/{}/{}", key.kind, key.namespace, key.name)
        };
        self.problems.set(&object, labelled.as_ref().map(|l| l.problems.clone()).unwrap_or_default());
        let slot = (key.kind, Box::from(format!("{}/{}", key.namespace, key.name)));
        let (Some(labelled), Some(resource)) = (labelled, &resource) else {
            if let Some(item) = self.items.remove(&slot) {
                self.sets.remove_item(item);
                self.active.remove_local(item);
                self.routes.set_workload(item, None);
            }
            return;
        };
        let item = *self.items.entry(slot).or_insert_with(|| {
            self.next_item += 1;
            self.next_item
        });
        let local = !labelled.node.is_empty() && labelled.node == self.config.node;
        if key.kind == Kind::WorkloadEndpoint {
            let wanted = local || self.config.routes_from_workloads;
            let nets = labelled.content.nets.to_vec();
            self.routes.set_workload(item, wanted.then_some((nets, labelled.node)));
        }
        if local {
            self.active.set_local(item, resource, &labelled);
        } else {
            self.active.remove_local(item);
        }
        self.sets.set_item(item, labelled.labels.iter().copied(), &labelled.parents, labelled.content);
    }

    fn slice(&mut self, namespace: &str, name: &str, object: Option<&KubernetesObject>) {
        let slice = ServiceName { namespace: namespace.into(), name: name.into() };
        let Some(KubernetesObject::EndpointSlice(object)) = object else {
            self.sets.set_slice(slice, None, Backends::default());
            return;
        };
        let service = object.metadata.labels.get("kubernetes.io/service-name");
        let service =
            service.map(|service| ServiceName { namespace: namespace.into(), name: service.as_str().into() });
        self.sets.set_slice(slice, service, backends(object));
    }
}

/// Addresses and ports of a slice; names (FQDN slices) and ports without a number are left out.
fn backends(slice: &EndpointSlice) -> Backends {
    let ports = slice
        .ports
        .iter()
        .filter_map(|port| {
            let protocol = match port.protocol.to_ascii_uppercase().as_str() {
                "" | "TCP" => TCP,
                "UDP" => UDP,
                "SCTP" => SCTP,
                _ => return None,
            };
            Some((protocol, u16::try_from(port.port?).ok()?))
        })
        .collect();
    let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
    Backends { addresses: addresses.filter_map(|text| text.parse::<IpAddr>().ok()).collect(), ports }
}

fn text(value: Option<Value>) -> Option<Arc<str>> {
    match value {
        Some(Value::Text(text)) => Some(text),
        _ => None,
    }
}

/// The policy kind of a resource kind.
pub fn policy_kind(kind: Kind) -> Option<PolicyKind> {
    Some(match kind {
        Kind::NetworkPolicy => PolicyKind::NetworkPolicy,
        Kind::GlobalNetworkPolicy => PolicyKind::GlobalNetworkPolicy,
        Kind::KubernetesNetworkPolicy => PolicyKind::KubernetesNetworkPolicy,
        Kind::KubernetesClusterNetworkPolicy => PolicyKind::KubernetesClusterNetworkPolicy,
        Kind::StagedNetworkPolicy => PolicyKind::StagedNetworkPolicy,
        Kind::StagedGlobalNetworkPolicy => PolicyKind::StagedGlobalNetworkPolicy,
        Kind::StagedKubernetesNetworkPolicy => PolicyKind::StagedKubernetesNetworkPolicy,
        _ => return None,
    })
}
