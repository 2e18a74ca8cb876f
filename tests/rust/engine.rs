//! The engine with real threads: who submits, aborts or closes when, each request ends once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may")]

mod sim;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, yield_now};
use std::time::{Duration, Instant};

use mlxspec_scheduler::action::{LoadEnd, StepOutcome, StepPlan};
use mlxspec_scheduler::config::{ModelShape, SchedulerConfig};
use mlxspec_scheduler::engine::{Engine, Runner};
use mlxspec_scheduler::error::{Refusal, SubmitError};
use mlxspec_scheduler::ids::{ModelId, RequestId};
use mlxspec_scheduler::model::Event;
use mlxspec_scheduler::request::{Finish, Submission};
use mlxspec_scheduler::segment::{SegmentRead, SegmentSave};

use sim::script::{Script, Scripts, Wish, mix};
use sim::{SimRunner, shape};

const MODEL: ModelId = ModelId(0);

fn config() -> SchedulerConfig {
    SchedulerConfig {
        max_waiting: 12,
        max_running: 6,
        shared_suffix_bytes: 1 << 16,
        ..sim::config()
    }
}

fn small() -> ModelShape {
    shape(600, 80, false)
}

/// What a runner does instead of a step.
enum Turn {
    Step,
    Fail,
    Misfit,
    Panic,
}

/// A simulated runner whose every step is decided by the test.
struct Directed<F> {
    sim: SimRunner,
    turn: F,
}

impl<F: FnMut() -> Turn> Runner for Directed<F> {
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
        match (self.turn)() {
            Turn::Step => Ok(self.sim.run(plan)),
            Turn::Misfit => {
                self.sim.run_and_fail(plan, sim::Fault::Forward);
                Ok(StepOutcome { accepted: vec![7], ..StepOutcome::default() })
            }
            Turn::Fail => {
                self.sim.run_and_fail(plan, sim::Fault::KvOps);
                Err("out of memory".to_owned())
            }
            Turn::Panic => panic!("the device is gone"),
        }
    }

    fn save_kv(&mut self, save: &SegmentSave, file: &Path) -> Result<u64, String> {
        self.sim.save_kv(save, file)
    }

    fn read_kv(&mut self, read: &SegmentRead, file: &Path) -> bool {
        self.sim.read_kv(read, file)
    }
}

/// A running engine, and what has come out of it.
struct Running {
    engine: Arc<Engine>,
    scripts: Scripts,
    thread: JoinHandle<Result<(), String>>,
}

/// All of a request's tokens and its ends, of which there must be one.
type Ends = HashMap<RequestId, (Vec<u32>, Vec<Finish>)>;

impl Running {
    fn start(config: SchedulerConfig, turn: impl FnMut() -> Turn + Send + 'static) -> Self {
        let engine = Arc::new(Engine::new(config, 1).unwrap());
        let scripts = Scripts::new(&small());
        let sim = SimRunner::new(small(), scripts.clone());
        let thread = thread::spawn({
            let engine = Arc::clone(&engine);
            move || engine.run(&mut Directed { sim, turn })
        });
        while engine.shape(MODEL).is_none() {
            yield_now();
        }
        Self { engine, scripts, thread }
    }

    fn submit(&self, number: u32, wish: Wish) -> Result<(RequestId, Arc<Script>), SubmitError> {
        let len = wish.num_prompt as u32 + wish.max_tokens;
        let script = self.scripts.add(Script::new(number, wish, len));
        Ok((self.engine.submit(script.submission(MODEL))?, script))
    }

