//! Connections that a policy denies from now on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use calico_dataplane::driver::{InterfaceState, PolicyDataplane};
use calico_dataplane::netlink::{Conntrack, Family};
use calico_dataplane::nft::Dataplane;
use calico_dataplane::nft::config::Config;
use calico_policy::packet::Packet;

use crate::isolation::isolated;
use crate::pods::{address, forget_connections, node, one_door, settle};

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
    isolated(
        "tightening::tightening_policy_cuts_exactly_the_connections_it_denies",
        tightening_cuts_what_it_denies,
    );
}
