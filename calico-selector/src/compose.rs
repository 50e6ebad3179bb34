//! The selectors of one API object become one selector.
//!
//! A rule side has up to four selectors (namespaces, service accounts, endpoints, and those excluded), a policy up to
//! three. The calculation wants one. Trees are joined, so that a literal such as `'all()'` is never touched, and the
//! nesting is the one that peers hash, so that ids agree.
//!
//! Everything fails closed: when one of the selectors does not parse the whole matches nothing, and the caller learns
//! of it through [`Composed::problems`] so that it can be shown to the owner of the object.

use crate::ast::Expr;
use crate::error::ParseError;
use crate::labels::{NAMESPACE, NAMESPACE_PREFIX, SERVICE_ACCOUNT, SERVICE_ACCOUNT_PREFIX};
use crate::selector::Selector;

/// The selectors of the source or destination of a rule, as they stand in the API object. Empty texts are absent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entity<'a> {
    /// `selector`
    pub selector: &'a str,
    /// `notSelector`
    pub not_selector: &'a str,
    /// `namespaceSelector`
    pub namespace_selector: &'a str,
    /// `serviceAccounts.selector`
    pub service_account_selector: &'a str,
    /// `serviceAccounts.names`
    pub service_account_names: &'a [String],
}

/// The selectors of a policy, as they stand in the API object. Empty texts are absent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subject<'a> {
    /// `selector`
    pub selector: &'a str,
    /// `namespaceSelector`, of global policies only
    pub namespace_selector: &'a str,
    /// `serviceAccountSelector`
    pub service_account_selector: &'a str,
}

/// The field of the API object that a problem is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// `selector`
    Selector,
    /// `notSelector`
    NotSelector,
    /// `namespaceSelector`
    NamespaceSelector,
    /// `serviceAccounts.selector` of a rule, `serviceAccountSelector` of a policy
    ServiceAccountSelector,
    /// `serviceAccounts.names`
    ServiceAccountNames,
}

/// Why the whole was replaced by `!all()`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field.
    pub field: Field,
    /// What is wrong with it.
    pub cause: Cause,
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The selector does not parse.
    Syntax(ParseError),
    /// A name has both kinds of quotes and cannot be written in a selector.
    Unquotable(Box<str>),
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let field = match self.field {
            Field::Selector => "selector",
            Field::NotSelector => "notSelector",
            Field::NamespaceSelector => "namespaceSelector",
            Field::ServiceAccountSelector => "service account selector",
            Field::ServiceAccountNames => "serviceAccounts.names",
        };
        match &self.cause {
            Cause::Syntax(error) => write!(f, "{field}: {error}; it matches nothing until it is corrected"),
            Cause::Unquotable(name) => {
                write!(f, "{field}: {name:?} is not a name; the rule matches nothing until it is corrected")
            }
        }
    }
}

impl std::error::Error for Problem {}

/// The result for one rule side or one policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Composed {
    /// The peer must be known and match; `None` is no restriction.
    pub selector: Option<Selector>,
    /// The peer must not be a known one that matches; it passes when it is unknown. Rules only.
    pub not_selector: Option<Selector>,
    /// Fields that are broken. When there are any, `selector` is `!all()`.
    pub problems: Vec<Problem>,
}

impl Composed {
    /// Both parts as the calculation of IP sets wants them: a negative part beside a positive one is folded into it.
    /// Alone it stays negative, so that it still passes for addresses that nobody knows.
    pub fn merged(&self) -> (Option<Selector>, Option<Selector>) {
        match (&self.selector, &self.not_selector) {
            (Some(positive), Some(negative)) => (Some(positive.and_not(negative)), None),
            (positive, negative) => (positive.clone(), negative.clone()),
        }
    }
}

