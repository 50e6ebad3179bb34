//! Canonical text and the ids that are hashed from it. Both are a wire contract: IP set names derive from the ids.

use sha2::{Digest, Sha224};

use crate::ast::Expr;

/// Writes the canonical text of a tree.
pub(crate) fn write(expr: &Expr, out: &mut String) {
    match expr {
        Expr::All => out.push_str("all()"),
        Expr::Global => out.push_str("global()"),
        Expr::Has(label) => {
            out.push_str("has(");
            out.push_str(label);
            out.push(')');
        }
        Expr::Compare { label, op, value } => {
            out.push_str(label);
            out.push(' ');
            out.push_str(op.as_str());
            out.push(' ');
            write_text(value, out);
        }
        Expr::Member { label, negated, values } => {
            out.push_str(label);
            out.push_str(if *negated { " not in {" } else { " in {" });
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                write_text(value, out);
            }
            out.push('}');
        }
        Expr::Not(inner) => {
            out.push('!');
            write(inner, out);
        }
        Expr::And(parts) => write_joined(parts, " && ", out),
        Expr::Or(parts) => write_joined(parts, " || ", out),
    }
}

fn write_joined(parts: &[Expr], separator: &str, out: &mut String) {
    out.push('(');
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            out.push_str(separator);
        }
        write(part, out);
    }
    out.push(')');
}

fn write_text(value: &str, out: &mut String) {
    let quote = if value.contains('"') { '\'' } else { '"' };
    out.push(quote);
    out.push_str(value);
    out.push(quote);
}

/// `prefix:` + the unpadded URL-safe base64 of the SHA-224 of `prefix:content`. Every IP set id has this form.
///
/// ```
/// use calico_selector::{hashed_id, Selector};
///
/// assert_eq!(hashed_id("s", "all()"), Selector::all().id());
/// ```
pub fn hashed_id(prefix: &str, content: &str) -> String {
    let mut hash = Sha224::new();
    hash.update(prefix.as_bytes());
    hash.update(b":");
    hash.update(content.as_bytes());
    let mut out = String::with_capacity(prefix.len() + 1 + 38);
    out.push_str(prefix);
    out.push(':');
    push_base64url(&hash.finalize(), &mut out);
    out
}

/// The id of the set of addresses and ports that endpoints matched by a selector give to a named port.
///
/// `protocol` is `tcp`, `udp`, `sctp`, or `any` when the rule names none; without a positive selector pass the id of
/// [`Selector::all`](crate::Selector::all).
pub fn named_port_id(selector_id: &str, protocol: &str, port: &str) -> String {
    hashed_id("n", &format!("{selector_id},{protocol},{port}"))
}

/// The id of the set of a service: addresses with ports for a destination, addresses alone for a source.
pub fn service_id(namespace: &str, name: &str, with_ports: bool) -> String {
    hashed_id(if with_ports { "svc" } else { "svcnoport" }, &format!("{namespace}/{name}"))
}

fn push_base64url(bytes: &[u8], out: &mut String) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    for chunk in bytes.chunks(3) {
        let mut group = [0_u8; 3];
        for (to, from) in group.iter_mut().zip(chunk) {
            *to = *from;
        }
        let bits = u32::from(group[0]) << 16 | u32::from(group[1]) << 8 | u32::from(group[2]);
        for digit in 0..=chunk.len() {
            let index = bits >> (18 - 6 * digit) & 63;
            out.push(char::from(ALPHABET[index as usize]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_every_tail_length() {
        // RFC 4648 section 10, with the URL-safe alphabet and without padding.
        for (bytes, text) in
            [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg"), ("fooba", "Zm9vYmE")]
        {
            let mut out = String::new();
            push_base64url(bytes.as_bytes(), &mut out);
            assert_eq!(out, text);
        }
        let mut out = String::new();
        push_base64url(&[0xfb, 0xff, 0xfe], &mut out);
        assert_eq!(out, "-__-");
    }

    #[test]
    fn derived_ids() {
        // spec: `role == "fe"` and the sets derived from it.
        let base = hashed_id("s", "role == \"fe\"");
        assert_eq!(base, "s:ZzDw0LJkoYD4uslo-Ae1bEbKXx4ZRrRQ8nul3Q");
        assert_eq!(named_port_id(&base, "tcp", "http"), "n:da6D2MH_clNcx4NKdchOgMKOo0Cs1LyN6PpQxQ");
        assert_eq!(service_id("prod", "web", true), "svc:PMX6-V53cgXVtT6p1c9FM-XkUmon52QINgk6cg");
        assert_eq!(service_id("prod", "web", false), "svcnoport:CUNMZMbxx7t4BPpBDXAT-7rpDNiIzEx-rHMssg");
    }
}
