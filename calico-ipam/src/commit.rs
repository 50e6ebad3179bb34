//! The batches that change a block: in which order block, claim and handle are written.
//!
//! The orders are what makes a crash between two writes harmless (invariants I3, I7, I8):
//!
//! - a claim is `pending` before the block exists and `confirmed` only afterwards;
//! - a handle counts addresses before the block holds them, and still counts them while the
//!   block lets them go;
//! - whoever gives a block up marks the claim `pendingDeletion` first, so that a claimer who
//!   comes in between takes it back by touching claim and block, and the final deletions fail.
//!
//! Every writer of a handle reads the block before it writes the handle and writes the block
//! last. That makes lowering a count safe, see `gc`.

use std::sync::Arc;

use ipnet::IpNet;

use crate::affinity::{Affinity, State};
use crate::attribute::Owner;
use crate::block::Block;
use crate::error::IpamError;
use crate::handle::Handle;
use crate::io::{Seen, View};
use crate::store::{Batch, Expect, Key, Revision, Stored, Write};

/// Addresses counted in a handle for a block that has not been written yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Charge {
    pub(crate) block: IpNet,
    pub(crate) count: u32,
    /// The handle as the charge left it. If it has another revision now, somebody may have
    /// lowered the count, and the charge must be made again.
    pub(crate) revision: Revision,
}

/// Which write of a batch does what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Roles {
    pub(crate) handle: Option<usize>,
    pub(crate) block: usize,
    pub(crate) confirm: Option<usize>,
}

impl Batch {
    fn push(&mut self, key: Key, value: Option<Stored>, expect: Expect) -> usize {
        self.writes.push(Write { key, value, expect });
        self.writes.len() - 1
    }
}

/// The condition that an object is as the view has it.
fn as_seen<T>(seen: &Seen<T>) -> Expect {
    match seen {
        Seen::Here(_, revision) => Expect::Revision(revision.clone()),
        _ => Expect::Absent,
    }
}

/// Writes a block with its new content, counts its new addresses in a handle, and claims the
/// block for `claimant` unless the claim is confirmed already.
pub(crate) fn write_block(
    view: &View,
    claimant: Option<&Owner>,
    block: Block,
    handle: Option<Write>,
) -> (Batch, Roles) {
    let cidr = block.cidr();
    let seen_block = view.block(cidr);
    let mut batch = Batch { writes: Vec::with_capacity(4) };
    let mut roles = Roles::default();
    let claim = claimant.and_then(|owner| {
        let seen = view.affinity(owner, cidr);
        let confirmed = matches!(&seen, Seen::Here(affinity, _) if affinity.state == State::Confirmed);
        let exists = matches!(seen_block, Seen::Here(..));
        // A block that does not exist is claimed anew even by a confirmed claim.
        (!(confirmed && exists)).then(|| (Key::Affinity(owner.clone(), cidr), seen))
    });
    let pending = claim.as_ref().map(|(key, seen)| {
        batch.push(key.clone(), Some(Stored::Affinity(Affinity::new(State::Pending))), as_seen(seen))
    });
    if let Some(write) = handle {
        roles.handle = Some(batch.writes.len());
        batch.writes.push(write);
    }
    roles.block = batch.push(Key::Block(cidr), Some(Stored::Block(Arc::new(block))), as_seen(&seen_block));
    if let (Some((key, _)), Some(pending)) = (claim, pending) {
        let confirmed = Stored::Affinity(Affinity::new(State::Confirmed));
        roles.confirm = Some(batch.push(key, Some(confirmed), Expect::Earlier(pending)));
    }
    (batch, roles)
}

/// The write that counts `count` more addresses of `block` in a handle. A charge that an
/// earlier attempt left behind is moved rather than added to.
pub(crate) fn raise_handle(
    view: &View,
    id: &Arc<str>,
    charge: Option<&Charge>,
    block: IpNet,
    count: u32,
) -> Result<Write, IpamError> {
    let key = Key::Handle(Arc::clone(id));
    let (handle, expect) = match view.handle(id) {
        Seen::Here(handle, revision) => {
            let mut handle = handle.clone();
            if let Some(charge) = charge.filter(|charge| charge.revision == revision) {
                handle.lower(&charge.block, charge.count);
            }
            handle.raise(block, count);
            handle.deleted = false;
            (handle, Expect::Revision(revision))
        }
        Seen::Absent | Seen::Unknown => (Handle::of(block, count), Expect::Absent),
        Seen::Damaged(error) => return Err(IpamError::Stored((*error).clone())),
    };
    Ok(Write { key, value: Some(Stored::Handle(handle)), expect })
}

/// The write that leaves a handle with the given content; an empty one is deleted.
pub(crate) fn store_handle(id: &Arc<str>, handle: Handle, revision: Revision) -> Write {
    let value = (!handle.is_empty()).then_some(Stored::Handle(handle));
    Write { key: Key::Handle(Arc::clone(id)), value, expect: Expect::Revision(revision) }
}

