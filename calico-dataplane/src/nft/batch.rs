//! One nf_tables transaction: every message of it in one buffer, and which object each message is about.
//!
//! The kernel applies a batch entirely or not at all. Every message that is wrong gets its own error reply
//! naming the sequence number, so one attempt tells all culprits (`nftables.md` §11).

use std::sync::Arc;

use super::decode::element_key_at;
use super::expr::anonymous_name;
use super::object::{
    Chain, Element, ElementList, Flowtable, Key, LiteralSet, Name, Rule, SetSpec, put_chain, put_counter,
    put_element, put_flowtable, put_rule, put_set, put_table,
};
use super::wire::{put_text, put_u32};

/// `NFNL_SUBSYS_NFTABLES`.
pub(crate) const SUBSYSTEM: u16 = 10;
/// `NFPROTO_INET`.
pub(crate) const FAMILY_INET: u8 = 1;
/// Size of the netlink header and the nfnetlink header together.
pub(crate) const HEADERS: usize = 20;
/// Element lists are split here; an attribute can hold 64 KiB.
const LIST_BYTES: usize = 32 * 1024;

/// Netlink header flags.
pub(crate) mod flags {
    pub(crate) const REQUEST: u16 = 1;
    pub(crate) const ACK: u16 = 4;
    pub(crate) const DUMP: u16 = 0x300;
    pub(crate) const CREATE: u16 = 0x400;
    pub(crate) const APPEND: u16 = 0x800;
}

/// Message numbers of the subsystem.
pub(crate) mod message {
    pub(crate) const NEWTABLE: u8 = 0;
    pub(crate) const GETTABLE: u8 = 1;
    pub(crate) const DELTABLE: u8 = 2;
    pub(crate) const NEWCHAIN: u8 = 3;
    pub(crate) const GETCHAIN: u8 = 4;
    pub(crate) const DELCHAIN: u8 = 5;
    pub(crate) const NEWRULE: u8 = 6;
    pub(crate) const GETRULE: u8 = 7;
    pub(crate) const DELRULE: u8 = 8;
    pub(crate) const NEWSET: u8 = 9;
    pub(crate) const GETSET: u8 = 10;
    pub(crate) const DELSET: u8 = 11;
    pub(crate) const NEWSETELEM: u8 = 12;
    pub(crate) const GETSETELEM: u8 = 13;
    pub(crate) const DELSETELEM: u8 = 14;
    pub(crate) const NEWGEN: u8 = 15;
    pub(crate) const GETGEN: u8 = 16;
    pub(crate) const NEWOBJ: u8 = 18;
    pub(crate) const GETOBJ: u8 = 19;
    pub(crate) const DELOBJ: u8 = 20;
    pub(crate) const NEWFLOWTABLE: u8 = 22;
    pub(crate) const GETFLOWTABLE: u8 = 23;
    pub(crate) const DELFLOWTABLE: u8 = 24;
}

/// `NFNL_MSG_BATCH_BEGIN`.
const BATCH_BEGIN: u16 = 16;
/// `NFNL_MSG_BATCH_END`.
const BATCH_END: u16 = 17;

/// What a message of a batch is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// The transaction itself: the generation check, or memory.
    Transaction,
    /// The table.
    Table,
    /// A chain.
    Chain(Name),
    /// The rule at `index` of a chain, or a literal set of it.
    Rule {
        /// The chain.
        chain: Name,
        /// Position of the rule.
        index: u32,
    },
    /// A set or map.
    Set(Name),
    /// Elements of a set or map.
    Elements(Name),
    /// A named counter.
    Counter(Name),
    /// A flowtable.
    Flowtable(Name),
}

/// One message that the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which object.
    pub origin: Origin,
    /// Errno, positive.
    pub errno: i32,
    /// For elements: the element that was refused, when the kernel told.
    pub element: Option<Key>,
    /// The kernel's own words, when it has any.
    pub message: Option<String>,
}

