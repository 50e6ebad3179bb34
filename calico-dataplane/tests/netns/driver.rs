use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use calico_dataplane::driver::{
    ApplyReport, Driver, DriverConfig, FibRoute, FibUpdate, Input, InterfaceState, NoPolicy, PolicyDataplane,
    spawn,
};
use calico_dataplane::manager::EndpointStatus;
use calico_dataplane::manager::routes::RouteStanding;
use calico_dataplane::netlink::{
    Address, Event, Family, Group, LinkChange, Monitor, NewKind, NewLink, NextHop, Peer, Route, RouteFilter,
    RouteProtocol, Rtnetlink, route_text,
};
use calico_dataplane::netns::NetNs;
use calico_dataplane::pod::{Attached, PodSpec, attach};
use calico_policy::Changes;
use calico_policy::changes::{WorkloadEndpoint, WorkloadEndpointId};
use ipnet::IpNet;

use crate::isolation::isolated;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn id(name: &str) -> WorkloadEndpointId {
    WorkloadEndpointId {
        orchestrator: "k8s".into(),
        workload: format!("default/{name}").into(),
        endpoint: "eth0".into(),
    }
}

fn endpoint(name: &str, interface: &str, address: &str, mac: Option<[u8; 6]>) -> Changes {
    let endpoint = WorkloadEndpoint {
        id: id(name),
        interface: interface.into(),
        active: true,
        mac,
        nets: vec![net(address)],
        nat: Vec::new(),
        allowed_source_prefixes: Vec::new(),
        tiers: Arc::from([]),
        profiles: Arc::from([]),
        qos: Default::default(),
    };
    Changes { workload_endpoints: vec![Arc::new(endpoint)], ..Changes::default() }
}

/// `eth0` with 172.18.0.2/24, its other end up as well.
fn node() -> Rtnetlink {
    let mut netlink = Rtnetlink::open().unwrap();
    let peer = Peer { name: "eth0p", ..Peer::default() };
    let mut new = NewLink::new("eth0", NewKind::Veth(peer));
    new.up = true;
    netlink.create_link(&new).unwrap();
    for name in ["lo", "eth0p"] {
        let index = netlink.link(name).unwrap().index;
        netlink.change_link(index, &LinkChange::Up).unwrap();
    }
    let eth0 = netlink.link("eth0").unwrap().index;
    netlink.add_address(&Address::new(eth0, net("172.18.0.2/24"))).unwrap();
    netlink
}

fn pod(interface: &str, address: &str) -> (NetNs, Attached) {
    let pod = NetNs::create().unwrap();
    let attached = attach(&PodSpec::new("eth0", interface, &[ip(address)]), &pod).unwrap();
    (pod, attached)
}

