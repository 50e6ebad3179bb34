//! Objects as the command line handles them: a kind, a name and a JSON tree.

use std::fmt;

use calico_model::{Key, Kind, KubernetesKind};
use serde_json::Value as Json;

/// A kind that the command line reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// A kind of Calico.
    Calico(Kind),
    /// A kind of Kubernetes, kept as it is given.
    Kubernetes(KubernetesKind),
}

/// Names on the command line beyond the kind's own name, plural and short names.
const ALIASES: &[(&str, ObjectKind)] = &[
    ("bf", ObjectKind::Calico(Kind::BGPFilter)),
    ("bfs", ObjectKind::Calico(Kind::BGPFilter)),
    ("bgpf", ObjectKind::Calico(Kind::BGPFilter)),
    ("bgpfs", ObjectKind::Calico(Kind::BGPFilter)),
    ("bgpp", ObjectKind::Calico(Kind::BGPPeer)),
    ("bgpps", ObjectKind::Calico(Kind::BGPPeer)),
    ("bp", ObjectKind::Calico(Kind::BGPPeer)),
    ("bps", ObjectKind::Calico(Kind::BGPPeer)),
    ("nodestatus", ObjectKind::Calico(Kind::CalicoNodeStatus)),
    ("nodestatuses", ObjectKind::Calico(Kind::CalicoNodeStatus)),
    ("felixconfig", ObjectKind::Calico(Kind::FelixConfiguration)),
    ("felixconfigs", ObjectKind::Calico(Kind::FelixConfiguration)),
    ("gnps", ObjectKind::Calico(Kind::GlobalNetworkPolicy)),
    ("gnetsets", ObjectKind::Calico(Kind::GlobalNetworkSet)),
    ("ipp", ObjectKind::Calico(Kind::IPPool)),
    ("ipps", ObjectKind::Calico(Kind::IPPool)),
    ("pool", ObjectKind::Calico(Kind::IPPool)),
    ("pools", ObjectKind::Calico(Kind::IPPool)),
    ("reservation", ObjectKind::Calico(Kind::IPReservation)),
    ("reservations", ObjectKind::Calico(Kind::IPReservation)),
    ("kubecontrollersconfig", ObjectKind::Calico(Kind::KubeControllersConfiguration)),
    ("kubecontrollersconfigs", ObjectKind::Calico(Kind::KubeControllersConfiguration)),
    ("np", ObjectKind::Calico(Kind::NetworkPolicy)),
    ("pol", ObjectKind::Calico(Kind::NetworkPolicy)),
    ("pols", ObjectKind::Calico(Kind::NetworkPolicy)),
    ("policy", ObjectKind::Calico(Kind::NetworkPolicy)),
    ("policies", ObjectKind::Calico(Kind::NetworkPolicy)),
    ("netsets", ObjectKind::Calico(Kind::NetworkSet)),
    ("no", ObjectKind::Calico(Kind::Node)),
    ("nos", ObjectKind::Calico(Kind::Node)),
    ("pro", ObjectKind::Calico(Kind::Profile)),
    ("pros", ObjectKind::Calico(Kind::Profile)),
    ("stagedkubernetespolicy", ObjectKind::Calico(Kind::StagedKubernetesNetworkPolicy)),
    ("stagedkubernetespolicies", ObjectKind::Calico(Kind::StagedKubernetesNetworkPolicy)),
    ("skpol", ObjectKind::Calico(Kind::StagedKubernetesNetworkPolicy)),
    ("skpols", ObjectKind::Calico(Kind::StagedKubernetesNetworkPolicy)),
    ("stagedpolicy", ObjectKind::Calico(Kind::StagedNetworkPolicy)),
    ("stagedpolicies", ObjectKind::Calico(Kind::StagedNetworkPolicy)),
    ("spol", ObjectKind::Calico(Kind::StagedNetworkPolicy)),
    ("spols", ObjectKind::Calico(Kind::StagedNetworkPolicy)),
    ("wep", ObjectKind::Calico(Kind::WorkloadEndpoint)),
    ("weps", ObjectKind::Calico(Kind::WorkloadEndpoint)),
    ("ns", ObjectKind::Kubernetes(KubernetesKind::Namespace)),
    ("namespace", ObjectKind::Kubernetes(KubernetesKind::Namespace)),
    ("sa", ObjectKind::Kubernetes(KubernetesKind::ServiceAccount)),
    ("serviceaccount", ObjectKind::Kubernetes(KubernetesKind::ServiceAccount)),
    ("po", ObjectKind::Kubernetes(KubernetesKind::Pod)),
    ("pod", ObjectKind::Kubernetes(KubernetesKind::Pod)),
    ("svc", ObjectKind::Kubernetes(KubernetesKind::Service)),
    ("service", ObjectKind::Kubernetes(KubernetesKind::Service)),
    ("endpointslice", ObjectKind::Kubernetes(KubernetesKind::EndpointSlice)),
    ("knp", ObjectKind::Kubernetes(KubernetesKind::NetworkPolicy)),
    ("networkpolicies.networking.k8s.io", ObjectKind::Kubernetes(KubernetesKind::NetworkPolicy)),
    ("kubernetesnetworkpolicy", ObjectKind::Kubernetes(KubernetesKind::NetworkPolicy)),
    ("kubernetesnetworkpolicies", ObjectKind::Kubernetes(KubernetesKind::NetworkPolicy)),
    ("clusternetworkpolicy", ObjectKind::Kubernetes(KubernetesKind::ClusterNetworkPolicy)),
];

