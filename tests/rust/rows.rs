//! Rows: everybody has one of their own, slabs are paid for, and the runner hears of each change.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may")]

mod sim;

use std::collections::HashMap;

use mlxspec_scheduler::config::{BLOCK_TOKENS, ModelShape};
use mlxspec_scheduler::ids::{RequestId, Row, SlabId};
use mlxspec_scheduler::rows::{KvOp, NoRoom, RowPool};
use sim::script::mix;

fn request(number: u64) -> RequestId {
    RequestId(number)
}

#[test]
fn rows_of_one_length_share_a_slab_that_is_dropped_with_its_last_row() {
    let mut rows = RowPool::new(64, 4);
    let first = rows.place(request(0), 256, 1).unwrap();
    let second = rows.place(request(1), 256, 0).unwrap();
    assert_eq!((first.slab, first.slot, second.slot), (second.slab, 0, 1));
    assert_eq!(rows.take_ops(), [KvOp::Create { slab: first.slab, slots: 2, capacity: 256 }]);
    rows.release(first);
    assert!(!rows.has_ops(), "one row is still in use");
    rows.release(second);
    assert_eq!(rows.take_ops(), [KvOp::Drop { slab: first.slab }]);
    assert_eq!(rows.pool().num_free(), 64);
}

#[test]
fn who_grows_is_copied_before_the_old_row_is_dropped() {
    let mut rows = RowPool::new(64, 4);
    let old = rows.place(request(0), 256, 0).unwrap();
    rows.take_ops();
    let new = rows.grow(request(0), old, 200, 512).unwrap();
    let ops = [
        KvOp::Create { slab: new.slab, slots: 1, capacity: 512 },
        KvOp::Copy { from: old, to: new, num_tokens: 200 },
        KvOp::Drop { slab: old.slab },
    ];
    assert_eq!(rows.take_ops(), ops);
    rows.check_integrity().unwrap();
}

#[test]
fn a_refused_row_changes_nothing() {
    let mut rows = RowPool::new(40, 4);
    let old = rows.place(request(0), 256, 0).unwrap();
    rows.take_ops();
    assert_eq!(rows.grow(request(0), old, 200, 512), Err(NoRoom));
    assert_eq!(rows.place(request(1), 1024, 0), Err(NoRoom));
    assert_eq!((rows.has_ops(), rows.pool().num_free(), rows.capacity(old)), (false, 24, 256));
    rows.check_integrity().unwrap();
}

#[test]
fn a_slab_is_as_large_as_expected_if_blocks_and_the_limit_allow() {
    let slots = |total_blocks, max_slots, expected| {
        let mut rows = RowPool::new(total_blocks, max_slots);
        rows.place(request(0), 256, expected).unwrap();
        match rows.take_ops()[..] {
            [KvOp::Create { slots, .. }] => slots,
            _ => panic!("one slab is made"),
        }
    };
    assert_eq!([slots(640, 8, 0), slots(640, 8, 4), slots(640, 8, 30)], [1, 8, 8]);
    assert_eq!(slots(50, 8, 7), 3, "48 of 50 blocks");
}

#[test]
fn releasing_twice_or_an_unknown_row_does_no_harm() {
    let mut rows = RowPool::new(64, 4);
    let row = rows.place(request(0), 256, 0).unwrap();
    (0..2).for_each(|_| rows.release(row));
    rows.release(Row { slab: SlabId(9), slot: 3 });
    assert_eq!(rows.pool().num_free(), 64);
    rows.check_integrity().unwrap();
}

/// What the runner knows: slots and capacity of each slab, from the changes it was told.
#[derive(Default)]
struct Mirror(HashMap<SlabId, (u32, u32)>);

impl Mirror {
    fn apply(&mut self, ops: Vec<KvOp>) {
        for op in ops {
            match op {
                KvOp::Create { slab, slots, capacity } => {
                    assert!((1..=5).contains(&slots), "{slots} slots");
                    assert_eq!(self.0.insert(slab, (slots, capacity)), None);
                }
                KvOp::Drop { slab } => assert!(self.0.remove(&slab).is_some()),
                KvOp::Copy { from, to, num_tokens } => {
                    assert!(num_tokens <= self.0[&from.slab].1.min(self.0[&to.slab].1));
                }
            }
        }
    }

    fn num_blocks(&self) -> u32 {
        self.0.values().map(|(slots, capacity)| slots * capacity / BLOCK_TOKENS).sum()
    }
}

#[test]
fn a_million_operations_keep_rows_apart_and_paid_for() {
    let mut rows = RowPool::new(300, 5);
    let mut mirror = Mirror::default();
    let mut owned: Vec<(RequestId, Row)> = Vec::new();
    for (number, dice) in (0..1_000_000).map(|number| (number, mix(number))) {
        let at = (dice >> 32) as usize % owned.len().max(1);
        match dice % 8 {
            0..4 => {
                let placed =
                    rows.place(request(number), 256 << ((dice >> 8) % 3), (dice >> 16) as u32 % 6);
                owned.extend(placed.map(|row| (request(number), row)));
            }
            4 | 5 if !owned.is_empty() => {
                let (grown, row) = owned[at];
                let (held, longer) = (rows.capacity(row), rows.capacity(row) * 2);
                owned[at].1 = rows.grow(grown, row, held, longer).unwrap_or(row);
            }
            _ if !owned.is_empty() => rows.release(owned.swap_remove(at).1),
            _ => {}
        }
        mirror.apply(rows.take_ops());
        rows.check_integrity().unwrap();
        let held = rows.pool().total() - rows.pool().num_free();
        assert_eq!(mirror.num_blocks(), held, "the runner holds other slabs");
        let mut taken: Vec<Row> = owned.iter().map(|it| it.1).collect();
        taken.sort_unstable();
        assert!(taken.windows(2).all(|two| two[0] != two[1]), "two requests in one row");
        assert!(taken.iter().all(|row| row.slot < mirror.0[&row.slab].0), "a row outside its slab");
    }
    for (_, row) in owned {
        rows.release(row);
    }
    mirror.apply(rows.take_ops());
    assert!(mirror.0.is_empty() && rows.pool().num_free() == 300);
}

#[test]
fn capacities_double_and_end_at_the_context() {
    for padded in [false, true] {
        let shape = ModelShape { padded, ..sim::shape(5000, 10_000, padded) };
        for tokens in 1..=5000 {
            let (need, capacity) = (shape.row_need(tokens), shape.row_capacity(tokens));
            assert!(need <= capacity && capacity <= 2 * need + 256, "{capacity} for {need}");
            assert!(capacity <= shape.row_need(5000) + 255, "{capacity} is beyond the context");
        }
        for total_blocks in 16..700 {
            let shape = ModelShape { total_blocks, ..shape.clone() };
            let longest = shape.longest_row();
            assert!(shape.blocks_for(longest) <= total_blocks);
            assert!(longest == 5000 || shape.blocks_for(longest + 1) > total_blocks, "{longest}");
        }
    }
}