    /// Close, wait for the thread, and collect everything that came out.
    fn finish(self) -> (Result<(), String>, Ends) {
        self.engine.close();
        let result = self.thread.join().expect("run catches panics");
        let (mut events, mut ends) = (Vec::new(), Ends::new());
        self.engine.outbox().drain(&mut events).unwrap();
        for event in events {
            let entry = ends.entry(event.request).or_default();
            assert!(entry.1.is_empty(), "an event after the end");
            entry.0.extend(event.tokens);
            entry.1.extend(event.end.map(|(finish, _)| finish));
        }
        assert!(ends.values().all(|(_, finish)| finish.len() == 1), "not every request has ended");
        assert_eq!(self.engine.num_in_flight(), 0);
        let stats: HashMap<_, _> = self.engine.stats().snapshot().into_iter().collect();
        let ended = ["finished", "aborted", "expired", "failed"]
            .map(|it| stats[&*format!("requests_{it}")]);
        assert_eq!(ended.iter().sum::<u64>(), stats["requests_submitted"]);
        assert_eq!(stats["requests_submitted"], ends.len() as u64);
        assert_eq!(stats["kv_blocks_used"], stats["kv_blocks_cached"], "blocks are lost");
        assert_eq!(stats["integrity_errors"], 0);
        (result, ends)
    }
}

fn is_right(script: &Script, (output, finish): &(Vec<u32>, Vec<Finish>)) -> bool {
    output == script.output() && finish[0] == script.finish
}

/// A turn that waits for the test at every step.
fn gated() -> (impl FnMut() -> Turn + Send, Receiver<()>, Sender<Turn>) {
    let ((entered, at_gate), (open, gate)) = (channel(), channel());
    let turn = move || {
        // Both ends hang up when the test goes on without looking.
        let _ = entered.send(());
        gate.recv().unwrap_or(Turn::Step)
    };
    (turn, at_gate, open)
}

#[test]
fn eight_threads_submit_and_abort_and_each_request_ends_once() {
    let running = Running::start(config(), || Turn::Step);
    let tracked = Mutex::new(HashMap::new());
    thread::scope(|scope| {
        for at in 0..8_u32 {
            let (running, tracked) = (&running, &tracked);
            scope.spawn(move || submit_and_abort(running, tracked, at));
        }
    });
    let (result, ends) = running.finish();
    assert_eq!(result, Ok(()));
    let tracked = tracked.into_inner().unwrap();
    assert_eq!(ends.len(), tracked.len());
    let finished = ends.values().filter(|it| it.1[0] != Finish::Aborted).count();
    assert!((50..400).contains(&finished), "{finished} of 400 were not aborted");
    for (id, (script, aborted)) in tracked {
        let (output, finish) = &ends[&id];
        if finish[0] == Finish::Aborted {
            assert!(aborted && script.output().starts_with(output));
        } else {
            assert!(is_right(&script, &ends[&id]));
        }
    }
}

/// An idle engine wakes up every 500 ms by itself; who was aborted last must not wait for that.
#[test]
fn the_end_of_the_last_request_is_told_before_the_engine_sleeps() {
    let (turn, at_gate, gate) = gated();
    let running = Running::start(config(), turn);
    let told_after = |number: u32| {
        let (id, _) = running.submit(number, Wish::plain(20, 100)).unwrap();
        at_gate.recv().unwrap();
        running.engine.abort(id);
        let aborted = Instant::now();
        gate.send(Turn::Step).unwrap();
        let mut events = Vec::new();
        while !events.iter().any(|it: &Event| it.end.is_some()) {
            running.engine.outbox().drain(&mut events).unwrap();
            yield_now();
        }
        aborted.elapsed()
    };
    let soonest = (0..5).map(told_after).min().unwrap();
    assert!(soonest < Duration::from_millis(250), "told after {soonest:?}");
    drop(gate);
    running.engine.close();
    assert_eq!(running.thread.join().unwrap(), Ok(()));
}

type Tracked = Mutex<HashMap<RequestId, (Arc<Script>, bool)>>;

