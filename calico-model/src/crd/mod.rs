//! Custom resource definitions, generated from the types of this crate.
//!
//! Names, scopes, columns, field names and types are those of the reference, in both API groups. Constraints between
//! fields are stated as CEL rules, so that a cluster refuses what the validator refuses.

mod cel;
mod facts;
mod yaml;

use serde_json::{Map, Value as Json, json};

use crate::Kind;
use crate::config::Parameter;
use crate::k8s::custom_resource::Group;
use crate::shape::{ObjectShape, Shape, TypeShape};

pub use yaml::to_yaml;

/// A constraint of a field.
#[derive(Debug, Clone, Copy)]
enum Fact {
    Required,
    Min(i64),
    Max(i64),
    /// The longest prefix of the family at hand.
    MaxPrefix,
    MinLength(u32),
    MaxLength(u32),
    /// The longest text of a network of the family at hand.
    MaxLengthOfNetwork,
    ItemMaxLength(u32),
    MinItems(u32),
    MaxItems(u32),
    ItemMinProperties(u32),
    ItemMaxProperties(u32),
    /// Exactly these texts, where other parsers of the same field ignore case.
    Texts(&'static [&'static str]),
    Numbers(&'static [i64]),
    Nullable,
    Pattern(&'static str),
    ItemPattern(&'static str),
    Format(&'static str),
    ItemFormat(&'static str),
    DefaultText(&'static str),
    DefaultBool(bool),
    DefaultNumber(i64),
    /// Elements are distinct.
    Set,
    /// Elements are distinct by `type`.
    MapByType,
}

/// A column of `kubectl get`: name, type, path, what it shows.
type Column = (&'static str, &'static str, &'static str, &'static str);

/// The kinds that are custom resources of a group, in order of their plural.
pub fn kinds(group: Group) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = Kind::ALL
        .iter()
        .copied()
        .filter(|k| {
            !k.is_pseudo()
                && !matches!(k, Kind::Profile | Kind::Node | Kind::WorkloadEndpoint | Kind::LiveMigration)
                && group.stored_kind(*k) == *k
        })
        .collect();
    kinds.sort_by_key(|k| k.plural());
    kinds
}

/// The definition of a kind in a group; `None` when the group has no such custom resource.
///
/// ```
/// use calico_model::{Kind, crd, k8s::custom_resource::Group};
/// let definition = crd::definition(Kind::IPPool, Group::V3).unwrap();
/// assert_eq!(definition["metadata"]["name"], "ippools.projectcalico.org");
/// let spec = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
/// assert_eq!(spec["properties"]["cidr"]["maxLength"], 48);
/// ```
pub fn definition(kind: Kind, group: Group) -> Option<Json> {
    if !kinds(group).contains(&kind) {
        return None;
    }
    let (spec, status) = kind.shapes()?;
    let mut names = json!({
        "kind": kind.name(),
        "listKind": format!("{}List", kind.name()),
        "plural": kind.plural(),
        "singular": kind.name().to_ascii_lowercase(),
    });
    if group == Group::V3 && !kind.short_names().is_empty() {
        names["shortNames"] = json!(kind.short_names());
    }
    let mut properties = Map::new();
    let text = |what: &str| json!({"type": "string", "description": what});
    properties.insert("apiVersion".to_owned(), text("Version of the API this object is written in."));
    properties.insert("kind".to_owned(), text("Kind of the object."));
    properties.insert("metadata".to_owned(), json!({"type": "object"}));
    let context = Context { group, v6: false };
    properties.insert("spec".to_owned(), schema(&spec, "", context));
    let has_status = matches!(status, TypeShape::Object(_));
    if has_status {
        properties.insert("status".to_owned(), schema(&status, "", context));
    }
    let mut root = json!({
        "type": "object",
        "description": first_line(&spec),
        "properties": properties,
    });
    // The older group requires them of tiers alone.
    if group == Group::V3 || kind == Kind::Tier {
        root["required"] = json!(["metadata", "spec"]);
    }
    let rules = cel::rules(kind.name());
    if !rules.is_empty() {
        root["x-kubernetes-validations"] = Json::Array(rules);
    }
    let mut version = json!({
        "name": group.version(),
        "served": true,
        "storage": true,
        "schema": {"openAPIV3Schema": root},
    });
    if group == Group::V3 {
        let columns: Vec<Json> = columns(kind)
            .iter()
            .map(|(name, kind, path, what)| json!({"name": name, "type": kind, "jsonPath": path, "description": what}))
            .collect();
        if !columns.is_empty() {
            version["additionalPrinterColumns"] = Json::Array(columns);
        }
        if kind.is_tiered_policy() {
            version["selectableFields"] = json!([{"jsonPath": ".spec.tier"}]);
        }
    }
    if has_status {
        version["subresources"] = json!({"status": {}});
    }
    let scope = if kind.is_namespaced() { "Namespaced" } else { "Cluster" };
    Some(json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{}.{}", kind.plural(), group.name())},
        "spec": {"group": group.name(), "names": names, "scope": scope, "versions": [version]},
    }))
}

/// All definitions of a group as one YAML stream.
pub fn yaml_stream(group: Group) -> String {
    let documents = kinds(group).into_iter().filter_map(|k| definition(k, group));
    documents.map(|d| format!("---\n{}", to_yaml(&d))).collect()
}

#[derive(Clone, Copy)]
struct Context {
    group: Group,
    v6: bool,
}

fn first_line(shape: &TypeShape) -> String {
    match shape {
        TypeShape::Object(o) => doc(o.doc),
        _ => String::new(),
    }
}

/// Documentation lines as one text.
fn doc(lines: &[&str]) -> String {
    lines.iter().map(|l| l.trim()).collect::<Vec<_>>().join(" ")
}

fn schema(shape: &TypeShape, yaml: &str, context: Context) -> Json {
    match shape {
        TypeShape::Bool => json!({"type": "boolean"}),
        TypeShape::Integer { bits: 64, .. } => json!({"type": "integer", "format": "int64"}),
        TypeShape::Integer { bits: 32, signed: true } => json!({"type": "integer", "format": "int32"}),
        TypeShape::Integer { .. } => json!({"type": "integer"}),
        TypeShape::Number => json!({"type": "number"}),
        TypeShape::String => match Parameter::of_yaml(yaml).and_then(|p| p.accepts.strip_prefix("one of ")) {
            Some(values) => json!({"type": "string", "pattern": any_case(values.split(", "))}),
            None => json!({"type": "string"}),
        },
        TypeShape::Duration if Parameter::of_yaml(yaml).is_some() => {
            json!({"type": "string", "pattern": r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))*$"})
        }
        TypeShape::Duration => json!({"type": "string"}),
        TypeShape::Time => json!({"type": "string", "format": "date-time"}),
        TypeShape::IntOrString => json!({
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": true,
        }),
        TypeShape::Enum { values, any_case: true } => {
            json!({"type": "string", "pattern": any_case(values.iter().copied())})
        }
        TypeShape::Enum { values, any_case: false } => json!({"type": "string", "enum": values}),
        TypeShape::Array(item) => {
            json!({"type": "array", "items": schema(item, "", context), "x-kubernetes-list-type": "atomic"})
        }
        TypeShape::Map(item) => json!({"type": "object", "additionalProperties": schema(item, "", context)}),
        TypeShape::Object(o) => object(o, context),
        TypeShape::Any => json!({"x-kubernetes-preserve-unknown-fields": true}),
    }
}

fn any_case<'a>(values: impl Iterator<Item = &'a str>) -> String {
    format!("^(?i)({})?$", values.collect::<Vec<_>>().join("|"))
}

fn object(o: &ObjectShape, context: Context) -> Json {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in &o.fields {
        let context = match field.name {
            "exportV6" | "importV6" => Context { v6: true, ..context },
            _ => context,
        };
        let mut s = schema(&field.shape, field.name, context);
        s["description"] = doc(field.doc).into();
        let facts = facts::FACTS.iter().filter(|(t, f, _)| *t == o.name && *f == field.name);
        for fact in facts.flat_map(|(_, _, facts)| facts.iter()) {
            if matches!(fact, Fact::Required) {
                required.push(field.name);
            } else {
                apply(&mut s, *fact, context);
            }
        }
        group_differences(o.name, field.name, &mut s, context.group);
        let rules = cel::rules(&format!("{}.{}", o.name, field.name));
        if !rules.is_empty() {
            s["x-kubernetes-validations"] = Json::Array(rules);
        }
        properties.insert(field.name.to_owned(), s);
    }
    let mut out = json!({"type": "object", "description": doc(o.doc), "properties": properties});
    if !required.is_empty() {
        required.sort_unstable();
        out["required"] = json!(required);
    }
    if facts::ATOMIC.contains(&o.name) {
        out["x-kubernetes-map-type"] = "atomic".into();
    }
    let rules = cel::rules(o.name);
    if !rules.is_empty() {
        out["x-kubernetes-validations"] = Json::Array(rules);
    }
    out
}

/// The few places where the groups differ.
fn group_differences(name: &str, field: &str, s: &mut Json, group: Group) {
    match (name, field, group) {
        ("BlockAffinitySpec", "deleted", Group::V1) => {
            *s = json!({"type": "string", "description": s["description"]});
        }
        // A claim without state is a confirmed one.
        ("BlockAffinitySpec", "state", Group::V3) => {
            s["enum"] = json!(["", "confirmed", "pending", "pendingDeletion"]);
        }
        ("BlockAffinitySpec", "state", Group::V1) => {
            *s = json!({"type": "string", "description": s["description"]});
        }
        ("IPAMBlockSpec" | "BlockAffinitySpec", "cidr" | "affinity", Group::V1) => {
            *s = json!({"type": "string", "description": s["description"]});
        }
        // Free addresses are null.
        ("IPAMBlockSpec", "allocations", _) => s["items"]["nullable"] = true.into(),
        _ => {}
    }
}

fn apply(s: &mut Json, fact: Fact, context: Context) {
    match fact {
        Fact::Required => {}
        Fact::Min(n) => s["minimum"] = n.into(),
        Fact::Max(n) => s["maximum"] = n.into(),
        Fact::MaxPrefix => s["maximum"] = if context.v6 { 128.into() } else { 32.into() },
        Fact::MinLength(n) => s["minLength"] = n.into(),
        Fact::MaxLength(n) => s["maxLength"] = n.into(),
        Fact::MaxLengthOfNetwork => s["maxLength"] = if context.v6 { 43.into() } else { 18.into() },
        Fact::ItemMaxLength(n) => s["items"]["maxLength"] = n.into(),
        Fact::MinItems(n) => s["minItems"] = n.into(),
        Fact::MaxItems(n) => s["maxItems"] = n.into(),
        Fact::ItemMinProperties(n) => s["items"]["minProperties"] = n.into(),
        Fact::ItemMaxProperties(n) => s["items"]["maxProperties"] = n.into(),
        Fact::Texts(texts) => {
            if let Some(schema) = s.as_object_mut() {
                schema.remove("pattern");
            }
            s["enum"] = json!(texts);
        }
        Fact::Numbers(numbers) => s["enum"] = json!(numbers),
        Fact::Nullable => s["nullable"] = true.into(),
        Fact::Pattern(p) => s["pattern"] = p.into(),
        Fact::ItemPattern(p) => s["items"]["pattern"] = p.into(),
        Fact::Format(f) => s["format"] = f.into(),
        Fact::ItemFormat(f) => s["items"]["format"] = f.into(),
        Fact::DefaultText(t) => s["default"] = t.into(),
        Fact::DefaultBool(b) => s["default"] = b.into(),
        Fact::DefaultNumber(n) => s["default"] = n.into(),
        Fact::Set => s["x-kubernetes-list-type"] = "set".into(),
        Fact::MapByType => {
            s["x-kubernetes-list-type"] = "map".into();
            s["x-kubernetes-list-map-keys"] = json!(["type"]);
        }
    }
}

fn columns(kind: Kind) -> &'static [Column] {
    const TIER: Column = ("Tier", "string", ".spec.tier", "Tier of the policy");
    const ORDER: Column = ("Order", "number", ".spec.order", "Position within the tier");
    const AGE: Column = ("Age", "date", ".metadata.creationTimestamp", "Time since creation");
    match kind {
        Kind::BGPPeer => &[
            ("Node Selector", "string", ".spec.nodeSelector", "Selects the nodes that peer"),
            ("Node", "string", ".spec.node", "Node that peers"),
            ("Local ASN", "string", ".spec.localASNumber", "AS number of this side"),
            ("Peer Selector", "string", ".spec.peerSelector", "Selects the nodes to peer with"),
            ("Peer IP", "string", ".spec.peerIP", "Address of the peer"),
            ("Peer ASN", "string", ".spec.asNumber", "AS number of the peer"),
        ],
        Kind::BlockAffinity => &[
            ("CIDR", "string", ".spec.cidr", "Network of the block"),
            ("Node", "string", ".spec.node", "Owner of the block"),
            ("Type", "string", ".spec.type", "Kind of owner"),
        ],
        Kind::CalicoNodeStatus => &[
            ("Node", "string", ".spec.node", "Node reported on"),
            ("Classes", "string", ".spec.classes", "What is reported"),
        ],
        Kind::ClusterInformation => &[
            ("Version", "string", ".spec.calicoVersion", "Version of Calico"),
            ("Ready", "boolean", ".spec.datastoreReady", "Whether programs may use the datastore"),
            ("Types", "string", ".spec.clusterType", "Kinds of the cluster"),
        ],
        Kind::GlobalNetworkPolicy => &[TIER, ORDER, AGE],
        Kind::NetworkPolicy | Kind::StagedNetworkPolicy | Kind::StagedGlobalNetworkPolicy => &[TIER, ORDER],
        Kind::GlobalNetworkSet => &[AGE],
        Kind::HostEndpoint => &[
            ("Node", "string", ".spec.node", "Node of the endpoint"),
            ("Interface", "string", ".spec.interfaceName", "Interface of the node"),
        ],
        Kind::IPAMBlock => &[
            ("CIDR", "string", ".spec.cidr", "Network of the block"),
            ("Affinity", "string", ".spec.affinity", "Owner of the block"),
            ("ClaimTime", "date", ".spec.affinityClaimTime", "When the owner claimed it"),
        ],
        Kind::IPAMConfiguration => &[
            ("StrictAffinity", "boolean", ".spec.strictAffinity", "Whether nodes keep to their own blocks"),
            ("MaxBlocksPerHost", "integer", ".spec.maxBlocksPerHost", "Most blocks per node"),
            (
                "AutoAllocateBlocks",
                "boolean",
                ".spec.autoAllocateBlocks",
                "Whether nodes claim blocks by themselves",
            ),
        ],
        Kind::IPAMHandle => &[("ID", "string", ".spec.handleID", "The handle")],
        Kind::IPPool => &[
            ("CIDR", "string", ".spec.cidr", "Network of the pool"),
            ("VXLAN", "string", ".spec.vxlanMode", "VXLAN mode"),
            ("IPIP", "string", ".spec.ipipMode", "IP-in-IP mode"),
            ("NAT", "boolean", ".spec.natOutgoing", "Whether outgoing traffic is masqueraded"),
            (
                "Allocatable",
                "string",
                ".status.conditions[?(@.type=='Allocatable')].status",
                "Whether addresses can be assigned",
            ),
            AGE,
        ],
        Kind::Tier => &[
            ("Order", "integer", ".spec.order", "Position of the tier"),
            ("DefaultAction", "string", ".spec.defaultAction", "What happens at its end"),
            ("Status", "string", ".status.conditions[?(@.type=='Ready')].reason", "State of the tier"),
        ],
        _ => &[],
    }
}

