//! Pods in network namespaces that send and see whole packets, and a policy of the tests' own hand.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use calico_dataplane::netlink::{Conntrack, Family, LinkChange, Route, RouteProtocol, Rtnetlink};
use calico_dataplane::netns::NetNs;
use calico_dataplane::pod::{PodSpec, attach};
use calico_dataplane::sysctl::Sysctl;
use calico_policy::Changes;
use calico_policy::packet::Packet;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Pods of the node; a cluster has at most five.
pub(crate) const PODS: usize = 5;

/// Address of the node on the way outside.
pub(crate) const NODE_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

pub(crate) fn interface(pod: usize) -> String {
    format!("calip{pod}")
}

pub(crate) fn address(pod: usize, v6: bool) -> IpAddr {
    let low = pod as u8 + 1;
    if v6 {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(low)).into()
    } else {
        Ipv4Addr::new(10, 0, 0, low).into()
    }
}

/// A packet as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) marker: u16,
    pub(crate) source: IpAddr,
    pub(crate) dscp: u8,
}

/// A pod with a socket that sends whole IP packets and one that sees everything that arrives.
pub(crate) struct Pod {
    namespace: NetNs,
    send_v4: Socket,
    send_v6: Socket,
    sniff: Socket,
}

impl Pod {
    pub(crate) fn new(number: usize) -> Self {
        Self::connect(&interface(number), &[address(number, false), address(number, true)])
    }

    /// Somebody behind an interface of the node.
    pub(crate) fn connect(interface: &str, addresses: &[IpAddr]) -> Self {
        let namespace = NetNs::create().unwrap();
        attach(&PodSpec::new("eth0", interface, addresses), &namespace).unwrap();
        let raw = |domain, kind, protocol: i32| {
            namespace
                .run(|| {
                    let socket = Socket::new(domain, kind, Some(Protocol::from(protocol))).unwrap();
                    socket.set_nonblocking(true).unwrap();
                    socket.set_broadcast(true).unwrap();
                    socket
                })
                .unwrap()
        };
        let every_protocol = i32::from(0x0003u16.to_be());
        Self {
            send_v4: raw(Domain::IPV4, Type::RAW, 255),
            send_v6: raw(Domain::IPV6, Type::RAW, 255),
            sniff: raw(Domain::PACKET, Type::DGRAM, every_protocol),
            namespace,
        }
    }

    /// Does something inside.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespace.run(work).unwrap()
    }

    /// As before an address was assigned: only the way out is known.
    pub(crate) fn lose_address(&self) {
        self.run(|| {
            let mut netlink = Rtnetlink::open().unwrap();
            for address in netlink.addresses().unwrap() {
                if address.net.addr().is_ipv4() {
                    netlink.delete_address(&address).unwrap();
                }
            }
            let index = netlink.link("eth0").unwrap().index;
            let out = Route::device("0.0.0.0/0".parse().unwrap(), index, RouteProtocol::BOOT);
            netlink.replace_route(&out).unwrap();
        });
    }

    pub(crate) fn send(&self, packet: &Packet, marker: u16) -> bool {
        let bytes = datagram(packet, marker);
        let to: SockAddr = SocketAddr::new(packet.dst, 0).into();
        let socket = if packet.dst.is_ipv4() { &self.send_v4 } else { &self.send_v6 };
        socket.send_to(&bytes, &to).is_ok()
    }

    /// Markers of everything that arrived.
    pub(crate) fn arrived(&self) -> BTreeSet<u16> {
        self.received().into_iter().map(|arrival| arrival.marker).collect()
    }

    /// Everything that arrived.
    pub(crate) fn received(&self) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        let mut bytes = [0; 256];
        while (&self.sniff).read(&mut bytes).is_ok() {
            // Neighbour discovery and the like have a life of their own.
            let (protocol, payload, marker, hops) = match bytes.first().map(|byte| byte >> 4) {
                Some(4) => (bytes[9], 20, [bytes[4], bytes[5]], bytes[8]),
                Some(6) => (bytes[6], 40, [bytes[2], bytes[3]], bytes[7]),
                _ => continue,
            };
            let ours = match protocol {
                6 | 17 | 47 => true,
                1 | 58 => matches!(bytes[payload], 8 | 128),
                _ => false,
            };
            let v6 = bytes[0] >> 4 == 6;
            let source = if v6 {
                IpAddr::from(<[u8; 16]>::try_from(&bytes[8..24]).unwrap())
            } else {
                IpAddr::from(<[u8; 4]>::try_from(&bytes[12..16]).unwrap())
            };
            // With all its hops left it was sent from here, or by the node itself.
            if ours && (hops < 64 || source == NODE_ADDRESS) {
                // Both versions have the class of traffic within the first two bytes.
                let class = if v6 { bytes[0] << 4 | bytes[1] >> 4 } else { bytes[1] };
                arrivals.push(Arrival { marker: u16::from_be_bytes(marker), source, dscp: class >> 2 });
            }
        }
        arrivals
    }
}

/// A whole IP packet; the marker is its IPv4 identification or IPv6 flow label.
pub(crate) fn datagram(packet: &Packet, marker: u16) -> Vec<u8> {
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
pub(crate) fn node() -> Vec<Pod> {
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
pub(crate) fn settle(pods: &[Pod]) {
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

pub(crate) fn forget_connections() {
    let mut conntrack = Conntrack::open().unwrap();
    for family in [Family::V4, Family::V6] {
        let flows = conntrack.flows(family).unwrap();
        conntrack.forget(&flows).unwrap();
    }
}

/// Policy from the tests' own hand: pod 1 admits pod 0 on one UDP port and nobody else.
pub(crate) fn one_door(extra_rules: u32) -> Changes {
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
