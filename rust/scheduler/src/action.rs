//! What the engine loop does next, and the packed form in which a step crosses into Python.
//!
//! A step is a list of rectangles: `rows` neighbouring rows of a slab times `width` new tokens.
//! All rectangles' tokens stand one after another, row by row, so the model's linear layers see
//! exactly these tokens and attention sees each rectangle as a reshaped range of them.
//!
//! ```text
//! slab 0, slots 0..4, decoding; slot 2 also verifies three drafts; slab 1, slot 0 prefills five
//!   rects   [slab 0, slot 0, 4x1] [slab 0, slot 2, 1x3] [slab 1, slot 0, 1x5]
//!   tokens   a b c d               c1 c2 c3              p q r s t
//! ```

use crate::config::{DraftModelShape, ModelShape};
use crate::draft::{Draft, Drafter};
use crate::draft_plan::DraftPlan;
use crate::edits::{Change, Edit};
use crate::ids::{ModelId, RequestId, SlabId};
use crate::residency::Order;
use crate::rows::KvOp;
use crate::segment::SegmentRead;

/// What the engine loop does next.
#[derive(Debug)]
pub enum Action {
    /// Bring a model into memory, or out of it.
    Residency(Order),
    /// Run this step and commit its outcome.
    Step(Box<StepPlan>),
    /// Read a piece of KV from disk and tell [`crate::scheduler::Scheduler::take_read`].
    Read(SegmentRead),
    /// Nothing to do until a command arrives.
    Idle,
}

/// How a load ended.
#[derive(Debug, Clone)]
pub enum LoadEnd {
    /// The model is in memory.
    Loaded {
        /// What it and its device look like.
        shape: ModelShape,
        /// Bytes it holds, KV memory included: no more than were reserved.
        num_bytes: u64,
    },
    /// The drafter is in memory.
    DrafterLoaded {
        /// What its forwards cost.
        shape: DraftModelShape,
        /// Bytes it holds: no more than were reserved.
        num_bytes: u64,
    },
    /// Nothing was loaded: the model needs more than was reserved.
    Resized {
        /// That many bytes.
        num_bytes: u64,
    },
    /// It could not be loaded, and nothing of it is left; the text says why.
    Failed(String),
    /// It was broken off, and nothing of it is left.
    Cancelled,
}

/// Neighbouring rows of one slab with equally many new tokens each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rect {
    /// The slab.
    pub slab: SlabId,
    /// The first row's slot.
    pub slot: u32,
    /// Number of rows.
    pub rows: u32,
    /// New tokens per row.
    pub width: u32,
    /// Index of the first token in the step.
    pub first: u32,
    /// KV positions that attention looks at.
    pub view: u32,
}

impl Rect {
    pub(crate) fn pack(&self) -> [u32; 6] {
        [self.slab.0, self.slot, self.rows, self.width, self.first, self.view]
    }
}

/// One request's part in a step.
#[derive(Debug, Clone)]
pub struct PlannedRow {
    /// Whose part.
    pub request: RequestId,
    /// Index into the running requests of the model.
    pub index: usize,
    /// Known tokens computed in this step.
    pub num_new: u32,
    /// Whether a new token is drawn: the known tokens end in this step.
    pub samples: bool,
    /// Drafts from text, verified behind them.
    pub drafts: Vec<Draft>,
    /// Known tokens that the draft model reads in this step.
    pub num_read: u32,
    /// Drafts that the draft model is to write in this step, verified where there are none from text.
    pub num_unwritten: u32,
}

impl PlannedRow {
    /// Drafts verified in this step, whoever makes them.
    pub fn num_drafts(&self) -> usize {
        self.drafts.len() + self.num_unwritten as usize
    }

    /// Who made each of them, in order.
    pub fn drafters(&self) -> impl Iterator<Item = Drafter> {
        let unwritten = std::iter::repeat_n(Drafter::Model, self.num_unwritten as usize);
        self.drafts.iter().map(|draft| draft.drafter).chain(unwritten)
    }
}

/// Tokens of a prompt of which the runner gathers something besides their KV.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Harvest {
    /// See [`crate::request::Submission::harvest`].
    pub key: u32,
    /// Index of the first of them in the step; the others follow it.
    pub first: u32,
    /// How many they are.
    pub count: u32,
    /// Position of the first one in its row.
    pub start: u32,
}

