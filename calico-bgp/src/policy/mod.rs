//! Policy as data: which routes are taken in, sent out and installed. Compiled once from resources by
//! [`crate::mesh`], evaluated per route without allocation in the common case.

mod export;
mod fib;
mod filter;
mod netset;

use ipnet::IpNet;
use smallvec::SmallVec;

use crate::route::RouteAttributes;

pub use export::{CalicoExport, CommunityRule, ExportPolicy, ExportReason};
pub use fib::{FibPolicy, PoolEncapsulation, PoolRoute, RouteVia};
pub use filter::{CidrMatch, CommunityError, CommunityValue, Filter, FilterAction, FilterRule, Operation};
pub use netset::NetSet;

/// The largest metric, from which a LOCAL_PREF is the distance: `LOCAL_PREF = 2147483647 - metric`.
pub const METRIC_CEILING: u32 = 2_147_483_647;

/// The metric of routes that nothing else is said about.
pub const NORMAL_PRIORITY: u32 = 1024;

/// LOCAL_PREF of routes that came without one.
pub const DEFAULT_LOCAL_PREF: u32 = 100;

/// The LOCAL_PREF that stands for a metric, and the other way round.
pub const fn local_pref_of_metric(metric: u32) -> u32 {
    METRIC_CEILING.saturating_sub(metric)
}

/// A route as policies see it.
#[derive(Debug, Clone, Copy)]
pub struct RouteView<'a> {
    /// The prefix.
    pub prefix: IpNet,
    /// Its attributes.
    pub route: &'a RouteAttributes,
    /// LOCAL_PREF: as received, the default, or of the metric for a local route.
    pub local_pref: u32,
    /// The session is internal.
    pub internal: bool,
}

/// Changes that a policy makes to a route.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Edits {
    /// Standard communities to add.
    pub communities: SmallVec<[u32; 2]>,
    /// Large communities to add.
    pub large_communities: SmallVec<[[u32; 3]; 1]>,
    /// AS numbers to put in front, the first nearest.
    pub prepend: SmallVec<[u32; 4]>,
    /// LOCAL_PREF to set.
    pub local_pref: Option<u32>,
}

impl Edits {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.communities.is_empty()
            && self.large_communities.is_empty()
            && self.prepend.is_empty()
            && self.local_pref.is_none()
    }

    fn add(&mut self, community: &CommunityValue) {
        match community {
            CommunityValue::Standard(value) if !self.communities.contains(value) => {
                self.communities.push(*value)
            }
            CommunityValue::Large(value) if !self.large_communities.contains(value) => {
                self.large_communities.push(*value);
            }
            _ => {}
        }
    }

    /// Applies the changes.
    pub fn apply(&self, route: &mut RouteAttributes) {
        for community in &self.communities {
            route.path.add_community(*community);
        }
        for community in &self.large_communities {
            route.path.add_large_community(*community);
        }
        if !self.prepend.is_empty() {
            route.path.as_path = route.path.as_path.prepend(&self.prepend);
        }
        if self.local_pref.is_some() {
            route.path.local_pref = self.local_pref;
        }
    }
}

/// What a policy says about a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Use it, changed like this.
    Accept(Edits),
    /// Do not use it.
    Reject,
}

/// What to do with received routes (Calico's import order): filters in their order, then a LOCAL_PREF above the normal
/// one raises the preference over local routes, then everything is accepted.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ImportPolicy {
    /// Filters in their order.
    pub filters: Vec<std::sync::Arc<Filter>>,
    /// Routes with a LOCAL_PREF above this one get preference 200.
    pub elevated_above: Option<u32>,
}

/// The preference of routes learned by BGP.
pub const BGP_PREFERENCE: u32 = 100;

/// The preference of routes learned by BGP with an elevated LOCAL_PREF: above routes of the kernel.
pub const ELEVATED_PREFERENCE: u32 = 200;

impl ImportPolicy {
    /// Whether every route passes unchanged.
    pub fn is_trivial(&self) -> bool {
        self.filters.is_empty() && self.elevated_above.is_none()
    }

    /// Judges a received route; the second value is its preference.
    pub fn evaluate(&self, view: &RouteView<'_>) -> (Verdict, u32) {
        let verdict = filter::run(&self.filters, view);
        // The comparison sees what the filters wrote.
        let local_pref = match &verdict {
            Some(Verdict::Accept(Edits { local_pref: Some(value), .. })) => *value,
            _ => view.local_pref,
        };
        // A filter that accepts ends the evaluation before the preference is touched, as in the reference.
        let elevated = verdict.is_none() && self.elevated_above.is_some_and(|limit| local_pref > limit);
        let preference = if elevated { ELEVATED_PREFERENCE } else { BGP_PREFERENCE };
        (verdict.unwrap_or_else(|| Verdict::Accept(Edits::default())), preference)
    }
}
