//! Giving blocks up: of a prefix, of a host, of a pool, or one by one.

use std::sync::Arc;

use ipnet::IpNet;

use crate::affinity::State;
use crate::attribute::Owner;
use crate::claim::enabled_pool_with;
use crate::commit::{release_claim, write_block};
use crate::environment::{many, pools_of};
use crate::error::IpamError;
use crate::io::{Event, Io, Seen};
use crate::range::Family;
use crate::store::{Answer, Batch, Expect, Found, Key, Operation, Query, Request, Scope, Step, Write};

/// Which claims are given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claims {
    /// One block, whoever owns it.
    Block(IpNet),
    /// An owner's blocks within a prefix that lies in an enabled pool.
    Within {
        /// The prefix.
        cidr: IpNet,
        /// The owner.
        owner: Owner,
    },
    /// All blocks of an owner, both families.
    Owner(Owner),
    /// All blocks of a host and its IPAM host object: the host is gone.
    Host(Arc<str>),
    /// All blocks whose prefix starts in a pool, of hosts and of virtual owners alike.
    Pool(IpNet),
}

/// What a claim must be like to be given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conditions {
    /// Leave blocks in use alone. Otherwise they stay, without an owner, until their last
    /// address is released.
    pub must_be_empty: bool,
    /// The sequence number a block must have, for [`Claims::Block`].
    pub sequence: Option<u64>,
}

/// What was given up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GivenUp {
    /// Claims that are gone, with their block or with the block left ownerless.
    pub released: Vec<(Owner, IpNet)>,
    /// Claims that stay, and why.
    pub kept: Vec<(Owner, IpNet, IpamError)>,
}

/// Gives claims up, best effort: a claim that cannot be given up does not stop the others.
#[derive(Debug, Clone)]
pub struct GiveUp {
    claims: Claims,
    conditions: Conditions,
    io: Io,
    left: Vec<(Owner, IpNet)>,
    doing: Doing,
    result: GivenUp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Finding,
    Looking,
    Releasing,
    /// Taking back a claim that was marked for deletion while the block came into use.
    Restoring,
    Host,
    HostDeleted,
}

impl GiveUp {
    /// An operation on some claims.
    #[must_use]
    pub fn new(claims: Claims, conditions: Conditions) -> Self {
        Self {
            claims,
            conditions,
            io: Io::default(),
            left: Vec::new(),
            doing: Doing::Finding,
            result: GivenUp::default(),
        }
    }

    fn find(&mut self) -> Request {
        let both = |owner: &Owner| {
            [Family::V4, Family::V6]
                .map(|family| Query::List(Scope::OwnerAffinities(owner.clone(), family)))
                .to_vec()
        };
        let queries = match &self.claims {
            Claims::Block(cidr) => vec![Query::Get(Key::Block(*cidr))],
            Claims::Within { cidr, owner } => vec![
                Query::List(Scope::Pools),
                Query::List(Scope::OwnerAffinities(owner.clone(), Family::of_net(cidr))),
            ],
            Claims::Owner(owner) => both(owner),
            Claims::Host(host) => both(&Owner::Host(Arc::clone(host))),
            Claims::Pool(_) => vec![Query::List(Scope::Affinities)],
        };
        self.io.read(queries)
    }

    fn found(&mut self, found: Vec<Found>) -> Result<(), IpamError> {
        let mut found = found.into_iter();
        match &self.claims {
            Claims::Block(cidr) => {
                let owner = match self.io.view.block(*cidr) {
                    Seen::Here(block, _) => block.owner().cloned(),
                    Seen::Damaged(error) => return Err(IpamError::Stored((*error).clone())),
                    Seen::Absent | Seen::Unknown => {
                        return Err(IpamError::NotFound { key: Key::Block(*cidr) });
                    }
                };
                let owner = owner.ok_or(IpamError::ClaimConflict { block: *cidr, owner: None })?;
                self.left.push((owner, *cidr));
            }
            Claims::Within { cidr, .. } => {
                let pools = pools_of(found.next())?;
                if enabled_pool_with(&pools, cidr).is_none() {
                    return Err(IpamError::CidrNotInPool { cidr: *cidr });
                }
            }
            Claims::Owner(_) | Claims::Host(_) | Claims::Pool(_) => {}
        }
        for list in found.filter(|found| matches!(found, Found::Many(_))) {
            for item in many(Some(list))?.iter() {
                if let Key::Affinity(owner, block) = &item.key {
                    let wanted = match &self.claims {
                        Claims::Within { cidr, .. } => cidr.contains(block),
                        Claims::Pool(cidr) => cidr.contains(&block.network()),
                        _ => true,
                    };
                    if wanted {
                        self.io.view.put(item.clone());
                        self.left.push((owner.clone(), *block));
                    }
                }
            }
        }
        self.left.reverse();
        Ok(())
    }

