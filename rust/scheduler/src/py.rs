//! The Python face: convert, detach, map errors, call the runner. Nothing is decided here.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::create_exception;
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::action::LoadEnd;
use crate::board::ModelStatus;
use crate::config::{
    Balance, DraftModelShape, KeepAlive, Limit, MemoryConfig, ModelPolicy, ModelShape, ModelShare,
    SchedulerConfig, WhenFull,
};
use crate::draft::Drafter;
use crate::engine::Engine;
use crate::error::{Refusal, SubmitError};
use crate::ids::{ModelId, RequestId};
use crate::memory_guard::Watermarks;
use crate::model::Event;
use crate::request::{Finish, RequestStats, Submission};
use crate::residency::{Phase, Residency};
use crate::sampling::{Penalties, Sampling, Xtc};
use crate::speculation_stats::{DraftStats, SpeculationStats};
use crate::step_cost::StepCost;
use crate::sync::{AtomicU64, Ordering};

mod runner;
use runner::PyRunner;

create_exception!(_scheduler, QueueFullError, PyRuntimeError, "The submission queue is full.");
create_exception!(
    _scheduler,
    ClosedError,
    PyRuntimeError,
    "The scheduler is draining or has stopped."
);
create_exception!(_scheduler, MemoryShortError, PyRuntimeError, "The server holds all it may.");
create_exception!(
    _scheduler,
    PromptTooLongError,
    PyValueError,
    "The prompt leaves no room for a token."
);
create_exception!(
    _scheduler,
    PredictionTooLongError,
    PyValueError,
    "The prediction is longer than the context."
);
create_exception!(_scheduler, RequestTooLargeError, PyValueError, "The request could never run.");

impl From<SubmitError> for PyErr {
    fn from(error: SubmitError) -> Self {
        let text = error.to_string();
        match error {
            SubmitError::QueueFull { .. } => QueueFullError::new_err(text),
            SubmitError::Closed => ClosedError::new_err(text),
            SubmitError::ContextLength { .. } => PromptTooLongError::new_err(text),
            SubmitError::PredictionLength { .. } => PredictionTooLongError::new_err(text),
            SubmitError::TooLarge { .. } => RequestTooLargeError::new_err(text),
            SubmitError::Unavailable(Refusal::MemoryShort) => MemoryShortError::new_err(text),
            SubmitError::UnknownModel(_)
            | SubmitError::EmptyPrompt
            | SubmitError::Unavailable(_) => PyValueError::new_err(text),
        }
    }
}

/// What the user chose for a model: any object with these attributes.
#[derive(FromPyObject)]
struct PyModelPolicy {
    need: u64,
    pinned: bool,
    /// Seconds; none or a negative number keeps it until its memory is needed.
    keep_alive: Option<f64>,
    preload: bool,
    /// Index of its drafter among `drafters`.
    drafter: Option<usize>,
    weight: f32,
    instances: u32,
    balance: String,
}

impl PyModelPolicy {
    fn share(&self) -> PyResult<ModelShare> {
        let balance = match self.balance.as_str() {
            "round-robin" => Balance::RoundRobin,
            "least-loaded" => Balance::LeastLoaded,
            "prefix" => Balance::Prefix,
            other => return Err(PyValueError::new_err(format!("balance is {other:?}"))),
        };
        Ok(ModelShare { weight: self.weight, instances: self.instances, balance })
    }
}

/// Models, and how many of their requests run at once.
type PyLimit = (Vec<u32>, usize);

fn limit((models, max_running): PyLimit) -> Limit {
    Limit { models: models.into_iter().map(ModelId).collect(), max_running }
}

/// How models share memory: any object with these attributes.
#[derive(FromPyObject)]
struct PyMemory {
    when_full: String,
    wait_seconds: f64,
    patience_seconds: f64,
    min_resident_seconds: f64,
    soft_watermark: f64,
    hard_watermark: f64,
}

