//! One resident model's requests: who waits, who runs, in which rows.

use std::collections::{BTreeSet, VecDeque};

use crate::action::{StepOutcome, StepPlan, TokenLogprobs};
use crate::batch::form_batch;
use crate::config::{DraftModelShape, ModelShape, SchedulerConfig};
use crate::corpus::Corpus;
use crate::draft_plan::DraftPlan;
use crate::drafting::{Drafting, UndraftedStep};
use crate::error::{IntegrityError, SubmitError, ensure};
use crate::ids::{ModelId, RequestId, SlabId};
use crate::kv_memory::KvMemory;
use crate::layout::lay_out;
use crate::prefill_pace::PrefillPace;
use crate::request::{Finish, Request, RequestStats, Turn};
use crate::rows::KvOp;
use crate::segment::{SEGMENT_TOKENS, SegmentRead, SegmentSave};
use crate::segment_index::SegmentIndex;
use crate::step_cost::StepCost;
use crate::token_counts::TokenCounts;
use crate::unread::Unread;

/// News of one request. The one with an `end` is its last.
#[derive(Debug, PartialEq)]
pub struct Event {
    /// Whom it concerns.
    pub request: RequestId,
    /// Tokens generated since the last event.
    pub tokens: Vec<u32>,
    /// One for each token, if the request asks for them.
    pub logprobs: Vec<TokenLogprobs>,
    /// Set exactly once per request: why it ended, and what was measured.
    pub end: Option<(Finish, RequestStats)>,
}

impl Event {
    /// The last news of a request that brings no tokens.
    pub fn end(request: RequestId, finish: Finish, stats: RequestStats) -> Self {
        Self { request, tokens: Vec::new(), logprobs: Vec::new(), end: Some((finish, stats)) }
    }
}

/// What a step brought to one request.
#[derive(Debug, Default)]
struct Output {
    tokens: Vec<u32>,
    logprobs: Vec<TokenLogprobs>,
}

impl Output {
    /// The tokens, and what the runner's words tell of them: so many words each, or none.
    fn new(tokens: &[u32], words: &[u32], each: usize) -> Self {
        let told = words.chunks_exact(each.max(1)).take(tokens.len());
        let logprobs = told.filter_map(TokenLogprobs::unpack).collect();
        Self { tokens: tokens.to_vec(), logprobs }
    }
}

/// The requests of one instance of a model in memory, and the rows they run in.
#[derive(Debug)]
pub struct Model {
    id: ModelId,
    instance: u32,
    shape: ModelShape,
    pub(crate) kv: KvMemory,
    /// Both in order of their turn; preemption takes the last.
    waiting: VecDeque<Request>,
    running: Vec<Request>,
    drafting: Drafting,
    pace: PrefillPace,
    /// Its last turn went to a read from disk.
    has_read: bool,
    /// Preemptions so far.
    pub(crate) num_preemptions: u64,
    /// Memory is short: nobody gets a row while another runs.
    pub(crate) closed: bool,
}

impl Model {
    /// An idle model.
    pub fn new(id: ModelId, config: &SchedulerConfig, shape: ModelShape) -> Self {
        Self {
            id,
            instance: 0,
            kv: KvMemory::new(&shape, config.prefix_cache && !shape.plain),
            drafting: Drafting::new(config, &shape),
            pace: PrefillPace::new(&StepCost::new(&shape.step_cost, shape.rect_cost)),
            shape,
            waiting: VecDeque::new(),
            running: Vec::new(),
            has_read: false,
            num_preemptions: 0,
            closed: false,
        }
    }

    /// The same as one of `count` instances.
    pub(crate) fn instance(mut self, at: u32, count: u32) -> Self {
        self.instance = at;
        self.kv.number_slabs(at, count);
        self
    }

    /// Whether it is the first of the model's instances.
    pub fn is_first(&self) -> bool {
        self.instance == 0
    }

