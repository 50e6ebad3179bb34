//! Which columns the table of a kind has and what stands in them.

use calico_model::{Kind, KubernetesKind};
use serde_json::Value as Json;

use super::object::{ObjectKind, text_at};
use super::table::{join_and_truncate, shortest};

/// A column: its heading and how to fill it from an object.
#[derive(Clone, Copy)]
pub struct Column {
    /// Heading, in upper case.
    pub heading: &'static str,
    cell: Cell,
}

impl Column {
    /// The text of the cell for an object.
    pub fn cell(&self, object: &Json, facts: &Facts) -> String {
        self.cell.text(object, facts)
    }
}

/// What cells need beyond their object.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// AS number of nodes that name none, as text.
    pub default_as_number: String,
}

#[derive(Clone, Copy)]
enum Cell {
    /// Text or number at a pointer, empty when absent.
    At(&'static str),
    /// As `At`, with another text when absent or empty.
    Or(&'static str, &'static str),
    /// `<nil>` when absent, numbers in Go's shortest form.
    Number(&'static str),
    /// `true` or `false`, false when absent.
    Bool(&'static str),
    /// A list joined with commas, cut to so many characters (0: not at all).
    List(&'static str, usize),
    /// A map as sorted `k=v`.
    Map(&'static str),
    /// How many elements a list has.
    Count(&'static str),
    /// The first of some texts that is not empty.
    First(&'static [&'static str]),
    /// Whatever needs more than that.
    Other(fn(&Json, &Facts) -> String),
}

impl Cell {
    fn text(self, object: &Json, facts: &Facts) -> String {
        match self {
            Self::At(pointer) => plain(object.pointer(pointer)),
            Self::Or(pointer, otherwise) => Some(plain(object.pointer(pointer)))
                .filter(|t| !t.is_empty())
                .unwrap_or_else(|| otherwise.into()),
            Self::Number(pointer) => match object.pointer(pointer) {
                Some(Json::Number(number)) => number.as_f64().map_or_else(|| number.to_string(), shortest),
                _ => "<nil>".into(),
            },
            Self::Bool(pointer) => {
                object.pointer(pointer).and_then(Json::as_bool).unwrap_or_default().to_string()
            }
            Self::List(pointer, limit) => {
                let parts = list(object, pointer);
                let limit = if limit == 0 { usize::MAX } else { limit };
                join_and_truncate(parts.iter().map(String::as_str), limit)
            }
            Self::Map(pointer) => {
                let map = object.pointer(pointer).and_then(Json::as_object);
                let pairs: Vec<String> =
                    map.into_iter().flatten().map(|(k, v)| format!("{k}={}", plain(Some(v)))).collect();
                pairs.join(",")
            }
            Self::Count(pointer) => {
                object.pointer(pointer).and_then(Json::as_array).map_or(0, Vec::len).to_string()
            }
            Self::First(pointers) => pointers
                .iter()
                .map(|pointer| plain(object.pointer(pointer)))
                .find(|text| !text.is_empty())
                .unwrap_or_default(),
            Self::Other(compute) => compute(object, facts),
        }
    }
}

const fn column(heading: &'static str, cell: Cell) -> Column {
    Column { heading, cell }
}

const NAME: Column = column("NAME", Cell::At("/metadata/name"));
const ORDER: Column = column("ORDER", Cell::Number("/spec/order"));
const SELECTOR: Column = column("SELECTOR", Cell::At("/spec/selector"));
const TIER: Column = column("TIER", Cell::Or("/spec/tier", "default"));
const NODE: Column = column("NODE", Cell::At("/spec/node"));
const CIDR: Column = column("CIDR", Cell::At("/spec/cidr"));
const NODE_SELECTOR: Column = column("SELECTOR", Cell::At("/spec/nodeSelector"));
const WORKLOAD: Column = column("WORKLOAD", Cell::First(&["/spec/workload", "/spec/pod"]));
const NETWORKS: Column = column("NETWORKS", Cell::List("/spec/ipNetworks", 0));
const INTERFACE: Column = column("INTERFACE", Cell::At("/spec/interfaceName"));
const PROFILES: Column = column("PROFILES", Cell::List("/spec/profiles", 0));

/// The namespace, in front of the others when several namespaces are shown.
pub const NAMESPACE: Column = column("NAMESPACE", Cell::At("/metadata/namespace"));

/// The columns of a kind. `wide` adds what `-o wide` adds.
pub fn of(kind: ObjectKind, wide: bool) -> Vec<Column> {
    match kind {
        ObjectKind::Calico(kind) => calico(kind, wide),
        ObjectKind::Kubernetes(kind) => kubernetes(kind, wide),
    }
}

/// Every column of a kind that `custom-columns` can name.
pub fn all(kind: ObjectKind) -> Vec<Column> {
    let mut columns = of(kind, true);
    for column in of(kind, false) {
        if !columns.iter().any(|known| known.heading == column.heading) {
            columns.push(column);
        }
    }
    if kind == ObjectKind::Calico(Kind::WorkloadEndpoint) {
        columns.push(column("ORCHESTRATOR", Cell::At("/spec/orchestrator")));
    }
    if kind.is_namespaced() {
        columns.push(NAMESPACE);
    }
    columns
}

fn calico(kind: Kind, wide: bool) -> Vec<Column> {
    let mut columns = vec![NAME];
    let mut add = |more: &[Column]| columns.extend_from_slice(more);
    match kind {
        Kind::BGPConfiguration => add(&[
            column("LOGSEVERITY", Cell::At("/spec/logSeverityScreen")),
            column("MESHENABLED", Cell::Or("/spec/nodeToNodeMeshEnabled", "-")),
            column("ASNUMBER", Cell::Or("/spec/asNumber", "-")),
        ]),
        Kind::BGPFilter => add(&[
            column("NUMEXPORTV4", Cell::Count("/spec/exportV4")),
            column("NUMIMPORTV4", Cell::Count("/spec/importV4")),
            column("NUMEXPORTV6", Cell::Count("/spec/exportV6")),
            column("NUMIMPORTV6", Cell::Count("/spec/importV6")),
        ]),
        Kind::BGPPeer => add(&[
            column("PEERIP", Cell::At("/spec/peerIP")),
            column("NODE", Cell::Other(peer_node)),
            column("ASN", Cell::At("/spec/asNumber")),
        ]),
        Kind::BlockAffinity => add(&[NODE, CIDR, column("STATE", Cell::At("/spec/state"))]),
        Kind::CalicoNodeStatus => {
            add(&[NODE]);
            if wide {
                add(&[column("CLASSES", Cell::List("/spec/classes", 0))]);
            }
        }
        Kind::ClusterInformation => add(&[
            column("CLUSTERGUID", Cell::At("/spec/clusterGUID")),
            column("CLUSTERTYPE", Cell::At("/spec/clusterType")),
            column("CALICOVERSION", Cell::At("/spec/calicoVersion")),
            column("DATASTOREREADY", Cell::Bool("/spec/datastoreReady")),
        ]),
        Kind::GlobalNetworkPolicy
        | Kind::NetworkPolicy
        | Kind::StagedGlobalNetworkPolicy
        | Kind::StagedNetworkPolicy => {
            add(&[TIER]);
            if wide {
                add(&[ORDER, SELECTOR]);
            }
        }
        Kind::StagedKubernetesNetworkPolicy if wide => {
            add(&[column("PODSELECTOR", Cell::Map("/spec/podSelector/matchLabels"))]);
        }
        Kind::GlobalNetworkSet | Kind::NetworkSet if wide => {
            add(&[column("NETS", Cell::List("/spec/nets", 80))])
        }
        Kind::HostEndpoint => {
            add(&[NODE]);
            if wide {
                add(&[INTERFACE, column("IPS", Cell::List("/spec/expectedIPs", 0)), PROFILES]);
            }
        }
        Kind::IPAMConfiguration => {
            add(&[
                column("STRICTAFFINITY", Cell::Bool("/spec/strictAffinity")),
                column("AUTOALLOCATEBLOCKS", Cell::Bool("/spec/autoAllocateBlocks")),
            ]);
            if wide {
                add(&[column("MAXBLOCKSPERHOST", Cell::Or("/spec/maxBlocksPerHost", "0"))]);
            }
        }
        Kind::IPPool if wide => add(&[
            CIDR,
            column("NAT", Cell::Bool("/spec/natOutgoing")),
            column("IPIPMODE", Cell::Or("/spec/ipipMode", "Never")),
            column("VXLANMODE", Cell::Or("/spec/vxlanMode", "Never")),
            column("DISABLED", Cell::Bool("/spec/disabled")),
            column("DISABLEBGPEXPORT", Cell::Bool("/spec/disableBGPExport")),
            NODE_SELECTOR,
            column("ASSIGNMENTMODE", Cell::At("/spec/assignmentMode")),
        ]),
        Kind::IPPool => add(&[CIDR, NODE_SELECTOR]),
        Kind::IPReservation if wide => add(&[column("CIDRS", Cell::List("/spec/reservedCIDRs", 80))]),
        Kind::Node if wide => add(&[
            column("ASN", Cell::Other(node_as_number)),
            column("IPV4", Cell::At("/spec/bgp/ipv4Address")),
            column("IPV6", Cell::At("/spec/bgp/ipv6Address")),
        ]),
        Kind::Profile if wide => add(&[column("LABELS", Cell::Map("/spec/labelsToApply"))]),
        Kind::Tier => add(&[ORDER]),
        Kind::WorkloadEndpoint if wide => {
            add(&[WORKLOAD, NODE, NETWORKS, INTERFACE, PROFILES, column("NATS", Cell::Other(nats))])
        }
        Kind::WorkloadEndpoint => return vec![WORKLOAD, NODE, NETWORKS, INTERFACE],
        _ => {}
    }
    columns
}

fn kubernetes(kind: KubernetesKind, wide: bool) -> Vec<Column> {
    let mut columns = vec![NAME];
    match kind {
        KubernetesKind::Pod => columns
            .extend([column("NODE", Cell::At("/spec/nodeName")), column("IP", Cell::At("/status/podIP"))]),
        KubernetesKind::NetworkPolicy => {
            columns.push(column("POD-SELECTOR", Cell::Map("/spec/podSelector/matchLabels")));
        }
        KubernetesKind::Service => columns.extend([
            column("TYPE", Cell::Or("/spec/type", "ClusterIP")),
            column("CLUSTER-IP", Cell::At("/spec/clusterIP")),
        ]),
        _ => {}
    }
    if wide {
        columns.push(column("LABELS", Cell::Map("/metadata/labels")));
    }
    columns
}

fn peer_node(peer: &Json, _: &Facts) -> String {
    let texts = [text_at(peer, "/spec/node"), text_at(peer, "/spec/nodeSelector"), "(global)"];
    texts.into_iter().find(|text| !text.is_empty()).unwrap_or_default().to_owned()
}

fn node_as_number(node: &Json, facts: &Facts) -> String {
    match (node.pointer("/spec/bgp"), plain(node.pointer("/spec/bgp/asNumber"))) {
        (None | Some(Json::Null), _) => String::new(),
        (_, own) if !own.is_empty() => own,
        _ => format!("({})", facts.default_as_number),
    }
}

fn nats(endpoint: &Json, _: &Facts) -> String {
    let nats = endpoint.pointer("/spec/ipNATs").and_then(Json::as_array);
    let texts: Vec<String> = nats
        .into_iter()
        .flatten()
        .map(|nat| format!("{}={}", text_at(nat, "/internalIP"), text_at(nat, "/externalIP")))
        .collect();
    texts.join(",")
}

fn list(object: &Json, pointer: &str) -> Vec<String> {
    let items = object.pointer(pointer).and_then(Json::as_array);
    items.into_iter().flatten().map(|item| plain(Some(item))).collect()
}

fn plain(value: Option<&Json>) -> String {
    match value {
        None | Some(Json::Null) => String::new(),
        Some(Json::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(kind: Kind, wide: bool, object: &Json) -> Vec<String> {
        let facts = Facts { default_as_number: "64512".into() };
        of(ObjectKind::Calico(kind), wide).iter().map(|column| column.cell(object, &facts)).collect()
    }

    #[test]
    fn cells_follow_the_known_tables() {
        let policy = json!({"metadata": {"name": "p"}, "spec": {"order": 1_000_000, "selector": "a == 'b'"}});
        assert_eq!(row(Kind::NetworkPolicy, true, &policy), ["p", "default", "1e+06", "a == 'b'"]);
        let policy = json!({"metadata": {"name": "p"}, "spec": {"tier": "sec"}});
        assert_eq!(row(Kind::NetworkPolicy, true, &policy), ["p", "sec", "<nil>", ""]);
        let peer = json!({"metadata": {"name": "tor"}, "spec": {"peerIP": "10.0.0.1", "asNumber": 64513}});
        assert_eq!(row(Kind::BGPPeer, false, &peer), ["tor", "10.0.0.1", "(global)", "64513"]);
        let node = json!({"metadata": {"name": "n"}, "spec": {"bgp": {"ipv4Address": "10.0.0.2/24"}}});
        assert_eq!(row(Kind::Node, true, &node), ["n", "(64512)", "10.0.0.2/24", ""]);
        let pool = json!({"metadata": {"name": "i"}, "spec": {"cidr": "10.0.0.0/16", "natOutgoing": true}});
        assert_eq!(
            row(Kind::IPPool, true, &pool),
            ["i", "10.0.0.0/16", "true", "Never", "Never", "false", "false", "", ""]
        );
        let set = json!({"metadata": {"name": "s"}, "spec": {"nets": vec!["10.0.0.0/8"; 20]}});
        assert_eq!(row(Kind::NetworkSet, true, &set)[1].len(), 80);
    }

    #[test]
    fn headings_are_unique() {
        for kind in Kind::ALL.iter().filter(|kind| !kind.is_pseudo()) {
            let mut headings: Vec<&str> =
                all(ObjectKind::Calico(*kind)).iter().map(|column| column.heading).collect();
            headings.sort_unstable();
            let before = headings.len();
            headings.dedup();
            assert_eq!(headings.len(), before, "{kind}");
        }
    }
}
