//! `calicoctl policy`: what policies mean, without a dataplane. The answers come from `calico_policy::oracle`.

pub mod args;
pub mod dataplane;
mod resources;

use std::sync::Arc;

use calico_datastore::Backend;
use calico_policy::ir::Family;
use calico_policy::oracle::{Probe, Question, Severity, World};
use serde::Serialize;

use self::args::{Flow, Picture, PolicyCommand, TextOrJson};
use self::resources::Resources;
use super::args::Files;
use super::input::Options;
use super::run::{Failed, Streams, read};

/// Runs one command. `store` opens the datastore, which not all of them need.
pub(super) fn run(
    store: impl FnOnce() -> Result<Arc<dyn Backend>, Failed>,
    command: &PolicyCommand,
    streams: &mut Streams<'_>,
) -> Result<u8, Failed> {
    match command {
        PolicyCommand::Trace { flow, output } => trace(&store()?, flow, *output, streams),
        PolicyCommand::WhyDenied { flow, output } => why_denied(&store()?, flow, *output, streams),
        PolicyCommand::Simulate { files, delete, exit_code, output } => {
            let flips = simulate(&store()?, files, *delete, *output, streams)?;
            Ok(u8::from(*exit_code && flips > 0))
        }
        PolicyCommand::Lint { filename, namespace, strict, output } => {
            let world = with_files(&store()?, filename, namespace.as_deref(), streams)?;
            lint(&world, *strict, *output, streams)
        }
        PolicyCommand::Matrix { probe, filename, namespace, output } => {
            let probes: Vec<Probe> = probe.iter().map(|text| self::probe(text)).collect::<Result<_, _>>()?;
            let world = with_files(&store()?, filename, namespace.as_deref(), streams)?;
            let matrix = world.matrix((!probes.is_empty()).then_some(probes));
            match output {
                Picture::Text => write!(streams.out, "{matrix}")?,
                Picture::Json => json(&matrix, streams)?,
                Picture::Svg => streams.out.write_all(matrix.to_svg().as_bytes())?,
            }
            Ok(0)
        }
        PolicyCommand::Stats { nonzero, policy, output } => {
            dataplane::stats(*nonzero, policy.as_deref(), *output, streams)
        }
    }
}

fn json(value: &impl Serialize, streams: &mut Streams<'_>) -> Result<(), Failed> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failed(format!("the answer cannot be written as JSON: {error}")))?;
    Ok(writeln!(streams.out, "{text}")?)
}

/// The datastore, and a warning for everything in it that is not understood.
fn load(store: &Arc<dyn Backend>, streams: &mut Streams<'_>) -> Result<Resources, Failed> {
    let resources = Resources::read(store)?;
    for warning in &resources.warnings {
        writeln!(streams.err, "warning: {warning}")?;
    }
    Ok(resources)
}

fn with_files(
    store: &Arc<dyn Backend>,
    paths: &[String],
    namespace: Option<&str>,
    streams: &mut Streams<'_>,
) -> Result<World, Failed> {
    let options = Options { namespace: namespace.map(str::to_owned), ..Options::default() };
    let objects = read(paths, &options)?;
    let mut resources = load(store, streams)?;
    resources.put(&objects)?;
    Ok(resources.world())
}

fn asked(
    store: &Arc<dyn Backend>,
    flow: &Flow,
    streams: &mut Streams<'_>,
) -> Result<(World, Question), Failed> {
    // Nonsense is told before the datastore is read.
    let question = Question::parse(&flow.from, &flow.to).map_err(|error| Failed(error.to_string()))?;
    Ok((load(store, streams)?.world(), question))
}

fn family(flow: &Flow) -> Option<Family> {
    flow.ip_version.as_deref().map(|version| if version == "6" { Family::V6 } else { Family::V4 })
}

fn trace(
    store: &Arc<dyn Backend>,
    flow: &Flow,
    output: TextOrJson,
    streams: &mut Streams<'_>,
) -> Result<u8, Failed> {
    let (world, question) = asked(store, flow, streams)?;
    let packet = world.packet(&question, family(flow)).map_err(|error| Failed(error.to_string()))?;
    let trace = world.trace(&packet);
    match output {
        TextOrJson::Text => write!(streams.out, "{trace}")?,
        TextOrJson::Json => json(&trace, streams)?,
    }
    Ok(0)
}

fn why_denied(
    store: &Arc<dyn Backend>,
    flow: &Flow,
    output: TextOrJson,
    streams: &mut Streams<'_>,
) -> Result<u8, Failed> {
    let (world, question) = asked(store, flow, streams)?;
    let packet = world.packet(&question, family(flow)).map_err(|error| Failed(error.to_string()))?;
    let why = world.why_denied(&packet);
    match (output, &why) {
        (TextOrJson::Json, _) => json(&why, streams)?,
        (TextOrJson::Text, Some(why)) => write!(streams.out, "{why}")?,
        (TextOrJson::Text, None) => {
            writeln!(streams.out, "It is not denied:")?;
            write!(streams.out, "{}", world.trace(&packet))?;
        }
    }
    Ok(u8::from(why.is_none()))
}

fn simulate(
    store: &Arc<dyn Backend>,
    files: &Files,
    delete: bool,
    output: TextOrJson,
    streams: &mut Streams<'_>,
) -> Result<usize, Failed> {
    let options = Options {
        namespace: files.namespace.clone(),
        recursive: files.recursive,
        skip_empty: files.skip_empty,
    };
    let objects = read(&files.filename, &options)?;
    let mut resources = load(store, streams)?;
    let before = resources.world();
    if delete {
        resources.delete(&objects)?;
    } else {
        resources.put(&objects)?;
    }
    let simulation = before.simulate(&resources.world());
    match output {
        TextOrJson::Text => write!(streams.out, "{simulation}")?,
        TextOrJson::Json => json(&simulation, streams)?,
    }
    Ok(simulation.flips.len())
}

fn lint(world: &World, strict: bool, output: TextOrJson, streams: &mut Streams<'_>) -> Result<u8, Failed> {
    let findings = world.lint();
    match output {
        TextOrJson::Json => json(&findings, streams)?,
        TextOrJson::Text if findings.is_empty() => writeln!(streams.out, "Nothing suspicious.")?,
        TextOrJson::Text => {
            for finding in &findings {
                writeln!(streams.out, "{finding}")?;
            }
        }
    }
    let worst = findings.iter().map(|finding| finding.severity).min();
    let fails = match worst {
        Some(Severity::Error) => true,
        Some(Severity::Warning) => strict,
        _ => false,
    };
    Ok(u8::from(fails))
}

/// `443/tcp`, `443` or `icmp`.
fn probe(text: &str) -> Result<Probe, Failed> {
    use calico_policy::oracle::PortChoice;
    // The same words as in a flow, behind any destination.
    let question = Question::parse("0.0.0.0", &format!("0.0.0.0:{text}"))
        .map_err(|_| Failed(format!("--probe {text}: write port/protocol such as 443/tcp, or icmp")))?;
    match question.port {
        Some(PortChoice::Number(port)) => Ok(Probe::new(question.protocol, port)),
        None if question.icmp_type.is_none() => Ok(Probe::new(question.protocol, 0)),
        _ => Err(Failed(format!("--probe {text}: give the port by number"))),
    }
}

#[cfg(test)]
mod tests;
