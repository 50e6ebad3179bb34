//! Netlink framing: messages (`struct nlmsghdr`) and attributes (`struct nlattr`), written and read in place.
//!
//! One encoder serves rtnetlink, nfnetlink and generic netlink. Reading never copies and never trusts a length;
//! what it does not know it steps over, so that a newer kernel's attributes cannot make a dump unreadable.

use super::error::DecodeError;

/// Length of `struct nlmsghdr`.
pub const HEADER: usize = 16;

/// Message flags (`linux/netlink.h`).
pub mod flags {
    /// Every request carries it.
    pub const REQUEST: u16 = 0x1;
    /// Part of a multi-part reply.
    pub const MULTI: u16 = 0x2;
    /// Ask for an acknowledgement.
    pub const ACK: u16 = 0x4;
    /// Ask for the notification of one's own change.
    pub const ECHO: u16 = 0x8;
    /// The dump changed while it was read.
    pub const DUMP_INTR: u16 = 0x10;
    /// Replace an existing object.
    pub const REPLACE: u16 = 0x100;
    /// Fail if the object exists.
    pub const EXCL: u16 = 0x200;
    /// Create the object if it does not exist.
    pub const CREATE: u16 = 0x400;
    /// Add to the end of a list.
    pub const APPEND: u16 = 0x800;
    /// Root and match: a whole table.
    pub const DUMP: u16 = 0x300;
    /// On an error: the request is not echoed in full.
    pub const CAPPED: u16 = 0x100;
    /// On an error or done: attributes follow.
    pub const ACK_TLVS: u16 = 0x200;
}

/// The attribute holds attributes.
pub const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

const fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// Writes netlink messages one after the other into one buffer.
///
/// ```
/// use calico_dataplane::netlink::wire::{Encoder, Messages, flags};
/// let mut encoder = Encoder::new();
/// encoder.message(16, flags::REQUEST, 1, |message| {
///     message.bytes(&[0; 16]);
///     message.text(3, "eth0");
///     message.nested(18, |info| info.text(1, "veth"));
/// });
/// let mut messages = Messages::new(encoder.as_bytes());
/// let message = messages.next().unwrap().unwrap();
/// assert_eq!((message.kind, message.sequence), (16, 1));
/// assert_eq!(message.attributes(16).next().unwrap().unwrap().text(), "eth0");
/// ```
#[derive(Debug, Default, Clone)]
pub struct Encoder {
    buffer: Vec<u8>,
    messages: usize,
}

impl Encoder {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a message; `body` writes what follows the netlink header.
    pub fn message(&mut self, kind: u16, flags: u16, sequence: u32, body: impl FnOnce(&mut Body<'_>)) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; HEADER]);
        body(&mut Body { buffer: &mut self.buffer });
        let length = (self.buffer.len() - start) as u32;
        self.buffer.resize(align(self.buffer.len()), 0);
        let header = &mut self.buffer[start..start + HEADER];
        header[0..4].copy_from_slice(&length.to_ne_bytes());
        header[4..6].copy_from_slice(&kind.to_ne_bytes());
        header[6..8].copy_from_slice(&flags.to_ne_bytes());
        header[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.messages += 1;
    }

    /// Everything written so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Number of messages written.
    pub fn len(&self) -> usize {
        self.messages
    }

    /// True before the first message.
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.messages = 0;
    }
}

/// The part of a message behind its header, or of an attribute behind its own.
#[derive(Debug)]
pub struct Body<'a> {
    buffer: &'a mut Vec<u8>,
}

impl Body<'_> {
    /// Raw bytes, for the fixed struct at the start of a message.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// An attribute with raw bytes as value.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.attribute_with(kind, |body| body.bytes(value));
    }

    /// An attribute whose value `body` writes.
    pub fn attribute_with(&mut self, kind: u16, body: impl FnOnce(&mut Body<'_>)) {
        self.buffer.resize(align(self.buffer.len()), 0);
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 4]);
        body(&mut Body { buffer: self.buffer });
        let length = self.buffer.len() - start;
        debug_assert!(length <= usize::from(u16::MAX), "attribute {kind} has {length} bytes");
        self.buffer[start..start + 2].copy_from_slice(&(length as u16).to_ne_bytes());
        self.buffer[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        self.buffer.resize(align(self.buffer.len()), 0);
    }

    /// An attribute that holds attributes (marked [`NESTED`]).
    pub fn nested(&mut self, kind: u16, body: impl FnOnce(&mut Body<'_>)) {
        self.attribute_with(kind | NESTED, body);
    }

    /// An attribute that is there or not.
    pub fn flag(&mut self, kind: u16) {
        self.attribute(kind, &[]);
    }

    /// An 8-bit attribute.
    pub fn u8(&mut self, kind: u16, value: u8) {
        self.attribute(kind, &[value]);
    }

    /// A 16-bit attribute in host order.
    pub fn u16(&mut self, kind: u16, value: u16) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// A 16-bit attribute in network order.
    pub fn be16(&mut self, kind: u16, value: u16) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// A 32-bit attribute in host order.
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// A 32-bit attribute in network order.
    pub fn be32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// A text attribute with the terminating zero.
    pub fn text(&mut self, kind: u16, value: &str) {
        self.attribute_with(kind, |body| {
            body.bytes(value.as_bytes());
            body.bytes(&[0]);
        });
    }

    /// An address attribute, 4 or 16 bytes.
    pub fn ip(&mut self, kind: u16, value: std::net::IpAddr) {
        match value {
            std::net::IpAddr::V4(v4) => self.attribute(kind, &v4.octets()),
            std::net::IpAddr::V6(v6) => self.attribute(kind, &v6.octets()),
        }
    }
}

