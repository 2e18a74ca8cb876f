//! Canaries of plain steps: rare, and they stop drafts that really lose.

use mlxspec_scheduler::canary::Canaries;

const DRAFTED: u32 = 1024;
const PLAIN: u32 = 16;
const PARKED: u32 = 4096;

/// How a step with drafts does: tokens per row, and milliseconds. Without, it is one in one.
#[derive(Clone, Copy)]
struct Drafting(u32, f32);

const LOSING: Drafting = Drafting(2, 2.1);
const WINNING: Drafting = Drafting(2, 1.5);

/// Run so many steps of four rows; returns how many of them had drafts.
fn run(canaries: &mut Canaries, steps: u32, drafting: Drafting) -> u32 {
    let mut drafted = 0;
    for _ in 0..steps {
        let may = canaries.may_draft(4);
        let (tokens, ms) = if may { (4 * drafting.0, drafting.1) } else { (4, 1.0) };
        canaries.observe(4, tokens, may, ms);
        drafted += u32::from(may);
    }
    drafted
}

#[test]
fn canaries_are_rare_where_drafting_wins() {
    let mut canaries = Canaries::default();
    let cycle = DRAFTED + PLAIN;
    assert_eq!(run(&mut canaries, DRAFTED, WINNING), DRAFTED);
    assert_eq!(run(&mut canaries, PLAIN, WINNING), 0);
    assert_eq!(run(&mut canaries, 20 * cycle, WINNING), 20 * DRAFTED);
}

#[test]
fn drafting_that_loses_three_times_in_a_row_is_stopped_and_tried_again_later() {
    let mut canaries = Canaries::default();
    let cycle = DRAFTED + PLAIN;
    assert_eq!(run(&mut canaries, 3 * cycle, LOSING), 3 * DRAFTED);
    assert_eq!(run(&mut canaries, PARKED, LOSING), 0);
    assert_eq!(run(&mut canaries, DRAFTED, WINNING), DRAFTED);
}

#[test]
fn two_losses_and_a_win_are_no_reason_to_stop() {
    let mut canaries = Canaries::default();
    let cycle = DRAFTED + PLAIN;
    for drafting in [LOSING, LOSING, WINNING, LOSING, LOSING, WINNING] {
        assert_eq!(run(&mut canaries, cycle, drafting), DRAFTED);
    }
    assert_eq!(run(&mut canaries, DRAFTED, LOSING), DRAFTED);
}

#[test]
fn numbers_of_rows_are_judged_apart() {
    let mut canaries = Canaries::default();
    run(&mut canaries, 3 * (DRAFTED + PLAIN), LOSING);
    assert!(!canaries.may_draft(3), "three and four rows are one case");
    assert!(canaries.may_draft(2) && canaries.may_draft(5) && canaries.may_draft(4000));
}

/// A canary of which nothing is observed, as every step reads a prompt beside.
fn untimed(canaries: &mut Canaries) {
    assert_eq!(run(canaries, DRAFTED, LOSING), DRAFTED);
    assert_eq!((0..PLAIN).filter(|_| canaries.may_draft(4)).count(), 0);
}

#[test]
fn a_canary_that_could_not_be_timed_ends_and_says_nothing() {
    let mut canaries = Canaries::default();
    (0..6).for_each(|_| untimed(&mut canaries));
    let cycle = DRAFTED + PLAIN;
    assert_eq!(run(&mut canaries, 2 * cycle, LOSING), 2 * DRAFTED);
    untimed(&mut canaries);
    assert_eq!(run(&mut canaries, cycle, LOSING), DRAFTED);
    assert_eq!(run(&mut canaries, PARKED, LOSING), 0, "the third loss, not the first");
}
