//! The typed view of a store: keys, values, revisions of the model.

use std::sync::Arc;
use std::time::Duration;

use calico_model::{Key, Revision, Update, Value};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};

use crate::backend::{Backend, Bytes, Change, Committed, Expect, RawBatch, RawEntry, RawWrite, StoreInfo};
use crate::codec;
use crate::error::StoreError;
use crate::request::ListRequest;

/// One object with its revision.
#[derive(Debug, Clone, PartialEq)]
pub struct KvPair {
    /// Name of the object.
    pub key: Key,
    /// Content. Resources carry the revision as resource version.
    pub value: Value,
    /// Revision of the last write of this object.
    pub revision: Revision,
}

/// A stored value that cannot be read. The last good value, if any, stays valid for consumers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseFailure {
    /// Path.
    pub key: String,
    /// Stored bytes.
    pub value: Bytes,
    /// Where and why reading stopped.
    pub reason: String,
    /// Revision of the entry.
    pub revision: Revision,
}

/// Objects at one revision.
#[derive(Debug, Clone, PartialEq)]
pub struct List {
    /// Objects sorted by path.
    pub items: Vec<KvPair>,
    /// Entries that cannot be read.
    pub failures: Vec<ParseFailure>,
    /// Revision of the list; watch from here.
    pub revision: Revision,
}

/// What a watch delivers.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchEvent {
    /// An object was written or deleted.
    Update(Update),
    /// An object was written that cannot be read.
    ParseFailed(ParseFailure),
    /// Everything up to this revision has been delivered; a later watch may start from it.
    Bookmark(Revision),
}

/// Stream of a watch. It ends after its first error.
pub type Watch = BoxStream<'static, Result<WatchEvent, StoreError>>;

/// One conditional write of a transaction.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// Name of the object.
    pub key: Key,
    /// Condition.
    pub condition: Condition,
    /// Effect.
    pub effect: Effect,
}

/// Condition of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// None.
    Any,
    /// The object is not there.
    Absent,
    /// The object is there.
    Present,
    /// The object has this revision.
    Revision(Revision),
}

/// Effect of a write.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Store the value, for a limited time if one is given.
    Put(Value, Option<Duration>),
    /// Delete the object.
    Delete,
    /// None: only the condition counts.
    Check,
}

impl Write {
    /// Store a new object; fails when it exists.
    pub fn create(key: Key, value: Value) -> Self {
        Self { key, condition: Condition::Absent, effect: Effect::Put(value, None) }
    }

    /// Replace an object that has this revision.
    pub fn update(key: Key, value: Value, revision: Revision) -> Self {
        Self { key, condition: Condition::Revision(revision), effect: Effect::Put(value, None) }
    }

    /// Store whatever is there.
    pub fn apply(key: Key, value: Value) -> Self {
        Self { key, condition: Condition::Any, effect: Effect::Put(value, None) }
    }

    /// Delete an object; when a revision is given only that one.
    pub fn delete(key: Key, revision: Option<Revision>) -> Self {
        let condition = revision.map_or(Condition::Present, Condition::Revision);
        Self { key, condition, effect: Effect::Delete }
    }

    /// Only make sure that an object has this revision.
    pub fn check(key: Key, revision: Revision) -> Self {
        Self { key, condition: Condition::Revision(revision), effect: Effect::Check }
    }

    /// Let the value disappear by itself after a time.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        if let Effect::Put(_, limit) = &mut self.effect {
            *limit = Some(ttl);
        }
        self
    }
}

/// Answer to a transaction.
#[derive(Debug, Clone, PartialEq)]
pub struct TxnDone {
    /// Revision of all its writes.
    pub revision: Revision,
    /// What each write replaced or deleted, in order; `None` too where the old bytes could not be read.
    pub previous: Vec<Option<KvPair>>,
}

