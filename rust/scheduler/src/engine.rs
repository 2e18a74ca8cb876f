//! The engine: a queue in front, the scheduler in the middle, events behind, one thread of its own.
//!
//! `submit`, `abort`, `close`, `drain` may be called from any thread; [`Engine::run`] is the engine
//! thread's whole life. Each turn of its loop takes in commands, asks the scheduler what to do,
//! lets the runner do it, commits, and publishes all events of the turn with one wake.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::thread::yield_now;
use std::time::{Duration, Instant};

use crate::action::{Action, LoadEnd, StepOutcome, StepPlan};
use crate::archive::Archive;
use crate::board::Board;
use crate::config::{KeepAlive, ModelShape, SchedulerConfig};
use crate::error::{Refusal, SubmitError};
use crate::ids::{ModelId, RequestId};
use crate::inbox::Inbox;
use crate::kv_disk::KvDisk;
use crate::memory_guard::{MemoryGuard, Relief, Shortage, Watermarks, permille};
use crate::model::{Event, Model};
use crate::outbox::Outbox;
use crate::request::{Finish, Request, Submission};
use crate::residency::{Order, Residency};
pub use crate::runner::Runner;
use crate::scheduler::Scheduler;
use crate::speculation_stats::SpeculationStats;
use crate::stats::Stats;
use crate::sync::{AtomicU64, Ordering};
use crate::waiter::Waiter;

/// An idle engine still shows a sign of life this often.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// An engine that ends writes what is cached to disk for so long at most.
const LAST_SAVES: Duration = Duration::from_secs(3);

/// And what a model has cached that makes room for another.
const SAVES_OF_EVICTED: Duration = Duration::from_millis(500);

/// A command that must never be refused.
#[derive(Debug)]
enum Control {
    Abort(RequestId),
    AbortAll,
    Expire(RequestId),
    Load { model: ModelId, caller: RequestId, keep_alive: Option<KeepAlive>, now_ns: u64 },
    LoadEnded(ModelId, LoadEnd),
    Unload(ModelId),
}

/// The engine's shared face.
#[derive(Debug)]
pub struct Engine {
    config: SchedulerConfig,
    inbox: Inbox<Request, Control>,
    outbox: Outbox<Event>,
    /// How models share memory, before any is loaded.
    residency: Residency,
    board: Board,
    watermarks: Watermarks,
    shapes: Vec<OnceLock<ModelShape>>,
    stats: Stats,
    /// Of each model.
    speculation: Vec<SpeculationStats>,
    next_id: AtomicU64,
    /// Requests accepted and not yet ended.
    in_flight: AtomicU64,
    epoch: Instant,
}

impl Engine {
    /// An engine for `num_models` models, with room for all; it begins by loading them.
    ///
    /// # Errors
    /// As for [`Self::with_residency`].
    pub fn new(config: SchedulerConfig, num_models: usize) -> std::io::Result<Self> {
        let residency = Scheduler::new(config.clone(), num_models).residency().clone();
        Self::with_residency(config, residency)
    }

    /// An engine whose models come and go as `residency` says.
    ///
    /// # Errors
    /// When the system has no pipe left for waking the event loop.
    pub fn with_residency(config: SchedulerConfig, residency: Residency) -> std::io::Result<Self> {
        let num_models = residency.targets().len();
        Ok(Self {
            board: Board::new(&residency),
            watermarks: Watermarks::OFF,
            residency,
            inbox: Inbox::new(config.max_waiting + config.max_running),
            outbox: Outbox::new()?,
            shapes: (0..num_models).map(|_| OnceLock::new()).collect(),
            stats: Stats::default(),
            speculation: (0..num_models).map(|_| SpeculationStats::default()).collect(),
            next_id: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            epoch: Instant::now(),
            config,
        })
    }

    /// The same, which gives things up as memory runs short.
    #[must_use]
    pub fn guarded(self, watermarks: Watermarks) -> Self {
        Self { watermarks, ..self }
    }

    /// Counters, readable at any time.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// What speculation did for each model.
    pub fn speculation(&self) -> &[SpeculationStats] {
        &self.speculation
    }

    /// Where events come out.
    pub fn outbox(&self) -> &Outbox<Event> {
        &self.outbox
    }

