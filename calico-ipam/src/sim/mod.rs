//! Deterministic simulation: many operations at once on one datastore, with faults.
//!
//! Hosts assign and release, controllers reclaim and collect, everything is interleaved at
//! every request to the datastore. Operations crash between and within batches, answers are
//! lost after writes took effect, reads are out of date. After every write the invariants I1
//! to I9 are checked, and at the end that recovery and garbage collection leave nothing behind.
//!
//! Everything follows from the seed. A violation is reported with the shortest schedule that
//! still shows it.
//!
//! ```
//! use calico_ipam::sim::{Scenario, explore};
//! let report = explore(7, 2_000, &Scenario::default())?;
//! assert!(report.finished > 0 && report.conflicts > 0 && report.crashes > 0);
//! # Ok::<(), calico_ipam::sim::Violation>(())
//! ```

mod actor;
mod check;
mod world;

use std::fmt;

use crate::order::spread;
use crate::pools::Pool;

/// How often something goes wrong, in thousandths of all requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Faults {
    /// The operation ends here for good; of a batch some first writes may take effect.
    pub crash: u16,
    /// The answer to a batch is lost; some first writes, or all, took effect.
    pub lost: u16,
    /// A read that need not be fresh is answered from the past.
    pub stale: u16,
}

/// What is simulated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// Number of hosts.
    pub hosts: usize,
    /// Number of operations under way at once.
    pub actors: usize,
    /// The pools; small ones with small blocks meet more often.
    pub pools: Vec<Pool>,
    /// Whether the store carries out a batch as one transaction.
    pub transactions: bool,
    /// Seconds a released address stays unused.
    pub cooldown_seconds: u32,
    /// Only owners assign from blocks.
    pub strict_affinity: bool,
    /// Faults.
    pub faults: Faults,
}

impl Scenario {
    /// Two hosts, six operations at once, 16 addresses: everybody meets everybody.
    #[must_use]
    pub fn crowded() -> Self {
        let mut pool = Pool::new("v4", crate::range::net(crate::range::Family::V4, 10 << 24, 28));
        pool.block_size = 30;
        Self { hosts: 2, actors: 6, pools: vec![pool], ..Self::default() }
    }
}

impl Default for Scenario {
    /// Four hosts, twelve operations at once, 64 addresses in blocks of 8, all faults.
    fn default() -> Self {
        let mut v4 = Pool::new("v4", crate::range::net(crate::range::Family::V4, 10 << 24, 26));
        v4.block_size = 29;
        let mut v6 = Pool::new("v6", crate::range::net(crate::range::Family::V6, 0xfd << 120, 124));
        v6.block_size = 126;
        Self {
            hosts: 4,
            actors: 12,
            pools: vec![v4, v6],
            transactions: false,
            cooldown_seconds: 0,
            strict_affinity: false,
            faults: Faults { crash: 15, lost: 15, stale: 60 },
        }
    }
}

/// What happened in a simulation without a violation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Requests to the datastore.
    pub steps: u64,
    /// Single writes that took effect.
    pub writes: u64,
    /// Batches that were cut short by a conflict.
    pub conflicts: u64,
    /// Operations that crashed.
    pub crashes: u64,
    /// Answers that were lost.
    pub lost: u64,
    /// Reads that were answered from the past.
    pub stale: u64,
    /// Operations that ended by themselves.
    pub finished: u64,
    /// Operations that failed, as they may (nothing free, conflict of conditions, contention).
    pub refused: u64,
    /// Addresses that were assigned to an owner.
    pub assigned: u64,
    /// Addresses that garbage collection found leaked and released.
    pub collected: u64,
}

/// A broken invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which one: `I1` to `I9`, or `recovery`.
    pub invariant: &'static str,
    /// What was found.
    pub detail: String,
    /// The seed.
    pub seed: u64,
    /// The step of the full schedule at which it broke.
    pub step: usize,
    /// What happened in the shortest schedule that still breaks it, line by line.
    pub trace: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} broken at step {} of seed {}: {}",
            self.invariant, self.step, self.seed, self.detail
        )?;
        writeln!(f, "shortest schedule found:")?;
        for line in &self.trace {
            writeln!(f, "  {line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Violation {}

/// One decision of the scheduler: all that happens in a step follows from it.
pub(crate) type Choice = u64;

/// A stream of decisions.
#[derive(Debug, Clone)]
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        spread(self.0)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % (limit.max(1) as u64)) as usize
    }

    pub(crate) fn thousandths(&mut self, share: u16) -> bool {
        self.next() % 1000 < u64::from(share)
    }
}

