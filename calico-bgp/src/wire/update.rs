//! UPDATE messages: reading with RFC 7606 actions, writing many prefixes with one set of attributes.

use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::Bytes;

use super::attribute::{
    AttributeBlock, AttributeIssue, Defect, ErrorAction, NextHop, PathAttributes, attribute_header,
};
use super::cursor::Cursor;
use super::iana::{Family, FamilySet, attribute_code, message_type};
use super::message::{HEADER_LENGTH, MAX_LENGTH, begin_message_in, finish_message};
use super::nlri::{NlriIter, PathPrefix, Prefix, Prefix4, Prefix6};
use super::notification::{Notification, code};

/// What both sides agreed on, as far as UPDATEs depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionParams {
    /// AS numbers have four octets.
    pub four_octet_as: bool,
    /// Both sides are in the same AS.
    pub ibgp: bool,
    /// The peer's AS, when the first AS of a received path has to be it.
    pub enforce_first_as: Option<u32>,
    /// Families agreed on.
    pub families: FamilySet,
    /// Families whose received prefixes carry path identifiers.
    pub add_path_receive: FamilySet,
    /// Families whose sent prefixes carry path identifiers.
    pub add_path_send: FamilySet,
    /// IPv4 prefixes may have IPv6 next hops.
    pub extended_next_hop: bool,
    /// The longest message that may be sent.
    pub max_length: usize,
}

impl Default for SessionParams {
    /// Four-octet, internal, both families, nothing optional.
    fn default() -> Self {
        SessionParams {
            four_octet_as: true,
            ibgp: true,
            enforce_first_as: None,
            families: FamilySet::ALL,
            add_path_receive: FamilySet::NONE,
            add_path_send: FamilySet::NONE,
            extended_next_hop: false,
            max_length: MAX_LENGTH,
        }
    }
}

/// The prefixes of an MP_REACH_NLRI or MP_UNREACH_NLRI.
#[derive(Debug, Clone, Copy)]
pub enum MpNlri<'a> {
    /// The attribute is absent or of a family that was not agreed on.
    None,
    /// IPv4 prefixes.
    Ipv4(NlriIter<'a, Prefix4>),
    /// IPv6 prefixes.
    Ipv6(NlriIter<'a, Prefix6>),
}

/// A received UPDATE. Iterators borrow the message; nothing in them can fail.
#[derive(Debug)]
pub struct Update<'a> {
    /// Withdrawn IPv4 prefixes of the classic field.
    pub withdrawn: NlriIter<'a, Prefix4>,
    /// Announced IPv4 prefixes of the classic field.
    pub announced: NlriIter<'a, Prefix4>,
    /// Withdrawn prefixes of MP_UNREACH_NLRI.
    pub mp_withdrawn: MpNlri<'a>,
    /// Announced prefixes of MP_REACH_NLRI.
    pub mp_announced: MpNlri<'a>,
    /// The attributes. `next_hop` belongs to `announced`.
    pub attributes: PathAttributes,
    /// The next hop of `mp_announced`.
    pub mp_next_hop: Option<NextHop>,
    /// Everything announced has to be treated as withdrawn.
    pub treat_as_withdraw: bool,
    /// The message marks the end of the initial routes of a family.
    pub end_of_rib: Option<Family>,
    /// Defects, in the order found.
    pub issues: Vec<AttributeIssue>,
}

/// The three fields of an UPDATE body before anything in them is read.
#[derive(Debug, Clone, Copy)]
pub struct Sections<'a> {
    /// Withdrawn routes.
    pub withdrawn: &'a [u8],
    /// Path attributes.
    pub attributes: &'a [u8],
    /// Offset of `attributes` in the body.
    pub attributes_offset: usize,
    /// Announced routes.
    pub nlri: &'a [u8],
}

impl<'a> Sections<'a> {
    /// Cuts a body into its fields.
    ///
    /// # Errors
    /// Code 3/1 when the lengths do not fit the body.
    pub fn split(body: &'a [u8]) -> Result<Self, Notification> {
        let malformed = || Notification::new(code::MALFORMED_ATTRIBUTES);
        let mut c = Cursor::new(body);
        let withdrawn = c.u16().and_then(|n| c.take(usize::from(n))).ok_or_else(malformed)?;
        let length = c.u16().ok_or_else(malformed)?;
        let attributes_offset = c.offset();
        let attributes = c.take(usize::from(length)).ok_or_else(malformed)?;
        Ok(Sections { withdrawn, attributes, attributes_offset, nlri: c.rest() })
    }
}

