//! Which pools serve a request, and why the others do not.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use calico_selector::Selector;
use ipnet::IpNet;

use crate::error::IpamError;
use crate::range::{Family, overlap};

/// Labels of a node or namespace.
pub type Labels = BTreeMap<String, String>;

/// What an address is for; a pool allows some of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IntendedUse {
    /// Pods and other endpoints.
    Workload,
    /// A node's tunnel devices.
    Tunnel,
    /// Services of type LoadBalancer.
    LoadBalancer,
}

impl IntendedUse {
    /// The text of `allowedUses`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Workload => "Workload",
            Self::Tunnel => "Tunnel",
            Self::LoadBalancer => "LoadBalancer",
        }
    }

    /// Reads a text of `allowedUses`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Workload, Self::Tunnel, Self::LoadBalancer].into_iter().find(|known| known.as_str() == text)
    }
}

impl fmt::Display for IntendedUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which labels a pool selects.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Filter {
    /// Everything: no selector, or `all()`.
    #[default]
    All,
    /// What the selector matches.
    Selector(Selector),
    /// Nothing, because the stored text is not a selector. Fails closed.
    Invalid(Arc<str>),
}

impl Filter {
    /// Reads a selector; blank text selects everything, unreadable text nothing.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let text = text.trim();
        if text.is_empty() || text == "all()" {
            return Self::All;
        }
        Selector::parse(text).map_or_else(|_| Self::Invalid(text.into()), Self::Selector)
    }

    /// Whether labels are selected.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        match self {
            Self::All => true,
            Self::Selector(selector) => selector.matches(labels),
            Self::Invalid(_) => false,
        }
    }
}

impl Eq for Filter {}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all()"),
            Self::Selector(selector) => f.write_str(selector.canonical()),
            Self::Invalid(text) => write!(f, "{text} (not a selector)"),
        }
    }
}

/// How a pool encapsulates traffic; a tunnel address comes from a pool that needs the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Encapsulation {
    /// `ipipMode` is `Always` or `CrossSubnet`.
    pub ipip: bool,
    /// `vxlanMode` is `Always` or `CrossSubnet`.
    pub vxlan: bool,
}

/// An IP pool, as far as address management looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Name; pools are searched in name order.
    pub name: Arc<str>,
    /// The addresses.
    pub cidr: IpNet,
    /// Prefix length of its blocks.
    pub block_size: u8,
    /// Whether new addresses may be taken: neither disabled, nor being deleted, nor refused by
    /// the `Allocatable` condition.
    pub enabled: bool,
    /// Nodes it serves.
    pub nodes: Filter,
    /// Namespaces it serves.
    pub namespaces: Filter,
    /// What its addresses may be used for.
    pub uses: Vec<IntendedUse>,
    /// Whether it serves only requests that name it (`assignmentMode: Manual`).
    pub manual: bool,
    /// Its tunnels.
    pub encapsulation: Encapsulation,
}

impl Pool {
    /// An enabled pool for workloads and tunnels of every node, with blocks of the default size
    /// (26 and 122).
    #[must_use]
    pub fn new(name: &str, cidr: IpNet) -> Self {
        Self {
            name: name.into(),
            cidr: cidr.trunc(),
            block_size: if cidr.addr().is_ipv4() { 26 } else { 122 },
            enabled: true,
            nodes: Filter::All,
            namespaces: Filter::All,
            uses: vec![IntendedUse::Workload, IntendedUse::Tunnel],
            manual: false,
            encapsulation: Encapsulation::default(),
        }
    }

    /// The family of its addresses.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of_net(&self.cidr)
    }

    /// The block of this pool that holds an address.
    #[must_use]
    pub fn block_of(&self, address: IpAddr) -> Option<IpNet> {
        if !self.cidr.contains(&address) {
            return None;
        }
        IpNet::new(address, self.block_size).ok().map(|block| block.trunc())
    }

    /// Whether a full block of this pool may become too large for a store: its JSON takes about
    /// 300 bytes per address, and etcd refuses requests above 1.5 MiB. Worth a warning.
    #[must_use]
    pub fn has_heavy_blocks(&self) -> bool {
        self.family().bits() - self.block_size > 8
    }

    /// Whether it allows a use.
    #[must_use]
    pub fn allows(&self, intended: IntendedUse) -> bool {
        self.uses.contains(&intended)
    }
}

/// The pool that holds an address, among `pools`.
#[must_use]
pub fn pool_of(pools: &[Arc<Pool>], address: IpAddr) -> Option<&Arc<Pool>> {
    pools.iter().find(|pool| pool.cidr.contains(&address))
}

