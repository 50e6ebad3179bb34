//! The speaker: all peers, all routes, no sockets, no clock.
//!
//! Feed it with [`Speaker::handle`] and [`Speaker::configure`]; after every call drain, in this order,
//! [`Speaker::poll_transmit`] until `None`, [`Speaker::poll_timeout`] once, [`Speaker::poll_event`] until `None`.
//! Calling [`Speaker::handle`] with [`Input::Timeout`] too early or too often does no harm.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use crate::config::{ChangeClass, LocalRoute, PeerConfig, SpeakerConfig};
use crate::event::{DialId, Event, Input, PeerStatus, Reconfiguration, Transmit};
use crate::fsm::ConnectionId;
use crate::peer::{Action, LocalState, Peer};
use crate::restart::{Deferral, Restart};
use crate::rib::{PeerId, Rib, RibStatistics, RouteInfo};
use crate::route::RouteAttributes;
use crate::state::State;
use crate::wire::notification::code;
use crate::wire::{Family, Notification, RouteRefreshKind};

/// Prefixes decided before the caller gets its turn again.
const DECISION_SLICE: usize = 32_768;

#[derive(Debug)]
struct Session {
    id: PeerId,
    peer: Peer,
    restart: Restart,
    shown: State,
}

/// See the module.
#[derive(Debug)]
pub struct Speaker {
    config: SpeakerConfig,
    names: BTreeMap<Arc<str>, PeerId>,
    sessions: BTreeMap<PeerId, Session>,
    connections: HashMap<ConnectionId, PeerId>,
    dials: HashMap<DialId, PeerId>,
    next_dial: u64,
    rib: Rib,
    kernel_routes: BTreeMap<ipnet::IpNet, LocalRoute>,
    events: VecDeque<Event>,
    deferral: Option<Deferral>,
    turn: PeerId,
    now: Instant,
    seed: u64,
}

impl Speaker {
    /// A speaker that starts now. The seed makes jitter and hashing unpredictable to peers and repeatable in tests.
    pub fn new(now: Instant, config: SpeakerConfig, seed: u64) -> Self {
        let blank = SpeakerConfig { peers: BTreeMap::new(), routes: BTreeMap::new(), ..config.clone() };
        let mut this = Speaker {
            rib: Rib::new(&config, seed),
            deferral: config.restarting.then(|| Deferral::begin(now, config.selection_deferral)),
            config: blank,
            names: BTreeMap::new(),
            sessions: BTreeMap::new(),
            connections: HashMap::new(),
            dials: HashMap::new(),
            next_dial: 0,
            kernel_routes: BTreeMap::new(),
            events: VecDeque::new(),
            turn: PeerId::LOCAL,
            now,
            seed,
        };
        this.configure(now, config);
        this
    }

    /// The configuration in force.
    pub fn config(&self) -> &SpeakerConfig {
        &self.config
    }

    /// Applies a configuration as the difference to the one in force. Sessions that it does not concern go on
    /// undisturbed; of the others only those are closed for which nothing less will do.
    pub fn configure(&mut self, now: Instant, config: SpeakerConfig) -> Reconfiguration {
        self.now = now;
        let mut report = Reconfiguration::default();
        let identity_changed = config.router_id != self.config.router_id;
        let gone: Vec<_> = self
            .names
            .iter()
            .filter(|(name, _)| !config.peers.contains_key(*name))
            .map(|(n, _)| n.clone())
            .collect();
        for name in gone {
            self.remove_peer(now, &name);
            report.removed.push(name);
        }
        self.rib.reconfigure(&config);
        let mut live = Vec::new();
        for (name, new) in &config.peers {
            let Some(id) = self.names.get(name).copied() else {
                self.add_peer(now, new.clone());
                report.added.push(name.clone());
                continue;
            };
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            let mut class = session.peer.config.change_class(new);
            if identity_changed {
                class = ChangeClass::Reset;
            }
            match class {
                ChangeClass::None => continue,
                ChangeClass::Live => {
                    session.peer.reconfigure(now, new.clone());
                    live.push((id, new.clone()));
                    report.live.push(name.clone());
                }
                ChangeClass::Reset => {
                    let why = if new.disabled { code::ADMIN_SHUTDOWN } else { code::CONFIG_CHANGE };
                    let mut actions = Vec::new();
                    session.peer.stop(now, &Notification::new(why), &mut actions);
                    session.peer.reconfigure(now, new.clone());
                    self.act(now, id, actions);
                    live.push((id, new.clone()));
                    report.reset.push(name.clone());
                }
            }
        }
        self.rib.reconfigure_peers(&live);
        report.routes = self.change_routes(&config.routes);
        self.config = config;
        self.settle(now);
        report
    }

