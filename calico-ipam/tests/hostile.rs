//! Pools that nobody validated, names at their limits, and a clock that runs backwards.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use calico_ipam::memory::{MemoryStore, run};
use calico_ipam::{
    AutoAssign, AutoAssignArgs, Config, IpamError, Key, Owner, Pool, ReleaseByHandle, ReleaseIps,
    ReleaseOptions, Stored,
};
use ipnet::IpNet;

const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 1_700_000_000 * SECOND;

fn pool(name: &str, cidr: &str, block_size: u8) -> Pool {
    Pool { block_size, ..Pool::new(name, cidr.parse().unwrap()) }
}

fn store(pools: Vec<Pool>) -> MemoryStore {
    let mut store = MemoryStore::default();
    pools.into_iter().for_each(|pool| store.add_pool(pool));
    for node in ["node1", "node2"] {
        store.add_node(node, &[]);
    }
    store
}

fn assign(store: &mut MemoryStore, host: &str, handle: &str, count: u32, now: u64) -> Vec<IpAddr> {
    let done = run(store, AutoAssign::new(AutoAssignArgs::workload(host, handle, count, 0), now)).unwrap();
    done.addresses().map(|assignment| assignment.address).collect()
}

fn blocks(store: &MemoryStore) -> Vec<IpNet> {
    store.iter().filter_map(|(key, _)| if let Key::Block(cidr) = key { Some(*cidr) } else { None }).collect()
}

#[test]
fn overlapping_pools_never_give_an_address_twice() {
    // Two allocators, two block sizes, one network: what validation refuses may be in the store all the same.
    let mut store =
        store(vec![pool("a", "10.0.0.0/24", 26), pool("b", "10.0.0.0/25", 28), pool("c", "10.0.0.0/24", 27)]);
    let mut seen = BTreeSet::new();
    for at in 0..256 {
        for address in assign(&mut store, ["node1", "node2"][at % 2], &format!("h{at}"), 1, NOW) {
            assert!(seen.insert(address), "{address} twice");
        }
    }
    assert_eq!(seen.len(), 256, "and none is lost to the overlap");
    let blocks = blocks(&store);
    for (at, block) in blocks.iter().enumerate() {
        for other in &blocks[..at] {
            assert!(!block.contains(other) && !other.contains(block), "{block} and {other}");
        }
    }
}

#[test]
fn a_pool_too_small_for_one_block_gives_nothing_and_says_so() {
    let mut store = store(vec![pool("small", "10.0.0.0/28", 26)]);
    let operation = AutoAssign::new(AutoAssignArgs::workload("node1", "h", 1, 0), NOW);
    match run(&mut store, operation) {
        Ok(done) => {
            assert_eq!(done.addresses().count(), 0);
            let notes: Vec<String> = done.families[0].notes.iter().map(ToString::to_string).collect();
            assert!(notes.iter().any(|note| note.contains("10.0.0.0/28")), "{notes:?}");
        }
        Err(error) => assert!(matches!(error, IpamError::NoQualifiedPool { .. }), "{error}"),
    }
    assert!(blocks(&store).is_empty());
    // With another pool it is passed over.
    store.add_pool(pool("large", "10.1.0.0/24", 26));
    assert_eq!(assign(&mut store, "node1", "h", 1, NOW).len(), 1);
}

