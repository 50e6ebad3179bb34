//! Addresses: pools on request, single addresses, refusals, release, and more pods than a block holds.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use calico_dataplane::netlink::RouteKind;
use ipnet::{IpNet, Ipv4Net};

use super::super::args::Up;
use super::super::cluster::{Cluster, PodWish};
use super::super::report::Report;
use super::{HANDLES, text};

const AMERICA: &str = "10.250.0.0/16";
const BLOCKS: &str = "/calico/ipam/v2/assignment/";

/// Proves every step.
pub(super) fn prove(cluster: &mut Cluster, report: &mut Report, options: &Up) {
    report.section("IPAM");
    let pools = [("cni.projectcalico.org/ipv4pools", r#"["america-ippool"]"#)];
    report.step("a pod annotated with america-ippool gets its address there", || {
        let wish = PodWish { name: "america01", node: 0, annotations: &pools, ..PodWish::default() };
        within(cluster.add_pod(&wish).and_then(|pod| pod.ipv4()).map_err(text)?, AMERICA)
    });
    report.step("so does a pod of a namespace that carries the annotation", || {
        let wish = PodWish { namespace: "americas", name: "america02", node: 1, ..PodWish::default() };
        within(cluster.add_pod(&wish).and_then(|pod| pod.ipv4()).map_err(text)?, AMERICA)
    });
    report.step("ipAddrs with one address gets that one", || {
        let one = [("cni.projectcalico.org/ipAddrs", r#"["10.244.77.7"]"#)];
        let wish = PodWish { name: "fixed", node: 1, annotations: &one, ..PodWish::default() };
        let address = cluster.add_pod(&wish).and_then(|pod| pod.ipv4()).map_err(text)?;
        if address == Ipv4Addr::new(10, 244, 77, 7) {
            Ok(address.to_string())
        } else {
            Err(format!("got {address}"))
        }
    });
    report.step("ipAddrs with two IPv4 addresses is refused", || {
        let before = cluster.stored(HANDLES).map_err(text)?.len();
        let two = [("cni.projectcalico.org/ipAddrs", r#"["10.244.77.8","10.244.77.9"]"#)];
        let wish = PodWish { name: "greedy", node: 1, annotations: &two, ..PodWish::default() };
        let error = match cluster.add_pod(&wish) {
            Ok(_) => return Err("ADD succeeded".to_owned()),
            Err(error) => error.to_string(),
        };
        let expected =
            "cannot have more than one IPv4 address for \"cni.projectcalico.org/ipAddrs\" annotation";
        if !error.contains(expected) {
            return Err(error);
        }
        let after = cluster.stored(HANDLES).map_err(text)?.len();
        if before != after {
            return Err(format!("{before} handles before, {after} after"));
        }
        Ok(error)
    });
    report.step("addresses come from blocks affine to their node", || affine(cluster));
    report.step("DEL frees the address and its handle", || {
        let address = cluster.pod("default", "fixed").and_then(|pod| pod.ipv4()).map_err(text)?;
        let id = cluster.pod("default", "fixed").map(|pod| pod.container_id.clone()).map_err(text)?;
        cluster.delete_pod("default", "fixed").map_err(text)?;
        if cluster.stored(HANDLES).map_err(text)?.iter().any(|(key, _)| key.contains(&id)) {
            return Err(format!("the handle of {address} is still there"));
        }
        Ok(address.to_string())
    });
    let count = options.pods;
    report.step(format!("{count} pods on node1 spill over into another block"), || {
        let before = blocks_of(cluster, "node1")?.len();
        let mut addresses = BTreeSet::new();
        for n in 0..count {
            let name = format!("many{n:03}");
            let wish = PodWish { name: &name, node: 0, ..PodWish::default() };
            let address = cluster.add_pod(&wish).and_then(|pod| pod.ipv4()).map_err(text)?;
            if !addresses.insert(address) {
                return Err(format!("{address} was given twice"));
            }
        }
        let after = blocks_of(cluster, "node1")?.len();
        if count >= 64 && after <= before {
            return Err(format!("{before} blocks before, {after} after"));
        }
        let node = cluster.node(0).map_err(text)?;
        super::eventually(super::PATIENCE, || {
            let routes = node.routes().map_err(text)?;
            let blackholes = routes.iter().filter(|r| r.kind == RouteKind::Blackhole).count();
            if blackholes >= after {
                Ok(())
            } else {
                Err(format!("{blackholes} blackhole routes for {after} blocks"))
            }
        })?;
        Ok(format!("{before} blocks before, {after} after"))
    });
    report.step(format!("DEL of the {count} pods gives all addresses back"), || {
        let before = cluster.stored(HANDLES).map_err(text)?.len();
        for n in 0..count {
            cluster.delete_pod("default", &format!("many{n:03}")).map_err(text)?;
        }
        let after = cluster.stored(HANDLES).map_err(text)?.len();
        if before - after == usize::from(count) {
            Ok(format!("{before} handles before, {after} after"))
        } else {
            Err(format!("{before} handles before, {after} after"))
        }
    });
}

fn within(address: Ipv4Addr, pool: &str) -> Result<String, String> {
    let net: Ipv4Net = pool.parse().map_err(|_| format!("{pool} is no CIDR"))?;
    if net.contains(&address) {
        Ok(format!("{address} in {pool}"))
    } else {
        Err(format!("{address} is not in {pool}"))
    }
}

fn blocks_of(cluster: &Cluster, node: &str) -> Result<Vec<IpNet>, String> {
    let mut blocks = Vec::new();
    for (key, value) in cluster.stored(BLOCKS).map_err(text)? {
        let block: serde_json::Value = serde_json::from_str(&value).map_err(|e| format!("{key}: {e}"))?;
        if block["affinity"] == format!("host:{node}") {
            let cidr = block["cidr"].as_str().and_then(|text| text.parse().ok());
            blocks.push(cidr.ok_or_else(|| format!("{key} has no CIDR"))?);
        }
    }
    Ok(blocks)
}

fn affine(cluster: &Cluster) -> Result<String, String> {
    let mut checked = 0;
    for (index, node) in cluster.nodes.iter().enumerate() {
        let blocks = blocks_of(cluster, &node.name)?;
        for pod in cluster.pods.values().filter(|pod| pod.node == index && pod.name != "fixed") {
            let address = pod.ipv4().map_err(text)?;
            if !blocks.iter().any(|block| block.contains(&std::net::IpAddr::from(address))) {
                return Err(format!("{address} of {} is in none of its blocks {blocks:?}", node.name));
            }
            checked += 1;
        }
    }
    Ok(format!("{checked} pods"))
}
