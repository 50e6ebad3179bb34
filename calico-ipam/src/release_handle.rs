//! Releasing all addresses of a handle, and finding them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::assign::Assignment;
use crate::attribute::{Owner, clean_handle};
use crate::commit::store_handle;
use crate::environment::config_of;
use crate::error::{IpamError, StoredError};
use crate::io::{Event, Io, Seen};
use crate::release::{Debt, Released, settle, settled, write_released};
use crate::store::{
    Answer, Batch, Config, Expect, Failure, Key, Operation, Query, Request, Revision, Step, Write,
};

/// How many blocks go into one batch: stores limit the size of a transaction.
const BLOCKS_PER_BATCH: usize = 32;

/// Releases every address of a handle and the handle itself.
///
/// A handle that does not exist is [`IpamError::NotFound`]; most callers take that as done.
#[derive(Debug, Clone)]
pub struct ReleaseByHandle {
    handle: Arc<str>,
    now: u64,
    io: Io,
    config: Config,
    /// Blocks still to be looked at.
    left: BTreeSet<IpNet>,
    /// The handle as it was before the blocks were read. While it stays so, nobody can have
    /// counted an address that a block written by us since then would not conflict with, and
    /// its counts of those blocks may be dropped whole.
    before: Option<Revision>,
    /// Addresses let go per block, and whether the whole count may be dropped.
    gone: BTreeMap<IpNet, Gone>,
    owed: Vec<Debt>,
    doing: Doing,
    result: Released,
}

#[derive(Debug, Clone, Copy, Default)]
struct Gone {
    count: u32,
    /// The block exists and was written by us after the handle was read.
    fenced: bool,
}

#[derive(Debug, Clone)]
enum Doing {
    Start,
    Handle,
    Blocks,
    Writing { blocks: Vec<Part>, finish: Option<usize> },
    Finishing,
    Settling,
}

/// What a batch does to one block.
#[derive(Debug, Clone)]
struct Part {
    cidr: IpNet,
    index: usize,
    addresses: Vec<IpAddr>,
    deleted: bool,
}

impl ReleaseByHandle {
    /// A release at `now` (Unix nanoseconds).
    #[must_use]
    pub fn new(handle: &str, now: u64) -> Self {
        Self {
            handle: clean_handle(handle).into(),
            now,
            io: Io::default(),
            config: Config::default(),
            left: BTreeSet::new(),
            before: None,
            gone: BTreeMap::new(),
            owed: Vec::new(),
            doing: Doing::Start,
            result: Released::default(),
        }
    }

    fn key(&self) -> Key {
        Key::Handle(Arc::clone(&self.handle))
    }

    fn learn(&mut self, event: Event) -> Result<Option<Request>, IpamError> {
        match (std::mem::replace(&mut self.doing, Doing::Blocks), event) {
            (Doing::Start, Event::Begin) => {
                self.doing = Doing::Handle;
                return Ok(Some(self.io.read(vec![Query::Get(Key::Config), Query::Get(self.key())])));
            }
            (Doing::Handle, Event::Read(found)) => {
                self.config = config_of(found.into_iter().next())?;
                match self.io.view.handle(&self.handle) {
                    Seen::Here(handle, revision) => {
                        self.left = handle.blocks.keys().copied().collect();
                        self.before = Some(revision);
                    }
                    Seen::Damaged(error) => return Err(IpamError::Stored((*error).clone())),
                    Seen::Absent | Seen::Unknown => return Err(IpamError::NotFound { key: self.key() }),
                }
            }
            (Doing::Writing { blocks, finish }, Event::Written { applied, failure, .. }) => {
                self.written(blocks, finish, applied, failure)?;
            }
            (Doing::Finishing, Event::Written { failure, .. }) => match failure {
                None => self.gone.clear(),
                Some(Failure::Conflict { .. }) => self.owe(None),
                Some(Failure::Unknown { .. }) => self.owe(self.before.clone()),
            },
            (Doing::Settling, Event::Written { failure, .. }) => {
                settled(&mut self.io, &mut self.owed, failure)?
            }
            _ => {}
        }
        Ok(None)
    }

