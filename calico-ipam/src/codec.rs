//! Between the stored objects of `calico-model` and the forms that the machines work on.
//!
//! [`decode`] never fails: an object that must not be used becomes [`Stored::Damaged`] and says why, so one damaged
//! block does not keep a node from assigning out of the others.

use std::sync::Arc;

use calico_model::k8s::KubernetesObject;
use calico_model::{
    AffinityType, AllocationAttribute, AllocationBlock, AllowedUse, AnyResource, AssignmentMode,
    BlockAffinityState, BlockAffinityValue, EncapMode, IPPool, IpamConfig, IpamHandle, Kind, KubernetesKind,
    Timestamp, Value, VmAddressPersistence,
};
use ipnet::IpNet;

use crate::affinity::{Affinity, State};
use crate::attribute::{Attribute, Owner, clean_handle};
use crate::block::{Block, BlockParts};
use crate::error::StoredError;
use crate::handle::Handle;
use crate::pools::{Encapsulation, Filter, IntendedUse, Pool};
use crate::range::Family;
use crate::store::{Config, Key, Scope, Stored};

/// Where an object is stored. `None` for what no datastore of keys holds: nothing at present.
///
/// ```
/// use calico_ipam::{Key, codec};
/// let key = codec::key(&Key::Handle("k8s-pod-network.0123".into()));
/// assert_eq!(key.path(), "/calico/ipam/v2/handle/k8s-pod-network.0123");
/// ```
#[must_use]
pub fn key(key: &Key) -> calico_model::Key {
    use calico_model::Key as Model;
    match key {
        Key::Config => Model::IpamConfig,
        Key::Pool(name) => Model::resource(Kind::IPPool, "", &**name),
        Key::Reservation(name) => Model::resource(Kind::IPReservation, "", &**name),
        Key::Node(name) => Model::resource(Kind::Node, "", &**name),
        Key::Namespace(name) => Model::kubernetes(KubernetesKind::Namespace, "", &**name),
        Key::Affinity(owner, cidr) => Model::affinity(affinity_type(owner), owner.name(), *cidr),
        Key::Block(cidr) => Model::block(*cidr),
        Key::Handle(id) => Model::handle(&**id),
        Key::Host(name) => Model::IpamHost(calico_model::IpamHostKey { host: name.to_string() }),
    }
}

fn affinity_type(owner: &Owner) -> AffinityType {
    match owner {
        Owner::Host(_) => AffinityType::Host,
        Owner::Virtual(_) => AffinityType::Virtual,
    }
}

/// Which object a stored key names; `None` when address management does not read it.
#[must_use]
pub fn key_of(key: &calico_model::Key) -> Option<Key> {
    use calico_model::Key as Model;
    Some(match key {
        Model::IpamConfig => Key::Config,
        Model::Resource(resource) => match resource.kind {
            Kind::IPPool => Key::Pool(resource.name.as_str().into()),
            Kind::IPReservation => Key::Reservation(resource.name.as_str().into()),
            Kind::Node => Key::Node(resource.name.as_str().into()),
            _ => return None,
        },
        Model::Kubernetes(object) if object.kind == KubernetesKind::Namespace => {
            Key::Namespace(object.name.as_str().into())
        }
        Model::BlockAffinity(affinity) => {
            let owner = match affinity.owner_type {
                AffinityType::Host => Owner::Host(affinity.host.as_str().into()),
                AffinityType::Virtual => Owner::Virtual(affinity.host.as_str().into()),
            };
            Key::Affinity(owner, affinity.cidr)
        }
        Model::Block(block) => Key::Block(block.cidr),
        Model::IpamHandle(handle) => Key::Handle(handle.handle_id.as_str().into()),
        Model::IpamHost(host) => Key::Host(host.host.as_str().into()),
        _ => return None,
    })
}

/// The common beginning of the paths of all objects of a set; the objects that a scan of it finds still need
/// [`Scope::contains`].
#[must_use]
pub fn prefix(scope: &Scope) -> String {
    let family = |family: &Family| match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    };
    match scope {
        Scope::Pools => calico_model::Key::resource_prefix(Kind::IPPool, None),
        Scope::Reservations => calico_model::Key::resource_prefix(Kind::IPReservation, None),
        Scope::Nodes => calico_model::Key::resource_prefix(Kind::Node, None),
        Scope::OwnerAffinities(owner, of) => {
            let kind = if owner.is_virtual() { "virtual" } else { "host" };
            format!("/calico/ipam/v2/{kind}/{}/{}/block/", owner.name(), family(of))
        }
        // Both kinds of owner; handles, blocks and the configuration lie beside them and are filtered out.
        Scope::Affinities => "/calico/ipam/v2/".to_owned(),
        Scope::Blocks(of) => format!("/calico/ipam/v2/assignment/{}/block/", family(of)),
        Scope::Handles => "/calico/ipam/v2/handle/".to_owned(),
    }
}

