//! Texts of the selector language.

use calico_selector::{
    Limits, MatchIndex, Satisfiability, Selector, Transition, explain, lint, satisfiability,
};

/// Any text is refused with a place inside it, or read into something whose text, id, hints, index and explanation
/// agree with plain evaluation. Bytes after a zero byte are labels, as `name=value` on lines.
pub fn selector(data: &[u8]) {
    let mut halves = data.splitn(2, |byte| *byte == 0);
    let (Some(text), labels) = (halves.next(), halves.next().unwrap_or_default()) else { return };
    let (Ok(text), Ok(labels)) = (std::str::from_utf8(text), std::str::from_utf8(labels)) else { return };
    let parsed = match Selector::parse(text) {
        Ok(parsed) => parsed,
        Err(error) => {
            assert!(text.is_char_boundary(error.offset()), "offset {} of {text:?}", error.offset());
            assert!(error.snippet().lines().count() == 2 && !error.to_string().is_empty());
            let lenient = Limits { allow_line_breaks: true, ..Limits::API };
            let _ = Selector::parse_with(text, &lenient);
            return;
        }
    };
    let labels: Vec<(&str, &str)> = labels.lines().filter_map(|line| line.split_once('=')).collect();
    let labels: std::collections::BTreeMap<&str, &str> = labels.into_iter().collect();
    let matches = parsed.matches(&labels);

    let again = Selector::parse(parsed.canonical()).expect("canonical text reads back");
    assert_eq!(matches, again.matches(&labels));
    let third = Selector::parse(again.canonical()).expect("canonical text reads back");
    assert_eq!(again.id(), third.id(), "canonical text is stable from the second reading on");

    match satisfiability(&parsed) {
        Satisfiability::Always => assert!(matches),
        Satisfiability::Never => assert!(!matches),
        _ => {}
    }
    if matches {
        for entry in parsed.restrictions() {
            let value = labels.get(&*entry.label);
            assert!(!entry.must_be_present || value.is_some());
            assert!(!entry.must_be_absent || value.is_none());
        }
    }
    assert_eq!(explain(&parsed, &labels).matches, matches);
    assert!(lint(text, &Limits::DEFAULT).is_ok());

    let mut index: MatchIndex<u8, u8, &str> = MatchIndex::new();
    let mut seen = 0;
    let mut note =
        |_: &u8, _: &u8, what: Transition| seen += if what == Transition::Started { 1 } else { -1 };
    index.set_selector(&0, &parsed, &mut note);
    index.set_item(&0, &labels, &["parent"], &mut note);
    assert_eq!(index.matches(&0, &0), matches);
    // The same labels from a parent match the same.
    index.set_item(&0, [("", ""); 0], &["parent"], &mut note);
    index.set_parent(&"parent", &labels, &mut note);
    assert_eq!(index.matches(&0, &0), matches);
    index.remove_selector(&0, &mut note);
    assert_eq!(seen, 0);
    index.remove_item(&0, |_, _, _| {});
    index.remove_parent(&"parent", |_, _, _| {});
    assert_eq!(index.text_count(), 0);
}
