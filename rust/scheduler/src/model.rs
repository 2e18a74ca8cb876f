//! One resident model's requests: who waits, who runs, in which rows.

use std::collections::{BTreeSet, VecDeque};

use crate::action::{PlannedRow, StepOutcome, StepPlan};
use crate::batch::form_batch;
use crate::block_pool::BlockPool;
use crate::config::{ModelShape, SchedulerConfig};
use crate::draft_len::{Candidate, DraftLen, StepBase};
use crate::error::{IntegrityError, ensure};
use crate::ids::{ModelId, RequestId, SlabId};
use crate::layout::lay_out;
use crate::request::{Finish, Request, RequestStats};
use crate::rows::{KvOp, RowPool};
use crate::step_cost::StepCost;
use crate::suffix::Draft;

/// Drafts less likely than this to be reached are not even proposed.
const MIN_PATH_PROB: f32 = 0.02;

/// News of one request. The one with an `end` is its last.
#[derive(Debug, PartialEq)]
pub struct Event {
    /// Whom it concerns.
    pub request: RequestId,
    /// Tokens generated since the last event.
    pub tokens: Vec<u32>,
    /// Set exactly once per request: why it ended, and what was measured.
    pub end: Option<(Finish, RequestStats)>,
}

/// The requests of one model in memory, and the rows they run in.
#[derive(Debug)]
pub struct Model {
    id: ModelId,
    shape: ModelShape,
    pub(crate) rows: RowPool,
    waiting: VecDeque<Request>,
    /// In order of arrival; preemption takes the last.
    running: Vec<Request>,
    draft_len: DraftLen,
    /// Preemptions so far.
    pub(crate) num_preemptions: u64,
    lens: Vec<usize>,
    /// What each draft of the step under way costs, in tokens of plain decoding.
    draft_price: f32,
}

impl Model {
    /// An idle model.
    pub fn new(id: ModelId, shape: ModelShape) -> Self {
        Self {
            id,
            rows: RowPool::new(shape.total_blocks, shape.slab_slots),
            draft_len: DraftLen::new(StepCost::new(&shape.step_cost, shape.rect_cost)),
            shape,
            waiting: VecDeque::new(),
            running: Vec::new(),
            num_preemptions: 0,
            lens: Vec::new(),
            draft_price: 0.0,
        }
    }

    /// What is known of the model and its device.
    pub fn shape(&self) -> &ModelShape {
        &self.shape
    }

    /// The blocks that pay for its rows.
    pub fn pool(&self) -> &BlockPool {
        self.rows.pool()
    }

    /// Requests without a row.
    pub fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Requests with a row.
    pub fn num_running(&self) -> usize {
        self.running.len()
    }

    /// Queue a request behind those waiting.
    pub fn push(&mut self, request: Request) {
        self.waiting.push_back(request);
    }

    /// Whether a step would do anything.
    pub fn has_work(&self) -> bool {
        !self.waiting.is_empty() || !self.running.is_empty() || self.rows.has_ops()
    }

    /// End a request early. False if it is not here, which is no error: it may have just ended.
    pub fn abort(&mut self, id: RequestId, events: &mut Vec<Event>) -> bool {
        let waiting = self.waiting.iter().position(|request| request.id == id);
        let request = if let Some(index) = waiting {
            self.waiting.remove(index)
        } else {
            let running = self.running.iter().position(|request| request.id == id);
            running.map(|index| self.running.remove(index))
        };
        let found = request.is_some();
        if let Some(request) = request {
            self.end(request, Vec::new(), Finish::Aborted, events);
        }
        found
    }

    /// End every request, for the same reason.
    pub fn end_all(&mut self, finish: &Finish, events: &mut Vec<Event>) {
        let waiting = std::mem::take(&mut self.waiting);
        let running = std::mem::take(&mut self.running);
        for request in running.into_iter().chain(waiting) {
            self.end(request, Vec::new(), finish.clone(), events);
        }
    }

    fn end(&mut self, request: Request, tokens: Vec<u32>, finish: Finish, events: &mut Vec<Event>) {
        if let Some(row) = request.row {
            self.rows.release(row);
        }
        events.push(Event { request: request.id, tokens, end: Some((finish, request.stats)) });
    }

