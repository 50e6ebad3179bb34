//! Address management with everything in memory.
//!
//! Limit: one AutoAssign from a block in hand, the whole machine from request to result, takes less than 1 µs
//! (1 M/s in one thread). The stored JSON is not part of it: an agent encodes once per write.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use calico_ipam::{
    Affinity, Answer, Attribute, AutoAssign, AutoAssignArgs, Block, BlockSpace, Environment, Family,
    HostReservation, Item, Key, Operation, Outcome, Owner, Pool, Ranges, Reservations, Revision, State, Step,
    Stored,
};
use criterion::Criterion;
use ipnet::IpNet;

const NOW: u64 = 1_700_000_000_000_000_000;

fn cidr(text: &str) -> IpNet {
    match text.parse() {
        Ok(net) => net,
        Err(_) => unreachable!("{text} is a prefix"),
    }
}

/// A node's block of 64 addresses with `used` of them taken by as many pods.
fn block(used: usize) -> Block {
    let owner = Owner::host("node1");
    let Ok(mut block) = Block::new(cidr("10.0.0.0/26"), owner, NOW, HostReservation::default()) else {
        unreachable!("a /26 is a block")
    };
    for at in 0..used {
        let handle = format!("k8s-pod-network.{at:064x}");
        let attribute = Arc::new(Attribute::new(Some(&handle), BTreeMap::new()));
        let _ = block.auto_assign(1, &attribute, None, None);
    }
    block
}

/// One AutoAssign from the first step to the last; the only request is a batch of two writes.
fn assign(environment: &Arc<Environment>, items: &[Item]) -> usize {
    let args = AutoAssignArgs::workload("node1", "k8s-pod-network.new", 1, 0);
    let mut operation = AutoAssign::new(args, NOW)
        .with_environment(Arc::clone(environment))
        .with_blocks(Family::V4, items.iter().cloned());
    let mut answer = Answer::Begin;
    loop {
        match operation.step(answer) {
            Ok(Step::Need(_)) => {
                let applied = vec![Revision::number(10), Revision::number(11)];
                answer = Answer::Written(Outcome { applied, failure: None });
            }
            Ok(Step::Done(done)) => return done.addresses().count(),
            Err(_) => return 0,
        }
    }
}

fn auto_assign(c: &mut Criterion) {
    let pool = Arc::new(Pool::new("default", cidr("10.0.0.0/16")));
    let environment = Arc::new(Environment { pools: vec![pool], ..Environment::default() });
    let mut group = c.benchmark_group("ipam/auto_assign");
    for used in [0, 32, 63] {
        let block = block(used);
        let items = [
            Item {
                key: Key::Affinity(Owner::host("node1"), block.cidr()),
                value: Stored::Affinity(Affinity::new(State::Confirmed)),
                revision: Revision::number(1),
            },
            Item {
                key: Key::Block(block.cidr()),
                value: Stored::Block(Arc::new(block)),
                revision: Revision::number(2),
            },
        ];
        assert_eq!(assign(&environment, &items), 1);
        group.bench_function(format!("{used}_of_64_used"), |b| {
            b.iter(|| assign(black_box(&environment), black_box(&items)))
        });
    }
    group.finish();
}

/// The block alone: what an agent that holds its blocks does per pod before it writes.
fn block_operations(c: &mut Criterion) {
    let attribute = Arc::new(Attribute::new(Some("k8s-pod-network.new"), BTreeMap::new()));
    let mut group = c.benchmark_group("ipam/block");
    let mut half = block(32);
    group.bench_function("assign_and_release", |b| {
        b.iter(|| {
            let taken = half.auto_assign(1, &attribute, None, None);
            let released = half.release_by_handle("k8s-pod-network.new", NOW, 0);
            black_box((taken, released))
        });
    });
    let reserved = Reservations::parse(["10.0.0.0/27", "10.0.0.40/29"]);
    group.bench_function("reservation_mask", |b| {
        b.iter(|| black_box(reserved.mask(black_box(&cidr("10.0.0.0/26")), 64)));
    });
    group.finish();
}

/// The only free block of a /8: 262 143 taken ones are merged into ranges once per look at the list.
fn free_block(c: &mut Criterion) {
    let pool = cidr("10.0.0.0/8");
    let taken: Vec<IpNet> = pool
        .subnets(26)
        .map(|subnets| subnets.filter(|net| *net != cidr("10.77.3.64/26")).collect())
        .unwrap_or_default();
    let Some(space) = BlockSpace::new(&pool, 26, taken.iter().copied(), &Ranges::default()) else {
        unreachable!("a /8 holds a /26")
    };
    let start = space.start(42);
    c.bench_function("ipam/free_block_of_a_full_slash_8", |b| {
        b.iter(|| black_box(space.first_free(black_box(start))))
    });
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    auto_assign(&mut criterion);
    block_operations(&mut criterion);
    free_block(&mut criterion);
    criterion.final_summary();
}