impl<'a> Update<'a> {
    /// Reads the body of an UPDATE.
    ///
    /// # Errors
    /// The NOTIFICATION for defects after which the routes of the message are not known: fields that do not fit, prefixes
    /// that cannot be read, a second MP attribute. Everything milder is in [`Update::issues`].
    pub fn decode(body: &'a [u8], params: &SessionParams) -> Result<Self, Notification> {
        let sections = Sections::split(body)?;
        let add_path = params.add_path_receive.contains(Family::Ipv4);
        let bad_network = |_| Notification::new(code::BAD_NETWORK);
        let withdrawn = NlriIter::checked(sections.withdrawn, add_path).map_err(bad_network)?;
        let announced = NlriIter::checked(sections.nlri, add_path).map_err(bad_network)?;
        if body.len() == 4 {
            return Ok(Update::of_withdrawn(withdrawn, Some(Family::Ipv4)));
        }
        if sections.attributes.is_empty() && sections.nlri.is_empty() {
            return Ok(Update::of_withdrawn(withdrawn, None));
        }
        let offset = sections.attributes_offset;
        let mut block = AttributeBlock::decode(sections.attributes, offset, params)?;
        let mut update = Update::of_withdrawn(withdrawn, None);
        update.announced = announced;
        if let Some((value, _)) = block.mp_unreach {
            let (family, nlri) = mp_unreach(value, params)?;
            update.mp_withdrawn = nlri;
            let alone = sections.withdrawn.is_empty() && sections.nlri.is_empty() && block.mp_reach.is_none();
            if alone && value.len() == 3 {
                update.end_of_rib = family;
            }
        }
        if let Some((value, at)) = block.mp_reach {
            let (next_hop, nlri) = mp_reach(value, params)?;
            update.mp_announced = nlri;
            update.mp_next_hop = next_hop;
            if next_hop.is_none() && !matches!(nlri, MpNlri::None) {
                block.issue(attribute_code::MP_REACH, at, Defect::Value, ErrorAction::TreatAsWithdraw);
            }
        }
        check_mandatory(&mut block, !announced.is_empty(), params);
        update.treat_as_withdraw = block.treat_as_withdraw();
        update.attributes = block.attributes;
        update.issues = block.issues;
        Ok(update)
    }

    fn of_withdrawn(withdrawn: NlriIter<'a, Prefix4>, end_of_rib: Option<Family>) -> Self {
        Update {
            withdrawn,
            announced: NlriIter::empty(),
            mp_withdrawn: MpNlri::None,
            mp_announced: MpNlri::None,
            attributes: PathAttributes::default(),
            mp_next_hop: None,
            treat_as_withdraw: false,
            end_of_rib,
            issues: Vec::new(),
        }
    }
}

/// Attributes that must be there when something is announced (RFC 4271 section 5, RFC 7606 section 3 d).
fn check_mandatory(block: &mut AttributeBlock<'_>, classic: bool, params: &SessionParams) {
    if !classic && block.mp_reach.is_none() {
        return;
    }
    for (code, needed) in
        [(attribute_code::ORIGIN, true), (attribute_code::AS_PATH, true), (attribute_code::NEXT_HOP, classic)]
    {
        if needed && !block.has(code) {
            block.issue(code, 0, Defect::Missing, ErrorAction::TreatAsWithdraw);
        }
    }
    if let Some(asn) = params.enforce_first_as
        && block.attributes.as_path.neighbour() != Some(asn)
    {
        block.issue(attribute_code::AS_PATH, 0, Defect::FirstAs, ErrorAction::TreatAsWithdraw);
    }
}

fn mp_nlri<'a>(family: Family, field: &'a [u8], params: &SessionParams) -> Result<MpNlri<'a>, Notification> {
    let add_path = params.add_path_receive.contains(family);
    let malformed = |_| Notification::new(code::OPTIONAL_ATTRIBUTE);
    Ok(match family {
        Family::Ipv4 => MpNlri::Ipv4(NlriIter::checked(field, add_path).map_err(malformed)?),
        Family::Ipv6 => MpNlri::Ipv6(NlriIter::checked(field, add_path).map_err(malformed)?),
    })
}

fn mp_unreach<'a>(
    value: &'a [u8],
    params: &SessionParams,
) -> Result<(Option<Family>, MpNlri<'a>), Notification> {
    let malformed = || Notification::new(code::OPTIONAL_ATTRIBUTE);
    let mut c = Cursor::new(value);
    let (afi, safi) = c.u16().zip(c.u8()).ok_or_else(malformed)?;
    match Family::from_codes(afi, safi).filter(|family| params.families.contains(*family)) {
        Some(family) => Ok((Some(family), mp_nlri(family, c.rest(), params)?)),
        None => Ok((None, MpNlri::None)),
    }
}