/// A typed store. Programs hold an `Arc<dyn Datastore>`.
///
/// Revisions are opaque and only comparable by equality. Consumers that need all changes list, then watch from
/// the revision of the list; [`crate::Syncer`] does that with all its corner cases.
pub trait Datastore: Send + Sync + 'static {
    /// One object, `None` when it is not there.
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KvPair>, StoreError>>;

    /// Objects at one revision.
    fn list<'a>(&'a self, request: &'a ListRequest) -> BoxFuture<'a, Result<List, StoreError>>;

    /// All writes or none. Stores that cannot write several keys at once answer
    /// [`StoreError::NotSupported`] to more than one.
    fn txn(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<TxnDone, StoreError>>;

    /// Changes after a revision.
    fn watch<'a>(
        &'a self,
        request: &'a ListRequest,
        from: &'a Revision,
    ) -> BoxFuture<'a, Result<Watch, StoreError>>;

    /// Identity, place and newest revision of the store.
    fn info(&self) -> BoxFuture<'_, Result<StoreInfo, StoreError>>;

    /// Whether [`Datastore::txn`] takes several writes.
    fn has_transactions(&self) -> bool {
        true
    }

    /// Stores a new object.
    ///
    /// Fails with [`StoreError::Exists`] when it is there.
    fn create(&self, key: Key, value: Value) -> BoxFuture<'_, Result<KvPair, StoreError>> {
        put(self.txn(vec![Write::create(key.clone(), value.clone())]), key, value)
    }

    /// Replaces an object that still has the revision the caller read.
    ///
    /// Fails with [`StoreError::Conflict`] or [`StoreError::Missing`].
    fn update(
        &self,
        key: Key,
        value: Value,
        revision: Revision,
    ) -> BoxFuture<'_, Result<KvPair, StoreError>> {
        put(self.txn(vec![Write::update(key.clone(), value.clone(), revision)]), key, value)
    }

    /// Stores an object whatever was there.
    fn apply(&self, key: Key, value: Value) -> BoxFuture<'_, Result<KvPair, StoreError>> {
        put(self.txn(vec![Write::apply(key.clone(), value.clone())]), key, value)
    }

    /// Deletes an object and returns it; `None` when its bytes could not be read.
    ///
    /// Fails with [`StoreError::Missing`] or [`StoreError::Conflict`].
    fn delete(
        &self,
        key: Key,
        revision: Option<Revision>,
    ) -> BoxFuture<'_, Result<Option<KvPair>, StoreError>> {
        let done = self.txn(vec![Write::delete(key, revision)]);
        Box::pin(async move { Ok(done.await?.previous.into_iter().next().flatten()) })
    }
}

/// Waits for a put and returns the object as it is now stored.
fn put<'a>(
    done: BoxFuture<'a, Result<TxnDone, StoreError>>,
    key: Key,
    value: Value,
) -> BoxFuture<'a, Result<KvPair, StoreError>> {
    Box::pin(async move {
        let revision = done.await?.revision;
        Ok(KvPair { key, value: versioned(value, &revision), revision })
    })
}

/// The value with the resource version that a reader would see.
fn versioned(mut value: Value, revision: &Revision) -> Value {
    if let Value::Resource(resource) = &mut value {
        Arc::make_mut(resource).metadata_mut().resource_version = revision.as_str().to_owned();
    }
    value
}

/// [`Datastore`] over a key-value [`Backend`].
///
/// ```
/// use calico_datastore::{Datastore, MemoryStore, Store};
/// use calico_model::{AnyResource, Key, Kind, Tier, TierSpec};
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let store = Store::new(MemoryStore::new());
/// let key = Key::resource(Kind::Tier, "", "platform");
/// let tier = AnyResource::from(Tier::new("platform", TierSpec::default()));
/// let created = store.create(key.clone(), tier.into()).await?;
/// let read = store.get(&key).await?.unwrap();
/// assert_eq!(read.revision, created.revision);
/// assert_eq!(read.value.as_resource().unwrap().metadata().resource_version, read.revision.as_str());
/// # Ok::<(), calico_datastore::StoreError>(()) }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct Store<B> {
    backend: B,
}

impl<B: Backend> Store<B> {
    /// Wraps a backend.
    pub fn new(backend: B) -> Self {
        Self { backend }
    }

    /// The bytes underneath.
    pub fn backend(&self) -> &B {
        &self.backend
    }
}

fn number(key: &Key, revision: &Revision) -> Result<u64, StoreError> {
    revision.as_str().parse().map_err(|_| {
        StoreError::invalid(
            key.path(),
            "metadata.resourceVersion",
            "not a revision of this store; read the object again",
        )
    })
}

fn raw(write: Write) -> Result<RawWrite, StoreError> {
    let expect = match &write.condition {
        Condition::Any => Expect::Any,
        Condition::Absent => Expect::Absent,
        Condition::Present => Expect::Present,
        Condition::Revision(revision) => Expect::Revision(number(&write.key, revision)?),
    };
    let change = match write.effect {
        Effect::Put(value, ttl) => Change::Put { value: codec::encode(&value), ttl },
        Effect::Delete => Change::Delete,
        Effect::Check => Change::Check,
    };
    Ok(RawWrite { key: write.key.path(), expect, change })
}

