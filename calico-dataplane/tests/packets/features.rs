//! What the dataplane does besides the policy of pods, each with packets: NAT, loops, host endpoints, allowances, logs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_dataplane::driver::{InterfaceInfo, InterfaceState, PolicyDataplane};
use calico_dataplane::netlink::{
    Address, Conntrack, Family, LinkChange, NextHop, Route, RouteProtocol, Rtnetlink,
};
use calico_dataplane::nft::Dataplane;
use calico_dataplane::nft::compile::TABLE;
use calico_dataplane::nft::config::{Config, LoopPrevention, ToHostAction};
use calico_dataplane::nft::counters::rule_counts;
use calico_dataplane::nft::expr::LogTarget;
use calico_dataplane::nft::kernel::Kernel;
use calico_policy::Changes;
use calico_policy::changes::{
    DefaultAction, HostEndpoint, Pool, QosControls, ServiceCidrs, TierPolicies, WorkloadEndpoint,
    WorkloadEndpointId,
};
use calico_policy::ir::{Match, Policy, PolicyId, PolicyKind, PortRanges, Profile, Rule, RuleAction, Side};
use calico_policy::packet::Packet;

use crate::isolation::isolated;
use crate::pods::{Arrival, NODE_ADDRESS, PODS, Pod, address, forget_connections, interface, node, settle};

const UPLINK: &str = "eth7";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn here() -> IpAddr {
    NODE_ADDRESS
}

fn outside() -> IpAddr {
    ip("192.0.2.2")
}

/// A node with pods and somebody outside, behind the interface [`UPLINK`].
struct Site {
    pods: Vec<Pod>,
    outside: Pod,
    dataplane: Dataplane,
    interfaces: InterfaceState,
    marker: u16,
}

impl Site {
    /// Policy is in force before the first packet, so that whatever comes before a connection (who has which MAC
    /// address, for example) has to get past it as well.
    fn new(config: Config, changes: &Changes) -> Self {
        let pods = node();
        let outside = Pod::connect(UPLINK, &[self::outside(), ip("2001:db8::2")]);
        let mut netlink = Rtnetlink::open().unwrap();
        let index = netlink.link(UPLINK).unwrap().index;
        netlink.add_address(&Address::new(index, "192.0.2.1/32".parse().unwrap())).unwrap();
        let via = NextHop::via(self::outside(), index);
        let services = Route::via("10.96.0.0/16".parse().unwrap(), [via], RouteProtocol::BOOT);
        netlink.replace_route(&services).unwrap();
        netlink.change_link(index, &LinkChange::Up).unwrap();
        let info = InterfaceInfo { index, up: true, addresses: vec![here()] };
        let interfaces = InterfaceState { interfaces: BTreeMap::from([(UPLINK.into(), info)]) };
        let mut site =
            Self { pods, outside, dataplane: Dataplane::open(config).unwrap(), interfaces, marker: 0 };
        site.apply(changes);
        settle(&site.pods);
        forget_connections();
        site
    }

    fn apply(&mut self, changes: &Changes) {
        let report = self.dataplane.apply(changes, &self.interfaces).unwrap();
        assert!(report.failed_endpoints.is_empty(), "{report:?}");
        assert!(report.failed_host_endpoints.is_empty(), "{report:?}");
    }

