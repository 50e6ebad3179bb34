//! Resources as Kubernetes custom resources, in both API groups.
//!
//! In the group `projectcalico.org/v3` a resource is stored as it is. In the older group `crd.projectcalico.org/v1` the
//! metadata that Calico's users see is packed into an annotation, and UIDs are changed, so that an object and the custom
//! resource that stores it are two objects for Kubernetes. The form must be exact: the reference reads the same data.

use serde_json::{Map, Value as Json};

use crate::decode::{Mode, Unknown};
use crate::error::{FieldError, ModelError};
use crate::names::{self, AFFINITY_TYPE_LABEL, HOSTNAME_HASH_LABEL, IP_VERSION_LABEL};
use crate::order::{METADATA_ANNOTATION, user_policy_name};
use crate::resource::ipam::{
    AllocationBlock, BlockAffinitySpec, BlockAffinityState, IPAMHandleSpec, IpamHandle,
};
use crate::{
    API_VERSION, AffinityType, AnyResource, BlockAffinity, BlockAffinityKey, BlockAffinityValue,
    CRD_V1_API_VERSION, IPAMBlock, IPAMConfig, IPAMConfiguration, IPAMHandle, IpamConfig, Kind, Labels,
    ObjectMeta, OwnerReference,
};

/// API group that stores Calico's resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// `crd.projectcalico.org/v1`.
    V1,
    /// `projectcalico.org/v3`.
    V3,
}

impl Group {
    /// Group and version as in `apiVersion`.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::V1 => CRD_V1_API_VERSION,
            Self::V3 => API_VERSION,
        }
    }

    /// Name of the group.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "crd.projectcalico.org",
            Self::V3 => "projectcalico.org",
        }
    }

    /// Version within the group.
    pub fn version(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V3 => "v3",
        }
    }

    /// The group to use, from the configured one (any text but the v3 group means v1) or the groups a cluster serves: v3
    /// only when the older group is absent, as both together mean an API server in front of the older one.
    pub fn choose<'a>(configured: &str, served: impl IntoIterator<Item = &'a str>) -> Self {
        if !configured.is_empty() {
            return if configured.eq_ignore_ascii_case(API_VERSION) { Self::V3 } else { Self::V1 };
        }
        let mut v3 = false;
        for group in served {
            match group {
                "crd.projectcalico.org" => return Self::V1,
                "projectcalico.org" => v3 = true,
                _ => {}
            }
        }
        if v3 { Self::V3 } else { Self::V1 }
    }

    /// The kind under which the group stores objects of `kind`: the settings of IPAM have two names.
    pub fn stored_kind(self, kind: Kind) -> Kind {
        match (self, kind) {
            (Self::V1, Kind::IPAMConfiguration) => Kind::IPAMConfig,
            (Self::V3, Kind::IPAMConfig) => Kind::IPAMConfiguration,
            _ => kind,
        }
    }
}

/// True for keys of labels and annotations that stay visible on a custom resource of group v1.
fn is_ours(key: &str) -> bool {
    key.contains("projectcalico.org/") || key.contains("operator.tigera.io/")
}

/// The custom resource that stores a resource.
///
/// ```
/// use calico_model::k8s::custom_resource::{Group, from_custom_resource, to_custom_resource};
/// use calico_model::{AnyResource, IPPool, IPPoolSpec, Kind};
/// let mut pool = IPPool::new("blue", IPPoolSpec { cidr: "10.0.0.0/16".into(), ..Default::default() });
/// pool.metadata.labels.insert("color".into(), "blue".into());
/// let resource = AnyResource::from(pool);
/// let stored = to_custom_resource(&resource, Group::V1);
/// assert_eq!(stored["metadata"]["annotations"]["projectcalico.org/metadata"], r#"{"labels":{"color":"blue"}}"#);
/// assert_eq!(from_custom_resource(Kind::IPPool, stored), Ok(resource));
/// ```
pub fn to_custom_resource(resource: &AnyResource, group: Group) -> Json {
    let resource = renamed(resource, group);
    let mut tree = resource.to_tree();
    let Some(object) = tree.as_object_mut() else { return tree };
    object.insert("apiVersion".to_owned(), group.api_version().into());
    if group == Group::V3 {
        return tree;
    }
    if let AnyResource::BlockAffinity(b) = &resource
        && let Some(Json::Object(spec)) = object.get_mut("spec")
    {
        spec.insert("deleted".to_owned(), b.spec.deleted.to_string().into());
    }
    let metadata = packed(resource.kind(), resource.metadata(), &resource.unknown().below("metadata"));
    object.insert("metadata".to_owned(), serde_json::to_value(metadata).unwrap_or_default());
    tree
}

