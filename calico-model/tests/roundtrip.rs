//! Random objects of every kind: nothing is lost in any form of storage, and what is valid stays valid. One half is made
//! from the shapes of the types, the other are the golden objects with fields taken away.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "helpers of tests may fail loudly and read files"
)]

use calico_model::decode::Mode;
use calico_model::k8s::custom_resource::{Group, from_custom_resource, to_custom_resource};
use calico_model::shape::TypeShape;
use calico_model::{AnyResource, Key, Kind, Value, defaults, validate};
use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};

/// A small generator, so that one number describes one object.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn tree(&mut self, shape: &TypeShape, depth: u32) -> Json {
        match shape {
            TypeShape::Bool => (self.below(2) == 0).into(),
            TypeShape::Integer { bits, signed } => {
                let top = if *signed { bits - 1 } else { *bits };
                let n = self.below(u64::MAX) >> (64 - u32::from(top)) >> self.below(u64::from(top));
                if *signed && self.below(4) == 0 { (-(n.cast_signed() >> 1)).into() } else { n.into() }
            }
            TypeShape::Number => [json!(100), json!(-1.5), json!(1e20)][self.below(3) as usize].clone(),
            TypeShape::String => ["", "x", "all()", "10.0.0.0/8", "a \"b\" é"][self.below(5) as usize].into(),
            TypeShape::Duration => ["0s", "1m30s", "1.5s", "2h0m0s"][self.below(4) as usize].into(),
            TypeShape::Time => "2026-08-22T13:33:20Z".into(),
            TypeShape::IntOrString => [json!(46), json!("46"), json!("EF")][self.below(3) as usize].clone(),
            TypeShape::Enum { values, .. } => match self.below(8) {
                0 => "FromTheFuture".into(),
                n => values[n as usize % values.len()].into(),
            },
            TypeShape::Array(item) => {
                let length = if depth > 5 { 0 } else { self.below(3) };
                (0..length).map(|_| self.tree(item, depth + 1)).collect()
            }
            // Digits are good keys for ordinals and for labels.
            TypeShape::Map(item) => {
                (0..self.below(3)).map(|i| (i.to_string(), self.tree(item, depth + 1))).collect()
            }
            TypeShape::Object(o) => {
                let mut map = Map::new();
                for f in &o.fields {
                    if self.below(3) != 0 {
                        map.insert(f.name.to_owned(), self.tree(&f.shape, depth + 1));
                    }
                }
                if self.below(4) == 0 {
                    map.insert("fromTheFuture".to_owned(), json!({"x": [1]}));
                }
                Json::Object(map)
            }
            TypeShape::Any => Json::Null,
        }
    }

    fn object(&mut self, kind: Kind) -> Json {
        let (spec, status) = kind.shapes().unwrap();
        let mut metadata = json!({
            "name": format!("n{}", self.below(100)), "uid": "41cb1fde-57e7-42c1-a73b-0acaf38c7737",
            "resourceVersion": "7", "creationTimestamp": "2026-08-22T13:33:20Z",
            "labels": {"a": "b", "projectcalico.org/c": "d"}, "annotations": {"e": "f"}, "finalizers": ["x"],
        });
        if kind.is_namespaced() {
            metadata["namespace"] = "ns".into();
        }
        if self.below(2) == 0 {
            metadata["ownerReferences"] = json!([
                {"apiVersion": "projectcalico.org/v3", "kind": "Tier", "name": "t",
                    "uid": "30316465-6365-4463-ad63-3564622d3638"},
                {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}]);
        }
        let mut object = json!({"apiVersion": "projectcalico.org/v3", "kind": kind.name(), "metadata": metadata,
            "spec": self.tree(&spec, 0)});
        if let TypeShape::Object(_) = status {
            object["status"] = self.tree(&status, 0);
        }
        object
    }
}

fn count_unknown(tree: &Json) -> usize {
    match tree {
        Json::Object(map) => {
            usize::from(map.contains_key("fromTheFuture")) + map.values().map(count_unknown).sum::<usize>()
        }
        Json::Array(list) => list.iter().map(count_unknown).sum(),
        _ => 0,
    }
}

