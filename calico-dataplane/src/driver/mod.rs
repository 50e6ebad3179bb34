//! The driver: takes what the policy graph, the BGP speaker and the kernel report, and keeps the kernel's state
//! equal to what they ask for.
//!
//! A [`Driver`] lives on one thread inside the node's network namespace; [`spawn`] makes that thread and gives a
//! [`Handle`] to talk to it. Every apply sends only differences, in an order that never opens a hole: policy first,
//! then the kernel parameters and neighbours of workload interfaces, then routes. At start the driver reads what is
//! there and adopts it: nothing is removed before the datastore (and, for BGP routes, the BGP speaker) has said
//! everything, so that an agent that was killed comes back without a lost packet.

mod apply;
mod policy;
mod status;
mod thread;
mod tunnels;
mod wireguard;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_policy::Changes;
use calico_policy::changes::WorkloadEndpointId;
use ipnet::IpNet;
use smallvec::SmallVec;

pub use policy::{ApplyReport, InterfaceInfo, InterfaceState, NoPolicy, PolicyDataplane};
pub use status::StatusBoard;
pub use thread::{Handle, Input, Output, spawn};

use crate::manager::endpoints::PolicyStanding;
use crate::manager::routes::{Gates, RouteStanding};
use crate::manager::{
    Candidate, EndpointManager, EndpointStatus, Hop, Interfaces, RouteClass, RouteManager, Target,
    TunnelConfig, TunnelManager, WireguardConfig,
};
use crate::netlink::{Conntrack, Group, Monitor, NetlinkError, RouteProtocol, Rtnetlink};
use crate::sysctl::Sysctl;

/// What the driver is told once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverConfig {
    /// Names of workload interfaces start with one of these (`InterfacePrefix`).
    pub interface_prefixes: Vec<String>,
    /// Program IPv6, too (`Ipv6Support`).
    pub ipv6: bool,
    /// Let the node forward packets (`IPForwarding`).
    pub ip_forwarding: bool,
    /// Read everything again this often, in case a notification was missed (`RouteRefreshInterval`); `None` never.
    pub refresh: Option<Duration>,
    /// Routes marked as BGP's are ours. False where another program does BGP, or nobody.
    pub own_bgp_routes: bool,
    /// Forget the connections of addresses that pods of this node had.
    pub forget_connections: bool,
    /// Tunnels to other nodes; `None` leaves them alone.
    pub tunnels: Option<TunnelConfig>,
    /// WireGuard, one entry per family that it is enabled for.
    pub wireguard: Vec<WireguardConfig>,
}

impl Default for DriverConfig {
    fn default() -> Self {
        Self {
            interface_prefixes: vec!["cali".to_owned()],
            ipv6: true,
            ip_forwarding: true,
            refresh: Some(Duration::from_secs(90)),
            own_bgp_routes: true,
            forget_connections: true,
            tunnels: None,
            wireguard: Vec::new(),
        }
    }
}

/// What BGP wants for a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FibRoute {
    /// Through these next hops.
    Via(SmallVec<[Hop; 1]>),
    /// A block of this node: packets to addresses that no pod has are dropped here.
    Blackhole,
}

impl FibRoute {
    /// Through one next hop, whose interface the kernel's routes tell.
    pub fn via(next_hop: std::net::IpAddr) -> Self {
        Self::Via(SmallVec::from_elem(Hop { gateway: next_hop, interface: None, weight: 1 }, 1))
    }
}

/// One change to what BGP wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FibUpdate {
    /// Destination.
    pub prefix: IpNet,
    /// What should be there; `None` withdraws it.
    pub route: Option<FibRoute>,
}

/// What one apply did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    /// Endpoints whose status changed; `None` for those that are gone.
    pub statuses: Vec<(WorkloadEndpointId, Option<EndpointStatus>)>,
    /// Messages that changed the kernel.
    pub messages: usize,
    /// When to apply again although nothing happens.
    pub next: Option<Instant>,
}

