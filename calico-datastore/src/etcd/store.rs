//! [`EtcdStore`]: the backend over etcd's key-value, watch and lease services.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use tokio::sync::{Mutex, OnceCell};

use super::connection::{Connection, Repeat};
use super::proto::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, KeyValue, LeaseGrantRequest,
    LeaseGrantResponse, MemberListRequest, MemberListResponse, PutRequest, RangeRequest, RangeResponse,
    Request, RequestOp, Response, ResponseHeader, ResponseOp, Target, TxnRequest, TxnResponse,
};
use super::watch::Follower;
use crate::backend::{
    Backend, Bytes, Change, Committed, Expect, KeyRange, KeyRanges, RawEntry, RawList, RawWatch, RawWrite,
    StoreInfo,
};
use crate::config::EtcdConfig;
use crate::error::StoreError;
use crate::memory::check;

/// Keys read in one request.
const PAGE: i64 = 1_000;
/// Raw Kubernetes objects: below this prefix a shared etcd holds Kubernetes' own data in another encoding.
const KUBERNETES: &str = "/registry/";
/// How the values of Kubernetes' own API server begin.
const KUBERNETES_ENCODING: &[u8] = b"k8s\0";
/// What the API server of Kubernetes always has, the first in its own encoding and the second in JSON.
const KUBERNETES_SIGNS: [&str; 2] = ["/registry/namespaces/", "/registry/apiregistration.k8s.io/"];

/// A store in an etcd v3 cluster, with the keys and values of Calico.
///
/// Connects when it is first used and needs a tokio runtime. Clones share connections. Writes are never sent
/// twice: after a failure in the middle of one the caller reads and decides.
#[derive(Clone)]
pub struct EtcdStore {
    inner: Arc<Inner>,
}

struct Inner {
    connection: Connection,
    leases: Mutex<HashMap<Duration, Lease>>,
    kubernetes: bool,
    /// Set once it is known that the cluster is not that of a Kubernetes API server.
    ours: OnceCell<()>,
}

/// A lease that several writes share.
#[derive(Debug, Clone, Copy)]
struct Lease {
    id: i64,
    /// Writes after this moment need a younger lease.
    usable_until: Instant,
}

impl std::fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdStore").field("endpoints", &self.inner.connection.place()).finish_non_exhaustive()
    }
}

impl EtcdStore {
    /// Checks the settings; nothing is sent yet. Raw Kubernetes objects are neither read nor written, because
    /// the cluster may be that of Kubernetes itself.
    ///
    /// # Errors
    /// [`StoreError::Config`].
    pub fn new(config: &EtcdConfig) -> Result<Self, StoreError> {
        Self::build(config, false)
    }

    /// The same for a cluster of our own, in which raw Kubernetes objects are kept as in the embedded store. In
    /// the cluster of a Kubernetes API server, what that server keeps is left out, and no Kubernetes object is
    /// written.
    ///
    /// # Errors
    /// [`StoreError::Config`].
    pub fn with_kubernetes_objects(config: &EtcdConfig) -> Result<Self, StoreError> {
        Self::build(config, true)
    }

    fn build(config: &EtcdConfig, kubernetes: bool) -> Result<Self, StoreError> {
        let connection = Connection::new(config)?;
        let (leases, ours) = (Mutex::new(HashMap::new()), OnceCell::new());
        Ok(Self { inner: Arc::new(Inner { connection, leases, kubernetes, ours }) })
    }

    /// The ranges that this store serves.
    fn served(&self, ranges: &KeyRanges) -> KeyRanges {
        if self.inner.kubernetes {
            return ranges.clone();
        }
        let served = ranges.as_slice().iter().filter(|range| !range.start().starts_with(KUBERNETES)).cloned();
        KeyRanges::new(served)
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        self.inner.connection.call("/etcdserverpb.KV/Range", Repeat::Safe, request).await
    }

    async fn newest(&self) -> Result<u64, StoreError> {
        let request =
            RangeRequest { key: b"/calico/v1/Ready".to_vec(), count_only: true, ..RangeRequest::default() };
        Ok(revision(self.range(request).await?.header))
    }

