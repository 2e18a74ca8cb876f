//! What drafts the rows of a step get: drafters propose, the controller cuts to what pays.
//!
//! For each row that decodes, [`Drafting::draft`] asks the drafters what comes next. Whoever answers, [`DraftLen`] then decides how many of the drafts this step verifies, and
//! [`Drafting::settle`] learns from what verification kept.

use crate::action::{PlannedRow, StepPlan};
use crate::config::{ModelShape, SchedulerConfig};
use crate::corpus::{BYTES_PER_TOKEN, Corpus};
use crate::draft::{Draft, Drafter};
use crate::draft_len::{Candidate, DraftLen, StepBase};
use crate::request::Request;
use crate::rows::RowPool;
use crate::step_cost::StepCost;

/// Drafts less likely than this to be reached are not even proposed.
const MIN_PATH_PROB: f32 = 0.02;
/// Contexts this long are equally good: nobody else is asked.
const SURE_CONTEXT: u32 = 17;

/// A step whose rows have no drafts yet.
#[derive(Debug)]
pub struct UndraftedStep<'a> {
    /// The model's running requests.
    pub running: &'a [Request],
    /// The rows they run in.
    pub pool: &'a RowPool,
    /// The model and its device.
    pub shape: &'a ModelShape,
}

impl UndraftedStep<'_> {
    /// Most drafts for this row: they end with the KV row and one token short of the request.
    fn room(&self, planned: &PlannedRow) -> usize {
        let request = &self.running[planned.index];
        let Some(row) = request.row else { return 0 };
        let room = self.pool.capacity(row).saturating_sub(self.shape.row_need(request.len()));
        room.min(request.num_remaining().saturating_sub(1)) as usize
    }

    /// What the step costs before any draft.
    fn base(&self, rows: &[PlannedRow]) -> StepBase {
        let tokens: u32 = rows.iter().map(|it| it.num_new).sum();
        let reading = || rows.iter().filter(|it| it.num_new > 1);
        let (prefills, prefill) = (reading().count() as u32, reading().map(|it| it.num_new).sum());
        let decoding = rows.len() as u32 - prefills;
        let sampling = rows.iter().filter(|it| it.samples).count() as u32;
        let slots = decoding.next_power_of_two();
        let padded = self.shape.padded;
        StepBase {
            rows: sampling,
            tokens: if padded { tokens - decoding + slots } else { tokens },
            prefill,
            rects: prefills + u32::from(decoding > 0),
            budget: self.shape.step_tokens.saturating_sub(tokens),
            padded_slots: u32::from(padded) * slots,
        }
    }
}

/// Drafting for one model.
#[derive(Debug)]
pub struct Drafting {
    draft_len: DraftLen,
    /// The latest answers, to draft others from; absent where none are kept.
    pub shared: Option<Corpus>,
    lens: Vec<usize>,
    /// What each draft of the step under way costs, in tokens of plain decoding.
    price: f32,
}

impl Drafting {
    /// With the costs measured at load; nothing is known of any drafter.
    pub fn new(config: &SchedulerConfig, shape: &ModelShape) -> Self {
        Self {
            draft_len: DraftLen::new(StepCost::new(&shape.step_cost, shape.rect_cost)),
            shared: (config.shared_suffix_bytes > 0).then(|| {
                Corpus::new(Drafter::Shared, config.shared_suffix_bytes / BYTES_PER_TOKEN)
            }),
            lens: Vec::new(),
            price: 0.0,
        }
    }

    /// Give decoding rows as many drafts as pay. A prompt's end says little about its answer's first
    /// words: drafting there only delays the first token.
    pub fn draft(&mut self, rows: &mut [PlannedRow], step: &UndraftedStep<'_>, max_draft: usize) {
        let (mut candidates, mut stakes, mut drafted) = (Vec::new(), Vec::new(), Vec::new());
        for (at, planned) in rows.iter().enumerate().filter(|(_, it)| it.num_new == 1 && it.samples)
        {
            let request = &step.running[planned.index];
            let drafts = self.propose(request, max_draft.min(step.room(planned)));
            let candidate = Candidate::new(&self.draft_len.acceptance, &request.posterior, drafts);
            if let Some(&chance) = candidate.survival.first() {
                stakes.push(request.posterior.stake(chance));
                candidates.push(candidate);
                drafted.push(at);
            }
        }
        if candidates.is_empty() {
            return;
        }
        let mut lens = std::mem::take(&mut self.lens);
        let base = step.base(rows);
        self.draft_len.afford(&mut candidates, &stakes, base);
        self.draft_len.choose(&candidates, base, &mut lens);
        self.price = self.price_each(base, &lens);
        for ((candidate, &len), at) in candidates.iter_mut().zip(&lens).zip(drafted) {
            candidate.drafts.truncate(len);
            rows[at].drafts = std::mem::take(&mut candidate.drafts);
        }
        self.lens = lens;
    }

