//! A route inside the speaker: path attributes plus what is only known here.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::LocalRoute;
use crate::policy::{BGP_PREFERENCE, DEFAULT_LOCAL_PREF, local_pref_of_metric};
use crate::wire::PathAttributes;

/// Everything that distinguishes one way to a prefix from another, apart from the prefix and the peer. Values are
/// interned: a million prefixes with two thousand different values hold two thousand of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct RouteAttributes {
    /// What stands in UPDATEs.
    pub path: PathAttributes,
    /// Administrative preference, compared before everything else; higher wins.
    pub preference: u32,
    /// Set for routes that begin here.
    pub local: Option<Arc<LocalRoute>>,
}

impl RouteAttributes {
    /// A route learned by BGP.
    pub fn learned(path: PathAttributes) -> Self {
        RouteAttributes { path, preference: BGP_PREFERENCE, local: None }
    }

    /// A route that begins here.
    pub fn local(route: &LocalRoute) -> Self {
        RouteAttributes {
            path: PathAttributes::default(),
            preference: route.source.preference(),
            local: Some(Arc::new(route.clone())),
        }
    }

    /// The outgoing interface, when it is known.
    pub fn interface(&self) -> Option<&str> {
        self.local.as_ref()?.interface.as_deref()
    }

    /// The next hop, when there is one.
    pub fn next_hop(&self) -> Option<IpAddr> {
        self.path.next_hop.map(|hop| hop.address())
    }

    /// LOCAL_PREF: of the metric for a local route, as received or the default for a learned one.
    pub fn local_pref(&self, normal_priority: u32) -> u32 {
        match &self.local {
            Some(local) => local_pref_of_metric(local.metric.unwrap_or(normal_priority)),
            None => self.path.local_pref.unwrap_or(DEFAULT_LOCAL_PREF),
        }
    }
}
