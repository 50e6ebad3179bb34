//! Nodes.

use crate::ASNumber;
use crate::shape::{object, text_enum};

text_enum! {
    /// What an address of a node is.
    pub enum NodeAddressType {
        /// The address Calico uses between nodes.
        CalicoNodeIp = "CalicoNodeIP",
        /// Address inside the cluster, from Kubernetes.
        InternalIp = "InternalIP",
        /// Address outside the cluster, from Kubernetes.
        ExternalIp = "ExternalIP",
    }
}

object! {
    /// Spec of a `Node`.
    pub struct NodeSpec {
        /// BGP settings; absent when the node runs no BGP.
        bgp: Option<NodeBgpSpec> = "bgp",
        /// IPv4 address of the VXLAN device.
        ipv4_vxlan_tunnel_addr: String = "ipv4VXLANTunnelAddr",
        /// MAC address of the IPv4 VXLAN device.
        vxlan_tunnel_mac_addr: String = "vxlanTunnelMACAddr",
        /// IPv6 address of the IPv6 VXLAN device.
        ipv6_vxlan_tunnel_addr: String = "ipv6VXLANTunnelAddr",
        /// MAC address of the IPv6 VXLAN device.
        vxlan_tunnel_mac_addr_v6: String = "vxlanTunnelMACAddrV6",
        /// How orchestrators call the node.
        orch_refs: Vec<OrchRef> = "orchRefs",
        /// WireGuard addresses.
        wireguard: Option<NodeWireguardSpec> = "wireguard",
        /// Addresses of the node.
        addresses: Vec<NodeAddress> = "addresses",
        /// Interfaces of the node with their addresses.
        interfaces: Vec<NodeInterface> = "interfaces",
    }

    /// Status of a `Node`.
    pub struct NodeStatus {
        /// Public key of the IPv4 WireGuard device, base64.
        wireguard_public_key: String = "wireguardPublicKey",
        /// Public key of the IPv6 WireGuard device, base64.
        wireguard_public_key_v6: String = "wireguardPublicKeyV6",
        /// Pod networks that Kubernetes gave the node.
        pod_cidrs: Vec<String> = "podCIDRs",
    }

    /// BGP settings of a node.
    pub struct NodeBgpSpec {
        /// AS number; absent means the global one.
        as_number: Option<ASNumber> = "asNumber",
        /// IPv4 address with the length of its subnet.
        ipv4_address: String = "ipv4Address",
        /// IPv6 address with the length of its subnet.
        ipv6_address: String = "ipv6Address",
        /// Address of the IP-in-IP device.
        ipv4_ipip_tunnel_addr: String = "ipv4IPIPTunnelAddr",
        /// Cluster id, an IPv4 address; makes the node a route reflector (RFC 4456).
        route_reflector_cluster_id: String = "routeReflectorClusterID",
    }

    /// Name of a node in an orchestrator.
    pub struct OrchRef {
        /// The name there.
        node_name: String = "nodeName",
        /// The orchestrator, for example `k8s`.
        orchestrator: String = "orchestrator",
    }

    /// WireGuard addresses of a node.
    pub struct NodeWireguardSpec {
        /// Address of the IPv4 device.
        interface_ipv4_address: String = "interfaceIPv4Address",
        /// Address of the IPv6 device.
        interface_ipv6_address: String = "interfaceIPv6Address",
    }

    /// An address of a node.
    pub struct NodeAddress {
        /// Address, or address with prefix length.
        address: String = "address",
        /// What it is.
        address_type: NodeAddressType = "type",
    }

    /// An interface of a node.
    pub struct NodeInterface {
        /// Name.
        name: String = "name",
        /// Addresses.
        addresses: Vec<String> = "addresses",
    }
}
