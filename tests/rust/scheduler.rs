//! Every history of submits, aborts, steps and failed steps, against a model that checks each read.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may")]

mod sim;

use std::time::Duration;

use mlxspec_scheduler::action::{Action, LoadEnd};
use mlxspec_scheduler::config::{Balance, Limit, ModelShape, ModelShare, SchedulerConfig};
use mlxspec_scheduler::error::{Refusal, SubmitError};
use mlxspec_scheduler::ids::{ModelId, RequestId};
use mlxspec_scheduler::model::Model;
use mlxspec_scheduler::request::{Finish, Request};
use mlxspec_scheduler::residency::Order;
use mlxspec_scheduler::scheduler::Scheduler;
use proptest::prelude::*;

use sim::disk::SEGMENT_BYTES;
use sim::script::{Script, Wish};
use sim::world::{Op, World};
use sim::{Fault, shape};

fn config() -> SchedulerConfig {
    SchedulerConfig { shared_suffix_bytes: 1 << 16, ..sim::config() }
}

fn any_shape() -> impl Strategy<Value = ModelShape> {
    let cost = prop_oneof![
        3 => Just((vec![(1, 1.0), (256, 1.0)], 0.0)),
        1 => Just((vec![(1, 1.0), (8, 1.2), (64, 4.0)], 0.1)),
        1 => Just((vec![(1, 1.0), (64, 64.0)], 0.0)),
        1 => Just((Vec::new(), 0.5)),
    ];
    let sizes = (prop_oneof![8_u32..100, 250_u32..260, 300_u32..1100], 16_u32..200, 1_u32..=8);
    let budget = (1_u32..200, 1_u32..80, prop_oneof![Just(1_u32), Just(64), Just(256)]);
    let rest = (any::<bool>(), any::<bool>(), cost);
    (sizes, budget, rest).prop_map(|(sizes, budget, (padded, takes_drafter, cost))| ModelShape {
        slab_slots: sizes.2,
        step_tokens: budget.0,
        prefill_chunk: budget.1,
        view_step: budget.2,
        step_cost: cost.0,
        rect_cost: cost.1,
        takes_drafter,
        ..shape(sizes.0, sizes.1, padded)
    })
}

fn any_share() -> impl Strategy<Value = ModelShare> {
    let balance =
        prop_oneof![Just(Balance::RoundRobin), Just(Balance::LeastLoaded), Just(Balance::Prefix),];
    let fields = (0.1_f32..8.0, 1_u32..4, balance);
    fields.prop_map(|(weight, instances, balance)| ModelShare { weight, instances, balance })
}

fn any_limit() -> impl Strategy<Value = Limit> {
    let models = prop_oneof![Just(vec![0]), Just(vec![1]), Just(vec![0, 1])];
    (models, 1_usize..5).prop_map(|(models, max_running)| limit(&models, max_running))
}

fn limit(models: &[u32], max_running: usize) -> Limit {
    Limit { models: models.iter().copied().map(ModelId).collect(), max_running }
}

fn any_config() -> impl Strategy<Value = SchedulerConfig> {
    let (on, cached) = (prop::bool::weighted(0.9), prop::bool::weighted(0.9));
    let adaptive = prop::bool::weighted(0.8);
    let shared = prop_oneof![Just(0_usize), Just(2000), Just(1 << 16)];
    let budget = prop_oneof![Just(1e3_f32), 0.1_f32..4.0];
    let none = || Just(Vec::new());
    let of_models = prop_oneof![2 => none(), 1 => prop::collection::vec(any_share(), 2)];
    let limits = prop_oneof![
        2 => Just(Vec::new()),
        1 => prop::collection::vec(any_limit(), 1..3),
    ];
    (1_usize..12, (on, 0_usize..40, adaptive, shared), budget, cached, of_models, limits).prop_map(
        |(
            max_running,
            (speculation, max_draft, adaptive, shared),
            inter_token_ms,
            prefix_cache,
            shares,
            limits,
        )| {
            SchedulerConfig {
                shares,
                limits,
                max_running,
                speculation,
                max_draft,
                adaptive,
                shared_suffix_bytes: shared,
                inter_token_ms,
                prefix_cache,
                ..sim::config()
            }
        },
    )
}

