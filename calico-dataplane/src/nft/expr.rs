//! nf_tables expressions: what one rule is made of (`nftables.md` §13).
//!
//! [`Expr`] is the canonical form: what the compiler produces, what the decoder makes of a kernel dump and
//! what the fake kernel evaluates. Two rules are the same when their expressions are equal; counters' values
//! are not part of an expression.
//!
//! ```
//! use calico_dataplane::nft::expr::{CmpOp, Expr, MetaKey, Reg, Verdict};
//!
//! // iifname "cali*" drop
//! let rule = [
//!     Expr::Meta { key: MetaKey::Iifname, dreg: Reg::FIRST },
//!     Expr::Cmp { sreg: Reg::FIRST, op: CmpOp::Eq, value: b"cali".as_slice().into() },
//!     Expr::Verdict(Verdict::Drop),
//! ];
//! let mut bytes = Vec::new();
//! rule.iter().for_each(|expr| expr.encode(&mut bytes));
//! assert_eq!(bytes.len(), 36 + 44 + 48);
//! ```

use std::sync::Arc;

use smallvec::SmallVec;

pub use super::codes::*;
use super::object::LiteralSet;
use super::wire::{close_nested, open_nested, put, put_nested, put_text, put_u32, put_u64};

/// Register and key contents; addresses and names fit without an allocation.
pub type Bytes = SmallVec<[u8; 16]>;

/// A register, counted in 4-byte words from the first data register.
///
/// The kernel shows the same register under two numbers (`NFT_REG_1` = 1 and `NFT_REG32_00` = 8); this is
/// the one form both decode to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reg(u8);

impl Reg {
    /// The register every single-field match uses.
    pub const FIRST: Self = Self(0);
    /// How many words there are.
    pub const COUNT: usize = 16;

    /// Word `index`; `None` when there is no such register.
    pub fn word(index: usize) -> Option<Self> {
        (index < Self::COUNT).then_some(Self(index as u8))
    }

    /// Position in words.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The number the kernel prints for it.
    pub fn number(self) -> u32 {
        if self.0.is_multiple_of(4) { u32::from(self.0 / 4) + 1 } else { u32::from(self.0) + 8 }
    }

    /// The register behind a kernel number; `None` for the verdict register and unknown numbers.
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            1..=4 => Some(Self((number as u8 - 1) * 4)),
            8..=23 => Some(Self(number as u8 - 8)),
            _ => None,
        }
    }
}

/// Where a packet goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// End this base chain; later base chains of the hook still see the packet.
    Accept,
    /// Final.
    Drop,
    /// Next rule.
    Continue,
    /// Back to the caller.
    Return,
    /// To a chain and back.
    Jump(Arc<str>),
    /// To a chain, not back.
    Goto(Arc<str>),
}

impl Verdict {
    /// The kernel's code.
    pub fn code(&self) -> i32 {
        match self {
            Self::Drop => 0,
            Self::Accept => 1,
            Self::Continue => -1,
            Self::Jump(_) => -3,
            Self::Goto(_) => -4,
            Self::Return => -5,
        }
    }

    /// The chain it leads to.
    pub fn target(&self) -> Option<&Arc<str>> {
        match self {
            Self::Jump(chain) | Self::Goto(chain) => Some(chain),
            _ => None,
        }
    }

    /// Writes the content of an `NFTA_DATA_VERDICT` attribute.
    pub(crate) fn encode(&self, buf: &mut Vec<u8>) {
        put_u32(buf, 1, self.code() as u32);
        if let Some(chain) = self.target() {
            put_text(buf, 2, chain);
        }
    }
}

/// The set a look-up refers to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetRef {
    /// A set of the table.
    Named(Arc<str>),
    /// Constant content that belongs to the rule (an anonymous set in the kernel).
    Literal(Arc<LiteralSet>),
}

/// Where a log expression writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogTarget {
    /// The kernel log at this syslog level.
    Kernel {
        /// 6 is `info`.
        level: u32,
    },
    /// An nfnetlink_log group.
    Group {
        /// Group number.
        group: u16,
        /// Bytes of the packet to copy; 0 copies all.
        snaplen: u32,
    },
}

