//! How a route looks to a group of peers: who may see it (RFC 4271 section 9.2, RFC 4456, RFC 1997), what the policy
//! says, and how the attributes change on the way out.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use smallvec::SmallVec;

use super::prefixes::{Path, PeerId};
use crate::config::NextHopMode;
use crate::policy::{DEFAULT_LOCAL_PREF, Edits, ExportPolicy, NORMAL_PRIORITY, RouteView, Verdict};
use crate::route::RouteAttributes;
use crate::wire::iana::community;
use crate::wire::{Family, NextHop, SessionParams};

/// Everything that what is sent depends on. Peers with equal profiles form an update group.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ExportProfile {
    pub(crate) params: SessionParams,
    pub(crate) local_as: u32,
    /// The peers are clients of this reflector.
    pub(crate) client: bool,
    /// Our cluster identifier, when this node reflects.
    pub(crate) cluster_id: Option<Ipv4Addr>,
    pub(crate) next_hop: NextHopMode,
    /// Our own addresses as next hops.
    pub(crate) own_v4: Option<Ipv4Addr>,
    pub(crate) own_v6: Option<NextHop>,
    /// The peers understand long-lived graceful restart.
    pub(crate) long_lived: bool,
    pub(crate) normal_priority: u32,
    pub(crate) policy: Arc<ExportPolicy>,
}

/// Where a route comes from, as far as export depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Source {
    pub(crate) peer: PeerId,
    pub(crate) kind: SourceKind,
    pub(crate) identifier: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum SourceKind {
    Local,
    External,
    Internal { client: bool },
}

impl ExportProfile {
    /// Whether a route of this source goes to such peers at all, apart from policy.
    fn may_see(&self, source: SourceKind, route: &RouteAttributes, path: &Path) -> bool {
        if let SourceKind::Internal { client } = source
            && self.params.ibgp
            && (self.cluster_id.is_none() || !(client || self.client))
        {
            return false;
        }
        let has = |value| route.path.has_community(value);
        if has(community::NO_ADVERTISE) {
            return false;
        }
        if !self.params.ibgp && (has(community::NO_EXPORT) || has(community::NO_EXPORT_SUBCONFED)) {
            return false;
        }
        let long_lived = path.has(Path::LONG_LIVED) || has(community::LLGR_STALE);
        !long_lived || self.long_lived
    }

    /// Judges a route; the edits go to [`ExportProfile::transform`].
    pub(crate) fn judge(
        &self,
        prefix: ipnet::IpNet,
        source: SourceKind,
        route: &RouteAttributes,
        path: &Path,
    ) -> Option<Edits> {
        if !self.may_see(source, route, path) {
            return None;
        }
        let local_pref = route.local_pref(self.normal_priority);
        let view = RouteView { prefix, route, local_pref, internal: self.params.ibgp };
        match self.policy.evaluate(&view) {
            Verdict::Accept(edits) => Some(edits),
            Verdict::Reject => None,
        }
    }

    /// The attributes that are sent; `None` when the session cannot carry a next hop for the family.
    pub(crate) fn transform(
        &self,
        family: Family,
        source: Source,
        route: &RouteAttributes,
        edits: &Edits,
        long_lived: bool,
    ) -> Option<RouteAttributes> {
        let mut out = RouteAttributes { path: route.path.clone(), preference: 0, local: None };
        out.path.next_hop = Some(self.next_hop_for(family, source.kind, route)?);
        if self.params.ibgp {
            let local_pref = match source.kind {
                SourceKind::Local => route.local_pref(self.normal_priority),
                _ => route.path.local_pref.unwrap_or(DEFAULT_LOCAL_PREF),
            };
            out.path.local_pref = Some(local_pref);
            if let (SourceKind::Internal { .. }, Some(cluster)) = (source.kind, self.cluster_id) {
                out.path.originator.get_or_insert(Ipv4Addr::from(source.identifier));
                out.path.cluster_list.insert(0, u32::from(cluster));
            }
            edits.apply(&mut out);
        } else {
            edits.apply(&mut out);
            out.path.as_path = out.path.as_path.prepend(&[self.local_as]);
            out.path.local_pref = None;
            out.path.originator = None;
            out.path.cluster_list = SmallVec::new();
            // MULTI_EXIT_DISC says something to the neighbour AS only; one from elsewhere is reset, as BIRD does.
            out.path.med = out.path.med.map(|_| 0);
        }
        if long_lived {
            out.path.add_community(community::LLGR_STALE);
        }
        Some(out)
    }

    fn next_hop_for(&self, family: Family, source: SourceKind, route: &RouteAttributes) -> Option<NextHop> {
        let own = || match family {
            Family::Ipv4 => match self.own_v4 {
                Some(address) => Some(NextHop::V4(address)),
                None => self.own_v6.filter(|_| self.params.extended_next_hop),
            },
            Family::Ipv6 => self.own_v6,
        };
        let carried = |hop: NextHop| match (family, hop) {
            (Family::Ipv4, NextHop::V4(_)) => true,
            (Family::Ipv4, NextHop::V6 { .. }) => self.params.extended_next_hop,
            (Family::Ipv6, hop) => matches!(hop, NextHop::V6 { .. }),
        };
        // A link-local address means nothing beyond the link it was learned on.
        let kept = route.path.next_hop.filter(|hop| carried(*hop)).map(|hop| match hop {
            NextHop::V6 { global, .. } => NextHop::V6 { global, link_local: None },
            hop => hop,
        });
        let gateway = || {
            let gateway: Option<IpAddr> = route.local.as_ref().and_then(|local| local.gateway);
            gateway.map(NextHop::from).filter(|hop| carried(*hop))
        };
        match (self.next_hop, source) {
            (NextHopMode::SelfAddress, _) => own(),
            (NextHopMode::Keep, SourceKind::Local) => gateway().or_else(own),
            (NextHopMode::Keep, _) => kept.or_else(own),
            (NextHopMode::Auto, SourceKind::Local) => {
                if self.params.ibgp {
                    gateway().or_else(own)
                } else {
                    own()
                }
            }
            (NextHopMode::Auto, _) => {
                if self.params.ibgp {
                    kept.or_else(own)
                } else {
                    own()
                }
            }
        }
    }
}

impl Default for ExportProfile {
    fn default() -> Self {
        ExportProfile {
            params: SessionParams::default(),
            local_as: 0,
            client: false,
            cluster_id: None,
            next_hop: NextHopMode::Auto,
            own_v4: None,
            own_v6: None,
            long_lived: false,
            normal_priority: NORMAL_PRIORITY,
            policy: Arc::new(ExportPolicy::default()),
        }
    }
}
