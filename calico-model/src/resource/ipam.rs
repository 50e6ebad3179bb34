//! What IPAM stores: blocks, affinities, handles and configuration, in the etcd form and in the form of Kubernetes
//! custom resources.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value as Json;

use crate::Timestamp;
use crate::decode::{Segment, Unknown};
use crate::shape::{TextVisitor, null_is_default, object, text_enum};

text_enum! {
    /// State of the claim of a node on a block. Unset counts as confirmed.
    pub enum BlockAffinityState {
        /// The block belongs to the node.
        Confirmed = "confirmed",
        /// The claim is written, the block not yet.
        Pending = "pending",
        /// The claim is about to go.
        PendingDeletion = "pendingDeletion",
    }

    /// Whether a KubeVirt machine keeps its address over restarts and migrations. Unset means enabled.
    pub enum VmAddressPersistence {
        /// It does.
        Enabled = "Enabled",
        /// It does not.
        Disabled = "Disabled",
    }
}

/// Fields of one object that this version does not know, by name.
pub type UnknownFields = BTreeMap<String, Json>;

/// A block of addresses as stored in etcd (and, apart from two names, in the spec of an `IPAMBlock`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllocationBlock {
    /// Network of the block, masked.
    pub cidr: IpNet,
    /// Owner: `host:<node>`, `virtual:<name>`, or none.
    #[serde(default)]
    pub affinity: Option<String>,
    /// When the owner claimed the block.
    #[serde(rename = "affinity_claim_time", default, skip_serializing_if = "Option::is_none")]
    pub affinity_claim_time: Option<Timestamp>,
    /// Per ordinal (0 = network address): `None` when free, else an index into `attributes`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub allocations: Vec<Option<u32>>,
    /// Free ordinals, longest free first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub unallocated: Vec<u32>,
    /// What allocations share: handle and owner.
    #[serde(default, deserialize_with = "null_is_default")]
    pub attributes: Vec<AllocationAttribute>,
    /// Counts updates of the block; starts at the Unix time of creation in nanoseconds.
    #[serde(rename = "sequenceNumber", default, deserialize_with = "null_is_default")]
    pub sequence_number: u64,
    /// Sequence number at which each ordinal was assigned.
    #[serde(rename = "sequenceNumberForAllocation", default, with = "ordinals")]
    pub sequence_number_for_allocation: BTreeMap<u32, u64>,
    /// Soft deletion, used on Kubernetes only.
    #[serde(default, deserialize_with = "null_is_default")]
    pub deleted: bool,
    /// Owner in the form of very old versions; kept, not interpreted.
    #[serde(rename = "hostAffinity", default, skip_serializing_if = "Option::is_none")]
    pub host_affinity: Option<String>,
    /// Fields this version does not know; written back unchanged.
    #[serde(flatten, skip_deserializing)]
    pub unknown: UnknownFields,
}

impl AllocationBlock {
    /// An empty, unowned block without ordinals; the allocator fills it.
    pub fn new(cidr: IpNet) -> Self {
        Self {
            cidr,
            affinity: None,
            affinity_claim_time: None,
            allocations: Vec::new(),
            unallocated: Vec::new(),
            attributes: Vec::new(),
            sequence_number: 0,
            sequence_number_for_allocation: BTreeMap::new(),
            deleted: false,
            host_affinity: None,
            unknown: UnknownFields::new(),
        }
    }
}

/// Handle and owner of one or more allocations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AllocationAttribute {
    /// Handle through which the allocation can be found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handle_id: Option<String>,
    /// Attributes of the active owner, for example `pod`, `namespace`, `node`.
    #[serde(
        rename = "secondary",
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub active_owner_attrs: BTreeMap<String, String>,
    /// Attributes of a second owner (live migration).
    #[serde(
        rename = "alternateOwnerAttrs",
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub alternate_owner_attrs: BTreeMap<String, String>,
    /// When the address was released and began to cool down.
    #[serde(rename = "releasedAt", skip_serializing_if = "Option::is_none")]
    pub released_at: Option<Timestamp>,
    /// Fields this version does not know; written back unchanged.
    #[serde(flatten, skip_deserializing)]
    pub unknown: UnknownFields,
}

/// Maps keyed by ordinal, with the ordinal as decimal text in JSON.
mod ordinals {
    use super::{BTreeMap, Deserialize, Deserializer};
    use serde::Serializer;
    use serde::de::Error;

