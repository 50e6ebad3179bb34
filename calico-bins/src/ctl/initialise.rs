//! What every datastore holds: facts about the cluster and the built-in tiers.

use calico_datastore::{Backend, Expect, RawWrite, StoreError};
use calico_model::{API_VERSION, Key, Kind};
use serde_json::{Value as Json, json};

/// Writes what is missing of the objects that every cluster has: ClusterInformation `default`, the three built-in
/// tiers, and the flag that says that the datastore is ready. What is there stays as it is.
///
/// Several programs may do this at the same time.
pub async fn initialise(store: &dyn Backend) -> Result<(), StoreError> {
    let guid = uuid::Uuid::new_v4().simple().to_string();
    let version = concat!("v", env!("CARGO_PKG_VERSION"));
    let facts =
        json!({"clusterGUID": guid, "clusterType": "rust", "calicoVersion": version, "datastoreReady": true});
    let tier = |order: f64, action: &str| json!({"order": order, "defaultAction": action});
    let wanted = [
        (Kind::ClusterInformation, "default", facts),
        (Kind::Tier, "kube-admin", tier(1000.0, "Pass")),
        (Kind::Tier, "default", tier(1_000_000.0, "Deny")),
        (Kind::Tier, "kube-baseline", tier(10_000_000.0, "Pass")),
    ];
    for (kind, name, spec) in wanted {
        let metadata = json!({
            "name": name, "uid": uuid::Uuid::new_v4().to_string(), "creationTimestamp": super::apply::now(),
        });
        let object =
            json!({"apiVersion": API_VERSION, "kind": kind.name(), "metadata": metadata, "spec": spec});
        put_if_absent(store, &Key::resource(kind, "", name), &object).await?;
    }
    put_if_absent(store, &Key::ReadyFlag, &Json::Bool(true)).await
}

async fn put_if_absent(store: &dyn Backend, key: &Key, value: &Json) -> Result<(), StoreError> {
    let path = key.path();
    if store.get(&path).await?.is_some() {
        return Ok(());
    }
    match store.txn(vec![RawWrite::put(path, Expect::Absent, value.to_string().into_bytes())]).await {
        Ok(_) | Err(StoreError::Exists { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use calico_datastore::{KeyRanges, MemoryStore};

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
    }

    #[test]
    fn once_and_never_again() {
        let store = MemoryStore::default();
        block_on(initialise(&store)).unwrap();
        let all = KeyRanges::prefix("/calico/");
        let first = block_on(store.list(&all)).unwrap();
        assert_eq!(first.entries.len(), 5);
        block_on(initialise(&store)).unwrap();
        assert_eq!(block_on(store.list(&all)).unwrap(), first);
    }
}
