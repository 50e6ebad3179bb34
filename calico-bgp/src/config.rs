//! What a speaker is told to do: itself, its peers, the routes that begin here.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::bfd::BfdConfig;
use crate::policy::{ExportPolicy, FibPolicy, ImportPolicy};
use crate::wire::iana::{BGP_PORT, FamilySet};

/// The whole configuration of a speaker. [`crate::Speaker::configure`] takes a new one at any time and applies only the
/// difference.
#[derive(Debug, Clone, PartialEq)]
pub struct SpeakerConfig {
    /// The BGP identifier.
    pub router_id: Ipv4Addr,
    /// The AS of this node.
    pub asn: u32,
    /// The cluster identifier when this node reflects routes.
    pub cluster_id: Option<Ipv4Addr>,
    /// The port to listen on.
    pub listen_port: u16,
    /// Addresses to listen on; empty means all.
    pub listen_addresses: Vec<IpAddr>,
    /// Sessions by name. Names are those of Calico's BIRD protocols, for example `Mesh_10_0_0_2`.
    pub peers: BTreeMap<Arc<str>, Arc<PeerConfig>>,
    /// Routes that begin here, of every origin.
    pub routes: BTreeMap<IpNet, LocalRoute>,
    /// Which routes go to the kernel, and how.
    pub fib: Arc<FibPolicy>,
    /// The most next hops of one kernel route; 1 switches multipath off.
    pub multipath: usize,
    /// This process has just been started anew and the kernel still forwards by the old routes: hold back the decision
    /// until every peer has sent its routes, or [`SpeakerConfig::selection_deferral`] is over (RFC 4724 section 4.1).
    /// Only looked at when the speaker is created.
    pub restarting: bool,
    /// How long a restarting speaker waits for its peers.
    pub selection_deferral: Duration,
}

impl SpeakerConfig {
    /// A speaker without peers and routes.
    pub fn new(router_id: Ipv4Addr, asn: u32) -> Self {
        SpeakerConfig {
            router_id,
            asn,
            cluster_id: None,
            listen_port: BGP_PORT,
            listen_addresses: Vec::new(),
            peers: BTreeMap::new(),
            routes: BTreeMap::new(),
            fib: Arc::new(FibPolicy::default()),
            multipath: 16,
            restarting: false,
            selection_deferral: Duration::from_secs(240),
        }
    }

    /// Adds a peer under its own name.
    pub fn with_peer(mut self, peer: PeerConfig) -> Self {
        self.peers.insert(peer.name.clone(), Arc::new(peer));
        self
    }

    /// Adds a route.
    pub fn with_route(mut self, prefix: IpNet, route: LocalRoute) -> Self {
        self.routes.insert(prefix.trunc(), route);
        self
    }
}

/// Why a session exists; shown to operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeerKind {
    /// The node-to-node mesh.
    Mesh,
    /// A BGPPeer that applies to all nodes.
    Global,
    /// A BGPPeer that applies to some nodes.
    Node,
    /// A workload of this node.
    LocalWorkload,
}

impl PeerKind {
    /// The words of `calicoctl node status`.
    pub const fn describe(self) -> &'static str {
        match self {
            PeerKind::Mesh => "node-to-node mesh",
            PeerKind::Global => "global",
            PeerKind::Node => "node specific",
            PeerKind::LocalWorkload => "local workload",
        }
    }
}

/// How the next hop of an exported route is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub enum NextHopMode {
    /// Kept inside the AS, own address towards another.
    #[default]
    Auto,
    /// Always the own address.
    SelfAddress,
    /// Always kept.
    Keep,
}

/// How far away a peer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ttl {
    /// Packets are sent with this TTL, none is demanded.
    Multihop(u8),
    /// GTSM (RFC 5082): packets are sent with TTL 255 and accepted with at least 256 minus this number of hops.
    Security(u8),
}

impl Ttl {
    /// The TTL to send with.
    pub const fn send(self) -> u8 {
        match self {
            Ttl::Multihop(ttl) => ttl,
            Ttl::Security(_) => 255,
        }
    }

    /// The least TTL to accept; 0 accepts all.
    pub const fn minimum(self) -> u8 {
        match self {
            Ttl::Multihop(_) => 0,
            Ttl::Security(hops) => match hops {
                0 => 255,
                hops => 255 - (hops - 1),
            },
        }
    }
}

/// How segments of the TCP connection are signed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Authentication {
    /// Not at all.
    None,
    /// TCP MD5 (RFC 2385), 1 to 80 octets.
    Md5(Arc<[u8]>),
    /// TCP-AO (RFC 5925), several keys for a change without a reset.
    Ao(Vec<AoKey>),
    /// A key is configured but cannot be had; the session stays down and tells why. Sending in the clear what was meant
    /// to be signed is not an option.
    Unavailable(Arc<str>),
}

impl std::fmt::Debug for Authentication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Authentication::None => f.write_str("None"),
            Authentication::Md5(_) => f.write_str("Md5(..)"),
            Authentication::Ao(keys) => write!(f, "Ao({} keys)", keys.len()),
            Authentication::Unavailable(reason) => write!(f, "Unavailable({reason})"),
        }
    }
}

