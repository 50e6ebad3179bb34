//! What happens next in the cluster: which operation starts, what the collector proposes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::{View, World, host_name, pod_attributes, short};
use crate::assign::{AutoAssign, AutoAssignArgs};
use crate::assign_ip::{AssignIp, AssignIpArgs};
use crate::attribute::Owner;
use crate::block::ReleaseOptions;
use crate::claim::ClaimAffinity;
use crate::gc::{GcPlan, Stock};
use crate::give_up::{Claims, Conditions, GiveUp};
use crate::pools::{Filter, Pool};
use crate::release::ReleaseIps;
use crate::release_handle::ReleaseByHandle;
use crate::repair::Repair;
use crate::sim::Draw;
use crate::sim::actor::{Actor, Aim, Living, Machine};
use crate::store::Scope;

impl World {
    /// Chooses and prepares an operation.
    pub(super) fn start(&mut self, draw: &mut Draw) -> Option<Actor> {
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

    pub(super) fn new_handle(&mut self) -> Arc<str> {
        self.next_handle += 1;
        format!("h{}", self.next_handle).into()
    }

    /// One of the last handles, whatever became of it.
    pub(super) fn recent_handle(&mut self, draw: &mut Draw) -> Arc<str> {
        let back = draw.below(6) as u64;
        let handle: Arc<str> = format!("h{}", self.next_handle.saturating_sub(back).max(1)).into();
        self.next_handle = self.next_handle.max(1);
        handle
    }

    pub(super) fn living_handle(&self, draw: &mut Draw) -> Option<Arc<str>> {
        let at = draw.below(self.living.len());
        self.living.values().nth(at).map(|living| Arc::clone(&living.handle))
    }

    /// The owner lets everything go: from now on anything may happen to its addresses.
    pub(super) fn give_up_handle(&mut self, handle: &Arc<str>) {
        self.living.retain(|_, living| living.handle != *handle);
        self.doomed.insert(Arc::clone(handle));
    }

    /// A pool begins or ceases to select the first host.
    pub(super) fn change_pool(&mut self, draw: &mut Draw) {
        let Some(pool) = self.scenario.pools.get(draw.below(self.scenario.pools.len())) else { return };
        let mut pool: Pool = pool.clone();
        if draw.below(2) == 0 {
            pool.nodes = Filter::parse(&format!("name != '{}'", host_name(0)));
        }
        self.say(|| format!("pool {} selects {}", pool.name, pool.nodes));
        self.store.add_pool(pool);
    }

    /// One pass of garbage collection over what is stored now.
    pub(super) fn collect(&mut self) {
        let plan = self.collector_pass();
        self.report.collected += plan.leaks.len() as u64;
        self.propose(plan);
        self.say(|| "collector looks".to_owned());
    }

    pub(super) fn collector_pass(&mut self) -> GcPlan {
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

    pub(super) fn propose(&mut self, plan: GcPlan) {
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
}
