//! The configuration of a node from everything that [`Mesh`] knows.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use calico_model::{
    BGPConfigurationSpec, BindMode, BlockAffinityState, ClusterRoutes, EncapMode, Kind, Switch,
};
use ipnet::IpNet;

use super::peering::{Peering, parse_peer};
use super::services::{EXCLUDE, Exclusion, ServiceCidrs};
use super::{Derived, Mesh, NodeInfo, Problem, RouterId, parse_net};
use crate::config::{LocalRoute, SpeakerConfig};
use crate::policy::{
    CalicoExport, CommunityRule, CommunityValue, FibPolicy, NORMAL_PRIORITY, PoolEncapsulation, PoolRoute,
};
use crate::wire::Family;

impl Mesh {
    /// What the resources lead to on this node.
    pub fn derive(&self) -> Derived {
        let mut derived = Derived::default();
        let settings = [&self.own, &self.global].map(|config| config.as_ref());
        let global = self.global.clone().unwrap_or_default();
        derived.ignored_interfaces = global.ignored_interfaces.clone();
        let Some(own) = self.nodes.get(&self.settings.node) else {
            derived.problems.push(Problem {
                kind: Kind::Node,
                name: self.settings.node.clone(),
                field: "metadata.name".into(),
                text: "there is no such Node yet; BGP waits for it".into(),
            });
            return derived;
        };
        let router_id = match self.settings.router_id {
            RouterId::Fixed(id) => Some(id),
            RouterId::Hash => Some(RouterId::hash(&self.settings.node)),
            RouterId::NodeAddress => own.address_v4().map(|(address, _)| address),
        };
        let Some(router_id) = router_id else {
            derived.problems.push(Problem {
                kind: Kind::Node,
                name: self.settings.node.clone(),
                field: "spec.bgp.ipv4Address".into(),
                text: "is needed as router identifier; set it, or CALICO_ROUTER_ID to an identifier or hash"
                    .into(),
            });
            return derived;
        };
        for (field, text) in &self.global_extensions.problems {
            derived.problems.push(Problem {
                kind: Kind::BGPConfiguration,
                name: "default".into(),
                field: field.clone(),
                text: text.clone(),
            });
        }
        let services = self.service_cidrs(&global);
        let exclusion = self.exclusion(own);
        let service_routes = self.service_routes(&services, exclusion);
        let communities = communities(settings, &mut derived.problems);
        let exports = Family::ALL.map(|family| {
            Arc::new(self.export(own, &global, family, &services, &service_routes, &communities))
        });
        let mut peering = Peering::new(self, own, exports.clone());
        let peers = peering.sessions();
        derived.problems.append(&mut peering.problems);
        derived.secrets = std::mem::take(&mut peering.secrets);

        let mut config = SpeakerConfig::new(router_id, own.asn().unwrap_or_else(|| self.global_as()));
        config.cluster_id = own.cluster_id();
        config.listen_port = self.listen_port(&self.settings.node).unwrap_or(config.listen_port);
        if matches!(global.bind_mode, BindMode::NodeIp) {
            config.listen_addresses =
                Family::ALL.into_iter().filter_map(|family| own.address(family)).collect();
        }
        config.peers = peers;
        config.routes = self.routes(&exports, &service_routes);
        config.fib = Arc::new(self.fib(own, &global, &services, &mut derived.problems));
        derived.config = Some(config);
        derived.problems.sort();
        derived.problems.dedup();
        derived
    }

    fn service_cidrs(&self, global: &BGPConfigurationSpec) -> ServiceCidrs {
        let nets = |blocks: &[calico_model::ServiceBlock]| {
            blocks.iter().filter_map(|block| parse_net(&block.cidr)).collect::<Vec<_>>()
        };
        ServiceCidrs {
            cluster: match &self.settings.advertise_cluster_ips {
                Some(nets) => nets.clone(),
                None => nets(&global.service_cluster_ips),
            },
            external: nets(&global.service_external_ips),
            load_balancer: nets(&global.service_load_balancer_ips),
            aggregate: !matches!(global.service_load_balancer_aggregation, Switch::Disabled),
        }
    }

    fn exclusion(&self, own: &NodeInfo) -> Exclusion {
        let excluded =
            |labels: &calico_model::Labels| labels.get(EXCLUDE).is_some_and(|value| value == "true");
        if excluded(&own.labels) || excluded(&self.kubernetes_labels) {
            Exclusion::Excluded
        } else {
            Exclusion::TakesPart
        }
    }

