//! A ruleset as an `nft` script: for people, for golden files, and for anybody who wants to load it by hand.
//!
//! ```
//! use calico_dataplane::nft::object::{Chain, Rule, Ruleset};
//! use calico_dataplane::nft::expr::{Expr, Verdict};
//! use calico_dataplane::nft::text::render;
//!
//! let mut ruleset = Ruleset::default();
//! let rules = vec![Rule::new(vec![Expr::Verdict(Verdict::Drop)]).commented("nothing passes")];
//! ruleset.chains.insert("closed".into(), Chain { rules, ..Chain::default() });
//! let text = render("example", &ruleset);
//! assert_eq!(text, "table inet example {\n\tchain closed {\n\t\tdrop comment \"nothing passes\"\n\t}\n}\n");
//! ```

use std::fmt::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::expr::Verdict;
use super::object::{Chain, Element, Elements, Field, Key, MapData, Ruleset, Set, SetSpec, Value};
use super::text_rule::rule_text;

/// The table as a script that `nft -f` accepts.
pub fn render(table: &str, ruleset: &Ruleset) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_table(&mut out, table, ruleset);
    out
}

fn write_table(out: &mut String, table: &str, ruleset: &Ruleset) -> fmt::Result {
    writeln!(out, "table inet {table} {{")?;
    let mut gap = "";
    for name in &ruleset.counters {
        writeln!(out, "{gap}\tcounter {name} {{\n\t}}")?;
        gap = "\n";
    }
    for (name, flowtable) in &ruleset.flowtables {
        let devices: Vec<String> = flowtable.devices.iter().map(|device| quoted(device)).collect();
        writeln!(out, "{gap}\tflowtable {name} {{")?;
        writeln!(out, "\t\thook ingress priority {}", flowtable.priority)?;
        if !devices.is_empty() {
            writeln!(out, "\t\tdevices = {{ {} }}", devices.join(", "))?;
        }
        writeln!(out, "\t}}")?;
        gap = "\n";
    }
    for (name, set) in &ruleset.sets {
        out.push_str(gap);
        write_set(out, name, set)?;
        gap = "\n";
    }
    for (name, chain) in &ruleset.chains {
        out.push_str(gap);
        write_chain(out, name, chain)?;
        gap = "\n";
    }
    writeln!(out, "}}")
}

fn write_set(out: &mut String, name: &str, set: &Set) -> fmt::Result {
    let word = if set.spec.is_map() { "map" } else { "set" };
    writeln!(out, "\t{word} {name} {{")?;
    writeln!(out, "\t\ttype {}", type_text(&set.spec))?;
    if set.spec.interval {
        writeln!(out, "\t\tflags interval")?;
    }
    if !set.elements.is_empty() {
        let elements = elements_text(&set.spec, &set.elements, ",\n\t\t\t     ");
        writeln!(out, "\t\telements = {{ {elements} }}")?;
    }
    writeln!(out, "\t}}")
}

fn type_text(spec: &SetSpec) -> String {
    let key: Vec<&str> = spec.key.iter().map(|field| field.word()).collect();
    let key = key.join(" . ");
    match spec.data {
        None => key,
        Some(MapData::Verdict) => format!("{key} : verdict"),
        Some(MapData::Field(field)) => format!("{key} : {}", field.word()),
    }
}

/// Elements in key order.
pub(super) fn elements_text(spec: &SetSpec, elements: &Elements, separator: &str) -> String {
    let texts: Vec<String> = elements.iter().map(|(key, element)| element_text(spec, key, element)).collect();
    texts.join(separator)
}

fn element_text(spec: &SetSpec, key: &Key, element: &Element) -> String {
    let mut text = key_text(&spec.key, key);
    if let Some(comment) = &element.comment {
        let _ = write!(text, " comment {}", quoted(comment));
    }
    match (&element.value, spec.data) {
        (Some(Value::Verdict(verdict)), _) => {
            let _ = write!(text, " : {}", verdict_text(verdict));
        }
        (Some(Value::Data(data)), Some(MapData::Field(field))) => {
            let _ = write!(text, " : {}", value_text(field, data));
        }
        _ => {}
    }
    text
}

fn key_text(fields: &[Field], key: &Key) -> String {
    let concatenated = fields.len() > 1;
    let mut offset = 0;
    let mut texts = Vec::with_capacity(fields.len());
    for field in fields {
        let low = key.low.get(offset..offset + field.width()).unwrap_or_default();
        let high = key.upper().get(offset..offset + field.width()).unwrap_or_default();
        texts.push(range_text(*field, low, high));
        offset += if concatenated { field.padded_width() } else { field.width() };
    }
    texts.join(" . ")
}

