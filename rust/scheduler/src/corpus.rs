//! What followed this context in other texts? The latest of them, in a ring of tokens.
//!
//! A request's own text has a suffix automaton ([`crate::suffix`]): every context, exactly counted,
//! and nothing ever leaves it. Here texts come and go, so their tokens lie in a ring, where the newest
//! overwrite the oldest, and two hash chains lead from the end of a context to the places where it
//! occurred, latest first, as in LZ77 compressors (RFC 1951, section 4).
//!
//! ```text
//!   hash(b c d) ──► heads ──► 17 ──prev──► 9 ──prev──► (left the ring: the chain ends)
//!                              │           │
//!   tokens   ... a b c d x ... a b c d y z ...
//! ```
//! A hash proves nothing, and a place may have been overwritten: what a chain leads to is compared with
//! the context, token by token, within one text of the same salt. So no text is ever continued with
//! another's, and nobody's with that of somebody under another salt.

use std::collections::VecDeque;
use std::hash::Hasher;
use std::sync::Arc;

use rustc_hash::FxHasher;

use crate::draft::{Draft, Drafter};
use crate::error::{IntegrityError, ensure};

/// Lengths of the contexts that are hashed: the long one finds the best place among many, the short
/// one finds any.
const ORDERS: [usize; 2] = [8, 3];
/// Places that a search looks at, per chain.
const MAX_PLACES: usize = 16;
/// A longer common context says no more.
const MAX_MATCH: usize = 32;
/// As in the suffix index: of a context of `m` tokens, `NOVELTY / m` occurrences are set aside for
/// what never followed it.
const NOVELTY: f32 = 2.0;

/// A shorter text is not worth its place in the list of texts.
pub const MIN_TEXT: usize = ORDERS[0];

/// Bytes that a token takes at most: itself, its part of a text's entry, and in each chain a link and
/// a head.
pub const BYTES_PER_TOKEN: usize = 4 + size_of::<Text>() / MIN_TEXT + ORDERS.len() * 8;

/// The texts of the latest `capacity` tokens.
#[derive(Debug)]
pub struct Corpus {
    drafter: Drafter,
    /// The ring: the token at position `p` lies at `p % capacity`.
    tokens: Vec<u32>,
    /// Whole texts, oldest first.
    texts: VecDeque<Text>,
    /// Tokens of all of them.
    held: usize,
    chains: [Chain; ORDERS.len()],
    /// Position of the next token. Starts so high that 0, in an empty chain, is long gone.
    next: u64,
}

/// A run of positions that belongs to one text.
#[derive(Debug)]
struct Text {
    /// Only requests of the same salt are drafted from it.
    salt: Arc<str>,
    start: u64,
    len: usize,
}

impl Text {
    fn end(&self) -> u64 {
        self.start + self.len as u64
    }
}

/// Places by the hash of the `order` tokens that end there. Positions are kept modulo 2^32.
#[derive(Debug)]
struct Chain {
    order: usize,
    heads: Vec<u32>,
    /// Ring of the same length as the tokens': the place before, with the same hash.
    prev: Vec<u32>,
}

impl Chain {
    fn new(order: usize, capacity: usize) -> Self {
        let heads = vec![0; (capacity.next_power_of_two() / 2).max(1)];
        Self { order, heads, prev: vec![0; capacity] }
    }

    /// The bucket of a context's last tokens; `None` if it is too short.
    fn bucket(&self, seed: u64, context: &[u32]) -> Option<usize> {
        let last = &context[context.len().checked_sub(self.order)?..];
        let mix = |hash: u64, word: u64| {
            (hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
        };
        let hash = last.iter().fold(seed, |hash, &token| mix(hash, u64::from(token)));
        Some((hash >> 16) as usize & (self.heads.len() - 1))
    }
}

/// A place where the context occurred: the position behind it, and where its text ends.
#[derive(Debug, Clone, Copy)]
struct Place {
    at: u64,
    end: u64,
}

impl Corpus {
    /// An empty corpus of at most `capacity` tokens, at least one. Memory is taken as it fills.
    pub fn new(drafter: Drafter, capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self {
            drafter,
            tokens: vec![0; capacity],
            texts: VecDeque::new(),
            held: 0,
            chains: ORDERS.map(|order| Chain::new(order, capacity)),
            next: 2 * capacity as u64,
        }
    }

