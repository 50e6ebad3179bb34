//! Objects of the resource model, and the keys they are stored under.

use std::collections::BTreeSet;

use calico_datastore::yaml;
use calico_model::decode::Mode;
use calico_model::k8s::custom_resource::{Group, from_custom_resource, to_custom_resource};
use calico_model::shape::TypeShape;
use calico_model::{AnyResource, Key, Kind, Value, defaults, validate};
use serde_json::{Map, Value as Json, json};

/// Objects, as a person writes them (YAML or JSON) or, after a zero byte, as the shapes of the types allow them: the
/// rest of the bytes then chooses kind, fields and values.
///
/// Whatever is read is written so that it reads back the same: as JSON, as YAML, under its key and as a custom resource
/// of both groups. Defaults applied twice change no more than once, and leave a valid object valid.
pub fn object(data: &[u8]) {
    if let Some((0, choices)) = data.split_first() {
        object_laws(Choices(choices).object());
        return;
    }
    let Ok(documents) = yaml::parse_bytes(data) else { return };
    for document in documents {
        let text = yaml::to_string(&document.value);
        let again = yaml::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(again[0].value, document.value, "{text}");
        let listed = AnyResource::read_all(document.value.clone(), Mode::Lenient);
        let strict = AnyResource::read_all(document.value.clone(), Mode::Strict);
        match (&listed, &strict) {
            (Ok(lenient), Ok(strict)) => assert_eq!(lenient, strict),
            (Ok(lenient), Err(errors)) => {
                assert!(!errors.is_empty() && lenient.iter().any(|r| !r.unknown().is_empty()));
            }
            (Err(errors), Err(_)) => assert!(errors.iter().all(|error| !error.to_string().is_empty())),
            (Err(errors), Ok(_)) => panic!("strict accepts what lenient refuses: {errors:?}"),
        }
        if !document.value.get("kind").and_then(Json::as_str).is_some_and(|kind| kind.ends_with("List")) {
            object_laws(document.value);
        }
    }
}

fn object_laws(tree: Json) {
    let Ok(resource) = AnyResource::read(tree.clone(), Mode::Lenient) else {
        assert!(AnyResource::read(tree, Mode::Strict).is_err());
        return;
    };
    let kind = resource.kind();
    let strict = AnyResource::read(tree.clone(), Mode::Strict);
    assert_eq!(strict.is_ok(), resource.unknown().is_empty(), "{tree}");
    // The reader of bytes and that of trees agree.
    assert_eq!(
        AnyResource::from_json(kind, tree.to_string().as_bytes(), Mode::Lenient).as_ref(),
        Ok(&resource)
    );

    let problems = validate::problems(&resource);
    for problem in &problems {
        assert!(!problem.path.is_empty() && !problem.reason.is_empty(), "{problem:?}");
    }
    same_in_every_form(&resource, problems.is_empty());

    let mut once = resource.clone();
    defaults::apply(&mut once);
    let mut twice = once.clone();
    defaults::apply(&mut twice);
    assert_eq!(once, twice, "{tree}");
    if problems.is_empty() {
        assert_eq!(validate::problems(&once), [], "{tree}");
    }
    let mut read = resource.clone();
    defaults::on_read(&mut read);
    let mut read_again = read.clone();
    defaults::on_read(&mut read_again);
    assert_eq!(read, read_again);
}

fn same_in_every_form(resource: &AnyResource, valid: bool) {
    let kind = resource.kind();
    let tree = resource.to_tree();
    assert_eq!(AnyResource::read(tree.clone(), Mode::Lenient).as_ref(), Ok(resource));
    assert_eq!(AnyResource::from_json(kind, &resource.to_json(), Mode::Lenient).as_ref(), Ok(resource));
    let text = yaml::to_string(&tree);
    let documents = yaml::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(documents[0].value, tree, "{text}");

    // Names that no valid object has may not survive a path, and metadata that is spelled differently need not.
    if !valid {
        let _ = to_custom_resource(resource, Group::V1);
        return;
    }
    let key = resource.key();
    assert_eq!(Key::parse(&key.path()), Ok(key.clone()));
    assert_eq!(Value::from_json(&key, &resource.to_json()), Ok(Value::from(resource.clone())));
    for group in [Group::V1, Group::V3] {
        if group.stored_kind(kind) == kind && resource.api_version() == calico_model::API_VERSION {
            let stored = to_custom_resource(resource, group);
            assert_eq!(from_custom_resource(kind, stored.clone()).as_ref(), Ok(resource), "{stored}");
        }
    }
}

