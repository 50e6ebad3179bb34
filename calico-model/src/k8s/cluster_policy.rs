//! Kubernetes cluster network policies become global network policies.

use std::collections::BTreeMap;

use crate::defaults::{KUBE_ADMIN_TIER, KUBE_BASELINE_TIER};
use crate::error::FieldError;
use crate::k8s::Converted;
use crate::k8s::networking::LabelSelector;
use crate::k8s::policy::{add_ports, metadata, namespace_selector, pod_selector, simplify_ports};
use crate::k8s::types::Meta;
use crate::resource::policy::{Action, EntityRule, PolicyType, Rule, RuleMetadata};
use crate::shape::{null_is_default, object};
use crate::{GlobalNetworkPolicy, GlobalNetworkPolicySpec, Kind, Port, Protocol};
use serde::{Deserialize, Serialize};

/// A cluster network policy (`policy.networking.k8s.io/v1alpha2`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterNetworkPolicy {
    /// Metadata.
    #[serde(deserialize_with = "null_is_default")]
    pub metadata: Meta,
    /// What is wanted.
    #[serde(deserialize_with = "null_is_default")]
    pub spec: ClusterNetworkPolicySpec,
}

object! {
    /// Spec of a cluster network policy. Fields this version does not know are kept aside by the reader.
    pub struct ClusterNetworkPolicySpec {
        /// `Admin` or `Baseline`.
        tier: String = "tier",
        /// Order within the tier, 0–1000, lowest first.
        priority: i32 = "priority",
        /// Pods the policy applies to.
        subject: Subject = "subject",
        /// Rules for traffic to the pods.
        ingress: Vec<ClusterIngressRule> = "ingress",
        /// Rules for traffic from the pods.
        egress: Vec<ClusterEgressRule> = "egress",
    }

    /// Pods a policy applies to: one of the two.
    pub struct Subject {
        /// All pods of these namespaces.
        namespaces: Option<LabelSelector> = "namespaces",
        /// These pods.
        pods: Option<NamespacedPods> = "pods",
    }

    /// Pods by namespace and label.
    pub struct NamespacedPods {
        /// Selects namespaces.
        namespace_selector: LabelSelector = "namespaceSelector",
        /// Selects pods.
        pod_selector: LabelSelector = "podSelector",
    }

    /// A rule for traffic to the pods.
    pub struct ClusterIngressRule {
        /// Name.
        name: String = "name",
        /// `Accept`, `Deny` or `Pass`.
        action: String = "action",
        /// Sources.
        from: Vec<ClusterPeer> = "from",
        /// Protocols and ports; empty means all.
        protocols: Vec<ClusterProtocol> = "protocols",
    }

    /// A rule for traffic from the pods.
    pub struct ClusterEgressRule {
        /// Name.
        name: String = "name",
        /// `Accept`, `Deny` or `Pass`.
        action: String = "action",
        /// Destinations.
        to: Vec<ClusterPeer> = "to",
        /// Protocols and ports; empty means all.
        protocols: Vec<ClusterProtocol> = "protocols",
    }

    /// A peer of a rule: exactly one of the fields. `networks` is for destinations.
    pub struct ClusterPeer {
        /// All pods of these namespaces.
        namespaces: Option<LabelSelector> = "namespaces",
        /// These pods.
        pods: Option<NamespacedPods> = "pods",
        /// These networks.
        networks: Vec<String> = "networks",
    }

    /// A protocol of a rule: exactly one of the fields.
    pub struct ClusterProtocol {
        /// TCP.
        tcp: Option<ClusterPorts> = "tcp",
        /// UDP.
        udp: Option<ClusterPorts> = "udp",
        /// SCTP.
        sctp: Option<ClusterPorts> = "sctp",
        /// A named port of the destination, whatever its protocol.
        destination_named_port: String = "destinationNamedPort",
    }

    /// Ports of a protocol.
    pub struct ClusterPorts {
        /// Port of the destination; absent means all.
        destination_port: Option<ClusterPort> = "destinationPort",
    }

