//! Routes in the form of `ip route`, which operators read without thinking.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::link::Link;
use super::route::{MAIN_TABLE, NextHop, Route, RouteKind, RouteProtocol, Scope};

/// The names that iproute2 ships for protocols that occur around Calico.
fn protocol(protocol: RouteProtocol) -> Option<String> {
    let name = match protocol.0 {
        1 => "redirect",
        2 => "kernel",
        // iproute2 leaves the default out.
        3 => return None,
        4 => "static",
        8 => "gated",
        9 => "ra",
        10 => "mrt",
        11 => "zebra",
        12 => "bird",
        16 => "dhcp",
        18 => "keepalived",
        42 => "babel",
        186 => "bgp",
        187 => "isis",
        188 => "ospf",
        189 => "rip",
        192 => "eigrp",
        number => return Some(number.to_string()),
    };
    Some(name.to_owned())
}

fn kind(kind: RouteKind) -> Option<String> {
    Some(match kind {
        RouteKind::Unicast => return None,
        RouteKind::Local => "local".to_owned(),
        RouteKind::Blackhole => "blackhole".to_owned(),
        RouteKind::Unreachable => "unreachable".to_owned(),
        RouteKind::Prohibit => "prohibit".to_owned(),
        RouteKind::Throw => "throw".to_owned(),
        RouteKind::Other(3) => "broadcast".to_owned(),
        RouteKind::Other(4) => "anycast".to_owned(),
        RouteKind::Other(5) => "multicast".to_owned(),
        RouteKind::Other(number) => number.to_string(),
    })
}

fn hop(out: &mut String, route: &Route, hop: &NextHop, names: &BTreeMap<u32, &str>) {
    if let Some(via) = hop.via {
        let foreign = via.is_ipv6() && route.dst.addr().is_ipv4();
        let _ = write!(out, " via {}{via}", if foreign { "inet6 " } else { "" });
    }
    match names.get(&hop.interface) {
        Some(name) => {
            let _ = write!(out, " dev {name}");
        }
        None if hop.interface != 0 => {
            let _ = write!(out, " dev if{}", hop.interface);
        }
        None => {}
    }
}

/// One route as `ip route` prints it; equal-cost next hops follow on lines of their own.
pub fn line(route: &Route, names: &BTreeMap<u32, &str>) -> String {
    let mut out = String::new();
    if let Some(kind) = kind(route.kind) {
        out.push_str(&kind);
        out.push(' ');
    }
    let dst = route.dst;
    if dst.prefix_len() == 0 {
        out.push_str("default");
    } else if dst.prefix_len() == dst.max_prefix_len() {
        let _ = write!(out, "{}", dst.addr());
    } else {
        let _ = write!(out, "{dst}");
    }
    let single = match route.nexthops.as_slice() {
        [only] => Some(only),
        _ => None,
    };
    if let Some(only) = single {
        hop(&mut out, route, only, names);
    }
    if route.table != MAIN_TABLE {
        let _ = match route.table {
            255 => write!(out, " table local"),
            table => write!(out, " table {table}"),
        };
    }
    if let Some(protocol) = protocol(route.protocol) {
        let _ = write!(out, " proto {protocol}");
    }
    match route.scope {
        Scope::UNIVERSE => {}
        Scope::LINK => out.push_str(" scope link"),
        Scope::HOST => out.push_str(" scope host"),
        Scope(number) => {
            let _ = write!(out, " scope {number}");
        }
    }
    if let Some(source) = route.source {
        let _ = write!(out, " src {source}");
    }
    if route.priority != 0 {
        let _ = write!(out, " metric {}", route.priority);
    }
    if single.is_some_and(|only| only.onlink) {
        out.push_str(" onlink");
    }
    if let Some(mtu) = route.mtu {
        let _ = write!(out, " mtu {mtu}");
    }
    if dst.addr().is_ipv6() {
        out.push_str(" pref medium");
    }
    if single.is_none() {
        for each in &route.nexthops {
            out.push_str("\n\tnexthop");
            hop(&mut out, route, each, names);
            let _ = write!(out, " weight {}", each.weight);
            if each.onlink {
                out.push_str(" onlink");
            }
        }
    }
    out
}

