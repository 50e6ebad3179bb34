//! The envelope that every resource shares.

use serde::de::DeserializeOwned;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value as Json;

use crate::decode::{self, Mode, Unknown};
use crate::error::{FieldError, ModelError};
use crate::shape::Shape;
use crate::{Kind, ObjectMeta};

/// API version of the kinds of this model.
pub const API_VERSION: &str = "projectcalico.org/v3";
/// API version of the custom resources of older clusters.
pub const CRD_V1_API_VERSION: &str = "crd.projectcalico.org/v1";

/// The spec of a kind.
pub trait Spec:
    Serialize + DeserializeOwned + Default + Clone + PartialEq + std::fmt::Debug + Shape + Send + Sync + 'static
{
    /// Kind of the resource.
    const KIND: Kind;
    /// Its status; [`serde_json::Value`] where the kind has none.
    type Status: Serialize
        + DeserializeOwned
        + Clone
        + PartialEq
        + std::fmt::Debug
        + Shape
        + Send
        + Sync
        + 'static;
}

/// A resource: metadata and the spec of its kind.
///
/// ```
/// use calico_model::{IPPool, decode::Mode};
/// let text = br#"{"apiVersion": "projectcalico.org/v3", "kind": "IPPool",
///                 "metadata": {"name": "blue"}, "spec": {"cidr": "10.1.0.0/16", "fromTheFuture": 1}}"#;
/// let pool = IPPool::from_json(text, Mode::Lenient).unwrap();
/// assert_eq!(pool.spec.cidr, "10.1.0.0/16");
/// // What this version does not know survives.
/// assert!(String::from_utf8(pool.to_json()).unwrap().contains("fromTheFuture"));
/// // Unless it must not be there.
/// let error = IPPool::from_json(text, Mode::Strict).unwrap_err();
/// assert_eq!(error.to_string(), "IPPool: spec.fromTheFuture: unknown field");
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Resource<S: Spec> {
    /// API version; [`API_VERSION`] unless read from elsewhere.
    pub api_version: String,
    /// Kind; differs from `S::KIND` only for pseudo-kinds.
    pub kind: Kind,
    /// Metadata.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: S,
    /// What is.
    pub status: Option<S::Status>,
    /// Fields this version does not know, with their places; written back by [`Resource::to_json`].
    pub unknown: Unknown,
}

impl<S: Spec> Default for Resource<S> {
    fn default() -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            kind: S::KIND,
            metadata: ObjectMeta::default(),
            spec: S::default(),
            status: None,
            unknown: Unknown::default(),
        }
    }
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields, bound(deserialize = "S: Spec"))]
struct Read<S: Spec> {
    #[serde(rename = "apiVersion")]
    api_version: Option<String>,
    kind: Option<String>,
    metadata: ObjectMeta,
    spec: S,
    status: Option<S::Status>,
}

impl<S: Spec> Default for Read<S> {
    fn default() -> Self {
        Self {
            api_version: None,
            kind: None,
            metadata: ObjectMeta::default(),
            spec: S::default(),
            status: None,
        }
    }
}

#[derive(Serialize)]
#[serde(bound(serialize = "S: Spec"))]
struct Write<'a, S: Spec> {
    #[serde(rename = "apiVersion")]
    api_version: &'a str,
    kind: &'static str,
    metadata: &'a ObjectMeta,
    spec: &'a S,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: &'a Option<S::Status>,
}

impl<S: Spec> Resource<S> {
    /// A resource of cluster scope, or (see [`Resource::in_namespace`]) of a namespace.
    pub fn new(name: impl Into<String>, spec: S) -> Self {
        Self { metadata: ObjectMeta { name: name.into(), ..ObjectMeta::default() }, spec, ..Self::default() }
    }

    /// The same in a namespace.
    #[must_use]
    pub fn in_namespace(mut self, namespace: impl Into<String>) -> Self {
        self.metadata.namespace = namespace.into();
        self
    }

