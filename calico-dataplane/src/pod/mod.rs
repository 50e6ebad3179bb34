//! The wire between a pod and its node: veth pair, addresses, routes, kernel parameters.
//!
//! [`plan`] decides and touches nothing; [`attach`] carries the plan out and undoes everything when a step fails;
//! [`detach`] may be called any number of times; [`check`] names every difference.

mod attach;
mod check;

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

pub use attach::{attach, detach, detach_inside};
pub use check::{Problem, check};

use crate::netlink::{Family, MacAddr, NetlinkError};
use crate::netns::NamespaceError;
use crate::sysctl::SysctlError;

/// The gateway of every IPv4 pod. No machine has this address: the host side takes what is sent to it.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// How a pod is to be connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSpec {
    /// Name inside the pod, `eth0`.
    pub container_interface: String,
    /// Name on the node, `cali` + 11 hexadecimal digits.
    pub host_interface: String,
    /// MTU of both ends.
    pub mtu: u32,
    /// Transmit and receive queues of both ends; `None` for the kernel's default.
    pub queues: Option<u32>,
    /// Addresses of the pod.
    pub addresses: Vec<IpAddr>,
    /// Destinations that the pod reaches through the node, normally the default routes. Those of a family without an
    /// address are left out.
    pub routes: Vec<IpNet>,
    /// Ethernet address inside the pod; `None` for a random one.
    pub mac: Option<MacAddr>,
    /// The pod may forward packets.
    pub allow_ip_forwarding: bool,
}

impl PodSpec {
    /// A pod with one address per entry, default routes and defaults for the rest.
    pub fn new(container_interface: &str, host_interface: &str, addresses: &[IpAddr]) -> Self {
        Self {
            container_interface: container_interface.to_owned(),
            host_interface: host_interface.to_owned(),
            mtu: 1500,
            queues: None,
            addresses: addresses.to_vec(),
            routes: vec![IpNet::V4(Ipv4Net::default()), IpNet::V6(ipnet::Ipv6Net::default())],
            mac: None,
            allow_ip_forwarding: false,
        }
    }

    fn has(&self, family: Family) -> bool {
        self.addresses.iter().any(|address| Family::of(*address) == family)
    }
}

/// A kernel parameter to set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Name with slashes.
    pub name: String,
    /// Value.
    pub value: &'static str,
    /// A failure fails the whole operation; otherwise it is a warning.
    pub required: bool,
}

impl Setting {
    fn new(name: String, value: &'static str, required: bool) -> Self {
        Self { name, value, required }
    }
}

/// Everything that [`attach`] will do, in the order of the fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// In the pod, before its interface comes up.
    pub pod_settings_before: Vec<Setting>,
    /// On the node, before the host side comes up.
    pub host_settings: Vec<Setting>,
    /// In the pod: destinations and their gateways; `None` is directly attached.
    pub pod_routes: Vec<(IpNet, Option<IpAddr>)>,
    /// In the pod: the gateway's Ethernet address, fixed. The host side would answer ARP for the gateway by proxy,
    /// but only on a node that has a default route; and the first packet need not wait for an answer that is known.
    pub pod_neighbours: Vec<(IpAddr, MacAddr)>,
    /// In the pod: addresses.
    pub pod_addresses: Vec<IpNet>,
    /// In the pod, after the addresses.
    pub pod_settings_after: Vec<Setting>,
    /// On the node: routes to the pod.
    pub host_routes: Vec<IpNet>,
}

/// The kernel parameters of a workload interface on the node. The agent keeps them true later.
pub fn host_settings(interface: &str, ipv4: bool, ipv6: bool) -> Vec<Setting> {
    let mut settings = Vec::new();
    if ipv4 {
        let conf = |name: &str| format!("net/ipv4/conf/{interface}/{name}");
        // Packets to 127/8 that a host-port redirect sends to the pod are not martians.
        settings.push(Setting::new(conf("route_localnet"), "1", true));
        // Answer for the gateway at once: the first packet of a pod should not wait.
        let proxy_delay = format!("net/ipv4/neigh/{interface}/proxy_delay");
        settings.push(Setting::new(proxy_delay, "0", false));
        settings.push(Setting::new(conf("proxy_arp"), "1", true));
        settings.push(Setting::new(conf("forwarding"), "1", true));
    }
    let conf = |name: &str| format!("net/ipv6/conf/{interface}/{name}");
    if ipv6 {
        settings.push(Setting::new(conf("accept_dad"), "0", true));
        settings.push(Setting::new(conf("disable_ipv6"), "0", true));
        settings.push(Setting::new(conf("proxy_ndp"), "1", true));
        settings.push(Setting::new(conf("forwarding"), "1", true));
    }
    // A pod must not reconfigure the node with router advertisements, IPv6 wanted or not.
    settings.push(Setting::new(conf("accept_ra"), "0", false));
    settings
}

