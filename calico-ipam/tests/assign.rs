//! AutoAssign against a store in memory: which address comes from where, and what is written.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::sync::Arc;

use calico_ipam::memory::{MemoryStore, run};
use calico_ipam::{
    Affinity, AutoAssign, AutoAssignArgs, AutoAssigned, Block, Config, Family, Filter, Handle,
    HostReservation, IntendedUse, IpamError, Key, Note, Operation, Owner, Pool, Request, State, Step, Stored,
};
use ipnet::IpNet;

const NOW: u64 = 1_700_000_000_000_000_000;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn store(pools: &[&str]) -> MemoryStore {
    let mut store = MemoryStore::default();
    for (at, cidr) in pools.iter().enumerate() {
        store.add_pool(Pool::new(&format!("pool{at}"), net(cidr)));
    }
    for node in ["node1", "node2", "node3"] {
        store.add_node(node, &[("zone", node)]);
    }
    store
}

fn assign(store: &mut MemoryStore, host: &str, handle: &str, count: u32) -> Result<AutoAssigned, IpamError> {
    run(store, AutoAssign::new(AutoAssignArgs::workload(host, handle, count, 0), NOW))
}

fn block(store: &MemoryStore, cidr: IpNet) -> Arc<Block> {
    match store.get(&Key::Block(cidr)) {
        Some(Stored::Block(block)) => Arc::clone(block),
        other => panic!("{cidr}: {other:?}"),
    }
}

fn blocks(store: &MemoryStore) -> Vec<IpNet> {
    store.iter().filter_map(|(key, _)| if let Key::Block(cidr) = key { Some(*cidr) } else { None }).collect()
}

fn set_config(store: &mut MemoryStore, change: impl FnOnce(&mut Config)) {
    let mut config = Config::default();
    change(&mut config);
    store.put(Key::Config, Stored::Config(config));
}

#[test]
fn a_first_address_claims_a_block_and_counts_in_its_handle() {
    let mut store = store(&["10.0.0.0/16"]);
    let assigned = assign(&mut store, "node1", "h1", 1).unwrap();
    let first = assigned.addresses().next().unwrap().clone();
    let owner = Owner::host("node1");
    assert_eq!(
        store.get(&Key::Affinity(owner.clone(), first.block)),
        Some(&Stored::Affinity(Affinity::new(State::Confirmed)))
    );
    assert_eq!(store.get(&Key::Handle("h1".into())), Some(&Stored::Handle(Handle::of(first.block, 1))));
    let block = block(&store, first.block);
    assert!(block.is_owned_by(&owner));
    assert_eq!((block.count_of("h1"), block.sequence_of(0)), (1, first.sequence));
    assert_eq!(first.address, first.block.network());
}

#[test]
fn requests_per_assignment_are_bounded() {
    let mut store = store(&["10.0.0.0/16"]);
    assign(&mut store, "node1", "h1", 1).unwrap();
    assert_eq!(store.requests, 3, "environment, list of blocks, one batch");
    store.requests = 0;
    assign(&mut store, "node1", "h2", 1).unwrap();
    assert_eq!(store.requests, 3, "environment, block, one batch");
    // With the block in hand a single batch of two writes is all that is left.
    let owner = Owner::host("node1");
    let items: Vec<_> = store
        .iter()
        .filter(|(key, _)| {
            matches!(key, Key::Affinity(of, _) if *of == owner) || matches!(key, Key::Block(_))
        })
        .map(|(key, _)| store.item(key).unwrap())
        .collect();
    let environment = calico_ipam::Environment {
        pools: vec![Arc::new(Pool::new("pool0", net("10.0.0.0/16")))],
        ..calico_ipam::Environment::default()
    };
    let operation = AutoAssign::new(AutoAssignArgs::workload("node1", "h3", 1, 0), NOW)
        .with_environment(Arc::new(environment))
        .with_blocks(Family::V4, items);
    store.requests = 0;
    let assigned = run(&mut store, operation).unwrap();
    assert_eq!((assigned.addresses().count(), store.requests), (1, 1));
}

