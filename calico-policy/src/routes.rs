//! Where every pool address lives: the layer-3 picture (`policy.md` §7).
//!
//! One trie of CIDRs holds what is known of each: the pools, the node of the block, the nodes that have it as their own
//! address, the endpoints and tunnels on it. A route is read off the path from the root to its CIDR, so a change of an
//! entry concerns the CIDRs at and below it, and only those are looked at again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use calico_model::resource::ipam::AllocationBlock;
use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;
use rustc_hash::FxHashMap;

use crate::changes::{EncapMode, Pool, Route, RouteKind, Tunnel};
use crate::nodes::NodeFacts;
use crate::outbox::Outbox;
use crate::rules::shared;
use crate::sets::ItemId;

/// What sits on an address, in the order of precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum RefKind {
    Workload,
    Wireguard,
    IpIp,
    Vxlan,
}

#[derive(Debug, Default)]
struct Entry {
    /// By resource name; two pools of one CIDR are a mistake, the first name wins.
    pools: BTreeMap<Arc<str>, Pool>,
    block: Option<Arc<str>>,
    hosts: BTreeSet<Arc<str>>,
    refs: BTreeMap<(Arc<str>, RefKind), u32>,
}

impl Entry {
    fn is_empty(&self) -> bool {
        self.pools.is_empty() && self.block.is_none() && self.hosts.is_empty() && self.refs.is_empty()
    }
}

/// All routes.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    own: Arc<str>,
    trie: JointPrefixMap<IpNet, Entry>,
    nodes: FxHashMap<Arc<str>, NodeFacts>,
    pools: FxHashMap<Arc<str>, Pool>,
    blocks: FxHashMap<IpNet, Vec<(IpNet, Arc<str>)>>,
    workloads: FxHashMap<ItemId, (Vec<IpNet>, Arc<str>)>,
    /// CIDRs that name a node, with how often.
    by_node: FxHashMap<Arc<str>, FxHashMap<IpNet, u32>>,
    dirty: BTreeSet<IpNet>,
    out: Outbox<IpNet, Route>,
}

impl Routes {
    pub(crate) fn new(own: &str) -> Self {
        Self { own: own.into(), ..Self::default() }
    }

    /// Adds, replaces or removes a pool.
    pub(crate) fn set_pool(&mut self, name: &Arc<str>, pool: Option<Pool>) {
        if self.pools.get(name) == pool.as_ref() {
            return;
        }
        if let Some(old) = self.pools.remove(name) {
            self.edit(old.cidr, |entry| {
                entry.pools.remove(name);
            });
            self.touch_below(old.cidr);
        }
        if let Some(pool) = pool {
            let cidr = pool.cidr;
            self.pools.insert(name.clone(), pool.clone());
            self.edit(cidr, |entry| {
                entry.pools.insert(name.clone(), pool);
            });
            self.touch_below(cidr);
        }
    }

    /// Adds, replaces or removes a block.
    pub(crate) fn set_block(&mut self, cidr: IpNet, block: Option<&AllocationBlock>) {
        let wanted = block.map(block_routes).unwrap_or_default();
        let old = self.blocks.get(&cidr).cloned().unwrap_or_default();
        for (dst, node) in old.iter().filter(|route| !wanted.contains(route)) {
            self.edit(*dst, |entry| entry.block = None);
            self.unlink(node, *dst);
            self.touch_below(*dst);
        }
        for (dst, node) in wanted.iter().filter(|route| !old.contains(route)) {
            self.edit(*dst, |entry| entry.block = Some(node.clone()));
            self.link(node, *dst);
            self.touch_below(*dst);
        }
        if wanted.is_empty() {
            self.blocks.remove(&cidr);
        } else {
            self.blocks.insert(cidr, wanted);
        }
    }

    /// Adds, replaces or removes the addresses of a workload endpoint.
    pub(crate) fn set_workload(&mut self, item: ItemId, workload: Option<(Vec<IpNet>, &str)>) {
        let wanted = workload.map(|(nets, node)| (nets, shared(node)));
        if self.workloads.get(&item) == wanted.as_ref() {
            return;
        }
        if let Some((nets, node)) = self.workloads.remove(&item) {
            nets.into_iter().for_each(|net| self.remove_ref(net, &node, RefKind::Workload));
        }
        if let Some((nets, node)) = wanted {
            nets.iter().for_each(|net| self.add_ref(*net, &node, RefKind::Workload));
            self.workloads.insert(item, (nets, node));
        }
    }

