//! The expression tree.

/// A selector as a tree.
///
/// The shape is part of the language: `a && (b && c)` and `a && b && c` have different ids, so nothing here simplifies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expr {
    /// `all()`: true.
    All,
    /// `global()`: true for the evaluator; composition gives it its meaning (see [`crate::compose`]).
    Global,
    /// `has(label)`: the label is present, whatever its value.
    Has(Box<str>),
    /// A comparison of the value of a label with a text.
    Compare {
        /// Label name.
        label: Box<str>,
        /// How the value is compared.
        op: Comparison,
        /// The text on the right.
        value: Box<str>,
    },
    /// `label in {…}` or `label not in {…}`.
    Member {
        /// Label name.
        label: Box<str>,
        /// Whether it is `not in`, which is also true when the label is absent.
        negated: bool,
        /// The values, sorted by bytes, without duplicates.
        values: Box<[Box<str>]>,
    },
    /// `!x`.
    Not(Box<Expr>),
    /// `x && y && …`, at least two.
    And(Vec<Expr>),
    /// `x || y || …`, at least two.
    Or(Vec<Expr>),
}

/// The comparisons of a label value with a text. Texts are compared byte by byte, case sensitive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// `==`
    Equal,
    /// `!=`, true when the label is absent.
    NotEqual,
    /// `contains`
    Contains,
    /// `starts with`
    StartsWith,
    /// `ends with`
    EndsWith,
}

impl Comparison {
    /// The operator as it is written in a selector.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Contains => "contains",
            Self::StartsWith => "starts with",
            Self::EndsWith => "ends with",
        }
    }
}

impl Expr {
    /// `label == value`
    pub fn equal(label: &str, value: &str) -> Self {
        Self::Compare { label: label.into(), op: Comparison::Equal, value: value.into() }
    }

    /// `has(label)`
    pub fn has(label: &str) -> Self {
        Self::Has(label.into())
    }

    /// `label in {values}`, or `label not in {values}`; sorts the values and drops duplicates.
    pub fn member<V: Into<Box<str>>>(
        label: &str,
        negated: bool,
        values: impl IntoIterator<Item = V>,
    ) -> Self {
        let mut values: Vec<Box<str>> = values.into_iter().map(Into::into).collect();
        values.sort_unstable();
        values.dedup();
        Self::Member { label: label.into(), negated, values: values.into() }
    }

    /// `!x`
    #[expect(clippy::should_implement_trait, reason = "builds a tree node, beside has() and equal()")]
    pub fn not(inner: Self) -> Self {
        Self::Not(Box::new(inner))
    }

    /// Calls `visit` with the label name of every condition, in text order, repetitions included.
    pub fn for_each_label<'a>(&'a self, visit: &mut impl FnMut(&'a str)) {
        match self {
            Self::All | Self::Global => {}
            Self::Has(label) | Self::Compare { label, .. } | Self::Member { label, .. } => visit(label),
            Self::Not(inner) => inner.for_each_label(visit),
            Self::And(parts) | Self::Or(parts) => {
                for part in parts {
                    part.for_each_label(visit);
                }
            }
        }
    }

    /// Rebuilds the tree bottom-up through `change`.
    pub(crate) fn map(self, change: &impl Fn(Self) -> Self) -> Self {
        let rebuilt = match self {
            Self::Not(inner) => Self::not(inner.map(change)),
            Self::And(parts) => Self::And(parts.into_iter().map(|p| p.map(change)).collect()),
            Self::Or(parts) => Self::Or(parts.into_iter().map(|p| p.map(change)).collect()),
            leaf => leaf,
        };
        change(rebuilt)
    }

    /// The same tree with `prefix` in front of every label name.
    pub(crate) fn prefixed(self, prefix: &str) -> Self {
        let named = |label: Box<str>| format!("{prefix}{label}").into_boxed_str();
        self.map(&|expr| match expr {
            Self::Has(label) => Self::Has(named(label)),
            Self::Compare { label, op, value } => Self::Compare { label: named(label), op, value },
            Self::Member { label, negated, values } => Self::Member { label: named(label), negated, values },
            other => other,
        })
    }

    /// The tree that results from printing this one and reading it again: the printer writes no parentheses around a
    /// negation, so chains of negations collapse to one or none.
    pub(crate) fn reread(self) -> Self {
        self.map(&|expr| match expr {
            Self::Not(inner) => match *inner {
                Self::Not(innermost) => *innermost,
                inner => Self::not(inner),
            },
            other => other,
        })
    }
}
