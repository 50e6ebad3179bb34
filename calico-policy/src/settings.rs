//! The agent's effective configuration, from the store and from local sources.

use std::collections::BTreeMap;
use std::sync::Arc;

use calico_model::{FelixConfiguration, Labels, Node, Spec};
use calico_selector::Selector;
use serde_json::Value as Json;

type Parameters = BTreeMap<String, String>;

/// The sources of configuration. Precedence, high to low: local parameters, `node.<node>`, selector-scoped, `default`.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    node: String,
    local: Parameters,
    global: Parameters,
    own: Parameters,
    resources: BTreeMap<String, FelixConfiguration>,
    node_labels: Labels,
    sent: Option<Arc<Parameters>>,
    touched: bool,
}

impl Settings {
    pub(crate) fn new(node: &str, local: Parameters) -> Self {
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
        self.node_labels = node.map(|node| node.metadata.labels.clone()).unwrap_or_default();
        self.touched = true;
    }

    /// A `FelixConfiguration`.
    pub(crate) fn set_resource(&mut self, name: &str, resource: Option<&FelixConfiguration>) {
        match resource {
            Some(resource) => self.resources.insert(name.to_owned(), resource.clone()),
            None => self.resources.remove(name),
        };
        self.touched = true;
    }

    /// The effective parameters, when they changed.
    pub(crate) fn flush(&mut self, first: bool) -> Option<Arc<Parameters>> {
        if !std::mem::take(&mut self.touched) && !first {
            return None;
        }
        let effective = Arc::new(self.effective());
        if self.sent.as_ref() == Some(&effective) {
            return None;
        }
        self.sent = Some(effective.clone());
        Some(effective)
    }

    fn effective(&self) -> Parameters {
        let mut out = self.global.clone();
        let own = format!("node.{}", self.node);
        let scoped = self.selected();
        for resource in [self.resources.get("default"), scoped].into_iter().flatten() {
            out.extend(parameters(resource));
        }
        out.extend(self.own.clone());
        out.extend(self.resources.get(&own).map(parameters).unwrap_or_default());
        out.extend(self.local.clone());
        out
    }

    /// The oldest of the selector-scoped configurations that select this node.
    fn selected(&self) -> Option<&FelixConfiguration> {
        let scoped =
            self.resources.iter().filter(|(name, _)| *name != "default" && !name.starts_with("node."));
        let matching = scoped.filter(|(_, resource)| {
            let selector = &resource.spec.node_selector;
            !selector.is_empty() && Selector::parse(selector).is_ok_and(|s| s.matches(&self.node_labels))
        });
        let age = |resource: &FelixConfiguration| {
            resource.metadata.creation_timestamp.as_ref().map(ToString::to_string).unwrap_or_default()
        };
        matching.min_by_key(|(name, resource)| (age(resource), (*name).clone())).map(|(_, resource)| resource)
    }
}

fn set(map: &mut Parameters, name: &str, value: Option<Arc<str>>) {
    match value {
        Some(value) => map.insert(name.to_owned(), value.to_string()),
        None => map.remove(name),
    };
}

fn parameters(resource: &FelixConfiguration) -> Parameters {
    debug_assert_eq!(resource.kind, <calico_model::FelixConfigurationSpec as Spec>::KIND);
    let Ok(Json::Object(fields)) = serde_json::to_value(&resource.spec) else { return Parameters::new() };
    fields.into_iter().filter_map(|(name, value)| Some((upper_camel(&name), value_text(value)?))).collect()
}

fn upper_camel(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

fn value_text(value: Json) -> Option<String> {
    Some(match value {
        Json::String(text) if text.is_empty() => return None,
        Json::String(text) => text,
        Json::Array(list) => list.into_iter().filter_map(value_text).collect::<Vec<_>>().join(","),
        Json::Null => return None,
        other => other.to_string(),
    })
}
