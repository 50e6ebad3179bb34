//! The dataplane against the kernel of a network namespace.

use std::process::Command;
use std::sync::Arc;

use calico_policy::changes::{Changes, SetDelta};
use calico_policy::ir::{Match, Member, RuleAction, Side};

use super::batch::Batch;
use super::compile::TABLE;
use super::config::Config;
use super::dataplane::Dataplane;
use super::fixtures::*;
use super::kernel::Kernel;
use super::object::{Chain, Element, Key};
use super::tests::in_namespace;
use crate::driver::{InterfaceState, PolicyDataplane};

fn open() -> Dataplane {
    Dataplane::open(Config::default()).unwrap()
}

fn apply(dataplane: &mut Dataplane, changes: &Changes) -> usize {
    let report = dataplane.apply(changes, &InterfaceState::default()).unwrap();
    assert!(report.failed_endpoints.is_empty(), "{:?}", report.failed_endpoints);
    report.messages
}

/// The kernel holds exactly what is desired.
fn assert_in_force(dataplane: &Dataplane) {
    let dump = Kernel::open().unwrap().dump(TABLE).unwrap();
    let desired = dataplane.compiler().table().desired();
    for (name, chain) in &desired.chains {
        assert_eq!(dump.ruleset.chains.get(name), Some(chain), "{name}");
    }
    assert!(dump.ruleset == *desired, "sets or superfluous objects");
}

#[test]
fn a_world_is_programmed_once_and_adopted_unchanged_by_the_next_process() {
    in_namespace("a_world_is_programmed_once", || {
        let mut first = open();
        assert!(apply(&mut first, &small_world()) > 10);
        assert_in_force(&first);
        if let Ok(path) = std::env::var("CALICO_NFT_SHOW") {
            let listing = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
            std::fs::write(path, listing.stdout).unwrap();
        }
        assert_eq!(apply(&mut first, &Changes::default()), 0);
        drop(first);
        let mut second = open();
        assert_eq!(apply(&mut second, &small_world()), 0, "identical content is an empty batch");
        assert_eq!(second.stats().commits, 0);
        assert_eq!(second.resync().unwrap().messages, 0);
        assert_eq!(second.stats().reads, 1, "the generation did not move: nothing to read");
    });
}

#[test]
fn updates_touch_only_what_they_change() {
    in_namespace("updates_touch_only_what_they_change", || {
        let mut dataplane = open();
        apply(&mut dataplane, &small_world());
        let tiers = small_world().workload_endpoints[0].tiers.clone();
        let pod = Changes {
            workload_endpoints: vec![workload("web-3", &["10.65.0.9", "fd00::9"], &tiers)],
            ..Changes::default()
        };
        // Two maps and two sets of sources.
        assert_eq!(apply(&mut dataplane, &pod), 4);
        let member = Changes {
            set_deltas: vec![SetDelta {
                id: set_id("client"),
                added: vec![Member::Net(net("10.65.0.77/32"))],
                removed: vec![Member::Net(net("10.65.0.3/32"))],
            }],
            ..Changes::default()
        };
        assert_eq!(apply(&mut dataplane, &member), 2);
        let rule_change = Changes {
            policies: vec![policy("web", &[rule(0, RuleAction::Allow, &[protocol(6)])], &[])],
            ..Changes::default()
        };
        assert_eq!(apply(&mut dataplane, &rule_change), 2, "flush the chain, write its rule");
        let gone = Changes { removed_workload_endpoints: vec![workload_id("web-3")], ..Changes::default() };
        assert_eq!(apply(&mut dataplane, &gone), 4);
        assert_in_force(&dataplane);
    });
}

#[test]
fn the_first_prefix_turns_a_set_into_ranges_together_with_its_rules() {
    in_namespace("the_first_prefix_turns_a_set_into_ranges", || {
        let mut dataplane = open();
        apply(&mut dataplane, &small_world());
        let delta = |added: &[&str], removed: &[&str]| Changes {
            set_deltas: vec![SetDelta {
                id: set_id("client"),
                added: added.iter().map(|text| Member::Net(net(text))).collect(),
                removed: removed.iter().map(|text| Member::Net(net(text))).collect(),
            }],
            ..Changes::default()
        };
        apply(&mut dataplane, &delta(&["10.65.0.0/24"], &["10.65.0.3/32"]));
        assert_in_force(&dataplane);
        let sets = &dataplane.compiler().table().desired().sets;
        assert!(sets.contains_key("cali4ns-client") && !sets.contains_key("cali40s-client"));
        apply(&mut dataplane, &delta(&["10.65.0.3/32", "10.65.0.128/25"], &["10.65.0.0/24"]));
        assert_in_force(&dataplane);
    });
}

#[test]
fn everything_is_removed_with_its_last_user() {
    in_namespace("everything_is_removed_with_its_last_user", || {
        let mut dataplane = open();
        apply(&mut dataplane, &Changes::default());
        let empty = dataplane.compiler().table().desired().clone();
        let world = small_world();
        apply(&mut dataplane, &world);
        let removal = Changes {
            removed_workload_endpoints: world.workload_endpoints.iter().map(|e| e.id.clone()).collect(),
            removed_profiles: world.profiles.iter().map(|p| p.name.clone()).collect(),
            removed_policies: world.policies.iter().map(|p| p.id.clone()).collect(),
            removed_sets: world.sets.iter().map(|s| s.id.clone()).collect(),
            removed_pools: world.pools.iter().map(|p| p.cidr).collect(),
            ..Changes::default()
        };
        apply(&mut dataplane, &removal);
        assert_in_force(&dataplane);
        assert_eq!(*dataplane.compiler().table().desired(), empty);
    });
}