    /// What is known of the model and its device.
    pub fn shape(&self) -> &ModelShape {
        &self.shape
    }

    /// The same, to fill.
    pub fn shared_texts_mut(&mut self) -> Option<&mut Corpus> {
        self.drafting.shared.as_mut()
    }

    /// The answers that its requests share, where any are kept.
    pub fn shared_texts(&self) -> Option<&Corpus> {
        self.drafting.shared.as_ref()
    }

    /// Its drafter is in memory from now on.
    pub fn attach_drafter(&mut self, shape: &DraftModelShape) {
        self.drafting.attach_model(shape);
    }

    /// Its drafter has left: running requests are drafted for from text. False if it had none.
    pub fn detach_drafter(&mut self) -> bool {
        self.drafting.detach_model()
    }

    /// Its rows and what is cached.
    pub fn kv(&self) -> &KvMemory {
        &self.kv
    }

    /// Requests without a row.
    pub fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Requests with a row.
    pub fn num_running(&self) -> usize {
        self.running.len()
    }

    /// Requests with and without a row.
    pub fn num_requests(&self) -> usize {
        self.waiting.len() + self.running.len()
    }

    /// The turns of those without a row, in order.
    pub(crate) fn turns(&self) -> impl Iterator<Item = Turn> {
        self.waiting.iter().map(Request::turn)
    }

    /// Requests without a row whose turn is before this.
    pub(crate) fn num_before(&self, turn: Turn) -> usize {
        self.waiting.partition_point(|it| it.turn() < turn)
    }

    /// Running requests that have no token yet.
    pub fn num_prefills(&self) -> usize {
        self.running.iter().filter(|it| it.num_generated() == 0).count()
    }

    /// Newest of the running requests without a token.
    pub fn newest_prefill(&self) -> Option<RequestId> {
        self.running.iter().rev().find(|it| it.num_generated() == 0).map(|it| it.id)
    }

    /// End a running request that has said nothing yet.
    pub fn refuse(&mut self, id: RequestId, error: SubmitError, events: &mut Vec<Event>) {
        if let Some(at) = self.running.iter().position(|it| it.id == id) {
            let request = self.running.remove(at);
            self.end(request, Output::default(), Finish::Refused(error), events);
        }
    }

    /// Queue a request where its turn is.
    pub fn push(&mut self, request: Request) {
        let at = self.waiting.partition_point(|other| other.turn() < request.turn());
        self.waiting.insert(at, request);
    }

