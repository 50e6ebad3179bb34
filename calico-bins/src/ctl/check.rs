//! Checks of one object by itself that the model leaves to those who know the selector language.

use calico_model::{AnyResource, FieldError, validate};
use calico_selector::{Limits, Selector};
use serde_json::Value as Json;

/// Fields that hold selectors.
const SELECTORS: &[&str] = &[
    "selector",
    "notSelector",
    "namespaceSelector",
    "serviceAccountSelector",
    "nodeSelector",
    "peerSelector",
    "localWorkloadSelector",
];

/// Everything that can be said about a Calico object without a datastore, in the order of its fields. `tree` is its
/// JSON form as given.
pub fn object(resource: &AnyResource, tree: &Json) -> Vec<FieldError> {
    let mut problems = validate::problems(resource);
    // The same problems of selectors, but with a caret; and those of selectors that the rules of a kind do not reach.
    for problem in selectors(tree) {
        match problems.iter_mut().find(|known| known.path == problem.path) {
            Some(known) => *known = problem,
            None => problems.push(problem),
        }
    }
    problems
}

/// Looks at every selector below `spec` of a Calico object. Problems come in the order of the object, with column and
/// caret.
///
/// ```
/// use calico_bins::ctl::check::selectors;
/// let policy = serde_json::json!({"spec": {"ingress": [{"source": {"selector": "role = 'db'"}}]}});
/// let problems = selectors(&policy);
/// assert_eq!(problems[0].path, "spec.ingress[0].source.selector");
/// assert!(problems[0].reason.starts_with("column 6: a lone `=` is not an operator; did you mean `==`?"));
/// ```
pub fn selectors(tree: &Json) -> Vec<FieldError> {
    let mut out = Vec::new();
    if let Some(spec) = tree.get("spec") {
        walk(spec, "spec", &mut out);
    }
    out
}

fn walk(node: &Json, path: &str, out: &mut Vec<FieldError>) {
    match node {
        Json::Object(fields) => {
            for (name, value) in fields {
                let path = format!("{path}.{name}");
                match value {
                    Json::String(text) if SELECTORS.contains(&name.as_str()) => check(name, text, path, out),
                    _ => walk(value, &path, out),
                }
            }
        }
        Json::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                walk(item, &format!("{path}[{index}]"), out);
            }
        }
        _ => {}
    }
}

fn check(field: &str, text: &str, path: String, out: &mut Vec<FieldError>) {
    if let Err(error) = Selector::parse_with(text, &Limits::API) {
        let indented = error.snippet().replace('\n', "\n    ");
        out.push(FieldError::new(path, format!("{error}\n    {indented}")));
        return;
    }
    if !text.contains("global(") {
        return;
    }
    // Only the namespace selector of a rule may ask for what has no namespace, and then for nothing else.
    let of_rule =
        path.ends_with(".source.namespaceSelector") || path.ends_with(".destination.namespaceSelector");
    let in_rule = path.contains(".source.") || path.contains(".destination.");
    if of_rule {
        let alone: String = text.chars().filter(|c| !matches!(c, ' ' | '\t')).collect();
        if alone != "global()" {
            out.push(FieldError::new(path, "global() cannot be combined with other selectors"));
        }
        return;
    }
    let tolerated = (in_rule && field == "notSelector") || path.contains(".serviceAccounts.");
    if !tolerated {
        out.push(FieldError::new(path, "global() is allowed only in the namespaceSelector of a rule"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_selector_is_looked_at() {
        let policy = json!({
            "metadata": {"annotations": {"selector": "not = checked"}},
            "spec": {
                "selector": "a == 'x' &&",
                "ingress": [{"source": {"namespaceSelector": "global()", "notSelector": "b = 'y'"}},
                            {"destination": {"serviceAccounts": {"selector": "c"}}}],
            }
        });
        let found: Vec<(String, String)> = selectors(&policy)
            .into_iter()
            .map(|p| (p.path, p.reason.lines().last().unwrap_or_default().to_string()))
            .collect();
        assert_eq!(
            found,
            [
                ("spec.ingress[0].source.notSelector".to_string(), "      ^".to_string()),
                ("spec.ingress[1].destination.serviceAccounts.selector".to_string(), "     ^".to_string()),
                ("spec.selector".to_string(), "               ^".to_string()),
            ]
        );
    }

    #[test]
    fn global_stands_alone_in_the_namespace_selector_of_a_rule() {
        let reasons = |spec: Json| -> Vec<String> {
            selectors(&json!({ "spec": spec })).into_iter().map(|p| p.reason).collect()
        };
        assert_eq!(
            reasons(json!({"ingress": [{"source": {"namespaceSelector": " global( )"}}]})),
            [] as [&str; 0]
        );
        let combined = reasons(json!({"ingress": [{"source": {"namespaceSelector": "!global()"}}]}));
        assert_eq!(combined, ["global() cannot be combined with other selectors"]);
        let elsewhere = reasons(json!({"selector": "global()"}));
        assert_eq!(elsewhere, ["global() is allowed only in the namespaceSelector of a rule"]);
    }
}
