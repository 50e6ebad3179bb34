//! The decision process (RFC 4271 section 9.1, RFC 4456 section 9, RFC 9494 section 4.3).

use std::cmp::Ordering;
use std::net::IpAddr;

use smallvec::SmallVec;

use super::attrs::{AttrStore, Hot};
use super::prefixes::{Path, PeerId};

/// What the decision needs to know about the peer of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PeerRank {
    pub(crate) external: bool,
    pub(crate) identifier: u32,
    pub(crate) address: IpAddr,
}

/// A path with everything that is compared.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    path: &'a Path,
    hot: &'a Hot,
    rank: PeerRank,
}

impl Candidate<'_> {
    fn long_lived(&self) -> bool {
        self.path.has(Path::LONG_LIVED) || self.hot.llgr_stale
    }

    /// Steps up to MULTI_EXIT_DISC. `Less` is better.
    fn before_med(&self, other: &Self) -> Ordering {
        other
            .hot
            .preference
            .cmp(&self.hot.preference)
            .then_with(|| self.long_lived().cmp(&other.long_lived()))
            .then_with(|| other.hot.local_pref.cmp(&self.hot.local_pref))
            .then_with(|| other.hot.local.cmp(&self.hot.local))
            .then_with(|| self.hot.hops.cmp(&other.hot.hops))
            .then_with(|| self.hot.origin.cmp(&other.hot.origin))
    }

    fn med(&self, other: &Self) -> Ordering {
        if self.hot.neighbour == other.hot.neighbour {
            self.hot.med.cmp(&other.hot.med)
        } else {
            Ordering::Equal
        }
    }

    /// Steps after MULTI_EXIT_DISC that still keep paths equal for multipath.
    fn after_med(&self, other: &Self) -> Ordering {
        other.rank.external.cmp(&self.rank.external).then_with(|| self.hot.cost.cmp(&other.hot.cost))
    }

    fn tie_break(&self, other: &Self) -> Ordering {
        let identifier = |c: &Self| if c.hot.originator != 0 { c.hot.originator } else { c.rank.identifier };
        identifier(self)
            .cmp(&identifier(other))
            .then_with(|| self.hot.clusters.cmp(&other.hot.clusters))
            .then_with(|| self.rank.address.cmp(&other.rank.address))
            .then_with(|| self.path.path_id.cmp(&other.path.path_id))
    }

    fn without_med(&self, other: &Self) -> Ordering {
        self.before_med(other).then_with(|| self.after_med(other)).then_with(|| self.tie_break(other))
    }

    fn with_med(&self, other: &Self) -> Ordering {
        self.before_med(other)
            .then_with(|| self.med(other))
            .then_with(|| self.after_med(other))
            .then_with(|| self.tie_break(other))
    }
}

fn candidate<'a>(
    path: &'a Path,
    attrs: &'a AttrStore,
    rank: &impl Fn(PeerId) -> Option<PeerRank>,
) -> Option<Candidate<'a>> {
    let hot = attrs.hot(path.attributes).filter(|hot| hot.reachable)?;
    Some(Candidate { path, hot, rank: rank(path.peer)? })
}

/// Whether a path may be used at all.
pub(crate) fn eligible(path: &Path, attrs: &AttrStore) -> bool {
    attrs.hot(path.attributes).is_some_and(|hot| hot.reachable)
}

/// The position of the best path. MULTI_EXIT_DISC is only compared among paths of one neighbour AS, so that the result
/// does not depend on the order of the paths: the best of every neighbour AS is found first, then the best of those.
pub(crate) fn select(
    paths: &[Path],
    attrs: &AttrStore,
    rank: &impl Fn(PeerId) -> Option<PeerRank>,
) -> Option<usize> {
    if let [only] = paths {
        return eligible(only, attrs).then_some(0);
    }
    let mut winners: SmallVec<[(usize, Candidate<'_>); 4]> = SmallVec::new();
    for (at, path) in paths.iter().enumerate() {
        let Some(new) = candidate(path, attrs, rank) else { continue };
        match winners.iter_mut().find(|(_, old)| old.hot.neighbour == new.hot.neighbour) {
            Some(old) if new.with_med(&old.1) == Ordering::Less => *old = (at, new),
            Some(_) => {}
            None => winners.push((at, new)),
        }
    }
    winners.iter().min_by(|(_, a), (_, b)| a.without_med(b)).map(|(at, _)| *at)
}

/// Paths that carry traffic together with the best one, which stands first: equal up to the cost of the next hop.
pub(crate) fn multipath<'a>(
    paths: &'a [Path],
    attrs: &'a AttrStore,
    rank: &'a impl Fn(PeerId) -> Option<PeerRank>,
) -> impl Iterator<Item = &'a Path> {
    let best = paths.first().and_then(|path| candidate(path, attrs, rank));
    paths.iter().filter(move |path| {
        let (Some(best), Some(other)) = (best, candidate(path, attrs, rank)) else { return false };
        best.before_med(&other) == Ordering::Equal
            && best.hot.med == other.hot.med
            && best.after_med(&other) == Ordering::Equal
    })
}
