//! All models and their requests, as plain state: submit, abort, next action, commit.
//!
//! Time is passed in and nothing here waits or locks, so every schedule can be replayed in a test.

use crate::action::{Action, StepOutcome, StepPlan};
use crate::config::{ModelShape, SchedulerConfig};
use crate::error::{IntegrityError, SubmitError};
use crate::ids::{ModelId, RequestId};
use crate::model::{Event, Model};
use crate::request::{Finish, Request};
use crate::residency::Residency;

/// A model of the configuration, in memory or not, and the requests that wait for it to be.
#[derive(Debug, Default)]
struct Entry {
    residency: Residency,
    model: Option<Model>,
    /// Requests that arrived before the model did.
    early: Vec<Request>,
}

/// The engine's whole state.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    entries: Vec<Entry>,
    /// Whose turn it is: models with work take steps in turn.
    turn: usize,
}

impl Scheduler {
    /// No model is in memory, all are wanted.
    pub fn new(config: SchedulerConfig, num_models: usize) -> Self {
        let mut entries: Vec<Entry> = (0..num_models).map(|_| Entry::default()).collect();
        for entry in &mut entries {
            entry.residency.want();
        }
        Self { config, entries, turn: 0 }
    }

    /// Where the model stands; absent if there is none with this id.
    pub fn residency(&self, model: ModelId) -> Residency {
        self.entries.get(model.0 as usize).map_or(Residency::Absent, |it| it.residency.clone())
    }

    /// The models in memory.
    pub fn resident(&self) -> impl Iterator<Item = &Model> {
        self.entries.iter().filter_map(|entry| entry.model.as_ref())
    }

    /// Queue a request. One for a model that could not be loaded ends at once.
    pub fn submit(&mut self, request: Request, events: &mut Vec<Event>) {
        let Some(entry) = self.entries.get_mut(request.model.0 as usize) else {
            events.push(failed(&request, &SubmitError::UnknownModel(request.model).to_string()));
            return;
        };
        if let Some(model) = &mut entry.model {
            model.push(request);
        } else if let Residency::Failed(message) = &entry.residency {
            events.push(failed(&request, message));
        } else {
            entry.residency.want();
            entry.early.push(request);
        }
    }

    /// End a request early. False if it is unknown, which is no error: it may have just ended.
    pub fn abort(&mut self, id: RequestId, events: &mut Vec<Event>) -> bool {
        self.entries.iter_mut().any(|entry| {
            if let Some(at) = entry.early.iter().position(|request| request.id() == id) {
                let request = entry.early.remove(at);
                let end = Some((Finish::Aborted, request.stats));
                events.push(Event {
                    request: request.id,
                    tokens: Vec::new(),
                    logprobs: Vec::new(),
                    end,
                });
                return true;
            }
            entry.model.as_mut().is_some_and(|model| model.abort(id, events))
        })
    }

    /// End a request that has waited too long. One that has run goes on, even if preempted.
    pub fn expire(&mut self, id: RequestId, events: &mut Vec<Event>) {
        for entry in &mut self.entries {
            if let Some(at) = entry.early.iter().position(|request| request.id() == id) {
                let request = entry.early.remove(at);
                let end = Some((Finish::Expired, request.stats));
                events.push(Event {
                    request: request.id,
                    tokens: Vec::new(),
                    logprobs: Vec::new(),
                    end,
                });
            }
            if let Some(model) = &mut entry.model {
                model.expire(id, events);
            }
        }
    }

    /// End every request, for the same reason.
    pub fn end_all(&mut self, finish: &Finish, events: &mut Vec<Event>) {
        for entry in &mut self.entries {
            for request in std::mem::take(&mut entry.early) {
                let end = Some((finish.clone(), request.stats));
                events.push(Event {
                    request: request.id,
                    tokens: Vec::new(),
                    logprobs: Vec::new(),
                    end,
                });
            }
            if let Some(model) = &mut entry.model {
                model.end_all(finish, events);
            }
        }
    }

    /// Requests of all models without a row, and with one.
    pub fn num_requests(&self) -> (usize, usize) {
        let early: usize = self.entries.iter().map(|entry| entry.early.len()).sum();
        let waiting: usize = self.resident().map(Model::num_waiting).sum();
        (early + waiting, self.resident().map(Model::num_running).sum())
    }

    /// Whether any request waits or runs.
    pub fn is_idle(&self) -> bool {
        self.num_requests() == (0, 0)
    }

    /// Decide what to do next. A returned step must be committed or failed before the next call.
    pub fn next_action(&mut self, now_ns: u64) -> Action {
        let due = self.entries.iter_mut().position(|entry| entry.residency.start_load());
        if let Some(index) = due {
            return Action::Load(ModelId(index as u32));
        }
        for _ in 0..self.entries.len() {
            let index = self.turn % self.entries.len();
            self.turn = index + 1;
            let model = self.entries[index].model.as_mut().filter(|model| model.has_work());
            if let Some(plan) = model.and_then(|model| model.plan(&self.config, now_ns)) {
                return Action::Step(Box::new(plan));
            }
        }
        Action::Idle
    }

    /// A load ended: the model takes in those who waited for it, or fails them.
    pub fn loaded(
        &mut self,
        id: ModelId,
        result: Result<ModelShape, String>,
        events: &mut Vec<Event>,
    ) {
        let Some(entry) = self.entries.get_mut(id.0 as usize) else {
            return;
        };
        let early = std::mem::take(&mut entry.early);
        match result {
            Ok(shape) => {
                let mut model = Model::new(id, &self.config, shape);
                for request in early {
                    model.push(request);
                }
                entry.model = Some(model);
                entry.residency = Residency::Resident;
            }
            Err(message) => {
                events.extend(early.iter().map(|request| failed(request, &message)));
                entry.residency = Residency::Failed(message);
            }
        }
    }

    /// Take in what a step brought; `ms` is how long it took.
    pub fn commit(
        &mut self,
        plan: &StepPlan,
        outcome: &StepOutcome,
        ms: f32,
        events: &mut Vec<Event>,
    ) {
        if let Some(model) = self.model_mut(plan.model) {
            model.commit(plan, outcome, ms, events);
        }
    }

    /// A step failed: its requests end, all others go on.
    pub fn fail(&mut self, plan: &StepPlan, message: &str, events: &mut Vec<Event>) {
        if let Some(model) = self.model_mut(plan.model) {
            model.fail(plan, message, events);
        }
    }

    /// A model in memory, to change.
    pub fn model_mut(&mut self, id: ModelId) -> Option<&mut Model> {
        self.entries.get_mut(id.0 as usize)?.model.as_mut()
    }

    /// Every model's requests, rows and blocks add up.
    ///
    /// # Errors
    /// Names the first violation.
    pub fn check_integrity(&self) -> Result<(), IntegrityError> {
        self.resident().try_for_each(Model::check_integrity)
    }
}

fn failed(request: &Request, message: &str) -> Event {
    let end = Some((Finish::Failed(message.to_owned()), request.stats.clone()));
    Event { request: request.id(), tokens: Vec::new(), logprobs: Vec::new(), end }
}