    async fn list_all(&self, ranges: &KeyRanges) -> Result<RawList, StoreError> {
        let mut list = RawList { entries: Vec::new(), revision: 0 };
        for range in self.served(ranges).as_slice() {
            let mut key = range_start(range);
            loop {
                let answer = self
                    .range(RangeRequest {
                        key: key.clone(),
                        range_end: range_end(range),
                        limit: PAGE,
                        // All pages of all ranges show the revision of the first.
                        revision: i64::try_from(list.revision).unwrap_or(0),
                        ..RangeRequest::default()
                    })
                    .await?;
                if list.revision == 0 {
                    list.revision = revision(answer.header);
                }
                if let (true, Some(last)) = (answer.more, answer.kvs.last()) {
                    key.clone_from(&last.key);
                    key.push(0);
                }
                let more = answer.more && !answer.kvs.is_empty();
                list.entries.extend(answer.kvs.into_iter().filter_map(entry));
                if !more {
                    break;
                }
            }
        }
        if list.revision == 0 {
            list.revision = self.newest().await?;
        }
        Ok(list)
    }

    /// A lease under which a value lives for at least this time. Writes shortly after each other share one, so
    /// that a process has a handful of leases however often it writes.
    async fn lease(&self, ttl: Duration) -> Result<i64, StoreError> {
        let mut leases = self.inner.leases.lock().await;
        let now = Instant::now();
        if let Some(lease) = leases.get(&ttl)
            && now < lease.usable_until
        {
            return Ok(lease.id);
        }
        let slack = ttl / 4;
        let whole = (ttl + slack).as_millis().div_ceil(1_000);
        let request = LeaseGrantRequest { ttl: i64::try_from(whole).unwrap_or(i64::MAX).max(1), id: 0 };
        let answer: LeaseGrantResponse =
            self.inner.connection.call("/etcdserverpb.Lease/LeaseGrant", Repeat::Safe, request).await?;
        if !answer.error.is_empty() {
            return Err(StoreError::Failed { store: self.inner.connection.place(), reason: answer.error });
        }
        leases.insert(ttl, Lease { id: answer.id, usable_until: now + slack });
        Ok(answer.id)
    }

    /// Whether no API server of Kubernetes keeps its data here.
    async fn is_ours(&self) -> Result<bool, StoreError> {
        let looked = self.inner.ours.get_or_try_init(|| async {
            for (sign, encoded) in KUBERNETES_SIGNS.into_iter().zip([true, false]) {
                let range = KeyRange::Prefix(sign.to_owned());
                let request = RangeRequest {
                    key: range_start(&range),
                    range_end: range_end(&range),
                    limit: 1,
                    ..RangeRequest::default()
                };
                let found = self.range(request).await.map_err(Some)?.kvs.into_iter().next();
                if found.is_some_and(|kv| !encoded || kv.value.starts_with(KUBERNETES_ENCODING)) {
                    return Err(None);
                }
            }
            Ok(())
        });
        match looked.await {
            Ok(()) => Ok(true),
            Err(None) => Ok(false),
            Err(Some(error)) => Err(error),
        }
    }

    async fn commit(&self, writes: Vec<RawWrite>) -> Result<Committed, StoreError> {
        RawWrite::check_all(&writes)?;
        if let Some(write) = writes.iter().find(|write| write.key.starts_with(KUBERNETES))
            && !(self.inner.kubernetes && self.is_ours().await?)
        {
            return Err(StoreError::NotSupported {
                operation: "write",
                key: write.key.clone(),
                reason:
                    "this etcd may be that of Kubernetes itself; change the object through the Kubernetes API"
                        .to_owned(),
            });
        }
        let mut request = TxnRequest::default();
        for write in &writes {
            request.compare.extend(compare(write));
            let lease = match &write.change {
                Change::Put { ttl: Some(ttl), .. } => self.lease(*ttl).await?,
                _ => 0,
            };
            request.success.push(RequestOp { request: Some(operation(write, lease)) });
            request.failure.push(RequestOp { request: Some(Request::Range(exact(&write.key))) });
        }
        let answer: TxnResponse =
            self.inner.connection.call("/etcdserverpb.KV/Txn", Repeat::Unsafe, request).await?;
        let entries = answer.responses.into_iter().map(previous).collect::<Vec<_>>();
        if answer.succeeded {
            return Ok(Committed { revision: revision(answer.header), previous: entries });
        }
        for (write, current) in writes.iter().zip(&entries) {
            check(write, current.as_ref())?;
        }
        Err(StoreError::Failed {
            store: self.inner.connection.place(),
            reason: "the server refused a transaction whose conditions hold".to_owned(),
        })
    }

    async fn open_watch(&self, ranges: &KeyRanges, from: u64) -> Result<RawWatch, StoreError> {
        let ranges = self.served(ranges);
        // The server would silently wait for a revision of the future, for example after a restore.
        let newest = self.newest().await?;
        if from > newest {
            return Err(StoreError::Expired { requested: from, oldest: newest });
        }
        let follower = Follower::open(self.clone(), ranges, from).await?;
        Ok(stream::unfold(follower, Follower::step).boxed())
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.inner.connection
    }
}

