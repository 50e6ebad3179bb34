//! Datastores for Calico objects: embedded SQLite, etcd, and the fan-out between a store and many nodes.
#![forbid(unsafe_code)]

pub mod backend;
pub mod config;
pub mod conformance;
mod error;
mod memory;
#[cfg(feature = "sqlite")]
mod sqlite;
pub mod yaml;

pub use backend::{
    Backend, Bytes, Change, Committed, Expect, KeyRange, KeyRanges, RawBatch, RawEntry, RawEvent, RawList,
    RawWatch, RawWrite, StoreInfo,
};
pub use error::StoreError;
pub use memory::{MemoryStore, Operation};
#[cfg(feature = "sqlite")]
pub use sqlite::{DEFAULT_PATH, SqliteOptions, SqliteStore};
