//! Keeps the kernel's table equal to what the policy graph asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;

use calico_policy::changes::Changes;

use super::batch::{Origin, Refusal};
use super::compile::Compiler;
use super::config::Config;
use super::connections::denied_flows;
use super::kernel::{KernelError, Live, NfTables};
use super::object::Name;
use crate::driver::{ApplyReport, InterfaceState, PolicyDataplane};
use crate::netlink::{Conntrack, Family, NetlinkError};

/// Attempts at one flush: each either reads the table again or closes a refused object.
const ATTEMPTS: usize = 32;
/// Batches with more operations are sent with the monitor's subscription suspended.
const QUIET_OPERATIONS: usize = 256;

/// What the dataplane did since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Transactions committed.
    pub commits: u64,
    /// Operations in them.
    pub operations: u64,
    /// Times the table was read back.
    pub reads: u64,
    /// Times somebody else had changed the table.
    pub drifts: u64,
    /// Transactions the kernel refused.
    pub refusals: u64,
    /// Connections forgotten because policy denies them now.
    pub cut: u64,
}

/// The nf_tables policy dataplane of one network namespace.
///
/// It survives being killed: the table stays in the kernel, and the next one reads it, finds what differs from what
/// it wants, and changes only that, in one transaction.
#[derive(Debug)]
pub struct Dataplane<N = Live> {
    compiler: Compiler,
    kernel: N,
    /// The generation the table was last known at.
    generation: Option<u32>,
    /// Generations that are commits of ours and may still be announced.
    own: BTreeSet<u32>,
    /// Tables of the reference implementation that are still there; unknown before the first read.
    predecessors: Option<Vec<(u8, &'static str)>>,
    stats: Stats,
}

/// What the reference implementation leaves behind, by family: IPv4, IPv6 and ARP.
const PREDECESSORS: [(u8, &str); 3] = [(2, "calico"), (10, "calico"), (3, "calico-arp")];

impl Dataplane {
    /// Opens the dataplane in the network namespace of the calling thread. The kernel's table is not touched
    /// before the first apply.
    ///
    /// # Errors
    /// No netlink, or no privilege to use it.
    pub fn open(config: Config) -> Result<Self, KernelError> {
        Live::open().map(|kernel| Self::over(kernel, config))
    }

    /// Packets and bytes of every named counter.
    ///
    /// # Errors
    /// Socket failures.
    pub fn counters(&mut self) -> Result<BTreeMap<Name, (u64, u64)>, KernelError> {
        let table = self.compiler.table().name().clone();
        self.kernel.counters(&table)
    }
}

impl<N: NfTables> Dataplane<N> {
    /// A dataplane over a conversation with nf_tables.
    pub fn over(kernel: N, config: Config) -> Self {
        Self {
            compiler: Compiler::new(config),
            kernel,
            generation: None,
            own: BTreeSet::new(),
            predecessors: None,
            stats: Stats::default(),
        }
    }

    /// What it talks to.
    pub fn kernel_mut(&mut self) -> &mut N {
        &mut self.kernel
    }

    /// What was done so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// The compiler with the desired table.
    pub fn compiler(&self) -> &Compiler {
        &self.compiler
    }

    /// Repairs the table if somebody else changed it. Cheap when nobody did.
    ///
    /// # Errors
    /// When the table cannot be read or the repair fails as a whole.
    pub fn repair_drift(&mut self) -> Result<ApplyReport, KernelError> {
        self.flush()
    }

    /// Reads the table whatever the generation says, and repairs every difference.
    ///
    /// # Errors
    /// When the table cannot be read or the repair fails as a whole.
    pub fn verify(&mut self) -> Result<ApplyReport, KernelError> {
        self.read_back()?;
        self.flush()
    }

    /// Reads the table back, so that the difference is exact.
    fn read_back(&mut self) -> Result<(), KernelError> {
        let table = self.compiler.table().name().clone();
        if self.predecessors.is_none() {
            let mut found = Vec::new();
            for (family, name) in PREDECESSORS {
                if self.kernel.has_table(family, name)? {
                    found.push((family, name));
                }
            }
            self.predecessors = Some(found);
        }
        let dump = self.kernel.dump(&table)?;
        self.stats.reads += 1;
        self.compiler.table_mut().adopt(dump.exists, &dump.ruleset);
        self.generation = Some(dump.generation);
        // Whatever was announced up to here is part of the dump.
        self.own = (0..=64).map(|back| dump.generation.wrapping_sub(back)).collect();
        Ok(())
    }

    /// Learns what others did; reads the table back when it was theirs to touch.
    fn look_around(&mut self) -> Result<(), KernelError> {
        let table = self.compiler.table().name().clone();
        let foreign = self.kernel.foreign(&table, &self.own)?;
        if foreign.touched {
            self.stats.drifts += 1;
            return self.read_back();
        }
        match self.generation {
            None => self.read_back(),
            Some(_) => {
                if let Some(generation) = foreign.generation {
                    self.generation = Some(generation);
                }
                Ok(())
            }
        }
    }

