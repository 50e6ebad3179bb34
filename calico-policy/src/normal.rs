//! Normal form of rules: what can be merged is merged, what can never match is gone, what always matches is
//! not said. Two rules that say the same in different words get equal bytes, so their policies share chains.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rustc_hash::FxHashSet;

use crate::ir::{Family, Match, PortRanges, Rule, RuleAction, SetId, Side};
use crate::packet::{ICMP, ICMPV6, has_ports};

/// Which families a rule can match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Families {
    /// IPv4 packets.
    pub v4: bool,
    /// IPv6 packets.
    pub v6: bool,
}

impl Families {
    /// Both families.
    pub const BOTH: Self = Self { v4: true, v6: true };

    /// One family.
    pub fn only(family: Family) -> Self {
        Self { v4: family == Family::V4, v6: family == Family::V6 }
    }

    fn of(nets: &[IpNet]) -> Self {
        Self { v4: nets.iter().any(is_v4), v6: nets.iter().any(|net| !is_v4(net)) }
    }

    fn and(self, other: Self) -> Self {
        Self { v4: self.v4 && other.v4, v6: self.v6 && other.v6 }
    }

    fn contains(self, net: &IpNet) -> bool {
        if is_v4(net) { self.v4 } else { self.v6 }
    }
}

fn is_v4(net: &IpNet) -> bool {
    matches!(net, IpNet::V4(_))
}

/// One port criterion: the alternatives of one list, OR-ed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortCriterion {
    /// Which end.
    pub side: Side,
    /// True for `notPorts`.
    pub negated: bool,
    /// Inclusive ranges in any order.
    pub ranges: Vec<(u16, u16)>,
    /// Sets of address, protocol and port.
    pub named: Vec<SetId>,
}

/// The criteria of one rule before normalisation; all of them must hold.
///
/// ```
/// use calico_policy::ir::{Match, PortRanges, Side};
/// use calico_policy::normal::{Criteria, PortCriterion};
/// let mut rule = Criteria::default();
/// rule.protocols = Some(vec![6]);
/// rule.ports.push(PortCriterion { side: Side::Destination, negated: false, ranges: vec![(81, 90), (80, 80)], named: vec![] });
/// let matches = rule.normalise().unwrap();
/// assert_eq!(matches[1], Match::Ports {
///     side: Side::Destination, negated: false, ranges: PortRanges(vec![(80, 90)]), named: vec![],
/// });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Criteria {
    /// Families the rule is limited to by `ipVersion` or by the name of its protocol.
    pub families: Families,
    /// Protocols, any of which matches; `None` for any.
    pub protocols: Option<Vec<u8>>,
    /// Protocols that must not be.
    pub not_protocols: Vec<u8>,
    /// `nets`: per entry one list, any CIDR of which must contain the address.
    pub nets: Vec<(Side, Vec<IpNet>)>,
    /// `notNets`: none of the CIDRs may contain the address.
    pub not_nets: Vec<(Side, Vec<IpNet>)>,
    /// Address sets: side, negated, set.
    pub sets: Vec<(Side, bool, SetId)>,
    /// Ports.
    pub ports: Vec<PortCriterion>,
    /// ICMP: negated, type, code.
    pub icmp: Vec<(bool, u8, Option<u8>)>,
    /// Reference behaviour: a `notNets` list that names one family limits the rule to that family. When
    /// false such a list is vacuously true for the other family.
    pub not_nets_bind_family: bool,
}

impl Default for Criteria {
    fn default() -> Self {
        Self {
            families: Families::BOTH,
            protocols: None,
            not_protocols: Vec::new(),
            nets: Vec::new(),
            not_nets: Vec::new(),
            sets: Vec::new(),
            ports: Vec::new(),
            icmp: Vec::new(),
            not_nets_bind_family: true,
        }
    }
}

