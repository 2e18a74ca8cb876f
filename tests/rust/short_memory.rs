//! What happens to requests and their KV while memory is short: in the scheduler, and by an engine
//! whose runner tells it a script of measurements.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may")]

mod sim;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, yield_now};
use std::time::{Duration, Instant};

use mlxspec_scheduler::action::{LoadEnd, StepOutcome, StepPlan};
use mlxspec_scheduler::engine::{Engine, Runner};
use mlxspec_scheduler::error::{Refusal, SubmitError};
use mlxspec_scheduler::ids::ModelId;
use mlxspec_scheduler::memory_guard::{Spare, Watermarks};
use mlxspec_scheduler::request::Finish;
use mlxspec_scheduler::segment::{SegmentRead, SegmentSave};

use sim::script::{Script, Scripts, Wish};
use sim::world::World;
use sim::{SimRunner, config, shape};

const MODEL: ModelId = ModelId(0);
const WATERMARKS: Watermarks = Watermarks { soft: 0.85, hard: 0.95 };

fn world() -> World {
    World::new(config(), &[shape(900, 200, false)])
}

#[test]
fn who_runs_goes_on_and_nobody_joins() {
    let mut world = world();
    (0..3).for_each(|_| world.submit(0, Wish::plain(20, 40)));
    (0..2).for_each(|_| assert!(world.step(None)));
    world.scheduler.short_of_memory(true);
    (0..3).for_each(|_| world.submit(0, Wish::plain(20, 40)));
    (0..5).for_each(|_| assert!(world.step(None)));
    assert_eq!(world.scheduler.num_requests(), (3, 3));
    while world.scheduler.num_requests().0 == 3 {
        assert!(world.step(None), "one may run where none does");
    }
    assert_eq!(world.scheduler.num_requests(), (2, 1));
    world.scheduler.short_of_memory(false);
    world.step(None);
    assert_eq!(world.scheduler.num_requests().0, 0);
    world.drain();
    assert!(world.requests.iter().all(|it| it.finish() == &Finish::Length));
}

#[test]
fn shrinking_caches_frees_their_slabs_and_harms_nobody() {
    let mut world = world();
    for _ in 0..6 {
        world.submit(0, Wish::plain(100, 10));
        world.drain();
    }
    world.submit(0, Wish::plain(100, 60));
    (0..8).for_each(|_| assert!(world.step(None)));
    let before = world.scheduler.spare().prefixes;
    assert!(before >= 5, "{before}");
    let mut left = Vec::new();
    for _ in 0..4 {
        world.scheduler.shrink_caches();
        world.scheduler.check_integrity().unwrap();
        assert!(world.step(None));
        left.push(world.scheduler.spare().prefixes);
    }
    assert!(left.is_sorted_by(|a, b| a >= b) && left[3] == 0, "{before} {left:?}");
    assert_eq!(world.runners[0].slabs.len(), 1, "only the running request's slab is left");
    world.drain();
}

#[test]
fn the_newest_prompt_goes_and_decodes_stay() {
    let mut world = world();
    world.submit(0, Wish::plain(8, 60));
    (0..4).for_each(|_| assert!(world.step(None)));
    world.submit(0, Wish::plain(300, 10));
    world.submit(0, Wish::plain(300, 10));
    world.step(None);
    let spare = Spare { prefixes: 0, idle_models: 0, prefills: 2, others: 1 };
    assert_eq!(world.scheduler.spare(), spare);
    (0..5).for_each(|_| world.refuse_prefill());
    world.drain();
    let refused = Finish::Refused(SubmitError::Unavailable(Refusal::MemoryShort));
    let ends: Vec<_> = world.requests.iter().map(|it| it.finish().clone()).collect();
    assert_eq!(ends, [Finish::Length, refused.clone(), refused]);
}

/// Runs the simulation; measures what the test says, in thousandths, less what a trim gives back.
struct Measured {
    sim: SimRunner,
    share: Arc<AtomicU64>,
}

impl Runner for Measured {
    fn load(&mut self, model: ModelId, num_bytes: u64) -> Option<LoadEnd> {
        self.sim.load(model, num_bytes)
    }
    fn cancel_load(&mut self, model: ModelId) {
        self.sim.cancel_load(model);
    }
    fn evict(&mut self, model: ModelId) {
        self.sim.evict(model);
    }
    fn step(&mut self, plan: &StepPlan) -> Result<StepOutcome, String> {
        thread::sleep(Duration::from_millis(3));
        self.sim.step(plan)
    }
    fn save_kv(&mut self, save: &SegmentSave, file: &Path) -> Result<u64, String> {
        self.sim.save_kv(save, file)
    }
    fn read_kv(&mut self, read: &SegmentRead, file: &Path) -> bool {
        self.sim.read_kv(read, file)
    }
    fn memory_share(&mut self) -> Option<f64> {
        Some(self.share.load(Ordering::Relaxed) as f64 / 1000.0)
    }
}

fn until(what: &str, holds: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "never: {what}");
        yield_now();
    }
    start.elapsed()
}

#[test]
fn an_engine_refuses_above_the_hard_watermark_and_accepts_again_within_a_second() {
    let engine = Arc::new(Engine::new(config(), 1).unwrap().guarded(WATERMARKS));
    let (share, scripts) = (Arc::new(AtomicU64::new(500)), Scripts::new(&shape(900, 200, false)));
    let sim = SimRunner::new(shape(900, 200, false), scripts.clone());
    let thread = thread::spawn({
        let (engine, share) = (Arc::clone(&engine), Arc::clone(&share));
        move || engine.run(&mut Measured { sim, share })
    });
    until("a model", || engine.shape(MODEL).is_some());
    let mut number = 0;
    let mut submit = || {
        number += 1;
        let wish = Wish { speculate: false, ..Wish::plain(10, 800) };
        let script = scripts.add(Script::new(number, wish, 810));
        engine.submit(script.submission(MODEL))
    };
    for cycle in 0..4 {
        let running = submit().unwrap();
        share.store(960 + cycle, Ordering::Relaxed);
        let shortage = || engine.stats().memory_shortage.load(Ordering::Relaxed);
        until("a shortage", || shortage() == 2);
        let refused = submit().unwrap_err();
        assert_eq!(refused, SubmitError::Unavailable(Refusal::MemoryShort));
        until("a trim", || engine.stats().memory_trims.load(Ordering::Relaxed) > cycle);
        share.store(500, Ordering::Relaxed);
        assert!(until("plenty", || shortage() == 0) < Duration::from_secs(1));
        engine.abort(submit().unwrap());
        engine.abort(running);
    }
    engine.close();
    assert_eq!(thread.join().unwrap(), Ok(()));
    assert_eq!(engine.num_in_flight(), 0);
}
