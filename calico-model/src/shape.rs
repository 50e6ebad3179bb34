//! One declaration per type: the `object!` and `text_enum!` macros and the description they leave behind.
//!
//! A struct declared with `object!` gets its serde form (exact JSON names, unset fields omitted, unknown fields
//! reported) and a [`TypeShape`] from the same lines, from which schemas and documentation are generated.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// What a type looks like in JSON.
#[derive(Debug, Clone, PartialEq)]
pub enum TypeShape {
    /// `true` or `false`.
    Bool,
    /// An integer within the given bounds of its Rust type.
    Integer {
        /// Width in bits.
        bits: u8,
        /// True for `i…` types.
        signed: bool,
    },
    /// A floating-point number.
    Number,
    /// Text.
    String,
    /// A Go duration, text.
    Duration,
    /// RFC 3339 time, text.
    Time,
    /// A number or a text.
    IntOrString,
    /// One of the listed texts.
    Enum {
        /// The texts.
        values: &'static [&'static str],
        /// True when case is ignored.
        any_case: bool,
    },
    /// A list.
    Array(Box<TypeShape>),
    /// A map from text.
    Map(Box<TypeShape>),
    /// An object with named fields.
    Object(ObjectShape),
    /// Anything.
    Any,
}

/// The fields of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectShape {
    /// Rust name of the type.
    pub name: &'static str,
    /// Its documentation, one line per element.
    pub doc: &'static [&'static str],
    /// Its fields, in order.
    pub fields: Vec<FieldShape>,
}

/// One field of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldShape {
    /// JSON name.
    pub name: &'static str,
    /// Documentation, one line per element.
    pub doc: &'static [&'static str],
    /// Type.
    pub shape: TypeShape,
}

/// A type with a JSON form that this model can describe.
pub trait Shape {
    /// The JSON form.
    fn shape() -> TypeShape;

    /// True when the value equals "not given" and is omitted from JSON.
    fn unset(&self) -> bool;

    /// True only for `None`: what is omitted where the zero value must be written.
    fn absent(&self) -> bool {
        false
    }
}

pub(crate) fn unset<T: Shape>(v: &T) -> bool {
    v.unset()
}

pub(crate) fn absent<T: Shape>(v: &T) -> bool {
    v.absent()
}

macro_rules! integers {
    ($($t:ty, $bits:literal, $signed:literal;)*) => {$(
        impl Shape for $t {
            fn shape() -> TypeShape {
                TypeShape::Integer { bits: $bits, signed: $signed }
            }
            fn unset(&self) -> bool {
                *self == 0
            }
        }
    )*};
}
integers! { u8, 8, false; u16, 16, false; u32, 32, false; u64, 64, false; i32, 32, true; i64, 64, true; }

impl Shape for bool {
    fn shape() -> TypeShape {
        TypeShape::Bool
    }
    fn unset(&self) -> bool {
        !self
    }
}

impl Shape for f64 {
    fn shape() -> TypeShape {
        TypeShape::Number
    }
    fn unset(&self) -> bool {
        *self == 0.0
    }
}

impl Shape for String {
    fn shape() -> TypeShape {
        TypeShape::String
    }
    fn unset(&self) -> bool {
        self.is_empty()
    }
}

impl Shape for serde_json::Value {
    fn shape() -> TypeShape {
        TypeShape::Any
    }
    fn unset(&self) -> bool {
        self.is_null()
    }
}

impl<T: Shape> Shape for Option<T> {
    fn shape() -> TypeShape {
        T::shape()
    }
    fn unset(&self) -> bool {
        self.is_none()
    }
    fn absent(&self) -> bool {
        self.is_none()
    }
}

impl<T: Shape> Shape for Box<T> {
    fn shape() -> TypeShape {
        T::shape()
    }
    fn unset(&self) -> bool {
        T::unset(self)
    }
}

impl<T: Shape> Shape for Vec<T> {
    fn shape() -> TypeShape {
        TypeShape::Array(Box::new(T::shape()))
    }
    fn unset(&self) -> bool {
        self.is_empty()
    }
}

impl<K, T: Shape> Shape for BTreeMap<K, T> {
    fn shape() -> TypeShape {
        TypeShape::Map(Box::new(T::shape()))
    }
    fn unset(&self) -> bool {
        self.is_empty()
    }
}

/// Serialises a whole number without a fraction, as Go does (`100`, not `100.0`).
pub(crate) mod whole {
    use serde::Serializer;

    pub(crate) fn serialize<S: Serializer>(v: &Option<f64>, s: S) -> Result<S::Ok, S::Error> {
        match v {
            #[allow(clippy::cast_possible_truncation)]
            Some(v) if v.fract() == 0.0 && v.abs() < 9e15 => s.serialize_i64(*v as i64),
            Some(v) => s.serialize_f64(*v),
            None => s.serialize_none(),
        }
    }
}