impl Criteria {
    /// The sorted normal form, or `None` when no packet can match.
    pub fn normalise(mut self) -> Option<Vec<Match>> {
        for (_, list) in self.nets.iter_mut().chain(self.not_nets.iter_mut()) {
            *list = aggregate(list);
        }
        let mut families = self.families;
        let mut protocols = self.protocols;
        if !self.icmp.is_empty() {
            // ICMP types are only ever looked at in ICMP packets of the packet's own family.
            let icmp = [ICMP, ICMPV6];
            let kept: Vec<u8> = match protocols {
                None => icmp.to_vec(),
                Some(list) => list.into_iter().filter(|p| icmp.contains(p)).collect(),
            };
            families = families.and(Families { v4: kept.contains(&ICMP), v6: kept.contains(&ICMPV6) });
            protocols = Some(kept);
        }
        for (_, nets) in &self.nets {
            families = families.and(Families::of(nets));
        }
        if self.not_nets_bind_family {
            for (_, nets) in self.not_nets.iter().filter(|(_, nets)| !nets.is_empty()) {
                families = families.and(Families::of(nets));
            }
        }
        for (_, nets) in &self.not_nets {
            let whole = whole_families(nets);
            families = families.and(Families { v4: !whole.v4, v6: !whole.v6 });
        }
        if !self.icmp.is_empty() {
            protocols = protocols.map(|list| {
                let own = |p: &u8| if *p == ICMP { families.v4 } else { families.v6 };
                list.into_iter().filter(own).collect()
            });
        }
        let mut matches = Vec::new();
        match families {
            Families { v4: false, v6: false } => return None,
            Families { v4: true, v6: false } => matches.push(Match::Family(Family::V4)),
            Families { v4: false, v6: true } => matches.push(Match::Family(Family::V6)),
            Families { v4: true, v6: true } => {}
        }
        let with_ports = normalise_protocols(protocols, self.not_protocols, &mut matches)?;
        normalise_nets(self.nets, self.not_nets, families, &mut matches)?;
        for (side, negated, set) in &self.sets {
            if !negated && self.sets.iter().any(|other| other.1 && other.0 == *side && other.2 == *set) {
                return None;
            }
            matches.push(Match::AddrInSet { side: *side, negated: *negated, set: set.clone() });
        }
        for ports in self.ports {
            normalise_ports(ports, with_ports, &mut matches)?;
        }
        normalise_icmp(self.icmp, &mut matches)?;
        matches.sort();
        matches.dedup();
        Some(matches)
    }
}

/// Pushes the protocol criterion; the answer says whether every matching packet has ports.
fn normalise_protocols(positive: Option<Vec<u8>>, negative: Vec<u8>, out: &mut Vec<Match>) -> Option<bool> {
    match positive {
        Some(mut list) => {
            list.retain(|p| !negative.contains(p));
            list.sort_unstable();
            list.dedup();
            if list.is_empty() {
                return None;
            }
            let with_ports = list.iter().all(|p| has_ports(*p));
            out.push(Match::Protocol { negated: false, protocols: list });
            Some(with_ports)
        }
        None => {
            let mut list = negative;
            list.sort_unstable();
            list.dedup();
            if !list.is_empty() {
                out.push(Match::Protocol { negated: true, protocols: list });
            }
            Some(false)
        }
    }
}

fn normalise_nets(
    positive: Vec<(Side, Vec<IpNet>)>,
    negative: Vec<(Side, Vec<IpNet>)>,
    families: Families,
    out: &mut Vec<Match>,
) -> Option<()> {
    for (side, nets) in positive {
        let kept: Vec<IpNet> = nets.into_iter().filter(|net| families.contains(net)).collect();
        let whole = whole_families(&kept);
        if (whole.v4 || !families.v4) && (whole.v6 || !families.v6) {
            continue;
        }
        out.push(Match::Nets { side, negated: false, nets: kept.into() });
    }
    for (side, nets) in negative {
        let kept: Vec<IpNet> = nets.into_iter().filter(|net| families.contains(net)).collect();
        if !kept.is_empty() {
            out.push(Match::Nets { side, negated: true, nets: kept.into() });
        }
    }
    // A positive list that lies wholly inside a negative one of the same side can never match.
    let excluded = |side: &Side, net: &IpNet| {
        out.iter().any(|m| match m {
            Match::Nets { side: s, negated: true, nets } => s == side && nets.iter().any(|n| n.contains(net)),
            _ => false,
        })
    };
    let contradiction = out.iter().any(|m| match m {
        Match::Nets { side, negated: false, nets } => nets.iter().all(|net| excluded(side, net)),
        _ => false,
    });
    (!contradiction).then_some(())
}