pub(crate) fn revision(header: Option<ResponseHeader>) -> u64 {
    header.map_or(0, |header| u64::try_from(header.revision).unwrap_or(0))
}

/// The entry of a key-value pair; `None` for keys that are no text and so cannot be ours.
fn entry(kv: KeyValue) -> Option<RawEntry> {
    let key = String::from_utf8(kv.key).ok()?;
    if is_foreign(&key, &kv.value) {
        return None;
    }
    Some(RawEntry {
        key,
        value: Bytes::from(kv.value),
        revision: u64::try_from(kv.mod_revision).unwrap_or(0),
    })
}

/// Whether the API server of Kubernetes wrote this.
pub(crate) fn is_foreign(key: &str, value: &[u8]) -> bool {
    value.starts_with(KUBERNETES_ENCODING) && key.starts_with(KUBERNETES)
}

fn previous(answer: ResponseOp) -> Option<RawEntry> {
    match answer.response? {
        Response::Range(range) => range.kvs.into_iter().next().and_then(entry),
        Response::Put(put) => put.prev_kv.and_then(entry),
        Response::DeleteRange(delete) => delete.prev_kvs.into_iter().next().and_then(entry),
    }
}

/// Start of a range in the protocol, which has no empty keys.
pub(crate) fn range_start(range: &KeyRange) -> Vec<u8> {
    if range.start().is_empty() { vec![0] } else { range.start().as_bytes().to_vec() }
}

/// End of a range in the protocol: empty for one key, a single zero byte for "to the end".
pub(crate) fn range_end(range: &KeyRange) -> Vec<u8> {
    match range {
        KeyRange::Exact(_) => Vec::new(),
        KeyRange::Prefix(_) => range.end().unwrap_or_else(|| vec![0]),
    }
}

fn exact(key: &str) -> RangeRequest {
    RangeRequest { key: key.as_bytes().to_vec(), ..RangeRequest::default() }
}

fn compare(write: &RawWrite) -> Option<Compare> {
    let version = |result: CompareResult| Compare {
        result: result.into(),
        target: CompareTarget::Version.into(),
        key: write.key.as_bytes().to_vec(),
        operand: Some(Target::Version(0)),
    };
    match write.expect {
        Expect::Absent => Some(version(CompareResult::Equal)),
        Expect::Present => Some(version(CompareResult::Greater)),
        Expect::Revision(number) => Some(Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: write.key.as_bytes().to_vec(),
            operand: Some(Target::ModRevision(i64::try_from(number).unwrap_or(i64::MAX))),
        }),
        Expect::Any if write.change == Change::Delete => Some(version(CompareResult::Greater)),
        Expect::Any => None,
    }
}

fn operation(write: &RawWrite, lease: i64) -> Request {
    let key = write.key.as_bytes().to_vec();
    match &write.change {
        Change::Put { value, .. } => {
            Request::Put(PutRequest { key, value: value.to_vec(), lease, prev_kv: true })
        }
        Change::Delete => {
            Request::DeleteRange(DeleteRangeRequest { key, range_end: Vec::new(), prev_kv: true })
        }
        Change::Check => Request::Range(exact(&write.key)),
    }
}

impl Backend for EtcdStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<RawEntry>, StoreError>> {
        Box::pin(async move { Ok(self.range(exact(key)).await?.kvs.into_iter().next().and_then(entry)) })
    }

    fn list<'a>(&'a self, ranges: &'a KeyRanges) -> BoxFuture<'a, Result<RawList, StoreError>> {
        Box::pin(self.list_all(ranges))
    }

    fn txn(&self, writes: Vec<RawWrite>) -> BoxFuture<'_, Result<Committed, StoreError>> {
        Box::pin(self.commit(writes))
    }

    fn watch<'a>(&'a self, ranges: &'a KeyRanges, from: u64) -> BoxFuture<'a, Result<RawWatch, StoreError>> {
        Box::pin(self.open_watch(ranges, from))
    }

    fn info(&self) -> BoxFuture<'_, Result<StoreInfo, StoreError>> {
        Box::pin(async move {
            let revision = self.newest().await?;
            let members: MemberListResponse = self
                .inner
                .connection
                .call("/etcdserverpb.Cluster/MemberList", Repeat::Safe, MemberListRequest {})
                .await?;
            Ok(StoreInfo {
                kind: "etcdv3",
                place: self.inner.connection.place(),
                identity: format!("{:x}", members.header.map_or(0, |header| header.cluster_id)),
                revision,
            })
        })
    }
}
