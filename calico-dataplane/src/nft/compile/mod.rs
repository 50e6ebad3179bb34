//! From what the policy graph says to the content of the kernel table.
//!
//! ```text
//! hook ─► base chain of a stage ─► verdict map: interface ─► pipeline ─► tiers ─► policies
//! ```
//!
//! [`Compiler::apply`] takes one flush of the graph and touches only the objects that flush concerns; a pod
//! whose policy is in use already costs a few elements, no chain and no rule. Nothing here talks to the kernel:
//! [`Compiler::table`] holds the desired content and the difference to what was committed.

mod chains;
mod hosts;
mod sets;
mod stages;
mod workloads;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use calico_policy::changes::{
    Changes, Encapsulation, HostEndpoint, HostMetadata, Pool, ServiceCidrs, TierPolicies, Vtep,
    WorkloadEndpoint, WorkloadEndpointId,
};
use calico_policy::ir::{Direction, Family, Match, Policy, PolicyId, Profile, Rule as IrRule, SetId};
use ipnet::IpNet;

use self::chains::{ChainKey, Chains, PipelineKey, Sources, Stage, Style, TierKey};
use self::hosts::{Assignment, HostSlot, assign};
use self::sets::IpSets;
use self::stages::Shape;
use self::workloads::Workloads;
use super::batch::Origin;
use super::build::{family_of, ifname_key, net_key};
use super::config::{Config, DenyAction};
use super::expr::Verdict;
use super::object::{Element, Elements, Field, Flowtable, Key, MapData, Name, SetSpec, Value};
use super::table::Table;
use crate::driver::{ApplyReport, InterfaceState};

/// The table everything lives in.
pub const TABLE: &str = "calico";

/// Compiles flushes of the policy graph into the content of the table.
///
/// ```
/// use calico_dataplane::driver::InterfaceState;
/// use calico_dataplane::nft::compile::Compiler;
/// use calico_policy::changes::Changes;
///
/// let mut compiler = Compiler::default();
/// compiler.apply(&Changes::default(), &InterfaceState::default());
/// // Without any endpoint, traffic of workload-looking interfaces is dropped already.
/// assert!(compiler.table().desired().chains.contains_key("forward-20-from-workload"));
/// ```
#[derive(Debug)]
pub struct Compiler {
    config: Config,
    table: Table,
    sets: IpSets,
    chains: Chains,
    policies: BTreeMap<PolicyId, Arc<Policy>>,
    profiles: BTreeMap<Arc<str>, Arc<Profile>>,
    /// Policies and profiles that look a set up.
    set_users: BTreeMap<SetId, BTreeSet<User>>,
    workloads: Workloads,
    host_endpoints: BTreeMap<Arc<str>, Arc<HostEndpoint>>,
    interfaces: InterfaceState,
    /// What host-endpoint maps hold: pipeline, or accept when there is nothing to evaluate.
    installed_hosts: BTreeMap<(HostSlot, Arc<str>), Option<ChainKey>>,
    /// Endpoints of all other interfaces.
    installed_everything: BTreeMap<HostSlot, ChainKey>,
    /// Elements the kernel refused, with the endpoint they belong to.
    refused_hosts: BTreeMap<Arc<str>, String>,
    pools: BTreeMap<IpNet, Pool>,
    hosts: BTreeMap<Arc<str>, HostMetadata>,
    vteps: BTreeMap<(Arc<str>, bool), Vtep>,
    encapsulation: Encapsulation,
    services: Arc<ServiceCidrs>,
    shape: Shape,
    static_chains: BTreeSet<Name>,
    started: bool,
    unreadable: Vec<String>,
    /// The kernel does not take the flowtable with these interfaces.
    offload_refused: bool,
}

/// Who looks a set up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum User {
    Policy(PolicyId),
    Profile(Arc<str>),
}

impl Default for Compiler {
    fn default() -> Self {
        Self::new(Config::default())
    }
}

