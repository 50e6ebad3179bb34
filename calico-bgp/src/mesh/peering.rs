//! The sessions of a node: the mesh, BGPPeers that apply to it, and the answers to BGPPeers that point at it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use calico_model::{
    BGPPeerSpec, BgpPassword, GoDuration, Kind, NextHopMode as ModelHop, ReversePeering, SourceAddress,
};
use calico_selector::Selector;

use super::filters::{Direction, compile};
use super::{DEFAULT_AS, Mesh, NodeInfo, Problem, SecretRef};
use crate::config::{Authentication, GracefulRestartConfig, NextHopMode, PeerConfig, PeerKind, Ttl};
use crate::policy::{CalicoExport, ExportPolicy, Filter, ImportPolicy, local_pref_of_metric};
use crate::wire::Family;
use crate::wire::iana::BGP_PORT;

/// A session before its parameters are worked out.
#[derive(Debug, Clone)]
struct Record<'a> {
    kind: PeerKind,
    address: IpAddr,
    port: Option<u16>,
    asn: u32,
    cluster_id: Option<Ipv4Addr>,
    /// The address belongs to a node of the cluster.
    is_node: bool,
    /// The BGPPeer that asks for it; `None` for the mesh.
    object: Option<(&'a str, &'a BGPPeerSpec)>,
}

/// Collects sessions and what goes wrong with them.
pub(super) struct Peering<'a> {
    mesh: &'a Mesh,
    own: &'a NodeInfo,
    own_as: u32,
    global_as: u32,
    exports: [Arc<CalicoExport>; 2],
    records: Vec<Record<'a>>,
    pub(super) problems: Vec<Problem>,
    pub(super) secrets: std::collections::BTreeSet<SecretRef>,
}

impl<'a> Peering<'a> {
    pub(super) fn new(mesh: &'a Mesh, own: &'a NodeInfo, exports: [Arc<CalicoExport>; 2]) -> Self {
        let global_as = mesh.global_as();
        Peering {
            mesh,
            own,
            own_as: own.asn().unwrap_or(global_as),
            global_as,
            exports,
            records: Vec::new(),
            problems: Vec::new(),
            secrets: std::collections::BTreeSet::new(),
        }
    }

    fn problem(&mut self, name: &str, field: &str, text: impl Into<String>) {
        let problem =
            Problem { kind: Kind::BGPPeer, name: name.into(), field: field.into(), text: text.into() };
        self.problems.push(problem);
    }

    /// All sessions, by name.
    pub(super) fn sessions(&mut self) -> BTreeMap<Arc<str>, Arc<PeerConfig>> {
        self.add_mesh();
        let objects: Vec<_> = self.mesh.peers.iter().map(|(name, spec)| (name.as_str(), spec)).collect();
        // Broad peerings first, then those of this node, then the answers to peerings of others: the first one of a
        // scope and address wins. Objects are read in the order of their names, so that the winner is always the same.
        for (name, spec) in objects.iter().copied().filter(|(_, spec)| is_global(spec)) {
            self.add_object(name, spec, PeerKind::Global);
        }
        for (name, spec) in objects.iter().copied().filter(|(_, spec)| !is_global(spec)) {
            if self.selects_local(name, spec) {
                self.add_object(name, spec, PeerKind::Node);
            }
        }
        for (name, spec) in objects {
            self.add_reverse(name, spec);
        }
        let records = std::mem::take(&mut self.records);
        let mut sessions: BTreeMap<Arc<str>, Arc<PeerConfig>> = BTreeMap::new();
        let mut taken: BTreeMap<Arc<str>, String> = BTreeMap::new();
        let globals: Vec<_> =
            records.iter().filter(|r| r.kind == PeerKind::Global).map(|r| (r.address, r.port)).collect();
        for record in records {
            if Family::ALL.into_iter().any(|family| self.own.address(family) == Some(record.address)) {
                continue;
            }
            if record.kind == PeerKind::Node && globals.contains(&(record.address, record.port)) {
                continue;
            }
            let Some(config) = self.session(&record) else { continue };
            let asked_by = record.object.map_or("the mesh", |(name, _)| name).to_owned();
            match taken.get(&config.name) {
                Some(first) if *first != asked_by => {
                    let text =
                        format!("{} is already configured by {first}; this one is not used", config.name);
                    self.problem(&asked_by, "spec", text);
                }
                Some(_) => {}
                None => {
                    taken.insert(config.name.clone(), asked_by);
                    sessions.insert(config.name.clone(), Arc::new(config));
                }
            }
        }
        self.problems.sort();
        self.problems.dedup();
        sessions
    }

