//! Draft models in memory: shared by their targets, last to come and first to go.
//!
//! A drafter is never asked for. It is loaded when a target that it drafts for is in memory, nobody is
//! in line, and there is room; it leaves when memory is needed, before any target, or when no target
//! is left that it drafts for. No request waits for it: without it drafts come from text.

use crate::config::ModelPolicy;
use crate::ids::ModelId;
use crate::model_state::{ModelState, Phase};
use crate::residency::{Order, Residency};

/// A drafter that left because the process held nearly all it may stays away for this long.
const SHORTAGE_PAUSE_NS: u64 = 60_000_000_000;

impl Residency {
    /// The same with drafters that need so many bytes each; their ids follow those of the targets.
    #[must_use]
    pub fn with_drafters(mut self, needs: impl IntoIterator<Item = u64>) -> Self {
        let policy = |need| ModelPolicy { need, ..ModelPolicy::default() };
        self.models.extend(needs.into_iter().map(|need| ModelState::new(policy(need))));
        self
    }

    /// The models that requests can ask for.
    pub fn targets(&self) -> &[ModelState] {
        &self.models[..self.num_targets]
    }

    fn drafters(&self) -> &[ModelState] {
        &self.models[self.num_targets..]
    }

    /// Who drafts for this model, in memory or not.
    pub fn drafter_of(&self, target: ModelId) -> Option<ModelId> {
        self.targets().get(target.0 as usize)?.policy.drafter
    }

    /// The models that this one drafts for.
    pub fn drafted_by(&self, drafter: ModelId) -> impl Iterator<Item = ModelId> {
        let models = (0..).map(ModelId).zip(self.targets());
        models.filter(move |(_, it)| it.policy.drafter == Some(drafter)).map(|(id, _)| id)
    }

    /// How many models in memory this one drafts for.
    pub fn num_served(&self, drafter: ModelId) -> u32 {
        let there = |it: &ModelId| self.models[it.0 as usize].in_memory();
        self.drafted_by(drafter).filter(there).count() as u32
    }

    /// This model does without a drafter from now on.
    pub fn give_up_drafter(&mut self, target: ModelId) {
        if let Some(model) = self.models.get_mut(target.0 as usize) {
            model.policy.drafter = None;
        }
    }

    /// The process holds nearly all it may, or no more: no drafter comes meanwhile.
    pub fn short_of_memory(&mut self, short: bool) {
        self.short = short;
    }

    /// What could be let go to have more memory: a drafter, else an idle model beside others.
    pub fn spare(&self) -> Option<ModelId> {
        let there = |it: &ModelState| it.phase == Phase::Resident && !it.unload;
        let drafter = self.drafters().iter().position(there);
        let drafter = drafter.map(|at| ModelId((self.num_targets + at) as u32));
        drafter.or_else(|| self.idle_beside_others())
    }

    /// Let that go. A drafter does not come back at once.
    pub fn let_go_spare(&mut self, now_ns: u64) {
        if let Some(id) = self.spare() {
            self.unload(id);
            self.models[id.0 as usize].retry_ns = now_ns + SHORTAGE_PAUSE_NS;
        }
    }

    /// Bytes that are free as soon as they are needed.
    pub(crate) fn held_by_drafters(&self) -> u64 {
        self.drafters().iter().map(|it| it.held).sum()
    }

    /// Bytes of drafters that are not on their way out yet.
    pub(crate) fn droppable_drafts(&self) -> u64 {
        self.drafters().iter().filter(|it| droppable(it)).map(|it| it.held).sum()
    }

    /// Let the drafter of the fewest models go.
    pub(crate) fn drop_drafter(&mut self) -> Option<Order> {
        let drafters = self.num_targets..self.models.len();
        let droppable = drafters.filter(|&at| droppable(&self.models[at]));
        let at = droppable.min_by_key(|&at| self.num_served(ModelId(at as u32)))?;
        Some(self.let_go(at))
    }

    fn let_go(&mut self, at: usize) -> Order {
        let loads = self.models[at].phase == Phase::Loading;
        if loads { self.cancel_load(at) } else { self.evict(at) }
    }

    /// Let go who drafts for nobody; bring in who could, where no target waits for memory.
    pub(crate) fn tend_drafters(&mut self, now_ns: u64) -> Option<Order> {
        let mut drafters = self.num_targets..self.models.len();
        let served = |at: usize| self.num_served(ModelId(at as u32)) > 0;
        if let Some(at) = drafters.clone().find(|&at| droppable(&self.models[at]) && !served(at)) {
            return Some(self.let_go(at));
        }
        let comes = |it: &ModelState| matches!(it.phase, Phase::Reserving | Phase::Loading);
        if self.short || self.targets().iter().any(comes) {
            return None;
        }
        let free = self.config().budget - self.held();
        let may = |it: &ModelState| {
            let away = matches!(it.phase, Phase::Absent | Phase::Failed);
            away && it.retry_ns <= now_ns && it.need <= free
        };
        let at = drafters.find(|&at| may(&self.models[at]) && served(at))?;
        Some(self.load(at))
    }
}

fn droppable(drafter: &ModelState) -> bool {
    matches!(drafter.phase, Phase::Resident | Phase::Loading) && !drafter.cancelled
}
