//! The suffix index against an oracle that looks at the whole text for every question.

use mlxspec_scheduler::draft::{Draft, Drafter};
use mlxspec_scheduler::suffix::{MAX_COUNT_HOPS, MIN_MATCH, SuffixIndex};
use proptest::prelude::*;

/// Answers by definition, in O(n^2).
struct Oracle<'a> {
    text: &'a [u32],
}

impl Oracle<'_> {
    /// Longest common suffix of two prefixes of the text.
    fn common_suffix(&self, a: usize, b: usize) -> usize {
        let (a, b) = (&self.text[..a], &self.text[..b]);
        a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count()
    }

    fn longest_match(&self) -> usize {
        let n = self.text.len();
        (0..n).map(|end| self.common_suffix(n, end)).max().unwrap_or(0)
    }

    /// Whether every suffix chain was short enough to be counted to its end: a prefix has one
    /// state for itself and one for each length at which an earlier end drops out.
    fn counts_are_exact(&self) -> bool {
        (1..=self.text.len()).all(|n| {
            let mut lens: Vec<_> = (1..n).map(|end| self.common_suffix(n, end)).collect();
            lens.retain(|&len| len > 0);
            lens.sort_unstable();
            lens.dedup();
            lens.len() < MAX_COUNT_HOPS
        })
    }

    /// Every token that followed the context, as (occurrences, latest end, token).
    fn followers(&self, context: &[u32]) -> Vec<(u32, usize, u32)> {
        let mut found: Vec<(u32, usize, u32)> = Vec::new();
        for end in context.len()..self.text.len() {
            if self.text[..end].ends_with(context) {
                let token = self.text[end];
                let at = found.iter().position(|it| it.2 == token);
                let at = at.unwrap_or_else(|| {
                    found.push((0, 0, token));
                    found.len() - 1
                });
                found[at] = (found[at].0 + 1, end, token);
            }
        }
        found
    }

    fn draft(&self, max: usize, min_prob: f32) -> Vec<Draft> {
        let mut text = self.text.to_vec();
        let mut drafts = Vec::new();
        let (mut len, mut path) = (self.longest_match(), 1.0);
        while drafts.len() < max {
            while len > 0 && self.followers(&text[text.len() - len..]).is_empty() {
                len -= 1;
            }
            if len < MIN_MATCH as usize {
                break;
            }
            let found = self.followers(&text[text.len() - len..]);
            let total: u32 = found.iter().map(|it| it.0).sum();
            let Some(&(count, _, token)) = found.iter().max() else { break };
            let prob = count as f32 / (total as f32 + 2.0 / len as f32);
            path *= prob;
            if path < min_prob {
                break;
            }
            drafts.push(Draft { drafter: Drafter::Suffix, token, prob, match_len: len as u32 });
            text.push(token);
            len += 1;
        }
        drafts
    }
}

fn index_of(text: &[u32]) -> SuffixIndex {
    let mut index = SuffixIndex::new();
    index.extend(text);
    index
}

fn draft(text: &[u32], max: usize, min_prob: f32) -> Vec<Draft> {
    let mut drafts = Vec::new();
    index_of(text).draft(max, min_prob, &mut drafts);
    drafts
}

fn tokens(drafts: &[Draft]) -> Vec<u32> {
    drafts.iter().map(|it| it.token).collect()
}

/// Noise over a small vocabulary, and text that repeats itself.
fn texts() -> impl Strategy<Value = Vec<u32>> {
    let noise = (2_u32..=4).prop_flat_map(|vocab| prop::collection::vec(0..vocab, 0..200));
    let word = (2_u32..=4).prop_flat_map(|vocab| prop::collection::vec(0..vocab, 1..12));
    let repeats = prop::collection::vec(word, 1..4)
        .prop_flat_map(|words| prop::collection::vec(prop::sample::select(words), 1..20))
        .prop_map(|words| words.concat().into_iter().take(200).collect());
    prop_oneof![2 => noise, 1 => repeats]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_longest_match_is_the_oracles_after_every_token(text in texts()) {
        let mut index = SuffixIndex::new();
        for (i, &token) in text.iter().enumerate() {
            index.push(token);
            let oracle = Oracle { text: &text[..=i] };
            prop_assert_eq!(index.longest_match() as usize, oracle.longest_match());
            prop_assert_eq!(index.len() as usize, i + 1);
        }
        prop_assert_eq!(index.check_integrity(), Ok(()));
    }

    #[test]
    fn every_draft_followed_its_context_before(text in texts(), max in 0_usize..48) {
        let oracle = Oracle { text: &text };
        let mut so_far = text.clone();
        for step in draft(&text, max, 0.0) {
            let context = &so_far[so_far.len() - step.match_len as usize..];
            let found = oracle.followers(context);
            prop_assert!(found.iter().any(|it| it.2 == step.token), "{:?}", step);
            prop_assert!(step.match_len >= MIN_MATCH);
            prop_assert!(step.prob > 0.0 && step.prob < 1.0);
            so_far.push(step.token);
        }
    }

    #[test]
    fn where_counts_are_exact_drafts_are_the_oracles(
        text in texts(), max in 0_usize..48, min_prob in 0.0_f32..0.9,
    ) {
        let oracle = Oracle { text: &text };
        prop_assume!(oracle.counts_are_exact());
        prop_assert_eq!(draft(&text, max, min_prob), oracle.draft(max, min_prob));
    }

    #[test]
    fn pushing_one_by_one_or_at_once_is_the_same(text in texts(), cut in 0_usize..200) {
        let cut = cut.min(text.len());
        let mut parts = SuffixIndex::with_capacity(text.len());
        parts.extend(&text[..cut]);
        parts.extend(&text[cut..]);
        let mut drafts = Vec::new();
        parts.draft(32, 0.0, &mut drafts);
        prop_assert_eq!(drafts, draft(&text, 32, 0.0));
    }
}

