//! Where Felix parameters come from, as lists of name and text.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::parameters::{Parameter, Unit};
use crate::resource::felix::FelixConfigurationSpec;
use crate::{FelixConfiguration, GoDuration, Labels};

/// Prefix of annotations that set a parameter: `config.projectcalico.org/<Name>`.
pub const ANNOTATION_PREFIX: &str = "config.projectcalico.org/";
/// Prefix of environment variables that set a parameter, any case.
pub const ENVIRONMENT_PREFIX: &str = "FELIX_";

/// Parameters as text by name, as written.
pub type Texts = BTreeMap<String, String>;

/// The parameters among environment variables.
pub fn from_environment<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Texts {
    variables
        .into_iter()
        .filter_map(|(name, value)| {
            let (prefix, rest) = name.split_at_checked(ENVIRONMENT_PREFIX.len())?;
            prefix.eq_ignore_ascii_case(ENVIRONMENT_PREFIX).then(|| (rest.to_owned(), value.to_owned()))
        })
        .collect()
}

/// The parameters of a file `felix.cfg`: `Name = value` lines, sections merged, later lines win.
pub fn from_file(text: &str) -> Texts {
    let mut texts = Texts::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['#', ';', '[']) {
            continue;
        }
        if let Some((name, value)) = line.split_once(['=', ':']) {
            texts.retain(|known, _| !known.eq_ignore_ascii_case(name.trim()));
            texts.insert(name.trim().to_owned(), value.trim().to_owned());
        }
    }
    texts
}

/// The parameters of a resource; annotations win over fields.
pub fn from_resource(resource: &FelixConfiguration) -> Texts {
    let mut texts = from_spec(&resource.spec);
    texts.extend(from_annotations(&resource.metadata.annotations));
    texts
}

/// The parameters set by annotations.
pub fn from_annotations(annotations: &Labels) -> Texts {
    let named = |(k, v): (&String, &String)| Some((k.strip_prefix(ANNOTATION_PREFIX)?.to_owned(), v.clone()));
    annotations.iter().filter_map(named).collect()
}

/// The fields of a spec, in the text form of the environment.
pub fn from_spec(spec: &FelixConfigurationSpec) -> Texts {
    let Ok(Json::Object(fields)) = serde_json::to_value(spec) else { return Texts::new() };
    fields
        .iter()
        .filter_map(|(yaml, value)| {
            let parameter = Parameter::of_yaml(yaml)?;
            let text = text_of(yaml, value, parameter.unit)?;
            Some((parameter.name.to_owned(), text))
        })
        .collect()
}

/// Text of one field; `None` when it says nothing.
pub(crate) fn text_of(yaml: &str, value: &Json, unit: Unit) -> Option<String> {
    let list = |items: &[Json], f: &dyn Fn(&Json) -> Option<String>| {
        let texts: Vec<String> = items.iter().filter_map(f).collect();
        // An empty list is a value of its own: it switches the default list off.
        if texts.is_empty() { "none".to_owned() } else { texts.join(",") }
    };
    let text = match (yaml, value) {
        ("failsafeInboundHostPorts" | "failsafeOutboundHostPorts", Json::Array(items)) => {
            list(items, &proto_port)
        }
        ("routeTableRanges", Json::Array(items)) => list(items, &table_range),
        ("routeTableRange", range) => table_range(range)?,
        ("healthTimeoutOverrides", Json::Array(items)) => {
            list(items, &|o| Some(format!("{}={}", o.get("name")?.as_str()?, o.get("timeout")?.as_str()?)))
        }
        ("bpfConntrackTimeouts", Json::Object(fields)) => {
            let pair = |(k, v): (&String, &Json)| Some(format!("{}={}", conntrack_name(k), v.as_str()?));
            fields.iter().filter_map(pair).collect::<Vec<_>>().join(",")
        }
        (_, Json::Object(fields)) => {
            let pair = |(k, v): (&String, &Json)| Some(format!("{k}={}", plain(v)?));
            fields.iter().filter_map(pair).collect::<Vec<_>>().join(",")
        }
        (_, Json::Array(items)) => list(items, &plain),
        (_, Json::String(s)) if unit != Unit::Plain => {
            let duration: GoDuration = s.parse().ok()?;
            decimal(duration, if unit == Unit::Seconds { 1_000_000_000 } else { 1_000_000 })
        }
        (_, value) => plain(value)?,
    };
    (!text.is_empty()).then_some(text)
}

fn plain(value: &Json) -> Option<String> {
    match value {
        Json::String(s) => Some(s.clone()),
        Json::Bool(b) => Some(b.to_string()),
        Json::Number(n) => Some(n.to_string()),
        _ => None,
    }
}

/// A duration as a number of units, exactly.
fn decimal(d: GoDuration, unit: i64) -> String {
    let (whole, rest) = (d.0 / unit, (d.0 % unit).unsigned_abs());
    if rest == 0 {
        return whole.to_string();
    }
    let width = unit.ilog10() as usize;
    let digits = format!("{rest:0width$}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

fn proto_port(p: &Json) -> Option<String> {
    let port = p.get("port")?.as_u64()?;
    let field = |name: &str| p.get(name).and_then(Json::as_str).filter(|s| !s.is_empty());
    let protocol = field("protocol").unwrap_or("tcp").to_ascii_lowercase();
    Some(match field("net") {
        None => format!("{protocol}:{port}"),
        Some(net) if net.contains(':') => format!("{protocol}:[{net}]:{port}"),
        Some(net) => format!("{protocol}:{net}:{port}"),
    })
}

fn table_range(r: &Json) -> Option<String> {
    Some(format!("{}-{}", r.get("min")?.as_i64()?, r.get("max")?.as_i64()?))
}

/// Upper-camel name of a timeout: `tcpSynSent` is `TCPSynSent`.
fn conntrack_name(yaml: &str) -> String {
    for (lower, upper) in [("tcp", "TCP"), ("udp", "UDP"), ("icmp", "ICMP")] {
        if let Some(rest) = yaml.strip_prefix(lower) {
            return format!("{upper}{rest}");
        }
    }
    let mut chars = yaml.chars();
    chars.next().map(|c| c.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}
