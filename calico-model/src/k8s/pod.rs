//! Pods become workload endpoints.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::error::FieldError;
use crate::k8s::Converted;
use crate::k8s::qos;
use crate::k8s::types::{Container, Pod};
use crate::names::{
    self, NAMESPACE_LABEL, ORCHESTRATOR_K8S, ORCHESTRATOR_LABEL, SERVICE_ACCOUNT_LABEL, namespace_profile,
    service_account_profile,
};
use crate::resource::endpoint::{IpNat, WorkloadEndpointPort, WorkloadEndpointSpec};
use crate::{Labels, ObjectMeta, Protocol, WorkloadEndpoint};

/// Annotation with the first address of a pod, written by the CNI plugin; empty once the address is given back.
pub const ANNOTATION_POD_IP: &str = "cni.projectcalico.org/podIP";
/// Annotation with all addresses of a pod, separated by commas.
pub const ANNOTATION_POD_IPS: &str = "cni.projectcalico.org/podIPs";
/// Annotation with the container that holds the addresses.
pub const ANNOTATION_CONTAINER_ID: &str = "cni.projectcalico.org/containerID";
/// Annotation with further addresses that are translated to the pod, a JSON list.
pub const ANNOTATION_FLOATING_IPS: &str = "cni.projectcalico.org/floatingIPs";
/// Annotation with networks that the pod may send from, a JSON list.
pub const ANNOTATION_SOURCE_PREFIXES: &str = "cni.projectcalico.org/allowedSourcePrefixes";
/// Annotation with the addresses given by the AWS VPC plugin.
pub const ANNOTATION_AWS_POD_IPS: &str = "vpc.amazonaws.com/pod-ips";
/// Annotation of Multus, copied to the endpoint.
pub const ANNOTATION_NETWORK_STATUS: &str = "k8s.v1.cni.cncf.io/network-status";
/// Name of the interface inside every pod.
pub const ENDPOINT: &str = "eth0";

/// Why a pod cannot be converted. Such an endpoint keeps its last good form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pod {namespace}/{name}: {problem}")]
pub struct PodError {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// What is wrong.
    pub problem: FieldError,
}

/// True when the pod has an endpoint of its own: it is bound to a node and does not use the node's network.
pub fn has_endpoint(pod: &Pod) -> bool {
    !pod.spec.host_network && !pod.spec.node_name.is_empty()
}

/// True when the pod gave its addresses back: it ran to its end, or its deletion came so far that the CNI plugin blanked
/// the annotation of the address.
pub fn is_finished(pod: &Pod) -> bool {
    let blanked = |key: &str| pod.metadata.annotations.get(key).is_some_and(String::is_empty);
    matches!(pod.status.phase.as_str(), "Failed" | "Succeeded" | "Completed")
        || pod.metadata.deletion_timestamp.is_some()
            && (blanked(ANNOTATION_POD_IP) || blanked(ANNOTATION_AWS_POD_IPS))
}

/// Addresses of the pod from the best source that has any.
fn addresses(pod: &Pod) -> Result<Vec<IpNet>, FieldError> {
    let annotation = |key: &str| pod.metadata.annotations.get(key).filter(|v| !v.is_empty());
    let split = |text: &String| text.split(',').map(str::to_owned).collect::<Vec<_>>();
    let (path, texts) = if !pod.status.pod_ips.is_empty() {
        ("status.podIPs", pod.status.pod_ips.iter().map(|p| p.ip.clone()).collect())
    } else if !pod.status.pod_ip.is_empty() {
        ("status.podIP", vec![pod.status.pod_ip.clone()])
    } else if let Some(text) = annotation(ANNOTATION_POD_IPS) {
        (ANNOTATION_POD_IPS, split(text))
    } else if let Some(text) = annotation(ANNOTATION_POD_IP) {
        (ANNOTATION_POD_IP, vec![text.clone()])
    } else if let Some(text) = annotation(ANNOTATION_AWS_POD_IPS) {
        (ANNOTATION_AWS_POD_IPS, split(text))
    } else {
        return Ok(Vec::new());
    };
    texts
        .iter()
        .map(|t| {
            crate::net::cidr_or_ip(t).map(|n| n.trunc()).map_err(|e| FieldError::new(path, e.to_string()))
        })
        .collect()
}

