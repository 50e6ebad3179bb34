//! AutoAssign: addresses for an owner, from the blocks of its host.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::attribute::{Attribute, Owner, clean_handle};
use crate::block::HostReservation;
use crate::commit::{Charge, store_handle};
use crate::environment::{Environment, config_of, labels_of, many, pools_of, reservations_of};
use crate::error::IpamError;
use crate::housekeeping::Housekeeping;
use crate::io::{Event, Io, Seen};
use crate::pools::IntendedUse;
use crate::range::Family;
use crate::search::{Context, Search};
use crate::store::{Answer, Batch, Found, Item, Key, Operation, Query, Request, Scope, Step};

/// What one family of a request asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FamilyRequest {
    /// How many addresses.
    pub count: u32,
    /// Pools to use, by prefix and in this order; empty for the pools that select the host and
    /// namespace.
    pub pools: Vec<IpNet>,
    /// Addresses the host keeps for itself in each new block (Windows).
    pub reservation: HostReservation,
}

/// A request for addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AutoAssignArgs {
    /// The host, trimmed and in lower case; `load-balancer` for [`IntendedUse::LoadBalancer`].
    pub host: Arc<str>,
    /// The handle to release the addresses by. Without one, a write whose answer is lost
    /// cannot be recognised, and garbage collection does not see the addresses.
    pub handle: Option<Arc<str>>,
    /// Stored beside each address: `pod`, `namespace`, `node`, `timestamp` and so on.
    pub attributes: BTreeMap<String, String>,
    /// What the addresses are for. Required.
    pub intended_use: Option<IntendedUse>,
    /// The namespace that pools select by.
    pub namespace: Option<Arc<str>>,
    /// The IPv4 addresses.
    pub v4: FamilyRequest,
    /// The IPv6 addresses.
    pub v6: FamilyRequest,
    /// Blocks the host may own per family; capped by the global limit.
    pub max_blocks: Option<u32>,
    /// Addresses the handle may hold per family, counting those it already has.
    pub max_per_handle: Option<u32>,
}

impl AutoAssignArgs {
    /// A request for a workload's addresses without further wishes.
    #[must_use]
    pub fn workload(host: &str, handle: &str, v4: u32, v6: u32) -> Self {
        Self {
            host: host.into(),
            handle: Some(handle.into()),
            attributes: BTreeMap::new(),
            intended_use: Some(IntendedUse::Workload),
            namespace: None,
            v4: FamilyRequest { count: v4, ..FamilyRequest::default() },
            v6: FamilyRequest { count: v6, ..FamilyRequest::default() },
            max_blocks: None,
            max_per_handle: None,
        }
    }

    pub(crate) fn family(&self, family: Family) -> &FamilyRequest {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    pub(crate) fn owner(&self) -> Owner {
        if self.intended_use == Some(IntendedUse::LoadBalancer) {
            Owner::Virtual(Arc::clone(&self.host))
        } else {
            Owner::Host(Arc::clone(&self.host))
        }
    }
}

/// An assigned address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The address.
    pub address: IpAddr,
    /// The block it came from; its prefix length is the one to report with the address.
    pub block: IpNet,
    /// The sequence number of the allocation, for a release that must not hit a later owner.
    pub sequence: u64,
}

/// Where a limit on blocks comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitSource {
    /// The request.
    Request,
    /// `maxBlocksPerHost` of the IPAM configuration.
    Configuration,
    /// Built in, as neither of the others is set.
    BuiltIn,
}

/// Something worth telling about an assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The host may not claim another block.
    BlockLimit {
        /// The limit.
        limit: u32,
        /// Who set it.
        source: LimitSource,
    },
    /// The configuration lets hosts claim no blocks.
    AutoAllocateOff,
    /// The host's blocks are full and strict affinity forbids borrowing.
    StrictAffinity,
    /// No block of these pools has a free address.
    PoolsExhausted {
        /// The pools.
        pools: Vec<IpNet>,
    },
    /// A stored block cannot be used; its addresses stay unassigned.
    DamagedBlock {
        /// The block.
        block: IpNet,
        /// What is wrong with it.
        reason: String,
    },
    /// An address came from a block of somebody else.
    Borrowed {
        /// The block.
        block: IpNet,
        /// Its owner.
        owner: Option<Owner>,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BlockLimit { limit, source } => {
                let source = match source {
                    LimitSource::Request => "of the request",
                    LimitSource::Configuration => "maxBlocksPerHost of the IPAM configuration",
                    LimitSource::BuiltIn => "built in; set maxBlocksPerHost to change it",
                };
                write!(f, "cannot allocate new block due to per host block limit ({limit}, {source})")
            }
            Self::AutoAllocateOff => f.write_str("autoAllocateBlocks is off: no new block is claimed"),
            Self::StrictAffinity => f.write_str("No more free affine blocks and strict affinity enabled"),
            Self::PoolsExhausted { pools } => {
                let pools: Vec<String> = pools.iter().map(ToString::to_string).collect();
                write!(f, "No IPs available in pools: [{}]", pools.join(" "))
            }
            Self::DamagedBlock { block, reason } => write!(f, "block {block} is not usable: {reason}"),
            Self::Borrowed { block, owner } => match owner {
                Some(owner) => write!(f, "borrowed from block {block} of {owner}"),
                None => write!(f, "taken from block {block}, which nobody owns"),
            },
        }
    }
}