/// One received message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`.
    pub sequence: u32,
    /// `nlmsg_pid`: the port that caused it.
    pub port: u32,
    /// Everything behind the header.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The fixed struct of `N` bytes at the start of the payload.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] when the payload is shorter.
    pub fn fixed<const N: usize>(&self) -> Result<&'a [u8; N], DecodeError> {
        self.payload.first_chunk::<N>().ok_or(DecodeError::Truncated {
            kind: self.kind,
            need: N,
            have: self.payload.len(),
        })
    }

    /// The attributes behind a fixed struct of `skip` bytes.
    pub fn attributes(&self, skip: usize) -> Attributes<'a> {
        Attributes::new(self.payload.get(align(skip)..).unwrap_or_default())
    }
}

/// Walks over the messages of one datagram.
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// Starts at the beginning of a datagram.
    pub fn new(datagram: &'a [u8]) -> Self {
        Self { rest: datagram }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let Some(header) = self.rest.first_chunk::<HEADER>() else {
            let have = self.rest.len();
            self.rest = &[];
            return Some(Err(DecodeError::Truncated { kind: 0, need: HEADER, have }));
        };
        let length = u32_at(header, 0) as usize;
        let kind = u16_at(header, 4);
        let Some(payload) = self.rest.get(HEADER..length) else {
            let have = self.rest.len();
            self.rest = &[];
            return Some(Err(DecodeError::Truncated { kind, need: length.max(HEADER), have }));
        };
        self.rest = self.rest.get(align(length)..).unwrap_or_default();
        Some(Ok(Message {
            kind,
            flags: u16_at(header, 6),
            sequence: u32_at(header, 8),
            port: u32_at(header, 12),
            payload,
        }))
    }
}

/// One attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its type, without the nested and byte-order flags.
    pub kind: u16,
    /// Its value.
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    fn wrong_size(&self, need: usize) -> DecodeError {
        DecodeError::Attribute { attribute: self.kind, need, have: self.value.len() }
    }

    fn chunk<const N: usize>(&self) -> Result<[u8; N], DecodeError> {
        self.value.first_chunk::<N>().copied().ok_or_else(|| self.wrong_size(N))
    }

    /// An 8-bit value.
    ///
    /// # Errors
    /// [`DecodeError::Attribute`] when it is shorter; so for the other numbers.
    pub fn u8(&self) -> Result<u8, DecodeError> {
        self.chunk::<1>().map(|[byte]| byte)
    }

    /// A 16-bit value in host order.
    ///
    /// # Errors
    /// [`DecodeError::Attribute`].
    pub fn u16(&self) -> Result<u16, DecodeError> {
        self.chunk().map(u16::from_ne_bytes)
    }

    /// A 16-bit value in network order.
    ///
    /// # Errors
    /// [`DecodeError::Attribute`].
    pub fn be16(&self) -> Result<u16, DecodeError> {
        self.chunk().map(u16::from_be_bytes)
    }

    /// A 32-bit value in host order.
    ///
    /// # Errors
    /// [`DecodeError::Attribute`].
    pub fn u32(&self) -> Result<u32, DecodeError> {
        self.chunk().map(u32::from_ne_bytes)
    }

    /// A 32-bit value in network order.
    ///
    /// # Errors
    /// [`DecodeError::Attribute`].
    pub fn be32(&self) -> Result<u32, DecodeError> {
        self.chunk().map(u32::from_be_bytes)
    }

    /// A 64-bit value in network order.
    ///
    /// # Errors
    /// [`DecodeError::Attribute`].
    pub fn be64(&self) -> Result<u64, DecodeError> {
        self.chunk().map(u64::from_be_bytes)
    }

    /// Text up to the first zero; bytes that are not UTF-8 are replaced (interface names are bytes).
    pub fn text(&self) -> std::borrow::Cow<'a, str> {
        let end = self.value.iter().position(|byte| *byte == 0).unwrap_or(self.value.len());
        String::from_utf8_lossy(self.value.get(..end).unwrap_or_default())
    }

    /// An address: 4 bytes are IPv4, 16 bytes are IPv6.
    ///
    /// # Errors
    /// [`DecodeError::Attribute`] for any other length.
    pub fn ip(&self) -> Result<std::net::IpAddr, DecodeError> {
        if let Ok(v4) = <[u8; 4]>::try_from(self.value) {
            return Ok(v4.into());
        }
        <[u8; 16]>::try_from(self.value).map(Into::into).map_err(|_| self.wrong_size(16))
    }

    /// The attributes inside.
    pub fn nested(&self) -> Attributes<'a> {
        Attributes::new(self.value)
    }
}

