//! Pools, reservations and the objects of address management.

use ipnet::IpNet;

use crate::IPPool;
use crate::defaults;
use crate::error::FieldError;
use crate::net;
use crate::resource::ip_pool::{AllowedUse, AssignmentMode, EncapMode, IPPoolSpec, IPReservationSpec};
use crate::resource::ipam::{BlockAffinitySpec, BlockAffinityState, IPAMBlockSpec, IPAMConfigurationSpec};

use super::Check;

fn on(mode: &EncapMode) -> bool {
    !mode.is_unset() && *mode != EncapMode::Never
}

pub(super) fn pool(c: &mut Check, s: &IPPoolSpec) {
    c.no_longer("cidr", &s.cidr, 48);
    let cidr = match net::cidr(&s.cidr) {
        _ if s.cidr.is_empty() => {
            c.field("cidr", |c| c.problem("required"));
            None
        }
        Err(e) => {
            c.field("cidr", |c| c.problem(e.to_string()));
            None
        }
        Ok(cidr) => Some(cidr),
    };
    c.known("vxlanMode", s.vxlan_mode.as_str(), EncapMode::KNOWN);
    c.known("ipipMode", s.ipip_mode.as_str(), EncapMode::KNOWN);
    c.known("assignmentMode", s.assignment_mode.as_str(), AssignmentMode::KNOWN);
    c.at_most("allowedUses", &s.allowed_uses, 10);
    c.distinct("allowedUses", &s.allowed_uses);
    c.each("allowedUses", &s.allowed_uses, |c, u| {
        if !u.is_known() {
            c.bad(u, format!("must be one of {}", AllowedUse::KNOWN.join(", ")));
        }
    });
    c.plain_selector("nodeSelector", &s.node_selector);
    c.plain_selector("namespaceSelector", &s.namespace_selector);
    if on(&s.ipip_mode) && on(&s.vxlan_mode) {
        c.field("ipipMode", |c| c.problem("cannot be combined with vxlanMode; set one of them to Never"));
    }
    if let Some(cidr) = cidr {
        network(c, s, &cidr);
    }
    if s.allowed_uses.contains(&AllowedUse::LoadBalancer) {
        load_balancer(c, s);
    }
    if s.allowed_uses.contains(&AllowedUse::Tunnel) && !s.namespace_selector.is_empty() {
        c.field("namespaceSelector", |c| c.problem("cannot be combined with the use Tunnel"));
    }
}

fn network(c: &mut Check, s: &IPPoolSpec, cidr: &IpNet) {
    let v6 = cidr.addr().is_ipv6();
    c.field("cidr", |c| {
        if !net::is_masked(cidr) {
            c.bad(&s.cidr, format!("has host bits set; write {}", cidr.trunc()));
        }
        for (local, name) in [("169.254.0.0/16", "IPv4"), ("fe80::/10", "IPv6")] {
            if net::cidr(local).is_ok_and(|l| net::overlap(&l, cidr)) {
                c.bad(&s.cidr, format!("overlaps with the {name} link-local network {local}"));
            }
        }
    });
    if v6 && on(&s.ipip_mode) {
        c.field("ipipMode", |c| c.problem("is not supported for IPv6; use vxlanMode"));
    }
    let (min, max) = if v6 { (116, 128) } else { (20, 32) };
    let block_size = if s.block_size == 0 { defaults::block_size(v6) } else { s.block_size };
    c.within("blockSize", Some(i64::from(block_size)), min, max);
    if !s.disabled
        && (min..=max).contains(&i64::from(block_size))
        && i32::from(cidr.prefix_len()) > block_size
    {
        c.field("cidr", |c| {
            c.bad(&s.cidr, format!("is smaller than one block (/{block_size}); widen it or set blockSize"))
        });
    }
}

