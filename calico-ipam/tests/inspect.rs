//! Looking at what is stored: check, utilisation, explain, look-up, split, ensured blocks.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use calico_ipam::memory::{MemoryStore, run};
use calico_ipam::{
    Affinity, AssignIp, AssignIpArgs, Attribute, AutoAssign, AutoAssignArgs, Block, CheckReport, Config,
    Environment, Family, Filter, Finding, Fullness, Handle, HostReservation, IpamError, Key, LookupAddress,
    Owner, Pool, ReleaseByHandle, Reservations, Scope, SplitError, State, Stock, Stored, StoredError, check,
    explain, split, users_of_node, utilization,
};
use calico_model::{IPPool, IPPoolSpec, Node, NodeBgpSpec, NodeSpec, NodeWireguardSpec};
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
    store
}

fn assign(store: &mut MemoryStore, handle: &str, count: u32) -> Vec<IpAddr> {
    let operation = AutoAssign::new(AutoAssignArgs::workload("node1", handle, count, 0), NOW);
    run(store, operation).unwrap().addresses().map(|assignment| assignment.address).collect()
}

fn pools(store: &MemoryStore) -> Vec<Arc<Pool>> {
    let pools = store.list(&Scope::Pools).into_iter();
    pools.map(|item| if let Stored::Pool(pool) = item.value { pool } else { panic!("{item:?}") }).collect()
}

fn report(store: &MemoryStore, users: &[(&str, &str)]) -> CheckReport {
    let mut blocks = store.list(&Scope::Blocks(Family::V4));
    blocks.extend(store.list(&Scope::Blocks(Family::V6)));
    let (affinities, handles) = (store.list(&Scope::Affinities), store.list(&Scope::Handles));
    let pools = pools(store);
    let stock = Stock {
        blocks: &blocks,
        affinities: &affinities,
        handles: &handles,
        pools: &pools,
        cooldown_seconds: 0,
    };
    let users: BTreeMap<IpAddr, Vec<String>> =
        users.iter().map(|(address, user)| (ip(address), vec![(*user).to_owned()])).collect();
    check(&stock, &users, NOW)
}

#[test]
fn a_sound_store_with_known_users_is_clean() {
    let mut store = store(&["10.0.0.0/24"]);
    let pod = assign(&mut store, "h", 1)[0].to_string();
    let clean = report(&store, &[(&pod, "pod default/web")]);
    assert!(clean.is_clean(), "{:?}", clean.findings);
    assert_eq!((clean.blocks, clean.assigned, clean.used), (1, 1, 1));
}

