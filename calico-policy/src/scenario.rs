//! Small random clusters from a seed, for differential tests of evaluators and dataplanes.
//!
//! Addresses, labels, ports and names come from pools so small that rules hit, tie, shadow and contradict each other
//! all the time; a few fields are unreadable on purpose. The same seed gives the same cluster on every machine.

mod network;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use calico_model::k8s::KubernetesObject;
use calico_model::k8s::networking::{IntOrString, NetworkPolicyIngressRule, NetworkPolicyPort};
use calico_model::k8s::types::{Endpoint, EndpointPort as SlicePort, EndpointSlice};
use calico_model::{
    Action, AnyResource, EndpointPort, EntityRule, GlobalNetworkPolicy, GlobalNetworkPolicySpec,
    GlobalNetworkSet, GlobalNetworkSetSpec, HostEndpoint, HostEndpointSpec, IcmpFields, Key, Kind,
    KubernetesKey, KubernetesKind, NetworkPolicy, NetworkPolicySpec, NetworkSet, NetworkSetSpec, PolicyType,
    Port, Profile, ProfileSpec, Protocol, Rule, ServiceAccountMatch, ServiceMatch,
    StagedKubernetesNetworkPolicy, StagedKubernetesNetworkPolicySpec, StagedNetworkPolicy,
    StagedNetworkPolicySpec, Tier, TierDefaultAction, TierSpec, Update, Value, WorkloadEndpoint,
    WorkloadEndpointPort, WorkloadEndpointSpec,
};

use crate::packet::Packet;

/// Name of the node whose dataplane is under test; other endpoints live elsewhere.
pub const NODE: &str = "here";

/// A stream of numbers determined by a seed (SplitMix64).
///
/// ```
/// use calico_policy::scenario::Dice;
/// let (mut a, mut b) = (Dice::new(7), Dice::new(7));
/// assert_eq!(a.below(1000), b.below(1000));
/// ```
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// A stream.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`; 0 when the limit is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % (limit.max(1) as u64)) as usize
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of the list.
    pub fn pick<T: Clone + Default>(&mut self, list: &[T]) -> T {
        list.get(self.below(list.len())).cloned().unwrap_or_default()
    }

    /// The list in another order.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            let other = self.below(at + 1);
            list.swap(at, other);
        }
    }
}

const NAMESPACES: [&str; 3] = ["a", "b", "c"];
const ROLES: [&str; 3] = ["x", "y", "z"];
const ACCOUNTS: [&str; 3] = ["", "sa1", "sa2"];
const TIERS: [&str; 4] = ["", "default", "first", "last"];
const PORTS: [u16; 6] = [0, 53, 80, 80, 81, 65535];
const PORT_NAMES: [&str; 3] = ["http", "http", "dns"];
const SERVICES: [&str; 2] = ["svc1", "svc2"];

/// A cluster: endpoints, network sets, services, tiers, profiles, policies, nodes, pools, blocks and configurations.
///
/// ```
/// let cluster = calico_policy::scenario::cluster(1);
/// assert!(cluster.len() > 5);
/// ```
pub fn cluster(seed: u64) -> Vec<Update> {
    let dice = &mut Dice::new(seed);
    let mut updates = Vec::new();
    for namespace in NAMESPACES {
        if !dice.one_in(6) {
            let resource = namespace_profile(dice, namespace);
            updates.push(put(resource));
        }
        for account in ["sa1", "sa2"] {
            let mut spec = ProfileSpec::default();
            spec.labels_to_apply.insert("pcsa.projectcalico.org/name".into(), account.into());
            spec.labels_to_apply.insert("pcsa.role".into(), dice.pick(&ROLES).into());
            updates.push(put(Profile::new(format!("ksa.{namespace}.{account}"), spec)));
        }
    }
    for tier in ["first", "last", "default"] {
        if !dice.one_in(3) {
            let default_action =
                if dice.one_in(2) { TierDefaultAction::Pass } else { TierDefaultAction::Deny };
            let order = (!dice.one_in(4)).then(|| dice.below(3) as f64);
            updates.push(put(Tier::new(tier, TierSpec { order, default_action })));
        }
    }
    for number in 0..2 + dice.below(4) {
        updates.push(put(pod(dice, number)));
    }
    for number in 0..dice.below(3) {
        updates.push(put(host_endpoint(dice, number)));
    }
    for number in 0..dice.below(3) {
        updates.push(put(network_set(dice, number)));
        let mut set =
            GlobalNetworkSet::new(format!("gset{number}"), GlobalNetworkSetSpec { nets: nets(dice) });
        set.metadata.labels = labels(dice);
        updates.push(put(set));
    }
    for number in 0..dice.below(3) {
        updates.push(slice(dice, number));
    }
    for number in 0..3 + dice.below(6) {
        updates.push(policy(dice, number));
    }
    network::network(dice, &mut updates);
    updates
}

