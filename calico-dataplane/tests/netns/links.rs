use std::os::fd::AsFd;

use calico_dataplane::netlink::link::Vxlan;
use calico_dataplane::netlink::neighbour::NeighbourTable;
use calico_dataplane::netlink::{
    Address, Family, LinkChange, MacAddr, Neighbour, NewKind, NewLink, Peer, RouteProtocol, Rtnetlink, Rule,
};
use calico_dataplane::netns::NetNs;

use crate::isolation::{isolated, tool};

#[test]
fn a_veth_pair_is_complete_in_one_message() {
    isolated("links::a_veth_pair_is_complete_in_one_message", || {
        let pod = NetNs::create().unwrap();
        let mut netlink = Rtnetlink::open().unwrap();
        let mac = MacAddr([2, 0, 0, 0, 0, 9]);
        netlink
            .create_link(&NewLink {
                name: "cali0",
                kind: NewKind::Veth(Peer { name: "eth0", namespace: Some(pod.as_fd()), mac: Some(mac) }),
                mac: Some(MacAddr::HOST_SIDE),
                mtu: Some(1440),
                queues: Some(2),
                up: true,
            })
            .unwrap();
        let host = netlink.link("cali0").unwrap();
        assert_eq!(host.kind.as_deref(), Some("veth"));
        assert_eq!((host.mac, host.mtu), (Some(MacAddr::HOST_SIDE), 1440));
        assert!(host.is_up() && !host.is_running(), "the other end is down");
        assert!(host.peer_namespace.is_some());
        let mut inside = pod.run(Rtnetlink::open).unwrap().unwrap();
        let eth0 = inside.link("eth0").unwrap();
        assert_eq!((eth0.mac, eth0.mtu), (Some(mac), 1440));
        assert_eq!(host.parent, Some(eth0.index));
        inside.change_link(eth0.index, &LinkChange::Up).unwrap();
        let started = std::time::Instant::now();
        while !netlink.link("cali0").unwrap().is_running() {
            assert!(started.elapsed().as_secs() < 10, "both ends are up");
        }

        let again = netlink.create_link(&NewLink::new("cali0", NewKind::Bridge)).unwrap_err();
        assert!(again.is_present(), "{again}");
        assert!(again.to_string().starts_with("create bridge interface cali0: File exists"), "{again}");

        netlink.delete_link(host.index).unwrap();
        assert!(netlink.link("cali0").unwrap_err().is_absent());
        assert!(inside.link("eth0").unwrap_err().is_absent(), "both ends are gone");
        assert!(!netlink.delete_link_by_name("cali0").unwrap());
    });
}

#[test]
fn interfaces_change_as_told() {
    isolated("links::interfaces_change_as_told", || {
        let elsewhere = NetNs::create().unwrap();
        let mut netlink = Rtnetlink::open().unwrap();
        netlink.create_link(&NewLink::new("br0", NewKind::Bridge)).unwrap();
        let peer = Peer { name: "v1", ..Peer::default() };
        netlink.create_link(&NewLink::new("v0", NewKind::Veth(peer))).unwrap();
        let bridge = netlink.link("br0").unwrap();
        let end = netlink.link("v0").unwrap();
        for change in [
            LinkChange::Master(Some(bridge.index)),
            LinkChange::Mtu(9000),
            LinkChange::Mac(MacAddr([2, 1, 1, 1, 1, 1])),
            LinkChange::Alias("to rack 7"),
            LinkChange::Name("uplink"),
            LinkChange::Up,
        ] {
            netlink.change_link(end.index, &change).unwrap();
        }
        let changed = netlink.link_by_index(end.index).unwrap();
        assert_eq!(changed.name, "uplink");
        assert_eq!(changed.master, Some(bridge.index));
        assert_eq!(changed.mtu, 9000);
        assert_eq!(changed.mac, Some(MacAddr([2, 1, 1, 1, 1, 1])));
        assert_eq!(changed.alias.as_deref(), Some("to rack 7"));
        assert!(changed.is_up());
        netlink.change_link(end.index, &LinkChange::Master(None)).unwrap();
        netlink.change_link(end.index, &LinkChange::Down).unwrap();
        let back = netlink.link("uplink").unwrap();
        assert!(back.master.is_none() && !back.is_up());
        if let Some(text) = tool("ip", &["-d", "link", "show", "uplink"]) {
            assert!(text.contains("mtu 9000") && text.contains("alias to rack 7"), "{text}");
        }
        netlink.change_link(end.index, &LinkChange::Namespace(elsewhere.as_fd())).unwrap();
        assert!(netlink.link("uplink").unwrap_err().is_absent());
        assert!(elsewhere.run(|| Rtnetlink::open().unwrap().link("uplink").is_ok()).unwrap());
        let names: Vec<String> = netlink.links().unwrap().into_iter().map(|link| link.name).collect();
        assert!(names.contains(&"lo".to_owned()) && names.contains(&"br0".to_owned()), "{names:?}");
    });
}