fn any_wish() -> impl Strategy<Value = Wish> {
    let edge = |at: usize| (at - 12)..(at + 12);
    let num_prompt = prop_oneof![3 => 1_usize..40, 2 => edge(192), 2 => edge(256), 1 => edge(512)];
    let max_tokens = prop_oneof![1 => Just(0), 4 => 1_u32..40, 1 => 40_u32..200];
    let temperature = prop_oneof![Just(0.0_f32), Just(0.8)];
    let stop = prop::option::weighted(0.2, Just(5));
    let speculate = prop::bool::weighted(0.8);
    let predicted = prop::bool::weighted(0.3);
    let salt = prop_oneof![7 => Just(0_u8), 1 => Just(1)];
    let max_draft = prop_oneof![3 => Just(u32::MAX), 1 => 1_u32..6];
    let priority = prop_oneof![3 => Just(0), 1 => -3..=3];
    let drafts = (speculate, predicted, max_draft, prop::bool::weighted(0.2));
    (num_prompt, max_tokens, temperature, stop, drafts, salt, priority).prop_map(
        |(num_prompt, max_tokens, temperature, stop, drafts, salt, priority)| Wish {
            num_prompt,
            max_tokens,
            temperature,
            stop,
            speculate: drafts.0,
            predicted: drafts.1,
            max_draft: drafts.2,
            harvest: drafts.3,
            salt,
            priority,
        },
    )
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0_usize..2, any_wish()).prop_map(|(model, wish)| Op::Submit(model, wish)),
        3 => (0_usize..1000, 0_usize..300, any_wish())
            .prop_map(|(at, shared, wish)| Op::Resume(at, shared, wish)),
        2 => (0_usize..1000, any_wish())
            .prop_map(|(at, wish)| Op::Resume(at, usize::MAX, wish)),
        1 => (0_usize..1000, 2_usize..5, any_wish())
            .prop_map(|(at, copies, wish)| Op::Fork(at, copies, wish)),
        2 => (0_usize..1000).prop_map(Op::Abort),
        1 => (0_usize..1000).prop_map(Op::Expire),
        1 => (0_usize..3).prop_map(Op::Evict),
        2 => (1_usize..4).prop_map(Op::Save),
        1 => (0_usize..1000).prop_map(Op::Lose),
        24 => Just(Op::Step),
        1 => prop_oneof![Just(Fault::Forward), Just(Fault::KvOps)].prop_map(Op::FailStep),
        1 => any::<bool>().prop_map(Op::Short),
        1 => prop_oneof![Just(Op::ShrinkCaches), Just(Op::RefusePrefill)],
    ]
}

/// Operations in one history; the books are checked after each.
const OPS: usize = 200;

/// What a server is started with, and what happens to it.
#[derive(Debug)]
struct History {
    config: SchedulerConfig,
    shapes: Vec<ModelShape>,
    disk_bytes: u64,
    /// What a forward costs of the draft model that they share.
    draft_ms: Option<f32>,
    ops: Vec<Op>,
}

prop_compose! {
    fn any_history()(
        config in any_config(),
        shapes in prop::collection::vec(any_shape(), 1..3),
        disk_bytes in prop_oneof![Just(0), Just(6 * SEGMENT_BYTES), Just(1000 * SEGMENT_BYTES)],
        draft_ms in prop::option::of(prop_oneof![Just(0.01_f32), Just(0.3)]),
        ops in prop::collection::vec(any_op(), OPS),
    ) -> History {
        let keyed = |(at, shape): (usize, ModelShape)| {
            ModelShape { kv_key: (disk_bytes > 0).then(|| format!("weights {at}")), ..shape }
        };
        let shapes = shapes.into_iter().enumerate().map(keyed).collect();
        History { config, shapes, disk_bytes, draft_ms, ops }
    }
}

impl History {
    /// Whatever happens, each request ends once, with what it says alone.
    fn live_through(&self) {
        let mut world = World::with_disk(self.config.clone(), &self.shapes, self.disk_bytes);
        if let Some(ms) = self.draft_ms {
            world = world.drafted(self.config.clone(), ms);
        }
        for op in &self.ops {
            world.apply(op);
        }
        world.drain();
    }
}