/// The same settings under the kind of the group.
fn renamed(resource: &AnyResource, group: Group) -> AnyResource {
    match (group, resource) {
        (Group::V1, AnyResource::IPAMConfiguration(c)) => {
            let spec = crate::IPAMConfigSpec {
                strict_affinity: c.spec.strict_affinity,
                auto_allocate_blocks: c.spec.auto_allocate_blocks,
                max_blocks_per_host: c.spec.max_blocks_per_host,
                kubevirt_vm_address_persistence: c.spec.kubevirt_vm_address_persistence.clone(),
                ip_cooldown_seconds: c.spec.ip_cooldown_seconds,
            };
            let (metadata, unknown) = (c.metadata.clone(), c.unknown.clone());
            IPAMConfig { metadata, spec, unknown, ..IPAMConfig::default() }.into()
        }
        (Group::V3, AnyResource::IPAMConfig(c)) => {
            let spec = crate::IPAMConfigurationSpec {
                strict_affinity: c.spec.strict_affinity,
                auto_allocate_blocks: c.spec.auto_allocate_blocks,
                max_blocks_per_host: c.spec.max_blocks_per_host,
                kubevirt_vm_address_persistence: c.spec.kubevirt_vm_address_persistence.clone(),
                ip_cooldown_seconds: c.spec.ip_cooldown_seconds,
            };
            let (metadata, unknown) = (c.metadata.clone(), c.unknown.clone());
            IPAMConfiguration { metadata, spec, unknown, ..IPAMConfiguration::default() }.into()
        }
        _ => resource.clone(),
    }
}

fn packed(kind: Kind, m: &ObjectMeta, unknown: &Unknown) -> ObjectMeta {
    let mut inner = ObjectMeta {
        namespace: String::new(),
        resource_version: String::new(),
        uid: String::new(),
        ..m.clone()
    };
    if !kind.is_tiered_policy() {
        inner.name.clear();
    }
    for owner in &mut inner.owner_references {
        if owner.api_version == API_VERSION {
            *owner = moved(owner, CRD_V1_API_VERSION);
        }
    }
    let ours =
        |map: &Labels| map.iter().filter(|(k, _)| is_ours(k)).map(|(k, v)| (k.clone(), v.clone())).collect();
    let mut annotations: Labels = ours(&m.annotations);
    let text = if unknown.is_empty() {
        serde_json::to_string(&inner).unwrap_or_default()
    } else {
        let mut tree = serde_json::to_value(&inner).unwrap_or_default();
        unknown.merge_into(&mut tree);
        tree.to_string()
    };
    annotations.insert(METADATA_ANNOTATION.to_owned(), text);
    ObjectMeta {
        name: m.name.clone(),
        namespace: m.namespace.clone(),
        resource_version: m.resource_version.clone(),
        uid: names::derived_uid(&m.uid),
        labels: ours(&m.labels),
        annotations,
        ..ObjectMeta::default()
    }
}

fn moved(owner: &OwnerReference, api_version: &str) -> OwnerReference {
    OwnerReference {
        api_version: api_version.to_owned(),
        uid: names::derived_uid(&owner.uid),
        ..owner.clone()
    }
}

/// The resource that a custom resource of either group stores. Unknown fields are kept.
pub fn from_custom_resource(kind: Kind, tree: Json) -> Result<AnyResource, ModelError> {
    let v1 = tree.get("apiVersion").and_then(Json::as_str) == Some(CRD_V1_API_VERSION);
    let stored = if v1 { Group::V1.stored_kind(kind) } else { Group::V3.stored_kind(kind) };
    let mut resource = AnyResource::from_tree(stored, tree, Mode::Lenient)?;
    if v1 {
        unpack(&mut resource)?;
        resource.set_api_version(API_VERSION);
        // Users know the settings of IPAM by the name of group v3.
        if kind == Kind::IPAMConfiguration {
            resource = renamed(&resource, Group::V3);
        }
    }
    Ok(resource)
}

