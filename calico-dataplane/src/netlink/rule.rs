//! Policy routing rules.

use super::error::{DecodeError, NetlinkError};
use super::route::{Family, RouteProtocol};
use super::socket::Request;
use super::wire::{Body, Message, flags, u32_at};
use super::{RTM_DELRULE, RTM_GETRULE, RTM_NEWRULE, Rtnetlink};

const RULE_HEADER: usize = 12;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_PROTOCOL: u16 = 21;
const FIB_RULE_INVERT: u32 = 2;
const ACTION_TO_TABLE: u8 = 1;

/// A rule that sends marked packets to a routing table: `99: not from all fwmark 0x200000/0x200000 lookup 1`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Family.
    pub family: Family,
    /// Order; lower first.
    pub priority: u32,
    /// Table to look in; 0 when the rule does something else.
    pub table: u32,
    /// Mark value.
    pub mark: u32,
    /// Bits of the mark that count; 0 for a rule that does not look at the mark.
    pub mask: u32,
    /// Holds for packets that do not match.
    pub invert: bool,
    /// Only for packets from this interface.
    pub from_interface: Option<String>,
    /// Who put it there.
    pub protocol: RouteProtocol,
}

impl Rule {
    fn encode(&self, body: &mut Body<'_>) {
        let short_table = u8::try_from(self.table).unwrap_or(0);
        body.bytes(&[self.family.number(), 0, 0, 0, short_table, 0, 0, ACTION_TO_TABLE]);
        body.bytes(&(if self.invert { FIB_RULE_INVERT } else { 0 }).to_ne_bytes());
        body.u32(FRA_PRIORITY, self.priority);
        body.u32(FRA_TABLE, self.table);
        if self.mask != 0 {
            body.u32(FRA_FWMARK, self.mark);
            body.u32(FRA_FWMASK, self.mask);
        }
        if let Some(name) = &self.from_interface {
            body.text(FRA_IIFNAME, name);
        }
        if self.protocol != RouteProtocol::UNSPEC {
            body.u8(FRA_PROTOCOL, self.protocol.0);
        }
    }
}

/// Reads an `RTM_NEWRULE` or `RTM_DELRULE`; `None` for other families.
///
/// # Errors
/// [`DecodeError`].
pub fn decode(message: &Message<'_>) -> Result<Option<Rule>, DecodeError> {
    let fixed = message.fixed::<RULE_HEADER>()?;
    let Some(family) = Family::from_number(fixed[0]) else { return Ok(None) };
    let to_table = fixed[7] == ACTION_TO_TABLE;
    let mut rule = Rule {
        family,
        priority: 0,
        table: if to_table { fixed[4].into() } else { 0 },
        mark: 0,
        mask: 0,
        invert: u32_at(fixed, 8) & FIB_RULE_INVERT != 0,
        from_interface: None,
        protocol: RouteProtocol::UNSPEC,
    };
    for attribute in message.attributes(RULE_HEADER) {
        let attribute = attribute?;
        match attribute.kind {
            FRA_PRIORITY => rule.priority = attribute.u32()?,
            FRA_TABLE if to_table => rule.table = attribute.u32()?,
            FRA_FWMARK => rule.mark = attribute.u32()?,
            FRA_FWMASK => rule.mask = attribute.u32()?,
            FRA_IIFNAME => rule.from_interface = Some(attribute.text().into_owned()),
            FRA_PROTOCOL => rule.protocol = RouteProtocol(attribute.u8()?),
            _ => {}
        }
    }
    Ok(Some(rule))
}

impl Rtnetlink {
    /// All rules of a family, sorted by priority.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn rules(&mut self, family: Family) -> Result<Vec<Rule>, NetlinkError> {
        let body = |body: &mut Body<'_>| body.bytes(&[family.number(), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let request = Request { action: &"list rules", kind: RTM_GETRULE, flags: 0, body: &body };
        let mut rules = self.socket.dump(&request, |message| decode(&message))?;
        rules.sort();
        Ok(rules)
    }

    /// Adds a rule.
    ///
    /// # Errors
    /// [`NetlinkError`], present when it is there already.
    pub fn add_rule(&mut self, rule: &Rule) -> Result<(), NetlinkError> {
        let body = |body: &mut Body<'_>| rule.encode(body);
        let action = format_args!("add rule {} to table {}", rule.priority, rule.table);
        self.socket.acknowledged(&Request {
            action: &action,
            kind: RTM_NEWRULE,
            flags: flags::CREATE | flags::EXCL,
            body: &body,
        })
    }

    /// Deletes a rule. False when there was none.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn delete_rule(&mut self, rule: &Rule) -> Result<bool, NetlinkError> {
        let body = |body: &mut Body<'_>| rule.encode(body);
        let action = format_args!("delete rule {} to table {}", rule.priority, rule.table);
        let request = Request { action: &action, kind: RTM_DELRULE, flags: 0, body: &body };
        match self.socket.acknowledged(&request) {
            Err(error) if error.is_absent() => Ok(false),
            other => other.map(|()| true),
        }
    }
}
