use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_dataplane::driver::{Driver, DriverConfig, NoPolicy};
use calico_dataplane::manager::TunnelConfig;
use calico_dataplane::netlink::{
    Address, Family, LinkChange, MacAddr, NewKind, NewLink, Peer, RouteFilter, Rtnetlink, route_text,
};
use calico_dataplane::netns::NetNs;
use calico_dataplane::pod::{PodSpec, attach};
use calico_policy::Changes;
use calico_policy::changes::{
    EncapMode, Encapsulation, HostMetadata, Pool, Route, RouteKind, Tunnel, Vtep, WorkloadEndpoint,
    WorkloadEndpointId,
};
use ipnet::IpNet;

use crate::isolation::isolated;

const BLOCKS: [&str; 2] = ["10.65.0.0/26", "10.65.1.0/26"];
const TUNNELS: [&str; 2] = ["10.65.0.1", "10.65.1.1"];
const PODS: [&str; 2] = ["10.65.0.7", "10.65.1.7"];
const UNDERLAY: [&str; 2] = ["172.18.0.2", "172.18.0.3"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn mac(node: usize) -> [u8; 6] {
    [0x66, 0, 0, 0, 0, node as u8]
}

/// What the graph of node `own` says about a cluster of two.
fn cluster(own: usize, vxlan: EncapMode) -> Changes {
    let encapsulation = Some(Encapsulation { vxlan: true, ..Encapsulation::default() });
    let mut changes = Changes { encapsulation, ..Changes::default() };
    changes.pools.push(Pool {
        cidr: net("10.65.0.0/16"),
        nat_outgoing: false,
        load_balancer_only: false,
        ipip: EncapMode::Never,
        vxlan,
    });
    for node in 0..2 {
        let name: Arc<str> = format!("node{node}").into();
        let address = ip(UNDERLAY[node]);
        changes.hosts.push(HostMetadata {
            name: name.clone(),
            ipv4: Some(address),
            ipv6: None,
            as_number: None,
        });
        let addr = ip(TUNNELS[node]);
        changes.vteps.push(Vtep { node: name.clone(), mac: mac(node), addr, parent: address });
        let local = node == own;
        let same_subnet = vxlan == EncapMode::CrossSubnet && !local;
        let tunnelled = !local && !same_subnet;
        changes.routes.push(Route {
            dst: net(BLOCKS[node]),
            kind: if local { RouteKind::LocalWorkload } else { RouteKind::RemoteWorkload },
            node: Some(name),
            node_ip: Some(address),
            same_subnet,
            tunnel: if tunnelled { Tunnel::Vxlan } else { Tunnel::None },
            nat_outgoing: false,
            borrowed: false,
        });
    }
    let endpoint = WorkloadEndpoint {
        id: WorkloadEndpointId {
            orchestrator: "k8s".into(),
            workload: "default/pod".into(),
            endpoint: "eth0".into(),
        },
        interface: "cali1".into(),
        active: true,
        mac: None,
        nets: vec![IpNet::from(ip(PODS[own]))],
        nat: Vec::new(),
        allowed_source_prefixes: Vec::new(),
        tiers: Arc::from([]),
        profiles: Arc::from([]),
        qos: Default::default(),
    };
    changes.workload_endpoints.push(Arc::new(endpoint));
    changes
}

struct Node {
    namespace: NetNs,
    pod: NetNs,
    driver: Driver<NoPolicy>,
}

impl Node {
    fn start(own: usize, namespace: NetNs, vxlan: EncapMode) -> Self {
        let pod = NetNs::create().unwrap();
        let driver = namespace
            .run(|| {
                attach(&PodSpec::new("eth0", "cali1", &[ip(PODS[own])]), &pod).unwrap();
                let tunnels = Some(TunnelConfig::new(format!("node{own}")));
                let config = DriverConfig { tunnels, ..DriverConfig::default() };
                let mut driver = Driver::open(config, NoPolicy, Instant::now()).unwrap();
                driver.changes(cluster(own, vxlan));
                driver.in_sync();
                driver
            })
            .unwrap();
        let mut node = Self { namespace, pod, driver };
        node.settle();
        node
    }

    fn settle(&mut self) {
        let Self { namespace, driver, .. } = self;
        namespace
            .run(|| {
                for _ in 0..20 {
                    if driver.apply(Instant::now()).messages == 0 {
                        return;
                    }
                }
                panic!("the driver never rests: {:#?}", driver.health());
            })
            .unwrap();
    }

    /// Applies until the routes are as they should be: the kernel tells of carriers a moment later.
    fn until(&mut self, what: &str, good: impl Fn(&str) -> bool) {
        let started = Instant::now();
        while !good(&self.routes()) {
            assert!(started.elapsed() < Duration::from_secs(10), "{what}: {}", self.routes());
            std::thread::sleep(Duration::from_millis(2));
            self.settle();
        }
    }

    fn routes(&self) -> String {
        self.namespace
            .run(|| {
                let mut netlink = Rtnetlink::open().unwrap();
                let routes = netlink.routes(&RouteFilter::main(Family::V4)).unwrap();
                let text = route_text::table(&routes, &netlink.links().unwrap());
                let lines = text.lines().filter(|line| !line.contains("proto kernel"));
                lines.map(|line| format!("{line}\n")).collect()
            })
            .unwrap()
    }
}

/// Two nodes on one wire.
fn nodes(vxlan: EncapMode) -> [Node; 2] {
    let namespaces = [NetNs::create().unwrap(), NetNs::create().unwrap()];
    namespaces[0]
        .run(|| {
            let mut netlink = Rtnetlink::open().unwrap();
            let namespace = Some(std::os::fd::AsFd::as_fd(&namespaces[1]));
            let peer = Peer { name: "eth0", namespace, mac: None };
            netlink.create_link(&NewLink::new("eth0", NewKind::Veth(peer))).unwrap();
        })
        .unwrap();
    for (node, namespace) in namespaces.iter().enumerate() {
        namespace
            .run(|| {
                let mut netlink = Rtnetlink::open().unwrap();
                netlink.change_link(1, &LinkChange::Up).unwrap();
                let eth0 = netlink.link("eth0").unwrap().index;
                netlink.change_link(eth0, &LinkChange::Up).unwrap();
                let address = IpNet::new(ip(UNDERLAY[node]), 24).unwrap();
                netlink.add_address(&Address::new(eth0, address)).unwrap();
            })
            .unwrap();
    }
    let [first, second] = namespaces;
    let mut nodes = [Node::start(0, first, vxlan), Node::start(1, second, vxlan)];
    for node in &mut nodes {
        node.until("10.65", |routes| routes.contains("dev cali1"));
    }
    nodes
}

/// A connection from the pod of one node to the pod of the other.
fn pods_talk(nodes: &[Node; 2]) -> bool {
    let listener = nodes[1].pod.run(|| TcpListener::bind((ip(PODS[1]), 0)).unwrap()).unwrap();
    let to = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, from) = listener.accept().unwrap();
        stream.write_all(b"hello").unwrap();
        from.ip()
    });
    let heard = nodes[0]
        .pod
        .run(|| {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok::<_, std::io::Error>(text)
        })
        .unwrap();
    heard.is_ok_and(|text| text == "hello") && server.join().unwrap() == ip(PODS[0])
}

