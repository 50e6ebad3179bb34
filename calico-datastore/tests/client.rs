//! The rules of the client layer.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;

use calico_datastore::{
    Applied, Backend, Client, Datastore, Expect, Initialization, MemoryStore, RawWrite, Store, StoreError,
};
use calico_model::{
    AllocationBlock, AnyResource, GlobalNetworkPolicy, GlobalNetworkPolicySpec, IPPool, IPPoolSpec, Key,
    Kind, NetworkSet, NetworkSetSpec, Profile, ProfileSpec, Revision, Tier, TierSpec, Value,
    WorkloadEndpoint, WorkloadEndpointSpec,
};

async fn client() -> (MemoryStore, Client) {
    let memory = MemoryStore::new();
    let client = Client::new(Arc::new(Store::new(memory.clone())));
    client.ensure_initialized(&Initialization::default()).await.unwrap();
    (memory, client)
}

fn pool(name: &str, cidr: &str) -> AnyResource {
    IPPool::new(name, IPPoolSpec { cidr: cidr.into(), ..IPPoolSpec::default() }).into()
}

fn policy(name: &str, tier: &str) -> AnyResource {
    let spec = GlobalNetworkPolicySpec { tier: tier.into(), ..GlobalNetworkPolicySpec::default() };
    GlobalNetworkPolicy::new(name, spec).into()
}

#[track_caller]
fn field(result: Result<impl std::fmt::Debug, StoreError>) -> String {
    match result {
        Err(StoreError::Invalid { field, .. }) => field,
        Err(StoreError::Rejected { problems, .. }) => problems[0].path.clone(),
        other => panic!("expected an invalid field, got {other:?}"),
    }
}

#[tokio::test]
async fn identity_is_given_once_and_kept() {
    let (_, client) = client().await;
    let set: AnyResource = NetworkSet::new("a", NetworkSetSpec::default()).in_namespace("prod").into();
    let created = client.create(set.clone()).await.unwrap();
    let first = created.metadata().clone();
    assert_eq!(first.uid.len(), 36);
    assert!(first.creation_timestamp.is_some() && !first.resource_version.is_empty());
    assert!(client.create(set.clone()).await.unwrap_err().exists());
    let Applied::Updated(updated) = client.apply(set.clone()).await.unwrap() else { panic!("not an update") };
    assert_eq!(
        (&updated.metadata().uid, updated.metadata().creation_timestamp),
        (&first.uid, first.creation_timestamp)
    );
    assert_ne!(updated.metadata().resource_version, first.resource_version);
    // The old revision no longer fits, neither for update nor for a pinned apply.
    assert!(client.update(created.clone()).await.unwrap_err().is_conflict());
    assert!(client.apply(created.clone()).await.unwrap_err().is_conflict());
    let error =
        client.delete(Kind::NetworkSet, "prod", "a", Some(Revision::new(first.resource_version))).await;
    assert!(error.unwrap_err().is_conflict());
    let deleted = client.delete(Kind::NetworkSet, "prod", "a", None).await.unwrap();
    assert_eq!(deleted.metadata().uid, first.uid);
    assert!(client.get(Kind::NetworkSet, "prod", "a").await.unwrap_err().is_missing());
    assert!(matches!(client.apply(set).await.unwrap(), Applied::Created(_)));
}

#[tokio::test]
async fn incomplete_writes_name_the_field() {
    let (_, client) = client().await;
    let set = NetworkSet::new("a", NetworkSetSpec::default());
    assert_eq!(field(client.create(set.clone().into()).await), "metadata.namespace");
    assert_eq!(
        field(client.create(AnyResource::from(Tier::new("", TierSpec::default()))).await),
        "metadata.name"
    );
    assert_eq!(
        field(client.create(AnyResource::from(Tier::new("t", TierSpec::default()).in_namespace("x"))).await),
        "metadata.namespace"
    );
    let set: AnyResource = set.in_namespace("prod").into();
    assert_eq!(field(client.update(set.clone()).await), "metadata.resourceVersion");
    let mut stored = client.create(set).await.unwrap();
    assert_eq!(field(client.create(stored.clone()).await), "metadata.resourceVersion");
    stored.metadata_mut().uid.clear();
    assert_eq!(field(client.update(stored).await), "metadata.uid");
}

