//! Expressions as the kernel dumps them, read into the canonical form of [`super::expr`].

use super::decode::Literals;
use super::expr::{
    Bytes, CmpOp, CtKey, Expr, FibResult, LogTarget, MetaKey, NatKind, PayloadBase, Reg, RejectKind, SetRef,
    Verdict,
};
use super::object::{Name, OBJECT_COUNTER};
use super::wire::{Attr, Attrs, WireError};

/// The attributes of an expression's data by number; expressions have fewer than 16.
#[derive(Default)]
struct Data<'a> {
    slots: [Option<Attr<'a>>; 16],
}

impl<'a> Data<'a> {
    fn read(attrs: Attrs<'a>) -> Result<Self, WireError> {
        let mut data = Self::default();
        for attr in attrs {
            let attr = attr?;
            if let Some(slot) = data.slots.get_mut(usize::from(attr.kind)) {
                *slot = Some(attr);
            }
        }
        Ok(data)
    }

    fn get(&self, kind: u16) -> Option<Attr<'a>> {
        self.slots.get(usize::from(kind)).copied().flatten()
    }

    fn u32(&self, kind: u16) -> Result<Option<u32>, WireError> {
        self.get(kind).map(|attr| attr.u32()).transpose()
    }

    fn reg(&self, kind: u16) -> Result<Option<Reg>, WireError> {
        Ok(self.u32(kind)?.and_then(Reg::from_number))
    }

    fn value(&self, kind: u16) -> Result<Option<&'a [u8]>, WireError> {
        match self.get(kind) {
            Some(attr) => data_value(attr.nested()),
            None => Ok(None),
        }
    }

    fn bytes(&self, kind: u16) -> Result<Option<Bytes>, WireError> {
        Ok(self.value(kind)?.map(Bytes::from_slice))
    }

    fn name(&self, kind: u16) -> Result<Option<Name>, WireError> {
        self.get(kind).map(|attr| attr.text().map(Name::from)).transpose()
    }
}

/// `NFTA_DATA_VALUE` inside a data attribute.
pub(super) fn data_value(attrs: Attrs<'_>) -> Result<Option<&[u8]>, WireError> {
    for attr in attrs {
        let attr = attr?;
        if attr.kind == 1 {
            return Ok(Some(attr.payload));
        }
    }
    Ok(None)
}

/// `NFTA_DATA_VERDICT` inside a data attribute.
pub(super) fn data_verdict(attrs: Attrs<'_>) -> Result<Option<Verdict>, WireError> {
    for attr in attrs {
        let attr = attr?;
        if attr.kind == 2 {
            let data = Data::read(attr.nested())?;
            let target = data.name(2)?;
            let code = data.u32(1)?.map(|code| code as i32);
            return Ok(match (code, target) {
                (Some(0), _) => Some(Verdict::Drop),
                (Some(1), _) => Some(Verdict::Accept),
                (Some(-1), _) => Some(Verdict::Continue),
                (Some(-3), Some(chain)) => Some(Verdict::Jump(chain)),
                (Some(-4), Some(chain)) => Some(Verdict::Goto(chain)),
                (Some(-5), _) => Some(Verdict::Return),
                _ => None,
            });
        }
    }
    Ok(None)
}

/// Reads one expression; one that this crate does not know, or not in this form, becomes [`Expr::Other`].
pub(super) fn expression(attrs: Attrs<'_>, literals: &Literals) -> Result<Expr, WireError> {
    let (mut name, mut content) = ("", None);
    for attr in attrs {
        let attr = attr?;
        match attr.kind {
            1 => name = attr.text()?,
            2 => content = Some(attr),
            _ => {}
        }
    }
    let data = match content {
        Some(attr) => Data::read(attr.nested())?,
        None => Data::default(),
    };
    let known = known_expression(name, &data, literals)?;
    Ok(known.unwrap_or_else(|| Expr::Other {
        name: name.into(),
        data: content.map(|attr| Bytes::from_slice(attr.payload)).unwrap_or_default(),
    }))
}

