//! AssignIP: one address, asked for by name.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::assign::Assignment;
use crate::attribute::{Attribute, Owner, clean_handle};
use crate::block::{Block, HostReservation};
use crate::commit::{Charge, Roles, raise_handle, release_claim, store_handle, write_block};
use crate::environment::{config_of, labels_of, pools_of, reservations_of};
use crate::error::{BlockError, IpamError};
use crate::housekeeping::Housekeeping;
use crate::io::{Event, Io, Seen};
use crate::pools::{IntendedUse, Pool};
use crate::range::Family;
use crate::store::{Answer, Batch, Config, Failure, Found, Key, Operation, Query, Request, Scope, Step};

/// A request for one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignIpArgs {
    /// The address.
    pub address: IpAddr,
    /// The host that claims the block if nobody has yet.
    pub host: Arc<str>,
    /// The handle to release it by.
    pub handle: Option<Arc<str>>,
    /// Stored beside the address.
    pub attributes: BTreeMap<String, String>,
    /// Checked against the uses of the pool when given.
    pub intended_use: Option<IntendedUse>,
    /// Addresses the handle may hold per family. When set, finding the address assigned to the
    /// same handle already is success.
    pub max_per_handle: Option<u32>,
    /// Refuse an address that automatic assignment would not give: reserved, or from a pool
    /// that does not select the host. Without this they are only remarked on.
    pub refuse_exceptions: bool,
}

impl AssignIpArgs {
    /// A request without further wishes.
    #[must_use]
    pub fn new(address: IpAddr, host: &str, handle: &str) -> Self {
        Self {
            address,
            host: host.into(),
            handle: Some(handle.into()),
            attributes: BTreeMap::new(),
            intended_use: None,
            max_per_handle: None,
            refuse_exceptions: false,
        }
    }
}

/// A rule of automatic assignment that an address asked for by name does not follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exception {
    /// The address lies in an IPReservation.
    Reserved,
    /// The pool's node selector does not select the host.
    NodeNotSelected {
        /// The pool.
        pool: Arc<str>,
    },
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reserved => f.write_str("the address lies in an IPReservation"),
            Self::NodeNotSelected { pool } => {
                write!(f, "the nodeSelector of pool {pool} does not select the node")
            }
        }
    }
}

/// What an AssignIP yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignedIp {
    /// The address.
    pub assignment: Assignment,
    /// Rules it does not follow, worth a warning.
    pub exceptions: Vec<Exception>,
}

/// Assigns one address by name.
#[derive(Debug, Clone)]
pub struct AssignIp {
    args: AssignIpArgs,
    now: u64,
    owner: Owner,
    attribute: Arc<Attribute>,
    config: Config,
    exceptions: Vec<Exception>,
    /// The block of the address, once the pool is known.
    cidr: Option<IpNet>,
    io: Io,
    charge: Option<Charge>,
    doing: Doing,
    outcome: Option<Result<Assignment, IpamError>>,
    uncharges: u32,
}

#[derive(Debug, Clone)]
enum Doing {
    Start,
    Environment,
    Looking,
    Dropping,
    Writing { ordinal: u16, sequence: u64, roles: Roles },
    Recognising { ordinal: u16, sequence: u64 },
    Uncharging,
    Tidying(Box<Housekeeping>),
}

impl AssignIp {
    /// An operation at `now` (Unix nanoseconds).
    #[must_use]
    pub fn new(mut args: AssignIpArgs, now: u64) -> Self {
        let handle = args.handle.as_deref().map(clean_handle);
        let attribute = Arc::new(Attribute::new(handle, std::mem::take(&mut args.attributes)));
        args.handle.clone_from(&attribute.handle);
        let owner = if args.intended_use == Some(IntendedUse::LoadBalancer) {
            Owner::Virtual(Arc::clone(&args.host))
        } else {
            Owner::Host(Arc::clone(&args.host))
        };
        Self {
            args,
            now,
            owner,
            attribute,
            config: Config::default(),
            exceptions: Vec::new(),
            cidr: None,
            io: Io::default(),
            charge: None,
            doing: Doing::Start,
            outcome: None,
            uncharges: 0,
        }
    }

    fn first_read(&mut self) -> Request {
        let mut queries =
            vec![Query::Get(Key::Config), Query::List(Scope::Pools), Query::List(Scope::Reservations)];
        if !self.owner.is_virtual() {
            queries.push(Query::Get(Key::Node(Arc::clone(&self.args.host))));
        }
        queries.extend(self.args.handle.clone().map(|id| Query::Get(Key::Handle(id))));
        self.doing = Doing::Environment;
        self.io.read(queries)
    }

