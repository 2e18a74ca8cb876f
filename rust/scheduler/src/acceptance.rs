//! What drafts are worth: how often alike ones were accepted, and what wrong ones may cost a request.

use crate::draft::{Draft, Drafter};

/// Strength of the model-wide acceptance rate as prior of a request's own, in observations.
pub(crate) const PRIOR_WEIGHT: f32 = 8.0;
/// Forgetting per observation: of a request, and of the model.
pub(crate) const REQUEST_DECAY: f32 = 0.97;
pub(crate) const MODEL_DECAY: f32 = 0.999;

/// Time that a request may lose to wrong drafts, in tokens of plain decoding: at the start, more
/// with every step, and at most, however much right ones have won.
const FIRST_CREDIT: f32 = 1.2;
const STEP_CREDIT: f32 = 0.01;
const MOST_CREDIT: f32 = 6.0;

const MATCH_BUCKETS: usize = 6;
const PROB_BUCKETS: usize = 3;
const BUCKETS_EACH: usize = MATCH_BUCKETS * PROB_BUCKETS;
const BUCKETS: usize = Drafter::ALL.len() * BUCKETS_EACH;

/// Drafts alike enough to share one acceptance rate: by drafter, by length of the matched context,
/// and by how much of what followed it was this token.
fn bucket(draft: &Draft) -> usize {
    let by_match = match draft.match_len {
        0..=2 => 0,
        3 => 1,
        4..=5 => 2,
        6..=8 => 3,
        9..=16 => 4,
        _ => 5,
    };
    let by_prob = match draft.prob {
        p if p < 0.4 => 0,
        p if p < 0.7 => 1,
        _ => 2,
    };
    draft.drafter.index() * BUCKETS_EACH + by_match * PROB_BUCKETS + by_prob
}

/// What one request has shown of itself: accepted and tried drafts, per bucket, and the time it
/// may still lose to wrong ones, in tokens of plain decoding.
#[derive(Debug, Clone)]
pub struct Posterior {
    buckets: [(f32, f32); BUCKETS],
    credit: f32,
}

impl Default for Posterior {
    fn default() -> Self {
        Self { buckets: [(0.0, 0.0); BUCKETS], credit: FIRST_CREDIT }
    }
}

impl Posterior {
    /// What the request may lose to wrong drafts now.
    pub fn credit(&self) -> f32 {
        self.credit
    }

    /// What the request may put on a draft whose first token is accepted with this chance.
    pub fn stake(&self, chance: f32) -> f32 {
        self.credit * chance
    }

    /// A step is over: its draft took the time of `cost` tokens and brought `kept`. So a request
    /// that is never drafted for rightly loses a few tokens' time, and hardly more as it goes on.
    pub fn settle(&mut self, cost: f32, kept: usize) {
        self.credit = (self.credit + STEP_CREDIT + kept as f32 - cost).min(MOST_CREDIT);
    }
}

/// Chance that a draft token is accepted, given that all before it were.
#[derive(Debug, Clone)]
pub struct Acceptance {
    model: [(f32, f32); BUCKETS],
}

impl Default for Acceptance {
    /// Before anything was seen, longer matches are trusted more; two observations overturn it.
    fn default() -> Self {
        let mut model = [(0.0, 2.0); BUCKETS];
        for (index, entry) in model.iter_mut().enumerate() {
            let by_match =
                (index % BUCKETS_EACH / PROB_BUCKETS) as f32 / (MATCH_BUCKETS - 1) as f32;
            let by_prob = (index % PROB_BUCKETS) as f32 / (PROB_BUCKETS - 1) as f32;
            entry.0 = 2.0 * (0.2 + 0.45 * by_match + 0.25 * by_prob);
        }
        Self { model }
    }
}

impl Acceptance {
    /// The rate for this draft in this request.
    pub fn rate(&self, posterior: &Posterior, draft: &Draft) -> f32 {
        let index = bucket(draft);
        let (kept, tried) = self.model[index];
        let (own_kept, own_tried) = posterior.buckets[index];
        let prior = kept / tried.max(f32::EPSILON);
        (PRIOR_WEIGHT * prior + own_kept) / (PRIOR_WEIGHT + own_tried)
    }

    /// Learn from one verified draft: `kept` tokens were accepted, the next one, if any, was
    /// rejected, and those behind it tell nothing.
    pub fn observe(&mut self, posterior: &mut Posterior, drafts: &[Draft], kept: usize) {
        for (index, draft) in drafts.iter().enumerate().take(kept + 1) {
            let hit = if index < kept { 1.0 } else { 0.0 };
            let at = bucket(draft);
            decay_and_add(&mut self.model[at], MODEL_DECAY, hit);
            decay_and_add(&mut posterior.buckets[at], REQUEST_DECAY, hit);
        }
    }
}

pub(crate) fn decay_and_add(entry: &mut (f32, f32), decay: f32, hit: f32) {
    entry.0 = entry.0 * decay + hit;
    entry.1 = entry.1 * decay + 1.0;
}
