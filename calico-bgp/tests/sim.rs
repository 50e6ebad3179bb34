//! Random events on random networks, against an oracle that computes the same tables the plain way.
//!
//! Events are: routes that come and go, sessions that break, links that fail silently, speakers that are killed and
//! revived, filters that change, refreshes, slow receivers. After a storm the network is given time, and every table,
//! kernel route and announcement must be what the oracle says.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test; the clock begins somewhere"
)]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_bgp::config::{GracefulRestartConfig, LocalRoute, PeerConfig, SpeakerConfig};
use calico_bgp::policy::{CidrMatch, ExportPolicy, Filter, FilterAction, FilterRule};
use calico_bgp::sim::Network;
use calico_bgp::wire::{AsPath, Family};
use calico_bgp::{FibRoute, Input};
use ipnet::IpNet;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % limit
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// A node as the test plans it.
#[derive(Debug, Clone)]
struct Plan {
    asn: u32,
    reflector: bool,
    peers: BTreeSet<usize>,
    routes: BTreeSet<IpNet>,
    /// Prefixes not sent to a peer, and not taken from it.
    deny_out: BTreeMap<usize, BTreeSet<IpNet>>,
    deny_in: BTreeMap<usize, BTreeSet<IpNet>>,
    alive: bool,
}

fn address(node: usize) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, u8::try_from(node + 1).unwrap()).into()
}

fn identifier(node: usize) -> u32 {
    u32::from(Ipv4Addr::new(10, 0, 0, u8::try_from(node + 1).unwrap()))
}

fn prefix(number: usize) -> IpNet {
    format!("10.{}.{}.0/24", 100 + number / 250, number % 250).parse().unwrap()
}

fn deny(name: &str, denied: Option<&BTreeSet<IpNet>>) -> Vec<Arc<Filter>> {
    let Some(denied) = denied.filter(|denied| !denied.is_empty()) else { return Vec::new() };
    let rules = denied.iter().map(|net| FilterRule {
        cidr: Some(CidrMatch::Equal(*net)),
        ..FilterRule::all(FilterAction::Reject)
    });
    vec![Arc::new(Filter { name: name.into(), rules: rules.collect() })]
}

struct World {
    plans: Vec<Plan>,
    network: Network,
    random: Random,
    broken: BTreeSet<(usize, usize)>,
    add_path: bool,
}

impl World {
    fn config(&self, node: usize) -> SpeakerConfig {
        let plan = &self.plans[node];
        let mut config = SpeakerConfig::new(Ipv4Addr::from(identifier(node)), plan.asn);
        config.multipath = 1;
        config.selection_deferral = Duration::from_secs(20);
        let cluster = plan.reflector.then(|| Ipv4Addr::from(identifier(node)));
        config.cluster_id = cluster;
        for other in &plan.peers {
            let theirs = &self.plans[*other];
            let mut peer = PeerConfig::new(&format!("p{other}"), address(*other), plan.asn, theirs.asn);
            peer.local_address = Some(address(node));
            peer.hold_time = Duration::from_secs(9);
            peer.connect_delay = Duration::from_secs(1);
            peer.connect_retry = Duration::from_secs(2);
            peer.error_wait = (Duration::from_secs(1), Duration::from_secs(2));
            peer.graceful_restart = Some(GracefulRestartConfig {
                restart_time: Duration::from_secs(5),
                long_lived_time: Duration::ZERO,
            });
            peer.add_path_send = self.add_path;
            peer.add_path_receive = self.add_path;
            if plan.asn == theirs.asn && !theirs.reflector {
                peer.reflector_client = cluster;
            }
            let out = deny("out", plan.deny_out.get(other));
            let filters =
                if out.is_empty() { BTreeMap::new() } else { BTreeMap::from([(Family::Ipv4, out)]) };
            peer.export = Arc::new(ExportPolicy { filters, calico: None });
            peer.import.filters = deny("in", plan.deny_in.get(other));
            config = config.with_peer(peer);
        }
        for net in &plan.routes {
            config = config.with_route(*net, LocalRoute::blackhole());
        }
        config
    }

    fn new(plans: Vec<Plan>, seed: u64, add_path: bool) -> Self {
        let mut network = Network::new(Instant::now(), seed);
        network.set_max_delay(Duration::from_millis(1 + seed % 50));
        let mut world = World { plans, network, random: Random(seed | 1), broken: BTreeSet::new(), add_path };
        for node in 0..world.plans.len() {
            world.network.add(address(node), world.config(node));
        }
        world
    }

    fn edge(&mut self) -> (usize, usize) {
        loop {
            let node = self.random.below(self.plans.len());
            let peers: Vec<_> = self.plans[node].peers.iter().copied().collect();
            if !peers.is_empty() {
                return (node, self.random.pick(&peers));
            }
        }
    }

