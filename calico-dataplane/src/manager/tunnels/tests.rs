use std::time::Instant;

use super::*;
use crate::manager::routes::Gates;
use crate::netlink::{Address, route_text};

const UP: u32 = 0x43;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn interfaces() -> Interfaces {
    let link =
        |index, name: &str| Link { index, name: name.to_owned(), flags: UP, mtu: 1500, ..Link::default() };
    let mut interfaces = Interfaces::new(["cali"]);
    interfaces.refresh(
        vec![link(2, "eth0"), link(5, IPIP), link(6, VXLAN)],
        vec![
            Address::new(2, net("172.18.0.2/24")),
            // The tunnel device must not pass for the underlay.
            Address::new(5, net("172.18.0.2/32")),
        ],
    );
    interfaces
}

fn pool(cidr: &str, ipip: EncapMode, vxlan: EncapMode) -> Pool {
    Pool { cidr: net(cidr), nat_outgoing: false, load_balancer_only: false, ipip, vxlan }
}

fn route(dst: &str, kind: Reach, node: &str, node_ip: &str, tunnel: Tunnel) -> PolicyRoute {
    PolicyRoute {
        dst: net(dst),
        kind,
        node: Some(node.into()),
        node_ip: Some(ip(node_ip)),
        same_subnet: false,
        tunnel,
        nat_outgoing: false,
        borrowed: false,
    }
}

fn hosts() -> Vec<calico_policy::changes::HostMetadata> {
    [("a", "172.18.0.2"), ("b", "172.18.0.3"), ("c", "172.19.0.4")]
        .map(|(name, address)| calico_policy::changes::HostMetadata {
            name: name.into(),
            ipv4: Some(ip(address)),
            ipv6: None,
            as_number: None,
        })
        .into()
}

/// The routes that a manager asks for, as `ip route` would show them.
fn shown(manager: &mut TunnelManager) -> String {
    let interfaces = interfaces();
    let mut routes = RouteManager::new();
    let connected = crate::netlink::Route::device(net("172.18.0.0/24"), 2, RouteProtocol::KERNEL);
    let now = Instant::now();
    routes.observed(connected, &interfaces, now);
    manager.settle(&interfaces, &mut routes);
    routes.settle(&interfaces);
    let gates = Gates { in_sync: true, bgp_converged: true, policy: true };
    let wanted: Vec<_> =
        routes.pending(gates, &interfaces, now).into_iter().filter_map(|work| work.route).collect();
    let links: Vec<Link> = interfaces.links().cloned().collect();
    route_text::table(&wanted, &links)
}

fn ipip_cluster(mode: EncapMode) -> Changes {
    let mut near = route("10.65.1.0/26", Reach::RemoteWorkload, "b", "172.18.0.3", Tunnel::IpIp);
    if mode == EncapMode::CrossSubnet {
        near.same_subnet = true;
        near.tunnel = Tunnel::None;
    }
    Changes {
        pools: vec![pool("10.65.0.0/16", mode, EncapMode::Never)],
        hosts: hosts(),
        encapsulation: Some(Encapsulation { ipip: true, ..Encapsulation::default() }),
        routes: vec![
            route("10.65.0.0/26", Reach::LocalWorkload, "a", "172.18.0.2", Tunnel::None),
            route("10.65.0.7/32", Reach::LocalWorkload, "a", "172.18.0.2", Tunnel::None),
            route("10.65.0.1/32", Reach::LocalTunnel, "a", "172.18.0.2", Tunnel::None),
            near,
            route("10.65.2.0/26", Reach::RemoteWorkload, "c", "172.19.0.4", Tunnel::IpIp),
        ],
        ..Changes::default()
    }
}

#[test]
fn ipip_goes_through_the_tunnel_device_to_the_nodes_address() {
    let mut manager = TunnelManager::new(TunnelConfig::new("a"));
    manager.changes(&ipip_cluster(EncapMode::Always));
    assert_eq!(
        shown(&mut manager),
        "blackhole 10.65.0.0/26 proto 80\n\
         10.65.1.0/26 via 172.18.0.3 dev tunl0 proto 80 onlink mtu 1480\n\
         10.65.2.0/26 via 172.19.0.4 dev tunl0 proto 80 onlink mtu 1480\n"
    );
    let device = DeviceSpec {
        name: IPIP,
        kind: DeviceKind::IpIp,
        mac: None,
        mtu: 1480,
        address: Some(ip("10.65.0.1")),
    };
    assert_eq!(manager.devices(&interfaces()), [device]);
}

#[test]
fn across_subnets_only_the_far_node_is_tunnelled() {
    let mut manager = TunnelManager::new(TunnelConfig::new("a"));
    manager.changes(&ipip_cluster(EncapMode::CrossSubnet));
    assert_eq!(
        shown(&mut manager),
        "blackhole 10.65.0.0/26 proto 80\n\
         10.65.1.0/26 via 172.18.0.3 dev eth0 proto 80\n\
         10.65.2.0/26 via 172.19.0.4 dev tunl0 proto 80 onlink mtu 1480\n"
    );
}

