//! Our side: the agent's BGP task on a thread in its namespace.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use calico_bgp::config::{LocalRoute, PeerConfig, SpeakerConfig};
use calico_bins::node::bgp::{self, Board, Command, Output};
use calico_bins::node::protocol::PeerStatus;
use calico_dataplane::driver::FibRoute;
use ipnet::IpNet;
use tokio::sync::mpsc;

use crate::arena::{Arena, eventually};

type Table = Arc<Mutex<BTreeMap<IpNet, FibRoute>>>;

pub(crate) struct Speaker {
    commands: Option<mpsc::UnboundedSender<Command>>,
    thread: Option<JoinHandle<()>>,
    board: Board,
    table: Table,
}

/// A speaker with our routes, without peers.
pub(crate) fn node(asn: u32) -> SpeakerConfig {
    SpeakerConfig::new("10.99.0.1".parse().unwrap(), asn)
        .with_route("10.1.0.0/26".parse().unwrap(), LocalRoute::announced())
        .with_route("fd10:1::/122".parse().unwrap(), LocalRoute::announced())
}

/// A session with a peer at an address, quick to connect.
pub(crate) fn peer(remote: &str, local_as: u32, remote_as: u32) -> PeerConfig {
    let remote: IpAddr = remote.parse().unwrap();
    let mut peer = PeerConfig::new("dut", remote, local_as, remote_as);
    let (four, six): (IpAddr, IpAddr) = ("10.99.0.1".parse().unwrap(), "fd99::1".parse().unwrap());
    (peer.local_address, peer.other_family_address) =
        if remote.is_ipv4() { (Some(four), Some(six)) } else { (Some(six), Some(four)) };
    peer.hold_time = Duration::from_secs(9);
    peer.connect_delay = Duration::from_millis(200);
    peer.connect_retry = Duration::from_millis(500);
    peer.error_wait = (Duration::from_millis(500), Duration::from_secs(1));
    peer
}

impl Speaker {
    pub(crate) fn start(arena: &Arena, config: SpeakerConfig) -> Self {
        let (commands, receiver) = mpsc::unbounded_channel();
        commands.send(Command::Configure(Box::new(config))).unwrap();
        let (board, table) = (Board::default(), Table::default());
        let (shown, written, namespace) = (board.clone(), table.clone(), arena.ours.clone());
        let thread = std::thread::spawn(move || {
            Arena::enter(&namespace);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(bgp::run(receiver, shown, 7, move |output| {
                if let Output::Fib(updates) = output {
                    let mut table = written.lock().unwrap();
                    for update in updates {
                        match update.route {
                            Some(route) => table.insert(update.prefix, route),
                            None => table.remove(&update.prefix),
                        };
                    }
                }
            }));
        });
        Self { commands: Some(commands), thread: Some(thread), board, table }
    }

    pub(crate) fn configure(&self, config: SpeakerConfig) {
        self.commands.as_ref().unwrap().send(Command::Configure(Box::new(config))).unwrap();
    }

    pub(crate) fn peer(&self) -> Option<PeerStatus> {
        self.board.read().peers.into_iter().next()
    }

    pub(crate) fn peers(&self) -> Vec<PeerStatus> {
        self.board.read().peers
    }

    pub(crate) fn established(&self, what: &str) {
        eventually(what, || match self.peers() {
            peers if !peers.is_empty() && peers.iter().all(|peer| peer.bgp_state == "Established") => Ok(()),
            peers => Err(format!("{peers:?}")),
        });
    }

    /// Waits for a text of the first peer's state and reason.
    pub(crate) fn says(&self, what: &str, needle: &str) {
        eventually(what, || match self.peer() {
            Some(peer) if format!("{} {}", peer.bgp_state, peer.info).contains(needle) => Ok(()),
            other => Err(format!("{other:?} has no {needle:?}")),
        });
    }

    pub(crate) fn has(&self, prefix: &str) -> bool {
        self.table.lock().unwrap().contains_key(&prefix.parse().unwrap())
    }

    /// The gateways of a route, sorted.
    pub(crate) fn gateways(&self, prefix: &str) -> Vec<String> {
        match self.table.lock().unwrap().get(&prefix.parse().unwrap()) {
            Some(FibRoute::Via(hops)) => {
                let mut list: Vec<_> = hops.iter().map(|hop| hop.gateway.to_string()).collect();
                list.sort();
                list
            }
            _ => Vec::new(),
        }
    }

    pub(crate) fn learns(&self, what: &str, prefix: &str, gateways: &[&str]) {
        eventually(what, || match self.gateways(prefix) {
            have if have == gateways => Ok(()),
            have => Err(format!("{prefix} via {have:?}, not {gateways:?}; {:?}", self.peer())),
        });
    }
}

impl Drop for Speaker {
    /// As `kill -9` does: connections break, nobody says goodbye.
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}
