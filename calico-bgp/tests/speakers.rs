//! Two and three speakers on a virtual network: sessions, collision, routes, restart, reconfiguration.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test; the clock begins somewhere"
)]

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use calico_bgp::config::{LocalRoute, PeerConfig, SpeakerConfig};
use calico_bgp::sim::Network;
use calico_bgp::wire::{AsPath, Family, FamilySet};
use calico_bgp::{FibRoute, State};
use ipnet::IpNet;

fn ip(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn block(node: u8) -> IpNet {
    net(&format!("10.1.{node}.0/26"))
}

fn peer(own: u8, other: u8, local_as: u32, remote_as: u32) -> PeerConfig {
    let mut peer = PeerConfig::new(&format!("p{other}"), ip(other), local_as, remote_as);
    peer.local_address = Some(ip(own));
    peer
}

fn node(own: u8, asn: u32, others: &[(u8, u32)]) -> SpeakerConfig {
    let IpAddr::V4(id) = ip(own) else { unreachable!() };
    let config = SpeakerConfig::new(id, asn).with_route(block(own), LocalRoute::blackhole());
    others.iter().fold(config, |config, (other, remote)| config.with_peer(peer(own, *other, asn, *remote)))
}

fn mesh(count: u8) -> Network {
    let mut network = Network::new(Instant::now(), 42);
    for own in 1..=count {
        let others: Vec<_> = (1..=count).filter(|other| *other != own).map(|other| (other, 64512)).collect();
        network.add(ip(own), node(own, 64512, &others));
    }
    network
}

fn has(network: &Network, at: u8, prefix: IpNet, through: u8) -> bool {
    match network.fib(ip(at)).get(&prefix) {
        Some(FibRoute::Via { next_hops, .. }) => next_hops.iter().any(|hop| hop.address == ip(through)),
        _ => false,
    }
}

#[test]
fn a_mesh_converges_in_spite_of_collisions() {
    let mut network = mesh(5);
    network.run_for(Duration::from_secs(30));
    for own in 1..=5 {
        for other in (1..=5).filter(|other| *other != own) {
            assert_eq!(network.state(ip(own), &format!("p{other}")), Some(State::Established));
            assert!(has(&network, own, block(other), other), "{own} has no route to {other}");
        }
        assert_eq!(network.fib(ip(own)).get(&block(own)), Some(&FibRoute::Blackhole));
        assert_eq!(network.established(ip(own)), 4);
    }
    network.run_for(Duration::from_secs(1000));
    assert_eq!(network.established(ip(1)), 4, "a quiet network stays up");
}

#[test]
fn routes_cross_systems_with_path_and_next_hop() {
    let mut network = Network::new(Instant::now(), 1);
    network.add(ip(1), node(1, 65001, &[(2, 65002)]));
    network.add(ip(2), node(2, 65002, &[(1, 65001), (3, 65003)]));
    network.add(ip(3), node(3, 65003, &[(2, 65002)]));
    network.run_for(Duration::from_secs(30));
    let routes = network.speaker(ip(3)).unwrap().routes(Family::Ipv4);
    let far = routes.iter().find(|route| route.prefix == block(1)).unwrap();
    assert_eq!(far.attributes.path.as_path, AsPath::sequence(&[65002, 65001]));
    assert_eq!(far.attributes.path.local_pref, None);
    assert!(has(&network, 3, block(1), 2));
    // Nothing comes back to where it was from.
    let back = network.speaker(ip(2)).unwrap().announced("p1", Family::Ipv4);
    assert!(back.iter().all(|(prefix, ..)| *prefix != block(1)), "{back:?}");
}

#[test]
fn internal_routes_are_not_handed_on_without_reflection() {
    let mut network = Network::new(Instant::now(), 1);
    network.add(ip(1), node(1, 64512, &[(2, 64512)]));
    network.add(ip(2), node(2, 64512, &[(1, 64512), (3, 64512)]));
    network.add(ip(3), node(3, 64512, &[(2, 64512)]));
    network.run_for(Duration::from_secs(30));
    assert!(has(&network, 3, block(2), 2));
    assert!(!has(&network, 3, block(1), 1) && !has(&network, 3, block(1), 2));
}

#[test]
fn a_reflector_keeps_the_next_hop_and_marks_the_originator() {
    let mut network = Network::new(Instant::now(), 1);
    network.add(ip(1), node(1, 64512, &[(2, 64512)]));
    let cluster = Some(Ipv4Addr::new(244, 0, 0, 1));
    let mut reflector = node(2, 64512, &[]);
    reflector.cluster_id = cluster;
    for other in [1, 3] {
        let client = PeerConfig { reflector_client: cluster, ..peer(2, other, 64512, 64512) };
        reflector = reflector.with_peer(client);
    }
    network.add(ip(2), reflector);
    network.add(ip(3), node(3, 64512, &[(2, 64512)]));
    network.run_for(Duration::from_secs(30));
    assert!(has(&network, 3, block(1), 1), "the way is direct, not through the reflector");
    assert!(has(&network, 1, block(3), 3));
    let routes = network.speaker(ip(3)).unwrap().routes(Family::Ipv4);
    let far = routes.iter().find(|route| route.prefix == block(1)).unwrap();
    assert_eq!(far.attributes.path.originator, Some(Ipv4Addr::new(10, 0, 0, 1)));
    assert_eq!(far.attributes.path.cluster_list.as_slice(), [u32::from(Ipv4Addr::new(244, 0, 0, 1))]);
    let back = network.speaker(ip(2)).unwrap().announced("p1", Family::Ipv4);
    assert!(back.iter().all(|(prefix, ..)| *prefix != block(1)));
}

#[test]
fn a_withdrawn_route_leaves_everywhere() {
    let mut network = mesh(3);
    network.run_for(Duration::from_secs(30));
    let mut config = network.speaker(ip(1)).unwrap().config().clone();
    config.routes.clear();
    network.configure(ip(1), config);
    network.run_for(Duration::from_secs(1));
    for other in 2..=3 {
        assert!(!network.fib(ip(other)).contains_key(&block(1)));
        assert_eq!(network.speaker(ip(other)).unwrap().statistics().prefixes_v4, 2);
    }
}

#[test]
fn a_killed_speaker_restarts_without_a_route_being_lost() {
    let mut network = mesh(3);
    network.run_for(Duration::from_secs(30));
    let config = network.speaker(ip(1)).unwrap().config().clone();
    network.kill(ip(1));
    network.run_for(Duration::from_secs(5));
    assert!(has(&network, 2, block(1), 1), "the peers keep the routes");
    assert!(network.speaker(ip(2)).unwrap().routes(Family::Ipv4).iter().any(|route| route.stale));
    network.revive(ip(1), config);
    let mut waited = 0;
    while network.speaker(ip(1)).is_some_and(|speaker| speaker.is_restarting()) {
        assert!(
            has(&network, 1, block(2), 2) && has(&network, 1, block(3), 3),
            "the kernel keeps forwarding"
        );
        assert!(has(&network, 2, block(1), 1));
        network.run_for(Duration::from_millis(100));
        waited += 1;
        assert!(waited < 200, "peers were waited for too long");
    }
    network.run_for(Duration::from_secs(5));
    assert!(has(&network, 1, block(2), 2) && has(&network, 2, block(1), 1));
    assert!(!network.speaker(ip(2)).unwrap().routes(Family::Ipv4).iter().any(|route| route.stale));
}

#[test]
fn a_speaker_that_never_returns_is_forgotten_after_its_restart_time() {
    let mut network = mesh(3);
    network.run_for(Duration::from_secs(30));
    network.kill(ip(1));
    network.run_for(Duration::from_secs(115));
    assert!(has(&network, 2, block(1), 1));
    network.run_for(Duration::from_secs(10));
    assert!(!network.fib(ip(2)).contains_key(&block(1)));
}

#[test]
fn a_change_touches_only_its_own_sessions() {
    let mut network = mesh(3);
    network.run_for(Duration::from_secs(30));
    let mut config = network.speaker(ip(1)).unwrap().config().clone();
    let mut changed = (*config.peers["p2"]).clone();
    changed.hold_time = Duration::from_secs(30);
    config.peers.insert("p2".into(), changed.into());
    network.configure(ip(1), config);
    network.run_for(Duration::from_secs(60));
    assert_eq!(network.state(ip(1), "p2"), Some(State::Established));
    assert_eq!(network.established(ip(2)), 3, "its session was made anew");
    assert_eq!(network.established(ip(3)), 2, "this one was left alone");
    let status = network.speaker(ip(1)).unwrap().peers();
    assert_eq!(status[0].negotiated.as_ref().unwrap().hold_time, Duration::from_secs(30));
}

#[test]
fn silence_is_noticed_after_the_hold_time() {
    let mut network = mesh(2);
    network.run_for(Duration::from_secs(30));
    network.set_reachable(ip(1), ip(2), false);
    network.run_for(Duration::from_secs(250));
    assert_ne!(network.state(ip(1), "p2"), Some(State::Established));
    let status = network.speaker(ip(1)).unwrap().peers();
    assert!(
        status[0].reason.to_string().starts_with("Socket: ")
            || status[0].reason.to_string().contains("Hold timer")
    );
    network.set_reachable(ip(1), ip(2), true);
    network.run_for(Duration::from_secs(60));
    assert_eq!(network.state(ip(1), "p2"), Some(State::Established));
    assert!(has(&network, 1, block(2), 2));
}

#[test]
fn a_wrong_system_number_is_told() {
    let mut network = Network::new(Instant::now(), 1);
    network.add(ip(1), node(1, 64512, &[(2, 64513)]));
    network.add(ip(2), node(2, 64512, &[(1, 64512)]));
    network.run_for(Duration::from_secs(60));
    let reason = |at: u8| network.speaker(ip(at)).unwrap().peers()[0].reason.to_string();
    let told = [reason(1), reason(2)];
    assert!(told.iter().any(|text| text == "Error: Bad peer AS (2/2)"), "{told:?}");
    assert!(told.iter().any(|text| text == "Received: Bad peer AS (2/2)"), "{told:?}");
}

#[test]
fn both_families_on_one_session() {
    let mut network = Network::new(Instant::now(), 1);
    for (own, other) in [(1, 2), (2, 1)] {
        let mut both = peer(own, other, 64512, 64512);
        both.families = FamilySet::ALL;
        both.other_family_address = Some(format!("fd00::{own}").parse().unwrap());
        let config = node(own, 64512, &[]).with_peer(both);
        network.add(ip(own), config.with_route(net(&format!("fd10:{own}::/122")), LocalRoute::blackhole()));
    }
    network.run_for(Duration::from_secs(30));
    let fib = network.fib(ip(2));
    let Some(FibRoute::Via { next_hops, .. }) = fib.get(&net("fd10:1::/122")) else { panic!("{fib:?}") };
    assert_eq!(next_hops[0].address, "fd00::1".parse::<IpAddr>().unwrap());
    assert!(has(&network, 2, block(1), 1));
}

#[test]
fn too_many_prefixes_end_the_session() {
    let mut network = Network::new(Instant::now(), 1);
    let mut limited = peer(1, 2, 64512, 64512);
    limited.max_prefixes = Some(3);
    network.add(ip(1), node(1, 64512, &[]).with_peer(limited));
    let mut many = node(2, 64512, &[(1, 64512)]);
    for third in 0..10 {
        many = many.with_route(net(&format!("10.2.{third}.0/24")), LocalRoute::announced());
    }
    network.add(ip(2), many);
    network.run_for(Duration::from_secs(30));
    let status = network.speaker(ip(1)).unwrap().peers();
    assert_eq!(status[0].state, State::Idle);
    assert_eq!(status[0].reason.to_string(), "Automatic shutdown: ipv4 prefix limit exceeded");
    assert_eq!(network.fib(ip(1)).len(), 1, "its routes are gone");
}
