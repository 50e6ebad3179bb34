//! A blocking netlink socket: request and acknowledgement, pipelines of them, and dumps.
//!
//! A socket belongs to the network namespace of the thread that opened it, for ever; it may be used from any
//! thread afterwards. Every reply is checked against the sequence number of its request.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_sys::{Socket as RawSocket, SocketAddr, protocols};

use super::error::{NetlinkError, Refusal};
use super::wire::{Attributes, Body, Encoder, HEADER, Message, Messages, flags, u32_at};
use crate::sys::sockbuf;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;

/// Attempts at a dump that the kernel reports as inconsistent.
const DUMP_TRIES: u32 = 8;
/// Requests in flight in a pipeline: their acknowledgements must fit the receive buffer.
const PIPELINE: usize = 256;
/// No pipeline datagram grows beyond this (the send buffer may be the small default without privilege).
const PIPELINE_BYTES: usize = 64 * 1024;
/// The kernel answers at once or is broken.
const TIMEOUT_SECONDS: u64 = 10;

/// Which kernel subsystem a socket talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes, neighbours, rules.
    Route,
    /// nf_tables and connection tracking.
    Netfilter,
    /// Generic netlink (WireGuard).
    Generic,
}

impl Protocol {
    fn number(self) -> isize {
        match self {
            Self::Route => protocols::NETLINK_ROUTE,
            Self::Netfilter => protocols::NETLINK_NETFILTER,
            Self::Generic => protocols::NETLINK_GENERIC,
        }
    }
}

/// One request, before it has a sequence number.
pub struct Request<'a> {
    /// What it does and to what, for error messages: `add route 10.0.0.0/8`.
    pub action: &'a dyn std::fmt::Display,
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags` beyond `REQUEST` and `ACK`.
    pub flags: u16,
    /// Writes what follows the header.
    pub body: &'a dyn Fn(&mut Body<'_>),
}

/// One request of a pipeline.
pub struct Step<F> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags` beyond `REQUEST` and `ACK`.
    pub flags: u16,
    /// Writes what follows the header.
    pub body: F,
}

/// A blocking netlink socket.
pub struct Socket {
    raw: RawSocket,
    port: u32,
    sequence: u32,
    receive: Vec<u8>,
    send: Encoder,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket").field("port", &self.port).field("sequence", &self.sequence).finish()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raw.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.raw.as_raw_fd()
    }
}

