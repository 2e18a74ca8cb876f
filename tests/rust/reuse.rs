//! What requests reuse of each other's KV, and who gives way when blocks are short.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may")]

mod sim;

use mlxspec_scheduler::config::{ModelShape, SchedulerConfig};
use mlxspec_scheduler::ids::RequestId;

use sim::script::Wish;
use sim::world::World;
use sim::{Fault, config, shape};

fn world(shape: ModelShape) -> World {
    World::new(config(), &[shape])
}

/// All tokens of a request, prompt and output.
fn tokens(world: &World, at: usize) -> Vec<u32> {
    world.requests[at].script.tokens.clone()
}

/// Run a request that begins with these tokens; how many of them it did not compute.
fn turn(world: &mut World, beginning: &[u32], wish: Wish) -> u32 {
    world.resume(0, beginning, wish);
    world.drain();
    world.requests.last().unwrap().stats().num_cached_tokens
}

#[test]
fn the_next_turn_of_a_chat_computes_its_new_message_and_no_more() {
    for padded in [false, true] {
        let mut world = world(shape(4000, 200, padded));
        let mut chat = Vec::new();
        for at in 0..10 {
            let before = world.runners[0].seen.prefilled;
            let cached = turn(&mut world, &chat, Wish::plain(30, 50));
            // The last token of an answer is known, and its KV is not.
            assert!(cached as usize + 1 >= chat.len(), "{cached} of {}", chat.len());
            assert!(world.runners[0].seen.prefilled - before <= 31);
            chat = tokens(&world, at);
        }
    }
}

#[test]
fn a_lone_chat_needs_no_second_row_and_no_copy() {
    let mut world = world(shape(500, 32, false));
    turn(&mut world, &[], Wish::plain(300, 20));
    let first = tokens(&world, 0);
    assert_eq!(turn(&mut world, &first, Wish::plain(30, 20)), 319);
    assert_eq!(world.runners[0].seen.copies, 0);
    assert_eq!(world.scheduler.resident().next().unwrap().kv().num_evictions(), 0);
}

#[test]
fn chats_that_share_a_beginning_copy_it_and_keep_their_own_ends() {
    let mut world = world(shape(2000, 400, false));
    turn(&mut world, &[], Wish::plain(200, 20));
    let system = tokens(&world, 0)[..180].to_vec();
    assert_eq!(turn(&mut world, &system, Wish::plain(20, 20)), 180);
    let first = tokens(&world, 0);
    assert_eq!(turn(&mut world, &first, Wish::plain(20, 20)), 219, "the first is still there");
}

#[test]
fn a_request_reuses_what_a_running_one_has_computed() {
    let mut world = world(shape(2000, 400, false));
    world.submit(0, Wish::plain(100, 60));
    (0..3).for_each(|_| assert!(world.step(None)));
    let beginning = tokens(&world, 0)[..100].to_vec();
    assert_eq!(turn(&mut world, &beginning, Wish::plain(20, 20)), 96, "full blocks alone");
}

#[test]
fn of_many_that_begin_alike_one_computes_and_the_others_follow() {
    for padded in [false, true] {
        let mut world = world(shape(2000, 800, padded));
        turn(&mut world, &[], Wish::plain(400, 1));
        let beginning = tokens(&world, 0)[..330].to_vec();
        let before = world.runners[0].seen.prefilled;
        (0..8).for_each(|_| world.resume(0, &beginning, Wish { salt: 1, ..Wish::plain(20, 20) }));
        world.drain();
        let prefilled = world.runners[0].seen.prefilled - before;
        assert!(prefilled < 330 + 8 * (20 + 16), "{prefilled} tokens prefilled");
        let cached = world.requests[1..].iter().map(|it| it.stats().num_cached_tokens);
        assert_eq!(cached.filter(|&it| it >= 320).count(), 7);
    }
}

#[test]
fn a_copy_that_failed_is_not_taken_for_computed() {
    let mut world = world(shape(2000, 400, false));
    turn(&mut world, &[], Wish::plain(200, 20));
    let beginning = tokens(&world, 0)[..180].to_vec();
    for len in [500, 200, 200] {
        world.submit(0, Wish::plain(len, 8));
    }
    world.step(None);
    assert!(world.abort(RequestId(3)), "its slot is for the copy, beside one who waits for budget");
    world.resume(0, &beginning, Wish::plain(20, 8));
    world.step(Some(Fault::KvOps));
    world.drain();
    let preemptions = [2, 4].map(|at: usize| world.requests[at].stats().preemptions);
    assert_eq!(preemptions, [1, 1], "both were in the slab that the copy should have gone to");
}

