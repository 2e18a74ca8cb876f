//! Which models are in memory: one state machine over all of them and one budget of bytes.
//!
//! ```text
//!              arrive               room                loaded
//!    absent -----------> reserving ------> loading ---------------> resident
//!      ^                  |  ^  ^            | |                     |    ^
//!      |    all left      |  |  | cancelled, | | failed      someone |    | nobody
//!      +------------------+  |  +-resized ---+ |           needs its |    | needs it
//!      |                     |                 v                room v    |
//!      |                     +---- arrive --- failed              draining
//!      |                     |   (later)                             |
//!      |                     | others wait               no request  |
//!      +---------------------+------------------ evicting <----------+
//!                                  evicted                  runs
//! ```
//!
//! Memory is taken when a load begins and given back when it fails or the model is evicted, so what
//! is held never exceeds the budget. Those who wait are served in order of arrival: if the oldest
//! has waited for [`MemoryConfig::patience_ns`] for others to fall idle, busy models drain for it.
//! `drafters.rs` has what draft models do beside them.
//!
//! No clock and no threads. `tests/rust/residency.rs` explores every order of events of this code.

use crate::config::{KeepAlive, MemoryConfig, ModelPolicy, WhenFull};
use crate::error::{IntegrityError, Refusal, ensure};
use crate::ids::ModelId;
pub use crate::model_state::{ModelState, Phase};

const NS: u64 = 1_000_000_000;

/// What the machine wants done. Each order is given once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    /// Begin to load; ends in `loaded`, `resized`, `load_failed` or `load_cancelled`.
    Load(ModelId),
    /// Nobody waits for this load any more; it may end in any of the four ways all the same.
    CancelLoad(ModelId),
    /// Free the model's memory, then call `evicted`.
    Evict(ModelId),
}

/// Whether a request runs at once or waits for its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Admission {
    /// The model is in memory.
    Run,
    /// It is not, or has to leave.
    Wait,
}

/// All models and the memory they share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Residency {
    pub(crate) config: MemoryConfig,
    /// By [`ModelId`]: targets, then the drafters that they share.
    pub models: Vec<ModelState>,
    pub(crate) num_targets: usize,
    /// The process holds nearly all it may: drafters stay away.
    pub(crate) short: bool,
}

impl Residency {
    /// Nothing is in memory. The configuration itself waits for each model to be preloaded.
    pub fn new(config: MemoryConfig, policies: impl IntoIterator<Item = ModelPolicy>) -> Self {
        let models: Vec<_> = policies.into_iter().map(ModelState::new).collect();
        Self { config, num_targets: models.len(), models, short: false }
    }

    /// A model's state.
    pub fn get(&self, id: ModelId) -> Option<&ModelState> {
        self.models.get(id.0 as usize)
    }

    /// How memory is shared.
    pub fn config(&self) -> &MemoryConfig {
        &self.config
    }

    /// Bytes reserved or in use by all models.
    pub fn held(&self) -> u64 {
        self.models.iter().map(|it| it.held).sum()
    }

    /// A request comes; it must leave once, unless a failed load ends all who wait.
    ///
    /// # Errors
    /// See [`Refusal`]; nothing is kept of a refused request.
    pub fn arrive(
        &mut self,
        id: ModelId,
        keep_alive: Option<KeepAlive>,
        now_ns: u64,
    ) -> Result<Admission, Refusal> {
        let at = self.want(id, now_ns)?;
        let model = &mut self.models[at];
        model.used_ns = now_ns;
        model.keep_alive = keep_alive.unwrap_or(model.keep_alive);
        if model.phase == Phase::Resident {
            model.running += 1;
            return Ok(Admission::Run);
        }
        model.waiting += 1;
        Ok(Admission::Wait)
    }

    /// Put the model in line unless it is there, further, or must not be.
    fn want(&mut self, id: ModelId, now_ns: u64) -> Result<usize, Refusal> {
        let at = id.0 as usize;
        let model = self.targets().get(at).ok_or(Refusal::UnknownModel(id))?;
        if matches!(model.phase, Phase::Absent | Phase::Failed) {
            self.check_room(at, now_ns)?;
            self.models[at].phase = Phase::Reserving;
            self.models[at].since_ns = now_ns;
        }
        Ok(at)
    }

    fn check_room(&self, at: usize, now_ns: u64) -> Result<(), Refusal> {
        let (model, budget) = (&self.models[at], self.config.budget);
        if model.phase == Phase::Failed && now_ns < model.retry_ns {
            return Err(Refusal::BackingOff { seconds: (model.retry_ns - now_ns).div_ceil(NS) });
        }
        if !self.can_ever_fit(at) {
            return Err(Refusal::NeverFits { need: model.need, budget });
        }
        let free = budget - self.held() + self.held_by_drafters();
        if self.config.when_full == WhenFull::Fail && model.need > free {
            return Err(Refusal::NoRoom { need: model.need, free });
        }
        Ok(())
    }

