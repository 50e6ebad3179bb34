use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use calico_dataplane::netlink::{
    Address, Family, LinkChange, MacAddr, NewKind, NewLink, Peer, Route, RouteFilter, RouteProtocol,
    Rtnetlink,
};
use calico_dataplane::netns::NetNs;
use calico_dataplane::pod::{PodError, PodSpec, Problem, attach, check, detach};
use calico_dataplane::sysctl::Sysctl;

use crate::isolation::{isolated, tool};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn loopback_up() {
    Rtnetlink::open().unwrap().change_link(1, &LinkChange::Up).unwrap();
}

/// A TCP connection from inside `pod` to `server`, which listens in this namespace.
fn talks(pod: &NetNs, server: SocketAddr) -> bool {
    let listener = TcpListener::bind(server).unwrap();
    let to = listener.local_addr().unwrap();
    let answer = std::thread::spawn({
        let here = NetNs::current().unwrap();
        move || {
            here.enter().unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"hello").unwrap();
        }
    });
    let heard = pod
        .run(|| {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok::<_, std::io::Error>(text)
        })
        .unwrap();
    let ok = heard.as_ref().is_ok_and(|text| text == "hello");
    if ok {
        answer.join().unwrap();
    }
    ok
}

#[test]
fn a_pod_is_connected_checked_and_removed() {
    isolated("pods::a_pod_is_connected_checked_and_removed", || {
        loopback_up();
        let pod = NetNs::create().unwrap();
        let mut spec = PodSpec::new("eth0", "cali0123456789a", &[ip("10.244.1.5"), ip("fd00:244::5")]);
        spec.mtu = 1450;
        let mut netlink = Rtnetlink::open().unwrap();
        netlink.add_address(&Address::new(1, "172.18.0.2/32".parse().unwrap())).unwrap();
        netlink.add_address(&Address::new(1, "fd18::2/128".parse().unwrap())).unwrap();

        let attached = attach(&spec, &pod).unwrap();
        assert_eq!(attached.warnings, Vec::<String>::new());
        assert_eq!(attached.host_mac, MacAddr::HOST_SIDE);
        assert_eq!(check(&spec, &pod).unwrap(), []);
        let sysctl = Sysctl::new();
        for (name, value) in [
            ("net/ipv4/conf/cali0123456789a/proxy_arp", "1"),
            ("net/ipv4/conf/cali0123456789a/route_localnet", "1"),
            ("net/ipv4/conf/cali0123456789a/forwarding", "1"),
            ("net/ipv4/neigh/cali0123456789a/proxy_delay", "0"),
            ("net/ipv6/conf/cali0123456789a/proxy_ndp", "1"),
            ("net/ipv6/conf/cali0123456789a/forwarding", "1"),
            ("net/ipv6/conf/cali0123456789a/accept_ra", "0"),
        ] {
            assert_eq!(sysctl.read(name).unwrap(), value, "{name}");
        }
        let inside = pod.run(|| Sysctl::new().read("net/ipv4/ip_forward").unwrap()).unwrap();
        assert_eq!(inside, "0");
        if let Some(text) = tool("ip", &["route"]) {
            assert_eq!(text.trim_end(), "10.244.1.5 dev cali0123456789a scope link");
        }
        if let Some(text) = pod.run(|| tool("ip", &["route"])).unwrap() {
            assert_eq!(
                text.lines().map(str::trim_end).collect::<Vec<_>>(),
                ["default via 169.254.1.1 dev eth0", "169.254.1.1 dev eth0 scope link"]
            );
        }
        assert!(talks(&pod, "172.18.0.2:0".parse().unwrap()), "over IPv4 by proxy ARP");
        assert!(talks(&pod, "[fd18::2]:0".parse().unwrap()), "over IPv6 by the link-local gateway");

        assert!(detach(&spec.host_interface, "eth0", Some(&pod)).unwrap());
        assert!(!detach(&spec.host_interface, "eth0", Some(&pod)).unwrap());
        assert!(!detach(&spec.host_interface, "eth0", None).unwrap());
        let problems = check(&spec, &pod).unwrap();
        assert_eq!(
            problems,
            [
                Problem::NoInterface { side: "host", name: "cali0123456789a".to_owned() },
                Problem::NoInterface { side: "pod", name: "eth0".to_owned() },
            ]
        );
    });
}

#[test]
fn attaching_twice_replaces_the_first() {
    isolated("pods::attaching_twice_replaces_the_first", || {
        let pod = NetNs::create().unwrap();
        let spec = PodSpec::new("eth0", "cali1", &[ip("10.244.1.5")]);
        let first = attach(&spec, &pod).unwrap();
        let second = attach(&spec, &pod).unwrap();
        assert_ne!(first.host_index, second.host_index);
        assert_eq!(check(&spec, &pod).unwrap(), []);
    });
}

