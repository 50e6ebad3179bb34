//! Errors of the model: data first, text second.

use std::fmt;

/// One problem with one field of an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldError {
    /// Where: a JSON path such as `spec.ingress[2].source.selector`; empty for the object as a whole.
    pub path: String,
    /// The offending value as text, when there is one worth showing.
    pub value: Option<String>,
    /// What is wrong and what would be right.
    pub reason: String,
}

impl FieldError {
    /// A problem without a value to show.
    pub fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { path: path.into(), value: None, reason: reason.into() }
    }

    /// A problem with the value that caused it.
    pub fn with_value(path: impl Into<String>, value: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { path: path.into(), value: Some(value.into()), reason: reason.into() }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.reason)?;
        match &self.value {
            Some(v) => write!(f, " (got {v:?})"),
            None => Ok(()),
        }
    }
}

/// Why bytes could not be turned into an object of the model, or an object was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// The text is not JSON.
    #[error("not JSON: {message} at line {line} column {column}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What the JSON reader expected.
        message: String,
    },
    /// Fields have the wrong type or form, or (strict mode) are unknown. All of them are listed.
    #[error("{what}: {}", list(.problems))]
    Fields {
        /// Kind, or kind and name, of the object.
        what: String,
        /// Every problem, in the order of the object.
        problems: Vec<FieldError>,
    },
    /// `kind` names no kind of this model.
    #[error("unknown kind {kind:?}{}", hint(.suggestion))]
    UnknownKind {
        /// The text found.
        kind: String,
        /// The nearest known kind.
        suggestion: Option<String>,
    },
    /// `apiVersion` is not one that holds this kind.
    #[error("{kind}: apiVersion {found:?} is not supported; use projectcalico.org/v3")]
    ApiVersion {
        /// Kind of the object.
        kind: String,
        /// The text found.
        found: String,
    },
    /// The object is of another kind than the key, the request or the type asks for.
    #[error("expected kind {expected}, found {found}")]
    WrongKind {
        /// Kind asked for.
        expected: String,
        /// Kind found.
        found: String,
    },
    /// A raw (non-JSON) value has an unknown form.
    #[error("{key}: {value:?} is not a valid value; expected {expected}")]
    Raw {
        /// Path of the key.
        key: String,
        /// The text found.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
}

impl ModelError {
    /// The field problems, if the error consists of them.
    pub fn problems(&self) -> &[FieldError] {
        match self {
            Self::Fields { problems, .. } => problems,
            _ => &[],
        }
    }

    pub(crate) fn syntax(e: &serde_json::Error) -> Self {
        let text = e.to_string();
        let message = text.split(" at line ").next().unwrap_or_default().to_owned();
        Self::Syntax { line: e.line(), column: e.column(), message }
    }
}

fn list(problems: &[FieldError]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn hint(suggestion: &Option<String>) -> String {
    suggestion.as_ref().map_or_else(String::new, |s| format!("; did you mean {s}?"))
}

/// The candidate nearest to `word`, when it is near enough to be a typing error.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).clamp(1, 3);
    candidates.into_iter().map(|c| (distance(word, c), c)).filter(|(d, _)| *d <= limit).min().map(|(_, c)| c)
}

/// Edit distance (insert, delete, replace, swap of neighbours), ignoring ASCII case.
fn distance(a: &str, b: &str) -> usize {
    let lower = |s: &str| s.chars().map(|c| c.to_ascii_lowercase()).collect::<Vec<char>>();
    let (a, b) = (lower(a), lower(b));
    let mut before = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut next = vec![i + 1];
        for j in 0..b.len() {
            let replace = row[j] + usize::from(a[i] != b[j]);
            let mut cost = replace.min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                let two_rows_up: &Vec<usize> = &before;
                cost = cost.min(two_rows_up[j - 1] + 1);
            }
            next.push(cost);
        }
        before = std::mem::replace(&mut row, next);
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("selector", "selector"), 0);
        assert_eq!(distance("selctor", "selector"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("teir", "Tier"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(
            nearest("namespaceselector", ["namespaceSelector", "selector"]),
            Some("namespaceSelector")
        );
        assert_eq!(nearest("foo", ["namespaceSelector", "selector"]), None);
    }
}
