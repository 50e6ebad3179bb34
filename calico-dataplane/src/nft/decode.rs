//! Kernel dumps and notifications, read into the canonical form of [`super::object`].
//!
//! The kernel shows more than it was given (handles, counts, defaults) and in its own order; what is kept
//! here is what a rule or set *means*, so that equality with the desired state is meaningful. Nothing panics
//! on any input.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::batch::HEADERS;
use super::decode_expr::{data_value, data_verdict, expression};
use super::expr::{Bytes, LIST_ELEM, SetRef};
use super::object::{
    BaseHook, Chain, ChainKind, DATA_VERDICT, Element, Elements, Field, Flowtable, Hook, INTERVAL_END, Key,
    KeyBytes, LiteralSet, MapData, Name, Rule, SetSpec, Value, predecessor, set_flags,
};
use super::wire::{Attrs, WireError};

/// One netlink message of a received buffer.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Message type; for nf_tables the subsystem is in the high byte.
    pub kind: u16,
    /// Netlink flags.
    pub flags: u16,
    /// Sequence number.
    pub seq: u32,
    /// Everything after the netlink header.
    pub body: &'a [u8],
}

/// Splits a received buffer into messages; ends at the first malformed one.
pub fn messages(mut buf: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let header: &[u8; 16] = buf.first_chunk()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let body = buf.get(16..length)?;
        buf = buf.get(length.next_multiple_of(4).min(buf.len())..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            seq: u32::from_ne_bytes([s0, s1, s2, s3]),
            body,
        })
    })
}

impl<'a> Message<'a> {
    /// The nf_tables message number; `None` for another subsystem.
    pub fn nft_kind(&self) -> Option<u8> {
        (self.kind >> 8 == super::batch::SUBSYSTEM).then_some((self.kind & 0xff) as u8)
    }

    /// Protocol family of the nfnetlink header.
    pub fn family(&self) -> Option<u8> {
        self.body.first().copied()
    }

    fn attrs(&self) -> Attrs<'a> {
        Attrs::new(self.body.get(4..).unwrap_or_default(), HEADERS)
    }

    /// Attribute 1 as text: for every nf_tables object message the table it belongs to.
    pub fn table(&self) -> Option<&'a str> {
        self.attrs().flatten().find(|attr| attr.kind == 1).and_then(|attr| attr.text().ok())
    }
}

/// Reads the generation number of a `NEWGEN` message, and the process that made it.
///
/// # Errors
/// Malformed attributes, or no generation among them.
pub fn generation(message: &Message<'_>) -> Result<(u32, Option<u32>), WireError> {
    let mut id = None;
    let mut process = None;
    for attr in message.attrs() {
        let attr = attr?;
        match attr.kind {
            1 => id = Some(attr.u32()?),
            2 => process = Some(attr.u32()?),
            _ => {}
        }
    }
    id.map(|id| (id, process)).ok_or(WireError::Missing { kind: 1, object: "generation" })
}

/// Reads a chain without its rules.
///
/// # Errors
/// Malformed attributes, or a chain without table or name.
pub fn chain(message: &Message<'_>) -> Result<(Name, Name, Chain), WireError> {
    let (mut table, mut name, mut kind, mut hook) = (None, None, None, None);
    let mut chain = Chain::default();
    for attr in message.attrs() {
        let attr = attr?;
        match attr.kind {
            1 => table = Some(attr.text()?),
            3 => name = Some(attr.text()?),
            4 => hook = Some(chain_hook(attr.nested())?),
            7 => kind = Some(attr.text()?),
            12 => chain.comment = comment(attr.payload, 0),
            _ => {}
        }
    }
    if let (Some((hook, priority)), Some(kind)) = (hook, kind.and_then(ChainKind::from_word)) {
        chain.base = Some(BaseHook { kind, hook, priority });
    }
    Ok((required(table, 1, "chain")?, required(name, 3, "chain")?, chain))
}

