//! One request: its tokens, what of them has been computed, and what was measured on the way.

use std::sync::Arc;

use crate::acceptance::Posterior;
use crate::action::PlannedRow;
use crate::config::{BLOCK_TOKENS, KeepAlive, ModelShape};
use crate::corpus::{Corpus, MIN_TEXT};
use crate::draft::{DraftCount, Drafter};
use crate::draft_model::PlaceRates;
use crate::error::SubmitError;
use crate::ids::{ModelId, PrefixId, RequestId, Row};
use crate::model::Event;
use crate::sampling::Sampling;
use crate::suffix::SuffixIndex;
use crate::token_counts::TokenCounts;
use crate::unread::Unread;

/// Tokens that a request waits for rather than compute them beside the one that does already.
const WORTH_WAITING: u32 = 4 * BLOCK_TOKENS;

/// What one level of priority is worth: so much earlier, or later, a request counts as submitted.
/// Nobody starves by it, as all later ones end up behind.
const LEVEL_NS: i64 = 10_000_000_000;

/// A place in line, the first being the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn(i64, RequestId);

/// Everything a caller says about a request.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The model to run.
    pub model: ModelId,
    /// The prompt's tokens; at least one.
    pub prompt: Vec<u32>,
    /// Most tokens to generate, cut at the context length: with 0 the prompt is only read. `None` means
    /// as many as the context and the KV memory allow.
    pub max_tokens: Option<u32>,
    /// Tokens that end the output (and belong to it).
    pub stop_tokens: Arc<[u32]>,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Whether this request may be drafted for.
    pub speculate: bool,
    /// Most tokens drafted for it at once; the scheduler's own limit holds, too.
    pub max_draft: u32,
    /// Levels behind others, or ahead of them if negative.
    pub priority: i32,
    /// The answer as the client expects it, or nothing.
    pub prediction: Vec<u32>,
    /// Requests share cached KV, and are drafted from each other's answers, only with those of the
    /// same salt.
    pub cache_salt: Arc<str>,
    /// How long the model stays when idle, from now on; `None` leaves it as it was.
    pub keep_alive: Option<KeepAlive>,
    /// Names what the runner gathers of the prompt's tokens as it computes them; 0 nothing. If it
    /// gathers something, it computes all of them, even those whose KV is cached.
    pub harvest: u32,
}

/// Why a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    /// A stop token was generated.
    Stop,
    /// `max_tokens` or the context's end was reached.
    Length,
    /// Somebody called abort.
    Aborted,
    /// It waited too long to be run.
    Expired,
    /// The step it needed failed; the text says how.
    Failed(String),
    /// It never ran, and why.
    Refused(SubmitError),
    /// The model that was asked for is in memory.
    Loaded,
}

/// What was measured on one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestStats {
    /// Nanoseconds from submission to the first step.
    pub queued_ns: u64,
    /// Times the request lost its row and was computed again.
    pub preemptions: u32,
    /// Prompt tokens whose KV was there already when the request was first admitted.
    pub num_cached_tokens: u32,
    /// Draft tokens verified.
    pub num_draft_tokens: u32,
    /// The same and how many were right, by drafter, in the order of [`Drafter::ALL`].
    pub by_drafter: [DraftCount; Drafter::ALL.len()],
    /// `accepted[j]`: steps with a draft that kept `j` of its tokens.
    pub accepted: Vec<u32>,
}

impl RequestStats {
    /// Count one verified draft, of which `kept` tokens were right.
    pub fn count_draft(&mut self, planned: &PlannedRow, kept: usize) {
        let drafted = planned.num_drafts();
        self.num_draft_tokens += drafted as u32;
        if self.accepted.len() <= drafted {
            self.accepted.resize(drafted + 1, 0);
        }
        self.accepted[kept] += 1;
        for (at, drafter) in planned.drafters().enumerate() {
            let count = &mut self.by_drafter[drafter.index()];
            count.proposed += 1;
            count.accepted += u32::from(at < kept);
        }
    }
}

