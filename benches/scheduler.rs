//! What the scheduler itself costs: submit, plan and commit, drafting. No model runs here.

#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a benchmark may")]

use std::hash::RandomState;
use std::hint::black_box;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use mlxspec_scheduler::action::{Action, LoadEnd, StepOutcome, StepPlan};
use mlxspec_scheduler::block_pool::BlockPool;
use mlxspec_scheduler::config::{ModelShape, SchedulerConfig};
use mlxspec_scheduler::draft_len::{Candidate, DraftLen, StepBase};
use mlxspec_scheduler::engine::{Engine, Runner};
use mlxspec_scheduler::ids::{ModelId, RequestId, Row, SlabId};
use mlxspec_scheduler::prefix_cache::PrefixCache;
use mlxspec_scheduler::request::{Request, Submission};
use mlxspec_scheduler::sampling::Sampling;
use mlxspec_scheduler::scheduler::Scheduler;
use mlxspec_scheduler::segment::{SegmentRead, SegmentSave};
use mlxspec_scheduler::step_cost::StepCost;
use mlxspec_scheduler::suffix::SuffixIndex;

const MODEL: ModelId = ModelId(0);
const NUM_PROMPT: u32 = 64;
const PERIOD: u32 = 8;
/// Steps that one set of requests is measured for before it grows too long.
const STEPS: u64 = 16;

/// What the requests say: nothing twice, or the same over and over.
#[derive(Clone, Copy, PartialEq)]
enum Text {
    Random,
    Repeating,
}

impl Text {
    fn token(self, row: u32, position: u32) -> u32 {
        match self {
            Self::Repeating => position % PERIOD,
            // Knuth's multiplicative hash: all distinct within a request.
            Self::Random => (row * 4096 + position).wrapping_mul(2_654_435_761),
        }
    }

    fn submission(self, row: u32, max_tokens: u32) -> Submission {
        Submission {
            model: MODEL,
            prompt: (0..NUM_PROMPT).map(|position| self.token(row, position)).collect(),
            max_tokens: Some(max_tokens),
            stop_tokens: [].into(),
            sampling: Sampling::default(),
            speculate: true,
            prediction: Vec::new(),
            max_draft: u32::MAX,
            priority: 0,
            cache_salt: "".into(),
            keep_alive: None,
            harvest: 0,
        }
    }

    /// Every draft is kept; the next token is the text's.
    fn outcome(self, plan: &StepPlan) -> StepOutcome {
        let next = |&index: &u32| {
            let position = plan.positions[index as usize];
            self.token(index, position + 1)
        };
        StepOutcome {
            accepted: plan.samplers.iter().map(|it| it.num_drafts).collect(),
            tokens: plan.sampled.iter().map(next).collect(),
            ..StepOutcome::default()
        }
    }
}

fn shape(padded: bool) -> ModelShape {
    ModelShape {
        max_context: 4096,
        total_blocks: 1 << 20,
        slab_slots: 16,
        step_tokens: 1 << 20,
        prefill_chunk: 256,
        view_step: 256,
        padded,
        plain: false,
        whole: false,
        step_cost: vec![(1, 10.0), (1 << 20, 11.0)],
        rect_cost: 0.0,
        fingerprint: String::new(),
        kv_key: None,
        takes_drafter: false,
    }
}

/// A scheduler with this many requests, all of them decoding.
fn decoding(num_rows: u32, text: Text, padded: bool) -> Scheduler {
    let config = SchedulerConfig {
        max_waiting: num_rows as usize,
        max_running: num_rows as usize,
        speculation: true,
        max_draft: 8,
        adaptive: true,
        shared_suffix_bytes: 1 << 20,
        suffix_dir: None,
        inter_token_ms: 1e3,
        prefix_cache: true,
        kv_dir: None,
        kv_dir_bytes: 0,
        shares: Vec::new(),
        limits: Vec::new(),
    };
    let mut scheduler = Scheduler::new(config, 1);
    let mut events = Vec::new();
    assert!(matches!(scheduler.next_action(0, &mut Vec::new()), Action::Residency(_)));
    let end = LoadEnd::Loaded { shape: shape(padded), num_bytes: 0 };
    scheduler.load_ended(MODEL, end, &mut events);
    for row in 0..num_rows {
        let request = Request::new(RequestId(row.into()), text.submission(row, 2048), 2112, 0);
        scheduler.submit(request, &mut events);
    }
    step(&mut scheduler, text);
    scheduler
}

