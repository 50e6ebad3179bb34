//! BGP configuration, peers and filters.

use crate::shape::{object, text_enum};
use crate::{ASNumber, GoDuration};

text_enum! {
    /// A switch.
    pub enum Switch {
        /// On.
        Enabled = "Enabled",
        /// Off.
        Disabled = "Disabled",
    }

    /// Which routes to the pods of other nodes a program installs.
    pub enum ClusterRoutes {
        /// All.
        Enabled = "Enabled",
        /// None.
        Disabled = "Disabled",
        /// Those of IP-in-IP pools.
        EnabledIpipOnly = "EnabledIPIPOnly",
        /// Those of pools without encapsulation.
        EnabledNoEncapOnly = "EnabledNoEncapOnly",
    }

    /// Address on which the BGP listener binds.
    pub enum BindMode {
        /// All addresses.
        None = "None",
        /// The node's addresses only.
        NodeIp = "NodeIP",
    }

    /// How verbose a log is.
    pub enum LogSeverity any_case {
        /// Everything.
        Trace = "Trace",
        /// Details for debugging.
        Debug = "Debug",
        /// Normal events.
        Info = "Info",
        /// Things that may be wrong.
        Warning = "Warning",
        /// Things that are wrong.
        Error = "Error",
        /// Things after which the program ends.
        Fatal = "Fatal",
    }

    /// Next hop written in advertised routes.
    pub enum NextHopMode {
        /// Self for eBGP, unchanged for iBGP as the protocol says.
        Auto = "Auto",
        /// This node.
        SelfHop = "Self",
        /// Unchanged.
        Keep = "Keep",
    }

    /// Source address of a BGP session.
    pub enum SourceAddress {
        /// The node's BGP address.
        UseNodeIp = "UseNodeIP",
        /// Whatever the kernel picks.
        None = "None",
    }

    /// Whether the other side's session of a peering is derived too.
    pub enum ReversePeering {
        /// Yes.
        Auto = "Auto",
        /// No.
        Manual = "Manual",
    }

    /// Verdict of a filter rule.
    pub enum FilterAction {
        /// Take the route.
        Accept = "Accept",
        /// Refuse the route.
        Reject = "Reject",
    }

    /// How a filter rule compares a prefix with its CIDR.
    pub enum FilterMatchOperator {
        /// The prefix is the CIDR.
        Equal = "Equal",
        /// The prefix is not the CIDR.
        NotEqual = "NotEqual",
        /// The prefix lies inside the CIDR.
        In = "In",
        /// The prefix does not lie inside the CIDR.
        NotIn = "NotIn",
    }

    /// Where a route comes from, for a filter rule.
    pub enum FilterSource {
        /// Learned from another node of the cluster.
        RemotePeers = "RemotePeers",
    }

    /// Kind of session a filter rule applies to.
    pub enum FilterPeerType {
        /// Between different autonomous systems.
        EBgp = "eBGP",
        /// Within one autonomous system.
        IBgp = "iBGP",
    }
}

object! {
    /// Spec of a `BGPConfiguration`.
    pub struct BGPConfigurationSpec {
        /// Log verbosity; unset means `Info`.
        log_severity_screen: LogSeverity = "logSeverityScreen",
        /// Every node peers with every other; absent means yes. Only on `default`.
        node_to_node_mesh_enabled: Option<bool> = "nodeToNodeMeshEnabled",
        /// AS number of nodes that have none; absent means 64512. Only on `default`.
        as_number: Option<ASNumber> = "asNumber",
        /// Networks of load-balancer addresses to advertise. Only on `default`.
        service_load_balancer_ips: Vec<ServiceBlock> = "serviceLoadBalancerIPs",
        /// Networks of external addresses to advertise. Only on `default`.
        service_external_ips: Vec<ServiceBlock> = "serviceExternalIPs",
        /// Networks of cluster addresses to advertise. Only on `default`.
        service_cluster_ips: Vec<ServiceBlock> = "serviceClusterIPs",
        /// Advertise the networks as a whole rather than single load-balancer addresses; unset means `Enabled`.
        service_load_balancer_aggregation: Switch = "serviceLoadBalancerAggregation",
        /// Names for communities.
        communities: Vec<Community> = "communities",
        /// Communities attached to prefixes.
        prefix_advertisements: Vec<PrefixAdvertisement> = "prefixAdvertisements",
        /// TCP port of the listener; 0 means 179.
        listen_port: u16 = "listenPort",
        /// Password of the sessions of the mesh. Only on `default`.
        node_mesh_password: Option<BgpPassword> = "nodeMeshPassword",
        /// Graceful-restart time of the mesh; absent means 120 s. Only on `default`.
        node_mesh_max_restart_time: Option<GoDuration> = "nodeMeshMaxRestartTime",
        /// Address of the listener; unset means `None`, all addresses.
        bind_mode: BindMode = "bindMode",
        /// Interfaces whose addresses are not advertised; `*` is a wildcard.
        ignored_interfaces: Vec<String> = "ignoredInterfaces",
        /// IPv4 address that local workloads peer with.
        local_workload_peering_ip_v4: String = "localWorkloadPeeringIPV4",
        /// IPv6 address that local workloads peer with.
        local_workload_peering_ip_v6: String = "localWorkloadPeeringIPV6",
        /// Routes installed by BGP; unset means `EnabledNoEncapOnly`. Complements the Felix field.
        program_cluster_routes: ClusterRoutes = "programClusterRoutes",
        /// Kernel priority of IPv4 routes, 1–2147483646; absent means 1024.
        ipv4_normal_route_priority: Option<i32> = "ipv4NormalRoutePriority",
        /// Kernel priority of IPv6 routes, 1–2147483646; absent means 1024.
        ipv6_normal_route_priority: Option<i32> = "ipv6NormalRoutePriority",
    }

