//! Claiming blocks for a host without assigning from them.

use std::sync::Arc;

use ipnet::IpNet;

use crate::affinity::State;
use crate::attribute::Owner;
use crate::block::{Block, HostReservation};
use crate::commit::{release_claim, write_block};
use crate::environment::pools_of;
use crate::error::IpamError;
use crate::io::{Event, Io, Seen};
use crate::pools::Pool;
use crate::range::{Family, bounds, net};
use crate::store::{Answer, Key, Operation, Query, Request, Scope, Step};

/// What a claim yields.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Claimed {
    /// Blocks the owner has now.
    pub claimed: Vec<IpNet>,
    /// Blocks that belong to somebody else, or cannot be used.
    pub failed: Vec<IpNet>,
}

/// Claims all blocks of a prefix for an owner.
#[derive(Debug, Clone)]
pub struct ClaimAffinity {
    cidr: IpNet,
    owner: Owner,
    now: u64,
    /// Length of the blocks, once the pool is known.
    block_size: u8,
    /// The block in hand and the last one, as numbers.
    walk: Option<(u128, u128)>,
    io: Io,
    doing: Doing,
    result: Claimed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Pools,
    Looking,
    Claiming,
    Dropping,
}

impl ClaimAffinity {
    /// A claim at `now` (Unix nanoseconds) on the blocks of `cidr`.
    #[must_use]
    pub fn new(cidr: IpNet, owner: Owner, now: u64) -> Self {
        Self {
            cidr: cidr.trunc(),
            owner,
            now,
            block_size: 0,
            walk: None,
            io: Io::default(),
            doing: Doing::Pools,
            result: Claimed::default(),
        }
    }

    fn current(&self) -> Option<IpNet> {
        self.walk.map(|(at, _)| net(Family::of_net(&self.cidr), at, self.block_size))
    }

    fn advance(&mut self, claimed: bool) {
        if let Some(block) = self.current() {
            let list = if claimed { &mut self.result.claimed } else { &mut self.result.failed };
            list.push(block);
            let next = bounds(&block).1.checked_add(1);
            self.walk =
                self.walk.and_then(|(_, last)| next.filter(|next| *next <= last).map(|next| (next, last)));
        }
    }

    fn learn(&mut self, event: Event) -> Result<(), IpamError> {
        let Some(cidr) = self.current() else {
            if let Event::Read(found) = event {
                let pools = pools_of(found.into_iter().next())?;
                let pool = enabled_pool_with(&pools, &self.cidr);
                let pool = pool.ok_or(IpamError::CidrNotInPool { cidr: self.cidr })?;
                self.block_size = pool.block_size;
                self.walk = Some(bounds(&self.cidr));
            }
            return Ok(());
        };
        if let Event::Written { failure, .. } = event {
            if failure.is_none() {
                self.advance(self.doing == Doing::Claiming);
            } else {
                self.io.retry(&Key::Block(cidr))?;
                self.io.view.forget(&Key::Block(cidr));
                self.io.view.forget(&Key::Affinity(self.owner.clone(), cidr));
            }
        }
        self.doing = Doing::Looking;
        Ok(())
    }

    fn plan(&mut self) -> Result<Option<Request>, IpamError> {
        while let Some(cidr) = self.current() {
            let keys = [Key::Affinity(self.owner.clone(), cidr), Key::Block(cidr)];
            if keys.iter().any(|key| !self.io.view.knows(key)) {
                self.doing = Doing::Looking;
                return Ok(Some(self.io.read(keys.into_iter().map(Query::Get).collect())));
            }
            let affinity = self.io.view.affinity(&self.owner, cidr);
            let confirmed =
                matches!(&affinity, Seen::Here(affinity, _) if affinity.state == State::Confirmed);
            let block = match self.io.view.block(cidr) {
                Seen::Here(block, _) if block.is_owned_by(&self.owner) => {
                    if confirmed {
                        self.advance(true);
                        continue;
                    }
                    let mut touched = (**block).clone();
                    touched.advance();
                    touched
                }
                Seen::Absent => Block::new(cidr, self.owner.clone(), self.now, HostReservation::default())?,
                Seen::Here(..) | Seen::Damaged(_) | Seen::Unknown => {
                    let exists = matches!(affinity, Seen::Here(..));
                    match release_claim(&self.io.view, &self.owner, cidr).filter(|_| exists) {
                        Some(batch) => {
                            self.doing = Doing::Dropping;
                            return Ok(Some(self.io.write(batch)));
                        }
                        None => self.advance(false),
                    }
                    continue;
                }
            };
            let (batch, _) = write_block(&self.io.view, Some(&self.owner), block, None);
            self.doing = Doing::Claiming;
            return Ok(Some(self.io.write(batch)));
        }
        Ok(None)
    }
}

impl Operation for ClaimAffinity {
    type Output = Claimed;

    fn step(&mut self, answer: Answer) -> Result<Step<Claimed>, IpamError> {
        let event = self.io.absorb(answer)?;
        if let Event::Begin = event {
            return Ok(Step::Need(self.io.read(vec![Query::List(Scope::Pools)])));
        }
        self.learn(event)?;
        match self.plan()? {
            Some(request) => Ok(Step::Need(request)),
            None => Ok(Step::Done(std::mem::take(&mut self.result))),
        }
    }
}

/// The enabled pool that holds a prefix of at least one block.
pub(crate) fn enabled_pool_with<'a>(pools: &'a [Arc<Pool>], cidr: &IpNet) -> Option<&'a Arc<Pool>> {
    pools.iter().find(|pool| pool.enabled && pool.cidr.contains(cidr) && cidr.prefix_len() <= pool.block_size)
}
