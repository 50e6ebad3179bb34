//! Tunnel addresses of nodes and LoadBalancer addresses of services.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use calico_ipam::{
    AssignServices, Attribute, Encapsulation, Family, Filter, Holder, IntendedUse, Labels, Pool,
    ServiceAction, Tunnel, TunnelAction, TunnelState, Wish, is_managed, service_addresses, tunnel_address,
    wish,
};
use calico_model::k8s::types::Service;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pools() -> Vec<Arc<Pool>> {
    let mut vxlan = Pool::new("vxlan", "10.1.0.0/16".parse().unwrap());
    vxlan.encapsulation = Encapsulation { ipip: false, vxlan: true };
    let mut ipip = Pool::new("ipip", "10.2.0.0/16".parse().unwrap());
    ipip.encapsulation = Encapsulation { ipip: true, vxlan: false };
    ipip.nodes = Filter::parse("zone == 'a'");
    let mut pods = Pool::new("pods", "10.3.0.0/16".parse().unwrap());
    pods.encapsulation = Encapsulation { ipip: true, vxlan: true };
    pods.uses = vec![IntendedUse::Workload];
    vec![Arc::new(ipip), Arc::new(pods), Arc::new(vxlan)]
}

fn decide(tunnel: Tunnel, zone: &str, current: Option<&str>, holder: Option<(&str, &str)>) -> TunnelAction {
    let labels: Labels = [("zone".to_owned(), zone.to_owned())].into();
    let holder = match holder {
        None => Holder::Nobody,
        Some(("", "")) => Holder::Somebody(Arc::new(Attribute::default())),
        Some((node, kind)) => {
            let active: BTreeMap<String, String> =
                [("node".to_owned(), node.to_owned()), ("type".to_owned(), kind.to_owned())].into();
            Holder::Somebody(Arc::new(Attribute::new(Some("some-handle"), active)))
        }
    };
    let pools = pools();
    let state = TunnelState {
        node: "n1",
        labels: &labels,
        pools: &pools,
        wanted: true,
        current: current.map(ip),
        holder,
    };
    tunnel_address(tunnel, &state)
}

#[test]
fn a_tunnel_takes_its_address_from_pools_that_need_it() {
    let TunnelAction::Assign { release, args } = decide(Tunnel::Vxlan, "b", None, None) else {
        panic!("no address")
    };
    assert_eq!(release.as_deref(), Some("vxlan-tunnel-addr-n1"));
    assert_eq!(args.v4.pools, ["10.1.0.0/16".parse().unwrap()]);
    assert_eq!((args.intended_use, args.v4.count, args.v6.count), (Some(IntendedUse::Tunnel), 1, 0));
    assert_eq!(args.attributes.get("type").map(String::as_str), Some("vxlanTunnelAddress"));
    // No IPIP pool selects this node; no IPv6 pool exists.
    assert_eq!(
        decide(Tunnel::Ipip, "b", None, None),
        TunnelAction::Clear { handle: "ipip-tunnel-addr-n1".into() }
    );
    assert!(matches!(decide(Tunnel::VxlanV6, "a", None, None), TunnelAction::Clear { .. }));
    // WireGuard uses any pool for tunnels that selects the node.
    let TunnelAction::Assign { args, .. } = decide(Tunnel::Wireguard, "a", None, None) else {
        panic!("no address")
    };
    assert_eq!(args.v4.pools.len(), 2);
}

#[test]
fn a_present_address_is_kept_moved_adopted_or_left_to_others() {
    let ours = Some(("n1", "vxlanTunnelAddress"));
    assert_eq!(decide(Tunnel::Vxlan, "a", Some("10.1.0.7"), ours), TunnelAction::Keep);
    assert!(matches!(
        decide(Tunnel::Vxlan, "a", Some("10.2.0.7"), ours),
        TunnelAction::Assign { release: Some(_), .. }
    ));
    let foreign = Some(("n2", "vxlanTunnelAddress"));
    assert!(matches!(
        decide(Tunnel::Vxlan, "a", Some("10.1.0.7"), foreign),
        TunnelAction::Assign { release: None, .. }
    ));
    let TunnelAction::Adopt { address, args } = decide(Tunnel::Vxlan, "a", Some("10.1.0.7"), Some(("", "")))
    else {
        panic!("an address without handle and attributes is from an old version")
    };
    assert_eq!((address, args.address), (ip("10.1.0.7"), ip("10.1.0.7")));
    assert!(matches!(
        decide(Tunnel::Vxlan, "a", Some("10.1.0.7"), None),
        TunnelAction::Assign { release: Some(_), .. }
    ));
}

