//! What drafts the rows of a step get: drafters propose, the controller cuts to what pays.
//!
//! For each row that decodes, [`Drafting::draft`] asks the drafters what comes next. Whoever answers,
//! [`DraftLen`] then decides how many of the drafts this step verifies, and [`Drafting::settle`] learns
//! from what verification kept. A draft model's drafts are not known before the step runs, and take
//! time to make; [`Choice`] weighs them against the others.

use crate::action::{PlannedRow, StepPlan};
use crate::canary::Canaries;
use crate::config::{DraftModelShape, ModelShape, SchedulerConfig};
use crate::corpus::{BYTES_PER_TOKEN, Corpus};
use crate::draft::{Draft, Drafter};
use crate::draft_choice::{Choice, MAX_ROUNDS, ModelOffer, Offer, model_pays};
use crate::draft_len::{Candidate, DRAFT_WIDTHS, DraftLen, StepBase};
use crate::draft_model::DraftModel;
use crate::draft_plan::NEARLY_READ;
use crate::edits::reads_drafts;
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
    /// Positions behind the request's tokens that drafts may be written to.
    fn kv_room(&self, request: &Request) -> usize {
        let capacity = request.row.map_or(0, |row| self.pool.capacity(row));
        capacity.saturating_sub(self.shape.row_need(request.len())) as usize
    }

    /// Known tokens that the draft model may read while the target computes this step's.
    fn read_budget(&self, rows: &[PlannedRow]) -> u32 {
        let decodes = rows.iter().any(|it| it.num_new == 1);
        let chunk = if decodes { self.shape.prefill_chunk } else { u32::MAX };
        self.shape.step_tokens.min(chunk)
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
    model: Option<DraftModel>,
    canaries: Canaries,
    price: Price,
    adaptive: bool,
}

/// What drafts of the step under way cost, in tokens of plain decoding.
#[derive(Debug, Default, Clone, Copy)]
struct Price {
    /// Each draft verified.
    draft: f32,
    /// Each row that the draft model drafts for.
    model_row: f32,
}

impl Drafting {
    /// With the costs measured at load; nothing is known of any drafter.
    pub fn new(config: &SchedulerConfig, shape: &ModelShape) -> Self {
        Self {
            draft_len: DraftLen::new(StepCost::new(&shape.step_cost, shape.rect_cost)),
            shared: (config.shared_suffix_bytes > 0).then(|| {
                Corpus::new(Drafter::Shared, config.shared_suffix_bytes / BYTES_PER_TOKEN)
            }),
            model: None,
            canaries: Canaries::default(),
            price: Price::default(),
            adaptive: config.adaptive,
        }
    }

    /// A draft model is in memory from now on.
    pub fn attach_model(&mut self, shape: &DraftModelShape) {
        self.model.get_or_insert_with(|| DraftModel::new(shape));
    }

    /// Go on without the draft model. False if there is none.
    pub fn detach_model(&mut self) -> bool {
        self.model.take().is_some()
    }

    /// Give decoding rows as many drafts as pay. A prompt's end says little about its answer's first
    /// words: drafting there only delays the first token.
    pub fn draft(&mut self, rows: &mut [PlannedRow], step: &UndraftedStep<'_>, max_draft: usize) {
        let base = step.base(rows);
        let lags = self.read(rows, step);
        let mut offers = self.offers(rows, step, max_draft, &lags);
        if offers.is_empty() {
            return;
        }
        if !self.adaptive {
            let each = longest_for_all(base, offers.len());
            for offer in &mut offers {
                offer.carry_out(rows, None, each);
            }
            return;
        }
        if !self.canaries.may_draft(base.rows) {
            return;
        }
        let mut choice = Choice::of_text(&offers, &mut self.draft_len, base);
        if let Some(model) = &mut self.model {
            let with_model = Choice::with_model(&offers, &mut self.draft_len, model, base);
            choice = with_model.filter(|it| it.rate > choice.rate).unwrap_or(choice);
            let waits = offers.iter().any(|offer| offer.model.is_some());
            if waits && model.is_due(choice.model_work().0 > 0) {
                choice.probe(&offers, &self.draft_len, model, base);
            }
        }
        self.draft_len.park(choice.lens.iter().all(|&len| len == 0));
        self.price = self.price_of(&choice, base);
        for (&(offer, lag), &len) in choice.drafted.iter().zip(&choice.lens) {
            offers[offer].carry_out(rows, lag, len);
        }
    }

    /// Have the draft model read along with those it may draft for. Returns, for rows that it could
    /// draft for in this step, the tokens that it would read first.
    fn read(&self, rows: &mut [PlannedRow], step: &UndraftedStep<'_>) -> Vec<Option<u32>> {
        let Some(model) = &self.model else {
            return vec![None; rows.len()];
        };
        let decoding = rows.iter().filter(|it| it.num_new == 1).count().max(1) as u32;
        let pays = model_pays(model, &self.draft_len, decoding, step.shape.padded);
        let mut left = step.read_budget(rows);
        let read = |planned: &mut PlannedRow| {
            let request = &step.running[planned.index];
            let may = request.speculates() && !reads_drafts(request);
            if !(may && (pays || DraftModel::samples(request.id))) {
                return None;
            }
            let lag = request.num_computed + planned.num_new - request.num_read;
            let decodes = planned.num_new == 1 && planned.samples;
            if decodes && lag <= NEARLY_READ {
                return Some(lag);
            }
            let now = lag.min(left);
            left -= now;
            if decodes && now == lag {
                return Some(lag);
            }
            planned.num_read = now;
            None
        };
        rows.iter_mut().map(read).collect()
    }

