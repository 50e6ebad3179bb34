//! A table from one peer through the decision to many receivers. Beside BIRD 2.0.12 with 1,000,000 prefixes and the
//! same sharing on a machine of two cores: 0.8 s to 1 receiver, 3.6 s to 10, 22 s to 50, TCP included.
//!
//! The bench uses 100,000 prefixes; `cargo run --release -p calico-bgp --example million` is the whole table, with
//! memory.
#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a bench; the speaker's clock begins somewhere"
)]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use calico_benches::bgp;
use calico_bgp::config::{PeerConfig, SpeakerConfig};
use calico_bgp::wire::{Capabilities, Family, FamilySet, Message, Open, SessionParams, UpdateBuilder};
use calico_bgp::{ConnectionId, Input, Speaker};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const PREFIXES: u32 = 100_000;

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0001 + number).into()
}

/// A speaker with established sessions: peer 0 feeds, the others receive.
fn established(now: Instant, receivers: u32) -> Speaker {
    let mut config = SpeakerConfig::new(Ipv4Addr::new(10, 1, 0, 1), 64512);
    let asn = |peer: u32| if peer == 0 { 65001 } else { 65002 };
    for number in 0..=receivers {
        let mut peer = PeerConfig::new(&format!("p{number}"), address(number), 64512, asn(number));
        peer.local_address = Some(Ipv4Addr::new(10, 1, 0, 1).into());
        peer.passive = true;
        config = config.with_peer(peer);
    }
    let mut speaker = Speaker::new(now, config, 1);
    for number in 0..=receivers {
        let connection = ConnectionId(u64::from(number));
        let (local, remote) = ("10.1.0.1:179".parse().unwrap(), (address(number), 40_000).into());
        speaker.handle(now, Input::Accepted { connection, local, remote });
        let capabilities = Capabilities {
            families: FamilySet::only(Family::Ipv4),
            four_octet_as: Some(asn(number)),
            ..Capabilities::default()
        };
        let open = Open {
            my_as: Open::two_octet_as(asn(number)),
            hold_time: 240,
            identifier: Ipv4Addr::from(0x0a00_0001 + number),
            capabilities: capabilities.to_list(),
        };
        speaker.handle(now, Input::Received { connection, data: &Message::Open(open).encode() });
        speaker.handle(now, Input::Received { connection, data: &Message::Keepalive.encode() });
    }
    while speaker.poll_transmit().is_some() {}
    speaker
}

fn drain(speaker: &mut Speaker) -> usize {
    let mut octets = 0;
    while let Some(transmit) = speaker.poll_transmit() {
        octets += transmit.bytes.len();
    }
    while speaker.poll_event().is_some() {}
    octets
}

fn table(c: &mut Criterion) {
    let params = SessionParams { ibgp: false, ..SessionParams::default() };
    let mut builder = UpdateBuilder::new();
    let mut stream = Vec::new();
    for (set, routes) in bgp::table(PREFIXES) {
        builder
            .announce(&bgp::attributes(set), &routes, &params, |bytes| stream.extend_from_slice(&bytes))
            .unwrap();
    }
    let now = Instant::now();
    let mut group = c.benchmark_group("bgp_rib");
    group.sample_size(10).throughput(Throughput::Elements(u64::from(PREFIXES)));
    for receivers in [1, 10, 50] {
        group.bench_function(format!("table_to_{receivers}"), |b| {
            b.iter_batched(
                || established(now, receivers),
                |mut speaker| {
                    let mut octets = 0;
                    for chunk in stream.chunks(65_536) {
                        speaker.handle(now, Input::Received { connection: ConnectionId(0), data: chunk });
                        octets += drain(&mut speaker);
                    }
                    while speaker.poll_timeout().is_some_and(|at| at <= now) {
                        speaker.handle(now, Input::Timeout);
                        octets += drain(&mut speaker);
                    }
                    octets
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, table);
criterion_main!(benches);
