//! Values of keys, and the unit that flows from a store.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use crate::AnyResource;
use crate::decode::{self, Mode};
use crate::error::ModelError;
use crate::k8s::KubernetesObject;
use crate::key::Key;
use crate::resource::ipam::{AllocationBlock, BlockAffinityValue, Carrier, IpamConfig, IpamHandle};

/// Opaque version of an entry or of a list, in the words of its store. Empty means none.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub String);

impl Revision {
    /// A revision.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text of the store.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<u64> for Revision {
    fn from(n: u64) -> Self {
        Self(n.to_string())
    }
}

/// Typed content of a key. Clones share the content.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// A resource.
    Resource(Arc<AnyResource>),
    /// A block of addresses.
    Block(Arc<AllocationBlock>),
    /// A claim on a block.
    BlockAffinity(Arc<BlockAffinityValue>),
    /// Addresses of one owner.
    IpamHandle(Arc<IpamHandle>),
    /// Settings of address management.
    IpamConfig(Arc<IpamConfig>),
    /// A raw Kubernetes object.
    Kubernetes(Arc<KubernetesObject>),
    /// Whether programs may work with the datastore.
    ReadyFlag(bool),
    /// Raw text: one configuration parameter.
    Text(Arc<str>),
    /// Any other JSON.
    Json(Arc<Json>),
}

impl Value {
    /// Reads the content of `key`. Unknown fields of resources are kept.
    ///
    /// ```
    /// use calico_model::{Key, Value};
    /// let key = Key::parse("/calico/v1/Ready").unwrap();
    /// assert_eq!(Value::from_json(&key, b"true"), Ok(Value::ReadyFlag(true)));
    /// ```
    pub fn from_json(key: &Key, bytes: &[u8]) -> Result<Self, ModelError> {
        Ok(match key {
            Key::Resource(r) if r.kind.is_pseudo() && r.kind.stands_for().is_none() => {
                Self::Kubernetes(Arc::new(KubernetesObject::from_json_of_pseudo(r.kind, bytes)?))
            }
            Key::Resource(r) => {
                let mut any = AnyResource::from_json(r.kind, bytes, Mode::Lenient)?;
                // Old entries and hand-written ones may lack what the key says.
                let metadata = any.metadata_mut();
                if metadata.name.is_empty() {
                    metadata.name.clone_from(&r.name);
                }
                if metadata.namespace.is_empty() && r.kind.is_namespaced() {
                    metadata.namespace.clone_from(&r.namespace);
                }
                Self::Resource(Arc::new(any))
            }
            Key::Kubernetes(k) => Self::Kubernetes(Arc::new(KubernetesObject::from_json(k.kind, bytes)?)),
            Key::Block(_) => Self::Block(Arc::new(plain(key, bytes)?)),
            // Very old entries of affinities are empty.
            Key::BlockAffinity(_) if bytes.is_empty() => Self::BlockAffinity(Arc::default()),
            Key::BlockAffinity(_) => Self::BlockAffinity(Arc::new(plain(key, bytes)?)),
            Key::IpamHandle(_) => Self::IpamHandle(Arc::new(plain(key, bytes)?)),
            Key::IpamConfig => Self::IpamConfig(Arc::new(plain(key, bytes)?)),
            Key::ReadyFlag => match bytes {
                b"true" => Self::ReadyFlag(true),
                b"false" => Self::ReadyFlag(false),
                _ => return Err(raw(key, bytes, "true or false")),
            },
            Key::GlobalConfig { .. }
            | Key::HostConfig { .. }
            | Key::NodeBgpConfig { .. }
            | Key::GlobalBgpConfig { .. } => match std::str::from_utf8(bytes) {
                Ok(text) => Self::Text(text.into()),
                Err(_) => return Err(raw(key, bytes, "UTF-8 text")),
            },
            _ if bytes.is_empty() => Self::Json(Arc::new(Json::Null)),
            _ => Self::Json(Arc::new(serde_json::from_slice(bytes).map_err(|e| ModelError::syntax(&e))?)),
        })
    }

    /// Writes the content as it is stored.
    pub fn to_json(&self) -> Vec<u8> {
        // Serialising plain data into memory cannot fail.
        match self {
            Self::Resource(r) => r.to_json(),
            Self::Block(b) => serde_json::to_vec(&**b).unwrap_or_default(),
            Self::BlockAffinity(a) => serde_json::to_vec(&**a).unwrap_or_default(),
            Self::IpamHandle(h) => serde_json::to_vec(&**h).unwrap_or_default(),
            Self::IpamConfig(c) => serde_json::to_vec(&**c).unwrap_or_default(),
            Self::Kubernetes(k) => k.to_json(),
            Self::ReadyFlag(ready) => ready.to_string().into_bytes(),
            Self::Text(t) => t.as_bytes().to_vec(),
            Self::Json(j) => serde_json::to_vec(&**j).unwrap_or_default(),
        }
    }