    /// Whether a step would do anything.
    pub fn has_work(&self) -> bool {
        !self.waiting.is_empty() || !self.running.is_empty() || self.kv.rows().has_ops()
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
            self.end(request, Output::default(), Finish::Aborted, events);
        }
        found
    }

    /// End a request that waits and has never run.
    pub fn expire(&mut self, id: RequestId, events: &mut Vec<Event>) {
        let never_ran = |request: &Request| request.id == id && !request.started;
        if let Some(at) = self.waiting.iter().position(never_ran)
            && let Some(request) = self.waiting.remove(at)
        {
            self.end(request, Output::default(), Finish::Expired, events);
        }
    }

    /// End every request, for the same reason.
    pub fn end_all(&mut self, finish: &Finish, events: &mut Vec<Event>) {
        let waiting = std::mem::take(&mut self.waiting);
        let running = std::mem::take(&mut self.running);
        for request in running.into_iter().chain(waiting) {
            self.end(request, Output::default(), finish.clone(), events);
        }
    }

    fn end(
        &mut self,
        mut request: Request,
        output: Output,
        finish: Finish,
        events: &mut Vec<Event>,
    ) {
        self.drafting.remember(&request);
        self.kv.retire(&mut request);
        let Output { tokens, logprobs } = output;
        events.push(Event {
            request: request.id,
            tokens,
            logprobs,
            end: Some((finish, request.stats)),
        });
    }

    /// Give rows to those who wait, as long as no more than `max_running` run, and see what of their
    /// prompts is there already.
    pub fn prepare(&mut self, max_running: usize, index: &mut SegmentIndex, now_ns: u64) {
        self.admit(if self.closed { max_running.min(1) } else { max_running }, now_ns);
        self.seek(index);
        self.follow();
    }

    /// Look on disk for what the newly admitted begin with.
    fn seek(&mut self, index: &mut SegmentIndex) {
        let Some(kv_key) = &self.shape.kv_key else { return };
        let reuses = self.running.iter_mut().filter(|it| it.harvest == 0);
        for Request { unread, salt, tokens, num_computed, .. } in reuses {
            unread.seek(kv_key, salt, &tokens[..tokens.len() - 1], *num_computed, index);
        }
    }

    /// What to read from disk now. Steps and reads take turns, so that who decodes waits for one segment
    /// at most.
    pub fn next_read(&mut self) -> Option<SegmentRead> {
        let turn_of_step = self.has_read && self.running.iter().any(|it| !it.stands_still());
        self.has_read = false;
        if turn_of_step {
            return None;
        }
        let rows = self.kv.rows();
        let waits = |it: &&mut Request| !it.follows && !it.unread.is_empty();
        let read = self.running.iter_mut().filter(waits).find_map(|request| {
            let row = request.row.filter(|&row| rows.is_settled(row, request.num_computed))?;
            let (start, name) = request.unread.next(request.num_computed)?;
            let known = request.num_computed.saturating_sub(start);
            Some(SegmentRead {
                model: self.id,
                instance: self.instance,
                request: request.id,
                row,
                start,
                known,
                name,
            })
        });
        self.has_read = read.is_some();
        read
    }

    /// A read is done: the request need not compute what is `there` now; else it reads no further.
    pub fn take_read(&mut self, read: &SegmentRead, there: bool) {
        let Some(request) = self.running.iter_mut().find(|it| it.id == read.request) else {
            return;
        };
        if !there {
            request.unread.give_up();
            return;
        }
        let num_new = read.start + SEGMENT_TOKENS - request.num_computed;
        request.num_computed += num_new;
        if request.stats.preemptions == 0 {
            request.stats.num_cached_tokens += num_new;
        }
        request.unread.skip(request.num_computed);
        self.kv.publish(request);
    }

    /// What to write to disk while there is nothing else to do.
    pub fn next_save(&mut self, index: &mut SegmentIndex) -> Option<SegmentSave> {
        let (row, start, name) = self.kv.next_save(index)?;
        Some(SegmentSave { model: self.id, instance: self.instance, row, start, name })
    }

    /// Decide the next step; `None` when there is nothing to run and nothing to free.
    pub fn plan(&mut self, config: &SchedulerConfig) -> Option<StepPlan> {
        let chunk = self.prefill_chunk(config.inter_token_ms);
        let mut rows = form_batch(&self.running, &self.shape, chunk);
        if config.speculation && !self.shape.plain {
            let step =
                UndraftedStep { running: &self.running, pool: self.kv.rows(), shape: &self.shape };
            self.drafting.draft(&mut rows, &step, config.max_draft);
        }
        if rows.is_empty() && !self.kv.rows().has_ops() {
            return None;
        }
        let draft = DraftPlan::of(&rows, &self.running, self.kv.rows(), &self.shape);
        let mut plan = lay_out(self.id, rows, &self.running, self.kv.rows(), &self.shape);
        plan.instance = self.instance;
        plan.draft = draft;
        plan.kv_ops = self.kv.take_ops();
        Some(plan)
    }

    /// Who begins like somebody ahead waits for what both need, then copies it.
    fn follow(&mut self) {
        for index in 0..self.running.len() {
            let (ahead, rest) = self.running.split_at_mut(index);
            let request = &mut rest[0];
            let reuses = request.prefix.is_some() && request.harvest == 0;
            let may = request.num_pending() > 1 && reuses;
            let led = may && ahead.iter().any(|other| other.leads(request));
            if request.follows && !led {
                let before = request.num_computed;
                self.kv.catch_up(request);
                if request.stats.preemptions == 0 {
                    request.stats.num_cached_tokens += request.num_computed - before;
                }
            }
            request.follows = led;
        }
    }

    /// Prompt tokens that the next step may read beside decoding.
    fn prefill_chunk(&self, inter_token_ms: f32) -> u32 {
        let decoding = self.running.iter().filter(|request| request.is_decoding()).count();
        let decode_ms = self.drafting.plain_ms(decoding as u32);
        self.pace.chunk(decode_ms, inter_token_ms, self.shape.prefill_chunk)
    }

    /// Every running row holds its tokens; who outgrew its row gets a longer one, at the cost of
    /// those whose turn is latest if need be.
    pub fn make_room(&mut self) {
        let mut index = 0;
        while index < self.running.len() {
            let request = &mut self.running[index];
            let Some(row) = request.row else { break };
            let (need, longer) =
                (self.shape.row_need(request.len()), self.shape.row_capacity(request.len()));
            if need <= self.kv.rows().capacity(row) || self.kv.grow(request, longer).is_ok() {
                index += 1;
            } else {
                // The last one may be the request itself: it then waits for room with the others.
                self.preempt(self.running.len() - 1);
            }
        }
    }

    /// Take a running request's row; it waits again for its turn. What it has generated stays; its KV
    /// is computed again, but for what is still cached by then.
    fn preempt(&mut self, index: usize) {
        let mut request = self.running.remove(index);
        self.kv.retire(&mut request);
        self.put_back(request);
    }

    fn put_back(&mut self, mut request: Request) {
        request.num_computed = 0;
        request.num_read = 0;
        request.unread = Unread::default();
        request.stats.preemptions += 1;
        self.num_preemptions += 1;
        self.push(request);
    }

    /// Give rows to those waiting, by turn, while blocks last.
    fn admit(&mut self, max_running: usize, now_ns: u64) {
        while self.running.len() < max_running
            && let Some(mut request) = self.waiting.pop_front()
        {
            let capacity = self.shape.row_capacity(request.len());
            let room = max_running - self.running.len() - 1;
            let expected = self.waiting.len().min(room);
            if self.kv.will_evict(capacity, expected as u32) {
                self.kv.await_by(self.waiting.iter().take(expected));
            }
            if self.kv.place(&mut request, capacity, expected as u32).is_err() {
                self.waiting.push_front(request);
                break;
            }
            if !request.started {
                request.started = true;
                request.stats.queued_ns = now_ns.saturating_sub(request.submitted_ns);
                request.stats.num_cached_tokens = request.num_computed;
            }
            let at = self.running.partition_point(|other| other.turn() < request.turn());
            self.running.insert(at, request);
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
        let mut logprobs = outcome.logprobs.as_slice();
        let mut forced = outcome.forced.iter();
        let mut ended: Vec<(usize, Output, Finish)> = Vec::new();
        for planned in &plan.rows {
            let request = &mut self.running[planned.index];
            request.num_computed += planned.num_new;
            request.num_read += planned.num_read;
            if !planned.samples {
                if request.num_pending() == 0 {
                    ended.push((planned.index, Output::default(), Finish::Length));
                }
                continue;
            }
            let Some((sampler, &kept)) = samplers.next() else {
                break;
            };
            let first = sampler.first as usize;
            let generated = &outcome.tokens[first..=first + kept as usize];
            request.num_computed += kept;
            if planned.num_unwritten > 0
                && let Some(draft) = &plan.draft
            {
                // The last round's token was drawn and not read.
                request.num_read += kept.min(draft.num_rounds - 1);
            }
            self.drafting.settle(request, planned, kept as usize);
            let (taken, finish) = request.append(generated);
            if sampler.constraint > 0 {
                request.forced = forced.next().cloned().unwrap_or_default();
            }
            let own;
            (own, logprobs) = logprobs.split_at(sampler.all_logprob_words());
            let output = Output::new(&generated[..taken], own, sampler.logprob_words());
            match finish {
                Some(finish) => ended.push((planned.index, output, finish)),
                None => events.push(Event {
                    request: request.id,
                    tokens: output.tokens,
                    logprobs: output.logprobs,
                    end: None,
                }),
            }
        }
        for planned in &plan.rows {
            self.kv.publish(&self.running[planned.index]);
        }
        for (index, output, finish) in ended.into_iter().rev() {
            let request = self.running.remove(index);
            self.end(request, output, finish, events);
        }
        let brought = outcome.accepted.iter().map(|kept| kept + 1).sum();
        self.drafting.observe_cost(plan, brought, ms);
        self.observe_pace(plan, ms);
    }

    fn observe_pace(&mut self, plan: &StepPlan, ms: f32) {
        let prefill: u32 = plan.rows.iter().map(|it| it.num_new).filter(|&it| it > 1).sum();
        if prefill > 0 && plan.kv_ops.is_empty() {
            let others = plan.tokens.len() as u32 - prefill.min(plan.tokens.len() as u32);
            self.pace.observe(self.drafting.plain_ms(others), prefill, ms);
        }
    }

    /// A step failed: its requests end, and no KV that it may have touched, or failed to make, is
    /// used again. If a draft model ran in it, that is given up instead, and the requests are
    /// computed again without it; returns whether that is so.
    pub fn fail(&mut self, plan: &StepPlan, message: &str, events: &mut Vec<Event>) -> bool {
        let failed: Vec<RequestId> = plan.rows.iter().map(|it| it.request).collect();
        let made = plan.kv_ops.iter().filter_map(|op| match op {
            KvOp::Create { slab, .. } => Some(*slab),
            KvOp::Copy { to, .. } => Some(to.slab),
            KvOp::Drop { .. } => None,
        });
        let suspects: BTreeSet<SlabId> = plan.rects.iter().map(|it| it.slab).chain(made).collect();
        let touched =
            |request: &Request| request.row.is_some_and(|row| suspects.contains(&row.slab));
        let by_draft_model = plan.draft.is_some() && self.detach_drafter();
        for index in (0..self.running.len()).rev() {
            let ends = !by_draft_model && failed.contains(&self.running[index].id);
            if ends || touched(&self.running[index]) {
                let mut request = self.running.remove(index);
                self.kv.release(&mut request);
                if ends {
                    let failed = Finish::Failed(message.to_owned());
                    self.end(request, Output::default(), failed, events);
                } else {
                    self.put_back(request);
                }
            }
        }
        self.kv.distrust(&suspects);
        by_draft_model
    }

    /// Rows and blocks add up; each running request has something to compute, and room for it.
    ///
    /// # Errors
    /// Names the first violation.
    pub fn check_integrity(&self) -> Result<(), IntegrityError> {
        self.kv.check_integrity(&self.running)?;
        self.drafting.shared.as_ref().map_or(Ok(()), Corpus::check_bounds)?;
        for request in &self.running {
            let capacity = request.row.map_or(0, |row| self.kv.rows().capacity(row));
            ensure!(
                request.num_computed < request.len(),
                "request {} has nothing to compute",
                request.id
            );
            ensure!(
                request.num_read <= request.num_computed,
                "the draft model is ahead of request {}",
                request.id
            );
            ensure!(request.num_computed <= capacity, "request {} overflows its row", request.id);
            request.counts.as_ref().map_or(Ok(()), TokenCounts::check_integrity)?;
        }
        ensure!(self.waiting.iter().is_sorted_by_key(Request::turn), "somebody waits out of turn");
        ensure!(self.running.iter().is_sorted_by_key(Request::turn), "somebody runs out of turn");
        ensure!(self.waiting.iter().all(|it| it.row.is_none()), "a waiting request holds a row");
        Ok(())
    }
}