/// Reads `null` as the zero value, as Go does.
pub(crate) fn null_is_default<'de, D, T>(d: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// Declares structs with their JSON form; see the module documentation. `struct X always { … }` writes zero values of its
/// fields, `struct X present { … }` is written itself although it is empty.
macro_rules! object {
    ($(
        $(#[doc = $doc:expr])*
        pub struct $name:ident $($mode:ident)? {
            $(
                $(#[doc = $fdoc:expr])*
                $(#[serde($($fserde:tt)*)])*
                $field:ident : $type:ty = $json:tt,
            )*
        }
    )*) => {$(
        $crate::shape::object! { @one [$($mode)?]
            $(#[doc = $doc])*
            pub struct $name {
                $( $(#[doc = $fdoc])* $(#[serde($($fserde)*)])* $field : $type = $json, )*
            }
        }
        impl $crate::shape::Shape for $name {
            fn shape() -> $crate::shape::TypeShape {
                $crate::shape::TypeShape::Object($crate::shape::ObjectShape {
                    name: stringify!($name),
                    doc: &[$($doc),*],
                    fields: vec![$(
                        $crate::shape::FieldShape {
                            name: $json,
                            doc: &[$($fdoc),*],
                            shape: <$type as $crate::shape::Shape>::shape(),
                        },
                    )*],
                })
            }
            fn unset(&self) -> bool {
                $crate::shape::object!(@may_be_left_out [$($mode)?]) && *self == Self::default()
            }
        }
    )*};
    (@may_be_left_out [present]) => { false };
    (@may_be_left_out [$($mode:ident)?]) => { true };
    (@one [present] $($rest:tt)*) => { $crate::shape::object! { @one [] $($rest)* } };
    (@one []
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( $(#[$fmeta:meta])* $field:ident : $type:ty = $json:tt, )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $( $(#[$fmeta])* #[serde(rename = $json, skip_serializing_if = "crate::shape::unset")] pub $field : $type, )*
        }
    };
    (@one [always]
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( $(#[$fmeta:meta])* $field:ident : $type:ty = $json:tt, )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $( $(#[$fmeta])* #[serde(rename = $json, skip_serializing_if = "crate::shape::absent")] pub $field : $type, )*
        }
    };
}
pub(crate) use object;

/// Declares an enum of texts. A text outside the list is kept in `Other` and written back unchanged; the empty
/// text means "not given" and is the default. Flag `any_case` makes reading ignore case.
macro_rules! text_enum {
    ($(
        $(#[doc = $doc:expr])*
        pub enum $name:ident $($flag:ident)? {
            $( $(#[doc = $vdoc:expr])* $variant:ident = $text:literal, )*
        }
    )*) => {$(
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $( $(#[doc = $vdoc])* $variant, )*
            /// A text this version does not know; empty when the field is not given.
            Other(Box<str>),
        }

        impl $name {
            /// The known texts, in order of declaration.
            pub const KNOWN: &'static [&'static str] = &[$($text),*];

            /// The text as it stands in JSON.
            pub fn as_str(&self) -> &str {
                match self {
                    $( Self::$variant => $text, )*
                    Self::Other(s) => s,
                }
            }

            /// True when the field was not given.
            pub fn is_unset(&self) -> bool {
                matches!(self, Self::Other(s) if s.is_empty())
            }

            /// True when the text is one of [`Self::KNOWN`].
            pub fn is_known(&self) -> bool {
                !matches!(self, Self::Other(_))
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::Other(Box::default())
            }
        }

        impl From<&str> for $name {
            fn from(s: &str) -> Self {
                const ANY_CASE: bool = $crate::shape::text_enum!(@case [$($flag)?]);
                $( if s == $text || ANY_CASE && s.eq_ignore_ascii_case($text) { return Self::$variant; } )*
                Self::Other(s.into())
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                d.deserialize_str($crate::shape::TextVisitor(|s: &str| Ok(Self::from(s)), "a text"))
            }
        }

        impl $crate::shape::Shape for $name {
            fn shape() -> $crate::shape::TypeShape {
                $crate::shape::TypeShape::Enum {
                    values: Self::KNOWN,
                    any_case: $crate::shape::text_enum!(@case [$($flag)?]),
                }
            }
            fn unset(&self) -> bool {
                self.is_unset()
            }
        }
    )*};
    (@case []) => { false };
    (@case [any_case]) => { true };
}
pub(crate) use text_enum;

/// Visitor for types read from a text.
pub(crate) struct TextVisitor<F>(pub(crate) F, pub(crate) &'static str);

impl<T, F: Fn(&str) -> Result<T, String>> serde::de::Visitor<'_> for TextVisitor<F> {
    type Value = T;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.1)
    }

    fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<T, E> {
        (self.0)(v).map_err(E::custom)
    }
}

/// Visitor for types read from a number or a text.
pub(crate) struct NumberOrTextVisitor<N, F>(pub(crate) N, pub(crate) F, pub(crate) &'static str);

impl<T, N, F> serde::de::Visitor<'_> for NumberOrTextVisitor<N, F>
where
    N: Fn(i64) -> Result<T, String>,
    F: Fn(&str) -> Result<T, String>,
{
    type Value = T;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.2)
    }

    fn visit_i64<E: serde::de::Error>(self, v: i64) -> Result<T, E> {
        (self.0)(v).map_err(E::custom)
    }

    fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<T, E> {
        let n = i64::try_from(v).map_err(|_| E::custom(format!("number {v} is too large")))?;
        (self.0)(n).map_err(E::custom)
    }

    fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<T, E> {
        (self.1)(v).map_err(E::custom)
    }
}
