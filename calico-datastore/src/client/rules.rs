//! What each kind demands of a write, beyond the form of its fields.

use calico_model::{AnyResource, Key, Kind, defaults, names, validate};

use super::{Client, resource};
use crate::codec::tier;
use crate::error::StoreError;
use crate::request::ListRequest;

/// Kinds of which only an object with this name exists.
const SINGLETON: &str = "default";

/// The profile that is always there.
pub(super) fn synthetic(kind: Kind, name: &str) -> Option<AnyResource> {
    (kind == Kind::Profile && name == defaults::DEFAULT_ALLOW_PROFILE).then(|| {
        let mut profile = AnyResource::from(defaults::default_allow_profile());
        profile.metadata_mut().resource_version = "1".to_owned();
        profile
    })
}

/// Name and namespace fit the kind.
pub(super) fn check_identity(resource: &AnyResource) -> Result<(), StoreError> {
    let kind = resource.kind();
    let metadata = resource.metadata();
    let path = || resource.key().path();
    if let AnyResource::WorkloadEndpoint(endpoint) = resource {
        let computed = names::workload_endpoint_name(&endpoint.spec)
            .map_err(|error| StoreError::invalid(path(), "spec", error.to_string()))?;
        if metadata.name != computed {
            return Err(StoreError::invalid(
                path(),
                "metadata.name",
                format!("is {:?}, must be {computed:?} for the workload it describes", metadata.name),
            ));
        }
    }
    if metadata.name.is_empty() {
        let reason = if metadata.generate_name.is_empty() {
            "must be set"
        } else {
            "must be set; generateName is not supported"
        };
        return Err(StoreError::invalid(path(), "metadata.name", reason));
    }
    if metadata.name.contains('/') || metadata.namespace.contains('/') {
        return Err(StoreError::invalid(path(), "metadata.name", "must not contain '/'"));
    }
    match (kind.is_namespaced(), metadata.namespace.is_empty()) {
        (true, true) => Err(StoreError::invalid(
            path(),
            "metadata.namespace",
            format!("must be set: {kind} lives in a namespace"),
        )),
        (false, false) => Err(StoreError::invalid(
            path(),
            "metadata.namespace",
            format!("must not be set: {kind} is global"),
        )),
        _ => Ok(()),
    }
}

/// The fields obey the rules of the kind.
pub(super) fn check(resource: &AnyResource) -> Result<(), StoreError> {
    let problems = validate::problems(resource);
    if problems.is_empty() {
        Ok(())
    } else {
        Err(StoreError::Rejected { key: resource.key().path(), problems })
    }
}

/// Names and objects that nobody may create.
pub(super) fn before_create(resource: &AnyResource) -> Result<(), StoreError> {
    let kind = resource.kind();
    let name = resource.metadata().name.as_str();
    let path = || resource.key().path();
    match kind {
        Kind::ClusterInformation | Kind::KubeControllersConfiguration | Kind::IPAMConfiguration
            if name != SINGLETON =>
        {
            Err(StoreError::invalid(
                path(),
                "metadata.name",
                format!("only one {kind} exists, named {SINGLETON:?}"),
            ))
        }
        Kind::Profile if name == defaults::DEFAULT_ALLOW_PROFILE => {
            Err(StoreError::Exists { key: path(), current: None })
        }
        _ => Ok(()),
    }
}

/// Objects that nobody may change.
pub(super) fn before_update(resource: &AnyResource) -> Result<(), StoreError> {
    protect_profile("update", &resource.key(), resource.kind(), &resource.metadata().name)
}

/// Objects that nobody may delete.
pub(super) fn before_delete(key: &Key, kind: Kind, name: &str) -> Result<(), StoreError> {
    protect_profile("delete", key, kind, name)?;
    let built_in = [defaults::DEFAULT_TIER, defaults::KUBE_ADMIN_TIER, defaults::KUBE_BASELINE_TIER];
    if kind == Kind::Tier && built_in.contains(&name) {
        return Err(StoreError::NotSupported {
            operation: "delete",
            key: key.path(),
            reason: "this tier is part of every cluster".to_owned(),
        });
    }
    Ok(())
}

fn protect_profile(operation: &'static str, key: &Key, kind: Kind, name: &str) -> Result<(), StoreError> {
    if kind == Kind::Profile && name == defaults::DEFAULT_ALLOW_PROFILE {
        return Err(StoreError::NotSupported {
            operation,
            key: key.path(),
            reason: "this profile is built in".to_owned(),
        });
    }
    Ok(())
}

impl Client {
    /// The tier of a policy must be there when the policy is created.
    pub(super) async fn check_tier(&self, policy: &AnyResource) -> Result<(), StoreError> {
        let name = tier(policy).filter(|tier| !tier.is_empty()).unwrap_or(defaults::DEFAULT_TIER);
        let key = Key::resource(Kind::Tier, "", name);
        match self.store.get(&key).await? {
            Some(_) => Ok(()),
            None => Err(StoreError::Missing { key: key.path() }),
        }
    }

    /// A tier that policies refer to stays.
    pub(super) async fn check_tier_is_empty(&self, name: &str) -> Result<(), StoreError> {
        let request = ListRequest::kinds([
            Kind::NetworkPolicy,
            Kind::GlobalNetworkPolicy,
            Kind::StagedNetworkPolicy,
            Kind::StagedGlobalNetworkPolicy,
        ]);
        for pair in self.store.list(&request).await?.items {
            let policy = resource(pair)?;
            if tier(&policy) == Some(name) {
                return Err(StoreError::NotSupported {
                    operation: "delete",
                    key: Key::resource(Kind::Tier, "", name).path(),
                    reason: format!(
                        "it is not empty: {} {} belongs to it",
                        policy.kind(),
                        policy.metadata().name
                    ),
                });
            }
        }
        Ok(())
    }
}
