//! Namespaces and service accounts become profiles.

use crate::k8s::types::{Meta, Namespace, ServiceAccount};
use crate::names::{
    self, NAMESPACE_LABEL_PREFIX, SERVICE_ACCOUNT_LABEL_PREFIX, namespace_profile, service_account_profile,
};
use crate::resource::policy::{Action, Rule};
use crate::{Labels, ObjectMeta, Profile, ProfileSpec};

/// Label, after the prefix, that carries the name of the namespace or service account.
const NAME_LABEL: &str = "projectcalico.org/name";

/// The profile of a namespace: allows everything and hands on the labels with prefix `pcns.`. Its revision is
/// `<revision>/`.
pub fn from_namespace(namespace: &Namespace) -> Profile {
    let meta = &namespace.metadata;
    let allow = || vec![Rule { action: Action::Allow, ..Rule::default() }];
    Profile {
        metadata: metadata(namespace_profile(&meta.name), meta, format!("{}/", meta.resource_version)),
        spec: ProfileSpec {
            ingress: allow(),
            egress: allow(),
            labels_to_apply: prefixed(NAMESPACE_LABEL_PREFIX, meta),
        },
        ..Profile::default()
    }
}

/// The profile of a service account: no rules, only labels with prefix `pcsa.`. Its revision is `/<revision>`.
pub fn from_service_account(account: &ServiceAccount) -> Profile {
    let meta = &account.metadata;
    let name = service_account_profile(&meta.namespace, &meta.name);
    Profile {
        metadata: metadata(name, meta, format!("/{}", meta.resource_version)),
        spec: ProfileSpec {
            labels_to_apply: prefixed(SERVICE_ACCOUNT_LABEL_PREFIX, meta),
            ..ProfileSpec::default()
        },
        ..Profile::default()
    }
}

fn metadata(name: String, meta: &Meta, resource_version: String) -> ObjectMeta {
    ObjectMeta {
        name,
        creation_timestamp: meta.creation_timestamp,
        uid: names::derived_uid(&meta.uid),
        resource_version,
        ..ObjectMeta::default()
    }
}

fn prefixed(prefix: &str, meta: &Meta) -> Labels {
    let mut labels: Labels = meta.labels.iter().map(|(k, v)| (format!("{prefix}{k}"), v.clone())).collect();
    labels.insert(format!("{prefix}{NAME_LABEL}"), meta.name.clone());
    labels
}

/// Splits the revision of a profile into those of namespace and service account; "" and "0" mean none.
pub fn split_revision(revision: &str) -> Option<(&str, &str)> {
    if revision.is_empty() || revision == "0" {
        return Some(("", ""));
    }
    revision.split_once('/').filter(|(_, sa)| !sa.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_rules() {
        let meta = Meta {
            name: "prod".into(),
            labels: [("env".to_owned(), "p".to_owned())].into(),
            resource_version: "12".into(),
            ..Meta::default()
        };
        let p = from_namespace(&Namespace { metadata: meta.clone() });
        assert_eq!(p.metadata.name, "kns.prod");
        assert_eq!(p.metadata.resource_version, "12/");
        assert_eq!(p.spec.labels_to_apply["pcns.env"], "p");
        assert_eq!(p.spec.labels_to_apply["pcns.projectcalico.org/name"], "prod");
        assert_eq!((p.spec.ingress.len(), p.spec.egress.len()), (1, 1));
        let sa = ServiceAccount { metadata: Meta { name: "robot".into(), namespace: "prod".into(), ..meta } };
        let p = from_service_account(&sa);
        assert_eq!(p.metadata.name, "ksa.prod.robot");
        assert_eq!(p.metadata.resource_version, "/12");
        assert_eq!(p.spec.labels_to_apply["pcsa.projectcalico.org/name"], "robot");
        assert!(p.spec.ingress.is_empty());
        assert_eq!(split_revision("12/34"), Some(("12", "34")));
        assert_eq!(split_revision("0"), Some(("", "")));
        assert_eq!(split_revision("1/2/3"), None);
    }
}
