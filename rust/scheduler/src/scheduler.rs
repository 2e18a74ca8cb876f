//! All models and their requests, as plain state: submit, abort, next action, commit.
//!
//! Time is passed in and nothing here waits or locks, so every schedule can be replayed in a test.

use crate::action::{Action, LoadEnd, StepOutcome, StepPlan};
use crate::config::{
    DraftModelShape, KeepAlive, Limit, MemoryConfig, ModelPolicy, SchedulerConfig,
};
use crate::error::{IntegrityError, Refusal, ensure};
use crate::fair_share::FairShare;
use crate::ids::{ModelId, RequestId};
use crate::instances::Instances;
use crate::model::{Event, Model};
use crate::request::{Finish, Request};
use crate::residency::{Admission, Phase, Residency};
use crate::segment::{SegmentRead, SegmentSave};
use crate::segment_index::SegmentIndex;
use crate::waiter::Waiter;

/// A model of the configuration and those who wait for it to be in memory.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    pub(crate) instances: Instances,
    /// Of a drafter in memory.
    drafter: Option<DraftModelShape>,
    /// In order of arrival.
    waiters: Vec<Waiter>,
    /// Why the last load failed.
    error: Option<String>,
}

/// The engine's whole state.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    pub(crate) residency: Residency,
    /// By [`ModelId`]: models and their drafters.
    pub(crate) entries: Vec<Entry>,
    /// Whose turn it is.
    fair: FairShare,
    pub(crate) now_ns: u64,
    /// Models whose load has ended well and that nobody has asked for since.
    loaded: Vec<ModelId>,
    /// Preemptions and evicted prefixes of models that have left.
    past: (u64, u64),
    /// What KV lies on disk.
    segments: SegmentIndex,
}

impl Scheduler {
    /// Room for all models, and all are wanted at once.
    pub fn new(config: SchedulerConfig, num_models: usize) -> Self {
        let policy = ModelPolicy { preload: true, ..ModelPolicy::default() };
        let policies = std::iter::repeat_n(policy, num_models);
        Self::with_residency(config, Residency::new(MemoryConfig::unlimited(), policies))
    }

    /// Models come and go as this says.
    pub fn with_residency(config: SchedulerConfig, residency: Residency) -> Self {
        let preloads = residency.models.iter().map(|it| it.waiting > 0);
        let entries = preloads.map(|preload| Entry {
            waiters: if preload { vec![Waiter::Preload] } else { Vec::new() },
            ..Entry::default()
        });
        let weights = (0..residency.models.len() as u32).map(|at| config.share(ModelId(at)).weight);
        Self {
            entries: entries.collect(),
            fair: FairShare::new(weights),
            config,
            residency,
            now_ns: 0,
            loaded: Vec::new(),
            past: (0, 0),
            segments: SegmentIndex::default(),
        }
    }

    /// Where every model stands.
    pub fn residency(&self) -> &Residency {
        &self.residency
    }

    /// All instances of the models in memory.
    pub fn resident(&self) -> impl Iterator<Item = &Model> {
        self.entries.iter().flat_map(|entry| entry.instances.iter())
    }

    /// The same, to change.
    pub(crate) fn resident_mut(&mut self) -> impl Iterator<Item = &mut Model> {
        self.entries.iter_mut().flat_map(|entry| entry.instances.iter_mut())
    }

    /// Queue a request, and ask for its model.
    pub fn submit(&mut self, request: Request, events: &mut Vec<Event>) {
        let (id, keep_alive) = (request.model, request.keep_alive);
        self.now_ns = self.now_ns.max(request.submitted_ns);
        self.arrive(id, Waiter::Request(Box::new(request)), keep_alive, events);
    }

    /// Ask for a model; who waits hears once it is in memory, or why it is not.
    pub fn load(
        &mut self,
        id: ModelId,
        waiter: Waiter,
        keep_alive: Option<KeepAlive>,
        events: &mut Vec<Event>,
    ) {
        self.now_ns = self.now_ns.max(waiter.since_ns());
        self.arrive(id, waiter, keep_alive, events);
    }

