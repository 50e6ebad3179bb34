//! Path attributes: what they hold, how they are read under RFC 7606, how they are written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smallvec::SmallVec;

use super::aspath::AsPath;
use super::cursor::Cursor;
use super::iana::attribute_code as code;
use super::notification::{Notification, code as error};
use super::update::SessionParams;

const OPTIONAL: u8 = 0x80;
const TRANSITIVE: u8 = 0x40;
const PARTIAL: u8 = 0x20;
const EXTENDED: u8 = 0x10;

/// Where a route's first speaker had it from. Lower is preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Origin {
    /// Interior.
    #[default]
    Igp,
    /// EGP.
    Egp,
    /// Anything else.
    Incomplete,
}

/// Where packets for a route go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NextHop {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address, with the link-local one when both stand on one link.
    V6 {
        /// The global address; it may be link-local itself (RFC 2545 deviations).
        global: Ipv6Addr,
        /// The link-local address.
        link_local: Option<Ipv6Addr>,
    },
}

impl NextHop {
    /// The address to resolve.
    pub const fn address(&self) -> IpAddr {
        match self {
            NextHop::V4(address) => IpAddr::V4(*address),
            NextHop::V6 { global, .. } => IpAddr::V6(*global),
        }
    }
}

impl From<IpAddr> for NextHop {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => NextHop::V4(address),
            IpAddr::V6(global) => NextHop::V6 { global, link_local: None },
        }
    }
}

/// The speaker that aggregated a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Aggregator {
    /// Its AS.
    pub asn: u32,
    /// Its identifier.
    pub identifier: Ipv4Addr,
}

/// An attribute carried along without being understood.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RawAttribute {
    /// Type code.
    pub code: u8,
    /// Optional, transitive and partial bits.
    pub flags: u8,
    /// The value.
    pub value: Box<[u8]>,
}

/// The attributes of a route, without NLRI. Lists that have set semantics are sorted and free of duplicates, so that
/// equal routes compare equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct PathAttributes {
    /// ORIGIN.
    pub origin: Origin,
    /// AS_PATH, with AS4_PATH merged in.
    pub as_path: AsPath,
    /// NEXT_HOP or the next hop of MP_REACH_NLRI.
    pub next_hop: Option<NextHop>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF; only inside an AS.
    pub local_pref: Option<u32>,
    /// ATOMIC_AGGREGATE.
    pub atomic_aggregate: bool,
    /// AGGREGATOR.
    pub aggregator: Option<Aggregator>,
    /// COMMUNITIES, sorted.
    pub communities: SmallVec<[u32; 4]>,
    /// EXTENDED COMMUNITIES, sorted.
    pub extended_communities: Vec<[u8; 8]>,
    /// LARGE COMMUNITIES, sorted.
    pub large_communities: Vec<[u32; 3]>,
    /// ORIGINATOR_ID; only inside an AS.
    pub originator: Option<Ipv4Addr>,
    /// CLUSTER_LIST, nearest reflector first; only inside an AS.
    pub cluster_list: SmallVec<[u32; 4]>,
    /// Only to Customer.
    pub otc: Option<u32>,
    /// Everything else that has to be passed on, sorted by code.
    pub other: Vec<RawAttribute>,
}

impl PathAttributes {
    /// Adds a standard community; nothing happens when it is there already.
    pub fn add_community(&mut self, community: u32) {
        if let Err(at) = self.communities.binary_search(&community) {
            self.communities.insert(at, community);
        }
    }

    /// Adds a large community; nothing happens when it is there already.
    pub fn add_large_community(&mut self, community: [u32; 3]) {
        if let Err(at) = self.large_communities.binary_search(&community) {
            self.large_communities.insert(at, community);
        }
    }

    /// Whether a standard community is present.
    pub fn has_community(&self, community: u32) -> bool {
        self.communities.binary_search(&community).is_ok()
    }
}

/// What a receiver does about a defect, in ascending strength (RFC 7606 section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorAction {
    /// The attribute is dropped, the routes stay.
    Discard,
    /// The routes of the message are treated as withdrawn.
    TreatAsWithdraw,
}

/// A defect of one attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AttributeIssue {
    /// The attribute's type code, 0 when it could not be read.
    pub code: u8,
    /// Offset of the attribute in the UPDATE body.
    pub offset: usize,
    /// What is wrong.
    pub defect: Defect,
    /// What is done about it.
    pub action: ErrorAction,
}

