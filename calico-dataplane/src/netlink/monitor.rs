//! Notifications of what changes in the kernel, whoever changed it.
//!
//! Subscribe first, then read the state, then follow: nothing is missed.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use super::error::{DecodeError, NetlinkError};
use super::socket::{Protocol, Socket};
use super::wire::{Message, Messages};
use super::{
    Address, Link, Neighbour, RTM_DELADDR, RTM_DELLINK, RTM_DELNEIGH, RTM_DELROUTE, RTM_DELRULE, RTM_NEWADDR,
    RTM_NEWLINK, RTM_NEWNEIGH, RTM_NEWROUTE, RTM_NEWRULE, Route, Rule, address, link, neighbour, route, rule,
};

/// What to be told about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Interfaces.
    Links,
    /// Interface addresses of both families.
    Addresses,
    /// Routes of both families.
    Routes,
    /// Neighbours and forwarding entries.
    Neighbours,
    /// Routing rules of both families.
    Rules,
}

impl Group {
    fn numbers(self) -> &'static [u32] {
        match self {
            Self::Links => &[1],
            Self::Addresses => &[5, 9],
            Self::Routes => &[7, 11],
            Self::Neighbours => &[3],
            Self::Rules => &[8, 19],
        }
    }
}

/// One notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An interface came or changed.
    Link(Link),
    /// An interface is gone.
    LinkGone(Link),
    /// An address came or changed.
    Address(Address),
    /// An address is gone.
    AddressGone(Address),
    /// A route came or changed.
    Route(Route),
    /// A route is gone. IPv4 says nothing when routes vanish because their interface went down.
    RouteGone(Route),
    /// A neighbour came or changed.
    Neighbour(Neighbour),
    /// A neighbour is gone.
    NeighbourGone(Neighbour),
    /// A rule came.
    Rule(Rule),
    /// A rule is gone.
    RuleGone(Rule),
    /// Notifications were lost: read the whole state again.
    Lost,
}

/// Reads one notification; `None` for kinds and families that we do not follow.
///
/// # Errors
/// [`DecodeError`].
pub fn decode(message: &Message<'_>) -> Result<Option<Event>, DecodeError> {
    Ok(match message.kind {
        // Bridges send link messages of their own family about their ports; they tell nothing new.
        RTM_NEWLINK | RTM_DELLINK if message.payload.first() != Some(&0) => None,
        RTM_NEWLINK => Some(Event::Link(link::decode(message)?)),
        RTM_DELLINK => Some(Event::LinkGone(link::decode(message)?)),
        RTM_NEWADDR => address::decode(message)?.map(Event::Address),
        RTM_DELADDR => address::decode(message)?.map(Event::AddressGone),
        RTM_NEWROUTE => route::decode(message)?.map(Event::Route),
        RTM_DELROUTE => route::decode(message)?.map(Event::RouteGone),
        RTM_NEWNEIGH => neighbour::decode(message)?.map(Event::Neighbour),
        RTM_DELNEIGH => neighbour::decode(message)?.map(Event::NeighbourGone),
        RTM_NEWRULE => rule::decode(message)?.map(Event::Rule),
        RTM_DELRULE => rule::decode(message)?.map(Event::RuleGone),
        _ => None,
    })
}

/// Listens to the kernel. Block on [`Self::wait`] in a thread of its own, or register the descriptor with an event
/// loop and call [`Self::poll`] when it is readable.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
    nonblocking: bool,
    ignored: Option<u32>,
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Monitor {
    /// Subscribes in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn open(groups: &[Group]) -> Result<Self, NetlinkError> {
        let mut socket = Socket::open(Protocol::Route)?;
        // A burst of a few ten thousand routes must fit between two polls.
        socket.set_receive_buffer(32 << 20)?;
        for number in groups.iter().flat_map(|group| group.numbers()) {
            socket.join(*number)?;
        }
        socket.set_nonblocking(true)?;
        Ok(Self { socket, nonblocking: true, ignored: None })
    }

    /// Leaves out what the socket with this port did to routes: its owner knows already, and an old echo must not
    /// contradict a newer write.
    pub fn ignore_routes_of(&mut self, port: u32) {
        self.ignored = Some(port);
    }

    /// Everything that is there now, without waiting; empty when nothing is. Messages that cannot be decoded, and
    /// overflows, become [`Event::Lost`].
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn poll(&mut self) -> Result<Vec<Event>, NetlinkError> {
        if !self.nonblocking {
            self.socket.set_nonblocking(true)?;
            self.nonblocking = true;
        }
        let mut events = Vec::new();
        while self.receive(&mut events)? {}
        Ok(events)
    }

    /// Waits for the next notifications; empty after some seconds of silence, so that the caller can look around.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn wait(&mut self) -> Result<Vec<Event>, NetlinkError> {
        if self.nonblocking {
            self.socket.set_nonblocking(false)?;
            self.nonblocking = false;
        }
        let mut events = Vec::new();
        self.receive(&mut events)?;
        Ok(events)
    }

    fn receive(&mut self, events: &mut Vec<Event>) -> Result<bool, NetlinkError> {
        match self.socket.receive() {
            Ok(None) => Ok(false),
            Ok(Some(datagram)) => {
                for message in Messages::new(datagram) {
                    if let Ok(Message { kind: RTM_NEWROUTE | RTM_DELROUTE, port, .. }) = message
                        && self.ignored == Some(port)
                    {
                        continue;
                    }
                    match message.and_then(|message| decode(&message)) {
                        Ok(event) => events.extend(event),
                        Err(_) => events.push(Event::Lost),
                    }
                }
                Ok(true)
            }
            Err(error) if error.errno() == Some(libc::ENOBUFS) => {
                events.push(Event::Lost);
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_an_event_an_error_or_nothing(kind in 16..40_u16, payload in proptest::collection::vec(any::<u8>(), 0..120)) {
            let message = Message { kind, flags: 0, sequence: 0, port: 0, payload: &payload };
            let _ = decode(&message);
        }
    }
}