/// How the driver is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Health {
    /// The first apply after the datastore was in sync is done.
    pub ready: bool,
    /// Policy is in force as told.
    pub policy_in_force: bool,
    /// The last error of the policy side as a whole.
    pub policy_error: Option<String>,
    /// The last error in talking to the kernel.
    pub kernel_error: Option<String>,
    /// The last error about a tunnel device.
    pub device_error: Option<String>,
    /// The public WireGuard key of this node by device, as base64 text, or why there is none.
    pub wireguard: BTreeMap<Arc<str>, Result<String, String>>,
    /// Routes, interfaces and neighbours that are not yet as they should be.
    pub unsettled: usize,
    /// Routes of ours in the kernel.
    pub routes: usize,
    /// Destinations that are wanted but not in force, and why.
    pub troubles: Vec<(IpNet, RouteStanding)>,
    /// How many objects were found different from what was believed, over all refreshes.
    pub drift: usize,
    /// Rounds since the start.
    pub applies: u64,
    /// Rounds in which the kernel or the policy side failed as a whole.
    pub failures: u64,
    /// Messages that changed the kernel, since the start.
    pub messages: u64,
}

/// Why a driver could not start.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The kernel cannot be talked to.
    #[error("starting the dataplane driver: {0}")]
    Netlink(#[from] NetlinkError),
    /// The thread could not be made.
    #[error("starting the dataplane driver's thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Keeps one node's kernel as it should be.
pub struct Driver<P> {
    config: DriverConfig,
    policy: P,
    netlink: Rtnetlink,
    monitor: Monitor,
    sysctl: Sysctl,
    interfaces: Interfaces,
    routes: RouteManager,
    endpoints: EndpointManager,
    tunnels: Option<TunnelManager>,
    wireguard: Vec<wireguard::WireguardUnit>,
    device_retry: Option<Instant>,
    device_error: Option<String>,
    conntrack: Option<Conntrack>,
    gates: Gates,
    standing: PolicyStanding,
    queue: Vec<Changes>,
    policy_saw: InterfaceState,
    policy_failures: u32,
    policy_retry: Option<Instant>,
    read_again: bool,
    next_refresh: Option<Instant>,
    kernel_error: Option<String>,
    applied_once: bool,
    drift: usize,
    applies: u64,
    failures: u64,
    messages: u64,
}

impl<P: PolicyDataplane> Driver<P> {
    /// Subscribes to the kernel in the network namespace of the calling thread, on which the driver must stay, and
    /// reads what is there.
    ///
    /// # Errors
    /// [`DriverError`].
    pub fn open(config: DriverConfig, policy: P, now: Instant) -> Result<Self, DriverError> {
        let mut monitor = Monitor::open(&[Group::Links, Group::Addresses, Group::Routes])?;
        let netlink = Rtnetlink::open()?;
        monitor.ignore_routes_of(netlink.port());
        let sysctl = Sysctl::new();
        let rp_filter = sysctl.read("net/ipv4/conf/default/rp_filter").unwrap_or_else(|_| "1".to_owned());
        let routes = RouteManager::new();
        let routes = if config.own_bgp_routes { routes } else { routes.without_bgp() };
        let mut driver = Self {
            interfaces: Interfaces::new(config.interface_prefixes.iter().cloned()),
            endpoints: EndpointManager::new(&rp_filter),
            next_refresh: config.refresh.map(|every| now + every),
            tunnels: config.tunnels.clone().map(TunnelManager::new),
            wireguard: config.wireguard.iter().cloned().map(wireguard::WireguardUnit::new).collect(),
            device_retry: None,
            device_error: None,
            conntrack: None,
            config,
            policy,
            netlink,
            monitor,
            sysctl,
            routes,
            gates: Gates::default(),
            standing: PolicyStanding::default(),
            queue: Vec::new(),
            policy_saw: InterfaceState::default(),
            policy_failures: 0,
            policy_retry: None,
            read_again: false,
            kernel_error: None,
            applied_once: false,
            drift: 0,
            applies: 0,
            failures: 0,
            messages: 0,
        };
        driver.configure_kernel();
        driver.read_everything(now)?;
        driver.drift = 0;
        Ok(driver)
    }

    /// What the whole machine needs, done before anything is known from the datastore.
    fn configure_kernel(&self) {
        let mut wanted = vec![("net/netfilter/nf_conntrack_acct", "1")];
        if self.config.ip_forwarding {
            wanted.push(("net/ipv4/ip_forward", "1"));
            if self.config.ipv6 {
                wanted.push(("net/ipv6/conf/all/forwarding", "1"));
            }
        }
        for (name, value) in wanted {
            if let Err(error) = self.sysctl.write(name, value) {
                tracing::warn!(%error, "kernel parameter not set");
            }
        }
    }

    /// Takes what the policy graph says. It is in force after the next [`Self::apply`].
    pub fn changes(&mut self, changes: Changes) {
        let Self { endpoints, routes, interfaces, .. } = self;
        for endpoint in &changes.workload_endpoints {
            endpoints.update(Arc::clone(endpoint), routes, interfaces);
        }
        for id in &changes.removed_workload_endpoints {
            endpoints.remove(id, routes, interfaces);
        }
        if let Some(tunnels) = &mut self.tunnels {
            tunnels.changes(&changes);
        }
        for unit in &mut self.wireguard {
            unit.changes(&changes);
        }
        self.queue.push(changes);
    }

    /// Takes what BGP says.
    pub fn fib(&mut self, update: FibUpdate) {
        let source: Arc<str> = "bgp".into();
        let target = match update.route {
            Some(FibRoute::Via(hops)) => Target::Via(hops),
            Some(FibRoute::Blackhole) => Target::Blackhole,
            None => {
                self.routes.remove(RouteClass::Bgp, &source, update.prefix);
                return;
            }
        };
        let candidate = Candidate { target, protocol: RouteProtocol::BIRD, mtu: None };
        self.routes.set(RouteClass::Bgp, &source, update.prefix, candidate);
    }

    /// All that the datastore has was told: what nobody wants may go.
    pub fn in_sync(&mut self) {
        self.gates.in_sync = true;
    }

    /// BGP has heard its peers out after a start: BGP routes that nobody confirmed may go.
    pub fn bgp_converged(&mut self) {
        self.gates.bgp_converged = true;
    }

    /// Distrust everything: the next apply reads the kernel again.
    pub fn resync(&mut self) {
        self.read_again = true;
        self.policy_retry = self.policy_retry.or(self.gates.in_sync.then(Instant::now));
    }

    /// The socket to wait on: when it is readable, call [`Self::apply`].
    pub fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// What else to wait on: when it is readable, call [`Self::apply`].
    pub fn policy_watch(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        // While nothing would read it, waiting on it would not wait.
        let repairs = self.standing.in_force && self.policy_retry.is_none();
        self.policy.watch().filter(|_| repairs)
    }

    /// The interfaces of this node.
    pub fn interfaces(&self) -> &Interfaces {
        &self.interfaces
    }

    /// Our routes.
    pub fn routes(&self) -> &RouteManager {
        &self.routes
    }

    /// Workload endpoints.
    pub fn endpoints(&self) -> &EndpointManager {
        &self.endpoints
    }

    /// The policy side.
    pub fn policy(&mut self) -> &mut P {
        &mut self.policy
    }

    /// How things are.
    pub fn health(&self) -> Health {
        let troubles = self.routes.troubles();
        Health {
            ready: self.applied_once,
            policy_in_force: self.standing.in_force && self.standing.error.is_none(),
            policy_error: self.standing.error.clone(),
            kernel_error: self.kernel_error.clone(),
            device_error: self.device_error.clone(),
            wireguard: self.wireguard.iter().filter_map(wireguard::WireguardUnit::report).collect(),
            unsettled: self.endpoints.unsettled()
                + self.tunnels.as_ref().map_or(0, TunnelManager::unsettled)
                + troubles.len(),
            routes: self.routes.in_kernel().count(),
            troubles,
            drift: self.drift,
            applies: self.applies,
            failures: self.failures,
            messages: self.messages,
        }
    }
}