/// The working form of a stored value; `None` when it is not one that address management reads.
#[must_use]
pub fn decode(key: &Key, value: &Value) -> Option<Stored> {
    let checked =
        |result: Result<Stored, StoredError>| result.unwrap_or_else(|e| Stored::Damaged(Arc::new(e)));
    Some(match value {
        Value::IpamConfig(config) => Stored::Config(decode_config(config)),
        Value::Block(block) => match key {
            Key::Block(cidr) => {
                checked(decode_block(*cidr, block).map(|block| Stored::Block(Arc::new(block))))
            }
            _ => return None,
        },
        Value::BlockAffinity(affinity) => checked(decode_affinity(key, affinity).map(Stored::Affinity)),
        Value::IpamHandle(handle) => checked(decode_handle(key, handle).map(Stored::Handle)),
        Value::Resource(resource) => match &**resource {
            AnyResource::IPPool(pool) => {
                checked(decode_pool(key, pool).map(|pool| Stored::Pool(Arc::new(pool))))
            }
            AnyResource::IPReservation(reservation) => {
                Stored::Reservation(Arc::new(reservation.spec.reserved_cidrs.clone()))
            }
            AnyResource::Node(node) => Stored::Labels(Arc::new(node.metadata.labels.clone())),
            _ => return None,
        },
        Value::Kubernetes(object) => match &**object {
            KubernetesObject::Namespace(namespace) => {
                Stored::Labels(Arc::new(namespace.metadata.labels.clone()))
            }
            _ => return None,
        },
        Value::Json(_) if matches!(key, Key::Host(_)) => Stored::Host,
        _ => return None,
    })
}

/// The stored form of what a machine writes; `None` for what machines never write (pools, labels, damaged
/// objects).
#[must_use]
pub fn encode(key: &Key, stored: &Stored) -> Option<Value> {
    Some(match stored {
        Stored::Config(config) => Value::IpamConfig(Arc::new(encode_config(config))),
        Stored::Block(block) => Value::Block(Arc::new(encode_block(block))),
        Stored::Affinity(affinity) => Value::BlockAffinity(Arc::new(encode_affinity(*affinity))),
        Stored::Handle(handle) => Value::IpamHandle(Arc::new(encode_handle(handle))),
        Stored::Host if matches!(key, Key::Host(_)) => {
            Value::Json(Arc::new(serde_json::Value::Object(serde_json::Map::new())))
        }
        Stored::Host | Stored::Pool(_) | Stored::Reservation(_) | Stored::Labels(_) | Stored::Damaged(_) => {
            return None;
        }
    })
}

fn decode_config(config: &IpamConfig) -> Config {
    Config {
        strict_affinity: config.strict_affinity,
        auto_allocate_blocks: config.auto_allocate_blocks,
        max_blocks_per_host: config.max_blocks_per_host,
        vm_address_persistence: config.kubevirt_vm_address_persistence != VmAddressPersistence::Disabled,
        cooldown_seconds: config.ip_cooldown_seconds,
    }
}

fn encode_config(config: &Config) -> IpamConfig {
    IpamConfig {
        strict_affinity: config.strict_affinity,
        auto_allocate_blocks: config.auto_allocate_blocks,
        max_blocks_per_host: config.max_blocks_per_host,
        kubevirt_vm_address_persistence: if config.vm_address_persistence {
            VmAddressPersistence::Enabled
        } else {
            VmAddressPersistence::Disabled
        },
        ip_cooldown_seconds: config.cooldown_seconds,
    }
}

fn field(key: &Key, field: &'static str, found: impl ToString, expected: &'static str) -> StoredError {
    StoredError::Field { key: key.to_string(), field, found: found.to_string(), expected }
}

