//! Laws of the language and of the index, on random selectors and histories.

use std::collections::{BTreeMap, BTreeSet};

use calico_selector::interned::Interner;
use calico_selector::labels::{Inherited, Labels};
use calico_selector::{
    Comparison, Expr, Limits, MatchIndex, Satisfiability, Selector, Transition, explain, lint, satisfiability,
};
use proptest::prelude::*;

const NAMES: [&str; 4] = ["a", "b", "in", "x/y.z"];
const VALUES: [&str; 5] = ["", "v", "vw", "w", "\"q\""];

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&NAMES[..])
}

fn value() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&VALUES[..])
}

fn expr() -> impl Strategy<Value = Expr> {
    let op = prop::sample::select(vec![
        Comparison::Equal,
        Comparison::Equal,
        Comparison::NotEqual,
        Comparison::Contains,
        Comparison::StartsWith,
        Comparison::EndsWith,
    ]);
    let leaf = prop_oneof![
        1 => Just(Expr::All),
        1 => Just(Expr::Global),
        3 => name().prop_map(Expr::has),
        6 => (name(), op, value())
            .prop_map(|(label, op, value)| Expr::Compare { label: label.into(), op, value: value.into() }),
        4 => (name(), any::<bool>(), prop::collection::vec(value(), 0..4))
            .prop_map(|(label, negated, values)| Expr::member(label, negated, values)),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(Expr::not),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expr::And),
            prop::collection::vec(inner, 2..4).prop_map(Expr::Or),
        ]
    })
}

fn selector() -> impl Strategy<Value = Selector> {
    expr().prop_map(|expr| Selector::from_expr(expr).expect("names and values can be written"))
}

fn labels() -> impl Strategy<Value = BTreeMap<&'static str, &'static str>> {
    prop::collection::btree_map(name(), value(), 0..4)
}

/// One change of an index over keys 0..6 of each kind.
#[derive(Clone, Debug)]
enum Change {
    Selector(u8, Option<Selector>),
    Item(u8, Option<(BTreeMap<&'static str, &'static str>, Vec<u8>)>),
    Parent(u8, Option<BTreeMap<&'static str, &'static str>>),
}

