//! Reading JSON into typed objects: fast when everything is known, thorough when not.
//!
//! The fast path is plain serde over the bytes; every struct refuses unknown fields. Only when that path fails is
//! the text read again as a tree by the deserializer below, which knows the names each struct expects. It reads `null`
//! as "not given" (as Go does), keeps unknown fields with their place, and reports every wrong value with its path.

use std::cell::RefCell;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Error as _, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
    Visitor,
};
use serde::{Deserializer, forward_to_deserialize_any};
use serde_json::Value as Json;

use crate::error::{FieldError, ModelError, nearest};
use crate::fault::Fault as Error;

/// What to do with fields that the model does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Keep them; they are written back unchanged.
    Lenient,
    /// Refuse them, naming each with its path.
    Strict,
}

/// One step of a path into a JSON tree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Segment {
    /// Field of an object.
    Field(String),
    /// Element of an array of that length.
    Element {
        /// Index from 0.
        index: usize,
        /// Length of the array when it was read.
        length: usize,
    },
}

/// Fields found in an object that the model does not know, with their places.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Unknown {
    entries: Vec<(Vec<Segment>, Json)>,
}

impl Unknown {
    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Paths and values, sorted by path.
    pub fn iter(&self) -> impl Iterator<Item = (String, &Json)> {
        self.entries.iter().map(|(p, v)| (path_text(p), v))
    }

    fn sorted(mut entries: Vec<(Vec<Segment>, Json)>) -> Self {
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        Self { entries }
    }

    /// The fields below a field of the object, with their places from there.
    pub(crate) fn below(&self, parent: &str) -> Self {
        let below = self.entries.iter().filter_map(|(path, value)| match path.split_first() {
            Some((Segment::Field(first), rest)) if first == parent && !rest.is_empty() => {
                Some((rest.to_vec(), value.clone()))
            }
            _ => None,
        });
        Self { entries: below.collect() }
    }

    /// Adds the fields that were found in an object which stands in the field `parent` of this one.
    pub(crate) fn add_below(&mut self, parent: &str, found: Self) {
        let mut entries = std::mem::take(&mut self.entries);
        for (mut path, value) in found.entries {
            path.insert(0, Segment::Field(parent.to_owned()));
            if !entries.iter().any(|(known, _)| *known == path) {
                entries.push((path, value));
            }
        }
        *self = Self::sorted(entries);
    }

    /// Paths and values, given away.
    pub(crate) fn into_entries(self) -> Vec<(Vec<Segment>, Json)> {
        self.entries
    }

    /// Puts the fields back into a tree. A field whose parent is gone, or whose array has changed its length since it
    /// was read, is left out: its place is no longer known.
    pub fn merge_into(&self, tree: &mut Json) {
        for (path, value) in &self.entries {
            let Some((Segment::Field(last), parents)) = path.split_last() else { continue };
            let mut at = Some(&mut *tree);
            for (i, segment) in parents.iter().enumerate() {
                let leads_to_list = matches!(path.get(i + 1), Some(Segment::Element { .. }));
                at = at.and_then(|node| match segment {
                    Segment::Field(f) if leads_to_list => node.get_mut(f),
                    Segment::Field(f) => {
                        // A parent that was left out because it is empty comes back with its unknown child.
                        let map = node.as_object_mut()?;
                        Some(map.entry(f).or_insert_with(|| Json::Object(serde_json::Map::new())))
                    }
                    Segment::Element { index, length } => {
                        let list = node.as_array_mut()?;
                        if list.len() == *length { list.get_mut(*index) } else { None }
                    }
                });
            }
            if let Some(map) = at.and_then(Json::as_object_mut) {
                map.entry(last).or_insert_with(|| value.clone());
            }
        }
    }
}

/// The usual text of a path: `spec.ingress[2].action`. Names with other characters are quoted: `labels["a.b/c"]`.
pub(crate) fn path_text(path: &[Segment]) -> String {
    let mut out = String::new();
    for segment in path {
        match segment {
            Segment::Field(f) if f.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(f);
            }
            Segment::Field(f) => out.push_str(&format!("[{f:?}]")),
            Segment::Element { index, .. } => out.push_str(&format!("[{index}]")),
        }
    }
    out
}

/// Reads `bytes`. `what` names the object in errors.
pub(crate) fn from_slice<T: DeserializeOwned>(
    bytes: &[u8],
    what: &str,
    mode: Mode,
) -> Result<(T, Unknown), ModelError> {
    if let Ok(v) = serde_json::from_slice::<T>(bytes) {
        return Ok((v, Unknown::default()));
    }
    let tree = serde_json::from_slice::<Json>(bytes).map_err(|e| ModelError::syntax(&e))?;
    from_tree(tree, what, mode)
}

