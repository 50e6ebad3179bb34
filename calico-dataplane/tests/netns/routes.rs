use std::os::fd::AsFd;

use calico_dataplane::netlink::{
    Address, Family, LinkChange, NewKind, NewLink, NextHop, Peer, Route, RouteChange, RouteFilter, RouteKey,
    RouteKind, RouteProtocol, Rtnetlink, Scope, route_text,
};
use calico_dataplane::netns::NetNs;
use ipnet::IpNet;

use crate::isolation::{isolated, same_lines, tool};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// `eth0` with 172.18.0.2/24 and fd18::2/64, and a workload interface.
fn node() -> (Rtnetlink, u32, u32) {
    let mut netlink = Rtnetlink::open().unwrap();
    let mut index_of = |name: &str| {
        let peer_name = format!("{name}p");
        let peer = Peer { name: &peer_name, ..Peer::default() };
        let mut new = NewLink::new(name, NewKind::Veth(peer));
        new.up = true;
        netlink.create_link(&new).unwrap();
        let other = netlink.link(&peer_name).unwrap().index;
        netlink.change_link(other, &LinkChange::Up).unwrap();
        netlink.link(name).unwrap().index
    };
    let (eth0, cali) = (index_of("eth0"), index_of("cali1"));
    netlink.add_address(&Address::new(eth0, net("172.18.0.2/24"))).unwrap();
    netlink.add_address(&Address::new(eth0, net("fd18::2/64"))).unwrap();
    (netlink, eth0, cali)
}

fn all_shapes(eth0: u32, cali: u32) -> Vec<Route> {
    let via = |gateway: &str| NextHop::via(gateway.parse().unwrap(), eth0);
    let onlink = |gateway: &str| NextHop { onlink: true, ..via(gateway) };
    let mut with_metric = Route::device(net("10.65.0.3/32"), cali, RouteProtocol::CALICO);
    with_metric.priority = 1024;
    let mut with_source = Route::via(net("10.9.0.0/16"), [via("172.18.0.9")], RouteProtocol::STATIC);
    with_source.source = Some("172.18.0.2".parse().unwrap());
    with_source.mtu = Some(1400);
    let mut elsewhere = Route::device(net("10.10.0.0/16"), eth0, RouteProtocol::CALICO);
    elsewhere.table = 1000;
    let mut throw = Route::blackhole(net("10.11.0.0/16"), RouteProtocol::CALICO);
    throw.kind = RouteKind::Throw;
    throw.table = 1000;
    let mut unreachable = Route::blackhole(net("10.12.0.0/16"), RouteProtocol::CALICO);
    unreachable.kind = RouteKind::Unreachable;
    let weighted = NextHop { weight: 3, ..via("172.18.0.4") };
    vec![
        Route::via(net("0.0.0.0/0"), [via("172.18.0.1")], RouteProtocol::BOOT),
        Route::via(net("10.244.104.0/26"), [via("172.18.0.3")], RouteProtocol::BIRD),
        Route::blackhole(net("10.244.166.128/26"), RouteProtocol::BIRD),
        Route::device(net("10.244.166.129/32"), cali, RouteProtocol::BOOT),
        with_metric,
        with_source,
        Route::via(net("10.66.0.0/26"), [onlink("192.0.2.1")], RouteProtocol::CALICO),
        Route::via(net("10.67.0.0/26"), [via("172.18.0.3"), weighted], RouteProtocol::BIRD),
        Route::via(net("10.68.0.0/26"), [onlink("192.0.2.1"), onlink("192.0.2.2")], RouteProtocol::BIRD),
        unreachable,
        elsewhere,
        throw,
        Route::via(net("fd99::/64"), [via("fd18::3")], RouteProtocol::BIRD),
        Route::via(net("fd98::/64"), [via("fd18::3"), via("fd18::4")], RouteProtocol::BIRD),
        Route::blackhole(net("fd97::/122"), RouteProtocol::BIRD),
        Route::device(net("fd97::1/128"), cali, RouteProtocol::CALICO),
        // An IPv4 block behind an IPv6 next hop.
        Route::via(net("10.69.0.0/26"), [via("fd18::3")], RouteProtocol::BIRD),
    ]
}

