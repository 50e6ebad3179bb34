//! The store, the clock, the operations under way and who holds which address.

mod plot;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use super::actor::{Actor, Aim, Living, Machine, Said};
use super::{Broken, Choice, Draw, Report, Scenario, check};
use crate::block::{ReleaseOptions, SECOND};
use crate::gc::{Allocation, Collector, GcConfig, LONGEST_OPERATION_SECONDS, NodeState, Owners, Verdict};
use crate::memory::MemoryStore;
use crate::store::{Answer, Batch, Config, Failure, Found, Item, Key, Outcome, Query, Request, Stored};

/// How many past values of an object a stale read may see.
const HISTORY: usize = 6;

/// How many writes a stale read lags behind at most.
const MAX_LAG: usize = 24;

pub(crate) struct World {
    scenario: Scenario,
    store: MemoryStore,
    /// Values that objects had, newest last, each with the number of the write that set it.
    past: BTreeMap<Key, VecDeque<(u64, Option<Item>)>>,
    writes: u64,
    now: u64,
    actors: Vec<Option<Actor>>,
    living: BTreeMap<IpAddr, Living>,
    /// Handles that somebody has begun to release: what they still get is nobody's.
    doomed: BTreeSet<Arc<str>>,
    /// What an owner once held, for releases that come too late.
    memories: VecDeque<ReleaseOptions>,
    next_handle: u64,
    collector: Collector,
    /// Work that garbage collection proposed and nobody has done yet.
    proposals: Vec<Machine>,
    tracing: bool,
    pub(crate) trace: Vec<String>,
    pub(crate) report: Report,
}

/// Who the collector believes to be alive.
struct View<'a> {
    living: &'a BTreeMap<IpAddr, Living>,
    busy: BTreeSet<Arc<str>>,
}

impl Owners for View<'_> {
    fn in_sync(&self) -> bool {
        true
    }

    fn judge(&self, allocation: &Allocation<'_>) -> Verdict {
        let handle = allocation.attribute.handle.as_deref().unwrap_or_default();
        let held = self.living.get(&allocation.address).is_some_and(|living| &*living.handle == handle);
        if held || self.busy.contains(handle) { Verdict::InUse } else { Verdict::Leaked }
    }

    fn node(&self, _: &str) -> NodeState {
        NodeState::Present
    }
}

impl World {
    pub(crate) fn new(scenario: &Scenario, tracing: bool) -> Self {
        let mut store = MemoryStore::default();
        store.transactions = scenario.transactions;
        for pool in &scenario.pools {
            store.add_pool(pool.clone());
        }
        for host in 0..scenario.hosts {
            store.add_node(&host_name(host), &[("name", &host_name(host))]);
        }
        let config = Config {
            cooldown_seconds: scenario.cooldown_seconds,
            strict_affinity: scenario.strict_affinity,
            ..Config::default()
        };
        store.put(Key::Config, Stored::Config(config));
        let grace_seconds = 2 * LONGEST_OPERATION_SECONDS;
        Self {
            actors: (0..scenario.actors).map(|_| None).collect(),
            scenario: scenario.clone(),
            store,
            past: BTreeMap::new(),
            writes: 0,
            now: 1_700_000_000 * SECOND,
            living: BTreeMap::new(),
            doomed: BTreeSet::new(),
            memories: VecDeque::new(),
            next_handle: 0,
            collector: Collector::new(GcConfig {
                grace_seconds,
                max_leaked_percent: 100,
                ..GcConfig::default()
            }),
            proposals: Vec::new(),
            tracing,
            trace: Vec::new(),
            report: Report::default(),
        }
    }

    fn say(&mut self, line: impl FnOnce() -> String) {
        if self.tracing {
            let line = line();
            self.trace.push(line);
        }
    }

    /// One step: an operation starts, or one that is under way gets its answer, or crashes.
    pub(crate) fn step(&mut self, choice: Choice) -> Result<(), Broken> {
        let mut draw = Draw::new(choice);
        self.now += draw.next() % (2 * SECOND);
        let slot = draw.below(self.actors.len());
        let actor = match self.actors.get_mut(slot).and_then(Option::take) {
            // Operations do not outlive their deadline: the caller has given up on them.
            Some(actor) if self.now - actor.started < LONGEST_OPERATION_SECONDS * SECOND => actor,
            Some(actor) => {
                self.crash(&actor);
                return Ok(());
            }
            None => {
                let Some(actor) = self.start(&mut draw) else { return Ok(()) };
                self.say(|| format!("{}: starts", actor.name));
                actor
            }
        };
        let result = self.advance(slot, actor, &mut draw);
        result.map_err(|broken| Broken { trace: std::mem::take(&mut self.trace), ..broken })
    }

