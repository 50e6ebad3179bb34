//! One test-suite for every backend, public so that others can run it on theirs.
//!
//! Each case works below a path prefix of its own, so a shared server can be used; the store must be reachable
//! and this process must be allowed to write below `/calico/`.
//!
//! ```
//! use calico_datastore::{MemoryStore, conformance};
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! for outcome in conformance::run(&MemoryStore::new()).await {
//!     assert_eq!(outcome.failure, None, "{}", outcome.case);
//! }
//! # });
//! ```

use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;

use crate::backend::{
    Backend, Change, Expect, KeyRange, KeyRanges, MAX_TXN, MAX_VALUE, RawBatch, RawEvent, RawWatch, RawWrite,
};
use crate::error::StoreError;

/// How long a case waits for an event that has to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Result of one case.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Name of the case.
    pub case: &'static str,
    /// What was expected and what came instead; `None` when the backend passed.
    pub failure: Option<String>,
}

type Verdict = Result<(), String>;
type Case = for<'a> fn(&'a dyn Backend, &'a str) -> BoxFuture<'a, Verdict>;

/// Names and code of all cases.
const CASES: &[(&str, Case)] = &[
    ("a missing key is None, not an error", |s, p| Box::pin(missing_get(s, p))),
    ("create, get, update, delete", |s, p| Box::pin(life_of_a_key(s, p))),
    ("create of an existing key fails and shows it", |s, p| Box::pin(create_twice(s, p))),
    ("update with a stale revision fails and shows the present value", |s, p| Box::pin(stale_update(s, p))),
    ("writes of missing keys say so", |s, p| Box::pin(missing_writes(s, p))),
    ("delete checks the revision", |s, p| Box::pin(conditional_delete(s, p))),
    ("an unconditional put creates and replaces", |s, p| Box::pin(unconditional_put(s, p))),
    ("every write raises the revision, equal content too", |s, p| Box::pin(revisions_rise(s, p))),
    ("a transaction is all or nothing at one revision", |s, p| Box::pin(transactions(s, p))),
    ("a transaction can check keys that it does not write", |s, p| Box::pin(check_only(s, p))),
    ("bad requests are refused before anything is written", |s, p| Box::pin(bad_requests(s, p))),
    ("a list is sorted, complete and below its prefix only", |s, p| Box::pin(lists(s, p))),
    ("several ranges are listed at one revision", |s, p| Box::pin(many_ranges(s, p))),
    ("values are kept byte by byte", |s, p| Box::pin(binary_values(s, p))),
    ("a watch delivers create, update and delete in order", |s, p| Box::pin(watch_order(s, p))),
    ("a watch starts after its revision", |s, p| Box::pin(watch_resume(s, p))),
    ("a watch sees its ranges only", |s, p| Box::pin(watch_ranges(s, p))),
    ("a transaction arrives in one batch", |s, p| Box::pin(watch_batches(s, p))),
    ("a deletion carries its own revision", |s, p| Box::pin(delete_revision(s, p))),
    ("a watch from the future is Expired", |s, p| Box::pin(watch_future(s, p))),
    ("list then watch misses nothing under concurrent writers", |s, p| Box::pin(list_then_watch(s, p))),
    ("one of many concurrent compare-and-swaps wins", |s, p| Box::pin(contention(s, p))),
    ("a value with a time to live disappears", |s, p| Box::pin(time_to_live(s, p))),
];

/// Runs all cases one after the other.
pub async fn run(store: &dyn Backend) -> Vec<Outcome> {
    let mut outcomes = Vec::with_capacity(CASES.len());
    let unique = uuid::Uuid::new_v4().simple().to_string();
    for (index, (case, test)) in CASES.iter().enumerate() {
        let prefix = format!("/calico/conformance/{unique}/{index}/");
        let failure = match tokio::time::timeout(PATIENCE * 6, test(store, &prefix)).await {
            Ok(verdict) => verdict.err(),
            Err(_) => Some("did not finish within a minute".to_owned()),
        };
        outcomes.push(Outcome { case, failure });
        clean(store, &prefix).await;
    }
    outcomes
}

