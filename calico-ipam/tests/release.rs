//! Releasing, claiming and giving up, against a store in memory.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::IpAddr;
use std::sync::Arc;

use calico_ipam::memory::{MemoryStore, run};
use calico_ipam::{
    Affinity, AssignIp, AssignIpArgs, AutoAssign, AutoAssignArgs, Block, BlockError, ClaimAffinity, Claims,
    Conditions, Config, Exception, Filter, GiveUp, Handle, HostReservation, IntendedUse, IpamError,
    IpsByHandle, Key, Owner, Pool, ReleaseByHandle, ReleaseIps, ReleaseOptions, SetConfig, State, Stored,
};
use ipnet::IpNet;

const NOW: u64 = 1_700_000_000_000_000_000;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn store(pools: &[&str]) -> MemoryStore {
    let mut store = MemoryStore::default();
    for (at, cidr) in pools.iter().enumerate() {
        store.add_pool(Pool::new(&format!("pool{at}"), net(cidr)));
    }
    store.add_node("node1", &[("zone", "a")]);
    store.add_node("node2", &[]);
    store
}

fn assign(store: &mut MemoryStore, handle: &str, count: u32) -> Vec<IpAddr> {
    let operation = AutoAssign::new(AutoAssignArgs::workload("node1", handle, count, 0), NOW);
    run(store, operation).unwrap().addresses().map(|assignment| assignment.address).collect()
}

fn assign_ip(store: &mut MemoryStore, address: &str, handle: &str) -> Result<IpAddr, IpamError> {
    let operation = AssignIp::new(AssignIpArgs::new(ip(address), "node1", handle), NOW);
    run(store, operation).map(|done| done.assignment.address)
}

fn count_keys(store: &MemoryStore, wanted: fn(&Key) -> bool) -> usize {
    store.iter().filter(|(key, _)| wanted(key)).count()
}

fn handles(store: &MemoryStore) -> usize {
    count_keys(store, |key| matches!(key, Key::Handle(_)))
}

fn blocks(store: &MemoryStore) -> usize {
    count_keys(store, |key| matches!(key, Key::Block(_)))
}

#[test]
fn assign_and_release_by_handle_leave_nothing_but_the_block() {
    for transactions in [false, true] {
        let mut store = store(&["10.0.0.0/16"]);
        store.transactions = transactions;
        let taken = assign(&mut store, "h", 100);
        assert_eq!(run(&mut store, IpsByHandle::new("h")).unwrap().len(), 100);
        store.requests = 0;
        let released = run(&mut store, ReleaseByHandle::new("h", NOW)).unwrap();
        assert_eq!(released.released.len(), taken.len());
        assert_eq!(store.requests, 3, "handle, blocks, one batch");
        assert_eq!((handles(&store), blocks(&store)), (0, 2));
        assert_eq!(
            run(&mut store, ReleaseByHandle::new("h", NOW)),
            Err(IpamError::NotFound { key: Key::Handle("h".into()) })
        );
    }
}

#[test]
fn release_by_address_reports_what_was_not_assigned_and_lowers_handles() {
    let mut store = store(&["10.0.0.0/24"]);
    let taken = assign(&mut store, "h", 3);
    let mut wanted: Vec<ReleaseOptions> = taken.iter().take(2).copied().map(ReleaseOptions::new).collect();
    wanted.push(ReleaseOptions::new(taken[0]));
    wanted.push(ReleaseOptions::new(ip("192.0.2.1")));
    wanted.push(ReleaseOptions::new(ip("10.0.0.255")));
    let done = run(&mut store, ReleaseIps::new(wanted, NOW)).unwrap();
    assert_eq!(done.released, &taken[..2]);
    assert_eq!(done.unallocated, [ip("10.0.0.255"), ip("192.0.2.1")]);
    let Some(Stored::Handle(handle)) = store.get(&Key::Handle("h".into())) else { panic!("no handle") };
    assert_eq!(handle.total(calico_ipam::Family::V4), 1);
}

