//! FRR's bgpd, without its other daemons.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::arena::{Arena, Running};
use crate::cases::{Case, Implementation, PASSWORD};

pub(crate) struct Frr;

/// Asks the control socket: commands and answers end with a NUL, answers with three more octets of status.
fn ask(arena: &Arena, command: &str) -> Option<String> {
    let mut socket = UnixStream::connect(arena.path("vty/bgpd.vty")).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut answer = Vec::new();
    for line in ["enable", command] {
        socket.write_all(line.as_bytes()).ok()?;
        socket.write_all(&[0]).ok()?;
        answer.clear();
        let mut octet = [0];
        while answer.len() < 4 || answer[answer.len() - 4..answer.len() - 1] != [0, 0, 0] {
            socket.read_exact(&mut octet).ok()?;
            answer.push(octet[0]);
        }
    }
    Some(String::from_utf8_lossy(&answer).trim_end_matches('\0').to_owned())
}

impl Implementation for Frr {
    const PROGRAMS: &'static [&'static str] = &["bgpd"];

    fn start(arena: &Arena, case: &Case) -> Running {
        let (ours, theirs) = (case.our_address(), case.their_address());
        let mut text = format!(
            "router bgp {}
 bgp router-id 10.99.0.2
 no bgp ebgp-requires-policy
 no bgp network import-check
 no bgp default ipv4-unicast
 bgp graceful-restart
 bgp graceful-restart preserve-fw-state
 neighbor {ours} remote-as {}
 neighbor {ours} update-source {theirs}
 neighbor {ours} timers 3 9
 neighbor {ours} timers connect 1
",
            case.their_as, case.our_as
        );
        if case.md5 {
            writeln!(text, " neighbor {ours} password {PASSWORD}").unwrap();
        }
        if case.gtsm {
            writeln!(text, " neighbor {ours} ttl-security hops 1").unwrap();
        }
        if case.extended_next_hop {
            writeln!(text, " neighbor {ours} capability extended-nexthop").unwrap();
        }
        for (on, family, network) in
            [(case.four(), "ipv4", "10.2.0.0/26"), (case.six(), "ipv6", "fd10:2::/122")]
        {
            if on {
                write!(
                    text,
                    " address-family {family} unicast\n  network {network}\n  neighbor {ours} activate\n"
                )
                .unwrap();
                if family == "ipv6" {
                    writeln!(text, "  neighbor {ours} route-map six out").unwrap();
                }
                if case.add_path {
                    writeln!(text, "  neighbor {ours} addpath-tx-all-paths").unwrap();
                }
                text += " exit-address-family\n";
            }
        }
        // Without zebra it does not know its own address of the other family.
        text += "route-map six permit 10\n set ipv6 next-hop global fd99::2\n";
        let config = arena.write("bgpd.conf", &text);
        std::fs::create_dir_all(arena.path("vty")).unwrap();
        let _ = std::fs::remove_file(arena.path("vty/bgpd.vty"));
        let (pid, vty) = (arena.path("bgpd.pid"), arena.path("vty"));
        let _ = std::fs::remove_file(&pid);
        let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
        let arguments =
            ["-S", "-n", "-Z", "-f", &path(&config), "-i", &path(&pid), "--vty_socket", &path(&vty)];
        arena.start("bgpd", &arguments, &[])
    }

    fn shows(arena: &Arena, prefix: &str) -> String {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        ask(arena, &format!("show bgp {family} unicast {prefix} json")).unwrap_or_default()
    }

    fn marks(case: &Case, six: bool) -> Vec<String> {
        let hop = match (case.extended_next_hop, six) {
            (true, _) | (_, true) => "\"fd99::1\"",
            _ => "\"10.99.0.1\"",
        };
        let mut marks = vec![hop.to_owned()];
        if case.internal() {
            marks.push("2147482623".into());
        } else {
            marks.push(format!("\"string\":\"{}\"", case.our_as));
        }
        marks
    }
}
