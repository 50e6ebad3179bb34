//! Tunnels between nodes: which devices there should be, which neighbours behind them, and which destinations are
//! reached through them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use calico_policy::Changes;
use calico_policy::changes::{
    EncapMode, Encapsulation, Pool, Route as PolicyRoute, RouteKind as Reach, Tunnel, Vtep,
};
use ipnet::IpNet;
use smallvec::SmallVec;

use super::devices::{DeviceKind, DeviceSpec, IPIP, VXLAN, VXLAN_V6};
use super::interfaces::Interfaces;
use super::routes::{Candidate, Hop, RouteClass, RouteManager, Target};
use crate::netlink::link::Vxlan;
use crate::netlink::neighbour::NeighbourTable;
use crate::netlink::{Family, Link, MacAddr, Neighbour, RouteProtocol};
use crate::reconcile::Table;

#[cfg(test)]
mod tests;

/// What the tunnels are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelConfig {
    /// Name of this node.
    pub node: Arc<str>,
    /// `VXLANVNI`.
    pub vxlan_vni: u32,
    /// `VXLANPort`.
    pub vxlan_port: u16,
    /// `VXLANMTU`; `None` from the device underneath.
    pub vxlan_mtu: Option<u32>,
    /// `VXLANMTUV6`.
    pub vxlan_mtu_v6: Option<u32>,
    /// `IpInIpMtu`.
    pub ipip_mtu: Option<u32>,
    /// The agent programs routes of IPIP pools (`programClusterRoutes`).
    pub program_ipip: bool,
    /// The agent programs routes of pools without encapsulation.
    pub program_no_encap: bool,
}

impl TunnelConfig {
    /// The defaults of Calico for a node.
    pub fn new(node: impl Into<Arc<str>>) -> Self {
        Self {
            node: node.into(),
            vxlan_vni: 4096,
            vxlan_port: 4789,
            vxlan_mtu: None,
            vxlan_mtu_v6: None,
            ipip_mtu: None,
            program_ipip: true,
            program_no_encap: false,
        }
    }
}

/// Bytes that VXLAN adds to a packet over IPv4 and IPv6, and IPIP.
const VXLAN_OVERHEAD: u32 = 50;
const VXLAN_V6_OVERHEAD: u32 = 70;
const IPIP_OVERHEAD: u32 = 20;

/// How a pool's traffic travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encap {
    Vxlan,
    IpIp,
    None,
}

/// Decides over tunnels.
#[derive(Debug)]
pub struct TunnelManager {
    config: TunnelConfig,
    source: Arc<str>,
    pools: BTreeMap<IpNet, Pool>,
    routes: BTreeMap<IpNet, PolicyRoute>,
    by_node: BTreeMap<Arc<str>, BTreeSet<IpNet>>,
    vteps: BTreeMap<(Arc<str>, Family), Vtep>,
    hosts: BTreeMap<Arc<str>, (Option<IpAddr>, Option<IpAddr>)>,
    /// `None` until the graph has said which encapsulations there are.
    encapsulation: Option<Encapsulation>,
    claimed: BTreeMap<IpNet, RouteClass>,
    dirty: BTreeSet<IpNet>,
    /// Names of the underlay devices that the routes were last decided with.
    parents: [Option<Arc<str>>; 2],
    neighbours: Table<(NeighbourTable, u32, IpAddr), MacAddr>,
    forwarding: Table<(u32, MacAddr), IpAddr>,
}

impl TunnelManager {
    /// Nothing known yet.
    pub fn new(config: TunnelConfig) -> Self {
        Self {
            config,
            source: "tunnels".into(),
            pools: BTreeMap::new(),
            routes: BTreeMap::new(),
            by_node: BTreeMap::new(),
            vteps: BTreeMap::new(),
            hosts: BTreeMap::new(),
            encapsulation: None,
            claimed: BTreeMap::new(),
            dirty: BTreeSet::new(),
            parents: [None, None],
            neighbours: Table::new(),
            forwarding: Table::new(),
        }
    }

    /// Takes what the policy graph says.
    pub fn changes(&mut self, changes: &Changes) {
        for dst in &changes.removed_routes {
            self.forget_route(dst);
        }
        for node in &changes.removed_vteps {
            for family in [Family::V4, Family::V6] {
                self.vteps.remove(&(node.clone(), family));
            }
            self.touch_node(node);
        }
        for vtep in &changes.vteps {
            self.vteps.insert((vtep.node.clone(), Family::of(vtep.addr)), vtep.clone());
            self.touch_node(&vtep.node);
        }
        for route in &changes.routes {
            self.forget_route(&route.dst);
            if let Some(node) = &route.node {
                self.by_node.entry(node.clone()).or_default().insert(route.dst);
            }
            self.routes.insert(route.dst, route.clone());
        }
        for name in &changes.removed_hosts {
            self.hosts.remove(name);
        }
        for host in &changes.hosts {
            self.hosts.insert(host.name.clone(), (host.ipv4, host.ipv6));
        }
        for cidr in &changes.removed_pools {
            self.pools.remove(cidr);
            self.touch_inside(cidr);
        }
        for pool in &changes.pools {
            self.pools.insert(pool.cidr, pool.clone());
            self.touch_inside(&pool.cidr);
        }
        if let Some(encapsulation) = changes.encapsulation {
            self.encapsulation = Some(encapsulation);
        }
    }

