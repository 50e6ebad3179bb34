//! The resources as the reference evaluator sees them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use calico_model::k8s::KubernetesObject;
use calico_model::{
    AnyResource, Key, Kind, KubernetesKind, ObjectMeta, PolicyType, Protocol, ResourceKey, Rule,
    StagedAction, TierDefaultAction, Update, Value,
};
use calico_selector::Expr;
use ipnet::IpNet;

use super::labels::{self, Labels, PLAIN, Words};
use crate::changes::DefaultAction;
use crate::graph::policy_kind;
use crate::ir::{Direction, PolicyId};
use crate::verdict::HostStage;

const NAMESPACE: &str = "projectcalico.org/namespace";
const ORCHESTRATOR: &str = "projectcalico.org/orchestrator";
const SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";

/// What kind of thing an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointKind {
    /// A workload endpoint.
    Workload,
    /// A host endpoint.
    Host,
    /// A network set, namespaced or global.
    NetworkSet,
}

/// Something with labels and addresses.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// The resource.
    pub key: ResourceKey,
    /// What it is.
    pub kind: EndpointKind,
    /// Labels, inherited ones included.
    pub labels: BTreeMap<String, String>,
    /// Addresses (as host CIDRs) of an endpoint, CIDRs of a network set.
    pub nets: Vec<IpNet>,
    /// Named ports: name, protocol number, port.
    pub ports: Vec<(String, u8, u16)>,
    /// Profiles in order.
    pub profiles: Vec<String>,
    /// Node of an endpoint.
    pub node: String,
    /// Pod of a workload endpoint, or what stands for it.
    pub workload: String,
    /// Profiles that supplied inherited labels, by label.
    pub inherited: BTreeMap<String, String>,
    /// Interface of an endpoint; `*` for a host endpoint that stands for all of them.
    pub interface: String,
}

impl Item {
    /// The name by which people know it: `pod ns/name`, `host endpoint name`, `network set ns/name`.
    pub fn title(&self) -> String {
        match (self.kind, self.key.namespace.as_str()) {
            (EndpointKind::Workload, namespace) => format!("pod {namespace}/{}", self.workload),
            (EndpointKind::Host, _) => format!("host endpoint {}", self.key.name),
            (EndpointKind::NetworkSet, "") => format!("network set {}", self.key.name),
            (EndpointKind::NetworkSet, namespace) => format!("network set {namespace}/{}", self.key.name),
        }
    }
}

impl calico_selector::Labels for Item {
    fn get(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }

    fn origin(&self, name: &str) -> calico_selector::labels::Origin<'_> {
        match self.inherited.get(name) {
            Some(profile) => calico_selector::labels::Origin::Parent(profile),
            None => calico_selector::labels::Origin::Own,
        }
    }
}

/// Where the rules of a policy or profile come from.
pub(super) enum Rules<'a> {
    /// As written.
    List(&'a [Rule]),
    /// Nothing readable: everything is denied.
    DenyAll,
}

/// A policy with its fields read.
#[derive(Debug, Clone)]
pub(super) struct OraclePolicy {
    pub(super) id: PolicyId,
    pub(super) tier: String,
    pub(super) order: Option<f64>,
    subject: Subject,
    /// The selectors as written: endpoints, namespaces, service accounts.
    pub(super) texts: [String; 3],
    types: Vec<PolicyType>,
    ingress: Vec<Rule>,
    egress: Vec<Rule>,
    do_not_track: bool,
    pre_dnat: bool,
    apply_on_forward: bool,
}

/// What a policy applies to.
#[derive(Debug, Clone)]
enum Subject {
    Parsed {
        selector: Option<Expr>,
        namespaces: Option<Expr>,
        accounts: Option<Expr>,
    },
    /// A selector cannot be read: every workload in scope.
    Unreadable,
}