    /// A network of service addresses.
    pub struct ServiceBlock {
        /// The network.
        cidr: String = "cidr",
    }

    /// A named community.
    pub struct Community {
        /// Name.
        name: String = "name",
        /// `aa:nn` (RFC 1997) or `aa:nn:mm` (RFC 8092).
        value: String = "value",
    }

    /// Communities of a prefix.
    pub struct PrefixAdvertisement {
        /// The prefix.
        cidr: String = "cidr",
        /// Community values or names.
        communities: Vec<String> = "communities",
    }

    /// Where the password of a session is kept.
    pub struct BgpPassword {
        /// Key of a Kubernetes secret.
        secret_key_ref: Option<SecretKeySelector> = "secretKeyRef",
    }

    /// Key of a Kubernetes secret.
    pub struct SecretKeySelector {
        /// Name of the secret.
        name: String = "name",
        /// Key within the secret.
        key: String = "key",
        /// True when secret and key need not exist.
        optional: Option<bool> = "optional",
    }

    /// Spec of a `BGPPeer`.
    pub struct BGPPeerSpec {
        /// Node that peers; empty for all nodes (or `nodeSelector`).
        node: String = "node",
        /// Selects nodes that peer.
        node_selector: String = "nodeSelector",
        /// Address of the peer, with optional port.
        peer_ip: String = "peerIP",
        /// AS number of the peer.
        as_number: ASNumber = "asNumber",
        /// AS number this side uses with the peer.
        local_as_number: Option<ASNumber> = "localASNumber",
        /// Selects nodes to peer with.
        peer_selector: String = "peerSelector",
        /// Deprecated form of next-hop mode `Keep`.
        keep_original_next_hop: bool = "keepOriginalNextHop",
        /// Next hop in advertised routes.
        next_hop_mode: NextHopMode = "nextHopMode",
        /// TCP MD5 password (RFC 2385).
        password: Option<BgpPassword> = "password",
        /// Source address of the session; unset means `UseNodeIP`.
        source_address: SourceAddress = "sourceAddress",
        /// Graceful-restart time; absent means 120 s.
        max_restart_time: Option<GoDuration> = "maxRestartTime",
        /// Keepalive interval.
        keepalive_time: Option<GoDuration> = "keepaliveTime",
        /// How often the own AS number may appear in a received path.
        num_allowed_local_as_numbers: Option<i32> = "numAllowedLocalASNumbers",
        /// Generalised TTL security (RFC 5082): hops to the peer.
        ttl_security: Option<u8> = "ttlSecurity",
        /// Gateway through which the peer is reached.
        reachable_by: String = "reachableBy",
        /// Names of filters, in order.
        filters: Vec<String> = "filters",
        /// Selects local workloads to peer with.
        local_workload_selector: String = "localWorkloadSelector",
        /// Whether the selected nodes peer back; unset means `Auto`.
        reverse_peering: ReversePeering = "reversePeering",
    }

    /// Spec of a `BGPFilter`.
    pub struct BGPFilterSpec {
        /// Rules for IPv4 routes sent.
        export_v4: Vec<BGPFilterRule> = "exportV4",
        /// Rules for IPv4 routes received.
        import_v4: Vec<BGPFilterRule> = "importV4",
        /// Rules for IPv6 routes sent.
        export_v6: Vec<BGPFilterRule> = "exportV6",
        /// Rules for IPv6 routes received.
        import_v6: Vec<BGPFilterRule> = "importV6",
    }

    /// One rule of a filter; the first that matches decides.
    pub struct BGPFilterRule {
        /// Network to compare with.
        cidr: String = "cidr",
        /// Prefix lengths that match.
        prefix_length: Option<BGPFilterPrefixLength> = "prefixLength",
        /// Where the route comes from.
        source: FilterSource = "source",
        /// Interface of the route; `*` is a wildcard.
        interface: String = "interface",
        /// How to compare with `cidr`.
        match_operator: FilterMatchOperator = "matchOperator",
        /// Kind of session.
        peer_type: FilterPeerType = "peerType",
        /// Community the route must carry.
        communities: Option<BGPFilterCommunities> = "communities",
        /// AS path must begin with these numbers.
        as_path_prefix: Vec<ASNumber> = "asPathPrefix",
        /// Kernel priority the route must have.
        priority: Option<i32> = "priority",
        /// Verdict; required.
        action: FilterAction = "action",
        /// Changes to accepted routes, in order.
        operations: Vec<BGPFilterOperation> = "operations",
    }

    /// Bounds of a prefix length.
    pub struct BGPFilterPrefixLength {
        /// Shortest.
        min: Option<i32> = "min",
        /// Longest.
        max: Option<i32> = "max",
    }

    /// Communities to look for.
    pub struct BGPFilterCommunities {
        /// Exactly one value.
        values: Vec<String> = "values",
    }

    /// One change to a route: exactly one field.
    pub struct BGPFilterOperation {
        /// Attach a community.
        add_community: Option<AddCommunity> = "addCommunity",
        /// Lengthen the AS path.
        prepend_as_path: Option<PrependAsPath> = "prependASPath",
        /// Set the kernel priority.
        set_priority: Option<SetPriority> = "setPriority",
    }

    /// Attach a community.
    pub struct AddCommunity {
        /// The community.
        value: String = "value",
    }

    /// Lengthen the AS path.
    pub struct PrependAsPath {
        /// Numbers to put in front, in order.
        prefix: Vec<ASNumber> = "prefix",
    }

    /// Set the kernel priority.
    pub struct SetPriority {
        /// The priority, 1–2147483646.
        value: i32 = "value",
    }
}