impl PyMemory {
    fn config(&self, budget: u64) -> PyResult<MemoryConfig> {
        let when_full = match self.when_full.as_str() {
            "evict" => WhenFull::Evict,
            "wait" => WhenFull::Wait,
            "fail" => WhenFull::Fail,
            other => return Err(PyValueError::new_err(format!("when_full is {other:?}"))),
        };
        Ok(MemoryConfig {
            budget,
            when_full,
            wait_ns: nanoseconds(self.wait_seconds),
            patience_ns: nanoseconds(self.patience_seconds),
            min_resident_ns: nanoseconds(self.min_resident_seconds),
        })
    }
}

/// Saturates: negative is 0, too much is the longest time.
#[expect(clippy::cast_sign_loss, reason = "it saturates")]
fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

fn keep_alive(seconds: f64) -> KeepAlive {
    if seconds < 0.0 { KeepAlive::Forever } else { KeepAlive::For(nanoseconds(seconds)) }
}

/// The engine, as Python holds it. All methods may be called from any thread.
#[pyclass(frozen, module = "mlxspec._scheduler")]
struct Scheduler {
    engine: Arc<Engine>,
}

#[pymethods]
impl Scheduler {
    #[new]
    #[pyo3(signature = (*, models, drafters, limits, memory_bytes, memory, max_waiting, max_running, speculation, max_draft, adaptive, shared_suffix_bytes, suffix_dir, inter_token_ms, prefix_cache, kv_dir, kv_dir_bytes))]
    #[expect(clippy::too_many_arguments, reason = "keyword-only in Python")]
    #[expect(clippy::needless_pass_by_value, reason = "PyO3 extracts values")]
    fn new(
        models: Vec<PyModelPolicy>,
        drafters: Vec<u64>,
        limits: Vec<PyLimit>,
        memory_bytes: u64,
        memory: PyMemory,
        max_waiting: usize,
        max_running: usize,
        speculation: bool,
        max_draft: usize,
        adaptive: bool,
        shared_suffix_bytes: usize,
        suffix_dir: Option<PathBuf>,
        inter_token_ms: f32,
        prefix_cache: bool,
        kv_dir: Option<PathBuf>,
        kv_dir_bytes: u64,
    ) -> PyResult<Self> {
        let config = SchedulerConfig {
            max_waiting,
            max_running,
            speculation,
            max_draft,
            adaptive,
            shared_suffix_bytes,
            suffix_dir,
            inter_token_ms,
            prefix_cache,
            kv_dir,
            kv_dir_bytes,
            shares: models.iter().map(PyModelPolicy::share).collect::<PyResult<_>>()?,
            limits: limits.into_iter().map(limit).collect(),
        };
        let policies = models.iter().map(|it| ModelPolicy {
            need: it.need,
            pinned: it.pinned,
            keep_alive: it.keep_alive.map_or(KeepAlive::Forever, keep_alive),
            preload: it.preload,
            drafter: it.drafter.map(|at| ModelId((models.len() + at) as u32)),
        });
        let residency =
            Residency::new(memory.config(memory_bytes)?, policies).with_drafters(drafters);
        let engine = Engine::with_residency(config, residency)
            .map_err(|error| PyOSError::new_err(error.to_string()))?;
        let watermarks = Watermarks { soft: memory.soft_watermark, hard: memory.hard_watermark };
        Ok(Self { engine: Arc::new(engine.guarded(watermarks)) })
    }

    /// Queue a request; returns its id.
    #[pyo3(signature = (*, model, prompt, max_tokens, stop_tokens, sampling, speculate, max_draft, priority, prediction, cache_salt, keep_alive, harvest=0))]
    #[expect(clippy::too_many_arguments, reason = "keyword-only in Python")]
    fn submit(
        &self,
        py: Python<'_>,
        model: u32,
        prompt: Vec<u32>,
        max_tokens: Option<u32>,
        stop_tokens: Vec<u32>,
        sampling: PySampling,
        speculate: bool,
        max_draft: Option<u32>,
        priority: i32,
        prediction: Vec<u32>,
        cache_salt: &str,
        keep_alive: Option<f64>,
        harvest: u32,
    ) -> PyResult<u64> {
        let submission = Submission {
            model: ModelId(model),
            prompt,
            max_tokens,
            stop_tokens: stop_tokens.into(),
            sampling: sampling.into(),
            speculate,
            max_draft: max_draft.unwrap_or(u32::MAX),
            priority,
            prediction,
            cache_salt: cache_salt.into(),
            keep_alive: keep_alive.map(self::keep_alive),
            harvest,
        };
        // Indexing a long prompt takes milliseconds.
        Ok(py.detach(|| self.engine.submit(submission))?.0)
    }

