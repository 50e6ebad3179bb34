//! Drives the machines of `calico-ipam` over a datastore. It carries out what a machine asks for, waits when the
//! machine lost a race, and decides nothing.
//!
//! One answer takes one round trip: the objects of a read are fetched with one list, the writes of a batch go in one
//! transaction where the store has transactions.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use calico_datastore::{Condition, Datastore, Effect, KeyRange, KeyRanges, ListRequest, StoreError, Write};
use calico_ipam::{
    Answer, Batch, Expect, Failure, Found, IpamError, Item, Key, Operation, Outcome, Query, Read, Request,
    Revision, Step, backoff,
};

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The operation itself cannot succeed.
    #[error(transparent)]
    Ipam(#[from] IpamError),
    /// The datastore did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Runs `operation` to its end. `seed` spreads the waits of callers that race.
pub async fn run<O: Operation>(
    store: &dyn Datastore,
    mut operation: O,
    seed: u64,
) -> Result<O::Output, DriverError> {
    let mut answer = Answer::Begin;
    loop {
        answer = match operation.step(answer)? {
            Step::Done(output) => return Ok(output),
            Step::Need(Request::Read(read)) => {
                let wait = backoff(read.attempt, seed);
                if !wait.is_zero() {
                    pause(wait).await;
                }
                Answer::Read(fetch(store, &read).await?)
            }
            Step::Need(Request::Write(batch)) => Answer::Written(write(store, &batch).await?),
        };
    }
}

/// Inside a runtime a task sleeps; a plugin without one may block its only thread.
async fn pause(wait: std::time::Duration) {
    if tokio::runtime::Handle::try_current().is_ok() {
        tokio::time::sleep(wait).await;
    } else {
        std::thread::sleep(wait);
    }
}

/// Nanoseconds since the epoch: the time that operations are given.
pub fn now() -> u64 {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

async fn fetch(store: &dyn Datastore, read: &Read) -> Result<Vec<Found>, StoreError> {
    let ranges = read.queries.iter().flat_map(|query| -> Vec<KeyRange> {
        match query {
            Query::Get(key) => key.to_model().iter().map(|key| KeyRange::Exact(key.path())).collect(),
            Query::List(scope) => scope.path_prefixes().into_iter().map(KeyRange::Prefix).collect(),
        }
    });
    let list = store.list(&ListRequest::from(KeyRanges::new(ranges))).await?;
    let readable = list.items.iter().filter_map(|pair| {
        Some((pair.key.path(), Item::from_model(&pair.key, &pair.value, &pair.revision)?))
    });
    // What cannot even be parsed is there all the same: a machine must not take it for absent and create it anew.
    let unreadable = list.failures.iter().filter_map(|failure| {
        let item = Item::unreadable(&failure.key, &failure.reason, &failure.revision)?;
        Some((failure.key.clone(), item))
    });
    let items: BTreeMap<String, Item> = readable.chain(unreadable).collect();
    Ok(read
        .queries
        .iter()
        .map(|query| match query {
            Query::Get(key) => {
                Found::One(key.to_model().iter().find_map(|key| items.get(&key.path())).cloned())
            }
            Query::List(scope) => {
                let mut found: Vec<Item> =
                    items.values().filter(|item| scope.contains(&item.key)).cloned().collect();
                found.sort_by(|a, b| a.key.cmp(&b.key));
                Found::Many(found.into())
            }
        })
        .collect())
}

/// The key that writes of an object go to.
fn target(key: &Key) -> Result<calico_model::Key, StoreError> {
    let first = key.to_model().into_iter().next();
    first.ok_or_else(|| StoreError::invalid(key.to_string(), "key", "it has no place in a datastore"))
}

async fn write(store: &dyn Datastore, batch: &Batch) -> Result<Outcome, StoreError> {
    if store.has_transactions() {
        return transaction(store, batch).await;
    }
    let mut applied: Vec<Revision> = Vec::with_capacity(batch.writes.len());
    for (index, write) in batch.writes.iter().enumerate() {
        let condition = match &write.expect {
            Expect::Absent => Condition::Absent,
            Expect::Revision(revision) => Condition::Revision(revision.to_model()),
            Expect::Earlier(earlier) => match applied.get(*earlier) {
                Some(revision) => Condition::Revision(revision.to_model()),
                None => Condition::Absent,
            },
        };
        let one =
            Write { key: target(&write.key)?, condition, effect: effect(&write.key, write.value.as_ref())? };
        match store.txn(vec![one]).await {
            Ok(done) => applied.push(Revision::from(done.revision.as_str())),
            Err(error) => return failed(error, index, applied),
        }
    }
    Ok(Outcome { applied, failure: None })
}

async fn transaction(store: &dyn Datastore, batch: &Batch) -> Result<Outcome, StoreError> {
    let collapsed = batch.collapsed();
    let mut writes = Vec::with_capacity(collapsed.len());
    for write in &collapsed {
        let key = target(&write.key)?;
        let condition = match &write.expect {
            Some(revision) => Condition::Revision(revision.to_model()),
            None => Condition::Absent,
        };
        let effect = match (&write.value, &write.expect) {
            // Created and deleted again within the batch: nothing is written, the absence is still required.
            (None, None) => Effect::Check,
            (value, _) => effect(&write.key, value.as_ref())?,
        };
        writes.push(Write { key, condition, effect });
    }
    match store.txn(writes).await {
        Ok(done) => Ok(Outcome {
            applied: vec![Revision::from(done.revision.as_str()); batch.writes.len()],
            failure: None,
        }),
        Err(error) => {
            let path = subject(&error).map(str::to_owned);
            let index = collapsed
                .iter()
                .find(|write| {
                    write.key.to_model().iter().any(|key| path.as_deref() == Some(key.path().as_str()))
                })
                .map_or(0, |write| write.index);
            failed(error, index, Vec::new())
        }
    }
}

fn effect(key: &Key, value: Option<&calico_ipam::Stored>) -> Result<Effect, StoreError> {
    match value {
        None => Ok(Effect::Delete),
        Some(stored) => match stored.to_model() {
            Some(value) => Ok(Effect::Put(value, None)),
            None => Err(StoreError::invalid(
                key.to_string(),
                "value",
                "address management does not write such objects",
            )),
        },
    }
}

/// The key that a failed condition is about.
fn subject(error: &StoreError) -> Option<&str> {
    match error {
        StoreError::Conflict { key, .. } | StoreError::Exists { key, .. } | StoreError::Missing { key } => {
            Some(key)
        }
        _ => None,
    }
}

fn failed(error: StoreError, index: usize, applied: Vec<Revision>) -> Result<Outcome, StoreError> {
    match error {
        StoreError::Conflict { .. } | StoreError::Exists { .. } | StoreError::Missing { .. } => {
            Ok(Outcome { applied, failure: Some(Failure::Conflict { index }) })
        }
        // The question may have arrived even though no answer did.
        StoreError::Unreachable { .. } => Ok(Outcome { applied, failure: Some(Failure::Unknown { index }) }),
        other => Err(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use calico_datastore::{Blocking, MemoryStore, Store};
    use calico_ipam::{AutoAssign, AutoAssignArgs};
    use calico_model::{AnyResource, IPPool, IPPoolSpec, Key as ModelKey, Kind, Node, Value};
    use std::sync::Arc;

    fn store() -> Blocking {
        let store = Blocking::new(Arc::new(Store::new(MemoryStore::new())));
        let put = |kind, name: &str, resource: AnyResource| {
            store.create(ModelKey::resource(kind, "", name), Value::Resource(Arc::new(resource))).unwrap();
        };
        let spec = IPPoolSpec { cidr: "10.0.0.0/16".into(), ..IPPoolSpec::default() };
        put(Kind::IPPool, "p", IPPool::new("p", spec).into());
        put(Kind::Node, "node1", Node::new("node1", Default::default()).into());
        store
    }

    #[test]
    fn addresses_are_assigned_over_a_real_store_in_few_round_trips() {
        let store = store();
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..70 {
            let args = AutoAssignArgs::workload("node1", &format!("net.c{n}"), 1, 0);
            let before = store.info().unwrap().revision;
            let assigned = store.wait(run(&**store.inner(), AutoAssign::new(args, now()), 1)).unwrap();
            let writes = store.info().unwrap().revision - before;
            let address = assigned.addresses().next().unwrap().address;
            assert!(seen.insert(address), "{address} twice");
            if n != 0 && n != 64 {
                assert_eq!(writes, 1, "an address out of a block in hand is one transaction");
            }
        }
        assert_eq!(store.list(&ListRequest::blocks()).unwrap().items.len(), 2);
        assert_eq!(store.list(&ListRequest::handles()).unwrap().items.len(), 70);
    }

    #[test]
    fn a_node_that_does_not_exist_gets_nothing() {
        let store = store();
        let args = AutoAssignArgs::workload("node9", "net.c", 1, 0);
        assert!(matches!(
            store.wait(run(&**store.inner(), AutoAssign::new(args, now()), 1)),
            Err(DriverError::Ipam(_))
        ));
    }
}