#[test]
fn other_salts_compute_for_themselves() {
    let mut world = world(shape(2000, 400, false));
    turn(&mut world, &[], Wish::plain(100, 20));
    let beginning = tokens(&world, 0)[..100].to_vec();
    let salted = Wish { salt: 1, ..Wish::plain(20, 20) };
    assert_eq!(turn(&mut world, &beginning, salted), 0);
    assert_eq!(turn(&mut world, &beginning, salted), 100);
}

#[test]
fn without_the_cache_nothing_is_kept() {
    let mut world =
        World::new(SchedulerConfig { prefix_cache: false, ..config() }, &[shape(2000, 400, false)]);
    turn(&mut world, &[], Wish::plain(100, 20));
    let beginning = tokens(&world, 0);
    assert_eq!(turn(&mut world, &beginning, Wish::plain(20, 20)), 0);
    assert!(world.runners[0].slabs.is_empty());
}

#[test]
fn cached_rows_give_way_to_whoever_needs_their_blocks() {
    let mut world = world(shape(1000, 64, false));
    for _ in 0..12 {
        turn(&mut world, &[], Wish::plain(200, 20));
    }
    world.submit(0, Wish::plain(900, 40));
    world.drain();
    assert_eq!(world.requests[12].stats().preemptions, 0);
    assert_eq!(world.scheduler.resident().next().unwrap().kv().num_evictions(), 8 + 4);
}

#[test]
fn those_who_wait_do_not_evict_each_others_history() {
    let mut world = world(shape(1000, 160, false));
    let chats: Vec<Vec<u32>> = (0..8)
        .map(|at| {
            turn(&mut world, &[], Wish::plain(150, 20));
            tokens(&world, at)
        })
        .collect();
    for chat in &chats {
        world.resume(0, chat, Wish::plain(20, 20));
    }
    world.drain();
    let cached = world.requests[8..].iter().map(|it| it.stats().num_cached_tokens);
    assert!(cached.filter(|&it| it == 169).count() >= 6, "most of them are reused");
}

#[test]
fn a_preempted_request_takes_up_what_is_still_cached() {
    let [with, without] = [true, false].map(|prefix_cache| {
        let mut world =
            World::new(SchedulerConfig { prefix_cache, ..config() }, &[shape(900, 120, false)]);
        for number in 0..4 {
            world.submit(0, Wish::plain(240 + number, 300));
        }
        world.drain();
        let preempted = world.requests.iter().map(|it| it.stats().preemptions).sum::<u32>();
        assert!(preempted >= 2, "{preempted} preempted");
        world.runners[0].seen.prefilled
    });
    assert!(with < without, "{with} tokens prefilled, {without} without the cache");
}

#[test]
fn a_draft_model_reads_only_what_is_new_either() {
    for padded in [false, true] {
        let mut world = world(shape(2000, 400, padded)).drafted(config(), 0.01);
        let sampled = Wish { temperature: 0.8, ..Wish::plain(300, 100) };
        turn(&mut world, &[], sampled);
        let mut chat = tokens(&world, 0);
        // Alone it runs in the cached row itself, beside others in a copy.
        for beside in [0, 3] {
            (0..beside).for_each(|_| world.submit(0, Wish { speculate: false, ..sampled }));
            let read = world.runners[0].draft_model.read;
            turn(&mut world, &chat, Wish { num_prompt: 30, max_tokens: 50, ..sampled });
            let new = world.runners[0].draft_model.read - read;
            // It may lag behind what it was not asked to draft for.
            assert!(2 * new < chat.len() as u64, "{new} tokens read");
            chat = tokens(&world, world.requests.len() - 1);
        }
        assert!(world.runners[0].draft_model.written > 0);
    }
}

#[test]
fn what_is_gathered_of_a_prompt_is_computed_again_and_cached_only_with_an_answer() {
    let mut world = world(shape(2000, 400, false));
    turn(&mut world, &[], Wish::plain(100, 20));
    let beginning = tokens(&world, 0)[..100].to_vec();
    for max_tokens in [0, 20] {
        let gathered = Wish { harvest: true, ..Wish::plain(20, max_tokens) };
        assert_eq!(turn(&mut world, &beginning, gathered), 0);
    }
    let (read, answered) = (tokens(&world, 1), tokens(&world, 2));
    assert_eq!(read.len(), 120, "no token was drawn");
    assert_eq!(turn(&mut world, &read, Wish::plain(20, 20)), 100);
    assert_eq!(turn(&mut world, &answered, Wish::plain(20, 20)), 139);
}
