//! Nodes, pools, blocks and configurations of a random cluster.

use std::sync::Arc;

use calico_model::{
    AllocationAttribute, AllocationBlock, AllowedUse, BGPConfiguration, BGPConfigurationSpec, BlockKey,
    EncapMode, FelixConfiguration, FelixConfigurationSpec, IPPool, IPPoolSpec, Key, Node, NodeAddress,
    NodeAddressType, NodeBgpSpec, NodeSpec, ServiceBlock, Update, Value,
};
use ipnet::IpNet;

use super::{Dice, NODE, put};

const NODES: [&str; 3] = [NODE, "there", "elsewhere"];

pub(super) fn network(dice: &mut Dice, updates: &mut Vec<Update>) {
    for name in NODES {
        if !dice.one_in(4) {
            updates.push(put(node(dice, name)));
        }
    }
    for number in 0..dice.below(4) {
        updates.push(put(pool(dice, number)));
    }
    for cidr in ["10.0.0.0/30", "10.0.0.4/30", "10.0.0.8/32", "fd00::/126"] {
        if dice.one_in(2) {
            updates.extend(block(dice, cidr));
        }
    }
    for name in ["default", "node.here", "scoped"] {
        if dice.one_in(3) {
            let mut felix = FelixConfiguration::new(name, FelixConfigurationSpec::default());
            felix.spec.interface_prefix = dice.pick(&["cali", "tap", ""]).into();
            felix.spec.workload_source_spoofing = dice.pick(&["Any", "Disabled", ""]).into();
            felix.spec.node_selector = if name == "scoped" { "has(role)".into() } else { String::new() };
            updates.push(put(felix));
        }
    }
    if dice.one_in(3) {
        let cidr = dice.pick(&["10.96.0.0/16", "10.97.0.0/16"]).to_owned();
        let spec =
            BGPConfigurationSpec { service_cluster_ips: vec![ServiceBlock { cidr }], ..Default::default() };
        updates.push(put(BGPConfiguration::new("default", spec)));
    }
}

fn node(dice: &mut Dice, name: &str) -> Node {
    let subnet = dice.pick(&["192.168.0", "192.168.1"]);
    let low = dice.below(4);
    let mut spec = NodeSpec::default();
    if !dice.one_in(4) {
        spec.bgp = Some(NodeBgpSpec {
            ipv4_address: format!("{subnet}.{low}/24"),
            ipv6_address: if dice.one_in(2) { format!("fd01::{low}/64") } else { String::new() },
            ipv4_ipip_tunnel_addr: if dice.one_in(3) { format!("10.0.0.{low}") } else { String::new() },
            ..NodeBgpSpec::default()
        });
    }
    if dice.one_in(2) {
        spec.ipv4_vxlan_tunnel_addr = format!("10.0.0.{}", dice.below(8));
    }
    if dice.one_in(3) {
        spec.ipv6_vxlan_tunnel_addr = format!("fd00::{}", dice.below(8));
    }
    if dice.one_in(3) {
        let address_type = NodeAddressType::from(dice.pick(&["InternalIP", "ExternalIP"]));
        spec.addresses = vec![NodeAddress { address: format!("{subnet}.{}", low + 1), address_type }];
    }
    let mut node = Node::new(name, spec);
    if dice.one_in(2) {
        node.metadata.labels.insert("role".into(), "x".into());
    }
    node
}

fn pool(dice: &mut Dice, number: usize) -> IPPool {
    let modes = [EncapMode::Never, EncapMode::Always, EncapMode::CrossSubnet];
    let mode = dice.pick(&modes);
    let vxlan = dice.one_in(2);
    let cidrs = ["10.0.0.0/24", "10.0.0.0/29", "10.0.0.0/24", "fd00::/64", "10.0.0.8/29"];
    let spec = IPPoolSpec {
        cidr: dice.pick(&cidrs).into(),
        vxlan_mode: if vxlan { mode.clone() } else { EncapMode::Never },
        ipip_mode: if vxlan { EncapMode::Never } else { mode },
        nat_outgoing: dice.one_in(2),
        allowed_uses: if dice.one_in(5) { vec![AllowedUse::LoadBalancer] } else { Vec::new() },
        ..IPPoolSpec::default()
    };
    IPPool::new(format!("pool{number}"), spec)
}

fn block(dice: &mut Dice, cidr: &str) -> Option<Update> {
    let cidr: IpNet = cidr.parse().ok()?;
    let mut block = AllocationBlock::new(cidr);
    block.affinity = Some(dice.pick(&["host:here", "host:there", "virtual:load-balancer"]).into());
    block.attributes = NODES
        .iter()
        .map(|node| {
            let mut attribute = AllocationAttribute::default();
            attribute.active_owner_attrs.insert("node".into(), (*node).into());
            attribute
        })
        .collect();
    let size = 1 << (cidr.max_prefix_len() - cidr.prefix_len());
    block.allocations = (0..size).map(|_| dice.one_in(2).then(|| dice.below(4) as u32)).collect();
    Some(Update::set(Key::Block(BlockKey { cidr }), Value::Block(Arc::new(block)), 1.into()))
}