impl ObjectKind {
    /// The kind that a person means: name, plural or alias, in any case.
    ///
    /// ```
    /// use calico_bins::ctl::object::ObjectKind;
    /// use calico_model::{Kind, KubernetesKind};
    /// assert_eq!(ObjectKind::from_user("IPPools"), Some(ObjectKind::Calico(Kind::IPPool)));
    /// assert_eq!(ObjectKind::from_user("wep"), Some(ObjectKind::Calico(Kind::WorkloadEndpoint)));
    /// assert_eq!(ObjectKind::from_user("ns"), Some(ObjectKind::Kubernetes(KubernetesKind::Namespace)));
    /// assert_eq!(ObjectKind::from_user("gadget"), None);
    /// ```
    pub fn from_user(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let alias = || ALIASES.iter().find(|(alias, _)| *alias == text).map(|(_, kind)| *kind);
        // Kinds of both worlds, such as nodes, mean those of Calico.
        let kubernetes =
            || KubernetesKind::ALL.into_iter().find(|k| k.plural() == text).map(Self::Kubernetes);
        Kind::from_user(&text).map(Self::Calico).or_else(alias).or_else(kubernetes)
    }

    /// Every name that [`ObjectKind::from_user`] takes, sorted; for suggestions and completion.
    pub fn user_names() -> Vec<&'static str> {
        let mut names: Vec<&str> = ALIASES.iter().map(|(alias, _)| *alias).collect();
        for kind in Kind::ALL.iter().filter(|kind| !kind.is_pseudo()) {
            names.push(kind.plural());
            names.extend(kind.short_names());
        }
        names.extend(KubernetesKind::ALL.iter().map(|kind| kind.plural()));
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The name as it stands in `kind`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Calico(kind) => kind.name(),
            Self::Kubernetes(kind) => kind.name(),
        }
    }

    /// The plural, in lower case.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Calico(kind) => kind.plural(),
            Self::Kubernetes(kind) => kind.plural(),
        }
    }

    /// The API version that objects of the kind are written with.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Calico(_) => calico_model::API_VERSION,
            Self::Kubernetes(kind) => kind.api_version(),
        }
    }

    /// Whether objects live in namespaces.
    pub fn is_namespaced(self) -> bool {
        match self {
            Self::Calico(kind) => kind.is_namespaced(),
            Self::Kubernetes(kind) => kind.is_namespaced(),
        }
    }

    /// Prefix of the keys of all objects, or of those of one namespace.
    pub fn prefix(self, namespace: Option<&str>) -> String {
        match (self, namespace) {
            (Self::Calico(kind), _) => Key::resource_prefix(kind, namespace),
            (Self::Kubernetes(kind), Some(namespace)) if kind.is_namespaced() => {
                format!("{}{namespace}/", Key::kubernetes_prefix(kind))
            }
            (Self::Kubernetes(kind), _) => Key::kubernetes_prefix(kind),
        }
    }
}

/// What an object is called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// Kind.
    pub kind: ObjectKind,
    /// Namespace; empty for kinds of cluster scope.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectId {
    /// The key under which the object is stored.
    pub fn key(&self) -> Key {
        match self.kind {
            ObjectKind::Calico(kind) => Key::resource(kind, &*self.namespace, &*self.name),
            ObjectKind::Kubernetes(kind) => Key::kubernetes(kind, &*self.namespace, &*self.name),
        }
    }
}

impl fmt::Display for ObjectId {
    /// `IPPool(blue)` or `NetworkPolicy(prod/allow-dns)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}({})", self.kind.name(), self.name)
        } else {
            write!(f, "{}({}/{})", self.kind.name(), self.namespace, self.name)
        }
    }
}

/// Where an object was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// File name as the user gave it, or `stdin`.
    pub file: String,
    /// Number of the document in the file, from 1.
    pub document: usize,
    /// Line on which the document starts, from 1.
    pub line: usize,
    /// Number of the object in a list, from 1; 0 outside of lists.
    pub item: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: document {}", self.file, self.line, self.document)?;
        if self.item > 0 {
            write!(f, ", item {}", self.item)?;
        }
        Ok(())
    }
}

/// An object read from a file: checked, with its namespace filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// What it is called.
    pub id: ObjectId,
    /// Its content.
    pub tree: Json,
    /// Where it was read.
    pub place: Place,
}

impl Object {
    /// `metadata.resourceVersion`, empty when it is not given.
    pub fn resource_version(&self) -> &str {
        text_at(&self.tree, "/metadata/resourceVersion")
    }
}

/// The text at a JSON pointer, empty when there is none.
pub fn text_at<'a>(tree: &'a Json, pointer: &str) -> &'a str {
    tree.pointer(pointer).and_then(Json::as_str).unwrap_or_default()
}
