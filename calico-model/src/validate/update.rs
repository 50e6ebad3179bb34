//! Rules about the change from one version of an object to the next.

use crate::AnyResource;
use crate::defaults;
use crate::error::FieldError;
use crate::net;
use crate::resource::ip_pool::AllowedUse;

use super::Check;

/// Problems of replacing `old` by `new` (both with defaults applied), beyond those of `new` itself.
///
/// ```
/// use calico_model::{AnyResource, IPPool, IPPoolSpec, validate};
/// let pool = |cidr: &str| AnyResource::from(IPPool::new("a", IPPoolSpec { cidr: cidr.into(), ..Default::default() }));
/// let problems = validate::problems_of_update(&pool("10.0.0.0/16"), &pool("10.1.0.0/16"));
/// assert_eq!(problems[0].path, "spec.cidr");
/// // The same network in canonical spelling is no change.
/// assert!(validate::problems_of_update(&pool("fd00:0::/64"), &pool("fd00::/64")).is_empty());
/// ```
pub fn problems_of_update(old: &AnyResource, new: &AnyResource) -> Vec<FieldError> {
    let mut c = Check::new();
    if old.kind() != new.kind() {
        c.field("kind", |c| c.bad(new.kind(), "cannot be changed"));
    }
    if let (AnyResource::IPPool(old), AnyResource::IPPool(new)) = (old, new) {
        let (old, new) = (&old.spec, &new.spec);
        c.field("spec", |c| {
            let same = old.cidr == new.cidr
                || matches!((net::cidr(&old.cidr), net::cidr(&new.cidr)), (Ok(a), Ok(b)) if a.trunc() == b.trunc());
            if !same {
                c.field("cidr", |c| {
                    c.bad(&new.cidr, "cannot be changed; create a second pool, disable this one and move the pods");
                });
            }
            let size = |cidr: &str, size: i32| if size == 0 { defaults::block_size(cidr.contains(':')) } else { size };
            if size(&old.cidr, old.block_size) != size(&new.cidr, new.block_size) {
                c.field("blockSize", |c| {
                    c.bad(new.block_size, "cannot be changed; create a second pool, disable this one and move the pods");
                });
            }
            let load_balancer = |uses: &[AllowedUse]| uses.contains(&AllowedUse::LoadBalancer);
            if load_balancer(&old.allowed_uses) && !load_balancer(&new.allowed_uses) {
                c.field("allowedUses", |c| c.problem("cannot be changed from LoadBalancer to another use"));
            }
        });
    }
    c.finish()
}
