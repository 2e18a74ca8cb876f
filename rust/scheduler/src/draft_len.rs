//! How many tokens to draft: fill a step with the draft positions that pay.
//!
//! A step of `M` tokens costs `t(M)`, measured on this device ([`StepCost`]). A draft position is
//! worth the chance that it and all before it are accepted ([`Acceptance`], learnt from what
//! verification kept). All rows' positions compete for one budget: taken by falling chance, as
//! long as tokens per millisecond rise (goodput, as in `SmartSpec`, arXiv 2406.14066). If the best
//! budget is not clearly better than no draft at all, none is made; a small probe now and then
//! notices when that changes.

use crate::suffix::Draft;

/// Draft only when it promises this much more than plain decoding.
const MIN_GAIN: f32 = 1.02;
/// While nothing is drafted, one token is, every this many steps.
const PROBE_STEPS: u32 = 16;
/// Weight of a new observation in the speed of the device as a whole: other work on it makes every
/// step slower or faster at once.
const SPEED_WEIGHT: f32 = 0.1;
/// Weight of a new observation in the cost of its own number of tokens, next to the others'.
const SHAPE_WEIGHT: f32 = 0.02;
/// What the speed, and the cost of a knot, may drift to, as factors of what was measured at load.
const SPEED_DRIFT: (f32, f32) = (0.25, 4.0);
const SHAPE_DRIFT: (f32, f32) = (0.5, 2.0);
/// Strength of the model-wide acceptance rate as prior of a request's own, in observations.
const PRIOR_WEIGHT: f32 = 8.0;
/// Forgetting per observation: of a request, and of the model.
const REQUEST_DECAY: f32 = 0.97;
const MODEL_DECAY: f32 = 0.999;

/// Time that a request may lose to wrong drafts, in tokens of plain decoding: at the start, more
/// with every step, and at most, however much right ones have won.
const FIRST_CREDIT: f32 = 1.2;
const STEP_CREDIT: f32 = 0.01;
const MOST_CREDIT: f32 = 6.0;

/// Draft lengths of a padded rectangle: few, so that the device sees few shapes.
pub(crate) const DRAFT_WIDTHS: [usize; 6] = [1, 2, 4, 8, 16, 32];

const MATCH_BUCKETS: usize = 6;
const PROB_BUCKETS: usize = 3;
const BUCKETS: usize = MATCH_BUCKETS * PROB_BUCKETS;

/// Drafts alike enough to share one acceptance rate: by length of the matched context, and by how
/// much of what followed it was this token.
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
    by_match * PROB_BUCKETS + by_prob
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
            let by_match = (index / PROB_BUCKETS) as f32 / (MATCH_BUCKETS - 1) as f32;
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

fn decay_and_add(entry: &mut (f32, f32), decay: f32, hit: f32) {
    entry.0 = entry.0 * decay + hit;
    entry.1 = entry.1 * decay + 1.0;
}

/// Cost of a step by its number of tokens: measured at load, corrected by every step since.
#[derive(Debug, Clone)]
pub struct StepCost {
    knots: Vec<Knot>,
    rect_ms: f32,
    speed: f32,
}

#[derive(Debug, Clone, Copy)]
struct Knot {
    tokens: f32,
    measured_ms: f32,
    factor: f32,
}

impl Knot {
    fn ms(&self) -> f32 {
        self.measured_ms * self.factor
    }
}

impl StepCost {
    /// From measurements `(tokens, ms)`, ascending by tokens; empty means every step costs 1 ms.
    pub fn new(measured: &[(u32, f32)], rect_ms: f32) -> Self {
        let mut knots: Vec<Knot> = measured
            .iter()
            .map(|&(tokens, ms)| Knot {
                tokens: tokens as f32,
                measured_ms: ms.max(1e-3),
                factor: 1.0,
            })
            .collect();
        if knots.is_empty() {
            knots.push(Knot { tokens: 1.0, measured_ms: 1.0, factor: 1.0 });
        }
        // A longer step that measured faster was noise: more tokens never cost less.
        let mut floor = 0.0_f32;
        for knot in &mut knots {
            floor = floor.max(knot.measured_ms);
            knot.measured_ms = floor;
        }
        Self { knots, rect_ms: rect_ms.max(0.0), speed: 1.0 }
    }

    /// Milliseconds for a step of `tokens` tokens in `rects` rectangles.
    pub fn ms(&self, tokens: u32, rects: u32) -> f32 {
        let (low, high, share) = self.around(tokens);
        let (low, high) = (self.knots[low], self.knots[high]);
        let along = |a: f32, b: f32| a + (b - a) * share;
        // Behind the last knot the measured slope goes on: one between corrections may fall.
        let step_ms = if share > 1.0 {
            along(low.measured_ms, high.measured_ms) * high.factor
        } else {
            along(low.ms(), high.ms())
        };
        self.speed * (step_ms + self.rect_ms * rects.saturating_sub(1) as f32)
    }

