//! What an object may be, given the other objects in the datastore.

use calico_datastore::{Backend, KeyRange, KeyRanges};
use calico_model::{FieldError, Key, Kind};
use ipnet::IpNet;
use serde_json::Value as Json;

use super::apply::WriteError;
use super::object::{ObjectId, ObjectKind, text_at};

/// Tiers that are always there.
const BUILT_IN_TIERS: [&str; 3] = ["default", "kube-admin", "kube-baseline"];

/// The profile that is always there and allows everything.
const DEFAULT_ALLOW: &str = "projectcalico-default-allow";

/// Kinds of policies that belong to a tier.
const TIERED: [Kind; 4] = [
    Kind::GlobalNetworkPolicy,
    Kind::NetworkPolicy,
    Kind::StagedGlobalNetworkPolicy,
    Kind::StagedNetworkPolicy,
];

/// Whether people may write objects of this kind and name at all.
pub fn may_write(id: &ObjectId, operation: &'static str) -> Result<(), WriteError> {
    let ObjectKind::Calico(kind) = id.kind else { return Ok(()) };
    let reason = match kind {
        Kind::ClusterInformation => "resource is readonly",
        Kind::Profile if id.name == DEFAULT_ALLOW => "the profile is built in",
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

/// Whether an object may be removed.
pub async fn may_delete(store: &dyn Backend, id: &ObjectId) -> Result<(), WriteError> {
    may_write(id, "delete")?;
    if id.kind != ObjectKind::Calico(Kind::Tier) {
        return Ok(());
    }
    let refuse =
        |reason: String| Err(WriteError::NotSupported { operation: "delete", id: id.clone(), reason });
    if BUILT_IN_TIERS.contains(&id.name.as_str()) {
        return refuse(format!("Cannot delete {} tier", id.name));
    }
    let ranges = KeyRanges::new(TIERED.map(|kind| KeyRange::Prefix(Key::resource_prefix(kind, None))));
    for entry in store.list(&ranges).await?.entries {
        let in_tier = serde_json::from_slice::<Json>(&entry.value)
            .is_ok_and(|policy| text_at(&policy, "/spec/tier") == id.name);
        if in_tier && let Ok(Key::Resource(key)) = Key::parse(&entry.key) {
            let policy =
                ObjectId { kind: ObjectKind::Calico(key.kind), namespace: key.namespace, name: key.name };
            return refuse(format!("Cannot delete a non-empty tier; {policy} is in it"));
        }
    }
    Ok(())
}

/// Whether an object agrees with the others and with its own former self.
pub async fn check(
    store: &dyn Backend,
    id: &ObjectId,
    new: &Json,
    old: Option<&Json>,
) -> Result<(), WriteError> {
    let problems = match id.kind {
        ObjectKind::Calico(Kind::IPPool) => pool(store, id, new, old).await?,
        ObjectKind::Calico(kind) if TIERED.contains(&kind) && old.is_none() => tier_of(store, new).await?,
        _ => Vec::new(),
    };
    if problems.is_empty() { Ok(()) } else { Err(WriteError::Refused { id: id.clone(), problems }) }
}

async fn pool(
    store: &dyn Backend,
    id: &ObjectId,
    new: &Json,
    old: Option<&Json>,
) -> Result<Vec<FieldError>, WriteError> {
    let mut problems = Vec::new();
    if let Some(old) = old {
        for field in ["cidr", "blockSize"] {
            let (was, is) = (old.pointer(&format!("/spec/{field}")), new.pointer(&format!("/spec/{field}")));
            if let Some(was) = was
                && is != Some(was)
            {
                let reason = format!("cannot be changed from {}; create another pool instead", plain(was));
                problems.push(FieldError::with_value(
                    format!("spec.{field}"),
                    is.map_or(String::new(), plain),
                    reason,
                ));
            }
        }
    }
    let text = text_at(new, "/spec/cidr");
    let Some(cidr) = network(text) else { return Ok(problems) };
    let others = store.list(&KeyRanges::prefix(id.kind.prefix(None))).await?;
    for entry in others.entries.iter().filter(|entry| entry.key != id.key().path()) {
        let Ok(other) = serde_json::from_slice::<Json>(&entry.value) else { continue };
        let Some(theirs) = network(text_at(&other, "/spec/cidr")) else { continue };
        if theirs.contains(&cidr) || cidr.contains(&theirs) {
            let name = text_at(&other, "/metadata/name");
            problems.push(FieldError::with_value(
                "spec.cidr",
                text,
                format!("overlaps with IPPool({name}) {theirs}"),
            ));
        }
    }
    Ok(problems)
}

async fn tier_of(store: &dyn Backend, policy: &Json) -> Result<Vec<FieldError>, WriteError> {
    let tier = text_at(policy, "/spec/tier");
    if tier.is_empty() || BUILT_IN_TIERS.contains(&tier) {
        return Ok(Vec::new());
    }
    let path = Key::resource(Kind::Tier, "", tier).path();
    Ok(match store.get(&path).await? {
        Some(_) => Vec::new(),
        None => vec![FieldError::with_value("spec.tier", tier, "there is no such tier; create it first")],
    })
}

/// Writes defaults into an object of Calico.
pub fn complete(_id: &ObjectId, _tree: &mut Json) -> Result<(), WriteError> {
    Ok(())
}

fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse().ok().map(|addr: std::net::IpAddr| addr.into()))
}

fn plain(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
