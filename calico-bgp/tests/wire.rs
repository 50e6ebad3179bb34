//! Byte vectors, RFC 7606 line by line, and laws of the codec.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::net::{Ipv4Addr, Ipv6Addr};

use calico_bgp::wire::attribute::Defect;
use calico_bgp::wire::notification::code;
use calico_bgp::wire::update::MpNlri;
use calico_bgp::wire::{
    Aggregator, AsPath, ErrorAction, Family, FamilySet, Message, NextHop, Origin, PathAttributes, PathPrefix,
    Prefix, Prefix4, Prefix6, RawAttribute, SessionParams, Update, UpdateBuilder,
};
use proptest::prelude::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn prefix4(text: &str) -> PathPrefix<Prefix4> {
    PathPrefix { path_id: 0, prefix: Prefix4::from_net(text.parse().unwrap()).unwrap() }
}

fn prefix6(text: &str) -> PathPrefix<Prefix6> {
    PathPrefix { path_id: 0, prefix: Prefix6::from_net(text.parse().unwrap()).unwrap() }
}

const MARKER: &str = "ffffffffffffffffffffffffffffffff";

/// Vector 1: a block announced inside the cluster, 49 octets.
#[test]
fn update_of_a_block() {
    let bytes =
        hex(&format!("{MARKER}0031020000001540010100400200 4003040a000001 4005047ffffbff 1a0a010040"));
    assert_eq!(bytes.len(), 49);
    let params = SessionParams::default();
    let update = Update::decode(&bytes[19..], &params).unwrap();
    assert!(update.issues.is_empty() && update.end_of_rib.is_none());
    assert_eq!(update.announced.collect::<Vec<_>>(), [prefix4("10.1.0.64/26")]);
    assert_eq!(update.attributes.local_pref, Some(2_147_482_623));
    let mut out = Vec::new();
    UpdateBuilder::new()
        .announce(&update.attributes, &[prefix4("10.1.0.64/26")], &params, |message| out.push(message))
        .unwrap();
    assert_eq!(out, [bytes]);
}

/// Vector 3: MP_REACH_NLRI of an IPv6 block; it goes first.
#[test]
fn update_of_an_ipv6_block() {
    let params = SessionParams::default();
    let attributes = PathAttributes {
        next_hop: Some(NextHop::V6 { global: "fd99::1".parse().unwrap(), link_local: None }),
        local_pref: Some(100),
        ..PathAttributes::default()
    };
    let mut out = Vec::new();
    UpdateBuilder::new()
        .announce(&attributes, &[prefix6("fd10:1::40/122")], &params, |message| out.push(message))
        .unwrap();
    let expected =
        "800e26 0002 01 10 fd990000000000000000000000000001 00 7a fd100001000000000000000000000040";
    assert_eq!(out[0][23..23 + 41], hex(expected));
    let update = Update::decode(&out[0][19..], &params).unwrap();
    assert_eq!(update.mp_next_hop, attributes.next_hop);
    let MpNlri::Ipv6(list) = update.mp_announced else { panic!() };
    assert_eq!(list.collect::<Vec<_>>(), [prefix6("fd10:1::40/122")]);
}

/// Vector 4.
#[test]
fn end_of_rib_and_keepalive() {
    let v4 = UpdateBuilder::end_of_rib(Family::Ipv4);
    let v6 = UpdateBuilder::end_of_rib(Family::Ipv6);
    assert_eq!(v4, hex(&format!("{MARKER}00170200000000")));
    assert_eq!(v6, hex(&format!("{MARKER}001d0200000006800f03000201")));
    assert_eq!(Message::Keepalive.encode(), hex(&format!("{MARKER}001304")));
    let params = SessionParams::default();
    assert_eq!(Update::decode(&v4[19..], &params).unwrap().end_of_rib, Some(Family::Ipv4));
    assert_eq!(Update::decode(&v6[19..], &params).unwrap().end_of_rib, Some(Family::Ipv6));
}

/// An UPDATE body with these attributes and one prefix.
fn body(attributes: &str) -> Vec<u8> {
    let attributes = hex(attributes);
    let mut out = vec![0, 0];
    out.extend_from_slice(&u16::try_from(attributes.len()).unwrap().to_be_bytes());
    out.extend_from_slice(&attributes);
    out.extend_from_slice(&[8, 10]);
    out
}

