//! Necessary conditions on single labels, used to file selectors and items in indexes.

use crate::ast::{Comparison, Expr};

/// What labels must look like for a selector to match, label by label.
///
/// The conditions are necessary, not sufficient: labels that break one cannot match, labels that keep all may match.
///
/// ```
/// use calico_selector::Selector;
///
/// let selector = Selector::parse("env == 'prod' && (role in {'a', 'b'} || role == 'c') && !has(old)").unwrap();
/// let hints = selector.restrictions();
/// assert!(hints.get("env").unwrap().must_be_present);
/// assert_eq!(hints.get("role").unwrap().one_of.as_ref().unwrap().len(), 3);
/// assert!(hints.get("old").unwrap().must_be_absent);
/// assert!(hints.satisfiable());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restrictions {
    never: bool,
    entries: Box<[Restriction]>,
}

/// The condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restriction {
    /// Label name.
    pub label: Box<str>,
    /// The label must be present.
    pub must_be_present: bool,
    /// The label must be absent.
    pub must_be_absent: bool,
    /// The label must have one of these values, sorted; none of them when the list is empty. `None` is any value.
    pub one_of: Option<Box<[Box<str>]>>,
}

impl Restriction {
    fn new(label: &str) -> Self {
        Self { label: label.into(), must_be_present: false, must_be_absent: false, one_of: None }
    }

    /// Whether some value, or absence, can satisfy the condition.
    pub fn satisfiable(&self) -> bool {
        !(self.must_be_present && self.must_be_absent)
            && self.one_of.as_ref().is_none_or(|set| !set.is_empty())
    }
}

impl Restrictions {
    /// The conditions, sorted by label name. A label that is not there is not restricted.
    pub fn iter(&self) -> std::slice::Iter<'_, Restriction> {
        self.entries.iter()
    }

    /// The condition on one label.
    pub fn get(&self, label: &str) -> Option<&Restriction> {
        let found = self.entries.binary_search_by(|entry| (*entry.label).cmp(label)).ok()?;
        self.entries.get(found)
    }

    /// False when no labels at all can match.
    pub fn satisfiable(&self) -> bool {
        !self.never && self.entries.iter().all(Restriction::satisfiable)
    }

    pub(crate) fn of(expr: &Expr) -> Self {
        restrict(expr, false)
    }

    fn one(entry: Restriction) -> Self {
        Self { never: false, entries: Box::new([entry]) }
    }
}

