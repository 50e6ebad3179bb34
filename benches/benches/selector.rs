//! Selectors: reading them, matching one against one set of labels in the shapes that policies have, and 10,000 against
//! 1,000 endpoints. `benches/README.md` has the same shapes measured in the reference.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use calico_selector::interned::{InternedLabels, InternedSelector, Interner};
use calico_selector::{Limits, MatchIndex, Selector};
use criterion::Criterion;

const LABELS: [(&str, &str); 8] = [
    ("app", "web-17"),
    ("env", "prod"),
    ("tier", "frontend"),
    ("role", "client"),
    ("team", "team-3"),
    ("zone", "zone-b"),
    ("version", "v2"),
    ("projectcalico.org/namespace", "ns-7"),
];

const ENDPOINTS: usize = 1_000;
const SELECTORS: usize = 10_000;

/// `app in {…}` with `count` values, one of which may be that of [`LABELS`].
fn set(count: usize, hit: bool) -> String {
    let value =
        |i: usize| if hit && i == count / 2 { "'web-17'".into() } else { format!("'web-{}'", i * 7 + 18) };
    format!("app in {{{}}}", (0..count).map(value).collect::<Vec<String>>().join(", "))
}

fn shapes() -> Vec<(String, String)> {
    let mut shapes: Vec<(String, String)> = [
        ("equal", "role == 'client'"),
        ("equal, other value", "role == 'server'"),
        ("equal, absent", "missing == 'x'"),
        ("not equal", "role != 'server'"),
        ("has", "has(team)"),
        ("contains", "app contains 'b-1'"),
        ("starts with", "app starts with 'web'"),
        ("conjunction", "app == 'web-17' && env == 'prod' && has(team) && zone != 'zone-a'"),
        ("conjunction, first fails", "app == 'web-18' && env == 'prod' && has(team) && zone != 'zone-a'"),
        ("reference", r#"! (a == "b"&&! c != "d") || !(a == "b" && !c != "d")"#),
    ]
    .map(|(name, text)| (name.to_owned(), text.to_owned()))
    .into();
    for count in [10, 100, 1_000, 10_000] {
        shapes.push((format!("in {count}"), set(count, true)));
        shapes.push((format!("in {count}, miss"), set(count, false)));
    }
    shapes
}

fn parse(text: &str) -> Selector {
    // Ten thousand values are more than any API field holds.
    let limits = Limits { max_chars: 1 << 20, ..Limits::DEFAULT };
    Selector::parse_with(text, &limits).expect("a selector")
}

/// Labels of endpoint `i`.
fn endpoint(i: usize) -> BTreeMap<String, String> {
    let text = |name: &str, value: String| (name.to_owned(), value);
    [
        text("app", format!("app-{}", i % 200)),
        text("env", ["prod", "test", "dev"][i % 3].into()),
        text("tier", ["front", "back"][i % 2].into()),
        text("team", format!("team-{}", i % 20)),
        text("zone", format!("zone-{}", i % 5)),
        text("version", format!("v{}", i % 7)),
        text("projectcalico.org/namespace", format!("ns-{}", i % 50)),
        text("projectcalico.org/orchestrator", "k8s".into()),
    ]
    .into()
}

/// Selector `i`, in the proportions of a large cluster: most are about one application or one namespace.
fn selector(i: usize) -> Selector {
    let n = i / 5;
    parse(&match i % 5 {
        0 => format!("app == 'app-{n}' && env == 'prod'"),
        1 => format!("projectcalico.org/namespace == 'ns-{}' && team == 'team-{}'", n % 200, n % 40),
        2 => format!("app in {{'app-{i}', 'app-{}', 'app-{}', 'app-{}'}}", i + 1, i + 2, i + 3),
        3 => format!("has(team) && version == 'v{}' && zone != 'zone-{}' && app == 'app-{n}'", i % 14, i % 5),
        _ => format!("projectcalico.org/namespace == 'ns-{n}' && tier == 'front' && !has(legacy)"),
    })
}

fn one(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("selector parse");
    group.measurement_time(Duration::from_secs(1)).warm_up_time(Duration::from_millis(200));
    for (name, text) in shapes() {
        group.bench_function(name, |bench| bench.iter(|| parse(black_box(&text))));
    }
    group.finish();

    let mut group = criterion.benchmark_group("selector evaluate");
    group.measurement_time(Duration::from_secs(1)).warm_up_time(Duration::from_millis(200));
    let map: BTreeMap<String, String> = LABELS.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    for (name, text) in shapes() {
        let selector = parse(&text);
        group.bench_function(format!("{name}, map"), |bench| {
            bench.iter(|| black_box(&selector).matches(black_box(&map)));
        });
        let mut texts = Interner::new();
        let (compiled, labels) = (texts.selector(&selector), texts.labels(LABELS));
        group.bench_function(format!("{name}, interned"), |bench| {
            bench.iter(|| black_box(&compiled).matches(black_box(&labels), &texts));
        });
    }
    group.finish();
}

fn many(criterion: &mut Criterion) {
    let selectors: Vec<Selector> = (0..SELECTORS).map(selector).collect();
    let endpoints: Vec<BTreeMap<String, String>> = (0..ENDPOINTS).map(endpoint).collect();
    let mut group = criterion.benchmark_group("10k selectors, 1k endpoints");
    group.sample_size(10).measurement_time(Duration::from_secs(3));

    group.bench_function("every pair, map", |bench| {
        bench.iter(|| {
            let matches = |selector: &Selector| endpoints.iter().filter(|e| selector.matches(*e)).count();
            selectors.iter().map(matches).sum::<usize>()
        });
    });

    let mut texts = Interner::new();
    let compiled: Vec<InternedSelector> = selectors.iter().map(|selector| texts.selector(selector)).collect();
    let interned: Vec<InternedLabels> = endpoints.iter().map(|labels| texts.labels(labels)).collect();
    group.bench_function("every pair, interned", |bench| {
        bench.iter(|| {
            let matches =
                |selector: &InternedSelector| interned.iter().filter(|e| selector.matches(e, &texts)).count();
            compiled.iter().map(matches).sum::<usize>()
        });
    });

    let build = || {
        let (mut index, mut matches): (MatchIndex<usize, usize, ()>, _) = (MatchIndex::new(), 0_usize);
        for (key, selector) in selectors.iter().enumerate() {
            index.set_selector(&key, selector, |_, _, _| {});
        }
        for (key, labels) in endpoints.iter().enumerate() {
            index.set_item(&key, labels, &[], |_, _, _| matches += 1);
        }
        (index, matches)
    };
    let pairs: usize =
        compiled.iter().map(|s| interned.iter().filter(|e| s.matches(e, &texts)).count()).sum();
    let (mut index, matches) = build();
    assert_eq!(matches, pairs, "the index finds what evaluation finds");
    group.bench_function("index, from nothing", |bench| bench.iter(build));
    group.bench_function("index, one endpoint comes and goes", |bench| {
        bench.iter(|| {
            let mut count = 0_usize;
            index.remove_item(&7, |_, _, _| count += 1);
            index.set_item(&7, &endpoints[7], &[], |_, _, _| count += 1);
            count
        });
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    one(&mut criterion);
    many(&mut criterion);
    criterion.final_summary();
}
