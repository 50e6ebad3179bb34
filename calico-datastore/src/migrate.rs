//! Moving a whole datastore: lock, export to a file, import, copy from store to store.
//!
//! The file is text, one JSON object per line: a head with the origin, one line per entry in the order of the
//! paths, and an end that counts them, so that a file cut short is noticed. Values are kept byte by byte. Entries
//! that live for a limited time (status reports) are left out.

use std::io::{BufRead, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use calico_model::{AnyResource, ClusterInformation, Key, Kind};
use serde::{Deserialize, Serialize};

use crate::backend::{Backend, Expect, RawEntry, RawWrite};
use crate::client::Client;
use crate::codec;
use crate::error::StoreError;
use crate::request::ListRequest;

/// Version of the file format.
const FORMAT: u32 = 1;
/// Bytes and entries in one transaction of an import; etcd refuses requests above 1.5 MiB.
const CHUNK_BYTES: usize = 512 * 1024;
const CHUNK_ENTRIES: usize = 64;

/// One line of an export.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, untagged)]
enum Line {
    Head {
        calico_datastore_export: u32,
        kind: String,
        identity: String,
        revision: u64,
    },
    Entry {
        path: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value: Option<String>,
        /// For values that are not text.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        base64: Option<String>,
        revision: u64,
    },
    End {
        entries: usize,
    },
}

/// What to do with a target that holds something already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Refuse.
    MustBeEmpty,
    /// Replace everything: what the source does not have is deleted.
    Replace,
}

/// Counts of a finished migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migrated {
    /// Entries written.
    pub written: usize,
    /// Entries of the target that were deleted.
    pub deleted: usize,
}

fn broken(line: usize, reason: impl Into<String>) -> StoreError {
    StoreError::Invalid {
        key: "datastore export".to_owned(),
        field: format!("line {line}"),
        reason: reason.into(),
    }
}

/// All entries of a store that migrate, at one revision.
async fn entries(store: &dyn Backend) -> Result<(Vec<RawEntry>, u64), StoreError> {
    let list = store.list(ListRequest::everything().ranges()).await?;
    let lasting = |entry: &RawEntry| !matches!(Key::parse(&entry.key), Ok(Key::ActiveStatusReport { .. }));
    Ok((list.entries.into_iter().filter(lasting).collect(), list.revision))
}

/// Writes all content of a store as text. Returns the number of entries.
///
/// ```
/// use calico_datastore::{Backend, Expect, MemoryStore, RawWrite, migrate};
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let (from, to) = (MemoryStore::new(), MemoryStore::new());
/// from.txn(vec![RawWrite::put("/calico/v1/Ready", Expect::Any, *b"true")]).await?;
/// let mut file = Vec::new();
/// assert_eq!(migrate::export(&from, &mut file).await?, 1);
/// let done = migrate::import(&to, &file[..], migrate::Target::MustBeEmpty).await?;
/// assert_eq!((done.written, done.deleted), (1, 0));
/// assert_eq!(&*to.get("/calico/v1/Ready").await?.unwrap().value, b"true");
/// # Ok::<(), calico_datastore::StoreError>(()) }).unwrap();
/// ```
///
/// # Errors
/// Those of the store; [`StoreError::Failed`] when the file cannot be written.
pub async fn export(store: &dyn Backend, file: &mut (dyn Write + Send)) -> Result<usize, StoreError> {
    let info = store.info().await?;
    let (entries, revision) = entries(store).await?;
    let mut line = |line: &Line| {
        let mut text = serde_json::to_vec(line).unwrap_or_default();
        text.push(b'\n');
        file.write_all(&text).map_err(|error| StoreError::Failed {
            store: "datastore export".to_owned(),
            reason: format!("cannot write: {error}"),
        })
    };
    line(&Line::Head {
        calico_datastore_export: FORMAT,
        kind: info.kind.to_owned(),
        identity: info.identity,
        revision,
    })?;
    for entry in &entries {
        let text = std::str::from_utf8(&entry.value).ok().map(str::to_owned);
        let base64 = text.is_none().then(|| STANDARD.encode(&entry.value));
        line(&Line::Entry { path: entry.key.clone(), value: text, base64, revision: entry.revision })?;
    }
    line(&Line::End { entries: entries.len() })?;
    Ok(entries.len())
}

/// Reads an export into a store. The store stays locked until everything is there.
///
/// # Errors
/// [`StoreError::Invalid`] naming the line of a file that is damaged or cut short: then nothing is written.
/// [`StoreError::Exists`] when the target is not empty and must be.
pub async fn import(store: &dyn Backend, file: impl BufRead, target: Target) -> Result<Migrated, StoreError> {
    let entries = read(file)?;
    replace(store, entries, target).await
}

/// Copies all content of one store into another. The target stays locked until everything is there.
///
/// # Errors
/// Those of both stores; [`StoreError::Exists`] when the target is not empty and must be.
pub async fn copy(from: &dyn Backend, to: &dyn Backend, target: Target) -> Result<Migrated, StoreError> {
    let (entries, _) = entries(from).await?;
    replace(to, entries, target).await
}

/// Makes all programs wait: agents stop changing anything, plugins refuse.
///
/// # Errors
/// Those of the store.
pub async fn lock(client: &Client) -> Result<(), StoreError> {
    set_ready(client, false).await
}

/// Lets all programs go on.
///
/// # Errors
/// Those of the store.
pub async fn unlock(client: &Client) -> Result<(), StoreError> {
    set_ready(client, true).await
}

