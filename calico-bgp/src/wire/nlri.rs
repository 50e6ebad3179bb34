//! Prefixes as UPDATEs carry them (RFC 4271 section 4.3, RFC 7911).

use std::hash::Hash;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::cursor::Cursor;
use super::iana::Family;

/// A prefix of one family in the compact form of the tables. Bits beyond the length are zero.
pub trait Prefix: Copy + Eq + Ord + Hash + std::fmt::Debug + 'static {
    /// The family of all values.
    const FAMILY: Family;

    /// Builds from the octets of an NLRI; `octets` has `ceil(length / 8)` of them and `length` is in range.
    fn from_wire(length: u8, octets: &[u8]) -> Self;

    /// Writes length and octets.
    fn write(&self, out: &mut Vec<u8>);

    /// The length in bits.
    fn length(&self) -> u8;

    /// Mixes the prefix into 64 bits for hashing; not uniform by itself.
    fn mix(&self) -> (u64, u64);

    /// The public form.
    fn to_net(&self) -> IpNet;

    /// The compact form, when the family is right. Host bits are dropped.
    fn from_net(net: IpNet) -> Option<Self>;

    /// Octets on the wire without a path identifier.
    fn wire_length(&self) -> usize {
        1 + usize::from(self.length().div_ceil(8))
    }
}

/// An IPv4 prefix, 8 octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix4 {
    address: u32,
    length: u8,
}

/// An IPv6 prefix, 20 octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix6 {
    // Four words, not one u128, so that the alignment stays at four octets.
    address: [u32; 4],
    length: u8,
}

impl Prefix6 {
    fn bits(&self) -> u128 {
        let [a, b, c, d] = self.address.map(u128::from);
        (a << 96) | (b << 64) | (c << 32) | d
    }

    fn from_bits(bits: u128, length: u8) -> Self {
        let word = |shift: u32| u32::try_from((bits >> shift) & 0xffff_ffff).unwrap_or(0);
        Prefix6 { address: [word(96), word(64), word(32), word(0)], length }
    }
}

impl Prefix for Prefix4 {
    const FAMILY: Family = Family::Ipv4;

    fn from_wire(length: u8, octets: &[u8]) -> Self {
        let mut address = [0u8; 4];
        for (to, from) in address.iter_mut().zip(octets) {
            *to = *from;
        }
        let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
        Prefix4 { address: u32::from_be_bytes(address) & mask, length }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(self.length);
        let octets = self.address.to_be_bytes();
        out.extend_from_slice(octets.get(..usize::from(self.length.div_ceil(8))).unwrap_or(&octets));
    }

    fn length(&self) -> u8 {
        self.length
    }

    fn mix(&self) -> (u64, u64) {
        (u64::from(self.address) << 8 | u64::from(self.length), 0)
    }

    fn to_net(&self) -> IpNet {
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from(self.address), self.length.min(32)))
    }

    fn from_net(net: IpNet) -> Option<Self> {
        match net.trunc() {
            IpNet::V4(net) => Some(Prefix4 { address: u32::from(net.network()), length: net.prefix_len() }),
            IpNet::V6(_) => None,
        }
    }
}

impl Prefix for Prefix6 {
    const FAMILY: Family = Family::Ipv6;

    fn from_wire(length: u8, octets: &[u8]) -> Self {
        let mut address = [0u8; 16];
        for (to, from) in address.iter_mut().zip(octets) {
            *to = *from;
        }
        let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
        Prefix6::from_bits(u128::from_be_bytes(address) & mask, length)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(self.length);
        let octets = self.bits().to_be_bytes();
        out.extend_from_slice(octets.get(..usize::from(self.length.div_ceil(8))).unwrap_or(&octets));
    }

    fn length(&self) -> u8 {
        self.length
    }

    fn mix(&self) -> (u64, u64) {
        let [a, b, c, d] = self.address.map(u64::from);
        ((a << 32 | b), (c << 32 | d) ^ (u64::from(self.length) << 56))
    }

    fn to_net(&self) -> IpNet {
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from(self.bits()), self.length.min(128)))
    }

    fn from_net(net: IpNet) -> Option<Self> {
        match net.trunc() {
            IpNet::V6(net) => Some(Prefix6::from_bits(u128::from(net.network()), net.prefix_len())),
            IpNet::V4(_) => None,
        }
    }
}