    /// The texts in it, oldest first, each with its salt.
    pub fn texts(&self) -> impl Iterator<Item = (&Arc<str>, Vec<u32>)> {
        self.texts.iter().map(|text| (&text.salt, self.read(text)))
    }

    fn read(&self, text: &Text) -> Vec<u32> {
        (text.start..text.end()).map(|at| self.token(at)).collect()
    }

    /// Tokens that it can hold.
    pub fn capacity(&self) -> usize {
        self.tokens.len()
    }

    /// Tokens in it.
    pub fn len(&self) -> usize {
        self.held
    }

    /// Tokens that it has ever taken in, give or take a constant: it grows with every text.
    pub fn progress(&self) -> u64 {
        self.next
    }

    /// Whether no text is in it.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Take in a text of eight tokens or more; the oldest give way to it. Of one longer than the corpus
    /// the end is kept.
    pub fn insert(&mut self, salt: &Arc<str>, text: &[u32]) {
        let text = &text[text.len().saturating_sub(self.capacity())..];
        if text.len() < MIN_TEXT {
            return;
        }
        let floor = (self.next + text.len() as u64).saturating_sub(self.capacity() as u64);
        while self.texts.front().is_some_and(|oldest| oldest.start < floor) {
            self.held -= self.texts.pop_front().map_or(0, |oldest| oldest.len);
        }
        self.held += text.len();
        self.texts.push_back(Text { salt: Arc::clone(salt), start: self.next, len: text.len() });
        let seed = seed_of(salt);
        for end in 1..=text.len() {
            self.push(seed, &text[end.saturating_sub(ORDERS[0])..end]);
        }
    }

    /// Append the last token of `context`, and lead its chains to it.
    fn push(&mut self, seed: u64, context: &[u32]) {
        let slot = self.slot(self.next);
        if let Some(&token) = context.last() {
            self.tokens[slot] = token;
        }
        for chain in &mut self.chains {
            let Some(bucket) = chain.bucket(seed, context) else { continue };
            chain.prev[slot] = chain.heads[bucket];
            chain.heads[bucket] = self.next as u32;
        }
        self.next += 1;
    }

    /// Draft up to `max` tokens that followed the end of `context` in texts of this salt, into
    /// `out`, whose old content is dropped.
    ///
    /// Of the places with the longest common context, each votes for what follows it; those
    /// outvoted drop out. Drafting ends with the texts, or when the probability that all drafts are
    /// right would fall under `min_prob`.
    pub fn draft(
        &self,
        salt: &str,
        context: &[u32],
        max: usize,
        min_prob: f32,
        out: &mut Vec<Draft>,
    ) {
        out.clear();
        let (mut places, mut match_len) = self.longest_matches(salt, context);
        let mut path_prob = 1.0;
        while out.len() < max {
            places.retain(|place| place.at < place.end);
            let Some((token, votes)) = self.vote(&places) else { return };
            let prob = votes as f32 / (places.len() as f32 + NOVELTY / match_len as f32);
            path_prob *= prob;
            if path_prob < min_prob {
                return;
            }
            out.push(Draft { drafter: self.drafter, token, prob, match_len });
            places.retain(|place| self.token(place.at) == token);
            for place in &mut places {
                place.at += 1;
            }
            match_len += 1;
        }
    }

    /// The token that most places continue with, the latest where two have equally many.
    fn vote(&self, places: &[Place]) -> Option<(u32, usize)> {
        let votes = |token| places.iter().filter(|it| self.token(it.at) == token).count();
        let ballots = places.iter().rev().map(|place| self.token(place.at));
        ballots.map(|token| (token, votes(token))).max_by_key(|&(_, votes)| votes)
    }

