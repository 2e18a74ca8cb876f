//! KV that outlives its server: names that say nothing, a disk that stays within its limit, and
//! requests that go on where an earlier server's ended.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may")]

mod sim;

use std::collections::{HashSet, VecDeque};
use std::fs;

use mlxspec_scheduler::config::ModelShape;
use mlxspec_scheduler::segment::{SegmentName, names};
use mlxspec_scheduler::segment_folder::SegmentFolder;
use mlxspec_scheduler::segment_index::SegmentIndex;
use proptest::prelude::*;

use sim::disk::SEGMENT_BYTES;
use sim::script::Wish;
use sim::world::World;
use sim::{Fault, config, shape};

const PLENTY: u64 = 1000 * SEGMENT_BYTES;

fn kept(total_blocks: u32, padded: bool) -> ModelShape {
    ModelShape { kv_key: Some("weights".to_owned()), ..shape(2000, total_blocks, padded) }
}

fn world(max_bytes: u64) -> World {
    World::with_disk(config(), &[kept(400, false)], max_bytes)
}

fn tokens(world: &World, at: usize) -> Vec<u32> {
    world.requests[at].script.tokens.clone()
}

/// Run a request that begins with these tokens; how many of them it did not compute.
fn turn(world: &mut World, beginning: &[u32], wish: Wish) -> u32 {
    world.resume(0, beginning, wish);
    world.drain();
    world.requests.last().unwrap().stats().num_cached_tokens
}

fn chain(seed: u32, len: u32) -> Vec<SegmentName> {
    names("weights", "", &(0..128 * len).map(|it| it ^ seed).collect::<Vec<_>>())
}

#[test]
fn a_name_depends_on_the_key_the_salt_and_every_token_before() {
    let tokens: Vec<u32> = (0..300).collect();
    let all = names("weights", "anna", &tokens);
    assert_eq!(all.len(), 2, "whole segments alone");
    assert_eq!(all, names("weights", "anna", &tokens[..256]));
    let mut others = vec![names("weights", "bert", &tokens), names("others", "anna", &tokens)];
    for at in [0, 127, 128, 255] {
        let mut changed = tokens.clone();
        changed[at] += 1;
        let changed = names("weights", "anna", &changed);
        assert_eq!(changed[0] == all[0], at >= 128);
        others.push(changed);
    }
    assert!(others.iter().all(|it| it[1] != all[1]));
    let distinct: HashSet<_> = others.iter().map(|it| it[1]).collect();
    assert_eq!(distinct.len(), others.len());
}

#[test]
fn a_name_is_read_back_and_nothing_else_is_taken_for_one() {
    let [name] = chain(1, 1)[..] else { panic!() };
    let text = name.to_string();
    assert_eq!(SegmentName::parse(&text), Some(name));
    let upper = text.to_uppercase();
    for other in
        ["", "secret", &text[1..], &format!("{text}0"), &format!("+{}", &text[1..]), &upper]
    {
        assert_eq!(SegmentName::parse(other).map(|it| it.to_string()), None, "{other}");
    }
}

#[test]
fn a_restarted_server_computes_only_what_is_new() {
    for padded in [false, true] {
        let mut world = World::with_disk(config(), &[kept(400, padded)], PLENTY);
        turn(&mut world, &[], Wish::plain(600, 20));
        let chat = tokens(&world, 0);
        world.restart(config());
        // 619 tokens had KV: four segments of 128.
        assert_eq!(turn(&mut world, &chat, Wish::plain(30, 20)), 512);
        assert_eq!(world.disk.seen, (512, 4));
        let first = world.runners[0].seen.prefilled;
        assert!(first <= 650 - 512, "{first} tokens prefilled");
    }
}