fn failed(call: &'static str) -> impl FnOnce(io::Error) -> NetlinkError {
    move |error| NetlinkError::Socket { call, errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

impl Socket {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn open(protocol: Protocol) -> Result<Self, NetlinkError> {
        let mut raw = RawSocket::new(protocol.number()).map_err(failed("socket"))?;
        let address = raw.bind_auto().map_err(failed("bind"))?;
        raw.set_ext_ack(true).map_err(failed("NETLINK_EXT_ACK"))?;
        raw.set_cap_ack(true).map_err(failed("NETLINK_CAP_ACK"))?;
        if protocol == Protocol::Route {
            // Makes the kernel honour dump filters and refuse what it does not understand; 4.20 and newer.
            match raw.set_netlink_get_strict_chk(true) {
                Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {}
                other => other.map_err(failed("NETLINK_GET_STRICT_CHK"))?,
            }
        }
        sockbuf::set_receive(&raw, 4 << 20).map_err(failed("SO_RCVBUF"))?;
        rustix::net::sockopt::set_socket_timeout(
            &raw,
            rustix::net::sockopt::Timeout::Recv,
            Some(std::time::Duration::from_secs(TIMEOUT_SECONDS)),
        )
        .map_err(|error| NetlinkError::Socket { call: "SO_RCVTIMEO", errno: error.raw_os_error() })?;
        Ok(Self {
            raw,
            port: address.port_number(),
            sequence: 0,
            receive: vec![0; 64 * 1024],
            send: Encoder::new(),
        })
    }

    /// The port that the kernel gave us: notifications of our own changes carry it.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Sends one request and waits for its acknowledgement.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`] with the kernel's words, or a socket error.
    pub fn acknowledged(&mut self, request: &Request<'_>) -> Result<(), NetlinkError> {
        let sequence = self.begin();
        let Request { kind, flags, body, .. } = *request;
        self.send.message(kind, flags | flags::REQUEST | flags::ACK, sequence, |out| body(out));
        self.flush()?;
        let action = request.action;
        self.collect(action, sequence, |_| Ok(()))
    }

    /// Sends one request for one object and hands the reply to `read`.
    ///
    /// # Errors
    /// As [`Self::acknowledged`]; [`NetlinkError::NoReply`] when the kernel acknowledged without answering.
    pub fn single<T>(
        &mut self,
        request: &Request<'_>,
        read: impl Fn(Message<'_>) -> Result<T, super::error::DecodeError>,
    ) -> Result<T, NetlinkError> {
        let sequence = self.begin();
        let Request { kind, flags, body, .. } = *request;
        self.send.message(kind, flags | flags::REQUEST | flags::ACK, sequence, |out| body(out));
        self.flush()?;
        let action = request.action;
        let mut reply = None;
        self.collect(action, sequence, |message| {
            reply = Some(read(message)?);
            Ok(())
        })?;
        reply.ok_or_else(|| NetlinkError::NoReply { action: action.to_string() })
    }

    /// Reads a whole table: hands every message to `read`, and what it gives back is collected. Starts again
    /// when the table changed meanwhile, so that the result is one consistent picture.
    ///
    /// # Errors
    /// As [`Self::acknowledged`], and [`NetlinkError::Interrupted`].
    pub fn dump<T>(
        &mut self,
        request: &Request<'_>,
        read: impl Fn(Message<'_>) -> Result<Option<T>, super::error::DecodeError>,
    ) -> Result<Vec<T>, NetlinkError> {
        let Request { kind, flags, body, action } = *request;
        for _ in 0..DUMP_TRIES {
            let sequence = self.begin();
            self.send.message(kind, flags | flags::REQUEST | flags::DUMP, sequence, |out| body(out));
            self.flush()?;
            let mut items = Vec::new();
            let mut interrupted = false;
            let outcome = self.collect(action, sequence, |message| {
                interrupted |= message.flags & flags::DUMP_INTR != 0;
                items.extend(read(message)?);
                Ok(())
            });
            match outcome {
                Err(error) if error.errno() == Some(libc::EINTR) => {}
                Err(error) => return Err(error),
                Ok(()) if interrupted => {}
                Ok(()) => return Ok(items),
            }
        }
        Err(NetlinkError::Interrupted { action: action.to_string(), tries: DUMP_TRIES })
    }

    /// Sends many independent requests with few system calls. The result has one entry per request, in order:
    /// `None` when the kernel accepted it, its refusal otherwise.
    ///
    /// # Errors
    /// Only for the socket itself; refusals are in the result.
    pub fn pipeline<F: FnOnce(&mut Body<'_>)>(
        &mut self,
        requests: impl IntoIterator<Item = Step<F>>,
    ) -> Result<Vec<Option<Refusal>>, NetlinkError> {
        let mut results = Vec::new();
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            let first = self.begin();
            let mut count = 0;
            while count < PIPELINE && self.send.as_bytes().len() < PIPELINE_BYTES {
                let Some(request) = requests.next() else { break };
                let sequence = first.wrapping_add(count as u32);
                let header = request.flags | flags::REQUEST | flags::ACK;
                self.send.message(request.kind, header, sequence, request.body);
                count += 1;
            }
            self.sequence = first.wrapping_add(count as u32 - 1);
            self.flush()?;
            self.collect_many(first, count, &mut results)?;
        }
        Ok(results)
    }

    /// Sends prepared messages as one datagram: nf_tables batches. Choose sequence numbers from
    /// [`Self::reserve`].
    ///
    /// # Errors
    /// [`NetlinkError::Socket`] (`EMSGSIZE` when it does not fit the send buffer).
    pub fn send_raw(&mut self, datagram: &[u8]) -> Result<(), NetlinkError> {
        let kernel = SocketAddr::new(0, 0);
        loop {
            match self.raw.send_to(datagram, &kernel, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("send")(error)),
            }
        }
    }

    /// Reserves `count` sequence numbers and returns the first.
    pub fn reserve(&mut self, count: u32) -> u32 {
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(count);
        first
    }

    /// Receives one datagram from the kernel. `None` when nothing came in time (or, on a socket set to
    /// non-blocking, when nothing is there).
    ///
    /// # Errors
    /// [`NetlinkError::Socket`]; `ENOBUFS` means that the kernel dropped messages meant for us.
    pub fn receive(&mut self) -> Result<Option<&[u8]>, NetlinkError> {
        let length = loop {
            let mut space: &mut [u8] = &mut self.receive;
            match self.raw.recv_from(&mut space, libc::MSG_TRUNC) {
                Ok((_, from)) if from.port_number() != 0 => {}
                Ok((length, _)) => break length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(failed("recv")(error)),
            }
        };
        if length > self.receive.len() {
            // The kernel sizes dump replies after our own reads, so this is for oversized notifications only:
            // its content is lost, which the caller must treat like an overflow.
            self.receive.resize(length.next_power_of_two(), 0);
            return Err(NetlinkError::Socket { call: "recv", errno: libc::ENOBUFS });
        }
        Ok(self.receive.get(..length))
    }

    /// Joins a multicast group by number.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn join(&mut self, group: u32) -> Result<(), NetlinkError> {
        self.raw.add_membership(group).map_err(failed("NETLINK_ADD_MEMBERSHIP"))
    }

    /// Makes [`Self::receive`] return at once when nothing is there, for use under an event loop.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn set_nonblocking(&mut self, nonblocking: bool) -> Result<(), NetlinkError> {
        self.raw.set_non_blocking(nonblocking).map_err(failed("O_NONBLOCK"))
    }

    /// Sets the send buffer, so that one transaction of `bytes` fits. Returns the size in force.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn set_send_buffer(&mut self, bytes: usize) -> Result<usize, NetlinkError> {
        sockbuf::set_send(&self.raw, bytes).map_err(failed("SO_SNDBUF"))
    }

    /// Sets the receive buffer. Returns the size in force.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn set_receive_buffer(&mut self, bytes: usize) -> Result<usize, NetlinkError> {
        sockbuf::set_receive(&self.raw, bytes).map_err(failed("SO_RCVBUF"))
    }

    fn begin(&mut self) -> u32 {
        self.send.clear();
        self.reserve(1)
    }

    fn flush(&mut self) -> Result<(), NetlinkError> {
        let datagram = std::mem::take(&mut self.send);
        let sent = self.send_raw(datagram.as_bytes());
        self.send = datagram;
        sent
    }

    /// Reads datagrams until the answer to `sequence` is complete.
    fn collect(
        &mut self,
        action: &dyn std::fmt::Display,
        sequence: u32,
        mut each: impl FnMut(Message<'_>) -> Result<(), super::error::DecodeError>,
    ) -> Result<(), NetlinkError> {
        let mut broken = None;
        loop {
            let datagram = match self.receive() {
                Ok(Some(datagram)) => datagram,
                Ok(None) => {
                    return Err(NetlinkError::Timeout {
                        action: action.to_string(),
                        seconds: TIMEOUT_SECONDS,
                    });
                }
                Err(error) if error.errno() == Some(libc::ENOBUFS) => {
                    return Err(NetlinkError::Overrun { action: action.to_string() });
                }
                Err(error) => return Err(error),
            };
            for message in Messages::new(datagram) {
                let message = match message {
                    Ok(message) => message,
                    Err(error) => {
                        return Err(NetlinkError::Decode { action: action.to_string(), error });
                    }
                };
                if message.sequence != sequence {
                    // The rest of an answer that an earlier caller gave up on.
                    continue;
                }
                match message.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        if let Some(refusal) = refusal(&message) {
                            return Err(NetlinkError::Refused { action: action.to_string(), refusal });
                        }
                        return match broken {
                            Some(error) => Err(NetlinkError::Decode { action: action.to_string(), error }),
                            None => Ok(()),
                        };
                    }
                    NLMSG_OVERRUN => {
                        return Err(NetlinkError::Overrun { action: action.to_string() });
                    }
                    // Read on after a message that cannot be decoded, so that the socket stays in step.
                    _ if broken.is_none() => broken = each(message).err(),
                    _ => {}
                }
            }
        }
    }

    fn collect_many(
        &mut self,
        first: u32,
        count: usize,
        results: &mut Vec<Option<Refusal>>,
    ) -> Result<(), NetlinkError> {
        let start = results.len();
        results.resize(start + count, None);
        let mut answered = 0;
        while answered < count {
            let action = || format!("a pipeline of {count} requests");
            let datagram = match self.receive() {
                Ok(Some(datagram)) => datagram,
                Ok(None) => {
                    return Err(NetlinkError::Timeout { action: action(), seconds: TIMEOUT_SECONDS });
                }
                Err(error) if error.errno() == Some(libc::ENOBUFS) => {
                    return Err(NetlinkError::Overrun { action: action() });
                }
                Err(error) => return Err(error),
            };
            for message in Messages::new(datagram) {
                let message = message.map_err(|error| NetlinkError::Decode { action: action(), error })?;
                let position = message.sequence.wrapping_sub(first) as usize;
                if message.kind == NLMSG_ERROR
                    && let Some(slot) = results.get_mut(start + position)
                    && position < count
                {
                    *slot = refusal(&message);
                    answered += 1;
                }
            }
        }
        Ok(())
    }
}