    /// Let a model go once no request runs in it.
    pub fn unload(&mut self, id: ModelId) {
        self.residency.unload(id);
    }

    fn arrive(
        &mut self,
        id: ModelId,
        waiter: Waiter,
        keep_alive: Option<KeepAlive>,
        events: &mut Vec<Event>,
    ) {
        match self.residency.arrive(id, keep_alive, self.now_ns) {
            Ok(Admission::Run) => self.seat(id, waiter, events),
            Ok(Admission::Wait) => self.entries[id.0 as usize].waiters.push(waiter),
            Err(refusal) => events.extend(waiter.refused(refusal)),
        }
    }

    /// The model is in memory: a request joins it, a caller hears of it.
    fn seat(&mut self, id: ModelId, waiter: Waiter, events: &mut Vec<Event>) {
        let (balance, max_running) = (self.config.share(id).balance, self.config.max_running);
        match waiter {
            Waiter::Request(mut request) => {
                let instances = &mut self.entries[id.0 as usize].instances;
                let Some(model) = instances.choose(&request, balance, max_running) else { return };
                match request.fit(model.shape()) {
                    Ok(()) => return model.push(*request),
                    Err(error) => events.push(request.into_end(Finish::Refused(error))),
                }
            }
            waiter => events.extend(waiter.ended(Finish::Loaded)),
        }
        self.residency.leave(id, Admission::Run, self.now_ns);
    }

    /// Bring waiters into line with where their models stand.
    fn settle(&mut self, events: &mut Vec<Event>) {
        for at in 0..self.entries.len() {
            let state = &self.residency.models[at];
            let failed = state.phase == Phase::Failed;
            if state.waiting > 0 || self.entries[at].waiters.is_empty() {
                continue;
            }
            for waiter in std::mem::take(&mut self.entries[at].waiters) {
                if failed {
                    let error = self.entries[at].error.clone().unwrap_or_default();
                    events.extend(waiter.refused(Refusal::LoadFailed(error)));
                } else {
                    self.seat(ModelId(at as u32), waiter, events);
                }
            }
        }
    }

    /// Tell the residency of requests that have ended in a model.
    pub(crate) fn count_out(&mut self, id: ModelId) {
        let at = id.0 as usize;
        for _ in
            self.entries[at].instances.num_requests()..self.residency.models[at].running as usize
        {
            self.residency.leave(id, Admission::Run, self.now_ns);
        }
    }

    /// End a request, or a caller's wait, early. False if it is unknown, which is no error: it may
    /// have just ended.
    pub fn abort(&mut self, id: RequestId, events: &mut Vec<Event>) -> bool {
        (0..self.entries.len()).any(|at| {
            if self.end_wait(at, id, &Finish::Aborted, events) {
                return true;
            }
            let mut instances = self.entries[at].instances.iter_mut();
            let aborted = instances.any(|model| model.abort(id, events));
            self.count_out(ModelId(at as u32));
            aborted
        })
    }

    /// End a request that has waited too long. One that has run goes on, even if preempted.
    pub fn expire(&mut self, id: RequestId, events: &mut Vec<Event>) {
        for at in 0..self.entries.len() {
            self.end_wait(at, id, &Finish::Expired, events);
            self.entries[at].instances.iter_mut().for_each(|it| it.expire(id, events));
            self.count_out(ModelId(at as u32));
        }
    }

    /// End somebody's wait for a model; false if nobody of this id waits for it.
    fn end_wait(
        &mut self,
        at: usize,
        id: RequestId,
        finish: &Finish,
        events: &mut Vec<Event>,
    ) -> bool {
        let waiters = &mut self.entries[at].waiters;
        let Some(found) = waiters.iter().position(|it| it.id() == Some(id)) else {
            return false;
        };
        events.extend(waiters.remove(found).ended(finish.clone()));
        self.residency.leave(ModelId(at as u32), Admission::Wait, self.now_ns);
        true
    }