/// How many steps run between two recoveries: long enough to fill pools and pile up wreckage.
const STEPS_PER_ROUND: usize = 20_000;

/// Runs a scenario for a number of requests. Every 20 000 requests, and at the end, all
/// operations stop, recovery and garbage collection run, and a fresh datastore is set up.
///
/// # Errors
/// The first broken invariant.
pub fn explore(seed: u64, steps: usize, scenario: &Scenario) -> Result<Report, Violation> {
    let mut report = Report::default();
    let mut left = steps;
    let mut round = 0u64;
    while left > 0 {
        let count = left.min(STEPS_PER_ROUND);
        let mut draw = Draw::new(spread(seed) ^ spread(round));
        let schedule: Vec<Choice> = (0..count).map(|_| draw.next()).collect();
        match play(&schedule, scenario, false) {
            Ok(world) => report.add(&world.report),
            Err(broken) => {
                let (schedule, broken) = shorten(schedule, scenario, broken);
                let trace = match play(&schedule, scenario, true) {
                    Err(again) => again.trace,
                    Ok(world) => world.trace,
                };
                return Err(Violation {
                    invariant: broken.invariant,
                    detail: broken.detail,
                    seed,
                    step: steps - left + broken.step,
                    trace,
                });
            }
        }
        left -= count;
        round += 1;
    }
    Ok(report)
}

/// Plays a schedule chosen by the caller, one request or event per number; for fuzzing.
///
/// # Errors
/// The first broken invariant.
pub fn replay(schedule: &[u64], scenario: &Scenario) -> Result<Report, Violation> {
    match play(schedule, scenario, true) {
        Ok(world) => Ok(world.report),
        Err(broken) => {
            let Broken { invariant, detail, step, trace } = broken;
            Err(Violation { invariant, detail, seed: 0, step, trace })
        }
    }
}

/// A violation within one schedule.
#[derive(Debug, Clone)]
pub(crate) struct Broken {
    pub(crate) invariant: &'static str,
    pub(crate) detail: String,
    pub(crate) step: usize,
    pub(crate) trace: Vec<String>,
}

fn play(schedule: &[Choice], scenario: &Scenario, tracing: bool) -> Result<world::World, Broken> {
    let mut world = world::World::new(scenario, tracing);
    for (step, choice) in schedule.iter().enumerate() {
        world.step(*choice).map_err(|broken| Broken { step, ..broken })?;
    }
    world.recover().map_err(|broken| Broken { step: schedule.len(), ..broken })?;
    Ok(world)
}

/// Removes decisions, in ever smaller pieces, as long as the same invariant still breaks.
fn shorten(mut schedule: Vec<Choice>, scenario: &Scenario, first: Broken) -> (Vec<Choice>, Broken) {
    schedule.truncate(first.step + 1);
    let mut best = first;
    let mut piece = schedule.len().div_ceil(2);
    let mut budget = 2_000usize;
    while piece > 0 && budget > 0 {
        let mut at = 0;
        let mut progress = false;
        while at < schedule.len() && budget > 0 {
            budget -= 1;
            let end = (at + piece).min(schedule.len());
            let candidate: Vec<Choice> =
                schedule.iter().take(at).chain(schedule.iter().skip(end)).copied().collect();
            match play(&candidate, scenario, false) {
                Err(broken) if broken.invariant == best.invariant => {
                    schedule = candidate;
                    schedule.truncate(broken.step + 1);
                    best = broken;
                    progress = true;
                }
                _ => at += piece,
            }
        }
        piece = if progress { piece } else { piece / 2 };
    }
    (schedule, best)
}

impl Report {
    fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.writes += other.writes;
        self.conflicts += other.conflicts;
        self.crashes += other.crashes;
        self.lost += other.lost;
        self.stale += other.stale;
        self.finished += other.finished;
        self.refused += other.refused;
        self.assigned += other.assigned;
        self.collected += other.collected;
    }
}