/// The verdict of an `NLMSG_ERROR` or `NLMSG_DONE`: `None` is success.
pub fn refusal(message: &Message<'_>) -> Option<Refusal> {
    let errno = message.payload.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
    if errno >= 0 {
        return None;
    }
    let mut refusal = Refusal { errno: errno.saturating_neg(), message: None, offset: None };
    if message.flags & flags::ACK_TLVS != 0 {
        // An error repeats the request's header, and its payload too unless capped; DONE repeats nothing.
        let skip = match message.kind {
            NLMSG_DONE => 4,
            _ if message.flags & flags::CAPPED != 0 => 4 + HEADER,
            _ => 4 + (u32_at(message.payload, 4) as usize).max(HEADER).next_multiple_of(4),
        };
        for attribute in Attributes::new(message.payload.get(skip..).unwrap_or_default()).flatten() {
            match attribute.kind {
                1 => refusal.message = Some(attribute.text().into_owned()),
                2 => refusal.offset = attribute.u32().ok(),
                _ => {}
            }
        }
    }
    Some(refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get_link(index: u32, name: &str) -> impl Fn(&mut Body<'_>) {
        let name = name.to_owned();
        move |body| {
            let mut header = [0; 16];
            header[4..8].copy_from_slice(&index.to_ne_bytes());
            body.bytes(&header);
            if !name.is_empty() {
                body.text(3, &name);
            }
        }
    }

    #[test]
    fn a_request_gets_its_own_answer() {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        let body = get_link(1, "");
        let request = Request { action: &"read lo", kind: 18, flags: 0, body: &body };
        let index = socket.single(&request, |message| Ok(u32_at(message.payload, 4))).unwrap();
        assert_eq!(index, 1);
    }

    #[test]
    fn a_refusal_names_the_action_and_the_errno() {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        let body = get_link(0, "no-such-link");
        let request = Request { action: &"read no-such-link", kind: 18, flags: 0, body: &body };
        let error = socket.single(&request, |_| Ok(())).unwrap_err();
        assert!(error.is_absent());
        assert!(error.to_string().starts_with("read no-such-link: No such device"), "{error}");
    }

    #[test]
    fn the_kernels_own_words_arrive() {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        // Strict checking refuses a dump request with a non-zero field in its header.
        let body = |body: &mut Body<'_>| body.bytes(&[2, 1, 1, 1, 1, 1, 1, 1]);
        let request = Request { action: &"dump", kind: 22, flags: 0, body: &body };
        let Err(NetlinkError::Refused { refusal, .. }) = socket.dump(&request, |_| Ok(Some(()))) else {
            panic!("accepted");
        };
        assert_eq!(refusal.errno, libc::EINVAL);
        assert!(refusal.message.is_some(), "{refusal}");
    }

    #[test]
    fn a_dump_collects_everything_and_the_socket_stays_in_step() {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        let body = get_link(0, "");
        let request = Request { action: &"dump links", kind: 18, flags: 0, body: &body };
        for _ in 0..3 {
            let links = socket.dump(&request, |message| Ok(Some(u32_at(message.payload, 4)))).unwrap();
            assert!(links.contains(&1));
        }
    }

    #[test]
    fn a_pipeline_reports_each_request() {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        let good = get_link(1, "");
        let bad = get_link(0, "no-such-link");
        let step = |good_one: bool| Step {
            kind: 18,
            flags: 0,
            body: if good_one { &good as &dyn Fn(&mut Body<'_>) } else { &bad },
        };
        let results = socket.pipeline((0..600).map(|i| step(i % 3 != 0))).unwrap();
        assert_eq!(results.len(), 600);
        for (position, result) in results.iter().enumerate() {
            assert_eq!(result.is_some(), position % 3 == 0, "{position}");
        }
    }
}
