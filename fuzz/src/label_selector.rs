//! Label selectors of Kubernetes.

use arbitrary::{Arbitrary, Unstructured};
use calico_selector::Selector;
use calico_selector::kubernetes::{self, LabelSelector, Operator, Requirement};

/// Any label selector becomes a tree that matches what Kubernetes says it matches, or is refused; the text form reads
/// back as the same tree whenever its values can be written in single quotes.
pub fn label_selector(data: &[u8]) {
    let mut data = Unstructured::new(data);
    let Ok((match_labels, expressions, labels)) = Input::arbitrary(&mut data) else { return };
    let selector = LabelSelector {
        match_labels,
        match_expressions: expressions
            .into_iter()
            .map(|(key, operator, values)| Requirement {
                key,
                operator: [Operator::In, Operator::NotIn, Operator::Exists, Operator::DoesNotExist]
                    [usize::from(operator % 4)],
                values,
            })
            .collect(),
    };
    let Ok(parsed) = kubernetes::label_selector(&selector) else { return };

    let get = |name: &str| labels.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    let by_hand = selector.match_labels.iter().all(|(key, value)| get(key) == Some(value))
        && selector.match_expressions.iter().all(|one| match one.operator {
            Operator::In => get(&one.key).is_some_and(|value| one.values.contains(value)),
            Operator::NotIn => get(&one.key).is_none_or(|value| !one.values.contains(value)),
            Operator::Exists => get(&one.key).is_some(),
            Operator::DoesNotExist => get(&one.key).is_none(),
        });
    assert_eq!(parsed.matches(&labels), by_hand, "{parsed:?} on {labels:?}");

    let quotable = |value: &String| !value.contains('\'');
    if selector.match_labels.iter().all(|(_, value)| quotable(value))
        && selector.match_expressions.iter().all(|one| one.values.iter().all(quotable))
    {
        let text = kubernetes::namespace_text(Some(&selector));
        assert_eq!(Selector::parse(&text).expect("the text form reads back"), parsed);
    }
}

type Input = (Vec<(String, String)>, Vec<(String, u8, Vec<String>)>, Vec<(String, String)>);
