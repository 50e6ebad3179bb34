//! Policies at the limits: enormous, empty, contradictory, unreadable; through the graph into the real kernel.

use std::sync::Arc;

use calico_model::{
    Action, AnyResource, EntityRule, NetworkPolicy, NetworkPolicySpec, PolicyType, Port, Profile,
    ProfileSpec, Protocol, Rule, Update, Value, WorkloadEndpoint, WorkloadEndpointSpec,
};
use calico_policy::{Graph, GraphConfig};

use super::compile::TABLE;
use super::config::Config;
use super::dataplane::Dataplane;
use super::kernel::Kernel;
use super::tests::in_namespace;
use crate::driver::{InterfaceState, PolicyDataplane};

fn put(resource: impl Into<AnyResource>) -> Update {
    let resource = resource.into();
    Update::set(resource.key(), Value::Resource(Arc::new(resource)), 1.into())
}

fn node() -> Vec<Update> {
    let spec = WorkloadEndpointSpec {
        orchestrator: "k8s".into(),
        node: "n".into(),
        pod: "a".into(),
        endpoint: "eth0".into(),
        interface_name: "calia".into(),
        ip_networks: vec!["10.0.0.1/32".into(), "fd00::1/128".into()],
        profiles: vec!["kns.x".into()],
        ..WorkloadEndpointSpec::default()
    };
    vec![
        put(Profile::new("kns.x", ProfileSpec::default())),
        put(WorkloadEndpoint::new("n-k8s-a-eth0", spec).in_namespace("x")),
    ]
}

fn policy(name: &str, selector: &str, ingress: Vec<Rule>) -> Update {
    let spec = NetworkPolicySpec {
        selector: selector.into(),
        ingress,
        types: vec![PolicyType::Ingress],
        ..NetworkPolicySpec::default()
    };
    put(NetworkPolicy::new(name, spec).in_namespace("x"))
}

fn allow(source: EntityRule, destination: EntityRule) -> Rule {
    Rule { action: Action::Allow, protocol: Some(Protocol::tcp()), source, destination, ..Rule::default() }
}

/// Programs the node's policy, finds the kernel with exactly that, and a second process with nothing to do. How many
/// problems were reported.
fn program(updates: Vec<Update>) -> usize {
    let mut graph = Graph::new(GraphConfig { node: "n".into(), ..GraphConfig::default() });
    updates.into_iter().for_each(|update| graph.apply(update));
    graph.in_sync();
    let changes = graph.flush();
    let mut dataplane = Dataplane::open(Config::default()).unwrap();
    let report = dataplane.apply(&changes, &InterfaceState::default()).unwrap();
    assert!(report.failed_endpoints.is_empty(), "{report:?}");
    let dump = Kernel::open().unwrap().dump(TABLE).unwrap().ruleset;
    assert!(dump == *dataplane.compiler().table().desired());
    let mut next = Dataplane::open(Config::default()).unwrap();
    assert_eq!(next.apply(&changes, &InterfaceState::default()).unwrap().messages, 0);
    changes.problems.map_or(0, |problems| problems.len())
}

#[test]
fn fifty_thousand_cidrs_in_one_rule() {
    in_namespace("fifty_thousand_cidrs_in_one_rule", || {
        // None next to another, so that nothing can be aggregated.
        let nets = |v6: bool| {
            (0..25_000u32).map(move |n| match v6 {
                false => format!("{}.{}.{}.0/25", 20 + n / 65_536, n / 256 % 256, n % 256),
                true => format!("2001:db8:{n:x}::/49"),
            })
        };
        let source = EntityRule { nets: nets(false).chain(nets(true)).collect(), ..EntityRule::default() };
        let mut updates = node();
        updates.push(policy("wide", "all()", vec![allow(source, EntityRule::default())]));
        assert_eq!(program(updates), 0);
    });
}

#[test]
fn every_port_one_by_one() {
    in_namespace("every_port_one_by_one", || {
        let ports = |step: usize| EntityRule {
            ports: (1..=u16::MAX).step_by(step).map(Port::single).collect(),
            ..EntityRule::default()
        };
        // All of them are one range; every second one is 32,768 elements.
        let rules = vec![allow(EntityRule::default(), ports(1)), allow(ports(2), ports(2))];
        let mut updates = node();
        updates.push(policy("ports", "all()", rules));
        assert_eq!(program(updates), 0);
    });
}

#[test]
fn names_that_are_longer_than_any_limit() {
    in_namespace("names_that_are_longer_than_any_limit", || {
        let mut updates = node();
        for letter in ["a", "b"] {
            // The same but for their end, which no name in the kernel has room for.
            let name = format!("{}{letter}", "n".repeat(300));
            let log = Rule { action: Action::Log, ..Rule::default() };
            let peer = EntityRule { selector: format!("role == '{name}'"), ..EntityRule::default() };
            updates.push(policy(&name, "all()", vec![log, allow(peer, EntityRule::default())]));
        }
        program(updates);
    });
}

#[test]
fn contradictory_and_empty_policies() {
    in_namespace("contradictory_and_empty_policies", || {
        let never = Rule {
            action: Action::Allow,
            protocol: Some(Protocol::udp()),
            not_protocol: Some(Protocol::udp()),
            ..Rule::default()
        };
        let nothing = EntityRule {
            nets: vec!["10.0.0.0/8".into()],
            not_nets: vec!["0.0.0.0/0".into()],
            ..EntityRule::default()
        };
        let backwards = EntityRule { ports: vec![Port::Range(9, 3)], ..EntityRule::default() };
        let mut updates = node();
        updates.push(policy("empty", "all()", Vec::new()));
        updates.push(policy(
            "never",
            "all()",
            vec![never, allow(nothing, EntityRule::default()), allow(EntityRule::default(), backwards)],
        ));
        program(updates);
    });
}

/// Nothing that arrives from the store stops the rest; it closes, and it is reported.
#[test]
fn unreadable_selectors_fail_closed_and_are_reported() {
    in_namespace("unreadable_selectors_fail_closed_and_are_reported", || {
        let broken = EntityRule { selector: "role ==".into(), ..EntityRule::default() };
        let mut updates = node();
        updates.push(policy("subject", "role ==", vec![Rule { action: Action::Allow, ..Rule::default() }]));
        updates.push(policy("peer", "all()", vec![allow(broken, EntityRule::default())]));
        assert!(program(updates) >= 2, "both are reported");
        let dump = Kernel::open().unwrap().dump(TABLE).unwrap().ruleset;
        let accepts = |name: &str| {
            dump.chains[name]
                .rules
                .iter()
                .any(|rule| rule.exprs.contains(&super::expr::Expr::Verdict(super::expr::Verdict::Accept)))
        };
        assert!(!accepts("cali-pi-np/x/subject") && !accepts("cali-pi-np/x/peer"));
    });
}
