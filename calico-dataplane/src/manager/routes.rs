//! The routes of this node's main table: who may have which destination, and what differs from that.
//!
//! Several parts of the agent may want a route to the same destination: a local pod, a tunnel, BGP. Exactly one of
//! them gets it, by class, and all routes have the same metric, so that the kernel never has two of ours to choose
//! from. Routes of others are never overwritten by BGP; they are reported.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use smallvec::SmallVec;

use super::interfaces::Interfaces;
use super::nexthops::{ForeignRoutes, Resolved};
use crate::netlink::{
    Family, NextHop, Refusal, Route, RouteKey, RouteKind, RouteProtocol, route::MAIN_TABLE,
};
use crate::reconcile::Table;

/// Who wants a route. Where several want the same destination, the first gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteClass {
    /// A pod of this node.
    LocalWorkload,
    /// Through WireGuard.
    WireGuard,
    /// A VXLAN pool, to a node on our subnet.
    VxlanSameSubnet,
    /// Through VXLAN.
    VxlanTunnel,
    /// An IPIP pool, to a node on our subnet.
    IpIpSameSubnet,
    /// Through IPIP.
    IpIpTunnel,
    /// Without encapsulation, programmed by the agent.
    NoEncap,
    /// Learned by BGP, or the blackhole of a block that BGP announces.
    Bgp,
    /// The blackhole of a block of this node.
    Blackhole,
}

/// Where packets go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Straight out of an interface.
    Device(Arc<str>),
    /// Through neighbours.
    Via(SmallVec<[Hop; 1]>),
    /// Nowhere.
    Blackhole,
}

/// One neighbour to go through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Its address.
    pub gateway: IpAddr,
    /// The interface it is on; `None` to find out from the routing table.
    pub interface: Option<Arc<str>>,
    /// Share of the traffic.
    pub weight: u16,
}

/// What one class wants for a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Where packets go.
    pub target: Target,
    /// How the route is marked.
    pub protocol: RouteProtocol,
    /// Path MTU.
    pub mtu: Option<u32>,
}

/// Which routes that are already there belong to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// Marked as the agent's.
    Agent,
    /// On a workload interface, whoever made it (the CNI plugin, a user).
    Workload,
    /// Marked as BGP's.
    Bgp,
}

/// What may be done already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gates {
    /// All that the datastore has was seen. Until then nothing is touched.
    pub in_sync: bool,
    /// BGP has heard all that its peers had to say after a restart. Until then stale BGP routes stay.
    pub bgp_converged: bool,
    /// Policy is in force, so that a pod may be made reachable.
    pub policy: bool,
}

/// One change to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteWork {
    /// Which route.
    pub key: RouteKey,
    /// What it should be; `None` to delete it.
    pub route: Option<Route>,
}

/// How things stand with a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteStanding {
    /// Nobody wants it.
    Unwanted,
    /// The kernel has it.
    InForce,
    /// It will be written.
    Pending,
    /// Its interface is missing or down, or nothing leads to its next hop.
    Unresolved,
    /// The kernel refused it.
    Refused(Refusal),
    /// Somebody else has a route with the same destination and metric.
    Taken(Route),
}

type Claim = (RouteClass, Arc<str>, Candidate);

#[cfg(test)]
mod tests;

/// Decides over the routes of the main table.
#[derive(Debug, Default)]
pub struct RouteManager {
    claims: BTreeMap<IpNet, SmallVec<[Claim; 1]>>,
    by_interface: BTreeMap<Arc<str>, BTreeSet<IpNet>>,
    by_gateway: BTreeMap<IpAddr, BTreeSet<IpNet>>,
    resolved: BTreeMap<IpAddr, Option<Resolved>>,
    table: Table<RouteKey, Route>,
    winners: BTreeMap<IpNet, RouteClass>,
    foreign: ForeignRoutes,
    refusals: BTreeMap<IpNet, Refusal>,
    /// Routes on workload interfaces that nobody wants, since when.
    strays: BTreeMap<RouteKey, Instant>,
    changed: BTreeSet<IpNet>,
    released: BTreeSet<IpAddr>,
    resolve_again: bool,
    reread: bool,
    /// Another program does BGP on this node: its routes are not ours.
    foreign_bgp: bool,
}