    fn forget_route(&mut self, dst: &IpNet) {
        self.dirty.insert(*dst);
        if let Some(node) = self.routes.remove(dst).and_then(|route| route.node)
            && let Some(dsts) = self.by_node.get_mut(&node)
        {
            dsts.remove(dst);
            if dsts.is_empty() {
                self.by_node.remove(&node);
            }
        }
    }

    fn touch_node(&mut self, node: &Arc<str>) {
        self.dirty.extend(self.by_node.get(node).into_iter().flatten());
    }

    fn touch_inside(&mut self, cidr: &IpNet) {
        self.dirty.extend(self.routes.keys().filter(|dst| cidr.contains(*dst)));
    }

    fn encap(&self, dst: &IpNet) -> Encap {
        let covering = self.pools.values().filter(|pool| pool.cidr.contains(dst));
        match covering.max_by_key(|pool| pool.cidr.prefix_len()) {
            Some(pool) if pool.vxlan != EncapMode::Never => Encap::Vxlan,
            Some(pool) if pool.ipip != EncapMode::Never => Encap::IpIp,
            _ => Encap::None,
        }
    }

    fn own_vtep(&self, family: Family) -> Option<&Vtep> {
        self.vteps.get(&(self.config.node.clone(), family))
    }

    /// This node's address in the underlay.
    fn own_address(&self, family: Family) -> Option<IpAddr> {
        let (v4, v6) = self.hosts.get(&self.config.node).copied().unwrap_or_default();
        let host = if family == Family::V4 { v4 } else { v6 };
        self.own_vtep(family).map(|vtep| vtep.parent).or(host)
    }

