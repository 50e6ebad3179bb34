//! Tiers.

use crate::Timestamp;
use crate::shape::{object, text_enum};

text_enum! {
    /// What happens to traffic that policies of a tier apply to but no rule decides.
    pub enum TierDefaultAction {
        /// Drop it.
        Deny = "Deny",
        /// Go on with the next tier.
        Pass = "Pass",
    }

    /// State of a condition.
    pub enum ConditionStatus {
        /// Holds.
        True = "True",
        /// Does not hold.
        False = "False",
        /// Cannot be told.
        Unknown = "Unknown",
    }
}

object! {
    /// Spec of a `Tier`.
    pub struct TierSpec {
        /// Position, lowest first; absent is 1000000 once stored.
        #[serde(serialize_with = "crate::shape::whole::serialize")]
        order: Option<f64> = "order",
        /// End of the tier; unset means `Deny`.
        default_action: TierDefaultAction = "defaultAction",
    }

    /// Status of a `Tier`.
    pub struct TierStatus {
        /// Conditions; type `Ready` is the one in use.
        conditions: Vec<Condition> = "conditions",
    }
}

object! {
    /// A condition of an object (Kubernetes `metav1.Condition`).
    pub struct Condition always {
        /// What the condition is about, for example `Ready`.
        condition_type: String = "type",
        /// Whether it holds.
        status: ConditionStatus = "status",
        /// Generation of the spec it was computed from.
        observed_generation: Option<i64> = "observedGeneration",
        /// When the status changed last.
        last_transition_time: Option<Timestamp> = "lastTransitionTime",
        /// One word saying why.
        reason: String = "reason",
        /// A sentence for people.
        message: String = "message",
    }
}
