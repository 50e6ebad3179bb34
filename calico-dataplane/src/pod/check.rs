//! Is a pod still connected as it should be?

use ipnet::IpNet;

use super::attach::{host_error, pod_error};
use super::{PodError, PodSpec, plan};
use crate::netlink::{Family, MacAddr, NetlinkError, RouteFilter, Rtnetlink};
use crate::netns::NetNs;

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
