//! Endpoints and network sets as the graph keeps them: labels, parents, addresses, and for local endpoints what the
//! dataplane is told.

use std::net::IpAddr;
use std::sync::Arc;

use calico_model::resource::endpoint::{HostEndpointSpec, WorkloadEndpointSpec};
use calico_model::{AnyResource, Dscp, ObjectMeta, Protocol};
use calico_selector::labels::{NAMESPACE, ORCHESTRATOR, SERVICE_ACCOUNT, is_reserved};
use ipnet::IpNet;
use smallvec::SmallVec;

use crate::changes::{HostEndpoint, QosControls, TierPolicies, WorkloadEndpoint, WorkloadEndpointId};
use crate::packet::{TCP, has_ports};
use crate::rules::{BadField, parse_net, shared};
use crate::sets::{Content, NamedPort};

/// The one QoS annotation that host endpoints honour.
const DSCP_ANNOTATION: &str = "qos.projectcalico.org/dscp";

/// An endpoint or network set, ready for the label indexes.
#[derive(Debug)]
pub(crate) struct Labelled<'a> {
    pub(crate) labels: Vec<(&'a str, &'a str)>,
    pub(crate) parents: Vec<Arc<str>>,
    pub(crate) content: Content,
    pub(crate) problems: Vec<BadField>,
    /// Node of an endpoint, empty for network sets.
    pub(crate) node: &'a str,
}

impl<'a> Labelled<'a> {
    /// The labelled item in a resource; `None` for other resources and for endpoints that are not valid.
    pub(crate) fn of(resource: &'a AnyResource) -> Option<Self> {
        let own = own_labels(resource.metadata());
        Some(match resource {
            AnyResource::WorkloadEndpoint(endpoint) => {
                if endpoint.spec.interface_name.is_empty() {
                    return None;
                }
                workload(&endpoint.metadata, &endpoint.spec, own)
            }
            AnyResource::HostEndpoint(endpoint) => host(&endpoint.spec, own),
            AnyResource::NetworkSet(set) => {
                let mut labels = own;
                replace(&mut labels, NAMESPACE, &set.metadata.namespace);
                let parent = shared(&format!("kns.{}", set.metadata.namespace));
                network_set(&set.spec.nets, labels, vec![parent])
            }
            AnyResource::GlobalNetworkSet(set) => network_set(&set.spec.nets, own, Vec::new()),
            _ => return None,
        })
    }
}

/// Labels without those that would pass for labels of a namespace or service account.
fn own_labels(meta: &ObjectMeta) -> Vec<(&str, &str)> {
    meta.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).filter(|(k, _)| !is_reserved(k)).collect()
}

fn replace<'a>(labels: &mut Vec<(&'a str, &'a str)>, key: &'a str, value: &'a str) {
    labels.retain(|(k, _)| *k != key);
    labels.push((key, value));
}

fn workload<'a>(
    meta: &'a ObjectMeta,
    spec: &'a WorkloadEndpointSpec,
    mut labels: Vec<(&'a str, &'a str)>,
) -> Labelled<'a> {
    replace(&mut labels, NAMESPACE, &meta.namespace);
    if !spec.orchestrator.is_empty() {
        replace(&mut labels, ORCHESTRATOR, &spec.orchestrator);
    }
    if !spec.service_account_name.is_empty() {
        replace(&mut labels, SERVICE_ACCOUNT, &spec.service_account_name);
    }
    let mut problems = Vec::new();
    let nets = host_nets(&spec.ip_networks, "spec.ipNetworks", &mut problems);
    let ports = spec.ports.iter().map(|p| (p.name.as_str(), &p.protocol, p.port));
    let content = Content { nets, ports: named_ports(ports) };
    Labelled { labels, parents: profiles(&spec.profiles), content, problems, node: &spec.node }
}