/// A packet whose addresses and ports the policies of [`cluster`] care about.
pub fn packet(dice: &mut Dice) -> Packet {
    let v6 = dice.one_in(3);
    let src = address(dice, v6);
    let mut dst = address(dice, v6);
    while dst == src {
        dst = address(dice, v6);
    }
    Packet {
        src,
        dst,
        protocol: dice.pick(&[6, 6, 6, 17, 17, 132, 1, 58, 47]),
        src_port: dice.pick(&PORTS),
        dst_port: dice.pick(&PORTS),
        icmp: (dice.pick(&[0, 8, 128]), dice.pick(&[0, 1])),
    }
}

fn put(resource: impl Into<AnyResource>) -> Update {
    let resource = resource.into();
    Update::set(resource.key(), Value::Resource(Arc::new(resource)), 1.into())
}

fn address(dice: &mut Dice, v6: bool) -> IpAddr {
    let low = dice.below(8) as u8;
    if v6 {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(low)).into()
    } else {
        Ipv4Addr::new(10, 0, 0, low).into()
    }
}

fn labels(dice: &mut Dice) -> calico_model::Labels {
    let mut labels = calico_model::Labels::new();
    if !dice.one_in(4) {
        labels.insert("role".into(), dice.pick(&ROLES).into());
    }
    if dice.one_in(3) {
        labels.insert("team".into(), dice.pick(&ROLES).into());
    }
    if dice.one_in(12) {
        labels.insert("pcns.env".into(), dice.pick(&ROLES).into());
    }
    labels
}

fn namespace_profile(dice: &mut Dice, namespace: &str) -> Profile {
    let mut spec = ProfileSpec::default();
    spec.labels_to_apply.insert("pcns.projectcalico.org/name".into(), namespace.into());
    spec.labels_to_apply.insert("pcns.env".into(), dice.pick(&ROLES).into());
    if dice.one_in(3) {
        spec.labels_to_apply.insert("role".into(), dice.pick(&ROLES).into());
    }
    if dice.one_in(3) {
        spec.ingress = rules(dice, true, false);
        spec.egress = rules(dice, true, false);
    } else {
        let allow = Rule { action: Action::Allow, ..Rule::default() };
        spec.ingress = vec![allow.clone()];
        spec.egress = vec![allow];
    }
    Profile::new(format!("kns.{namespace}"), spec)
}

fn pod(dice: &mut Dice, number: usize) -> WorkloadEndpoint {
    let namespace = dice.pick(&NAMESPACES);
    let account = dice.pick(&ACCOUNTS);
    let mut profiles = vec![format!("kns.{namespace}")];
    if !account.is_empty() {
        profiles.push(format!("ksa.{namespace}.{account}"));
    }
    let mut ip_networks = vec![format!("{}/32", address(dice, false))];
    if dice.one_in(2) {
        ip_networks.push(format!("{}/128", address(dice, true)));
    }
    let ports: Vec<WorkloadEndpointPort> = (0..dice.below(3))
        .map(|_| WorkloadEndpointPort {
            name: dice.pick(&PORT_NAMES).into(),
            protocol: Protocol::from_text(dice.pick(&["TCP", "UDP", "SCTP", "tcp"])),
            port: dice.pick(&PORTS),
            ..WorkloadEndpointPort::default()
        })
        .collect();
    let spec = WorkloadEndpointSpec {
        orchestrator: "k8s".into(),
        node: if dice.one_in(3) { "there".into() } else { NODE.into() },
        pod: format!("pod{number}"),
        endpoint: "eth0".into(),
        interface_name: format!("cali{number}"),
        service_account_name: account.into(),
        ports,
        ip_networks,
        profiles,
        ..WorkloadEndpointSpec::default()
    };
    let mut endpoint = WorkloadEndpoint::new(format!("n-k8s-pod{number}-eth0"), spec).in_namespace(namespace);
    endpoint.metadata.labels = labels(dice);
    endpoint
}

