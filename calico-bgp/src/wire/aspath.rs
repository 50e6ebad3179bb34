//! AS_PATH: kept in the four-octet wire form, so that most sessions copy it as it is (RFC 4271, 5065, 6793).

use smallvec::SmallVec;

use super::cursor::Cursor;
use super::iana::AS_TRANS;

/// The kind of a path segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SegmentKind {
    /// Unordered; counts as one hop.
    Set,
    /// Ordered, nearest AS first.
    Sequence,
    /// Ordered, inside a confederation; counts as no hop.
    ConfedSequence,
    /// Unordered, inside a confederation; counts as no hop.
    ConfedSet,
}

impl SegmentKind {
    const fn code(self) -> u8 {
        match self {
            SegmentKind::Set => 1,
            SegmentKind::Sequence => 2,
            SegmentKind::ConfedSequence => 3,
            SegmentKind::ConfedSet => 4,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(SegmentKind::Set),
            2 => Some(SegmentKind::Sequence),
            3 => Some(SegmentKind::ConfedSequence),
            4 => Some(SegmentKind::ConfedSet),
            _ => None,
        }
    }
}

/// One segment of a path.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// Its kind.
    pub kind: SegmentKind,
    octets: &'a [u8],
}

impl<'a> Segment<'a> {
    /// The AS numbers, in the order of the wire.
    pub fn asns(&self) -> impl DoubleEndedIterator<Item = u32> + ExactSizeIterator + use<'a> {
        self.octets.chunks_exact(4).map(|c| match c {
            [a, b, c, d] => u32::from_be_bytes([*a, *b, *c, *d]),
            _ => 0,
        })
    }
}

/// An AS path. The empty one belongs to routes of our own AS.
#[derive(Clone, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct AsPath {
    octets: SmallVec<[u8; 24]>,
}

impl AsPath {
    /// The path of routes that begin here.
    pub fn empty() -> Self {
        AsPath::default()
    }

    /// A path of one sequence, nearest AS first. More than 255 become several segments.
    pub fn sequence(asns: &[u32]) -> Self {
        let mut path = AsPath::default();
        for chunk in asns.chunks(255) {
            path.push_segment(SegmentKind::Sequence, chunk.iter().copied());
        }
        path
    }

    fn push_segment(&mut self, kind: SegmentKind, asns: impl ExactSizeIterator<Item = u32>) {
        self.octets.push(kind.code());
        self.octets.push(u8::try_from(asns.len()).unwrap_or(u8::MAX));
        for asn in asns {
            self.octets.extend_from_slice(&asn.to_be_bytes());
        }
    }

    /// Reads the value of an AS_PATH (`four_octet` says how wide the numbers are) or of an AS4_PATH.
    /// `None` when a segment has an unknown kind, no AS, or runs over the end.
    pub fn decode(value: &[u8], four_octet: bool) -> Option<Self> {
        let width = if four_octet { 4 } else { 2 };
        let mut c = Cursor::new(value);
        let mut octets = SmallVec::with_capacity(value.len());
        while !c.is_empty() {
            let kind = SegmentKind::from_code(c.u8()?)?;
            let count = c.u8()?;
            if count == 0 {
                return None;
            }
            let numbers = c.take(usize::from(count) * width)?;
            octets.push(kind.code());
            octets.push(count);
            if four_octet {
                octets.extend_from_slice(numbers);
            } else {
                for pair in numbers.chunks_exact(2) {
                    octets.extend_from_slice(&[0, 0]);
                    octets.extend_from_slice(pair);
                }
            }
        }
        Some(AsPath { octets })
    }

    /// The value of an AS_PATH towards a four-octet peer.
    pub fn four_octet_bytes(&self) -> &[u8] {
        &self.octets
    }

