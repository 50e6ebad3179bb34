//! Evaluates packets against a ruleset in user space, expression by expression, as the kernel does.
//!
//! It makes the compiler testable without privilege: the verdict of the compiled expressions is compared with the
//! verdict of the policy itself for millions of packets.
//!
//! ```
//! use calico_dataplane::nft::eval::{Fate, Frame, run_hook};
//! use calico_dataplane::nft::object::{Hook, Ruleset};
//! use calico_policy::packet::Packet;
//!
//! let packet = Packet::tcp("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap(), 80);
//! let mut frame = Frame::forwarded(packet, "eth0", "cali1");
//! assert_eq!(run_hook(&Ruleset::default(), Hook::Forward, &mut frame), Fate::Accepted);
//! ```

use std::net::IpAddr;

use calico_policy::packet::{Packet, has_ports};

use super::build::{ifname_key, octets};
use super::expr::{
    Bytes, CmpOp, CtKey, Expr, FibResult, MetaKey, PayloadBase, Reg, SetRef, Verdict, ct_state, fib_flags,
};
use super::object::{ChainKind, Elements, Hook, Key, KeyBytes, Name, Ruleset, SetSpec, Value};

/// Nested jumps the kernel allows.
const MAX_DEPTH: usize = 16;

/// A packet on its way through the hooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Headers.
    pub packet: Packet,
    /// Input interface; empty for what this machine sends.
    pub iifname: String,
    /// Output interface; empty where it is not known yet.
    pub oifname: String,
    /// Packet mark.
    pub mark: u32,
    /// Bits of [`ct_state`].
    pub state: u32,
    /// Bits of [`super::expr::ct_status`].
    pub status: u32,
    /// Addresses of this machine.
    pub local: Vec<IpAddr>,
}

impl Frame {
    /// The first packet of a forwarded connection.
    pub fn forwarded(packet: Packet, iifname: &str, oifname: &str) -> Self {
        Self {
            packet,
            iifname: iifname.to_owned(),
            oifname: oifname.to_owned(),
            mark: 0,
            state: ct_state::NEW,
            status: 0,
            local: Vec::new(),
        }
    }

    fn network(&self) -> Vec<u8> {
        let (src, dst) = (octets(self.packet.src), octets(self.packet.dst));
        match self.packet.dst {
            IpAddr::V4(_) => {
                let mut header = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, self.packet.protocol, 0, 0];
                header.extend_from_slice(&src);
                header.extend_from_slice(&dst);
                header
            }
            IpAddr::V6(_) => {
                let mut header = vec![0x60, 0, 0, 0, 0, 20, self.packet.protocol, 64];
                header.extend_from_slice(&src);
                header.extend_from_slice(&dst);
                header
            }
        }
    }

    fn transport(&self) -> Vec<u8> {
        let packet = &self.packet;
        let is_icmp = packet.icmp().is_some();
        if is_icmp && !has_ports(packet.protocol) {
            return vec![packet.icmp.0, packet.icmp.1, 0, 0, 0, 0, 0, 0];
        }
        // Protocols without ports get the bytes too: a rule that forgets to check the protocol is found out.
        let mut bytes = packet.src_port.to_be_bytes().to_vec();
        bytes.extend_from_slice(&packet.dst_port.to_be_bytes());
        bytes.extend_from_slice(&[0; 16]);
        bytes
    }
}

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Accepted,
    /// Dropped, or refused with an error, in this chain.
    Dropped(Name),
}

/// How a chain ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With `accept`.
    Accept,
    /// With `drop` or `reject`, in this chain.
    Drop(Name),
    /// Without a verdict.
    Through,
}

/// Runs every base chain of a hook in order of priority. NAT chains are skipped.
pub fn run_hook(ruleset: &Ruleset, hook: Hook, frame: &mut Frame) -> Fate {
    let mut bases: Vec<(i32, &Name)> = ruleset
        .chains
        .iter()
        .filter_map(|(name, chain)| {
            let base = chain.base.filter(|base| base.hook == hook && base.kind != ChainKind::Nat)?;
            Some((base.priority, name))
        })
        .collect();
    bases.sort();
    for (_, name) in bases {
        if let End::Drop(chain) = run_chain(ruleset, name, frame) {
            return Fate::Dropped(chain);
        }
    }
    Fate::Accepted
}

