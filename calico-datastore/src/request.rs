//! What to list or watch, in terms of kinds and keys.

use calico_model::key::{IPAM_PREFIX, KUBERNETES_PREFIX, RESOURCE_PREFIX};
use calico_model::{Key, Kind, KubernetesKind};

use crate::backend::KeyRanges;

/// Which objects a list or a watch covers: any number of kinds, namespaces and single keys at once.
///
/// ```
/// use calico_datastore::ListRequest;
/// use calico_model::Kind;
/// let request = ListRequest::kinds([Kind::IPPool, Kind::Node]).and(ListRequest::blocks());
/// assert_eq!(request.ranges().as_slice().len(), 3);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ListRequest(KeyRanges);

impl From<KeyRanges> for ListRequest {
    fn from(ranges: KeyRanges) -> Self {
        Self(ranges)
    }
}

impl ListRequest {
    /// All objects of a kind.
    pub fn kind(kind: Kind) -> Self {
        Self::prefix(folder(kind, ""))
    }

    /// All objects of several kinds.
    pub fn kinds(kinds: impl IntoIterator<Item = Kind>) -> Self {
        kinds.into_iter().map(Self::kind).fold(Self::default(), Self::and)
    }

    /// The objects of a namespaced kind in one namespace; for other kinds the same as [`ListRequest::kind`].
    pub fn kind_in(kind: Kind, namespace: &str) -> Self {
        Self::prefix(folder(kind, namespace))
    }

    /// The objects of a kind (in one namespace, if it is namespaced) whose names start with a text.
    pub fn names_starting(kind: Kind, namespace: &str, start: &str) -> Self {
        Self::prefix(folder(kind, namespace) + start)
    }

    /// Raw Kubernetes objects of a kind (embedded store).
    pub fn kubernetes(kind: KubernetesKind) -> Self {
        Self::prefix(format!("{KUBERNETES_PREFIX}{}/", kind.plural()))
    }

    /// Raw Kubernetes objects of a kind in one namespace (embedded store).
    pub fn kubernetes_in(kind: KubernetesKind, namespace: &str) -> Self {
        if kind.is_namespaced() && !namespace.is_empty() {
            Self::prefix(format!("{KUBERNETES_PREFIX}{}/{namespace}/", kind.plural()))
        } else {
            Self::kubernetes(kind)
        }
    }

    /// One object.
    pub fn key(key: &Key) -> Self {
        Self(KeyRanges::exact(key.path()))
    }

    /// Blocks of addresses.
    pub fn blocks() -> Self {
        Self::prefix(format!("{IPAM_PREFIX}assignment/"))
    }

    /// Claims of nodes on blocks; of one node when it is named.
    pub fn block_affinities(host: Option<&str>) -> Self {
        match host {
            Some(host) => Self::prefix(format!("{IPAM_PREFIX}host/{host}/")),
            None => Self::prefix(format!("{IPAM_PREFIX}host/"))
                .and(Self::prefix(format!("{IPAM_PREFIX}virtual/"))),
        }
    }

    /// Address handles.
    pub fn handles() -> Self {
        Self::prefix(format!("{IPAM_PREFIX}handle/"))
    }

    /// Everything below a path.
    pub fn prefix(prefix: impl Into<String>) -> Self {
        Self(KeyRanges::prefix(prefix))
    }

    /// Everything a Calico datastore holds.
    pub fn everything() -> Self {
        Self::prefix("/calico/").and(Self::prefix(KUBERNETES_PREFIX))
    }

    /// Both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(KeyRanges::new(self.0.as_slice().iter().chain(other.0.as_slice()).cloned()))
    }

    /// The key ranges.
    pub fn ranges(&self) -> &KeyRanges {
        &self.0
    }
}

/// Path of the resources of a kind, of one namespace when it is given and the kind has namespaces.
fn folder(kind: Kind, namespace: &str) -> String {
    if kind.is_namespaced() && !namespace.is_empty() {
        format!("{RESOURCE_PREFIX}{}/{namespace}/", kind.plural())
    } else {
        format!("{RESOURCE_PREFIX}{}/", kind.plural())
    }
}

