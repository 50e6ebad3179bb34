//! The wire between a pod and its node: veth pair, addresses, routes, kernel parameters.
//!
//! [`plan`] decides and touches nothing; [`attach`] carries the plan out and undoes everything when a step fails;
//! [`detach`] may be called any number of times; [`check`] names every difference.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};

use crate::netlink::{
    Address, Family, LinkChange, MacAddr, Neighbour, NetlinkError, NewKind, NewLink, NextHop, Peer, Route,
    RouteFilter, RouteProtocol, Rtnetlink,
};
use crate::netns::{NamespaceError, NetNs};
use crate::sysctl::{Sysctl, SysctlError};

/// The gateway of every IPv4 pod. No machine has this address: the host side takes what is sent to it.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// How often and how long the host side's MAC is checked against others who set it (udev does).
const MAC_TRIES: u32 = 50;
const MAC_PAUSE: Duration = Duration::from_millis(100);

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

fn check_name(name: &str) -> Result<(), PodError> {
    let bad = |byte: u8| byte == b'/' || byte == b':' || byte.is_ascii_whitespace() || byte == 0;
    let good = (1..=15).contains(&name.len()) && name != "." && name != ".." && !name.bytes().any(bad);
    if good { Ok(()) } else { Err(PodError::Name { name: name.to_owned() }) }
}

fn apply_settings(
    side: &'static str,
    settings: &[Setting],
    warnings: &mut Vec<String>,
) -> Result<(), PodError> {
    let sysctl = Sysctl::new();
    for setting in settings {
        match sysctl.write(&setting.name, setting.value) {
            Ok(()) => {}
            Err(error) if !setting.required => warnings.push(error.to_string()),
            Err(source) => return Err(PodError::Sysctl { side, source }),
        }
    }
    Ok(())
}

/// Connects a pod. The calling thread must be in the node's namespace. Whatever already has the host side's name is
/// replaced; when a step fails, the pair is removed again and with it everything that hangs on it.
///
/// # Errors
/// [`PodError`].
pub fn attach(spec: &PodSpec, pod: &NetNs) -> Result<Attached, PodError> {
    check_name(&spec.host_interface)?;
    check_name(&spec.container_interface)?;
    if spec.addresses.is_empty() {
        return Err(PodError::NoAddress { interface: spec.container_interface.clone() });
    }
    if let Some(mac) = spec.mac.filter(|mac| !mac.is_usable()) {
        return Err(PodError::Mac { mac });
    }
    let on_host = host_error(&spec.host_interface);
    let mut host = Rtnetlink::open().map_err(&on_host)?;
    host.delete_link_by_name(&spec.host_interface).map_err(&on_host)?;
    let peer = Peer { name: &spec.container_interface, namespace: Some(pod.as_fd()), mac: spec.mac };
    host.create_link(&NewLink {
        name: &spec.host_interface,
        kind: NewKind::Veth(peer),
        mac: Some(MacAddr::HOST_SIDE),
        mtu: Some(spec.mtu),
        queues: spec.queues,
        up: false,
    })
    .map_err(&on_host)?;
    let attached = connect(spec, &plan(spec), pod, &mut host);
    if attached.is_err() {
        // The pair and all routes and addresses on it go with its one end.
        let _ = host.delete_link_by_name(&spec.host_interface);
    }
    attached
}

fn host_error(interface: &str) -> impl Fn(NetlinkError) -> PodError {
    let interface = interface.to_owned();
    move |source| PodError::Netlink { side: "host", interface: interface.clone(), source }
}

fn pod_error(interface: &str) -> impl Fn(NetlinkError) -> PodError {
    let interface = interface.to_owned();
    move |source| PodError::Netlink { side: "pod", interface: interface.clone(), source }
}

