//! Addresses that automatic assignment must leave alone.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::bitmap::Bitmap;
use crate::range::{Family, Ranges, bounds};

/// The union of all IPReservations, per family.
///
/// Reservations bind automatic assignment only; an address asked for by name is not checked
/// against them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reservations {
    v4: Ranges,
    v6: Ranges,
}

impl Reservations {
    /// Reads the texts of `spec.reservedCIDRs`: prefixes or bare addresses, surrounding blanks
    /// allowed. What cannot be read is skipped, as the API has already refused it.
    ///
    /// ```
    /// use calico_ipam::Reservations;
    /// let reserved = Reservations::parse(["10.0.0.0/30", " 10.0.0.9 ", "", "nonsense"]);
    /// assert!(reserved.contains("10.0.0.3".parse().unwrap()));
    /// assert!(reserved.contains("10.0.0.9".parse().unwrap()));
    /// assert!(!reserved.contains("10.0.0.4".parse().unwrap()));
    /// ```
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new(texts.into_iter().filter_map(|text| {
            let text = text.trim();
            text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
        }))
    }

    /// The union of prefixes.
    pub fn new(nets: impl IntoIterator<Item = IpNet>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for net in nets {
            match Family::of_net(&net) {
                Family::V4 => v4.push(bounds(&net)),
                Family::V6 => v6.push(bounds(&net)),
            }
        }
        Self { v4: Ranges::union(v4), v6: Ranges::union(v6) }
    }

    /// The reserved ranges of one family.
    #[must_use]
    pub fn ranges(&self, family: Family) -> &Ranges {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// Whether an address is reserved.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges(Family::of(address)).find(crate::range::number(address)).is_some()
    }

    /// Whether every address of a block is reserved.
    #[must_use]
    pub fn covers(&self, block: &IpNet) -> bool {
        let (first, last) = bounds(block);
        self.ranges(Family::of_net(block)).covers(first, last)
    }

    /// The reserved ordinals of a block of `size` addresses, or `None` when there is none.
    #[must_use]
    pub fn mask(&self, block: &IpNet, size: usize) -> Option<Bitmap> {
        let ranges = self.ranges(Family::of_net(block));
        if ranges.is_empty() {
            return None;
        }
        let (first, last) = bounds(block);
        let mut mask: Option<Bitmap> = None;
        for (begin, end) in ranges.within(first, last) {
            let from = usize::try_from(begin - first).unwrap_or(usize::MAX);
            let to = usize::try_from(end - first).unwrap_or(usize::MAX).saturating_add(1);
            mask.get_or_insert_with(|| Bitmap::empty(size)).insert_range(from, to);
        }
        mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_covered_by_the_union_of_reservations() {
        let block: IpNet = "10.0.0.0/26".parse().unwrap();
        let halves = Reservations::parse(["10.0.0.0/27", "10.0.0.32/27"]);
        assert!(halves.covers(&block));
        let holes = Reservations::parse(["10.0.0.0/27", "10.0.0.33/32", "10.0.0.34/31"]);
        assert!(!holes.covers(&block));
        let mask = holes.mask(&block, 64).unwrap();
        assert_eq!(mask.count(), 35);
        assert!(!mask.contains(32) && mask.contains(33) && mask.contains(35) && !mask.contains(36));
    }

    #[test]
    fn a_reservation_larger_than_the_block_masks_all_of_it() {
        let block: IpNet = "fd00::c0/122".parse().unwrap();
        let mask = Reservations::parse(["fd00::/16"]).mask(&block, 64).unwrap();
        assert_eq!(mask.count(), 64);
        assert_eq!(Reservations::parse(["10.0.0.0/8"]).mask(&block, 64), None);
    }
}
