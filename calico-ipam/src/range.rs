//! Addresses as numbers: prefixes become half-open ranges, so that blocks, pools and
//! reservations are compared by arithmetic and never by walking addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The family of a prefix.
    #[must_use]
    pub fn of_net(net: &IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    /// The number of bits of an address.
    #[must_use]
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// `4` or `6`.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }
}

/// The address as a number within its family.
#[must_use]
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// The address of a number; bits beyond the family are cut.
#[must_use]
pub(crate) fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from((number & u128::from(u32::MAX)) as u32)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

/// The first and the last address of a prefix, as numbers, both included.
#[must_use]
pub(crate) fn bounds(net: &IpNet) -> (u128, u128) {
    (number(net.network()), number(net.broadcast()))
}

/// The prefix of the given length that starts at `number`; lengths beyond the family are cut.
#[must_use]
pub(crate) fn net(family: Family, start: u128, prefix: u8) -> IpNet {
    let prefix = prefix.min(family.bits());
    match address(family, start) {
        IpAddr::V4(v4) => IpNet::V4(Ipv4Net::new_assert(v4, prefix).trunc()),
        IpAddr::V6(v6) => IpNet::V6(Ipv6Net::new_assert(v6, prefix).trunc()),
    }
}

/// Whether two prefixes share an address.
#[must_use]
pub(crate) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// A sorted list of disjoint, inclusive ranges.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ranges {
    ranges: Vec<(u128, u128)>,
}

impl Ranges {
    /// The union of the given inclusive ranges; inverted ones are dropped.
    #[must_use]
    pub fn union(mut ranges: Vec<(u128, u128)>) -> Self {
        ranges.retain(|(first, last)| first <= last);
        ranges.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(previous) if first <= previous.1.saturating_add(1) => previous.1 = previous.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self { ranges: merged }
    }

    /// Whether there is no range.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The ranges, ascending and disjoint.
    #[must_use]
    pub fn as_slice(&self) -> &[(u128, u128)] {
        &self.ranges
    }

    /// The range that holds `at`, if one does.
    #[must_use]
    pub fn find(&self, at: u128) -> Option<(u128, u128)> {
        let after = self.ranges.partition_point(|(first, _)| *first <= at);
        let range = self.ranges.get(after.checked_sub(1)?)?;
        (range.1 >= at).then_some(*range)
    }

    /// Whether every number of `first..=last` is covered.
    #[must_use]
    pub fn covers(&self, first: u128, last: u128) -> bool {
        self.find(first).is_some_and(|(_, end)| end >= last)
    }

    /// The parts of the ranges that lie within `first..=last`.
    pub fn within(&self, first: u128, last: u128) -> impl Iterator<Item = (u128, u128)> + '_ {
        let start = self.ranges.partition_point(|(_, end)| *end < first);
        self.ranges
            .get(start..)
            .unwrap_or_default()
            .iter()
            .take_while(move |(begin, _)| *begin <= last)
            .map(move |(begin, end)| ((*begin).max(first), (*end).min(last)))
    }

    /// How many numbers of `first..=last` are covered, saturating.
    #[must_use]
    pub fn count_within(&self, first: u128, last: u128) -> u128 {
        self.within(first, last)
            .fold(0u128, |sum, (begin, end)| sum.saturating_add((end - begin).saturating_add(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn union_merges_touching_ranges_and_finds_by_binary_search() {
        let ranges = Ranges::union(vec![(10, 19), (30, 40), (20, 25), (50, 45), (35, 60)]);
        assert_eq!(ranges.as_slice(), &[(10, 25), (30, 60)]);
        assert_eq!(ranges.find(26), None);
        assert_eq!(ranges.find(60), Some((30, 60)));
        assert!(ranges.covers(12, 25));
        assert!(!ranges.covers(12, 26));
        assert_eq!(ranges.count_within(0, 31), 18);
        assert_eq!(ranges.within(24, 31).collect::<Vec<_>>(), vec![(24, 25), (30, 31)]);
    }

    #[test]
    fn the_whole_of_ipv6_neither_overflows_nor_panics() {
        let all: IpNet = "::/0".parse().unwrap();
        let (first, last) = bounds(&all);
        let ranges = Ranges::union(vec![(first, last)]);
        assert!(ranges.covers(0, u128::MAX));
        assert_eq!(ranges.count_within(first, last), u128::MAX);
    }
}
