//! Values by key and by a dense slot number that is reused after removal.

use std::collections::HashMap;
use std::hash::Hash;

#[derive(Debug)]
pub(super) struct Slab<K, V> {
    slots: HashMap<K, u32>,
    entries: Vec<Option<(K, V)>>,
    free: Vec<u32>,
}

impl<K, V> Default for Slab<K, V> {
    fn default() -> Self {
        Self { slots: HashMap::new(), entries: Vec::new(), free: Vec::new() }
    }
}

impl<K: Clone + Eq + Hash, V> Slab<K, V> {
    pub(super) fn slot(&self, key: &K) -> Option<u32> {
        self.slots.get(key).copied()
    }

    /// The slot of a key, made with `make` when there is none.
    pub(super) fn slot_or_insert_with(&mut self, key: &K, make: impl FnOnce() -> V) -> u32 {
        if let Some(slot) = self.slot(key) {
            return slot;
        }
        let entry = Some((key.clone(), make()));
        let slot = match self.free.pop() {
            Some(slot) => {
                if let Some(place) = self.entries.get_mut(slot as usize) {
                    *place = entry;
                }
                slot
            }
            None => {
                self.entries.push(entry);
                u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.slots.insert(key.clone(), slot);
        slot
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<(K, V)> {
        let entry = self.entries.get_mut(slot as usize)?.take()?;
        self.slots.remove(&entry.0);
        self.free.push(slot);
        Some(entry)
    }

    pub(super) fn get(&self, slot: u32) -> Option<&V> {
        self.entries.get(slot as usize)?.as_ref().map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut V> {
        self.entries.get_mut(slot as usize)?.as_mut().map(|(_, value)| value)
    }

    pub(super) fn key(&self, slot: u32) -> Option<&K> {
        self.entries.get(slot as usize)?.as_ref().map(|(key, _)| key)
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// All slots in use, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &K, &V)> {
        (0_u32..).zip(&self.entries).filter_map(|(slot, entry)| entry.as_ref().map(|(k, v)| (slot, k, v)))
    }
}
