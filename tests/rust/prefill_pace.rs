//! The pace of prompts: a step that decodes keeps to its time, whatever a prompt token costs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may")]

use mlxspec_scheduler::prefill_pace::PrefillPace;
use mlxspec_scheduler::step_cost::StepCost;

/// 10 ms for a token and 1 ms for each one more.
fn pace() -> PrefillPace {
    PrefillPace::new(&StepCost::new(&[(1, 10.0), (64, 73.0)], 0.0))
}

#[test]
fn a_chunk_fills_the_time_that_decoding_leaves() {
    assert_eq!(pace().chunk(10.0, 110.0, 512), 100);
    assert_eq!(pace().chunk(60.0, 110.0, 512), 50);
    assert_eq!(pace().chunk(10.0, 110.0, 64), 64, "never more than the limit of tokens");
}

#[test]
fn prompts_go_on_where_no_time_is_left() {
    assert_eq!(pace().chunk(200.0, 110.0, 512), 16);
    assert_eq!(pace().chunk(200.0, 110.0, 5), 5);
}

#[test]
fn a_prompt_that_gets_dearer_gets_smaller_chunks_within_a_few_steps() {
    let mut pace = pace();
    for _ in 0..20 {
        let chunk = pace.chunk(10.0, 110.0, 512);
        pace.observe(10.0, chunk, 10.0 + 4.0 * chunk as f32);
    }
    let chunk = pace.chunk(10.0, 110.0, 512);
    assert!((24..=26).contains(&chunk), "{chunk} tokens of 4 ms in 100 ms");
}

#[test]
fn one_hiccup_is_no_trend_and_a_clock_that_stands_still_does_no_harm() {
    let mut pace = pace();
    pace.observe(10.0, 16, 100_000.0);
    assert!(pace.chunk(10.0, 110.0, 512) >= 50);
    (0..200).for_each(|_| pace.observe(10.0, 16, 0.0));
    assert_eq!(pace.chunk(10.0, 110.0, 512), 512);
}
