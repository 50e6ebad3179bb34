//! What the API of BGPPeer and BGPConfiguration has no field for: annotations that begin with
//! `bgp.projectcalico.org/`. Other implementations ignore them.
//!
//! | annotation | on | value |
//! |---|---|---|
//! | `bfd` | BGPPeer, BGPConfiguration `default` for the mesh | `300ms*3`: interval and packets that may be lost; `,multihop` for neighbours behind routers |
//! | `extended-next-hop` | BGPPeer | `true`: IPv4 routes with IPv6 next hops (RFC 8950), on a session over IPv6 both families |
//! | `max-prefixes` | BGPPeer | number of prefixes per family after which the session is closed |
//! | `node-mesh-filters` | BGPConfiguration `default` | BGPFilters for the sessions of the mesh, separated by commas |

use std::collections::BTreeMap;
use std::time::Duration;

use crate::bfd::BfdConfig;
use crate::config::PeerConfig;
use crate::wire::FamilySet;

/// What all annotations begin with.
const PREFIX: &str = "bgp.projectcalico.org/";

/// The readable annotations of an object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Extensions {
    bfd: Option<BfdConfig>,
    extended_next_hop: bool,
    max_prefixes: Option<u32>,
    pub(super) node_mesh_filters: Vec<String>,
    /// Annotation and what is wrong with it.
    pub(super) problems: Vec<(String, String)>,
}

impl Extensions {
    pub(super) fn read(annotations: &BTreeMap<String, String>) -> Self {
        let mut this = Extensions::default();
        for (key, value) in annotations {
            let Some(name) = key.strip_prefix(PREFIX) else { continue };
            let value = value.trim();
            let read = match name {
                "bfd" => parse_bfd(value).map(|bfd| this.bfd = Some(bfd)),
                "extended-next-hop" => value
                    .parse()
                    .map(|on| this.extended_next_hop = on)
                    .map_err(|_| format!("{value:?} is neither true nor false")),
                "max-prefixes" => value
                    .parse()
                    .map(|limit| this.max_prefixes = Some(limit))
                    .map_err(|_| format!("{value:?} is no number of prefixes")),
                "node-mesh-filters" => {
                    let names = value.split(',').map(str::trim).filter(|name| !name.is_empty());
                    this.node_mesh_filters = names.map(str::to_owned).collect();
                    Ok(())
                }
                _ => {
                    Err("is not known; bfd, extended-next-hop, max-prefixes and node-mesh-filters are".into())
                }
            };
            if let Err(text) = read {
                this.problems.push((format!("metadata.annotations[{key}]"), text));
            }
        }
        this
    }

    /// Applies what concerns one session.
    pub(super) fn apply(&self, config: &mut PeerConfig) {
        config.bfd = self.bfd;
        config.max_prefixes = self.max_prefixes;
        if self.extended_next_hop {
            config.extended_next_hop = true;
            config.families = FamilySet::ALL;
        }
    }
}

/// `300ms*3`, `300ms`, `50ms*5,multihop`.
fn parse_bfd(text: &str) -> Result<BfdConfig, String> {
    let wrong = || format!("{text:?} is not of the form 300ms*3 or 300ms*3,multihop");
    let (timing, multihop) = match text.split_once(',') {
        Some((timing, "multihop")) => (timing, true),
        Some(_) => return Err(wrong()),
        None => (text, false),
    };
    let (interval, multiplier) = timing.split_once('*').unwrap_or((timing, "3"));
    let interval: u64 = interval.strip_suffix("ms").and_then(|n| n.parse().ok()).ok_or_else(wrong)?;
    let multiplier: u8 = multiplier.parse().map_err(|_| wrong())?;
    if !(10..=60_000).contains(&interval) || multiplier == 0 {
        return Err(format!("{text:?}: the interval is 10ms to 60000ms, the multiplier 1 to 255"));
    }
    Ok(BfdConfig { interval: Duration::from_millis(interval), multiplier, multihop })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Extensions {
        let annotations = pairs.iter().map(|(k, v)| (format!("{PREFIX}{k}"), (*v).to_owned()));
        Extensions::read(&annotations.collect())
    }

    #[test]
    fn annotations_reach_the_session() {
        let mut config = PeerConfig::new("p", "fd00::2".parse().unwrap(), 64512, 65001);
        let extensions =
            read(&[("bfd", "50ms*5,multihop"), ("extended-next-hop", "true"), ("max-prefixes", "7")]);
        extensions.apply(&mut config);
        let interval = Duration::from_millis(50);
        assert_eq!(config.bfd, Some(BfdConfig { interval, multiplier: 5, multihop: true }));
        assert_eq!((config.max_prefixes, config.extended_next_hop), (Some(7), true));
        assert_eq!(config.families, FamilySet::ALL);
        assert_eq!(read(&[("node-mesh-filters", "a, b,")]).node_mesh_filters, ["a", "b"]);
    }

    #[test]
    fn what_cannot_be_read_is_named_and_changes_nothing() {
        for (key, value) in [
            ("bfd", "fast"),
            ("bfd", "300*3"),
            ("bfd", "300ms*0"),
            ("bfd", "9ms*3"),
            ("bfd", "300ms*3,direct"),
            ("extended-next-hop", "yes"),
            ("max-prefixes", "-1"),
            ("bdf", "300ms*3"),
        ] {
            let extensions = read(&[(key, value)]);
            assert_eq!(extensions.problems.len(), 1, "{key} {value}");
            assert_eq!(Extensions { problems: Vec::new(), ..extensions }, Extensions::default());
        }
        assert_eq!(Extensions::read(&[("other/bfd".into(), "x".into())].into()), Extensions::default());
    }
}
