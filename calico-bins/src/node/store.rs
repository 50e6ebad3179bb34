//! The agent's datastore connection, lent to the other programs of the node over its socket.
//!
//! [`perform`] is the agent's side, [`AgentStore`] the client's: a [`Backend`] like any other, so a CNI plugin
//! runs the same code with and without an agent.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use calico_datastore::{
    Backend, Change, Committed, Expect, KeyRange, KeyRanges, RawEntry, RawList, RawWatch, RawWrite,
    StoreError, StoreInfo,
};
use futures::future::BoxFuture;

use super::protocol::{
    Client, ClientError, Failure, FailureClass, Request, Response, StoreChange, StoreExpect, StoreItem,
    StoreOperation, StorePlace, StoreRange, StoreWrite,
};

/// Does `operation` on `backend`.
pub async fn perform(backend: &dyn Backend, operation: StoreOperation) -> Response {
    match try_perform(backend, operation).await {
        Ok(response) => response,
        Err(error) => Response::Error(failure(&error)),
    }
}

async fn try_perform(backend: &dyn Backend, operation: StoreOperation) -> Result<Response, StoreError> {
    Ok(match operation {
        StoreOperation::Get { key } => {
            let entry = backend.get(&key).await?.as_ref().map(item).transpose()?;
            Response::Store { items: vec![entry], revision: 0, info: None }
        }
        StoreOperation::List { ranges } => {
            let ranges = KeyRanges::new(ranges.into_iter().map(|range| match range {
                StoreRange::Exact(key) => KeyRange::Exact(key),
                StoreRange::Prefix(prefix) => KeyRange::Prefix(prefix),
            }));
            let list = backend.list(&ranges).await?;
            let items = list.entries.iter().map(|entry| item(entry).map(Some)).collect::<Result<_, _>>()?;
            Response::Store { items, revision: list.revision, info: None }
        }
        StoreOperation::Txn { writes } => {
            let committed = backend.txn(writes.into_iter().map(raw_write).collect()).await?;
            let items = committed
                .previous
                .iter()
                .map(|entry| entry.as_ref().map(item).transpose())
                .collect::<Result<_, _>>()?;
            Response::Store { items, revision: committed.revision, info: None }
        }
        StoreOperation::Info => {
            let info = backend.info().await?;
            let place = StorePlace { place: info.place, identity: info.identity };
            Response::Store { items: Vec::new(), revision: info.revision, info: Some(place) }
        }
    })
}

fn item(entry: &RawEntry) -> Result<StoreItem, StoreError> {
    let value = std::str::from_utf8(&entry.value)
        .map_err(|e| StoreError::Undecodable { key: entry.key.clone(), reason: e.to_string() })?;
    Ok(StoreItem { key: entry.key.clone(), value: value.to_owned(), revision: entry.revision })
}

fn entry(item: StoreItem) -> RawEntry {
    RawEntry { key: item.key, value: item.value.into_bytes().into(), revision: item.revision }
}

fn raw_write(write: StoreWrite) -> RawWrite {
    let expect = match write.expect {
        StoreExpect::Any => Expect::Any,
        StoreExpect::Absent => Expect::Absent,
        StoreExpect::Present => Expect::Present,
        StoreExpect::Revision(revision) => Expect::Revision(revision),
    };
    let change = match write.change {
        StoreChange::Put(text) => Change::Put { value: text.into_bytes().into(), ttl: None },
        StoreChange::Delete => Change::Delete,
        StoreChange::Check => Change::Check,
    };
    RawWrite { key: write.key, expect, change }
}

