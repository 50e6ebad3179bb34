//! What an assignment depends on besides blocks: configuration, pools, reservations, labels.

use std::sync::Arc;

use crate::error::IpamError;
use crate::pools::{Labels, Pool};
use crate::reserve::Reservations;
use crate::store::{Config, Found, Item, Stored};

/// Everything but blocks, claims and handles that an assignment looks at.
///
/// A one-shot program lets each operation read it; an agent that watches the datastore builds
/// it when something changes and shares it among operations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Environment {
    /// The configuration, or the defaults.
    pub config: Config,
    /// All pools in name order, disabled ones included.
    pub pools: Vec<Arc<Pool>>,
    /// The union of the IPReservations.
    pub reservations: Reservations,
    /// The labels of the host; empty for a virtual owner.
    pub node: Arc<Labels>,
    /// The labels of the namespace; empty when it is unknown.
    pub namespace: Arc<Labels>,
}

impl Environment {
    /// The pool with the given prefix or address inside, enabled ones only.
    #[must_use]
    pub fn enabled_pool_of(&self, address: std::net::IpAddr) -> Option<&Arc<Pool>> {
        self.pools.iter().find(|pool| pool.enabled && pool.cidr.contains(&address))
    }

    /// Seconds a released address stays unused.
    #[must_use]
    pub fn cooldown(&self) -> i64 {
        i64::from(self.config.cooldown_seconds)
    }
}

/// Reads the configuration from an answer.
pub(crate) fn config_of(found: Option<Found>) -> Result<Config, IpamError> {
    match one(found)? {
        None => Ok(Config::default()),
        Some(Item { value: Stored::Config(config), .. }) => Ok(config),
        Some(item) => Err(unusable(item.value, "the IPAM configuration")),
    }
}

/// Reads the pools from an answer, in name order. Damaged ones are left out.
pub(crate) fn pools_of(found: Option<Found>) -> Result<Vec<Arc<Pool>>, IpamError> {
    let mut pools: Vec<Arc<Pool>> = many(found)?
        .iter()
        .filter_map(|item| match &item.value {
            Stored::Pool(pool) => Some(Arc::clone(pool)),
            _ => None,
        })
        .collect();
    pools.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(pools)
}

/// Reads the reservations from an answer.
pub(crate) fn reservations_of(found: Option<Found>) -> Result<Reservations, IpamError> {
    let items = many(found)?;
    let texts = items.iter().filter_map(|item| match &item.value {
        Stored::Reservation(texts) => Some(texts),
        _ => None,
    });
    Ok(Reservations::parse(texts.flat_map(|texts| texts.iter().map(String::as_str))))
}

/// Reads labels from an answer; `None` if the object does not exist.
pub(crate) fn labels_of(found: Option<Found>) -> Result<Option<Arc<Labels>>, IpamError> {
    match one(found)? {
        None => Ok(None),
        Some(Item { value: Stored::Labels(labels), .. }) => Ok(Some(labels)),
        Some(item) => Err(unusable(item.value, "the labels of an object")),
    }
}

/// The answer to a get.
pub(crate) fn one(found: Option<Found>) -> Result<Option<Item>, IpamError> {
    match found {
        Some(Found::One(item)) => Ok(item),
        _ => Err(IpamError::UnexpectedAnswer { expected: "one object" }),
    }
}

/// The answer to a list.
pub(crate) fn many(found: Option<Found>) -> Result<Arc<[Item]>, IpamError> {
    match found {
        Some(Found::Many(items)) => Ok(items),
        _ => Err(IpamError::UnexpectedAnswer { expected: "a list of objects" }),
    }
}

fn unusable(value: Stored, expected: &'static str) -> IpamError {
    match value {
        Stored::Damaged(error) => IpamError::Stored((*error).clone()),
        _ => IpamError::UnexpectedAnswer { expected },
    }
}
