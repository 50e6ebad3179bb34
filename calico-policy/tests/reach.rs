//! Matrix, simulation and lint on a small cluster, and on random ones against the evaluator.

#![allow(clippy::unwrap_used)]

mod support;

use calico_model::{
    Action, GlobalNetworkPolicy, GlobalNetworkPolicySpec, HttpMatch, NetworkPolicy, Protocol, Rule,
    ServiceMatch, Update, WorkloadEndpoint, WorkloadEndpointSpec,
};
use calico_policy::oracle::{Cell, Concern, World};
use calico_policy::scenario::cluster;
use expect_test::expect;
use support::{allow_from, open_profile, put};

fn pod(name: &str, ip: &str, role: &str) -> Update {
    let spec = WorkloadEndpointSpec {
        pod: name.into(),
        interface_name: format!("cali{name}"),
        ip_networks: vec![ip.into()],
        profiles: vec!["kns.prod".into()],
        ..WorkloadEndpointSpec::default()
    };
    let mut endpoint = WorkloadEndpoint::new(name, spec).in_namespace("prod");
    endpoint.metadata.labels.insert("role".into(), role.into());
    put(endpoint)
}

fn policy(name: &str, selector: &str, ingress: Vec<Rule>) -> NetworkPolicy {
    support::policy("prod", name, selector, ingress)
}

fn base() -> Vec<Update> {
    vec![
        put(open_profile("kns.prod")),
        pod("fe1", "10.0.0.2/32", "fe"),
        pod("fe2", "10.0.0.3/32", "fe"),
        pod("db", "10.0.0.1/32", "db"),
    ]
}