    /// End every request, for the same reason.
    pub fn end_all(&mut self, finish: &Finish, events: &mut Vec<Event>) {
        for at in 0..self.entries.len() {
            let id = ModelId(at as u32);
            for waiter in std::mem::take(&mut self.entries[at].waiters) {
                events.extend(waiter.ended(finish.clone()));
                self.residency.leave(id, Admission::Wait, self.now_ns);
            }
            self.entries[at].instances.iter_mut().for_each(|it| it.end_all(finish, events));
            self.count_out(id);
        }
    }

    /// Requests of all models without a row, and with one.
    pub fn num_requests(&self) -> (usize, usize) {
        let waiters = self.entries.iter().flat_map(|entry| &entry.waiters);
        let early = waiters.filter(|it| it.id().is_some()).count();
        let waiting: usize = self.resident().map(Model::num_waiting).sum();
        (early + waiting, self.resident().map(Model::num_running).sum())
    }

    /// Whether any request waits or runs.
    pub fn is_idle(&self) -> bool {
        self.num_requests() == (0, 0)
    }

    /// Times that a running request was put back, in all models.
    pub fn num_preemptions(&self) -> u64 {
        self.past.0 + self.resident().map(|model| model.num_preemptions).sum::<u64>()
    }

    /// Prefixes that were evicted from the caches of all models.
    pub fn num_prefix_evictions(&self) -> u64 {
        self.past.1 + self.resident().map(|model| model.kv.num_evictions()).sum::<u64>()
    }

    /// Decide what to do next. A returned step must be committed or failed before the next call.
    pub fn next_action(&mut self, now_ns: u64, events: &mut Vec<Event>) -> Action {
        self.now_ns = self.now_ns.max(now_ns);
        self.time_out(events);
        let order = self.residency.next(self.now_ns);
        self.settle(events);
        if let Some(order) = order {
            return Action::Residency(order);
        }
        // Who loses a row makes room for others, whose turn may be before.
        self.resident_mut().for_each(Model::make_room);
        let has_work = |at: usize| self.entries[at].instances.iter().any(Model::has_work);
        for at in self.fair.order(has_work) {
            if let Some(action) = self.act(at) {
                self.fair.begin(at);
                return action;
            }
            self.fair.pass(at);
        }
        Action::Idle
    }

    /// What a model does next, if it can do anything.
    fn act(&mut self, at: usize) -> Option<Action> {
        let in_turn = self.entries[at].instances.in_turn();
        let (instance, action) =
            in_turn.into_iter().find_map(|it| Some((it, self.act_as(at, it)?)))?;
        self.entries[at].instances.stepped(instance);
        Some(action)
    }

    fn act_as(&mut self, at: usize, instance: u32) -> Option<Action> {
        let max_running = self.max_running(at, instance);
        let model = self.entries[at].instances.get_mut(instance)?;
        model.prepare(max_running, &mut self.segments, self.now_ns);
        if let Some(read) = model.next_read() {
            return Some(Action::Read(read));
        }
        Some(Action::Step(Box::new(model.plan(&self.config)?)))
    }

    /// Most requests that may run in this instance now.
    fn max_running(&self, at: usize, instance: u32) -> usize {
        let Some(model) = self.entries[at].instances.get(instance) else { return 0 };
        let limits = self.config.limits.iter();
        let limits = limits.filter(|it| it.models.contains(&ModelId(at as u32)));
        let rooms = limits.map(|limit| {
            let others = self.covered_by(limit).filter(|it| !std::ptr::eq(*it, model));
            limit.room(model, &others.collect::<Vec<_>>())
        });
        rooms.min().unwrap_or(usize::MAX).min(self.config.max_running)
    }

    fn covered_by(&self, limit: &Limit) -> impl Iterator<Item = &Model> {
        let entries = limit.models.iter().filter_map(|it| self.entries.get(it.0 as usize));
        entries.flat_map(|entry| entry.instances.iter())
    }

    /// A model has had the device for so long.
    pub fn charge(&mut self, id: ModelId, ms: f32) {
        self.fair.charge(id.0 as usize, ms);
    }

