//! JSON trees as YAML, block style, for people and `kubectl`.

use std::fmt::Write;

use serde_json::Value as Json;

/// Writes a tree as YAML. Fields keep their (sorted) order; texts are quoted where plain text would be misread.
///
/// ```
/// use calico_model::crd::to_yaml;
/// let tree = serde_json::json!({"a": [1, {"b": "yes", "c": []}], "d": "x: y"});
/// assert_eq!(to_yaml(&tree), "a:\n- 1\n- b: \"yes\"\n  c: []\nd: \"x: y\"\n");
/// ```
pub fn to_yaml(tree: &Json) -> String {
    let mut out = String::new();
    node(&mut out, tree, 0);
    out
}

fn node(out: &mut String, tree: &Json, indent: usize) {
    match tree {
        Json::Object(map) if !map.is_empty() => {
            for (i, (key, value)) in map.iter().enumerate() {
                if i > 0 || !out.ends_with("- ") {
                    out.push_str(&" ".repeat(indent));
                }
                out.push_str(&scalar(key));
                out.push(':');
                field(out, value, indent);
            }
        }
        Json::Array(list) if !list.is_empty() => {
            for item in list {
                out.push_str(&" ".repeat(indent));
                out.push_str("- ");
                match item {
                    Json::Object(map) if !map.is_empty() => node(out, item, indent + 2),
                    Json::Array(inner) if !inner.is_empty() => {
                        out.push('\n');
                        node(out, item, indent + 2);
                    }
                    _ => leaf(out, item),
                }
            }
        }
        _ => leaf(out, tree),
    }
}

fn field(out: &mut String, value: &Json, indent: usize) {
    match value {
        Json::Object(map) if !map.is_empty() => {
            out.push('\n');
            node(out, value, indent + 2);
        }
        Json::Array(list) if !list.is_empty() => {
            out.push('\n');
            node(out, value, indent);
        }
        _ => {
            out.push(' ');
            leaf(out, value);
        }
    }
}

fn leaf(out: &mut String, value: &Json) {
    let text = match value {
        Json::String(s) => scalar(s),
        Json::Object(_) => "{}".to_owned(),
        Json::Array(_) => "[]".to_owned(),
        other => other.to_string(),
    };
    // Writing to a text cannot fail.
    let _ = writeln!(out, "{text}");
}

/// A text, quoted unless it is a plain word (or words) that YAML reads as text.
fn scalar(s: &str) -> String {
    let plain_byte =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/' | b' ' | b'(' | b')');
    let reserved = ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "~"];
    let plain = s.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
        && s.bytes().all(plain_byte)
        && !s.ends_with(' ')
        && !reserved.contains(&s.to_ascii_lowercase().as_str())
        // Words such as `1e3`, `0x1f`, `.inf` begin with no letter; `e3` is a word.
        && s.parse::<f64>().is_err();
    if plain { s.to_owned() } else { Json::String(s.to_owned()).to_string() }
}