/// Why a pool does not serve a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// It is disabled, being deleted, or not allocatable.
    Disabled,
    /// Its blocks are too small for what the host reserves in each.
    BlockTooSmall {
        /// The longest prefix that would do.
        longest: u8,
    },
    /// Other pools were asked for.
    NotRequested,
    /// It serves only requests that name it.
    Manual,
    /// Its node selector does not match.
    Node {
        /// The selector.
        selector: String,
    },
    /// Its namespace selector does not match.
    Namespace {
        /// The selector.
        selector: String,
    },
    /// It does not allow the use.
    Use {
        /// What it allows.
        allowed: Vec<IntendedUse>,
    },
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => f.write_str("it is disabled or being deleted"),
            Self::BlockTooSmall { longest } => {
                write!(
                    f,
                    "its blocks have no room beside the host's reservation (blockSize must be at most {longest})"
                )
            }
            Self::NotRequested => f.write_str("the request names other pools"),
            Self::Manual => f.write_str("its assignmentMode is Manual and the request does not name it"),
            Self::Node { selector } => write!(f, "its nodeSelector does not select the node: {selector}"),
            Self::Namespace { selector } => {
                write!(f, "its namespaceSelector does not select the namespace: {selector}")
            }
            Self::Use { allowed } => {
                let allowed: Vec<&str> = allowed.iter().map(|known| known.as_str()).collect();
                write!(f, "its allowedUses are only [{}]", allowed.join(", "))
            }
        }
    }
}

/// What a pool is chosen by.
#[derive(Debug, Clone, Copy)]
pub struct Criteria<'a> {
    /// The family.
    pub family: Family,
    /// Pools asked for by prefix; empty for any. Naming a pool overrides its selectors and its
    /// assignment mode, but never its uses.
    pub requested: &'a [IpNet],
    /// The host's labels.
    pub node: &'a Labels,
    /// The namespace's labels; an unknown namespace has none.
    pub namespace: &'a Labels,
    /// The intended use.
    pub intended: IntendedUse,
    /// The longest block prefix that leaves room for the host's reservation.
    pub longest_block: u8,
}

impl Criteria<'_> {
    /// Whether a pool of the right family serves the request, and if not, why.
    ///
    /// # Errors
    /// The first reason against it, in the order in which the choice is made.
    pub fn judge(&self, pool: &Pool) -> Result<(), Rejection> {
        if !pool.enabled {
            return Err(Rejection::Disabled);
        }
        if pool.block_size > self.longest_block {
            return Err(Rejection::BlockTooSmall { longest: self.longest_block });
        }
        if self.requested.is_empty() {
            self.judge_automatic(pool)?;
        } else if !self.requested.contains(&pool.cidr) {
            return Err(Rejection::NotRequested);
        }
        if pool.allows(self.intended) { Ok(()) } else { Err(Rejection::Use { allowed: pool.uses.clone() }) }
    }

    fn judge_automatic(&self, pool: &Pool) -> Result<(), Rejection> {
        if pool.manual {
            return Err(Rejection::Manual);
        }
        if !pool.nodes.matches(self.node) {
            return Err(Rejection::Node { selector: pool.nodes.to_string() });
        }
        if !pool.namespaces.matches(self.namespace) {
            return Err(Rejection::Namespace { selector: pool.namespaces.to_string() });
        }
        Ok(())
    }

    /// The pools that serve the request: in the order asked for, else in name order.
    ///
    /// # Errors
    /// If none does; the error says at which point the last one dropped out.
    pub fn select(&self, pools: &[Arc<Pool>], host: &Arc<str>) -> Result<Vec<Arc<Pool>>, IpamError> {
        let family = self.family;
        let of_family = || pools.iter().filter(|pool| pool.family() == family);
        let eligible = |pool: &&Arc<Pool>| pool.enabled && pool.block_size <= self.longest_block;
        if !of_family().any(|pool| eligible(&pool)) {
            return Err(IpamError::NoQualifiedPool { used: None, family });
        }
        let candidates: Vec<Arc<Pool>> = if self.requested.is_empty() {
            of_family().filter(eligible).filter(|pool| self.judge_automatic(pool).is_ok()).cloned().collect()
        } else {
            let mut chosen = Vec::with_capacity(self.requested.len());
            for cidr in self.requested {
                if Family::of_net(cidr) != family {
                    return Err(IpamError::PoolFamily { cidr: *cidr, family });
                }
                let pool = of_family().filter(eligible).find(|pool| pool.cidr == cidr.trunc());
                chosen.push(Arc::clone(pool.ok_or(IpamError::PoolMissing { cidr: *cidr })?));
            }
            chosen
        };
        if candidates.is_empty() {
            return Err(IpamError::NoPoolsForNode { host: Arc::clone(host), family });
        }
        let mut usable = candidates;
        usable.retain(|pool| pool.allows(self.intended));
        if usable.is_empty() {
            return Err(IpamError::NoQualifiedPool { used: Some(self.intended.to_string()), family });
        }
        Ok(usable)
    }
}