    /// Prefixes of services that this node announces.
    fn service_routes(&self, cidrs: &ServiceCidrs, exclusion: Exclusion) -> Vec<IpNet> {
        if exclusion == Exclusion::Excluded {
            return Vec::new();
        }
        let single = self.services.addresses(cidrs, &self.settings.kubernetes_node, exclusion);
        let mut routes: Vec<_> = cidrs.announced().chain(single).collect();
        routes.sort_unstable();
        routes.dedup();
        routes
    }

    /// Blocks of this node, with whether they are announced as a whole. A block that is about to be released is
    /// announced only while something in it is still in use, and keeps its addresses aggregated until it is gone.
    fn own_blocks(&self) -> impl Iterator<Item = (IpNet, bool)> + '_ {
        self.blocks.iter().filter(|(_, state)| **state != BlockAffinityState::Pending).map(|(cidr, state)| {
            let leaving = *state == BlockAffinityState::PendingDeletion;
            let in_use = || self.workloads.values().flat_map(|w| &w.networks).any(|net| cidr.contains(net));
            (*cidr, !leaving || in_use())
        })
    }

    fn export(
        &self,
        own: &NodeInfo,
        global: &BGPConfigurationSpec,
        family: Family,
        services: &ServiceCidrs,
        service_routes: &[IpNet],
        communities: &[CommunityRule],
    ) -> CalicoExport {
        let ours = |net: &IpNet| Family::of(net.addr()) == family;
        let pools = || self.pools.values().filter_map(|pool| Some((parse_net(&pool.cidr)?, pool)));
        let priority = match family {
            Family::Ipv4 => global.ipv4_normal_route_priority,
            Family::Ipv6 => global.ipv6_normal_route_priority,
        };
        let reflected = services.load_balancer.iter().chain(&services.external).copied();
        let (ipip, _) = owned(global);
        CalicoExport {
            normal_priority: priority.and_then(|value| u32::try_from(value).ok()).unwrap_or(NORMAL_PRIORITY),
            disabled_pools: pools()
                .filter(|(_, pool)| pool.disable_bgp_export)
                .map(|(net, _)| net)
                .filter(ours)
                .collect(),
            owns_ipip: ipip,
            communities: communities.iter().filter(|rule| ours(&rule.cidr)).cloned().collect(),
            own_blocks: self.own_blocks().map(|(net, _)| net).filter(ours).collect(),
            service_routes: service_routes.iter().copied().filter(ours).collect(),
            reflected_services: reflected.filter(|net| own.is_reflector() && ours(net)).collect(),
            pools: pools().map(|(net, _)| net).filter(ours).collect(),
        }
    }

    fn routes(
        &self,
        exports: &[Arc<CalicoExport>; 2],
        service_routes: &[IpNet],
    ) -> BTreeMap<IpNet, LocalRoute> {
        let mut routes = BTreeMap::new();
        // The weakest first: later ones replace them.
        if self.settings.workload_routes {
            for workload in self.workloads.values() {
                for net in &workload.networks {
                    // Inside a block of ours the block stands for it.
                    if exports.iter().all(|export| !export.own_blocks.covers(*net)) {
                        routes.insert(*net, LocalRoute::device(&workload.interface, None));
                    }
                }
            }
        }
        for net in service_routes {
            routes.insert(*net, LocalRoute::announced());
        }
        for spec in self.peers.values().filter(|spec| !spec.reachable_by.is_empty()) {
            if let (Some((peer, _)), Ok(gateway)) =
                (parse_peer(&spec.peer_ip), spec.reachable_by.parse::<IpAddr>())
                && Family::of(peer) == Family::of(gateway)
                && self.is_for_this_node(spec)
            {
                routes.insert(IpNet::from(peer), LocalRoute::through(gateway));
            }
        }
        for (block, _) in self
            .own_blocks()
            .filter(|(block, announced)| *announced && block.prefix_len() < block.max_prefix_len())
        {
            routes.insert(block, LocalRoute::blackhole());
        }
        routes
    }

    fn is_for_this_node(&self, spec: &calico_model::BGPPeerSpec) -> bool {
        let labels = self.nodes.get(&self.settings.node).map(|node| &node.labels);
        match (spec.node.is_empty(), spec.node_selector.is_empty()) {
            (true, true) => true,
            (false, _) => spec.node == self.settings.node,
            (true, false) => calico_selector::Selector::parse(&spec.node_selector)
                .is_ok_and(|selector| labels.is_some_and(|labels| selector.matches(labels))),
        }
    }

    fn fib(
        &self,
        own: &NodeInfo,
        global: &BGPConfigurationSpec,
        services: &ServiceCidrs,
        problems: &mut Vec<Problem>,
    ) -> FibPolicy {
        let (ipip, plain) = owned(global);
        if let Some(felix) = &self.felix_cluster_routes {
            let felix = cluster_routes(&ClusterRoutes::from(felix.as_str()), (true, false));
            if felix.0 == ipip || felix.1 == plain {
                problems.push(Problem {
                    kind: Kind::BGPConfiguration,
                    name: "default".into(),
                    field: "spec.programClusterRoutes".into(),
                    text: "does not complement the field of FelixConfiguration default: some routes are programmed \
                           twice or not at all"
                        .into(),
                });
            }
        }
        let set = |mode: &EncapMode| matches!(mode, EncapMode::Always | EncapMode::CrossSubnet);
        let pools = self.pools.values().filter_map(|pool| {
            let encapsulation = match (&pool.ipip_mode, set(&pool.vxlan_mode)) {
                (_, true) => PoolEncapsulation::Vxlan,
                (EncapMode::Always, _) => PoolEncapsulation::IpIpAlways,
                (EncapMode::CrossSubnet, _) => PoolEncapsulation::IpIpCrossSubnet,
                _ => PoolEncapsulation::None,
            };
            let owned = match encapsulation {
                PoolEncapsulation::None => plain,
                PoolEncapsulation::IpIpAlways | PoolEncapsulation::IpIpCrossSubnet => ipip,
                PoolEncapsulation::Vxlan => false,
            };
            let cidr = parse_net(&pool.cidr).filter(|cidr| matches!(cidr, IpNet::V4(_)))?;
            Some(PoolRoute { cidr, encapsulation, owned })
        });
        let mut pools: Vec<_> = pools.collect();
        pools.sort_by_key(|pool| pool.cidr);
        let wireguard =
            Family::ALL.into_iter().filter(|family| own.has_wireguard(*family)).flat_map(|family| {
                let others = self.nodes.iter().filter(|(name, _)| **name != self.settings.node);
                others
                    .filter(move |(_, node)| node.has_wireguard(family))
                    .filter_map(move |(_, node)| node.address(family))
            });
        FibPolicy {
            disabled: false,
            reject: services.all().collect(),
            wireguard: wireguard.collect(),
            pools,
            own_network: own.address_v4().map(|(address, net)| net.unwrap_or_else(|| address.into())),
        }
    }
}

