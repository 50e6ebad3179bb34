//! Constraints between fields, as CEL rules with messages.

use serde_json::{Value as Json, json};

/// A constraint between fields of one object.
#[derive(Debug, Clone, Copy)]
enum Rule {
    /// At most one of the two is given (not absent and not empty).
    NotBoth(&'static str, &'static str),
    /// Both are given or none is.
    Together(&'static str, &'static str),
    /// The first needs the second.
    Needs(&'static str, &'static str),
    /// At least one of the two is given.
    OneOf(&'static str, &'static str),
    /// `global()` has no meaning in this selector.
    NoGlobal(&'static str),
    /// Any expression, with a message.
    That(&'static str, &'static str),
}
use Rule::{Needs, NoGlobal, NotBoth, OneOf, That, Together};

/// `protocol` (or `notProtocol`) is one of ICMP's, and `ipVersion` disagrees.
const ICMP_V4: &str = "!(has(self.protocol) && self.protocol in ['ICMP', 1] && has(self.ipVersion) && \
    self.ipVersion != 4)";
const ICMP_V6: &str = "!(has(self.protocol) && self.protocol in ['ICMPv6', 58] && has(self.ipVersion) && \
    self.ipVersion != 6)";
const NOT_ICMP_V4: &str = "!(has(self.notProtocol) && self.notProtocol in ['ICMP', 1] && has(self.ipVersion) && \
    self.ipVersion != 4)";
const NOT_ICMP_V6: &str = "!(has(self.notProtocol) && self.notProtocol in ['ICMPv6', 58] && has(self.ipVersion) && \
    self.ipVersion != 6)";
const DISAGREES: &str = "ipVersion is not that of the ICMP protocol";

/// Rules of global policies besides those of their selectors.
const PRE_DNAT: [Rule; 4] = [
    That(
        "!(has(self.doNotTrack) && self.doNotTrack && has(self.preDNAT) && self.preDNAT)",
        "doNotTrack cannot be combined with preDNAT",
    ),
    That(
        "!(has(self.preDNAT) && self.preDNAT && has(self.egress) && size(self.egress) > 0)",
        "a preDNAT policy has no egress rules",
    ),
    That(
        "!(has(self.preDNAT) && self.preDNAT && has(self.types) && 'Egress' in self.types)",
        "a preDNAT policy does not apply to egress",
    ),
    That(
        "!((has(self.doNotTrack) && self.doNotTrack || has(self.preDNAT) && self.preDNAT) && \
         !(has(self.applyOnForward) && self.applyOnForward))",
        "doNotTrack and preDNAT need applyOnForward",
    ),
];

const fn on_global(rest: [Rule; 3]) -> [Rule; 7] {
    let [a, b, c, d] = PRE_DNAT;
    let [e, f, g] = rest;
    [a, b, c, d, e, f, g]
}

const GLOBAL_POLICY: [Rule; 7] =
    on_global([NoGlobal("selector"), NoGlobal("serviceAccountSelector"), NoGlobal("namespaceSelector")]);
const POLICY: [Rule; 2] = [NoGlobal("selector"), NoGlobal("serviceAccountSelector")];

/// Rules by the type (or `Type.field`, or kind) they belong to.
const RULES: &[(&str, &[Rule])] = &[
    ("NetworkPolicySpec", &POLICY),
    ("StagedNetworkPolicySpec", &POLICY),
    ("GlobalNetworkPolicySpec", &GLOBAL_POLICY),
    ("StagedGlobalNetworkPolicySpec", &GLOBAL_POLICY),
    (
        "Rule",
        &[
            That(
                "!has(self.http) || !has(self.protocol) || self.protocol in ['TCP', 6]",
                "http needs protocol TCP, or none",
            ),
            That("!has(self.http) || self.action == 'Allow'", "http needs action Allow"),
            That(
                "!has(self.destination) || !has(self.destination.services) || \
                 !(has(self.destination.ports) && size(self.destination.ports) > 0 || \
                 has(self.destination.notPorts) && size(self.destination.notPorts) > 0)",
                "destination services bring their own ports",
            ),
            That(
                "!has(self.icmp) || has(self.protocol) && self.protocol in ['ICMP', 'ICMPv6', 1, 58]",
                "icmp needs protocol ICMP or ICMPv6",
            ),
            That(ICMP_V4, DISAGREES),
            That(ICMP_V6, DISAGREES),
            That(NOT_ICMP_V4, DISAGREES),
            That(NOT_ICMP_V6, DISAGREES),
        ],
    ),
    (
        "EntityRule",
        &[
            NoGlobal("selector"),
            NotBoth("services", "namespaceSelector"),
            NotBoth("services", "serviceAccounts"),
            NotBoth("services", "selector"),
            NotBoth("services", "notSelector"),
            NotBoth("services", "nets"),
            NotBoth("services", "notNets"),
        ],
    ),
    ("ServiceMatch", &[That("has(self.name) && size(self.name) > 0", "a service needs a name")]),
    ("IcmpFields", &[That("!has(self.code) || has(self.type)", "an ICMP code needs a type")]),
    (
        "Tier",
        &[
            That(
                "self.metadata.name != 'default' || has(self.spec.defaultAction) && self.spec.defaultAction == 'Deny' \
                 && has(self.spec.order) && self.spec.order == 1000000.0",
                "the tier default has order 1000000 and default action Deny",
            ),
            That(
                "self.metadata.name != 'kube-admin' || has(self.spec.defaultAction) && \
                 self.spec.defaultAction == 'Pass' && has(self.spec.order) && self.spec.order == 1000.0",
                "the tier kube-admin has order 1000 and default action Pass",
            ),
            That(
                "self.metadata.name != 'kube-baseline' || has(self.spec.defaultAction) && \
                 self.spec.defaultAction == 'Pass' && has(self.spec.order) && self.spec.order == 10000000.0",
                "the tier kube-baseline has order 10000000 and default action Pass",
            ),
        ],
    ),
    (
        "HostEndpointSpec",
        &[
            OneOf("interfaceName", "expectedIPs"),
            That("has(self.node) && size(self.node) > 0", "a host endpoint needs a node"),
        ],
    ),
    (
        "IPPoolSpec",
        &[
            That(
                "!has(self.ipipMode) || !has(self.vxlanMode) || self.ipipMode in ['', 'Never'] || \
                 self.vxlanMode in ['', 'Never']",
                "ipipMode cannot be combined with vxlanMode",
            ),
            That(
                "!has(self.ipipMode) || self.ipipMode in ['', 'Never'] || cidr(self.cidr).ip().family() == 4",
                "ipipMode is for IPv4 only",
            ),
            That("cidr(self.cidr) == cidr(self.cidr).masked()", "the network has host bits set"),
            That(
                "!cidr('169.254.0.0/16').containsIP(cidr(self.cidr).ip()) && !cidr(self.cidr).containsIP('169.254.0.0')",
                "the network overlaps with 169.254.0.0/16",
            ),
            That(
                "!cidr('fe80::/10').containsIP(cidr(self.cidr).ip()) && !cidr(self.cidr).containsIP('fe80::')",
                "the network overlaps with fe80::/10",
            ),
            That(
                "!has(self.blockSize) || self.blockSize == 0 || (cidr(self.cidr).ip().family() == 4 ? \
                 self.blockSize >= 20 && self.blockSize <= 32 : self.blockSize >= 116)",
                "blockSize is 20 to 32 for IPv4 and 116 to 128 for IPv6",
            ),
            That(
                "has(self.disabled) && self.disabled || cidr(self.cidr).prefixLength() <= \
                 (has(self.blockSize) && self.blockSize != 0 ? self.blockSize : \
                 (cidr(self.cidr).ip().family() == 4 ? 26 : 122))",
                "the pool is smaller than one block",
            ),
            NoGlobal("nodeSelector"),
            NoGlobal("namespaceSelector"),
            That(LOAD_BALANCER_ALONE, "LoadBalancer cannot be combined with other uses"),
            That(LOAD_BALANCER_PLAIN, "a pool for LoadBalancer has no encapsulation"),
            That(LOAD_BALANCER_EXPORTED, "a pool for LoadBalancer is exported over BGP"),
            That(LOAD_BALANCER_EVERYWHERE, "a pool for LoadBalancer has nodeSelector all()"),
            That(
                "!(has(self.allowedUses) && 'Tunnel' in self.allowedUses) || !has(self.namespaceSelector) || \
                 size(self.namespaceSelector) == 0",
                "the use Tunnel cannot be combined with namespaceSelector",
            ),
        ],
    ),
    ("IPPoolSpec.cidr", &[That("self == oldSelf", "the network of a pool cannot be changed")]),
    ("IPPoolSpec.blockSize", &[That("self == oldSelf", "the block size of a pool cannot be changed")]),
    (
        "BGPConfigurationSpec",
        &[
            That(
                "!has(self.nodeMeshPassword) || !has(self.nodeToNodeMeshEnabled) || self.nodeToNodeMeshEnabled",
                "nodeMeshPassword needs the mesh",
            ),
            That(
                "!has(self.nodeMeshMaxRestartTime) || !has(self.nodeToNodeMeshEnabled) || self.nodeToNodeMeshEnabled",
                "nodeMeshMaxRestartTime needs the mesh",
            ),
            Needs("communities", "prefixAdvertisements"),
        ],
    ),
    (
        "BGPPeerSpec",
        &[
            NotBoth("node", "nodeSelector"),
            NotBoth("peerIP", "peerSelector"),
            That(
                "!(has(self.peerSelector) && size(self.peerSelector) > 0) || !has(self.asNumber) || self.asNumber == 0",
                "asNumber cannot be combined with peerSelector",
            ),
            NotBoth("localWorkloadSelector", "peerIP"),
            NotBoth("localWorkloadSelector", "peerSelector"),
            That(
                "!(has(self.localWorkloadSelector) && size(self.localWorkloadSelector) > 0) || \
                 has(self.asNumber) && self.asNumber != 0",
                "localWorkloadSelector needs asNumber",
            ),
            Needs("reachableBy", "peerIP"),
            That(
                "!(has(self.keepOriginalNextHop) && self.keepOriginalNextHop && has(self.nextHopMode))",
                "keepOriginalNextHop cannot be combined with nextHopMode, its successor",
            ),
        ],
    ),
    (
        "BGPFilterRule",
        &[
            Together("cidr", "matchOperator"),
            That(
                "!has(self.prefixLength) || has(self.cidr) && size(self.cidr) > 0",
                "prefixLength needs cidr",
            ),
            That(
                "!has(self.operations) || size(self.operations) == 0 || self.action == 'Accept'",
                "operations need action Accept",
            ),
        ],
    ),
    (
        "FelixConfiguration",
        &[That(
            "!(self.metadata.name == 'default' || self.metadata.name.startsWith('node.')) || \
             !has(self.spec.nodeSelector)",
            "nodeSelector is for configurations with a name other than default and node.<node>",
        )],
    ),
    (
        "FelixConfigurationSpec",
        &[
            That(
                "!(has(self.routeTableRange) && has(self.routeTableRanges))",
                "routeTableRange cannot be combined with routeTableRanges",
            ),
            That(
                "!has(self.natOutgoingAddress) || self.natOutgoingAddress == '' || \
                 isIP(self.natOutgoingAddress) && ip(self.natOutgoingAddress).family() == 4",
                "natOutgoingAddress is an IPv4 address",
            ),
            That(
                "!has(self.deviceRouteSourceAddress) || self.deviceRouteSourceAddress == '' || \
                 isIP(self.deviceRouteSourceAddress) && ip(self.deviceRouteSourceAddress).family() == 4",
                "deviceRouteSourceAddress is an IPv4 address",
            ),
            That(
                "!has(self.deviceRouteSourceAddressIPv6) || self.deviceRouteSourceAddressIPv6 == '' || \
                 isIP(self.deviceRouteSourceAddressIPv6) && ip(self.deviceRouteSourceAddressIPv6).family() == 6",
                "deviceRouteSourceAddressIPv6 is an IPv6 address",
            ),
        ],
    ),
    ("FelixConfigurationSpec.routeTableRange", &[That("self.max <= 250", "tables are within 1 and 250")]),
    (
        "RouteTableIdRange",
        &[
            That("self.min >= 1", "min is at least 1"),
            That("self.min <= self.max", "min is not greater than max"),
        ],
    ),
];

const LOAD_BALANCER_ALONE: &str = "!(has(self.allowedUses) && 'LoadBalancer' in self.allowedUses) || \
    !('Workload' in self.allowedUses || 'Tunnel' in self.allowedUses)";
const LOAD_BALANCER_PLAIN: &str = "!(has(self.allowedUses) && 'LoadBalancer' in self.allowedUses) || \
    (!has(self.ipipMode) || self.ipipMode in ['', 'Never']) && (!has(self.vxlanMode) || self.vxlanMode in ['', 'Never'])";
const LOAD_BALANCER_EXPORTED: &str = "!(has(self.allowedUses) && 'LoadBalancer' in self.allowedUses) || \
    !has(self.disableBGPExport) || !self.disableBGPExport";
const LOAD_BALANCER_EVERYWHERE: &str = "!(has(self.allowedUses) && 'LoadBalancer' in self.allowedUses) || \
    self.nodeSelector == 'all()'";

/// The fields that are structs, which have no size.
const STRUCTS: [&str; 2] = ["services", "serviceAccounts"];

/// The field is there and not empty.
fn given(field: &str) -> String {
    if STRUCTS.contains(&field) {
        format!("has(self.{field})")
    } else {
        format!("(has(self.{field}) && size(self.{field}) > 0)")
    }
}

/// The rules of a type, as they stand in a schema.
pub(super) fn rules(place: &str) -> Vec<Json> {
    let found = RULES.iter().filter(|(p, _)| *p == place).flat_map(|(_, rules)| rules.iter());
    found.map(render).collect()
}

/// All places that have rules.
#[cfg(test)]
pub(super) fn places() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|(p, _)| *p)
}

fn render(rule: &Rule) -> Json {
    let (expression, message) = match *rule {
        NotBoth(a, b) => {
            (format!("!({} && {})", given(a), given(b)), format!("{a} cannot be combined with {b}"))
        }
        Together(a, b) => (format!("{} == {}", given(a), given(b)), format!("{a} and {b} need each other")),
        Needs(a, b) => (format!("!{} || {}", given(a), given(b)), format!("{a} needs {b}")),
        OneOf(a, b) => (format!("{} || {}", given(a), given(b)), format!("needs {a} or {b}")),
        NoGlobal(f) => (
            format!("!has(self.{f}) || !self.{f}.contains('global(')"),
            format!("global() has no meaning in {f}"),
        ),
        That(expression, message) => (expression.to_owned(), message.to_owned()),
    };
    json!({"rule": expression, "message": message, "reason": "FieldValueInvalid"})
}
