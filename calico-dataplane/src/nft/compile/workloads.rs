//! Workload endpoints: an interface each, in the verdict maps and the sets of allowed sources.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use calico_policy::changes::{WorkloadEndpoint, WorkloadEndpointId};
use calico_policy::ir::{Direction, Family};
use ipnet::IpNet;

use super::chains::{ChainKey, Chains, Sources};
use super::stages::{self, sets};
use super::{clipped, workload_pipeline};
use crate::nft::build::{family_of, ifname_key, octets};
use crate::nft::expr::Verdict;
use crate::nft::object::{Element, Key, KeyBytes, Name, Value};
use crate::nft::table::Table;

/// What the kernel has for one interface.
#[derive(Debug)]
struct Installed {
    id: WorkloadEndpointId,
    chains: Vec<ChainKey>,
    /// Elements by set.
    elements: BTreeMap<Name, BTreeMap<Key, Element>>,
}

/// All workload endpoints of the node.
#[derive(Debug, Default)]
pub(super) struct Workloads {
    endpoints: BTreeMap<WorkloadEndpointId, Arc<WorkloadEndpoint>>,
    /// The lowest of several endpoints with one interface wins.
    by_interface: BTreeMap<Arc<str>, BTreeSet<WorkloadEndpointId>>,
    installed: BTreeMap<Arc<str>, Installed>,
    dirty: BTreeSet<Arc<str>>,
    /// Endpoints with floating addresses.
    floating: BTreeSet<WorkloadEndpointId>,
    refused: BTreeMap<WorkloadEndpointId, String>,
    /// Endpoints with a DSCP value, or with limits that a flowtable would undo.
    special: BTreeSet<WorkloadEndpointId>,
    special_dirty: bool,
    /// Interface behind each workload address.
    addresses: BTreeMap<IpAddr, Arc<str>>,
}

impl Workloads {
    pub(super) fn update(&mut self, endpoint: &Arc<WorkloadEndpoint>) {
        self.remove(&endpoint.id);
        self.by_interface.entry(endpoint.interface.clone()).or_default().insert(endpoint.id.clone());
        self.dirty.insert(endpoint.interface.clone());
        if !endpoint.nat.is_empty() {
            self.floating.insert(endpoint.id.clone());
        }
        if is_special(endpoint) {
            self.special.insert(endpoint.id.clone());
            self.special_dirty = true;
        }
        for net in &endpoint.nets {
            self.addresses.insert(net.addr(), endpoint.interface.clone());
        }
        self.endpoints.insert(endpoint.id.clone(), endpoint.clone());
    }

    /// The interface that an address is behind.
    pub(super) fn interface_of(&self, address: IpAddr) -> Option<&str> {
        self.addresses.get(&address).map(|interface| &**interface)
    }

    pub(super) fn remove(&mut self, id: &WorkloadEndpointId) {
        self.refused.remove(id);
        self.floating.remove(id);
        self.special_dirty |= self.special.remove(id);
        let Some(endpoint) = self.endpoints.remove(id) else { return };
        if let Some(ids) = self.by_interface.get_mut(&endpoint.interface) {
            ids.remove(id);
            if ids.is_empty() {
                self.by_interface.remove(&endpoint.interface);
            }
        }
        for net in &endpoint.nets {
            if self.addresses.get(&net.addr()) == Some(&endpoint.interface) {
                self.addresses.remove(&net.addr());
            }
        }
        self.dirty.insert(endpoint.interface.clone());
    }

    pub(super) fn all_dirty(&mut self) {
        self.dirty.extend(self.by_interface.keys().cloned());
    }

    pub(super) fn interfaces(&self) -> impl Iterator<Item = (&Arc<str>, &WorkloadEndpointId)> {
        self.installed.iter().map(|(interface, installed)| (interface, &installed.id))
    }

    /// Whether the answer of [`Self::special`] may have changed.
    pub(super) fn take_special_dirty(&mut self) -> bool {
        std::mem::take(&mut self.special_dirty)
    }

    /// Endpoints with a DSCP value, or with limits that a flowtable would undo.
    pub(super) fn special(&self) -> impl Iterator<Item = &WorkloadEndpoint> {
        self.special.iter().filter_map(|id| self.endpoints.get(id)).map(|endpoint| &**endpoint)
    }

    /// Floating addresses of one family: external to internal.
    pub(super) fn floating(&self, family: Family) -> BTreeMap<IpAddr, IpAddr> {
        let mut pairs: BTreeMap<IpAddr, IpAddr> = BTreeMap::new();
        let all = self.floating.iter().filter_map(|id| self.endpoints.get(id)).flat_map(|e| &e.nat);
        for (external, internal) in all {
            if external.is_ipv4() == (family == Family::V4) && external.is_ipv4() == internal.is_ipv4() {
                let lowest = pairs.entry(*external).or_insert(*internal);
                *lowest = (*lowest).min(*internal);
            }
        }
        pairs
    }

