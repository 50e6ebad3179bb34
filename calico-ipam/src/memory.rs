//! A datastore in memory, the smallest driver there is: for tests, examples and `sim`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::IpamError;
use crate::pools::Pool;
use crate::store::{
    Answer, Batch, Expect, Failure, Found, Item, Key, Operation, Outcome, Query, Request, Revision, Scope,
    Step, Stored,
};

/// Objects by key, each with the number of the write that made it.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    objects: BTreeMap<Key, (Stored, u64)>,
    revision: u64,
    /// Whether a batch is one transaction or a sequence of writes.
    pub transactions: bool,
    /// Requests carried out.
    pub requests: u64,
}

impl MemoryStore {
    /// Stores an object unconditionally.
    pub fn put(&mut self, key: Key, value: Stored) {
        self.revision += 1;
        self.objects.insert(key, (value, self.revision));
    }

    /// Deletes an object unconditionally.
    pub fn remove(&mut self, key: &Key) {
        self.revision += 1;
        self.objects.remove(key);
    }

    /// Stores a pool under its name.
    pub fn add_pool(&mut self, pool: Pool) {
        self.put(Key::Pool(Arc::clone(&pool.name)), Stored::Pool(Arc::new(pool)));
    }

    /// Stores a node with labels.
    pub fn add_node(&mut self, name: &str, labels: &[(&str, &str)]) {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.put(Key::Node(name.into()), Stored::Labels(Arc::new(labels)));
    }

    /// One object.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Stored> {
        self.objects.get(key).map(|(value, _)| value)
    }

    /// All objects in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Stored)> {
        self.objects.iter().map(|(key, (value, _))| (key, value))
    }

    /// One object with its revision.
    #[must_use]
    pub fn item(&self, key: &Key) -> Option<Item> {
        let (value, revision) = self.objects.get(key)?;
        Some(Item { key: key.clone(), value: value.clone(), revision: Revision::number(*revision) })
    }

    /// The objects of a scope in key order.
    #[must_use]
    pub fn list(&self, scope: &Scope) -> Vec<Item> {
        let all = self.objects.iter().filter(|(key, _)| scope.contains(key));
        all.map(|(key, (value, revision))| Item {
            key: key.clone(),
            value: value.clone(),
            revision: Revision::number(*revision),
        })
        .collect()
    }

    /// Carries out a request and answers it.
    pub fn answer(&mut self, request: &Request) -> Answer {
        self.requests += 1;
        match request {
            Request::Read(read) => Answer::Read(read.queries.iter().map(|query| self.find(query)).collect()),
            Request::Write(batch) => Answer::Written(self.write(batch)),
        }
    }

    /// Answers one question.
    #[must_use]
    pub fn find(&self, query: &Query) -> Found {
        match query {
            Query::Get(key) => Found::One(self.item(key)),
            Query::List(scope) => Found::Many(self.list(scope).into()),
        }
    }

    /// Carries out a batch: as one transaction, or write by write until one fails.
    pub fn write(&mut self, batch: &Batch) -> Outcome {
        if self.transactions { self.transact(batch) } else { self.write_some(batch, usize::MAX) }
    }

    /// Carries out at most the first `limit` writes of a batch, one by one.
    pub fn write_some(&mut self, batch: &Batch, limit: usize) -> Outcome {
        let mut applied: Vec<Revision> = Vec::with_capacity(batch.writes.len());
        for (index, write) in batch.writes.iter().enumerate().take(limit) {
            let expected = match &write.expect {
                Expect::Absent => None,
                Expect::Revision(revision) => Some(revision.clone()),
                Expect::Earlier(at) => applied.get(*at).cloned(),
            };
            let found = self.objects.get(&write.key).map(|(_, revision)| Revision::number(*revision));
            if expected != found {
                return Outcome { applied, failure: Some(Failure::Conflict { index }) };
            }
            applied.push(self.set(&write.key, write.value.clone()));
        }
        Outcome { applied, failure: None }
    }

    fn transact(&mut self, batch: &Batch) -> Outcome {
        let collapsed = batch.collapsed();
        for write in &collapsed {
            let found = self.objects.get(&write.key).map(|(_, revision)| Revision::number(*revision));
            if write.expect != found {
                return Outcome {
                    applied: Vec::new(),
                    failure: Some(Failure::Conflict { index: write.index }),
                };
            }
        }
        let revisions: BTreeMap<Key, Revision> = collapsed
            .into_iter()
            .map(|write| (write.key.clone(), self.set(&write.key, write.value)))
            .collect();
        let applied = batch.writes.iter().filter_map(|write| revisions.get(&write.key).cloned()).collect();
        Outcome { applied, failure: None }
    }

    fn set(&mut self, key: &Key, value: Option<Stored>) -> Revision {
        self.revision += 1;
        match value {
            Some(value) => self.objects.insert(key.clone(), (value, self.revision)),
            None => self.objects.remove(key),
        };
        Revision::number(self.revision)
    }
}

/// Runs an operation to its end.
///
/// # Errors
/// What the operation fails with.
pub fn run<O: Operation>(store: &mut MemoryStore, mut operation: O) -> Result<O::Output, IpamError> {
    let mut answer = Answer::Begin;
    loop {
        match operation.step(answer)? {
            Step::Need(request) => answer = store.answer(&request),
            Step::Done(output) => return Ok(output),
        }
    }
}
