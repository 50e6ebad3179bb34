//! Values as they are stored and values as programs see them.
//!
//! Stored objects carry no resource version. Tiered policies carry their name in an annotation, because the name
//! in the key of an old policy has a `default.` that the policy itself has lost.

use std::sync::Arc;

use calico_model::{AnyResource, Key, Revision, Value};
use serde_json::json;

use crate::backend::Bytes;
use crate::error::StoreError;

/// Annotation with the real name of a policy.
const METADATA_ANNOTATION: &str = "projectcalico.org/metadata";
/// What older versions put before the names of policies of the default tier.
const DEFAULT_TIER_PREFIX: &str = "default.";

/// Stored bytes to a value. Resources get their resource version.
///
/// # Errors
/// [`StoreError::Undecodable`] with the path.
pub fn decode(key: &Key, bytes: &[u8], revision: &Revision) -> Result<Value, StoreError> {
    // A list could pass for an object whose fields stand in order.
    if matches!(key, Key::Resource(_)) && bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(StoreError::Undecodable { key: key.path(), reason: "not a JSON object".to_owned() });
    }
    let mut value = Value::from_json(key, bytes)
        .map_err(|error| StoreError::Undecodable { key: key.path(), reason: error.to_string() })?;
    if let Value::Resource(resource) = &mut value {
        // Just read: nobody else holds it, so this does not copy.
        let resource = Arc::make_mut(resource);
        resource.metadata_mut().resource_version = revision.as_str().to_owned();
        if resource.kind().is_tiered_policy() {
            restore_policy_name(resource);
        }
    }
    Ok(value)
}

/// A value to the bytes to store.
pub fn encode(value: &Value) -> Bytes {
    let Value::Resource(resource) = value else { return value.to_json().into() };
    let metadata = resource.metadata();
    let tiered = resource.kind().is_tiered_policy();
    if metadata.resource_version.is_empty() && metadata.self_link.is_empty() && !tiered {
        return value.to_json().into();
    }
    let mut stored = AnyResource::clone(resource);
    let metadata = stored.metadata_mut();
    metadata.resource_version.clear();
    metadata.self_link.clear();
    if tiered {
        let name = json!({ "name": metadata.name }).to_string();
        metadata.annotations.insert(METADATA_ANNOTATION.to_owned(), name);
    }
    stored.to_json().into()
}

fn restore_policy_name(resource: &mut AnyResource) {
    let default_tier = tier(resource).is_none_or(|tier| tier.is_empty() || tier == "default");
    let metadata = resource.metadata_mut();
    let stored = metadata.annotations.remove(METADATA_ANNOTATION);
    let named = stored.and_then(|text| {
        let tree: serde_json::Value = serde_json::from_str(&text).ok()?;
        tree.get("name")?.as_str().map(str::to_owned)
    });
    match named {
        Some(name) if !name.is_empty() => metadata.name = name,
        _ if default_tier => {
            if let Some(rest) = metadata.name.strip_prefix(DEFAULT_TIER_PREFIX) {
                metadata.name = rest.to_owned();
            }
        }
        _ => {}
    }
}

/// Tier of a tiered policy.
pub(crate) fn tier(resource: &AnyResource) -> Option<&str> {
    match resource {
        AnyResource::NetworkPolicy(policy) => Some(&policy.spec.tier),
        AnyResource::GlobalNetworkPolicy(policy) => Some(&policy.spec.tier),
        AnyResource::StagedNetworkPolicy(policy) => Some(&policy.spec.tier),
        AnyResource::StagedGlobalNetworkPolicy(policy) => Some(&policy.spec.tier),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use calico_model::Kind;

    fn policy(json: &str, name: &str) -> AnyResource {
        let key = Key::resource(Kind::NetworkPolicy, "prod", name);
        let value = decode(&key, json.as_bytes(), &Revision::from(7)).unwrap();
        value.as_resource().unwrap().clone()
    }

    #[test]
    fn policy_names() {
        let annotated = r#"{"metadata":{"name":"default.a","annotations":{"projectcalico.org/metadata":"{\"name\":\"a\"}"}}}"#;
        assert_eq!(policy(annotated, "default.a").metadata().name, "a");
        assert!(policy(annotated, "default.a").metadata().annotations.is_empty());
        assert_eq!(policy(r#"{"metadata":{"name":"default.a"}}"#, "default.a").metadata().name, "a");
        assert_eq!(
            policy(r#"{"metadata":{"name":"default.a"},"spec":{"tier":"x"}}"#, "default.a").metadata().name,
            "default.a"
        );
        assert_eq!(policy(r#"{"spec":{"tier":"x"}}"#, "x.a").metadata().name, "x.a");
    }

    #[test]
    fn stored_form() {
        let resource = policy(r#"{"metadata":{"name":"a","selfLink":"/x"}}"#, "a");
        assert_eq!(resource.metadata().resource_version, "7");
        let stored: serde_json::Value = serde_json::from_slice(&encode(&resource.into())).unwrap();
        assert_eq!(stored["metadata"].get("resourceVersion"), None);
        assert_eq!(stored["metadata"].get("selfLink"), None);
        assert_eq!(stored["metadata"]["annotations"]["projectcalico.org/metadata"], "{\"name\":\"a\"}");
    }

    #[test]
    fn damage_names_the_key() {
        let key = Key::resource(Kind::Tier, "", "x");
        let deep = format!("{}1{}", "{\"spec\":".repeat(10_000), "}".repeat(10_000));
        for bytes in [b"{".as_slice(), b"\xff", b"[]", b"", deep.as_bytes()] {
            let error = decode(&key, bytes, &Revision::from(1)).unwrap_err();
            assert!(matches!(error, StoreError::Undecodable { key: path, .. } if path == key.path()));
        }
    }
}