impl<'a> IntoIterator for &'a Restrictions {
    type Item = &'a Restriction;
    type IntoIter = std::slice::Iter<'a, Restriction>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Conditions of `expr`, or of its negation: negations are pushed down to the leaves on the way.
fn restrict(expr: &Expr, negated: bool) -> Restrictions {
    match (expr, negated) {
        (Expr::All | Expr::Global, false) => Restrictions::default(),
        (Expr::All | Expr::Global, true) => Restrictions { never: true, ..Restrictions::default() },
        (Expr::Has(label), _) => Restrictions::one(Restriction {
            must_be_present: !negated,
            must_be_absent: negated,
            ..Restriction::new(label)
        }),
        (Expr::Compare { label, op: Comparison::Equal, value }, false)
        | (Expr::Compare { label, op: Comparison::NotEqual, value }, true) => {
            Restrictions::one(Restriction {
                must_be_present: true,
                one_of: Some(Box::new([value.clone()])),
                ..Restriction::new(label)
            })
        }
        (
            Expr::Compare {
                label,
                op: Comparison::Contains | Comparison::StartsWith | Comparison::EndsWith,
                ..
            },
            false,
        ) => Restrictions::one(Restriction { must_be_present: true, ..Restriction::new(label) }),
        (Expr::Compare { .. }, _) => Restrictions::default(),
        (Expr::Member { label, negated: not_in, values }, _) if *not_in == negated => {
            Restrictions::one(Restriction {
                must_be_present: true,
                one_of: Some(values.clone()),
                ..Restriction::new(label)
            })
        }
        (Expr::Member { .. }, _) => Restrictions::default(),
        (Expr::Not(inner), _) => restrict(inner, !negated),
        (Expr::And(parts), false) | (Expr::Or(parts), true) => {
            parts.iter().map(|part| restrict(part, negated)).fold(Restrictions::default(), both)
        }
        (Expr::And(parts), true) | (Expr::Or(parts), false) => {
            parts.iter().map(|part| restrict(part, negated)).reduce(either).unwrap_or_default()
        }
    }
}

/// Both sides hold: flags add up, value sets intersect (no set is every value).
fn both(left: Restrictions, right: Restrictions) -> Restrictions {
    let never = left.never || right.never;
    let mut entries = left.entries.into_vec();
    for entry in right.entries {
        match entries.binary_search_by(|e| e.label.cmp(&entry.label)) {
            Err(at) => entries.insert(at, entry),
            Ok(at) => {
                let Some(mine) = entries.get_mut(at) else { continue };
                mine.must_be_present |= entry.must_be_present;
                mine.must_be_absent |= entry.must_be_absent;
                mine.one_of = match (mine.one_of.take(), entry.one_of) {
                    (None, only) | (only, None) => only,
                    (Some(mine), Some(other)) => {
                        Some(mine.into_iter().filter(|v| other.binary_search(v).is_ok()).collect())
                    }
                };
            }
        }
    }
    Restrictions { never, entries: entries.into() }
}

/// One of the sides holds: only what both demand remains. A side that can never hold does not count.
fn either(left: Restrictions, right: Restrictions) -> Restrictions {
    if left.never {
        return right;
    }
    if right.never {
        return left;
    }
    let entries = left.entries.into_iter().filter_map(|mut mine| {
        let other = right.get(&mine.label)?;
        mine.must_be_present &= other.must_be_present;
        mine.must_be_absent &= other.must_be_absent;
        mine.one_of = match (mine.one_of.take(), &other.one_of) {
            (Some(values), Some(more)) if mine.must_be_present => {
                let mut values = values.into_vec();
                values.extend(more.iter().cloned());
                values.sort_unstable();
                values.dedup();
                Some(values.into())
            }
            _ => None,
        };
        (mine.must_be_present || mine.must_be_absent).then_some(mine)
    });
    Restrictions { never: false, entries: entries.collect() }
}

#[cfg(test)]
mod tests {
    use crate::Selector;

    /// Conditions in a short form: `+` present, `-` absent, `{values}`.
    fn hints(text: &str) -> String {
        let selector = Selector::parse(text).unwrap();
        let mut out: Vec<String> = Vec::new();
        for entry in selector.restrictions() {
            let mut one = entry.label.to_string();
            one.push_str(if entry.must_be_present { "+" } else { "" });
            one.push_str(if entry.must_be_absent { "-" } else { "" });
            if let Some(values) = &entry.one_of {
                one.push_str(&format!("{{{}}}", values.join(",")));
            }
            out.push(one);
        }
        if !selector.restrictions().satisfiable() {
            out.push("never".into());
        }
        out.join(" ")
    }

    #[test]
    fn vectors() {
        for (text, expected) in [
            ("a == 'v1' && a == 'v2'", "a+{} never"),
            ("a in {'v1','v2'} && a in {'v2','v3'}", "a+{v2}"),
            ("a == 'v1' || a == 'v2'", "a+{v1,v2}"),
            ("a == 'v2' || has(a)", "a+"),
            ("a == 'v2' || has(b)", ""),
            ("a == 'v2' || (has(b) && has(a))", "a+"),
            ("!(a == 'v')", ""),
            ("!!has(a)", "a+"),
            ("!has(a)", "a-"),
            ("has(a) && !has(a)", "a+- never"),
            ("!has(a) || !has(a)", "a-"),
            ("!has(a) || has(a)", ""),
            ("a in {}", "a+{} never"),
            ("a in {} || a == 'x'", "a+{x}"),
            ("a != 'x' && b not in {'y'} && all() && global()", ""),
            ("a contains 'x' && b starts with 'y' && c ends with 'z'", "a+ b+ c+"),
            ("!all()", "never"),
            ("!all() || a == 'x'", "a+{x}"),
            // Negations reach the leaves.
            ("!(a != 'x' || !has(b))", "a+{x} b+"),
            ("!(a not in {'x', 'y'} && b == 'z')", ""),
            ("b == 'z' && a == 'x'", "a+{x} b+{z}"),
        ] {
            assert_eq!(hints(text), expected, "{text}");
        }
    }
}
