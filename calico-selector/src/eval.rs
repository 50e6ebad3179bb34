//! Matching a tree against labels. No allocation, left-to-right, first decision wins.

use crate::ast::{Comparison, Expr};
use crate::labels::Labels;

pub(crate) fn matches<L: Labels + ?Sized>(expr: &Expr, labels: &L) -> bool {
    match expr {
        Expr::All | Expr::Global => true,
        Expr::Has(label) => labels.get(label).is_some(),
        Expr::Compare { label, op, value } => compare(*op, labels.get(label), value),
        Expr::Member { label, negated, values } => {
            let found = labels
                .get(label)
                .is_some_and(|actual| values.binary_search_by(|v| (**v).cmp(actual)).is_ok());
            found != *negated
        }
        Expr::Not(inner) => !matches(inner, labels),
        Expr::And(parts) => parts.iter().all(|part| matches(part, labels)),
        Expr::Or(parts) => parts.iter().any(|part| matches(part, labels)),
    }
}

pub(crate) fn compare(op: Comparison, actual: Option<&str>, value: &str) -> bool {
    match op {
        Comparison::Equal => actual == Some(value),
        Comparison::NotEqual => actual != Some(value),
        Comparison::Contains => actual.is_some_and(|actual| actual.contains(value)),
        Comparison::StartsWith => actual.is_some_and(|actual| actual.starts_with(value)),
        Comparison::EndsWith => actual.is_some_and(|actual| actual.ends_with(value)),
    }
}