    fn advance(&mut self, slot: usize, mut actor: Actor, draw: &mut Draw) -> Result<(), Broken> {
        let answer = match actor.request.take() {
            None => Answer::Begin,
            Some(request) => {
                self.report.steps += 1;
                let faults = self.scenario.faults;
                let crash = draw.thousandths(faults.crash);
                if crash {
                    if let Request::Write(batch) = &request {
                        let limit = draw.below(batch.writes.len() + 1);
                        self.write(batch, limit, &actor.name)?;
                    }
                    self.crash(&actor);
                    return Ok(());
                }
                match &request {
                    Request::Read(read) => {
                        let stale = !read.fresh && draw.thousandths(faults.stale);
                        let lag = if stale { 1 + draw.below(MAX_LAG) as u64 } else { 0 };
                        self.report.stale += u64::from(stale);
                        Answer::Read(read.queries.iter().map(|query| self.find(query, lag)).collect())
                    }
                    Request::Write(batch) => {
                        if draw.thousandths(faults.lost) {
                            self.report.lost += 1;
                            let limit = draw.below(batch.writes.len() + 1);
                            self.write(batch, limit, &actor.name)?;
                            self.say(|| format!("{}: answer lost", actor.name));
                            let failure = Some(Failure::Unknown { index: 0 });
                            Answer::Written(Outcome { applied: Vec::new(), failure })
                        } else {
                            let outcome = self.write(batch, usize::MAX, &actor.name)?;
                            self.report.conflicts += u64::from(outcome.failure.is_some());
                            Answer::Written(outcome)
                        }
                    }
                }
            }
        };
        match actor.machine.step(answer) {
            Ok(Said::Need(request)) => {
                actor.request = Some(request);
                if let Some(entry) = self.actors.get_mut(slot) {
                    *entry = Some(actor);
                }
            }
            Ok(Said::Done(assigned)) => {
                self.report.finished += 1;
                self.say(|| format!("{}: done {assigned:?}", actor.name));
                if let Aim::Assign { handle } = &actor.aim {
                    self.take_possession(handle, &assigned)?;
                }
            }
            Err(error) => {
                self.report.refused += 1;
                self.say(|| format!("{}: {error}", actor.name));
            }
        }
        Ok(())
    }

    fn take_possession(
        &mut self,
        handle: &Arc<str>,
        assigned: &[crate::assign::Assignment],
    ) -> Result<(), Broken> {
        for assignment in assigned {
            self.report.assigned += 1;
            self.remember(assignment.address, handle, assignment.sequence);
            if self.doomed.contains(handle) {
                continue;
            }
            let living = Living { handle: Arc::clone(handle), sequence: assignment.sequence };
            if let Some(other) = self.living.insert(assignment.address, living)
                && other.handle != *handle
            {
                let detail =
                    format!("{} was given to {handle} and is {}'s", assignment.address, other.handle);
                return Err(Broken { invariant: "I1", detail, step: 0, trace: Vec::new() });
            }
            let key = Key::Block(assignment.block);
            let before = self.store.get(&key).cloned();
            check::after_write(&self.store, &key, before.as_ref(), &self.living)?;
        }
        Ok(())
    }

    fn remember(&mut self, address: IpAddr, handle: &Arc<str>, sequence: u64) {
        self.memories.push_back(ReleaseOptions {
            address,
            handle: Some(Arc::clone(handle)),
            sequence: Some(sequence),
        });
        if self.memories.len() > 64 {
            self.memories.pop_front();
        }
    }

    fn crash(&mut self, actor: &Actor) {
        self.report.crashes += 1;
        self.say(|| format!("{}: crashes", actor.name));
    }

    /// Answers a question as of `lag` writes ago.
    fn find(&self, query: &Query, lag: u64) -> Found {
        if lag == 0 {
            return self.store.find(query);
        }
        let as_of = self.writes.saturating_sub(lag);
        let then = |key: &Key, now: Option<Item>| -> Option<Item> {
            let past = self.past.get(key)?;
            match past.iter().rev().find(|(write, _)| *write <= as_of) {
                Some((_, item)) => Some(item.clone()),
                None => past.front().map(|(_, item)| item.clone()),
            }
            .unwrap_or(now)
        };
        match query {
            Query::Get(key) => {
                let now = self.store.item(key);
                Found::One(if self.past.contains_key(key) { then(key, now) } else { now })
            }
            Query::List(scope) => {
                let mut items: BTreeMap<Key, Item> =
                    self.store.list(scope).into_iter().map(|item| (item.key.clone(), item)).collect();
                for key in self.past.keys().filter(|key| scope.contains(key)) {
                    match then(key, None) {
                        Some(item) => items.insert(key.clone(), item),
                        None => items.remove(key),
                    };
                }
                Found::Many(items.into_values().collect())
            }
        }
    }

