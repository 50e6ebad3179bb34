//! What is legal in a selector and most likely not meant.

use std::fmt;
use std::ops::Range;

use crate::error::ParseError;
use crate::labels;
use crate::lexer::{self, TokenKind};
use crate::parser::Limits;
use crate::satisfy::{Satisfiability, satisfiability};
use crate::selector::Selector;

/// Something suspicious in a selector that parses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lint {
    /// What it is.
    pub kind: LintKind,
    /// The bytes of the text that it is about; the whole text for [`LintKind::Never`] and [`LintKind::Always`].
    pub span: Range<usize>,
}

/// The kinds of [`Lint`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LintKind {
    /// The selector can match nothing.
    Never,
    /// The selector matches everything although it is not `all()`.
    Always,
    /// A label with the prefix of inherited labels, which is added by the system and never typed.
    ReservedPrefix {
        /// The label.
        label: String,
    },
    /// `!=` or `not in`, which also match everything that lacks the label, and nothing in the selector asks for it.
    MatchesWithoutLabel {
        /// The label.
        label: String,
    },
    /// An empty set.
    EmptySet,
    /// `&&` and `||` side by side without parentheses.
    MixedOperators,
    /// A line break, which only a lenient reader accepts.
    LineBreak,
}

impl fmt::Display for LintKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("no labels can match this selector"),
            Self::Always => f.write_str("every object matches this selector; `all()` says so plainly"),
            Self::ReservedPrefix { label } => write!(
                f,
                "label `{label}` has a reserved prefix; use namespaceSelector or serviceAccountSelector instead"
            ),
            Self::MatchesWithoutLabel { label } => write!(
                f,
                "this also matches objects without label `{label}`; add `has({label}) && …` if they are not meant"
            ),
            Self::EmptySet => f.write_str("the set is empty"),
            Self::MixedOperators => {
                f.write_str("`&&` binds tighter than `||`; parentheses would show what is meant")
            }
            Self::LineBreak => {
                f.write_str("line breaks are rejected by other implementations; in YAML use `>-`")
            }
        }
    }
}

/// Looks for what is legal and most likely not meant, in text order; the whole-text findings come first. Line breaks
/// are accepted and reported.
///
/// ```
/// use calico_selector::{lint, LintKind, Limits};
///
/// let found = lint("role != 'db'", &Limits::API).unwrap();
/// assert_eq!(found[0].kind, LintKind::MatchesWithoutLabel { label: "role".into() });
/// assert_eq!(found[0].span, 0..12);
/// assert!(lint("has(role) && role != 'db'", &Limits::API).unwrap().is_empty());
/// ```
pub fn lint(text: &str, limits: &Limits) -> Result<Vec<Lint>, ParseError> {
    let lenient = Limits { allow_line_breaks: true, ..*limits };
    let selector = Selector::parse_with(text, &lenient)?;
    let tokens = lexer::tokens(text, true)?;
    let mut out = Vec::new();
    let whole = 0..text.len();
    match satisfiability(&selector) {
        Satisfiability::Never => out.push(Lint { kind: LintKind::Never, span: whole }),
        Satisfiability::Always if !matches!(selector.canonical(), "all()" | "global()") => {
            out.push(Lint { kind: LintKind::Always, span: whole });
        }
        _ => {}
    }
    let asked_for = |label: &str| {
        tokens.iter().any(|token| token.kind == TokenKind::Has(label))
            || selector.restrictions().get(label).is_some_and(|entry| entry.must_be_present)
    };
    // The joining operators seen so far on each level of parentheses.
    let mut levels: Vec<(bool, bool)> = vec![(false, false)];
    for (position, token) in tokens.iter().enumerate() {
        let span = token.start..token.end;
        let next = |ahead: usize| tokens.get(position + ahead);
        match token.kind {
            TokenKind::Label(label) | TokenKind::Has(label) => {
                if labels::is_reserved(label) {
                    out.push(Lint { kind: LintKind::ReservedPrefix { label: label.into() }, span });
                }
                let negative =
                    next(1).is_some_and(|t| matches!(t.kind, TokenKind::NotEqual | TokenKind::NotIn));
                if negative && matches!(token.kind, TokenKind::Label(_)) && !asked_for(label) {
                    let end = condition_end(&tokens, position);
                    let kind = LintKind::MatchesWithoutLabel { label: label.into() };
                    out.push(Lint { kind, span: token.start..end });
                }
            }
            TokenKind::OpenBrace => {
                if let Some(close) = next(1).filter(|t| t.kind == TokenKind::CloseBrace) {
                    out.push(Lint { kind: LintKind::EmptySet, span: token.start..close.end });
                }
            }
            TokenKind::OpenParen => levels.push((false, false)),
            TokenKind::CloseParen => {
                levels.pop();
            }
            TokenKind::And | TokenKind::Or => {
                if let Some((and, or)) = levels.last_mut() {
                    let mixed_before = *and && *or;
                    *and |= token.kind == TokenKind::And;
                    *or |= token.kind == TokenKind::Or;
                    if *and && *or && !mixed_before {
                        out.push(Lint { kind: LintKind::MixedOperators, span });
                    }
                }
            }
            _ => {}
        }
    }
    if let Some(at) = text.find(['\n', '\r']) {
        // Inside a string literal a line break is an ordinary character.
        if Selector::parse_with(text, limits).is_err() {
            out.push(Lint { kind: LintKind::LineBreak, span: at..at + 1 });
        }
    }
    Ok(out)
}

/// Where the condition ends that starts at a label: after its string or its closing brace.
fn condition_end(tokens: &[lexer::Token<'_>], start: usize) -> usize {
    let mut rest = tokens.iter().skip(start + 2);
    match rest.next() {
        Some(token) if token.kind == TokenKind::OpenBrace => {
            rest.find(|token| token.kind == TokenKind::CloseBrace).map_or(token.end, |close| close.end)
        }
        Some(token) => token.end,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let lints = lint(text, &Limits::API).unwrap();
        lints.into_iter().map(|lint| format!("{:?} {}", lint.span, lint.kind)).collect()
    }

    #[test]
    fn findings() {
        for clean in
            ["", "all()", "global()", "a == 'x'", "a != 'x' && has(a)", "a == 'x' && (b == 'y' || has(c))"]
        {
            assert_eq!(found(clean), Vec::<String>::new(), "{clean}");
        }
        assert_eq!(found("a == 'x' && a == 'y'"), ["0..20 no labels can match this selector"]);
        assert_eq!(found("a in {}"), ["0..7 no labels can match this selector", "5..7 the set is empty"]);
        assert_eq!(
            found("pcns.env == 'x' && a not in {'b', 'c'}"),
            [
                "0..8 label `pcns.env` has a reserved prefix; use namespaceSelector or serviceAccountSelector instead",
                "19..38 this also matches objects without label `a`; add `has(a) && …` if they are not meant",
            ]
        );
        assert_eq!(
            found("has(a) || has(b) && has(c)"),
            ["17..19 `&&` binds tighter than `||`; parentheses would show what is meant"]
        );
        assert_eq!(
            found("has(a) &&\nhas(b)"),
            ["9..10 line breaks are rejected by other implementations; in YAML use `>-`"]
        );
        assert_eq!(found("a == '\n'"), Vec::<String>::new());
        assert_eq!(
            found("has(a) || !has(a)"),
            ["0..17 every object matches this selector; `all()` says so plainly"]
        );
    }
}
