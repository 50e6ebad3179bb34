//! Our bytes against an independent implementation (the rust-netlink crates): what we write they read as meant, and
//! what they write we read as meant.

use std::net::IpAddr;

use netlink_packet_core::{Emitable, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteMetric};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::link::{self, Vxlan};
use super::route::{self, RouteChange};
use super::wire::{Encoder, Message, Messages, flags};
use super::{MacAddr, Neighbour, NewKind, NewLink, NextHop, Peer, Route, RouteProtocol};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Our message as the other implementation reads it.
fn theirs(kind: u16, body: impl FnOnce(&mut super::wire::Body<'_>)) -> RouteNetlinkMessage {
    let mut encoder = Encoder::new();
    encoder.message(kind, flags::REQUEST, 1, body);
    let message: NetlinkMessage<RouteNetlinkMessage> =
        NetlinkMessage::deserialize(encoder.as_bytes()).unwrap();
    match message.payload {
        NetlinkPayload::InnerMessage(inner) => inner,
        other => panic!("{other:?}"),
    }
}

/// Their message as a datagram.
fn datagram(inner: RouteNetlinkMessage) -> Vec<u8> {
    let mut message = NetlinkMessage::from(inner);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn first(bytes: &[u8]) -> Message<'_> {
    Messages::new(bytes).next().unwrap().unwrap()
}

fn all_routes() -> Vec<Route> {
    let net = |text: &str| text.parse().unwrap();
    let mut full = Route::via(
        net("10.9.0.0/16"),
        [NextHop { via: Some(ip("172.18.0.9")), interface: 7, weight: 1, onlink: true }],
        RouteProtocol::BIRD,
    );
    full.priority = 1024;
    full.source = Some(ip("172.18.0.2"));
    full.mtu = Some(1450);
    full.table = 1000;
    let weighted = NextHop { via: Some(ip("172.18.0.4")), interface: 7, weight: 3, onlink: true };
    let plain = NextHop::via(ip("172.18.0.3"), 7);
    vec![
        Route::device(net("10.65.0.2/32"), 3, RouteProtocol::BOOT),
        Route::blackhole(net("10.65.0.0/26"), RouteProtocol::BIRD),
        full,
        Route::via(net("10.67.0.0/26"), [plain, weighted], RouteProtocol::BIRD),
        Route::via(net("fd99::/64"), [NextHop::via(ip("fe80::1"), 7)], RouteProtocol::BIRD),
        // An IPv4 destination behind an IPv6 gateway.
        Route::via(net("10.69.0.0/26"), [NextHop::via(ip("fd18::3"), 7)], RouteProtocol::BIRD),
    ]
}

fn route_message(route: &Route) -> RouteMessage {
    let change = RouteChange::Replace(route);
    match theirs(super::RTM_NEWROUTE, |body| change.encode(body)) {
        RouteNetlinkMessage::NewRoute(message) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn they_read_our_routes_as_meant_and_we_read_them_back() {
    for route in all_routes() {
        let message = route_message(&route);
        assert_eq!(u8::from(message.header.protocol), route.protocol.0);
        assert_eq!(u8::from(message.header.scope), route.scope.0);
        assert_eq!(message.header.destination_prefix_length, route.dst.prefix_len());
        assert!(message.attributes.contains(&RouteAttribute::Destination(route.dst.addr().into())));
        assert!(message.attributes.contains(&RouteAttribute::Table(route.table)));
        assert!(!message.attributes.iter().any(|a| matches!(a, RouteAttribute::Other(_))), "{message:?}");
        if let Some(mtu) = route.mtu {
            assert!(message.attributes.contains(&RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
        }
        if route.nexthops.len() > 1 {
            let hops = message.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::MultiPath(hops) => Some(hops),
                _ => None,
            });
            let weights: Vec<u16> = hops.unwrap().iter().map(|hop| u16::from(hop.hops) + 1).collect();
            assert_eq!(weights, [1, 3]);
        }
        let bytes = datagram(RouteNetlinkMessage::NewRoute(message));
        assert_eq!(route::decode(&first(&bytes)).unwrap(), Some(route.canonical()));
    }
}

#[test]
fn a_veth_pair_and_a_vxlan_device_mean_what_they_should() {
    let namespace = std::fs::File::open("/proc/self/ns/net").unwrap();
    let mut new = NewLink::new(
        "cali0",
        NewKind::Veth(Peer {
            name: "eth0",
            namespace: Some(std::os::fd::AsFd::as_fd(&namespace)),
            mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
        }),
    );
    new.mac = Some(MacAddr::HOST_SIDE);
    new.mtu = Some(1440);
    let RouteNetlinkMessage::NewLink(message) =
        theirs(super::RTM_NEWLINK, |body| link::encode_new(&new, body))
    else {
        panic!("another kind of message")
    };
    assert!(message.attributes.contains(&LinkAttribute::IfName("cali0".to_owned())));
    assert!(message.attributes.contains(&LinkAttribute::Address(vec![0xee; 6])));
    let info = |message: &LinkMessage| {
        message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::LinkInfo(info) => Some(info.clone()),
                _ => None,
            })
            .unwrap()
    };
    let infos = info(&message);
    assert!(infos.contains(&LinkInfo::Kind(InfoKind::Veth)));
    let Some(LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)))) = infos.get(1) else {
        panic!("{infos:?}")
    };
    assert!(peer.attributes.contains(&LinkAttribute::IfName("eth0".to_owned())));
    assert!(peer.attributes.contains(&LinkAttribute::Mtu(1440)));
    let fd = std::os::fd::AsRawFd::as_raw_fd(&namespace);
    assert!(peer.attributes.contains(&LinkAttribute::NetNsFd(fd)));

    let vxlan =
        Vxlan { vni: 4096, port: 4789, local: Some(ip("172.18.0.2")), parent: Some(2), ..Vxlan::default() };
    let new = NewLink::new("vxlan.calico", NewKind::Vxlan(vxlan));
    let RouteNetlinkMessage::NewLink(message) =
        theirs(super::RTM_NEWLINK, |body| link::encode_new(&new, body))
    else {
        panic!("another kind of message")
    };
    let infos = info(&message);
    let Some(LinkInfo::Data(InfoData::Vxlan(data))) = infos.get(1) else { panic!("{infos:?}") };
    for expected in [
        InfoVxlan::Id(4096),
        InfoVxlan::Port(4789),
        InfoVxlan::Local("172.18.0.2".parse().unwrap()),
        InfoVxlan::Link(2),
        InfoVxlan::Learning(false),
    ] {
        assert!(data.contains(&expected), "{expected:?} in {data:?}");
    }
    let bytes = datagram(RouteNetlinkMessage::NewLink(message));
    let read = link::decode(&first(&bytes)).unwrap();
    assert_eq!((read.name.as_str(), read.vxlan), ("vxlan.calico", Some(vxlan)));
}

#[test]
fn neighbours_and_forwarding_entries_mean_what_they_should() {
    let mac = MacAddr([0x66, 1, 2, 3, 4, 5]);
    for entry in [
        Neighbour::permanent(4, ip("10.65.1.0"), mac),
        Neighbour::permanent(4, ip("fd00::1"), mac),
        Neighbour::forwarding(4, mac, ip("172.18.0.3")),
    ] {
        let message = theirs(super::RTM_NEWNEIGH, |body| entry.encode(body));
        let RouteNetlinkMessage::NewNeighbour(message) = message else { panic!("{message:?}") };
        let NeighbourMessage { header, attributes, .. } = &message;
        assert_eq!(header.ifindex, 4);
        assert_eq!(u16::from(header.state), 0x80);
        assert!(attributes.contains(&NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())));
        let forwarding = header.family == AddressFamily::Bridge;
        assert_eq!(forwarding, entry.table == super::neighbour::NeighbourTable::Forwarding);
        assert!(message.buffer_len() > 0);
        let bytes = datagram(RouteNetlinkMessage::NewNeighbour(message));
        assert_eq!(super::neighbour::decode(&first(&bytes)).unwrap(), Some(entry));
    }
}
