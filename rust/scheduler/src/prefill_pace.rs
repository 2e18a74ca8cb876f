//! How much of a prompt to read beside decoding: as much as fits the time between two tokens.
//!
//! What a prompt token costs grows with the prompt, so it is learnt from every step that read some.

use crate::step_cost::StepCost;

/// Even where the time is spent already, prompts go on by this many tokens a step.
const MIN_CHUNK: u32 = 16;
/// Weight of a new observation.
const WEIGHT: f32 = 0.25;
/// A step says at most so many times more or less than was thought: one hiccup is no trend.
const SURPRISE: f32 = 4.0;
const MIN_MS: f32 = 1e-4;

/// What one more prompt token adds to a step.
#[derive(Debug)]
pub struct PrefillPace {
    ms_per_token: f32,
}

impl PrefillPace {
    /// From what steps cost at load.
    pub fn new(cost: &StepCost) -> Self {
        let slope = (cost.ms(64, 1) - cost.ms(1, 1)) / 63.0;
        Self { ms_per_token: slope.max(MIN_MS) }
    }

    /// Prompt tokens that fit, at most `most`, into a step that takes `decode_ms` without them and is
    /// to take `budget_ms`.
    #[expect(clippy::cast_sign_loss, reason = "a time that is left is not negative")]
    pub fn chunk(&self, decode_ms: f32, budget_ms: f32, most: u32) -> u32 {
        let fitting = (budget_ms - decode_ms).max(0.0) / self.ms_per_token;
        (fitting as u32).max(MIN_CHUNK).min(most)
    }

    /// Learn from a step that took `ms`, `decode_ms` of which are known to be decoding's.
    pub fn observe(&mut self, decode_ms: f32, num_tokens: u32, ms: f32) {
        let seen = (ms - decode_ms) / num_tokens.max(1) as f32;
        let known = self.ms_per_token;
        let seen = seen.clamp(known / SURPRISE, known * SURPRISE).max(MIN_MS);
        self.ms_per_token += WEIGHT * (seen - known);
    }
}
