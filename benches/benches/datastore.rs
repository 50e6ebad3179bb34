//! The embedded store: writes per second of several processes, latency of a watch across processes, a large list.
//!
//! Peers: a bare SQLite connection with the same durability (the limit for one writer), and the in-memory store
//! (the price of files). `cargo bench -p calico-benches --bench datastore`.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use calico_datastore::{
    Backend, Expect, KeyRanges, ListRequest, MemoryStore, RawWrite, SqliteOptions, SqliteStore, Store,
};
use calico_datastore::{Blocking, Datastore};
use criterion::{BenchmarkId, Criterion, Throughput};

/// A workload endpoint as a cluster stores it, about 800 bytes.
fn value() -> Vec<u8> {
    let filler = "x".repeat(560);
    format!(
        r#"{{"apiVersion":"projectcalico.org/v3","kind":"NetworkSet","metadata":{{"name":"set","namespace":"prod","uid":"3c8f2a0e-6f0b-4f54-9a53-0a6d6a1b2c3d","creationTimestamp":"2026-08-22T13:33:20Z","annotations":{{"note":"{filler}"}}}},"spec":{{"nets":["10.0.0.0/8","192.168.0.0/16"]}}}}"#
    )
    .into_bytes()
}

fn key(n: usize) -> String {
    format!("/calico/resources/v3/projectcalico.org/networksets/prod/set-{n:06}")
}

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(SqliteOptions::new(path)).unwrap()
}

/// A child process that writes until it has done its share, after a line on its standard input.
fn writer() -> bool {
    let Ok(path) = std::env::var("CALICO_BENCH_STORE") else { return false };
    let number: usize = std::env::var("CALICO_BENCH_NUMBER").unwrap().parse().unwrap();
    let writes: usize = std::env::var("CALICO_BENCH_WRITES").unwrap().parse().unwrap();
    let store = open(Path::new(&path));
    let value = value();
    println!("ready");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    for n in 0..writes {
        let write = RawWrite::put(key(number * 1_000 + n % 100), Expect::Any, &value[..]);
        store.txn_blocking(&[write]).unwrap();
    }
    true
}

fn spawn(path: &Path, number: usize, writes: usize) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .env("CALICO_BENCH_STORE", path)
        .env("CALICO_BENCH_NUMBER", number.to_string())
        .env("CALICO_BENCH_WRITES", writes.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Time in which some processes together make this many writes.
fn together(path: &Path, processes: usize, writes: usize) -> Duration {
    use std::io::{BufRead, BufReader, Write};
    let mut children: Vec<Child> =
        (0..processes).map(|number| spawn(path, number, writes.div_ceil(processes))).collect();
    for child in &mut children {
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    }
    let began = Instant::now();
    for child in &mut children {
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    }
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    began.elapsed()
}

fn writes(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let mut group = criterion.benchmark_group("datastore/write");
    group.throughput(Throughput::Elements(1)).sample_size(10).measurement_time(Duration::from_secs(6));
    let value = value();

    let memory = Blocking::new(std::sync::Arc::new(Store::new(MemoryStore::new())));
    let raw = MemoryStore::new();
    group.bench_function("memory", |bencher| {
        bencher.iter(|| {
            memory.wait(raw.txn(vec![RawWrite::put(key(1), Expect::Any, &value[..])])).unwrap();
        });
    });

    let limit = rusqlite::Connection::open(directory.path().join("limit.db")).unwrap();
    limit.query_row("PRAGMA journal_mode=WAL", (), |_| Ok(())).unwrap();
    limit
        .execute_batch("PRAGMA synchronous=FULL; CREATE TABLE kv(key TEXT PRIMARY KEY, value BLOB)")
        .unwrap();
    group.bench_function("bare SQLite, one row", |bencher| {
        let mut statement = limit.prepare("INSERT OR REPLACE INTO kv VALUES (?1, ?2)").unwrap();
        bencher.iter(|| statement.execute((key(1), &value[..])).unwrap());
    });

    let path = directory.path().join("calico.db");
    let store = open(&path);
    group.bench_function("one connection", |bencher| {
        bencher.iter(|| store.txn_blocking(&[RawWrite::put(key(1), Expect::Any, &value[..])]).unwrap());
    });
    group.bench_function("transaction of 3", |bencher| {
        bencher.iter(|| {
            let writes: Vec<_> = (0..3).map(|n| RawWrite::put(key(n), Expect::Any, &value[..])).collect();
            store.txn_blocking(&writes).unwrap()
        });
    });
    for processes in [1, 4, 16] {
        group.bench_function(BenchmarkId::new("processes", processes), |bencher| {
            bencher.iter_custom(|count| {
                let writes = usize::try_from(count).unwrap().max(processes);
                let time = together(&path, processes, writes);
                time.mul_f64(count as f64 / writes as f64)
            });
        });
    }
    group.finish();
}

fn lists(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("calico.db"));
    let value = value();
    for chunk in (0..100_000_usize).collect::<Vec<_>>().chunks(100) {
        let writes: Vec<_> =
            chunk.iter().map(|n| RawWrite::put(key(*n), Expect::Absent, &value[..])).collect();
        store.txn_blocking(&writes).unwrap();
    }
    let ranges = KeyRanges::prefix("/calico/");
    let mut group = criterion.benchmark_group("datastore/list of 100,000");
    group.throughput(Throughput::Elements(100_000)).sample_size(10);
    group.bench_function("bytes", |bencher| {
        bencher.iter(|| assert_eq!(store.list_blocking(&ranges).unwrap().entries.len(), 100_000));
    });
    let typed = Blocking::new(std::sync::Arc::new(Store::new(store.clone())));
    group.bench_function("typed", |bencher| {
        bencher.iter(|| assert_eq!(typed.list(&ListRequest::everything()).unwrap().items.len(), 100_000));
    });
    group.finish();
    let mut group = criterion.benchmark_group("datastore/get of 100,000");
    group.bench_function("bytes", |bencher| {
        bencher.iter(|| store.get_blocking(&key(77_777)).unwrap().unwrap());
    });
    group.finish();
}

/// From the commit in one process to the event in another one. Printed, because percentiles matter here.
fn watch_latency() {
    use futures::StreamExt;
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("calico.db");
    let (reader, writer) = (open(&path), open(&path));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut times: Vec<Duration> = runtime.block_on(async {
        let store = Store::new(reader);
        let from = store.info().await.unwrap().revision;
        let mut watch = store.backend().watch(&KeyRanges::prefix("/calico/"), from).await.unwrap();
        let (sender, mut done) = tokio::sync::mpsc::channel(1);
        let value = value();
        let thread = std::thread::spawn(move || {
            for n in 0..2_000 {
                let revision = writer
                    .txn_blocking(&[RawWrite::put(key(n % 10), Expect::Any, &value[..])])
                    .unwrap()
                    .revision;
                sender.blocking_send((revision, Instant::now())).unwrap();
                // One at a time: this is latency, not throughput.
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let mut times = Vec::new();
        while let Some((revision, committed)) = done.recv().await {
            loop {
                let batch = watch.next().await.unwrap().unwrap();
                if batch.revision >= revision {
                    break;
                }
            }
            times.push(committed.elapsed());
        }
        thread.join().unwrap();
        times
    });
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("datastore/watch latency after commit: p50 {:?}, p99 {:?}, max {:?}", at(50), at(99), at(100));
}

fn main() {
    if writer() {
        return;
    }
    let mut criterion = Criterion::default().configure_from_args();
    writes(&mut criterion);
    lists(&mut criterion);
    watch_latency();
    criterion.final_summary();
}