    fn add_mesh(&mut self) {
        let enabled = self.mesh.global.as_ref().and_then(|c| c.node_to_node_mesh_enabled).unwrap_or(true);
        if !enabled || self.own.is_reflector() {
            return;
        }
        for (name, node) in self
            .mesh
            .nodes
            .iter()
            .filter(|(name, node)| **name != self.mesh.settings.node && !node.is_reflector())
        {
            for family in Family::ALL {
                let Some(address) = node.address(family) else { continue };
                self.records.push(Record {
                    kind: PeerKind::Mesh,
                    address,
                    port: self.mesh.listen_port(name),
                    // Without a number of its own a node has that of the cluster, whatever ours is.
                    asn: node.asn().unwrap_or(self.global_as),
                    cluster_id: None,
                    is_node: true,
                    object: None,
                });
            }
        }
    }

    fn selector(&mut self, name: &str, field: &str, text: &str) -> Option<Selector> {
        match Selector::parse(text) {
            Ok(selector) => Some(selector),
            Err(error) => {
                self.problem(name, field, error.to_string());
                None
            }
        }
    }

    /// Whether an object of limited scope is for this node.
    fn selects_local(&mut self, name: &str, spec: &BGPPeerSpec) -> bool {
        if !spec.node.is_empty() {
            return spec.node == self.mesh.settings.node;
        }
        let labels = &self.own.labels;
        self.selector(name, "spec.nodeSelector", &spec.node_selector).is_some_and(|s| s.matches(labels))
    }

    fn add_object(&mut self, name: &'a str, spec: &'a BGPPeerSpec, kind: PeerKind) {
        if !spec.local_workload_selector.is_empty() {
            self.add_workloads(name, spec);
        } else if !spec.peer_selector.is_empty() {
            let Some(selector) = self.selector(name, "spec.peerSelector", &spec.peer_selector) else {
                return;
            };
            let mesh = self.mesh;
            for (node, info) in mesh.nodes.iter().filter(|(_, info)| selector.matches(&info.labels)) {
                self.add_node(name, spec, kind, node, info, None);
            }
        } else if let Some((address, port)) = self.peer_address(name, spec) {
            let owner = self.node_with(address, spec.as_number.0);
            self.records.push(Record {
                kind,
                address,
                port: port.or_else(|| owner.and_then(|(node, _)| self.mesh.listen_port(node))),
                asn: spec.as_number.0,
                cluster_id: None,
                is_node: self.mesh.nodes.values().any(|node| has_address(node, address)),
                object: Some((name, spec)),
            });
        }
    }

    /// A session with a node for every family that it has an address of.
    fn add_node(
        &mut self,
        name: &'a str,
        spec: &'a BGPPeerSpec,
        kind: PeerKind,
        node: &str,
        info: &NodeInfo,
        only: Option<Family>,
    ) {
        for family in Family::ALL.into_iter().filter(|family| only.is_none_or(|only| only == *family)) {
            let Some(address) = info.address(family) else { continue };
            self.records.push(Record {
                kind,
                address,
                port: self.mesh.listen_port(node),
                asn: info.asn().unwrap_or(self.global_as),
                cluster_id: info.cluster_id(),
                is_node: true,
                object: Some((name, spec)),
            });
        }
    }

    /// `peerIP` with its port.
    fn peer_address(&mut self, name: &str, spec: &BGPPeerSpec) -> Option<(IpAddr, Option<u16>)> {
        let found = parse_peer(&spec.peer_ip);
        if found.is_none() {
            let text = format!("{:?} is no address; write IP, IPv4:port or [IPv6]:port", spec.peer_ip);
            self.problem(name, "spec.peerIP", text);
        }
        found
    }

