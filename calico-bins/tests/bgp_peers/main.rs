//! Our speaker with its real sockets against other implementations of BGP, in network namespaces. A peer that is not
//! installed is named in a line that begins with `skipped:`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

mod arena;
mod bird;
mod cases;
mod confd;
mod exabgp;
mod frr;
mod gobgp;
mod speaker;

use std::time::{Duration, Instant};

use calico_bgp::bfd::BfdConfig;
use calico_bgp::config::{Authentication, SpeakerConfig, Ttl};

use arena::{arena, eventually};
use bird::{Bird, birdc};
use cases::{
    ADD_PATH, BOTH, Case, EXTENDED, EXTERNAL, EXTERNAL_SIX, GTSM, INTERNAL, Implementation as _, LARGE_AS,
    MD5, MD5_SIX, OUR_AS, PASSWORD,
};
use exabgp::ExaBgp;
use frr::Frr;
use gobgp::GoBgp;
use speaker::{Speaker, node, peer};

#[test]
fn bird_sessions() {
    let cases = [EXTERNAL, EXTERNAL_SIX, INTERNAL, BOTH, MD5, MD5_SIX, GTSM, ADD_PATH, EXTENDED, LARGE_AS];
    cases::run::<Bird>("bird_sessions", &cases);
}

#[test]
fn frr_sessions() {
    let cases = [EXTERNAL, EXTERNAL_SIX, INTERNAL, BOTH, MD5, MD5_SIX, GTSM, ADD_PATH, EXTENDED, LARGE_AS];
    cases::run::<Frr>("frr_sessions", &cases);
}

#[test]
fn gobgp_sessions() {
    let cases = [EXTERNAL, EXTERNAL_SIX, INTERNAL, BOTH, MD5, GTSM, ADD_PATH, EXTENDED, LARGE_AS];
    cases::run::<GoBgp>("gobgp_sessions", &cases);
}

#[test]
fn exabgp_sessions() {
    cases::run::<ExaBgp>("exabgp_sessions", &[EXTERNAL, EXTERNAL_SIX, INTERNAL, BOTH, MD5, LARGE_AS]);
}

#[test]
fn bird_is_killed_and_returns() {
    cases::graceful_restart::<Bird>("bird_is_killed_and_returns");
}

#[test]
fn frr_is_killed_and_returns() {
    cases::graceful_restart::<Frr>("frr_is_killed_and_returns");
}

#[test]
fn gobgp_is_killed_and_returns() {
    cases::graceful_restart::<GoBgp>("gobgp_is_killed_and_returns");
}

#[test]
fn we_are_killed_and_return_to_bird() {
    cases::our_restart::<Bird>("we_are_killed_and_return_to_bird");
}

#[test]
fn we_are_killed_and_return_to_frr() {
    cases::our_restart::<Frr>("we_are_killed_and_return_to_frr");
}

/// Several paths of one prefix become several next hops.
#[test]
fn bird_sends_several_paths() {
    let test = "bird_sends_several_paths";
    let Some(arena) = arena(test, Bird::PROGRAMS) else { return };
    let _theirs = Bird::start(&arena, &ADD_PATH);
    let ours = Speaker::start(&arena, ADD_PATH.speaker());
    ours.learns(test, "10.5.0.0/26", &["10.99.0.10", "10.99.0.11"]);
}

