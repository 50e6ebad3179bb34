//! Update groups: peers that are told the same share one table of what they were told and one queue of messages.
//!
//! A message is encoded when the first member asks for it and lies in the group's log until the last one took it.
//! A member that starts, or wants everything again, gets a group of its own, which melts into an older one of the same
//! profile as soon as both have nothing left to write; a member that does not keep up is split off the same way.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;

use super::adj_out::{AdjOut, Cell};
use super::attrs::AttrStore;
use super::export::{ExportProfile, Source, SourceKind};
use super::hash::FoldState;
use super::intern::NONE;
use super::prefixes::{Path, PeerId, Table};
use crate::policy::Edits;
use crate::wire::{Family, Message, PathPrefix, Prefix, RouteRefresh, RouteRefreshKind, UpdateBuilder};

/// Messages a log may hold before members that lag by half of it are split off.
const LOG_LIMIT: usize = 512;

/// Announcements handled at once when messages are written.
const WRITE_SLICE: usize = 4096;

#[derive(Debug, Clone)]
struct LogEntry {
    bytes: Bytes,
    except: PeerId,
    only: PeerId,
    /// Members that still have to pass this entry.
    remaining: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) peer: PeerId,
    backlog: VecDeque<Bytes>,
    cursor: u64,
    /// The connection takes no more octets at present.
    stalled: bool,
}

/// The part of a group that belongs to one family.
#[derive(Debug, Clone)]
pub(crate) struct GroupFamily {
    pub(crate) adj: AdjOut,
    /// Announcements that stand at the peers, by where they come from.
    standing: BTreeMap<PeerId, usize>,
    buckets: HashMap<(u32, PeerId), Vec<(u32, u16)>>,
    order: VecDeque<(u32, PeerId)>,
    withdrawn: Vec<(u32, u16)>,
    /// Slots from here on were not looked at yet.
    pub(crate) scan: Option<u32>,
    end_of_rib: bool,
    refresh: bool,
}

impl GroupFamily {
    fn new(add_path: bool) -> Self {
        GroupFamily {
            adj: AdjOut::new(add_path),
            standing: BTreeMap::new(),
            buckets: HashMap::new(),
            order: VecDeque::new(),
            withdrawn: Vec::new(),
            scan: Some(0),
            end_of_rib: true,
            refresh: false,
        }
    }

    /// Notes what was written about a cell.
    fn note_written(&mut self, slot: u32, id: u16, old: Cell, new: Cell) {
        if old.written_from != new.written_from {
            if let Some(count) = self.standing.get_mut(&old.written_from) {
                *count = count.saturating_sub(1);
            }
            if new.written_from != PeerId::NONE {
                *self.standing.entry(new.written_from).or_default() += 1;
            }
        }
        self.adj.set(slot, id, new);
    }

    fn pending(&self) -> bool {
        !self.order.is_empty() || !self.withdrawn.is_empty()
    }

    /// Nothing to look at, nothing to write.
    fn idle(&self) -> bool {
        self.scan.is_none() && !self.pending() && !self.end_of_rib
    }
}

type MemoKey = (u32, Family, Source, bool, Edits);

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) profile: ExportProfile,
    pub(crate) members: Vec<Member>,
    families: [Option<GroupFamily>; 2],
    log: VecDeque<LogEntry>,
    base: u64,
    /// Something was written; a new member would have missed it.
    written: bool,
    memo: HashMap<MemoKey, u32, FoldState>,
    seed: u64,
}

impl Group {
    pub(crate) fn new(profile: ExportProfile, seed: u64) -> Self {
        let family = |family: Family| {
            let wanted = profile.params.families.contains(family);
            wanted.then(|| GroupFamily::new(profile.params.add_path_send.contains(family)))
        };
        Group {
            families: [family(Family::Ipv4), family(Family::Ipv6)],
            profile,
            members: Vec::new(),
            log: VecDeque::new(),
            base: 0,
            written: false,
            memo: HashMap::with_hasher(FoldState::new(seed)),
            seed,
        }
    }

