//! What is said on the agent's Unix socket: one JSON [`Request`] per line, one JSON [`Response`] line each.
//!
//! The socket is `0600` and the agent checks the peer's credentials. `calicoctl node status` and the CNI
//! plugins are its clients.
//!
//! ```
//! use calico_bins::node::protocol::Request;
//! assert_eq!(serde_json::to_string(&Request::Status).unwrap(), r#"{"command":"status"}"#);
//! ```

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/var/run/calico/node.sock";

/// The environment variable that names another socket.
pub const SOCKET_VARIABLE: &str = "CALICO_NODE_SOCKET";

/// A question to the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Request {
    /// How the agent is doing; answered by [`Response::Status`].
    Status,
    /// Answer when the policy and routes of a workload endpoint are in the kernel, or when `timeout_ms` have
    /// passed; answered by [`Response::Endpoint`].
    WaitEndpoint {
        /// Orchestrator, `k8s` or `cni`.
        orchestrator: String,
        /// Workload, `namespace/pod` for Kubernetes.
        workload: String,
        /// Endpoint, usually `eth0`.
        endpoint: String,
        /// Longest time to wait, milliseconds.
        timeout_ms: u64,
        /// Datastore revision that the agent must have seen; 0 = any.
        revision: u64,
    },
    /// An operation on the datastore, done with the agent's connection; answered by [`Response::Store`].
    Store {
        /// The operation.
        op: StoreOperation,
    },
}

/// A datastore operation; the byte layer of `calico_datastore::Backend` in JSON. Values are the stored text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum StoreOperation {
    /// Read one object.
    Get {
        /// Key path.
        key: String,
    },
    /// List what lies in the ranges, at one revision.
    List {
        /// Ranges.
        ranges: Vec<StoreRange>,
    },
    /// A transaction: all writes or none.
    Txn {
        /// The writes.
        writes: Vec<StoreWrite>,
    },
    /// Identity and newest revision of the store.
    Info,
}

/// A range of keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreRange {
    /// This key.
    Exact(String),
    /// Every key that starts with this text.
    Prefix(String),
}

/// One conditional write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StoreWrite {
    /// Key path.
    pub key: String,
    /// Condition.
    pub expect: StoreExpect,
    /// Effect.
    pub change: StoreChange,
}

/// Condition of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreExpect {
    /// None.
    Any,
    /// The key is not there.
    Absent,
    /// The key is there.
    Present,
    /// The key is at this revision.
    Revision(u64),
}

/// Effect of a write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreChange {
    /// Store this text.
    Put(String),
    /// Remove the key.
    Delete,
    /// Only check the condition.
    Check,
}

/// An answer of the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Response {
    /// Answer to [`Request::Status`].
    Status(Box<NodeStatus>),
    /// Answer to [`Request::WaitEndpoint`].
    Endpoint {
        /// True when policy and routes are in the kernel.
        programmed: bool,
        /// Why not, when they are not.
        #[serde(default)]
        reason: String,
    },
    /// Answer to [`Request::Store`].
    Store {
        /// What was read, or what each write replaced.
        items: Vec<Option<StoreItem>>,
        /// Revision of the list or of the write; 0 for a get.
        revision: u64,
        /// Where the store is and which one it is; only for `info`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        info: Option<StorePlace>,
    },
    /// The request failed.
    Error(Failure),
}

/// An object of the datastore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreItem {
    /// Key path.
    pub key: String,
    /// Stored text.
    pub value: String,
    /// Revision of the last write.
    pub revision: u64,
}

/// Which store the agent uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorePlace {
    /// File or endpoints.
    pub place: String,
    /// Identity of the data.
    pub identity: String,
}

/// Why the agent did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of failure it is.
    pub class: FailureClass,
    /// What it is about: a key, mostly.
    #[serde(default)]
    pub subject: String,
    /// What went wrong.
    pub message: String,
    /// Conflict: the revision that was expected.
    #[serde(default)]
    pub expected: u64,
    /// Conflict or exists: what the store holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<StoreItem>,
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureClass {
    /// Compare-and-swap lost.
    Conflict,
    /// The object is already there.
    Exists,
    /// The object is not there.
    Missing,
    /// The store cannot be reached.
    Unreachable,
    /// The store takes no writes.
    ReadOnly,
    /// The caller may not do this.
    Denied,
    /// The request or the object breaks a rule.
    Invalid,
    /// Anything else.
    Internal,
}

/// How the agent of a node is doing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Node name.
    pub node: String,
    /// Version of the agent.
    pub version: String,
    /// Process ID of the agent.
    pub pid: u32,
    /// Seconds since the agent started.
    pub uptime_seconds: u64,
    /// Resident memory of the agent, KiB.
    pub resident_kib: u64,
    /// `wait-for-datastore`, `resync` or `in-sync`.
    pub datastore: String,
    /// The BGP speaker; absent when it is turned off.
    pub bgp: Option<BgpStatus>,
    /// The kernel side.
    pub dataplane: DataplaneStatus,
}

/// State of the BGP speaker.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BgpStatus {
    /// AS number of the node.
    pub as_number: u32,
    /// Router ID.
    pub router_id: String,
    /// Sessions, sorted by address.
    pub peers: Vec<PeerStatus>,
    /// Why the speaker cannot run, when it cannot (for example: port 179 is taken).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// State of one BGP session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Address of the peer.
    pub address: std::net::IpAddr,
    /// Where the session comes from.
    pub kind: PeerKind,
    /// BIRD's word for the protocol: `up`, `start` or `down`.
    pub state: String,
    /// BGP state: `Established`, `Active`, …
    pub bgp_state: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// Why the session is down: last error, in words; empty when there is none.
    #[serde(default)]
    pub info: String,
    /// Who the peer is, what was agreed with it, what was counted.
    #[serde(default)]
    pub detail: PeerDetail,
}