#[test]
fn a_matrix_of_groups() {
    let mut updates = base();
    updates.push(put(policy("db", "role == 'db'", vec![allow_from("fe", 5432)])));
    let matrix = World::new(updates).matrix(None);
    expect![[r#"
        from \ to          pod prod/db  pod prod/fe1 (+1)  outside
        pod prod/db        n/a          all                all
        pod prod/fe1 (+1)  TCP 5432     all                all
        outside            -            all                n/a
    "#]]
    .assert_eq(&matrix.to_string());
    assert!(matrix.to_svg().contains("pod prod/fe1 (+1) to pod prod/db: TCP 5432"));
    let json: serde_json::Value = serde_json::to_value(&matrix).unwrap();
    assert_eq!(json["groups"][1]["members"][1], "pod prod/fe2");
}

#[test]
fn a_simulation_names_what_flips() {
    let mut updates = base();
    let before = World::new(updates.clone());
    updates.push(put(policy("db", "role == 'db'", vec![allow_from("fe", 5432)])));
    let after = World::new(updates);
    expect![[r#"
        7 of 28 combinations change
          pod prod/fe1 (+1) -> pod prod/db ICMP: allowed, then denied (no rule of tier default matched and its default is Deny)
          pod prod/fe1 (+1) -> pod prod/db TCP other: allowed, then denied (no rule of tier default matched and its default is Deny)
          pod prod/fe1 (+1) -> pod prod/db UDP other: allowed, then denied (no rule of tier default matched and its default is Deny)
          outside -> pod prod/db ICMP: allowed, then denied (no rule of tier default matched and its default is Deny)
          outside -> pod prod/db TCP other: allowed, then denied (no rule of tier default matched and its default is Deny)
          outside -> pod prod/db TCP 5432: allowed, then denied (no rule of tier default matched and its default is Deny)
          outside -> pod prod/db UDP other: allowed, then denied (no rule of tier default matched and its default is Deny)
    "#]].assert_eq(&before.simulate(&after).to_string());
    assert!(after.simulate(&after).flips.is_empty());
}

#[test]
fn lint_finds_what_is_most_likely_not_meant() {
    let mut updates = base();
    let wide = Rule { action: Action::Allow, protocol: Some(Protocol::tcp()), ..Rule::default() };
    let never = Rule { protocol: Some(Protocol::udp()), not_protocol: Some(Protocol::udp()), ..wide.clone() };
    let http = Rule { http: Some(HttpMatch::default()), protocol: Some(Protocol::udp()), ..Rule::default() };
    let mut lost = allow_from("nobody", 1);
    lost.protocol = Some(Protocol::udp());
    let service = ServiceMatch { name: "gone".into(), ..ServiceMatch::default() };
    let mut from_service = Rule { action: Action::Allow, ..Rule::default() };
    from_service.protocol = Some(Protocol::Number(132));
    from_service.source.services = Some(service);
    let rules = vec![wide, allow_from("fe", 80), never, http, lost, from_service];
    updates.push(put(policy("rules", "role == 'db'", rules)));
    let log = Rule { action: Action::Log, ..Rule::default() };
    updates.push(put(policy("log", "role == 'fe'", vec![log])));
    updates.push(put(policy("bad", "role ==", vec![])));
    let mut egress = policy("types", "pcns.env == 'x'", vec![]);
    egress.spec.egress = vec![Rule { action: Action::Allow, ..Rule::default() }];
    egress.spec.tier = "ghost".into();
    updates.push(put(egress));
    let spec = GlobalNetworkPolicySpec { pre_dnat: true, apply_on_forward: true, ..Default::default() };
    updates.push(put(GlobalNetworkPolicy::new("hosts", spec)));
    let mut orphan =
        WorkloadEndpointSpec { pod: "o".into(), interface_name: "calio".into(), ..Default::default() };
    orphan.profiles = vec!["kns.none".into()];
    updates.push(put(WorkloadEndpoint::new("o", orphan).in_namespace("prod")));
    let lines: Vec<String> = World::new(updates).lint().iter().map(ToString::to_string).collect();
    expect![[r#"
        warning: gnp/hosts spec: doNotTrack, preDNAT and applyOnForward concern host endpoints, and none is selected
        error: np/prod/bad spec.selector: column 8: expected a value in quotes; the policy denies the directions it governs for all workloads in scope
        warning: np/prod/log spec.ingress: the policy only logs, and thereby denies all ingress that no later policy of the tier allows
        warning: np/prod/rules spec.ingress[1]: ingress[0] takes every packet that this rule is meant for
        warning: np/prod/rules spec.ingress[2]: no packet can meet all criteria of this rule
        warning: np/prod/rules spec.ingress[3].http: without an application-layer proxy on the endpoint every request is allowed, whatever its method and path
        warning: np/prod/rules spec.ingress[4]: ingress[3] takes every packet that this rule is meant for
        note: np/prod/rules spec.ingress[4].source.selector: no endpoint or network set matches
        note: np/prod/rules spec.ingress[5].source.services: service prod/gone has no endpoints
        warning: np/prod/types spec.egress: the policy does not govern egress, so these rules do nothing; add it to types
        note: np/prod/types spec.ingress: no rules: all ingress that no other policy of the tier allows is denied
        warning: np/prod/types spec.selector: label `pcns.env` has a reserved prefix; use namespaceSelector or serviceAccountSelector instead
        note: np/prod/types spec.selector: no endpoint is selected
        error: np/prod/types spec.tier: tier ghost does not exist; the policy applies after all other tiers, and the tier denies at its end
        warning: pod prod/o spec.profiles: profile kns.none does not exist; what no policy decides is denied"#]].assert_eq(&lines.join("\n"));
}

#[test]
fn random_worlds_simulate_onto_themselves_without_flips() {
    let (mut some, mut shadowed) = (0, 0);
    for seed in 0..5 {
        let world = World::new(cluster(seed));
        assert!(world.simulate(&world).flips.is_empty());
        let matrix = world.matrix(None);
        some += matrix.cells.iter().flatten().filter(|cell| matches!(cell, Cell::Some(_))).count();
        shadowed += world.lint().iter().filter(|finding| finding.concern == Concern::Shadowed).count();
        let other = World::new(cluster(seed + 1000));
        let there = world.simulate(&other);
        for flip in &there.flips {
            assert_ne!(flip.before, flip.after);
        }
    }
    assert!(some > 0 && shadowed > 0, "{some} {shadowed}");
}
