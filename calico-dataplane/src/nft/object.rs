//! The objects of a table: chains, rules, sets and maps with their elements, counters, flowtables
//! (`nftables.md` §12).
//!
//! A [`Ruleset`] is the content of one table. The compiler produces one, a kernel dump decodes to one, the
//! text renderer prints one and the fake kernel holds one; all of them compare with `==`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use smallvec::SmallVec;

use super::expr::{Bytes, Expr, LIST_ELEM, SetRef, Verdict, put_value};
use super::wire::{close_nested, open_nested, put, put_nested, put_text, put_u32};

/// Name of an object.
pub type Name = Arc<str>;

/// `NFT_OBJECT_COUNTER`.
pub(crate) const OBJECT_COUNTER: u32 = 1;
/// Longest comment: a rule's user data holds 256 bytes, of which three are framing.
pub const MAX_COMMENT: usize = 253;
/// Longest comment of an element; `nft` refuses to print more.
pub const MAX_ELEMENT_COMMENT: usize = 127;
/// Longest name of any object.
pub const MAX_NAME: usize = 255;

/// Content of one table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Chains by name.
    pub chains: BTreeMap<Name, Chain>,
    /// Sets and maps by name.
    pub sets: BTreeMap<Name, Set>,
    /// Named counters.
    pub counters: BTreeSet<Name>,
    /// Flowtables by name.
    pub flowtables: BTreeMap<Name, Flowtable>,
}

impl Ruleset {
    /// True when the table holds nothing.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty()
            && self.sets.is_empty()
            && self.counters.is_empty()
            && self.flowtables.is_empty()
    }
}

/// Which packets a base chain sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Before the routing decision.
    Prerouting,
    /// Addressed to this machine.
    Input,
    /// Forwarded.
    Forward,
    /// Sent by this machine.
    Output,
    /// About to leave.
    Postrouting,
}

impl Hook {
    /// Every hook, in the order of their numbers.
    pub const ALL: [Self; 5] =
        [Self::Prerouting, Self::Input, Self::Forward, Self::Output, Self::Postrouting];

    /// The kernel's number.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// The word `nft` uses.
    pub fn word(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }
}

/// Type of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChainKind {
    /// Filtering.
    Filter,
    /// Address translation; sees the first packet of a connection only.
    Nat,
    /// Like filter, with a new routing decision when the packet was changed.
    Route,
}

impl ChainKind {
    /// The word `nft` and the kernel use.
    pub fn word(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
        }
    }

    /// The kind behind a word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Filter, Self::Nat, Self::Route].into_iter().find(|kind| kind.word() == word)
    }
}

/// What makes a chain a base chain. The policy is always accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BaseHook {
    /// Type.
    pub kind: ChainKind,
    /// Hook.
    pub hook: Hook,
    /// Order among the chains of the hook; lower runs first.
    pub priority: i32,
}

/// A chain with its rules.
#[derive(Debug, Clone, Default)]
pub struct Chain {
    /// Set for base chains.
    pub base: Option<BaseHook>,
    /// Rules in order.
    pub rules: Vec<Rule>,
    /// For people. Not compared: the kernel cannot change it in place.
    pub comment: Option<Name>,
}

impl PartialEq for Chain {
    fn eq(&self, other: &Self) -> bool {
        self.base == other.base && self.rules == other.rules
    }
}

impl Eq for Chain {}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// At most 128 expressions.
    pub exprs: Vec<Expr>,
    /// For people; at most [`MAX_COMMENT`] bytes.
    pub comment: Option<Name>,
}

impl Rule {
    /// A rule without comment.
    pub fn new(exprs: Vec<Expr>) -> Self {
        Self { exprs, comment: None }
    }

    /// The same rule with a comment, cut to what the kernel takes.
    pub fn commented(mut self, comment: &str) -> Self {
        self.comment = Some(clip(comment, MAX_COMMENT).into());
        self
    }
}

