//! The vectors of the language: canonical texts, ids, errors, evaluation.

use calico_selector::labels::{Inherited, Labels};
use calico_selector::{Limits, ParseErrorKind as Kind, Selector};

#[test]
fn canonical_text_and_id() {
    let mut count = 0;
    for line in include_str!("vectors.txt").lines().filter(|line| !line.starts_with('#')) {
        let columns: Vec<&str> = line.split(" | ").collect();
        let [input, canonical, id] = columns[..] else { panic!("three columns in {line:?}") };
        let selector = Selector::parse(input).unwrap_or_else(|error| panic!("{error}\n{}", error.snippet()));
        assert_eq!(selector.canonical(), canonical, "{input}");
        assert_eq!(selector.id(), id, "{input}");
        count += 1;
    }
    assert_eq!(count, 20);
}

#[test]
fn words_are_labels_where_no_operator_can_be() {
    for text in [
        "in in {'in'}",
        "has == 'x'",
        "all != 'x'",
        "contains contains 'contains'",
        "notin notin {'x'}",
        "a ends \t with 'x'",
        "a notin {'x',}",
        "/ == 'x' && a//b == 'y' && . != ''",
        "not not in{}",
        "a == 'x'&&\tb == \"y\\\"",
        "a == 'é\n'",
    ] {
        Selector::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    }
    let longest = format!("has({})", "x".repeat(512));
    assert!(Selector::parse(&longest).is_ok());
}