impl OraclePolicy {
    /// True when the policy selects the endpoint.
    pub(super) fn selects(&self, item: &Item) -> bool {
        let namespace = item.labels.get(NAMESPACE).map(String::as_str);
        let in_scope = self.id.namespace.is_empty() || namespace == Some(&self.id.namespace);
        let Subject::Parsed { selector, namespaces, accounts } = &self.subject else {
            return in_scope && namespace.is_some();
        };
        let global = self.id.namespace.is_empty();
        // A namespace selector makes every all() of a global policy mean "in a namespace", a service account selector
        // those that are left "with a service account".
        let all_has = match (global, namespaces, accounts) {
            (true, Some(_), _) => NAMESPACE,
            (true, None, Some(_)) => SERVICE_ACCOUNT,
            _ => "",
        };
        let account_all = if global { SERVICE_ACCOUNT } else { "" };
        let own = Words { all_has, ..PLAIN };
        let of_namespace = Words { prefix: "pcns.", all_has: NAMESPACE, global_lacks: "" };
        let of_account = Words { prefix: "pcsa.", all_has: account_all, global_lacks: "" };
        let meets = |expr: &Option<Expr>, words| {
            expr.as_ref().is_none_or(|expr| labels::holds(expr, &item.labels, words))
        };
        in_scope && meets(selector, own) && meets(namespaces, of_namespace) && meets(accounts, of_account)
    }

    /// True when the policy belongs to the stage of the endpoint.
    pub(super) fn applies_at(&self, item: &Item, stage: HostStage) -> bool {
        if item.kind != EndpointKind::Host && stage != HostStage::Normal {
            return false;
        }
        let governs_any = self.governs(Direction::Ingress) || self.governs(Direction::Egress);
        governs_any
            && match stage {
                HostStage::Untracked => self.do_not_track && item.interface != "*",
                HostStage::PreDnat => self.pre_dnat && !self.do_not_track,
                HostStage::Normal => !self.do_not_track && !self.pre_dnat,
                HostStage::Forward => self.apply_on_forward && !self.do_not_track && !self.pre_dnat,
            }
    }

    /// True when an option for host endpoints is set.
    pub(super) fn is_for_hosts(&self) -> bool {
        self.do_not_track || self.pre_dnat || self.apply_on_forward
    }

    /// True when the tier's default action follows the policy's rules.
    pub(super) fn ends_tier(&self) -> bool {
        !self.do_not_track && !self.pre_dnat
    }

    /// True when the policy has a say in the direction.
    pub(super) fn governs(&self, direction: Direction) -> bool {
        let named = |wanted: &str| self.types.iter().any(|t| t.as_str().eq_ignore_ascii_case(wanted));
        let neither = !named("Ingress") && !named("Egress");
        match direction {
            Direction::Ingress => neither || named("Ingress"),
            Direction::Egress => (neither || named("Egress")) && (self.do_not_track || !self.pre_dnat),
        }
    }

    pub(super) fn rules(&self, direction: Direction) -> Rules<'_> {
        match (&self.subject, direction) {
            (Subject::Unreadable, _) => Rules::DenyAll,
            (_, Direction::Ingress) => Rules::List(&self.ingress),
            (_, Direction::Egress) => Rules::List(&self.egress),
        }
    }
}

/// A snapshot of everything that policy depends on.
///
/// ```
/// use calico_model::{AnyResource, GlobalNetworkSet, GlobalNetworkSetSpec, Update, Value};
/// use calico_policy::oracle::World;
/// let set = GlobalNetworkSet::new("dns", GlobalNetworkSetSpec { nets: vec!["192.0.2.53".into()] });
/// let resource = AnyResource::from(set);
/// let world = World::new([Update::set(resource.key(), Value::Resource(resource.into()), 1.into())]);
/// assert_eq!(world.items().len(), 1);
/// ```
#[derive(Debug, Clone, Default)]
pub struct World {
    items: Vec<Item>,
    /// Positions of items by host address, and of those with wider CIDRs: so that a lookup is not a scan.
    by_host: BTreeMap<IpAddr, Vec<usize>>,
    wide: Vec<usize>,
    policies: Vec<OraclePolicy>,
    tiers: BTreeMap<String, (Option<f64>, DefaultAction)>,
    profiles: BTreeMap<String, (Vec<Rule>, Vec<Rule>)>,
    /// By namespace and name: addresses, and addresses with protocol and port.
    services: BTreeMap<(String, String), ServiceBackends>,
}

/// What the slices of a service list.
#[derive(Debug, Clone, Default)]
pub(super) struct ServiceBackends {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ports: Vec<(IpAddr, u8, u16)>,
}