    pub(crate) fn family(&self, family: Family) -> Option<&GroupFamily> {
        self.families.get(family.index())?.as_ref()
    }

    pub(crate) fn family_mut(&mut self, family: Family) -> Option<&mut GroupFamily> {
        self.families.get_mut(family.index())?.as_mut()
    }

    /// Whether a peer can join without missing anything.
    pub(crate) fn is_fresh(&self) -> bool {
        !self.written
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.written && self.families.iter().flatten().all(GroupFamily::idle)
    }

    fn end(&self) -> u64 {
        self.base + self.log.len() as u64
    }

    fn is_member(&self, peer: PeerId) -> bool {
        self.members.iter().any(|member| member.peer == peer)
    }

    pub(crate) fn join(&mut self, peer: PeerId, backlog: VecDeque<Bytes>) {
        let cursor = self.end();
        self.members.push(Member { peer, backlog, cursor, stalled: false });
        self.members.sort_by_key(|member| member.peer);
    }

    /// Takes a member out, with what it has not been given yet.
    pub(crate) fn leave(&mut self, peer: PeerId) -> VecDeque<Bytes> {
        let Some(at) = self.members.iter().position(|member| member.peer == peer) else {
            return VecDeque::new();
        };
        let mut member = self.members.remove(at);
        let skip = usize::try_from(member.cursor - self.base).unwrap_or(usize::MAX);
        for entry in self.log.iter_mut().skip(skip) {
            entry.remaining = entry.remaining.saturating_sub(1);
            if entry.except != peer && (entry.only == PeerId::NONE || entry.only == peer) {
                member.backlog.push_back(entry.bytes.clone());
            }
        }
        self.trim();
        member.backlog
    }

    fn trim(&mut self) {
        while self.log.front().is_some_and(|entry| entry.remaining == 0) {
            self.log.pop_front();
            self.base += 1;
        }
    }

    fn append(&mut self, bytes: Bytes, except: PeerId, only: PeerId) {
        let remaining = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        self.written = true;
        if remaining > 0 {
            self.log.push_back(LogEntry { bytes, except, only, remaining });
        }
    }

    /// The next message for a member that lies ready.
    pub(crate) fn take(&mut self, peer: PeerId) -> Option<Bytes> {
        let member = self.members.iter_mut().find(|member| member.peer == peer)?;
        if let Some(bytes) = member.backlog.pop_front() {
            return Some(bytes);
        }
        let mut found = None;
        while found.is_none() {
            let at = usize::try_from(member.cursor - self.base).unwrap_or(usize::MAX);
            let Some(entry) = self.log.get_mut(at) else { break };
            member.cursor += 1;
            entry.remaining -= 1;
            if entry.except != peer && (entry.only == PeerId::NONE || entry.only == peer) {
                found = Some(entry.bytes.clone());
            }
        }
        self.trim();
        found
    }

    /// Whether there is something to write that is not in the log yet.
    pub(crate) fn has_pending(&self) -> bool {
        self.families.iter().flatten().any(|f| f.pending() || (f.end_of_rib && f.scan.is_none()))
    }

    /// Whether the log is so long that members have to catch up before more is written.
    pub(crate) fn is_full(&self) -> bool {
        self.log.len() >= LOG_LIMIT
    }

    /// Members that keep the others from getting on: far behind, and not able to do anything about it.
    pub(crate) fn laggards(&self) -> Vec<PeerId> {
        let limit = self.end() - (LOG_LIMIT / 2) as u64;
        let slow = self.members.iter().filter(|member| member.stalled && member.cursor < limit);
        slow.map(|member| member.peer).collect()
    }

    /// Notes whether a member's connection takes octets.
    pub(crate) fn set_stalled(&mut self, peer: PeerId, stalled: bool) {
        if let Some(member) = self.members.iter_mut().find(|member| member.peer == peer) {
            member.stalled = stalled;
        }
    }

    /// A group of the same profile that has been told the same.
    pub(crate) fn split(&self, attrs: &mut AttrStore) -> Group {
        let mut twin = Group::new(self.profile.clone(), self.seed);
        twin.families = self.families.clone();
        twin.written = true;
        twin.retain_all(attrs);
        twin
    }

