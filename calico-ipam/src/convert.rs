//! From the stored types of `calico-model` to the ones the machines work on, and back.
//!
//! What cannot be used becomes [`Stored::Damaged`] with the field and the reason: it keeps its
//! place in the datastore, is reported, and is never repaired by guessing.

use std::collections::BTreeMap;
use std::sync::Arc;

use calico_model::{
    AffinityType, AllocationAttribute, AllocationBlock, AnyResource, BlockAffinityKey, BlockAffinityState,
    BlockAffinityValue, BlockKey, ConditionStatus, EncapMode, IPPool, IpamConfig, IpamHandle, IpamHandleKey,
    IpamHostKey, Kind, KubernetesKey, KubernetesKind, ResourceKey, Timestamp, Value, VmAddressPersistence,
};
use ipnet::IpNet;

use crate::affinity::{Affinity, State};
use crate::attribute::{Attribute, Owner, clean_handle};
use crate::block::{Block, BlockParts};
use crate::error::StoredError;
use crate::handle::Handle;
use crate::pools::{Encapsulation, Filter, IntendedUse, Pool};
use crate::range::Family;
use crate::store::{Config, Item, Key, Revision, Scope, Stored};

/// The prefix of namespace labels in the profile of a namespace.
const NAMESPACE_LABEL: &str = "pcns.";

impl Key {
    /// The names of the object in a datastore; the first that exists is meant. Only a namespace
    /// has two: the Kubernetes object, or the profile that stands for it elsewhere.
    #[must_use]
    pub fn to_model(&self) -> Vec<calico_model::Key> {
        let resource = |kind, name: &Arc<str>| calico_model::Key::resource(kind, "", &**name);
        vec![match self {
            Self::Config => calico_model::Key::IpamConfig,
            Self::Pool(name) => resource(Kind::IPPool, name),
            Self::Reservation(name) => resource(Kind::IPReservation, name),
            Self::Node(name) => resource(Kind::Node, name),
            Self::Namespace(name) => {
                let profile = calico_model::Key::resource(Kind::Profile, "", format!("kns.{name}"));
                return vec![calico_model::Key::kubernetes(KubernetesKind::Namespace, "", &**name), profile];
            }
            Self::Affinity(owner, cidr) => {
                let owner_type = if owner.is_virtual() { AffinityType::Virtual } else { AffinityType::Host };
                calico_model::Key::affinity(owner_type, owner.name(), *cidr)
            }
            Self::Block(cidr) => calico_model::Key::block(*cidr),
            Self::Handle(id) => calico_model::Key::handle(&**id),
            Self::Host(host) => calico_model::Key::IpamHost(IpamHostKey { host: host.to_string() }),
        }]
    }

    /// The object a datastore name stands for; `None` if address management does not look at it.
    #[must_use]
    pub fn from_model(key: &calico_model::Key) -> Option<Self> {
        Some(match key {
            calico_model::Key::IpamConfig => Self::Config,
            calico_model::Key::Block(BlockKey { cidr }) => Self::Block(*cidr),
            calico_model::Key::BlockAffinity(BlockAffinityKey { owner_type, host, cidr }) => {
                let owner = match owner_type {
                    AffinityType::Host => Owner::Host(host.as_str().into()),
                    AffinityType::Virtual => Owner::Virtual(host.as_str().into()),
                };
                Self::Affinity(owner, *cidr)
            }
            calico_model::Key::IpamHandle(IpamHandleKey { handle_id }) => {
                Self::Handle(handle_id.as_str().into())
            }
            calico_model::Key::IpamHost(IpamHostKey { host }) => Self::Host(host.as_str().into()),
            calico_model::Key::Kubernetes(KubernetesKey {
                kind: KubernetesKind::Namespace, name, ..
            }) => Self::Namespace(name.as_str().into()),
            calico_model::Key::Resource(ResourceKey { kind, name, .. }) => match kind {
                Kind::IPPool => Self::Pool(name.as_str().into()),
                Kind::IPReservation => Self::Reservation(name.as_str().into()),
                Kind::Node => Self::Node(name.as_str().into()),
                Kind::Profile => Self::Namespace(name.strip_prefix("kns.")?.into()),
                _ => return None,
            },
            _ => return None,
        })
    }
}