#[tokio::test]
async fn resource_versions_are_not_stored() {
    let (memory, client) = client().await;
    client.apply(pool("a", "10.0.0.0/16")).await.unwrap();
    client.apply(pool("a", "10.0.0.0/16")).await.unwrap();
    let path = Key::resource(Kind::IPPool, "", "a").path();
    let stored = memory.get(&path).await.unwrap().unwrap();
    let text = String::from_utf8(stored.value.to_vec()).unwrap();
    assert!(!text.contains("resourceVersion"), "{text}");
}

#[tokio::test]
async fn tiers_are_protected() {
    let (_, client) = client().await;
    for name in ["default", "kube-admin", "kube-baseline"] {
        let error = client.delete(Kind::Tier, "", name, None).await.unwrap_err();
        assert!(matches!(error, StoreError::NotSupported { operation: "delete", .. }), "{error}");
    }
    let error = client.create(policy("p", "platform")).await.unwrap_err();
    assert_eq!(error, StoreError::Missing { key: Key::resource(Kind::Tier, "", "platform").path() });
    client.create(AnyResource::from(Tier::new("platform", TierSpec::default()))).await.unwrap();
    client.create(policy("p", "platform")).await.unwrap();
    let error = client.delete(Kind::Tier, "", "platform", None).await.unwrap_err();
    assert!(error.to_string().contains("not empty: GlobalNetworkPolicy p"), "{error}");
    client.delete(Kind::GlobalNetworkPolicy, "", "p", None).await.unwrap();
    client.delete(Kind::Tier, "", "platform", None).await.unwrap();
}

#[tokio::test]
async fn the_default_profile_is_built_in() {
    let (_, client) = client().await;
    let name = "projectcalico-default-allow";
    let profile = client.get(Kind::Profile, "", name).await.unwrap();
    assert_eq!(profile.metadata().resource_version, "1");
    assert_eq!(client.list(Kind::Profile, None).await.unwrap().items, std::slice::from_ref(&profile));
    let new = AnyResource::from(Profile::new(name, ProfileSpec::default()));
    assert!(client.create(new).await.unwrap_err().exists());
    assert!(matches!(
        client.delete(Kind::Profile, "", name, None).await,
        Err(StoreError::NotSupported { .. })
    ));
}

#[tokio::test]
async fn pools_do_not_overlap() {
    let (_, client) = client().await;
    client.create(pool("a", "10.0.0.0/16")).await.unwrap();
    assert_eq!(field(client.create(pool("b", "10.0.128.0/17")).await), "spec.cidr");
    assert_eq!(field(client.create(pool("b", "10.0.0.0/8")).await), "spec.cidr");
    assert_eq!(field(client.create(pool("b", "ten")).await), "spec.cidr");
    client.create(pool("b", "10.1.0.0/16")).await.unwrap();
    client.create(pool("six", "fd00::/64")).await.unwrap();
    assert_eq!(field(client.apply(pool("a", "10.2.0.0/16")).await), "spec.cidr");
    let mut changed = client.get(Kind::IPPool, "", "a").await.unwrap();
    if let AnyResource::IPPool(pool) = &mut changed {
        pool.spec.block_size = 28;
    }
    assert_eq!(field(client.update(changed).await), "spec.blockSize");
}

#[tokio::test]
async fn pools_respect_the_blocks_that_exist() {
    let (_, client) = client().await;
    let cidr = "10.0.0.0/26".parse().unwrap();
    let text = r#"{"cidr":"10.0.0.0/26","allocations":[],"unallocated":[],"attributes":[]}"#;
    let block: AllocationBlock = serde_json::from_str(text).unwrap();
    client.store().create(Key::block(cidr), Value::Block(Arc::new(block))).await.unwrap();
    let mut small = pool("a", "10.0.0.0/16");
    if let AnyResource::IPPool(pool) = &mut small {
        pool.spec.block_size = 28;
    }
    assert_eq!(field(client.create(small).await), "spec.blockSize");
    client.create(pool("a", "10.0.0.0/16")).await.unwrap();
}