    fn abort(&self, request: u64) {
        self.engine.abort(RequestId(request));
    }

    fn expire(&self, request: u64) {
        self.engine.expire(RequestId(request));
    }

    /// Ask for a model; the returned id ends in one event, and can be aborted.
    #[pyo3(signature = (model, keep_alive))]
    fn load(&self, model: u32, keep_alive: Option<f64>) -> PyResult<u64> {
        Ok(self.engine.load(ModelId(model), keep_alive.map(self::keep_alive))?.0)
    }

    fn unload(&self, model: u32) {
        self.engine.unload(ModelId(model));
    }

    fn loaded(&self, model: u32, facts: &Bound<'_, PyAny>, num_bytes: u64) -> PyResult<()> {
        let shape = shape_of(facts)?;
        self.engine.load_ended(ModelId(model), LoadEnd::Loaded { shape, num_bytes });
        Ok(())
    }

    /// A drafter's load is done; its costs are those of forwards and of rectangles.
    fn drafter_loaded(&self, drafter: u32, costs: PyCosts, num_bytes: u64) {
        let shape = DraftModelShape { step_cost: costs.0, rect_cost: costs.1 };
        let end = LoadEnd::DrafterLoaded { shape, num_bytes };
        self.engine.load_ended(ModelId(drafter), end);
    }

    fn load_resized(&self, model: u32, num_bytes: u64) {
        self.engine.load_ended(ModelId(model), LoadEnd::Resized { num_bytes });
    }

    fn load_failed(&self, model: u32, message: String) {
        self.engine.load_ended(ModelId(model), LoadEnd::Failed(message));
    }

    fn load_cancelled(&self, model: u32) {
        self.engine.load_ended(ModelId(model), LoadEnd::Cancelled);
    }

    /// Where every model stands, then every drafter.
    fn residency(&self) -> Vec<PyStatus> {
        let now_ns = self.engine.now_ns();
        self.engine.board().read().into_iter().map(|it| py_status(it, now_ns)).collect()
    }

    fn abort_all(&self) {
        self.engine.abort_all();
    }

    fn close(&self) {
        self.engine.close();
    }

    #[getter]
    fn wake_fd(&self) -> i32 {
        self.engine.outbox().wake_fd()
    }

    fn check_room(&self) -> PyResult<()> {
        self.engine.check_room().map_err(Into::into)
    }

    #[getter]
    fn num_in_flight(&self) -> u64 {
        self.engine.num_in_flight()
    }

    /// Age of the engine thread's last sign of life, in seconds.
    #[getter]
    fn heartbeat_age(&self) -> f64 {
        let beat = self.engine.stats().heartbeat_ns.load(Ordering::Relaxed);
        self.engine.now_ns().saturating_sub(beat) as f64 * 1e-9
    }