/// Runs one chain and what it leads to.
pub fn run_chain(ruleset: &Ruleset, chain: &Name, frame: &mut Frame) -> End {
    run(ruleset, chain, frame, 0)
}

fn run(ruleset: &Ruleset, name: &Name, frame: &mut Frame, depth: usize) -> End {
    // Too deep or nowhere: the kernel would not have taken such a ruleset.
    let Some(chain) = ruleset.chains.get(name).filter(|_| depth <= MAX_DEPTH) else {
        return End::Drop(name.clone());
    };
    for rule in &chain.rules {
        match run_rule(ruleset, &rule.exprs, frame) {
            None | Some(Verdict::Continue) => {}
            Some(Verdict::Accept) => return End::Accept,
            Some(Verdict::Drop) => return End::Drop(name.clone()),
            Some(Verdict::Return) => return End::Through,
            Some(Verdict::Goto(target)) => return run(ruleset, &target, frame, depth + 1),
            Some(Verdict::Jump(target)) => match run(ruleset, &target, frame, depth + 1) {
                End::Through => {}
                end => return end,
            },
        }
    }
    End::Through
}

/// The verdict of a rule; `None` when it does not match or has none.
fn run_rule(ruleset: &Ruleset, exprs: &[Expr], frame: &mut Frame) -> Option<Verdict> {
    let mut registers = Registers { bytes: [0; Reg::COUNT * 4] };
    for expr in exprs {
        match expr {
            Expr::Meta { key, dreg } => registers.store(*dreg, &meta(frame, *key)),
            Expr::MetaSet { key: MetaKey::Mark, sreg } => {
                let bytes = registers.load(*sreg, 4);
                frame.mark = <[u8; 4]>::try_from(bytes.as_slice()).map_or(0, u32::from_ne_bytes);
            }
            Expr::Payload { base, offset, len, dreg } => {
                let header = match base {
                    PayloadBase::Link => return None,
                    PayloadBase::Network => frame.network(),
                    PayloadBase::Transport => frame.transport(),
                };
                let start = *offset as usize;
                registers.store(*dreg, header.get(start..start + *len as usize)?);
            }
            Expr::Cmp { sreg, op, value } => {
                let held = registers.load(*sreg, value.len());
                let order = held.as_slice().cmp(value.as_slice());
                let holds = match op {
                    CmpOp::Eq => order.is_eq(),
                    CmpOp::Neq => order.is_ne(),
                    CmpOp::Lt => order.is_lt(),
                    CmpOp::Lte => order.is_le(),
                    CmpOp::Gt => order.is_gt(),
                    CmpOp::Gte => order.is_ge(),
                };
                if !holds {
                    return None;
                }
            }
            Expr::Range { sreg, negated, from, to } => {
                let held = registers.load(*sreg, from.len());
                let inside = held.as_slice() >= from.as_slice() && held.as_slice() <= to.as_slice();
                if inside == *negated {
                    return None;
                }
            }
            Expr::Bitwise { sreg, dreg, mask, xor } => {
                let held = registers.load(*sreg, mask.len());
                let result: Bytes = held
                    .iter()
                    .zip(mask.iter().zip(xor))
                    .map(|(byte, (mask, xor))| byte & mask ^ xor)
                    .collect();
                registers.store(*dreg, &result);
            }
            Expr::Lookup { sreg, set, negated } => {
                if find(ruleset, set, &registers, *sreg)?.is_some() == *negated {
                    return None;
                }
            }
            Expr::MapLookup { sreg, map, dreg } => match find(ruleset, map, &registers, *sreg)?? {
                Value::Verdict(verdict) => return Some(verdict),
                Value::Data(data) => registers.store((*dreg)?, &data),
            },
            Expr::Immediate { dreg, value } => registers.store(*dreg, value),
            Expr::Verdict(verdict) => return Some(verdict.clone()),
            Expr::Ct { key, dreg } => {
                let value = match key {
                    CtKey::State => frame.state,
                    CtKey::Status => frame.status,
                    CtKey::Mark => 0,
                };
                registers.store(*dreg, &value.to_ne_bytes());
            }
            Expr::Fib { dreg, result, flags } => {
                let addr = if flags & fib_flags::SADDR != 0 { frame.packet.src } else { frame.packet.dst };
                let local = frame.local.contains(&addr);
                let value: u32 = match result {
                    FibResult::AddrType => {
                        if local {
                            super::expr::FIB_ADDR_LOCAL
                        } else {
                            1
                        }
                    }
                    FibResult::Oif | FibResult::Oifname => 1,
                };
                registers.store(*dreg, &value.to_ne_bytes());
            }
            Expr::Notrack => frame.state = ct_state::UNTRACKED,
            Expr::Reject { .. } => return Some(Verdict::Drop),
            // Limits are not exceeded here, records are not kept, translation happens elsewhere.
            Expr::Limit { over: false, .. } | Expr::ConnLimit { over: false, .. } => {}
            Expr::Limit { .. } | Expr::ConnLimit { .. } => return None,
            Expr::Counter | Expr::NamedCounter { .. } | Expr::Log { .. } | Expr::FlowOffload { .. } => {}
            Expr::MetaSet { .. } | Expr::PayloadSet { .. } => {}
            Expr::Masquerade { .. } | Expr::Nat { .. } => return Some(Verdict::Accept),
            Expr::Other { .. } => return None,
        }
    }
    None
}

