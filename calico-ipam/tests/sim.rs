//! The simulation with every kind of store and fault. A longer run:
//! `IPAM_SIM_STEPS=10000000 cargo test --release -p calico-ipam --test sim`.

#![allow(clippy::panic)]

use calico_ipam::sim::{Faults, Report, Scenario, explore};

fn steps() -> usize {
    #[allow(clippy::disallowed_methods)] // A test may be told how long to run.
    std::env::var("IPAM_SIM_STEPS").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000)
}

fn check(seed: u64, steps: usize, scenario: &Scenario) -> Report {
    match explore(seed, steps, scenario) {
        Ok(report) => report,
        Err(violation) => panic!("{violation}"),
    }
}

#[test]
fn defect_13_no_interleaving_or_fault_breaks_an_invariant() {
    let report = check(1, steps() / 2, &Scenario::default());
    println!("{report:?}");
    assert!(report.conflicts > 0 && report.crashes > 0 && report.lost > 0 && report.stale > 0);
    assert!(report.collected > 0, "crashed assignments leave something to collect");
}

#[test]
fn nor_in_a_crowd() {
    println!("{:?}", check(6, steps() / 4, &Scenario::crowded()));
}

#[test]
fn nor_with_cooldown_and_strict_affinity() {
    let scenario = Scenario { cooldown_seconds: 20, strict_affinity: true, ..Scenario::default() };
    println!("{:?}", check(2, steps() / 8, &scenario));
}

#[test]
fn nor_with_transactions() {
    let scenario = Scenario { transactions: true, ..Scenario::default() };
    println!("{:?}", check(3, steps() / 8, &scenario));
}

#[test]
fn without_faults_nothing_is_ever_leaked() {
    let faults = Faults { crash: 0, lost: 0, stale: 0 };
    println!("{:?}", check(4, steps() / 8, &Scenario { faults, ..Scenario::default() }));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let scenario = Scenario::default();
    assert_eq!(check(5, 3_000, &scenario), check(5, 3_000, &scenario));
}
