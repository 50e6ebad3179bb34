//! What is programmed, or would be: `calicoctl dataplane` and `calicoctl policy stats`.

use std::sync::Arc;

use calico_dataplane::nft::compile::TABLE;
use calico_dataplane::nft::counters::{RuleCount, rule_counts};
use calico_dataplane::nft::kernel::Kernel;
use calico_dataplane::nft::preview::preview;
use calico_dataplane::nft::text::render;
use calico_datastore::Backend;
use calico_model::{Key, Kind};
use calico_policy::{Graph, GraphConfig};

use super::args::{DataplaneCommand, RulesetFormat, TextOrJson};
use super::{json, load};
use crate::ctl::ipam::typed;
use crate::ctl::run::{Failed, Streams, block_on};
use crate::ctl::table::columns;

/// Runs one command. `store` opens the datastore, which not all of them need.
pub(in crate::ctl) fn run(
    store: impl FnOnce() -> Result<Arc<dyn Backend>, Failed>,
    command: &DataplaneCommand,
    streams: &mut Streams<'_>,
) -> Result<u8, Failed> {
    let DataplaneCommand::Show { node, format: RulesetFormat::Nft } = command;
    match node {
        Some(node) => of_node(&store()?, node, streams),
        None => of_kernel(streams),
    }
}

fn of_node(store: &Arc<dyn Backend>, node: &str, streams: &mut Streams<'_>) -> Result<u8, Failed> {
    use calico_datastore::Datastore as _;
    let key = Key::resource(Kind::Node, "", node);
    if block_on(typed(store).get(&key))??.is_none() {
        return Err(Failed(format!("there is no node {node} in the datastore; see calicoctl get nodes")));
    }
    let resources = load(store, streams)?;
    let mut graph = Graph::new(GraphConfig { node: node.to_owned(), ..GraphConfig::default() });
    resources.updates().into_iter().for_each(|update| graph.apply(update));
    graph.in_sync();
    let changes = graph.flush();
    for problem in changes.problems.iter().flat_map(|problems| problems.iter()) {
        writeln!(streams.err, "warning: {} {}: {}", problem.object, problem.field, problem.reason)?;
    }
    let preview = preview(&changes);
    for name in &preview.unreadable_parameters {
        writeln!(
            streams.err,
            "warning: the value of parameter {name} is not understood; its default is used"
        )?;
    }
    for (id, reason) in &preview.report.failed_endpoints {
        writeln!(streams.err, "warning: {} fails closed: {reason}", id.workload)?;
    }
    for (name, reason) in &preview.report.failed_host_endpoints {
        writeln!(streams.err, "warning: host endpoint {name} fails closed: {reason}")?;
    }
    streams.out.write_all(render(TABLE, &preview.ruleset).as_bytes())?;
    Ok(0)
}

fn kernel() -> Result<Kernel, Failed> {
    Kernel::open().map_err(|error| unreadable(&error))
}

fn unreadable(error: &dyn std::error::Error) -> Failed {
    Failed(format!(
        "nf_tables cannot be read: {error}; it needs CAP_NET_ADMIN in the network namespace of the node"
    ))
}

fn no_table() -> Failed {
    Failed(format!(
        "there is no table inet {TABLE} on this machine; is calico-node running here? For what a node would have: \
         calicoctl dataplane show --node NODE"
    ))
}

fn of_kernel(streams: &mut Streams<'_>) -> Result<u8, Failed> {
    let dump = kernel()?.dump(TABLE).map_err(|error| unreadable(&error))?;
    if !dump.exists {
        return Err(no_table());
    }
    streams.out.write_all(render(TABLE, &dump.ruleset).as_bytes())?;
    Ok(0)
}

/// `calicoctl policy stats`.
pub(super) fn stats(
    nonzero: bool,
    policy: Option<&str>,
    output: TextOrJson,
    streams: &mut Streams<'_>,
) -> Result<u8, Failed> {
    let mut kernel = kernel()?;
    let dump = kernel.dump(TABLE).map_err(|error| unreadable(&error))?;
    if !dump.exists {
        return Err(no_table());
    }
    let values = kernel.counters(TABLE).map_err(|error| unreadable(&error))?;
    let mut counts = rule_counts(&dump.ruleset, &values);
    if counts.is_empty() && dump.ruleset.chains.keys().any(|name| name.starts_with("cali-p")) {
        return Err(Failed(
            "the rules of this machine have no counters; switch them on with FELIX_POLICYRULECOUNTERS=true in the \
             environment of calico-node"
                .into(),
        ));
    }
    counts.retain(|count| {
        (!nonzero || count.packets > 0) && policy.is_none_or(|text| count.policy.contains(text))
    });
    match output {
        TextOrJson::Json => json(&counts, streams)?,
        TextOrJson::Text => streams.out.write_all(table(&counts).as_bytes())?,
    }
    Ok(0)
}

fn table(counts: &[RuleCount]) -> String {
    let row = |count: &RuleCount| {
        let rule = format!("{}[{}]", count.direction, count.index);
        vec![
            count.policy.clone(),
            rule,
            count.action.to_owned(),
            count.packets.to_string(),
            count.bytes.to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = counts.iter().map(row).collect();
    columns(&["POLICY", "RULE", "ACTION", "PACKETS", "BYTES"], &rows)
}