/// A request in the scheduler's hands.
#[derive(Debug)]
pub struct Request {
    pub(crate) id: RequestId,
    pub(crate) model: ModelId,
    /// Prompt and output so far.
    pub(crate) tokens: Vec<u32>,
    /// Length of the prompt.
    pub(crate) num_prompt: u32,
    /// Tokens whose KV is in the row. Prefill is this catching up with `tokens`; decode is one behind.
    pub(crate) num_computed: u32,
    /// Tokens whose draft-model KV is in the row; never more than `num_computed`.
    pub(crate) num_read: u32,
    /// Length of `tokens` at which the request ends.
    pub(crate) max_len: u32,
    pub(crate) stop_tokens: Arc<[u32]>,
    pub(crate) sampling: Sampling,
    /// What penalties go by; absent where there are none.
    pub(crate) counts: Option<TokenCounts>,
    pub(crate) salt: Arc<str>,
    pub(crate) max_draft: u32,
    pub(crate) harvest: u32,
    priority: i32,
    /// What follows the current context; absent where drafting is off.
    pub(crate) suffix: Option<SuffixIndex>,
    /// What follows it in the answer that the client predicted; absent without one.
    pub(crate) prediction: Option<Corpus>,
    /// What its grammar forces behind `tokens`, if it has one.
    pub(crate) forced: Vec<u32>,
    pub(crate) posterior: Posterior,
    /// What the draft model has shown in it.
    pub(crate) place_rates: PlaceRates,
    /// The KV row while running; none while waiting.
    pub(crate) row: Option<Row>,
    /// What others may find of the row; none where nothing is cached.
    pub(crate) prefix: Option<PrefixId>,
    pub(crate) submitted_ns: u64,
    pub(crate) keep_alive: Option<KeepAlive>,
    pub(crate) started: bool,
    /// What it begins with and is still to come from disk.
    pub(crate) unread: Unread,
    /// Somebody ahead is reading the same prompt: what both begin with is computed once.
    pub(crate) follows: bool,
    pub(crate) stats: RequestStats,
}

impl Request {
    /// Build the request, its suffix index included, on the caller's thread. It ends, at the
    /// latest, when it is `max_len` tokens long, or sooner if its model sets a limit.
    pub fn new(id: RequestId, submission: Submission, max_len: u32, now_ns: u64) -> Self {
        let suffix = submission.speculate.then(|| {
            let mut index = SuffixIndex::with_capacity(submission.prompt.len());
            index.extend(&submission.prompt);
            index
        });
        let penalties = submission.sampling.penalties;
        let counts = penalties.any().then(|| {
            let mut counts = TokenCounts::default();
            if penalties.reads_prompt() {
                counts.read_prompt(&submission.prompt);
            }
            counts
        });
        let prediction = (submission.speculate && !submission.prediction.is_empty())
            .then(|| predicted(&submission.cache_salt, &submission.prompt, &submission.prediction));
        Self {
            id,
            model: submission.model,
            num_computed: 0,
            num_read: 0,
            max_len,
            stop_tokens: submission.stop_tokens,
            sampling: submission.sampling,
            counts,
            num_prompt: submission.prompt.len() as u32,
            salt: submission.cache_salt,
            max_draft: submission.max_draft,
            harvest: submission.harvest,
            priority: submission.priority,
            suffix,
            prediction,
            forced: Vec::new(),
            posterior: Posterior::default(),
            place_rates: PlaceRates::default(),
            row: None,
            prefix: None,
            submitted_ns: now_ns,
            keep_alive: submission.keep_alive,
            started: false,
            unread: Unread::default(),
            follows: false,
            stats: RequestStats::default(),
            tokens: submission.prompt,
        }
    }

    /// The request's id.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// Its place in line, the first being the least: when it came, moved by its priority.
    pub(crate) fn turn(&self) -> Turn {
        let came = i64::try_from(self.submitted_ns).unwrap_or(i64::MAX);
        Turn(came.saturating_add(LEVEL_NS.saturating_mul(self.priority.into())), self.id)
    }

