//! BGP configuration, peers and filters.

use crate::net;
use crate::resource::bgp::*;

use super::Check;
use crate::BGPConfiguration;
use crate::validate::endpoint;

/// Largest kernel priority.
const MAX_PRIORITY: i64 = 2_147_483_646;

/// A community is `aa:nn` of 16 bits each (RFC 1997) or `aa:nn:mm` of 32 bits each (RFC 8092).
fn is_community(s: &str) -> bool {
    let parts: Vec<&str> = s.split(':').collect();
    let digits = |p: &&str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit());
    parts.iter().all(digits)
        && match parts.as_slice() {
            [_, _] => parts.iter().all(|p| p.parse::<u16>().is_ok()),
            [_, _, _] => parts.iter().all(|p| p.parse::<u32>().is_ok()),
            _ => false,
        }
}

const COMMUNITY: &str = "must be aa:nn (each 0-65535) or aa:nn:mm (each 0-4294967295)";

pub(super) fn configuration(c: &mut Check, b: &BGPConfiguration) {
    c.field("spec", |c| {
        let s = &b.spec;
        c.known("logSeverityScreen", s.log_severity_screen.as_str(), LogSeverity::KNOWN);
        c.known(
            "serviceLoadBalancerAggregation",
            s.service_load_balancer_aggregation.as_str(),
            Switch::KNOWN,
        );
        c.known("bindMode", s.bind_mode.as_str(), BindMode::KNOWN);
        c.known("programClusterRoutes", s.program_cluster_routes.as_str(), ClusterRoutes::KNOWN);
        if b.metadata.name != "default" {
            only_on_default(c, s);
        }
        for (name, blocks) in [
            ("serviceLoadBalancerIPs", &s.service_load_balancer_ips),
            ("serviceExternalIPs", &s.service_external_ips),
            ("serviceClusterIPs", &s.service_cluster_ips),
        ] {
            c.each(name, blocks, |c, b| c.field("cidr", |c| cidr(c, &b.cidr)));
        }
        communities(c, s);
        if s.node_to_node_mesh_enabled == Some(false) {
            for (name, given) in [
                ("nodeMeshPassword", s.node_mesh_password.is_some()),
                ("nodeMeshMaxRestartTime", s.node_mesh_max_restart_time.is_some()),
            ] {
                if given {
                    c.field(name, |c| c.problem("has no meaning while nodeToNodeMeshEnabled is false"));
                }
            }
        }
        if let Some(p) = &s.node_mesh_password {
            c.field("nodeMeshPassword", |c| password(c, p));
        }
        c.distinct("ignoredInterfaces", &s.ignored_interfaces);
        c.each("ignoredInterfaces", &s.ignored_interfaces, |c, i| {
            if i == "*" {
                c.bad(i, "would ignore every interface");
            } else if !is_interface_glob(i) {
                c.bad(i, "must be the name of an interface, in which '*' stands for anything");
            }
        });
        endpoint::address(c, "localWorkloadPeeringIPV4", &s.local_workload_peering_ip_v4, false);
        endpoint::address(c, "localWorkloadPeeringIPV6", &s.local_workload_peering_ip_v6, true);
        c.within("ipv4NormalRoutePriority", s.ipv4_normal_route_priority.map(i64::from), 1, MAX_PRIORITY);
        c.within("ipv6NormalRoutePriority", s.ipv6_normal_route_priority.map(i64::from), 1, MAX_PRIORITY);
    });
}

fn only_on_default(c: &mut Check, s: &BGPConfigurationSpec) {
    for (name, given) in [
        ("nodeToNodeMeshEnabled", s.node_to_node_mesh_enabled.is_some()),
        ("asNumber", s.as_number.is_some()),
        ("serviceExternalIPs", !s.service_external_ips.is_empty()),
        ("serviceClusterIPs", !s.service_cluster_ips.is_empty()),
        ("serviceLoadBalancerIPs", !s.service_load_balancer_ips.is_empty()),
        ("nodeMeshPassword", s.node_mesh_password.is_some()),
        ("nodeMeshMaxRestartTime", s.node_mesh_max_restart_time.is_some()),
    ] {
        if given {
            c.field(name, |c| c.problem("can be set only in the BGPConfiguration named default"));
        }
    }
}

fn cidr(c: &mut Check, text: &str) {
    if let Err(e) = net::cidr_or_ip(text) {
        c.problem(e.to_string());
    }
}