/// Labels of the endpoint: those of the pod, and three of Calico's.
pub fn labels(pod: &Pod) -> Labels {
    let mut labels = pod.metadata.labels.clone();
    labels.insert(NAMESPACE_LABEL.to_owned(), pod.metadata.namespace.clone());
    labels.insert(ORCHESTRATOR_LABEL.to_owned(), ORCHESTRATOR_K8S.to_owned());
    let account = &pod.spec.service_account_name;
    // Longer names are no legal label values; the profile of the account carries them.
    if !account.is_empty() && account.len() < 63 {
        labels.insert(SERVICE_ACCOUNT_LABEL.to_owned(), account.clone());
    }
    labels
}

/// Profiles of the endpoint: that of the namespace, and that of the service account when it has one.
pub fn profiles(pod: &Pod) -> Vec<String> {
    let namespace = &pod.metadata.namespace;
    let mut profiles = vec![namespace_profile(namespace)];
    if !pod.spec.service_account_name.is_empty() {
        profiles.push(service_account_profile(namespace, &pod.spec.service_account_name));
    }
    profiles
}

/// Ports of the endpoint: those of all containers that have a name or a host port.
pub fn ports(pod: &Pod) -> Vec<WorkloadEndpointPort> {
    let containers = pod.spec.containers.iter().chain(&pod.spec.init_containers);
    containers.flat_map(container_ports).collect()
}

fn container_ports(container: &Container) -> impl Iterator<Item = WorkloadEndpointPort> {
    container.ports.iter().filter_map(|p| {
        let protocol = match p.protocol.as_str() {
            "" | "TCP" => Protocol::Name("TCP".into()),
            "UDP" => Protocol::Name("UDP".into()),
            "SCTP" => Protocol::Name("SCTP".into()),
            _ => return None,
        };
        let port = u16::try_from(p.container_port).ok().filter(|n| *n != 0)?;
        let host_port = u16::try_from(p.host_port).ok()?;
        (host_port != 0 || !p.name.is_empty()).then(|| WorkloadEndpointPort {
            name: p.name.clone(),
            protocol,
            port,
            host_port,
            host_ip: p.host_ip.clone(),
        })
    })
}

/// The endpoint of a pod for which [`has_endpoint`] holds. `interface_prefix` is the prefix of the host side of its
/// interface, usually `cali`. An endpoint without networks has none yet, or no more, and is not for dataplanes.
///
/// ```
/// use calico_model::k8s::{pod, types::Pod};
/// let text = r#"{"metadata": {"name": "web-0", "namespace": "default", "labels": {"app": "web"}},
///     "spec": {"nodeName": "node-1", "serviceAccountName": "robot"}, "status": {"podIP": "10.0.0.5"}}"#;
/// let converted = pod::convert(&serde_json::from_str::<Pod>(text).unwrap(), "cali").unwrap();
/// let endpoint = converted.object;
/// assert_eq!(endpoint.metadata.name, "node--1-k8s-web--0-eth0");
/// assert_eq!(endpoint.spec.interface_name, "cali0d7763386da");
/// assert_eq!(endpoint.spec.ip_networks, ["10.0.0.5/32"]);
/// assert_eq!(endpoint.spec.profiles, ["kns.default", "ksa.default.robot"]);
/// ```
#[cfg(feature = "kubernetes")]
pub fn convert(pod: &Pod, interface_prefix: &str) -> Result<Converted<WorkloadEndpoint>, PodError> {
    let meta = &pod.metadata;
    let failed = |problem| PodError { namespace: meta.namespace.clone(), name: meta.name.clone(), problem };
    let mut nets = addresses(pod).map_err(failed)?;
    if is_finished(pod) {
        nets.clear();
    }
    let (qos_controls, problems) = qos::from_annotations(&meta.annotations);
    let spec = WorkloadEndpointSpec {
        orchestrator: ORCHESTRATOR_K8S.to_owned(),
        node: pod.spec.node_name.clone(),
        pod: meta.name.clone(),
        container_id: meta.annotations.get(ANNOTATION_CONTAINER_ID).cloned().unwrap_or_default(),
        endpoint: ENDPOINT.to_owned(),
        interface_name: names::veth_name(interface_prefix, &meta.namespace, &meta.name),
        profiles: profiles(pod),
        ip_networks: nets.iter().map(ToString::to_string).collect(),
        ports: ports(pod),
        ip_nats: floating_ips(pod, &nets).map_err(failed)?,
        service_account_name: pod.spec.service_account_name.clone(),
        allow_spoofed_source_prefixes: source_prefixes(&meta.annotations).map_err(failed)?,
        qos_controls,
        ..WorkloadEndpointSpec::default()
    };
    let name =
        names::workload_endpoint_name(&spec).map_err(|e| failed(FieldError::new("", e.to_string())))?;
    let mut annotations = Labels::new();
    if let Some(status) = meta.annotations.get(ANNOTATION_NETWORK_STATUS) {
        annotations.insert(ANNOTATION_NETWORK_STATUS.to_owned(), status.clone());
    }
    let metadata = ObjectMeta {
        name,
        generate_name: meta.generate_name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        creation_timestamp: meta.creation_timestamp,
        labels: labels(pod),
        annotations,
        ..ObjectMeta::default()
    };
    Ok(Converted { object: WorkloadEndpoint { metadata, spec, ..WorkloadEndpoint::default() }, problems })
}