/// We reflect between two clients that do not know each other. Their routes go through gateways that are nobody's here:
/// both run on one machine, which would not accept a next hop of its own.
#[test]
fn bird_clients_of_our_reflector() {
    let test = "bird_clients_of_our_reflector";
    let Some(arena) = arena(test, Bird::PROGRAMS) else { return };
    let client = |number: u8| {
        format!(
            "router id 10.99.0.{number};\nprotocol device {{}}\nprotocol direct {{ ipv4; }}
protocol static s4 {{ ipv4; route 10.{number}.0.0/26 via 10.99.0.1{number}; }}
protocol bgp dut {{ local 10.99.0.{number} as {OUR_AS}; neighbor 10.99.0.1 as {OUR_AS}; strict bind on;
  connect delay time 1; connect retry time 1; direct;
  ipv4 {{ import all; export where source = RTS_STATIC; }}; }}\n"
        )
    };
    let _two = bird::start(&arena, "two", &client(2));
    let _three = bird::start(&arena, "three", &client(3));
    let cluster = Some("10.99.0.1".parse().unwrap());
    let mut config = SpeakerConfig { cluster_id: cluster, ..node(OUR_AS) };
    for number in [2, 3] {
        let mut session = peer(&format!("10.99.0.{number}"), OUR_AS, OUR_AS);
        session.name = format!("client{number}").into();
        session.reflector_client = cluster;
        config = config.with_peer(session);
    }
    let ours = Speaker::start(&arena, config);
    ours.established(test);
    eventually(test, || {
        let text = birdc(&arena, "three", "show route 10.2.0.0/26 protocol dut all");
        let marks =
            ["BGP.next_hop: 10.99.0.12", "BGP.originator_id: 10.99.0.2", "BGP.cluster_list: 10.99.0.1"];
        marks.iter().all(|mark| text.contains(mark)).then_some(()).ok_or(text)
    });
}

/// BIRD reflects, we are a client.
#[test]
fn a_client_of_birds_reflector() {
    let test = "a_client_of_birds_reflector";
    let Some(arena) = arena(test, Bird::PROGRAMS) else { return };
    let reflector = bird::HEADER.to_owned()
        + &format!(
            "protocol bgp dut {{ local 10.99.0.2 as {OUR_AS}; neighbor 10.99.0.1 as {OUR_AS}; strict bind on;
  rr client; rr cluster id 10.99.0.2; connect delay time 1; direct; ipv4 {{ import all; export all; }}; }}
protocol bgp second {{ local 10.99.0.2 as {OUR_AS}; neighbor 10.99.0.3 as {OUR_AS}; strict bind on;
  rr client; rr cluster id 10.99.0.2; connect delay time 1; ipv4 {{ import all; export all; }}; }}\n"
        );
    let client = format!(
        "router id 10.99.0.3;\nprotocol device {{}}\nprotocol direct {{ ipv4; }}
protocol static s4 {{ ipv4; route 10.3.0.0/26 via 10.99.0.11; }}
protocol bgp dut {{ local 10.99.0.3 as {OUR_AS}; neighbor 10.99.0.2 as {OUR_AS}; strict bind on;
  connect delay time 1; ipv4 {{ import all; export where source = RTS_STATIC; }}; }}\n"
    );
    let _reflector = bird::start(&arena, "bird", &reflector);
    let _client = bird::start(&arena, "three", &client);
    let ours = Speaker::start(&arena, node(OUR_AS).with_peer(peer("10.99.0.2", OUR_AS, OUR_AS)));
    ours.learns(test, "10.3.0.0/26", &["10.99.0.11"]);
    eventually(test, || {
        let text = birdc(&arena, "three", "show route 10.1.0.0/26 protocol dut all");
        let marks = ["BGP.next_hop: 10.99.0.1", "BGP.originator_id: 10.99.0.1"];
        marks.iter().all(|mark| text.contains(mark)).then_some(()).ok_or(text)
    });
}

#[test]
fn an_administrators_words_arrive_both_ways() {
    let test = "an_administrators_words_arrive_both_ways";
    let Some(arena) = arena(test, Bird::PROGRAMS) else { return };
    let _theirs = Bird::start(&arena, &EXTERNAL);
    let ours = Speaker::start(&arena, EXTERNAL.speaker());
    ours.established(test);
    birdc(&arena, "bird", "disable dut \"new cables\"");
    ours.says(test, "Received: Administrative shutdown");
    ours.says(test, "new cables");
    birdc(&arena, "bird", "enable dut");
    ours.established(test);
    let mut session = EXTERNAL.session();
    session.disabled = true;
    ours.configure(node(OUR_AS).with_peer(session));
    ours.says(test, "Idle disabled by configuration");
    eventually(test, || {
        let text = birdc(&arena, "bird", "show protocols dut");
        text.contains("Administrative shutdown").then_some(()).ok_or(text)
    });
}

