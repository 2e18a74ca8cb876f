//! The scheduler without its engine, one simulated runner per model, and what must come of it.

use std::sync::Arc;
use std::time::Duration;

use mlxspec_scheduler::action::{Action, LoadEnd, StepPlan};
use mlxspec_scheduler::config::{
    BLOCK_TOKENS, DraftModelShape, MemoryConfig, ModelPolicy, ModelShape, SchedulerConfig,
};
use mlxspec_scheduler::error::{Refusal, SubmitError};
use mlxspec_scheduler::ids::{ModelId, RequestId};
use mlxspec_scheduler::model::Event;
use mlxspec_scheduler::request::{Finish, Request, RequestStats};
use mlxspec_scheduler::residency::{Order, Residency};
use mlxspec_scheduler::scheduler::Scheduler;

use super::disk::{SEGMENT_BYTES, SimDisk};
use super::script::{Script, Scripts, Wish, max_len};
use super::{Fault, SimRunner};

const STEP_MS: f32 = 1.0;

/// A request as the test remembers it.
#[derive(Debug)]
pub(crate) struct Tracked {
    pub(crate) script: Arc<Script>,
    model: ModelId,
    submitted_ns: u64,
    pub(crate) output: Vec<u32>,
    sent: bool,
    ran: bool,
    /// Tokens of its prompt of which something was gathered.
    gathered: u32,
    /// How it may end, besides by itself.
    excuses: Vec<Finish>,
    pub(crate) end: Option<(Finish, RequestStats)>,
}

/// The scheduler, one simulated runner per model, and what must come of it.
pub(crate) struct World {
    pub(crate) scheduler: Scheduler,
    pub(crate) runners: Vec<SimRunner>,
    pub(crate) requests: Vec<Tracked>,
    pub(crate) disk: SimDisk,
    /// What a forward costs of the draft model that all models share, if there is one.
    draft_ms: Option<f32>,
    /// Whether it is in memory.
    drafts: bool,
    /// Whether memory is short: who lost its row then waits for those who have one.
    short: bool,
    /// Whether a model's first in line may wait for another instance's, or another model's requests.
    spread: bool,
    now_ns: u64,
}

#[derive(Debug, Clone)]
pub(crate) enum Op {
    Submit(usize, Wish),
    /// A prompt that has so many tokens in common with what became of an earlier request.
    Resume(usize, usize, Wish),
    /// So many at once that begin like an earlier one.
    Fork(usize, usize, Wish),
    Abort(usize),
    Expire(usize),
    /// A model that is to leave once its requests have ended, and to come back for the next; or the
    /// draft model, which comes back if anybody is there to draft for.
    Evict(usize),
    /// Write so many segments to disk.
    Save(usize),
    /// The disk loses one of its segments.
    Lose(usize),
    Step,
    FailStep(Fault),
    /// Memory is short, or no more.
    Short(bool),
    ShrinkCaches,
    RefusePrefill,
}

fn sharing_a_drafter(config: SchedulerConfig, num_models: usize) -> Scheduler {
    let policy = ModelPolicy {
        preload: true,
        drafter: Some(ModelId(num_models as u32)),
        ..ModelPolicy::default()
    };
    let policies = std::iter::repeat_n(policy, num_models);
    let residency = Residency::new(MemoryConfig::unlimited(), policies).with_drafters([0]);
    Scheduler::with_residency(config, residency)
}

impl World {
    pub(crate) fn new(config: SchedulerConfig, shapes: &[ModelShape]) -> Self {
        let scripts: Vec<Scripts> = shapes.iter().map(Scripts::new).collect();
        let runners = shapes.iter().zip(scripts);
        Self {
            spread: !config.shares.is_empty() || !config.limits.is_empty(),
            scheduler: Scheduler::new(config, shapes.len()),
            runners: runners.map(|(shape, it)| SimRunner::new(shape.clone(), it)).collect(),
            requests: Vec::new(),
            disk: SimDisk::default(),
            draft_ms: None,
            drafts: false,
            short: false,
            now_ns: 0,
        }
    }

