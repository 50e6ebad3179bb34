//! What an assignment does for its host on the side, best effort: confirm claims whose last
//! write was lost, and give up empty blocks of pools that no longer select the host.

use ipnet::IpNet;

use crate::affinity::State;
use crate::attribute::Owner;
use crate::commit::{release_claim, write_block};
use crate::io::{Event, Io, Seen, View};
use crate::store::{Key, Query, Request};

/// How many blocks one assignment gives up at most; the next one continues.
const MAX_GIVEN_UP: usize = 8;

/// How often it tries to confirm one claim.
const MAX_CONFIRM: u32 = 10;

/// Whether a claim is known to be confirmed.
pub(crate) fn is_confirmed(view: &View, owner: &Owner, cidr: IpNet) -> bool {
    matches!(view.affinity(owner, cidr), Seen::Here(affinity, _) if affinity.state == State::Confirmed)
}

#[derive(Debug, Clone)]
pub(crate) struct Housekeeping {
    owner: Owner,
    confirm: Vec<IpNet>,
    give_up: Vec<IpNet>,
    tries: u32,
    given_up: usize,
}

impl Housekeeping {
    pub(crate) fn new(owner: Owner, mut confirm: Vec<IpNet>, give_up: Vec<IpNet>) -> Self {
        confirm.dedup();
        Self { owner, confirm, give_up, tries: 0, given_up: 0 }
    }

    /// The next request, or `None` when there is nothing left to do.
    pub(crate) fn run(&mut self, io: &mut Io, event: Option<Event>) -> Option<Request> {
        if let Some(Event::Written { failure: Some(_), .. }) = event
            && self.confirm.is_empty()
        {
            // Somebody else is at work on this block: leave it to them.
            self.give_up.pop();
        }
        self.confirm_next(io).or_else(|| self.give_up_next(io))
    }

    fn confirm_next(&mut self, io: &mut Io) -> Option<Request> {
        while let Some(&cidr) = self.confirm.last() {
            self.tries += 1;
            if self.tries <= MAX_CONFIRM {
                if let Some(request) = read_both(io, &self.owner, cidr) {
                    return Some(request);
                }
                if let Seen::Here(block, _) = io.view.block(cidr)
                    && block.is_owned_by(&self.owner)
                    && !is_confirmed(&io.view, &self.owner, cidr)
                {
                    let mut block = (**block).clone();
                    block.advance();
                    let (batch, _) = write_block(&io.view, Some(&self.owner), block, None);
                    return Some(io.write(batch));
                }
            }
            self.confirm.pop();
            self.tries = 0;
        }
        None
    }

    fn give_up_next(&mut self, io: &mut Io) -> Option<Request> {
        while let Some(&cidr) = self.give_up.last() {
            if self.given_up >= MAX_GIVEN_UP {
                return None;
            }
            if let Some(request) = read_both(io, &self.owner, cidr) {
                return Some(request);
            }
            let in_use = matches!(io.view.block(cidr), Seen::Here(block, _) if !block.is_empty());
            let damaged = matches!(io.view.block(cidr), Seen::Damaged(_));
            if !in_use
                && !damaged
                && let Some(batch) = release_claim(&io.view, &self.owner, cidr)
            {
                self.given_up += 1;
                return Some(io.write(batch));
            }
            self.give_up.pop();
        }
        None
    }
}

/// Asks for the claim and the block unless both are known.
fn read_both(io: &mut Io, owner: &Owner, cidr: IpNet) -> Option<Request> {
    let keys = [Key::Affinity(owner.clone(), cidr), Key::Block(cidr)];
    if keys.iter().all(|key| io.view.knows(key)) {
        return None;
    }
    // One of a pair may be stale: the other is read again with it.
    Some(io.read(keys.into_iter().map(Query::Get).collect()))
}