/// One expression of a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Expr {
    /// Loads packet metadata.
    Meta {
        /// What.
        key: MetaKey,
        /// Where to.
        dreg: Reg,
    },
    /// Writes packet metadata (only the mark is used).
    MetaSet {
        /// What.
        key: MetaKey,
        /// Where from.
        sreg: Reg,
    },
    /// Loads packet bytes. A packet without them ends the rule.
    Payload {
        /// Header the offset counts from.
        base: PayloadBase,
        /// First byte.
        offset: u32,
        /// Number of bytes.
        len: u32,
        /// Where to.
        dreg: Reg,
    },
    /// Writes packet bytes.
    PayloadSet {
        /// Header the offset counts from.
        base: PayloadBase,
        /// First byte.
        offset: u32,
        /// Number of bytes.
        len: u32,
        /// Where from.
        sreg: Reg,
        /// Checksum to correct: kind (0 none, 1 internet) and offset.
        checksum: Option<u32>,
    },
    /// Ends the rule unless the comparison holds.
    Cmp {
        /// Left side.
        sreg: Reg,
        /// Operator.
        op: CmpOp,
        /// Right side; its length is the length compared.
        value: Bytes,
    },
    /// Ends the rule unless the register is (not) in the inclusive range.
    Range {
        /// Register.
        sreg: Reg,
        /// True: outside.
        negated: bool,
        /// Lower bound.
        from: Bytes,
        /// Upper bound.
        to: Bytes,
    },
    /// `dreg = (sreg & mask) ^ xor`.
    Bitwise {
        /// Source.
        sreg: Reg,
        /// Destination.
        dreg: Reg,
        /// Mask; its length is the length processed.
        mask: Bytes,
        /// Bits to flip.
        xor: Bytes,
    },
    /// Ends the rule unless the register is (not) in the set.
    Lookup {
        /// First register of the key.
        sreg: Reg,
        /// The set.
        set: SetRef,
        /// True: not in the set.
        negated: bool,
    },
    /// Looks up a map and takes its value: a verdict, or data into `dreg`.
    MapLookup {
        /// First register of the key.
        sreg: Reg,
        /// The map.
        map: SetRef,
        /// `None` for a verdict map.
        dreg: Option<Reg>,
    },
    /// Loads a constant.
    Immediate {
        /// Where to.
        dreg: Reg,
        /// Value.
        value: Bytes,
    },
    /// Ends the rule with a verdict.
    Verdict(Verdict),
    /// Loads connection-tracking data.
    Ct {
        /// What.
        key: CtKey,
        /// Where to.
        dreg: Reg,
    },
    /// Route look-up.
    Fib {
        /// Where the result goes.
        dreg: Reg,
        /// What is returned.
        result: FibResult,
        /// [`fib_flags`].
        flags: u32,
    },
    /// Counts packets and bytes of the rule.
    Counter,
    /// Counts into a named counter of the table.
    NamedCounter {
        /// Name of the counter.
        name: Arc<str>,
    },
    /// Ends the rule when the rate is exceeded (or, `over`, unless it is).
    Limit {
        /// Packets per unit.
        rate: u64,
        /// Unit in seconds.
        unit: u64,
        /// Packets on top.
        burst: u32,
        /// True: match what exceeds the rate.
        over: bool,
    },
    /// Ends the rule when (unless, `over`) the connection count is exceeded.
    ConnLimit {
        /// Number of connections.
        count: u32,
        /// True: match what exceeds the count.
        over: bool,
    },
    /// Logs the packet.
    Log {
        /// Where to.
        target: LogTarget,
        /// Text before the record; at most 127 bytes.
        prefix: Option<Arc<str>>,
    },
    /// Refuses the packet.
    Reject {
        /// How.
        kind: RejectKind,
        /// ICMP code.
        code: u8,
    },
    /// Source NAT to the address of the output interface.
    Masquerade {
        /// `NF_NAT_RANGE_*`.
        flags: u32,
        /// Registers with the lowest and highest port.
        ports: Option<(Reg, Reg)>,
    },
    /// Address translation.
    Nat {
        /// Source or destination.
        kind: NatKind,
        /// 2 or 10.
        family: u32,
        /// Register with the address.
        addr: Option<Reg>,
        /// Register with the port.
        port: Option<Reg>,
        /// `NF_NAT_RANGE_*`.
        flags: u32,
    },
    /// Excludes the packet from connection tracking.
    Notrack,
    /// Moves the connection to a flowtable.
    FlowOffload {
        /// Flowtable of the table.
        table: Arc<str>,
    },
    /// An expression this crate does not produce, as the kernel showed it.
    Other {
        /// Name of the expression.
        name: Arc<str>,
        /// Content of its `NFTA_EXPR_DATA`.
        data: Bytes,
    },
}