/// How long an unexpected route on a workload interface is left alone: the CNI plugin makes the route before the
/// datastore tells us about the pod.
pub const STRAY_GRACE: Duration = Duration::from_secs(10);

/// The metric of all our routes: 0, which IPv6 stores as 1024.
fn key(dst: IpNet) -> RouteKey {
    let priority = match dst {
        IpNet::V4(_) => 0,
        IpNet::V6(_) => crate::netlink::route::IPV6_DEFAULT_PRIORITY,
    };
    RouteKey { table: MAIN_TABLE, dst, tos: 0, priority }
}

impl RouteManager {
    /// Nothing wanted, nothing known.
    pub fn new() -> Self {
        Self::default()
    }

    /// Leaves routes marked as BGP's to another program.
    #[must_use]
    pub fn without_bgp(mut self) -> Self {
        self.foreign_bgp = true;
        self
    }

    /// `class` wants this destination; `source` tells several wishes of one class apart (an endpoint's interface).
    pub fn set(&mut self, class: RouteClass, source: &Arc<str>, dst: IpNet, candidate: Candidate) {
        let dst = dst.trunc();
        self.unindex(dst);
        let claims = self.claims.entry(dst).or_default();
        match claims.iter_mut().find(|claim| claim.0 == class && claim.1 == *source) {
            Some((_, _, old)) => *old = candidate,
            None => {
                claims.push((class, source.clone(), candidate));
                claims.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
            }
        }
        self.index(dst);
        self.changed.insert(dst);
    }

    /// `class` no longer wants this destination.
    pub fn remove(&mut self, class: RouteClass, source: &Arc<str>, dst: IpNet) {
        let dst = dst.trunc();
        if class == RouteClass::LocalWorkload && dst.prefix_len() == dst.max_prefix_len() {
            self.released.insert(dst.addr());
        }
        self.unindex(dst);
        if let Some(claims) = self.claims.get_mut(&dst) {
            claims.retain(|claim| claim.0 != class || claim.1 != *source);
            if claims.is_empty() {
                self.claims.remove(&dst);
            }
        }
        self.index(dst);
        self.changed.insert(dst);
    }

    fn dependencies(&self, dst: IpNet) -> (Vec<Arc<str>>, Vec<IpAddr>) {
        let (mut names, mut gateways) = (Vec::new(), Vec::new());
        for (_, _, candidate) in self.claims.get(&dst).into_iter().flatten() {
            match &candidate.target {
                Target::Device(name) => names.push(name.clone()),
                Target::Via(hops) => {
                    for hop in hops {
                        names.extend(hop.interface.clone());
                        gateways.push(hop.gateway);
                    }
                }
                Target::Blackhole => {}
            }
        }
        (names, gateways)
    }

    fn unindex(&mut self, dst: IpNet) {
        let (names, gateways) = self.dependencies(dst);
        for name in names {
            if let Some(set) = self.by_interface.get_mut(&name) {
                set.remove(&dst);
                if set.is_empty() {
                    self.by_interface.remove(&name);
                }
            }
        }
        for gateway in gateways {
            if let Some(set) = self.by_gateway.get_mut(&gateway) {
                set.remove(&dst);
                if set.is_empty() {
                    self.by_gateway.remove(&gateway);
                    self.resolved.remove(&gateway);
                }
            }
        }
    }

    fn index(&mut self, dst: IpNet) {
        let (names, gateways) = self.dependencies(dst);
        for name in names {
            self.by_interface.entry(name).or_default().insert(dst);
        }
        for gateway in gateways {
            self.by_gateway.entry(gateway).or_default().insert(dst);
            if !self.resolved.contains_key(&gateway) {
                self.resolved.insert(gateway, self.foreign.resolve(gateway));
            }
        }
    }