fn load_balancer(c: &mut Check, s: &IPPoolSpec) {
    let uses = [AllowedUse::Workload, AllowedUse::Tunnel];
    if s.allowed_uses.iter().any(|u| uses.contains(u)) {
        c.field("allowedUses", |c| c.problem("LoadBalancer cannot be combined with Workload or Tunnel"));
    }
    for (name, wrong) in [("ipipMode", on(&s.ipip_mode)), ("vxlanMode", on(&s.vxlan_mode))] {
        if wrong {
            c.field(name, |c| c.problem("must be Never in a pool for LoadBalancer"));
        }
    }
    if s.disable_bgp_export {
        c.field("disableBGPExport", |c| c.problem("must be false in a pool for LoadBalancer"));
    }
    // An empty selector becomes all() when the pool is written.
    if !["", "all()"].contains(&s.node_selector.as_str()) {
        c.field("nodeSelector", |c| c.bad(&s.node_selector, "must be all() in a pool for LoadBalancer"));
    }
}

pub(super) fn reservation(c: &mut Check, s: &IPReservationSpec) {
    c.distinct("reservedCIDRs", &s.reserved_cidrs);
    c.each("reservedCIDRs", &s.reserved_cidrs, |c, text| {
        if let Err(e) = net::cidr_or_ip(text) {
            c.problem(e.to_string());
        }
    });
}

pub(super) fn ipam_configuration(c: &mut Check, s: &IPAMConfigurationSpec) {
    c.within("maxBlocksPerHost", s.max_blocks_per_host.map(i64::from), 0, 1_000_000);
    c.within("ipCooldownSeconds", s.ip_cooldown_seconds.map(i64::from), 0, 1_200);
    if let Some(p) = s.kubevirt_vm_address_persistence.as_ref().filter(|p| !p.is_known() && !p.is_unset()) {
        c.field("kubeVirtVMAddressPersistence", |c| c.bad(p, "must be Enabled or Disabled"));
    }
}

pub(super) fn block_affinity(c: &mut Check, s: &BlockAffinitySpec) {
    c.known("state", s.state.as_str(), BlockAffinityState::KNOWN);
    c.known("type", s.affinity_type.as_deref().unwrap_or_default(), &["host", "virtual"]);
    if s.node.is_empty() {
        c.field("node", |c| c.problem("required"));
    }
    if let Err(e) = net::cidr(&s.cidr) {
        c.field("cidr", |c| c.problem(e.to_string()));
    }
    if s.deleted {
        c.field("deleted", |c| c.problem("is set by Calico only"));
    }
}

pub(super) fn block(c: &mut Check, s: &IPAMBlockSpec) {
    if let Err(e) = net::cidr(&s.cidr) {
        c.field("cidr", |c| c.problem(e.to_string()));
    }
    if let Some(a) = &s.affinity {
        let name = a.strip_prefix("host:").or_else(|| a.strip_prefix("virtual:")).unwrap_or_default();
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if name.is_empty() || !name.bytes().all(allowed) {
            c.field("affinity", |c| c.bad(a, "must be host:<node> or virtual:<name>"));
        }
    }
}

/// Pairs of pools whose networks overlap, which would let two allocators give out the same address. The problem is
/// reported for the pool with the later name. Pools with an unreadable network are left out.
pub fn overlapping_pools<'a>(pools: impl IntoIterator<Item = &'a IPPool>) -> Vec<(&'a IPPool, FieldError)> {
    let mut read: Vec<(&IPPool, IpNet)> =
        pools.into_iter().filter_map(|p| net::cidr(&p.spec.cidr).ok().map(|n| (p, n))).collect();
    read.sort_by(|(a, _), (b, _)| a.metadata.name.cmp(&b.metadata.name));
    let mut problems = Vec::new();
    for (i, (pool, cidr)) in read.iter().enumerate() {
        for (other, taken) in read.iter().take(i) {
            if net::overlap(cidr, taken) {
                let reason = format!("overlaps with {} of pool {}", other.spec.cidr, other.metadata.name);
                problems.push((*pool, FieldError::with_value("spec.cidr", pool.spec.cidr.as_str(), reason)));
            }
        }
    }
    problems
}
