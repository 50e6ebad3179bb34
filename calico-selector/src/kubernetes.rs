//! Label selectors of Kubernetes.
//!
//! The structs hold just what a selector needs and know nothing of JSON; whoever reads the objects fills them.

use crate::ast::Expr;
use crate::labels::ORCHESTRATOR;
use crate::selector::{InvalidExpr, Selector};

/// A `metav1.LabelSelector`. All conditions must hold; without any it matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    /// `matchLabels`: name and value. Any order.
    pub match_labels: Vec<(String, String)>,
    /// `matchExpressions`, in the order of the object.
    pub match_expressions: Vec<Requirement>,
}

/// One entry of `matchExpressions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// Label name.
    pub key: String,
    /// How the values are compared.
    pub operator: Operator,
    /// The values, for `In` and `NotIn`.
    pub values: Vec<String>,
}

/// The operator of a [`Requirement`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// The label has one of the values.
    In,
    /// The label is absent or has none of the values.
    NotIn,
    /// The label is present.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

impl std::str::FromStr for Operator {
    type Err = UnknownOperator;

    fn from_str(text: &str) -> Result<Self, UnknownOperator> {
        match text {
            "In" => Ok(Self::In),
            "NotIn" => Ok(Self::NotIn),
            "Exists" => Ok(Self::Exists),
            "DoesNotExist" => Ok(Self::DoesNotExist),
            _ => Err(UnknownOperator { text: text.into() }),
        }
    }
}

/// The text is none of `In`, `NotIn`, `Exists`, `DoesNotExist`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownOperator {
    /// The text.
    pub text: Box<str>,
}

impl std::fmt::Display for UnknownOperator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "operator {:?} must be In, NotIn, Exists or DoesNotExist", self.text)
    }
}

impl std::error::Error for UnknownOperator {}

/// The selector that a Kubernetes pod selector stands for in a policy: it matches pods only.
///
/// ```
/// use calico_selector::kubernetes::{self, LabelSelector};
///
/// let fe = LabelSelector { match_labels: vec![("app".into(), "fe".into())], ..LabelSelector::default() };
/// let selector = kubernetes::pod_selector(Some(&fe)).unwrap();
/// assert_eq!(selector.canonical(), r#"(projectcalico.org/orchestrator == "k8s" && app == "fe")"#);
/// assert_eq!(kubernetes::pod_text(Some(&fe)), "projectcalico.org/orchestrator == 'k8s' && app == 'fe'");
/// ```
pub fn pod_selector(selector: Option<&LabelSelector>) -> Result<Selector, InvalidExpr> {
    let mut parts = vec![Expr::equal(ORCHESTRATOR, "k8s")];
    parts.extend(selector.into_iter().flat_map(terms));
    conjunction(parts)
}

/// The selector that a Kubernetes namespace selector stands for: without one there is none, an empty one matches all.
pub fn namespace_selector(selector: Option<&LabelSelector>) -> Result<Option<Selector>, InvalidExpr> {
    selector.map(|selector| conjunction(terms(selector).collect())).transpose()
}

/// A label selector on plain labels, such as those of nodes.
pub fn label_selector(selector: &LabelSelector) -> Result<Selector, InvalidExpr> {
    conjunction(terms(selector).collect())
}

/// [`pod_selector`] as the text that a converted policy stores.
pub fn pod_text(selector: Option<&LabelSelector>) -> String {
    let mut out = format!("{ORCHESTRATOR} == 'k8s'");
    if let Some(selector) = selector {
        append_text(selector, &mut out);
    }
    out
}

/// [`namespace_selector`] as the text that a converted policy stores; empty without a selector.
pub fn namespace_text(selector: Option<&LabelSelector>) -> String {
    let mut out = String::new();
    if let Some(selector) = selector {
        append_text(selector, &mut out);
        if out.is_empty() {
            out.push_str("all()");
        }
    }
    out
}

fn sorted(selector: &LabelSelector) -> Vec<&(String, String)> {
    let mut labels: Vec<_> = selector.match_labels.iter().collect();
    labels.sort();
    labels
}

fn terms(selector: &LabelSelector) -> impl Iterator<Item = Expr> {
    let labels = sorted(selector).into_iter().map(|(name, value)| Expr::equal(name, value));
    labels.chain(selector.match_expressions.iter().map(|requirement| {
        let Requirement { key, operator, values } = requirement;
        match operator {
            Operator::In => Expr::member(key, false, values.iter().map(String::as_str)),
            Operator::NotIn => Expr::member(key, true, values.iter().map(String::as_str)),
            Operator::Exists => Expr::has(key),
            Operator::DoesNotExist => Expr::not(Expr::has(key)),
        }
    }))
}

