//! Kubernetes objects, as far as Calico reads them.

pub mod networking;
pub mod object;
pub mod types;

pub use object::KubernetesObject;