    /// Brings the table up to date for every interface that changed.
    pub(super) fn install(&mut self, table: &mut Table, chains: &mut Chains, sources: &Sources<'_>) {
        for interface in std::mem::take(&mut self.dirty) {
            let winner = self.by_interface.get(&interface).and_then(|ids| ids.first());
            let endpoint = winner.and_then(|id| self.endpoints.get(id));
            let new = endpoint.map(|endpoint| install(table, chains, sources, endpoint));
            let old = match new {
                Some(new) => self.installed.insert(interface.clone(), new),
                None => self.installed.remove(&interface),
            };
            let now = self.installed.get(&interface);
            let Some(old) = old else { continue };
            for (set, elements) in &old.elements {
                let kept = now.and_then(|now| now.elements.get(set));
                for key in elements.keys().filter(|key| kept.is_none_or(|kept| !kept.contains_key(*key))) {
                    table.remove_element(set, key);
                }
            }
            old.chains.iter().for_each(|key| chains.release(key));
        }
    }

    /// Closes the endpoint whose element the kernel refused. False when no endpoint has it.
    pub(super) fn refuse(&mut self, table: &mut Table, set: &Name, key: &Key, reason: &str) -> bool {
        let owner = self
            .installed
            .values_mut()
            .find(|installed| installed.elements.get(set).is_some_and(|elements| elements.contains_key(key)));
        let Some(owner) = owner else { return false };
        // An interface without an element in the maps is an unknown one: dropped.
        for (set, elements) in std::mem::take(&mut owner.elements) {
            elements.keys().for_each(|key| table.remove_element(&set, key));
        }
        self.refused.insert(owner.id.clone(), reason.to_owned());
        true
    }

    /// Which endpoints fail closed, and why.
    pub(super) fn failures(&self, chains: &Chains) -> BTreeMap<WorkloadEndpointId, String> {
        let mut failures = self.refused.clone();
        for installed in self.installed.values() {
            if let Some(reason) = installed.chains.iter().find_map(|key| chains.failure(key)) {
                failures.insert(installed.id.clone(), reason);
            }
        }
        failures
    }
}

fn is_special(endpoint: &WorkloadEndpoint) -> bool {
    let qos = &endpoint.qos;
    let limits = [
        qos.ingress_packet_rate,
        qos.egress_packet_rate,
        qos.ingress_max_connections,
        qos.egress_max_connections,
    ];
    qos.dscp.is_some() || limits.iter().any(|limit| *limit > 0)
}

fn install(
    table: &mut Table,
    chains: &mut Chains,
    sources: &Sources<'_>,
    endpoint: &WorkloadEndpoint,
) -> Installed {
    let mut installed = Installed { id: endpoint.id.clone(), chains: Vec::new(), elements: BTreeMap::new() };
    let interface = Key { low: ifname_key(&endpoint.interface), high: None };
    let id = &endpoint.id;
    let comment = clipped(&format!("{} {} {}", id.orchestrator, id.workload, id.endpoint));
    for (direction, map) in
        [(Direction::Ingress, stages::TO_WORKLOAD), (Direction::Egress, stages::FROM_WORKLOAD)]
    {
        let verdict = if endpoint.active {
            let key = workload_pipeline(endpoint, direction);
            let chain = chains.acquire(table, sources, &key);
            installed.chains.push(key);
            Verdict::Goto(chain)
        } else {
            Verdict::Drop
        };
        put(&mut installed, table, map, &interface, verdict_element(verdict, Some(comment.clone())));
    }
    let qos = &endpoint.qos;
    for (direction, map, rate, burst) in [
        (Direction::Ingress, stages::TO_WORKLOAD_RATE, qos.ingress_packet_rate, qos.ingress_packet_burst),
        (Direction::Egress, stages::FROM_WORKLOAD_RATE, qos.egress_packet_rate, qos.egress_packet_burst),
    ] {
        if rate > 0 {
            let burst = u32::try_from(burst.max(1)).unwrap_or(u32::MAX);
            let key = ChainKey::Rate { interface: endpoint.interface.clone(), direction, rate, burst };
            let chain = chains.acquire(table, sources, &key);
            installed.chains.push(key);
            put(&mut installed, table, map, &interface, verdict_element(Verdict::Jump(chain), None));
        }
    }
    for net in &endpoint.nets {
        let set = sets::name(family_of(net), false, sets::SOURCES);
        let key = Key { low: with_addr(&interface.low, net.addr()), high: None };
        put(&mut installed, table, &set, &key, Element::default());
    }
    let prefixes: Vec<IpNet> = IpNet::aggregate(&endpoint.allowed_source_prefixes);
    for net in &prefixes {
        let set = sets::name(family_of(net), true, sets::SPOOF);
        let low = with_addr(&interface.low, net.network());
        let high = with_addr(&interface.low, net.broadcast());
        put(&mut installed, table, &set, &Key::range(&low, &high), Element::default());
    }
    installed
}

fn put(installed: &mut Installed, table: &mut Table, set: &str, key: &Key, element: Element) {
    let set: Name = set.into();
    table.set_element(&set, key.clone(), element.clone());
    installed.elements.entry(set).or_default().insert(key.clone(), element);
}

fn verdict_element(verdict: Verdict, comment: Option<Name>) -> Element {
    Element { value: Some(Value::Verdict(verdict)), comment }
}

fn with_addr(interface: &KeyBytes, addr: IpAddr) -> KeyBytes {
    let mut bytes = interface.clone();
    bytes.extend_from_slice(&octets(addr));
    bytes
}
