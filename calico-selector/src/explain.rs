//! Why labels match a selector, or why not.

use std::fmt;

use crate::ast::Expr;
use crate::canonical;
use crate::eval;
use crate::labels::{Labels, Origin};
use crate::selector::Selector;

/// The verdict of a selector on labels with the conditions that decided it.
///
/// ```
/// use calico_selector::{explain, Selector};
///
/// let selector = Selector::parse("role == 'db' && env in {'prod'} && !has(legacy)").unwrap();
/// let why = explain(&selector, &[("role", "db"), ("env", "test")]);
/// assert!(!why.matches);
/// assert_eq!(why.to_string(), "does not match, because:\n  env in {\"prod\"} is false: env is \"test\"\n");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Whether the labels match.
    pub matches: bool,
    /// The conditions that suffice for the verdict, in text order: for a conjunction that fails, those that fail; for
    /// one that holds, all.
    pub reasons: Vec<Reason>,
}

/// One condition and what it met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The condition, in canonical text.
    pub condition: String,
    /// Whether the condition holds.
    pub holds: bool,
    /// What the label it asks for is.
    pub label: Finding,
}

/// What a condition found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The condition asks for no label: `all()` or `global()`.
    NotAsked,
    /// The label is absent.
    Absent {
        /// Label name.
        name: String,
    },
    /// The label is present.
    Present {
        /// Label name.
        name: String,
        /// Its value.
        value: String,
        /// The parent it is inherited from, such as the profile `kns.prod`; `None` for an own label.
        inherited_from: Option<String>,
    },
}

/// Explains the verdict of a selector on labels.
pub fn explain<L: Labels + ?Sized>(selector: &Selector, labels: &L) -> Explanation {
    let mut reasons = Vec::new();
    let matches = eval::matches(selector.expr(), labels);
    collect(selector.expr(), labels, &mut reasons);
    Explanation { matches, reasons }
}

fn collect<L: Labels + ?Sized>(expr: &Expr, labels: &L, out: &mut Vec<Reason>) {
    let holds = eval::matches(expr, labels);
    let label = match expr {
        Expr::All | Expr::Global => Finding::NotAsked,
        Expr::Has(label) | Expr::Compare { label, .. } | Expr::Member { label, .. } => find(label, labels),
        Expr::Not(inner) => return collect(inner, labels, out),
        // A conjunction fails by the parts that fail, a disjunction holds by the parts that hold.
        Expr::And(parts) | Expr::Or(parts) => {
            let deciding = parts.iter().filter(|part| eval::matches(part, labels) == holds);
            return deciding.for_each(|part| collect(part, labels, out));
        }
    };
    let mut condition = String::new();
    canonical::write(expr, &mut condition);
    out.push(Reason { condition, holds, label });
}

fn find<L: Labels + ?Sized>(name: &str, labels: &L) -> Finding {
    match labels.get(name) {
        None => Finding::Absent { name: name.into() },
        Some(value) => Finding::Present {
            name: name.into(),
            value: value.into(),
            inherited_from: match labels.origin(name) {
                Origin::Own => None,
                Origin::Parent(parent) => Some(parent.into()),
            },
        },
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, because:", if self.matches { "matches" } else { "does not match" })?;
        self.reasons.iter().try_for_each(|reason| writeln!(f, "  {reason}"))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}", self.condition, self.holds)?;
        match &self.label {
            Finding::NotAsked => Ok(()),
            Finding::Absent { name } => write!(f, ": there is no label {name}"),
            Finding::Present { name, value, inherited_from: None } => write!(f, ": {name} is {value:?}"),
            Finding::Present { name, value, inherited_from: Some(parent) } => {
                write!(f, ": {name} is {value:?}, from {parent}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::Inherited;

    fn why(text: &str, labels: &dyn Labels) -> String {
        explain(&Selector::parse(text).unwrap(), labels).to_string()
    }

    #[test]
    fn only_what_decides_and_where_it_comes_from() {
        let (own, profile) = ([("role", "db")], [("pcns.env", "test")]);
        let parents: [(&str, &dyn Labels); 1] = [("kns.prod", &profile)];
        let labels = Inherited::new(&own, &parents);
        assert_eq!(
            why("role == 'db' && pcns.env == 'prod' && has(x)", &labels),
            "does not match, because:\n  pcns.env == \"prod\" is false: pcns.env is \"test\", from kns.prod\n  \
             has(x) is false: there is no label x\n"
        );
        assert_eq!(
            why("role == 'fe' || !(pcns.env == 'prod')", &labels),
            "matches, because:\n  pcns.env == \"prod\" is false: pcns.env is \"test\", from kns.prod\n"
        );
        assert_eq!(why("", &labels), "matches, because:\n  all() is true\n");
    }
}
