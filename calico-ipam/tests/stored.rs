//! Stored JSON: what clusters hold is read, kept byte for byte where nothing changes, and
//! refused with a place and a reason where it is damaged.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;

use calico_ipam::{
    Affinity, Attribute, Block, Config, Family, Filter, Handle, HostReservation, IntendedUse, Item, Key,
    Owner, Revision, Scope, State, Stored, StoredError,
};
use calico_model::{Kind, Value};

const BLOCK: &str = r#"{"cidr":"10.0.0.0/30","affinity":"host:node1","affinity_claim_time":"2026-08-22T13:33:20Z","allocations":[null,0,1,null],"unallocated":[3,0],"attributes":[{"handle_id":"b","secondary":{"pod":"p","namespace":"n"}},{"releasedAt":"2026-08-22T13:33:21Z"}],"sequenceNumber":9223372036854775809,"sequenceNumberForAllocation":{"1":9223372036854775807},"deleted":false}"#;

fn read(path: &str, json: &str) -> Stored {
    let key = calico_model::Key::parse(path).unwrap();
    let value = Value::from_json(&key, json.as_bytes()).unwrap();
    Item::from_model(&key, &value, &calico_model::Revision::new("7")).unwrap().value
}

fn write(stored: &Stored) -> String {
    String::from_utf8(stored.to_model().unwrap().to_json()).unwrap()
}

const PATH: &str = "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-30";

#[test]
fn a_block_survives_reading_and_writing() {
    let stored = read(PATH, BLOCK);
    let Stored::Block(block) = &stored else { panic!("{stored:?}") };
    assert_eq!(block.sequence(), 9_223_372_036_854_775_809, "beyond 2^53 and i64");
    assert_eq!(block.sequence_of(1), 9_223_372_036_854_775_807);
    assert_eq!((block.free_count(), block.count_of("b")), (2, 1));
    let again: serde_json::Value = serde_json::from_str(&write(&stored)).unwrap();
    assert_eq!(again, serde_json::from_str::<serde_json::Value>(BLOCK).unwrap());
}

#[test]
fn a_fresh_block_of_the_reference_has_null_arrays() {
    let json = r#"{"cidr":"10.0.0.0/31","affinity":null,"allocations":[null,null],"unallocated":[0,1],"attributes":null,"sequenceNumber":5,"sequenceNumberForAllocation":null,"deleted":false}"#;
    let Stored::Block(block) = read("/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-31", json) else {
        panic!("not a block")
    };
    assert_eq!((block.owner(), block.is_empty()), (None, true));
}