#[test]
fn a_host_stays_in_its_block_until_it_is_full() {
    let mut store = store(&["10.0.0.0/16"]);
    let mut seen = BTreeSet::new();
    for at in 0..64 {
        let assigned = assign(&mut store, "node1", &format!("h{at}"), 1).unwrap();
        seen.extend(assigned.addresses().map(|assignment| (assignment.block, assignment.address)));
    }
    assert_eq!(seen.len(), 64);
    assert_eq!(blocks(&store).len(), 1);
    assign(&mut store, "node1", "h64", 1).unwrap();
    assert_eq!(blocks(&store).len(), 2);
    assign(&mut store, "node2", "other", 1).unwrap();
    assert_eq!(blocks(&store).len(), 3);
}

#[test]
fn one_request_may_span_blocks_and_families() {
    let mut store = store(&["10.0.0.0/16", "fd00:10::/64"]);
    let args = AutoAssignArgs::workload("node1", "h", 100, 70);
    let assigned = run(&mut store, AutoAssign::new(args, NOW)).unwrap();
    let families: Vec<(Family, usize)> =
        assigned.families.iter().map(|family| (family.family, family.assigned.len())).collect();
    assert_eq!(families, [(Family::V4, 100), (Family::V6, 70)]);
    let Some(Stored::Handle(handle)) = store.get(&Key::Handle("h".into())) else { panic!("no handle") };
    assert_eq!((handle.total(Family::V4), handle.total(Family::V6)), (100, 70));
    assert_eq!(assigned.families.iter().filter_map(|family| family.shortfall()).count(), 0);
}

/// Defect 1: the handle counts what was obtained, not what was asked for.
#[test]
fn defect_1_a_handle_counts_exactly_what_was_obtained() {
    let mut store = store(&["10.0.0.0/26"]);
    let assigned = assign(&mut store, "node1", "big", 100).unwrap();
    assert_eq!(assigned.addresses().count(), 64);
    let Some(Stored::Handle(handle)) = store.get(&Key::Handle("big".into())) else { panic!("no handle") };
    assert_eq!(handle.total(Family::V4), 64);
    let text = assigned.families[0].shortfall().unwrap();
    assert!(text.starts_with("Assigned 64 out of 100 requested IPv4 addresses; "), "{text}");
    assert!(text.contains("No IPs available in pools: [10.0.0.0/26]"), "{text}");
}

/// Defect 2: at the block limit a host borrows before it fails, and the limit is named.
#[test]
fn defect_2_at_the_block_limit_a_host_borrows_first() {
    let mut store = store(&["10.0.0.0/16"]);
    set_config(&mut store, |config| config.max_blocks_per_host = 1);
    assign(&mut store, "node2", "seed", 1).unwrap();
    assign(&mut store, "node1", "fill", 64).unwrap();
    let assigned = assign(&mut store, "node1", "more", 1).unwrap();
    assert_eq!(assigned.addresses().count(), 1);
    assert!(matches!(assigned.families[0].notes[..], [Note::Borrowed { .. }]));
    let lender = block(&store, assigned.addresses().next().unwrap().block);
    assert!(lender.is_owned_by(&Owner::host("node2")));

    set_config(&mut store, |config| {
        config.max_blocks_per_host = 1;
        config.strict_affinity = true;
    });
    let refused = assign(&mut store, "node1", "strict", 1).unwrap();
    let text = refused.families[0].shortfall().unwrap();
    assert!(text.contains("per host block limit (1, maxBlocksPerHost of the IPAM configuration)"), "{text}");
    assert!(text.contains("No more free affine blocks and strict affinity enabled"), "{text}");
}

/// Defect 9: borrowing reads the list once and one block, however large the pool is.
#[test]
fn defect_9_borrowing_in_a_large_pool_takes_a_handful_of_requests() {
    let mut store = store(&["10.0.0.0/12"]);
    set_config(&mut store, |config| config.auto_allocate_blocks = false);
    let lender = net("10.1.2.64/26");
    let block = Block::new(lender, Owner::host("node2"), NOW, HostReservation::default()).unwrap();
    store.put(Key::Block(lender), Stored::Block(Arc::new(block)));
    let assigned = assign(&mut store, "node1", "h", 1).unwrap();
    assert_eq!(assigned.addresses().next().unwrap().block, lender);
    assert_eq!(store.requests, 4, "environment, list, block, batch");
}