    /// Adds, replaces or removes a node.
    pub(crate) fn set_node(&mut self, name: &Arc<str>, facts: Option<NodeFacts>) {
        let old = self.nodes.get(name).cloned();
        if old == facts {
            return;
        }
        for (net, kind) in old.iter().flat_map(node_entries) {
            match kind {
                Some(kind) => self.remove_ref(net, name, kind),
                None => self.remove_host(net, name),
            }
        }
        for (net, kind) in facts.iter().flat_map(node_entries) {
            match kind {
                Some(kind) => self.add_ref(net, name, kind),
                None => self.add_host(net, name),
            }
        }
        let nets = |facts: &Option<NodeFacts>| facts.as_ref().map(|facts| (facts.v4, facts.v6));
        if nets(&old) != nets(&facts) {
            if *name == self.own {
                // What is on our subnet may have changed for every node.
                self.dirty.extend(self.trie.keys());
            }
            self.dirty.extend(self.by_node.get(name).into_iter().flat_map(FxHashMap::keys));
        }
        match facts {
            Some(facts) => self.nodes.insert(name.clone(), facts),
            None => self.nodes.remove(name),
        };
    }

    fn add_host(&mut self, net: IpNet, node: &Arc<str>) {
        self.edit(net, |entry| {
            entry.hosts.insert(node.clone());
        });
        self.link(node, net);
        self.dirty.insert(net);
    }

    fn remove_host(&mut self, net: IpNet, node: &Arc<str>) {
        self.edit(net, |entry| {
            entry.hosts.remove(node);
        });
        self.unlink(node, net);
        self.dirty.insert(net);
    }

    fn add_ref(&mut self, net: IpNet, node: &Arc<str>, kind: RefKind) {
        self.edit(net, |entry| *entry.refs.entry((node.clone(), kind)).or_default() += 1);
        self.link(node, net);
        self.dirty.insert(net);
    }

    fn remove_ref(&mut self, net: IpNet, node: &Arc<str>, kind: RefKind) {
        self.edit(net, |entry| {
            let key = (node.clone(), kind);
            if let Some(count) = entry.refs.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    entry.refs.remove(&key);
                }
            }
        });
        self.unlink(node, net);
        self.dirty.insert(net);
    }

    fn edit(&mut self, net: IpNet, change: impl FnOnce(&mut Entry)) {
        let mut entry = self.trie.remove(&net).unwrap_or_default();
        change(&mut entry);
        if !entry.is_empty() {
            self.trie.insert(net, entry);
        }
    }

    fn link(&mut self, node: &Arc<str>, net: IpNet) {
        *self.by_node.entry(node.clone()).or_default().entry(net).or_default() += 1;
    }

    fn unlink(&mut self, node: &Arc<str>, net: IpNet) {
        let Some(nets) = self.by_node.get_mut(node) else { return };
        if let Some(count) = nets.get_mut(&net) {
            *count -= 1;
            if *count == 0 {
                nets.remove(&net);
            }
        }
        if nets.is_empty() {
            self.by_node.remove(node);
        }
    }

    fn touch_below(&mut self, net: IpNet) {
        self.dirty.insert(net);
        self.dirty.extend(self.trie.children(&net).map(|(below, _)| below));
    }

    /// Routes and removed destinations since the last flush, sorted.
    pub(crate) fn flush(&mut self) -> (Vec<Route>, Vec<IpNet>) {
        for net in std::mem::take(&mut self.dirty) {
            let route = self.resolve(net);
            self.out.set(net, route);
        }
        self.out.flush()
    }

    fn resolve(&self, dst: IpNet) -> Option<Route> {
        let unspecified = dst.addr().is_unspecified() && dst.prefix_len() == dst.max_prefix_len();
        let here = self.trie.get(&dst).filter(|_| !unspecified)?;
        let mut encap = (Tunnel::None, EncapMode::Never);
        let mut route = Route {
            dst,
            kind: RouteKind::Pool,
            node: None,
            node_ip: None,
            same_subnet: false,
            tunnel: Tunnel::None,
            nat_outgoing: false,
            borrowed: false,
        };
        let mut cross_subnet = false;
        let mut block: Option<&Arc<str>> = None;
        for (_, entry) in self.trie.cover(&dst) {
            if let Some(pool) = entry.pools.values().next() {
                if let Some(pool_encap) = pool_encap(pool) {
                    encap = pool_encap;
                }
                route.nat_outgoing |= pool.nat_outgoing;
                cross_subnet |= pool.ipip == EncapMode::CrossSubnet || pool.vxlan == EncapMode::CrossSubnet;
            }
            if let Some(node) = &entry.block {
                route.borrowed |= block.is_some_and(|other| other != node);
                block = Some(node);
            }
        }
        let local = |node: &Arc<str>| *node == self.own;
        let workload = |node: &Arc<str>| {
            if local(node) { RouteKind::LocalWorkload } else { RouteKind::RemoteWorkload }
        };
        if let Some(node) = block {
            route.kind = workload(node);
            route.node = Some(node.clone());
        }
        if let Some(node) = here.hosts.first() {
            route.kind = if local(node) { RouteKind::LocalHost } else { RouteKind::RemoteHost };
            route.node = Some(node.clone());
        }
        if let Some((node, kind)) = here.refs.keys().next() {
            route.borrowed |= block.is_some_and(|other| other != node);
            route.node = Some(node.clone());
            if here.hosts.is_empty() {
                route.kind = match (kind, local(node)) {
                    (RefKind::Workload, _) => workload(node),
                    (_, true) => RouteKind::LocalTunnel,
                    (_, false) => RouteKind::RemoteTunnel,
                };
            }
        }
        self.reach(&mut route, encap, cross_subnet);
        Some(route)
    }

    /// Fills in how packets get to the node of the route.
    fn reach(&self, route: &mut Route, (tunnel, mode): (Tunnel, EncapMode), cross_subnet: bool) {
        let v6 = matches!(route.dst, IpNet::V6(_));
        let net_of = |name: &Arc<str>| self.nodes.get(name).and_then(|facts| facts.net(v6));
        let node_ip: Option<IpAddr> = route.node.as_ref().and_then(net_of).map(|net| net.addr());
        route.node_ip = node_ip;
        let own_net = net_of(&self.own);
        route.same_subnet =
            cross_subnet && own_net.zip(node_ip).is_some_and(|(net, addr)| net.contains(&addr));
        let remote = matches!(route.kind, RouteKind::RemoteWorkload | RouteKind::RemoteTunnel);
        let wanted = mode == EncapMode::Always || (mode == EncapMode::CrossSubnet && !route.same_subnet);
        if remote && wanted {
            route.tunnel = tunnel;
        }
    }
}

