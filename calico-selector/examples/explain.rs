//! Which policies apply to a pod, and why the others do not: `cargo run -p calico-selector --example explain`.
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use calico_selector::{MatchIndex, Selector, Transition, explain};

fn main() -> Result<(), calico_selector::ParseError> {
    let mut index: MatchIndex<&str, &str, &str> = MatchIndex::new();
    let report = |policy: &&str, pod: &&str, what: Transition| println!("{policy} on {pod}: {what:?}");

    index.set_selector(&"deny-prod", &Selector::parse("pcns.env == 'prod'")?, report);
    index.set_selector(&"db-only", &Selector::parse("role == 'db' && pcns.env == 'prod'")?, report);
    index.set_parent(&"kns.shop", [("pcns.env", "test")], report);
    index.set_item(&"shop/cart", [("role", "web")], &["kns.shop"], report);

    println!("the namespace moves to prod");
    index.set_parent(&"kns.shop", [("pcns.env", "prod")], report);

    if let (Some(selector), Some(labels)) = (index.selector(&"db-only"), index.labels_of(&"shop/cart")) {
        print!("db-only {}", explain(selector, &labels));
    }
    Ok(())
}
