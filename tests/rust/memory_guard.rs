//! The memory guard by scripted measurements: the order of what is given up, and that nothing is for
//! ever.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may")]

use mlxspec_scheduler::memory_guard::{MemoryGuard, Relief, Shortage, Spare, Watermarks};
use proptest::prelude::*;

const LIMIT: f64 = 1000.0;
const WATERMARKS: Watermarks = Watermarks { soft: 0.85, hard: 0.95 };
const PLENTY: Spare = Spare { prefixes: 2, idle_models: 1, prefills: 3, others: 1 };

/// A server whose memory is the sum of what it holds, and what the guard makes of it.
#[derive(Debug, Clone)]
struct Server {
    decodes: u64,
    pool: u64,
    prefixes: Vec<u64>,
    idle_models: Vec<u64>,
    prefills: Vec<u64>,
}

impl Server {
    fn used(&self) -> u64 {
        let held = [&self.prefixes, &self.idle_models, &self.prefills];
        self.decodes + self.pool + held.iter().flat_map(|it| it.iter()).sum::<u64>()
    }

    fn spare(&self) -> Spare {
        Spare {
            prefixes: self.prefixes.len(),
            idle_models: self.idle_models.len(),
            prefills: self.prefills.len(),
            others: usize::from(self.decodes > 0),
        }
    }

    /// What is given up goes to the pool first.
    fn give_up(&mut self, relief: Relief) {
        match relief {
            Relief::TrimPool => self.pool = 0,
            Relief::ShrinkCache => {
                let half = self.prefixes.len().div_ceil(2);
                self.pool += self.prefixes.drain(..half).sum::<u64>();
            }
            Relief::EvictModel => self.pool += self.idle_models.remove(0),
            Relief::RefusePrefill => self.pool += self.prefills.pop().unwrap(),
        }
    }
}

/// Measure until the guard wants nothing more, twice over; what it wanted.
fn settle(guard: &mut MemoryGuard, server: &mut Server) -> Vec<Relief> {
    let mut wanted = Vec::new();
    for turn in 0..200 {
        let share = server.used() as f64 / LIMIT;
        if let Some(relief) = guard.observe(share, server.spare(), turn) {
            server.give_up(relief);
            wanted.push(relief);
        }
    }
    wanted
}

#[test]
fn what_is_cheap_to_give_up_goes_first_and_decodes_never_go() {
    let mut server = Server {
        decodes: 940,
        pool: 100,
        prefixes: vec![10, 10],
        idle_models: vec![10],
        prefills: vec![10, 10, 10],
    };
    let mut wanted = settle(&mut MemoryGuard::new(WATERMARKS), &mut server);
    wanted.retain(|it| *it != Relief::TrimPool);
    wanted.dedup();
    assert_eq!(wanted, [Relief::ShrinkCache, Relief::EvictModel, Relief::RefusePrefill]);
    assert_eq!((server.decodes, server.pool), (940, 0));
    assert!(server.prefixes.is_empty() && server.idle_models.is_empty());
    assert_eq!(server.used(), 940, "refused no more than it must");
}

#[test]
fn a_shortage_that_trimming_cures_costs_nothing_else() {
    let mut guard = MemoryGuard::new(WATERMARKS);
    assert_eq!(guard.observe(0.900, PLENTY, 0), Some(Relief::TrimPool));
    assert_eq!(guard.shortage(), Shortage::Soft);
    assert_eq!(guard.observe(0.700, PLENTY, 1), None);
    assert_eq!(guard.shortage(), Shortage::None);
}

#[test]
fn below_the_hard_watermark_nobody_is_refused() {
    let mut server = Server {
        decodes: 900,
        pool: 0,
        prefixes: Vec::new(),
        idle_models: Vec::new(),
        prefills: vec![10, 10],
    };
    let mut guard = MemoryGuard::new(WATERMARKS);
    assert!(!settle(&mut guard, &mut server).contains(&Relief::RefusePrefill));
    assert_eq!(guard.shortage(), Shortage::Soft);
}

#[test]
fn the_last_request_is_not_refused_for_itself() {
    let mut server = Server {
        decodes: 0,
        pool: 0,
        prefixes: Vec::new(),
        idle_models: Vec::new(),
        prefills: vec![990, 5],
    };
    settle(&mut MemoryGuard::new(WATERMARKS), &mut server);
    assert_eq!(server.prefills, [990]);
}

#[test]
fn memory_must_fall_a_little_below_the_watermark_to_be_plenty_again() {
    let mut guard = MemoryGuard::new(WATERMARKS);
    let shortages = [840, 850, 840, 830, 819, 840].map(|used| {
        guard.observe(f64::from(used) / LIMIT, PLENTY, 0);
        guard.shortage()
    });
    let (none, soft) = (Shortage::None, Shortage::Soft);
    assert_eq!(shortages, [none, soft, soft, soft, none, none]);
}

#[test]
fn it_is_measured_often_while_short_and_never_when_off() {
    let mut guard = MemoryGuard::new(WATERMARKS);
    assert!(guard.is_due(0));
    guard.observe(0.001, PLENTY, 0);
    assert!(!guard.is_due(400_000_000) && guard.is_due(500_000_000));
    guard.observe(0.990, PLENTY, 500_000_000);
    assert!(guard.is_due(550_000_000));
    assert!(!MemoryGuard::new(Watermarks::OFF).is_due(u64::MAX));
}

proptest! {
    #[test]
    fn whatever_is_held_all_that_may_go_goes_before_a_request_does(
        decodes in 0_u64..1200,
        pool in 0_u64..400,
        prefixes in prop::collection::vec(0_u64..100, 0..20),
        idle_models in prop::collection::vec(0_u64..400, 0..3),
        prefills in prop::collection::vec(0_u64..100, 0..5),
    ) {
        let before = Server { decodes, pool, prefixes, idle_models, prefills };
        let mut server = before.clone();
        let mut guard = MemoryGuard::new(WATERMARKS);
        let wanted = settle(&mut guard, &mut server);
        prop_assert_eq!(server.decodes, before.decodes);
        if server.prefills.len() < before.prefills.len() {
            prop_assert!(server.prefixes.is_empty() && server.idle_models.is_empty());
        }
        let low = before.used() < 850;
        prop_assert_eq!(low, wanted.is_empty());
        let spent = server.prefixes.is_empty() && server.idle_models.is_empty();
        prop_assert!(spent || guard.shortage() == Shortage::None);
        let alone = server.prefills.len() + usize::from(decodes > 0) <= 1;
        prop_assert!(alone || server.prefills.is_empty() || guard.shortage() < Shortage::Hard);
    }
}
