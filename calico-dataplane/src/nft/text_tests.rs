//! The text form: golden files, and what the real `nft` makes of it.

use std::io::Write;
use std::process::{Command, Stdio};

use expect_test::expect_file;

use super::batch::Batch;
use super::compile::{Compiler, TABLE};
use super::config::Config;
use super::dataplane::Dataplane;
use super::fixtures::{large_world, small_world};
use super::kernel::Kernel;
use super::object::Ruleset;
use super::tests::{in_namespace, sample};
use super::text::render;
use crate::driver::{InterfaceState, PolicyDataplane};

fn compiled(large: bool) -> Ruleset {
    let (changes, config) = if large { large_world() } else { (small_world(), Config::default()) };
    let mut compiler = Compiler::new(config);
    compiler.apply(&changes, &InterfaceState::default());
    compiler.table().desired().clone()
}

#[test]
fn golden_texts() {
    expect_file!["../../tests/golden/nft-small.nft"].assert_eq(&render(TABLE, &compiled(false)));
    expect_file!["../../tests/golden/nft-large.nft"].assert_eq(&render(TABLE, &compiled(true)));
}

/// Runs `nft` on a script; `None`, said by name, when it is not installed.
fn nft(test_name: &str, arguments: &[&str], script: &str) -> Option<(bool, String)> {
    let child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("SKIPPED {test_name}: nft is not installed");
        return None;
    };
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Some((output.status.success(), text))
}

#[test]
fn nft_accepts_the_text() {
    in_namespace("nft_accepts_the_text", || {
        for ruleset in [compiled(false), compiled(true), sample()] {
            let script = render(TABLE, &ruleset);
            let Some((accepted, said)) = nft("nft_accepts_the_text", &["-c", "-f", "-"], &script) else {
                return;
            };
            assert!(accepted, "{said}");
        }
    });
}

/// Loaded by `nft` from our text and read back, the rules mean the same. What `nft` writes differently for the
/// same meaning (order of dependencies) makes byte equality of whole chains too strict, so sets and the number of
/// rules are compared.
#[test]
fn the_text_loads_to_the_same_sets_and_rules() {
    in_namespace("the_text_loads_to_the_same_sets_and_rules", || {
        let wanted = compiled(true);
        let script = render(TABLE, &wanted);
        let Some((accepted, said)) = nft("the_text_loads_to_the_same_sets_and_rules", &["-f", "-"], &script)
        else {
            return;
        };
        assert!(accepted, "{said}");
        let loaded = Kernel::open().unwrap().dump(TABLE).unwrap().ruleset;
        assert_eq!(loaded.sets.keys().collect::<Vec<_>>(), wanted.sets.keys().collect::<Vec<_>>());
        for (name, set) in &wanted.sets {
            let keys = |set: &super::object::Set| set.elements.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(&loaded.sets[name]), keys(set), "{name}");
        }
        for (name, chain) in &wanted.chains {
            assert_eq!(loaded.chains[name].rules.len(), chain.rules.len(), "{name}");
            assert_eq!(loaded.chains[name].base, chain.base, "{name}");
        }
    });
}

#[test]
fn the_kernel_takes_the_large_world() {
    in_namespace("the_kernel_takes_the_large_world", || {
        let (changes, config) = large_world();
        let mut dataplane = Dataplane::open(config).unwrap();
        let report = dataplane.apply(&changes, &InterfaceState::default()).unwrap();
        assert!(report.failed_endpoints.is_empty(), "{:?}", report.failed_endpoints);
        let dump = Kernel::open().unwrap().dump(TABLE).unwrap().ruleset;
        let desired = dataplane.compiler().table().desired();
        for (name, chain) in &desired.chains {
            assert_eq!(dump.chains.get(name), Some(chain), "{name}");
        }
        assert!(dump == *desired);
        let mut gone = Batch::new(TABLE);
        gone.delete_table();
        Kernel::open().unwrap().commit(&mut gone, None).unwrap();
    });
}