fn conjunction(mut parts: Vec<Expr>) -> Result<Selector, InvalidExpr> {
    match parts.len() {
        0 => Ok(Selector::all()),
        1 => Selector::from_expr(parts.remove(0)),
        _ => Selector::from_expr(Expr::And(parts)),
    }
}

fn append_text(selector: &LabelSelector, out: &mut String) {
    let mut term = |text: String| {
        if !out.is_empty() {
            out.push_str(" && ");
        }
        out.push_str(&text);
    };
    for (name, value) in sorted(selector) {
        term(format!("{name} == '{value}'"));
    }
    for Requirement { key, operator, values } in &selector.match_expressions {
        let set = || {
            let quoted: Vec<String> = values.iter().map(|value| format!("'{value}'")).collect();
            format!("{{ {} }}", quoted.join(", "))
        };
        term(match operator {
            Operator::In => format!("{key} in {}", set()),
            Operator::NotIn => format!("{key} not in {}", set()),
            Operator::Exists => format!("has({key})"),
            Operator::DoesNotExist => format!("! has({key})"),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::{self, Entity};

    fn requirement(key: &str, operator: &str, values: &[&str]) -> Requirement {
        Requirement {
            key: key.into(),
            operator: operator.parse().unwrap(),
            values: values.iter().map(ToString::to_string).collect(),
        }
    }

    fn everything() -> LabelSelector {
        LabelSelector {
            match_labels: vec![("b".into(), "2".into()), ("a".into(), "1".into())],
            match_expressions: vec![
                requirement("e", "In", &["y", "x"]),
                requirement("d", "NotIn", &["z"]),
                requirement("c", "Exists", &[]),
                requirement("b", "DoesNotExist", &[]),
            ],
        }
    }

    #[test]
    fn text_and_tree_say_the_same() {
        let all = everything();
        let text = pod_text(Some(&all));
        assert_eq!(
            text,
            "projectcalico.org/orchestrator == 'k8s' && a == '1' && b == '2' && e in { 'y', 'x' } && \
             d not in { 'z' } && has(c) && ! has(b)"
        );
        assert_eq!(Selector::parse(&text).unwrap(), pod_selector(Some(&all)).unwrap());
        let text = namespace_text(Some(&all));
        assert_eq!(Selector::parse(&text).unwrap(), namespace_selector(Some(&all)).unwrap().unwrap());
    }

    #[test]
    fn absent_and_empty() {
        assert_eq!(pod_text(None), "projectcalico.org/orchestrator == 'k8s'");
        assert_eq!(pod_selector(None), pod_selector(Some(&LabelSelector::default())));
        assert_eq!(namespace_text(None), "");
        assert_eq!(namespace_selector(None), Ok(None));
        assert_eq!(namespace_text(Some(&LabelSelector::default())), "all()");
        assert_eq!(namespace_selector(Some(&LabelSelector::default())), Ok(Some(Selector::all())));
        assert_eq!(label_selector(&LabelSelector::default()), Ok(Selector::all()));
    }

    #[test]
    fn what_cannot_be_written_is_an_error() {
        let bad =
            LabelSelector { match_labels: vec![("a b".into(), "x".into())], ..LabelSelector::default() };
        assert_eq!(label_selector(&bad), Err(InvalidExpr::Label { label: "a b".into() }));
        assert_eq!("in".parse::<Operator>(), Err(UnknownOperator { text: "in".into() }));
    }

    #[test]
    fn peers_of_a_policy() {
        let fe =
            LabelSelector { match_labels: vec![("app".into(), "fe".into())], ..LabelSelector::default() };
        let pods = pod_text(Some(&fe));
        let peer =
            compose::entity(&Entity { selector: &pods, ..Entity::default() }, "prod").selector.unwrap();
        assert_eq!(
            peer.canonical(),
            r#"(projectcalico.org/namespace == "prod" && (projectcalico.org/orchestrator == "k8s" && app == "fe"))"#
        );
        assert_eq!(peer.id(), "s:NLGOxsbS2A9C1cYSaAAktXqKiPziD7TrMYLymQ");

        let db = LabelSelector {
            match_labels: vec![("kubernetes.io/metadata.name".into(), "db".into())],
            ..LabelSelector::default()
        };
        let (pods, namespaces) = (pod_text(None), namespace_text(Some(&db)));
        let side = Entity { selector: &pods, namespace_selector: &namespaces, ..Entity::default() };
        let peer = compose::entity(&side, "prod").selector.unwrap();
        assert_eq!(
            peer.canonical(),
            r#"(pcns.kubernetes.io/metadata.name == "db" && projectcalico.org/orchestrator == "k8s")"#
        );
        assert_eq!(peer.id(), "s:eWAeeRFprt0qeqIqPhVCth2fXZwDiMhGivp-yw");
    }
}
