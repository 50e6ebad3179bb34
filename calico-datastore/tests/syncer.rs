//! The local picture equals the store, whatever happens in between.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use calico_datastore::{
    Backend, Datastore, Expect, ListRequest, MemoryStore, Operation, RawWrite, Store, StoreError, SyncEvent,
    SyncStatus, Syncer, SyncerOptions,
};
use calico_model::{AnyResource, Key, Kind, NetworkSet, NetworkSetSpec, Value};

fn quick() -> SyncerOptions {
    SyncerOptions {
        min_resync_interval: Duration::from_millis(5),
        min_retry: Duration::from_millis(1),
        max_retry: Duration::from_millis(10),
        ..SyncerOptions::default()
    }
}

fn away() -> StoreError {
    StoreError::Unreachable { store: "memory".into(), reason: "injected".into() }
}

fn key(name: &str) -> Key {
    Key::resource(Kind::NetworkSet, "prod", name)
}

fn value(name: &str, net: &str) -> Value {
    let spec = NetworkSetSpec { nets: vec![net.to_owned()] };
    AnyResource::from(NetworkSet::new(name, spec).in_namespace("prod")).into()
}

/// A consumer that checks the promises about order while it builds its picture.
struct Picture {
    syncer: Syncer,
    objects: BTreeMap<Key, Value>,
    statuses: Vec<SyncStatus>,
    failures: Vec<String>,
    deletions: usize,
}

impl Picture {
    fn new(syncer: Syncer) -> Self {
        Self { syncer, objects: BTreeMap::new(), statuses: vec![], failures: vec![], deletions: 0 }
    }

    async fn step(&mut self) {
        let event = tokio::time::timeout(Duration::from_secs(10), self.syncer.next()).await.unwrap().unwrap();
        match event {
            SyncEvent::Status(status) => {
                assert_ne!(self.statuses.last(), Some(&status), "a status is sent once");
                self.statuses.push(status);
            }
            SyncEvent::ParseFailed(failure) => self.failures.push(failure.key),
            SyncEvent::Updates(updates) => {
                assert!(!updates.is_empty());
                for update in updates {
                    match update.value {
                        Some(value) => {
                            self.objects.insert(update.key, value);
                        }
                        None => {
                            assert!(self.objects.remove(&update.key).is_some(), "deletion of an unknown key");
                            self.deletions += 1;
                        }
                    }
                }
            }
        }
    }

    async fn until(&mut self, mut done: impl FnMut(&Self) -> bool) {
        while !done(self) {
            self.step().await;
        }
    }

    async fn in_sync(&mut self, times: usize) {
        self.until(|p| p.statuses.iter().filter(|s| **s == SyncStatus::InSync).count() >= times).await;
    }
}

async fn contents(store: &dyn Datastore) -> BTreeMap<Key, Value> {
    let list = store.list(&ListRequest::kind(Kind::NetworkSet)).await.unwrap();
    list.items.into_iter().map(|item| (item.key, item.value)).collect()
}

fn stores() -> (MemoryStore, Arc<Store<MemoryStore>>) {
    let memory = MemoryStore::new();
    (memory.clone(), Arc::new(Store::new(memory)))
}

#[tokio::test]
async fn statuses_and_changes_come_in_order() {
    let (_, store) = stores();
    store.create(key("a"), value("a", "10.0.0.0/8")).await.unwrap();
    let mut picture =
        Picture::new(Syncer::start(store.clone(), ListRequest::kind(Kind::NetworkSet), quick()));
    picture.in_sync(1).await;
    assert_eq!(picture.statuses, [SyncStatus::WaitForDatastore, SyncStatus::Resync, SyncStatus::InSync]);
    assert_eq!(picture.objects, contents(&*store).await);
    store.apply(key("a"), value("a", "11.0.0.0/8")).await.unwrap();
    store.create(key("b"), value("b", "12.0.0.0/8")).await.unwrap();
    store.delete(key("a"), None).await.unwrap();
    picture.until(|p| p.deletions == 1 && p.objects.len() == 1).await;
    assert_eq!(picture.objects, contents(&*store).await);
    assert_eq!(picture.syncer.stats().resyncs(), 1);
}

#[tokio::test]
async fn deletions_in_a_gap_are_found_on_resync() {
    let (memory, store) = stores();
    for name in ["a", "b", "c"] {
        store.create(key(name), value(name, "10.0.0.0/8")).await.unwrap();
    }
    let mut picture =
        Picture::new(Syncer::start(store.clone(), ListRequest::kind(Kind::NetworkSet), quick()));
    picture.in_sync(1).await;
    memory.fail_next(Operation::WatchStream, away());
    memory.fail_next(Operation::Watch, away());
    store.delete(key("a"), None).await.unwrap();
    store.delete(key("b"), None).await.unwrap();
    memory.compact();
    picture.in_sync(2).await;
    assert_eq!(picture.deletions, 2);
    assert_eq!(picture.objects, contents(&*store).await);
    // The unchanged object was not sent again.
    assert_eq!(picture.syncer.stats().updates(), 5);
}

