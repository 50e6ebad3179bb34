//! Kubernetes object metadata.

use std::collections::BTreeMap;

use crate::Timestamp;
use crate::shape::object;

/// Labels or annotations: text to text, sorted.
pub type Labels = BTreeMap<String, String>;

object! {
    /// Metadata of an object (Kubernetes `ObjectMeta`).
    pub struct ObjectMeta {
        /// Name, unique within kind and namespace.
        name: String = "name",
        /// Prefix from which the server makes a name; Calico kinds do not support it on writes.
        generate_name: String = "generateName",
        /// Namespace; empty for cluster-scoped kinds.
        namespace: String = "namespace",
        /// Deprecated self link; kept, never written by us.
        self_link: String = "selfLink",
        /// Unique id given at creation.
        uid: String = "uid",
        /// Opaque version of the store, for compare-and-swap.
        resource_version: String = "resourceVersion",
        /// Generation of the spec, counted by the API server.
        generation: i64 = "generation",
        /// When the object was created.
        creation_timestamp: Option<Timestamp> = "creationTimestamp",
        /// When deletion was asked for; set while finalizers run.
        deletion_timestamp: Option<Timestamp> = "deletionTimestamp",
        /// Grace period of the deletion, seconds.
        deletion_grace_period_seconds: Option<i64> = "deletionGracePeriodSeconds",
        /// Labels.
        labels: Labels = "labels",
        /// Annotations.
        annotations: Labels = "annotations",
        /// Owners; the object goes when the last owner goes.
        owner_references: Vec<OwnerReference> = "ownerReferences",
        /// Parties that must act before the object disappears.
        finalizers: Vec<String> = "finalizers",
        /// Server-side-apply bookkeeping, kept as it is.
        managed_fields: Vec<serde_json::Value> = "managedFields",
    }

    /// Reference to an owner of an object.
    pub struct OwnerReference {
        /// API version of the owner.
        api_version: String = "apiVersion",
        /// Kind of the owner.
        kind: String = "kind",
        /// Name of the owner.
        name: String = "name",
        /// UID of the owner.
        uid: String = "uid",
        /// True for the managing controller.
        controller: Option<bool> = "controller",
        /// True when deletion of the owner waits for this object.
        block_owner_deletion: Option<bool> = "blockOwnerDeletion",
    }

    /// Metadata of a list.
    pub struct ListMeta {
        /// Revision of the list as a whole.
        resource_version: String = "resourceVersion",
        /// Token to fetch the next page; empty on the last.
        continue_token: String = "continue",
        /// How many items remain after this page.
        remaining_item_count: Option<i64> = "remainingItemCount",
        /// Deprecated self link.
        self_link: String = "selfLink",
    }
}
