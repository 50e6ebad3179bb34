//! Workload interfaces: kernel parameters, static neighbours, host routes and the status of each endpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use calico_policy::changes::{WorkloadEndpoint, WorkloadEndpointId};
use ipnet::IpNet;

use super::interfaces::Interfaces;
use super::routes::{Candidate, RouteClass, RouteManager, RouteStanding, Target};
use crate::netlink::{Family, MacAddr, Neighbour, RouteProtocol};
use crate::pod::{Setting, host_settings};
use crate::reconcile::Table;

/// How an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointStatus {
    /// Its interface is configured, its policy and its routes are in the kernel.
    Up,
    /// Not yet or no longer, and why.
    Down(String),
    /// Something was refused; it is tried again.
    Error(String),
}

/// The kernel parameters that an interface should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceSettings {
    /// Index: an interface that was made anew has none of the parameters of the old one.
    pub index: u32,
    /// It carries IPv4.
    pub ipv4: bool,
    /// It carries IPv6.
    pub ipv6: bool,
    /// Reverse path filter.
    pub rp_filter: &'static str,
}

impl InterfaceSettings {
    /// The parameters to write.
    pub fn list(&self, interface: &str) -> Vec<Setting> {
        let mut settings = host_settings(interface, self.ipv4, self.ipv6);
        if self.ipv4 {
            settings.push(Setting {
                name: format!("net/ipv4/conf/{interface}/rp_filter"),
                value: self.rp_filter,
                required: true,
            });
        }
        settings
    }
}

/// What the policy side said about endpoints.
#[derive(Debug, Clone, Default)]
pub struct PolicyStanding {
    /// Everything that was told so far is in force, but for [`Self::failed`].
    pub in_force: bool,
    /// Why it is not, as a whole.
    pub error: Option<String>,
    /// Endpoints whose own rules were refused.
    pub failed: BTreeMap<WorkloadEndpointId, String>,
}

/// Decides over workload interfaces.
#[derive(Debug)]
pub struct EndpointManager {
    endpoints: BTreeMap<WorkloadEndpointId, Arc<WorkloadEndpoint>>,
    by_interface: BTreeMap<Arc<str>, BTreeSet<WorkloadEndpointId>>,
    claimed: BTreeMap<Arc<str>, BTreeSet<IpNet>>,
    settings: Table<Arc<str>, InterfaceSettings>,
    neighbours: Table<(u32, IpAddr), MacAddr>,
    errors: BTreeMap<Arc<str>, String>,
    statuses: BTreeMap<WorkloadEndpointId, EndpointStatus>,
    rp_filter: &'static str,
}

impl EndpointManager {
    /// No endpoints. `rp_filter` is what the node has as default: endpoints that may spoof get 0 instead.
    pub fn new(rp_filter: &str) -> Self {
        let rp_filter = match rp_filter {
            "0" => "0",
            "2" => "2",
            _ => "1",
        };
        Self {
            endpoints: BTreeMap::new(),
            by_interface: BTreeMap::new(),
            claimed: BTreeMap::new(),
            settings: Table::new(),
            neighbours: Table::new(),
            errors: BTreeMap::new(),
            statuses: BTreeMap::new(),
            rp_filter,
        }
    }

    /// An endpoint is new or changed.
    pub fn update(
        &mut self,
        endpoint: Arc<WorkloadEndpoint>,
        routes: &mut RouteManager,
        interfaces: &Interfaces,
    ) {
        let id = endpoint.id.clone();
        let interface = endpoint.interface.clone();
        let before = self.endpoints.insert(id.clone(), endpoint);
        if let Some(old) = before.filter(|old| old.interface != interface) {
            self.detach(&id, &old.interface);
            self.decide(&old.interface, routes, interfaces);
        }
        self.by_interface.entry(interface.clone()).or_default().insert(id);
        self.decide(&interface, routes, interfaces);
    }

    /// An endpoint is gone.
    pub fn remove(&mut self, id: &WorkloadEndpointId, routes: &mut RouteManager, interfaces: &Interfaces) {
        let Some(old) = self.endpoints.remove(id) else { return };
        self.detach(id, &old.interface);
        self.decide(&old.interface, routes, interfaces);
    }

    fn detach(&mut self, id: &WorkloadEndpointId, interface: &Arc<str>) {
        if let Some(ids) = self.by_interface.get_mut(interface) {
            ids.remove(id);
            if ids.is_empty() {
                self.by_interface.remove(interface);
            }
        }
    }

    /// Something about an interface changed.
    pub fn interface_changed(&mut self, name: &Arc<str>, routes: &mut RouteManager, interfaces: &Interfaces) {
        if interfaces.by_name(name).is_none() {
            self.settings.vanished(name);
            self.errors.remove(name);
        }
        self.decide(name, routes, interfaces);
    }