/// The parts of the compiler that chains are made from, borrowed apart from the chains themselves.
macro_rules! sources {
    ($compiler:expr) => {
        Sources {
            config: &$compiler.config,
            policies: &$compiler.policies,
            profiles: &$compiler.profiles,
            sets: &$compiler.sets,
        }
    };
}

impl Compiler {
    /// A compiler that was told nothing yet.
    pub fn new(config: Config) -> Self {
        Self {
            sets: IpSets::default(),
            config,
            table: Table::new(TABLE),
            chains: Chains::default(),
            policies: BTreeMap::new(),
            profiles: BTreeMap::new(),
            set_users: BTreeMap::new(),
            workloads: Workloads::default(),
            host_endpoints: BTreeMap::new(),
            interfaces: InterfaceState::default(),
            installed_hosts: BTreeMap::new(),
            installed_everything: BTreeMap::new(),
            refused_hosts: BTreeMap::new(),
            pools: BTreeMap::new(),
            hosts: BTreeMap::new(),
            vteps: BTreeMap::new(),
            encapsulation: Encapsulation::default(),
            services: Arc::default(),
            shape: Shape::default(),
            static_chains: BTreeSet::new(),
            started: false,
            unreadable: Vec::new(),
            offload_refused: false,
        }
    }

    /// The desired content and what the kernel lacks of it.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// For telling the table what was committed or read back.
    pub fn table_mut(&mut self) -> &mut Table {
        &mut self.table
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Parameters of the last configuration that could not be read and kept their default.
    pub fn unreadable_parameters(&self) -> &[String] {
        &self.unreadable
    }

    /// Absorbs one flush and the state of the interfaces.
    pub fn apply(&mut self, changes: &Changes, interfaces: &InterfaceState) {
        let first = !std::mem::replace(&mut self.started, true);
        let reconfigured = self.configure(changes);
        changes.sets.iter().for_each(|update| self.sets.replace(&mut self.table, update));
        changes.set_deltas.iter().for_each(|delta| self.sets.change(&mut self.table, delta));
        changes.policies.iter().for_each(|policy| self.policy(&policy.id, Some(policy)));
        changes.profiles.iter().for_each(|profile| self.profile(&profile.name, Some(profile)));
        for endpoint in &changes.workload_endpoints {
            self.workloads.update(endpoint);
        }
        for id in &changes.removed_workload_endpoints {
            self.workloads.remove(id);
        }
        let mut hosts_dirty = first || reconfigured || *interfaces != self.interfaces;
        hosts_dirty |= !changes.host_endpoints.is_empty() || !changes.removed_host_endpoints.is_empty();
        for endpoint in &changes.host_endpoints {
            self.host_endpoints.insert(endpoint.name.clone(), endpoint.clone());
            self.refused_hosts.remove(&endpoint.name);
        }
        for name in &changes.removed_host_endpoints {
            self.host_endpoints.remove(name);
            self.refused_hosts.remove(name);
        }
        if *interfaces != self.interfaces {
            self.interfaces = interfaces.clone();
            self.offload_refused = false;
        }
        changes.removed_profiles.iter().for_each(|name| self.profile(name, None));
        changes.removed_policies.iter().for_each(|id| self.policy(id, None));
        changes.removed_sets.iter().for_each(|id| self.sets.remove(id));
        if reconfigured {
            self.workloads.all_dirty();
            self.chains.rebuild(&mut self.table, &sources!(self));
        }
        let network_dirty = self.network(changes) || first || reconfigured;

        let shape_before = self.shape.clone();
        if first {
            self.create_dispatch();
        }
        self.install_workloads();
        if hosts_dirty {
            self.install_hosts();
        }
        if network_dirty {
            self.install_network();
        }
        if self.workloads.take_special_dirty() || hosts_dirty || network_dirty {
            self.install_special();
            self.install_flowtable();
        }
        self.rewrite_users_of_renamed_sets();
        if first || reconfigured || self.shape != shape_before {
            self.write_stages();
        }
        self.chains.sweep(&mut self.table);
        self.sets.sweep(&mut self.table);
    }

    fn configure(&mut self, changes: &Changes) -> bool {
        let Some(parameters) = &changes.config else { return false };
        let (config, unreadable) = Config::from_parameters(parameters);
        self.unreadable = unreadable;
        if config == self.config {
            return false;
        }
        self.config = config;
        true
    }

    fn policy(&mut self, id: &PolicyId, policy: Option<&Arc<Policy>>) {
        let before = match policy {
            Some(policy) => self.policies.insert(id.clone(), policy.clone()),
            None => self.policies.remove(id),
        };
        let user = User::Policy(id.clone());
        self.follow_sets(
            &user,
            before.as_deref().map(policy_rules),
            policy.map(|policy| policy_rules(policy)),
        );
        let sources = sources!(self);
        self.chains.policy_changed(&mut self.table, &sources, id, before.as_deref(), policy.map(|p| &**p));
    }

    fn profile(&mut self, name: &Arc<str>, profile: Option<&Arc<Profile>>) {
        let before = match profile {
            Some(profile) => self.profiles.insert(name.clone(), profile.clone()),
            None => self.profiles.remove(name),
        };
        let rules = |profile: &Profile| -> Vec<IrRule> {
            profile.ingress.iter().chain(&profile.egress).cloned().collect()
        };
        let user = User::Profile(name.clone());
        self.follow_sets(&user, before.as_deref().map(rules), profile.map(|profile| rules(profile)));
        let sources = sources!(self);
        self.chains.profile_changed(&mut self.table, &sources, name, before.is_some() != profile.is_some());
    }

    fn follow_sets(&mut self, user: &User, before: Option<Vec<IrRule>>, after: Option<Vec<IrRule>>) {
        for set in before.iter().flatten().flat_map(sets_of) {
            if let Some(users) = self.set_users.get_mut(set) {
                users.remove(user);
                if users.is_empty() {
                    self.set_users.remove(set);
                }
            }
        }
        for set in after.iter().flatten().flat_map(sets_of) {
            self.set_users.entry(set.clone()).or_default().insert(user.clone());
        }
    }

    fn rewrite_users_of_renamed_sets(&mut self) {
        let renamed = self.sets.take_renamed();
        let users: BTreeSet<User> =
            renamed.iter().filter_map(|set| self.set_users.get(set)).flatten().cloned().collect();
        for user in users {
            let sources = sources!(self);
            match user {
                User::Policy(id) => {
                    let policy = self.policies.get(&id).cloned();
                    let policy = policy.as_deref();
                    self.chains.policy_changed(&mut self.table, &sources, &id, policy, policy);
                }
                User::Profile(name) => {
                    self.chains.profile_changed(&mut self.table, &sources, &name, false);
                }
            }
        }
    }

    fn create_dispatch(&mut self) {
        for map in
            [stages::FROM_WORKLOAD, stages::TO_WORKLOAD, stages::FROM_WORKLOAD_RATE, stages::TO_WORKLOAD_RATE]
        {
            self.table.add_set(&map.into(), SetSpec::map(&[Field::Ifname], MapData::Verdict));
        }
        for (family, addr) in [(Family::V4, Field::Ipv4), (Family::V6, Field::Ipv6)] {
            let sources = stages::sets::name(family, false, stages::sets::SOURCES);
            self.table.add_set(&sources, SetSpec::hash(&[Field::Ifname, addr]));
            let spoof = stages::sets::name(family, true, stages::sets::SPOOF);
            self.table.add_set(&spoof, SetSpec::ranges(&[Field::Ifname, addr]));
        }
    }

    fn install_workloads(&mut self) {
        let sources = sources!(self);
        self.workloads.install(&mut self.table, &mut self.chains, &sources);
        let in_use =
            |table: &Table, name: Name| table.elements(&name).is_some_and(|elements| !elements.is_empty());
        self.shape.rates = [
            in_use(&self.table, stages::FROM_WORKLOAD_RATE.into()),
            in_use(&self.table, stages::TO_WORKLOAD_RATE.into()),
        ];
        let families = [Family::V4, Family::V6];
        self.shape.spoof =
            families.map(|family| in_use(&self.table, stages::sets::name(family, true, stages::sets::SPOOF)));
        for (index, family) in families.into_iter().enumerate() {
            self.install_floating(index, family);
        }
    }

    /// Sources whose packets get a DSCP value, and addresses whose connections stay out of the flowtable.
    fn install_special(&mut self) {
        let mut marked: BTreeMap<(usize, u8), Elements> = BTreeMap::new();
        let mut kept: [Elements; 2] = Default::default();
        let mut add = |dscp: Option<u8>, address: IpAddr| {
            let (index, key) = (usize::from(address.is_ipv6()), Key::value(&super::build::octets(address)));
            if let Some(value) = dscp {
                marked.entry((index, value)).or_default().insert(key.clone(), Element::default());
            }
            kept[index].insert(key, Element::default());
        };
        for endpoint in self.workloads.special() {
            endpoint.nets.iter().for_each(|net| add(endpoint.qos.dscp, net.addr()));
        }
        for endpoint in self.host_endpoints.values().filter(|endpoint| endpoint.dscp.is_some()) {
            endpoint.expected_ips.iter().for_each(|address| add(endpoint.dscp, *address));
        }
        let before = std::mem::take(&mut self.shape.dscp);
        for (index, family) in [Family::V4, Family::V6].into_iter().enumerate() {
            let addr = super::build::addr_field(family);
            for ((_, value), elements) in marked.iter().filter(|((of, _), _)| *of == index) {
                let name = stages::sets::dscp(family, *value);
                self.table.add_set(&name, SetSpec::hash(&[addr]));
                self.table.replace_elements(&name, elements.clone());
                self.shape.dscp[index].insert(*value);
            }
            for gone in before[index].difference(&self.shape.dscp[index]) {
                self.table.remove_set(&stages::sets::dscp(family, *gone));
            }
            let name = stages::sets::name(family, false, stages::sets::NO_OFFLOAD);
            if self.config.flow_offload {
                self.table.add_set(&name, SetSpec::hash(&[addr]));
                self.table.replace_elements(&name, std::mem::take(&mut kept[index]));
            } else {
                self.table.remove_set(&name);
            }
        }
    }

    /// The flowtable spans workloads, tunnels and what the configuration names, as far as they exist. The kernel takes
    /// an interface out by itself when it goes.
    fn install_flowtable(&mut self) {
        let named = |name: &str| {
            self.config.flow_interfaces.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => name == pattern,
            })
        };
        let belongs = |name: &str| {
            let workload =
                self.config.interface_prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()));
            workload || named(name) || self.shape.tunnels.iter().any(|tunnel| **tunnel == *name)
        };
        let wanted = self.config.flow_offload && !self.offload_refused;
        let existing = self.interfaces.interfaces.keys().filter(|name| belongs(name));
        let devices: BTreeSet<Name> = existing.cloned().collect();
        self.shape.offload = wanted && !devices.is_empty();
        let flowtable = self.shape.offload.then_some(Flowtable { priority: 0, devices });
        self.table.set_flowtable(&stages::FLOWTABLE.into(), flowtable);
    }

    /// Floating addresses: external to internal; an external address claimed twice leads to the lowest internal one.
    fn install_floating(&mut self, index: usize, family: Family) {
        let pairs = self.workloads.floating(family);
        let names = [stages::sets::FLOATING, stages::sets::HAIRPIN, "floating-self"]
            .map(|what| stages::sets::name(family, false, what));
        self.shape.floating[index] = !pairs.is_empty();
        if pairs.is_empty() {
            names.iter().for_each(|name| self.table.remove_set(name));
            return;
        }
        let addr = super::build::addr_field(family);
        let data = |ip: &IpAddr| {
            let value = Value::Data(super::build::octets(*ip).as_slice().into());
            Element { value: Some(value), comment: None }
        };
        let key = |ip: &IpAddr| Key::value(&super::build::octets(*ip));
        let dnat: Elements =
            pairs.iter().map(|(external, internal)| (key(external), data(internal))).collect();
        let mut snat = Elements::new();
        let mut own = Elements::new();
        for (external, internal) in &pairs {
            snat.entry(key(internal)).or_insert_with(|| data(external));
            let octets = super::build::octets(*internal);
            own.insert(Key::value(&[octets.as_slice(), octets.as_slice()].concat()), Element::default());
        }
        let map = SetSpec::map(&[addr], MapData::Field(addr));
        for (name, spec, elements) in
            [(0, map.clone(), dnat), (1, map, snat), (2, SetSpec::hash(&[addr, addr]), own)]
        {
            self.table.add_set(&names[name], spec);
            self.table.replace_elements(&names[name], elements);
        }
    }

    fn install_hosts(&mut self) {
        let prefixes = self.config.interface_prefixes.clone();
        let is_workload = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()));
        let assignment = assign(&self.host_endpoints, &self.interfaces, is_workload);
        let wanted = self.wanted_hosts(&assignment);
        let everything = self.wanted_everything(&assignment);
        let used: BTreeSet<HostSlot> =
            wanted.keys().map(|(slot, _)| *slot).chain(everything.keys().copied()).collect();

        let sources = sources!(self);
        for slot in HostSlot::ALL {
            let map: Name = slot.map().into();
            if !used.contains(&slot) {
                self.table.remove_set(&map);
                continue;
            }
            self.table.add_set(&map, SetSpec::map(&[Field::Ifname], MapData::Verdict));
            let mut elements = Elements::new();
            for ((_, interface), key) in wanted.iter().filter(|((of, _), _)| *of == slot) {
                let verdict = match key {
                    Some(key) => Verdict::Goto(self.chains.acquire(&mut self.table, &sources, key)),
                    None => Verdict::Accept,
                };
                let comment = assignment.interfaces.get(interface).map(|name| clipped(name));
                let element = Element { value: Some(Value::Verdict(verdict)), comment };
                elements.insert(Key { low: ifname_key(interface), high: None }, element);
            }
            self.table.replace_elements(&map, elements);
        }
        self.shape.hosts = used
            .iter()
            .map(|slot| {
                let chain =
                    everything.get(slot).map(|key| self.chains.acquire(&mut self.table, &sources, key));
                (*slot, chain)
            })
            .collect();
        let old = std::mem::replace(&mut self.installed_hosts, wanted);
        old.values().flatten().for_each(|key| self.chains.release(key));
        let old = std::mem::replace(&mut self.installed_everything, everything);
        old.values().for_each(|key| self.chains.release(key));
    }

    /// What each slot's map should lead to, for interfaces with an endpoint of their own.
    fn wanted_hosts(&self, assignment: &Assignment) -> BTreeMap<(HostSlot, Arc<str>), Option<ChainKey>> {
        let mut wanted = BTreeMap::new();
        for (interface, name) in &assignment.interfaces {
            let Some(endpoint) = self.host_endpoints.get(name) else { continue };
            for slot in HostSlot::ALL {
                let key = self.host_pipeline(endpoint, slot);
                // Without anything to evaluate the interface still must not fall to the endpoint of all others.
                let shields = assignment.everything.is_some()
                    && !matches!(slot, HostSlot::UntrackedIn | HostSlot::UntrackedOut);
                if key.is_some() || shields {
                    wanted.insert((slot, interface.clone()), key);
                }
            }
        }
        wanted
    }

    fn wanted_everything(&self, assignment: &Assignment) -> BTreeMap<HostSlot, ChainKey> {
        let endpoint = assignment.everything.as_ref().and_then(|name| self.host_endpoints.get(name));
        let Some(endpoint) = endpoint else { return BTreeMap::new() };
        HostSlot::ALL
            .into_iter()
            // doNotTrack policy of a `*` endpoint is ignored, as in the reference.
            .filter(|slot| !matches!(slot, HostSlot::UntrackedIn | HostSlot::UntrackedOut))
            .filter_map(|slot| Some((slot, self.host_pipeline(endpoint, slot)?)))
            .collect()
    }

    /// The pipeline of one stage; `None` when the stage has nothing to decide.
    fn host_pipeline(&self, endpoint: &HostEndpoint, slot: HostSlot) -> Option<ChainKey> {
        let style = match slot {
            HostSlot::UntrackedIn | HostSlot::UntrackedOut => Style::Untracked,
            HostSlot::PreDnat => Style::PreDnat,
            // The postrouting hook cannot reject.
            HostSlot::Out if self.config.deny == DenyAction::Reject => Style::FilterDrop,
            _ => Style::Filter,
        };
        let tiers = tier_keys(slot.tiers(endpoint), slot.direction(), style);
        let stage = slot.stage();
        if tiers.is_empty() && stage != Stage::Host {
            return None;
        }
        Some(ChainKey::Pipeline(Arc::new(PipelineKey {
            stage,
            direction: slot.direction(),
            style,
            tiers,
            profiles: if stage == Stage::Host { endpoint.profiles.clone() } else { Arc::default() },
            max_connections: None,
        })))
    }

    /// Notes what changed of pools, nodes and tunnels; true when anything did.
    fn network(&mut self, changes: &Changes) -> bool {
        let mut dirty = false;
        for cidr in &changes.removed_pools {
            dirty |= self.pools.remove(cidr).is_some();
        }
        for pool in &changes.pools {
            dirty = true;
            self.pools.insert(pool.cidr, pool.clone());
        }
        for name in &changes.removed_hosts {
            dirty |= self.hosts.remove(name).is_some();
        }
        for host in &changes.hosts {
            dirty = true;
            self.hosts.insert(host.name.clone(), host.clone());
        }
        for node in &changes.removed_vteps {
            dirty = true;
            self.vteps.retain(|(name, _), _| name != node);
        }
        for vtep in &changes.vteps {
            dirty = true;
            self.vteps.insert((vtep.node.clone(), vtep.addr.is_ipv6()), vtep.clone());
        }
        if let Some(encapsulation) = changes.encapsulation {
            dirty = true;
            self.encapsulation = encapsulation;
        }
        if let Some(services) = &changes.service_cidrs {
            dirty = true;
            self.services = services.clone();
        }
        dirty
    }

    fn install_network(&mut self) {
        let pools: Vec<&Pool> = self.pools.values().collect();
        let masquerade: Vec<IpNet> =
            pools.iter().filter(|pool| pool.nat_outgoing).map(|pool| pool.cidr).collect();
        let all: Vec<IpNet> =
            pools.iter().filter(|pool| !pool.load_balancer_only).map(|pool| pool.cidr).collect();
        let hosts: Vec<IpNet> = self
            .hosts
            .values()
            .flat_map(|host| [host.ipv4, host.ipv6])
            .flatten()
            .map(IpNet::from)
            .chain(self.config.external_nodes.iter().copied())
            .collect();
        let vteps: Vec<IpNet> = self
            .vteps
            .values()
            .map(|vtep| IpNet::from(vtep.parent))
            .chain(self.config.external_nodes.iter().copied())
            .collect();
        for (index, family) in [Family::V4, Family::V6].into_iter().enumerate() {
            let addr = super::build::addr_field(family);
            for (what, nets) in [
                (stages::sets::MASQUERADE, &masquerade),
                (stages::sets::POOLS, &all),
                (stages::sets::HOSTS, &hosts),
                (stages::sets::VTEPS, &vteps),
            ] {
                let mine: Vec<IpNet> = nets.iter().filter(|net| family_of(net) == family).copied().collect();
                let elements =
                    IpNet::aggregate(&mine).iter().map(|net| (net_key(net), Element::default())).collect();
                let name = stages::sets::name(family, true, what);
                self.table.add_set(&name, SetSpec::ranges(&[addr]));
                self.table.replace_elements(&name, elements);
            }
            self.shape.masquerade[index] = masquerade.iter().any(|net| family_of(net) == family);
        }
        self.shape.ipip = self.encapsulation.ipip;
        self.shape.vxlan = [self.encapsulation.vxlan, self.encapsulation.vxlan_v6];
        let devices = [
            ("tunl0", self.encapsulation.ipip),
            ("vxlan.calico", self.encapsulation.vxlan),
            ("vxlan-v6.calico", self.encapsulation.vxlan_v6),
            ("wireguard.cali", self.config.wireguard_ports[0].is_some()),
            ("wg-v6.cali", self.config.wireguard_ports[1].is_some()),
        ];
        self.shape.tunnels =
            devices.iter().filter(|(_, used)| *used).map(|(name, _)| (*name).into()).collect();
        let services = &self.services;
        self.shape.services = services
            .cluster
            .iter()
            .chain(&services.external)
            .chain(&services.load_balancer)
            .copied()
            .collect();
    }

    fn write_stages(&mut self) {
        let chains = stages::chains(&self.config, &self.shape);
        let names: BTreeSet<Name> = chains.keys().cloned().collect();
        for gone in self.static_chains.difference(&names) {
            self.table.remove_chain(gone);
        }
        for (name, chain) in chains {
            self.table.set_chain(&name, chain);
        }
        self.static_chains = names;
    }

    /// Takes the object of a refusal out of the way, so that everything else can be applied. False when the
    /// object is not one that can fail closed alone.
    pub fn refuse(&mut self, origin: &Origin, element: Option<&Key>, reason: &str) -> bool {
        match origin {
            Origin::Chain(name) | Origin::Rule { chain: name, .. } => {
                let sources = sources!(self);
                self.chains.refuse(&mut self.table, &sources, name, reason.to_owned())
            }
            Origin::Set(name) | Origin::Elements(name) => {
                if let Some(id) = self.sets.owner(name).cloned() {
                    self.sets.refuse(&mut self.table, &id, reason.to_owned());
                    self.rewrite_users_of_renamed_sets();
                    self.chains.sweep(&mut self.table);
                    return true;
                }
                // Without a word about which element it is, all that came or changed are suspects.
                let suspects = element.map_or_else(|| self.table.pending_keys(name), |key| vec![key.clone()]);
                let mut closed = false;
                for key in &suspects {
                    closed |= self.workloads.refuse(&mut self.table, name, key, reason)
                        || self.refuse_host(name, key, reason);
                }
                closed
            }
            // An interface that is gone, or a kernel without flowtables: go on without until the interfaces change.
            Origin::Flowtable(_) if !self.offload_refused => {
                self.offload_refused = true;
                self.install_flowtable();
                self.write_stages();
                true
            }
            Origin::Transaction | Origin::Table | Origin::Counter(_) | Origin::Flowtable(_) => false,
        }
    }

    fn refuse_host(&mut self, map: &Name, key: &Key, reason: &str) -> bool {
        let found = self
            .installed_hosts
            .keys()
            .find(|(slot, interface)| slot.map() == &**map && ifname_key(interface) == key.low);
        let Some((_, interface)) = found else { return false };
        let prefixes = self.config.interface_prefixes.clone();
        let is_workload = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()));
        let assignment = assign(&self.host_endpoints, &self.interfaces, is_workload);
        if let Some(name) = assignment.interfaces.get(interface) {
            self.refused_hosts.insert(name.clone(), reason.to_owned());
        }
        let closed = Element { value: Some(Value::Verdict(Verdict::Drop)), comment: None };
        if self.table.elements(map).and_then(|elements| elements.get(key)) == Some(&closed) {
            return false;
        }
        self.table.set_element(map, key.clone(), closed);
        true
    }

    /// Which endpoints fail closed, and why.
    pub fn report(&self, messages: usize) -> ApplyReport {
        let mut report = ApplyReport { messages, ..ApplyReport::default() };
        report.failed_endpoints = self.workloads.failures(&self.chains);
        report.failed_host_endpoints.clone_from(&self.refused_hosts);
        for name in self.host_endpoints.keys() {
            let Some(endpoint) = self.host_endpoints.get(name) else { continue };
            let reason = HostSlot::ALL
                .into_iter()
                .filter_map(|slot| self.host_pipeline(endpoint, slot))
                .find_map(|key| self.chains.failure(&key));
            if let Some(reason) = reason {
                report.failed_host_endpoints.insert(name.clone(), reason);
            }
        }
        report
    }

    /// The workload interface that an address is behind.
    pub fn interface_of(&self, address: IpAddr) -> Option<&str> {
        self.workloads.interface_of(address)
    }

    /// Addresses of this machine.
    pub fn host_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.interfaces.interfaces.values().flat_map(|info| info.addresses.iter().copied())
    }

    /// True for an address of this machine.
    pub fn is_host_address(&self, address: IpAddr) -> bool {
        self.host_addresses().any(|own| own == address)
    }

    /// The endpoints this compiler polices, by interface.
    pub fn workload_interfaces(&self) -> impl Iterator<Item = (&Arc<str>, &WorkloadEndpointId)> {
        self.workloads.interfaces()
    }
}

