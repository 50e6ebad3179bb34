//! Pools, the encapsulations they need, and the address ranges of services.

use std::collections::BTreeMap;
use std::sync::Arc;

use calico_model::{AllowedUse, BGPConfigurationSpec, EncapMode as ModelEncapMode, IPPoolSpec};
use ipnet::IpNet;

use crate::changes::{EncapMode, Encapsulation, Pool, ServiceCidrs};
use crate::outbox::Outbox;
use crate::rules::parse_net;

/// All pools.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    by_name: BTreeMap<Arc<str>, Pool>,
    out: Outbox<IpNet, Pool>,
    overrides: Overrides,
    encapsulation: Encapsulation,
    service_cidrs: Arc<ServiceCidrs>,
    service_cidrs_touched: bool,
}

/// What the configuration says whatever the pools say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Overrides {
    ipip: Option<bool>,
    vxlan: Option<bool>,
    no_encap_routes: bool,
}

/// The part of [`crate::Changes`] that this node of the graph fills.
#[derive(Debug, Default)]
pub(crate) struct PoolChanges {
    pub(crate) pools: Vec<Pool>,
    pub(crate) removed_pools: Vec<IpNet>,
    pub(crate) encapsulation: Option<Encapsulation>,
    pub(crate) service_cidrs: Option<Arc<ServiceCidrs>>,
}

impl Pools {
    /// Adds, replaces or removes a pool. Of two pools with one CIDR the first by name counts.
    pub(crate) fn set(&mut self, name: &Arc<str>, pool: Option<Pool>) {
        let old = match &pool {
            Some(pool) => self.by_name.insert(name.clone(), pool.clone()),
            None => self.by_name.remove(name),
        };
        for cidr in old.iter().chain(&pool).map(|pool| pool.cidr) {
            let wanted = self.by_name.values().find(|pool| pool.cidr == cidr).cloned();
            self.out.set(cidr, wanted);
        }
    }

    /// Takes over what the agent's configuration says about encapsulation.
    pub(crate) fn configure(&mut self, config: &BTreeMap<String, String>) {
        let flag = |name: &str| config.get(name).and_then(|value| parse_flag(value));
        let routes = config.get("ProgramClusterRoutes").map_or("", String::as_str);
        self.overrides = Overrides {
            ipip: flag("IpInIpEnabled"),
            vxlan: flag("VXLANEnabled"),
            no_encap_routes: ["enabled", "enablednoencaponly"].iter().any(|v| routes.eq_ignore_ascii_case(v)),
        };
    }

    pub(crate) fn set_service_cidrs(&mut self, cidrs: ServiceCidrs) {
        if *self.service_cidrs != cidrs {
            self.service_cidrs = Arc::new(cidrs);
            self.service_cidrs_touched = true;
        }
    }

    pub(crate) fn flush(&mut self, first: bool) -> PoolChanges {
        let (pools, removed_pools) = self.out.flush();
        let encapsulation = self.needed();
        let changed = first || encapsulation != self.encapsulation;
        self.encapsulation = encapsulation;
        let cidrs_changed = std::mem::take(&mut self.service_cidrs_touched) || first;
        PoolChanges {
            pools,
            removed_pools,
            encapsulation: changed.then_some(encapsulation),
            service_cidrs: cidrs_changed.then(|| self.service_cidrs.clone()),
        }
    }

    fn needed(&self) -> Encapsulation {
        let any = |test: &dyn Fn(&Pool) -> bool| self.by_name.values().any(test);
        let v6 = |pool: &Pool| matches!(pool.cidr, IpNet::V6(_));
        let plain = |pool: &Pool| {
            pool.ipip == EncapMode::Never && pool.vxlan == EncapMode::Never && !pool.load_balancer_only
        };
        let Overrides { ipip, vxlan, no_encap_routes } = self.overrides;
        Encapsulation {
            ipip: ipip.unwrap_or_else(|| any(&|pool| pool.ipip != EncapMode::Never)),
            vxlan: vxlan.unwrap_or_else(|| any(&|pool| !v6(pool) && pool.vxlan != EncapMode::Never)),
            vxlan_v6: any(&|pool| v6(pool) && pool.vxlan != EncapMode::Never),
            no_encap: no_encap_routes && any(&plain),
        }
    }
}

fn parse_flag(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "y" | "t" => Some(true),
        "false" | "0" | "no" | "n" | "f" => Some(false),
        _ => None,
    }
}

/// The pool of a spec; `None` when its CIDR cannot be read.
pub(crate) fn pool_of(spec: &IPPoolSpec) -> Option<Pool> {
    Some(Pool {
        cidr: parse_net(&spec.cidr)?,
        nat_outgoing: spec.nat_outgoing,
        load_balancer_only: spec.allowed_uses == [AllowedUse::LoadBalancer],
        ipip: encap_mode(&spec.ipip_mode),
        vxlan: encap_mode(&spec.vxlan_mode),
    })
}

fn encap_mode(mode: &ModelEncapMode) -> EncapMode {
    match mode {
        ModelEncapMode::Always => EncapMode::Always,
        ModelEncapMode::CrossSubnet => EncapMode::CrossSubnet,
        ModelEncapMode::Never | ModelEncapMode::Other(_) => EncapMode::Never,
    }
}

/// The ranges of the default BGP configuration.
pub(crate) fn service_cidrs(spec: Option<&BGPConfigurationSpec>) -> ServiceCidrs {
    let Some(spec) = spec else { return ServiceCidrs::default() };
    let read = |cidrs: Vec<&String>| {
        let mut nets: Vec<IpNet> = cidrs.into_iter().filter_map(|text| parse_net(text)).collect();
        nets.sort();
        nets.dedup();
        nets
    };
    ServiceCidrs {
        cluster: read(spec.service_cluster_ips.iter().map(|entry| &entry.cidr).collect()),
        external: read(spec.service_external_ips.iter().map(|entry| &entry.cidr).collect()),
        load_balancer: read(spec.service_load_balancer_ips.iter().map(|entry| &entry.cidr).collect()),
    }
}