fn host<'a>(spec: &'a HostEndpointSpec, labels: Vec<(&'a str, &'a str)>) -> Labelled<'a> {
    let mut problems = Vec::new();
    let nets = host_nets(&spec.expected_ips, "spec.expectedIPs", &mut problems);
    let ports = spec.ports.iter().map(|p| (p.name.as_str(), &p.protocol, p.port));
    let content = Content { nets, ports: named_ports(ports) };
    Labelled { labels, parents: profiles(&spec.profiles), content, problems, node: &spec.node }
}

fn network_set<'a>(
    texts: &[String],
    labels: Vec<(&'a str, &'a str)>,
    parents: Vec<Arc<str>>,
) -> Labelled<'a> {
    let mut problems = Vec::new();
    let mut nets = read_all(texts, "spec.nets", parse_net, &mut problems);
    // The list is a set: a CIDR written twice counts once.
    nets.sort();
    nets.dedup();
    Labelled { labels, parents, content: Content { nets, ports: Box::default() }, problems, node: "" }
}

/// Addresses; a prefix length is ignored.
fn host_nets(texts: &[String], field: &str, problems: &mut Vec<BadField>) -> SmallVec<[IpNet; 1]> {
    let mut nets = read_all(texts, field, |text| address(text).map(IpNet::from), problems);
    nets.sort();
    nets.dedup();
    nets
}

fn read_all(
    texts: &[String],
    field: &str,
    read: impl Fn(&str) -> Option<IpNet>,
    problems: &mut Vec<BadField>,
) -> SmallVec<[IpNet; 1]> {
    let mut nets = SmallVec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        match read(text) {
            Some(net) => nets.push(net),
            None => problems.push(BadField {
                field: format!("{field}[{index}]"),
                reason: format!("{text:?} is not an address or CIDR; the entry is left out"),
            }),
        }
    }
    nets
}

/// An address with or without a prefix length, which is dropped.
pub(crate) fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().or_else(|| text.parse::<IpNet>().ok().map(|net| net.addr()))
}

fn named_ports<'a>(ports: impl Iterator<Item = (&'a str, &'a Protocol, u16)>) -> Box<[NamedPort]> {
    let mut out: Vec<NamedPort> = ports
        .filter(|(name, ..)| !name.is_empty())
        .filter_map(|(name, protocol, port)| {
            let number = if protocol.is_unset() { Some(TCP) } else { protocol.number() };
            let protocol = number.filter(|number| has_ports(*number))?;
            Some(NamedPort { name: name.into(), protocol, port })
        })
        .collect();
    out.sort_by(|a, b| (&a.name, a.protocol, a.port).cmp(&(&b.name, b.protocol, b.port)));
    out.dedup();
    out.into()
}

fn profiles(names: &[String]) -> Vec<Arc<str>> {
    names.iter().map(|name| shared(name)).collect()
}

/// The identity of a workload endpoint in the dataplane.
pub fn workload_id(namespace: &str, spec: &WorkloadEndpointSpec) -> WorkloadEndpointId {
    let workload = match spec.orchestrator.as_str() {
        "k8s" => &spec.pod,
        "cni" => &spec.container_id,
        "libnetwork" => "libnetwork",
        _ => spec.workload.as_str(),
    };
    WorkloadEndpointId {
        orchestrator: shared(&spec.orchestrator),
        workload: shared(&format!("{namespace}/{workload}")),
        endpoint: shared(&spec.endpoint),
    }
}