/// `NFTA_LIST_ELEM`.
pub(crate) const LIST_ELEM: u16 = 1;
/// Name under which the kernel creates anonymous sets.
const ANONYMOUS_SET: &str = "__set%d";
/// Name under which the kernel creates anonymous maps.
const ANONYMOUS_MAP: &str = "__map%d";

impl Expr {
    /// Appends the expression as an `NFTA_LIST_ELEM`; literal sets are taken to have id 0.
    pub fn encode(&self, buf: &mut Vec<u8>) {
        self.encode_with(buf, &mut |_| 0);
    }

    /// Like [`encode`](Self::encode), asking `literal_id` for the id of each literal set of the batch.
    pub fn encode_with(&self, buf: &mut Vec<u8>, literal_id: &mut dyn FnMut(&Arc<LiteralSet>) -> u32) {
        put_nested(buf, LIST_ELEM, |b| {
            put_text(b, 1, self.kernel_name());
            if !matches!(self, Self::Notrack) {
                let start = open_nested(b, 2);
                self.encode_data(b, literal_id);
                close_nested(b, start);
            }
        });
    }

    /// The name of the kernel's expression type.
    pub fn kernel_name(&self) -> &str {
        match self {
            Self::Meta { .. } | Self::MetaSet { .. } => "meta",
            Self::Payload { .. } | Self::PayloadSet { .. } => "payload",
            Self::Cmp { .. } => "cmp",
            Self::Range { .. } => "range",
            Self::Bitwise { .. } => "bitwise",
            Self::Lookup { .. } | Self::MapLookup { .. } => "lookup",
            Self::Immediate { .. } | Self::Verdict(_) => "immediate",
            Self::Ct { .. } => "ct",
            Self::Fib { .. } => "fib",
            Self::Counter => "counter",
            Self::NamedCounter { .. } => "objref",
            Self::Limit { .. } => "limit",
            Self::ConnLimit { .. } => "connlimit",
            Self::Log { .. } => "log",
            Self::Reject { .. } => "reject",
            Self::Masquerade { .. } => "masq",
            Self::Nat { .. } => "nat",
            Self::Notrack => "notrack",
            Self::FlowOffload { .. } => "flow_offload",
            Self::Other { name, .. } => name,
        }
    }