    pub(super) fn serialize<S: Serializer>(map: &BTreeMap<u32, u64>, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(map)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<u32, u64>, D::Error> {
        let map = Option::<BTreeMap<String, u64>>::deserialize(d)?.unwrap_or_default();
        map.into_iter()
            .map(|(k, v)| match k.parse() {
                Ok(k) => Ok((k, v)),
                Err(_) => Err(D::Error::custom(format!("{k:?} is not an ordinal of a block"))),
            })
            .collect()
    }
}

/// Value of a block affinity in etcd; owner and network stand in the key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BlockAffinityValue {
    /// State of the claim.
    #[serde(deserialize_with = "null_is_default")]
    pub state: BlockAffinityState,
    /// Soft deletion, used on Kubernetes only.
    #[serde(deserialize_with = "null_is_default")]
    pub deleted: bool,
    /// Fields this version does not know; written back unchanged.
    #[serde(flatten, skip_deserializing)]
    pub unknown: UnknownFields,
}

/// Value of an IPAM handle in etcd: how many addresses it holds per block.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IpamHandle {
    /// Number of addresses by block CIDR.
    #[serde(deserialize_with = "null_is_default")]
    pub block: BTreeMap<String, u32>,
    /// Soft deletion, used on Kubernetes only.
    #[serde(deserialize_with = "null_is_default")]
    pub deleted: bool,
    /// Fields this version does not know; written back unchanged.
    #[serde(flatten, skip_deserializing)]
    pub unknown: UnknownFields,
}

/// IPAM configuration as stored in etcd. Absent fields of a stored object mean false and zero; the defaults for a
/// missing object are [`IpamConfig::when_missing`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IpamConfig {
    /// Nodes take addresses from their own blocks only.
    #[serde(skip_serializing_if = "crate::shape::unset", deserialize_with = "null_is_default")]
    pub strict_affinity: bool,
    /// Nodes claim blocks by themselves.
    #[serde(skip_serializing_if = "crate::shape::unset", deserialize_with = "null_is_default")]
    pub auto_allocate_blocks: bool,
    /// Most blocks per node; 0 means the built-in limit.
    #[serde(
        rename = "maxBlocksPerHost",
        skip_serializing_if = "crate::shape::unset",
        deserialize_with = "null_is_default"
    )]
    pub max_blocks_per_host: u32,
    /// Address persistence of KubeVirt machines.
    #[serde(
        rename = "kubeVirtVMAddressPersistence",
        skip_serializing_if = "crate::shape::unset",
        deserialize_with = "null_is_default"
    )]
    pub kubevirt_vm_address_persistence: VmAddressPersistence,
    /// Seconds during which a released address is not assigned again.
    #[serde(
        rename = "ipCooldownSeconds",
        skip_serializing_if = "crate::shape::unset",
        deserialize_with = "null_is_default"
    )]
    pub ip_cooldown_seconds: u32,
    /// Fields this version does not know; written back unchanged.
    #[serde(flatten, skip_deserializing)]
    pub unknown: UnknownFields,
}

impl IpamConfig {
    /// The behaviour when no configuration is stored.
    pub fn when_missing() -> Self {
        Self { auto_allocate_blocks: true, ..Self::default() }
    }
}

/// A stored value that carries the fields it does not know.
pub(crate) trait Carrier {
    /// Takes in what the reader found and did not know. What stands in a place without a carrier is left out.
    fn carry(&mut self, unknown: Unknown);
}

impl Carrier for AllocationBlock {
    fn carry(&mut self, unknown: Unknown) {
        for (path, value) in unknown.into_entries() {
            match path.as_slice() {
                [Segment::Field(name)] => {
                    self.unknown.insert(name.clone(), value);
                }
                [Segment::Field(list), Segment::Element { index, .. }, Segment::Field(name)]
                    if list == "attributes" =>
                {
                    if let Some(attribute) = self.attributes.get_mut(*index) {
                        attribute.unknown.insert(name.clone(), value);
                    }
                }
                _ => {}
            }
        }
    }
}

macro_rules! flat_carriers {
    ($($t:ty),*) => {$(
        impl Carrier for $t {
            fn carry(&mut self, unknown: Unknown) {
                for (path, value) in unknown.into_entries() {
                    if let [Segment::Field(name)] = path.as_slice() {
                        self.unknown.insert(name.clone(), value);
                    }
                }
            }
        }
    )*};
}
flat_carriers! { BlockAffinityValue, IpamHandle, IpamConfig }

