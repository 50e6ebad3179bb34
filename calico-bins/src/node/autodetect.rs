//! Which address of the host is the node's: a pure choice over what the kernel reports.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// An interface as the choice sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Name.
    pub name: String,
    /// Kernel's kind (`veth`, `bridge`, …); empty for hardware.
    pub kind: String,
    /// Oper-up.
    pub up: bool,
    /// Addresses with prefix length.
    pub addresses: Vec<IpNet>,
    /// A default route of the family leaves through it.
    pub default_route: bool,
}

/// How to choose, as in `IP_AUTODETECTION_METHOD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// The best interface; see [`choose`].
    FirstFound,
    /// Interfaces whose name starts with, or equals, one of these (a trailing `*` or `.*` is allowed).
    Interface(Vec<String>),
    /// As [`Method::FirstFound`], without these.
    SkipInterface(Vec<String>),
    /// Addresses inside one of these.
    Cidr(Vec<IpNet>),
}

/// A method that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "IP_AUTODETECTION_METHOD={0:?} is not understood: use first-found, interface=<name>[,…], \
     skip-interface=<name>[,…] or cidr=<cidr>[,…]"
)]
pub struct UnknownMethod(pub String);

impl std::str::FromStr for Method {
    type Err = UnknownMethod;

    fn from_str(text: &str) -> Result<Self, UnknownMethod> {
        let list =
            |rest: &str| rest.split(',').map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect();
        Ok(match text.split_once('=') {
            None if text == "first-found" => Self::FirstFound,
            Some(("interface", rest)) => Self::Interface(list(rest)),
            Some(("skip-interface", rest)) => Self::SkipInterface(list(rest)),
            Some(("cidr", rest)) => Self::Cidr(
                rest.split(',')
                    .map(|cidr| cidr.trim().parse::<IpNet>())
                    .collect::<Result<_, _>>()
                    .map_err(|_| UnknownMethod(text.to_owned()))?,
            ),
            _ => return Err(UnknownMethod(text.to_owned())),
        })
    }
}

/// An address that was looked at and not taken, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Interface.
    pub interface: String,
    /// Reason.
    pub why: &'static str,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.interface, self.why)
    }
}

/// The outcome of a choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Interface and address, when there is one.
    pub found: Option<(String, IpNet)>,
    /// What was passed over.
    pub skipped: Vec<Skipped>,
}

/// Names of interfaces that are never the node's own.
const OWN_NAMES: [&str; 14] = [
    "cali",
    "tunl",
    "vxlan.calico",
    "vxlan-v6.calico",
    "wireguard.cali",
    "wg-v6.cali",
    "docker",
    "cbr",
    "podman",
    "virbr",
    "lxcbr",
    "br-",
    "kube-ipvs",
    "nodelocaldns",
];

/// Chooses the node's address of one family.
///
/// Reference behaviour goes by a list of names and takes the last interface that is not on it, which users call
/// the worst default of all. Here the interface of the default route comes first, then hardware, then anything
/// else that is up; devices that are made for containers never.
pub fn choose(interfaces: &[Interface], v6: bool, method: &Method) -> Choice {
    let mut skipped = Vec::new();
    let mut best: Option<(u8, &Interface, IpNet)> = None;
    for interface in interfaces {
        let mut skip = |why| skipped.push(Skipped { interface: interface.name.clone(), why });
        let Some(address) = interface
            .addresses
            .iter()
            .copied()
            .find(|net| net.addr().is_ipv6() == v6 && is_global(net.addr()) && in_method(*net, method))
        else {
            skip("no suitable address");
            continue;
        };
        if let Some(why) = unsuitable(interface, method) {
            skip(why);
            continue;
        }
        let rank = match (interface.default_route, interface.kind.is_empty()) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => 2,
        };
        match best {
            Some((best_rank, ..)) if best_rank <= rank => skip("another interface is more likely"),
            _ => {
                if let Some((_, worse, _)) = best.replace((rank, interface, address)) {
                    skipped.push(Skipped {
                        interface: worse.name.clone(),
                        why: "another interface is more likely",
                    });
                }
            }
        }
    }
    Choice { found: best.map(|(_, interface, address)| (interface.name.clone(), address)), skipped }
}

