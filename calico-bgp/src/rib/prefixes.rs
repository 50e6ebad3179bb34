//! The prefix table: every prefix once, its paths beside it, named by a slot number that groups use as an index.
//!
//! Memory per IPv4 prefix with one path: 40 octets of entry and 5 to 11 of index. A second path moves all paths of the
//! prefix to a vector of 20 octets each.

use super::hash::FoldState;
use super::intern::NONE;
use crate::wire::Prefix;

/// A peer inside the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u16);

impl PeerId {
    /// The owner of routes that begin here.
    pub const LOCAL: PeerId = PeerId(0);
    /// Nobody.
    pub(crate) const NONE: PeerId = PeerId(u16::MAX);
}

/// One way to a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Path {
    /// As received.
    pub(crate) received: u32,
    /// After import; [`NONE`] when the import policy refused it.
    pub(crate) attributes: u32,
    /// The identifier that the peer gave.
    pub(crate) path_id: u32,
    pub(crate) peer: PeerId,
    /// The identifier that we give, unique among the paths of the prefix.
    pub(crate) sent_id: u16,
    pub(crate) flags: u16,
}

impl Path {
    /// The peer is restarting and has not confirmed the route yet.
    pub(crate) const STALE: u16 = 1;
    /// The restart takes long; least preferred.
    pub(crate) const LONG_LIVED: u16 = 2;

    pub(crate) const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

const EMPTY: Path =
    Path { received: NONE, attributes: NONE, path_id: 0, peer: PeerId::NONE, sent_id: 0, flags: 0 };

/// A prefix and its paths. The best path, if there is one, comes first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<P> {
    pub(crate) prefix: P,
    first: Path,
    overflow: u32,
    /// What the kernel was told.
    pub(crate) fib: u32,
    pub(crate) dirty: bool,
    used: bool,
    /// The first path was selected by the last decision.
    pub(crate) selected: bool,
}

const CHUNK_BITS: usize = 12;

/// See the module.
#[derive(Debug)]
pub(crate) struct Table<P> {
    chunks: Vec<Vec<Entry<P>>>,
    /// Slot numbers plus one; zero is empty. Linear probing, at most three quarters full. The bits that slot numbers do
    /// not need hold a part of the hash, so that a strange entry is hardly ever fetched from memory.
    index: Vec<u32>,
    count: usize,
    free: Vec<u32>,
    overflow: Vec<Vec<Path>>,
    free_overflow: Vec<u32>,
    hash: FoldState,
}

impl<P: Prefix> Table<P> {
    pub(crate) fn new(seed: u64) -> Self {
        Table {
            chunks: Vec::new(),
            index: Vec::new(),
            count: 0,
            free: Vec::new(),
            overflow: Vec::new(),
            free_overflow: Vec::new(),
            hash: FoldState::new(seed),
        }
    }

    /// Prefixes in the table.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// One more than the highest slot ever used.
    pub(crate) fn slots(&self) -> u32 {
        let full = self.chunks.len().saturating_sub(1) << CHUNK_BITS;
        u32::try_from(full + self.chunks.last().map_or(0, Vec::len)).unwrap_or(NONE)
    }

    pub(crate) fn entry(&self, slot: u32) -> Option<&Entry<P>> {
        let at = slot as usize;
        self.chunks.get(at >> CHUNK_BITS)?.get(at & ((1 << CHUNK_BITS) - 1)).filter(|entry| entry.used)
    }

    pub(crate) fn entry_mut(&mut self, slot: u32) -> Option<&mut Entry<P>> {
        let at = slot as usize;
        self.chunks
            .get_mut(at >> CHUNK_BITS)?
            .get_mut(at & ((1 << CHUNK_BITS) - 1))
            .filter(|entry| entry.used)
    }

    /// Bits of a slot number in the index, which has a power of two of places.
    fn slot_bits(&self) -> u32 {
        self.index.len().trailing_zeros()
    }

    fn slot_mask(&self) -> u32 {
        1u32.checked_shl(self.slot_bits()).map_or(u32::MAX, |size| size - 1)
    }

    /// The first place to look at, and the bits of the hash that stand beside the slot number there.
    fn bucket(&self, prefix: &P) -> (usize, u32) {
        let hash = self.hash.hash_pair(prefix.mix());
        // The place is made of the highest bits, the mark of the lowest.
        let place = usize::try_from(hash >> (64 - self.slot_bits().clamp(1, 63))).unwrap_or(0);
        (place, (hash as u32).checked_shl(self.slot_bits()).unwrap_or(0))
    }

