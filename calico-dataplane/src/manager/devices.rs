//! Tunnel devices: what has to be done to one so that it is as it should be.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::netlink::link::Vxlan;
use crate::netlink::{Address, Link, MacAddr};

/// Name of the IPv4 VXLAN device.
pub const VXLAN: &str = "vxlan.calico";
/// Name of the IPv6 VXLAN device.
pub const VXLAN_V6: &str = "vxlan-v6.calico";
/// Name of the IP-in-IP device: the one that the kernel module brings itself.
pub const IPIP: &str = "tunl0";

/// What kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// VXLAN.
    Vxlan(Vxlan),
    /// IP in IP, to any remote.
    IpIp,
}

/// A tunnel device as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceSpec {
    /// Name.
    pub name: &'static str,
    /// Kind and what is special about it.
    pub kind: DeviceKind,
    /// Ethernet address; `None` for devices without.
    pub mac: Option<MacAddr>,
    /// MTU.
    pub mtu: u32,
    /// Its only address, if this node has got one.
    pub address: Option<IpAddr>,
}

/// One thing to do to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceStep {
    /// It differs in what cannot be changed.
    Delete,
    /// It is not there.
    Create,
    /// Set the MTU.
    Mtu(u32),
    /// Remove a foreign or former address.
    RemoveAddress(Address),
    /// Add the address, as /32 or /128.
    AddAddress(IpAddr),
    /// Set it up.
    Up,
}

impl DeviceSpec {
    fn is_same_device(&self, link: &Link) -> bool {
        match self.kind {
            // Whatever carries the name: it belongs to the kernel module and is never made anew.
            DeviceKind::IpIp => true,
            DeviceKind::Vxlan(wanted) => {
                let same_mac = self.mac.is_none() || link.mac.is_none() || self.mac == link.mac;
                link.vxlan == Some(wanted) && same_mac
            }
        }
    }

    /// What to do, in order; empty when the device is as it should be.
    pub fn steps(&self, link: Option<&Link>, addresses: &[Address]) -> Vec<DeviceStep> {
        let mut steps = Vec::new();
        let existing = link.filter(|link| self.is_same_device(link));
        if link.is_some() && existing.is_none() {
            steps.push(DeviceStep::Delete);
        }
        let Some(existing) = existing else {
            steps.push(DeviceStep::Create);
            steps.extend(self.address.map(DeviceStep::AddAddress));
            steps.push(DeviceStep::Up);
            return steps;
        };
        if existing.mtu != self.mtu {
            steps.push(DeviceStep::Mtu(self.mtu));
        }
        let wanted = self.address.map(IpNet::from);
        let family_v6 = matches!(self.kind, DeviceKind::Vxlan(Vxlan { local: Some(IpAddr::V6(_)), .. }));
        for address in addresses.iter().filter(|address| address.interface == existing.index) {
            // Each device carries one family; link-local addresses are the kernel's.
            let foreign = Some(address.net) != wanted && address.net.addr().is_ipv6() == family_v6;
            if foreign && address.scope == 0 {
                steps.push(DeviceStep::RemoveAddress(*address));
            }
        }
        if let Some(net) = wanted
            && !addresses.iter().any(|address| address.interface == existing.index && address.net == net)
        {
            steps.push(DeviceStep::AddAddress(net.addr()));
        }
        if !existing.is_up() {
            steps.push(DeviceStep::Up);
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn spec() -> DeviceSpec {
        let vxlan = Vxlan {
            vni: 4096,
            port: 4789,
            local: Some(ip("172.18.0.2")),
            parent: Some(2),
            ..Vxlan::default()
        };
        DeviceSpec {
            name: VXLAN,
            kind: DeviceKind::Vxlan(vxlan),
            mac: Some(MacAddr([0x66, 1, 2, 3, 4, 5])),
            mtu: 1450,
            address: Some(ip("10.65.0.0")),
        }
    }

    fn link(spec: &DeviceSpec) -> Link {
        let DeviceKind::Vxlan(vxlan) = spec.kind else { panic!("a VXLAN device") };
        Link {
            index: 9,
            name: spec.name.to_owned(),
            flags: 0x43,
            mac: spec.mac,
            mtu: spec.mtu,
            kind: Some("vxlan".to_owned()),
            vxlan: Some(vxlan),
            ..Link::default()
        }
    }

    #[test]
    fn made_from_nothing_then_left_alone() {
        let spec = spec();
        assert_eq!(
            spec.steps(None, &[]),
            [DeviceStep::Create, DeviceStep::AddAddress(ip("10.65.0.0")), DeviceStep::Up]
        );
        let address = Address::new(9, "10.65.0.0/32".parse().unwrap());
        let elsewhere = Address::new(2, "172.18.0.2/24".parse().unwrap());
        assert_eq!(spec.steps(Some(&link(&spec)), &[address, elsewhere]), []);
    }

    #[test]
    fn what_can_be_changed_is_changed_and_what_cannot_makes_it_anew() {
        let spec = spec();
        let mut other = link(&spec);
        other.mtu = 1500;
        other.flags = 0;
        let former = Address::new(9, "10.65.7.0/32".parse().unwrap());
        let mut link_local = Address::new(9, "fe80::1/64".parse().unwrap());
        link_local.scope = 253;
        assert_eq!(
            spec.steps(Some(&other), &[former, link_local]),
            [
                DeviceStep::Mtu(1450),
                DeviceStep::RemoveAddress(former),
                DeviceStep::AddAddress(ip("10.65.0.0")),
                DeviceStep::Up
            ]
        );
        let changes: [fn(&mut Link); 3] = [
            |link| link.mac = Some(MacAddr([0x66, 9, 9, 9, 9, 9])),
            |link| link.vxlan.as_mut().unwrap().vni = 1,
            |link| link.vxlan = None,
        ];
        for change in changes {
            let mut other = link(&spec);
            change(&mut other);
            assert_eq!(spec.steps(Some(&other), &[former])[..2], [DeviceStep::Delete, DeviceStep::Create]);
        }
    }
}
