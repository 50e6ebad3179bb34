//! From updates to a dataplane: what the graph tells, checked on the in-memory dataplane.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use calico_model::{
    Action, AnyResource, EntityRule, GlobalNetworkPolicy, GlobalNetworkPolicySpec, IPPool, IPPoolSpec, Kind,
    NetworkPolicy, NetworkSet, NetworkSetSpec, Node, NodeBgpSpec, NodeSpec, PolicyType, Profile, Protocol,
    Rule, Tier, TierDefaultAction, TierSpec, Update, Value, WorkloadEndpoint, WorkloadEndpointPort,
    WorkloadEndpointSpec,
};
use calico_policy::changes::WorkloadEndpointId;
use calico_policy::ir::Direction;
use calico_policy::packet::Packet;
use calico_policy::verdict::{Reason, Staged, Verdict};
use calico_policy::{Graph, GraphConfig, Mirror};
use support::{allow_from, open_profile, put};

struct World {
    graph: Graph,
    mirror: Mirror,
}

impl World {
    fn new() -> Self {
        let graph = Graph::new(GraphConfig { node: "here".into(), ..GraphConfig::default() });
        let mut world = Self { graph, mirror: Mirror::default() };
        world.graph.in_sync();
        world
    }

    fn set(&mut self, resource: impl Into<AnyResource>) {
        self.graph.apply(put(resource));
        self.flush();
    }

    fn delete(&mut self, resource: impl Into<AnyResource>) {
        let key = resource.into().key();
        self.graph.apply(Update { key, value: None, revision: 2.into() });
        self.flush();
    }

    fn flush(&mut self) {
        let changes = self.graph.flush();
        self.mirror.apply(&changes).unwrap();
        assert!(self.graph.flush().is_empty(), "a second flush has nothing to say");
    }

    fn verdict(&self, pod: &str, direction: Direction, packet: &Packet) -> (Verdict, Reason) {
        let outcome = self.mirror.evaluate_workload(&id(pod), direction, packet, Staged::Ignored);
        (outcome.verdict, outcome.reason)
    }

    fn allows(&self, pod: &str, direction: Direction, packet: &Packet) -> bool {
        self.verdict(pod, direction, packet).0 == Verdict::Allow
    }
}

fn id(pod: &str) -> WorkloadEndpointId {
    WorkloadEndpointId {
        orchestrator: "k8s".into(),
        workload: format!("default/{pod}").into(),
        endpoint: "eth0".into(),
    }
}

fn pod(node: &str, name: &str, ip: &str, role: &str) -> WorkloadEndpoint {
    let spec = WorkloadEndpointSpec {
        orchestrator: "k8s".into(),
        node: node.into(),
        pod: name.into(),
        endpoint: "eth0".into(),
        interface_name: format!("cali{name}"),
        ip_networks: vec![format!("{ip}/32")],
        profiles: vec!["kns.default".into()],
        ports: vec![WorkloadEndpointPort {
            name: "http".into(),
            protocol: Protocol::tcp(),
            port: 8080,
            ..WorkloadEndpointPort::default()
        }],
        ..WorkloadEndpointSpec::default()
    };
    let mut endpoint = WorkloadEndpoint::new(format!("{node}-k8s-{name}-eth0"), spec).in_namespace("default");
    endpoint.metadata.labels.insert("role".into(), role.into());
    endpoint
}

fn profile() -> Profile {
    open_profile("kns.default")
}

fn policy(name: &str, selector: &str, ingress: Vec<Rule>) -> NetworkPolicy {
    support::policy("default", name, selector, ingress)
}

fn tcp(src: &str, dst: &str, port: u16) -> Packet {
    Packet::tcp(src.parse().unwrap(), dst.parse().unwrap(), port)
}

#[test]
fn nothing_comes_out_before_in_sync() {
    let mut graph = Graph::new(GraphConfig { node: "here".into(), ..GraphConfig::default() });
    graph.apply(put(pod("here", "a", "10.0.0.1", "web")));
    assert!(graph.flush().is_empty());
    graph.in_sync();
    assert_eq!(graph.flush().workload_endpoints.len(), 1);
}

#[test]
fn a_missing_profile_denies_until_it_arrives() {
    let mut world = World::new();
    world.set(pod("here", "a", "10.0.0.1", "web"));
    let packet = tcp("10.0.0.9", "10.0.0.1", 80);
    assert!(!world.allows("a", Direction::Ingress, &packet));
    let problems = world.mirror.problems.clone().unwrap();
    assert_eq!(problems[0].object.as_ref(), "Profile/kns.default");
    world.set(profile());
    assert!(world.allows("a", Direction::Ingress, &packet));
    assert!(world.mirror.problems.as_ref().unwrap().is_empty());
    world.delete(profile());
    assert!(!world.allows("a", Direction::Ingress, &packet));
}

