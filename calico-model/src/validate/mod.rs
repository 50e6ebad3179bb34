//! The rules that objects of every kind must follow, in one table for all stores.
//!
//! All problems of an object are reported at once, each with the path of its field. The rules hold for kinds that have
//! no custom resource too (Profile, Node, WorkloadEndpoint).

mod bgp;
mod check;
mod cluster;
mod endpoint;
mod felix;
mod meta;
mod node;
mod policy;
mod pool;
mod rule;
mod update;

pub use check::Check;
pub use meta::{is_label_value, is_name, is_qualified_name, is_tier_name};
pub use pool::overlapping_pools;
pub use update::problems_of_update;

use crate::AnyResource;
use crate::error::{FieldError, ModelError};

/// Every problem of an object, in the order of its fields. Empty when it is valid.
///
/// ```
/// use calico_model::{AnyResource, decode::Mode, validate};
/// let tree = serde_json::json!({
///     "apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy", "metadata": {"name": "Web", "namespace": "prod"},
///     "spec": {"selector": "role = 'x'", "ingress": [{"action": "Allow", "source": {"ports": [80]}}]}
/// });
/// let policy = AnyResource::read(tree, Mode::Strict).unwrap();
/// let problems: Vec<String> = validate::problems(&policy).iter().map(ToString::to_string).collect();
/// assert_eq!(problems, [
///     "metadata.name: must consist of lower-case letters, digits and '-', with at most one '.' inside (got \"Web\")",
///     "spec.selector: column 6: a lone `=` is not an operator; did you mean `==`? (got \"role = 'x'\")",
///     "spec.ingress[0].source.ports: numbers need protocol TCP, UDP or SCTP in the rule",
/// ]);
/// ```
pub fn problems(resource: &AnyResource) -> Vec<FieldError> {
    let mut c = Check::new();
    meta::metadata(&mut c, resource);
    match resource {
        AnyResource::NetworkPolicy(p) => c.field("spec", |c| policy::network_policy(c, &p.spec)),
        AnyResource::GlobalNetworkPolicy(p) => c.field("spec", |c| policy::global_policy(c, &p.spec)),
        AnyResource::StagedNetworkPolicy(p) => c.field("spec", |c| policy::staged_policy(c, &p.spec)),
        AnyResource::StagedGlobalNetworkPolicy(p) => {
            c.field("spec", |c| policy::staged_global_policy(c, &p.spec));
        }
        AnyResource::StagedKubernetesNetworkPolicy(p) => policy::staged_kubernetes_policy(&mut c, p),
        AnyResource::Tier(t) => policy::tier(&mut c, t),
        AnyResource::Profile(p) => c.field("spec", |c| policy::profile(c, &p.spec)),
        AnyResource::NetworkSet(s) => c.field("spec", |c| endpoint::network_set(c, &s.spec.nets)),
        AnyResource::GlobalNetworkSet(s) => c.field("spec", |c| endpoint::network_set(c, &s.spec.nets)),
        AnyResource::HostEndpoint(h) => c.field("spec", |c| endpoint::host_endpoint(c, &h.spec)),
        AnyResource::WorkloadEndpoint(w) => endpoint::workload_endpoint(&mut c, w),
        AnyResource::IPPool(p) => c.field("spec", |c| pool::pool(c, &p.spec)),
        AnyResource::IPReservation(r) => c.field("spec", |c| pool::reservation(c, &r.spec)),
        AnyResource::IPAMConfiguration(i) => c.field("spec", |c| pool::ipam_configuration(c, &i.spec)),
        AnyResource::BlockAffinity(b) => c.field("spec", |c| pool::block_affinity(c, &b.spec)),
        AnyResource::IPAMBlock(b) => c.field("spec", |c| pool::block(c, &b.spec)),
        AnyResource::BGPConfiguration(b) => bgp::configuration(&mut c, b),
        AnyResource::BGPPeer(p) => c.field("spec", |c| bgp::peer(c, &p.spec)),
        AnyResource::BGPFilter(f) => c.field("spec", |c| bgp::filter(c, &f.spec)),
        AnyResource::Node(n) => node::node(&mut c, n),
        AnyResource::CalicoNodeStatus(s) => c.field("spec", |c| node::status(c, &s.spec)),
        AnyResource::FelixConfiguration(f) => felix::felix(&mut c, f),
        AnyResource::ClusterInformation(i) => c.field("spec", |c| cluster::information(c, &i.spec)),
        AnyResource::KubeControllersConfiguration(k) => c.field("spec", |c| cluster::controllers(c, &k.spec)),
        AnyResource::LiveMigration(l) => c.field("spec", |c| cluster::live_migration(c, &l.spec)),
        AnyResource::IPAMConfig(_) | AnyResource::IPAMHandle(_) => {}
    }
    c.finish()
}

/// [`problems`] as a result.
pub fn check(resource: &AnyResource) -> Result<(), ModelError> {
    let problems = problems(resource);
    if problems.is_empty() {
        return Ok(());
    }
    let m = resource.metadata();
    let what = match m.namespace.as_str() {
        "" => format!("{} {}", resource.kind(), m.name),
        ns => format!("{} {ns}/{}", resource.kind(), m.name),
    };
    Err(ModelError::Fields { what, problems })
}