    /// Check the request against its model, once that is known.
    pub(crate) fn fit(&mut self, shape: &ModelShape) -> Result<(), SubmitError> {
        self.max_len = shape.limit(self.len(), self.max_len)?;
        Ok(())
    }

    /// The event that ends it.
    pub(crate) fn into_end(self, finish: Finish) -> Event {
        Event::end(self.id, finish, self.stats)
    }

    pub(crate) fn len(&self) -> u32 {
        self.tokens.len() as u32
    }

    /// Whether a token is drawn once the prompt is computed.
    pub(crate) fn generates(&self) -> bool {
        self.max_len > self.num_prompt
    }

    /// Tokens of the output so far.
    pub(crate) fn num_generated(&self) -> u32 {
        self.len() - self.num_prompt
    }

    /// Known tokens whose KV is in the row. Accepted drafts behind the request's end are not its.
    pub(crate) fn computed(&self) -> &[u32] {
        &self.tokens[..self.tokens.len().min(self.num_computed as usize)]
    }

    /// Known tokens whose KV is still to be computed; 1 means decoding.
    pub(crate) fn num_pending(&self) -> u32 {
        self.len() - self.num_computed
    }

    pub(crate) fn is_decoding(&self) -> bool {
        self.num_pending() == 1
    }

    /// Whether the other request had better wait: this one is about to compute a good part of what
    /// both begin with.
    pub(crate) fn leads(&self, other: &Self) -> bool {
        if self.num_computed < other.num_computed || self.salt != other.salt {
            return false;
        }
        let both = self.tokens.iter().zip(&other.tokens);
        let common = both.take_while(|(a, b)| a == b).count() as u32;
        let shared = common.min(other.len() - 1) / BLOCK_TOKENS * BLOCK_TOKENS;
        self.num_computed < shared && shared >= other.num_computed + WORTH_WAITING
    }

    /// Whether it has to wait for what others compute, or the disk holds, of its prompt.
    pub(crate) fn stands_still(&self) -> bool {
        self.follows || !self.unread.is_empty()
    }

    /// Whether it is drafted for at all.
    pub(crate) fn speculates(&self) -> bool {
        self.suffix.is_some()
    }

    /// Tokens that may still be generated.
    pub(crate) fn num_remaining(&self) -> u32 {
        self.max_len - self.len()
    }

    /// Append generated tokens up to the end of the request; returns how many were taken and, if
    /// it has ended, why.
    pub fn append(&mut self, generated: &[u32]) -> (usize, Option<Finish>) {
        for (index, &token) in generated.iter().enumerate() {
            self.tokens.push(token);
            if let Some(suffix) = &mut self.suffix {
                suffix.push(token);
            }
            if let Some(counts) = &mut self.counts {
                counts.push(token);
            }
            if self.stop_tokens.contains(&token) {
                return (index + 1, Some(Finish::Stop));
            }
            if self.len() >= self.max_len {
                return (index + 1, Some(Finish::Length));
            }
        }
        (generated.len(), None)
    }

    /// The noise key of the token at `position`: two words from (seed, position) alone, so a token
    /// does not depend on who shares the batch, on drafts, or on how often it was recomputed.
    pub(crate) fn noise_key(&self, position: u32) -> [u32; 2] {
        let mixed = split_mix(self.sampling.seed ^ split_mix(u64::from(position)));
        [mixed as u32, (mixed >> 32) as u32]
    }
}

/// The predicted answer as if it had been given before: behind the end of this prompt. So the first
/// token of the answer already stands in a context that the prediction continues.
fn predicted(salt: &Arc<str>, prompt: &[u32], prediction: &[u32]) -> Corpus {
    let text = [&prompt[prompt.len().saturating_sub(MIN_TEXT)..], prediction].concat();
    let mut corpus = Corpus::new(Drafter::Prediction, text.len());
    corpus.insert(salt, &text);
    corpus
}

/// One output of the `SplitMix64` generator (Steele, Lea, Flood 2014): a bijection of 64-bit words.
fn split_mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