/// ORIGIN, AS_PATH (empty), NEXT_HOP.
const BASE: &str = "40010100 400200 4003040a000001";

#[test]
fn every_line_of_rfc_7606() {
    use Defect::*;
    use ErrorAction::*;
    let internal = SessionParams::default();
    let external = SessionParams { ibgp: false, ..internal };
    for (attributes, params, code, defect, action) in [
        // Known attributes of a wrong length.
        ("4001020000 400200 4003040a000001", internal, 1, Length, TreatAsWithdraw),
        ("40010105 400200 4003040a000001", internal, 1, Value, TreatAsWithdraw),
        ("40010100 4002020200 4003040a000001", internal, 2, Value, TreatAsWithdraw),
        ("40010100 4002050201000000 4003040a000001", internal, 2, Value, TreatAsWithdraw),
        ("40010100 4002060301000000ff 4003040a000001", internal, 2, Value, TreatAsWithdraw),
        ("40010100 400200 4003030a0000", internal, 3, Length, TreatAsWithdraw),
        ("40010100 400200 400304e0000001", internal, 3, Value, TreatAsWithdraw),
        ("40010100 400200 4003040a000001 800403000000", internal, 4, Length, TreatAsWithdraw),
        ("40010100 400200 4003040a000001 400503000000", internal, 5, Length, TreatAsWithdraw),
        ("40010100 400200 4003040a000001 40050400000064", external, 5, NotExpected, Discard),
        ("40010100 400200 4003040a000001 40060100", internal, 6, Length, Discard),
        ("40010100 400200 4003040a000001 c0070600000a000001", internal, 7, Length, Discard),
        ("40010100 400200 4003040a000001 c00803000000", internal, 8, Length, TreatAsWithdraw),
        ("40010100 400200 4003040a000001 c00800", internal, 8, Length, TreatAsWithdraw),
        ("40010100 400200 4003040a000001 8009030a0000", internal, 9, Length, TreatAsWithdraw),
        ("40010100 400200 4003040a000001 8009040a000001", external, 9, NotExpected, Discard),
        ("40010100 400200 4003040a000001 800a00", internal, 10, Length, TreatAsWithdraw),
        ("40010100 400200 4003040a000001 c0100400000000", internal, 16, Length, TreatAsWithdraw),
        ("40010100 400200 4003040a000001 c0200400000000", internal, 32, Length, TreatAsWithdraw),
        ("40010100 400200 4003040a000001 c0190400000000", internal, 25, Length, TreatAsWithdraw),
        ("40010100 400200 4003040a000001 c0230100", internal, 35, Length, TreatAsWithdraw),
        ("40010100 400200 4003040a000001 801a03010003", internal, 26, NotExpected, Discard),
        ("40010100 400200 4003040a000001 c0110602010000000a", internal, 17, NotExpected, Discard),
        ("40010100 400200 4003040a000001 c012080000000a0a000001", internal, 18, NotExpected, Discard),
        // Flags, unknown ones, twice, cut off, absent.
        ("80010100 400200 4003040a000001", internal, 1, Flags, TreatAsWithdraw),
        ("40010100 400200 4003040a000001 40040400000000", internal, 4, Flags, TreatAsWithdraw),
        ("40010100 400200 4003040a000001 40630100", internal, 99, UnknownWellKnown, TreatAsWithdraw),
        ("40010100 40010102 400200 4003040a000001", internal, 1, Duplicate, Discard),
        ("40010100 400200 4003040a000001 c00810fde80001", internal, 8, Overrun, TreatAsWithdraw),
        ("400200 4003040a000001", internal, 1, Missing, TreatAsWithdraw),
        ("40010100 4003040a000001", internal, 2, Missing, TreatAsWithdraw),
        ("40010100 400200", internal, 3, Missing, TreatAsWithdraw),
    ] {
        let body = body(attributes);
        let update = Update::decode(&body, &params).unwrap();
        let [issue] = update.issues.as_slice() else { panic!("{attributes}: {:?}", update.issues) };
        assert_eq!((issue.code, issue.defect, issue.action), (code, defect, action), "{attributes}");
        assert_eq!(update.treat_as_withdraw, action == TreatAsWithdraw, "{attributes}");
        assert_eq!(update.announced.count(), 1, "{attributes}: the prefix is still known");
        if defect != Missing {
            assert!(issue.offset >= 4 && issue.offset < body.len());
        }
    }
}

