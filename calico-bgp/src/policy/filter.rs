//! BGPFilter rules, compiled.

use std::sync::Arc;

use ipnet::IpNet;
use smallvec::SmallVec;

use super::{Edits, METRIC_CEILING, RouteView, Verdict};

/// A community of either size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CommunityValue {
    /// Two halves of 16 bits.
    Standard(u32),
    /// Three parts of 32 bits.
    Large([u32; 3]),
}

impl std::str::FromStr for CommunityValue {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || CommunityError { text: text.into() };
        let parts: SmallVec<[&str; 4]> = text.split(':').collect();
        match parts.as_slice() {
            [high, low] => {
                let high: u16 = high.parse().map_err(|_| error())?;
                let low: u16 = low.parse().map_err(|_| error())?;
                Ok(CommunityValue::Standard(u32::from(high) << 16 | u32::from(low)))
            }
            [a, b, c] => {
                let part = |text: &str| text.parse::<u32>().map_err(|_| error());
                Ok(CommunityValue::Large([part(a)?, part(b)?, part(c)?]))
            }
            _ => Err(error()),
        }
    }
}

/// A text that is no community.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no community: write high:low with 16-bit numbers or a:b:c with 32-bit numbers")]
pub struct CommunityError {
    /// The text.
    pub text: String,
}

/// How a prefix is compared with the CIDR of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CidrMatch {
    /// The same prefix.
    Equal(IpNet),
    /// Another prefix.
    NotEqual(IpNet),
    /// The CIDR or something inside it, with a length in the range.
    In(IpNet, u8, u8),
    /// None of those.
    NotIn(IpNet, u8, u8),
}

impl CidrMatch {
    fn matches(&self, prefix: IpNet) -> bool {
        let inside = |net: &IpNet, min: u8, max: u8| {
            net.contains(&prefix) && (min..=max).contains(&prefix.prefix_len())
        };
        match self {
            CidrMatch::Equal(net) => prefix == *net,
            CidrMatch::NotEqual(net) => prefix != *net,
            CidrMatch::In(net, min, max) => inside(net, *min, *max),
            CidrMatch::NotIn(net, min, max) => !inside(net, *min, *max),
        }
    }
}

/// What a matching rule does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FilterAction {
    /// Run the operations in their order, then use the route.
    Accept(Vec<Operation>),
    /// Do not use the route.
    Reject,
}

/// A change made by an accepting rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Add a community.
    AddCommunity(CommunityValue),
    /// Make the AS path begin with these numbers in this order.
    PrependAsPath(Vec<u32>),
    /// Write the LOCAL_PREF that stands for this metric.
    SetPriority(u32),
}

/// One rule. Everything present has to match; an empty rule matches all routes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FilterRule {
    /// Only sessions of this type: internal (`true`) or external.
    pub internal: Option<bool>,
    /// The prefix.
    pub cidr: Option<CidrMatch>,
    /// Only routes learned by BGP.
    pub learned: bool,
    /// A pattern for the outgoing interface with `*` and `?`.
    pub interface: Option<Arc<str>>,
    /// A community that must be there.
    pub community: Option<CommunityValue>,
    /// How the AS path must begin.
    pub as_path_prefix: Vec<u32>,
    /// The metric that LOCAL_PREF stands for.
    pub priority: Option<u32>,
    /// What to do.
    pub action: FilterAction,
}

impl FilterRule {
    /// A rule that matches everything.
    pub const fn all(action: FilterAction) -> Self {
        FilterRule {
            internal: None,
            cidr: None,
            learned: false,
            interface: None,
            community: None,
            as_path_prefix: Vec::new(),
            priority: None,
            action,
        }
    }

    /// Whether the rule applies to a route.
    pub fn matches(&self, view: &RouteView<'_>) -> bool {
        self.internal.is_none_or(|internal| internal == view.internal)
            && self.cidr.is_none_or(|cidr| cidr.matches(view.prefix))
            && (!self.learned || view.route.local.is_none())
            && self
                .interface
                .as_deref()
                .is_none_or(|pattern| view.route.interface().is_some_and(|name| glob(pattern, name)))
            && self.community.is_none_or(|community| match community {
                CommunityValue::Standard(value) => view.route.path.has_community(value),
                CommunityValue::Large(value) => {
                    view.route.path.large_communities.binary_search(&value).is_ok()
                }
            })
            && view.route.path.as_path.starts_with(&self.as_path_prefix)
            && self.priority.is_none_or(|metric| view.local_pref == METRIC_CEILING.saturating_sub(metric))
    }
}

/// The rules of one BGPFilter for one direction and family.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Filter {
    /// The resource's name, for explanations.
    pub name: Arc<str>,
    /// The rules in their order.
    pub rules: Vec<FilterRule>,
}

/// Runs filters in their order. `None` when no rule matched.
pub(super) fn run(filters: &[Arc<Filter>], view: &RouteView<'_>) -> Option<Verdict> {
    let rule = filters.iter().flat_map(|filter| &filter.rules).find(|rule| rule.matches(view))?;
    Some(match &rule.action {
        FilterAction::Reject => Verdict::Reject,
        FilterAction::Accept(operations) => {
            let mut edits = Edits::default();
            for operation in operations {
                match operation {
                    Operation::AddCommunity(value) => edits.add(value),
                    Operation::PrependAsPath(asns) => {
                        edits.prepend.insert_from_slice(0, asns);
                    }
                    Operation::SetPriority(metric) => {
                        edits.local_pref = Some(METRIC_CEILING.saturating_sub(*metric));
                    }
                }
            }
            Verdict::Accept(edits)
        }
    })
}

/// Whether a name matches a pattern with `*` (anything) and `?` (one character).
pub(crate) fn glob(pattern: &str, name: &str) -> bool {
    // Greedy with one point of return: linear in practice, never exponential.
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, n));
                p += 1;
            }
            Some(c) if *c == b'?' || Some(c) == name.get(n) => {
                p += 1;
                n += 1;
            }
            _ => match retry {
                Some((after, from)) => {
                    p = after;
                    n = from + 1;
                    retry = Some((after, n));
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|c| *c == b'*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, name, expected) in [
            ("*.cali", "vxlan.cali", true),
            ("*.cali", "vxlan.calico", false),
            ("bpf*.cali", "bpfout.cali", true),
            ("eth?", "eth0", true),
            ("eth?", "eth", false),
            ("*", "", true),
            ("a*b*c", "aXbXbYc", true),
            ("a*b*c", "aXbXbY", false),
            ("tunl0", "tunl0", true),
        ] {
            assert_eq!(glob(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn communities_parse() {
        assert_eq!("65000:100".parse(), Ok(CommunityValue::Standard(65000 << 16 | 100)));
        assert_eq!("50:50:5364".parse(), Ok(CommunityValue::Large([50, 50, 5364])));
        for bad in ["", "1", "65536:1", "1:2:3:4", "a:b"] {
            assert_eq!(bad.parse::<CommunityValue>(), Err(CommunityError { text: bad.into() }));
        }
    }
}