/// One master key of TCP-AO.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct AoKey {
    /// Identifier in sent segments.
    pub send_id: u8,
    /// Identifier in received segments.
    pub receive_id: u8,
    /// Kernel name of the algorithm, for example `hmac(sha1)`.
    pub algorithm: Arc<str>,
    /// The key.
    pub secret: Arc<[u8]>,
}

/// Graceful restart of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GracefulRestartConfig {
    /// How long the peer should keep our routes after a loss of the session.
    pub restart_time: Duration,
    /// How long to keep a peer's routes beyond its restart time when both sides speak LLGR; zero is "aware only".
    pub long_lived_time: Duration,
}

impl Default for GracefulRestartConfig {
    fn default() -> Self {
        GracefulRestartConfig { restart_time: Duration::from_secs(120), long_lived_time: Duration::ZERO }
    }
}

/// One session. The defaults of [`PeerConfig::new`] are those of Calico's BIRD.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerConfig {
    /// The unique name.
    pub name: Arc<str>,
    /// Why the session exists.
    pub kind: PeerKind,
    /// The peer's address.
    pub address: IpAddr,
    /// The peer's port.
    pub port: u16,
    /// Our address; the source of connections and the next hop of our routes.
    pub local_address: Option<IpAddr>,
    /// Our address of the other family, for routes of a family that the session does not run over.
    pub other_family_address: Option<IpAddr>,
    /// The AS we show to this peer.
    pub local_as: u32,
    /// The AS the peer must have.
    pub remote_as: u32,
    /// Families to speak.
    pub families: FamilySet,
    /// Never dial.
    pub passive: bool,
    /// The session is switched off.
    pub disabled: bool,
    /// How segments are signed.
    pub authentication: Authentication,
    /// How far away the peer may be.
    pub ttl: Ttl,
    /// Proposed hold time.
    pub hold_time: Duration,
    /// Keepalive interval; a third of the agreed hold time when absent.
    pub keepalive_time: Option<Duration>,
    /// Time before the first dial.
    pub connect_delay: Duration,
    /// Time between dials.
    pub connect_retry: Duration,
    /// Pause after an error, doubled up to the second value with every further one.
    pub error_wait: (Duration, Duration),
    /// Graceful restart, `None` to do without.
    pub graceful_restart: Option<GracefulRestartConfig>,
    /// Offer to receive several paths per prefix.
    pub add_path_receive: bool,
    /// Offer to send several paths per prefix.
    pub add_path_send: bool,
    /// Offer messages of 65535 octets.
    pub extended_message: bool,
    /// Offer IPv6 next hops for IPv4 prefixes.
    pub extended_next_hop: bool,
    /// The peer is a client of this reflector, with this cluster identifier.
    pub reflector_client: Option<Ipv4Addr>,
    /// Next hop of exported routes.
    pub next_hop: NextHopMode,
    /// How often our own AS may stand in a received path.
    pub allow_own_as: u8,
    /// Refuse paths that do not begin with the peer's AS (external peers only).
    pub enforce_first_as: bool,
    /// Most prefixes per family to accept before the session is closed with 6/1.
    pub max_prefixes: Option<u32>,
    /// Pause after a session was closed by [`PeerConfig::max_prefixes`]; `None` keeps it down until reconfiguration.
    pub max_prefixes_restart: Option<Duration>,
    /// Do not establish before BFD is up, and close when it goes down.
    pub bfd: Option<BfdConfig>,
    /// What to do with received routes.
    pub import: ImportPolicy,
    /// What to send.
    pub export: Arc<ExportPolicy>,
}

impl PeerConfig {
    /// A session with the timers and capabilities of Calico's BIRD that accepts everything and exports everything.
    pub fn new(name: &str, address: IpAddr, local_as: u32, remote_as: u32) -> Self {
        PeerConfig {
            name: name.into(),
            kind: PeerKind::Global,
            address,
            port: BGP_PORT,
            local_address: None,
            other_family_address: None,
            local_as,
            remote_as,
            families: FamilySet::only(crate::wire::Family::of(address)),
            passive: false,
            disabled: false,
            authentication: Authentication::None,
            ttl: Ttl::Multihop(64),
            hold_time: Duration::from_secs(240),
            keepalive_time: None,
            connect_delay: Duration::from_secs(2),
            connect_retry: Duration::from_secs(5),
            error_wait: (Duration::from_secs(5), Duration::from_secs(30)),
            graceful_restart: Some(GracefulRestartConfig::default()),
            add_path_receive: true,
            add_path_send: true,
            extended_message: true,
            extended_next_hop: false,
            reflector_client: None,
            next_hop: NextHopMode::Auto,
            allow_own_as: 0,
            enforce_first_as: false,
            max_prefixes: None,
            max_prefixes_restart: None,
            bfd: None,
            import: ImportPolicy::default(),
            export: Arc::new(ExportPolicy::default()),
        }
    }

    /// Whether both sides are in one AS.
    pub const fn is_internal(&self) -> bool {
        self.local_as == self.remote_as
    }