#[test]
fn one_refused_address_fails_only_its_own_block() {
    let mut store = store(&["10.0.0.0/16"]);
    let taken = assign(&mut store, "h", 70);
    let mut wrong = ReleaseOptions::new(taken[0]);
    wrong.sequence = Some(1);
    let wanted = vec![wrong, ReleaseOptions::new(taken[1]), ReleaseOptions::new(taken[69])];
    let done = run(&mut store, ReleaseIps::new(wanted, NOW)).unwrap();
    assert_eq!(done.released, [taken[69]]);
    assert!(matches!(done.errors[..], [(_, IpamError::Block(BlockError::SequenceMismatch { .. }))]));
}

#[test]
fn an_address_outside_all_pools_is_found_by_its_block() {
    let mut store = store(&["10.0.0.0/24"]);
    let taken = assign(&mut store, "h", 1);
    store.remove(&Key::Pool("pool0".into()));
    let done = run(&mut store, ReleaseIps::new(vec![ReleaseOptions::new(taken[0])], NOW)).unwrap();
    assert_eq!(done.released, taken);
    assert_eq!(
        (handles(&store), blocks(&store)),
        (0, 0),
        "the pool is gone, so the empty block goes as well"
    );
}

#[test]
fn a_block_goes_when_its_last_address_does_and_nobody_owns_it() {
    let mut store = store(&["10.0.0.0/24"]);
    assign(&mut store, "h", 1);
    let owner = Owner::host("node1");
    let given = run(&mut store, GiveUp::new(Claims::Owner(owner.clone()), Conditions::default())).unwrap();
    assert_eq!(given.released.len(), 1);
    assert_eq!(blocks(&store), 1);
    run(&mut store, ReleaseByHandle::new("h", NOW)).unwrap();
    assert_eq!((handles(&store), blocks(&store)), (0, 0));
}

/// Defect 4: an empty LoadBalancer block goes with its last address, in the same batch.
#[test]
fn defect_4_empty_load_balancer_blocks_do_not_linger() {
    for by_handle in [true, false] {
        let mut store = MemoryStore::default();
        let mut pool = Pool::new("lb", net("10.0.0.0/24"));
        pool.uses = vec![IntendedUse::LoadBalancer];
        store.add_pool(pool);
        let mut args = AutoAssignArgs::workload("load-balancer", "lb-x", 1, 0);
        args.intended_use = Some(IntendedUse::LoadBalancer);
        let assigned = run(&mut store, AutoAssign::new(args, NOW)).unwrap();
        let address = assigned.addresses().next().unwrap().address;
        if by_handle {
            run(&mut store, ReleaseByHandle::new("lb-x", NOW)).unwrap();
        } else {
            run(&mut store, ReleaseIps::new(vec![ReleaseOptions::new(address)], NOW)).unwrap();
        }
        assert_eq!(store.iter().filter(|(key, _)| !matches!(key, Key::Pool(_))).count(), 0);
    }
}

#[test]
fn a_release_gives_up_the_block_of_a_pool_that_no_longer_selects_the_node() {
    let mut store = store(&["10.0.0.0/24"]);
    let taken = assign(&mut store, "h", 1);
    let mut pool = Pool::new("pool0", net("10.0.0.0/24"));
    pool.nodes = Filter::parse("zone == 'b'");
    store.add_pool(pool);
    run(&mut store, ReleaseIps::new(vec![ReleaseOptions::new(taken[0])], NOW)).unwrap();
    assert_eq!((blocks(&store), count_keys(&store, |key| matches!(key, Key::Affinity(..)))), (0, 0));
}

#[test]
fn cooldown_keeps_a_released_address_from_being_assigned() {
    let mut store = store(&["10.0.0.0/26"]);
    store.put(Key::Config, Stored::Config(Config { cooldown_seconds: 60, ..Config::default() }));
    let taken = assign(&mut store, "h", 64);
    run(&mut store, ReleaseByHandle::new("h", NOW)).unwrap();
    assert_eq!(handles(&store), 0);
    assert!(assign(&mut store, "next", 1).is_empty());
    assert!(matches!(
        assign_ip(&mut store, &taken[0].to_string(), "next"),
        Err(IpamError::Block(BlockError::AlreadyAssigned { cooling: true, .. }))
    ));
    let later = NOW + 61_000_000_000;
    let operation = AutoAssign::new(AutoAssignArgs::workload("node1", "next", 1, 0), later);
    assert_eq!(run(&mut store, operation).unwrap().addresses().count(), 1);
}