async fn clean(store: &dyn Backend, prefix: &str) {
    let Ok(list) = store.list(&KeyRanges::prefix(prefix)).await else { return };
    for chunk in list.entries.chunks(MAX_TXN) {
        let writes = chunk.iter().map(|entry| RawWrite::delete(entry.key.clone(), Expect::Any)).collect();
        // Left-overs of a failed case are only litter below a prefix of their own.
        let _ = store.txn(writes).await;
    }
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, got: T, want: T) -> Verdict {
    if got == want { Ok(()) } else { Err(format!("{what}: expected {want:?}, got {got:?}")) }
}

fn ensure(what: &str, holds: bool) -> Verdict {
    if holds { Ok(()) } else { Err(format!("does not hold: {what}")) }
}

async fn put(store: &dyn Backend, key: &str, expect: Expect, value: &[u8]) -> Result<u64, StoreError> {
    Ok(store.txn(vec![RawWrite::put(key, expect, value)]).await?.revision)
}

async fn delete(store: &dyn Backend, key: &str, expect: Expect) -> Result<u64, StoreError> {
    Ok(store.txn(vec![RawWrite::delete(key, expect)]).await?.revision)
}

fn text(error: StoreError) -> String {
    format!("unexpected error: {error:?}")
}

/// Name of the variant, to compare errors without their words.
fn kind<T: std::fmt::Debug>(result: &Result<T, StoreError>) -> String {
    match result {
        Ok(value) => format!("Ok({value:?})"),
        Err(error) => {
            let debug = format!("{error:?}");
            debug.split([' ', '{']).next().unwrap_or_default().to_owned()
        }
    }
}

async fn missing_get(store: &dyn Backend, p: &str) -> Verdict {
    expect("get", store.get(&format!("{p}nothing")).await.map_err(text)?, None)
}

async fn life_of_a_key(store: &dyn Backend, p: &str) -> Verdict {
    let key = format!("{p}a");
    let first = put(store, &key, Expect::Absent, b"1").await.map_err(text)?;
    let entry = store.get(&key).await.map_err(text)?.ok_or("not there after create")?;
    expect("value", &*entry.value, b"1".as_slice())?;
    expect("revision", entry.revision, first)?;
    let second = put(store, &key, Expect::Revision(first), b"2").await.map_err(text)?;
    ensure("the revision rises", second > first)?;
    let entry = store.get(&key).await.map_err(text)?.ok_or("not there after update")?;
    expect("value", &*entry.value, b"2".as_slice())?;
    delete(store, &key, Expect::Revision(second)).await.map_err(text)?;
    expect("after delete", store.get(&key).await.map_err(text)?, None)?;
    put(store, &key, Expect::Absent, b"3").await.map_err(text)?;
    Ok(())
}

async fn create_twice(store: &dyn Backend, p: &str) -> Verdict {
    let key = format!("{p}a");
    let revision = put(store, &key, Expect::Absent, b"1").await.map_err(text)?;
    match put(store, &key, Expect::Absent, b"2").await {
        Err(StoreError::Exists { key: named, current: Some(current) }) => {
            expect("key", named, key.clone())?;
            expect("current value", &*current.value, b"1".as_slice())?;
            expect("current revision", current.revision, revision)
        }
        other => Err(format!("expected Exists with the present entry, got {other:?}")),
    }
}

async fn stale_update(store: &dyn Backend, p: &str) -> Verdict {
    let key = format!("{p}a");
    let first = put(store, &key, Expect::Absent, b"1").await.map_err(text)?;
    let second = put(store, &key, Expect::Any, b"2").await.map_err(text)?;
    match put(store, &key, Expect::Revision(first), b"3").await {
        Err(StoreError::Conflict { key: named, expected, current: Some(current) }) => {
            expect("key", named, key.clone())?;
            expect("expected revision", expected, first)?;
            expect("current revision", current.revision, second)?;
            expect("current value", &*current.value, b"2".as_slice())
        }
        other => Err(format!("expected Conflict with the present entry, got {other:?}")),
    }
}

