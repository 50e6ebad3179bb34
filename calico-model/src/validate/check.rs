//! Collects problems while walking through an object.

use std::fmt::Display;

use calico_selector::Selector;

use crate::error::FieldError;

/// The longest selector the API accepts, in characters.
const MAX_SELECTOR: usize = 1024;

/// Knows where it is in an object and what is wrong there.
#[derive(Debug, Default)]
pub struct Check {
    path: String,
    problems: Vec<FieldError>,
}

impl Check {
    /// At the root, without problems.
    pub fn new() -> Self {
        Self::default()
    }

    /// The problems found.
    pub fn finish(self) -> Vec<FieldError> {
        self.problems
    }

    /// Checks a field.
    pub fn field<R>(&mut self, name: &str, f: impl FnOnce(&mut Self) -> R) -> R {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        let result = f(self);
        self.path.truncate(length);
        result
    }

    /// Checks an entry of a map.
    pub fn entry<R>(&mut self, key: &str, f: impl FnOnce(&mut Self) -> R) -> R {
        let length = self.path.len();
        self.path.push_str(&format!("[{key:?}]"));
        let result = f(self);
        self.path.truncate(length);
        result
    }

    /// Checks every element of a list.
    pub fn each<T>(&mut self, name: &str, list: &[T], mut f: impl FnMut(&mut Self, &T)) {
        self.field(name, |c| {
            let length = c.path.len();
            for (i, item) in list.iter().enumerate() {
                c.path.push_str(&format!("[{i}]"));
                f(c, item);
                c.path.truncate(length);
            }
        });
    }

    /// Notes a problem with the present field.
    pub fn problem(&mut self, reason: impl Into<String>) {
        self.problems.push(FieldError::new(self.path.clone(), reason));
    }

    /// Notes a problem with the present field and shows its value.
    pub fn bad(&mut self, value: impl Display, reason: impl Into<String>) {
        self.problems.push(FieldError::with_value(self.path.clone(), value.to_string(), reason));
    }

    /// Takes over problems found relative to the present field.
    pub fn adopt(&mut self, problems: impl IntoIterator<Item = FieldError>) {
        for p in problems {
            let path = match (self.path.as_str(), p.path.as_str()) {
                ("", inner) => inner.to_owned(),
                (outer, "") => outer.to_owned(),
                (outer, inner) if inner.starts_with('[') => format!("{outer}{inner}"),
                (outer, inner) => format!("{outer}.{inner}"),
            };
            self.problems.push(FieldError { path, ..p });
        }
    }

    /// Notes a problem unless `ok`.
    pub fn require(&mut self, ok: bool, reason: &str) {
        if !ok {
            self.problem(reason);
        }
    }

    /// The field must not have more elements.
    pub fn at_most<T>(&mut self, name: &str, list: &[T], most: usize) {
        if list.len() > most {
            self.field(name, |c| {
                c.problem(format!("has {} elements; at most {most} are allowed", list.len()))
            });
        }
    }

    /// The field must not be longer.
    pub fn no_longer(&mut self, name: &str, text: &str, most: usize) {
        let length = text.chars().count();
        if length > most {
            self.field(name, |c| {
                c.problem(format!("is {length} characters long; at most {most} are allowed"))
            });
        }
    }

    /// The number, if given, must lie within the bounds.
    pub fn within(&mut self, name: &str, value: Option<i64>, min: i64, max: i64) {
        if let Some(v) = value.filter(|v| !(min..=max).contains(v)) {
            self.field(name, |c| c.bad(v, format!("must be within {min} and {max}")));
        }
    }

    /// The elements must differ from each other.
    pub fn distinct<T: PartialEq + Display>(&mut self, name: &str, list: &[T]) {
        for (i, item) in list.iter().enumerate() {
            if list.iter().take(i).any(|other| other == item) {
                self.field(&format!("{name}[{i}]"), |c| c.bad(item, "is listed more than once"));
            }
        }
    }

    /// The text, if given, must be one of the known ones.
    pub fn known(&mut self, name: &str, text: &str, known: &[&str]) {
        if !text.is_empty() && !known.contains(&text) {
            self.field(name, |c| c.bad(text, format!("must be one of {}", known.join(", "))));
        }
    }

    /// A selector: it must parse. Empty is allowed. `global_allowed` is for the one field where `global()` means
    /// something.
    pub fn selector(&mut self, name: &str, text: &str) {
        if text.is_empty() {
            return;
        }
        self.no_longer(name, text, MAX_SELECTOR);
        if let Err(e) = Selector::parse(text) {
            self.field(name, |c| c.bad(text, e.to_string()));
        }
    }

    /// A selector in which `global()` has no meaning.
    pub fn plain_selector(&mut self, name: &str, text: &str) {
        self.selector(name, text);
        if text.contains("global(") {
            self.field(name, |c| {
                c.bad(text, "global() has a meaning only in the namespaceSelector of a rule");
            });
        }
    }

    /// The `namespaceSelector` of a rule: `global()` alone, or a selector without it.
    pub fn namespace_selector(&mut self, name: &str, text: &str) {
        self.selector(name, text);
        let alone = text.split_whitespace().collect::<String>() == "global()";
        if text.contains("global(") && !alone {
            self.field(name, |c| c.bad(text, "global() cannot be combined with other conditions"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_nest() {
        let mut c = Check::new();
        c.field("spec", |c| {
            c.each("list", &[1, 2], |c, n| {
                if *n == 2 {
                    c.field("x", |c| c.problem("no"));
                }
            });
            c.field("labels", |c| c.entry("a/b", |c| c.problem("no")));
            c.distinct("names", &["a", "b", "a"]);
            c.adopt([FieldError::new("[3].y", "no"), FieldError::new("", "no")]);
        });
        let paths: Vec<_> = c.finish().into_iter().map(|p| p.path).collect();
        assert_eq!(paths, ["spec.list[1].x", "spec.labels[\"a/b\"]", "spec.names[2]", "spec[3].y", "spec"]);
    }

    #[test]
    fn global_stands_alone() {
        let problems = |text: &str| {
            let mut c = Check::new();
            c.namespace_selector("n", text);
            c.finish().len()
        };
        assert_eq!(problems(" global( ) "), 0);
        assert_eq!(problems("global() && a == 'b'"), 1);
        assert_eq!(problems("!global()"), 1);
        assert_eq!(problems("a == 'b'"), 0);
    }
}
