//! Handing an address from one owner to another in place, as a virtual machine does when it moves to another node.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::attribute::Attribute;
use crate::environment::pools_of;
use crate::error::IpamError;
use crate::io::{Event, Io, Seen};
use crate::store::{Answer, Batch, Expect, Key, Operation, Query, Request, Scope, Step, Stored, Write};

/// What the caller expects of an owner before it is replaced.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum OwnerCondition {
    /// Anything.
    #[default]
    Any,
    /// Nobody: no attributes.
    Nobody,
    /// This pod.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

impl OwnerCondition {
    fn holds(&self, owner: &BTreeMap<String, String>) -> bool {
        let is = |key: &str, text: &str| owner.get(key).is_some_and(|found| found == text);
        match self {
            Self::Any => true,
            Self::Nobody => owner.is_empty(),
            Self::Pod { namespace, name } => is("namespace", namespace) && is("pod", name),
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Any => "anybody".to_owned(),
            Self::Nobody => "nobody".to_owned(),
            Self::Pod { namespace, name } => format!("{namespace}/{name}"),
        }
    }
}

/// One of the two owners: what it must be, and what it becomes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OwnerSwap {
    /// What it must be.
    pub expect: OwnerCondition,
    /// Its new attributes; `None` leaves them.
    pub becomes: Option<BTreeMap<String, String>>,
}

/// Replaces the attributes of an address's active and alternate owner, both or neither, under conditions on what they
/// are. Yields whether anything had to be written. The address must be assigned, under `handle` when one is given.
#[derive(Debug, Clone)]
pub struct SetOwner {
    address: IpAddr,
    handle: Option<Arc<str>>,
    active: OwnerSwap,
    alternate: OwnerSwap,
    block: Option<IpNet>,
    io: Io,
}

impl SetOwner {
    /// The operation.
    #[must_use]
    pub fn new(address: IpAddr, handle: Option<&str>, active: OwnerSwap, alternate: OwnerSwap) -> Self {
        let handle = handle.map(Arc::from);
        Self { address, handle, active, alternate, block: None, io: Io::default() }
    }

    /// The attribute that the address is to have.
    fn change(&self, old: &Attribute) -> Result<Attribute, IpamError> {
        let address = self.address;
        if let Some(expected) = self.handle.as_ref().filter(|handle| old.handle.as_ref() != Some(*handle)) {
            let found = old.handle.clone();
            return Err(
                crate::BlockError::HandleMismatch { address, expected: Arc::clone(expected), found }.into()
            );
        }
        let mut new = old.clone();
        let owners =
            [("active", &self.active, &mut new.active), ("alternate", &self.alternate, &mut new.alternate)];
        for (which, swap, owner) in owners {
            if !swap.expect.holds(owner) {
                let pod = |key: &str| owner.get(key).map_or("?", String::as_str);
                let found = match owner.is_empty() {
                    true => "nobody".to_owned(),
                    false => format!("{}/{}", pod("namespace"), pod("pod")),
                };
                let expected = swap.expect.describe();
                return Err(IpamError::OwnerMismatch { address, which, found, expected });
            }
            if let Some(attributes) = &swap.becomes {
                owner.clone_from(attributes);
            }
        }
        Ok(new)
    }

    fn write(&mut self, cidr: IpNet) -> Result<Step<bool>, IpamError> {
        let address = self.address;
        let (block, revision) = match self.io.view.block(cidr) {
            Seen::Here(block, revision) => (Arc::clone(block), revision),
            Seen::Damaged(error) => return Err(IpamError::Stored((*error).clone())),
            Seen::Absent | Seen::Unknown => return Err(IpamError::NotAssigned { address }),
        };
        let ordinal = block.ordinal(address).ok_or(IpamError::NotAssigned { address })?;
        let old = block.attribute(ordinal).ok_or(IpamError::NotAssigned { address })?;
        if old.is_cooling() {
            return Err(IpamError::InCooldown { address });
        }
        let new = self.change(old)?;
        if new == **old {
            return Ok(Step::Done(false));
        }
        let mut changed = (*block).clone();
        changed.replace_attribute(ordinal, &Arc::new(new));
        changed.advance();
        let value = Some(Stored::Block(Arc::new(changed)));
        let write = Write { key: Key::Block(cidr), value, expect: Expect::Revision(revision) };
        Ok(Step::Need(self.io.write(Batch { writes: vec![write] })))
    }

    fn read(&mut self, cidr: IpNet) -> Request {
        self.io.read(vec![Query::Get(Key::Block(cidr))])
    }
}

impl Operation for SetOwner {
    type Output = bool;

    fn step(&mut self, answer: Answer) -> Result<Step<bool>, IpamError> {
        let address = self.address;
        match (self.io.absorb(answer)?, self.block) {
            (Event::Begin, _) => Ok(Step::Need(self.io.read(vec![Query::List(Scope::Pools)]))),
            (Event::Read(found), None) => {
                let pools = pools_of(found.into_iter().next())?;
                let pool = pools.iter().find(|pool| pool.cidr.contains(&address));
                let cidr =
                    pool.and_then(|pool| pool.block_of(address)).ok_or(IpamError::NotInPool { address })?;
                self.block = Some(cidr);
                Ok(Step::Need(self.read(cidr)))
            }
            (Event::Read(_), Some(cidr)) => self.write(cidr),
            (Event::Written { failure: None, .. }, _) => Ok(Step::Done(true)),
            (Event::Written { .. }, Some(cidr)) => {
                // A lost answer is no different from a lost race: reading again shows whether it is done.
                self.io.retry(&Key::Block(cidr))?;
                self.io.view.forget(&Key::Block(cidr));
                Ok(Step::Need(self.read(cidr)))
            }
            (Event::Written { .. }, None) => Err(IpamError::UnexpectedAnswer { expected: "Answer::Read" }),
        }
    }
}
