//! Garbage collection: which addresses, blocks, handles and claims nobody needs any more.
//!
//! A [`Collector`] looks at everything that is stored, remembers what looked wrong and since
//! when, and proposes work only once it has looked wrong for long enough. It writes nothing:
//! every proposal is an operation that checks again under compare-and-swap.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::affinity::{Affinity, State};
use crate::attribute::{Attribute, Owner};
use crate::block::{Block, ReleaseOptions, SECOND};
use crate::handle::Handle;
use crate::pools::Pool;
use crate::repair::Task;
use crate::store::{Item, Key, Revision, Stored};

/// An operation must end, one way or the other, within this many seconds after its `now`:
/// repairs of half-done work wait longer than that.
pub const LONGEST_OPERATION_SECONDS: u64 = 120;

/// How collection behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcConfig {
    /// Seconds an address must look leaked, or a block empty, before it is released (15 min).
    /// 0 turns both off.
    pub grace_seconds: u64,
    /// Addresses released in one pass at most.
    pub max_releases: usize,
    /// A pass that finds more than this share of all addresses leaked, in percent, releases
    /// none of them and says so: more likely the caller's view of the cluster is broken.
    /// Passes with fewer than 100 leaks are not held up.
    pub max_leaked_percent: u8,
}

impl Default for GcConfig {
    fn default() -> Self {
        Self { grace_seconds: 900, max_releases: 10_000, max_leaked_percent: 50 }
    }
}

/// Whether an address still has somebody behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It has, or nobody can tell.
    InUse,
    /// It has not.
    Leaked,
    /// It has not, and belonged to a virtual machine, which may be away for longer.
    LeakedVm,
}

/// What is known of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// It exists.
    Present,
    /// It is gone.
    Absent,
    /// It is not for us to judge (not a Kubernetes node, or the view is not complete).
    Unmanaged,
}

/// The caller's view of the cluster.
pub trait Owners {
    /// Whether the view is complete. Nothing is collected while it is not.
    fn in_sync(&self) -> bool;

    /// Whether somebody is behind an address of a pod or virtual machine. Compare parsed
    /// addresses, never text.
    fn judge(&self, allocation: &Allocation<'_>) -> Verdict;

    /// Whether a node exists.
    fn node(&self, name: &str) -> NodeState;
}

/// One allocated address.
#[derive(Debug, Clone, Copy)]
pub struct Allocation<'a> {
    /// The address.
    pub address: IpAddr,
    /// Its block.
    pub block: IpNet,
    /// Its sequence number.
    pub sequence: u64,
    /// Handle and owner.
    pub attribute: &'a Attribute,
}

/// What an allocation is for, by its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose<'a> {
    /// Taken from the block at its birth.
    Reserved,
    /// A tunnel device of a node.
    Tunnel {
        /// The node.
        node: &'a str,
    },
    /// A pod or a virtual machine.
    Pod {
        /// The node, when known.
        node: Option<&'a str>,
        /// Whether it is a virtual machine.
        vm: bool,
    },
    /// Something else: never collected.
    Unknown,
}

impl<'a> Allocation<'a> {
    fn text(&self, key: &str) -> Option<&'a str> {
        self.attribute.active.get(key).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// What the address is for.
    #[must_use]
    pub fn purpose(&self) -> Purpose<'a> {
        if self.attribute.is_reserved() {
            return Purpose::Reserved;
        }
        let kind = self.text("type").unwrap_or_default();
        if kind.ends_with("TunnelAddress") {
            return self.text("node").map_or(Purpose::Unknown, |node| Purpose::Tunnel { node });
        }
        if self.text("pod").is_some() && self.text("namespace").is_some() {
            let vm = self.text("vmi-name").is_some() || self.text("vm-uid").is_some();
            return Purpose::Pod { node: self.text("node"), vm };
        }
        Purpose::Unknown
    }
}

/// Everything that is stored, as listed for one pass.
#[derive(Debug, Clone, Copy)]
pub struct Stock<'a> {
    /// All blocks of both families.
    pub blocks: &'a [Item],
    /// All claims.
    pub affinities: &'a [Item],
    /// All handles.
    pub handles: &'a [Item],
    /// All pools.
    pub pools: &'a [Arc<Pool>],
    /// Seconds a released address stays unused.
    pub cooldown_seconds: u32,
}

