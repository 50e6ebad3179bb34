//! Releasing addresses by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use crate::attribute::{Owner, clean_handle};
use crate::block::{Block, ReleaseOptions};
use crate::commit::{release_claim, store_handle};
use crate::environment::{config_of, labels_of, many, pools_of};
use crate::error::IpamError;
use crate::io::{Event, Io, Seen};
use crate::pools::{Filter, Labels, Pool, pool_of};
use crate::range::Family;
use crate::store::{
    Answer, Batch, Config, Expect, Failure, Found, Key, Operation, Query, Request, Revision, Scope, Step,
    Stored, Write,
};

/// How many blocks are read at once.
const READ_AHEAD: usize = 32;

/// What a release did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Released {
    /// Addresses that are released now, ascending.
    pub released: Vec<std::net::IpAddr>,
    /// Addresses that were free or cooling already, or lie in no block, ascending.
    pub unallocated: Vec<std::net::IpAddr>,
    /// One entry per block that refused; the others are done all the same.
    pub errors: Vec<(IpNet, IpamError)>,
}

/// Releases addresses, each under its own conditions.
///
/// A wrong handle or sequence number fails all addresses of that block and no others.
#[derive(Debug, Clone)]
pub struct ReleaseIps {
    wanted: Vec<ReleaseOptions>,
    now: u64,
    io: Io,
    config: Config,
    pools: Vec<Arc<Pool>>,
    /// Addresses in no pool, to be found by listing all blocks.
    strays: Vec<ReleaseOptions>,
    tasks: BTreeMap<IpNet, Vec<ReleaseOptions>>,
    nodes: BTreeMap<Arc<str>, Option<Arc<Labels>>>,
    owed: Vec<Debt>,
    doing: Doing,
    result: Released,
    released: BTreeSet<std::net::IpAddr>,
}

/// A handle that still counts addresses its block has let go.
#[derive(Debug, Clone)]
pub(crate) struct Debt {
    pub(crate) handle: Arc<str>,
    pub(crate) block: IpNet,
    pub(crate) count: u32,
    /// Set when a lowering was sent and not answered: only if the handle still has this
    /// revision is it sure that the lowering did not take effect.
    pub(crate) sent_at: Option<Revision>,
}

#[derive(Debug, Clone)]
enum Doing {
    Start,
    Environment,
    Strays(Vec<Family>),
    Blocks,
    Node(Arc<str>),
    Writing(Writing),
    Settling,
}

#[derive(Debug, Clone)]
struct Writing {
    cidr: IpNet,
    /// Index of the write of the block.
    block: usize,
    /// Addresses that go with it.
    addresses: Vec<std::net::IpAddr>,
    unallocated: Vec<std::net::IpAddr>,
    debts: Vec<Debt>,
}

impl ReleaseIps {
    /// A release at `now` (Unix nanoseconds).
    #[must_use]
    pub fn new(wanted: Vec<ReleaseOptions>, now: u64) -> Self {
        Self {
            wanted,
            now,
            io: Io::default(),
            config: Config::default(),
            pools: Vec::new(),
            strays: Vec::new(),
            tasks: BTreeMap::new(),
            nodes: BTreeMap::new(),
            owed: Vec::new(),
            doing: Doing::Start,
            result: Released::default(),
            released: BTreeSet::new(),
        }
    }

    fn learn(&mut self, event: Event) -> Result<Option<Request>, IpamError> {
        match (std::mem::replace(&mut self.doing, Doing::Blocks), event) {
            (Doing::Start, Event::Begin) => {
                self.doing = Doing::Environment;
                return Ok(Some(self.io.read(vec![Query::Get(Key::Config), Query::List(Scope::Pools)])));
            }
            (Doing::Environment, Event::Read(found)) => {
                let mut found = found.into_iter();
                self.config = config_of(found.next())?;
                self.pools = pools_of(found.next())?;
                return Ok(self.sort_out());
            }
            (Doing::Strays(families), Event::Read(found)) => self.find_strays(&families, found)?,
            (Doing::Node(host), Event::Read(found)) => {
                let labels = labels_of(found.into_iter().next())?;
                self.nodes.insert(host, labels);
            }
            (Doing::Writing(writing), Event::Written { applied, failure, .. }) => {
                self.written(writing, applied, failure)?;
            }
            (Doing::Settling, Event::Written { failure, .. }) => {
                settled(&mut self.io, &mut self.owed, failure)?
            }
            _ => {}
        }
        Ok(None)
    }