#[test]
fn an_address_by_name_claims_its_block_and_ignores_reservations_with_a_remark() {
    let mut store = store(&["10.0.0.0/24"]);
    store.put(Key::Reservation("r".into()), Stored::Reservation(Arc::new(vec!["10.0.0.70".into()])));
    let args = AssignIpArgs::new(ip("10.0.0.70"), "node1", "h");
    let done = run(&mut store, AssignIp::new(args.clone(), NOW)).unwrap();
    assert_eq!(done.exceptions, [Exception::Reserved]);
    assert_eq!(
        store.get(&Key::Affinity(Owner::host("node1"), net("10.0.0.64/26"))),
        Some(&Stored::Affinity(Affinity::new(State::Confirmed)))
    );
    assert!(matches!(
        run(&mut store, AssignIp::new(args.clone(), NOW)),
        Err(IpamError::Block(BlockError::AlreadyAssigned { cooling: false, .. }))
    ));
    let Some(Stored::Handle(handle)) = store.get(&Key::Handle("h".into())) else { panic!("no handle") };
    assert_eq!(handle.total(calico_ipam::Family::V4), 1, "a refused attempt counts nothing");
    let again = AssignIpArgs { max_per_handle: Some(1), ..args.clone() };
    assert_eq!(run(&mut store, AssignIp::new(again, NOW)).unwrap().assignment, done.assignment);
    // Defect 11: who wants it can have the exception refused.
    let careful = AssignIpArgs { refuse_exceptions: true, ..args };
    assert!(matches!(run(&mut store, AssignIp::new(careful, NOW)), Err(IpamError::Refused { .. })));
}

#[test]
fn an_address_by_name_needs_an_enabled_pool_and_an_allowed_use() {
    let mut store = store(&["10.0.0.0/24"]);
    assert_eq!(
        assign_ip(&mut store, "192.0.2.1", "h"),
        Err(IpamError::NotInPool { address: ip("192.0.2.1") })
    );
    let mut args = AssignIpArgs::new(ip("10.0.0.1"), "load-balancer", "h");
    args.intended_use = Some(IntendedUse::LoadBalancer);
    assert!(matches!(run(&mut store, AssignIp::new(args, NOW)), Err(IpamError::UseNotAllowed { .. })));
}

/// Defect 3: losing the claim to another host is retried, not reported.
#[test]
fn defect_3_assign_ip_survives_losing_the_claim() {
    use calico_ipam::{Answer, Operation, Request, Step};
    let mut store = store(&["10.0.0.0/24"]);
    let mut operation = AssignIp::new(AssignIpArgs::new(ip("10.0.0.1"), "node1", "h"), NOW);
    let mut answer = Answer::Begin;
    let mut raced = false;
    let done = loop {
        match operation.step(answer).unwrap() {
            Step::Done(done) => break done,
            Step::Need(request) => {
                if matches!(request, Request::Write(_)) && !raced {
                    raced = true;
                    run(&mut store, ClaimAffinity::new(net("10.0.0.0/26"), Owner::host("node2"), NOW))
                        .unwrap();
                }
                answer = store.answer(&request);
            }
        }
    };
    assert_eq!(done.assignment.address, ip("10.0.0.1"));
    assert_eq!(
        store.get(&Key::Affinity(Owner::host("node1"), net("10.0.0.0/26"))),
        None,
        "our claim is withdrawn"
    );
    let Some(Stored::Handle(handle)) = store.get(&Key::Handle("h".into())) else { panic!("no handle") };
    assert_eq!(handle, &Handle::of(net("10.0.0.0/26"), 1));
}

