//! The compiler against the reference evaluator, and the graph against itself in another order.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use calico_model::{Update, WorkloadEndpointSpec};
use calico_policy::ir::Direction;
use calico_policy::oracle::{EndpointKind, Item, World};
use calico_policy::packet::Packet;
use calico_policy::scenario::{Dice, NODE, cluster, packet};
use calico_policy::verdict::{HostStage, Outcome, Reason, RuleOwner, Staged, Verdict};
use calico_policy::{Graph, GraphConfig, Mirror, workload_id};
use proptest::prelude::*;

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];
const STAGES: [HostStage; 4] =
    [HostStage::Normal, HostStage::Forward, HostStage::Untracked, HostStage::PreDnat];

fn graph() -> Graph {
    Graph::new(GraphConfig { node: NODE.into(), ..GraphConfig::default() })
}

/// Applies updates with a flush after some of them; every flush must be applicable on what came before.
fn run(updates: &[Update], dice: &mut Dice, flush_one_in: usize) -> Mirror {
    let mut graph = graph();
    let mut mirror = Mirror::default();
    let synced_at = if flush_one_in == 0 { updates.len() } else { dice.below(updates.len() + 1) };
    for (at, update) in updates.iter().enumerate() {
        if at == synced_at {
            graph.in_sync();
        }
        graph.apply(update.clone());
        if flush_one_in > 0 && dice.one_in(flush_one_in) {
            mirror.apply(&graph.flush()).unwrap_or_else(|e| panic!("{e}"));
        }
    }
    graph.in_sync();
    mirror.apply(&graph.flush()).unwrap_or_else(|e| panic!("{e}"));
    mirror
}

fn interpreted(
    mirror: &Mirror,
    item: &Item,
    stage: HostStage,
    direction: Direction,
    packet: &Packet,
    staged: Staged,
) -> Outcome {
    if item.kind == EndpointKind::Host {
        return mirror.evaluate_host(&item.key.name, stage, direction, packet, staged);
    }
    let pod = item.key.name.trim_start_matches("n-k8s-").trim_end_matches("-eth0");
    let spec = WorkloadEndpointSpec {
        orchestrator: "k8s".into(),
        pod: pod.into(),
        endpoint: "eth0".into(),
        ..WorkloadEndpointSpec::default()
    };
    mirror.evaluate_workload(&workload_id(&item.key.namespace, &spec), direction, packet, staged)
}

/// The way to a verdict.
fn kind(outcome: &Outcome) -> &'static str {
    if !outcome.steps.is_empty() {
        return "passed on";
    }
    match (&outcome.reason, outcome.verdict) {
        (Reason::Rule(rule), _) if matches!(rule.owner, RuleOwner::Profile(_)) => "profile decides",
        (Reason::Rule(_), Verdict::Allow) => "rule allows",
        (Reason::Rule(_), _) => "rule denies",
        (Reason::EndOfTier(_), _) => "end of tier",
        (Reason::NoProfileAllows, _) => "no profile allows",
        _ => "nothing applies",
    }
}

/// Compares verdicts, reasons and steps; answers how many cases were compared.
fn compare(seed: u64, packets: usize, seen: &mut BTreeMap<&'static str, usize>) -> usize {
    let updates = cluster(seed);
    let mut dice = Dice::new(!seed);
    let mirror = run(&updates, &mut dice, 4);
    let world = World::new(updates);
    let mut cases = 0;
    for item in world.items().iter().filter(|item| item.node == NODE) {
        for _ in 0..packets {
            let mut packet = packet(&mut dice);
            let direction = DIRECTIONS[dice.below(2)];
            if dice.one_in(2) {
                // Most traffic of an endpoint has its address.
                let own =
                    item.nets.iter().map(|net| net.addr()).find(|a| a.is_ipv4() == packet.src.is_ipv4());
                if let Some(own) = own {
                    match direction {
                        Direction::Ingress => packet.dst = own,
                        Direction::Egress => packet.src = own,
                    }
                }
            }
            let stages = if item.kind == EndpointKind::Host { STAGES.len() } else { 1 };
            let stage = STAGES[dice.below(stages)];
            let staged = if dice.one_in(4) { Staged::Counted } else { Staged::Ignored };
            let expected = world.evaluate_endpoint(item, stage, direction, &packet, staged);
            let found = interpreted(&mirror, item, stage, direction, &packet, staged);
            assert_eq!(
                expected, found,
                "seed {seed}: {:?} {stage:?} {direction:?} {staged:?} {packet:?}",
                item.key
            );
            cases += 1;
            *seen.entry(kind(&expected)).or_default() += 1;
        }
    }
    cases
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_compiled_policy_gives_the_verdicts_of_the_reference(seed: u64) {
        compare(seed, 12, &mut BTreeMap::new());
    }

    #[test]
    fn any_order_with_flushes_anywhere_ends_in_the_same_state(seed: u64, order: u64) {
        let mut updates = cluster(seed);
        let plain = run(&updates, &mut Dice::new(0), 0);
        // Values that are replaced and objects that come and go, in any order before the last value of each key.
        let mut dice = Dice::new(order);
        let mut noise: Vec<Update> = cluster(order);
        for update in &mut noise {
            if dice.one_in(3) {
                update.value = None;
            }
        }
        let strangers: Vec<Update> = noise
            .iter()
            .filter(|update| !updates.iter().any(|other| other.key == update.key))
            .map(|update| Update { value: None, ..update.clone() })
            .collect();
        dice.shuffle(&mut noise);
        updates.extend(strangers);
        dice.shuffle(&mut updates);
        noise.extend(updates);
        let churned = run(&noise, &mut dice, 3);
        // What was never named differs from what was removed only in being mentioned.
        let normal = |mut mirror: Mirror| {
            mirror.problems = mirror.problems.filter(|problems| !problems.is_empty());
            mirror
        };
        prop_assert_eq!(normal(plain), normal(churned));
    }
}

/// `CASES=1000000 cargo test --release -p calico-policy --test differential many -- --nocapture`
#[test]
#[expect(clippy::disallowed_methods, reason = "a test may be asked for more through its environment")]
fn many_cases_when_asked() {
    let wanted: usize = std::env::var("CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let first: u64 = std::env::var("SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    let (mut cases, mut seed, mut seen) = (0, first, BTreeMap::new());
    while cases < wanted {
        cases += compare(seed, 40, &mut seen);
        seed += 1;
    }
    println!("{cases} cases in {} clusters: {seen:?}", seed - first);
    // The clusters are only worth something while every way to a verdict is taken often.
    for kind in
        ["rule allows", "rule denies", "end of tier", "profile decides", "nothing applies", "passed on"]
    {
        assert!(seen.get(kind).is_some_and(|n| *n * 200 > cases), "{kind} is rare: {seen:?}");
    }
}
