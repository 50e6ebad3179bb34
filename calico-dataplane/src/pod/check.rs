//! Is a pod still connected as it should be?

use ipnet::IpNet;

use super::attach::{host_error, pod_error};
use super::{PodError, PodSpec, Setting, plan};
use crate::netlink::{Family, MacAddr, NetlinkError, RouteFilter, Rtnetlink};
use crate::netns::NetNs;
use crate::sysctl::Sysctl;

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
    /// The pod's side has another Ethernet address.
    #[error("pod interface {name} has the Ethernet address {found} instead of {wanted}")]
    PodMac {
        /// Name.
        name: String,
        /// What it has.
        found: MacAddr,
        /// What it should have.
        wanted: MacAddr,
    },
    /// An interface has another MTU.
    #[error("{side} interface {name} has the MTU {found} instead of {wanted}")]
    Mtu {
        /// `host` or `pod`.
        side: &'static str,
        /// Name.
        name: String,
        /// What it has.
        found: u32,
        /// What it should have.
        wanted: u32,
    },
    /// A kernel parameter has another value.
    #[error("{side}: kernel parameter {name} is {found} instead of {wanted}")]
    Setting {
        /// `host` or `pod`.
        side: &'static str,
        /// Name with slashes.
        name: String,
        /// What it is.
        found: String,
        /// What it should be.
        wanted: &'static str,
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

/// Compares reality with the specification. An MTU of 0 and an absent Ethernet address are not compared. The calling
/// thread must be in the node's namespace.
///
/// # Errors
/// [`PodError`] when reality cannot be read; differences are the result, not errors.
pub fn check(spec: &PodSpec, pod: &NetNs) -> Result<Vec<Problem>, PodError> {
    let plan = plan(spec);
    let mut problems = Vec::new();
    let mut host = Rtnetlink::open().map_err(host_error(&spec.host_interface))?;
    let wanted = Wanted {
        side: "host",
        name: &spec.host_interface,
        mtu: spec.mtu,
        mac: Some(MacAddr::HOST_SIDE),
        routes: plan.host_routes.clone(),
        addresses: &[],
        settings: &plan.host_settings,
    };
    check_side(&wanted, &mut host, &mut problems).map_err(host_error(&spec.host_interface))?;
    let in_pod = pod_error(&spec.container_interface);
    let wanted = Wanted {
        side: "pod",
        name: &spec.container_interface,
        mtu: spec.mtu,
        mac: spec.mac,
        routes: plan.pod_routes.iter().map(|(dst, _)| *dst).collect(),
        addresses: &plan.pod_addresses,
        // What a privileged pod sets in its own namespace is its own affair.
        settings: &[],
    };
    let inside = pod.run(|| {
        let mut inside = Rtnetlink::open()?;
        let mut problems = Vec::new();
        check_side(&wanted, &mut inside, &mut problems).map(|()| problems)
    })?;
    problems.extend(inside.map_err(&in_pod)?);
    Ok(problems)
}

/// How one side should be.
struct Wanted<'a> {
    side: &'static str,
    name: &'a str,
    mtu: u32,
    mac: Option<MacAddr>,
    routes: Vec<IpNet>,
    addresses: &'a [IpNet],
    settings: &'a [Setting],
}

fn check_side(
    wanted: &Wanted<'_>,
    netlink: &mut Rtnetlink,
    problems: &mut Vec<Problem>,
) -> Result<(), NetlinkError> {
    let side = wanted.side;
    let name = || wanted.name.to_owned();
    let link = match netlink.link(wanted.name) {
        Ok(link) => link,
        Err(error) if error.is_absent() => {
            problems.push(Problem::NoInterface { side, name: name() });
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    if !link.is_up() {
        problems.push(Problem::Down { side, name: name() });
    }
    if wanted.mtu != 0 && link.mtu != wanted.mtu {
        problems.push(Problem::Mtu { side, name: name(), found: link.mtu, wanted: wanted.mtu });
    }
    match (link.mac, wanted.mac) {
        (Some(found), Some(mac)) if found != mac => problems.push(match side {
            "host" => Problem::Mac { name: name(), found },
            _ => Problem::PodMac { name: name(), found, wanted: mac },
        }),
        _ => {}
    }
    let sysctl = Sysctl::new();
    for setting in wanted.settings.iter().filter(|setting| setting.required) {
        let found = sysctl.read(&setting.name).unwrap_or_else(|error| error.to_string());
        if found != setting.value {
            let (name, wanted) = (setting.name.clone(), setting.value);
            problems.push(Problem::Setting { side, name, found, wanted });
        }
    }
    let existing = netlink.addresses_of(link.index)?;
    for address in wanted.addresses {
        if !existing.iter().any(|other| other.net.addr() == address.addr()) {
            problems.push(Problem::NoAddress { name: name(), address: *address });
        }
    }
    let mut existing = Vec::new();
    for family in [Family::V4, Family::V6] {
        if wanted.routes.iter().any(|dst| Family::of(dst.addr()) == family) {
            let filter = RouteFilter { interface: Some(link.index), ..RouteFilter::main(family) };
            existing.extend(netlink.routes(&filter)?);
        }
    }
    for dst in &wanted.routes {
        if !existing.iter().any(|route| route.dst == *dst) {
            problems.push(Problem::NoRoute { side, name: name(), dst: *dst });
        }
    }
    Ok(())
}