#[test]
fn every_shape_is_read_back_as_it_was_written() {
    isolated("routes::every_shape_is_read_back_as_it_was_written", || {
        let (mut netlink, eth0, cali) = node();
        let wanted = all_shapes(eth0, cali);
        for route in &wanted {
            netlink.add_route(route).unwrap();
            assert!(netlink.add_route(route).unwrap_err().is_present(), "{route:?}");
            netlink.replace_route(route).unwrap();
        }
        let mut found = Vec::new();
        for family in [Family::V4, Family::V6] {
            let filter = RouteFilter { table: None, ..RouteFilter::main(family) };
            found.extend(netlink.routes(&filter).unwrap());
        }
        for route in &wanted {
            let canonical = route.clone().canonical();
            assert!(found.contains(&canonical), "{canonical:#?}\nnot in {found:#?}");
        }
        let links = netlink.links().unwrap();
        for (family, option) in [(Family::V4, "-4"), (Family::V6, "-6")] {
            let routes = netlink.routes(&RouteFilter::main(family)).unwrap();
            let ours = route_text::table(&routes, &links);
            if let Some(theirs) = tool("ip", &[option, "route"]) {
                let mut ours: Vec<&str> = ours.lines().map(str::trim).collect();
                let mut theirs: Vec<&str> = theirs.lines().map(str::trim).collect();
                ours.sort_unstable();
                theirs.sort_unstable();
                // The tool shows the loopback that IPv6 hangs blackholes on, and multicast of other tables never.
                let theirs: Vec<String> = theirs.iter().map(|line| line.replace(" dev lo", "")).collect();
                assert_eq!(ours, theirs);
            }
        }
        for route in &wanted {
            let key = route.clone().canonical().key();
            assert!(netlink.delete_route(&key).unwrap(), "{key:?}");
            assert!(!netlink.delete_route(&key).unwrap(), "{key:?}");
        }
    });
}

#[test]
fn filters_are_the_kernels() {
    isolated("routes::filters_are_the_kernels", || {
        let (mut netlink, eth0, cali) = node();
        for route in all_shapes(eth0, cali) {
            netlink.add_route(&route).unwrap();
        }
        let bird = RouteFilter { protocol: Some(RouteProtocol::BIRD), ..RouteFilter::main(Family::V4) };
        let routes = netlink.routes(&bird).unwrap();
        assert_eq!(routes.len(), 5);
        assert!(routes.iter().all(|route| route.protocol == RouteProtocol::BIRD));
        let on_cali = RouteFilter { interface: Some(cali), ..RouteFilter::main(Family::V4) };
        assert_eq!(netlink.routes(&on_cali).unwrap().len(), 2);
        let nowhere = RouteFilter { table: Some(77_777), ..RouteFilter::main(Family::V4) };
        assert!(netlink.routes(&nowhere).unwrap().is_empty(), "a table that does not exist is empty");
    });
}

#[test]
fn text_is_what_ip_route_prints() {
    isolated("routes::text_is_what_ip_route_prints", || {
        let (mut netlink, eth0, cali) = node();
        let via = NextHop::via("172.18.0.3".parse().unwrap(), eth0);
        for route in [
            Route::via(
                net("0.0.0.0/0"),
                [NextHop::via("172.18.0.1".parse().unwrap(), eth0)],
                RouteProtocol::BOOT,
            ),
            Route::via(net("10.244.104.0/26"), [via], RouteProtocol::BIRD),
            Route::blackhole(net("10.244.166.128/26"), RouteProtocol::BIRD),
            Route::device(net("10.244.166.129/32"), cali, RouteProtocol::BOOT),
        ] {
            netlink.add_route(&route).unwrap();
        }
        let routes = netlink.routes(&RouteFilter::main(Family::V4)).unwrap();
        let ours = route_text::table(&routes, &netlink.links().unwrap());
        assert_eq!(
            ours,
            "default via 172.18.0.1 dev eth0\n\
             10.244.104.0/26 via 172.18.0.3 dev eth0 proto bird\n\
             blackhole 10.244.166.128/26 proto bird\n\
             10.244.166.129 dev cali1 scope link\n\
             172.18.0.0/24 dev eth0 proto kernel scope link src 172.18.0.2\n"
        );
        if let Some(theirs) = tool("ip", &["route"]) {
            assert!(same_lines(&ours, &theirs), "{ours}\n{theirs}");
        }
    });
}