/// The source or destination of a rule, of a policy in `namespace` (empty for global policies and profiles).
///
/// ```
/// use calico_selector::compose::{self, Entity};
///
/// let side = Entity { selector: "role == 'fe'", ..Entity::default() };
/// let composed = compose::entity(&side, "prod");
/// let selector = composed.selector.unwrap();
/// assert_eq!(selector.canonical(), r#"(projectcalico.org/namespace == "prod" && role == "fe")"#);
/// ```
pub fn entity(side: &Entity<'_>, namespace: &str) -> Composed {
    let mut problems = Vec::new();
    let selector = parse(side.selector, Field::Selector, &mut problems);
    let not_selector = parse(side.not_selector, Field::NotSelector, &mut problems);
    let in_namespaces = parse(side.namespace_selector, Field::NamespaceSelector, &mut problems);
    let accounts = service_accounts(side, &mut problems);
    let own = join(accounts, selector);
    let limited = own.is_some() || not_selector.is_some() || in_namespaces.is_some();
    let namespaces = match in_namespaces {
        Some(expr) => Some(expr.prefixed(NAMESPACE_PREFIX).map(&namespaced).reread()),
        None if !namespace.is_empty() => Some(Expr::equal(NAMESPACE, namespace)),
        None => None,
    };
    // Without any selector a rule is about addresses alone, and the namespace of the policy must not narrow it.
    // Service accounts count as a selector: a name means the account of that name in the policy's namespace.
    let whole = if limited { join(namespaces, own) } else { own };
    finish(whole, not_selector, problems)
}

/// What a policy in a namespace applies to.
///
/// ```
/// use calico_selector::compose::{self, Subject};
///
/// let subject = Subject { selector: "role == 'db'", ..Subject::default() };
/// let composed = compose::network_policy_subject(&subject, "prod");
/// let selector = composed.selector.unwrap();
/// assert_eq!(selector.canonical(), r#"(role == "db" && projectcalico.org/namespace == "prod")"#);
/// ```
pub fn network_policy_subject(subject: &Subject<'_>, namespace: &str) -> Composed {
    let mut problems = Vec::new();
    let selector = parse(subject.selector, Field::Selector, &mut problems);
    let mut whole = join(selector, Some(Expr::equal(NAMESPACE, namespace)));
    let accounts = parse(subject.service_account_selector, Field::ServiceAccountSelector, &mut problems);
    if let Some(accounts) = accounts {
        whole = join(whole, Some(accounts.prefixed(SERVICE_ACCOUNT_PREFIX).reread()));
    }
    finish(whole, None, problems)
}

/// What a global policy applies to; `None` is everything.
///
/// With a namespace selector every `all()` of the whole turns into `has(projectcalico.org/namespace)`, with a service
/// account selector into `has(projectcalico.org/serviceaccount)`: so a policy for "all namespaces" leaves out host
/// endpoints, also when its own selector says `all()`.
pub fn global_policy_subject(subject: &Subject<'_>) -> Composed {
    let mut problems = Vec::new();
    let mut whole = parse(subject.selector, Field::Selector, &mut problems);
    let parts = [
        (subject.namespace_selector, Field::NamespaceSelector, NAMESPACE_PREFIX, NAMESPACE),
        (
            subject.service_account_selector,
            Field::ServiceAccountSelector,
            SERVICE_ACCOUNT_PREFIX,
            SERVICE_ACCOUNT,
        ),
    ];
    for (text, field, prefix, marker) in parts {
        let Some(expr) = parse(text, field, &mut problems) else { continue };
        whole = join(whole, Some(expr.prefixed(prefix).reread()))
            .map(|whole| whole.map(&|expr| if expr == Expr::All { Expr::has(marker) } else { expr }));
    }
    finish(whole, None, problems)
}

/// One broken field makes the whole match nothing: `!all()` put in place of the field alone would be rewritten, and
/// negated, with the rest.
fn finish(selector: Option<Expr>, not_selector: Option<Expr>, problems: Vec<Problem>) -> Composed {
    if problems.is_empty() {
        let (selector, not_selector) = (selector.map(Selector::new), not_selector.map(Selector::new));
        Composed { selector, not_selector, problems }
    } else {
        Composed { selector: Some(Selector::none()), not_selector: None, problems }
    }
}

/// In the namespace part of a rule `all()` is "any namespace" and `global()` is "no namespace".
fn namespaced(expr: Expr) -> Expr {
    match expr {
        Expr::All => Expr::has(NAMESPACE),
        Expr::Global => Expr::not(Expr::has(NAMESPACE)),
        other => other,
    }
}