/// Whether the BGP side programs IP-in-IP routes and routes without encapsulation.
fn owned(global: &BGPConfigurationSpec) -> (bool, bool) {
    cluster_routes(&global.program_cluster_routes, (false, true))
}

fn cluster_routes(mode: &ClusterRoutes, default: (bool, bool)) -> (bool, bool) {
    match mode {
        ClusterRoutes::Enabled => (true, true),
        ClusterRoutes::Disabled => (false, false),
        ClusterRoutes::EnabledIpipOnly => (true, false),
        ClusterRoutes::EnabledNoEncapOnly => (false, true),
        ClusterRoutes::Other(_) => default,
    }
}

/// The communities of prefixes; those of the node replace those of the cluster.
fn communities(
    settings: [Option<&BGPConfigurationSpec>; 2],
    problems: &mut Vec<Problem>,
) -> Vec<CommunityRule> {
    let [own, global] = settings;
    let source = own.filter(|config| !config.prefix_advertisements.is_empty()).or(global);
    let Some(source) = source else { return Vec::new() };
    let names: BTreeMap<&str, &str> = [global, own]
        .into_iter()
        .flatten()
        .flat_map(|config| &config.communities)
        .map(|community| (community.name.as_str(), community.value.as_str()))
        .collect();
    let mut rules = Vec::new();
    for (index, advertisement) in source.prefix_advertisements.iter().enumerate() {
        let mut problem = |field: &str, text: String| {
            problems.push(Problem {
                kind: Kind::BGPConfiguration,
                name: "default".into(),
                field: format!("spec.prefixAdvertisements[{index}].{field}"),
                text,
            });
        };
        let Some(cidr) = parse_net(&advertisement.cidr) else {
            problem("cidr", format!("{:?} is no CIDR; the entry is left out", advertisement.cidr));
            continue;
        };
        let mut values: Vec<CommunityValue> = Vec::new();
        for entry in &advertisement.communities {
            let text = names.get(entry.as_str()).copied().unwrap_or(entry);
            match text.parse() {
                Ok(value) => values.push(value),
                Err(_) => {
                    problem("communities", format!("{entry:?} is neither a community nor the name of one"))
                }
            }
        }
        values.sort_unstable();
        values.dedup();
        rules.push(CommunityRule { cidr, communities: values });
    }
    rules
}