    /// Adds, replaces or takes back one route of the kernel, for example to a workload. Such routes live beside those of
    /// the configuration; where both have one, the source with the higher preference is used.
    pub fn set_kernel_route(&mut self, now: Instant, prefix: ipnet::IpNet, route: Option<LocalRoute>) {
        self.now = now;
        let prefix = prefix.trunc();
        let before = self.local_route(prefix).cloned();
        match route {
            Some(route) => self.kernel_routes.insert(prefix, route),
            None => self.kernel_routes.remove(&prefix),
        };
        self.local_route_changed(prefix, before);
        self.settle(now);
    }

    /// The routes that [`Speaker::set_kernel_route`] was told of.
    pub fn kernel_routes(&self) -> &BTreeMap<ipnet::IpNet, LocalRoute> {
        &self.kernel_routes
    }

    fn local_route(&self, prefix: ipnet::IpNet) -> Option<&LocalRoute> {
        let both = [self.config.routes.get(&prefix), self.kernel_routes.get(&prefix)];
        both.into_iter().flatten().max_by_key(|route| route.source.preference())
    }

    fn local_route_changed(&mut self, prefix: ipnet::IpNet, before: Option<LocalRoute>) -> bool {
        let now = self.local_route(prefix).cloned();
        if now == before {
            return false;
        }
        match now {
            Some(route) => self.rib.originate(prefix, &route),
            None => self.rib.withdraw_local(prefix),
        }
        true
    }

    fn change_routes(&mut self, routes: &BTreeMap<ipnet::IpNet, LocalRoute>) -> usize {
        let gone = self.config.routes.keys().filter(|prefix| !routes.contains_key(*prefix));
        let new = routes.iter().filter(|(prefix, route)| self.config.routes.get(*prefix) != Some(*route));
        let changed: Vec<_> = gone.chain(new.map(|(prefix, _)| prefix)).copied().collect();
        let before: Vec<_> = changed.iter().map(|prefix| self.local_route(*prefix).cloned()).collect();
        if !changed.is_empty() {
            self.config.routes = routes.clone();
        }
        changed
            .into_iter()
            .zip(before)
            .filter(|(prefix, before)| self.local_route_changed(*prefix, before.clone()))
            .count()
    }

