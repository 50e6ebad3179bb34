//! Sizes of clusters: a reflector with 500 clients of 10 routes each, a full mesh of 100 speakers, and how long one
//! withdrawn route takes from the octets of its UPDATE to the octets of ours. No sockets. `-- --peak` prints one run of
//! each with memory and the reaction's percentiles, without statistics.
#![allow(missing_docs, clippy::print_stdout)]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a bench; clocks begin somewhere")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use calico_benches::bgp;
use calico_bgp::config::{LocalRoute, PeerConfig, SpeakerConfig};
use calico_bgp::sim::Network;
use calico_bgp::wire::{
    AsPath, Capabilities, Family, FamilySet, Message, NextHop, Open, PathAttributes, SessionParams,
    UpdateBuilder,
};
use calico_bgp::{ConnectionId, Input, Speaker};
use criterion::{BatchSize, Criterion};

const AS: u32 = 64512;
const CLIENTS: u32 = 500;
const ROUTES: u32 = 10;
const MESH: u32 = 100;

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0001 + number)
}

fn open(identifier: Ipv4Addr) -> Vec<u8> {
    let capabilities = Capabilities {
        families: FamilySet::only(Family::Ipv4),
        four_octet_as: Some(AS),
        ..Capabilities::default()
    };
    let open = Open {
        my_as: Open::two_octet_as(AS),
        hold_time: 240,
        identifier,
        capabilities: capabilities.to_list(),
    };
    Message::Open(open).encode().to_vec()
}

/// A reflector with established sessions to all clients.
fn reflector(now: Instant) -> Speaker {
    let own = Ipv4Addr::new(10, 9, 0, 1);
    let mut config = SpeakerConfig { cluster_id: Some(own), ..SpeakerConfig::new(own, AS) };
    for number in 0..CLIENTS {
        let mut peer = PeerConfig::new(&format!("c{number}"), address(number).into(), AS, AS);
        peer.local_address = Some(own.into());
        peer.passive = true;
        peer.reflector_client = Some(own);
        config = config.with_peer(peer);
    }
    let mut speaker = Speaker::new(now, config, 1);
    for number in 0..CLIENTS {
        let connection = ConnectionId(u64::from(number));
        let remote = (IpAddr::from(address(number)), 40_000).into();
        speaker.handle(now, Input::Accepted { connection, local: (IpAddr::from(own), 179).into(), remote });
        speaker.handle(now, Input::Received { connection, data: &open(address(number)) });
        speaker.handle(now, Input::Received { connection, data: &Message::Keepalive.encode() });
    }
    drain(&mut speaker, now);
    speaker
}

/// Octets that were to be written.
fn drain(speaker: &mut Speaker, now: Instant) -> usize {
    let mut octets = 0;
    loop {
        while let Some(transmit) = speaker.poll_transmit() {
            octets += transmit.bytes.len();
        }
        while speaker.poll_event().is_some() {}
        if speaker.poll_timeout().is_none_or(|at| at > now) {
            return octets;
        }
        speaker.handle(now, Input::Timeout);
    }
}

fn params() -> SessionParams {
    SessionParams { ibgp: true, ..SessionParams::default() }
}

/// What a client announces: its ten blocks, then its End-of-RIB.
fn announcement(client: u32) -> Vec<u8> {
    let attributes = PathAttributes {
        as_path: AsPath::sequence(&[]),
        next_hop: Some(NextHop::V4(address(client))),
        local_pref: Some(2_147_482_623),
        ..PathAttributes::default()
    };
    let routes: Vec<_> = (0..ROUTES).map(|route| bgp::prefix(client * ROUTES + route)).collect();
    let mut octets = Vec::new();
    let mut builder = UpdateBuilder::new();
    builder.announce(&attributes, &routes, &params(), |bytes| octets.extend_from_slice(&bytes)).unwrap();
    octets.extend_from_slice(&UpdateBuilder::end_of_rib(Family::Ipv4));
    octets
}