#[test]
fn every_kind_of_disorder_is_found() {
    let mut store = store(&["10.0.0.0/24"]);
    let pod = assign(&mut store, "h", 1)[0];
    let block = net("10.0.0.0/26");
    let found = |store: &MemoryStore, users: &[(&str, &str)]| {
        report(store, users).findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    assert!(found(&store, &[]).contains(&format!("{pod} is assigned to h and not used")));
    let users = [("10.0.0.200", "pod a/b"), ("192.0.2.1", "pod c/d")];
    let text = found(&store, &users);
    assert!(text.contains("10.0.0.200 in an enabled pool is used by pod a/b and not assigned"), "{text}");
    assert!(text.contains("192.0.2.1 in no enabled pool is used by pod c/d and not assigned"), "{text}");

    store.put(Key::Handle("h".into()), Stored::Handle(Handle::of(net("10.0.0.64/26"), 2)));
    let text = found(&store, &[]);
    assert!(text.contains("handle h counts 2 addresses in 10.0.0.64/26, which holds only 0"), "{text}");
    store.remove(&Key::Handle("h".into()));
    assert!(found(&store, &[]).contains("handle h counts 0 addresses in"));

    store.put(Key::Affinity(Owner::host("x"), block), Stored::Affinity(Affinity::new(State::Confirmed)));
    assert!(
        found(&store, &[]).contains("host:x has a confirmed claim to 10.0.0.0/26, which is not its block")
    );
    let orphan = Block::new(net("10.0.0.128/25"), Owner::host("y"), NOW, HostReservation::default()).unwrap();
    store.put(Key::Block(orphan.cidr()), Stored::Block(Arc::new(orphan)));
    assert!(found(&store, &[]).contains("block 10.0.0.128/25 belongs to host:y, whose claim is missing"));
    let inner = net("10.0.0.192/26");
    let damaged = StoredError::OrdinalLost { cidr: inner, ordinal: 1 };
    store.put(Key::Block(inner), Stored::Damaged(Arc::new(damaged)));
    let text = found(&store, &[]);
    assert!(text.contains("blocks 10.0.0.128/25 and 10.0.0.192/26 overlap"), "{text}");
    assert!(text.contains("IPAMBlock(10.0.0.192/26) is damaged"), "{text}");

    let mut cooling =
        Block::new(net("10.0.0.64/26"), Owner::host("z"), NOW, HostReservation::default()).unwrap();
    cooling.auto_assign(1, &Arc::new(Attribute::new(Some("c"), BTreeMap::new())), None, None).unwrap();
    cooling.release_by_handle("c", NOW + 3_600_000_000_000, 60);
    store.put(Key::Block(cooling.cidr()), Stored::Block(Arc::new(cooling)));
    assert!(
        report(&store, &[])
            .findings
            .iter()
            .any(|finding| matches!(finding, Finding::ReleasedInFuture { .. }))
    );
}

/// Defect 8: tunnel addresses of both families count as used, and orphan blocks of both
/// families are counted.
#[test]
fn defect_8_ipv6_tunnels_are_users_and_ipv6_orphans_are_counted() {
    let spec = NodeSpec {
        bgp: Some(NodeBgpSpec { ipv4_ipip_tunnel_addr: "10.0.0.1".into(), ..NodeBgpSpec::default() }),
        ipv4_vxlan_tunnel_addr: "10.0.0.2".into(),
        ipv6_vxlan_tunnel_addr: "fd00::2".into(),
        wireguard: Some(NodeWireguardSpec {
            interface_ipv4_address: "10.0.0.3".into(),
            interface_ipv6_address: "fd00::3".into(),
        }),
        ..NodeSpec::default()
    };
    let users = users_of_node(&Node::new("n1", spec));
    assert_eq!(users.len(), 5);
    assert!(users.contains(&(ip("fd00::3"), "IPv6 WireGuard tunnel of node n1".to_owned())));
    let orphans: Vec<Arc<Block>> = ["192.0.2.0/26", "2001:db8::/122"]
        .iter()
        .map(|cidr| {
            Arc::new(Block::new(net(cidr), Owner::host("n1"), NOW, HostReservation::default()).unwrap())
        })
        .collect();
    let all = utilization(&[], &orphans, &Reservations::default());
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].pool.is_none(), all[0].blocks.len(), all[0].counts.capacity), (true, 2, 128));
}

#[test]
fn utilisation_adds_blocks_and_open_space_without_counting_twice() {
    let mut store = store(&["10.0.0.0/24", "fd00::/48"]);
    assign(&mut store, "h", 10);
    let blocks: Vec<Arc<Block>> = store
        .list(&Scope::Blocks(Family::V4))
        .into_iter()
        .map(|item| if let Stored::Block(block) = item.value { block } else { panic!("{item:?}") })
        .collect();
    let start = blocks[0].cidr().network();
    // Four addresses in use, and four in open space, are reserved.
    let open = if start == ip("10.0.0.0") { "10.0.0.64/30" } else { "10.0.0.0/30" };
    let reserved = Reservations::parse([format!("{start}/30").as_str(), open]);
    let all = utilization(&pools(&store), &blocks, &reserved);
    let counts = all[0].counts;
    assert_eq!(
        (counts.capacity, counts.in_use, counts.reserved, counts.available),
        (256, 10, 8, 256 - 10 - 4)
    );
    assert_eq!(counts.fullness(), Fullness::Normal);
    assert_eq!(all[1].counts.capacity, 1 << 80);
    assign(&mut store, "rest", 246);
    let blocks: Vec<Arc<Block>> = store
        .list(&Scope::Blocks(Family::V4))
        .into_iter()
        .map(|item| if let Stored::Block(block) = item.value { block } else { panic!("{item:?}") })
        .collect();
    let full = utilization(&pools(&store), &blocks, &Reservations::default());
    assert_eq!((full[0].counts.available, full[0].counts.fullness()), (0, Fullness::Full));
}

