//! Names of kernel objects: recognisable by an operator, valid for the `nft` command line, never too long.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use calico_policy::ir::{Family, PolicyId, SetId};

use super::object::{MAX_NAME, Name};

/// Length of a set name: what ipset allowed, kept so that names look familiar.
const SET_NAME: usize = 31;
/// Characters of a hash in a name: 96 bits.
const HASH_CHARS: usize = 16;

/// A short, stable hash of the parts; parts cannot run into each other.
pub(crate) fn short_hash<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let mut text = URL_SAFE_NO_PAD.encode(hasher.finalize());
    text.truncate(HASH_CHARS);
    text
}

/// Joins prefix and text to a name the `nft` grammar accepts. Text that had to be changed or cut gets a hash of
/// the original appended, so that different texts never share a name.
pub(crate) fn object_name(prefix: &str, text: &str) -> Name {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.');
    if text.chars().all(allowed) && prefix.len() + text.len() <= MAX_NAME {
        return [prefix, text].concat().into();
    }
    let clean: String = text
        .chars()
        .map(|c| if allowed(c) { c } else { '_' })
        .take(MAX_NAME - HASH_CHARS - 2 - prefix.len())
        .collect();
    // Two underscores: what follows the last pair is the hash.
    format!("{prefix}{clean}__{}", short_hash([text])).into()
}

/// Name of the chain of a policy.
pub(crate) fn policy_chain(prefix: &str, id: &PolicyId) -> Name {
    object_name(prefix, &id.to_string())
}

/// Name of the kernel set that holds one family of an IP set: `cali40…` or `cali60…` like in the reference,
/// with `n` for `0` when it holds ranges.
pub(crate) fn set_name(family: Family, id: &SetId, ranges: bool) -> Name {
    let number = match family {
        Family::V4 => '4',
        Family::V6 => '6',
    };
    let kind = if ranges { 'n' } else { '0' };
    let id: String =
        id.0.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect();
    let mut name = format!("cali{number}{kind}{id}");
    name.truncate(SET_NAME);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_names_are_those_of_the_reference() {
        let id = SetId("s:5y5I3VdRZfDU01O--xXAPx2yxCQQqMf0M6IWug".into());
        assert_eq!(&*set_name(Family::V4, &id, false), "cali40s-5y5I3VdRZfDU01O--xXAPx2");
        assert_eq!(&*set_name(Family::V6, &id, true), "cali6ns-5y5I3VdRZfDU01O--xXAPx2");
        assert_eq!(&*set_name(Family::V4, &SetId("masq-ipam-pools".into()), false), "cali40masq-ipam-pools");
    }

    #[test]
    fn awkward_names_stay_distinct_and_short() {
        let long = "x".repeat(300);
        let name = object_name("cali-pi-", &long);
        assert_eq!(name.len(), MAX_NAME);
        assert_ne!(name, object_name("cali-pi-", &format!("{long}y")));
        let odd = object_name("cali-pi-", "np/ns/a b");
        assert!(odd.starts_with("cali-pi-np/ns/a_b__"));
        assert_ne!(odd, object_name("cali-pi-", "np/ns/a_b"));
        assert_ne!(short_hash(["ab", "c"]), short_hash(["a", "bc"]));
    }
}
