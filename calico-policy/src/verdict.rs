//! What evaluators answer: the verdict, what decided it, and what was passed on the way.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::ir::{Direction, PolicyId};

/// What happens to the packet at one stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It may pass.
    Allow,
    /// It is dropped.
    Deny,
    /// The stage has no opinion; the packet goes on to the next one.
    Continue,
}

/// Who owns a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleOwner {
    /// A policy in a tier.
    Policy {
        /// Tier.
        tier: Arc<str>,
        /// Policy.
        policy: PolicyId,
    },
    /// A profile.
    Profile(Arc<str>),
}

/// Identity of a rule as the user wrote it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleRef {
    /// Policy or profile.
    pub owner: RuleOwner,
    /// Which of its two lists.
    pub direction: Direction,
    /// Position in that list, from 0.
    pub index: u32,
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = match self.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        match &self.owner {
            RuleOwner::Policy { tier, policy } => {
                write!(f, "tier {tier}, {policy}, {list}[{}]", self.index)
            }
            RuleOwner::Profile(name) => write!(f, "profile {name}, {list}[{}]", self.index),
        }
    }
}

/// What decided.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// A rule with a final action.
    Rule(RuleRef),
    /// The tier had policies for the direction, none of them decided, and its default is Deny.
    EndOfTier(Arc<str>),
    /// No tier decided and no profile allowed.
    NoProfileAllows,
    /// A stage of a host endpoint has no policy that decided.
    NothingApplies,
    /// The endpoint is not active.
    Inactive,
    /// A failsafe port, checked before the policy of host endpoints.
    Failsafe,
    /// The address is of no endpoint that this evaluation polices.
    NotPoliced,
    /// `DefaultEndpointToHostAction`.
    EndpointToHost,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(rule) => rule.fmt(f),
            Self::EndOfTier(tier) => write!(f, "no rule of tier {tier} matched and its default is Deny"),
            Self::NoProfileAllows => f.write_str("no policy decided and no profile allows it"),
            Self::NothingApplies => f.write_str("no policy of this stage decided"),
            Self::Inactive => f.write_str("the endpoint is not active"),
            Self::Failsafe => f.write_str("failsafe port"),
            Self::NotPoliced => f.write_str("no policed endpoint has this address"),
            Self::EndpointToHost => f.write_str("DefaultEndpointToHostAction"),
        }
    }
}

/// What was passed before the decision.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// A Log rule matched.
    Logged(RuleRef),
    /// A Pass rule matched and the tier or profile was left.
    Passed(RuleRef),
    /// The tier had policies, none decided, and its default is Pass.
    TierPassed(Arc<str>),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Logged(rule) => write!(f, "logged by {rule}"),
            Self::Passed(rule) => write!(f, "passed on by {rule}"),
            Self::TierPassed(tier) => write!(f, "no rule of tier {tier} matched and its default is Pass"),
        }
    }
}

/// The answer of one stage for one packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Outcome {
    /// Verdict.
    pub verdict: Verdict,
    /// What decided it.
    pub reason: Reason,
    /// What was passed before, in order.
    pub steps: Vec<Step>,
}

impl Outcome {
    /// An outcome without steps.
    pub fn plain(verdict: Verdict, reason: Reason) -> Self {
        Self { verdict, reason, steps: Vec::new() }
    }
}

/// Whether staged policies count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Staged {
    /// Only what is enforced.
    Ignored,
    /// As if every staged policy were enforced at its place.
    Counted,
}

/// The stages at which a host endpoint polices packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostStage {
    /// `doNotTrack` policy, before connection tracking.
    Untracked,
    /// `preDNAT` policy, ingress only.
    PreDnat,
    /// Traffic forwarded through the interface.
    Forward,
    /// Traffic that ends or starts at the host.
    Normal,
}