#[test]
fn vxlan_devices_neighbours_and_forwarding_entries() {
    isolated("links::vxlan_devices_neighbours_and_forwarding_entries", || {
        let mut netlink = Rtnetlink::open().unwrap();
        let peer = Peer { name: "eth0p", ..Peer::default() };
        let mut parent = NewLink::new("eth0", NewKind::Veth(peer));
        parent.up = true;
        netlink.create_link(&parent).unwrap();
        let eth0 = netlink.link("eth0").unwrap().index;
        netlink.add_address(&Address::new(eth0, "172.18.0.2/24".parse().unwrap())).unwrap();
        let vxlan = Vxlan {
            vni: 4096,
            port: 4789,
            local: Some("172.18.0.2".parse().unwrap()),
            parent: Some(eth0),
            ..Vxlan::default()
        };
        let mac = MacAddr([0x66, 0xf9, 0x37, 0xc3, 0x7e, 0x94]);
        let mut new = NewLink::new("vxlan.calico", NewKind::Vxlan(vxlan));
        new.mac = Some(mac);
        new.mtu = Some(1450);
        new.up = true;
        netlink.create_link(&new).unwrap();
        let device = netlink.link("vxlan.calico").unwrap();
        assert_eq!(device.vxlan, Some(vxlan));
        assert_eq!((device.mac, device.mtu), (Some(mac), 1450));
        if let Some(text) = tool("ip", &["-d", "link", "show", "vxlan.calico"]) {
            assert!(text.contains("vxlan id 4096 local 172.18.0.2 dev eth0"), "{text}");
            assert!(text.contains("dstport 4789 nolearning"), "{text}");
        }

        let remote = MacAddr([0x66, 1, 2, 3, 4, 5]);
        let arp = Neighbour::permanent(device.index, "10.65.1.0".parse().unwrap(), remote);
        let fdb = Neighbour::forwarding(device.index, remote, "172.18.0.3".parse().unwrap());
        let results = netlink.change_neighbours([(true, &arp), (true, &fdb)]).unwrap();
        assert_eq!(results, [None, None]);
        let table = NeighbourTable::Address(Family::V4);
        assert_eq!(netlink.neighbours(table, device.index).unwrap(), [arp]);
        let entries = netlink.neighbours(NeighbourTable::Forwarding, device.index).unwrap();
        assert!(entries.contains(&fdb), "{entries:?}");
        if let Some(text) = tool("bridge", &["fdb", "show", "dev", "vxlan.calico"]) {
            assert!(text.contains("66:01:02:03:04:05 dst 172.18.0.3 self permanent"), "{text}");
        }
        assert!(netlink.delete_neighbour(&fdb).unwrap());
        assert!(!netlink.delete_neighbour(&fdb).unwrap());
        assert!(netlink.delete_neighbour(&arp).unwrap());
        assert!(netlink.neighbours(table, device.index).unwrap().is_empty());
    });
}