    /// Something about this interface changed. An interface that went down took its routes with it without a word.
    pub fn interface_changed(&mut self, name: &str, interfaces: &Interfaces) {
        if let Some(dsts) = self.by_interface.get(name) {
            self.changed.extend(dsts);
        }
        match interfaces.by_name(name) {
            Some(link) if interfaces.is_workload(link) => {
                if !link.is_up() {
                    self.interface_down(link.index);
                }
            }
            // Other routes may have come or gone with it.
            _ => self.reread = true,
        }
    }

    /// All routes that lead only through this interface are gone.
    pub fn interface_down(&mut self, index: u32) {
        let lost: Vec<RouteKey> = self
            .table
            .all_actual()
            .filter(|(_, route)| {
                !route.nexthops.is_empty() && route.nexthops.iter().all(|hop| hop.interface == index)
            })
            .map(|(key, _)| *key)
            .collect();
        for key in lost {
            self.table.vanished(&key);
        }
    }

    /// Whose a route is; `None` for routes of others.
    pub fn owner(&self, route: &Route, interfaces: &Interfaces) -> Option<Owner> {
        if route.protocol == RouteProtocol::KERNEL || route.table != MAIN_TABLE {
            return None;
        }
        match route.protocol {
            RouteProtocol::BIRD if !self.foreign_bgp => return Some(Owner::Bgp),
            RouteProtocol::CALICO => return Some(Owner::Agent),
            _ => {}
        }
        let link = route.interface().and_then(|index| interfaces.by_index(index))?;
        match link.name.as_str() {
            "vxlan.calico" | "vxlan-v6.calico" => Some(Owner::Agent),
            _ if interfaces.is_workload(link) => Some(Owner::Workload),
            _ => None,
        }
    }

    /// The kernel says that it has this route.
    pub fn observed(&mut self, route: Route, interfaces: &Interfaces, now: Instant) {
        if route.table != MAIN_TABLE {
            return;
        }
        let key = route.key();
        match self.owner(&route, interfaces) {
            Some(owner) => {
                self.resolve_again |= self.foreign.remove(&key);
                if owner == Owner::Workload && self.table.desired(&key).is_none() {
                    self.strays.entry(key).or_insert(now);
                }
                self.table.observed(key, route);
            }
            None => {
                self.table.vanished(&key);
                self.resolve_again |= self.foreign.insert(route);
            }
        }
    }

    /// The kernel says that this route is gone.
    pub fn vanished(&mut self, route: &Route) {
        let key = route.key();
        if self.table.actual(&key).is_some_and(|known| known != route)
            || self.foreign.get(&key).is_some_and(|known| known != route)
        {
            // There were two with the same key, or only one of several next hops went: look again.
            self.reread = true;
            return;
        }
        self.table.vanished(&key);
        self.strays.remove(&key);
        self.resolve_again |= self.foreign.remove(&key);
    }

    /// All routes that the kernel has, from a complete reading. Returns how many of ours were not as believed.
    pub fn refresh(&mut self, routes: Vec<Route>, interfaces: &Interfaces, now: Instant) -> usize {
        self.reread = false;
        let mut ours = BTreeMap::new();
        let mut foreign = ForeignRoutes::default();
        for route in routes.into_iter().filter(|route| route.table == MAIN_TABLE) {
            match self.owner(&route, interfaces) {
                Some(owner) => {
                    let key = route.key();
                    if owner == Owner::Workload && self.table.desired(&key).is_none() {
                        self.strays.entry(key).or_insert(now);
                    }
                    ours.insert(key, route);
                }
                None => {
                    foreign.insert(route);
                }
            }
        }
        self.strays.retain(|key, _| ours.contains_key(key));
        self.foreign = foreign;
        self.resolve_again = true;
        self.table.refresh(ours)
    }

    /// True when the kernel should be read again because notifications do not tell the whole story.
    pub fn wants_refresh(&self) -> bool {
        self.reread
    }