fn unpack(resource: &mut AnyResource) -> Result<(), ModelError> {
    let kind = resource.kind();
    let tier = tier_of(resource).to_owned();
    let m = resource.metadata_mut();
    m.uid = names::derived_uid(&m.uid);
    let Some(text) = m.annotations.remove(METADATA_ANNOTATION) else { return Ok(()) };
    let (mut inner, unknown) = serde_json::from_str::<Map<String, Json>>(&text)
        .map_err(|e| e.to_string())
        .and_then(|map| {
            crate::decode::from_tree::<ObjectMeta>(Json::Object(map), "metadata", Mode::Lenient)
                .map_err(|e| e.to_string())
        })
        .map_err(|reason| {
            let path = format!("metadata.annotations[{METADATA_ANNOTATION:?}]");
            ModelError::Fields { what: kind.name().to_owned(), problems: vec![FieldError::new(path, reason)] }
        })?;
    for owner in &mut inner.owner_references {
        if [API_VERSION, CRD_V1_API_VERSION].contains(&owner.api_version.as_str()) {
            *owner = moved(owner, API_VERSION);
        }
    }
    // What the annotation says wins over what is visible.
    let mut labels = std::mem::take(&mut m.labels);
    labels.append(&mut inner.labels);
    let mut annotations = std::mem::take(&mut m.annotations);
    annotations.append(&mut inner.annotations);
    if inner.name.is_empty() {
        inner.name = match kind.is_tiered_policy() {
            true => user_policy_name(&m.name, &tier, &Labels::new()),
            false => m.name.clone(),
        };
    }
    *m = ObjectMeta {
        namespace: std::mem::take(&mut m.namespace),
        resource_version: std::mem::take(&mut m.resource_version),
        uid: std::mem::take(&mut m.uid),
        creation_timestamp: inner.creation_timestamp.or(m.creation_timestamp),
        labels,
        annotations,
        ..inner
    };
    resource.unknown_mut().add_below("metadata", unknown);
    Ok(())
}

fn tier_of(resource: &AnyResource) -> &str {
    match resource {
        AnyResource::NetworkPolicy(p) => &p.spec.tier,
        AnyResource::GlobalNetworkPolicy(p) => &p.spec.tier,
        AnyResource::StagedNetworkPolicy(p) => &p.spec.tier,
        AnyResource::StagedGlobalNetworkPolicy(p) => &p.spec.tier,
        _ => "",
    }
}

/// A block as a custom resource's object.
pub fn block_resource(block: &AllocationBlock) -> IPAMBlock {
    IPAMBlock::new(names::cidr_name(&block.cidr), block.clone().into())
}

/// A claim on a block as an object, with the labels that lists select by.
#[cfg(feature = "kubernetes")]
pub fn affinity_resource(key: &BlockAffinityKey, value: &BlockAffinityValue) -> BlockAffinity {
    let mut resource = BlockAffinity::new(
        names::affinity_name(&key.host, &key.cidr),
        BlockAffinitySpec {
            state: value.state.clone(),
            node: key.host.clone(),
            affinity_type: Some(key.owner_type.as_str().to_owned()),
            cidr: key.cidr.trunc().to_string(),
            deleted: value.deleted,
        },
    );
    let version = if key.cidr.addr().is_ipv4() { "4" } else { "6" };
    resource.metadata.labels = [
        (HOSTNAME_HASH_LABEL.to_owned(), names::hostname_hash(&key.host)),
        (AFFINITY_TYPE_LABEL.to_owned(), key.owner_type.as_str().to_owned()),
        (IP_VERSION_LABEL.to_owned(), version.to_owned()),
    ]
    .into();
    resource
}

/// Key and value of a claim from its object. Absent type means a host, absent state confirmed.
pub fn affinity_of(resource: &BlockAffinity) -> Result<(BlockAffinityKey, BlockAffinityValue), FieldError> {
    let s = &resource.spec;
    let owner_type = match s.affinity_type.as_deref().unwrap_or_default() {
        "" | "host" => AffinityType::Host,
        "virtual" => AffinityType::Virtual,
        other => return Err(FieldError::with_value("spec.type", other, "must be host or virtual")),
    };
    let cidr = crate::net::cidr(&s.cidr).map_err(|e| FieldError::new("spec.cidr", e.to_string()))?.trunc();
    let state = if s.state.is_unset() { BlockAffinityState::Confirmed } else { s.state.clone() };
    Ok((
        BlockAffinityKey { owner_type, host: s.node.clone(), cidr },
        BlockAffinityValue { state, deleted: s.deleted, ..BlockAffinityValue::default() },
    ))
}

