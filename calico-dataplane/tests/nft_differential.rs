//! Three judges of one packet: the resources (reference evaluator), the IR (interpreter), and the nf_tables
//! expressions that the IR compiles to, evaluated in user space.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use calico_dataplane::driver::{InterfaceInfo, InterfaceState, PolicyDataplane};
use calico_dataplane::nft::Dataplane;
use calico_dataplane::nft::compile::{Compiler, TABLE};
use calico_dataplane::nft::config::Config;
use calico_dataplane::nft::eval::{Fate, Frame, run_hook};
use calico_dataplane::nft::fake::{FakeKernel, Fault};
use calico_dataplane::nft::object::{Hook, Ruleset};
use calico_policy::changes::{HostEndpoint, WorkloadEndpoint};
use calico_policy::ir::Direction;
use calico_policy::packet::Packet;
use calico_policy::scenario::{Dice, NODE, cluster, packet};
use calico_policy::verdict::{HostStage, Staged, Verdict};
use calico_policy::{Changes, Graph, GraphConfig, Mirror};
use proptest::prelude::*;

/// The graph's view, the interpreter's and the compiled ruleset after the same flushes.
struct Node {
    mirror: Mirror,
    compiler: Compiler,
    interfaces: InterfaceState,
}

impl Node {
    fn apply(&mut self, changes: &Changes) {
        self.mirror.apply(changes).unwrap();
        self.interfaces = interfaces(&self.mirror);
        self.compiler.apply(changes, &self.interfaces);
    }

    fn ruleset(&self) -> &Ruleset {
        self.compiler.table().desired()
    }
}

/// Every interface a host endpoint could have, with the addresses it expects.
fn interfaces(mirror: &Mirror) -> InterfaceState {
    let mut state = InterfaceState::default();
    for (index, endpoint) in mirror.host_endpoints.values().enumerate() {
        let name: Arc<str> = match &*endpoint.interface {
            "" | "*" => format!("eth{}", index + 7).into(),
            _ => endpoint.interface.clone(),
        };
        let addresses = endpoint.expected_ips.clone();
        state.interfaces.insert(name, InterfaceInfo { index: index as u32 + 2, up: true, addresses });
    }
    state
}

fn node(seed: u64) -> Node {
    let mut graph = Graph::new(GraphConfig { node: NODE.into(), ..GraphConfig::default() });
    let mut node = Node {
        mirror: Mirror::default(),
        compiler: Compiler::default(),
        interfaces: InterfaceState::default(),
    };
    let mut dice = Dice::new(!seed);
    graph.in_sync();
    for update in cluster(seed) {
        graph.apply(update);
        if dice.one_in(4) {
            node.apply(&graph.flush());
        }
    }
    node.apply(&graph.flush());
    node
}

fn own_address(nets: &[ipnet::IpNet], v4: bool) -> Option<IpAddr> {
    nets.iter().map(|net| net.addr()).find(|addr| addr.is_ipv4() == v4)
}

/// What the forward hook says to a packet between a workload and the outside.
fn through_forward(
    ruleset: &Ruleset,
    endpoint: &WorkloadEndpoint,
    direction: Direction,
    packet: Packet,
) -> bool {
    let mut frame = match direction {
        Direction::Ingress => Frame::forwarded(packet, "outside0", &endpoint.interface),
        Direction::Egress => Frame::forwarded(packet, &endpoint.interface, "outside0"),
    };
    run_hook(ruleset, Hook::Forward, &mut frame) == Fate::Accepted
}

/// The winner of several endpoints with one interface polices it.
fn is_shadowed(mirror: &Mirror, endpoint: &WorkloadEndpoint) -> bool {
    mirror
        .workload_endpoints
        .values()
        .any(|other| other.interface == endpoint.interface && other.id < endpoint.id)
}

fn compare_workloads(
    node: &Node,
    dice: &mut Dice,
    packets: usize,
    seen: &mut BTreeMap<&'static str, usize>,
) -> usize {
    let mut cases = 0;
    let wildcard = node.mirror.host_endpoints.values().any(|endpoint| &*endpoint.interface == "*");
    for endpoint in node.mirror.workload_endpoints.values() {
        // The forward policy of a `*` host endpoint would also speak here.
        if wildcard || is_shadowed(&node.mirror, endpoint) || endpoint.qos != Default::default() {
            continue;
        }
        for _ in 0..packets {
            let mut packet = packet(dice);
            let direction = [Direction::Ingress, Direction::Egress][dice.below(2)];
            if let Some(own) = own_address(&endpoint.nets, packet.src.is_ipv4()).filter(|_| dice.one_in(2)) {
                match direction {
                    Direction::Ingress => packet.dst = own,
                    Direction::Egress => packet.src = own,
                }
            }
            // Tunnels from workloads are refused whatever policy says.
            let tunnel = packet.protocol == 4 || (packet.protocol == 17 && packet.dst_port == 4789);
            if tunnel && direction == Direction::Egress {
                continue;
            }
            let expected = node.mirror.evaluate_workload(&endpoint.id, direction, &packet, Staged::Ignored);
            let found = through_forward(node.ruleset(), endpoint, direction, packet);
            assert_eq!(
                found,
                expected.verdict == Verdict::Allow,
                "{:?} {direction:?} {packet:?}: {expected:?}",
                endpoint.id
            );
            *seen.entry(if found { "allowed" } else { "denied" }).or_default() += 1;
            cases += 1;
        }
    }
    cases
}

