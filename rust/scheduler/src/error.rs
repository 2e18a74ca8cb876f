//! What can go wrong for a caller; our own bugs panic in tests and are caught by the engine loop.

use crate::ids::ModelId;

/// Why a submission was refused. Nothing of it was kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// As many requests are in flight as may run and wait together.
    #[error("the server has {capacity} requests already: try again later or raise --max-waiting")]
    QueueFull {
        /// That many.
        capacity: usize,
    },
    /// The scheduler is draining or has stopped.
    #[error("the server is shutting down: try again later or at another server")]
    Closed,
    /// No model has this id.
    #[error("no model with index {0}")]
    UnknownModel(ModelId),
    /// The model is not in memory and cannot be brought there now.
    #[error(transparent)]
    Unavailable(#[from] Refusal),
    /// The prompt is empty.
    #[error("the prompt has no tokens: send at least one")]
    EmptyPrompt,
    /// The prompt leaves no room for one new token.
    #[error("the prompt has {prompt} tokens, the context holds {context}: shorten it by {over}")]
    ContextLength {
        /// Tokens of the prompt.
        prompt: usize,
        /// The model's context length.
        context: u32,
        /// Tokens too many, counting one for the answer.
        over: usize,
    },
    /// The predicted answer is longer than any answer can be.
    #[error("the prediction has {prediction} tokens, the context holds {context}: shorten it")]
    PredictionLength {
        /// Tokens of the prediction.
        prediction: usize,
        /// The model's context length.
        context: u32,
    },
    /// The request could never run, even alone.
    #[error(
        "the request needs {needed} KV blocks, the pool has {total}: lower max_tokens or raise --kv-memory"
    )]
    TooLarge {
        /// Blocks needed by the longest possible continuation.
        needed: u32,
        /// Blocks in the pool.
        total: u32,
    },
}

/// Why a model cannot be brought into memory now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No model has this id.
    #[error("no model with index {0}")]
    UnknownModel(ModelId),
    /// Even alone, or beside the pinned models, it exceeds the budget.
    #[error(
        "the model needs {need} bytes and models may hold {budget}, pinned ones included: raise --memory"
    )]
    NeverFits {
        /// Bytes it needs.
        need: u64,
        /// Bytes for all models.
        budget: u64,
    },
    /// There is no room now, and the policy is not to wait.
    #[error("the model needs {need} bytes and {free} are free: unload another or try again later")]
    NoRoom {
        /// Bytes it needs.
        need: u64,
        /// Bytes not held.
        free: u64,
    },
    /// Room did not come in time.
    #[error("no memory became free for the model within {seconds} s: try again later")]
    TimedOut {
        /// How long the request has waited.
        seconds: u64,
    },
    /// Its last load failed.
    #[error(
        "the model could not be loaded: try again in {seconds} s; the server's log has the cause"
    )]
    BackingOff {
        /// Seconds until it is tried again.
        seconds: u64,
    },
    /// The server holds nearly all it may.
    #[error("memory is short: send less at a time or try again later")]
    MemoryShort,
    /// The load it waited for failed.
    #[error("the model could not be loaded: {0}")]
    LoadFailed(String),
}

/// An invariant that does not hold: the text says which.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("integrity: {0}")]
pub struct IntegrityError(pub String);

/// Fails with [`IntegrityError`] unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err($crate::error::IntegrityError(format!($($text)+)));
        }
    };
}
pub(crate) use ensure;