/// Decodes one entry. `None` for keys that this version does not know.
fn typed(path: &str, bytes: &Bytes, revision: u64) -> Option<Result<KvPair, ParseFailure>> {
    let key = match Key::parse(path) {
        Ok(key) => key,
        Err(error) => {
            tracing::debug!(path, %error, "entry with an unknown key is ignored");
            return None;
        }
    };
    let revision = Revision::from(revision);
    Some(match codec::decode(&key, bytes, &revision) {
        Ok(value) => Ok(KvPair { key, value, revision }),
        Err(error) => Err(ParseFailure {
            key: path.to_owned(),
            value: bytes.clone(),
            reason: error.to_string(),
            revision,
        }),
    })
}

/// The typed form of what a store reported with a conflict.
pub(crate) fn typed_entry(entry: &RawEntry) -> Option<KvPair> {
    typed(&entry.key, &entry.value, entry.revision)?.ok()
}

impl StoreError {
    /// The object that was there when a create or compare-and-swap lost.
    pub fn current_object(&self) -> Option<KvPair> {
        self.current().and_then(typed_entry)
    }
}

impl<B: Backend> Datastore for Store<B> {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KvPair>, StoreError>> {
        Box::pin(async move {
            let path = key.path();
            let Some(entry) = self.backend.get(&path).await? else { return Ok(None) };
            let revision = Revision::from(entry.revision);
            let value = codec::decode(key, &entry.value, &revision)?;
            Ok(Some(KvPair { key: key.clone(), value, revision }))
        })
    }

    fn list<'a>(&'a self, request: &'a ListRequest) -> BoxFuture<'a, Result<List, StoreError>> {
        Box::pin(async move {
            let raw = self.backend.list(request.ranges()).await?;
            let mut list = List {
                items: Vec::with_capacity(raw.entries.len()),
                failures: Vec::new(),
                revision: Revision::from(raw.revision),
            };
            for entry in &raw.entries {
                match typed(&entry.key, &entry.value, entry.revision) {
                    Some(Ok(item)) => list.items.push(item),
                    Some(Err(failure)) => list.failures.push(failure),
                    None => {}
                }
            }
            Ok(list)
        })
    }

    fn txn(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<TxnDone, StoreError>> {
        Box::pin(async move {
            let writes = writes.into_iter().map(raw).collect::<Result<Vec<_>, _>>()?;
            let Committed { revision, previous } = self.backend.txn(writes).await?;
            Ok(TxnDone {
                revision: Revision::from(revision),
                previous: previous.iter().map(|entry| entry.as_ref().and_then(typed_entry)).collect(),
            })
        })
    }

    fn watch<'a>(
        &'a self,
        request: &'a ListRequest,
        from: &'a Revision,
    ) -> BoxFuture<'a, Result<Watch, StoreError>> {
        Box::pin(async move {
            let from = from.as_str().parse().map_err(|_| StoreError::Expired { requested: 0, oldest: 0 })?;
            let raw = self.backend.watch(request.ranges(), from).await?;
            let typed = raw.flat_map(|batch| {
                stream::iter(match batch {
                    Ok(batch) => events(batch).into_iter().map(Ok).collect(),
                    Err(error) => vec![Err(error)],
                })
            });
            Ok(typed.boxed())
        })
    }

    fn info(&self) -> BoxFuture<'_, Result<StoreInfo, StoreError>> {
        self.backend.info()
    }
}

fn events(batch: RawBatch) -> Vec<WatchEvent> {
    let mut events = Vec::with_capacity(batch.events.len() + 1);
    for event in batch.events {
        match event.value {
            Some(bytes) => match typed(&event.key, &bytes, event.revision) {
                Some(Ok(item)) => {
                    events.push(WatchEvent::Update(Update::set(item.key, item.value, item.revision)))
                }
                Some(Err(failure)) => events.push(WatchEvent::ParseFailed(failure)),
                None => {}
            },
            None => {
                if let Ok(key) = Key::parse(&event.key) {
                    events.push(WatchEvent::Update(Update::deleted(key, Revision::from(event.revision))));
                }
            }
        }
    }
    events.push(WatchEvent::Bookmark(Revision::from(batch.revision)));
    events
}

impl<T: Datastore + ?Sized> Datastore for Arc<T> {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KvPair>, StoreError>> {
        (**self).get(key)
    }

    fn list<'a>(&'a self, request: &'a ListRequest) -> BoxFuture<'a, Result<List, StoreError>> {
        (**self).list(request)
    }

    fn txn(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<TxnDone, StoreError>> {
        (**self).txn(writes)
    }

    fn watch<'a>(
        &'a self,
        request: &'a ListRequest,
        from: &'a Revision,
    ) -> BoxFuture<'a, Result<Watch, StoreError>> {
        (**self).watch(request, from)
    }

    fn info(&self) -> BoxFuture<'_, Result<StoreInfo, StoreError>> {
        (**self).info()
    }

    fn has_transactions(&self) -> bool {
        (**self).has_transactions()
    }
}
