//! Real packets between pods in network namespaces: what the kernel lets through is what policy allows, and it stays
//! so while policy changes and the agent is killed.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[path = "netns/isolation.rs"]
#[allow(dead_code)]
mod isolation;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use calico_dataplane::driver::{InterfaceState, PolicyDataplane};
use calico_dataplane::netlink::{Conntrack, Family, LinkChange, Rtnetlink};
use calico_dataplane::netns::NetNs;
use calico_dataplane::nft::Dataplane;
use calico_dataplane::nft::config::Config;
use calico_dataplane::pod::{PodSpec, attach};
use calico_dataplane::sysctl::Sysctl;
use calico_model::{AnyResource, Update, Value};
use calico_policy::ir::Direction;
use calico_policy::packet::Packet;
use calico_policy::scenario::{Dice, NODE, cluster, packet};
use calico_policy::verdict::{Staged, Verdict};
use calico_policy::{Changes, Graph, GraphConfig, Mirror};
use isolation::isolated;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Pods of the node; a cluster has at most five.
const PODS: usize = 5;

fn interface(pod: usize) -> String {
    format!("calip{pod}")
}

fn address(pod: usize, v6: bool) -> IpAddr {
    let low = pod as u8 + 1;
    if v6 {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(low)).into()
    } else {
        Ipv4Addr::new(10, 0, 0, low).into()
    }
}

/// A pod with a socket that sends whole IP packets and one that sees everything that arrives.
struct Pod {
    _namespace: NetNs,
    send_v4: Socket,
    send_v6: Socket,
    sniff: Socket,
}

impl Pod {
    fn new(number: usize) -> Self {
        let namespace = NetNs::create().unwrap();
        let addresses = [address(number, false), address(number, true)];
        attach(&PodSpec::new("eth0", &interface(number), &addresses), &namespace).unwrap();
        let raw = |domain, kind, protocol: i32| {
            namespace
                .run(|| {
                    let socket = Socket::new(domain, kind, Some(Protocol::from(protocol))).unwrap();
                    socket.set_nonblocking(true).unwrap();
                    socket
                })
                .unwrap()
        };
        let every_protocol = i32::from(0x0003u16.to_be());
        Self {
            send_v4: raw(Domain::IPV4, Type::RAW, 255),
            send_v6: raw(Domain::IPV6, Type::RAW, 255),
            sniff: raw(Domain::PACKET, Type::DGRAM, every_protocol),
            _namespace: namespace,
        }
    }

    fn send(&self, packet: &Packet, marker: u16) -> bool {
        let bytes = datagram(packet, marker);
        let to: SockAddr = SocketAddr::new(packet.dst, 0).into();
        let socket = if packet.dst.is_ipv4() { &self.send_v4 } else { &self.send_v6 };
        socket.send_to(&bytes, &to).is_ok()
    }

    /// Markers of everything that arrived.
    fn arrived(&self) -> BTreeSet<u16> {
        let mut markers = BTreeSet::new();
        let mut bytes = [0; 256];
        while (&self.sniff).read(&mut bytes).is_ok() {
            // Neighbour discovery and the like have a life of their own.
            let (protocol, payload, marker) = match bytes.first().map(|byte| byte >> 4) {
                Some(4) => (bytes[9], 20, [bytes[4], bytes[5]]),
                Some(6) => (bytes[6], 40, [bytes[2], bytes[3]]),
                _ => continue,
            };
            let ours = match protocol {
                6 | 17 | 47 => true,
                1 | 58 => matches!(bytes[payload], 8 | 128),
                _ => false,
            };
            if ours {
                markers.insert(u16::from_be_bytes(marker));
            }
        }
        markers
    }
}

