//! Prints the custom resource definitions of an API group: `cargo run -p calico-model --example print_crds -- v1`.

#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a program, not the library")]

use calico_model::crd;
use calico_model::k8s::custom_resource::Group;

fn main() {
    let group = match std::env::args().nth(1).as_deref() {
        Some("v1") => Group::V1,
        _ => Group::V3,
    };
    print!("{}", crd::yaml_stream(group));
}
