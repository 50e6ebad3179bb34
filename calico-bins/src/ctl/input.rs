//! Files to objects: several documents, lists, YAML and JSON, objects of Calico and of Kubernetes.
//!
//! Everything wrong in all files is reported at once, each with file, document, line and field; nothing is written
//! while anything is wrong.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use calico_datastore::yaml::{self, YamlError};
use calico_model::decode::Mode;
use calico_model::k8s::KubernetesObject;
use calico_model::{AnyResource, FieldError, Kind, KubernetesKind, ModelError, defaults};
use serde_json::Value as Json;

use super::check;
use super::locate::line_of;
use super::object::{Object, ObjectId, ObjectKind, Place, text_at};

/// One thing wrong with the input.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// A file or directory cannot be read.
    #[error("{path}: {error}")]
    Unreadable {
        /// The path.
        path: String,
        /// The system's reason.
        error: std::io::Error,
    },
    /// A file is neither YAML nor JSON.
    #[error("{file}:{}:{}: document {}: {}{}", .error.line, .error.column, .error.document, .error.reason, hint(.error))]
    Syntax {
        /// The file.
        file: String,
        /// The place in it.
        error: YamlError,
    },
    /// A document is no object with `apiVersion`, `kind` and `metadata`.
    #[error("{place}: {reason}")]
    NoObject {
        /// Where.
        place: Place,
        /// What is missing and what would be right.
        reason: String,
    },
    /// An object has fields that are unknown, of the wrong form or not allowed.
    #[error("{place}: {id}: {problem}")]
    Field {
        /// Where.
        place: Place,
        /// Kind and name of the object.
        id: String,
        /// The field and what is wrong with it.
        problem: FieldError,
    },
    /// An object cannot be read as its kind.
    #[error("{place}: {id}: {error}")]
    Object {
        /// Where.
        place: Place,
        /// Kind and name of the object.
        id: String,
        /// Why.
        error: ModelError,
    },
    /// There is nothing in the file or directory.
    #[error("no resources specified in {0}")]
    Empty(String),
}

/// What most likely led to a message of the YAML reader that is hard to understand.
fn hint(error: &YamlError) -> &'static str {
    if error.reason.starts_with("mapping values are not allowed") {
        "; this line is indented deeper than its neighbours, or a text with `: ` needs quotes"
    } else if error.reason.starts_with("tabs disallowed") {
        "; indent with spaces"
    } else {
        ""
    }
}

/// How files are read.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `--namespace`: fills in objects that name none.
    pub namespace: Option<String>,
    /// Walk directories below directories.
    pub recursive: bool,
    /// Files without objects are no error.
    pub skip_empty: bool,
}