    /// Sends what the kernel lacks until it lacks nothing.
    fn flush(&mut self) -> Result<ApplyReport, KernelError> {
        let mut messages = 0;
        let mut read_again = false;
        let mut recreated = false;
        let mut last_error = KernelError::Unknown;
        for _ in 0..ATTEMPTS {
            self.look_around()?;
            let mut batch = self.compiler.table().batch();
            // The tables we replace go in the transaction that installs ours: no packet finds neither.
            for (family, name) in self.predecessors.iter().flatten() {
                batch.delete_foreign_table(*family, name);
            }
            if batch.is_empty() {
                return Ok(self.compiler.report(messages));
            }
            let operations = batch.len();
            match self.commit(&mut batch) {
                Ok(()) => {
                    self.compiler.table_mut().committed();
                    self.predecessors = Some(Vec::new());
                    self.cut_denied();
                    self.stats.commits += 1;
                    self.stats.operations += operations as u64;
                    messages += operations;
                    return Ok(self.compiler.report(messages));
                }
                Err(KernelError::Outdated) => {
                    last_error = KernelError::Outdated;
                    self.catch_up()?;
                }
                Err(KernelError::Unknown) => {
                    last_error = KernelError::Unknown;
                    self.read_back()?;
                }
                Err(KernelError::Refused(refusals)) => {
                    self.stats.refusals += 1;
                    if refusals.iter().any(|refusal| is_of_the_system(refusal.errno)) {
                        return Err(KernelError::Refused(refusals));
                    }
                    // One of the tables we replace vanished by itself.
                    let vanished = refusals.iter().any(|refusal| refusal.origin == Origin::Transaction);
                    if vanished && self.predecessors.as_ref().is_some_and(|found| !found.is_empty()) {
                        self.predecessors = None;
                        self.read_back()?;
                    } else if !read_again && refusals.iter().any(|refusal| hints_at_drift(refusal.errno)) {
                        read_again = true;
                        self.read_back()?;
                    } else if !self.close(&refusals) {
                        if recreated {
                            return Err(KernelError::Refused(refusals));
                        }
                        recreated = true;
                        self.compiler.table_mut().recreate();
                    }
                    last_error = KernelError::Refused(refusals);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last_error)
    }

    /// Forgets connections that the policy now in force would not admit, where the configuration asks for it. The
    /// policy is in force whether that succeeds or not.
    fn cut_denied(&mut self) {
        if self.compiler.config().cut_denied_connections {
            match cut_denied(&self.compiler) {
                Ok(count) => self.stats.cut += count,
                Err(error) => tracing::warn!(%error, "connections that policy denies now go on"),
            }
        }
    }

    fn commit(&mut self, batch: &mut super::batch::Batch) -> Result<(), KernelError> {
        let quiet = batch.len() > QUIET_OPERATIONS;
        if quiet {
            self.kernel.listen(false)?;
        }
        let outcome = self.kernel.commit(batch, self.generation);
        if quiet {
            self.kernel.listen(true)?;
        }
        outcome?;
        let expected = self.generation.map(next_generation);
        self.own.extend(expected);
        while self.own.len() > 128 {
            self.own.pop_first();
        }
        if quiet && expected != Some(self.kernel.generation()?) {
            // Somebody else committed while nobody listened: read the table before the next change.
            self.generation = None;
        } else {
            self.generation = expected;
        }
        Ok(())
    }

    /// After a lost race: the announcements tell whether our table was touched; without any the table is read.
    fn catch_up(&mut self) -> Result<(), KernelError> {
        let before = self.generation;
        self.look_around()?;
        if self.generation == before { self.read_back() } else { Ok(()) }
    }

    /// Closes the refused objects. Errors that may only be consequences of others wait for the next attempt.
    fn close(&mut self, refusals: &[Refusal]) -> bool {
        let is_cause = |refusal: &&Refusal| refusal.errno != libc::ENOENT;
        let causes: Vec<&Refusal> = refusals.iter().filter(is_cause).collect();
        let targets = if causes.is_empty() { refusals.iter().take(1).collect() } else { causes };
        let mut closed = false;
        for refusal in targets {
            let reason = match &refusal.message {
                Some(text) => format!("the kernel refused it: errno {}, {text}", refusal.errno),
                None => format!("the kernel refused it: errno {}", refusal.errno),
            };
            closed |= self.compiler.refuse(&refusal.origin, refusal.element.as_ref(), &reason);
        }
        closed
    }
}

fn cut_denied(compiler: &Compiler) -> Result<u64, NetlinkError> {
    let mut conntrack = Conntrack::open()?;
    let mut count = 0;
    for family in [Family::V4, Family::V6] {
        let flows = conntrack.flows(family)?;
        count += conntrack.forget(&denied_flows(compiler, flows))? as u64;
    }
    Ok(count)
}

/// The number after a generation; zero is left out.
fn next_generation(generation: u32) -> u32 {
    generation.wrapping_add(1).max(1)
}

/// Errors that say nothing about the object.
fn is_of_the_system(errno: i32) -> bool {
    matches!(errno, libc::EPERM | libc::EACCES | libc::ENOMEM | libc::ENOBUFS)
}

/// Errors that a table changed by somebody else would cause.
fn hints_at_drift(errno: i32) -> bool {
    matches!(errno, libc::ENOENT | libc::EEXIST | libc::EBUSY)
}

impl<N: NfTables + Send> PolicyDataplane for Dataplane<N> {
    type Error = KernelError;

    fn apply(&mut self, changes: &Changes, interfaces: &InterfaceState) -> Result<ApplyReport, KernelError> {
        self.compiler.apply(changes, interfaces);
        self.flush()
    }

    fn resync(&mut self) -> Result<ApplyReport, KernelError> {
        // The generation changes with every commit of anybody: the same number means the same table.
        let known = self.generation;
        if known.is_none() || known != Some(self.kernel.generation()?) {
            self.read_back()?;
        }
        self.flush()
    }

    fn watch(&self) -> Option<BorrowedFd<'_>> {
        self.kernel.watch()
    }

    fn repair(&mut self) -> Result<Option<ApplyReport>, KernelError> {
        let drifts = self.stats.drifts;
        let report = self.flush()?;
        Ok((self.stats.drifts != drifts).then_some(report))
    }
}