/// Defect 17: why this address.
#[test]
fn defect_17_explain_names_pools_blocks_limit_and_the_next_address() {
    let mut store = store(&["10.0.0.0/24"]);
    let mut other = Pool::new("other", net("10.9.0.0/24"));
    other.nodes = Filter::parse("zone == 'b'");
    store.add_pool(other);
    assign(&mut store, "h", 1);
    let environment = Arc::new(Environment {
        config: Config { max_blocks_per_host: 3, strict_affinity: true, ..Config::default() },
        pools: pools(&store),
        node: Arc::new([("zone".to_owned(), "a".to_owned())].into()),
        ..Environment::default()
    });
    let mut stock = store.list(&Scope::Blocks(Family::V4));
    stock.extend(store.list(&Scope::Affinities));
    let explanation = explain(&environment, "node1", Family::V4, &stock, NOW);
    let next = explanation.next.clone().unwrap().unwrap();
    let text = explanation.to_string();
    assert!(
        text.contains("pool other (10.9.0.0/24) does not: its nodeSelector does not select the node"),
        "{text}"
    );
    assert!(text.contains("63 of 64 addresses available"), "{text}");
    assert!(text.contains("1 of at most 3 blocks (maxBlocksPerHost)"), "{text}");
    assert!(text.contains(&format!("next address: {}", next.address)), "{text}");
    // It is what really comes next.
    assert_eq!(assign(&mut store, "h2", 1), [next.address]);
}

#[test]
fn an_address_is_looked_up_with_its_owner() {
    let mut store = store(&["10.0.0.0/24"]);
    store.put(Key::Config, Stored::Config(Config { cooldown_seconds: 60, ..Config::default() }));
    let pod = assign(&mut store, "h", 1)[0];
    assert_eq!(run(&mut store, LookupAddress::new(pod)).unwrap().handle.as_deref(), Some("h"));
    run(&mut store, ReleaseByHandle::new("h", NOW)).unwrap();
    assert_eq!(run(&mut store, LookupAddress::new(pod)), Err(IpamError::InCooldown { address: pod }));
    let (free, outside) = (ip("10.0.0.255"), ip("192.0.2.1"));
    assert_eq!(run(&mut store, LookupAddress::new(free)), Err(IpamError::NotAssigned { address: free }));
    assert_eq!(run(&mut store, LookupAddress::new(outside)), Err(IpamError::NotInPool { address: outside }));
}

#[test]
fn an_ensured_block_is_claimed_once_and_only_when_there_is_none() {
    let mut store = store(&["10.0.0.0/24"]);
    let ensure = |store: &mut MemoryStore| {
        run(store, AutoAssign::ensure_block(AutoAssignArgs::workload("node1", "unused", 1, 0), NOW)).unwrap()
    };
    let done = ensure(&mut store);
    assert_eq!((done.addresses().count(), done.families[0].shortfall()), (0, None));
    assert_eq!(store.list(&Scope::Blocks(Family::V4)).len(), 1);
    assert!(store.list(&Scope::Handles).is_empty());
    assign(&mut store, "fill", 64);
    let before = store.list(&Scope::Blocks(Family::V4));
    ensure(&mut store);
    assert_eq!(store.list(&Scope::Blocks(Family::V4)), before, "a full block is a block");
    let Stored::Block(block) = &before[0].value else { panic!("no block") };
    assert!(block.is_owned_by(&Owner::host("node1")));
}

