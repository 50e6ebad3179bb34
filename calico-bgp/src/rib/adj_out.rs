//! What a group of peers was told, and what it should be told: one cell per prefix, or per path with ADD-PATH.

use std::collections::HashMap;

use super::intern::NONE;
use super::prefixes::PeerId;

/// The state of one announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cell {
    /// What should stand at the peers; [`NONE`] for nothing.
    pub(crate) wanted: u32,
    /// Where that comes from; its owner is not told.
    pub(crate) wanted_from: PeerId,
    /// Where what was last written comes from; [`PeerId::NONE`] when nothing is announced.
    pub(crate) written_from: PeerId,
    /// A message about it is still to be written.
    pub(crate) queued: bool,
}

impl Cell {
    pub(crate) const EMPTY: Cell =
        Cell { wanted: NONE, wanted_from: PeerId::NONE, written_from: PeerId::NONE, queued: false };

    pub(crate) const fn is_empty(&self) -> bool {
        self.wanted == NONE && self.written_from.0 == PeerId::NONE.0 && !self.queued
    }
}

/// Cells by slot and sent path identifier.
#[derive(Debug, Clone)]
pub(crate) enum AdjOut {
    /// One path per prefix: arrays by slot, 8 octets and a bit per prefix.
    Single { wanted: Vec<u32>, from: Vec<(PeerId, PeerId)>, queued: Vec<u64> },
    /// Several paths per prefix.
    Several(HashMap<u32, Vec<(u16, Cell)>>),
}

impl AdjOut {
    pub(crate) fn new(add_path: bool) -> Self {
        if add_path {
            AdjOut::Several(HashMap::new())
        } else {
            AdjOut::Single { wanted: Vec::new(), from: Vec::new(), queued: Vec::new() }
        }
    }

    pub(crate) fn get(&self, slot: u32, id: u16) -> Cell {
        match self {
            AdjOut::Single { wanted, from, queued } => {
                let at = slot as usize;
                let (Some(wanted), Some((wanted_from, written_from))) = (wanted.get(at), from.get(at)) else {
                    return Cell::EMPTY;
                };
                let queued = queued.get(at >> 6).is_some_and(|word| word & (1 << (at & 63)) != 0);
                Cell { wanted: *wanted, wanted_from: *wanted_from, written_from: *written_from, queued }
            }
            AdjOut::Several(map) => map
                .get(&slot)
                .and_then(|cells| cells.iter().find(|(have, _)| *have == id))
                .map_or(Cell::EMPTY, |(_, cell)| *cell),
        }
    }

    pub(crate) fn set(&mut self, slot: u32, id: u16, cell: Cell) {
        match self {
            AdjOut::Single { wanted, from, queued } => {
                let at = slot as usize;
                if at >= wanted.len() {
                    if cell.is_empty() {
                        return;
                    }
                    wanted.resize(at + 1, NONE);
                    from.resize(at + 1, (PeerId::NONE, PeerId::NONE));
                    queued.resize((at >> 6) + 1, 0);
                }
                if let (Some(w), Some(f), Some(q)) =
                    (wanted.get_mut(at), from.get_mut(at), queued.get_mut(at >> 6))
                {
                    *w = cell.wanted;
                    *f = (cell.wanted_from, cell.written_from);
                    let bit = 1 << (at & 63);
                    *q = if cell.queued { *q | bit } else { *q & !bit };
                }
            }
            AdjOut::Several(map) => {
                if cell.is_empty() {
                    if let Some(cells) = map.get_mut(&slot) {
                        cells.retain(|(have, _)| *have != id);
                        if cells.is_empty() {
                            map.remove(&slot);
                        }
                    }
                    return;
                }
                let cells = map.entry(slot).or_default();
                match cells.iter_mut().find(|(have, _)| *have == id) {
                    Some((_, place)) => *place = cell,
                    None => cells.push((id, cell)),
                }
            }
        }
    }

    /// Identifiers of the cells of a slot that are not empty.
    pub(crate) fn ids(&self, slot: u32) -> smallvec::SmallVec<[u16; 4]> {
        match self {
            AdjOut::Single { .. } if self.get(slot, 0).is_empty() => smallvec::SmallVec::new(),
            AdjOut::Single { .. } => smallvec::smallvec![0],
            AdjOut::Several(map) => map.get(&slot).into_iter().flatten().map(|(id, _)| *id).collect(),
        }
    }

    /// Every slot and identifier with a cell that is not empty, in ascending order.
    pub(crate) fn keys(&self) -> Vec<(u32, u16)> {
        match self {
            AdjOut::Single { wanted, .. } => (0..u32::try_from(wanted.len()).unwrap_or(NONE))
                .filter(|slot| !self.get(*slot, 0).is_empty())
                .map(|slot| (slot, 0))
                .collect(),
            AdjOut::Several(map) => {
                let mut keys: Vec<_> =
                    map.iter().flat_map(|(slot, cells)| cells.iter().map(|(id, _)| (*slot, *id))).collect();
                keys.sort_unstable();
                keys
            }
        }
    }

    pub(crate) fn is_slot_empty(&self, slot: u32) -> bool {
        match self {
            AdjOut::Single { .. } => self.get(slot, 0).is_empty(),
            AdjOut::Several(map) => !map.contains_key(&slot),
        }
    }
}