/// What [`PeerStatus`] does not show in a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerDetail {
    /// Name of the session, as BIRD's protocol would be called.
    pub name: String,
    /// AS number that we show.
    pub local_as: u32,
    /// AS number that the peer must have.
    pub remote_as: u32,
    /// BGP identifier of the peer, while the session is up.
    pub identifier: String,
    /// Agreed hold time in seconds; 0 without a session, or without keepalives.
    pub hold_seconds: u64,
    /// What both sides can do: `ipv4`, `ipv6`, `add-path`, `extended-message`, `extended-next-hop`,
    /// `graceful-restart`, `long-lived-graceful-restart`, `route-refresh`, `enhanced-refresh`.
    pub capabilities: Vec<String>,
    /// Prefixes taken in, IPv4 and IPv6.
    pub received: [u64; 2],
    /// Prefixes announced, IPv4 and IPv6.
    pub announced: [u64; 2],
    /// UPDATEs received.
    pub updates_in: u64,
    /// UPDATEs sent.
    pub updates_out: u64,
    /// Octets received.
    pub octets_in: u64,
    /// Times the session came up.
    pub established: u64,
    /// UPDATEs with a defect that the session survived (RFC 7606).
    pub malformed_updates: u64,
    /// Routes that no message can hold.
    pub unsendable: u64,
    /// The peer is restarting and its routes are kept.
    pub restarting: bool,
}

/// Where a BGP session comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerKind {
    /// The node-to-node mesh.
    NodeToNodeMesh,
    /// A BGPPeer for every node.
    Global,
    /// A BGPPeer for this node.
    NodeSpecific,
}

impl std::fmt::Display for PeerKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NodeToNodeMesh => "node-to-node mesh",
            Self::Global => "global",
            Self::NodeSpecific => "node specific",
        })
    }
}

/// State of the kernel side.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataplaneStatus {
    /// The dataplane thread answers.
    pub alive: bool,
    /// Everything that the datastore held at the start is in the kernel.
    pub ready: bool,
    /// Applies since start.
    pub applies: u64,
    /// Failed applies since start.
    pub failures: u64,
    /// Messages that changed the kernel, since start.
    pub messages: u64,
    /// Routes of ours in the kernel.
    pub routes: usize,
    /// Routes, interfaces and neighbours that are not yet as they should be.
    pub unsettled: usize,
    /// Objects that somebody else changed and we set right, since start.
    pub drift: usize,
    /// Workload endpoints of this node.
    pub endpoints: usize,
    /// Those whose policy and routes are in the kernel.
    pub endpoints_up: usize,
    /// The last error, empty when the last apply was clean.
    pub last_error: String,
}

/// Why a question to the agent was not answered.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("cannot reach the agent at {path}: {error}")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        error: std::io::Error,
    },
    /// The connection broke.
    #[error("lost the agent at {path}: {error}")]
    Lost {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        error: std::io::Error,
    },
    /// The answer is not one of ours.
    #[error("the agent's answer is not understood: {0}")]
    Garbled(String),
}

/// A connection to the agent, used from blocking code.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

impl Client {
    /// Connects to the agent at `path`.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path)
            .map_err(|error| ClientError::Unreachable { path: path.to_owned(), error })?;
        Ok(Self { stream: BufReader::new(stream), path: path.to_owned() })
    }

    /// Asks one question and waits up to `timeout` for the answer.
    pub fn ask(&mut self, request: &Request, timeout: Duration) -> Result<Response, ClientError> {
        let mut line = serde_json::to_vec(request).map_err(|e| ClientError::Garbled(e.to_string()))?;
        line.push(b'\n');
        let mut answer = Vec::new();
        let exchange = (|| {
            let stream = self.stream.get_mut();
            stream.set_read_timeout(Some(timeout))?;
            stream.set_write_timeout(Some(timeout))?;
            stream.write_all(&line)?;
            self.stream.read_until(b'\n', &mut answer)
        })();
        match exchange {
            Ok(0) => Err(ClientError::Lost {
                path: self.path.clone(),
                error: std::io::ErrorKind::UnexpectedEof.into(),
            }),
            Ok(_) => serde_json::from_slice(&answer).map_err(|e| ClientError::Garbled(e.to_string())),
            Err(error) => Err(ClientError::Lost { path: self.path.clone(), error }),
        }
    }
}

/// The agent's socket: `explicit` when given, else the environment's, else the default.
pub fn socket_path(explicit: Option<&str>, environment: Option<&str>) -> PathBuf {
    [explicit, environment]
        .into_iter()
        .flatten()
        .find(|path| !path.is_empty())
        .unwrap_or(DEFAULT_SOCKET)
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_responses_survive_the_wire() {
        let request = Request::Store {
            op: StoreOperation::Txn {
                writes: vec![StoreWrite {
                    key: "/calico/ipam/v2/config".into(),
                    expect: StoreExpect::Revision(7),
                    change: StoreChange::Put(r#"{"strict_affinity":true}"#.into()),
                }],
            },
        };
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
        let response = Response::Endpoint { programmed: true, reason: String::new() };
        let text = serde_json::to_string(&response).unwrap();
        assert_eq!(serde_json::from_str::<Response>(&text).unwrap(), response);
    }

    #[test]
    fn the_explicit_socket_wins() {
        assert_eq!(socket_path(Some("/a"), Some("/b")), PathBuf::from("/a"));
        assert_eq!(socket_path(Some(""), Some("/b")), PathBuf::from("/b"));
        assert_eq!(socket_path(None, None), PathBuf::from(DEFAULT_SOCKET));
    }
}
