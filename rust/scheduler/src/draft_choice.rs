//! Which drafter drafts how much for which row, when one of them takes time to do it.
//!
//! Drafts from text are there already; a draft model's are made in rounds, for all its rows at once.
//! So for each number of rounds, every row is drafted for by whom more is expected of, the controller
//! fills the step with the positions that pay, the rounds' time counted in, and the best goodput wins.

use crate::action::PlannedRow;
use crate::config::DraftModelShape;
use crate::draft_len::{Candidate, DRAFT_WIDTHS, DraftLen, StepBase};
use crate::draft_model::DraftModel;
use crate::step_cost::StepCost;

/// Numbers of rounds that are tried; in padded steps only those that their widths hold.
const ROUNDS: [usize; 8] = [1, 2, 3, 4, 6, 8, 12, 16];
/// The largest of them.
pub(crate) const MAX_ROUNDS: usize = ROUNDS[ROUNDS.len() - 1];

/// A decoding row and what could be drafted for it.
#[derive(Debug)]
pub(crate) struct Offer {
    /// Its place among the planned rows.
    pub(crate) at: usize,
    /// What the request may lose to wrong drafts, in tokens of plain decoding.
    pub(crate) credit: f32,
    /// Drafts from text.
    pub(crate) text: Candidate,
    /// What the draft model could do.
    pub(crate) model: Option<ModelOffer>,
}

/// What a draft model could do for a row.
#[derive(Debug)]
pub(crate) struct ModelOffer {
    /// Tokens that it would read first.
    pub(crate) lag: u32,
    /// Rounds that the KV row has room for.
    pub(crate) room: usize,
    /// Survival of its drafts, as far as the request can use them.
    pub(crate) survival: Vec<f32>,
}

/// How a step could be drafted for: the rows, by their offers, and who drafts how many tokens.
#[derive(Debug, Default)]
pub(crate) struct Choice {
    /// Per drafted row its offer, and the tokens to read first where the draft model drafts.
    pub(crate) drafted: Vec<(usize, Option<u32>)>,
    /// Tokens drafted for each.
    pub(crate) lens: Vec<usize>,
    /// Tokens per millisecond that this promises.
    pub(crate) rate: f32,
    candidates: Vec<Candidate>,
    stakes: Vec<f32>,
}

impl Choice {
    /// The best of drafts from text.
    pub(crate) fn of_text(offers: &[Offer], draft_len: &mut DraftLen, base: StepBase) -> Self {
        let mut choice = Self::default();
        for (index, offer) in offers.iter().enumerate() {
            choice.add_text(index, offer);
        }
        draft_len.afford(&mut choice.candidates, &choice.stakes, base);
        choice.rate = draft_len.choose(&choice.candidates, base, &mut choice.lens);
        choice
    }

    /// The best of drafts from text and of the model together; `None` if the model can do nothing.
    pub(crate) fn with_model(
        offers: &[Offer],
        draft_len: &mut DraftLen,
        model: &DraftModel,
        base: StepBase,
    ) -> Option<Self> {
        let mut best: Option<Self> = None;
        for rounds in rounds_tried(base.padded_slots > 0) {
            let tried = Self::in_rounds(rounds, offers, draft_len, model, base);
            // One round more is worth less and less, and costs the same.
            let Some(tried) = tried else { break };
            if best.as_ref().is_some_and(|best| best.rate > tried.rate) {
                break;
            }
            best = Some(tried);
        }
        best
    }

    fn in_rounds(
        rounds: usize,
        offers: &[Offer],
        draft_len: &mut DraftLen,
        model: &DraftModel,
        base: StepBase,
    ) -> Option<Self> {
        let by_model: Vec<Option<&ModelOffer>> =
            offers.iter().map(|offer| offer.model_in(rounds)).collect();
        let rows = by_model.iter().flatten().count() as u32;
        let lag = by_model.iter().flatten().map(|offer| offer.lag).sum();
        let ms = model.ms(lag, rows.max(base.padded_slots), rounds as u32);
        let share = draft_len.tokens_in(ms, base) / rows.max(1) as f32;
        let mut choice = Self::default();
        for (index, (offer, by_model)) in offers.iter().zip(by_model).enumerate() {
            match by_model {
                Some(by_model) if offer.credit * by_model.survival[0] > share => {
                    choice.add_model(index, offer, by_model, rounds, share);
                }
                _ => choice.add_text(index, offer),
            }
        }
        draft_len.afford(&mut choice.candidates, &choice.stakes, base);
        choice.rate = draft_len.fill(&choice.candidates, base, ms, &mut choice.lens);
        choice.drafted.iter().any(|(_, lag)| lag.is_some()).then_some(choice)
    }

