//! The commands, from arguments to text and exit code.

use std::future::Future;
use std::io::Write;
use std::sync::{Arc, OnceLock};

use calico_datastore::config::DatastoreConfig;
use calico_datastore::{Backend, Role, StoreError, migrate, yaml};
use clap::CommandFactory as _;
use serde_json::Value as Json;
use tokio::runtime::Runtime;

use super::apply::{self, Action, Done, Outcome, WriteError, client};
use super::args::{Cli, Command, DatastoreCommand, Files, MigrateCommand, NodeCommand, Target};
use super::edit::{self, LabelChange, Labelled};
use super::get::{self, Content, Format, Found};
use super::input::{self, InputError};
use super::object::{Object, ObjectId, ObjectKind, text_at};
use super::{crds, node, policy, run_ipam};
use crate::node::protocol::{SOCKET_VARIABLE, socket_path};

/// Where text goes: data and success to `out`, errors to `err`.
pub struct Streams<'a> {
    /// Standard output.
    pub out: &'a mut dyn Write,
    /// Standard error.
    pub err: &'a mut dyn Write,
}

/// The command failed; the text for people.
pub(super) struct Failed(pub(super) String);

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self(error.to_string())
    }
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self(format!("cannot write the result: {error}"))
    }
}

/// Runs one command and returns the exit code: 0, or 1 when anything failed.
pub fn run(cli: &Cli, streams: &mut Streams<'_>) -> u8 {
    match command(cli, streams) {
        Ok(code) => code,
        Err(Failed(text)) => {
            // When not even the error can be written there is nobody left to tell.
            let _ = writeln!(streams.err, "{text}");
            1
        }
    }
}

fn command(cli: &Cli, streams: &mut Streams<'_>) -> Result<u8, Failed> {
    match &cli.command {
        Command::Create { files, skip_exists } => write(cli, files, Action::Create, *skip_exists, streams),
        Command::Apply { files } => write(cli, files, Action::Apply, false, streams),
        Command::Replace { files } => write(cli, files, Action::Replace, false, streams),
        Command::Delete { target, skip_not_exists } => delete(cli, target, *skip_not_exists, streams),
        Command::Get { target, output, all_namespaces, export } => {
            show(cli, target, output, *all_namespaces, *export, streams)
        }
        Command::Validate { files } => {
            let objects = read(&files.filename, &options(files))?;
            let outcomes: Vec<Result<Done, WriteError>> =
                objects.iter().map(|_| Ok(Done::Unchanged)).collect();
            let kinds: Vec<ObjectKind> = objects.iter().map(|object| object.id.kind).collect();
            summary("validate", "validated", &kinds, &outcomes, streams)
        }
        Command::Crds { group, kinds } => {
            streams.out.write_all(crds::yaml(group, kinds).map_err(Failed)?.as_bytes())?;
            Ok(0)
        }
        Command::Patch { kind, name, patch, kind_of_patch: _, namespace } => {
            let id = one_id(kind, name, namespace.as_deref())?;
            let store = connect(cli)?;
            match block_on(edit::patch(&store, &id, patch))? {
                Ok(_) => writeln!(streams.out, "Successfully patched 1 '{}' resource", id.kind.name())?,
                Err(error) => return Err(Failed(format!("hit error: {error}"))),
            }
            Ok(0)
        }
        Command::Label { kind, name, label, overwrite, remove, namespace } => {
            let id = one_id(kind, name, namespace.as_deref())?;
            set_label(cli, &id, label, *overwrite, *remove, streams)
        }
        Command::Ipam { command } => run_ipam::run(&connect(cli)?, command, streams),
        Command::Datastore { command: DatastoreCommand::Migrate { command } } => {
            migrate(&connect(cli)?, command, streams)
        }
        Command::Datastore { command: DatastoreCommand::Copy { from, to, replace } } => {
            copy(from, to, *replace, streams)
        }
        Command::Policy { command } => policy::run(|| connect(cli), command, streams),
        Command::Dataplane { command } => policy::dataplane::run(|| connect(cli), command, streams),
        Command::Node { command: NodeCommand::Status { socket, output } } => {
            node_status(socket.as_deref(), output, streams)
        }
        Command::Completion { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "calicoctl", &mut streams.out);
            Ok(0)
        }
        Command::Version { client } => version(cli, *client, streams),
    }
}

/// Runs asynchronous work on this thread.
pub(super) fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failed> {
    // One for all commands: connections over the network live and die with the runtime they were made in.
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = match RUNTIME.get() {
        Some(runtime) => runtime,
        None => {
            let new = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let new = new.map_err(|error| Failed(format!("cannot start: {error}")))?;
            RUNTIME.get_or_init(|| new)
        }
    };
    Ok(runtime.block_on(work))
}