/// What one family got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FamilyResult {
    /// The family.
    pub family: Family,
    /// How many were asked for.
    pub requested: u32,
    /// What was assigned; fewer than asked for is not an error.
    pub assigned: Vec<Assignment>,
    /// Why it is fewer, and other remarks.
    pub notes: Vec<Note>,
}

impl FamilyResult {
    /// The customary text about an assignment that fell short, `None` if it did not.
    #[must_use]
    pub fn shortfall(&self) -> Option<String> {
        if self.assigned.len() as u32 >= self.requested {
            return None;
        }
        let notes: Vec<String> = self.notes.iter().map(ToString::to_string).collect();
        let (got, wanted, family) = (self.assigned.len(), self.requested, self.family.number());
        Some(format!("Assigned {got} out of {wanted} requested IPv{family} addresses; {}", notes.join("; ")))
    }
}

/// What an AutoAssign yields: one entry per family that was asked for, IPv4 first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AutoAssigned {
    /// The families.
    pub families: Vec<FamilyResult>,
}

impl AutoAssigned {
    /// All addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = &Assignment> {
        self.families.iter().flat_map(|family| &family.assigned)
    }
}

/// Assigns addresses from the blocks of a host, claiming, reclaiming or borrowing blocks as
/// pools and configuration allow.
///
/// ```
/// use calico_ipam::{Answer, AutoAssign, AutoAssignArgs, Operation, Request, Step};
///
/// let args = AutoAssignArgs::workload("node1", "k8s-pod-network.0123", 1, 0);
/// let mut operation = AutoAssign::new(args, 1_700_000_000_000_000_000);
/// match operation.step(Answer::Begin)? {
///     Step::Need(Request::Read(read)) => assert!(!read.fresh && !read.queries.is_empty()),
///     other => panic!("an operation that knows nothing starts by reading, not with {other:?}"),
/// }
/// # Ok::<(), calico_ipam::IpamError>(())
/// ```
#[derive(Debug, Clone)]
pub struct AutoAssign {
    args: AutoAssignArgs,
    now: u64,
    owner: Owner,
    attribute: Arc<Attribute>,
    environment: Option<Arc<Environment>>,
    /// Claims of the owner per family, once listed.
    claims: [Option<Vec<IpNet>>; 2],
    io: Io,
    /// Only make sure that the host has a block in each family.
    ensure: bool,
    stage: Stage,
    charge: Option<Charge>,
    done: Vec<FamilyResult>,
}