/// A whole table, one line per route, the default route first, then by destination.
///
/// ```
/// use calico_dataplane::netlink::{Link, NextHop, Route, RouteProtocol, route_text};
/// let links = [Link { index: 2, name: "eth0".to_owned(), ..Link::default() }];
/// let hop = NextHop::via("172.18.10.12".parse().unwrap(), 2);
/// let routes = [
///     Route::via("10.244.104.0/26".parse().unwrap(), [hop], RouteProtocol::BIRD),
///     Route::blackhole("10.244.166.128/26".parse().unwrap(), RouteProtocol::BIRD),
/// ];
/// assert_eq!(
///     route_text::table(&routes, &links),
///     "10.244.104.0/26 via 172.18.10.12 dev eth0 proto bird\nblackhole 10.244.166.128/26 proto bird\n",
/// );
/// ```
pub fn table(routes: &[Route], links: &[Link]) -> String {
    let names: BTreeMap<u32, &str> = links.iter().map(|link| (link.index, link.name.as_str())).collect();
    let mut sorted: Vec<&Route> = routes.iter().collect();
    sorted.sort_by_key(|route| (route.dst.addr(), route.dst.prefix_len(), route.tos, route.priority));
    let mut out = String::new();
    for route in sorted {
        out.push_str(&line(route, &names));
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_where_operators_expect_it() {
        let names = BTreeMap::from([(1, "lo"), (2, "eth0"), (3, "cali1234"), (4, "vxlan.calico")]);
        let net = |text: &str| text.parse().unwrap();
        let via = |text: &str, index| NextHop::via(text.parse().unwrap(), index);
        let show = |route: &Route| line(route, &names);

        let default = Route::via(net("0.0.0.0/0"), [via("172.18.0.1", 2)], RouteProtocol::BOOT);
        assert_eq!(show(&default), "default via 172.18.0.1 dev eth0");
        let mut pod = Route::device(net("10.65.0.2/32"), 3, RouteProtocol::BOOT);
        assert_eq!(show(&pod), "10.65.0.2 dev cali1234 scope link");
        pod.priority = 1024;
        assert_eq!(show(&pod), "10.65.0.2 dev cali1234 scope link metric 1024");
        let mut tunnel = via("10.65.1.0", 4);
        tunnel.onlink = true;
        let mut vxlan = Route::via(net("10.65.1.0/26"), [tunnel], RouteProtocol::BOOT);
        vxlan.mtu = Some(1450);
        assert_eq!(show(&vxlan), "10.65.1.0/26 via 10.65.1.0 dev vxlan.calico onlink mtu 1450");
        let mut connected = Route::device(net("172.18.0.0/16"), 2, RouteProtocol::KERNEL);
        connected.source = Some("172.18.0.2".parse().unwrap());
        assert_eq!(show(&connected), "172.18.0.0/16 dev eth0 proto kernel scope link src 172.18.0.2");
        let ecmp =
            Route::via(net("10.0.0.0/8"), [via("172.18.0.3", 2), via("172.18.0.4", 2)], RouteProtocol::BIRD);
        assert_eq!(
            show(&ecmp),
            "10.0.0.0/8 proto bird\n\tnexthop via 172.18.0.3 dev eth0 weight 1\n\tnexthop via 172.18.0.4 dev eth0 weight 1"
        );
        let unnamed = Route::device(net("10.1.0.0/16"), 9, RouteProtocol::CALICO);
        assert_eq!(show(&unnamed), "10.1.0.0/16 dev if9 proto 80 scope link");
    }

    #[test]
    fn sorted_whatever_the_input_order() {
        let a = Route::blackhole("10.0.0.0/8".parse().unwrap(), RouteProtocol::BIRD);
        let b = Route::blackhole("0.0.0.0/0".parse().unwrap(), RouteProtocol::BIRD);
        let c = Route::blackhole("10.0.0.0/26".parse().unwrap(), RouteProtocol::BIRD);
        let text = "blackhole default proto bird\nblackhole 10.0.0.0/8 proto bird\nblackhole 10.0.0.0/26 proto bird\n";
        assert_eq!(table(&[a.clone(), b.clone(), c.clone()], &[]), text);
        assert_eq!(table(&[c, b, a], &[]), text);
    }
}