    /// The same with a draft model of this cost that all models share.
    pub(crate) fn drafted(mut self, config: SchedulerConfig, ms: f32) -> Self {
        self.draft_ms = Some(ms);
        self.begin(config);
        self
    }

    fn begin(&mut self, config: SchedulerConfig) {
        self.drafts = false;
        self.scheduler = match self.draft_ms {
            None => Scheduler::new(config, self.runners.len()),
            Some(_) => sharing_a_drafter(config, self.runners.len()),
        };
        if self.disk.max_bytes > 0 {
            self.scheduler.use_segments(self.disk.index());
        }
    }

    /// Let time go by.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.now_ns += time.as_nanos() as u64;
    }

    /// The same with room for this many bytes of KV on disk.
    pub(crate) fn with_disk(
        config: SchedulerConfig,
        shapes: &[ModelShape],
        max_bytes: u64,
    ) -> Self {
        let mut world = Self::new(config, shapes);
        world.disk.max_bytes = max_bytes;
        world.scheduler.use_segments(world.disk.index());
        world
    }

    /// Another server, when all requests of the last one have ended and what it could save is saved.
    pub(crate) fn restart(&mut self, config: SchedulerConfig) {
        self.drain();
        self.save(usize::MAX);
        self.begin(config);
        for runner in &mut self.runners {
            *runner = SimRunner::new(runner.shape.clone(), runner.scripts.clone());
        }
    }

    /// Write cached KV to disk, so many segments at most.
    pub(crate) fn save(&mut self, most: usize) {
        for _ in 0..most {
            let Some(save) = self.scheduler.next_save(None) else { break };
            self.disk.write(&save, &mut self.runners[save.model.0 as usize]);
            self.scheduler.saved(&save, SEGMENT_BYTES);
            self.disk.follow(&mut self.scheduler);
        }
    }

    pub(crate) fn apply(&mut self, op: &Op) {
        match *op {
            Op::Submit(model, wish) => self.submit(model % self.runners.len(), wish),
            Op::Resume(at, shared, wish) => {
                let (model, beginning) = self.beginning(at, shared);
                self.resume(model, &beginning, wish);
            }
            Op::Fork(at, copies, wish) => {
                let (model, beginning) = self.beginning(at, usize::MAX);
                (0..copies).for_each(|_| self.resume(model, &beginning, wish));
            }
            Op::Evict(model) => {
                let num_models = self.scheduler.residency().models.len();
                self.scheduler.unload(ModelId((model % num_models) as u32));
            }
            Op::Save(most) => self.save(most),
            Op::Lose(at) => {
                let lost = self.disk.segments.keys().nth(at % self.disk.segments.len().max(1));
                if let Some(name) = lost.copied() {
                    self.disk.segments.remove(&name);
                }
            }
            Op::Abort(at) => {
                self.abort(RequestId((at % self.requests.len().max(1)) as u64));
            }
            Op::Expire(at) => self.expire(at % self.requests.len().max(1)),
            Op::Step => {
                self.step(None);
            }
            Op::FailStep(fault) => {
                self.step(Some(fault));
            }
            Op::Short(short) => {
                self.short = short;
                self.scheduler.short_of_memory(short);
            }
            Op::ShrinkCaches => self.scheduler.shrink_caches(),
            Op::RefusePrefill => self.refuse_prefill(),
        }
        self.scheduler.check_integrity().unwrap();
    }

    /// The model of an earlier request, and its first tokens.
    fn beginning(&self, at: usize, len: usize) -> (usize, Vec<u32>) {
        let earlier = self.requests.get(at % self.requests.len().max(1));
        earlier.map_or((0, Vec::new()), |it| {
            let tokens = &it.script.tokens;
            (it.model.0 as usize, tokens[..len.min(tokens.len())].to_vec())
        })
    }

    /// Submit what the engine would let through.
    pub(crate) fn submit(&mut self, at: usize, wish: Wish) {
        self.resume(at, &[], wish);
    }

    /// Submit a request whose prompt begins with these tokens, and goes on for as many as it wishes.
    pub(crate) fn resume(&mut self, at: usize, beginning: &[u32], wish: Wish) {
        let wish = Wish { num_prompt: beginning.len() + wish.num_prompt, ..wish };
        if let Some(request) = self.prepare_after(at, beginning, wish) {
            self.send(request);
        }
    }

    /// A request with the next id, which may be sent after others with later ids.
    pub(crate) fn prepare(&mut self, at: usize, wish: Wish) -> Option<Request> {
        self.prepare_after(at, &[], wish)
    }

    fn prepare_after(&mut self, at: usize, beginning: &[u32], wish: Wish) -> Option<Request> {
        let runner = &self.runners[at];
        let max_len = max_len(&runner.shape, wish)?;
        let (number, model) = (self.requests.len(), ModelId(at as u32));
        let script = runner.scripts.add(Script::after(beginning, number as u32, wish, max_len));
        let id = RequestId(number as u64);
        let request = Request::new(id, script.submission(model), max_len, self.now_ns);
        self.requests.push(Tracked {
            script,
            model,
            submitted_ns: self.now_ns,
            output: Vec::new(),
            sent: false,
            ran: false,
            gathered: 0,
            excuses: Vec::new(),
            end: None,
        });
        Some(request)
    }

    pub(crate) fn send(&mut self, request: Request) {
        self.requests[request.id().0 as usize].sent = true;
        let mut events = Vec::new();
        self.scheduler.submit(request, &mut events);
        self.take(events);
    }

    pub(crate) fn abort(&mut self, id: RequestId) -> bool {
        let tracked = self.requests.get_mut(id.0 as usize);
        let alive = tracked.is_some_and(|it| {
            it.excuses.push(Finish::Aborted);
            it.end.is_none()
        });
        let mut events = Vec::new();
        let found = self.scheduler.abort(id, &mut events);
        assert_eq!(found, alive, "an abort finds exactly those that have not ended");
        assert_eq!(events.len(), usize::from(alive), "an abort ends its request, and once");
        self.take(events);
        found
    }

    /// Tell the scheduler that a request has waited too long; it must not touch one that has run.
    fn expire(&mut self, at: usize) {
        let mut events = Vec::new();
        self.scheduler.expire(RequestId(at as u64), &mut events);
        assert!(events.len() <= 1, "one request ends twice");
        for event in &events {
            let it = &mut self.requests[at];
            assert_eq!(event.request.0 as usize, at, "somebody else ends");
            assert!(it.sent && it.output.is_empty(), "a request that runs expires");
            it.excuses.push(Finish::Expired);
        }
        self.take(events);
    }

    /// End the newest request that has no token yet, if one runs.
    pub(crate) fn refuse_prefill(&mut self) {
        let mut events = Vec::new();
        self.scheduler.refuse_prefill(&mut events);
        assert!(events.len() <= 1, "one at a time");
        for event in &events {
            let it = &mut self.requests[event.request.0 as usize];
            assert!(it.output.is_empty(), "a request that decodes is refused");
            let error = SubmitError::Unavailable(Refusal::MemoryShort);
            it.excuses.push(Finish::Refused(error));
        }
        self.take(events);
    }

    /// One turn of the engine's loop; false when there was nothing to do.
    pub(crate) fn step(&mut self, fault: Option<Fault>) -> bool {
        self.now_ns += 1_000_000;
        let mut events = Vec::new();
        match self.scheduler.next_action(self.now_ns, &mut events) {
            Action::Residency(Order::Load(id)) if self.is_drafter(id) => {
                self.drafts = true;
                let step_cost = vec![(1, self.draft_ms.expect("there is a draft model"))];
                let shape = DraftModelShape { step_cost, rect_cost: 0.0 };
                let end = LoadEnd::DrafterLoaded { shape, num_bytes: 0 };
                self.scheduler.load_ended(id, end, &mut events);
            }
            Action::Residency(Order::Evict(id)) if self.is_drafter(id) => {
                self.drafts = false;
                self.scheduler.evicted(id);
            }
            Action::Residency(Order::Load(id)) => {
                let shape = self.runners[id.0 as usize].shape.clone();
                let end = LoadEnd::Loaded { shape, num_bytes: 0 };
                self.scheduler.load_ended(id, end, &mut events);
            }
            Action::Residency(Order::Evict(id)) => {
                let runner = &mut self.runners[id.0 as usize];
                *runner = SimRunner::new(runner.shape.clone(), runner.scripts.clone());
                self.scheduler.evicted(id);
            }
            Action::Residency(order) => panic!("{order:?}, and loads end at once"),
            Action::Read(read) => {
                let runner = &mut self.runners[read.model.0 as usize];
                runner.first_waits = None;
                let there = fault.is_none() && self.disk.read(&read, runner);
                self.scheduler.take_read(&read, there);
                self.disk.follow(&mut self.scheduler);
            }
            Action::Idle => {
                assert!(self.scheduler.is_idle(), "idle, and requests wait");
                self.take(events);
                return false;
            }
            Action::Step(plan) if plan.draft.is_some() && !self.drafts => {
                panic!("nobody is there to draft");
            }
            Action::Step(plan) => match fault {
                None => self.commit(&plan, &mut events),
                Some(fault) => self.fail(&plan, fault, &mut events),
            },
        }
        self.take(events);
        true
    }

    fn is_drafter(&self, id: ModelId) -> bool {
        id.0 as usize == self.runners.len()
    }

    fn commit(&mut self, plan: &StepPlan, events: &mut Vec<Event>) {
        let runner = &mut self.runners[plan.model.0 as usize];
        let alive = |it: &Tracked| it.model == plan.model && it.sent && it.end.is_none();
        let first = (0..).zip(&self.requests).filter(|(_, it)| alive(it));
        let first = first.min_by_key(|(id, it)| (it.turn_ns(), *id));
        let first = first.map(|(id, it)| (RequestId(id), it));
        let served = |id| plan.rows.iter().any(|it| it.request == id);
        // The more urgent may come when all places are taken, or who runs be put back when memory is
        // short.
        let overtakes = |it: &Tracked| !it.ran && self.requests.iter().any(Tracked::has_priority);
        // It may stand still for a step, if its KV is about to be read from disk.
        let may_wait = |it: &Tracked| self.short || self.spread || overtakes(it);
        let waits = first.filter(|(id, it)| !served(*id) && !may_wait(it)).map(|(id, _)| id);
        let excused = self.disk.max_bytes > 0 && runner.first_waits != waits;
        assert!(waits.is_none() || excused, "the first stands still");
        runner.first_waits = waits;
        for row in &plan.rows {
            self.requests[row.request.0 as usize].ran = true;
        }
        let outcome = runner.run(plan);
        self.gather(plan);
        self.scheduler.commit(plan, &outcome, STEP_MS, events);
    }

    /// Prompts come whole and in order, or once more from their beginning.
    fn gather(&mut self, plan: &StepPlan) {
        for harvest in &plan.harvests {
            let named = |it: &&mut Tracked| it.script.name == harvest.key;
            let it = self.requests.iter_mut().find(named).expect("somebody has asked for it");
            assert!([0, it.gathered].contains(&harvest.start), "a gap in what is gathered");
            it.gathered = harvest.start + harvest.count;
            let (first, count) = (harvest.first as usize, harvest.count as usize);
            let prompt = &it.script.tokens[..it.script.num_prompt];
            let expected = &prompt[harvest.start as usize..it.gathered as usize];
            assert_eq!(&plan.tokens[first..first + count], expected, "gathered of other tokens");
        }
    }

    fn fail(&mut self, plan: &StepPlan, fault: Fault, events: &mut Vec<Event>) {
        let runner = &mut self.runners[plan.model.0 as usize];
        runner.run_and_fail(plan, fault);
        self.scheduler.fail(plan, "out of memory", events);
        if plan.draft.is_some() {
            assert!(events.is_empty(), "a draft model's failure ends nobody");
            return;
        }
        assert_eq!(events.len(), plan.rows.len(), "a failed step ends its requests, and only them");
        for row in &plan.rows {
            let failed = Finish::Failed("out of memory".to_owned());
            self.requests[row.request.0 as usize].excuses.push(failed);
        }
    }

    fn take(&mut self, events: Vec<Event>) {
        for event in events {
            let it = &mut self.requests[event.request.0 as usize];
            assert!(it.end.is_none(), "an event after the end");
            assert!(event.end.is_some() || !event.tokens.is_empty(), "an event without news");
            it.output.extend(event.tokens);
            assert!(it.script.output().starts_with(&it.output), "not what it says alone");
            if let Some(end) = event.end {
                let drafted = &self.runners[it.model.0 as usize].drafted;
                it.check_end(&end, drafted.get(&it.script.name).copied().unwrap_or_default());
                it.end = Some(end);
            }
        }
    }

    /// Run to the end, in no more steps than the requests one after another would take.
    pub(crate) fn drain(&mut self) {
        let bound: u32 =
            self.requests.iter().filter(|it| it.end.is_none()).map(Tracked::bound).sum();
        let mut left = bound + 8;
        while self.step(None) {
            self.scheduler.check_integrity().unwrap();
            left = left.checked_sub(1).expect("somebody starves");
        }
        assert!(self.requests.iter().all(|it| it.end.is_some()), "a request without an end");
        assert_eq!(self.scheduler.num_requests(), (0, 0));
        for (id, runner) in (0..).map(ModelId).zip(&self.runners) {
            let mut cached = 0;
            for model in self.scheduler.instances(id) {
                let (pool, kept) = (model.kv().pool(), model.kv().rows().num_cached());
                assert_eq!(pool.num_free() + kept, pool.total(), "blocks are lost");
                cached += kept;
            }
            let slabs = runner.slabs.values();
            let held: u32 = slabs.map(|it| it.slots() * it.capacity() / BLOCK_TOKENS).sum();
            assert_eq!(held, cached, "a slab is left that caches nothing");
        }
    }
}