    fn offers(
        &self,
        rows: &[PlannedRow],
        step: &UndraftedStep<'_>,
        max_draft: usize,
        lags: &[Option<u32>],
    ) -> Vec<Offer> {
        let decoding = rows.iter().enumerate().filter(|(_, it)| it.num_new == 1 && it.samples);
        let offers = decoding.map(|(at, planned)| {
            let request = &step.running[planned.index];
            let max_draft = max_draft.min(request.max_draft as usize);
            let (room, posterior) = (step.kv_room(request), &request.posterior);
            let most = max_draft.min(room).min(request.num_remaining().saturating_sub(1) as usize);
            let text =
                Candidate::new(&self.draft_len.acceptance, posterior, self.propose(request, most));
            let by_model = |(model, lag): (&DraftModel, u32)| {
                let survival = model.survival(&request.place_rates, most.min(MAX_ROUNDS));
                ModelOffer { lag, room: room.min(max_draft), survival }
            };
            let model = self.model.as_ref().zip(lags[at]).filter(|_| most > 0).map(by_model);
            Offer { at, credit: posterior.credit(), text, model }
        });
        offers.filter(|it| it.model.is_some() || !it.text.survival.is_empty()).collect()
    }

    fn price_of(&self, choice: &Choice, base: StepBase) -> Price {
        let total: usize = choice.lens.iter().sum();
        if total == 0 {
            return Price::default();
        }
        let rows = choice.lens.iter().filter(|&&len| len > 0).count() as u32;
        let longest = choice.lens.iter().copied().max().unwrap_or(0);
        let drafts = if base.padded_slots > 0 { longest } else { total };
        let draft = self.draft_len.price(base, drafts as u32, rows) / total as f32;
        let (model_rows, read, rounds) = choice.model_work();
        let making = self.model.as_ref().filter(|_| model_rows > 0).map_or(0.0, |model| {
            let ms = model.ms(read, model_rows.max(base.padded_slots), rounds);
            self.draft_len.tokens_in(ms, base) / model_rows as f32
        });
        Price { draft, model_row: making }
    }

    /// Milliseconds that decoding this many tokens takes.
    pub fn plain_ms(&self, num_tokens: u32) -> f32 {
        self.draft_len.cost.ms(num_tokens, 1)
    }

    /// A sampling row's step is over: learn from its drafts, of which `kept` were right.
    pub fn settle(&mut self, request: &mut Request, planned: &PlannedRow, kept: usize) {
        let num_drafts = planned.num_drafts();
        let mut cost = self.price.draft * num_drafts as f32;
        if num_drafts > 0 {
            request.stats.count_draft(planned, kept);
        }
        if !planned.drafts.is_empty() {
            self.draft_len.acceptance.observe(&mut request.posterior, &planned.drafts, kept);
        } else if let Some(model) = self.model.as_mut().filter(|_| num_drafts > 0) {
            model.observe(&mut request.place_rates, num_drafts, kept);
            cost += self.price.model_row;
        }
        request.posterior.settle(cost, kept);
    }

    /// Learn what a step cost that brought so many tokens; those with prompts in them say nothing of
    /// drafts. A draft model's part is not timed on its own: it was as much slower than expected as
    /// the whole.
    pub fn observe_cost(&mut self, plan: &StepPlan, brought: u32, ms: f32) {
        let decodes = plan.rows.iter().all(|it| it.num_new == 1) && !plan.rows.is_empty();
        if !decodes || !plan.kv_ops.is_empty() {
            return;
        }
        let drafted = plan.rows.iter().any(|it| it.num_drafts() > 0);
        self.canaries.observe(plan.samplers.len() as u32, brought, drafted, ms);
        let (tokens, rects) = (plan.tokens.len() as u32, plan.rects.len() as u32);
        let drafted = self.model.as_mut().zip(plan.draft.as_deref());
        let model_ms = drafted.as_ref().map_or(0.0, |(model, plan)| model.plan_ms(plan));
        let target_ms = self.draft_len.cost.ms(tokens, rects);
        let slowness = ms / (target_ms + model_ms);
        self.draft_len.cost.observe(tokens, rects, target_ms * slowness);
        if let Some((model, plan)) = drafted {
            model.observe_cost(plan, slowness);
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
        let mut best = forced_first(request, max, best);
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
            Drafter::Model | Drafter::Grammar => None,
        };
        if let Some(corpus) = corpus {
            corpus.draft(&request.salt, &request.tokens, max, MIN_PATH_PROB, &mut drafts);
        }
        drafts
    }
}

/// The longest draft that there is room for if every row has one.
fn longest_for_all(base: StepBase, rows: usize) -> usize {
    let each = base.budget as usize / rows.max(base.padded_slots as usize);
    if base.padded_slots == 0 {
        return each;
    }
    DRAFT_WIDTHS.into_iter().take_while(|&width| width <= each).last().unwrap_or(0)
}

/// What the request's grammar forces, and behind it what text says, if that says the same so far.
fn forced_first(request: &Request, max: usize, text: Vec<Draft>) -> Vec<Draft> {
    if request.forced.is_empty() || !request.speculates() {
        return text;
    }
    let forced = request.forced.iter().take(max).map(|&token| Draft {
        drafter: Drafter::Grammar,
        token,
        prob: 1.0,
        match_len: SURE_CONTEXT,
    });
    let mut drafts: Vec<Draft> = forced.collect();
    let agrees = drafts.iter().zip(&text).all(|(one, other)| one.token == other.token);
    if agrees {
        drafts.extend(text.into_iter().skip(drafts.len()));
    }
    drafts
}

fn context_len(drafts: &[Draft]) -> u32 {
    drafts.first().map_or(0, |draft| draft.match_len.min(SURE_CONTEXT))
}