/// Walks over attributes.
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// Starts at the first attribute header.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        // The kernel, too, ignores a tail that is too short for a header.
        let header = self.rest.first_chunk::<4>()?;
        let length = usize::from(u16_at(header, 0));
        let kind = u16_at(header, 2) & TYPE_MASK;
        let Some(value) = self.rest.get(4..length) else {
            let have = self.rest.len();
            self.rest = &[];
            return Some(Err(DecodeError::Attribute { attribute: kind, need: length.max(4), have }));
        };
        self.rest = self.rest.get(align(length)..).unwrap_or_default();
        Some(Ok(Attribute { kind, value }))
    }
}

/// The 16-bit host-order value at `offset`; 0 beyond the end.
pub fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u16::from_ne_bytes(*chunk))
}

/// The 32-bit host-order value at `offset`; 0 beyond the end.
pub fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_ne_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_exclude_padding_and_positions_include_it() {
        let mut encoder = Encoder::new();
        encoder.message(20, flags::REQUEST, 7, |body| {
            body.bytes(&[2, 24, 0, 0, 1, 0, 0, 0]);
            body.text(3, "ab");
            body.u8(4, 9);
        });
        let bytes = encoder.as_bytes();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(bytes[24..32], [7, 0, 3, 0, b'a', b'b', 0, 0]);
        assert_eq!(bytes[32..40], [5, 0, 4, 0, 9, 0, 0, 0]);
        let message = Messages::new(bytes).next().unwrap().unwrap();
        let attributes: Vec<_> = message.attributes(8).map(Result::unwrap).collect();
        assert_eq!(attributes[0].text(), "ab");
        assert_eq!(attributes[1].u8(), Ok(9));
        assert_eq!(attributes[1].u32(), Err(DecodeError::Attribute { attribute: 4, need: 4, have: 1 }));
    }

    #[test]
    fn nesting_is_marked_and_unmarked() {
        let mut encoder = Encoder::new();
        encoder.message(16, 0, 0, |body| body.nested(18, |info| info.nested(2, |data| data.be32(1, 5))));
        let message = Messages::new(encoder.as_bytes()).next().unwrap().unwrap();
        let info = message.attributes(0).next().unwrap().unwrap();
        assert_eq!(info.kind, 18);
        let data = info.nested().next().unwrap().unwrap();
        assert_eq!(data.nested().next().unwrap().unwrap().be32(), Ok(5));
    }

    #[test]
    fn a_message_that_claims_too_much_is_an_error_and_the_end() {
        let mut encoder = Encoder::new();
        encoder.message(3, 0, 0, |_| {});
        let mut bytes = encoder.as_bytes().to_vec();
        bytes[0] = 200;
        let mut messages = Messages::new(&bytes);
        assert_eq!(messages.next(), Some(Err(DecodeError::Truncated { kind: 3, need: 200, have: 16 })));
        assert_eq!(messages.next(), None);
        bytes[0] = 4;
        assert!(Messages::new(&bytes).next().unwrap().is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in Messages::new(&bytes).flatten() {
                for attribute in message.attributes(4).flatten() {
                    let _ = attribute.nested().count();
                }
            }
        }

        #[test]
        fn what_is_written_is_read(values in proptest::collection::vec((1..0x3fff_u16, proptest::collection::vec(any::<u8>(), 0..40)), 0..10)) {
            let mut encoder = Encoder::new();
            encoder.message(1, 2, 3, |body| {
                for (kind, value) in &values {
                    body.attribute(*kind, value);
                }
            });
            let message = Messages::new(encoder.as_bytes()).next().unwrap().unwrap();
            let read: Vec<(u16, Vec<u8>)> =
                message.attributes(0).map(|a| a.unwrap()).map(|a| (a.kind, a.value.to_vec())).collect();
            prop_assert_eq!(read, values);
        }
    }
}