/// Decides what has to be done for `spec`.
///
/// ```
/// use calico_dataplane::pod::{PodSpec, plan};
/// let spec = PodSpec::new("eth0", "cali0123456789a", &["10.244.1.5".parse().unwrap()]);
/// let plan = plan(&spec);
/// assert_eq!(plan.host_routes, ["10.244.1.5/32".parse().unwrap()]);
/// assert_eq!(plan.pod_routes.len(), 2);
/// ```
pub fn plan(spec: &PodSpec) -> Plan {
    let (ipv4, ipv6) = (spec.has(Family::V4), spec.has(Family::V6));
    let mut before = Vec::new();
    let mut after = Vec::new();
    let forwarding = if spec.allow_ip_forwarding { "1" } else { "0" };
    if ipv6 {
        for scope in ["all", "default", "lo"] {
            before.push(Setting::new(format!("net/ipv6/conf/{scope}/disable_ipv6"), "0", true));
        }
        let interface = &spec.container_interface;
        // Addresses are unique by allocation; duplicate detection would only delay the pod by a second.
        before.push(Setting::new(format!("net/ipv6/conf/{interface}/accept_dad"), "0", true));
        before.push(Setting::new(format!("net/ipv6/conf/{interface}/disable_ipv6"), "0", true));
        after.push(Setting::new("net/ipv6/conf/all/forwarding".to_owned(), forwarding, true));
    }
    let mut routes = Vec::new();
    let mut neighbours = Vec::new();
    if ipv4 {
        neighbours.push((IpAddr::V4(GATEWAY), MacAddr::HOST_SIDE));
        after.push(Setting::new("net/ipv4/ip_forward".to_owned(), forwarding, true));
        routes.push((IpNet::from(IpAddr::V4(GATEWAY)), None));
    }
    for dst in &spec.routes {
        let gateway = match dst {
            IpNet::V4(_) if ipv4 => IpAddr::V4(GATEWAY),
            IpNet::V6(_) if ipv6 => IpAddr::V6(MacAddr::HOST_SIDE.link_local()),
            _ => continue,
        };
        routes.push((dst.trunc(), Some(gateway)));
    }
    let addresses: Vec<IpNet> = spec.addresses.iter().copied().map(IpNet::from).collect();
    Plan {
        pod_settings_before: before,
        host_settings: host_settings(&spec.host_interface, ipv4, ipv6),
        pod_routes: routes,
        pod_neighbours: neighbours,
        pod_addresses: addresses.clone(),
        pod_settings_after: after,
        host_routes: addresses,
    }
}

/// What came of an [`attach`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Index of the host side.
    pub host_index: u32,
    /// Ethernet address of the host side.
    pub host_mac: MacAddr,
    /// Index inside the pod.
    pub container_index: u32,
    /// Ethernet address inside the pod.
    pub container_mac: MacAddr,
    /// What did not succeed but does no harm, for the log.
    pub warnings: Vec<String>,
}