fn host_endpoint(dice: &mut Dice, number: usize) -> HostEndpoint {
    let ports: Vec<EndpointPort> = (0..dice.below(2))
        .map(|_| EndpointPort {
            name: dice.pick(&PORT_NAMES).into(),
            protocol: Protocol::tcp(),
            port: dice.pick(&PORTS),
        })
        .collect();
    let spec = HostEndpointSpec {
        node: if dice.one_in(4) { "there".into() } else { NODE.into() },
        interface_name: if dice.one_in(4) { "*".into() } else { format!("eth{number}") },
        expected_ips: vec![address(dice, false).to_string(), address(dice, true).to_string()],
        ports,
        profiles: if dice.one_in(2) { vec!["kns.a".into()] } else { Vec::new() },
    };
    let mut endpoint = HostEndpoint::new(format!("hep{number}"), spec);
    endpoint.metadata.labels = labels(dice);
    endpoint
}

fn network_set(dice: &mut Dice, number: usize) -> NetworkSet {
    let mut set = NetworkSet::new(format!("set{number}"), NetworkSetSpec { nets: nets(dice) })
        .in_namespace(dice.pick(&NAMESPACES));
    set.metadata.labels = labels(dice);
    set
}

fn net(dice: &mut Dice) -> String {
    let addr = address(dice, false);
    match dice.below(12) {
        0 => "0.0.0.0/0".into(),
        1 => "::/0".into(),
        2 => "10.0.0.0/8".into(),
        3..=5 => format!("{addr}/{}", 28 + dice.below(5)),
        6 => addr.to_string(),
        7 | 8 => format!("{}/{}", address(dice, true), 124 + dice.below(5)),
        9 => {
            if dice.one_in(3) {
                "rubbish".into()
            } else {
                "10.0.0.0/29".into()
            }
        }
        _ => format!("{addr}/31"),
    }
}

fn nets(dice: &mut Dice) -> Vec<String> {
    (0..1 + dice.below(3)).map(|_| net(dice)).collect()
}

fn slice(dice: &mut Dice, number: usize) -> Update {
    let (namespace, name) = (dice.pick(&NAMESPACES).to_owned(), format!("slice{number}"));
    let mut slice = EndpointSlice::default();
    slice.metadata.name.clone_from(&name);
    slice.metadata.namespace.clone_from(&namespace);
    slice.metadata.labels.insert("kubernetes.io/service-name".into(), dice.pick(&SERVICES).into());
    slice.endpoints = (0..1 + dice.below(2))
        .map(|_| {
            let v6 = dice.one_in(3);
            Endpoint { addresses: vec![address(dice, v6).to_string()], ..Endpoint::default() }
        })
        .collect();
    slice.ports = (0..dice.below(3))
        .map(|_| SlicePort {
            protocol: dice.pick(&["", "TCP", "UDP"]).into(),
            port: (!dice.one_in(5)).then(|| i32::from(dice.pick(&PORTS))),
            ..SlicePort::default()
        })
        .collect();
    let key = KubernetesKey { kind: KubernetesKind::EndpointSlice, namespace, name };
    let value = Value::Kubernetes(Arc::new(KubernetesObject::EndpointSlice(slice)));
    Update::set(Key::Kubernetes(key), value, 1.into())
}

