//! What can go wrong between a program and its datastore, as data: the key, the place and what to do next.

use calico_model::FieldError;

use crate::backend::RawEntry;

/// Failure of one datastore operation.
///
/// Every variant names the key, file or endpoint it is about. [`StoreError::is_retryable`] tells whether the
/// same call may succeed later without anybody changing the request.
///
/// ```
/// use calico_datastore::StoreError;
/// let error = StoreError::Missing { key: "/calico/resources/v3/projectcalico.org/tiers/x".into() };
/// assert_eq!(error.to_string(), "no such object: /calico/resources/v3/projectcalico.org/tiers/x");
/// assert!(!error.is_retryable());
/// ```
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Compare-and-swap lost: the object changed after the caller read it.
    #[error("{key} was changed by somebody else (expected revision {expected}); read it again and retry")]
    Conflict {
        /// Path of the object.
        key: String,
        /// Revision the caller expected.
        expected: u64,
        /// What the store holds now.
        current: Option<Box<RawEntry>>,
    },
    /// Create of an object that is already there.
    #[error("already exists: {key}")]
    Exists {
        /// Path of the object.
        key: String,
        /// What the store holds now.
        current: Option<Box<RawEntry>>,
    },
    /// Get, update or delete of an object that is not there.
    #[error("no such object: {key}")]
    Missing {
        /// Path of the object.
        key: String,
    },
    /// The history before `oldest` is gone (compaction, another database, a revision of the future):
    /// list again and watch from the revision of that list.
    #[error("revision {requested} is no longer available (oldest is {oldest}); list again")]
    Expired {
        /// Revision the caller wanted to start after.
        requested: u64,
        /// Oldest revision that can still be watched from.
        oldest: u64,
    },
    /// Credentials were missing, wrong or not allowed to do this.
    #[error("{store} refused the credentials: {reason}")]
    Unauthorised {
        /// Endpoint or file.
        store: String,
        /// Words of the server or of the operating system.
        reason: String,
    },
    /// No answer: network, server or lock.
    #[error("{store} is unreachable: {reason}")]
    Unreachable {
        /// Endpoint or file.
        store: String,
        /// What was tried and how it failed.
        reason: String,
    },
    /// The object or the request breaks a rule.
    #[error("invalid {field} of {key}: {reason}")]
    Invalid {
        /// Path of the object, or the name the caller used.
        key: String,
        /// Field path, for example `metadata.name`; `value` for the whole object.
        field: String,
        /// The rule and what would be right.
        reason: String,
    },
    /// The fields of an object break the rules of its kind. All problems are listed.
    #[error("{key} is not valid: {}", .problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Rejected {
        /// Path of the object.
        key: String,
        /// Every problem with its field, in the order of the object.
        problems: Vec<FieldError>,
    },
    /// The stored bytes cannot be decoded.
    #[error("stored value of {key} cannot be read: {reason}")]
    Undecodable {
        /// Path of the object.
        key: String,
        /// Where and why decoding stopped.
        reason: String,
    },
    /// This store, or this object, does not allow the operation.
    #[error("cannot {operation} {key}: {reason}")]
    NotSupported {
        /// `create`, `update`, `delete`, `watch`, `write several keys` ...
        operation: &'static str,
        /// Path or name of the object.
        key: String,
        /// Why.
        reason: String,
    },
    /// Reading works, writing does not: disk full, read-only file system, I/O error while writing.
    #[error("{store} accepts no writes: {reason}")]
    ReadOnly {
        /// File or endpoint.
        store: String,
        /// What the operating system said and what to do.
        reason: String,
    },
    /// The file is damaged.
    #[error("{store} is damaged: {reason}")]
    Corrupt {
        /// File.
        store: String,
        /// What the integrity check found and what to do.
        reason: String,
    },
    /// The file belongs to another program.
    #[error("{store} is not a Calico datastore: {reason}")]
    Foreign {
        /// File.
        store: String,
        /// What was found instead.
        reason: String,
    },
    /// The file was written by a newer release.
    #[error("{store} has schema {found}, this program knows up to {known}; upgrade it")]
    NewerSchema {
        /// File.
        store: String,
        /// Version in the file.
        found: i64,
        /// Newest version this build understands.
        known: i64,
    },
    /// Settings that cannot be used.
    #[error("datastore setting {name}: {reason}")]
    Config {
        /// Environment variable or file field.
        name: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// Any other failure of the store.
    #[error("{store}: {reason}")]
    Failed {
        /// File or endpoint.
        store: String,
        /// Words of the store.
        reason: String,
    },
}

impl StoreError {
    /// True when the same request may succeed later: the store was away, locked or full.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::ReadOnly { .. } | Self::Failed { .. })
    }

    /// What the store held when a create or compare-and-swap lost, if the backend could tell.
    pub fn current(&self) -> Option<&RawEntry> {
        match self {
            Self::Conflict { current, .. } | Self::Exists { current, .. } => current.as_deref(),
            _ => None,
        }
    }

    /// True for [`StoreError::Missing`].
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }

    /// True for [`StoreError::Conflict`].
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }

    /// True for [`StoreError::Exists`].
    pub fn exists(&self) -> bool {
        matches!(self, Self::Exists { .. })
    }

    /// True for [`StoreError::Expired`].
    pub fn is_expired(&self) -> bool {
        matches!(self, Self::Expired { .. })
    }

    /// Shorthand for [`StoreError::Invalid`].
    pub fn invalid(key: impl Into<String>, field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { key: key.into(), field: field.into(), reason: reason.into() }
    }
}