    fn take_first_read(&mut self, found: Vec<Found>) -> Result<(), IpamError> {
        let address = self.args.address;
        let mut found = found.into_iter();
        self.config = config_of(found.next())?;
        let pools = pools_of(found.next())?;
        let reservations = reservations_of(found.next())?;
        let node = if self.owner.is_virtual() { None } else { labels_of(found.next())? };
        let holds = |pool: &&Arc<Pool>| pool.enabled && pool.cidr.contains(&address);
        let pool = pools.iter().find(holds).ok_or(IpamError::NotInPool { address })?;
        if let Some(intended) = self.args.intended_use
            && !pool.allows(intended)
        {
            return Err(IpamError::UseNotAllowed {
                pool: pool.name.to_string(),
                intended: intended.to_string(),
                allowed: pool.uses.iter().map(ToString::to_string).collect(),
            });
        }
        if reservations.contains(address) {
            self.exceptions.push(Exception::Reserved);
        }
        if node.is_some_and(|labels| !pool.nodes.matches(&labels)) {
            self.exceptions.push(Exception::NodeNotSelected { pool: Arc::clone(&pool.name) });
        }
        if self.args.refuse_exceptions
            && let Some(exception) = self.exceptions.first()
        {
            return Err(IpamError::Refused { address, exception: exception.clone() });
        }
        self.cidr = pool.block_of(address);
        Ok(())
    }

    fn learn(&mut self, event: Event) -> Result<Option<Request>, IpamError> {
        match (std::mem::replace(&mut self.doing, Doing::Looking), event) {
            (Doing::Start, Event::Begin) => {
                if self.args.host.trim().is_empty() {
                    return Err(IpamError::NoHost);
                }
                return Ok(Some(self.first_read()));
            }
            (Doing::Environment, Event::Read(found)) => self.take_first_read(found)?,
            (Doing::Recognising { ordinal, sequence }, Event::Read(_)) => self.recognise(ordinal, sequence),
            (Doing::Writing { ordinal, sequence, roles }, Event::Written { applied, revisions, failure }) => {
                self.charge = None;
                if applied > roles.block {
                    self.succeed(ordinal, sequence);
                    return Ok(None);
                }
                let Some(cidr) = self.cidr else { return Ok(None) };
                if let Some(revision) = roles.handle.and_then(|at| revisions.get(at)) {
                    self.charge = Some(Charge { block: cidr, count: 1, revision: revision.clone() });
                }
                self.io.retry(&Key::Block(cidr))?;
                self.forget(cidr);
                if matches!(failure, Some(Failure::Unknown { .. })) {
                    if self.args.handle.is_none() {
                        return Err(IpamError::OutcomeUnknown { key: Key::Block(cidr) });
                    }
                    self.doing = Doing::Recognising { ordinal, sequence };
                }
            }
            (Doing::Dropping, Event::Written { failure, .. }) => {
                if let (Some(_), Some(cidr)) = (failure, self.cidr) {
                    self.io.retry(&Key::Block(cidr))?;
                    self.forget(cidr);
                }
            }
            (Doing::Uncharging, Event::Written { failure: None, .. }) => self.charge = None,
            (Doing::Tidying(mut tidy), event) => {
                let request = tidy.run(&mut self.io, Some(event));
                self.doing = Doing::Tidying(tidy);
                return Ok(request);
            }
            _ => {}
        }
        Ok(None)
    }

    fn forget(&mut self, cidr: IpNet) {
        for key in self.keys(cidr) {
            self.io.view.forget(&key);
        }
    }

    fn keys(&self, cidr: IpNet) -> Vec<Key> {
        let mut keys = vec![Key::Affinity(self.owner.clone(), cidr), Key::Block(cidr)];
        keys.extend(self.args.handle.clone().map(Key::Handle));
        keys
    }

    fn succeed(&mut self, ordinal: u16, sequence: u64) {
        if let Some(cidr) = self.cidr
            && let Seen::Here(block, _) = self.io.view.block(cidr)
        {
            let address = block.address(ordinal);
            self.outcome = Some(Ok(Assignment { address, block: cidr, sequence }));
        }
    }

    fn recognise(&mut self, ordinal: u16, sequence: u64) {
        if let Some(cidr) = self.cidr
            && let Seen::Here(block, _) = self.io.view.block(cidr)
            && block.sequence_of(ordinal) == sequence
            && block.attribute(ordinal) == Some(&self.attribute)
        {
            self.succeed(ordinal, sequence);
        }
    }

