//! The policy graph at the sizes of the reference's own benches (`felix/calc`): 250,000 endpoints of which 200 are
//! local with 10,000 label policies, the snapshot and then the removal of the local ones; 10,000 endpoints with
//! 10,000 network-set policies. `-- --peak` prints time and peak memory of one run each, without statistics.

#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use calico_benches::policy::{NODE, Size, label_policies, netset_policies, without_local};
use calico_model::Update;
use calico_policy::{Changes, Graph, GraphConfig};
use criterion::{BatchSize, Criterion};

const LABELS: Size = Size { endpoints: 250_000, local: 200, policies: 10_000 };
const NETSETS: Size = Size { endpoints: 10_000, local: 200, policies: 10_000 };

fn snapshot(updates: impl IntoIterator<Item = Update>) -> (Graph, Changes) {
    let mut graph = Graph::new(GraphConfig { node: NODE.into(), ..GraphConfig::default() });
    updates.into_iter().for_each(|update| graph.apply(update));
    graph.in_sync();
    let changes = graph.flush();
    (graph, changes)
}

fn remove(graph: &mut Graph, updates: Vec<Update>) -> Changes {
    updates.into_iter().for_each(|update| graph.apply(update));
    graph.flush()
}

fn measure(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("policy");
    group.sample_size(10).measurement_time(Duration::from_secs(20));
    let updates: Vec<Update> = label_policies(LABELS).collect();
    group.bench_function("snapshot of 250k endpoints, 10k label policies", |bench| {
        bench.iter_batched(|| updates.clone(), snapshot, BatchSize::PerIteration);
    });
    group.bench_function("removal of 200 local endpoints of 250k", |bench| {
        bench.iter_batched(
            || (snapshot(updates.clone()).0, without_local(LABELS).collect::<Vec<_>>()),
            |(mut graph, updates)| remove(&mut graph, updates),
            BatchSize::PerIteration,
        );
    });
    let (mut graph, _) = snapshot(updates.clone());
    let changed = updates.iter().filter(|update| update.key.path().contains("pod--99999-")).cloned();
    let changed: Vec<Update> = changed.collect();
    let removed: Vec<Update> = changed.iter().map(|u| Update { value: None, ..u.clone() }).collect();
    group.bench_function("one remote endpoint of 250k goes and comes", |bench| {
        bench.iter(|| {
            remove(&mut graph, removed.clone());
            remove(&mut graph, changed.clone())
        });
    });
    drop((graph, updates));
    let updates: Vec<Update> = netset_policies(NETSETS).collect();
    group.bench_function("snapshot of 10k endpoints, 10k network-set policies", |bench| {
        bench.iter_batched(|| updates.clone(), snapshot, BatchSize::PerIteration);
    });
    group.finish();
}

/// Peak resident memory of this process in MiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    line.and_then(|line| line.split_whitespace().nth(1)).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0)
        / 1024
}

/// Time and memory of single runs. Updates are made one at a time, as a store hands them over.
fn once() {
    let idle = peak();
    let start = Instant::now();
    let (mut graph, changes) = snapshot(netset_policies(NETSETS));
    println!(
        "netsets: {:?}, {} policies, {} sets, {} endpoints, peak {} MiB of which {idle} before",
        start.elapsed(),
        changes.policies.len(),
        changes.sets.len(),
        changes.workload_endpoints.len(),
        peak(),
    );
    drop(graph);
    let start = Instant::now();
    let mut made = Duration::ZERO;
    let updates = {
        let mut source = label_policies(LABELS);
        std::iter::from_fn(move || source.next())
    };
    let updates: Vec<Update> = updates.collect();
    made += start.elapsed();
    let store = peak();
    let start = Instant::now();
    let changes;
    (graph, changes) = snapshot(updates);
    println!(
        "labels: {:?} (updates made in {made:?}), {} policies, {} sets, {} endpoints, peak {} MiB of which {store} for the \
         updates",
        start.elapsed(),
        changes.policies.len(),
        changes.sets.len(),
        changes.workload_endpoints.len(),
        peak(),
    );
    let updates = without_local(LABELS).collect();
    let start = Instant::now();
    let changes = remove(&mut graph, updates);
    println!(
        "removal of the local ones: {:?}, {} policies gone",
        start.elapsed(),
        changes.removed_policies.len()
    );
}

fn main() {
    if std::env::args().any(|arg| arg == "--peak") {
        return once();
    }
    let mut criterion = Criterion::default().configure_from_args();
    measure(&mut criterion);
    criterion.final_summary();
}
