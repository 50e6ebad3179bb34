//! The search of one family: the host's blocks first, then a new one, then an abandoned one,
//! then anybody's.
//!
//! The search is planned anew from what is known after every answer: what is missing is asked
//! for, what has changed under our feet is forgotten and asked for again. So conflicts need no
//! states of their own.

mod cap;
mod elsewhere;

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
use smallvec::SmallVec;

use crate::affinity::State;
use crate::assign::{Assignment, AutoAssignArgs, FamilyResult, LimitSource, Note};
use crate::attribute::{Attribute, Owner};
use crate::block::{Block, HostReservation};
use crate::commit::{Charge, Roles, raise_handle, release_claim, write_block};
use crate::environment::{Environment, many};
use crate::error::IpamError;
use crate::io::{Event, Io, Seen};
use crate::pools::{Criteria, Labels, Pool};
use crate::range::Family;
use crate::store::{Failure, Item, Key, Query, Request, Scope};

/// Blocks a host may own per family when nobody says otherwise.
pub const DEFAULT_MAX_BLOCKS: u32 = 20;

/// An empty block of another owner is left alone for this long after its claim.
const RECLAIM_AFTER_SECONDS: u64 = 60;

/// How many of the host's blocks are read at once.
const READ_AHEAD: usize = 16;

/// What a search works with.
pub(crate) struct Context<'a> {
    pub(crate) args: &'a AutoAssignArgs,
    pub(crate) owner: &'a Owner,
    pub(crate) attribute: &'a Arc<Attribute>,
    pub(crate) environment: &'a Environment,
    pub(crate) now: u64,
    pub(crate) io: &'a mut Io,
    pub(crate) charge: &'a mut Option<Charge>,
}

/// The write that is under way.
#[derive(Debug, Clone)]
struct Attempt {
    cidr: IpNet,
    ordinals: SmallVec<[u16; 4]>,
    /// The sequence number the allocations carry.
    sequence: u64,
    roles: Roles,
    borrowed_from: Option<Option<Owner>>,
}

#[derive(Debug, Clone)]
enum Doing {
    Nothing,
    /// Blocks, claims or the handle are read.
    Looking,
    /// All blocks of the family are listed.
    Listing,
    /// The addresses the handle already has are read.
    CountingHandle,
    Writing(Attempt),
    /// An answer was lost; the objects are read to see what happened.
    Recognising(Attempt),
    /// A claim to somebody else's block is deleted.
    Dropping(IpNet),
    /// An abandoned block is taken away.
    Reclaiming(IpNet),
}

#[derive(Debug, Clone)]
pub(crate) struct Search {
    family: Family,
    wanted: usize,
    /// Only a block is wanted, no address.
    ensure: bool,
    ensured: bool,
    host_reservation: HostReservation,
    pools: Vec<Arc<Pool>>,
    limit: u32,
    limit_source: LimitSource,
    /// Blocks to try for the owner, in order; those that turn out useless are removed.
    candidates: Vec<IpNet>,
    /// Blocks the owner has or is about to have.
    owned: u32,
    /// All blocks of the family, once listed.
    listed: Option<Arc<[Item]>>,
    /// Attempts when the list was read: a newer conflict makes it worth another look.
    listed_at: u32,
    /// Positions that were lost to others or whose blocks are useless for this search.
    lost: BTreeSet<IpNet>,
    /// Abandoned blocks that were looked at.
    reclaim_tried: BTreeSet<IpNet>,
    /// Other owners' blocks without room.
    borrow_tried: BTreeSet<IpNet>,
    doing: Doing,
    result: FamilyResult,
}

static NO_LABELS: Labels = Labels::new();

impl Search {
    pub(crate) fn new(
        args: &AutoAssignArgs,
        owner: &Owner,
        environment: &Environment,
        family: Family,
        claims: Vec<IpNet>,
        ensure: bool,
    ) -> Result<Self, IpamError> {
        let request = args.family(family);
        let reservation = request.reservation;
        if reservation != HostReservation::default() && !environment.config.strict_affinity {
            return Err(IpamError::WindowsNeedsStrictAffinity);
        }
        let longest_block = if reservation == HostReservation::default() {
            family.bits()
        } else {
            reservation.max_prefix(family)
        };
        let intended = args.intended_use.ok_or(IpamError::NoIntendedUse)?;
        let node: &Labels = if owner.is_virtual() { &NO_LABELS } else { &environment.node };
        let criteria = Criteria {
            family,
            requested: &request.pools,
            node,
            namespace: &environment.namespace,
            intended,
            longest_block,
        };
        let pools = criteria.select(&environment.pools, &args.host)?;
        let mut candidates = claims;
        candidates.retain(|cidr| pool_with(&pools, cidr).is_some());
        let (limit, limit_source) = block_limit(args.max_blocks, environment.config.max_blocks_per_host);
        Ok(Self {
            family,
            wanted: if ensure { 0 } else { request.count as usize },
            ensure,
            ensured: false,
            host_reservation: reservation,
            pools,
            limit,
            limit_source,
            owned: candidates.len() as u32,
            candidates,
            listed: None,
            listed_at: 0,
            lost: BTreeSet::new(),
            reclaim_tried: BTreeSet::new(),
            borrow_tried: BTreeSet::new(),
            doing: Doing::Nothing,
            result: FamilyResult {
                family,
                requested: if ensure { 0 } else { request.count },
                assigned: Vec::new(),
                notes: Vec::new(),
            },
        })
    }