    fn encode_data(&self, b: &mut Vec<u8>, literal_id: &mut dyn FnMut(&Arc<LiteralSet>) -> u32) {
        match self {
            Self::Meta { key, dreg } => {
                put_u32(b, 2, key.number());
                put_u32(b, 1, dreg.number());
            }
            Self::MetaSet { key, sreg } => {
                put_u32(b, 2, key.number());
                put_u32(b, 3, sreg.number());
            }
            Self::Payload { base, offset, len, dreg } => {
                put_u32(b, 1, dreg.number());
                put_u32(b, 2, base.number());
                put_u32(b, 3, *offset);
                put_u32(b, 4, *len);
            }
            Self::PayloadSet { base, offset, len, sreg, checksum } => {
                put_u32(b, 5, sreg.number());
                put_u32(b, 2, base.number());
                put_u32(b, 3, *offset);
                put_u32(b, 4, *len);
                put_u32(b, 6, u32::from(checksum.is_some()));
                put_u32(b, 7, checksum.unwrap_or(0));
            }
            Self::Cmp { sreg, op, value } => {
                put_u32(b, 1, sreg.number());
                put_u32(b, 2, op.number());
                put_value(b, 3, value);
            }
            Self::Range { sreg, negated, from, to } => {
                put_u32(b, 1, sreg.number());
                put_u32(b, 2, u32::from(*negated));
                put_value(b, 3, from);
                put_value(b, 4, to);
            }
            Self::Bitwise { sreg, dreg, mask, xor } => {
                put_u32(b, 1, sreg.number());
                put_u32(b, 2, dreg.number());
                put_u32(b, 3, mask.len() as u32);
                put_value(b, 4, mask);
                put_value(b, 5, xor);
            }
            Self::Lookup { sreg, set, negated } => {
                put_set_ref(b, set, *sreg, literal_id);
                if *negated {
                    put_u32(b, 5, 1);
                }
            }
            Self::MapLookup { sreg, map, dreg } => {
                put_set_ref(b, map, *sreg, literal_id);
                put_u32(b, 3, dreg.map_or(0, Reg::number));
            }
            Self::Immediate { dreg, value } => {
                put_u32(b, 1, dreg.number());
                put_value(b, 2, value);
            }
            Self::Verdict(verdict) => {
                put_u32(b, 1, 0);
                put_nested(b, 2, |b| put_nested(b, 2, |b| verdict.encode(b)));
            }
            Self::Ct { key, dreg } => {
                put_u32(b, 2, key.number());
                put_u32(b, 1, dreg.number());
            }
            Self::Fib { dreg, result, flags } => {
                put_u32(b, 1, dreg.number());
                put_u32(b, 2, result.number());
                put_u32(b, 3, *flags);
            }
            Self::Counter | Self::Notrack => {}
            Self::NamedCounter { name } => {
                put_u32(b, 1, super::object::OBJECT_COUNTER);
                put_text(b, 2, name);
            }
            Self::Limit { rate, unit, burst, over } => {
                put_u64(b, 1, *rate);
                put_u64(b, 2, *unit);
                put_u32(b, 3, *burst);
                put_u32(b, 4, 0);
                put_u32(b, 5, u32::from(*over));
            }
            Self::ConnLimit { count, over } => {
                put_u32(b, 1, *count);
                put_u32(b, 2, u32::from(*over));
            }
            Self::Log { target, prefix } => {
                if let Some(prefix) = prefix {
                    put_text(b, 2, prefix);
                }
                match target {
                    LogTarget::Kernel { level } => put_u32(b, 5, *level),
                    LogTarget::Group { group, snaplen } => {
                        put(b, 1, &group.to_be_bytes());
                        if *snaplen != 0 {
                            put_u32(b, 3, *snaplen);
                        }
                    }
                }
            }
            Self::Reject { kind, code } => {
                put_u32(b, 1, kind.number());
                if *kind != RejectKind::TcpReset {
                    put(b, 2, &[*code]);
                }
            }
            Self::Masquerade { flags, ports } => {
                if *flags != 0 {
                    put_u32(b, 1, *flags);
                }
                if let Some((low, high)) = ports {
                    put_u32(b, 2, low.number());
                    put_u32(b, 3, high.number());
                }
            }
            Self::Nat { kind, family, addr, port, flags } => {
                put_u32(b, 1, kind.number());
                put_u32(b, 2, *family);
                if let Some(addr) = addr {
                    put_u32(b, 3, addr.number());
                }
                if let Some(port) = port {
                    put_u32(b, 5, port.number());
                }
                if *flags != 0 {
                    put_u32(b, 7, *flags);
                }
            }
            Self::FlowOffload { table } => put_text(b, 1, table),
            Self::Other { data, .. } => b.extend_from_slice(data),
        }
    }

    /// The verdict, when the expression is one.
    pub fn verdict(&self) -> Option<&Verdict> {
        match self {
            Self::Verdict(verdict) => Some(verdict),
            _ => None,
        }
    }

    /// The set or map the expression refers to, to be replaced.
    pub(crate) fn set_mut(&mut self) -> Option<&mut SetRef> {
        match self {
            Self::Lookup { set, .. } => Some(set),
            Self::MapLookup { map, .. } => Some(map),
            _ => None,
        }
    }

    /// The set or map the expression refers to.
    pub fn set(&self) -> Option<&SetRef> {
        match self {
            Self::Lookup { set, .. } => Some(set),
            Self::MapLookup { map, .. } => Some(map),
            _ => None,
        }
    }
}

/// A nested `NFTA_DATA_VALUE`.
pub(crate) fn put_value(buf: &mut Vec<u8>, kind: u16, value: &[u8]) {
    put_nested(buf, kind, |b| put(b, 1, value));
}

fn put_set_ref(
    b: &mut Vec<u8>,
    set: &SetRef,
    sreg: Reg,
    literal_id: &mut dyn FnMut(&Arc<LiteralSet>) -> u32,
) {
    match set {
        SetRef::Named(name) => {
            put_text(b, 1, name);
            put_u32(b, 2, sreg.number());
        }
        SetRef::Literal(literal) => {
            put_text(b, 1, anonymous_name(literal));
            put_u32(b, 2, sreg.number());
            put_u32(b, 4, literal_id(literal));
        }
    }
}

/// The name pattern under which a literal set is created.
pub(crate) fn anonymous_name(literal: &LiteralSet) -> &'static str {
    if literal.spec.is_map() { ANONYMOUS_MAP } else { ANONYMOUS_SET }
}