/// A whole IP packet; the marker is its IPv4 identification or IPv6 flow label.
fn datagram(packet: &Packet, marker: u16) -> Vec<u8> {
    let mut payload = match packet.protocol {
        1 | 58 => {
            let mut bytes = vec![packet.icmp.0, packet.icmp.1, 0, 0];
            bytes.extend_from_slice(&marker.to_be_bytes());
            bytes.extend_from_slice(&[0, 1]);
            bytes
        }
        // A version of GRE that connection tracking does not look into.
        47 => vec![0, 0, 8, 0],
        _ => [packet.src_port.to_be_bytes(), packet.dst_port.to_be_bytes()].concat(),
    };
    match packet.protocol {
        6 => payload.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0x20, 0, 0, 0, 0, 0]),
        17 => payload.extend_from_slice(&[0, 8, 0, 0]),
        1 | 58 => {}
        _ => payload.extend_from_slice(&[0; 16]),
    }
    let mut bytes;
    match (packet.src, packet.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            bytes = vec![0x45, 0];
            bytes.extend_from_slice(&(20 + payload.len() as u16).to_be_bytes());
            bytes.extend_from_slice(&marker.to_be_bytes());
            bytes.extend_from_slice(&[0, 0, 64, packet.protocol, 0, 0]);
            bytes.extend_from_slice(&src.octets());
            bytes.extend_from_slice(&dst.octets());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            bytes = vec![0x60, 0];
            bytes.extend_from_slice(&marker.to_be_bytes());
            bytes.extend_from_slice(&(payload.len() as u16).to_be_bytes());
            bytes.extend_from_slice(&[packet.protocol, 64]);
            bytes.extend_from_slice(&src.octets());
            bytes.extend_from_slice(&dst.octets());
        }
        _ => panic!("mixed families"),
    }
    bytes.extend_from_slice(&payload);
    bytes
}

/// A node that forwards, with its pods attached.
fn node() -> Vec<Pod> {
    let mut netlink = Rtnetlink::open().unwrap();
    netlink.change_link(1, &LinkChange::Up).unwrap();
    let sysctl = Sysctl::new();
    for (name, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
    ] {
        sysctl.write(name, value).unwrap();
    }
    // Checksums are left out of the packets; only present once connections are tracked.
    let pods: Vec<Pod> = (0..PODS).map(Pod::new).collect();
    let _ = sysctl.write("net/netfilter/nf_conntrack_checksum", "0");
    pods
}

/// Sends until everything about neighbours is known: the first packet may wait for an answer.
fn settle(pods: &[Pod]) {
    for _ in 0..200 {
        let mut marker = 0;
        let mut wanted = BTreeMap::new();
        for (from, pod) in pods.iter().enumerate() {
            for to in (0..PODS).filter(|to| *to != from) {
                for v6 in [false, true] {
                    let packet = Packet::udp(address(from, v6), address(to, v6), 9);
                    marker += 1;
                    pod.send(&packet, marker);
                    wanted.entry(to).or_insert_with(BTreeSet::new).insert(marker);
                }
            }
        }
        std::thread::sleep(Duration::from_millis(25));
        if wanted.iter().all(|(to, markers)| pods[*to].arrived().is_superset(markers)) {
            return;
        }
    }
    panic!("the pods never reached each other without policy");
}

fn forget_connections() {
    let mut conntrack = Conntrack::open().unwrap();
    for family in [Family::V4, Family::V6] {
        let flows = conntrack.flows(family).unwrap();
        conntrack.forget(&flows).unwrap();
    }
}

/// A random cluster whose local pods are the ones attached; without what would need a second node.
fn local_cluster(seed: u64) -> Vec<Update> {
    let mut number = 0;
    let mut updates = cluster(seed);
    updates.retain_mut(|update| {
        let Some(Value::Resource(resource)) = &mut update.value else { return true };
        match Arc::make_mut(resource) {
            AnyResource::WorkloadEndpoint(endpoint) if endpoint.spec.node == NODE => {
                endpoint.spec.interface_name = interface(number);
                endpoint.spec.ip_networks = [false, true].map(|v6| address(number, v6).to_string()).to_vec();
                number += 1;
                number <= PODS
            }
            AnyResource::HostEndpoint(_)
            | AnyResource::IPPool(_)
            | AnyResource::BGPConfiguration(_)
            | AnyResource::FelixConfiguration(_) => false,
            _ => true,
        }
    });
    updates
}

struct World {
    pods: Vec<Pod>,
    dataplane: Dataplane,
    mirror: Mirror,
    graph: Graph,
}