fn submit_and_abort(running: &Running, tracked: &Tracked, at: u32) {
    for number in (0..50).map(|count| count * 8 + at) {
        let dice = mix(number.into());
        let wish = Wish {
            temperature: if dice & 1 == 0 { 0.0 } else { 0.7 },
            ..Wish::plain(1 + (dice >> 8) as usize % 300, 1 + (dice >> 24) as u32 % 60)
        };
        let (id, script) = loop {
            match running.submit(number, wish) {
                Ok(done) => break done,
                Err(SubmitError::QueueFull { .. }) => yield_now(),
                Err(other) => panic!("{other}"),
            }
        };
        let aborts = dice >> 40 & 1 == 0;
        tracked.lock().unwrap().insert(id, (script, aborts));
        if aborts {
            (0..dice >> 44 & 255).for_each(|_| yield_now());
            running.engine.abort(id);
            running.engine.abort(id);
        }
    }
}

#[test]
fn a_full_queue_refuses_until_somebody_ends() {
    let (turn, at_gate, gate) = gated();
    let config = SchedulerConfig { max_waiting: 3, max_running: 2, ..config() };
    let running = Running::start(config, turn);
    let ids: Vec<RequestId> =
        (0..5).map(|number| running.submit(number, Wish::plain(8, 4)).unwrap().0).collect();
    at_gate.recv().unwrap();
    let error = running.submit(5, Wish::plain(8, 4)).unwrap_err();
    assert_eq!(error, SubmitError::QueueFull { capacity: 5 });
    assert!(error.to_string().contains("has 5 requests"), "{error}");
    assert_eq!(running.engine.check_room(), Err(error));
    running.engine.abort(ids[4]);
    // It is heard after this step, and heard of after the next.
    for _ in 0..2 {
        gate.send(Turn::Step).unwrap();
        at_gate.recv().unwrap();
    }
    assert_eq!(running.engine.check_room(), Ok(()));
    assert!(running.submit(6, Wish::plain(8, 4)).is_ok());
    drop(gate);
    assert_eq!(running.engine.stats().requests_rejected.load(Ordering::Relaxed), 2);
    let (result, ends) = running.finish();
    assert_eq!((result, ends.len()), (Ok(()), 6));
}

#[test]
fn a_closed_engine_ends_what_it_has_and_takes_no_more() {
    let (turn, at_gate, gate) = gated();
    let running = Running::start(config(), turn);
    let scripts: Vec<_> =
        (0..10).map(|number| running.submit(number, Wish::plain(20, 20)).unwrap()).collect();
    at_gate.recv().unwrap();
    running.engine.close();
    assert_eq!(running.submit(10, Wish::plain(20, 20)).unwrap_err(), SubmitError::Closed);
    drop(gate);
    let (result, ends) = running.finish();
    assert_eq!(result, Ok(()));
    assert!(scripts.iter().all(|(id, script)| is_right(script, &ends[id])));
}

#[test]
fn abort_all_ends_everyone_and_the_engine_goes_on() {
    let (turn, at_gate, gate) = gated();
    let running = Running::start(config(), turn);
    (0..10).for_each(|number| drop(running.submit(number, Wish::plain(20, 20)).unwrap()));
    at_gate.recv().unwrap();
    running.engine.abort_all();
    drop(gate);
    while running.engine.num_in_flight() > 0 {
        yield_now();
    }
    let (id, script) = running.submit(10, Wish::plain(20, 20)).unwrap();
    let (_, ends) = running.finish();
    assert!(is_right(&script, &ends[&id]));
    assert_eq!(ends.values().filter(|it| it.1[0] == Finish::Aborted).count(), 10);
}

#[test]
fn who_waited_too_long_ends_and_who_runs_goes_on() {
    let (turn, at_gate, gate) = gated();
    let running = Running::start(SchedulerConfig { max_running: 1, ..config() }, turn);
    let (runs, script) = running.submit(0, Wish::plain(20, 20)).unwrap();
    at_gate.recv().unwrap();
    let (waits, _) = running.submit(1, Wish::plain(20, 20)).unwrap();
    for id in [runs, waits, waits, RequestId(99)] {
        running.engine.expire(id);
    }
    drop(gate);
    let (_, ends) = running.finish();
    assert!(is_right(&script, &ends[&runs]));
    assert_eq!(ends[&waits], (Vec::new(), vec![Finish::Expired]));
}