    /// The value of an AS_PATH towards a two-octet peer. The flag tells whether something was lost, so that an AS4_PATH
    /// must go along.
    pub fn two_octet_bytes(&self) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(self.octets.len());
        let mut lossy = false;
        for segment in self.segments() {
            out.push(segment.kind.code());
            out.push(u8::try_from(segment.asns().len()).unwrap_or(u8::MAX));
            for asn in segment.asns() {
                let short = u16::try_from(asn).unwrap_or_else(|_| {
                    lossy = true;
                    AS_TRANS
                });
                out.extend_from_slice(&short.to_be_bytes());
            }
        }
        (out, lossy)
    }

    /// The same path without confederation segments, as an AS4_PATH must be.
    pub fn without_confederation(&self) -> AsPath {
        let mut path = AsPath::default();
        for segment in self.segments() {
            if matches!(segment.kind, SegmentKind::Set | SegmentKind::Sequence) {
                path.push_segment(segment.kind, segment.asns());
            }
        }
        path
    }

    /// The segments, nearest first.
    pub fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        let mut c = Cursor::new(&self.octets);
        std::iter::from_fn(move || {
            let kind = SegmentKind::from_code(c.u8()?)?;
            let count = c.u8()?;
            Some(Segment { kind, octets: c.take(usize::from(count) * 4)? })
        })
    }

    /// Hops as the decision process counts them: a set is one, confederation segments are none.
    pub fn hop_count(&self) -> u32 {
        self.segments()
            .map(|s| match s.kind {
                SegmentKind::Sequence => u32::try_from(s.asns().len()).unwrap_or(u32::MAX),
                SegmentKind::Set => 1,
                SegmentKind::ConfedSequence | SegmentKind::ConfedSet => 0,
            })
            .sum()
    }

    /// How often an AS stands in the path.
    pub fn count(&self, asn: u32) -> usize {
        self.segments().flat_map(|s| s.asns()).filter(|a| *a == asn).count()
    }

    /// The AS the route was received from: the first of the leading sequence, outside any confederation.
    pub fn neighbour(&self) -> Option<u32> {
        let first = self
            .segments()
            .find(|s| !matches!(s.kind, SegmentKind::ConfedSequence | SegmentKind::ConfedSet))?;
        match first.kind {
            SegmentKind::Sequence => first.asns().next(),
            _ => None,
        }
    }

    /// Whether the AS that announced the route to us stands first, as RFC 4271 section 6.3 lets a receiver demand.
    pub fn starts_with(&self, asns: &[u32]) -> bool {
        let mut flat = self.segments().flat_map(|s| {
            let ordered = s.kind == SegmentKind::Sequence;
            s.asns().map(move |asn| ordered.then_some(asn))
        });
        asns.iter().all(|want| flat.next() == Some(Some(*want)))
    }

    /// The path with `asns` put in front, the first of them nearest.
    pub fn prepend(&self, asns: &[u32]) -> AsPath {
        let mut rest = self.octets.as_slice();
        let mut head: SmallVec<[u32; 8]> = SmallVec::from_slice(asns);
        // The new numbers join the leading sequence while it has room for them.
        if let [2, count, tail @ ..] = rest
            && usize::from(*count) + asns.len() <= 255
            && let Some((numbers, tail)) = tail.split_at_checked(usize::from(*count) * 4)
        {
            let segment = Segment { kind: SegmentKind::Sequence, octets: numbers };
            head.extend(segment.asns());
            rest = tail;
        }
        let mut path = AsPath::sequence(&head);
        path.octets.extend_from_slice(rest);
        path
    }

    /// Joins the AS_PATH and AS4_PATH of a two-octet peer (RFC 6793 section 4.2.3). The AS4_PATH is ignored when it is
    /// longer than the AS_PATH.
    pub fn merge_as4(&self, as4: &AsPath) -> AsPath {
        let as4 = as4.without_confederation();
        let (have, new) = (self.hop_count(), as4.hop_count());
        if have < new {
            return self.clone();
        }
        let mut keep = have - new;
        let mut path = AsPath::default();
        for segment in self.segments() {
            match segment.kind {
                SegmentKind::ConfedSequence | SegmentKind::ConfedSet => {
                    path.push_segment(segment.kind, segment.asns());
                }
                SegmentKind::Set if keep > 0 => {
                    path.push_segment(segment.kind, segment.asns());
                    keep -= 1;
                }
                SegmentKind::Sequence if keep > 0 => {
                    let count = segment.asns().len().min(usize::try_from(keep).unwrap_or(usize::MAX));
                    let leading: SmallVec<[u32; 16]> = segment.asns().take(count).collect();
                    path.push_segment(segment.kind, leading.iter().copied());
                    keep -= u32::try_from(count).unwrap_or(keep);
                }
                SegmentKind::Set | SegmentKind::Sequence => {}
            }
        }
        path.octets.extend_from_slice(&as4.octets);
        path
    }

    /// Whether the path has confederation segments.
    pub fn has_confederation(&self) -> bool {
        self.segments().any(|s| matches!(s.kind, SegmentKind::ConfedSequence | SegmentKind::ConfedSet))
    }

    /// Whether the path is empty.
    pub fn is_empty(&self) -> bool {
        self.octets.is_empty()
    }
}

