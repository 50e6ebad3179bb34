//! Programming nf_tables, beside `nft -f` with equal content in the same run.
//!
//! Runs in a network namespace of its own; needs root (or a user namespace) and, for the comparison, `nft`.

#![allow(clippy::print_stderr)]

use std::hint::black_box;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_dataplane::driver::{InterfaceState, PolicyDataplane};
use calico_dataplane::nft::Dataplane;
use calico_dataplane::nft::batch::Batch;
use calico_dataplane::nft::compile::{Compiler, TABLE};
use calico_dataplane::nft::config::Config;
use calico_dataplane::nft::kernel::{Kernel, KernelError};
use calico_dataplane::nft::text::render;
use calico_policy::changes::{
    Changes, DefaultAction, QosControls, SetDelta, SetUpdate, TierPolicies, WorkloadEndpoint,
    WorkloadEndpointId,
};
use calico_policy::ir::{
    Match, Member, Policy, PolicyId, PolicyKind, PortRanges, Rule, RuleAction, SetId, SetKind, Side,
};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

/// Sets and members of each; as many chains of ten rules as sets.
const SIZES: [(usize, usize); 3] = [(100, 20), (500, 50), (2000, 100)];

fn config() -> Config {
    Config { ipv6: false, ..Config::default() }
}

fn set_id(set: usize) -> SetId {
    SetId(format!("s:{set:08}").into())
}

fn member(set: usize, index: usize) -> Member {
    let number = 0x0a00_0000 + (set as u32) * 1024 + index as u32;
    Member::Net(ipnet::IpNet::from(std::net::IpAddr::V4(number.into())))
}

fn policy_id(number: usize) -> PolicyId {
    PolicyId {
        kind: PolicyKind::NetworkPolicy,
        namespace: "bench".into(),
        name: format!("p{number:05}").into(),
    }
}

fn policy(number: usize, first_port: u16) -> Arc<Policy> {
    let rules = (0..10u16).map(|index| Rule {
        index: u32::from(index),
        action: RuleAction::Allow,
        matches: vec![
            Match::Protocol { negated: false, protocols: vec![6] },
            Match::AddrInSet { side: Side::Source, negated: false, set: set_id(number) },
            Match::Ports {
                side: Side::Destination,
                negated: false,
                ranges: PortRanges(vec![(first_port + index * 2, first_port + index * 2)]),
                named: Vec::new(),
            },
        ],
    });
    Arc::new(Policy {
        id: policy_id(number),
        tier: "default".into(),
        ingress: rules.collect(),
        egress: Vec::new(),
    })
}

fn world(sets: usize, members: usize) -> Changes {
    let tier = TierPolicies {
        tier: "default".into(),
        default_action: DefaultAction::Deny,
        ingress: (0..sets).map(policy_id).collect(),
        egress: Arc::default(),
    };
    let endpoint = WorkloadEndpoint {
        id: WorkloadEndpointId {
            orchestrator: "k8s".into(),
            workload: "bench/pod".into(),
            endpoint: "eth0".into(),
        },
        interface: "calibench".into(),
        active: true,
        mac: None,
        nets: Vec::new(),
        nat: Vec::new(),
        allowed_source_prefixes: Vec::new(),
        tiers: Arc::from([tier]),
        profiles: Arc::default(),
        qos: QosControls::default(),
    };
    Changes {
        sets: (0..sets)
            .map(|set| SetUpdate {
                id: set_id(set),
                kind: SetKind::Net,
                members: (0..members).map(|index| member(set, index)).collect(),
            })
            .collect(),
        policies: (0..sets).map(|number| policy(number, 1000)).collect(),
        workload_endpoints: vec![Arc::new(endpoint)],
        ..Changes::default()
    }
}

fn delete_table() {
    let mut batch = Batch::new(TABLE);
    batch.delete_table();
    match Kernel::open().and_then(|mut kernel| kernel.commit(&mut batch, None)) {
        // There was none.
        Ok(()) | Err(KernelError::Refused(_)) => {}
        Err(error) => unreachable!("{error}"),
    }
}

fn apply(dataplane: &mut Dataplane, changes: &Changes) -> usize {
    match dataplane.apply(changes, &InterfaceState::default()) {
        Ok(report) => report.messages,
        Err(error) => unreachable!("{error}"),
    }
}

fn open() -> Dataplane {
    match Dataplane::open(config()) {
        Ok(dataplane) => dataplane,
        Err(error) => unreachable!("{error}"),
    }
}