/// Cuts `text` to at most `limit` bytes at a character boundary.
pub(crate) fn clip(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// One field of a set key or of a map's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// IPv4 address.
    Ipv4,
    /// IPv6 address.
    Ipv6,
    /// Transport protocol number.
    Proto,
    /// Port.
    Port,
    /// Mark, host order.
    Mark,
    /// Interface name, zero padded.
    Ifname,
    /// ICMPv6 type.
    Icmpv6Type,
}

impl Field {
    const ALL: [Self; 7] =
        [Self::Ipv4, Self::Ipv6, Self::Proto, Self::Port, Self::Mark, Self::Ifname, Self::Icmpv6Type];

    /// Bytes of the value.
    pub fn width(self) -> usize {
        match self {
            Self::Ipv4 | Self::Mark => 4,
            Self::Ipv6 | Self::Ifname => 16,
            Self::Proto | Self::Icmpv6Type => 1,
            Self::Port => 2,
        }
    }

    /// Bytes in a concatenation, where every field fills whole registers.
    pub fn padded_width(self) -> usize {
        self.width().next_multiple_of(4)
    }

    /// `nft`'s number for the type, which it needs to print keys.
    pub fn type_number(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Proto => 12,
            Self::Port => 13,
            Self::Mark => 19,
            Self::Icmpv6Type => 29,
            Self::Ifname => 41,
        }
    }

    /// `nft`'s word for the type.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4_addr",
            Self::Ipv6 => "ipv6_addr",
            Self::Proto => "inet_proto",
            Self::Port => "inet_service",
            Self::Mark => "mark",
            Self::Ifname => "ifname",
            Self::Icmpv6Type => "icmpv6_type",
        }
    }

    fn is_host_order(self) -> bool {
        matches!(self, Self::Mark | Self::Ifname)
    }

    /// The fields behind a type number (six bits each), `None` when one is unknown.
    pub fn from_type_number(mut number: u32) -> Option<SmallVec<[Self; 4]>> {
        let mut fields = SmallVec::new();
        while number != 0 {
            fields.push(Self::ALL.into_iter().find(|field| field.type_number() == number & 0x3f)?);
            number >>= 6;
        }
        fields.reverse();
        Some(fields)
    }
}

/// What a map leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MapData {
    /// A verdict.
    Verdict,
    /// A value of this type.
    Field(Field),
}

/// `NFT_SET_*` flags.
pub(crate) mod set_flags {
    pub(crate) const ANONYMOUS: u32 = 1;
    pub(crate) const CONSTANT: u32 = 2;
    pub(crate) const INTERVAL: u32 = 4;
    pub(crate) const MAP: u32 = 8;
    pub(crate) const CONCAT: u32 = 0x80;
}

/// `NFT_DATA_VERDICT`, the data type of verdict maps.
pub(crate) const DATA_VERDICT: u32 = 0xffff_ff00;

/// Type of a set or map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetSpec {
    /// Key fields; more than one is a concatenation.
    pub key: SmallVec<[Field; 4]>,
    /// True when elements are ranges.
    pub interval: bool,
    /// Set for maps.
    pub data: Option<MapData>,
}

impl SetSpec {
    /// A set of single values.
    pub fn hash(key: &[Field]) -> Self {
        Self { key: key.into(), interval: false, data: None }
    }

    /// A set of ranges.
    pub fn ranges(key: &[Field]) -> Self {
        Self { key: key.into(), interval: true, data: None }
    }

    /// A map from single values.
    pub fn map(key: &[Field], data: MapData) -> Self {
        Self { key: key.into(), interval: false, data: Some(data) }
    }

    /// True for maps.
    pub fn is_map(&self) -> bool {
        self.data.is_some()
    }

    /// True when the key has more than one field.
    pub fn is_concat(&self) -> bool {
        self.key.len() > 1
    }