fn failure(error: &StoreError) -> Failure {
    let (class, subject, expected) = match error {
        StoreError::Conflict { key, expected, .. } => (FailureClass::Conflict, key.clone(), *expected),
        StoreError::Exists { key, .. } => (FailureClass::Exists, key.clone(), 0),
        StoreError::Missing { key } => (FailureClass::Missing, key.clone(), 0),
        StoreError::Unreachable { store, .. } => (FailureClass::Unreachable, store.clone(), 0),
        StoreError::ReadOnly { store, .. } => (FailureClass::ReadOnly, store.clone(), 0),
        StoreError::Unauthorised { store, .. } => (FailureClass::Denied, store.clone(), 0),
        StoreError::Invalid { key, .. } => (FailureClass::Invalid, key.clone(), 0),
        _ => (FailureClass::Internal, String::new(), 0),
    };
    let current = error.current().and_then(|entry| item(entry).ok());
    Failure { class, subject, message: error.to_string(), expected, current }
}

/// Items, revision and place of an answer.
type Answered = (Vec<Option<StoreItem>>, u64, Option<StorePlace>);

/// A [`Backend`] that asks the node's agent.
#[derive(Debug)]
pub struct AgentStore {
    client: Mutex<Client>,
    path: PathBuf,
    timeout: Duration,
}

impl AgentStore {
    /// Connects to the agent at `path`; each request waits at most `timeout`.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, ClientError> {
        Ok(Self { client: Mutex::new(Client::connect(path)?), path: path.to_owned(), timeout })
    }

    /// Asks the agent anything, over the same connection.
    pub fn ask(&self, request: &Request, timeout: Duration) -> Result<Response, ClientError> {
        // A panic between question and answer would leave a stale answer in the stream, but nothing in
        // there panics: a poisoned lock is as good as any.
        self.client.lock().unwrap_or_else(PoisonError::into_inner).ask(request, timeout)
    }

    fn operate(&self, op: StoreOperation) -> Result<Answered, StoreError> {
        match self.ask(&Request::Store { op }, self.timeout) {
            Ok(Response::Store { items, revision, info }) => Ok((items, revision, info)),
            Ok(Response::Error(failure)) => Err(self.error(failure)),
            Ok(_) => Err(self.failed("it answered another question")),
            Err(error) => Err(StoreError::Unreachable { store: self.name(), reason: error.to_string() }),
        }
    }

    fn name(&self) -> String {
        format!("agent at {}", self.path.display())
    }

    fn failed(&self, reason: impl Into<String>) -> StoreError {
        StoreError::Failed { store: self.name(), reason: reason.into() }
    }

    fn error(&self, failure: Failure) -> StoreError {
        let Failure { class, subject, message, expected, current } = failure;
        let current = current.map(|item| Box::new(entry(item)));
        match class {
            FailureClass::Conflict => StoreError::Conflict { key: subject, expected, current },
            FailureClass::Exists => StoreError::Exists { key: subject, current },
            FailureClass::Missing => StoreError::Missing { key: subject },
            FailureClass::Unreachable => StoreError::Unreachable { store: self.name(), reason: message },
            FailureClass::ReadOnly => StoreError::ReadOnly { store: self.name(), reason: message },
            FailureClass::Denied => StoreError::Unauthorised { store: self.name(), reason: message },
            FailureClass::Invalid => StoreError::invalid(subject, "value", message),
            FailureClass::Internal => self.failed(message),
        }
    }
}