#[test]
fn a_wrong_password_keeps_the_session_down_and_an_unreadable_one_sends_nothing() {
    let test = "a_wrong_password_keeps_the_session_down_and_an_unreadable_one_sends_nothing";
    let Some(arena) = arena(test, Bird::PROGRAMS) else { return };
    let _theirs = Bird::start(&arena, &MD5);
    let with = |authentication| {
        let mut session = MD5.session();
        session.authentication = authentication;
        node(OUR_AS).with_peer(session)
    };
    let ours = Speaker::start(&arena, with(Authentication::Unavailable("secret bgp/pw is not there".into())));
    ours.says(test, "Idle password unavailable: secret bgp/pw is not there");
    ours.configure(with(Authentication::Md5(b"wrong".as_slice().into())));
    std::thread::sleep(Duration::from_secs(4));
    assert_ne!(ours.peer().unwrap().bgp_state, "Established");
    ours.configure(with(Authentication::Md5(PASSWORD.as_bytes().into())));
    ours.established(test);
    ours.learns(test, "10.2.0.0/26", &["10.99.0.2"]);
}

/// Without TTL 255 nothing gets through, whoever dials.
#[test]
fn gtsm_refuses_distant_peers() {
    let test = "gtsm_refuses_distant_peers";
    let Some(arena) = arena(test, Bird::PROGRAMS) else { return };
    let text = bird::HEADER.to_owned()
        + "protocol bgp dut { local 10.99.0.2 as 64513; neighbor 10.99.0.1 as 64512; multihop 2;
  connect delay time 1; connect retry time 1; error wait time 1,2; ipv4 { import all; export all; }; }\n";
    let _theirs = bird::start(&arena, "bird", &text);
    let ours = Speaker::start(&arena, GTSM.speaker());
    std::thread::sleep(Duration::from_secs(4));
    assert_ne!(ours.peer().unwrap().bgp_state, "Established");
    let mut open = GTSM.session();
    open.ttl = Ttl::Multihop(64);
    ours.configure(node(OUR_AS).with_peer(open));
    ours.established(test);
}

