//! Which addresses of services a node announces.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use calico_model::k8s::KubernetesObject;
use calico_model::k8s::types::{EndpointSlice, Service, ServiceSpec};
use calico_model::{KubernetesKey, KubernetesKind};
use ipnet::IpNet;

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A node with this label, set to `true`, announces no service addresses.
pub(super) const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// Ranges of service addresses that a cluster announces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceCidrs {
    /// Cluster addresses.
    pub cluster: Vec<IpNet>,
    /// External addresses.
    pub external: Vec<IpNet>,
    /// Addresses of load balancers.
    pub load_balancer: Vec<IpNet>,
    /// Ranges of load balancers are announced as a whole.
    pub aggregate: bool,
}

impl ServiceCidrs {
    /// Every range.
    pub fn all(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.cluster.iter().chain(&self.external).chain(&self.load_balancer).copied()
    }

    /// Ranges that are announced as they are: all of cluster addresses, of the others those of more than one address.
    pub fn announced(&self) -> impl Iterator<Item = IpNet> + '_ {
        let wide = |net: &&IpNet| net.prefix_len() < net.max_prefix_len();
        let balancers = self.load_balancer.iter().filter(move |_| self.aggregate);
        self.cluster.iter().chain(self.external.iter().filter(wide)).chain(balancers.filter(wide)).copied()
    }
}

/// Whether a node takes part in announcing services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exclusion {
    /// It does.
    TakesPart,
    /// It is labelled not to.
    Excluded,
}

type Name = (String, String);

/// Services and their endpoints, and the ports that other nodes listen on.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Services {
    services: BTreeMap<Name, Service>,
    /// By service, then by slice.
    slices: BTreeMap<Name, BTreeMap<String, EndpointSlice>>,
    /// The service of every slice, for a deletion names only the slice.
    owners: BTreeMap<Name, Name>,
    node_ports: BTreeMap<String, u16>,
}

impl Services {
    pub(super) fn apply(&mut self, key: &KubernetesKey, object: Option<&KubernetesObject>) -> bool {
        let name = (key.namespace.clone(), key.name.clone());
        match (key.kind, object) {
            (KubernetesKind::Service, Some(KubernetesObject::Service(service))) => {
                super::replace(&mut self.services, name, Some(service.clone()))
            }
            (KubernetesKind::Service, _) => super::replace(&mut self.services, name, None),
            (KubernetesKind::EndpointSlice, object) => {
                let slice = match object {
                    Some(KubernetesObject::EndpointSlice(slice)) => Some(slice),
                    _ => None,
                };
                let owner = slice.and_then(|slice| slice.metadata.labels.get(SERVICE_NAME)).cloned();
                let owner = owner.map(|service| (key.namespace.clone(), service));
                let mut changed = false;
                let before = match &owner {
                    Some(owner) => self.owners.insert(name.clone(), owner.clone()),
                    None => self.owners.remove(&name),
                };
                if let Some(before) = before.filter(|before| owner.as_ref() != Some(before))
                    && let Some(slices) = self.slices.get_mut(&before)
                {
                    changed |= slices.remove(&name.1).is_some();
                    if slices.is_empty() {
                        self.slices.remove(&before);
                    }
                }
                if let (Some(owner), Some(slice)) = (owner, slice) {
                    changed |=
                        super::replace(self.slices.entry(owner).or_default(), name.1, Some(slice.clone()));
                }
                changed
            }
            _ => false,
        }
    }

    pub(super) fn set_node_port(&mut self, resource: &str, port: Option<u16>) -> bool {
        let Some(node) = resource.strip_prefix("node.") else { return false };
        super::replace(&mut self.node_ports, node.into(), port.filter(|port| *port != 0))
    }

    pub(super) fn node_port(&self, node: &str) -> Option<u16> {
        self.node_ports.get(node).copied()
    }

    /// Addresses of services to announce one by one.
    pub(super) fn addresses(
        &self,
        cidrs: &ServiceCidrs,
        node: &str,
        exclusion: Exclusion,
    ) -> BTreeSet<IpNet> {
        if exclusion == Exclusion::Excluded {
            return BTreeSet::new();
        }
        let announced =
            self.services.iter().filter(|(name, service)| self.is_announced(name, service, cidrs, node));
        announced.flat_map(|(_, service)| service_addresses(service, cidrs)).map(IpNet::from).collect()
    }

    fn is_announced(&self, name: &Name, service: &Service, cidrs: &ServiceCidrs, node: &str) -> bool {
        let spec = &service.spec;
        if !matches!(spec.r#type.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer" | "")
            || spec.cluster_ip.is_empty()
            || spec.cluster_ip == "None"
        {
            return false;
        }
        let local = spec.external_traffic_policy == "Local";
        if !local {
            let single = |nets: &[IpNet], address: &str| {
                let address = address.parse::<IpAddr>().ok().map(IpNet::from);
                address.is_some_and(|address| nets.contains(&address))
            };
            let balanced = spec.r#type == "LoadBalancer"
                && ingress(service)
                    .chain([spec.load_balancer_ip.as_str()])
                    .any(|address| single(&cidrs.load_balancer, address));
            if balanced || spec.external_ips.iter().any(|address| single(&cidrs.external, address)) {
                return true;
            }
            if cidrs.aggregate {
                return false;
            }
        }
        // Without a ready endpoint nobody would answer, whatever is still stored of the service.
        let slices = self.slices.get(name).into_iter().flat_map(BTreeMap::values);
        slices
            .filter(|slice| families_of(spec).contains(&slice.address_type.as_str()))
            .flat_map(|slice| &slice.endpoints)
            .filter(|endpoint| endpoint.conditions.ready.unwrap_or(true))
            .any(|endpoint| !local || endpoint.node_name == node)
    }
}

fn ingress(service: &Service) -> impl Iterator<Item = &str> {
    service.status.load_balancer.ingress.iter().map(|ingress| ingress.ip.as_str()).filter(|ip| !ip.is_empty())
}

/// Families of a service, by its cluster addresses: what the API server calls `ipFamilies`.
fn families_of(spec: &ServiceSpec) -> BTreeSet<&'static str> {
    let addresses = spec.cluster_ips.iter().chain([&spec.cluster_ip]);
    addresses
        .filter_map(|address| address.parse::<IpAddr>().ok())
        .map(|address| if address.is_ipv4() { "IPv4" } else { "IPv6" })
        .collect()
}

fn service_addresses<'a>(service: &'a Service, cidrs: &'a ServiceCidrs) -> impl Iterator<Item = IpAddr> + 'a {
    let spec = &service.spec;
    let within = |nets: &'a [IpNet]| move |address: &IpAddr| nets.iter().any(|net| net.contains(address));
    let parse = |address: &str| address.parse::<IpAddr>().ok();
    let mut cluster: Vec<&str> = spec.cluster_ips.iter().map(String::as_str).collect();
    if cluster.is_empty() {
        cluster.push(&spec.cluster_ip);
    }
    let cluster = cluster.into_iter().filter_map(parse).filter(within(&cidrs.cluster));
    let external = spec.external_ips.iter().filter_map(move |a| parse(a)).filter(within(&cidrs.external));
    let balancers = ingress(service).filter_map(parse).filter(within(&cidrs.load_balancer));
    cluster.chain(external).chain(balancers)
}
