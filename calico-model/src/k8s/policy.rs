//! Kubernetes network policies become network policies.

use std::collections::BTreeMap;

use calico_selector::kubernetes as selector;

use crate::defaults::DEFAULT_TIER;
use crate::error::FieldError;
use crate::k8s::Converted;
use crate::k8s::networking::{
    IntOrString, LabelSelector, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec as KubernetesSpec,
};
use crate::k8s::types::{Meta, NetworkPolicy as KubernetesNetworkPolicy};
use crate::names;
use crate::resource::policy::{Action, EntityRule, PolicyType, Rule};
use crate::{
    Kind, NetworkPolicy, NetworkPolicySpec, ObjectMeta, Port, Protocol, StagedKubernetesNetworkPolicy,
};

/// Order of converted policies in the default tier.
pub const ORDER: f64 = 1000.0;

/// Converts a policy. Name and namespace stay.
///
/// ```
/// use calico_model::k8s::{policy, types::NetworkPolicy};
/// let text = r#"{"metadata": {"name": "web", "namespace": "prod"}, "spec": {
///     "podSelector": {"matchLabels": {"app": "web"}},
///     "ingress": [{"ports": [{"port": 80}, {"port": 81}, {"port": "admin"}]}]}}"#;
/// let converted = policy::convert(&serde_json::from_str::<NetworkPolicy>(text).unwrap());
/// assert!(converted.problems.is_empty());
/// let spec = converted.object.spec;
/// assert_eq!(spec.selector, "projectcalico.org/orchestrator == 'k8s' && app == 'web'");
/// assert_eq!(spec.ingress[0].destination.ports.iter().map(ToString::to_string).collect::<Vec<_>>(), ["admin", "80:81"]);
/// ```
pub fn convert(policy: &KubernetesNetworkPolicy) -> Converted<NetworkPolicy> {
    let mut problems = Vec::new();
    let spec = &policy.spec;
    let mut ingress = Vec::new();
    for (i, rule) in spec.ingress.iter().enumerate() {
        rules(&format!("spec.ingress[{i}]"), "from", &rule.from, &rule.ports, &mut ingress, &mut problems);
    }
    let mut egress = Vec::new();
    for (i, rule) in spec.egress.iter().enumerate() {
        rules(&format!("spec.egress[{i}]"), "to", &rule.to, &rule.ports, &mut egress, &mut problems);
    }
    let mut types: Vec<PolicyType> = Vec::new();
    for (name, policy_type) in [("Ingress", PolicyType::Ingress), ("Egress", PolicyType::Egress)] {
        if spec.policy_types.iter().any(|t| t == name) {
            types.push(policy_type);
        }
    }
    if types.is_empty() {
        types.push(PolicyType::Ingress);
    }
    let selector = pod_selector("spec.podSelector", Some(&spec.pod_selector), &mut problems);
    let object = NetworkPolicy {
        kind: Kind::KubernetesNetworkPolicy,
        metadata: metadata(&policy.metadata),
        spec: NetworkPolicySpec {
            tier: DEFAULT_TIER.to_owned(),
            order: Some(ORDER),
            ingress,
            egress,
            // A policy that selects nobody would leave its pods open; one with a broken selector isolates all.
            selector: selector.unwrap_or_else(|| selector::pod_text(None)),
            types,
            ..NetworkPolicySpec::default()
        },
        ..NetworkPolicy::default()
    };
    Converted { object, problems }
}

/// The Kubernetes policy that committing a staged one would create.
pub fn of_staged(staged: &StagedKubernetesNetworkPolicy) -> KubernetesNetworkPolicy {
    let spec = &staged.spec;
    KubernetesNetworkPolicy {
        metadata: Meta {
            name: staged.metadata.name.clone(),
            namespace: staged.metadata.namespace.clone(),
            uid: staged.metadata.uid.clone(),
            resource_version: staged.metadata.resource_version.clone(),
            creation_timestamp: staged.metadata.creation_timestamp,
            ..Meta::default()
        },
        spec: KubernetesSpec {
            pod_selector: spec.pod_selector.clone(),
            ingress: spec.ingress.clone(),
            egress: spec.egress.clone(),
            policy_types: spec.policy_types.iter().map(ToString::to_string).collect(),
        },
    }
}