#[test]
fn reservations_are_skipped_and_fully_reserved_blocks_are_not_claimed() {
    let mut store = store(&["10.0.0.0/25"]);
    let texts = vec!["10.0.0.0/26".to_owned(), "10.0.0.64/31".to_owned()];
    store.put(Key::Reservation("r".into()), Stored::Reservation(Arc::new(texts)));
    let assigned = assign(&mut store, "node1", "h", 63).unwrap();
    let addresses: Vec<String> =
        assigned.addresses().map(|assignment| assignment.address.to_string()).collect();
    assert_eq!((addresses.len(), addresses[0].as_str()), (62, "10.0.0.66"));
    assert_eq!(blocks(&store), [net("10.0.0.64/26")]);
}

#[test]
fn an_abandoned_block_is_reclaimed_from_its_owner() {
    let mut store = store(&["10.0.0.0/26"]);
    let cidr = net("10.0.0.0/26");
    let other = Owner::host("node2");
    let put = |store: &mut MemoryStore, claimed: u64| {
        let block = Block::new(cidr, other.clone(), claimed, HostReservation::default()).unwrap();
        store.put(Key::Block(cidr), Stored::Block(Arc::new(block)));
        store.put(Key::Affinity(other.clone(), cidr), Stored::Affinity(Affinity::new(State::Confirmed)));
    };
    set_config(&mut store, |config| config.strict_affinity = true);
    put(&mut store, NOW - 30_000_000_000);
    assert_eq!(assign(&mut store, "node1", "h", 1).unwrap().addresses().count(), 0, "claimed 30 s ago");
    put(&mut store, NOW - 61_000_000_000);
    assert_eq!(assign(&mut store, "node1", "h", 1).unwrap().addresses().count(), 1);
    assert!(block(&store, cidr).is_owned_by(&Owner::host("node1")));
    assert_eq!(store.get(&Key::Affinity(other, cidr)), None);
}

#[test]
fn crash_leftovers_of_a_claim_are_picked_up() {
    let owner = Owner::host("node1");
    let cidr = net("10.0.0.64/26");
    for state in [State::Pending, State::Confirmed, State::PendingDeletion] {
        for with_block in [false, true] {
            let mut store = store(&["10.0.0.0/24"]);
            store.put(Key::Affinity(owner.clone(), cidr), Stored::Affinity(Affinity::new(state)));
            if with_block {
                let block = Block::new(cidr, owner.clone(), NOW, HostReservation::default()).unwrap();
                store.put(Key::Block(cidr), Stored::Block(Arc::new(block)));
            }
            let assigned = assign(&mut store, "node1", "h", 1).unwrap();
            assert_eq!(assigned.addresses().next().unwrap().block, cidr, "{state:?} {with_block}");
            assert_eq!(
                store.get(&Key::Affinity(owner.clone(), cidr)),
                Some(&Stored::Affinity(Affinity::new(State::Confirmed)))
            );
            assert_eq!(blocks(&store), [cidr]);
        }
    }
}

#[test]
fn a_stale_claim_is_dropped_and_another_block_is_used() {
    let mut store = store(&["10.0.0.0/24"]);
    let cidr = net("10.0.0.64/26");
    let block = Block::new(cidr, Owner::host("node2"), NOW, HostReservation::default()).unwrap();
    store.put(Key::Block(cidr), Stored::Block(Arc::new(block)));
    store.put(Key::Affinity(Owner::host("node1"), cidr), Stored::Affinity(Affinity::new(State::Confirmed)));
    let assigned = assign(&mut store, "node1", "h", 1).unwrap();
    assert_ne!(assigned.addresses().next().unwrap().block, cidr);
    assert_eq!(store.get(&Key::Affinity(Owner::host("node1"), cidr)), None);
}