    fn event(&mut self) {
        let (node, other) = self.edge();
        match self.random.below(100) {
            0..40 => {
                let net = prefix(self.random.below(30));
                if !self.plans[node].routes.remove(&net) {
                    self.plans[node].routes.insert(net);
                }
                self.reconfigure(node);
            }
            40..50 => self.network.break_sessions(address(node), address(other)),
            50..54 => {
                let pair = (node.min(other), node.max(other));
                let works = self.broken.remove(&pair);
                if !works {
                    self.broken.insert(pair);
                }
                self.network.set_reachable(address(node), address(other), works);
            }
            54..58 => {
                if self.plans[node].alive {
                    self.plans[node].alive = false;
                    self.network.kill(address(node));
                } else {
                    self.plans[node].alive = true;
                    let config = self.config(node);
                    self.network.revive(address(node), config);
                }
            }
            58..78 => {
                let net = prefix(self.random.below(30));
                let plan = &mut self.plans[node];
                let side = if self.random.below(2) == 0 { &mut plan.deny_in } else { &mut plan.deny_out };
                let denied = side.entry(other).or_default();
                if !denied.remove(&net) {
                    denied.insert(net);
                }
                self.reconfigure(node);
            }
            78..84 => self.network.input(address(node), Input::Refresh { peer: &format!("p{other}") }),
            84..86 => self.network.input(address(node), Input::Reset { peer: &format!("p{other}") }),
            _ => {
                let pause = Duration::from_millis(self.random.below(3000) as u64);
                self.network.run_for(pause);
            }
        }
        let pause = Duration::from_micros(self.random.below(20_000) as u64);
        self.network.run_for(pause);
    }

    fn reconfigure(&mut self, node: usize) {
        if self.plans[node].alive {
            let config = self.config(node);
            self.network.configure(address(node), config);
        }
    }

    fn connected(&self, a: usize, b: usize) -> bool {
        self.plans[a].alive && self.plans[b].alive && !self.broken.contains(&(a.min(b), a.max(b)))
    }
}

/// A route of the oracle.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    path: Vec<u32>,
    next_hop: usize,
    from: Option<usize>,
    originator: Option<u32>,
    clusters: Vec<u32>,
}

type Table = BTreeMap<IpNet, Vec<Known>>;

/// What every node should know, best first: rounds of "everybody tells everybody" until nothing changes.
fn oracle(world: &World) -> Vec<Table> {
    let count = world.plans.len();
    let mut best: Vec<Table> = vec![BTreeMap::new(); count];
    for round in 0.. {
        assert!(round < 100, "the oracle does not settle");
        let next: Vec<_> = (0..count).map(|node| choose(world, node, &best)).collect();
        if next == best {
            return best;
        }
        best = next;
    }
    best
}

fn choose(world: &World, node: usize, best: &[Table]) -> Table {
    let plan = &world.plans[node];
    let mut offers = Table::new();
    if !plan.alive {
        return offers;
    }
    let told = if world.add_path { usize::MAX } else { 1 };
    for other in plan.peers.iter().copied().filter(|other| world.connected(node, *other)) {
        for (net, known) in &best[other] {
            for known in known.iter().take(told) {
                if let Some(offer) = offer(world, other, node, *net, known) {
                    offers.entry(*net).or_default().push(offer);
                }
            }
        }
    }
    for offers in offers.values_mut() {
        // Hops, external before internal, identifier, cluster list, address.
        let key = |known: &Known| {
            let from = known.from.unwrap();
            let external = world.plans[from].asn != plan.asn;
            let id = known.originator.unwrap_or(identifier(from));
            (known.path.len(), Reverse(external), id, known.clusters.len(), address(from))
        };
        offers.sort_by_key(key);
    }
    for net in &plan.routes {
        let own = Known { path: vec![], next_hop: node, from: None, originator: None, clusters: vec![] };
        offers.entry(*net).or_default().insert(0, own);
    }
    offers
}

/// What `from` sends to `to`, as `to` takes it in.
fn offer(world: &World, from: usize, to: usize, net: IpNet, known: &Known) -> Option<Known> {
    let (sender, receiver) = (&world.plans[from], &world.plans[to]);
    let denied = |side: &BTreeMap<usize, BTreeSet<IpNet>>, peer: usize| {
        side.get(&peer).is_some_and(|d| d.contains(&net))
    };
    if known.from == Some(to) || denied(&sender.deny_out, to) || denied(&receiver.deny_in, from) {
        return None;
    }
    let mut sent = known.clone();
    sent.from = Some(from);
    if sender.asn == receiver.asn {
        if let Some(source) = known.from.filter(|source| world.plans[*source].asn == sender.asn) {
            let is_client = |peer: usize| !world.plans[peer].reflector;
            if !sender.reflector || !(is_client(source) || is_client(to)) {
                return None;
            }
            sent.originator.get_or_insert(identifier(source));
            sent.clusters.insert(0, identifier(from));
        }
        let own_cluster = receiver.reflector.then_some(identifier(to));
        if sent.originator == Some(identifier(to))
            || own_cluster.is_some_and(|own| sent.clusters.contains(&own))
        {
            return None;
        }
    } else {
        sent.path.insert(0, sender.asn);
        sent.next_hop = from;
        sent.originator = None;
        sent.clusters.clear();
    }
    let loops = sent.path.contains(&receiver.asn) || sent.next_hop == to;
    (!loops).then_some(sent)
}