fn chain_hook(attrs: Attrs<'_>) -> Result<(Hook, i32), WireError> {
    let (mut number, mut priority) = (None, 0);
    for attr in attrs {
        let attr = attr?;
        match attr.kind {
            1 => number = Some(attr.u32()?),
            2 => priority = attr.u32()? as i32,
            _ => {}
        }
    }
    let number = number.ok_or(WireError::Missing { kind: 1, object: "chain hook" })?;
    let hook = Hook::ALL
        .into_iter()
        .find(|hook| hook.number() == number)
        .ok_or(WireError::Value { field: "hook number", value: number })?;
    Ok((hook, priority))
}

fn required(text: Option<&str>, kind: u16, object: &'static str) -> Result<Name, WireError> {
    text.map(Name::from).ok_or(WireError::Missing { kind, object })
}

/// The text of the user-data entry `kind`.
fn comment(mut data: &[u8], kind: u8) -> Option<Name> {
    while let [entry, length, rest @ ..] = data {
        let value = rest.get(..usize::from(*length))?;
        if *entry == kind {
            let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
            return std::str::from_utf8(value.get(..end)?).ok().map(Name::from);
        }
        data = rest.get(usize::from(*length)..)?;
    }
    None
}

/// Content of the anonymous sets of a table, by kernel name.
pub type Literals = BTreeMap<Name, Arc<LiteralSet>>;

/// A rule as dumped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpedRule {
    /// Table.
    pub table: Name,
    /// Chain.
    pub chain: Name,
    /// Kernel handle.
    pub handle: u64,
    /// The rule.
    pub rule: Rule,
}

/// Reads a rule. Anonymous sets it looks up are replaced by their content from `literals`.
///
/// # Errors
/// Malformed attributes, or a rule without table or chain.
pub fn rule(message: &Message<'_>, literals: &Literals) -> Result<DumpedRule, WireError> {
    let (mut table, mut chain, mut handle) = (None, None, 0);
    let mut rule = Rule::new(Vec::new());
    for attr in message.attrs() {
        let attr = attr?;
        match attr.kind {
            1 => table = Some(attr.text()?),
            2 => chain = Some(attr.text()?),
            3 => handle = attr.u64()?,
            4 => {
                for item in attr.nested() {
                    let item = item?;
                    if item.kind == LIST_ELEM {
                        rule.exprs.push(expression(item.nested(), literals)?);
                    }
                }
            }
            7 => rule.comment = comment(attr.payload, 0),
            _ => {}
        }
    }
    Ok(DumpedRule { table: required(table, 1, "rule")?, chain: required(chain, 2, "rule")?, handle, rule })
}

/// A set as dumped, without its elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpedSet {
    /// Table.
    pub table: Name,
    /// Name.
    pub name: Name,
    /// True for sets that belong to one rule.
    pub anonymous: bool,
    /// Type; a key or data type this crate does not know leaves the key empty.
    pub spec: SetSpec,
    /// How many elements it holds, where the kernel tells (6.16 and newer).
    pub count: Option<u32>,
}

/// Reads a set without its elements.
///
/// # Errors
/// Malformed attributes, or a set without table or name.
pub fn set(message: &Message<'_>) -> Result<DumpedSet, WireError> {
    let (mut table, mut name, mut flags, mut key, mut data, mut count) = (None, None, 0, 0, None, None);
    for attr in message.attrs() {
        let attr = attr?;
        match attr.kind {
            1 => table = Some(attr.text()?),
            2 => name = Some(attr.text()?),
            3 => flags = attr.u32()?,
            4 => key = attr.u32()?,
            6 => data = Some(attr.u32()?),
            20 => count = Some(attr.u32()?),
            _ => {}
        }
    }
    let understood =
        set_flags::ANONYMOUS | set_flags::CONSTANT | set_flags::INTERVAL | set_flags::MAP | set_flags::CONCAT;
    let data = match data.filter(|_| flags & set_flags::MAP != 0) {
        None => Some(None),
        Some(DATA_VERDICT) => Some(Some(MapData::Verdict)),
        Some(number) => match Field::from_type_number(number).as_deref() {
            Some([field]) => Some(Some(MapData::Field(*field))),
            _ => None,
        },
    };
    let key = Field::from_type_number(key).filter(|_| flags & !understood == 0 && data.is_some());
    Ok(DumpedSet {
        table: required(table, 1, "set")?,
        name: required(name, 2, "set")?,
        anonymous: flags & set_flags::ANONYMOUS != 0,
        spec: SetSpec {
            key: key.unwrap_or_default(),
            interval: flags & set_flags::INTERVAL != 0,
            data: data.flatten(),
        },
        count,
    })
}