#[test]
fn what_makes_prefixes_unknown_ends_the_session() {
    let params = SessionParams::default();
    let refuse = |body: &[u8]| Update::decode(body, &params).map_err(|n| n.kind()).err();
    assert_eq!(refuse(&[0]), Some(code::MALFORMED_ATTRIBUTES));
    assert_eq!(refuse(&[0, 9, 0, 0]), Some(code::MALFORMED_ATTRIBUTES));
    assert_eq!(refuse(&[0, 0, 0, 9]), Some(code::MALFORMED_ATTRIBUTES));
    assert_eq!(refuse(&[0, 2, 33, 1, 0, 0]), Some(code::BAD_NETWORK));
    let mut long = body(BASE);
    *long.last_mut().unwrap() = 0;
    long.truncate(long.len() - 1);
    assert_eq!(refuse(&long), Some(code::BAD_NETWORK));
    assert_eq!(refuse(&body("800e020002")), Some(code::OPTIONAL_ATTRIBUTE));
    assert_eq!(refuse(&body("800f03000201 800f03000201")), Some(code::MALFORMED_ATTRIBUTES));
    assert_eq!(refuse(&body("800f05000201 81fd")), Some(code::OPTIONAL_ATTRIBUTE));
}

#[test]
fn a_next_hop_of_the_wrong_size_loses_only_the_routes() {
    let params = SessionParams::default();
    let reach = "800e0e 0002 01 04 0a000001 00 20 fd100001";
    let body = body(&format!("40010100 400200 4003040a000001 {reach}"));
    let update = Update::decode(&body, &params).unwrap();
    assert!(update.treat_as_withdraw);
    assert!(matches!(update.mp_announced, MpNlri::Ipv6(_)));
}

#[test]
fn unknown_attributes_are_handed_on_with_the_partial_bit() {
    let params = SessionParams::default();
    let body = body(&format!("{BASE} c0630201ff 80640101"));
    let update = Update::decode(&body, &params).unwrap();
    assert!(update.issues.is_empty());
    let kept = RawAttribute { code: 0x63, flags: 0xe0, value: [1, 0xff].into() };
    assert_eq!(update.attributes.other, [kept], "transitive ones are kept, others are not");
    let mut out = Vec::new();
    update.attributes.encode(Some(Ipv4Addr::new(10, 0, 0, 1)), &params, &mut out);
    assert!(out.ends_with(&hex("e0630201ff")));
}

#[test]
fn the_first_system_can_be_enforced() {
    let params = SessionParams { ibgp: false, enforce_first_as: Some(65001), ..SessionParams::default() };
    let with = |asn: &str| body(&format!("40010100 40020602010000{asn} 4003040a000001"));
    assert!(!Update::decode(&with("fde9"), &params).unwrap().treat_as_withdraw);
    assert!(Update::decode(&with("fdea"), &params).unwrap().treat_as_withdraw);
}

#[test]
fn old_speakers_are_told_of_large_numbers_on_the_side() {
    let old = SessionParams { four_octet_as: false, ibgp: false, ..SessionParams::default() };
    let attributes = PathAttributes {
        as_path: AsPath::sequence(&[64512, 4_200_000_000]),
        next_hop: Some(NextHop::V4(Ipv4Addr::new(10, 0, 0, 1))),
        aggregator: Some(Aggregator { asn: 4_200_000_000, identifier: Ipv4Addr::new(1, 1, 1, 1) }),
        ..PathAttributes::default()
    };
    let mut out = Vec::new();
    UpdateBuilder::new().announce(&attributes, &[prefix4("10.0.0.0/8")], &old, |m| out.push(m)).unwrap();
    let update = Update::decode(&out[0][19..], &old).unwrap();
    assert_eq!(update.attributes, attributes);
}