    /// Bytes of a key.
    pub fn key_len(&self) -> usize {
        match self.key.as_slice() {
            [field] => field.width(),
            fields => fields.iter().map(|field| field.padded_width()).sum(),
        }
    }

    fn key_type(&self) -> u32 {
        self.key.iter().fold(0, |number, field| number << 6 | field.type_number())
    }

    fn flags(&self) -> u32 {
        let mut flags = 0;
        if self.interval {
            flags |= set_flags::INTERVAL;
        }
        if self.is_map() {
            flags |= set_flags::MAP;
        }
        if self.is_concat() {
            flags |= set_flags::CONCAT;
        }
        flags
    }
}

/// Key of an element: one value, or a range when `high` is set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The value, or the lower bound.
    pub low: KeyBytes,
    /// Upper bound, inclusive, per field; `None` when it equals `low`.
    pub high: Option<KeyBytes>,
}

/// Key content; an interface name with an address fits without an allocation.
pub type KeyBytes = SmallVec<[u8; 24]>;

impl Key {
    /// A single value.
    pub fn value(bytes: &[u8]) -> Self {
        Self { low: bytes.into(), high: None }
    }

    /// A range; equal bounds make a single value.
    pub fn range(low: &[u8], high: &[u8]) -> Self {
        Self { low: low.into(), high: (low != high).then(|| high.into()) }
    }

    /// The upper bound.
    pub fn upper(&self) -> &KeyBytes {
        self.high.as_ref().unwrap_or(&self.low)
    }
}

/// What a map's element leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// A verdict.
    Verdict(Verdict),
    /// Data.
    Data(Bytes),
}

/// What an element holds besides its key.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// Set for maps.
    pub value: Option<Value>,
    /// For people; at most [`MAX_ELEMENT_COMMENT`] bytes.
    pub comment: Option<Name>,
}

/// Elements in key order.
pub type Elements = BTreeMap<Key, Element>;

/// A set or map with its elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Type.
    pub spec: SetSpec,
    /// Elements.
    pub elements: Elements,
}

/// Constant content of a set that belongs to one rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LiteralSet {
    /// Type.
    pub spec: SetSpec,
    /// Elements.
    pub elements: Elements,
}

/// A flowtable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flowtable {
    /// Priority at the ingress hook.
    pub priority: i32,
    /// Devices, sorted.
    pub devices: BTreeSet<Name>,
}

impl Chain {
    /// Every named object the chain's rules refer to.
    pub fn references(&self) -> impl Iterator<Item = Reference<'_>> {
        self.rules.iter().flat_map(Rule::references)
    }
}