    /// Let the model draft one token where that costs least, and the request can bear it.
    pub(crate) fn probe(
        &mut self,
        offers: &[Offer],
        draft_len: &DraftLen,
        model: &DraftModel,
        base: StepBase,
    ) {
        let lag = |index: &usize| offers[*index].model.as_ref().map_or(u32::MAX, |it| it.lag);
        let nearest = (0..offers.len()).filter(|it| lag(it) < u32::MAX).min_by_key(lag);
        let Some(index) = nearest else { return };
        let making = draft_len.tokens_in(model.ms(lag(&index), 1, 1), base);
        let planned = self.lens.iter().sum::<usize>() as u32;
        let fits = planned.max(base.padded_slots.saturating_sub(1)) < base.budget;
        if !fits || making + draft_len.price(base, 1, 1) > offers[index].credit {
            return;
        }
        let before = self.drafted.iter().position(|&(offer, _)| offer == index);
        let at = before.unwrap_or_else(|| {
            self.add((index, None), &[], 0.0);
            self.lens.push(0);
            self.lens.len() - 1
        });
        (self.drafted[at].1, self.lens[at]) = (Some(lag(&index)), 1);
    }

    fn add_text(&mut self, index: usize, offer: &Offer) {
        if let Some(chance) = offer.text.survival.first() {
            self.add((index, None), &offer.text.survival, offer.credit * chance);
        }
    }

    /// The row pays its share of the rounds out of its stake, whatever it then verifies.
    fn add_model(
        &mut self,
        index: usize,
        offer: &Offer,
        by_model: &ModelOffer,
        rounds: usize,
        share: f32,
    ) {
        let survival = &by_model.survival[..rounds.min(by_model.survival.len())];
        let stake = offer.credit * survival[0] - share;
        self.add((index, Some(by_model.lag)), survival, stake);
    }

    fn add(&mut self, drafted: (usize, Option<u32>), survival: &[f32], stake: f32) {
        self.drafted.push(drafted);
        self.stakes.push(stake);
        self.candidates.push(Candidate { drafts: Vec::new(), survival: survival.to_vec() });
    }

    /// Rows that the model drafts for, what it reads for them first, and its rounds.
    pub(crate) fn model_work(&self) -> (u32, u32, u32) {
        let drafted = self.drafted.iter().zip(&self.lens).filter(|&(_, &len)| len > 0);
        drafted
            .filter_map(|(&(_, lag), &len)| Some((lag?, len as u32)))
            .fold((0, 0, 0), |(rows, read, rounds), (lag, len)| {
                (rows + 1, read + lag, rounds.max(len))
            })
    }
}

impl Offer {
    /// Plan `len` drafts for the row: by the draft model, which reads `lag` tokens first, or those
    /// from text.
    pub(crate) fn carry_out(&mut self, rows: &mut [PlannedRow], lag: Option<u32>, len: usize) {
        let planned = &mut rows[self.at];
        match lag {
            Some(lag) if len > 0 => (planned.num_read, planned.num_unwritten) = (lag, len as u32),
            Some(_) => {}
            None => {
                self.text.drafts.truncate(len);
                planned.drafts = std::mem::take(&mut self.text.drafts);
            }
        }
    }

    /// The model's offer, if it can draft so many rounds, and more is expected of it than of text.
    fn model_in(&self, rounds: usize) -> Option<&ModelOffer> {
        self.model.as_ref().filter(|model| {
            let expected: f32 = model.survival.iter().take(rounds).sum();
            model.room >= rounds && expected > self.text.survival.iter().sum()
        })
    }
}

/// Whether the draft model pays for rows of which nothing is known, so many at once.
pub(crate) fn model_pays(
    model: &DraftModel,
    draft_len: &DraftLen,
    rows: u32,
    padded: bool,
) -> bool {
    best_speedup(model, &model.first_survival(MAX_ROUNDS), draft_len, rows, padded) > 1.0
}

/// How many times as fast as plain decoding a model would be at best that keeps all of its first 1, 2,
/// ... drafts with these chances, for so many rows at once.
fn best_speedup(
    model: &DraftModel,
    survival: &[f32],
    draft_len: &DraftLen,
    rows: u32,
    padded: bool,
) -> f32 {
    let padded_slots = if padded { rows.next_power_of_two() } else { 0 };
    let tokens = rows.max(padded_slots);
    let base = StepBase { rows, tokens, prefill: 0, rects: 1, budget: u32::MAX, padded_slots };
    let in_rounds = |rounds: usize| {
        let drafts = if padded { rounds as u32 } else { rounds as u32 * rows };
        let making = draft_len.tokens_in(model.ms(tokens, tokens, rounds as u32), base);
        let won = rows as f32 * survival[..rounds].iter().sum::<f32>();
        let plain = rows as f32;
        (plain + won) / (plain + making + draft_len.price(base, drafts, rows))
    };
    rounds_tried(padded).map(in_rounds).fold(0.0, f32::max)
}

/// The same for one row, of a target and a draft model that were only measured: `agreement` is the
/// chance that a draft is kept, wherever it stands.
pub fn promised_speedup(
    target: &StepCost,
    drafts: &DraftModelShape,
    agreement: f32,
    padded: bool,
) -> f32 {
    let drafts_kept = std::iter::successors(Some(agreement), |chance| Some(chance * agreement));
    let survival: Vec<f32> = drafts_kept.take(MAX_ROUNDS).collect();
    best_speedup(&DraftModel::new(drafts), &survival, &DraftLen::new(target.clone()), 1, padded)
}

fn rounds_tried(padded: bool) -> impl Iterator<Item = usize> {
    ROUNDS.into_iter().filter(move |rounds| !padded || DRAFT_WIDTHS.contains(rounds))
}