    /// The node that has this address and this AS number, where 0 stands for the cluster's.
    fn node_with(&self, address: IpAddr, asn: u32) -> Option<(&'a str, &'a NodeInfo)> {
        let asn = if asn == 0 { self.global_as } else { asn };
        let mut nodes = self.mesh.nodes.iter();
        let found =
            nodes.find(|(_, node)| has_address(node, address) && node.asn().unwrap_or(self.global_as) == asn);
        found.map(|(name, node)| (name.as_str(), node))
    }

    /// A BGPPeer that makes other nodes peer with this one makes this one peer with them.
    fn add_reverse(&mut self, name: &'a str, spec: &'a BGPPeerSpec) {
        if matches!(spec.reverse_peering, ReversePeering::Manual) || !spec.local_workload_selector.is_empty()
        {
            return;
        }
        let labels = &self.own.labels;
        let (points_here, family) = if !spec.peer_selector.is_empty() {
            let Ok(selector) = Selector::parse(&spec.peer_selector) else { return };
            (selector.matches(labels), None)
        } else {
            let Some((address, port)) = parse_peer(&spec.peer_ip) else { return };
            let ours = self
                .node_with(address, spec.as_number.0)
                .is_some_and(|(node, _)| node == self.mesh.settings.node);
            let own_port = self.mesh.listen_port(&self.mesh.settings.node).unwrap_or(BGP_PORT);
            (ours && port.is_none_or(|port| port == own_port), Some(Family::of(address)))
        };
        if !points_here {
            return;
        }
        let selector = if spec.node.is_empty() && !spec.node_selector.is_empty() {
            let Ok(selector) = Selector::parse(&spec.node_selector) else { return };
            Some(selector)
        } else {
            None
        };
        let mesh = self.mesh;
        let remote = mesh.nodes.iter().filter(|(node, info)| {
            (spec.node.is_empty() || **node == spec.node)
                && selector.as_ref().is_none_or(|selector| selector.matches(&info.labels))
                && **node != mesh.settings.node
        });
        for (node, info) in remote {
            self.add_node(name, spec, PeerKind::Node, node, info, family);
        }
    }

    /// Sessions with workloads of this node.
    fn add_workloads(&mut self, name: &'a str, spec: &'a BGPPeerSpec) {
        let Some(selector) = self.selector(name, "spec.localWorkloadSelector", &spec.local_workload_selector)
        else {
            return;
        };
        if spec.as_number.0 == 0 {
            self.problem(
                name,
                "spec.asNumber",
                "is required beside localWorkloadSelector; no session is made",
            );
            return;
        }
        let mesh = self.mesh;
        for workload in mesh.workloads.values() {
            let labels = |key: &str| {
                let inherited = || {
                    let mut profiles =
                        workload.profiles.iter().filter_map(|profile| mesh.profiles.get(profile));
                    profiles.find_map(|labels| labels.get(key))
                };
                workload.labels.get(key).or_else(inherited).map(String::as_str)
            };
            if !selector.matches(&calico_selector::labels::from_fn(labels)) {
                continue;
            }
            for family in Family::ALL {
                let first = workload.networks.iter().find(|net| Family::of(net.addr()) == family);
                let Some(net) = first else { continue };
                self.records.push(Record {
                    kind: PeerKind::LocalWorkload,
                    address: net.addr(),
                    port: None,
                    asn: spec.as_number.0,
                    cluster_id: None,
                    is_node: false,
                    object: Some((name, spec)),
                });
            }
        }
    }

