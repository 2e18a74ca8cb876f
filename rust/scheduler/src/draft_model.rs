//! A draft model as the controller sees it: what its forwards cost, and how often it is right.
//!
//! It drafts in rounds, one forward each, so a draft costs time before it is verified. How likely
//! its drafts are kept is learnt by their place in the draft: in a request, and of all requests.

use crate::acceptance::{MODEL_DECAY, PRIOR_WEIGHT, REQUEST_DECAY, decay_and_add};
use crate::action::Laid;
use crate::config::DraftModelShape;
use crate::draft_plan::DraftPlan;
use crate::ids::RequestId;
use crate::step_cost::StepCost;

/// Places in a draft that are told apart; later ones are like the last.
const PLACES: usize = 8;
/// Before anything was seen: this rate at every place, worth two observations.
const FIRST_RATE: f32 = 0.7;
/// While drafts of the model do not pay, every this many requests one is read all the same.
const SAMPLED_REQUESTS: u64 = 16;
/// A row that could be drafted for gets one draft token after so many steps without, to notice when
/// it pays again.
const PROBE_STEPS: u32 = 64;

/// Kept and tried drafts by their place in the draft.
#[derive(Debug, Clone, Default)]
pub struct PlaceRates([(f32, f32); PLACES]);

impl PlaceRates {
    /// Learn from a draft of which `kept` tokens were right, the next one, if any, wrong, and those
    /// behind it unknown.
    fn observe(&mut self, drafted: usize, kept: usize, decay: f32) {
        for nth in 0..drafted.min(kept + 1) {
            let hit = if nth < kept { 1.0 } else { 0.0 };
            decay_and_add(&mut self.0[nth.min(PLACES - 1)], decay, hit);
        }
    }
}

/// The draft model of one target.
#[derive(Debug)]
pub struct DraftModel {
    cost: StepCost,
    rates: PlaceRates,
    idle_steps: u32,
}

impl DraftModel {
    /// With the costs measured at load; nothing is known of its drafts.
    pub fn new(shape: &DraftModelShape) -> Self {
        Self {
            cost: StepCost::new(&shape.step_cost, shape.rect_cost),
            rates: PlaceRates([(2.0 * FIRST_RATE, 2.0); PLACES]),
            idle_steps: 0,
        }
    }

    /// Chances that all of the first 1, 2, ... `len` drafts are kept.
    pub fn survival(&self, request: &PlaceRates, len: usize) -> Vec<f32> {
        let rate = |nth: usize| {
            let (kept, tried) = self.rates.0[nth.min(PLACES - 1)];
            let (own_kept, own_tried) = request.0[nth.min(PLACES - 1)];
            (PRIOR_WEIGHT * kept / tried + own_kept) / (PRIOR_WEIGHT + own_tried)
        };
        (0..len)
            .scan(1.0, |chance, nth| {
                *chance *= rate(nth);
                Some(*chance)
            })
            .collect()
    }

    /// The same for a request of which nothing is known.
    pub fn first_survival(&self, len: usize) -> Vec<f32> {
        self.survival(&PlaceRates::default(), len)
    }

    /// Milliseconds for reading `read` tokens and drafting for `rows` rows in so many rounds.
    pub fn ms(&self, read: u32, rows: u32, rounds: u32) -> f32 {
        self.cost.ms(read, 1) + rounds.saturating_sub(1) as f32 * self.cost.ms(rows, 1)
    }

    /// Milliseconds that a plan is expected to take.
    pub fn plan_ms(&self, plan: &DraftPlan) -> f32 {
        let rounds = plan.num_rounds.saturating_sub(1) as f32;
        let lies = |laid: &Laid| (laid.tokens.len() as u32, laid.rects.len() as u32);
        let ((read, read_rects), (round, round_rects)) = (lies(&plan.read), lies(&plan.round));
        self.cost.ms(read, read_rects) + rounds * self.cost.ms(round, round_rects)
    }

    /// A plan took `slowness` times as long as expected.
    pub fn observe_cost(&mut self, plan: &DraftPlan, slowness: f32) {
        for laid in [&plan.read, &plan.round].into_iter().filter(|it| !it.tokens.is_empty()) {
            let (tokens, rects) = (laid.tokens.len() as u32, laid.rects.len() as u32);
            let ms = self.cost.ms(tokens, rects);
            self.cost.observe(tokens, rects, ms * slowness);
        }
    }

    /// Learn from a draft of which `kept` tokens were right.
    pub fn observe(&mut self, request: &mut PlaceRates, drafted: usize, kept: usize) {
        self.rates.observe(drafted, kept, MODEL_DECAY);
        request.observe(drafted, kept, REQUEST_DECAY);
    }

    /// Whether it reads along with a request, when its drafts do not pay.
    pub fn samples(request: RequestId) -> bool {
        request.0.is_multiple_of(SAMPLED_REQUESTS)
    }

    /// A step that it could have drafted in is planned; whether it is to draft one token all the same.
    pub fn is_due(&mut self, drafts: bool) -> bool {
        self.idle_steps = if drafts { 0 } else { (self.idle_steps + 1) % PROBE_STEPS };
        !drafts && self.idle_steps == 0
    }
}