/// Reads a tree; see [`from_slice`].
pub(crate) fn from_tree<T: DeserializeOwned>(
    tree: Json,
    what: &str,
    mode: Mode,
) -> Result<(T, Unknown), ModelError> {
    let Partial { value, unknown, problems } = examine(tree, mode);
    match value {
        Some(value) if problems.is_empty() => Ok((value, unknown)),
        _ => Err(ModelError::Fields { what: what.to_owned(), problems }),
    }
}

/// What can be read of a tree, and everything in it that cannot.
pub(crate) struct Partial<T> {
    /// The value without the fields that have problems; `None` when nothing is left to read.
    pub(crate) value: Option<T>,
    pub(crate) unknown: Unknown,
    pub(crate) problems: Vec<FieldError>,
}

/// Reads a tree and goes on behind every field that cannot be read.
pub(crate) fn examine<T: DeserializeOwned>(mut tree: Json, mode: Mode) -> Partial<T> {
    let mut problems = Vec::new();
    let mut emptied: Vec<Vec<Segment>> = Vec::new();
    loop {
        let context = RefCell::new(Context { path: Vec::new(), failed: None, unknown: Vec::new() });
        let result = T::deserialize(Tree { value: &tree, context: &context });
        let Context { failed, unknown, .. } = context.into_inner();
        match result {
            Err(e) => {
                let path = failed.unwrap_or_default();
                let again = emptied.contains(&path);
                if !again {
                    let value = at(&tree, &path).filter(|v| !v.is_object() && !v.is_array()).map(text_of);
                    problems.push(FieldError { path: path_text(&path), value, reason: e.to_string() });
                }
                if problems.len() >= 100 || !take_away(&mut tree, &path, again) {
                    return Partial { value: None, unknown: Unknown::default(), problems };
                }
                emptied.push(path);
            }
            Ok(v) => {
                if mode == Mode::Strict {
                    for (path, expected) in &unknown {
                        problems.push(FieldError::new(path_text(path), unknown_reason(path, expected)));
                    }
                }
                let entries = unknown
                    .into_iter()
                    .filter_map(|(path, _)| at(&tree, &path).cloned().map(|v| (path, v)))
                    .collect();
                return Partial { value: Some(v), unknown: Unknown::sorted(entries), problems };
            }
        }
    }
}

/// Words of Kubernetes' network policies, a field that shows that Calico's are meant, and what to write there.
const KUBERNETES: &[(&str, &str, &str)] = &[
    ("podSelector", "selector", "write a selector, such as `selector: app == 'web'`"),
    ("policyTypes", "types", "write `types`"),
    ("from", "source", "write `source` with a selector or nets; several peers are several rules"),
    ("to", "destination", "write `destination` with a selector or nets; several peers are several rules"),
    ("ports", "destination", "ports stand in `source` or `destination`"),
];

fn unknown_reason(path: &[Segment], expected: &'static [&'static str]) -> String {
    let name = match path.last() {
        Some(Segment::Field(f)) => f.as_str(),
        _ => "",
    };
    if let Some((_, _, right)) = KUBERNETES.iter().find(|(k, ours, _)| *k == name && expected.contains(ours))
    {
        return format!("unknown field; {right}");
    }
    match nearest(name, expected.iter().copied()) {
        Some(n) => format!("unknown field; did you mean {n}?"),
        None => "unknown field".to_owned(),
    }
}

fn at<'a>(tree: &'a Json, path: &[Segment]) -> Option<&'a Json> {
    path.iter().try_fold(tree, |node, segment| match segment {
        Segment::Field(f) => node.get(f),
        Segment::Element { index, .. } => node.get(index),
    })
}

fn text_of(v: &Json) -> String {
    match v {
        Json::String(s) => s.clone(),
        other => other.to_string(),
    }
}

/// Removes the field at `path`, or makes the element there null; the field around it when that was not enough. False
/// when there is nothing to remove.
fn take_away(tree: &mut Json, path: &[Segment], again: bool) -> bool {
    let end = match path.last() {
        Some(Segment::Element { .. }) if !again => path.len() - 1,
        _ => match path.iter().rposition(|s| matches!(s, Segment::Field(_))) {
            Some(end) => end,
            None => return false,
        },
    };
    let Some((last, parents)) = path.get(..=end).and_then(<[Segment]>::split_last) else { return false };
    let parent = parents.iter().try_fold(tree, |node, segment| match segment {
        Segment::Field(f) => node.get_mut(f),
        Segment::Element { index, .. } => node.get_mut(index),
    });
    match (parent, last) {
        (Some(Json::Object(map)), Segment::Field(f)) => map.remove(f).is_some(),
        (Some(Json::Array(list)), Segment::Element { index, .. }) => {
            list.get_mut(*index).is_some_and(|v| !std::mem::take(v).is_null())
        }
        _ => false,
    }
}