#[test]
fn an_orphan_of_our_own_without_a_claim_is_used_again() {
    let mut store = store(&["10.0.0.0/24"]);
    let cidr = net("10.0.0.192/26");
    let block = Block::new(cidr, Owner::host("node1"), NOW, HostReservation::default()).unwrap();
    store.put(Key::Block(cidr), Stored::Block(Arc::new(block)));
    let assigned = assign(&mut store, "node1", "h", 1).unwrap();
    assert_eq!(assigned.addresses().next().unwrap().block, cidr);
    assert_eq!(
        store.get(&Key::Affinity(Owner::host("node1"), cidr)),
        Some(&Stored::Affinity(Affinity::new(State::Confirmed)))
    );
}

#[test]
fn empty_blocks_of_pools_that_no_longer_select_the_node_are_given_up() {
    let mut store = store(&["10.0.0.0/24"]);
    let owner = Owner::host("node1");
    for (name, cidr, used) in [("gone", "10.9.0.0/26", false), ("kept", "10.9.0.64/26", true)] {
        let cidr = net(cidr);
        let mut block = Block::new(cidr, owner.clone(), NOW, HostReservation::default()).unwrap();
        if used {
            let attribute = Arc::new(calico_ipam::Attribute::new(Some(name), Default::default()));
            block.auto_assign(1, &attribute, None, None).unwrap();
        }
        store.put(Key::Block(cidr), Stored::Block(Arc::new(block)));
        store.put(Key::Affinity(owner.clone(), cidr), Stored::Affinity(Affinity::new(State::Confirmed)));
    }
    let mut pool = Pool::new("other", net("10.9.0.0/16"));
    pool.nodes = Filter::parse("zone == 'node2'");
    store.add_pool(pool);
    assign(&mut store, "node1", "h", 1).unwrap();
    assert_eq!(store.get(&Key::Block(net("10.9.0.0/26"))), None);
    assert_eq!(store.get(&Key::Affinity(owner.clone(), net("10.9.0.0/26"))), None);
    assert!(store.get(&Key::Block(net("10.9.0.64/26"))).is_some());
    assert!(store.get(&Key::Affinity(owner, net("10.9.0.64/26"))).is_some());
}

#[test]
fn blocks_of_another_size_are_never_overlapped() {
    let mut store = store(&["10.0.0.0/24"]);
    let wide = net("10.0.0.0/25");
    let block = Block::new(wide, Owner::host("node2"), NOW, HostReservation::default()).unwrap();
    store.put(Key::Block(wide), Stored::Block(Arc::new(block)));
    set_config(&mut store, |config| config.strict_affinity = true);
    assign(&mut store, "node1", "h", 300).unwrap();
    assert_eq!(blocks(&store), [wide, net("10.0.0.128/26"), net("10.0.0.192/26")]);
}

#[test]
fn a_damaged_block_is_left_alone_and_reported() {
    let mut store = store(&["10.0.0.0/25"]);
    let cidr = net("10.0.0.0/26");
    let error = calico_ipam::StoredError::OrdinalLost { cidr, ordinal: 3 };
    store.put(Key::Block(cidr), Stored::Damaged(Arc::new(error)));
    store.put(Key::Affinity(Owner::host("node1"), cidr), Stored::Affinity(Affinity::new(State::Confirmed)));
    let assigned = assign(&mut store, "node1", "h", 1).unwrap();
    assert_eq!(assigned.addresses().next().unwrap().block, net("10.0.0.64/26"));
    assert!(matches!(assigned.families[0].notes[..], [Note::DamagedBlock { .. }]));
}

#[test]
fn the_cap_of_a_handle_returns_what_it_already_has() {
    let mut store = store(&["10.0.0.0/24"]);
    let capped = || {
        let mut args = AutoAssignArgs::workload("node1", "vm", 1, 0);
        args.max_per_handle = Some(1);
        AutoAssign::new(args, NOW)
    };
    let first = run(&mut store, capped()).unwrap();
    let second = run(&mut store, capped()).unwrap();
    assert_eq!(first.families[0].assigned, second.families[0].assigned);
    // Another request has counted its address and not written it yet: wait for it.
    store.put(Key::Handle("vm2".into()), Stored::Handle(Handle::of(net("10.0.0.0/26"), 1)));
    let mut args = AutoAssignArgs::workload("node1", "vm2", 1, 0);
    args.max_per_handle = Some(1);
    assert!(matches!(run(&mut store, AutoAssign::new(args, NOW)), Err(IpamError::Contention { .. })));
}