/// Bytes as a source of decisions; zero when they are used up.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn text(&mut self) -> String {
        let known = [
            "",
            "x",
            "all()",
            "has(a)",
            "a == 'b'",
            "global()",
            "10.0.0.0/8",
            "10.0.0.1",
            "fd00::/8",
            "eth0",
            "host-1",
            "default",
            "64512:1",
            "1:2:3",
            "TCP",
            "kns.a",
            "/a",
            "*",
        ];
        let choice = usize::from(self.next());
        match known.get(choice % 24) {
            Some(text) => (*text).to_owned(),
            None => {
                let length = usize::from(self.next() % 20).min(self.0.len());
                let (head, tail) = self.0.split_at(length);
                self.0 = tail;
                String::from_utf8_lossy(head).into_owned()
            }
        }
    }

    fn integer(&mut self, bits: u8, signed: bool) -> Json {
        let kind = self.next();
        let small = u64::from(self.next());
        let top = u64::MAX >> (64 - u32::from(bits) + u32::from(signed));
        match kind % 5 {
            0 => small.into(),
            1 => (small << 8 | u64::from(self.next())).min(top).into(),
            2 => top.into(),
            3 if signed => (-small.cast_signed() - 1).into(),
            _ => 1.into(),
        }
    }

    fn tree(&mut self, shape: &TypeShape, depth: u32) -> Json {
        match shape {
            TypeShape::Bool => self.next().is_multiple_of(2).into(),
            TypeShape::Integer { bits, signed } => self.integer(*bits, *signed),
            TypeShape::Number => json!(f64::from(self.next()) * 0.5 - 3.0),
            TypeShape::String => self.text().into(),
            TypeShape::Duration => ["0s", "1m30s", "1.5s", "2h0m0s"][usize::from(self.next() % 4)].into(),
            TypeShape::Time => "2026-08-22T13:33:20Z".into(),
            TypeShape::IntOrString => match self.next() % 4 {
                0 => self.next().into(),
                1 => self.text().into(),
                2 => "http".into(),
                _ => "80:90".into(),
            },
            TypeShape::Enum { values, .. } => {
                values.get(usize::from(self.next()) % (values.len() + 1)).copied().unwrap_or("Other").into()
            }
            TypeShape::Array(item) => {
                let length = if depth > 5 { 0 } else { self.next() % 3 };
                (0..length).map(|_| self.tree(item, depth + 1)).collect()
            }
            TypeShape::Map(item) => {
                (0..self.next() % 3).map(|i| (i.to_string(), self.tree(item, depth + 1))).collect()
            }
            TypeShape::Object(object) => {
                let mut map = Map::new();
                for field in &object.fields {
                    if !self.next().is_multiple_of(4) {
                        map.insert(field.name.to_owned(), self.tree(&field.shape, depth + 1));
                    }
                }
                if self.next() == 255 {
                    map.insert("fromTheFuture".to_owned(), json!({"x": [1]}));
                }
                Json::Object(map)
            }
            TypeShape::Any => Json::Null,
        }
    }

    fn object(&mut self) -> Json {
        let kinds: Vec<Kind> = Kind::ALL.iter().copied().filter(|kind| kind.shapes().is_some()).collect();
        let kind = kinds[usize::from(self.next()) % kinds.len()];
        let Some((spec, status)) = kind.shapes() else { return Json::Null };
        let name = ["a", "a.b", "default", "node.n"][usize::from(self.next() % 4)];
        let mut metadata = json!({ "name": name });
        if kind.is_namespaced() {
            metadata["namespace"] = "ns".into();
        }
        if self.next().is_multiple_of(2) {
            metadata["labels"] = json!({ "a": "b" });
        }
        let mut object = json!({"apiVersion": "projectcalico.org/v3", "kind": kind.name(), "metadata": metadata,
            "spec": self.tree(&spec, 0)});
        if let (TypeShape::Object(_), true) = (&status, self.next().is_multiple_of(2)) {
            object["status"] = self.tree(&status, 0);
        }
        object
    }
}

/// Paths of etcd. The first line is the path, the rest the value stored there, or nothing.
///
/// A path that is understood names one key, whose own path is read as the same key; the path of a list reads no key of
/// another parent. A value that is understood is written in a form that reads back the same.
pub fn etcd_key(data: &[u8]) {
    let cut = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (path, rest) = data.split_at(cut);
    let Ok(path) = std::str::from_utf8(path) else { return };
    let key = match Key::parse(path) {
        Ok(key) => key,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let written = key.path();
    assert_eq!(Key::parse(&written).as_ref(), Ok(&key), "{path:?} is written as {written:?}");
    // Keys are compared by what they mean: equal paths, equal keys, and the other way round.
    let mut longer = written.clone();
    longer.push('x');
    if let Ok(other) = Key::parse(&longer) {
        assert_eq!(other == key, other.path() == written, "{longer:?}");
        let both: BTreeSet<Key> = [key.clone(), other].into();
        assert!(both.contains(&key));
    }
    let Some((_, value)) = rest.split_first() else { return };
    let Ok(value) = Value::from_json(&key, value) else { return };
    let stored = value.to_json();
    let again = Value::from_json(&key, &stored).unwrap_or_else(|error| panic!("{key:?}: {error}"));
    assert_eq!(again, value, "{key:?}");
    assert_eq!(again.to_json(), stored);
}
