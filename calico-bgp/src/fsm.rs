//! One TCP connection of a peer: from the OPEN we send to the message that ends it (RFC 4271 section 8).
//!
//! A connection knows nothing of its sibling, of routes and of dialling; the peer module does.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::wire::iana::message_type;
use crate::wire::notification::code;
use crate::wire::{
    Capabilities, Decoded, Family, FamilySet, Message, MessageLimits, Notification, Open, RouteRefresh,
    RouteRefreshKind, SessionParams, split_message,
};

/// A TCP connection, named by the caller. Never reused while the speaker knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// The hold time while an OPEN is awaited.
pub(crate) const OPEN_HOLD: Duration = Duration::from_secs(240);

/// How far a connection came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Phase {
    OpenSent,
    OpenConfirm,
    Established,
}

/// What both OPENs led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// How UPDATEs are read and written.
    pub params: SessionParams,
    /// The agreed hold time; zero switches hold and keepalive off.
    pub hold_time: Duration,
    /// The peer's BGP identifier.
    pub identifier: Ipv4Addr,
    /// What we offered.
    pub local: Capabilities,
    /// What the peer offered.
    pub remote: Capabilities,
}

impl Negotiated {
    /// Whether the peer can be asked for its routes again.
    pub const fn route_refresh(&self) -> bool {
        self.local.route_refresh && self.remote.route_refresh
    }

    /// Whether a refresh is bracketed by begin and end marks.
    pub const fn enhanced_refresh(&self) -> bool {
        self.local.enhanced_refresh && self.remote.enhanced_refresh
    }

    /// Families whose routes are kept while the peer restarts.
    pub fn graceful_families(&self) -> FamilySet {
        match (&self.local.graceful_restart, &self.remote.graceful_restart) {
            (Some(_), Some(remote)) => {
                self.params.families.iter().filter(|family| remote.family(*family).is_some()).collect()
            }
            _ => FamilySet::NONE,
        }
    }

    /// How long the peer may take to restart.
    pub fn restart_time(&self) -> Duration {
        let seconds = self.remote.graceful_restart.as_ref().map_or(0, |gr| gr.restart_time);
        Duration::from_secs(u64::from(seconds))
    }

    /// Whether a NOTIFICATION also leads to a graceful restart (RFC 8538).
    pub fn notification_restart(&self) -> bool {
        let has = |caps: &Capabilities| caps.graceful_restart.as_ref().is_some_and(|gr| gr.notification);
        has(&self.local) && has(&self.remote)
    }

    /// How long stale routes of a family live on after the restart time (RFC 9494).
    pub fn long_lived_time(&self, family: Family) -> Duration {
        let seconds = |caps: &Capabilities| {
            let entry = caps
                .long_lived
                .as_ref()?
                .iter()
                .find(|e| (e.afi, e.safi) == (family.afi(), family.safi()))?;
            Some(entry.stale_time)
        };
        // The peer says how long it needs; our own configuration can only shorten it.
        match (seconds(&self.local), seconds(&self.remote)) {
            (Some(own), Some(peer)) => Duration::from_secs(u64::from(own.min(peer))),
            _ => Duration::ZERO,
        }
    }
}

/// Messages of an established or awaited connection, as the peer needs them.
pub(crate) enum Incoming<'a> {
    Open(Open),
    Keepalive,
    Update(&'a [u8]),
    Notification(Notification),
    Refresh(Family, RouteRefreshKind),
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) outgoing: bool,
    pub(crate) local: SocketAddr,
    pub(crate) phase: Phase,
    pub(crate) negotiated: Option<Negotiated>,
    pub(crate) hold: Option<Instant>,
    pub(crate) keepalive: Option<Instant>,
    pub(crate) keepalive_interval: Duration,
    /// Since when the caller could not write; the send hold timer (RFC 9687) runs from here.
    pub(crate) stalled: Option<Instant>,
    pub(crate) offered: Capabilities,
    received: Vec<u8>,
    transmit: VecDeque<Bytes>,
}

impl Connection {
    pub(crate) fn open(
        now: Instant,
        id: ConnectionId,
        outgoing: bool,
        local: SocketAddr,
        open: Open,
        offered: Capabilities,
    ) -> Self {
        let mut this = Connection {
            id,
            outgoing,
            local,
            phase: Phase::OpenSent,
            negotiated: None,
            hold: Some(now + OPEN_HOLD),
            keepalive: None,
            keepalive_interval: Duration::ZERO,
            stalled: None,
            offered,
            received: Vec::new(),
            transmit: VecDeque::new(),
        };
        this.send(&Message::Open(open));
        this
    }

    pub(crate) fn send(&mut self, message: &Message) {
        self.transmit.push_back(message.encode().into());
    }

    pub(crate) fn pop_transmit(&mut self) -> Option<Bytes> {
        self.transmit.pop_front()
    }