object! {
    /// Spec of an `IPAMConfiguration` (group v3).
    pub struct IPAMConfigurationSpec always {
        /// Nodes take addresses from their own blocks only.
        strict_affinity: bool = "strictAffinity",
        /// Nodes claim blocks by themselves; absent means yes when created through the API.
        auto_allocate_blocks: Option<bool> = "autoAllocateBlocks",
        /// Most blocks per node, 0–1000000; 0 means the built-in limit of 20.
        max_blocks_per_host: Option<i32> = "maxBlocksPerHost",
        /// Address persistence of KubeVirt machines; absent means enabled.
        kubevirt_vm_address_persistence: Option<VmAddressPersistence> = "kubeVirtVMAddressPersistence",
        /// Seconds during which a released address is not assigned again, 0–1200.
        ip_cooldown_seconds: Option<i32> = "ipCooldownSeconds",
    }

    /// Spec of an `IPAMConfig` (group v1): the same settings.
    pub struct IPAMConfigSpec always {
        /// Nodes take addresses from their own blocks only.
        strict_affinity: bool = "strictAffinity",
        /// Nodes claim blocks by themselves; absent means yes when created through the API.
        auto_allocate_blocks: Option<bool> = "autoAllocateBlocks",
        /// Most blocks per node, 0–2147483647; 0 means the built-in limit of 20.
        max_blocks_per_host: Option<i32> = "maxBlocksPerHost",
        /// Address persistence of KubeVirt machines; absent means enabled.
        kubevirt_vm_address_persistence: Option<VmAddressPersistence> = "kubeVirtVMAddressPersistence",
        /// Seconds during which a released address is not assigned again, 0–1200.
        ip_cooldown_seconds: Option<i32> = "ipCooldownSeconds",
    }

    /// Spec of a `BlockAffinity`.
    pub struct BlockAffinitySpec always {
        /// State of the claim.
        state: BlockAffinityState = "state",
        /// Name of the owner.
        node: String = "node",
        /// `host` or `virtual`; absent means `host`.
        affinity_type: Option<String> = "type",
        /// Network of the block.
        cidr: String = "cidr",
        /// Soft deletion. A text in group v1, a boolean in v3; both are read, the boolean is written.
        #[serde(deserialize_with = "bool_or_text")]
        deleted: bool = "deleted",
    }

    /// Spec of an `IPAMBlock`.
    pub struct IPAMBlockSpec always {
        /// Network of the block.
        cidr: String = "cidr",
        /// Owner: `host:<node>` or `virtual:<name>`.
        affinity: Option<String> = "affinity",
        /// When the owner claimed the block.
        affinity_claim_time: Option<Timestamp> = "affinityClaimTime",
        /// Per ordinal: null when free, else an index into `attributes`.
        allocations: Vec<Option<u32>> = "allocations",
        /// Free ordinals, longest free first.
        unallocated: Vec<u32> = "unallocated",
        /// What allocations share.
        attributes: Vec<AllocationAttribute> = "attributes",
        /// Counts updates of the block.
        sequence_number: u64 = "sequenceNumber",
        /// Sequence number at which each ordinal was assigned.
        #[serde(with = "ordinals")]
        sequence_number_for_allocation: BTreeMap<u32, u64> = "sequenceNumberForAllocation",
        /// Soft deletion.
        deleted: bool = "deleted",
        /// Not in use; always false.
        strict_affinity: bool = "strictAffinity",
    }

    /// Spec of an `IPAMHandle`.
    pub struct IPAMHandleSpec always {
        /// The handle; its case is kept, unlike that of the object's name.
        handle_id: String = "handleID",
        /// Number of addresses by block CIDR.
        block: BTreeMap<String, u32> = "block",
        /// Soft deletion.
        deleted: bool = "deleted",
    }
}

impl crate::shape::Shape for AllocationAttribute {
    fn shape() -> crate::shape::TypeShape {
        use crate::shape::{FieldShape, ObjectShape, TypeShape};
        let texts = || TypeShape::Map(Box::new(TypeShape::String));
        TypeShape::Object(ObjectShape {
            name: "AllocationAttribute",
            doc: &["Handle and owner of one or more allocations."],
            fields: vec![
                FieldShape {
                    name: "handle_id",
                    doc: &["Handle through which the allocation can be found."],
                    shape: TypeShape::String,
                },
                FieldShape { name: "secondary", doc: &["Attributes of the active owner."], shape: texts() },
                FieldShape {
                    name: "alternateOwnerAttrs",
                    doc: &["Attributes of a second owner (live migration)."],
                    shape: texts(),
                },
                FieldShape {
                    name: "releasedAt",
                    doc: &["When the address was released."],
                    shape: TypeShape::Time,
                },
            ],
        })
    }
    fn unset(&self) -> bool {
        *self == Self::default()
    }
}

