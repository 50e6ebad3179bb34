//! The parameters of the agent itself: where they come from, and what of them is fixed while it runs.

use std::path::Path;

use calico_dataplane::driver::DriverConfig;
use calico_dataplane::manager::TunnelConfig;
use calico_datastore::{Datastore, ListRequest, StoreError};
use calico_model::config::{FelixConfig, Resolved, Source, Sources, Texts, from_environment, from_file};
use calico_model::{AnyResource, FelixConfiguration, Key, Kind, Labels, Value};

use super::settings::Settings;

/// Parameters from the file and the environment, which win over the store.
pub fn local(settings: &Settings) -> Texts {
    let variables: Vec<(String, String)> =
        std::env::vars().filter(|(name, _)| name != "FELIX_CONFIG").collect();
    let file = read(&settings.felix_config);
    merge(&file, variables.iter().map(|(name, value)| (name.as_str(), value.as_str())))
}

fn read(path: &Path) -> String {
    match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => {
            tracing::error!(file = %path.display(), %error, "cannot read the parameters; they are taken from elsewhere");
            String::new()
        }
    }
}

fn merge<'a>(file: &str, variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Texts {
    let mut merged = from_file(file);
    for (name, value) in from_environment(variables) {
        merged.retain(|known, _| !known.eq_ignore_ascii_case(&name));
        merged.insert(name, value);
    }
    merged
}

/// The effective parameters as the store has them now.
pub async fn effective(store: &dyn Datastore, node: &str, local: &Texts) -> Result<Resolved, StoreError> {
    let view = ListRequest::kind(Kind::FelixConfiguration).and(ListRequest::key(&Key::resource(
        Kind::Node,
        "",
        node,
    )));
    let mut labels = Labels::default();
    let mut resources: Vec<FelixConfiguration> = Vec::new();
    for pair in store.list(&view).await?.items {
        let Value::Resource(resource) = pair.value else { continue };
        match &*resource {
            AnyResource::FelixConfiguration(configuration) => resources.push((**configuration).clone()),
            AnyResource::Node(own) => labels = own.metadata.labels.clone(),
            _ => {}
        }
    }
    Ok(Sources::new()
        .with(Source::Environment, local.clone())
        .with_resources(node, &labels, &resources)
        .resolve())
}

/// Where a server listens: host and port.
pub type Place = (String, u16);

/// The parameters that the agent reads once. When one of them changes it starts again, in place: what is in the kernel
/// stays and is adopted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    /// What the dataplane driver is told.
    pub driver: DriverConfig,
    /// Where liveness and readiness are served (`HealthEnabled`).
    pub health: Option<Place>,
    /// Where metrics are served (`PrometheusMetricsEnabled`).
    pub metrics: Option<Place>,
}

impl Fixed {
    /// Picks them out of the effective parameters.
    pub fn of(config: &FelixConfig, node: &str, bgp: bool) -> Self {
        let port = |number: i64| u16::try_from(number).unwrap_or_default();
        let mtu = |number: i64| u32::try_from(number).ok().filter(|mtu| *mtu > 0);
        let tunnels = TunnelConfig {
            vxlan_vni: u32::try_from(config.vxlan_vni).unwrap_or(4096),
            vxlan_port: port(config.vxlan_port),
            vxlan_mtu: mtu(config.vxlan_mtu),
            vxlan_mtu_v6: mtu(config.vxlan_mtu_v6),
            ipip_mtu: mtu(config.ipip_mtu),
            program_ipip: matches!(config.program_cluster_routes, "Enabled" | "EnabledIPIPOnly"),
            program_no_encap: matches!(config.program_cluster_routes, "Enabled" | "EnabledNoEncapOnly"),
            ..TunnelConfig::new(node)
        };
        Self {
            driver: DriverConfig {
                interface_prefixes: config.interface_prefix.split(',').map(str::to_owned).collect(),
                ipv6: config.ipv6_support,
                ip_forwarding: config.ip_forwarding == "Enabled",
                refresh: Some(config.route_refresh_interval).filter(|every| !every.is_zero()),
                own_bgp_routes: bgp,
                tunnels: Some(tunnels),
                ..DriverConfig::default()
            },
            health: config.health_enabled.then(|| (config.health_host.clone(), port(config.health_port))),
            metrics: config
                .prometheus_metrics_enabled
                .then(|| (config.prometheus_metrics_host.clone(), port(config.prometheus_metrics_port))),
        }
    }

    /// The same from parameters that were resolved before, as the policy graph reports them.
    pub fn of_texts(texts: &Texts, node: &str, bgp: bool) -> Self {
        let resolved = Sources::new().with(Source::Override, texts.clone()).resolve();
        Self::of(&resolved.config, node, bgp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_wins_over_the_file_whatever_the_case() {
        let merged =
            merge("[global]\nHealthEnabled = false\nVXLANPort = 4799\n", [("FELIX_HEALTHENABLED", "true")]);
        let fixed = Fixed::of_texts(&merged, "n", true);
        assert_eq!(fixed.health, Some(("localhost".to_owned(), 9099)));
        assert_eq!(fixed.driver.tunnels.map(|tunnels| tunnels.vxlan_port), Some(4799));
        assert_eq!(fixed.metrics, None);
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let fixed = Fixed::of(&FelixConfig::default(), "n", true);
        let expected = DriverConfig { tunnels: Some(TunnelConfig::new("n")), ..DriverConfig::default() };
        assert_eq!(fixed, Fixed { driver: expected, health: None, metrics: None });
    }

    #[test]
    fn only_what_is_fixed_asks_for_a_new_start() {
        let of = |name: &str, value: &str| {
            Fixed::of_texts(&Texts::from([(name.to_owned(), value.to_owned())]), "n", true)
        };
        assert_eq!(of("LogPrefix", "x"), Fixed::of(&FelixConfig::default(), "n", true));
        assert_ne!(of("InterfacePrefix", "tap"), Fixed::of(&FelixConfig::default(), "n", true));
        assert_ne!(of("Ipv6Support", "false"), Fixed::of(&FelixConfig::default(), "n", true));
    }
}
