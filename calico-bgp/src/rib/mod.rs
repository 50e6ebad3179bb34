//! Adj-RIB-In, decision, Loc-RIB and what goes out, in one table per family.
//!
//! Every prefix stands once in a `prefixes` table with all its paths, the best first. A change marks the prefix;
//! `Rib::run` decides marked prefixes in bounded slices, tells the kernel side and the update groups, and never looks
//! at a prefix that nothing happened to.

mod adj_out;
mod attrs;
mod best;
mod export;
pub(crate) mod fib;
mod groups;
mod hash;
mod import;
mod intern;
mod prefixes;
mod show;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use ipnet::IpNet;

use crate::config::{LocalRoute, PeerConfig, SpeakerConfig};
use crate::fsm::Negotiated;
use crate::policy::FibPolicy;
use crate::route::RouteAttributes;
use crate::wire::{Family, FamilySet, Prefix, Prefix4, Prefix6, UpdateBuilder};

use attrs::AttrStore;
use best::PeerRank;
use export::{ExportProfile, Source, SourceKind};
pub use fib::{FibChange, FibNextHop, FibRoute};
use groups::Group;
pub(crate) use import::Applied;
use intern::{Interner, NONE};
use prefixes::{Path, Table};

pub use prefixes::PeerId;
pub use show::{RibStatistics, RouteInfo};

/// Most paths of one prefix that are announced with ADD-PATH.
const ADD_PATH_LIMIT: usize = 32;

/// The table of one family and its work list.
#[derive(Debug)]
struct FamilyTable<P> {
    table: Table<P>,
    dirty: VecDeque<u32>,
    /// Prefixes without paths that some group may still have to withdraw.
    gone: Vec<u32>,
}

impl<P: Prefix> FamilyTable<P> {
    fn new(seed: u64) -> Self {
        FamilyTable { table: Table::new(seed), dirty: VecDeque::new(), gone: Vec::new() }
    }

    fn mark(&mut self, slot: u32) {
        if let Some(entry) = self.table.entry_mut(slot)
            && !entry.dirty
        {
            entry.dirty = true;
            self.dirty.push_back(slot);
        }
    }
}

/// The families by type.
#[derive(Debug)]
struct Tables {
    v4: FamilyTable<Prefix4>,
    v6: FamilyTable<Prefix6>,
}

trait RibPrefix: Prefix {
    fn of(tables: &Tables) -> &FamilyTable<Self>;
    fn of_mut(tables: &mut Tables) -> &mut FamilyTable<Self>;
}

impl RibPrefix for Prefix4 {
    fn of(tables: &Tables) -> &FamilyTable<Self> {
        &tables.v4
    }

    fn of_mut(tables: &mut Tables) -> &mut FamilyTable<Self> {
        &mut tables.v4
    }
}

impl RibPrefix for Prefix6 {
    fn of(tables: &Tables) -> &FamilyTable<Self> {
        &tables.v6
    }

    fn of_mut(tables: &mut Tables) -> &mut FamilyTable<Self> {
        &mut tables.v6
    }
}

/// A peer as the tables know it.
#[derive(Debug)]
struct RibPeer {
    config: Arc<PeerConfig>,
    identifier: u32,
    group: Option<u32>,
    negotiated: Option<Negotiated>,
    local_address: Option<IpAddr>,
    /// Prefixes taken in, per family, refused ones included.
    received: [u32; 2],
    /// Families in whose refresh the peer is, so that unconfirmed routes go at its end.
    refreshing: FamilySet,
}