/// The block under `cidr`, the network that its key names.
fn decode_block(cidr: IpNet, block: &AllocationBlock) -> Result<Block, StoredError> {
    let key = Key::Block(cidr);
    if block.cidr != cidr {
        return Err(field(&key, "cidr", block.cidr, "the network that the key names"));
    }
    let owner = match block.affinity.as_deref() {
        None | Some("") => None,
        Some(text) => Some(
            Owner::parse(text)
                .ok_or_else(|| field(&key, "affinity", text, "host:<node> or virtual:<name>"))?,
        ),
    };
    let attributes = block.attributes.iter().map(|attribute| Arc::new(decode_attribute(attribute))).collect();
    let index = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    let parts = BlockParts {
        owner,
        claimed_at: block.affinity_claim_time.map(unix_seconds),
        allocations: block.allocations.iter().map(|slot| slot.map(index)).collect(),
        unallocated: block.unallocated.iter().copied().map(index).collect(),
        attributes,
        sequence: block.sequence_number,
        sequences: block.sequence_number_for_allocation.iter().map(|(o, s)| (index(*o), *s)).collect(),
        deleted: block.deleted,
    };
    Block::restore(cidr, parts)
}

fn decode_attribute(attribute: &AllocationAttribute) -> Attribute {
    Attribute {
        handle: attribute.handle_id.as_deref().map(|handle| clean_handle(handle).into()),
        active: attribute.active_owner_attrs.clone(),
        alternate: attribute.alternate_owner_attrs.clone(),
        released_at: attribute.released_at.map(unix_seconds),
    }
}

fn encode_block(block: &Block) -> AllocationBlock {
    let parts = block.parts();
    // A block has at most 4096 addresses: every index fits.
    let index = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    AllocationBlock {
        affinity: parts.owner.as_ref().map(ToString::to_string),
        affinity_claim_time: parts.claimed_at.map(timestamp),
        allocations: parts.allocations.iter().map(|slot| slot.map(index)).collect(),
        unallocated: parts.unallocated.iter().copied().map(index).collect(),
        attributes: parts
            .attributes
            .iter()
            .map(|attribute| AllocationAttribute {
                handle_id: attribute.handle.as_deref().map(str::to_owned),
                active_owner_attrs: attribute.active.clone(),
                alternate_owner_attrs: attribute.alternate.clone(),
                released_at: attribute.released_at.map(timestamp),
            })
            .collect(),
        sequence_number: parts.sequence,
        sequence_number_for_allocation: parts.sequences.iter().map(|(o, s)| (index(*o), *s)).collect(),
        deleted: parts.deleted,
        ..AllocationBlock::new(block.cidr())
    }
}

fn decode_affinity(key: &Key, affinity: &BlockAffinityValue) -> Result<Affinity, StoredError> {
    let text = affinity.state.as_str();
    let state = State::parse(text)
        .ok_or_else(|| field(key, "state", text, "confirmed, pending or pendingDeletion"))?;
    Ok(Affinity { state, deleted: affinity.deleted })
}

fn encode_affinity(affinity: Affinity) -> BlockAffinityValue {
    let state = match affinity.state {
        State::Confirmed => BlockAffinityState::Confirmed,
        State::Pending => BlockAffinityState::Pending,
        State::PendingDeletion => BlockAffinityState::PendingDeletion,
    };
    BlockAffinityValue { state, deleted: affinity.deleted }
}

fn decode_handle(key: &Key, handle: &IpamHandle) -> Result<Handle, StoredError> {
    let mut decoded = Handle { deleted: handle.deleted, ..Handle::default() };
    for (text, count) in &handle.block {
        let block = text.parse::<IpNet>().map_err(|_| field(key, "block", text, "a CIDR"))?;
        decoded.raise(block, *count);
    }
    Ok(decoded)
}

fn encode_handle(handle: &Handle) -> IpamHandle {
    IpamHandle {
        block: handle.blocks.iter().map(|(block, count)| (block.to_string(), *count)).collect(),
        deleted: handle.deleted,
    }
}

fn decode_pool(key: &Key, pool: &IPPool) -> Result<Pool, StoredError> {
    let spec = &pool.spec;
    let cidr = spec
        .cidr
        .parse::<IpNet>()
        .map_err(|_| field(key, "spec.cidr", &spec.cidr, "a CIDR such as 10.0.0.0/16"))?;
    let mut decoded = Pool::new(&pool.metadata.name, cidr);
    if spec.block_size != 0 {
        decoded.block_size =
            u8::try_from(spec.block_size).ok().filter(|size| *size <= cidr.max_prefix_len()).ok_or_else(
                || field(key, "spec.blockSize", spec.block_size, "20 to 32 (IPv4) or 116 to 128 (IPv6)"),
            )?;
    }
    let refused = pool.status.as_ref().is_some_and(|status| {
        status
            .conditions
            .iter()
            .any(|c| c.condition_type == "Allocatable" && c.status == calico_model::ConditionStatus::False)
    });
    decoded.enabled = !spec.disabled && pool.metadata.deletion_timestamp.is_none() && !refused;
    decoded.nodes = Filter::parse(&spec.node_selector);
    decoded.namespaces = Filter::parse(&spec.namespace_selector);
    if !spec.allowed_uses.is_empty() {
        decoded.uses = spec
            .allowed_uses
            .iter()
            .filter_map(|allowed| match allowed {
                AllowedUse::Workload => Some(IntendedUse::Workload),
                AllowedUse::Tunnel => Some(IntendedUse::Tunnel),
                AllowedUse::LoadBalancer => Some(IntendedUse::LoadBalancer),
                _ => None,
            })
            .collect();
    }
    decoded.manual = spec.assignment_mode == AssignmentMode::Manual;
    let on = |mode: &EncapMode| matches!(mode, EncapMode::Always | EncapMode::CrossSubnet);
    decoded.encapsulation = Encapsulation { ipip: on(&spec.ipip_mode), vxlan: on(&spec.vxlan_mode) };
    Ok(decoded)
}

