//! Blocks that the owner does not have yet: new ones, abandoned ones, and other owners' to borrow from.

use std::sync::Arc;

use ipnet::IpNet;

use super::{Context, Doing, RECLAIM_AFTER_SECONDS, Search, block_cidr, pool_with};
use crate::block::SECOND;
use crate::commit::release_claim;
use crate::error::IpamError;
use crate::io::Seen;
use crate::order::{BlockSpace, search_seed};
use crate::store::{Batch, Expect, Key, Query, Request, Stored, Write};

impl Search {
    /// Chooses a position without a block; `false` if all pools are full.
    pub(super) fn plan_new(&mut self, context: &mut Context<'_>) -> bool {
        let Some(listed) = self.listed.clone() else { return false };
        // A block that is ours but whose claim is missing was left behind by a crash.
        let orphan = listed.iter().find_map(|item| match (&item.key, &item.value) {
            (Key::Block(cidr), Stored::Block(block))
                if block.is_owned_by(context.owner)
                    && !self.lost.contains(cidr)
                    && !context.io.view.knows(&Key::Block(*cidr))
                    && pool_with(&self.pools, cidr).is_some() =>
            {
                Some(*cidr)
            }
            _ => None,
        });
        if let Some(cidr) = orphan {
            self.owned += 1;
            self.candidates.push(cidr);
            return true;
        }
        let reserved = context.environment.reservations.ranges(self.family);
        for pool in &self.pools {
            let taken = listed.iter().filter_map(block_cidr).chain(self.lost.iter().copied());
            let Some(space) = BlockSpace::new(&pool.cidr, pool.block_size, taken, reserved) else { continue };
            let seed = search_seed(context.owner.name(), pool.block_size, self.family, context.now);
            if let Some(cidr) = space.first_free(space.start(seed)) {
                self.adopt(context, cidr);
                return true;
            }
        }
        false
    }

    /// Makes a position without a block the next candidate.
    pub(super) fn adopt(&mut self, context: &mut Context<'_>, cidr: IpNet) {
        self.lost.insert(cidr);
        self.owned += 1;
        self.candidates.push(cidr);
        let affinity = Key::Affinity(context.owner.clone(), cidr);
        if !context.io.view.knows(&affinity) {
            context.io.view.put_absent(affinity);
        }
        context.io.view.put_absent(Key::Block(cidr));
    }

    /// Takes an empty block away from an owner who does not use it.
    pub(super) fn plan_reclaim(&mut self, context: &mut Context<'_>) -> Option<Request> {
        let listed = self.listed.clone()?;
        loop {
            let old = (context.now / SECOND).saturating_sub(RECLAIM_AFTER_SECONDS);
            let (cidr, owner, sequence) = listed.iter().find_map(|item| match (&item.key, &item.value) {
                (Key::Block(cidr), Stored::Block(block))
                    if block.is_empty()
                        && block.free_count() > 0
                        && !block.is_owned_by(context.owner)
                        && block.claimed_at().is_none_or(|at| at <= old)
                        && !self.reclaim_tried.contains(cidr)
                        && !context.environment.reservations.covers(cidr)
                        && pool_with(&self.pools, cidr)
                            .is_some_and(|pool| pool.block_size == cidr.prefix_len()) =>
                {
                    Some((*cidr, block.owner().cloned(), block.sequence()))
                }
                _ => None,
            })?;
            let claim = owner.clone().map(|owner| Key::Affinity(owner, cidr));
            let known = claim.iter().chain([&Key::Block(cidr)]).all(|key| context.io.view.knows(key));
            if !known {
                let mut keys = vec![Key::Block(cidr), Key::Affinity(context.owner.clone(), cidr)];
                keys.extend(claim);
                self.doing = Doing::Looking;
                return Some(context.io.read(keys.into_iter().map(Query::Get).collect()));
            }
            self.reclaim_tried.insert(cidr);
            let Seen::Here(block, revision) = context.io.view.block(cidr) else { continue };
            if block.sequence() != sequence || block.owner() != owner.as_ref() || !block.is_empty() {
                continue;
            }
            let batch = match &owner {
                Some(owner) => release_claim(&context.io.view, owner, cidr),
                None => Some(Batch {
                    writes: vec![Write {
                        key: Key::Block(cidr),
                        value: None,
                        expect: Expect::Revision(revision),
                    }],
                }),
            };
            let Some(batch) = batch else { continue };
            self.doing = Doing::Reclaiming(cidr);
            return Some(context.io.write(batch));
        }
    }

    /// Assigns from blocks of others, those with most room first, from the list that is there.
    pub(super) fn plan_borrow(&mut self, context: &mut Context<'_>) -> Result<Option<Request>, IpamError> {
        if context.environment.config.strict_affinity || self.ensure {
            self.give_reasons(context, true);
            return Ok(None);
        }
        if let Some(request) = self.need_list(context) {
            return Ok(Some(request));
        }
        for cidr in self.lenders(context) {
            match context.io.view.block(cidr) {
                Seen::Unknown => {
                    let mut queries = vec![Query::Get(Key::Block(cidr))];
                    queries.extend(context.args.handle.clone().map(|id| Query::Get(Key::Handle(id))));
                    self.doing = Doing::Looking;
                    return Ok(Some(context.io.read(queries)));
                }
                Seen::Here(block, _) => {
                    let block = Arc::clone(block);
                    if let Some(request) = self.assign_from(context, &block, false)? {
                        return Ok(Some(request));
                    }
                }
                Seen::Damaged(_) | Seen::Absent => {}
            }
            self.borrow_tried.insert(cidr);
        }
        if self.listed_at < context.io.attempts {
            // We lost races since the list was read: look once more before giving up.
            self.listed = None;
            self.borrow_tried.clear();
            self.lost.clear();
            return self.plan(context);
        }
        self.give_reasons(context, false);
        Ok(None)
    }

    /// Blocks of usable pools that may have room, in the order to try them.
    fn lenders(&self, context: &Context<'_>) -> Vec<IpNet> {
        let Some(listed) = &self.listed else { return Vec::new() };
        let mut lenders = Vec::new();
        for (rank, pool) in self.pools.iter().enumerate() {
            let space = BlockSpace::new(&pool.cidr, pool.block_size, [], &crate::range::Ranges::default());
            let Some(space) = space else { continue };
            let start =
                space.start(search_seed(context.owner.name(), pool.block_size, self.family, context.now));
            for item in listed.iter() {
                if let (Key::Block(cidr), Stored::Block(block)) = (&item.key, &item.value)
                    && pool.cidr.contains(cidr)
                    && !self.borrow_tried.contains(cidr)
                    && !context.environment.reservations.covers(cidr)
                {
                    let free = block.free_count();
                    let cooling = block.attributes().iter().any(|attribute| attribute.is_cooling());
                    if free > 0 || cooling {
                        lenders.push((rank, usize::MAX - free, space.distance(start, cidr), *cidr));
                    }
                }
            }
        }
        lenders.sort_unstable();
        lenders.into_iter().map(|(.., cidr)| cidr).collect()
    }
}
