//! The store, the clock, the operations under way and who holds which address.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use super::actor::{Actor, Aim, Living, Machine, Said};
use super::{Broken, Choice, Draw, Report, Scenario, check};
use crate::assign::{AutoAssign, AutoAssignArgs};
use crate::assign_ip::{AssignIp, AssignIpArgs};
use crate::attribute::Owner;
use crate::block::{ReleaseOptions, SECOND};
use crate::claim::ClaimAffinity;
use crate::gc::{
    Allocation, Collector, GcConfig, GcPlan, LONGEST_OPERATION_SECONDS, NodeState, Owners, Stock, Verdict,
};
use crate::give_up::{Claims, Conditions, GiveUp};
use crate::memory::MemoryStore;
use crate::pools::{Filter, Pool};
use crate::release::ReleaseIps;
use crate::release_handle::ReleaseByHandle;
use crate::repair::Repair;
use crate::store::{
    Answer, Batch, Config, Failure, Found, Item, Key, Outcome, Query, Request, Scope, Stored,
};

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

    /// Chooses and prepares an operation.
    fn start(&mut self, draw: &mut Draw) -> Option<Actor> {
        let host = host_name(draw.below(self.scenario.hosts));
        let owner = Owner::host(&host);
        let (label, aim, machine) = match draw.below(100) {
            0..=39 => {
                // A quarter asks for more under a handle that is or was in use: only then do
                // several operations meet on one handle.
                let handle = match draw.below(4) {
                    0 => self.recent_handle(draw),
                    _ => self.new_handle(),
                };
                let (v4, v6) = match draw.below(8) {
                    0 => (0, 1),
                    1 => (1, 1),
                    2 => (3, 0),
                    _ => (1, 0),
                };
                let mut args = AutoAssignArgs::workload(&host, &handle, v4, v6);
                args.attributes = pod_attributes(&handle, &host);
                args.max_blocks = (draw.below(3) == 0).then_some(2);
                let aim = Aim::Assign { handle: Arc::clone(&handle) };
                (
                    format!("{host} assigns {v4}+{v6} to {handle}"),
                    aim,
                    Machine::AutoAssign(Box::new(AutoAssign::new(args, self.now))),
                )
            }
            40..=64 => {
                // Now and then the owner goes away while its request is still under way.
                let handle = match draw.below(4) {
                    0 => self.recent_handle(draw),
                    _ => self.living_handle(draw)?,
                };
                self.give_up_handle(&handle);
                let machine = ReleaseByHandle::new(&handle, self.now);
                let aim = Aim::Other;
                (format!("{host} releases {handle}"), aim, Machine::ReleaseByHandle(Box::new(machine)))
            }
            65..=72 => {
                let handle = self.living_handle(draw)?;
                let mine: Vec<(IpAddr, Living)> = self
                    .living
                    .iter()
                    .filter(|(_, living)| living.handle == handle)
                    .map(|(address, living)| (*address, living.clone()))
                    .collect();
                let mut wanted = Vec::new();
                for (address, living) in mine {
                    self.living.remove(&address);
                    let sequence = (draw.below(2) == 0).then_some(living.sequence);
                    wanted.push(ReleaseOptions { address, handle: Some(living.handle), sequence });
                }
                let machine = ReleaseIps::new(wanted, self.now);
                (
                    format!("{host} releases addresses of {handle}"),
                    Aim::Other,
                    Machine::ReleaseIps(Box::new(machine)),
                )
            }
            // A release that comes late: what it names may be somebody else's by now.
            73..=78 => {
                let late = self.memories.get(draw.below(self.memories.len()))?.clone();
                if self
                    .living
                    .get(&late.address)
                    .is_some_and(|living| Some(&living.handle) == late.handle.as_ref())
                {
                    return None;
                }
                let mut late = late;
                match draw.below(3) {
                    0 => late.handle = None,
                    1 => late.sequence = None,
                    _ => {}
                }
                let machine = ReleaseIps::new(vec![late.clone()], self.now);
                (format!("late release of {late:?}"), Aim::Other, Machine::ReleaseIps(Box::new(machine)))
            }
            79..=83 => {
                let pool = self.scenario.pools.get(draw.below(self.scenario.pools.len()))?;
                let (first, last) = crate::range::bounds(&pool.cidr);
                let number = first + u128::from(draw.next()) % (last - first + 1);
                let address = crate::range::address(pool.family(), number);
                let handle = self.new_handle();
                let mut args = AssignIpArgs::new(address, &host, &handle);
                args.attributes = pod_attributes(&handle, &host);
                let aim = Aim::Assign { handle: Arc::clone(&handle) };
                (
                    format!("{host} assigns {address} to {handle}"),
                    aim,
                    Machine::AssignIp(Box::new(AssignIp::new(args, self.now))),
                )
            }
            84..=87 => {
                let pool = self.scenario.pools.get(draw.below(self.scenario.pools.len()))?;
                let space =
                    crate::order::BlockSpace::new(&pool.cidr, pool.block_size, [], &Default::default())?;
                let cidr = space.first_free(space.start(draw.next()))?;
                let machine = ClaimAffinity::new(cidr, owner, self.now);
                (format!("{host} claims {cidr}"), Aim::Other, Machine::Claim(Box::new(machine)))
            }
            88..=91 => {
                let must_be_empty = draw.below(2) == 0;
                let conditions = Conditions { must_be_empty, sequence: None };
                let machine = GiveUp::new(Claims::Owner(owner), conditions);
                (
                    format!("{host} gives up its blocks, empty only: {must_be_empty}"),
                    Aim::Other,
                    Machine::GiveUp(Box::new(machine)),
                )
            }
            92..=93 => {
                self.change_pool(draw);
                return None;
            }
            94..=95 => {
                self.collect();
                return None;
            }
            _ => {
                let machine = self.proposals.pop()?;
                (format!("collector {}", short(&machine)), Aim::Other, machine)
            }
        };
        let name = format!("#{} {label}", self.report.finished + self.report.refused + self.report.crashes);
        Some(Actor { name, aim, machine, started: self.now, request: None })
    }

    fn new_handle(&mut self) -> Arc<str> {
        self.next_handle += 1;
        format!("h{}", self.next_handle).into()
    }

    /// One of the last handles, whatever became of it.
    fn recent_handle(&mut self, draw: &mut Draw) -> Arc<str> {
        let back = draw.below(6) as u64;
        let handle: Arc<str> = format!("h{}", self.next_handle.saturating_sub(back).max(1)).into();
        self.next_handle = self.next_handle.max(1);
        handle
    }

    fn living_handle(&self, draw: &mut Draw) -> Option<Arc<str>> {
        let at = draw.below(self.living.len());
        self.living.values().nth(at).map(|living| Arc::clone(&living.handle))
    }

    /// The owner lets everything go: from now on anything may happen to its addresses.
    fn give_up_handle(&mut self, handle: &Arc<str>) {
        self.living.retain(|_, living| living.handle != *handle);
        self.doomed.insert(Arc::clone(handle));
    }

    /// A pool begins or ceases to select the first host.
    fn change_pool(&mut self, draw: &mut Draw) {
        let Some(pool) = self.scenario.pools.get(draw.below(self.scenario.pools.len())) else { return };
        let mut pool: Pool = pool.clone();
        if draw.below(2) == 0 {
            pool.nodes = Filter::parse(&format!("name != '{}'", host_name(0)));
        }
        self.say(|| format!("pool {} selects {}", pool.name, pool.nodes));
        self.store.add_pool(pool);
    }

    /// One pass of garbage collection over what is stored now.
    fn collect(&mut self) {
        let plan = self.collector_pass();
        self.report.collected += plan.leaks.len() as u64;
        self.propose(plan);
        self.say(|| "collector looks".to_owned());
    }

    fn collector_pass(&mut self) -> GcPlan {
        let mut busy = BTreeSet::new();
        for actor in self.actors.iter().flatten() {
            if let Aim::Assign { handle } = &actor.aim {
                busy.insert(Arc::clone(handle));
            }
        }
        let mut blocks = self.store.list(&Scope::Blocks(crate::range::Family::V4));
        blocks.extend(self.store.list(&Scope::Blocks(crate::range::Family::V6)));
        let affinities = self.store.list(&Scope::Affinities);
        let handles = self.store.list(&Scope::Handles);
        let pools: Vec<Arc<Pool>> = self.scenario.pools.iter().cloned().map(Arc::new).collect();
        let stock = Stock {
            blocks: &blocks,
            affinities: &affinities,
            handles: &handles,
            pools: &pools,
            cooldown_seconds: self.scenario.cooldown_seconds,
        };
        let view = View { living: &self.living, busy };
        self.collector.pass(&stock, &view, self.now)
    }

    fn propose(&mut self, plan: GcPlan) {
        self.proposals.clear();
        let now = self.now;
        if !plan.leaks.is_empty() {
            self.proposals.push(Machine::ReleaseIps(Box::new(ReleaseIps::new(plan.leaks, now))));
        }
        for (cidr, sequence) in plan.empty_blocks {
            let conditions = Conditions { must_be_empty: true, sequence: Some(sequence) };
            self.proposals.push(Machine::GiveUp(Box::new(GiveUp::new(Claims::Block(cidr), conditions))));
        }
        let repairs = plan.repairs.into_iter().map(|task| Machine::Repair(Box::new(Repair::new(task, now))));
        self.proposals.extend(repairs);
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