    /// Where every model stands, readable at any time.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// What is known of a model, once it was loaded.
    pub fn shape(&self, model: ModelId) -> Option<&ModelShape> {
        self.shapes.get(model.0 as usize)?.get()
    }

    /// Nanoseconds since the engine was made.
    pub fn now_ns(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    /// Queue a request. It ends in exactly one event with an end, unless it is refused here.
    ///
    /// # Errors
    /// See [`SubmitError`]; nothing is kept of a refused request.
    pub fn submit(&self, submission: Submission) -> Result<RequestId, SubmitError> {
        let max_len = self.check(&submission)?;
        let before = self.in_flight.fetch_add(1, Ordering::AcqRel);
        if before >= self.capacity() as u64 {
            return Err(self.refuse(SubmitError::QueueFull { capacity: self.capacity() }));
        }
        let very_short = Stats::get(&self.stats.memory_shortage) == Shortage::Hard as u64;
        if very_short && before > 0 {
            return Err(self.refuse(SubmitError::Unavailable(Refusal::MemoryShort)));
        }
        let id = RequestId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let num_prompt = submission.prompt.len() as u64;
        let request = Request::new(id, submission, max_len, self.now_ns());
        if self.inbox.try_submit(request).is_err() {
            return Err(self.refuse(SubmitError::Closed));
        }
        Stats::add(&self.stats.requests_submitted, 1);
        Stats::add(&self.stats.prompt_tokens, num_prompt);
        Ok(id)
    }

    /// Whether a submission would find the queue full: known before its prompt is. A refusal that
    /// costs no tokenizing leaves the processor to those who run. Any thread.
    ///
    /// # Errors
    /// `QueueFull`, and counted as a submission that was refused.
    pub fn check_room(&self) -> Result<(), SubmitError> {
        if self.num_in_flight() < self.capacity() as u64 {
            return Ok(());
        }
        Stats::add(&self.stats.requests_rejected, 1);
        Err(SubmitError::QueueFull { capacity: self.capacity() })
    }

    /// Most requests at once, running and waiting.
    fn capacity(&self) -> usize {
        self.config.max_waiting + self.config.max_running
    }

    fn refuse(&self, error: SubmitError) -> SubmitError {
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
        Stats::add(&self.stats.requests_rejected, 1);
        error
    }

    /// Length at which the request ends. A model that was never loaded sets its limits later.
    fn check(&self, submission: &Submission) -> Result<u32, SubmitError> {
        if self.inbox.is_closed() {
            return Err(SubmitError::Closed);
        }
        let slot = self.shapes.get(submission.model.0 as usize);
        let slot = slot.ok_or(SubmitError::UnknownModel(submission.model))?;
        let prompt = u32::try_from(submission.prompt.len()).unwrap_or(u32::MAX - 1);
        if prompt == 0 {
            return Err(SubmitError::EmptyPrompt);
        }
        let limit = |max_tokens: u32| prompt.saturating_add(max_tokens);
        let max_len = submission.max_tokens.map_or(u32::MAX, limit);
        let Some(shape) = slot.get() else {
            return Ok(max_len);
        };
        let (prediction, context) = (submission.prediction.len(), shape.max_context);
        if prediction > context as usize {
            return Err(SubmitError::PredictionLength { prediction, context });
        }
        shape.limit(prompt, max_len)
    }

    /// Ask for a model, and for it to stay that long when idle. The wait ends in one event, as a
    /// request does, and can be aborted like one.
    ///
    /// # Errors
    /// As for [`Self::submit`].
    pub fn load(
        &self,
        model: ModelId,
        keep_alive: Option<KeepAlive>,
    ) -> Result<RequestId, SubmitError> {
        if self.inbox.is_closed() {
            return Err(SubmitError::Closed);
        }
        if model.0 as usize >= self.shapes.len() {
            return Err(SubmitError::UnknownModel(model));
        }
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        let caller = RequestId(self.next_id.fetch_add(1, Ordering::Relaxed));
        self.inbox.control(Control::Load { model, caller, keep_alive, now_ns: self.now_ns() });
        Ok(caller)
    }

    /// Let a model go once no request runs in it; a pinned one stays.
    pub fn unload(&self, model: ModelId) {
        self.inbox.control(Control::Unload(model));
    }

    /// Tell how a load ended that [`Runner::load`] left under way. Any thread.
    pub fn load_ended(&self, model: ModelId, end: LoadEnd) {
        self.inbox.control(Control::LoadEnded(model, end));
    }

    /// End a request early. May come at any time, twice, or after the end.
    pub fn abort(&self, id: RequestId) {
        self.inbox.control(Control::Abort(id));
    }

    /// End a request that has waited too long to be run; one that runs goes on. As safe as abort.
    pub fn expire(&self, id: RequestId) {
        self.inbox.control(Control::Expire(id));
    }

    /// End all requests early.
    pub fn abort_all(&self) {
        self.inbox.control(Control::AbortAll);
    }

    /// Refuse new requests; `run` returns once those accepted have ended.
    pub fn close(&self) {
        self.inbox.close();
    }

    /// Requests accepted and not yet ended.
    pub fn num_in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Acquire)
    }

    /// The engine thread's life: until closed and idle. A panic inside is caught here; all
    /// requests then end as failed and the engine stays closed.
    ///
    /// # Errors
    /// The panic's message.
    pub fn run(&self, runner: &mut dyn Runner) -> Result<(), String> {
        let mut scheduler = Scheduler::with_residency(self.config.clone(), self.residency.clone());
        // Kept outside: what a turn has ended before it panics must still be heard of.
        let mut events = Vec::new();
        let served =
            catch_unwind(AssertUnwindSafe(|| self.serve(&mut scheduler, runner, &mut events)));
        self.inbox.close();
        served.map_err(|panic| {
            let message = panic_message(panic.as_ref());
            let failed = Finish::Failed(format!("the engine stopped: {message}"));
            // Whoever got past the gate is about to land; after that nobody comes.
            while !self.inbox.is_closed() {
                yield_now();
            }
            self.take_commands(&mut scheduler, &mut events);
            scheduler.end_all(&failed, &mut events);
            self.gauge(&scheduler);
            self.publish(&mut events);
            message
        })
    }

    fn serve(&self, scheduler: &mut Scheduler, runner: &mut dyn Runner, events: &mut Vec<Event>) {
        let mut archive = Archive::new(self.config.suffix_dir.clone());
        let disk = KvDisk::open(&self.config, scheduler, &self.stats);
        let mut guard = MemoryGuard::new(self.watermarks);
        loop {
            Stats::set(&self.stats.heartbeat_ns, self.now_ns());
            let closed = self.inbox.is_closed();
            self.take_commands(scheduler, events);
            self.guard_memory(&mut guard, scheduler, runner, events);
            for model in scheduler.take_loaded() {
                // The first instance's texts are kept, and are what all begin with.
                scheduler.instances_mut(model).for_each(|it| fill_from(&mut archive, it));
            }
            match scheduler.next_action(self.now_ns(), events) {
                Action::Residency(order) => {
                    if let Order::Evict(model) = order {
                        disk.save_all(scheduler, runner, Some(model), SAVES_OF_EVICTED);
                    }
                    self.obey(scheduler, runner, &mut archive, order, events);
                }
                Action::Read(read) => {
                    let start = Instant::now();
                    disk.read(scheduler, runner, &read);
                    scheduler.charge(read.model, start.elapsed().as_secs_f32() * 1e3);
                }
                Action::Step(plan) => self.step(scheduler, runner, &plan, events),
                Action::Idle if closed && scheduler.is_idle() => break,
                Action::Idle => {
                    if scheduler.check_integrity().is_err() {
                        Stats::add(&self.stats.integrity_errors, 1);
                    }
                    if archive.is_due(self.now_ns()) {
                        self.save_to(&mut archive, scheduler.resident());
                    }
                    // Who was just ended by a command is told before we write or sleep.
                    if events.is_empty() && !disk.save_next(scheduler, runner, None) {
                        self.inbox.wait(Some(guard.patience(HEARTBEAT)));
                    }
                }
            }
            self.gauge(scheduler);
            self.publish(events);
        }
        self.publish(events);
        self.save_to(&mut archive, scheduler.resident());
        disk.save_all(scheduler, runner, None, LAST_SAVES);
        self.gauge(scheduler);
    }

    /// Measure if it is time to, and give up what a shortage calls for.
    fn guard_memory(
        &self,
        guard: &mut MemoryGuard,
        scheduler: &mut Scheduler,
        runner: &mut dyn Runner,
        events: &mut Vec<Event>,
    ) {
        if !guard.is_due(self.now_ns()) {
            return;
        }
        let share = runner.memory_share().unwrap_or_default();
        let relief = guard.observe(share, scheduler.spare(), self.now_ns());
        scheduler.short_of_memory(guard.shortage() > Shortage::None);
        Stats::set(&self.stats.memory_permille, permille(share));
        Stats::set(&self.stats.memory_shortage, guard.shortage() as u64);
        match relief {
            Some(Relief::TrimPool) => {
                Stats::add(&self.stats.memory_trims, 1);
                runner.trim();
            }
            Some(Relief::ShrinkCache) => scheduler.shrink_caches(),
            Some(Relief::EvictModel) => scheduler.evict_idle(),
            Some(Relief::RefusePrefill) => {
                Stats::add(&self.stats.memory_refusals, 1);
                scheduler.refuse_prefill(events);
            }
            None => {}
        }
    }

    fn save_to<'a>(&self, archive: &mut Archive, models: impl IntoIterator<Item = &'a Model>) {
        for model in models.into_iter().filter(|it| it.is_first()) {
            let saved = model.shared_texts().map(|it| archive.save(&model.shape().fingerprint, it));
            if saved.is_some_and(|it| it.is_err()) {
                Stats::add(&self.stats.suffix_file_errors, 1);
            }
        }
    }

    fn take_commands(&self, scheduler: &mut Scheduler, events: &mut Vec<Event>) {
        let (mut submissions, mut controls) = (Vec::new(), Vec::new());
        self.inbox.drain(&mut submissions, &mut controls);
        for request in submissions {
            scheduler.submit(request, events);
        }
        for control in controls {
            match control {
                Control::AbortAll => scheduler.end_all(&Finish::Aborted, events),
                Control::Abort(id) if !scheduler.abort(id, events) => {
                    Stats::add(&self.stats.late_aborts, 1);
                }
                Control::Abort(_) => {}
                Control::Expire(id) => scheduler.expire(id, events),
                Control::Load { model, caller, keep_alive, now_ns } => {
                    let waiter = Waiter::Caller { id: caller, since_ns: now_ns };
                    scheduler.load(model, waiter, keep_alive, events);
                }
                Control::LoadEnded(model, end) => self.end_load(scheduler, model, end, events),
                Control::Unload(model) => scheduler.unload(model),
            }
        }
    }

    fn obey(
        &self,
        scheduler: &mut Scheduler,
        runner: &mut dyn Runner,
        archive: &mut Archive,
        order: Order,
        events: &mut Vec<Event>,
    ) {
        match order {
            Order::Load(model) => {
                let of_drafters = &self.stats.drafter_loads;
                self.count_move(model, &self.stats.model_loads, of_drafters);
                let reserved = scheduler.residency().get(model).map_or(0, |it| it.held);
                if let Some(end) = runner.load(model, reserved) {
                    self.end_load(scheduler, model, end, events);
                }
            }
            Order::CancelLoad(model) => runner.cancel_load(model),
            Order::Evict(model) => {
                let of_drafters = &self.stats.drafter_evictions;
                self.count_move(model, &self.stats.model_evictions, of_drafters);
                self.save_to(archive, scheduler.instances(model));
                runner.evict(model);
                scheduler.evicted(model);
            }
        }
    }

    fn count_move(&self, id: ModelId, of_models: &AtomicU64, of_drafters: &AtomicU64) {
        let drafts = id.0 as usize >= self.shapes.len();
        Stats::add(if drafts { of_drafters } else { of_models }, 1);
    }

    fn end_load(
        &self,
        scheduler: &mut Scheduler,
        model: ModelId,
        end: LoadEnd,
        events: &mut Vec<Event>,
    ) {
        match (&end, self.shapes.get(model.0 as usize)) {
            // A second load of the same model finds the slot filled with the same facts.
            (LoadEnd::Loaded { shape, .. }, Some(slot)) => drop(slot.set(shape.clone())),
            (LoadEnd::Failed(_), _) => Stats::add(&self.stats.model_load_errors, 1),
            _ => {}
        }
        scheduler.load_ended(model, end, events);
    }

    fn step(
        &self,
        scheduler: &mut Scheduler,
        runner: &mut dyn Runner,
        plan: &StepPlan,
        events: &mut Vec<Event>,
    ) {
        let start = Instant::now();
        let outcome = runner.step(plan).and_then(|outcome| checked(plan, outcome));
        let taken = start.elapsed();
        let ms = taken.as_secs_f32() * 1e3;
        Stats::add(&self.stats.steps, 1);
        match outcome {
            Ok(outcome) => {
                scheduler.commit(plan, &outcome, ms, events);
                self.count(plan, &outcome, taken);
            }
            Err(message) => {
                Stats::add(&self.stats.step_errors, 1);
                scheduler.charge(plan.model, ms);
                scheduler.fail(plan, &message, events);
            }
        }
    }

    fn count(&self, plan: &StepPlan, outcome: &StepOutcome, taken: Duration) {
        if let Some(stats) = self.speculation.get(plan.model.0 as usize) {
            stats.count_step(plan, outcome, taken.as_nanos() as u64);
        }
        let sampling = plan.rows.iter().filter(|row| row.samples);
        for (row, &kept) in sampling.zip(&outcome.accepted).filter(|it| it.0.num_drafts() > 0) {
            self.stats.count_draft(row.num_drafts(), kept as usize);
        }
    }

    fn gauge(&self, scheduler: &Scheduler) {
        let (waiting, running) = scheduler.num_requests();
        let sum = |count: fn(&Model) -> u64| scheduler.resident().map(count).sum::<u64>();
        let total = sum(|model| u64::from(model.kv.pool().total()));
        let free = sum(|model| u64::from(model.kv.pool().num_free()));
        let cached = sum(|model| u64::from(model.kv.rows().num_cached()));
        Stats::set(&self.stats.requests_waiting, waiting as u64);
        Stats::set(&self.stats.requests_running, running as u64);
        Stats::set(&self.stats.kv_blocks_total, total);
        Stats::set(&self.stats.kv_blocks_used, total - free);
        Stats::set(&self.stats.kv_blocks_cached, cached);
        Stats::set(&self.stats.prefix_evictions, scheduler.num_prefix_evictions());
        Stats::set(&self.stats.preemptions, scheduler.num_preemptions());
        let residency = scheduler.residency();
        let resident = residency.targets().iter().filter(|it| it.in_memory()).count();
        Stats::set(&self.stats.kv_file_bytes, scheduler.segments().num_bytes());
        Stats::set(&self.stats.model_bytes, residency.held());
        Stats::set(&self.stats.models_resident, resident as u64);
        if self.board.publish(residency) && self.outbox.wake().is_err() {
            Stats::add(&self.stats.wake_errors, 1);
        }
    }

    fn publish(&self, events: &mut Vec<Event>) {
        for event in events.iter() {
            Stats::add(&self.stats.generated_tokens, event.tokens.len() as u64);
            let Some((finish, stats)) = &event.end else {
                continue;
            };
            Stats::add(&self.stats.cached_tokens, u64::from(stats.num_cached_tokens));
            self.in_flight.fetch_sub(1, Ordering::AcqRel);
            let counter = match finish {
                Finish::Loaded => continue,
                Finish::Stop | Finish::Length => &self.stats.requests_finished,
                Finish::Aborted => &self.stats.requests_aborted,
                Finish::Expired => &self.stats.requests_expired,
                Finish::Failed(_) => &self.stats.requests_failed,
                Finish::Refused(_) => &self.stats.requests_rejected,
            };
            Stats::add(counter, 1);
        }
        if self.outbox.publish(events).is_err() {
            // The events are kept, and the next wake that works brings them.
            Stats::add(&self.stats.wake_errors, 1);
        }
    }
}

fn fill_from(archive: &mut Archive, model: &mut Model) {
    let fingerprint = model.shape().fingerprint.clone();
    if let Some(texts) = model.shared_texts_mut() {
        archive.fill(&fingerprint, texts);
    }
}

/// A runner's outcome fits its plan; anything else is the runner's fault and fails the step.
fn checked(plan: &StepPlan, outcome: StepOutcome) -> Result<StepOutcome, String> {
    if outcome.fits(plan) {
        Ok(outcome)
    } else {
        Err("the runner's outcome does not fit its plan".to_owned())
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panic").to_owned()
}