fn change() -> impl Strategy<Value = Change> {
    let key = 0_u8..6;
    let item = (labels(), prop::collection::vec(0_u8..6, 0..3));
    prop_oneof![
        (key.clone(), prop::option::weighted(0.8, selector())).prop_map(|(k, s)| Change::Selector(k, s)),
        (key.clone(), prop::option::weighted(0.8, item)).prop_map(|(k, i)| Change::Item(k, i)),
        (key, prop::option::weighted(0.7, labels())).prop_map(|(k, p)| Change::Parent(k, p)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn printed_selectors_read_back_the_same(selector in selector(), labels in labels()) {
        let again = Selector::parse(selector.canonical()).unwrap();
        // Nested negations collapse at the first reading and never again.
        let third = Selector::parse(again.canonical()).unwrap();
        prop_assert_eq!(again.id(), third.id());
        prop_assert_eq!(selector.matches(&labels), again.matches(&labels));
        if !selector.canonical().contains("!!") {
            prop_assert_eq!(selector.id(), again.id());
        }
    }

    #[test]
    fn de_morgan(left in expr(), right in expr(), labels in labels()) {
        let of = |expr: Expr| Selector::from_expr(expr).unwrap().matches(&labels);
        let (l, r) = (left.clone(), right.clone());
        prop_assert_eq!(of(Expr::not(Expr::And(vec![l.clone(), r.clone()]))),
            of(Expr::Or(vec![Expr::not(l), Expr::not(r)])));
        prop_assert_eq!(of(Expr::not(Expr::Or(vec![left.clone(), right.clone()]))),
            of(Expr::And(vec![Expr::not(left.clone()), Expr::not(right)])));
        prop_assert_eq!(of(Expr::not(Expr::not(left.clone()))), of(left));
    }

    #[test]
    fn restrictions_are_necessary(selector in selector(), labels in labels()) {
        if selector.matches(&labels) {
            prop_assert!(selector.restrictions().satisfiable());
            for entry in selector.restrictions() {
                let value = labels.get(&*entry.label).copied();
                prop_assert!(!entry.must_be_present || value.is_some());
                prop_assert!(!entry.must_be_absent || value.is_none());
                if let Some(set) = &entry.one_of {
                    prop_assert!(value.is_some_and(|value| set.iter().any(|v| **v == *value)));
                }
            }
        }
    }

    #[test]
    fn interned_selectors_match_the_same(selector in selector(), own in labels(), parents in prop::collection::vec(labels(), 0..3)) {
        let mut texts = Interner::new();
        let compiled = texts.selector(&selector);
        let interned = texts.labels(&own);
        prop_assert_eq!(compiled.matches(&interned, &texts), selector.matches(&own));
        let lineage: Vec<(&str, &dyn Labels)> = parents.iter().map(|parent| ("", parent as &dyn Labels)).collect();
        let interned_parents: Vec<_> = parents.iter().map(|parent| texts.labels(parent)).collect();
        let references: Vec<_> = interned_parents.iter().collect();
        let expected = selector.matches(&Inherited::new(&own, &lineage));
        prop_assert_eq!(compiled.matches_inherited(&interned, &references, &texts), expected);
        texts.forget_selector(compiled);
        texts.forget_labels(interned);
        interned_parents.into_iter().for_each(|labels| texts.forget_labels(labels));
        prop_assert!(texts.is_empty());
    }

    #[test]
    fn satisfiability_never_lies(selector in selector(), labels in labels()) {
        match satisfiability(&selector) {
            Satisfiability::Always => prop_assert!(selector.matches(&labels)),
            Satisfiability::Never => prop_assert!(!selector.matches(&labels)),
            Satisfiability::Sometimes | Satisfiability::Unknown => {}
        }
    }

    #[test]
    fn explanations_agree_with_the_verdict(selector in selector(), labels in labels()) {
        let why = explain(&selector, &labels);
        prop_assert_eq!(why.matches, selector.matches(&labels));
        for reason in &why.reasons {
            prop_assert_eq!(Selector::parse(&reason.condition).unwrap().matches(&labels), reason.holds);
        }
        prop_assert!(!why.reasons.is_empty());
    }

    #[test]
    fn prefixing_moves_the_labels(selector in selector(), labels in labels()) {
        let moved: BTreeMap<String, &str> = labels.iter().map(|(k, v)| (format!("p.{k}"), *v)).collect();
        prop_assert_eq!(selector.prefixed("p.").matches(&moved), selector.matches(&labels));
    }

    #[test]
    fn any_text_is_read_or_refused_with_a_place(text in "[ab =!&|(){}'\",\\n\\tinothascelgé.]{0,40}") {
        match Selector::parse(&text) {
            Ok(selector) => {
                prop_assert!(Selector::parse(selector.canonical()).is_ok());
                lint(&text, &Limits::DEFAULT).unwrap();
            }
            Err(error) => {
                prop_assert!(text.is_char_boundary(error.offset()));
                prop_assert!(error.snippet().ends_with('^') && !error.to_string().is_empty());
            }
        }
    }

    #[test]
    fn the_index_equals_brute_force(changes in prop::collection::vec(change(), 1..60)) {
        let mut index: MatchIndex<u8, u8, u8> = MatchIndex::new();
        let mut selectors: BTreeMap<u8, Selector> = BTreeMap::new();
        let mut items: BTreeMap<u8, (BTreeMap<&str, &str>, Vec<u8>)> = BTreeMap::new();
        let mut parents: BTreeMap<u8, BTreeMap<&str, &str>> = BTreeMap::new();
        let mut reported: BTreeSet<(u8, u8)> = BTreeSet::new();
        for change in changes {
            let mut doubled = false;
            let mut note = |selector: &u8, item: &u8, what: Transition| {
                doubled |= match what {
                    Transition::Started => !reported.insert((*selector, *item)),
                    Transition::Stopped => !reported.remove(&(*selector, *item)),
                };
            };
            match change {
                Change::Selector(key, Some(selector)) => {
                    index.set_selector(&key, &selector, &mut note);
                    selectors.insert(key, selector);
                }
                Change::Selector(key, None) => {
                    index.remove_selector(&key, &mut note);
                    selectors.remove(&key);
                }
                Change::Item(key, Some((labels, lineage))) => {
                    index.set_item(&key, &labels, &lineage, &mut note);
                    items.insert(key, (labels, lineage));
                }
                Change::Item(key, None) => {
                    index.remove_item(&key, &mut note);
                    items.remove(&key);
                }
                Change::Parent(key, Some(labels)) => {
                    index.set_parent(&key, &labels, &mut note);
                    parents.insert(key, labels);
                }
                Change::Parent(key, None) => {
                    index.remove_parent(&key, &mut note);
                    parents.remove(&key);
                }
            }
            prop_assert!(!doubled, "a transition was reported twice");
            let mut expected = BTreeSet::new();
            for (item, (own, lineage)) in &items {
                let known: Vec<(&str, &dyn Labels)> =
                    lineage.iter().filter_map(|key| Some(("", parents.get(key)? as &dyn Labels))).collect();
                let labels = Inherited::new(own, &known);
                for (key, selector) in &selectors {
                    if selector.matches(&labels) {
                        expected.insert((*key, *item));
                    }
                }
            }
            prop_assert_eq!(&reported, &expected);
            for (selector, item) in &expected {
                prop_assert!(index.matches(selector, item));
                prop_assert!(index.items_of(selector).any(|found| found == item));
                prop_assert!(index.selectors_of(item).any(|found| found == selector));
            }
            prop_assert_eq!((index.selector_count(), index.item_count()), (selectors.len(), items.len()));
            let idle = selectors.keys().filter(|key| !expected.iter().any(|(s, _)| s == *key)).count();
            prop_assert_eq!(index.idle_selectors().count(), idle);
        }
        // Nothing stays behind when everything goes.
        for key in 0..6 {
            index.remove_selector(&key, |_, _, _| {});
            index.remove_item(&key, |_, _, _| {});
            index.remove_parent(&key, |_, _, _| {});
        }
        prop_assert_eq!(index.text_count(), 0);
    }
}