/// Builds the messages of one transaction on one `inet` table.
///
/// ```
/// use calico_dataplane::nft::batch::Batch;
/// use calico_dataplane::nft::object::Chain;
///
/// let mut batch = Batch::new("calico");
/// batch.add_table();
/// batch.add_chain("example", &Chain::default());
/// let bytes = batch.finish(None);
/// assert_eq!(bytes.len() % 4, 0);
/// ```
#[derive(Debug)]
pub struct Batch {
    buf: Vec<u8>,
    table: Name,
    /// `origins[i]` belongs to sequence number `i`; 0 is the BEGIN message.
    origins: Vec<Origin>,
    /// Where each message starts, in parallel to `origins`.
    starts: Vec<usize>,
    next_set_id: u32,
}

impl Batch {
    /// An empty transaction on `table`.
    pub fn new(table: &str) -> Self {
        let mut batch = Self {
            buf: Vec::with_capacity(4096),
            table: table.into(),
            origins: Vec::new(),
            starts: Vec::new(),
            next_set_id: 1,
        };
        batch.begin(Origin::Transaction, BATCH_BEGIN, flags::REQUEST, 0, SUBSYSTEM);
        put_u32(&mut batch.buf, 1, 0);
        batch.end();
        batch
    }

    /// True when no operation was added.
    pub fn is_empty(&self) -> bool {
        self.origins.len() == 1
    }

    /// Number of operations.
    pub fn len(&self) -> usize {
        self.origins.len() - 1
    }

    /// Bytes so far.
    pub fn bytes(&self) -> usize {
        self.buf.len()
    }

    fn begin(&mut self, origin: Origin, kind: u16, flags: u16, family: u8, res_id: u16) {
        let seq = self.origins.len() as u32;
        self.starts.push(self.buf.len());
        self.origins.push(origin);
        put_headers(&mut self.buf, kind, flags, seq, family, res_id);
    }

    fn end(&mut self) {
        let start = self.starts.last().copied().unwrap_or(0);
        let length = (self.buf.len() - start) as u32;
        if let Some(field) = self.buf.get_mut(start..start + 4) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
    }

    fn op(&mut self, origin: Origin, kind: u8, extra: u16, fill: impl FnOnce(&mut Vec<u8>, &str)) {
        self.begin(origin, SUBSYSTEM << 8 | u16::from(kind), flags::REQUEST | extra, FAMILY_INET, 0);
        fill(&mut self.buf, &self.table);
        self.end();
    }

    /// Makes sure the table exists.
    pub fn add_table(&mut self) {
        self.op(Origin::Table, message::NEWTABLE, flags::CREATE, |b, table| put_table(b, table, 0));
    }

    /// Deletes the table with everything in it; it must exist.
    pub fn delete_table(&mut self) {
        self.op(Origin::Table, message::DELTABLE, 0, |b, table| put_text(b, 1, table));
    }

    /// Deletes a table of somebody else, which must exist, in the same transaction.
    pub fn delete_foreign_table(&mut self, family: u8, name: &str) {
        let kind = SUBSYSTEM << 8 | u16::from(message::DELTABLE);
        self.begin(Origin::Transaction, kind, flags::REQUEST, family, 0);
        put_text(&mut self.buf, 1, name);
        self.end();
    }

    /// Creates a chain without its rules.
    pub fn add_chain(&mut self, name: &str, chain: &Chain) {
        let origin = Origin::Chain(name.into());
        self.op(origin, message::NEWCHAIN, flags::CREATE, |b, table| put_chain(b, table, name, chain));
    }

    /// Deletes an empty chain that nothing refers to any more.
    pub fn delete_chain(&mut self, name: &str) {
        self.op(Origin::Chain(name.into()), message::DELCHAIN, 0, |b, table| {
            put_text(b, 1, table);
            put_text(b, 3, name);
        });
    }

    /// Deletes all rules of a chain.
    pub fn flush_chain(&mut self, name: &str) {
        self.op(Origin::Chain(name.into()), message::DELRULE, 0, |b, table| {
            put_text(b, 1, table);
            put_text(b, 2, name);
        });
    }