    pub(crate) fn take_result(&mut self) -> FamilyResult {
        let empty =
            FamilyResult { family: self.family, requested: 0, assigned: Vec::new(), notes: Vec::new() };
        std::mem::replace(&mut self.result, empty)
    }

    /// Takes the answer to the last request of this search and plans the next; `None` when the
    /// search is over.
    pub(crate) fn run(
        &mut self,
        context: &mut Context<'_>,
        event: Option<Event>,
    ) -> Result<Option<Request>, IpamError> {
        if let Some(event) = event {
            self.learn(context, event)?;
        }
        self.plan(context)
    }

    fn learn(&mut self, context: &mut Context<'_>, event: Event) -> Result<(), IpamError> {
        match (std::mem::replace(&mut self.doing, Doing::Nothing), event) {
            (Doing::Listing, Event::Read(found)) => {
                self.listed = Some(many(found.into_iter().next())?);
                self.listed_at = context.io.attempts;
            }
            (Doing::Recognising(attempt), Event::Read(_)) => self.recognise(context, attempt),
            (Doing::Writing(attempt), Event::Written { applied, revisions, failure }) => {
                if let Some(role) = attempt.roles.handle {
                    // The counted addresses are either in the block now, or still to be.
                    *context.charge = None;
                    if applied <= attempt.roles.block
                        && let Some(revision) = revisions.get(role)
                    {
                        let count = attempt.ordinals.len() as u32;
                        *context.charge =
                            Some(Charge { block: attempt.cidr, count, revision: revision.clone() });
                    }
                }
                if applied > attempt.roles.block {
                    if self.ensure && failure.is_some() {
                        // The block is ours; whether the claim is confirmed shows when we look.
                        context.io.retry(&Key::Block(attempt.cidr))?;
                        self.forget(context, attempt.cidr);
                        return Ok(());
                    }
                    self.ensured = self.ensure;
                    self.succeed(context, attempt);
                    return Ok(());
                }
                context.io.retry(&Key::Block(attempt.cidr))?;
                self.forget(context, attempt.cidr);
                if matches!(failure, Some(Failure::Unknown { index }) if index <= attempt.roles.block) {
                    if self.ensure {
                        // Looking again tells: the block is there and ours, or it is not.
                        return Ok(());
                    }
                    if context.args.handle.is_none() {
                        return Err(IpamError::OutcomeUnknown { key: Key::Block(attempt.cidr) });
                    }
                    self.doing = Doing::Recognising(attempt);
                }
            }
            (Doing::Dropping(cidr), Event::Written { failure, .. }) => {
                if failure.is_some() {
                    context.io.retry(&Key::Block(cidr))?;
                    self.forget(context, cidr);
                } else {
                    self.discard(cidr);
                }
            }
            (Doing::Reclaiming(cidr), Event::Written { failure: None, .. }) => self.adopt(context, cidr),
            _ => {}
        }
        Ok(())
    }

    fn plan(&mut self, context: &mut Context<'_>) -> Result<Option<Request>, IpamError> {
        if let Doing::Recognising(attempt) = &self.doing {
            let queries = self.both(context, attempt.cidr);
            return Ok(Some(context.io.read(queries)));
        }
        if self.result.assigned.len() < self.wanted
            && let Some(request) = self.check_cap(context)?
        {
            return Ok(Some(request));
        }
        loop {
            if self.is_satisfied() {
                return Ok(None);
            }
            if let Some(request) = self.plan_own(context)? {
                return Ok(Some(request));
            }
            if self.is_satisfied() {
                return Ok(None);
            }
            let may_claim = context.environment.config.auto_allocate_blocks && self.owned < self.limit;
            if may_claim {
                if let Some(request) = self.need_list(context) {
                    return Ok(Some(request));
                }
                if self.plan_new(context) {
                    continue;
                }
                if let Some(request) = self.plan_reclaim(context) {
                    return Ok(Some(request));
                }
            }
            return self.plan_borrow(context);
        }
    }

