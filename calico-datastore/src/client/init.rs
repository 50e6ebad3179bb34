//! What every cluster has before anything else: its identity and the built-in tiers.

use std::time::Duration;

use calico_model::{AnyResource, ClusterInformation, ClusterInformationSpec, Key, Kind, defaults};

use super::Client;
use crate::error::StoreError;

/// Attempts when several programs initialise at the same time.
const ATTEMPTS: usize = 10;
/// Pause between them.
const PAUSE: Duration = Duration::from_millis(100);

/// Facts about the program that initialises.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Initialization {
    /// Version to write into the cluster information; empty leaves what is there.
    pub calico_version: String,
    /// Types of the cluster to add, for example `k8s,bgp`; comma-separated.
    pub cluster_type: String,
}

impl Client {
    /// Brings cluster information and built-in tiers into being. Every step is tried even after a failure; the
    /// first error is returned.
    pub async fn ensure_initialized(&self, facts: &Initialization) -> Result<(), StoreError> {
        let mut first = self.ensure_cluster_information(facts).await;
        for tier in defaults::built_in_tiers() {
            let created = match self.create(AnyResource::from(tier)).await {
                Err(error) if error.exists() => Ok(()),
                other => other.map(drop),
            };
            first = first.and(created);
        }
        first
    }

    async fn ensure_cluster_information(&self, facts: &Initialization) -> Result<(), StoreError> {
        let mut last = Ok(());
        for _ in 0..ATTEMPTS {
            last = self.try_cluster_information(facts).await;
            match &last {
                Err(error) if error.is_conflict() || error.exists() => {}
                _ => return last,
            }
            if tokio::runtime::Handle::try_current().is_ok() {
                tokio::time::sleep(PAUSE).await;
            } else {
                std::thread::sleep(PAUSE);
            }
        }
        last
    }

    async fn try_cluster_information(&self, facts: &Initialization) -> Result<(), StoreError> {
        let key = Key::resource(Kind::ClusterInformation, "", "default");
        let Some(pair) = self.store.get(&key).await? else {
            let mut spec = ClusterInformationSpec::default();
            complete(&mut spec, facts);
            return self.create(ClusterInformation::new("default", spec).into()).await.map(drop);
        };
        let AnyResource::ClusterInformation(mut information) = super::resource(pair)? else { return Ok(()) };
        if !complete(&mut information.spec, facts) {
            return Ok(());
        }
        let metadata = &mut information.metadata;
        if metadata.uid.is_empty() {
            metadata.uid = uuid::Uuid::new_v4().to_string();
        }
        metadata.creation_timestamp.get_or_insert_with(super::now);
        self.update(AnyResource::ClusterInformation(information)).await.map(drop)
    }
}

/// Fills in what is missing; true when something changed.
fn complete(spec: &mut ClusterInformationSpec, facts: &Initialization) -> bool {
    let before = spec.clone();
    if spec.cluster_guid.is_empty() {
        spec.cluster_guid = uuid::Uuid::new_v4().simple().to_string();
    }
    spec.datastore_ready.get_or_insert(true);
    if !facts.calico_version.is_empty() {
        spec.calico_version.clone_from(&facts.calico_version);
    }
    let mut types: Vec<&str> = spec.cluster_type.split(',').filter(|name| !name.is_empty()).collect();
    for name in facts.cluster_type.split(',').filter(|name| !name.is_empty()) {
        if !types.contains(&name) {
            types.push(name);
        }
    }
    spec.cluster_type = types.join(",");
    *spec != before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completion_adds_and_never_replaces() {
        let facts = Initialization { calico_version: "v1".into(), cluster_type: "k8s,bgp".into() };
        let mut spec = ClusterInformationSpec { cluster_type: "bgp".into(), ..Default::default() };
        assert!(complete(&mut spec, &facts));
        assert_eq!((spec.cluster_type.as_str(), spec.datastore_ready), ("bgp,k8s", Some(true)));
        assert_eq!(spec.cluster_guid.len(), 32);
        assert!(!complete(&mut spec.clone(), &facts));
        let mut locked = ClusterInformationSpec { datastore_ready: Some(false), ..spec };
        complete(&mut locked, &facts);
        assert_eq!(locked.datastore_ready, Some(false), "a locked store stays locked");
    }
}
