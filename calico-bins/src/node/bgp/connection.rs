//! One TCP connection of the speaker: a reading and a writing task.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use calico_bgp::config::{Authentication, SpeakerConfig, Ttl};
use calico_bgp::{ConnectionId, DialId};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::{NetEvent, WRITE_HIGH, sign};

/// Longest time that a connection attempt may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time that the last octets of a connection may take.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

enum Work {
    Write(Bytes),
    Close(Option<Bytes>),
}

/// A connection that the speaker knows.
#[derive(Debug)]
pub(super) struct Connection {
    work: mpsc::UnboundedSender<Work>,
    waiting: Arc<AtomicUsize>,
    reader: AbortHandle,
    /// The socket once more, to change its key while tasks read and write.
    socket: Option<OwnedFd>,
    remote: Option<IpAddr>,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Write(bytes) => write!(f, "Write({})", bytes.len()),
            Self::Close(_) => f.write_str("Close"),
        }
    }
}

impl Connection {
    pub(super) fn start(id: ConnectionId, stream: TcpStream, events: mpsc::Sender<NetEvent>) -> Self {
        let _ = stream.set_nodelay(true);
        let socket = stream.as_fd().try_clone_to_owned().ok();
        let remote = stream.peer_addr().ok().map(|remote| remote.ip().to_canonical());
        let (read, write) = stream.into_split();
        let (work, queue) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        tokio::spawn(write_all(id, write, queue, Arc::clone(&waiting), events.clone()));
        let reader = tokio::spawn(read_all(id, read, events)).abort_handle();
        Self { work, waiting, reader, socket, remote }
    }

    /// Queues octets; returns how many wait now.
    pub(super) fn write(&self, bytes: Bytes) -> usize {
        let length = bytes.len();
        let waiting = self.waiting.fetch_add(length, Ordering::Relaxed) + length;
        let _ = self.work.send(Work::Write(bytes));
        waiting
    }

    /// Signs with the key that a new configuration has for the peer: an exchange of keys needs no new session.
    pub(super) fn change_key(&self, config: &SpeakerConfig) {
        let (Some(socket), Some(remote)) = (&self.socket, self.remote) else { return };
        let peer = config.peers.values().find(|peer| peer.address == remote);
        let Some(peer) = peer.filter(|peer| peer.authentication != Authentication::None) else { return };
        if let Err(reason) = sign(socket, remote, &peer.authentication, true) {
            tracing::warn!(peer = %peer.name, %reason, "the key of an open BGP session was not changed");
        }
    }

    /// Writes what waits and the farewell, then closes.
    pub(super) fn close(self, farewell: Option<Bytes>) {
        let _ = self.work.send(Work::Close(farewell));
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read_all(id: ConnectionId, mut stream: OwnedReadHalf, events: mpsc::Sender<NetEvent>) {
    let mut buffer = BytesMut::with_capacity(64 << 10);
    let reason = loop {
        buffer.reserve(16 << 10);
        match stream.read_buf(&mut buffer).await {
            Ok(0) => break "the peer closed the connection".to_owned(),
            Ok(_) => {
                let data = buffer.split().freeze();
                if events.send(NetEvent::Data { connection: id, data }).await.is_err() {
                    return;
                }
            }
            Err(error) => break error.to_string(),
        }
    };
    let _ = events.send(NetEvent::Closed { connection: id, reason }).await;
}

async fn write_all(
    id: ConnectionId,
    mut stream: OwnedWriteHalf,
    mut queue: mpsc::UnboundedReceiver<Work>,
    waiting: Arc<AtomicUsize>,
    events: mpsc::Sender<NetEvent>,
) {
    while let Some(work) = queue.recv().await {
        match work {
            Work::Write(bytes) => {
                if let Err(error) = stream.write_all(&bytes).await {
                    let _ = events.send(NetEvent::Closed { connection: id, reason: error.to_string() }).await;
                    return;
                }
                let before = waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
                if before > WRITE_HIGH / 2 && before - bytes.len() <= WRITE_HIGH / 2 {
                    let _ = events.send(NetEvent::Drained { connection: id }).await;
                }
            }
            Work::Close(farewell) => {
                let last = async {
                    if let Some(bytes) = farewell {
                        stream.write_all(&bytes).await?;
                    }
                    stream.shutdown().await
                };
                let _ = tokio::time::timeout(FAREWELL_TIMEOUT, last).await;
                return;
            }
        }
    }
}

/// Connects in the background and reports.
pub(super) fn dial(
    dial: DialId,
    remote: SocketAddr,
    local: Option<IpAddr>,
    authentication: Authentication,
    ttl: Ttl,
    events: mpsc::Sender<NetEvent>,
) {
    tokio::spawn(async move {
        let attempt = async {
            let socket = prepare(remote, local, &authentication, ttl)?;
            socket.connect(remote).await.map_err(|e| e.to_string())
        };
        let result = match tokio::time::timeout(DIAL_TIMEOUT, attempt).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer from {remote} within {DIAL_TIMEOUT:?}")),
        };
        let _ = events.send(NetEvent::Dialled { dial, result }).await;
    });
}

fn prepare(
    remote: SocketAddr,
    local: Option<IpAddr>,
    authentication: &Authentication,
    ttl: Ttl,
) -> Result<TcpSocket, String> {
    let text = |e: std::io::Error| e.to_string();
    let socket = Socket::new(Domain::for_address(remote), Type::STREAM, Some(Protocol::TCP)).map_err(text)?;
    socket.set_nonblocking(true).map_err(text)?;
    sign(&socket, remote.ip(), authentication, true)?;
    super::listener::apply_ttl(&socket, remote, ttl).map_err(text)?;
    if let Some(local) = local {
        socket.set_reuse_address(true).map_err(text)?;
        socket
            .bind(&SocketAddr::new(local, 0).into())
            .map_err(|e| format!("cannot use {local} as source address: {e}"))?;
    }
    Ok(TcpSocket::from_std_stream(socket.into()))
}
