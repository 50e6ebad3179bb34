//! The server: one syncer per view, one task per client.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::frame::{
    self, Beat, ClientHello, Frame, GoAway, MAX_CLIENT_FRAME, PROTOCOL, Position, Reject, ServerHello,
    SnapshotBegin,
};
use super::pipe::{FrameReader, PipeError, Socket, flush, send, send_all};
use super::snapshot::{Cache, Follower, Shared};
use super::tls::TlsSettings;
use crate::backoff::Jitter;
use crate::datastore::Datastore;
use crate::error::StoreError;
use crate::request::{ListRequest, bgp_view, felix_view, node_status_view, tunnel_view};
use crate::syncer::{SyncEvent, SyncStatus, Syncer, SyncerOptions};

/// What a client may follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Name in the client's hello.
    pub name: String,
    /// Objects of the view.
    pub request: ListRequest,
}

impl View {
    /// The four views of Calico, `felix`, `bgp`, `tunnel-ip-allocation` and `node-status`, and `node`, which is
    /// everything that one agent of ours reads.
    pub fn calico() -> Vec<Self> {
        [
            ("felix", felix_view()),
            ("bgp", bgp_view(None)),
            ("node", felix_view().and(bgp_view(None))),
            ("tunnel-ip-allocation", tunnel_view(None)),
            ("node-status", node_status_view()),
        ]
        .into_iter()
        .map(|(name, request)| Self { name: name.to_owned(), request })
        .collect()
    }
}

/// Settings of a [`FanoutServer`].
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Views on offer.
    pub views: Vec<View>,
    /// Certificates; without them connections are plain TCP.
    pub tls: Option<TlsSettings>,
    /// Clients beyond this number are sent to an alternate.
    pub max_connections: usize,
    /// Addresses of other servers, for clients that are sent away.
    pub alternates: Vec<String>,
    /// Time for TLS and the first message.
    pub handshake_timeout: Duration,
    /// Pause between pings, ±25 %.
    pub ping_interval: Duration,
    /// Silence after which a client is given up.
    pub pong_timeout: Duration,
    /// Time within which a client must take at least some bytes.
    pub write_timeout: Duration,
    /// A client whose position is older than this is cut off.
    pub max_fall_behind: Duration,
    /// More grace for a client that has just received its snapshot.
    pub new_client_grace: Duration,
    /// Shortest time between two batches to one client: what changes meanwhile goes out together. The first change
    /// after a quiet time is sent at once.
    pub min_batching: Duration,
    /// A client that lags by more bytes than this is cut off: bounds the memory that the slowest one holds.
    pub max_lag_bytes: u64,
    /// Settings of the syncers.
    pub syncer: SyncerOptions,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            views: View::calico(),
            tls: None,
            max_connections: 10_000,
            alternates: Vec::new(),
            handshake_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(10),
            pong_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(120),
            max_fall_behind: Duration::from_secs(300),
            new_client_grace: Duration::from_secs(300),
            min_batching: Duration::from_millis(10),
            max_lag_bytes: 256 << 20,
            syncer: SyncerOptions::default(),
        }
    }
}

/// Counters of a server.
#[derive(Debug, Default)]
pub struct ServerStats {
    accepted: AtomicU64,
    active: AtomicU64,
    dropped: AtomicU64,
    rejected: AtomicU64,
    redirected: AtomicU64,
    resumed: AtomicU64,
    snapshots: AtomicU64,
    bytes: AtomicU64,
    updates: AtomicU64,
    skipped: AtomicU64,
}

impl ServerStats {
    /// Connections open now.
    pub fn active(&self) -> u64 {
        self.active.load(Ordering::Relaxed)
    }

    /// Clients that went on where they had stopped.
    pub fn resumed(&self) -> u64 {
        self.resumed.load(Ordering::Relaxed)
    }

    /// Snapshots sent.
    pub fn snapshots(&self) -> u64 {
        self.snapshots.load(Ordering::Relaxed)
    }