    fn is_satisfied(&self) -> bool {
        if self.ensure { self.ensured } else { self.result.assigned.len() >= self.wanted }
    }

    /// Walks the owner's blocks and writes to the first with room.
    fn plan_own(&mut self, context: &mut Context<'_>) -> Result<Option<Request>, IpamError> {
        while let Some(&cidr) = self.candidates.first() {
            if context.environment.reservations.covers(&cidr) {
                self.candidates.remove(0);
                continue;
            }
            let affinity = context.io.view.affinity(context.owner, cidr);
            match (context.io.view.block(cidr), affinity) {
                (Seen::Unknown, _) | (_, Seen::Unknown) => return Ok(Some(self.look(context))),
                (Seen::Damaged(error), _) => {
                    self.note(Note::DamagedBlock { block: cidr, reason: error.to_string() });
                    self.candidates.remove(0);
                }
                (Seen::Here(block, _), affinity) if !block.is_owned_by(context.owner) => {
                    let Seen::Here(..) = affinity else {
                        self.discard(cidr);
                        continue;
                    };
                    let Some(batch) = release_claim(&context.io.view, context.owner, cidr) else {
                        self.discard(cidr);
                        continue;
                    };
                    self.doing = Doing::Dropping(cidr);
                    return Ok(Some(context.io.write(batch)));
                }
                (Seen::Here(block, _), affinity) if self.ensure => {
                    if matches!(affinity, Seen::Here(affinity, _) if affinity.state == State::Confirmed) {
                        self.ensured = true;
                        return Ok(None);
                    }
                    let block = (**block).clone();
                    return Ok(Some(self.claim_only(context, block)));
                }
                (Seen::Here(block, _), _) => {
                    let block = Arc::clone(block);
                    if let Some(request) = self.assign_from(context, &block, true)? {
                        return Ok(Some(request));
                    }
                    self.candidates.remove(0);
                }
                (Seen::Absent, _) => {
                    let Some(pool) = pool_with(&self.pools, &cidr) else {
                        self.candidates.remove(0);
                        continue;
                    };
                    if pool.block_size != cidr.prefix_len() {
                        self.discard(cidr);
                        continue;
                    }
                    let block = Block::new(cidr, context.owner.clone(), context.now, self.host_reservation)?;
                    if self.ensure {
                        return Ok(Some(self.claim_only(context, block)));
                    }
                    if let Some(request) = self.assign_from(context, &block, true)? {
                        return Ok(Some(request));
                    }
                    self.candidates.remove(0);
                }
            }
        }
        Ok(None)
    }

    /// Takes what is still wanted from a block and writes it; `None` if it has no room.
    fn assign_from(
        &mut self,
        context: &mut Context<'_>,
        block: &Block,
        own: bool,
    ) -> Result<Option<Request>, IpamError> {
        let cidr = block.cidr();
        let mask = context.environment.reservations.mask(&cidr, block.size());
        let cooling = block.attributes().iter().any(|attribute| attribute.is_cooling());
        if block.available(mask.as_ref()) == 0 && !cooling {
            return Ok(None);
        }
        let mut changed = block.clone();
        changed.collect(context.now, context.environment.cooldown());
        let left = self.wanted.saturating_sub(self.result.assigned.len());
        let must_own = own.then_some(context.owner);
        let ordinals = changed.auto_assign(left, context.attribute, mask.as_ref(), must_own)?;
        if ordinals.is_empty() {
            return Ok(None);
        }
        let sequence = changed.sequence();
        changed.advance();
        let handle = match &context.args.handle {
            Some(id) => {
                let charge = context.charge.as_ref();
                Some(raise_handle(&context.io.view, id, charge, cidr, ordinals.len() as u32)?)
            }
            None => None,
        };
        let borrowed_from = (!own).then(|| changed.owner().cloned());
        let claimant = own.then_some(context.owner);
        let (batch, roles) = write_block(&context.io.view, claimant, changed, handle);
        self.doing = Doing::Writing(Attempt { cidr, ordinals, sequence, roles, borrowed_from });
        Ok(Some(context.io.write(batch)))
    }

    /// Claims a block and takes nothing from it.
    fn claim_only(&mut self, context: &mut Context<'_>, mut block: Block) -> Request {
        let (cidr, sequence) = (block.cidr(), block.sequence());
        block.advance();
        let (batch, roles) = write_block(&context.io.view, Some(context.owner), block, None);
        self.doing =
            Doing::Writing(Attempt { cidr, ordinals: SmallVec::new(), sequence, roles, borrowed_from: None });
        context.io.write(batch)
    }