#[test]
fn a_chosen_mac_and_forwarding_reach_the_pod() {
    isolated("pods::a_chosen_mac_and_forwarding_reach_the_pod", || {
        let pod = NetNs::create().unwrap();
        let mut spec = PodSpec::new("eth0", "cali1", &[ip("10.244.1.5")]);
        spec.mac = Some("02:00:5e:10:00:01".parse().unwrap());
        spec.allow_ip_forwarding = true;
        let attached = attach(&spec, &pod).unwrap();
        assert_eq!(Some(attached.container_mac), spec.mac);
        let forward = pod.run(|| Sysctl::new().read("net/ipv4/ip_forward").unwrap()).unwrap();
        assert_eq!(forward, "1");
    });
}

#[test]
fn what_fails_leaves_nothing_behind() {
    isolated("pods::what_fails_leaves_nothing_behind", || {
        let mut netlink = Rtnetlink::open().unwrap();
        let nothing_left = |netlink: &mut Rtnetlink| {
            let names: Vec<String> = netlink.links().unwrap().into_iter().map(|l| l.name).collect();
            assert!(!names.contains(&"cali1".to_owned()), "{names:?}");
        };
        // The name inside is taken: the kernel refuses the pair as a whole.
        let pod = NetNs::create().unwrap();
        pod.run(|| {
            let mut inside = Rtnetlink::open().unwrap();
            inside.create_link(&NewLink::new("eth0", NewKind::Bridge)).unwrap();
        })
        .unwrap();
        let spec = PodSpec::new("eth0", "cali1", &[ip("10.244.1.5")]);
        let error = attach(&spec, &pod).unwrap_err();
        assert!(error.to_string().contains("cali1: File exists"), "{error}");
        nothing_left(&mut netlink);
        // Another interface has the address: found at the last step, all is undone.
        let pod = NetNs::create().unwrap();
        let mut other = NewLink::new("other", NewKind::Veth(Peer { name: "otherp", ..Peer::default() }));
        other.up = true;
        netlink.create_link(&other).unwrap();
        let index = netlink.link("other").unwrap().index;
        let taken = Route::device("10.244.1.5/32".parse().unwrap(), index, RouteProtocol::BOOT);
        netlink.add_route(&taken).unwrap();
        let error = attach(&spec, &pod).unwrap_err();
        let PodError::RouteConflict { interface, wanted, .. } = &error else { panic!("{error}") };
        assert_eq!((interface.as_str(), wanted.as_str()), ("other", "cali1"));
        nothing_left(&mut netlink);
        assert!(pod.run(|| Rtnetlink::open().unwrap().link("eth0").is_err()).unwrap());
        assert_eq!(netlink.routes(&RouteFilter::main(Family::V4)).unwrap(), [taken]);
    });
}

#[test]
fn check_names_each_difference() {
    isolated("pods::check_names_each_difference", || {
        let pod = NetNs::create().unwrap();
        let spec = PodSpec::new("eth0", "cali1", &[ip("10.244.1.5")]);
        let attached = attach(&spec, &pod).unwrap();
        let mut netlink = Rtnetlink::open().unwrap();
        let mut inside = pod.run(Rtnetlink::open).unwrap().unwrap();
        let address = Address::new(attached.container_index, "10.244.1.5/32".parse().unwrap());
        inside.delete_address(&address).unwrap();
        let found = MacAddr([2, 0, 0, 0, 0, 1]);
        netlink.change_link(attached.host_index, &LinkChange::Mac(found)).unwrap();
        netlink.change_link(attached.host_index, &LinkChange::Down).unwrap();
        let problems: Vec<String> = check(&spec, &pod).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "host interface cali1 is down",
                "host interface cali1 has the Ethernet address 02:00:00:00:00:01 instead of ee:ee:ee:ee:ee:ee",
                "host: no route to 10.244.1.5/32 through cali1",
                "pod interface eth0 lacks the address 10.244.1.5/32",
                // The kernel flushes the routes of an interface that lost its last address.
                "pod: no route to 169.254.1.1/32 through eth0",
                "pod: no route to 0.0.0.0/0 through eth0",
            ]
        );
    });
}

#[test]
fn detaching_never_takes_a_foreign_interface() {
    isolated("pods::detaching_never_takes_a_foreign_interface", || {
        let pod = NetNs::create().unwrap();
        pod.run(|| Rtnetlink::open().unwrap().create_link(&NewLink::new("eth0", NewKind::Bridge)))
            .unwrap()
            .unwrap();
        assert!(!detach("cali1", "eth0", Some(&pod)).unwrap());
        assert!(pod.run(|| Rtnetlink::open().unwrap().link("eth0").is_ok()).unwrap());
    });
}
