//! Datastores for Calico objects: embedded SQLite, etcd, and the fan-out between a store and many nodes.
//!
//! Two layers. [`Backend`] stores bytes under paths, with revisions, compare-and-swap, transactions and watches;
//! [`SqliteStore`] and [`MemoryStore`] are backends. [`Store`] makes a [`Datastore`] of any backend: typed keys
//! and values of `calico-model`. Programs hold an `Arc<dyn Datastore>` from [`open`], or a [`Blocking`] one
//! where there is no async runtime.
//!
//! ```
//! use calico_datastore::{Blocking, ListRequest, Role, config::DatastoreConfig};
//! use calico_model::{AnyResource, IPPool, IPPoolSpec, Key, Kind};
//! let directory = tempfile::tempdir().unwrap();
//! let config = DatastoreConfig::Sqlite { path: directory.path().join("calico.db") };
//! let store = Blocking::open(&config, Role::Tool)?;
//! let spec = IPPoolSpec { cidr: "10.244.0.0/16".into(), ..IPPoolSpec::default() };
//! let pool = AnyResource::from(IPPool::new("default", spec));
//! store.create(Key::resource(Kind::IPPool, "", "default"), pool.into())?;
//! assert_eq!(store.list(&ListRequest::kind(Kind::IPPool))?.items.len(), 1);
//! # Ok::<(), calico_datastore::StoreError>(())
//! ```
#![forbid(unsafe_code)]

pub mod backend;
mod backoff;
mod blocking;
mod client;
pub mod codec;
pub mod config;
pub mod conformance;
mod datastore;
mod error;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "fanout")]
pub mod fanout;
mod memory;
pub mod migrate;
mod open;
mod request;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(any(feature = "etcd", feature = "fanout"))]
mod srv;
mod syncer;
pub mod yaml;

pub use backend::{
    Backend, Bytes, Change, Committed, Expect, KeyRange, KeyRanges, RawBatch, RawEntry, RawEvent, RawList,
    RawWatch, RawWrite, StoreInfo,
};
pub use blocking::Blocking;
pub use client::{Applied, Client, Initialization, ResourceList};
pub use datastore::{
    Condition, Datastore, Effect, KvPair, List, ParseFailure, Store, TxnDone, Watch, WatchEvent, Write,
};
pub use error::StoreError;
#[cfg(feature = "etcd")]
pub use etcd::EtcdStore;
pub use memory::{MemoryStore, Operation};
pub use open::{Role, open, open_backend};
pub use request::{ListRequest, bgp_view, felix_view, node_status_view, tunnel_view};
#[cfg(feature = "sqlite")]
pub use sqlite::{DEFAULT_PATH, SqliteOptions, SqliteStore};
pub use syncer::{SyncEvent, SyncStatus, Syncer, SyncerOptions, SyncerStats};
