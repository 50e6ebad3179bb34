//! What the reader of trees says of a value of the wrong form, in the words of people who write YAML.

use std::fmt;

use serde::de::{Error, Expected, Unexpected};

/// A sentence that goes behind the path of the field.
#[derive(Debug)]
pub(crate) struct Fault(String);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

impl Error for Fault {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self(text.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = expected.to_string();
        let wanted = words(&expected);
        let hint = match (found, wanted) {
            (
                Unexpected::Bool(_) | Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_),
                "a text",
            ) => "; put it in quotes",
            (Unexpected::Str("true" | "false"), "true or false") => "; take the quotes away",
            (Unexpected::Str(text), _) if wanted.contains("number") && text.parse::<f64>().is_ok() => {
                "; take the quotes away"
            }
            (_, "a list") => "; each element begins with `- `",
            _ => "",
        };
        Self(format!("must be {wanted}, not {}{hint}", found_words(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = expected.to_string();
        match found {
            Unexpected::Unsigned(_) | Unexpected::Signed(_) => Self(format!("must be {}", words(&expected))),
            _ => Self(format!("must be {}, not {}", words(&expected), found_words(found))),
        }
    }
}

/// The names that serde has for types, in plain words.
fn words(expected: &str) -> &str {
    match expected {
        "a boolean" => "true or false",
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" => "a whole number, 0 or more",
        "i32" | "i64" => "a whole number",
        "f64" => "a number",
        "a string" => "a text",
        "a sequence" => "a list",
        "a map" => "an object",
        other if other.starts_with("struct ") => "an object",
        other => other,
    }
}

fn found_words(found: Unexpected<'_>) -> &'static str {
    match found {
        Unexpected::Bool(_) => "true or false",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) => "a number",
        Unexpected::Char(_) | Unexpected::Str(_) | Unexpected::Bytes(_) => "a text",
        Unexpected::Seq => "a list",
        Unexpected::Map => "an object",
        Unexpected::Unit | Unexpected::Option => "null",
        _ => "this",
    }
}