    /// Everything still to be written, to go before a farewell.
    pub(crate) fn drain_transmit(&mut self) -> impl Iterator<Item = Bytes> + '_ {
        self.transmit.drain(..)
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let send_hold = self.stalled.map(|since| since + self.send_hold());
        [self.hold, self.keepalive, send_hold].into_iter().flatten().min()
    }

    /// Time without progress in writing after which the session ends: twice the hold time, at least 8 minutes for those
    /// without one (RFC 9687 section 6).
    pub(crate) fn send_hold(&self) -> Duration {
        let hold = self.negotiated.as_ref().map_or(Duration::ZERO, |n| n.hold_time);
        if hold.is_zero() { Duration::from_secs(480) } else { hold * 2 }
    }

    pub(crate) fn restart_hold(&mut self, now: Instant) {
        let hold = self.negotiated.as_ref().map_or(Duration::ZERO, |n| n.hold_time);
        self.hold = (!hold.is_zero()).then(|| now + hold);
    }

    fn limits(&self) -> MessageLimits {
        match &self.negotiated {
            Some(n) if n.local.extended_message && n.remote.extended_message => MessageLimits::extended(),
            _ => MessageLimits::classic(),
        }
    }

    /// Takes received octets and hands every whole message to `each`, which says whether to go on. What is left over
    /// waits for the next call; the result tells whether there may be whole messages in it.
    ///
    /// # Errors
    /// The NOTIFICATION to send, of the framing or from `each`.
    pub(crate) fn receive(
        &mut self,
        data: &[u8],
        mut each: impl FnMut(&mut Connection, Incoming<'_>) -> Result<bool, Notification>,
    ) -> Result<bool, Notification> {
        // Most reads begin and end on message boundaries or nearly so: whole messages are read from the caller's
        // buffer, only the torn one is copied.
        let mut kept = std::mem::take(&mut self.received);
        let joined = !kept.is_empty();
        if joined {
            kept.extend_from_slice(data);
        }
        let input: &[u8] = if joined { &kept } else { data };
        let mut rest = input;
        let mut more = false;
        while !more {
            let limits = self.limits();
            match split_message(rest, limits)? {
                Decoded::Incomplete { .. } => break,
                Decoded::Message { kind, body, length } => {
                    rest = rest.get(length..).unwrap_or_default();
                    if let Some(incoming) = decode(kind, body)? {
                        more = !each(self, incoming)?;
                    }
                }
            }
        }
        let left = rest.len();
        if joined {
            kept.drain(..kept.len() - left);
        } else {
            kept.extend_from_slice(data.get(data.len() - left..).unwrap_or_default());
        }
        self.received = kept;
        Ok(more)
    }
}

fn decode(kind: u8, body: &[u8]) -> Result<Option<Incoming<'_>>, Notification> {
    Ok(match kind {
        message_type::OPEN => Some(Incoming::Open(Open::decode_body(body)?)),
        message_type::KEEPALIVE => Some(Incoming::Keepalive),
        message_type::UPDATE => Some(Incoming::Update(body)),
        message_type::NOTIFICATION => Notification::decode_body(body).map(Incoming::Notification),
        message_type::ROUTE_REFRESH => {
            let refresh = RouteRefresh::decode_body(body).ok_or_else(|| {
                // RFC 7313 section 5: the whole message goes along.
                let mut message = crate::wire::message::begin_message(kind);
                message.extend_from_slice(body);
                crate::wire::message::finish_message(&mut message);
                Notification::with_data(code::REFRESH_LENGTH, message)
            })?;
            // One for a family or of a kind we do not know is ignored.
            refresh.family().map(|family| Incoming::Refresh(family, refresh.kind))
        }
        _ => None,
    })
}

/// Compares what both sides offered.
///
/// # Errors
/// The NOTIFICATION when they have no family in common.
pub(crate) fn negotiate(
    open: &Open,
    offered: &Capabilities,
    own_hold: Duration,
    (local_as, remote_as): (u32, u32),
    enforce_first_as: bool,
) -> Result<Negotiated, Notification> {
    let remote = Capabilities::from_list(&open.capabilities);
    let families = offered.families.intersection(remote.families);
    if families.is_empty() {
        let mut wanted = Vec::new();
        for family in offered.families.iter() {
            let [high, low] = family.afi().to_be_bytes();
            wanted.extend_from_slice(&[1, 4, high, low, 0, family.safi()]);
        }
        return Err(Notification::with_data(code::BAD_CAPABILITY, wanted));
    }
    let ibgp = local_as == remote_as;
    let extended = offered.extended_message && remote.extended_message;
    let params = SessionParams {
        four_octet_as: offered.four_octet_as.is_some() && remote.four_octet_as.is_some(),
        ibgp,
        enforce_first_as: (enforce_first_as && !ibgp).then_some(remote_as),
        families,
        add_path_receive: offered.add_path_receive.intersection(remote.add_path_send).intersection(families),
        add_path_send: offered.add_path_send.intersection(remote.add_path_receive).intersection(families),
        extended_next_hop: offered.extended_next_hop && remote.extended_next_hop,
        max_length: if extended { MessageLimits::extended() } else { MessageLimits::classic() }.max_length,
    };
    let hold_time = own_hold.min(Duration::from_secs(u64::from(open.hold_time)));
    Ok(Negotiated { params, hold_time, identifier: open.identifier, local: offered.clone(), remote })
}
