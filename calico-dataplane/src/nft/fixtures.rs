//! Small worlds for the tests: what the policy graph would say about a node with a few pods.

use std::net::IpAddr;
use std::sync::Arc;

use calico_policy::changes::{
    Changes, DefaultAction, HostEndpoint, Pool, QosControls, SetUpdate, TierPolicies, WorkloadEndpoint,
    WorkloadEndpointId,
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

pub(super) fn host_endpoint(name: &str, interface: &str, normal: &[TierPolicies]) -> HostEndpoint {
    HostEndpoint {
        name: name.into(),
        interface: interface.into(),
        expected_ips: Vec::new(),
        normal: normal.into(),
        forward: Arc::default(),
        untracked: Arc::default(),
        pre_dnat: Arc::default(),
        profiles: Arc::default(),
        dscp: None,
    }
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

/// A node with everything at once: host endpoints with policy of every kind, floating addresses, tunnels, rate limits.
pub(super) fn large_world() -> (Changes, super::config::Config) {
    let mut world = small_world();
    let allow_ssh = [rule(0, RuleAction::Allow, &[protocol(6), to_ports(&[(22, 22)], &[])])];
    let icmp = |icmp_type, code, negated| Match::Icmp { negated, icmp_type, code };
    world.policies.push(policy("host", &allow_ssh, &allow_ssh));
    world.policies.push(policy(
        "raw",
        &[rule(0, RuleAction::Allow, &[protocol(17)])],
        &[rule(0, RuleAction::Deny, &[])],
    ));
    let ping = [
        rule(0, RuleAction::Allow, &[protocol(1), icmp(8, None, false)]),
        rule(1, RuleAction::Deny, &[protocol(1), icmp(3, Some(4), true)]),
        rule(
            2,
            RuleAction::Allow,
            &[Match::Family(calico_policy::ir::Family::V6), protocol(58), icmp(128, None, false)],
        ),
        rule(3, RuleAction::Allow, &[Match::Protocol { negated: true, protocols: vec![6, 17] }]),
        rule(
            4,
            RuleAction::Allow,
            &[Match::Ports {
                side: Side::Source,
                negated: true,
                ranges: PortRanges::default(),
                named: vec![SetId("n:http".into())],
            }],
        ),
        rule(
            5,
            RuleAction::Deny,
            &[Match::Nets {
                side: Side::Destination,
                negated: false,
                nets: nets(&["10.0.0.0/9", "192.0.2.1/32", "fe80::/10"]),
            }],
        ),
        rule(
            6,
            RuleAction::Deny,
            &[
                Match::Nets { side: Side::Destination, negated: true, nets: nets(&["10.0.0.0/9"]) },
                protocol(132),
                to_ports(&[(1, 1023)], &[]),
            ],
        ),
    ];
    world.policies.push(policy("ping", &ping, &ping));
    let both = |name: &str| [tier("default", DefaultAction::Deny, &[name], &[name])];
    let pass = |name: &str| [tier("default", DefaultAction::Pass, &[name], &[name])];
    let mut eth0 = host_endpoint("eth0", "eth0", &both("host"));
    eth0.untracked = pass("raw").as_slice().into();
    eth0.pre_dnat = pass("ping").as_slice().into();
    eth0.forward = both("ping").as_slice().into();
    world.host_endpoints = vec![Arc::new(eth0), Arc::new(host_endpoint("all", "*", &both("host")))];
    let mut limited = (*workload("slow", &["10.65.0.8", "fd00::8"], &both("ping"))).clone();
    limited.qos.egress_packet_rate = 100;
    limited.qos.ingress_packet_rate = 200;
    limited.qos.ingress_packet_burst = 20;
    limited.qos.ingress_max_connections = 10;
    limited.qos.dscp = Some(46);
    limited.nat = vec![("192.0.2.8".parse().unwrap(), "10.65.0.8".parse().unwrap())];
    limited.allowed_source_prefixes = vec![net("10.99.0.0/24"), net("fd99::/64")];
    world.workload_endpoints.push(Arc::new(limited));
    let mut stopped = (*workload("stopped", &["10.65.0.7"], &[])).clone();
    stopped.active = false;
    world.workload_endpoints.push(Arc::new(stopped));
    world.encapsulation = Some(calico_policy::changes::Encapsulation {
        ipip: true,
        vxlan: true,
        vxlan_v6: true,
        no_encap: false,
    });
    world.hosts = vec![calico_policy::changes::HostMetadata {
        name: "node-b".into(),
        ipv4: Some("192.0.2.20".parse().unwrap()),
        ipv6: None,
        as_number: None,
    }];
    world.service_cidrs = Some(Arc::new(calico_policy::changes::ServiceCidrs {
        cluster: vec![net("10.96.0.0/12"), net("fd96::/112")],
        external: vec![net("203.0.113.0/24")],
        load_balancer: Vec::new(),
    }));
    let parameters = [
        ("LogPrefix", "calico %t %k %n"),
        ("LogGroup", "5"),
        ("LogActionRateLimit", "10/minute"),
        ("NATPortRange", "32768-65535"),
        ("MasqueradeRandomFully", "true"),
        ("NATOutgoingExclusions", "IPPoolsAndHostIPs"),
        ("WireguardEnabled", "true"),
        ("NftablesFilterDenyAction", "Reject"),
        ("PolicyRuleCounters", "true"),
        ("NFTablesFlowTableOffload", "All"),
        ("FailsafeInboundHostPorts", "tcp:22,udp:10.0.0.0/8:68,tcp:[fd00::/8]:179"),
    ];
    let parameters: std::collections::BTreeMap<String, String> =
        parameters.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let (config, unreadable) = super::config::Config::from_parameters(&parameters);
    assert!(unreadable.is_empty());
    world.config = Some(Arc::new(parameters));
    (world, config)
}