    /// Refuse those who have waited too long for memory; a load that is under way will end.
    fn time_out(&mut self, events: &mut Vec<Event>) {
        let (now_ns, wait_ns) = (self.now_ns, self.residency.config().wait_ns);
        for (at, entry) in self.entries.iter_mut().enumerate() {
            if self.residency.models[at].phase == Phase::Loading {
                continue;
            }
            let late = |it: &mut Waiter| it.since_ns().saturating_add(wait_ns) <= now_ns;
            for waiter in entry.waiters.extract_if(.., late) {
                let seconds = wait_ns / 1_000_000_000;
                events.extend(waiter.refused(Refusal::TimedOut { seconds }));
                self.residency.leave(ModelId(at as u32), Admission::Wait, now_ns);
            }
        }
    }

    /// A load ended: the model takes in those who waited for it, or they hear why not.
    pub fn load_ended(&mut self, id: ModelId, end: LoadEnd, events: &mut Vec<Event>) {
        let loading = self.residency.get(id).is_some_and(|it| it.phase == Phase::Loading);
        let Some(entry) = self.entries.get_mut(id.0 as usize).filter(|_| loading) else {
            return;
        };
        match end {
            LoadEnd::Loaded { shape, num_bytes } => {
                if !shape.takes_drafter {
                    self.residency.give_up_drafter(id);
                }
                entry.instances = Instances::loaded(id, &self.config, &shape);
                self.loaded.push(id);
                self.residency.loaded(id, num_bytes, self.now_ns);
                self.attach_drafter(id);
            }
            LoadEnd::DrafterLoaded { shape, num_bytes } => {
                entry.drafter = Some(shape);
                self.residency.loaded(id, num_bytes, self.now_ns);
                let targets: Vec<_> = self.residency.drafted_by(id).collect();
                for target in targets {
                    self.attach_drafter(target);
                }
            }
            LoadEnd::Resized { num_bytes } => {
                let budget = self.residency.config().budget;
                entry.error = Some(Refusal::NeverFits { need: num_bytes, budget }.to_string());
                self.residency.resized(id, num_bytes, self.now_ns);
            }
            LoadEnd::Failed(message) => {
                entry.error = Some(message);
                self.residency.load_failed(id, self.now_ns);
            }
            LoadEnd::Cancelled => self.residency.load_cancelled(id),
        }
        self.settle(events);
    }

    /// The model is drafted for from now on, if both it and its drafter are in memory.
    fn attach_drafter(&mut self, id: ModelId) {
        let drafter = self.residency.drafter_of(id);
        let shape = drafter.and_then(|it| self.entries.get(it.0 as usize)?.drafter.clone());
        if let Some(shape) = shape {
            self.instances_mut(id).for_each(|it| it.attach_drafter(&shape));
        }
    }

    fn detach_drafter(&mut self, drafter: ModelId) {
        let targets: Vec<_> = self.residency.drafted_by(drafter).collect();
        for id in targets {
            self.detach_from(id);
        }
    }

    fn detach_from(&mut self, id: ModelId) {
        for model in self.instances_mut(id) {
            model.detach_drafter();
        }
    }

    /// The runner has freed a model's memory.
    pub fn evicted(&mut self, id: ModelId) {
        let entry = self.entries.get_mut(id.0 as usize);
        if entry.is_some_and(|it| it.drafter.take().is_some()) {
            self.detach_drafter(id);
        }
        let left = self.entries.get_mut(id.0 as usize).map(|it| std::mem::take(&mut it.instances));
        for model in left.iter().flat_map(Instances::iter) {
            self.past.0 += model.num_preemptions;
            self.past.1 += model.kv.num_evictions();
        }
        self.residency.evicted(id, self.now_ns);
    }

    /// Take in what a step brought; `ms` is how long it took.
    pub fn commit(
        &mut self,
        plan: &StepPlan,
        outcome: &StepOutcome,
        ms: f32,
        events: &mut Vec<Event>,
    ) {
        self.charge(plan.model, ms);
        if let Some(model) = self.instance_mut(plan.model, plan.instance) {
            model.commit(plan, outcome, ms, events);
            self.count_out(plan.model);
        }
    }

