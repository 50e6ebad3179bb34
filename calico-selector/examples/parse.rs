//! Reads selectors from the command line and shows what they are:
//! `cargo run -p calico-selector --example parse -- "role in {'b','a'} && !has(x)"`.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "an example shows its result")]

use calico_selector::{Limits, Selector, lint, satisfiability};

fn main() {
    for text in std::env::args().skip(1) {
        match Selector::parse(&text) {
            Ok(selector) => {
                println!("{}\n{}\n{:?}", selector.canonical(), selector.id(), satisfiability(&selector));
                for lint in lint(&text, &Limits::API).unwrap_or_default() {
                    println!("columns {:?}: {}", lint.span, lint.kind);
                }
            }
            Err(error) => println!("{error}\n{}", error.snippet()),
        }
    }
}