fn policy(dice: &mut Dice, number: usize) -> Update {
    let name = format!("p{number}");
    let namespace = dice.pick(&NAMESPACES);
    let (tier, order) = (dice.pick(&TIERS).to_owned(), (!dice.one_in(4)).then(|| dice.below(3) as f64));
    let types: Vec<PolicyType> =
        (0..dice.below(3)).map(|_| dice.pick(&["Ingress", "Egress", "egress"]).into()).collect();
    let namespace_selector = optional(dice, 4, |dice| selector(dice, 1));
    let service_account_selector = optional(dice, 6, selector_leaf);
    let selector = optional(dice, 3, |dice| selector(dice, 2));
    let global = dice.one_in(2);
    let (ingress, egress) = (rules(dice, global, true), rules(dice, global, false));
    if global {
        let spec = GlobalNetworkPolicySpec {
            tier,
            order,
            ingress,
            egress,
            selector,
            types,
            do_not_track: dice.one_in(6),
            pre_dnat: dice.one_in(6),
            apply_on_forward: dice.one_in(3),
            service_account_selector,
            namespace_selector,
            ..GlobalNetworkPolicySpec::default()
        };
        let mut policy = GlobalNetworkPolicy::new(name, spec);
        if dice.one_in(5) {
            policy.kind = Kind::KubernetesClusterNetworkPolicy;
        }
        return put(policy);
    }
    if dice.one_in(8) {
        let mut spec = StagedKubernetesNetworkPolicySpec::default();
        spec.pod_selector.match_labels.insert("role".into(), dice.pick(&ROLES).into());
        let port = NetworkPolicyPort { port: Some(IntOrString::Int(80)), ..NetworkPolicyPort::default() };
        spec.ingress = vec![NetworkPolicyIngressRule { ports: vec![port], from: Vec::new() }];
        return put(StagedKubernetesNetworkPolicy::new(name, spec).in_namespace(namespace));
    }
    if dice.one_in(4) {
        let spec = StagedNetworkPolicySpec {
            staged_action: dice.pick(&["", "Set", "Delete", "Learn"]).into(),
            tier,
            order,
            ingress,
            egress,
            selector,
            types,
            service_account_selector,
            ..StagedNetworkPolicySpec::default()
        };
        return put(StagedNetworkPolicy::new(name, spec).in_namespace(namespace));
    }
    let spec = NetworkPolicySpec {
        tier,
        order,
        ingress,
        egress,
        selector,
        types,
        service_account_selector,
        ..NetworkPolicySpec::default()
    };
    let mut policy = NetworkPolicy::new(name, spec).in_namespace(namespace);
    if dice.one_in(3) {
        policy.kind = Kind::KubernetesNetworkPolicy;
    }
    put(policy)
}

fn optional(dice: &mut Dice, one_in: usize, make: impl FnOnce(&mut Dice) -> String) -> String {
    if dice.below(one_in) == 0 { make(dice) } else { String::new() }
}

fn selector_leaf(dice: &mut Dice) -> String {
    let role = dice.pick(&ROLES);
    match dice.below(16) {
        0 => "all()".into(),
        1 => "has(team)".into(),
        2 => "!has(role)".into(),
        3 | 4 => format!("role != '{role}'"),
        5 => format!("team == '{role}'"),
        6 => format!("role in {{'x', '{role}'}}"),
        7 => format!("role not in {{'{role}'}}"),
        8 => format!("env == '{role}'"),
        9 => "projectcalico.org/name == 'a'".into(),
        10 => "projectcalico.org/namespace == 'b'".into(),
        11 => {
            if dice.one_in(4) {
                "role ==".into()
            } else {
                "has(role)".into()
            }
        }
        _ => format!("role == '{role}'"),
    }
}

fn selector(dice: &mut Dice, depth: usize) -> String {
    match dice.below(if depth == 0 { 6 } else { 10 }) {
        6 => format!("!({})", selector(dice, depth - 1)),
        7 => format!("{} && {}", selector(dice, depth - 1), selector_leaf(dice)),
        8 => format!("{} || {}", selector_leaf(dice), selector(dice, depth - 1)),
        9 => "!all()".into(),
        _ => selector_leaf(dice),
    }
}

fn rules(dice: &mut Dice, global: bool, ingress: bool) -> Vec<Rule> {
    (0..dice.below(5)).map(|_| rule(dice, global, ingress)).collect()
}

