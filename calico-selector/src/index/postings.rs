//! Sets of slot numbers: most have one or two members, some have all.

use super::numbers::NumberSet;

/// A set that is a sorted list while small and a hash set when large.
#[derive(Debug)]
pub(super) enum Postings {
    Few(Vec<u32>),
    Many(NumberSet),
}

const FEW: usize = 32;

impl Default for Postings {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Postings {
    /// False when it was there already.
    pub(super) fn insert(&mut self, slot: u32) -> bool {
        match self {
            Self::Few(list) => {
                let Err(at) = list.binary_search(&slot) else { return false };
                if list.len() < FEW {
                    list.insert(at, slot);
                } else {
                    let mut set: NumberSet = list.drain(..).collect();
                    set.insert(slot);
                    *self = Self::Many(set);
                }
                true
            }
            Self::Many(set) => set.insert(slot),
        }
    }

    /// False when it was not there.
    pub(super) fn remove(&mut self, slot: u32) -> bool {
        match self {
            Self::Few(list) => {
                let Ok(at) = list.binary_search(&slot) else { return false };
                list.remove(at);
                true
            }
            Self::Many(set) => {
                let removed = set.remove(&slot);
                // Half of the growing threshold, so that a set at the border does not flip at every change.
                if set.len() <= FEW / 2 {
                    *self = Self::Few(sorted(set.iter().copied()));
                }
                removed
            }
        }
    }

    pub(super) fn contains(&self, slot: u32) -> bool {
        match self {
            Self::Few(list) => list.binary_search(&slot).is_ok(),
            Self::Many(set) => set.contains(&slot),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Few(list) => list.len(),
            Self::Many(set) => set.len(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends the members in no particular order.
    pub(super) fn append_to(&self, out: &mut Vec<u32>) {
        match self {
            Self::Few(list) => out.extend_from_slice(list),
            Self::Many(set) => out.extend(set.iter().copied()),
        }
    }

    pub(super) fn sorted(&self) -> Vec<u32> {
        match self {
            Self::Few(list) => list.clone(),
            Self::Many(set) => sorted(set.iter().copied()),
        }
    }
}

fn sorted(slots: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut list: Vec<u32> = slots.collect();
    list.sort_unstable();
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_agree() {
        let mut set = Postings::default();
        for slot in (0..200).rev() {
            assert!(set.insert(slot) && !set.insert(slot));
        }
        assert!(matches!(set, Postings::Many(_)));
        assert_eq!(set.sorted(), (0..200).collect::<Vec<_>>());
        for slot in 0..190 {
            assert!(set.remove(slot) && !set.remove(slot) && !set.contains(slot));
        }
        assert!(matches!(set, Postings::Few(_)));
        assert_eq!(set.sorted(), (190..200).collect::<Vec<_>>());
        assert!(set.contains(195) && set.len() == 10);
    }
}