    fn written(
        &mut self,
        blocks: Vec<Part>,
        finish: Option<usize>,
        applied: usize,
        failure: Option<Failure>,
    ) -> Result<(), IpamError> {
        for part in blocks {
            if applied > part.index {
                self.left.remove(&part.cidr);
                let gone = self.gone.entry(part.cidr).or_default();
                gone.count += part.addresses.len() as u32;
                gone.fenced = !part.deleted;
                self.result.released.extend(part.addresses);
            } else {
                self.io.view.forget(&Key::Block(part.cidr));
                if let Some(Failure::Unknown { .. }) = failure {
                    self.result.unallocated.extend(part.addresses);
                }
            }
        }
        match (finish, failure) {
            (_, None) => {
                if finish.is_some() {
                    self.gone.clear();
                }
            }
            (Some(at), Some(Failure::Conflict { index })) if index == at => self.owe(None),
            (Some(at), Some(Failure::Unknown { .. })) if applied == at => self.owe(self.before.clone()),
            _ => self.io.retry(&self.key())?,
        }
        Ok(())
    }

    /// The handle has changed since the blocks were read: lower it by what was let go.
    fn owe(&mut self, sent_at: Option<Revision>) {
        self.io.view.forget(&self.key());
        for (block, gone) in std::mem::take(&mut self.gone) {
            if gone.count > 0 {
                let (handle, count) = (Arc::clone(&self.handle), gone.count);
                self.owed.push(Debt { handle, block, count, sent_at: sent_at.clone() });
            }
        }
        // A lowering changes the revision, so only the first of several can be told apart.
        if sent_at.is_some() && self.owed.len() > 1 {
            self.owed.clear();
        }
    }

    fn plan(&mut self) -> Result<Option<Request>, IpamError> {
        if let Some(request) = settle(&mut self.io, &mut self.owed) {
            if matches!(request, Request::Write(_)) {
                self.doing = Doing::Settling;
            }
            return Ok(Some(request));
        }
        let chunk: Vec<IpNet> = self.left.iter().copied().take(BLOCKS_PER_BATCH).collect();
        // After a conflict the handle is read again, and before the blocks.
        if (!chunk.is_empty() || !self.gone.is_empty()) && !self.io.view.knows(&self.key()) {
            return Ok(Some(self.io.read(vec![Query::Get(self.key())])));
        }
        let unknown: Vec<Query> = chunk
            .iter()
            .map(|cidr| Key::Block(*cidr))
            .filter(|key| !self.io.view.knows(key))
            .map(Query::Get)
            .collect();
        if !unknown.is_empty() {
            self.doing = Doing::Blocks;
            return Ok(Some(self.io.read(unknown)));
        }
        let mut batch = Batch::default();
        let mut parts = Vec::new();
        for cidr in chunk {
            match self.io.view.block(cidr) {
                Seen::Here(block, revision) => {
                    let mut changed = (**block).clone();
                    let cooldown = i64::from(self.config.cooldown_seconds);
                    changed.collect(self.now, cooldown);
                    let done = changed.release_by_handle(&self.handle, self.now, cooldown);
                    changed.advance();
                    let leave =
                        changed.owner().filter(|owner| owner.is_virtual() && changed.is_empty()).cloned();
                    if let Some(request) = self.need_claim(leave.as_ref(), cidr) {
                        return Ok(Some(request));
                    }
                    let addresses = done.released.iter().map(|ordinal| changed.address(*ordinal)).collect();
                    let (part, at) = write_released(&self.io, changed, revision, leave.as_ref());
                    let index = append(&mut batch, part, at);
                    let deleted = batch.writes.get(index).is_some_and(|write| write.value.is_none());
                    parts.push(Part { cidr, index, addresses, deleted });
                }
                Seen::Damaged(error) => {
                    let error: StoredError = (*error).clone();
                    self.result.errors.push((cidr, IpamError::Stored(error)));
                    self.left.remove(&cidr);
                }
                // Its count cannot be dropped here: somebody may be about to create the block.
                // Garbage collection drops it when nobody has for long.
                Seen::Absent | Seen::Unknown => {
                    self.left.remove(&cidr);
                }
            }
        }
        let last = self.left.len() == parts.len();
        let finish = if last { self.finish(&parts) } else { None };
        if parts.is_empty() {
            let Some(write) = finish else { return Ok(None) };
            self.doing = Doing::Finishing;
            return Ok(Some(self.io.write(Batch { writes: vec![write] })));
        }
        let finish = finish.map(|write| {
            batch.writes.push(write);
            batch.writes.len() - 1
        });
        self.doing = Doing::Writing { blocks: parts, finish };
        Ok(Some(self.io.write(batch)))
    }