impl Scope {
    /// The common beginnings of the paths of the objects. A path that starts with one of them
    /// may still belong to no object of the scope; see [`Scope::contains`].
    #[must_use]
    pub fn path_prefixes(&self) -> Vec<String> {
        let ipam = calico_model::key::IPAM_PREFIX;
        let resources = |kind: Kind| format!("{}{}/", calico_model::key::RESOURCE_PREFIX, kind.plural());
        match self {
            Self::Pools => vec![resources(Kind::IPPool)],
            Self::Reservations => vec![resources(Kind::IPReservation)],
            Self::Nodes => vec![resources(Kind::Node)],
            Self::OwnerAffinities(owner, family) => {
                let owner_type = if owner.is_virtual() { AffinityType::Virtual } else { AffinityType::Host };
                vec![format!("{ipam}{owner_type}/{}/ipv{}/block/", owner.name(), family.number())]
            }
            Self::Affinities => {
                vec![format!("{ipam}{}/", AffinityType::Host), format!("{ipam}{}/", AffinityType::Virtual)]
            }
            Self::Blocks(family) => vec![format!("{ipam}assignment/ipv{}/block/", family.number())],
            Self::Handles => vec![format!("{ipam}handle/")],
        }
    }
}

impl Item {
    /// Reads an object; `None` if address management does not look at such objects.
    #[must_use]
    pub fn from_model(
        key: &calico_model::Key,
        value: &Value,
        revision: &calico_model::Revision,
    ) -> Option<Self> {
        let own = Key::from_model(key)?;
        let value = read(&own, value).unwrap_or_else(|error| Stored::Damaged(Arc::new(error)));
        Some(Self { key: own, value, revision: Revision::from(revision.as_str()) })
    }

    /// An object whose stored bytes could not be read at all; `None` as above.
    #[must_use]
    pub fn unreadable(path: &str, reason: &str, revision: &calico_model::Revision) -> Option<Self> {
        let own = Key::from_model(&calico_model::Key::parse(path).ok()?)?;
        let error = StoredError::Unreadable { key: path.to_owned(), reason: reason.to_owned() };
        Some(Self {
            key: own,
            value: Stored::Damaged(Arc::new(error)),
            revision: Revision::from(revision.as_str()),
        })
    }
}

impl Revision {
    /// The revision in the model's form.
    #[must_use]
    pub fn to_model(&self) -> calico_model::Revision {
        calico_model::Revision::new(self.to_string())
    }
}

impl Stored {
    /// The stored form of what a machine writes; `None` for objects that machines only read.
    #[must_use]
    pub fn to_model(&self) -> Option<Value> {
        Some(match self {
            Self::Block(block) => Value::Block(Arc::new(block_to_model(block))),
            Self::Affinity(affinity) => {
                let state = BlockAffinityState::from(affinity.state.as_str());
                Value::BlockAffinity(Arc::new(BlockAffinityValue {
                    state,
                    deleted: affinity.deleted,
                    ..BlockAffinityValue::default()
                }))
            }
            Self::Handle(handle) => {
                let block = handle.blocks.iter().map(|(cidr, count)| (cidr.to_string(), *count)).collect();
                Value::IpamHandle(Arc::new(IpamHandle {
                    block,
                    deleted: handle.deleted,
                    ..IpamHandle::default()
                }))
            }
            Self::Config(config) => Value::IpamConfig(Arc::new(config_to_model(config))),
            Self::Host => Value::Json(Arc::new(serde_json::json!({}))),
            Self::Pool(_) | Self::Reservation(_) | Self::Labels(_) | Self::Damaged(_) => return None,
        })
    }
}