async fn missing_writes(store: &dyn Backend, p: &str) -> Verdict {
    let key = format!("{p}none");
    expect("update", kind(&put(store, &key, Expect::Revision(3), b"1").await), "Missing".to_owned())?;
    expect("replace", kind(&put(store, &key, Expect::Present, b"1").await), "Missing".to_owned())?;
    expect("delete", kind(&delete(store, &key, Expect::Any).await), "Missing".to_owned())?;
    expect(
        "conditional delete",
        kind(&delete(store, &key, Expect::Revision(3)).await),
        "Missing".to_owned(),
    )?;
    expect("nothing was written", store.get(&key).await.map_err(text)?, None)
}

async fn conditional_delete(store: &dyn Backend, p: &str) -> Verdict {
    let key = format!("{p}a");
    let first = put(store, &key, Expect::Any, b"1").await.map_err(text)?;
    let second = put(store, &key, Expect::Any, b"2").await.map_err(text)?;
    expect("stale delete", kind(&delete(store, &key, Expect::Revision(first)).await), "Conflict".to_owned())?;
    ensure("still there", store.get(&key).await.map_err(text)?.is_some())?;
    let done = store.txn(vec![RawWrite::delete(&*key, Expect::Revision(second))]).await.map_err(text)?;
    let previous =
        done.previous.first().cloned().flatten().ok_or("delete does not return what it removed")?;
    expect("removed value", &*previous.value, b"2".as_slice())
}

async fn unconditional_put(store: &dyn Backend, p: &str) -> Verdict {
    let key = format!("{p}a");
    put(store, &key, Expect::Any, b"1").await.map_err(text)?;
    put(store, &key, Expect::Any, b"2").await.map_err(text)?;
    put(store, &key, Expect::Present, b"3").await.map_err(text)?;
    let entry = store.get(&key).await.map_err(text)?.ok_or("not there")?;
    expect("value", &*entry.value, b"3".as_slice())
}

async fn revisions_rise(store: &dyn Backend, p: &str) -> Verdict {
    let key = format!("{p}a");
    let mut last = store.info().await.map_err(text)?.revision;
    for _ in 0..5 {
        let next = put(store, &key, Expect::Any, b"same").await.map_err(text)?;
        ensure("the revision rises", next > last)?;
        last = next;
    }
    ensure("info knows the newest revision", store.info().await.map_err(text)?.revision >= last)
}

async fn transactions(store: &dyn Backend, p: &str) -> Verdict {
    let keys: Vec<String> = (0..3).map(|n| format!("{p}{n}")).collect();
    let writes = keys.iter().map(|key| RawWrite::put(key.clone(), Expect::Absent, *b"1")).collect();
    let done = store.txn(writes).await.map_err(text)?;
    let list = store.list(&KeyRanges::prefix(p)).await.map_err(text)?;
    expect("entries", list.entries.len(), 3)?;
    ensure("one revision", list.entries.iter().all(|entry| entry.revision == done.revision))?;
    let mixed = vec![
        RawWrite::put(format!("{p}0"), Expect::Revision(done.revision), *b"2"),
        RawWrite::delete(format!("{p}1"), Expect::Any),
        RawWrite::put(format!("{p}2"), Expect::Absent, *b"2"),
    ];
    expect("second half fails", kind(&store.txn(mixed).await), "Exists".to_owned())?;
    let after = store.list(&KeyRanges::prefix(p)).await.map_err(text)?;
    expect("nothing changed", after.entries, list.entries)
}

async fn check_only(store: &dyn Backend, p: &str) -> Verdict {
    let (guard, key) = (format!("{p}guard"), format!("{p}key"));
    let revision = put(store, &guard, Expect::Absent, b"1").await.map_err(text)?;
    let check =
        |revision| RawWrite { key: guard.clone(), expect: Expect::Revision(revision), change: Change::Check };
    store.txn(vec![check(revision), RawWrite::put(&*key, Expect::Absent, *b"1")]).await.map_err(text)?;
    let entry = store.get(&guard).await.map_err(text)?.ok_or("guard gone")?;
    expect("a check does not write", entry.revision, revision)?;
    let stale = store.txn(vec![check(revision + 1), RawWrite::delete(&*key, Expect::Any)]).await;
    expect("failed check", kind(&stale), "Conflict".to_owned())?;
    ensure("nothing was deleted", store.get(&key).await.map_err(text)?.is_some())
}