/// Which host endpoint the interpreter should be asked about for an interface.
fn host_endpoint_of<'a>(node: &'a Node, interface: &str) -> Option<&'a HostEndpoint> {
    let info = node.interfaces.interfaces.get(interface);
    let specific = node.mirror.host_endpoints.values().find(|endpoint| match &*endpoint.interface {
        "*" => false,
        "" => info.is_some_and(|info| endpoint.expected_ips.iter().any(|ip| info.addresses.contains(ip))),
        name => name == interface,
    });
    let all = || node.mirror.host_endpoints.values().find(|endpoint| &*endpoint.interface == "*");
    specific.or_else(all).map(|endpoint| &**endpoint)
}

fn allows(
    node: &Node,
    endpoint: &HostEndpoint,
    stage: HostStage,
    direction: Direction,
    packet: &Packet,
) -> Verdict {
    node.mirror.evaluate_host(&endpoint.name, stage, direction, packet, Staged::Ignored).verdict
}

/// A packet to this machine through every stage of the interface's host endpoint (`policy.md` §3.1).
fn expected_at_host(node: &Node, interface: &str, packet: &Packet) -> bool {
    let Some(endpoint) = host_endpoint_of(node, interface) else { return true };
    let failsafe = matches!(
        (packet.protocol, packet.dst_port),
        (6, 22 | 179 | 2379 | 2380 | 5473 | 6443 | 6666 | 6667) | (17, 68)
    );
    let wildcard = &*endpoint.interface == "*";
    let reply = matches!(
        (packet.protocol, packet.src_port),
        (6, 179 | 2379 | 2380 | 5473 | 6443 | 6666 | 6667) | (17, 53 | 67)
    );
    if !wildcard && !failsafe && !reply {
        match allows(node, endpoint, HostStage::Untracked, Direction::Ingress, packet) {
            Verdict::Allow => return true,
            Verdict::Deny => return false,
            Verdict::Continue => {}
        }
    }
    if failsafe {
        return true;
    }
    match allows(node, endpoint, HostStage::PreDnat, Direction::Ingress, packet) {
        Verdict::Allow => return true,
        Verdict::Deny => return false,
        Verdict::Continue => {}
    }
    allows(node, endpoint, HostStage::Normal, Direction::Ingress, packet) == Verdict::Allow
}

fn arrives_at_host(ruleset: &Ruleset, interface: &str, packet: Packet) -> bool {
    let mut frame = Frame::forwarded(packet, interface, "");
    frame.local = vec![packet.dst];
    [Hook::Prerouting, Hook::Input]
        .into_iter()
        .all(|hook| run_hook(ruleset, hook, &mut frame) == Fate::Accepted)
}

fn compare_hosts(
    node: &Node,
    dice: &mut Dice,
    packets: usize,
    seen: &mut BTreeMap<&'static str, usize>,
) -> usize {
    let mut cases = 0;
    let names: Vec<Arc<str>> = node.interfaces.interfaces.keys().cloned().collect();
    let tunnels = node.mirror.encapsulation.unwrap_or_default();
    for name in names.iter().filter(|name| !name.starts_with("cali")) {
        for _ in 0..packets {
            let packet = packet(dice);
            if packet.protocol == 4 && tunnels.ipip || (packet.protocol == 17 && packet.dst_port == 4789) {
                continue;
            }
            // With untracked stages anywhere, replies of failsafe connections stay tracked on this interface.
            let expected = expected_at_host(node, name, &packet);
            let found = arrives_at_host(node.ruleset(), name, packet);
            assert_eq!(found, expected, "{name}: {packet:?}");
            *seen.entry(if found { "host allowed" } else { "host denied" }).or_default() += 1;
            cases += 1;
        }
    }
    cases
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn compiled_expressions_and_the_interpreter_agree(seed in any::<u64>()) {
        let node = node(seed);
        let mut dice = Dice::new(seed ^ 0x5555);
        let mut seen = BTreeMap::new();
        compare_workloads(&node, &mut dice, 16, &mut seen);
        compare_hosts(&node, &mut dice, 16, &mut seen);
    }
}