#[test]
fn pods_talk_through_vxlan() {
    isolated("tunnels::pods_talk_through_vxlan", || {
        let mut nodes = nodes(EncapMode::Always);
        assert_eq!(
            nodes[0].routes(),
            "blackhole 10.65.0.0/26 proto 80\n\
             10.65.0.7 dev cali1 scope link\n\
             10.65.1.0/26 via 10.65.1.1 dev vxlan.calico onlink mtu 1450\n"
        );
        assert!(pods_talk(&nodes));
        // Somebody deletes the device: it comes back with everything on it.
        nodes[0]
            .namespace
            .run(|| Rtnetlink::open().unwrap().delete_link_by_name("vxlan.calico"))
            .unwrap()
            .unwrap();
        nodes[0].settle();
        assert!(pods_talk(&nodes));
        let device =
            nodes[0].namespace.run(|| Rtnetlink::open().unwrap().link("vxlan.calico")).unwrap().unwrap();
        assert_eq!(device.mac, Some(MacAddr(mac(0))));
        assert_eq!(device.mtu, 1450);
        // A driver that starts anew finds all as it should be.
        let before = nodes[1].routes();
        let namespace = nodes[1].namespace.try_clone().unwrap();
        let restarted = namespace
            .run(|| {
                let tunnels = Some(TunnelConfig::new("node1"));
                let config = DriverConfig { tunnels, ..DriverConfig::default() };
                let mut driver = Driver::open(config, NoPolicy, Instant::now()).unwrap();
                driver.changes(cluster(1, EncapMode::Always));
                driver.in_sync();
                driver.apply(Instant::now()).messages
            })
            .unwrap();
        assert_eq!(restarted, 0);
        assert_eq!(nodes[1].routes(), before);
        // No pool needs it any more.
        let mut gone = Changes { encapsulation: Some(Encapsulation::default()), ..Changes::default() };
        gone.removed_routes = BLOCKS.iter().map(|block| net(block)).collect();
        nodes[0].driver.changes(gone);
        nodes[0].settle();
        assert_eq!(nodes[0].routes(), "10.65.0.7 dev cali1 scope link\n");
        assert!(nodes[0].namespace.run(|| Rtnetlink::open().unwrap().link("vxlan.calico").is_err()).unwrap());
    });
}

#[test]
fn nodes_of_one_subnet_need_no_tunnel_between_them() {
    isolated("tunnels::nodes_of_one_subnet_need_no_tunnel_between_them", || {
        let nodes = nodes(EncapMode::CrossSubnet);
        assert_eq!(
            nodes[1].routes(),
            "10.65.0.0/26 via 172.18.0.2 dev eth0 proto 80\n\
             blackhole 10.65.1.0/26 proto 80\n\
             10.65.1.7 dev cali1 scope link\n"
        );
        assert!(pods_talk(&nodes));
    });
}
