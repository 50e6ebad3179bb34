//! The claim of an owner to a block and the states it goes through.

/// How far a claim is.
///
/// Only [`State::Confirmed`] (or an empty stored state) may be acted on by routing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord, Hash)]
pub enum State {
    /// The owner wants the block; the block may not exist or may be somebody else's.
    Pending,
    /// The owner has the block.
    #[default]
    Confirmed,
    /// The owner is giving the block up.
    PendingDeletion,
}

impl State {
    /// The stored text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Confirmed => "confirmed",
            Self::PendingDeletion => "pendingDeletion",
        }
    }

    /// Reads the stored text; the empty text means confirmed.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "confirmed" => Some(Self::Confirmed),
            "pending" => Some(Self::Pending),
            "pendingDeletion" => Some(Self::PendingDeletion),
            _ => None,
        }
    }
}

/// A stored claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Affinity {
    /// How far it is.
    pub state: State,
    /// Soft-delete mark of stores without conditional deletes.
    pub deleted: bool,
}

impl Affinity {
    /// A claim in a state.
    #[must_use]
    pub fn new(state: State) -> Self {
        Self { state, deleted: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_read_back_and_empty_means_confirmed() {
        for state in [State::Pending, State::Confirmed, State::PendingDeletion] {
            assert_eq!(State::parse(state.as_str()), Some(state));
        }
        assert_eq!(State::parse(""), Some(State::Confirmed));
        assert_eq!(State::parse("Confirmed"), None);
    }
}