pub(crate) fn metadata(meta: &Meta) -> ObjectMeta {
    ObjectMeta {
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        creation_timestamp: meta.creation_timestamp,
        uid: names::derived_uid(&meta.uid),
        resource_version: meta.resource_version.clone(),
        ..ObjectMeta::default()
    }
}

/// One Allow rule per protocol and peer. A rule whose ports cannot be understood is left out as a whole.
fn rules(
    path: &str,
    side: &str,
    peers: &[NetworkPolicyPeer],
    ports: &[NetworkPolicyPort],
    out: &mut Vec<Rule>,
    problems: &mut Vec<FieldError>,
) {
    let before = problems.len();
    let mut by_protocol: BTreeMap<String, Option<Vec<Port>>> = BTreeMap::new();
    for (i, p) in ports.iter().enumerate() {
        match port(p) {
            Ok((protocol, ports)) => add_ports(&mut by_protocol, protocol, ports),
            Err(reason) => problems.push(FieldError::new(format!("{path}.ports[{i}]"), reason)),
        }
    }
    if problems.len() > before {
        return;
    }
    if by_protocol.is_empty() {
        by_protocol.insert(String::new(), None);
    }
    let mut entities = Vec::new();
    for (i, p) in peers.iter().enumerate() {
        entities.extend(peer(&format!("{path}.{side}[{i}]"), p, problems));
    }
    if peers.is_empty() {
        entities.push(EntityRule::default());
    }
    let ingress = side == "from";
    for (protocol, ports) in by_protocol {
        let protocol = (!protocol.is_empty()).then(|| Protocol::from_any_case(&protocol));
        let ports = simplify_ports(ports.unwrap_or_default());
        for entity in &entities {
            let mut rule = Rule { action: Action::Allow, protocol: protocol.clone(), ..Rule::default() };
            if ingress {
                rule.source = entity.clone();
            } else {
                rule.destination = entity.clone();
            }
            rule.destination.ports.clone_from(&ports);
            out.push(rule);
        }
    }
}

/// Merges ports under their protocol; an entry without ports means all of them and wins.
pub(crate) fn add_ports(
    by_protocol: &mut BTreeMap<String, Option<Vec<Port>>>,
    protocol: String,
    ports: Option<Vec<Port>>,
) {
    let entry = by_protocol.entry(protocol).or_insert_with(|| Some(Vec::new()));
    match (entry.as_mut(), ports) {
        (Some(known), Some(more)) => known.extend(more),
        _ => *entry = None,
    }
}

fn port(p: &NetworkPolicyPort) -> Result<(String, Option<Vec<Port>>), String> {
    let protocol = if p.protocol.is_empty() { "TCP".to_owned() } else { p.protocol.clone() };
    let Some(port) = &p.port else {
        return match p.end_port {
            Some(_) => Err("endPort needs port".to_owned()),
            None => Ok((protocol, None)),
        };
    };
    let text = match (port, p.end_port) {
        (IntOrString::Int(first), Some(end)) => format!("{first}:{end}"),
        (IntOrString::String(_), Some(_)) => return Err("endPort needs a number in port".to_owned()),
        (port, None) => port.to_string(),
    };
    let port = text.parse::<Port>().map_err(|e| e.to_string())?;
    Ok((protocol, Some(vec![port])))
}