fn known_expression(name: &str, data: &Data<'_>, literals: &Literals) -> Result<Option<Expr>, WireError> {
    Ok(match name {
        "meta" => {
            let key = data.u32(2)?.and_then(MetaKey::from_number);
            match (key, data.reg(1)?, data.reg(3)?) {
                (Some(key), Some(dreg), None) => Some(Expr::Meta { key, dreg }),
                (Some(key), None, Some(sreg)) => Some(Expr::MetaSet { key, sreg }),
                _ => None,
            }
        }
        "payload" => payload(data)?,
        "cmp" => match (data.reg(1)?, data.u32(2)?.and_then(CmpOp::from_number), data.bytes(3)?) {
            (Some(sreg), Some(op), Some(value)) => Some(Expr::Cmp { sreg, op, value }),
            _ => None,
        },
        "range" => match (data.reg(1)?, data.u32(2)?, data.bytes(3)?, data.bytes(4)?) {
            (Some(sreg), Some(op @ (0 | 1)), Some(from), Some(to)) => {
                Some(Expr::Range { sreg, negated: op == 1, from, to })
            }
            _ => None,
        },
        "bitwise" => {
            match (data.reg(1)?, data.reg(2)?, data.u32(6)?.unwrap_or(0), data.bytes(4)?, data.bytes(5)?) {
                (Some(sreg), Some(dreg), 0, Some(mask), Some(xor)) => {
                    Some(Expr::Bitwise { sreg, dreg, mask, xor })
                }
                _ => None,
            }
        }
        "lookup" => lookup(data, literals)?,
        "immediate" => match (data.u32(1)?, data.get(2)) {
            (Some(0), Some(attr)) => data_verdict(attr.nested())?.map(Expr::Verdict),
            (Some(number), Some(attr)) => match (Reg::from_number(number), data_value(attr.nested())?) {
                (Some(dreg), Some(value)) => Some(Expr::Immediate { dreg, value: Bytes::from_slice(value) }),
                _ => None,
            },
            _ => None,
        },
        "ct" => match (data.u32(2)?.and_then(CtKey::from_number), data.reg(1)?, data.get(3)) {
            (Some(key), Some(dreg), None) => Some(Expr::Ct { key, dreg }),
            _ => None,
        },
        "fib" => match (data.reg(1)?, data.u32(2)?.and_then(FibResult::from_number), data.u32(3)?) {
            (Some(dreg), Some(result), Some(flags)) => Some(Expr::Fib { dreg, result, flags }),
            _ => None,
        },
        "counter" => Some(Expr::Counter),
        "objref" => match (data.u32(1)?, data.name(2)?) {
            (Some(OBJECT_COUNTER), Some(name)) => Some(Expr::NamedCounter { name }),
            _ => None,
        },
        "limit" => limit(data)?,
        "connlimit" => data
            .u32(1)?
            .map(|count| Ok(Expr::ConnLimit { count, over: data.u32(2)?.unwrap_or(0) & 1 != 0 }))
            .transpose()?,
        "log" => log(data)?,
        "reject" => data.u32(1)?.and_then(RejectKind::from_number).map(|kind| {
            let code = data.get(2).and_then(|attr| attr.u8().ok()).unwrap_or(0);
            Expr::Reject { kind, code }
        }),
        "masq" => {
            Some(Expr::Masquerade { flags: data.u32(1)?.unwrap_or(0), ports: data.reg(2)?.zip(data.reg(3)?) })
        }
        "nat" => match (data.u32(1)?.and_then(NatKind::from_number), data.u32(2)?) {
            (Some(kind), Some(family)) => {
                // The kernel repeats the lowest register as the highest, and sets the flags that the
                // presence of a register implies.
                let implied = u32::from(data.get(3).is_some()) | if data.get(5).is_some() { 2 } else { 0 };
                let flags = data.u32(7)?.unwrap_or(0) & !implied;
                Some(Expr::Nat { kind, family, addr: data.reg(3)?, port: data.reg(5)?, flags })
            }
            _ => None,
        },
        "notrack" => Some(Expr::Notrack),
        "flow_offload" => data.name(1)?.map(|table| Expr::FlowOffload { table }),
        _ => None,
    })
}

fn payload(data: &Data<'_>) -> Result<Option<Expr>, WireError> {
    let base = data.u32(2)?.and_then(PayloadBase::from_number);
    let (Some(base), Some(offset), Some(len)) = (base, data.u32(3)?, data.u32(4)?) else {
        return Ok(None);
    };
    Ok(match (data.reg(1)?, data.reg(5)?) {
        (Some(dreg), None) => Some(Expr::Payload { base, offset, len, dreg }),
        (None, Some(sreg)) => {
            let checksum = match data.u32(6)?.unwrap_or(0) {
                0 => None,
                _ => Some(data.u32(7)?.unwrap_or(0)),
            };
            Some(Expr::PayloadSet { base, offset, len, sreg, checksum })
        }
        _ => None,
    })
}

fn lookup(data: &Data<'_>, literals: &Literals) -> Result<Option<Expr>, WireError> {
    let (Some(name), Some(sreg)) = (data.name(1)?, data.reg(2)?) else { return Ok(None) };
    let set = match literals.get(&name) {
        Some(literal) => SetRef::Literal(literal.clone()),
        None => SetRef::Named(name),
    };
    let negated = data.u32(5)?.unwrap_or(0) & 1 != 0;
    Ok(Some(match data.u32(3)? {
        None => Expr::Lookup { sreg, set, negated },
        Some(number) => Expr::MapLookup { sreg, map: set, dreg: Reg::from_number(number) },
    }))
}

fn limit(data: &Data<'_>) -> Result<Option<Expr>, WireError> {
    let rate = data.get(1).map(|attr| attr.u64()).transpose()?;
    let unit = data.get(2).map(|attr| attr.u64()).transpose()?;
    let (Some(rate), Some(unit), 0) = (rate, unit, data.u32(4)?.unwrap_or(0)) else { return Ok(None) };
    let over = data.u32(5)?.unwrap_or(0) & 1 != 0;
    Ok(Some(Expr::Limit { rate, unit, burst: data.u32(3)?.unwrap_or(0), over }))
}

fn log(data: &Data<'_>) -> Result<Option<Expr>, WireError> {
    let prefix = data.name(2)?;
    let group = data.get(1).map(|attr| attr.u16()).transpose()?;
    let target = match group {
        Some(group) => LogTarget::Group { group, snaplen: data.u32(3)?.unwrap_or(0) },
        None => LogTarget::Kernel { level: data.u32(5)?.unwrap_or(4) },
    };
    Ok(Some(Expr::Log { target, prefix }))
}
