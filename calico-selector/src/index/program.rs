//! A selector with its texts replaced by symbols: equality and membership become integer comparisons.

use crate::ast::{Comparison, Expr};
use crate::eval;
use crate::hints::Restrictions;

use super::symbols::{Symbol, SymbolSet, Symbols};

#[derive(Debug)]
pub(crate) enum Program {
    Always,
    Has(Symbol),
    Is { label: Symbol, value: Symbol, negated: bool },
    Text { label: Symbol, op: Comparison, value: Box<str> },
    In { label: Symbol, values: SymbolSet, negated: bool },
    Not(Box<Self>),
    And(Box<[Self]>),
    Or(Box<[Self]>),
}

impl Program {
    pub(crate) fn compile(expr: &Expr, symbols: &mut Symbols) -> Self {
        match expr {
            Expr::All | Expr::Global => Self::Always,
            Expr::Has(label) => Self::Has(symbols.acquire(label)),
            Expr::Compare { label, op: op @ (Comparison::Equal | Comparison::NotEqual), value } => Self::Is {
                label: symbols.acquire(label),
                value: symbols.acquire(value),
                negated: *op == Comparison::NotEqual,
            },
            Expr::Compare { label, op, value } => {
                Self::Text { label: symbols.acquire(label), op: *op, value: value.clone() }
            }
            Expr::Member { label, negated, values } => {
                let values = SymbolSet::new(values.iter().map(|value| symbols.acquire(value)));
                Self::In { label: symbols.acquire(label), values, negated: *negated }
            }
            Expr::Not(inner) => Self::Not(Box::new(Self::compile(inner, symbols))),
            Expr::And(parts) => Self::And(parts.iter().map(|part| Self::compile(part, symbols)).collect()),
            Expr::Or(parts) => Self::Or(parts.iter().map(|part| Self::compile(part, symbols)).collect()),
        }
    }

    pub(crate) fn release(&self, symbols: &mut Symbols) {
        match self {
            Self::Always => {}
            Self::Has(label) | Self::Text { label, .. } => symbols.release(*label),
            Self::Is { label, value, .. } => {
                symbols.release(*label);
                symbols.release(*value);
            }
            Self::In { label, values, .. } => {
                symbols.release(*label);
                values.iter().for_each(|value| symbols.release(value));
            }
            Self::Not(inner) => inner.release(symbols),
            Self::And(parts) | Self::Or(parts) => parts.iter().for_each(|part| part.release(symbols)),
        }
    }

    /// Evaluates without a call for a single condition and for a conjunction of conditions, which most selectors are.
    #[inline]
    pub(crate) fn matches(&self, symbols: &Symbols, get: &impl Fn(Symbol) -> Option<Symbol>) -> bool {
        match self {
            Self::And(parts) => parts.iter().all(|part| part.condition(symbols, get)),
            one => one.condition(symbols, get),
        }
    }

    #[inline(always)]
    fn condition(&self, symbols: &Symbols, get: &impl Fn(Symbol) -> Option<Symbol>) -> bool {
        match self {
            Self::Always => true,
            Self::Has(label) => get(*label).is_some(),
            Self::Is { label, value, negated } => (get(*label) == Some(*value)) != *negated,
            Self::Text { label, op, value } => {
                eval::compare(*op, get(*label).map(|actual| symbols.text(actual)), value)
            }
            Self::In { label, values, negated } => {
                get(*label).is_some_and(|actual| values.contains(actual)) != *negated
            }
            Self::Not(_) | Self::And(_) | Self::Or(_) => self.nested(symbols, get),
        }
    }

    fn nested(&self, symbols: &Symbols, get: &impl Fn(Symbol) -> Option<Symbol>) -> bool {
        match self {
            Self::Not(inner) => !inner.condition(symbols, get),
            Self::And(parts) => parts.iter().all(|part| part.condition(symbols, get)),
            Self::Or(parts) => parts.iter().any(|part| part.condition(symbols, get)),
            Self::Always | Self::Has(_) | Self::Is { .. } | Self::Text { .. } | Self::In { .. } => {
                self.condition(symbols, get)
            }
        }
    }

    /// Every label that is mentioned, sorted.
    pub(crate) fn labels(&self) -> Vec<Symbol> {
        fn visit(program: &Program, out: &mut Vec<Symbol>) {
            match program {
                Program::Always => {}
                Program::Has(label)
                | Program::Is { label, .. }
                | Program::Text { label, .. }
                | Program::In { label, .. } => out.push(*label),
                Program::Not(inner) => visit(inner, out),
                Program::And(parts) | Program::Or(parts) => parts.iter().for_each(|part| visit(part, out)),
            }
        }
        let mut out = Vec::new();
        visit(self, &mut out);
        out.sort_unstable();
        out.dedup();
        out
    }
}

/// A necessary condition on one label, in symbols. `one_of` is `None` when any value will do.
#[derive(Debug)]
pub(crate) struct Demand {
    pub(crate) label: Symbol,
    pub(crate) one_of: Option<Box<[Symbol]>>,
}

/// The labels that must be present. All texts are in the table already, since the compiled program has them.
pub(crate) fn demands(restrictions: &Restrictions, symbols: &Symbols) -> Vec<Demand> {
    let present = restrictions.iter().filter(|entry| entry.must_be_present);
    let mut demands: Vec<Demand> = present
        .filter_map(|entry| {
            let label = symbols.find(&entry.label)?;
            let one_of =
                entry.one_of.as_ref().map(|set| set.iter().filter_map(|v| symbols.find(v)).collect());
            Some(Demand { label, one_of })
        })
        .collect();
    demands.sort_by_key(|demand| demand.label);
    demands
}