#[test]
fn error_classes() {
    let label = |name: &str| Box::<str>::from(name);
    let long = format!("{} == 'x'", "x".repeat(513));
    let long_has = format!("has({})", "x".repeat(513));
    let unquoted = Kind::ExpectedString;
    for (text, offset, kind) in [
        ("\"FOO", 0, Kind::UnterminatedString { quote: '"' }),
        ("a =='b", 4, Kind::UnterminatedString { quote: '\'' }),
        (r#"a == "x\"y""#, 10, Kind::UnterminatedString { quote: '"' }),
        ("a = 'b'", 2, Kind::LoneSymbol { found: '=' }),
        ("x & y", 2, Kind::LoneSymbol { found: '&' }),
        ("x | y", 2, Kind::LoneSymbol { found: '|' }),
        ("a b", 2, Kind::ExpectedOperator { label: label("a") }),
        ("a inx {'x'}", 2, Kind::ExpectedOperator { label: label("a") }),
        ("a starts 'x'", 2, Kind::ExpectedOperator { label: label("a") }),
        ("a not == 'x'", 2, Kind::ExpectedOperator { label: label("a") }),
        ("a not in b", 2, Kind::ExpectedOperator { label: label("a") }),
        ("a:b == 'x'", 1, Kind::ExpectedOperator { label: label("a") }),
        ("a\n", 1, Kind::ExpectedOperator { label: label("a") }),
        ("has(a", 5, Kind::UnclosedCall { function: "has" }),
        ("all(", 4, Kind::UnclosedCall { function: "all" }),
        ("global(x)", 7, Kind::UnclosedCall { function: "global" }),
        ("has()", 4, Kind::ExpectedLabel),
        ("%", 0, Kind::ExpectedLabel),
        ("é == 'x'", 0, Kind::ExpectedLabel),
        ("a == 'x'\n", 8, Kind::ExpectedLabel),
        (&long, 0, Kind::LabelTooLong { length: 513 }),
        (&long_has, 4, Kind::LabelTooLong { length: 513 }),
        ("a", 1, Kind::EndAfterLabel { label: label("a") }),
        ("all", 3, Kind::EndAfterLabel { label: label("all") }),
        ("a == b", 5, unquoted.clone()),
        ("a ==", 4, unquoted.clone()),
        ("b contains b", 11, unquoted),
        ("a in 'x'", 5, Kind::ExpectedSet),
        ("a in b", 5, Kind::ExpectedSet),
        ("a in {'x'", 9, Kind::ExpectedSetEnd),
        ("a in {x}", 6, Kind::ExpectedSetEnd),
        ("a in {'x' 'y'}", 10, Kind::ExpectedSetEnd),
        ("a in {,}", 6, Kind::ExpectedSetEnd),
        ("(a == 'x'", 9, Kind::ExpectedCloseParen { opened_at: 0 }),
        ("a == 'x')", 8, Kind::TrailingContent),
        ("a == 'x' b == 'y'", 9, Kind::TrailingContent),
        ("'b' == a", 0, Kind::UnexpectedToken),
        ("()", 1, Kind::UnexpectedToken),
        ("!", 1, Kind::UnexpectedToken),
        ("a == 'x' &&", 11, Kind::UnexpectedToken),
        ("&& a == 'b'", 0, Kind::UnexpectedToken),
        ("(a)", 2, Kind::LabelWithoutOperator { label: label("a") }),
        ("has (a)", 4, Kind::LabelWithoutOperator { label: label("has") }),
        ("a 'x'", 2, Kind::LabelWithoutOperator { label: label("a") }),
    ] {
        let error = Selector::parse(text).expect_err(text);
        assert_eq!((error.offset(), error.kind()), (offset, &kind), "{text}");
        let (_, caret) =
            error.snippet().split_once('\n').map(|(a, b)| (a.to_string(), b.to_string())).unwrap();
        assert!(caret.ends_with('^'));
    }
}

#[test]
fn messages_say_what_would_be_right() {
    let message = |text: &str| Selector::parse(text).unwrap_err().to_string();
    assert_eq!(
        message("a == 'x'\n"),
        "column 9: expected a label name (letters, digits, `.`, `_`, `-` and `/`); line breaks are not allowed; \
         in YAML write the selector with `>-` instead of `|`"
    );
    assert_eq!(message("ü == 'x'").split(':').next(), Some("column 1"));
    assert_eq!(
        message("a == 'ü' && b = 'x'"),
        "column 15: a lone `=` is not an operator; did you mean `==`?"
    );
    assert_eq!(
        message("(all)"),
        "column 5: label `all` is not followed by an operator; did you mean `all()`?"
    );
    assert_eq!(
        message("a == 'é' && (b == 'x'"),
        "column 22: expected `)`; the parenthesis in column 13 is not closed"
    );
    assert!(message("a == 'x' and b == 'y'").ends_with("did you mean `&&`?"));
    let far = format!("{} && b = 'x'", vec!["a == 'x'"; 20].join(" && "));
    let error = Selector::parse(&far).unwrap_err();
    let (line, caret) =
        error.snippet().split_once('\n').map(|(a, b)| (a.to_string(), b.to_string())).unwrap();
    assert!(line.starts_with('…') && line.chars().count() < 80);
    assert_eq!(line.chars().nth(caret.chars().count() - 1), Some('='));
}

#[test]
fn limits_hold() {
    let nested = |depth: usize| format!("{}has(a){}", "(".repeat(depth), ")".repeat(depth));
    assert!(Selector::parse(&nested(128)).is_ok());
    let error = Selector::parse(&nested(129)).unwrap_err();
    assert_eq!((error.offset(), error.kind()), (128, &Kind::TooDeep { limit: 128 }));
    let error = Selector::parse(&nested(30_000)).unwrap_err();
    assert_eq!(error.kind(), &Kind::TooDeep { limit: 128 });
    // A chain of negations is not nesting.
    assert!(Selector::parse(&format!("{}has(a)", "!".repeat(60_000))).is_ok());
    // Characters count, not bytes.
    let wide = |chars: usize| format!("a == '{}'", "é".repeat(chars - 7));
    assert!(Selector::parse_with(&wide(1024), &Limits::API).is_ok());
    let error = Selector::parse_with(&wide(1025), &Limits::API).unwrap_err();
    assert_eq!(error.kind(), &Kind::TooLong { length: 1025, limit: 1024 });
    assert_eq!(error.column(), 1025);
}

#[test]
fn line_breaks_only_on_request() {
    let limits = Limits { allow_line_breaks: true, ..Limits::API };
    let selector = Selector::parse_with("a == 'x' &&\r\n  b == 'y'\n", &limits).unwrap();
    assert_eq!(selector.canonical(), r#"(a == "x" && b == "y")"#);
    assert!(Selector::parse("a == 'x' &&\n b == 'y'").is_err());
}

#[test]
fn evaluation() {
    for (text, labels, expected) in [
        ("a != 'x'", &[][..], true),
        ("a not in {'x'}", &[], true),
        ("a in {}", &[("a", "")], false),
        ("a not in {}", &[], true),
        ("a contains ''", &[("a", "")], true),
        ("a contains ''", &[], false),
        ("a == ''", &[("a", "")], true),
        ("a == ''", &[], false),
        ("has(a)", &[("a", "")], true),
        ("!a == 'x'", &[], true),
        ("!has(a) || a != 'x'", &[("a", "x")], false),
        ("a ends with 'a'", &[("a", "aab")], false),
        ("a ends with 'b'", &[("a", "aab")], true),
        ("a starts with 'aa'", &[("a", "aab")], true),
        ("a contains 'ab'", &[("a", "aab")], true),
        ("a in {'x', 'b', 'm'}", &[("a", "b")], true),
        ("a in {'x', 'b', 'm'}", &[("a", "c")], false),
        ("global()", &[("projectcalico.org/namespace", "n")], true),
        ("", &[], true),
        ("!all()", &[("a", "b")], false),
    ] {
        assert_eq!(Selector::parse(text).unwrap().matches(labels), expected, "{text} on {labels:?}");
    }
}

#[test]
fn inheritance() {
    let own = [("a", "ep-a"), ("b", "ep-b")];
    let profile = [("a", "prof-a"), ("c", "prof-c")];
    let second = [("c", "other"), ("d", "d2")];
    let parents: [(&str, &dyn Labels); 2] = [("p1", &profile), ("p2", &second)];
    let labels = Inherited::new(&own, &parents);
    let matches = |text: &str| Selector::parse(text).unwrap().matches(&labels);
    assert!(matches("a == 'ep-a' && c == 'prof-c'"));
    assert!(!matches("a == 'prof-a'"));
    assert!(matches("c == 'prof-c' && d == 'd2'"));
}