impl World {
    /// The state after the updates, of which the last of each key counts.
    pub fn new(updates: impl IntoIterator<Item = Update>) -> Self {
        let mut last: BTreeMap<Key, Value> = BTreeMap::new();
        for update in updates {
            match update.value {
                Some(value) => last.insert(update.key, value),
                None => last.remove(&update.key),
            };
        }
        let mut world = Self::default();
        let mut inherited: BTreeMap<String, Labels> = BTreeMap::new();
        for (key, value) in &last {
            match (key, value) {
                (Key::Resource(key), Value::Resource(resource)) => {
                    world.read(key, resource, &mut inherited);
                }
                (Key::Resource(ResourceKey { namespace, .. }), Value::Kubernetes(object)) => {
                    world.read_slice(namespace, object);
                }
                (Key::Kubernetes(key), Value::Kubernetes(object))
                    if key.kind == KubernetesKind::EndpointSlice =>
                {
                    world.read_slice(&key.namespace, object);
                }
                _ => {}
            }
        }
        for item in &mut world.items {
            let profiles: Vec<String> = match item.key.kind {
                Kind::NetworkSet => vec![format!("kns.{}", item.key.namespace)],
                _ => item.profiles.clone(),
            };
            for profile in &profiles {
                for (name, value) in inherited.get(profile).into_iter().flatten() {
                    if !item.labels.contains_key(name) {
                        item.labels.insert(name.clone(), value.clone());
                        item.inherited.insert(name.clone(), profile.clone());
                    }
                }
            }
        }
        for (at, item) in world.items.iter().enumerate() {
            let is_host = |net: &IpNet| net.prefix_len() == net.max_prefix_len();
            for net in item.nets.iter().filter(|net| is_host(net)) {
                world.by_host.entry(net.addr()).or_default().push(at);
            }
            if !item.nets.iter().all(is_host) {
                world.wide.push(at);
            }
        }
        world
    }

    /// Everything with labels and addresses, sorted by key.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// The workload of a pod, by namespace and pod name.
    pub fn workload(&self, namespace: &str, pod: &str) -> Option<&Item> {
        let named = |item: &&Item| item.key.namespace == namespace && item.workload == pod;
        self.items.iter().filter(|item| item.kind == EndpointKind::Workload).find(named)
    }

    /// The item of a key.
    pub fn item(&self, key: &ResourceKey) -> Option<&Item> {
        self.items.iter().find(|item| item.key == *key)
    }

    /// Every item that has the address, sorted by key.
    pub fn items_with(&self, addr: IpAddr) -> impl Iterator<Item = &Item> {
        let mut found: Vec<usize> = self.by_host.get(&addr).cloned().unwrap_or_default();
        let has =
            |at: &usize| self.items.get(*at).is_some_and(|item| item.nets.iter().any(|n| n.contains(&addr)));
        found.extend(self.wide.iter().copied().filter(has));
        found.sort_unstable();
        found.dedup();
        found.into_iter().filter_map(|at| self.items.get(at))
    }

    pub(super) fn policies(&self) -> impl Iterator<Item = &OraclePolicy> {
        self.policies.iter()
    }

    /// Names of all services and what they list.
    pub(super) fn all_backends(&self) -> impl Iterator<Item = &ServiceBackends> {
        self.services.values()
    }

    /// All rules of policies and profiles.
    pub(super) fn all_rules(&self) -> impl Iterator<Item = &Rule> {
        let of_policies = self.policies.iter().flat_map(|policy| policy.ingress.iter().chain(&policy.egress));
        let of_profiles = self.profiles.values().flat_map(|(ingress, egress)| ingress.iter().chain(egress));
        of_policies.chain(of_profiles)
    }

    pub(super) fn tier_exists(&self, name: &str) -> bool {
        self.tier(name).is_some()
    }

    pub(super) fn profile_exists(&self, name: &str) -> bool {
        self.profiles.contains_key(name)
    }

    pub(super) fn backends(&self, namespace: &str, name: &str) -> Option<&ServiceBackends> {
        self.services.get(&(namespace.to_owned(), name.to_owned()))
    }