    /// Appends a rule, after creating the literal sets it uses.
    pub fn add_rule(&mut self, chain: &Name, index: u32, rule: &Rule) {
        let origin = Origin::Rule { chain: chain.clone(), index };
        let first_id = self.next_set_id;
        for literal in rule.exprs.iter().filter_map(literal_of) {
            self.add_literal(&origin, literal);
        }
        // Literals were numbered in the order of the expressions, which is the order they are asked for.
        let mut id = first_id;
        self.op(origin, message::NEWRULE, flags::CREATE | flags::APPEND, |b, table| {
            put_rule(b, table, chain, rule, &mut |_| {
                id += 1;
                id - 1
            });
        });
    }

    fn add_literal(&mut self, origin: &Origin, literal: &Arc<LiteralSet>) {
        let id = self.next_set_id;
        self.next_set_id += 1;
        let name = anonymous_name(literal);
        self.op(origin.clone(), message::NEWSET, flags::CREATE, |b, table| {
            put_set(b, table, name, &literal.spec, id, Some(literal.elements.len()));
        });
        self.element_messages(
            origin,
            message::NEWSETELEM,
            name,
            Some(id),
            &literal.spec,
            literal.elements.iter(),
        );
    }

    /// Creates a set or map without its elements.
    pub fn add_set(&mut self, name: &str, spec: &SetSpec) {
        let id = self.next_set_id;
        self.next_set_id += 1;
        self.op(Origin::Set(name.into()), message::NEWSET, flags::CREATE, |b, table| {
            put_set(b, table, name, spec, id, None);
        });
    }

    /// Deletes a set or map that nothing refers to any more.
    pub fn delete_set(&mut self, name: &str) {
        self.op(Origin::Set(name.into()), message::DELSET, 0, |b, table| {
            put_text(b, 1, table);
            put_text(b, 2, name);
        });
    }

