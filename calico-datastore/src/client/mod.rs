//! Resources the way people and programs write them: with identity, defaults, and the rules of each kind.
//!
//! [`crate::Datastore`] stores whatever it is given. A [`Client`] is what `calicoctl`, the CNI plugin and the
//! agent write through: it fills in uid, creation time and defaults, refuses what breaks a rule, and protects
//! what must not go.

mod init;
mod pool;
mod rules;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use calico_model::{AnyResource, Key, Kind, Revision, Timestamp, Value, defaults, validate};

pub use init::Initialization;

use crate::datastore::{Datastore, KvPair, ParseFailure};
use crate::error::StoreError;
use crate::request::ListRequest;

/// Typed access with the rules of the API.
///
/// ```
/// use calico_datastore::{Client, Initialization, MemoryStore, Store};
/// use calico_model::{AnyResource, IPPool, IPPoolSpec, Kind};
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let client = Client::new(std::sync::Arc::new(Store::new(MemoryStore::new())));
/// client.ensure_initialized(&Initialization::default()).await?;
/// let spec = IPPoolSpec { cidr: "10.244.0.0/16".into(), ..IPPoolSpec::default() };
/// let AnyResource::IPPool(pool) = client.create(IPPool::new("pods", spec).into()).await? else { panic!() };
/// assert_eq!((pool.spec.block_size, pool.metadata.uid.len()), (26, 36));
/// let tier = client.get(Kind::Tier, "", "default").await?;
/// assert!(client.delete(Kind::Tier, "", "default", None).await.is_err());
/// # let _ = tier;
/// # Ok::<(), calico_datastore::StoreError>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct Client {
    store: Arc<dyn Datastore>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// Resources of one kind at one revision.
#[derive(Debug, Clone, PartialEq)]
pub struct ResourceList {
    /// Resources in the order of their paths.
    pub items: Vec<AnyResource>,
    /// Entries that cannot be read.
    pub failures: Vec<ParseFailure>,
    /// Revision of the list.
    pub revision: Revision,
}

/// What [`Client::apply`] did.
#[derive(Debug, Clone, PartialEq)]
pub enum Applied {
    /// The resource is new.
    Created(AnyResource),
    /// The resource was there and has been replaced.
    Updated(AnyResource),
}

impl Applied {
    /// The stored resource.
    pub fn into_resource(self) -> AnyResource {
        match self {
            Self::Created(resource) | Self::Updated(resource) => resource,
        }
    }
}

/// Attempts of [`Client::apply`] when others write the same object.
const APPLY_ATTEMPTS: usize = 5;

impl Client {
    /// A client over a store.
    pub fn new(store: Arc<dyn Datastore>) -> Self {
        Self { store }
    }

    /// The store underneath.
    pub fn store(&self) -> &Arc<dyn Datastore> {
        &self.store
    }

    /// One resource. Fails with [`StoreError::Missing`] when it is not there.
    pub async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<AnyResource, StoreError> {
        if let Some(profile) = rules::synthetic(kind, name) {
            return Ok(profile);
        }
        let key = Key::resource(kind, namespace, name);
        match self.store.get(&key).await? {
            Some(pair) => resource(pair),
            None => Err(StoreError::Missing { key: key.path() }),
        }
    }

    /// All resources of a kind, of one namespace when it is given.
    pub async fn list(&self, kind: Kind, namespace: Option<&str>) -> Result<ResourceList, StoreError> {
        let list = self.store.list(&ListRequest::kind_in(kind, namespace.unwrap_or_default())).await?;
        let mut items = Vec::with_capacity(list.items.len() + 1);
        items.extend(rules::synthetic(kind, defaults::DEFAULT_ALLOW_PROFILE));
        for pair in list.items {
            items.push(resource(pair)?);
        }
        Ok(ResourceList { items, failures: list.failures, revision: list.revision })
    }

    /// Stores a new resource and returns it as stored.
    pub async fn create(&self, mut resource: AnyResource) -> Result<AnyResource, StoreError> {
        self.prepare(&mut resource)?;
        let key = resource.key();
        let metadata = resource.metadata_mut();
        if !metadata.resource_version.is_empty() {
            return Err(StoreError::invalid(
                key.path(),
                "metadata.resourceVersion",
                "must not be set on an object that is to be created",
            ));
        }
        if metadata.uid.is_empty() {
            metadata.uid = uuid::Uuid::new_v4().to_string();
        }
        if metadata.creation_timestamp.is_none() {
            metadata.creation_timestamp = Some(now());
        }
        rules::before_create(&resource)?;
        rules::check(&resource)?;
        match &resource {
            AnyResource::IPPool(pool) => self.check_new_pool(pool).await?,
            policy if policy.kind().is_tiered_policy() => self.check_tier(policy).await?,
            _ => {}
        }
        self::resource(self.store.create(key, resource.into()).await?)
    }