    /// The parameters of one session.
    fn session(&mut self, record: &Record<'a>) -> Option<PeerConfig> {
        let family = Family::of(record.address);
        let own_address = self.own.address(family)?;
        let spec = record.object.map(|(_, spec)| spec);
        let is_workload = record.kind == PeerKind::LocalWorkload;
        let local_as = spec.and_then(|spec| spec.local_as_number).map_or(self.own_as, |number| number.0);
        let remote_as = if record.asn == 0 { self.global_as } else { record.asn };
        let mut config = PeerConfig::new(&session_name(record), record.address, local_as, remote_as);
        config.kind = record.kind;
        config.port = record.port.unwrap_or(BGP_PORT);
        let other = match family {
            Family::Ipv4 => Family::Ipv6,
            Family::Ipv6 => Family::Ipv4,
        };
        config.other_family_address = self.own.address(other);
        let use_own =
            !is_workload && !spec.is_some_and(|spec| matches!(spec.source_address, SourceAddress::None));
        config.local_address = use_own.then_some(own_address);
        config.passive = match record.kind {
            PeerKind::LocalWorkload => true,
            // What BIRD nodes do: the node whose address is the greater text dials.
            PeerKind::Mesh => record.address.to_string() > own_address.to_string(),
            PeerKind::Global => record.is_node && record.address.to_string() > own_address.to_string(),
            PeerKind::Node => false,
        };
        let internal = local_as == remote_as;
        if let Some(own_cluster) = self.own.cluster_id().filter(|_| internal && record.object.is_some())
            && record.cluster_id != Some(own_cluster)
        {
            config.reflector_client = Some(own_cluster);
        }
        let mut restart = GracefulRestartConfig::default();
        let restart_time = match spec {
            Some(spec) => spec.max_restart_time.filter(|_| !is_workload),
            None => self.mesh.global.as_ref().and_then(|global| global.node_mesh_max_restart_time),
        };
        if let Some(time) = restart_time {
            restart.restart_time = whole_seconds(time);
        }
        config.graceful_restart = Some(restart);
        let password = match spec {
            Some(spec) => spec.password.as_ref().filter(|_| !is_workload),
            None => self.mesh.global.as_ref().and_then(|global| global.node_mesh_password.as_ref()),
        };
        config.authentication = self.authentication(password);
        match record.object {
            Some((name, _)) => {
                if let Some(extensions) = self.mesh.extensions.get(name) {
                    extensions.apply(&mut config);
                    for (field, text) in &extensions.problems {
                        self.problem(name, field, text.clone());
                    }
                }
            }
            None => self.mesh.global_extensions.apply(&mut config),
        }
        if let Some((name, spec)) = record.object {
            if let Some(hops) = spec.ttl_security.filter(|hops| *hops > 0) {
                config.ttl = Ttl::Security(hops);
            }
            if let Some(time) = spec.keepalive_time.filter(|_| !is_workload) {
                let time = whole_seconds(time).max(Duration::from_secs(1));
                config.keepalive_time = Some(time);
                // A short keepalive without a short hold time would notice nothing sooner.
                config.hold_time = (time * 3).max(Duration::from_secs(3));
            }
            let allowed = spec.num_allowed_local_as_numbers.unwrap_or(0);
            config.allow_own_as = u8::try_from(allowed.clamp(0, 255)).unwrap_or(0);
            config.next_hop = match &spec.next_hop_mode {
                ModelHop::SelfHop => NextHopMode::SelfAddress,
                ModelHop::Keep => NextHopMode::Keep,
                ModelHop::Auto => NextHopMode::Auto,
                ModelHop::Other(_) if spec.keep_original_next_hop && !internal => NextHopMode::Keep,
                ModelHop::Other(_) => NextHopMode::Auto,
            };
            if !spec.reachable_by.is_empty() {
                let gateway = spec.reachable_by.parse::<IpAddr>().ok();
                if gateway.is_none_or(|gateway| Family::of(gateway) != family) {
                    let text = format!(
                        "{:?} is no address of the peer's family; no session is made",
                        spec.reachable_by
                    );
                    self.problem(name, "spec.reachableBy", text);
                    return None;
                }
            }
        }
        let export = self.exports.get(family.index())?.clone();
        let mesh_filters = &self.mesh.global_extensions.node_mesh_filters;
        let filters = record.object.map_or(mesh_filters, |(_, spec)| &spec.filters);
        config.import = ImportPolicy {
            filters: self.filters(record, filters, Direction::Import, family),
            elevated_above: Some(local_pref_of_metric(export.normal_priority)),
        };
        let export_filters = self.filters(record, filters, Direction::Export, family);
        config.export = Arc::new(ExportPolicy {
            filters: if export_filters.is_empty() {
                BTreeMap::new()
            } else {
                BTreeMap::from([(family, export_filters)])
            },
            calico: Some(export),
        });
        Some(config)
    }