    /// What changing from `self` to `new` takes.
    pub fn change_class(&self, new: &PeerConfig) -> ChangeClass {
        let mut probe = self.clone();
        probe.import = new.import.clone();
        probe.export = new.export.clone();
        probe.next_hop = new.next_hop;
        probe.reflector_client = new.reflector_client;
        probe.other_family_address = new.other_family_address;
        probe.allow_own_as = new.allow_own_as;
        probe.enforce_first_as = new.enforce_first_as;
        probe.max_prefixes = new.max_prefixes;
        probe.max_prefixes_restart = new.max_prefixes_restart;
        probe.connect_delay = new.connect_delay;
        probe.connect_retry = new.connect_retry;
        probe.error_wait = new.error_wait;
        probe.passive = new.passive;
        probe.kind = new.kind;
        probe.keepalive_time = new.keepalive_time;
        probe.bfd = new.bfd;
        // A key can be exchanged on an open connection; losing it or gaining the first one cannot.
        if matches!(
            (&self.authentication, &new.authentication),
            (Authentication::Md5(_), Authentication::Md5(_)) | (Authentication::Ao(_), Authentication::Ao(_))
        ) {
            probe.authentication = new.authentication.clone();
        }
        if *self == *new {
            ChangeClass::None
        } else if probe == *new {
            ChangeClass::Live
        } else {
            ChangeClass::Reset
        }
    }
}

/// How much a change of a [`PeerConfig`] disturbs its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChangeClass {
    /// Nothing changed.
    None,
    /// Applied on the running session: policies are run again over the routes already known.
    Live,
    /// The session is closed with 6/6 and dialled again.
    Reset,
}

/// Where a local route comes from; decides its preference against routes learned by BGP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LocalSource {
    /// A prefix of an interface.
    Direct,
    /// Configured, for example the block of addresses of this node.
    Static,
    /// Found in the kernel, for example the route of a workload.
    Kernel,
}

impl LocalSource {
    /// The preference of BIRD for such routes; routes learned by BGP have 100.
    pub const fn preference(self) -> u32 {
        match self {
            LocalSource::Direct => 240,
            LocalSource::Static => 200,
            LocalSource::Kernel => 10,
        }
    }
}

/// What the kernel gets for a local route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LocalInstall {
    /// Nothing: the kernel has it already, or must not have it.
    Nothing,
    /// A blackhole, so that packets to unused addresses do not leave the node again.
    Blackhole,
    /// A route through the gateway.
    Gateway,
}

/// A route that begins on this node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LocalRoute {
    /// Where it comes from.
    pub source: LocalSource,
    /// What the kernel gets for it.
    pub install: LocalInstall,
    /// The kernel's metric; the normal route priority when absent.
    pub metric: Option<u32>,
    /// The interface it points to.
    pub interface: Option<Arc<str>>,
    /// The gateway it goes through.
    pub gateway: Option<IpAddr>,
}

impl LocalRoute {
    /// A configured blackhole route, as for a block of addresses.
    pub fn blackhole() -> Self {
        LocalRoute { install: LocalInstall::Blackhole, ..LocalRoute::announced() }
    }

    /// A configured route that is only announced, never installed.
    pub const fn announced() -> Self {
        LocalRoute {
            source: LocalSource::Static,
            install: LocalInstall::Nothing,
            metric: None,
            interface: None,
            gateway: None,
        }
    }

    /// A configured route through a gateway, installed in the kernel.
    pub const fn through(gateway: IpAddr) -> Self {
        LocalRoute {
            source: LocalSource::Static,
            install: LocalInstall::Gateway,
            metric: None,
            interface: None,
            gateway: Some(gateway),
        }
    }

    /// A route of the kernel to a device, as for a workload.
    pub fn device(interface: &str, metric: Option<u32>) -> Self {
        LocalRoute {
            source: LocalSource::Kernel,
            install: LocalInstall::Nothing,
            metric,
            interface: Some(interface.into()),
            gateway: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gtsm_window() {
        assert_eq!((Ttl::Security(1).send(), Ttl::Security(1).minimum()), (255, 255));
        assert_eq!(Ttl::Security(10).minimum(), 246);
        assert_eq!((Ttl::Multihop(64).send(), Ttl::Multihop(64).minimum()), (64, 0));
    }

    #[test]
    fn only_what_the_open_carries_resets() {
        let base = PeerConfig::new("Global_10_0_0_1", "10.0.0.1".parse().unwrap(), 64512, 64512);
        assert_eq!(base.change_class(&base.clone()), ChangeClass::None);
        let live = PeerConfig { next_hop: NextHopMode::Keep, max_prefixes: Some(5), ..base.clone() };
        assert_eq!(base.change_class(&live), ChangeClass::Live);
        let reset = PeerConfig { hold_time: Duration::from_secs(9), ..base.clone() };
        assert_eq!(base.change_class(&reset), ChangeClass::Reset);
        let signed =
            |key: &[u8]| PeerConfig { authentication: Authentication::Md5(key.into()), ..base.clone() };
        assert_eq!(base.change_class(&signed(b"a")), ChangeClass::Reset);
        assert_eq!(signed(b"a").change_class(&signed(b"b")), ChangeClass::Live);
    }
}
