//! Where a host starts looking for a free block, and how the free one is found without walking.

use ipnet::IpNet;

use crate::range::{Family, Ranges, bounds, net};

/// FNV-1 (multiply, then xor), 32 bits: the seed of a host's block search.
///
/// ```
/// assert_eq!(calico_ipam::fnv1_32(b"node1"), 3957252814);
/// assert_eq!(calico_ipam::fnv1_32(b"worker-0"), 2999756864);
/// ```
#[must_use]
pub fn fnv1_32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(2_166_136_261u32, |hash, byte| hash.wrapping_mul(16_777_619) ^ u32::from(*byte))
}

/// One step of SplitMix64: spreads a small seed over 64 bits.
pub(crate) fn spread(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The seed of the search of one request.
///
/// All requests of a host share one, so that they meet in the same block; hosts differ. Where
/// a block is a single address there is nothing to meet in, and the clock spreads requests.
#[must_use]
pub fn search_seed(host: &str, block_size: u8, family: Family, now_nanos: u64) -> u64 {
    if block_size >= family.bits() { now_nanos } else { u64::from(fnv1_32(host.as_bytes())) }
}

/// The block positions of one pool and which of them are taken.
///
/// Taken positions are merged ranges, so the first free one after any start is found in
/// `O(log ranges)`, in a /8 as in a /26 and in an IPv6 /48 as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockSpace {
    family: Family,
    base: u128,
    block_size: u8,
    /// Number of the last position.
    last: u128,
    taken: Ranges,
}

impl BlockSpace {
    /// The positions of blocks of length `block_size` in `pool`. `taken` are prefixes of any
    /// length whose positions cannot be used; `reserved` are address ranges: a position is
    /// unusable when they cover all of it. `None` if the pool is smaller than one block.
    #[must_use]
    pub fn new(
        pool: &IpNet,
        block_size: u8,
        taken: impl IntoIterator<Item = IpNet>,
        reserved: &Ranges,
    ) -> Option<Self> {
        let family = Family::of_net(pool);
        if block_size < pool.prefix_len() || block_size > family.bits() {
            return None;
        }
        let shift = u32::from(family.bits() - block_size);
        let (base, end) = bounds(pool);
        let position = |number: u128| (number - base).checked_shr(shift).unwrap_or(0);
        let last = position(end);
        let mut ranges = Vec::new();
        for other in taken {
            if Family::of_net(&other) == family && crate::range::overlap(pool, &other) {
                let (first, stop) = bounds(&other);
                ranges.push((position(first.max(base)), position(stop.min(end))));
            }
        }
        for (first, stop) in reserved.within(base, end) {
            // Only positions that lie wholly in the range: round the start up and the end down.
            let ones = 1u128.checked_shl(shift).map_or(u128::MAX, |size| size - 1);
            let begin = position(first) + u128::from((first - base) & ones != 0);
            let whole_end = (stop - base) & ones == ones;
            let after = position(stop) + u128::from(whole_end);
            if let Some(until) = after.checked_sub(1) {
                ranges.push((begin, until));
            }
        }
        Some(Self { family, base, block_size, last, taken: Ranges::union(ranges) })
    }

    /// The position where a search with this seed starts.
    #[must_use]
    pub fn start(&self, seed: u64) -> u128 {
        let high = u128::from(spread(seed)) << 64;
        let draw = high | u128::from(spread(seed ^ 0xa5a5_a5a5_5a5a_5a5a));
        match self.last.checked_add(1) {
            Some(count) => draw % count,
            None => draw,
        }
    }

    /// The first free block at or after `start`, wrapping once.
    #[must_use]
    pub fn first_free(&self, start: u128) -> Option<IpNet> {
        self.free_in(start.min(self.last), self.last)
            .or_else(|| start.checked_sub(1).and_then(|before| self.free_in(0, before.min(self.last))))
            .map(|position| self.block_at(position))
    }

    /// How far after `start`, wrapping, a block lies in the walk of this pool.
    #[must_use]
    pub fn distance(&self, start: u128, block: &IpNet) -> u128 {
        let shift = u32::from(self.family.bits() - self.block_size);
        let at = bounds(block).0.saturating_sub(self.base).checked_shr(shift).unwrap_or(0);
        if at >= start {
            at - start
        } else {
            (self.last - start.min(self.last)).saturating_add(1).saturating_add(at)
        }
    }

