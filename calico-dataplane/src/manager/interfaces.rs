//! What interfaces this node has now.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::driver::{InterfaceInfo, InterfaceState};
use crate::netlink::{Address, Event, Link};

/// The interfaces and addresses of this node, kept up to date by notifications.
#[derive(Debug, Clone)]
pub struct Interfaces {
    prefixes: Vec<String>,
    links: BTreeMap<u32, Link>,
    names: BTreeMap<Arc<str>, u32>,
    addresses: BTreeSet<Address>,
    state: InterfaceState,
}

/// Names of interfaces about which something changed, sorted.
pub type Touched = BTreeSet<Arc<str>>;

impl Interfaces {
    /// No interfaces yet; those with one of these prefixes belong to workloads.
    pub fn new(prefixes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            prefixes: prefixes.into_iter().map(Into::into).collect(),
            links: BTreeMap::new(),
            names: BTreeMap::new(),
            addresses: BTreeSet::new(),
            state: InterfaceState::default(),
        }
    }

    /// Replaces everything by a complete reading. Returns what differs from before.
    pub fn refresh(&mut self, links: Vec<Link>, addresses: Vec<Address>) -> Touched {
        let mut touched = Touched::new();
        let seen: BTreeSet<u32> = links.iter().map(|link| link.index).collect();
        let gone: Vec<u32> = self.links.keys().filter(|index| !seen.contains(index)).copied().collect();
        for index in gone {
            self.link_gone(index, &mut touched);
        }
        for link in links {
            self.link(link, &mut touched);
        }
        let now: BTreeSet<Address> = addresses.into_iter().collect();
        let changed: Vec<Address> = self.addresses.symmetric_difference(&now).copied().collect();
        self.addresses = now;
        for address in changed {
            self.address_changed(address.interface, &mut touched);
        }
        touched
    }

    /// Takes a notification. Returns what changed.
    pub fn apply(&mut self, event: &Event) -> Touched {
        let mut touched = Touched::new();
        match event {
            Event::Link(link) => self.link(link.clone(), &mut touched),
            Event::LinkGone(link) => self.link_gone(link.index, &mut touched),
            // Routers renew the lifetime of addresses all the time; nothing that matters changes.
            Event::Address(address) if self.addresses.contains(address) => {}
            Event::Address(address) => {
                // The same address with other flags replaces the old entry.
                self.addresses.retain(|old| (old.interface, old.net) != (address.interface, address.net));
                self.addresses.insert(*address);
                self.address_changed(address.interface, &mut touched);
            }
            Event::AddressGone(address) => {
                self.addresses.retain(|old| (old.interface, old.net) != (address.interface, address.net));
                self.address_changed(address.interface, &mut touched);
            }
            _ => {}
        }
        touched
    }

    fn link(&mut self, link: Link, touched: &mut Touched) {
        if self.links.get(&link.index) == Some(&link) {
            return;
        }
        let name: Arc<str> = link.name.as_str().into();
        if let Some(old) = self.links.get(&link.index)
            && *old.name != *name
        {
            let index = link.index;
            self.forget_name(index, touched);
        }
        touched.insert(name.clone());
        self.names.insert(name, link.index);
        let index = link.index;
        self.links.insert(index, link);
        self.rebuild(index);
    }

    fn link_gone(&mut self, index: u32, touched: &mut Touched) {
        self.forget_name(index, touched);
        self.links.remove(&index);
        self.addresses.retain(|address| address.interface != index);
    }

    /// Drops the name of an interface, unless another one has it by now.
    fn forget_name(&mut self, index: u32, touched: &mut Touched) {
        let Some(old) = self.links.get(&index) else { return };
        let name: Arc<str> = old.name.as_str().into();
        if self.names.get(&name) == Some(&index) {
            self.names.remove(&name);
            self.state.interfaces.remove(&name);
        }
        touched.insert(name);
    }

    fn address_changed(&mut self, index: u32, touched: &mut Touched) {
        if let Some(link) = self.links.get(&index) {
            touched.insert(link.name.as_str().into());
            self.rebuild(index);
        }
    }

    fn rebuild(&mut self, index: u32) {
        let Some(link) = self.links.get(&index) else { return };
        let mut addresses: Vec<IpAddr> = Vec::new();
        if !self.is_workload(link) {
            addresses.extend(
                self.addresses.iter().filter(|address| address.interface == index).map(|a| a.net.addr()),
            );
            addresses.sort();
            addresses.dedup();
        }
        let info = InterfaceInfo { index, up: link.is_running(), addresses };
        self.state.interfaces.insert(link.name.as_str().into(), info);
    }

    /// The interface with this name.
    pub fn by_name(&self, name: &str) -> Option<&Link> {
        self.names.get(name).and_then(|index| self.links.get(index))
    }

    /// The interface with this index.
    pub fn by_index(&self, index: u32) -> Option<&Link> {
        self.links.get(&index)
    }

    /// All interfaces, by index.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    /// The addresses of this node's own interfaces and of workload interfaces, sorted.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.addresses.iter()
    }

    /// True for the host side of a workload: the name has one of the prefixes and the interface is of a kind that
    /// can be one, so that a bridge which somebody called `calico0` is left alone.
    pub fn is_workload(&self, link: &Link) -> bool {
        self.prefixes.iter().any(|prefix| link.name.starts_with(prefix.as_str()))
            && matches!(link.kind.as_deref(), Some("veth" | "netkit" | "tun" | "macvtap" | "ipvlan"))
    }

    /// What policy programming needs to know.
    pub fn state(&self) -> &InterfaceState {
        &self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, flags: u32) -> Link {
        let kind = name.starts_with("cali").then(|| "veth".to_owned());
        Link { index, name: name.to_owned(), flags, kind, ..Link::default() }
    }

    fn names(touched: &Touched) -> Vec<&str> {
        touched.iter().map(AsRef::as_ref).collect()
    }

    #[test]
    fn links_come_change_are_renamed_and_go() {
        let mut interfaces = Interfaces::new(["cali"]);
        let touched = interfaces.refresh(vec![link(1, "lo", 0x49), link(2, "eth0", 0x43)], Vec::new());
        assert_eq!(names(&touched), ["eth0", "lo"]);
        assert!(interfaces.refresh(vec![link(1, "lo", 0x49), link(2, "eth0", 0x43)], Vec::new()).is_empty());
        let touched = interfaces.apply(&Event::Link(link(2, "uplink", 0x43)));
        assert_eq!(names(&touched), ["eth0", "uplink"]);
        assert!(interfaces.by_name("eth0").is_none());
        // A new interface takes the name before the old one's end is told.
        interfaces.apply(&Event::Link(link(3, "cali1", 0x43)));
        interfaces.apply(&Event::Link(link(4, "cali1", 0x43)));
        interfaces.apply(&Event::LinkGone(link(3, "cali1", 0)));
        assert_eq!(interfaces.by_name("cali1").map(|l| l.index), Some(4));
        interfaces.apply(&Event::LinkGone(link(4, "cali1", 0)));
        assert!(interfaces.by_name("cali1").is_none());
        assert!(!interfaces.state().interfaces.contains_key("cali1"));
    }

    #[test]
    fn addresses_of_workload_interfaces_are_not_the_nodes() {
        let mut interfaces = Interfaces::new(["cali"]);
        interfaces.apply(&Event::Link(link(2, "eth0", 0x43)));
        interfaces.apply(&Event::Link(link(3, "cali1", 0x43)));
        for (index, net) in [(2, "172.18.0.2/24"), (2, "172.18.0.2/16"), (3, "10.0.0.1/32")] {
            interfaces.apply(&Event::Address(Address::new(index, net.parse().unwrap())));
        }
        let state = interfaces.state();
        assert_eq!(state.interfaces["eth0"].addresses, ["172.18.0.2".parse::<IpAddr>().unwrap()]);
        assert!(state.interfaces["cali1"].addresses.is_empty());
        interfaces.apply(&Event::AddressGone(Address::new(2, "172.18.0.2/16".parse().unwrap())));
        assert_eq!(interfaces.state().interfaces["eth0"].addresses.len(), 1);
        let again = Event::Address(Address::new(2, "172.18.0.2/24".parse().unwrap()));
        assert!(interfaces.apply(&again).is_empty(), "nothing new");
        let touched = interfaces.refresh(
            vec![link(2, "eth0", 0x43), link(3, "cali1", 0x43)],
            vec![Address::new(3, "10.0.0.1/32".parse().unwrap())],
        );
        assert_eq!(names(&touched), ["eth0"]);
        assert!(interfaces.state().interfaces["eth0"].addresses.is_empty());
    }

    #[test]
    fn a_bridge_called_calico0_is_no_workload() {
        let interfaces = Interfaces::new(["cali"]);
        let mut bridge = link(2, "calico0", 0);
        assert!(interfaces.is_workload(&bridge));
        bridge.kind = Some("bridge".to_owned());
        assert!(!interfaces.is_workload(&bridge));
    }
}