    /// The endpoint that an interface belongs to: of several the one with the lowest identity.
    fn holder(&self, interface: &str) -> Option<&Arc<WorkloadEndpoint>> {
        self.endpoints.get(self.by_interface.get(interface)?.first()?)
    }

    fn decide(&mut self, name: &Arc<str>, routes: &mut RouteManager, interfaces: &Interfaces) {
        let holder = self.holder(name).cloned();
        let active = holder.as_ref().filter(|endpoint| endpoint.active);
        let wanted: BTreeSet<IpNet> = active
            .map(|endpoint| {
                let floating = endpoint.nat.iter().map(|(external, _)| IpNet::from(*external));
                endpoint.nets.iter().map(IpNet::trunc).chain(floating).collect()
            })
            .unwrap_or_default();
        let before = self.claimed.remove(name).unwrap_or_default();
        for dst in before.difference(&wanted) {
            routes.remove(RouteClass::LocalWorkload, name, *dst);
        }
        for dst in wanted.difference(&before) {
            let candidate =
                Candidate { target: Target::Device(name.clone()), protocol: RouteProtocol::BOOT, mtu: None };
            routes.set(RouteClass::LocalWorkload, name, *dst, candidate);
        }
        if !wanted.is_empty() {
            self.claimed.insert(name.clone(), wanted);
        }
        self.decide_settings(name, holder.as_deref(), interfaces);
        self.decide_neighbours(name, holder.as_deref(), interfaces);
    }

    fn decide_settings(
        &mut self,
        name: &Arc<str>,
        holder: Option<&WorkloadEndpoint>,
        interfaces: &Interfaces,
    ) {
        let link = interfaces.by_name(name).filter(|link| link.is_up());
        match (holder, link) {
            (Some(endpoint), Some(link)) => {
                let has = |family| endpoint.nets.iter().any(|net| Family::of(net.addr()) == family);
                let spoofs = !endpoint.allowed_source_prefixes.is_empty();
                let settings = InterfaceSettings {
                    index: link.index,
                    ipv4: has(Family::V4),
                    ipv6: has(Family::V6),
                    rp_filter: if spoofs { "0" } else { self.rp_filter },
                };
                self.settings.set(name.clone(), settings);
            }
            _ => {
                // Parameters need no cleaning: they go with the interface.
                self.settings.remove(name);
                self.settings.vanished(name);
            }
        }
    }

    fn decide_neighbours(
        &mut self,
        name: &Arc<str>,
        holder: Option<&WorkloadEndpoint>,
        interfaces: &Interfaces,
    ) {
        let Some(link) = interfaces.by_name(name) else { return };
        let index = link.index;
        let mut wanted: BTreeMap<IpAddr, MacAddr> = BTreeMap::new();
        if let Some(endpoint) = holder.filter(|endpoint| endpoint.active)
            && let Some(mac) = endpoint.mac
            && link.is_up()
        {
            let v4 = endpoint.nets.iter().filter(|net| net.addr().is_ipv4() && net.prefix_len() == 32);
            wanted.extend(v4.map(|net| (net.addr(), MacAddr(mac))));
        }
        let (low, high) = bounds(index);
        let stale: Vec<(u32, IpAddr)> = self
            .neighbours
            .all_desired()
            .map(|(key, _)| *key)
            .filter(|key| (low..=high).contains(key) && !wanted.contains_key(&key.1))
            .collect();
        for key in stale {
            self.neighbours.remove(&key);
        }
        for (ip, mac) in wanted {
            self.neighbours.set((index, ip), mac);
        }
        if !link.is_up() {
            self.interface_lost_neighbours(index);
        }
    }

    /// The kernel drops all neighbours of an interface that goes down or away.
    pub fn interface_lost_neighbours(&mut self, index: u32) {
        let lost: Vec<(u32, IpAddr)> =
            self.neighbours.all_actual().map(|(key, _)| *key).filter(|key| key.0 == index).collect();
        for key in lost {
            self.neighbours.vanished(&key);
        }
    }

    /// The permanent neighbours on workload interfaces, from a complete reading.
    pub fn refresh_neighbours(&mut self, entries: Vec<Neighbour>, interfaces: &Interfaces) -> usize {
        let ours = entries.into_iter().filter(|entry| entry.permanent).filter_map(|entry| {
            let link = interfaces.by_index(entry.interface)?;
            let key = (entry.interface, entry.ip?);
            interfaces.is_workload(link).then_some((key, entry.mac?))
        });
        self.neighbours.refresh(ours.collect::<BTreeMap<_, _>>())
    }

    /// Interfaces whose parameters are to be written now.
    pub fn settings_pending(&mut self, now: Instant) -> Vec<(Arc<str>, InterfaceSettings)> {
        self.settings
            .pending(now)
            .filter_map(|delta| Some((delta.key.clone(), delta.desired?.clone())))
            .collect()
    }