#[test]
fn an_empty_text_has_no_match_and_no_draft() {
    let index = SuffixIndex::new();
    assert!(index.is_empty());
    assert_eq!((index.len(), index.longest_match()), (0, 0));
    assert_eq!(draft(&[], 8, 0.0), []);
}

#[test]
fn a_text_without_repeats_has_no_draft() {
    assert_eq!(index_of(&[1, 2, 3, 4]).longest_match(), 0);
    assert_eq!(draft(&[1, 2, 3, 4], 8, 0.0), []);
}

#[test]
fn periodic_text_is_continued_past_its_end() {
    let drafts = draft(&[1, 2, 3, 1, 2, 3], 8, 0.0);
    assert_eq!(tokens(&drafts), [1, 2, 3, 1, 2, 3, 1, 2]);
    let lens: Vec<_> = drafts.iter().map(|it| it.match_len).collect();
    assert_eq!(lens, [3, 4, 5, 3, 4, 5, 3, 4]);
}

#[test]
fn a_context_under_the_minimum_drafts_nothing() {
    assert_eq!(index_of(&[1, 2, 3, 1]).longest_match(), 1);
    assert_eq!(draft(&[1, 2, 3, 1], 8, 0.0), []);
    assert_eq!(tokens(&draft(&[1, 2, 3, 1, 2], 1, 0.0)), [3]);
}

#[test]
fn the_most_frequent_continuation_wins() {
    let text = [7, 8, 1, 7, 8, 1, 7, 8, 2, 7, 8];
    let drafts = draft(&text, 1, 0.0);
    assert_eq!(tokens(&drafts), [1]);
    assert!((drafts[0].prob - 2.0 / (3.0 + 2.0 / 2.0)).abs() < 1e-6);
}

#[test]
fn of_two_equally_frequent_continuations_the_latest_wins() {
    assert_eq!(tokens(&draft(&[7, 8, 1, 7, 8, 2, 7, 8], 1, 0.0)), [2]);
    assert_eq!(tokens(&draft(&[7, 8, 2, 7, 8, 1, 7, 8], 1, 0.0)), [1]);
}

#[test]
fn a_copy_is_drafted_as_far_as_its_match_is_long() {
    let source: Vec<u32> = (0..200).collect();
    // A match of m tokens goes on for k more with m (m + 1) / ((m + k) (m + k + 1)): 1/4 is k = m.
    for m in [4, 10, 20] {
        let text = [source.as_slice(), &source[..m]].concat();
        let num_drafts = draft(&text, 100, 0.2499).len();
        assert_eq!(num_drafts, m, "match of {m}");
    }
}

#[test]
fn a_cloned_index_goes_its_own_way() {
    let mut first = index_of(&[1, 2, 3, 1, 2]);
    let second = first.clone();
    first.extend(&[9, 9, 9]);
    assert_eq!((first.longest_match(), second.longest_match()), (2, 2));
    assert_eq!((first.len(), second.len()), (8, 5));
}

#[test]
fn equal_tokens_without_end_stay_within_their_bounds() {
    let text = vec![5; 10_000];
    let index = index_of(&text);
    assert_eq!(index.longest_match(), 9_999);
    assert_eq!(index.check_integrity(), Ok(()));
    assert_eq!(tokens(&draft(&text, 32, 0.1)), [5; 32]);
}