fn connect(cli: &Cli) -> Result<Arc<dyn Backend>, Failed> {
    let config = match &cli.datastore {
        Some(place) => DatastoreConfig::from_place(place, |name| std::env::var(name).ok())?,
        None => DatastoreConfig::load(cli.config.as_deref())?,
    };
    Ok(calico_datastore::open_backend(&config, Role::Tool)?)
}

fn one_id(kind: &str, name: &str, namespace: Option<&str>) -> Result<ObjectId, Failed> {
    let kind = kind_of(kind)?;
    let namespace = match namespace {
        _ if name.is_empty() => return Err(Failed("resource name may not be empty".into())),
        Some(_) if !kind.is_namespaced() => return Err(Failed(format!("{} is not namespaced", kind.name()))),
        Some(namespace) => namespace,
        None if kind.is_namespaced() => "default",
        None => "",
    };
    Ok(ObjectId { kind, namespace: namespace.into(), name: name.into() })
}

fn set_label(
    cli: &Cli,
    id: &ObjectId,
    text: &str,
    overwrite: bool,
    remove: bool,
    streams: &mut Streams<'_>,
) -> Result<u8, Failed> {
    let (label, change) = match text.split_once('=') {
        None if remove => (text, LabelChange::Remove),
        Some((label, _)) if remove => (label, LabelChange::Remove),
        Some((label, value)) => (label, LabelChange::Set { value, overwrite }),
        None => return Err(Failed(format!("invalid label {text}; write key=value"))),
    };
    let store = connect(cli)?;
    let labelled = block_on(edit::label(&store, id, label, change))?.map_err(|e| Failed(e.to_string()))?;
    let (verb, word) = match labelled {
        Labelled::Set => ("set", "on"),
        Labelled::Updated => ("updated", "on"),
        Labelled::Removed => ("removed", "from"),
    };
    writeln!(streams.out, "Successfully {verb} label {label} {word} {} {}", id.kind.name(), id.name)?;
    Ok(0)
}

fn migrate(
    store: &Arc<dyn Backend>,
    command: &MigrateCommand,
    streams: &mut Streams<'_>,
) -> Result<u8, Failed> {
    match command {
        MigrateCommand::Lock => {
            block_on(migrate::lock(&client(store)))??;
            writeln!(streams.out, "Datastore locked.")?;
        }
        MigrateCommand::Unlock => {
            block_on(migrate::unlock(&client(store)))??;
            writeln!(streams.out, "Datastore unlocked.")?;
        }
        MigrateCommand::Export => {
            let mut text = Vec::new();
            block_on(migrate::export(store, &mut text))??;
            streams.out.write_all(&text)?;
        }
        MigrateCommand::Import { filename } => {
            let unreadable = |error: std::io::Error| Failed(format!("{filename}: {error}"));
            let text = if filename == "-" {
                std::io::read_to_string(std::io::stdin()).map_err(unreadable)?
            } else {
                std::fs::read_to_string(filename).map_err(unreadable)?
            };
            let done = block_on(migrate::import(store, text.as_bytes(), migrate::Target::MustBeEmpty))??;
            writeln!(streams.out, "Datastore information successfully imported: {} entries.", done.written)?;
        }
    }
    Ok(0)
}

fn copy(from: &str, to: &str, replace: bool, streams: &mut Streams<'_>) -> Result<u8, Failed> {
    let place = |text: &str| DatastoreConfig::from_place(text, |name| std::env::var(name).ok());
    let (source, target) = (place(from)?, place(to)?);
    if source == target {
        return Err(Failed(format!("{from} and {to} are the same datastore")));
    }
    // Opening would make an empty one.
    if let DatastoreConfig::Sqlite { path } = &source
        && !path.exists()
    {
        return Err(Failed(format!("{from}: there is no such datastore")));
    }
    let source = calico_datastore::open_backend(&source, Role::Tool)?;
    let target = calico_datastore::open_backend(&target, Role::Tool)?;
    let mode = if replace { migrate::Target::Replace } else { migrate::Target::MustBeEmpty };
    let done = block_on(migrate::copy(&source, &target, mode))?.map_err(|error| match error {
        StoreError::Exists { key, .. } => {
            Failed(format!("{to} is not empty, it has {key}; --replace replaces everything there"))
        }
        error => error.into(),
    })?;
    writeln!(streams.out, "Copied {} entries, deleted {} in {to}.", done.written, done.deleted)?;
    Ok(0)
}

fn options(files: &Files) -> input::Options {
    input::Options {
        namespace: files.namespace.clone(),
        recursive: files.recursive,
        skip_empty: files.skip_empty,
    }
}

