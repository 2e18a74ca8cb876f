//! The runner as Python has it.

use std::path::Path;

use pyo3::buffer::PyBuffer;
use pyo3::call::PyCallArgs;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::action::{LoadEnd, StepOutcome, StepPlan};
use crate::engine::Runner;
use crate::ids::{ModelId, Row};
use crate::segment::{SegmentRead, SegmentSave};

/// Calls the methods of any Python object.
pub(super) struct PyRunner {
    pub(super) runner: Py<PyAny>,
}

impl PyRunner {
    fn call(&self, name: &str, args: impl for<'py> PyCallArgs<'py>) -> Result<(), String> {
        let called = Python::attach(|py| self.runner.call_method1(py, name, args).map(drop));
        called.map_err(|error| error.to_string())
    }
}

impl Runner for PyRunner {
    fn load(&mut self, model: ModelId, num_bytes: u64) -> Option<LoadEnd> {
        self.call("load", (model.0, num_bytes)).err().map(LoadEnd::Failed)
    }

    fn cancel_load(&mut self, model: ModelId) {
        // A load that cannot be broken off ends all the same.
        let _ = self.call("cancel_load", (model.0,));
    }

    fn evict(&mut self, model: ModelId) {
        // The runner has logged what went wrong; what it holds is beyond our reach.
        let _ = self.call("evict", (model.0,));
    }

    fn step(&mut self, plan: &StepPlan) -> Result<StepOutcome, String> {
        let words = plan.pack();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        Python::attach(|py| {
            let packed = PyBytes::new(py, &bytes);
            let answer = self.runner.bind(py).call_method1("step", (packed,))?;
            Ok(StepOutcome::unpack(plan, &PyBuffer::<u32>::get(&answer)?.to_vec(py)?))
        })
        .map_err(|error: PyErr| error.to_string())
    }

    fn save_kv(&mut self, save: &SegmentSave, file: &Path) -> Result<u64, String> {
        let Row { slab, slot } = save.row;
        let args = (save.model.0, slab.0, slot, save.start, file);
        Python::attach(|py| self.runner.call_method1(py, "save_kv", args)?.extract(py))
            .map_err(|error: PyErr| error.to_string())
    }

    fn read_kv(&mut self, read: &SegmentRead, file: &Path) -> bool {
        let Row { slab, slot } = read.row;
        let args = (read.model.0, slab.0, slot, read.start, read.known, file);
        // The runner has logged what went wrong; the prompt is then computed.
        Python::attach(|py| self.runner.call_method1(py, "read_kv", args)?.extract(py))
            .unwrap_or(false)
    }

    fn memory_share(&mut self) -> Option<f64> {
        Python::attach(|py| self.runner.call_method0(py, "memory_share")?.extract(py)).ok()
    }

    fn trim(&mut self) {
        // What it could not give back shows in the next measurement.
        let _ = self.call("trim", ());
    }
}