/// A handle as an object. The name is in lower case, the spec keeps the case.
pub fn handle_resource(handle_id: &str, handle: &IpamHandle) -> IPAMHandle {
    IPAMHandle::new(
        handle_id.to_ascii_lowercase(),
        IPAMHandleSpec {
            handle_id: handle_id.to_owned(),
            block: handle.block.clone(),
            deleted: handle.deleted,
        },
    )
}

/// Id and value of a handle from its object.
pub fn handle_of(resource: &IPAMHandle) -> (String, IpamHandle) {
    let s = &resource.spec;
    (s.handle_id.clone(), IpamHandle { block: s.block.clone(), deleted: s.deleted, ..IpamHandle::default() })
}

/// Settings of IPAM as an object, of which there is one.
pub fn ipam_config_resource(config: &IpamConfig) -> IPAMConfiguration {
    let persistence = &config.kubevirt_vm_address_persistence;
    IPAMConfiguration::new(
        "default",
        crate::IPAMConfigurationSpec {
            strict_affinity: config.strict_affinity,
            auto_allocate_blocks: Some(config.auto_allocate_blocks),
            max_blocks_per_host: Some(i32::try_from(config.max_blocks_per_host).unwrap_or(i32::MAX)),
            kubevirt_vm_address_persistence: (!persistence.is_unset()).then(|| persistence.clone()),
            ip_cooldown_seconds: Some(i32::try_from(config.ip_cooldown_seconds).unwrap_or(i32::MAX)),
        },
    )
}