    /// The place of a prefix in the index, or the empty place where it would go, with its mark.
    fn probe(&self, prefix: &P) -> (usize, u32, Option<u32>) {
        let mask = self.index.len().wrapping_sub(1);
        let slot_mask = self.slot_mask();
        let (mut at, mark) = self.bucket(prefix);
        loop {
            match self.index.get(at) {
                None | Some(0) => return (at, mark, None),
                Some(number) if number & !slot_mask == mark => {
                    let slot = (number & slot_mask) - 1;
                    if self.entry(slot).is_some_and(|entry| entry.prefix == *prefix) {
                        return (at, mark, Some(slot));
                    }
                }
                Some(_) => {}
            }
            at = (at + 1) & mask;
        }
    }

    pub(crate) fn find(&self, prefix: &P) -> Option<u32> {
        if self.index.is_empty() { None } else { self.probe(prefix).2 }
    }

    /// The slot of a prefix, made when it is missing.
    pub(crate) fn insert(&mut self, prefix: P) -> u32 {
        if (self.count + 1) * 4 > self.index.len() * 3 {
            self.grow();
        }
        let (at, mark, found) = self.probe(&prefix);
        if let Some(slot) = found {
            return slot;
        }
        let entry = Entry {
            prefix,
            first: EMPTY,
            overflow: NONE,
            fib: NONE,
            dirty: false,
            used: true,
            selected: false,
        };
        let slot = self.place(entry);
        if let Some(place) = self.index.get_mut(at) {
            *place = mark | (slot + 1);
        }
        self.count += 1;
        slot
    }

    fn place(&mut self, entry: Entry<P>) -> u32 {
        if let Some(slot) = self.free.pop() {
            let at = slot as usize;
            let place =
                self.chunks.get_mut(at >> CHUNK_BITS).and_then(|c| c.get_mut(at & ((1 << CHUNK_BITS) - 1)));
            if let Some(place) = place {
                *place = entry;
            }
            return slot;
        }
        let slot = self.slots();
        match self.chunks.last_mut() {
            Some(chunk) if chunk.len() < 1 << CHUNK_BITS => chunk.push(entry),
            _ => {
                // The first chunks grow as they fill, so that a small table stays small.
                let mut chunk =
                    if self.chunks.is_empty() { Vec::new() } else { Vec::with_capacity(1 << CHUNK_BITS) };
                chunk.push(entry);
                self.chunks.push(chunk);
            }
        }
        slot
    }

    fn grow(&mut self) {
        let size = (self.index.len() * 2).max(64);
        self.index = vec![0; size];
        for slot in 0..self.slots() {
            let Some(prefix) = self.entry(slot).map(|entry| entry.prefix) else { continue };
            let (at, mark, _) = self.probe(&prefix);
            if let Some(place) = self.index.get_mut(at) {
                *place = mark | (slot + 1);
            }
        }
    }

