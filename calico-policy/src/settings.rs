//! The agent's effective configuration, from the store and from local sources.

use std::collections::BTreeMap;
use std::sync::Arc;

use calico_model::config::{Source, Sources, Texts, from_resource, from_spec, selected};
use calico_model::{FelixConfiguration, Labels, Node};

use crate::problems::Problems;
use crate::rules::BadField;

/// The sources of configuration; which one wins is the model's business.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    node: String,
    local: Texts,
    global: Texts,
    own: Texts,
    resources: BTreeMap<String, FelixConfiguration>,
    node_labels: Labels,
    sent: Option<Arc<Texts>>,
    touched: bool,
}

impl Settings {
    pub(crate) fn new(node: &str, local: Texts) -> Self {
        Self { node: node.to_owned(), local, ..Self::default() }
    }

    /// A raw parameter for all nodes.
    pub(crate) fn set_global(&mut self, name: &str, value: Option<Arc<str>>) {
        set(&mut self.global, name, value);
        self.touched = true;
    }

    /// A raw parameter of this node.
    pub(crate) fn set_own(&mut self, name: &str, value: Option<Arc<str>>) {
        set(&mut self.own, name, value);
        self.touched = true;
    }

    /// This node, whose labels select configurations.
    pub(crate) fn set_own_node(&mut self, node: Option<&Node>) {
        let labels = node.map(|node| node.metadata.labels.clone()).unwrap_or_default();
        self.touched |= labels != self.node_labels;
        self.node_labels = labels;
    }

    /// A `FelixConfiguration`.
    pub(crate) fn set_resource(&mut self, name: &str, resource: Option<&FelixConfiguration>) {
        match resource {
            Some(resource) => self.resources.insert(name.to_owned(), resource.clone()),
            None => self.resources.remove(name),
        };
        self.touched = true;
    }

    /// The effective parameters that are not at their built-in default, when they changed. Values that cannot be used
    /// become problems.
    pub(crate) fn flush(&mut self, first: bool, problems: &mut Problems) -> Option<Arc<Texts>> {
        if !std::mem::take(&mut self.touched) && !first {
            return None;
        }
        let resolved = self.sources().resolve();
        let rejected = resolved
            .rejected
            .iter()
            .map(|rejected| BadField { field: rejected.parameter.to_owned(), reason: rejected.to_string() });
        problems.set("FelixConfiguration", rejected.collect());
        let mut effective = resolved.unknown;
        effective.extend(resolved.origins.into_iter().map(|(name, (_, text))| (name.to_owned(), text)));
        let effective = Arc::new(effective);
        if self.sent.as_ref() == Some(&effective) {
            return None;
        }
        self.sent = Some(effective.clone());
        Some(effective)
    }

    fn sources(&self) -> Sources {
        let with_raw = |raw: &Texts, name: &str| {
            let mut texts = raw.clone();
            texts.extend(self.resources.get(name).map(from_resource).unwrap_or_default());
            texts
        };
        let chosen = selected(&self.node_labels, self.resources.values());
        Sources::new()
            .with(Source::Environment, self.local.clone())
            .with(Source::Node, with_raw(&self.own, &format!("node.{}", self.node)))
            .with(Source::Selected, chosen.map(|resource| from_spec(&resource.spec)).unwrap_or_default())
            .with(Source::Global, with_raw(&self.global, "default"))
    }
}

fn set(map: &mut Texts, name: &str, value: Option<Arc<str>>) {
    match value {
        Some(value) => map.insert(name.to_owned(), value.to_string()),
        None => map.remove(name),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use calico_model::FelixConfigurationSpec;

    #[test]
    fn the_node_wins_over_the_default_and_the_environment_over_both() {
        let mut settings = Settings::new("n", Texts::from([("LogPrefix".into(), "local".into())]));
        let mut problems = Problems::default();
        let resource = |prefix: &str| {
            let spec = FelixConfigurationSpec {
                interface_prefix: prefix.into(),
                log_prefix: "stored".into(),
                ..FelixConfigurationSpec::default()
            };
            FelixConfiguration::new("x", spec)
        };
        settings.set_resource("default", Some(&resource("global")));
        settings.set_resource("node.n", Some(&resource("own")));
        settings.set_resource("node.other", Some(&resource("other")));
        let effective = settings.flush(false, &mut problems).unwrap();
        assert_eq!(effective.get("InterfacePrefix").map(String::as_str), Some("own"));
        assert_eq!(effective.get("LogPrefix").map(String::as_str), Some("local"));
        assert_eq!(settings.flush(false, &mut problems), None);
        settings.set_resource("node.n", None);
        let effective = settings.flush(false, &mut problems).unwrap();
        assert_eq!(effective.get("InterfacePrefix").map(String::as_str), Some("global"));
        settings.set_global("VXLANPort", Some("many".into()));
        assert_eq!(settings.flush(false, &mut problems), None, "the built-in default stays");
        assert_eq!(problems.flush().unwrap()[0].field, "VXLANPort");
    }
}