    /// Learn from a step that took `ms`.
    pub fn observe(&mut self, tokens: u32, rects: u32, ms: f32) {
        let surprise = (ms / self.ms(tokens, rects).max(1e-3)).clamp(0.5, 2.0) - 1.0;
        let moved = |factor: f32, weight: f32, (low, high): (f32, f32)| {
            (factor * (1.0 + weight * surprise)).clamp(low, high)
        };
        self.speed = moved(self.speed, SPEED_WEIGHT, SPEED_DRIFT);
        let (low, high, share) = self.around(tokens);
        let share = share.min(1.0);
        for (index, near) in [(low, 1.0 - share), (high, share)] {
            let factor = &mut self.knots[index].factor;
            *factor = moved(*factor, SHAPE_WEIGHT * near, SHAPE_DRIFT);
        }
    }

    /// The knots on both sides and how far between them; beyond the last, the last slope goes on.
    fn around(&self, tokens: u32) -> (usize, usize, f32) {
        let tokens = tokens as f32;
        let last = self.knots.len() - 1;
        let high = self.knots.iter().position(|knot| knot.tokens >= tokens).unwrap_or(last);
        let low = high.saturating_sub(1);
        let width = self.knots[high].tokens - self.knots[low].tokens;
        if width <= 0.0 {
            return (high, high, 0.0);
        }
        (low, high, ((tokens - self.knots[low].tokens) / width).max(0.0))
    }
}

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
    parked_steps: u32,
    order: Vec<Position>,
}

/// One draft position: its survival, its row, and whether it is the row's first.
type Position = (f32, u32, bool);

impl DraftLen {
    /// A controller with the costs measured at load.
    pub fn new(cost: StepCost) -> Self {
        Self { cost, acceptance: Acceptance::default(), parked_steps: 0, order: Vec::new() }
    }

    /// Cut each candidate to the drafts that its stake pays for, if they should all be wrong.
    pub fn afford(&self, candidates: &mut [Candidate], stakes: &[f32], base: StepBase) {
        let sharers = candidates.len() as f32;
        for (candidate, &stake) in candidates.iter_mut().zip(stakes) {
            let (mut affordable, mut most) = (0, candidate.survival.len());
            while affordable < most {
                let tried = (affordable + most).div_ceil(2);
                let price = self.price(base, tried as u32, 1);
                let own = if base.padded_slots > 0 { price / sharers } else { price };
                if own <= stake {
                    affordable = tried;
                } else {
                    most = tried - 1;
                }
            }
            candidate.survival.truncate(affordable);
        }
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

    /// Choose each candidate's number of drafts, written to `lens` in the candidates' order.
    pub fn choose(&mut self, candidates: &[Candidate], base: StepBase, lens: &mut Vec<usize>) {
        lens.clear();
        lens.resize(candidates.len(), 0);
        if base.padded_slots > 0 {
            self.choose_width(candidates, base, lens);
        } else {
            self.choose_positions(candidates, base, lens);
        }
        if lens.iter().any(|&len| len > 0) {
            self.parked_steps = 0;
        } else {
            self.probe(candidates, base, lens);
        }
    }

    /// Every row its own length: the best positions of all rows, best first.
    fn choose_positions(&mut self, candidates: &[Candidate], base: StepBase, lens: &mut [usize]) {
        let mut order = std::mem::take(&mut self.order);
        order.clear();
        for (row, candidate) in candidates.iter().enumerate() {
            let positions = candidate.survival.iter().enumerate();
            order.extend(positions.map(|(at, &chance)| (chance, row as u32, at == 0)));
        }
        // Stable, and survival falls along a row: a row's positions stay in their order.
        order.sort_by(|a, b| b.0.total_cmp(&a.0));
        order.truncate(base.budget as usize);
        for &(_, row, _) in &order[..self.best_count(&order, base)] {
            lens[row as usize] += 1;
        }
        self.order = order;
    }

    /// How many of the best positions give most tokens per millisecond.
    fn best_count(&self, order: &[Position], base: StepBase) -> usize {
        let (mut best, mut best_rate) = (0, self.rate_to_beat(base));
        let (mut expected, mut rects) = (base.rows as f32, base.rects);
        for (index, &(chance, _, first)) in order.iter().enumerate() {
            expected += chance;
            rects += u32::from(first);
            let rate = expected / self.drafting_ms(base, index as u32 + 1, rects);
            if rate > best_rate {
                (best, best_rate) = (index + 1, rate);
            }
        }
        best
    }

    /// One width for all rows of the padded rectangles.
    fn choose_width(&self, candidates: &[Candidate], base: StepBase, lens: &mut [usize]) {
        let longest = candidates.iter().map(|it| it.survival.len()).max().unwrap_or(0);
        let (mut best, mut best_rate) = (0, self.rate_to_beat(base));
        for draft_len in DRAFT_WIDTHS.into_iter().take_while(|&len| len < 2 * longest.max(1)) {
            let padding = base.padded_slots * draft_len as u32;
            let drafted = candidates.iter().flat_map(|it| it.survival.iter().take(draft_len));
            let expected = base.rows as f32 + drafted.sum::<f32>();
            let rate = expected / self.drafting_ms(base, padding, base.rects);
            if padding <= base.budget && rate > best_rate {
                (best, best_rate) = (draft_len, rate);
            }
        }
        for (len, candidate) in lens.iter_mut().zip(candidates) {
            *len = best.min(candidate.survival.len());
        }
    }

    fn rate_to_beat(&self, base: StepBase) -> f32 {
        MIN_GAIN * base.rows as f32 / self.plain_ms(base)
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