    /// Decides anew what changed since the last call.
    pub fn settle(&mut self, interfaces: &Interfaces) {
        if std::mem::take(&mut self.resolve_again) {
            for (gateway, dsts) in &self.by_gateway {
                let resolved = self.foreign.resolve(*gateway);
                if self.resolved.insert(*gateway, resolved) != Some(resolved) {
                    self.changed.extend(dsts);
                }
            }
        }
        for dst in std::mem::take(&mut self.changed) {
            let winner = self.claims.get(&dst).into_iter().flatten().find_map(|(class, _, candidate)| {
                Some((*class, self.route(dst, *class, candidate, interfaces)?))
            });
            self.refusals.remove(&dst);
            match winner {
                Some((class, route)) => {
                    self.strays.remove(&route.key());
                    self.winners.insert(dst, class);
                    self.table.set(route.key(), route);
                }
                None => {
                    self.winners.remove(&dst);
                    self.table.remove(&key(dst));
                }
            }
        }
    }

    /// The kernel route for a candidate, when it can work now.
    fn route(
        &self,
        dst: IpNet,
        class: RouteClass,
        candidate: &Candidate,
        interfaces: &Interfaces,
    ) -> Option<Route> {
        let mut route = match &candidate.target {
            Target::Blackhole => Route::blackhole(dst, candidate.protocol),
            Target::Device(name) => {
                let link = interfaces.by_name(name)?;
                // A pod whose side is down cannot be reached; any other interface keeps its routes without carrier, as
                // the kernel does.
                let usable =
                    if class == RouteClass::LocalWorkload { link.is_running() } else { link.is_up() };
                if !usable {
                    return None;
                }
                Route::device(dst, link.index, candidate.protocol)
            }
            Target::Via(hops) => {
                let usable: SmallVec<[NextHop; 1]> =
                    hops.iter().filter_map(|hop| self.hop(hop, interfaces)).collect();
                if usable.is_empty() {
                    return None;
                }
                Route::via(dst, usable, candidate.protocol)
            }
        };
        route.mtu = candidate.mtu;
        Some(route.canonical())
    }

    fn hop(&self, hop: &Hop, interfaces: &Interfaces) -> Option<NextHop> {
        let resolved = self.resolved.get(&hop.gateway).copied().flatten();
        let Some(name) = &hop.interface else {
            let found = resolved?;
            return Some(NextHop {
                via: Some(found.via),
                interface: found.interface,
                weight: hop.weight.max(1),
                onlink: found.onlink,
            });
        };
        let link = interfaces.by_name(name).filter(|link| link.is_up())?;
        // A link-local gateway is on the link by definition; any other must be covered by a connected route, or else the
        // kernel must be told that it is there all the same.
        let link_local = matches!(hop.gateway, IpAddr::V6(v6) if v6.segments()[0] & 0xffc0 == 0xfe80);
        let connected =
            resolved.is_some_and(|found| found.interface == link.index && found.via == hop.gateway);
        Some(NextHop {
            via: Some(hop.gateway),
            interface: link.index,
            weight: hop.weight.max(1),
            onlink: !connected && !link_local,
        })
    }

    /// What to do now, writes before deletions. Call [`Self::settle`] before.
    pub fn pending(&mut self, gates: Gates, interfaces: &Interfaces, now: Instant) -> Vec<RouteWork> {
        if !gates.in_sync {
            return Vec::new();
        }
        let mut writes = Vec::new();
        let mut deletions = Vec::new();
        let mut gone = Vec::new();
        for delta in self.table.pending(now) {
            match (delta.desired, delta.actual) {
                (Some(route), actual) => {
                    let class = self.winners.get(&delta.key.dst).copied();
                    if class == Some(RouteClass::LocalWorkload) && !gates.policy {
                        continue;
                    }
                    if class == Some(RouteClass::Bgp)
                        && actual.is_none()
                        && self.foreign.get(delta.key).is_some()
                    {
                        continue;
                    }
                    writes.push((*delta.key, route.clone()));
                }
                (None, Some(actual)) => gone.push((*delta.key, actual.clone())),
                (None, None) => {}
            }
        }
        for (key, actual) in gone {
            let allowed = match self.owner(&actual, interfaces) {
                Some(Owner::Bgp) => gates.bgp_converged,
                Some(Owner::Agent) => true,
                Some(Owner::Workload) => {
                    gates.policy && self.strays.get(&key).is_none_or(|since| now >= *since + STRAY_GRACE)
                }
                // We wrote it, or it was on an interface that is gone by now.
                None => true,
            };
            if allowed {
                deletions.push(key);
            }
        }
        writes
            .into_iter()
            .map(|(key, route)| RouteWork { key, route: Some(route) })
            .chain(deletions.into_iter().map(|key| RouteWork { key, route: None }))
            .collect()
    }

