//! The WorkloadEndpoint of an attachment.

use std::net::IpAddr;

use calico_model::k8s::{self, KubernetesObject};
use calico_model::{
    IpNat, Key, KubernetesKind, Labels, ObjectMeta, Timestamp, Value, WorkloadEndpoint, WorkloadEndpointSpec,
    names,
};
use ipnet::IpNet;

use super::conf::NetConf;
use super::error::{CniError, code};
use super::identity::Identity;
use super::store::{Connection, store_error};

/// A pod and what its namespace says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pod {
    /// The pod.
    pub object: k8s::types::Pod,
    /// Annotations of the namespace.
    pub namespace_annotations: Labels,
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
            read.object.clone_from(pod);
            namespace.clone_into(&mut read.object.metadata.namespace);
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
) -> Result<WorkloadEndpoint, CniError> {
    let (mut labels, profiles, ports) = match pod {
        Some(pod) => {
            (k8s::pod::labels(&pod.object), k8s::pod::profiles(&pod.object), k8s::pod::ports(&pod.object))
        }
        None => {
            let labels = [
                ("projectcalico.org/namespace", identity.namespace.as_str()),
                ("projectcalico.org/orchestrator", identity.orchestrator),
            ];
            let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
            let labels: Labels = conf.mesos_labels().into_iter().chain(labels).collect();
            (labels, vec![conf.name.clone()], Vec::new())
        }
    };
    // Labels of namespaces and service accounts are inherited under these prefixes; nobody may fake them.
    names::strip_inherited_labels(&mut labels);
    let internal = |external: &IpAddr| {
        attachment
            .addresses
            .iter()
            .find(|net| net.addr().is_ipv4() == external.is_ipv4())
            .map(|net| IpNat { internal_ip: net.addr().to_string(), external_ip: external.to_string() })
    };
    Ok(WorkloadEndpoint {
        metadata: ObjectMeta {
            name: identity.endpoint_name()?,
            generate_name: pod.map(|pod| pod.object.metadata.generate_name.clone()).unwrap_or_default(),
            namespace: identity.namespace.clone(),
            uid: uuid::Uuid::new_v4().to_string(),
            creation_timestamp: Some(now()),
            labels,
            ..ObjectMeta::default()
        },
        spec: WorkloadEndpointSpec {
            service_account_name: pod
                .map(|pod| pod.object.spec.service_account_name.clone())
                .unwrap_or_default(),
            ip_networks: attachment.addresses.iter().map(ToString::to_string).collect(),
            ip_nats: attachment.floating_ips.iter().filter_map(internal).collect(),
            profiles,
            interface_name: identity.host_interface.clone(),
            mac: attachment.mac.clone(),
            ports,
            allow_spoofed_source_prefixes: attachment
                .allowed_source_prefixes
                .iter()
                .map(ToString::to_string)
                .collect(),
            ..identity.names()
        },
        ..WorkloadEndpoint::default()
    })
}

fn now() -> Timestamp {
    let nanos =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    Timestamp::from_unix_nanos(i64::try_from(nanos).unwrap_or(i64::MAX))
}
