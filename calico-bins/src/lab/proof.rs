//! The inside of the lab: builds the cluster and proves, line by line, that it works.

mod faults;
mod ipam;
mod overlay;
mod policy;
mod reach;
mod refusals;

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use calico_dataplane::netlink::RouteKind;
use ipnet::IpNet;

use super::args::Up;
use super::cluster::{Cluster, ClusterError, PodWish, bgp_routes};
use super::report::{Report, percentile};
use super::sandbox;

/// The line that tells the front process that a kept cluster is ready.
pub(super) const KEPT: &str = "The cluster keeps running.";

/// Manifests of the cluster, in the order in which they are applied.
const MANIFESTS: [(&str, &str); 4] = [
    ("examples/cluster/10-ippools.yaml", include_str!("../../../examples/cluster/10-ippools.yaml")),
    ("examples/cluster/20-bgp.yaml", include_str!("../../../examples/cluster/20-bgp.yaml")),
    ("examples/cluster/30-felix.yaml", include_str!("../../../examples/cluster/30-felix.yaml")),
    ("examples/cluster/40-namespaces.yaml", include_str!("../../../examples/cluster/40-namespaces.yaml")),
];

/// Where the handles of addresses are in the store.
const HANDLES: &str = "/calico/ipam/v2/handle/";

/// Longest time that anything may take to settle.
const PATIENCE: Duration = Duration::from_secs(20);

/// Builds and proves the cluster. Runs as process 1 of the sandbox.
pub(super) fn inside(options: &Up) -> ExitCode {
    if let Err(error) = sandbox::furnish() {
        return failure(&error.to_string());
    }
    let mut report = Report::new(options.json);
    let mut cluster = match Cluster::open(options.datastore) {
        Ok(cluster) => cluster,
        Err(error) => return failure(&error.to_string()),
    };
    report.remark(&format!(
        "calico-lab: {} nodes, {} datastore, node-to-node mesh of AS 64512",
        options.nodes, options.datastore
    ));
    prove(&mut cluster, &mut report, options);
    for index in 0..cluster.nodes.len() {
        if let Some(how) = cluster.agent_ended(index) {
            let name = cluster.nodes.get(index).map(|n| n.name.clone()).unwrap_or_default();
            report.record(format!("the agent of {name} runs to the end"), Err(how), Duration::ZERO);
        }
    }
    if let Some(dir) = &options.logs {
        keep_logs(&cluster, dir, &report);
    }
    let ok = report.finish();
    if options.keep {
        report.remark(&format!(
            "\n{KEPT} Enter it:\n\
             \n    calico-lab exec node1 -- calicoctl get workloadendpoints -A\
             \n    calico-lab exec node1 -- calicoctl node status\
             \n    calico-lab exec pod/default/busybox01 -- <command>\
             \n    calico-lab down"
        ));
        loop {
            // Process 1 lives as long as the cluster.
            std::thread::park();
        }
    }
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn failure(why: &str) -> ExitCode {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "calico-lab: {why}");
    ExitCode::FAILURE
}

fn keep_logs(cluster: &Cluster, dir: &std::path::Path, report: &Report) {
    for node in &cluster.nodes {
        for name in ["calico-node.log", "cni.log"] {
            let target = dir.join(format!("{}-{name}", node.name));
            let copied =
                std::fs::create_dir_all(dir).and_then(|()| std::fs::copy(node.dir.join(name), &target));
            if let Err(error) = copied {
                report.remark(&format!("cannot keep {}: {error}", target.display()));
            }
        }
    }
}

/// Text of an error, for a line of the report.
fn text(error: ClusterError) -> String {
    error.to_string()
}

