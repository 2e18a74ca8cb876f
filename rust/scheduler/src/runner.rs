//! What carries the engine's decisions out.

use std::path::Path;

use crate::action::{LoadEnd, StepOutcome, StepPlan};
use crate::ids::ModelId;
use crate::segment::{SegmentRead, SegmentSave};

/// What runs models: MLX behind Python in production, a simulation in tests.
pub trait Runner {
    /// Begin to bring a model into memory, of which `num_bytes` are reserved for it. `None` if it
    /// goes on elsewhere, so that other models run meanwhile: [`crate::engine::Engine::load_ended`] ends it.
    fn load(&mut self, model: ModelId, num_bytes: u64) -> Option<LoadEnd>;

    /// Nobody waits for this load any more: break it off if that is still possible.
    fn cancel_load(&mut self, model: ModelId);

    /// Free a model's memory, all its KV slabs included.
    fn evict(&mut self, model: ModelId);

    /// Run one step.
    ///
    /// # Errors
    /// What went wrong; the scheduler then trusts none of the slabs that the step touched or should
    /// have made. It drops them, so slabs may be dropped that were never made. What the step should
    /// have dropped must be dropped all the same.
    fn step(&mut self, plan: &StepPlan) -> Result<StepOutcome, String>;

    /// Write a segment's KV to this file, all of it or nothing; returns the file's bytes.
    ///
    /// # Errors
    /// Why the disk does not take it.
    fn save_kv(&mut self, save: &SegmentSave, file: &Path) -> Result<u64, String>;

    /// Read a segment's KV from this file into its row. False if it is not there, not whole, or not
    /// what it should be.
    fn read_kv(&mut self, read: &SegmentRead, file: &Path) -> bool;

    /// What this process holds of what it may hold, from 0 to 1 and above; `None` if unknown.
    fn memory_share(&mut self) -> Option<f64> {
        None
    }

    /// Give freed memory back that is kept for later.
    fn trim(&mut self) {}
}