#[test]
fn a_policy_lets_in_whom_it_names_and_follows_their_labels() {
    let mut world = World::new();
    world.set(profile());
    world.set(pod("here", "db", "10.0.0.1", "db"));
    world.set(pod("there", "fe", "10.0.0.2", "fe"));
    world.set(policy("db", "role == 'db'", vec![allow_from("fe", 5432)]));
    let packet = tcp("10.0.0.2", "10.0.0.1", 5432);
    assert!(world.allows("db", Direction::Ingress, &packet));
    assert_eq!(
        world.verdict("db", Direction::Ingress, &tcp("10.0.0.2", "10.0.0.1", 22)),
        (Verdict::Deny, Reason::EndOfTier("default".into()))
    );
    assert!(
        world.allows("db", Direction::Egress, &tcp("10.0.0.1", "10.0.0.2", 22)),
        "only ingress is governed"
    );

    world.set(pod("there", "fe", "10.0.0.2", "other"));
    assert!(!world.allows("db", Direction::Ingress, &packet));
    world.set(pod("there", "fe", "10.0.0.3", "fe"));
    assert!(world.allows("db", Direction::Ingress, &tcp("10.0.0.3", "10.0.0.1", 5432)));

    world.set(pod("here", "db", "10.0.0.1", "none"));
    assert!(
        world.mirror.policies.is_empty() && world.mirror.sets.is_empty(),
        "nothing here needs the policy"
    );
}

#[test]
fn named_ports_and_network_sets() {
    let mut world = World::new();
    world.set(profile());
    world.set(pod("here", "web", "10.0.0.1", "web"));
    let rule = Rule {
        action: Action::Allow,
        protocol: Some(Protocol::tcp()),
        source: EntityRule { selector: "trusted == 'yes'".into(), ..EntityRule::default() },
        destination: EntityRule { ports: vec!["http".parse().unwrap()], ..EntityRule::default() },
        ..Rule::default()
    };
    world.set(policy("web", "all()", vec![rule]));
    let mut set =
        NetworkSet::new("office", NetworkSetSpec { nets: vec!["192.0.2.0/24".into(), "192.0.2.7".into()] })
            .in_namespace("default");
    set.metadata.labels.insert("trusted".into(), "yes".into());
    world.set(set);
    assert!(world.allows("web", Direction::Ingress, &tcp("192.0.2.9", "10.0.0.1", 8080)));
    assert!(!world.allows("web", Direction::Ingress, &tcp("192.0.2.9", "10.0.0.1", 80)));
    assert!(!world.allows("web", Direction::Ingress, &tcp("192.0.3.9", "10.0.0.1", 8080)));
}

#[test]
fn tiers_order_policies_and_end_as_they_say() {
    let mut world = World::new();
    world.set(profile());
    world.set(pod("here", "a", "10.0.0.1", "web"));
    let global = |name: &str, tier: &str, action: Action| {
        let rule = Rule { action, ..allow_from("none", 1) };
        let spec = GlobalNetworkPolicySpec {
            tier: tier.into(),
            ingress: vec![rule],
            types: vec![PolicyType::Ingress],
            ..GlobalNetworkPolicySpec::default()
        };
        GlobalNetworkPolicy::new(name, spec)
    };
    world.set(global("p", "security", Action::Deny));
    let packet = tcp("192.0.2.1", "10.0.0.1", 80);
    assert_eq!(world.verdict("a", Direction::Ingress, &packet).1, Reason::EndOfTier("security".into()));
    assert_eq!(world.mirror.problems.as_ref().unwrap()[0].object.as_ref(), "Tier/security");
    let tier = |action| Tier::new("security", TierSpec { order: Some(5.0), default_action: action });
    world.set(tier(TierDefaultAction::Pass));
    assert!(world.allows("a", Direction::Ingress, &packet));
    assert!(world.mirror.problems.as_ref().unwrap().is_empty());
    world.set(global("q", "default", Action::Deny));
    assert_eq!(world.verdict("a", Direction::Ingress, &packet).1, Reason::EndOfTier("default".into()));
    world.set(tier(TierDefaultAction::Deny));
    assert_eq!(world.verdict("a", Direction::Ingress, &packet).1, Reason::EndOfTier("security".into()));
    let endpoint = &world.mirror.workload_endpoints[&id("a")];
    let names: Vec<&str> = endpoint.tiers.iter().map(|tier| tier.tier.as_ref()).collect();
    assert_eq!(names, ["security", "default"]);
}

