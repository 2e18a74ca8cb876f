//! A KV pool that is nearly full for a thousand rounds, and a flood that never ends: nobody is lost,
//! nobody is overtaken.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may")]

mod sim;

use mlxspec_scheduler::config::{BLOCK_TOKENS, SchedulerConfig};

use sim::script::{Wish, mix};
use sim::shape;
use sim::world::World;

const BLOCKS: u32 = 320;
/// Worlds of two rounds each.
const WORLDS: u64 = 500;
const FLOOD_STEPS: u64 = 2_000;

fn config(max_running: usize) -> SchedulerConfig {
    SchedulerConfig { max_running, ..sim::config() }
}

/// Blocks of all slabs that the runner holds.
fn held(world: &World) -> u32 {
    let slabs = world.runners[0].slabs.values();
    slabs.map(|it| it.slots() * it.capacity() / BLOCK_TOKENS).sum()
}

/// Conversations that want about this share of the pool; every one ends, the pool is never
/// exceeded, and once all is quiet the next request runs in the next step.
fn a_round(world: &mut World, cycle: u64, percent: u32) {
    let wanted = BLOCKS * BLOCK_TOKENS * percent / 100;
    let mut asked = 0;
    while asked < wanted {
        let dice = mix(cycle << 20 | u64::from(asked));
        let earlier = (dice as usize).checked_rem(world.requests.len()).unwrap_or(0);
        let beginning =
            world.requests.get(earlier).map_or(Vec::new(), |it| it.script.tokens.clone());
        let beginning = &beginning[..beginning.len().min(1200)];
        let wish = Wish::plain(20 + dice as usize % 300, 20 + (dice >> 32) as u32 % 60);
        world.resume(0, beginning, wish);
        asked += beginning.len() as u32 + wish.num_prompt as u32 + wish.max_tokens;
    }
    while world.step(None) {
        assert!(held(world) <= BLOCKS, "{} of {BLOCKS} blocks", held(world));
    }
    world.drain();
    world.submit(0, Wish::plain(40, 1));
    world.step(None);
    assert_eq!(world.scheduler.num_requests().0, 0, "idle, and nobody is let in");
    world.drain();
}

#[test]
fn a_pool_under_pressure_is_never_exceeded_and_takes_the_next_one_at_once() {
    let mut preempted = 0;
    for (cycle, percent) in (0..WORLDS).zip([60, 80, 95, 140].into_iter().cycle()) {
        // A new world now and then: a test's memory of all its requests grows.
        let mut world = World::new(config(8), &[shape(2000, BLOCKS, cycle % 2 == 0)]);
        a_round(&mut world, cycle, percent);
        a_round(&mut world, !cycle, percent);
        preempted += world.requests.iter().map(|it| it.stats().preemptions).sum::<u32>();
    }
    assert!(preempted > 100, "{preempted} preempted: there was no pressure");
}

/// Steps that the requests before this one, and itself, may take one after another.
fn patience(world: &World, at: usize) -> u64 {
    let ahead = world.requests[..=at].iter().filter(|it| it.end.is_none());
    ahead.map(|it| u64::from(it.bound())).sum()
}

#[test]
fn a_flood_of_later_requests_keeps_nobody_waiting() {
    for padded in [false, true] {
        let mut world = World::new(config(4), &[shape(600, 60, padded)]);
        let mut due: Vec<u64> = Vec::new();
        for now in 0..FLOOD_STEPS {
            let dice = mix(now);
            // Short ones that begin like each other, which are dear to every cache and batch.
            if dice.is_multiple_of(4) && world.scheduler.num_requests().0 < 40 {
                let long = dice.is_multiple_of(64);
                let beginning =
                    world.requests.first().map_or(Vec::new(), |it| it.script.tokens.clone());
                let wish = Wish::plain(if long { 300 } else { 5 }, if long { 60 } else { 10 });
                world.resume(0, if long { &[] } else { &beginning }, wish);
                due.push(now + patience(&world, due.len()));
            }
            world.step(None);
            let late = |at: usize| world.requests[at].end.is_none() && due[at] < now;
            assert!(!(0..due.len()).any(late), "somebody waits behind those who came later");
        }
        world.drain();
        let begun: Vec<u64> =
            (0..).zip(&world.requests).map(|(_, it): (u32, _)| it.begun_ns()).collect();
        assert!(begun.len() > 300 && begun.is_sorted(), "somebody was overtaken");
    }
}