impl RibPeer {
    fn count(&mut self, family: Family) -> Option<&mut u32> {
        self.received.get_mut(family.index())
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Rib {
    tables: Tables,
    attrs: AttrStore,
    fib_routes: Interner<FibRoute>,
    fib: VecDeque<FibChange>,
    peers: Vec<Option<RibPeer>>,
    groups: BTreeMap<u32, Group>,
    next_group: u32,
    builder: UpdateBuilder,
    fib_policy: Arc<FibPolicy>,
    multipath: usize,
    router_id: u32,
    cluster_id: Option<u32>,
    /// No decision yet: the speaker restarts and waits for its peers.
    pub(crate) deferred: bool,
    seed: u64,
}

impl Rib {
    pub(crate) fn new(config: &SpeakerConfig, seed: u64) -> Self {
        Rib {
            tables: Tables { v4: FamilyTable::new(seed), v6: FamilyTable::new(seed ^ 0x5555) },
            attrs: AttrStore::new(seed),
            fib_routes: Interner::new(seed),
            fib: VecDeque::new(),
            // The first place belongs to PeerId::LOCAL.
            peers: vec![None],
            groups: BTreeMap::new(),
            next_group: 0,
            builder: UpdateBuilder::new(),
            fib_policy: config.fib.clone(),
            multipath: config.multipath.max(1),
            router_id: u32::from(config.router_id),
            cluster_id: config.cluster_id.map(u32::from),
            deferred: config.restarting,
            seed,
        }
    }

    /// Makes room for a peer. Numbers are not used twice before all others were.
    pub(crate) fn add_peer(&mut self, config: Arc<PeerConfig>) -> Option<PeerId> {
        let peer = RibPeer {
            config,
            identifier: 0,
            group: None,
            negotiated: None,
            local_address: None,
            received: [0; 2],
            refreshing: FamilySet::NONE,
        };
        let at = if self.peers.len() < usize::from(u16::MAX) {
            self.peers.push(None);
            self.peers.len() - 1
        } else {
            self.peers.iter().skip(1).position(Option::is_none)? + 1
        };
        self.peers.get_mut(at)?.replace(peer);
        u16::try_from(at).ok().map(PeerId)
    }

    fn peer(&self, id: PeerId) -> Option<&RibPeer> {
        self.peers.get(usize::from(id.0))?.as_ref()
    }

    fn peer_mut(&mut self, id: PeerId) -> Option<&mut RibPeer> {
        self.peers.get_mut(usize::from(id.0))?.as_mut()
    }

    /// Forgets a peer and everything from it.
    pub(crate) fn remove_peer(&mut self, id: PeerId) {
        self.leave_group(id);
        for family in Family::ALL {
            self.drop_routes(id, family, |_| true);
        }
        if let Some(place) = self.peers.get_mut(usize::from(id.0)) {
            *place = None;
        }
    }

    /// The session came up.
    pub(crate) fn peer_up(&mut self, id: PeerId, negotiated: &Negotiated, local_address: IpAddr) {
        let Some(peer) = self.peer_mut(id) else { return };
        peer.identifier = u32::from(negotiated.identifier);
        peer.negotiated = Some(negotiated.clone());
        peer.local_address = Some(local_address);
        peer.refreshing = FamilySet::NONE;
        let Some(profile) = self.profile(id) else { return };
        self.join_fresh(id, profile, VecDeque::new());
    }

    /// The session went down; routes are dropped or marked separately.
    pub(crate) fn peer_down(&mut self, id: PeerId) {
        self.leave_group(id);
        if let Some(peer) = self.peer_mut(id) {
            peer.negotiated = None;
        }
    }

    fn profile(&self, id: PeerId) -> Option<ExportProfile> {
        let peer = self.peer(id)?;
        let negotiated = peer.negotiated.as_ref()?;
        let config = &peer.config;
        let own = [config.local_address, config.other_family_address, peer.local_address];
        let own_v4 = own.iter().flatten().find_map(|a| match a {
            IpAddr::V4(a) => Some(*a),
            IpAddr::V6(_) => None,
        });
        let own_v6 = own.iter().flatten().find(|a| a.is_ipv6()).map(|a| (*a).into());
        Some(ExportProfile {
            params: negotiated.params,
            local_as: config.local_as,
            client: config.reflector_client.is_some(),
            cluster_id: config.reflector_client.or(self.cluster_id.map(Into::into)),
            next_hop: config.next_hop,
            own_v4,
            own_v6,
            long_lived: negotiated.remote.long_lived.is_some(),
            normal_priority: config.export.normal_priority(),
            policy: config.export.clone(),
        })
    }

    fn join_fresh(&mut self, id: PeerId, profile: ExportProfile, backlog: VecDeque<Bytes>) {
        let found = self.groups.iter().find(|(_, group)| group.is_fresh() && group.profile == profile);
        let number = match found {
            Some((number, _)) => *number,
            None => self.add_group(Group::new(profile, self.seed)),
        };
        self.enter(id, number, backlog);
    }

    fn add_group(&mut self, group: Group) -> u32 {
        let number = self.next_group;
        self.next_group += 1;
        self.groups.insert(number, group);
        number
    }

    fn enter(&mut self, id: PeerId, number: u32, backlog: VecDeque<Bytes>) {
        if let Some(group) = self.groups.get_mut(&number) {
            group.join(id, backlog);
        }
        if let Some(peer) = self.peer_mut(id) {
            peer.group = Some(number);
        }
    }

    fn leave_group(&mut self, id: PeerId) -> VecDeque<Bytes> {
        let Some(number) = self.peer_mut(id).and_then(|peer| peer.group.take()) else {
            return VecDeque::new();
        };
        let Some(group) = self.groups.get_mut(&number) else { return VecDeque::new() };
        let backlog = group.leave(id);
        if group.members.is_empty() {
            group.dissolve(&mut self.attrs);
            self.groups.remove(&number);
        }
        backlog
    }

    /// Writes whatever the peer's group has pending into its log.
    fn write_out(&mut self, number: u32) {
        while self.groups.get(&number).is_some_and(Group::has_pending) {
            self.write(number);
        }
    }

    fn write(&mut self, number: u32) -> usize {
        let Some(group) = self.groups.get_mut(&number) else { return 0 };
        group.write(&self.tables.v4.table, &mut self.attrs, &mut self.builder)
            + group.write(&self.tables.v6.table, &mut self.attrs, &mut self.builder)
    }

    /// The peer asks for a family again.
    pub(crate) fn refresh_requested(&mut self, id: PeerId, family: Family) {
        let Some((number, marked)) =
            self.peer(id).and_then(|peer| Some((peer.group?, peer.negotiated.as_ref()?.enhanced_refresh())))
        else {
            return;
        };
        self.write_out(number);
        let Some(profile) = self.groups.get(&number).map(|group| group.profile.clone()) else { return };
        let backlog = self.leave_group(id);
        let number = self.add_group(Group::new(profile, self.seed));
        self.enter(id, number, backlog);
        if let Some(group) = self.groups.get_mut(&number) {
            group.begin_refresh(family, marked);
        }
    }

    /// Configurations changed while their sessions go on: what they concern is judged again and differences are sent.
    pub(crate) fn reconfigure_peers(&mut self, changed: &[(PeerId, Arc<PeerConfig>)]) {
        let mut import = Vec::new();
        for (id, config) in changed {
            let Some(peer) = self.peer_mut(*id) else { continue };
            let old = std::mem::replace(&mut peer.config, config.clone());
            if old.import != config.import
                || old.allow_own_as != config.allow_own_as
                || old.reflector_client != config.reflector_client
            {
                import.push(*id);
            }
        }
        for id in import {
            self.import_again(id);
        }
        self.regroup();
    }

    /// Puts every member whose profile changed where it belongs. Members of a group that change alike stay together.
    fn regroup(&mut self) {
        let numbers: Vec<u32> = self.groups.keys().copied().collect();
        for number in numbers {
            let Some(group) = self.groups.get(&number) else { continue };
            let members: Vec<PeerId> = group.members.iter().map(|member| member.peer).collect();
            let mut parts: Vec<(ExportProfile, Vec<PeerId>)> = Vec::new();
            for id in members {
                let Some(profile) = self.profile(id) else { continue };
                match parts.iter_mut().find(|(have, _)| *have == profile) {
                    Some((_, part)) => part.push(id),
                    None => parts.push((profile, vec![id])),
                }
            }
            // One part may keep the group: the one that did not change, otherwise the first.
            let stays = parts.iter().position(|(profile, _)| *profile == group.profile).unwrap_or(0);
            if parts.len() > 1 {
                self.write_out(number);
            }
            for (at, (profile, part)) in parts.into_iter().enumerate() {
                let Some(group) = self.groups.get_mut(&number) else { break };
                if at == stays {
                    if group.profile != profile {
                        group.change_profile(profile, &mut self.attrs);
                    }
                    continue;
                }
                let mut twin = group.split(&mut self.attrs);
                twin.change_profile(profile, &mut self.attrs);
                let twin = self.add_group(twin);
                for id in part {
                    let backlog = self.leave_group(id);
                    self.enter(id, twin, backlog);
                }
            }
        }
    }

    /// The node's own identity changed.
    pub(crate) fn reconfigure(&mut self, config: &SpeakerConfig) {
        self.multipath = config.multipath.max(1);
        self.router_id = u32::from(config.router_id);
        let cluster_id = config.cluster_id.map(u32::from);
        let cluster_changed = std::mem::replace(&mut self.cluster_id, cluster_id) != cluster_id;
        if *self.fib_policy != *config.fib {
            self.fib_policy = config.fib.clone();
            self.mark_where(|_, _| true);
        }
        if cluster_changed {
            for id in self.peer_ids() {
                self.import_again(id);
            }
            self.regroup();
        }
    }

    fn peer_ids(&self) -> Vec<PeerId> {
        let used = self.peers.iter().enumerate().filter(|(_, peer)| peer.is_some());
        used.filter_map(|(at, _)| u16::try_from(at).ok().map(PeerId)).collect()
    }

    /// Adds or replaces a route that begins here.
    pub(crate) fn originate(&mut self, prefix: IpNet, route: &LocalRoute) {
        let number = self.attrs.intern(RouteAttributes::local(route));
        self.attrs.retain(number);
        match prefix {
            IpNet::V4(_) => self.originate_in::<Prefix4>(prefix, number),
            IpNet::V6(_) => self.originate_in::<Prefix6>(prefix, number),
        }
    }

    fn originate_in<P: RibPrefix>(&mut self, prefix: IpNet, number: u32) {
        let Some(prefix) = P::from_net(prefix) else { return };
        let family = P::of_mut(&mut self.tables);
        let slot = family.table.insert(prefix);
        let path = Path {
            received: number,
            attributes: number,
            path_id: 0,
            peer: PeerId::LOCAL,
            sent_id: 0,
            flags: 0,
        };
        match family.table.paths_mut(slot).iter_mut().find(|path| path.peer == PeerId::LOCAL) {
            Some(old) => {
                let (received, attributes) = (old.received, old.attributes);
                *old = Path { sent_id: old.sent_id, ..path };
                self.attrs.release(received);
                self.attrs.release(attributes);
            }
            None => family.table.add_path(slot, path),
        }
        P::of_mut(&mut self.tables).mark(slot);
    }

    /// Takes back a route that began here.
    pub(crate) fn withdraw_local(&mut self, prefix: IpNet) {
        if let Some(prefix) = Prefix4::from_net(prefix) {
            self.withdraw_path(PeerId::LOCAL, prefix, 0);
        } else if let Some(prefix) = Prefix6::from_net(prefix) {
            self.withdraw_path(PeerId::LOCAL, prefix, 0);
        }
    }

    /// The way to a next hop changed: `None` there is none, otherwise its cost.
    pub(crate) fn next_hop(&mut self, address: IpAddr, cost: Option<u32>) {
        if self.attrs.set_next_hop(address, cost) {
            self.mark_where(|path, attrs| attrs.uses_next_hop(path.attributes, address));
        }
    }

    fn mark_where(&mut self, wanted: impl Fn(&Path, &AttrStore) -> bool) {
        fn go<P: Prefix>(family: &mut FamilyTable<P>, wanted: impl Fn(&Path) -> bool) {
            for slot in 0..family.table.slots() {
                if family.table.paths(slot).iter().any(&wanted) {
                    family.mark(slot);
                }
            }
        }
        let attrs = &self.attrs;
        go(&mut self.tables.v4, |path| wanted(path, attrs));
        go(&mut self.tables.v6, |path| wanted(path, attrs));
    }

    /// Whether [`Rib::run`] has something to do.
    pub(crate) fn has_work(&self) -> bool {
        !self.deferred
            && (!self.tables.v4.dirty.is_empty()
                || !self.tables.v6.dirty.is_empty()
                || self
                    .groups
                    .values()
                    .any(|g| Family::ALL.iter().any(|f| g.family(*f).is_some_and(|f| f.scan.is_some()))))
    }

    /// Decides up to `budget` prefixes. Returns whether there is more to do.
    pub(crate) fn run(&mut self, budget: usize) -> bool {
        if self.deferred {
            return false;
        }
        let mut left = budget;
        self.run_family::<Prefix4>(&mut left);
        self.run_family::<Prefix6>(&mut left);
        let numbers: Vec<u32> = self.groups.keys().copied().collect();
        for number in numbers {
            self.scan::<Prefix4>(number, &mut left);
            self.scan::<Prefix6>(number, &mut left);
        }
        self.collect::<Prefix4>();
        self.collect::<Prefix6>();
        self.has_work()
    }

    fn run_family<P: RibPrefix>(&mut self, left: &mut usize) {
        while *left > 0 {
            let Some(slot) = P::of_mut(&mut self.tables).dirty.pop_front() else { return };
            *left -= 1;
            self.decide::<P>(slot);
        }
    }

    /// Chooses the best path of a prefix and tells everybody who has to know.
    fn decide<P: RibPrefix>(&mut self, slot: u32) {
        let peers = &self.peers;
        let rank = |id: PeerId| rank_of(peers, id);
        let family = P::of_mut(&mut self.tables);
        let Some(entry) = family.table.entry_mut(slot) else { return };
        entry.dirty = false;
        let prefix = entry.prefix;
        let best = best::select(family.table.paths(slot), &self.attrs, &rank);
        if let Some(at) = best {
            family.table.paths_mut(slot).swap(0, at);
        }
        let selected = best.is_some();
        let paths = if selected { family.table.paths(slot) } else { &[] };
        let route =
            fib::kernel_route(prefix.to_net(), paths, &self.attrs, &rank, &self.fib_policy, self.multipath);
        let old = family.table.entry(slot).map_or(NONE, |entry| entry.fib);
        let new = match route {
            Some(route) => self.fib_routes.intern(route).0,
            None => NONE,
        };
        if new != old {
            let route = self.fib_routes.get(new).map(|route| (**route).clone());
            self.fib.push_back(FibChange { prefix: prefix.to_net(), route });
        }
        self.fib_routes.release(old);
        if let Some(entry) = family.table.entry_mut(slot) {
            entry.selected = selected;
            entry.fib = new;
        }
        for group in self.groups.values_mut() {
            tell(group, slot, prefix, &family.table, peers, &mut self.attrs);
        }
        if family.table.paths(slot).is_empty() {
            family.gone.push(slot);
        }
    }

    /// Shows a group prefixes that it has not seen yet.
    fn scan<P: RibPrefix>(&mut self, number: u32, left: &mut usize) {
        let family = P::of_mut(&mut self.tables);
        let Some(group) = self.groups.get_mut(&number) else { return };
        let end = family.table.slots();
        while *left > 0 {
            let Some(state) = group.family_mut(P::FAMILY) else { return };
            let Some(slot) = state.scan else { return };
            if slot >= end {
                state.scan = None;
                return;
            }
            state.scan = Some(slot + 1);
            *left -= 1;
            // A marked prefix is decided, and then told, in its own turn.
            let Some(entry) = family.table.entry(slot).filter(|entry| !entry.dirty) else { continue };
            let prefix = entry.prefix;
            tell(group, slot, prefix, &family.table, &self.peers, &mut self.attrs);
        }
    }

    /// Forgets prefixes that nobody has to be told about any more.
    fn collect<P: RibPrefix>(&mut self) {
        let family = P::of_mut(&mut self.tables);
        let mut gone = std::mem::take(&mut family.gone);
        gone.sort_unstable();
        gone.dedup();
        gone.retain(|slot| {
            if !family.table.paths(*slot).is_empty() {
                return false;
            }
            let Some(entry) = family.table.entry(*slot) else { return false };
            if entry.dirty || !self.groups.values().all(|group| group.is_done_with(P::FAMILY, *slot)) {
                return true;
            }
            family.table.remove(*slot);
            false
        });
        family.gone = gone;
    }

    /// The next change of the kernel's table.
    pub(crate) fn poll_fib(&mut self) -> Option<FibChange> {
        self.fib.pop_front()
    }

    /// The next message for a peer; the number counts routes that no message could hold.
    pub(crate) fn poll_update(&mut self, id: PeerId) -> (Option<Bytes>, usize) {
        let Some(mut number) = self.peer(id).and_then(|peer| peer.group) else { return (None, 0) };
        let mut unsendable = 0;
        loop {
            let Some(group) = self.groups.get_mut(&number) else { return (None, unsendable) };
            if let Some(bytes) = group.take(id) {
                return (Some(bytes), unsendable);
            }
            if !group.has_pending() {
                if group.is_idle() {
                    self.merge(number);
                }
                return (None, unsendable);
            }
            if group.is_full() {
                let laggards = group.laggards();
                if laggards.is_empty() {
                    // The others only need their turn.
                    return (None, unsendable);
                }
                let twin = group.split(&mut self.attrs);
                let twin = self.add_group(twin);
                for peer in laggards {
                    let backlog = self.leave_group(peer);
                    self.enter(peer, twin, backlog);
                    self.set_stalled(peer, true);
                }
                match self.peer(id).and_then(|peer| peer.group) {
                    Some(now) => number = now,
                    None => return (None, unsendable),
                }
                continue;
            }
            unsendable += self.write(number);
        }
    }

    /// Notes whether a peer's connection takes octets.
    pub(crate) fn set_stalled(&mut self, id: PeerId, stalled: bool) {
        if let Some(number) = self.peer(id).and_then(|peer| peer.group)
            && let Some(group) = self.groups.get_mut(&number)
        {
            group.set_stalled(id, stalled);
        }
    }

    /// Joins a group that has nothing to write with another one of its profile that has nothing to write.
    fn merge(&mut self, number: u32) {
        let Some(group) = self.groups.get(&number) else { return };
        let twin = self
            .groups
            .iter()
            .find(|(other, twin)| **other != number && twin.is_idle() && twin.profile == group.profile)
            .map(|(other, _)| *other);
        let Some(twin) = twin else { return };
        let (from, to) = if twin < number { (number, twin) } else { (twin, number) };
        let members: Vec<PeerId> =
            self.groups.get(&from).into_iter().flat_map(|group| &group.members).map(|m| m.peer).collect();
        for peer in members {
            let backlog = self.leave_group(peer);
            self.enter(peer, to, backlog);
        }
    }
}

fn rank_of(peers: &[Option<RibPeer>], id: PeerId) -> Option<PeerRank> {
    if id == PeerId::LOCAL {
        let address = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
        return Some(PeerRank { external: false, identifier: 0, address });
    }
    let peer = peers.get(usize::from(id.0))?.as_ref()?;
    Some(PeerRank {
        external: !peer.config.is_internal(),
        identifier: peer.identifier,
        address: peer.config.address,
    })
}

fn source_of(peers: &[Option<RibPeer>], id: PeerId) -> Option<Source> {
    if id == PeerId::LOCAL {
        return Some(Source { peer: id, kind: SourceKind::Local, identifier: 0 });
    }
    let peer = peers.get(usize::from(id.0))?.as_ref()?;
    let kind = if peer.config.is_internal() {
        SourceKind::Internal { client: peer.config.reflector_client.is_some() }
    } else {
        SourceKind::External
    };
    Some(Source { peer: id, kind, identifier: peer.identifier })
}

/// Tells a group what stands in the table about a prefix.
fn tell<P: Prefix>(
    group: &mut Group,
    slot: u32,
    prefix: P,
    table: &Table<P>,
    peers: &[Option<RibPeer>],
    attrs: &mut AttrStore,
) {
    let selected = table.entry(slot).is_some_and(|entry| entry.selected);
    let paths = if selected { table.paths(slot) } else { &[] };
    let source = |path: &Path| source_of(peers, path.peer);
    if paths.len() > 1 && group.profile.params.add_path_send.contains(P::FAMILY) {
        let usable: smallvec::SmallVec<[Path; 4]> =
            paths.iter().filter(|path| best::eligible(path, attrs)).take(ADD_PATH_LIMIT).copied().collect();
        group.evaluate(slot, prefix, &usable, source, attrs);
    } else {
        group.evaluate(slot, prefix, paths.get(..paths.len().min(1)).unwrap_or_default(), source, attrs);
    }
}
