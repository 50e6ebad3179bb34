//! Repairs of what crashed operations leave behind, one object each.

use std::sync::Arc;

use ipnet::IpNet;

use crate::affinity::State;
use crate::attribute::Owner;
use crate::commit::{release_claim, store_handle, write_block};
use crate::environment::config_of;
use crate::error::IpamError;
use crate::io::{Event, Io, Seen};
use crate::store::{
    Answer, Batch, Config, Expect, Key, Operation, Query, Request, Revision, Step, Stored, Write,
};

/// What to repair.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Task {
    /// A claim that is not confirmed, or whose block is not the owner's: confirmed if the block
    /// is in use by the owner, withdrawn otherwise.
    Claim(Owner, IpNet),
    /// A handle that counts addresses no block holds. It is lowered only while it has this
    /// revision, which must be older than any operation still under way.
    Handle(Arc<str>, Revision),
    /// A block with addresses whose cooldown has passed, or an empty one without an owner: the
    /// former are freed, the latter is deleted.
    Block(IpNet),
}

/// Carries out one repair. Yields whether anything was written; losing a race is no error, as
/// somebody else is at work then.
#[derive(Debug, Clone)]
pub struct Repair {
    pub(crate) task: Task,
    now: u64,
    io: Io,
    config: Config,
}

impl Repair {
    /// A repair at `now` (Unix nanoseconds).
    #[must_use]
    pub fn new(task: Task, now: u64) -> Self {
        Self { task, now, io: Io::default(), config: Config::default() }
    }

    fn first_read(&mut self) -> Request {
        let keys = match &self.task {
            Task::Claim(owner, cidr) => vec![Key::Affinity(owner.clone(), *cidr), Key::Block(*cidr)],
            Task::Handle(id, _) => vec![Key::Handle(Arc::clone(id))],
            Task::Block(cidr) => vec![Key::Config, Key::Block(*cidr)],
        };
        self.io.read(keys.into_iter().map(Query::Get).collect())
    }

    fn plan(&mut self) -> Option<Request> {
        match self.task.clone() {
            Task::Claim(owner, cidr) => self.claim(&owner, cidr),
            Task::Handle(id, revision) => self.handle(&id, &revision),
            Task::Block(cidr) => self.block(cidr),
        }
    }

    fn claim(&mut self, owner: &Owner, cidr: IpNet) -> Option<Request> {
        let Seen::Here(affinity, _) = self.io.view.affinity(owner, cidr) else { return None };
        if let Seen::Here(block, _) = self.io.view.block(cidr)
            && block.is_owned_by(owner)
        {
            if affinity.state == State::Confirmed {
                return None;
            }
            if !block.is_empty() {
                let mut touched = (**block).clone();
                touched.advance();
                let (batch, _) = write_block(&self.io.view, Some(owner), touched, None);
                return Some(self.io.write(batch));
            }
        }
        if matches!(self.io.view.block(cidr), Seen::Damaged(_)) {
            return None;
        }
        let batch = release_claim(&self.io.view, owner, cidr)?;
        Some(self.io.write(batch))
    }

    fn handle(&mut self, id: &Arc<str>, expected: &Revision) -> Option<Request> {
        let Seen::Here(handle, revision) = self.io.view.handle(id) else { return None };
        if revision != *expected {
            return None;
        }
        let handle = handle.clone();
        let unknown: Vec<Query> = handle
            .blocks
            .keys()
            .map(|cidr| Key::Block(*cidr))
            .filter(|key| !self.io.view.knows(key))
            .map(Query::Get)
            .collect();
        if !unknown.is_empty() {
            return Some(self.io.read(unknown));
        }
        let mut exact = handle.clone();
        for cidr in handle.blocks.keys() {
            let held = match self.io.view.block(*cidr) {
                Seen::Here(block, _) => block.count_of(id),
                Seen::Absent => 0,
                // Nobody knows what it holds.
                Seen::Damaged(_) | Seen::Unknown => continue,
            };
            exact.lower(cidr, u32::MAX);
            exact.raise(*cidr, held);
        }
        if exact == handle && !exact.is_empty() {
            return None;
        }
        let write = store_handle(id, exact, revision);
        Some(self.io.write(Batch { writes: vec![write] }))
    }

    fn block(&mut self, cidr: IpNet) -> Option<Request> {
        let Seen::Here(block, revision) = self.io.view.block(cidr) else { return None };
        let mut changed = (**block).clone();
        let freed = changed.collect(self.now, i64::from(self.config.cooldown_seconds));
        let orphan = changed.owner().is_none() && changed.is_empty();
        if freed == 0 && !orphan {
            return None;
        }
        changed.advance();
        let value = (!orphan).then(|| Stored::Block(Arc::new(changed)));
        let write = Write { key: Key::Block(cidr), value, expect: Expect::Revision(revision) };
        Some(self.io.write(Batch { writes: vec![write] }))
    }
}

impl Operation for Repair {
    type Output = bool;

    fn step(&mut self, answer: Answer) -> Result<Step<bool>, IpamError> {
        match self.io.absorb(answer)? {
            Event::Begin => return Ok(Step::Need(self.first_read())),
            Event::Written { failure, .. } => return Ok(Step::Done(failure.is_none())),
            Event::Read(found) => {
                if let Task::Block(_) = self.task
                    && self.config == Config::default()
                {
                    self.config = config_of(found.into_iter().next())?;
                }
            }
        }
        Ok(self.plan().map_or(Step::Done(false), Step::Need))
    }
}