fn histories(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(histories(1024))]

    #[test]
    fn whatever_happens_each_request_ends_once_with_what_it_says_alone(history in any_history()) {
        history.live_through();
    }
}

proptest! {
    #![proptest_config(histories(1_000_000 / OPS as u32))]

    #[test]
    #[ignore = "takes a minute or two: make histories"]
    fn a_million_operations_leave_the_books_in_order(history in any_history()) {
        history.live_through();
    }
}

#[test]
fn a_tiny_pool_preempts_grows_and_drafts_and_nobody_notices() {
    for padded in [false, true] {
        let mut world = World::new(config(), &[shape(900, 100, padded)]);
        for number in 0..12 {
            world.submit(0, Wish::plain(180 + number, 300));
        }
        world.drain();
        let seen = world.runners[0].seen;
        let preempted = world.requests.iter().filter(|it| it.stats().preemptions > 0).count();
        assert!(preempted > 2, "{preempted} preempted");
        assert!(seen.copies > 2 && seen.kept > 300 && seen.shared_rects > 100, "{seen:?}");
        assert!(world.requests.iter().all(|it| it.finish() == &Finish::Length));
    }
}

#[test]
fn drafts_save_steps_and_change_nothing() {
    let steps = [true, false].map(|speculation| {
        let mut world =
            World::new(SchedulerConfig { speculation, ..config() }, &[shape(600, 64, false)]);
        world.submit(0, Wish::plain(40, 400));
        world.drain();
        world.runners[0].seen.steps
    });
    assert!(steps[0] * 4 < steps[1] * 3, "{steps:?}");
}

#[test]
fn a_plain_model_is_never_drafted_for_and_moves_whole_rows_only() {
    let mut world = World::new(config(), &[ModelShape { plain: true, ..shape(900, 100, false) }]);
    for number in 0..12 {
        world.submit(0, Wish::plain(180 + number, 300));
    }
    world.drain();
    world.submit(0, Wish::plain(180, 300));
    world.drain();
    let seen = world.runners[0].seen;
    assert_eq!(seen.drafts, 0);
    assert!(seen.copies > 2 && seen.shared_rects > 100, "{seen:?}");
    assert!(world.requests.iter().all(|it| it.stats().num_cached_tokens == 0));
}

/// A model that drafts in no time.
fn drafted_for(padded: bool) -> World {
    World::new(config(), &[shape(900, 100, padded)]).drafted(config(), 0.01)
}

#[test]
fn a_draft_model_follows_its_requests_through_growth_and_preemption() {
    for padded in [false, true] {
        let mut world = drafted_for(padded);
        for number in 0..12 {
            world.submit(0, Wish::plain(180 + number, 300));
        }
        world.drain();
        let preempted = world.requests.iter().filter(|it| it.stats().preemptions > 0).count();
        let (seen, written) = (world.runners[0].seen, world.runners[0].draft_model.written);
        assert!(preempted > 2 && seen.copies > 2, "{preempted} preempted, {seen:?}");
        assert!(written > 500, "{written} of {seen:?}");
    }
}

#[test]
fn a_draft_model_saves_steps() {
    let plain = World::new(config(), &[shape(900, 100, false)]);
    let steps = [drafted_for(false), plain].map(|mut world| {
        world.submit(0, Wish { temperature: 0.8, ..Wish::plain(40, 400) });
        world.drain();
        world.runners[0].seen.steps
    });
    assert!(steps[0] * 5 < steps[1] * 4, "{steps:?}");
}

#[test]
fn a_draft_model_leaves_and_comes_back_amid_requests_of_two_models() {
    let shapes = [shape(900, 100, false), shape(900, 100, true)];
    let mut world = World::new(config(), &shapes).drafted(config(), 0.01);
    let steps =
        |world: &mut World, count: usize| (0..count).for_each(|_| assert!(world.step(None)));
    let written = |world: &World| [0, 1].map(|at: usize| world.runners[at].draft_model.written);
    (0..2).for_each(|model| world.submit(model, Wish::plain(60, 500)));
    steps(&mut world, 20);
    let first = written(&world);
    assert!(first.iter().all(|&it| it > 0), "one model drafts for both");
    world.scheduler.evict_idle();
    steps(&mut world, 20);
    assert_eq!(written(&world), first, "it drafts, and was let go");
    world.pass(Duration::from_secs(60));
    steps(&mut world, 20);
    assert!(written(&world).iter().zip(first).all(|(&now, then)| now > then), "it stays away");
    world.drain();
    assert!(world.requests.iter().all(|it| it.finish() == &Finish::Length));
}

