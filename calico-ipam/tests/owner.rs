//! Handing addresses over, and the figures about them.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use calico_ipam::memory::{MemoryStore, run};
use calico_ipam::{
    Attribute, AutoAssign, AutoAssignArgs, BlockError, IpamError, Key, LookupAddress, NO_AFFINITY, NO_POOL,
    OwnerCondition, OwnerSwap, Pool, ReleaseByHandle, Reservations, SetOwner, Stored, UNKNOWN_NODE, gauges,
};

const NOW: u64 = 1_700_000_000_000_000_000;

fn pod(node: &str, name: &str) -> BTreeMap<String, String> {
    [("namespace", "vms"), ("node", node), ("pod", name)].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

fn store() -> MemoryStore {
    let mut store = MemoryStore::default();
    store.add_pool(Pool::new("p", "10.0.0.0/25".parse().unwrap()));
    for node in ["node1", "node2"] {
        store.add_node(node, &[]);
    }
    store
}

fn assign(store: &mut MemoryStore, node: &str, handle: &str, count: u32) -> Vec<IpAddr> {
    let mut args = AutoAssignArgs::workload(node, handle, count, 0);
    args.attributes = pod(node, handle);
    run(store, AutoAssign::new(args, NOW)).unwrap().addresses().map(|a| a.address).collect()
}

fn is(name: &str) -> OwnerCondition {
    OwnerCondition::Pod { namespace: "vms".into(), name: name.into() }
}

fn look(store: &mut MemoryStore, address: IpAddr) -> Arc<Attribute> {
    run(store, LookupAddress::new(address)).unwrap()
}

#[test]
fn a_moving_machine_changes_its_owner_in_one_write() {
    let mut store = store();
    let address = assign(&mut store, "node1", "vm", 2)[0];
    let stays = assign(&mut store, "node1", "other", 1)[0];
    // The target announces itself, then takes over, the source becoming the alternate.
    let announce = OwnerSwap { expect: OwnerCondition::Nobody, becomes: Some(pod("node2", "target")) };
    let untouched = OwnerSwap { expect: is("vm"), becomes: None };
    assert!(
        run(&mut store, SetOwner::new(address, Some("vm"), untouched.clone(), announce.clone())).unwrap()
    );
    assert_eq!(look(&mut store, address).alternate["pod"], "target");
    let active = OwnerSwap { expect: is("vm"), becomes: Some(pod("node2", "target")) };
    let alternate = OwnerSwap { expect: is("target"), becomes: Some(BTreeMap::new()) };
    assert!(run(&mut store, SetOwner::new(address, None, active.clone(), alternate.clone())).unwrap());
    let owner = look(&mut store, address);
    assert_eq!((&owner.active, owner.alternate.len()), (&pod("node2", "target"), 0));
    assert_eq!(look(&mut store, stays).active, pod("node1", "other"), "neighbours keep theirs");
    // Done twice it is refused, for the source is no longer the owner; nothing to change is not written.
    let again = run(&mut store, SetOwner::new(address, None, active, alternate)).unwrap_err();
    assert!(matches!(again, IpamError::OwnerMismatch { which: "active", .. }), "{again}");
    let nothing = OwnerSwap::default();
    assert!(!run(&mut store, SetOwner::new(address, None, nothing.clone(), nothing.clone())).unwrap());
    let foreign =
        run(&mut store, SetOwner::new(address, Some("thief"), nothing.clone(), announce)).unwrap_err();
    assert!(matches!(foreign, IpamError::Block(BlockError::HandleMismatch { .. })), "{foreign}");
    // The handle still holds what it held, and the block is sound.
    run(&mut store, ReleaseByHandle::new("vm", NOW)).unwrap();
    let free = run(&mut store, SetOwner::new(address, None, nothing.clone(), nothing)).unwrap_err();
    assert!(matches!(free, IpamError::NotAssigned { .. }), "{free}");
    assert_eq!(store.get(&Key::Handle("vm".into())), None);
}

#[test]
fn figures_follow_nodes_pools_and_owners() {
    let mut store = store();
    let first = assign(&mut store, "node1", "a", 3)[0];
    // Both blocks of the pool are taken: the rest is borrowed.
    assign(&mut store, "node2", "b", 60);
    let borrowed = assign(&mut store, "node2", "c", 6);
    assert_eq!(borrowed.len(), 6);
    let mut blocks = Vec::new();
    for (_, stored) in store.iter() {
        if let Stored::Block(block) = stored {
            blocks.push(Arc::clone(block));
        }
    }
    let reservations = Reservations::parse(["10.0.0.0/30"]);
    let pools = [Arc::new(Pool::new("p", "10.0.0.0/25".parse().unwrap()))];
    let all = gauges(&pools, &blocks, &reservations, ["node1", "node2", "idle"], &[first]);
    let p = &all["p"];
    assert_eq!((p.size, p.reserved), (128, 4));
    assert_eq!((p.nodes["node1"].in_use, p.nodes["node1"].blocks, p.nodes["node1"].candidates), (3, 1, 1));
    assert_eq!((p.nodes["node2"].in_use, p.nodes["node2"].borrowed), (66, 2));
    assert_eq!(p.nodes["idle"], Default::default(), "a node without addresses is reported as such");
    // Without the pool the blocks are still counted.
    let orphans = gauges(&[], &blocks, &reservations, ["node1"], &[]);
    assert_eq!(orphans[NO_POOL].nodes["node1"].in_use, 3);
    let mut disowned = (*blocks[0]).clone();
    disowned.disown();
    let mut nameless = disowned.clone();
    nameless.auto_assign(1, &Arc::new(Attribute::new(Some("x"), BTreeMap::new())), None, None).unwrap();
    let odd = gauges(&[], &[Arc::new(nameless)], &reservations, [], &[]);
    assert_eq!(odd[NO_POOL].nodes[NO_AFFINITY].blocks, 1);
    assert_eq!(odd[NO_POOL].nodes[UNKNOWN_NODE].in_use, 1);
}
