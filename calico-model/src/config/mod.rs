//! Felix configuration: every parameter with type and default, and which source wins.
//!
//! From strongest to weakest: an internal override, the environment, the file, the resource of the node, the resource
//! selected for the node, the resource `default`, the built-in default. A value that cannot be used is reported, and the
//! next source counts.

mod parameters;
mod parse;
mod source;

pub use parameters::{FelixConfig, PARAMETERS, Parameter, Unit};
pub(crate) use source::text_of;
pub use source::{
    ANNOTATION_PREFIX, ENVIRONMENT_PREFIX, Texts, from_annotations, from_environment, from_file,
    from_resource, from_spec,
};

use std::collections::BTreeMap;
use std::fmt;

use calico_selector::Selector;

use crate::{FelixConfiguration, Labels};

/// Where a value comes from, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Built in.
    Default,
    /// The resource `default`.
    Global,
    /// The resource that selects the node.
    Selected,
    /// The resource `node.<name>`.
    Node,
    /// The file.
    File,
    /// The environment.
    Environment,
    /// The program itself.
    Override,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "built-in default",
            Self::Global => "FelixConfiguration default",
            Self::Selected => "selected FelixConfiguration",
            Self::Node => "FelixConfiguration of the node",
            Self::File => "configuration file",
            Self::Environment => "environment",
            Self::Override => "internal override",
        })
    }
}

/// A value that was not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Name of the parameter.
    pub parameter: &'static str,
    /// Where the value stands.
    pub source: Source,
    /// The value.
    pub value: String,
    /// What is wrong with it.
    pub reason: String,
    /// Whose value is used instead.
    pub used: Source,
    /// True when the program must not start with it.
    pub fatal: bool,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { parameter, source, value, reason, used, .. } = self;
        write!(f, "{parameter} = {value:?} in {source}: {reason}; the value of the {used} is used")
    }
}

/// What came out of all sources.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// Effective values.
    pub config: FelixConfig,
    /// Source and text of every parameter that is not at its default.
    pub origins: BTreeMap<&'static str, (Source, String)>,
    /// Values that were not used.
    pub rejected: Vec<Rejected>,
    /// Parameters that are not known; for external dataplane drivers.
    pub unknown: Texts,
}

/// All sources of one node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sources {
    texts: BTreeMap<Source, Texts>,
}

impl Sources {
    /// No source at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds (or replaces) a source.
    #[must_use]
    pub fn with(mut self, source: Source, texts: Texts) -> Self {
        self.texts.insert(source, texts);
        self
    }

    /// Adds the resources that concern a node.
    #[must_use]
    pub fn with_resources<'a>(
        mut self,
        node: &str,
        node_labels: &Labels,
        resources: impl IntoIterator<Item = &'a FelixConfiguration> + Clone,
    ) -> Self {
        let own = format!("node.{node}");
        for r in resources.clone() {
            match r.metadata.name.as_str() {
                "default" => self.texts.insert(Source::Global, from_resource(r)),
                name if name == own => self.texts.insert(Source::Node, from_resource(r)),
                _ => None,
            };
        }
        if let Some(r) = selected(node_labels, resources) {
            self.texts.insert(Source::Selected, from_spec(&r.spec));
        }
        self
    }

    /// Decides.
    ///
    /// ```
    /// use calico_model::config::{Source, Sources, from_environment, from_file};
    /// let resolved = Sources::new()
    ///     .with(Source::Environment, from_environment([("FELIX_VXLANPORT", "0x12"), ("FELIX_HealthEnabled", "true")]))
    ///     .with(Source::File, from_file("[global]\nVXLANPort = 4799\n"))
    ///     .resolve();
    /// assert_eq!(resolved.config.vxlan_port, 4799);
    /// assert!(resolved.config.health_enabled);
    /// assert_eq!(resolved.rejected[0].to_string(), "VXLANPort = \"0x12\" in environment: must be a whole number; \
    ///     the value of the configuration file is used");
    /// ```
    pub fn resolve(&self) -> Resolved {
        let mut resolved = Resolved {
            config: FelixConfig::default(),
            origins: BTreeMap::new(),
            rejected: Vec::new(),
            unknown: Texts::new(),
        };
        // Candidates by name of the parameter, weakest first.
        let mut candidates: BTreeMap<&'static str, Vec<(Source, &str)>> = BTreeMap::new();
        for (source, texts) in &self.texts {
            for (name, text) in texts.iter().filter(|(_, t)| !t.trim().is_empty()) {
                match Parameter::find(name) {
                    Some(p) if p.is_local() && (Source::Global..=Source::Node).contains(source) => {}
                    Some(p) => candidates.entry(p.name).or_default().push((*source, text.trim())),
                    None => {
                        resolved.unknown.insert(name.clone(), text.clone());
                    }
                }
            }
        }
        for p in PARAMETERS {
            let Some(list) = candidates.get(p.name) else { continue };
            let mut refused = Vec::new();
            let mut used = Source::Default;
            for (source, text) in list.iter().rev() {
                match set(&mut resolved.config, p, text) {
                    Ok(()) => {
                        used = *source;
                        resolved.origins.insert(p.name, (used, (*text).to_owned()));
                        break;
                    }
                    Err(reason) => refused.push((*source, *text, reason)),
                }
            }
            for (source, text, reason) in refused {
                let (parameter, value, fatal) = (p.name, text.to_owned(), p.is_fatal());
                resolved.rejected.push(Rejected { parameter, source, value, reason, used, fatal });
            }
        }
        resolved.rejected.sort_by_key(|r| (r.parameter, r.source));
        resolved
    }
}

