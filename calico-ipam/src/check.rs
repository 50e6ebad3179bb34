//! A consistency report over everything stored: what `calicoctl ipam check` prints.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::affinity::State;
use crate::attribute::Owner;
use crate::block::{Block, SECOND};
use crate::gc::Stock;
use crate::range::{Family, bounds, overlap};
use crate::store::{Key, Stored};

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// A stored object cannot be used (I4, I5).
    Damaged {
        /// Key of the object.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Two blocks share addresses (I2).
    OverlappingBlocks {
        /// One.
        first: IpNet,
        /// The other.
        second: IpNet,
    },
    /// Two pools share addresses.
    OverlappingPools {
        /// Name of one.
        first: Arc<str>,
        /// Name of the other.
        second: Arc<str>,
    },
    /// A block of an owner without a claim, or with one that is not confirmed (I3, I8).
    UnconfirmedBlock {
        /// The block.
        block: IpNet,
        /// Its owner.
        owner: Owner,
        /// The state of the claim.
        state: Option<&'static str>,
    },
    /// A claim to a block that does not exist or is somebody else's (I3, I8).
    StaleClaim {
        /// The block.
        block: IpNet,
        /// The claimant.
        owner: Owner,
        /// The state of the claim.
        state: &'static str,
    },
    /// An address whose handle does not exist, or does not count it (I7).
    HandleTooLow {
        /// The handle.
        handle: Arc<str>,
        /// The block.
        block: IpNet,
        /// What the handle counts.
        counted: u32,
        /// What the block holds.
        held: u32,
    },
    /// A handle that counts addresses no block holds (I8).
    HandleTooHigh {
        /// The handle.
        handle: Arc<str>,
        /// The block.
        block: IpNet,
        /// What the handle counts.
        counted: u32,
        /// What the block holds.
        held: u32,
    },
    /// An address was released in the future: a clock was wrong.
    ReleasedInFuture {
        /// The address.
        address: IpAddr,
        /// When, in Unix seconds.
        released_at: u64,
    },
    /// An address is assigned and nobody known uses it.
    NotUsed {
        /// The address.
        address: IpAddr,
        /// Its handle.
        handle: Option<Arc<str>>,
        /// Its sequence number.
        sequence: u64,
    },
    /// An address is used and not assigned.
    NotAssigned {
        /// The address.
        address: IpAddr,
        /// Who uses it.
        users: Vec<String>,
        /// Whether it lies in an enabled pool.
        in_pool: bool,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged { key, reason } => write!(f, "{key} is damaged: {reason}"),
            Self::OverlappingBlocks { first, second } => write!(f, "blocks {first} and {second} overlap"),
            Self::OverlappingPools { first, second } => write!(f, "pools {first} and {second} overlap"),
            Self::UnconfirmedBlock { block, owner, state } => {
                write!(f, "block {block} belongs to {owner}, whose claim is {}", state.unwrap_or("missing"))
            }
            Self::StaleClaim { block, owner, state } => {
                write!(f, "{owner} has a {state} claim to {block}, which is not its block")
            }
            Self::HandleTooLow { handle, block, counted, held } => {
                write!(f, "handle {handle} counts {counted} addresses in {block}, which holds {held}")
            }
            Self::HandleTooHigh { handle, block, counted, held } => {
                write!(f, "handle {handle} counts {counted} addresses in {block}, which holds only {held}")
            }
            Self::ReleasedInFuture { address, released_at } => {
                write!(f, "{address} was released in the future ({released_at} s)")
            }
            Self::NotUsed { address, handle, .. } => {
                write!(
                    f,
                    "{address} is assigned to {} and not used",
                    handle.as_deref().unwrap_or("(no handle)")
                )
            }
            Self::NotAssigned { address, users, in_pool } => {
                let place = if *in_pool { "an enabled pool" } else { "no enabled pool" };
                write!(f, "{address} in {place} is used by {} and not assigned", users.join(", "))
            }
        }
    }
}

/// Everything that was found and counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckReport {
    /// What is not as it should be, sorted.
    pub findings: Vec<Finding>,
    /// Blocks looked at.
    pub blocks: usize,
    /// Addresses assigned, not counting those that cool down.
    pub assigned: usize,
    /// Addresses that cool down.
    pub cooling: usize,
    /// Addresses in use by somebody.
    pub used: usize,
}

