//! BIRD 2.

use std::fmt::Write as _;

use crate::arena::{Arena, Running};
use crate::cases::{Case, Implementation, PASSWORD};

pub(crate) struct Bird;

/// What every configuration begins with.
pub(crate) const HEADER: &str = "router id 10.99.0.2;
protocol device {}
protocol direct { ipv4; ipv6; }
protocol static s4 { ipv4; route 10.2.0.0/26 blackhole; }
protocol static s6 { ipv6; route fd10:2::/122 blackhole; }
";

/// Runs BIRD with a configuration.
pub(crate) fn start(arena: &Arena, name: &str, text: &str) -> Running {
    start_with(arena, name, text, &[])
}

fn start_with(arena: &Arena, name: &str, text: &str, options: &[&str]) -> Running {
    let config = arena.write(&format!("{name}.conf"), text);
    let (control, pid) = (arena.path(&format!("{name}.ctl")), arena.path(&format!("{name}.pid")));
    let _ = std::fs::remove_file(&control);
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let (config, control, pid) = (path(&config), path(&control), path(&pid));
    let mut arguments = vec!["-f", "-c", &config, "-s", &control, "-P", &pid];
    arguments.extend(options);
    arena.start("bird", &arguments, &[])
}

/// What `birdc` says.
pub(crate) fn birdc(arena: &Arena, name: &str, command: &str) -> String {
    let control = arena.path(&format!("{name}.ctl"));
    let mut arguments = vec!["-s", control.to_str().unwrap()];
    arguments.extend(command.split(' '));
    arena.ask("birdc", &arguments)
}

fn configuration(case: &Case) -> String {
    let mut text = HEADER.to_owned();
    if case.add_path {
        text += "protocol static m1 { ipv4; route 10.5.0.0/26 via 10.99.0.10; }
protocol static m2 { ipv4 { preference 199; }; route 10.5.0.0/26 via 10.99.0.11; }
";
    }
    write!(
        text,
        "protocol bgp dut {{\n  local {} as {};\n  neighbor {} as {};\n  hold time 9;\n",
        case.their_address(),
        case.their_as,
        case.our_address(),
        case.our_as
    )
    .unwrap();
    text += "  connect delay time 1; connect retry time 1; error wait time 1,2; graceful restart on;\n";
    if case.internal() || case.gtsm {
        text += "  direct;\n";
    }
    if case.gtsm {
        text += "  ttl security on;\n";
    }
    if case.md5 {
        writeln!(text, "  password \"{PASSWORD}\";").unwrap();
    }
    for (on, family) in [(case.four(), "ipv4"), (case.six(), "ipv6")] {
        if on {
            let paths = if case.add_path { "add paths on;" } else { "" };
            let extended = if case.extended_next_hop { "extended next hop on;" } else { "" };
            writeln!(
                text,
                "  {family} {{ import all; export where source = RTS_STATIC; {paths} {extended} }};"
            )
            .unwrap();
        }
    }
    text + "}\n"
}

impl Implementation for Bird {
    const PROGRAMS: &'static [&'static str] = &["bird", "birdc"];

    fn start(arena: &Arena, case: &Case) -> Running {
        start(arena, "bird", &configuration(case))
    }

    /// As the reference does it: in recovery.
    fn restart(arena: &Arena, case: &Case) -> Running {
        start_with(arena, "bird", &configuration(case), &["-R"])
    }

    fn shows(arena: &Arena, prefix: &str) -> String {
        birdc(arena, "bird", &format!("show route {prefix} protocol dut all"))
    }

    fn marks(case: &Case, six: bool) -> Vec<String> {
        let hop = match (case.extended_next_hop, six) {
            (true, _) | (_, true) => "fd99::1",
            _ => "10.99.0.1",
        };
        let mut marks = vec![format!("BGP.next_hop: {hop}")];
        if case.internal() {
            marks.push("BGP.local_pref: 2147482623".into());
        } else {
            marks.push(format!("BGP.as_path: {}", case.our_as));
        }
        marks
    }
}