/// What a pass proposes. Each entry is one operation, and any may be left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GcPlan {
    /// Leaked addresses, all of a handle or none: for [`ReleaseIps`](crate::ReleaseIps). Ask
    /// the orchestrator itself once more about those whose node still exists.
    pub leaks: Vec<ReleaseOptions>,
    /// Blocks that stayed empty: for [`GiveUp`](crate::GiveUp) with this sequence number and
    /// only if still empty.
    pub empty_blocks: Vec<(IpNet, u64)>,
    /// Half-done claims, over-counted handles, blocks to thaw or delete.
    pub repairs: Vec<Task>,
    /// Hosts that are gone and have no address in use: for [`GiveUp`](crate::GiveUp) with
    /// [`Claims::Host`](crate::Claims::Host), only if empty.
    pub dead_hosts: Vec<Arc<str>>,
    /// Addresses that look leaked and are within their grace period.
    pub candidates: usize,
    /// Set when so many addresses look leaked that none is released: found and total.
    pub suspended: Option<(usize, usize)>,
}

/// Remembers what looked wrong, from pass to pass.
#[derive(Debug, Clone, Default)]
pub struct Collector {
    config: GcConfig,
    /// When an address first looked leaked.
    leaks: BTreeMap<(IpAddr, u64), u64>,
    /// When a block was first seen empty, and its sequence number then.
    empty: BTreeMap<IpNet, (u64, u64)>,
    /// When an object was first seen wrong, and its revision then.
    wrong: BTreeMap<Key, (Revision, u64)>,
}

/// Totals of a pass over all addresses.
#[derive(Debug, Default)]
struct Census<'a> {
    total: usize,
    leaked: BTreeMap<Arc<str>, Vec<Leak>>,
    /// Addresses of each handle that are in use.
    held: BTreeSet<&'a str>,
    /// Hosts that addresses in use, or of unknown purpose, are on.
    busy: BTreeSet<&'a str>,
    tunnels: Vec<(&'a str, Allocation<'a>)>,
}

#[derive(Debug)]
struct Leak {
    options: ReleaseOptions,
    due: bool,
}

impl Collector {
    /// A collector that remembers nothing yet.
    #[must_use]
    pub fn new(config: GcConfig) -> Self {
        Self { config, ..Self::default() }
    }

    /// One pass over everything, at `now` (Unix nanoseconds).
    pub fn pass(&mut self, stock: &Stock<'_>, owners: &dyn Owners, now: u64) -> GcPlan {
        if !owners.in_sync() {
            return GcPlan::default();
        }
        let blocks: BTreeMap<IpNet, &Arc<Block>> = stock
            .blocks
            .iter()
            .filter_map(|item| match (&item.key, &item.value) {
                (Key::Block(cidr), Stored::Block(block)) => Some((*cidr, block)),
                _ => None,
            })
            .collect();
        let mut plan = GcPlan::default();
        self.find_leaks(&blocks, stock, owners, now, &mut plan);
        self.find_empty(&blocks, stock, now, &mut plan);
        self.find_wrong(&blocks, stock, now, &mut plan);
        plan
    }

    fn find_leaks(
        &mut self,
        blocks: &BTreeMap<IpNet, &Arc<Block>>,
        stock: &Stock<'_>,
        owners: &dyn Owners,
        now: u64,
        plan: &mut GcPlan,
    ) {
        let mut census = Census::default();
        let mut seen = BTreeSet::new();
        for block in blocks.values().filter(|block| !block.owner().is_some_and(Owner::is_virtual)) {
            for (ordinal, attribute) in block.allocations().filter(|(_, attribute)| !attribute.is_cooling()) {
                let allocation = Allocation {
                    address: block.address(ordinal),
                    block: block.cidr(),
                    sequence: block.sequence_of(ordinal),
                    attribute,
                };
                self.judge(allocation, block.owner(), owners, now, &mut census, &mut seen);
            }
        }
        // The tunnels of a node go when the node is gone and nothing else is left on it.
        for (node, allocation) in std::mem::take(&mut census.tunnels) {
            if owners.node(node) == NodeState::Absent && !census.busy.contains(node) {
                self.leak(allocation, true, &mut census);
            } else {
                census.busy.insert(node);
                census.hold(&allocation);
            }
        }
        self.leaks.retain(|key, _| seen.contains(key));
        plan.candidates = census.leaked.values().flatten().filter(|leak| !leak.due).count();
        let held = std::mem::take(&mut census.held);
        let due: Vec<ReleaseOptions> = census
            .leaked
            .into_iter()
            .filter(|(handle, leaks)| !held.contains(&**handle) && leaks.iter().all(|leak| leak.due))
            .flat_map(|(_, leaks)| leaks.into_iter().map(|leak| leak.options))
            .collect();
        let percent = due.len() * 100 / census.total.max(1);
        if due.len() >= 100 && percent > usize::from(self.config.max_leaked_percent) {
            plan.suspended = Some((due.len(), census.total));
        } else {
            plan.leaks = whole_handles(due, self.config.max_releases);
        }
        self.find_dead_hosts(blocks, stock, owners, &census.busy, plan);
    }

