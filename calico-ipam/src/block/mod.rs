//! One block in memory: which ordinals are taken, by whom, and in which order free ones return.

mod release;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use smallvec::SmallVec;

use crate::attribute::{Attribute, Owner};
use crate::bitmap::Bitmap;
use crate::error::{BlockError, StoredError};
use crate::range::{Family, address, bounds, number};

/// A slot that holds no attribute index.
const FREE: u16 = u16::MAX;

/// The largest block: 2^12 addresses, a /20 or a /116.
pub const MAX_BLOCK_BITS: u8 = 12;

/// Nanoseconds of a second.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// How many addresses of a new block never leave the host that claims it (Windows: 3 and 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostReservation {
    /// Addresses taken from the start of the block.
    pub start: u16,
    /// Addresses taken from the end of the block.
    pub end: u16,
}

impl HostReservation {
    /// The longest block prefix that still leaves room for the reservation.
    #[must_use]
    pub fn max_prefix(self, family: Family) -> u8 {
        let total = u32::from(self.start) + u32::from(self.end);
        family.bits() - (32 - total.leading_zeros()) as u8
    }
}

/// The pieces of a stored block, as they are checked by [`Block::restore`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockParts {
    /// Owner, if the block has one.
    pub owner: Option<Owner>,
    /// When the owner claimed it, in Unix seconds.
    pub claimed_at: Option<u64>,
    /// Per ordinal: the index into `attributes`, or `None` when free.
    pub allocations: Vec<Option<usize>>,
    /// Free ordinals, oldest free first.
    pub unallocated: Vec<usize>,
    /// The attribute table.
    pub attributes: Vec<Arc<Attribute>>,
    /// Sequence number of the block.
    pub sequence: u64,
    /// Sequence number of each ordinal that has one.
    pub sequences: BTreeMap<usize, u64>,
    /// Soft-delete mark.
    pub deleted: bool,
    /// The owner in the form of very old versions; kept, not interpreted.
    pub host_affinity: Option<Arc<str>>,
}

/// One address to release and what the caller believes about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseOptions {
    /// The address.
    pub address: IpAddr,
    /// Released only while this handle holds it.
    pub handle: Option<Arc<str>>,
    /// Released only while the allocation has this sequence number.
    pub sequence: Option<u64>,
}

impl ReleaseOptions {
    /// A release without conditions.
    #[must_use]
    pub fn new(address: IpAddr) -> Self {
        Self { address, handle: None, sequence: None }
    }
}

/// What a release did to a block.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockRelease {
    /// Addresses that were free or cooling already.
    pub unallocated: Vec<IpAddr>,
    /// Ordinals that are released now.
    pub released: Vec<u16>,
    /// How many addresses each handle lost.
    pub handles: BTreeMap<Arc<str>, u32>,
}

/// A block of addresses, the unit of compare-and-swap.
///
/// The in-memory form answers in words or constant time what the stored form answers by
/// walking: is there a free address outside the reservations, which ordinal is next, who holds
/// this one. `calico_model` holds the stored form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    cidr: IpNet,
    first: u128,
    owner: Option<Owner>,
    claimed_at: Option<u64>,
    slots: Vec<u16>,
    free: Bitmap,
    queue: Vec<u16>,
    attributes: Vec<Arc<Attribute>>,
    sequence: u64,
    /// 0 where the ordinal has no entry; a missing entry reads as 0 as well.
    sequences: Vec<u64>,
    deleted: bool,
    host_affinity: Option<Arc<str>>,
}

