//! Where models stand, written by the engine thread, readable from any.

use crate::ids::ModelId;
use crate::residency::{Phase, Residency};
use crate::sync::{Mutex, lock};

/// What others may know of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelStatus {
    /// Where it stands.
    pub phase: Phase,
    /// Bytes reserved or in use.
    pub held: u64,
    /// Bytes it needs, estimated or measured.
    pub need: u64,
    /// Requests that run in it, or models in memory that it drafts for.
    pub running: u32,
    /// Requests that wait for it.
    pub waiting: u32,
    /// When it leaves by itself, if it is idle and ever does.
    pub expires_ns: Option<u64>,
}

/// The last known status of each model.
#[derive(Debug)]
pub struct Board(Mutex<Vec<ModelStatus>>);

impl Board {
    /// Shows this state.
    pub fn new(residency: &Residency) -> Self {
        Self(Mutex::new(statuses(residency).collect()))
    }

    /// Show this state; true if a model has moved on since the last one, false if merely requests
    /// came and went.
    pub fn publish(&self, residency: &Residency) -> bool {
        let mut moved = false;
        for (old, new) in lock(&self.0).iter_mut().zip(statuses(residency)) {
            moved |= (old.phase, old.held) != (new.phase, new.held);
            *old = new;
        }
        moved
    }

    /// All statuses, by model.
    pub fn read(&self) -> Vec<ModelStatus> {
        lock(&self.0).clone()
    }
}

fn statuses(residency: &Residency) -> impl Iterator<Item = ModelStatus> {
    (0..).map(ModelId).zip(&residency.models).map(|(id, model)| ModelStatus {
        phase: model.phase,
        held: model.held,
        need: model.need,
        running: model.running + residency.num_served(id),
        waiting: model.waiting,
        expires_ns: model.expires_ns(),
    })
}