    fn parent<'a>(&self, family: Family, interfaces: &'a Interfaces) -> Option<&'a Link> {
        let address = self.own_address(family)?;
        interfaces
            .addresses()
            .filter(|candidate| candidate.net.addr() == address)
            .filter_map(|candidate| interfaces.by_index(candidate.interface))
            .find(|link| !link.name.ends_with(".calico") && link.name != IPIP)
    }

    /// Decides anew what changed since the last call, and everything when the underlay changed.
    pub fn settle(&mut self, interfaces: &Interfaces, routes: &mut RouteManager) {
        let parents = [Family::V4, Family::V6]
            .map(|family| self.parent(family, interfaces).map(|link| Arc::from(link.name.as_str())));
        if parents != self.parents {
            self.parents = parents;
            self.dirty.extend(self.routes.keys());
        }
        for dst in std::mem::take(&mut self.dirty) {
            let wish = self.routes.get(&dst).and_then(|route| self.wish(route, interfaces));
            let before = self.claimed.remove(&dst);
            if let Some(class) = before.filter(|class| wish.as_ref().map(|(c, _)| c) != Some(class)) {
                routes.remove(class, &self.source, dst);
            }
            if let Some((class, candidate)) = wish {
                self.claimed.insert(dst, class);
                routes.set(class, &self.source, dst, candidate);
            }
        }
        self.decide_neighbours(interfaces);
    }

    /// Which route a destination gets from us.
    fn wish(&self, route: &PolicyRoute, interfaces: &Interfaces) -> Option<(RouteClass, Candidate)> {
        let encap = self.encap(&route.dst);
        let ours = match encap {
            Encap::Vxlan => true,
            Encap::IpIp => self.config.program_ipip,
            Encap::None => self.config.program_no_encap,
        };
        if !ours {
            return None;
        }
        let plain = |target, protocol| Candidate { target, protocol, mtu: None };
        match route.kind {
            Reach::LocalWorkload if route.dst.prefix_len() < route.dst.max_prefix_len() => {
                Some((RouteClass::Blackhole, plain(Target::Blackhole, RouteProtocol::CALICO)))
            }
            Reach::RemoteWorkload => self.remote(route, encap, interfaces),
            // A tunnel address out of another node's block has no block route that leads to it.
            Reach::RemoteTunnel if route.borrowed => self.remote(route, encap, interfaces),
            _ => None,
        }
    }

    fn remote(
        &self,
        route: &PolicyRoute,
        encap: Encap,
        interfaces: &Interfaces,
    ) -> Option<(RouteClass, Candidate)> {
        let family = Family::of(route.dst.addr());
        let via = |gateway: IpAddr, interface: &Arc<str>| {
            let hop = Hop { gateway, interface: Some(interface.clone()), weight: 1 };
            Target::Via(SmallVec::from_elem(hop, 1))
        };
        let parent = &self.parents[usize::from(family == Family::V6)];
        let direct = |class| {
            let target = via(route.node_ip?, parent.as_ref()?);
            Some((class, Candidate { target, protocol: RouteProtocol::CALICO, mtu: None }))
        };
        match (encap, route.tunnel) {
            (Encap::Vxlan, Tunnel::Vxlan) => {
                let vtep = self.vteps.get(&(route.node.clone()?, family))?;
                let name: Arc<str> = if family == Family::V4 { VXLAN } else { VXLAN_V6 }.into();
                let target = if route.dst == IpNet::from(vtep.addr) {
                    Target::Device(name)
                } else {
                    via(vtep.addr, &name)
                };
                let mtu = Some(self.vxlan_mtu(family, interfaces)?);
                Some((RouteClass::VxlanTunnel, Candidate { target, protocol: RouteProtocol::BOOT, mtu }))
            }
            (Encap::Vxlan, _) if route.same_subnet => direct(RouteClass::VxlanSameSubnet),
            (Encap::IpIp, Tunnel::IpIp) => {
                let target = via(route.node_ip?, &IPIP.into());
                let mtu = self.ipip_mtu(interfaces);
                Some((RouteClass::IpIpTunnel, Candidate { target, protocol: RouteProtocol::CALICO, mtu }))
            }
            (Encap::IpIp, _) if route.same_subnet => direct(RouteClass::IpIpSameSubnet),
            (Encap::None, _) => direct(RouteClass::NoEncap),
            _ => None,
        }
    }

    fn vxlan_mtu(&self, family: Family, interfaces: &Interfaces) -> Option<u32> {
        let (chosen, overhead) = match family {
            Family::V4 => (self.config.vxlan_mtu, VXLAN_OVERHEAD),
            Family::V6 => (self.config.vxlan_mtu_v6, VXLAN_V6_OVERHEAD),
        };
        chosen.or_else(|| Some(self.parent(family, interfaces)?.mtu.saturating_sub(overhead)))
    }

    fn ipip_mtu(&self, interfaces: &Interfaces) -> Option<u32> {
        let from_parent = || Some(self.parent(Family::V4, interfaces)?.mtu.saturating_sub(IPIP_OVERHEAD));
        self.config.ipip_mtu.or_else(from_parent)
    }

    /// The devices that there should be.
    pub fn devices(&self, interfaces: &Interfaces) -> Vec<DeviceSpec> {
        let Some(encapsulation) = self.encapsulation else { return Vec::new() };
        let mut devices = Vec::new();
        for (family, name, wanted) in
            [(Family::V4, VXLAN, encapsulation.vxlan), (Family::V6, VXLAN_V6, encapsulation.vxlan_v6)]
        {
            let Some(vtep) = self.own_vtep(family).filter(|_| wanted) else { continue };
            let Some(parent) = self.parent(family, interfaces) else { continue };
            let vxlan = Vxlan {
                vni: self.config.vxlan_vni,
                port: self.config.vxlan_port,
                local: Some(vtep.parent),
                parent: Some(parent.index),
                ..Vxlan::default()
            };
            devices.push(DeviceSpec {
                name,
                kind: DeviceKind::Vxlan(vxlan),
                mac: Some(MacAddr(vtep.mac)),
                mtu: self.vxlan_mtu(family, interfaces).unwrap_or(1450),
                address: Some(vtep.addr),
            });
        }
        if encapsulation.ipip
            && let Some(mtu) = self.ipip_mtu(interfaces)
        {
            let address = self
                .routes
                .values()
                .find(|route| route.kind == Reach::LocalTunnel && self.encap(&route.dst) == Encap::IpIp);
            devices.push(DeviceSpec {
                name: IPIP,
                kind: DeviceKind::IpIp,
                mac: None,
                mtu,
                address: address.map(|route| route.dst.addr()),
            });
        }
        devices
    }

    /// VXLAN devices that are there but that no pool needs any more.
    pub fn unwanted_devices(&self, interfaces: &Interfaces) -> Vec<u32> {
        let Some(encapsulation) = self.encapsulation else { return Vec::new() };
        [(VXLAN, encapsulation.vxlan), (VXLAN_V6, encapsulation.vxlan_v6)]
            .into_iter()
            .filter(|(_, wanted)| !wanted)
            .filter_map(|(name, _)| interfaces.by_name(name))
            .filter(|link| link.kind.as_deref() == Some("vxlan"))
            .map(|link| link.index)
            .collect()
    }

    fn decide_neighbours(&mut self, interfaces: &Interfaces) {
        let mut addresses = BTreeMap::new();
        let mut forwarding = BTreeMap::new();
        for ((node, family), vtep) in &self.vteps {
            let name = if *family == Family::V4 { VXLAN } else { VXLAN_V6 };
            let Some(link) = interfaces.by_name(name).filter(|link| link.is_up()) else { continue };
            if *node == self.config.node {
                continue;
            }
            let mac = MacAddr(vtep.mac);
            addresses.insert((NeighbourTable::Address(*family), link.index, vtep.addr), mac);
            forwarding.insert((link.index, mac), vtep.parent);
        }
        retain(&mut self.neighbours, &addresses);
        retain(&mut self.forwarding, &forwarding);
        for (key, mac) in addresses {
            self.neighbours.set(key, mac);
        }
        for (key, remote) in forwarding {
            self.forwarding.set(key, remote);
        }
    }

    /// Indices of our VXLAN devices, whose neighbours are ours alone.
    pub fn vxlan_devices(&self, interfaces: &Interfaces) -> Vec<(Family, u32)> {
        [(Family::V4, VXLAN), (Family::V6, VXLAN_V6)]
            .into_iter()
            .filter_map(|(family, name)| Some((family, interfaces.by_name(name)?.index)))
            .collect()
    }

    /// The neighbours and forwarding entries of our devices, from a complete reading.
    pub fn refresh(&mut self, entries: Vec<Neighbour>) -> usize {
        let mut addresses = BTreeMap::new();
        let mut forwarding = BTreeMap::new();
        for entry in entries.into_iter().filter(|entry| entry.permanent) {
            let (Some(ip), Some(mac)) = (entry.ip, entry.mac) else { continue };
            match entry.table {
                NeighbourTable::Address(_) => {
                    addresses.insert((entry.table, entry.interface, ip), mac);
                }
                NeighbourTable::Forwarding => {
                    forwarding.insert((entry.interface, mac), ip);
                }
            }
        }
        self.neighbours.refresh(addresses) + self.forwarding.refresh(forwarding)
    }

    /// Entries to set (true) or delete (false) now; additions first.
    pub fn pending(&mut self, now: Instant) -> Vec<(bool, Neighbour)> {
        let mut work: Vec<(bool, Neighbour)> = Vec::new();
        for delta in self.neighbours.pending(now) {
            let (_, index, ip) = *delta.key;
            let entry = |mac: &MacAddr| Neighbour::permanent(index, ip, *mac);
            work.extend(delta.desired.map(|mac| (true, entry(mac))));
            work.extend(delta.actual.filter(|_| delta.desired.is_none()).map(|mac| (false, entry(mac))));
        }
        for delta in self.forwarding.pending(now) {
            let (index, mac) = *delta.key;
            let entry = |remote: &IpAddr| Neighbour::forwarding(index, mac, *remote);
            work.extend(delta.desired.map(|remote| (true, entry(remote))));
            work.extend(
                delta.actual.filter(|_| delta.desired.is_none()).map(|remote| (false, entry(remote))),
            );
        }
        work.sort_by_key(|(set, _)| !set);
        work
    }

    /// The outcome of one piece of work.
    pub fn finished(&mut self, entry: &Neighbour, ok: bool, now: Instant) {
        let (Some(ip), Some(mac)) = (entry.ip, entry.mac) else { return };
        match (entry.table, ok) {
            (NeighbourTable::Forwarding, true) => self.forwarding.applied(&(entry.interface, mac)),
            (NeighbourTable::Forwarding, false) => {
                self.forwarding.failed(&(entry.interface, mac), now);
            }
            (table, true) => self.neighbours.applied(&(table, entry.interface, ip)),
            (table, false) => {
                self.neighbours.failed(&(table, entry.interface, ip), now);
            }
        }
    }

    /// When something that failed is to be tried again.
    pub fn next_wake(&self) -> Option<Instant> {
        self.neighbours.next_retry().into_iter().chain(self.forwarding.next_retry()).min()
    }

    /// Number of entries that are not yet as they should be.
    pub fn unsettled(&self) -> usize {
        self.neighbours.unsettled() + self.forwarding.unsettled()
    }
}

/// Stops wanting what is not in `wanted`.
fn retain<K: Ord + Clone, V: PartialEq>(table: &mut Table<K, V>, wanted: &BTreeMap<K, V>) {
    let stale: Vec<K> =
        table.all_desired().map(|(key, _)| key).filter(|key| !wanted.contains_key(key)).cloned().collect();
    for key in stale {
        table.remove(&key);
    }
}
