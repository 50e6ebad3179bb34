//! Laws and worked examples of one block.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use calico_ipam::{
    Attribute, Bitmap, Block, BlockError, BlockParts, HostReservation, Owner, ReleaseOptions, StoredError,
};
use ipnet::IpNet;
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;

fn owner() -> Owner {
    Owner::host("node1")
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn held_by(handle: &str) -> Arc<Attribute> {
    Arc::new(Attribute::new(Some(handle), BTreeMap::new()))
}

fn block(cidr: &str, now: u64) -> Block {
    Block::new(net(cidr), owner(), now, HostReservation::default()).unwrap()
}

fn handles(block: &Block) -> Vec<Option<String>> {
    block.attributes().iter().map(|attribute| attribute.handle.as_deref().map(str::to_owned)).collect()
}

/// The example of the fact sheet, line by line.
#[test]
fn the_worked_example_holds_step_by_step() {
    let mut block = block("10.0.0.0/30", 1000);
    for handle in ["a", "b", "c"] {
        block.auto_assign(1, &held_by(handle), None, Some(&owner())).unwrap();
        block.advance();
    }
    let parts = block.parts();
    assert_eq!(parts.allocations, [Some(0), Some(1), Some(2), None]);
    assert_eq!((parts.unallocated, parts.sequence), (vec![3], 1003));
    assert_eq!(parts.sequences, BTreeMap::from([(0, 1000), (1, 1001), (2, 1002)]));

    block.release(&[ReleaseOptions::new(ip("10.0.0.0"))], 2000, 0).unwrap();
    block.advance();
    let parts = block.parts();
    assert_eq!(parts.allocations, [None, Some(0), Some(1), None]);
    assert_eq!((parts.unallocated, parts.sequence), (vec![3, 0], 1004));
    assert_eq!(parts.sequences, BTreeMap::from([(1, 1001), (2, 1002)]));
    assert_eq!(handles(&block), [Some("b".into()), Some("c".into())]);

    assert_eq!(block.auto_assign(1, &held_by("d"), None, None).unwrap()[..], [3]);
    block.advance();
    assert_eq!(block.auto_assign(1, &held_by("e"), None, None).unwrap()[..], [0]);
    block.advance();
    let parts = block.parts();
    assert_eq!(parts.allocations, [Some(3), Some(0), Some(1), Some(2)]);
    assert_eq!((parts.unallocated, parts.sequence), (vec![], 1006));
    assert_eq!(parts.sequences, BTreeMap::from([(0, 1005), (1, 1001), (2, 1002), (3, 1004)]));

    let stale = ReleaseOptions { address: ip("10.0.0.0"), handle: None, sequence: Some(1000) };
    let before = block.clone();
    assert_eq!(
        block.release(&[ReleaseOptions::new(ip("10.0.0.1")), stale], 3000, 0),
        Err(BlockError::SequenceMismatch { address: ip("10.0.0.0"), expected: 1000, found: 1005 })
    );
    assert_eq!(block, before, "a refused release changes nothing");
}

#[test]
fn reserved_ordinals_keep_their_place_in_the_queue() {
    let mut block = block("10.0.0.0/29", 1);
    let mut reserved = Bitmap::empty(8);
    reserved.insert_range(0, 2);
    reserved.insert(3);
    let taken = block.auto_assign(2, &held_by("h"), Some(&reserved), None).unwrap();
    assert_eq!(taken[..], [2, 4]);
    assert_eq!(block.parts().unallocated, [0, 1, 3, 5, 6, 7]);
    assert_eq!(block.available(Some(&reserved)), 3);
    assert_eq!(block.auto_assign(9, &held_by("h"), Some(&reserved), None).unwrap()[..], [5, 6, 7]);
    assert!(block.auto_assign(1, &held_by("h"), Some(&reserved), None).unwrap().is_empty());
    assert_eq!(block.auto_assign(1, &held_by("h"), None, None).unwrap()[..], [0]);
}

#[test]
fn one_attribute_entry_serves_equal_owners() {
    let mut block = block("10.0.0.0/28", 1);
    block.auto_assign(3, &held_by("h"), None, None).unwrap();
    block.auto_assign(1, &held_by("h"), None, None).unwrap();
    assert_eq!(block.attributes().len(), 1);
    let stamped = BTreeMap::from([("timestamp".to_owned(), "now".to_owned())]);
    block.auto_assign(1, &Arc::new(Attribute::new(Some("h"), stamped)), None, None).unwrap();
    assert_eq!(block.attributes().len(), 2);
    assert_eq!(block.count_of("h"), 5);
}

#[test]
fn birth_reservations_hold_no_sequence_and_do_not_count_as_use() {
    let reservation = HostReservation { start: 3, end: 1 };
    let block = Block::new(net("10.0.0.0/29"), owner(), 7, reservation).unwrap();
    assert!(block.is_empty());
    assert_eq!(block.parts().unallocated, [3, 4, 5, 6]);
    assert!(block.parts().sequences.is_empty());
    assert_eq!(reservation.max_prefix(calico_ipam::Family::V4), 29);
    assert!(Block::restore(net("10.0.0.0/29"), block.parts()).is_ok());
}

#[test]
fn a_released_address_cools_down_and_keeps_the_block_in_use() {
    let mut block = block("10.0.0.0/30", 100 * SECOND);
    block.auto_assign(2, &held_by("h"), None, None).unwrap();
    block.release(&[ReleaseOptions::new(ip("10.0.0.0"))], 100 * SECOND, 30).unwrap();
    block.release_by_handle("h", 101 * SECOND, 30);
    assert!(!block.is_empty());
    assert_eq!(block.free_count(), 2);
    assert!(matches!(
        block.assign(ip("10.0.0.0"), &held_by("x"), None),
        Err(BlockError::AlreadyAssigned { cooling: true, .. })
    ));
    let again = block.release(&[ReleaseOptions::new(ip("10.0.0.0"))], 102 * SECOND, 30).unwrap();
    assert_eq!((again.unallocated, again.released), (vec![ip("10.0.0.0")], vec![]));
    assert_eq!(block.collect(130 * SECOND, 30), 0, "the comparison is strict");
    assert_eq!(block.collect(130 * SECOND + 1, 30), 1);
    assert_eq!(block.next_collection(30), Some(131 * SECOND));
    assert_eq!(block.collect(130 * SECOND + 1, -1), 1, "a negative cooldown collects at once");
    assert!(block.is_empty());
    assert_eq!(block.parts().unallocated, [2, 3, 0, 1]);
}

/// Defect 16: a release time in the future is clamped, not held for ever.
#[test]
fn defect_16_a_release_time_in_the_future_is_pulled_back_to_now() {
    let mut block = block("10.0.0.0/30", SECOND);
    block.auto_assign(1, &held_by("h"), None, None).unwrap();
    block.release_by_handle("h", 1_000_000 * SECOND, 60);
    assert_eq!(block.collect(10 * SECOND, 60), 0);
    assert_eq!(block.collect(70 * SECOND + 1, 60), 1, "60 s after it was seen, not 11 days later");
}

#[test]
fn the_queue_is_first_in_first_out() {
    let mut block = block("10.0.0.0/30", 1);
    for handle in ["a", "b", "c", "d"] {
        block.auto_assign(1, &held_by(handle), None, None).unwrap();
    }
    for handle in ["c", "a", "d"] {
        block.release_by_handle(handle, 2, 0);
    }
    let next: Vec<u16> = (0..3)
        .flat_map(|at| block.auto_assign(1, &held_by(&format!("n{at}")), None, None).unwrap())
        .collect();
    assert_eq!(next, [2, 0, 3]);
}

#[test]
fn damaged_blocks_are_refused_with_the_place_and_reason() {
    let cidr = net("10.0.0.0/30");
    let good = BlockParts {
        owner: Some(owner()),
        allocations: vec![Some(0), None, None, None],
        unallocated: vec![1, 2, 3],
        attributes: vec![held_by("h")],
        ..BlockParts::default()
    };
    assert!(Block::restore(cidr, good.clone()).is_ok());
    let damage = |change: fn(&mut BlockParts)| {
        let mut parts = good.clone();
        change(&mut parts);
        Block::restore(cidr, parts).unwrap_err()
    };
    assert_eq!(
        damage(|parts| {
            parts.allocations.pop();
        }),
        StoredError::AllocationCount { cidr, expected: 4, found: 3 }
    );
    assert_eq!(damage(|parts| parts.unallocated.push(3)), StoredError::OrdinalTwice { cidr, ordinal: 3 });
    assert_eq!(damage(|parts| parts.unallocated.push(0)), StoredError::OrdinalNotFree { cidr, ordinal: 0 });
    assert_eq!(
        damage(|parts| parts.unallocated.push(4)),
        StoredError::OrdinalRange { cidr, ordinal: 4, size: 4 }
    );
    assert_eq!(
        damage(|parts| {
            parts.unallocated.pop();
        }),
        StoredError::OrdinalLost { cidr, ordinal: 3 }
    );
    assert_eq!(
        damage(|parts| parts.allocations[1] = Some(7)),
        StoredError::AttributeIndex { cidr, ordinal: 1, index: 7, attributes: 1 }
    );
    assert_eq!(
        damage(|parts| parts.attributes.push(held_by("x"))),
        StoredError::UnusedAttribute { cidr, index: 1 }
    );
    assert_eq!(
        damage(|parts| {
            parts.sequences.insert(9, 1);
        }),
        StoredError::OrdinalRange { cidr, ordinal: 9, size: 4 }
    );
    let large = Block::restore(net("10.0.0.0/8"), BlockParts::default());
    assert_eq!(large, Err(StoredError::BlockTooLarge { cidr: net("10.0.0.0/8") }));
}

#[derive(Debug, Clone)]
enum Act {
    Auto { count: usize, handle: u8 },
    Assign { ordinal: u16, handle: u8 },
    Release { ordinal: u16 },
    ByHandle { handle: u8 },
    Collect,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (0usize..5, 0u8..6).prop_map(|(count, handle)| Act::Auto { count, handle }),
        (0u16..70, 0u8..6).prop_map(|(ordinal, handle)| Act::Assign { ordinal, handle }),
        (0u16..64).prop_map(|ordinal| Act::Release { ordinal }),
        (0u8..6).prop_map(|handle| Act::ByHandle { handle }),
        Just(Act::Collect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// I4, I5 and I9 hold after any sequence of operations: every state restores, and the
    /// order of the free queue is that of a model.
    #[test]
    fn every_reachable_state_is_sound(acts in proptest::collection::vec(act(), 1..120), cooldown in 0i64..4) {
        let mut block = block("fd00::c0/122", 5 * SECOND);
        let mut queue: Vec<u16> = (0..64).collect();
        let mut now = 5 * SECOND;
        for act in acts {
            now += SECOND;
            match act {
                Act::Auto { count, handle } => {
                    let taken = block.auto_assign(count, &held_by(&handle.to_string()), None, None).unwrap();
                    let expected: Vec<u16> = queue.drain(..count.min(queue.len())).collect();
                    prop_assert_eq!(&taken[..], &expected[..]);
                }
                Act::Assign { ordinal, handle } => {
                    let address = block.address(ordinal);
                    let free = queue.contains(&ordinal);
                    let done = block.assign(address, &held_by(&handle.to_string()), None);
                    prop_assert_eq!(done.is_ok(), free);
                    queue.retain(|queued| *queued != ordinal);
                }
                Act::Release { ordinal } => {
                    let address = block.address(ordinal);
                    let done = block.release(&[ReleaseOptions::new(address)], now, cooldown).unwrap();
                    if cooldown == 0 {
                        queue.extend(done.released);
                    }
                }
                Act::ByHandle { handle } => {
                    let done = block.release_by_handle(&handle.to_string(), now, cooldown);
                    prop_assert_eq!(block.count_of(&handle.to_string()), 0);
                    if cooldown == 0 {
                        queue.extend(done.released);
                    }
                }
                Act::Collect => {
                    let cooling: Vec<u16> = block
                        .allocations()
                        .filter(|(_, attribute)| attribute.released_at.is_some_and(|at| (at as i64 + cooldown) * (SECOND as i64) < now as i64))
                        .map(|(ordinal, _)| ordinal)
                        .collect();
                    prop_assert_eq!(block.collect(now, cooldown), cooling.len());
                    queue.extend(cooling);
                }
            }
            block.advance();
            let restored = Block::restore(block.cidr(), block.parts());
            prop_assert_eq!(restored.as_ref(), Ok(&block));
            prop_assert_eq!(block.parts().unallocated.iter().map(|at| *at as u16).collect::<Vec<_>>(), queue.clone());
        }
    }
}