/// Lost packets are noticed within fractions of a second, and the session comes back when they are heard again.
#[test]
fn bfd_with_bird() {
    let test = "bfd_with_bird";
    if arena::program("nft").is_none() {
        println!("skipped: {test}: nft is not installed");
        return;
    }
    for six in [false, true] {
        let Some(arena) = arena(test, Bird::PROGRAMS) else { return };
        let case = Case { over_six: six, ..EXTERNAL };
        let text = bird::HEADER.to_owned()
            + &format!(
                "protocol bfd {{ interface \"v*\" {{ min rx interval 100 ms; min tx interval 100 ms; multiplier 3; }}; }}
protocol bgp dut {{ local {} as 64513; neighbor {} as 64512; direct; bfd on; hold time 240;
  connect delay time 1; connect retry time 1; error wait time 1,2;
  {} {{ import all; export where source = RTS_STATIC; }}; }}\n",
                case.their_address(),
                case.our_address(),
                if six { "ipv6" } else { "ipv4" }
            );
        let _theirs = bird::start(&arena, "bird", &text);
        let mut session = case.session();
        session.hold_time = Duration::from_secs(240);
        session.bfd =
            Some(BfdConfig { interval: Duration::from_millis(100), multiplier: 3, multihop: false });
        let ours = Speaker::start(&arena, node(OUR_AS).with_peer(session));
        ours.established(test);
        eventually(test, || {
            let text = birdc(&arena, "bird", "show bfd sessions");
            (text.contains("Up") && text.contains("0.300")).then_some(()).ok_or(text)
        });
        // What comes in on our side is lost; nobody's interface goes down.
        let cut = |rule: &str| {
            let mut arguments = vec!["netns", "exec", &arena.ours, "nft"];
            arguments.extend(rule.split(' '));
            let output = std::process::Command::new("ip").args(arguments).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        cut("add table inet cut");
        cut("add chain inet cut in { type filter hook input priority 0 ; policy drop ; }");
        let began = Instant::now();
        eventually(test, || match ours.peer() {
            Some(peer) if peer.bgp_state != "Established" => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let took = began.elapsed();
        println!("passed: {test}: silence was noticed after {took:?}");
        assert!(took < Duration::from_secs(1), "{took:?}");
        ours.says(test, "BFD down");
        eventually(test, || {
            let text = birdc(&arena, "bird", "show protocols dut");
            (!text.contains("Established")).then_some(()).ok_or(text)
        });
        cut("delete table inet cut");
        ours.established(test);
    }
}

/// RFC 7606: each defect costs the routes of its message at most, none costs the session.
#[test]
fn exabgp_sends_malformed_updates() {
    let test = "exabgp_sends_malformed_updates";
    let Some(arena) = arena(test, ExaBgp::PROGRAMS) else { return };
    let hop = "next-hop 10.99.0.2";
    // Prefix, a raw attribute (code, flags, value), whether the route survives.
    let shots = [
        ("10.4.1.0/26", "0x04 0x80 0x0001", false),
        ("10.4.2.0/26", "0x08 0xc0 0xfde8", false),
        ("10.4.3.0/26", "0x10 0xc0 0x00020000fde8", false),
        ("10.4.4.0/26", "0x20 0xc0 0x0000fde80000000100", false),
        ("10.4.5.0/26", "0xc9 0x40 0x01", false),
        ("10.4.6.0/26", "0x07 0xc0 0x0001", true),
        ("10.4.7.0/26", "0x09 0x80 0x0a", true),
        ("10.4.8.0/26", "0x0a 0x80 0x0a0b", true),
        ("10.4.9.0/26", "0x1a 0x80 0x01", true),
        ("10.4.10.0/26", "0xc8 0xc0 0xdeadbeef", true),
        ("10.4.11.0/26", "0xca 0x80 0x00", true),
        ("10.4.12.0/26", "0x23 0xc0 0x0001", false),
    ];
    let routes: Vec<String> =
        shots.iter().map(|(net, raw, _)| format!("route {net} {hop} attribute [ {raw} ]")).collect();
    let mut all: Vec<&str> = routes.iter().map(String::as_str).collect();
    let last = format!("route 10.4.99.0/26 {hop}");
    all.push(&last);
    let theirs = exabgp::start(&arena, &EXTERNAL, &all);
    let ours = Speaker::start(&arena, EXTERNAL.speaker());
    eventually(test, || match ours.peer() {
        Some(peer) if peer.detail.updates_in >= all.len() as u64 => Ok(()),
        other => Err(format!("{other:?}: {}", theirs.said())),
    });
    ours.learns(test, "10.4.99.0/26", &["10.99.0.2"]);
    let expected: Vec<(&str, bool)> = shots.iter().map(|(net, _, survives)| (*net, *survives)).collect();
    let have: Vec<(&str, bool)> = shots.iter().map(|(net, ..)| (*net, ours.has(net))).collect();
    assert_eq!(have, expected, "{}", theirs.said());
    let peer = ours.peer().unwrap();
    let defective = shots.len() as u64 - 2;
    assert_eq!((peer.bgp_state.as_str(), peer.detail.established), ("Established", 1));
    assert!(peer.detail.malformed_updates >= defective - 1, "{peer:?}");
}