impl Block {
    /// A new, empty block. Free ordinals queue in ascending order.
    ///
    /// # Errors
    /// If the prefix holds more than 2^12 addresses.
    pub fn new(
        cidr: IpNet,
        owner: Owner,
        now: u64,
        reservation: HostReservation,
    ) -> Result<Self, StoredError> {
        let cidr = cidr.trunc();
        let size = block_len(&cidr)?;
        let mut block = Self {
            cidr,
            first: bounds(&cidr).0,
            owner: Some(owner),
            claimed_at: Some(now / SECOND),
            slots: vec![FREE; size],
            free: Bitmap::full(size),
            queue: (0..size as u16).collect(),
            attributes: Vec::new(),
            sequence: now,
            sequences: vec![0; size],
            deleted: false,
            host_affinity: None,
        };
        let (start, end) = (usize::from(reservation.start).min(size), usize::from(reservation.end).min(size));
        if start + end > 0 {
            block.attributes.push(Arc::new(Attribute::reserved()));
            for ordinal in (0..start).chain(size - end..size) {
                if let Some(slot) = block.slots.get_mut(ordinal) {
                    *slot = 0;
                    block.free.remove(ordinal);
                }
            }
            let free = &block.free;
            block.queue.retain(|ordinal| free.contains(usize::from(*ordinal)));
        }
        Ok(block)
    }

    /// Checks the pieces of a stored block and builds the in-memory form. Nothing is repaired.
    ///
    /// # Errors
    /// The first thing that is wrong, with the ordinal or index it was found at.
    pub fn restore(cidr: IpNet, parts: BlockParts) -> Result<Self, StoredError> {
        let size = block_len(&cidr)?;
        if cidr != cidr.trunc() {
            return Err(StoredError::HostBits { cidr });
        }
        if parts.allocations.len() != size {
            return Err(StoredError::AllocationCount {
                cidr,
                expected: size,
                found: parts.allocations.len(),
            });
        }
        if parts.attributes.len() > size {
            return Err(StoredError::TooManyAttributes { cidr, limit: size, found: parts.attributes.len() });
        }
        let mut slots = vec![FREE; size];
        let mut free = Bitmap::full(size);
        let mut used = Bitmap::empty(parts.attributes.len());
        for (ordinal, (slot, index)) in slots.iter_mut().zip(&parts.allocations).enumerate() {
            if let Some(index) = *index {
                if index >= parts.attributes.len() {
                    return Err(StoredError::AttributeIndex {
                        cidr,
                        ordinal,
                        index,
                        attributes: parts.attributes.len(),
                    });
                }
                *slot = index as u16;
                free.remove(ordinal);
                used.insert(index);
            }
        }
        if let Some(index) = (0..parts.attributes.len()).find(|index| !used.contains(*index)) {
            return Err(StoredError::UnusedAttribute { cidr, index });
        }
        let mut queued = Bitmap::empty(size);
        for &ordinal in &parts.unallocated {
            if ordinal >= size {
                return Err(StoredError::OrdinalRange { cidr, ordinal, size });
            }
            if queued.contains(ordinal) {
                return Err(StoredError::OrdinalTwice { cidr, ordinal });
            }
            if !free.contains(ordinal) {
                return Err(StoredError::OrdinalNotFree { cidr, ordinal });
            }
            queued.insert(ordinal);
        }
        if let Some(ordinal) = (0..size).find(|ordinal| free.contains(*ordinal) && !queued.contains(*ordinal))
        {
            return Err(StoredError::OrdinalLost { cidr, ordinal });
        }
        let mut sequences = vec![0; size];
        for (&ordinal, &sequence) in &parts.sequences {
            match sequences.get_mut(ordinal) {
                Some(entry) => *entry = sequence,
                None => return Err(StoredError::OrdinalRange { cidr, ordinal, size }),
            }
        }
        Ok(Self {
            cidr,
            first: bounds(&cidr).0,
            owner: parts.owner,
            claimed_at: parts.claimed_at,
            slots,
            free,
            queue: parts.unallocated.iter().map(|ordinal| *ordinal as u16).collect(),
            attributes: parts.attributes,
            sequence: parts.sequence,
            sequences,
            deleted: parts.deleted,
            host_affinity: parts.host_affinity,
        })
    }

    /// The pieces of the stored form.
    #[must_use]
    pub fn parts(&self) -> BlockParts {
        BlockParts {
            owner: self.owner.clone(),
            claimed_at: self.claimed_at,
            allocations: self
                .slots
                .iter()
                .map(|slot| (*slot != FREE).then_some(usize::from(*slot)))
                .collect(),
            unallocated: self.queue.iter().map(|ordinal| usize::from(*ordinal)).collect(),
            attributes: self.attributes.clone(),
            sequence: self.sequence,
            sequences: self
                .sequences
                .iter()
                .copied()
                .enumerate()
                .filter(|(_, sequence)| *sequence != 0)
                .collect(),
            deleted: self.deleted,
            host_affinity: self.host_affinity.clone(),
        }
    }

