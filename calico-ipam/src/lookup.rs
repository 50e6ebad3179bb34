//! Who holds an address.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::attribute::Attribute;
use crate::environment::pools_of;
use crate::error::IpamError;
use crate::io::{Event, Io, Seen};
use crate::store::{Answer, Key, Operation, Query, Scope, Step};

/// Looks up the handle and attributes of an address. The address must lie in an enabled pool.
#[derive(Debug, Clone)]
pub struct LookupAddress {
    address: IpAddr,
    block: Option<IpNet>,
    io: Io,
}

impl LookupAddress {
    /// A look-up.
    #[must_use]
    pub fn new(address: IpAddr) -> Self {
        Self { address, block: None, io: Io::default() }
    }
}

impl Operation for LookupAddress {
    type Output = Arc<Attribute>;

    fn step(&mut self, answer: Answer) -> Result<Step<Arc<Attribute>>, IpamError> {
        let address = self.address;
        match (self.io.absorb(answer)?, self.block) {
            (Event::Begin, _) => Ok(Step::Need(self.io.read(vec![Query::List(Scope::Pools)]))),
            (Event::Read(found), None) => {
                let pools = pools_of(found.into_iter().next())?;
                let pool = pools.iter().find(|pool| pool.enabled && pool.cidr.contains(&address));
                let cidr =
                    pool.and_then(|pool| pool.block_of(address)).ok_or(IpamError::NotInPool { address })?;
                self.block = Some(cidr);
                Ok(Step::Need(self.io.read(vec![Query::Get(Key::Block(cidr))])))
            }
            (_, Some(cidr)) => match self.io.view.block(cidr) {
                Seen::Damaged(error) => Err(IpamError::Stored((*error).clone())),
                Seen::Here(block, _) => {
                    let attribute = block.ordinal(address).and_then(|ordinal| block.attribute(ordinal));
                    match attribute {
                        Some(attribute) if attribute.is_cooling() => Err(IpamError::InCooldown { address }),
                        Some(attribute) => Ok(Step::Done(Arc::clone(attribute))),
                        None => Err(IpamError::NotAssigned { address }),
                    }
                }
                Seen::Absent | Seen::Unknown => Err(IpamError::NotAssigned { address }),
            },
            (Event::Written { .. }, None) => Err(IpamError::UnexpectedAnswer { expected: "Answer::Read" }),
        }
    }
}