/// A next hop of the wrong size leaves the prefixes readable, so that the routes can be treated as withdrawn.
fn mp_reach<'a>(
    value: &'a [u8],
    params: &SessionParams,
) -> Result<(Option<NextHop>, MpNlri<'a>), Notification> {
    let malformed = || Notification::new(code::OPTIONAL_ATTRIBUTE);
    let mut c = Cursor::new(value);
    let (afi, safi) = c.u16().zip(c.u8()).ok_or_else(malformed)?;
    let octets = c.u8().and_then(|n| c.take(usize::from(n))).ok_or_else(malformed)?;
    let _reserved = c.u8().ok_or_else(malformed)?;
    let Some(family) = Family::from_codes(afi, safi).filter(|family| params.families.contains(*family))
    else {
        return Ok((None, MpNlri::None));
    };
    let next_hop = decode_next_hop(octets)
        .filter(|hop| matches!(hop, NextHop::V6 { .. }) || family == Family::Ipv4)
        .filter(|hop| matches!(hop, NextHop::V4(_)) || family == Family::Ipv6 || params.extended_next_hop);
    Ok((next_hop, mp_nlri(family, c.rest(), params)?))
}

fn decode_next_hop(octets: &[u8]) -> Option<NextHop> {
    match octets.len() {
        4 => {
            let address = Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?);
            (!address.is_unspecified() && !address.is_multicast()).then_some(NextHop::V4(address))
        }
        16 | 32 => {
            let (global, rest) = octets.split_first_chunk::<16>()?;
            let global = Ipv6Addr::from(*global);
            let link_local = <[u8; 16]>::try_from(rest).ok().map(Ipv6Addr::from);
            let link_local = link_local.filter(Ipv6Addr::is_unicast_link_local);
            // Some speakers without a global address leave the first half empty.
            let global = if global.is_unspecified() { link_local? } else { global };
            (!global.is_multicast()).then_some(NextHop::V6 { global, link_local })
        }
        _ => None,
    }
}

/// Why an announcement cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The attributes leave no room for a prefix in a message of the session's size.
    #[error("attributes of {length} octets leave no room for a prefix in a message of {max} octets")]
    AttributesTooLong {
        /// Octets of the attributes.
        length: usize,
        /// The longest message of the session.
        max: usize,
    },
    /// The route has no next hop that the session can carry.
    #[error(
        "the session cannot carry the route's next hop; negotiate extended next hop or set next-hop self"
    )]
    NextHop,
}

/// Writes UPDATEs. Keeps a scratch buffer so that every message costs one allocation.
#[derive(Debug, Default)]
pub struct UpdateBuilder {
    scratch: Vec<u8>,
    attributes: Vec<u8>,
}

impl UpdateBuilder {
    /// An empty builder.
    pub fn new() -> Self {
        UpdateBuilder::default()
    }

    /// Writes as few messages as hold all `routes` with these attributes, handing each to `emit`.
    ///
    /// # Errors
    /// [`EncodeError`] when no message can hold the routes; nothing was emitted then.
    pub fn announce<P: Prefix>(
        &mut self,
        attributes: &PathAttributes,
        routes: &[PathPrefix<P>],
        params: &SessionParams,
        mut emit: impl FnMut(Bytes),
    ) -> Result<(), EncodeError> {
        let next_hop = attributes.next_hop.ok_or(EncodeError::NextHop)?;
        let add_path = params.add_path_send.contains(P::FAMILY);
        let classic = match (P::FAMILY, next_hop) {
            (Family::Ipv4, NextHop::V4(address)) => Some(address),
            (Family::Ipv4, NextHop::V6 { .. }) if params.extended_next_hop => None,
            (Family::Ipv6, NextHop::V6 { .. }) => None,
            _ => return Err(EncodeError::NextHop),
        };
        self.attributes.clear();
        attributes.encode(classic, params, &mut self.attributes);
        // 4 octets of attribute header (extended length) and the fixed part of MP_REACH_NLRI.
        let mp_head = if classic.is_some() { 0 } else { 4 + 5 + next_hop_length(next_hop) };
        let fixed = HEADER_LENGTH + 4 + self.attributes.len() + mp_head;
        let widest = 1 + usize::from(P::FAMILY.bits() / 8) + if add_path { 4 } else { 0 };
        if fixed + widest > params.max_length {
            return Err(EncodeError::AttributesTooLong {
                length: self.attributes.len(),
                max: params.max_length,
            });
        }
        let mut rest = routes;
        while !rest.is_empty() {
            let (count, octets) = fit(rest, params.max_length - fixed, add_path);
            let (now, later) = rest.split_at_checked(count).unwrap_or((rest, &[]));
            rest = later;
            begin_message_in(&mut self.scratch, message_type::UPDATE);
            let out = &mut self.scratch;
            if classic.is_some() {
                out.extend_from_slice(&[0, 0]);
                out.extend_from_slice(&length16(self.attributes.len()));
                out.extend_from_slice(&self.attributes);
                write_nlri(out, now, add_path);
            } else {
                let value = 5 + next_hop_length(next_hop) + octets;
                let header = if value > 255 { 4 } else { 3 };
                out.extend_from_slice(&[0, 0]);
                out.extend_from_slice(&length16(self.attributes.len() + header + value));
                attribute_header(out, 0x80, attribute_code::MP_REACH, value);
                out.extend_from_slice(&P::FAMILY.afi().to_be_bytes());
                out.push(P::FAMILY.safi());
                write_next_hop(out, next_hop);
                out.push(0);
                write_nlri(out, now, add_path);
                out.extend_from_slice(&self.attributes);
            }
            finish_message(out);
            emit(Bytes::copy_from_slice(out));
        }
        Ok(())
    }