#[tokio::test]
async fn deleting_a_pool_disables_it_first() {
    let (memory, client) = client().await;
    let created = client.create(pool("a", "10.0.0.0/16")).await.unwrap();
    let stale = Revision::new(created.metadata().resource_version.clone());
    client.apply(pool("a", "10.0.0.0/16")).await.unwrap();
    assert!(client.delete(Kind::IPPool, "", "a", Some(stale)).await.unwrap_err().is_conflict());
    let AnyResource::IPPool(deleted) = client.delete(Kind::IPPool, "", "a", None).await.unwrap() else {
        panic!()
    };
    assert!(deleted.spec.disabled);
    assert_eq!(memory.get(&Key::resource(Kind::IPPool, "", "a").path()).await.unwrap(), None);
}

#[tokio::test]
async fn endpoint_names_are_computed() {
    let (_, client) = client().await;
    let spec = WorkloadEndpointSpec {
        node: "node-1".into(),
        orchestrator: "k8s".into(),
        pod: "web".into(),
        endpoint: "eth0".into(),
        interface_name: "cali0123456789a".into(),
        ..WorkloadEndpointSpec::default()
    };
    let created =
        client.create(WorkloadEndpoint::new("", spec.clone()).in_namespace("prod").into()).await.unwrap();
    assert_eq!(created.metadata().name, "node--1-k8s-web-eth0");
    assert_eq!(created.metadata().labels["projectcalico.org/namespace"], "prod");
    let wrong = WorkloadEndpoint::new("other", spec).in_namespace("prod").into();
    assert_eq!(field(client.create(wrong).await), "metadata.name");
}

#[tokio::test]
async fn initialisation_is_idempotent_and_concurrent() {
    let memory = MemoryStore::new();
    let client = Client::new(Arc::new(Store::new(memory.clone())));
    let facts = Initialization { calico_version: "v0.1".into(), cluster_type: "k8s".into() };
    let all = futures::future::join_all((0..5).map(|_| client.ensure_initialized(&facts))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    let before = memory.info().await.unwrap().revision;
    client.ensure_initialized(&facts).await.unwrap();
    assert_eq!(memory.info().await.unwrap().revision, before, "nothing to write");
    let tiers = client.list(Kind::Tier, None).await.unwrap().items;
    let names: Vec<&str> = tiers.iter().map(|tier| tier.metadata().name.as_str()).collect();
    assert_eq!(names, ["default", "kube-admin", "kube-baseline"]);
    assert_eq!(
        field(
            client
                .create(AnyResource::from(calico_model::ClusterInformation::new("x", Default::default())))
                .await
        ),
        "metadata.name"
    );
}

#[tokio::test]
async fn all_problems_of_an_object_are_named() {
    let (_, client) = client().await;
    let spec = IPPoolSpec { cidr: "10.0.0.7/16".into(), block_size: 3, ..IPPoolSpec::default() };
    let error = client.create(IPPool::new("Big", spec).into()).await.unwrap_err();
    let StoreError::Rejected { problems, .. } = error else { panic!("{error}") };
    let paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
    for path in ["metadata.name", "spec.cidr", "spec.blockSize"] {
        assert!(paths.contains(&path), "{paths:?} lacks {path}");
    }
}

#[tokio::test]
async fn unreadable_entries_are_listed_as_failures() {
    let (memory, client) = client().await;
    client.create(pool("a", "10.0.0.0/16")).await.unwrap();
    let path = Key::resource(Kind::IPPool, "", "broken").path();
    memory.txn(vec![RawWrite::put(&*path, Expect::Any, *b"{")]).await.unwrap();
    let list = client.list(Kind::IPPool, None).await.unwrap();
    assert_eq!((list.items.len(), list.failures.len()), (1, 1));
    assert_eq!(list.failures[0].key, path);
    assert!(matches!(client.get(Kind::IPPool, "", "broken").await, Err(StoreError::Undecodable { .. })));
}
