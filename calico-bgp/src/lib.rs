//! A sans-IO BGP speaker with Calico's peering, export and import semantics.
//!
//! [`Speaker`] holds all peers and routes of a node. It opens no socket and reads no clock: the caller feeds it with
//! [`Input`]s and carries out its [`Event`]s. The other modules are useful alone: [`wire`] is a codec with RFC 7606
//! error handling, [`policy`] says which routes leave a node and which reach its kernel, [`sim`] is a network of
//! speakers inside a test.
//!
//! # Memory
//!
//! An IPv4 prefix with one path takes 40 octets, 4 to 11 of index and 8 per update group; every further path 20. Sets of
//! attributes are stored once however many prefixes share them, and messages once however many peers they go to. The
//! example `million` measures 71 to 73 octets per prefix all told, for 1 as for 50 receivers.
//!
//! # Driving a speaker
//!
//! ```
//! use std::time::Instant;
//! use calico_bgp::config::{LocalRoute, PeerConfig, SpeakerConfig};
//! use calico_bgp::{ConnectionId, Event, Input, Speaker};
//!
//! let now = Instant::now();
//! let config = SpeakerConfig::new("10.0.0.1".parse().unwrap(), 64512)
//!     .with_peer(PeerConfig::new("Mesh_10_0_0_2", "10.0.0.2".parse().unwrap(), 64512, 64512))
//!     .with_route("10.1.0.0/26".parse().unwrap(), LocalRoute::blackhole());
//! let mut speaker = Speaker::new(now, config, 1);
//!
//! // After every call: octets first, then the next deadline, then events.
//! assert_eq!(speaker.poll_transmit(), None);
//! let wake = speaker.poll_timeout().unwrap();
//! assert!(matches!(speaker.poll_event(), Some(Event::Fib(_))), "the block gets a blackhole route");
//!
//! // The connect delay is over: the speaker wants to dial.
//! speaker.handle(wake, Input::Timeout);
//! let events: Vec<Event> = std::iter::from_fn(|| speaker.poll_event()).collect();
//! let Some(Event::Connect { dial, remote, .. }) = events.first() else { panic!("{events:?}") };
//! assert_eq!(remote.to_string(), "10.0.0.2:179");
//!
//! // The caller connected; the first octets to write are an OPEN.
//! let connection = ConnectionId(1);
//! let local = "10.0.0.1:40000".parse().unwrap();
//! speaker.handle(wake, Input::Connected { dial: *dial, connection, local });
//! let open = speaker.poll_transmit().unwrap();
//! assert_eq!((open.connection, open.bytes[18]), (connection, 1));
//! ```

#![forbid(unsafe_code)]

pub mod bfd;
pub mod bird;
pub mod config;
pub mod event;
pub mod fsm;
pub mod mesh;
mod peer;
pub mod policy;
mod restart;
pub mod rib;
pub mod route;
pub mod sim;
pub mod speaker;
pub mod state;
pub mod wire;

pub use event::{DialId, Event, Input, PeerStatus, Reconfiguration, Transmit};
pub use fsm::{ConnectionId, Negotiated};
pub use rib::{FibChange, FibNextHop, FibRoute, RibStatistics, RouteInfo};
pub use speaker::Speaker;
pub use state::{DownReason, PeerCounters, State};