    /// All events since the last call, oldest first.
    fn drain(&self) -> Vec<PyEvent> {
        let mut events = Vec::new();
        // A broken pipe loses no events, and `wake_errors` counts it on the other side.
        let _ = self.engine.outbox().drain(&mut events);
        events.into_iter().map(py_event).collect()
    }

    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.engine.stats();
        let counters = PyDict::new(py);
        for (name, value) in stats.snapshot() {
            counters.set_item(name, value)?;
        }
        let per_pos = |counts: &[AtomicU64]| -> Vec<u64> {
            counts.iter().map(|it| it.load(Ordering::Relaxed)).collect()
        };
        counters.set_item("drafted_per_pos", per_pos(&stats.drafted_per_pos))?;
        counters.set_item("accepted_per_pos", per_pos(&stats.accepted_per_pos))?;
        counters.set_item("drafters", py_drafters(self.engine.speculation()))?;
        Ok(counters)
    }

    /// What speculation did for a model, and what steps of it cost when it was loaded.
    fn speculation<'py>(&self, py: Python<'py>, model: u32) -> PyResult<Bound<'py, PyDict>> {
        let all = self.engine.speculation();
        let stats =
            all.get(model as usize).ok_or_else(|| PyValueError::new_err("no such model"))?;
        let positions: Vec<_> = stats.positions.iter().map(DraftStats::read).collect();
        let lens: Vec<_> = stats.lens.iter().map(|it| it.load(Ordering::Relaxed)).collect();
        let shape = self.engine.shape(ModelId(model));
        let told = PyDict::new(py);
        told.set_item("drafters", py_drafters(std::slice::from_ref(stats)))?;
        told.set_item("positions", positions)?;
        told.set_item("lens", lens)?;
        told.set_item("plain", stats.plain.read())?;
        told.set_item("drafting", stats.drafting.read())?;
        told.set_item("step_cost", shape.map(|it| it.step_cost.clone()))?;
        told.set_item("rect_cost", shape.map(|it| it.rect_cost))?;
        Ok(told)
    }

    /// Run until closed and idle. `runner` has `load(model) -> dict` and `step(bytes) -> buffer`.
    fn run(&self, py: Python<'_>, runner: Py<PyAny>) -> PyResult<()> {
        let mut runner = PyRunner { runner };
        let served = py.detach(|| self.engine.run(&mut runner));
        served.map_err(PyRuntimeError::new_err)
    }
}

/// The attributes of the `sampling` that Python submits: see [`Sampling`].
#[derive(FromPyObject)]
struct PySampling {
    temperature: f32,
    top_p: f32,
    min_p: f32,
    top_k: u32,
    xtc_probability: f32,
    xtc_threshold: f32,
    xtc_spared: Vec<u32>,
    seed: u64,
    repetition_penalty: f32,
    presence_penalty: f32,
    frequency_penalty: f32,
    bias: Vec<(u32, f32)>,
    allowed: Option<Vec<u32>>,
    banned: Vec<Vec<u32>>,
    min_tokens: u32,
    logprobs: Option<u32>,
    constraint: u32,
}

impl From<PySampling> for Sampling {
    fn from(asked: PySampling) -> Self {
        Self {
            temperature: asked.temperature,
            top_p: asked.top_p,
            min_p: asked.min_p,
            top_k: asked.top_k,
            xtc: Xtc {
                probability: asked.xtc_probability,
                threshold: asked.xtc_threshold,
                spared: asked.xtc_spared,
            },
            seed: asked.seed,
            penalties: Penalties {
                repetition: asked.repetition_penalty,
                presence: asked.presence_penalty,
                frequency: asked.frequency_penalty,
            },
            bias: asked.bias,
            allowed: asked.allowed,
            banned: asked.banned,
            min_tokens: asked.min_tokens,
            logprobs: asked.logprobs,
            constraint: asked.constraint,
        }
    }
}

/// Draft tokens verified and kept by each drafter, over all these models.
fn py_drafters(models: &[SpeculationStats]) -> Vec<(&'static str, u64, u64)> {
    let sum = |drafter: Drafter| {
        let counts = models.iter().map(|it| it.drafters[drafter.index()].read());
        counts.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    };
    Drafter::ALL.iter().map(|&it| (it.name(), sum(it).0, sum(it).1)).collect()
}