async fn bad_requests(store: &dyn Backend, p: &str) -> Verdict {
    let key = format!("{p}a");
    let twice = vec![RawWrite::put(&*key, Expect::Any, *b"1"), RawWrite::put(&*key, Expect::Any, *b"2")];
    expect("a key twice", kind(&store.txn(twice).await), "Invalid".to_owned())?;
    let large = vec![0_u8; MAX_VALUE + 1];
    expect("value too large", kind(&put(store, &key, Expect::Any, &large).await), "Invalid".to_owned())?;
    expect("relative key", kind(&put(store, "a", Expect::Any, b"1").await), "Invalid".to_owned())?;
    let many = (0..=MAX_TXN).map(|n| RawWrite::put(format!("{p}{n}"), Expect::Any, *b"1")).collect();
    expect("too many writes", kind(&store.txn(many).await), "Invalid".to_owned())?;
    expect("entries", store.list(&KeyRanges::prefix(p)).await.map_err(text)?.entries.len(), 0)
}

async fn lists(store: &dyn Backend, p: &str) -> Verdict {
    for name in ["b", "a/x", "a", "c", "a/y", "ab", "a0"] {
        put(store, &format!("{p}{name}"), Expect::Absent, name.as_bytes()).await.map_err(text)?;
    }
    let names = |list: &crate::backend::RawList| -> Vec<String> {
        list.entries.iter().map(|entry| entry.key.strip_prefix(p).unwrap_or(&entry.key).to_owned()).collect()
    };
    let all = store.list(&KeyRanges::prefix(p)).await.map_err(text)?;
    let want: Vec<String> = ["a", "a/x", "a/y", "a0", "ab", "b", "c"].map(str::to_owned).into();
    expect("all", names(&all), want)?;
    let below = store.list(&KeyRanges::prefix(format!("{p}a/"))).await.map_err(text)?;
    expect("below a/", names(&below), ["a/x", "a/y"].map(str::to_owned).into())?;
    let one = store.list(&KeyRanges::exact(format!("{p}a"))).await.map_err(text)?;
    expect("exactly a", names(&one), vec!["a".to_owned()])?;
    let newest = all.entries.iter().map(|entry| entry.revision).max().unwrap_or(0);
    ensure("the revision of a list covers its entries", all.revision >= newest)
}

async fn many_ranges(store: &dyn Backend, p: &str) -> Verdict {
    for name in ["x/1", "x/2", "y/1", "z"] {
        put(store, &format!("{p}{name}"), Expect::Absent, b"1").await.map_err(text)?;
    }
    let ranges = KeyRanges::new([
        KeyRange::Exact(format!("{p}z")),
        KeyRange::Prefix(format!("{p}x/")),
        KeyRange::Exact(format!("{p}none")),
    ]);
    let list = store.list(&ranges).await.map_err(text)?;
    let keys: Vec<&str> = list.entries.iter().filter_map(|entry| entry.key.strip_prefix(p)).collect();
    expect("keys", keys, vec!["x/1", "x/2", "z"])
}

async fn binary_values(store: &dyn Backend, p: &str) -> Verdict {
    let all: Vec<u8> = (0..=u8::MAX).collect();
    let large = vec![b'x'; 1_048_576];
    for (name, value) in [("empty", &[][..]), ("all", &all), ("large", &large)] {
        let key = format!("{p}{name}");
        put(store, &key, Expect::Absent, value).await.map_err(text)?;
        let entry = store.get(&key).await.map_err(text)?.ok_or("not there")?;
        ensure(name, *entry.value == *value)?;
    }
    Ok(())
}

/// Reads batches until this many events have come.
async fn events(watch: &mut RawWatch, count: usize) -> Result<Vec<RawEvent>, String> {
    let mut found = Vec::new();
    while found.len() < count {
        found.extend(next(watch).await?.events);
    }
    Ok(found)
}

