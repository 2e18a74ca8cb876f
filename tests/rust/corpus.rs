//! The corpus against the texts that were put into it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may")]

use mlxspec_scheduler::corpus::{Corpus, MIN_TEXT};
use mlxspec_scheduler::draft::{Draft, Drafter};
use proptest::prelude::*;

const ALICE: &str = "alice";
const BOB: &str = "bob";

/// A text and its salt.
type Text = (&'static str, Vec<u32>);

fn corpus_of(capacity: usize, texts: &[Text]) -> Corpus {
    let mut corpus = Corpus::new(Drafter::Prediction, capacity);
    for (salt, text) in texts {
        corpus.insert(&(*salt).into(), text);
    }
    corpus
}

fn draft(corpus: &Corpus, salt: &str, context: &[u32], max: usize) -> Vec<Draft> {
    let mut drafts = Vec::new();
    corpus.draft(salt, context, max, 0.0, &mut drafts);
    drafts
}

fn tokens(drafts: &[Draft]) -> Vec<u32> {
    drafts.iter().map(|it| it.token).collect()
}

/// Those of the texts that must still be there: whole ones, the newest, as many as fit.
fn held(capacity: usize, texts: &[Text]) -> Vec<Text> {
    let (mut room, mut newest) = (capacity, Vec::new());
    for (salt, text) in texts.iter().rev() {
        let text = text[text.len().saturating_sub(capacity)..].to_vec();
        if text.len() < MIN_TEXT {
            continue;
        }
        if text.len() > room {
            break;
        }
        room -= text.len();
        newest.push((*salt, text));
    }
    newest
}

#[test]
fn a_text_goes_on_as_it_did_and_ends_where_it_ended() {
    let text: Vec<u32> = (10..30).collect();
    let corpus = corpus_of(64, &[(ALICE, text)]);
    let drafts = draft(&corpus, ALICE, &[99, 12, 13, 14], 9);
    assert_eq!(tokens(&drafts), (15..24).collect::<Vec<_>>());
    assert_eq!((drafts[0].match_len, drafts[8].match_len), (3, 11));
    assert_eq!(draft(&corpus, ALICE, &[26, 27, 28], 9).len(), 1);
    assert_eq!(draft(&corpus, ALICE, &[27, 28, 29], 9), []);
    assert_eq!(draft(&corpus, ALICE, &[12, 13], 9), [], "two tokens of context say too little");
}

#[test]
fn most_places_decide_and_among_equals_the_latest() {
    let texts = [[7; 8], [8; 8], [8; 8]].map(|end| (ALICE, [&[1, 2, 3, 4], &end[..]].concat()));
    let drafts = draft(&corpus_of(99, &texts), ALICE, &[1, 2, 3, 4], 1);
    assert_eq!(tokens(&drafts), [8]);
    assert!((drafts[0].prob - 2.0 / 3.5).abs() < 1e-6, "{}", drafts[0].prob);
    assert_eq!(tokens(&draft(&corpus_of(99, &texts[..2]), ALICE, &[1, 2, 3, 4], 1)), [8]);
}

#[test]
fn the_longest_context_wins_over_the_most_frequent() {
    let mut texts = vec![(ALICE, vec![5, 1, 2, 3, 7, 7, 7, 7])];
    texts.extend((0..4).map(|_| (ALICE, vec![6, 1, 2, 3, 8, 8, 8, 8])));
    assert_eq!(tokens(&draft(&corpus_of(99, &texts), ALICE, &[5, 1, 2, 3], 2)), [7, 7]);
}

#[test]
fn a_long_context_is_found_behind_any_number_of_short_ones() {
    let copied: Vec<u32> = (100..120).chain([1, 2, 3]).chain(200..220).collect();
    let mut texts = vec![(ALICE, copied.clone())];
    texts.extend((0..200).map(|at| (ALICE, vec![at, at, at, at, 1, 2, 3, 50 + at])));
    let drafts = draft(&corpus_of(4000, &texts), ALICE, &copied[..23], 4);
    assert_eq!(tokens(&drafts), [200, 201, 202, 203]);
}

#[test]
fn the_oldest_text_leaves_when_there_is_no_room() {
    let texts = [1, 2, 3].map(|at| (ALICE, (at * 100..at * 100 + 10).collect::<Vec<u32>>()));
    let corpus = corpus_of(25, &texts);
    assert_eq!(corpus.len(), 20);
    assert_eq!(draft(&corpus, ALICE, &[100, 101, 102], 1), []);
    assert_eq!(tokens(&draft(&corpus, ALICE, &[200, 201, 202], 1)), [203]);
}

fn any_texts() -> impl Strategy<Value = Vec<Text>> {
    let salt = prop_oneof![Just(ALICE), Just(BOB)];
    prop::collection::vec((salt, prop::collection::vec(0_u32..3, 0..40)), 0..20)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn books_are_in_order_after_every_text_and_memory_is_bounded(
        capacity in 1_usize..120,
        texts in any_texts(),
    ) {
        let mut corpus = Corpus::new(Drafter::Prediction, capacity);
        for at in 0..texts.len() {
            corpus.insert(&texts[at].0.into(), &texts[at].1);
            corpus.check_integrity().unwrap();
            let expected: usize = held(capacity, &texts[..=at]).iter().map(|it| it.1.len()).sum();
            prop_assert_eq!(corpus.len(), expected);
        }
    }

    #[test]
    fn every_draft_is_read_from_a_text_of_the_same_salt(
        capacity in 8_usize..120,
        texts in any_texts(),
        context in prop::collection::vec(0_u32..3, 0..12),
        salt in prop_oneof![Just(ALICE), Just(BOB)],
    ) {
        let corpus = corpus_of(capacity, &texts);
        let mut drafts = Vec::new();
        corpus.draft(salt, &context, 6, 0.0, &mut drafts);
        let Some(first) = drafts.first() else { return Ok(()) };
        let known = context.len() - (first.match_len as usize).min(context.len());
        let expected = [&context[known..], &tokens(&drafts)].concat();
        let own = held(capacity, &texts).into_iter().filter(|it| it.0 == salt);
        prop_assert!(
            own.into_iter().any(|(_, text)| text.windows(expected.len()).any(|it| it == expected)),
            "{:?} stands in no text of {:?}", expected, salt
        );
    }

    /// So small a table that the hashes of different salts meet in its buckets all the time.
    #[test]
    fn texts_of_one_salt_help_no_other(
        capacity in 8_usize..40,
        text in prop::collection::vec(0_u32..3, 8..40),
        context in prop::collection::vec(0_u32..3, 3..12),
        salt in "[c-z]{1,3}",
    ) {
        let corpus = corpus_of(capacity, &[(BOB, text)]);
        prop_assert_eq!(draft(&corpus, &salt, &context, 6), []);
    }
}