    /// From now on the peers are told by another profile: everything is looked at again, only differences are written.
    pub(crate) fn change_profile(&mut self, profile: ExportProfile, attrs: &mut AttrStore) {
        self.forget_memo(attrs);
        for family in self.families.iter_mut().flatten() {
            family.scan = Some(0);
        }
        self.profile = profile;
    }

    fn retain_all(&self, attrs: &mut AttrStore) {
        for family in self.families.iter().flatten() {
            for (slot, id) in family.adj.keys() {
                attrs.retain(family.adj.get(slot, id).wanted);
            }
        }
    }

    /// Gives all attributes back before the group goes away.
    pub(crate) fn dissolve(&mut self, attrs: &mut AttrStore) {
        self.forget_memo(attrs);
        for family in self.families.iter_mut().flatten() {
            for (slot, id) in family.adj.keys() {
                attrs.release(family.adj.get(slot, id).wanted);
            }
        }
        self.families = [None, None];
    }

    fn forget_memo(&mut self, attrs: &mut AttrStore) {
        for ((received, ..), sent) in self.memo.drain() {
            attrs.release(received);
            attrs.release(sent);
        }
    }

    /// Begins a refresh: the whole family is written again between marks.
    pub(crate) fn begin_refresh(&mut self, family: Family, marked: bool) {
        for other in Family::ALL.into_iter().filter(|other| *other != family) {
            // Only the family asked for; the caller has made this group for it.
            if let Some(state) = self.family_mut(other) {
                state.end_of_rib = false;
            }
        }
        if let Some(state) = self.family_mut(family) {
            state.refresh = marked;
            state.end_of_rib = marked;
        }
        if marked {
            let begin = Message::RouteRefresh(RouteRefresh::new(family, RouteRefreshKind::Begin)).encode();
            self.append(begin.into(), PeerId::NONE, PeerId::NONE);
        }
        self.written = true;
    }

    /// Says what the peers should be told about a prefix. `paths` are those to tell, best first.
    pub(crate) fn evaluate<P: Prefix>(
        &mut self,
        slot: u32,
        prefix: P,
        paths: &[Path],
        source: impl Fn(&Path) -> Option<Source>,
        attrs: &mut AttrStore,
    ) {
        let Some(Some(state)) = self.families.get_mut(P::FAMILY.index()) else { return };
        if state.scan.is_some_and(|from| slot >= from) {
            return;
        }
        let several = matches!(state.adj, AdjOut::Several(_));
        let before = state.adj.ids(slot);
        let mut seen: smallvec::SmallVec<[u16; 4]> = smallvec::SmallVec::new();
        let count = if several { paths.len() } else { paths.len().min(1) };
        for path in paths.iter().take(count) {
            let id = if several { path.sent_id } else { 0 };
            let Some((sent, from)) = self.sent_attributes(prefix, path, &source, attrs) else { continue };
            seen.push(id);
            self.want(P::FAMILY, slot, id, sent, from, attrs);
        }
        for id in before.into_iter().filter(|id| !seen.contains(id)) {
            self.want(P::FAMILY, slot, id, NONE, PeerId::NONE, attrs);
        }
    }

    /// The number of the attributes to send, counted once for the caller.
    fn sent_attributes<P: Prefix>(
        &mut self,
        prefix: P,
        path: &Path,
        source: &impl Fn(&Path) -> Option<Source>,
        attrs: &mut AttrStore,
    ) -> Option<(u32, PeerId)> {
        let full = source(path)?;
        let route = attrs.get(path.attributes)?;
        let edits = self.profile.judge(prefix.to_net(), full.kind, route, path)?;
        // Only reflection writes the source into the attributes; otherwise all sources of a kind are one.
        let reflected = self.profile.params.ibgp && matches!(full.kind, SourceKind::Internal { .. });
        let source = if reflected { full } else { Source { peer: PeerId::NONE, identifier: 0, ..full } };
        let long_lived = path.has(Path::LONG_LIVED);
        let key = (path.attributes, P::FAMILY, source, long_lived, edits);
        if let Some(sent) = self.memo.get(&key).copied() {
            attrs.retain(sent);
            return (sent != NONE).then_some((sent, full.peer));
        }
        let changed = self.profile.transform(P::FAMILY, source, route, &key.4, long_lived);
        let sent = changed.map_or(NONE, |route| attrs.intern(route));
        attrs.retain(key.0);
        attrs.retain(sent);
        self.memo.insert(key, sent);
        (sent != NONE).then_some((sent, full.peer))
    }