/// The time that planning and committing one step takes.
fn step(scheduler: &mut Scheduler, text: Text) -> Duration {
    let start = Instant::now();
    let Action::Step(plan) = scheduler.next_action(0, &mut Vec::new()) else {
        panic!("nothing to do")
    };
    let planned = start.elapsed();
    let outcome = text.outcome(&plan);
    let mut events = Vec::with_capacity(plan.rows.len());
    let start = Instant::now();
    scheduler.commit(&plan, &outcome, 10.0, &mut events);
    drop(black_box((plan, events)));
    planned + start.elapsed()
}

fn plan_and_commit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan_and_commit");
    group.sample_size(20);
    let cases = [("random", Text::Random, false), ("drafts", Text::Repeating, false)];
    for (name, text, padded) in cases.into_iter().chain([("padded_drafts", Text::Repeating, true)])
    {
        for num_rows in [1, 256, 4096] {
            group.throughput(Throughput::Elements(num_rows.into()));
            group.bench_function(format!("{name}/{num_rows}"), |bencher| {
                bencher.iter_custom(|num_steps| measure(num_steps, num_rows, text, padded));
            });
        }
    }
    group.finish();
}

fn measure(num_steps: u64, num_rows: u32, text: Text, padded: bool) -> Duration {
    let mut total = Duration::ZERO;
    for done in (0..num_steps).step_by(STEPS as usize) {
        let mut scheduler = decoding(num_rows, text, padded);
        let steps = STEPS.min(num_steps - done);
        total += (0..steps).map(|_| step(&mut scheduler, text)).sum::<Duration>();
    }
    total
}

/// A runner whose steps last until the benchmark has submitted all it wants to.
struct Busy(Receiver<()>);

impl Runner for Busy {
    fn load(&mut self, _model: ModelId, _num_bytes: u64) -> Option<LoadEnd> {
        Some(LoadEnd::Loaded { shape: shape(false), num_bytes: 0 })
    }

    fn cancel_load(&mut self, _model: ModelId) {}

    fn evict(&mut self, _model: ModelId) {}

    fn step(&mut self, _plan: &StepPlan) -> Result<StepOutcome, String> {
        // An error means that the benchmark is over, which is what we wait for.
        let _ = self.0.recv();
        Err("the benchmark is over".to_owned())
    }

    fn save_kv(&mut self, _save: &SegmentSave, _file: &Path) -> Result<u64, String> {
        Err("keeps nothing".to_owned())
    }

    fn read_kv(&mut self, _read: &SegmentRead, _file: &Path) -> bool {
        false
    }
}

/// The time of this many submissions to an engine that is in the midst of a step.
fn submit(num_requests: u64) -> Duration {
    let config = SchedulerConfig {
        max_waiting: num_requests as usize + 1,
        max_running: 1,
        speculation: true,
        max_draft: 8,
        adaptive: true,
        shared_suffix_bytes: 1 << 20,
        suffix_dir: None,
        inter_token_ms: 1e3,
        prefix_cache: true,
        kv_dir: None,
        kv_dir_bytes: 0,
        shares: Vec::new(),
        limits: Vec::new(),
    };
    let engine = Engine::new(config, 1).unwrap();
    let (end, busy) = channel();
    std::thread::scope(|scope| {
        scope.spawn(|| engine.run(&mut Busy(busy)));
        while engine.shape(MODEL).is_none() {
            std::thread::yield_now();
        }
        engine.submit(Text::Random.submission(0, 1)).unwrap();
        let submissions: Vec<_> =
            (0..num_requests).map(|row| Text::Random.submission(row as u32, 1)).collect();
        let start = Instant::now();
        for submission in submissions {
            black_box(engine.submit(submission)).unwrap();
        }
        let total = start.elapsed();
        engine.abort_all();
        engine.close();
        drop(end);
        total
    })
}

