//! The prefix cache alone: what it finds is what a plain comparison of all tokens finds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may")]

mod sim;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::Arc;

use mlxspec_scheduler::ids::{PrefixId, Row, SlabId};
use mlxspec_scheduler::prefix_cache::PrefixCache;
use sim::script::mix;

/// All blocks have the same hash.
#[derive(Default)]
struct Colliding;

impl Hasher for Colliding {
    fn write(&mut self, _bytes: &[u8]) {}

    fn finish(&self) -> u64 {
        7
    }
}

fn row(number: u64) -> Row {
    Row { slab: SlabId(number as u32), slot: 0 }
}

/// Twenty blocks of which each pair of texts has some at its beginning in common.
fn text(number: u64) -> Vec<u32> {
    let fork = (number % 7) as u32 * 48 + (number % 3) as u32;
    (0..320).map(|at| if at < fork { at } else { at + 1000 * (1 + number as u32) }).collect()
}

fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn salt(text: &str) -> Arc<str> {
    text.into()
}

#[test]
fn the_longest_common_beginning_is_found_and_counted_to_the_token() {
    let mut cache = PrefixCache::new(RandomState::new());
    let held = cache.open(row(1), salt(""), &[]);
    let tokens: Vec<u32> = (0..100).collect();
    cache.retire(held, row(1), &tokens);
    let asked: Vec<u32> = (0..87).chain(500..600).collect();
    let hit = cache.find("", &asked).unwrap();
    assert_eq!((hit.prefix, hit.row, hit.num_tokens, hit.covers), (held, row(1), 87, true));
    assert!(!cache.find("", &asked[..60]).unwrap().covers, "40 tokens would be lost");
    assert_eq!(cache.find("", &asked[1..]), None);
    assert_eq!(cache.find("", &tokens[..15]), None, "less than a block is not looked for");
}

#[test]
fn a_running_row_shows_full_blocks_of_what_it_has_published_and_no_more() {
    let mut cache = PrefixCache::new(RandomState::new());
    let tokens: Vec<u32> = (0..100).collect();
    let running = cache.open(row(1), salt(""), &tokens[..20]);
    assert_eq!(cache.find("", &tokens).unwrap().num_tokens, 16);
    cache.publish(running, &tokens[..47]);
    assert_eq!(cache.find("", &tokens).unwrap().num_tokens, 32);
    assert_eq!(cache.oldest(u64::MAX, None), None, "a running row is not to be evicted");
    cache.check_integrity().unwrap();
}

#[test]
fn salts_do_not_mix() {
    let mut cache = PrefixCache::new(RandomState::new());
    let tokens: Vec<u32> = (0..64).collect();
    cache.open(row(1), salt("anna"), &tokens);
    let found = ["anna", "bert", ""].map(|salt| cache.find(salt, &tokens).is_some());
    assert_eq!(found, [true, false, false]);
}

#[test]
fn who_claims_part_of_a_row_unpublishes_the_rest() {
    let mut cache = PrefixCache::new(RandomState::new());
    let tokens: Vec<u32> = (0..100).collect();
    let id = cache.open(row(1), salt(""), &[]);
    cache.retire(id, row(1), &tokens);
    cache.claim(id, 40);
    assert_eq!(cache.find("", &tokens).unwrap().num_tokens, 40);
    let other: Vec<u32> = (0..40).chain(200..300).collect();
    cache.publish(id, &other);
    let found = [&tokens, &other].map(|it| cache.find("", it).unwrap().num_tokens);
    assert_eq!(found, [40, 128], "the old continuation is gone");
    cache.check_integrity().unwrap();
}

#[test]
fn a_shared_beginning_outlives_all_its_continuations() {
    let mut cache = PrefixCache::new(RandomState::new());
    let system: Vec<u32> = (0..64).collect();
    for number in 0..5 {
        let chat: Vec<u32> = system.iter().copied().chain([1000 + number; 40]).collect();
        let id = cache.open(row(number.into()), salt(""), &[]);
        cache.retire(id, row(number.into()), &chat);
    }
    for left in (1..=5).rev() {
        assert_eq!(cache.num_retired(), left);
        assert_eq!(cache.find("", &system).unwrap().num_tokens, 64);
        let oldest = cache.oldest(u64::MAX, None).unwrap();
        cache.remove(oldest);
    }
    assert_eq!(cache.find("", &system), None);
}

