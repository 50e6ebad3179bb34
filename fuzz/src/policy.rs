//! The policy compiler, from stored bytes to verdicts.

use std::sync::Arc;

use calico_model::decode::Mode;
use calico_model::{AnyResource, Kind, Update, Value};
use calico_policy::oracle::{EndpointKind, World};
use calico_policy::scenario::{Dice, NODE, cluster, packet};
use calico_policy::verdict::{HostStage, Staged};
use calico_policy::{Graph, GraphConfig, Mirror, ir::Direction};

/// Reads the bytes as a policy, which may be as contradictory or unreadable as it likes, puts it into a random cluster
/// and holds the compiler to its laws: nothing panics, every flush refers only to what is there, and host endpoints get
/// the verdicts of the reference evaluator. The first byte chooses kind and cluster, the rest is JSON.
pub fn policy(data: &[u8]) {
    let Some((first, json)) = data.split_first() else { return };
    let kind = match first % 4 {
        0 => Kind::NetworkPolicy,
        1 => Kind::GlobalNetworkPolicy,
        2 => Kind::StagedKubernetesNetworkPolicy,
        _ => Kind::StagedGlobalNetworkPolicy,
    };
    let mut updates = cluster(u64::from(first / 4));
    if let Ok(mut resource) = AnyResource::from_json(kind, json, Mode::Lenient) {
        let meta = resource.metadata_mut();
        meta.name = "fuzzed".into();
        meta.namespace = if kind.is_namespaced() { "a".into() } else { String::new() };
        updates.push(Update::set(resource.key(), Value::Resource(Arc::new(resource)), 1.into()));
    }
    let mut graph = Graph::new(GraphConfig { node: NODE.into(), ..GraphConfig::default() });
    let mut mirror = Mirror::default();
    graph.in_sync();
    for update in &updates {
        graph.apply(update.clone());
        let changes = graph.flush();
        mirror.apply(&changes).unwrap_or_else(|error| panic!("{error}"));
    }
    let world = World::new(updates);
    let _ = (world.lint(), world.groups());
    let mut dice = Dice::new(u64::from(*first));
    let hosts = world.items().iter().filter(|item| item.kind == EndpointKind::Host && item.node == NODE);
    for host in hosts {
        for direction in [Direction::Ingress, Direction::Egress] {
            let packet = packet(&mut dice);
            let _ = (world.trace(&packet), world.why_denied(&packet));
            for stage in [HostStage::Normal, HostStage::Forward, HostStage::PreDnat, HostStage::Untracked] {
                let expected = world.evaluate_endpoint(host, stage, direction, &packet, Staged::Counted);
                let found = mirror.evaluate_host(&host.key.name, stage, direction, &packet, Staged::Counted);
                assert_eq!(expected, found, "{stage:?} {direction:?} {packet:?}");
            }
        }
    }
}