#[test]
fn many_changes_go_in_few_calls_and_each_refusal_has_its_place() {
    isolated("routes::many_changes_go_in_few_calls_and_each_refusal_has_its_place", || {
        let (mut netlink, eth0, _) = node();
        let gateway = NextHop::via("172.18.0.3".parse().unwrap(), eth0);
        let unreachable = NextHop::via("192.0.2.1".parse().unwrap(), eth0);
        let routes: Vec<Route> = (0..2000_u32)
            .map(|i| {
                let dst = IpNet::new(std::net::Ipv4Addr::from(0x0a80_0000 + i * 64).into(), 26).unwrap();
                let hop = if i % 100 == 7 { unreachable } else { gateway };
                Route::via(dst, [hop], RouteProtocol::BIRD)
            })
            .collect();
        let results = netlink.change_routes(routes.iter().map(RouteChange::Replace)).unwrap();
        assert_eq!(results.len(), 2000);
        for (position, result) in results.iter().enumerate() {
            match result {
                Some(refusal) => {
                    assert_eq!(position % 100, 7);
                    assert_eq!(refusal.errno, libc::ENETUNREACH);
                    assert_eq!(refusal.message.as_deref(), Some("Nexthop has invalid gateway"));
                }
                None => assert_ne!(position % 100, 7),
            }
        }
        let bird = RouteFilter { protocol: Some(RouteProtocol::BIRD), ..RouteFilter::main(Family::V4) };
        assert_eq!(netlink.routes(&bird).unwrap().len(), 1980);
        let keys: Vec<RouteKey> = routes.iter().map(Route::key).collect();
        let results = netlink.change_routes(keys.iter().map(RouteChange::Delete)).unwrap();
        assert!(results.iter().all(Option::is_none), "deleting what is absent is fine");
        assert!(netlink.routes(&bird).unwrap().is_empty());
    });
}

#[test]
fn replacing_takes_over_the_key_whatever_was_there() {
    isolated("routes::replacing_takes_over_the_key_whatever_was_there", || {
        let (mut netlink, eth0, cali) = node();
        let block = net("10.65.0.0/26");
        let hop = NextHop::via("172.18.0.3".parse().unwrap(), eth0);
        for route in [
            Route::blackhole(block, RouteProtocol::BIRD),
            Route::via(block, [hop], RouteProtocol::CALICO),
            Route::device(block, cali, RouteProtocol::BOOT),
        ] {
            netlink.replace_route(&route).unwrap();
            let found: Vec<Route> = netlink
                .routes(&RouteFilter::main(Family::V4))
                .unwrap()
                .into_iter()
                .filter(|other| other.dst == block)
                .collect();
            assert_eq!(found, [route]);
        }
    });
}

#[test]
fn a_socket_works_for_the_namespace_it_was_opened_in() {
    isolated("routes::a_socket_works_for_the_namespace_it_was_opened_in", || {
        let other = NetNs::create().unwrap();
        let mut inside = other.run(Rtnetlink::open).unwrap().unwrap();
        inside.create_link(&NewLink::new("only-there", NewKind::Bridge)).unwrap();
        assert!(Rtnetlink::open().unwrap().link("only-there").is_err());
        assert!(other.run(|| Rtnetlink::open().unwrap().link("only-there").is_ok()).unwrap());
        assert!(other.as_fd().try_clone_to_owned().is_ok());
        assert_eq!(Scope::LINK.0, 253);
    });
}
