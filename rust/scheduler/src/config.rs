//! What the user chose (`SchedulerConfig`) and what the runner measured while loading (`ModelShape`).

use std::path::PathBuf;

use crate::error::SubmitError;
use crate::ids::ModelId;

/// KV positions per block.
pub const BLOCK_TOKENS: u32 = 16;

/// Blocks in the smallest row: rows hold `BUCKET_BLOCKS * 2^k` blocks.
pub const BUCKET_BLOCKS: u32 = 16;

/// Positions behind a row's tokens that padding may write to, where steps are padded.
pub const PAD_POSITIONS: u32 = 64;

/// Limits chosen by the user; fixed for the life of the scheduler.
#[derive(Debug, Clone)]
pub struct SchedulerConfig {
    /// Requests that may be in flight, over all models, beyond `max_running`; more are refused.
    pub max_waiting: usize,
    /// Requests of one model that hold a KV row at the same time.
    pub max_running: usize,
    /// Whether drafts are made at all.
    pub speculation: bool,
    /// Longest draft, in tokens.
    pub max_draft: usize,
    /// Whether drafts are as long as pays; else, to measure against, as long as can be.
    pub adaptive: bool,
    /// Memory of each model for the answers that other requests are drafted from; 0 keeps none.
    pub shared_suffix_bytes: usize,
    /// Where these answers outlive the process; `None` forgets them.
    pub suffix_dir: Option<PathBuf>,
    /// How long a step that decodes may take for the sake of prompts read beside it, in milliseconds.
    pub inter_token_ms: f32,
    /// Whether the KV of requests that ended is kept for those that begin alike.
    pub prefix_cache: bool,
    /// Where cached KV outlives the process; `None` forgets it.
    pub kv_dir: Option<PathBuf>,
    /// Most bytes there.
    pub kv_dir_bytes: u64,
    /// How each model shares the device, in the order of ids; models beyond it share alike.
    pub shares: Vec<ModelShare>,
    /// How many requests may run at once, beside `max_running` of each instance.
    pub limits: Vec<Limit>,
}

impl SchedulerConfig {
    /// How a model shares the device.
    pub fn share(&self, id: ModelId) -> ModelShare {
        self.shares.get(id.0 as usize).copied().unwrap_or_default()
    }
}

/// How one model shares the device with others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModelShare {
    /// Its part of the device's time, while others have work too, relative to theirs.
    pub weight: f32,
    /// Queues, each with rows and a prefix cache of its own, that its requests are spread over.
    pub instances: u32,
    /// How they are.
    pub balance: Balance,
}

impl Default for ModelShare {
    fn default() -> Self {
        Self { weight: 1.0, instances: 1, balance: Balance::Prefix }
    }
}

/// Which instance of a model takes in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// One after another.
    RoundRobin,
    /// The one with the fewest requests.
    LeastLoaded,
    /// The one that has most of the prompt in its prefix cache, else the one with the fewest.
    Prefix,
}

/// Of these models' requests no more than so many run at once; the others wait in line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// One model, or some that share the limit.
    pub models: Vec<ModelId>,
    /// Requests with a row, in all their instances.
    pub max_running: usize,
}

/// How models share memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MemoryConfig {
    /// Bytes that all models may hold together.
    pub budget: u64,
    /// What happens when a model is asked for and the rest of the budget is too small.
    pub when_full: WhenFull,
    /// How long a request waits for memory.
    pub wait_ns: u64,
    /// How long the oldest in line waits for others to fall idle before busy models drain for it.
    pub patience_ns: u64,
    /// How long a model stays, once loaded, whoever wants its memory.
    pub min_resident_ns: u64,
}

impl MemoryConfig {
    /// Room for any number of models.
    pub fn unlimited() -> Self {
        Self {
            budget: u64::MAX,
            when_full: WhenFull::Evict,
            wait_ns: u64::MAX,
            patience_ns: 0,
            min_resident_ns: 0,
        }
    }
}

/// What happens when a model is asked for and there is no memory for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WhenFull {
    /// Idle models are evicted, least recently used first; its requests wait for busy ones.
    Evict,
    /// Its requests wait until memory is free; nobody is evicted for it.
    Wait,
    /// Its requests are refused.
    Fail,
}

/// What the user chose for one model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ModelPolicy {
    /// Bytes it needs, as far as is known before it is loaded.
    pub need: u64,
    /// Never evicted.
    pub pinned: bool,
    /// How long it stays in memory when idle.
    pub keep_alive: KeepAlive,
    /// Asked for from the start.
    pub preload: bool,
    /// Who drafts for it, of the drafters that follow the models.
    pub drafter: Option<ModelId>,
}

/// How long an idle model stays in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum KeepAlive {
    /// Until its memory is needed.
    #[default]
    Forever,
    /// So many nanoseconds after its last request.
    For(u64),
}

