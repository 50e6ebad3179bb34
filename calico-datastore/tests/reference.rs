//! What Calico's own etcd library writes: every key and value of `reference/etcd.txt` (a line with the key, a line with
//! the value, as `etcdctl get` prints them) is read without loss and would be written as the same object.
#![allow(clippy::unwrap_used, clippy::panic)]

use calico_datastore::codec;
use calico_model::{Key, Revision};
use serde_json::Value as Json;

const WRITTEN: &str = include_str!("reference/etcd.txt");

/// Go writes some texts that are empty, and the empty status, where we write nothing.
fn bare(object: Json) -> Json {
    match object {
        Json::Object(fields) => fields
            .into_iter()
            .filter(|(name, field)| {
                field.as_str() != Some("") && !(name == "status" && *field == serde_json::json!({}))
            })
            .map(|(name, field)| (name, bare(field)))
            .collect(),
        Json::Array(items) => items.into_iter().map(bare).collect(),
        other => other,
    }
}

#[test]
fn everything_is_read_and_would_be_written_alike() {
    let lines: Vec<&str> = WRITTEN.lines().collect();
    let mut kinds = std::collections::BTreeSet::new();
    for pair in lines.chunks(2) {
        let [path, text] = pair else { panic!("a key without a value") };
        let key = Key::parse(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(key.path(), *path);
        let value = codec::decode(&key, text.as_bytes(), &Revision::from(7)).unwrap();
        let (theirs, ours): (Json, Json) =
            (serde_json::from_str(text).unwrap(), serde_json::from_slice(&codec::encode(&value)).unwrap());
        assert_eq!(bare(ours), bare(theirs), "{path}");
        kinds.insert(path.rsplit_once('/').unwrap().0.split('/').take(7).collect::<Vec<_>>().join("/"));
    }
    assert!(lines.len() / 2 >= 33 && kinds.len() >= 25, "{} entries, {kinds:#?}", lines.len() / 2);
}