    /// Finds the block of each address.
    fn sort_out(&mut self) -> Option<Request> {
        for options in std::mem::take(&mut self.wanted) {
            match pool_of(&self.pools, options.address).and_then(|pool| pool.block_of(options.address)) {
                Some(cidr) => self.tasks.entry(cidr).or_default().push(options),
                None => self.strays.push(options),
            }
        }
        let families: BTreeSet<Family> = self.strays.iter().map(|stray| Family::of(stray.address)).collect();
        if families.is_empty() {
            return None;
        }
        let families: Vec<Family> = families.into_iter().collect();
        let queries = families.iter().map(|family| Query::List(Scope::Blocks(*family))).collect();
        self.doing = Doing::Strays(families);
        Some(self.io.read(queries))
    }

    fn find_strays(&mut self, families: &[Family], found: Vec<Found>) -> Result<(), IpamError> {
        let mut blocks: BTreeMap<Family, Vec<IpNet>> = BTreeMap::new();
        for (family, found) in families.iter().zip(found) {
            let items = many(Some(found))?;
            let cidrs = items
                .iter()
                .filter_map(|item| if let Key::Block(cidr) = item.key { Some(cidr) } else { None });
            blocks.insert(*family, cidrs.collect());
        }
        for stray in std::mem::take(&mut self.strays) {
            let candidates = blocks.get(&Family::of(stray.address)).map(Vec::as_slice).unwrap_or_default();
            match candidates.iter().find(|cidr| cidr.contains(&stray.address)) {
                Some(cidr) => self.tasks.entry(*cidr).or_default().push(stray),
                None => self.result.unallocated.push(stray.address),
            }
        }
        Ok(())
    }

    fn written(
        &mut self,
        writing: Writing,
        applied: usize,
        failure: Option<Failure>,
    ) -> Result<(), IpamError> {
        let cidr = writing.cidr;
        let done = applied > writing.block;
        if done {
            self.finish(&writing);
            // A handle whose write did not take effect for certain is no longer in the view.
            for debt in writing.debts {
                if matches!(self.io.view.handle(&debt.handle), Seen::Unknown) {
                    let sent_at = match failure {
                        Some(Failure::Unknown { .. }) => debt.sent_at,
                        _ => None,
                    };
                    self.owed.push(Debt { sent_at, ..debt });
                }
            }
            return Ok(());
        }
        self.io.retry(&Key::Block(cidr))?;
        self.io.view.forget(&Key::Block(cidr));
        for debt in &writing.debts {
            self.io.view.forget(&Key::Handle(Arc::clone(&debt.handle)));
        }
        if let Some(Failure::Unknown { .. }) = failure {
            // Whatever is free when we look again is gone; the count of its handle stays too
            // high if it was us, which is safe and healed later.
            self.released.extend(writing.addresses);
        }
        Ok(())
    }

    fn finish(&mut self, writing: &Writing) {
        self.released.extend(writing.addresses.iter().copied());
        self.result.unallocated.extend(writing.unallocated.iter().copied());
        self.tasks.remove(&writing.cidr);
    }

    fn plan(&mut self) -> Result<Option<Request>, IpamError> {
        loop {
            if let Some(request) = settle(&mut self.io, &mut self.owed) {
                if matches!(request, Request::Write(_)) {
                    self.doing = Doing::Settling;
                }
                return Ok(Some(request));
            }
            let Some((&cidr, wanted)) = self.tasks.first_key_value() else { return Ok(None) };
            let wanted = wanted.clone();
            match self.io.view.block(cidr) {
                Seen::Unknown => return Ok(Some(self.look())),
                Seen::Absent => {
                    self.result.unallocated.extend(wanted.iter().map(|options| options.address));
                    self.tasks.remove(&cidr);
                }
                Seen::Damaged(error) => {
                    self.result.errors.push((cidr, IpamError::Stored((*error).clone())));
                    self.tasks.remove(&cidr);
                }
                Seen::Here(block, revision) => {
                    let block = Arc::clone(block);
                    if let Some(request) = self.release_from(&block, revision, &wanted)? {
                        return Ok(Some(request));
                    }
                }
            }
        }
    }

