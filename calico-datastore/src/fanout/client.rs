//! The client: the events of a syncer, from a server instead of from the store.

use std::collections::HashMap;
use std::time::Duration;

use calico_model::{Key, Revision, Update};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

use super::frame::{
    ClientHello, Frame, FrameError, KeyValue, KvBatch, MAX_SERVER_FRAME, PROTOCOL, Position, Resume,
    ServerHello, status_of,
};
use super::pipe::{FrameReader, PipeError, Socket, flush, send};
use super::tls::TlsSettings;
use crate::backend::Bytes;
use crate::backoff::Backoff;
use crate::codec;
use crate::datastore::ParseFailure;
use crate::error::StoreError;
use crate::syncer::{SyncEvent, SyncStatus};

/// Settings of a [`FanoutClient`].
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Servers in the order to try: `host:port`, or `srv:name` for those that the SRV records of a name tell, for
    /// example `srv:_calico-typha._tcp.example.org`; they are looked up again before each attempt.
    pub servers: Vec<String>,
    /// View: `felix`, `bgp`, `tunnel-ip-allocation`, `node-status`.
    pub view: String,
    /// Own node, for logs of the server.
    pub hostname: String,
    /// Certificates; without them connections are plain TCP.
    pub tls: Option<TlsSettings>,
    /// Time to connect.
    pub dial_timeout: Duration,
    /// Silence after which a server is given up.
    pub read_timeout: Duration,
    /// Time within which a server must take some bytes.
    pub write_timeout: Duration,
    /// First pause after a failure; doubles up to `max_retry`.
    pub min_retry: Duration,
    /// Longest pause after a failure.
    pub max_retry: Duration,
    /// Events that wait for a slow consumer.
    pub queue: usize,
}

impl ClientOptions {
    /// Defaults for some servers and a view.
    pub fn new(servers: Vec<String>, view: impl Into<String>) -> Self {
        Self {
            servers,
            view: view.into(),
            hostname: String::new(),
            tls: None,
            dial_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(10),
            min_retry: Duration::from_millis(100),
            max_retry: Duration::from_secs(5),
            queue: 64,
        }
    }
}

/// Why one connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    /// The consumer went away.
    #[error("consumer is gone")]
    Consumer,
    #[error("{0}")]
    Pipe(#[from] PipeError),
    #[error("{0}")]
    Tls(StoreError),
    #[error("server refused: {0}")]
    Rejected(String),
    #[error("server sent us away: {reason}")]
    Away { reason: String, pause: Duration, alternates: Vec<String> },
    /// The server knows less than we do.
    #[error("server is at revision {server}, {seen} was seen already")]
    Stale { server: u64, seen: u64 },
}

/// A connection to the fan-out that reconnects, resumes and fails over by itself. Dropping it ends it.
#[derive(Debug)]
pub struct FanoutClient {
    events: mpsc::Receiver<SyncEvent>,
}

impl FanoutClient {
    /// Starts following. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`StoreError::Config`] for unusable certificates or when no server is named.
    pub fn start(options: ClientOptions) -> Result<Self, StoreError> {
        if options.servers.is_empty() {
            return Err(StoreError::Config {
                name: "TYPHAADDR".to_owned(),
                reason: "no fan-out server is named".to_owned(),
            });
        }
        let connector = match &options.tls {
            Some(settings) => Some(TlsConnector::from(settings.client()?)),
            None => None,
        };
        let (sender, events) = mpsc::channel(options.queue.max(1));
        let state = State {
            out: sender.clone(),
            known: HashMap::new(),
            status: None,
            resume: None,
            store: String::new(),
            seen: 0,
            snapshot: None,
        };
        tokio::spawn(async move {
            tokio::select! {
                () = sender.closed() => {}
                () = run(options, connector, state) => {}
            }
        });
        Ok(Self { events })
    }

    /// The next event. `None` only after the runtime has shut down.
    pub async fn next(&mut self) -> Option<SyncEvent> {
        self.events.recv().await
    }

    /// The channel of events, for callers with a select loop of their own. Dropping it stops the task.
    pub fn into_events(self) -> mpsc::Receiver<SyncEvent> {
        self.events
    }
}

/// What marks a name whose SRV records tell the servers.
const SRV: &str = "srv:";

/// The servers of the settings, looked up where they are told by name.
async fn named(options: &ClientOptions) -> Vec<String> {
    let mut servers = Vec::new();
    for server in &options.servers {
        let Some(name) = server.strip_prefix(SRV).map(str::to_owned) else {
            servers.push(server.clone());
            continue;
        };
        let found = tokio::task::spawn_blocking(move || crate::srv::lookup(&name)).await;
        match found {
            Ok(Ok(found)) => {
                servers.extend(found.iter().map(|found| format!("{}:{}", found.host, found.port)))
            }
            Ok(Err(error)) => tracing::warn!(%server, %error, "cannot look up fan-out servers"),
            Err(error) => tracing::warn!(%server, %error, "cannot look up fan-out servers"),
        }
    }
    servers
}