/// One kernel element; ranges of single-field sets come as two of them.
#[derive(Debug, Clone)]
pub struct RawElement {
    key: KeyBytes,
    high: Option<KeyBytes>,
    end: bool,
    element: Element,
}

/// Reads the elements of one message and appends them to `out`.
///
/// # Errors
/// Malformed attributes.
pub fn elements(message: &Message<'_>, out: &mut Vec<RawElement>) -> Result<(), WireError> {
    for attr in message.attrs() {
        let attr = attr?;
        if attr.kind != 3 {
            continue;
        }
        for item in attr.nested() {
            let item = item?;
            if item.kind == LIST_ELEM {
                out.push(raw_element(item.nested())?);
            }
        }
    }
    Ok(())
}

fn raw_element(attrs: Attrs<'_>) -> Result<RawElement, WireError> {
    let mut raw = RawElement { key: KeyBytes::new(), high: None, end: false, element: Element::default() };
    for attr in attrs {
        let attr = attr?;
        match attr.kind {
            1 => raw.key = KeyBytes::from_slice(data_value(attr.nested())?.unwrap_or_default()),
            2 => {
                raw.element.value = match data_value(attr.nested())? {
                    Some(data) => Some(Value::Data(Bytes::from_slice(data))),
                    None => data_verdict(attr.nested())?.map(Value::Verdict),
                }
            }
            3 => raw.end = attr.u32()? & INTERVAL_END != 0,
            6 => raw.element.comment = comment(attr.payload, 0),
            10 => raw.high = data_value(attr.nested())?.map(KeyBytes::from_slice),
            _ => {}
        }
    }
    Ok(raw)
}

/// Joins raw elements to the canonical form: ranges paired, equal bounds as single values.
pub fn join(spec: &SetSpec, mut raw: Vec<RawElement>) -> Elements {
    if !spec.interval || spec.is_concat() {
        return raw
            .into_iter()
            .map(|raw| {
                let high = raw.high.filter(|high| *high != raw.key);
                (Key { low: raw.key, high }, raw.element)
            })
            .collect();
    }
    // An end mark closes before a start at the same value opens.
    raw.sort_by(|a, b| (&a.key, !a.end).cmp(&(&b.key, !b.end)));
    let mut joined = Vec::with_capacity(raw.len() / 2 + 1);
    let mut open: Option<(KeyBytes, Element)> = None;
    for item in raw {
        if let Some((low, element)) = open.take() {
            let mut high = item.key.clone();
            predecessor(&mut high);
            joined.push((Key::range(&low, &high), element));
        }
        if !item.end {
            open = Some((item.key, item.element));
        }
    }
    if let Some((low, element)) = open {
        let high: KeyBytes = std::iter::repeat_n(0xff, low.len()).collect();
        joined.push((Key::range(&low, &high), element));
    }
    joined.into_iter().collect()
}

/// Reads the name of a counter (or other object) and its type.
///
/// # Errors
/// Malformed attributes, or an object without table or name.
pub fn object(message: &Message<'_>) -> Result<(Name, Name, u32), WireError> {
    let (mut table, mut name, mut kind) = (None, None, 0);
    for attr in message.attrs() {
        let attr = attr?;
        match attr.kind {
            1 => table = Some(attr.text()?),
            2 => name = Some(attr.text()?),
            3 => kind = attr.u32()?,
            _ => {}
        }
    }
    Ok((required(table, 1, "object")?, required(name, 2, "object")?, kind))
}