    /// Carries out the first `limit` writes of a batch, checking after each. A transaction is
    /// carried out whole or not at all.
    fn write(&mut self, batch: &Batch, limit: usize, who: &str) -> Result<Outcome, Broken> {
        if self.scenario.transactions {
            if limit == 0 {
                return Ok(Outcome { applied: Vec::new(), failure: None });
            }
            let before: Vec<(Key, Option<Stored>)> = batch
                .collapsed()
                .iter()
                .map(|write| (write.key.clone(), self.store.get(&write.key).cloned()))
                .collect();
            let outcome = self.store.write(batch);
            if outcome.failure.is_none() {
                for (key, old) in before {
                    self.written(&key, old.as_ref(), who)?;
                }
            }
            return Ok(outcome);
        }
        let mut applied = Vec::new();
        for index in 0..batch.writes.len().min(limit) {
            let Some(write) = batch.writes.get(index) else { break };
            let old = self.store.get(&write.key).cloned();
            let mut one = write.clone();
            if let crate::store::Expect::Earlier(at) = one.expect {
                one.expect = applied
                    .get(at)
                    .cloned()
                    .map_or(crate::store::Expect::Absent, crate::store::Expect::Revision);
            }
            let key = one.key.clone();
            let mut outcome = self.store.write_some(&Batch { writes: vec![one] }, 1);
            match outcome.applied.pop() {
                Some(revision) => applied.push(revision),
                None => return Ok(Outcome { applied, failure: Some(Failure::Conflict { index }) }),
            }
            self.written(&key, old.as_ref(), who)?;
        }
        Ok(Outcome { applied, failure: None })
    }

    fn written(&mut self, key: &Key, old: Option<&Stored>, who: &str) -> Result<(), Broken> {
        self.writes += 1;
        self.report.writes += 1;
        let item = self.store.item(key);
        if self.tracing {
            let what = item.as_ref().map_or_else(|| "deleted".to_owned(), |item| brief(&item.value));
            self.trace.push(format!("{who}: {key} {what}"));
        }
        let writes = self.writes;
        let past = self.past.entry(key.clone()).or_insert_with(|| VecDeque::from([(0, None)]));
        past.push_back((writes, item));
        if past.len() > HISTORY {
            past.pop_front();
        }
        // What was deleted long ago looks like what never was.
        if past.len() > 1 && past.iter().all(|(write, item)| item.is_none() && *write + 100 < writes) {
            self.past.remove(key);
        }
        check::after_write(&self.store, key, old, &self.living)
    }

    /// Everybody stops; collection runs until it has nothing to do; nothing may be left over.
    pub(crate) fn recover(&mut self) -> Result<(), Broken> {
        for slot in 0..self.actors.len() {
            if let Some(actor) = self.actors.get_mut(slot).and_then(Option::take) {
                self.crash(&actor);
            }
        }
        let result = self.collect_all();
        result.map_err(|broken| Broken { trace: std::mem::take(&mut self.trace), ..broken })
    }

    fn collect_all(&mut self) -> Result<(), Broken> {
        for _ in 0..8 {
            self.now += 4 * LONGEST_OPERATION_SECONDS * SECOND;
            let plan = self.collector_pass();
            self.report.collected += plan.leaks.len() as u64;
            self.propose(plan);
            while let Some(machine) = self.proposals.pop() {
                self.run(machine)?;
            }
        }
        check::nothing_is_leaked(&self.store, &self.living)
    }

    fn run(&mut self, mut machine: Machine) -> Result<(), Broken> {
        let name = format!("collector {}", short(&machine));
        let mut answer = Answer::Begin;
        loop {
            match machine.step(answer) {
                Ok(Said::Need(Request::Read(read))) => {
                    answer = Answer::Read(read.queries.iter().map(|query| self.find(query, 0)).collect());
                }
                Ok(Said::Need(Request::Write(batch))) => {
                    answer = Answer::Written(self.write(&batch, usize::MAX, &name)?);
                }
                Ok(Said::Done(_)) | Err(_) => return Ok(()),
            }
        }
    }
}

fn host_name(index: usize) -> String {
    format!("node{index}")
}

fn pod_attributes(handle: &str, host: &str) -> BTreeMap<String, String> {
    [("pod", handle), ("namespace", "sim"), ("node", host)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// An object in a few words.
fn brief(stored: &Stored) -> String {
    match stored {
        Stored::Block(block) => {
            let held: Vec<String> = block
                .allocations()
                .map(|(ordinal, attribute)| {
                    format!("{ordinal}={}", attribute.handle.as_deref().unwrap_or("cooling"))
                })
                .collect();
            let owner = block.owner().map_or_else(|| "nobody".to_owned(), ToString::to_string);
            format!("of {owner} [{}]", held.join(" "))
        }
        Stored::Affinity(affinity) => affinity.state.as_str().to_owned(),
        Stored::Handle(handle) => format!("{:?}", handle.blocks),
        other => format!("{other:?}"),
    }
}

fn short(machine: &Machine) -> String {
    match machine {
        Machine::ReleaseIps(_) => "releases leaked addresses".to_owned(),
        Machine::GiveUp(_) => "gives up an empty block".to_owned(),
        Machine::Repair(repair) => format!("repairs {:?}", repair.task),
        Machine::AutoAssign(_) | Machine::AssignIp(_) | Machine::ReleaseByHandle(_) | Machine::Claim(_) => {
            "works".to_owned()
        }
    }
}
