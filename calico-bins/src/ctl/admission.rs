//! What people may not write although programs may.

use calico_model::Kind;

use super::apply::WriteError;
use super::object::{ObjectId, ObjectKind};

/// Whether people may write objects of this kind and name at all.
pub fn may_write(id: &ObjectId, operation: &'static str) -> Result<(), WriteError> {
    let ObjectKind::Calico(kind) = id.kind else { return Ok(()) };
    let reason = match kind {
        Kind::ClusterInformation => "resource is readonly",
        Kind::NetworkPolicy if id.name.starts_with("knp.default.") => {
            "kubernetes network policies must be managed through the kubernetes API; here, apply the Kubernetes \
             NetworkPolicy itself"
        }
        Kind::BlockAffinity | Kind::IPAMBlock | Kind::IPAMHandle => {
            "address management writes it; see calicoctl ipam"
        }
        _ => return Ok(()),
    };
    Err(WriteError::NotSupported { operation, id: id.clone(), reason: reason.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_of_kubernetes_are_left_to_kubernetes() {
        let id = |kind, name: &str| ObjectId {
            kind: ObjectKind::Calico(kind),
            namespace: "x".into(),
            name: name.into(),
        };
        assert!(may_write(&id(Kind::NetworkPolicy, "mine"), "apply").is_ok());
        let error = may_write(&id(Kind::NetworkPolicy, "knp.default.theirs"), "apply").unwrap_err();
        assert!(error.to_string().starts_with(
            "operation apply is not supported on NetworkPolicy(x/knp.default.theirs): kubernetes network policies"
        ));
    }
}
