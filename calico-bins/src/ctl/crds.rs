//! Custom resource definitions for a Kubernetes cluster.

use calico_model::k8s::custom_resource::Group;
use calico_model::{Kind, crd};

/// The definitions of `kinds` (all when there is none) in an API group, as a stream of YAML documents.
///
/// ```
/// let text = calico_bins::ctl::crds::yaml("projectcalico.org", &["ippool".into()])?;
/// assert!(text.contains("name: ippools.projectcalico.org"));
/// # Ok::<(), String>(())
/// ```
///
/// # Errors
/// What is wrong with a kind, for people.
pub fn yaml(group: &str, kinds: &[String]) -> Result<String, String> {
    let group = [Group::V1, Group::V3]
        .into_iter()
        .find(|known| known.name() == group)
        .ok_or_else(|| format!("there is no API group {group}"))?;
    if kinds.is_empty() {
        return Ok(crd::yaml_stream(group));
    }
    let mut out = String::new();
    for text in kinds {
        let kind = Kind::from_user(text).ok_or_else(|| format!("resource type '{text}' is not supported"))?;
        let definition = crd::definition(group.stored_kind(kind), group).ok_or_else(|| {
            format!("{} is not stored as a custom resource in {}", kind.name(), group.name())
        })?;
        out.push_str("---\n");
        out.push_str(&crd::to_yaml(&definition));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_definitions_are_those_that_are_committed() {
        let committed = [
            ("projectcalico.org", include_str!("../../../calico-model/crds/projectcalico.org_v3.yaml")),
            (
                "crd.projectcalico.org",
                include_str!("../../../calico-model/crds/crd.projectcalico.org_v1.yaml"),
            ),
        ];
        for (group, text) in committed {
            assert_eq!(yaml(group, &[]).as_deref(), Ok(text));
            // What was printed is what a cluster reads.
            for document in calico_datastore::yaml::parse(text).expect("YAML") {
                assert_eq!(document.value["spec"]["group"], group);
            }
        }
    }

    #[test]
    fn kinds_are_named_as_everywhere() {
        let two =
            yaml("crd.projectcalico.org", &["gnp".into(), "IPAMConfiguration".into()]).expect("known kinds");
        assert!(two.contains("name: globalnetworkpolicies.crd.projectcalico.org"));
        assert!(two.contains("name: ipamconfigs.crd.projectcalico.org"));
        assert_eq!(
            yaml("projectcalico.org", &["profile".into()]),
            Err("Profile is not stored as a custom resource in projectcalico.org".into())
        );
        assert_eq!(
            yaml("projectcalico.org", &["poll".into()]),
            Err("resource type 'poll' is not supported".into())
        );
        assert!(yaml("apps", &[]).is_err());
    }
}