    /// Notes what should stand at the peers; takes over the caller's count of `sent`.
    fn want(&mut self, family: Family, slot: u32, id: u16, sent: u32, from: PeerId, attrs: &mut AttrStore) {
        let Some(state) = self.family_mut(family) else {
            attrs.release(sent);
            return;
        };
        let old = state.adj.get(slot, id);
        if old.wanted == sent && (sent == NONE || old.wanted_from == from) {
            attrs.release(sent);
            return;
        }
        attrs.release(old.wanted);
        let mut cell = Cell { wanted: sent, wanted_from: from, queued: true, ..old };
        if sent == NONE {
            cell.queued = old.written_from != PeerId::NONE;
            if cell.queued {
                state.withdrawn.push((slot, id));
            }
        } else {
            let bucket = state.buckets.entry((sent, from)).or_default();
            if bucket.is_empty() {
                state.order.push_back((sent, from));
            }
            bucket.push((slot, id));
        }
        state.adj.set(slot, id, cell);
    }

    /// Writes the next messages of a family into the log. Withdrawals go first.
    pub(crate) fn write<P: Prefix>(
        &mut self,
        table: &Table<P>,
        attrs: &mut AttrStore,
        builder: &mut UpdateBuilder,
    ) -> usize {
        let Some(state) = self.family_mut(P::FAMILY) else { return 0 };
        if !state.withdrawn.is_empty() {
            self.write_withdrawals(table, builder);
            return 0;
        }
        if let Some(key) = state.order.pop_front() {
            let unsendable = self.write_bucket(key, table, attrs, builder);
            if unsendable == 0 && self.is_settled() {
                self.forget_memo(attrs);
            }
            return unsendable;
        }
        if state.scan.is_none() && std::mem::take(&mut state.end_of_rib) {
            let refresh = std::mem::take(&mut state.refresh);
            let bytes = if refresh {
                Message::RouteRefresh(RouteRefresh::new(P::FAMILY, RouteRefreshKind::End)).encode().into()
            } else {
                UpdateBuilder::end_of_rib(P::FAMILY)
            };
            self.append(bytes, PeerId::NONE, PeerId::NONE);
        }
        0
    }

    fn is_settled(&self) -> bool {
        self.families.iter().flatten().all(|family| family.scan.is_none() && !family.pending())
    }

    fn write_withdrawals<P: Prefix>(&mut self, table: &Table<P>, builder: &mut UpdateBuilder) {
        let Some(state) = self.families.get_mut(P::FAMILY.index()).and_then(Option::as_mut) else { return };
        let mut lists: BTreeMap<PeerId, Vec<PathPrefix<P>>> = BTreeMap::new();
        let count = state.withdrawn.len().min(WRITE_SLICE);
        let slots: Vec<_> = state.withdrawn.drain(..count).collect();
        for (slot, id) in slots {
            let cell = state.adj.get(slot, id);
            if !cell.queued || cell.wanted != NONE {
                continue;
            }
            state.note_written(slot, id, cell, Cell::EMPTY);
            let Some(entry) = table.entry(slot) else { continue };
            if cell.written_from != PeerId::NONE {
                let owner = self.members.iter().any(|m| m.peer == cell.written_from);
                let except = if owner { cell.written_from } else { PeerId::NONE };
                lists
                    .entry(except)
                    .or_default()
                    .push(PathPrefix { path_id: u32::from(id), prefix: entry.prefix });
            }
        }
        let params = self.profile.params;
        for (except, list) in lists {
            builder.withdraw(&list, &params, |bytes| self.append(bytes, except, PeerId::NONE));
        }
    }

