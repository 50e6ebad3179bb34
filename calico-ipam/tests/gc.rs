//! Garbage collection: what is released, what is spared, and when.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use calico_ipam::memory::{MemoryStore, run};
use calico_ipam::{
    Affinity, Allocation, AutoAssign, AutoAssignArgs, Block, ClaimAffinity, Claims, Collector, Conditions,
    Family, GcConfig, GcPlan, GiveUp, Handle, HostReservation, Key, LONGEST_OPERATION_SECONDS, NodeState,
    Owner, Owners, Pool, Purpose, ReleaseIps, Repair, Scope, State, Stock, Stored, Task, Verdict,
};

const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 1_700_000_000 * SECOND;
const GRACE: u64 = 900 * SECOND;

#[derive(Default)]
struct Cluster {
    pods: BTreeSet<IpAddr>,
    vms: bool,
    dead_nodes: BTreeSet<String>,
    unsynced: bool,
}

impl Owners for Cluster {
    fn in_sync(&self) -> bool {
        !self.unsynced
    }

    fn judge(&self, allocation: &Allocation<'_>) -> Verdict {
        match self.pods.contains(&allocation.address) {
            true => Verdict::InUse,
            false if self.vms => Verdict::LeakedVm,
            false => Verdict::Leaked,
        }
    }

    fn node(&self, name: &str) -> NodeState {
        if self.dead_nodes.contains(name) { NodeState::Absent } else { NodeState::Present }
    }
}

fn store() -> MemoryStore {
    let mut store = MemoryStore::default();
    store.add_pool(Pool::new("v4", "10.0.0.0/16".parse().unwrap()));
    store.add_pool(Pool::new("v6", "fd00:10::/64".parse().unwrap()));
    for node in ["node1", "node2"] {
        store.add_node(node, &[]);
    }
    store
}

fn assign(
    store: &mut MemoryStore,
    node: &str,
    handle: &str,
    v4: u32,
    v6: u32,
    kind: Option<&str>,
) -> Vec<IpAddr> {
    let mut args = AutoAssignArgs::workload(node, handle, v4, v6);
    let pairs = match kind {
        Some(kind) => vec![("node", node), ("type", kind)],
        None => vec![("node", node), ("pod", handle), ("namespace", "default")],
    };
    args.attributes = pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    run(store, AutoAssign::new(args, NOW)).unwrap().addresses().map(|assignment| assignment.address).collect()
}

fn pass(collector: &mut Collector, store: &MemoryStore, cluster: &Cluster, now: u64) -> GcPlan {
    let mut blocks = store.list(&Scope::Blocks(Family::V4));
    blocks.extend(store.list(&Scope::Blocks(Family::V6)));
    let (affinities, handles) = (store.list(&Scope::Affinities), store.list(&Scope::Handles));
    let pools: Vec<Arc<Pool>> = store
        .list(&Scope::Pools)
        .into_iter()
        .map(|item| match item.value {
            Stored::Pool(pool) => pool,
            other => panic!("{other:?}"),
        })
        .collect();
    let stock = Stock {
        blocks: &blocks,
        affinities: &affinities,
        handles: &handles,
        pools: &pools,
        cooldown_seconds: 0,
    };
    collector.pass(&stock, cluster, now)
}

fn leaked(plan: &GcPlan) -> Vec<IpAddr> {
    plan.leaks.iter().map(|options| options.address).collect()
}

#[test]
fn a_leak_is_released_after_the_grace_period_and_not_before() {
    let (mut store, mut collector) = (store(), Collector::new(GcConfig::default()));
    let pod = assign(&mut store, "node1", "gone", 1, 0, None);
    let mut cluster = Cluster::default();
    assert_eq!(pass(&mut collector, &store, &cluster, NOW).candidates, 1);
    assert!(leaked(&pass(&mut collector, &store, &cluster, NOW + GRACE - 1)).is_empty());
    let plan = pass(&mut collector, &store, &cluster, NOW + GRACE);
    assert_eq!(leaked(&plan), pod);
    assert!(plan.leaks[0].handle.is_some() && plan.leaks[0].sequence.is_some());
    run(&mut store, ReleaseIps::new(plan.leaks, NOW + GRACE)).unwrap();
    assert_eq!(store.list(&Scope::Handles), []);
    // Looking alive once starts the period anew.
    let pod = assign(&mut store, "node1", "back", 1, 0, None);
    pass(&mut collector, &store, &cluster, NOW + GRACE);
    cluster.pods = pod.iter().copied().collect();
    pass(&mut collector, &store, &cluster, NOW + GRACE + SECOND);
    cluster.pods.clear();
    assert!(leaked(&pass(&mut collector, &store, &cluster, NOW + 2 * GRACE)).is_empty());
}

