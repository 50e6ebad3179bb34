//! The invariants, checked where a write may have broken them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Broken;
use super::actor::Living;
use crate::affinity::State;
use crate::block::Block;
use crate::memory::MemoryStore;
use crate::range::{Family, overlap};
use crate::store::{Key, Scope, Stored};

fn broken(invariant: &'static str, detail: String) -> Broken {
    Broken { invariant, detail, step: 0, trace: Vec::new() }
}

/// Checks everything that one write can break. `before` is what the object was.
pub(crate) fn after_write(
    store: &MemoryStore,
    key: &Key,
    before: Option<&Stored>,
    living: &BTreeMap<IpAddr, Living>,
) -> Result<(), Broken> {
    match key {
        Key::Block(cidr) => {
            let old = match before {
                Some(Stored::Block(block)) => Some(block),
                _ => None,
            };
            let new = block_of(store, *cidr);
            owners_keep_their_addresses(*cidr, new, living)?;
            if let Some(block) = new {
                if old.is_none() {
                    no_overlap(store, *cidr)?;
                }
                structure(block)?;
                if let Some(old) = old {
                    queue_order(old, block)?;
                }
                handles_cover(store, block)?;
            }
            confirmed_claims(store, *cidr)
        }
        Key::Affinity(_, cidr) => confirmed_claims(store, *cidr),
        Key::Handle(id) => {
            let Some(Stored::Handle(old)) = before else { return Ok(()) };
            for cidr in old.blocks.keys() {
                if let Some(block) = block_of(store, *cidr) {
                    handle_covers(store, id, block)?;
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn block_of(store: &MemoryStore, cidr: IpNet) -> Option<&Arc<Block>> {
    match store.get(&Key::Block(cidr)) {
        Some(Stored::Block(block)) => Some(block),
        _ => None,
    }
}

/// I1 and I6: what somebody holds stays theirs until they give it up.
fn owners_keep_their_addresses(
    cidr: IpNet,
    block: Option<&Arc<Block>>,
    living: &BTreeMap<IpAddr, Living>,
) -> Result<(), Broken> {
    for (address, living) in living.range(cidr.network()..=cidr.broadcast()) {
        let holder = block.and_then(|block| {
            let ordinal = block.ordinal(*address)?;
            let attribute = block.attribute(ordinal)?;
            Some((attribute.handle.clone(), attribute.is_cooling(), block.sequence_of(ordinal)))
        });
        if holder != Some((Some(Arc::clone(&living.handle)), false, living.sequence)) {
            return Err(broken(
                "I1",
                format!("{address} belongs to {} and is stored as {holder:?}", living.handle),
            ));
        }
    }
    Ok(())
}

/// I2: no two blocks share an address.
fn no_overlap(store: &MemoryStore, cidr: IpNet) -> Result<(), Broken> {
    for item in store.list(&Scope::Blocks(Family::of_net(&cidr))) {
        if let Key::Block(other) = item.key
            && other != cidr
            && overlap(&other, &cidr)
        {
            return Err(broken("I2", format!("blocks {cidr} and {other} overlap")));
        }
    }
    Ok(())
}

/// I3: at most one confirmed claim per block, and it is that of the block's owner.
fn confirmed_claims(store: &MemoryStore, cidr: IpNet) -> Result<(), Broken> {
    let owner = block_of(store, cidr).and_then(|block| block.owner());
    for (key, value) in store.iter() {
        if let (Key::Affinity(claimant, of), Stored::Affinity(affinity)) = (key, value)
            && *of == cidr
            && affinity.state == State::Confirmed
            && owner != Some(claimant)
        {
            return Err(broken(
                "I3",
                format!("{claimant} has a confirmed claim to {cidr}, which is {owner:?}'s"),
            ));
        }
    }
    Ok(())
}

/// I4 and I5.
fn structure(block: &Block) -> Result<(), Broken> {
    match Block::restore(block.cidr(), block.parts()) {
        Ok(restored) if restored == *block => Ok(()),
        Ok(_) => Err(broken("I4", format!("block {} does not survive being stored", block.cidr()))),
        Err(error) => Err(broken("I4", error.to_string())),
    }
}

/// I9: what stays in the queue keeps its order, what is new is at the end.
fn queue_order(old: &Block, new: &Block) -> Result<(), Broken> {
    let was = old.parts().unallocated;
    let is = new.parts().unallocated;
    let mut kept = was.iter().filter(|ordinal| is.contains(ordinal));
    let stayed = is.iter().take_while(|ordinal| kept.next() == Some(ordinal)).count();
    match is.get(stayed..).unwrap_or_default().iter().find(|ordinal| was.contains(ordinal)) {
        // An ordinal may leave and come back in one write only when it was never seen taken.
        Some(ordinal) => {
            Err(broken("I9", format!("{}: {ordinal} lost its place: {was:?} {is:?}", new.cidr())))
        }
        None => Ok(()),
    }
}

/// I7: no handle counts less than a block holds.
fn handles_cover(store: &MemoryStore, block: &Block) -> Result<(), Broken> {
    let mut held: BTreeMap<&Arc<str>, u32> = BTreeMap::new();
    for (_, attribute) in block.allocations() {
        if let Some(handle) = attribute.handle.as_ref().filter(|_| !attribute.is_cooling()) {
            *held.entry(handle).or_default() += 1;
        }
    }
    for (handle, count) in held {
        covers(store, handle, block.cidr(), count)?;
    }
    Ok(())
}

fn handle_covers(store: &MemoryStore, handle: &Arc<str>, block: &Block) -> Result<(), Broken> {
    covers(store, handle, block.cidr(), block.count_of(handle))
}

fn covers(store: &MemoryStore, handle: &Arc<str>, cidr: IpNet, held: u32) -> Result<(), Broken> {
    let counted = match store.get(&Key::Handle(Arc::clone(handle))) {
        Some(Stored::Handle(stored)) => stored.count(&cidr),
        _ => 0,
    };
    if counted < held {
        return Err(broken("I7", format!("handle {handle} counts {counted} of {held} addresses in {cidr}")));
    }
    Ok(())
}

/// After recovery nothing is left that nobody needs, and nothing is missing.
pub(crate) fn nothing_is_leaked(
    store: &MemoryStore,
    living: &BTreeMap<IpAddr, Living>,
) -> Result<(), Broken> {
    let fail = |detail: String| Err(broken("recovery", detail));
    let alive: BTreeSet<&Arc<str>> = living.values().map(|living| &living.handle).collect();
    let mut counts: BTreeMap<(Arc<str>, IpNet), u32> = BTreeMap::new();
    for (key, value) in store.iter() {
        let (Key::Block(cidr), Stored::Block(block)) = (key, value) else { continue };
        for (ordinal, attribute) in block.allocations() {
            let address = block.address(ordinal);
            let Some(handle) = attribute.handle.clone() else {
                return fail(format!("{address} is still cooling down or has no handle"));
            };
            // Collection takes all addresses of a handle or none, so one address in use keeps
            // the others until its owner lets the handle go.
            if !alive.contains(&handle) {
                return fail(format!("{address} of {handle} is leaked"));
            }
            *counts.entry((handle, *cidr)).or_default() += 1;
        }
        if block.owner().is_none() && block.is_empty() {
            return fail(format!("block {cidr} is empty and nobody's"));
        }
        if let Some(owner) = block.owner()
            && store.get(&Key::Affinity(owner.clone(), *cidr)).is_none()
        {
            return fail(format!("block {cidr} of {owner} has no claim"));
        }
    }
    for (key, value) in store.iter() {
        match (key, value) {
            (Key::Handle(id), Stored::Handle(handle)) => {
                for (cidr, count) in &handle.blocks {
                    let held = counts.remove(&(Arc::clone(id), *cidr)).unwrap_or_default();
                    if held != *count {
                        return fail(format!("handle {id} counts {count} in {cidr}, which holds {held}"));
                    }
                }
                if handle.is_empty() {
                    return fail(format!("handle {id} is empty"));
                }
            }
            (Key::Affinity(owner, cidr), Stored::Affinity(affinity)) => {
                let owned = block_of(store, *cidr).is_some_and(|block| block.is_owned_by(owner));
                if affinity.state != State::Confirmed || !owned {
                    return fail(format!(
                        "claim of {owner} to {cidr} is {:?}, owned: {owned}",
                        affinity.state
                    ));
                }
            }
            _ => {}
        }
    }
    match counts.into_iter().next() {
        Some(((handle, cidr), count)) => fail(format!("handle {handle} misses {count} addresses in {cidr}")),
        None => Ok(()),
    }
}