    pub(super) fn profile_rules(&self, name: &str, direction: Direction) -> Rules<'_> {
        match (self.profiles.get(name), direction) {
            (None, _) => Rules::DenyAll,
            (Some((ingress, _)), Direction::Ingress) => Rules::List(ingress),
            (Some((_, egress)), Direction::Egress) => Rules::List(egress),
        }
    }

    /// (missing, order): tiers without an object come last, an absent order after every number.
    pub(super) fn tier_position(&self, name: &str) -> (bool, f64) {
        match self.tier(name) {
            Some((order, _)) => (false, order.unwrap_or(f64::INFINITY)),
            None => (true, f64::INFINITY),
        }
    }

    pub(super) fn default_action(&self, tier: &str) -> DefaultAction {
        self.tier(tier).map_or(DefaultAction::Deny, |(_, action)| action)
    }

    fn tier(&self, name: &str) -> Option<(Option<f64>, DefaultAction)> {
        self.tiers.get(name).copied().or(match name {
            "kube-admin" => Some((Some(1_000.0), DefaultAction::Pass)),
            "default" => Some((Some(1_000_000.0), DefaultAction::Deny)),
            "kube-baseline" => Some((Some(10_000_000.0), DefaultAction::Pass)),
            _ => None,
        })
    }

    fn read(
        &mut self,
        key: &ResourceKey,
        resource: &Arc<AnyResource>,
        inherited: &mut BTreeMap<String, Labels>,
    ) {
        match &**resource {
            AnyResource::Profile(profile) => {
                inherited.insert(key.name.clone(), profile.spec.labels_to_apply.clone());
                let rules = (profile.spec.ingress.clone(), profile.spec.egress.clone());
                self.profiles.insert(key.name.clone(), rules);
            }
            AnyResource::Tier(tier) => {
                let action = match tier.spec.default_action {
                    TierDefaultAction::Pass => DefaultAction::Pass,
                    _ => DefaultAction::Deny,
                };
                self.tiers.insert(key.name.clone(), (tier.spec.order, action));
            }
            AnyResource::WorkloadEndpoint(endpoint) if !endpoint.spec.interface_name.is_empty() => {
                let spec = &endpoint.spec;
                let mut labels = own_labels(&endpoint.metadata);
                labels.insert(NAMESPACE.into(), key.namespace.clone());
                if !spec.orchestrator.is_empty() {
                    labels.insert(ORCHESTRATOR.into(), spec.orchestrator.clone());
                }
                if !spec.service_account_name.is_empty() {
                    labels.insert(SERVICE_ACCOUNT.into(), spec.service_account_name.clone());
                }
                let ports = spec.ports.iter().filter_map(|p| named_port(&p.name, &p.protocol, p.port));
                self.items.push(Item {
                    key: key.clone(),
                    kind: EndpointKind::Workload,
                    labels,
                    nets: spec.ip_networks.iter().filter_map(|text| host(text)).collect(),
                    ports: ports.collect(),
                    profiles: spec.profiles.clone(),
                    node: spec.node.clone(),
                    interface: spec.interface_name.clone(),
                    workload: [&spec.pod, &spec.workload, &spec.container_id]
                        .into_iter()
                        .find(|name| !name.is_empty())
                        .unwrap_or(&key.name)
                        .clone(),
                    inherited: BTreeMap::new(),
                });
            }
            AnyResource::HostEndpoint(endpoint) => {
                let spec = &endpoint.spec;
                let ports = spec.ports.iter().filter_map(|p| named_port(&p.name, &p.protocol, p.port));
                self.items.push(Item {
                    key: key.clone(),
                    kind: EndpointKind::Host,
                    labels: own_labels(&endpoint.metadata),
                    nets: spec.expected_ips.iter().filter_map(|text| host(text)).collect(),
                    ports: ports.collect(),
                    profiles: spec.profiles.clone(),
                    node: spec.node.clone(),
                    interface: spec.interface_name.clone(),
                    workload: String::new(),
                    inherited: BTreeMap::new(),
                });
            }
            AnyResource::NetworkSet(set) => {
                let mut labels = own_labels(&set.metadata);
                labels.insert(NAMESPACE.into(), key.namespace.clone());
                self.items.push(network_set(key, labels, &set.spec.nets));
            }
            AnyResource::GlobalNetworkSet(set) => {
                self.items.push(network_set(key, own_labels(&set.metadata), &set.spec.nets));
            }
            _ => self.read_policy(key, resource),
        }
    }

    fn read_policy(&mut self, key: &ResourceKey, resource: &AnyResource) {
        let Some(kind) = policy_kind(key.kind) else { return };
        let id = PolicyId { kind, namespace: key.namespace.as_str().into(), name: key.name.as_str().into() };
        macro_rules! read {
            ($spec:expr, $namespaces:expr, $untracked:expr, $pre_dnat:expr, $forward:expr) => {{
                let spec = $spec;
                OraclePolicy {
                    id,
                    tier: if spec.tier.is_empty() { "default".into() } else { spec.tier.clone() },
                    order: spec.order,
                    subject: subject(&spec.selector, $namespaces, &spec.service_account_selector),
                    texts: [
                        spec.selector.clone(),
                        String::from($namespaces),
                        spec.service_account_selector.clone(),
                    ],
                    types: spec.types.clone(),
                    ingress: spec.ingress.clone(),
                    egress: spec.egress.clone(),
                    do_not_track: $untracked,
                    pre_dnat: $pre_dnat,
                    apply_on_forward: $forward,
                }
            }};
        }
        macro_rules! global {
            ($spec:expr) => {{
                let s = $spec;
                read!(s, s.namespace_selector.as_str(), s.do_not_track, s.pre_dnat, s.apply_on_forward)
            }};
        }
        let ignored = |action: &StagedAction| matches!(action, StagedAction::Delete | StagedAction::Ignore);
        let policy = match resource {
            AnyResource::NetworkPolicy(policy) => read!(&policy.spec, "", false, false, false),
            AnyResource::GlobalNetworkPolicy(policy) => global!(&policy.spec),
            AnyResource::StagedNetworkPolicy(policy) if !ignored(&policy.spec.staged_action) => {
                read!(&policy.spec, "", false, false, false)
            }
            AnyResource::StagedGlobalNetworkPolicy(policy) if !ignored(&policy.spec.staged_action) => {
                global!(&policy.spec)
            }
            _ => {
                if let Some(converted) = crate::policies::from_kubernetes(resource) {
                    self.read_policy(key, &converted);
                }
                return;
            }
        };
        self.policies.push(policy);
    }

    fn read_slice(&mut self, namespace: &str, object: &KubernetesObject) {
        let KubernetesObject::EndpointSlice(slice) = object else { return };
        let Some(service) = slice.metadata.labels.get("kubernetes.io/service-name") else { return };
        let backends = self.services.entry((namespace.to_owned(), service.clone())).or_default();
        for text in slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses) {
            let Ok(addr) = text.parse::<IpAddr>() else { continue };
            backends.addresses.push(addr);
            for port in &slice.ports {
                let protocol = if port.protocol.is_empty() {
                    Some(6)
                } else {
                    Protocol::from_text(&port.protocol).number()
                };
                let number = port.port.and_then(|number| u16::try_from(number).ok());
                if let (Some(protocol @ (6 | 17 | 132)), Some(number)) = (protocol, number) {
                    backends.ports.push((addr, protocol, number));
                }
            }
        }
    }
}

