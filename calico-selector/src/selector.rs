//! The handle that programs pass around.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::{Arc, LazyLock, OnceLock};

use crate::ast::Expr;
use crate::error::ParseError;
use crate::hints::Restrictions;
use crate::labels::Labels;
use crate::parser::{self, Limits};
use crate::{canonical, eval, lexer};

/// A parsed selector: a cheap handle to an immutable tree with its canonical text, id and index hints.
///
/// Two selectors are equal when their canonical texts, and so their ids, are.
///
/// ```
/// use std::collections::BTreeMap;
/// use calico_selector::Selector;
///
/// let selector = Selector::parse("role in {'fe','be'} && !has(legacy)")?;
/// assert_eq!(selector.canonical(), r#"(role in {"be", "fe"} && !has(legacy))"#);
/// let labels = BTreeMap::from([("role".to_string(), "fe".to_string())]);
/// assert!(selector.matches(&labels));
/// assert!(selector.matches(&[("role", "be")]));
/// assert!(!selector.matches(&[("role", "db")]));
/// # Ok::<(), calico_selector::ParseError>(())
/// ```
#[derive(Clone)]
pub struct Selector(Arc<Inner>);

struct Inner {
    expr: Expr,
    restrictions: Restrictions,
    canonical: OnceLock<Box<str>>,
    id: OnceLock<Box<str>>,
}

/// Why a tree built by hand is not a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidExpr {
    /// A label name is empty, too long or has characters that cannot be written.
    Label {
        /// The name.
        label: Box<str>,
    },
    /// A value has both kinds of quotes, which no literal can express.
    Quotes {
        /// The label it is compared with.
        label: Box<str>,
        /// The value.
        value: Box<str>,
    },
    /// An `And` or `Or` with fewer than two parts.
    TooFewParts,
}

impl fmt::Display for InvalidExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label { label } => write!(
                f,
                "label name {label:?} must have 1 to {} letters, digits, `.`, `_`, `-` or `/`",
                lexer::MAX_LABEL
            ),
            Self::Quotes { label, value } => write!(
                f,
                "value {value:?} of label `{label}` has both kinds of quotes; a selector can express only one kind"
            ),
            Self::TooFewParts => f.write_str("a conjunction or disjunction needs at least two parts"),
        }
    }
}

impl std::error::Error for InvalidExpr {}

impl Selector {
    /// Reads a selector with the limits of [`Limits::DEFAULT`]. The empty text is `all()`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        Self::parse_with(text, &Limits::DEFAULT)
    }

    /// Reads a selector with limits of the caller's choice.
    pub fn parse_with(text: &str, limits: &Limits) -> Result<Self, ParseError> {
        parser::parse(text, limits).map(Self::new)
    }

    /// Makes a selector of a tree built by hand; sorts the values of sets.
    pub fn from_expr(expr: Expr) -> Result<Self, InvalidExpr> {
        check(&expr)?;
        Ok(Self::new(expr.map(&|expr| match expr {
            Expr::Member { label, negated, values } => Expr::member(&label, negated, values),
            other => other,
        })))
    }

    /// For trees that are valid by construction.
    pub(crate) fn new(expr: Expr) -> Self {
        let restrictions = Restrictions::of(&expr);
        Self(Arc::new(Inner { expr, restrictions, canonical: OnceLock::new(), id: OnceLock::new() }))
    }

    /// `all()`, which matches everything.
    pub fn all() -> Self {
        static ALL: LazyLock<Selector> = LazyLock::new(|| Selector::new(Expr::All));
        ALL.clone()
    }

    /// `!all()`, which matches nothing.
    pub fn none() -> Self {
        static NONE: LazyLock<Selector> = LazyLock::new(|| Selector::new(Expr::not(Expr::All)));
        NONE.clone()
    }

    /// Whether the labels match. Never allocates.
    pub fn matches<L: Labels + ?Sized>(&self, labels: &L) -> bool {
        eval::matches(&self.0.expr, labels)
    }

    /// The canonical text: what the id is hashed from, the same for all spellings of one tree.
    pub fn canonical(&self) -> &str {
        self.0.canonical.get_or_init(|| {
            let mut out = String::with_capacity(64);
            canonical::write(&self.0.expr, &mut out);
            out.into()
        })
    }

    /// The id, `s:` and 38 characters. Equal selectors have equal ids on every machine.
    pub fn id(&self) -> &str {
        self.0.id.get_or_init(|| canonical::hashed_id("s", self.canonical()).into())
    }

    /// The tree.
    pub fn expr(&self) -> &Expr {
        &self.0.expr
    }

    /// Necessary conditions on single labels, computed when the selector was made.
    pub fn restrictions(&self) -> &Restrictions {
        &self.0.restrictions
    }

    /// `(self) && (other)`: each side keeps its own nesting, as with parentheses.
    pub fn and(&self, other: &Self) -> Self {
        Self::new(Expr::And(vec![self.0.expr.clone(), other.0.expr.clone()]))
    }

    /// `(self) && (!(other))`: how a positive and a negative selector of one rule become one.
    pub fn and_not(&self, other: &Self) -> Self {
        Self::new(Expr::And(vec![self.0.expr.clone(), Expr::not(other.0.expr.clone())]))
    }

    /// The selector with `prefix` in front of every label name, as it is read back from its canonical text. `all()` and
    /// `global()` stay as they are.
    ///
    /// ```
    /// use calico_selector::Selector;
    ///
    /// let selector = Selector::parse("env == 'x' && has(team)")?.prefixed("pcns.");
    /// assert_eq!(selector.canonical(), r#"(pcns.env == "x" && has(pcns.team))"#);
    /// # Ok::<(), calico_selector::ParseError>(())
    /// ```
    pub fn prefixed(&self, prefix: &str) -> Self {
        Self::new(self.0.expr.clone().prefixed(prefix).reread())
    }
}

fn check(expr: &Expr) -> Result<(), InvalidExpr> {
    let label_ok = |label: &str| {
        if label.is_empty() || label.len() > lexer::MAX_LABEL || !label.chars().all(lexer::is_label_char) {
            return Err(InvalidExpr::Label { label: label.into() });
        }
        Ok(())
    };
    let value_ok = |label: &str, value: &str| {
        if value.contains('"') && value.contains('\'') {
            return Err(InvalidExpr::Quotes { label: label.into(), value: value.into() });
        }
        Ok(())
    };
    match expr {
        Expr::All | Expr::Global => Ok(()),
        Expr::Has(label) => label_ok(label),
        Expr::Compare { label, value, .. } => label_ok(label).and_then(|()| value_ok(label, value)),
        Expr::Member { label, values, .. } => {
            label_ok(label)?;
            values.iter().try_for_each(|value| value_ok(label, value))
        }
        Expr::Not(inner) => check(inner),
        Expr::And(parts) | Expr::Or(parts) if parts.len() < 2 => Err(InvalidExpr::TooFewParts),
        Expr::And(parts) | Expr::Or(parts) => parts.iter().try_for_each(check),
    }
}

impl Default for Selector {
    fn default() -> Self {
        Self::all()
    }
}

impl FromStr for Selector {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.canonical())
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Selector").field(&self.canonical()).finish()
    }
}

impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.canonical() == other.canonical()
    }
}

impl Eq for Selector {}

impl PartialOrd for Selector {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Selector {
    fn cmp(&self, other: &Self) -> Ordering {
        self.canonical().cmp(other.canonical())
    }
}

impl Hash for Selector {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.canonical().hash(state);
    }
}
