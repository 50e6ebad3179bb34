//! Bounded reads over a byte slice.

/// Reads big-endian values from the front of a slice and knows how far it came.
#[derive(Debug, Clone, Copy)]
pub struct Cursor<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    /// Starts at the first octet of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Cursor { rest: bytes, offset: 0 }
    }

    /// Octets read so far.
    pub const fn offset(&self) -> usize {
        self.offset
    }

    /// Octets not read yet.
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Whether everything was read.
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The octets not read yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `count` octets, or `None` when there are fewer; nothing is consumed then.
    pub fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(count)?;
        self.rest = tail;
        self.offset += count;
        Some(head)
    }

    /// The next `N` octets.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.rest.split_first_chunk::<N>()?;
        self.rest = tail;
        self.offset += N;
        Some(*head)
    }

    /// The next octet.
    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[octet]| octet)
    }

    /// The next two octets, big-endian.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// The next four octets, big-endian.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_reads_consume_nothing() {
        let mut cursor = Cursor::new(&[1, 2, 3]);
        assert_eq!(cursor.u32(), None);
        assert_eq!(cursor.u16(), Some(0x0102));
        assert_eq!(cursor.offset(), 2);
        assert_eq!(cursor.u16(), None);
        assert_eq!(cursor.u8(), Some(3));
        assert!(cursor.is_empty());
        assert_eq!(cursor.take(1), None);
    }
}