/// A reference from a rule or a map element to a named object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference<'a> {
    /// To a chain.
    Chain(&'a Name),
    /// To a set or map.
    Set(&'a Name),
    /// To a counter.
    Counter(&'a Name),
    /// To a flowtable.
    Flowtable(&'a Name),
}

impl Rule {
    /// Every named object the rule refers to.
    pub fn references(&self) -> impl Iterator<Item = Reference<'_>> {
        self.exprs.iter().filter_map(|expr| match expr {
            Expr::Verdict(verdict) => verdict.target().map(Reference::Chain),
            Expr::Lookup { set: SetRef::Named(name), .. }
            | Expr::MapLookup { map: SetRef::Named(name), .. } => Some(Reference::Set(name)),
            Expr::NamedCounter { name } => Some(Reference::Counter(name)),
            Expr::FlowOffload { table } => Some(Reference::Flowtable(table)),
            _ => None,
        })
    }
}

/// User data: one entry of `kind` holding `text` and its terminating zero.
fn put_comment(buf: &mut Vec<u8>, attr: u16, kind: u8, text: &str) {
    let text = clip(text, MAX_COMMENT);
    let mut data: SmallVec<[u8; 256]> = SmallVec::new();
    data.extend_from_slice(&[kind, (text.len() + 1) as u8]);
    data.extend_from_slice(text.as_bytes());
    data.push(0);
    put(buf, attr, &data);
}

/// `NFTA_TABLE_*` of a table.
pub(crate) fn put_table(buf: &mut Vec<u8>, table: &str, flags: u32) {
    put_text(buf, 1, table);
    put_u32(buf, 2, flags);
}

/// `NFTA_CHAIN_*` of a chain.
pub(crate) fn put_chain(buf: &mut Vec<u8>, table: &str, name: &str, chain: &Chain) {
    put_text(buf, 1, table);
    put_text(buf, 3, name);
    if let Some(base) = &chain.base {
        put_nested(buf, 4, |b| {
            put_u32(b, 1, base.hook.number());
            put_u32(b, 2, base.priority as u32);
        });
        put_u32(buf, 5, 1);
        put_text(buf, 7, base.kind.word());
    }
    if let Some(comment) = &chain.comment {
        put_comment(buf, 12, 0, comment);
    }
}

/// `NFTA_RULE_*` of a rule to be appended.
pub(crate) fn put_rule(
    buf: &mut Vec<u8>,
    table: &str,
    chain: &str,
    rule: &Rule,
    literal_id: &mut dyn FnMut(&Arc<LiteralSet>) -> u32,
) {
    put_text(buf, 1, table);
    put_text(buf, 2, chain);
    let start = open_nested(buf, 4);
    for expr in &rule.exprs {
        expr.encode_with(buf, literal_id);
    }
    close_nested(buf, start);
    if let Some(comment) = &rule.comment {
        put_comment(buf, 7, 0, comment);
    }
}

/// `NFTA_SET_*` of a set. `literal_size` makes it anonymous and constant.
pub(crate) fn put_set(
    buf: &mut Vec<u8>,
    table: &str,
    name: &str,
    spec: &SetSpec,
    id: u32,
    literal_size: Option<usize>,
) {
    put_text(buf, 1, table);
    put_text(buf, 2, name);
    let lifetime = if literal_size.is_some() { set_flags::ANONYMOUS | set_flags::CONSTANT } else { 0 };
    put_u32(buf, 3, spec.flags() | lifetime);
    put_u32(buf, 4, spec.key_type());
    put_u32(buf, 5, spec.key_len() as u32);
    match spec.data {
        None => {}
        Some(MapData::Verdict) => {
            put_u32(buf, 6, DATA_VERDICT);
            put_u32(buf, 7, 0);
        }
        Some(MapData::Field(field)) => {
            put_u32(buf, 6, field.type_number());
            put_u32(buf, 7, field.width() as u32);
        }
    }
    if spec.is_concat() || literal_size.is_some() {
        put_nested(buf, 9, |b| {
            if let Some(size) = literal_size.filter(|_| !spec.interval) {
                put_u32(b, 1, size as u32);
            }
            if spec.is_concat() {
                put_nested(b, 2, |b| {
                    for field in &spec.key {
                        put_nested(b, LIST_ELEM, |b| put_u32(b, 1, field.width() as u32));
                    }
                });
            }
        });
    }
    put_u32(buf, 10, id);
    let order: u32 = if spec.key.iter().all(|field| field.is_host_order()) { 1 } else { 2 };
    let mut userdata = [0, 4, 0, 0, 0, 0];
    userdata[2..].copy_from_slice(&order.to_ne_bytes());
    put(buf, 13, &userdata);
}

/// Where in a message the list of elements starts, and how to fill it.
pub(crate) struct ElementList {
    start: usize,
}

impl ElementList {
    /// Starts `NFTA_SET_ELEM_LIST_*` for the named set, or for the set of this batch with `id`.
    pub(crate) fn open(buf: &mut Vec<u8>, table: &str, set: &str, id: Option<u32>) -> Self {
        put_text(buf, 1, table);
        put_text(buf, 2, set);
        if let Some(id) = id {
            put_u32(buf, 4, id);
        }
        Self { start: open_nested(buf, 3) }
    }

    /// Bytes of the list so far.
    pub(crate) fn len(&self, buf: &[u8]) -> usize {
        buf.len() - self.start
    }

    /// Ends the list.
    pub(crate) fn close(self, buf: &mut [u8]) {
        close_nested(buf, self.start);
    }
}

/// `NFT_SET_ELEM_INTERVAL_END`.
pub(crate) const INTERVAL_END: u32 = 1;

/// One element of a list. A range of a single-field set takes two kernel elements: its start, and an end
/// mark one past its last value.
pub(crate) fn put_element(buf: &mut Vec<u8>, spec: &SetSpec, key: &Key, element: &Element) {
    let start = open_nested(buf, LIST_ELEM);
    put_value(buf, 1, &key.low);
    match &element.value {
        None => {}
        Some(Value::Data(data)) => put_value(buf, 2, data),
        Some(Value::Verdict(verdict)) => put_nested(buf, 2, |b| put_nested(b, 2, |b| verdict.encode(b))),
    }
    if let Some(comment) = &element.comment {
        put_comment(buf, 6, 0, clip(comment, MAX_ELEMENT_COMMENT));
    }
    if spec.interval && spec.is_concat() {
        put_value(buf, 10, key.upper());
    }
    close_nested(buf, start);
    if spec.interval && !spec.is_concat() {
        let mut end = key.upper().clone();
        if successor(&mut end) {
            put_nested(buf, LIST_ELEM, |b| {
                put_value(b, 1, &end);
                put_u32(b, 3, INTERVAL_END);
            });
        }
    }
}

/// Adds one to a big-endian number; false when it was the last.
pub(crate) fn successor(bytes: &mut [u8]) -> bool {
    for byte in bytes.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return true;
        }
    }
    false
}