#[test]
fn what_differs_midway_is_read_up_to_there() {
    let mut world = world(PLENTY);
    turn(&mut world, &[], Wish::plain(600, 20));
    let beginning = tokens(&world, 0)[..300].to_vec();
    world.restart(config());
    assert_eq!(turn(&mut world, &beginning, Wish::plain(30, 20)), 256);
}

#[test]
fn memory_comes_first_and_the_disk_fills_in_behind() {
    let mut world = world(PLENTY);
    turn(&mut world, &[], Wish::plain(600, 20));
    let chat = tokens(&world, 0);
    world.restart(config());
    assert_eq!(turn(&mut world, &chat[..200], Wish::plain(30, 20)), 128);
    let read = world.disk.seen.0;
    assert_eq!(turn(&mut world, &chat, Wish::plain(30, 20)), 512);
    assert_eq!(world.disk.seen.0 - read, 512 - 200, "what is in memory is not read");
}

#[test]
fn other_salts_and_other_models_find_nothing() {
    let mut first = world(PLENTY);
    turn(&mut first, &[], Wish::plain(300, 20));
    let chat = tokens(&first, 0);
    first.restart(config());
    let salted = Wish { salt: 1, ..Wish::plain(30, 20) };
    assert_eq!(turn(&mut first, &chat, salted), 0);
    assert_eq!(first.disk.seen.0, 0);
    let other = ModelShape { kv_key: Some("other weights".to_owned()), ..kept(400, false) };
    first.runners[0].shape = other;
    first.restart(config());
    assert_eq!(turn(&mut first, &chat, Wish::plain(30, 20)), 0);
}

#[test]
fn a_segment_that_cannot_be_read_is_given_up_and_its_prompt_computed() {
    let mut world = world(PLENTY);
    turn(&mut world, &[], Wish::plain(600, 20));
    let chat = tokens(&world, 0);
    world.restart(config());
    let third = names("weights", "salt 0", &chat)[2];
    assert!(world.disk.segments.remove(&third).is_some());
    assert_eq!(turn(&mut world, &chat, Wish::plain(30, 20)), 256);
    assert!(!world.scheduler.segments().contains(third));
    world.restart(config());
    assert_eq!(world.disk.seen.1, 4 + 2, "what was computed again, and the new end");
    assert_eq!(turn(&mut world, &chat, Wish::plain(30, 20)), 512);
}

#[test]
fn those_who_begin_alike_read_once() {
    let mut world = world(PLENTY);
    turn(&mut world, &[], Wish::plain(600, 20));
    let chat = tokens(&world, 0);
    world.restart(config());
    (0..4).for_each(|_| world.resume(0, &chat, Wish::plain(30, 20)));
    world.drain();
    assert_eq!(world.disk.seen.0, 512);
    let cached = world.requests[1..].iter().map(|it| it.stats().num_cached_tokens);
    assert!(cached.into_iter().all(|it| it >= 512));
}

#[test]
fn who_decodes_waits_for_one_read_at_most() {
    let mut world = world(PLENTY);
    turn(&mut world, &[], Wish::plain(600, 20));
    let chat = tokens(&world, 0);
    world.restart(config());
    world.submit(0, Wish { speculate: false, ..Wish::plain(20, 100) });
    (0..4).for_each(|_| assert!(world.step(None)));
    world.resume(0, &chat, Wish::plain(30, 20));
    while world.disk.seen.0 < 512 {
        let (before, steps) = (world.disk.seen.0, world.runners[0].seen.steps);
        (0..2).for_each(|_| assert!(world.step(None)));
        assert!(world.disk.seen.0 - before <= 128);
        assert!(world.runners[0].seen.steps > steps, "two reads without a step between");
    }
    world.drain();
}

#[test]
fn a_draft_model_reads_what_came_from_disk_itself() {
    let world = World::with_disk(config(), &[kept(400, false)], PLENTY);
    let mut world = world.drafted(config(), 0.01);
    turn(&mut world, &[], Wish::plain(300, 20));
    let chat = tokens(&world, 0);
    world.restart(config());
    let sampled = Wish { temperature: 0.8, ..Wish::plain(30, 100) };
    assert_eq!(turn(&mut world, &chat, sampled), 256);
    assert!(world.runners[0].draft_model.written > 0);
}