/// A value, a prefix when the range is one, or a range.
pub(super) fn range_text(field: Field, low: &[u8], high: &[u8]) -> String {
    if low == high {
        return value_text(field, low);
    }
    if matches!(field, Field::Ipv4 | Field::Ipv6)
        && let Some(length) = prefix_length(low, high)
    {
        return format!("{}/{length}", value_text(field, low));
    }
    format!("{}-{}", value_text(field, low), value_text(field, high))
}

/// Length of the prefix that spans exactly `low..=high`.
fn prefix_length(low: &[u8], high: &[u8]) -> Option<usize> {
    let bits =
        |bytes: &[u8], index: usize| bytes.get(index / 8).is_some_and(|b| b >> (7 - index % 8) & 1 == 1);
    let total = low.len() * 8;
    let length = (0..total).find(|index| bits(low, *index) != bits(high, *index)).unwrap_or(total);
    (length..total).all(|index| !bits(low, index) && bits(high, index)).then_some(length)
}

/// One value of a field.
pub(super) fn value_text(field: Field, bytes: &[u8]) -> String {
    match field {
        Field::Ipv4 => match <[u8; 4]>::try_from(bytes) {
            Ok(octets) => Ipv4Addr::from(octets).to_string(),
            Err(_) => hex(bytes),
        },
        Field::Ipv6 => match <[u8; 16]>::try_from(bytes) {
            Ok(octets) => Ipv6Addr::from(octets).to_string(),
            Err(_) => hex(bytes),
        },
        Field::Proto => match bytes {
            [number] => protocol_text(*number),
            _ => hex(bytes),
        },
        Field::Icmpv6Type => match bytes {
            [number] => number.to_string(),
            _ => hex(bytes),
        },
        Field::Port => match bytes {
            [high, low] => u16::from_be_bytes([*high, *low]).to_string(),
            _ => hex(bytes),
        },
        Field::Mark => match <[u8; 4]>::try_from(bytes) {
            Ok(octets) => format!("{:#010x}", u32::from_ne_bytes(octets)),
            Err(_) => hex(bytes),
        },
        Field::Ifname => {
            let end = bytes.iter().position(|byte| *byte == 0);
            let name = String::from_utf8_lossy(bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default());
            // A comparison of fewer than 16 bytes, without the terminating zero, is a prefix match.
            if end.is_none() && bytes.len() < 16 { quoted(&format!("{name}*")) } else { quoted(&name) }
        }
    }
}

/// The name `nft` knows, or the number.
pub(super) fn protocol_text(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "ipv6-icmp".to_owned(),
        132 => "sctp".to_owned(),
        other => other.to_string(),
    }
}

/// A number in hexadecimal, for what has no better form.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::from("0x"), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Text in quotes. The grammar has no escapes, so quotes inside become apostrophes.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "'").replace(['\n', '\r'], " "))
}

/// A verdict as statement.
pub(super) fn verdict_text(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accept => "accept".to_owned(),
        Verdict::Drop => "drop".to_owned(),
        Verdict::Continue => "continue".to_owned(),
        Verdict::Return => "return".to_owned(),
        Verdict::Jump(chain) => format!("jump {chain}"),
        Verdict::Goto(chain) => format!("goto {chain}"),
    }
}

fn write_chain(out: &mut String, name: &str, chain: &Chain) -> fmt::Result {
    writeln!(out, "\tchain {name} {{")?;
    if let Some(base) = &chain.base {
        let (kind, hook) = (base.kind.word(), base.hook.word());
        writeln!(out, "\t\ttype {kind} hook {hook} priority {}; policy accept;", base.priority)?;
    }
    if let Some(comment) = &chain.comment {
        writeln!(out, "\t\tcomment {}", quoted(comment))?;
    }
    for rule in &chain.rules {
        write!(out, "\t\t{}", rule_text(rule))?;
        match &rule.comment {
            Some(comment) => writeln!(out, " comment {}", quoted(comment))?,
            None => out.push('\n'),
        }
    }
    writeln!(out, "\t}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_are_prefixes_are_written_as_prefixes() {
        assert_eq!(range_text(Field::Ipv4, &[10, 0, 0, 0], &[10, 255, 255, 255]), "10.0.0.0/8");
        assert_eq!(range_text(Field::Ipv4, &[0; 4], &[255; 4]), "0.0.0.0/0");
        assert_eq!(range_text(Field::Ipv4, &[10, 0, 0, 1], &[10, 0, 0, 2]), "10.0.0.1-10.0.0.2");
        assert_eq!(range_text(Field::Port, &[0, 80], &[0, 95]), "80-95");
        assert_eq!(range_text(Field::Ipv6, &[0; 16], &[0; 16]), "::");
    }

    #[test]
    fn interface_names_and_their_prefixes_differ() {
        assert_eq!(value_text(Field::Ifname, b"cali"), "\"cali*\"");
        assert_eq!(value_text(Field::Ifname, b"eth0\0\0\0\0\0\0\0\0\0\0\0\0"), "\"eth0\"");
        assert_eq!(quoted("say \"hi\""), "\"say 'hi'\"");
    }
}