#[test]
fn nothing_is_collected_while_the_view_is_incomplete() {
    let (mut store, mut collector) = (store(), Collector::new(GcConfig::default()));
    assign(&mut store, "node1", "gone", 1, 0, None);
    let cluster = Cluster { unsynced: true, ..Cluster::default() };
    pass(&mut collector, &store, &cluster, NOW);
    assert_eq!(pass(&mut collector, &store, &cluster, NOW + 2 * GRACE), GcPlan::default());
}

#[test]
fn a_handle_goes_as_a_whole_or_not_at_all() {
    let (mut store, mut collector) = (store(), Collector::new(GcConfig::default()));
    let pod = assign(&mut store, "node1", "dual", 1, 1, None);
    let cluster = Cluster { pods: [pod[0]].into(), ..Cluster::default() };
    pass(&mut collector, &store, &cluster, NOW);
    assert!(leaked(&pass(&mut collector, &store, &cluster, NOW + 2 * GRACE)).is_empty());
    let plan = pass(&mut collector, &store, &Cluster::default(), NOW + 4 * GRACE);
    assert!(leaked(&plan).is_empty(), "the first address has only now begun to look leaked");
    assert_eq!(leaked(&pass(&mut collector, &store, &Cluster::default(), NOW + 5 * GRACE)).len(), 2);
}

#[test]
fn a_bounded_pass_cuts_between_handles_and_not_within_one() {
    for (limit, expected) in [(1, 3), (2, 3), (3, 3), (4, 3), (5, 5), (100, 5)] {
        let config = GcConfig { max_releases: limit, ..GcConfig::default() };
        let (mut store, mut collector) = (store(), Collector::new(config));
        assign(&mut store, "node1", "a", 2, 1, None);
        assign(&mut store, "node1", "b", 1, 1, None);
        let cluster = Cluster::default();
        pass(&mut collector, &store, &cluster, NOW);
        let plan = pass(&mut collector, &store, &cluster, NOW + GRACE);
        assert_eq!(plan.leaks.len(), expected, "at most {limit}");
    }
}

#[test]
fn a_view_that_calls_most_addresses_leaked_is_not_believed() {
    let (mut store, mut collector) = (store(), Collector::new(GcConfig::default()));
    for at in 0..120 {
        assign(&mut store, "node1", &format!("p{at}"), 1, 0, None);
    }
    pass(&mut collector, &store, &Cluster::default(), NOW);
    let plan = pass(&mut collector, &store, &Cluster::default(), NOW + GRACE);
    assert_eq!((plan.suspended, plan.leaks.len()), (Some((120, 120)), 0));
}

#[test]
fn virtual_machines_wait_at_least_five_minutes_and_zero_grace_turns_collection_off() {
    for (grace_seconds, after, expected) in [(60, 299, 0), (60, 300, 1), (0, 100_000, 0)] {
        let (mut store, mut collector) =
            (store(), Collector::new(GcConfig { grace_seconds, ..GcConfig::default() }));
        assign(&mut store, "node1", "vm", 1, 0, None);
        let cluster = Cluster { vms: true, ..Cluster::default() };
        pass(&mut collector, &store, &cluster, NOW);
        assert_eq!(leaked(&pass(&mut collector, &store, &cluster, NOW + after * SECOND)).len(), expected);
    }
}

