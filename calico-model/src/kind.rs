//! The kinds of this model and everything that follows from a kind: names, plural, scope.

use std::fmt;
use std::str::FromStr;

/// Whether objects of a kind live in namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// One name space for the whole cluster.
    Cluster,
    /// One name space per namespace.
    Namespaced,
}

/// Calls the macro with the table of kinds that have resources of their own: name, plural, scope, short names, spec,
/// status. A kind is declared here and nowhere else.
macro_rules! for_each_kind {
    ($callback:ident) => {
        $callback! {
            /// BGP settings of the cluster or of a node.
            BGPConfiguration, "bgpconfigurations", Cluster, ["bgpconfig", "bgpconfigs"], bgp::BGPConfigurationSpec, Json;
            /// Filter for BGP routes.
            BGPFilter, "bgpfilters", Cluster, [], bgp::BGPFilterSpec, Json;
            /// A BGP peer.
            BGPPeer, "bgppeers", Cluster, [], bgp::BGPPeerSpec, Json;
            /// A node's claim on a block of addresses.
            BlockAffinity, "blockaffinities", Cluster, ["affinity", "affinities"], ipam::BlockAffinitySpec, Json;
            /// Report about the programs of a node.
            CalicoNodeStatus, "caliconodestatuses", Cluster, [],
                node_status::CalicoNodeStatusSpec, node_status::CalicoNodeStatusStatus;
            /// Facts about the cluster.
            ClusterInformation, "clusterinformations", Cluster, ["clusterinfo", "clusterinfos"],
                cluster::ClusterInformationSpec, Json;
            /// Settings of the node agent.
            FelixConfiguration, "felixconfigurations", Cluster, [], felix::FelixConfigurationSpec, Json;
            /// Policy for the whole cluster.
            GlobalNetworkPolicy, "globalnetworkpolicies", Cluster, ["gnp", "cgnp"],
                policy::GlobalNetworkPolicySpec, Json;
            /// Networks with labels, for the whole cluster.
            GlobalNetworkSet, "globalnetworksets", Cluster, ["gns"], network_set::GlobalNetworkSetSpec, Json;
            /// An interface of a node.
            HostEndpoint, "hostendpoints", Cluster, ["hep", "heps"], endpoint::HostEndpointSpec, Json;
            /// A block of addresses (Kubernetes only).
            IPAMBlock, "ipamblocks", Cluster, [], ipam::IPAMBlockSpec, Json;
            /// Settings of address management, group v1.
            IPAMConfig, "ipamconfigs", Cluster, [], ipam::IPAMConfigSpec, Json;
            /// Settings of address management, group v3.
            IPAMConfiguration, "ipamconfigurations", Cluster, ["ipamconfig", "ipamconfigs"],
                ipam::IPAMConfigurationSpec, Json;
            /// Addresses held by one owner (Kubernetes only).
            IPAMHandle, "ipamhandles", Cluster, [], ipam::IPAMHandleSpec, Json;
            /// A pool of addresses.
            IPPool, "ippools", Cluster, [], ip_pool::IPPoolSpec, ip_pool::IPPoolStatus;
            /// Addresses that are never assigned automatically.
            IPReservation, "ipreservations", Cluster, [], ip_pool::IPReservationSpec, Json;
            /// Settings of the cluster-wide controllers.
            KubeControllersConfiguration, "kubecontrollersconfigurations", Cluster, ["kcc", "kccs"],
                controllers::KubeControllersConfigurationSpec, controllers::KubeControllersConfigurationStatus;
            /// A live migration of a virtual machine.
            LiveMigration, "livemigrations", Namespaced, [], live_migration::LiveMigrationSpec, Json;
            /// Policy for one namespace.
            NetworkPolicy, "networkpolicies", Namespaced, ["cnp", "caliconetworkpolicy"],
                policy::NetworkPolicySpec, Json;
            /// Networks with labels, for one namespace.
            NetworkSet, "networksets", Namespaced, [], network_set::NetworkSetSpec, Json;
            /// A node.
            Node, "nodes", Cluster, [], node::NodeSpec, node::NodeStatus;
            /// Rules and labels shared by endpoints.
            Profile, "profiles", Cluster, [], policy::ProfileSpec, Json;
            /// Policy for the whole cluster, not enforced yet.
            StagedGlobalNetworkPolicy, "stagedglobalnetworkpolicies", Cluster, ["sgnp"],
                policy::StagedGlobalNetworkPolicySpec, Json;
            /// Kubernetes policy, not enforced yet.
            StagedKubernetesNetworkPolicy, "stagedkubernetesnetworkpolicies", Namespaced, ["sknp"],
                policy::StagedKubernetesNetworkPolicySpec, Json;
            /// Policy for one namespace, not enforced yet.
            StagedNetworkPolicy, "stagednetworkpolicies", Namespaced, ["scnp", "snp"],
                policy::StagedNetworkPolicySpec, Json;
            /// A tier of policies.
            Tier, "tiers", Cluster, [], tier::TierSpec, tier::TierStatus;
            /// An interface of a workload.
            WorkloadEndpoint, "workloadendpoints", Namespaced, [], endpoint::WorkloadEndpointSpec, Json;
        }
    };
}
pub(crate) use for_each_kind;

