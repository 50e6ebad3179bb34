//! The conversation with the kernel's nf_tables: commit a batch, dump a table, ask for the generation.
//!
//! A socket belongs to the network namespace of the thread that opened it. The kernel works through a batch
//! inside `send`, so all its replies are waiting when `send` returns; no time-out is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use thiserror::Error;

use super::batch::{Batch, FAMILY_INET, Refusal, SUBSYSTEM, flags, message, put_headers};
use super::decode::{self, DumpedSet, Literals, Message, RawElement};
use super::object::{Elements, LiteralSet, Name, Ruleset, Set};
use super::wire::{Attrs, WireError, put_text, put_u32};
use crate::sys::sockbuf;

/// `NLMSG_ERROR`.
const NLMSG_ERROR: u16 = 2;
/// `NLMSG_DONE`.
const NLMSG_DONE: u16 = 3;
/// `NLM_F_DUMP_INTR`.
const DUMP_INTERRUPTED: u16 = 0x10;
/// `NLM_F_ACK_TLVS`.
const ACK_TLVS: u16 = 0x200;
/// `NLM_F_CAPPED`.
const ACK_CAPPED: u16 = 0x100;
/// `NFNLGRP_NFTABLES`.
const GROUP_NFTABLES: u32 = 7;
/// Send buffer: the largest transaction that fits.
const SEND_BUFFER: usize = 256 << 20;
/// Receive buffer: room for the errors of a large batch.
const RECEIVE_BUFFER: usize = 16 << 20;
/// How often an interrupted dump is taken again.
const DUMP_ATTEMPTS: usize = 8;
/// How long the kernel is given to finish growing a hash table.
const REHASH_PAUSE: Duration = Duration::from_millis(2);

/// Why the kernel could not be talked to, or what it refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KernelError {
    /// A system call on the socket failed.
    #[error("nf_tables socket: {call} failed with errno {errno}")]
    Socket {
        /// Which call.
        call: &'static str,
        /// Errno.
        errno: i32,
    },
    /// The kernel refused some messages and applied nothing.
    #[error("the kernel refused {} of the batch's messages, first: {:?}", .0.len(), .0.first())]
    Refused(Vec<Refusal>),
    /// Somebody changed nf_tables since the generation the batch was made for; nothing was applied.
    #[error("nf_tables changed since the batch was computed; read it again and retry")]
    Outdated,
    /// The replies were lost, so the batch may or may not have been applied.
    #[error("the kernel's replies were lost; read the table again to learn what it holds")]
    Unknown,
    /// The table kept changing while it was read.
    #[error("the table changed during each of {0} attempts to read it; retry later")]
    Unsteady(usize),
    /// The kernel's bytes made no sense.
    #[error("unreadable reply: {0}")]
    Wire(#[from] WireError),
    /// A request other than a batch failed.
    #[error("nf_tables request {request} failed with errno {errno}")]
    Request {
        /// Message number.
        request: u8,
        /// Errno.
        errno: i32,
    },
}

impl KernelError {
    fn socket(call: &'static str, error: &io::Error) -> Self {
        Self::Socket { call, errno: error.raw_os_error().unwrap_or(0) }
    }
}

/// A table as read from the kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Dump {
    /// The generation it belongs to.
    pub generation: u32,
    /// False when there is no such table.
    pub exists: bool,
    /// Its content.
    pub ruleset: Ruleset,
}

/// A connection to nf_tables of one network namespace.
pub struct Kernel {
    socket: Socket,
    seq: u32,
    buf: Vec<u8>,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").field("seq", &self.seq).finish_non_exhaustive()
    }
}

fn open() -> Result<Socket, KernelError> {
    let mut socket = Socket::new(NETLINK_NETFILTER).map_err(|e| KernelError::socket("socket", &e))?;
    socket.bind_auto().map_err(|e| KernelError::socket("bind", &e))?;
    Ok(socket)
}

impl Kernel {
    /// Connects to the namespace of the calling thread.
    ///
    /// # Errors
    /// No netlink, or no privilege to use it.
    pub fn open() -> Result<Self, KernelError> {
        let socket = open()?;
        socket.set_ext_ack(true).map_err(|e| KernelError::socket("NETLINK_EXT_ACK", &e))?;
        socket.set_cap_ack(true).map_err(|e| KernelError::socket("NETLINK_CAP_ACK", &e))?;
        buffers(&socket)?;
        Ok(Self { socket, seq: 0, buf: Vec::with_capacity(256 * 1024) })
    }