    fn look(&mut self) -> Request {
        let keys = self.tasks.keys().map(|cidr| Key::Block(*cidr)).filter(|key| !self.io.view.knows(key));
        let mut queries: Vec<Query> = keys.take(READ_AHEAD).map(Query::Get).collect();
        let handles: BTreeSet<&str> = self
            .tasks
            .values()
            .flatten()
            .filter_map(|options| options.handle.as_deref().map(clean_handle))
            .take(READ_AHEAD)
            .collect();
        let handles = handles.into_iter().map(|handle| Key::Handle(handle.into()));
        queries.extend(handles.filter(|key| !self.io.view.knows(key)).map(Query::Get));
        self.doing = Doing::Blocks;
        self.io.read(queries)
    }

    /// The next request for one block; `None` if it is done without one.
    fn release_from(
        &mut self,
        block: &Block,
        revision: Revision,
        wanted: &[ReleaseOptions],
    ) -> Result<Option<Request>, IpamError> {
        let cidr = block.cidr();
        let cooldown = i64::from(self.config.cooldown_seconds);
        let mut changed = block.clone();
        changed.collect(self.now, cooldown);
        let done = match changed.release(wanted, self.now, cooldown) {
            Ok(done) => done,
            Err(error) => {
                self.result.errors.push((cidr, IpamError::Block(error)));
                self.tasks.remove(&cidr);
                return Ok(None);
            }
        };
        if done.released.is_empty() {
            self.result.unallocated.extend(done.unallocated);
            self.tasks.remove(&cidr);
            return Ok(None);
        }
        let missing: Vec<Query> = done
            .handles
            .keys()
            .map(|handle| Key::Handle(Arc::clone(handle)))
            .filter(|key| !self.io.view.knows(key))
            .map(Query::Get)
            .collect();
        if !missing.is_empty() {
            self.doing = Doing::Blocks;
            return Ok(Some(self.io.read(missing)));
        }
        let leave = match self.should_leave(&changed) {
            Leave::Ask(request) => return Ok(Some(request)),
            Leave::Yes(owner) => Some(owner),
            Leave::No => None,
        };
        changed.advance();
        let addresses = done.released.iter().map(|ordinal| changed.address(*ordinal)).collect();
        let (mut batch, at) = write_released(&self.io, changed, revision, leave.as_ref());
        let mut debts = Vec::new();
        for (handle, count) in done.handles {
            if let Some((write, sent_at)) = lower_handle(&self.io, &handle, cidr, count) {
                batch.writes.push(write);
                debts.push(Debt { handle, block: cidr, count, sent_at: Some(sent_at) });
            }
        }
        self.doing =
            Doing::Writing(Writing { cidr, block: at, addresses, unallocated: done.unallocated, debts });
        Ok(Some(self.io.write(batch)))
    }

    /// Whether the owner should lose a block that has become empty.
    fn should_leave(&mut self, block: &Block) -> Leave {
        if !block.is_empty() {
            return Leave::No;
        }
        let Some(owner) = block.owner().cloned() else { return Leave::No };
        let wanted = match &owner {
            // Nobody else would ever give up the blocks of a virtual owner.
            Owner::Virtual(_) => true,
            Owner::Host(host) => {
                let pool = self.pools.iter().find(|pool| pool.cidr.contains(&block.cidr()));
                match pool.map(|pool| &pool.nodes) {
                    Some(Filter::All) => false,
                    None => true,
                    Some(filter) => match self.nodes.get(host) {
                        None => {
                            self.doing = Doing::Node(Arc::clone(host));
                            let query = Query::Get(Key::Node(Arc::clone(host)));
                            return Leave::Ask(self.io.read(vec![query]));
                        }
                        Some(labels) => labels.as_ref().is_some_and(|labels| !filter.matches(labels)),
                    },
                }
            }
        };
        if !wanted {
            return Leave::No;
        }
        let key = Key::Affinity(owner.clone(), block.cidr());
        if !self.io.view.knows(&key) {
            self.doing = Doing::Blocks;
            return Leave::Ask(self.io.read(vec![Query::Get(key)]));
        }
        Leave::Yes(owner)
    }
}