#[test]
fn foreign_changes_are_seen_and_repaired() {
    in_namespace("foreign_changes_are_seen_and_repaired", || {
        let mut dataplane = open();
        apply(&mut dataplane, &small_world());
        let mut other = Kernel::open().unwrap();
        // Another table is none of our business.
        let mut batch = Batch::new("other");
        batch.add_table();
        other.commit(&mut batch, None).unwrap();
        assert_eq!(dataplane.repair_drift().unwrap().messages, 0);
        assert_eq!(dataplane.stats().drifts, 0);
        // Rules flushed, an element taken, a chain added.
        let mut batch = Batch::new(TABLE);
        batch.flush_chain("forward-20-from-workload");
        batch.add_chain("stranger", &Chain::default());
        let map = dataplane.compiler().table().desired().sets["cali-to-wl-dispatch"].clone();
        batch.delete_elements(&"cali-to-wl-dispatch".into(), &map.spec, map.elements.iter().take(1));
        other.commit(&mut batch, None).unwrap();
        assert!(dataplane.repair_drift().unwrap().messages > 0);
        assert_eq!(dataplane.stats().drifts, 1);
        assert_in_force(&dataplane);
        // The whole table deleted.
        let mut batch = Batch::new(TABLE);
        batch.delete_table();
        other.commit(&mut batch, None).unwrap();
        assert!(dataplane.repair_drift().unwrap().messages > 10);
        assert_in_force(&dataplane);
        // A set of ours with another type can only be repaired by writing the table anew.
        let mut batch = Batch::new(TABLE);
        batch.delete_table();
        batch.add_table();
        batch.add_set("cali40s-client", &super::object::SetSpec::hash(&[super::object::Field::Port]));
        other.commit(&mut batch, None).unwrap();
        dataplane.repair_drift().unwrap();
        assert_in_force(&dataplane);
    });
}

#[test]
fn a_rule_the_kernel_refuses_closes_its_endpoints_and_nothing_else() {
    in_namespace("a_rule_the_kernel_refuses", || {
        let mut dataplane = open();
        let mut world = small_world();
        // Overlapping prefixes are against the contract of the IR; the kernel answers EEXIST.
        let overlap =
            Match::Nets { side: Side::Source, negated: false, nets: nets(&["10.0.0.0/8", "10.1.0.0/16"]) };
        world.policies.push(policy("broken", &[rule(0, RuleAction::Allow, &[overlap])], &[]));
        let broken = [tier("default", calico_policy::changes::DefaultAction::Deny, &["broken"], &[])];
        world.workload_endpoints.push(workload("victim", &["10.65.0.50"], &broken));
        let report = dataplane.apply(&world, &InterfaceState::default()).unwrap();
        let failed: Vec<_> = report.failed_endpoints.keys().collect();
        assert_eq!(failed, [&workload_id("victim")]);
        assert_in_force(&dataplane);
        let closed = &dataplane.compiler().table().desired().chains["cali-pi-np/default/broken"];
        assert_eq!(closed.rules.len(), 1);
        assert_eq!(closed.rules[0].exprs, [super::build::drop_packet()]);
        // Correcting the policy opens it again.
        let fixed = Changes {
            policies: vec![policy("broken", &[rule(0, RuleAction::Allow, &[])], &[])],
            ..Changes::default()
        };
        apply(&mut dataplane, &fixed);
        assert_in_force(&dataplane);
    });
}

#[test]
fn a_set_the_kernel_refuses_closes_the_rules_that_need_it() {
    in_namespace("a_set_the_kernel_refuses", || {
        let mut dataplane = open();
        let mut world = small_world();
        world.sets[0] = selector_set("client", &["10.0.0.0/8", "10.1.0.0/16"]);
        let report = dataplane.apply(&world, &InterfaceState::default()).unwrap();
        let failed: Vec<_> = report.failed_endpoints.keys().collect();
        assert_eq!(failed, [&workload_id("web-1"), &workload_id("web-2")]);
        assert_in_force(&dataplane);
        world = Changes { sets: vec![selector_set("client", &["10.65.0.3/32"])], ..Changes::default() };
        apply(&mut dataplane, &world);
        assert_in_force(&dataplane);
    });
}

#[test]
fn an_unknown_set_fails_closed() {
    in_namespace("an_unknown_set_fails_closed", || {
        let mut dataplane = open();
        let mut world = small_world();
        world.sets.clear();
        let report = dataplane.apply(&world, &InterfaceState::default()).unwrap();
        assert_eq!(report.failed_endpoints.len(), 2);
        assert_in_force(&dataplane);
        let key = Key { low: super::build::ifname_key("caliweb-1"), high: None };
        let element: Option<&Element> =
            dataplane.compiler().table().elements(&"cali-to-wl-dispatch".into()).and_then(|e| e.get(&key));
        assert!(element.is_some());
        apply(&mut dataplane, &Changes { sets: small_world().sets, ..Changes::default() });
    });
}

#[test]
fn shared_policy_shares_chains() {
    let mut compiler = super::compile::Compiler::default();
    compiler.apply(&small_world(), &InterfaceState::default());
    let chains = &compiler.table().desired().chains;
    let pipelines = chains.keys().filter(|name| name.starts_with("cali-tw-")).count();
    assert_eq!(pipelines, 2, "the web pods share one, the client has another");
    assert_eq!(Arc::strong_count(&small_world().policies[0]), 1);
}
