//! Netlink attributes: writing into a byte vector, and bounded reading.
//!
//! Integers of nf_tables attributes are big endian; lengths and types of the framing are in host order
//! (`nftables.md` §11). Nothing here allocates per attribute.

use thiserror::Error;

/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// Bits of the attribute type that are the type itself.
const TYPE_MASK: u16 = 0x3fff;
/// Size of an attribute header.
const HEADER: usize = 4;

/// Bytes received from the kernel that are not what the protocol says.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WireError {
    /// A length field points outside the buffer that holds it.
    #[error("length {length} at byte {offset} exceeds the {available} bytes that are left")]
    Truncated {
        /// Where the bad length stands, from the start of the buffer given to the reader.
        offset: usize,
        /// What it claims.
        length: usize,
        /// What there is.
        available: usize,
    },
    /// An attribute has another size than its type demands.
    #[error("attribute {kind} at byte {offset} holds {length} bytes, expected {expected}")]
    Size {
        /// Attribute type.
        kind: u16,
        /// Where the attribute starts.
        offset: usize,
        /// Bytes it holds.
        length: usize,
        /// Bytes it should hold.
        expected: usize,
    },
    /// A name is not UTF-8.
    #[error("attribute {kind} at byte {offset} is not UTF-8 text")]
    Text {
        /// Attribute type.
        kind: u16,
        /// Where the attribute starts.
        offset: usize,
    },
    /// An attribute that the object cannot do without is missing.
    #[error("attribute {kind} is missing from a {object}")]
    Missing {
        /// Attribute type.
        kind: u16,
        /// What was being read.
        object: &'static str,
    },
    /// A field holds a number outside its meaning.
    #[error("{field} cannot be {value}")]
    Value {
        /// What was being read.
        field: &'static str,
        /// What was found.
        value: u32,
    },
}

/// Appends one attribute with its padding.
pub(crate) fn put(buf: &mut Vec<u8>, kind: u16, payload: &[u8]) {
    let length = HEADER + payload.len();
    debug_assert!(length <= usize::from(u16::MAX), "attribute {kind} of {length} bytes");
    buf.extend_from_slice(&(length as u16).to_ne_bytes());
    buf.extend_from_slice(&kind.to_ne_bytes());
    buf.extend_from_slice(payload);
    pad(buf, length);
}

/// Appends a big-endian 32-bit attribute.
pub(crate) fn put_u32(buf: &mut Vec<u8>, kind: u16, value: u32) {
    put(buf, kind, &value.to_be_bytes());
}

/// Appends a big-endian 64-bit attribute.
pub(crate) fn put_u64(buf: &mut Vec<u8>, kind: u16, value: u64) {
    put(buf, kind, &value.to_be_bytes());
}

/// Appends a text attribute with its terminating zero.
pub(crate) fn put_text(buf: &mut Vec<u8>, kind: u16, text: &str) {
    let length = HEADER + text.len() + 1;
    debug_assert!(length <= usize::from(u16::MAX));
    buf.extend_from_slice(&(length as u16).to_ne_bytes());
    buf.extend_from_slice(&kind.to_ne_bytes());
    buf.extend_from_slice(text.as_bytes());
    buf.push(0);
    pad(buf, length);
}

/// Appends a nested attribute whose content `fill` writes.
pub(crate) fn put_nested(buf: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = open_nested(buf, kind);
    fill(buf);
    close_nested(buf, start);
}

/// Starts a nested attribute; [`close_nested`] with the returned position ends it.
pub(crate) fn open_nested(buf: &mut Vec<u8>, kind: u16) -> usize {
    let start = buf.len();
    buf.extend_from_slice(&[0, 0]);
    buf.extend_from_slice(&(kind | NESTED).to_ne_bytes());
    start
}

/// Writes the length of the nested attribute that starts at `start`.
pub(crate) fn close_nested(buf: &mut [u8], start: usize) {
    let length = buf.len() - start;
    debug_assert!(length <= usize::from(u16::MAX), "nested attribute of {length} bytes");
    if let Some(field) = buf.get_mut(start..start + 2) {
        field.copy_from_slice(&(length as u16).to_ne_bytes());
    }
}

fn pad(buf: &mut Vec<u8>, length: usize) {
    let missing = length.next_multiple_of(4) - length;
    buf.extend_from_slice(&[0u8; 4][..missing]);
}