impl Tracked {
    pub(crate) fn finish(&self) -> &Finish {
        &self.end.as_ref().expect("the request has ended").0
    }

    pub(crate) fn stats(&self) -> &RequestStats {
        &self.end.as_ref().expect("the request has ended").1
    }

    /// By which requests stand in line.
    fn turn_ns(&self) -> i64 {
        self.submitted_ns.cast_signed() + i64::from(self.script.priority) * 10_000_000_000
    }

    fn has_priority(&self) -> bool {
        self.script.priority != 0
    }

    /// When it first had a row.
    pub(crate) fn begun_ns(&self) -> u64 {
        self.submitted_ns + self.stats().queued_ns
    }

    fn check_end(&self, (finish, stats): &(Finish, RequestStats), drafted: (u32, u32)) {
        match finish {
            Finish::Aborted | Finish::Expired | Finish::Failed(_) | Finish::Refused(_) => {
                assert!(self.excuses.contains(finish), "{finish:?} without a cause");
            }
            Finish::Loaded => panic!("nobody asked for the model alone"),
            Finish::Stop | Finish::Length => {
                assert_eq!(self.output, self.script.output(), "output ends early");
                assert_eq!(*finish, self.script.finish);
                let whole = if self.script.harvest { self.script.num_prompt } else { 0 };
                assert_eq!(self.gathered as usize, whole, "not all of the prompt was gathered");
            }
        }
        let kept = (0..).zip(&stats.accepted).map(|(kept, &times): (u32, _)| kept * times).sum();
        assert_eq!((stats.num_draft_tokens, kept), drafted, "drafts are counted wrong");
        assert!(self.script.speculate || drafted == (0, 0), "drafts that nobody wanted");
    }

    /// Steps it takes at most: prefill token by token, once per row it grows into, and decode.
    pub(crate) fn bound(&self) -> u32 {
        let len = self.script.tokens.len() as u32 + 64;
        len * (len.div_ceil(256).next_power_of_two().ilog2() + 2)
    }
}
