//! Endpoints and network sets.

use crate::net;
use crate::resource::endpoint::{HostEndpointSpec, WorkloadEndpointPort, WorkloadEndpointSpec};
use crate::{WorkloadEndpoint, names};

use super::rule::is_port_name;
use super::{Check, meta};

/// True for the name of an interface: up to 15 letters, digits, `_`, `.`, `-`.
pub(super) fn is_interface(s: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    (1..=15).contains(&s.len()) && s.bytes().all(allowed)
}

/// True for six pairs of hexadecimal digits.
pub(super) fn is_mac(s: &str) -> bool {
    let parts: Vec<&str> = s.split([':', '-']).collect();
    parts.len() == 6 && parts.iter().all(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
}

pub(super) fn name(c: &mut Check, field: &str, text: &str) {
    if !text.is_empty() && !meta::is_name(text) {
        c.field(field, |c| c.bad(text, "must consist of lower-case letters, digits, '-' and '.'"));
    }
}

fn names_in(c: &mut Check, field: &str, list: &[String]) {
    c.each(field, list, |c, n| {
        if !meta::is_name(n) {
            c.bad(n, "must consist of lower-case letters, digits, '-' and '.'");
        }
    });
}

/// An address of one family, if given.
pub(super) fn address(c: &mut Check, field: &str, text: &str, v6: bool) {
    if !text.is_empty() && !net::ip(text).is_ok_and(|a| a.is_ipv6() == v6) {
        let family = if v6 { 6 } else { 4 };
        c.field(field, |c| c.bad(text, format!("must be an IPv{family} address")));
    }
}

pub(super) fn network_set(c: &mut Check, nets: &[String]) {
    c.distinct("nets", nets);
    c.each("nets", nets, |c, text| {
        if let Err(e) = net::cidr_or_ip(text) {
            c.problem(e.to_string());
        }
    });
}

pub(super) fn host_endpoint(c: &mut Check, s: &HostEndpointSpec) {
    if s.node.is_empty() {
        c.field("node", |c| c.problem("required"));
    }
    name(c, "node", &s.node);
    if !["", "*"].contains(&s.interface_name.as_str()) && !is_interface(&s.interface_name) {
        c.field("interfaceName", |c| c.bad(&s.interface_name, "must be '*' or the name of an interface"));
    }
    if s.interface_name.is_empty() && s.expected_ips.is_empty() {
        c.problem("needs interfaceName or expectedIPs");
    }
    c.distinct("expectedIPs", &s.expected_ips);
    c.each("expectedIPs", &s.expected_ips, |c, text| {
        if let Err(e) = net::ip(text) {
            c.problem(e.to_string());
        }
    });
    c.distinct("profiles", &s.profiles);
    names_in(c, "profiles", &s.profiles);
    c.each("ports", &s.ports, |c, p| {
        if !is_port_name(&p.name) {
            c.field("name", |c| c.bad(&p.name, "must be 1-15 lower-case letters, digits or single '-'"));
        }
        if !p.protocol.supports_ports() {
            c.field("protocol", |c| c.bad(&p.protocol, "must be TCP, UDP or SCTP"));
        }
        if p.port == 0 {
            c.field("port", |c| c.bad(0, "must be within 1 and 65535"));
        }
    });
}

pub(super) fn workload_endpoint(c: &mut Check, w: &WorkloadEndpoint) {
    c.field("spec", |c| {
        spec(c, &w.spec);
        if let Err(names::EndpointNameError::Dash { field, value }) = names::workload_endpoint_name(&w.spec) {
            c.field(field, |c| c.bad(value, "must not begin or end with '-'"));
        }
    });
}

fn spec(c: &mut Check, s: &WorkloadEndpointSpec) {
    for (field, text) in [
        ("orchestrator", &s.orchestrator),
        ("workload", &s.workload),
        ("node", &s.node),
        ("pod", &s.pod),
        ("endpoint", &s.endpoint),
        ("serviceAccountName", &s.service_account_name),
    ] {
        name(c, field, text);
    }
    let id = &s.container_id;
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if !id.is_empty() && (!id.bytes().all(inner) || id.starts_with('-') || id.ends_with('-')) {
        c.field("containerID", |c| c.bad(id, "must consist of letters, digits and inner '-'"));
    }
    let mut own = Vec::new();
    c.each("ipNetworks", &s.ip_networks, |c, text| match net::cidr_or_ip(text) {
        Err(e) => c.problem(e.to_string()),
        Ok(n) if n.prefix_len() != n.max_prefix_len() => {
            c.bad(text, format!("must be a single address: /{}", n.max_prefix_len()));
        }
        Ok(n) => own.push(n.addr()),
    });
    c.each("ipNATs", &s.ip_nats, |c, nat| {
        let internal = net::ip(&nat.internal_ip);
        let external = net::ip(&nat.external_ip);
        match (&internal, &external) {
            (Err(e), _) => c.field("internalIP", |c| c.problem(e.to_string())),
            (_, Err(e)) => c.field("externalIP", |c| c.problem(e.to_string())),
            (Ok(i), Ok(e)) if i.is_ipv4() != e.is_ipv4() => {
                c.problem("internalIP and externalIP must be of one family");
            }
            (Ok(i), _) if !own.contains(i) => {
                c.field("internalIP", |c| c.bad(i, "is not among spec.ipNetworks"));
            }
            _ => {}
        }
    });
    address(c, "ipv4Gateway", &s.ipv4_gateway, false);
    address(c, "ipv6Gateway", &s.ipv6_gateway, true);
    names_in(c, "profiles", &s.profiles);
    if !is_interface(&s.interface_name) {
        c.field("interfaceName", |c| c.bad(&s.interface_name, "must be the name of an interface"));
    }
    if !s.mac.is_empty() && !is_mac(&s.mac) {
        c.field("mac", |c| c.bad(&s.mac, "must be a MAC address such as ee:ee:ee:ee:ee:ee"));
    }
    c.each("ports", &s.ports, workload_port);
    c.each("allowSpoofedSourcePrefixes", &s.allow_spoofed_source_prefixes, |c, text| {
        if let Err(e) = net::cidr_or_ip(text) {
            c.problem(e.to_string());
        }
    });
}

fn workload_port(c: &mut Check, p: &WorkloadEndpointPort) {
    if p.name.is_empty() && p.host_port == 0 {
        c.field("name", |c| c.problem("required unless there is a hostPort"));
    } else if !p.name.is_empty() && !is_port_name(&p.name) {
        c.field("name", |c| c.bad(&p.name, "must be 1-15 lower-case letters, digits or single '-'"));
    }
    if !p.protocol.supports_ports() {
        c.field("protocol", |c| c.bad(&p.protocol, "must be TCP, UDP or SCTP"));
    }
    if p.port == 0 {
        c.field("port", |c| c.bad(0, "must be within 1 and 65535"));
    }
    if !p.host_ip.is_empty() && net::cidr_or_ip(&p.host_ip).is_err() {
        c.field("hostIP", |c| c.bad(&p.host_ip, "must be an address"));
    }
}
