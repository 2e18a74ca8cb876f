//! How a step lies over the slabs: the few pictures that all others are made of.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may")]

mod sim;

use mlxspec_scheduler::action::{Action, LoadEnd, Rect, StepOutcome, StepPlan};
use mlxspec_scheduler::batch::form_batch;
use mlxspec_scheduler::config::{ModelShape, SchedulerConfig};
use mlxspec_scheduler::ids::{ModelId, RequestId, SlabId};
use mlxspec_scheduler::request::{Request, Submission};
use mlxspec_scheduler::sampling::Sampling;
use mlxspec_scheduler::scheduler::Scheduler;

/// A scheduler whose steps are committed with whatever token the test likes.
struct Bench {
    scheduler: Scheduler,
    next: u64,
}

impl Bench {
    fn new(shape: ModelShape) -> Self {
        let config = SchedulerConfig {
            max_waiting: 8,
            max_running: 8,
            speculation: true,
            max_draft: 6,
            adaptive: true,
            shared_suffix_bytes: 1 << 16,
            suffix_dir: None,
            inter_token_ms: 1e3,
            prefix_cache: false,
            kv_dir: None,
            kv_dir_bytes: 0,
            shares: Vec::new(),
            limits: Vec::new(),
        };
        let mut scheduler = Scheduler::new(config, 1);
        assert!(matches!(scheduler.next_action(0, &mut Vec::new()), Action::Residency(_)));
        let end = LoadEnd::Loaded { shape, num_bytes: 0 };
        scheduler.load_ended(ModelId(0), end, &mut Vec::new());
        Self { scheduler, next: 0 }
    }

    fn submit(&mut self, prompt: Vec<u32>) {
        self.submit_with(prompt, Sampling::default());
    }

    fn submit_with(&mut self, prompt: Vec<u32>, sampling: Sampling) {
        self.scheduler.submit(request(self.next, prompt, sampling), &mut Vec::new());
        self.next += 1;
    }

    fn plan(&mut self) -> StepPlan {
        match self.scheduler.next_action(0, &mut Vec::new()) {
            Action::Step(plan) => *plan,
            other => panic!("{other:?}"),
        }
    }

    /// Plan a step and commit it: no draft is kept, and each sampling row draws its token.
    fn step(&mut self, tokens: &[u32]) -> StepPlan {
        let plan = self.plan();
        assert_eq!(plan.samplers.len(), tokens.len());
        let drawn = plan.samplers.iter().zip(tokens);
        let tokens = drawn.flat_map(|(it, &token)| vec![token; it.num_drafts as usize + 1]);
        let outcome = StepOutcome {
            accepted: vec![0; plan.samplers.len()],
            tokens: tokens.collect(),
            ..StepOutcome::default()
        };
        self.scheduler.commit(&plan, &outcome, 1.0, &mut Vec::new());
        plan
    }
}

fn request(number: u64, prompt: Vec<u32>, sampling: Sampling) -> Request {
    let submission = Submission {
        model: ModelId(0),
        prompt,
        max_tokens: None,
        stop_tokens: [].into(),
        sampling,
        speculate: true,
        prediction: Vec::new(),
        max_draft: u32::MAX,
        priority: 0,
        cache_salt: "".into(),
        keep_alive: None,
        harvest: 0,
    };
    Request::new(RequestId(number), submission, 500, 0)
}

/// A prompt that repeats nothing.
fn novel(number: u32, len: u32) -> Vec<u32> {
    (0..len).map(|at| 1000 * number + at + 1).collect()
}

fn periodic() -> Vec<u32> {
    [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2, 3].to_vec()
}

fn rect(slot: u32, rows: u32, width: u32, first: u32) -> Rect {
    Rect { slab: SlabId(0), slot, rows, width, first, view: 64 }
}