fn submit_through_the_queue(criterion: &mut Criterion) {
    criterion.bench_function("submit/64_tokens", |bencher| {
        bencher.iter_custom(|num_requests| {
            (0..num_requests).step_by(4096).map(|done| submit(4096.min(num_requests - done))).sum()
        });
    });
}

fn index(text: Text, num_tokens: u32) -> SuffixIndex {
    let mut index = SuffixIndex::with_capacity(num_tokens as usize);
    (0..num_tokens).for_each(|position| index.push(text.token(0, position)));
    index
}

fn suffix(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("suffix");
    for (name, text) in [("random", Text::Random), ("repeating", Text::Repeating)] {
        group.bench_function(format!("push_1024/{name}"), |bencher| {
            bencher.iter_batched(|| (), |()| index(text, 1024), BatchSize::LargeInput);
        });
        let (index, mut drafts) = (index(text, 1024), Vec::new());
        group.bench_function(format!("draft_8/{name}"), |bencher| {
            bencher.iter(|| index.draft(8, 0.02, black_box(&mut drafts)));
        });
    }
    group.finish();
}

/// A prompt of 132 blocks: found in a cache of many chats, paid for, and given back.
fn prefix(criterion: &mut Criterion) {
    let tokens = |chat: u32| (0..2112).map(move |at| if at < 512 { at } else { at + 4096 * chat });
    let mut cache = PrefixCache::new(RandomState::new());
    for chat in 0..64 {
        let row = Row { slab: SlabId(chat), slot: 0 };
        let id = cache.open(row, "".into(), &[]);
        cache.retire(id, row, &tokens(chat).collect::<Vec<u32>>());
    }
    let (mut pool, prompt) = (BlockPool::new(1 << 16), tokens(17).collect::<Vec<u32>>());
    criterion.bench_function("prefix/find_allocate_free_132_blocks", |bencher| {
        bencher.iter(|| {
            let hit = cache.find("", black_box(&prompt)).unwrap();
            assert_eq!(hit.num_tokens, 2112);
            let blocks = pool.allocate(132).unwrap();
            pool.release(black_box(blocks));
        });
    });
    let row = Row { slab: SlabId(64), slot: 0 };
    criterion.bench_function("prefix/publish_remove_132_blocks", |bencher| {
        bencher.iter(|| {
            let id = cache.open(row, "".into(), black_box(&prompt));
            cache.remove(id)
        });
    });
}

/// What the controller does for 256 rows with drafts of 16 tokens each: cut to what each may cost, and
/// choose the positions that pay.
fn choose_drafts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("choose_drafts");
    for (name, padded_slots) in [("exact", 0), ("padded", 256)] {
        let base = StepBase {
            rows: 256,
            tokens: 256,
            prefill: 0,
            rects: 1,
            budget: 256.max(8 * padded_slots),
            padded_slots,
        };
        let knots =
            [1, 2, 4, 8, 16, 32, 64, 2048].map(|tokens| (tokens, 5.0 + tokens as f32 / 64.0));
        let mut draft_len = DraftLen::new(StepCost::new(&knots, 0.01));
        let stakes = vec![2.0; 256];
        let mut lens = Vec::new();
        group.bench_function(format!("{name}/256"), |bencher| {
            bencher.iter_batched_ref(
                || (0..256_u32).map(likely_drafts).collect::<Vec<Candidate>>(),
                |candidates| {
                    draft_len.afford(candidates, &stakes, base);
                    draft_len.choose(black_box(candidates), base, &mut lens)
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// Every row has another rate at which its drafts are kept, from 0.4 to 0.95.
fn likely_drafts(row: u32) -> Candidate {
    let rate = 0.4 + 0.55 * (row.wrapping_mul(2_654_435_761) >> 24) as f32 / 255.0;
    let survival = (1..=16).map(|len| rate.powi(len)).collect();
    Candidate { drafts: Vec::new(), survival }
}

criterion_group!(benches, submit_through_the_queue, plan_and_commit, suffix, prefix, choose_drafts);
criterion_main!(benches);