fn read(key: &Key, value: &Value) -> Result<Stored, StoredError> {
    Ok(match (key, value) {
        (Key::Block(cidr), Value::Block(block)) => Stored::Block(Arc::new(block_from_model(*cidr, block)?)),
        (Key::Affinity(..), Value::BlockAffinity(affinity)) => {
            let text = affinity.state.as_str();
            let state = State::parse(text)
                .ok_or_else(|| field(key, "state", text, "pending, confirmed, pendingDeletion or empty"))?;
            Stored::Affinity(Affinity { state, deleted: affinity.deleted })
        }
        (Key::Handle(_), Value::IpamHandle(handle)) => Stored::Handle(handle_from_model(key, handle)?),
        (Key::Config, Value::IpamConfig(config)) => Stored::Config(config_from_model(config)),
        (Key::Host(_), _) => Stored::Host,
        (Key::Namespace(_), Value::Kubernetes(object)) => match &**object {
            calico_model::k8s::KubernetesObject::Namespace(namespace) => {
                Stored::Labels(Arc::new(namespace.metadata.labels.clone()))
            }
            _ => return Err(field(key, "kind", "another kind", "Namespace")),
        },
        (_, Value::Resource(resource)) => match &**resource {
            AnyResource::IPPool(pool) => Stored::Pool(Arc::new(pool_from_model(key, pool)?)),
            AnyResource::IPReservation(reservation) => {
                Stored::Reservation(Arc::new(reservation.spec.reserved_cidrs.clone()))
            }
            AnyResource::Node(node) => Stored::Labels(Arc::new(node.metadata.labels.clone())),
            AnyResource::Profile(profile) => {
                let own = profile.spec.labels_to_apply.iter();
                let labels = own.filter_map(|(label, value)| {
                    label.strip_prefix(NAMESPACE_LABEL).map(|label| (label.to_owned(), value.clone()))
                });
                Stored::Labels(Arc::new(labels.collect()))
            }
            _ => return Err(field(key, "kind", "another kind", "the kind of the key")),
        },
        _ => return Err(field(key, "value", "content of another kind", "the content of the key's kind")),
    })
}

fn field(key: &Key, field: &'static str, found: &str, expected: &'static str) -> StoredError {
    StoredError::Field { key: key.to_string(), field, found: found.to_owned(), expected }
}

fn block_from_model(cidr: IpNet, stored: &AllocationBlock) -> Result<Block, StoredError> {
    let key = Key::Block(cidr);
    if stored.cidr.trunc() != cidr {
        return Err(field(&key, "cidr", &stored.cidr.to_string(), "the CIDR of the key"));
    }
    let owner = match stored.affinity.as_deref() {
        None => None,
        Some(text) => Some(
            Owner::parse(text)
                .ok_or_else(|| field(&key, "affinity", text, "host:<node>, virtual:<name> or null"))?,
        ),
    };
    let attributes = stored.attributes.iter().map(|attribute| {
        Arc::new(Attribute {
            handle: attribute.handle_id.as_deref().map(|handle| clean_handle(handle).into()),
            active: attribute.active_owner_attrs.clone(),
            alternate: attribute.alternate_owner_attrs.clone(),
            released_at: attribute.released_at.map(seconds),
        })
    });
    let sequences = stored.sequence_number_for_allocation.iter();
    Block::restore(
        cidr,
        BlockParts {
            owner,
            claimed_at: stored.affinity_claim_time.map(seconds),
            allocations: stored.allocations.iter().map(|index| index.map(|index| index as usize)).collect(),
            unallocated: stored.unallocated.iter().map(|ordinal| *ordinal as usize).collect(),
            attributes: attributes.collect(),
            sequence: stored.sequence_number,
            sequences: sequences.map(|(ordinal, sequence)| (*ordinal as usize, *sequence)).collect(),
            deleted: stored.deleted,
            host_affinity: stored.host_affinity.as_deref().map(Arc::from),
        },
    )
}

fn block_to_model(block: &Block) -> AllocationBlock {
    let parts = block.parts();
    let mut stored = AllocationBlock::new(block.cidr());
    stored.affinity = parts.owner.as_ref().map(ToString::to_string);
    stored.affinity_claim_time = parts.claimed_at.map(timestamp);
    stored.allocations = parts.allocations.iter().map(|index| index.map(|index| index as u32)).collect();
    stored.unallocated = parts.unallocated.iter().map(|ordinal| *ordinal as u32).collect();
    stored.attributes = parts.attributes.iter().map(|attribute| attribute_to_model(attribute)).collect();
    stored.sequence_number = parts.sequence;
    stored.sequence_number_for_allocation = parts
        .sequences
        .iter()
        .map(|(ordinal, sequence)| (*ordinal as u32, *sequence))
        .collect::<BTreeMap<_, _>>();
    stored.deleted = parts.deleted;
    stored.host_affinity = parts.host_affinity.as_deref().map(str::to_owned);
    stored
}

