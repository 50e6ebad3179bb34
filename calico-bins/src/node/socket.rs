//! The agent's Unix socket: accepts connections, checks who calls, answers one line at a time.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use calico_datastore::Backend;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::endpoints::{EndpointTable, Programmed};
use super::protocol::{Failure, FailureClass, NodeStatus, Request, Response};
use super::store::perform;

/// Longest request line. A transaction carries at most 128 values, but no caller writes that many blocks.
const MAX_LINE: u64 = 8 << 20;

/// Longest time that a caller may wait for an endpoint.
const MAX_WAIT: Duration = Duration::from_secs(300);

/// Tells how the agent is doing now.
pub type StatusReader = dyn Fn() -> NodeStatus + Send + Sync;

/// What the socket answers from.
pub struct Services {
    /// The agent's datastore connection.
    pub store: Arc<dyn Backend>,
    /// How the agent is doing, asked at each request.
    pub status: Arc<StatusReader>,
    /// What the kernel enforces.
    pub endpoints: watch::Receiver<Arc<EndpointTable>>,
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services").finish_non_exhaustive()
    }
}

/// Removes the socket's file when the agent stops in order.
#[derive(Debug)]
pub struct Bound {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Listens at `path`, mode 0600. A socket that a killed agent left behind is replaced; one that somebody answers
/// on is an error.
pub fn bind(path: &Path) -> io::Result<Bound> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("another agent answers at {}; stop it first", path.display()),
        ));
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(Bound { listener, path: path.to_owned() })
}

/// Serves until the future is dropped.
pub async fn serve(bound: Bound, services: Arc<Services>) {
    let own = rustix::process::geteuid().as_raw();
    loop {
        match bound.listener.accept().await {
            Ok((stream, _)) => {
                let services = Arc::clone(&services);
                tokio::spawn(async move {
                    // The mode keeps strangers out already; this holds when somebody loosens it.
                    let allowed = stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own);
                    if let Err(error) = converse(stream, &services, allowed).await {
                        tracing::debug!(%error, "a client of the agent's socket went away");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the agent's socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, services: &Services, allowed: bool) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let response = if !allowed {
            refuse(FailureClass::Denied, "only root and the agent's own user may ask")
        } else if line.last() != Some(&b'\n') {
            refuse(FailureClass::Invalid, "the request line is cut short or longer than 8 MiB")
        } else {
            match serde_json::from_slice(&line) {
                Ok(request) => answer(request, services).await,
                Err(e) => refuse(FailureClass::Invalid, format!("the request is not understood: {e}")),
            }
        };
        let mut text = serde_json::to_vec(&response).map_err(io::Error::other)?;
        text.push(b'\n');
        writer.write_all(&text).await?;
    }
}

fn refuse(class: FailureClass, message: impl Into<String>) -> Response {
    Response::Error(Failure {
        class,
        subject: String::new(),
        message: message.into(),
        expected: 0,
        current: None,
    })
}

async fn answer(request: Request, services: &Services) -> Response {
    match request {
        Request::Status => Response::Status(Box::new((services.status)())),
        Request::Store { op } => perform(&*services.store, op).await,
        Request::WaitEndpoint { orchestrator, workload, endpoint, timeout_ms, revision } => {
            let id = calico_policy::changes::WorkloadEndpointId {
                orchestrator: orchestrator.into(),
                workload: workload.into(),
                endpoint: endpoint.into(),
            };
            let mut table = services.endpoints.clone();
            let timeout = Duration::from_millis(timeout_ms).min(MAX_WAIT);
            let decided =
                table.wait_for(|table| !matches!(table.programmed(&id, revision), Programmed::NotYet(_)));
            let outcome = match tokio::time::timeout(timeout, decided).await {
                Ok(Ok(table)) => table.programmed(&id, revision),
                _ => services.endpoints.borrow().programmed(&id, revision),
            };
            match outcome {
                Programmed::Yes => Response::Endpoint { programmed: true, reason: String::new() },
                Programmed::Refused(reason) | Programmed::NotYet(reason) => {
                    Response::Endpoint { programmed: false, reason }
                }
            }
        }
    }
}