#[test]
fn a_dead_node_loses_pods_at_once_then_tunnels_then_blocks() {
    let (mut store, mut collector) = (store(), Collector::new(GcConfig::default()));
    let pod = assign(&mut store, "node1", "pod", 1, 0, None);
    assign(&mut store, "node1", "vxlan-tunnel-addr-node1", 1, 0, Some("vxlanTunnelAddress"));
    let mut cluster = Cluster { pods: pod.iter().copied().collect(), ..Cluster::default() };
    assert_eq!(pass(&mut collector, &store, &cluster, NOW), GcPlan::default());
    cluster.dead_nodes = ["node1".to_owned()].into();
    let plan = pass(&mut collector, &store, &cluster, NOW);
    assert!(plan.leaks.is_empty() && plan.dead_hosts.is_empty(), "a pod that is in use keeps its node");
    cluster.pods.clear();
    let plan = pass(&mut collector, &store, &cluster, NOW);
    assert_eq!(plan.leaks.len(), 2, "no grace period when the node is gone");
    assert_eq!(plan.dead_hosts, [Arc::from("node1")]);
    run(&mut store, ReleaseIps::new(plan.leaks, NOW)).unwrap();
    for host in plan.dead_hosts {
        let conditions = Conditions { must_be_empty: true, sequence: None };
        run(&mut store, GiveUp::new(Claims::Host(host), conditions)).unwrap();
    }
    assert!(store.list(&Scope::Blocks(Family::V4)).is_empty() && store.list(&Scope::Affinities).is_empty());
}

#[test]
fn addresses_of_unknown_purpose_are_never_touched() {
    let (mut store, mut collector) = (store(), Collector::new(GcConfig::default()));
    assign(&mut store, "node1", "mine", 1, 0, Some("SomethingElse"));
    let cluster = Cluster { dead_nodes: ["node1".to_owned()].into(), ..Cluster::default() };
    pass(&mut collector, &store, &cluster, NOW);
    assert_eq!(pass(&mut collector, &store, &cluster, NOW + 9 * GRACE), GcPlan::default());
}

/// Defect 7: a host keeps one empty block per family and pool, not one in all.
#[test]
fn defect_7_one_empty_block_is_kept_per_family_and_pool() {
    let (mut store, mut collector) = (store(), Collector::new(GcConfig::default()));
    for cidr in ["10.0.0.0/26", "10.0.0.64/26", "fd00:10::/122"] {
        run(&mut store, ClaimAffinity::new(cidr.parse().unwrap(), Owner::host("node1"), NOW)).unwrap();
    }
    let cluster = Cluster::default();
    assert!(pass(&mut collector, &store, &cluster, NOW).empty_blocks.is_empty());
    let plan = pass(&mut collector, &store, &cluster, NOW + GRACE);
    assert_eq!(plan.empty_blocks.len(), 1);
    assert!(plan.empty_blocks[0].0.addr().is_ipv4());
    let (block, sequence) = plan.empty_blocks[0];
    let conditions = Conditions { must_be_empty: true, sequence: Some(sequence) };
    assert_eq!(run(&mut store, GiveUp::new(Claims::Block(block), conditions)).unwrap().released.len(), 1);
    // Use resets the timer: the other block was written meanwhile.
    assert!(pass(&mut collector, &store, &cluster, NOW + 3 * GRACE).empty_blocks.is_empty());
}

/// Defect 1, the other half: handles and claims that crashed operations left behind are put
/// right, but only when nobody can be at work on them any more.
#[test]
fn half_done_work_is_repaired_once_nobody_can_be_at_it() {
    let (mut store, mut collector) = (store(), Collector::new(GcConfig::default()));
    let cidr = "10.0.0.0/26".parse().unwrap();
    let pending = Key::Affinity(Owner::host("node2"), cidr);
    store.put(pending.clone(), Stored::Affinity(Affinity::new(State::Pending)));
    store.put(Key::Handle("ghost".into()), Stored::Handle(Handle::of(cidr, 3)));
    let cluster = Cluster::default();
    let wait = LONGEST_OPERATION_SECONDS * SECOND;
    assert!(pass(&mut collector, &store, &cluster, NOW).repairs.is_empty());
    assert!(pass(&mut collector, &store, &cluster, NOW + wait - SECOND).repairs.is_empty());
    // Somebody touches the handle: it is being worked on.
    store.put(Key::Handle("ghost".into()), Stored::Handle(Handle::of(cidr, 4)));
    let plan = pass(&mut collector, &store, &cluster, NOW + wait);
    assert_eq!(plan.repairs, [Task::Claim(Owner::host("node2"), cidr)]);
    let plan = pass(&mut collector, &store, &cluster, NOW + 3 * wait);
    assert_eq!(plan.repairs.len(), 2);
    for task in plan.repairs {
        assert!(run(&mut store, Repair::new(task, NOW)).unwrap());
    }
    assert!(store.list(&Scope::Affinities).is_empty() && store.list(&Scope::Handles).is_empty());
}

