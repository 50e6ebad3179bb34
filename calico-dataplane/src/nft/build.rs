//! Small vocabulary for writing rules: each function is one line of an `nft` script.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use calico_policy::ir::{Family, Side};

use super::expr::{
    CmpOp, CtKey, Expr, FIB_ADDR_LOCAL, FibResult, MetaKey, PayloadBase, Reg, RejectKind, SetRef, Verdict,
    ct_state, fib_flags,
};
use super::object::{Element, Elements, Field, Key, KeyBytes, LiteralSet, Name, SetSpec};

/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
pub(crate) fn nfproto(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

/// Family of a CIDR.
pub(crate) fn family_of(net: &IpNet) -> Family {
    match net {
        IpNet::V4(_) => Family::V4,
        IpNet::V6(_) => Family::V6,
    }
}

/// Bytes of an address.
pub(crate) fn octets(addr: IpAddr) -> KeyBytes {
    match addr {
        IpAddr::V4(addr) => KeyBytes::from_slice(&addr.octets()),
        IpAddr::V6(addr) => KeyBytes::from_slice(&addr.octets()),
    }
}

/// The range of addresses of a CIDR.
pub(crate) fn net_key(net: &IpNet) -> Key {
    Key::range(&octets(net.network()), &octets(net.broadcast()))
}

/// An interface name as a 16-byte key.
pub(crate) fn ifname_key(name: &str) -> KeyBytes {
    let mut bytes = KeyBytes::from_slice(name.as_bytes().get(..15).unwrap_or(name.as_bytes()));
    bytes.resize(16, 0);
    bytes
}

/// The address field of a family.
pub(crate) fn addr_field(family: Family) -> Field {
    match family {
        Family::V4 => Field::Ipv4,
        Family::V6 => Field::Ipv6,
    }
}

pub(crate) fn meta(key: MetaKey) -> Expr {
    Expr::Meta { key, dreg: Reg::FIRST }
}

pub(crate) fn cmp(op: CmpOp, value: &[u8]) -> Expr {
    Expr::Cmp { sreg: Reg::FIRST, op, value: value.into() }
}

pub(crate) fn eq(value: &[u8]) -> Expr {
    cmp(CmpOp::Eq, value)
}

pub(crate) fn is_family(family: Family) -> [Expr; 2] {
    [meta(MetaKey::Nfproto), eq(&[nfproto(family)])]
}

pub(crate) fn is_protocol(protocol: u8) -> [Expr; 2] {
    [meta(MetaKey::L4proto), eq(&[protocol])]
}

/// Loads an address into `reg`.
pub(crate) fn load_addr(family: Family, side: Side, dreg: Reg) -> Expr {
    let (offset, len) = match (family, side) {
        (Family::V4, Side::Source) => (12, 4),
        (Family::V4, Side::Destination) => (16, 4),
        (Family::V6, Side::Source) => (8, 16),
        (Family::V6, Side::Destination) => (24, 16),
    };
    Expr::Payload { base: PayloadBase::Network, offset, len, dreg }
}

/// Loads a port into `reg`.
pub(crate) fn load_port(side: Side, dreg: Reg) -> Expr {
    let offset = match side {
        Side::Source => 0,
        Side::Destination => 2,
    };
    Expr::Payload { base: PayloadBase::Transport, offset, len: 2, dreg }
}

pub(crate) fn in_set(set: &Name) -> Expr {
    Expr::Lookup { sreg: Reg::FIRST, set: SetRef::Named(set.clone()), negated: false }
}

pub(crate) fn not_in_set(set: &Name) -> Expr {
    Expr::Lookup { sreg: Reg::FIRST, set: SetRef::Named(set.clone()), negated: true }
}

pub(crate) fn in_literal(set: Arc<LiteralSet>, negated: bool) -> Expr {
    Expr::Lookup { sreg: Reg::FIRST, set: SetRef::Literal(set), negated }
}

/// A literal set; it holds ranges when one of the keys is one.
pub(crate) fn literal(field: Field, keys: impl IntoIterator<Item = Key>) -> Arc<LiteralSet> {
    let elements: Elements = keys.into_iter().map(|key| (key, Element::default())).collect();
    let interval = elements.keys().any(|key| key.high.is_some());
    Arc::new(LiteralSet { spec: SetSpec { key: [field].as_slice().into(), interval, data: None }, elements })
}

pub(crate) fn vmap(map: &Name) -> Expr {
    Expr::MapLookup { sreg: Reg::FIRST, map: SetRef::Named(map.clone()), dreg: None }
}

pub(crate) fn accept() -> Expr {
    Expr::Verdict(Verdict::Accept)
}

pub(crate) fn drop_packet() -> Expr {
    Expr::Verdict(Verdict::Drop)
}

pub(crate) fn jump(chain: &Name) -> Expr {
    Expr::Verdict(Verdict::Jump(chain.clone()))
}

pub(crate) fn goto(chain: &Name) -> Expr {
    Expr::Verdict(Verdict::Goto(chain.clone()))
}

/// Refuses with an ICMP error (port unreachable).
pub(crate) fn reject() -> Expr {
    Expr::Reject { kind: RejectKind::IcmpxUnreach, code: 1 }
}

/// The interface name starts with `prefix`.
pub(crate) fn interface_prefix(key: MetaKey, prefix: &str) -> [Expr; 2] {
    [meta(key), eq(prefix.as_bytes())]
}

/// The bits of `mask` in a 4-byte host-order value that was loaded: any set, or none.
fn any_bit(mask: u32, set: bool) -> [Expr; 2] {
    [
        Expr::Bitwise {
            sreg: Reg::FIRST,
            dreg: Reg::FIRST,
            mask: mask.to_ne_bytes().as_slice().into(),
            xor: [0u8; 4].as_slice().into(),
        },
        cmp(if set { CmpOp::Neq } else { CmpOp::Eq }, &[0; 4]),
    ]
}

/// `ct state established,related`.
pub(crate) fn is_established() -> Vec<Expr> {
    let mut exprs = vec![Expr::Ct { key: CtKey::State, dreg: Reg::FIRST }];
    exprs.extend(any_bit(ct_state::ESTABLISHED | ct_state::RELATED, true));
    exprs
}

/// `ct state invalid`.
pub(crate) fn is_invalid() -> Vec<Expr> {
    let mut exprs = vec![Expr::Ct { key: CtKey::State, dreg: Reg::FIRST }];
    exprs.extend(any_bit(ct_state::INVALID, true));
    exprs
}

/// The packet mark has a bit of `mask` (or has none).
pub(crate) fn mark_has(mask: u32, set: bool) -> Vec<Expr> {
    let mut exprs = vec![meta(MetaKey::Mark)];
    exprs.extend(any_bit(mask, set));
    exprs
}

/// Sets or clears the bits of `bits` in the packet mark.
pub(crate) fn change_mark(bits: u32, set: bool) -> [Expr; 3] {
    [
        meta(MetaKey::Mark),
        Expr::Bitwise {
            sreg: Reg::FIRST,
            dreg: Reg::FIRST,
            mask: (!bits).to_ne_bytes().as_slice().into(),
            xor: if set { bits } else { 0 }.to_ne_bytes().as_slice().into(),
        },
        Expr::MetaSet { key: MetaKey::Mark, sreg: Reg::FIRST },
    ]
}

/// Sets the DSCP value of a packet of one family.
pub(crate) fn set_dscp(family: Family, value: u8) -> [Expr; 3] {
    let value = value & 0x3f;
    // IPv4 has the value in the upper six bits of its second byte, IPv6 four bits further to the left.
    let (mask, xor, checksum): ([u8; 2], [u8; 2], _) = match family {
        Family::V4 => ([0xff, 0x03], [0, value << 2], Some(10)),
        Family::V6 => ([0xf0, 0x3f], [value >> 2, value << 6], None),
    };
    let (base, offset, len) = (PayloadBase::Network, 0, 2);
    [
        Expr::Payload { base, offset, len, dreg: Reg::FIRST },
        Expr::Bitwise {
            sreg: Reg::FIRST,
            dreg: Reg::FIRST,
            mask: mask.as_slice().into(),
            xor: xor.as_slice().into(),
        },
        Expr::PayloadSet { base, offset, len, sreg: Reg::FIRST, checksum },
    ]
}

/// `fib daddr type local` or `fib saddr type local`.
pub(crate) fn is_local(side: Side) -> [Expr; 2] {
    let flags = match side {
        Side::Source => fib_flags::SADDR,
        Side::Destination => fib_flags::DADDR,
    };
    [Expr::Fib { dreg: Reg::FIRST, result: FibResult::AddrType, flags }, eq(&FIB_ADDR_LOCAL.to_ne_bytes())]
}

/// The address is inside one CIDR; nothing to check for a /0.
pub(crate) fn in_net(family: Family, side: Side, net: &IpNet, negated: bool) -> Vec<Expr> {
    let op = if negated { CmpOp::Neq } else { CmpOp::Eq };
    let prefix = usize::from(net.prefix_len());
    let bytes = octets(net.network());
    let Expr::Payload { base, offset, len, dreg } = load_addr(family, side, Reg::FIRST) else {
        return Vec::new();
    };
    if prefix == 0 {
        return Vec::new();
    }
    if prefix.is_multiple_of(8) {
        let width = prefix / 8;
        let value = bytes.get(..width).unwrap_or(&bytes);
        return vec![Expr::Payload { base, offset, len: width as u32, dreg }, cmp(op, value)];
    }
    let mask = octets(net.netmask());
    let zero = KeyBytes::from_elem(0, bytes.len());
    vec![
        Expr::Payload { base, offset, len, dreg },
        Expr::Bitwise {
            sreg: Reg::FIRST,
            dreg: Reg::FIRST,
            mask: mask.as_slice().into(),
            xor: zero.as_slice().into(),
        },
        cmp(op, &bytes),
    ]
}