/// Why a pod could not be connected. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// A netlink request failed.
    #[error("{side} side, interface {interface}: {source}")]
    Netlink {
        /// `host` or `pod`.
        side: &'static str,
        /// Interface.
        interface: String,
        /// What failed.
        source: NetlinkError,
    },
    /// A kernel parameter could not be set.
    #[error("{side} side: {source}")]
    Sysctl {
        /// `host` or `pod`.
        side: &'static str,
        /// What failed.
        source: SysctlError,
    },
    /// The namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A name that the kernel would refuse or misread.
    #[error("{name:?} is no interface name: 1 to 15 bytes without '/', ':' or blanks, and not '.' or '..'")]
    Name {
        /// The name.
        name: String,
    },
    /// The pod has no address.
    #[error("pod interface {interface} has no address; the IPAM result must hold at least one")]
    NoAddress {
        /// Interface.
        interface: String,
    },
    /// An Ethernet address that no interface may carry.
    #[error(
        "{mac} cannot be the address of an interface: it is a group address or zero; choose a unicast address"
    )]
    Mac {
        /// The address.
        mac: MacAddr,
    },
    /// Another interface has the route to the pod's address.
    #[error(
        "the node's route to {dst} leads to interface {interface}, not to {wanted}: is the address in use by \
         another pod?"
    )]
    RouteConflict {
        /// Destination.
        dst: IpNet,
        /// Interface that has it.
        interface: String,
        /// Interface that should.
        wanted: String,
    },
    /// Someone keeps changing the host side's Ethernet address.
    #[error(
        "interface {interface} has the Ethernet address {found}, and setting it to {wanted} does not last; does \
         udev or NetworkManager manage it?"
    )]
    MacUnstable {
        /// Interface.
        interface: String,
        /// What it has.
        found: MacAddr,
        /// What it should have.
        wanted: MacAddr,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::NetNs;

    fn names(settings: &[Setting]) -> Vec<(&str, &str, bool)> {
        settings.iter().map(|s| (s.name.as_str(), s.value, s.required)).collect()
    }

    #[test]
    fn ipv4_pod() {
        let spec = PodSpec::new("eth0", "cali1", &["10.0.0.5".parse().unwrap()]);
        let plan = plan(&spec);
        assert_eq!(
            names(&plan.host_settings),
            [
                ("net/ipv4/conf/cali1/route_localnet", "1", true),
                ("net/ipv4/neigh/cali1/proxy_delay", "0", false),
                ("net/ipv4/conf/cali1/proxy_arp", "1", true),
                ("net/ipv4/conf/cali1/forwarding", "1", true),
                ("net/ipv6/conf/cali1/accept_ra", "0", false),
            ]
        );
        assert!(plan.pod_settings_before.is_empty());
        assert_eq!(names(&plan.pod_settings_after), [("net/ipv4/ip_forward", "0", true)]);
        assert_eq!(
            plan.pod_routes,
            [
                ("169.254.1.1/32".parse().unwrap(), None),
                ("0.0.0.0/0".parse().unwrap(), Some(IpAddr::V4(GATEWAY)))
            ]
        );
        assert_eq!(plan.pod_addresses, ["10.0.0.5/32".parse().unwrap()]);
    }

    #[test]
    fn dual_stack_pod_that_forwards() {
        let mut spec =
            PodSpec::new("eth0", "cali1", &["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()]);
        spec.allow_ip_forwarding = true;
        let plan = plan(&spec);
        assert_eq!(plan.host_settings.len(), 9);
        assert_eq!(
            names(&plan.pod_settings_after),
            [("net/ipv6/conf/all/forwarding", "1", true), ("net/ipv4/ip_forward", "1", true)]
        );
        assert_eq!(plan.pod_routes.last().unwrap().1, Some("fe80::ecee:eeff:feee:eeee".parse().unwrap()));
        assert_eq!(plan.host_routes, ["10.0.0.5/32".parse().unwrap(), "fd00::5/128".parse().unwrap()]);
    }

    #[test]
    fn impossible_specifications_are_refused_before_anything_is_touched() {
        let pod = NetNs::current().unwrap();
        let address = ["10.0.0.5".parse().unwrap()];
        for name in ["", "cali0123456789abc", "a/b", "a b", ".", "..", "a:b"] {
            let spec = PodSpec::new("eth0", name, &address);
            assert!(matches!(attach(&spec, &pod), Err(PodError::Name { .. })), "{name}");
        }
        let spec = PodSpec::new("eth0", "cali1", &[]);
        assert!(matches!(attach(&spec, &pod), Err(PodError::NoAddress { .. })));
        let mut spec = PodSpec::new("eth0", "cali1", &address);
        spec.mac = Some(MacAddr([1, 0, 0, 0, 0, 0]));
        assert!(matches!(attach(&spec, &pod), Err(PodError::Mac { .. })));
    }
}