/// The smallest list with the same meaning: names first, then merged ranges. Left alone when fewer than two numbers.
pub(crate) fn simplify_ports(ports: Vec<Port>) -> Vec<Port> {
    let mut ranges: Vec<(u16, u16)> = ports
        .iter()
        .filter_map(|p| match p {
            Port::Range(a, b) => Some((*a, *b)),
            Port::Named(_) => None,
        })
        .collect();
    let single = ranges.iter().all(|(a, b)| a == b);
    if ports.len() <= 1 || ranges.is_empty() || ranges.len() == 1 && single {
        return ports;
    }
    ranges.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, end)) if u32::from(first) <= u32::from(*end) + 1 => *end = (*end).max(last),
            _ => merged.push((first, last)),
        }
    }
    let mut out: Vec<Port> = ports.into_iter().filter(|p| matches!(p, Port::Named(_))).collect();
    out.extend(merged.into_iter().map(|(a, b)| Port::Range(a, b)));
    out
}

/// What a peer matches; `None` when it cannot be understood, which leaves the peer out.
fn peer(path: &str, p: &NetworkPolicyPeer, problems: &mut Vec<FieldError>) -> Option<EntityRule> {
    if let Some(block) = &p.ip_block {
        let mut bad = false;
        let mut read = |field: String, text: &str| match crate::net::cidr(text) {
            Ok(net) => net.trunc().to_string(),
            Err(e) => {
                bad = true;
                problems.push(FieldError::new(field, e.to_string()));
                String::new()
            }
        };
        let nets = vec![read(format!("{path}.ipBlock.cidr"), &block.cidr)];
        let not_nets = block
            .except
            .iter()
            .enumerate()
            .map(|(i, e)| read(format!("{path}.ipBlock.except[{i}]"), e))
            .collect();
        return (!bad).then(|| EntityRule { nets, not_nets, ..EntityRule::default() });
    }
    let namespaces =
        namespace_selector(&format!("{path}.namespaceSelector"), p.namespace_selector.as_ref(), problems)?;
    let pods = pod_selector(&format!("{path}.podSelector"), p.pod_selector.as_ref(), problems)?;
    Some(EntityRule { selector: pods, namespace_selector: namespaces, ..EntityRule::default() })
}

/// Text of a pod selector; `None` (with a problem noted) when an operator is unknown or a text cannot be quoted.
pub(crate) fn pod_selector(
    path: &str,
    s: Option<&LabelSelector>,
    problems: &mut Vec<FieldError>,
) -> Option<String> {
    let s = s.map(|s| read_selector(path, s, problems)).transpose().ok()?;
    match selector::pod_selector(s.as_ref()) {
        Ok(_) => Some(selector::pod_text(s.as_ref())),
        Err(e) => {
            problems.push(FieldError::new(path, e.to_string()));
            None
        }
    }
}

/// Text of a namespace selector, empty when there is none; `None` as for [`pod_selector`].
pub(crate) fn namespace_selector(
    path: &str,
    s: Option<&LabelSelector>,
    problems: &mut Vec<FieldError>,
) -> Option<String> {
    let s = s.map(|s| read_selector(path, s, problems)).transpose().ok()?;
    match selector::namespace_selector(s.as_ref()) {
        Ok(_) => Some(selector::namespace_text(s.as_ref())),
        Err(e) => {
            problems.push(FieldError::new(path, e.to_string()));
            None
        }
    }
}