#[test]
fn a_full_disk_ends_the_writing_and_nothing_else() {
    let mut world = world(PLENTY);
    turn(&mut world, &[], Wish::plain(300, 20));
    let chat = tokens(&world, 0);
    world.save(1);
    world.scheduler.segments_mut().stop_saving();
    turn(&mut world, &[], Wish::plain(300, 20));
    world.restart(config());
    assert_eq!(world.disk.seen.1, 1);
    assert_eq!(turn(&mut world, &chat, Wish::plain(30, 20)), 128, "what is there is read");
}

#[test]
fn the_latest_prefix_is_written_first_and_a_shared_beginning_once() {
    let mut world = world(PLENTY);
    turn(&mut world, &[], Wish::plain(300, 1));
    let beginning = tokens(&world, 0)[..256].to_vec();
    turn(&mut world, &[], Wish::plain(200, 1));
    let last = tokens(&world, 1);
    world.save(1);
    assert!(world.disk.segments.contains_key(&names("weights", "salt 0", &last)[0]));
    (0..3).for_each(|_| assert!(turn(&mut world, &beginning, Wish::plain(150, 1)) > 0));
    world.restart(config());
    assert_eq!(world.disk.segments.len(), 1 + 2 + 3, "one, the shared ones, and an end each");
}

#[test]
fn the_least_recently_used_give_way_and_of_a_chain_its_end() {
    let mut world = world(5 * SEGMENT_BYTES);
    for _ in 0..2 {
        turn(&mut world, &[], Wish::plain(400, 1));
        world.save(usize::MAX);
    }
    let [first, second] = [0, 1].map(|at| tokens(&world, at));
    world.restart(config());
    assert_eq!(turn(&mut world, &second, Wish::plain(10, 1)), 384);
    assert_eq!(turn(&mut world, &first, Wish::plain(10, 1)), 256, "its last one made room");
}

#[test]
fn a_prefix_larger_than_the_disk_leaves_its_beginning() {
    let mut world = world(2 * SEGMENT_BYTES);
    turn(&mut world, &[], Wish::plain(600, 1));
    world.save(100);
    assert_eq!(world.disk.seen.1, 3, "the first that found no room was the last");
    let chat = tokens(&world, 0);
    world.restart(config());
    assert_eq!(turn(&mut world, &chat, Wish::plain(10, 1)), 256);
}

