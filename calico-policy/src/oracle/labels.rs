//! Selectors judged on plain maps of labels.

use std::collections::BTreeMap;

use calico_selector::{Comparison, Expr, ParseError, Selector};

/// Effective labels of an item, inherited ones included.
pub(super) type Labels = BTreeMap<String, String>;

/// What the special words mean at the place where a selector stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words {
    /// Prefix of the labels that the selector talks about.
    pub(super) prefix: &'static str,
    /// `all()` means that this label is there; empty for everything.
    pub(super) all_has: &'static str,
    /// `global()` means that this label is not there; empty for everything.
    pub(super) global_lacks: &'static str,
}

/// Where a selector talks about the item's own labels.
pub(super) const PLAIN: Words = Words { prefix: "", all_has: "", global_lacks: "" };

/// The tree of a selector; `None` for an empty text.
pub(super) fn parse(text: &str) -> Result<Option<Expr>, ParseError> {
    if text.is_empty() {
        Ok(None)
    } else {
        Selector::parse(text).map(|selector| Some(selector.expr().clone()))
    }
}

/// Whether labels satisfy a selector.
pub(super) fn holds(expr: &Expr, labels: &Labels, words: Words) -> bool {
    let get = |label: &str| labels.get(&format!("{}{label}", words.prefix)).map(String::as_str);
    match expr {
        Expr::All => words.all_has.is_empty() || labels.contains_key(words.all_has),
        Expr::Global => words.global_lacks.is_empty() || !labels.contains_key(words.global_lacks),
        Expr::Has(label) => get(label).is_some(),
        Expr::Compare { label, op, value } => match (op, get(label)) {
            (Comparison::NotEqual, found) => found != Some(value),
            (_, None) => false,
            (Comparison::Equal, Some(found)) => *found == **value,
            (Comparison::Contains, Some(found)) => found.contains(&**value),
            (Comparison::StartsWith, Some(found)) => found.starts_with(&**value),
            (Comparison::EndsWith, Some(found)) => found.ends_with(&**value),
        },
        Expr::Member { label, negated, values } => {
            *negated != get(label).is_some_and(|found| values.iter().any(|value| **value == *found))
        }
        Expr::Not(inner) => !holds(inner, labels, words),
        Expr::And(parts) => parts.iter().all(|part| holds(part, labels, words)),
        Expr::Or(parts) => parts.iter().any(|part| holds(part, labels, words)),
    }
}
