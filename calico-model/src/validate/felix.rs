//! Felix configuration.

use serde_json::Value as Json;

use crate::FelixConfiguration;
use crate::config::{Parameter, text_of};
use crate::net;
use crate::resource::felix::{FelixConfigurationSpec, RouteTableIdRange};

use super::{Check, endpoint, meta};

/// True for names of configurations that apply to all nodes or to one.
fn is_fixed_name(name: &str) -> bool {
    name == "default" || name.starts_with("node.")
}

pub(super) fn felix(c: &mut Check, f: &FelixConfiguration) {
    c.field("spec", |c| {
        let s = &f.spec;
        if is_fixed_name(&f.metadata.name) && !s.node_selector.is_empty() {
            let reason = "is for configurations with a name other than default and node.<node>";
            c.field("nodeSelector", |c| c.problem(reason));
        }
        c.selector("nodeSelector", &s.node_selector);
        values(c, s);
        texts(c, s);
    });
}

/// Plain values must be such that the agent can use them.
fn texts(c: &mut Check, s: &FelixConfigurationSpec) {
    let Ok(Json::Object(fields)) = serde_json::to_value(s) else { return };
    for (yaml, value) in fields.iter().filter(|(_, v)| !v.is_array() && !v.is_object()) {
        let Some(p) = Parameter::of_yaml(yaml) else { continue };
        // Masks and addresses have checks of their own, with better words.
        if ["MarkMask", "Address", "AddressIPv6", "Region"].iter().any(|end| p.name.ends_with(end)) {
            continue;
        }
        if let Some(text) = text_of(yaml, value, p.unit)
            && let Err(reason) = p.check(&text)
        {
            c.field(yaml, |c| c.bad(text, reason));
        }
    }
}

fn values(c: &mut Check, s: &FelixConfigurationSpec) {
    if let Some(ranges) = &s.kube_node_port_ranges {
        c.at_most("kubeNodePortRanges", ranges, 7);
        c.each("kubeNodePortRanges", ranges, |c, p| {
            if matches!(p, crate::Port::Named(_)) {
                c.bad(p, "must be a number or a range of numbers");
            }
        });
    }
    if let Some(list) = &s.external_nodes_list {
        c.each("externalNodesList", list, |c, text| match net::cidr_or_ip(text) {
            Err(e) => c.problem(e.to_string()),
            Ok(n) if n.addr().is_ipv6() => c.bad(text, "must be IPv4"),
            Ok(_) => {}
        });
    }
    if !s.openstack_region.is_empty()
        && (s.openstack_region.len() > 46 || !meta::is_tier_name(&s.openstack_region))
    {
        c.field("openstackRegion", |c| {
            c.bad(&s.openstack_region, "must be at most 46 lower-case letters, digits and '-'");
        });
    }
    endpoint::address(c, "natOutgoingAddress", &s.nat_outgoing_address, false);
    endpoint::address(c, "deviceRouteSourceAddress", &s.device_route_source_address, false);
    endpoint::address(c, "deviceRouteSourceAddressIPv6", &s.device_route_source_address_ipv6, true);
    for (name, ports) in [
        ("failsafeInboundHostPorts", &s.failsafe_inbound_host_ports),
        ("failsafeOutboundHostPorts", &s.failsafe_outbound_host_ports),
    ] {
        c.each(name, ports.as_deref().unwrap_or_default(), |c, p| {
            if !["", "TCP", "UDP"].contains(&p.protocol.to_ascii_uppercase().as_str()) {
                c.field("protocol", |c| c.bad(&p.protocol, "must be TCP or UDP"));
            }
            if !p.net.is_empty() && net::cidr_or_ip(&p.net).is_err() {
                c.field("net", |c| c.bad(&p.net, "must be a network"));
            }
        });
    }
    route_tables(c, s);
    c.each("healthTimeoutOverrides", &s.health_timeout_overrides, |c, o| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b' ' | b'-');
        if o.name.is_empty() || !o.name.bytes().all(allowed) {
            c.field("name", |c| c.bad(&o.name, "must consist of letters, digits, '_', ' ' and '-'"));
        }
        if o.timeout.0 < 0 {
            c.field("timeout", |c| c.bad(o.timeout, "must not be negative"));
        }
    });
    for (name, mask) in
        [("iptablesMarkMask", s.iptables_mark_mask), ("nftablesMarkMask", s.nftables_mark_mask)]
    {
        c.within(name, mask, 0, i64::from(u32::MAX));
        if mask.is_some_and(|m| (0..=i64::from(u32::MAX)).contains(&m) && m.count_ones() < 2) {
            c.field(name, |c| c.problem("needs at least two bits set"));
        }
    }
}

fn route_tables(c: &mut Check, s: &FelixConfigurationSpec) {
    if s.route_table_range.is_some() && s.route_table_ranges.is_some() {
        c.field("routeTableRange", |c| c.problem("cannot be combined with routeTableRanges, its successor"));
    }
    let range = |c: &mut Check, r: &RouteTableIdRange, most: i64| {
        if r.min < 1 || r.max < r.min || r.max > most {
            c.bad(format_args!("{}-{}", r.min, r.max), format!("must be a range within 1 and {most}"));
        }
    };
    if let Some(r) = &s.route_table_range {
        c.field("routeTableRange", |c| range(c, r, 250));
    }
    if let Some(ranges) = &s.route_table_ranges {
        c.each("routeTableRanges", ranges, |c, r| range(c, r, i64::from(u32::MAX)));
        let total =
            ranges.iter().map(|r| r.max.saturating_sub(r.min).saturating_add(1)).fold(0, i64::saturating_add);
        if total > 65_535 {
            c.field("routeTableRanges", |c| {
                c.problem(format!("cover {total} tables; at most 65535 are allowed"))
            });
        }
    }
}
