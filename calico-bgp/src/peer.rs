//! One configured peer: dialling, two connection halves, collision, timers, and what an operator sees of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::config::{Authentication, PeerConfig};
use crate::fsm::{Connection, ConnectionId, Incoming, Negotiated, Phase, negotiate};
use crate::rib::Applied;
use crate::state::{DownReason, PeerCounters, State};
use crate::wire::capability::{GracefulFamily, GracefulRestart, LongLivedFamily};
use crate::wire::notification::code;
use crate::wire::{
    Capabilities, Family, FamilySet, Message, Notification, Open, RouteRefresh, RouteRefreshKind,
};

/// What the peer asks of the speaker.
#[derive(Debug)]
pub(crate) enum Action {
    Dial,
    Close { connection: ConnectionId, farewell: Option<Bytes> },
    Up,
    Down { reason: DownReason, graceful: FamilySet },
    EndOfRib(Family),
    Exceeded(Family),
    Refresh(Family, RouteRefreshKind),
}

/// What the speaker knows that a peer needs for its OPEN.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocalState {
    pub(crate) router_id: Ipv4Addr,
    pub(crate) restarting: bool,
}

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) config: Arc<PeerConfig>,
    /// Index 0 incoming, 1 outgoing.
    halves: [Option<Connection>; 2],
    dialling: bool,
    connect_retry: Option<Instant>,
    idle_hold: Option<Instant>,
    errors: u32,
    last_error: Option<Instant>,
    refused_capabilities: u32,
    bfd_up: bool,
    jitter: u64,
    pub(crate) reason: DownReason,
    pub(crate) since: Instant,
    pub(crate) counters: PeerCounters,
    ever_established: bool,
    stopped: bool,
}

/// Takes the body of an UPDATE of the established session.
pub(crate) type UpdateSink<'a> = dyn FnMut(&[u8], &Negotiated) -> Result<Applied, Notification> + 'a;

const INCOMING: usize = 0;
const OUTGOING: usize = 1;

impl Peer {
    pub(crate) fn new(now: Instant, config: Arc<PeerConfig>, seed: u64) -> Self {
        let mut jitter = seed | 1;
        for octet in config.name.bytes() {
            jitter = (jitter ^ u64::from(octet)).wrapping_mul(0x100_0000_01b3);
        }
        let mut this = Peer {
            config,
            halves: [None, None],
            dialling: false,
            connect_retry: None,
            idle_hold: None,
            errors: 0,
            last_error: None,
            refused_capabilities: 0,
            bfd_up: false,
            jitter,
            reason: DownReason::Starting,
            since: now,
            counters: PeerCounters::default(),
            ever_established: false,
            stopped: false,
        };
        this.start(now);
        this
    }

    /// The value times 0.75 to 1.0.
    fn jittered(&mut self, value: Duration) -> Duration {
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        let share = 768 + u32::try_from(self.jitter % 257).unwrap_or(0);
        value * share / 1024
    }

    /// Why the peer must stay idle, if it must.
    fn held_down(&self) -> Option<DownReason> {
        if self.config.disabled {
            return Some(DownReason::Disabled);
        }
        match &self.config.authentication {
            Authentication::Unavailable(why) => Some(DownReason::KeyUnavailable(why.clone())),
            _ => None,
        }
    }

    /// BFD has not said yet that the peer can be reached.
    fn waits_for_bfd(&self) -> bool {
        self.config.bfd.is_some() && !self.bfd_up
    }

    fn start(&mut self, now: Instant) {
        self.idle_hold = None;
        self.connect_retry = None;
        if let Some(reason) = self.held_down() {
            self.reason = reason;
            self.stopped = true;
            return;
        }
        self.stopped = false;
        if !self.config.passive {
            let delay = self.jittered(self.config.connect_delay);
            self.connect_retry = Some(now + delay);
        }
    }

    pub(crate) fn state(&self) -> State {
        match self.halves.iter().flatten().map(|half| half.phase).max() {
            Some(Phase::Established) => State::Established,
            Some(Phase::OpenConfirm) => State::OpenConfirm,
            Some(Phase::OpenSent) => State::OpenSent,
            None if self.stopped || self.idle_hold.is_some() => State::Idle,
            None if self.dialling => State::Connect,
            None => State::Active,
        }
    }