impl std::fmt::Display for AsPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, segment) in self.segments().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            let (open, separator, close) = match segment.kind {
                SegmentKind::Sequence => ("", " ", ""),
                SegmentKind::Set => ("{", ",", "}"),
                SegmentKind::ConfedSequence => ("(", " ", ")"),
                SegmentKind::ConfedSet => ("[", ",", "]"),
            };
            f.write_str(open)?;
            for (index, asn) in segment.asns().enumerate() {
                if index > 0 {
                    f.write_str(separator)?;
                }
                write!(f, "{asn}")?;
            }
            f.write_str(close)?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for AsPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AsPath({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prepending_joins_the_leading_sequence() {
        let path = AsPath::sequence(&[2, 3]).prepend(&[1]);
        assert_eq!(path, AsPath::sequence(&[1, 2, 3]));
        let set = AsPath::decode(&[1, 2, 0, 0, 0, 7, 0, 0, 0, 8], true).unwrap();
        assert_eq!(set.prepend(&[5, 6]).to_string(), "5 6 {7,8}");
        assert_eq!(set.prepend(&[5, 6]).hop_count(), 3);
        let full = AsPath::sequence(&[9; 255]).prepend(&[1]);
        assert_eq!(full.segments().count(), 2);
        assert_eq!(full.neighbour(), Some(1));
    }

    #[test]
    fn two_octet_peers_lose_and_recover_large_numbers() {
        let path = AsPath::sequence(&[64512, 4_200_000_000]);
        let (short, lossy) = path.two_octet_bytes();
        assert!(lossy);
        let received = AsPath::decode(&short, false).unwrap().prepend(&[65000]);
        assert_eq!(received.merge_as4(&path), AsPath::sequence(&[65000]).prepend_raw(&path));
        let longer = path.prepend(&[1, 2, 3, 4]);
        assert_eq!(received.merge_as4(&longer), received);
    }

    impl AsPath {
        fn prepend_raw(&self, other: &AsPath) -> AsPath {
            let mut path = self.clone();
            path.octets.extend_from_slice(&other.octets);
            path
        }
    }

    #[test]
    fn malformed_paths_are_refused() {
        for value in [&[2u8, 0][..], &[5, 1, 0, 0, 0, 1], &[2, 2, 0, 0, 0, 1], &[2]] {
            assert_eq!(AsPath::decode(value, true), None);
        }
        assert_eq!(AsPath::decode(&[], true), Some(AsPath::empty()));
    }

    #[test]
    fn starts_with_reads_across_segments() {
        let path = AsPath::decode(&[2, 1, 0, 1, 2, 1, 0, 2, 1, 1, 0, 3], false).unwrap();
        assert!(path.starts_with(&[]) && path.starts_with(&[1]) && path.starts_with(&[1, 2]));
        assert!(!path.starts_with(&[1, 2, 3]) && !path.starts_with(&[2]));
    }
}