fn normalise_ports(ports: PortCriterion, with_ports: bool, out: &mut Vec<Match>) -> Option<()> {
    let PortCriterion { side, negated, ranges, mut named } = ports;
    let ranges = merge_ranges(ranges);
    named.sort();
    named.dedup();
    let everything = with_ports && ranges.0 == [(0, u16::MAX)];
    let nothing = ranges.0.is_empty() && named.is_empty();
    match (negated, everything, nothing) {
        (false, true, _) | (true, _, true) => Some(()),
        (true, true, _) | (false, _, true) => None,
        _ => {
            out.push(Match::Ports { side, negated, ranges, named });
            Some(())
        }
    }
}

fn normalise_icmp(icmp: Vec<(bool, u8, Option<u8>)>, out: &mut Vec<Match>) -> Option<()> {
    let positive = icmp.iter().find(|(negated, ..)| !negated).copied();
    for (negated, icmp_type, code) in icmp {
        if negated && let Some((_, wanted, wanted_code)) = positive {
            let excludes = icmp_type == wanted && (code.is_none() || code == wanted_code);
            if excludes {
                return None;
            }
            let disjoint = icmp_type != wanted || (wanted_code.is_some() && code != wanted_code);
            if disjoint {
                continue;
            }
        }
        out.push(Match::Icmp { negated, icmp_type, code });
    }
    Some(())
}

/// Which families a list covers completely with a /0.
fn whole_families(nets: &[IpNet]) -> Families {
    Families {
        v4: nets.iter().any(|net| is_v4(net) && net.prefix_len() == 0),
        v6: nets.iter().any(|net| !is_v4(net) && net.prefix_len() == 0),
    }
}

/// Sorts and merges overlapping and adjacent ranges; a range written backwards is empty.
///
/// ```
/// use calico_policy::normal::merge_ranges;
/// assert_eq!(merge_ranges(vec![(443, 443), (80, 81), (82, 90), (5, 1)]).0, vec![(80, 90), (443, 443)]);
/// ```
pub fn merge_ranges(mut ranges: Vec<(u16, u16)>) -> PortRanges {
    ranges.retain(|(first, last)| first <= last);
    ranges.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(previous) if u32::from(first) <= u32::from(previous.1) + 1 => {
                previous.1 = previous.1.max(last);
            }
            _ => merged.push((first, last)),
        }
    }
    PortRanges(merged)
}

/// The fewest masked CIDRs that cover exactly the same addresses, IPv4 first, sorted.
///
/// ```
/// use calico_policy::normal::aggregate;
/// let nets = aggregate(&["10.0.1.0/24".parse().unwrap(), "10.0.0.7/24".parse().unwrap()]);
/// assert_eq!(nets, ["10.0.0.0/23".parse().unwrap()]);
/// ```
pub fn aggregate(nets: &[IpNet]) -> Vec<IpNet> {
    let mut v4: Vec<Ipv4Net> = Vec::new();
    let mut v6: Vec<Ipv6Net> = Vec::new();
    for net in nets {
        match net {
            IpNet::V4(net) => v4.push(net.trunc()),
            IpNet::V6(net) => v6.push(net.trunc()),
        }
    }
    let mut out: Vec<IpNet> = Ipv4Net::aggregate(&v4).into_iter().map(IpNet::V4).collect();
    out.extend(Ipv6Net::aggregate(&v6).into_iter().map(IpNet::V6));
    out.sort();
    out
}