    fn add_peer(&mut self, now: Instant, config: Arc<PeerConfig>) {
        let Some(id) = self.rib.add_peer(config.clone()) else { return };
        let peer =
            Peer::new(now, config.clone(), self.seed ^ u64::from(id.0).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let shown = peer.state();
        self.names.insert(config.name.clone(), id);
        self.sessions.insert(id, Session { id, peer, restart: Restart::default(), shown });
    }

    fn remove_peer(&mut self, now: Instant, name: &Arc<str>) {
        let Some(id) = self.names.remove(name) else { return };
        let mut actions = Vec::new();
        if let Some(session) = self.sessions.get_mut(&id) {
            session.peer.stop(now, &Notification::new(code::DECONFIGURED), &mut actions);
        }
        self.act(now, id, actions);
        self.rib.remove_peer(id);
        self.sessions.remove(&id);
        self.connections.retain(|_, peer| *peer != id);
        self.dials.retain(|_, peer| *peer != id);
    }

    fn local_state(&self) -> LocalState {
        LocalState { router_id: self.config.router_id, restarting: self.deferral.is_some() }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        self.now = now;
        match input {
            Input::Timeout => {}
            Input::Connected { dial, connection, local } => self.connected(now, dial, connection, local),
            Input::ConnectFailed { dial, reason } => {
                if let Some(id) = self.dials.remove(&dial)
                    && let Some(session) = self.sessions.get_mut(&id)
                {
                    session.peer.connect_failed(now, reason);
                }
            }
            Input::Accepted { connection, local, remote } => self.accepted(now, connection, local, remote),
            Input::Received { connection, data } => self.received(now, connection, data),
            Input::Closed { connection, reason } => {
                self.with_connection(connection, |peer, actions| {
                    peer.closed(now, connection, reason, actions)
                });
                self.connections.remove(&connection);
            }
            Input::Writable { connection, writable } => {
                if let Some(id) = self.connections.get(&connection) {
                    self.rib.set_stalled(*id, !writable);
                }
                self.with_connection(connection, |peer, _| {
                    if let Some(half) = peer.half(connection) {
                        half.stalled = if writable { None } else { half.stalled.or(Some(now)) };
                    }
                });
            }
            Input::NextHop { address, cost } => self.rib.next_hop(address, cost),
            Input::Bfd { peer, up } => self.with_peer(peer, |peer, actions| peer.bfd(now, up, actions)),
            Input::Reset { peer } => self.with_peer(peer, |peer, actions| {
                peer.stop(now, &Notification::new(code::ADMIN_RESET), actions);
                peer.reconfigure(now, peer.config.clone());
            }),
            Input::Refresh { peer } => self.with_peer(peer, |peer, _| {
                for family in Family::ALL {
                    peer.request_refresh(family);
                }
            }),
        }
        self.settle(now);
    }

    fn with_peer(&mut self, name: &str, change: impl FnOnce(&mut Peer, &mut Vec<Action>)) {
        let Some(id) = self.names.get(name).copied() else { return };
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let mut actions = Vec::new();
        change(&mut session.peer, &mut actions);
        self.act(self.now, id, actions);
    }

    fn with_connection(
        &mut self,
        connection: ConnectionId,
        change: impl FnOnce(&mut Peer, &mut Vec<Action>),
    ) {
        let Some(id) = self.connections.get(&connection).copied() else { return };
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let mut actions = Vec::new();
        change(&mut session.peer, &mut actions);
        self.act(self.now, id, actions);
    }

    fn connected(&mut self, now: Instant, dial: DialId, connection: ConnectionId, local: SocketAddr) {
        let state = self.local_state();
        let Some(id) = self.dials.remove(&dial) else {
            self.events.push_back(Event::Close { connection, farewell: None });
            return;
        };
        self.connections.insert(connection, id);
        let mut actions = Vec::new();
        if let Some(session) = self.sessions.get_mut(&id) {
            session.peer.connected(now, connection, local, state, &mut actions);
        }
        self.act(now, id, actions);
    }

    fn accepted(&mut self, now: Instant, connection: ConnectionId, local: SocketAddr, remote: SocketAddr) {
        let state = self.local_state();
        let fits = |config: &PeerConfig| {
            config.address == remote.ip().to_canonical()
                && config.local_address.is_none_or(|address| address == local.ip().to_canonical())
        };
        // Several peers may share an address and differ in their port, which a connection of theirs does not show.
        let found = self
            .sessions
            .values()
            .filter(|session| fits(&session.peer.config))
            .min_by_key(|session| (session.peer.state() == State::Established, session.id))
            .map(|session| session.id);
        let Some(id) = found else {
            self.events.push_back(Event::Close { connection, farewell: None });
            return;
        };
        self.connections.insert(connection, id);
        let mut actions = Vec::new();
        if let Some(session) = self.sessions.get_mut(&id) {
            session.peer.accepted(now, connection, local, state, &mut actions);
        }
        self.act(now, id, actions);
    }

    fn received(&mut self, now: Instant, connection: ConnectionId, data: &[u8]) {
        let state = self.local_state();
        let Some(id) = self.connections.get(&connection).copied() else { return };
        let mut data = data;
        loop {
            let Some(session) = self.sessions.get_mut(&id) else { return };
            let mut actions = Vec::new();
            let rib = &mut self.rib;
            let more =
                session.peer.receive(now, connection, data, state, &mut actions, &mut |body, negotiated| {
                    rib.update(id, body, negotiated)
                });
            self.act(now, id, actions);
            if !more {
                return;
            }
            data = &[];
        }
    }

    /// Does what a peer asks for.
    fn act(&mut self, now: Instant, id: PeerId, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Dial => self.dial(id),
                Action::Close { connection, farewell } => {
                    self.connections.remove(&connection);
                    self.events.push_back(Event::Close { connection, farewell });
                }
                Action::Up => self.up(now, id),
                Action::Down { reason, graceful } => {
                    let Some(session) = self.sessions.get_mut(&id) else { continue };
                    session.restart.down(now, id, graceful, &mut self.rib);
                    let peer = session.peer.config.name.clone();
                    // Told here, for the session may be up again before the caller looks.
                    session.shown = State::Idle;
                    self.events.push_back(Event::PeerState { peer, state: State::Idle, reason });
                }
                Action::EndOfRib(family) => {
                    if let Some(session) = self.sessions.get_mut(&id) {
                        session.restart.end_of_rib(id, family, &mut self.rib);
                    }
                }
                Action::Exceeded(family) => {
                    let mut actions = Vec::new();
                    if let Some(session) = self.sessions.get_mut(&id) {
                        let limit = session.peer.config.max_prefixes.unwrap_or(u32::MAX);
                        session.peer.exceeded(now, family, limit, &mut actions);
                    }
                    self.act(now, id, actions);
                }
                Action::Refresh(family, kind) => match kind {
                    RouteRefreshKind::Request => self.rib.refresh_requested(id, family),
                    RouteRefreshKind::Begin => self.rib.refresh_begins(id, family),
                    RouteRefreshKind::End => self.rib.refresh_ends(id, family),
                    RouteRefreshKind::Other(_) => {}
                },
            }
        }
    }

    fn dial(&mut self, id: PeerId) {
        let Some(session) = self.sessions.get(&id) else { return };
        let config = session.peer.config.clone();
        self.dials.retain(|_, peer| *peer != id);
        let dial = DialId(self.next_dial);
        self.next_dial += 1;
        self.dials.insert(dial, id);
        self.events.push_back(Event::Connect {
            dial,
            peer: config.name.clone(),
            remote: SocketAddr::new(config.address, config.port),
            local: config.local_address,
            authentication: config.authentication.clone(),
            ttl: config.ttl,
        });
    }

    fn up(&mut self, now: Instant, id: PeerId) {
        let deferral = self.config.selection_deferral;
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some((half, negotiated)) = session.peer.session() else { return };
        let (negotiated, local) = (negotiated.clone(), half.local.ip().to_canonical());
        session.restart.up(now, id, &negotiated, deferral, &mut self.rib);
        self.rib.peer_up(id, &negotiated, local);
    }

    /// After every call: timers, decisions, the end of a restart, changes of state.
    fn settle(&mut self, now: Instant) {
        let due: Vec<_> = self
            .sessions
            .values()
            .filter(|session| session.next_timeout().is_some_and(|at| at <= now))
            .map(|session| session.id)
            .collect();
        for id in due {
            let mut actions = Vec::new();
            if let Some(session) = self.sessions.get_mut(&id) {
                session.peer.handle_timeout(now, &mut actions);
                session.restart.handle_timeout(now, id, &mut self.rib);
            }
            self.act(now, id, actions);
        }
        let mut completed = false;
        if let Some(deferral) = &self.deferral
            && deferral.is_over(now, self.sessions.values().map(|session| (&session.peer, &session.restart)))
        {
            self.deferral = None;
            self.rib.deferred = false;
            completed = true;
        }
        if completed {
            // The whole first decision, so that the kernel side can tell what was not confirmed.
            while self.rib.run(DECISION_SLICE) {}
            self.drain_fib();
            self.events.push_back(Event::RestartComplete);
        } else {
            self.rib.run(DECISION_SLICE);
        }
        for session in self.sessions.values_mut() {
            let state = session.peer.state();
            if state != session.shown {
                session.shown = state;
                let (peer, reason) = (session.peer.config.name.clone(), session.peer.reason.clone());
                self.events.push_back(Event::PeerState { peer, state, reason });
            }
        }
    }

    fn drain_fib(&mut self) {
        while let Some(change) = self.rib.poll_fib() {
            self.events.push_back(Event::Fib(change));
        }
    }

    /// The next octets to write, of any connection that takes them. Ask again until `None` after every call of
    /// [`Speaker::handle`] and [`Speaker::configure`].
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        // Every peer gets one message in its turn.
        let order: [std::ops::RangeInclusive<PeerId>; 2] =
            [PeerId(self.turn.0.saturating_add(1))..=PeerId(u16::MAX), PeerId(0)..=self.turn];
        for range in order {
            for (id, session) in self.sessions.range_mut(range) {
                if let Some((connection, bytes)) = session.peer.poll_control() {
                    return Some(Transmit { connection, bytes });
                }
                let Some(connection) = session.peer.writable_session() else { continue };
                let (bytes, unsendable) = self.rib.poll_update(*id);
                session.peer.counters.unsendable += unsendable as u64;
                if let Some(bytes) = bytes {
                    session.peer.counters.updates_out += 1;
                    self.turn = *id;
                    return Some(Transmit { connection, bytes });
                }
            }
        }
        None
    }

    /// When to call [`Speaker::handle`] with [`Input::Timeout`] at the latest. An instant that has passed asks for a
    /// call at once: decisions are made in slices.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.rib.has_work() {
            return Some(self.now);
        }
        let deferral = self.deferral.as_ref().and_then(|deferral| deferral.next_timeout(self.now));
        self.sessions.values().filter_map(Session::next_timeout).chain(deferral).min()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front().or_else(|| self.rib.poll_fib().map(Event::Fib))
    }

    /// All peers, sorted by name.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let by_name = self.names.values().filter_map(|id| self.sessions.get(id));
        by_name
            .map(|session| PeerStatus {
                config: session.peer.config.clone(),
                state: session.peer.state(),
                since: session.peer.since,
                reason: session.peer.reason.clone(),
                negotiated: session.peer.session().map(|(_, negotiated)| negotiated.clone()),
                prefixes_received: Family::ALL.map(|family| self.rib.received_count(session.id, family)),
                prefixes_sent: Family::ALL.map(|family| self.rib.announced_count(session.id, family)),
                restarting: session.restart.is_active(),
                counters: session.peer.counters,
            })
            .collect()
    }

    /// The state of one peer.
    pub fn peer_state(&self, name: &str) -> Option<State> {
        Some(self.sessions.get(self.names.get(name)?)?.peer.state())
    }

    /// All routes of a family, sorted.
    pub fn routes(&self, family: Family) -> Vec<RouteInfo> {
        self.rib.routes(family)
    }

    /// What a peer was told: prefix, path identifier and attributes, sorted.
    pub fn announced(&self, peer: &str, family: Family) -> Vec<(ipnet::IpNet, u32, Arc<RouteAttributes>)> {
        self.names.get(peer).map_or_else(Vec::new, |id| self.rib.announced(*id, family))
    }

    /// The addresses that a peer's routes go to, for next-hop tracking.
    pub fn next_hops(&self, peer: &str) -> Vec<IpAddr> {
        self.names.get(peer).map_or_else(Vec::new, |id| self.rib.next_hops_of(*id))
    }

    /// Counts of the tables.
    pub fn statistics(&self) -> RibStatistics {
        self.rib.statistics()
    }

    /// Whether the speaker still waits for its peers after a restart.
    pub fn is_restarting(&self) -> bool {
        self.deferral.is_some()
    }
}

impl Session {
    fn next_timeout(&self) -> Option<Instant> {
        [self.peer.next_timeout(), self.restart.next_timeout()].into_iter().flatten().min()
    }
}
