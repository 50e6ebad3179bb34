//! What is sent to a peer: Calico's export decision, in its exact order.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::filter::{self, CommunityValue, Filter, glob};
use super::{Edits, METRIC_CEILING, NetSet, RouteView, Verdict};

/// Communities for all routes inside a prefix (`prefixAdvertisements`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CommunityRule {
    /// The prefix.
    pub cidr: IpNet,
    /// What to add, names resolved.
    pub communities: Vec<CommunityValue>,
}

/// The part of the export decision that is the same for all peers of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CalicoExport {
    /// The metric of ordinary routes.
    pub normal_priority: u32,
    /// Pools with `disableBGPExport`.
    pub disabled_pools: NetSet,
    /// The BGP side programs IP-in-IP routes, so that routes over `tunl0` are its own.
    pub owns_ipip: bool,
    /// Communities by prefix.
    pub communities: Vec<CommunityRule>,
    /// Confirmed blocks of this node.
    pub own_blocks: NetSet,
    /// Ranges and addresses of services announced by this node.
    pub service_routes: NetSet,
    /// On a reflector: ranges of load balancer and external addresses of the whole cluster.
    pub reflected_services: NetSet,
    /// Enabled pools.
    pub pools: NetSet,
}

/// The step of the export decision that settled a route; for explanations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ExportReason {
    /// A rule of a BGPFilter.
    Filter,
    /// Inside a pool with `disableBGPExport`.
    PoolDisabled,
    /// Points to a tunnel of the policy side.
    TunnelDevice,
    /// Points to a device of the eBPF data plane.
    BpfDevice,
    /// Is a block of this node.
    OwnBlock,
    /// Inside a block of this node, with a better metric than ordinary routes.
    Elevated,
    /// Inside a block of this node; the block stands for it.
    Aggregated,
    /// A service route.
    Service,
    /// A service route of the cluster, on a reflector.
    ReflectedService,
    /// Inside a pool.
    Pool,
    /// None of these.
    NotOurs,
    /// The policy lets everything pass.
    Unrestricted,
}

impl CalicoExport {
    /// Steps 3 to 11 of the decision.
    pub fn decide(&self, view: &RouteView<'_>, edits: &mut Edits) -> (bool, ExportReason) {
        let prefix = view.prefix;
        if self.disabled_pools.covers(prefix) {
            return (false, ExportReason::PoolDisabled);
        }
        if let Some(interface) = view.route.interface() {
            let tunnel = glob("*.cali", interface)
                || glob("*.calico", interface)
                || (interface == "tunl0" && !self.owns_ipip);
            if view.internal && tunnel {
                return (false, ExportReason::TunnelDevice);
            }
            if glob("bpf*.cali", interface) {
                return (false, ExportReason::BpfDevice);
            }
        }
        for rule in self.communities.iter().filter(|rule| rule.cidr.contains(&prefix)) {
            rule.communities.iter().for_each(|community| edits.add(community));
        }
        let metric = METRIC_CEILING.saturating_sub(view.local_pref);
        if let Some(block) = self.own_blocks.covering(prefix) {
            let elevated = metric < self.normal_priority;
            return match (block == prefix, elevated) {
                (true, _) => (true, ExportReason::OwnBlock),
                (false, true) => (true, ExportReason::Elevated),
                (false, false) => (false, ExportReason::Aggregated),
            };
        }
        if self.service_routes.covers(prefix) {
            (true, ExportReason::Service)
        } else if self.reflected_services.covers(prefix) {
            (true, ExportReason::ReflectedService)
        } else if self.pools.covers(prefix) {
            (true, ExportReason::Pool)
        } else {
            (false, ExportReason::NotOurs)
        }
    }
}

/// The export policy of one peer. The default exports everything.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ExportPolicy {
    /// The filters of the peer, by family: the same BGPFilter has different rules for each.
    pub filters: BTreeMap<crate::wire::Family, Vec<Arc<Filter>>>,
    /// The decision of the node; `None` lets everything pass that no filter rejects.
    pub calico: Option<Arc<CalicoExport>>,
}

