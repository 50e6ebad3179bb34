//! Every backend passes the same suite.

use calico_datastore::{Backend, MemoryStore, SqliteOptions, SqliteStore, conformance};

async fn passes(store: &dyn Backend) {
    let failed: Vec<_> =
        conformance::run(store).await.into_iter().filter(|outcome| outcome.failure.is_some()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory() {
    passes(&MemoryStore::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(SqliteOptions::new(directory.path().join("calico.db"))).unwrap();
    passes(&store).await;
}

#[tokio::test]
async fn sqlite_on_one_thread() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(SqliteOptions::new(directory.path().join("calico.db"))).unwrap();
    passes(&store).await;
}