#[test]
fn a_failed_draft_model_is_given_up_and_ends_nobody() {
    for fault in [Fault::KvOps, Fault::Forward] {
        let mut world = drafted_for(false);
        world.submit(0, Wish::plain(300, 60));
        world.submit(0, Wish::plain(300, 60));
        (0..12).for_each(|_| assert!(world.step(None)));
        let written = world.runners[0].draft_model.written;
        assert!(written > 0);
        world.step(Some(fault));
        world.drain();
        assert_eq!(world.runners[0].draft_model.written, written);
        assert!(world.requests.iter().all(|it| it.finish() == &Finish::Length));
    }
}

#[test]
fn a_failed_step_ends_its_requests_and_the_others_start_again() {
    for fault in [Fault::KvOps, Fault::Forward] {
        let mut world = World::new(config(), &[shape(900, 200, false)]);
        world.submit(0, Wish::plain(300, 8));
        world.submit(0, Wish::plain(300, 8));
        world.step(None);
        world.step(Some(fault));
        let ended = [0, 1].map(|at| world.requests[at].end.is_some());
        assert_eq!(ended, [true, false], "only the first one was in the step");
        world.drain();
        assert_eq!(world.requests[1].stats().preemptions, 1);
    }
}

#[test]
fn a_failed_step_takes_the_kv_of_those_in_its_slabs_who_were_not_in_it() {
    let mut world = World::new(config(), &[shape(900, 200, false)]);
    let late = world.prepare(0, Wish::plain(200, 8)).unwrap();
    world.submit(0, Wish::plain(200, 8));
    world.submit(0, Wish::plain(200, 8));
    world.step(None);
    world.step(None);
    assert!(world.abort(RequestId(2)), "its slot is for the late one, who computes first");
    world.send(late);
    world.step(Some(Fault::Forward));
    world.drain();
    let preemptions = [0, 1].map(|at| world.requests[at].stats().preemptions);
    assert_eq!(preemptions, [0, 1]);
    assert!(matches!(world.requests[0].finish(), Finish::Failed(_)));
}

#[test]
fn models_with_work_take_turns() {
    let mut world = World::new(config(), &[shape(300, 64, false), shape(300, 64, true)]);
    (0..2).for_each(|model| world.submit(model, Wish::plain(8, 40)));
    for _ in 0..22 {
        world.step(None);
    }
    assert_eq!([0, 1].map(|model: usize| world.runners[model].seen.steps), [10, 10]);
    world.drain();
}

#[test]
fn models_share_the_device_by_weight() {
    let share = |weight| ModelShare { weight, ..ModelShare::default() };
    let shares = vec![share(3.0), share(1.0)];
    let long = shape(900, 128, false);
    let mut world = World::new(SchedulerConfig { shares, ..config() }, &[long.clone(), long]);
    (0..2).for_each(|model| {
        world.submit(model, Wish { speculate: false, ..Wish::plain(8, 400) });
    });
    for _ in 0..202 {
        world.step(None);
    }
    assert_eq!([0, 1].map(|model: usize| world.runners[model].seen.steps), [150, 50]);
    world.drain();
}

/// Requests in each of the model's instances.
fn loads(world: &World) -> Vec<usize> {
    let instances = world.scheduler.instances(ModelId(0));
    instances.map(|it| it.num_waiting() + it.num_running()).collect()
}

fn spread(balance: Balance, instances: u32) -> World {
    let shares = vec![ModelShare { weight: 1.0, instances, balance }];
    let mut world = World::new(SchedulerConfig { shares, ..config() }, &[shape(900, 400, false)]);
    world.step(None);
    world
}

