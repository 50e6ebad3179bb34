//! What every datastore holds: facts about the cluster and the built-in tiers.

use std::sync::Arc;

use calico_datastore::{Backend, Initialization, StoreError};

use super::apply::client;

/// Writes what is missing of the objects that every cluster has. What is there stays as it is, and several programs may
/// do this at the same time.
pub async fn initialise(store: &Arc<dyn Backend>) -> Result<(), StoreError> {
    let facts = Initialization {
        calico_version: concat!("v", env!("CARGO_PKG_VERSION")).to_owned(),
        cluster_type: "rust".to_owned(),
    };
    client(store).ensure_initialized(&facts).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use calico_datastore::{KeyRanges, MemoryStore};

    #[tokio::test]
    async fn once_and_never_again() {
        let store: Arc<dyn Backend> = Arc::new(MemoryStore::new());
        initialise(&store).await.unwrap();
        let all = KeyRanges::prefix("/calico/");
        let first = store.list(&all).await.unwrap();
        assert_eq!(first.entries.len(), 4);
        initialise(&store).await.unwrap();
        assert_eq!(store.list(&all).await.unwrap(), first);
    }
}