/// A pair of pools that share addresses.
///
/// The API refuses to create such a pair, but it can be left behind by direct edits, and two
/// block sizes over the same addresses would hand one address out twice.
#[must_use]
pub fn first_overlap(pools: &[Arc<Pool>]) -> Option<(&Arc<Pool>, &Arc<Pool>)> {
    let mut sorted: Vec<&Arc<Pool>> = pools.iter().collect();
    sorted.sort_by_key(|pool| (Family::of_net(&pool.cidr), crate::range::bounds(&pool.cidr)));
    // Prefixes are nested or disjoint, so a nested one directly follows one that holds it.
    sorted.windows(2).find_map(|pair| match pair {
        [a, b] if overlap(&a.cidr, &b.cidr) => Some((*a, *b)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str, cidr: &str) -> Pool {
        Pool::new(name, cidr.parse().unwrap())
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn select(pools: Vec<Pool>, change: impl FnOnce(&mut Criteria<'_>)) -> Result<Vec<String>, IpamError> {
        let (node, namespace) = (labels(&[("zone", "a")]), labels(&[("team", "x")]));
        let mut criteria = Criteria {
            family: Family::V4,
            requested: &[],
            node: &node,
            namespace: &namespace,
            intended: IntendedUse::Workload,
            longest_block: 128,
        };
        change(&mut criteria);
        let pools: Vec<Arc<Pool>> = pools.into_iter().map(Arc::new).collect();
        criteria
            .select(&pools, &"n1".into())
            .map(|chosen| chosen.iter().map(|pool| pool.name.to_string()).collect())
    }

    #[test]
    fn automatic_pools_match_node_and_namespace_and_use() {
        let mut b = pool("b", "10.2.0.0/16");
        b.nodes = Filter::parse("zone == 'b'");
        let mut c = pool("c", "10.3.0.0/16");
        c.namespaces = Filter::parse("team == 'x'");
        let mut d = pool("d", "10.4.0.0/16");
        d.manual = true;
        let mut e = pool("e", "10.5.0.0/16");
        e.uses = vec![IntendedUse::LoadBalancer];
        let six = pool("six", "fd00::/64");
        let pools = vec![pool("a", "10.1.0.0/16"), b, c, d, e, six];
        assert_eq!(select(pools.clone(), |_| {}).unwrap(), ["a", "c"]);
        assert_eq!(
            select(pools.clone(), |criteria| criteria.intended = IntendedUse::LoadBalancer).unwrap(),
            ["e"]
        );
        assert_eq!(select(pools, |criteria| criteria.family = Family::V6).unwrap(), ["six"]);
    }

    #[test]
    fn a_requested_pool_ignores_selectors_and_mode_but_not_use_or_disabling() {
        let mut manual = pool("m", "10.2.0.0/16");
        manual.manual = true;
        manual.nodes = Filter::parse("zone == 'elsewhere'");
        let mut off = pool("off", "10.3.0.0/16");
        off.enabled = false;
        let mut lb = pool("lb", "10.4.0.0/16");
        lb.uses = vec![IntendedUse::LoadBalancer];
        let pools = vec![pool("a", "10.1.0.0/16"), manual, off, lb];
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
        let ask = |requested: &[IpNet]| {
            let requested = requested.to_vec();
            select(pools.clone(), |criteria| criteria.requested = requested.leak())
        };
        assert_eq!(ask(&nets(&["10.2.0.0/16", "10.1.0.0/16"])).unwrap(), ["m", "a"]);
        assert_eq!(
            ask(&nets(&["10.3.0.0/16"])),
            Err(IpamError::PoolMissing { cidr: "10.3.0.0/16".parse().unwrap() })
        );
        assert_eq!(
            ask(&nets(&["fd00::/64"])),
            Err(IpamError::PoolFamily { cidr: "fd00::/64".parse().unwrap(), family: Family::V4 })
        );
        assert_eq!(
            ask(&nets(&["10.4.0.0/16"])),
            Err(IpamError::NoQualifiedPool { used: Some("Workload".into()), family: Family::V4 })
        );
    }

    #[test]
    fn the_error_says_at_which_point_the_last_pool_dropped_out() {
        let mut elsewhere = pool("a", "10.1.0.0/16");
        elsewhere.nodes = Filter::parse("zone == 'b'");
        assert!(matches!(select(vec![elsewhere], |_| {}), Err(IpamError::NoPoolsForNode { .. })));
        assert!(matches!(select(vec![], |_| {}), Err(IpamError::NoQualifiedPool { used: None, .. })));
        let mut small = pool("a", "10.1.0.0/16");
        small.block_size = 31;
        assert!(matches!(
            select(vec![small], |criteria| criteria.longest_block = 29),
            Err(IpamError::NoQualifiedPool { .. })
        ));
    }

    #[test]
    fn an_unreadable_selector_selects_nothing() {
        assert!(!Filter::parse("zone ==").matches(&labels(&[("zone", "")])));
        assert!(Filter::parse("  ").matches(&Labels::new()));
    }

    #[test]
    fn overlap_is_found_between_nested_pools() {
        let pools: Vec<Arc<Pool>> = ["10.0.0.0/8", "10.3.0.0/16", "11.0.0.0/8"]
            .iter()
            .map(|cidr| Arc::new(pool(cidr, cidr)))
            .collect();
        let (a, b) = first_overlap(&pools).unwrap();
        assert_eq!((&*a.name, &*b.name), ("10.0.0.0/8", "10.3.0.0/16"));
        assert!(first_overlap(&pools[1..]).is_none());
    }
}