#[tokio::test]
async fn a_store_made_anew_is_noticed() {
    let (memory, store) = stores();
    store.create(key("old"), value("old", "10.0.0.0/8")).await.unwrap();
    let mut picture =
        Picture::new(Syncer::start(store.clone(), ListRequest::kind(Kind::NetworkSet), quick()));
    picture.in_sync(1).await;
    memory.recreate();
    store.create(key("new"), value("new", "10.0.0.0/8")).await.unwrap();
    picture.until(|p| p.objects.contains_key(&key("new")) && p.deletions == 1).await;
    assert_eq!(picture.objects, contents(&*store).await);
}

#[tokio::test]
async fn unreadable_values_keep_the_last_good_one() {
    let (memory, store) = stores();
    store.create(key("a"), value("a", "10.0.0.0/8")).await.unwrap();
    let good = contents(&*store).await;
    let mut picture =
        Picture::new(Syncer::start(store.clone(), ListRequest::kind(Kind::NetworkSet), quick()));
    picture.in_sync(1).await;
    let path = key("a").path();
    memory.txn(vec![RawWrite::put(&*path, Expect::Any, *b"{\"spec\": 7")]).await.unwrap();
    picture.until(|p| p.failures.len() == 1).await;
    assert_eq!(picture.objects, good);
    // A full resync does not take the unreadable entry for a deleted one.
    memory.compact();
    memory.fail_next(Operation::WatchStream, StoreError::Expired { requested: 1, oldest: 2 });
    picture.in_sync(2).await;
    assert_eq!((picture.failures.len(), &picture.objects), (2, &good));
    assert_eq!(picture.failures, [path.clone(), path]);
    store.apply(key("a"), value("a", "11.0.0.0/8")).await.unwrap();
    picture.until(|p| p.objects != good).await;
    assert_eq!(picture.objects, contents(&*store).await);
}

#[tokio::test]
async fn a_store_that_is_away_is_waited_for() {
    let (memory, store) = stores();
    for _ in 0..5 {
        memory.fail_next(Operation::List, away());
    }
    let options = SyncerOptions { disconnected_after: Duration::ZERO, ..quick() };
    let mut picture =
        Picture::new(Syncer::start(store.clone(), ListRequest::kind(Kind::NetworkSet), options));
    picture.in_sync(1).await;
    assert_eq!(picture.statuses, [SyncStatus::WaitForDatastore, SyncStatus::Resync, SyncStatus::InSync]);
    assert_eq!(picture.syncer.stats().failures(), 5);
}

#[tokio::test]
async fn a_watch_that_keeps_failing_leads_to_a_list() {
    let (memory, store) = stores();
    for _ in 0..7 {
        memory.fail_next(Operation::Watch, away());
    }
    let mut picture =
        Picture::new(Syncer::start(store.clone(), ListRequest::kind(Kind::NetworkSet), quick()));
    picture.in_sync(2).await;
    store.create(key("a"), value("a", "10.0.0.0/8")).await.unwrap();
    picture.until(|p| p.objects.len() == 1).await;
    assert_eq!(picture.syncer.stats().resyncs(), 2);
}

#[tokio::test]
async fn a_slow_consumer_ends_at_the_truth() {
    let (_, store) = stores();
    let options = SyncerOptions { queue: 1, batch: 10, ..quick() };
    let mut picture =
        Picture::new(Syncer::start(store.clone(), ListRequest::kind(Kind::NetworkSet), options));
    picture.in_sync(1).await;
    for n in 0..500 {
        let name = format!("set-{}", n % 37);
        if n % 5 == 4 {
            let _ = store.delete(key(&name), None).await;
        } else {
            store.apply(key(&name), value(&name, &format!("10.{}.0.0/16", n % 250))).await.unwrap();
        }
    }
    let truth = contents(&*store).await;
    picture.until(|p| p.objects == truth).await;
}

#[tokio::test]
async fn dropping_the_syncer_ends_its_task() {
    let (_, store) = stores();
    let syncer = Syncer::start(store.clone(), ListRequest::kind(Kind::NetworkSet), quick());
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(Arc::strong_count(&store) > 1);
    drop(syncer);
    for _ in 0..100 {
        if Arc::strong_count(&store) == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the task still runs");
}
