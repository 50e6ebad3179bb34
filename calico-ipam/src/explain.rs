//! Why a pod on a node gets its address from where it does: which pools serve it and why the
//! others do not, the blocks of the node, the limit, and the address that would be next.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use crate::assign::{Assignment, AutoAssign, AutoAssignArgs, LimitSource, Note};
use crate::environment::Environment;
use crate::error::IpamError;
use crate::memory::{MemoryStore, run};
use crate::pools::{Criteria, IntendedUse, Labels, Pool, Rejection};
use crate::range::Family;
use crate::search::block_limit;
use crate::store::{Item, Key, Stored};

/// A block of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnBlock {
    /// The block.
    pub cidr: IpNet,
    /// Its size.
    pub size: usize,
    /// Addresses that can still be assigned automatically.
    pub available: usize,
}

/// The answer to "what would a pod on this node get".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The node.
    pub host: Arc<str>,
    /// The family.
    pub family: Family,
    /// Every pool of the family, with the reason why it does not serve the request.
    pub pools: Vec<(Arc<Pool>, Option<Rejection>)>,
    /// The node's blocks in those pools that serve it.
    pub blocks: Vec<OwnBlock>,
    /// How many blocks it may have, and who says so.
    pub limit: (u32, LimitSource),
    /// What the next assignment would give.
    pub next: Result<Option<Assignment>, IpamError>,
    /// What it would remark.
    pub notes: Vec<Note>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "IPv{} on node {}:", self.family.number(), self.host)?;
        for (pool, rejection) in &self.pools {
            match rejection {
                None => writeln!(f, "  pool {} ({}) serves it", pool.name, pool.cidr)?,
                Some(reason) => writeln!(f, "  pool {} ({}) does not: {reason}", pool.name, pool.cidr)?,
            }
        }
        for block in &self.blocks {
            writeln!(f, "  block {}: {} of {} addresses available", block.cidr, block.available, block.size)?;
        }
        let source = match self.limit.1 {
            LimitSource::Request => "of the request",
            LimitSource::Configuration => "maxBlocksPerHost",
            LimitSource::BuiltIn => "built in",
        };
        writeln!(f, "  {} of at most {} blocks ({source})", self.blocks.len(), self.limit.0)?;
        match &self.next {
            Ok(Some(next)) => writeln!(f, "  next address: {} from block {}", next.address, next.block)?,
            Ok(None) => writeln!(f, "  no address would be assigned")?,
            Err(error) => writeln!(f, "  no address would be assigned: {error}")?,
        }
        for note in &self.notes {
            writeln!(f, "  note: {note}")?;
        }
        Ok(())
    }
}

/// Explains what a workload on `host` would get. `stock` are the stored blocks and claims; the
/// next address comes from trying the assignment on a copy of them.
#[must_use]
pub fn explain(
    environment: &Arc<Environment>,
    host: &str,
    family: Family,
    stock: &[Item],
    now: u64,
) -> Explanation {
    let mut args = AutoAssignArgs::workload(host, "explain", 0, 0);
    match family {
        Family::V4 => args.v4.count = 1,
        Family::V6 => args.v6.count = 1,
    }
    let no_labels = Labels::new();
    let criteria = Criteria {
        family,
        requested: &[],
        node: if host.is_empty() { &no_labels } else { &environment.node },
        namespace: &environment.namespace,
        intended: IntendedUse::Workload,
        longest_block: family.bits(),
    };
    let pools: Vec<(Arc<Pool>, Option<Rejection>)> = environment
        .pools
        .iter()
        .filter(|pool| pool.family() == family)
        .map(|pool| (Arc::clone(pool), criteria.judge(pool).err()))
        .collect();
    let serves =
        |cidr: &IpNet| pools.iter().any(|(pool, rejection)| rejection.is_none() && pool.cidr.contains(cidr));
    let owner = args.owner();
    let mut store = MemoryStore::default();
    let mut blocks = Vec::new();
    for item in stock {
        if let (Key::Block(cidr), Stored::Block(block)) = (&item.key, &item.value)
            && block.is_owned_by(&owner)
            && serves(cidr)
        {
            let mask = environment.reservations.mask(cidr, block.size());
            blocks.push(OwnBlock {
                cidr: *cidr,
                size: block.size(),
                available: block.available(mask.as_ref()),
            });
        }
        store.put(item.key.clone(), item.value.clone());
    }
    blocks.sort_by_key(|block| block.cidr);
    let trial = AutoAssign::new(args, now).with_environment(Arc::clone(environment));
    let (next, notes) = match run(&mut store, trial) {
        Ok(done) => {
            let notes = done.families.iter().flat_map(|result| result.notes.clone()).collect();
            (Ok(done.addresses().next().cloned()), notes)
        }
        Err(error) => (Err(error), Vec::new()),
    };
    let limit = block_limit(None, environment.config.max_blocks_per_host);
    Explanation { host: host.into(), family, pools, blocks, limit, next, notes }
}
