//! The figures that monitoring of Calico expects, per pool and node.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::block::Block;
use crate::pools::Pool;
use crate::reserve::Reservations;
use crate::utilization::utilization;

/// The label of blocks that lie in no pool.
pub const NO_POOL: &str = "no_ippool";
/// The label of addresses whose node is not known.
pub const UNKNOWN_NODE: &str = "unknown_node";
/// The label of blocks without owner.
pub const NO_AFFINITY: &str = "no_affinity";

/// Figures of one node in one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeGauges {
    /// `ipam_allocations_in_use`: addresses that are assigned, by the node they are used on.
    pub in_use: u64,
    /// `ipam_allocations_borrowed`: those out of a block that is another node's.
    pub borrowed: u64,
    /// `ipam_blocks`: blocks that the node owns.
    pub blocks: u64,
    /// `ipam_allocations_gc_candidates`: addresses that look leaked.
    pub candidates: u64,
}

/// Figures of one pool.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PoolGauges {
    /// `ipam_ippool_size`: addresses of the pool; saturates for large IPv6 pools.
    pub size: u128,
    /// `ipam_ippool_reserved`: of these, in IPReservations.
    pub reserved: u128,
    /// By node.
    pub nodes: BTreeMap<String, NodeGauges>,
}

/// All figures by name of pool. Every one of `nodes` has an entry in every real pool, so that a figure which falls to
/// zero is reported as zero. `candidates` are the addresses that garbage collection suspects.
///
/// ```
/// use calico_ipam::{Pool, Reservations, gauges};
/// let pool = std::sync::Arc::new(Pool::new("p", "10.0.0.0/24".parse().unwrap()));
/// let gauges = gauges(&[pool], &[], &Reservations::default(), ["node1"], &[]);
/// assert_eq!((gauges["p"].size, gauges["p"].nodes["node1"].in_use), (256, 0));
/// ```
#[must_use]
pub fn gauges<'a>(
    pools: &[Arc<Pool>],
    blocks: &[Arc<Block>],
    reservations: &Reservations,
    nodes: impl IntoIterator<Item = &'a str>,
    candidates: &[IpAddr],
) -> BTreeMap<String, PoolGauges> {
    let seeded: BTreeMap<String, NodeGauges> =
        nodes.into_iter().map(|node| (node.to_owned(), NodeGauges::default())).collect();
    let by_cidr: BTreeMap<_, _> = blocks.iter().map(|block| (block.cidr(), block)).collect();
    let mut result = BTreeMap::new();
    for entry in utilization(pools, blocks, reservations) {
        let (name, mut figures) = match &entry.pool {
            Some(pool) => {
                let (size, reserved) = (entry.counts.capacity, entry.counts.reserved);
                (pool.name.to_string(), PoolGauges { size, reserved, nodes: seeded.clone() })
            }
            None => (NO_POOL.to_owned(), PoolGauges::default()),
        };
        for block in entry.blocks.iter().filter_map(|found| by_cidr.get(&found.cidr)) {
            count(block, candidates, &mut figures.nodes);
        }
        result.insert(name, figures);
    }
    result
}

fn count(block: &Block, candidates: &[IpAddr], nodes: &mut BTreeMap<String, NodeGauges>) {
    let owner = block.owner().map_or(NO_AFFINITY, |owner| owner.name());
    nodes.entry(owner.to_owned()).or_default().blocks += 1;
    for (ordinal, attribute) in block.allocations() {
        if attribute.is_cooling() || attribute.is_reserved() {
            continue;
        }
        let node = attribute.active.get("node").map_or(UNKNOWN_NODE, String::as_str);
        let figures = nodes.entry(node.to_owned()).or_default();
        figures.in_use += 1;
        figures.borrowed += u64::from(node != UNKNOWN_NODE && node != owner);
        figures.candidates += u64::from(candidates.contains(&block.address(ordinal)));
    }
}
