//! A set of prefixes with a quick answer to "does one of them contain this?".

use ipnet::IpNet;

/// Prefixes, sorted; those inside others are left out, so that at most one can contain a given prefix.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct NetSet {
    nets: Vec<IpNet>,
}

impl NetSet {
    /// The prefix of the set that contains `prefix` or is equal to it.
    pub fn covering(&self, prefix: IpNet) -> Option<IpNet> {
        // Sorted by network and then by length: what contains `prefix` is the last one that does not come after it.
        let after = self.nets.partition_point(|net| *net <= prefix);
        let candidate = self.nets.get(after.checked_sub(1)?)?;
        candidate.contains(&prefix).then_some(*candidate)
    }

    /// Whether a prefix of the set contains `prefix` or is equal to it.
    pub fn covers(&self, prefix: IpNet) -> bool {
        self.covering(prefix).is_some()
    }

    /// The prefixes in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.nets.iter().copied()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.nets.is_empty()
    }
}

impl FromIterator<IpNet> for NetSet {
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Self {
        let mut all: Vec<IpNet> = nets.into_iter().map(|net| net.trunc()).collect();
        all.sort_unstable();
        let mut nets: Vec<IpNet> = Vec::with_capacity(all.len());
        for net in all {
            if nets.last().is_none_or(|last| !last.contains(&net)) {
                nets.push(net);
            }
        }
        NetSet { nets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipnet::Ipv4Net;
    use proptest::prelude::*;

    fn any_net() -> impl Strategy<Value = IpNet> {
        // Few bits, so that prefixes meet.
        (0u32..64, 0u8..=8)
            .prop_map(|(bits, length)| IpNet::V4(Ipv4Net::new((bits << 24).into(), length).unwrap().trunc()))
    }

    proptest! {
        #[test]
        fn like_a_scan(nets in proptest::collection::vec(any_net(), 0..20), prefix in any_net()) {
            let set: NetSet = nets.iter().copied().collect();
            prop_assert_eq!(set.covers(prefix), nets.iter().any(|net| net.contains(&prefix)));
        }
    }

    #[test]
    fn families_do_not_mix() {
        let set: NetSet = ["0.0.0.0/0".parse().unwrap()].into_iter().collect();
        assert!(set.covers("10.0.0.0/8".parse().unwrap()));
        assert!(!set.covers("::/0".parse().unwrap()));
    }
}
