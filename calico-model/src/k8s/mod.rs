//! Kubernetes objects as far as Calico reads them, and what they become.
//!
//! | Kubernetes | Calico | by |
//! |---|---|---|
//! | Namespace, ServiceAccount | Profile | [`profile`] |
//! | Pod | WorkloadEndpoint | [`pod`] |
//! | NetworkPolicy | NetworkPolicy | [`policy`] |
//! | ClusterNetworkPolicy | GlobalNetworkPolicy | [`cluster_policy`] |
//! | Node | Node, by annotations, both ways | [`node`] |
//! | custom resources of both API groups | every kind, both ways | [`custom_resource`] |
//!
//! [`Derive`] does the first four to a stream of updates.

pub mod cluster_policy;
#[cfg_attr(not(feature = "kubernetes"), allow(dead_code, unused_imports))]
pub mod custom_resource;
mod derive;
pub mod networking;
pub mod node;
pub mod object;
#[cfg_attr(not(feature = "kubernetes"), allow(dead_code, unused_imports))]
pub mod pod;
pub mod policy;
pub mod profile;
pub mod qos;
pub mod types;

pub use derive::Derive;
pub use object::KubernetesObject;

use crate::error::FieldError;

/// A converted object and what could not be converted as meant. The object is safe to use: a part that cannot be
/// understood never lets more traffic pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Converted<T> {
    /// The object.
    pub object: T,
    /// Problems, by path in the Kubernetes object.
    pub problems: Vec<FieldError>,
}