    /// The outcome of one piece of work.
    pub fn finished(&mut self, work: &RouteWork, refusal: Option<Refusal>, now: Instant) {
        match refusal {
            None => {
                self.refusals.remove(&work.key.dst);
                if work.route.is_none() {
                    self.strays.remove(&work.key);
                } else if self.foreign.remove(&work.key) {
                    self.resolve_again = true;
                }
                self.table.applied(&work.key);
            }
            Some(refusal) => {
                self.refusals.insert(work.key.dst, refusal);
                self.table.failed(&work.key, now);
            }
        }
    }

    /// Addresses that a pod of this node had and has no longer: its connections are to be forgotten before somebody else
    /// gets the address.
    pub fn take_released(&mut self) -> Vec<IpAddr> {
        std::mem::take(&mut self.released).into_iter().collect()
    }

    /// When [`Self::pending`] will have something to say that it does not say now.
    pub fn next_wake(&self, now: Instant) -> Option<Instant> {
        // A stray whose grace is over waits for something else than time.
        let stray = self.strays.values().map(|since| *since + STRAY_GRACE).filter(|at| *at > now).min();
        self.table.next_retry().into_iter().chain(stray).min()
    }

    /// How things stand with a destination.
    pub fn standing(&self, dst: IpNet) -> RouteStanding {
        let key = key(dst.trunc());
        if !self.claims.contains_key(&dst) {
            return RouteStanding::Unwanted;
        }
        if self.table.desired(&key).is_none() {
            return RouteStanding::Unresolved;
        }
        if self.table.is_settled(&key) {
            return RouteStanding::InForce;
        }
        if let Some(refusal) = self.refusals.get(&dst) {
            return RouteStanding::Refused(refusal.clone());
        }
        match self.foreign.get(&key) {
            Some(route) if self.winners.get(&dst) == Some(&RouteClass::Bgp) => {
                RouteStanding::Taken(route.clone())
            }
            _ => RouteStanding::Pending,
        }
    }

    /// Destinations that are wanted but not in force, with the reason, sorted.
    pub fn troubles(&self) -> Vec<(IpNet, RouteStanding)> {
        self.claims
            .keys()
            .map(|dst| (*dst, self.standing(*dst)))
            .filter(|(_, standing)| !matches!(standing, RouteStanding::InForce))
            .collect()
    }

    /// Our routes as the kernel has them, sorted.
    pub fn in_kernel(&self) -> impl Iterator<Item = &Route> {
        self.table.all_actual().map(|(_, route)| route)
    }

    /// Number of our routes in the kernel per family.
    pub fn counts(&self) -> BTreeMap<Family, usize> {
        let mut counts = BTreeMap::from([(Family::V4, 0), (Family::V6, 0)]);
        for route in self.in_kernel() {
            *counts.entry(Family::of(route.dst.addr())).or_default() += 1;
        }
        counts
    }

    /// Blackholes of ours in the kernel: with BGP these are the blocks of this node.
    pub fn blackholes(&self) -> impl Iterator<Item = IpNet> {
        self.in_kernel().filter(|route| route.kind == RouteKind::Blackhole).map(|route| route.dst)
    }
}