/// What a loaded model and its device look like to the scheduler.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "facts, each by itself")]
pub struct ModelShape {
    /// Longest prompt plus output, in tokens.
    pub max_context: u32,
    /// Blocks of KV memory this model may hold.
    pub total_blocks: u32,
    /// Most rows per slab.
    pub slab_slots: u32,
    /// Tokens in one step (decode, drafts and prefill together). Decoding rows all run, even if
    /// they are more, and padding is not counted.
    pub step_tokens: u32,
    /// Most prefill tokens in a step that also decodes.
    pub prefill_chunk: u32,
    /// Row lengths seen by attention are rounded up to this many positions.
    pub view_step: u32,
    /// Whether a slab runs as one padded rectangle (static shapes) or in exact pieces.
    pub padded: bool,
    /// Whether its rows can neither be cut back nor begin like another's, as recurrent states
    /// cannot: nothing is drafted for them, nothing of them kept.
    pub plain: bool,
    /// Whether a prompt is computed in one step, as each of its tokens sees all others. `step_tokens`
    /// are then no fewer than `max_context`.
    pub whole: bool,
    /// Measured cost of a step by its number of tokens, in milliseconds, ascending by tokens.
    pub step_cost: Vec<(u32, f32)>,
    /// Measured cost of one more rectangle in a step, in milliseconds.
    pub rect_cost: f32,
    /// Names the tokenizer: texts of another one mean nothing here.
    pub fingerprint: String,
    /// Names all that KV depends on beside salt and tokens: KV of another key is of no use here.
    /// `None` where none is kept on disk.
    pub kv_key: Option<String>,
    /// Whether its rows have room for the KV of its drafter.
    pub takes_drafter: bool,
}

/// What a draft model's forwards cost.
#[derive(Debug, Clone)]
pub struct DraftModelShape {
    /// As [`ModelShape::step_cost`].
    pub step_cost: Vec<(u32, f32)>,
    /// As [`ModelShape::rect_cost`].
    pub rect_cost: f32,
}

impl ModelShape {
    /// Capacity in tokens of the smallest row for `tokens`: doubling buckets, cut at the context
    /// length, so a row never holds more than twice what it needs plus one bucket.
    pub fn row_capacity(&self, tokens: u32) -> u32 {
        let bucket = BLOCK_TOKENS * BUCKET_BLOCKS;
        let needed = self.row_need(tokens).div_ceil(bucket);
        let longest = self.row_need(self.max_context).div_ceil(bucket);
        needed.next_power_of_two().min(longest.max(needed)) * bucket
    }

    /// Positions a row of `tokens` tokens needs: padding is written behind the last one.
    pub fn row_need(&self, tokens: u32) -> u32 {
        tokens + if self.padded { PAD_POSITIONS } else { 0 }
    }

    /// Blocks of the longest row a request of `tokens` tokens can come to need.
    pub fn blocks_for(&self, tokens: u32) -> u32 {
        Self::row_blocks(self.row_capacity(tokens))
    }

    /// Tokens of the longest request that fits the context and, alone, the pool.
    pub fn longest_row(&self) -> u32 {
        let bucket = BLOCK_TOKENS * BUCKET_BLOCKS;
        let buckets =
            (self.total_blocks / BUCKET_BLOCKS).min(self.max_context.div_ceil(bucket) + 1);
        let fits = |tokens: &u32| self.blocks_for(*tokens) <= self.total_blocks;
        let padding = self.row_need(0);
        let lengths = (1..=buckets).rev().map(|count| (count * bucket).saturating_sub(padding));
        lengths.map(|tokens| tokens.min(self.max_context)).find(fits).unwrap_or(0)
    }

    /// Length at which a request ends that has `prompt` tokens and may have `max_len`: no longer
    /// than the context, and no longer than the pool could ever hold. One whose prompt is all leaves
    /// no room for an answer.
    ///
    /// # Errors
    /// When it could never run.
    pub fn limit(&self, prompt: u32, max_len: u32) -> Result<u32, SubmitError> {
        let (context, fits) = (self.max_context, self.longest_row());
        let least = max_len.min(prompt + 1);
        if least > context {
            let over = (least - context) as usize;
            return Err(SubmitError::ContextLength { prompt: prompt as usize, context, over });
        }
        let unlimited = max_len == u32::MAX;
        let wanted = if unlimited { fits.max(prompt + 1) } else { max_len.min(context) };
        if wanted > fits {
            let needed = self.blocks_for(wanted);
            return Err(SubmitError::TooLarge { needed, total: self.total_blocks });
        }
        Ok(wanted)
    }

    /// Blocks in a row of `capacity` tokens.
    pub fn row_blocks(capacity: u32) -> u32 {
        capacity.div_ceil(BLOCK_TOKENS)
    }
}