/// JSON, YAML, etcd and the custom resources of both groups.
fn same_in_every_form(resource: &AnyResource) -> Result<(), TestCaseError> {
    let kind = resource.kind();
    prop_assert_eq!(AnyResource::from_json(kind, &resource.to_json(), Mode::Lenient), Ok(resource.clone()));
    let text =
        serde_saphyr::to_string(&resource.to_tree()).map_err(|e| TestCaseError::fail(format!("{e}")))?;
    let tree: Json =
        serde_saphyr::from_str(&text).map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
    prop_assert_eq!(AnyResource::read(tree, Mode::Lenient), Ok(resource.clone()), "{}", text);
    // In etcd: path and value.
    let key = resource.key();
    prop_assert_eq!(Key::parse(&key.path()), Ok(key.clone()));
    prop_assert_eq!(Value::from_json(&key, &resource.to_json()), Ok(Value::from(resource.clone())));
    for group in [Group::V1, Group::V3] {
        if group.stored_kind(kind) == kind {
            let stored = to_custom_resource(resource, group);
            prop_assert_eq!(from_custom_resource(kind, stored), Ok(resource.clone()));
        }
    }
    Ok(())
}

/// The golden object of a kind.
fn golden(kind: Kind) -> Json {
    let name = match kind {
        // The same settings under the name of the older group.
        Kind::IPAMConfig => Kind::IPAMConfiguration,
        kind => kind,
    };
    let name = name.name().to_ascii_lowercase();
    let path = format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let mut tree: Json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    tree["kind"] = kind.name().into();
    tree
}

/// Takes about every `one_in`th field away.
fn thin_out(tree: &mut Json, random: &mut Random, one_in: u64) {
    match tree {
        Json::Object(map) => {
            map.retain(|name, _| {
                ["kind", "apiVersion", "metadata", "name", "namespace", "spec"].contains(&name.as_str())
                    || random.below(one_in) != 0
            });
            map.values_mut().for_each(|value| thin_out(value, random, one_in));
        }
        Json::Array(list) => list.iter_mut().for_each(|value| thin_out(value, random, one_in)),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn nothing_is_lost(seed in 1u64..) {
        let mut random = Random(seed);
        for kind in Kind::ALL.iter().copied().filter(|k| k.shapes().is_some()) {
            let tree = random.object(kind);
            let resource = AnyResource::read(tree.clone(), Mode::Lenient).map_err(|e| TestCaseError::fail(format!("{e}")))?;
            // The fast and the thorough reader agree.
            let text = tree.to_string();
            prop_assert_eq!(AnyResource::from_json(kind, text.as_bytes(), Mode::Lenient), Ok(resource.clone()));
            prop_assert_eq!(count_unknown(&resource.to_tree()), count_unknown(&tree), "{}", tree);
            let strict = AnyResource::read(tree.clone(), Mode::Strict);
            prop_assert_eq!(strict.is_ok(), count_unknown(&tree) == 0);
            same_in_every_form(&resource)?;
            // The validator has an opinion about everything.
            let _ = validate::problems(&resource);
        }
    }

    #[test]
    fn what_is_valid_stays_valid(seed in 1u64..) {
        let mut random = Random(seed);
        for kind in Kind::ALL.iter().copied().filter(|k| k.shapes().is_some()) {
            for one_in in [1000, 30, 15, 8] {
                let mut tree = golden(kind);
                thin_out(&mut tree, &mut random, one_in);
                let Ok(resource) = AnyResource::read(tree, Mode::Strict) else { continue };
                if !validate::problems(&resource).is_empty() {
                    continue;
                }
                same_in_every_form(&resource)?;
                let mut complete = resource.clone();
                defaults::apply(&mut complete);
                prop_assert_eq!(validate::problems(&complete), [], "{}", String::from_utf8(resource.to_json()).unwrap());
                same_in_every_form(&complete)?;
            }
        }
    }

    #[test]
    fn no_input_breaks_the_readers(text in r#"[{}\[\]:,"a-z0-9. /-]{0,60}"#) {
        for kind in [Kind::NetworkPolicy, Kind::IPPool, Kind::IPAMBlock] {
            let _ = AnyResource::from_json(kind, text.as_bytes(), Mode::Strict);
        }
    }
}