    /// Replaces a resource that has not changed since the caller read it.
    pub async fn update(&self, mut resource: AnyResource) -> Result<AnyResource, StoreError> {
        self.prepare(&mut resource)?;
        let key = resource.key();
        let metadata = resource.metadata();
        let required = [
            ("metadata.resourceVersion", metadata.resource_version.is_empty()),
            ("metadata.creationTimestamp", metadata.creation_timestamp.is_none()),
            ("metadata.uid", metadata.uid.is_empty()),
        ];
        if let Some((field, _)) = required.iter().find(|(_, absent)| *absent) {
            return Err(StoreError::invalid(
                key.path(),
                *field,
                "must be set on an update; read the object first",
            ));
        }
        rules::before_update(&resource)?;
        rules::check(&resource)?;
        if resource.kind() == Kind::IPPool {
            let mut old = self.get(Kind::IPPool, "", &resource.metadata().name).await?;
            defaults::apply(&mut old);
            let problems = validate::problems_of_update(&old, &resource);
            if !problems.is_empty() {
                return Err(StoreError::Rejected { key: key.path(), problems });
            }
        }
        let revision = Revision::new(resource.metadata().resource_version.clone());
        self::resource(self.store.update(key, resource.into(), revision).await?)
    }

    /// Creates or replaces, like `calicoctl apply`. A given resource version must match what is stored; identity
    /// and creation time of an existing object are kept.
    pub async fn apply(&self, resource: AnyResource) -> Result<Applied, StoreError> {
        let pinned = !resource.metadata().resource_version.is_empty();
        for _ in 0..APPLY_ATTEMPTS {
            let mut wanted = resource.clone();
            self.prepare(&mut wanted)?;
            let key = wanted.key();
            let Some(stored) = self.store.get(&key).await? else {
                match self.create(wanted).await {
                    Err(error) if error.exists() => continue,
                    done => return done.map(Applied::Created),
                }
            };
            let stored = self::resource(stored)?;
            let metadata = wanted.metadata_mut();
            metadata.uid.clone_from(&stored.metadata().uid);
            metadata.creation_timestamp = stored.metadata().creation_timestamp;
            // Objects that others stored may lack what an update needs.
            if metadata.uid.is_empty() {
                metadata.uid = uuid::Uuid::new_v4().to_string();
            }
            metadata.creation_timestamp.get_or_insert_with(now);
            if !pinned {
                metadata.resource_version.clone_from(&stored.metadata().resource_version);
            }
            match self.update(wanted).await {
                Err(error) if !pinned && (error.is_conflict() || error.is_missing()) => {}
                done => return done.map(Applied::Updated),
            }
        }
        let path = resource.key().path();
        Err(StoreError::Unreachable {
            store: path,
            reason: format!("others changed it during each of {APPLY_ATTEMPTS} attempts; retry"),
        })
    }

    /// Deletes a resource and returns it; only that revision when one is given.
    pub async fn delete(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        revision: Option<Revision>,
    ) -> Result<AnyResource, StoreError> {
        let key = Key::resource(kind, namespace, name);
        rules::before_delete(&key, kind, name)?;
        match kind {
            Kind::Tier => self.check_tier_is_empty(name).await?,
            Kind::IPPool => return self.delete_pool(name, revision).await,
            _ => {}
        }
        match self.store.delete(key.clone(), revision).await? {
            Some(pair) => resource(pair),
            None => Err(StoreError::Undecodable {
                key: key.path(),
                reason: "deleted; its last content could not be read".to_owned(),
            }),
        }
    }

    /// Fills in defaults and checks what every write needs.
    fn prepare(&self, resource: &mut AnyResource) -> Result<(), StoreError> {
        defaults::apply(resource);
        rules::check_identity(resource)
    }
}

/// The resource of a pair, as readers may rely on it.
fn resource(pair: KvPair) -> Result<AnyResource, StoreError> {
    match pair.value {
        Value::Resource(resource) => {
            let mut resource = Arc::unwrap_or_clone(resource);
            defaults::on_read(&mut resource);
            Ok(resource)
        }
        _ => Err(StoreError::Undecodable { key: pair.key.path(), reason: "not a resource".to_owned() }),
    }
}

/// The present second.
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_nanos(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}
