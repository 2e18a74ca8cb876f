//! Edits at a drafted position are those that plain decoding would make after the same tokens.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may")]

use std::collections::BTreeMap;

use mlxspec_scheduler::draft::{Draft, Drafter};
use mlxspec_scheduler::edits::{Change, Edit, push_edits};
use mlxspec_scheduler::ids::{ModelId, RequestId};
use mlxspec_scheduler::request::{Request, Submission};
use mlxspec_scheduler::sampling::{Penalties, Sampling, Xtc};
use proptest::prelude::*;

const AT: u32 = 7;
const STOP: u32 = 99;

fn request(prompt: &[u32], output: &[u32], sampling: Sampling) -> Request {
    let submission = Submission {
        model: ModelId(0),
        prompt: prompt.to_vec(),
        max_tokens: None,
        stop_tokens: [STOP].into(),
        sampling,
        speculate: false,
        prediction: Vec::new(),
        max_draft: u32::MAX,
        priority: 0,
        cache_salt: "".into(),
        keep_alive: None,
        harvest: 0,
    };
    let mut request = Request::new(RequestId(0), submission, 1000, 0);
    request.append(output);
    request
}

fn edits(prompt: &[u32], output: &[u32], drafts: &[u32], sampling: &Sampling) -> Vec<Edit> {
    let request = request(prompt, output, sampling.clone());
    let draft = |&token| Draft { drafter: Drafter::Suffix, token, prob: 1.0, match_len: 4 };
    let drafts: Vec<Draft> = drafts.iter().map(draft).collect();
    let mut edits = Vec::new();
    push_edits(&request, &drafts, drafts.len() as u32, AT, &mut edits);
    edits
}

/// The changes at one position, in an order of their own.
fn at(edits: &[Edit], position: u32) -> Vec<String> {
    let covers = |it: &&Edit| (it.at..it.at + it.len).contains(&(AT + position));
    let mut changes: Vec<String> = edits
        .iter()
        .filter(covers)
        .map(|edit| format!("{} {:?}", edit.token, edit.change))
        .collect();
    changes.sort();
    changes
}

fn everything() -> Sampling {
    Sampling {
        penalties: Penalties { repetition: 1.5, presence: 0.25, frequency: 0.5 },
        bias: vec![(3, 2.0), (4, -1.0)],
        allowed: Some(vec![1, 2, 3]),
        banned: vec![vec![1], vec![1, 2], vec![2, 1, 2], vec![0, 0, 0, 0, 3]],
        min_tokens: 9,
        xtc: Xtc { probability: 0.5, threshold: 0.1, spared: vec![5] },
        ..Sampling::default()
    }
}

proptest! {
    #[test]
    fn a_drafted_position_is_edited_as_if_the_drafts_before_it_were_output(
        prompt in prop::collection::vec(0_u32..6, 1..8),
        output in prop::collection::vec(0_u32..6, 0..12),
        drafts in prop::collection::vec(0_u32..6, 0..10),
    ) {
        let sampling = everything();
        let verified = edits(&prompt, &output, &drafts, &sampling);
        let end = AT + drafts.len() as u32 + 1;
        prop_assert!(verified.iter().all(|it| it.len > 0 && it.at >= AT && it.at + it.len <= end));
        for position in 0..=drafts.len() {
            let known = [output.as_slice(), &drafts[..position]].concat();
            let plain = edits(&prompt, &known, &[], &sampling);
            prop_assert_eq!(at(&verified, position as u32), at(&plain, 0), "position {}", position);
        }
    }

    #[test]
    fn each_token_is_penalised_once_by_how_often_it_occurred(
        prompt in prop::collection::vec(0_u32..6, 1..8),
        output in prop::collection::vec(0_u32..6, 0..12),
    ) {
        let penalties = Penalties { repetition: 2.0, presence: 1.0, frequency: 10.0 };
        let edits = edits(&prompt, &output, &[], &Sampling { penalties, ..Sampling::default() });
        let mut expected: BTreeMap<u32, f32> = prompt.iter().map(|&token| (token, 0.0)).collect();
        for &token in &output {
            let subtract = expected.entry(token).or_insert(0.0);
            *subtract = if *subtract == 0.0 { 11.0 } else { *subtract + 10.0 };
        }
        prop_assert_eq!(edits.len(), expected.len());
        for edit in edits {
            let change = Change::Penalize { factor: 2.0, subtract: expected[&edit.token] };
            prop_assert_eq!(edit.change, change);
        }
    }
}

#[test]
fn a_request_that_asks_for_nothing_makes_no_edits() {
    assert_eq!(edits(&[1, 2, 3], &[1, 1], &[1, 2], &Sampling::default()), []);
}

#[test]
fn presence_and_frequency_read_the_output_alone() {
    let penalties = Penalties { presence: 1.0, ..Penalties::default() };
    let edits = edits(&[1, 2, 3], &[4, 4], &[], &Sampling { penalties, ..Sampling::default() });
    let change = Change::Penalize { factor: 1.0, subtract: 1.0 };
    assert_eq!(edits, [Edit { at: AT, len: 1, token: 4, change }]);
}

#[test]
fn stop_tokens_are_banned_until_enough_is_generated_drafts_included() {
    let sampling = Sampling { min_tokens: 4, ..Sampling::default() };
    let ban = |len| Edit { at: AT, len, token: STOP, change: Change::Add(f32::NEG_INFINITY) };
    assert_eq!(edits(&[1], &[2, 2], &[5, 5, 5], &sampling), [ban(2)]);
    assert_eq!(edits(&[1], &[2, 2, 2, 2], &[5, 5, 5], &sampling), []);
}

#[test]
fn a_banned_sequence_may_not_be_completed_and_the_prompt_is_no_part_of_it() {
    let sampling = Sampling { banned: vec![vec![1, 2, 3]], ..Sampling::default() };
    let ban = |at| Edit { at, len: 1, token: 3, change: Change::Add(f32::NEG_INFINITY) };
    assert_eq!(edits(&[1, 2], &[], &[], &sampling), []);
    assert_eq!(edits(&[1], &[2], &[], &sampling), []);
    assert_eq!(edits(&[9], &[1, 2], &[], &sampling), [ban(AT)]);
    assert_eq!(edits(&[9], &[1], &[2, 1, 2], &sampling), [ban(AT + 1), ban(AT + 3)]);
}
