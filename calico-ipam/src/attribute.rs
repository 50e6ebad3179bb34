//! Who holds an address: the owner of a block and the attributes of an allocation.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The handle of addresses taken away at the birth of a block on Windows (compared without case).
pub const RESERVED_HANDLE: &str = "windows-reserved-ipam-handle";

/// Who a block belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A node; written `host:<name>`.
    Host(Arc<str>),
    /// Something that is not a node, such as `load-balancer`; written `virtual:<name>`.
    Virtual(Arc<str>),
}

impl Owner {
    /// The owner of a node's blocks.
    #[must_use]
    pub fn host(name: &str) -> Self {
        Self::Host(name.into())
    }

    /// The owner of LoadBalancer blocks.
    #[must_use]
    pub fn load_balancer() -> Self {
        Self::Virtual("load-balancer".into())
    }

    /// Reads the `affinity` of a stored block; `None` if it has neither prefix.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            Some(("host", name)) => Some(Self::Host(name.into())),
            Some(("virtual", name)) => Some(Self::Virtual(name.into())),
            _ => None,
        }
    }

    /// The name without its type.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Host(name) | Self::Virtual(name) => name,
        }
    }

    /// Whether the owner is not a node.
    #[must_use]
    pub fn is_virtual(&self) -> bool {
        matches!(self, Self::Virtual(_))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => write!(f, "host:{name}"),
            Self::Virtual(name) => write!(f, "virtual:{name}"),
        }
    }
}

/// One entry of a block's attribute table, shared by every address assigned with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attribute {
    /// The handle, already cut at the first carriage return.
    pub handle: Option<Arc<str>>,
    /// The attributes of the active owner (`secondary` in the stored form).
    pub active: BTreeMap<String, String>,
    /// The attributes of the alternate owner (`alternateOwnerAttrs`).
    pub alternate: BTreeMap<String, String>,
    /// When the address was released, in Unix seconds; set while it cools down.
    pub released_at: Option<u64>,
}

impl Attribute {
    /// The attribute of a live allocation.
    #[must_use]
    pub fn new(handle: Option<&str>, active: BTreeMap<String, String>) -> Self {
        Self { handle: handle.map(Arc::from), active, ..Self::default() }
    }

    /// The attribute of addresses that Windows takes from a block at its birth.
    #[must_use]
    pub fn reserved() -> Self {
        let note = BTreeMap::from([("note".to_owned(), "windows host rsvd".to_owned())]);
        Self::new(Some(RESERVED_HANDLE), note)
    }

    /// Whether the address is released and waits for its cooldown to pass.
    #[must_use]
    pub fn is_cooling(&self) -> bool {
        self.released_at.is_some()
    }

    /// Whether the address was taken from the block at its birth.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.handle.as_deref().is_some_and(|handle| handle.eq_ignore_ascii_case(RESERVED_HANDLE))
    }
}

/// A handle as stored by old migrations may carry rubbish behind a carriage return.
#[must_use]
pub fn clean_handle(text: &str) -> &str {
    text.split('\r').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_print_and_read_back() {
        for text in ["host:node1", "virtual:load-balancer", "host:", "host:a:b"] {
            assert_eq!(Owner::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Owner::parse("node1"), None);
        assert_eq!(Owner::parse("other:x"), None);
    }

    #[test]
    fn handles_end_at_a_carriage_return() {
        assert_eq!(clean_handle("k8s-pod-network.abc\r\neth0"), "k8s-pod-network.abc");
        assert_eq!(clean_handle("plain"), "plain");
    }
}
