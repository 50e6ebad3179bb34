//! A resource of any kind.

use serde_json::Value as Json;

use crate::decode::Mode;
use crate::envelope::{Resource, Spec};
use crate::error::{FieldError, ModelError, nearest};
use crate::key::{Key, ResourceKey};
use crate::kind::for_each_kind;
use crate::resource::*;
use crate::{Kind, ObjectMeta};

macro_rules! define_any {
    ($( $(#[$doc:meta])* $kind:ident, $plural:literal, $scope:ident, [$($short:literal),*], $spec:ty, $status:ty; )*) => {
        $(
            $(#[$doc])*
            pub type $kind = Resource<$spec>;
        )*

        /// A resource of any kind. Boxed, as kinds differ in size by a factor of eight.
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        pub enum AnyResource {
            $( $(#[$doc])* $kind(Box<$kind>), )*
        }

        $(
            impl From<$kind> for AnyResource {
                fn from(r: $kind) -> Self {
                    Self::$kind(Box::new(r))
                }
            }
        )*

        impl AnyResource {
            /// Kind of the resource (a pseudo-kind where the object is a converted one).
            pub fn kind(&self) -> Kind {
                match self { $( Self::$kind(r) => r.kind, )* }
            }

            /// Metadata.
            pub fn metadata(&self) -> &ObjectMeta {
                match self { $( Self::$kind(r) => &r.metadata, )* }
            }

            /// Metadata, to change.
            pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
                match self { $( Self::$kind(r) => &mut r.metadata, )* }
            }

            /// API version.
            pub fn api_version(&self) -> &str {
                match self { $( Self::$kind(r) => &r.api_version, )* }
            }

            /// Replaces the API version.
            pub(crate) fn set_api_version(&mut self, api_version: &str) {
                match self { $( Self::$kind(r) => r.api_version = api_version.to_owned(), )* }
            }

            /// Fields this version does not know.
            pub fn unknown(&self) -> &crate::decode::Unknown {
                match self { $( Self::$kind(r) => &r.unknown, )* }
            }

            pub(crate) fn unknown_mut(&mut self) -> &mut crate::decode::Unknown {
                match self { $( Self::$kind(r) => &mut r.unknown, )* }
            }

            /// Reads JSON of a known kind.
            pub fn from_json(kind: Kind, bytes: &[u8], mode: Mode) -> Result<Self, ModelError> {
                match kind.stands_for().unwrap_or(kind) {
                    $( Kind::$kind => <$kind>::from_json(bytes, mode).map(Self::from), )*
                    _ => Err(ModelError::UnknownKind { kind: kind.name().to_owned(), suggestion: None }),
                }
            }

            /// Reads a JSON tree of a known kind.
            pub fn from_tree(kind: Kind, tree: Json, mode: Mode) -> Result<Self, ModelError> {
                match kind.stands_for().unwrap_or(kind) {
                    $( Kind::$kind => <$kind>::from_tree(tree, mode).map(Self::from), )*
                    _ => Err(ModelError::UnknownKind { kind: kind.name().to_owned(), suggestion: None }),
                }
            }

            /// Reads what can be read of a JSON tree of a known kind and lists the fields that cannot, so that all else
            /// can be checked too.
            ///
            /// ```
            /// use calico_model::{AnyResource, Kind, decode::Mode, validate};
            /// let tree = serde_json::json!({"metadata": {"name": "blue"},
            ///     "spec": {"cidr": "10.1.0.7/16", "natOutgoing": "true"}});
            /// let (pool, problems) = AnyResource::examine(Kind::IPPool, tree, Mode::Strict)?;
            /// assert_eq!(problems[0].path, "spec.natOutgoing");
            /// assert_eq!(validate::problems(&pool.unwrap())[0].path, "spec.cidr");
            /// # Ok::<(), calico_model::ModelError>(())
            /// ```
            pub fn examine(
                kind: Kind,
                tree: Json,
                mode: Mode,
            ) -> Result<(Option<Self>, Vec<FieldError>), ModelError> {
                match kind.stands_for().unwrap_or(kind) {
                    $( Kind::$kind => {
                        <$kind>::examine(tree, mode).map(|(resource, problems)| (resource.map(Self::from), problems))
                    } )*
                    _ => Err(ModelError::UnknownKind { kind: kind.name().to_owned(), suggestion: None }),
                }
            }

            /// Writes JSON, unknown fields included.
            pub fn to_json(&self) -> Vec<u8> {
                match self { $( Self::$kind(r) => r.to_json(), )* }
            }

            /// Writes a JSON tree, unknown fields included.
            pub fn to_tree(&self) -> Json {
                match self { $( Self::$kind(r) => r.to_tree(), )* }
            }
        }
    };
}
for_each_kind!(define_any);

macro_rules! define_specs {
    ($( $(#[$doc:meta])* $kind:ident, $plural:literal, $scope:ident, [$($short:literal),*], $spec:ty, $status:ty; )*) => {
        $(
            impl Spec for $spec {
                const KIND: Kind = Kind::$kind;
                type Status = $status;
            }
        )*
    };
}
for_each_kind!(define_specs);

impl AnyResource {
    /// Reads one object by its own `kind`.
    ///
    /// ```
    /// use calico_model::{AnyResource, decode::Mode};
    /// let tree = serde_json::json!({"apiVersion": "projectcalico.org/v3", "kind": "Teir"});
    /// let error = AnyResource::read(tree, Mode::Strict).unwrap_err();
    /// assert_eq!(error.to_string(), "unknown kind \"Teir\"; did you mean Tier?");
    /// ```
    pub fn read(tree: Json, mode: Mode) -> Result<Self, ModelError> {
        let name = tree.get("kind").and_then(Json::as_str).unwrap_or_default().to_owned();
        match name.parse::<Kind>() {
            Ok(kind) if !kind.is_pseudo() => Self::from_tree(kind, tree, mode),
            _ => {
                let suggestion =
                    nearest(&name, Kind::ALL.iter().filter(|k| !k.is_pseudo()).map(|k| k.name()));
                Err(ModelError::UnknownKind { kind: name, suggestion: suggestion.map(str::to_owned) })
            }
        }
    }

    /// Reads an object, or every item of a `List` or `<Kind>List`. Problems of all items are collected.
    pub fn read_all(tree: Json, mode: Mode) -> Result<Vec<Self>, Vec<ModelError>> {
        let kind = tree.get("kind").and_then(Json::as_str).unwrap_or_default();
        let Some(item_kind) = kind.strip_suffix("List").map(str::to_owned) else {
            return Self::read(tree, mode).map(|r| vec![r]).map_err(|e| vec![e]);
        };
        let mut tree = tree;
        let items = match tree.get_mut("items").map(Json::take) {
            Some(Json::Array(items)) => items,
            _ => Vec::new(),
        };
        let mut read = Vec::new();
        let mut errors = Vec::new();
        for mut item in items {
            if let Some(map) = item.as_object_mut().filter(|_| !item_kind.is_empty()) {
                map.entry("kind").or_insert_with(|| Json::String(item_kind.clone()));
            }
            match Self::read_all(item, mode) {
                Ok(mut some) => read.append(&mut some),
                Err(mut some) => errors.append(&mut some),
            }
        }
        if errors.is_empty() { Ok(read) } else { Err(errors) }
    }

    /// Key under which the resource is stored.
    pub fn key(&self) -> Key {
        let m = self.metadata();
        Key::Resource(ResourceKey { kind: self.kind(), namespace: m.namespace.clone(), name: m.name.clone() })
    }
}