    fn plan(&mut self) -> Result<Option<Request>, IpamError> {
        let Some(cidr) = self.cidr else { return Ok(None) };
        loop {
            if self.outcome.is_some() {
                return Ok(self.wind_up(cidr));
            }
            let unknown: Vec<Query> =
                self.keys(cidr).into_iter().filter(|key| !self.io.view.knows(key)).map(Query::Get).collect();
            if !unknown.is_empty() {
                if !matches!(self.doing, Doing::Recognising { .. }) {
                    self.doing = Doing::Looking;
                }
                return Ok(Some(self.io.read(unknown)));
            }
            let (block, own) = match self.io.view.block(cidr) {
                Seen::Damaged(error) => return Err(IpamError::Stored((*error).clone())),
                Seen::Here(block, _) => ((**block).clone(), block.is_owned_by(&self.owner)),
                Seen::Absent | Seen::Unknown => {
                    (Block::new(cidr, self.owner.clone(), self.now, HostReservation::default())?, true)
                }
            };
            if !own
                && matches!(self.io.view.affinity(&self.owner, cidr), Seen::Here(..))
                && let Some(batch) = release_claim(&self.io.view, &self.owner, cidr)
            {
                // Our claim lost, or is stale.
                self.doing = Doing::Dropping;
                return Ok(Some(self.io.write(batch)));
            }
            match self.assign(block, own) {
                Ok(request) => return Ok(Some(request)),
                Err(error) => self.outcome = Some(self.already(cidr, error)),
            }
        }
    }

    fn assign(&mut self, mut block: Block, own: bool) -> Result<Request, IpamError> {
        let cidr = block.cidr();
        block.collect(self.now, i64::from(self.config.cooldown_seconds));
        let must_own = self.config.strict_affinity.then_some(&self.owner);
        let ordinal = block.assign(self.args.address, &self.attribute, must_own)?;
        let sequence = block.sequence();
        block.advance();
        let handle = match &self.args.handle {
            Some(id) => {
                self.check_cap(id)?;
                Some(raise_handle(&self.io.view, id, self.charge.as_ref(), cidr, 1)?)
            }
            None => None,
        };
        let (batch, roles) = write_block(&self.io.view, own.then_some(&self.owner), block, handle);
        self.doing = Doing::Writing { ordinal, sequence, roles };
        Ok(self.io.write(batch))
    }

    fn check_cap(&self, id: &Arc<str>) -> Result<(), IpamError> {
        let (Some(cap), Seen::Here(handle, revision)) = (self.args.max_per_handle, self.io.view.handle(id))
        else {
            return Ok(());
        };
        let charge = self.charge.as_ref().filter(|charge| charge.revision == revision);
        let held = handle
            .total(Family::of(self.args.address))
            .saturating_sub(charge.map_or(0, |charge| charge.count));
        if held >= cap {
            return Err(IpamError::HandleFull { handle: Arc::clone(id), cap });
        }
        Ok(())
    }

    /// An address that the same handle holds already is success when handles are capped.
    fn already(&self, cidr: IpNet, error: IpamError) -> Result<Assignment, IpamError> {
        if let IpamError::Block(BlockError::AlreadyAssigned { address, handle: Some(holder), .. }) = &error
            && self.args.max_per_handle.is_some()
            && Some(holder) == self.args.handle.as_ref()
            && let Seen::Here(block, _) = self.io.view.block(cidr)
            && let Some(ordinal) = block.ordinal(*address)
        {
            return Ok(Assignment { address: *address, block: cidr, sequence: block.sequence_of(ordinal) });
        }
        Err(error)
    }

    /// Takes back a count that led to nothing and confirms a claim whose last write was lost.
    fn wind_up(&mut self, cidr: IpNet) -> Option<Request> {
        if let (Some(charge), Some(id)) = (&self.charge, &self.args.handle) {
            self.uncharges += 1;
            if self.uncharges <= 5 {
                match self.io.view.handle(id) {
                    Seen::Unknown => {
                        return Some(self.io.read(vec![Query::Get(Key::Handle(Arc::clone(id)))]));
                    }
                    Seen::Here(handle, revision) if revision == charge.revision => {
                        let mut handle = handle.clone();
                        handle.lower(&charge.block, charge.count);
                        let write = store_handle(id, handle, revision);
                        self.doing = Doing::Uncharging;
                        return Some(self.io.write(Batch { writes: vec![write] }));
                    }
                    _ => {}
                }
            }
            self.charge = None;
        }
        if matches!(self.doing, Doing::Tidying(_)) {
            return None;
        }
        let own = matches!(self.io.view.block(cidr), Seen::Here(block, _) if block.is_owned_by(&self.owner));
        let mut tidy = Housekeeping::new(self.owner.clone(), if own { vec![cidr] } else { vec![] }, vec![]);
        let request = tidy.run(&mut self.io, None);
        self.doing = Doing::Tidying(Box::new(tidy));
        request
    }
}

impl Operation for AssignIp {
    type Output = AssignedIp;

    fn step(&mut self, answer: Answer) -> Result<Step<AssignedIp>, IpamError> {
        let event = self.io.absorb(answer)?;
        if let Some(request) = self.learn(event)? {
            return Ok(Step::Need(request));
        }
        if let Some(request) = self.plan()? {
            return Ok(Step::Need(request));
        }
        match self.outcome.take() {
            Some(Ok(assignment)) => {
                Ok(Step::Done(AssignedIp { assignment, exceptions: std::mem::take(&mut self.exceptions) }))
            }
            Some(Err(error)) => Err(error),
            None => Err(IpamError::NotInPool { address: self.args.address }),
        }
    }
}
