//! Workload and host endpoints.

use crate::shape::object;
use crate::{Dscp, Protocol};

object! {
    /// Spec of a `HostEndpoint`: an interface of a node, or the node itself.
    pub struct HostEndpointSpec {
        /// Name of the node; required.
        node: String = "node",
        /// Interface of the node, or `*` for all of its traffic; empty to find it by `expectedIPs`.
        interface_name: String = "interfaceName",
        /// Addresses of the interface.
        expected_ips: Vec<String> = "expectedIPs",
        /// Profiles that apply, in order.
        profiles: Vec<String> = "profiles",
        /// Named ports.
        ports: Vec<EndpointPort> = "ports",
    }

    /// Spec of a `WorkloadEndpoint`: one interface of one pod (or other workload).
    pub struct WorkloadEndpointSpec {
        /// What runs the workload: `k8s`, `cni`, `libnetwork`, `openstack`, …
        orchestrator: String = "orchestrator",
        /// Workload name, for orchestrators other than Kubernetes and plain CNI.
        workload: String = "workload",
        /// Node it runs on.
        node: String = "node",
        /// Container id, for the CNI plugin.
        container_id: String = "containerID",
        /// Pod name.
        pod: String = "pod",
        /// Name of the interface inside the workload, usually `eth0`.
        endpoint: String = "endpoint",
        /// Service account of the pod.
        service_account_name: String = "serviceAccountName",
        /// Addresses, as /32 and /128 networks.
        ip_networks: Vec<String> = "ipNetworks",
        /// Addresses translated to this endpoint.
        ip_nats: Vec<IpNat> = "ipNATs",
        /// IPv4 gateway inside the workload.
        ipv4_gateway: String = "ipv4Gateway",
        /// IPv6 gateway inside the workload.
        ipv6_gateway: String = "ipv6Gateway",
        /// Profiles that apply, in order.
        profiles: Vec<String> = "profiles",
        /// Name of the interface on the host.
        interface_name: String = "interfaceName",
        /// MAC address inside the workload.
        mac: String = "mac",
        /// Ports of the workload.
        ports: Vec<WorkloadEndpointPort> = "ports",
        /// Networks that the workload may use as source besides its own addresses.
        allow_spoofed_source_prefixes: Vec<String> = "allowSpoofedSourcePrefixes",
        /// Limits of traffic.
        qos_controls: Option<QosControls> = "qosControls",
    }

    /// A named port of a host endpoint.
    pub struct EndpointPort {
        /// Name, for use in rules.
        name: String = "name",
        /// Protocol: TCP, UDP or SCTP.
        protocol: Protocol = "protocol",
        /// Number, 1–65535.
        port: u16 = "port",
    }

    /// A one-to-one address translation.
    pub struct IpNat {
        /// Address of the workload.
        internal_ip: String = "internalIP",
        /// Address seen from outside.
        external_ip: String = "externalIP",
    }

    /// Limits of traffic of an endpoint; zero means no limit. Bandwidths in bits per second, bursts in bits.
    pub struct QosControls {
        /// Bandwidth to the endpoint.
        ingress_bandwidth: i64 = "ingressBandwidth",
        /// Burst to the endpoint.
        ingress_burst: i64 = "ingressBurst",
        /// Peak rate to the endpoint.
        ingress_peakrate: i64 = "ingressPeakrate",
        /// Burst at peak rate to the endpoint.
        ingress_minburst: i64 = "ingressMinburst",
        /// Bandwidth from the endpoint.
        egress_bandwidth: i64 = "egressBandwidth",
        /// Burst from the endpoint.
        egress_burst: i64 = "egressBurst",
        /// Peak rate from the endpoint.
        egress_peakrate: i64 = "egressPeakrate",
        /// Burst at peak rate from the endpoint.
        egress_minburst: i64 = "egressMinburst",
        /// Packets per second to the endpoint.
        ingress_packet_rate: i64 = "ingressPacketRate",
        /// Burst of packets to the endpoint.
        ingress_packet_burst: i64 = "ingressPacketBurst",
        /// Packets per second from the endpoint.
        egress_packet_rate: i64 = "egressPacketRate",
        /// Burst of packets from the endpoint.
        egress_packet_burst: i64 = "egressPacketBurst",
        /// Connections to the endpoint at one time.
        ingress_max_connections: i64 = "ingressMaxConnections",
        /// Connections from the endpoint at one time.
        egress_max_connections: i64 = "egressMaxConnections",
        /// DSCP mark of packets that leave the cluster.
        dscp: Option<Dscp> = "dscp",
    }
}

object! {
    /// A port of a workload endpoint.
    pub struct WorkloadEndpointPort always {
        /// Name; may be empty when there is a host port.
        name: String = "name",
        /// Protocol.
        protocol: Protocol = "protocol",
        /// Number inside the workload.
        port: u16 = "port",
        /// Port of the node that is forwarded here; 0 for none.
        host_port: u16 = "hostPort",
        /// Address of the node on which the host port listens; empty for all.
        host_ip: String = "hostIP",
    }
}