pub(super) fn read(paths: &[String], options: &input::Options) -> Result<Vec<Object>, Failed> {
    let (mut objects, mut errors) = (Vec::new(), Vec::new());
    for path in paths {
        match input::read_path(path, options) {
            Ok(mut some) => objects.append(&mut some),
            Err(mut some) => errors.append(&mut some),
        }
    }
    if errors.is_empty() {
        return Ok(objects);
    }
    let lines: Vec<String> = errors.iter().map(InputError::to_string).collect();
    Err(Failed(format!("failed to execute command: {}", lines.join("\n"))))
}

fn write(
    cli: &Cli,
    files: &Files,
    action: Action,
    skip_exists: bool,
    streams: &mut Streams<'_>,
) -> Result<u8, Failed> {
    let objects = read(&files.filename, &options(files))?;
    let store = connect(cli)?;
    let outcomes = block_on(apply::perform(&store, &objects, action))?;
    let kinds: Vec<ObjectKind> = outcomes.iter().map(|outcome| outcome.id.kind).collect();
    let results: Vec<Result<Done, WriteError>> = outcomes
        .into_iter()
        .map(|outcome| match outcome.result {
            Err(WriteError::Exists { .. }) if skip_exists => Ok(Done::Unchanged),
            result => result,
        })
        .collect();
    summary(action.verb(), action.past(), &kinds, &results, streams)
}

/// Says what became of many objects, in the words of the reference.
fn summary(
    verb: &str,
    past: &str,
    kinds: &[ObjectKind],
    results: &[Result<Done, WriteError>],
    streams: &mut Streams<'_>,
) -> Result<u8, Failed> {
    let kind = match kinds {
        [first, rest @ ..] if rest.iter().all(|kind| kind == first) => format!("'{}' ", first.name()),
        _ => String::new(),
    };
    let errors: Vec<String> =
        results.iter().filter_map(|result| result.as_ref().err().map(ToString::to_string)).collect();
    let (total, failed) = (results.len(), errors.len());
    let errors = errors.join(" ");
    if total == 0 {
        writeln!(streams.out, "No resources specified")?;
    } else if failed == 0 {
        writeln!(streams.out, "Successfully {past} {total} {kind}resource(s)")?;
    } else if total == 1 {
        writeln!(streams.err, "failed to {verb} {kind}resource: [{errors}]")?;
    } else if failed == total {
        writeln!(streams.err, "failed to {verb} any {kind}resources: [{errors}]")?;
    } else {
        let handled = total - failed;
        writeln!(streams.out, "Partial success: {past} {handled} out of {total} {kind}resources:")?;
        writeln!(streams.err, "hit error: [{errors}]")?;
    }
    Ok(u8::from(failed > 0))
}

fn delete(cli: &Cli, target: &Target, skip_missing: bool, streams: &mut Streams<'_>) -> Result<u8, Failed> {
    let named = ids(target, false)?;
    let store = connect(cli)?;
    let outcomes = block_on(async {
        let mut outcomes = Vec::with_capacity(named.len());
        for (id, version) in named {
            let result = apply::delete(&store, &id, &version).await;
            outcomes.push(Outcome { id, place: super::object::Place::default(), result });
        }
        outcomes
    })?;
    let (mut deleted, mut failed) = (0, 0);
    let same_kind = outcomes.windows(2).all(|pair| match pair {
        [a, b] => a.id.kind == b.id.kind,
        _ => true,
    });
    let mut kind = String::new();
    for outcome in &outcomes {
        if same_kind {
            kind = format!("'{}' ", outcome.id.kind.name());
        }
        match &outcome.result {
            Ok(_) => deleted += 1,
            Err(WriteError::Missing { .. }) if skip_missing => {}
            Err(error) => {
                failed += 1;
                writeln!(streams.err, "Failed to delete '{}' resource: {error}", outcome.id.kind.name())?;
            }
        }
    }
    if deleted > 0 || failed == 0 {
        writeln!(streams.out, "Successfully deleted {deleted} {kind}resource(s)")?;
    }
    Ok(u8::from(failed > 0))
}

/// The objects that are named on the command line or in files, with the version that files ask for.
fn ids(target: &Target, all_namespaces: bool) -> Result<Vec<(ObjectId, String)>, Failed> {
    let Some(kind) = &target.kind else {
        let options = input::Options {
            namespace: target.namespace.clone(),
            recursive: target.recursive,
            skip_empty: target.skip_empty,
        };
        let objects = read(&target.filename, &options)?;
        return Ok(objects.into_iter().map(|o| (o.id.clone(), o.resource_version().to_owned())).collect());
    };
    let kind = kind_of(kind)?;
    let namespace = namespace_of(kind, target, all_namespaces)?;
    target
        .names
        .iter()
        .map(|name| {
            if name.is_empty() {
                return Err(Failed("resource name may not be empty".into()));
            }
            let namespace = namespace.clone().unwrap_or_default();
            Ok((ObjectId { kind, namespace, name: name.clone() }, String::new()))
        })
        .collect()
}