#[test]
fn prompts_are_computed_in_order_as_far_as_the_step_goes() {
    let requests: Vec<Request> =
        (0..3).map(|at| request(at, novel(1, 50), Sampling::default())).collect();
    let planned = |shape: &ModelShape| -> Vec<(usize, u32, bool)> {
        form_batch(&requests, shape, shape.prefill_chunk)
            .iter()
            .map(|it| (it.index, it.num_new, it.samples))
            .collect()
    };
    let shape = sim::shape(600, 100, false);
    assert_eq!(planned(&shape), [(0, 50, true), (1, 14, false)]);
    assert_eq!(planned(&ModelShape { step_tokens: 0, ..shape }), [(0, 1, false)]);
}

#[test]
fn prompts_that_cannot_be_cut_are_computed_whole_or_wait() {
    let lens = [50, 30, 10, 4];
    let requests: Vec<Request> =
        lens.map(|len| request(0, novel(1, len), Sampling::default())).into();
    let shape = ModelShape { whole: true, ..sim::shape(64, 100, false) };
    let planned = form_batch(&requests, &shape, shape.step_tokens);
    let planned: Vec<_> = planned.iter().map(|it| (it.index, it.num_new)).collect();
    assert_eq!(planned, [(0, 50), (2, 10), (3, 4)]);
}

#[test]
fn decoding_neighbours_share_a_rectangle_and_a_prompt_has_its_own() {
    let mut bench = Bench::new(sim::shape(600, 100, false));
    (0..3).for_each(|number| bench.submit(novel(number, 4)));
    let plan = bench.step(&[91, 92, 93]);
    assert_eq!(plan.rects, [rect(0, 1, 4, 0), rect(1, 1, 4, 4), rect(2, 1, 4, 8)]);
    assert_eq!(plan.sampled, [3, 7, 11]);
    bench.submit(novel(3, 40));
    let plan = bench.plan();
    assert_eq!(plan.rects, [rect(0, 3, 1, 0), rect(3, 1, 32, 3)], "a chunk of 32");
    assert_eq!(plan.tokens[..3], [91, 92, 93]);
    assert_eq!(plan.positions[..5], [4, 4, 4, 0, 1]);
    assert_eq!(plan.sampled, [0, 1, 2]);
}

#[test]
fn drafts_lie_behind_the_rectangle_that_the_row_shares() {
    let mut bench = Bench::new(sim::shape(600, 100, false));
    bench.submit(novel(1, 4));
    bench.submit(periodic());
    bench.submit(novel(2, 4));
    bench.step(&[91, 4, 93]);
    let plan = bench.plan();
    assert_eq!(plan.rects, [rect(0, 3, 1, 0), rect(1, 1, 6, 3)]);
    assert_eq!(plan.tokens, [91, 4, 93, 5, 1, 2, 3, 4, 5]);
    assert_eq!(plan.positions, [4, 13, 4, 14, 15, 16, 17, 18, 19]);
    assert_eq!(plan.sampled, [0, 1, 3, 4, 5, 6, 7, 8, 2], "row by row");
    assert_eq!(plan.samplers.iter().map(|it| it.first).collect::<Vec<_>>(), [0, 1, 8]);
}

#[test]
fn a_gap_between_rows_parts_their_rectangle() {
    let mut bench = Bench::new(sim::shape(600, 100, false));
    (0..4).for_each(|number| bench.submit(novel(number, 4)));
    bench.step(&[91, 92, 93, 94]);
    assert!(bench.scheduler.abort(RequestId(1), &mut Vec::new()));
    assert_eq!(bench.plan().rects, [rect(0, 1, 1, 0), rect(2, 2, 1, 1)]);
}