impl ExportPolicy {
    /// The metric of routes that have none of their own.
    pub fn normal_priority(&self) -> u32 {
        self.calico.as_ref().map_or(super::NORMAL_PRIORITY, |calico| calico.normal_priority)
    }

    /// Judges a route. A filter that accepts ends the evaluation, communities included.
    pub fn evaluate(&self, view: &RouteView<'_>) -> Verdict {
        self.explain(view).0
    }

    /// Like [`ExportPolicy::evaluate`], with the step that settled it.
    pub fn explain(&self, view: &RouteView<'_>) -> (Verdict, ExportReason) {
        let family = crate::wire::Family::of(view.prefix.network());
        if let Some(filters) = self.filters.get(&family)
            && let Some(verdict) = filter::run(filters, view)
        {
            return (verdict, ExportReason::Filter);
        }
        let mut edits = Edits::default();
        match &self.calico {
            None => (Verdict::Accept(edits), ExportReason::Unrestricted),
            Some(calico) => match calico.decide(view, &mut edits) {
                (true, reason) => (Verdict::Accept(edits), reason),
                (false, reason) => (Verdict::Reject, reason),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LocalRoute;
    use crate::route::RouteAttributes;

    fn explain(
        calico: CalicoExport,
        prefix: &str,
        route: LocalRoute,
        internal: bool,
    ) -> (bool, ExportReason) {
        let policy = ExportPolicy { calico: Some(Arc::new(calico)), ..ExportPolicy::default() };
        let route = RouteAttributes::local(&route);
        let view = RouteView {
            prefix: prefix.parse().unwrap(),
            local_pref: route.local_pref(1024),
            route: &route,
            internal,
        };
        let (verdict, reason) = policy.explain(&view);
        (matches!(verdict, Verdict::Accept(_)), reason)
    }

    fn set(net: &str) -> NetSet {
        [net.parse().unwrap()].into_iter().collect()
    }

    fn node() -> CalicoExport {
        CalicoExport {
            normal_priority: 1024,
            own_blocks: set("10.1.0.64/26"),
            pools: set("10.1.0.0/16"),
            ..CalicoExport::default()
        }
    }

    /// Vector 6 of the facts.
    #[test]
    fn blocks_aggregate_their_addresses() {
        use ExportReason::*;
        let device = |metric| LocalRoute::device("cali0", metric);
        assert_eq!(explain(node(), "10.1.0.64/26", LocalRoute::blackhole(), true), (true, OwnBlock));
        assert_eq!(explain(node(), "10.1.0.70/32", device(Some(1024)), true), (false, Aggregated));
        assert_eq!(explain(node(), "10.1.0.70/32", device(None), true), (false, Aggregated));
        assert_eq!(explain(node(), "10.1.0.70/32", device(Some(512)), true), (true, Elevated));
        assert_eq!(explain(node(), "10.1.9.5/32", device(None), true), (true, Pool));
        assert_eq!(explain(node(), "172.16.0.0/24", device(None), true), (false, NotOurs));
        let disabled = CalicoExport { disabled_pools: set("10.1.0.0/16"), ..node() };
        assert_eq!(explain(disabled, "10.1.0.64/26", LocalRoute::blackhole(), true), (false, PoolDisabled));
    }

    #[test]
    fn tunnel_routes_stay_inside_but_reach_the_fabric() {
        use ExportReason::*;
        let over = |interface: &str| LocalRoute::device(interface, None);
        assert_eq!(explain(node(), "10.1.5.0/26", over("vxlan.calico"), true), (false, TunnelDevice));
        assert_eq!(explain(node(), "10.1.5.0/26", over("vxlan.calico"), false), (true, Pool));
        assert_eq!(explain(node(), "10.1.5.0/26", over("wireguard.cali"), true), (false, TunnelDevice));
        assert_eq!(explain(node(), "10.1.5.0/26", over("bpfin.cali"), false), (false, BpfDevice));
        assert_eq!(explain(node(), "10.1.5.0/26", over("tunl0"), true), (false, TunnelDevice));
        let owner = CalicoExport { owns_ipip: true, ..node() };
        assert_eq!(explain(owner, "10.1.5.0/26", over("tunl0"), true), (true, Pool));
    }
}