    /// What each of the chosen drafts costs, in tokens of plain decoding.
    fn price_each(&self, base: StepBase, lens: &[usize]) -> f32 {
        let total: usize = lens.iter().sum();
        if total == 0 {
            return 0.0;
        }
        let rows = lens.iter().filter(|&&len| len > 0).count() as u32;
        let longest = lens.iter().copied().max().unwrap_or(0);
        let drafts = if base.padded_slots > 0 { longest } else { total };
        self.draft_len.price(base, drafts as u32, rows) / total as f32
    }

    /// Milliseconds that decoding this many tokens takes.
    pub fn plain_ms(&self, num_tokens: u32) -> f32 {
        self.draft_len.cost.ms(num_tokens, 1)
    }

    /// A sampling row's step is over: learn from its drafts, of which `kept` were right.
    pub fn settle(&mut self, request: &mut Request, drafts: &[Draft], kept: usize) {
        if !drafts.is_empty() {
            request.stats.count_draft(drafts, kept);
            self.draft_len.acceptance.observe(&mut request.posterior, drafts, kept);
        }
        request.posterior.settle(self.price * drafts.len() as f32, kept);
    }

    /// Learn what a step cost; those with prompts in them say nothing of drafts.
    pub fn observe_cost(&mut self, plan: &StepPlan, ms: f32) {
        let decodes = plan.rows.iter().all(|it| it.num_new == 1) && !plan.rows.is_empty();
        if decodes && plan.kv_ops.is_empty() {
            self.draft_len.cost.observe(plan.tokens.len() as u32, plan.rects.len() as u32, ms);
        }
    }

    /// A request has ended: its answer may be another's, too. One that is not to be drafted for leaves
    /// nothing behind either.
    pub fn remember(&mut self, request: &Request) {
        if let (Some(shared), Some(_)) = (&mut self.shared, &request.suffix) {
            shared.insert(&request.salt, &request.tokens[request.num_prompt as usize..]);
        }
    }

    /// What the drafter with the longest context suggests, at most `max` tokens. Between equally long
    /// ones, the client's prediction comes first, as the client knows best, then the request's own text.
    /// Drafts end before what would end the answer: the target itself says whether it ends there, and
    /// nothing behind it is ever kept.
    fn propose(&self, request: &Request, max: usize) -> Vec<Draft> {
        let mut best = Vec::new();
        for drafter in [Drafter::Prediction, Drafter::Suffix, Drafter::Shared] {
            if context_len(&best) == SURE_CONTEXT {
                break;
            }
            let drafts = self.ask(drafter, request, max);
            if context_len(&drafts) > context_len(&best) {
                best = drafts;
            }
        }
        if let Some(end) = best.iter().position(|it| request.stop_tokens.contains(&it.token)) {
            best.truncate(end);
        }
        best
    }

    fn ask(&self, drafter: Drafter, request: &Request, max: usize) -> Vec<Draft> {
        let mut drafts = Vec::new();
        let Some(suffix) = &request.suffix else {
            return drafts;
        };
        let corpus = match drafter {
            Drafter::Suffix => {
                suffix.draft(max, MIN_PATH_PROB, &mut drafts);
                None
            }
            Drafter::Prediction => request.prediction.as_ref(),
            Drafter::Shared => self.shared.as_ref(),
        };
        if let Some(corpus) = corpus {
            corpus.draft(&request.salt, &request.tokens, max, MIN_PATH_PROB, &mut drafts);
        }
        drafts
    }
}

fn context_len(drafts: &[Draft]) -> u32 {
    drafts.first().map_or(0, |draft| draft.match_len.min(SURE_CONTEXT))
}