#[test]
fn load_balancer_addresses_belong_to_a_virtual_owner() {
    let mut store = MemoryStore::default();
    let mut pool = Pool::new("lb", net("10.0.0.0/24"));
    pool.uses = vec![IntendedUse::LoadBalancer];
    store.add_pool(pool);
    let mut args = AutoAssignArgs::workload("load-balancer", "lb-x", 1, 0);
    args.intended_use = Some(IntendedUse::LoadBalancer);
    let assigned = run(&mut store, AutoAssign::new(args, NOW)).unwrap();
    let first = assigned.addresses().next().unwrap();
    assert!(block(&store, first.block).is_owned_by(&Owner::load_balancer()));
}

#[test]
fn arguments_and_missing_objects_are_named() {
    let mut store = store(&["10.0.0.0/24"]);
    let mut args = AutoAssignArgs::workload("node1", "h", 1, 0);
    args.intended_use = None;
    assert_eq!(run(&mut store, AutoAssign::new(args, NOW)), Err(IpamError::NoIntendedUse));
    assert_eq!(assign(&mut store, "nowhere", "h", 1), Err(IpamError::NodeMissing { host: "nowhere".into() }));
    let mut args = AutoAssignArgs::workload("node1", "h", 1, 0);
    args.v4.reservation = HostReservation { start: 3, end: 1 };
    assert_eq!(run(&mut store, AutoAssign::new(args, NOW)), Err(IpamError::WindowsNeedsStrictAffinity));
    let Err(IpamError::SecondFamily { assigned, cause }) =
        run(&mut store, AutoAssign::new(AutoAssignArgs::workload("node1", "h", 1, 1), NOW))
    else {
        panic!("there is no IPv6 pool")
    };
    assert_eq!(assigned.len(), 1);
    assert_eq!(*cause, IpamError::NoQualifiedPool { used: None, family: Family::V6 });
}

#[test]
fn a_lost_answer_is_recognised_by_what_was_written() {
    for lost_after in 0..=4 {
        let mut store = store(&["10.0.0.0/24"]);
        let mut operation = AutoAssign::new(AutoAssignArgs::workload("node1", "h", 1, 0), NOW);
        let mut answer = calico_ipam::Answer::Begin;
        let mut lost = false;
        let assigned = loop {
            match operation.step(answer).unwrap() {
                Step::Done(assigned) => break assigned,
                Step::Need(Request::Write(batch)) if !lost => {
                    lost = true;
                    store.write_some(&batch, lost_after);
                    answer = calico_ipam::Answer::Written(calico_ipam::Outcome {
                        applied: vec![],
                        failure: Some(calico_ipam::Failure::Unknown { index: 0 }),
                    });
                }
                Step::Need(request) => answer = store.answer(&request),
            }
        };
        let all: Vec<_> = assigned.addresses().cloned().collect();
        assert_eq!(all.len(), 1);
        let block = block(&store, all[0].block);
        assert_eq!(block.count_of("h"), 1, "after {lost_after} writes");
        let Some(Stored::Handle(handle)) = store.get(&Key::Handle("h".into())) else { panic!("no handle") };
        assert!(handle.count(&all[0].block) >= 1);
        assert_eq!(
            store.get(&Key::Affinity(Owner::host("node1"), all[0].block)),
            Some(&Stored::Affinity(Affinity::new(State::Confirmed)))
        );
    }
}

#[test]
fn a_transactional_store_takes_each_batch_at_once() {
    let mut store = store(&["10.0.0.0/24"]);
    store.transactions = true;
    for at in 0..70 {
        assert_eq!(assign(&mut store, "node1", &format!("h{at}"), 1).unwrap().addresses().count(), 1);
    }
    assert_eq!(blocks(&store).len(), 2);
    assert_eq!(
        store.get(&Key::Affinity(Owner::host("node1"), blocks(&store)[0])),
        Some(&Stored::Affinity(Affinity::new(State::Confirmed)))
    );
}
