//! A network of speakers without a network: virtual connections, a clock that jumps, repeatable delays.
//!
//! Used by the tests of this crate, by examples, and by anybody who wants to know what a topology does before it is
//! built. Everything is decided by the configurations and the seed; two runs are equal.
//!
//! ```
//! use std::time::Duration;
//! use calico_bgp::config::{LocalRoute, PeerConfig, SpeakerConfig};
//! use calico_bgp::sim::Network;
//!
//! let mut network = Network::new(std::time::Instant::now(), 7);
//! for (own, other) in [("10.0.0.1", "10.0.0.2"), ("10.0.0.2", "10.0.0.1")] {
//!     let mut peer = PeerConfig::new("peer", other.parse().unwrap(), 64512, 64512);
//!     peer.local_address = Some(own.parse().unwrap());
//!     let mut config = SpeakerConfig::new(own.parse().unwrap(), 64512).with_peer(peer);
//!     if own == "10.0.0.1" {
//!         config = config.with_route("10.1.0.0/26".parse().unwrap(), LocalRoute::blackhole());
//!     }
//!     network.add(own.parse().unwrap(), config);
//! }
//! network.run_for(Duration::from_secs(20));
//! let second = "10.0.0.2".parse().unwrap();
//! assert!(network.fib(second).contains_key(&"10.1.0.0/26".parse().unwrap()));
//! ```

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ipnet::IpNet;

use crate::config::SpeakerConfig;
use crate::event::{DialId, Event, Input};
use crate::rib::FibRoute;
use crate::speaker::Speaker;
use crate::{ConnectionId, State};

/// What travels.
#[derive(Debug)]
enum Parcel {
    Data(Bytes),
    Closed,
    Connected { dial: DialId },
    Failed { dial: DialId },
    Accepted,
}

#[derive(Debug)]
struct Flight {
    to: IpAddr,
    connection: ConnectionId,
    parcel: Parcel,
}

#[derive(Debug)]
struct Node {
    speaker: Option<Speaker>,
    fib: BTreeMap<IpNet, FibRoute>,
    /// Routes of an earlier life that were not confirmed yet.
    unconfirmed: BTreeSet<IpNet>,
    established: u64,
}

/// One end of a virtual connection.
#[derive(Debug, Clone, Copy)]
struct End {
    owner: IpAddr,
    other: ConnectionId,
    other_owner: IpAddr,
    /// Arrival of the last parcel, so that the order is kept.
    last: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct Network {
    start: Instant,
    now: Duration,
    nodes: BTreeMap<IpAddr, Node>,
    ends: BTreeMap<ConnectionId, End>,
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    flights: BTreeMap<u64, Flight>,
    sequence: u64,
    next_connection: u64,
    cut: BTreeSet<(IpAddr, IpAddr)>,
    random: u64,
    seed: u64,
    max_delay: Duration,
}

impl Network {
    /// An empty network whose clock begins at `start`; any instant will do.
    pub fn new(start: Instant, seed: u64) -> Self {
        Network {
            start,
            now: Duration::ZERO,
            nodes: BTreeMap::new(),
            ends: BTreeMap::new(),
            queue: BinaryHeap::new(),
            flights: BTreeMap::new(),
            sequence: 0,
            next_connection: 0,
            cut: BTreeSet::new(),
            random: seed | 1,
            seed,
            max_delay: Duration::from_millis(5),
        }
    }

    /// The longest time that octets travel.
    pub fn set_max_delay(&mut self, delay: Duration) {
        self.max_delay = delay;
    }

    fn instant(&self) -> Instant {
        self.start + self.now
    }