#[test]
fn an_unreadable_policy_selector_denies_the_namespace() {
    let mut world = World::new();
    world.set(profile());
    world.set(pod("here", "a", "10.0.0.1", "web"));
    world.set(policy("bad", "role ==", vec![Rule { action: Action::Allow, ..Rule::default() }]));
    assert!(!world.allows("a", Direction::Ingress, &tcp("192.0.2.1", "10.0.0.1", 80)));
    assert!(world.allows("a", Direction::Egress, &tcp("10.0.0.1", "192.0.2.1", 80)));
    let problems = world.mirror.problems.clone().unwrap();
    assert_eq!(problems[0].object.as_ref(), "NetworkPolicy/default/bad");
    world.delete(policy("bad", "", vec![]));
    assert!(world.allows("a", Direction::Ingress, &tcp("192.0.2.1", "10.0.0.1", 80)));
}

#[test]
fn kubernetes_policies_are_policies_of_their_own_kind() {
    let mut world = World::new();
    world.set(profile());
    world.set(pod("here", "a", "10.0.0.1", "web"));
    let mut knp = policy("p", "", vec![]);
    knp.kind = Kind::KubernetesNetworkPolicy;
    knp.spec.order = Some(1000.0);
    world.set(knp);
    world.set(policy("p", "", vec![allow_from("fe", 80)]));
    let ids: Vec<String> = world.mirror.policies.keys().map(ToString::to_string).collect();
    assert_eq!(ids, ["np/default/p", "knp/default/p"]);
    let endpoint = &world.mirror.workload_endpoints[&id("a")];
    assert_eq!(endpoint.tiers[0].ingress[0].to_string(), "knp/default/p");
}

#[test]
fn routes_pools_hosts_and_tunnel_endpoints() {
    let mut world = World::new();
    let node = |name: &str, addr: &str, tunnel: &str| {
        let bgp = NodeBgpSpec { ipv4_address: addr.into(), ..NodeBgpSpec::default() };
        Node::new(
            name,
            NodeSpec { bgp: Some(bgp), ipv4_vxlan_tunnel_addr: tunnel.into(), ..NodeSpec::default() },
        )
    };
    let pool = IPPoolSpec {
        cidr: "10.0.0.0/16".into(),
        vxlan_mode: calico_model::EncapMode::CrossSubnet,
        nat_outgoing: true,
        ..IPPoolSpec::default()
    };
    world.set(IPPool::new("p", pool));
    world.set(node("here", "192.168.0.1/24", "10.0.0.64"));
    world.set(node("x", "192.168.1.2/24", "10.0.1.0"));
    world.set(node("y", "192.168.0.3/24", ""));
    let mut block = calico_model::AllocationBlock::new("10.0.1.0/26".parse().unwrap());
    block.affinity = Some("host:x".into());
    block.allocations = vec![None; 64];
    block.allocations[5] = Some(0);
    let mut attr = calico_model::AllocationAttribute::default();
    attr.active_owner_attrs.insert("node".into(), "y".into());
    block.attributes = vec![attr];
    let key = calico_model::Key::Block(calico_model::BlockKey { cidr: block.cidr });
    world.graph.apply(Update::set(key.clone(), Value::Block(Arc::new(block)), 1.into()));
    world.set(pod("here", "a", "10.0.7.7", "web"));

    let routes = &world.mirror.routes;
    let shown: Vec<String> = routes
        .values()
        .map(|r| {
            let node = r.node.as_deref().unwrap_or("-");
            format!("{} {:?} {node} {:?} borrowed={}", r.dst, r.kind, r.tunnel, r.borrowed)
        })
        .collect();
    assert_eq!(
        shown,
        [
            "10.0.0.0/16 Pool - None borrowed=false",
            "10.0.0.64/32 LocalTunnel here None borrowed=false",
            "10.0.1.0/26 RemoteWorkload x Vxlan borrowed=false",
            "10.0.1.0/32 RemoteTunnel x Vxlan borrowed=false",
            "10.0.1.5/32 RemoteWorkload y None borrowed=true",
            "10.0.7.7/32 LocalWorkload here None borrowed=false",
            "192.168.0.1/32 LocalHost here None borrowed=false",
            "192.168.0.3/32 RemoteHost y None borrowed=false",
            "192.168.1.2/32 RemoteHost x None borrowed=false",
        ]
    );
    assert_eq!(world.mirror.vteps.len(), 2);
    assert_eq!(world.mirror.hosts.len(), 3);
    assert!(world.mirror.encapsulation.unwrap().vxlan);
    world.graph.apply(Update { key, value: None, revision: 3.into() });
    world.delete(node("x", "", ""));
    world.delete(node("y", "", ""));
    world.delete(node("here", "", ""));
    world.delete(pod("here", "a", "", ""));
    world.delete(IPPool::new("p", IPPoolSpec::default()));
    assert!(world.mirror.routes.is_empty() && world.mirror.hosts.is_empty() && world.mirror.vteps.is_empty());
}