    /// Decide the next step; `None` when there is nothing to run and nothing to free.
    pub fn plan(&mut self, config: &SchedulerConfig, now_ns: u64) -> Option<StepPlan> {
        self.make_room();
        self.admit(config, now_ns);
        let mut rows = form_batch(&self.running, &self.shape);
        if config.speculation {
            self.draft(&mut rows, config.max_draft);
        }
        if rows.is_empty() && !self.rows.has_ops() {
            return None;
        }
        let mut plan = lay_out(self.id, rows, &self.running, &self.rows, &self.shape);
        plan.kv_ops = self.rows.take_ops();
        Some(plan)
    }

    /// Every running row holds its tokens; who outgrew its row gets a longer one, at the cost of
    /// the latest arrivals if need be.
    fn make_room(&mut self) {
        let mut index = 0;
        while index < self.running.len() {
            let request = &self.running[index];
            let Some(row) = request.row else { break };
            let (id, len, computed) = (request.id, request.len(), request.num_computed);
            if self.shape.row_need(len) <= self.rows.capacity(row) {
                index += 1;
            } else if let Ok(to) = self.rows.grow(id, row, computed, self.shape.row_capacity(len)) {
                self.running[index].row = Some(to);
                index += 1;
            } else {
                // The last one may be the request itself: it then waits for room with the others.
                self.preempt(self.running.len() - 1);
            }
        }
    }

    /// Take a running request's row; it waits first in line and is computed again. What it has
    /// generated stays.
    fn preempt(&mut self, index: usize) {
        let mut request = self.running.remove(index);
        if let Some(row) = request.row.take() {
            self.rows.release(row);
        }
        request.num_computed = 0;
        request.stats.preemptions += 1;
        self.num_preemptions += 1;
        self.waiting.push_front(request);
    }

    /// Give rows to those waiting, first come first served, while blocks last.
    fn admit(&mut self, config: &SchedulerConfig, now_ns: u64) {
        while self.running.len() < config.max_running
            && let Some(request) = self.waiting.front()
        {
            let capacity = self.shape.row_capacity(request.len());
            let room = config.max_running - self.running.len() - 1;
            let expected = (self.waiting.len() - 1).min(room) as u32;
            let Ok(row) = self.rows.place(request.id, capacity, expected) else {
                break;
            };
            let Some(mut request) = self.waiting.pop_front() else {
                break;
            };
            request.row = Some(row);
            if !request.started {
                request.started = true;
                request.stats.queued_ns = now_ns.saturating_sub(request.submitted_ns);
            }
            let at = self.running.partition_point(|other| other.id < request.id);
            self.running.insert(at, request);
        }
    }

