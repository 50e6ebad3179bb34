//! How large the packets of pods may be.

use std::net::IpAddr;

use super::interfaces::Interfaces;
use crate::netlink::Link;

/// The MTU when nothing tells a better one.
pub const FALLBACK: u32 = 1460;

/// Something that adds a header to the packets of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Overlay {
    /// IP in IP.
    IpIp,
    /// VXLAN over IPv4.
    Vxlan,
    /// VXLAN over IPv6.
    VxlanV6,
    /// WireGuard over IPv4.
    WireGuard,
    /// WireGuard over IPv6.
    WireGuardV6,
}

impl Overlay {
    /// Bytes that it adds.
    pub fn overhead(self) -> u32 {
        match self {
            Self::IpIp => 20,
            Self::Vxlan => 50,
            Self::VxlanV6 => 70,
            Self::WireGuard => 60,
            Self::WireGuardV6 => 80,
        }
    }
}

/// Where an MTU comes from, for whoever wonders why pods have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MtuSource {
    /// The interface that has the node's address.
    NodeAddress(String),
    /// The smallest of the interfaces that look physical by their name; this one has it.
    PhysicalName(String),
    /// Nothing was found.
    Fallback,
}

/// The MTU of the network that this node is on: of the interface that has the node's address, whatever its name or
/// kind (a bond, a VLAN, a bridge); without one, the smallest of the interfaces that look physical, as Calico does it.
pub fn host_mtu(interfaces: &Interfaces, node_addresses: &[IpAddr]) -> (u32, MtuSource) {
    let owner = interfaces
        .addresses()
        .filter(|address| node_addresses.contains(&address.net.addr()))
        .filter_map(|address| interfaces.by_index(address.interface))
        .filter(|link| !link.is_loopback())
        .min_by_key(|link| link.mtu);
    if let Some(link) = owner {
        return (link.mtu, MtuSource::NodeAddress(link.name.clone()));
    }
    let physical = interfaces
        .links()
        .filter(|link| link.is_running() && looks_physical(link))
        .min_by_key(|link| link.mtu);
    match physical {
        Some(link) => (link.mtu, MtuSource::PhysicalName(link.name.clone())),
        None => (FALLBACK, MtuSource::Fallback),
    }
}

/// The default of `MTUIfacePattern`: `^((en|wl|ww|sl|ib)[Pcopsvx].*|(eth|wlan|wwan).*)`.
fn looks_physical(link: &Link) -> bool {
    let name = link.name.as_str();
    let predictable = ["en", "wl", "ww", "sl", "ib"].iter().any(|prefix| {
        name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(['P', 'c', 'o', 'p', 's', 'v', 'x']))
    });
    predictable || ["eth", "wlan", "wwan"].iter().any(|prefix| name.starts_with(prefix))
}

/// The MTU for pods: the smallest that any overlay in use leaves of the host's. An overlay with a chosen MTU counts
/// with that.
///
/// ```
/// use calico_dataplane::manager::mtu::{Overlay, pod_mtu};
/// assert_eq!(pod_mtu(1500, [(Overlay::Vxlan, None), (Overlay::WireGuard, None)]), 1440);
/// assert_eq!(pod_mtu(9000, []), 9000);
/// ```
pub fn pod_mtu(host: u32, overlays: impl IntoIterator<Item = (Overlay, Option<u32>)>) -> u32 {
    overlays
        .into_iter()
        .map(|(overlay, chosen)| {
            chosen.filter(|mtu| *mtu != 0).unwrap_or_else(|| host.saturating_sub(overlay.overhead()))
        })
        .min()
        .unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Address;

    fn interfaces() -> Interfaces {
        let link = |index, name: &str, mtu| Link {
            index,
            name: name.to_owned(),
            mtu,
            flags: 0x43,
            ..Link::default()
        };
        let mut interfaces = Interfaces::new(["cali"]);
        interfaces.refresh(
            vec![
                link(2, "bond0.7", 8900),
                link(3, "enp3s0", 9000),
                link(4, "docker0", 1400),
                link(5, "eth1", 1500),
            ],
            vec![Address::new(2, "172.18.0.2/24".parse().unwrap())],
        );
        interfaces
    }

    #[test]
    fn the_interface_with_the_nodes_address_tells() {
        let node = ["172.18.0.2".parse().unwrap()];
        assert_eq!(host_mtu(&interfaces(), &node), (8900, MtuSource::NodeAddress("bond0.7".to_owned())));
        assert_eq!(host_mtu(&interfaces(), &[]), (1500, MtuSource::PhysicalName("eth1".to_owned())));
        assert_eq!(host_mtu(&Interfaces::new(["cali"]), &node), (FALLBACK, MtuSource::Fallback));
    }

    #[test]
    fn published_values() {
        for (overlay, mtu) in [
            (Overlay::IpIp, 1480),
            (Overlay::Vxlan, 1450),
            (Overlay::VxlanV6, 1430),
            (Overlay::WireGuard, 1440),
            (Overlay::WireGuardV6, 1420),
        ] {
            assert_eq!(pod_mtu(1500, [(overlay, None)]), mtu);
            assert_eq!(pod_mtu(1500, [(overlay, Some(0))]), mtu, "0 is automatic");
        }
        assert_eq!(pod_mtu(1500, [(Overlay::Vxlan, Some(1400)), (Overlay::IpIp, None)]), 1400);
    }
}