    /// Connections that were cut off because the client was too slow or silent.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// The counters in the text format of Prometheus.
    pub fn prometheus(&self) -> String {
        let rows = [
            ("typha_connections_accepted", "counter", &self.accepted),
            ("typha_connections_active", "gauge", &self.active),
            ("typha_connections_dropped", "counter", &self.dropped),
            ("typha_connections_rejected", "counter", &self.rejected),
            ("typha_connections_redirected", "counter", &self.redirected),
            ("typha_connections_resumed", "counter", &self.resumed),
            ("typha_snapshots_sent", "counter", &self.snapshots),
            ("typha_bytes_sent", "counter", &self.bytes),
            ("typha_updates_total", "counter", &self.updates),
            ("typha_updates_skipped", "counter", &self.skipped),
        ];
        rows.iter().fold(String::new(), |text, (name, kind, value)| {
            text + &format!("# TYPE {name} {kind}\n{name} {}\n", value.load(Ordering::Relaxed))
        })
    }
}

/// A running fan-out server. Dropping it ends all connections at once; see [`FanoutServer::shutdown`].
#[derive(Debug)]
pub struct FanoutServer {
    address: SocketAddr,
    hub: Arc<Hub>,
    accepting: tokio::task::JoinHandle<()>,
}

/// What all connections share.
struct Hub {
    options: ServerOptions,
    tls: Option<(TlsAcceptor, TlsSettings)>,
    store: Arc<dyn Datastore>,
    /// Views that somebody has asked for.
    caches: Mutex<BTreeMap<String, Arc<Pipeline>>>,
    stats: Arc<ServerStats>,
    identity: tokio::sync::OnceCell<String>,
    next_conn: AtomicU64,
    /// True when the server is about to go.
    leaving: watch::Sender<bool>,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("stats", &self.stats).finish_non_exhaustive()
    }
}

