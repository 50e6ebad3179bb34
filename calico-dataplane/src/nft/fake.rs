//! A kernel in memory: it takes the bytes of a batch, checks every reference as the kernel does, and applies all of
//! it or nothing.
//!
//! Together with [`super::eval`] it stands in for nf_tables where there is no privilege, and it refuses on request
//! what the real one refuses only when something is badly wrong.
//!
//! ```
//! use calico_dataplane::nft::batch::Batch;
//! use calico_dataplane::nft::fake::FakeKernel;
//! use calico_dataplane::nft::object::Chain;
//!
//! let mut kernel = FakeKernel::default();
//! let mut batch = Batch::new("calico");
//! batch.add_table();
//! batch.add_chain("example", &Chain::default());
//! kernel.commit(&mut batch, None).unwrap();
//! assert!(kernel.ruleset("calico").unwrap().chains.contains_key("example"));
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::batch::{Batch, FAMILY_INET, Refusal, message};
use super::decode::{self, Literals, Message};
use super::kernel::{Dump, Foreign, KernelError, NfTables};
use super::object::{Chain, Elements, LiteralSet, Name, Reference, Ruleset, Set, SetSpec, Value};
use super::wire::WireError;

/// Nested jumps the kernel allows.
const MAX_DEPTH: usize = 16;

/// nf_tables of one namespace, in memory.
#[derive(Debug, Clone, Default)]
pub struct FakeKernel {
    tables: BTreeMap<Name, Ruleset>,
    generation: u32,
    /// Answers to give to the next commits before anything is looked at.
    faults: Vec<Fault>,
    /// Chains and sets whose rules and elements are refused, with the errno.
    cursed: BTreeMap<Name, i32>,
    /// Somebody tampered since the last look.
    tampered: bool,
}

/// A failure on request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The transaction as a whole is refused with this errno.
    Refuse(i32),
    /// Somebody else committed in between.
    Outdated,
    /// The batch is applied, but its replies are lost.
    Lost,
}

/// What one message of a batch amounts to: an errno, or success.
type Step = Result<(), i32>;

/// A transaction in progress.
struct Transaction {
    tables: BTreeMap<Name, Ruleset>,
    /// Anonymous sets of this batch, by name and id.
    literals: BTreeMap<u32, LiteralSet>,
}

impl FakeKernel {
    /// Lets the next commits fail, the first fault first.
    pub fn fail_next(&mut self, faults: impl IntoIterator<Item = Fault>) {
        self.faults.extend(faults);
    }

    /// Refuses every rule of a chain, or every element of a set, with this errno from now on.
    pub fn curse(&mut self, chain_or_set: &str, errno: i32) {
        self.cursed.insert(chain_or_set.into(), errno);
    }

    /// Lets commits succeed again.
    pub fn forget_faults(&mut self) {
        self.faults.clear();
        self.cursed.clear();
    }

    fn curse_on(&self, kind: u8, part: &Message<'_>) -> Option<i32> {
        if self.cursed.is_empty() || !matches!(kind, message::NEWRULE | message::NEWSETELEM) {
            return None;
        }
        let name = decode::text(part, 2)?;
        // What only drops is what a refused chain is closed with.
        let closes = kind == message::NEWRULE
            && decode::rule(part, &Literals::new())
                .is_ok_and(|dumped| dumped.rule.exprs == [super::build::drop_packet()]);
        self.cursed.get(&name).copied().filter(|_| !closes)
    }

    /// Content of a table.
    pub fn ruleset(&self, table: &str) -> Option<&Ruleset> {
        self.tables.get(table)
    }

    /// Content of a table, for tampering with it.
    pub fn ruleset_mut(&mut self, table: &str) -> Option<&mut Ruleset> {
        self.generation += 1;
        self.tampered = true;
        self.tables.get_mut(table)
    }

    /// Number of commits so far.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// As [`super::kernel::Kernel::dump`].
    pub fn dump(&self, table: &str) -> Dump {
        let ruleset = self.tables.get(table);
        Dump {
            generation: self.generation,
            exists: ruleset.is_some(),
            ruleset: ruleset.cloned().unwrap_or_default(),
        }
    }