/// The encapsulation of a pool; `None` for pools of which no workload takes addresses.
fn pool_encap(pool: &Pool) -> Option<(Tunnel, EncapMode)> {
    if pool.load_balancer_only {
        None
    } else if pool.vxlan != EncapMode::Never {
        Some((Tunnel::Vxlan, pool.vxlan))
    } else if pool.ipip != EncapMode::Never {
        Some((Tunnel::IpIp, pool.ipip))
    } else {
        Some((Tunnel::None, EncapMode::Never))
    }
}

/// The block on its node, and every address of it that lives on another.
fn block_routes(block: &AllocationBlock) -> Vec<(IpNet, Arc<str>)> {
    let host = block.affinity.as_deref().and_then(|affinity| affinity.strip_prefix("host:"));
    let mut routes: Vec<(IpNet, Arc<str>)> = Vec::new();
    routes.extend(host.map(|host| (block.cidr.trunc(), shared(host))));
    for (ordinal, allocation) in block.allocations.iter().enumerate() {
        let attributes = allocation.and_then(|index| block.attributes.get(index as usize));
        let Some(node) = attributes.and_then(|attr| attr.active_owner_attrs.get("node")) else { continue };
        if node.is_empty() || Some(node.as_str()) == host {
            continue;
        }
        routes.extend(nth_address(block.cidr, ordinal).map(|net| (net, shared(node))));
    }
    routes.sort();
    routes.dedup_by(|a, b| a.0 == b.0);
    routes
}

fn nth_address(cidr: IpNet, ordinal: usize) -> Option<IpNet> {
    let net = match cidr.network() {
        IpAddr::V4(base) => {
            IpNet::from(IpAddr::from(base.to_bits().checked_add(u32::try_from(ordinal).ok()?)?.to_be_bytes()))
        }
        IpAddr::V6(base) => {
            IpNet::from(IpAddr::from(base.to_bits().checked_add(ordinal as u128)?.to_be_bytes()))
        }
    };
    cidr.contains(&net).then_some(net)
}

/// Addresses of a node (`None`) and of its tunnels.
fn node_entries(facts: &NodeFacts) -> Vec<(IpNet, Option<RefKind>)> {
    let mut hosts: Vec<IpNet> =
        [facts.v4, facts.v6].into_iter().flatten().map(|net| net.addr().into()).collect();
    hosts.extend(facts.addresses.iter().map(|addr| IpNet::from(*addr)));
    hosts.sort();
    hosts.dedup();
    let mut entries: Vec<(IpNet, Option<RefKind>)> = hosts.into_iter().map(|net| (net, None)).collect();
    let tunnels = [
        (facts.wireguard[0], RefKind::Wireguard),
        (facts.wireguard[1], RefKind::Wireguard),
        (facts.ipip, RefKind::IpIp),
        (facts.vxlan[0], RefKind::Vxlan),
        (facts.vxlan[1], RefKind::Vxlan),
    ];
    entries.extend(tunnels.into_iter().filter_map(|(addr, kind)| Some((IpNet::from(addr?), Some(kind)))));
    entries
}
