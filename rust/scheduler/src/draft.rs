//! A drafted token, and who drafted it.

/// Who proposes tokens. Each earns its own trust ([`crate::acceptance`]) and has its own counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drafter {
    /// What followed this context in the request's own text.
    Suffix,
    /// What followed it in the answer that the client predicted.
    Prediction,
    /// What followed it in the answers to other requests of the same salt.
    Shared,
    /// What the request's grammar leaves no choice of.
    Grammar,
    /// What a draft model writes, in the step that verifies it.
    Model,
}

impl Drafter {
    /// All of them, in the order of their indices.
    pub const ALL: [Self; 5] =
        [Self::Suffix, Self::Prediction, Self::Shared, Self::Grammar, Self::Model];

    /// Position in tables of one entry per drafter.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The name in metrics and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Suffix => "suffix",
            Self::Prediction => "prediction",
            Self::Shared => "shared_suffix",
            Self::Grammar => "grammar",
            Self::Model => "draft_model",
        }
    }
}

/// One drafted token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draft {
    /// Who proposes it.
    pub drafter: Drafter,
    /// The token.
    pub token: u32,
    /// Estimated probability, given that all drafts before it are right.
    pub prob: f32,
    /// Tokens of context, earlier drafts included, that this one was predicted from.
    pub match_len: u32,
}

/// Draft tokens of one drafter: verified, and kept of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DraftCount {
    /// Verified.
    pub proposed: u32,
    /// Kept.
    pub accepted: u32,
}
