//! Connecting and disconnecting a pod.

use std::os::fd::AsFd;
use std::time::Duration;

use ipnet::IpNet;

use super::{Attached, Plan, PodError, PodSpec, Setting, plan};
use crate::netlink::{
    Address, Family, LinkChange, MacAddr, Neighbour, NetlinkError, NewKind, NewLink, NextHop, Peer, Route,
    RouteFilter, RouteProtocol, Rtnetlink,
};
use crate::netns::NetNs;
use crate::sysctl::Sysctl;

/// How often and how long the host side's MAC is checked against others who set it (udev does).
const MAC_TRIES: u32 = 50;
const MAC_PAUSE: Duration = Duration::from_millis(100);

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

pub(super) fn host_error(interface: &str) -> impl Fn(NetlinkError) -> PodError {
    let interface = interface.to_owned();
    move |source| PodError::Netlink { side: "host", interface: interface.clone(), source }
}

pub(super) fn pod_error(interface: &str) -> impl Fn(NetlinkError) -> PodError {
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