struct Registers {
    bytes: [u8; Reg::COUNT * 4],
}

impl Registers {
    fn store(&mut self, reg: Reg, value: &[u8]) {
        let start = reg.index() * 4;
        let padded = value.len().next_multiple_of(4);
        if let Some(words) = self.bytes.get_mut(start..start + padded) {
            words.fill(0);
            for (word, byte) in words.iter_mut().zip(value) {
                *word = *byte;
            }
        }
    }

    fn load(&self, reg: Reg, len: usize) -> Bytes {
        let start = reg.index() * 4;
        self.bytes.get(start..start + len).map(Bytes::from_slice).unwrap_or_default()
    }
}

fn meta(frame: &Frame, key: MetaKey) -> Bytes {
    match key {
        MetaKey::Mark => Bytes::from_slice(&frame.mark.to_ne_bytes()),
        MetaKey::Iif => Bytes::from_slice(&u32::from(!frame.iifname.is_empty()).to_ne_bytes()),
        MetaKey::Oif => Bytes::from_slice(&u32::from(!frame.oifname.is_empty()).to_ne_bytes()),
        MetaKey::Iifname => Bytes::from_slice(&ifname_key(&frame.iifname)),
        MetaKey::Oifname => Bytes::from_slice(&ifname_key(&frame.oifname)),
        MetaKey::Nfproto => Bytes::from_slice(&[if frame.packet.dst.is_ipv4() { 2 } else { 10 }]),
        MetaKey::L4proto => Bytes::from_slice(&[frame.packet.protocol]),
    }
}

/// Outer `None`: there is no such set. Inner `None`: not a member. A set's members carry no value.
#[allow(clippy::option_option)]
fn find(ruleset: &Ruleset, set: &SetRef, registers: &Registers, sreg: Reg) -> Option<Option<Value>> {
    let (spec, elements): (&SetSpec, &Elements) = match set {
        SetRef::Named(name) => {
            let set = ruleset.sets.get(name)?;
            (&set.spec, &set.elements)
        }
        SetRef::Literal(literal) => (&literal.spec, &literal.elements),
    };
    let key = KeyBytes::from_slice(&registers.load(sreg, spec.key_len()));
    let element = if !spec.interval {
        elements.get(&Key { low: key, high: None })
    } else if spec.is_concat() {
        elements.iter().find(|(range, _)| every_field_inside(spec, &key, range)).map(|(_, element)| element)
    } else {
        let upper = Key { low: key.clone(), high: Some(KeyBytes::from_elem(0xff, key.len())) };
        elements
            .range(..=upper)
            .next_back()
            .filter(|(range, _)| range.low <= key && key <= *range.upper())
            .map(|(_, element)| element)
    };
    Some(element.map(|element| element.value.clone().unwrap_or(Value::Data(Bytes::new()))))
}

fn every_field_inside(spec: &SetSpec, key: &KeyBytes, range: &Key) -> bool {
    let mut offset = 0;
    spec.key.iter().all(|field| {
        let part = offset..offset + field.width();
        offset += field.padded_width();
        match (key.get(part.clone()), range.low.get(part.clone()), range.upper().get(part)) {
            (Some(value), Some(low), Some(high)) => low <= value && value <= high,
            _ => false,
        }
    })
}