/// Gives up a claim whose block is known: deletes the block, or takes its owner away if it is
/// in use. `None` if there is nothing to give up.
pub(crate) fn release_claim(view: &View, owner: &Owner, cidr: IpNet) -> Option<Batch> {
    let mut batch = Batch::default();
    let affinity = view.affinity(owner, cidr);
    let key = Key::Affinity(owner.clone(), cidr);
    match view.block(cidr) {
        Seen::Here(block, revision) if block.is_owned_by(owner) => {
            // The claim is marked even if it was not seen: an owner's block has one, so what we
            // saw may be old, and then this write fails instead of pulling the block away from
            // under a confirmed claim.
            let leaving = Some(Stored::Affinity(Affinity::new(State::PendingDeletion)));
            let marked = batch.push(key.clone(), leaving, as_seen(&affinity));
            let value = if block.is_empty() {
                None
            } else {
                let mut orphan = (**block).clone();
                orphan.disown();
                orphan.advance();
                Some(Stored::Block(Arc::new(orphan)))
            };
            batch.push(Key::Block(cidr), value, Expect::Revision(revision));
            batch.push(key, None, Expect::Earlier(marked));
        }
        _ => {
            // The claim is stale: nothing to protect, one compare-and-delete is enough.
            let Seen::Here(_, revision) = affinity else { return None };
            batch.push(key, None, Expect::Revision(revision));
        }
    }
    Some(batch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::HostReservation;
    use crate::store::Item;

    fn block(owner: &Owner) -> Block {
        Block::new("10.0.0.0/30".parse().unwrap(), owner.clone(), 1000, HostReservation::default()).unwrap()
    }

    fn text(batch: &Batch) -> Vec<String> {
        batch
            .writes
            .iter()
            .map(|write| {
                let what = match &write.value {
                    None => "delete".to_owned(),
                    Some(Stored::Affinity(affinity)) => affinity.state.as_str().to_owned(),
                    Some(_) => "put".to_owned(),
                };
                let kind = match write.key {
                    Key::Affinity(..) => "claim",
                    Key::Block(_) => "block",
                    _ => "handle",
                };
                format!("{kind} {what} if {:?}", write.expect)
            })
            .collect()
    }

    #[test]
    fn a_new_block_is_claimed_before_and_confirmed_after_it_is_written() {
        let owner = Owner::host("n1");
        let handle =
            raise_handle(&View::default(), &"h".into(), None, "10.0.0.0/30".parse().unwrap(), 1).unwrap();
        let (batch, roles) = write_block(&View::default(), Some(&owner), block(&owner), Some(handle));
        assert_eq!(
            text(&batch),
            [
                "claim pending if Absent",
                "handle put if Absent",
                "block put if Absent",
                "claim confirmed if Earlier(0)"
            ]
        );
        assert_eq!(roles, Roles { handle: Some(1), block: 2, confirm: Some(3) });
    }

    #[test]
    fn a_claim_that_is_being_given_up_is_taken_back_by_touching_claim_and_block() {
        let owner = Owner::host("n1");
        let mut view = View::default();
        let cidr = block(&owner).cidr();
        view.put(Item {
            key: Key::Affinity(owner.clone(), cidr),
            value: Stored::Affinity(Affinity::new(State::PendingDeletion)),
            revision: Revision::number(7),
        });
        view.put(Item {
            key: Key::Block(cidr),
            value: Stored::Block(Arc::new(block(&owner))),
            revision: Revision::number(8),
        });
        let (batch, _) = write_block(&view, Some(&owner), block(&owner), None);
        assert_eq!(
            text(&batch),
            ["claim pending if Revision(r7)", "block put if Revision(r8)", "claim confirmed if Earlier(0)"]
        );
        assert_eq!(
            text(&release_claim(&view, &owner, cidr).unwrap()),
            [
                "claim pendingDeletion if Revision(r7)",
                "block delete if Revision(r8)",
                "claim delete if Earlier(0)"
            ]
        );
    }

    #[test]
    fn a_stale_claim_is_just_deleted() {
        let (mine, theirs) = (Owner::host("n1"), Owner::host("n2"));
        let mut view = View::default();
        let cidr = block(&theirs).cidr();
        view.put(Item {
            key: Key::Affinity(mine.clone(), cidr),
            value: Stored::Affinity(Affinity::new(State::Confirmed)),
            revision: Revision::number(7),
        });
        view.put(Item {
            key: Key::Block(cidr),
            value: Stored::Block(Arc::new(block(&theirs))),
            revision: Revision::number(8),
        });
        assert_eq!(text(&release_claim(&view, &mine, cidr).unwrap()), ["claim delete if Revision(r7)"]);
        assert_eq!(release_claim(&view, &Owner::host("n3"), cidr), None);
        // A claim that was not seen is marked all the same; if it exists, that write fails.
        assert_eq!(
            text(&release_claim(&view, &theirs, cidr).unwrap()),
            ["claim pendingDeletion if Absent", "block delete if Revision(r8)", "claim delete if Earlier(0)"]
        );
    }
}
