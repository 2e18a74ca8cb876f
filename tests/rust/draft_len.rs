//! How many tokens to draft: what steps cost, what drafts are worth, and the best of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may")]

use mlxspec_scheduler::acceptance::{Acceptance, Posterior};
use mlxspec_scheduler::draft::{Draft, Drafter};
use mlxspec_scheduler::draft_len::{Candidate, DraftLen, StepBase};
use mlxspec_scheduler::step_cost::StepCost;
use proptest::prelude::*;

const GAIN: f32 = 1.02;
const WIDTHS: [usize; 6] = [1, 2, 4, 8, 16, 32];

fn near(a: f32, b: f32) -> bool {
    (a - b).abs() <= 1e-4 * b.abs().max(1.0)
}

fn draft(match_len: u32, prob: f32) -> Draft {
    Draft { drafter: Drafter::Suffix, token: 1, prob, match_len }
}

fn candidate(survival: &[f32]) -> Candidate {
    Candidate { drafts: vec![draft(4, 0.5); survival.len()], survival: survival.to_vec() }
}

fn base(rows: u32, budget: u32, padded_slots: u32) -> StepBase {
    StepBase { rows, tokens: rows, prefill: 0, rects: 1, budget, padded_slots }
}

fn choose(cost: &StepCost, candidates: &[Candidate], base: StepBase) -> Vec<usize> {
    let mut lens = Vec::new();
    DraftLen::new(cost.clone()).choose(candidates, base, &mut lens);
    lens
}

#[test]
fn cost_passes_through_its_measurements_and_goes_on_behind_the_last() {
    let cost = StepCost::new(&[(1, 2.0), (9, 4.0), (17, 10.0)], 0.5);
    let at = [(1, 2.0), (5, 3.0), (9, 4.0), (17, 10.0), (25, 16.0)];
    for (tokens, ms) in at {
        assert!(near(cost.ms(tokens, 1), ms), "{tokens}: {}", cost.ms(tokens, 1));
        assert!(near(cost.ms(tokens, 4), ms + 1.5));
    }
    assert!(near(cost.ms(0, 0), 2.0));
    assert!(near(StepCost::new(&[], 0.0).ms(100, 3), 1.0));
    assert!(near(StepCost::new(&[(1, 5.0), (8, 1.0)], 0.0).ms(8, 1), 5.0), "noise is not a gain");
}

#[test]
fn a_device_that_got_slower_is_slower_at_every_width() {
    let mut cost = StepCost::new(&[(1, 2.0), (9, 4.0)], 0.0);
    (0..400).for_each(|_| cost.observe(1, 1, 6.0));
    assert!((cost.ms(1, 1) - 6.0).abs() < 0.1, "{}", cost.ms(1, 1));
    assert!((cost.ms(9, 1) - 12.0).abs() < 3.0, "{}", cost.ms(9, 1));
}

#[test]
fn a_width_that_costs_more_than_measured_is_learnt() {
    let mut cost = StepCost::new(&[(1, 2.0), (9, 4.0)], 0.0);
    for _ in 0..600 {
        cost.observe(1, 1, 2.0);
        cost.observe(9, 1, 7.0);
    }
    assert!((cost.ms(1, 1) - 2.0).abs() < 0.3, "{}", cost.ms(1, 1));
    assert!((cost.ms(9, 1) - 7.0).abs() < 0.7, "{}", cost.ms(9, 1));
}

#[test]
fn one_bad_hour_is_no_law() {
    for ms in [1e9, 0.0] {
        let mut cost = StepCost::new(&[(1, 2.0), (9, 4.0)], 0.0);
        (0..400).for_each(|_| cost.observe(9, 1, ms));
        assert!((0.124 * 4.0..8.01 * 4.0).contains(&cost.ms(9, 1)), "{}", cost.ms(9, 1));
    }
}

fn any_cost() -> impl Strategy<Value = (Vec<(u32, f32)>, f32)> {
    let knots = prop::collection::btree_map(1_u32..300, 0.01_f32..50.0, 0..5);
    (knots, prop_oneof![Just(0.0_f32), 0.0_f32..2.0])
        .prop_map(|(knots, rect)| (knots.into_iter().collect(), rect))
}

