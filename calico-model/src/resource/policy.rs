//! Network policies, global and staged forms, and the rules they share with profiles.

use std::collections::BTreeMap;

use crate::k8s::networking::{LabelSelector, NetworkPolicyEgressRule, NetworkPolicyIngressRule};
use crate::shape::{object, text_enum};
use crate::{Port, Protocol};

text_enum! {
    /// What a rule does with a packet that matches.
    pub enum Action {
        /// Accept the packet.
        Allow = "Allow",
        /// Drop the packet.
        Deny = "Deny",
        /// Log the packet and go on with the next rule.
        Log = "Log",
        /// Leave the tier and go on with the next.
        Pass = "Pass",
    }

    /// A direction in which a policy applies.
    pub enum PolicyType {
        /// Traffic to the endpoint.
        Ingress = "Ingress",
        /// Traffic from the endpoint.
        Egress = "Egress",
    }

    /// What a staged policy would do if it were committed.
    pub enum StagedAction {
        /// Create or replace the policy of the same name.
        Set = "Set",
        /// Delete the policy of the same name.
        Delete = "Delete",
        /// Under construction by a recommendation engine; treated like `Set`.
        Learn = "Learn",
        /// Not considered.
        Ignore = "Ignore",
    }

    /// A hint about the best way to program a policy.
    pub enum PerformanceHint {
        /// Program the policy on every node, even where no endpoint needs it yet.
        AssumeNeededOnEveryNode = "AssumeNeededOnEveryNode",
    }
}

object! {
    /// Spec of a `NetworkPolicy`.
    pub struct NetworkPolicySpec {
        /// Tier; empty means `default`.
        tier: String = "tier",
        /// Position within the tier, lowest first; absent is last.
        #[serde(serialize_with = "crate::shape::whole::serialize")]
        order: Option<f64> = "order",
        /// Rules for traffic to the endpoints, in order.
        ingress: Vec<Rule> = "ingress",
        /// Rules for traffic from the endpoints, in order.
        egress: Vec<Rule> = "egress",
        /// Selects endpoints of the policy's namespace; empty selects all of them.
        selector: String = "selector",
        /// Directions in which the policy applies.
        types: Vec<PolicyType> = "types",
        /// Selects endpoints by the labels of their service account.
        service_account_selector: String = "serviceAccountSelector",
        /// Hints for the dataplane.
        performance_hints: Vec<PerformanceHint> = "performanceHints",
    }

    /// Spec of a `GlobalNetworkPolicy`.
    pub struct GlobalNetworkPolicySpec {
        /// Tier; empty means `default`.
        tier: String = "tier",
        /// Position within the tier, lowest first; absent is last.
        #[serde(serialize_with = "crate::shape::whole::serialize")]
        order: Option<f64> = "order",
        /// Rules for traffic to the endpoints, in order.
        ingress: Vec<Rule> = "ingress",
        /// Rules for traffic from the endpoints, in order.
        egress: Vec<Rule> = "egress",
        /// Selects endpoints; empty selects all.
        selector: String = "selector",
        /// Directions in which the policy applies.
        types: Vec<PolicyType> = "types",
        /// Apply before connection tracking (host endpoints only).
        do_not_track: bool = "doNotTrack",
        /// Apply before destination NAT (host endpoints only, ingress only).
        pre_dnat: bool = "preDNAT",
        /// Apply to traffic forwarded through a host endpoint too.
        apply_on_forward: bool = "applyOnForward",
        /// Selects endpoints by the labels of their service account.
        service_account_selector: String = "serviceAccountSelector",
        /// Selects workload endpoints by the labels of their namespace.
        namespace_selector: String = "namespaceSelector",
        /// Hints for the dataplane.
        performance_hints: Vec<PerformanceHint> = "performanceHints",
    }