/// Waits until the kernel has told everybody that both ends of the pair are up.
fn running(netlink: &mut Rtnetlink, name: &str) {
    let started = Instant::now();
    while !netlink.link(name).unwrap().is_running() {
        assert!(started.elapsed() < Duration::from_secs(10), "{name}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn driver() -> Driver<NoPolicy> {
    Driver::open(DriverConfig::default(), NoPolicy, Instant::now()).unwrap()
}

fn via(prefix: &str, next_hop: &str) -> FibUpdate {
    FibUpdate { prefix: net(prefix), route: Some(FibRoute::via(ip(next_hop))) }
}

fn blackhole(prefix: &str) -> FibUpdate {
    FibUpdate { prefix: net(prefix), route: Some(FibRoute::Blackhole) }
}

fn shown(netlink: &mut Rtnetlink) -> String {
    let routes = netlink.routes(&RouteFilter::main(Family::V4)).unwrap();
    let links = netlink.links().unwrap();
    let text = route_text::table(&routes, &links);
    // The connected network is in every table and not the subject.
    text.lines().filter(|line| !line.contains("proto kernel")).map(|line| format!("{line}\n")).collect()
}

/// Applies until nothing more happens.
fn settle<P: PolicyDataplane>(driver: &mut Driver<P>) {
    for _ in 0..20 {
        if driver.apply(Instant::now()).messages == 0 {
            return;
        }
    }
    panic!("the driver never rests: {:#?}", driver.health());
}

/// Applies until the endpoint has this status: the kernel tells of carriers a moment later.
fn becomes<P: PolicyDataplane>(driver: &mut Driver<P>, name: &str, status: Option<EndpointStatus>) {
    let started = Instant::now();
    loop {
        settle(driver);
        let is = driver.endpoints().status_of(&id(name));
        if is == status.as_ref() {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{is:?} instead of {status:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_node_has_the_routes_that_operators_know() {
    isolated("driver::a_node_has_the_routes_that_operators_know", || {
        let mut netlink = node();
        let (_pod, attached) = pod("cali0123456789a", "10.244.166.129");
        let mut driver = driver();
        driver.changes(endpoint("a", "cali0123456789a", "10.244.166.129/32", Some(attached.container_mac.0)));
        driver.fib(via("10.244.104.0/26", "172.18.0.3"));
        driver.fib(blackhole("10.244.166.128/26"));
        driver.apply(Instant::now());
        assert_eq!(shown(&mut netlink), "10.244.166.129 dev cali0123456789a scope link\n", "not in sync");
        driver.in_sync();
        becomes(&mut driver, "a", Some(EndpointStatus::Up));
        assert_eq!(
            shown(&mut netlink),
            "10.244.104.0/26 via 172.18.0.3 dev eth0 proto bird\n\
             blackhole 10.244.166.128/26 proto bird\n\
             10.244.166.129 dev cali0123456789a scope link\n"
        );
        let table = calico_dataplane::netlink::neighbour::NeighbourTable::Address(Family::V4);
        let neighbours = netlink.neighbours(table, attached.host_index).unwrap();
        assert!(neighbours.iter().any(|n| n.permanent && n.mac == Some(attached.container_mac)));
        assert!(driver.health().ready && driver.health().troubles.is_empty(), "{:#?}", driver.health());

        driver.fib(FibUpdate { prefix: net("10.244.104.0/26"), route: None });
        driver.bgp_converged();
        let removed = vec![id("a")];
        driver.changes(Changes { removed_workload_endpoints: removed, ..Changes::default() });
        settle(&mut driver);
        assert_eq!(shown(&mut netlink), "blackhole 10.244.166.128/26 proto bird\n");
        assert_eq!(driver.endpoints().status_of(&id("a")), None);
    });
}

#[test]
fn a_restarted_driver_adopts_what_is_there_and_changes_only_differences() {
    isolated("driver::a_restarted_driver_adopts_what_is_there_and_changes_only_differences", || {
        let mut netlink = node();
        let (_pod, _) = pod("cali1", "10.244.166.129");
        let start = |driver: &mut Driver<NoPolicy>| {
            driver.changes(endpoint("a", "cali1", "10.244.166.129/32", None));
            driver.fib(blackhole("10.244.166.128/26"));
        };
        let mut first = driver();
        start(&mut first);
        first.fib(via("10.244.104.0/26", "172.18.0.3"));
        first.fib(via("10.244.105.0/26", "172.18.0.4"));
        first.in_sync();
        becomes(&mut first, "a", Some(EndpointStatus::Up));
        let before = shown(&mut netlink);
        assert_eq!(before.lines().count(), 4);
        drop(first);

        let mut monitor = Monitor::open(&[Group::Routes]).unwrap();
        let mut second = driver();
        settle(&mut second);
        assert_eq!(shown(&mut netlink), before, "nothing before in-sync");
        start(&mut second);
        second.in_sync();
        becomes(&mut second, "a", Some(EndpointStatus::Up));
        assert_eq!(shown(&mut netlink), before, "BGP routes wait for BGP");
        // One route has moved meanwhile, one is gone.
        second.fib(via("10.244.104.0/26", "172.18.0.9"));
        second.bgp_converged();
        settle(&mut second);
        let events = monitor.poll().unwrap();
        let touched: Vec<String> = events
            .iter()
            .filter_map(|event| match event {
                Event::Route(route) => Some(format!("+{}", route.dst)),
                Event::RouteGone(route) => Some(format!("-{}", route.dst)),
                _ => None,
            })
            // The kernel's own IPv6 routes come a moment after their interface.
            .filter(|text| text.contains("10.244."))
            .collect();
        assert_eq!(touched, ["+10.244.104.0/26", "-10.244.105.0/26"]);
    });
}

#[test]
fn what_others_do_to_our_routes_is_undone_and_what_is_theirs_is_left_alone() {
    isolated("driver::what_others_do_to_our_routes_is_undone_and_what_is_theirs_is_left_alone", || {
        let mut netlink = node();
        let eth0 = netlink.link("eth0").unwrap().index;
        let theirs =
            Route::via(net("10.50.0.0/16"), [NextHop::via(ip("172.18.0.1"), eth0)], RouteProtocol::STATIC);
        netlink.add_route(&theirs).unwrap();
        let mut driver = driver();
        driver.fib(via("10.244.104.0/26", "172.18.0.3"));
        driver.fib(via("10.50.0.0/16", "172.18.0.3"));
        driver.in_sync();
        driver.bgp_converged();
        settle(&mut driver);
        let ours = "10.244.104.0/26 via 172.18.0.3 dev eth0 proto bird\n";
        assert_eq!(shown(&mut netlink), format!("10.50.0.0/16 via 172.18.0.1 dev eth0 proto static\n{ours}"));
        let troubles = driver.health().troubles;
        assert_eq!(troubles, [(net("10.50.0.0/16"), RouteStanding::Taken(theirs.clone()))]);

        let key = Route::blackhole(net("10.244.104.0/26"), RouteProtocol::BIRD).key();
        netlink.delete_route(&key).unwrap();
        settle(&mut driver);
        assert!(shown(&mut netlink).contains(ours), "deleted, and back");
        let twisted = Route::via(key.dst, [NextHop::via(ip("172.18.0.77"), eth0)], RouteProtocol::BIRD);
        netlink.replace_route(&twisted).unwrap();
        let stranger = Route::blackhole(net("10.60.0.0/16"), RouteProtocol::BIRD);
        netlink.add_route(&stranger).unwrap();
        settle(&mut driver);
        assert!(shown(&mut netlink).contains(ours), "bent, and straight again");
        assert!(!shown(&mut netlink).contains("10.60.0.0"), "nobody wants a route marked as ours");
        netlink.delete_route(&theirs.key()).unwrap();
        settle(&mut driver);
        assert!(shown(&mut netlink).contains("10.50.0.0/16 via 172.18.0.3 dev eth0 proto bird"), "free now");
    });
}

#[test]
fn next_hops_are_found_directly_through_a_router_or_later() {
    isolated("driver::next_hops_are_found_directly_through_a_router_or_later", || {
        let mut netlink = node();
        let eth0 = netlink.link("eth0").unwrap().index;
        let mut driver = driver();
        driver.in_sync();
        driver.fib(via("10.1.0.0/16", "192.168.7.7"));
        settle(&mut driver);
        assert_eq!(shown(&mut netlink), "");
        assert_eq!(driver.routes().standing(net("10.1.0.0/16")), RouteStanding::Unresolved);
        let default =
            Route::via(net("0.0.0.0/0"), [NextHop::via(ip("172.18.0.1"), eth0)], RouteProtocol::BOOT);
        netlink.add_route(&default).unwrap();
        settle(&mut driver);
        assert!(shown(&mut netlink).contains("10.1.0.0/16 via 172.18.0.1 dev eth0 proto bird"));
        // Its own network appears: now it is a neighbour.
        netlink.add_address(&Address::new(eth0, net("192.168.7.1/24"))).unwrap();
        settle(&mut driver);
        assert!(shown(&mut netlink).contains("10.1.0.0/16 via 192.168.7.7 dev eth0 proto bird"));
        // A named interface whose network does not cover the gateway: on-link.
        let hop = calico_dataplane::manager::Hop {
            gateway: ip("203.0.113.9"),
            interface: Some("eth0".into()),
            weight: 1,
        };
        let route = Some(FibRoute::Via([hop].into_iter().collect()));
        driver.fib(FibUpdate { prefix: net("10.2.0.0/16"), route });
        settle(&mut driver);
        assert!(shown(&mut netlink).contains("10.2.0.0/16 via 203.0.113.9 dev eth0 proto bird onlink"));
    });
}

#[test]
fn routes_come_back_after_an_interface_was_down() {
    isolated("driver::routes_come_back_after_an_interface_was_down", || {
        let mut netlink = node();
        let (_pod, attached) = pod("cali1", "10.244.166.129");
        let mut driver = driver();
        driver.changes(endpoint("a", "cali1", "10.244.166.129/32", None));
        driver.fib(via("10.244.104.0/26", "172.18.0.3"));
        driver.in_sync();
        becomes(&mut driver, "a", Some(EndpointStatus::Up));
        let before = shown(&mut netlink);
        let eth0 = netlink.link("eth0").unwrap().index;
        for index in [eth0, attached.host_index] {
            netlink.change_link(index, &LinkChange::Down).unwrap();
        }
        let down = EndpointStatus::Down("interface cali1 is down".to_owned());
        becomes(&mut driver, "a", Some(down));
        assert_eq!(shown(&mut netlink), "");
        for index in [eth0, attached.host_index] {
            netlink.change_link(index, &LinkChange::Up).unwrap();
        }
        becomes(&mut driver, "a", Some(EndpointStatus::Up));
        assert_eq!(shown(&mut netlink), before);
    });
}

#[test]
fn a_pod_that_is_made_anew_is_configured_anew() {
    isolated("driver::a_pod_that_is_made_anew_is_configured_anew", || {
        let mut netlink = node();
        let mut driver = driver();
        driver.changes(endpoint("a", "cali1", "10.244.166.129/32", None));
        driver.in_sync();
        let absent = EndpointStatus::Down("interface cali1 does not exist".to_owned());
        becomes(&mut driver, "a", Some(absent.clone()));
        for _ in 0..2 {
            // Without the CNI plugin: a bare pair, as another program would make it.
            let peer = Peer { name: "tap", ..Peer::default() };
            let mut new = NewLink::new("cali1", NewKind::Veth(peer));
            new.up = true;
            netlink.create_link(&new).unwrap();
            let tap = netlink.link("tap").unwrap().index;
            netlink.change_link(tap, &LinkChange::Up).unwrap();
            becomes(&mut driver, "a", Some(EndpointStatus::Up));
            let proxy = std::fs::read_to_string("/proc/sys/net/ipv4/conf/cali1/proxy_arp").unwrap();
            assert_eq!(proxy, "1\n");
            assert_eq!(shown(&mut netlink), "10.244.166.129 dev cali1 scope link\n");
            netlink.delete_link_by_name("cali1").unwrap();
            becomes(&mut driver, "a", Some(absent.clone()));
        }
    });
}

/// Fails as told and remembers what it saw.
#[derive(Clone, Default)]
struct Moody {
    state: Arc<Mutex<MoodyState>>,
}

#[derive(Default)]
struct MoodyState {
    broken: bool,
    refused: BTreeMap<WorkloadEndpointId, String>,
    interfaces: InterfaceState,
    resyncs: usize,
}

impl Moody {
    fn answer(&self) -> Result<ApplyReport, std::io::Error> {
        let state = self.state.lock().unwrap();
        if state.broken {
            return Err(std::io::Error::other("no space left for rules"));
        }
        Ok(ApplyReport { failed_endpoints: state.refused.clone(), ..ApplyReport::default() })
    }
}

impl PolicyDataplane for Moody {
    type Error = std::io::Error;

    fn apply(&mut self, _: &Changes, interfaces: &InterfaceState) -> Result<ApplyReport, Self::Error> {
        self.state.lock().unwrap().interfaces = interfaces.clone();
        self.answer()
    }

    fn resync(&mut self) -> Result<ApplyReport, Self::Error> {
        self.state.lock().unwrap().resyncs += 1;
        self.answer()
    }
}

#[test]
fn no_pod_is_reachable_before_policy_is_in_force() {
    isolated("driver::no_pod_is_reachable_before_policy_is_in_force", || {
        let mut netlink = node();
        let (_pod, attached) = pod("cali1", "10.244.166.129");
        running(&mut netlink, "cali1");
        // The agent makes the route, not the plugin.
        let key = Route::device(net("10.244.166.129/32"), attached.host_index, RouteProtocol::BOOT).key();
        netlink.delete_route(&key).unwrap();
        let policy = Moody::default();
        policy.state.lock().unwrap().broken = true;
        let mut driver = Driver::open(DriverConfig::default(), policy.clone(), Instant::now()).unwrap();
        driver.changes(endpoint("a", "cali1", "10.244.166.129/32", None));
        driver.in_sync();
        let progress = driver.apply(Instant::now());
        assert_eq!(shown(&mut netlink), "");
        let wait = progress.next.unwrap().saturating_duration_since(Instant::now());
        assert!(wait <= Duration::from_millis(60), "tries again soon: {wait:?}");
        let expected = EndpointStatus::Error("policy: no space left for rules".to_owned());
        assert_eq!(progress.statuses, [(id("a"), Some(expected))]);
        assert!(!driver.health().ready);

        policy.state.lock().unwrap().broken = false;
        let later = Instant::now() + Duration::from_secs(1);
        let progress = driver.apply(later);
        assert_eq!(progress.statuses, [(id("a"), Some(EndpointStatus::Up))]);
        assert_eq!(shown(&mut netlink), "10.244.166.129 dev cali1 scope link\n");
        assert_eq!(policy.state.lock().unwrap().resyncs, 1);

        policy.state.lock().unwrap().refused.insert(id("a"), "set is full".to_owned());
        driver.changes(Changes::default());
        let progress = driver.apply(later);
        let refused = EndpointStatus::Error("policy: set is full".to_owned());
        assert_eq!(progress.statuses, [(id("a"), Some(refused))]);
        let seen = policy.state.lock().unwrap().interfaces.clone();
        assert_eq!(seen.interfaces["eth0"].addresses.first(), Some(&ip("172.18.0.2")));
        assert!(seen.interfaces["cali1"].up);
    });
}

#[test]
fn a_stray_route_on_a_workload_interface_has_its_grace() {
    isolated("driver::a_stray_route_on_a_workload_interface_has_its_grace", || {
        let mut netlink = node();
        let (_pod, _) = pod("cali1", "10.244.166.129");
        let mut driver = driver();
        driver.in_sync();
        let now = Instant::now();
        driver.apply(now);
        assert_eq!(shown(&mut netlink), "10.244.166.129 dev cali1 scope link\n", "the plugin was first");
        driver.apply(now + Duration::from_secs(11));
        assert_eq!(shown(&mut netlink), "", "but no endpoint came");
    });
}

#[test]
fn a_driver_on_its_own_thread_reports_and_follows() {
    isolated("driver::a_driver_on_its_own_thread_reports_and_follows", || {
        let mut netlink = node();
        let (_pod, _) = pod("cali1", "10.244.166.129");
        let outputs = Arc::new(Mutex::new(Vec::new()));
        let handle = spawn(DriverConfig::default(), || Ok::<_, std::io::Error>(NoPolicy), {
            let outputs = outputs.clone();
            move |output| outputs.lock().unwrap().push(format!("{output:?}"))
        })
        .unwrap();
        let board = handle.statuses();
        assert!(handle.send(Input::Changes(Box::new(endpoint("a", "cali1", "10.244.166.129/32", None)))));
        assert!(handle.send(Input::Fib(vec![via("10.244.104.0/26", "172.18.0.3")])));
        assert!(handle.send(Input::InSync));
        let status = board.wait_until_up(&id("a"), Duration::from_secs(10));
        assert_eq!(status, Some(EndpointStatus::Up));
        let health = handle.health(Duration::from_secs(10)).unwrap();
        assert!(health.ready && health.routes == 2, "{health:#?}");
        // The thread hears of changes in the kernel without being told.
        let key = Route::blackhole(net("10.244.104.0/26"), RouteProtocol::BIRD).key();
        netlink.delete_route(&key).unwrap();
        let started = Instant::now();
        while !shown(&mut netlink).contains("10.244.104.0/26") {
            assert!(started.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(handle.is_alive());
        drop(handle);
        assert!(shown(&mut netlink).contains("10.244.104.0/26"), "the kernel stays as it is");
        assert!(outputs.lock().unwrap().iter().any(|text| text == "Ready"));
    });
}

#[test]
fn no_packet_is_lost_while_the_driver_dies_and_comes_back() {
    isolated("driver::no_packet_is_lost_while_the_driver_dies_and_comes_back", || {
        let mut netlink = node();
        let (pod, _) = pod("cali1", "10.244.166.129");
        running(&mut netlink, "cali1");
        // Both ways are routes that the driver owns: to the pod, and a BGP route that must not flap.
        let start = || {
            let handle =
                spawn(DriverConfig::default(), || Ok::<_, std::io::Error>(NoPolicy), |_| {}).unwrap();
            handle.send(Input::Changes(Box::new(endpoint("a", "cali1", "10.244.166.129/32", None))));
            handle
                .send(Input::Fib(vec![via("10.244.104.0/26", "172.18.0.3"), blackhole("10.244.166.128/26")]));
            handle.send(Input::InSync);
            handle.send(Input::BgpConverged);
            let status = handle.statuses().wait_until_up(&id("a"), Duration::from_secs(10));
            assert_eq!(status, Some(EndpointStatus::Up));
            handle
        };
        let first = start();
        let echo = pod
            .run(|| {
                let socket = std::net::UdpSocket::bind("10.244.166.129:7777").unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                socket
            })
            .unwrap();
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let silence = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let echoing = std::thread::spawn({
            let silence = silence.clone();
            move || {
                let mut buffer = [0; 64];
                while !silence.load(std::sync::atomic::Ordering::Relaxed) {
                    if let Ok((length, from)) = echo.recv_from(&mut buffer) {
                        echo.send_to(&buffer[..length], from).unwrap();
                    }
                }
            }
        });
        let here = NetNs::current().unwrap();
        let probing = std::thread::spawn({
            let stop = stop.clone();
            move || {
                here.enter().unwrap();
                let socket = std::net::UdpSocket::bind("172.18.0.2:0").unwrap();
                socket.connect("10.244.166.129:7777").unwrap();
                socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
                let (mut sent, mut lost) = (0_u32, 0_u32);
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    sent += 1;
                    let answered = socket.send(b"x").is_ok() && socket.recv(&mut [0; 8]).is_ok();
                    lost += u32::from(!answered);
                }
                (sent, lost)
            }
        });
        let mut monitor = Monitor::open(&[Group::Routes]).unwrap();
        drop(first);
        for _ in 0..20 {
            drop(start());
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let (sent, lost) = probing.join().unwrap();
        // The echo ends after the last probe, or it would be the one that loses it.
        silence.store(true, std::sync::atomic::Ordering::Relaxed);
        echoing.join().unwrap();
        assert!(sent > 20, "{sent} packets");
        assert_eq!(lost, 0, "of {sent}");
        let ours: Vec<Event> = monitor
            .poll()
            .unwrap()
            .into_iter()
            .filter(|event| match event {
                Event::Route(route) | Event::RouteGone(route) => route.dst.addr().is_ipv4(),
                _ => true,
            })
            .collect();
        assert_eq!(ours, [], "twenty starts wrote nothing");
    });
}
