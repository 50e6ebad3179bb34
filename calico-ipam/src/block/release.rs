//! Letting addresses go: release, cooldown, and the attributes that nobody points at any more.

use std::sync::Arc;

use super::{Block, BlockRelease, FREE, ReleaseOptions, SECOND, clean};
use crate::attribute::Attribute;
use crate::bitmap::Bitmap;
use crate::error::BlockError;

impl Block {
    /// Releases addresses. Either every condition holds and all of them go, or nothing changes.
    /// With no cooldown the addresses are free at once.
    ///
    /// # Errors
    /// If an address is outside the block, or its handle or sequence number is another.
    pub fn release(
        &mut self,
        wanted: &[ReleaseOptions],
        now: u64,
        cooldown: i64,
    ) -> Result<BlockRelease, BlockError> {
        let mut result = BlockRelease::default();
        let mut chosen = Bitmap::empty(self.slots.len());
        for options in wanted {
            let ip = options.address;
            let ordinal =
                self.ordinal(ip).ok_or(BlockError::OutsideBlock { address: ip, block: self.cidr })?;
            if let Some(expected) = options.sequence {
                let found = self.sequence_of(ordinal);
                if found != expected {
                    return Err(BlockError::SequenceMismatch { address: ip, expected, found });
                }
            }
            match self.attribute(ordinal) {
                Some(attribute) if !attribute.is_cooling() => {
                    if let Some(expected) = &options.handle
                        && attribute.handle.as_deref() != Some(clean(expected))
                    {
                        let found = attribute.handle.clone();
                        return Err(BlockError::HandleMismatch {
                            address: ip,
                            expected: expected.clone(),
                            found,
                        });
                    }
                    chosen.insert(usize::from(ordinal));
                }
                _ => {
                    if !result.unallocated.contains(&ip) {
                        result.unallocated.push(ip);
                    }
                }
            }
        }
        self.let_go(&chosen, &mut result, now, cooldown, true);
        Ok(result)
    }

    /// Releases every address of a handle. Sequence entries stay as they are.
    pub fn release_by_handle(&mut self, handle: &str, now: u64, cooldown: i64) -> BlockRelease {
        let mut result = BlockRelease::default();
        let mut chosen = Bitmap::empty(self.slots.len());
        for ordinal in self.ordinals_of(clean(handle)) {
            chosen.insert(usize::from(ordinal));
        }
        self.let_go(&chosen, &mut result, now, cooldown, false);
        result
    }

    /// Frees cooling addresses whose time has come and returns how many. `cooldown` is in
    /// seconds; zero or less frees all of them. A release time in the future, left by a clock
    /// that ran ahead, is pulled back to now.
    pub fn collect(&mut self, now: u64, cooldown: i64) -> usize {
        if !self.attributes.iter().any(|attribute| attribute.is_cooling()) {
            return 0;
        }
        let now_seconds = now / SECOND;
        for attribute in &mut self.attributes {
            if attribute.released_at.is_some_and(|at| at > now_seconds) {
                Arc::make_mut(attribute).released_at = Some(now_seconds);
            }
        }
        let due = |attribute: &Attribute| match (attribute.released_at, u64::try_from(cooldown)) {
            (None, _) => false,
            (Some(_), Err(_) | Ok(0)) => true,
            (Some(at), Ok(wait)) => {
                at.saturating_mul(SECOND).saturating_add(wait.saturating_mul(SECOND)) < now
            }
        };
        let mut freed = 0;
        for ordinal in 0..self.slots.len() as u16 {
            if self.attribute(ordinal).is_some_and(|attribute| due(attribute)) {
                self.vacate(ordinal);
                freed += 1;
            }
        }
        if freed > 0 {
            self.compact();
        }
        freed
    }

    /// Puts another attribute in place of the one that an allocated ordinal has. False when the ordinal is free.
    pub(crate) fn replace_attribute(&mut self, ordinal: u16, attribute: &Arc<Attribute>) -> bool {
        if self.attribute(ordinal).is_none() {
            return false;
        }
        // The old entry goes first where nobody else points at it: the table may be full.
        let old = self.slots.get(usize::from(ordinal)).copied().unwrap_or(FREE);
        let shared = self.slots.iter().filter(|slot| **slot == old).count() > 1;
        match self.attributes.get_mut(usize::from(old)) {
            Some(entry) if !shared => *entry = Arc::clone(attribute),
            _ => {
                let index = self.intern(attribute);
                if let Some(slot) = self.slots.get_mut(usize::from(ordinal)) {
                    *slot = index;
                }
            }
        }
        true
    }

    /// When the earliest cooling address may be collected, in Unix nanoseconds.
    #[must_use]
    pub fn next_collection(&self, cooldown: i64) -> Option<u64> {
        let earliest = self.attributes.iter().filter_map(|attribute| attribute.released_at).min()?;
        let wait = u64::try_from(cooldown).unwrap_or_default();
        Some(earliest.saturating_add(wait).saturating_mul(SECOND))
    }

    fn let_go(
        &mut self,
        chosen: &Bitmap,
        result: &mut BlockRelease,
        now: u64,
        cooldown: i64,
        renumber: bool,
    ) {
        if chosen.is_empty() {
            return;
        }
        for at in chosen.iter() {
            let ordinal = at as u16;
            if let Some(handle) = self.attribute(ordinal).and_then(|attribute| attribute.handle.clone()) {
                *result.handles.entry(handle).or_default() += 1;
            }
            result.released.push(ordinal);
        }
        if cooldown <= 0 {
            for &ordinal in &result.released {
                self.vacate(ordinal);
            }
        } else {
            let cooling = Arc::new(Attribute { released_at: Some(now / SECOND), ..Attribute::default() });
            self.compact_after(chosen);
            let index = self.intern(&cooling);
            for &ordinal in &result.released {
                if let Some(slot) = self.slots.get_mut(usize::from(ordinal)) {
                    *slot = index;
                }
                if renumber && let Some(entry) = self.sequences.get_mut(usize::from(ordinal)) {
                    *entry = self.sequence;
                }
            }
        }
        self.compact();
    }

    /// Makes room in the attribute table before a cooling entry is added to a full one.
    fn compact_after(&mut self, chosen: &Bitmap) {
        for at in chosen.iter() {
            if let Some(slot) = self.slots.get_mut(at) {
                *slot = FREE;
            }
        }
        self.compact();
    }

    /// Drops attributes nothing points at and rewrites the indexes.
    fn compact(&mut self) {
        let mut used = Bitmap::empty(self.attributes.len());
        for slot in &self.slots {
            used.insert(usize::from(*slot));
        }
        if used.count() == self.attributes.len() {
            return;
        }
        let mut moved = vec![FREE; self.attributes.len()];
        let mut next = 0;
        for index in used.iter() {
            if let Some(entry) = moved.get_mut(index) {
                *entry = next;
                next += 1;
            }
        }
        let mut index = 0;
        self.attributes.retain(|_| {
            index += 1;
            used.contains(index - 1)
        });
        for slot in &mut self.slots {
            *slot = moved.get(usize::from(*slot)).copied().unwrap_or(FREE);
        }
    }
}