    /// The outcome of writing the parameters of an interface.
    pub fn settings_finished(&mut self, name: &Arc<str>, error: Option<String>, now: Instant) {
        match error {
            None => {
                self.errors.remove(name);
                self.settings.applied(name);
            }
            Some(error) => {
                self.errors.insert(name.clone(), error);
                self.settings.failed(name, now);
            }
        }
    }

    /// Neighbours to set (true) or delete (false) now.
    pub fn neighbours_pending(&mut self, now: Instant) -> Vec<(bool, Neighbour)> {
        let entry = |key: &(u32, IpAddr), mac: &MacAddr| Neighbour::permanent(key.0, key.1, *mac);
        self.neighbours
            .pending(now)
            .filter_map(|delta| match (delta.desired, delta.actual) {
                (Some(mac), _) => Some((true, entry(delta.key, mac))),
                (None, Some(mac)) => Some((false, entry(delta.key, mac))),
                (None, None) => None,
            })
            .collect()
    }

    /// The outcome of setting or deleting a neighbour.
    pub fn neighbour_finished(&mut self, entry: &Neighbour, ok: bool, now: Instant) {
        let Some(ip) = entry.ip else { return };
        let key = (entry.interface, ip);
        if ok {
            self.neighbours.applied(&key);
        } else {
            self.neighbours.failed(&key, now);
        }
    }

    /// When something that failed is to be tried again.
    pub fn next_wake(&self) -> Option<Instant> {
        self.settings.next_retry().into_iter().chain(self.neighbours.next_retry()).min()
    }

    /// Computes the status of every endpoint. Returns those that changed; `None` for endpoints that are gone.
    pub fn statuses(
        &mut self,
        policy: &PolicyStanding,
        routes: &RouteManager,
        interfaces: &Interfaces,
    ) -> Vec<(WorkloadEndpointId, Option<EndpointStatus>)> {
        let mut changes = Vec::new();
        for (id, endpoint) in &self.endpoints {
            let status = self.status(endpoint, policy, routes, interfaces);
            if self.statuses.get(id) != Some(&status) {
                changes.push((id.clone(), Some(status)));
            }
        }
        changes.extend(
            self.statuses.keys().filter(|id| !self.endpoints.contains_key(id)).map(|id| (id.clone(), None)),
        );
        for (id, status) in &changes {
            match status {
                Some(status) => self.statuses.insert(id.clone(), status.clone()),
                None => self.statuses.remove(id),
            };
        }
        changes
    }

    fn status(
        &self,
        endpoint: &WorkloadEndpoint,
        policy: &PolicyStanding,
        routes: &RouteManager,
        interfaces: &Interfaces,
    ) -> EndpointStatus {
        let name = &endpoint.interface;
        if let Some(error) = policy.failed.get(&endpoint.id) {
            return EndpointStatus::Error(format!("policy: {error}"));
        }
        if !endpoint.active {
            return EndpointStatus::Down("the endpoint is not active".to_owned());
        }
        if let Some(holder) = self.holder(name).filter(|holder| holder.id != endpoint.id) {
            let other = &holder.id.workload;
            return EndpointStatus::Error(format!("interface {name} belongs to the endpoint of {other}"));
        }
        match interfaces.by_name(name) {
            None => return EndpointStatus::Down(format!("interface {name} does not exist")),
            Some(link) if !link.is_running() => {
                return EndpointStatus::Down(format!("interface {name} is down"));
            }
            Some(_) => {}
        }
        if let Some(error) = self.errors.get(name) {
            return EndpointStatus::Error(error.clone());
        }
        if !self.settings.is_settled(name) {
            return EndpointStatus::Down(format!("interface {name} is being configured"));
        }
        if let Some(error) = &policy.error {
            return EndpointStatus::Error(format!("policy: {error}"));
        }
        if !policy.in_force {
            return EndpointStatus::Down("policy is being programmed".to_owned());
        }
        for dst in self.claimed.get(name).into_iter().flatten() {
            match routes.standing(*dst) {
                RouteStanding::InForce => {}
                RouteStanding::Refused(refusal) => {
                    return EndpointStatus::Error(format!("route to {dst}: {refusal}"));
                }
                _ => return EndpointStatus::Down(format!("the route to {dst} is being programmed")),
            }
        }
        EndpointStatus::Up
    }

    /// All endpoints, by identity.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<WorkloadEndpoint>> {
        self.endpoints.values()
    }

    /// How an endpoint was when last computed.
    pub fn status_of(&self, id: &WorkloadEndpointId) -> Option<&EndpointStatus> {
        self.statuses.get(id)
    }

    /// Number of interfaces and neighbours that are not yet as they should be.
    pub fn unsettled(&self) -> usize {
        self.settings.unsettled() + self.neighbours.unsettled()
    }
}

fn bounds(index: u32) -> ((u32, IpAddr), (u32, IpAddr)) {
    let lowest = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
    let highest = IpAddr::V6(std::net::Ipv6Addr::from(u128::MAX));
    ((index, lowest), (index, highest))
}