fn connect(spec: &PodSpec, plan: &Plan, pod: &NetNs, host: &mut Rtnetlink) -> Result<Attached, PodError> {
    let on_host = host_error(&spec.host_interface);
    let in_pod = pod_error(&spec.container_interface);
    let mut warnings = Vec::new();
    apply_settings("host", &plan.host_settings, &mut warnings)?;
    let host_link = host.link(&spec.host_interface).map_err(&on_host)?;
    host.change_link(host_link.index, &LinkChange::Up).map_err(&on_host)?;

    // Netlink sockets stay in the namespace that they were opened in, so only opening and the kernel parameters need
    // a thread inside.
    let (mut inside, pod_warnings) = pod.run(|| {
        let mut warnings = Vec::new();
        apply_settings("pod", &plan.pod_settings_before, &mut warnings)?;
        Ok::<_, PodError>((Rtnetlink::open().map_err(&in_pod)?, warnings))
    })??;
    warnings.extend(pod_warnings);
    let container = inside.link(&spec.container_interface).map_err(&in_pod)?;
    inside.change_link(container.index, &LinkChange::Up).map_err(&in_pod)?;
    if spec.has(Family::V6) {
        settle_mac(spec, host, host_link.index)?;
    }
    for (dst, gateway) in &plan.pod_routes {
        let route = match gateway {
            None => Route::device(*dst, container.index, RouteProtocol::BOOT),
            Some(gateway) => {
                let hop = NextHop::via(*gateway, container.index);
                Route::via(*dst, [hop], RouteProtocol::BOOT)
            }
        };
        inside.replace_route(&route).map_err(&in_pod)?;
    }
    for (gateway, mac) in &plan.pod_neighbours {
        let entry = Neighbour::permanent(container.index, *gateway, *mac);
        inside.replace_neighbour(&entry).map_err(&in_pod)?;
    }
    for net in &plan.pod_addresses {
        inside.add_address(&Address::new(container.index, *net)).map_err(&in_pod)?;
    }
    if !plan.pod_settings_after.is_empty() {
        warnings.extend(pod.run(|| {
            let mut warnings = Vec::new();
            apply_settings("pod", &plan.pod_settings_after, &mut warnings)?;
            Ok::<_, PodError>(warnings)
        })??);
    }
    for dst in &plan.host_routes {
        add_host_route(spec, host, host_link.index, *dst)?;
    }
    settle_mac(spec, host, host_link.index)?;
    Ok(Attached {
        host_index: host_link.index,
        host_mac: MacAddr::HOST_SIDE,
        container_index: container.index,
        container_mac: container.mac.unwrap_or(MacAddr([0; 6])),
        warnings,
    })
}

/// The pair is born with the right address, but udev may give the host side another one a moment later.
fn settle_mac(spec: &PodSpec, host: &mut Rtnetlink, index: u32) -> Result<(), PodError> {
    let on_host = host_error(&spec.host_interface);
    let mut found = MacAddr::HOST_SIDE;
    for attempt in 0..MAC_TRIES {
        if attempt > 0 {
            std::thread::sleep(MAC_PAUSE);
        }
        let link = host.link_by_index(index).map_err(&on_host)?;
        found = link.mac.unwrap_or(MacAddr::HOST_SIDE);
        if found == MacAddr::HOST_SIDE {
            return Ok(());
        }
        host.change_link(index, &LinkChange::Mac(MacAddr::HOST_SIDE)).map_err(&on_host)?;
    }
    let interface = spec.host_interface.clone();
    Err(PodError::MacUnstable { interface, found, wanted: MacAddr::HOST_SIDE })
}

fn add_host_route(spec: &PodSpec, host: &mut Rtnetlink, index: u32, dst: IpNet) -> Result<(), PodError> {
    let on_host = host_error(&spec.host_interface);
    let route = Route::device(dst, index, RouteProtocol::BOOT);
    match host.add_route(&route) {
        Ok(()) => Ok(()),
        Err(error) if error.is_present() => {
            let filter = RouteFilter::main(Family::of(dst.addr()));
            let existing = host.routes(&filter).map_err(&on_host)?;
            let wanted = route.canonical();
            let same = |other: &&Route| other.key() == wanted.key();
            match existing.iter().find(same) {
                // The agent was faster.
                Some(other) if other.interface() == Some(index) && other.scope == wanted.scope => Ok(()),
                Some(other) => {
                    let interface = other
                        .interface()
                        .and_then(|index| host.link_by_index(index).ok())
                        .map_or_else(|| "none".to_owned(), |link| link.name);
                    Err(PodError::RouteConflict { dst, interface, wanted: spec.host_interface.clone() })
                }
                None => Err(on_host(error)),
            }
        }
        Err(error) => Err(on_host(error)),
    }
}

/// Removes the connection of a pod: the pair, and with it all addresses and routes. Fine when there is nothing to
/// remove. Both ends are tried, because either may be the only one that the caller can still name. The calling
/// thread must be in the node's namespace. True when something was removed.
///
/// # Errors
/// [`PodError`], after both ends were tried.
pub fn detach(
    host_interface: &str,
    container_interface: &str,
    pod: Option<&NetNs>,
) -> Result<bool, PodError> {
    let on_host = host_error(host_interface);
    let in_host =
        Rtnetlink::open().and_then(|mut host| host.delete_link_by_name(host_interface)).map_err(&on_host);
    let in_pod_end = pod.map_or(Ok(false), |pod| detach_inside(container_interface, pod));
    Ok(in_host? | in_pod_end?)
}

