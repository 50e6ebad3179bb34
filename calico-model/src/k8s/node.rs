//! Nodes: a Calico node is a Kubernetes node with annotations.

use ipnet::IpNet;

use crate::k8s::types::Node as KubernetesNode;
use crate::resource::node::{
    NodeAddress, NodeAddressType, NodeBgpSpec, NodeInterface, NodeSpec, NodeStatus, NodeWireguardSpec,
    OrchRef,
};
use crate::{Labels, Node, ObjectMeta, net};

/// Prefix of the annotations.
pub const PREFIX: &str = "projectcalico.org/";
/// Annotation of the Calico object that holds the labels that come from Kubernetes.
pub const KUBE_LABELS: &str = "projectcalico.org/kube-labels";

const LABELS: &str = "labels";
const ANNOTATIONS: &str = "annotations";
const INTERFACES: &str = "Interfaces";

/// Value of the annotation `projectcalico.org/<name>`, empty when absent.
fn annotation<'a>(node: &'a KubernetesNode, name: &str) -> &'a str {
    node.metadata.annotations.get(&format!("{PREFIX}{name}")).map_or("", String::as_str)
}

/// The text, if it is an address of the family.
fn address(text: &str, v6: bool) -> String {
    if net::ip(text).is_ok_and(|a| a.is_ipv6() == v6) { text.to_owned() } else { String::new() }
}

/// The text, if it is an address or CIDR of the family.
fn subnet(text: &str, v6: bool) -> String {
    if net::cidr_or_ip(text).is_ok_and(|n| n.addr().is_ipv6() == v6) {
        text.to_owned()
    } else {
        String::new()
    }
}

fn map(text: &str) -> Labels {
    serde_json::from_str(text).unwrap_or_default()
}

