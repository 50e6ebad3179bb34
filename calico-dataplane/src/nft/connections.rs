//! Which tracked connections the policy in force would not admit any more.
//!
//! Established packets bypass policy, so a policy that tightens leaves connections running. Here each tracked
//! connection is put before the compiled rules again as if it began now.

use std::net::IpAddr;

use calico_policy::packet::Packet;

use super::compile::Compiler;
use super::eval::{Fate, Frame, run_hook};
use super::object::Hook;
use crate::netlink::conntrack::{Flow, Ports};

/// The interface that stands for everything that is no local workload.
const ELSEWHERE: &str = "";

/// The connections of local workloads that would be refused if they began now.
pub fn denied_flows(compiler: &Compiler, flows: Vec<Flow>) -> Vec<Flow> {
    flows.into_iter().filter(|flow| is_denied(compiler, flow)).collect()
}

fn is_denied(compiler: &Compiler, flow: &Flow) -> bool {
    // Filtering happens after destination NAT and before source NAT: the destination is who answers.
    let (src, dst) = (flow.original.source, flow.reply.source);
    let from = compiler.interface_of(src);
    let to = compiler.interface_of(dst);
    if from.is_none() && to.is_none() {
        return false;
    }
    let packet = packet(flow, src, dst);
    let hook = if compiler.is_host_address(dst) { Hook::Input } else { Hook::Forward };
    // What the host itself sends is not policed on the way to a workload.
    if from.is_none() && compiler.is_host_address(src) {
        return false;
    }
    let oifname = if hook == Hook::Input { ELSEWHERE } else { to.unwrap_or(ELSEWHERE) };
    let mut frame = Frame::forwarded(packet, from.unwrap_or(ELSEWHERE), oifname);
    frame.local = compiler.host_addresses().collect();
    run_hook(compiler.table().desired(), hook, &mut frame) != Fate::Accepted
}

fn packet(flow: &Flow, src: IpAddr, dst: IpAddr) -> Packet {
    let mut packet =
        Packet { src, dst, protocol: flow.original.protocol, src_port: 0, dst_port: 0, icmp: (0, 0) };
    if let Ports::Pair(port, _) = flow.original.ports {
        packet.src_port = port;
    }
    if let Ports::Pair(port, _) = flow.reply.ports {
        packet.dst_port = port;
    }
    if let Ports::Icmp { kind, code, .. } = flow.original.ports {
        packet.icmp = (kind, code);
    }
    packet
}
