//! What the user chose (`SchedulerConfig`) and what the runner measured while loading (`ModelShape`).

use std::path::PathBuf;

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
    /// Memory of each model for the answers that other requests are drafted from; 0 keeps none.
    pub shared_suffix_bytes: usize,
    /// Where these answers outlive the process; `None` forgets them.
    pub suffix_dir: Option<PathBuf>,
    /// How long a step that decodes may take for the sake of prompts read beside it, in milliseconds.
    pub inter_token_ms: f32,
    /// Whether the KV of requests that ended is kept for those that begin alike.
    pub prefix_cache: bool,
}

/// What a loaded model and its device look like to the scheduler.
#[derive(Debug, Clone)]
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
    /// Measured cost of a step by its number of tokens, in milliseconds, ascending by tokens.
    pub step_cost: Vec<(u32, f32)>,
    /// Measured cost of one more rectangle in a step, in milliseconds.
    pub rect_cost: f32,
    /// Names the tokenizer: texts of another one mean nothing here.
    pub fingerprint: String,
    /// What is known of its draft model, if it has one.
    pub draft_model: Option<DraftModelShape>,
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

    /// Blocks in a row of `capacity` tokens.
    pub fn row_blocks(capacity: u32) -> u32 {
        capacity.div_ceil(BLOCK_TOKENS)
    }
}