fn unsuitable(interface: &Interface, method: &Method) -> Option<&'static str> {
    match method {
        Method::Interface(names) => {
            (!names.iter().any(|n| matches(n, &interface.name))).then_some("not named by the method")
        }
        Method::Cidr(_) => (!interface.up).then_some("it is down"),
        Method::SkipInterface(names) if names.iter().any(|n| matches(n, &interface.name)) => {
            Some("the method skips it")
        }
        Method::FirstFound | Method::SkipInterface(_) => {
            if interface.name == "lo" {
                Some("loopback")
            } else if !interface.up {
                Some("it is down")
            } else if OWN_NAMES.iter().any(|name| interface.name.starts_with(name)) {
                Some("it belongs to a container network")
            } else if matches!(interface.kind.as_str(), "dummy" | "tun" | "ipip" | "sit" | "wireguard") {
                Some("its kind is virtual")
            } else {
                None
            }
        }
    }
}

fn in_method(net: IpNet, method: &Method) -> bool {
    match method {
        Method::Cidr(cidrs) => cidrs.iter().any(|cidr| cidr.contains(&net.addr())),
        _ => true,
    }
}

/// The patterns users write are regular expressions of the simplest sort: a name, or a name and `.*`.
fn matches(pattern: &str, name: &str) -> bool {
    let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
    if let Some(exact) = pattern.strip_suffix('$') {
        return name == exact;
    }
    name.starts_with(pattern.trim_end_matches('*').trim_end_matches('.'))
}

fn is_global(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => {
            !(a.is_loopback()
                || a.is_link_local()
                || a.is_multicast()
                || a.is_unspecified()
                || a.is_broadcast())
        }
        IpAddr::V6(a) => {
            !(a.is_loopback()
                || a.is_multicast()
                || a.is_unspecified()
                || (a.segments()[0] & 0xffc0) == 0xfe80)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, kind: &str, address: &str, default_route: bool) -> Interface {
        Interface {
            name: name.into(),
            kind: kind.into(),
            up: true,
            addresses: vec![address.parse().unwrap()],
            default_route,
        }
    }

    fn found(interfaces: &[Interface], method: &str) -> Option<String> {
        choose(interfaces, false, &method.parse().unwrap()).found.map(|(name, net)| format!("{name} {net}"))
    }

    #[test]
    fn the_default_route_beats_hardware_beats_the_rest() {
        let all = [
            interface("lo", "", "127.0.0.1/8", false),
            interface("docker0", "bridge", "172.17.0.1/16", false),
            interface("mgmt", "veth", "10.9.0.1/24", false),
            interface("eth1", "", "10.1.0.1/24", false),
            interface("eth0", "", "10.0.0.1/24", true),
        ];
        assert_eq!(found(&all, "first-found").as_deref(), Some("eth0 10.0.0.1/24"));
        assert_eq!(found(&all[..4], "first-found").as_deref(), Some("eth1 10.1.0.1/24"));
        assert_eq!(found(&all[..3], "first-found").as_deref(), Some("mgmt 10.9.0.1/24"));
        assert_eq!(found(&all[..2], "first-found"), None);
        assert_eq!(found(&all, "interface=eth1").as_deref(), Some("eth1 10.1.0.1/24"));
        assert_eq!(found(&all, "skip-interface=eth.*").as_deref(), Some("mgmt 10.9.0.1/24"));
        assert_eq!(found(&all, "cidr=172.16.0.0/12").as_deref(), Some("docker0 172.17.0.1/16"));
    }

    #[test]
    fn everything_that_was_passed_over_has_a_reason() {
        let all =
            [interface("lo", "", "127.0.0.1/8", false), interface("cali1", "veth", "10.0.0.1/32", false)];
        let choice = choose(&all, false, &Method::FirstFound);
        assert_eq!(choice.found, None);
        assert_eq!(choice.skipped.len(), 2);
    }

    #[test]
    fn unknown_methods_are_refused() {
        for text in ["", "last-found", "cidr=x", "can-reach"] {
            assert!(text.parse::<Method>().is_err(), "{text}");
        }
    }
}
