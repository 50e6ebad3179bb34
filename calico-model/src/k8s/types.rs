//! Slim forms of Kubernetes objects: the fields that Calico reads, nothing else. Reading is lenient and forgets the
//! rest; these types are never written back to Kubernetes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::k8s::networking::IntOrString;
use crate::shape::null_is_default;
use crate::{Labels, Timestamp};

macro_rules! slim {
    ($(
        $(#[$doc:meta])*
        pub struct $name:ident {
            $( $(#[$fdoc:meta])* $field:ident : $type:ty, )*
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        pub struct $name {
            $( $(#[$fdoc])* #[serde(deserialize_with = "null_is_default")] pub $field: $type, )*
        }
    )*};
}

slim! {
    /// Metadata that Calico reads.
    pub struct Meta {
        /// Name.
        name: String,
        /// Prefix of generated names.
        generate_name: String,
        /// Namespace; empty for kinds of cluster scope.
        namespace: String,
        /// Unique id.
        uid: String,
        /// Version of the API server.
        resource_version: String,
        /// When the object was created.
        creation_timestamp: Option<Timestamp>,
        /// When deletion was asked for.
        deletion_timestamp: Option<Timestamp>,
        /// Labels.
        labels: Labels,
        /// Annotations.
        annotations: Labels,
    }

    /// A namespace.
    pub struct Namespace {
        /// Metadata.
        metadata: Meta,
    }

    /// A service account.
    pub struct ServiceAccount {
        /// Metadata.
        metadata: Meta,
    }

    /// A pod.
    pub struct Pod {
        /// Metadata.
        metadata: Meta,
        /// What is wanted.
        spec: PodSpec,
        /// What is.
        status: PodStatus,
    }

    /// What a pod wants.
    pub struct PodSpec {
        /// Node it is bound to.
        node_name: String,
        /// True when it shares the node's network.
        host_network: bool,
        /// Service account.
        service_account_name: String,
        /// Containers.
        containers: Vec<Container>,
        /// Containers that run first, or beside as sidecars.
        init_containers: Vec<Container>,
    }

    /// A container.
    pub struct Container {
        /// Name.
        name: String,
        /// Ports.
        ports: Vec<ContainerPort>,
    }

    /// A port of a container.
    pub struct ContainerPort {
        /// Name.
        name: String,
        /// Number.
        container_port: i32,
        /// Port of the node, 0 for none.
        host_port: i32,
        /// Address of the node.
        #[serde(rename = "hostIP")]
        host_ip: String,
        /// `TCP`, `UDP`, `SCTP`; empty means TCP.
        protocol: String,
    }

    /// What a pod is.
    pub struct PodStatus {
        /// `Pending`, `Running`, `Succeeded`, `Failed`, `Unknown`.
        phase: String,
        /// First address.
        #[serde(rename = "podIP")]
        pod_ip: String,
        /// All addresses.
        #[serde(rename = "podIPs")]
        pod_ips: Vec<PodIp>,
    }

    /// An address of a pod.
    pub struct PodIp {
        /// The address.
        ip: String,
    }

    /// A node.
    pub struct Node {
        /// Metadata.
        metadata: Meta,
        /// What is wanted.
        spec: NodeSpec,
        /// What is.
        status: NodeStatus,
    }

    /// What a node wants.
    pub struct NodeSpec {
        /// First network for pods.
        #[serde(rename = "podCIDR")]
        pod_cidr: String,
        /// All networks for pods.
        #[serde(rename = "podCIDRs")]
        pod_cidrs: Vec<String>,
    }

    /// What a node is.
    pub struct NodeStatus {
        /// Addresses.
        addresses: Vec<NodeAddress>,
    }

    /// An address of a node.
    pub struct NodeAddress {
        /// `InternalIP`, `ExternalIP`, `Hostname`, …
        r#type: String,
        /// The address.
        address: String,
    }

    /// A service.
    pub struct Service {
        /// Metadata.
        metadata: Meta,
        /// What is wanted.
        spec: ServiceSpec,
        /// What is.
        status: ServiceStatus,
    }

    /// What a service wants.
    pub struct ServiceSpec {
        /// `ClusterIP`, `NodePort`, `LoadBalancer`, `ExternalName`.
        r#type: String,
        /// First cluster address.
        #[serde(rename = "clusterIP")]
        cluster_ip: String,
        /// All cluster addresses.
        #[serde(rename = "clusterIPs")]
        cluster_ips: Vec<String>,
        /// External addresses.
        #[serde(rename = "externalIPs")]
        external_ips: Vec<String>,
        /// Wanted load-balancer address.
        #[serde(rename = "loadBalancerIP")]
        load_balancer_ip: String,
        /// Who serves the load balancer.
        load_balancer_class: String,
        /// `Cluster` or `Local`.
        external_traffic_policy: String,
        /// `Cluster` or `Local`.
        internal_traffic_policy: String,
        /// Ports.
        ports: Vec<ServicePort>,
        /// Labels of the pods behind the service.
        selector: BTreeMap<String, String>,
    }

    /// A port of a service.
    pub struct ServicePort {
        /// Name.
        name: String,
        /// `TCP`, `UDP`, `SCTP`; empty means TCP.
        protocol: String,
        /// Number.
        port: i32,
        /// Port of the pods.
        target_port: Option<IntOrString>,
        /// Port of the nodes, 0 for none.
        node_port: i32,
    }

    /// What a service is.
    pub struct ServiceStatus {
        /// Load balancer.
        load_balancer: LoadBalancerStatus,
    }

    /// State of a load balancer.
    pub struct LoadBalancerStatus {
        /// Where traffic enters.
        ingress: Vec<LoadBalancerIngress>,
    }

    /// Where traffic enters.
    pub struct LoadBalancerIngress {
        /// Address.
        ip: String,
        /// Name.
        hostname: String,
    }

    /// A part of the endpoints of a service; the label `kubernetes.io/service-name` names the service.
    pub struct EndpointSlice {
        /// Metadata.
        metadata: Meta,
        /// `IPv4`, `IPv6` or `FQDN`.
        address_type: String,
        /// Endpoints.
        endpoints: Vec<Endpoint>,
        /// Ports of all endpoints.
        ports: Vec<EndpointPort>,
    }

    /// An endpoint of a service.
    pub struct Endpoint {
        /// Its addresses.
        addresses: Vec<String>,
        /// Its state.
        conditions: EndpointConditions,
        /// Node it runs on.
        node_name: String,
    }

    /// State of an endpoint; absent means unknown, which counts as ready.
    pub struct EndpointConditions {
        /// Takes traffic.
        ready: Option<bool>,
        /// Could take traffic, even when it terminates.
        serving: Option<bool>,
        /// Is going away.
        terminating: Option<bool>,
    }

    /// A port of the endpoints of a slice.
    pub struct EndpointPort {
        /// Name.
        name: String,
        /// `TCP`, `UDP`, `SCTP`; empty means TCP.
        protocol: String,
        /// Number; absent means all ports.
        port: Option<i32>,
    }

    /// A Kubernetes network policy.
    pub struct NetworkPolicy {
        /// Metadata.
        metadata: Meta,
        /// What is wanted.
        spec: crate::k8s::networking::NetworkPolicySpec,
    }
}