/// The answer is there when the call returns: the socket is asked in place, one question at a time.
impl Backend for AgentStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<RawEntry>, StoreError>> {
        Box::pin(async move {
            let (items, ..) = self.operate(StoreOperation::Get { key: key.to_owned() })?;
            Ok(items.into_iter().flatten().next().map(entry))
        })
    }

    fn list<'a>(&'a self, ranges: &'a KeyRanges) -> BoxFuture<'a, Result<RawList, StoreError>> {
        Box::pin(async move {
            let ranges = ranges
                .as_slice()
                .iter()
                .map(|range| match range {
                    KeyRange::Exact(key) => StoreRange::Exact(key.clone()),
                    KeyRange::Prefix(prefix) => StoreRange::Prefix(prefix.clone()),
                })
                .collect();
            let (items, revision, _) = self.operate(StoreOperation::List { ranges })?;
            Ok(RawList { entries: items.into_iter().flatten().map(entry).collect(), revision })
        })
    }

    fn txn(&self, writes: Vec<RawWrite>) -> BoxFuture<'_, Result<Committed, StoreError>> {
        Box::pin(async move {
            let writes = writes.into_iter().map(store_write).collect::<Result<_, _>>()?;
            let (items, revision, _) = self.operate(StoreOperation::Txn { writes })?;
            Ok(Committed { revision, previous: items.into_iter().map(|item| item.map(entry)).collect() })
        })
    }

    fn watch<'a>(&'a self, _: &'a KeyRanges, _: u64) -> BoxFuture<'a, Result<RawWatch, StoreError>> {
        Box::pin(async move {
            Err(StoreError::NotSupported {
                operation: "watch",
                key: self.name(),
                reason: "open the datastore itself to watch it".to_owned(),
            })
        })
    }

    fn info(&self) -> BoxFuture<'_, Result<StoreInfo, StoreError>> {
        Box::pin(async move {
            let (_, revision, place) = self.operate(StoreOperation::Info)?;
            let place = place.ok_or_else(|| self.failed("it did not say which datastore it uses"))?;
            Ok(StoreInfo { kind: "agent", place: place.place, identity: place.identity, revision })
        })
    }
}

fn store_write(write: RawWrite) -> Result<StoreWrite, StoreError> {
    let expect = match write.expect {
        Expect::Any => StoreExpect::Any,
        Expect::Absent => StoreExpect::Absent,
        Expect::Present => StoreExpect::Present,
        Expect::Revision(revision) => StoreExpect::Revision(revision),
    };
    let change = match write.change {
        Change::Put { value, ttl: None } => StoreChange::Put(
            String::from_utf8(value.to_vec())
                .map_err(|e| StoreError::invalid(&write.key, "value", format!("not UTF-8: {e}")))?,
        ),
        Change::Put { ttl: Some(_), .. } => {
            return Err(StoreError::NotSupported {
                operation: "put with a time to live",
                key: write.key,
                reason: "the agent's socket does not carry leases".to_owned(),
            });
        }
        Change::Delete => StoreChange::Delete,
        Change::Check => StoreChange::Check,
    };
    Ok(StoreWrite { key: write.key, expect, change })
}

#[cfg(test)]
mod tests {
    use super::*;
    use calico_datastore::MemoryStore;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixListener;
    use std::sync::Arc;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    /// An agent's socket in front of a memory store.
    fn lend(store: Arc<MemoryStore>) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.sock");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut writer = stream.try_clone().unwrap();
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let Ok(Request::Store { op }) = serde_json::from_str(&line) else { return };
                    let response = block_on(perform(&*store, op));
                    let mut text = serde_json::to_vec(&response).unwrap();
                    text.push(b'\n');
                    writer.write_all(&text).unwrap();
                }
            }
        });
        (dir, path)
    }

    #[test]
    fn the_lent_store_behaves_like_the_store() {
        let (_dir, path) = lend(Arc::new(MemoryStore::new()));
        let store = AgentStore::connect(&path, Duration::from_secs(5)).unwrap();
        let run = |future| block_on::<BoxFuture<'_, Result<Committed, StoreError>>>(future);
        let created = run(store.txn(vec![RawWrite::put("/a/x", Expect::Absent, *b"{}")])).unwrap();
        let again = run(store.txn(vec![RawWrite::put("/a/x", Expect::Absent, *b"{}")])).unwrap_err();
        assert!(again.exists(), "{again}");
        assert_eq!(again.current().unwrap().revision, created.revision);
        let stale = run(store.txn(vec![RawWrite::delete("/a/x", Expect::Revision(created.revision + 9))]))
            .unwrap_err();
        assert!(stale.is_conflict(), "{stale}");
        let got = block_on(store.get("/a/x")).unwrap().unwrap();
        assert_eq!((&*got.value, got.revision), (b"{}".as_slice(), created.revision));
        let list = block_on(store.list(&KeyRanges::prefix("/a/"))).unwrap();
        assert_eq!(list.entries.len(), 1);
        assert!(block_on(store.watch(&KeyRanges::prefix("/"), 0)).is_err());
    }
}