fn communities(c: &mut Check, s: &BGPConfigurationSpec) {
    c.at_most("communities", &s.communities, 500);
    c.each("communities", &s.communities, |c, community| {
        if community.name.is_empty() {
            c.field("name", |c| c.problem("required"));
        }
        if !is_community(&community.value) {
            c.field("value", |c| c.bad(&community.value, COMMUNITY));
        }
    });
    if !s.communities.is_empty() && s.prefix_advertisements.is_empty() {
        c.field("communities", |c| c.problem("are defined, but no prefixAdvertisements use them"));
    }
    c.at_most("prefixAdvertisements", &s.prefix_advertisements, 500);
    c.each("prefixAdvertisements", &s.prefix_advertisements, |c, p| {
        c.field("cidr", |c| cidr(c, &p.cidr));
        c.at_most("communities", &p.communities, 50);
        c.each("communities", &p.communities, |c, text| {
            if !is_community(text) && !s.communities.iter().any(|d| d.name == *text) {
                c.bad(text, "is neither a community value nor the name of one in spec.communities");
            }
        });
    });
}

fn password(c: &mut Check, p: &BgpPassword) {
    c.field("secretKeyRef", |c| match &p.secret_key_ref {
        None => c.problem("required"),
        Some(s) => {
            if s.name.is_empty() {
                c.field("name", |c| c.problem("required"));
            }
            if s.key.is_empty() {
                c.field("key", |c| c.problem("required"));
            }
        }
    });
}

fn is_interface_glob(s: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'*' | b'-');
    (1..=15).contains(&s.len()) && s.bytes().all(allowed)
}

/// The address of a peer: `ip`, `v4:port` or `[v6]:port`.
fn peer_address(text: &str) -> Option<std::net::IpAddr> {
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    let socket: std::net::SocketAddr = text.parse().ok()?;
    (socket.port() > 0).then(|| socket.ip())
}

pub(super) fn peer(c: &mut Check, s: &BGPPeerSpec) {
    c.no_longer("node", &s.node, 253);
    endpoint::name(c, "node", &s.node);
    c.selector("nodeSelector", &s.node_selector);
    c.selector("peerSelector", &s.peer_selector);
    c.selector("localWorkloadSelector", &s.local_workload_selector);
    let address = peer_address(&s.peer_ip);
    if !s.peer_ip.is_empty() && address.is_none() {
        c.field("peerIP", |c| c.bad(&s.peer_ip, "must be an address, <IPv4>:<port> or [<IPv6>]:<port>"));
    }
    c.known("nextHopMode", s.next_hop_mode.as_str(), NextHopMode::KNOWN);
    c.known("sourceAddress", s.source_address.as_str(), SourceAddress::KNOWN);
    c.known("reversePeering", s.reverse_peering.as_str(), ReversePeering::KNOWN);
    if let Some(p) = &s.password {
        c.field("password", |c| password(c, p));
    }
    c.within(
        "numAllowedLocalASNumbers",
        s.num_allowed_local_as_numbers.map(i64::from),
        0,
        i64::from(i32::MAX),
    );
    let both = |c: &mut Check, name: &str, other: &str, wrong: bool| {
        if wrong {
            c.field(name, |c| c.problem(format!("cannot be combined with {other}")));
        }
    };
    let (ip, selector) = (!s.peer_ip.is_empty(), !s.peer_selector.is_empty());
    let local = !s.local_workload_selector.is_empty();
    both(c, "nodeSelector", "node", !s.node.is_empty() && !s.node_selector.is_empty());
    both(c, "peerSelector", "peerIP", ip && selector);
    both(c, "asNumber", "peerSelector: the peers have their own", selector && s.as_number.0 != 0);
    both(c, "peerIP", "localWorkloadSelector", local && ip);
    both(c, "peerSelector", "localWorkloadSelector", local && selector);
    both(c, "keepOriginalNextHop", "nextHopMode", s.keep_original_next_hop && !s.next_hop_mode.is_unset());
    if local && s.as_number.0 == 0 {
        c.field("asNumber", |c| c.problem("required beside localWorkloadSelector"));
    }
    if !s.reachable_by.is_empty() {
        c.field("reachableBy", |c| match (net::ip(&s.reachable_by), address) {
            (Err(e), _) => c.problem(e.to_string()),
            (Ok(_), None) => c.problem("needs peerIP"),
            (Ok(by), Some(peer)) if by.is_ipv4() != peer.is_ipv4() => {
                c.bad(&s.reachable_by, "must be of the family of peerIP");
            }
            _ => {}
        });
    }
}