/// Settings of IPAM from their object. Absent `autoAllocateBlocks` means yes: the API fills it in.
pub fn ipam_config_of(resource: &IPAMConfiguration) -> IpamConfig {
    let s = &resource.spec;
    let number = |n: Option<i32>| n.and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    IpamConfig {
        strict_affinity: s.strict_affinity,
        auto_allocate_blocks: s.auto_allocate_blocks.unwrap_or(true),
        max_blocks_per_host: number(s.max_blocks_per_host),
        kubevirt_vm_address_persistence: s.kubevirt_vm_address_persistence.clone().unwrap_or_default(),
        ip_cooldown_seconds: number(s.ip_cooldown_seconds),
        ..IpamConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_policy_keeps_the_name_its_user_wrote() {
        let stored = |name: &str, annotations: Json| {
            json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "GlobalNetworkPolicy",
                "metadata": {"name": name, "uid": "41cb1fde-57e7-42c1-a73b-0acaf38c7737", "annotations": annotations},
                "spec": {"tier": "default"}})
        };
        let name = |tree: Json| {
            let r = from_custom_resource(Kind::GlobalNetworkPolicy, tree).unwrap();
            assert_eq!(r.api_version(), API_VERSION);
            assert_eq!(r.metadata().uid, "82d3f87b-eae7-4283-a7dc-5053cf31eeec");
            r.metadata().name.clone()
        };
        let packed = |text: &str| json!({"projectcalico.org/metadata": text});
        assert_eq!(name(stored("default.x", packed("{}"))), "x");
        assert_eq!(name(stored("default.x", packed(r#"{"name":"default.x"}"#))), "default.x");
        assert_eq!(name(stored("x", packed(r#"{"name":"x","creationTimestamp":null}"#))), "x");
        // Without the annotation the metadata is what it is.
        assert_eq!(name(stored("default.x", json!({}))), "default.x");
    }

    #[test]
    fn metadata_is_packed_and_unpacked() {
        let tree = json!({"apiVersion": API_VERSION, "kind": "NetworkSet", "metadata": {
            "name": "a", "namespace": "ns", "uid": "41cb1fde-57e7-42c1-a73b-0acaf38c7737", "resourceVersion": "7",
            "creationTimestamp": "2026-08-22T13:33:20Z",
            "labels": {"a": "b", "projectcalico.org/x": "y"}, "annotations": {"c": "d", "operator.tigera.io/z": "w"},
            "ownerReferences": [
                {"apiVersion": API_VERSION, "kind": "Tier", "name": "t", "uid": "41cb1fde-57e7-42c1-a73b-0acaf38c7737"},
                {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "41cb1fde-57e7-42c1-a73b-0acaf38c7737"}]},
            "spec": {"nets": ["10.0.0.0/8"], "new": 1}});
        let resource = AnyResource::read(tree.clone(), Mode::Lenient).unwrap();
        let stored = to_custom_resource(&resource, Group::V1);
        let m = &stored["metadata"];
        assert_eq!(m["labels"], json!({"projectcalico.org/x": "y"}));
        assert_eq!(m["uid"], "82d3f87b-eae7-4283-a7dc-5053cf31eeec");
        assert_eq!(m["annotations"]["operator.tigera.io/z"], "w");
        assert!(m.get("ownerReferences").is_none() && m.get("creationTimestamp").is_none());
        let inner: Json =
            serde_json::from_str(m["annotations"]["projectcalico.org/metadata"].as_str().unwrap()).unwrap();
        assert_eq!(inner["ownerReferences"][0]["apiVersion"], CRD_V1_API_VERSION);
        assert_eq!(inner["ownerReferences"][0]["uid"], "82d3f87b-eae7-4283-a7dc-5053cf31eeec");
        assert_eq!(inner["ownerReferences"][1]["uid"], "41cb1fde-57e7-42c1-a73b-0acaf38c7737");
        assert_eq!(inner["labels"], json!({"a": "b", "projectcalico.org/x": "y"}));
        assert!(inner.get("name").is_none());
        let back = from_custom_resource(Kind::NetworkSet, stored).unwrap();
        assert_eq!(back.to_tree(), tree);
        assert_eq!(
            from_custom_resource(Kind::NetworkSet, to_custom_resource(&resource, Group::V3)),
            Ok(resource)
        );
    }

    #[test]
    fn ipam_objects() {
        let key = BlockAffinityKey {
            owner_type: AffinityType::Host,
            host: "node1".into(),
            cidr: "10.0.0.64/26".parse().unwrap(),
        };
        let value = BlockAffinityValue {
            state: BlockAffinityState::Pending,
            deleted: true,
            ..BlockAffinityValue::default()
        };
        let resource = affinity_resource(&key, &value);
        assert_eq!(resource.metadata.name, "node1-10-0-0-64-26");
        assert_eq!(resource.metadata.labels[IP_VERSION_LABEL], "4");
        assert_eq!(affinity_of(&resource), Ok((key, value)));
        let stored = to_custom_resource(&resource.clone().into(), Group::V1);
        assert_eq!(stored["spec"]["deleted"], "true");
        assert_eq!(from_custom_resource(Kind::BlockAffinity, stored), Ok(resource.into()));

        let config =
            IpamConfig { strict_affinity: true, max_blocks_per_host: 7, ..IpamConfig::when_missing() };
        let resource = ipam_config_resource(&config);
        let stored = to_custom_resource(&resource.clone().into(), Group::V1);
        assert_eq!(stored["kind"], "IPAMConfig");
        let Ok(AnyResource::IPAMConfiguration(back)) = from_custom_resource(Kind::IPAMConfiguration, stored)
        else {
            panic!()
        };
        assert_eq!(*back, resource);
        assert_eq!(ipam_config_of(&back), config);

        let handle = IpamHandle { block: [("10.0.0.0/26".to_owned(), 2)].into(), ..IpamHandle::default() };
        let resource = handle_resource("Net.ABC", &handle);
        assert_eq!(resource.metadata.name, "net.abc");
        assert_eq!(handle_of(&resource), ("Net.ABC".to_owned(), handle));
        let block = AllocationBlock::new("fd00:10:96::/122".parse().unwrap());
        assert_eq!(block_resource(&block).metadata.name, "fd00-10-96---122");
    }

    #[test]
    fn the_group_is_chosen_as_the_reference_does() {
        let both = ["projectcalico.org", "crd.projectcalico.org"];
        assert_eq!(Group::choose("", both), Group::V1);
        assert_eq!(Group::choose("", ["projectcalico.org", "apps"]), Group::V3);
        assert_eq!(Group::choose("", []), Group::V1);
        assert_eq!(Group::choose("projectcalico.org/v3", both), Group::V3);
        assert_eq!(Group::choose("x", ["projectcalico.org"]), Group::V1);
    }
}
