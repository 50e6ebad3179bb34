//! What an operator is told about a session: its state, why it is down, what it has counted.

use std::fmt;
use std::sync::Arc;

use crate::wire::{Family, Notification};

/// The state of a peer as RFC 4271 names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Switched off, or pausing after an error.
    Idle,
    /// Dialling.
    Connect,
    /// Waiting for the next dial or for the peer to dial.
    Active,
    /// Connected, OPEN sent.
    OpenSent,
    /// OPENs exchanged.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Idle => "Idle",
            State::Connect => "Connect",
            State::Active => "Active",
            State::OpenSent => "OpenSent",
            State::OpenConfirm => "OpenConfirm",
            State::Established => "Established",
        })
    }
}

/// Why a session is not, or no longer, up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DownReason {
    /// Never tried yet.
    Starting,
    /// Switched off in the configuration.
    Disabled,
    /// The session waits until BFD hears the peer.
    AwaitingBfd,
    /// A key is configured but cannot be had.
    KeyUnavailable(Arc<str>),
    /// The connection could not be made; the text is the adapter's.
    ConnectFailed(Arc<str>),
    /// The connection broke; the text is the adapter's.
    ConnectionLost(Arc<str>),
    /// We closed with this.
    Sent(Notification),
    /// The peer closed with this.
    Received(Notification),
    /// The peer opened a new connection, for it has restarted.
    PeerRestarted,
    /// Too many prefixes.
    MaxPrefixes(Family),
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DownReason::Starting => f.write_str("starting"),
            DownReason::Disabled => f.write_str("disabled by configuration"),
            DownReason::AwaitingBfd => f.write_str("BFD does not hear the peer"),
            DownReason::KeyUnavailable(why) => write!(f, "password unavailable: {why}"),
            DownReason::ConnectFailed(why) => write!(f, "Socket: {why}"),
            DownReason::ConnectionLost(why) => write!(f, "Socket: connection lost: {why}"),
            DownReason::Sent(n) => write!(f, "Error: {n}"),
            DownReason::Received(n) => write!(f, "Received: {n}"),
            DownReason::PeerRestarted => f.write_str("peer restarted"),
            DownReason::MaxPrefixes(family) => {
                write!(f, "Automatic shutdown: {family} prefix limit exceeded")
            }
        }
    }
}

/// Counts of a session and of its peer, since the speaker started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerCounters {
    /// UPDATEs received.
    pub updates_in: u64,
    /// UPDATEs sent.
    pub updates_out: u64,
    /// Octets received.
    pub octets_in: u64,
    /// Times the session came up.
    pub established: u64,
    /// UPDATEs with a defect that RFC 7606 lets pass.
    pub malformed_updates: u64,
    /// Routes not sent because no message can hold them.
    pub unsendable: u64,
}
