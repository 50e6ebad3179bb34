//! What goes into a [`crate::Speaker`] and what comes out of it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::config::{Authentication, PeerConfig, Ttl};
use crate::fsm::{ConnectionId, Negotiated};
use crate::rib::FibChange;
use crate::state::{DownReason, PeerCounters, State};

/// An attempt to connect, named by the speaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DialId(pub u64);

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input<'a> {
    /// Time has passed.
    Timeout,
    /// An attempt of ours succeeded; the caller names the connection.
    Connected {
        /// The attempt.
        dial: DialId,
        /// The new connection.
        connection: ConnectionId,
        /// Our end.
        local: SocketAddr,
    },
    /// An attempt of ours failed.
    ConnectFailed {
        /// The attempt.
        dial: DialId,
        /// Why, for people.
        reason: Arc<str>,
    },
    /// Somebody connected to us.
    Accepted {
        /// The new connection.
        connection: ConnectionId,
        /// Our end.
        local: SocketAddr,
        /// The other end.
        remote: SocketAddr,
    },
    /// Octets came in.
    Received {
        /// Where.
        connection: ConnectionId,
        /// What.
        data: &'a [u8],
    },
    /// A connection is gone. Not needed for connections that [`Event::Close`] named.
    Closed {
        /// Which.
        connection: ConnectionId,
        /// Why, for people.
        reason: Arc<str>,
    },
    /// Whether a connection takes more octets. It does until told otherwise; messages of a full one stay with the
    /// speaker, where newer ones replace them.
    Writable {
        /// Which.
        connection: ConnectionId,
        /// Whether.
        writable: bool,
    },
    /// The way to a next hop: its cost, or `None` when there is no way. Next hops nobody spoke of are reachable.
    NextHop {
        /// The address.
        address: IpAddr,
        /// The cost of the way.
        cost: Option<u32>,
    },
    /// BFD found the way to a peer usable or not.
    Bfd {
        /// The peer's name.
        peer: &'a str,
        /// Usable.
        up: bool,
    },
    /// An operator wants a session closed and made anew.
    Reset {
        /// The peer's name.
        peer: &'a str,
    },
    /// An operator wants a peer's routes again.
    Refresh {
        /// The peer's name.
        peer: &'a str,
    },
}

/// Octets to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Where.
    pub connection: ConnectionId,
    /// What; one or more whole messages, shared with other connections.
    pub bytes: Bytes,
}

/// Something for the caller to do or to know.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Connect to a peer and answer with [`Input::Connected`] or [`Input::ConnectFailed`]. A newer attempt of the same
    /// peer makes older ones void.
    Connect {
        /// The attempt.
        dial: DialId,
        /// The peer's name.
        peer: Arc<str>,
        /// Where to.
        remote: SocketAddr,
        /// The address to bind.
        local: Option<IpAddr>,
        /// How to sign segments; set before connecting.
        authentication: Authentication,
        /// TTL to send with and to demand; set before connecting.
        ttl: Ttl,
    },
    /// Close a connection, after writing what is left of its transmits and the farewell. The speaker has forgotten it.
    Close {
        /// Which.
        connection: ConnectionId,
        /// Last octets, among them the NOTIFICATION.
        farewell: Option<Bytes>,
    },
    /// Change the kernel's table.
    Fib(FibChange),
    /// A peer changed its state.
    PeerState {
        /// The peer's name.
        peer: Arc<str>,
        /// The new state.
        state: State,
        /// Why it is not up, or was not up until now.
        reason: DownReason,
    },
    /// The speaker has restarted, has heard all its peers (or waited long enough) and has sent its first decisions as
    /// [`Event::Fib`]: kernel routes of an earlier life that were not confirmed can go.
    RestartComplete,
}

/// What a new configuration did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reconfiguration {
    /// Peers that are new.
    pub added: Vec<Arc<str>>,
    /// Peers that are gone.
    pub removed: Vec<Arc<str>>,
    /// Peers whose session was closed to be made anew.
    pub reset: Vec<Arc<str>>,
    /// Peers that changed while their session went on.
    pub live: Vec<Arc<str>>,
    /// Local routes added, replaced or taken back.
    pub routes: usize,
}

/// What an operator wants to know about a peer.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerStatus {
    /// Name, kind, addresses and everything else that was configured.
    pub config: Arc<PeerConfig>,
    /// The state.
    pub state: State,
    /// Since when the session is up, or down.
    pub since: Instant,
    /// Why the session is, or last was, down.
    pub reason: DownReason,
    /// What the running session agreed on.
    pub negotiated: Option<Negotiated>,
    /// Prefixes taken in, IPv4 and IPv6.
    pub prefixes_received: [u32; 2],
    /// Prefixes announced, IPv4 and IPv6.
    pub prefixes_sent: [usize; 2],
    /// The peer is restarting and its routes are kept.
    pub restarting: bool,
    /// Counts.
    pub counters: PeerCounters,
}
