//! The WorkloadEndpoint of an attachment.

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_model::k8s::KubernetesObject;
use calico_model::{
    IpNat, Key, KubernetesKind, ObjectMeta, Protocol, Timestamp, Value, WorkloadEndpoint,
    WorkloadEndpointPort, WorkloadEndpointSpec,
};
use ipnet::IpNet;

use super::conf::NetConf;
use super::error::{CniError, code};
use super::identity::Identity;
use super::store::{Connection, store_error};

/// What is read of a pod and its namespace.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pod {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Annotations of the namespace.
    pub namespace_annotations: BTreeMap<String, String>,
    /// Service account.
    pub service_account: String,
    /// Prefix that the pod's name was generated from.
    pub generate_name: String,
    /// Ports of its containers.
    pub ports: Vec<WorkloadEndpointPort>,
}

impl Pod {
    /// Reads a pod and its namespace.
    pub fn read(connection: &Connection, namespace: &str, name: &str) -> Result<Self, CniError> {
        let get = |kind, namespace: &str, name: &str| {
            let key = Key::kubernetes(kind, namespace, name);
            match connection.store.get(&key).map_err(store_error)? {
                Some(pair) => Ok(pair.value),
                // The runtime may be faster than whatever brings the pod into the datastore.
                None => Err(CniError::new(
                    code::TRY_AGAIN_LATER,
                    format!("{} does not exist in the datastore", key.path()),
                )),
            }
        };
        let mut read = Self::default();
        if let Value::Kubernetes(object) = get(KubernetesKind::Namespace, "", namespace)?
            && let KubernetesObject::Namespace(namespace) = &*object
        {
            read.namespace_annotations.clone_from(&namespace.metadata.annotations);
        }
        if let Value::Kubernetes(object) = get(KubernetesKind::Pod, namespace, name)?
            && let KubernetesObject::Pod(pod) = &*object
        {
            read.labels.clone_from(&pod.metadata.labels);
            read.annotations.clone_from(&pod.metadata.annotations);
            read.generate_name.clone_from(&pod.metadata.generate_name);
            read.service_account.clone_from(&pod.spec.service_account_name);
            for port in pod.spec.containers.iter().chain(&pod.spec.init_containers).flat_map(|c| &c.ports) {
                let (Ok(number), Ok(host_port)) =
                    (u16::try_from(port.container_port), u16::try_from(port.host_port))
                else {
                    continue;
                };
                if number == 0 || (port.name.is_empty() && host_port == 0) {
                    continue;
                }
                let protocol = if port.protocol.is_empty() { "TCP" } else { &port.protocol };
                read.ports.push(WorkloadEndpointPort {
                    name: port.name.clone(),
                    protocol: Protocol::from_any_case(protocol),
                    port: number,
                    host_port,
                    host_ip: port.host_ip.clone(),
                });
            }
        }
        Ok(read)
    }
}

/// What ADD found out about the attachment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attachment {
    /// Addresses as /32 and /128.
    pub addresses: Vec<IpNet>,
    /// MAC address inside the pod.
    pub mac: String,
    /// Source prefixes besides the addresses.
    pub allowed_source_prefixes: Vec<IpNet>,
    /// Floating addresses.
    pub floating_ips: Vec<IpAddr>,
}

/// The resource to store.
pub fn describe(
    identity: &Identity,
    pod: Option<&Pod>,
    conf: &NetConf,
    attachment: &Attachment,
) -> WorkloadEndpoint {
    let mut labels: BTreeMap<String, String> = pod
        .map(|pod| pod.labels.clone())
        .unwrap_or_default()
        .into_iter()
        // These prefixes are how labels of namespaces and service accounts are inherited; nobody may fake them.
        .filter(|(key, _)| !key.starts_with("pcns.") && !key.starts_with("pcsa."))
        .collect();
    labels.insert("projectcalico.org/namespace".into(), identity.namespace.clone());
    labels.insert("projectcalico.org/orchestrator".into(), identity.orchestrator.into());
    let service_account = pod.map(|pod| pod.service_account.as_str()).unwrap_or_default();
    let mut profiles = Vec::new();
    if conf.policy.policy_type == "k8s" && identity.orchestrator == "k8s" {
        profiles.push(format!("kns.{}", identity.namespace));
        if !service_account.is_empty() {
            profiles.push(format!("ksa.{}.{service_account}", identity.namespace));
            if service_account.len() < 63 {
                labels.insert("projectcalico.org/serviceaccount".into(), service_account.into());
            }
        }
    } else {
        profiles.push(conf.name.clone());
    }
    let internal = |external: &IpAddr| {
        attachment
            .addresses
            .iter()
            .find(|net| net.addr().is_ipv4() == external.is_ipv4())
            .map(|net| IpNat { internal_ip: net.addr().to_string(), external_ip: external.to_string() })
    };
    WorkloadEndpoint {
        metadata: ObjectMeta {
            name: identity.endpoint_name().unwrap_or_default(),
            generate_name: pod.map(|pod| pod.generate_name.clone()).unwrap_or_default(),
            namespace: identity.namespace.clone(),
            uid: uuid::Uuid::new_v4().to_string(),
            creation_timestamp: Some(now()),
            labels,
            ..ObjectMeta::default()
        },
        spec: WorkloadEndpointSpec {
            orchestrator: identity.orchestrator.into(),
            node: identity.node.clone(),
            container_id: identity.container_id.clone(),
            pod: identity.pod.clone(),
            endpoint: identity.endpoint.clone(),
            service_account_name: service_account.into(),
            ip_networks: attachment.addresses.iter().map(ToString::to_string).collect(),
            ip_nats: attachment.floating_ips.iter().filter_map(internal).collect(),
            profiles,
            interface_name: identity.host_interface.clone(),
            mac: attachment.mac.clone(),
            ports: pod.map(|pod| pod.ports.clone()).unwrap_or_default(),
            allow_spoofed_source_prefixes: attachment
                .allowed_source_prefixes
                .iter()
                .map(ToString::to_string)
                .collect(),
            ..WorkloadEndpointSpec::default()
        },
        ..WorkloadEndpoint::default()
    }
}

fn now() -> Timestamp {
    let nanos =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    Timestamp::from_unix_nanos(i64::try_from(nanos).unwrap_or(i64::MAX))
}