    /// Spec of a `StagedNetworkPolicy`.
    pub struct StagedNetworkPolicySpec {
        /// What committing the policy would do; empty means `Set`.
        staged_action: StagedAction = "stagedAction",
        /// Tier; empty means `default`.
        tier: String = "tier",
        /// Position within the tier, lowest first; absent is last.
        #[serde(serialize_with = "crate::shape::whole::serialize")]
        order: Option<f64> = "order",
        /// Rules for traffic to the endpoints, in order.
        ingress: Vec<Rule> = "ingress",
        /// Rules for traffic from the endpoints, in order.
        egress: Vec<Rule> = "egress",
        /// Selects endpoints of the policy's namespace; empty selects all of them.
        selector: String = "selector",
        /// Directions in which the policy applies.
        types: Vec<PolicyType> = "types",
        /// Selects endpoints by the labels of their service account.
        service_account_selector: String = "serviceAccountSelector",
        /// Hints for the dataplane.
        performance_hints: Vec<PerformanceHint> = "performanceHints",
    }

    /// Spec of a `StagedGlobalNetworkPolicy`.
    pub struct StagedGlobalNetworkPolicySpec {
        /// What committing the policy would do; empty means `Set`.
        staged_action: StagedAction = "stagedAction",
        /// Tier; empty means `default`.
        tier: String = "tier",
        /// Position within the tier, lowest first; absent is last.
        #[serde(serialize_with = "crate::shape::whole::serialize")]
        order: Option<f64> = "order",
        /// Rules for traffic to the endpoints, in order.
        ingress: Vec<Rule> = "ingress",
        /// Rules for traffic from the endpoints, in order.
        egress: Vec<Rule> = "egress",
        /// Selects endpoints; empty selects all.
        selector: String = "selector",
        /// Directions in which the policy applies.
        types: Vec<PolicyType> = "types",
        /// Apply before connection tracking (host endpoints only).
        do_not_track: bool = "doNotTrack",
        /// Apply before destination NAT (host endpoints only, ingress only).
        pre_dnat: bool = "preDNAT",
        /// Apply to traffic forwarded through a host endpoint too.
        apply_on_forward: bool = "applyOnForward",
        /// Selects endpoints by the labels of their service account.
        service_account_selector: String = "serviceAccountSelector",
        /// Selects workload endpoints by the labels of their namespace.
        namespace_selector: String = "namespaceSelector",
        /// Hints for the dataplane.
        performance_hints: Vec<PerformanceHint> = "performanceHints",
    }

    /// Spec of a `StagedKubernetesNetworkPolicy`: a Kubernetes network policy that is evaluated but not enforced.
    pub struct StagedKubernetesNetworkPolicySpec {
        /// What committing the policy would do; empty means `Set`.
        staged_action: StagedAction = "stagedAction",
        /// Selects pods of the policy's namespace.
        pod_selector: LabelSelector = "podSelector",
        /// Rules for traffic to the pods.
        ingress: Vec<NetworkPolicyIngressRule> = "ingress",
        /// Rules for traffic from the pods.
        egress: Vec<NetworkPolicyEgressRule> = "egress",
        /// Directions in which the policy applies.
        policy_types: Vec<PolicyType> = "policyTypes",
    }

    /// One rule. All criteria given must hold.
    pub struct Rule {
        /// What happens to a packet that matches; required.
        action: Action = "action",
        /// IP version, 4 or 6.
        ip_version: Option<u8> = "ipVersion",
        /// Protocol the packet must have.
        protocol: Option<Protocol> = "protocol",
        /// Protocol the packet must not have.
        not_protocol: Option<Protocol> = "notProtocol",
        /// ICMP type and code the packet must have.
        icmp: Option<IcmpFields> = "icmp",
        /// ICMP type and code the packet must not have (both together).
        not_icmp: Option<IcmpFields> = "notICMP",
        /// Where the packet comes from.
        source: EntityRule = "source",
        /// Where the packet goes to.
        destination: EntityRule = "destination",
        /// Requests to match, where an application-layer proxy enforces policy.
        http: Option<HttpMatch> = "http",
        /// Data about the rule itself.
        metadata: Option<RuleMetadata> = "metadata",
    }