#[test]
fn claims_cover_a_prefix_and_say_what_belongs_to_others() {
    let mut store = store(&["10.0.0.0/24"]);
    let (one, two) = (Owner::host("node1"), Owner::host("node2"));
    run(&mut store, ClaimAffinity::new(net("10.0.0.64/26"), two, NOW)).unwrap();
    let done = run(&mut store, ClaimAffinity::new(net("10.0.0.0/25"), one.clone(), NOW)).unwrap();
    assert_eq!((done.claimed, done.failed), (vec![net("10.0.0.0/26")], vec![net("10.0.0.64/26")]));
    assert_eq!(store.get(&Key::Affinity(one.clone(), net("10.0.0.64/26"))), None);
    for outside in ["10.0.1.0/26", "10.0.0.0/27"] {
        let cidr = net(outside);
        assert_eq!(
            run(&mut store, ClaimAffinity::new(cidr, one.clone(), NOW)),
            Err(IpamError::CidrNotInPool { cidr })
        );
    }
}

#[test]
fn a_block_in_use_is_kept_or_orphaned_as_asked() {
    let mut store = store(&["10.0.0.0/24"]);
    assign(&mut store, "h", 1);
    let owner = Owner::host("node1");
    let empty_only = Conditions { must_be_empty: true, sequence: None };
    let kept = run(&mut store, GiveUp::new(Claims::Owner(owner.clone()), empty_only)).unwrap();
    assert!(matches!(kept.kept[..], [(_, _, IpamError::BlockNotEmpty { .. })]));
    let block = kept.kept[0].1;
    let stale = Conditions { must_be_empty: false, sequence: Some(1) };
    let kept = run(&mut store, GiveUp::new(Claims::Block(block), stale)).unwrap();
    assert!(matches!(kept.kept[..], [(_, _, IpamError::ClaimConflict { .. })]));
    store.put(Key::Host("node1".into()), Stored::Host);
    let gone = run(&mut store, GiveUp::new(Claims::Host("node1".into()), Conditions::default())).unwrap();
    assert_eq!(gone.released, [(owner, block)]);
    assert_eq!(store.get(&Key::Host("node1".into())), None);
    let Some(Stored::Block(block)) = store.get(&Key::Block(block)) else { panic!("no block") };
    assert_eq!((block.owner(), block.claimed_at()), (None, None));
}

/// Defect 5: giving up a pool's blocks includes those of virtual owners.
#[test]
fn defect_5_a_pool_gives_up_virtual_claims_too() {
    let mut store = store(&["10.0.0.0/24", "10.1.0.0/24"]);
    for (owner, cidr) in [
        (Owner::host("node1"), "10.0.0.0/26"),
        (Owner::load_balancer(), "10.0.0.64/26"),
        (Owner::host("node1"), "10.1.0.0/26"),
    ] {
        let cidr = net(cidr);
        let block = Block::new(cidr, owner.clone(), NOW, HostReservation::default()).unwrap();
        store.put(Key::Block(cidr), Stored::Block(Arc::new(block)));
        store.put(Key::Affinity(owner, cidr), Stored::Affinity(Affinity::new(State::Confirmed)));
    }
    let done = run(&mut store, GiveUp::new(Claims::Pool(net("10.0.0.0/24")), Conditions::default())).unwrap();
    assert_eq!(done.released.len(), 2);
    assert_eq!((blocks(&store), count_keys(&store, |key| matches!(key, Key::Affinity(..)))), (1, 1));
}

#[test]
fn contradicting_configurations_are_refused_and_equal_ones_not_written() {
    let mut store = MemoryStore::default();
    let set = |store: &mut MemoryStore, change: fn(&mut Config)| {
        let mut config = Config::default();
        change(&mut config);
        run(store, SetConfig::new(config))
    };
    assert_eq!(set(&mut store, |_| {}), Ok(false));
    assert!(matches!(
        set(&mut store, |config| config.auto_allocate_blocks = false),
        Err(IpamError::Config { .. })
    ));
    assert!(matches!(
        set(&mut store, |config| config.max_blocks_per_host = 3),
        Err(IpamError::Config { .. })
    ));
    assert_eq!(set(&mut store, |config| config.strict_affinity = true), Ok(true));
    assert_eq!(set(&mut store, |config| config.strict_affinity = true), Ok(false));
}