#[test]
fn a_folder_lists_its_own_segments_by_age_and_clears_up_after_the_dead() {
    let path = std::env::temp_dir().join(format!("mlxspec-segments-{}", std::process::id()));
    let folder = SegmentFolder::open(&path).unwrap();
    let [a, b, c] = chain(7, 3)[..] else { panic!() };
    for (name, len) in [(c, 3), (a, 1), (b, 2)] {
        fs::write(folder.path(name), vec![0; len]).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let half = path.join(format!("{a}.safetensors.tmp"));
    let foreign = [path.join("notes.txt"), path.join("model.safetensors")];
    for file in foreign.iter().chain([&half]) {
        fs::write(file, "mine").unwrap();
    }
    assert_eq!(folder.list().unwrap(), [(c, 3), (a, 1), (b, 2)]);
    assert!(!half.exists() && foreign.iter().all(|it| it.exists()));

    let mut index = SegmentIndex::new(folder.list().unwrap(), 5);
    assert_eq!(index.find(&[a, b]), 2);
    folder.follow(&mut index);
    assert!(!folder.path(c).exists(), "the oldest is over the limit");
    assert_eq!(folder.list().unwrap(), [(b, 2), (a, 1)], "a chain's first is the youngest");
    fs::remove_dir_all(&path).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_disk_stays_within_its_limit_and_evicts_by_age(
        max_bytes in 0_u64..60,
        ops in prop::collection::vec((0_u32..6, 1_u32..5, 0_u64..20, 0..4), 1..200),
    ) {
        let mut index = SegmentIndex::new([], max_bytes);
        let mut oracle: VecDeque<(SegmentName, u64)> = VecDeque::new();
        for (seed, len, num_bytes, op) in ops {
            let chain = chain(seed * 1000, len);
            let here = |oracle: &VecDeque<(SegmentName, u64)>, name| {
                oracle.iter().position(|it| it.0 == name)
            };
            let touched = match op {
                0 => {
                    index.lost(chain[0]);
                    oracle.retain(|it| it.0 != chain[0]);
                    0
                }
                1 => {
                    let found = index.find(&chain);
                    let there = |name: &&SegmentName| here(&oracle, **name).is_some();
                    prop_assert_eq!(found, chain.iter().take_while(there).count());
                    found
                }
                _ => {
                    let name = *chain.last().unwrap();
                    index.wrote(&chain, num_bytes);
                    oracle.retain(|it| it.0 != name);
                    oracle.push_back((name, num_bytes));
                    chain.len() - 1
                }
            };
            for name in chain[..touched].iter().rev() {
                if let Some(at) = here(&oracle, *name) {
                    let moved = oracle.remove(at).unwrap();
                    oracle.push_back(moved);
                }
            }
            while oracle.iter().map(|it| it.1).sum::<u64>() > max_bytes {
                oracle.pop_front();
            }
            index.check_integrity().unwrap();
            prop_assert_eq!(index.num_bytes(), oracle.iter().map(|it| it.1).sum::<u64>());
            prop_assert!(oracle.iter().all(|it| index.contains(it.0)));
        }
    }
}

#[test]
fn a_fault_while_others_read_from_disk_loses_nothing() {
    let mut world = world(PLENTY);
    turn(&mut world, &[], Wish::plain(600, 20));
    let chat = tokens(&world, 0);
    world.restart(config());
    world.resume(0, &chat, Wish::plain(30, 20));
    world.submit(0, Wish::plain(30, 20));
    (0..3).for_each(|_| assert!(world.step(None)));
    world.step(Some(Fault::Forward));
    world.step(Some(Fault::Forward));
    world.drain();
}

#[test]
fn a_row_is_filled_from_disk_only_when_what_it_held_is_out_of_it() {
    let mut world = world(PLENTY);
    turn(&mut world, &[], Wish::plain(200, 1));
    let chat = tokens(&world, 0);
    world.restart(config());
    world.submit(0, Wish::plain(60, 1));
    world.submit(0, Wish { speculate: false, ..Wish::plain(60, 60) });
    while world.requests[1].end.is_none() {
        assert!(world.step(None));
    }
    // The first has ended and is to be moved to a row of its own; its slot is the next one's.
    world.resume(0, &chat[..150], Wish::plain(30, 1));
    let ended = tokens(&world, 1);
    world.resume(0, &ended, Wish::plain(30, 1));
    world.drain();
    assert_eq!(world.disk.seen.0, 128);
}

#[test]
fn a_row_that_was_run_in_meanwhile_is_written_under_its_new_names() {
    let mut world = World::with_disk(config(), &[kept(64, false)], PLENTY);
    turn(&mut world, &[], Wish::plain(600, 1));
    world.save(1);
    let chat = tokens(&world, 0);
    // There is no room for a second row: it runs in the first one's.
    assert_eq!(turn(&mut world, &chat[..300], Wish::plain(300, 1)), 300);
    let other = tokens(&world, 1);
    world.restart(config());
    assert_eq!(turn(&mut world, &chat, Wish::plain(10, 1)), 256);
    assert_eq!(turn(&mut world, &other, Wish::plain(10, 1)), 512);
}