/// What can be wrong with an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Defect {
    /// It runs over the end of the attribute block.
    Overrun,
    /// The length does not fit the type.
    Length,
    /// The optional and transitive bits do not fit the type.
    Flags,
    /// The value is not allowed.
    Value,
    /// The type appears twice; the first one counts.
    Duplicate,
    /// A mandatory attribute is missing.
    Missing,
    /// A well-known attribute of an unknown type.
    UnknownWellKnown,
    /// The attribute must not come from this kind of peer.
    NotExpected,
    /// The neighbour's AS is not the first of the path.
    FirstAs,
}

/// The attributes of one UPDATE.
#[derive(Debug, Default)]
pub(crate) struct AttributeBlock<'a> {
    pub(crate) attributes: PathAttributes,
    /// The raw values of MP_REACH_NLRI and MP_UNREACH_NLRI with their offsets in the body.
    pub(crate) mp_reach: Option<(&'a [u8], usize)>,
    pub(crate) mp_unreach: Option<(&'a [u8], usize)>,
    pub(crate) issues: Vec<AttributeIssue>,
    seen: [u64; 4],
}

impl<'a> AttributeBlock<'a> {
    pub(crate) fn has(&self, code: u8) -> bool {
        self.seen.get(usize::from(code >> 6)).is_some_and(|word| word & (1 << (code & 63)) != 0)
    }

    fn mark(&mut self, code: u8) {
        if let Some(word) = self.seen.get_mut(usize::from(code >> 6)) {
            *word |= 1 << (code & 63);
        }
    }

    pub(crate) fn issue(&mut self, code: u8, offset: usize, defect: Defect, action: ErrorAction) {
        self.issues.push(AttributeIssue { code, offset, defect, action });
    }

    pub(crate) fn treat_as_withdraw(&self) -> bool {
        self.issues.iter().any(|issue| issue.action == ErrorAction::TreatAsWithdraw)
    }

    /// Reads a block that starts at `base` of the body.
    ///
    /// # Errors
    /// The NOTIFICATION for a second MP_REACH_NLRI or MP_UNREACH_NLRI (RFC 7606 section 3 g).
    pub(crate) fn decode(block: &'a [u8], base: usize, params: &SessionParams) -> Result<Self, Notification> {
        let mut this = AttributeBlock::default();
        let mut as4_path = None;
        let mut as4_aggregator = None;
        let mut c = Cursor::new(block);
        while !c.is_empty() {
            let offset = base + c.offset();
            let header = c.u8().zip(c.u8());
            let length = match header {
                Some((flags, _)) if flags & EXTENDED != 0 => c.u16().map(usize::from),
                Some(_) => c.u8().map(usize::from),
                None => None,
            };
            let Some(((flags, kind), value)) = header.zip(length.and_then(|length| c.take(length))) else {
                let kind = header.map_or(0, |(_, kind)| kind);
                this.issue(kind, offset, Defect::Overrun, ErrorAction::TreatAsWithdraw);
                break;
            };
            if this.has(kind) {
                if kind == code::MP_REACH || kind == code::MP_UNREACH {
                    return Err(Notification::new(error::MALFORMED_ATTRIBUTES));
                }
                this.issue(kind, offset, Defect::Duplicate, ErrorAction::Discard);
                continue;
            }
            this.mark(kind);
            match kind {
                code::MP_REACH | code::MP_UNREACH if flags & (OPTIONAL | TRANSITIVE) == OPTIONAL => {
                    let slot = if kind == code::MP_REACH { &mut this.mp_reach } else { &mut this.mp_unreach };
                    *slot = Some((value, offset));
                }
                code::AS4_PATH if flags & (OPTIONAL | TRANSITIVE) == OPTIONAL | TRANSITIVE => {
                    as4_path = AsPath::decode(value, true);
                    if params.four_octet_as || as4_path.is_none() {
                        as4_path = None;
                        this.issue(kind, offset, Defect::NotExpected, ErrorAction::Discard);
                    }
                }
                code::AS4_AGGREGATOR if flags & (OPTIONAL | TRANSITIVE) == OPTIONAL | TRANSITIVE => {
                    as4_aggregator = decode_aggregator(value, true);
                    if params.four_octet_as || as4_aggregator.is_none() {
                        as4_aggregator = None;
                        this.issue(kind, offset, Defect::NotExpected, ErrorAction::Discard);
                    }
                }
                _ => {
                    if let Err((defect, action)) = this.attributes.read(flags, kind, value, params) {
                        this.issue(kind, offset, defect, action);
                    }
                }
            }
        }
        this.merge_four_octet(as4_path, as4_aggregator);
        this.attributes.other.sort_unstable();
        Ok(this)
    }

    /// RFC 6793 section 4.2.3.
    fn merge_four_octet(&mut self, as4_path: Option<AsPath>, as4_aggregator: Option<Aggregator>) {
        let trans = u32::from(super::iana::AS_TRANS);
        if self.attributes.aggregator.is_some_and(|aggregator| aggregator.asn != trans)
            && as4_aggregator.is_some()
        {
            return;
        }
        if let (Some(_), Some(wide)) = (self.attributes.aggregator, as4_aggregator) {
            self.attributes.aggregator = Some(wide);
        }
        if let Some(path) = as4_path {
            self.attributes.as_path = self.attributes.as_path.merge_as4(&path);
        }
    }
}

fn decode_aggregator(value: &[u8], four_octet: bool) -> Option<Aggregator> {
    let mut c = Cursor::new(value);
    let asn = if four_octet { c.u32()? } else { u32::from(c.u16()?) };
    let identifier = Ipv4Addr::from(c.u32()?);
    c.is_empty().then_some(Aggregator { asn, identifier })
}

fn words(value: &[u8]) -> Option<SmallVec<[u32; 4]>> {
    let (chunks, rest) = value.as_chunks::<4>();
    (rest.is_empty() && !chunks.is_empty()).then(|| chunks.iter().map(|c| u32::from_be_bytes(*c)).collect())
}

fn single(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

impl PathAttributes {
    /// Reads one attribute other than 14, 15, 17 and 18 into its place.
    fn read(
        &mut self,
        flags: u8,
        kind: u8,
        value: &[u8],
        params: &SessionParams,
    ) -> Result<(), (Defect, ErrorAction)> {
        use ErrorAction::{Discard, TreatAsWithdraw};
        let bad_length = (Defect::Length, TreatAsWithdraw);
        let expected = match kind {
            code::ORIGIN | code::AS_PATH | code::NEXT_HOP | code::LOCAL_PREF | code::ATOMIC_AGGREGATE => {
                TRANSITIVE
            }
            code::MED | code::ORIGINATOR_ID | code::CLUSTER_LIST | code::AIGP => OPTIONAL,
            code::MP_REACH | code::MP_UNREACH => OPTIONAL,
            code::AGGREGATOR
            | code::COMMUNITIES
            | code::EXTENDED_COMMUNITIES
            | code::IPV6_EXTENDED_COMMUNITIES
            | code::LARGE_COMMUNITIES
            | code::AS4_PATH
            | code::AS4_AGGREGATOR
            | code::OTC => OPTIONAL | TRANSITIVE,
            _ if flags & OPTIONAL == 0 => return Err((Defect::UnknownWellKnown, TreatAsWithdraw)),
            // RFC 4271 section 9: an unknown optional non-transitive attribute is quietly ignored.
            _ if flags & TRANSITIVE == 0 => return Ok(()),
            _ => {
                self.other.push(RawAttribute {
                    code: kind,
                    flags: OPTIONAL | TRANSITIVE | PARTIAL,
                    value: value.into(),
                });
                return Ok(());
            }
        };
        if flags & (OPTIONAL | TRANSITIVE) != expected {
            return Err((Defect::Flags, TreatAsWithdraw));
        }
        if !params.ibgp && matches!(kind, code::LOCAL_PREF | code::ORIGINATOR_ID | code::CLUSTER_LIST) {
            return Err((Defect::NotExpected, Discard));
        }
        match kind {
            code::ORIGIN => {
                self.origin = match value {
                    [0] => Origin::Igp,
                    [1] => Origin::Egp,
                    [2] => Origin::Incomplete,
                    [_] => return Err((Defect::Value, TreatAsWithdraw)),
                    _ => return Err(bad_length),
                }
            }
            code::AS_PATH => {
                let path =
                    AsPath::decode(value, params.four_octet_as).ok_or((Defect::Value, TreatAsWithdraw))?;
                // This speaker is in no confederation, so such a segment has leaked out of one (RFC 5065 section 5).
                if path.has_confederation() {
                    return Err((Defect::Value, TreatAsWithdraw));
                }
                self.as_path = path;
            }
            code::NEXT_HOP => {
                let address = Ipv4Addr::from(single(value).ok_or(bad_length)?);
                if address.is_unspecified() || address.is_multicast() || address.octets()[0] >= 240 {
                    return Err((Defect::Value, TreatAsWithdraw));
                }
                self.next_hop = Some(NextHop::V4(address));
            }
            code::MED => self.med = Some(single(value).ok_or(bad_length)?),
            code::LOCAL_PREF => self.local_pref = Some(single(value).ok_or(bad_length)?),
            code::ATOMIC_AGGREGATE => {
                if !value.is_empty() {
                    return Err((Defect::Length, Discard));
                }
                self.atomic_aggregate = true;
            }
            code::AGGREGATOR => {
                let aggregator =
                    decode_aggregator(value, params.four_octet_as).ok_or((Defect::Length, Discard))?;
                self.aggregator = Some(aggregator);
            }
            code::COMMUNITIES => {
                let mut list = words(value).ok_or(bad_length)?;
                list.sort_unstable();
                list.dedup();
                self.communities = list;
            }
            code::EXTENDED_COMMUNITIES => {
                let (chunks, rest) = value.as_chunks::<8>();
                if chunks.is_empty() || !rest.is_empty() {
                    return Err(bad_length);
                }
                self.extended_communities = chunks.to_vec();
                self.extended_communities.sort_unstable();
                self.extended_communities.dedup();
            }
            code::LARGE_COMMUNITIES => {
                let (chunks, rest) = value.as_chunks::<12>();
                if chunks.is_empty() || !rest.is_empty() {
                    return Err(bad_length);
                }
                self.large_communities = chunks
                    .iter()
                    .map(|[a, b, c, d, e, f, g, h, i, j, k, l]| {
                        [[*a, *b, *c, *d], [*e, *f, *g, *h], [*i, *j, *k, *l]].map(u32::from_be_bytes)
                    })
                    .collect();
                self.large_communities.sort_unstable();
                self.large_communities.dedup();
            }
            code::IPV6_EXTENDED_COMMUNITIES => {
                if value.is_empty() || !value.len().is_multiple_of(20) {
                    return Err(bad_length);
                }
                self.other.push(RawAttribute { code: kind, flags: flags & !EXTENDED, value: value.into() });
            }
            code::ORIGINATOR_ID => self.originator = Some(Ipv4Addr::from(single(value).ok_or(bad_length)?)),
            code::CLUSTER_LIST => self.cluster_list = words(value).ok_or(bad_length)?,
            code::OTC => self.otc = Some(single(value).ok_or(bad_length)?),
            // RFC 7311 section 3.4: without AIGP enabled on the session it is dropped.
            code::AIGP => return Err((Defect::NotExpected, Discard)),
            _ => {}
        }
        Ok(())
    }

    /// Writes the attributes in ascending order of their codes, without MP_REACH_NLRI and MP_UNREACH_NLRI. NEXT_HOP is
    /// written only when `classic_next_hop` says which.
    pub fn encode(&self, classic_next_hop: Option<Ipv4Addr>, params: &SessionParams, out: &mut Vec<u8>) {
        let mut other = self.other.iter().peekable();
        let mut flush_other = |out: &mut Vec<u8>, below: u8| {
            while let Some(raw) = other.next_if(|raw| raw.code < below) {
                attribute(out, raw.flags, raw.code, &raw.value);
            }
        };
        let origin = match self.origin {
            Origin::Igp => 0,
            Origin::Egp => 1,
            Origin::Incomplete => 2,
        };
        attribute(out, TRANSITIVE, code::ORIGIN, &[origin]);
        let mut as4_path = None;
        if params.four_octet_as {
            attribute(out, TRANSITIVE, code::AS_PATH, self.as_path.four_octet_bytes());
        } else {
            let (short, lossy) = self.as_path.two_octet_bytes();
            attribute(out, TRANSITIVE, code::AS_PATH, &short);
            as4_path = lossy.then(|| self.as_path.without_confederation());
        }
        if let Some(next_hop) = classic_next_hop {
            attribute(out, TRANSITIVE, code::NEXT_HOP, &next_hop.octets());
        }
        if let Some(med) = self.med {
            attribute(out, OPTIONAL, code::MED, &med.to_be_bytes());
        }
        if let Some(local_pref) = self.local_pref.filter(|_| params.ibgp) {
            attribute(out, TRANSITIVE, code::LOCAL_PREF, &local_pref.to_be_bytes());
        }
        if self.atomic_aggregate {
            attribute(out, TRANSITIVE, code::ATOMIC_AGGREGATE, &[]);
        }
        let mut as4_aggregator = None;
        if let Some(Aggregator { asn, identifier }) = self.aggregator {
            let mut value: SmallVec<[u8; 8]> = SmallVec::new();
            if params.four_octet_as {
                value.extend_from_slice(&asn.to_be_bytes());
            } else {
                value.extend_from_slice(&super::open::Open::two_octet_as(asn).to_be_bytes());
                as4_aggregator = (asn > u32::from(u16::MAX)).then_some(asn);
            }
            value.extend_from_slice(&identifier.octets());
            attribute(out, OPTIONAL | TRANSITIVE, code::AGGREGATOR, &value);
        }
        if !self.communities.is_empty() {
            let octets = self.communities.iter().flat_map(|c| c.to_be_bytes());
            attribute_iter(out, OPTIONAL | TRANSITIVE, code::COMMUNITIES, self.communities.len() * 4, octets);
        }
        if params.ibgp {
            if let Some(originator) = self.originator {
                attribute(out, OPTIONAL, code::ORIGINATOR_ID, &originator.octets());
            }
            if !self.cluster_list.is_empty() {
                let octets = self.cluster_list.iter().flat_map(|c| c.to_be_bytes());
                attribute_iter(out, OPTIONAL, code::CLUSTER_LIST, self.cluster_list.len() * 4, octets);
            }
        }
        flush_other(out, code::EXTENDED_COMMUNITIES);
        if !self.extended_communities.is_empty() {
            let flat = self.extended_communities.as_flattened();
            attribute(out, OPTIONAL | TRANSITIVE, code::EXTENDED_COMMUNITIES, flat);
        }
        if let Some(path) = as4_path {
            attribute(out, OPTIONAL | TRANSITIVE, code::AS4_PATH, path.four_octet_bytes());
        }
        if let (Some(asn), Some(aggregator)) = (as4_aggregator, self.aggregator) {
            let [a, b, c, d] = asn.to_be_bytes();
            let [e, f, g, h] = aggregator.identifier.octets();
            attribute(out, OPTIONAL | TRANSITIVE, code::AS4_AGGREGATOR, &[a, b, c, d, e, f, g, h]);
        }
        flush_other(out, code::LARGE_COMMUNITIES);
        if !self.large_communities.is_empty() {
            let octets = self.large_communities.as_flattened().iter().flat_map(|c| c.to_be_bytes());
            let length = self.large_communities.len() * 12;
            attribute_iter(out, OPTIONAL | TRANSITIVE, code::LARGE_COMMUNITIES, length, octets);
        }
        flush_other(out, code::OTC);
        if let Some(otc) = self.otc {
            attribute(out, OPTIONAL | TRANSITIVE, code::OTC, &otc.to_be_bytes());
        }
        flush_other(out, u8::MAX);
        for raw in other {
            attribute(out, raw.flags, raw.code, &raw.value);
        }
    }
}

/// Writes flags, code, length (short form when it fits) and value.
pub(crate) fn attribute(out: &mut Vec<u8>, flags: u8, code: u8, value: &[u8]) {
    attribute_header(out, flags, code, value.len());
    out.extend_from_slice(value);
}

pub(crate) fn attribute_header(out: &mut Vec<u8>, flags: u8, code: u8, length: usize) {
    match u8::try_from(length) {
        Ok(length) => out.extend_from_slice(&[flags, code, length]),
        Err(_) => {
            let [high, low] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
            out.extend_from_slice(&[flags | EXTENDED, code, high, low]);
        }
    }
}

fn attribute_iter(out: &mut Vec<u8>, flags: u8, code: u8, length: usize, octets: impl Iterator<Item = u8>) {
    attribute_header(out, flags, code, length);
    out.extend(octets);
}