impl World {
    fn new(seed: u64, pods: Vec<Pod>) -> Self {
        let mut graph = Graph::new(GraphConfig { node: NODE.into(), ..GraphConfig::default() });
        local_cluster(seed).into_iter().for_each(|update| graph.apply(update));
        graph.in_sync();
        let mut world = Self {
            pods,
            dataplane: Dataplane::open(Config::default()).unwrap(),
            mirror: Mirror::default(),
            graph,
        };
        world.flush();
        world
    }

    fn flush(&mut self) {
        let changes = self.graph.flush();
        self.mirror.apply(&changes).unwrap();
        let report = self.dataplane.apply(&changes, &InterfaceState::default()).unwrap();
        assert!(report.failed_endpoints.is_empty(), "{:?}", report.failed_endpoints);
    }

    /// What policy says to a packet from one pod to another.
    fn expected(&self, from: usize, to: usize, packet: &Packet) -> bool {
        let verdict = |pod: usize, direction| {
            let name = interface(pod);
            let endpoint = self.mirror.workload_endpoints.values().find(|e| *e.interface == *name);
            endpoint.is_some_and(|endpoint| {
                let outcome = self.mirror.evaluate_workload(&endpoint.id, direction, packet, Staged::Ignored);
                outcome.verdict == Verdict::Allow
            })
        };
        // Only its own addresses: everything else is spoofed.
        let honest = packet.src == address(from, packet.src.is_ipv6());
        honest && verdict(from, Direction::Egress) && verdict(to, Direction::Ingress)
    }
}

/// A packet whose first appearance connection tracking takes for the start of something.
fn plausible(dice: &mut Dice, from: usize, to: usize) -> Packet {
    let mut packet = packet(dice);
    let v6 = packet.dst.is_ipv6();
    packet.dst = address(to, v6);
    // One in sixteen lies about its source.
    packet.src = if dice.one_in(16) { address(to, v6) } else { address(from, v6) };
    match packet.protocol {
        132 => packet.protocol = 17,
        1 | 58 => {
            packet.protocol = if v6 { 58 } else { 1 };
            packet.icmp = (if v6 { 128 } else { 8 }, 0);
        }
        _ => {}
    }
    packet
}

/// What makes a later packet part of the same connection, or of its replies.
fn connection(packet: &Packet) -> [(IpAddr, IpAddr, u8, u16, u16); 2] {
    let ports = if matches!(packet.protocol, 6 | 17) { (packet.src_port, packet.dst_port) } else { (0, 0) };
    let forth = (packet.src, packet.dst, packet.protocol, ports.0, ports.1);
    [forth, (packet.dst, packet.src, packet.protocol, ports.1, ports.0)]
}