fn any_candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let rates = prop::collection::vec(0.02_f32..1.0, 1..5);
    let survival = rates.prop_map(|rates| {
        let falling = rates.iter().scan(1.0, |chance, rate| {
            *chance *= rate;
            Some(*chance)
        });
        candidate(&falling.collect::<Vec<f32>>())
    });
    prop::collection::vec(survival, 1..5)
}

/// Tokens per millisecond of a choice, counted from the definition.
fn rate(cost: &StepCost, candidates: &[Candidate], base: StepBase, lens: &[usize]) -> f32 {
    let chances = candidates.iter().zip(lens).flat_map(|(it, &len)| &it.survival[..len]);
    let expected = base.rows as f32 + chances.sum::<f32>();
    let drafted = lens.iter().sum::<usize>() as u32;
    let (padding, rects) = match base.padded_slots {
        0 => (drafted, lens.iter().filter(|&&len| len > 0).count() as u32),
        slots => (slots * lens.iter().max().map_or(0, |&longest| width(longest)) as u32, 0),
    };
    expected / cost.ms(base.tokens + padding, base.rects + rects)
}

fn width(longest: usize) -> usize {
    WIDTHS.into_iter().find(|&width| width >= longest).filter(|_| longest > 0).unwrap_or(0)
}

/// All ways to draft, each row from none to all of its proposal.
fn all_choices(candidates: &[Candidate]) -> Vec<Vec<usize>> {
    candidates.iter().fold(vec![Vec::new()], |choices, it| {
        let longer = |choice: Vec<usize>| {
            (0..=it.survival.len()).map(move |len| [choice.clone(), vec![len]].concat())
        };
        choices.into_iter().flat_map(longer).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cost_stays_within_its_drift_of_the_measured_one(
        (knots, rect) in any_cost(),
        steps in prop::collection::vec((0_u32..600, 1_u32..5, 0.0_f32..200.0), 0..60),
    ) {
        let fresh = StepCost::new(&knots, rect);
        let mut cost = fresh.clone();
        for (tokens, rects, ms) in steps {
            cost.observe(tokens, rects, ms);
        }
        for tokens in (0..1200).step_by(7) {
            let (now, then) = (cost.ms(tokens, 1), fresh.ms(tokens, 1));
            prop_assert!(now >= 0.124 * then && now <= 8.01 * then, "{tokens}: {now} of {then}");
            prop_assert!(fresh.ms(tokens + 1, 2) >= 0.9999 * then, "more costs less");
        }
    }

    #[test]
    fn no_other_choice_of_exact_drafts_is_faster(
        (knots, _) in any_cost(),
        candidates in any_candidates(),
        budget in 0_u32..20,
    ) {
        let (cost, base) = (StepCost::new(&knots, 0.0), base(candidates.len() as u32, budget, 0));
        let lens = choose(&cost, &candidates, base);
        let fits = |choice: &Vec<usize>| choice.iter().sum::<usize>() <= budget as usize;
        let rates = all_choices(&candidates).into_iter().filter(fits);
        let best = rates.map(|it| rate(&cost, &candidates, base, &it)).fold(0.0, f32::max);
        check(&cost, &candidates, base, &lens, best)?;
        prop_assert!(fits(&lens), "{lens:?} is over the budget");
    }

    #[test]
    fn with_rectangles_to_pay_for_the_likeliest_positions_are_the_choice(
        (knots, rect) in any_cost(),
        candidates in any_candidates(),
        budget in 0_u32..20,
    ) {
        let (cost, base) = (StepCost::new(&knots, rect), base(candidates.len() as u32, budget, 0));
        let lens = choose(&cost, &candidates, base);
        let mut best = 0.0_f32;
        let mut choice = vec![0; candidates.len()];
        for _ in 0..budget {
            let next = |row: &usize| candidates[*row].survival.get(choice[*row]).copied();
            let rows = (0..candidates.len()).filter(|row| next(row).is_some());
            let Some(row) = rows.max_by(|a, b| next(a).unwrap().total_cmp(&next(b).unwrap())) else { break };
            choice[row] += 1;
            best = best.max(rate(&cost, &candidates, base, &choice));
        }
        check(&cost, &candidates, base, &lens, best)?;
    }

    #[test]
    fn no_other_width_of_a_padded_rectangle_is_faster(
        (knots, rect) in any_cost(),
        candidates in any_candidates(),
        budget in 0_u32..40,
    ) {
        let rows = candidates.len() as u32;
        let (cost, base) = (StepCost::new(&knots, rect), base(rows, budget, rows.next_power_of_two()));
        let lens = choose(&cost, &candidates, base);
        let cut = |width: usize| candidates.iter().map(move |it| width.min(it.survival.len())).collect();
        let choices: Vec<Vec<usize>> = WIDTHS.into_iter().map(cut).collect();
        let fits = |lens: &Vec<usize>| width(lens.iter().copied().max().unwrap_or(0)) as u32 * base.padded_slots <= budget;
        let best = choices.iter().filter(|it| fits(it)).map(|it| rate(&cost, &candidates, base, it)).fold(0.0, f32::max);
        check(&cost, &candidates, base, &lens, best)?;
        prop_assert!(fits(&lens), "{lens:?} is over the budget");
        prop_assert!(lens.iter().all(|&len| len == 0) || choices.contains(&lens), "{lens:?} has two widths");
    }
}

/// The choice is the best one, or none at all if the best one is not clearly better than none.
fn check(
    cost: &StepCost,
    candidates: &[Candidate],
    base: StepBase,
    lens: &[usize],
    best: f32,
) -> Result<(), TestCaseError> {
    let plain = rate(cost, candidates, base, &vec![0; candidates.len()]);
    let got = rate(cost, candidates, base, lens);
    if lens.iter().all(|&len| len == 0) {
        prop_assert!(best <= GAIN * plain * 1.0001, "{best} would beat {plain}");
    } else {
        prop_assert!(
            got >= best * 0.9999 && got > GAIN * plain * 0.9999,
            "{got} of {best}, {plain}"
        );
    }
    Ok(())
}

#[test]
fn where_tokens_cost_nothing_more_everything_is_drafted() {
    let candidates = [candidate(&[0.9, 0.5, 0.1]), candidate(&[0.6, 0.05])];
    let flat = StepCost::new(&[(1, 5.0), (512, 5.0)], 0.0);
    assert_eq!(choose(&flat, &candidates, base(2, 100, 0)), [3, 2]);
    assert_eq!(choose(&flat, &candidates, base(2, 3, 0)), [2, 1], "the likeliest three");
    assert_eq!(choose(&flat, &candidates, base(2, 100, 2)), [3, 2]);
    assert_eq!(choose(&flat, &candidates, base(2, 5, 2)), [2, 2], "two wide, four tokens");
}

#[test]
fn where_each_token_costs_a_step_nothing_is_drafted() {
    let candidates = [candidate(&[0.95, 0.9]), candidate(&[0.6])];
    let steep = StepCost::new(&[(1, 1.0), (512, 512.0)], 0.0);
    assert_eq!(choose(&steep, &candidates, base(2, 100, 0)), [0, 0]);
    assert_eq!(choose(&steep, &candidates, base(2, 100, 2)), [0, 0]);
}

#[test]
fn drafts_are_cut_to_what_their_stake_pays_for() {
    let cost = StepCost::new(&[(1, 1.0), (101, 51.0)], 0.0);
    let draft_len = DraftLen::new(cost);
    let cut = |stakes: &[f32], padded_slots: u32| {
        let mut candidates: Vec<Candidate> = stakes.iter().map(|_| candidate(&[0.9; 5])).collect();
        let base = StepBase { padded_slots, ..base(1, 100, 0) };
        draft_len.afford(&mut candidates, stakes, base);
        candidates.iter().map(|it| it.survival.len()).collect::<Vec<usize>>()
    };
    assert_eq!(cut(&[0.4, 0.6, 1.6, 99.0], 0), [0, 1, 3, 5], "half a token each");
    assert_eq!(cut(&[0.9, 2.1], 2), [1, 4], "two slots wide, shared by two");
}

#[test]
fn a_choice_on_the_edge_does_not_come_and_go() {
    let cost = StepCost::new(&[(1, 1.0), (2, 1.46)], 0.0);
    let mut draft_len = DraftLen::new(cost);
    let mut drafts = |survival: f32, parked: bool| {
        let mut lens = Vec::new();
        draft_len.park(parked);
        draft_len.fill(&[candidate(&[survival])], base(1, 8, 0), 0.0, &mut lens);
        lens[0]
    };
    let (edge, clearly_more) = (0.51, 0.56);
    assert_eq!(drafts(edge, false), 1, "a gain of 3%");
    assert_eq!(drafts(edge, true), 0, "not enough to begin again");
    assert_eq!(drafts(clearly_more, true), 1, "a gain of 7%");
}

#[test]
fn a_parked_controller_probes_the_likeliest_row_every_sixteenth_step() {
    let probes = |candidates: &[Candidate], base: StepBase| {
        let mut draft_len = DraftLen::new(StepCost::new(&[(1, 1.0), (512, 512.0)], 0.0));
        let mut lens = Vec::new();
        let mut at = Vec::new();
        for step in 1..=50 {
            draft_len.choose(candidates, base, &mut lens);
            at.extend(lens.iter().position(|&len| len > 0).map(|row| (step, row, lens[row])));
        }
        at
    };
    let candidates = [candidate(&[0.3]), candidate(&[0.6, 0.5])];
    let expected = [(16, 1, 1), (32, 1, 1), (48, 1, 1)];
    assert_eq!(probes(&candidates, base(2, 1, 0)), expected);
    assert_eq!(probes(&candidates, base(2, 2, 2)), expected);
    assert_eq!(probes(&candidates, base(2, 0, 0)), [], "no budget");
    assert_eq!(probes(&candidates, base(2, 1, 2)), [], "the budget has no room for two slots");
}

/// Verify drafts of one token, of which `hits` in ten are right.
fn teach(
    acceptance: &mut Acceptance,
    posterior: &mut Posterior,
    draft: Draft,
    hits: usize,
    times: usize,
) {
    for index in 0..times {
        let kept = usize::from(index * hits % 10 + hits >= 10);
        acceptance.observe(posterior, &[draft], kept);
    }
}

#[test]
fn acceptance_converges_to_what_verification_keeps() {
    for hits in [0, 1, 5, 9, 10] {
        let (mut acceptance, mut posterior) = (Acceptance::default(), Posterior::default());
        teach(&mut acceptance, &mut posterior, draft(4, 0.5), hits, 2000);
        let rate = hits as f32 / 10.0;
        let others = acceptance.rate(&Posterior::default(), &draft(5, 0.6));
        assert!((others - rate).abs() < 0.03, "{others} for {rate}, to a new request");
        let own = acceptance.rate(&posterior, &draft(4, 0.5));
        assert!((own - rate).abs() < 0.12, "{own} for {rate}, to the request itself");
    }
}

#[test]
fn a_request_unlike_the_others_learns_its_own_rate() {
    let (mut acceptance, mut others) = (Acceptance::default(), Posterior::default());
    let mut own = Posterior::default();
    teach(&mut acceptance, &mut others, draft(4, 0.5), 9, 2000);
    teach(&mut acceptance, &mut own, draft(4, 0.5), 0, 30);
    assert!(acceptance.rate(&own, &draft(4, 0.5)) < 0.4);
    assert!(acceptance.rate(&others, &draft(4, 0.5)) > 0.8);
}

#[test]
fn drafts_behind_the_first_rejected_one_tell_nothing() {
    let (mut acceptance, mut posterior) = (Acceptance::default(), Posterior::default());
    let drafts = [draft(2, 0.1), draft(3, 0.1), draft(20, 0.9)];
    let before = drafts.map(|it| acceptance.rate(&posterior, &it));
    acceptance.observe(&mut posterior, &drafts, 1);
    let after = drafts.map(|it| acceptance.rate(&posterior, &it));
    assert!(after[0] > before[0] && after[1] < before[1] && near(after[2], before[2]));
}

#[test]
fn survival_is_the_product_of_rates_and_ends_where_it_is_nothing() {
    let (acceptance, posterior) = (Acceptance::default(), Posterior::default());
    let valued = Candidate::new(&acceptance, &posterior, vec![draft(2, 0.1); 9]);
    let rate = acceptance.rate(&posterior, &draft(2, 0.1));
    assert!(valued.drafts.len() < 9 && valued.drafts.len() == valued.survival.len());
    assert!((1..).zip(&valued.survival).all(|(at, &chance)| near(chance, rate.powi(at))));
}

#[test]
fn wrong_drafts_cost_a_request_no_more_than_its_credit() {
    let mut controller = DraftLen::new(StepCost::new(&[(1, 10.0), (65, 74.0)], 0.0));
    let base = base(1, 64, 0);
    let (mut posterior, mut lost) = (Posterior::default(), 0.0);
    for _ in 0..200 {
        let mut candidates = vec![candidate(&[0.9; 64])];
        controller.afford(&mut candidates, &[posterior.stake(0.9)], base);
        let mut lens = Vec::new();
        controller.choose(&candidates, base, &mut lens);
        let cost = controller.price(base, lens[0] as u32, 1) * f32::from(u8::from(lens[0] > 0));
        posterior.settle(cost, 0);
        lost += cost;
    }
    assert!(lost > 0.5, "it gives drafts a chance: {lost}");
    assert!(lost < 3.3, "and loses 1.2 tokens, and one in a hundred: {lost}");
}

#[test]
fn right_drafts_are_soon_as_long_as_they_can_be() {
    let mut controller = DraftLen::new(StepCost::new(&[(1, 10.0), (65, 74.0)], 0.0));
    let base = base(1, 64, 0);
    let (mut posterior, mut longest) = (Posterior::default(), Vec::new());
    for _ in 0..4 {
        let mut candidates = vec![candidate(&[0.95; 32])];
        controller.afford(&mut candidates, &[posterior.stake(0.95)], base);
        let mut lens = Vec::new();
        controller.choose(&candidates, base, &mut lens);
        posterior.settle(controller.price(base, lens[0] as u32, 1), lens[0]);
        longest.push(lens[0]);
    }
    assert_eq!(longest.last(), Some(&32), "{longest:?}");
}

#[test]
fn drafts_do_not_hide_behind_a_prompt_that_is_read_in_the_same_step() {
    let controller = DraftLen::new(StepCost::new(&[(1, 10.0), (101, 510.0)], 0.0));
    let alone = base(1, 64, 0);
    let beside = StepBase { tokens: 97, prefill: 96, rects: 2, ..alone };
    let (alone, beside) = (controller.price(alone, 4, 1), controller.price(beside, 4, 1));
    assert!((alone - beside).abs() < 0.05, "{alone} alone, {beside} beside a prompt");
}

#[test]
fn a_climb_says_of_each_number_of_tokens_what_is_said_when_asked_for_it() {
    let mut cost = StepCost::new(&[(1, 5.0), (2, 5.1), (8, 9.0), (64, 30.0)], 0.5);
    for tokens in [1, 3, 8, 40, 90] {
        cost.observe(tokens, 1, 12.0);
    }
    for start in [0, 1, 5, 63, 64, 200] {
        let mut climb = cost.climb(start);
        for tokens in start + 1..start + 150 {
            let (climbed, asked) = (climb.next_ms(3), cost.ms(tokens, 3));
            assert!(
                (climbed - asked).abs() < 1e-3 * asked,
                "{tokens} from {start}: {climbed} {asked}"
            );
        }
    }
}