    /// The established half.
    pub(crate) fn session(&self) -> Option<(&Connection, &Negotiated)> {
        let half = self.halves.iter().flatten().find(|half| half.phase == Phase::Established)?;
        Some((half, half.negotiated.as_ref()?))
    }

    pub(crate) fn half(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.halves.iter_mut().flatten().find(|half| half.id == id)
    }

    pub(crate) fn connections(&self) -> impl Iterator<Item = ConnectionId> + '_ {
        self.halves.iter().flatten().map(|half| half.id)
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let halves = self.halves.iter().flatten().filter_map(Connection::next_timeout);
        halves.chain(self.connect_retry).chain(self.idle_hold).min()
    }

    fn capabilities(&self, local: LocalState) -> Capabilities {
        let config = &self.config;
        let set = |on: bool| if on { config.families } else { FamilySet::NONE };
        // A peer that refuses our capabilities again and again is offered fewer of them.
        if self.refused_capabilities >= 4 {
            return Capabilities { families: FamilySet::only(Family::Ipv4), ..Capabilities::default() };
        }
        let mut caps = Capabilities {
            families: config.families,
            route_refresh: true,
            four_octet_as: Some(config.local_as),
            ..Capabilities::default()
        };
        if self.refused_capabilities >= 2 {
            return caps;
        }
        caps.enhanced_refresh = true;
        caps.extended_message = config.extended_message;
        caps.extended_next_hop = config.extended_next_hop;
        caps.add_path_receive = set(config.add_path_receive);
        caps.add_path_send = set(config.add_path_send);
        if let Some(gr) = &config.graceful_restart {
            let seconds = |time: Duration, max: u32| u32::try_from(time.as_secs()).unwrap_or(max).min(max);
            // Forwarding survives a lost session as well as a restart of this process.
            let forwarding = local.restarting || self.ever_established;
            let families = config.families.iter();
            caps.graceful_restart = Some(GracefulRestart {
                restarting: local.restarting,
                notification: true,
                restart_time: u16::try_from(seconds(gr.restart_time, 4095)).unwrap_or(4095),
                families: families
                    .map(|f| GracefulFamily { afi: f.afi(), safi: f.safi(), forwarding })
                    .collect(),
            });
            let stale_time = seconds(gr.long_lived_time, 0x00ff_ffff);
            let listed = if stale_time > 0 { config.families } else { FamilySet::NONE };
            caps.long_lived = Some(
                listed
                    .iter()
                    .map(|f| LongLivedFamily { afi: f.afi(), safi: f.safi(), forwarding, stale_time })
                    .collect(),
            );
        }
        caps
    }

    fn open_message(&self, local: LocalState, offered: &Capabilities) -> Open {
        let capabilities = if self.refused_capabilities >= 4 { Vec::new() } else { offered.to_list() };
        Open {
            my_as: Open::two_octet_as(self.config.local_as),
            hold_time: u16::try_from(self.config.hold_time.as_secs()).unwrap_or(u16::MAX),
            identifier: local.router_id,
            capabilities,
        }
    }

    /// A dial of ours succeeded.
    pub(crate) fn connected(
        &mut self,
        now: Instant,
        id: ConnectionId,
        local_end: SocketAddr,
        local: LocalState,
        out: &mut Vec<Action>,
    ) {
        self.dialling = false;
        self.connect_retry = None;
        if self.stopped || self.halves.iter().flatten().any(|half| half.phase == Phase::Established) {
            out.push(Action::Close { connection: id, farewell: None });
            return;
        }
        self.add_half(now, OUTGOING, id, local_end, local, out);
    }

    /// The peer dialled us.
    pub(crate) fn accepted(
        &mut self,
        now: Instant,
        id: ConnectionId,
        local_end: SocketAddr,
        local: LocalState,
        out: &mut Vec<Action>,
    ) {
        let waits_for_bfd = self.waits_for_bfd();
        let occupied = self.halves.get(INCOMING).is_some_and(|half| {
            // An established session may be replaced by a restarted peer; its OPEN decides.
            half.as_ref().is_some_and(|half| half.phase != Phase::Established)
        });
        if self.stopped || self.idle_hold.is_some() || occupied || waits_for_bfd {
            out.push(Action::Close { connection: id, farewell: None });
            return;
        }
        let free = if self.halves.get(INCOMING).is_some_and(Option::is_none) { INCOMING } else { OUTGOING };
        if self.halves.get(free).is_some_and(Option::is_some) {
            out.push(Action::Close { connection: id, farewell: None });
            return;
        }
        self.add_half(now, free, id, local_end, local, out);
        if let Some(Some(half)) = self.halves.get_mut(free) {
            half.outgoing = false;
        }
    }

    fn add_half(
        &mut self,
        now: Instant,
        slot: usize,
        id: ConnectionId,
        local_end: SocketAddr,
        local: LocalState,
        out: &mut Vec<Action>,
    ) {
        let offered = self.capabilities(local);
        let open = self.open_message(local, &offered);
        let half = Connection::open(now, id, slot == OUTGOING, local_end, open, offered);
        match self.halves.get_mut(slot) {
            Some(place) if place.is_none() => *place = Some(half),
            _ => out.push(Action::Close { connection: id, farewell: None }),
        }
    }

    /// A dial of ours failed.
    pub(crate) fn connect_failed(&mut self, now: Instant, why: Arc<str>) {
        self.dialling = false;
        if self.state() <= State::Active {
            self.reason = DownReason::ConnectFailed(why);
        }
        self.schedule_dial(now);
    }

    fn schedule_dial(&mut self, now: Instant) {
        if self.config.passive || self.stopped || self.idle_hold.is_some() {
            self.connect_retry = None;
        } else {
            let delay = self.jittered(self.config.connect_retry);
            self.connect_retry = Some(now + delay);
        }
    }

    /// The connection broke.
    pub(crate) fn closed(&mut self, now: Instant, id: ConnectionId, why: Arc<str>, out: &mut Vec<Action>) {
        let Some(half) = self.take_half(id) else { return };
        if half.phase == Phase::Established {
            let graceful = half.negotiated.as_ref().map_or(FamilySet::NONE, Negotiated::graceful_families);
            self.down(now, DownReason::ConnectionLost(why), graceful, out);
        } else if self.state() <= State::Active {
            self.reason = DownReason::ConnectionLost(why);
        }
        if self.connections().next().is_none() {
            self.schedule_dial(now);
        }
    }

    fn take_half(&mut self, id: ConnectionId) -> Option<Connection> {
        self.halves.iter_mut().find(|half| half.as_ref().is_some_and(|half| half.id == id))?.take()
    }

    fn down(&mut self, now: Instant, reason: DownReason, graceful: FamilySet, out: &mut Vec<Action>) {
        self.reason = reason.clone();
        self.since = now;
        out.push(Action::Down { reason, graceful });
    }

    /// Ends one connection with a NOTIFICATION of ours.
    fn fail(&mut self, now: Instant, id: ConnectionId, notification: Notification, out: &mut Vec<Action>) {
        let Some(mut half) = self.take_half(id) else { return };
        let mut farewell = BytesMut::new();
        half.drain_transmit().for_each(|bytes| farewell.extend_from_slice(&bytes));
        farewell.extend_from_slice(&Message::Notification(notification.clone()).encode());
        out.push(Action::Close { connection: id, farewell: Some(farewell.freeze()) });
        let reason = DownReason::Sent(notification.clone());
        if half.phase == Phase::Established {
            // RFC 8538: with the N bit on both sides a NOTIFICATION does not lose the routes, except a hard reset and
            // the administrative reasons for which the routes have to go.
            let keep =
                half.negotiated.as_ref().filter(|n| n.notification_restart() && notification.code != 6);
            let graceful = keep.map_or(FamilySet::NONE, Negotiated::graceful_families);
            self.down(now, reason, graceful, out);
        } else if notification.kind() != code::COLLISION {
            self.reason = reason;
        }
        if notification.kind() != code::COLLISION {
            self.back_off(now);
        } else if self.connections().next().is_none() {
            self.schedule_dial(now);
        }
    }

    /// After a protocol error: a pause that doubles with every further one and is forgotten after five quiet minutes.
    fn back_off(&mut self, now: Instant) {
        if self.last_error.is_some_and(|at| now.duration_since(at) > Duration::from_secs(300)) {
            self.errors = 0;
        }
        self.last_error = Some(now);
        let (first, most) = self.config.error_wait;
        let pause = first.saturating_mul(1 << self.errors.min(16)).min(most.max(first));
        self.errors += 1;
        if self.connections().next().is_none() && !self.stopped {
            self.connect_retry = None;
            self.idle_hold = Some(now + pause);
        }
    }

    /// Closes everything, for a reason of the operator or of the configuration.
    pub(crate) fn stop(&mut self, now: Instant, notification: &Notification, out: &mut Vec<Action>) {
        let ids: Vec<_> = self.connections().collect();
        for id in ids {
            self.fail(now, id, notification.clone(), out);
        }
        self.dialling = false;
        self.idle_hold = None;
        self.connect_retry = None;
        self.stopped = true;
    }

    /// Replaces the configuration; the caller has stopped the session when the change demands it.
    pub(crate) fn reconfigure(&mut self, now: Instant, config: Arc<PeerConfig>) {
        self.config = config;
        self.errors = 0;
        self.refused_capabilities = 0;
        if self.connections().next().is_none() {
            self.start(now);
        }
    }

    /// Too many prefixes: down until the configured pause is over, for ever without one.
    pub(crate) fn exceeded(&mut self, now: Instant, family: Family, limit: u32, out: &mut Vec<Action>) {
        let mut data = family.afi().to_be_bytes().to_vec();
        data.push(family.safi());
        data.extend_from_slice(&limit.to_be_bytes());
        self.stop(now, &Notification::with_data(code::MAX_PREFIXES, data), out);
        self.reason = DownReason::MaxPrefixes(family);
        if let Some(pause) = self.config.max_prefixes_restart {
            self.stopped = false;
            self.idle_hold = Some(now + pause);
        }
    }

    /// BFD has news about the way to the peer.
    pub(crate) fn bfd(&mut self, now: Instant, up: bool, out: &mut Vec<Action>) {
        let was = std::mem::replace(&mut self.bfd_up, up);
        if self.config.bfd.is_none() || was == up {
            return;
        }
        if up {
            if self.connections().next().is_none() && !self.stopped {
                self.start(now);
            }
        } else if let Some((half, _)) = self.session() {
            let id = half.id;
            self.fail(now, id, Notification::new(code::BFD_DOWN), out);
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant, out: &mut Vec<Action>) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.idle_hold) {
            self.start(now);
        }
        if due(self.connect_retry) {
            if self.waits_for_bfd() && self.reason == DownReason::Starting {
                self.reason = DownReason::AwaitingBfd;
            }
            let busy = self.connections().next().is_some() || self.waits_for_bfd();
            self.schedule_dial(now);
            if !busy {
                self.dialling = true;
                out.push(Action::Dial);
            }
        }
        let ids: Vec<_> = self.connections().collect();
        for id in ids {
            self.half_timeout(now, id, out);
        }
    }

    fn half_timeout(&mut self, now: Instant, id: ConnectionId, out: &mut Vec<Action>) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let Some(half) = self.half(id) else { return };
        if due(half.hold) {
            self.fail(now, id, Notification::new(code::HOLD_EXPIRED), out);
            return;
        }
        if due(half.stalled.map(|since| since + half.send_hold())) {
            self.fail(now, id, Notification::new(code::SEND_HOLD_EXPIRED), out);
            return;
        }
        if due(half.keepalive) {
            half.send(&Message::Keepalive);
            let interval = half.keepalive_interval;
            let delay = self.jittered(interval);
            if let Some(half) = self.half(id) {
                half.keepalive = Some(now + delay);
            }
        }
    }

    /// Octets came in on a connection. UPDATEs of the established session go to `update`. Stops after every message
    /// that leads to an action, so that the caller can act before later messages are read; `true` asks for another call
    /// without octets.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        id: ConnectionId,
        data: &[u8],
        local: LocalState,
        out: &mut Vec<Action>,
        update: &mut UpdateSink<'_>,
    ) -> bool {
        // The half is taken out so that its sibling and the peer can be changed while it reads.
        let Some(slot) = self.halves.iter().position(|half| half.as_ref().is_some_and(|half| half.id == id))
        else {
            return false;
        };
        let Some(mut half) = self.halves.get_mut(slot).and_then(Option::take) else { return false };
        self.counters.octets_in += data.len() as u64;
        let mut closing = None;
        let result = half.receive(data, |half, incoming| {
            closing = self.message(now, half, incoming, local, out, update)?;
            Ok(closing.is_none() && out.is_empty())
        });
        if let Some(place) = self.halves.get_mut(slot) {
            *place = Some(half);
        }
        match (result, closing) {
            (Err(notification), _) => {
                self.fail(now, id, notification, out);
                false
            }
            (Ok(_), Some(received)) => {
                self.ended_by_peer(now, id, received, out);
                false
            }
            (Ok(more), None) => more,
        }
    }

    fn ended_by_peer(&mut self, now: Instant, id: ConnectionId, n: Notification, out: &mut Vec<Action>) {
        let Some(half) = self.take_half(id) else { return };
        out.push(Action::Close { connection: id, farewell: None });
        if half.phase != Phase::Established && matches!(n.kind(), code::BAD_PARAMETER | code::BAD_CAPABILITY)
        {
            self.refused_capabilities += 1;
        }
        let collision = n.kind() == code::COLLISION;
        let reason = DownReason::Received(n.clone());
        if half.phase == Phase::Established {
            let keep = half.negotiated.as_ref().filter(|negotiated| {
                negotiated.notification_restart()
                    && !matches!(n.kind(), code::HARD_RESET | code::ADMIN_SHUTDOWN)
            });
            let graceful = keep.map_or(FamilySet::NONE, Negotiated::graceful_families);
            self.down(now, reason, graceful, out);
        } else if !collision {
            self.reason = reason;
        }
        if collision {
            if self.connections().next().is_none() {
                self.schedule_dial(now);
            }
        } else {
            self.back_off(now);
        }
    }

    /// One message. `Ok(Some(n))` means that the peer ended the connection with `n`.
    fn message(
        &mut self,
        now: Instant,
        half: &mut Connection,
        incoming: Incoming<'_>,
        local: LocalState,
        out: &mut Vec<Action>,
        update: &mut UpdateSink<'_>,
    ) -> Result<Option<Notification>, Notification> {
        let unexpected = match half.phase {
            Phase::OpenSent => code::UNEXPECTED_OPEN_SENT,
            Phase::OpenConfirm => code::UNEXPECTED_OPEN_CONFIRM,
            Phase::Established => code::UNEXPECTED_ESTABLISHED,
        };
        match (half.phase, incoming) {
            (_, Incoming::Notification(notification)) => return Ok(Some(notification)),
            (Phase::OpenSent, Incoming::Open(open)) => self.opened(now, half, &open, local, out)?,
            (Phase::OpenConfirm, Incoming::Keepalive) => {
                half.phase = Phase::Established;
                half.restart_hold(now);
                self.since = now;
                self.errors = 0;
                self.refused_capabilities = 0;
                self.ever_established = true;
                self.counters.established += 1;
                self.connect_retry = None;
                self.dialling = false;
                out.push(Action::Up);
            }
            (Phase::Established, Incoming::Keepalive) => half.restart_hold(now),
            (Phase::Established, Incoming::Update(body)) => {
                half.restart_hold(now);
                self.counters.updates_in += 1;
                if let Some(negotiated) = &half.negotiated {
                    let applied = update(body, negotiated)?;
                    self.counters.malformed_updates += u64::from(applied.malformed);
                    out.extend(applied.end_of_rib.map(Action::EndOfRib));
                    out.extend(applied.exceeded.map(Action::Exceeded));
                }
            }
            (Phase::Established, Incoming::Refresh(family, kind)) => {
                half.restart_hold(now);
                if half.negotiated.as_ref().is_some_and(|n| n.params.families.contains(family)) {
                    out.push(Action::Refresh(family, kind));
                }
            }
            _ => return Err(Notification::new(unexpected)),
        }
        Ok(None)
    }

    /// A valid OPEN in OpenSent: check the peer, settle a collision, agree on the session.
    fn opened(
        &mut self,
        now: Instant,
        half: &mut Connection,
        open: &Open,
        local: LocalState,
        out: &mut Vec<Action>,
    ) -> Result<(), Notification> {
        let config = self.config.clone();
        if open.asn() != config.remote_as {
            let [_, _, high, low] = config.remote_as.to_be_bytes();
            return Err(Notification::with_data(code::BAD_PEER_AS, [high, low]));
        }
        if config.is_internal() && open.identifier == local.router_id {
            return Err(Notification::with_data(code::BAD_IDENTIFIER, open.identifier.octets()));
        }
        let numbers = (config.local_as, config.remote_as);
        let negotiated = negotiate(open, &half.offered, config.hold_time, numbers, config.enforce_first_as)?;
        self.collide(now, half, &negotiated, local, out)?;
        let hold = negotiated.hold_time;
        half.keepalive = None;
        if !hold.is_zero() {
            let third = (hold / 3).max(Duration::from_secs(1));
            half.keepalive_interval = config.keepalive_time.map_or(third, |time| time.min(third));
            let delay = self.jittered(half.keepalive_interval);
            half.keepalive = Some(now + delay);
        }
        half.negotiated = Some(negotiated);
        half.restart_hold(now);
        half.phase = Phase::OpenConfirm;
        half.send(&Message::Keepalive);
        Ok(())
    }

    /// RFC 4271 section 6.8. An error closes `half`; otherwise the sibling is closed when one of them has to go.
    fn collide(
        &mut self,
        now: Instant,
        half: &Connection,
        negotiated: &Negotiated,
        local: LocalState,
        out: &mut Vec<Action>,
    ) -> Result<(), Notification> {
        let Some(sibling) = self.halves.iter().flatten().next() else { return Ok(()) };
        let sibling_id = sibling.id;
        match sibling.phase {
            Phase::OpenSent => Ok(()),
            Phase::Established => {
                let graceful =
                    sibling.negotiated.as_ref().map_or(FamilySet::NONE, Negotiated::graceful_families);
                if graceful.is_empty() {
                    return Err(Notification::new(code::COLLISION));
                }
                // RFC 4724 section 4.2: the peer has restarted and its old connection is a ghost.
                self.take_half(sibling_id);
                out.push(Action::Close { connection: sibling_id, farewell: None });
                self.down(now, DownReason::PeerRestarted, graceful, out);
                Ok(())
            }
            Phase::OpenConfirm => {
                let ours = (local.router_id, self.config.local_as);
                let theirs = (negotiated.identifier, self.config.remote_as);
                // The connection made by the side with the higher identifier stays.
                let keep_outgoing = ours > theirs;
                if half.outgoing == keep_outgoing {
                    self.fail(now, sibling_id, Notification::new(code::COLLISION), out);
                    Ok(())
                } else {
                    Err(Notification::new(code::COLLISION))
                }
            }
        }
    }

    /// The next message that is not an UPDATE, of either half.
    pub(crate) fn poll_control(&mut self) -> Option<(ConnectionId, Bytes)> {
        self.halves.iter_mut().flatten().find_map(|half| {
            if half.stalled.is_some() {
                return None;
            }
            Some((half.id, half.pop_transmit()?))
        })
    }

    /// The connection for UPDATEs, when it takes more.
    pub(crate) fn writable_session(&self) -> Option<ConnectionId> {
        let (half, _) = self.session()?;
        half.stalled.is_none().then_some(half.id)
    }

    /// Asks the peer for its routes again; `false` when it cannot be asked.
    pub(crate) fn request_refresh(&mut self, family: Family) -> bool {
        let Some(half) = self.halves.iter_mut().flatten().find(|half| half.phase == Phase::Established)
        else {
            return false;
        };
        let able =
            half.negotiated.as_ref().is_some_and(|n| n.route_refresh() && n.params.families.contains(family));
        if able {
            half.send(&Message::RouteRefresh(RouteRefresh::new(family, RouteRefreshKind::Request)));
        }
        able
    }
}