/// Reads one file, standard input (`-`) or the files of a directory.
pub fn read_path(path: &str, options: &Options) -> Result<Vec<Object>, Vec<InputError>> {
    if path == "-" {
        let mut bytes = Vec::new();
        return match std::io::stdin().read_to_end(&mut bytes) {
            Ok(_) => nonempty(read_bytes("stdin", &bytes, options)?, "file -", options),
            Err(error) => Err(vec![InputError::Unreadable { path: "stdin".into(), error }]),
        };
    }
    if Path::new(path).is_dir() {
        let files = files_below(Path::new(path), options.recursive).map_err(|(path, error)| {
            vec![InputError::Unreadable { path: path.display().to_string(), error }]
        })?;
        let (mut objects, mut errors) = (Vec::new(), Vec::new());
        for file in files {
            match read_file(&file, options) {
                Ok(mut some) => objects.append(&mut some),
                Err(mut some) => errors.append(&mut some),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        return nonempty(objects, &format!("directory {path}"), options);
    }
    nonempty(read_file(Path::new(path), options)?, &format!("file {path}"), options)
}

fn nonempty(objects: Vec<Object>, what: &str, options: &Options) -> Result<Vec<Object>, Vec<InputError>> {
    if objects.is_empty() && !options.skip_empty {
        return Err(vec![InputError::Empty(what.to_owned())]);
    }
    Ok(objects)
}

fn read_file(path: &Path, options: &Options) -> Result<Vec<Object>, Vec<InputError>> {
    let name = path.display().to_string();
    match std::fs::read(path) {
        Ok(bytes) => read_bytes(&name, &bytes, options),
        Err(error) => Err(vec![InputError::Unreadable { path: name, error }]),
    }
}

/// Files with a known extension, in lexical order.
fn files_below(directory: &Path, recursive: bool) -> Result<Vec<PathBuf>, (PathBuf, std::io::Error)> {
    let at = |error| (directory.to_owned(), error);
    let mut entries: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(at)? {
        entries.push(entry.map_err(at)?.path());
    }
    entries.sort();
    let mut files = Vec::new();
    for path in entries {
        if path.is_dir() {
            if recursive {
                files.append(&mut files_below(&path, true)?);
            }
        } else if path
            .extension()
            .is_some_and(|e| ["yaml", "yml", "json"].iter().any(|known| e.eq_ignore_ascii_case(known)))
        {
            files.push(path);
        }
    }
    Ok(files)
}

/// Reads a text of one or more documents. `file` is for messages.
///
/// ```
/// use calico_bins::ctl::input::{Options, read_bytes};
/// let text = b"kind: Tier\napiVersion: projectcalico.org/v3\nmetadata: {name: sec}\nspec: {oder: 7}\n";
/// let errors = read_bytes("tier.yaml", text, &Options::default()).unwrap_err();
/// assert_eq!(
///     errors[0].to_string(),
///     "tier.yaml:4: document 1: Tier(sec): spec.oder: unknown field; did you mean order?"
/// );
/// ```
pub fn read_bytes(file: &str, bytes: &[u8], options: &Options) -> Result<Vec<Object>, Vec<InputError>> {
    let documents = yaml::parse_bytes(bytes)
        .map_err(|error| vec![InputError::Syntax { file: file.to_owned(), error }])?;
    let text = String::from_utf8_lossy(bytes);
    let mut reader = Reader { options, text: &text, start: 1, objects: Vec::new(), errors: Vec::new() };
    for document in documents {
        let place = Place { file: file.to_owned(), document: document.number, line: document.line, item: 0 };
        reader.start = document.line;
        reader.document(document.value, &place, "", None);
    }
    if reader.errors.is_empty() { Ok(reader.objects) } else { Err(reader.errors) }
}

struct Reader<'a> {
    options: &'a Options,
    text: &'a str,
    /// Line on which the document starts.
    start: usize,
    objects: Vec<Object>,
    errors: Vec<InputError>,
}

impl Reader<'_> {
    /// A document, or an item of a list, at `path` in its document. `list` is the `kind` and `apiVersion` that a list
    /// gives to items without.
    fn document(&mut self, mut tree: Json, place: &Place, path: &str, list: Option<(&str, &str)>) {
        if let Json::Array(items) = tree {
            return self.items(items, place, path, None);
        }
        let Some(fields) = tree.as_object_mut() else {
            let reason = format!("expected an object with apiVersion, kind and metadata, found {tree}");
            return self.no_object(place, reason);
        };
        if let Some((kind, api_version)) = list {
            fields.entry("kind").or_insert_with(|| kind.into());
            fields.entry("apiVersion").or_insert_with(|| api_version.into());
        }
        let (kind, api_version) =
            (text_at(&tree, "/kind").to_owned(), text_at(&tree, "/apiVersion").to_owned());
        if kind.is_empty() {
            return self
                .no_object(place, "`kind` is missing; write for example `kind: NetworkPolicy`".into());
        }
        if let Some(item_kind) = kind.strip_suffix("List") {
            if let Some(Json::Array(items)) = tree.get_mut("items").map(Json::take) {
                let of_items = (!item_kind.is_empty()).then_some((item_kind, api_version.as_str()));
                return self.items(items, place, &format!("{path}.items"), of_items);
            }
            return self.no_object(place, format!("{kind} without a list of `items`"));
        }
        if api_version.is_empty() {
            return self.no_object(place, format!("`apiVersion` is missing; {}", right_version(&kind)));
        }
        match kind_of(&api_version, &kind) {
            Some(kind) => self.object(kind, tree, place, path),
            None => {
                let right = right_version(&kind);
                let reason =
                    format!("unknown resource type ({kind}) and/or version ({api_version}); {right}");
                self.no_object(place, reason);
            }
        }
    }

    fn items(&mut self, items: Vec<Json>, place: &Place, path: &str, list: Option<(&str, &str)>) {
        for (index, item) in items.into_iter().enumerate() {
            let path = format!("{path}[{index}]");
            let line = line_of(self.text, self.start, &path);
            self.document(item, &Place { item: index + 1, line, ..place.clone() }, &path, list);
        }
    }

    fn object(&mut self, kind: ObjectKind, mut tree: Json, place: &Place, path: &str) {
        let mut id = ObjectId {
            kind,
            namespace: text_at(&tree, "/metadata/namespace").to_owned(),
            name: text_at(&tree, "/metadata/name").to_owned(),
        };
        let mut problems: Vec<FieldError> = Vec::new();
        match self.namespace_for(&id) {
            Ok(namespace) => id.namespace = namespace,
            Err(problem) => problems.push(problem),
        }
        let unreadable = match kind {
            ObjectKind::Calico(kind) => {
                match AnyResource::examine(kind, tree.clone(), Mode::Strict) {
                    Ok((Some(mut resource), unreadable)) => {
                        resource.metadata_mut().namespace.clone_from(&id.namespace);
                        id.name.clone_from(&resource.metadata().name);
                        // Rules are about objects as they will be: with what the API fills in.
                        let mut complete = resource.clone();
                        defaults::apply(&mut complete);
                        let mut broken = check::object(&complete, &tree);
                        let known: Vec<&FieldError> = problems.iter().chain(&unreadable).collect();
                        broken.retain(|problem| !known.iter().any(|known| follows(problem, known)));
                        problems.extend(unreadable);
                        problems.append(&mut broken);
                        tree = resource.to_tree();
                        None
                    }
                    Ok((None, unreadable)) => {
                        problems.extend(unreadable);
                        problems.append(&mut check::selectors(&tree));
                        None
                    }
                    Err(error) => {
                        problems.append(&mut check::selectors(&tree));
                        Some(error)
                    }
                }
            }
            ObjectKind::Kubernetes(kind) => {
                if let Some(metadata) = tree.get_mut("metadata").and_then(Json::as_object_mut)
                    && !id.namespace.is_empty()
                {
                    metadata.insert("namespace".into(), id.namespace.clone().into());
                }
                match KubernetesObject::examine(kind, tree.clone()) {
                    Ok((_, mut broken)) => {
                        problems.append(&mut broken);
                        None
                    }
                    Err(error) => Some(error),
                }
            }
        };
        let mut broken = false;
        match unreadable {
            Some(ModelError::Fields { problems: more, .. }) => problems.extend(more),
            Some(error) => {
                broken = true;
                self.errors.push(InputError::Object { place: place.clone(), id: id.to_string(), error });
            }
            None => {}
        }
        if id.name.is_empty() && !broken && problems.is_empty() {
            problems.push(FieldError::new("metadata.name", "a name is required"));
        }
        if !broken && problems.is_empty() {
            self.objects.push(Object { id, tree, place: place.clone() });
            return;
        }
        for problem in problems {
            let line = line_of(self.text, self.start, &format!("{path}.{}", problem.path));
            self.errors.push(InputError::Field {
                place: Place { line, ..place.clone() },
                id: id.to_string(),
                problem,
            });
        }
    }

    /// The namespace that the object goes to.
    fn namespace_for(&self, id: &ObjectId) -> Result<String, FieldError> {
        let given = &id.namespace;
        let wrong = |reason: String| FieldError::with_value("metadata.namespace", given, reason);
        if !id.kind.is_namespaced() {
            return if given.is_empty() {
                Ok(String::new())
            } else {
                Err(wrong(format!(
                    "namespace should not be specified for a non-namespaced resource. {} is not a namespaced resource",
                    id.kind.name()
                )))
            };
        }
        match &self.options.namespace {
            Some(wanted) if !given.is_empty() && given != wanted => {
                Err(wrong(format!("resource namespace does not match client namespace. {given} != {wanted}")))
            }
            Some(wanted) => Ok(wanted.clone()),
            None if given.is_empty() => Ok("default".into()),
            None => Ok(given.clone()),
        }
    }

    fn no_object(&mut self, place: &Place, reason: String) {
        self.errors.push(InputError::NoObject { place: place.clone(), reason });
    }
}