/// One attribute as found in a buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attr<'a> {
    /// Type without the flag bits.
    pub(crate) kind: u16,
    /// Content without padding.
    pub(crate) payload: &'a [u8],
    /// Where its header starts, from the start of the message.
    pub(crate) offset: usize,
}

impl<'a> Attr<'a> {
    fn sized<const N: usize>(&self) -> Result<[u8; N], WireError> {
        self.payload.try_into().map_err(|_| WireError::Size {
            kind: self.kind,
            offset: self.offset,
            length: self.payload.len(),
            expected: N,
        })
    }

    /// The content as a byte.
    pub(crate) fn u8(&self) -> Result<u8, WireError> {
        self.sized::<1>().map(|[byte]| byte)
    }

    /// The content as a big-endian 16-bit number.
    pub(crate) fn u16(&self) -> Result<u16, WireError> {
        self.sized().map(u16::from_be_bytes)
    }

    /// The content as a big-endian 32-bit number.
    pub(crate) fn u32(&self) -> Result<u32, WireError> {
        self.sized().map(u32::from_be_bytes)
    }

    /// The content as a big-endian 64-bit number.
    pub(crate) fn u64(&self) -> Result<u64, WireError> {
        self.sized().map(u64::from_be_bytes)
    }

    /// The content as text up to its terminating zero.
    pub(crate) fn text(&self) -> Result<&'a str, WireError> {
        let end = self.payload.iter().position(|byte| *byte == 0).unwrap_or(self.payload.len());
        std::str::from_utf8(self.payload.get(..end).unwrap_or_default())
            .map_err(|_| WireError::Text { kind: self.kind, offset: self.offset })
    }

    /// The attributes inside this one.
    pub(crate) fn nested(&self) -> Attrs<'a> {
        Attrs { rest: self.payload, offset: self.offset + HEADER }
    }
}

/// Reads attributes one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Attrs<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Attrs<'a> {
    /// A reader over `payload`, which starts `offset` bytes into its message.
    pub(crate) fn new(payload: &'a [u8], offset: usize) -> Self {
        Self { rest: payload, offset }
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = Result<Attr<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let offset = self.offset;
        let available = self.rest.len();
        let [l0, l1, k0, k1, ..] = *self.rest else {
            self.rest = &[];
            return Some(Err(WireError::Truncated { offset, length: HEADER, available }));
        };
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let kind = u16::from_ne_bytes([k0, k1]) & TYPE_MASK;
        let Some(payload) = self.rest.get(HEADER..length) else {
            self.rest = &[];
            return Some(Err(WireError::Truncated { offset, length, available }));
        };
        let step = length.next_multiple_of(4).min(available);
        self.rest = self.rest.get(step..).unwrap_or_default();
        self.offset += step;
        Some(Ok(Attr { kind, payload, offset }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_attributes_are_read_back() {
        let mut buf = Vec::new();
        put_text(&mut buf, 1, "calico");
        put_nested(&mut buf, 4, |b| {
            put_u32(b, 2, 0x0102_0304);
            put(b, 3, &[7]);
        });
        assert_eq!(buf.len() % 4, 0);
        let attrs: Vec<_> = Attrs::new(&buf, 0).collect::<Result<_, _>>().unwrap();
        assert_eq!(attrs[0].text(), Ok("calico"));
        assert_eq!(attrs[1].kind, 4);
        let inner: Vec<_> = attrs[1].nested().collect::<Result<_, _>>().unwrap();
        assert_eq!(inner[0].u32(), Ok(0x0102_0304));
        assert_eq!(inner[1].u8(), Ok(7));
        assert_eq!(inner[1].offset, buf.len() - 8);
    }

    #[test]
    fn a_length_beyond_the_buffer_is_an_error_and_ends_the_reading() {
        let mut reader = Attrs::new(&[40, 0, 1, 0, 9, 9], 16);
        let error = WireError::Truncated { offset: 16, length: 40, available: 6 };
        assert_eq!(reader.next().unwrap().unwrap_err(), error);
        assert!(reader.next().is_none());
        let mut short = Attrs::new(&[3, 0, 1, 0], 0);
        assert!(short.next().unwrap().is_err(), "a length below the header size");
        assert!(short.next().is_none());
    }
}
