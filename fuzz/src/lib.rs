//! Every fuzz target as a plain function of bytes.
//!
//! A target panics when a law is broken and returns otherwise. The programs in `fuzz_targets/` call one each; the test
//! `replay` calls all of them on the committed corpus, on a stable compiler.
//!
//! To add a target: a module with a `pub fn` here, a line in [`TARGETS`], a program in `fuzz_targets/`, a folder in
//! `corpus/` with at least one input, a `[[bin]]` in `Cargo.toml`.

#![forbid(unsafe_code)]

mod bgp;
mod cni;
mod datastore;
mod ipam;
mod label_selector;
mod model;
mod policy;
mod selector;

pub use bgp::{bgp_capability, bgp_open, bgp_session, bgp_update};
pub use cni::{cni_args, netconf};
pub use datastore::{datastore_value, fanout_frame, manifest};
pub use ipam::{ipam_ops, ipam_stored};
pub use label_selector::label_selector;
pub use model::{etcd_key, object};
pub use policy::policy;
pub use selector::selector;

/// A target: takes any bytes, panics when a law is broken.
pub type Target = fn(&[u8]);

/// All targets by the name of their program and of their corpus folder, sorted.
pub const TARGETS: &[(&str, Target)] = &[
    ("bgp_capability", bgp_capability),
    ("bgp_open", bgp_open),
    ("bgp_session", bgp_session),
    ("bgp_update", bgp_update),
    ("cni_args", cni_args),
    ("datastore_value", datastore_value),
    ("etcd_key", etcd_key),
    ("fanout_frame", fanout_frame),
    ("ipam_ops", ipam_ops),
    ("ipam_stored", ipam_stored),
    ("label_selector", label_selector),
    ("manifest", manifest),
    ("netconf", netconf),
    ("object", object),
    ("policy", policy),
    ("selector", selector),
];