    /// The resource, if it is one.
    pub fn as_resource(&self) -> Option<&AnyResource> {
        match self {
            Self::Resource(r) => Some(r),
            _ => None,
        }
    }
}

impl From<AnyResource> for Value {
    fn from(r: AnyResource) -> Self {
        Self::Resource(Arc::new(r))
    }
}

fn plain<T: DeserializeOwned + Carrier>(key: &Key, bytes: &[u8]) -> Result<T, ModelError> {
    let (mut value, unknown) = decode::from_slice::<T>(bytes, &key.path(), Mode::Lenient)?;
    value.carry(unknown);
    Ok(value)
}

fn raw(key: &Key, bytes: &[u8], expected: &'static str) -> ModelError {
    ModelError::Raw { key: key.path(), value: String::from_utf8_lossy(bytes).into_owned(), expected }
}

/// The only thing that flows from a store: what is now under a key.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// The key.
    pub key: Key,
    /// Its value; `None` when it was deleted.
    pub value: Option<Value>,
    /// Version of the entry.
    pub revision: Revision,
}

impl Update {
    /// The key has this value.
    pub fn set(key: Key, value: Value, revision: Revision) -> Self {
        Self { key, value: Some(value), revision }
    }

    /// The key is gone.
    pub fn deleted(key: Key, revision: Revision) -> Self {
        Self { key, value: None, revision }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Kind;

    #[test]
    fn a_resource_learns_its_name_from_the_key() {
        let key = Key::resource(Kind::NetworkSet, "prod", "partners");
        let value = Value::from_json(&key, br#"{"spec":{"nets":["10.0.0.0/8"]}}"#).unwrap();
        let Some(AnyResource::NetworkSet(set)) = value.as_resource() else { panic!("{value:?}") };
        assert_eq!((set.metadata.name.as_str(), set.metadata.namespace.as_str()), ("partners", "prod"));
        assert_eq!(set.spec.nets, ["10.0.0.0/8"]);
        assert_eq!(Value::from_json(&key, &value.to_json()), Ok(value));
    }

    #[test]
    fn a_block_from_a_newer_writer_is_read() {
        let key = Key::block("10.0.0.0/30".parse().unwrap());
        let text =
            br#"{"cidr":"10.0.0.0/30","affinity":null,"attributes":[{"handle_id":"h","new":1}],"newer":{},
            "sequenceNumber":18446744073709551615,"sequenceNumberForAllocation":{"0":18446744073709551615}}"#;
        let Ok(Value::Block(block)) = Value::from_json(&key, text) else { panic!() };
        assert_eq!(block.attributes[0].handle_id.as_deref(), Some("h"));
        assert_eq!((block.sequence_number, block.sequence_number_for_allocation[&0]), (u64::MAX, u64::MAX));
        let value = Value::Block(block);
        let stored: Json = serde_json::from_slice(&value.to_json()).unwrap();
        assert_eq!((&stored["newer"], &stored["attributes"][0]["new"]), (&json!({}), &json!(1)));
        assert_eq!(Value::from_json(&key, &value.to_json()), Ok(value));
    }

    #[test]
    fn unknown_fields_of_every_ipam_value_survive() {
        let affinity = Key::affinity(crate::AffinityType::Host, "n", "10.0.0.0/26".parse().unwrap());
        for (key, text) in [
            (affinity, r#"{"state":"confirmed","deleted":false,"newer":{"a":[1]}}"#),
            (Key::handle("h"), r#"{"block":{"10.0.0.0/26":2},"deleted":false,"newer":{"a":[1]}}"#),
            (Key::IpamConfig, r#"{"strict_affinity":true,"ipCooldownSeconds":3,"newer":{"a":[1]}}"#),
        ] {
            let value = Value::from_json(&key, text.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(value.to_json()).unwrap(), text);
        }
    }

    #[test]
    fn raw_values() {
        let affinity = Key::affinity(crate::AffinityType::Host, "n", "10.0.0.0/26".parse().unwrap());
        assert_eq!(Value::from_json(&affinity, b""), Ok(Value::BlockAffinity(Arc::default())));
        assert!(Value::from_json(&Key::ReadyFlag, b"yes").is_err());
        let text = Value::from_json(&Key::GlobalConfig { name: "LogPrefix".into() }, b"x").unwrap();
        assert_eq!(text.to_json(), b"x");
        let status = Key::Wireguard { host: "n".into() };
        assert_eq!(
            Value::from_json(&status, br#"{"publicKey":"k"}"#).unwrap().to_json(),
            br#"{"publicKey":"k"}"#
        );
        assert!(matches!(Value::from_json(&status, b"{"), Err(ModelError::Syntax { .. })));
    }
}