/// What the node agent's policy and route computation reads (Calico's Felix syncer), with the raw Kubernetes
/// objects that the embedded store keeps.
pub fn felix_view() -> ListRequest {
    let kinds = ListRequest::kinds([
        Kind::ClusterInformation,
        Kind::FelixConfiguration,
        Kind::GlobalNetworkPolicy,
        Kind::StagedGlobalNetworkPolicy,
        Kind::GlobalNetworkSet,
        Kind::IPPool,
        Kind::Node,
        Kind::Profile,
        Kind::WorkloadEndpoint,
        Kind::NetworkPolicy,
        Kind::StagedNetworkPolicy,
        Kind::StagedKubernetesNetworkPolicy,
        Kind::NetworkSet,
        Kind::Tier,
        Kind::HostEndpoint,
        Kind::BGPConfiguration,
        Kind::BGPPeer,
        Kind::LiveMigration,
    ]);
    KubernetesKind::ALL
        .into_iter()
        .filter(|kind| *kind != KubernetesKind::Node)
        .map(ListRequest::kubernetes)
        .fold(kinds.and(ListRequest::blocks()), ListRequest::and)
}

/// What the BGP speaker reads; block affinities of one node when it is named.
pub fn bgp_view(host: Option<&str>) -> ListRequest {
    ListRequest::kinds([Kind::IPPool, Kind::BGPConfiguration, Kind::Node, Kind::BGPPeer, Kind::BGPFilter])
        .and(ListRequest::block_affinities(host))
}

/// What the allocation of tunnel addresses reads; one node when it is named.
pub fn tunnel_view(host: Option<&str>) -> ListRequest {
    let nodes = match host {
        Some(host) => ListRequest::key(&Key::resource(Kind::Node, "", host)),
        None => ListRequest::kind(Kind::Node),
    };
    ListRequest::kind(Kind::IPPool).and(nodes)
}

/// What the node status reporter reads.
pub fn node_status_view() -> ListRequest {
    ListRequest::kind(Kind::CalicoNodeStatus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_cover_their_keys() {
        let policy = Key::resource(Kind::NetworkPolicy, "prod", "a").path();
        assert!(ListRequest::kind(Kind::NetworkPolicy).ranges().contains(&policy));
        assert!(ListRequest::kind_in(Kind::NetworkPolicy, "prod").ranges().contains(&policy));
        assert!(!ListRequest::kind_in(Kind::NetworkPolicy, "pro").ranges().contains(&policy));
        assert!(ListRequest::names_starting(Kind::NetworkPolicy, "prod", "a").ranges().contains(&policy));
        assert!(!ListRequest::names_starting(Kind::NetworkPolicy, "prod", "b").ranges().contains(&policy));
        assert!(felix_view().ranges().contains(&policy));
        assert!(!bgp_view(None).ranges().contains(&policy));
        let staged = Key::resource(Kind::StagedNetworkPolicy, "prod", "a").path();
        assert!(!ListRequest::kind(Kind::NetworkPolicy).ranges().contains(&staged));
    }

    #[test]
    fn views_name_nodes() {
        let path = |name: &str| Key::resource(Kind::Node, "", name).path();
        assert!(tunnel_view(Some("n1")).ranges().contains(&path("n1")));
        assert!(!tunnel_view(Some("n1")).ranges().contains(&path("n10")));
        assert!(tunnel_view(None).ranges().contains(&path("n10")));
        let affinity =
            Key::affinity(calico_model::AffinityType::Host, "n1", "10.0.0.0/26".parse().unwrap()).path();
        assert!(bgp_view(Some("n1")).ranges().contains(&affinity));
        assert!(!bgp_view(Some("n")).ranges().contains(&affinity));
        assert!(ListRequest::everything().ranges().contains(&affinity));
    }
}
