//! What a node would program, without the node: for `calicoctl dataplane show` and for reviews of changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use calico_policy::changes::Changes;

use super::compile::Compiler;
use super::config::Config;
use super::object::Ruleset;
use crate::driver::{ApplyReport, InterfaceInfo, InterfaceState};

/// The table of a node and what is to be said about it.
#[derive(Debug)]
pub struct Preview {
    /// Content of the table.
    pub ruleset: Ruleset,
    /// Endpoints that fail closed, and why.
    pub report: ApplyReport,
    /// Parameters that cannot be read and keep their default.
    pub unreadable_parameters: Vec<String>,
}

/// Compiles the first flush of a node's policy graph. Which interfaces the node has is not known here: host endpoints
/// get the interface that they name, with the addresses that they expect, and those that name none an interface of
/// their own name.
///
/// ```
/// let preview = calico_dataplane::nft::preview::preview(&Default::default());
/// assert!(preview.ruleset.chains.contains_key("raw-prerouting"));
/// ```
pub fn preview(changes: &Changes) -> Preview {
    let mut compiler = Compiler::new(Config::default());
    compiler.apply(changes, &assumed_interfaces(changes));
    Preview {
        ruleset: compiler.table().desired().clone(),
        report: compiler.report(0),
        unreadable_parameters: compiler.unreadable_parameters().to_vec(),
    }
}

fn assumed_interfaces(changes: &Changes) -> InterfaceState {
    let mut interfaces: BTreeMap<Arc<str>, InterfaceInfo> = BTreeMap::new();
    for endpoint in &changes.host_endpoints {
        let name = match &*endpoint.interface {
            "*" => continue,
            "" => endpoint.name.clone(),
            _ => endpoint.interface.clone(),
        };
        let index = interfaces.len() as u32 + 2;
        let info = interfaces.entry(name).or_insert(InterfaceInfo { index, up: true, addresses: Vec::new() });
        info.addresses.extend(endpoint.expected_ips.iter().copied());
        info.addresses.sort();
        info.addresses.dedup();
    }
    InterfaceState { interfaces }
}
