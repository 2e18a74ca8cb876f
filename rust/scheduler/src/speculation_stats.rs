//! What speculation did for one model, counted: the engine thread writes, anybody may read.

use std::array::from_fn;

use crate::action::{PlannedRow, StepOutcome, StepPlan};
use crate::draft::Drafter;
use crate::sync::{AtomicU64, Ordering};

/// Drafts and draft lengths are counted one by one up to here; what is longer counts as this long.
pub const MAX_COUNTED: usize = 64;

/// Draft tokens: of one drafter, or at one position.
#[derive(Debug, Default)]
pub struct DraftStats {
    /// Verified.
    pub proposed: AtomicU64,
    /// Accepted of them.
    pub accepted: AtomicU64,
}

impl DraftStats {
    fn count(&self, kept: bool) {
        add(&self.proposed, 1);
        add(&self.accepted, u64::from(kept));
    }

    /// Verified, and accepted of them.
    pub fn read(&self) -> (u64, u64) {
        (read(&self.proposed), read(&self.accepted))
    }
}

/// Steps of one kind, prompts in none of them.
#[derive(Debug, Default)]
pub struct StepStats {
    /// How many.
    pub steps: AtomicU64,
    /// Rows in them that got a token.
    pub rows: AtomicU64,
    /// Tokens that they brought.
    pub tokens: AtomicU64,
    /// Nanoseconds that they took.
    pub ns: AtomicU64,
}

impl StepStats {
    /// Steps, rows, tokens and milliseconds.
    pub fn read(&self) -> (u64, u64, u64, f64) {
        (read(&self.steps), read(&self.rows), read(&self.tokens), read(&self.ns) as f64 * 1e-6)
    }
}

/// Everything counted of one model.
#[derive(Debug)]
pub struct SpeculationStats {
    /// In the order of [`Drafter::ALL`].
    pub drafters: [DraftStats; Drafter::ALL.len()],
    /// By position in the draft.
    pub positions: [DraftStats; MAX_COUNTED],
    /// `lens[n]`: decoding rows that were given `n` drafts.
    pub lens: [AtomicU64; MAX_COUNTED + 1],
    /// Steps that only decode, without any draft.
    pub plain: StepStats,
    /// The same with drafts.
    pub drafting: StepStats,
}

impl Default for SpeculationStats {
    fn default() -> Self {
        Self {
            drafters: from_fn(|_| DraftStats::default()),
            positions: from_fn(|_| DraftStats::default()),
            lens: from_fn(|_| AtomicU64::default()),
            plain: StepStats::default(),
            drafting: StepStats::default(),
        }
    }
}

impl SpeculationStats {
    /// Count a step that brought `outcome` in `ns` nanoseconds.
    pub fn count_step(&self, plan: &StepPlan, outcome: &StepOutcome, ns: u64) {
        let (mut rows, mut drafted, mut kept_tokens) = (0, 0, 0);
        let sampling = plan.rows.iter().filter(|row| row.samples);
        for (row, &kept) in sampling.zip(&outcome.accepted) {
            self.count_drafts(row, kept as usize);
            if row.num_new == 1 {
                add(&self.lens[row.num_drafts().min(MAX_COUNTED)], 1);
            }
            rows += 1;
            drafted += row.num_drafts();
            kept_tokens += u64::from(kept);
        }
        if rows == plan.rows.len() as u64 && plan.rows.iter().all(|row| row.num_new == 1) {
            let steps = if drafted > 0 { &self.drafting } else { &self.plain };
            add(&steps.steps, u64::from(rows > 0));
            add(&steps.rows, rows);
            add(&steps.tokens, rows + kept_tokens);
            add(&steps.ns, if rows > 0 { ns } else { 0 });
        }
    }

    fn count_drafts(&self, row: &PlannedRow, kept: usize) {
        for (at, drafter) in row.drafters().enumerate() {
            self.drafters[drafter.index()].count(at < kept);
            self.positions[at.min(MAX_COUNTED - 1)].count(at < kept);
        }
    }
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