enum Leave {
    No,
    Yes(Owner),
    Ask(Request),
}

/// The writes that store a block after a release: it is deleted if it is empty and nobody's,
/// or if its owner leaves it. Says which of them writes the block.
pub(crate) fn write_released(
    io: &Io,
    block: Block,
    revision: Revision,
    leave: Option<&Owner>,
) -> (Batch, usize) {
    let cidr = block.cidr();
    let key = Key::Block(cidr);
    let empty = block.is_empty();
    if let Some(owner) = leave.filter(|_| empty) {
        // The block is deleted at the revision it was read at, so it need not be written first.
        let mut view = io.view.clone();
        let value = Stored::Block(Arc::new(block));
        view.put(crate::store::Item { key: key.clone(), value, revision: revision.clone() });
        if let Some(batch) = release_claim(&view, owner, cidr)
            && let Some(at) = batch.writes.iter().position(|write| write.key == key)
        {
            return (batch, at);
        }
        return (Batch { writes: vec![Write { key, value: None, expect: Expect::Revision(revision) }] }, 0);
    }
    let value = if empty && block.owner().is_none() { None } else { Some(Stored::Block(Arc::new(block))) };
    (Batch { writes: vec![Write { key, value, expect: Expect::Revision(revision) }] }, 0)
}

/// The write that counts fewer addresses of a block in a handle, and the revision it builds on.
pub(crate) fn lower_handle(io: &Io, id: &Arc<str>, block: IpNet, count: u32) -> Option<(Write, Revision)> {
    match io.view.handle(id) {
        Seen::Here(handle, revision) => {
            let mut handle = handle.clone();
            handle.lower(&block, count);
            Some((store_handle(id, handle, revision.clone()), revision))
        }
        _ => None,
    }
}

/// Lowers the handles that still count released addresses; `None` when none does.
pub(crate) fn settle(io: &mut Io, owed: &mut Vec<Debt>) -> Option<Request> {
    while let Some(debt) = owed.last() {
        match io.view.handle(&debt.handle) {
            Seen::Unknown => return Some(io.read(vec![Query::Get(Key::Handle(Arc::clone(&debt.handle)))])),
            Seen::Here(_, revision) if debt.sent_at.as_ref().is_none_or(|sent| *sent == revision) => {
                if let Some((write, _)) = lower_handle(io, &debt.handle, debt.block, debt.count) {
                    return Some(io.write(Batch { writes: vec![write] }));
                }
            }
            _ => {}
        }
        owed.pop();
    }
    None
}

/// Takes the answer to a lowering sent by [`settle`].
pub(crate) fn settled(io: &mut Io, owed: &mut Vec<Debt>, failure: Option<Failure>) -> Result<(), IpamError> {
    match failure {
        Some(Failure::Conflict { .. }) => {
            if let Some(debt) = owed.last() {
                io.retry(&Key::Handle(Arc::clone(&debt.handle)))?;
            }
        }
        // Lowered, or lowered perhaps: counting too much is safe, lowering twice is not.
        None | Some(Failure::Unknown { .. }) => {
            owed.pop();
        }
    }
    Ok(())
}

impl Operation for ReleaseIps {
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
        result.unallocated.retain(|address| !self.released.contains(address));
        result.unallocated.sort_unstable();
        result.unallocated.dedup();
        result.released = std::mem::take(&mut self.released).into_iter().collect();
        Ok(Step::Done(result))
    }
}
