//! A Kubernetes object of any kind that Calico reads.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::decode::{self, Mode};
use crate::error::{FieldError, ModelError};
use crate::k8s::cluster_policy::ClusterNetworkPolicy;
use crate::k8s::policy;
use crate::k8s::types::{EndpointSlice, Namespace, NetworkPolicy, Node, Pod, Service, ServiceAccount};
use crate::{Kind, KubernetesKind};

/// A Kubernetes object of any kind that Calico reads, in its slim form.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum KubernetesObject {
    /// A namespace.
    Namespace(Namespace),
    /// A service account.
    ServiceAccount(ServiceAccount),
    /// A pod.
    Pod(Pod),
    /// A network policy.
    NetworkPolicy(NetworkPolicy),
    /// A cluster network policy.
    ClusterNetworkPolicy(ClusterNetworkPolicy),
    /// A node.
    Node(Node),
    /// A service.
    Service(Service),
    /// Endpoints of a service.
    EndpointSlice(EndpointSlice),
}

fn read<T: DeserializeOwned>(kind: KubernetesKind, bytes: &[u8]) -> Result<T, ModelError> {
    decode::from_slice(bytes, kind.name(), Mode::Lenient).map(|(v, _)| v)
}

#[derive(Serialize)]
struct Typed<'a, T> {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    #[serde(flatten)]
    object: &'a T,
}

impl KubernetesObject {
    /// Reads JSON of a known kind; fields that Calico does not read are forgotten.
    pub fn from_json(kind: KubernetesKind, bytes: &[u8]) -> Result<Self, ModelError> {
        Ok(match kind {
            KubernetesKind::Namespace => Self::Namespace(read(kind, bytes)?),
            KubernetesKind::ServiceAccount => Self::ServiceAccount(read(kind, bytes)?),
            KubernetesKind::Pod => Self::Pod(read(kind, bytes)?),
            KubernetesKind::NetworkPolicy => Self::NetworkPolicy(read(kind, bytes)?),
            KubernetesKind::ClusterNetworkPolicy => Self::ClusterNetworkPolicy(read(kind, bytes)?),
            KubernetesKind::Node => Self::Node(read(kind, bytes)?),
            KubernetesKind::Service => Self::Service(read(kind, bytes)?),
            KubernetesKind::EndpointSlice => Self::EndpointSlice(read(kind, bytes)?),
        })
    }

    /// Reads an object that a person wrote and lists what is wrong with it. A network policy must have no other fields
    /// than those of Kubernetes: a misspelled restriction would let more traffic pass than meant.
    ///
    /// ```
    /// use calico_model::{KubernetesKind, k8s::KubernetesObject};
    /// let tree = serde_json::json!({"metadata": {"name": "web"}, "spec": {"ingress": [{"source": {}}]}});
    /// let (_, problems) = KubernetesObject::examine(KubernetesKind::NetworkPolicy, tree)?;
    /// assert_eq!(problems[0].to_string(), "spec.ingress[0].source: unknown field");
    /// # Ok::<(), calico_model::ModelError>(())
    /// ```
    pub fn examine(
        kind: KubernetesKind,
        tree: serde_json::Value,
    ) -> Result<(Option<Self>, Vec<FieldError>), ModelError> {
        if kind != KubernetesKind::NetworkPolicy {
            let object = Self::from_json(kind, tree.to_string().as_bytes())?;
            return Ok((Some(object), Vec::new()));
        }
        let decode::Partial { value, mut problems, .. } =
            decode::examine::<NetworkPolicy>(tree, Mode::Strict);
        // Of the metadata only a part is read.
        problems.retain(|p| !p.reason.starts_with("unknown field") || p.path.starts_with("spec."));
        if let Some(policy) = &value
            && problems.is_empty()
        {
            problems = policy::convert(policy).problems;
        }
        Ok((value.map(Self::NetworkPolicy), problems))
    }

    pub(crate) fn from_json_of_pseudo(kind: Kind, bytes: &[u8]) -> Result<Self, ModelError> {
        match kind {
            Kind::KubernetesService => Self::from_json(KubernetesKind::Service, bytes),
            Kind::KubernetesEndpointSlice => Self::from_json(KubernetesKind::EndpointSlice, bytes),
            _ => Err(ModelError::UnknownKind { kind: kind.name().to_owned(), suggestion: None }),
        }
    }

    /// Writes the slim form, with kind and API version.
    pub fn to_json(&self) -> Vec<u8> {
        fn write<T: Serialize>(kind: KubernetesKind, object: &T) -> Vec<u8> {
            let typed = Typed { api_version: kind.api_version(), kind: kind.name(), object };
            serde_json::to_vec(&typed).unwrap_or_default()
        }
        let kind = self.kind();
        match self {
            Self::Namespace(o) => write(kind, o),
            Self::ServiceAccount(o) => write(kind, o),
            Self::Pod(o) => write(kind, o),
            Self::NetworkPolicy(o) => write(kind, o),
            Self::ClusterNetworkPolicy(o) => write(kind, o),
            Self::Node(o) => write(kind, o),
            Self::Service(o) => write(kind, o),
            Self::EndpointSlice(o) => write(kind, o),
        }
    }

    /// Kind of the object.
    pub fn kind(&self) -> KubernetesKind {
        match self {
            Self::Namespace(_) => KubernetesKind::Namespace,
            Self::ServiceAccount(_) => KubernetesKind::ServiceAccount,
            Self::Pod(_) => KubernetesKind::Pod,
            Self::NetworkPolicy(_) => KubernetesKind::NetworkPolicy,
            Self::ClusterNetworkPolicy(_) => KubernetesKind::ClusterNetworkPolicy,
            Self::Node(_) => KubernetesKind::Node,
            Self::Service(_) => KubernetesKind::Service,
            Self::EndpointSlice(_) => KubernetesKind::EndpointSlice,
        }
    }
}
