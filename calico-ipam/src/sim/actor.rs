//! One operation under way, whatever its type.

use std::sync::Arc;

use crate::assign::{Assignment, AutoAssign};
use crate::assign_ip::AssignIp;
use crate::claim::ClaimAffinity;
use crate::error::IpamError;
use crate::give_up::GiveUp;
use crate::release::ReleaseIps;
use crate::release_handle::ReleaseByHandle;
use crate::repair::Repair;
use crate::store::{Answer, Operation, Request, Step};

/// What an operation is about, for the bookkeeping of owners.
#[derive(Debug, Clone)]
pub(crate) enum Aim {
    /// Addresses for a handle.
    Assign { handle: Arc<str> },
    /// Anything else.
    Other,
}

/// The machine itself. Boxed: the sizes differ widely.
#[derive(Debug, Clone)]
pub(crate) enum Machine {
    AutoAssign(Box<AutoAssign>),
    AssignIp(Box<AssignIp>),
    ReleaseIps(Box<ReleaseIps>),
    ReleaseByHandle(Box<ReleaseByHandle>),
    Claim(Box<ClaimAffinity>),
    GiveUp(Box<GiveUp>),
    Repair(Box<Repair>),
}

/// What a machine said.
#[derive(Debug)]
pub(crate) enum Said {
    Need(Request),
    /// It is over; addresses it assigned.
    Done(Vec<Assignment>),
}

impl Machine {
    pub(crate) fn step(&mut self, answer: Answer) -> Result<Said, IpamError> {
        fn say<T>(step: Step<T>, assigned: impl FnOnce(T) -> Vec<Assignment>) -> Said {
            match step {
                Step::Need(request) => Said::Need(request),
                Step::Done(output) => Said::Done(assigned(output)),
            }
        }
        Ok(match self {
            Self::AutoAssign(machine) => {
                say(machine.step(answer)?, |done| done.addresses().cloned().collect())
            }
            Self::AssignIp(machine) => say(machine.step(answer)?, |done| vec![done.assignment]),
            Self::ReleaseIps(machine) => say(machine.step(answer)?, |_| Vec::new()),
            Self::ReleaseByHandle(machine) => say(machine.step(answer)?, |_| Vec::new()),
            Self::Claim(machine) => say(machine.step(answer)?, |_| Vec::new()),
            Self::GiveUp(machine) => say(machine.step(answer)?, |_| Vec::new()),
            Self::Repair(machine) => say(machine.step(answer)?, |_| Vec::new()),
        })
    }
}

/// An operation under way.
#[derive(Debug, Clone)]
pub(crate) struct Actor {
    pub(crate) name: String,
    pub(crate) aim: Aim,
    pub(crate) machine: Machine,
    /// When it started, in Unix nanoseconds.
    pub(crate) started: u64,
    /// What it waits for; `None` before its first step.
    pub(crate) request: Option<Request>,
}

/// An address in somebody's hands.
#[derive(Debug, Clone)]
pub(crate) struct Living {
    pub(crate) handle: Arc<str>,
    pub(crate) sequence: u64,
}