fn service(annotations: &[(&str, &str)], class: &str, address: &str) -> Service {
    let mut service = Service::default();
    service.metadata.name = "web".into();
    service.metadata.namespace = "default".into();
    service.metadata.uid = "u".into();
    service.metadata.annotations =
        annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    service.spec.r#type = "LoadBalancer".into();
    service.spec.load_balancer_class = class.into();
    service.spec.load_balancer_ip = address.into();
    service
}

#[test]
fn services_are_ours_by_class_or_by_what_they_ask_for() {
    let pools = [("projectcalico.org/ipv4pools", r#"["10.0.0.0/24"]"#)];
    for (annotations, class, address, all, requested) in [
        (&[][..], "", "", true, false),
        (&[][..], "calico", "", true, true),
        (&[][..], "other", "10.0.0.1", false, false),
        (&[][..], "", "10.0.0.1", true, true),
        (&pools[..], "", "", true, true),
    ] {
        let service = service(annotations, class, address);
        assert_eq!(is_managed(&service, AssignServices::All), all, "{class} {address}");
        assert_eq!(is_managed(&service, AssignServices::Requested), requested, "{class} {address}");
    }
    let mut cluster = service(&[], "calico", "");
    cluster.spec.r#type = "ClusterIP".into();
    assert!(!is_managed(&cluster, AssignServices::All));
}

#[test]
fn wishes_have_an_order_and_are_checked() {
    let both = [
        ("projectcalico.org/loadBalancerIPs", r#"["10.0.0.1", "fd00::1"]"#),
        ("projectcalico.org/ipv4pools", r#"["10.0.0.0/24"]"#),
    ];
    assert_eq!(
        wish(&service(&both, "", "10.0.0.9")),
        Ok(Wish::Addresses(vec![ip("10.0.0.1"), ip("fd00::1")]))
    );
    assert_eq!(wish(&service(&both[1..], "", "10.0.0.9")), Ok(Wish::Addresses(vec![ip("10.0.0.9")])));
    assert!(
        matches!(wish(&service(&both[1..], "", "")), Ok(Wish::Pools { v4, v6 }) if v4.len() == 1 && v6.is_empty())
    );
    assert_eq!(wish(&service(&[], "", "")), Ok(Wish::Automatic));
    let two = [("projectcalico.org/loadBalancerIPs", r#"["10.0.0.1", "10.0.0.2"]"#)];
    assert_eq!(wish(&service(&two, "", "")).unwrap_err().expected, "at most one address per family");
    let rubbish = [("projectcalico.org/ipv6pools", "fd00::/64")];
    assert_eq!(wish(&service(&rubbish, "", "")).unwrap_err().field, "projectcalico.org/ipv6pools");
}

/// Defect 6: an IPv4 address does not stand in for a missing IPv6 one.
#[test]
fn defect_6_each_family_of_a_service_is_counted_by_itself() {
    let both = [Family::V4, Family::V6];
    let plain = service(&[], "", "");
    let ServiceAction::Assign(args) = service_addresses(&plain, &Wish::Automatic, &both, &[ip("10.0.0.1")])
    else {
        panic!("IPv6 is missing")
    };
    assert_eq!((args.v4.count, args.v6.count), (0, 1));
    assert_eq!(args.intended_use, Some(IntendedUse::LoadBalancer));
    let held = [ip("10.0.0.1"), ip("fd00::1")];
    assert_eq!(service_addresses(&plain, &Wish::Automatic, &both, &held), ServiceAction::Nothing);
    let wanted = Wish::Addresses(vec![ip("10.0.0.9"), ip("fd00::1")]);
    assert_eq!(
        service_addresses(&plain, &wanted, &both, &held),
        ServiceAction::Release(vec![ip("10.0.0.1")])
    );
    let ServiceAction::AssignIps(args) = service_addresses(&plain, &wanted, &both, &held[1..]) else {
        panic!("one address is missing")
    };
    assert_eq!((args.len(), args[0].address), (1, ip("10.0.0.9")));
    let pools = Wish::Pools { v4: vec!["10.7.0.0/24".parse().unwrap()], v6: vec![] };
    let ServiceAction::Assign(args) = service_addresses(&plain, &pools, &both, &[]) else {
        panic!("nothing yet")
    };
    assert_eq!((args.v4.count, args.v6.count, args.v4.pools.len()), (1, 0, 1));
}