    /// A port or a range of ports.
    pub struct ClusterPort {
        /// One port.
        number: Option<i32> = "number",
        /// A range.
        range: Option<ClusterPortRange> = "range",
    }

    /// A range of ports.
    pub struct ClusterPortRange {
        /// First port.
        start: i32 = "start",
        /// Last port.
        end: i32 = "end",
    }
}

/// Converts a policy. `object` is `None`, as if the policy did not exist, when its tier is unknown or it has no
/// subject. A rule that cannot be understood becomes a Deny for everything, unless it would only accept: then it goes.
pub fn convert(policy: &ClusterNetworkPolicy) -> Converted<Option<GlobalNetworkPolicy>> {
    let mut problems = Vec::new();
    let object = try_convert(policy, &mut problems);
    Converted { object, problems }
}

fn try_convert(policy: &ClusterNetworkPolicy, problems: &mut Vec<FieldError>) -> Option<GlobalNetworkPolicy> {
    let spec = &policy.spec;
    let tier = match spec.tier.as_str() {
        "Admin" => KUBE_ADMIN_TIER,
        "Baseline" => KUBE_BASELINE_TIER,
        other => {
            problems.push(FieldError::with_value("spec.tier", other, "must be Admin or Baseline"));
            return None;
        }
    };
    let subject = match (&spec.subject.namespaces, &spec.subject.pods) {
        (Some(namespaces), _) => Some((
            pod_selector("", None, problems),
            namespace_selector("spec.subject.namespaces", Some(namespaces), problems),
        )),
        (None, Some(pods)) => Some((
            pod_selector("spec.subject.pods.podSelector", Some(&pods.pod_selector), problems),
            namespace_selector(
                "spec.subject.pods.namespaceSelector",
                Some(&pods.namespace_selector),
                problems,
            ),
        )),
        (None, None) => None,
    };
    let Some((Some(selector), Some(namespace_selector))) = subject else {
        if subject.is_none() {
            problems.push(FieldError::new("spec.subject", "needs namespaces or pods"));
        }
        return None;
    };
    let mut ingress = Vec::new();
    for (i, r) in spec.ingress.iter().enumerate() {
        let path = format!("spec.ingress[{i}]");
        rule(&path, Side::From, &r.name, &r.action, &r.from, &r.protocols, &mut ingress, problems);
    }
    let mut egress = Vec::new();
    for (i, r) in spec.egress.iter().enumerate() {
        let path = format!("spec.egress[{i}]");
        rule(&path, Side::To, &r.name, &r.action, &r.to, &r.protocols, &mut egress, problems);
    }
    let mut types = Vec::new();
    if !ingress.is_empty() {
        types.push(PolicyType::Ingress);
    }
    if !egress.is_empty() {
        types.push(PolicyType::Egress);
    }
    Some(GlobalNetworkPolicy {
        kind: Kind::KubernetesClusterNetworkPolicy,
        metadata: metadata(&policy.metadata),
        spec: GlobalNetworkPolicySpec {
            tier: tier.to_owned(),
            order: Some(f64::from(spec.priority)),
            selector,
            namespace_selector,
            ingress,
            egress,
            types,
            ..GlobalNetworkPolicySpec::default()
        },
        ..GlobalNetworkPolicy::default()
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    From,
    To,
}

#[allow(clippy::too_many_arguments)]
fn rule(
    path: &str,
    side: Side,
    name: &str,
    action: &str,
    peers: &[ClusterPeer],
    protocols: &[ClusterProtocol],
    out: &mut Vec<Rule>,
    problems: &mut Vec<FieldError>,
) {
    let before = problems.len();
    let calico_action = match action {
        "Accept" => Action::Allow,
        "Deny" => Action::Deny,
        "Pass" => Action::Pass,
        other => {
            let reason = "must be Accept, Deny or Pass";
            problems.push(FieldError::with_value(format!("{path}.action"), other, reason));
            Action::Allow
        }
    };
    let mut by_protocol: BTreeMap<String, Option<Vec<Port>>> = BTreeMap::new();
    for (i, p) in protocols.iter().enumerate() {
        match protocol(p) {
            // An empty entry means everything and makes the others redundant.
            Ok(None) => {
                by_protocol = [(String::new(), None)].into();
                break;
            }
            Ok(Some((name, ports))) => add_ports(&mut by_protocol, name.to_owned(), ports),
            Err(reason) => problems.push(FieldError::new(format!("{path}.protocols[{i}]"), reason)),
        }
    }
    if protocols.is_empty() {
        by_protocol.insert(String::new(), None);
    }
    let list = if side == Side::From { "from" } else { "to" };
    let entities: Vec<EntityRule> = peers
        .iter()
        .enumerate()
        .filter_map(|(i, p)| peer(&format!("{path}.{list}[{i}]"), side, p, problems))
        .collect();
    if problems.len() > before {
        // Fail closed: a restriction that cannot be understood restricts everything.
        if calico_action != Action::Allow {
            out.push(Rule { action: Action::Deny, ..Rule::default() });
        }
        return;
    }
    let metadata = (!name.is_empty())
        .then(|| RuleMetadata { annotations: [("name".to_owned(), name.to_owned())].into() });
    for (protocol, ports) in by_protocol {
        let protocol = (!protocol.is_empty()).then(|| Protocol::from_any_case(&protocol));
        let ports = simplify_ports(ports.unwrap_or_default());
        for entity in &entities {
            let mut rule = Rule {
                action: calico_action.clone(),
                protocol: protocol.clone(),
                metadata: metadata.clone(),
                ..Rule::default()
            };
            match side {
                Side::From => rule.source = entity.clone(),
                Side::To => rule.destination = entity.clone(),
            }
            rule.destination.ports.clone_from(&ports);
            out.push(rule);
        }
    }
}

type ProtocolPorts = (&'static str, Option<Vec<Port>>);

/// `None` when the entry is empty, which means everything.
fn protocol(p: &ClusterProtocol) -> Result<Option<ProtocolPorts>, String> {
    for (name, ports) in [("TCP", &p.tcp), ("UDP", &p.udp), ("SCTP", &p.sctp)] {
        let Some(ports) = ports else { continue };
        return match &ports.destination_port {
            None => Ok(Some((name, None))),
            Some(ClusterPort { number: Some(n), .. }) => {
                number(*n).map(|n| Some((name, Some(vec![Port::single(n)]))))
            }
            Some(ClusterPort { range: Some(r), .. }) => {
                let (start, end) = (number(r.start)?, number(r.end)?);
                if start > end {
                    return Err(format!("range {start}-{end} must not end before it starts"));
                }
                Ok(Some((name, Some(vec![Port::Range(start, end)]))))
            }
            Some(_) => Err("destinationPort needs number or range".to_owned()),
        };
    }
    if p.destination_named_port.is_empty() {
        return Ok(None);
    }
    match p.destination_named_port.parse::<Port>() {
        Ok(port @ Port::Named(_)) => Ok(Some(("", Some(vec![port])))),
        _ => Err(format!("{:?} is not the name of a port", p.destination_named_port)),
    }
}

fn number(n: i32) -> Result<u16, String> {
    u16::try_from(n).ok().filter(|n| *n != 0).ok_or_else(|| format!("port {n} is not within 1-65535"))
}

fn peer(path: &str, side: Side, p: &ClusterPeer, problems: &mut Vec<FieldError>) -> Option<EntityRule> {
    if let Some(pods) = &p.pods {
        return Some(EntityRule {
            selector: pod_selector(&format!("{path}.pods.podSelector"), Some(&pods.pod_selector), problems)?,
            namespace_selector: namespace_selector(
                &format!("{path}.pods.namespaceSelector"),
                Some(&pods.namespace_selector),
                problems,
            )?,
            ..EntityRule::default()
        });
    }
    if let Some(namespaces) = &p.namespaces {
        let namespace_selector =
            namespace_selector(&format!("{path}.namespaces"), Some(namespaces), problems)?;
        return Some(EntityRule { namespace_selector, ..EntityRule::default() });
    }
    if side == Side::To && !p.networks.is_empty() {
        let mut nets = Vec::with_capacity(p.networks.len());
        for (i, n) in p.networks.iter().enumerate() {
            match crate::net::cidr(n) {
                Ok(net) => nets.push(net.trunc().to_string()),
                Err(e) => problems.push(FieldError::new(format!("{path}.networks[{i}]"), e.to_string())),
            }
        }
        return Some(EntityRule { nets, ..EntityRule::default() });
    }
    problems.push(FieldError::new(
        path,
        "no peer of a supported type; use namespaces, pods or (egress) networks",
    ));
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert_spec(spec: serde_json::Value) -> Converted<Option<GlobalNetworkPolicy>> {
        let policy = serde_json::json!({"metadata": {"name": "p"}, "spec": spec}).to_string();
        let kind = crate::KubernetesKind::ClusterNetworkPolicy;
        let object = crate::k8s::KubernetesObject::from_json(kind, policy.as_bytes()).unwrap();
        let crate::k8s::KubernetesObject::ClusterNetworkPolicy(policy) = object else { panic!() };
        convert(&policy)
    }

    #[test]
    fn subjects_peers_and_names() {
        let c = convert_spec(serde_json::json!({
            "tier": "Admin", "priority": 7,
            "subject": {"namespaces": {"matchLabels": {"env": "prod"}}},
            "ingress": [{"name": "mon", "action": "Accept",
                "from": [{"namespaces": {}}, {"pods": {"namespaceSelector": {}, "podSelector": {}}}],
                "protocols": [{"tcp": {"destinationPort": {"number": 80}}},
                              {"tcp": {"destinationPort": {"range": {"start": 81, "end": 90}}}},
                              {"destinationNamedPort": "web"}]}],
            "egress": [{"action": "Pass", "to": [{"networks": ["10.1.2.3/8"]}]}]
        }));
        assert_eq!(c.problems, []);
        let p = c.object.unwrap();
        assert_eq!((p.spec.tier.as_str(), p.spec.order), ("kube-admin", Some(7.0)));
        assert_eq!(p.spec.namespace_selector, "env == 'prod'");
        assert_eq!(p.spec.selector, "projectcalico.org/orchestrator == 'k8s'");
        assert_eq!(p.spec.ingress.len(), 4);
        assert_eq!(p.spec.ingress[0].protocol, None);
        assert_eq!(p.spec.ingress[2].destination.ports, [Port::Range(80, 90)]);
        // A namespaces peer must not inherit the pod selector of its neighbour.
        assert_eq!(p.spec.ingress[2].source.selector, "");
        assert_eq!(p.spec.ingress[0].metadata.as_ref().unwrap().annotations["name"], "mon");
        assert_eq!(p.spec.egress[0].destination.nets, ["10.0.0.0/8"]);
        assert_eq!(p.spec.types, [PolicyType::Ingress, PolicyType::Egress]);
    }

    #[test]
    fn broken_rules_fail_closed() {
        let c = convert_spec(serde_json::json!({
            "tier": "Baseline", "priority": 1, "subject": {"namespaces": {}},
            "egress": [
                {"action": "Accept", "to": [{}]},
                {"action": "Deny", "to": [{"networks": ["x"]}]},
                {"action": "Pass", "to": [{"nodes": {}}]}
            ]
        }));
        let paths: Vec<_> = c.problems.iter().map(|p| p.path.as_str()).collect();
        assert_eq!(
            paths,
            ["spec.egress[0].to[0]", "spec.egress[1].to[0].networks[0]", "spec.egress[2].to[0]"]
        );
        let deny = Rule { action: Action::Deny, ..Rule::default() };
        assert_eq!(c.object.unwrap().spec.egress, [deny.clone(), deny]);
    }

    #[test]
    fn policies_without_tier_or_subject_do_not_exist() {
        assert_eq!(convert_spec(serde_json::json!({"tier": "Gold"})).object, None);
        let c = convert_spec(serde_json::json!({"tier": "Admin", "subject": {}}));
        assert_eq!((c.object, c.problems.len()), (None, 1));
    }
}