    fn need_claim(&mut self, owner: Option<&Owner>, cidr: IpNet) -> Option<Request> {
        let key = Key::Affinity(owner?.clone(), cidr);
        if self.io.view.knows(&key) {
            return None;
        }
        self.doing = Doing::Blocks;
        Some(self.io.read(vec![Query::Get(key)]))
    }

    /// The write that takes all blocks done so far, and those of this batch, out of the handle.
    fn finish(&mut self, parts: &[Part]) -> Option<Write> {
        let Seen::Here(handle, revision) = self.io.view.handle(&self.handle) else { return None };
        let unchanged = self.before.as_ref() == Some(&revision);
        let mut lowered = handle.clone();
        let mut all: BTreeMap<IpNet, Gone> = self.gone.clone();
        for part in parts {
            let gone = all.entry(part.cidr).or_default();
            gone.count += part.addresses.len() as u32;
            gone.fenced = !part.deleted;
        }
        for (block, gone) in &all {
            let whole = unchanged && gone.fenced;
            lowered.lower(block, if whole { u32::MAX } else { gone.count });
        }
        if lowered == *handle {
            return None;
        }
        Some(store_handle(&self.handle, lowered, revision))
    }
}

/// Appends the writes of one block to a batch and says where the write of the block ended up.
fn append(batch: &mut Batch, part: Batch, at: usize) -> usize {
    let base = batch.writes.len();
    batch.writes.extend(part.writes.into_iter().map(|mut write| {
        if let Expect::Earlier(index) = &mut write.expect {
            *index += base;
        }
        write
    }));
    base + at
}

impl Operation for ReleaseByHandle {
    type Output = Released;

    fn step(&mut self, answer: Answer) -> Result<Step<Released>, IpamError> {
        let event = self.io.absorb(answer)?;
        if let Some(request) = self.learn(event)? {
            return Ok(Step::Need(request));
        }
        if let Some(request) = self.plan()? {
            return Ok(Step::Need(request));
        }
        let mut result = std::mem::take(&mut self.result);
        result.released.extend(std::mem::take(&mut result.unallocated));
        result.released.sort_unstable();
        result.released.dedup();
        Ok(Step::Done(result))
    }
}

/// Finds the addresses of a handle. Blocks that cannot be used are left out.
#[derive(Debug, Clone)]
pub struct IpsByHandle {
    handle: Arc<str>,
    io: Io,
}

impl IpsByHandle {
    /// A look-up.
    #[must_use]
    pub fn new(handle: &str) -> Self {
        Self { handle: clean_handle(handle).into(), io: Io::default() }
    }
}

impl Operation for IpsByHandle {
    type Output = Vec<Assignment>;

    fn step(&mut self, answer: Answer) -> Result<Step<Vec<Assignment>>, IpamError> {
        let key = Key::Handle(Arc::clone(&self.handle));
        if let Event::Begin = self.io.absorb(answer)? {
            return Ok(Step::Need(self.io.read(vec![Query::Get(key)])));
        }
        let blocks: Vec<IpNet> = match self.io.view.handle(&self.handle) {
            Seen::Here(handle, _) => handle.blocks.keys().copied().collect(),
            Seen::Damaged(error) => return Err(IpamError::Stored((*error).clone())),
            Seen::Absent | Seen::Unknown => return Err(IpamError::NotFound { key }),
        };
        let unknown: Vec<Query> = blocks
            .iter()
            .map(|cidr| Key::Block(*cidr))
            .filter(|key| !self.io.view.knows(key))
            .map(Query::Get)
            .collect();
        if !unknown.is_empty() {
            return Ok(Step::Need(self.io.read(unknown)));
        }
        let mut found = Vec::new();
        for cidr in blocks {
            if let Seen::Here(block, _) = self.io.view.block(cidr) {
                found.extend(block.ordinals_of(&self.handle).map(|ordinal| Assignment {
                    address: block.address(ordinal),
                    block: cidr,
                    sequence: block.sequence_of(ordinal),
                }));
            }
        }
        Ok(Step::Done(found))
    }
}
