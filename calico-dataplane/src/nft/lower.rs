//! Rules of the IR to nf_tables rules.
//!
//! Verdicts are final, so alternatives (numeric ports or a named-port set) are simply several kernel rules with
//! the same verdict; no mark bits. A rule that looks at addresses is written once per family, any other once.

use std::sync::Arc;

use thiserror::Error;

use calico_policy::ir::{Family, Match, PortRanges, Rule as IrRule, SetId, Side};
use calico_policy::packet::{SCTP, TCP, UDP};
use ipnet::IpNet;

use super::build::{
    addr_field, cmp, eq, family_of, in_literal, in_net, in_set, is_family, is_protocol, literal, load_addr,
    load_port, meta, net_key, not_in_set,
};
use super::expr::{CmpOp, Expr, MetaKey, PayloadBase, Reg};
use super::object::{Field, Key, Name};

/// The kernel takes 128 expressions a rule; what a verdict adds must fit too.
const MAX_EXPRESSIONS: usize = 112;
/// A rule with more alternatives than this is a mistake of whoever made it.
const MAX_ALTERNATIVES: usize = 4096;

/// Why a rule cannot be expressed. Its policy fails closed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum LowerError {
    /// It refers to a set that the dataplane was not told about.
    #[error("rule {index} refers to set {set}, which does not exist")]
    UnknownSet {
        /// Rule index.
        index: u32,
        /// The set.
        set: SetId,
    },
    /// It has more criteria or alternatives than a kernel rule can hold.
    #[error("rule {index} is too large: {size} expressions or alternatives")]
    TooLarge {
        /// Rule index.
        index: u32,
        /// How large.
        size: usize,
    },
}

/// What lowering must know about the world.
pub trait Sets {
    /// Name of the kernel set holding one family of an IP set.
    fn kernel_set(&self, set: &SetId, family: Family) -> Option<Name>;
}

/// Criteria of one kernel rule.
type Exprs = Vec<Expr>;

/// The criteria of `rule` as kernel rules, each to be completed with the same verdict. An empty list means that
/// no packet can match.
///
/// # Errors
/// See [`LowerError`].
pub fn lower(rule: &IrRule, sets: &impl Sets, ipv6: bool) -> Result<Vec<Exprs>, LowerError> {
    let families = rule.matches.iter().find_map(|criterion| match criterion {
        Match::Family(family) => Some(*family),
        _ => None,
    });
    let lowering = Lowering { rule, sets };
    if families.is_none() && !rule.matches.iter().any(looks_at_family) {
        return lowering.family_blind();
    }
    let mut out = Vec::new();
    for family in [Family::V4, Family::V6] {
        let excluded = families.is_some_and(|only| only != family) || (family == Family::V6 && !ipv6);
        if !excluded {
            out.extend(lowering.one_family(family)?);
        }
    }
    Ok(out)
}

fn looks_at_family(criterion: &Match) -> bool {
    match criterion {
        Match::Nets { .. } | Match::AddrInSet { .. } | Match::Icmp { .. } => true,
        Match::Ports { named, .. } => !named.is_empty(),
        Match::Family(_) | Match::Protocol { .. } => false,
    }
}

struct Lowering<'a, S> {
    rule: &'a IrRule,
    sets: &'a S,
}