/// (request, tokens, logprobs, end); logprobs are (of the token, [(token, logprob)]); end is
/// (reason, message, queued seconds, preemptions, cached prompt tokens, draft tokens, steps by
/// accepted drafts, draft tokens of the client's prediction verified and kept).
/// Milliseconds by tokens, and of one rectangle more.
type PyCosts = (Vec<(u32, f32)>, f32);
type PyEvent = (u64, Vec<u32>, Vec<PyLogprobs>, Option<PyEnd>);
type PyLogprobs = (f32, Vec<(u32, f32)>);
type PyEnd = (&'static str, String, f64, u32, u32, u32, Vec<u32>, (u32, u32));

/// (phase, bytes held, bytes needed, running, waiting, seconds until it leaves by itself).
type PyStatus = (&'static str, u64, u64, u32, u32, Option<f64>);

fn py_status(status: ModelStatus, now_ns: u64) -> PyStatus {
    let phase = match status.phase {
        Phase::Absent => "absent",
        Phase::Reserving => "reserving",
        Phase::Loading => "loading",
        Phase::Resident => "resident",
        Phase::Draining => "draining",
        Phase::Evicting => "evicting",
        Phase::Failed => "failed",
    };
    let left = status.expires_ns.map(|at| at.saturating_sub(now_ns) as f64 * 1e-9);
    (phase, status.held, status.need, status.running, status.waiting, left)
}

fn py_event(event: Event) -> PyEvent {
    let logprobs = event.logprobs.into_iter().map(|it| (it.logprob, it.top)).collect();
    let end = event.end.map(|(finish, stats)| py_end(finish, stats));
    (event.request.0, event.tokens, logprobs, end)
}

fn py_end(finish: Finish, stats: RequestStats) -> PyEnd {
    let (reason, message) = match finish {
        Finish::Stop => ("stop", String::new()),
        Finish::Length => ("length", String::new()),
        Finish::Aborted => ("abort", String::new()),
        Finish::Expired => ("expired", String::new()),
        Finish::Failed(message) => ("error", message),
        Finish::Loaded => ("loaded", String::new()),
        Finish::Refused(error) => (refusal(&error), error.to_string()),
    };
    let queued = stats.queued_ns as f64 * 1e-9;
    let predicted = stats.by_drafter[Drafter::Prediction.index()];
    let predicted = (predicted.proposed, predicted.accepted);
    let (preemptions, cached, drafted) =
        (stats.preemptions, stats.num_cached_tokens, stats.num_draft_tokens);
    (reason, message, queued, preemptions, cached, drafted, stats.accepted, predicted)
}

fn refusal(error: &SubmitError) -> &'static str {
    match error {
        SubmitError::ContextLength { .. } => "context_length",
        SubmitError::TooLarge { .. } => "too_large",
        _ => "unavailable",
    }
}

fn shape_of(facts: &Bound<'_, PyAny>) -> PyResult<ModelShape> {
    Ok(ModelShape {
        max_context: facts.get_item("max_context")?.extract()?,
        total_blocks: facts.get_item("total_blocks")?.extract()?,
        slab_slots: facts.get_item("slab_slots")?.extract()?,
        step_tokens: facts.get_item("step_tokens")?.extract()?,
        prefill_chunk: facts.get_item("prefill_chunk")?.extract()?,
        view_step: facts.get_item("view_step")?.extract()?,
        padded: facts.get_item("padded")?.extract()?,
        plain: facts.get_item("plain")?.extract()?,
        whole: facts.get_item("whole")?.extract()?,
        step_cost: facts.get_item("step_cost")?.extract()?,
        rect_cost: facts.get_item("rect_cost")?.extract()?,
        fingerprint: facts.get_item("fingerprint")?.extract()?,
        kv_key: facts.get_item("kv_key")?.extract()?,
        takes_drafter: facts.get_item("takes_drafter")?.extract()?,
    })
}

/// How many times as fast as plain decoding one row would be with a draft model, at best.
///
/// The costs are those of the target and of the draft model: milliseconds by tokens, and of one
/// rectangle more.
#[pyfunction]
#[pyo3(signature = (target, draft_model, *, agreement, padded))]
#[expect(clippy::needless_pass_by_value, reason = "PyO3 extracts values")]
fn promised_speedup(target: PyCosts, draft_model: PyCosts, agreement: f32, padded: bool) -> f32 {
    let (step_cost, rect_cost) = draft_model;
    let drafts = DraftModelShape { step_cost, rect_cost };
    crate::draft_choice::promised_speedup(
        &StepCost::new(&target.0, target.1),
        &drafts,
        agreement,
        padded,
    )
}

/// Request queue, batch formation, KV bookkeeping and drafting for mlxspec.
#[pymodule(gil_used = false)]
mod _scheduler {
    #[pymodule_export]
    use super::{
        ClosedError, MemoryShortError, PredictionTooLongError, PromptTooLongError, QueueFullError,
        RequestTooLargeError, Scheduler, promised_speedup,
    };

    #[pymodule_export]
    const BLOCK_TOKENS: u32 = crate::config::BLOCK_TOKENS;

    #[pymodule_export]
    const SEGMENT_TOKENS: u32 = crate::segment::SEGMENT_TOKENS;
}