#[test]
fn instances_take_requests_in_turn_or_by_load() {
    let mut in_turn = spread(Balance::RoundRobin, 3);
    (0..4).for_each(|_| in_turn.submit(0, Wish::plain(8, 40)));
    assert_eq!(loads(&in_turn), [2, 1, 1]);
    assert!(in_turn.abort(RequestId(1)));
    in_turn.submit(0, Wish::plain(8, 40));
    assert_eq!(loads(&in_turn), [2, 1, 1], "it was the second one's turn");
    in_turn.submit(0, Wish::plain(8, 40));
    assert_eq!(loads(&in_turn), [2, 1, 2], "whatever the load");
    in_turn.drain();

    let mut by_load = spread(Balance::LeastLoaded, 3);
    (0..5).for_each(|_| by_load.submit(0, Wish::plain(8, 40)));
    assert_eq!(loads(&by_load), [2, 2, 1]);
    for id in [0, 3] {
        assert!(by_load.abort(RequestId(id)));
    }
    (0..2).for_each(|_| by_load.submit(0, Wish::plain(8, 40)));
    assert_eq!(loads(&by_load), [1, 2, 2], "the emptiest first, and in turn");
    by_load.drain();
}

#[test]
fn a_conversation_goes_where_its_prefix_is() {
    let mut world = spread(Balance::Prefix, 3);
    for _ in 0..3 {
        world.submit(0, Wish::plain(100, 10));
        world.drain();
    }
    // Each went to an instance of its own; their next turns go back there, in any order.
    for earlier in [2, 0, 1, 1, 2] {
        let beginning = world.requests[earlier].script.tokens.clone();
        world.resume(0, &beginning, Wish::plain(10, 10));
        world.drain();
        let cached = world.requests.last().unwrap().stats().num_cached_tokens;
        assert!(cached >= 96, "{cached} tokens cached");
    }
    // What is new goes where there is least to do.
    let beginning = world.requests[0].script.tokens.clone();
    world.resume(0, &beginning, Wish::plain(10, 10));
    world.submit(0, Wish::plain(100, 10));
    world.submit(0, Wish::plain(100, 10));
    assert_eq!(loads(&world), [1, 1, 1]);
    world.drain();
}

#[test]
fn a_full_instance_takes_no_conversation_for_its_prefix() {
    let shares = vec![ModelShare { instances: 2, ..ModelShare::default() }];
    let limited = SchedulerConfig { shares, max_running: 2, ..config() };
    let mut world = World::new(limited, &[shape(900, 400, false)]);
    world.submit(0, Wish::plain(100, 10));
    world.drain();
    let beginning = world.requests[0].script.tokens.clone();
    for _ in 0..3 {
        world.resume(0, &beginning, Wish::plain(10, 10));
    }
    assert_eq!(loads(&world), [2, 1]);
    world.drain();
}

#[test]
fn a_limit_holds_over_models_and_instances_and_the_first_in_line_go_first() {
    let shares = vec![ModelShare { instances: 2, ..ModelShare::default() }; 2];
    let limits = vec![limit(&[0, 1], 2)];
    let limited = SchedulerConfig { shares, limits, ..config() };
    let alike = [shape(300, 400, false), shape(300, 400, false)];
    let mut world = World::new(limited, &alike);
    for model in [0, 0, 1, 0, 1, 1, 0, 0, 1] {
        world.submit(model, Wish { speculate: false, ..Wish::plain(8, 10) });
    }
    while world.step(None) {
        assert!(world.scheduler.num_requests().1 <= 2);
        world.scheduler.check_integrity().unwrap();
    }
    world.drain();
    let queued: Vec<_> = world.requests.iter().map(|it| it.stats().queued_ns).collect();
    assert!(queued.is_sorted(), "{queued:?}");
    assert!(queued[8] > queued[0], "somebody waited");
}

#[test]
fn one_model_may_be_held_to_fewer_requests_than_another() {
    let limits = vec![limit(&[1], 1)];
    let shapes = [shape(300, 400, false), shape(300, 400, false)];
    let mut world = World::new(SchedulerConfig { limits, ..config() }, &shapes);
    (0..8).for_each(|at| world.submit(at % 2, Wish::plain(8, 40)));
    for _ in 0..8 {
        world.step(None);
    }
    let running = [0, 1].map(|at| {
        let instances = world.scheduler.instances(ModelId(at));
        instances.map(Model::num_running).sum::<usize>()
    });
    assert_eq!(running, [4, 1]);
    world.drain();
}