    /// Sends a packet and says how it arrived, if it did.
    fn send(&mut self, from: End, to: End, packet: &Packet) -> Option<Arrival> {
        self.marker += 1;
        let marker = self.marker;
        self.outside.received();
        self.pods.iter().for_each(|pod| drop(pod.received()));
        assert!(self.end(from).send(packet, marker), "{packet:?}");
        let patience = Instant::now() + Duration::from_millis(60);
        while Instant::now() < patience {
            let mut arrivals = self.end(to).received();
            arrivals.retain(|arrival| arrival.marker == marker);
            if let Some(arrival) = arrivals.pop() {
                return Some(arrival);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        None
    }

    fn end(&self, end: End) -> &Pod {
        match end {
            End::Pod(number) => &self.pods[number],
            End::Outside => &self.outside,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum End {
    Pod(usize),
    Outside,
}

fn udp(src: IpAddr, dst: IpAddr, port: u16) -> Packet {
    // Each from another port, so that each is a connection.
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(20_000);
    let src_port = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    Packet { src_port, ..Packet::udp(src, dst, port) }
}

fn rule(index: u32, action: RuleAction, matches: Vec<Match>) -> Rule {
    Rule { index, action, matches }
}

fn udp_to(port: u16) -> Vec<Match> {
    vec![
        Match::Protocol { negated: false, protocols: vec![17] },
        Match::Ports {
            side: Side::Destination,
            negated: false,
            ranges: PortRanges(vec![(port, port)]),
            named: Vec::new(),
        },
    ]
}

fn udp_from(port: u16) -> Vec<Match> {
    let mut matches = udp_to(port);
    if let Some(Match::Ports { side, .. }) = matches.last_mut() {
        *side = Side::Source;
    }
    matches
}

fn global(name: &str, ingress: Vec<Rule>, egress: Vec<Rule>) -> (PolicyId, Arc<Policy>) {
    let id = PolicyId { kind: PolicyKind::GlobalNetworkPolicy, namespace: "".into(), name: name.into() };
    (id.clone(), Arc::new(Policy { id, tier: "default".into(), ingress, egress }))
}

fn tiers(default_action: DefaultAction, ids: &[PolicyId]) -> Arc<[TierPolicies]> {
    let ids: Arc<[PolicyId]> = ids.into();
    Arc::from([TierPolicies { tier: "default".into(), default_action, ingress: ids.clone(), egress: ids }])
}

/// All pods under a profile that allows everything.
fn open_pods() -> Changes {
    let allow = vec![rule(0, RuleAction::Allow, Vec::new())];
    let profile = Profile { name: "open".into(), ingress: allow.clone(), egress: allow };
    let endpoint = |pod: usize| {
        Arc::new(WorkloadEndpoint {
            id: WorkloadEndpointId {
                orchestrator: "k8s".into(),
                workload: format!("default/p{pod}").into(),
                endpoint: "eth0".into(),
            },
            interface: interface(pod).into(),
            active: true,
            mac: None,
            nets: [false, true].map(|v6| address(pod, v6).into()).to_vec(),
            nat: Vec::new(),
            allowed_source_prefixes: Vec::new(),
            tiers: Arc::default(),
            profiles: Arc::from([Arc::from("open")]),
            qos: QosControls::default(),
        })
    };
    Changes {
        profiles: vec![Arc::new(profile)],
        workload_endpoints: (0..PODS).map(endpoint).collect(),
        ..Changes::default()
    }
}

fn uplink_endpoint() -> HostEndpoint {
    HostEndpoint {
        name: "uplink".into(),
        interface: UPLINK.into(),
        expected_ips: vec![here()],
        normal: Arc::default(),
        forward: Arc::default(),
        untracked: Arc::default(),
        pre_dnat: Arc::default(),
        profiles: Arc::from([Arc::from("open")]),
        dscp: None,
    }
}

fn pod_pool() -> Pool {
    Pool {
        cidr: "10.0.0.0/16".parse().unwrap(),
        nat_outgoing: true,
        load_balancer_only: false,
        ipip: Default::default(),
        vxlan: Default::default(),
    }
}

fn pods_leave_under_the_address_of_the_node() {
    let changes = Changes { pools: vec![pod_pool()], ..open_pods() };
    let mut site = Site::new(Config::default(), &changes);
    let pod = address(0, false);
    let left = site.send(End::Pod(0), End::Outside, &udp(pod, outside(), 9)).unwrap();
    assert_eq!(left.source, here(), "masqueraded");
    let stayed = site.send(End::Pod(0), End::Pod(1), &udp(pod, address(1, false), 9)).unwrap();
    assert_eq!(stayed.source, pod, "inside of the pool as it is");
    let mut pool = pod_pool();
    pool.nat_outgoing = false;
    site.apply(&Changes { pools: vec![pool], ..Changes::default() });
    forget_connections();
    let left = site.send(End::Pod(0), End::Outside, &udp(pod, outside(), 9)).unwrap();
    assert_eq!(left.source, pod, "the pool does not masquerade any more");
}

#[test]
fn nat_outgoing() {
    isolated("features::nat_outgoing", pods_leave_under_the_address_of_the_node);
}

fn packets_to_nowhere_do_not_loop() {
    let services = ServiceCidrs { cluster: vec!["10.96.0.0/16".parse().unwrap()], ..ServiceCidrs::default() };
    let changes = Changes { service_cidrs: Some(Arc::new(services)), ..open_pods() };
    let config = Config { loop_prevention: LoopPrevention::Disabled, ..Config::default() };
    let mut site = Site::new(config, &changes);
    let packet = || udp(outside(), ip("10.96.0.5"), 53);
    assert!(site.send(End::Outside, End::Outside, &packet()).is_some(), "without prevention it comes back");
    drop(std::mem::replace(&mut site.dataplane, Dataplane::open(Config::default()).unwrap()));
    site.apply(&changes);
    assert_eq!(site.send(End::Outside, End::Outside, &packet()), None);
    assert!(site.send(End::Outside, End::Pod(0), &udp(outside(), address(0, false), 53)).is_some());
}

#[test]
fn service_loops() {
    isolated("features::service_loops", packets_to_nowhere_do_not_loop);
}

fn sources_and_allowances_of_pods() {
    let mut changes = open_pods();
    Arc::make_mut(&mut changes.workload_endpoints[1]).allowed_source_prefixes =
        vec!["10.9.0.0/24".parse().unwrap()];
    let config = Config { to_host: ToHostAction::Return, ..Config::default() };
    // That the pods could be settled under policy says that neighbour discovery passes.
    let mut site = Site::new(config, &changes);
    let to = address(2, false);
    assert_eq!(site.send(End::Pod(0), End::Pod(2), &udp(ip("10.9.0.7"), to, 9)), None, "spoofed");
    assert!(site.send(End::Pod(1), End::Pod(2), &udp(ip("10.9.0.7"), to, 9)).is_some(), "allowed to");
    assert_eq!(site.send(End::Pod(1), End::Pod(2), &udp(ip("10.9.1.7"), to, 9)), None);
    let v6 = udp(ip("fd00::99"), address(2, true), 9);
    assert_eq!(site.send(End::Pod(0), End::Pod(2), &v6), None, "spoofed");

    // DHCP of somebody without an address reaches the node, anything else from there does not.
    let server = UdpSocket::bind("0.0.0.0:67").unwrap();
    server.set_read_timeout(Some(Duration::from_millis(60))).unwrap();
    let heard = || server.recv_from(&mut [0; 64]).ok().map(|(_, from)| (from.ip(), from.port()));
    site.pods[4].lose_address();
    let shout = |site: &Site, port: u16| {
        let sent = site.pods[4].run(|| {
            let socket = UdpSocket::bind(("0.0.0.0", port)).unwrap();
            socket.set_broadcast(true).unwrap();
            socket.send_to(&[1], "255.255.255.255:67").is_ok()
        });
        assert!(sent);
    };
    shout(&site, 68);
    assert_eq!(heard(), Some((ip("0.0.0.0"), 68)), "DHCP");
    shout(&site, 69);
    assert_eq!(heard(), None);
    let to_node = udp(address(0, false), here(), 67);
    assert!(site.pods[0].send(&to_node, 900));
    assert_eq!(heard(), Some((to_node.src, to_node.src_port)), "DefaultEndpointToHostAction Return");
    drop(std::mem::replace(&mut site.dataplane, Dataplane::open(Config::default()).unwrap()));
    site.apply(&changes);
    forget_connections();
    assert!(site.pods[0].send(&udp(address(0, false), here(), 67), 901));
    assert_eq!(heard(), None, "DefaultEndpointToHostAction Drop");
}

#[test]
fn anti_spoofing_dhcp_and_workload_to_host() {
    isolated("features::anti_spoofing_dhcp_and_workload_to_host", sources_and_allowances_of_pods);
}

/// Whether a UDP packet from outside reaches a socket of the node.
fn node_hears(site: &mut Site, port: u16) -> bool {
    let socket = UdpSocket::bind(("192.0.2.1", port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(60))).unwrap();
    site.marker += 1;
    assert!(site.outside.send(&udp(outside(), here(), port), site.marker));
    socket.recv_from(&mut [0; 64]).is_ok()
}

fn the_node_itself_is_policed() {
    let (id, policy) = global(
        "host",
        vec![rule(0, RuleAction::Allow, udp_to(7001))],
        vec![rule(0, RuleAction::Allow, udp_to(7001))],
    );
    let mut endpoint = uplink_endpoint();
    endpoint.profiles = Arc::default();
    let mut site = Site::new(Config::default(), &open_pods());
    assert!(node_hears(&mut site, 7000), "without a host endpoint everything passes");
    endpoint.normal = tiers(DefaultAction::Deny, &[id]);
    site.apply(&Changes {
        policies: vec![policy],
        host_endpoints: vec![Arc::new(endpoint.clone())],
        ..Changes::default()
    });
    forget_connections();
    assert!(!node_hears(&mut site, 7000));
    assert!(node_hears(&mut site, 7001), "allowed");
    assert!(node_hears(&mut site, 68), "failsafe");
    let to_pod = || udp(outside(), address(0, false), 7000);
    assert!(site.send(End::Outside, End::Pod(0), &to_pod()).is_some(), "forwarded traffic is not concerned");
    // What the node sends: 7001 and DNS (failsafe), nothing else.
    let socket = UdpSocket::bind("192.0.2.1:0").unwrap();
    let leaves = |site: &Site, port: u16| {
        site.outside.received();
        let _ = socket.send_to(&[], (outside(), port));
        std::thread::sleep(Duration::from_millis(10));
        !site.outside.received().is_empty()
    };
    assert!(leaves(&site, 7001) && leaves(&site, 53) && !leaves(&site, 7000));

    let (id, policy) = global("forward", vec![rule(0, RuleAction::Deny, udp_to(8000))], Vec::new());
    endpoint.forward = tiers(DefaultAction::Pass, &[id]);
    site.apply(&Changes {
        policies: vec![policy],
        host_endpoints: vec![Arc::new(endpoint)],
        ..Changes::default()
    });
    let to_pod = |port| udp(outside(), address(0, false), port);
    assert_eq!(site.send(End::Outside, End::Pod(0), &to_pod(8000)), None, "applyOnForward");
    assert!(site.send(End::Outside, End::Pod(0), &to_pod(8001)).is_some());
}

#[test]
fn host_endpoints_failsafes_and_forwarding() {
    isolated("features::host_endpoints_failsafes_and_forwarding", the_node_itself_is_policed);
}

fn policy_before_dnat_and_before_tracking() {
    let (id, pre_dnat) = global("pre-dnat", vec![rule(0, RuleAction::Deny, udp_to(6000))], Vec::new());
    let mut endpoint = uplink_endpoint();
    endpoint.pre_dnat = tiers(DefaultAction::Pass, &[id]);
    let (id, untracked) = global(
        "untracked",
        vec![rule(0, RuleAction::Allow, udp_to(7000)), rule(1, RuleAction::Deny, udp_to(7002))],
        vec![rule(0, RuleAction::Allow, udp_from(7000))],
    );
    endpoint.untracked = tiers(DefaultAction::Pass, &[id]);
    let changes = Changes {
        policies: vec![pre_dnat, untracked],
        host_endpoints: vec![Arc::new(endpoint)],
        ..open_pods()
    };
    let mut site = Site::new(Config::default(), &changes);
    let to_pod = |port| udp(outside(), address(0, false), port);
    assert_eq!(
        site.send(End::Outside, End::Pod(0), &to_pod(6000)),
        None,
        "preDNAT concerns forwarded traffic"
    );
    assert!(site.send(End::Outside, End::Pod(0), &to_pod(6001)).is_some());
    assert!(!node_hears(&mut site, 6000), "and that to the node");
    let tracked = |port: u16| {
        let flows = Conntrack::open().unwrap().flows(Family::V4).unwrap();
        flows.iter().any(|flow| {
            matches!(flow.original.ports, calico_dataplane::netlink::conntrack::Ports::Pair(_, to) if to == port)
        })
    };
    assert!(node_hears(&mut site, 7001) && tracked(7001), "no word about it: tracked as usual");
    assert!(node_hears(&mut site, 7000), "allowed untracked");
    assert!(!tracked(7000), "and no connection is remembered");
    assert!(!node_hears(&mut site, 7002), "denied before tracking");
}

#[test]
fn pre_dnat_and_untracked() {
    isolated("features::pre_dnat_and_untracked", policy_before_dnat_and_before_tracking);
}

/// A listener of one NFLOG group; what it hears are the prefixes.
struct LogListener(calico_dataplane::netlink::Socket);

impl LogListener {
    /// `NETLINK_NETFILTER` with a binding (`NFULNL_CFG_CMD_BIND`) to the group.
    fn new(group: u16) -> Self {
        use calico_dataplane::netlink::Socket;
        let mut socket = Socket::open(calico_dataplane::netlink::Protocol::Netfilter).unwrap();
        let mut message = Vec::new();
        message.extend_from_slice(&28u32.to_ne_bytes());
        message.extend_from_slice(&(4u16 << 8 | 1).to_ne_bytes());
        message.extend_from_slice(&1u16.to_ne_bytes());
        message.extend_from_slice(&[0; 10]);
        message.extend_from_slice(&group.to_be_bytes());
        message.extend_from_slice(&5u16.to_ne_bytes());
        message.extend_from_slice(&1u16.to_ne_bytes());
        message.extend_from_slice(&[1, 0, 0, 0]);
        socket.send_raw(&message).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self(socket)
    }

    fn prefixes(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        std::thread::sleep(Duration::from_millis(1200));
        while let Ok(Some(bytes)) = self.0.receive() {
            let text = String::from_utf8_lossy(bytes);
            found.extend(
                text.match_indices("calico-packet")
                    .map(|(at, _)| text[at..].split('\0').next().unwrap_or_default().to_owned()),
            );
        }
        found
    }
}

fn log_rules_write_a_limited_number_of_records() {
    let (id, policy) = global(
        "watched",
        vec![rule(0, RuleAction::Log, udp_to(9)), rule(1, RuleAction::Allow, Vec::new())],
        vec![rule(0, RuleAction::Allow, Vec::new())],
    );
    let mut changes = open_pods();
    Arc::make_mut(&mut changes.workload_endpoints[1]).tiers = tiers(DefaultAction::Deny, &[id]);
    changes.policies.push(policy);
    let config = Config {
        log_target: LogTarget::Group { group: 77, snaplen: 64 },
        log_prefix: "calico-packet %k/%n".into(),
        log_limit: Some((1, 3600, 5)),
        rule_counters: true,
        ..Config::default()
    };
    let mut site = Site::new(config, &changes);
    let mut listener = LogListener::new(77);
    for _ in 0..40 {
        let packet = udp(address(0, false), address(1, false), 9);
        assert!(site.send(End::Pod(0), End::Pod(1), &packet).is_some(), "a log is no verdict");
    }
    let prefixes = listener.prefixes();
    // The packets that settled the pods went to the same port and had a share of the burst.
    assert!(prefixes.len() <= 6, "{prefixes:?}");
    assert!(prefixes.iter().all(|prefix| prefix == "calico-packet gnp/watched: "), "{prefixes:?}");

    let mut kernel = Kernel::open().unwrap();
    let values = kernel.counters(TABLE).unwrap();
    let counts = rule_counts(&kernel.dump(TABLE).unwrap().ruleset, &values);
    let of = |policy: &str, index: u32| {
        let mine = |count: &&calico_dataplane::nft::counters::RuleCount| {
            count.policy == policy && count.direction == "ingress" && count.index == index
        };
        counts.iter().find(mine).map(|count| count.packets).unwrap()
    };
    assert!(of("gnp/watched", 0) >= 40, "{counts:?}");
    assert_eq!(of("gnp/watched", 0), of("gnp/watched", 1), "logged, then allowed");
}

#[test]
fn logs_with_a_rate_limit_and_counters() {
    isolated("features::logs_with_a_rate_limit_and_counters", log_rules_write_a_limited_number_of_records);
}

fn marked_pods_keep_their_class_of_service() {
    let mut changes = Changes { pools: vec![pod_pool()], ..open_pods() };
    Arc::make_mut(&mut changes.workload_endpoints[0]).qos.dscp = Some(46);
    Arc::make_mut(&mut changes.workload_endpoints[1]).qos.dscp = Some(10);
    let mut site = Site::new(Config::default(), &changes);
    let to_outside = |pod| udp(address(pod, false), outside(), 9);
    for (pod, dscp) in [(0, 46), (1, 10), (2, 0)] {
        assert_eq!(site.send(End::Pod(pod), End::Outside, &to_outside(pod)).unwrap().dscp, dscp, "pod {pod}");
    }
    let v6 = udp(address(0, true), ip("2001:db8::2"), 9);
    assert_eq!(site.send(End::Pod(0), End::Outside, &v6).unwrap().dscp, 46, "IPv6");
    let inside = udp(address(0, false), address(2, false), 9);
    assert_eq!(
        site.send(End::Pod(0), End::Pod(2), &inside).unwrap().dscp,
        0,
        "inside of the cluster as it was"
    );
    // No longer wanted.
    Arc::make_mut(&mut changes.workload_endpoints[0]).qos.dscp = None;
    site.apply(&Changes {
        workload_endpoints: vec![changes.workload_endpoints[0].clone()],
        ..Changes::default()
    });
    assert_eq!(site.send(End::Pod(0), End::Outside, &to_outside(0)).unwrap().dscp, 0);
}

#[test]
fn dscp() {
    isolated("features::dscp", marked_pods_keep_their_class_of_service);
}

/// Established connections go through the flowtable and still arrive; an interface that is not there does not stop
/// anything.
fn established_connections_take_the_short_way() {
    let config = Config { flow_offload: true, ..Config::default() };
    let mut site = Site::new(config, &open_pods());
    let state = |names: &[String]| {
        let info =
            |name: &String| (name.as_str().into(), InterfaceInfo { index: 9, up: true, addresses: vec![] });
        InterfaceState { interfaces: names.iter().map(info).collect() }
    };
    let pods: Vec<String> = (0..PODS).map(interface).collect();
    site.interfaces = state(&pods);
    site.apply(&Changes::default());
    let flowtables = || Kernel::open().unwrap().dump(TABLE).unwrap().ruleset.flowtables;
    if flowtables().is_empty() {
        // This kernel has none: what was asked for is left out, and everything else is in force.
        let chains = Kernel::open().unwrap().dump(TABLE).unwrap().ruleset.chains;
        assert!(
            !chains.contains_key("forward-00-offload") && chains.contains_key("forward-20-from-workload")
        );
        println!("not tested: this kernel has no flowtables");
        return;
    }
    assert_eq!(flowtables()["calico"].devices.len(), PODS);
    let forth = udp(address(0, false), address(1, false), 9);
    let back = Packet {
        src: forth.dst,
        dst: forth.src,
        src_port: forth.dst_port,
        dst_port: forth.src_port,
        ..forth
    };
    for _ in 0..5 {
        assert!(site.send(End::Pod(0), End::Pod(1), &forth).is_some());
        assert!(site.send(End::Pod(1), End::Pod(0), &back).is_some());
    }
    // An interface that vanished meanwhile: everything is applied, without the flowtable.
    let ghosts: Vec<String> = pods.iter().cloned().chain(["calighost".to_owned()]).collect();
    site.interfaces = state(&ghosts);
    site.apply(&Changes::default());
    assert!(flowtables().get("calico").is_none_or(|table| !table.devices.contains("calighost")));
    assert!(site.send(End::Pod(0), End::Pod(1), &udp(address(0, false), address(1, false), 9)).is_some());
    // And once the interfaces are known better, it is back.
    site.interfaces = state(&pods);
    site.apply(&Changes::default());
    assert_eq!(flowtables()["calico"].devices.len(), PODS);
}

#[test]
fn flowtable() {
    isolated("features::flowtable", established_connections_take_the_short_way);
}

/// Somebody flushes the table or writes into it: it is repaired at once, and until then nothing is forwarded that should
/// not be longer than the repair takes.
fn foreign_hands_are_undone() {
    let mut changes = open_pods();
    let (id, policy) = global("shut", Vec::new(), Vec::new());
    Arc::make_mut(&mut changes.workload_endpoints[1]).tiers = tiers(DefaultAction::Deny, &[id]);
    changes.policies.push(policy);
    let pods = node();
    settle(&pods);
    let mut dataplane = Dataplane::open(Config::default()).unwrap();
    dataplane.apply(&changes, &InterfaceState::default()).unwrap();
    pods.iter().for_each(|pod| drop(pod.received()));
    let shut = |marker: u16| {
        let packet = udp(address(0, false), address(1, false), 9);
        assert!(pods[0].send(&packet, marker));
        std::thread::sleep(Duration::from_millis(10));
        !pods[1].arrived().contains(&marker)
    };
    forget_connections();
    assert!(shut(1));
    for (marker, script) in [
        (3, format!("flush table inet {TABLE}")),
        (5, format!("delete table inet {TABLE}")),
        (7, format!("insert rule inet {TABLE} forward-30-to-workload accept")),
        (9, "flush ruleset".to_owned()),
    ] {
        let status = std::process::Command::new("nft").arg(&script).status();
        let Ok(status) = status else {
            println!("not tested: nft is not installed");
            return;
        };
        assert!(status.success(), "{script}");
        let start = Instant::now();
        let report = dataplane.repair().unwrap();
        assert!(report.is_some_and(|report| report.messages > 0), "{script}");
        println!("{script}: repaired in {:?}", start.elapsed());
        forget_connections();
        assert!(shut(marker + 1), "{script}");
        let dump = Kernel::open().unwrap().dump(TABLE).unwrap().ruleset;
        assert!(dump == *dataplane.compiler().table().desired(), "{script}");
    }
    let markers: BTreeSet<u16> = pods[1].arrived();
    assert!(markers.is_empty());
}

#[test]
fn foreign_changes_are_repaired() {
    isolated("features::foreign_changes_are_repaired", foreign_hands_are_undone);
}
