//! The number of addresses that a handle may hold.

use std::sync::Arc;

use super::{Context, Doing, Search};
use crate::assign::Assignment;
use crate::error::IpamError;
use crate::io::Seen;
use crate::range::Family;
use crate::store::{Key, Query, Request};

impl Search {
    /// Enforces the number of addresses a handle may hold, counting those of other requests.
    pub(super) fn check_cap(&mut self, context: &mut Context<'_>) -> Result<Option<Request>, IpamError> {
        let (Some(cap), Some(id)) = (context.args.max_per_handle, context.args.handle.clone()) else {
            return Ok(None);
        };
        let counted = match context.io.view.handle(&id) {
            Seen::Unknown => {
                self.doing = Doing::Looking;
                return Ok(Some(context.io.read(vec![Query::Get(Key::Handle(id))])));
            }
            Seen::Damaged(error) => return Err(IpamError::Stored((*error).clone())),
            Seen::Absent => return Ok(None),
            Seen::Here(handle, revision) => {
                // What we counted ourselves and could not write yet is not held by anybody.
                let charge = context.charge.as_ref().filter(|charge| charge.revision == revision);
                let own = charge.map_or(0, |charge| charge.count);
                let total = handle.total(self.family).saturating_sub(own);
                if total + (self.wanted - self.result.assigned.len()) as u32 <= cap {
                    return Ok(None);
                }
                let family = self.family;
                handle
                    .blocks
                    .keys()
                    .copied()
                    .filter(|cidr| Family::of_net(cidr) == family)
                    .collect::<Vec<_>>()
            }
        };
        let unknown: Vec<Query> = counted
            .iter()
            .map(|cidr| Key::Block(*cidr))
            .filter(|key| !context.io.view.knows(key))
            .map(Query::Get)
            .collect();
        if !unknown.is_empty() {
            self.doing = Doing::CountingHandle;
            return Ok(Some(context.io.read(unknown)));
        }
        let mut held = Vec::new();
        for cidr in &counted {
            if let Seen::Here(block, _) = context.io.view.block(*cidr) {
                held.extend(block.ordinals_of(&id).map(|ordinal| Assignment {
                    address: block.address(ordinal),
                    block: *cidr,
                    sequence: block.sequence_of(ordinal),
                }));
            }
        }
        if held.len() >= cap as usize || held.len() >= self.wanted {
            held.truncate(self.wanted.max(cap as usize));
            self.result.assigned = held;
            self.wanted = self.result.assigned.len();
            return Ok(None);
        }
        // Another request of this handle has counted addresses it has not written yet.
        context.io.retry(&Key::Handle(Arc::clone(&id)))?;
        context.io.view.forget(&Key::Handle(Arc::clone(&id)));
        for cidr in counted {
            context.io.view.forget(&Key::Block(cidr));
        }
        self.doing = Doing::CountingHandle;
        Ok(Some(context.io.read(vec![Query::Get(Key::Handle(id))])))
    }
}