    fn judge<'a>(
        &mut self,
        allocation: Allocation<'a>,
        owner: Option<&'a Owner>,
        owners: &dyn Owners,
        now: u64,
        census: &mut Census<'a>,
        seen: &mut BTreeSet<(IpAddr, u64)>,
    ) {
        let host = owner.map(Owner::name);
        census.total += 1;
        let purpose = allocation.purpose();
        if purpose == Purpose::Reserved {
            return;
        }
        if allocation.attribute.handle.is_none() {
            census.busy.extend(host);
            return;
        }
        let (node, vm) = match purpose {
            Purpose::Tunnel { node } => {
                census.tunnels.push((node, allocation));
                return;
            }
            Purpose::Pod { node, vm } => (node.or(host), vm),
            Purpose::Reserved | Purpose::Unknown => {
                census.busy.extend(host);
                census.hold(&allocation);
                return;
            }
        };
        let verdict = owners.judge(&allocation);
        if verdict == Verdict::InUse {
            census.busy.extend(node);
            census.busy.extend(host);
            census.hold(&allocation);
            return;
        }
        let gone = node.is_some_and(|node| owners.node(node) == NodeState::Absent);
        let key = (allocation.address, allocation.sequence);
        seen.insert(key);
        let since = *self.leaks.entry(key).or_insert(now);
        let wait = if vm || verdict == Verdict::LeakedVm {
            self.config.grace_seconds.max(300)
        } else {
            self.config.grace_seconds
        };
        let passed =
            self.config.grace_seconds > 0 && now.saturating_sub(since) >= wait.saturating_mul(SECOND);
        self.leak(allocation, gone || passed, census);
    }

    fn leak<'a>(&mut self, allocation: Allocation<'a>, due: bool, census: &mut Census<'a>) {
        if let Some(handle) = &allocation.attribute.handle {
            let options = ReleaseOptions {
                address: allocation.address,
                handle: Some(Arc::clone(handle)),
                sequence: Some(allocation.sequence),
            };
            census.leaked.entry(Arc::clone(handle)).or_default().push(Leak { options, due });
        }
    }

    fn find_dead_hosts(
        &self,
        blocks: &BTreeMap<IpNet, &Arc<Block>>,
        stock: &Stock<'_>,
        owners: &dyn Owners,
        busy: &BTreeSet<&str>,
        plan: &mut GcPlan,
    ) {
        let mut hosts: BTreeSet<&Arc<str>> = BTreeSet::new();
        let claimants = stock.affinities.iter().filter_map(|item| match &item.key {
            Key::Affinity(Owner::Host(host), _) => Some(host),
            _ => None,
        });
        hosts.extend(claimants);
        hosts.extend(blocks.values().filter_map(|block| match block.owner() {
            Some(Owner::Host(host)) => Some(host),
            _ => None,
        }));
        let dead = hosts.into_iter().filter(|host| !busy.contains(&***host));
        plan.dead_hosts = dead.filter(|host| owners.node(host) == NodeState::Absent).cloned().collect();
    }

    /// Empty blocks beyond the one that a host keeps per pool.
    fn find_empty(
        &mut self,
        blocks: &BTreeMap<IpNet, &Arc<Block>>,
        stock: &Stock<'_>,
        now: u64,
        plan: &mut GcPlan,
    ) {
        let mut owned: BTreeMap<(&Owner, Option<&str>), usize> = BTreeMap::new();
        let pool_of =
            |cidr: &IpNet| stock.pools.iter().find(|pool| pool.cidr.contains(cidr)).map(|pool| &*pool.name);
        for (cidr, block) in blocks {
            if let Some(owner @ Owner::Host(_)) = block.owner() {
                *owned.entry((owner, pool_of(cidr))).or_default() += 1;
            }
        }
        let mut empty = BTreeMap::new();
        for (cidr, block) in blocks {
            let Some(owner @ Owner::Host(_)) = block.owner() else { continue };
            if !block.is_empty() || self.config.grace_seconds == 0 {
                continue;
            }
            let (since, sequence) = match self.empty.get(cidr) {
                Some((since, sequence)) if *sequence == block.sequence() => (*since, *sequence),
                _ => (now, block.sequence()),
            };
            empty.insert(*cidr, (since, sequence));
            let old = now.saturating_sub(since) >= self.config.grace_seconds.saturating_mul(SECOND);
            if let Some(count) = owned.get_mut(&(owner, pool_of(cidr)))
                && old
                && *count > 1
            {
                *count -= 1;
                plan.empty_blocks.push((*cidr, sequence));
            }
        }
        self.empty = empty;
    }

    /// What operations that did not end have left behind.
    fn find_wrong(
        &mut self,
        blocks: &BTreeMap<IpNet, &Arc<Block>>,
        stock: &Stock<'_>,
        now: u64,
        plan: &mut GcPlan,
    ) {
        let mut wrong = BTreeMap::new();
        for item in stock.affinities.iter().chain(stock.handles) {
            let task = match (&item.key, &item.value) {
                (Key::Affinity(owner, cidr), Stored::Affinity(affinity)) => {
                    let damaged = !blocks.contains_key(cidr) && is_damaged(stock.blocks, *cidr);
                    if damaged || claim_is_sound(owner, affinity, blocks.get(cidr).copied()) {
                        continue;
                    }
                    Task::Claim(owner.clone(), *cidr)
                }
                (Key::Handle(id), Stored::Handle(handle)) => {
                    if handle_is_exact(id, handle, blocks) {
                        continue;
                    }
                    Task::Handle(Arc::clone(id), item.revision.clone())
                }
                _ => continue,
            };
            let since = match self.wrong.get(&item.key) {
                Some((revision, since)) if *revision == item.revision => *since,
                _ => now,
            };
            let waited = now.saturating_sub(since) / SECOND;
            if waited >= LONGEST_OPERATION_SECONDS {
                plan.repairs.push(task);
            }
            wrong.insert(item.key.clone(), (item.revision.clone(), since));
        }
        self.wrong = wrong;
        let cooldown = i64::from(stock.cooldown_seconds);
        for (cidr, block) in blocks {
            let orphan = block.owner().is_none() && block.is_empty();
            let thawed = block.next_collection(cooldown).is_some_and(|due| due < now);
            if orphan || thawed {
                plan.repairs.push(Task::Block(*cidr));
            }
        }
        plan.repairs.sort();
    }
}