fn kind_of(text: &str) -> Result<ObjectKind, Failed> {
    ObjectKind::from_user(text).ok_or_else(|| Failed(format!("resource type '{text}' is not supported")))
}

/// The namespace to look in; `None` is all of them, or none for kinds of cluster scope.
fn namespace_of(kind: ObjectKind, target: &Target, all_namespaces: bool) -> Result<Option<String>, Failed> {
    if !kind.is_namespaced() {
        if target.namespace.is_some() || all_namespaces {
            return Err(Failed(format!("{} is not namespaced", kind.name())));
        }
        return Ok(None);
    }
    if all_namespaces {
        return Ok(None);
    }
    Ok(Some(target.namespace.clone().unwrap_or_else(|| "default".into())))
}

fn show(
    cli: &Cli,
    target: &Target,
    output: &str,
    all_namespaces: bool,
    export: bool,
    streams: &mut Streams<'_>,
) -> Result<u8, Failed> {
    let format: Format = output.parse().map_err(Failed)?;
    if all_namespaces && target.namespace.is_some() {
        return Err(Failed("cannot use both --namespace and --all-namespaces flags at the same time".into()));
    }
    if all_namespaces && !target.names.is_empty() {
        return Err(Failed("cannot use --all-namespaces flag for getting a single resource".into()));
    }
    let named = ids(target, all_namespaces)?;
    let store = connect(cli)?;
    let (found, errors, facts) = block_on(async {
        let (mut found, mut errors) = (Vec::new(), Vec::new());
        if let (Some(kind), true) = (&target.kind, target.names.is_empty()) {
            let kind = kind_of(kind)?;
            let namespace = namespace_of(kind, target, all_namespaces)?;
            let (objects, revision) = get::list(&store, kind, namespace.as_deref()).await?;
            found.push(Found { kind, content: Content::List(objects, revision) });
        }
        for (id, version) in &named {
            match get::one(&store, id).await? {
                Some(object)
                    if version.is_empty() || text_at(&object, "/metadata/resourceVersion") == version =>
                {
                    found.push(Found { kind: id.kind, content: Content::One(object) });
                }
                _ => errors.push(format!("resource does not exist: {id} with error: <nil>")),
            }
        }
        Ok::<_, Failed>((found, errors, get::facts(&store).await))
    })??;
    let mut found = found;
    if export {
        for one in &mut found {
            if let Content::One(object) = &mut one.content {
                get::strip_for_export(object);
            }
        }
    }
    let with_namespace = all_namespaces || target.namespace.is_some();
    let text = get::show(&found, &format, with_namespace, &facts).map_err(Failed)?;
    streams.out.write_all(text.as_bytes())?;
    for error in &errors {
        writeln!(streams.err, "{error}")?;
    }
    Ok(u8::from(!errors.is_empty()))
}

fn node_status(socket: Option<&str>, output: &str, streams: &mut Streams<'_>) -> Result<u8, Failed> {
    let environment = std::env::var(SOCKET_VARIABLE).ok();
    let path = socket_path(socket, environment.as_deref());
    let status = node::ask(&path).map_err(|error| {
        Failed(format!("Calico process is not running.\n{error}; is calico-node running here?"))
    })?;
    let tree = || serde_json::to_value(&status).unwrap_or(Json::Null);
    match output {
        "json" => writeln!(streams.out, "{:#}", tree())?,
        "yaml" | "yml" => streams.out.write_all(yaml::to_string(&tree()).as_bytes())?,
        "ps" | "wide" | "" => streams.out.write_all(node::report(&status, &apply::now()).as_bytes())?,
        other => return Err(Failed(format!("unrecognized output format '{other}'; use ps, json or yaml"))),
    }
    Ok(0)
}

fn version(cli: &Cli, client: bool, streams: &mut Streams<'_>) -> Result<u8, Failed> {
    writeln!(streams.out, "Client Version:    v{}", env!("CARGO_PKG_VERSION"))?;
    if client {
        return Ok(0);
    }
    let Ok(store) = connect(cli) else {
        writeln!(streams.out, "Unable to detect installed Calico version")?;
        return Ok(0);
    };
    let id = ObjectId {
        kind: ObjectKind::Calico(calico_model::Kind::ClusterInformation),
        namespace: String::new(),
        name: "default".into(),
    };
    let facts = block_on(get::one(&store, &id))?
        .map_err(|error| Failed(format!("unable to retrieve Cluster Version or Type: {error}")))?;
    let field = |pointer| {
        let text = facts.as_ref().map(|facts| text_at(facts, pointer)).unwrap_or_default();
        if text.is_empty() { "unknown".to_owned() } else { text.to_owned() }
    };
    writeln!(streams.out, "Cluster Version:   {}", field("/spec/calicoVersion"))?;
    writeln!(streams.out, "Cluster Type:      {}", field("/spec/clusterType"))?;
    Ok(0)
}
