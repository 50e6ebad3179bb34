//! Splitting a pool into equal parts. Blocks survive, as their size stays.

use calico_model::IPPool;
use ipnet::IpNet;

use crate::range::Family;

/// Why a pool cannot be split.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SplitError {
    /// The number of parts.
    #[error("a pool is split into 2, 4, 8 ... parts, not {parts}")]
    Parts {
        /// The number asked for.
        parts: u32,
    },
    /// The pool's network cannot be read.
    #[error("pool {pool}: spec.cidr {cidr:?} is not a CIDR")]
    Cidr {
        /// The pool.
        pool: String,
        /// What it says.
        cidr: String,
    },
    /// The parts would be smaller than a block.
    #[error("pool {pool}: {parts} parts of /{length} are smaller than its blocks of /{block_size}")]
    TooSmall {
        /// The pool.
        pool: String,
        /// The number asked for.
        parts: u32,
        /// Length of a part.
        length: u32,
        /// Length of a block.
        block_size: u8,
    },
    /// Addresses could be assigned while the pool is split.
    #[error("lock the datastore first: calicoctl datastore migrate lock")]
    NotLocked,
}

/// The pools that take the place of `pool`, in address order, named `split-<pool>-<i>`.
///
/// The caller disables the old pool, creates these without the usual checks for overlap and
/// existing blocks, and deletes the old one without touching its blocks, in this order.
///
/// # Errors
/// See [`SplitError`].
pub fn split(pool: &IPPool, parts: u32, datastore_locked: bool) -> Result<Vec<IPPool>, SplitError> {
    let name = &pool.metadata.name;
    if parts < 2 || !parts.is_power_of_two() {
        return Err(SplitError::Parts { parts });
    }
    if !datastore_locked {
        return Err(SplitError::NotLocked);
    }
    let cidr: IpNet = pool
        .spec
        .cidr
        .parse()
        .map_err(|_| SplitError::Cidr { pool: name.clone(), cidr: pool.spec.cidr.clone() })?;
    let family = Family::of_net(&cidr);
    let block_size = match u8::try_from(pool.spec.block_size) {
        Ok(size) if size > 0 => size,
        _ => match family {
            Family::V4 => 26,
            Family::V6 => 122,
        },
    };
    let length = u32::from(cidr.prefix_len()) + parts.trailing_zeros();
    let part_length = u8::try_from(length).ok().filter(|length| *length <= block_size);
    let Some(part_length) = part_length else {
        return Err(SplitError::TooSmall { pool: name.clone(), parts, length, block_size });
    };
    let (first, _) = crate::range::bounds(&cidr.trunc());
    let shift = u32::from(family.bits() - part_length);
    Ok((0..parts)
        .map(|at| {
            let start = first + u128::from(at).checked_shl(shift).unwrap_or(0);
            let mut spec = pool.spec.clone();
            spec.cidr = crate::range::net(family, start, part_length).to_string();
            let mut part = IPPool::new(format!("split-{name}-{at}"), spec);
            part.metadata.labels.clone_from(&pool.metadata.labels);
            part.metadata.annotations.clone_from(&pool.metadata.annotations);
            part
        })
        .collect())
}