pub(super) fn filter(c: &mut Check, s: &BGPFilterSpec) {
    for (name, rules, v6) in [
        ("exportV4", &s.export_v4, false),
        ("importV4", &s.import_v4, false),
        ("exportV6", &s.export_v6, true),
        ("importV6", &s.import_v6, true),
    ] {
        c.each(name, rules, |c, r| filter_rule(c, r, v6));
    }
}

fn filter_rule(c: &mut Check, r: &BGPFilterRule, v6: bool) {
    let family = if v6 { 6 } else { 4 };
    if !r.cidr.is_empty() {
        c.field("cidr", |c| match net::cidr(&r.cidr) {
            Err(e) => c.problem(e.to_string()),
            Ok(n) if n.addr().is_ipv6() != v6 => c.bad(&r.cidr, format!("must be an IPv{family} network")),
            Ok(_) => {}
        });
    }
    if r.cidr.is_empty() != r.match_operator.is_unset() {
        let (missing, given) =
            if r.cidr.is_empty() { ("cidr", "matchOperator") } else { ("matchOperator", "cidr") };
        c.field(missing, |c| c.problem(format!("required beside {given}")));
    }
    if let Some(p) = &r.prefix_length {
        c.field("prefixLength", |c| {
            let most = if v6 { 128 } else { 32 };
            c.within("min", p.min.map(i64::from), 0, most);
            c.within("max", p.max.map(i64::from), 0, most);
            c.require(!r.cidr.is_empty(), "needs cidr");
            if let (Some(min), Some(max)) = (p.min, p.max)
                && min > max
            {
                c.problem("min must not be greater than max");
            }
        });
    }
    c.known("source", r.source.as_str(), FilterSource::KNOWN);
    c.known("matchOperator", r.match_operator.as_str(), FilterMatchOperator::KNOWN);
    c.known("peerType", r.peer_type.as_str(), FilterPeerType::KNOWN);
    if !r.interface.is_empty() && !is_interface_glob(&r.interface) {
        c.field("interface", |c| {
            c.bad(&r.interface, "must be the name of an interface, in which '*' stands for anything")
        });
    }
    if let Some(communities) = &r.communities {
        c.field("communities", |c| {
            c.require(communities.values.len() == 1, "needs exactly one value");
            c.each("values", &communities.values, |c, v| {
                if !is_community(v) {
                    c.bad(v, COMMUNITY);
                }
            });
        });
    }
    c.within("priority", r.priority.map(i64::from), 1, MAX_PRIORITY);
    if r.action.is_unset() {
        c.field("action", |c| c.problem("required: Accept or Reject"));
    }
    c.known("action", r.action.as_str(), FilterAction::KNOWN);
    if !r.operations.is_empty() && r.action != FilterAction::Accept {
        c.field("operations", |c| c.problem("are allowed with action Accept only"));
    }
    c.at_most("operations", &r.operations, 10);
    c.each("operations", &r.operations, operation);
}

fn operation(c: &mut Check, o: &BGPFilterOperation) {
    let given = [o.add_community.is_some(), o.prepend_as_path.is_some(), o.set_priority.is_some()];
    if given.iter().filter(|g| **g).count() != 1 {
        c.problem("needs exactly one of addCommunity, prependASPath and setPriority");
    }
    if let Some(a) = &o.add_community
        && !is_community(&a.value)
    {
        c.field("addCommunity", |c| c.field("value", |c| c.bad(&a.value, COMMUNITY)));
    }
    if let Some(p) = &o.prepend_as_path {
        c.field("prependASPath", |c| {
            c.require((1..=10).contains(&p.prefix.len()), "needs 1 to 10 AS numbers in prefix");
        });
    }
    if let Some(s) = &o.set_priority {
        c.field("setPriority", |c| c.within("value", Some(i64::from(s.value)), 1, MAX_PRIORITY));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn communities_and_peer_addresses() {
        assert!(is_community("65535:0") && is_community("4294967295:1:2"));
        for bad in ["65536:0", "1", "1:2:3:4", "a:b", ":", "1:2:4294967296", "+1:2"] {
            assert!(!is_community(bad), "{bad}");
        }
        for ok in ["10.0.0.1", "10.0.0.1:1790", "[fd00::1]:179", "fd00::1"] {
            assert!(peer_address(ok).is_some(), "{ok}");
        }
        for bad in ["10.0.0.1:0", "fd00::1:x", "host", "10.0.0.1:65536", ""] {
            assert!(peer_address(bad).is_none(), "{bad}");
        }
    }
}
