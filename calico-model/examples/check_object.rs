//! Reads a Calico object as JSON (from the arguments or a built-in example), and says everything that is wrong with it.
//!
//! `cargo run -p calico-model --example check_object -- '{"kind": "Tier", "metadata": {"name": "a.b"}}'`

#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a program, not the library")]

use calico_model::decode::Mode;
use calico_model::{AnyResource, defaults, validate};

const EXAMPLE: &str = r#"{"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
  "metadata": {"name": "Block.All.Of.It"},
  "spec": {"selecter": "all()", "preDNAT": true, "ingress": [{"action": "Block", "protocol": "tcp"}]}}"#;

fn main() {
    let text = std::env::args().nth(1).unwrap_or_else(|| EXAMPLE.to_owned());
    let tree = match serde_json::from_str(&text) {
        Ok(tree) => tree,
        Err(e) => return println!("{e}"),
    };
    match AnyResource::read(tree, Mode::Strict) {
        Err(e) => {
            println!("cannot be read:");
            match e.problems() {
                [] => println!("  {e}"),
                problems => problems.iter().for_each(|p| println!("  {p}")),
            }
        }
        Ok(mut resource) => {
            defaults::apply(&mut resource);
            for problem in validate::problems(&resource) {
                println!("  {problem}");
            }
            println!("stored under {}", resource.key());
            println!("{}", calico_model::crd::to_yaml(&resource.to_tree()));
        }
    }
}