    /// As [`super::kernel::Kernel::commit`].
    ///
    /// # Errors
    /// As there.
    pub fn commit(&mut self, batch: &mut Batch, generation: Option<u32>) -> Result<(), KernelError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut lost = false;
        if !self.faults.is_empty() {
            match self.faults.remove(0) {
                Fault::Refuse(errno) => {
                    let refusal = Refusal {
                        origin: super::batch::Origin::Transaction,
                        errno,
                        element: None,
                        message: None,
                    };
                    return Err(KernelError::Refused(vec![refusal]));
                }
                Fault::Outdated => {
                    self.generation += 1;
                    return Err(KernelError::Outdated);
                }
                Fault::Lost => lost = true,
            }
        }
        if generation.is_some_and(|known| known != self.generation) {
            return Err(KernelError::Outdated);
        }
        let bytes = batch.finish(generation);
        let mut transaction = Transaction { tables: self.tables.clone(), literals: BTreeMap::new() };
        let mut refusals = Vec::new();
        for part in decode::messages(&bytes) {
            let Some(kind) = part.nft_kind() else { continue };
            let step = match self.curse_on(kind, &part) {
                Some(errno) => Err(errno),
                None => transaction.step(kind, &part),
            };
            if let Err(errno) = step {
                refusals.push(batch.refusal(&bytes, part.seq, errno, None, None));
            }
        }
        if !refusals.is_empty() {
            return Err(KernelError::Refused(refusals));
        }
        if let Some(errno) = transaction.tables.values().find_map(|ruleset| validate(ruleset).err()) {
            return Err(KernelError::Refused(vec![batch.refusal(
                &bytes,
                batch.last_seq(),
                errno,
                None,
                None,
            )]));
        }
        self.tables = transaction.tables;
        self.generation += 1;
        if lost { Err(KernelError::Unknown) } else { Ok(()) }
    }
}

impl NfTables for FakeKernel {
    fn commit(&mut self, batch: &mut Batch, generation: Option<u32>) -> Result<(), KernelError> {
        Self::commit(self, batch, generation)
    }

    fn dump(&mut self, table: &str) -> Result<Dump, KernelError> {
        Ok(Self::dump(self, table))
    }

    fn generation(&mut self) -> Result<u32, KernelError> {
        Ok(self.generation)
    }

    fn has_table(&mut self, family: u8, table: &str) -> Result<bool, KernelError> {
        Ok(family == FAMILY_INET && self.tables.contains_key(table))
    }

    fn foreign(&mut self, _: &str, _: &BTreeSet<u32>) -> Result<Foreign, KernelError> {
        let touched = std::mem::take(&mut self.tampered);
        Ok(Foreign { generation: Some(self.generation), touched })
    }

    fn listen(&mut self, _: bool) -> Result<(), KernelError> {
        Ok(())
    }
}

fn unreadable(_: WireError) -> i32 {
    libc::EINVAL
}

impl Transaction {
    fn step(&mut self, kind: u8, part: &Message<'_>) -> Step {
        let table: Name = part.table().ok_or(libc::EINVAL)?.into();
        match kind {
            message::NEWTABLE => {
                self.tables.entry(table).or_default();
                return Ok(());
            }
            message::DELTABLE => return self.tables.remove(&table).map(drop).ok_or(libc::ENOENT),
            _ => {}
        }
        let ruleset = self.tables.get_mut(&table).ok_or(libc::ENOENT)?;
        match kind {
            message::NEWCHAIN => {
                let (_, name, chain) = decode::chain(part).map_err(unreadable)?;
                match ruleset.chains.get(&name) {
                    Some(there) if there.base != chain.base => Err(libc::EEXIST),
                    Some(_) => Ok(()),
                    None => {
                        ruleset.chains.insert(name, chain);
                        Ok(())
                    }
                }
            }
            message::DELCHAIN => {
                let (_, name, _) = decode::chain(part).map_err(unreadable)?;
                let chain = ruleset.chains.get(&name).ok_or(libc::ENOENT)?;
                if !chain.rules.is_empty() || is_referenced(ruleset, Reference::Chain(&name)) {
                    return Err(libc::EBUSY);
                }
                ruleset.chains.remove(&name);
                Ok(())
            }
            message::NEWRULE => self.add_rule(&table, part),
            message::DELRULE => {
                let dumped = decode::rule(part, &Literals::new()).map_err(unreadable)?;
                ruleset.chains.get_mut(&dumped.chain).ok_or(libc::ENOENT)?.rules.clear();
                Ok(())
            }
            message::NEWSET => {
                let set = decode::set(part).map_err(unreadable)?;
                if set.anonymous {
                    let id = decode::set_id(part, 10).ok_or(libc::EINVAL)?;
                    self.literals.insert(id, LiteralSet { spec: set.spec, elements: Elements::new() });
                    return Ok(());
                }
                match ruleset.sets.get(&set.name) {
                    Some(there) if there.spec != set.spec => Err(libc::EEXIST),
                    Some(_) => Ok(()),
                    None => {
                        ruleset.sets.insert(set.name, Set { spec: set.spec, elements: Elements::new() });
                        Ok(())
                    }
                }
            }
            message::DELSET => {
                let set = decode::set(part).map_err(unreadable)?;
                if is_referenced(ruleset, Reference::Set(&set.name)) {
                    return Err(libc::EBUSY);
                }
                ruleset.sets.remove(&set.name).map(drop).ok_or(libc::ENOENT)
            }
            message::NEWSETELEM | message::DELSETELEM => self.elements(kind, &table, part),
            message::NEWOBJ => {
                let (_, name, _) = decode::object(part).map_err(unreadable)?;
                ruleset.counters.insert(name);
                Ok(())
            }
            message::DELOBJ => {
                let (_, name, _) = decode::object(part).map_err(unreadable)?;
                if is_referenced(ruleset, Reference::Counter(&name)) {
                    return Err(libc::EBUSY);
                }
                if ruleset.counters.remove(&name) { Ok(()) } else { Err(libc::ENOENT) }
            }
            message::NEWFLOWTABLE => {
                let (_, name, flowtable) = decode::flowtable(part).map_err(unreadable)?;
                ruleset.flowtables.insert(name, flowtable);
                Ok(())
            }
            message::DELFLOWTABLE => {
                let (_, name, _) = decode::flowtable(part).map_err(unreadable)?;
                ruleset.flowtables.remove(&name).map(drop).ok_or(libc::ENOENT)
            }
            _ => Err(libc::EOPNOTSUPP),
        }
    }