fn random_policies_with_real_packets() {
    let clusters: u64 =
        std::env::var("CALICO_CLUSTERS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    let pods = node();
    settle(&pods);
    let mut pods = Some(pods);
    let (mut passed, mut stopped) = (0, 0);
    for seed in 1..=clusters {
        let mut world = World::new(seed, pods.take().unwrap());
        forget_connections();
        let mut dice = Dice::new(!seed);
        let mut seen = BTreeSet::new();
        let mut expected: BTreeMap<usize, BTreeMap<u16, (bool, Packet)>> = BTreeMap::new();
        for pod in &world.pods {
            pod.arrived();
        }
        for marker in 1..=120u16 {
            let from = dice.below(PODS);
            let to = (from + 1 + dice.below(PODS - 1)) % PODS;
            let packet = plausible(&mut dice, from, to);
            if connection(&packet).iter().any(|key| seen.contains(key)) {
                continue;
            }
            seen.extend(connection(&packet));
            let allowed = world.expected(from, to, &packet);
            assert!(world.pods[from].send(&packet, marker), "{packet:?}");
            expected.entry(to).or_default().insert(marker, (allowed, packet));
        }
        std::thread::sleep(Duration::from_millis(3));
        for (to, packets) in expected {
            let arrived = world.pods[to].arrived();
            for (marker, (allowed, packet)) in packets {
                assert_eq!(arrived.contains(&marker), allowed, "seed {seed}, to pod {to}: {packet:?}");
                if allowed { passed += 1 } else { stopped += 1 }
            }
        }
        // The next cluster finds this one's table and changes it into its own.
        world.graph.flush();
        pods = Some(world.pods);
    }
    println!("{clusters} clusters: {passed} packets passed, {stopped} were stopped");
    assert!(passed > clusters && stopped > clusters, "{passed} {stopped}");
}

#[test]
fn packets_pass_exactly_where_policy_allows() {
    isolated("packets_pass_exactly_where_policy_allows", random_policies_with_real_packets);
}

/// Policy from the tests' own hand: pod 1 admits pod 0 on one UDP port and nobody else.
fn one_door(extra_rules: u32) -> Changes {
    use calico_policy::changes::{
        DefaultAction, QosControls, SetUpdate, TierPolicies, WorkloadEndpoint, WorkloadEndpointId,
    };
    use calico_policy::ir::{
        Match, Member, Policy, PolicyId, PolicyKind, PortRanges, Rule, RuleAction, SetId, SetKind, Side,
    };
    let id = PolicyId { kind: PolicyKind::NetworkPolicy, namespace: "default".into(), name: "door".into() };
    let set = SetId("s:friends".into());
    let port = |port| Match::Ports {
        side: Side::Destination,
        negated: false,
        ranges: PortRanges(vec![(port, port)]),
        named: Vec::new(),
    };
    let udp = Match::Protocol { negated: false, protocols: vec![17] };
    let rule = |index, action, matches| Rule { index, action, matches };
    let mut ingress: Vec<Rule> = (0..extra_rules)
        .map(|index| rule(index, RuleAction::Deny, vec![udp.clone(), port(20_000 + index as u16)]))
        .collect();
    let friends = Match::AddrInSet { side: Side::Source, negated: false, set: set.clone() };
    ingress.push(rule(extra_rules, RuleAction::Allow, vec![udp, friends, port(4242)]));
    let everything = vec![rule(0, RuleAction::Allow, Vec::new())];
    let policy = Policy { id: id.clone(), tier: "default".into(), ingress, egress: everything };
    let endpoint = |pod: usize| {
        let ids: Arc<[PolicyId]> = Arc::from([id.clone()]);
        let tier = TierPolicies {
            tier: "default".into(),
            default_action: DefaultAction::Deny,
            ingress: ids.clone(),
            egress: ids,
        };
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
            tiers: Arc::from([tier]),
            profiles: Arc::default(),
            qos: QosControls::default(),
        })
    };
    Changes {
        sets: vec![SetUpdate {
            id: set,
            kind: SetKind::Net,
            members: vec![Member::Net(address(0, false).into()), Member::Net(address(0, true).into())],
        }],
        policies: vec![Arc::new(policy)],
        workload_endpoints: (0..PODS).map(endpoint).collect(),
        ..Changes::default()
    }
}

/// Policies churn, the table is rewritten, and the agent is killed and restarted a hundred times, while a prober sends
/// new connections all the time: none that is allowed is lost, none that is denied gets through.
fn churn_and_kills_leave_no_gap() {
    let restarts: usize =
        std::env::var("CALICO_RESTARTS").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    let pods = node();
    settle(&pods);
    let mut dataplane = Some(Dataplane::open(Config::default()).unwrap());
    dataplane.as_mut().unwrap().apply(&one_door(0), &InterfaceState::default()).unwrap();
    forget_connections();
    pods.iter().for_each(|pod| drop(pod.arrived()));

    let stop = AtomicBool::new(false);
    let probes = std::thread::scope(|scope| {
        let prober = scope.spawn(|| probe(&pods, &stop));
        for round in 0..restarts {
            let mut current = dataplane.take().unwrap();
            // The policy that decides, and its set, change on the way.
            for extra in [3, 0, 1] {
                let mut changes = one_door(extra);
                changes.workload_endpoints.truncate(1 + round % PODS);
                current.apply(&changes, &InterfaceState::default()).unwrap();
            }
            // Killed: nothing is cleaned up, and the next one starts from what the kernel holds.
            drop(current);
            let mut next = Dataplane::open(Config::default()).unwrap();
            next.apply(&one_door(round as u32 % 4), &InterfaceState::default()).unwrap();
            dataplane = Some(next);
        }
        stop.store(true, Ordering::SeqCst);
        prober.join().unwrap()
    });
    println!("{restarts} kills: {} connections tried of each kind", probes);
    assert!(probes > restarts, "the prober kept pace: {probes}");
}

