//! Keeps the kernel's table equal to what the policy graph asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};

use calico_policy::changes::Changes;

use super::batch::Refusal;
use super::compile::Compiler;
use super::config::Config;
use super::kernel::{Kernel, KernelError, Monitor};
use super::object::Name;
use crate::driver::{ApplyReport, InterfaceState, PolicyDataplane};

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
}

/// The nf_tables policy dataplane of one network namespace.
///
/// It survives being killed: the table stays in the kernel, and the next one reads it, finds what differs from what
/// it wants, and changes only that, in one transaction.
#[derive(Debug)]
pub struct Dataplane {
    compiler: Compiler,
    kernel: Kernel,
    monitor: Monitor,
    /// The generation the table was last known at.
    generation: Option<u32>,
    /// Generations that are commits of ours and may still be announced.
    own: BTreeSet<u32>,
    stats: Stats,
}

impl Dataplane {
    /// Opens the dataplane in the network namespace of the calling thread. The kernel's table is not touched
    /// before the first apply.
    ///
    /// # Errors
    /// No netlink, or no privilege to use it.
    pub fn open(config: Config) -> Result<Self, KernelError> {
        Ok(Self {
            compiler: Compiler::new(config),
            kernel: Kernel::open()?,
            monitor: Monitor::open()?,
            generation: None,
            own: BTreeSet::new(),
            stats: Stats::default(),
        })
    }

    /// What was done so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// The compiler with the desired table.
    pub fn compiler(&self) -> &Compiler {
        &self.compiler
    }

    /// Readable when somebody changed nf_tables; then call [`repair_drift`](Self::repair_drift).
    pub fn drift_fd(&self) -> BorrowedFd<'_> {
        self.monitor.as_fd()
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

    /// Packets and bytes of every named counter.
    ///
    /// # Errors
    /// Socket failures.
    pub fn counters(&mut self) -> Result<BTreeMap<Name, (u64, u64)>, KernelError> {
        let table = self.compiler.table().name().clone();
        self.kernel.counters(&table)
    }

    /// Reads the table back, so that the difference is exact.
    fn read_back(&mut self) -> Result<(), KernelError> {
        let table = self.compiler.table().name().clone();
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
        let foreign = self.monitor.poll(&table, &self.own)?;
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
            if batch.is_empty() {
                return Ok(self.compiler.report(messages));
            }
            let operations = batch.len();
            match self.commit(&mut batch) {
                Ok(()) => {
                    self.compiler.table_mut().committed();
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
                    if !read_again && refusals.iter().any(|refusal| hints_at_drift(refusal.errno)) {
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

    fn commit(&mut self, batch: &mut super::batch::Batch) -> Result<(), KernelError> {
        let quiet = batch.len() > QUIET_OPERATIONS;
        if quiet {
            self.monitor.suspend()?;
        }
        let outcome = self.kernel.commit(batch, self.generation);
        if quiet {
            self.monitor.resume()?;
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

impl PolicyDataplane for Dataplane {
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
}