    /// A step failed: its requests end, all others go on.
    pub fn fail(&mut self, plan: &StepPlan, message: &str, events: &mut Vec<Event>) {
        let failed = self.instance_mut(plan.model, plan.instance);
        if failed.is_some_and(|model| model.fail(plan, message, events)) {
            self.residency.give_up_drafter(plan.model);
            self.detach_from(plan.model);
        }
        self.count_out(plan.model);
    }

    /// Go by what KV an earlier server left on disk.
    pub fn use_segments(&mut self, segments: SegmentIndex) {
        self.segments = segments;
    }

    /// What KV lies on disk.
    pub fn segments(&self) -> &SegmentIndex {
        &self.segments
    }

    /// The same, to follow on disk what it decides.
    pub fn segments_mut(&mut self) -> &mut SegmentIndex {
        &mut self.segments
    }

    /// A read is done; unless the KV is `there` now, it is looked for no more.
    pub fn take_read(&mut self, read: &SegmentRead, there: bool) {
        if !there {
            self.segments.lost(read.name);
        }
        if let Some(model) = self.instance_mut(read.model, read.instance) {
            model.take_read(read, there);
        }
    }

    /// What cached KV to write to disk next, of any model or of one; for when there is nothing else to
    /// do. It must be written, or saving stopped, before the next call.
    pub fn next_save(&mut self, of: Option<ModelId>) -> Option<SegmentSave> {
        let wanted = |at: usize| of.is_none_or(|id| id.0 as usize == at);
        let entries = self.entries.iter_mut().enumerate().filter(|(at, _)| wanted(*at));
        let mut models = entries.flat_map(|(_, entry)| entry.instances.iter_mut());
        models.find_map(|model| model.next_save(&mut self.segments))
    }

    /// A segment was written, and takes so many bytes.
    pub fn saved(&mut self, save: &SegmentSave, num_bytes: u64) {
        let entry = &mut self.entries[save.model.0 as usize];
        if let Some(model) = entry.instances.get_mut(save.instance) {
            model.kv.saved(&mut self.segments, num_bytes);
        }
    }

    /// The models that were loaded since the last call.
    pub fn take_loaded(&mut self) -> Vec<ModelId> {
        std::mem::take(&mut self.loaded)
    }

    /// The instances of a model in memory.
    pub fn instances(&self, id: ModelId) -> impl Iterator<Item = &Model> {
        self.entries.get(id.0 as usize).into_iter().flat_map(|entry| entry.instances.iter())
    }

    /// The same, to change.
    pub fn instances_mut(&mut self, id: ModelId) -> impl Iterator<Item = &mut Model> {
        let entry = self.entries.get_mut(id.0 as usize);
        entry.into_iter().flat_map(|entry| entry.instances.iter_mut())
    }

    fn instance_mut(&mut self, id: ModelId, instance: u32) -> Option<&mut Model> {
        self.entries.get_mut(id.0 as usize)?.instances.get_mut(instance)
    }

    /// Memory is within its budget, and every model's requests, rows and blocks add up.
    ///
    /// # Errors
    /// Names the first violation.
    pub fn check_integrity(&self) -> Result<(), IntegrityError> {
        self.residency.check_integrity()?;
        self.segments.check_integrity()?;
        for (at, (entry, state)) in self.entries.iter().zip(&self.residency.models).enumerate() {
            let running = entry.instances.num_requests();
            ensure!(running == state.running as usize, "model {at} has {running} requests");
            let waiters = entry.waiters.len();
            ensure!(waiters == state.waiting as usize, "{waiters} wait for model {at}");
        }
        for limit in &self.config.limits {
            let running: usize = self.covered_by(limit).map(Model::num_running).sum();
            ensure!(running <= limit.max_running, "{running} requests run, beyond {limit:?}");
        }
        self.resident().try_for_each(Model::check_integrity)
    }
}