async fn next(watch: &mut RawWatch) -> Result<RawBatch, String> {
    match tokio::time::timeout(PATIENCE, watch.next()).await {
        Ok(Some(Ok(batch))) => Ok(batch),
        Ok(Some(Err(error))) => Err(format!("watch failed: {error:?}")),
        Ok(None) => Err("watch ended".to_owned()),
        Err(_) => Err(format!("no event within {PATIENCE:?}")),
    }
}

async fn watch_order(store: &dyn Backend, p: &str) -> Verdict {
    let key = format!("{p}a");
    let start = store.list(&KeyRanges::prefix(p)).await.map_err(text)?.revision;
    let mut watch = store.watch(&KeyRanges::prefix(p), start).await.map_err(text)?;
    let first = put(store, &key, Expect::Absent, b"1").await.map_err(text)?;
    let second = put(store, &key, Expect::Any, b"2").await.map_err(text)?;
    let third = delete(store, &key, Expect::Any).await.map_err(text)?;
    let found = events(&mut watch, 3).await?;
    let seen: Vec<_> = found.iter().map(|event| (event.value.as_deref(), event.revision)).collect();
    expect("events", seen, vec![(Some(&b"1"[..]), first), (Some(&b"2"[..]), second), (None, third)])
}

async fn watch_resume(store: &dyn Backend, p: &str) -> Verdict {
    let mut revisions = Vec::new();
    for n in 0..6 {
        revisions.push(put(store, &format!("{p}{n}"), Expect::Absent, b"1").await.map_err(text)?);
    }
    let from = revisions.get(2).copied().ok_or("no revision")?;
    let mut watch = store.watch(&KeyRanges::prefix(p), from).await.map_err(text)?;
    let found = events(&mut watch, 3).await?;
    let got: Vec<u64> = found.iter().map(|event| event.revision).collect();
    expect("revisions", got, revisions.split_off(3))
}

async fn watch_ranges(store: &dyn Backend, p: &str) -> Verdict {
    let ranges = KeyRanges::new([KeyRange::Prefix(format!("{p}in/")), KeyRange::Exact(format!("{p}one"))]);
    let start = store.info().await.map_err(text)?.revision;
    let mut watch = store.watch(&ranges, start).await.map_err(text)?;
    for name in ["out/1", "in/1", "one", "one/not", "inn", "in/2"] {
        put(store, &format!("{p}{name}"), Expect::Absent, b"1").await.map_err(text)?;
    }
    let found = events(&mut watch, 3).await?;
    let keys: Vec<&str> = found.iter().filter_map(|event| event.key.strip_prefix(p)).collect();
    expect("keys", keys, vec!["in/1", "one", "in/2"])
}

async fn watch_batches(store: &dyn Backend, p: &str) -> Verdict {
    let start = store.info().await.map_err(text)?.revision;
    let mut watch = store.watch(&KeyRanges::prefix(p), start).await.map_err(text)?;
    let writes = (0..50).map(|n| RawWrite::put(format!("{p}{n:02}"), Expect::Absent, *b"1")).collect();
    let revision = store.txn(writes).await.map_err(text)?.revision;
    loop {
        let batch = next(&mut watch).await?;
        if !batch.events.is_empty() {
            expect("events of the batch", batch.events.len(), 50)?;
            return ensure("the batch reaches the revision", batch.revision >= revision);
        }
    }
}

async fn delete_revision(store: &dyn Backend, p: &str) -> Verdict {
    let key = format!("{p}a");
    put(store, &key, Expect::Absent, b"1").await.map_err(text)?;
    let start = put(store, &format!("{p}b"), Expect::Absent, b"1").await.map_err(text)?;
    let deleted = delete(store, &key, Expect::Any).await.map_err(text)?;
    let mut watch = store.watch(&KeyRanges::prefix(p), start).await.map_err(text)?;
    let found = events(&mut watch, 1).await?;
    let event = found.first().ok_or("no event")?;
    expect(
        "event",
        (event.key.as_str(), event.value.is_none(), event.revision),
        (key.as_str(), true, deleted),
    )
}

