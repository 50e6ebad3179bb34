//! Random policies and real packets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use calico_dataplane::driver::{InterfaceState, PolicyDataplane};
use calico_dataplane::nft::Dataplane;
use calico_dataplane::nft::config::Config;
use calico_model::{AnyResource, Update, Value};
use calico_policy::ir::Direction;
use calico_policy::packet::Packet;
use calico_policy::scenario::{Dice, NODE, cluster, packet};
use calico_policy::verdict::{Staged, Verdict};
use calico_policy::{Graph, GraphConfig, Mirror};

use crate::isolation::isolated;
use crate::pods::{PODS, Pod, address, forget_connections, interface, node, settle};

/// A random cluster whose local pods are the ones attached; without what would need a second node.
fn local_cluster(seed: u64) -> Vec<Update> {
    let mut number = 0;
    let mut updates = cluster(seed);
    updates.retain_mut(|update| {
        let Some(Value::Resource(resource)) = &mut update.value else { return true };
        match Arc::make_mut(resource) {
            AnyResource::WorkloadEndpoint(endpoint) if endpoint.spec.node == NODE => {
                endpoint.spec.interface_name = interface(number);
                endpoint.spec.ip_networks = [false, true].map(|v6| address(number, v6).to_string()).to_vec();
                number += 1;
                number <= PODS
            }
            AnyResource::HostEndpoint(_)
            | AnyResource::IPPool(_)
            | AnyResource::BGPConfiguration(_)
            | AnyResource::FelixConfiguration(_) => false,
            _ => true,
        }
    });
    updates
}

struct World {
    pods: Vec<Pod>,
    dataplane: Dataplane,
    mirror: Mirror,
    graph: Graph,
}

impl World {
    fn new(seed: u64, pods: Vec<Pod>) -> Self {
        let mut graph = Graph::new(GraphConfig { node: NODE.into(), ..GraphConfig::default() });
        local_cluster(seed).into_iter().for_each(|update| graph.apply(update));
        graph.in_sync();
        let mut world = Self {
            pods,
            dataplane: Dataplane::open(Config::default()).unwrap(),
            mirror: Mirror::default(),
            graph,
        };
        world.flush();
        world
    }

    fn flush(&mut self) {
        let changes = self.graph.flush();
        self.mirror.apply(&changes).unwrap();
        let report = self.dataplane.apply(&changes, &InterfaceState::default()).unwrap();
        assert!(report.failed_endpoints.is_empty(), "{:?}", report.failed_endpoints);
    }

    /// What policy says to a packet from one pod to another.
    fn expected(&self, from: usize, to: usize, packet: &Packet) -> bool {
        let verdict = |pod: usize, direction| {
            let name = interface(pod);
            let endpoint = self.mirror.workload_endpoints.values().find(|e| *e.interface == *name);
            endpoint.is_some_and(|endpoint| {
                let outcome = self.mirror.evaluate_workload(&endpoint.id, direction, packet, Staged::Ignored);
                outcome.verdict == Verdict::Allow
            })
        };
        // Only its own addresses: everything else is spoofed.
        let honest = packet.src == address(from, packet.src.is_ipv6());
        honest && verdict(from, Direction::Egress) && verdict(to, Direction::Ingress)
    }
}

/// A packet whose first appearance connection tracking takes for the start of something.
fn plausible(dice: &mut Dice, from: usize, to: usize) -> Packet {
    let mut packet = packet(dice);
    let v6 = packet.dst.is_ipv6();
    packet.dst = address(to, v6);
    // One in sixteen lies about its source.
    packet.src = if dice.one_in(16) { address(to, v6) } else { address(from, v6) };
    match packet.protocol {
        132 => packet.protocol = 17,
        1 | 58 => {
            packet.protocol = if v6 { 58 } else { 1 };
            packet.icmp = (if v6 { 128 } else { 8 }, 0);
        }
        _ => {}
    }
    packet
}

/// What makes a later packet part of the same connection, or of its replies.
fn connection(packet: &Packet) -> [(IpAddr, IpAddr, u8, u16, u16); 2] {
    let ports = if matches!(packet.protocol, 6 | 17) { (packet.src_port, packet.dst_port) } else { (0, 0) };
    let forth = (packet.src, packet.dst, packet.protocol, ports.0, ports.1);
    [forth, (packet.dst, packet.src, packet.protocol, ports.1, ports.0)]
}

fn random_policies_with_real_packets() {
    let clusters: u64 =
        std::env::var("CALICO_CLUSTERS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    let pods = node();
    settle(&pods);
    let mut pods = Some(pods);
    let (mut passed, mut stopped) = (0, 0);
    for seed in 1..=clusters {
        let mut world = World::new(seed, pods.take().unwrap());
        forget_connections();
        let mut dice = Dice::new(!seed);
        let mut seen = BTreeSet::new();
        let mut expected: BTreeMap<usize, BTreeMap<u16, (bool, Packet)>> = BTreeMap::new();
        for pod in &world.pods {
            pod.arrived();
        }
        for marker in 1..=120u16 {
            let from = dice.below(PODS);
            let to = (from + 1 + dice.below(PODS - 1)) % PODS;
            let packet = plausible(&mut dice, from, to);
            if connection(&packet).iter().any(|key| seen.contains(key)) {
                continue;
            }
            seen.extend(connection(&packet));
            let allowed = world.expected(from, to, &packet);
            assert!(world.pods[from].send(&packet, marker), "{packet:?}");
            expected.entry(to).or_default().insert(marker, (allowed, packet));
        }
        std::thread::sleep(Duration::from_millis(3));
        for (to, packets) in expected {
            let arrived = world.pods[to].arrived();
            for (marker, (allowed, packet)) in packets {
                assert_eq!(arrived.contains(&marker), allowed, "seed {seed}, to pod {to}: {packet:?}");
                if allowed { passed += 1 } else { stopped += 1 }
            }
        }
        // The next cluster finds this one's table and changes it into its own.
        world.graph.flush();
        pods = Some(world.pods);
    }
    println!("{clusters} clusters: {passed} packets passed, {stopped} were stopped");
    assert!(passed > clusters && stopped > clusters, "{passed} {stopped}");
}

#[test]
fn packets_pass_exactly_where_policy_allows() {
    isolated("random::packets_pass_exactly_where_policy_allows", random_policies_with_real_packets);
}