/// The Calico node of a Kubernetes node. Annotations with an invalid value count as absent. With `use_pod_cidr` the
/// tunnel addresses follow from the node's pod network.
///
/// ```
/// use calico_model::k8s::{node, types::Node};
/// let text = r#"{"metadata": {"name": "n", "labels": {"rack": "1"},
///     "annotations": {"projectcalico.org/IPv4Address": "10.0.0.1/24", "projectcalico.org/ASNumber": "x"}},
///     "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}}"#;
/// let converted = node::from_kubernetes(&serde_json::from_str::<Node>(text).unwrap(), false);
/// let bgp = converted.spec.bgp.unwrap();
/// assert_eq!((bgp.ipv4_address.as_str(), bgp.as_number), ("10.0.0.1/24", None));
/// assert_eq!(converted.spec.addresses.len(), 2);
/// ```
pub fn from_kubernetes(node: &KubernetesNode, use_pod_cidr: bool) -> Node {
    let pod_cidrs: Vec<&String> = if node.spec.pod_cidrs.is_empty() {
        [&node.spec.pod_cidr].into_iter().filter(|c| !c.is_empty()).collect()
    } else {
        node.spec.pod_cidrs.iter().collect()
    };
    let get = |name: &str| annotation(node, name);
    let mut bgp = NodeBgpSpec {
        as_number: get("ASNumber").parse().ok(),
        ipv4_address: subnet(get("IPv4Address"), false),
        ipv6_address: subnet(get("IPv6Address"), true),
        ipv4_ipip_tunnel_addr: address(get("IPv4IPIPTunnelAddr"), false),
        route_reflector_cluster_id: address(get("RouteReflectorClusterID"), false),
    };
    let mut wireguard = NodeWireguardSpec {
        interface_ipv4_address: address(get("IPv4WireguardInterfaceAddr"), false),
        interface_ipv6_address: address(get("IPv6WireguardInterfaceAddr"), true),
    };
    let public_key = get("WireguardPublicKey").to_owned();
    if use_pod_cidr && let Some(tunnel) = pod_cidrs.iter().find_map(|c| tunnel_address(c)) {
        if !public_key.is_empty() {
            wireguard.interface_ipv4_address.clone_from(&tunnel);
        }
        bgp.ipv4_ipip_tunnel_addr = tunnel;
    }
    let mut addresses: Vec<NodeAddress> = [&bgp.ipv4_address, &bgp.ipv6_address]
        .into_iter()
        .filter(|a| !a.is_empty())
        .map(|a| NodeAddress { address: a.clone(), address_type: NodeAddressType::CalicoNodeIp })
        .collect();
    addresses.extend(node.status.addresses.iter().filter_map(|a| {
        let address_type = NodeAddressType::from(a.r#type.as_str());
        let known = matches!(address_type, NodeAddressType::InternalIp | NodeAddressType::ExternalIp);
        known.then(|| NodeAddress { address: a.address.clone(), address_type })
    }));
    let interfaces: Vec<NodeInterface> = serde_json::from_str(get(INTERFACES)).unwrap_or_default();
    let spec = NodeSpec {
        bgp: (bgp != NodeBgpSpec::default()).then_some(bgp),
        ipv4_vxlan_tunnel_addr: address(get("IPv4VXLANTunnelAddr"), false),
        vxlan_tunnel_mac_addr: get("VXLANTunnelMACAddr").to_owned(),
        ipv6_vxlan_tunnel_addr: address(get("IPv6VXLANTunnelAddr"), true),
        vxlan_tunnel_mac_addr_v6: get("VXLANTunnelMACAddrV6").to_owned(),
        orch_refs: vec![OrchRef { node_name: node.metadata.name.clone(), orchestrator: "k8s".to_owned() }],
        wireguard: (wireguard != NodeWireguardSpec::default()).then_some(wireguard),
        addresses,
        interfaces,
    };
    let status = NodeStatus {
        wireguard_public_key: public_key,
        wireguard_public_key_v6: get("WireguardPublicKeyV6").to_owned(),
        pod_cidrs: pod_cidrs.into_iter().cloned().collect(),
    };
    // Labels of Kubernetes win; they are set aside so that a write does not make them Calico's own.
    let mut labels = map(get(LABELS));
    labels.extend(node.metadata.labels.clone());
    let mut annotations = map(get(ANNOTATIONS));
    let kube_labels = serde_json::to_string(&node.metadata.labels).unwrap_or_default();
    annotations.insert(KUBE_LABELS.to_owned(), kube_labels);
    Node {
        metadata: ObjectMeta {
            name: node.metadata.name.clone(),
            uid: node.metadata.uid.clone(),
            resource_version: node.metadata.resource_version.clone(),
            creation_timestamp: node.metadata.creation_timestamp,
            labels,
            annotations,
            ..ObjectMeta::default()
        },
        spec,
        status: (status != NodeStatus::default()).then_some(status),
        ..Node::default()
    }
}

/// First address after the network address of an IPv4 pod network.
fn tunnel_address(cidr: &str) -> Option<String> {
    match net::cidr(cidr).ok()? {
        IpNet::V4(n) => {
            let [a, b, c, d] = n.network().octets();
            Some(std::net::Ipv4Addr::new(a, b, c, d.wrapping_add(1)).to_string())
        }
        IpNet::V6(_) => None,
    }
}

/// The annotations that a Kubernetes node must carry for this Calico node: `Some` to set, `None` to remove.
pub fn to_annotations(node: &Node) -> std::collections::BTreeMap<String, Option<String>> {
    let s = &node.spec;
    let bgp = s.bgp.clone().unwrap_or_default();
    let wireguard = s.wireguard.clone().unwrap_or_default();
    let status = node.status.clone().unwrap_or_default();
    let mut annotations = node.metadata.annotations.clone();
    let inherited = annotations.remove(KUBE_LABELS).map(|t| map(&t)).unwrap_or_default();
    let mut labels = node.metadata.labels.clone();
    labels.retain(|k, v| inherited.get(k) != Some(v));
    let json =
        |empty: bool, text: Option<String>| if empty { String::new() } else { text.unwrap_or_default() };
    [
        ("ASNumber", bgp.as_number.map(|n| n.to_string()).unwrap_or_default()),
        ("IPv4Address", bgp.ipv4_address),
        ("IPv6Address", bgp.ipv6_address),
        ("IPv4IPIPTunnelAddr", bgp.ipv4_ipip_tunnel_addr),
        ("RouteReflectorClusterID", bgp.route_reflector_cluster_id),
        ("IPv4VXLANTunnelAddr", s.ipv4_vxlan_tunnel_addr.clone()),
        ("VXLANTunnelMACAddr", s.vxlan_tunnel_mac_addr.clone()),
        ("IPv6VXLANTunnelAddr", s.ipv6_vxlan_tunnel_addr.clone()),
        ("VXLANTunnelMACAddrV6", s.vxlan_tunnel_mac_addr_v6.clone()),
        ("IPv4WireguardInterfaceAddr", wireguard.interface_ipv4_address),
        ("IPv6WireguardInterfaceAddr", wireguard.interface_ipv6_address),
        ("WireguardPublicKey", status.wireguard_public_key),
        ("WireguardPublicKeyV6", status.wireguard_public_key_v6),
        (INTERFACES, json(s.interfaces.is_empty(), serde_json::to_string(&s.interfaces).ok())),
        (LABELS, json(labels.is_empty(), serde_json::to_string(&labels).ok())),
        (ANNOTATIONS, json(annotations.is_empty(), serde_json::to_string(&annotations).ok())),
    ]
    .into_iter()
    .map(|(name, value)| (format!("{PREFIX}{name}"), (!value.is_empty()).then_some(value)))
    .collect()
}

/// Name of a node from the name of its host: lower case, without surrounding space.
pub fn name_of_host(host: &str) -> String {
    host.trim().to_lowercase()
}

/// Values that a Felix reads as parameters of a node, by name; `None` removes. These are the addresses of its tunnels.
pub fn host_config(node: &Node) -> [(&'static str, Option<String>); 5] {
    let s = &node.spec;
    let given = |t: &str| (!t.is_empty()).then(|| t.to_owned());
    let ipip = s.bgp.as_ref().map_or("", |b| b.ipv4_ipip_tunnel_addr.as_str());
    [
        ("IpInIpTunnelAddr", given(ipip)),
        ("IPv4VXLANTunnelAddr", given(&s.ipv4_vxlan_tunnel_addr)),
        ("VXLANTunnelMACAddr", given(&s.vxlan_tunnel_mac_addr)),
        ("IPv6VXLANTunnelAddr", given(&s.ipv6_vxlan_tunnel_addr)),
        ("VXLANTunnelMACAddrV6", given(&s.vxlan_tunnel_mac_addr_v6)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_round_trip() {
        let text = r#"{"metadata": {"name": "n", "uid": "u", "labels": {"k8s": "1", "both": "k8s"}, "annotations": {
            "projectcalico.org/ASNumber": "64513", "projectcalico.org/IPv4Address": "10.0.0.1/24",
            "projectcalico.org/IPv4IPIPTunnelAddr": "10.1.0.1", "projectcalico.org/IPv6VXLANTunnelAddr": "fd00::1",
            "projectcalico.org/VXLANTunnelMACAddr": "66:00:00:00:00:01",
            "projectcalico.org/Interfaces": "[{\"name\":\"eth0\",\"addresses\":[\"10.0.0.1\"]}]",
            "projectcalico.org/WireguardPublicKey": "key", "projectcalico.org/IPv4WireguardInterfaceAddr": "10.2.0.1",
            "projectcalico.org/labels": "{\"own\":\"1\",\"both\":\"calico\"}",
            "projectcalico.org/annotations": "{\"note\":\"x\"}"}},
            "spec": {"podCIDRs": ["10.244.3.0/24", "fd00:1::/64"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "n"}]}}"#;
        let kubernetes: KubernetesNode = serde_json::from_str(text).unwrap();
        let node = from_kubernetes(&kubernetes, false);
        assert_eq!(node.metadata.labels["both"], "k8s");
        assert_eq!(node.metadata.labels["own"], "1");
        assert_eq!(node.spec.addresses.len(), 2);
        assert_eq!(node.spec.interfaces[0].name, "eth0");
        let written = to_annotations(&node);
        for (key, value) in &kubernetes.metadata.annotations {
            // The shadowed label is lost: Kubernetes has the last word.
            let expected = if key.ends_with("/labels") { r#"{"own":"1"}"# } else { value };
            assert_eq!(written[key].as_deref(), Some(expected), "{key}");
        }
        assert_eq!(written["projectcalico.org/IPv6Address"], None);
        assert_eq!(host_config(&node)[0], ("IpInIpTunnelAddr", Some("10.1.0.1".to_owned())));
        let by_pod_cidr = from_kubernetes(&kubernetes, true);
        assert_eq!(by_pod_cidr.spec.bgp.unwrap().ipv4_ipip_tunnel_addr, "10.244.3.1");
        assert_eq!(by_pod_cidr.spec.wireguard.unwrap().interface_ipv4_address, "10.244.3.1");
        assert_eq!(by_pod_cidr.status.unwrap().pod_cidrs.len(), 2);
    }

    #[test]
    fn invalid_values_are_absent() {
        let text = r#"{"metadata": {"name": "n", "annotations": {"projectcalico.org/IPv4Address": "fd00::1/64",
            "projectcalico.org/Interfaces": "{", "projectcalico.org/labels": "[]",
            "projectcalico.org/IPv4VXLANTunnelAddr": "10.0.0.0/8"}}}"#;
        let node = from_kubernetes(&serde_json::from_str(text).unwrap(), false);
        assert_eq!(
            (node.spec.bgp, node.spec.interfaces, node.spec.ipv4_vxlan_tunnel_addr.as_str()),
            (None, vec![], "")
        );
        assert_eq!(name_of_host(" Node-1\n"), "node-1");
    }
}
