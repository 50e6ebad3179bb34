//! Label selectors and network policies of Kubernetes (`meta/v1`, `networking.k8s.io/v1`).

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::shape::{NumberOrTextVisitor, Shape, TypeShape, object};

object! {
    /// Selects objects by label; empty selects all.
    pub struct LabelSelector {
        /// Labels that must have exactly these values.
        match_labels: BTreeMap<String, String> = "matchLabels",
        /// Further conditions; all must hold.
        match_expressions: Vec<LabelSelectorRequirement> = "matchExpressions",
    }

    /// One condition of a label selector.
    pub struct LabelSelectorRequirement {
        /// Label.
        key: String = "key",
        /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
        operator: String = "operator",
        /// Values for `In` and `NotIn`.
        values: Vec<String> = "values",
    }

    /// Spec of a Kubernetes `NetworkPolicy`.
    pub struct NetworkPolicySpec {
        /// Selects pods of the policy's namespace.
        pod_selector: LabelSelector = "podSelector",
        /// Rules for traffic to the pods.
        ingress: Vec<NetworkPolicyIngressRule> = "ingress",
        /// Rules for traffic from the pods.
        egress: Vec<NetworkPolicyEgressRule> = "egress",
        /// `Ingress`, `Egress`; absent means ingress only.
        policy_types: Vec<String> = "policyTypes",
    }

    /// Allows traffic to pods; empty lists match everything.
    pub struct NetworkPolicyIngressRule {
        /// Ports, one of which must match.
        ports: Vec<NetworkPolicyPort> = "ports",
        /// Sources, one of which must match.
        from: Vec<NetworkPolicyPeer> = "from",
    }

    /// Allows traffic from pods; empty lists match everything.
    pub struct NetworkPolicyEgressRule {
        /// Ports, one of which must match.
        ports: Vec<NetworkPolicyPort> = "ports",
        /// Destinations, one of which must match.
        to: Vec<NetworkPolicyPeer> = "to",
    }

    /// A port of a rule.
    pub struct NetworkPolicyPort {
        /// Protocol; empty means TCP.
        protocol: String = "protocol",
        /// Number or name; absent means all ports.
        port: Option<IntOrString> = "port",
        /// Last port of a range that starts at `port`.
        end_port: Option<i32> = "endPort",
    }

    /// A peer of a rule: pods, namespaces or addresses.
    pub struct NetworkPolicyPeer {
        /// Selects pods.
        pod_selector: Option<LabelSelector> = "podSelector",
        /// Selects namespaces.
        namespace_selector: Option<LabelSelector> = "namespaceSelector",
        /// Addresses.
        ip_block: Option<IpBlock> = "ipBlock",
    }

    /// A network without some of its parts.
    pub struct IpBlock {
        /// The network.
        cidr: String = "cidr",
        /// The parts.
        except: Vec<String> = "except",
    }
}

/// A number or a text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IntOrString {
    /// A number.
    Int(i64),
    /// A text.
    String(String),
}

impl std::fmt::Display for IntOrString {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Int(n) => write!(f, "{n}"),
            Self::String(s) => f.write_str(s),
        }
    }
}

impl Serialize for IntOrString {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Int(n) => s.serialize_i64(*n),
            Self::String(t) => s.serialize_str(t),
        }
    }
}

impl<'de> Deserialize<'de> for IntOrString {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(NumberOrTextVisitor(
            |n| Ok(Self::Int(n)),
            |s: &str| Ok(Self::String(s.to_owned())),
            "a number or a text",
        ))
    }
}

impl Shape for IntOrString {
    fn shape() -> TypeShape {
        TypeShape::IntOrString
    }
    fn unset(&self) -> bool {
        false
    }
}
