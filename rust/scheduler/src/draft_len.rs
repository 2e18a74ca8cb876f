//! How many tokens to draft: fill a step with the draft positions that pay.
//!
//! A step of `M` tokens costs `t(M)`, measured on this device ([`StepCost`]). A draft position is
//! worth the chance that it and all before it are accepted ([`Acceptance`], learnt from what
//! verification kept). All rows' positions compete for one budget: taken by falling chance, as
//! long as tokens per millisecond rise (goodput, as in `SmartSpec`, arXiv 2406.14066). If the best
//! budget is not clearly better than no draft at all, none is made; a small probe now and then
//! notices when that changes.

use crate::acceptance::{Acceptance, Posterior};
use crate::draft::Draft;
use crate::ranking::Ranking;
use crate::step_cost::StepCost;

/// Draft only when it promises this much more than plain decoding; once nothing was worth drafting,
/// only when it promises clearly more, so that a choice on the edge does not come and go.
const MIN_GAIN: f32 = 1.02;
const GAIN_TO_RESUME: f32 = 1.05;
/// While nothing is drafted, one token is, every this many steps.
const PROBE_STEPS: u32 = 16;

/// Draft lengths of a padded rectangle: few, so that the device sees few shapes.
pub(crate) const DRAFT_WIDTHS: [usize; 6] = [1, 2, 4, 8, 16, 32];

/// A row that could be drafted for.
#[derive(Debug)]
pub struct Candidate {
    /// What the drafter proposes, in order.
    pub drafts: Vec<Draft>,
    /// `survival[j]`: chance that drafts `0..=j` are all accepted; falls with `j`.
    pub survival: Vec<f32>,
}

impl Candidate {
    /// Value the drafts of a request; positions of no worth at all are cut.
    pub fn new(acceptance: &Acceptance, posterior: &Posterior, mut drafts: Vec<Draft>) -> Self {
        let mut chance = 1.0;
        let survival: Vec<f32> = drafts
            .iter()
            .map(|draft| {
                chance *= acceptance.rate(posterior, draft);
                chance
            })
            .take_while(|&chance| chance > 0.01)
            .collect();
        drafts.truncate(survival.len());
        Self { drafts, survival }
    }
}

/// A step before any draft.
#[derive(Debug, Clone, Copy)]
pub struct StepBase {
    /// Rows that sample a token.
    pub rows: u32,
    /// Tokens in the step.
    pub tokens: u32,
    /// Those of them that are of prompts.
    pub prefill: u32,
    /// Rectangles in the step.
    pub rects: u32,
    /// Draft tokens that still fit.
    pub budget: u32,
    /// Slots that all take the width of the longest draft; 0 where every row has its own width
    /// (and its draft a rectangle of its own).
    pub padded_slots: u32,
}

/// The controller of one model.
#[derive(Debug)]
pub struct DraftLen {
    /// Cost of steps on this device.
    pub cost: StepCost,
    /// What drafts are worth.
    pub acceptance: Acceptance,
    parked: bool,
    parked_steps: u32,
    ranking: Ranking,
    /// Rows of the positions taken, in order.
    order: Vec<u32>,
}

impl DraftLen {
    /// A controller with the costs measured at load.
    pub fn new(cost: StepCost) -> Self {
        Self {
            cost,
            acceptance: Acceptance::default(),
            parked: false,
            parked_steps: 0,
            ranking: Ranking::default(),
            order: Vec::new(),
        }
    }

    /// Cut each candidate to the drafts that its stake pays for, if they should all be wrong.
    pub fn afford(&self, candidates: &mut [Candidate], stakes: &[f32], base: StepBase) {
        let sharers = if base.padded_slots > 0 { candidates.len() as f32 } else { 1.0 };
        let longest = candidates.iter().map(|it| it.survival.len()).max().unwrap_or(0);
        let prices: Vec<f32> =
            (1..=longest).map(|drafts| self.price(base, drafts as u32, 1) / sharers).collect();
        for (candidate, &stake) in candidates.iter_mut().zip(stakes) {
            candidate.survival.truncate(prices.partition_point(|&price| price <= stake));
        }
    }

    /// Tell what was chosen in the end where something could have been.
    pub fn park(&mut self, nothing_drafted: bool) {
        self.parked = nothing_drafted;
    }

    /// What drafts cost all rows together, in tokens of plain decoding: `drafts` of them in `rows`
    /// rows, or, padded, that many in every row.
    pub fn price(&self, base: StepBase, drafts: u32, rows: u32) -> f32 {
        let plain = self.plain_ms(base);
        let drafting = if base.padded_slots > 0 {
            self.drafting_ms(base, base.padded_slots * drafts, base.rects)
        } else {
            self.drafting_ms(base, drafts, base.rects + rows)
        };
        base.rows as f32 * (drafting - plain).max(0.0) / plain
    }

    /// Time, in tokens of plain decoding of all rows together.
    pub fn tokens_in(&self, ms: f32, base: StepBase) -> f32 {
        base.rows as f32 * ms / self.plain_ms(base)
    }

