//! What a machine knows of the datastore, and the one request it waits for.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use crate::affinity::Affinity;
use crate::attribute::Owner;
use crate::block::Block;
use crate::error::{IpamError, StoredError};
use crate::handle::Handle;
use crate::store::{
    Answer, Batch, Failure, Found, Item, Key, Outcome, Query, Read, Request, Revision, Stored,
};

/// How often an operation lets itself be sent back by conflicts.
pub(crate) const MAX_ATTEMPTS: u32 = 100;

/// What is known of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen<T> {
    /// It has not been read, or changed since.
    Unknown,
    /// It does not exist.
    Absent,
    /// It exists but must not be used.
    Damaged(Arc<StoredError>),
    /// Its content and revision.
    Here(T, Revision),
}

/// Objects as last read or written.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    known: BTreeMap<Key, Option<(Stored, Revision)>>,
}

impl View {
    pub(crate) fn put(&mut self, item: Item) {
        self.known.insert(item.key, Some((item.value, item.revision)));
    }

    pub(crate) fn put_absent(&mut self, key: Key) {
        self.known.insert(key, None);
    }

    pub(crate) fn forget(&mut self, key: &Key) {
        self.known.remove(key);
    }

    pub(crate) fn knows(&self, key: &Key) -> bool {
        self.known.contains_key(key)
    }

    /// The revision of an object that exists.
    pub(crate) fn revision(&self, key: &Key) -> Option<Revision> {
        self.known.get(key)?.as_ref().map(|(_, revision)| revision.clone())
    }

    pub(crate) fn block(&self, cidr: IpNet) -> Seen<&Arc<Block>> {
        self.seen(&Key::Block(cidr), |stored| match stored {
            Stored::Block(block) => Some(block),
            _ => None,
        })
    }

    pub(crate) fn affinity(&self, owner: &Owner, cidr: IpNet) -> Seen<Affinity> {
        self.seen(&Key::Affinity(owner.clone(), cidr), |stored| match stored {
            Stored::Affinity(affinity) => Some(*affinity),
            _ => None,
        })
    }

    pub(crate) fn handle(&self, id: &Arc<str>) -> Seen<&Handle> {
        self.seen(&Key::Handle(Arc::clone(id)), |stored| match stored {
            Stored::Handle(handle) => Some(handle),
            _ => None,
        })
    }

    fn seen<'a, T>(&'a self, key: &Key, pick: impl Fn(&'a Stored) -> Option<T>) -> Seen<T> {
        match self.known.get(key) {
            None => Seen::Unknown,
            Some(None) => Seen::Absent,
            Some(Some((Stored::Damaged(error), _))) => Seen::Damaged(Arc::clone(error)),
            Some(Some((stored, revision))) => match pick(stored) {
                Some(value) => Seen::Here(value, revision.clone()),
                None => Seen::Damaged(Arc::new(StoredError::Field {
                    key: key.to_string(),
                    field: "kind",
                    found: "an object of another kind".to_owned(),
                    expected: "an object of the kind its key names",
                })),
            },
        }
    }
}

/// What has just been answered.
#[derive(Debug)]
pub(crate) enum Event {
    /// The first call.
    Begin,
    /// A read; answers to lists are handed on, gets are in the view already.
    Read(Vec<Found>),
    /// A batch of writes. Objects it wrote are in the view; those it did not are unknown.
    Written {
        /// How many writes took effect for certain.
        applied: usize,
        /// Their revisions.
        revisions: Vec<Revision>,
        /// Set if not all did.
        failure: Option<Failure>,
    },
}

#[derive(Debug, Clone, Default)]
enum Asked {
    #[default]
    Nothing,
    Read(Vec<Query>),
    Write(Arc<Batch>),
}

/// The view of a machine and its conversation with the driver.
#[derive(Debug, Clone, Default)]
pub(crate) struct Io {
    pub(crate) view: View,
    /// Conflicts so far.
    pub(crate) attempts: u32,
    asked: Asked,
    /// Attempts when the last read was sent, to tell the driver when to back off.
    waited: u32,
}

impl Io {
    /// Asks for objects; a cache may answer until the first conflict.
    pub(crate) fn read(&mut self, queries: Vec<Query>) -> Request {
        let attempt = if self.attempts > self.waited { self.attempts } else { 0 };
        self.waited = self.attempts;
        self.asked = Asked::Read(queries.clone());
        Request::Read(Read { queries, fresh: self.attempts > 0, attempt })
    }

    /// Asks for conditional writes.
    pub(crate) fn write(&mut self, batch: Batch) -> Request {
        let batch = Arc::new(batch);
        self.asked = Asked::Write(Arc::clone(&batch));
        Request::Write(batch)
    }

    /// Notes one more conflict on an object.
    pub(crate) fn retry(&mut self, key: &Key) -> Result<(), IpamError> {
        self.attempts += 1;
        if self.attempts >= MAX_ATTEMPTS {
            return Err(IpamError::Contention { key: key.clone(), attempts: self.attempts });
        }
        Ok(())
    }

    /// Takes the answer to the last request.
    pub(crate) fn absorb(&mut self, answer: Answer) -> Result<Event, IpamError> {
        match (std::mem::take(&mut self.asked), answer) {
            (Asked::Nothing, Answer::Begin) => Ok(Event::Begin),
            (Asked::Read(queries), Answer::Read(found)) => {
                if found.len() != queries.len() {
                    return Err(IpamError::UnexpectedAnswer { expected: "one answer per query" });
                }
                for (query, found) in queries.iter().zip(&found) {
                    match (query, found) {
                        (Query::Get(_), Found::One(Some(item))) => self.view.put(item.clone()),
                        (Query::Get(key), Found::One(None)) => self.view.put_absent(key.clone()),
                        (Query::List(_), Found::Many(_)) => {}
                        _ => {
                            return Err(IpamError::UnexpectedAnswer {
                                expected: "an object per get, a list per list",
                            });
                        }
                    }
                }
                Ok(Event::Read(found))
            }
            (Asked::Write(batch), Answer::Written(outcome)) => self.absorb_written(&batch, outcome),
            (Asked::Nothing, _) => Err(IpamError::UnexpectedAnswer { expected: "Answer::Begin" }),
            (Asked::Read(_), _) => Err(IpamError::UnexpectedAnswer { expected: "Answer::Read" }),
            (Asked::Write(_), _) => Err(IpamError::UnexpectedAnswer { expected: "Answer::Written" }),
        }
    }

    fn absorb_written(&mut self, batch: &Batch, outcome: Outcome) -> Result<Event, IpamError> {
        let Outcome { applied: revisions, failure } = outcome;
        let applied = revisions.len();
        if applied > batch.writes.len() || (failure.is_none() && applied != batch.writes.len()) {
            return Err(IpamError::UnexpectedAnswer { expected: "one revision per write, or a failure" });
        }
        for (write, revision) in batch.writes.iter().zip(&revisions) {
            match &write.value {
                Some(value) => {
                    self.view.known.insert(write.key.clone(), Some((value.clone(), revision.clone())));
                }
                None => self.view.put_absent(write.key.clone()),
            }
        }
        for write in batch.writes.iter().skip(applied) {
            self.view.forget(&write.key);
        }
        Ok(Event::Written { applied, revisions, failure })
    }
}