#[test]
fn a_runner_that_panics_fails_every_request_and_closes_the_engine() {
    let (turn, at_gate, gate) = gated();
    let running = Running::start(config(), turn);
    (0..10).for_each(|number| drop(running.submit(number, Wish::plain(20, 20)).unwrap()));
    at_gate.recv().unwrap();
    gate.send(Turn::Panic).unwrap();
    while running.engine.num_in_flight() > 0 {
        yield_now();
    }
    assert_eq!(running.submit(10, Wish::plain(20, 20)).unwrap_err(), SubmitError::Closed);
    let (result, ends) = running.finish();
    assert_eq!(result, Err("the device is gone".to_owned()));
    let failed = Finish::Failed("the engine stopped: the device is gone".to_owned());
    assert!(ends.len() == 10 && ends.values().all(|it| it.1[0] == failed));
}

#[test]
fn an_abort_just_before_a_panic_still_ends_its_request() {
    let (turn, at_gate, gate) = gated();
    let running = Running::start(config(), turn);
    let ids = [0, 1].map(|number| running.submit(number, Wish::plain(20, 20)).unwrap().0);
    at_gate.recv().unwrap();
    running.engine.abort(ids[0]);
    gate.send(Turn::Step).unwrap();
    gate.send(Turn::Panic).unwrap();
    let (_, ends) = running.finish();
    assert_eq!(ends[&ids[0]].1, [Finish::Aborted]);
    assert!(matches!(ends[&ids[1]].1[..], [Finish::Failed(_)]));
}

#[test]
fn no_submission_is_lost_in_a_panic() {
    for round in 0..200_u32 {
        let mut steps = 0..round % 5;
        let turn = move || steps.next().map_or(Turn::Panic, |_| Turn::Step);
        let running = Running::start(config(), turn);
        thread::scope(|scope| {
            for at in 0..8 {
                let running = &running;
                let wish = |at| (at, Wish::plain(200, 40));
                scope.spawn(move || {
                    let mut numbers = (0..).map(|count| wish(count * 8 + at));
                    let refused = |(number, wish)| running.submit(number, wish).err();
                    while numbers.next().and_then(refused) != Some(SubmitError::Closed) {}
                });
            }
        });
        assert!(running.finish().0.is_err());
    }
}

#[test]
fn a_step_that_fails_ends_its_requests_and_the_engine_goes_on() {
    let texts = ["out of memory", "the runner's outcome does not fit its plan"];
    for (wrong, text) in [Turn::Fail, Turn::Misfit].into_iter().zip(texts) {
        let mut turns = vec![wrong].into_iter();
        let running = Running::start(config(), move || turns.next().unwrap_or(Turn::Step));
        let (bad, _) = running.submit(0, Wish::plain(20, 20)).unwrap();
        while running.engine.num_in_flight() > 0 {
            yield_now();
        }
        let (good, script) = running.submit(1, Wish::plain(20, 20)).unwrap();
        let (result, ends) = running.finish();
        assert_eq!(result, Ok(()));
        assert_eq!(ends[&bad].1, [Finish::Failed(text.to_owned())]);
        assert!(is_right(&script, &ends[&good]));
    }
}

