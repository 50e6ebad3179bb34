//! What the kernel is told about a prefix.

use std::net::IpAddr;

use ipnet::IpNet;
use smallvec::SmallVec;

use super::attrs::AttrStore;
use super::best::{PeerRank, multipath};
use super::prefixes::{Path, PeerId};
use crate::config::LocalInstall;
use crate::policy::{FibPolicy, METRIC_CEILING, NORMAL_PRIORITY, RouteVia};

/// One next hop of a kernel route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FibNextHop {
    /// The address of the gateway.
    pub address: IpAddr,
    /// Plain or through the IP-in-IP device.
    pub via: RouteVia,
}

/// A kernel route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FibRoute {
    /// Drop packets: they belong to addresses of this node that nobody uses.
    Blackhole,
    /// Forward to one of these, in ascending order.
    Via {
        /// The next hops, at least one.
        next_hops: SmallVec<[FibNextHop; 2]>,
        /// The metric that the route's LOCAL_PREF stands for.
        metric: u32,
    },
}

/// A change of the kernel's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FibChange {
    /// The destination.
    pub prefix: IpNet,
    /// What to install instead of whatever was there; `None` removes.
    pub route: Option<FibRoute>,
}

/// The kernel route of a prefix whose best path stands first.
pub(crate) fn kernel_route(
    prefix: IpNet,
    paths: &[Path],
    attrs: &AttrStore,
    rank: &impl Fn(PeerId) -> Option<PeerRank>,
    policy: &FibPolicy,
    limit: usize,
) -> Option<FibRoute> {
    let best = paths.first()?;
    let route = attrs.get(best.attributes)?;
    if let Some(local) = &route.local {
        return match (local.install, local.gateway) {
            _ if policy.disabled => None,
            (LocalInstall::Blackhole, _) => Some(FibRoute::Blackhole),
            (LocalInstall::Gateway, Some(address)) => {
                let next_hops = smallvec::smallvec![FibNextHop { address, via: RouteVia::Direct }];
                Some(FibRoute::Via { next_hops, metric: local.metric.unwrap_or(NORMAL_PRIORITY) })
            }
            _ => None,
        };
    }
    let local_pref = attrs.hot(best.attributes)?.local_pref;
    let mut next_hops: SmallVec<[FibNextHop; 2]> = SmallVec::new();
    let add = |path: &Path, next_hops: &mut SmallVec<[FibNextHop; 2]>| {
        if let Some(address) = attrs.get(path.attributes).and_then(|route| route.next_hop())
            && let Some(via) = policy.decide(prefix, address)
        {
            next_hops.push(FibNextHop { address, via });
        }
    };
    if limit <= 1 || paths.len() == 1 {
        add(best, &mut next_hops);
    } else {
        multipath(paths, attrs, rank).for_each(|path| add(path, &mut next_hops));
        next_hops.sort_unstable();
        next_hops.dedup();
        next_hops.truncate(limit);
    }
    let metric = METRIC_CEILING.saturating_sub(local_pref);
    (!next_hops.is_empty()).then_some(FibRoute::Via { next_hops, metric })
}
