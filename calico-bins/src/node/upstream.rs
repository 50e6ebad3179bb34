//! Where the agent's objects come from: from the datastore itself, or from a fan-out server between the two.
//!
//! Addresses are still assigned in the datastore itself, and the agent's own node is registered there: the fan-out
//! only takes the reading off it.

use std::collections::BTreeMap;
use std::sync::Arc;

use calico_datastore::{Datastore, SyncEvent, Syncer, SyncerOptions, bgp_view, felix_view};
use tokio::sync::mpsc;

/// Prefixes of the environment's names, the first wins.
const PREFIXES: [&str; 2] = ["FELIX_", "CALICO_"];

/// Fan-out servers and how to reach them: `--peers`, or Felix's `Typha…` parameters from its file or from `FELIX_TYPHA…`
/// and `CALICO_TYPHA…` variables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peers {
    /// Servers as `host:port`.
    pub servers: Vec<String>,
    settings: BTreeMap<&'static str, String>,
}

/// The parameters besides the address, without their prefix.
const NAMES: [&str; 7] = ["KEYFILE", "CERTFILE", "CAFILE", "CN", "URISAN", "READTIMEOUT", "WRITETIMEOUT"];

impl Peers {
    /// `named` are those of the command line, `parameters` the agent's own ones, `env` reads the environment.
    pub fn new(
        named: &[String],
        parameters: &BTreeMap<String, String>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Self {
        let find = |name: &str| {
            let name = format!("TYPHA{name}");
            let from_environment = || PREFIXES.iter().find_map(|prefix| env(&format!("{prefix}{name}")));
            let from_file = || {
                let mut all = parameters.iter();
                all.find(|(key, _)| key.eq_ignore_ascii_case(&name)).map(|(_, value)| value.clone())
            };
            let value = from_environment().or_else(from_file)?;
            // Felix's word for "as if it were not set".
            (!value.is_empty() && !value.eq_ignore_ascii_case("none")).then_some(value)
        };
        let list = |text: &str| {
            let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
            words.map(str::to_owned).collect::<Vec<_>>()
        };
        let servers = match named {
            [] => find("ADDR").map(|text| list(&text)).unwrap_or_default(),
            named => named.iter().flat_map(|text| list(text)).collect(),
        };
        let settings = NAMES.into_iter().filter_map(|name| Some((name, find(name)?))).collect();
        Self { servers, settings }
    }

    #[cfg(feature = "fanout")]
    fn get(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }
}

/// Starts following what the agent of `node` needs.
///
/// # Errors
/// Text for people: settings that do not fit together, unreadable certificates.
pub fn follow(
    store: Arc<dyn Datastore>,
    node: &str,
    peers: &Peers,
) -> Result<mpsc::Receiver<SyncEvent>, String> {
    if peers.servers.is_empty() {
        let view = felix_view().and(bgp_view(Some(node)));
        return Ok(Syncer::start(store, view, SyncerOptions::default()).into_events());
    }
    through(node, peers)
}

#[cfg(not(feature = "fanout"))]
fn through(_node: &str, peers: &Peers) -> Result<mpsc::Receiver<SyncEvent>, String> {
    Err(format!(
        "this program was built without the fan-out client and cannot follow {}; build it with --features fanout",
        peers.servers.join(", ")
    ))
}

#[cfg(feature = "fanout")]
fn through(node: &str, peers: &Peers) -> Result<mpsc::Receiver<SyncEvent>, String> {
    use calico_datastore::fanout::{ClientOptions, FanoutClient};
    use std::time::Duration;

    let seconds = |name: &str, default: Duration| match peers.get(name) {
        None => Ok(default),
        Some(text) => text
            .parse::<f64>()
            .ok()
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .filter(|time| !time.is_zero())
            .ok_or_else(|| format!("TYPHA{name} is {text:?}, must be a number of seconds above 0")),
    };
    // What this agent reads, all in one view and over one connection.
    let mut options = ClientOptions::new(peers.servers.clone(), "node");
    options.hostname = node.to_owned();
    options.read_timeout = seconds("READTIMEOUT", options.read_timeout)?;
    options.write_timeout = seconds("WRITETIMEOUT", options.write_timeout)?;
    options.tls = tls(peers)?;
    tracing::info!(servers = %peers.servers.join(", "), tls = options.tls.is_some(), "following a fan-out server");
    Ok(FanoutClient::start(options).map_err(|error| error.to_string())?.into_events())
}

#[cfg(feature = "fanout")]
fn tls(peers: &Peers) -> Result<Option<calico_datastore::fanout::TlsSettings>, String> {
    use calico_datastore::config::Pem;
    let file = |name: &str| peers.get(name).map(|path| Pem::File(path.into()));
    match (file("KEYFILE"), file("CERTFILE"), file("CAFILE")) {
        (None, None, None) => Ok(None),
        (Some(key), Some(cert), Some(ca)) => Ok(Some(calico_datastore::fanout::TlsSettings {
            cert,
            key,
            ca,
            peer_cn: peers.get("CN").map(str::to_owned),
            peer_uri: peers.get("URISAN").map(str::to_owned),
        })),
        _ => {
            Err("TLS to the fan-out needs TYPHAKEYFILE, TYPHACERTFILE and TYPHACAFILE; set all three or none"
                .to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(named: &[&str], file: &[(&str, &str)], env: &[(&str, &str)]) -> Peers {
        let named: Vec<String> = named.iter().map(|text| (*text).to_owned()).collect();
        let file = file.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Peers::new(&named, &file, |name| {
            env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_nearest_setting_wins() {
        let file = [("TyphaAddr", "f:1")];
        let env = [("CALICO_TYPHAADDR", "c:1"), ("FELIX_TYPHAADDR", "a:1, b:1")];
        assert_eq!(peers(&["x:1,y:1", "z:1"], &file, &env).servers, ["x:1", "y:1", "z:1"]);
        assert_eq!(peers(&[], &file, &env).servers, ["a:1", "b:1"]);
        assert_eq!(peers(&[], &file, &env[..1]).servers, ["c:1"]);
        assert_eq!(peers(&[], &file, &[]).servers, ["f:1"]);
        assert!(peers(&[], &file, &[("FELIX_TYPHAADDR", "none")]).servers.is_empty());
        assert!(peers(&[], &[], &[]).servers.is_empty());
    }

    #[cfg(feature = "fanout")]
    #[tokio::test]
    async fn settings_that_do_not_fit_are_refused() {
        let store = || -> Arc<dyn Datastore> {
            Arc::new(calico_datastore::Store::new(calico_datastore::MemoryStore::new()))
        };
        for (env, words) in [
            (&[("FELIX_TYPHAKEYFILE", "/k")][..], "all three"),
            (&[("FELIX_TYPHAREADTIMEOUT", "-1")], "TYPHAREADTIMEOUT"),
            (&[("FELIX_TYPHAREADTIMEOUT", "soon")], "TYPHAREADTIMEOUT"),
            (
                &[("FELIX_TYPHAKEYFILE", "/k"), ("FELIX_TYPHACERTFILE", "/c"), ("FELIX_TYPHACAFILE", "/a")],
                "common name",
            ),
        ] {
            let error = follow(store(), "n", &peers(&["a:1"], &[], env)).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