/// A prefix with the path identifier it came with, 0 when the session has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathPrefix<P> {
    /// RFC 7911 path identifier.
    pub path_id: u32,
    /// The prefix.
    pub prefix: P,
}

/// Prefixes of a field that was checked by [`NlriIter::checked`]; iteration cannot fail.
#[derive(Debug, Clone, Copy)]
pub struct NlriIter<'a, P> {
    cursor: Cursor<'a>,
    add_path: bool,
    family: PhantomData<P>,
}

impl<'a, P: Prefix> NlriIter<'a, P> {
    /// Checks a whole field.
    ///
    /// # Errors
    /// The offset of the first prefix that is too long or runs over the end.
    pub fn checked(field: &'a [u8], add_path: bool) -> Result<Self, usize> {
        let max = P::FAMILY.bits();
        let mut rest = field;
        loop {
            let at = field.len() - rest.len();
            if add_path && !rest.is_empty() {
                rest = rest.get(4..).ok_or(at)?;
                if rest.is_empty() {
                    return Err(at);
                }
            }
            let Some((length, tail)) = rest.split_first() else { break };
            if *length > max {
                return Err(at);
            }
            rest = tail.get(usize::from(length.div_ceil(8))..).ok_or(at)?;
        }
        Ok(NlriIter { cursor: Cursor::new(field), add_path, family: PhantomData })
    }

    /// No prefixes.
    pub const fn empty() -> Self {
        NlriIter { cursor: Cursor::new(&[]), add_path: false, family: PhantomData }
    }

    /// Whether no prefix is left.
    pub const fn is_empty(&self) -> bool {
        self.cursor.is_empty()
    }
}

impl<P: Prefix> Iterator for NlriIter<'_, P> {
    type Item = PathPrefix<P>;

    fn next(&mut self) -> Option<PathPrefix<P>> {
        let path_id = if self.add_path { self.cursor.u32()? } else { 0 };
        let length = self.cursor.u8()?;
        let octets = self.cursor.take(usize::from(length.div_ceil(8)))?;
        Some(PathPrefix { path_id, prefix: P::from_wire(length, octets) })
    }
}

/// The address of a prefix, for messages to people.
pub fn network(net: &IpNet) -> IpAddr {
    net.network()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nets_survive(address in any::<u32>(), length in 0u8..=32, wide in any::<u128>(), long in 0u8..=128) {
            let net = IpNet::V4(Ipv4Net::new(address.into(), length).unwrap().trunc());
            let prefix = Prefix4::from_net(net).unwrap();
            prop_assert_eq!(prefix.to_net(), net);
            let mut out = Vec::new();
            prefix.write(&mut out);
            prop_assert_eq!(out.len(), prefix.wire_length());
            let back: Vec<_> = NlriIter::<Prefix4>::checked(&out, false).unwrap().collect();
            prop_assert_eq!(back, vec![PathPrefix { path_id: 0, prefix }]);

            let net = IpNet::V6(Ipv6Net::new(wide.into(), long).unwrap().trunc());
            let prefix = Prefix6::from_net(net).unwrap();
            prop_assert_eq!(prefix.to_net(), net);
            let mut out = vec![0, 0, 0, 9];
            prefix.write(&mut out);
            let back: Vec<_> = NlriIter::<Prefix6>::checked(&out, true).unwrap().collect();
            prop_assert_eq!(back, vec![PathPrefix { path_id: 9, prefix }]);
        }

        #[test]
        fn a_checked_field_is_read_to_its_end(field in proptest::collection::vec(any::<u8>(), 0..64), add_path: bool) {
            if let Ok(mut iter) = NlriIter::<Prefix6>::checked(&field, add_path) {
                for _ in iter.by_ref() {}
                prop_assert!(iter.is_empty());
            }
        }
    }

    #[test]
    fn trailing_bits_are_ignored() {
        let mut iter = NlriIter::<Prefix4>::checked(&[9, 10, 0xff], false).unwrap();
        assert_eq!(iter.next().unwrap().prefix.to_net(), "10.128.0.0/9".parse().unwrap());
        assert_eq!(NlriIter::<Prefix4>::checked(&[8, 10, 33, 1, 2, 3, 4, 5], false).unwrap_err(), 2);
        assert_eq!(NlriIter::<Prefix4>::checked(&[8, 10, 24, 1, 2], false).unwrap_err(), 2);
        assert_eq!(NlriIter::<Prefix4>::checked(&[0, 0, 0, 1], true).unwrap_err(), 0);
    }
}