    fn send(&self, bytes: &[u8]) -> Result<(), KernelError> {
        match self.socket.send_to(bytes, &SocketAddr::new(0, 0), 0) {
            Ok(_) => Ok(()),
            Err(error) => Err(KernelError::socket("send", &error)),
        }
    }

    /// Receives one datagram into the buffer; false when none is waiting.
    fn receive(&mut self, flags: i32) -> Result<bool, KernelError> {
        self.buf.clear();
        match self.socket.recv(&mut self.buf, flags) {
            Ok(_) => Ok(true),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => Ok(false),
                Some(libc::EINTR) => self.receive(flags),
                Some(libc::ENOBUFS) => Err(KernelError::Unknown),
                _ => Err(KernelError::socket("recv", &error)),
            },
        }
    }

    /// Throws away replies of an earlier, failed conversation.
    fn drain(&mut self) {
        while matches!(self.receive(libc::MSG_DONTWAIT), Ok(true) | Err(KernelError::Unknown)) {}
    }

    /// Commits a batch, all or nothing.
    ///
    /// # Errors
    /// [`KernelError::Refused`] and [`KernelError::Outdated`] mean that nothing was applied,
    /// [`KernelError::Unknown`] that nobody knows.
    pub fn commit(&mut self, batch: &mut Batch, generation: Option<u32>) -> Result<(), KernelError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.drain();
        let bytes = batch.finish(generation);
        self.send(&bytes)?;
        let mut acknowledged = false;
        let mut refusals = Vec::new();
        while self.receive(libc::MSG_DONTWAIT)? {
            for reply in decode::messages(&self.buf) {
                if reply.kind != NLMSG_ERROR {
                    continue;
                }
                match error_of(&reply) {
                    (0, _, _) => acknowledged = true,
                    // The generation check answers on BEGIN, a commit that lost a race on END.
                    (libc::ERESTART | libc::EAGAIN, _, _)
                        if reply.seq == 0 || reply.seq == batch.last_seq() =>
                    {
                        return Err(KernelError::Outdated);
                    }
                    (errno, offset, text) => {
                        refusals.push(batch.refusal(&bytes, reply.seq, errno, offset, text))
                    }
                }
            }
        }
        match (refusals.is_empty(), acknowledged) {
            (true, true) => Ok(()),
            (true, false) => Err(KernelError::Unknown),
            (false, _) => Err(KernelError::Refused(refusals)),
        }
    }

    /// The generation number of nf_tables in this namespace: it changes with every commit of anybody.
    ///
    /// # Errors
    /// Socket failures.
    pub fn generation(&mut self) -> Result<u32, KernelError> {
        let mut generation = None;
        self.request(message::GETGEN, 0, 0, |_| {}, &mut |reply| {
            generation = Some(decode::generation(reply)?.0);
            Ok(())
        })?;
        generation.ok_or(KernelError::Wire(WireError::Missing { kind: 1, object: "generation" }))
    }

    /// Sends one request and hands every reply of nf_tables to `each`. Returns false when a dump was
    /// interrupted by a change.
    fn request(
        &mut self,
        kind: u8,
        family: u8,
        extra: u16,
        fill: impl FnOnce(&mut Vec<u8>),
        each: &mut dyn FnMut(&Message<'_>) -> Result<(), WireError>,
    ) -> Result<bool, KernelError> {
        self.seq = self.seq.wrapping_add(1).max(1);
        let seq = self.seq;
        let mut bytes = Vec::with_capacity(128);
        // A dump ends with DONE; anything else is acknowledged so that its end is known too.
        let ack = if extra & flags::DUMP == 0 { flags::ACK } else { 0 };
        let kind_word = SUBSYSTEM << 8 | u16::from(kind);
        put_headers(&mut bytes, kind_word, flags::REQUEST | ack | extra, seq, family, 0);
        fill(&mut bytes);
        let length = bytes.len() as u32;
        if let Some(field) = bytes.get_mut(..4) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
        self.send(&bytes)?;
        let mut steady = true;
        loop {
            self.receive(0)?;
            for reply in decode::messages(&self.buf) {
                if reply.seq != seq {
                    continue;
                }
                steady &= reply.flags & DUMP_INTERRUPTED == 0;
                match reply.kind {
                    NLMSG_DONE => return Ok(steady),
                    NLMSG_ERROR => match error_of(&reply) {
                        (0, _, _) => return Ok(steady),
                        (errno, _, _) => return Err(KernelError::Request { request: kind, errno }),
                    },
                    _ => each(&reply)?,
                }
            }
        }
    }

    /// True when there is a table of that name in that family.
    ///
    /// # Errors
    /// Socket failures.
    pub fn has_table(&mut self, family: u8, table: &str) -> Result<bool, KernelError> {
        match self.request(message::GETTABLE, family, 0, |b| put_text(b, 1, table), &mut |_| Ok(())) {
            Ok(_) => Ok(true),
            Err(KernelError::Request { errno: libc::ENOENT, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads a whole `inet` table, consistent with one generation.
    ///
    /// # Errors
    /// Socket failures, or a table that changes faster than it can be read.
    pub fn dump(&mut self, table: &str) -> Result<Dump, KernelError> {
        self.drain();
        for _ in 0..DUMP_ATTEMPTS {
            let before = self.generation()?;
            let dump = match self.read_table(table) {
                Ok(Some(dump)) => dump,
                Ok(None) => continue,
                // A set that vanished between being listed and being read.
                Err(KernelError::Request { errno: libc::ENOENT, .. }) => continue,
                Err(error) => return Err(error),
            };
            if self.generation()? == before {
                return Ok(Dump { generation: before, ..dump });
            }
        }
        Err(KernelError::Unsteady(DUMP_ATTEMPTS))
    }

    fn read_table(&mut self, table: &str) -> Result<Option<Dump>, KernelError> {
        let mut dump = Dump { generation: 0, exists: false, ruleset: Ruleset::default() };
        dump.exists = self.has_table(FAMILY_INET, table)?;
        if !dump.exists {
            return Ok(Some(dump));
        }
        let ruleset = &mut dump.ruleset;
        let mut steady = true;

        let mut sets: Vec<DumpedSet> = Vec::new();
        steady &=
            self.request(message::GETSET, FAMILY_INET, flags::DUMP, |b| put_text(b, 1, table), &mut |m| {
                let set = decode::set(m)?;
                if &*set.table == table {
                    sets.push(set);
                }
                Ok(())
            })?;
        let mut literals = Literals::new();
        for set in sets {
            let (elements, consistent) = self.read_elements(&set)?;
            steady &= consistent;
            let DumpedSet { name, spec, anonymous, .. } = set;
            if anonymous {
                literals.insert(name, Arc::new(LiteralSet { spec, elements }));
            } else {
                ruleset.sets.insert(name, Set { spec, elements });
            }
        }

        steady &= self.request(message::GETCHAIN, FAMILY_INET, flags::DUMP, |_| {}, &mut |m| {
            let (owner, name, chain) = decode::chain(m)?;
            if &*owner == table {
                ruleset.chains.insert(name, chain);
            }
            Ok(())
        })?;
        steady &=
            self.request(message::GETRULE, FAMILY_INET, flags::DUMP, |b| put_text(b, 1, table), &mut |m| {
                let dumped = decode::rule(m, &literals)?;
                if &*dumped.table == table {
                    ruleset.chains.entry(dumped.chain).or_default().rules.push(dumped.rule);
                }
                Ok(())
            })?;
        steady &=
            self.request(message::GETOBJ, FAMILY_INET, flags::DUMP, |b| put_text(b, 1, table), &mut |m| {
                let (owner, name, _) = decode::object(m)?;
                if &*owner == table {
                    ruleset.counters.insert(name);
                }
                Ok(())
            })?;
        let flowtables = self.request(message::GETFLOWTABLE, FAMILY_INET, flags::DUMP, |_| {}, &mut |m| {
            let (owner, name, flowtable) = decode::flowtable(m)?;
            if &*owner == table {
                ruleset.flowtables.insert(name, flowtable);
            }
            Ok(())
        });
        match flowtables {
            Ok(consistent) => steady &= consistent,
            // A kernel without flowtables.
            Err(KernelError::Request { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(steady.then_some(dump))
    }

    /// Reads the elements of one set.
    ///
    /// A hash set that is growing its table is walked in two orders at once: some elements come twice and
    /// others not at all. Such a walk is recognised by its count and taken again.
    fn read_elements(&mut self, set: &DumpedSet) -> Result<(Elements, bool), KernelError> {
        let mut attempt = 0;
        loop {
            let mut raw: Vec<RawElement> = Vec::new();
            let fill = |b: &mut Vec<u8>| {
                put_text(b, 1, &set.table);
                put_text(b, 2, &set.name);
            };
            let steady = self.request(message::GETSETELEM, FAMILY_INET, flags::DUMP, fill, &mut |m| {
                decode::elements(m, &mut raw)
            })?;
            let walked = raw.len();
            let elements = decode::join(&set.spec, raw);
            let ranges = set.spec.interval && !set.spec.is_concat();
            let complete = ranges
                || (elements.len() == walked && set.count.is_none_or(|count| count as usize == walked));
            attempt += 1;
            if complete || attempt == DUMP_ATTEMPTS {
                return Ok((elements, steady));
            }
            std::thread::sleep(REHASH_PAUSE);
        }
    }

    /// Reads the values of the table's named counters: packets and bytes.
    ///
    /// # Errors
    /// Socket failures.
    pub fn counters(&mut self, table: &str) -> Result<BTreeMap<Name, (u64, u64)>, KernelError> {
        let mut values = BTreeMap::new();
        let fill = |b: &mut Vec<u8>| {
            put_text(b, 1, table);
            put_u32(b, 3, super::object::OBJECT_COUNTER);
        };
        self.request(message::GETOBJ, FAMILY_INET, flags::DUMP, fill, &mut |m| {
            let (owner, name, _) = decode::object(m)?;
            if &*owner == table {
                values.insert(name, decode::counter_values(m)?);
            }
            Ok(())
        })?;
        Ok(values)
    }
}

fn buffers(socket: &Socket) -> Result<(), KernelError> {
    sockbuf::set_send(socket, SEND_BUFFER).map_err(|e| KernelError::socket("SO_SNDBUF", &e))?;
    sockbuf::set_receive(socket, RECEIVE_BUFFER).map_err(|e| KernelError::socket("SO_RCVBUF", &e))?;
    Ok(())
}

/// Errno (positive, 0 for an acknowledgement), offset of the culprit and text of an error message.
fn error_of(reply: &Message<'_>) -> (i32, Option<u32>, Option<String>) {
    let Some(code) = reply.body.first_chunk::<4>() else { return (libc::EBADMSG, None, None) };
    let errno = -i32::from_ne_bytes(*code);
    let (mut offset, mut text) = (None, None);
    if reply.flags & ACK_TLVS != 0 {
        // After the code comes the header of the request, and all of the request unless it was cut.
        let request = reply.body.get(4..8).and_then(|b| b.try_into().ok()).map_or(16, u32::from_ne_bytes);
        let skip =
            if reply.flags & ACK_CAPPED != 0 { 16 } else { (request as usize).next_multiple_of(4).max(16) };
        let tlvs = reply.body.get(4 + skip..).unwrap_or_default();
        for attr in Attrs::new(tlvs, 0).flatten() {
            match attr.kind {
                1 => text = attr.text().ok().map(str::to_owned),
                2 => offset = attr.payload.try_into().ok().map(u32::from_ne_bytes),
                _ => {}
            }
        }
    }
    (errno, offset, text)
}

/// Watches nf_tables for changes by others.
///
/// The kernel announces every changed object and then the new generation, so each announcement belongs to the
/// next generation number; our own generations are known exactly and left out.
pub struct Monitor {
    socket: Socket,
    buf: Vec<u8>,
    /// Our table was among the announcements since the last generation number.
    pending: bool,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").finish_non_exhaustive()
    }
}

/// What others did since the last look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Foreign {
    /// The newest generation that was announced.
    pub generation: Option<u32>,
    /// Our table was touched, or announcements were lost and it may have been.
    pub touched: bool,
}

impl Monitor {
    /// Subscribes in the namespace of the calling thread.
    ///
    /// # Errors
    /// No netlink, or no privilege to use it.
    pub fn open() -> Result<Self, KernelError> {
        let socket = open()?;
        buffers(&socket)?;
        let mut monitor = Self { socket, buf: Vec::with_capacity(64 * 1024), pending: false };
        monitor.resume()?;
        Ok(monitor)
    }

    /// Receives announcements again.
    ///
    /// # Errors
    /// The socket refuses the subscription.
    pub fn resume(&mut self) -> Result<(), KernelError> {
        self.socket
            .add_membership(GROUP_NFTABLES)
            .map_err(|e| KernelError::socket("NETLINK_ADD_MEMBERSHIP", &e))
    }

    /// Stops receiving announcements, to save the kernel the work of making them for a large batch of ours.
    ///
    /// # Errors
    /// The socket refuses.
    pub fn suspend(&mut self) -> Result<(), KernelError> {
        self.socket
            .drop_membership(GROUP_NFTABLES)
            .map_err(|e| KernelError::socket("NETLINK_DROP_MEMBERSHIP", &e))
    }

    /// Reads all announcements that are waiting; those of the generations in `own` do not count.
    ///
    /// # Errors
    /// Socket failures other than lost announcements, which count as a touch.
    pub fn poll(&mut self, table: &str, own: &BTreeSet<u32>) -> Result<Foreign, KernelError> {
        let mut foreign = Foreign::default();
        loop {
            self.buf.clear();
            match self.socket.recv(&mut self.buf, libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(foreign),
                    Some(libc::EINTR) => continue,
                    Some(libc::ENOBUFS) => {
                        foreign.touched = true;
                        continue;
                    }
                    _ => return Err(KernelError::socket("recv", &error)),
                },
            }
            for event in decode::messages(&self.buf) {
                match event.nft_kind() {
                    Some(message::NEWGEN) => {
                        let (generation, _) = decode::generation(&event)?;
                        foreign.generation = Some(generation);
                        foreign.touched |= self.pending && !own.contains(&generation);
                        self.pending = false;
                    }
                    Some(_) if event.family() == Some(FAMILY_INET) => {
                        self.pending |= event.table() == Some(table);
                    }
                    _ => {}
                }
            }
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A conversation with nf_tables: the kernel's, or one in memory.
pub trait NfTables {
    /// Commits a batch, all or nothing.
    ///
    /// # Errors
    /// See [`Kernel::commit`].
    fn commit(&mut self, batch: &mut Batch, generation: Option<u32>) -> Result<(), KernelError>;

    /// Reads a whole table.
    ///
    /// # Errors
    /// See [`Kernel::dump`].
    fn dump(&mut self, table: &str) -> Result<Dump, KernelError>;

    /// The generation number.
    ///
    /// # Errors
    /// Socket failures.
    fn generation(&mut self) -> Result<u32, KernelError>;

    /// True when there is a table of that name in that family.
    ///
    /// # Errors
    /// Socket failures.
    fn has_table(&mut self, family: u8, table: &str) -> Result<bool, KernelError>;

    /// What others did since the last look; the generations in `own` do not count.
    ///
    /// # Errors
    /// Socket failures.
    fn foreign(&mut self, table: &str, own: &BTreeSet<u32>) -> Result<Foreign, KernelError>;

    /// Whether changes are announced; a large batch of ours is cheaper without.
    ///
    /// # Errors
    /// Socket failures.
    fn listen(&mut self, on: bool) -> Result<(), KernelError>;

    /// Readable when something was announced.
    fn watch(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// The kernel's nf_tables of one network namespace.
#[derive(Debug)]
pub struct Live {
    kernel: Kernel,
    monitor: Monitor,
}

impl Live {
    /// Opens it for the namespace of the calling thread.
    ///
    /// # Errors
    /// No netlink, or no privilege to use it.
    pub fn open() -> Result<Self, KernelError> {
        Ok(Self { kernel: Kernel::open()?, monitor: Monitor::open()? })
    }

    /// Packets and bytes of every named counter.
    ///
    /// # Errors
    /// Socket failures.
    pub fn counters(&mut self, table: &str) -> Result<BTreeMap<Name, (u64, u64)>, KernelError> {
        self.kernel.counters(table)
    }
}

impl NfTables for Live {
    fn commit(&mut self, batch: &mut Batch, generation: Option<u32>) -> Result<(), KernelError> {
        self.kernel.commit(batch, generation)
    }

    fn dump(&mut self, table: &str) -> Result<Dump, KernelError> {
        self.kernel.dump(table)
    }

    fn generation(&mut self) -> Result<u32, KernelError> {
        self.kernel.generation()
    }

    fn has_table(&mut self, family: u8, table: &str) -> Result<bool, KernelError> {
        self.kernel.has_table(family, table)
    }

    fn foreign(&mut self, table: &str, own: &BTreeSet<u32>) -> Result<Foreign, KernelError> {
        self.monitor.poll(table, own)
    }

    fn listen(&mut self, on: bool) -> Result<(), KernelError> {
        if on { self.monitor.resume() } else { self.monitor.suspend() }
    }

    fn watch(&self) -> Option<BorrowedFd<'_>> {
        Some(self.monitor.as_fd())
    }
}