/// The tokens of one forward, rectangle by rectangle, and where they lie in KV memory.
#[derive(Debug, Default, Clone)]
pub struct Laid {
    /// The rectangles.
    pub rects: Vec<Rect>,
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Position of each token in its row.
    pub positions: Vec<u32>,
}

/// One forward of one model over a batch.
#[derive(Debug, Clone)]
pub struct StepPlan {
    /// The model to run.
    pub model: ModelId,
    /// Which of its instances.
    pub instance: u32,
    /// Changes of the KV arrays to carry out first.
    pub kv_ops: Vec<KvOp>,
    /// What runs, request by request.
    pub rows: Vec<PlannedRow>,
    /// How it lies in KV memory.
    pub rects: Vec<Rect>,
    /// Token ids, rectangle by rectangle.
    pub tokens: Vec<u32>,
    /// Position of each token in its row.
    pub positions: Vec<u32>,
    /// The sampling rows, in the order of `rows`.
    pub samplers: Vec<Sampler>,
    /// Indices into `tokens` whose logits are needed: per sampler one for the last known token and
    /// one per draft.
    pub sampled: Vec<u32>,
    /// Noise key of each sampled position.
    pub noise: Vec<[u32; 2]>,
    /// Changes of logits before drawing, row by row.
    pub edits: Vec<Edit>,
    /// What is gathered of prompts.
    pub harvests: Vec<Harvest>,
    /// What the draft model does first, if anything.
    pub draft: Option<Box<DraftPlan>>,
}

/// How one row draws and verifies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    /// Index of its first entry in `sampled`.
    pub first: u32,
    /// Drafts to verify; the row has one entry more.
    pub num_drafts: u32,
    /// See [`crate::sampling::Sampling`].
    pub temperature: f32,
    /// See [`crate::sampling::Sampling`].
    pub top_p: f32,
    /// See [`crate::sampling::Sampling`].
    pub min_p: f32,
    /// See [`crate::sampling::Sampling`].
    pub top_k: u32,
    /// See [`crate::sampling::Xtc`].
    pub xtc_probability: f32,
    /// See [`crate::sampling::Xtc`].
    pub xtc_threshold: f32,
    /// See [`crate::sampling::Sampling`].
    pub logprobs: Option<u32>,
    /// See [`crate::sampling::Sampling`].
    pub constraint: u32,
}

impl Sampler {
    /// Words that the runner answers for the logprobs of each of its positions: the token's own, then
    /// id and logprob of each alternative.
    pub fn logprob_words(&self) -> usize {
        self.logprobs.map_or(0, |alternatives| 1 + 2 * alternatives as usize)
    }

    /// Words for all of its positions.
    pub fn all_logprob_words(&self) -> usize {
        self.logprob_words() * (self.num_drafts as usize + 1)
    }
}

/// How likely the target found a token and what else it might have drawn: natural logarithms of
/// the softmax of its logits, before edits, temperature and truncation.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// Of the token itself.
    pub logprob: f32,
    /// The likeliest tokens, and theirs.
    pub top: Vec<(u32, f32)>,
}

impl TokenLogprobs {
    /// Read one position's words.
    pub fn unpack(words: &[u32]) -> Option<Self> {
        let (&logprob, top) = words.split_first()?;
        let top = top.chunks_exact(2).map(|it| (it[0], f32::from_bits(it[1])));
        Some(Self { logprob: f32::from_bits(logprob), top: top.collect() })
    }
}

/// What a step brought.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct StepOutcome {
    /// Per sampler: how many of its drafts were accepted.
    pub accepted: Vec<u32>,
    /// Per sampled position: the target's own token.
    pub tokens: Vec<u32>,
    /// Per sampled position of the samplers that ask: see [`Sampler::logprob_words`].
    pub logprobs: Vec<u32>,
    /// Per sampler with a grammar: the tokens that this forces next, behind those kept.
    pub forced: Vec<Vec<u32>>,
}

impl StepOutcome {
    /// Read a runner's answer: all of the above, forced tokens with their number before them. What does
    /// not fit the plan is left out, and missed by whoever checks.
    pub fn unpack(plan: &StepPlan, words: &[u32]) -> Self {
        let (accepted, words) = words.split_at(plan.samplers.len().min(words.len()));
        let (tokens, words) = words.split_at(plan.sampled.len().min(words.len()));
        let (logprobs, mut words) = words.split_at(plan.num_logprobs().min(words.len()));
        let mut forced = Vec::new();
        while let Some((&count, rest)) = words.split_first() {
            let (tokens, rest) = rest.split_at((count as usize).min(rest.len()));
            forced.push(tokens.to_vec());
            words = rest;
        }
        let [accepted, tokens, logprobs] = [accepted, tokens, logprobs].map(<[u32]>::to_vec);
        Self { accepted, tokens, logprobs, forced }
    }