    fn succeed(&mut self, context: &mut Context<'_>, attempt: Attempt) {
        if let Seen::Here(block, _) = context.io.view.block(attempt.cidr) {
            let assigned = attempt.ordinals.iter().map(|ordinal| Assignment {
                address: block.address(*ordinal),
                block: attempt.cidr,
                sequence: attempt.sequence,
            });
            self.result.assigned.extend(assigned);
        }
        if let Some(owner) = attempt.borrowed_from {
            self.note(Note::Borrowed { block: attempt.cidr, owner });
        }
    }

    /// Whether a write whose answer was lost took effect: the block then holds exactly what we
    /// meant to write, under our handle and with the sequence number of that write.
    fn recognise(&mut self, context: &mut Context<'_>, attempt: Attempt) {
        let written = match context.io.view.block(attempt.cidr) {
            Seen::Here(block, _) => attempt.ordinals.iter().all(|ordinal| {
                block.sequence_of(*ordinal) == attempt.sequence
                    && block.attribute(*ordinal).is_some_and(|attribute| attribute == context.attribute)
            }),
            _ => false,
        };
        if written {
            self.succeed(context, attempt);
        }
    }

    /// Asks for the blocks and claims of the next candidates.
    fn look(&mut self, context: &mut Context<'_>) -> Request {
        let mut queries = Vec::new();
        let conflict = context.io.attempts > 0;
        let ahead = if conflict { 1 } else { READ_AHEAD };
        for &cidr in self.candidates.iter().take(ahead) {
            for key in [Key::Affinity(context.owner.clone(), cidr), Key::Block(cidr)] {
                if !context.io.view.knows(&key) {
                    queries.push(Query::Get(key));
                }
            }
        }
        self.doing = Doing::Looking;
        if let Some(id) = &context.args.handle {
            let key = Key::Handle(Arc::clone(id));
            if !context.io.view.knows(&key) {
                queries.push(Query::Get(key));
            }
        }
        context.io.read(queries)
    }

    fn both(&self, context: &Context<'_>, cidr: IpNet) -> Vec<Query> {
        let mut keys = vec![Key::Affinity(context.owner.clone(), cidr), Key::Block(cidr)];
        keys.extend(context.args.handle.clone().map(Key::Handle));
        keys.into_iter().map(Query::Get).collect()
    }

    /// Forgets all objects that a write to a block depends on.
    fn forget(&self, context: &mut Context<'_>, cidr: IpNet) {
        context.io.view.forget(&Key::Affinity(context.owner.clone(), cidr));
        context.io.view.forget(&Key::Block(cidr));
        if let Some(id) = &context.args.handle {
            context.io.view.forget(&Key::Handle(Arc::clone(id)));
        }
    }

    fn need_list(&mut self, context: &mut Context<'_>) -> Option<Request> {
        if self.listed.is_some() {
            return None;
        }
        self.doing = Doing::Listing;
        Some(context.io.read(vec![Query::List(Scope::Blocks(self.family))]))
    }

    /// A candidate that is not the owner's.
    fn discard(&mut self, cidr: IpNet) {
        self.candidates.retain(|known| *known != cidr);
        self.lost.insert(cidr);
        self.owned = self.owned.saturating_sub(1);
    }

    fn give_reasons(&mut self, context: &Context<'_>, strict: bool) {
        if !context.environment.config.auto_allocate_blocks {
            self.note(Note::AutoAllocateOff);
        } else if self.owned >= self.limit {
            self.note(Note::BlockLimit { limit: self.limit, source: self.limit_source });
        }
        if strict {
            self.note(Note::StrictAffinity);
        } else {
            self.note(Note::PoolsExhausted { pools: self.pools.iter().map(|pool| pool.cidr).collect() });
        }
    }

    fn note(&mut self, note: Note) {
        if !self.result.notes.contains(&note) {
            self.result.notes.push(note);
        }
    }
}

fn pool_with<'a>(pools: &'a [Arc<Pool>], block: &IpNet) -> Option<&'a Arc<Pool>> {
    pools.iter().find(|pool| pool.cidr.contains(block))
}

fn block_cidr(item: &Item) -> Option<IpNet> {
    match item.key {
        Key::Block(cidr) => Some(cidr),
        _ => None,
    }
}

/// The number of blocks a host may own and who says so.
pub(crate) fn block_limit(requested: Option<u32>, global: u32) -> (u32, LimitSource) {
    match requested {
        Some(limit) if limit > 0 && (global == 0 || limit <= global) => (limit, LimitSource::Request),
        _ if global > 0 => (global, LimitSource::Configuration),
        _ => (DEFAULT_MAX_BLOCKS, LimitSource::BuiltIn),
    }
}