fn service_accounts(side: &Entity<'_>, problems: &mut Vec<Problem>) -> Option<Expr> {
    let by_label = parse(side.service_account_selector, Field::ServiceAccountSelector, problems)
        .map(|expr| expr.prefixed(SERVICE_ACCOUNT_PREFIX).reread());
    let names = side.service_account_names;
    let by_name = if let Some(name) = names.iter().find(|n| n.contains('\'') && n.contains('"')) {
        let cause = Cause::Unquotable(name.as_str().into());
        problems.push(Problem { field: Field::ServiceAccountNames, cause });
        None
    } else if names.is_empty() {
        None
    } else {
        Some(Expr::member(SERVICE_ACCOUNT, false, names.iter().map(String::as_str)))
    };
    join(by_label, by_name)
}

fn parse(text: &str, field: Field, problems: &mut Vec<Problem>) -> Option<Expr> {
    if text.is_empty() {
        return None;
    }
    match Selector::parse(text) {
        Ok(selector) => Some(selector.expr().clone()),
        Err(error) => {
            problems.push(Problem { field, cause: Cause::Syntax(error) });
            None
        }
    }
}

fn join(left: Option<Expr>, right: Option<Expr>) -> Option<Expr> {
    match (left, right) {
        (Some(left), Some(right)) => Some(Expr::And(vec![left, right])),
        (only, None) | (None, only) => only,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(composed: &Composed) -> &str {
        assert_eq!(composed.problems, []);
        composed.selector.as_ref().map_or("", Selector::canonical)
    }

    fn rule(text: &str) -> Entity<'_> {
        Entity { selector: text, ..Entity::default() }
    }

    #[test]
    fn rule_sides() {
        let ns = |text| Entity { namespace_selector: text, ..Entity::default() };
        for (side, namespace, expected) in [
            (rule("role == 'fe'"), "prod", r#"(projectcalico.org/namespace == "prod" && role == "fe")"#),
            (ns("env == 'x'"), "prod", r#"pcns.env == "x""#),
            (ns("all()"), "prod", "has(projectcalico.org/namespace)"),
            (ns("!global()"), "prod", "has(projectcalico.org/namespace)"),
            (ns("!(!has(a))"), "prod", "has(pcns.a)"),
            (
                Entity { selector: "role == 'fe'", ..ns("global()") },
                "prod",
                r#"(!has(projectcalico.org/namespace) && role == "fe")"#,
            ),
            (Entity::default(), "prod", ""),
            (rule("role == 'fe'"), "", r#"role == "fe""#),
            // Literals and the endpoints' own all() are not namespaces.
            (ns("note == 'all()'"), "prod", r#"pcns.note == "all()""#),
            (rule("all()"), "prod", r#"(projectcalico.org/namespace == "prod" && all())"#),
        ] {
            assert_eq!(canonical(&entity(&side, namespace)), expected, "{side:?}");
        }
    }

    #[test]
    fn negative_selector_alone_adds_the_namespace() {
        let side = Entity { not_selector: "role == 'fe'", ..Entity::default() };
        let composed = entity(&side, "prod");
        assert_eq!(canonical(&composed), r#"projectcalico.org/namespace == "prod""#);
        assert_eq!(composed.not_selector.as_ref().unwrap().canonical(), r#"role == "fe""#);
        let global = entity(&side, "");
        assert_eq!(global.merged(), (None, global.not_selector.clone()));
    }

    #[test]
    fn service_accounts_alone_are_those_of_the_namespace() {
        // updateprocessors/rules.go: "the selector (and/or SA Selector), NotSelector, or NamespaceSelector".
        let names = ["api".to_string()];
        let side = Entity { service_account_names: &names, ..Entity::default() };
        assert_eq!(
            canonical(&entity(&side, "prod")),
            r#"(projectcalico.org/namespace == "prod" && projectcalico.org/serviceaccount in {"api"})"#
        );
    }

    #[test]
    fn ids_of_longer_compositions() {
        let names = ["b".to_string(), "a".to_string()];
        let side = Entity {
            service_account_selector: "team == 'x'",
            service_account_names: &names,
            ..rule("role == 'fe'")
        };
        let composed = entity(&side, "prod");
        assert_eq!(
            canonical(&composed),
            r#"(projectcalico.org/namespace == "prod" && ((pcsa.team == "x" && projectcalico.org/serviceaccount in {"a", "b"}) && role == "fe"))"#
        );
        assert_eq!(composed.selector.unwrap().id(), "s:MXZHHakT6LeBUKZntd0xCHCIQf1CbSHFkLn2zQ");

        let subject = Subject {
            selector: "role == 'db'",
            service_account_selector: "team == 'x'",
            ..Subject::default()
        };
        let composed = network_policy_subject(&subject, "prod");
        assert_eq!(
            canonical(&composed),
            r#"((role == "db" && projectcalico.org/namespace == "prod") && pcsa.team == "x")"#
        );
        assert_eq!(composed.selector.unwrap().id(), "s:NfMiG60QPqKUwLzFcCn2j4eyNWPYJNStgfW7jA");

        let side = Entity { not_selector: "env == 'x'", ..rule("role == 'fe'") };
        let (merged, negative) = entity(&side, "").merged();
        assert_eq!(negative, None);
        let merged = merged.unwrap();
        assert_eq!(merged.canonical(), r#"(role == "fe" && !env == "x")"#);
        assert_eq!(merged.id(), "s:-Il4Bxi76RNPFVVI3HsDGoD4LSRQasLjm472rA");
    }

    #[test]
    fn policy_subjects() {
        let subject =
            |selector, namespace_selector| Subject { selector, namespace_selector, ..Subject::default() };
        let namespaced = network_policy_subject(&subject("role == 'db'", ""), "prod");
        assert_eq!(canonical(&namespaced), r#"(role == "db" && projectcalico.org/namespace == "prod")"#);
        let namespaced = network_policy_subject(&subject("", ""), "prod");
        assert_eq!(canonical(&namespaced), r#"projectcalico.org/namespace == "prod""#);
        for (selector, namespaces, expected) in [
            ("all()", "env == 'x'", r#"(has(projectcalico.org/namespace) && pcns.env == "x")"#),
            ("", "all()", "has(projectcalico.org/namespace)"),
            ("", "", ""),
            ("all()", "", "all()"),
            ("a == 'all()'", "all()", r#"(a == "all()" && has(projectcalico.org/namespace))"#),
        ] {
            assert_eq!(canonical(&global_policy_subject(&subject(selector, namespaces))), expected);
        }
        let with_accounts = Subject { service_account_selector: "all()", ..subject("all()", "") };
        assert_eq!(
            canonical(&global_policy_subject(&with_accounts)),
            "(has(projectcalico.org/serviceaccount) && has(projectcalico.org/serviceaccount))"
        );
    }

    #[test]
    fn broken_parts_match_nothing() {
        let both_quotes = ["'\"".to_string()];
        let sides = [
            rule("a ="),
            Entity { not_selector: "a =", ..Entity::default() },
            Entity { namespace_selector: "a =", ..Entity::default() },
            Entity { service_account_selector: "a =", ..Entity::default() },
            Entity { service_account_names: &both_quotes, ..Entity::default() },
        ];
        for side in sides {
            let composed = entity(&side, "prod");
            assert_eq!(composed.problems.len(), 1, "{side:?}");
            assert_eq!(composed.merged(), (Some(Selector::none()), None), "{side:?}");
        }
        let broken = Subject { namespace_selector: "(", ..Subject::default() };
        assert_eq!(global_policy_subject(&broken).selector, Some(Selector::none()));
        let broken = Subject { service_account_selector: "(", selector: "all()", ..Subject::default() };
        assert_eq!(global_policy_subject(&broken).selector, Some(Selector::none()));
        assert_eq!(network_policy_subject(&broken, "prod").selector, Some(Selector::none()));
        // A single quote can be written, so the name is only odd.
        let one_quote = ["o'neil".to_string()];
        let side = Entity { service_account_names: &one_quote, ..Entity::default() };
        assert_eq!(canonical(&entity(&side, "")), r#"projectcalico.org/serviceaccount in {"o'neil"}"#);
    }
}