/// New connections of both kinds until told to stop; answers how many of each.
fn probe(pods: &[Pod], stop: &AtomicBool) -> usize {
    let mut marker = 0u16;
    let mut rounds = 0;
    while !stop.load(Ordering::SeqCst) {
        // A marker and a source port of its own for each, so that every packet begins a connection.
        marker = marker.wrapping_add(2) | 1;
        rounds += 1;
        let v6 = rounds % 2 == 0;
        let mut allowed = Packet::udp(address(0, v6), address(1, v6), 4242);
        allowed.src_port = 10_000 + (rounds % 50_000) as u16;
        let mut denied = Packet { src: address(2, v6), ..allowed };
        denied.src_port = allowed.src_port;
        assert!(pods[0].send(&allowed, marker));
        assert!(pods[2].send(&denied, marker.wrapping_add(1)));
        let mut arrived = BTreeSet::new();
        for _ in 0..200 {
            arrived.extend(pods[1].arrived());
            if arrived.contains(&marker) {
                break;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        assert!(arrived.contains(&marker), "an allowed connection was lost in round {rounds}");
        assert!(
            !arrived.contains(&marker.wrapping_add(1)),
            "a denied connection got through in round {rounds}"
        );
    }
    rounds
}

#[test]
fn no_gap_while_policy_changes_and_the_agent_is_killed() {
    isolated("no_gap_while_policy_changes_and_the_agent_is_killed", churn_and_kills_leave_no_gap);
}

/// A policy that tightens cuts the connections it denies now, and no other.
fn tightening_cuts_what_it_denies() {
    let pods = node();
    settle(&pods);
    let config = Config { cut_denied_connections: true, ..Config::default() };
    let mut dataplane = Dataplane::open(config).unwrap();
    let mut open = one_door(0);
    dataplane.apply(&open, &InterfaceState::default()).unwrap();
    forget_connections();
    pods.iter().for_each(|pod| drop(pod.arrived()));
    let mut friend = Packet::udp(address(0, false), address(1, false), 4242);
    let stranger = Packet { src_port: 7, ..friend };
    friend.src_port = 8;
    let back = |packet: &Packet| Packet {
        src: packet.dst,
        dst: packet.src,
        src_port: packet.dst_port,
        dst_port: packet.src_port,
        ..*packet
    };
    // Both connections are answered, so both are established.
    for (marker, packet) in [(1, &friend), (2, &stranger)] {
        assert!(pods[0].send(packet, marker) && pods[1].send(&back(packet), marker));
    }
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(pods[1].arrived(), BTreeSet::from([1, 2]));
    assert_eq!(pods[0].arrived(), BTreeSet::from([1, 2]), "the answers came");

    // From here on only source port 8 is welcome.
    let policy = Arc::make_mut(&mut open.policies[0]);
    let source_port = calico_policy::ir::Match::Ports {
        side: calico_policy::ir::Side::Source,
        negated: false,
        ranges: calico_policy::ir::PortRanges(vec![(8, 8)]),
        named: Vec::new(),
    };
    policy.ingress[0].matches.push(source_port);
    dataplane.apply(&open, &InterfaceState::default()).unwrap();
    assert_eq!(dataplane.stats().cut, 1);
    assert!(pods[0].send(&friend, 3) && pods[0].send(&stranger, 4));
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(pods[1].arrived(), BTreeSet::from([3]));
    let flows = Conntrack::open().unwrap().flows(Family::V4).unwrap();
    assert!(flows.iter().any(|flow| flow.original.source == address(0, false)), "the friend's stays");
}

#[test]
fn tightening_policy_cuts_exactly_the_connections_it_denies() {
    isolated("tightening_policy_cuts_exactly_the_connections_it_denies", tightening_cuts_what_it_denies);
}