    /// The places, latest first, that share the longest end of `context`, and its length.
    fn longest_matches(&self, salt: &str, context: &[u32]) -> (Vec<Place>, u32) {
        let (mut places, mut longest) = (Vec::new(), 0);
        let seed = seed_of(salt);
        for chain in &self.chains {
            for at in self.walk(chain, seed, context).take(MAX_PLACES) {
                let Some((place, len)) = self.matched(salt, context, at) else { continue };
                if len < chain.order || len < longest {
                    continue;
                }
                if len > longest {
                    places.clear();
                }
                longest = len;
                places.push(place);
            }
            if longest > 0 {
                break;
            }
        }
        (places, longest as u32)
    }

    /// Positions that a chain leads to, latest first, as long as they are in the ring.
    fn walk<'a>(
        &'a self,
        chain: &'a Chain,
        seed: u64,
        context: &[u32],
    ) -> impl Iterator<Item = u64> + 'a {
        let mut at = self.next;
        let mut stored = chain.bucket(seed, context).map(|bucket| chain.heads[bucket]);
        std::iter::from_fn(move || {
            let back = (at as u32).wrapping_sub(stored?);
            let found = at.checked_sub(u64::from(back)).filter(|_| back > 0)?;
            if self.next - found > self.capacity() as u64 {
                return None;
            }
            stored = Some(chain.prev[self.slot(found)]);
            at = found;
            Some(found)
        })
    }

    /// How much of `context` ends at position `last`, within one text of this salt.
    fn matched(&self, salt: &str, context: &[u32], last: u64) -> Option<(Place, usize)> {
        let text = self.text_at(last).filter(|text| *text.salt == *salt)?;
        let most = ((last + 1 - text.start) as usize).min(MAX_MATCH);
        let before = context.iter().rev().take(most).enumerate();
        let len =
            before.take_while(|&(back, &token)| self.token(last - back as u64) == token).count();
        Some((Place { at: last + 1, end: text.end() }, len))
    }

    fn text_at(&self, position: u64) -> Option<&Text> {
        let after = self.texts.partition_point(|text| text.start <= position);
        self.texts.get(after.checked_sub(1)?).filter(|text| position < text.end())
    }

    fn token(&self, position: u64) -> u32 {
        self.tokens[self.slot(position)]
    }

    fn slot(&self, position: u64) -> usize {
        (position % self.tokens.len() as u64) as usize
    }

    /// The texts fit the ring and end where it does: what can be checked at once, however many.
    ///
    /// # Errors
    /// The first thing found that does not hold.
    pub fn check_bounds(&self) -> Result<(), IntegrityError> {
        let (held, capacity) = (self.len(), self.capacity());
        ensure!(held <= capacity, "a corpus of {capacity} tokens holds {held}");
        let end = self.texts.back().map_or(self.next, Text::end);
        ensure!(end == self.next, "the newest text ends at {end}, the ring at {}", self.next);
        ensure!(
            self.texts.front().is_none_or(|oldest| self.next - oldest.start <= capacity as u64),
            "the oldest text has been overwritten"
        );
        Ok(())
    }

    /// Texts lie one behind the other within the ring, and chains lead to every place of theirs.
    ///
    /// # Errors
    /// The first thing found that does not hold.
    pub fn check_integrity(&self) -> Result<(), IntegrityError> {
        self.check_bounds()?;
        let held: usize = self.texts.iter().map(|text| text.len).sum();
        ensure!(held == self.held, "texts have {held} tokens, the books {}", self.held);
        for (text, behind) in self.texts.iter().zip(self.texts.iter().skip(1)) {
            ensure!(text.end() == behind.start, "the text at {} does not end its run", text.start);
        }
        self.texts.iter().try_for_each(|text| self.check_chains(text))
    }

    fn check_chains(&self, text: &Text) -> Result<(), IntegrityError> {
        let tokens = self.read(text);
        for chain in &self.chains {
            for len in chain.order..=tokens.len() {
                let last = text.start + len as u64 - 1;
                let found =
                    self.walk(chain, seed_of(&text.salt), &tokens[..len]).any(|at| at == last);
                ensure!(found, "no chain leads to position {last}");
            }
        }
        Ok(())
    }
}

/// Where the hashes of a salt begin.
fn seed_of(salt: &str) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(salt.as_bytes());
    hasher.finish()
}