async fn run(options: ClientOptions, connector: Option<TlsConnector>, mut state: State) {
    let mut backoff = Backoff::new(options.min_retry, options.max_retry);
    let mut servers = named(&options).await;
    let mut turn = 0;
    if state.set_status(SyncStatus::WaitForDatastore).await.is_err() {
        return;
    }
    loop {
        if turn > 0 && options.servers.iter().any(|server| server.starts_with(SRV)) {
            // Those that a server told stay known until it is gone.
            let known = std::mem::replace(&mut servers, named(&options).await);
            servers = if servers.is_empty() { known } else { servers };
        }
        let server = servers.get(turn % servers.len().max(1)).cloned().unwrap_or_default();
        turn += 1;
        let ended = state.connect(&server, &options, connector.as_ref(), &mut backoff).await;
        let pause = match ended {
            Ended::Consumer => return,
            Ended::Away { reason, pause, alternates } => {
                tracing::info!(%server, %reason, "fan-out server sent us away");
                servers = named(&options).await;
                for alternate in alternates {
                    if !servers.contains(&alternate) {
                        servers.push(alternate);
                    }
                }
                // Another server is asked soon; the only one is given its pause.
                if servers.len() > 1 { backoff.next() } else { pause.max(backoff.next()) }
            }
            error => {
                tracing::warn!(%server, %error, "fan-out connection ended");
                backoff.next()
            }
        };
        tokio::time::sleep(pause).await;
    }
}

struct State {
    out: mpsc::Sender<SyncEvent>,
    /// Revision of every object the consumer has.
    known: HashMap<String, Revision>,
    status: Option<SyncStatus>,
    resume: Option<Resume>,
    /// Identity of the store whose revisions were seen.
    store: String,
    /// Newest revision seen of that store.
    seen: u64,
    /// While a snapshot comes in: what the consumer had and has not been named by it yet.
    snapshot: Option<HashMap<String, Revision>>,
}