    fn free_in(&self, from: u128, to: u128) -> Option<u128> {
        let at = match self.taken.find(from) {
            None => from,
            Some((_, end)) => end.checked_add(1)?,
        };
        (at <= to).then_some(at)
    }

    fn block_at(&self, position: u128) -> IpNet {
        let shift = u32::from(self.family.bits() - self.block_size);
        net(self.family, self.base + position.checked_shl(shift).unwrap_or(0), self.block_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn finds_the_only_hole_of_a_slash_8() {
        let pool = cidr("10.0.0.0/8");
        let hole = cidr("10.77.3.64/26");
        let taken: Vec<IpNet> = (0..1u32 << 18)
            .map(|at| net(Family::V4, (10u128 << 24) + (u128::from(at) << 6), 26))
            .filter(|block| *block != hole)
            .collect();
        let space = BlockSpace::new(&pool, 26, taken, &Ranges::default()).unwrap();
        for start in [0, 1, 5000, (1 << 18) - 1] {
            assert_eq!(space.first_free(start), Some(hole));
        }
    }

    #[test]
    fn blocks_of_another_size_make_every_position_they_touch_unusable() {
        let space = BlockSpace::new(
            &cidr("10.0.0.0/24"),
            26,
            [cidr("10.0.0.0/25"), cidr("10.0.0.193/32")],
            &Ranges::default(),
        )
        .unwrap();
        assert_eq!(space.first_free(0), Some(cidr("10.0.0.128/26")));
        assert_eq!(space.first_free(3), Some(cidr("10.0.0.128/26")));
    }

    #[test]
    fn a_block_is_skipped_only_when_reservations_cover_all_of_it() {
        let reserved = Ranges::union(vec![bounds(&cidr("10.0.0.0/26")), bounds(&cidr("10.0.0.64/27"))]);
        let space = BlockSpace::new(&cidr("10.0.0.0/24"), 26, [], &reserved).unwrap();
        assert_eq!(space.first_free(0), Some(cidr("10.0.0.64/26")));
        let unaligned =
            Ranges::union(vec![(bounds(&cidr("10.0.0.0/26")).0 + 1, bounds(&cidr("10.0.0.128/26")).1)]);
        let space = BlockSpace::new(&cidr("10.0.0.0/24"), 26, [], &unaligned).unwrap();
        assert_eq!(space.first_free(1), Some(cidr("10.0.0.192/26")));
        assert_eq!(space.first_free(0), Some(cidr("10.0.0.0/26")));
    }

    #[test]
    fn single_address_blocks_and_huge_pools_have_positions_too() {
        let one = BlockSpace::new(&cidr("10.0.0.7/32"), 32, [], &Ranges::default()).unwrap();
        assert_eq!(one.first_free(one.start(9)), Some(cidr("10.0.0.7/32")));
        let huge = BlockSpace::new(&cidr("::/0"), 128, [], &Ranges::default()).unwrap();
        let start = huge.start(7);
        assert_eq!(huge.first_free(start).map(|block| bounds(&block).0), Some(start));
        let full =
            BlockSpace::new(&cidr("fd00::/120"), 122, [cidr("fd00::/120")], &Ranges::default()).unwrap();
        assert_eq!(full.first_free(2), None);
        assert_eq!(BlockSpace::new(&cidr("10.0.0.0/28"), 26, [], &Ranges::default()), None);
    }

    #[test]
    fn hosts_start_apart_and_one_host_starts_always_at_the_same_place() {
        let space = BlockSpace::new(&cidr("10.0.0.0/16"), 26, [], &Ranges::default()).unwrap();
        let start = |host: &str, now| space.start(search_seed(host, 26, Family::V4, now));
        assert_eq!(start("node1", 1), start("node1", 2));
        let starts: std::collections::BTreeSet<u128> =
            (0..50).map(|at| start(&format!("node{at}"), 0)).collect();
        assert!(starts.len() > 40, "50 hosts start at only {} places", starts.len());
    }
}
