//! How full pools and blocks are.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use crate::attribute::Owner;
use crate::block::Block;
use crate::pools::Pool;
use crate::range::{Family, bounds};
use crate::reserve::Reservations;

/// Counts of addresses. `in_use` and `reserved` overlap; `available` is in neither. Counts of
/// large IPv6 pools saturate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// All addresses.
    pub capacity: u128,
    /// Assigned or cooling addresses.
    pub in_use: u128,
    /// Addresses in IPReservations.
    pub reserved: u128,
    /// What automatic assignment could still give.
    pub available: u128,
}

/// How close a pool is to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fullness {
    /// Below 80 %.
    Normal,
    /// At least 80 % of what can be assigned is.
    Filling,
    /// At least 95 %.
    NearlyFull,
    /// Nothing is left.
    Full,
}

impl Counts {
    /// How close to its end this is, worth an event when it changes.
    #[must_use]
    pub fn fullness(&self) -> Fullness {
        // What can ever be assigned is what is available plus what is in use outside reservations.
        let usable = self.capacity.saturating_sub(self.reserved).max(1);
        let used = usable.saturating_sub(self.available);
        let percent = used.checked_mul(100).map_or(used / (usable / 100).max(1), |scaled| scaled / usable);
        match percent {
            _ if self.available == 0 => Fullness::Full,
            95.. => Fullness::NearlyFull,
            80.. => Fullness::Filling,
            _ => Fullness::Normal,
        }
    }

    fn add(&mut self, block: &Self) {
        self.in_use = self.in_use.saturating_add(block.in_use);
        self.available = self.available.saturating_add(block.available);
    }
}

/// A block and its counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockUtilization {
    /// The block.
    pub cidr: IpNet,
    /// Its owner.
    pub owner: Option<Owner>,
    /// Addresses held for somebody on another node than the owner.
    pub borrowed: usize,
    /// Its counts.
    pub counts: Counts,
}

/// A pool, its counts and its blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolUtilization {
    /// The pool; `None` collects the blocks of both families that lie in no pool.
    pub pool: Option<Arc<Pool>>,
    /// Its counts, over blocks and the space without blocks.
    pub counts: Counts,
    /// Its blocks in order.
    pub blocks: Vec<BlockUtilization>,
}

/// The utilisation of every pool in name order; blocks in no pool come last, if there are any.
///
/// ```
/// use calico_ipam::{Pool, Reservations, utilization};
/// let pool = std::sync::Arc::new(Pool::new("p", "10.0.0.0/24".parse().unwrap()));
/// let reserved = Reservations::parse(["10.0.0.0/30"]);
/// let pools = utilization(&[pool], &[], &reserved);
/// assert_eq!(pools[0].counts.available, 252);
/// ```
#[must_use]
pub fn utilization(
    pools: &[Arc<Pool>],
    blocks: &[Arc<Block>],
    reservations: &Reservations,
) -> Vec<PoolUtilization> {
    let mut result: Vec<PoolUtilization> = pools
        .iter()
        .map(|pool| PoolUtilization {
            pool: Some(Arc::clone(pool)),
            counts: Counts::default(),
            blocks: Vec::new(),
        })
        .collect();
    let mut orphans = PoolUtilization { pool: None, counts: Counts::default(), blocks: Vec::new() };
    let by_cidr: BTreeMap<IpNet, &Arc<Block>> = blocks.iter().map(|block| (block.cidr(), block)).collect();
    for block in by_cidr.values() {
        let home = result
            .iter_mut()
            .find(|entry| entry.pool.as_ref().is_some_and(|pool| pool.cidr.contains(&block.cidr())));
        home.unwrap_or(&mut orphans).blocks.push(of_block(block, reservations));
    }
    for entry in &mut result {
        let Some(pool) = &entry.pool else { continue };
        let (first, last) = bounds(&pool.cidr);
        let reserved = reservations.ranges(pool.family());
        let capacity = (last - first).saturating_add(1);
        let all_reserved = reserved.count_within(first, last);
        let mut counts = Counts { capacity, reserved: all_reserved, ..Counts::default() };
        let (mut blocked, mut blocked_reserved) = (0u128, 0u128);
        for block in &entry.blocks {
            counts.add(&block.counts);
            blocked = blocked.saturating_add(block.counts.capacity);
            blocked_reserved = blocked_reserved.saturating_add(block.counts.reserved);
        }
        // The space without blocks is free, except for what is reserved there.
        let open =
            capacity.saturating_sub(blocked).saturating_sub(all_reserved.saturating_sub(blocked_reserved));
        counts.available = counts.available.saturating_add(open);
        entry.counts = counts;
    }
    for block in &orphans.blocks {
        orphans.counts.add(&block.counts);
        orphans.counts.capacity = orphans.counts.capacity.saturating_add(block.counts.capacity);
        orphans.counts.reserved = orphans.counts.reserved.saturating_add(block.counts.reserved);
    }
    if !orphans.blocks.is_empty() {
        result.push(orphans);
    }
    result
}

fn of_block(block: &Block, reservations: &Reservations) -> BlockUtilization {
    let mask = reservations.mask(&block.cidr(), block.size());
    let owner = block.owner().cloned();
    let borrowed = block.allocations().filter(|(_, attribute)| {
        let node = attribute.active.get("node");
        node.is_some_and(|node| owner.as_ref().is_none_or(|owner| owner.name() != node))
    });
    BlockUtilization {
        cidr: block.cidr(),
        borrowed: borrowed.count(),
        counts: Counts {
            capacity: block.size() as u128,
            in_use: (block.size() - block.free_count()) as u128,
            reserved: mask.as_ref().map_or(0, |mask| mask.count() as u128),
            available: block.available(mask.as_ref()) as u128,
        },
        owner,
    }
}

/// Whether a family has any address left in the given pools.
#[must_use]
pub fn exhausted(pools: &[PoolUtilization], family: Family) -> bool {
    let mut of_family = pools
        .iter()
        .filter(|entry| entry.pool.as_ref().is_some_and(|pool| pool.family() == family && pool.enabled));
    of_family.all(|entry| entry.counts.available == 0)
}