#[test]
fn full_messages_are_filled_and_none_is_too_long() {
    let params = SessionParams::default();
    let attributes = PathAttributes {
        next_hop: Some(NextHop::V4(Ipv4Addr::new(10, 0, 0, 1))),
        local_pref: Some(100),
        ..PathAttributes::default()
    };
    let routes: Vec<_> = (0..2000u32)
        .map(|n| PathPrefix { path_id: n, prefix: Prefix4::from_wire(26, &(n << 6).to_be_bytes()) })
        .collect();
    let with_ids = SessionParams { add_path_send: FamilySet::ALL, ..params };
    let extended = SessionParams { max_length: 65535, ..params };
    // 21 octets of attributes leave 4052: 810 prefixes of 5 octets, 450 of 9.
    for (params, first, messages) in [(params, 810, 3), (with_ids, 450, 5), (extended, 2000, 1)] {
        let mut out = Vec::new();
        UpdateBuilder::new().announce(&attributes, &routes, &params, |m| out.push(m)).unwrap();
        assert_eq!(out.len(), messages);
        assert!(out.iter().all(|message| message.len() <= params.max_length));
        let read = SessionParams { add_path_receive: params.add_path_send, ..params };
        assert_eq!(Update::decode(&out[0][19..], &read).unwrap().announced.count(), first);
    }
}

fn any_attributes() -> impl Strategy<Value = PathAttributes> {
    let path = proptest::collection::vec(any::<u32>(), 0..6);
    let communities = proptest::collection::vec(any::<u32>(), 0..4);
    let large = proptest::collection::vec(any::<[u32; 3]>(), 0..3);
    let extended = proptest::collection::vec(any::<[u8; 8]>(), 0..3);
    let clusters = proptest::collection::vec(any::<u32>(), 0..3);
    let options = (any::<Option<u32>>(), any::<Option<u32>>(), any::<Option<u32>>(), any::<bool>(), 0u8..3);
    (path, communities, large, extended, clusters, options, any::<u128>()).prop_map(
        |(path, communities, large, mut extended, clusters, (med, local_pref, otc, atomic, origin), hop)| {
            extended.sort_unstable();
            extended.dedup();
            let hop = Ipv6Addr::from(hop & !(0xff << 120) | (0xfd << 120));
            let mut attributes = PathAttributes {
                origin: [Origin::Igp, Origin::Egp, Origin::Incomplete][usize::from(origin)],
                as_path: AsPath::sequence(&path),
                next_hop: Some(NextHop::V6 { global: hop, link_local: None }),
                med,
                local_pref,
                otc,
                atomic_aggregate: atomic,
                extended_communities: extended,
                cluster_list: clusters.into_iter().collect(),
                ..PathAttributes::default()
            };
            communities.into_iter().for_each(|community| attributes.add_community(community));
            large.into_iter().for_each(|community| attributes.add_large_community(community));
            attributes
        },
    )
}

proptest! {
    /// What can be built can be read, and is the same.
    #[test]
    fn encoding_is_the_inverse_of_decoding(attributes in any_attributes(), count in 1usize..600, old: bool) {
        let params = SessionParams { four_octet_as: !old, ..SessionParams::default() };
        let routes: Vec<_> = (0..count)
            .map(|n| PathPrefix { path_id: 0, prefix: Prefix6::from_wire(64, &(n as u64).to_be_bytes()) })
            .collect();
        let mut messages = Vec::new();
        UpdateBuilder::new().announce(&attributes, &routes, &params, |m| messages.push(m)).unwrap();
        let mut back = Vec::new();
        for message in &messages {
            let update = Update::decode(&message[19..], &params).unwrap();
            prop_assert!(update.issues.is_empty(), "{:?}", update.issues);
            let MpNlri::Ipv6(list) = update.mp_announced else { panic!() };
            back.extend(list);
            let read = PathAttributes { next_hop: update.mp_next_hop, ..update.attributes };
            prop_assert_eq!(&read, &attributes);
        }
        prop_assert_eq!(back, routes);
    }

    /// No body makes the decoder panic, and what it lets pass can be written again.
    #[test]
    fn any_body_is_survived(body in proptest::collection::vec(any::<u8>(), 0..128), as4: bool, ibgp: bool) {
        let params = SessionParams { four_octet_as: as4, ibgp, ..SessionParams::default() };
        if let Ok(update) = Update::decode(&body, &params) {
            let mut out = Vec::new();
            update.attributes.encode(None, &params, &mut out);
            prop_assert!(update.withdrawn.count() + update.announced.count() <= body.len());
        }
    }
}