macro_rules! define_shapes {
    ($( $(#[$doc:meta])* $kind:ident, $plural:literal, $scope:ident, [$($short:literal),*], $spec:ty, $status:ty; )*) => {
        impl Kind {
            /// JSON forms of spec and status; `None` for pseudo-kinds.
            pub fn shapes(self) -> Option<(TypeShape, TypeShape)> {
                use crate::resource::*;
                match self {
                    $( Self::$kind => Some((<$spec as Shape>::shape(), <$status as Shape>::shape())), )*
                    _ => None,
                }
            }
        }
    };
}
crate::kind::for_each_kind!(define_shapes);

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(shape: &TypeShape, see: &mut dyn FnMut(&ObjectShape)) {
        match shape {
            TypeShape::Object(o) => {
                see(o);
                o.fields.iter().for_each(|f| walk(&f.shape, see));
            }
            TypeShape::Array(i) | TypeShape::Map(i) => walk(i, see),
            _ => {}
        }
    }

    #[test]
    fn every_fact_and_rule_belongs_to_a_field() {
        let mut names = std::collections::BTreeSet::new();
        for kind in Kind::ALL {
            names.insert(kind.name().to_owned());
            let Some((spec, status)) = kind.shapes() else { continue };
            for shape in [spec, status] {
                walk(&shape, &mut |o| {
                    names.insert(o.name.to_owned());
                    for f in &o.fields {
                        assert!(!f.doc.is_empty(), "{}.{} is not documented", o.name, f.name);
                        names.insert(format!("{}.{}", o.name, f.name));
                    }
                });
            }
        }
        for (name, field, _) in facts::FACTS {
            assert!(names.contains(&format!("{name}.{field}")), "{name}.{field}");
        }
        for place in cel::places() {
            assert!(names.contains(place), "{place}");
        }
    }

    #[test]
    fn both_groups_have_their_kinds() {
        assert_eq!(kinds(Group::V3).len(), 22);
        assert_eq!(kinds(Group::V1).len(), 22);
        assert_eq!(definition(Kind::Profile, Group::V3), None);
        assert_eq!(definition(Kind::IPAMConfig, Group::V3), None);
        let v1 = definition(Kind::IPAMConfig, Group::V1).unwrap();
        assert_eq!(v1["metadata"]["name"], "ipamconfigs.crd.projectcalico.org");
    }

    #[test]
    fn committed_definitions_are_up_to_date() {
        // Run with UPDATE_EXPECT=1 to write them.
        expect_test::expect_file!["../../crds/crd.projectcalico.org_v1.yaml"]
            .assert_eq(&yaml_stream(Group::V1));
        expect_test::expect_file!["../../crds/projectcalico.org_v3.yaml"].assert_eq(&yaml_stream(Group::V3));
    }
}