/// What the dataplane is told of a local workload endpoint; `None` when it has no address yet.
pub(crate) fn workload_output(
    meta: &ObjectMeta,
    spec: &WorkloadEndpointSpec,
    tiers: Arc<[TierPolicies]>,
    spoofing_allowed: bool,
) -> Option<WorkloadEndpoint> {
    let nets: Vec<IpNet> = host_nets(&spec.ip_networks, "", &mut Vec::new()).into_vec();
    if nets.is_empty() {
        return None;
    }
    let mut nat: Vec<(IpAddr, IpAddr)> = spec
        .ip_nats
        .iter()
        .filter_map(|nat| Some((nat.external_ip.parse().ok()?, nat.internal_ip.parse().ok()?)))
        .collect();
    nat.sort();
    nat.dedup();
    let mut sources: Vec<IpNet> = Vec::new();
    if spoofing_allowed {
        sources = spec.allow_spoofed_source_prefixes.iter().filter_map(|text| parse_net(text)).collect();
        sources.sort();
        sources.dedup();
    }
    Some(WorkloadEndpoint {
        id: workload_id(&meta.namespace, spec),
        interface: shared(&spec.interface_name),
        active: true,
        mac: parse_mac(&spec.mac),
        nets,
        nat,
        allowed_source_prefixes: sources,
        tiers,
        profiles: profiles(&spec.profiles).into(),
        qos: qos(spec),
    })
}

fn qos(spec: &WorkloadEndpointSpec) -> QosControls {
    let Some(qos) = &spec.qos_controls else { return QosControls::default() };
    let limit = |value: i64| u64::try_from(value).unwrap_or(0);
    QosControls {
        ingress_bandwidth: limit(qos.ingress_bandwidth),
        egress_bandwidth: limit(qos.egress_bandwidth),
        ingress_burst: limit(qos.ingress_burst),
        egress_burst: limit(qos.egress_burst),
        ingress_peakrate: limit(qos.ingress_peakrate),
        egress_peakrate: limit(qos.egress_peakrate),
        ingress_minburst: limit(qos.ingress_minburst),
        egress_minburst: limit(qos.egress_minburst),
        ingress_packet_rate: limit(qos.ingress_packet_rate),
        egress_packet_rate: limit(qos.egress_packet_rate),
        ingress_packet_burst: limit(qos.ingress_packet_burst),
        egress_packet_burst: limit(qos.egress_packet_burst),
        ingress_max_connections: limit(qos.ingress_max_connections),
        egress_max_connections: limit(qos.egress_max_connections),
        dscp: qos.dscp.as_ref().map(Dscp::value),
    }
}

/// The four stages of a host endpoint's policy.
pub(crate) struct HostStages {
    pub(crate) normal: Arc<[TierPolicies]>,
    pub(crate) forward: Arc<[TierPolicies]>,
    pub(crate) untracked: Arc<[TierPolicies]>,
    pub(crate) pre_dnat: Arc<[TierPolicies]>,
}

/// What the dataplane is told of a local host endpoint.
pub(crate) fn host_output(meta: &ObjectMeta, spec: &HostEndpointSpec, stages: HostStages) -> HostEndpoint {
    let mut expected_ips: Vec<IpAddr> = spec.expected_ips.iter().filter_map(|text| address(text)).collect();
    expected_ips.sort();
    expected_ips.dedup();
    HostEndpoint {
        name: shared(&meta.name),
        interface: shared(&spec.interface_name),
        expected_ips,
        normal: stages.normal,
        forward: stages.forward,
        untracked: stages.untracked,
        pre_dnat: stages.pre_dnat,
        profiles: profiles(&spec.profiles).into(),
        dscp: meta
            .annotations
            .get(DSCP_ANNOTATION)
            .and_then(|text| text.parse().ok())
            .map(|d: Dscp| d.value()),
    }
}

/// A MAC address in the usual notation with colons or dashes.
pub(crate) fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0_u8; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let hex = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
        let part = parts.next().filter(hex)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs() {
        assert_eq!(parse_mac("ee:EE:0a:01-02:03"), Some([0xee, 0xee, 0x0a, 1, 2, 3]));
        for bad in ["", "ee:ee:ee:ee:ee", "ee:ee:ee:ee:ee:ee:ee", "e:e:e:e:e:e", "+e:ee:ee:ee:ee:ee"] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }
}