    /// Adds elements to a set or map.
    pub fn add_elements<'a>(
        &mut self,
        set: &Name,
        spec: &SetSpec,
        elements: impl IntoIterator<Item = (&'a Key, &'a Element)>,
    ) {
        let origin = Origin::Elements(set.clone());
        self.element_messages(&origin, message::NEWSETELEM, set, None, spec, elements);
    }

    /// Deletes elements of a set or map; all of them must exist.
    pub fn delete_elements<'a>(
        &mut self,
        set: &Name,
        spec: &SetSpec,
        elements: impl IntoIterator<Item = (&'a Key, &'a Element)>,
    ) {
        let origin = Origin::Elements(set.clone());
        self.element_messages(&origin, message::DELSETELEM, set, None, spec, elements);
    }

    fn element_messages<'a>(
        &mut self,
        origin: &Origin,
        kind: u8,
        set: &str,
        id: Option<u32>,
        spec: &SetSpec,
        elements: impl IntoIterator<Item = (&'a Key, &'a Element)>,
    ) {
        let extra = if kind == message::NEWSETELEM { flags::CREATE } else { 0 };
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            self.op(origin.clone(), kind, extra, |b, table| {
                let list = ElementList::open(b, table, set, id);
                while list.len(b) < LIST_BYTES {
                    let Some((key, element)) = elements.next() else { break };
                    put_element(b, spec, key, element);
                }
                list.close(b);
            });
        }
    }

    /// Creates a named counter.
    pub fn add_counter(&mut self, name: &Name) {
        self.op(Origin::Counter(name.clone()), message::NEWOBJ, flags::CREATE, |b, table| {
            put_counter(b, table, name);
        });
    }

    /// Deletes a named counter.
    pub fn delete_counter(&mut self, name: &Name) {
        self.op(Origin::Counter(name.clone()), message::DELOBJ, 0, |b, table| {
            put_text(b, 1, table);
            put_text(b, 2, name);
            put_u32(b, 3, super::object::OBJECT_COUNTER);
        });
    }

    /// Creates a flowtable, or adds devices to it.
    pub fn add_flowtable(&mut self, name: &Name, flowtable: &Flowtable) {
        self.op(Origin::Flowtable(name.clone()), message::NEWFLOWTABLE, flags::CREATE, |b, table| {
            put_flowtable(b, table, name, flowtable);
        });
    }

    /// Deletes a flowtable.
    pub fn delete_flowtable(&mut self, name: &Name) {
        self.op(Origin::Flowtable(name.clone()), message::DELFLOWTABLE, 0, |b, table| {
            put_text(b, 1, table);
            put_text(b, 2, name);
        });
    }

    /// Ends the transaction and gives its bytes, which must go out in one send.
    ///
    /// With a generation the kernel refuses the batch (`ERESTART`) when anybody changed any table since.
    pub fn finish(&mut self, generation: Option<u32>) -> Vec<u8> {
        // The acknowledgement of END is new; older kernels acknowledge the last operation only.
        if let Some(last) = self.starts.last().copied().filter(|_| !self.is_empty()) {
            let flags = flags::REQUEST | flags::ACK | self.flags_at(last);
            if let Some(field) = self.buf.get_mut(last + 6..last + 8) {
                field.copy_from_slice(&flags.to_ne_bytes());
            }
        }
        self.begin(Origin::Transaction, BATCH_END, flags::REQUEST | flags::ACK, 0, SUBSYSTEM);
        self.end();
        let mut bytes = std::mem::take(&mut self.buf);
        match generation {
            Some(generation) => {
                if let Some(field) = bytes.get_mut(HEADERS + 4..HEADERS + 8) {
                    field.copy_from_slice(&generation.to_be_bytes());
                }
                bytes
            }
            None => {
                bytes.drain(HEADERS..HEADERS + 8);
                if let Some(field) = bytes.get_mut(..4) {
                    field.copy_from_slice(&(HEADERS as u32).to_ne_bytes());
                }
                bytes
            }
        }
    }

    fn flags_at(&self, start: usize) -> u16 {
        match self.buf.get(start + 6..start + 8) {
            Some([a, b]) => u16::from_ne_bytes([*a, *b]),
            _ => 0,
        }
    }

    /// Sequence number of the END message, once [`finish`](Self::finish) was called.
    pub fn last_seq(&self) -> u32 {
        self.origins.len() as u32 - 1
    }

    /// Names the culprit of an error reply. `sent` is what [`finish`](Self::finish) returned, `offset` the
    /// extended acknowledgement's offset into the message.
    pub fn refusal(
        &self,
        sent: &[u8],
        seq: u32,
        errno: i32,
        offset: Option<u32>,
        text: Option<String>,
    ) -> Refusal {
        let index = seq as usize;
        let origin = self.origins.get(index).cloned().unwrap_or(Origin::Transaction);
        let element = match (&origin, offset) {
            (Origin::Elements(_), Some(offset)) => {
                let shift = self.shift(sent);
                let start = self.starts.get(index).map(|start| start.saturating_sub(shift));
                start
                    .and_then(|start| sent.get(start..))
                    .and_then(|message| element_key_at(message, offset as usize))
            }
            _ => None,
        };
        Refusal { origin, errno, element, message: text }
    }

    /// How far messages moved forward because the generation attribute was left out.
    fn shift(&self, sent: &[u8]) -> usize {
        match sent.get(..4) {
            Some([a, b, c, d]) if u32::from_ne_bytes([*a, *b, *c, *d]) as usize == HEADERS => 8,
            _ => 0,
        }
    }
}

fn literal_of(expr: &super::expr::Expr) -> Option<&Arc<LiteralSet>> {
    match expr.set() {
        Some(super::expr::SetRef::Literal(literal)) => Some(literal),
        _ => None,
    }
}

/// Appends the netlink and nfnetlink headers; the length is filled in later.
pub(crate) fn put_headers(buf: &mut Vec<u8>, kind: u16, flags: u16, seq: u32, family: u8, res_id: u16) {
    buf.extend_from_slice(&(HEADERS as u32).to_ne_bytes());
    buf.extend_from_slice(&kind.to_ne_bytes());
    buf.extend_from_slice(&flags.to_ne_bytes());
    buf.extend_from_slice(&seq.to_ne_bytes());
    buf.extend_from_slice(&[0, 0, 0, 0, family, 0]);
    buf.extend_from_slice(&res_id.to_be_bytes());
}
