//! GoBGP.

use std::fmt::Write as _;

use crate::arena::{Arena, Running, eventually};
use crate::cases::{Case, Implementation, PASSWORD};

pub(crate) struct GoBgp;

impl Implementation for GoBgp {
    const PROGRAMS: &'static [&'static str] = &["gobgpd", "gobgp"];

    fn start(arena: &Arena, case: &Case) -> Running {
        let mut text = format!(
            "global.config = {{ as = {}, router-id = \"10.99.0.2\" }}
[[neighbors]]
config = {{ neighbor-address = \"{}\", peer-as = {}{} }}
timers.config = {{ hold-time = 9, keepalive-interval = 3, connect-retry = 1, idle-hold-time-after-reset = 1 }}
graceful-restart.config = {{ enabled = true, restart-time = 60 }}
",
            case.their_as,
            case.our_address(),
            case.our_as,
            if case.md5 { format!(", auth-password = \"{PASSWORD}\"") } else { String::new() },
        );
        if case.gtsm {
            text += "ttl-security.config = { enabled = true, ttl-min = 255 }\n";
        }
        for (on, family) in [(case.four(), "ipv4"), (case.six(), "ipv6")] {
            if on {
                write!(
                    text,
                    "[[neighbors.afi-safis]]\nconfig = {{ afi-safi-name = \"{family}-unicast\" }}\n\
                     mp-graceful-restart.config = {{ enabled = true }}\n"
                )
                .unwrap();
                if case.add_path {
                    text += "add-paths.config = { receive = true, send-max = 8 }\n";
                }
            }
        }
        let config = arena.write("gobgp.toml", &text);
        let config = config.to_str().unwrap();
        let arguments = ["-t", "toml", "-f", config, "--api-hosts", "127.0.0.1:50051", "--pprof-disable"];
        let running = arena.start("gobgpd", &arguments, &[]);
        for (on, family, prefix, hop) in [
            (case.four(), "ipv4", "10.2.0.0/26", "10.99.0.2"),
            (case.six(), "ipv6", "fd10:2::/122", "fd99::2"),
        ] {
            // With RFC 8950 the next hop of IPv4 routes is an IPv6 address as well.
            let hop = if case.extended_next_hop { "fd99::2" } else { hop };
            if on {
                eventually("gobgp takes a route", || {
                    let arguments = ["global", "rib", "add", "-a", family, prefix, "nexthop", hop];
                    let said = arena.ask("gobgp", &arguments);
                    if said.trim().is_empty() { Ok(()) } else { Err(said + &running.said()) }
                });
            }
        }
        running
    }

    fn shows(arena: &Arena, prefix: &str) -> String {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        arena.ask("gobgp", &["global", "rib", "-a", family, prefix, "-j"])
    }

    fn marks(case: &Case, six: bool) -> Vec<String> {
        let hop = match (case.extended_next_hop, six) {
            (true, _) | (_, true) => "fd99::1",
            _ => "10.99.0.1",
        };
        let mut marks = vec![hop.to_owned()];
        if case.internal() {
            marks.push("2147482623".into());
        } else {
            marks.push(case.our_as.to_string());
        }
        marks
    }
}