async fn set_ready(client: &Client, ready: bool) -> Result<(), StoreError> {
    let mut information = match client.get(Kind::ClusterInformation, "", "default").await {
        Ok(information) => information,
        Err(error) if error.is_missing() => ClusterInformation::new("default", Default::default()).into(),
        Err(error) => return Err(error),
    };
    if let AnyResource::ClusterInformation(information) = &mut information {
        information.spec.datastore_ready = Some(ready);
    }
    client.apply(information).await.map(drop)
}

fn read(file: impl BufRead) -> Result<Vec<RawEntry>, StoreError> {
    let mut entries: Vec<RawEntry> = Vec::new();
    let mut ended = false;
    let mut number = 0;
    for text in file.lines() {
        number += 1;
        let text = text.map_err(|error| broken(number, format!("cannot be read: {error}")))?;
        if ended {
            return Err(broken(number, "text after the end"));
        }
        let line: Line =
            serde_json::from_str(&text).map_err(|_| broken(number, "not a line of a datastore export"))?;
        match line {
            Line::Head { calico_datastore_export: FORMAT, .. } if number == 1 => {}
            Line::Head { calico_datastore_export, .. } if number == 1 => {
                let reason = format!("format {calico_datastore_export}, this program reads {FORMAT}");
                return Err(broken(number, reason));
            }
            _ if number == 1 => return Err(broken(number, "the head is missing")),
            Line::Head { .. } => return Err(broken(number, "a second head")),
            Line::Entry { path, value, base64, revision } => {
                let bytes = match (value, base64) {
                    (Some(text), None) => text.into_bytes(),
                    (None, Some(code)) => {
                        STANDARD.decode(code).map_err(|_| broken(number, "base64 cannot be decoded"))?
                    }
                    _ => return Err(broken(number, "an entry has either value or base64")),
                };
                if entries.last().is_some_and(|last| last.key >= path) {
                    return Err(broken(number, "paths are not in order"));
                }
                entries.push(RawEntry { key: path, value: bytes.into(), revision });
            }
            Line::End { entries: count } if count == entries.len() => ended = true,
            Line::End { entries: count } => {
                return Err(broken(
                    number,
                    format!("{count} entries were written, {} are here", entries.len()),
                ));
            }
        }
    }
    if ended { Ok(entries) } else { Err(broken(number, "the file is cut short")) }
}

async fn replace(
    store: &dyn Backend,
    entries: Vec<RawEntry>,
    target: Target,
) -> Result<Migrated, StoreError> {
    let (old, _) = self::entries(store).await?;
    if let (Target::MustBeEmpty, Some(first)) = (target, old.first()) {
        return Err(StoreError::Exists { key: first.key.clone(), current: Some(Box::new(first.clone())) });
    }
    let information = Key::resource(Kind::ClusterInformation, "", "default").path();
    let ready_flag = Key::ReadyFlag.path();
    let last = |key: &str| key == information || key == ready_flag;
    lock_raw(store, &information, &entries).await?;
    let new: std::collections::HashSet<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
    let surplus: Vec<RawWrite> = old
        .iter()
        .filter(|entry| !new.contains(entry.key.as_str()) && entry.key != information)
        .map(|entry| RawWrite::delete(entry.key.clone(), Expect::Any))
        .collect();
    let deleted = surplus.len();
    write(store, surplus).await?;
    let put = |entry: &RawEntry| RawWrite::put(entry.key.clone(), Expect::Any, entry.value.clone());
    write(store, entries.iter().filter(|entry| !last(&entry.key)).map(put).collect()).await?;
    let (mut finish, present): (Vec<RawWrite>, bool) = (
        entries.iter().filter(|entry| last(&entry.key)).map(put).collect(),
        entries.iter().any(|entry| entry.key == information),
    );
    if !present {
        // The lock was ours alone.
        finish.push(RawWrite::delete(&*information, Expect::Any));
    }
    write(store, finish).await?;
    Ok(Migrated { written: entries.len(), deleted })
}

/// Marks the target as not ready while it is half-filled.
async fn lock_raw(store: &dyn Backend, path: &str, entries: &[RawEntry]) -> Result<(), StoreError> {
    let source = entries.iter().find(|entry| entry.key == path);
    let key = Key::resource(Kind::ClusterInformation, "", "default");
    let decoded = source.and_then(|entry| codec::decode(&key, &entry.value, &Default::default()).ok());
    let mut information = match decoded.as_ref().and_then(|value| value.as_resource()) {
        Some(AnyResource::ClusterInformation(information)) => (**information).clone(),
        _ => ClusterInformation::new("default", Default::default()),
    };
    information.spec.datastore_ready = Some(false);
    let value = codec::encode(&AnyResource::from(information).into());
    store.txn(vec![RawWrite::put(path, Expect::Any, value)]).await.map(drop)
}

/// Writes in transactions that every backend takes.
async fn write(store: &dyn Backend, writes: Vec<RawWrite>) -> Result<(), StoreError> {
    let mut chunk = Vec::new();
    let mut bytes = 0;
    for write in writes {
        let size = match &write.change {
            crate::backend::Change::Put { value, .. } => value.len() + write.key.len(),
            _ => write.key.len(),
        };
        if !chunk.is_empty() && (chunk.len() >= CHUNK_ENTRIES || bytes + size > CHUNK_BYTES) {
            store.txn(std::mem::take(&mut chunk)).await?;
            bytes = 0;
        }
        bytes += size;
        chunk.push(write);
    }
    if chunk.is_empty() { Ok(()) } else { store.txn(chunk).await.map(drop) }
}