/// Removes the pod's end of its connection, and with it the host's. For a caller who must not touch a host interface
/// that a newer pod of the same name may have by now. True when something was removed.
///
/// # Errors
/// [`PodError`].
pub fn detach_inside(container_interface: &str, pod: &NetNs) -> Result<bool, PodError> {
    let in_pod = pod_error(container_interface);
    let removed = pod.run(|| {
        let mut inside = Rtnetlink::open()?;
        match inside.link(container_interface) {
            // A pod's own eth0 that is not one end of a pair (host network, another plugin) is not ours.
            Ok(link) if link.kind.as_deref() == Some("veth") => match inside.delete_link(link.index) {
                Err(error) if error.is_absent() => Ok(false),
                other => other.map(|()| true),
            },
            Ok(_) => Ok(false),
            Err(error) if error.is_absent() => Ok(false),
            Err(error) => Err(error),
        }
    });
    match removed {
        Ok(removed) => removed.map_err(in_pod),
        Err(error) if error.is_absent() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A way in which reality differs from the specification.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// An interface is missing.
    #[error("{side} interface {name} does not exist")]
    NoInterface {
        /// `host` or `pod`.
        side: &'static str,
        /// Name.
        name: String,
    },
    /// An interface is down.
    #[error("{side} interface {name} is down")]
    Down {
        /// `host` or `pod`.
        side: &'static str,
        /// Name.
        name: String,
    },
    /// The host side has another Ethernet address.
    #[error("host interface {name} has the Ethernet address {found} instead of {}", MacAddr::HOST_SIDE)]
    Mac {
        /// Name.
        name: String,
        /// What it has.
        found: MacAddr,
    },
    /// An address is missing in the pod.
    #[error("pod interface {name} lacks the address {address}")]
    NoAddress {
        /// Interface.
        name: String,
        /// Address.
        address: IpNet,
    },
    /// A route is missing or leads elsewhere.
    #[error("{side}: no route to {dst} through {name}")]
    NoRoute {
        /// `host` or `pod`.
        side: &'static str,
        /// Interface that it should lead to.
        name: String,
        /// Destination.
        dst: IpNet,
    },
}

/// Compares reality with the specification. The calling thread must be in the node's namespace.
///
/// # Errors
/// [`PodError`] when reality cannot be read; differences are the result, not errors.
pub fn check(spec: &PodSpec, pod: &NetNs) -> Result<Vec<Problem>, PodError> {
    let plan = plan(spec);
    let mut problems = Vec::new();
    let mut host = Rtnetlink::open().map_err(host_error(&spec.host_interface))?;
    let host_routes: Vec<IpNet> = plan.host_routes.clone();
    check_side("host", &mut host, &spec.host_interface, &host_routes, &[], &mut problems)
        .map_err(host_error(&spec.host_interface))?;
    let in_pod = pod_error(&spec.container_interface);
    let mut inside = pod.run(Rtnetlink::open)?.map_err(&in_pod)?;
    let pod_routes: Vec<IpNet> = plan.pod_routes.iter().map(|(dst, _)| *dst).collect();
    let addresses = &plan.pod_addresses;
    check_side("pod", &mut inside, &spec.container_interface, &pod_routes, addresses, &mut problems)
        .map_err(&in_pod)?;
    Ok(problems)
}

fn check_side(
    side: &'static str,
    netlink: &mut Rtnetlink,
    name: &str,
    routes: &[IpNet],
    addresses: &[IpNet],
    problems: &mut Vec<Problem>,
) -> Result<(), NetlinkError> {
    let link = match netlink.link(name) {
        Ok(link) => link,
        Err(error) if error.is_absent() => {
            problems.push(Problem::NoInterface { side, name: name.to_owned() });
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    if !link.is_up() {
        problems.push(Problem::Down { side, name: name.to_owned() });
    }
    if side == "host"
        && let Some(found) = link.mac.filter(|mac| *mac != MacAddr::HOST_SIDE)
    {
        problems.push(Problem::Mac { name: name.to_owned(), found });
    }
    let existing = netlink.addresses_of(link.index)?;
    for address in addresses {
        if !existing.iter().any(|other| other.net.addr() == address.addr()) {
            problems.push(Problem::NoAddress { name: name.to_owned(), address: *address });
        }
    }
    let mut existing = Vec::new();
    for family in [Family::V4, Family::V6] {
        if routes.iter().any(|dst| Family::of(dst.addr()) == family) {
            let filter = RouteFilter { interface: Some(link.index), ..RouteFilter::main(family) };
            existing.extend(netlink.routes(&filter)?);
        }
    }
    for dst in routes {
        if !existing.iter().any(|route| route.dst == *dst) {
            problems.push(Problem::NoRoute { side, name: name.to_owned(), dst: *dst });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
