//! A million prefixes from one peer to many: time until the last receiver has its End-of-RIB, and memory.
//!
//! ```text
//! cargo run --release -p calico-bgp --example million -- 1000000 10
//! ```
//!
//! The feed has 2,000 different sets of attributes and 8 prefixes per UPDATE. No sockets: what is measured is the
//! speaker alone.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a measurement needs a clock, arguments and an output"
)]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use bytes::Bytes;
use calico_bgp::config::{PeerConfig, SpeakerConfig};
use calico_bgp::wire::capability::Capabilities;
use calico_bgp::wire::{
    AsPath, Family, FamilySet, Message, NextHop, Open, PathAttributes, PathPrefix, Prefix, Prefix4,
    SessionParams, UpdateBuilder,
};
use calico_bgp::{ConnectionId, Input, Speaker};

const ATTRIBUTE_SETS: u32 = 2000;
const PREFIXES_PER_UPDATE: usize = 8;

fn attributes(number: u32) -> PathAttributes {
    let mut path = vec![65001, 100 + number % 50, 1000 + number];
    path.extend((0..number % 4).map(|hop| 20_000 + hop));
    let mut attributes = PathAttributes {
        as_path: AsPath::sequence(&path),
        next_hop: Some(NextHop::V4(Ipv4Addr::new(10, 0, 0, 1))),
        med: number.is_multiple_of(3).then_some(number),
        ..PathAttributes::default()
    };
    for community in 0..number % 3 {
        attributes.add_community(65001 << 16 | community);
    }
    attributes
}

fn feed(count: u32) -> Vec<Bytes> {
    let params = SessionParams { ibgp: false, ..SessionParams::default() };
    let mut builder = UpdateBuilder::new();
    let mut messages = Vec::new();
    let mut number = 0;
    while number < count {
        let set = (number / 8).wrapping_mul(2_654_435_761) % ATTRIBUTE_SETS;
        let end = count.min(number + PREFIXES_PER_UPDATE as u32);
        let routes: Vec<_> = (number..end)
            .map(|n| PathPrefix {
                path_id: 0,
                prefix: Prefix4::from_wire(24, &(0x0100_0000 + (n << 8)).to_be_bytes()[..3]),
            })
            .collect();
        builder.announce(&attributes(set), &routes, &params, |bytes| messages.push(bytes)).unwrap();
        number = end;
    }
    messages.push(UpdateBuilder::end_of_rib(Family::Ipv4));
    messages
}

fn address(number: usize) -> IpAddr {
    Ipv4Addr::from(0x0a00_0001 + u32::try_from(number).unwrap()).into()
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number =
        |at: usize, default: &str| arguments.get(at).map_or(default, String::as_str).parse::<u32>().unwrap();
    let (prefixes, receivers) = (number(1, "1000000"), number(2, "10") as usize);
    let messages = feed(prefixes);

    let mut config = SpeakerConfig::new(Ipv4Addr::new(10, 1, 0, 1), 64512);
    for peer in 0..=receivers {
        let asn = if peer == 0 { 65001 } else { 65002 };
        let mut peer = PeerConfig::new(&format!("p{peer}"), address(peer), 64512, asn);
        peer.local_address = Some(Ipv4Addr::new(10, 1, 0, 1).into());
        peer.passive = true;
        peer.add_path_receive = false;
        peer.add_path_send = false;
        config = config.with_peer(peer);
    }
    let now = Instant::now();
    let mut speaker = Speaker::new(now, config, 1);
    for peer in 0..=receivers {
        let connection = ConnectionId(peer as u64);
        let (local, remote) = ("10.1.0.1:179".parse().unwrap(), (address(peer), 40_000).into());
        speaker.handle(now, Input::Accepted { connection, local, remote });
        let asn = if peer == 0 { 65001 } else { 65002 };
        let capabilities = Capabilities {
            families: FamilySet::only(Family::Ipv4),
            four_octet_as: Some(asn),
            route_refresh: true,
            ..Capabilities::default()
        };
        let open = Open {
            my_as: u16::try_from(asn).unwrap(),
            hold_time: 240,
            identifier: Ipv4Addr::from(0x0a00_0001 + peer as u32),
            capabilities: capabilities.to_list(),
        };
        speaker.handle(now, Input::Received { connection, data: &Message::Open(open).encode() });
        speaker.handle(now, Input::Received { connection, data: &Message::Keepalive.encode() });
    }
    while speaker.poll_transmit().is_some() {}
    let before = resident();
    let stream: Vec<u8> = messages.concat();
    let began = Instant::now();
    let mut sent = vec![0u64; receivers + 1];
    let mut sent_messages = 0u64;
    let mut drain = |speaker: &mut Speaker| {
        while let Some(transmit) = speaker.poll_transmit() {
            sent[usize::try_from(transmit.connection.0).unwrap()] += transmit.bytes.len() as u64;
            sent_messages += 1;
        }
        while speaker.poll_event().is_some() {}
    };
    for chunk in stream.chunks(65536) {
        speaker.handle(now, Input::Received { connection: ConnectionId(0), data: chunk });
        drain(&mut speaker);
    }
    while speaker.poll_timeout().is_some_and(|at| at <= now) {
        speaker.handle(now, Input::Timeout);
        drain(&mut speaker);
    }
    let time = began.elapsed();
    println!(
        "{prefixes} prefixes to {receivers} receivers: {:.3} s, {} MiB more, {} messages in, {sent_messages} out, {} octets each, {:?}",
        time.as_secs_f64(),
        (resident() - before) / 1024,
        messages.len(),
        sent.last().unwrap(),
        speaker.statistics()
    );
}