    fn add_rule(&mut self, table: &Name, part: &Message<'_>) -> Step {
        let literals: BTreeMap<u32, Arc<LiteralSet>> =
            self.literals.iter().map(|(id, literal)| (*id, Arc::new(literal.clone()))).collect();
        let dumped = decode::sent_rule(part, &literals).map_err(unreadable)?;
        let ruleset = self.tables.get_mut(table).ok_or(libc::ENOENT)?;
        if dumped.rule.exprs.len() > 128 {
            return Err(libc::EINVAL);
        }
        for reference in dumped.rule.references() {
            let there = match reference {
                Reference::Chain(name) => ruleset.chains.contains_key(name),
                Reference::Set(name) => ruleset.sets.contains_key(name),
                Reference::Counter(name) => ruleset.counters.contains(name),
                Reference::Flowtable(name) => ruleset.flowtables.contains_key(name),
            };
            if !there {
                return Err(libc::ENOENT);
            }
        }
        let chain: &mut Chain = ruleset.chains.get_mut(&dumped.chain).ok_or(libc::ENOENT)?;
        chain.rules.push(dumped.rule);
        Ok(())
    }

    fn elements(&mut self, kind: u8, table: &Name, part: &Message<'_>) -> Step {
        let (name, id) = (decode::text(part, 2).ok_or(libc::EINVAL)?, decode::set_id(part, 4));
        let ruleset = self.tables.get_mut(table).ok_or(libc::ENOENT)?;
        let (spec, elements): (SetSpec, &mut Elements) = match id {
            Some(id) => {
                let literal = self.literals.get_mut(&id).ok_or(libc::ENOENT)?;
                (literal.spec.clone(), &mut literal.elements)
            }
            None => {
                let set = ruleset.sets.get_mut(&name).ok_or(libc::ENOENT)?;
                (set.spec.clone(), &mut set.elements)
            }
        };
        let mut raw = Vec::new();
        decode::elements(part, &mut raw).map_err(unreadable)?;
        for (key, element) in decode::join(&spec, raw) {
            if kind == message::DELSETELEM {
                elements.remove(&key).ok_or(libc::ENOENT)?;
                continue;
            }
            if let Some(Value::Verdict(verdict)) = &element.value
                && verdict.target().is_some_and(|chain| !ruleset.chains.contains_key(chain))
            {
                return Err(libc::ENOENT);
            }
            let overlaps =
                |other: &super::object::Key| other.low <= *key.upper() && key.low <= *other.upper();
            match elements.get(&key) {
                Some(there) if *there == element => {}
                Some(_) => return Err(libc::EEXIST),
                None if spec.interval && !spec.is_concat() && elements.keys().any(overlaps) => {
                    return Err(libc::EEXIST);
                }
                None => drop(elements.insert(key, element)),
            }
        }
        Ok(())
    }
}

/// Some rule or map element refers to the object.
fn is_referenced(ruleset: &Ruleset, wanted: Reference<'_>) -> bool {
    let by_rule = ruleset.chains.values().flat_map(Chain::references).any(|reference| reference == wanted);
    let by_element = || {
        ruleset.sets.values().flat_map(|set| set.elements.values()).any(|element| match &element.value {
            Some(Value::Verdict(verdict)) => verdict.target().map(Reference::Chain) == Some(wanted),
            _ => false,
        })
    };
    by_rule || by_element()
}

/// No loops and no more nesting than allowed, from every base chain.
fn validate(ruleset: &Ruleset) -> Step {
    fn walk(ruleset: &Ruleset, chain: &Chain, depth: usize) -> Step {
        if depth > MAX_DEPTH {
            return Err(libc::EMLINK);
        }
        for reference in chain.references() {
            let targets: Vec<&Name> = match reference {
                Reference::Chain(name) => vec![name],
                Reference::Set(name) => ruleset
                    .sets
                    .get(name)
                    .into_iter()
                    .flat_map(|set| set.elements.values())
                    .filter_map(|element| match &element.value {
                        Some(Value::Verdict(verdict)) => verdict.target(),
                        _ => None,
                    })
                    .collect(),
                _ => Vec::new(),
            };
            for target in targets {
                walk(ruleset, ruleset.chains.get(target).ok_or(libc::ENOENT)?, depth + 1)?;
            }
        }
        Ok(())
    }
    ruleset.chains.values().filter(|chain| chain.base.is_some()).try_for_each(|chain| walk(ruleset, chain, 1))
}