    fn learn(&mut self, event: Event) -> Result<(), IpamError> {
        match (self.doing, event) {
            (Doing::Finding, Event::Read(found)) => {
                self.found(found)?;
                self.doing = Doing::Looking;
            }
            (Doing::Releasing, Event::Written { failure, .. }) => match self.left.last().cloned() {
                Some(claim) if failure.is_none() => {
                    self.left.pop();
                    self.result.released.push(claim);
                }
                Some((owner, cidr)) => {
                    self.io.view.forget(&Key::Affinity(owner.clone(), cidr));
                    self.io.view.forget(&Key::Block(cidr));
                    if let Err(error) = self.io.retry(&Key::Block(cidr)) {
                        self.keep(error);
                    }
                }
                None => {}
            },
            (Doing::Restoring, Event::Written { .. }) => {
                if let Some((_, cidr)) = self.left.last() {
                    let block = *cidr;
                    self.keep(IpamError::BlockNotEmpty { block });
                }
            }
            (Doing::Host, Event::Written { .. }) => self.doing = Doing::HostDeleted,
            _ => {}
        }
        Ok(())
    }

    fn keep(&mut self, error: IpamError) {
        if let Some((owner, cidr)) = self.left.pop() {
            self.result.kept.push((owner, cidr, error));
        }
    }

    fn plan(&mut self) -> Option<Request> {
        while let Some((owner, cidr)) = self.left.last().cloned() {
            let keys = [Key::Affinity(owner.clone(), cidr), Key::Block(cidr)];
            if keys.iter().any(|key| !self.io.view.knows(key)) {
                self.doing = Doing::Looking;
                return Some(self.io.read(keys.into_iter().map(Query::Get).collect()));
            }
            let affinity = self.io.view.affinity(&owner, cidr);
            match self.io.view.block(cidr) {
                Seen::Damaged(error) => {
                    self.keep(IpamError::Stored((*error).clone()));
                    continue;
                }
                Seen::Here(block, _) if block.is_owned_by(&owner) => {
                    if let Some(expected) = self.conditions.sequence
                        && block.sequence() != expected
                    {
                        self.keep(IpamError::ClaimConflict { block: cidr, owner: Some(owner) });
                        continue;
                    }
                    if self.conditions.must_be_empty && !block.is_empty() {
                        let leaving = matches!(affinity, Seen::Here(affinity, _) if affinity.state == State::PendingDeletion);
                        if leaving {
                            let mut touched = (**block).clone();
                            touched.advance();
                            let (batch, _) = write_block(&self.io.view, Some(&owner), touched, None);
                            self.doing = Doing::Restoring;
                            return Some(self.io.write(batch));
                        }
                        self.keep(IpamError::BlockNotEmpty { block: cidr });
                        continue;
                    }
                }
                _ => {}
            }
            match release_claim(&self.io.view, &owner, cidr) {
                Some(batch) => {
                    self.doing = Doing::Releasing;
                    return Some(self.io.write(batch));
                }
                // Somebody else has done it.
                None => {
                    self.left.pop();
                    self.result.released.push((owner, cidr));
                }
            }
        }
        self.plan_host()
    }

    /// Deletes the IPAM host object once the host has no claims left.
    fn plan_host(&mut self) -> Option<Request> {
        let Claims::Host(host) = &self.claims else { return None };
        if self.doing == Doing::HostDeleted || !self.result.kept.is_empty() {
            return None;
        }
        let key = Key::Host(Arc::clone(host));
        if !self.io.view.knows(&key) {
            self.doing = Doing::Host;
            return Some(self.io.read(vec![Query::Get(key)]));
        }
        let revision = self.io.view.revision(&key)?;
        self.doing = Doing::Host;
        Some(
            self.io.write(Batch {
                writes: vec![Write { key, value: None, expect: Expect::Revision(revision) }],
            }),
        )
    }
}

impl Operation for GiveUp {
    type Output = GivenUp;

    fn step(&mut self, answer: Answer) -> Result<Step<GivenUp>, IpamError> {
        let event = self.io.absorb(answer)?;
        if let Event::Begin = event {
            return Ok(Step::Need(self.find()));
        }
        self.learn(event)?;
        match self.plan() {
            Some(request) => Ok(Step::Need(request)),
            None => Ok(Step::Done(std::mem::take(&mut self.result))),
        }
    }
}