/// Runs `nft -f` on a file; false when there is no `nft`.
fn nft(path: &str) -> bool {
    Command::new("nft").args(["-f", path]).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// The sum of `iterations` timed runs, each after an untimed preparation.
fn timed(iterations: u64, mut prepare: impl FnMut(u64), mut run: impl FnMut(u64)) -> Duration {
    (0..iterations)
        .map(|iteration| {
            prepare(iteration);
            let start = Instant::now();
            run(iteration);
            start.elapsed()
        })
        .sum()
}

fn write(path: &str, text: &str) {
    if let Err(error) = std::fs::write(path, text) {
        unreachable!("{path}: {error}");
    }
}

fn program(c: &mut Criterion) {
    if calico_dataplane::sys::unshare::network().is_err() {
        eprintln!("SKIPPED nft: no privilege to create a network namespace");
        return;
    }
    let directory = std::env::temp_dir();
    let script = format!("{}/calico-nft-bench-{}.nft", directory.display(), std::process::id());
    let change = format!("{}/calico-nft-bench-change-{}.nft", directory.display(), std::process::id());
    let mut group = c.benchmark_group("nft");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(3));
    for (sets, members) in SIZES {
        let size = format!("{sets}x{members}");
        let world = world(sets, members);
        let mut compiler = Compiler::new(config());
        compiler.apply(&world, &InterfaceState::default());
        write(&script, &render(TABLE, compiler.table().desired()));

        group.bench_function(BenchmarkId::new("compile", &size), |b| {
            b.iter(|| {
                let mut compiler = Compiler::new(config());
                compiler.apply(&world, &InterfaceState::default());
                black_box(compiler.table().batch().len())
            });
        });
        // From what the graph says to what the kernel enforces.
        group.bench_function(BenchmarkId::new("from_empty", &size), |b| {
            b.iter_custom(|iterations| {
                timed(
                    iterations,
                    |_| delete_table(),
                    |_| {
                        black_box(apply(&mut open(), &world));
                    },
                )
            });
        });
        group.bench_function(BenchmarkId::new("from_empty_nft_f", &size), |b| {
            b.iter_custom(|iterations| timed(iterations, |_| delete_table(), |_| assert!(nft(&script))));
        });

        delete_table();
        let mut dataplane = open();
        apply(&mut dataplane, &world);
        group.bench_function(BenchmarkId::new("noop_resync_unchanged", &size), |b| {
            b.iter(|| black_box(dataplane.resync().map(|report| report.messages)));
        });
        // Somebody changed another table: ours is read back and compared.
        group.bench_function(BenchmarkId::new("noop_resync_full_read", &size), |b| {
            b.iter(|| black_box(dataplane.verify().map(|report| report.messages)));
        });
        // A new process finds everything as it wants it: compile, read back, compare.
        group.bench_function(BenchmarkId::new("noop_restart", &size), |b| {
            b.iter_custom(|iterations| {
                timed(iterations, |_| {}, |_| assert_eq!(apply(&mut open(), &world), 0))
            });
        });
        let mut flip = false;
        group.bench_function(BenchmarkId::new("one_member", &size), |b| {
            b.iter(|| {
                flip = !flip;
                let change = vec![member(7, 1000)];
                let (added, removed) = if flip { (change, Vec::new()) } else { (Vec::new(), change) };
                let delta = SetDelta { id: set_id(7), added, removed };
                apply(&mut dataplane, &Changes { set_deltas: vec![delta], ..Changes::default() })
            });
        });
        let mut port = 1000;
        group.bench_function(BenchmarkId::new("one_rule", &size), |b| {
            b.iter(|| {
                port ^= 1;
                apply(&mut dataplane, &Changes { policies: vec![policy(7, port)], ..Changes::default() })
            });
        });
        write(
            &change,
            &format!(
                "add element inet {TABLE} cali40s-00000007 {{ 10.99.0.1 }}\ndelete element inet {TABLE} cali40s-00000007 {{ 10.99.0.1 }}\n"
            ),
        );
        group.bench_function(BenchmarkId::new("one_member_nft_f", &size), |b| {
            b.iter_custom(|iterations| timed(iterations, |_| {}, |_| assert!(nft(&change))));
        });
        drop(dataplane);
        delete_table();
    }
    group.finish();
    let _ = std::fs::remove_file(&script);
    let _ = std::fs::remove_file(&change);
}

criterion_group!(benches, program);
criterion_main!(benches);