    /// One side of a rule. All criteria given must hold.
    pub struct EntityRule {
        /// CIDRs, one of which must contain the address.
        nets: Vec<String> = "nets",
        /// CIDRs, none of which may contain the address.
        not_nets: Vec<String> = "notNets",
        /// Selects endpoints and network sets, one of which must have the address.
        selector: String = "selector",
        /// Selects endpoints and network sets, none of which may have the address.
        not_selector: String = "notSelector",
        /// Restricts `selector` and `notSelector` to namespaces with these labels.
        namespace_selector: String = "namespaceSelector",
        /// Ports, one of which must be the packet's.
        ports: Vec<Port> = "ports",
        /// Ports, none of which may be the packet's.
        not_ports: Vec<Port> = "notPorts",
        /// A Kubernetes service whose endpoints (and ports, as a destination) must match.
        services: Option<ServiceMatch> = "services",
        /// Service accounts of the endpoints that match.
        service_accounts: Option<ServiceAccountMatch> = "serviceAccounts",
    }

    /// ICMP type and code.
    pub struct IcmpFields {
        /// ICMP type, 0–254.
        icmp_type: Option<i64> = "type",
        /// ICMP code, 0–255; needs a type.
        code: Option<i64> = "code",
    }

    /// HTTP requests to match.
    pub struct HttpMatch {
        /// Methods, one of which must be the request's; empty matches all.
        methods: Vec<String> = "methods",
        /// Paths, one of which must be the request's; empty matches all.
        paths: Vec<HttpPath> = "paths",
    }

    /// One path of an HTTP match: exactly one of the two forms.
    pub struct HttpPath {
        /// The whole path.
        exact: String = "exact",
        /// The beginning of the path.
        prefix: String = "prefix",
    }

    /// A Kubernetes service by name.
    pub struct ServiceMatch {
        /// Name of the service.
        name: String = "name",
        /// Namespace of the service; empty means the policy's.
        namespace: String = "namespace",
    }

    /// Service accounts by name and by label; both must hold when both are given.
    pub struct ServiceAccountMatch {
        /// Names, one of which must be the endpoint's.
        names: Vec<String> = "names",
        /// Selects service accounts by label.
        selector: String = "selector",
    }

    /// Data about a rule.
    pub struct RuleMetadata {
        /// Free annotations.
        annotations: BTreeMap<String, String> = "annotations",
    }

    /// Spec of a `Profile`.
    pub struct ProfileSpec {
        /// Rules for traffic to endpoints with this profile.
        ingress: Vec<Rule> = "ingress",
        /// Rules for traffic from endpoints with this profile.
        egress: Vec<Rule> = "egress",
        /// Labels that every endpoint with this profile inherits.
        labels_to_apply: BTreeMap<String, String> = "labelsToApply",
    }
}

impl StagedNetworkPolicySpec {
    /// The policy that committing this one would create.
    pub fn enforced(&self) -> NetworkPolicySpec {
        NetworkPolicySpec {
            tier: self.tier.clone(),
            order: self.order,
            ingress: self.ingress.clone(),
            egress: self.egress.clone(),
            selector: self.selector.clone(),
            types: self.types.clone(),
            service_account_selector: self.service_account_selector.clone(),
            performance_hints: self.performance_hints.clone(),
        }
    }
}

impl StagedGlobalNetworkPolicySpec {
    /// The policy that committing this one would create.
    pub fn enforced(&self) -> GlobalNetworkPolicySpec {
        GlobalNetworkPolicySpec {
            tier: self.tier.clone(),
            order: self.order,
            ingress: self.ingress.clone(),
            egress: self.egress.clone(),
            selector: self.selector.clone(),
            types: self.types.clone(),
            do_not_track: self.do_not_track,
            pre_dnat: self.pre_dnat,
            apply_on_forward: self.apply_on_forward,
            service_account_selector: self.service_account_selector.clone(),
            namespace_selector: self.namespace_selector.clone(),
            performance_hints: self.performance_hints.clone(),
        }
    }
}