fn read_selector(
    path: &str,
    s: &LabelSelector,
    problems: &mut Vec<FieldError>,
) -> Result<selector::LabelSelector, ()> {
    let mut out = selector::LabelSelector {
        match_labels: s.match_labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        match_expressions: Vec::with_capacity(s.match_expressions.len()),
    };
    for (i, e) in s.match_expressions.iter().enumerate() {
        match e.operator.parse() {
            Ok(operator) => out.match_expressions.push(selector::Requirement {
                key: e.key.clone(),
                operator,
                values: e.values.clone(),
            }),
            Err(e) => {
                let e: selector::UnknownOperator = e;
                problems
                    .push(FieldError::new(format!("{path}.matchExpressions[{i}].operator"), e.to_string()));
                return Err(());
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert_spec(spec: serde_json::Value) -> Converted<NetworkPolicy> {
        let policy = serde_json::json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec});
        convert(&serde_json::from_value(policy).unwrap())
    }

    fn shown(rules: &[Rule]) -> Vec<String> {
        rules.iter().map(|r| serde_json::to_string(r).unwrap()).collect()
    }

    #[test]
    fn ports_merge() {
        let ports = |texts: &[&str]| texts.iter().map(|t| t.parse::<Port>().unwrap()).collect::<Vec<_>>();
        assert_eq!(
            simplify_ports(ports(&["80", "81", "82", "9090", "foo"])),
            ports(&["foo", "80:82", "9090"])
        );
        assert_eq!(simplify_ports(ports(&["80", "foo"])), ports(&["80", "foo"]));
        assert_eq!(simplify_ports(ports(&["1:10", "5", "11:65535"])), ports(&["1:65535"]));
        assert_eq!(simplify_ports(ports(&["foo", "1:3", "bar"])), ports(&["foo", "bar", "1:3"]));
    }

    #[test]
    fn rules_are_protocols_times_peers() {
        let c = convert_spec(serde_json::json!({
            "podSelector": {},
            "policyTypes": ["Egress", "Ingress"],
            "ingress": [{
                "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}],
                "from": [
                    {"podSelector": {"matchLabels": {"a": "b"}}},
                    {"namespaceSelector": {}},
                    {"ipBlock": {"cidr": "10.1.2.3/8", "except": ["10.1.0.0/16"]}}
                ]
            }],
            "egress": [{}]
        }));
        assert!(c.problems.is_empty());
        let spec = c.object.spec;
        assert_eq!(spec.types, [PolicyType::Ingress, PolicyType::Egress]);
        assert_eq!(spec.selector, "projectcalico.org/orchestrator == 'k8s'");
        let k8s = "projectcalico.org/orchestrator == 'k8s'";
        let mut expected = Vec::new();
        for protocol in ["TCP", "UDP"] {
            let head = format!(r#"{{"action":"Allow","protocol":"{protocol}","source":"#);
            let tail = r#","destination":{"ports":[53]}}"#;
            expected.push(format!(r#"{head}{{"selector":"{k8s} && a == 'b'"}}{tail}"#));
            expected.push(format!(r#"{head}{{"selector":"{k8s}","namespaceSelector":"all()"}}{tail}"#));
            expected.push(format!(r#"{head}{{"nets":["10.0.0.0/8"],"notNets":["10.1.0.0/16"]}}{tail}"#));
        }
        assert_eq!(shown(&spec.ingress), expected);
        assert_eq!(shown(&spec.egress), [r#"{"action":"Allow"}"#]);
    }

    #[test]
    fn an_empty_port_is_all_ports_of_tcp() {
        let c = convert_spec(serde_json::json!({"ingress": [{"ports": [{"port": 1}, {}]}]}));
        assert_eq!(shown(&c.object.spec.ingress), [r#"{"action":"Allow","protocol":"TCP"}"#]);
        let c = convert_spec(serde_json::json!({"ingress": [{"ports": [{"port": 1000, "endPort": 2000}]}]}));
        assert_eq!(c.object.spec.ingress[0].destination.ports, [Port::Range(1000, 2000)]);
    }

    #[test]
    fn what_cannot_be_understood_allows_nothing() {
        let c = convert_spec(serde_json::json!({
            "podSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]},
            "ingress": [
                {"from": [{"ipBlock": {"cidr": "nonsense"}}]},
                {"ports": [{"port": 70000}]},
                {"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "=="}]}}]},
                {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["x"]}}]}
            ]
        }));
        assert!(c.object.spec.ingress.is_empty());
        assert_eq!(c.object.spec.selector, "projectcalico.org/orchestrator == 'k8s'");
        let mut paths: Vec<_> = c.problems.iter().map(|p| p.path.as_str()).collect();
        paths.sort_unstable();
        assert_eq!(
            paths,
            [
                "spec.ingress[0].from[0].ipBlock.cidr",
                "spec.ingress[1].ports[0]",
                "spec.ingress[2].from[0].podSelector.matchExpressions[0].operator",
                "spec.ingress[3].from[0].ipBlock.except[0]",
                "spec.podSelector.matchExpressions[0].operator",
            ]
        );
    }
}