fn json_list(key: &str, text: &str) -> Result<Vec<String>, FieldError> {
    serde_json::from_str(text).map_err(|_| {
        FieldError::with_value(format!("metadata.annotations[{key:?}]"), text, "must be a JSON list of texts")
    })
}

/// Translations for the floating addresses of the pod, by family; empty while the pod has no address.
pub fn floating_ips(pod: &Pod, nets: &[IpNet]) -> Result<Vec<IpNat>, FieldError> {
    let key = ANNOTATION_FLOATING_IPS;
    let Some(text) = pod.metadata.annotations.get(key).filter(|_| !nets.is_empty()) else {
        return Ok(Vec::new());
    };
    let wanted = json_list(key, text)?;
    if let Some(net) = nets.iter().find(|n| n.prefix_len() != n.max_prefix_len()) {
        return Err(FieldError::new(
            "status.podIPs",
            format!("{net} is not a single address; floating IPs need one"),
        ));
    }
    let own = |v6: bool| nets.iter().map(IpNet::addr).rfind(|a| a.is_ipv6() == v6);
    let nat = |external: String| {
        own(external.contains(':'))
            .map(|a: IpAddr| IpNat { internal_ip: a.to_string(), external_ip: external })
    };
    Ok(wanted.into_iter().filter_map(nat).collect())
}

