//! Blocks: held by whoever holds them, free when nobody does, and never two things at once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may")]

mod sim;

use mlxspec_scheduler::block_pool::{BlockPool, Blocks};
use sim::script::mix;

#[test]
fn an_allocation_takes_all_it_asks_for_or_nothing() {
    let mut pool = BlockPool::new(10);
    let held = pool.allocate(7).unwrap();
    assert!(pool.allocate(4).is_none());
    assert_eq!((held.len(), pool.num_free(), pool.total()), (7, 3, 10));
    assert!(pool.allocate(0).unwrap().is_empty());
    assert_eq!(pool.allocate(3).unwrap().len(), 3);
    pool.check_integrity().unwrap();
}

#[test]
fn shared_blocks_are_free_after_the_last_release() {
    let mut pool = BlockPool::new(4);
    let first = pool.allocate(3).unwrap();
    let second = pool.share(&first);
    assert_eq!(first.ids(), second.ids());
    pool.release(first);
    assert_eq!(pool.num_free(), 1);
    pool.check_integrity().unwrap();
    pool.release(second);
    assert_eq!(pool.num_free(), 4);
    pool.check_integrity().unwrap();
}

#[test]
fn a_million_operations_lose_no_block_and_lend_none_twice() {
    let mut pool = BlockPool::new(48);
    let mut held: Vec<Blocks> = Vec::new();
    let mut holders = [0_u32; 48];
    for dice in (0..1_000_000).map(mix) {
        let at = (dice >> 32) as usize % held.len().max(1);
        match dice % 4 {
            0 | 1 => {
                let count = (dice >> 8) as u32 % 12;
                let blocks = pool.allocate(count);
                let free = holders.iter().filter(|&&it| it == 0).count();
                assert_eq!(blocks.is_some(), free >= count as usize);
                for id in blocks.iter().flat_map(Blocks::ids) {
                    assert_eq!(holders[id.0 as usize], 0, "block {id} is lent twice");
                    holders[id.0 as usize] = 1;
                }
                held.extend(blocks);
            }
            2 if !held.is_empty() => {
                let blocks = pool.share(&held[at]);
                blocks.ids().iter().for_each(|id| holders[id.0 as usize] += 1);
                held.push(blocks);
            }
            _ if !held.is_empty() => {
                let blocks = held.swap_remove(at);
                blocks.ids().iter().for_each(|id| holders[id.0 as usize] -= 1);
                pool.release(blocks);
            }
            _ => {}
        }
        pool.check_integrity().unwrap();
        let free = holders.iter().filter(|&&it| it == 0).count();
        assert_eq!(pool.num_free() as usize, free);
    }
    for blocks in held {
        pool.release(blocks);
    }
    assert_eq!(pool.num_free(), pool.total());
}