#[test]
fn addresses_come_and_go() {
    isolated("links::addresses_come_and_go", || {
        let mut netlink = Rtnetlink::open().unwrap();
        netlink.create_link(&NewLink::new("br0", NewKind::Bridge)).unwrap();
        let index = netlink.link("br0").unwrap().index;
        let v4 = Address::new(index, "10.0.0.1/24".parse().unwrap());
        let v6 = Address::new(index, "fd00::1/64".parse().unwrap());
        for address in [&v4, &v6, &v4] {
            netlink.add_address(address).unwrap();
        }
        let nets: Vec<_> = netlink.addresses_of(index).unwrap().iter().map(|a| a.net).collect();
        assert_eq!(nets, [v4.net, v6.net]);
        assert!(netlink.addresses().unwrap().iter().any(|a| a.net == v4.net));
        if let Some(text) = tool("ip", &["addr", "show", "br0"]) {
            assert!(text.contains("inet 10.0.0.1/24 brd 10.0.0.255 scope global br0"), "{text}");
        }
        assert!(netlink.delete_address(&v4).unwrap());
        assert!(!netlink.delete_address(&v4).unwrap());
    });
}

#[test]
fn rules_are_found_as_they_were_made() {
    isolated("links::rules_are_found_as_they_were_made", || {
        let mut netlink = Rtnetlink::open().unwrap();
        for family in [Family::V4, Family::V6] {
            let rule = Rule {
                family,
                priority: 99,
                table: 1,
                mark: 0x20_0000,
                mask: 0x20_0000,
                invert: true,
                from_interface: None,
                protocol: RouteProtocol::CALICO,
            };
            netlink.add_rule(&rule).unwrap();
            assert!(netlink.add_rule(&rule).unwrap_err().is_present());
            assert!(netlink.rules(family).unwrap().contains(&rule));
            if family == Family::V4
                && let Some(text) = tool("ip", &["rule"])
            {
                assert!(text.contains("not from all fwmark 0x200000/0x200000 lookup 1"), "{text}");
            }
            assert!(netlink.delete_rule(&rule).unwrap());
            assert!(!netlink.delete_rule(&rule).unwrap());
        }
    });
}

#[test]
fn a_kind_that_the_kernel_lacks_is_a_clear_error() {
    isolated("links::a_kind_that_the_kernel_lacks_is_a_clear_error", || {
        let mut netlink = Rtnetlink::open().unwrap();
        match netlink.create_link(&NewLink::new("wireguard.cali", NewKind::WireGuard)) {
            Ok(()) => assert_eq!(netlink.link("wireguard.cali").unwrap().kind.as_deref(), Some("wireguard")),
            Err(error) => {
                assert_eq!(error.errno(), Some(libc::EOPNOTSUPP));
                let text = error.to_string();
                assert!(text.contains("create wireguard interface wireguard.cali"), "{text}");
            }
        }
    });
}

#[test]
fn namespaces_are_pinned_by_name() {
    isolated("links::namespaces_are_pinned_by_name", || {
        // A mount namespace of our own, so that the pins vanish with the test whatever happens.
        calico_dataplane::sys::unshare::mount().unwrap();
        rustix::mount::mount_change(
            "/",
            rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC,
        )
        .unwrap();
        let directory = std::env::temp_dir().join(format!("netns-{}", std::process::id()));
        let made = NetNs::create_pinned(&directory, "node1").unwrap();
        // Two entries of one directory are two namespaces; the same name twice is an error.
        NetNs::create_pinned(&directory, "node2").unwrap();
        let taken = NetNs::create_pinned(&directory, "node1").unwrap_err();
        assert!(taken.to_string().contains("node1: create the file: File exists"), "{taken}");
        assert_eq!(NetNs::list_pinned(&directory).unwrap(), ["node1", "node2"]);
        let opened = NetNs::open(directory.join("node1")).unwrap();
        assert!(opened.is_same(&made));
        assert!(!opened.is_same(&NetNs::current().unwrap()));
        assert!(!opened.is_same(&NetNs::open(directory.join("node2")).unwrap()));
        let inside = opened.run(|| NetNs::current().unwrap().is_same(&opened)).unwrap();
        assert!(inside);
        assert!(NetNs::delete_pinned(&directory, "node1").unwrap());
        assert!(!NetNs::delete_pinned(&directory, "node1").unwrap());
        assert!(NetNs::delete_pinned(&directory, "node2").unwrap());
        std::fs::write(directory.join("leftover"), "").unwrap();
        assert!(NetNs::open(directory.join("leftover")).unwrap_err().is_absent());
        assert!(NetNs::delete_pinned(&directory, "leftover").unwrap());
        std::fs::remove_dir(directory).unwrap();
    });
}
