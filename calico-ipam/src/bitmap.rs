//! A fixed-length set of ordinals, one bit each, with the word-wide questions a block asks.

use bitvec::prelude::{BitVec, Lsb0};

/// A set of ordinals `0..len`. Every operation on ranges, counts and intersections works on
/// 64 ordinals at a time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bitmap {
    bits: BitVec<u64, Lsb0>,
}

impl Bitmap {
    /// The empty set of ordinals below `len`.
    #[must_use]
    pub fn empty(len: usize) -> Self {
        Self { bits: BitVec::repeat(false, len) }
    }

    /// The set of all ordinals below `len`.
    #[must_use]
    pub fn full(len: usize) -> Self {
        Self { bits: BitVec::repeat(true, len) }
    }

    /// How many ordinals there are, members or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bits.len()
    }

    /// Whether no ordinal is a member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words().all(|word| word == 0)
    }

    /// Whether `ordinal` is a member; ordinals past the end are not.
    #[must_use]
    pub fn contains(&self, ordinal: usize) -> bool {
        self.bits.get(ordinal).is_some_and(|bit| *bit)
    }

    /// Adds `ordinal`; an ordinal past the end is ignored.
    pub fn insert(&mut self, ordinal: usize) {
        if ordinal < self.bits.len() {
            self.bits.set(ordinal, true);
        }
    }

    /// Removes `ordinal`; an ordinal past the end is ignored.
    pub fn remove(&mut self, ordinal: usize) {
        if ordinal < self.bits.len() {
            self.bits.set(ordinal, false);
        }
    }

    /// Adds the ordinals `from..to`, cut to the length of the set.
    pub fn insert_range(&mut self, from: usize, to: usize) {
        let to = to.min(self.bits.len());
        if let Some(range) = self.bits.get_mut(from.min(to)..to) {
            range.fill(true);
        }
    }

    /// The number of members.
    #[must_use]
    pub fn count(&self) -> usize {
        self.words().map(|word| word.count_ones() as usize).sum()
    }

    /// The number of members that are not in `other`.
    #[must_use]
    pub fn count_without(&self, other: &Self) -> usize {
        self.pairs(other).map(|(mine, theirs)| (mine & !theirs).count_ones() as usize).sum()
    }

    /// The number of members that are also in `other`.
    #[must_use]
    pub fn count_with(&self, other: &Self) -> usize {
        self.pairs(other).map(|(mine, theirs)| (mine & theirs).count_ones() as usize).sum()
    }

    /// Whether some member is not in `other`.
    #[must_use]
    pub fn any_without(&self, other: &Self) -> bool {
        self.pairs(other).any(|(mine, theirs)| mine & !theirs != 0)
    }

    /// The smallest member at or after `from`.
    #[must_use]
    pub fn first_from(&self, from: usize) -> Option<usize> {
        self.bits.get(from..).and_then(|rest| rest.first_one()).map(|offset| from + offset)
    }

    /// The members in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.bits.iter_ones()
    }

    /// The storage, word by word. `BitVec` does not promise clear bits past its end, so the last
    /// word is masked.
    fn words(&self) -> impl Iterator<Item = u64> + '_ {
        let raw = self.bits.as_raw_slice();
        let last = raw.len().saturating_sub(1);
        let tail = self.bits.len() % 64;
        let mask = if tail == 0 { u64::MAX } else { (1u64 << tail) - 1 };
        raw.iter().enumerate().map(move |(at, word)| if at == last { word & mask } else { *word })
    }

    fn pairs<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (u64, u64)> + 'a {
        self.words().zip(other.words().chain(std::iter::repeat(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_counts_and_differences_agree_with_single_bits() {
        for len in [1usize, 4, 63, 64, 65, 128, 1000] {
            let mut one_by_one = Bitmap::empty(len);
            let mut ranged = Bitmap::empty(len);
            for ordinal in len / 3..len / 2 + 1 {
                one_by_one.insert(ordinal);
            }
            ranged.insert_range(len / 3, len / 2 + 1);
            assert_eq!(ranged, one_by_one);
            let full = Bitmap::full(len);
            assert_eq!(full.count(), len);
            assert_eq!(full.count_without(&ranged) + full.count_with(&ranged), len);
            assert_eq!(ranged.count(), ranged.iter().count());
            assert!(!ranged.any_without(&full));
            assert_eq!(full.any_without(&ranged), ranged.count() < len);
            assert_eq!(ranged.first_from(0), ranged.iter().next());
        }
    }

    #[test]
    fn ordinals_past_the_end_are_never_members() {
        let mut set = Bitmap::empty(4);
        set.insert(4);
        set.remove(9);
        set.insert_range(2, 100);
        assert_eq!(set.iter().collect::<Vec<_>>(), vec![2, 3]);
        assert!(!set.contains(4));
        assert_eq!(set.first_from(10), None);
    }
}