/// Networks that the pod may use as source, normalised.
pub fn source_prefixes(annotations: &Labels) -> Result<Vec<String>, FieldError> {
    let key = ANNOTATION_SOURCE_PREFIXES;
    let Some(text) = annotations.get(key).filter(|t| !t.is_empty()) else { return Ok(Vec::new()) };
    json_list(key, text)?
        .iter()
        .map(|t| match crate::net::cidr(t) {
            Ok(net) => Ok(net.trunc().to_string()),
            Err(e) => Err(FieldError::new(format!("metadata.annotations[{key:?}]"), e.to_string())),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(mut tree: serde_json::Value) -> Pod {
        let defaults = serde_json::json!({"name": "p", "namespace": "ns"});
        for (k, v) in defaults.as_object().unwrap() {
            tree["metadata"][k] = v.clone();
        }
        tree["spec"]["nodeName"] = "n".into();
        serde_json::from_value(tree).unwrap()
    }

    fn annotated(pairs: &[(&str, &str)], status: serde_json::Value) -> Pod {
        let annotations: serde_json::Map<_, _> =
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect();
        pod(serde_json::json!({"metadata": {"annotations": annotations}, "status": status}))
    }

    fn nets(pod: &Pod) -> Vec<String> {
        convert(pod, "cali").unwrap().object.spec.ip_networks
    }

    #[test]
    fn addresses_come_from_the_best_source() {
        let all = [(ANNOTATION_POD_IP, "10.0.0.3/32"), (ANNOTATION_POD_IPS, "10.0.0.2/32,fd00::2/128")];
        let status =
            serde_json::json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]});
        assert_eq!(nets(&annotated(&all, status)), ["10.0.0.1/32", "fd00::1/128"]);
        assert_eq!(nets(&annotated(&all, serde_json::json!({"podIP": "10.0.0.9"}))), ["10.0.0.9/32"]);
        assert_eq!(nets(&annotated(&all, serde_json::json!({}))), ["10.0.0.2/32", "fd00::2/128"]);
        assert_eq!(nets(&annotated(&all[..1], serde_json::json!({}))), ["10.0.0.3/32"]);
        assert_eq!(
            nets(&annotated(&[(ANNOTATION_AWS_POD_IPS, "10.0.0.4")], serde_json::json!({}))),
            ["10.0.0.4/32"]
        );
        assert!(nets(&annotated(&[], serde_json::json!({}))).is_empty());
        let bad = annotated(&[], serde_json::json!({"podIP": "x"}));
        assert_eq!(
            convert(&bad, "cali").unwrap_err().to_string(),
            "pod ns/p: status.podIP: \"x\" is not a network such as 10.0.0.0/8 or an address"
        );
    }

    #[test]
    fn finished_pods_have_no_address() {
        for phase in ["Failed", "Succeeded", "Completed"] {
            assert!(
                nets(&annotated(&[], serde_json::json!({"phase": phase, "podIP": "10.0.0.1"}))).is_empty()
            );
        }
        let mut p = annotated(&[(ANNOTATION_POD_IP, "")], serde_json::json!({"podIP": "10.0.0.1"}));
        assert_eq!(nets(&p), ["10.0.0.1/32"]);
        p.metadata.deletion_timestamp = Some(crate::Timestamp::default());
        assert!(nets(&p).is_empty());
    }

    #[test]
    fn ports_labels_and_translations() {
        let mut p = pod(serde_json::json!({
            "metadata": {"annotations": {
                ANNOTATION_FLOATING_IPS: "[\"172.16.0.1\", \"fd00::9\"]",
                ANNOTATION_SOURCE_PREFIXES: "[\"8.8.8.8/8\"]",
                ANNOTATION_NETWORK_STATUS: "[]"
            }, "labels": {"projectcalico.org/namespace": "forged"}},
            "spec": {"serviceAccountName": "robot", "containers": [{"ports": [
                {"containerPort": 80, "name": "http"}, {"containerPort": 81},
                {"containerPort": 82, "hostPort": 8082, "protocol": "UDP", "hostIP": "10.0.0.1"},
                {"containerPort": 83, "name": "x", "protocol": "QUIC"}]}],
                "initContainers": [{"ports": [{"containerPort": 84, "name": "init", "protocol": "SCTP"}]}]},
            "status": {"podIPs": [{"ip": "10.0.0.1"}]}
        }));
        let w = convert(&p, "cali").unwrap().object;
        let ports: Vec<_> = w.spec.ports.iter().map(|p| (p.name.as_str(), p.port, p.host_port)).collect();
        assert_eq!(ports, [("http", 80, 0), ("", 82, 8082), ("init", 84, 0)]);
        assert_eq!(w.metadata.labels[NAMESPACE_LABEL], "ns");
        assert_eq!(w.metadata.labels[SERVICE_ACCOUNT_LABEL], "robot");
        assert_eq!(
            w.spec.ip_nats,
            [IpNat { internal_ip: "10.0.0.1".into(), external_ip: "172.16.0.1".into() }]
        );
        assert_eq!(w.spec.allow_spoofed_source_prefixes, ["8.0.0.0/8"]);
        assert_eq!(w.metadata.annotations[ANNOTATION_NETWORK_STATUS], "[]");
        p.spec.service_account_name = "r".repeat(63);
        assert!(!labels(&p).contains_key(SERVICE_ACCOUNT_LABEL));
        assert_eq!(profiles(&p)[1], format!("ksa.ns.{}", "r".repeat(63)));
        p.metadata.annotations.insert(ANNOTATION_SOURCE_PREFIXES.into(), "[\"8.8.8.8\"]".into());
        assert!(convert(&p, "cali").is_err());
    }
}