    fn filters(
        &mut self,
        record: &Record<'_>,
        names: &[String],
        direction: Direction,
        family: Family,
    ) -> Vec<Arc<Filter>> {
        let mut compiled = Vec::new();
        for name in names {
            match self.mesh.filters.get(name) {
                Some(spec) => compiled.extend(compile(name, spec, direction, family, &mut self.problems)),
                None => {
                    let object = record.object.map_or("", |(object, _)| object).to_owned();
                    self.problem(
                        &object,
                        "spec.filters",
                        format!("there is no BGPFilter {name}; it is left out"),
                    );
                }
            }
        }
        compiled
    }

    fn authentication(&mut self, password: Option<&BgpPassword>) -> Authentication {
        let Some(password) = password else { return Authentication::None };
        let Some(reference) = &password.secret_key_ref else { return Authentication::None };
        let secret = SecretRef { name: reference.name.clone(), key: reference.key.clone() };
        let authentication = match self.mesh.secrets.get(&secret) {
            Some(Ok(value)) if (1..=80).contains(&value.len()) => Authentication::Md5(value.clone()),
            Some(Ok(_)) => {
                let text = format!("secret {}/{} does not have 1 to 80 octets", secret.name, secret.key);
                Authentication::Unavailable(text.into())
            }
            Some(Err(why)) => Authentication::Unavailable(why.clone()),
            None => {
                let text = format!("secret {}/{} was not read yet", secret.name, secret.key);
                Authentication::Unavailable(text.into())
            }
        };
        self.secrets.insert(secret);
        authentication
    }
}

impl Mesh {
    pub(super) fn global_as(&self) -> u32 {
        self.global.as_ref().and_then(|global| global.as_number).map_or(DEFAULT_AS, |number| number.0)
    }

    /// The port that a node listens on, when something is said about it.
    pub(super) fn listen_port(&self, node: &str) -> Option<u16> {
        let configured = |spec: Option<&calico_model::BGPConfigurationSpec>| {
            spec.map(|spec| spec.listen_port).filter(|port| *port != 0)
        };
        let own = if node == self.settings.node {
            configured(self.own.as_ref())
        } else {
            self.services.node_port(node)
        };
        own.or_else(|| configured(self.global.as_ref()))
    }
}

fn is_global(spec: &BGPPeerSpec) -> bool {
    spec.node.is_empty() && spec.node_selector.is_empty()
}

fn has_address(node: &NodeInfo, address: IpAddr) -> bool {
    node.address(Family::of(address)) == Some(address)
}

/// `IP`, `IPv4:port` or `[IPv6]:port`.
pub(super) fn parse_peer(text: &str) -> Option<(IpAddr, Option<u16>)> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some((address, None));
    }
    let socket = text.parse::<std::net::SocketAddr>().ok()?;
    let zoned = matches!(socket, std::net::SocketAddr::V6(v6) if v6.scope_id() != 0);
    (socket.port() != 0 && !zoned).then(|| (socket.ip(), Some(socket.port())))
}

/// Durations are rounded to seconds, halves away from zero.
fn whole_seconds(time: GoDuration) -> Duration {
    let duration = time.as_duration();
    Duration::from_secs(duration.as_secs() + u64::from(duration.subsec_nanos() >= 500_000_000))
}

/// The name of the BIRD protocol that the reference would run for the session.
fn session_name(record: &Record<'_>) -> String {
    let scope = match record.kind {
        PeerKind::Mesh => "Mesh_",
        PeerKind::Global => "Global_",
        PeerKind::Node => "Node_",
        PeerKind::LocalWorkload => "Local_Workload_",
    };
    let mut name = format!("{scope}{}", record.address).replace(['.', ':'], "_");
    if let Some(port) = record.port.filter(|_| record.kind != PeerKind::Mesh) {
        name.push_str(&format!("_port_{port}"));
    }
    name
}