fn unix_seconds(time: Timestamp) -> u64 {
    u64::try_from(time.unix_nanos() / 1_000_000_000).unwrap_or_default()
}

fn timestamp(seconds: u64) -> Timestamp {
    Timestamp::from_unix_nanos(i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: &str = r#"{"cidr":"10.65.0.0/30","affinity":"host:node1","allocations":[0,null,null,null],"unallocated":[1,2,3],"attributes":[{"handle_id":"h1","secondary":{"node":"node1"}}],"sequenceNumber":1787404999000000005,"sequenceNumberForAllocation":{"0":1787404999000000004},"deleted":false}"#;

    fn round_trip(path: &str, text: &str) -> Stored {
        let model_key = calico_model::Key::parse(path).unwrap();
        let value = Value::from_json(&model_key, text.as_bytes()).unwrap();
        let ours = key_of(&model_key).unwrap();
        assert_eq!(key(&ours), model_key);
        let stored = decode(&ours, &value).unwrap();
        if let Some(back) = encode(&ours, &stored) {
            assert_eq!(String::from_utf8(back.to_json()).unwrap(), text);
        }
        stored
    }

    #[test]
    fn stored_objects_come_back_byte_for_byte() {
        assert!(matches!(
            round_trip("/calico/ipam/v2/assignment/ipv4/block/10.65.0.0-30", BLOCK),
            Stored::Block(_)
        ));
        round_trip("/calico/ipam/v2/handle/h1", r#"{"block":{"10.65.0.0/30":1},"deleted":false}"#);
        round_trip(
            "/calico/ipam/v2/host/node1/ipv4/block/10.65.0.0-30",
            r#"{"state":"confirmed","deleted":false}"#,
        );
    }

    #[test]
    fn damaged_objects_say_why() {
        let model_key =
            calico_model::Key::parse("/calico/ipam/v2/assignment/ipv4/block/10.65.0.4-30").unwrap();
        let value = Value::from_json(&model_key, BLOCK.as_bytes()).unwrap();
        let ours = key_of(&model_key).unwrap();
        match decode(&ours, &value) {
            Some(Stored::Damaged(error)) => assert!(error.to_string().contains("cidr"), "{error}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_pool_is_read_with_its_defaults() {
        let text = r#"{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"p"},"spec":{"cidr":"10.0.0.0/16","nodeSelector":"zone == 'x'"}}"#;
        let path = "/calico/resources/v3/projectcalico.org/ippools/p";
        match round_trip(path, text) {
            Stored::Pool(pool) => {
                assert_eq!(pool.block_size, 26);
                assert!(pool.enabled && !pool.manual);
                assert!(!pool.nodes.matches(&Default::default()));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn scopes_find_their_keys() {
        for (scope, path) in [
            (Scope::Handles, "/calico/ipam/v2/handle/x"),
            (Scope::Blocks(Family::V6), "/calico/ipam/v2/assignment/ipv6/block/fd00::-122"),
            (
                Scope::OwnerAffinities(Owner::host("n"), Family::V4),
                "/calico/ipam/v2/host/n/ipv4/block/10.0.0.0-26",
            ),
            (Scope::Affinities, "/calico/ipam/v2/virtual/load-balancer/ipv4/block/10.0.0.0-26"),
            (Scope::Pools, "/calico/resources/v3/projectcalico.org/ippools/p"),
        ] {
            let found = key_of(&calico_model::Key::parse(path).unwrap()).unwrap();
            assert!(path.starts_with(&prefix(&scope)), "{scope:?} {path}");
            assert!(scope.contains(&found), "{scope:?} {path}");
        }
    }
}