    /// Give decoding rows as many drafts as pay. A prompt's end says little about its answer's first
    /// words: drafting there only delays the first token.
    fn draft(&mut self, rows: &mut [PlannedRow], max_draft: usize) {
        let (mut candidates, mut stakes, mut drafted) = (Vec::new(), Vec::new(), Vec::new());
        for (at, planned) in rows.iter().enumerate().filter(|(_, it)| it.num_new == 1 && it.samples)
        {
            let drafts = self.propose(planned, max_draft);
            let posterior = &self.running[planned.index].posterior;
            let candidate = Candidate::new(&self.draft_len.acceptance, posterior, drafts);
            if let Some(&chance) = candidate.survival.first() {
                stakes.push(posterior.stake(chance));
                candidates.push(candidate);
                drafted.push(at);
            }
        }
        if candidates.is_empty() {
            return;
        }
        let mut lens = std::mem::take(&mut self.lens);
        let base = self.step_base(rows);
        self.draft_len.afford(&mut candidates, &stakes, base);
        self.draft_len.choose(&candidates, base, &mut lens);
        self.draft_price = self.price_each(base, &lens);
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

    /// What the request's own text suggests, cut at the row's end and the request's.
    fn propose(&self, planned: &PlannedRow, max_draft: usize) -> Vec<Draft> {
        let request = &self.running[planned.index];
        let (Some(suffix), Some(row)) = (&request.suffix, request.row) else {
            return Vec::new();
        };
        let room = self.rows.capacity(row).saturating_sub(self.shape.row_need(request.len()));
        let useful = request.num_remaining().saturating_sub(1);
        let mut drafts = Vec::new();
        suffix.draft(max_draft.min(room.min(useful) as usize), MIN_PATH_PROB, &mut drafts);
        drafts
    }

    fn step_base(&self, rows: &[PlannedRow]) -> StepBase {
        let tokens: u32 = rows.iter().map(|it| it.num_new).sum();
        let reading = || rows.iter().filter(|it| it.num_new > 1);
        let (prefills, prefill) = (reading().count() as u32, reading().map(|it| it.num_new).sum());
        let decoding = rows.len() as u32 - prefills;
        let sampling = rows.iter().filter(|it| it.samples).count() as u32;
        let slots = decoding.next_power_of_two();
        StepBase {
            rows: sampling,
            tokens: if self.shape.padded { tokens - decoding + slots } else { tokens },
            prefill,
            rects: prefills + u32::from(decoding > 0),
            budget: self.shape.step_tokens.saturating_sub(tokens),
            padded_slots: u32::from(self.shape.padded) * slots,
        }
    }

    /// Take in what a step brought: tokens, finished requests, what drafts and steps cost.
    pub fn commit(
        &mut self,
        plan: &StepPlan,
        outcome: &StepOutcome,
        ms: f32,
        events: &mut Vec<Event>,
    ) {
        let mut samplers = plan.samplers.iter().zip(&outcome.accepted);
        let mut ended: Vec<(usize, Vec<u32>, Finish)> = Vec::new();
        for planned in &plan.rows {
            let request = &mut self.running[planned.index];
            request.num_computed += planned.num_new;
            if !planned.samples {
                continue;
            }
            let Some((sampler, &kept)) = samplers.next() else {
                break;
            };
            let first = sampler.first as usize;
            let generated = &outcome.tokens[first..=first + kept as usize];
            request.num_computed += kept;
            if !planned.drafts.is_empty() {
                request.stats.count_draft(planned.drafts.len(), kept as usize);
                self.draft_len.acceptance.observe(
                    &mut request.posterior,
                    &planned.drafts,
                    kept as usize,
                );
            }
            let cost = self.draft_price * planned.drafts.len() as f32;
            request.posterior.settle(cost, kept as usize);
            let (taken, finish) = request.append(generated);
            let tokens = generated[..taken].to_vec();
            match finish {
                Some(finish) => ended.push((planned.index, tokens, finish)),
                None => events.push(Event { request: request.id, tokens, end: None }),
            }
        }
        for (index, tokens, finish) in ended.into_iter().rev() {
            let request = self.running.remove(index);
            self.end(request, tokens, finish, events);
        }
        if plan.rows.iter().all(|it| it.num_new == 1) && !plan.rows.is_empty() {
            self.draft_len.cost.observe(plan.tokens.len() as u32, plan.rects.len() as u32, ms);
        }
    }

    /// A step failed: its requests end, and no KV that it may have touched, or failed to make, is
    /// used again.
    pub fn fail(&mut self, plan: &StepPlan, message: &str, events: &mut Vec<Event>) {
        let failed: Vec<RequestId> = plan.rows.iter().map(|it| self.running[it.index].id).collect();
        let made = plan.kv_ops.iter().filter_map(|op| match op {
            KvOp::Create { slab, .. } => Some(*slab),
            KvOp::Drop { .. } | KvOp::Copy { .. } => None,
        });
        let suspects: BTreeSet<SlabId> = plan.rects.iter().map(|it| it.slab).chain(made).collect();
        let touched =
            |request: &Request| request.row.is_some_and(|row| suspects.contains(&row.slab));
        for index in (0..self.running.len()).rev() {
            if failed.contains(&self.running[index].id) {
                let request = self.running.remove(index);
                self.end(request, Vec::new(), Finish::Failed(message.to_owned()), events);
            } else if touched(&self.running[index]) {
                self.preempt(index);
            }
        }
    }

    /// Rows belong to running requests, each to one; counts are within their bounds.
    ///
    /// # Errors
    /// Names the first violation.
    pub fn check_integrity(&self) -> Result<(), IntegrityError> {
        self.rows.check_integrity()?;
        let owners = self.rows.owners();
        ensure!(
            owners.len() == self.running.len(),
            "{} rows for {} running requests",
            owners.len(),
            self.running.len()
        );
        for request in &self.running {
            let Some(row) = request.row else {
                return Err(IntegrityError(format!("request {} runs without a row", request.id)));
            };
            ensure!(
                owners.get(&row) == Some(&request.id),
                "row of request {} is not its own",
                request.id
            );
            ensure!(
                request.num_computed < request.len(),
                "request {} has nothing to compute",
                request.id
            );
            ensure!(
                request.num_computed <= self.rows.capacity(row),
                "request {} overflows its row",
                request.id
            );
        }
        ensure!(self.waiting.iter().all(|it| it.row.is_none()), "a waiting request holds a row");
        Ok(())
    }
}