impl CheckReport {
    /// Whether all is well. A program exits with a status of its own when it is not.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

/// The addresses that a node itself uses: its tunnel devices, all kinds and both families.
#[must_use]
pub fn users_of_node(node: &calico_model::Node) -> Vec<(IpAddr, String)> {
    let spec = &node.spec;
    let bgp = spec.bgp.as_ref().map(|bgp| bgp.ipv4_ipip_tunnel_addr.as_str());
    let wireguard = spec.wireguard.as_ref();
    let texts = [
        ("IPIP", bgp),
        ("VXLAN", Some(spec.ipv4_vxlan_tunnel_addr.as_str())),
        ("IPv6 VXLAN", Some(spec.ipv6_vxlan_tunnel_addr.as_str())),
        ("WireGuard", wireguard.map(|wireguard| wireguard.interface_ipv4_address.as_str())),
        ("IPv6 WireGuard", wireguard.map(|wireguard| wireguard.interface_ipv6_address.as_str())),
    ];
    texts
        .into_iter()
        .filter_map(|(kind, text)| {
            let address = text?.parse().ok()?;
            Some((address, format!("{kind} tunnel of node {}", node.metadata.name)))
        })
        .collect()
}

/// Compares what is stored with itself and with the addresses in use, by whom.
#[must_use]
pub fn check(stock: &Stock<'_>, users: &BTreeMap<IpAddr, Vec<String>>, now: u64) -> CheckReport {
    let mut report = CheckReport { used: users.len(), ..CheckReport::default() };
    let mut blocks: BTreeMap<IpNet, &Arc<Block>> = BTreeMap::new();
    for item in stock.blocks.iter().chain(stock.affinities).chain(stock.handles) {
        match (&item.key, &item.value) {
            (Key::Block(cidr), Stored::Block(block)) => {
                blocks.insert(*cidr, block);
            }
            (key, Stored::Damaged(reason)) => {
                report.findings.push(Finding::Damaged { key: key.to_string(), reason: reason.to_string() });
            }
            _ => {}
        }
    }
    report.blocks = blocks.len();
    overlaps(stock, &mut report);
    claims(stock, &blocks, &mut report);
    handles(stock, &blocks, &mut report);
    addresses(stock, &blocks, users, now, &mut report);
    report.findings.sort();
    report.findings.dedup();
    report
}

fn overlaps(stock: &Stock<'_>, report: &mut CheckReport) {
    let mut cidrs: Vec<IpNet> = stock
        .blocks
        .iter()
        .filter_map(|item| if let Key::Block(cidr) = item.key { Some(cidr) } else { None })
        .collect();
    cidrs.sort_by_key(|cidr| (Family::of_net(cidr), bounds(cidr).0, cidr.prefix_len()));
    // Prefixes are nested or disjoint: an overlap is with the last one that holds the next.
    let mut holder: Option<IpNet> = None;
    for cidr in cidrs {
        match holder {
            Some(first) if overlap(&first, &cidr) => {
                report.findings.push(Finding::OverlappingBlocks { first, second: cidr });
            }
            _ => holder = Some(cidr),
        }
    }
    if let Some((first, second)) = crate::pools::first_overlap(stock.pools) {
        let (first, second) = (Arc::clone(&first.name), Arc::clone(&second.name));
        report.findings.push(Finding::OverlappingPools { first, second });
    }
}

fn claims(stock: &Stock<'_>, blocks: &BTreeMap<IpNet, &Arc<Block>>, report: &mut CheckReport) {
    let mut states: BTreeMap<(&Owner, IpNet), State> = BTreeMap::new();
    for item in stock.affinities {
        if let (Key::Affinity(owner, cidr), Stored::Affinity(affinity)) = (&item.key, &item.value) {
            states.insert((owner, *cidr), affinity.state);
            if !blocks.get(cidr).is_some_and(|block| block.is_owned_by(owner)) {
                let (owner, state) = (owner.clone(), affinity.state.as_str());
                report.findings.push(Finding::StaleClaim { block: *cidr, owner, state });
            }
        }
    }
    for (cidr, block) in blocks {
        let Some(owner) = block.owner() else { continue };
        let state = states.get(&(owner, *cidr));
        if state != Some(&State::Confirmed) {
            let state = state.map(|state| state.as_str());
            report.findings.push(Finding::UnconfirmedBlock { block: *cidr, owner: owner.clone(), state });
        }
    }
}

fn handles(stock: &Stock<'_>, blocks: &BTreeMap<IpNet, &Arc<Block>>, report: &mut CheckReport) {
    let mut held: BTreeMap<(Arc<str>, IpNet), u32> = BTreeMap::new();
    for (cidr, block) in blocks {
        for (_, attribute) in block.allocations() {
            let live =
                attribute.handle.as_ref().filter(|_| !attribute.is_cooling() && !attribute.is_reserved());
            if let Some(handle) = live {
                *held.entry((Arc::clone(handle), *cidr)).or_default() += 1;
            }
        }
    }
    for item in stock.handles {
        let (Key::Handle(id), Stored::Handle(handle)) = (&item.key, &item.value) else { continue };
        for (block, &counted) in &handle.blocks {
            let have = held.remove(&(Arc::clone(id), *block)).unwrap_or_default();
            let (handle, block) = (Arc::clone(id), *block);
            if counted > have {
                report.findings.push(Finding::HandleTooHigh { handle, block, counted, held: have });
            } else if counted < have {
                report.findings.push(Finding::HandleTooLow { handle, block, counted, held: have });
            }
        }
    }
    for ((handle, block), held) in held {
        report.findings.push(Finding::HandleTooLow { handle, block, counted: 0, held });
    }
}

fn addresses(
    stock: &Stock<'_>,
    blocks: &BTreeMap<IpNet, &Arc<Block>>,
    users: &BTreeMap<IpAddr, Vec<String>>,
    now: u64,
    report: &mut CheckReport,
) {
    let mut assigned: BTreeSet<IpAddr> = BTreeSet::new();
    for block in blocks.values() {
        for (ordinal, attribute) in block.allocations() {
            let address = block.address(ordinal);
            if let Some(released_at) = attribute.released_at {
                report.cooling += 1;
                if released_at > now / SECOND {
                    report.findings.push(Finding::ReleasedInFuture { address, released_at });
                }
                continue;
            }
            assigned.insert(address);
            if !attribute.is_reserved() && !users.contains_key(&address) {
                let (handle, sequence) = (attribute.handle.clone(), block.sequence_of(ordinal));
                report.findings.push(Finding::NotUsed { address, handle, sequence });
            }
        }
    }
    report.assigned = assigned.len();
    for (address, who) in users {
        if !assigned.contains(address) {
            let in_pool = stock.pools.iter().any(|pool| pool.enabled && pool.cidr.contains(address));
            report.findings.push(Finding::NotAssigned { address: *address, users: who.clone(), in_pool });
        }
    }
}