    fn write_bucket<P: Prefix>(
        &mut self,
        key: (u32, PeerId),
        table: &Table<P>,
        attrs: &mut AttrStore,
        builder: &mut UpdateBuilder,
    ) -> usize {
        let Some(state) = self.families.get_mut(P::FAMILY.index()).and_then(Option::as_mut) else { return 0 };
        let Some(mut slots) = state.buckets.remove(&key) else { return 0 };
        if slots.len() > WRITE_SLICE {
            let rest = slots.split_off(WRITE_SLICE);
            state.buckets.insert(key, rest);
            state.order.push_back(key);
        }
        let (sent, from) = key;
        let owner = self.members.iter().any(|member| member.peer == from);
        let mut announced = Vec::with_capacity(slots.len());
        let mut taken_back = Vec::new();
        let mut written = Vec::with_capacity(slots.len());
        for (slot, id) in slots {
            let cell = state.adj.get(slot, id);
            if !cell.queued || cell.wanted != sent || cell.wanted_from != from {
                continue;
            }
            let Some(entry) = table.entry(slot) else { continue };
            let prefix = PathPrefix { path_id: u32::from(id), prefix: entry.prefix };
            // The source of the new path still has the old one from us.
            if owner && cell.written_from != PeerId::NONE && cell.written_from != from {
                taken_back.push(prefix);
            }
            announced.push(prefix);
            written.push((slot, id, cell));
        }
        if announced.is_empty() {
            return 0;
        }
        let Some(route) = attrs.get(sent).cloned() else { return 0 };
        let except = if owner { from } else { PeerId::NONE };
        let params = self.profile.params;
        let result = builder.announce(&route.path, &announced, &params, |bytes| {
            self.append(bytes, except, PeerId::NONE);
        });
        if result.is_ok() {
            builder.withdraw(&taken_back, &params, |bytes| self.append(bytes, PeerId::NONE, from));
        } else {
            // No message can hold the route: the peers must at least not keep an older one.
            let stale: Vec<_> = written
                .iter()
                .zip(&announced)
                .filter(|((_, _, cell), _)| cell.written_from != PeerId::NONE)
                .map(|(_, prefix)| *prefix)
                .collect();
            builder.withdraw(&stale, &params, |bytes| self.append(bytes, PeerId::NONE, PeerId::NONE));
        }
        let Some(state) = self.family_mut(P::FAMILY) else { return 0 };
        let unsendable = if result.is_ok() { 0 } else { written.len() };
        for (slot, id, cell) in written {
            let written_from = if unsendable == 0 { from } else { PeerId::NONE };
            state.note_written(slot, id, cell, Cell { queued: false, written_from, ..cell });
        }
        self.written = true;
        unsendable
    }

    /// Whether a slot can be given to another prefix as far as this group is concerned.
    pub(crate) fn is_done_with(&self, family: Family, slot: u32) -> bool {
        self.family(family).is_none_or(|state| state.adj.is_slot_empty(slot))
    }

    /// How many prefixes, or paths with ADD-PATH, are announced to a member.
    pub(crate) fn announced_count(&self, family: Family, peer: PeerId) -> usize {
        let Some(state) = self.family(family).filter(|_| self.is_member(peer)) else { return 0 };
        state.standing.iter().filter(|(from, _)| **from != peer).map(|(_, count)| count).sum()
    }

    /// Prefixes that are announced to a member.
    pub(crate) fn announced(&self, family: Family, peer: PeerId) -> Vec<(u32, u16, u32)> {
        let Some(state) = self.family(family) else { return Vec::new() };
        let member = self.is_member(peer);
        let keys = state.adj.keys().into_iter();
        keys.map(|(slot, id)| (slot, id, state.adj.get(slot, id)))
            .filter(|(_, _, cell)| member && cell.written_from != PeerId::NONE && cell.written_from != peer)
            .map(|(slot, id, cell)| (slot, id, cell.wanted))
            .collect()
    }
}
