//! Pools of addresses: no overlaps, nothing that would contradict the blocks that exist.

use std::time::Duration;

use calico_model::{AnyResource, IPPool, Key, Kind, Revision, Value};
use ipnet::IpNet;

use super::{Client, resource};
use crate::error::StoreError;
use crate::request::ListRequest;

/// Time for assignments that have read the pool as enabled to finish, before a pool goes away.
const DRAIN: Duration = Duration::from_millis(500);

fn network(pool: &IPPool) -> Result<IpNet, StoreError> {
    pool.spec.cidr.parse().map_err(|_| {
        let path = Key::resource(Kind::IPPool, "", pool.metadata.name.as_str()).path();
        StoreError::invalid(
            path,
            "spec.cidr",
            format!("{:?} is not a network such as 10.0.0.0/16", pool.spec.cidr),
        )
    })
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

fn refuse(pool: &IPPool, field: &str, reason: String) -> StoreError {
    StoreError::invalid(Key::resource(Kind::IPPool, "", pool.metadata.name.as_str()).path(), field, reason)
}

impl Client {
    /// A new pool must not overlap another one, nor blocks of another size.
    pub(super) async fn check_new_pool(&self, pool: &IPPool) -> Result<(), StoreError> {
        let cidr = network(pool)?;
        let list = self.store.list(&ListRequest::kind(Kind::IPPool).and(ListRequest::blocks())).await?;
        for pair in list.items {
            match (&pair.key, &pair.value) {
                (Key::Block(block), _) => {
                    let size = i32::from(block.cidr.prefix_len());
                    if overlap(&cidr, &block.cidr) && size != pool.spec.block_size {
                        let reason = format!(
                            "is {}, but the block {} is in use there; use {size}",
                            pool.spec.block_size, block.cidr
                        );
                        return Err(refuse(pool, "spec.blockSize", reason));
                    }
                }
                (Key::Resource(key), Value::Resource(other)) if key.name != pool.metadata.name => {
                    if let AnyResource::IPPool(other) = &**other
                        && let Ok(existing) = network(other)
                        && overlap(&cidr, &existing)
                    {
                        let reason = format!("{cidr} overlaps {existing} of the pool {}", key.name);
                        return Err(refuse(pool, "spec.cidr", reason));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes a pool out of use: nothing is assigned from it any more. First step of its removal; the affinities
    /// of its blocks can be released after it.
    pub async fn disable_pool(
        &self,
        name: &str,
        revision: Option<Revision>,
    ) -> Result<AnyResource, StoreError> {
        let mut pool = self.get(Kind::IPPool, "", name).await?;
        if let Some(revision) = revision {
            pool.metadata_mut().resource_version = revision.as_str().to_owned();
        }
        match &mut pool {
            AnyResource::IPPool(pool) if !pool.spec.disabled => pool.spec.disabled = true,
            _ => return Ok(pool),
        }
        let key = pool.key();
        let revision = Revision::new(pool.metadata().resource_version.clone());
        resource(self.store.update(key, pool.into(), revision).await?)
    }

    /// Disables a pool, lets assignments under way finish, deletes it. Blocks with addresses in use live on
    /// until their last address is released.
    pub(super) async fn delete_pool(
        &self,
        name: &str,
        revision: Option<Revision>,
    ) -> Result<AnyResource, StoreError> {
        let disabled = self.disable_pool(name, revision).await?;
        if tokio::runtime::Handle::try_current().is_ok() {
            tokio::time::sleep(DRAIN).await;
        } else {
            std::thread::sleep(DRAIN);
        }
        let revision = Revision::new(disabled.metadata().resource_version.clone());
        match self.store.delete(disabled.key(), Some(revision)).await? {
            Some(pair) => resource(pair),
            None => Ok(disabled),
        }
    }
}
