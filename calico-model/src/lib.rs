//! Calico's resource model: kinds, defaults, validation, datastore keys and Kubernetes conversions.
//!
//! Everything that reads or writes Calico objects can start here, alone: no I/O, no clock, no threads.
//!
//! ```
//! use calico_model::{AnyResource, Key, Kind, decode::Mode, defaults, validate};
//!
//! let tree = serde_json::json!({
//!     "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "blue"},
//!     "spec": {"cidr": "10.1.0.7/16", "ipipMode": "Always", "vxlanMode": "Always"}
//! });
//! let mut pool = AnyResource::read(tree, Mode::Strict)?;
//! defaults::apply(&mut pool);
//! let problems: Vec<String> = validate::problems(&pool).iter().map(|p| p.path.clone()).collect();
//! assert_eq!(problems, ["spec.ipipMode", "spec.cidr"]);
//! assert_eq!(pool.key(), Key::resource(Kind::IPPool, "", "blue"));
//! # Ok::<(), calico_model::ModelError>(())
//! ```
//!
//! | to | use |
//! |---|---|
//! | read and write objects, nothing lost | [`AnyResource`], [`Resource`], [`decode`] |
//! | name an object in any store, and its value there | [`Key`], [`Value`], [`Update`] |
//! | fill in defaults, find every mistake | [`defaults`], [`validate`] |
//! | order tiers and policies, compute names | [`order`], [`names`] |
//! | take over Kubernetes objects, store as custom resources | [`k8s`] |
//! | decide the configuration of an agent | [`config`] |
//! | print custom resource definitions | [`crd`] |
//!
//! The feature `kubernetes`, on by default, adds the names that need SHA-1 and SHA-3: interfaces of pods and labels of
//! claims on blocks.

#![forbid(unsafe_code)]

mod any;
mod asn;
pub mod config;
pub mod crd;
pub mod decode;
pub mod defaults;
mod dscp;
mod duration;
mod envelope;
pub mod error;
mod fault;
pub mod k8s;
pub mod key;
mod key_parse;
mod kind;
mod meta;
#[cfg_attr(not(feature = "kubernetes"), allow(dead_code, unused_imports))]
pub mod names;
pub mod net;
pub mod order;
mod port;
mod protocol;
pub mod resource;
pub mod shape;
mod time;
pub mod validate;
mod value;

pub use any::*;
pub use asn::{ASNumber, ASNumberError};
pub use dscp::{DSCP_NAMES, Dscp, DscpError};
pub use duration::{DurationError, GoDuration};
pub use envelope::{API_VERSION, CRD_V1_API_VERSION, Resource, Spec};
pub use error::{FieldError, ModelError};
pub use key::{
    AffinityType, BlockAffinityKey, BlockKey, IpamHandleKey, IpamHostKey, Key, KubernetesKey, KubernetesKind,
    ResourceKey, WorkloadEndpointKey,
};
pub use key_parse::KeyError;
pub use kind::{Kind, Scope, UnknownKind};
pub use meta::{Labels, ListMeta, ObjectMeta, OwnerReference};
pub use port::{Port, PortError};
pub use protocol::{PROTOCOL_NAMES, Protocol};
pub use resource::bgp::*;
pub use resource::cluster::*;
pub use resource::controllers::*;
pub use resource::endpoint::*;
pub use resource::felix::*;
pub use resource::ip_pool::*;
pub use resource::ipam::*;
pub use resource::live_migration::*;
pub use resource::network_set::*;
pub use resource::node::*;
pub use resource::node_status::*;
pub use resource::policy::*;
pub use resource::tier::*;
pub use time::{Timestamp, TimestampError};
pub use value::{Revision, Update, Value};
