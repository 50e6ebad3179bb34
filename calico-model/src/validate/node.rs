//! Nodes and their status.

use crate::resource::node::{NodeAddressType, NodeBgpSpec, NodeSpec};
use crate::resource::node_status::{CalicoNodeStatusSpec, NodeStatusClass};
use crate::{Node, net};

use super::{Check, endpoint};

pub(super) fn node(c: &mut Check, n: &Node) {
    c.field("spec", |c| spec(c, &n.spec));
    if let Some(s) = &n.status {
        c.field("status", |c| {
            for (name, key) in [
                ("wireguardPublicKey", &s.wireguard_public_key),
                ("wireguardPublicKeyV6", &s.wireguard_public_key_v6),
            ] {
                if !key.is_empty() && !is_wireguard_key(key) {
                    c.field(name, |c| c.bad(key, "must be 32 bytes in base64"));
                }
            }
            c.each("podCIDRs", &s.pod_cidrs, |c, text| {
                if let Err(e) = net::cidr(text) {
                    c.problem(e.to_string());
                }
            });
        });
    }
}

/// True for 32 bytes in base64: 43 digits, the last of which has only its upper four bits, and padding.
fn is_wireguard_key(text: &str) -> bool {
    let digit = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    text.len() == 44
        && text.strip_suffix('=').is_some_and(|digits| {
            digits.bytes().all(digit) && digits.ends_with(|last| "AEIMQUYcgkosw048".contains(last))
        })
}

fn spec(c: &mut Check, s: &NodeSpec) {
    if let Some(bgp) = &s.bgp {
        c.field("bgp", |c| {
            c.require(*bgp != NodeBgpSpec::default(), "must not be empty; leave it out");
            subnet(c, "ipv4Address", &bgp.ipv4_address, false);
            subnet(c, "ipv6Address", &bgp.ipv6_address, true);
            endpoint::address(c, "ipv4IPIPTunnelAddr", &bgp.ipv4_ipip_tunnel_addr, false);
            endpoint::address(c, "routeReflectorClusterID", &bgp.route_reflector_cluster_id, false);
        });
    }
    endpoint::address(c, "ipv4VXLANTunnelAddr", &s.ipv4_vxlan_tunnel_addr, false);
    endpoint::address(c, "ipv6VXLANTunnelAddr", &s.ipv6_vxlan_tunnel_addr, true);
    for (name, mac) in [
        ("vxlanTunnelMACAddr", &s.vxlan_tunnel_mac_addr),
        ("vxlanTunnelMACAddrV6", &s.vxlan_tunnel_mac_addr_v6),
    ] {
        if !mac.is_empty() && !endpoint::is_mac(mac) {
            c.field(name, |c| c.bad(mac, "must be a MAC address"));
        }
    }
    if let Some(w) = &s.wireguard {
        c.field("wireguard", |c| {
            endpoint::address(c, "interfaceIPv4Address", &w.interface_ipv4_address, false);
            endpoint::address(c, "interfaceIPv6Address", &w.interface_ipv6_address, true);
        });
    }
    c.each("addresses", &s.addresses, |c, a| {
        if let Err(e) = net::cidr_or_ip(&a.address) {
            c.field("address", |c| c.problem(e.to_string()));
        }
        c.known("type", a.address_type.as_str(), NodeAddressType::KNOWN);
    });
    c.each("interfaces", &s.interfaces, |c, i| {
        c.each("addresses", &i.addresses, |c, a| {
            if let Err(e) = net::cidr_or_ip(a) {
                c.problem(e.to_string());
            }
        });
    });
}

/// An address with the length of its subnet, if given.
fn subnet(c: &mut Check, name: &str, text: &str, v6: bool) {
    if !text.is_empty() && !net::cidr_or_ip(text).is_ok_and(|n| n.addr().is_ipv6() == v6) {
        let example = if v6 { "fd00::1/64" } else { "10.0.0.1/24" };
        c.field(name, |c| c.bad(text, format!("must be an address with prefix length, such as {example}")));
    }
}

pub(super) fn status(c: &mut Check, s: &CalicoNodeStatusSpec) {
    if s.node.is_empty() {
        c.field("node", |c| c.problem("required"));
    }
    endpoint::name(c, "node", &s.node);
    c.distinct("classes", &s.classes);
    c.each("classes", &s.classes, |c, class| {
        if !class.is_known() {
            c.bad(class, format!("must be one of {}", NodeStatusClass::KNOWN.join(", ")));
        }
    });
    if s.update_period_seconds.is_none() {
        c.field("updatePeriodSeconds", |c| c.problem("required; 0 stops the reports"));
    }
    c.within("updatePeriodSeconds", s.update_period_seconds.map(i64::from), 0, 86_400);
}
