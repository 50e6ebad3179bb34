//! Sockets and timers around the BGP speaker. The speaker decides; this carries octets, connections and routes.

mod bfd;
mod connection;
mod listener;
pub mod report;
pub mod secrets;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use calico_bgp::config::{Authentication, SpeakerConfig, Ttl};
use calico_bgp::policy::RouteVia;
use calico_bgp::{ConnectionId, Event, FibChange, FibRoute, Input, Speaker, State};
use calico_dataplane::driver::{FibRoute as KernelRoute, FibUpdate};
use calico_dataplane::manager::Hop;
use calico_dataplane::sys::tcp_auth::{self, KeyError};
use tokio::sync::mpsc;

use super::protocol::BgpStatus;
use bfd::Bfd;
use connection::Connection;
use listener::Listeners;

/// Most events of connections that wait for the speaker; readers pause beyond that.
const QUEUE: usize = 1024;

/// Shortest time between two reports of the state.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);

/// Octets that may wait to be written to one peer before the speaker is told to hold back.
const WRITE_HIGH: usize = 1 << 20;

/// What the task is told by the rest of the agent.
#[derive(Debug)]
pub enum Command {
    /// Run with this configuration from now on.
    Configure(Box<SpeakerConfig>),
}

/// What the task tells the rest of the agent.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Routes for the kernel.
    Fib(Vec<FibUpdate>),
    /// Every peer was heard after the start.
    Converged,
}

/// What connections and listeners tell the task.
#[derive(Debug)]
pub(super) enum NetEvent {
    Accepted { stream: tokio::net::TcpStream, local: SocketAddr, remote: SocketAddr },
    Dialled { dial: calico_bgp::DialId, result: Result<tokio::net::TcpStream, String> },
    Data { connection: ConnectionId, data: Bytes },
    Closed { connection: ConnectionId, reason: String },
    Drained { connection: ConnectionId },
    Bfd { address: std::net::IpAddr, up: bool },
    ListenFailed { reason: String },
    Listening,
}

/// The speaker's state as others see it.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Mutex<BgpStatus>>);

impl Board {
    /// The state as of the last event.
    pub fn read(&self) -> BgpStatus {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn write(&self, status: BgpStatus) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

struct Task<O> {
    speaker: Option<Speaker>,
    seed: u64,
    connections: HashMap<ConnectionId, Connection>,
    next_connection: u64,
    listeners: Listeners,
    bfd: Bfd,
    sender: mpsc::Sender<NetEvent>,
    board: Board,
    listen_error: Option<String>,
    published: Option<Instant>,
    /// Something happened since.
    unpublished: bool,
    output: O,
}

/// Runs the speaker until `commands` is closed. `seed` spreads its timers.
pub async fn run(
    mut commands: mpsc::UnboundedReceiver<Command>,
    board: Board,
    seed: u64,
    output: impl FnMut(Output) + Send,
) {
    let (sender, mut events) = mpsc::channel(QUEUE);
    let mut task = Task {
        speaker: None,
        seed,
        connections: HashMap::new(),
        next_connection: 0,
        listeners: Listeners::default(),
        bfd: Bfd::new(seed),
        sender,
        board,
        listen_error: None,
        published: None,
        unpublished: false,
        output,
    };
    loop {
        let deadline = task.speaker.as_ref().and_then(Speaker::poll_timeout);
        let deadline = [deadline, task.publish_at()].into_iter().flatten().min();
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Configure(config)) => task.configure(*config),
                None => return,
            },
            event = events.recv() => {
                if let Some(event) = event {
                    task.event(event);
                }
                // What is there already is handled before anything is sent: updates pack better.
                for _ in 0..64 {
                    match events.try_recv() {
                        Ok(event) => task.event(event),
                        Err(_) => break,
                    }
                }
            },
            () = sleep_until(deadline) => task.tell(Input::Timeout),
        }
        task.settle();
    }
}

pub(super) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