    /// Beside every pinned model, loaded or not: what is pinned never makes room.
    fn can_ever_fit(&self, at: usize) -> bool {
        let others = self.models.iter().enumerate().filter(|(other, _)| *other != at);
        let pinned: u64 = others.map(|(_, it)| if it.policy.pinned { it.need } else { 0 }).sum();
        pinned.saturating_add(self.models[at].need) <= self.config.budget
    }

    /// A request that runs ends, or one that waits gives up.
    pub fn leave(&mut self, id: ModelId, from: Admission, now_ns: u64) {
        let Some(model) = self.models.get_mut(id.0 as usize) else {
            return;
        };
        match from {
            Admission::Run => {
                model.running = model.running.saturating_sub(1);
                model.used_ns = now_ns;
            }
            Admission::Wait => {
                model.waiting = model.waiting.saturating_sub(1);
                if model.phase == Phase::Reserving && model.waiting == 0 {
                    model.settle();
                }
            }
        }
    }

    /// Let the model go once no request runs in it; later ones load it again.
    pub fn unload(&mut self, id: ModelId) {
        let Some(model) = self.models.get_mut(id.0 as usize) else {
            return;
        };
        let pinned = model.policy.pinned;
        model.unload = !pinned && (model.in_memory() || model.phase == Phase::Loading);
        if model.unload && model.in_memory() {
            model.phase = Phase::Draining;
        }
    }

    /// The least recently used model that runs nothing and may leave, if others are at work.
    pub(crate) fn idle_beside_others(&self) -> Option<ModelId> {
        let busy = |it: &ModelState| it.running + it.waiting > 0;
        let idle = |it: &ModelState| it.phase == Phase::Resident && !it.policy.pinned && !busy(it);
        let oldest = (0..).zip(self.targets()).filter(|(_, it)| idle(it));
        let oldest = oldest.min_by_key(|(_, it)| it.used_ns);
        oldest.filter(|_| self.models.iter().any(busy)).map(|(at, _)| ModelId(at))
    }

    /// The next thing to do, if any. Call again after each order and event, and as time passes.
    pub fn next(&mut self, now_ns: u64) -> Option<Order> {
        let order = self.cancel().or_else(|| self.expire(now_ns));
        order.or_else(|| self.reserve(now_ns)).or_else(|| self.tend_drafters(now_ns))
    }

    fn cancel(&mut self) -> Option<Order> {
        let unwanted =
            |it: &ModelState| it.phase == Phase::Loading && it.waiting == 0 && !it.cancelled;
        let at = self.targets().iter().position(unwanted)?;
        Some(self.cancel_load(at))
    }

    pub(crate) fn cancel_load(&mut self, at: usize) -> Order {
        self.models[at].cancelled = true;
        Order::CancelLoad(ModelId(at as u32))
    }

    fn expire(&mut self, now_ns: u64) -> Option<Order> {
        let due = |it: &ModelState| {
            let expired = it.expires_ns().is_some_and(|at| at <= now_ns) && it.waiting == 0;
            it.in_memory() && it.running == 0 && (it.unload || expired)
        };
        let at = self.models.iter().position(due)?;
        Some(self.evict(at))
    }

    pub(crate) fn evict(&mut self, at: usize) -> Order {
        self.models[at].phase = Phase::Evicting;
        Order::Evict(ModelId(at as u32))
    }

    /// Begin the load of whoever may have memory now, or make room for the oldest in line.
    fn reserve(&mut self, now_ns: u64) -> Option<Order> {
        let mut line: Vec<usize> = (0..self.num_targets).collect();
        // Who came to be too large while it waited must not stand in the way of others.
        let waits = |at: usize| self.models[at].phase == Phase::Reserving && self.can_ever_fit(at);
        line.retain(|&at| waits(at));
        line.sort_by_key(|&at| self.models[at].since_ns);
        let head = line.first().copied();
        let patience = self.config.patience_ns;
        let aged = head.is_some_and(|at| self.models[at].since_ns + patience <= now_ns);
        let free = self.config.budget - self.held();
        // Nobody overtakes an aged head: what becomes free is gathered for it.
        line.truncate(if aged { 1 } else { line.len() });
        if let Some(&at) = line.iter().find(|&&at| self.models[at].need <= free) {
            return Some(self.load(at));
        }
        let leaving = |it: &&ModelState| it.phase == Phase::Evicting || it.cancelled;
        let leaving = self.models.iter().filter(leaving);
        let coming = free + leaving.map(|it| it.held).sum::<u64>();
        let missing = head.map_or(0, |at| self.models[at].need.saturating_sub(coming));
        self.make_room(missing, aged, now_ns)
    }

    pub(crate) fn load(&mut self, at: usize) -> Order {
        let model = &mut self.models[at];
        (model.phase, model.held) = (Phase::Loading, model.need);
        Order::Load(ModelId(at as u32))
    }