#[derive(Debug, Clone)]
enum Stage {
    Start,
    Environment,
    Family(Box<Search>),
    Uncharge(u32),
    Tidy(Box<Housekeeping>),
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl AutoAssign {
    /// An operation at `now` (Unix nanoseconds) that reads everything it needs.
    #[must_use]
    pub fn new(mut args: AutoAssignArgs, now: u64) -> Self {
        let handle = args.handle.as_deref().map(clean_handle);
        let attribute = Arc::new(Attribute::new(handle, std::mem::take(&mut args.attributes)));
        args.handle.clone_from(&attribute.handle);
        Self {
            owner: args.owner(),
            attribute,
            args,
            now,
            environment: None,
            claims: [None, None],
            io: Io::default(),
            ensure: false,
            stage: Stage::Start,
            charge: None,
            done: Vec::new(),
        }
    }

    /// An operation that takes no address and only sees to it that the host owns a block, full
    /// or not, in each family that asks for any: a host that reserves addresses in its blocks
    /// needs one before its first pod.
    #[must_use]
    pub fn ensure_block(args: AutoAssignArgs, now: u64) -> Self {
        Self { ensure: true, ..Self::new(args, now) }
    }

    /// Uses an environment that is known already. It must have the labels of the host and of
    /// the namespace of the request.
    #[must_use]
    pub fn with_environment(mut self, environment: Arc<Environment>) -> Self {
        self.environment = Some(environment);
        self
    }

    /// Uses the owner's claims to blocks of a family, all of them, and any blocks that are
    /// known already. They may be out of date: writes are conditional.
    #[must_use]
    pub fn with_blocks(mut self, family: Family, items: impl IntoIterator<Item = Item>) -> Self {
        let mut claims = Vec::new();
        for item in items {
            if let Key::Affinity(owner, cidr) = &item.key {
                if *owner != self.owner || Family::of_net(cidr) != family {
                    continue;
                }
                claims.push(*cidr);
            }
            self.io.view.put(item);
        }
        if let Some(entry) = self.claims.get_mut(index(family)) {
            *entry = Some(claims);
        }
        self
    }

    fn check_arguments(&self) -> Result<(), IpamError> {
        if self.args.intended_use.is_none() {
            return Err(IpamError::NoIntendedUse);
        }
        if self.args.host.trim().is_empty() {
            return Err(IpamError::NoHost);
        }
        Ok(())
    }

    fn first_read(&mut self) -> Option<Request> {
        let mut queries = Vec::with_capacity(8);
        if self.environment.is_none() {
            queries.push(Query::Get(Key::Config));
            queries.push(Query::List(Scope::Pools));
            queries.push(Query::List(Scope::Reservations));
            if let Owner::Host(host) = &self.owner {
                queries.push(Query::Get(Key::Node(Arc::clone(host))));
            }
            if let Some(namespace) = &self.args.namespace {
                queries.push(Query::Get(Key::Namespace(Arc::clone(namespace))));
            }
        }
        for family in FAMILIES {
            let known = self.claims.get(index(family)).is_some_and(Option::is_some);
            if self.args.family(family).count > 0 && !known {
                queries.push(Query::List(Scope::OwnerAffinities(self.owner.clone(), family)));
            }
        }
        match (&self.args.handle, self.args.max_per_handle) {
            (Some(handle), Some(_)) => queries.push(Query::Get(Key::Handle(Arc::clone(handle)))),
            // A handle is new as a rule; creating it unread saves a request, and if it exists
            // the create fails and it is read then.
            (Some(handle), None) => self.io.view.put_absent(Key::Handle(Arc::clone(handle))),
            (None, _) => {}
        }
        (!queries.is_empty()).then(|| self.io.read(queries))
    }

    fn take_first_read(&mut self, found: Vec<Found>) -> Result<(), IpamError> {
        let mut found = found.into_iter();
        if self.environment.is_none() {
            let mut environment = Environment {
                config: config_of(found.next())?,
                pools: pools_of(found.next())?,
                reservations: reservations_of(found.next())?,
                ..Environment::default()
            };
            if let Owner::Host(host) = &self.owner {
                let labels = labels_of(found.next())?;
                environment.node = labels.ok_or_else(|| IpamError::NodeMissing { host: Arc::clone(host) })?;
            }
            if self.args.namespace.is_some() {
                environment.namespace = labels_of(found.next())?.unwrap_or_default();
            }
            self.environment = Some(Arc::new(environment));
        }
        for family in FAMILIES {
            if self.args.family(family).count > 0
                && let Some(entry) = self.claims.get_mut(index(family))
                && entry.is_none()
            {
                let mut claims = Vec::new();
                for item in many(found.next())?.iter() {
                    if let Key::Affinity(_, cidr) = &item.key {
                        claims.push(*cidr);
                        self.io.view.put(item.clone());
                    }
                }
                *entry = Some(claims);
            }
        }
        Ok(())
    }

    /// Starts the next family that was asked for, or tidies up.
    fn next_stage(&mut self) -> Result<(), IpamError> {
        let environment = self.environment.clone().unwrap_or_default();
        let after = self.done.last().map(|result| result.family);
        for family in FAMILIES {
            if self.args.family(family).count == 0 || after.is_some_and(|last| last >= family) {
                continue;
            }
            let claims = self.claims.get(index(family)).cloned().flatten().unwrap_or_default();
            let search = Search::new(&self.args, &self.owner, &environment, family, claims, self.ensure);
            self.stage = Stage::Family(Box::new(search.map_err(|error| self.wrap(error))?));
            return Ok(());
        }
        self.stage = Stage::Uncharge(0);
        Ok(())
    }

    /// An error of the second family must not hide what the first one got.
    fn wrap(&self, cause: IpamError) -> IpamError {
        let assigned: Vec<Assignment> = self.done.iter().flat_map(|family| family.assigned.clone()).collect();
        if assigned.is_empty() { cause } else { IpamError::SecondFamily { assigned, cause: Box::new(cause) } }
    }

    /// Takes back a count for a block that was never written.
    fn uncharge(&mut self, tries: u32) -> Option<Request> {
        let id = self.args.handle.clone()?;
        let charge = self.charge.clone()?;
        if tries >= 5 {
            return None;
        }
        match self.io.view.handle(&id) {
            Seen::Unknown => Some(self.io.read(vec![Query::Get(Key::Handle(id))])),
            Seen::Here(handle, revision) if revision == charge.revision => {
                let mut handle = handle.clone();
                handle.lower(&charge.block, charge.count);
                Some(self.io.write(Batch { writes: vec![store_handle(&id, handle, revision)] }))
            }
            // Somebody else has touched it; lowering it now could take their count away.
            _ => None,
        }
    }

    fn tidying(&self) -> Housekeeping {
        let mut unwanted = Vec::new();
        if let (Some(environment), Owner::Host(_)) = (&self.environment, &self.owner) {
            for cidr in self.claims.iter().flatten().flatten() {
                let pool = environment.pools.iter().find(|pool| pool.cidr.contains(cidr));
                if !pool.is_some_and(|pool| pool.nodes.matches(&environment.node)) {
                    unwanted.push(*cidr);
                }
            }
        }
        let assigned =
            self.done.iter().flat_map(|family| family.assigned.iter().map(|assignment| assignment.block));
        let unconfirmed: Vec<IpNet> = assigned.filter(|block| self.unconfirmed(*block)).collect();
        Housekeeping::new(self.owner.clone(), unconfirmed, unwanted)
    }

    /// Whether an address was assigned from an own block whose claim is not confirmed yet.
    fn unconfirmed(&self, block: IpNet) -> bool {
        let own = matches!(self.io.view.block(block), Seen::Here(block, _) if block.is_owned_by(&self.owner));
        own && !crate::housekeeping::is_confirmed(&self.io.view, &self.owner, block)
    }
}

impl Operation for AutoAssign {
    type Output = AutoAssigned;

