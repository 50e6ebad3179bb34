//! Peers that misbehave: each costs at most its own session.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test; the clock begins somewhere"
)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use calico_bgp::config::{Authentication, LocalRoute, PeerConfig, SpeakerConfig};
use calico_bgp::wire::{
    AsPath, Capabilities, Capability, Family, FamilySet, Message, NextHop, Open, PathAttributes, PathPrefix,
    Prefix, Prefix4, SessionParams, UpdateBuilder,
};
use calico_bgp::{ConnectionId, DownReason, Event, Input, Speaker, State};

const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const THEIRS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);

/// A speaker, and the octets that it wants to write and the connections that it closes.
struct Bench {
    speaker: Speaker,
    now: Instant,
    sent: Vec<(ConnectionId, Bytes)>,
    closed: Vec<(ConnectionId, Option<Bytes>)>,
    /// What is drained of the speaker's messages.
    reading: bool,
}

fn passive(name: &str, address: Ipv4Addr) -> PeerConfig {
    let mut peer = PeerConfig::new(name, address.into(), 64512, 65001);
    peer.passive = true;
    peer.local_address = Some(OURS.into());
    peer
}

impl Bench {
    fn new(peer: PeerConfig) -> Self {
        let config = SpeakerConfig::new(OURS, 64512)
            .with_peer(peer)
            .with_peer(passive("other", OTHER))
            .with_route("10.1.0.0/26".parse().unwrap(), LocalRoute::announced());
        let now = Instant::now();
        let speaker = Speaker::new(now, config, 1);
        Bench { speaker, now, sent: Vec::new(), closed: Vec::new(), reading: true }
    }