#[test]
fn a_split_keeps_every_address_and_every_setting() {
    let spec = IPPoolSpec {
        cidr: "10.0.0.0/24".into(),
        block_size: 26,
        nat_outgoing: true,
        ..IPPoolSpec::default()
    };
    let pool = IPPool::new("p", spec);
    let parts = split(&pool, 4, true).unwrap();
    let names: Vec<(&str, &str)> =
        parts.iter().map(|part| (part.metadata.name.as_str(), part.spec.cidr.as_str())).collect();
    assert_eq!(
        names,
        [
            ("split-p-0", "10.0.0.0/26"),
            ("split-p-1", "10.0.0.64/26"),
            ("split-p-2", "10.0.0.128/26"),
            ("split-p-3", "10.0.0.192/26")
        ]
    );
    assert!(parts.iter().all(|part| part.spec.nat_outgoing && part.spec.block_size == 26));
    assert_eq!(split(&pool, 3, true), Err(SplitError::Parts { parts: 3 }));
    assert_eq!(split(&pool, 2, false), Err(SplitError::NotLocked));
    assert!(matches!(split(&pool, 8, true), Err(SplitError::TooSmall { .. })));
}

/// Defect 12: blocks that may outgrow what a store takes are pointed out.
#[test]
fn defect_12_heavy_blocks_are_pointed_out() {
    let mut pool = Pool::new("p", net("10.0.0.0/16"));
    assert!(!pool.has_heavy_blocks());
    pool.block_size = 23;
    assert!(pool.has_heavy_blocks());
}

/// Defect 11: an address by name that breaks a rule of automatic assignment is remarked on.
#[test]
fn defect_11_explicit_addresses_that_break_rules_are_remarked_on() {
    let mut store = MemoryStore::default();
    let mut pool = Pool::new("p", net("10.0.0.0/24"));
    pool.nodes = Filter::parse("zone == 'b'");
    store.add_pool(pool);
    store.add_node("node1", &[("zone", "a")]);
    let done = run(&mut store, AssignIp::new(AssignIpArgs::new(ip("10.0.0.9"), "node1", "h"), NOW)).unwrap();
    assert_eq!(done.exceptions.len(), 1);
    assert!(done.exceptions[0].to_string().contains("nodeSelector of pool p"));
}

/// Defect 10: a machine that lost a race says so, and the wait grows with every loss.
#[test]
fn defect_10_lost_races_are_waited_out_with_jitter() {
    use calico_ipam::{Answer, Failure, Operation, Outcome, Request, Step, backoff};
    let mut store = store(&["10.0.0.0/24"]);
    let mut operation = AutoAssign::new(AutoAssignArgs::workload("node1", "h", 1, 0), NOW);
    let (mut answer, mut attempts) = (Answer::Begin, Vec::new());
    let error = loop {
        match operation.step(answer) {
            Ok(Step::Need(Request::Write(_))) => {
                answer = Answer::Written(Outcome {
                    applied: vec![],
                    failure: Some(Failure::Conflict { index: 0 }),
                });
            }
            Ok(Step::Need(request)) => {
                if let Request::Read(read) = &request {
                    assert_eq!(read.fresh, !attempts.is_empty() || read.attempt > 0);
                    if read.attempt > 0 {
                        attempts.push(read.attempt);
                    }
                }
                answer = store.answer(&request);
            }
            Ok(Step::Done(done)) => panic!("{done:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, IpamError::Contention { attempts: 100, .. }), "{error}");
    assert!(attempts.windows(2).all(|pair| pair[0] < pair[1]) && attempts.len() > 90);
    let waits: std::collections::BTreeSet<_> = (0..20).map(|seed| backoff(8, seed)).collect();
    assert!(waits.len() > 10, "waits of different callers differ");
}

/// Defect 14: with transactions no reader ever sees a half-done assignment.
#[test]
fn defect_14_a_transaction_leaves_no_window() {
    use calico_ipam::{Answer, Operation, Request, Step};
    let mut store = store(&["10.0.0.0/24"]);
    store.transactions = true;
    let mut operation = AutoAssign::new(AutoAssignArgs::workload("node1", "h", 1, 0), NOW);
    let mut answer = Answer::Begin;
    let mut writes = 0;
    let done = loop {
        match operation.step(answer).unwrap() {
            Step::Done(done) => break done,
            Step::Need(request) => {
                writes += u32::from(matches!(request, Request::Write(_)));
                answer = store.answer(&request);
                let found = report(&store, &[]).findings;
                assert!(found.iter().all(|finding| matches!(finding, Finding::NotUsed { .. })), "{found:?}");
            }
        }
    };
    assert_eq!((writes, done.addresses().count()), (1, 1));
}