impl<O: FnMut(Output)> Task<O> {
    fn configure(&mut self, config: SpeakerConfig) {
        let now = Instant::now();
        self.listeners.configure(&config, &self.sender);
        self.bfd.configure(&config, &self.sender);
        for connection in self.connections.values() {
            connection.change_key(&config);
        }
        match &mut self.speaker {
            Some(speaker) => {
                let report = speaker.configure(now, config);
                if report != calico_bgp::Reconfiguration::default() {
                    tracing::info!(
                        added = ?report.added, removed = ?report.removed, reset = ?report.reset, live = ?report.live,
                        routes = report.routes, "BGP reconfigured"
                    );
                }
            }
            None => {
                tracing::info!(router_id = %config.router_id, asn = config.asn, peers = config.peers.len(), "BGP starts");
                self.speaker = Some(Speaker::new(now, config, self.seed));
            }
        }
    }

    fn tell(&mut self, input: Input<'_>) {
        if let Some(speaker) = &mut self.speaker {
            speaker.handle(Instant::now(), input);
        }
    }

    fn adopt(&mut self, stream: tokio::net::TcpStream) -> ConnectionId {
        self.next_connection += 1;
        let id = ConnectionId(self.next_connection);
        self.connections.insert(id, Connection::start(id, stream, self.sender.clone()));
        id
    }

    fn event(&mut self, event: NetEvent) {
        match event {
            NetEvent::Accepted { stream, local, remote } => {
                if let Some(ttl) = self.ttl_of(remote)
                    && let Err(error) = listener::apply_ttl(&stream, remote, ttl)
                {
                    tracing::warn!(%remote, %error, "cannot set the TTL of an accepted BGP connection");
                    return;
                }
                let connection = self.adopt(stream);
                self.tell(Input::Accepted { connection, local, remote });
            }
            NetEvent::Dialled { dial, result: Ok(stream) } => match stream.local_addr() {
                Ok(local) => {
                    let connection = self.adopt(stream);
                    self.tell(Input::Connected { dial, connection, local });
                }
                Err(error) => self.tell(Input::ConnectFailed { dial, reason: error.to_string().into() }),
            },
            NetEvent::Dialled { dial, result: Err(reason) } => {
                self.tell(Input::ConnectFailed { dial, reason: reason.into() });
            }
            NetEvent::Data { connection, data } => self.tell(Input::Received { connection, data: &data }),
            NetEvent::Closed { connection, reason } => {
                if self.connections.remove(&connection).is_some() {
                    self.tell(Input::Closed { connection, reason: reason.into() });
                }
            }
            NetEvent::Drained { connection } => self.tell(Input::Writable { connection, writable: true }),
            NetEvent::Bfd { address, up } => {
                let names = self.speaker.as_ref().map(|speaker| bfd::peers_of(speaker.config(), address));
                for name in names.unwrap_or_default() {
                    self.tell(Input::Bfd { peer: &name, up });
                }
            }
            NetEvent::Listening => self.listen_error = None,
            NetEvent::ListenFailed { reason } => {
                if self.listen_error.as_ref() != Some(&reason) {
                    tracing::error!(%reason, "peers cannot connect to this node");
                }
                self.listen_error = Some(reason);
            }
        }
    }

    fn ttl_of(&self, remote: SocketAddr) -> Option<Ttl> {
        let peers = &self.speaker.as_ref()?.config().peers;
        peers.values().find(|peer| peer.address == remote.ip()).map(|peer| peer.ttl)
    }