/// The tiers that have an enforced policy for the direction.
fn tier_keys(tiers: &[TierPolicies], direction: Direction, style: Style) -> Vec<Arc<TierKey>> {
    tiers
        .iter()
        .filter_map(|tier| {
            let policies: Vec<PolicyId> =
                tier.policies(direction).iter().filter(|id| !id.kind.is_staged()).cloned().collect();
            (!policies.is_empty()).then(|| {
                Arc::new(TierKey {
                    tier: tier.tier.clone(),
                    default: tier.default_action,
                    direction,
                    style,
                    policies,
                })
            })
        })
        .collect()
}

/// The pipeline of a workload endpoint.
fn workload_pipeline(endpoint: &WorkloadEndpoint, direction: Direction) -> ChainKey {
    let limit = match direction {
        Direction::Ingress => endpoint.qos.ingress_max_connections,
        Direction::Egress => endpoint.qos.egress_max_connections,
    };
    let max_connections = u32::try_from(limit).ok().filter(|limit| *limit > 0);
    ChainKey::Pipeline(Arc::new(PipelineKey {
        stage: Stage::Workload,
        direction,
        style: Style::Filter,
        tiers: tier_keys(&endpoint.tiers, direction, Style::Filter),
        profiles: endpoint.profiles.clone(),
        max_connections: max_connections.map(|limit| (endpoint.interface.clone(), limit)),
    }))
}

fn policy_rules(policy: &Policy) -> Vec<IrRule> {
    policy.ingress.iter().chain(&policy.egress).cloned().collect()
}

fn sets_of(rule: &IrRule) -> impl Iterator<Item = &SetId> {
    rule.matches.iter().flat_map(|criterion| match criterion {
        Match::AddrInSet { set, .. } => std::slice::from_ref(set),
        Match::Ports { named, .. } => named.as_slice(),
        _ => &[],
    })
}

fn clipped(text: &str) -> Name {
    super::object::clip(text, super::object::MAX_ELEMENT_COMMENT).into()
}