fn prove(cluster: &mut Cluster, report: &mut Report, options: &Up) {
    report.section("Store");
    if !report.step(format!("the {} datastore is initialised", options.datastore), || {
        cluster.initialise().map(|()| super::cluster::datastore().1).map_err(text)
    }) {
        return;
    }
    for (file, manifest) in MANIFESTS {
        report.step(format!("calicoctl apply -f {file}"), || {
            cluster.apply(file, manifest).map(|(written, _)| written.join(", ")).map_err(text)
        });
    }

    report.section("Nodes");
    let built =
        report.step(format!("{} nodes on one subnet, each a network namespace", options.nodes), || {
            cluster.build_fabric().map_err(text)?;
            for _ in 0..options.nodes {
                cluster.add_node().map_err(text)?;
            }
            let names: Vec<String> =
                cluster.nodes.iter().take(4).map(|node| format!("{} {}", node.name, node.address)).collect();
            Ok(names.join(", "))
        });
    if !built {
        return;
    }
    let begun = Instant::now();
    let started = report.step("calico-node runs in each", || {
        for index in 0..cluster.nodes.len() {
            cluster.start_agent(index).map_err(text)?;
        }
        eventually(PATIENCE, || agents_in_sync(cluster))?;
        Ok("in sync with the datastore".to_owned())
    });
    if !started {
        return;
    }
    report.step("BGP sessions are Established between all nodes", || {
        eventually(PATIENCE, || all_established(cluster))?;
        Ok(format!("{:.0} ms after the start of the agents", begun.elapsed().as_secs_f64() * 1000.0))
    });

    report.section("Pods");
    let pods = [
        PodWish {
            name: "busybox01",
            node: 0,
            labels: &[("run", "busybox01"), ("role", "frontend")],
            ..PodWish::default()
        },
        PodWish {
            name: "busybox02",
            node: 1,
            labels: &[("run", "busybox02"), ("role", "database")],
            ..PodWish::default()
        },
        PodWish { name: "busybox03", node: 0, labels: &[("run", "busybox03")], ..PodWish::default() },
        PodWish {
            name: "stranger",
            namespace: "outside",
            node: options.nodes as usize - 1,
            labels: &[("run", "stranger")],
            ..PodWish::default()
        },
    ];
    for wish in &pods {
        let namespace = if wish.namespace.is_empty() { "default" } else { wish.namespace };
        report.step(format!("CNI ADD of pod {namespace}/{} on node{}", wish.name, wish.node + 1), || {
            let pod = cluster.add_pod(wish).map_err(text)?;
            let address = pod.ipv4().map_err(text)?;
            let detail = format!("{address}/32 dev {}", pod.host_interface());
            check_wire(cluster, namespace, wish.name)?;
            Ok(detail)
        });
    }

    report.section("Routes");
    for index in 0..cluster.nodes.len().min(6) {
        let name = format!("ip route on node{}", index + 1);
        report.step(name, || eventually(PATIENCE, || routes(cluster, index)));
    }

    report.section("calicoctl node status");
    report.step("node1 shows its sessions", || node_status(cluster));

    reach::prove(cluster, report);
    policy::prove(cluster, report);
    ipam::prove(cluster, report, options);
    overlay::prove(cluster, report);
    refusals::prove(cluster, report);
    faults::prove(cluster, report);
    measure(cluster, report);
}

/// Tries `probe` until it holds or `patience` is over; then its last word is the error.
fn eventually<T>(patience: Duration, mut probe: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let deadline = Instant::now() + patience;
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(why) if Instant::now() >= deadline => return Err(why),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn agents_in_sync(cluster: &mut Cluster) -> Result<(), String> {
    for index in 0..cluster.nodes.len() {
        if let Some(how) = cluster.agent_ended(index) {
            return Err(format!(
                "the agent of node{} ended with {how}: {}",
                index + 1,
                last_log_line(cluster, index)
            ));
        }
        let status = cluster.node(index).and_then(|node| node.status()).map_err(text)?;
        if status.datastore != "in-sync" {
            return Err(format!("node{}: datastore {}", index + 1, status.datastore));
        }
        if !status.dataplane.last_error.is_empty() {
            return Err(format!("node{}: {}", index + 1, status.dataplane.last_error));
        }
    }
    Ok(())
}

fn last_log_line(cluster: &Cluster, index: usize) -> String {
    cluster
        .node(index)
        .ok()
        .and_then(|node| std::fs::read_to_string(node.dir.join("calico-node.log")).ok())
        .and_then(|log| log.lines().last().map(str::to_owned))
        .unwrap_or_default()
}

fn all_established(cluster: &Cluster) -> Result<(), String> {
    for node in &cluster.nodes {
        established(cluster, node)?;
    }
    Ok(())
}

fn established(cluster: &Cluster, node: &super::cluster::Node) -> Result<(), String> {
    let status = node.status().map_err(text)?;
    let bgp = status.bgp.ok_or_else(|| format!("{} runs no BGP", node.name))?;
    if let Some(error) = bgp.error {
        return Err(format!("{}: {error}", node.name));
    }
    let expected = cluster.nodes.len() - 1;
    let up = bgp.peers.iter().filter(|peer| peer.bgp_state == "Established").count();
    if up == expected && bgp.peers.len() == expected {
        return Ok(());
    }
    let down: Vec<String> = bgp
        .peers
        .iter()
        .filter(|peer| peer.bgp_state != "Established")
        .map(|peer| format!("{} {} {}", peer.address, peer.bgp_state, peer.info))
        .collect();
    Err(format!("{}: {up} of {expected} sessions are up; {}", node.name, down.join(", ")))
}

/// The wire of a pod as operators know it.
fn check_wire(cluster: &Cluster, namespace: &str, name: &str) -> Result<(), String> {
    let pod = cluster.pod(namespace, name).map_err(text)?;
    let interface = pod.host_interface();
    let hex = interface.strip_prefix("cali").unwrap_or_default();
    if hex.len() != 11 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(format!("host interface {interface:?} is not cali and 11 hexadecimal digits"));
    }
    let node = cluster.node(pod.node).map_err(text)?;
    let (mac, proxy_arp) = node
        .netns
        .run(|| {
            let link = calico_dataplane::netlink::Rtnetlink::open().and_then(|mut n| n.link(interface));
            let proxy = std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{interface}/proxy_arp"));
            (link.map(|link| link.mac), proxy.unwrap_or_default())
        })
        .map_err(|e| e.to_string())?;
    let mac = mac.map_err(|e| e.to_string())?.map(|mac| mac.to_string()).unwrap_or_default();
    if mac != "ee:ee:ee:ee:ee:ee" {
        return Err(format!("{interface} has the address {mac}"));
    }
    if proxy_arp.trim() != "1" {
        return Err(format!("{interface}: proxy_arp is {:?}", proxy_arp.trim()));
    }
    let inside = pod
        .place
        .run(|| {
            let mut netlink = calico_dataplane::netlink::Rtnetlink::open().map_err(std::io::Error::other)?;
            let filter = calico_dataplane::netlink::RouteFilter::main(calico_dataplane::netlink::Family::V4);
            netlink.routes(&filter).map_err(std::io::Error::other)
        })
        .map_err(|e| e.to_string())?;
    let gateway: IpAddr = calico_dataplane::pod::GATEWAY.into();
    let default = inside.iter().find(|route| route.dst.prefix_len() == 0);
    if default.and_then(|route| route.nexthops.first()).and_then(|hop| hop.via) != Some(gateway) {
        return Err(format!("the pod's default route does not lead to {gateway}"));
    }
    let stored = cluster.stored("/calico/resources/v3/projectcalico.org/workloadendpoints/").map_err(text)?;
    if !stored.iter().any(|(_, value)| value.contains(interface)) {
        return Err(format!("no WorkloadEndpoint with interface {interface} is stored"));
    }
    Ok(())
}