/// Every client tells its routes; every other one is told.
fn reflect(speaker: &mut Speaker, now: Instant, messages: &[Vec<u8>]) -> usize {
    let mut octets = 0;
    for (number, data) in messages.iter().enumerate() {
        speaker.handle(now, Input::Received { connection: ConnectionId(number as u64), data });
        octets += drain(speaker, now);
    }
    octets
}

/// One route is withdrawn and announced again, a thousand times: from the octets of the withdrawal until the last
/// client's octets are there.
fn reactions(speaker: &mut Speaker, now: Instant) -> Vec<Duration> {
    let mut builder = UpdateBuilder::new();
    let mut times = Vec::new();
    for round in 0..1000 {
        let client = round * 7 % CLIENTS;
        let mut withdrawal = Vec::new();
        let routes = [bgp::prefix(client * ROUTES)];
        builder.withdraw(&routes, &params(), |bytes| withdrawal.extend_from_slice(&bytes));
        let connection = ConnectionId(u64::from(client));
        let began = Instant::now();
        speaker.handle(now, Input::Received { connection, data: &withdrawal });
        assert!(drain(speaker, now) > 0, "the withdrawal goes out");
        times.push(began.elapsed());
        speaker.handle(now, Input::Received { connection, data: &announcement(client) });
        drain(speaker, now);
    }
    times.sort();
    times
}

/// A mesh until every node has every block; the simulated time and the wall time.
fn mesh() -> (Duration, Duration) {
    let began = Instant::now();
    let mut network = Network::new(began, 42);
    for own in 0..MESH {
        let block = format!("10.{}.{}.0/26", 100 + own / 250, own % 250).parse().unwrap();
        let mut config = SpeakerConfig::new(address(own), AS).with_route(block, LocalRoute::blackhole());
        for other in (0..MESH).filter(|other| *other != own) {
            let mut peer = PeerConfig::new(&format!("p{other}"), address(other).into(), AS, AS);
            peer.local_address = Some(address(own).into());
            peer.passive = address(other).to_string() > address(own).to_string();
            config = config.with_peer(peer);
        }
        network.add(address(own).into(), config);
    }
    let mut simulated = Duration::ZERO;
    let complete =
        |network: &Network| (0..MESH).all(|own| network.fib(address(own).into()).len() == MESH as usize);
    while !complete(&network) {
        assert!(simulated < Duration::from_secs(60), "the mesh does not converge");
        network.run_for(Duration::from_millis(250));
        simulated += Duration::from_millis(250);
    }
    (simulated, began.elapsed())
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn peak() {
    let now = Instant::now();
    let messages: Vec<_> = (0..CLIENTS).map(announcement).collect();
    let before = resident();
    let mut speaker = reflector(now);
    let began = Instant::now();
    let octets = reflect(&mut speaker, now, &messages);
    println!(
        "reflector, {CLIENTS} clients x {ROUTES} routes: {:.3} s, {} MiB of UPDATEs, {} MiB resident",
        began.elapsed().as_secs_f64(),
        octets >> 20,
        (resident() - before) / 1024
    );
    let times = reactions(&mut speaker, now);
    let at = |share: usize| times[(times.len() * share / 1000).min(times.len() - 1)];
    println!(
        "one withdrawn route to {} clients: p50 {:?}, p99 {:?}, p99.9 {:?}",
        CLIENTS - 1,
        at(500),
        at(990),
        at(999)
    );
    let (simulated, wall) = mesh();
    println!("full mesh of {MESH}: converged after {simulated:?} of its time, {wall:?} of ours");
}

fn main() {
    if std::env::args().any(|argument| argument == "--peak") {
        return peak();
    }
    let mut criterion = Criterion::default().configure_from_args().sample_size(10);
    let now = Instant::now();
    let messages: Vec<_> = (0..CLIENTS).map(announcement).collect();
    criterion.bench_function("bgp_scale/reflector_500_clients", |bench| {
        let reflect = |mut speaker: Speaker| reflect(&mut speaker, now, &messages);
        bench.iter_batched(|| reflector(now), reflect, BatchSize::PerIteration);
    });
    criterion.final_summary();
}
