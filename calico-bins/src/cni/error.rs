//! The error object a CNI plugin prints on standard output.

use serde::{Deserialize, Serialize};

/// Well-known error codes of the CNI specification, and 999 for an ordinary error of a handler.
pub mod code {
    /// The configuration's CNI version is not supported.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field of the configuration is not supported.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is unknown or does not exist.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A required environment variable is missing or has an invalid value.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO: u32 = 5;
    /// Standard input is not the JSON that is expected.
    pub const DECODING: u32 = 6;
    /// The network configuration is invalid.
    pub const INVALID_CONFIG: u32 = 7;
    /// The network namespace is invalid.
    pub const INVALID_NETNS: u32 = 8;
    /// A transient condition: try again later.
    pub const TRY_AGAIN_LATER: u32 = 11;
    /// STATUS: the plugin cannot serve ADD.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: as 50, and existing containers may have limited connectivity.
    pub const NOT_AVAILABLE_LIMITED: u32 = 51;
    /// Any other error.
    pub const GENERIC: u32 = 999;
}

/// An error as the CNI specification wants it printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg}{}{details}", if details.is_empty() { "" } else { ": " })]
#[serde(rename_all = "camelCase")]
pub struct CniError {
    /// Version of the answer; filled in when it is printed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cni_version: String,
    /// Code, see [`code`].
    pub code: u32,
    /// What went wrong, one line.
    pub msg: String,
    /// More about it, and what would be right.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl CniError {
    /// An error with a code and a message.
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { cni_version: String::new(), code, msg: msg.into(), details: String::new() }
    }

    /// An ordinary error, code 999.
    pub fn generic(msg: impl Into<String>) -> Self {
        Self::new(code::GENERIC, msg)
    }

    /// The same error with details.
    #[must_use]
    pub fn details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The JSON text to print for a caller that configured `version`.
    pub fn to_json(&self, version: &str) -> String {
        let mut printed = self.clone();
        if printed.cni_version.is_empty() {
            printed.cni_version = version.to_owned();
        }
        serde_json::to_string(&printed)
            .unwrap_or_else(|_| format!(r#"{{"code":{},"msg":"unprintable"}}"#, self.code))
    }
}