#[test]
fn the_more_urgent_go_first_and_the_others_have_their_turn() {
    let one_at_a_time = SchedulerConfig { max_running: 1, ..config() };
    let mut world = World::new(one_at_a_time, &[shape(300, 400, false)]);
    for priority in [0, 1, -1, 0] {
        world.submit(0, Wish { priority, ..Wish::plain(8, 4) });
    }
    world.drain();
    let queued = |at: usize| world.requests[at].stats().queued_ns;
    assert!(queued(2) < queued(0) && queued(0) < queued(3) && queued(3) < queued(1));
}

#[test]
fn who_has_waited_for_its_level_goes_before_the_urgent() {
    let one_at_a_time = SchedulerConfig { max_running: 1, ..config() };
    let mut world = World::new(one_at_a_time, &[shape(300, 400, false)]);
    world.submit(0, Wish { priority: 3, ..Wish::plain(8, 4) });
    world.pass(Duration::from_secs(29));
    world.submit(0, Wish::plain(8, 4));
    world.pass(Duration::from_secs(2));
    world.submit(0, Wish::plain(8, 4));
    world.drain();
    let began = |at: usize| world.requests[at].begun_ns();
    assert!(began(1) < began(0) && began(0) < began(2));
}

#[test]
fn drafts_are_as_short_as_their_request_wishes() {
    for draft_model in [false, true] {
        let plain = || World::new(config(), &[shape(900, 100, false)]);
        let mut world = if draft_model { drafted_for(false) } else { plain() };
        world.submit(0, Wish { max_draft: 2, ..Wish::plain(40, 200) });
        world.submit(0, Wish::plain(40, 200));
        world.drain();
        let longest = [0, 1].map(|at: usize| world.requests[at].stats().accepted.len() - 1);
        assert!(longest[0] == 2 && longest[1] > 2, "{longest:?}");
    }
}

#[test]
fn no_more_requests_run_than_allowed() {
    let mut world =
        World::new(SchedulerConfig { max_running: 3, ..config() }, &[shape(300, 400, false)]);
    (0..9).for_each(|_| world.submit(0, Wish::plain(8, 40)));
    for _ in 0..20 {
        world.step(None);
        assert!(world.scheduler.num_requests().1 <= 3);
    }
    assert_eq!(world.scheduler.num_requests(), (6, 3));
    world.drain();
}

#[test]
fn who_waits_for_a_model_that_cannot_be_loaded_is_told_its_reason() {
    let mut scheduler = Scheduler::new(config(), 1);
    let mut events = Vec::new();
    let request = |number: u32| {
        let script = Script::new(number, Wish::plain(4, 4), 8);
        Request::new(RequestId(number.into()), script.submission(ModelId(0)), 8, 0)
    };
    scheduler.submit(request(0), &mut events);
    scheduler.submit(request(1), &mut events);
    assert!(scheduler.abort(RequestId(1), &mut events), "it waits for the model, and can go");
    let load = Order::Load(ModelId(0));
    assert!(
        matches!(scheduler.next_action(0, &mut Vec::new()), Action::Residency(order) if order == load)
    );
    assert!(
        matches!(scheduler.next_action(0, &mut Vec::new()), Action::Idle),
        "a load is started once"
    );
    scheduler.load_ended(ModelId(0), LoadEnd::Failed("no such file".to_owned()), &mut events);
    scheduler.submit(request(2), &mut events);
    let ends: Vec<_> = events.into_iter().map(|it| (it.request.0, it.end.unwrap().0)).collect();
    let refused = |refusal| Finish::Refused(SubmitError::Unavailable(refusal));
    let failed = refused(Refusal::LoadFailed("no such file".to_owned()));
    let later = refused(Refusal::BackingOff { seconds: 5 });
    assert_eq!(ends, [(1, Finish::Aborted), (0, failed), (2, later)]);
    assert!(scheduler.is_idle());
}

#[test]
fn a_request_for_an_unknown_model_ends() {
    let mut events = Vec::new();
    let script = Script::new(0, Wish::plain(4, 4), 8);
    let request = Request::new(RequestId(0), script.submission(ModelId(3)), 8, 0);
    Scheduler::new(config(), 1).submit(request, &mut events);
    assert!(matches!(events[0].end, Some((Finish::Refused(_), _))));
}