#[test]
fn who_does_not_own_a_class_programs_none_of_it() {
    let config = TunnelConfig { program_ipip: false, ..TunnelConfig::new("a") };
    let mut manager = TunnelManager::new(config);
    manager.changes(&ipip_cluster(EncapMode::Always));
    assert_eq!(shown(&mut manager), "");
    let mut plain = ipip_cluster(EncapMode::Never);
    plain.pools = vec![pool("10.65.0.0/16", EncapMode::Never, EncapMode::Never)];
    for each in &mut plain.routes {
        each.tunnel = Tunnel::None;
    }
    let mut manager = TunnelManager::new(TunnelConfig::new("a"));
    manager.changes(&plain);
    assert_eq!(shown(&mut manager), "", "BGP's by default");
    let config = TunnelConfig { program_no_encap: true, ..TunnelConfig::new("a") };
    let mut manager = TunnelManager::new(config);
    manager.changes(&plain);
    assert_eq!(
        shown(&mut manager),
        "blackhole 10.65.0.0/26 proto 80\n\
         10.65.1.0/26 via 172.18.0.3 dev eth0 proto 80\n\
         10.65.2.0/26 via 172.19.0.4 dev eth0 proto 80 onlink\n"
    );
}

#[test]
fn vxlan_neighbours_follow_their_endpoints() {
    let vtep = |node: &str, byte, addr, parent| Vtep {
        node: node.into(),
        mac: [0x66, 0, 0, 0, 0, byte],
        addr: ip(addr),
        parent: ip(parent),
    };
    let mut borrowed = route("10.65.9.1/32", Reach::RemoteTunnel, "c", "172.19.0.4", Tunnel::Vxlan);
    borrowed.borrowed = true;
    let mut manager = TunnelManager::new(TunnelConfig::new("a"));
    manager.changes(&Changes {
        pools: vec![pool("10.65.0.0/16", EncapMode::Never, EncapMode::Always)],
        hosts: hosts(),
        encapsulation: Some(Encapsulation { vxlan: true, ..Encapsulation::default() }),
        vteps: vec![
            vtep("a", 1, "10.65.0.1", "172.18.0.2"),
            vtep("b", 2, "10.65.1.1", "172.18.0.3"),
            vtep("c", 3, "10.65.9.1", "172.19.0.4"),
        ],
        routes: vec![
            route("10.65.1.0/26", Reach::RemoteWorkload, "b", "172.18.0.3", Tunnel::Vxlan),
            borrowed,
        ],
        ..Changes::default()
    });
    assert_eq!(
        shown(&mut manager),
        "10.65.1.0/26 via 10.65.1.1 dev vxlan.calico onlink mtu 1450\n\
         10.65.9.1 dev vxlan.calico scope link mtu 1450\n"
    );
    let now = Instant::now();
    let mac = |byte| MacAddr([0x66, 0, 0, 0, 0, byte]);
    let work = manager.pending(now);
    assert_eq!(
        work,
        [
            (true, Neighbour::permanent(6, ip("10.65.1.1"), mac(2))),
            (true, Neighbour::permanent(6, ip("10.65.9.1"), mac(3))),
            (true, Neighbour::forwarding(6, mac(2), ip("172.18.0.3"))),
            (true, Neighbour::forwarding(6, mac(3), ip("172.19.0.4"))),
        ]
    );
    for (_, entry) in &work {
        manager.finished(entry, true, now);
    }
    // The node comes back with another underlay address: the entry moves, then the old one of a gone node goes.
    manager.changes(&Changes {
        removed_vteps: vec!["c".into()],
        vteps: vec![vtep("b", 2, "10.65.1.1", "172.18.0.9")],
        ..Changes::default()
    });
    assert_eq!(shown(&mut manager), "10.65.1.0/26 via 10.65.1.1 dev vxlan.calico onlink mtu 1450\n");
    assert_eq!(
        manager.pending(now),
        [
            (true, Neighbour::forwarding(6, mac(2), ip("172.18.0.9"))),
            (false, Neighbour::permanent(6, ip("10.65.9.1"), mac(3))),
            (false, Neighbour::forwarding(6, mac(3), ip("172.19.0.4"))),
        ]
    );
    assert_eq!(manager.unsettled(), 3);
}

#[test]
fn nothing_is_removed_before_the_graph_said_which_encapsulations_there_are() {
    let manager = TunnelManager::new(TunnelConfig::new("a"));
    let interfaces = interfaces();
    assert!(manager.devices(&interfaces).is_empty());
    assert!(manager.unwanted_devices(&interfaces).is_empty());
}
