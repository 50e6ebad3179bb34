//! Names, labels and annotations.

use crate::names::{self, NAMESPACE_LABEL};
use crate::{AnyResource, Kind, ObjectMeta};

use super::Check;

/// Longest name of an object.
const MAX_NAME: usize = 253;
/// Longest label (a part of a name without dots).
const MAX_LABEL: usize = 63;
/// Most bytes of all annotations together.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// A DNS label: lower-case letters, digits and dashes, not at the ends.
fn is_dns_label(s: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !s.is_empty() && s.bytes().all(inner) && !s.starts_with('-') && !s.ends_with('-')
}

/// True for a name as most kinds need it: DNS labels separated by dots, at most 253 bytes.
pub fn is_name(s: &str) -> bool {
    s.len() <= MAX_NAME && s.split('.').all(is_dns_label)
}

/// True for the name of a tier: one DNS label of at most 63 bytes.
pub fn is_tier_name(s: &str) -> bool {
    s.len() <= MAX_LABEL && is_dns_label(s)
}

/// True for the name of a global policy: one or two labels.
fn is_global_policy_name(s: &str) -> bool {
    s.len() <= MAX_NAME && s.split('.').count() <= 2 && s.split('.').all(is_dns_label)
}

/// True for the name of a namespaced policy: one or two labels, or one of the two old forms with a fixed prefix.
fn is_policy_name(s: &str) -> bool {
    let old = ["knp.default.", "ossg.default."].iter().any(|p| s.strip_prefix(p).is_some_and(is_name));
    is_global_policy_name(s) || old && s.len() <= MAX_NAME
}

/// True for a key of a label or annotation: `[prefix/]name`.
pub fn is_qualified_name(s: &str) -> bool {
    let (prefix, name) = match s.split_once('/') {
        Some((p, n)) => (Some(p), n),
        None => (None, s),
    };
    prefix.is_none_or(is_name) && !name.is_empty() && is_label_value(name)
}

/// True for the value of a label: empty, or up to 63 of letters, digits, `-`, `_`, `.` with letters or digits at the ends.
pub fn is_label_value(s: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let ends = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    s.len() <= MAX_LABEL && s.bytes().all(inner) && ends(s.as_bytes().first()) && ends(s.as_bytes().last())
}

pub(super) fn metadata(c: &mut Check, resource: &AnyResource) {
    let m = resource.metadata();
    c.field("metadata", |c| {
        c.field("name", |c| name(c, resource, &m.name));
        namespace(c, resource.kind(), m);
        annotations(c, &m.annotations);
        labels(c, &m.labels);
        if matches!(resource, AnyResource::NetworkSet(_) | AnyResource::GlobalNetworkSet(_))
            && m.labels.contains_key(NAMESPACE_LABEL)
        {
            let reason = "is set by Calico; use metadata.namespace";
            c.field("labels", |c| c.entry(NAMESPACE_LABEL, |c| c.problem(reason)));
        }
    });
}

fn namespace(c: &mut Check, kind: Kind, m: &ObjectMeta) {
    c.field("namespace", |c| match (kind.is_namespaced(), m.namespace.as_str()) {
        (true, "") => c.problem("required: objects of this kind live in a namespace"),
        (true, ns) if !is_tier_name(ns) => c.bad(ns, "must consist of lower-case letters, digits and '-'"),
        (false, ns) if !ns.is_empty() => c.bad(ns, "must be empty: the kind is of cluster scope"),
        _ => {}
    });
}

fn name(c: &mut Check, resource: &AnyResource, name: &str) {
    if name.is_empty() {
        // The name of an endpoint is computed when it is written.
        if resource.kind() != Kind::WorkloadEndpoint {
            c.problem("required");
        }
        return;
    }
    if name.len() > MAX_NAME {
        c.problem(format!("is {} bytes too long", name.len() - MAX_NAME));
        return;
    }
    let two_labels = "must consist of lower-case letters, digits and '-', with at most one '.' inside";
    match resource {
        AnyResource::Tier(_) => {
            if name.len() > MAX_LABEL {
                c.problem(format!("is {} bytes too long for a tier", name.len() - MAX_LABEL));
            } else if !is_tier_name(name) {
                c.bad(name, "must consist of lower-case letters, digits and '-' (no '.')");
            }
        }
        AnyResource::NetworkPolicy(_) | AnyResource::StagedNetworkPolicy(_) => {
            if !is_policy_name(name) {
                c.bad(name, two_labels);
            }
        }
        AnyResource::GlobalNetworkPolicy(_) | AnyResource::StagedGlobalNetworkPolicy(_) => {
            if !is_global_policy_name(name) {
                c.bad(name, two_labels);
            }
        }
        AnyResource::WorkloadEndpoint(w) => match names::workload_endpoint_name(&w.spec) {
            Ok(computed) if computed != name => {
                c.bad(name, format!("must be {computed:?}, which follows from the spec"));
            }
            _ => {}
        },
        AnyResource::ClusterInformation(_)
        | AnyResource::KubeControllersConfiguration(_)
        | AnyResource::IPAMConfiguration(_)
            if name != "default" =>
        {
            c.bad(name, "must be \"default\": there is one object of this kind");
        }
        _ => {
            if !is_name(name) {
                c.bad(name, "must consist of lower-case letters, digits, '-' and '.'");
            }
        }
    }
}

pub(super) fn annotations(c: &mut Check, annotations: &crate::Labels) {
    c.field("annotations", |c| {
        for key in annotations.keys() {
            if !is_qualified_name(&key.to_ascii_lowercase()) {
                c.entry(key, |c| c.problem("the key must have the form [prefix/]name"));
            }
        }
        let size: usize = annotations.iter().map(|(k, v)| k.len() + v.len()).sum();
        if size > MAX_ANNOTATIONS {
            c.problem(format!("are {} bytes too large in total", size - MAX_ANNOTATIONS));
        }
    });
}

pub(super) fn labels(c: &mut Check, labels: &crate::Labels) {
    c.field("labels", |c| {
        for (key, value) in labels {
            if !is_qualified_name(key) {
                c.entry(key, |c| {
                    c.problem("the key must have the form [prefix/]name, name of at most 63 characters")
                });
            }
            if !is_label_value(value) {
                let reason =
                    "must be at most 63 letters, digits, '-', '_' or '.', with letters or digits at the ends";
                c.entry(key, |c| c.bad(value, reason));
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_policies() {
        for ok in ["allow-dns", "default.allow-dns", "1", "knp.default.a.b.c", "ossg.default.x"] {
            assert!(is_policy_name(ok), "{ok}");
        }
        for bad in ["a.b.c", "knp.foo.a", "Allow", "a_b", "", "-a", "a-", "a..b", "knp.default."] {
            assert!(!is_policy_name(bad), "{bad}");
        }
        assert!(!is_global_policy_name("knp.default.a.b"));
        assert!(is_tier_name("a-1") && !is_tier_name("a.b") && !is_tier_name(&"a".repeat(64)));
        assert!(is_name("a.b-c.1") && !is_name(&"a".repeat(254)));
    }

    #[test]
    fn labels_of_kubernetes() {
        for ok in ["a", "example.com/a_b.c", "A-b"] {
            assert!(is_qualified_name(ok), "{ok}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "-a", "Example.com/a", "é"] {
            assert!(!is_qualified_name(bad), "{bad}");
        }
        assert!(is_label_value("") && !is_label_value("a b") && !is_label_value(".a"));
    }
}