    /// Choose each candidate's number of drafts, written to `lens` in the candidates' order. Returns
    /// tokens per millisecond that these promise, or that any were to beat.
    pub fn choose(
        &mut self,
        candidates: &[Candidate],
        base: StepBase,
        lens: &mut Vec<usize>,
    ) -> f32 {
        let rate = self.fill(candidates, base, 0.0, lens);
        if lens.iter().any(|&len| len > 0) {
            self.parked_steps = 0;
        } else {
            self.probe(candidates, base, lens);
        }
        rate
    }

    /// The same without probes, where drafts take `making_ms` to make.
    pub fn fill(
        &mut self,
        candidates: &[Candidate],
        base: StepBase,
        making_ms: f32,
        lens: &mut Vec<usize>,
    ) -> f32 {
        lens.clear();
        lens.resize(candidates.len(), 0);
        if base.padded_slots > 0 {
            self.choose_width(candidates, base, making_ms, lens)
        } else {
            self.choose_positions(candidates, base, making_ms, lens)
        }
    }

    /// Every row its own length: the best positions of all rows, best first.
    fn choose_positions(
        &mut self,
        candidates: &[Candidate],
        base: StepBase,
        making_ms: f32,
        lens: &mut [usize],
    ) -> f32 {
        self.ranking.restart(candidates);
        self.order.clear();
        let fixed = making_ms + self.plain_ms(base) - self.cost.ms(base.tokens, base.rects);
        let (mut best, mut best_rate) = (0, self.rate_to_beat(base));
        let (mut expected, mut rects) = (base.rows as f32, base.rects);
        let mut cost = self.cost.climb(base.tokens);
        for _ in 0..base.budget {
            let Some(position) = self.ranking.next(candidates) else { break };
            self.order.push(position.row());
            expected += position.survival();
            rects += u32::from(position.at() == 0);
            let rate = expected / (fixed + cost.next_ms(rects));
            if rate > best_rate {
                (best, best_rate) = (self.order.len(), rate);
            }
        }
        for &row in &self.order[..best] {
            lens[row as usize] += 1;
        }
        best_rate
    }

    /// One width for all rows of the padded rectangles.
    fn choose_width(
        &self,
        candidates: &[Candidate],
        base: StepBase,
        making_ms: f32,
        lens: &mut [usize],
    ) -> f32 {
        let longest = candidates.iter().map(|it| it.survival.len()).max().unwrap_or(0);
        let (mut best, mut best_rate) = (0, self.rate_to_beat(base));
        for draft_len in DRAFT_WIDTHS.into_iter().take_while(|&len| len < 2 * longest.max(1)) {
            let padding = base.padded_slots * draft_len as u32;
            let drafted = candidates.iter().flat_map(|it| it.survival.iter().take(draft_len));
            let expected = base.rows as f32 + drafted.sum::<f32>();
            let rate = expected / (making_ms + self.drafting_ms(base, padding, base.rects));
            if padding <= base.budget && rate > best_rate {
                (best, best_rate) = (draft_len, rate);
            }
        }
        for (len, candidate) in lens.iter_mut().zip(candidates) {
            *len = best.min(candidate.survival.len());
        }
        best_rate
    }

    fn rate_to_beat(&self, base: StepBase) -> f32 {
        let gain = if self.parked { GAIN_TO_RESUME } else { MIN_GAIN };
        gain * base.rows as f32 / self.plain_ms(base)
    }

    /// What the step's rows would take to decode one token each. Prompts read in the same step make
    /// it longer, but no draft cheaper: they are left out, lest drafts hide behind them.
    fn plain_ms(&self, base: StepBase) -> f32 {
        if base.prefill == 0 {
            return self.cost.ms(base.tokens, base.rects);
        }
        self.cost.ms((base.tokens - base.prefill).max(base.rows), 1)
    }

    /// The same with `drafts` more tokens, in `rects` rectangles in all.
    fn drafting_ms(&self, base: StepBase, drafts: u32, rects: u32) -> f32 {
        let added =
            self.cost.ms(base.tokens + drafts, rects) - self.cost.ms(base.tokens, base.rects);
        self.plain_ms(base) + added
    }

    /// While nothing pays, try the likeliest draft token now and then, to notice when it would.
    fn probe(&mut self, candidates: &[Candidate], base: StepBase, lens: &mut [usize]) {
        let chance = |row: usize| candidates[row].survival.first().copied().unwrap_or(0.0);
        let best = (0..candidates.len()).max_by(|&a, &b| chance(a).total_cmp(&chance(b)));
        let fits = base.budget >= base.padded_slots.max(1);
        let Some(row) = best.filter(|&row| chance(row) > 0.0 && fits) else {
            return;
        };
        self.parked_steps = (self.parked_steps + 1) % PROBE_STEPS;
        if self.parked_steps == 0 {
            lens[row] = 1;
        }
    }
}