/// Reads the packets and bytes of a dumped counter object.
///
/// # Errors
/// Malformed attributes.
pub fn counter_values(message: &Message<'_>) -> Result<(u64, u64), WireError> {
    let (mut bytes, mut packets) = (0, 0);
    for attr in message.attrs() {
        let attr = attr?;
        if attr.kind != 4 {
            continue;
        }
        for item in attr.nested() {
            let item = item?;
            match item.kind {
                1 => bytes = item.u64()?,
                2 => packets = item.u64()?,
                _ => {}
            }
        }
    }
    Ok((packets, bytes))
}

/// Reads a flowtable.
///
/// # Errors
/// Malformed attributes, or a flowtable without table or name.
pub fn flowtable(message: &Message<'_>) -> Result<(Name, Name, Flowtable), WireError> {
    let (mut table, mut name) = (None, None);
    let mut flowtable = Flowtable { priority: 0, devices: Default::default() };
    for attr in message.attrs() {
        let attr = attr?;
        match attr.kind {
            1 => table = Some(attr.text()?),
            2 => name = Some(attr.text()?),
            3 => {
                for item in attr.nested() {
                    let item = item?;
                    match item.kind {
                        2 => flowtable.priority = item.u32()? as i32,
                        3 => {
                            for device in item.nested() {
                                flowtable.devices.insert(device?.text()?.into());
                            }
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok((required(table, 1, "flowtable")?, required(name, 2, "flowtable")?, flowtable))
}

/// Attribute `kind` of a message as text.
pub(crate) fn text(message: &Message<'_>, kind: u16) -> Option<Name> {
    message.attrs().flatten().find(|attr| attr.kind == kind).and_then(|attr| attr.text().ok()).map(Name::from)
}

/// Attribute `kind` of a message as number: the id of a set within its batch.
pub(crate) fn set_id(message: &Message<'_>, kind: u16) -> Option<u32> {
    message.attrs().flatten().find(|attr| attr.kind == kind).and_then(|attr| attr.u32().ok())
}

/// A rule as sent, whose literal sets are known by their ids within the batch.
pub(crate) fn sent_rule(
    message: &Message<'_>,
    literals: &BTreeMap<u32, Arc<LiteralSet>>,
) -> Result<DumpedRule, WireError> {
    let mut dumped = rule(message, &Literals::new())?;
    let list = message.attrs().flatten().find(|attr| attr.kind == 4);
    let items = list.iter().flat_map(|list| list.nested().flatten()).filter(|item| item.kind == LIST_ELEM);
    for (expr, item) in dumped.rule.exprs.iter_mut().zip(items) {
        let id = item.nested().flatten().find(|attr| attr.kind == 2).and_then(|data| {
            data.nested().flatten().find(|attr| attr.kind == 4).and_then(|attr| attr.u32().ok())
        });
        if let (Some(set), Some(literal)) = (expr.set_mut(), id.and_then(|id| literals.get(&id))) {
            *set = SetRef::Literal(literal.clone());
        }
    }
    Ok(dumped)
}

/// The key of the element that the byte at `offset` of a whole message lies in.
pub(crate) fn element_key_at(message: &[u8], offset: usize) -> Option<Key> {
    let message = messages(message).next()?;
    let list = message.attrs().flatten().find(|attr| attr.kind == 3)?;
    let item = list
        .nested()
        .flatten()
        .find(|item| (item.offset..item.offset + item.payload.len() + 4).contains(&offset))?;
    let raw = raw_element(item.nested()).ok()?;
    let high = raw.high.filter(|high| *high != raw.key);
    Some(Key { low: raw.key, high })
}

/// Feeds one received buffer through every reader. Entry point of the fuzz target: nothing may panic.
pub fn exercise(buf: &[u8]) {
    let literals = Literals::new();
    for message in messages(buf) {
        let _ = generation(&message);
        let _ = chain(&message);
        let _ = rule(&message, &literals);
        let _ = object(&message);
        let _ = counter_values(&message);
        let _ = flowtable(&message);
        let mut raw = Vec::new();
        let _ = elements(&message, &mut raw);
        if let Ok(set) = set(&message) {
            let _ = join(&set.spec, raw.clone());
        }
        let _ = join(&SetSpec::ranges(&[Field::Ipv4]), raw);
    }
    let _ = element_key_at(buf, buf.len() / 2);
}
