//! Writers are killed at any moment: no acknowledged write is lost, the revision never steps back.
//!
//! `CALICO_CRASH_KILLS=1000 cargo test -p calico-datastore --test crash` for the long run.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use calico_datastore::{Expect, KeyRanges, RawWrite, SqliteOptions, SqliteStore};

const WRITERS: usize = 4;

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(SqliteOptions::new(path)).unwrap()
}

/// The process that gets killed. Does nothing in a normal test run.
#[test]
fn writer_child() {
    let Ok(path) = std::env::var("CALICO_CRASH_PATH") else { return };
    let name = std::env::var("CALICO_CRASH_NAME").unwrap();
    let store = open(Path::new(&path));
    let (own, pair) = (format!("/calico/crash/{name}"), format!("/calico/crash/{name}-pair"));
    let mut out = std::io::stdout().lock();
    loop {
        let (count, expect) = match store.get_blocking(&own).unwrap() {
            Some(entry) => {
                let count: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
                (count, Expect::Revision(entry.revision))
            }
            None => (0, Expect::Absent),
        };
        let value = (count + 1).to_string();
        let writes = [
            RawWrite::put(&*own, expect, value.as_bytes()),
            RawWrite::put(&*pair, Expect::Any, value.as_bytes()),
        ];
        let done = store.txn_blocking(&writes).unwrap();
        writeln!(out, "ACK {} {}", count + 1, done.revision).unwrap();
        out.flush().unwrap();
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Acknowledged {
    count: u64,
    revision: u64,
    total: u64,
}

type Ledger = Arc<Mutex<BTreeMap<usize, Acknowledged>>>;

fn spawn(path: &Path, name: usize, ledger: &Ledger) -> (Child, std::thread::JoinHandle<()>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer_child", "--nocapture"])
        .env("CALICO_CRASH_PATH", path)
        .env("CALICO_CRASH_NAME", name.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ledger = Arc::clone(ledger);
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let Some((_, rest)) = line.split_once("ACK ") else { continue };
            let Some((count, revision)) = rest.split_once(' ') else { continue };
            let (count, revision) = (count.parse().unwrap(), revision.parse().unwrap());
            let mut ledger = ledger.lock().unwrap();
            let entry = ledger.entry(name).or_default();
            assert!(count > entry.count, "an acknowledged write was undone: {count} after {}", entry.count);
            assert!(revision > entry.revision, "the revision stepped back");
            *entry = Acknowledged { count, revision, total: entry.total + 1 };
        }
    });
    (child, reader)
}

fn check(store: &SqliteStore, ledger: &Ledger) {
    let known = ledger.lock().unwrap().clone();
    let list = store.list_blocking(&KeyRanges::prefix("/calico/crash/")).unwrap();
    let values: BTreeMap<&str, u64> = list
        .entries
        .iter()
        .map(|entry| (entry.key.as_str(), std::str::from_utf8(&entry.value).unwrap().parse().unwrap()))
        .collect();
    for (name, acknowledged) in known {
        let own = values[format!("/calico/crash/{name}").as_str()];
        assert!(own >= acknowledged.count, "{name}: {own} stored, {} acknowledged", acknowledged.count);
        assert_eq!(own, values[format!("/calico/crash/{name}-pair").as_str()], "half a transaction");
        assert!(list.revision >= acknowledged.revision, "the revision stepped back");
    }
}

#[test]
fn killed_writers_lose_nothing() {
    let kills: usize =
        std::env::var("CALICO_CRASH_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("calico.db");
    let store = open(&path);
    let ledger = Ledger::default();
    let mut writers: Vec<_> = (0..WRITERS).map(|name| spawn(&path, name, &ledger)).collect();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for kill in 0..kills {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        // Some die young, before they have opened the file; most die in the middle of their work.
        std::thread::sleep(Duration::from_micros(seed % 30_000));
        let victim = kill % WRITERS;
        let (mut child, reader) = writers.remove(victim);
        child.kill().unwrap();
        child.wait().unwrap();
        reader.join().unwrap();
        writers.insert(victim, spawn(&path, victim, &ledger));
        if kill % 10 == 0 {
            check(&store, &ledger);
        }
    }
    // After the last kill everybody still makes progress.
    let before = ledger.lock().unwrap().clone();
    let deadline = Instant::now() + Duration::from_secs(30);
    while ledger
        .lock()
        .unwrap()
        .iter()
        .any(|(name, now)| before.get(name).is_some_and(|then| now.total == then.total))
    {
        assert!(Instant::now() < deadline, "no progress after the kills: {:?}", ledger.lock().unwrap());
        std::thread::sleep(Duration::from_millis(20));
    }
    for (mut child, reader) in writers {
        child.kill().unwrap();
        child.wait().unwrap();
        reader.join().unwrap();
    }
    check(&store, &ledger);
    drop(store);
    let verdict: String = rusqlite::Connection::open(&path)
        .unwrap()
        .query_row("PRAGMA integrity_check", (), |row| row.get(0))
        .unwrap();
    assert_eq!(verdict, "ok");
    let ledger = ledger.lock().unwrap();
    let total: u64 = ledger.values().map(|entry| entry.total).sum();
    println!("{kills} kills, {total} acknowledged writes: {ledger:?}");
    assert!(total as usize >= kills, "the writers hardly wrote: {total}");
}