fn subject(selector: &str, namespaces: &str, accounts: &str) -> Subject {
    match (labels::parse(selector), labels::parse(namespaces), labels::parse(accounts)) {
        (Ok(selector), Ok(namespaces), Ok(accounts)) => Subject::Parsed { selector, namespaces, accounts },
        _ => Subject::Unreadable,
    }
}

/// Labels that would pass for labels of a namespace or service account do not count.
fn own_labels(meta: &ObjectMeta) -> Labels {
    let reserved = |name: &str| name.starts_with("pcns.") || name.starts_with("pcsa.");
    meta.labels.iter().filter(|(name, _)| !reserved(name)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn network_set(key: &ResourceKey, labels: Labels, nets: &[String]) -> Item {
    Item {
        key: key.clone(),
        kind: EndpointKind::NetworkSet,
        labels,
        nets: nets.iter().filter_map(|text| cidr(text)).collect(),
        ports: Vec::new(),
        profiles: Vec::new(),
        node: String::new(),
        interface: String::new(),
        workload: String::new(),
        inherited: BTreeMap::new(),
    }
}

/// A CIDR or a bare address.
pub(super) fn cidr(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// An address; a prefix length does not matter.
fn host(text: &str) -> Option<IpNet> {
    cidr(text).map(|net| IpNet::from(net.addr()))
}

fn named_port(name: &str, protocol: &Protocol, port: u16) -> Option<(String, u8, u16)> {
    let number = if protocol.is_unset() { 6 } else { protocol.number()? };
    let usable = !name.is_empty() && matches!(number, 6 | 17 | 132);
    usable.then(|| (name.to_owned(), number, port))
}