    /// Time since the network was made.
    pub fn now(&self) -> Duration {
        self.now
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Adds a speaker that is reached at an address.
    pub fn add(&mut self, address: IpAddr, config: SpeakerConfig) {
        let speaker = Speaker::new(self.instant(), config, self.seed ^ self.random());
        let node = Node {
            speaker: Some(speaker),
            fib: BTreeMap::new(),
            unconfirmed: BTreeSet::new(),
            established: 0,
        };
        self.nodes.insert(address, node);
        self.drain(address);
    }

    /// The speaker at an address; `None` while it is stopped.
    pub fn speaker(&self, address: IpAddr) -> Option<&Speaker> {
        self.nodes.get(&address)?.speaker.as_ref()
    }

    /// Changes the configuration of a speaker.
    pub fn configure(&mut self, address: IpAddr, config: SpeakerConfig) {
        let now = self.instant();
        if let Some(speaker) = self.nodes.get_mut(&address).and_then(|node| node.speaker.as_mut()) {
            speaker.configure(now, config);
        }
        self.drain(address);
    }

    /// Hands an input to a speaker.
    pub fn input(&mut self, address: IpAddr, input: Input<'_>) {
        let now = self.instant();
        if let Some(speaker) = self.nodes.get_mut(&address).and_then(|node| node.speaker.as_mut()) {
            speaker.handle(now, input);
        }
        self.drain(address);
    }

    /// What the kernel of a node has been told.
    pub fn fib(&self, address: IpAddr) -> BTreeMap<IpNet, FibRoute> {
        self.nodes.get(&address).map(|node| node.fib.clone()).unwrap_or_default()
    }

    /// How often sessions of a node came up.
    pub fn established(&self, address: IpAddr) -> u64 {
        self.nodes.get(&address).map_or(0, |node| node.established)
    }

    /// Breaks all connections between two nodes without a word.
    pub fn break_sessions(&mut self, a: IpAddr, b: IpAddr) {
        let broken: Vec<_> = self
            .ends
            .iter()
            .filter(|(_, end)| {
                (end.owner, end.other_owner) == (a, b) || (end.owner, end.other_owner) == (b, a)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in broken {
            self.lose(id);
        }
    }

    /// Makes two nodes unable to reach each other, or able again. Connections stay but carry nothing while they cannot.
    pub fn set_reachable(&mut self, a: IpAddr, b: IpAddr, reachable: bool) {
        for pair in [(a, b), (b, a)] {
            if reachable {
                self.cut.remove(&pair);
            } else {
                self.cut.insert(pair);
            }
        }
        if reachable {
            // What TCP had in flight was lost for good in this model: the connections are reset.
            self.break_sessions(a, b);
        }
    }

    /// Kills a speaker; its connections break, its kernel routes stay.
    pub fn kill(&mut self, address: IpAddr) {
        if let Some(node) = self.nodes.get_mut(&address) {
            node.speaker = None;
        }
        let mine: Vec<_> =
            self.ends.iter().filter(|(_, end)| end.owner == address).map(|(id, _)| *id).collect();
        for id in mine {
            self.lose(id);
        }
    }

    /// Starts a killed speaker again, as one that restarts gracefully.
    pub fn revive(&mut self, address: IpAddr, mut config: SpeakerConfig) {
        config.restarting = true;
        let speaker = Speaker::new(self.instant(), config, self.seed ^ self.random());
        if let Some(node) = self.nodes.get_mut(&address) {
            node.unconfirmed = node.fib.keys().copied().collect();
            node.speaker = Some(speaker);
        }
        self.drain(address);
    }

    fn lose(&mut self, id: ConnectionId) {
        let Some(end) = self.ends.remove(&id) else { return };
        self.ends.remove(&end.other);
        self.flights.retain(|_, flight| flight.connection != id && flight.connection != end.other);
        let delay = Duration::from_micros(1);
        self.send(delay, Flight { to: end.owner, connection: id, parcel: Parcel::Closed });
        self.send(delay, Flight { to: end.other_owner, connection: end.other, parcel: Parcel::Closed });
    }

    fn send(&mut self, delay: Duration, flight: Flight) {
        let number = self.sequence;
        self.sequence += 1;
        self.queue.push(Reverse((self.now + delay, number)));
        self.flights.insert(number, flight);
    }

    fn delay(&mut self) -> Duration {
        let most = u64::try_from(self.max_delay.as_micros()).unwrap_or(u64::MAX).max(1);
        Duration::from_micros(1 + self.random() % most)
    }

    /// Sends in the order of the connection.
    fn send_in_order(&mut self, from: ConnectionId, parcel: Parcel) {
        let delay = self.delay();
        let now = self.now;
        let Some(end) = self.ends.get_mut(&from) else { return };
        let arrival = (now + delay).max(end.last + Duration::from_nanos(1));
        end.last = arrival;
        let end = *end;
        if self.cut.contains(&(end.owner, end.other_owner)) {
            return;
        }
        self.send(arrival - now, Flight { to: end.other_owner, connection: end.other, parcel });
    }

    fn drain(&mut self, address: IpAddr) {
        loop {
            let Some(node) = self.nodes.get_mut(&address) else { return };
            let Some(speaker) = node.speaker.as_mut() else { return };
            let mut transmits = Vec::new();
            while let Some(transmit) = speaker.poll_transmit() {
                transmits.push(transmit);
            }
            let event = speaker.poll_event();
            for transmit in transmits {
                self.send_in_order(transmit.connection, Parcel::Data(transmit.bytes));
            }
            match event {
                None => return,
                Some(event) => self.event(address, event),
            }
        }
    }

    fn event(&mut self, address: IpAddr, event: Event) {
        match event {
            Event::Connect { dial, remote, .. } => self.connect(address, dial, remote.ip()),
            Event::Close { connection, farewell } => {
                if let Some(bytes) = farewell {
                    self.send_in_order(connection, Parcel::Data(bytes));
                }
                self.send_in_order(connection, Parcel::Closed);
                self.ends.remove(&connection);
            }
            Event::Fib(change) => {
                if let Some(node) = self.nodes.get_mut(&address) {
                    node.unconfirmed.remove(&change.prefix);
                    match change.route {
                        Some(route) => node.fib.insert(change.prefix, route),
                        None => node.fib.remove(&change.prefix),
                    };
                }
            }
            Event::PeerState { state, .. } => {
                if let Some(node) = self.nodes.get_mut(&address)
                    && state == State::Established
                {
                    node.established += 1;
                }
            }
            Event::RestartComplete => {
                if let Some(node) = self.nodes.get_mut(&address) {
                    for prefix in std::mem::take(&mut node.unconfirmed) {
                        node.fib.remove(&prefix);
                    }
                }
            }
        }
    }

    fn connect(&mut self, from: IpAddr, dial: DialId, to: IpAddr) {
        let delay = self.delay();
        let alive = self.nodes.get(&to).is_some_and(|node| node.speaker.is_some());
        let (ours, theirs) = (ConnectionId(self.next_connection), ConnectionId(self.next_connection + 1));
        if !alive || self.cut.contains(&(from, to)) {
            self.send(delay, Flight { to: from, connection: ours, parcel: Parcel::Failed { dial } });
            return;
        }
        self.next_connection += 2;
        let last = self.now + delay;
        self.ends.insert(ours, End { owner: from, other: theirs, other_owner: to, last });
        self.ends.insert(theirs, End { owner: to, other: ours, other_owner: from, last });
        self.send(delay, Flight { to, connection: theirs, parcel: Parcel::Accepted });
        self.send(delay, Flight { to: from, connection: ours, parcel: Parcel::Connected { dial } });
    }

    fn deliver(&mut self, flight: Flight) {
        let Flight { to, connection, parcel } = flight;
        let other = self.ends.get(&connection).map(|end| end.other_owner);
        let address = |ip: IpAddr, port: u16| SocketAddr::new(ip, port);
        match parcel {
            Parcel::Data(bytes) => self.input(to, Input::Received { connection, data: &bytes }),
            Parcel::Closed => {
                self.ends.remove(&connection);
                self.input(to, Input::Closed { connection, reason: "connection reset".into() });
            }
            Parcel::Failed { dial } => {
                self.input(to, Input::ConnectFailed { dial, reason: "connection refused".into() });
            }
            Parcel::Connected { dial } => {
                if other.is_none() {
                    self.input(to, Input::ConnectFailed { dial, reason: "connection reset".into() });
                    return;
                }
                self.input(to, Input::Connected { dial, connection, local: address(to, 40_000) });
            }
            Parcel::Accepted => {
                let Some(other) = other else { return };
                let (local, remote) = (address(to, 179), address(other, 40_000));
                self.input(to, Input::Accepted { connection, local, remote });
            }
        }
    }

    fn next_wake(&self) -> Option<(Duration, IpAddr)> {
        let timeouts = self.nodes.iter().filter_map(|(address, node)| {
            let at = node.speaker.as_ref()?.poll_timeout()?;
            Some((at.saturating_duration_since(self.start), *address))
        });
        timeouts.min()
    }

    /// Lets the next thing happen, if it happens before `end`.
    fn step(&mut self, end: Duration) -> bool {
        let flight = self.queue.peek().map(|Reverse((at, _))| *at);
        let wake = self.next_wake();
        let wake_first = match (flight, wake) {
            (None, None) => return false,
            (Some(flight), Some((wake, _))) => wake < flight,
            (None, Some(_)) => true,
            (Some(_), None) => false,
        };
        if wake_first {
            let Some((at, address)) = wake.filter(|(at, _)| *at <= end) else { return false };
            self.now = self.now.max(at);
            self.input(address, Input::Timeout);
        } else {
            if flight.is_none_or(|at| at > end) {
                return false;
            }
            let Some(Reverse((at, number))) = self.queue.pop() else { return false };
            self.now = self.now.max(at);
            if let Some(flight) = self.flights.remove(&number) {
                self.deliver(flight);
            }
        }
        true
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Addresses of all nodes.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.nodes.keys().copied().collect()
    }

    /// The state of a session; `None` when there is no such node or peer.
    pub fn state(&self, address: IpAddr, peer: &str) -> Option<State> {
        self.speaker(address)?.peer_state(peer)
    }
}