/// Drops the rules of a list that no packet can reach: those behind a final rule that matches everything
/// and those whose criteria an earlier final rule already has. Log rules before them stay.
pub fn reachable(rules: Vec<Rule>) -> Vec<Rule> {
    let mut seen: FxHashSet<Vec<Match>> = FxHashSet::default();
    let mut out = Vec::with_capacity(rules.len());
    for rule in rules {
        if rule.action == RuleAction::Log {
            if !seen.contains(&rule.matches) {
                out.push(rule);
            }
            continue;
        }
        if !seen.insert(rule.matches.clone()) {
            continue;
        }
        let last = rule.matches.is_empty();
        out.push(rule);
        if last {
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|n| net(n)).collect()
    }

    #[test]
    fn positive_nets_limit_the_family() {
        // policy.md §4: src of both families, dst of one: the rule is IPv4 only.
        let rule = Criteria {
            nets: vec![
                (Side::Source, nets(&["10.0.0.1/32", "fd00::1/128"])),
                (Side::Destination, nets(&["10.0.0.2/32"])),
            ],
            ..Criteria::default()
        };
        let matches = rule.normalise().unwrap();
        assert_eq!(matches[0], Match::Family(Family::V4));
        assert!(matches.contains(&Match::Nets {
            side: Side::Source,
            negated: false,
            nets: nets(&["10.0.0.1/32"]).into()
        }));
    }

    #[test]
    fn not_nets_bind_the_family_only_when_asked() {
        let rule = |bind| Criteria {
            not_nets: vec![(Side::Source, nets(&["10.0.0.0/8"]))],
            not_nets_bind_family: bind,
            ..Criteria::default()
        };
        assert_eq!(rule(true).normalise().unwrap()[0], Match::Family(Family::V4));
        assert_eq!(rule(false).normalise().unwrap().len(), 1);
    }

    #[test]
    fn a_negated_catch_all_removes_its_family() {
        let rule = |list: &[&str]| Criteria {
            not_nets: vec![(Side::Source, nets(list))],
            not_nets_bind_family: false,
            ..Criteria::default()
        };
        assert_eq!(rule(&["0.0.0.0/0"]).normalise(), Some(vec![Match::Family(Family::V6)]));
        assert_eq!(rule(&["0.0.0.0/0", "::/0"]).normalise(), None);
    }

    #[test]
    fn contradictions_vanish() {
        let protocols = Criteria { protocols: Some(vec![6]), not_protocols: vec![6], ..Criteria::default() };
        assert_eq!(protocols.normalise(), None);
        let excluded = Criteria {
            nets: vec![(Side::Source, nets(&["10.1.0.0/16"]))],
            not_nets: vec![(Side::Source, nets(&["10.0.0.0/8"]))],
            ..Criteria::default()
        };
        assert_eq!(excluded.normalise(), None);
        let set = SetId("s:x".into());
        let both = Criteria {
            sets: vec![(Side::Source, false, set.clone()), (Side::Source, true, set)],
            ..Criteria::default()
        };
        assert_eq!(both.normalise(), None);
    }

    #[test]
    fn all_ports_is_no_criterion_and_no_ports_is_a_contradiction() {
        let rule = |negated, ranges| Criteria {
            protocols: Some(vec![6]),
            ports: vec![PortCriterion { side: Side::Source, negated, ranges, named: vec![] }],
            ..Criteria::default()
        };
        assert_eq!(rule(false, vec![(0, 80), (81, 65535)]).normalise().unwrap().len(), 1);
        assert_eq!(rule(true, vec![(0, 65535)]).normalise(), None);
        assert_eq!(rule(false, vec![]).normalise(), None);
        assert_eq!(rule(true, vec![]).normalise().unwrap().len(), 1);
    }

    #[test]
    fn icmp_brings_its_protocol_and_family() {
        let rule = Criteria { icmp: vec![(true, 8, None)], ..Criteria::default() };
        assert_eq!(
            rule.normalise().unwrap()[0],
            Match::Protocol { negated: false, protocols: vec![ICMP, ICMPV6] }
        );
        let v6 = Criteria {
            icmp: vec![(false, 128, None)],
            families: Families::only(Family::V6),
            ..Criteria::default()
        };
        assert_eq!(
            v6.normalise().unwrap()[..2],
            [Match::Family(Family::V6), Match::Protocol { negated: false, protocols: vec![ICMPV6] }]
        );
        let excluded = Criteria { icmp: vec![(false, 8, Some(0)), (true, 8, None)], ..Criteria::default() };
        assert_eq!(excluded.normalise(), None);
    }

    #[test]
    fn unreachable_rules_are_dropped() {
        let rule = |index, action, matches: &[Match]| Rule { index, action, matches: matches.to_vec() };
        let v4 = [Match::Family(Family::V4)];
        let kept = reachable(vec![
            rule(0, RuleAction::Log, &[]),
            rule(1, RuleAction::Allow, &v4),
            rule(2, RuleAction::Deny, &v4),
            rule(3, RuleAction::Deny, &[]),
            rule(4, RuleAction::Allow, &[]),
        ]);
        assert_eq!(kept.iter().map(|r| r.index).collect::<Vec<_>>(), [0, 1, 3]);
    }
}