    fn step(&mut self, answer: Answer) -> Result<Step<AutoAssigned>, IpamError> {
        let mut event = Some(self.io.absorb(answer)?);
        loop {
            match &mut self.stage {
                Stage::Start => {
                    event = None;
                    self.check_arguments()?;
                    self.stage = Stage::Environment;
                    if let Some(request) = self.first_read() {
                        return Ok(Step::Need(request));
                    }
                    self.next_stage()?;
                }
                Stage::Environment => {
                    if let Some(Event::Read(found)) = event.take() {
                        self.take_first_read(found)?;
                    }
                    self.next_stage()?;
                }
                Stage::Family(search) => {
                    let environment = self.environment.clone().unwrap_or_default();
                    let mut context = Context {
                        args: &self.args,
                        owner: &self.owner,
                        attribute: &self.attribute,
                        environment: &environment,
                        now: self.now,
                        io: &mut self.io,
                        charge: &mut self.charge,
                    };
                    let request = match search.run(&mut context, event.take()) {
                        Ok(request) => request,
                        Err(error) => return Err(self.wrap(error)),
                    };
                    match request {
                        Some(request) => return Ok(Step::Need(request)),
                        None => self.done.push(search.take_result()),
                    }
                    self.next_stage()?;
                }
                Stage::Uncharge(tries) => {
                    let tries = *tries;
                    if let Some(Event::Written { failure: None, .. }) = event.take() {
                        self.charge = None;
                    }
                    self.stage = Stage::Uncharge(tries + 1);
                    if let Some(request) = self.uncharge(tries) {
                        return Ok(Step::Need(request));
                    }
                    self.stage = Stage::Tidy(Box::new(self.tidying()));
                }
                Stage::Tidy(tidy) => {
                    if let Some(request) = tidy.run(&mut self.io, event.take()) {
                        return Ok(Step::Need(request));
                    }
                    return Ok(Step::Done(AutoAssigned { families: std::mem::take(&mut self.done) }));
                }
            }
        }
    }
}

fn index(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}