#[test]
fn the_least_recently_used_goes_first_and_the_spared_one_last() {
    let mut cache = PrefixCache::new(RandomState::new());
    let ids: Vec<PrefixId> = (0..3).map(|number| retired(&mut cache, number)).collect();
    cache.touch(ids[0]);
    assert_eq!(cache.oldest(u64::MAX, None), Some(ids[1]));
    assert_eq!(cache.oldest(u64::MAX, Some(ids[1])), Some(ids[2]));
    assert!(!cache.is_spare(ids[2]));
    let twin = cache.open(row(9), salt(""), &text(1)[..319]);
    assert!(cache.is_spare(twin), "its full blocks are retired already");
    assert_eq!(cache.oldest(u64::MAX, None), Some(ids[2]), "and that one was used just now");
}

fn retired<S: BuildHasher>(cache: &mut PrefixCache<S>, number: u64) -> PrefixId {
    let id = cache.open(row(number), salt(""), &[]);
    cache.retire(id, row(number), &text(number));
    id
}

#[test]
fn colliding_hashes_find_nothing_that_the_tokens_do_not_say() {
    churn(PrefixCache::new(BuildHasherDefault::<Colliding>::default()), 2_000);
}

#[test]
fn colliding_hashes_mix_no_salts() {
    let mut cache = PrefixCache::new(BuildHasherDefault::<Colliding>::default());
    let tokens: Vec<u32> = (0..64).collect();
    cache.open(row(1), salt("anna"), &tokens);
    let found = ["anna", "bert", ""].map(|salt| cache.find(salt, &tokens).is_some());
    assert_eq!(found, [true, false, false]);
}

#[test]
fn a_hundred_thousand_operations_find_what_a_plain_comparison_finds() {
    churn(PrefixCache::new(RandomState::new()), 100_000);
}

/// Open, publish, retire, claim and remove at random, against a map of what each prefix holds.
fn churn<S: BuildHasher>(mut cache: PrefixCache<S>, count: u64) {
    let mut held: BTreeMap<PrefixId, (u64, usize, bool)> = BTreeMap::new();
    for (step, dice) in (0..count).map(|step| (step, mix(step))) {
        let id = held.keys().nth((dice >> 8) as usize % held.len().max(1)).copied();
        match (dice % 6, id) {
            (0 | 1, _) if held.len() < 12 => {
                let (number, len) = (dice >> 16 & 31, (dice >> 24) as usize % 320);
                let id = cache.open(row(step), salt(""), &text(number)[..len]);
                held.insert(id, (number, len / 16 * 16, false));
            }
            (2 | 3, Some(id)) => {
                let it = held.get_mut(&id).unwrap();
                let len = it.1 + (dice >> 24) as usize % (321 - it.1);
                if dice % 6 == 2 && !it.2 {
                    cache.publish(id, &text(it.0)[..len]);
                    it.1 = it.1.max(len / 16 * 16);
                } else if !it.2 {
                    cache.retire(id, row(step), &text(it.0)[..len]);
                    (it.1, it.2) = (len, true);
                }
            }
            (4, Some(id)) if held[&id].2 => {
                let it = held.get_mut(&id).unwrap();
                it.1 = (dice >> 24) as usize % (it.1 + 1);
                cache.claim(id, it.1 as u32);
                it.2 = false;
            }
            (5, Some(id)) => {
                held.remove(&id);
                assert!(cache.remove(id).is_some());
            }
            _ => {}
        }
        let asked = text(dice >> 40 & 31);
        let best = held.values().map(|(number, len, _)| common(&asked, &text(*number)[..*len]));
        let best = best.max().unwrap_or(0) / 16;
        let found = cache.find("", &asked);
        assert_eq!(found.map_or(0, |it| it.num_tokens as usize / 16), best);
        if let Some(hit) = found {
            let (number, len, _) = held[&hit.prefix];
            assert_eq!(hit.num_tokens as usize, common(&asked, &text(number)[..len]));
        }
        if step % 64 == 0 {
            cache.check_integrity().unwrap();
        }
    }
}
