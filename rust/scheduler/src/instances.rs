//! The instances of one model: each has a queue, rows and a prefix cache of its own, and all run on the
//! same weights, one step at a time.

use crate::config::{Balance, ModelShape, SchedulerConfig};
use crate::ids::ModelId;
use crate::model::Model;
use crate::request::Request;

/// All instances of a model in memory; none of one that is not.
#[derive(Debug, Default)]
pub(crate) struct Instances {
    all: Vec<Model>,
    /// Whose turn it is to step.
    step_turn: usize,
    /// Whose turn it is to take a request.
    request_turn: usize,
}

impl Instances {
    /// The model is in memory, its KV memory shared by its instances as `shape` says.
    pub(crate) fn loaded(id: ModelId, config: &SchedulerConfig, shape: &ModelShape) -> Self {
        let count = config.share(id).instances.max(1);
        let instance = |at| Model::new(id, config, shape.clone()).instance(at, count);
        Self { all: (0..count).map(instance).collect(), ..Self::default() }
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Model> {
        self.all.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> std::slice::IterMut<'_, Model> {
        self.all.iter_mut()
    }

    pub(crate) fn get(&self, instance: u32) -> Option<&Model> {
        self.all.get(instance as usize)
    }

    pub(crate) fn get_mut(&mut self, instance: u32) -> Option<&mut Model> {
        self.all.get_mut(instance as usize)
    }

    /// Requests that wait or run in any of them.
    pub(crate) fn num_requests(&self) -> usize {
        self.all.iter().map(Model::num_requests).sum()
    }

    /// Those with work, in the order in which they step.
    pub(crate) fn in_turn(&mut self) -> Vec<u32> {
        let count = self.all.len();
        let order = (0..count).map(|offset| (self.step_turn + offset) % count);
        let order = order.filter(|&at| self.all[at].has_work());
        order.map(|at| at as u32).collect()
    }

    /// This one steps now; the one behind it is next.
    pub(crate) fn stepped(&mut self, instance: u32) {
        self.step_turn = (instance as usize + 1) % self.all.len().max(1);
    }

    /// Who takes in the request; `None` if the model is not in memory.
    ///
    /// By prefix: who has the longest beginning of its prompt in cache, if that is most of it and a row
    /// is to be had there. Else who has the fewest requests, in turn where several have.
    pub(crate) fn choose(
        &mut self,
        request: &Request,
        balance: Balance,
        max_running: usize,
    ) -> Option<&mut Model> {
        let count = self.all.len();
        let turns = (0..count).map(|offset| (self.request_turn + offset) % count);
        let chosen = match balance {
            Balance::RoundRobin => turns.clone().next(),
            Balance::LeastLoaded => None,
            Balance::Prefix => self.with_prefix(request, max_running),
        };
        let chosen = chosen.or_else(|| turns.min_by_key(|&at| self.all[at].num_requests()))?;
        self.request_turn = (chosen + 1) % count;
        self.all.get_mut(chosen)
    }

    fn with_prefix(&self, request: &Request, max_running: usize) -> Option<usize> {
        let most_of_it = request.len() / 2;
        let hits = self.all.iter().enumerate().map(|(at, it)| (it.kv().num_known(request), at));
        let has_room = |at: usize| self.all[at].num_requests() < max_running;
        let hits = hits.filter(|&(hit, at)| hit > most_of_it && has_room(at));
        hits.max_by_key(|&(hit, at)| (hit, std::cmp::Reverse(at))).map(|(_, at)| at)
    }
}
