//! UDP sockets and timers around BFD sessions, on a thread of their own: three packets in 300 ms have to be sent and
//! heard however busy the rest of the agent is.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use calico_bgp::bfd::{BfdConfig, BfdState, MULTIHOP_PORT, Packet, SINGLE_HOP_PORT, Session};
use calico_bgp::config::SpeakerConfig;
use calico_dataplane::sys::datagram;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::sync::mpsc;

use super::NetEvent;

/// Source ports of sessions (RFC 5881 section 4).
const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;

/// TTL of a neighbour that is one hop away.
const DIRECT_TTL: u8 = 255;

/// One session as it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    local: Option<IpAddr>,
    config: BfdConfig,
}

/// A session is named by the address of its neighbour; several BGP peers may share it.
type Sessions = HashMap<IpAddr, Wanted>;

/// The thread's mailbox; the thread ends when it is dropped.
#[derive(Debug)]
pub(super) struct Bfd {
    commands: Option<mpsc::UnboundedSender<Sessions>>,
    known: Sessions,
    seed: u64,
}

impl Bfd {
    pub(super) fn new(seed: u64) -> Self {
        Self { commands: None, known: Sessions::new(), seed }
    }

    /// Runs the sessions that the configuration wants; the thread starts with the first one.
    pub(super) fn configure(&mut self, config: &SpeakerConfig, events: &mpsc::Sender<NetEvent>) {
        let wanted: Sessions = config
            .peers
            .values()
            .filter(|peer| !peer.disabled)
            .filter_map(|peer| Some((peer.address, Wanted { local: peer.local_address, config: peer.bfd? })))
            .collect();
        if wanted == self.known {
            return;
        }
        if self.commands.is_none() {
            let (sender, commands) = mpsc::unbounded_channel();
            let (events, seed) = (events.clone(), self.seed);
            let started = std::thread::Builder::new().name("bfd".to_owned()).spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                match runtime {
                    Ok(runtime) => runtime.block_on(run(commands, events, seed)),
                    Err(error) => tracing::error!(%error, "BFD cannot run; its peers stay down"),
                }
            });
            if let Err(error) = started {
                tracing::error!(%error, "BFD cannot run; its peers stay down");
                return;
            }
            self.commands = Some(sender);
        }
        if let Some(commands) = &self.commands {
            let _ = commands.send(wanted.clone());
        }
        self.known = wanted;
    }
}

struct Running {
    wanted: Wanted,
    session: Session,
    socket: UdpSocket,
}

struct Machine {
    sessions: HashMap<IpAddr, Running>,
    next_discriminator: u32,
    events: mpsc::Sender<NetEvent>,
    seed: u64,
}

/// Receives for all sessions of a family and a port.
struct Ear {
    socket: Option<tokio::net::UdpSocket>,
    direct: bool,
}

impl Ear {
    fn open(v6: bool, port: u16) -> Self {
        let address: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let opened = listen(SocketAddr::new(address, port)).and_then(tokio::net::UdpSocket::from_std);
        let socket = match opened {
            Ok(socket) => Some(socket),
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            Err(error) => {
                tracing::error!(%address, port, %error, "BFD cannot listen; does BIRD or another BFD run on this node?");
                None
            }
        };
        Self { socket, direct: port == SINGLE_HOP_PORT }
    }