/// One view: the task that fills its cache ends with it.
struct Pipeline {
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drop for FanoutServer {
    fn drop(&mut self) {
        self.accepting.abort();
        self.hub.leaving.send_replace(true);
    }
}

impl FanoutServer {
    /// Listens and serves. Must be called within a tokio runtime. A view is read from the store from the moment
    /// its first client asks for it.
    ///
    /// # Errors
    /// [`StoreError::Config`] for unusable certificates, [`StoreError::Failed`] when the address is taken.
    pub async fn start(
        store: Arc<dyn Datastore>,
        address: SocketAddr,
        options: ServerOptions,
    ) -> Result<Self, StoreError> {
        let failed = |error: std::io::Error| StoreError::Failed {
            store: format!("fan-out on {address}"),
            reason: error.to_string(),
        };
        let tls = match &options.tls {
            Some(settings) => Some((TlsAcceptor::from(settings.server()?), settings.clone())),
            None => None,
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let hub = Arc::new(Hub {
            options,
            tls,
            store,
            caches: Mutex::new(BTreeMap::new()),
            stats: Arc::new(ServerStats::default()),
            identity: tokio::sync::OnceCell::new(),
            next_conn: AtomicU64::new(1),
            leaving: watch::channel(false).0,
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&hub)));
        Ok(Self { address, hub, accepting })
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Counters.
    pub fn stats(&self) -> &Arc<ServerStats> {
        &self.hub.stats
    }

    /// True when every view in use is in sync with the store.
    pub fn ready(&self) -> bool {
        let caches = self.hub.caches.lock().unwrap_or_else(PoisonError::into_inner);
        caches.values().all(|pipeline| pipeline.shared.tail().status == SyncStatus::InSync)
    }

    /// Stops listening, tells every client where to go instead, and waits until all have gone or the time is over.
    pub async fn shutdown(&self, limit: Duration) {
        self.accepting.abort();
        self.hub.leaving.send_replace(true);
        let deadline = Instant::now() + limit;
        while self.hub.stats.active() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn accept(listener: TcpListener, hub: Arc<Hub>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let hub = Arc::clone(&hub);
                tokio::spawn(async move { hub.connection(stream, peer).await });
            }
            Err(error) => {
                // Out of descriptors, most likely: others may close theirs.
                tracing::warn!(%error, "cannot accept a fan-out client");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Counts a connection while it lives.
struct Active(Arc<ServerStats>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Hub {
    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let stats = Arc::clone(&self.stats);
        stats.accepted.fetch_add(1, Ordering::Relaxed);
        let others = stats.active.fetch_add(1, Ordering::Relaxed);
        let _active = Active(Arc::clone(&stats));
        let full = usize::try_from(others).unwrap_or(usize::MAX) >= self.options.max_connections;
        let _ = stream.set_nodelay(true);
        let outcome = match &self.tls {
            None => self.serve(stream, peer, full).await,
            Some((acceptor, settings)) => {
                let limit = self.options.handshake_timeout;
                match tokio::time::timeout(limit, acceptor.accept(stream)).await {
                    Err(_) => Err(PipeError::Silent(limit)),
                    Ok(Err(error)) => Err(PipeError::Io(error)),
                    Ok(Ok(stream)) => match settings.check_peer(stream.get_ref().1.peer_certificates()) {
                        Ok(()) => self.serve(stream, peer, full).await,
                        Err(error) => self.reject(stream, 3, &error.to_string()).await,
                    },
                }
            }
        };
        match outcome {
            Ok(()) | Err(PipeError::Closed) => tracing::debug!(%peer, "fan-out client left"),
            Err(error) => {
                stats.dropped.fetch_add(1, Ordering::Relaxed);
                tracing::info!(%peer, %error, "fan-out client cut off");
            }
        }
    }

    async fn reject(&self, mut stream: impl Socket, code: u32, text: &str) -> Result<(), PipeError> {
        self.stats.rejected.fetch_add(1, Ordering::Relaxed);
        let frame = Frame::Reject(Reject { code, text: text.to_owned() });
        send(&mut stream, &frame.encode(), self.options.handshake_timeout).await?;
        flush(&mut stream, self.options.handshake_timeout).await
    }

    async fn serve(&self, stream: impl Socket, peer: SocketAddr, full: bool) -> Result<(), PipeError> {
        let (read, mut write) = tokio::io::split(stream);
        let mut reader = FrameReader::new(read, MAX_CLIENT_FRAME);
        let limit = self.options.handshake_timeout;
        let hello = match reader.next_within(limit).await? {
            Frame::ClientHello(hello) => hello,
            other => {
                let kind = other.kind();
                let error = super::frame::FrameError::Unexpected { kind, expected: "a client hello" };
                self.reject(reader_into(reader, write), 4, &error.to_string()).await?;
                return Ok(());
            }
        };
        if hello.min_protocol > PROTOCOL || hello.protocol < PROTOCOL {
            let text = format!(
                "protocol {}..{} is not spoken here, only {PROTOCOL}",
                hello.min_protocol, hello.protocol
            );
            return self.reject(reader_into(reader, write), 1, &text).await;
        }
        let Some(shared) = self.pipeline(&hello.syncer) else {
            let text = format!("unknown view {:?}", hello.syncer);
            return self.reject(reader_into(reader, write), 2, &text).await;
        };
        if full || *self.leaving.borrow() {
            self.stats.redirected.fetch_add(1, Ordering::Relaxed);
            let reason = if full { "server is full" } else { "server is shutting down" };
            send(&mut write, &self.go_away(reason).encode(), limit).await?;
            return flush(&mut write, limit).await;
        }
        tracing::debug!(%peer, host = %hello.hostname, view = %hello.syncer, conn = hello.conn_id, "fan-out client");
        let beats = AtomicU64::new(0);
        let started = Instant::now();
        let heard = async {
            loop {
                match reader.next().await? {
                    Frame::Pong(_) => {
                        beats.store(elapsed_ms(started), Ordering::Relaxed);
                    }
                    other => {
                        return Err(PipeError::Frame(super::frame::FrameError::Unexpected {
                            kind: other.kind(),
                            expected: "a pong",
                        }));
                    }
                }
            }
        };
        let told = self.stream(&mut write, &hello, &shared, &beats, started);
        tokio::select! {
            result = heard => result,
            result = told => result,
        }
    }

    fn go_away(&self, reason: &str) -> Frame {
        Frame::GoAway(GoAway {
            reason: reason.to_owned(),
            retry_after_ms: 1_000,
            alternates: self.options.alternates.clone(),
        })
    }

    /// The cache of a view, filled from now on if nobody asked for it before.
    fn pipeline(&self, name: &str) -> Option<Arc<Shared>> {
        let name = if name.is_empty() { "felix" } else { name };
        let view = self.options.views.iter().find(|view| view.name == name)?;
        let mut caches = self.caches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = caches.get(name) {
            return Some(Arc::clone(&pipeline.shared));
        }
        let mut cache = Cache::new(uuid::Uuid::new_v4().as_u64_pair().0);
        let shared = Arc::clone(cache.shared());
        let mut syncer =
            Syncer::start(Arc::clone(&self.store), view.request.clone(), self.options.syncer.clone());
        let stats = Arc::clone(&self.stats);
        let task = tokio::spawn(async move {
            while let Some(event) = syncer.next().await {
                match event {
                    SyncEvent::Status(status) => {
                        if status == SyncStatus::InSync {
                            cache.reached(syncer.stats().listed());
                        }
                        cache.set_status(status);
                    }
                    SyncEvent::Updates(updates) => {
                        cache.apply(&updates);
                        stats.updates.fetch_add(u64::try_from(updates.len()).unwrap_or(0), Ordering::Relaxed);
                        let skipped = std::mem::take(&mut cache.skipped);
                        stats.skipped.fetch_add(skipped, Ordering::Relaxed);
                    }
                    SyncEvent::ParseFailed(failure) => {
                        tracing::warn!(key = %failure.key, reason = %failure.reason, "stored value cannot be read");
                    }
                }
            }
        });
        caches.insert(name.to_owned(), Arc::new(Pipeline { shared: Arc::clone(&shared), task }));
        Some(shared)
    }

    async fn store_identity(&self) -> String {
        let known =
            self.identity.get_or_try_init(async || self.store.info().await.map(|info| info.identity)).await;
        known.map_or_else(|_| String::new(), Clone::clone)
    }

    /// Everything that goes to one client.
    async fn stream(
        &self,
        write: &mut (impl tokio::io::AsyncWrite + Unpin),
        hello: &ClientHello,
        shared: &Arc<Shared>,
        beats: &AtomicU64,
        started: Instant,
    ) -> Result<(), PipeError> {
        let limit = self.options.write_timeout;
        let resume = hello.resume.filter(|resume| resume.epoch == shared.epoch);
        let resumed = resume.and_then(|resume| shared.find(resume.seq));
        let greeting = Frame::ServerHello(ServerHello {
            protocol: PROTOCOL,
            epoch: shared.epoch,
            features: Vec::new(),
            conn_id: self.next_conn.fetch_add(1, Ordering::Relaxed),
            resumed: resumed.is_some(),
            store: self.store_identity().await,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        });
        self.send(write, &greeting.encode()).await?;
        let mut follower = match resumed {
            Some(crumb) => {
                self.stats.resumed.fetch_add(1, Ordering::Relaxed);
                shared.follow(crumb)
            }
            None => {
                let (crumb, snapshot) = shared.latest();
                self.stats.snapshots.fetch_add(1, Ordering::Relaxed);
                let begin = SnapshotBegin {
                    seq: crumb.seq,
                    count: u64::try_from(snapshot.len()).unwrap_or(0),
                    revision: snapshot.revision(),
                };
                self.send(write, &Frame::SnapshotBegin(begin).encode()).await?;
                for frame in snapshot.frames() {
                    self.send(write, &frame).await?;
                }
                drop(snapshot);
                let end = Position { seq: crumb.seq, status: frame::status_number(crumb.status) };
                self.send(write, &Frame::SnapshotEnd(end).encode()).await?;
                shared.follow(crumb)
            }
        };
        let grace = Instant::now() + self.options.new_client_grace;
        let mut leaving = self.leaving.subscribe();
        let mut jitter = Jitter::new();
        let mut next_ping = tokio::time::Instant::now() + jitter.spread(self.options.ping_interval);
        let mut next_batch = tokio::time::Instant::now();
        let mut pieces = Vec::new();
        loop {
            flush(write, limit).await?;
            tokio::select! {
                biased;
                // Inside a block of its own, so that the borrowed value is not held while sending.
                () = async { drop(leaving.wait_for(|leaving| *leaving).await) } => {
                    self.send(write, &self.go_away("server is shutting down").encode()).await?;
                    return flush(write, limit).await;
                }
                () = tokio::time::sleep_until(next_ping) => {
                    let silent = elapsed_ms(started).saturating_sub(beats.load(Ordering::Relaxed));
                    if Duration::from_millis(silent) > self.options.pong_timeout {
                        return Err(PipeError::Silent(self.options.pong_timeout));
                    }
                    let ping = Frame::Ping(Beat { time: elapsed_ms(started) });
                    self.send(write, &ping.encode()).await?;
                    next_ping = tokio::time::Instant::now() + jitter.spread(self.options.ping_interval);
                }
                crumb = async {
                    tokio::time::sleep_until(next_batch).await;
                    follower.next().await
                } => {
                    let Some(crumb) = crumb else { return Ok(()) };
                    pieces.push(crumb.deltas.clone());
                    gather(&mut follower, &mut pieces);
                    let reached = follower.position();
                    let position = Position { seq: reached.seq, status: frame::status_number(reached.status) };
                    pieces.push(Frame::Status(position).encode());
                    send_all(write, &pieces, limit).await?;
                    let bytes: usize = pieces.iter().map(bytes::Bytes::len).sum();
                    self.stats.bytes.fetch_add(u64::try_from(bytes).unwrap_or(0), Ordering::Relaxed);
                    pieces.clear();
                    next_batch = tokio::time::Instant::now() + self.options.min_batching;
                    self.check_lag(shared, &follower, grace)?;
                }
            }
        }
    }

    fn check_lag(&self, shared: &Shared, follower: &Follower, grace: Instant) -> Result<(), PipeError> {
        let tail = shared.tail();
        let here = follower.position();
        let age = tail.at.saturating_duration_since(here.at);
        let bytes = tail.total_bytes.saturating_sub(here.total_bytes);
        if bytes > self.options.max_lag_bytes {
            return Err(PipeError::Stuck(age));
        }
        if age > self.options.max_fall_behind && Instant::now() > grace {
            return Err(PipeError::Stuck(age));
        }
        Ok(())
    }

    async fn send(
        &self,
        write: &mut (impl tokio::io::AsyncWrite + Unpin),
        bytes: &[u8],
    ) -> Result<(), PipeError> {
        send(write, bytes, self.options.write_timeout).await?;
        self.stats.bytes.fetch_add(u64::try_from(bytes.len()).unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }
}

/// Adds the breadcrumbs that are there already, so that a busy client gets one position for many.
fn gather(follower: &mut Follower, pieces: &mut Vec<bytes::Bytes>) {
    while pieces.len() < 128 {
        let Some(crumb) = follower.try_next() else { break };
        pieces.push(crumb.deltas.clone());
    }
}

fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Puts the halves of a connection together again, to say a last word.
fn reader_into<S: Socket>(reader: FrameReader<tokio::io::ReadHalf<S>>, write: tokio::io::WriteHalf<S>) -> S {
    reader.into_inner().unsplit(write)
}