    /// Reads JSON. Absent `apiVersion` and `kind` are filled in, as items of lists lack them.
    pub fn from_json(bytes: &[u8], mode: Mode) -> Result<Self, ModelError> {
        let (read, unknown) = decode::from_slice::<Read<S>>(bytes, S::KIND.name(), mode)?;
        Self::accept(read, unknown)
    }

    /// Reads a JSON tree, such as comes from YAML.
    pub fn from_tree(tree: Json, mode: Mode) -> Result<Self, ModelError> {
        match Self::examine(tree, mode)? {
            (Some(resource), problems) if problems.is_empty() => Ok(resource),
            (_, problems) => Err(ModelError::Fields { what: S::KIND.name().to_owned(), problems }),
        }
    }

    /// Reads what can be read of a JSON tree and lists what cannot; see [`crate::AnyResource::examine`].
    pub(crate) fn examine(tree: Json, mode: Mode) -> Result<(Option<Self>, Vec<FieldError>), ModelError> {
        let decode::Partial { value, unknown, problems } = decode::examine::<Read<S>>(tree, mode);
        Ok((value.map(|read| Self::accept(read, unknown)).transpose()?, problems))
    }

    fn accept(read: Read<S>, unknown: Unknown) -> Result<Self, ModelError> {
        let kind = match read.kind.as_deref() {
            None | Some("") => S::KIND,
            Some(name) => match name.parse::<Kind>() {
                Ok(k) if k == S::KIND || k.stands_for() == Some(S::KIND) => k,
                _ => {
                    return Err(ModelError::WrongKind {
                        expected: S::KIND.name().to_owned(),
                        found: name.to_owned(),
                    });
                }
            },
        };
        let api_version = match read.api_version {
            Some(v) if !v.is_empty() => v,
            _ => API_VERSION.to_owned(),
        };
        let known = [API_VERSION, CRD_V1_API_VERSION].contains(&api_version.as_str()) || kind.is_pseudo();
        if !known {
            return Err(ModelError::ApiVersion { kind: kind.name().to_owned(), found: api_version });
        }
        Ok(Self { api_version, kind, metadata: read.metadata, spec: read.spec, status: read.status, unknown })
    }

    fn write(&self) -> Write<'_, S> {
        Write {
            api_version: &self.api_version,
            kind: self.kind.name(),
            metadata: &self.metadata,
            spec: &self.spec,
            status: &self.status,
        }
    }

    /// Writes JSON, unknown fields included.
    pub fn to_json(&self) -> Vec<u8> {
        // Serialising plain data into memory cannot fail.
        if self.unknown.is_empty() {
            serde_json::to_vec(&self.write()).unwrap_or_default()
        } else {
            self.to_tree().to_string().into_bytes()
        }
    }

    /// Writes a JSON tree, unknown fields included.
    pub fn to_tree(&self) -> Json {
        let mut tree = serde_json::to_value(self.write()).unwrap_or_default();
        self.unknown.merge_into(&mut tree);
        tree
    }
}

impl<S: Spec> Serialize for Resource<S> {
    fn serialize<Z: Serializer>(&self, s: Z) -> Result<Z::Ok, Z::Error> {
        if self.unknown.is_empty() {
            return self.write().serialize(s);
        }
        let mut tree = serde_json::to_value(self.write()).map_err(Z::Error::custom)?;
        self.unknown.merge_into(&mut tree);
        tree.serialize(s)
    }
}

impl<'de, S: Spec> Deserialize<'de> for Resource<S> {
    /// Lenient, and complete: unknown fields are kept.
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let tree = Json::deserialize(d)?;
        Self::from_tree(tree, Mode::Lenient).map_err(D::Error::custom)
    }
}

impl Kind {
    /// For a pseudo-kind, the kind whose form its objects have.
    pub fn stands_for(self) -> Option<Self> {
        match self {
            Self::KubernetesNetworkPolicy => Some(Self::NetworkPolicy),
            Self::KubernetesClusterNetworkPolicy => Some(Self::GlobalNetworkPolicy),
            _ => None,
        }
    }
}