macro_rules! define_kind {
    ($( $(#[$doc:meta])* $kind:ident, $plural:literal, $scope:ident, [$($short:literal),*], $spec:ty, $status:ty; )*) => {
        /// A kind of object.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Kind {
            $( $(#[$doc])* $kind, )*
            /// A Kubernetes `NetworkPolicy` in the form of a Calico `NetworkPolicy` (keys only).
            KubernetesNetworkPolicy,
            /// A Kubernetes `ClusterNetworkPolicy` in the form of a `GlobalNetworkPolicy` (keys only).
            KubernetesClusterNetworkPolicy,
            /// A Kubernetes `Service` (keys only).
            KubernetesService,
            /// A Kubernetes `EndpointSlice` (keys only).
            KubernetesEndpointSlice,
        }

        impl Kind {
            /// Every kind, resources first, then the pseudo-kinds that exist as keys only.
            pub const ALL: &'static [Self] = &[
                $( Self::$kind, )*
                Self::KubernetesNetworkPolicy,
                Self::KubernetesClusterNetworkPolicy,
                Self::KubernetesService,
                Self::KubernetesEndpointSlice,
            ];

            /// The name as it stands in `kind`.
            pub fn name(self) -> &'static str {
                match self {
                    $( Self::$kind => stringify!($kind), )*
                    Self::KubernetesNetworkPolicy => "KubernetesNetworkPolicy",
                    Self::KubernetesClusterNetworkPolicy => "KubernetesClusterNetworkPolicy",
                    Self::KubernetesService => "KubernetesService",
                    Self::KubernetesEndpointSlice => "KubernetesEndpointSlice",
                }
            }

            /// The plural, as in datastore paths and custom resource names.
            pub fn plural(self) -> &'static str {
                match self {
                    $( Self::$kind => $plural, )*
                    Self::KubernetesNetworkPolicy => "kubernetesnetworkpolicies",
                    Self::KubernetesClusterNetworkPolicy => "kubernetesclusternetworkpolicies",
                    // Singular in the reference, and therefore on the wire.
                    Self::KubernetesService => "kubernetesservice",
                    Self::KubernetesEndpointSlice => "kubernetesendpointslices",
                }
            }

            /// Short names on the command line.
            pub fn short_names(self) -> &'static [&'static str] {
                match self {
                    $( Self::$kind => &[$($short),*], )*
                    _ => &[],
                }
            }

            /// Scope of the kind.
            pub fn scope(self) -> Scope {
                match self {
                    $( Self::$kind => Scope::$scope, )*
                    Self::KubernetesClusterNetworkPolicy => Scope::Cluster,
                    _ => Scope::Namespaced,
                }
            }
        }
    };
}
for_each_kind!(define_kind);

impl Kind {
    /// True when objects of the kind live in namespaces.
    pub fn is_namespaced(self) -> bool {
        self.scope() == Scope::Namespaced
    }

    /// True for the kinds that exist as keys only.
    pub fn is_pseudo(self) -> bool {
        matches!(
            self,
            Self::KubernetesNetworkPolicy
                | Self::KubernetesClusterNetworkPolicy
                | Self::KubernetesService
                | Self::KubernetesEndpointSlice
        )
    }

    /// True for the policy kinds that belong to a tier.
    pub fn is_tiered_policy(self) -> bool {
        matches!(
            self,
            Self::NetworkPolicy
                | Self::GlobalNetworkPolicy
                | Self::StagedNetworkPolicy
                | Self::StagedGlobalNetworkPolicy
        )
    }

    /// The kind with the given plural, if any.
    pub fn from_plural(plural: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|k| k.plural() == plural)
    }

    /// The kind that a person means: name, plural or short name, any case.
    ///
    /// ```
    /// use calico_model::Kind;
    /// assert_eq!(Kind::from_user("gnp"), Some(Kind::GlobalNetworkPolicy));
    /// assert_eq!(Kind::from_user("ippools"), Some(Kind::IPPool));
    /// ```
    pub fn from_user(text: &str) -> Option<Self> {
        let is = |s: &str| s.eq_ignore_ascii_case(text);
        let resources = || Self::ALL.iter().copied().filter(|k| !k.is_pseudo());
        resources()
            .find(|k| is(k.name()) || is(k.plural()))
            .or_else(|| resources().find(|k| k.short_names().iter().any(|s| is(s))))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown kind {0:?}")]
pub struct UnknownKind(pub String);

impl FromStr for Kind {
    type Err = UnknownKind;

    /// Reads a kind name, ignoring case as the reference does.
    fn from_str(s: &str) -> Result<Self, UnknownKind> {
        let found = Self::ALL.iter().copied().find(|k| k.name().eq_ignore_ascii_case(s));
        found.ok_or_else(|| UnknownKind(s.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        for (i, a) in Kind::ALL.iter().enumerate() {
            assert_eq!(a.name().parse::<Kind>(), Ok(*a));
            assert_eq!(Kind::from_plural(a.plural()), Some(*a));
            for b in &Kind::ALL[i + 1..] {
                assert_ne!(a.plural(), b.plural());
            }
        }
        assert_eq!(Kind::from_user("CNP"), Some(Kind::NetworkPolicy));
        assert_eq!(Kind::from_user("nothing"), None);
        assert!("bogus".parse::<Kind>().is_err());
        assert!(Kind::LiveMigration.is_namespaced() && !Kind::Profile.is_namespaced());
    }
}
