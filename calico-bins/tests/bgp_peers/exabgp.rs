//! ExaBGP, which sends whatever it is told to.

use std::fmt::Write as _;

use crate::arena::{Arena, Running};
use crate::cases::{Case, Implementation, PASSWORD};

pub(crate) struct ExaBgp;

/// Appends what it reads to a file; exabgp starts it and writes JSON to it.
const SINK: &str = "import sys
with open(sys.argv[1], 'a', buffering=1) as out:
    for line in sys.stdin:
        out.write(line)
";

/// Runs ExaBGP with routes to announce besides the usual ones, in the form of its configuration.
pub(crate) fn start(arena: &Arena, case: &Case, routes: &[&str]) -> Running {
    let sink = arena.write("sink.py", SINK);
    let (ours, theirs) = (case.our_address(), case.their_address());
    let mut text = format!(
        "process log {{ run /usr/bin/python3 {} {}; encoder json; }}
neighbor {ours} {{
  router-id 10.99.0.2; local-address {theirs}; local-as {}; peer-as {}; hold-time 9;
",
        sink.display(),
        arena.path("updates.json").display(),
        case.their_as,
        case.our_as
    );
    if case.md5 {
        writeln!(text, "  md5-password \"{PASSWORD}\";").unwrap();
    }
    text += "  family {";
    for (on, family) in [(case.four(), "ipv4"), (case.six(), "ipv6")] {
        if on {
            write!(text, " {family} unicast;").unwrap();
        }
    }
    text += " }\n  api { processes [ log ]; receive { parsed; update; } }\n  static {\n";
    if case.four() {
        text += "    route 10.2.0.0/26 next-hop 10.99.0.2;\n";
    }
    if case.six() {
        text += "    route fd10:2::/122 next-hop fd99::2;\n";
    }
    for route in routes {
        writeln!(text, "    {route};").unwrap();
    }
    let config = arena.write("exa.conf", &(text + "  }\n}\n"));
    let environment = [
        ("exabgp.daemon.user", "root"),
        ("exabgp.api.cli", "false"),
        ("exabgp.tcp.bind", ""),
        ("exabgp.log.destination", "stdout"),
        ("exabgp.cache.attributes", "false"),
    ];
    arena.start("exabgp", &[config.to_str().unwrap()], &environment)
}

impl Implementation for ExaBgp {
    const PROGRAMS: &'static [&'static str] = &["exabgp", "python3"];

    fn start(arena: &Arena, case: &Case) -> Running {
        start(arena, case, &[])
    }

    fn shows(arena: &Arena, prefix: &str) -> String {
        let text = std::fs::read_to_string(arena.path("updates.json")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(prefix)).collect();
        lines.join("\n")
    }

    fn marks(case: &Case, six: bool) -> Vec<String> {
        let mut marks = vec![if six { "fd99::1" } else { "10.99.0.1" }.to_owned()];
        if case.internal() {
            marks.push("2147482623".into());
        } else {
            marks.push(case.our_as.to_string());
        }
        marks
    }
}