struct Context {
    path: Vec<Segment>,
    failed: Option<Vec<Segment>>,
    unknown: Vec<(Vec<Segment>, &'static [&'static str])>,
}

/// A deserializer over a JSON tree that knows where it is.
#[derive(Clone, Copy)]
struct Tree<'a> {
    value: &'a Json,
    context: &'a RefCell<Context>,
}

impl<'a> Tree<'a> {
    fn descend<'de, S: DeserializeSeed<'de>>(
        self,
        segment: Segment,
        value: &'a Json,
        seed: S,
    ) -> Result<S::Value, Error>
    where
        'a: 'de,
    {
        self.context.borrow_mut().path.push(segment);
        let result = seed.deserialize(Tree { value, context: self.context });
        let mut context = self.context.borrow_mut();
        if result.is_err() && context.failed.is_none() {
            context.failed = Some(context.path.clone());
        }
        context.path.pop();
        result
    }

    fn wrong<T>(&self, expected: &dyn serde::de::Expected) -> Result<T, Error> {
        Err(Error::invalid_type(unexpected(self.value), expected))
    }
}

fn unexpected(v: &Json) -> Unexpected<'_> {
    match v {
        Json::Null => Unexpected::Unit,
        Json::Bool(b) => Unexpected::Bool(*b),
        Json::Number(n) => Unexpected::Float(n.as_f64().unwrap_or_default()),
        Json::String(s) => Unexpected::Str(s),
        Json::Array(_) => Unexpected::Seq,
        Json::Object(_) => Unexpected::Map,
    }
}

impl<'de, 'a: 'de> Deserializer<'de> for Tree<'a> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Json::Null => visitor.visit_unit(),
            Json::Bool(b) => visitor.visit_bool(*b),
            Json::String(s) => visitor.visit_str(s),
            Json::Number(n) => match (n.as_u64(), n.as_i64(), n.as_f64()) {
                (Some(n), _, _) => visitor.visit_u64(n),
                (_, Some(n), _) => visitor.visit_i64(n),
                (_, _, Some(n)) => visitor.visit_f64(n),
                _ => self.wrong(&visitor),
            },
            Json::Array(_) => self.deserialize_seq(visitor),
            Json::Object(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Json::Null => visitor.visit_seq(Elements { tree: self, list: &[], next: 0 }),
            Json::Array(list) => visitor.visit_seq(Elements { tree: self, list, next: 0 }),
            _ => self.wrong(&visitor),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Json::Null => visitor.visit_map(Fields { tree: self, iter: None, known: None, pending: None }),
            Json::Object(map) => {
                let iter = Some(map.iter());
                visitor.visit_map(Fields { tree: self, iter, known: None, pending: None })
            }
            _ => self.wrong(&visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.value {
            Json::Null => {
                visitor.visit_map(Fields { tree: self, iter: None, known: Some(fields), pending: None })
            }
            Json::Object(map) => {
                let iter = Some(map.iter());
                visitor.visit_map(Fields { tree: self, iter, known: Some(fields), pending: None })
            }
            _ => self.wrong(&"an object"),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        tuple tuple_struct enum identifier ignored_any
    }
}

struct Elements<'a> {
    tree: Tree<'a>,
    list: &'a [Json],
    next: usize,
}

impl<'de, 'a: 'de> SeqAccess<'de> for Elements<'a> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(value) = self.list.get(self.next) else { return Ok(None) };
        let segment = Segment::Element { index: self.next, length: self.list.len() };
        self.next += 1;
        self.tree.descend(segment, value, seed).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.list.len() - self.next)
    }
}

struct Fields<'a> {
    tree: Tree<'a>,
    iter: Option<serde_json::map::Iter<'a>>,
    known: Option<&'static [&'static str]>,
    pending: Option<(&'a String, &'a Json)>,
}

impl<'de, 'a: 'de> MapAccess<'de> for Fields<'a> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        while let Some((key, value)) = self.iter.as_mut().and_then(Iterator::next) {
            if let Some(known) = self.known {
                if !known.contains(&key.as_str()) {
                    let mut context = self.tree.context.borrow_mut();
                    let mut path = context.path.clone();
                    path.push(Segment::Field(key.clone()));
                    context.unknown.push((path, known));
                    continue;
                }
                if value.is_null() {
                    continue;
                }
            }
            self.pending = Some((key, value));
            let key: serde::de::value::StrDeserializer<'_, Error> = key.as_str().into_deserializer();
            return seed.deserialize(key).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let (key, value) = self.pending.take().ok_or_else(|| Error::custom("value without a key"))?;
        self.tree.descend(Segment::Field(key.clone()), value, seed)
    }
}