#[test]
fn damage_is_named_and_not_repaired() {
    for (from, to, expected) in [
        ("[3,0]", "[3]", "neither allocated nor in unallocated"),
        ("[3,0]", "[3,3]", "names ordinal 3 twice"),
        ("[3,0]", "[3,1]", "both allocated and in unallocated"),
        ("[null,0,1,null]", "[null,0,1]", "3 entries"),
        ("[null,0,1,null]", "[null,0,9,null]", "points at attribute 9 of 2"),
        ("host:node1", "node1", "field affinity"),
        (r#""cidr":"10.0.0.0/30""#, r#""cidr":"10.0.0.4/30""#, "field cidr"),
        (r#"{"1":9223372036854775807}"#, r#"{"4":1}"#, "ordinal 4 is outside"),
    ] {
        let json = BLOCK.replace(from, to);
        assert_ne!(json, BLOCK);
        let Stored::Damaged(error) = read(PATH, &json) else { panic!("{to} was accepted") };
        assert!(error.to_string().contains(expected), "{to}: {error}");
    }
    let item = Item::unreadable(PATH, "expected value at line 1 column 1", &calico_model::Revision::new("3"))
        .unwrap();
    assert!(matches!(item.value, Stored::Damaged(error) if matches!(*error, StoredError::Unreadable { .. })));
}

#[test]
fn claims_handles_and_configuration_read_as_stored() {
    let claim = "/calico/ipam/v2/host/node1/ipv4/block/10.0.0.0-26";
    assert_eq!(read(claim, ""), Stored::Affinity(Affinity::new(State::Confirmed)));
    assert_eq!(
        read(claim, r#"{"state":"pendingDeletion"}"#),
        Stored::Affinity(Affinity::new(State::PendingDeletion))
    );
    assert!(matches!(read(claim, r#"{"state":"maybe"}"#), Stored::Damaged(_)));
    assert_eq!(
        write(&Stored::Affinity(Affinity::new(State::Pending))),
        r#"{"state":"pending","deleted":false}"#
    );

    let handle = "/calico/ipam/v2/handle/h";
    let stored =
        read(handle, r#"{"block":{"10.0.0.0/26":2,"fd00::/122":1,"10.0.0.64/26":0},"deleted":false}"#);
    let mut expected = Handle::of("10.0.0.0/26".parse().unwrap(), 2);
    expected.raise("fd00::/122".parse().unwrap(), 1);
    assert_eq!(stored, Stored::Handle(expected));
    assert_eq!(write(&stored), r#"{"block":{"10.0.0.0/26":2,"fd00::/122":1},"deleted":false}"#);
    assert!(matches!(read(handle, r#"{"block":{"ten":2}}"#), Stored::Damaged(_)));

    let config = "/calico/ipam/v2/config";
    let Stored::Config(read_back) = read(config, r#"{"strict_affinity":true}"#) else { panic!("no config") };
    assert!(read_back.strict_affinity && !read_back.auto_allocate_blocks && read_back.vm_address_persistence);
    let custom = Config { cooldown_seconds: 30, vm_address_persistence: false, ..Config::default() };
    assert_eq!(read(config, &write(&Stored::Config(custom))), Stored::Config(custom));
}

#[test]
fn a_handle_with_rubbish_behind_a_carriage_return_is_cut() {
    let json = BLOCK.replace(r#""handle_id":"b""#, r#""handle_id":"b\r\nx""#);
    let Stored::Block(block) = read(PATH, &json) else { panic!("not a block") };
    assert_eq!(block.count_of("b"), 1);
}

#[test]
fn pools_get_their_defaults_and_conditions() {
    let path = "/calico/resources/v3/projectcalico.org/ippools/p";
    let pool = |spec: &str, rest: &str| {
        let json = format!(
            r#"{{"apiVersion":"projectcalico.org/v3","kind":"IPPool","metadata":{{"name":"p"}},"spec":{spec}{rest}}}"#
        );
        read(path, &json)
    };
    let Stored::Pool(plain) = pool(r#"{"cidr":"10.1.2.3/16","vxlanMode":"CrossSubnet"}"#, "") else {
        panic!("no pool")
    };
    assert_eq!((plain.cidr.to_string().as_str(), plain.block_size, plain.enabled), ("10.1.0.0/16", 26, true));
    assert_eq!(plain.uses, [IntendedUse::Workload, IntendedUse::Tunnel]);
    assert!(plain.encapsulation.vxlan && !plain.encapsulation.ipip && plain.nodes == Filter::All);
    let refused =
        r#","status":{"conditions":[{"type":"Allocatable","status":"False","reason":"CIDROverlap"}]}"#;
    let Stored::Pool(refused) = pool(r#"{"cidr":"fd00::/64"}"#, refused) else { panic!("no pool") };
    assert_eq!((refused.block_size, refused.enabled), (122, false));
    assert!(matches!(pool(r#"{"cidr":"ten"}"#, ""), Stored::Damaged(_)));
    assert!(matches!(pool(r#"{"cidr":"10.0.0.0/8","blockSize":12}"#, ""), Stored::Damaged(_)));
}

#[test]
fn namespaces_come_from_kubernetes_or_from_their_profile() {
    let keys = Key::Namespace("shop".into()).to_model();
    assert_eq!(keys.len(), 2);
    for (key, json) in keys.iter().zip([
        r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop","labels":{"team":"x"}}}"#,
        r#"{"apiVersion":"projectcalico.org/v3","kind":"Profile","metadata":{"name":"kns.shop"},"spec":{"labelsToApply":{"pcns.team":"x","other":"y"}}}"#,
    ]) {
        assert_eq!(Key::from_model(key), Some(Key::Namespace("shop".into())));
        let Stored::Labels(labels) = read(&key.path(), json) else { panic!("no labels") };
        assert_eq!(labels.iter().collect::<Vec<_>>(), [(&"team".to_owned(), &"x".to_owned())]);
    }
    assert_eq!(Key::from_model(&calico_model::Key::resource(Kind::Profile, "", "ksa.a.b")), None);
}

#[test]
fn every_key_maps_to_a_path_in_its_scope_and_back() {
    let cidr = "fd00::40/122".parse().unwrap();
    for (key, scope) in [
        (Key::Pool("p".into()), Scope::Pools),
        (Key::Reservation("r".into()), Scope::Reservations),
        (Key::Node("n".into()), Scope::Nodes),
        (Key::Affinity(Owner::host("n"), cidr), Scope::OwnerAffinities(Owner::host("n"), Family::V6)),
        (Key::Affinity(Owner::load_balancer(), cidr), Scope::Affinities),
        (Key::Block(cidr), Scope::Blocks(Family::V6)),
        (Key::Handle("h.1".into()), Scope::Handles),
    ] {
        let model = key.to_model();
        assert_eq!(Key::from_model(&model[0]), Some(key.clone()));
        assert!(scope.contains(&key));
        let path = model[0].path();
        assert!(scope.path_prefixes().iter().any(|prefix| path.starts_with(prefix)), "{path} {scope:?}");
    }
    assert_eq!(Key::from_model(&Key::Host("n".into()).to_model()[0]), Some(Key::Host("n".into())));
    assert_eq!(Revision::from("12").to_model(), calico_model::Revision::new("12"));
}

#[test]
fn what_we_create_reads_back_equal() {
    let cidr = "10.0.0.0/26".parse().unwrap();
    let mut block =
        Block::new(cidr, Owner::host("n"), 1_700_000_000_123_456_789, HostReservation { start: 3, end: 1 })
            .unwrap();
    block.auto_assign(2, &Arc::new(Attribute::new(Some("h"), Default::default())), None, None).unwrap();
    block.advance();
    let stored = Stored::Block(Arc::new(block));
    assert_eq!(read("/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-26", &write(&stored)), stored);
}