#[test]
fn a_padded_slab_is_one_rectangle_of_a_common_width() {
    let mut bench = Bench::new(sim::shape(600, 200, true));
    bench.submit(novel(1, 4));
    bench.submit(periodic());
    bench.submit(novel(2, 4));
    let plan = bench.step(&[91, 4, 93]);
    assert!(plan.rects.iter().all(|it| (it.rows, it.width) == (1, 64)), "prompts are padded, too");
    let plan = bench.plan();
    let drafts = plan.samplers[1].num_drafts as usize;
    assert!(drafts > 1, "{drafts} drafts");
    let width = [2, 3, 5, 9].into_iter().find(|&it| it > drafts).unwrap();
    assert_eq!(plan.rects, [rect(0, 4, width as u32, 0)]);
    assert_eq!(plan.tokens[..2], [91, 0]);
    assert_eq!(plan.tokens[width..width + 3], [4, 5, 1]);
    assert_eq!(plan.positions[width..width + 2], [13, 14]);
    assert_eq!(plan.positions[3 * width..], (0..width as u32).collect::<Vec<_>>(), "an empty slot");
}

#[test]
fn padding_of_a_row_in_mid_prompt_lies_behind_what_it_has() {
    let mut bench = Bench::new(ModelShape { slab_slots: 2, ..sim::shape(600, 200, true) });
    bench.submit(novel(1, 4));
    bench.submit(novel(2, 100));
    bench.step(&[91]);
    let plan = bench.step(&[92]);
    assert_eq!((plan.rects[0].rows, plan.rects[0].width), (2, 1));
    assert_eq!((plan.rects[1].slot, plan.rects[1].width), (1, 64), "32 tokens and padding");
    assert_eq!(plan.positions[..3], [4, 60, 60], "the padding, then the prompt over it");
    assert_eq!(plan.tokens[1..3], [0, 2061]);
}

#[test]
fn a_packed_step_has_a_word_for_everything_in_it() {
    let mut bench = Bench::new(sim::shape(600, 100, false));
    bench.submit(novel(1, 4));
    let sampling = Sampling { bias: vec![(5, 1.0), (6, -1.0)], ..Sampling::default() };
    bench.submit_with(periodic(), sampling);
    let plan = bench.plan();
    let words = plan.pack();
    let sizes = [plan.kv_ops.len(), plan.rects.len(), plan.tokens.len(), 2, plan.sampled.len(), 2];
    assert_eq!(words[..8], [[0].as_slice(), &sizes.map(|it| it as u32), &[0]].concat());
    let [ops, rects, tokens, samplers, sampled, edits] = sizes;
    let fixed = 6 * (ops + rects + edits);
    assert_eq!(words.len(), 8 + fixed + 10 * samplers + 2 * tokens + 3 * sampled);
    let first_token = 8 + 6 * (ops + rects);
    assert_eq!(words[first_token..first_token + tokens], plan.tokens);
}

#[test]
fn what_a_grammar_forces_is_drafted_before_what_text_says_and_text_goes_on_where_it_agrees() {
    for (forced, drafts) in [([5, 1], [5, 1, 2]), ([5, 9], [5, 9, 0]), ([7, 8], [7, 8, 0])] {
        let mut bench = Bench::new(sim::shape(600, 100, false));
        bench.submit_with(periodic(), Sampling { constraint: 1, ..Sampling::default() });
        let plan = bench.plan();
        let mut words = vec![0, 4, 2];
        words.extend(forced);
        let outcome = StepOutcome::unpack(&plan, &words);
        assert!(outcome.fits(&plan));
        assert!(!StepOutcome::unpack(&plan, &words[..2]).fits(&plan), "no word of the grammar");
        bench.scheduler.commit(&plan, &outcome, 1.0, &mut Vec::new());
        let drafted: Vec<u32> = bench.plan().rows[0].drafts.iter().map(|it| it.token).collect();
        let expected: Vec<u32> = drafts.into_iter().filter(|&token| token > 0).collect();
        assert!(drafted.starts_with(&expected), "{forced:?} brought {drafted:?}");
        assert!(drafted.len() == expected.len() || forced == [5, 1], "{drafted:?}");
    }
}
