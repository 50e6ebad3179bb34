//! A handle: which blocks hold how many addresses of one owner.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::range::Family;

/// A stored handle.
///
/// Its count for a block is never below the number of addresses the block holds for it (I7):
/// it is raised before the block is written and lowered afterwards. So releasing by handle
/// finds every address, whatever crashed in between.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Handle {
    /// Addresses per block.
    pub blocks: BTreeMap<IpNet, u32>,
    /// Soft-delete mark of stores without conditional deletes.
    pub deleted: bool,
}

impl Handle {
    /// A handle that holds `count` addresses of one block.
    #[must_use]
    pub fn of(block: IpNet, count: u32) -> Self {
        let mut handle = Self::default();
        handle.raise(block, count);
        handle
    }

    /// The count of a block.
    #[must_use]
    pub fn count(&self, block: &IpNet) -> u32 {
        self.blocks.get(block).copied().unwrap_or_default()
    }

    /// The count over all blocks of a family.
    #[must_use]
    pub fn total(&self, family: Family) -> u32 {
        self.blocks
            .iter()
            .filter(|(block, _)| Family::of_net(block) == family)
            .fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// Counts more addresses of a block.
    pub fn raise(&mut self, block: IpNet, by: u32) {
        if by > 0 {
            let count = self.blocks.entry(block).or_default();
            *count = count.saturating_add(by);
        }
    }

    /// Counts fewer addresses of a block; a block without any is dropped.
    pub fn lower(&mut self, block: &IpNet, by: u32) {
        if let Some(count) = self.blocks.get_mut(block) {
            *count = count.saturating_sub(by);
            if *count == 0 {
                self.blocks.remove(block);
            }
        }
    }

    /// Whether no block is left; such a handle is deleted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_up_and_down_per_block_and_family() {
        let (a, b): (IpNet, IpNet) = ("10.0.0.0/26".parse().unwrap(), "fd00::/122".parse().unwrap());
        let mut handle = Handle::of(a, 2);
        handle.raise(b, 1);
        assert_eq!((handle.total(Family::V4), handle.total(Family::V6)), (2, 1));
        handle.lower(&a, 5);
        assert_eq!(handle.count(&a), 0);
        handle.lower(&b, 1);
        assert!(handle.is_empty());
    }
}
