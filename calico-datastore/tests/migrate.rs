//! Nothing is lost and nothing is added when a store moves.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;

use calico_datastore::migrate::{self, Target};
use calico_datastore::{
    Backend, Client, Expect, Initialization, KeyRanges, MemoryStore, RawWrite, SqliteOptions, SqliteStore,
    Store, StoreError,
};
use calico_model::{AnyResource, Kind};

async fn filled() -> MemoryStore {
    let store = MemoryStore::new();
    let client = Client::new(Arc::new(Store::new(store.clone())));
    client.ensure_initialized(&Initialization::default()).await.unwrap();
    let put = |key: &str, value: &[u8]| RawWrite::put(key, Expect::Any, value);
    let block = br#"{"cidr":"10.65.0.0/30","affinity":"host:n","allocations":[0,null,null,null],"unallocated":[1,2,3],"attributes":[{"handle_id":"h"}],"sequenceNumber":5,"deleted":false,"x":"\u003c"}"#;
    let mut writes = vec![
        put("/calico/ipam/v2/assignment/ipv4/block/10.65.0.0-30", block),
        put("/calico/ipam/v2/host/n/ipv4/block/10.65.0.0-30", b""),
        put("/calico/v1/Ready", b"true"),
        put("/calico/unknown/future", &[0xff, 0, 1]),
        put("/registry/namespaces/prod", br#"{"kind":"Namespace"}"#),
        put("/calico/felix/v2/no-region/host/n/status", b"{}"),
    ];
    writes.extend((0..100).map(|n| put(&format!("/calico/v1/config/{n:03}"), &vec![b'x'; 20_000])));
    store.txn(writes).await.unwrap();
    store
}

/// Paths and values; revisions belong to a store and do not move.
async fn contents(store: &dyn Backend) -> Vec<(String, Vec<u8>)> {
    let list = store.list(&KeyRanges::prefix("/")).await.unwrap();
    list.entries.into_iter().map(|entry| (entry.key, entry.value.to_vec())).collect()
}

#[tokio::test]
async fn round_trip_through_sqlite_and_a_file() {
    let origin = filled().await;
    let mut want = contents(&origin).await;
    want.retain(|(key, _)| !key.ends_with("/status"));
    let directory = tempfile::tempdir().unwrap();
    let sqlite = SqliteStore::open(SqliteOptions::new(directory.path().join("calico.db"))).unwrap();
    let done = migrate::copy(&origin, &sqlite, Target::MustBeEmpty).await.unwrap();
    assert_eq!((done.written, done.deleted), (want.len(), 0));
    assert_eq!(contents(&sqlite).await, want);
    let mut file = Vec::new();
    migrate::export(&sqlite, &mut file).await.unwrap();
    let last = MemoryStore::new();
    migrate::import(&last, &file[..], Target::MustBeEmpty).await.unwrap();
    assert_eq!(contents(&last).await, want);
}

#[tokio::test]
async fn a_target_in_use_is_protected() {
    let (origin, target) = (filled().await, MemoryStore::new());
    target.txn(vec![RawWrite::put("/calico/v1/config/Old", Expect::Any, *b"1")]).await.unwrap();
    let error = migrate::copy(&origin, &target, Target::MustBeEmpty).await.unwrap_err();
    assert!(matches!(error, StoreError::Exists { key, .. } if key == "/calico/v1/config/Old"));
    assert_eq!(contents(&target).await.len(), 1);
    let done = migrate::copy(&origin, &target, Target::Replace).await.unwrap();
    assert_eq!(done.deleted, 1);
    assert_eq!(target.get("/calico/v1/config/Old").await.unwrap(), None);
}

#[tokio::test]
async fn a_failed_import_leaves_the_target_locked() {
    use calico_datastore::Operation;
    let (origin, target) = (filled().await, MemoryStore::new());
    let fault = StoreError::Unreachable { store: "memory".into(), reason: "injected".into() };
    // The first transaction writes the lock, the second one the first entries.
    target.fail_next(Operation::TxnAfterCommit, fault.clone());
    assert_eq!(migrate::copy(&origin, &target, Target::MustBeEmpty).await, Err(fault));
    let client = Client::new(Arc::new(Store::new(target)));
    let AnyResource::ClusterInformation(information) =
        client.get(Kind::ClusterInformation, "", "default").await.unwrap()
    else {
        panic!("not cluster information")
    };
    assert_eq!(information.spec.datastore_ready, Some(false));
}

#[tokio::test]
async fn lock_and_unlock() {
    let store = MemoryStore::new();
    let client = Client::new(Arc::new(Store::new(store)));
    client.ensure_initialized(&Initialization::default()).await.unwrap();
    let ready = async || match client.get(Kind::ClusterInformation, "", "default").await.unwrap() {
        AnyResource::ClusterInformation(information) => information.spec.datastore_ready,
        other => panic!("{other:?}"),
    };
    migrate::lock(&client).await.unwrap();
    assert_eq!(ready().await, Some(false));
    client.ensure_initialized(&Initialization::default()).await.unwrap();
    assert_eq!(ready().await, Some(false), "a start of the agent does not unlock");
    migrate::unlock(&client).await.unwrap();
    assert_eq!(ready().await, Some(true));
}

#[tokio::test]
async fn damaged_files_are_refused_before_anything_is_written() {
    let mut file = Vec::new();
    migrate::export(&filled().await, &mut file).await.unwrap();
    let text = String::from_utf8(file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let cut = lines[..lines.len() - 1].join("\n");
    let gap = [&lines[..3], &lines[4..]].concat().join("\n");
    let headless = lines[1..].join("\n");
    let swapped = [&lines[..1], &lines[2..3], &lines[1..2], &lines[3..]].concat().join("\n");
    let future = text.replacen("\"calico_datastore_export\":1", "\"calico_datastore_export\":2", 1);
    let torn = text.replacen("\"path\"", "\"pa", 1);
    let more = format!("{text}{{}}\n");
    for (name, damaged) in [
        ("cut", cut),
        ("gap", gap),
        ("headless", headless),
        ("swapped", swapped),
        ("future", future),
        ("torn", torn),
        ("more", more),
        ("empty", String::new()),
    ] {
        let target = MemoryStore::new();
        let error = migrate::import(&target, damaged.as_bytes(), Target::MustBeEmpty).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::Invalid { field, .. } if field.starts_with("line ")),
            "{name}: {error}"
        );
        assert!(contents(&target).await.is_empty(), "{name}");
    }
}