    /// Forgets a prefix without paths.
    pub(crate) fn remove(&mut self, slot: u32) {
        let Some(prefix) = self.entry(slot).map(|entry| entry.prefix) else { return };
        let (mut hole, _, found) = self.probe(&prefix);
        if found.is_none() {
            return;
        }
        // Later members of the probe sequence move up, so that no tombstones are needed.
        let mask = self.index.len() - 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let Some(number) = self.index.get(at).copied().filter(|number| *number != 0) else { break };
            let slot = (number & self.slot_mask()) - 1;
            let Some((home, _)) = self.entry(slot).map(|entry| self.bucket(&entry.prefix)) else { break };
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                if let Some(place) = self.index.get_mut(hole) {
                    *place = number;
                }
                hole = at;
            }
        }
        if let Some(place) = self.index.get_mut(hole) {
            *place = 0;
        }
        self.free_paths(slot);
        if let Some(entry) = self.entry_mut(slot) {
            entry.used = false;
        }
        self.free.push(slot);
        self.count -= 1;
    }

    fn free_paths(&mut self, slot: u32) {
        let Some(entry) = self.entry_mut(slot) else { return };
        let overflow = std::mem::replace(&mut entry.overflow, NONE);
        entry.first = EMPTY;
        if let Some(paths) = self.overflow.get_mut(overflow as usize) {
            *paths = Vec::new();
            self.free_overflow.push(overflow);
        }
    }

    pub(crate) fn paths(&self, slot: u32) -> &[Path] {
        let Some(entry) = self.entry(slot) else { return &[] };
        if entry.overflow != NONE {
            return self.overflow.get(entry.overflow as usize).map_or(&[], Vec::as_slice);
        }
        if entry.first.peer == PeerId::NONE { &[] } else { std::slice::from_ref(&entry.first) }
    }

    pub(crate) fn paths_mut(&mut self, slot: u32) -> &mut [Path] {
        let at = slot as usize;
        let entry =
            self.chunks.get_mut(at >> CHUNK_BITS).and_then(|c| c.get_mut(at & ((1 << CHUNK_BITS) - 1)));
        let Some(entry) = entry.filter(|entry| entry.used) else { return &mut [] };
        if entry.overflow != NONE {
            return self.overflow.get_mut(entry.overflow as usize).map_or(&mut [], Vec::as_mut_slice);
        }
        if entry.first.peer == PeerId::NONE { &mut [] } else { std::slice::from_mut(&mut entry.first) }
    }

    /// Adds a path; its `sent_id` is chosen here.
    pub(crate) fn add_path(&mut self, slot: u32, mut path: Path) {
        let used = self.paths(slot);
        path.sent_id = (1..u16::MAX).find(|id| used.iter().all(|p| p.sent_id != *id)).unwrap_or(u16::MAX);
        let have = used.len();
        if have == 0 {
            if let Some(entry) = self.entry_mut(slot) {
                entry.first = path;
            }
            return;
        }
        if have == 1
            && let Some((first, true)) = self.entry(slot).map(|entry| (entry.first, entry.overflow == NONE))
        {
            let number = match self.free_overflow.pop() {
                Some(number) => number,
                None => {
                    self.overflow.push(Vec::new());
                    u32::try_from(self.overflow.len() - 1).unwrap_or(NONE)
                }
            };
            if let Some(paths) = self.overflow.get_mut(number as usize) {
                *paths = vec![first];
            }
            if let Some(entry) = self.entry_mut(slot) {
                entry.overflow = number;
            }
        }
        let number = self.entry(slot).map_or(NONE, |entry| entry.overflow);
        if let Some(paths) = self.overflow.get_mut(number as usize) {
            paths.push(path);
        }
    }

    /// Takes a path away.
    pub(crate) fn remove_path(&mut self, slot: u32, at: usize) -> Option<Path> {
        let overflow = self.entry(slot)?.overflow;
        if overflow == NONE {
            let entry = self.entry_mut(slot)?;
            entry.selected = false;
            let path = std::mem::replace(&mut entry.first, EMPTY);
            return (path.peer != PeerId::NONE).then_some(path);
        }
        let paths = self.overflow.get_mut(overflow as usize)?;
        if at >= paths.len() {
            return None;
        }
        let path = paths.remove(at);
        if let [last] = paths.as_slice() {
            let last = *last;
            self.free_paths(slot);
            if let Some(entry) = self.entry_mut(slot) {
                entry.first = last;
            }
        }
        if at == 0
            && let Some(entry) = self.entry_mut(slot)
        {
            entry.selected = false;
        }
        Some(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Prefix4;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn path(peer: u16) -> Path {
        Path { received: 1, attributes: 1, path_id: 0, peer: PeerId(peer), sent_id: 0, flags: 0 }
    }

    #[test]
    fn an_entry_is_as_small_as_promised() {
        assert_eq!(size_of::<Path>(), 20);
        assert_eq!(size_of::<Entry<Prefix4>>(), 40);
        assert_eq!(size_of::<Entry<crate::wire::Prefix6>>(), 52);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// The table behaves like a map whatever the order of insertions and removals.
        #[test]
        fn like_a_map(seed: u64, operations in proptest::collection::vec((0u32..300, any::<bool>()), 0..1500)) {
            let mut table = Table::<Prefix4>::new(seed);
            let mut model: HashMap<u32, u32> = HashMap::new();
            for (number, insert) in operations {
                let prefix = Prefix4::from_wire(32, &number.to_be_bytes());
                if insert {
                    let slot = table.insert(prefix);
                    prop_assert_eq!(*model.entry(number).or_insert(slot), slot);
                } else if let Some(slot) = model.remove(&number) {
                    prop_assert_eq!(table.find(&prefix), Some(slot));
                    table.remove(slot);
                }
                prop_assert_eq!(table.len(), model.len());
            }
            for number in 0..300u32 {
                let prefix = Prefix4::from_wire(32, &number.to_be_bytes());
                prop_assert_eq!(table.find(&prefix), model.get(&number).copied());
            }
        }
    }

    #[test]
    fn paths_move_out_and_back() {
        let mut table = Table::<Prefix4>::new(1);
        let slot = table.insert(Prefix4::from_wire(8, &[10]));
        assert!(table.paths(slot).is_empty());
        for peer in 1..=3 {
            table.add_path(slot, path(peer));
        }
        let ids: Vec<_> = table.paths(slot).iter().map(|p| (p.peer.0, p.sent_id)).collect();
        assert_eq!(ids, [(1, 1), (2, 2), (3, 3)]);
        assert_eq!(table.remove_path(slot, 0).map(|p| p.peer), Some(PeerId(1)));
        table.add_path(slot, path(4));
        let ids: Vec<_> = table.paths(slot).iter().map(|p| (p.peer.0, p.sent_id)).collect();
        assert_eq!(ids, [(2, 2), (3, 3), (4, 1)]);
        assert!(table.remove_path(slot, 2).is_some() && table.remove_path(slot, 1).is_some());
        assert_eq!(table.paths(slot).len(), 1);
        assert_eq!(table.remove_path(slot, 0).map(|p| p.peer), Some(PeerId(2)));
        assert_eq!(table.remove_path(slot, 0), None);
    }
}