fn compare(world: &World, when: usize) {
    let expected = oracle(world);
    for (node, expected) in expected.iter().enumerate().filter(|(node, _)| world.plans[*node].alive) {
        let speaker = world.network.speaker(address(node)).unwrap();
        let routes = speaker.routes(Family::Ipv4);
        let chosen: BTreeMap<_, _> = routes.iter().filter(|r| r.best).map(|r| (r.prefix, r)).collect();
        let have: BTreeSet<_> = chosen.keys().copied().collect();
        let want: BTreeSet<_> = expected.keys().copied().collect();
        assert_eq!(have, want, "after {when} events: prefixes of node {node}");
        let fib = world.network.fib(address(node));
        for (net, known) in expected {
            let known = &known[0];
            let route = chosen[net];
            let from = known.from.map(|from| format!("p{from}"));
            let context = format!("after {when} events: {net} at node {node}");
            assert_eq!(route.peer.as_deref(), from.as_deref(), "{context}, known {known:?}");
            assert_eq!(route.attributes.path.as_path, AsPath::sequence(&known.path), "{context}");
            match (&known.from, fib.get(net)) {
                (None, Some(FibRoute::Blackhole)) => {}
                (Some(_), Some(FibRoute::Via { next_hops, .. })) => {
                    assert_eq!(
                        next_hops[0].address,
                        address(known.next_hop),
                        "{context}, {known:?}, {route:?}"
                    );
                }
                (_, other) => panic!("{context}: {other:?}"),
            }
        }
        for status in speaker.peers() {
            let counted = status.prefixes_sent[0];
            let told = speaker.announced(&status.config.name, Family::Ipv4).len();
            assert_eq!(counted, told, "after {when} events: node {node} to {}", status.config.name);
        }
        assert_eq!(fib.len(), expected.len(), "after {when} events: kernel routes of node {node}");
        assert!(
            routes.iter().all(|route| !route.stale),
            "after {when} events: node {node} keeps stale routes"
        );
    }
}

fn storm(plans: Vec<Plan>, seed: u64, events: usize, add_path: bool) {
    let mut world = World::new(plans, seed, add_path);
    world.network.run_for(Duration::from_secs(60));
    compare(&world, 0);
    for event in 1..=events {
        world.event();
        if event % 100 == 0 || event == events {
            world.network.run_for(Duration::from_secs(60));
            compare(&world, event);
        }
    }
}

fn plan(asn: u32, peers: impl IntoIterator<Item = usize>) -> Plan {
    Plan {
        asn,
        reflector: false,
        peers: peers.into_iter().collect(),
        routes: BTreeSet::new(),
        deny_out: BTreeMap::new(),
        deny_in: BTreeMap::new(),
        alive: true,
    }
}

fn others(count: usize, own: usize) -> impl Iterator<Item = usize> {
    (0..count).filter(move |other| *other != own)
}

/// One system, everybody with everybody.
fn mesh(count: usize) -> Vec<Plan> {
    (0..count).map(|own| plan(64512, others(count, own))).collect()
}

/// Single-node systems with random links.
fn systems(count: usize, seed: u64) -> Vec<Plan> {
    let mut random = Random(seed | 1);
    let mut plans: Vec<_> = (0..count).map(|own| plan(65001 + u32::try_from(own).unwrap(), [])).collect();
    for own in 1..count {
        let first = random.below(own);
        let second = random.below(own);
        for other in [first, second] {
            plans[own].peers.insert(other);
            plans[other].peers.insert(own);
        }
    }
    plans
}

/// Two reflectors with clients, which all know both.
fn reflected(clients: usize) -> Vec<Plan> {
    let mut plans: Vec<_> = (0..2).map(|own| plan(64512, others(2 + clients, own))).collect();
    plans.iter_mut().for_each(|plan| plan.reflector = true);
    plans.extend((0..clients).map(|_| plan(64512, [0, 1])));
    plans
}

/// A mesh with an upstream system at each of two members.
fn edged(count: usize) -> Vec<Plan> {
    let mut plans = mesh(count);
    for (at, member) in [0, 1].into_iter().enumerate() {
        let upstream = plans.len();
        plans.push(plan(65001 + u32::try_from(at).unwrap(), [member]));
        plans[member].peers.insert(upstream);
    }
    plans
}

#[test]
fn a_mesh_in_a_storm() {
    storm(mesh(5), 11, 1500, false);
}

#[test]
fn a_mesh_with_path_identifiers_in_a_storm() {
    storm(mesh(4), 12, 1000, true);
}

#[test]
fn systems_in_a_storm() {
    for seed in 1..4 {
        storm(systems(8, seed * 7919), seed, 800, false);
    }
}

#[test]
fn reflectors_in_a_storm() {
    storm(reflected(5), 21, 1500, false);
    storm(reflected(4), 22, 800, true);
}

#[test]
fn a_mesh_with_upstreams_in_a_storm() {
    storm(edged(4), 31, 1500, false);
}