impl<'a> Census<'a> {
    fn hold(&mut self, allocation: &Allocation<'a>) {
        self.held.extend(allocation.attribute.handle.as_deref());
    }
}

/// At most `limit` addresses, but all of a handle or none: the first handle goes even if it is larger.
fn whole_handles(mut leaks: Vec<ReleaseOptions>, limit: usize) -> Vec<ReleaseOptions> {
    let mut end = limit.max(1);
    if let Some(cut) = leaks.get(end).map(|options| options.handle.clone()) {
        let belongs = |options: &ReleaseOptions| options.handle == cut;
        let first = leaks.iter().position(belongs).unwrap_or(end);
        let last = leaks.iter().rposition(belongs).unwrap_or(end);
        end = if first > 0 { first } else { last + 1 };
    }
    leaks.truncate(end);
    leaks
}

fn is_damaged(blocks: &[Item], cidr: IpNet) -> bool {
    blocks.iter().any(|item| item.key == Key::Block(cidr))
}

fn claim_is_sound(owner: &Owner, affinity: &Affinity, block: Option<&Arc<Block>>) -> bool {
    affinity.state == State::Confirmed && block.is_some_and(|block| block.is_owned_by(owner))
}

fn handle_is_exact(id: &str, handle: &Handle, blocks: &BTreeMap<IpNet, &Arc<Block>>) -> bool {
    !handle.is_empty()
        && handle
            .blocks
            .iter()
            .all(|(cidr, count)| blocks.get(cidr).map_or(0, |block| block.count_of(id)) == *count)
}