fn rule(dice: &mut Dice, global: bool, ingress: bool) -> Rule {
    let actions =
        [Action::Allow, Action::Allow, Action::Allow, Action::Deny, Action::Deny, Action::Pass, Action::Log];
    let mut rule = Rule { action: dice.pick(&actions), ..Rule::default() };
    // Few criteria at a time, or no packet would ever meet them all.
    let sparse = 1 + dice.below(4);
    if dice.one_in(60) {
        rule.action = Action::from("Permit");
    }
    if dice.one_in(8 * sparse) {
        rule.ip_version = Some(dice.pick(&[4, 6]));
    }
    if dice.one_in(1 + sparse) {
        let names =
            ["TCP", "TCP", "TCP", "UDP", "UDP", "SCTP", "ICMP", "ICMPv6", "6", "17", "1", "58", "255"];
        rule.protocol = Some(Protocol::from_text(dice.pick(&names)));
        if dice.one_in(40) {
            rule.protocol = Some(Protocol::from_text("bogus"));
        }
    }
    if dice.one_in(8 * sparse) {
        rule.not_protocol = Some(Protocol::from_text(dice.pick(&["TCP", "UDP", "1"])));
    }
    let icmp = |dice: &mut Dice| IcmpFields {
        icmp_type: (!dice.one_in(8)).then(|| dice.pick(&[0, 8, 128])),
        code: dice.one_in(3).then(|| dice.pick(&[0, 1])),
    };
    if matches!(rule.protocol.as_ref().and_then(Protocol::number), Some(1 | 58)) && dice.one_in(2) {
        rule.icmp = Some(icmp(dice));
    }
    if dice.one_in(10 * sparse) {
        rule.not_icmp = Some(icmp(dice));
    }
    let with_ports = rule.protocol.as_ref().is_some_and(Protocol::supports_ports);
    rule.source = entity(dice, with_ports, global, ingress, sparse);
    rule.destination = entity(dice, with_ports, global, !ingress, sparse);
    rule
}

fn entity(dice: &mut Dice, with_ports: bool, global: bool, peer: bool, sparse: usize) -> EntityRule {
    let mut entity = EntityRule::default();
    if peer && dice.one_in(10) {
        let namespace = if global || dice.one_in(2) { dice.pick(&NAMESPACES) } else { "" };
        entity.services =
            Some(ServiceMatch { name: dice.pick(&SERVICES).into(), namespace: namespace.into() });
        return entity;
    }
    if dice.one_in(3 * sparse) {
        entity.nets = nets(dice);
    }
    if dice.one_in(6 * sparse) {
        entity.not_nets = nets(dice);
    }
    entity.selector = optional(dice, 2 * sparse, |dice| selector(dice, 1));
    entity.not_selector = optional(dice, 5 * sparse, |dice| selector(dice, 1));
    entity.namespace_selector =
        optional(dice, 5 * sparse, |dice| if dice.one_in(5) { "global()".into() } else { selector(dice, 1) });
    if dice.one_in(6 * sparse) {
        let names = (0..dice.below(2)).map(|_| dice.pick(&["sa1", "sa2"]).to_owned()).collect();
        let selector = optional(dice, 2, |dice| selector(dice, 0));
        entity.service_accounts = Some(ServiceAccountMatch { names, selector });
    }
    if dice.one_in(2 * sparse) {
        entity.ports = ports(dice, with_ports);
    }
    if dice.one_in(6 * sparse) {
        entity.not_ports = ports(dice, with_ports);
    }
    entity
}

fn ports(dice: &mut Dice, numeric: bool) -> Vec<Port> {
    (0..1 + dice.below(2))
        .map(|_| {
            if numeric && !dice.one_in(3) || dice.one_in(60) {
                let (a, b) = (dice.pick(&PORTS), dice.pick(&PORTS));
                if dice.one_in(3) { Port::Range(a.min(b), a.max(b)) } else { Port::single(a) }
            } else {
                Port::Named(dice.pick(&PORT_NAMES).into())
            }
        })
        .collect()
}