fn attribute_to_model(attribute: &Attribute) -> AllocationAttribute {
    AllocationAttribute {
        handle_id: attribute.handle.as_deref().map(str::to_owned),
        active_owner_attrs: attribute.active.clone(),
        alternate_owner_attrs: attribute.alternate.clone(),
        released_at: attribute.released_at.map(timestamp),
        ..AllocationAttribute::default()
    }
}

fn handle_from_model(key: &Key, stored: &IpamHandle) -> Result<Handle, StoredError> {
    let mut blocks = BTreeMap::new();
    for (text, count) in &stored.block {
        let cidr: IpNet = text.parse().map_err(|_| field(key, "block", text, "the CIDR of a block"))?;
        if *count > 0 && blocks.insert(cidr.trunc(), *count).is_some() {
            return Err(field(key, "block", text, "a CIDR that is named once"));
        }
    }
    Ok(Handle { blocks, deleted: stored.deleted })
}

fn config_from_model(stored: &IpamConfig) -> Config {
    Config {
        strict_affinity: stored.strict_affinity,
        auto_allocate_blocks: stored.auto_allocate_blocks,
        max_blocks_per_host: stored.max_blocks_per_host,
        vm_address_persistence: stored.kubevirt_vm_address_persistence != VmAddressPersistence::Disabled,
        cooldown_seconds: stored.ip_cooldown_seconds,
    }
}

fn config_to_model(config: &Config) -> IpamConfig {
    IpamConfig {
        strict_affinity: config.strict_affinity,
        auto_allocate_blocks: config.auto_allocate_blocks,
        max_blocks_per_host: config.max_blocks_per_host,
        kubevirt_vm_address_persistence: if config.vm_address_persistence {
            VmAddressPersistence::default()
        } else {
            VmAddressPersistence::Disabled
        },
        ip_cooldown_seconds: config.cooldown_seconds,
        ..IpamConfig::default()
    }
}

fn pool_from_model(key: &Key, stored: &IPPool) -> Result<Pool, StoredError> {
    let spec = &stored.spec;
    let cidr: IpNet = spec.cidr.parse().map_err(|_| field(key, "spec.cidr", &spec.cidr, "a CIDR"))?;
    let family = Family::of_net(&cidr);
    let shortest = family.bits() - crate::block::MAX_BLOCK_BITS;
    let block_size = match u8::try_from(spec.block_size) {
        Ok(0) => {
            if family == Family::V4 {
                26
            } else {
                122
            }
        }
        Ok(length) if (shortest..=family.bits()).contains(&length) => length,
        _ => {
            let found = spec.block_size.to_string();
            return Err(field(key, "spec.blockSize", &found, "20 to 32 for IPv4, 116 to 128 for IPv6"));
        }
    };
    let refused = stored.status.as_ref().is_some_and(|status| {
        let of = |condition: &&calico_model::Condition| condition.condition_type == "Allocatable";
        status.conditions.iter().find(of).is_some_and(|condition| condition.status == ConditionStatus::False)
    });
    let encapsulates = |mode: &EncapMode| matches!(mode, EncapMode::Always | EncapMode::CrossSubnet);
    let uses: Vec<IntendedUse> =
        spec.allowed_uses.iter().filter_map(|allowed| IntendedUse::parse(allowed.as_str())).collect();
    Ok(Pool {
        name: stored.metadata.name.as_str().into(),
        cidr: cidr.trunc(),
        block_size,
        enabled: !spec.disabled && stored.metadata.deletion_timestamp.is_none() && !refused,
        nodes: Filter::parse(&spec.node_selector),
        namespaces: Filter::parse(&spec.namespace_selector),
        uses: if spec.allowed_uses.is_empty() {
            vec![IntendedUse::Workload, IntendedUse::Tunnel]
        } else {
            uses
        },
        manual: spec.assignment_mode.as_str() == "Manual",
        encapsulation: Encapsulation {
            ipip: encapsulates(&spec.ipip_mode),
            vxlan: encapsulates(&spec.vxlan_mode),
        },
    })
}

fn seconds(time: Timestamp) -> u64 {
    u64::try_from(time.seconds).unwrap_or_default()
}

fn timestamp(seconds: u64) -> Timestamp {
    Timestamp { seconds: i64::try_from(seconds).unwrap_or(i64::MAX), nanos: 0 }
}