#[test]
fn who_waits_for_a_model_that_cannot_be_loaded_hears_why() {
    struct Broken;
    impl Runner for Broken {
        fn load(&mut self, _model: ModelId, _num_bytes: u64) -> Option<LoadEnd> {
            Some(LoadEnd::Failed("no such file".to_owned()))
        }
        fn cancel_load(&mut self, _model: ModelId) {
            panic!("loads end at once")
        }
        fn evict(&mut self, _model: ModelId) {
            panic!("nothing is loaded")
        }
        fn step(&mut self, _plan: &StepPlan) -> Result<StepOutcome, String> {
            panic!("nothing to run")
        }
        fn save_kv(&mut self, _save: &SegmentSave, _file: &Path) -> Result<u64, String> {
            panic!("nothing to save")
        }
        fn read_kv(&mut self, _read: &SegmentRead, _file: &Path) -> bool {
            panic!("nothing to read")
        }
    }
    let engine = Engine::new(config(), 1).unwrap();
    let submission = Script::new(0, Wish::plain(4, 4), 8).submission(MODEL);
    engine.submit(submission.clone()).unwrap();
    engine.load(MODEL, None).unwrap();
    thread::scope(|scope| {
        let thread = scope.spawn(|| engine.run(&mut Broken));
        while engine.num_in_flight() > 0 {
            yield_now();
        }
        engine.submit(submission).unwrap();
        engine.close();
        assert_eq!(thread.join().unwrap(), Ok(()));
    });
    let mut events = Vec::new();
    engine.outbox().drain(&mut events).unwrap();
    let ends: Vec<Finish> = events.into_iter().map(|it| it.end.unwrap().0).collect();
    let refused = |refusal| Finish::Refused(SubmitError::Unavailable(refusal));
    let failed = refused(Refusal::LoadFailed("no such file".to_owned()));
    let backing_off = refused(Refusal::BackingOff { seconds: 5 });
    assert_eq!(ends, [failed.clone(), failed, backing_off]);
}

#[test]
fn a_request_that_could_never_run_is_refused_with_its_numbers() {
    let running = Running::start(config(), || Turn::Step);
    let refusal = |model: u32, num_prompt: usize, max_tokens: Option<u32>| {
        let script = Script::new(0, Wish::plain(num_prompt.max(1), 0), 2000);
        let prompt = script.tokens[..num_prompt].to_vec();
        let plain = script.submission(ModelId(model));
        running.engine.submit(Submission { prompt, max_tokens, ..plain }).unwrap_err().to_string()
    };
    let too_long = "the prompt has 650 tokens, the context holds 600: shorten it by 51";
    assert_eq!(refusal(0, 650, Some(1)), too_long);
    assert_eq!(refusal(0, 0, Some(1)), "the prompt has no tokens: send at least one");
    assert_eq!(refusal(3, 1, Some(1)), "no model with index 3");
    assert_eq!(running.engine.num_in_flight(), 0);
    running.finish().0.unwrap();
}

#[test]
fn a_request_larger_than_the_pool_is_refused_and_one_without_a_limit_fills_it() {
    let engine = Engine::new(config(), 1).unwrap();
    let scripts = Scripts::new(&shape(2000, 40, false));
    let mut sim = SimRunner::new(shape(2000, 40, false), scripts.clone());
    thread::scope(|scope| {
        let thread = scope.spawn(|| engine.run(&mut sim));
        while engine.shape(MODEL).is_none() {
            yield_now();
        }
        let script = scripts.add(Script::new(0, Wish::plain(100, 412), 512));
        let plain = script.submission(MODEL);
        let error = engine.submit(Submission { max_tokens: Some(413), ..plain.clone() });
        let text = "the request needs 64 KV blocks, the pool has 40: lower max_tokens or raise --kv-memory";
        assert_eq!(error.unwrap_err().to_string(), text);
        engine.submit(Submission { max_tokens: None, ..plain }).unwrap();
        engine.close();
        assert_eq!(thread.join().unwrap(), Ok(()));
        let mut events = Vec::new();
        engine.outbox().drain(&mut events).unwrap();
        let output: Vec<u32> = events.into_iter().flat_map(|it| it.tokens).collect();
        assert_eq!(output, script.output());
    });
}