/// Subtracts one from a big-endian number; false when it was zero.
pub(crate) fn predecessor(bytes: &mut [u8]) -> bool {
    for byte in bytes.iter_mut().rev() {
        *byte = byte.wrapping_sub(1);
        if *byte != 0xff {
            return true;
        }
    }
    false
}

/// `NFTA_OBJ_*` of a counter.
pub(crate) fn put_counter(buf: &mut Vec<u8>, table: &str, name: &str) {
    put_text(buf, 1, table);
    put_text(buf, 2, name);
    put_u32(buf, 3, OBJECT_COUNTER);
    put_nested(buf, 4, |_| {});
}

/// `NFTA_FLOWTABLE_*` of a flowtable.
pub(crate) fn put_flowtable(buf: &mut Vec<u8>, table: &str, name: &str, flowtable: &Flowtable) {
    put_text(buf, 1, table);
    put_text(buf, 2, name);
    put_nested(buf, 3, |b| {
        put_u32(b, 1, 0);
        put_u32(b, 2, flowtable.priority as u32);
        put_nested(b, 3, |b| flowtable.devices.iter().for_each(|device| put_text(b, 1, device)));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concatenated_key_types_are_six_bits_a_field() {
        let spec = SetSpec::hash(&[Field::Ipv4, Field::Proto, Field::Port]);
        assert_eq!(spec.key_type(), 0x730d);
        assert_eq!(spec.key_len(), 12);
        assert_eq!(Field::from_type_number(0x730d).unwrap(), spec.key);
        assert_eq!(Field::from_type_number(0x7300), None, "zero is no type");
    }

    #[test]
    fn numbers_next_to_a_boundary() {
        let mut bytes = [10, 0, 0, 255];
        assert!(successor(&mut bytes));
        assert_eq!(bytes, [10, 0, 1, 0]);
        assert!(predecessor(&mut bytes));
        assert_eq!(bytes, [10, 0, 0, 255]);
        assert!(!successor(&mut [255, 255]));
        assert!(!predecessor(&mut [0, 0]));
    }

    #[test]
    fn clipping_keeps_characters_whole() {
        assert_eq!(clip("häuser", 2), "h");
        assert_eq!(clip("short", 100), "short");
    }
}