/// Every route that a node must have, and the table as `ip route` prints it.
fn routes(cluster: &Cluster, index: usize) -> Result<String, String> {
    let node = cluster.node(index).map_err(text)?;
    let routes = node.routes().map_err(text)?;
    let bgp = bgp_routes(&routes);
    for pod in cluster.pods.values() {
        let address = IpAddr::from(pod.ipv4().map_err(text)?);
        let home = cluster.node(pod.node).map_err(text)?;
        if pod.node == index {
            let own = routes
                .iter()
                .any(|route| route.dst == IpNet::from(address) && route.kind == RouteKind::Unicast);
            if !own {
                return Err(format!("no route to the pod {address}\n{}", node.route_table().map_err(text)?));
            }
            let blackhole = routes.iter().any(|r| r.kind == RouteKind::Blackhole && r.dst.contains(&address));
            if !blackhole {
                return Err(format!(
                    "no blackhole route for the block of {address}\n{}",
                    node.route_table().map_err(text)?
                ));
            }
        } else {
            let through = IpAddr::from(home.address);
            if !bgp.iter().any(|(dst, via)| dst.contains(&address) && *via == Some(through)) {
                return Err(format!(
                    "no route to the block of {address} via {through}\n{}",
                    node.route_table().map_err(text)?
                ));
            }
        }
    }
    node.route_table().map_err(text)
}

fn node_status(cluster: &Cluster) -> Result<String, String> {
    let node = cluster.node(0).map_err(text)?;
    let mut command = node.command(&sandbox::program("calicoctl")).map_err(text)?;
    let output = command.args(["node", "status"]).output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Err(format!("{}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    for word in ["PEER ADDRESS", "PEER TYPE", "STATE", "SINCE", "INFO", "node-to-node mesh", "Established"] {
        if !text.contains(word) {
            return Err(format!("{word:?} is not in it\n{text}"));
        }
    }
    if !text.contains("No IPv6 peers found.") {
        return Err(format!("it does not say \"No IPv6 peers found.\"\n{text}"));
    }
    Ok(text)
}

fn measure(cluster: &Cluster, report: &mut Report) {
    for (name, times) in [("CNI ADD", &cluster.add_times), ("CNI DEL", &cluster.del_times)] {
        for p in [50.0, 99.0] {
            report.measure(format!("{name} p{p:.0} ({} calls)", times.len()), percentile(times, p), "ms");
        }
    }
    let memory = cluster.nodes.iter().filter_map(|node| node.status().ok()).map(|status| status.resident_kib);
    if let Some(most) = memory.max() {
        report.measure("resident memory of an agent, most of all nodes", most as f64 / 1024.0, "MiB");
    }
    if let Ok(meta) = std::fs::metadata(sandbox::program("calico-node")) {
        report.measure(
            "size of the program file (all programs in one)",
            meta.len() as f64 / 1_048_576.0,
            "MiB",
        );
    }
}