#[test]
fn an_empty_block_without_owner_is_deleted_and_a_used_one_stays() {
    let (mut store, mut collector) = (store(), Collector::new(GcConfig::default()));
    assign(&mut store, "node1", "pod", 1, 0, None);
    run(&mut store, GiveUp::new(Claims::Host("node1".into()), Conditions::default())).unwrap();
    let cidr = "10.0.250.0/26".parse().unwrap();
    let mut empty = Block::new(cidr, Owner::host("x"), NOW, HostReservation::default()).unwrap();
    empty.disown();
    store.put(Key::Block(cidr), Stored::Block(Arc::new(empty)));
    let plan = pass(&mut collector, &store, &Cluster::default(), NOW);
    assert_eq!(plan.repairs, [Task::Block(cidr)]);
    run(&mut store, Repair::new(plan.repairs[0].clone(), NOW)).unwrap();
    assert_eq!(store.list(&Scope::Blocks(Family::V4)).len(), 1);
}

/// Defect 15: a block that moves from one host to another in one update leaves nothing of the
/// old host behind, as nothing is remembered about hosts.
#[test]
fn defect_15_a_block_that_changes_hands_counts_for_its_new_owner_only() {
    let (mut store, mut collector) = (store(), Collector::new(GcConfig::default()));
    for (cidr, host) in [("10.0.0.0/26", "node1"), ("10.0.0.64/26", "node1")] {
        run(&mut store, ClaimAffinity::new(cidr.parse().unwrap(), Owner::host(host), NOW)).unwrap();
    }
    pass(&mut collector, &store, &Cluster::default(), NOW);
    let cidr = "10.0.0.64/26".parse().unwrap();
    let moved = Block::new(cidr, Owner::host("node2"), NOW, HostReservation::default()).unwrap();
    store.put(Key::Block(cidr), Stored::Block(Arc::new(moved)));
    store.remove(&Key::Affinity(Owner::host("node1"), cidr));
    store.put(Key::Affinity(Owner::host("node2"), cidr), Stored::Affinity(Affinity::new(State::Confirmed)));
    let plan = pass(&mut collector, &store, &Cluster::default(), NOW + 2 * GRACE);
    assert!(plan.empty_blocks.is_empty(), "each host has one block now");
}

#[test]
fn purposes_follow_the_attributes() {
    let of = |pairs: &[(&str, &str)]| {
        let active: BTreeMap<String, String> =
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let attribute = calico_ipam::Attribute::new(Some("h"), active);
        let allocation = Allocation {
            address: "10.0.0.1".parse().unwrap(),
            block: "10.0.0.0/26".parse().unwrap(),
            sequence: 1,
            attribute: &attribute,
        };
        format!("{:?}", allocation.purpose())
    };
    assert_eq!(
        of(&[("pod", "p"), ("namespace", "n"), ("node", "a")]),
        r#"Pod { node: Some("a"), vm: false }"#
    );
    assert_eq!(of(&[("pod", "p"), ("namespace", "n"), ("vmi-name", "v")]), "Pod { node: None, vm: true }");
    assert_eq!(of(&[("type", "wireguardV6TunnelAddress"), ("node", "a")]), r#"Tunnel { node: "a" }"#);
    assert_eq!(of(&[("pod", "p")]), "Unknown");
    let reserved = calico_ipam::Attribute::reserved();
    let item = Allocation {
        address: "10.0.0.1".parse().unwrap(),
        block: "10.0.0.0/26".parse().unwrap(),
        sequence: 1,
        attribute: &reserved,
    };
    assert_eq!(item.purpose(), Purpose::Reserved);
}
