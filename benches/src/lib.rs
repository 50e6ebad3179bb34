//! Criterion benches of Calico in Rust, each beside a named peer or limit.