/// Both verdicts occur, at both kinds of endpoint, often enough to mean something. `CALICO_CASES` sets how many
/// packets are judged.
#[test]
fn many_packets_are_judged_alike() {
    let wanted: usize =
        std::env::var("CALICO_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let mut seen = BTreeMap::new();
    let mut cases = 0;
    let mut seed = 1;
    while cases < wanted {
        let node = node(seed);
        let mut dice = Dice::new(seed);
        cases += compare_workloads(&node, &mut dice, 40, &mut seen);
        cases += compare_hosts(&node, &mut dice, 20, &mut seen);
        seed += 1;
    }
    for kind in ["allowed", "denied", "host allowed", "host denied"] {
        let count = seen.get(kind).copied().unwrap_or(0);
        assert!(count * 100 > wanted, "{kind} only {count} times of {cases}: {seen:?}");
    }
}

/// An update at a time or all at once, the table is the same.
#[test]
fn the_table_does_not_depend_on_the_way_to_it() {
    for seed in 1..60 {
        let stepwise = node(seed);
        let mut graph = Graph::new(GraphConfig { node: NODE.into(), ..GraphConfig::default() });
        cluster(seed).into_iter().for_each(|update| graph.apply(update));
        graph.in_sync();
        let mut compiler = Compiler::default();
        compiler.apply(&graph.flush(), &stepwise.interfaces);
        let (one, other) = (stepwise.ruleset(), compiler.table().desired());
        let names = |ruleset: &Ruleset| -> Vec<_> {
            // A set that once held a prefix keeps its kind until it is made anew.
            let plain =
                |name: &Arc<str>| name.replacen("cali4n", "cali40", 1).replacen("cali6n", "cali60", 1);
            ruleset.sets.keys().map(plain).chain(ruleset.chains.keys().map(|name| name.to_string())).collect()
        };
        let (mut left, mut right) = (names(one), names(other));
        left.sort();
        right.sort();
        assert_eq!(left, right, "seed {seed}");
    }
}

/// Whatever goes wrong on the way (refusals, lost races, lost replies, somebody tampering), in the end the kernel holds
/// exactly what is wanted; and the next process finds nothing to do.
#[test]
fn faults_and_tampering_heal() {
    for seed in 1..120 {
        let mut dice = Dice::new(seed);
        let mut graph = Graph::new(GraphConfig { node: NODE.into(), ..GraphConfig::default() });
        graph.in_sync();
        let mut dataplane = Dataplane::over(FakeKernel::default(), Config::default());
        let nothing = InterfaceState::default();
        let mut failures = 0;
        for update in cluster(seed) {
            graph.apply(update);
            if !dice.one_in(3) {
                continue;
            }
            let fault = match dice.below(8) {
                0 => Some(Fault::Refuse(libc::EPERM)),
                1 => Some(Fault::Refuse(libc::ENOSPC)),
                2 => Some(Fault::Refuse(libc::EBUSY)),
                3 => Some(Fault::Outdated),
                4 => Some(Fault::Lost),
                _ => None,
            };
            dataplane.kernel_mut().fail_next(fault);
            if dice.one_in(4)
                && let Some(ruleset) = dataplane.kernel_mut().ruleset_mut(TABLE)
            {
                tamper(ruleset, &mut dice);
            }
            let mut outcome = dataplane.apply(&graph.flush(), &nothing);
            // As the driver does: resync until it works.
            while outcome.is_err() {
                failures += 1;
                outcome = dataplane.resync();
            }
            let desired = dataplane.compiler().table().desired().clone();
            assert!(dataplane.kernel_mut().ruleset(TABLE) == Some(&desired), "seed {seed}");
        }
        let mut outcome = dataplane.apply(&graph.flush(), &nothing);
        while outcome.is_err() {
            failures += 1;
            outcome = dataplane.resync();
        }
        assert!(failures < 40, "seed {seed}: {failures}");

        let mut kernel = std::mem::take(dataplane.kernel_mut());
        kernel.forget_faults();
        let commits = kernel.generation();
        let mut all = Graph::new(GraphConfig { node: NODE.into(), ..GraphConfig::default() });
        cluster(seed).into_iter().for_each(|update| all.apply(update));
        all.in_sync();
        let mut next = Dataplane::over(kernel, Config::default());
        next.apply(&all.flush(), &nothing).unwrap();
        let desired = next.compiler().table().desired().clone();
        assert!(next.kernel_mut().ruleset(TABLE) == Some(&desired), "seed {seed}");
        // At most the sets that once held a prefix are made anew.
        assert!(next.kernel_mut().generation() <= commits + 1);
        assert_eq!(next.resync().unwrap().messages, 0);
    }
}

/// Somebody's hand in our table.
fn tamper(ruleset: &mut Ruleset, dice: &mut Dice) {
    let chains: Vec<_> = ruleset.chains.keys().cloned().collect();
    if let Some(chain) = chains.get(dice.below(chains.len())).and_then(|name| ruleset.chains.get_mut(name)) {
        chain.rules.truncate(1);
    }
    let sets: Vec<_> = ruleset.sets.keys().cloned().collect();
    if let Some(set) = sets.get(dice.below(sets.len())).and_then(|name| ruleset.sets.get_mut(name)) {
        set.elements.pop_first();
    }
    if dice.one_in(3) {
        ruleset.chains.insert("stranger".into(), Default::default());
    }
}