impl<S: Sets> Lowering<'_, S> {
    fn family_blind(&self) -> Result<Vec<Exprs>, LowerError> {
        let alternatives = vec![self.protocols()];
        self.expand(alternatives, None)
    }

    fn one_family(&self, family: Family) -> Result<Vec<Exprs>, LowerError> {
        let mut exprs = is_family(family).to_vec();
        exprs.extend(self.protocols());
        for criterion in &self.rule.matches {
            match criterion {
                Match::Nets { side, negated, nets } => match nets_of(family, *side, *negated, nets) {
                    Some(more) => exprs.extend(more),
                    None => return Ok(Vec::new()),
                },
                Match::AddrInSet { side, negated, set } => {
                    let name = self.set(set, family)?;
                    exprs.push(load_addr(family, *side, Reg::FIRST));
                    exprs.push(if *negated { not_in_set(&name) } else { in_set(&name) });
                }
                Match::Icmp { negated, icmp_type, code } => {
                    let own = match family {
                        Family::V4 => 1,
                        Family::V6 => 58,
                    };
                    // The compiler adds the protocol; repeating it here keeps TCP bytes from being taken for a type.
                    exprs.extend(is_protocol(own));
                    let (len, value) = match code {
                        Some(code) => (2, vec![*icmp_type, *code]),
                        None => (1, vec![*icmp_type]),
                    };
                    exprs.push(Expr::Payload {
                        base: PayloadBase::Transport,
                        offset: 0,
                        len,
                        dreg: Reg::FIRST,
                    });
                    exprs.push(cmp(if *negated { CmpOp::Neq } else { CmpOp::Eq }, &value));
                }
                Match::Family(_) | Match::Protocol { .. } | Match::Ports { .. } => {}
            }
        }
        self.expand(vec![exprs], Some(family))
    }

    /// Multiplies the rules by the alternatives of the port criteria.
    fn expand(&self, mut rules: Vec<Exprs>, family: Option<Family>) -> Result<Vec<Exprs>, LowerError> {
        for criterion in &self.rule.matches {
            let Match::Ports { side, negated, ranges, named } = criterion else { continue };
            let alternatives = self.ports(*side, *negated, ranges, named, family)?;
            if rules.len() * alternatives.len() > MAX_ALTERNATIVES {
                return Err(self.too_large(rules.len() * alternatives.len()));
            }
            rules = rules
                .iter()
                .flat_map(|rule| alternatives.iter().map(|more| rule.iter().chain(more).cloned().collect()))
                .collect();
        }
        match rules.iter().map(Vec::len).max() {
            Some(size) if size > MAX_EXPRESSIONS => Err(self.too_large(size)),
            _ => Ok(rules),
        }
    }

    fn too_large(&self, size: usize) -> LowerError {
        LowerError::TooLarge { index: self.rule.index, size }
    }

    fn set(&self, set: &SetId, family: Family) -> Result<Name, LowerError> {
        self.sets
            .kernel_set(set, family)
            .ok_or_else(|| LowerError::UnknownSet { index: self.rule.index, set: set.clone() })
    }

    fn protocols(&self) -> Exprs {
        let mut exprs = Exprs::new();
        for criterion in &self.rule.matches {
            let Match::Protocol { negated, protocols } = criterion else { continue };
            exprs.push(meta(MetaKey::L4proto));
            exprs.push(match protocols.as_slice() {
                [one] => cmp(if *negated { CmpOp::Neq } else { CmpOp::Eq }, &[*one]),
                many => in_literal(literal(Field::Proto, many.iter().map(|p| Key::value(&[*p]))), *negated),
            });
        }
        exprs
    }

    /// True when the rule's protocol criteria leave only protocols that have ports.
    fn only_with_ports(&self) -> bool {
        self.rule.matches.iter().any(|criterion| {
            matches!(criterion, Match::Protocol { negated: false, protocols }
                if protocols.iter().all(|p| matches!(*p, TCP | UDP | SCTP)))
        })
    }

    fn ports(
        &self,
        side: Side,
        negated: bool,
        ranges: &PortRanges,
        named: &[SetId],
        family: Option<Family>,
    ) -> Result<Vec<Exprs>, LowerError> {
        let with_ports = |negated| {
            let protocols = [TCP, UDP, SCTP].map(|p| Key::value(&[p]));
            [meta(MetaKey::L4proto), in_literal(literal(Field::Proto, protocols), negated)]
        };
        let guard = if self.only_with_ports() { Vec::new() } else { with_ports(false).to_vec() };
        let numeric = |negated| {
            let mut exprs = guard.clone();
            exprs.extend(in_ranges(side, ranges, negated));
            exprs
        };
        let set = |id: &SetId, negated| -> Result<Exprs, LowerError> {
            let Some(family) = family else { return Ok(Exprs::new()) };
            let name = self.set(id, family)?;
            let (second, third) = match family {
                Family::V4 => (1, 2),
                Family::V6 => (4, 5),
            };
            let (Some(second), Some(third)) = (Reg::word(second), Reg::word(third)) else {
                return Ok(Exprs::new());
            };
            Ok(vec![
                load_addr(family, side, Reg::FIRST),
                Expr::Meta { key: MetaKey::L4proto, dreg: second },
                load_port(side, third),
                if negated { not_in_set(&name) } else { in_set(&name) },
            ])
        };
        if !negated {
            let mut alternatives = Vec::new();
            if !ranges.0.is_empty() {
                alternatives.push(numeric(false));
            }
            for id in named {
                let mut exprs = guard.clone();
                exprs.extend(set(id, false)?);
                alternatives.push(exprs);
            }
            return Ok(alternatives);
        }
        let mut all = if ranges.0.is_empty() { guard.clone() } else { numeric(true) };
        for id in named {
            all.extend(set(id, true)?);
        }
        // A packet without ports is in no range and in no set.
        let portless = (!guard.is_empty()).then(|| with_ports(true).to_vec());
        Ok(std::iter::once(all).chain(portless).collect())
    }
}

/// `None` when no address of the family can match.
fn nets_of(family: Family, side: Side, negated: bool, nets: &Arc<[IpNet]>) -> Option<Exprs> {
    let mine: Vec<&IpNet> = nets.iter().filter(|net| family_of(net) == family).collect();
    let everything = mine.iter().any(|net| net.prefix_len() == 0);
    match (mine.as_slice(), negated) {
        ([], false) => None,
        ([], true) => Some(Exprs::new()),
        (_, true) if everything => None,
        (_, false) if everything => Some(Exprs::new()),
        ([one], _) => Some(in_net(family, side, one, negated)),
        (many, _) => {
            let set = literal(addr_field(family), many.iter().map(|net| net_key(net)));
            Some(vec![load_addr(family, side, Reg::FIRST), in_literal(set, negated)])
        }
    }
}

fn in_ranges(side: Side, ranges: &PortRanges, negated: bool) -> Exprs {
    let mut exprs = vec![load_port(side, Reg::FIRST)];
    exprs.push(match ranges.0.as_slice() {
        [(first, last)] if first == last => match negated {
            true => cmp(CmpOp::Neq, &first.to_be_bytes()),
            false => eq(&first.to_be_bytes()),
        },
        [(first, last)] => Expr::Range {
            sreg: Reg::FIRST,
            negated,
            from: first.to_be_bytes().as_slice().into(),
            to: last.to_be_bytes().as_slice().into(),
        },
        many => {
            let keys = many.iter().map(|(first, last)| Key::range(&first.to_be_bytes(), &last.to_be_bytes()));
            in_literal(literal(Field::Port, keys), negated)
        }
    });
    exprs
}