    /// The prefix of the block.
    #[must_use]
    pub fn cidr(&self) -> IpNet {
        self.cidr
    }

    /// The owner, if there is one.
    #[must_use]
    pub fn owner(&self) -> Option<&Owner> {
        self.owner.as_ref()
    }

    /// When the owner claimed the block, in Unix seconds.
    #[must_use]
    pub fn claimed_at(&self) -> Option<u64> {
        self.claimed_at
    }

    /// The sequence number.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The number of addresses.
    #[must_use]
    pub fn size(&self) -> usize {
        self.slots.len()
    }

    /// The number of free addresses; cooling ones are not free.
    #[must_use]
    pub fn free_count(&self) -> usize {
        self.queue.len()
    }

    /// The set of free ordinals.
    #[must_use]
    pub fn free(&self) -> &Bitmap {
        &self.free
    }

    /// The number of free addresses outside `reserved`.
    #[must_use]
    pub fn available(&self, reserved: Option<&Bitmap>) -> usize {
        reserved.map_or(self.queue.len(), |mask| self.free.count_without(mask))
    }

    /// Whether nothing but birth reservations is allocated. Cooling addresses count as use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.len() == self.slots.len()
            || self.attributes.iter().all(|attribute| attribute.is_reserved())
    }

    /// The ordinal of an address of this block.
    #[must_use]
    pub fn ordinal(&self, ip: IpAddr) -> Option<u16> {
        if Family::of(ip) != Family::of_net(&self.cidr) {
            return None;
        }
        let offset = usize::try_from(number(ip).checked_sub(self.first)?).ok()?;
        (offset < self.slots.len()).then_some(offset as u16)
    }

    /// The address of an ordinal.
    #[must_use]
    pub fn address(&self, ordinal: u16) -> IpAddr {
        address(Family::of_net(&self.cidr), self.first + u128::from(ordinal))
    }

    /// The attribute of an ordinal; `None` when it is free.
    #[must_use]
    pub fn attribute(&self, ordinal: u16) -> Option<&Arc<Attribute>> {
        let slot = *self.slots.get(usize::from(ordinal))?;
        self.attributes.get(usize::from(slot))
    }

    /// The attribute table.
    #[must_use]
    pub fn attributes(&self) -> &[Arc<Attribute>] {
        &self.attributes
    }

    /// The sequence number of an ordinal's allocation, 0 when it has none.
    #[must_use]
    pub fn sequence_of(&self, ordinal: u16) -> u64 {
        self.sequences.get(usize::from(ordinal)).copied().unwrap_or_default()
    }

    /// Allocated and cooling ordinals with their attribute, ascending.
    pub fn allocations(&self) -> impl Iterator<Item = (u16, &Arc<Attribute>)> + '_ {
        self.slots.iter().enumerate().filter_map(|(ordinal, slot)| {
            self.attributes.get(usize::from(*slot)).map(|attribute| (ordinal as u16, attribute))
        })
    }

    /// How many live addresses a handle holds here.
    #[must_use]
    pub fn count_of(&self, handle: &str) -> u32 {
        self.ordinals_of(handle).count() as u32
    }

    /// The ordinals a handle holds here, ascending.
    pub fn ordinals_of<'a>(&'a self, handle: &'a str) -> impl Iterator<Item = u16> + 'a {
        let held = self.attributes.iter().any(|attribute| attribute.handle.as_deref() == Some(handle));
        let end = if held { self.slots.len() } else { 0 };
        (0..end as u16).filter(move |ordinal| {
            self.attribute(*ordinal).is_some_and(|attribute| {
                !attribute.is_cooling() && attribute.handle.as_deref() == Some(handle)
            })
        })
    }

    /// Marks the block as written: every write of an existing block carries a new number.
    pub fn advance(&mut self) {
        self.sequence = self.sequence.wrapping_add(1);
    }

    /// Gives up the owner, as a release of a block in use does.
    pub fn disown(&mut self) {
        self.owner = None;
        self.claimed_at = None;
    }

    /// Takes up to `wanted` free addresses outside `reserved`, oldest free first. Reserved
    /// ordinals keep their place in the queue.
    ///
    /// # Errors
    /// If `must_own` is given and is not the owner of the block.
    pub fn auto_assign(
        &mut self,
        wanted: usize,
        attribute: &Arc<Attribute>,
        reserved: Option<&Bitmap>,
        must_own: Option<&Owner>,
    ) -> Result<SmallVec<[u16; 4]>, BlockError> {
        self.check_owner(must_own)?;
        let mut taken: SmallVec<[u16; 4]> = SmallVec::new();
        match reserved {
            None => taken.extend(self.queue.drain(..wanted.min(self.queue.len()))),
            Some(mask) => self.queue.retain(|ordinal| {
                let take = taken.len() < wanted && !mask.contains(usize::from(*ordinal));
                if take {
                    taken.push(*ordinal);
                }
                !take
            }),
        }
        if !taken.is_empty() {
            let index = self.intern(attribute);
            for &ordinal in &taken {
                self.occupy(ordinal, index);
            }
        }
        Ok(taken)
    }

    /// Takes one address by name. Reservations are not consulted.
    ///
    /// # Errors
    /// If the address is outside the block, taken (cooling counts), or the owner differs.
    pub fn assign(
        &mut self,
        ip: IpAddr,
        attribute: &Arc<Attribute>,
        must_own: Option<&Owner>,
    ) -> Result<u16, BlockError> {
        self.check_owner(must_own)?;
        let ordinal = self.ordinal(ip).ok_or(BlockError::OutsideBlock { address: ip, block: self.cidr })?;
        if let Some(holder) = self.attribute(ordinal) {
            let cooling = holder.is_cooling();
            return Err(BlockError::AlreadyAssigned { address: ip, handle: holder.handle.clone(), cooling });
        }
        self.queue.retain(|queued| *queued != ordinal);
        let index = self.intern(attribute);
        self.occupy(ordinal, index);
        Ok(ordinal)
    }

    /// Whether `owner` owns the block.
    #[must_use]
    pub fn is_owned_by(&self, owner: &Owner) -> bool {
        self.owner.as_ref() == Some(owner)
    }

    fn check_owner(&self, must_own: Option<&Owner>) -> Result<(), BlockError> {
        match must_own {
            Some(owner) if !self.is_owned_by(owner) => Err(BlockError::NotOwner {
                block: self.cidr,
                owner: self.owner.clone(),
                caller: owner.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// The index of an equal attribute, added if there is none.
    fn intern(&mut self, attribute: &Arc<Attribute>) -> u16 {
        let at = self.attributes.iter().position(|known| Arc::ptr_eq(known, attribute) || known == attribute);
        at.unwrap_or_else(|| {
            self.attributes.push(Arc::clone(attribute));
            self.attributes.len() - 1
        }) as u16
    }

    fn occupy(&mut self, ordinal: u16, index: u16) {
        let at = usize::from(ordinal);
        self.free.remove(at);
        if let Some(slot) = self.slots.get_mut(at) {
            *slot = index;
        }
        if let Some(entry) = self.sequences.get_mut(at) {
            *entry = self.sequence;
        }
    }

    fn vacate(&mut self, ordinal: u16) {
        let at = usize::from(ordinal);
        self.free.insert(at);
        self.queue.push(ordinal);
        if let Some(slot) = self.slots.get_mut(at) {
            *slot = FREE;
        }
        if let Some(entry) = self.sequences.get_mut(at) {
            *entry = 0;
        }
    }
}

fn clean(handle: &str) -> &str {
    crate::attribute::clean_handle(handle)
}

/// The number of addresses of a block.
fn block_len(cidr: &IpNet) -> Result<usize, StoredError> {
    let bits = Family::of_net(cidr).bits() - cidr.prefix_len();
    if bits > MAX_BLOCK_BITS { Err(StoredError::BlockTooLarge { cidr: *cidr }) } else { Ok(1usize << bits) }
}
