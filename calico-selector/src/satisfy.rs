//! Can a selector match at all, and can it fail to match?

use std::collections::BTreeMap;

use crate::ast::{Comparison, Expr};
use crate::eval;
use crate::hints::Restrictions;
use crate::labels;
use crate::selector::Selector;

/// What a selector does over all thinkable labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Satisfiability {
    /// It matches nothing.
    Never,
    /// It matches everything.
    Always,
    /// Some labels match, some do not.
    Sometimes,
    /// Too many combinations to tell, or text comparisons that depend on each other.
    Unknown,
}

/// How many combinations of values are tried before giving up.
const BUDGET: usize = 4096;

/// A value that no literal can name, since no literal holds both kinds of quotes.
const UNNAMED: &str = "\"'";

/// Decides by trying every combination of values that the selector can tell apart: for each label the values it names,
/// one that it does not name, and absence.
///
/// ```
/// use calico_selector::{satisfiability, Satisfiability, Selector};
///
/// let of = |text| satisfiability(&Selector::parse(text).unwrap());
/// assert_eq!(of("a == 'x' && a == 'y'"), Satisfiability::Never);
/// assert_eq!(of("a != 'x' || a != 'y'"), Satisfiability::Always);
/// assert_eq!(of("a == 'x' && b != 'y'"), Satisfiability::Sometimes);
/// ```
pub fn satisfiability(selector: &Selector) -> Satisfiability {
    let expr = selector.expr();
    if !selector.restrictions().satisfiable() {
        return Satisfiability::Never;
    }
    if !Restrictions::of(&Expr::not(expr.clone())).satisfiable() {
        return Satisfiability::Always;
    }
    let mut values: BTreeMap<&str, Vec<Option<&str>>> = BTreeMap::new();
    let mut exact = true;
    candidates(expr, &mut values, &mut exact);
    for list in values.values_mut() {
        list.extend([None, Some(UNNAMED)]);
        list.sort_unstable();
        list.dedup();
    }
    let combinations = values.values().try_fold(1_usize, |product, list| product.checked_mul(list.len()));
    let tried = combinations.map_or(BUDGET, |all| all.min(BUDGET));
    exact &= combinations.is_some_and(|all| all <= BUDGET);

    let axes: Vec<(&str, &[Option<&str>])> =
        values.iter().map(|(name, list)| (*name, list.as_slice())).collect();
    let (mut matched, mut failed) = (false, false);
    for number in 0..tried {
        let at = labels::from_fn(|name: &str| {
            let mut rest = number;
            for (axis, list) in &axes {
                let digit = rest.checked_rem(list.len()).unwrap_or(0);
                if *axis == name {
                    return list.get(digit).copied().flatten();
                }
                rest = rest.checked_div(list.len()).unwrap_or(0);
            }
            None
        });
        if eval::matches(expr, &at) {
            matched = true
        } else {
            failed = true
        }
        if matched && failed {
            return Satisfiability::Sometimes;
        }
    }
    match (exact, matched) {
        (true, true) => Satisfiability::Always,
        (true, false) => Satisfiability::Never,
        (false, _) => Satisfiability::Unknown,
    }
}

/// Collects for each label the values that literals name. Text comparisons make the list a sample instead of a cover.
fn candidates<'a>(expr: &'a Expr, out: &mut BTreeMap<&'a str, Vec<Option<&'a str>>>, exact: &mut bool) {
    match expr {
        Expr::All | Expr::Global => {}
        Expr::Has(label) => {
            out.entry(label).or_default();
        }
        Expr::Compare { label, op, value } => {
            out.entry(label).or_default().push(Some(value));
            *exact &= matches!(op, Comparison::Equal | Comparison::NotEqual);
        }
        Expr::Member { label, values, .. } => {
            out.entry(label).or_default().extend(values.iter().map(|value| Some(&**value)));
        }
        Expr::Not(inner) => candidates(inner, out, exact),
        Expr::And(parts) | Expr::Or(parts) => {
            parts.iter().for_each(|part| candidates(part, out, exact));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        use Satisfiability::{Always, Never, Sometimes, Unknown};
        for (text, expected) in [
            ("", Always),
            ("global()", Always),
            ("!all()", Never),
            ("a in {}", Never),
            ("a not in {}", Always),
            ("has(a) || !has(a)", Always),
            ("has(a) && !has(a)", Never),
            ("a == 'x' || a != 'x'", Always),
            ("a == 'x' && !has(b) && b != 'y' && a not in {'x'}", Never),
            ("(a == 'x' || b == 'y') && a != 'x' && b != 'y'", Never),
            ("has(a) && a not in {'x', 'y'}", Sometimes),
            ("a starts with 'x'", Sometimes),
            ("a starts with 'x' && a == 'y'", Unknown),
            ("a contains '' || !has(a)", Unknown),
            ("a contains 'x' && !has(a)", Never),
        ] {
            assert_eq!(satisfiability(&Selector::parse(text).unwrap()), expected, "{text}");
        }
        let wide: Vec<String> = (0..40).map(|n| format!("l{n} == 'x'")).collect();
        let wide = Selector::parse(&format!("({}) && {}", wide.join(" || "), wide.join(" && "))).unwrap();
        assert_ne!(satisfiability(&wide), Always);
        assert_ne!(satisfiability(&wide), Never);
    }
}