    /// Carries out everything that the speaker wants by now.
    fn settle(&mut self) {
        let mut fib = Vec::new();
        let mut converged = false;
        loop {
            let Some(speaker) = &mut self.speaker else { return };
            let mut idle = true;
            while let Some(transmit) = speaker.poll_transmit() {
                idle = false;
                let Some(connection) = self.connections.get(&transmit.connection) else { continue };
                if connection.write(transmit.bytes) > WRITE_HIGH {
                    let input = Input::Writable { connection: transmit.connection, writable: false };
                    speaker.handle(Instant::now(), input);
                }
            }
            while let Some(event) = speaker.poll_event() {
                idle = false;
                match event {
                    Event::Connect { dial, remote, local, authentication, ttl, .. } => {
                        connection::dial(dial, remote, local, authentication, ttl, self.sender.clone());
                    }
                    Event::Close { connection, farewell } => {
                        if let Some(connection) = self.connections.remove(&connection) {
                            connection.close(farewell);
                        }
                    }
                    Event::Fib(change) => fib.push(kernel_update(change)),
                    Event::PeerState { peer, state: State::Established, .. } => {
                        tracing::info!(%peer, "BGP session is established");
                    }
                    Event::PeerState { peer, state, reason } => {
                        tracing::info!(%peer, %state, %reason, "BGP session changed");
                    }
                    Event::RestartComplete => converged = true,
                }
            }
            if idle {
                break;
            }
        }
        if !fib.is_empty() {
            (self.output)(Output::Fib(fib));
        }
        if converged {
            (self.output)(Output::Converged);
        }
        self.publish(Instant::now());
    }

    /// Shows the state to others, at most every [`PUBLISH_INTERVAL`]: a flood of routes is no reason to count them
    /// after each.
    fn publish(&mut self, now: Instant) {
        let Some(speaker) = &self.speaker else { return };
        if self.published.is_some_and(|at| now < at + PUBLISH_INTERVAL) {
            self.unpublished = true;
            return;
        }
        self.board.write(report::status(speaker, now, SystemTime::now(), self.listen_error.clone()));
        self.published = Some(now);
        self.unpublished = false;
    }

    /// When to publish what was held back.
    fn publish_at(&self) -> Option<Instant> {
        self.published.filter(|_| self.unpublished).map(|at| at + PUBLISH_INTERVAL)
    }
}

fn kernel_update(change: FibChange) -> FibUpdate {
    let route = change.route.map(|route| match route {
        FibRoute::Blackhole => KernelRoute::Blackhole,
        FibRoute::Via { next_hops, .. } => KernelRoute::Via(
            next_hops
                .iter()
                .map(|hop| Hop {
                    gateway: hop.address,
                    interface: match hop.via {
                        RouteVia::IpIp => Some("tunl0".into()),
                        RouteVia::Direct => None,
                    },
                    weight: 1,
                })
                .collect(),
        ),
    });
    FibUpdate { prefix: change.prefix, route }
}

/// Sets what a key configuration demands, on a listening socket without `use_at_once`; refuses what this kernel cannot do rather than going on in the clear.
pub(super) fn sign(
    socket: &impl std::os::fd::AsFd,
    peer: std::net::IpAddr,
    authentication: &Authentication,
    use_at_once: bool,
) -> Result<(), String> {
    match authentication {
        Authentication::None => Ok(()),
        Authentication::Md5(key) => tcp_auth::set_md5_key(socket, peer, key).map_err(|e| e.to_string()),
        Authentication::Ao(keys) => keys.iter().enumerate().try_for_each(|(at, key)| {
            let key = tcp_auth::AoKey {
                send_id: key.send_id,
                receive_id: key.receive_id,
                algorithm: &key.algorithm,
                secret: &key.secret,
                current: at == 0 && use_at_once,
            };
            match tcp_auth::add_ao_key(socket, peer, &key) {
                Err(KeyError::Kernel { source, .. }) if source.raw_os_error() == Some(libc::ENOPROTOOPT) => {
                    Err("this kernel does not sign with TCP-AO (Linux 6.7 with CONFIG_TCP_AO does)"
                        .to_owned())
                }
                // The key was there before the others changed.
                Err(KeyError::Kernel { source, .. }) if source.raw_os_error() == Some(libc::EEXIST) => Ok(()),
                other => other.map_err(|e| e.to_string()),
            }
        }),
        Authentication::Unavailable(why) => Err(format!("the password is unavailable: {why}")),
    }
}