    /// The next packet that may be believed, with its sender. Never ends when there is no socket.
    async fn hear(&self) -> (IpAddr, Packet) {
        let Some(socket) = &self.socket else { return std::future::pending().await };
        let mut buffer = [0; 64];
        loop {
            if socket.readable().await.is_err() {
                return std::future::pending().await;
            }
            let attempt = || datagram::receive(socket, &mut buffer);
            let Ok(received) = socket.try_io(Interest::READABLE, attempt) else { continue };
            // RFC 5881 section 5: anything with a lower TTL came through a router.
            if self.direct && received.ttl != Some(DIRECT_TTL) {
                continue;
            }
            let data = buffer.get(..received.length).unwrap_or_default();
            if let Ok(packet) = Packet::decode(data) {
                return (received.from.ip().to_canonical(), packet);
            }
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    datagram::report_ttl(&socket, address.is_ipv6())?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

async fn run(mut commands: mpsc::UnboundedReceiver<Sessions>, events: mpsc::Sender<NetEvent>, seed: u64) {
    let ears = [
        Ear::open(false, SINGLE_HOP_PORT),
        Ear::open(true, SINGLE_HOP_PORT),
        Ear::open(false, MULTIHOP_PORT),
        Ear::open(true, MULTIHOP_PORT),
    ];
    let [four, six, far_four, far_six] = &ears;
    let mut machine = Machine { sessions: HashMap::new(), next_discriminator: 1, events, seed };
    loop {
        let deadline = machine.sessions.values().filter_map(|running| running.session.poll_timeout()).min();
        let heard = tokio::select! {
            command = commands.recv() => match command {
                Some(wanted) => {
                    machine.configure(wanted);
                    None
                }
                None => return,
            },
            heard = four.hear() => Some((heard, false)),
            heard = six.hear() => Some((heard, false)),
            heard = far_four.hear() => Some((heard, true)),
            heard = far_six.hear() => Some((heard, true)),
            () = super::sleep_until(deadline) => None,
        };
        let now = Instant::now();
        if let Some(((from, packet), multihop)) = heard {
            machine.receive(now, from, &packet, multihop);
        }
        machine.settle(now).await;
    }
}

impl Machine {
    fn configure(&mut self, wanted: Sessions) {
        let now = Instant::now();
        self.sessions.retain(|address, running| {
            wanted.get(address).is_some_and(|new| {
                new.local == running.wanted.local && new.config.multihop == running.wanted.config.multihop
            })
        });
        for (address, wanted) in wanted {
            if let Some(running) = self.sessions.get_mut(&address) {
                running.session.configure(now, wanted.config);
                running.wanted = wanted;
                continue;
            }
            let number = self.discriminator();
            match speak(address, &wanted) {
                Ok(socket) => {
                    let session = Session::new(number, wanted.config, self.seed);
                    self.sessions.insert(address, Running { wanted, session, socket });
                }
                Err(error) => tracing::error!(%address, %error, "no BFD session; the peer stays down"),
            }
        }
    }

    fn discriminator(&mut self) -> NonZeroU32 {
        let number = NonZeroU32::new(self.next_discriminator).unwrap_or(NonZeroU32::MIN);
        self.next_discriminator = number.get().wrapping_add(1);
        number
    }

    fn receive(&mut self, now: Instant, from: IpAddr, packet: &Packet, multihop: bool) {
        let Some(running) = self.sessions.get_mut(&from) else { return };
        if running.wanted.config.multihop == multihop {
            running.session.receive(now, packet);
        }
    }

    /// Timers, packets, news.
    async fn settle(&mut self, now: Instant) {
        for (address, running) in &mut self.sessions {
            if running.session.poll_timeout().is_none_or(|at| at <= now) {
                running.session.handle_timeout(now);
            }
            while let Some(packet) = running.session.poll_transmit(now) {
                // A way that is gone shows by what is not heard.
                let _ = running.socket.send(&packet.encode());
            }
            while let Some(event) = running.session.poll_event() {
                tracing::info!(peer = %address, state = %event.state, diagnostic = %event.diagnostic, "BFD");
                // Switched off by the neighbour says nothing about the way (RFC 5882 section 4.1).
                let up = event.state == BfdState::Up || event.switched_off;
                let relevant = up || matches!(event.state, BfdState::Down);
                if relevant && self.events.send(NetEvent::Bfd { address: *address, up }).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// A socket to send from, with the TTL and the source port that neighbours expect.
fn speak(remote: IpAddr, wanted: &Wanted) -> io::Result<UdpSocket> {
    let unspecified: IpAddr =
        if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let local = wanted.local.unwrap_or(unspecified);
    let socket = Socket::new(Domain::for_address(SocketAddr::new(remote, 0)), Type::DGRAM, None)?;
    let reference = SockRef::from(&socket);
    if remote.is_ipv4() {
        reference.set_ttl_v4(u32::from(DIRECT_TTL))?;
        // Network control, as for BGP itself.
        reference.set_tos_v4(0xc0)?;
    } else {
        reference.set_unicast_hops_v6(u32::from(DIRECT_TTL))?;
    }
    socket.set_nonblocking(true)?;
    let mut refused = io::Error::from(io::ErrorKind::AddrInUse);
    for port in SOURCE_PORTS {
        match socket.bind(&SocketAddr::new(local, port).into()) {
            Ok(()) => {
                let port = if wanted.config.multihop { MULTIHOP_PORT } else { SINGLE_HOP_PORT };
                socket.connect(&SocketAddr::new(remote, port).into())?;
                return Ok(socket.into());
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => refused = error,
            Err(error) => return Err(error),
        }
    }
    Err(refused)
}

/// The names of the peers that a session is for.
pub(super) fn peers_of(config: &SpeakerConfig, address: IpAddr) -> Vec<Arc<str>> {
    let peers = config.peers.values().filter(|peer| peer.address == address && peer.bfd.is_some());
    peers.map(|peer| peer.name.clone()).collect()
}
