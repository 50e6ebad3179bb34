//! The profile of a network without Kubernetes policy: pods of the network may talk to each other.

use std::collections::BTreeMap;
use std::sync::Arc;

use calico_datastore::StoreError;
use calico_model::{Action, AnyResource, EntityRule, Key, Kind, Profile, ProfileSpec, Rule, Value};

use super::error::CniError;
use super::store::{Connection, store_error};

/// Creates the profile of the network `name` unless there is one; an existing one is the operator's and stays as it
/// is. Kubernetes pods accept everything until a policy says otherwise; others only the members of their network.
pub fn ensure(connection: &Connection, name: &str, kubernetes: bool) -> Result<(), CniError> {
    let key = Key::resource(Kind::Profile, "", name);
    if connection.store.get(&key).map_err(store_error)?.is_some() {
        return Ok(());
    }
    let profile = describe(name, kubernetes);
    match connection.store.create(key, Value::Resource(Arc::new(AnyResource::from(profile)))) {
        Ok(_) => {
            tracing::info!(profile = name, "created the profile of the network");
            Ok(())
        }
        Err(StoreError::Exists { .. }) => Ok(()),
        Err(error) => Err(store_error(error)),
    }
}

fn describe(name: &str, kubernetes: bool) -> Profile {
    let allow = Rule { action: Action::Allow, ..Rule::default() };
    let members = EntityRule { selector: format!("has({name})"), ..EntityRule::default() };
    let ingress = if kubernetes { allow.clone() } else { Rule { source: members, ..allow.clone() } };
    Profile::new(
        name,
        ProfileSpec {
            ingress: vec![ingress],
            egress: vec![allow],
            labels_to_apply: BTreeMap::from([(name.to_owned(), String::new())]),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_told_by_the_label_that_the_profile_gives() {
        let profile = describe("net1", false);
        let spec = &profile.spec;
        let selector = calico_selector::Selector::parse(&spec.ingress[0].source.selector).unwrap();
        assert!(selector.matches(&spec.labels_to_apply));
        assert!(!selector.matches(&BTreeMap::<String, String>::new()));
        assert_eq!(describe("net1", true).spec.ingress[0].source, EntityRule::default());
    }
}