#[test]
fn editing_or_deleting_a_pool_keeps_its_addresses_until_they_are_released() {
    for replacement in [Some("10.9.0.0/24"), None] {
        let mut store = store(vec![pool("p", "10.0.0.0/24", 26)]);
        let held = assign(&mut store, "node1", "old", 2, NOW);
        match replacement {
            // A new pool under the same name: somebody edited the network past validation.
            Some(cidr) => store.add_pool(pool("p", cidr, 26)),
            None => store.remove(&Key::Pool("p".into())),
        }
        let later = run(&mut store, AutoAssign::new(AutoAssignArgs::workload("node1", "new", 1, 0), NOW));
        match replacement {
            Some(_) => {
                let address = later.unwrap().addresses().next().unwrap().address;
                assert!("10.9.0.0/24".parse::<IpNet>().unwrap().contains(&address), "{address}");
            }
            None => assert!(later.is_err(), "nothing is given out of a pool that is gone"),
        }
        // The old addresses are still somebody's, and are released as ever.
        let one = ReleaseOptions { handle: Some("old".into()), ..ReleaseOptions::new(held[0]) };
        let released = run(&mut store, ReleaseIps::new(vec![one], NOW)).unwrap();
        assert!(released.unallocated.is_empty(), "{replacement:?}");
        run(&mut store, ReleaseByHandle::new("old", NOW)).unwrap();
        let left: u32 = blocks(&store)
            .iter()
            .map(|cidr| match store.get(&Key::Block(*cidr)) {
                Some(Stored::Block(block)) => block.count_of("old"),
                _ => 0,
            })
            .sum();
        assert_eq!(left, 0);
        assert_eq!(store.get(&Key::Handle("old".into())), None);
    }
}

#[test]
fn names_of_nodes_may_be_long_and_have_capitals() {
    let long: String = "n".repeat(253);
    let mut store = store(vec![pool("p", "10.0.0.0/22", 26)]);
    let names = [long.as_str(), "Worker-0.Example.ORG", "worker-0.example.org"];
    for name in names {
        store.add_node(name, &[]);
        assert_eq!(assign(&mut store, name, &format!("h-{}", name.len()), 1, NOW).len(), 1);
    }
    let owners: BTreeSet<String> = store
        .iter()
        .filter_map(|(key, _)| match key {
            Key::Affinity(owner @ Owner::Host(_), _) => Some(owner.name().to_owned()),
            _ => None,
        })
        .collect();
    // Names are compared as they are: two that differ in case are two nodes.
    assert_eq!(owners.len(), 3);
    for (key, _) in store.iter() {
        for stored in key.to_model() {
            let again = calico_model::Key::parse(&stored.path()).unwrap();
            assert_eq!(again, stored, "every key survives being written and read");
        }
    }
}

#[test]
fn a_clock_that_runs_backwards_gives_no_address_twice_and_holds_none_forever() {
    const DAY: u64 = 86_400 * SECOND;
    let mut store = store(vec![pool("p", "10.0.0.0/28", 28)]);
    store.put(Key::Config, Stored::Config(Config { cooldown_seconds: 60, ..Config::default() }));
    let mut seen: BTreeSet<IpAddr> = assign(&mut store, "node1", "first", 15, NOW).into_iter().collect();
    run(&mut store, ReleaseByHandle::new("first", NOW)).unwrap();
    // The clock is set back by a day. What cools down since "tomorrow" is not free, but not lost either.
    let past = NOW - DAY;
    let rest = assign(&mut store, "node1", "second", 16, past);
    assert_eq!(rest.len(), 1, "only the address that was never used: {rest:?}");
    seen.extend(rest.iter().copied());
    assert_eq!(seen.len(), 16);
    // A minute on the new clock is enough.
    let again = assign(&mut store, "node1", "third", 15, past + 62 * SECOND);
    assert_eq!(again.len(), 15, "{again:?}");
    assert!(!again.contains(&rest[0]));
    // A release that names the sequence number of the first life of an address does not touch its second.
    let Some(Stored::Block(block)) = store.get(&Key::Block("10.0.0.0/28".parse().unwrap())) else { panic!() };
    let block = Arc::clone(block);
    let sequences: BTreeSet<u64> =
        again.iter().filter_map(|address| block.ordinal(*address)).map(|o| block.sequence_of(o)).collect();
    assert!(sequences.iter().all(|sequence| *sequence > NOW), "numbers only grow, whatever the clock says");
}
