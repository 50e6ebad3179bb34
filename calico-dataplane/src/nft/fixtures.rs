//! Small worlds for the tests: what the policy graph would say about a node with a few pods.

use std::net::IpAddr;
use std::sync::Arc;

use calico_policy::changes::{
    Changes, DefaultAction, Pool, QosControls, SetUpdate, TierPolicies, WorkloadEndpoint, WorkloadEndpointId,
};
use calico_policy::ir::{
    Match, Member, Policy, PolicyId, PolicyKind, PortRanges, Profile, Rule, RuleAction, SetId, SetKind, Side,
};
use ipnet::IpNet;

pub(super) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(super) fn nets(texts: &[&str]) -> Arc<[IpNet]> {
    texts.iter().map(|text| net(text)).collect()
}

pub(super) fn set_id(name: &str) -> SetId {
    SetId(format!("s:{name}").into())
}

pub(super) fn selector_set(name: &str, members: &[&str]) -> SetUpdate {
    let members = members.iter().map(|text| Member::Net(net(text))).collect();
    SetUpdate { id: set_id(name), kind: SetKind::Net, members }
}

pub(super) fn port_set(name: &str, members: &[(&str, u8, u16)]) -> SetUpdate {
    let member = |(addr, protocol, port): &(&str, u8, u16)| Member::AddrPort {
        addr: addr.parse().unwrap(),
        protocol: *protocol,
        port: *port,
    };
    SetUpdate {
        id: SetId(format!("n:{name}").into()),
        kind: SetKind::AddrPort,
        members: members.iter().map(member).collect(),
    }
}

pub(super) fn rule(index: u32, action: RuleAction, matches: &[Match]) -> Rule {
    Rule { index, action, matches: matches.to_vec() }
}

pub(super) fn protocol(number: u8) -> Match {
    Match::Protocol { negated: false, protocols: vec![number] }
}

pub(super) fn from_set(name: &str) -> Match {
    Match::AddrInSet { side: Side::Source, negated: false, set: set_id(name) }
}

pub(super) fn to_ports(ranges: &[(u16, u16)], named: &[&str]) -> Match {
    Match::Ports {
        side: Side::Destination,
        negated: false,
        ranges: PortRanges(ranges.to_vec()),
        named: named.iter().map(|name| SetId(format!("n:{name}").into())).collect(),
    }
}

pub(super) fn policy_id(name: &str) -> PolicyId {
    PolicyId { kind: PolicyKind::NetworkPolicy, namespace: "default".into(), name: name.into() }
}

pub(super) fn policy(name: &str, ingress: &[Rule], egress: &[Rule]) -> Arc<Policy> {
    Arc::new(Policy {
        id: policy_id(name),
        tier: "default".into(),
        ingress: ingress.to_vec(),
        egress: egress.to_vec(),
    })
}

pub(super) fn profile(name: &str, ingress: &[Rule], egress: &[Rule]) -> Arc<Profile> {
    Arc::new(Profile { name: name.into(), ingress: ingress.to_vec(), egress: egress.to_vec() })
}

pub(super) fn tier(
    name: &str,
    default_action: DefaultAction,
    ingress: &[&str],
    egress: &[&str],
) -> TierPolicies {
    TierPolicies {
        tier: name.into(),
        default_action,
        ingress: ingress.iter().map(|name| policy_id(name)).collect(),
        egress: egress.iter().map(|name| policy_id(name)).collect(),
    }
}

pub(super) fn workload_id(name: &str) -> WorkloadEndpointId {
    WorkloadEndpointId {
        orchestrator: "k8s".into(),
        workload: format!("default/{name}").into(),
        endpoint: "eth0".into(),
    }
}

pub(super) fn workload(name: &str, addresses: &[&str], tiers: &[TierPolicies]) -> Arc<WorkloadEndpoint> {
    let host = |text: &&str| IpNet::from(text.parse::<IpAddr>().unwrap());
    Arc::new(WorkloadEndpoint {
        id: workload_id(name),
        interface: format!("cali{name}").into(),
        active: true,
        mac: None,
        nets: addresses.iter().map(host).collect(),
        nat: Vec::new(),
        allowed_source_prefixes: Vec::new(),
        tiers: tiers.into(),
        profiles: Arc::from(["kns.default".into()]),
        qos: QosControls::default(),
    })
}

/// Two web pods that admit clients on named and numeric ports, and one client.
pub(super) fn small_world() -> Changes {
    let web = policy(
        "web",
        &[
            rule(
                0,
                RuleAction::Allow,
                &[protocol(6), from_set("client"), to_ports(&[(80, 80), (8000, 8080)], &["http"])],
            ),
            rule(
                1,
                RuleAction::Deny,
                &[Match::Nets { side: Side::Source, negated: true, nets: nets(&["10.0.0.0/8", "fd00::/8"]) }],
            ),
            rule(2, RuleAction::Log, &[]),
        ],
        &[],
    );
    let guard = policy(
        "guard",
        &[
            rule(0, RuleAction::Pass, &[protocol(6)]),
            rule(1, RuleAction::Deny, &[protocol(17), to_ports(&[(53, 53)], &[])]),
        ],
        &[],
    );
    let tiers = [
        tier("security", DefaultAction::Pass, &["guard"], &[]),
        tier("default", DefaultAction::Deny, &["web"], &[]),
    ];
    let pool = Pool {
        cidr: net("10.65.0.0/16"),
        nat_outgoing: true,
        load_balancer_only: false,
        ipip: Default::default(),
        vxlan: Default::default(),
    };
    Changes {
        sets: vec![
            selector_set("client", &["10.65.0.3/32", "fd00::3/128"]),
            port_set("http", &[("10.65.0.1", 6, 9090), ("fd00::1", 6, 9090)]),
        ],
        policies: vec![guard, web],
        profiles: vec![profile(
            "kns.default",
            &[rule(0, RuleAction::Allow, &[])],
            &[rule(0, RuleAction::Allow, &[])],
        )],
        workload_endpoints: vec![
            workload("web-1", &["10.65.0.1", "fd00::1"], &tiers),
            workload("web-2", &["10.65.0.2", "fd00::2"], &tiers),
            workload("client", &["10.65.0.3", "fd00::3"], &[]),
        ],
        pools: vec![pool],
        ..Changes::default()
    }
}