    /// Writes as few messages as withdraw all `routes`.
    pub fn withdraw<P: Prefix>(
        &mut self,
        routes: &[PathPrefix<P>],
        params: &SessionParams,
        mut emit: impl FnMut(Bytes),
    ) {
        let add_path = params.add_path_send.contains(P::FAMILY);
        let room = params.max_length - HEADER_LENGTH - 4 - 7;
        let mut rest = routes;
        while !rest.is_empty() {
            let (count, octets) = fit(rest, room, add_path);
            let (now, later) = rest.split_at_checked(count).unwrap_or((rest, &[]));
            rest = later;
            begin_message_in(&mut self.scratch, message_type::UPDATE);
            let out = &mut self.scratch;
            match P::FAMILY {
                Family::Ipv4 => {
                    out.extend_from_slice(&length16(octets));
                    write_nlri(out, now, add_path);
                    out.extend_from_slice(&[0, 0]);
                }
                Family::Ipv6 => {
                    let value = 3 + octets;
                    let header = if value > 255 { 4 } else { 3 };
                    out.extend_from_slice(&[0, 0]);
                    out.extend_from_slice(&length16(header + value));
                    attribute_header(out, 0x80, attribute_code::MP_UNREACH, value);
                    out.extend_from_slice(&P::FAMILY.afi().to_be_bytes());
                    out.push(P::FAMILY.safi());
                    write_nlri(out, now, add_path);
                }
            }
            finish_message(out);
            emit(Bytes::copy_from_slice(out));
        }
    }

    /// The End-of-RIB marker of a family.
    pub fn end_of_rib(family: Family) -> Bytes {
        let mut out = Vec::with_capacity(29);
        begin_message_in(&mut out, message_type::UPDATE);
        match family {
            Family::Ipv4 => out.extend_from_slice(&[0, 0, 0, 0]),
            Family::Ipv6 => {
                let [high, low] = family.afi().to_be_bytes();
                out.extend_from_slice(&[
                    0,
                    0,
                    0,
                    6,
                    0x80,
                    attribute_code::MP_UNREACH,
                    3,
                    high,
                    low,
                    family.safi(),
                ]);
            }
        }
        finish_message(&mut out);
        Bytes::from(out)
    }
}

fn length16(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}

fn next_hop_length(next_hop: NextHop) -> usize {
    match next_hop {
        NextHop::V4(_) => 4,
        NextHop::V6 { link_local: None, .. } => 16,
        NextHop::V6 { link_local: Some(_), .. } => 32,
    }
}

fn write_next_hop(out: &mut Vec<u8>, next_hop: NextHop) {
    out.push(u8::try_from(next_hop_length(next_hop)).unwrap_or(0));
    match next_hop {
        NextHop::V4(address) => out.extend_from_slice(&address.octets()),
        NextHop::V6 { global, link_local } => {
            out.extend_from_slice(&global.octets());
            if let Some(address) = link_local {
                out.extend_from_slice(&address.octets());
            }
        }
    }
}

/// How many of `routes` fit into `room` octets, at least one, and how many octets they take.
fn fit<P: Prefix>(routes: &[PathPrefix<P>], room: usize, add_path: bool) -> (usize, usize) {
    let mut octets = 0;
    for (count, route) in routes.iter().enumerate() {
        let length = route.prefix.wire_length() + if add_path { 4 } else { 0 };
        if octets + length > room && count > 0 {
            return (count, octets);
        }
        octets += length;
    }
    (routes.len(), octets)
}

fn write_nlri<P: Prefix>(out: &mut Vec<u8>, routes: &[PathPrefix<P>], add_path: bool) {
    for route in routes {
        if add_path {
            out.extend_from_slice(&route.path_id.to_be_bytes());
        }
        route.prefix.write(out);
    }
}