async fn watch_future(store: &dyn Backend, p: &str) -> Verdict {
    let future = store.info().await.map_err(text)?.revision + 1_000_000;
    let ranges = KeyRanges::prefix(p);
    match store.watch(&ranges, future).await {
        Err(error) => expect("error", error.is_expired(), true),
        // A server may notice only after the stream is open.
        Ok(mut watch) => match tokio::time::timeout(PATIENCE, watch.next()).await {
            Ok(Some(Err(error))) => expect("error", error.is_expired(), true),
            other => Err(format!("expected Expired, got {other:?}")),
        },
    }
}

async fn list_then_watch(store: &dyn Backend, p: &str) -> Verdict {
    let ranges = KeyRanges::prefix(p);
    let writer = async {
        for n in 0..200 {
            put(store, &format!("{p}{}", n % 20), Expect::Any, n.to_string().as_bytes())
                .await
                .map_err(text)?;
        }
        put(store, &format!("{p}end"), Expect::Absent, b"end").await.map_err(text)
    };
    let reader = async {
        tokio::task::yield_now().await;
        let list = store.list(&ranges).await.map_err(text)?;
        let mut state: std::collections::BTreeMap<String, Vec<u8>> =
            list.entries.iter().map(|entry| (entry.key.clone(), entry.value.to_vec())).collect();
        let mut watch = store.watch(&ranges, list.revision).await.map_err(text)?;
        let mut last = list.revision;
        while !state.contains_key(&format!("{p}end")) {
            for event in next(&mut watch).await?.events {
                ensure("revisions never step back", event.revision >= last)?;
                last = event.revision;
                match event.value {
                    Some(value) => state.insert(event.key, value.to_vec()),
                    None => state.remove(&event.key),
                };
            }
        }
        Ok::<_, String>(state)
    };
    let (written, state) = futures::join!(writer, reader);
    written?;
    let state = state?;
    let list = store.list(&ranges).await.map_err(text)?;
    let want = list.entries.iter().map(|entry| (entry.key.clone(), entry.value.to_vec())).collect();
    expect("state", state, want)
}

async fn contention(store: &dyn Backend, p: &str) -> Verdict {
    let key = format!("{p}counter");
    put(store, &key, Expect::Absent, b"0").await.map_err(text)?;
    let add = async || -> Result<(), String> {
        for _ in 0..10 {
            loop {
                let entry = store.get(&key).await.map_err(text)?.ok_or("counter gone")?;
                let number: u32 = std::str::from_utf8(&entry.value)
                    .ok()
                    .and_then(|t| t.parse().ok())
                    .ok_or("not a number")?;
                let next = (number + 1).to_string();
                match put(store, &key, Expect::Revision(entry.revision), next.as_bytes()).await {
                    Ok(_) => break,
                    Err(error) if error.is_conflict() => {}
                    Err(error) => return Err(text(error)),
                }
            }
        }
        Ok(())
    };
    for result in futures::future::join_all((0..5).map(|_| add())).await {
        result?;
    }
    let entry = store.get(&key).await.map_err(text)?.ok_or("counter gone")?;
    expect("counter", &*entry.value, b"50".as_slice())
}

async fn time_to_live(store: &dyn Backend, p: &str) -> Verdict {
    let key = format!("{p}a");
    let start = store.info().await.map_err(text)?.revision;
    let mut watch = store.watch(&KeyRanges::prefix(p), start).await.map_err(text)?;
    let write = RawWrite::put(&*key, Expect::Absent, *b"1").with_ttl(Duration::from_secs(1));
    store.txn(vec![write]).await.map_err(text)?;
    ensure("there at first", store.get(&key).await.map_err(text)?.is_some())?;
    let found = events(&mut watch, 2).await?;
    let last = found.last().ok_or("no event")?;
    expect("expiry is a deletion", (last.key.as_str(), last.value.is_none()), (key.as_str(), true))?;
    expect("gone", store.get(&key).await.map_err(text)?, None)
}