impl State {
    async fn connect(
        &mut self,
        server: &str,
        options: &ClientOptions,
        connector: Option<&TlsConnector>,
        backoff: &mut Backoff,
    ) -> Ended {
        let dial = tokio::time::timeout(options.dial_timeout, TcpStream::connect(server)).await;
        let stream = match dial {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return PipeError::Io(error).into(),
            Err(_) => return PipeError::Silent(options.dial_timeout).into(),
        };
        let _ = stream.set_nodelay(true);
        let result = match (connector, &options.tls) {
            (Some(connector), Some(settings)) => {
                let host = server.rsplit_once(':').map_or(server, |(host, _)| host).trim_matches(['[', ']']);
                // The name is not checked; one that cannot be a server name is replaced.
                let name = ServerName::try_from(host.to_owned())
                    .or_else(|_| ServerName::try_from("server".to_owned()));
                let Ok(name) = name else { return Ended::Rejected(format!("bad server name {host:?}")) };
                let accepted =
                    tokio::time::timeout(options.dial_timeout, connector.connect(name, stream)).await;
                match accepted {
                    Err(_) => return PipeError::Silent(options.dial_timeout).into(),
                    Ok(Err(error)) => return PipeError::Io(error).into(),
                    Ok(Ok(stream)) => match settings.check_peer(stream.get_ref().1.peer_certificates()) {
                        Ok(()) => self.follow(stream, options, backoff).await,
                        Err(error) => return Ended::Tls(error),
                    },
                }
            }
            _ => self.follow(stream, options, backoff).await,
        };
        if let Some(left) = self.snapshot.take() {
            // A snapshot cut short says nothing about what it did not name.
            for (path, revision) in left {
                self.known.entry(path).or_insert(revision);
            }
            self.resume = None;
        }
        match result {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn follow(
        &mut self,
        stream: impl Socket,
        options: &ClientOptions,
        backoff: &mut Backoff,
    ) -> Result<std::convert::Infallible, Ended> {
        let (read, mut write) = tokio::io::split(stream);
        let mut reader = FrameReader::new(read, MAX_SERVER_FRAME);
        let hello = ClientHello {
            protocol: PROTOCOL,
            min_protocol: PROTOCOL,
            syncer: options.view.clone(),
            hostname: options.hostname.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            features: Vec::new(),
            conn_id: uuid::Uuid::new_v4().as_u64_pair().0,
            resume: self.resume,
        };
        send(&mut write, &Frame::ClientHello(hello).encode(), options.write_timeout).await?;
        flush(&mut write, options.write_timeout).await?;
        let mut greeted: Option<ServerHello> = None;
        loop {
            let frame = reader.next_within(options.read_timeout).await?;
            match (frame, &greeted) {
                (Frame::ServerHello(hello), None) => {
                    if hello.store != self.store {
                        // Other data: its revisions have nothing to do with those seen.
                        self.store.clone_from(&hello.store);
                        self.seen = 0;
                    }
                    if !hello.resumed {
                        self.resume = None;
                    }
                    greeted = Some(hello);
                }
                (Frame::Reject(reject), _) => return Err(Ended::Rejected(reject.text)),
                (Frame::GoAway(away), _) => {
                    return Err(Ended::Away {
                        reason: away.reason,
                        pause: Duration::from_millis(away.retry_after_ms.min(60_000)),
                        alternates: away.alternates,
                    });
                }
                (Frame::SnapshotBegin(begin), Some(_)) if self.snapshot.is_none() => {
                    if begin.revision < self.seen {
                        return Err(Ended::Stale { server: begin.revision, seen: self.seen });
                    }
                    self.snapshot = Some(std::mem::take(&mut self.known));
                    if self.status == Some(SyncStatus::InSync) {
                        self.set_status(SyncStatus::Resync).await?;
                    }
                }
                (Frame::KvBatch(batch), Some(_)) => self.take(batch).await?,
                (Frame::SnapshotEnd(position), Some(hello)) if self.snapshot.is_some() => {
                    self.finish_snapshot().await?;
                    self.reached(hello.epoch, position).await?;
                    backoff.reset();
                }
                (Frame::Status(position), Some(hello)) => {
                    self.reached(hello.epoch, position).await?;
                    backoff.reset();
                }
                (Frame::Ping(beat), _) => {
                    send(&mut write, &Frame::Pong(beat).encode(), options.write_timeout).await?;
                    flush(&mut write, options.write_timeout).await?;
                }
                (other, _) => {
                    return Err(PipeError::Frame(FrameError::Unexpected {
                        kind: other.kind(),
                        expected: "a hello, then snapshot, updates, status or ping",
                    })
                    .into());
                }
            }
        }
    }

    async fn take(&mut self, batch: KvBatch) -> Result<(), Ended> {
        let mut updates = Vec::with_capacity(batch.kvs.len());
        for kv in batch.kvs {
            self.seen = self.seen.max(kv.revision.parse().unwrap_or(0));
            // Keys of a newer version are not ours to understand.
            let Ok(key) = Key::parse(&kv.path) else { continue };
            if kv.deleted {
                if self.known.remove(&kv.path).is_some() {
                    updates.push(Update::deleted(key, Revision::new(kv.revision)));
                }
                continue;
            }
            let KeyValue { path, value, revision, .. } = kv;
            let revision = Revision::new(revision);
            let before = self.snapshot.as_mut().and_then(|old| old.remove(&path));
            let before = before.or_else(|| self.known.get(&path).cloned());
            if before.as_ref() == Some(&revision) {
                self.known.insert(path, revision);
                continue;
            }
            match codec::decode(&key, &value, &revision) {
                Ok(value) => {
                    self.known.insert(path, revision.clone());
                    updates.push(Update::set(key, value, revision));
                }
                Err(error) => {
                    if let Some(good) = before {
                        self.known.insert(path.clone(), good);
                    }
                    let failure = ParseFailure {
                        key: path,
                        value: Bytes::from(value),
                        reason: error.to_string(),
                        revision,
                    };
                    self.flush(&mut updates).await?;
                    self.send(SyncEvent::ParseFailed(failure)).await?;
                }
            }
        }
        if !updates.is_empty() && self.status == Some(SyncStatus::WaitForDatastore) {
            self.set_status(SyncStatus::Resync).await?;
        }
        self.flush(&mut updates).await
    }

    /// What the consumer has and the snapshot did not name is gone.
    async fn finish_snapshot(&mut self) -> Result<(), Ended> {
        let Some(left) = self.snapshot.take() else { return Ok(()) };
        let mut gone: Vec<String> = left.into_keys().collect();
        gone.sort();
        let revision = Revision::from(self.seen);
        let mut updates: Vec<Update> = gone
            .iter()
            .filter_map(|path| Key::parse(path).ok())
            .map(|key| Update::deleted(key, revision.clone()))
            .collect();
        self.flush(&mut updates).await
    }

    async fn reached(&mut self, epoch: u64, position: Position) -> Result<(), Ended> {
        self.resume = Some(Resume { epoch, seq: position.seq });
        self.set_status(status_of(position.status)).await
    }

    async fn flush(&mut self, updates: &mut Vec<Update>) -> Result<(), Ended> {
        if updates.is_empty() {
            return Ok(());
        }
        let updates = std::mem::take(updates);
        self.send(SyncEvent::Updates(updates)).await
    }

    async fn set_status(&mut self, status: SyncStatus) -> Result<(), Ended> {
        if self.status == Some(status) {
            return Ok(());
        }
        // A picture never skips the step in which it is filled.
        if self.status == Some(SyncStatus::WaitForDatastore) && status == SyncStatus::InSync {
            self.send(SyncEvent::Status(SyncStatus::Resync)).await?;
        }
        self.status = Some(status);
        self.send(SyncEvent::Status(status)).await
    }

    async fn send(&mut self, event: SyncEvent) -> Result<(), Ended> {
        self.out.send(event).await.map_err(|_| Ended::Consumer)
    }
}
