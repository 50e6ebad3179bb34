//! What people read when they ask why a packet is allowed or denied.

#![allow(clippy::unwrap_used)]

mod support;

use calico_model::{
    Action, EntityRule, NetworkPolicy, NetworkPolicySpec, PolicyType, Port, Profile, ProfileSpec, Protocol,
    Rule, StagedNetworkPolicy, StagedNetworkPolicySpec, Update, WorkloadEndpoint, WorkloadEndpointSpec,
};
use calico_policy::oracle::World;
use calico_policy::packet::Packet;
use calico_policy::scenario::{Dice, cluster, packet};
use calico_policy::verdict::{Reason, RuleOwner, Staged, Verdict};
use expect_test::expect;
use support::put;

fn pod(name: &str, ip: &str, role: &str) -> Update {
    let spec = WorkloadEndpointSpec {
        orchestrator: "k8s".into(),
        node: "n".into(),
        pod: name.into(),
        endpoint: "eth0".into(),
        interface_name: format!("cali{name}"),
        ip_networks: vec![ip.into()],
        profiles: vec!["kns.prod".into()],
        ..WorkloadEndpointSpec::default()
    };
    let mut endpoint = WorkloadEndpoint::new(format!("n-k8s-{name}-eth0"), spec).in_namespace("prod");
    endpoint.metadata.labels.insert("role".into(), role.into());
    put(endpoint)
}

fn world() -> World {
    let allow = Rule { action: Action::Allow, ..Rule::default() };
    let mut profile =
        ProfileSpec { ingress: vec![allow.clone()], egress: vec![allow.clone()], ..ProfileSpec::default() };
    profile.labels_to_apply.insert("pcns.env".into(), "live".into());
    let rule = Rule {
        action: Action::Allow,
        protocol: Some(Protocol::tcp()),
        source: EntityRule {
            selector: "role == 'fe'".into(),
            namespace_selector: "env == 'live'".into(),
            ..EntityRule::default()
        },
        destination: EntityRule { ports: vec![Port::single(5432)], ..EntityRule::default() },
        ..Rule::default()
    };
    let db = NetworkPolicySpec {
        selector: "role == 'db'".into(),
        ingress: vec![rule],
        types: vec![PolicyType::Ingress],
        ..NetworkPolicySpec::default()
    };
    let open = StagedNetworkPolicySpec {
        selector: "role == 'db'".into(),
        ingress: vec![allow],
        types: vec![PolicyType::Ingress],
        ..StagedNetworkPolicySpec::default()
    };
    World::new([
        put(Profile::new("kns.prod", profile)),
        pod("fe", "10.0.0.2/32", "fe"),
        pod("job", "10.0.0.3/32", "job"),
        pod("db", "10.0.0.1/32", "db"),
        put(NetworkPolicy::new("db", db).in_namespace("prod")),
        put(StagedNetworkPolicy::new("open", open).in_namespace("prod")),
    ])
}

fn tcp(src: &str, dst: &str, port: u16) -> Packet {
    Packet::tcp(src.parse().unwrap(), dst.parse().unwrap(), port)
}

#[test]
fn an_allowed_packet() {
    expect![[r#"
        10.0.0.2 (pod prod/fe) -> 10.0.0.1 (pod prod/db) TCP 5432: allowed
          egress of pod prod/fe: allowed (profile kns.prod, egress[0])
            profile kns.prod
                egress[0] Allow applies
          ingress of pod prod/db: allowed (tier default, np/prod/db, ingress[0])
            tier default, default Deny
              policy np/prod/db, since the endpoint has role = "db" and has projectcalico.org/namespace = "prod"
                ingress[0] Allow applies
                  pod prod/fe has pcns.env = "live" from profile kns.prod
                  pod prod/fe has role = "fe"
    "#]].assert_eq(&world().trace(&tcp("10.0.0.2", "10.0.0.1", 5432)).to_string());
}

#[test]
fn a_denied_packet() {
    expect![[r#"
        10.0.0.3 (pod prod/job) -> 10.0.0.1 (pod prod/db) TCP 5432: denied
          egress of pod prod/job: allowed (profile kns.prod, egress[0])
            profile kns.prod
                egress[0] Allow applies
          ingress of pod prod/db: denied (no rule of tier default matched and its default is Deny)
            tier default, default Deny
              policy np/prod/db, since the endpoint has role = "db" and has projectcalico.org/namespace = "prod"
                ingress[0] Allow does not apply: source.selector
                  pod prod/job has role = "job", so not role == "fe"
            with staged policies enforced: allowed (tier default, snp/prod/open, ingress[0])
    "#]].assert_eq(&world().trace(&tcp("10.0.0.3", "10.0.0.1", 5432)).to_string());
}

#[test]
fn why_denied() {
    expect![[r#"
        ingress of pod prod/db denies: no rule of tier default matched and its default is Deny
          np/prod/db ingress[0] would allow, but source.selector is not met: pod prod/job has role = "job", so not role == "fe"
    "#]]
    .assert_eq(&world().why_denied(&tcp("10.0.0.3", "10.0.0.1", 5432)).unwrap().to_string());
    expect![[r#"
        ingress of pod prod/db denies: no rule of tier default matched and its default is Deny
          np/prod/db ingress[0] would allow, but destination.ports is not met
    "#]]
    .assert_eq(&world().why_denied(&tcp("10.0.0.2", "10.0.0.1", 80)).unwrap().to_string());
    assert_eq!(world().why_denied(&tcp("10.0.0.2", "10.0.0.1", 5432)), None);
}

/// Whatever the trace shows last is what the evaluator names as the reason.
#[test]
fn traces_end_where_the_evaluator_decides() {
    let mut ended = 0;
    for seed in 0..150 {
        let world = World::new(cluster(seed));
        let mut dice = Dice::new(seed);
        for _ in 0..20 {
            let packet = packet(&mut dice);
            let (trace, flow) = (world.trace(&packet), world.evaluate(&packet, Staged::Ignored));
            assert_eq!(trace.verdict, flow.verdict);
            let last = flow.ingress.or(flow.egress);
            let Some((_, outcome)) = last else { continue };
            let hop = trace.hops.last().unwrap();
            match outcome.reason {
                Reason::Rule(rule) => {
                    let list = match rule.owner {
                        RuleOwner::Policy { .. } => hop.tiers.last().unwrap().policies.last().unwrap(),
                        RuleOwner::Profile(_) => hop.profiles.last().unwrap(),
                    };
                    let shown = list.rules.last().unwrap();
                    assert!(shown.applies && shown.index == rule.index, "seed {seed}: {trace}");
                    ended += 1;
                }
                Reason::EndOfTier(tier) => assert_eq!(hop.tiers.last().unwrap().tier, *tier),
                _ => assert_eq!(hop.verdict, Verdict::Deny),
            }
        }
    }
    assert!(ended > 300, "{ended}");
}