/// `true`/`false`, or the same as text (group v1 of block affinities); empty text is false.
fn bool_or_text<'de, D: Deserializer<'de>>(d: D) -> Result<bool, D::Error> {
    struct Either;
    impl serde::de::Visitor<'_> for Either {
        type Value = bool;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("true or false")
        }
        fn visit_bool<E: serde::de::Error>(self, v: bool) -> Result<bool, E> {
            Ok(v)
        }
        fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<bool, E> {
            let read = |s: &str| match s {
                "true" => Ok(true),
                "false" | "" => Ok(false),
                _ => Err(format!("{s:?} is neither true nor false")),
            };
            TextVisitor(read, "true or false").visit_str(v)
        }
    }
    d.deserialize_any(Either)
}

/// The spec names another block than a CIDR.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("block network {cidr:?} is not a CIDR")]
pub struct BlockCidrError {
    /// The text found.
    pub cidr: String,
}

impl TryFrom<IPAMBlockSpec> for AllocationBlock {
    type Error = BlockCidrError;

    fn try_from(s: IPAMBlockSpec) -> Result<Self, BlockCidrError> {
        let cidr = s.cidr.parse().map_err(|_| BlockCidrError { cidr: s.cidr.clone() })?;
        Ok(Self {
            cidr,
            affinity: s.affinity,
            affinity_claim_time: s.affinity_claim_time,
            allocations: s.allocations,
            unallocated: s.unallocated,
            attributes: s.attributes,
            sequence_number: s.sequence_number,
            sequence_number_for_allocation: s.sequence_number_for_allocation,
            deleted: s.deleted,
            host_affinity: None,
            unknown: UnknownFields::new(),
        })
    }
}

impl From<AllocationBlock> for IPAMBlockSpec {
    fn from(b: AllocationBlock) -> Self {
        Self {
            cidr: b.cidr.to_string(),
            affinity: b.affinity,
            affinity_claim_time: b.affinity_claim_time,
            allocations: b.allocations,
            unallocated: b.unallocated,
            attributes: b.attributes,
            sequence_number: b.sequence_number,
            sequence_number_for_allocation: b.sequence_number_for_allocation,
            deleted: b.deleted,
            strict_affinity: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_keeps_bytes_of_etcd() {
        let text = concat!(
            r#"{"cidr":"10.65.0.0/30","affinity":"host:node1","allocations":[0,null,null,null],"#,
            r#""unallocated":[1,2,3],"attributes":[{"handle_id":"h1","secondary":{"node":"node1"}}],"#,
            r#""sequenceNumber":1787405600123456789,"sequenceNumberForAllocation":{"0":1787405600123456789},"#,
            r#""deleted":false}"#
        );
        let b: AllocationBlock = serde_json::from_str(text).unwrap();
        assert_eq!(b.sequence_number, 1_787_405_600_123_456_789);
        assert_eq!(serde_json::to_string(&b).unwrap(), text);
    }

    #[test]
    fn go_nulls_are_empty() {
        let text = r#"{"cidr":"10.0.0.0/26","affinity":null,"allocations":null,"unallocated":null,
            "attributes":null,"sequenceNumberForAllocation":null,"deleted":false}"#;
        let b: AllocationBlock = serde_json::from_str(text).unwrap();
        assert_eq!(b, AllocationBlock::new("10.0.0.0/26".parse().unwrap()));
    }

    #[test]
    fn spec_and_stored_block_convert() {
        let mut b = AllocationBlock::new("fd00::/122".parse().unwrap());
        b.affinity = Some("virtual:load-balancer".into());
        b.attributes.push(AllocationAttribute { handle_id: Some("h".into()), ..Default::default() });
        b.sequence_number_for_allocation.insert(7, u64::MAX);
        let spec = IPAMBlockSpec::from(b.clone());
        let text = serde_json::to_string(&spec).unwrap();
        assert!(text.contains(r#""strictAffinity":false"#), "{text}");
        let back: IPAMBlockSpec = serde_json::from_str(&text).unwrap();
        assert_eq!(AllocationBlock::try_from(back), Ok(b));
    }

    #[test]
    fn config_spelling() {
        let c: IpamConfig = serde_json::from_str(r#"{"strict_affinity":true,"maxBlocksPerHost":3}"#).unwrap();
        assert!(c.strict_affinity && !c.auto_allocate_blocks);
        assert_eq!(serde_json::to_string(&c).unwrap(), r#"{"strict_affinity":true,"maxBlocksPerHost":3}"#);
        let a: BlockAffinitySpec = serde_json::from_str(r#"{"deleted":"true","state":"pending"}"#).unwrap();
        assert!(a.deleted);
    }
}
