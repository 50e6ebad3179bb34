//! The same store for programs without an async runtime: the CNI plugins and one-shot commands.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use calico_model::{Key, Revision, Value};

use crate::backend::StoreInfo;
use crate::config::DatastoreConfig;
use crate::datastore::{Datastore, KvPair, List, TxnDone, Write};
use crate::error::StoreError;
use crate::open::Role;
use crate::request::ListRequest;

/// A [`Datastore`] whose calls wait on the calling thread.
///
/// Must not be used from within a tokio runtime; there, use the [`Datastore`] itself.
///
/// ```
/// use calico_datastore::{Blocking, ListRequest, SqliteOptions, SqliteStore, Store};
/// use calico_model::{Key, Value};
/// let directory = tempfile::tempdir().unwrap();
/// let sqlite = SqliteStore::open(SqliteOptions::new(directory.path().join("calico.db")))?;
/// let store = Blocking::new(std::sync::Arc::new(Store::new(sqlite)));
/// store.create(Key::ReadyFlag, Value::ReadyFlag(true))?;
/// assert_eq!(store.get(&Key::ReadyFlag)?.unwrap().value, Value::ReadyFlag(true));
/// assert_eq!(store.list(&ListRequest::everything())?.items.len(), 1);
/// # Ok::<(), calico_datastore::StoreError>(())
/// ```
pub struct Blocking {
    store: Arc<dyn Datastore>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl std::fmt::Debug for Blocking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blocking").field("runtime", &self.runtime.is_some()).finish_non_exhaustive()
    }
}

impl Blocking {
    /// Opens the configured store.
    ///
    /// # Errors
    /// As [`crate::open`].
    pub fn open(config: &DatastoreConfig, role: Role) -> Result<Self, StoreError> {
        let store = crate::open(config, role)?;
        match config {
            DatastoreConfig::Sqlite { .. } => Ok(Self::new(store)),
            _ => Self::with_runtime(store),
        }
    }

    /// For stores that need no runtime (SQLite, memory): calls run on the calling thread, none is started.
    pub fn new(store: Arc<dyn Datastore>) -> Self {
        Self { store, runtime: None }
    }

    /// For stores that talk over the network: brings a single-threaded runtime along.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when the operating system refuses.
    pub fn with_runtime(store: Arc<dyn Datastore>) -> Result<Self, StoreError> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
                StoreError::Failed { store: "async runtime".to_owned(), reason: error.to_string() }
            })?;
        Ok(Self { store, runtime: Some(runtime) })
    }

    /// The store underneath.
    pub fn inner(&self) -> &Arc<dyn Datastore> {
        &self.store
    }

    /// Waits for any future that uses the store.
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        match &self.runtime {
            Some(runtime) => runtime.block_on(work),
            None => park(work),
        }
    }

    /// See [`Datastore::get`].
    pub fn get(&self, key: &Key) -> Result<Option<KvPair>, StoreError> {
        self.wait(self.store.get(key))
    }

    /// See [`Datastore::list`].
    pub fn list(&self, request: &ListRequest) -> Result<List, StoreError> {
        self.wait(self.store.list(request))
    }

    /// See [`Datastore::create`].
    pub fn create(&self, key: Key, value: Value) -> Result<KvPair, StoreError> {
        self.wait(self.store.create(key, value))
    }

    /// See [`Datastore::update`].
    pub fn update(&self, key: Key, value: Value, revision: Revision) -> Result<KvPair, StoreError> {
        self.wait(self.store.update(key, value, revision))
    }

    /// See [`Datastore::apply`].
    pub fn apply(&self, key: Key, value: Value) -> Result<KvPair, StoreError> {
        self.wait(self.store.apply(key, value))
    }

    /// See [`Datastore::delete`].
    pub fn delete(&self, key: Key, revision: Option<Revision>) -> Result<Option<KvPair>, StoreError> {
        self.wait(self.store.delete(key, revision))
    }

    /// See [`Datastore::txn`].
    pub fn txn(&self, writes: Vec<Write>) -> Result<TxnDone, StoreError> {
        self.wait(self.store.txn(writes))
    }

    /// See [`Datastore::info`].
    pub fn info(&self) -> Result<StoreInfo, StoreError> {
        self.wait(self.store.info())
    }
}

/// Polls on this thread and sleeps between wake-ups.
fn park<T>(work: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut work = std::pin::pin!(work);
    loop {
        match work.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}
