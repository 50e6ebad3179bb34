//! Status of the programs on a node.

use crate::Timestamp;
use crate::shape::{object, text_enum};

text_enum! {
    /// What a node status reports.
    pub enum NodeStatusClass {
        /// State of the programs.
        Agent = "Agent",
        /// BGP sessions.
        Bgp = "BGP",
        /// Routes.
        Routes = "Routes",
    }

    /// State of a BGP daemon.
    pub enum DaemonState {
        /// Up.
        Ready = "Ready",
        /// Down or starting.
        NotReady = "NotReady",
    }

    /// Why a node has a session.
    pub enum BgpPeerType {
        /// Full mesh of nodes.
        NodeMesh = "NodeMesh",
        /// A peer of this node.
        NodePeer = "NodePeer",
        /// A peer of all nodes.
        GlobalPeer = "GlobalPeer",
    }

    /// State of a session (RFC 4271 §8).
    pub enum BgpSessionState {
        /// Idle.
        Idle = "Idle",
        /// Connecting.
        Connect = "Connect",
        /// Listening.
        Active = "Active",
        /// OPEN sent.
        OpenSent = "OpenSent",
        /// OPEN received.
        OpenConfirm = "OpenConfirm",
        /// Up.
        Established = "Established",
        /// Closing.
        Close = "Close",
    }

    /// Where a route is.
    pub enum RouteTableType {
        /// In the kernel.
        Fib = "FIB",
        /// In the daemon only.
        Rib = "RIB",
    }

    /// How a route was learned.
    pub enum RouteSourceType {
        /// From the kernel.
        Kernel = "Kernel",
        /// Configured.
        Static = "Static",
        /// From an address of an interface.
        Direct = "Direct",
        /// From the full mesh.
        NodeMesh = "NodeMesh",
        /// From another peer.
        BgpPeer = "BGPPeer",
    }
}

object! {
    /// Spec of a `CalicoNodeStatus`.
    pub struct CalicoNodeStatusSpec {
        /// The node.
        node: String = "node",
        /// What to report.
        classes: Vec<NodeStatusClass> = "classes",
        /// Seconds between reports, 0–86400; 0 stops them.
        update_period_seconds: Option<i32> = "updatePeriodSeconds",
    }

    /// Status of a `CalicoNodeStatus`.
    pub struct CalicoNodeStatusStatus {
        /// When the report was made.
        last_updated: Option<Timestamp> = "lastUpdated",
        /// State of the programs.
        agent: AgentStatus = "agent",
        /// Sessions.
        bgp: BgpStatus = "bgp",
        /// Routes.
        routes: RoutesStatus = "routes",
    }

    /// State of the programs of a node.
    pub struct AgentStatus {
        /// IPv4 BGP daemon.
        bird_v4: DaemonStatus = "birdV4",
        /// IPv6 BGP daemon.
        bird_v6: DaemonStatus = "birdV6",
    }

    /// State of a BGP daemon.
    pub struct DaemonStatus {
        /// Up or not.
        state: DaemonState = "state",
        /// Version.
        version: String = "version",
        /// Router id.
        router_id: String = "routerID",
        /// When it started.
        last_boot_time: String = "lastBootTime",
        /// When its configuration changed last.
        last_reconfiguration_time: String = "lastReconfigurationTime",
    }

    /// A session.
    pub struct NodePeer {
        /// Address of the peer.
        peer_ip: String = "peerIP",
        /// Why there is a session.
        peer_type: BgpPeerType = "type",
        /// State of the session.
        state: BgpSessionState = "state",
        /// Since when.
        since: String = "since",
    }

    /// Routes of a node.
    pub struct RoutesStatus {
        /// IPv4 routes.
        routes_v4: Vec<NodeRoute> = "routesV4",
        /// IPv6 routes.
        routes_v6: Vec<NodeRoute> = "routesV6",
    }

    /// A route.
    pub struct NodeRoute {
        /// Where it is.
        route_type: RouteTableType = "type",
        /// Destination network.
        destination: String = "destination",
        /// Gateway.
        gateway: String = "gateway",
        /// Interface.
        interface: String = "interface",
        /// How it was learned.
        learned_from: RouteLearnedFrom = "learnedFrom",
    }

    /// How a route was learned.
    pub struct RouteLearnedFrom {
        /// Source.
        source_type: RouteSourceType = "sourceType",
        /// Peer, when the source is one.
        peer_ip: String = "peerIP",
    }
}

object! {
    /// Sessions of a node.
    pub struct BgpStatus always {
        /// Established IPv4 sessions.
        number_established_v4: i64 = "numberEstablishedV4",
        /// Established IPv6 sessions.
        number_established_v6: i64 = "numberEstablishedV6",
        /// Other IPv4 sessions.
        number_not_established_v4: i64 = "numberNotEstablishedV4",
        /// Other IPv6 sessions.
        number_not_established_v6: i64 = "numberNotEstablishedV6",
        /// IPv4 sessions.
        peers_v4: Option<Vec<NodePeer>> = "peersV4",
        /// IPv6 sessions.
        peers_v6: Option<Vec<NodePeer>> = "peersV6",
    }
}