fn set(config: &mut FelixConfig, p: &Parameter, text: &str) -> Result<(), String> {
    // Where None is among the values, it is that value and not the word for nothing.
    let means_nothing =
        text.eq_ignore_ascii_case("none") && !p.accepts.split([' ', ',']).any(|w| w == "None");
    if !means_nothing {
        return config.assign(p.name, text);
    }
    if p.is_required() {
        return Err("must not be none".to_owned());
    }
    config.clear(p.name);
    Ok(())
}

/// The resource selected for a node: of those whose `nodeSelector` matches, the oldest, then by name. Only one counts.
pub fn selected<'a>(
    node_labels: &Labels,
    resources: impl IntoIterator<Item = &'a FelixConfiguration>,
) -> Option<&'a FelixConfiguration> {
    resources
        .into_iter()
        .filter(|r| r.metadata.name != "default" && !r.metadata.name.starts_with("node."))
        .filter(|r| !r.spec.node_selector.is_empty())
        .filter(|r| Selector::parse(&r.spec.node_selector).is_ok_and(|s| s.matches(node_labels)))
        .min_by_key(|r| {
            let created = r.metadata.creation_timestamp;
            (created.is_none(), created, r.metadata.name.clone())
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FelixConfigurationSpec, GoDuration, Port};
    use std::time::Duration;

    #[test]
    fn the_table_is_sound() {
        for p in PARAMETERS {
            if !p.default.is_empty() {
                assert_eq!(p.check(p.default), Ok(()), "{}", p.name);
            }
            let same = PARAMETERS.iter().filter(|q| q.name.eq_ignore_ascii_case(p.name)).count();
            assert_eq!(same, 1, "{}", p.name);
        }
        let crate::shape::TypeShape::Object(shape) = <FelixConfigurationSpec as crate::shape::Shape>::shape()
        else {
            panic!()
        };
        for field in shape.fields {
            let known = field.name == "nodeSelector" || Parameter::of_yaml(field.name).is_some();
            assert!(known || field.name == "bpfConnectTimeLoadBalancingEnabled", "{}", field.name);
        }
    }

    #[test]
    fn defaults() {
        let c = FelixConfig::default();
        assert_eq!(c.interface_prefix, "cali");
        assert_eq!(c.vxlan_port, 4789);
        assert_eq!(c.nftables_mode, "Auto");
        assert_eq!(c.nftables_mark_mask, 0xffff_0000);
        assert_eq!(c.iptables_lock_probe_interval, Duration::from_millis(50));
        assert_eq!(c.route_refresh_interval, Duration::from_secs(90));
        assert_eq!(c.failsafe_inbound_host_ports.len(), 9);
        assert_eq!(c.kube_node_port_ranges, [(30000, 32767)]);
        assert_eq!(c.route_table_ranges, [(1, 250)]);
        assert_eq!(c.vxlan_enabled, None);
    }

    #[test]
    fn strongest_good_value_wins() {
        let texts = |pairs: &[(&str, &str)]| -> Texts {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let r = Sources::new()
            .with(
                Source::Global,
                texts(&[("LogSeverityScreen", "debug"), ("TyphaAddr", "evil:1"), ("Foreign", "x")]),
            )
            .with(Source::Node, texts(&[("logseverityscreen", "LOUD"), ("InterfacePrefix", "none")]))
            .with(Source::File, texts(&[("HealthPort", "")]))
            .with(Source::Override, texts(&[("HealthPort", "1")]))
            .resolve();
        assert_eq!(r.config.log_severity_screen, "DEBUG");
        assert_eq!(r.config.health_port, 1);
        assert_eq!(r.config.interface_prefix, "cali");
        assert_eq!(r.config.typha_addr, "");
        assert_eq!(r.unknown.keys().collect::<Vec<_>>(), ["Foreign"]);
        let refused: Vec<_> = r.rejected.iter().map(|r| (r.parameter, r.used, r.fatal)).collect();
        assert_eq!(
            refused,
            [("InterfacePrefix", Source::Default, true), ("LogSeverityScreen", Source::Global, false)]
        );
        let none =
            Sources::new().with(Source::Global, texts(&[("FailsafeInboundHostPorts", "None")])).resolve();
        assert!(none.config.failsafe_inbound_host_ports.is_empty() && none.rejected.is_empty());
        // A value that happens to be spelled None is that value.
        let mode =
            Sources::new().with(Source::Global, texts(&[("FlowLogsPolicyEvaluationMode", "none")])).resolve();
        assert_eq!(mode.config.flow_logs_policy_evaluation_mode, "None");
    }

    #[test]
    fn every_source_beats_the_weaker_ones() {
        let ladder = [
            Source::Global,
            Source::Selected,
            Source::Node,
            Source::File,
            Source::Environment,
            Source::Override,
        ];
        let mut sources = Sources::new();
        assert_eq!(sources.resolve().config.vxlan_port, 4789);
        for (step, source) in ladder.into_iter().enumerate() {
            let value = (1000 + step).to_string();
            sources = sources.with(source, [("VXLANPort".to_owned(), value.clone())].into());
            let resolved = sources.resolve();
            assert_eq!(resolved.config.vxlan_port.to_string(), value, "{source}");
            assert_eq!(resolved.rejected, []);
            // A bad value names its source and that of the value used instead.
            let bad =
                sources.clone().with(source, [("VXLANPort".to_owned(), "x".to_owned())].into()).resolve();
            let expected = if step == 0 { 4789 } else { 999 + step };
            assert_eq!(bad.config.vxlan_port.to_string(), expected.to_string(), "{source}");
            let [rejected] = &bad.rejected[..] else { panic!("{:?}", bad.rejected) };
            let used = if step == 0 { Source::Default } else { ladder[step - 1] };
            assert_eq!((rejected.source, rejected.used), (source, used));
            assert!(rejected.to_string().contains(&format!("in {source}")), "{rejected}");
        }
    }

    #[test]
    fn resources_become_texts() {
        let spec = FelixConfigurationSpec {
            route_refresh_interval: Some(GoDuration::from_millis(1500)),
            iptables_lock_probe_interval: Some(GoDuration::from_millis(5)),
            failsafe_inbound_host_ports: Some(vec![]),
            nat_port_range: Some(Port::Range(1, 2)),
            health_timeout_overrides: vec![crate::HealthTimeoutOverride {
                name: "x".into(),
                timeout: GoDuration::from_secs(90),
            }],
            bpf_conntrack_timeouts: Some(crate::BpfConntrackTimeouts {
                tcp_syn_sent: "5s".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut resource = FelixConfiguration::new("default", spec);
        resource.metadata.annotations.insert(format!("{ANNOTATION_PREFIX}VXLANVNI"), "7".into());
        let texts = from_resource(&resource);
        let get = |name: &str| texts.get(name).map(String::as_str);
        assert_eq!(get("RouteRefreshInterval"), Some("1.5"));
        assert_eq!(get("IptablesLockProbeIntervalMillis"), Some("5"));
        assert_eq!(get("FailsafeInboundHostPorts"), Some("none"));
        assert_eq!(get("NATPortRange"), Some("1:2"));
        assert_eq!(get("HealthTimeoutOverrides"), Some("x=1m30s"));
        assert_eq!(get("BPFConntrackTimeouts"), Some("TCPSynSent=5s"));
        let r = Sources::new().with_resources("n", &Labels::new(), [&resource]).resolve();
        assert_eq!(r.rejected, []);
        assert_eq!(r.config.vxlan_vni, 7);
        assert_eq!(r.config.route_refresh_interval, Duration::from_millis(1500));
    }

    #[test]
    fn one_selected_resource_counts() {
        let make = |name: &str, selector: &str, created: Option<i64>| {
            let spec = FelixConfigurationSpec { node_selector: selector.into(), ..Default::default() };
            let mut r = FelixConfiguration::new(name, spec);
            r.metadata.creation_timestamp = created.map(|seconds| crate::Timestamp { seconds, nanos: 0 });
            r
        };
        let labels: Labels = [("rack".to_owned(), "1".to_owned())].into();
        let all = [
            make("default", "", Some(0)),
            make("empty", "", Some(1)),
            make("other", "rack == '2'", Some(2)),
            make("young", "rack == '1'", Some(5)),
            make("b-old", "has(rack)", Some(3)),
            make("a-old", "has(rack)", Some(3)),
        ];
        assert_eq!(selected(&labels, &all).unwrap().metadata.name, "a-old");
    }
}