/// Whether a problem may exist only because of another, of a field that could not be read and so counts as absent.
fn follows(problem: &FieldError, unreadable: &FieldError) -> bool {
    let within = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    if within(&problem.path, &unreadable.path) || within(&unreadable.path, &problem.path) {
        return true;
    }
    // A misspelled field is missing under its right name.
    let meant = unreadable.reason.rsplit_once("did you mean ").and_then(|(_, name)| name.strip_suffix('?'));
    let parent = unreadable.path.rsplit_once('.').map_or("", |(parent, _)| parent);
    meant.is_some_and(|meant| problem.path == format!("{parent}.{meant}"))
}

fn kind_of(api_version: &str, kind: &str) -> Option<ObjectKind> {
    if [calico_model::API_VERSION, calico_model::CRD_V1_API_VERSION].contains(&api_version) {
        let kind = kind.parse::<Kind>().ok().filter(|kind| !kind.is_pseudo())?;
        return Some(ObjectKind::Calico(kind));
    }
    KubernetesKind::of(api_version, kind).map(ObjectKind::Kubernetes)
}

/// What would be right for a kind that was given without, or with another, API version.
fn right_version(kind: &str) -> String {
    let calico = kind.parse::<Kind>().ok().filter(|kind| !kind.is_pseudo());
    let kubernetes = KubernetesKind::ALL.into_iter().find(|known| known.name().eq_ignore_ascii_case(kind));
    match (calico, kubernetes) {
        (Some(calico), Some(kubernetes)) => format!(
            "write `apiVersion: {}` for Calico's {} or `apiVersion: {}` for that of Kubernetes",
            calico_model::API_VERSION,
            calico.name(),
            kubernetes.api_version()
        ),
        (Some(_), None) => format!("write `apiVersion: {}`", calico_model::API_VERSION),
        (None, Some(kubernetes)) => format!("write `apiVersion: {}`", kubernetes.api_version()),
        (None, None) => match AnyResource::read(serde_json::json!({ "kind": kind }), Mode::Lenient) {
            Err(ModelError::UnknownKind { suggestion: Some(near), .. }) => format!("did you mean {near}?"),
            _ => "`calicoctl get --help` lists the kinds".into(),
        },
    }
}
