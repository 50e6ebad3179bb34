//! The BGP-4 wire format: framing, messages, capabilities, path attributes and prefixes.
//!
//! Decoding never panics and never allocates more than the message it reads. A defect in an UPDATE is reported as a
//! list of [`attribute::AttributeIssue`]s with the action that RFC 7606 asks for; only a defect that makes the rest of
//! the stream unreadable becomes a [`Notification`] that ends the session.
//!
//! ```
//! use calico_bgp::wire::{Decoded, Message, MessageLimits, split_message};
//!
//! let keepalive = Message::Keepalive.encode();
//! let Decoded::Message { length, .. } = split_message(&keepalive, MessageLimits::classic()).unwrap() else {
//!     panic!("a whole message was given");
//! };
//! assert_eq!(length, 19);
//! ```

pub mod aspath;
pub mod attribute;
pub mod capability;
pub mod cursor;
pub mod iana;
pub mod message;
pub mod nlri;
pub mod notification;
pub mod open;
pub mod refresh;
pub mod update;

pub use aspath::{AsPath, Segment, SegmentKind};
pub use attribute::{Aggregator, AttributeIssue, ErrorAction, NextHop, Origin, PathAttributes, RawAttribute};
pub use capability::{Capabilities, Capability, GracefulRestart};
pub use iana::{Family, FamilySet};
pub use message::{Decoded, Message, MessageLimits, split_message};
pub use nlri::{NlriIter, PathPrefix, Prefix, Prefix4, Prefix6};
pub use notification::Notification;
pub use open::Open;
pub use refresh::{RouteRefresh, RouteRefreshKind};
pub use update::{SessionParams, Update, UpdateBuilder};
