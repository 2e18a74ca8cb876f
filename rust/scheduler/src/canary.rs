//! Is drafting really faster? Now and then some steps go without, and the clock decides.
//!
//! The controller's choice rests on what it expects; whatever it does not know of (a device that slows
//! down under wide steps, costs that moved further than it follows) shows here. For each number of
//! decoding rows, by powers of two:
//!
//! ```text
//! 1024 steps that drafted | 16 without | 1024 that drafted | 16 without | ...
//!      tokens per ms     vs  tokens per ms
//! lost three times in a row: no drafts for 4096 steps
//! ```

/// Steps that drafted between two canaries.
const PERIOD: u32 = 1024;
/// Steps of a canary, and those of them that must have been timed for it to count.
const PLAIN_STEPS: u32 = 16;
const ENOUGH: u32 = 8;
/// Drafting has lost if it brings less than this of what plain decoding brings.
const TOLERANCE: f32 = 0.99;
const LOSSES: u32 = 3;
/// Steps without drafts after so many losses.
const PARKED_STEPS: u32 = 4096;

/// Numbers of rows that are told apart: 1, 2, up to 4, up to 8, ... and the rest.
const BUCKETS: usize = 10;

/// Tokens per row and the time they took, over some steps.
#[derive(Debug, Default, Clone, Copy)]
struct Pace {
    steps: u32,
    tokens_per_row: f32,
    ms: f32,
}

impl Pace {
    fn add(&mut self, tokens_per_row: f32, ms: f32) {
        self.steps += 1;
        self.tokens_per_row += tokens_per_row;
        self.ms += ms;
    }

    fn rate(&self) -> f32 {
        self.tokens_per_row / self.ms.max(f32::MIN_POSITIVE)
    }
}

/// What steps of one number of rows are doing.
#[derive(Debug, Default, Clone, Copy)]
enum Phase {
    #[default]
    Drafting,
    /// A canary, so many of whose steps are to come.
    Plain(u32),
    /// Drafting has lost; so many steps go without.
    Parked(u32),
}

/// What is measured of one number of rows.
#[derive(Debug, Default, Clone, Copy)]
struct Canary {
    phase: Phase,
    drafting: Pace,
    plain: Pace,
    losses: u32,
}

impl Canary {
    fn may_draft(&mut self) -> bool {
        match &mut self.phase {
            Phase::Drafting if self.drafting.steps >= PERIOD => {
                self.phase = Phase::Plain(PLAIN_STEPS);
            }
            Phase::Drafting => return true,
            Phase::Plain(0) => self.judge(),
            Phase::Parked(0) => self.phase = Phase::Drafting,
            Phase::Plain(left) | Phase::Parked(left) => {
                *left -= 1;
                return false;
            }
        }
        self.may_draft()
    }

    fn judge(&mut self) {
        if self.plain.steps >= ENOUGH {
            let lost = self.drafting.rate() < TOLERANCE * self.plain.rate();
            self.losses = if lost { self.losses + 1 } else { 0 };
        }
        (self.drafting, self.plain) = (Pace::default(), Pace::default());
        self.phase = Phase::Drafting;
        if self.losses == LOSSES {
            (self.losses, self.phase) = (0, Phase::Parked(PARKED_STEPS));
        }
    }

    fn observe(&mut self, tokens_per_row: f32, drafted: bool, ms: f32) {
        if drafted {
            self.drafting.add(tokens_per_row, ms);
        } else if matches!(self.phase, Phase::Plain(_)) {
            self.plain.add(tokens_per_row, ms);
        }
    }
}

/// The canaries of one model.
#[derive(Debug, Default)]
pub struct Canaries {
    by_rows: [Canary; BUCKETS],
}

impl Canaries {
    /// Whether this step of so many sampling rows may have drafts. To be asked once a step, of those
    /// that could.
    pub fn may_draft(&mut self, num_rows: u32) -> bool {
        self.bucket(num_rows).may_draft()
    }

    /// A step without prompts is over: what it brought all its rows together, and what it took.
    pub fn observe(&mut self, num_rows: u32, num_tokens: u32, drafted: bool, ms: f32) {
        let tokens_per_row = num_tokens as f32 / num_rows.max(1) as f32;
        self.bucket(num_rows).observe(tokens_per_row, drafted, ms);
    }

    fn bucket(&mut self, num_rows: u32) -> &mut Canary {
        let power = num_rows.max(1).next_power_of_two().ilog2() as usize;
        &mut self.by_rows[power.min(BUCKETS - 1)]
    }
}