    /// Let a drafter go, else an idle model, if all of these hold enough; if not, and `aged`, let busy
    /// models drain.
    fn make_room(&mut self, missing: u64, aged: bool, now_ns: u64) -> Option<Order> {
        let evicts = missing > 0 && self.config.when_full == WhenFull::Evict;
        let mut victims: Vec<usize> = (0..self.num_targets).collect();
        victims.retain(|&at| evicts && self.is_victim(at, now_ns));
        victims.sort_by_key(|&at| (self.models[at].running > 0, self.last_use(at)));
        let held = |at: &usize| self.models[*at].held;
        let idle = victims.iter().filter(|&&at| self.models[at].running == 0);
        let mut gathered = self.droppable_drafts();
        if missing > 0 && gathered + idle.map(held).sum::<u64>() >= missing {
            return self.drop_drafter().or_else(|| Some(self.evict(victims[0])));
        }
        victims.retain(|at| {
            let needed = gathered < missing;
            gathered += held(at);
            needed
        });
        self.drain(if aged && gathered >= missing { &victims } else { &[] });
        None
    }

    fn is_victim(&self, at: usize, now_ns: u64) -> bool {
        let model = &self.models[at];
        let settled = model.since_ns + self.config.min_resident_ns <= now_ns;
        model.in_memory() && !model.policy.pinned && settled
    }

    /// Idle models go by their last use, busy ones by their arrival: each gets its turn.
    fn last_use(&self, at: usize) -> u64 {
        let model = &self.models[at];
        if model.running > 0 { model.since_ns } else { model.used_ns }
    }

    /// Exactly these drain, and those that were told to unload; the others take requests.
    fn drain(&mut self, chosen: &[usize]) {
        for (at, model) in self.models.iter_mut().enumerate().filter(|(_, it)| it.in_memory()) {
            if chosen.contains(&at) {
                model.phase = Phase::Draining;
            } else if !model.unload && model.phase == Phase::Draining {
                model.admit();
            }
        }
    }

    /// A load is done; the model holds `bytes` now, which is no more than was reserved.
    pub fn loaded(&mut self, id: ModelId, bytes: u64, now_ns: u64) {
        if let Some(model) = self.loading(id) {
            model.held = bytes.min(model.held);
            model.need = model.held;
            (model.since_ns, model.used_ns) = (now_ns, now_ns);
            (model.failures, model.cancelled) = (0, false);
            model.admit();
        }
    }

    /// A load found, before it took memory, that it needs more than was reserved.
    pub fn resized(&mut self, id: ModelId, bytes: u64, now_ns: u64) {
        let Some(model) = self.loading(id) else {
            return;
        };
        model.need = bytes;
        model.settle();
        if model.waiting > 0 && !self.can_ever_fit(id.0 as usize) {
            self.models[id.0 as usize].back_off(now_ns);
        }
    }

    /// A load failed and its memory is free again; whoever waited is told so by the caller.
    pub fn load_failed(&mut self, id: ModelId, now_ns: u64) {
        if let Some(model) = self.loading(id) {
            model.back_off(now_ns);
        }
    }

    /// A load was broken off and its memory is free again.
    pub fn load_cancelled(&mut self, id: ModelId) {
        if let Some(model) = self.loading(id) {
            model.settle();
        }
    }

    fn loading(&mut self, id: ModelId) -> Option<&mut ModelState> {
        self.models.get_mut(id.0 as usize).filter(|it| it.phase == Phase::Loading)
    }

    /// The model's memory is free again.
    pub fn evicted(&mut self, id: ModelId, now_ns: u64) {
        let model = self.models.get_mut(id.0 as usize).filter(|it| it.phase == Phase::Evicting);
        if let Some(model) = model {
            model.since_ns = now_ns;
            model.settle();
        }
    }

    /// The budget is kept, and every model's counts fit its phase.
    ///
    /// # Errors
    /// Names the first violation.
    pub fn check_integrity(&self) -> Result<(), IntegrityError> {
        let (held, budget) = (self.held(), self.config.budget);
        ensure!(held <= budget, "models hold {held} of {budget} bytes");
        for (at, model) in self.models.iter().enumerate() {
            let phase = model.phase;
            let holds = model.in_memory() || matches!(phase, Phase::Loading | Phase::Evicting);
            ensure!(holds || model.held == 0, "model {at} is {phase:?} and holds memory");
            ensure!(model.in_memory() || model.running == 0, "model {at} runs, being {phase:?}");
            let nobody = matches!(phase, Phase::Absent | Phase::Failed | Phase::Resident);
            ensure!(!nobody || model.waiting == 0, "some wait for model {at}, which is {phase:?}");
            let leaves = matches!(phase, Phase::Draining | Phase::Evicting);
            ensure!(!leaves || !model.policy.pinned, "model {at} is pinned and leaves");
            let asked_for = model.running + model.waiting > 0 || phase == Phase::Reserving;
            ensure!(at < self.num_targets || !asked_for, "drafter {at} is asked for by itself");
        }
        Ok(())
    }
}