    fn handle(&mut self, input: Input<'_>) {
        self.speaker.handle(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while self.reading {
            let Some(transmit) = self.speaker.poll_transmit() else { break };
            self.sent.push((transmit.connection, transmit.bytes));
        }
        while let Some(event) = self.speaker.poll_event() {
            if let Event::Close { connection, farewell } = event {
                self.closed.push((connection, farewell));
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.speaker.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.handle(Input::Timeout);
        }
        self.now = end;
        self.handle(Input::Timeout);
    }

    fn accept(&mut self, number: u64, from: Ipv4Addr) -> ConnectionId {
        let connection = ConnectionId(number);
        let remote = SocketAddr::new(IpAddr::V4(from), 40_000);
        self.handle(Input::Accepted { connection, local: (OURS, 179).into(), remote });
        connection
    }

    fn receive(&mut self, connection: ConnectionId, data: &[u8]) {
        self.handle(Input::Received { connection, data });
    }

    fn establish(&mut self, number: u64, from: Ipv4Addr) -> ConnectionId {
        let connection = self.accept(number, from);
        self.receive(connection, &open(from, 90, false));
        self.receive(connection, &Message::Keepalive.encode());
        connection
    }

    fn state(&self, name: &str) -> State {
        self.speaker.peer_state(name).unwrap()
    }

    fn reason(&self, name: &str) -> DownReason {
        self.speaker.peers().into_iter().find(|peer| &*peer.config.name == name).unwrap().reason
    }

    /// Code and subcode of the last NOTIFICATION that closed a connection.
    fn farewell(&self) -> Option<(u8, u8)> {
        let farewell = self.closed.last()?.1.as_ref()?;
        let messages = split(farewell);
        let last = messages.last()?;
        (last[18] == 3).then(|| (last[19], last[20]))
    }
}

fn split(mut octets: &[u8]) -> Vec<&[u8]> {
    let mut messages = Vec::new();
    while octets.len() >= 19 {
        let length = usize::from(u16::from_be_bytes([octets[16], octets[17]]));
        messages.push(&octets[..length]);
        octets = &octets[length..];
    }
    messages
}

fn open(identifier: Ipv4Addr, hold_time: u16, extended_message: bool) -> Vec<u8> {
    let capabilities = Capabilities {
        families: FamilySet::only(Family::Ipv4),
        four_octet_as: Some(65001),
        extended_message,
        ..Capabilities::default()
    };
    let open = Open { my_as: 65001, hold_time, identifier, capabilities: capabilities.to_list() };
    Message::Open(open).encode().to_vec()
}

fn prefixes(from: u32, count: u32) -> Vec<PathPrefix<Prefix4>> {
    let prefix = |number: u32| {
        let [a, b, c, _] = (0x1400_0000 + (number << 8)).to_be_bytes();
        PathPrefix { path_id: 0, prefix: Prefix4::from_wire(24, &[a, b, c]) }
    };
    (from..from + count).map(prefix).collect()
}

fn update(from: u32, count: u32, max_length: usize) -> Vec<u8> {
    let params = SessionParams { ibgp: false, max_length, ..SessionParams::default() };
    let attributes = PathAttributes {
        as_path: AsPath::sequence(&[65001]),
        next_hop: Some(NextHop::V4(THEIRS)),
        ..PathAttributes::default()
    };
    let mut octets = Vec::new();
    UpdateBuilder::new()
        .announce(&attributes, &prefixes(from, count), &params, |bytes| octets.extend_from_slice(&bytes))
        .unwrap();
    octets
}

fn learned(bench: &Bench) -> usize {
    bench.speaker.routes(Family::Ipv4).iter().filter(|route| route.peer.is_some()).count()
}

#[test]
fn a_hold_time_of_one_second_is_refused() {
    for hold in [1, 2] {
        let mut bench = Bench::new(passive("peer", THEIRS));
        let connection = bench.accept(1, THEIRS);
        bench.receive(connection, &open(THEIRS, hold, false));
        assert_eq!(bench.farewell(), Some((2, 6)), "hold time {hold}");
        assert!(matches!(bench.reason("peer"), DownReason::Sent(n) if n.kind() == (2, 6)));
    }
    let mut bench = Bench::new(passive("peer", THEIRS));
    let connection = bench.accept(1, THEIRS);
    bench.receive(connection, &open(THEIRS, 3, false));
    bench.receive(connection, &Message::Keepalive.encode());
    assert_eq!(bench.state("peer"), State::Established);
    bench.wait(Duration::from_secs(4));
    assert_eq!(bench.farewell(), Some((4, 0)));
}

#[test]
fn a_connection_that_says_nothing_is_closed_and_hinders_nobody() {
    let mut bench = Bench::new(passive("peer", THEIRS));
    let mute = bench.accept(1, THEIRS);
    bench.establish(2, OTHER);
    assert_eq!(bench.state("other"), State::Established);
    // Half an OPEN, then silence.
    bench.receive(mute, &open(THEIRS, 90, false)[..25]);
    for _ in 0..9 {
        bench.wait(Duration::from_secs(25));
        bench.receive(ConnectionId(2), &Message::Keepalive.encode());
    }
    assert_eq!(bench.state("peer"), State::OpenSent);
    bench.wait(Duration::from_secs(20));
    assert_eq!(bench.closed.last().map(|(connection, _)| *connection), Some(mute));
    assert_eq!(bench.farewell(), Some((4, 0)), "the hold time of an awaited OPEN is 240 seconds");
    assert_eq!(bench.state("other"), State::Established);
    bench.wait(Duration::from_secs(40));
    bench.establish(3, THEIRS);
    assert_eq!(bench.state("peer"), State::Established, "the next attempt is as good as any");
}

#[test]
fn connections_beyond_the_first_are_refused() {
    let mut bench = Bench::new(passive("peer", THEIRS));
    bench.accept(1, THEIRS);
    for number in 2..100 {
        let more = bench.accept(number, THEIRS);
        assert_eq!(bench.closed.last().map(|(connection, _)| *connection), Some(more));
    }
    let stranger = bench.accept(200, Ipv4Addr::new(10, 9, 9, 9));
    assert_eq!(bench.closed.last(), Some(&(stranger, None)), "strangers are told nothing");
    bench.receive(ConnectionId(1), &open(THEIRS, 90, false));
    bench.receive(ConnectionId(1), &Message::Keepalive.encode());
    assert_eq!(bench.state("peer"), State::Established);
}

#[test]
fn an_identifier_may_change_between_sessions() {
    let mut bench = Bench::new(passive("peer", THEIRS));
    let first = bench.establish(1, THEIRS);
    bench.receive(first, &update(0, 3, 4096));
    assert_eq!(learned(&bench), 3);
    bench.handle(Input::Closed { connection: first, reason: "reset".into() });
    let second = bench.accept(2, THEIRS);
    let other_identifier = Ipv4Addr::new(192, 0, 2, 77);
    bench.receive(second, &open(other_identifier, 90, false));
    bench.receive(second, &Message::Keepalive.encode());
    let peer = bench.speaker.peers().into_iter().find(|peer| &*peer.config.name == "peer").unwrap();
    assert_eq!(peer.negotiated.unwrap().identifier, other_identifier);
    // Nobody may be called like nobody.
    let mut bench = Bench::new(passive("peer", THEIRS));
    let connection = bench.accept(1, THEIRS);
    bench.receive(connection, &open(Ipv4Addr::UNSPECIFIED, 90, false));
    assert_eq!(bench.farewell(), Some((2, 3)));
}

#[test]
fn a_second_open_ends_the_session_and_repeated_routes_do_not() {
    let mut bench = Bench::new(passive("peer", THEIRS));
    let connection = bench.establish(1, THEIRS);
    for _ in 0..100 {
        bench.receive(connection, &update(0, 5, 4096));
        bench.receive(connection, &UpdateBuilder::end_of_rib(Family::Ipv4));
        bench.receive(connection, &Message::Keepalive.encode());
    }
    assert_eq!(learned(&bench), 5);
    let counted = bench.speaker.peers().into_iter().find(|p| &*p.config.name == "peer").unwrap();
    assert_eq!(counted.prefixes_received, [5, 0]);
    bench.receive(connection, &open(THEIRS, 90, false));
    assert_eq!(bench.farewell(), Some((5, 3)));
    assert_eq!(bench.state("peer"), State::Idle);
}

#[test]
fn too_many_prefixes_end_only_the_session_that_brought_them() {
    let mut flood = passive("peer", THEIRS);
    flood.max_prefixes = Some(1000);
    flood.graceful_restart = None;
    let mut bench = Bench::new(flood);
    bench.establish(2, OTHER);
    bench.receive(ConnectionId(2), &update(1_000_000 / 256, 2, 4096));
    let connection = bench.establish(1, THEIRS);
    bench.receive(connection, &update(0, 1000, 4096));
    assert_eq!(bench.state("peer"), State::Established);
    bench.receive(connection, &update(1000, 1, 4096));
    assert_eq!(bench.farewell(), Some((6, 1)));
    assert_eq!(bench.reason("peer"), DownReason::MaxPrefixes(Family::Ipv4));
    assert_eq!((learned(&bench), bench.state("other")), (2, State::Established));
    // Without a configured pause it stays down.
    bench.wait(Duration::from_secs(3600));
    bench.accept(3, THEIRS);
    assert_eq!(bench.state("peer"), State::Idle);
}

/// A million routes that come and go while nobody reads what we say about them: memory is bounded by the table, not by
/// the number of messages.
#[test]
fn a_flood_towards_a_reader_that_stalls_piles_up_no_messages() {
    let mut bench = Bench::new(passive("peer", THEIRS));
    let connection = bench.establish(1, THEIRS);
    let slow = bench.establish(2, OTHER);
    bench.handle(Input::Writable { connection: slow, writable: false });
    bench.sent.clear();
    for round in 0..200_u32 {
        bench.receive(connection, &update((round % 2) * 5000, 5000, 4096));
        while bench.speaker.poll_timeout().is_some_and(|at| at <= bench.now) {
            bench.handle(Input::Timeout);
        }
    }
    assert!(bench.sent.iter().all(|(to, _)| *to != slow), "a stalled connection gets nothing");
    bench.handle(Input::Writable { connection: slow, writable: true });
    let octets: usize = bench.sent.iter().filter(|(to, _)| *to == slow).map(|(_, b)| b.len()).sum();
    // 10,000 prefixes of 4 octets and what stands around them, once or twice, not a hundred times.
    assert!((40_000..200_000).contains(&octets), "{octets}");
    assert_eq!(bench.state("other"), State::Established);
}

#[test]
fn a_reader_that_never_returns_loses_its_session() {
    let mut bench = Bench::new(passive("peer", THEIRS));
    let connection = bench.establish(1, THEIRS);
    bench.handle(Input::Writable { connection, writable: false });
    // It goes on sending keepalives but takes nothing: the send hold timer (RFC 9687), twice the hold time.
    for _ in 0..8 {
        bench.wait(Duration::from_secs(20));
        bench.receive(connection, &Message::Keepalive.encode());
    }
    assert_eq!(bench.state("peer"), State::Established);
    bench.wait(Duration::from_secs(25));
    assert_eq!(bench.farewell(), Some((8, 0)));
}

#[test]
fn messages_of_65535_octets_only_when_both_agreed() {
    let long = update(0, 16_000, 65_535);
    assert!(split(&long)[0].len() > 60_000, "{}", split(&long)[0].len());
    let mut bench = Bench::new(passive("peer", THEIRS));
    let connection = bench.accept(1, THEIRS);
    bench.receive(connection, &open(THEIRS, 90, true));
    bench.receive(connection, &Message::Keepalive.encode());
    // In pieces as TCP may deliver them.
    for piece in long.chunks(1000) {
        bench.receive(connection, piece);
    }
    assert_eq!((bench.state("peer"), learned(&bench)), (State::Established, 16_000));

    let mut bench = Bench::new(passive("peer", THEIRS));
    let connection = bench.establish(1, THEIRS);
    bench.receive(connection, &long);
    assert_eq!(bench.farewell(), Some((1, 2)), "4096 is the most without the capability");
    assert_eq!(learned(&bench), 0);
}

#[test]
fn a_password_that_cannot_be_read_admits_nobody() {
    let mut keyless = passive("peer", THEIRS);
    keyless.passive = false;
    keyless.authentication = Authentication::Unavailable("secret bgp/pw: not found".into());
    let mut bench = Bench::new(keyless);
    bench.wait(Duration::from_secs(600));
    assert!(bench.sent.is_empty());
    let connection = bench.accept(1, THEIRS);
    assert_eq!(bench.closed, [(connection, None)]);
    assert_eq!(bench.state("peer"), State::Idle);
    assert!(bench.reason("peer").to_string().contains("secret bgp/pw: not found"));
}

#[test]
fn what_is_no_bgp_ends_the_connection_at_once() {
    for (garbage, code) in [
        (&[0x16, 3, 1, 0, 0x80].repeat(8)[..], (1, 1)),
        (&[&[0xff; 16][..], &[0, 18, 4]].concat()[..], (1, 2)),
        (&[&[0xff; 16][..], &[0, 19, 9]].concat()[..], (1, 3)),
        (&[&[0xff; 16][..], &[0, 19, 4]].concat()[..], (5, 1)),
    ] {
        let mut bench = Bench::new(passive("peer", THEIRS));
        let connection = bench.accept(1, THEIRS);
        bench.receive(connection, garbage);
        assert_eq!(bench.farewell(), Some(code), "{garbage:02x?}");
        // The pause after an error doubles; the peer cannot keep us busy.
        bench.accept(2, THEIRS);
        assert_eq!(bench.closed.last(), Some(&(ConnectionId(2), None)));
    }
}

#[test]
fn a_capability_of_no_meaning_is_no_reason_to_refuse() {
    let mut bench = Bench::new(passive("peer", THEIRS));
    let connection = bench.accept(1, THEIRS);
    let mut capabilities = Capabilities {
        families: FamilySet::only(Family::Ipv4),
        four_octet_as: Some(65001),
        ..Capabilities::default()
    }
    .to_list();
    capabilities.extend((100..140).map(|code| Capability::decode(code, &[1, 2, 3])));
    let open = Open { my_as: 65001, hold_time: 90, identifier: THEIRS, capabilities };
    bench.receive(connection, &Message::Open(open).encode());
    bench.receive(connection, &Message::Keepalive.encode());
    assert_eq!(bench.state("peer"), State::Established);
}