    /// Whether it has what the plan asks for.
    pub fn fits(&self, plan: &StepPlan) -> bool {
        let samplers = &plan.samplers;
        self.accepted.len() == samplers.len()
            && self.tokens.len() == plan.sampled.len()
            && self.logprobs.len() == plan.num_logprobs()
            && self.forced.len() == samplers.iter().filter(|it| it.constraint > 0).count()
            && samplers.iter().zip(&self.accepted).all(|(it, &kept)| kept <= it.num_drafts)
    }
}

impl StepPlan {
    /// Words of log-probabilities that its samplers ask for.
    pub fn num_logprobs(&self) -> usize {
        self.samplers.iter().map(Sampler::all_logprob_words).sum()
    }

    /// A forward in which nobody samples yet.
    pub(crate) fn of(model: ModelId, laid: Laid) -> Self {
        Self {
            model,
            instance: 0,
            kv_ops: Vec::new(),
            rows: Vec::new(),
            rects: laid.rects,
            tokens: laid.tokens,
            positions: laid.positions,
            samplers: Vec::new(),
            sampled: Vec::new(),
            noise: Vec::new(),
            edits: Vec::new(),
            harvests: Vec::new(),
            draft: None,
        }
    }

    /// Pack the step for the runner: 32-bit words, floats by their bits.
    ///
    /// Header of 8 words: model, then the number of KV operations, rectangles, tokens, samplers,
    /// sampled positions, edits and harvests. Then the tables in that order; tokens and positions are
    /// two tables of one word per entry, `sampled` has three (index, noise key). Then the draft
    /// model's part, if it has one, see [`DraftPlan::pack`].
    pub fn pack(&self) -> Vec<u32> {
        let mut words = vec![
            self.model.0,
            self.kv_ops.len() as u32,
            self.rects.len() as u32,
            self.tokens.len() as u32,
            self.samplers.len() as u32,
            self.sampled.len() as u32,
            self.edits.len() as u32,
            self.harvests.len() as u32,
        ];
        words.extend(self.kv_ops.iter().flat_map(pack_op));
        words.extend(self.rects.iter().flat_map(Rect::pack));
        words.extend(&self.tokens);
        words.extend(&self.positions);
        words.extend(self.samplers.iter().flat_map(|s| {
            let [temperature, top_p, min_p] = [s.temperature, s.top_p, s.min_p].map(f32::to_bits);
            let xtc = [s.xtc_probability, s.xtc_threshold].map(f32::to_bits);
            let logprobs = s.logprobs.map_or(0, |alternatives| alternatives + 1);
            let [first, second] = xtc;
            [
                s.first,
                s.num_drafts,
                temperature,
                top_p,
                min_p,
                s.top_k,
                first,
                second,
                logprobs,
                s.constraint,
            ]
        }));
        words.extend(&self.sampled);
        words.extend(self.noise.iter().flatten());
        words.extend(self.edits.iter().flat_map(pack_edit));
        words.extend(self.harvests.iter().flat_map(|it| [it.key, it.first, it.count, it.start]));
        if let Some(draft) = &self.draft {
            draft.pack(&mut words);
        }
        words
    }
}

fn pack_op(op: &KvOp) -> [u32; 6] {
    match *op {
        KvOp::Create { slab, slots, capacity } => [0, slab.0, slots, capacity, 0, 0],
        KvOp::Drop { slab } => [1, slab.0, 0, 0, 0, 0],
        KvOp::Copy { from, to, num_tokens } => {
            [2, from.slab.0, from.slot, to.slab.0, to.slot, num_tokens]
        }
    }
}

fn pack_edit(edit: &Edit) -> [u32; 6] {
    let (kind, [a, b]) = match edit.change {
        Change::Allow => (0, [0.0, 0.0]),
        Change::Add(bias) => (1, [bias, 0.0]),
        Change::Penalize { factor, subtract } => (2, [factor, subtract]),
        Change::Spare => (3, [0.0, 0.0]),
    };
    [kind, edit.at, edit.len, edit.token, a.to_bits(), b.to_bits()]
}
