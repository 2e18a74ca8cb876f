//! Counters that the engine thread writes and anybody may read.

use crate::sync::{AtomicU64, Ordering};

/// Draft positions that are counted one by one; longer ones are counted in the totals alone.
pub const COUNTED_POSITIONS: usize = 16;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Cumulative counts, and a few gauges, of the whole engine.
        #[derive(Debug, Default)]
        pub struct Stats {
            $($(#[$doc])* pub $name: AtomicU64,)+
            /// Verified draft tokens by their position in the draft.
            pub drafted_per_pos: [AtomicU64; COUNTED_POSITIONS],
            /// Accepted ones.
            pub accepted_per_pos: [AtomicU64; COUNTED_POSITIONS],
        }

        impl Stats {
            /// Every count by its name, in the order of declaration.
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Ordering::Relaxed)),)+]
            }
        }
    };
}

counters! {
    /// Requests accepted into the queue.
    requests_submitted,
    /// Requests refused because the queue was full or closed.
    requests_rejected,
    /// Requests that ended by a stop token or at their length.
    requests_finished,
    /// Requests ended by an abort.
    requests_aborted,
    /// Requests that waited too long to be run.
    requests_expired,
    /// Requests ended by a failed step or load.
    requests_failed,
    /// Aborts that found their request already ended.
    late_aborts,
    /// Gauge: requests without a row.
    requests_waiting,
    /// Gauge: requests with a row.
    requests_running,
    /// Gauge: KV blocks of all resident models.
    kv_blocks_total,
    /// Gauge: KV blocks held.
    kv_blocks_used,
    /// Gauge: KV blocks held by cached prefixes; they are free to whoever needs them.
    kv_blocks_cached,
    /// Prompt tokens whose KV was found in the prefix cache.
    cached_tokens,
    /// Cached prefixes given up because blocks were needed.
    prefix_evictions,
    /// Rows taken back to be computed again.
    preemptions,
    /// Gauge: bytes that models hold, reserved ones included.
    model_bytes,
    /// Gauge: models in memory.
    models_resident,
    /// Loads begun.
    model_loads,
    /// Loads that failed.
    model_load_errors,
    /// Models evicted.
    model_evictions,
    /// Loads of draft models begun.
    drafter_loads,
    /// Draft models evicted.
    drafter_evictions,
    /// Gauge: what the process holds of what it may, in thousandths.
    memory_permille,
    /// Gauge: how short memory is: 0, 1 above the soft watermark, 2 above the hard one.
    memory_shortage,
    /// Times the runner gave freed memory back because memory was short.
    memory_trims,
    /// Requests refused before their first token because memory was short.
    memory_refusals,
    /// Steps run.
    steps,
    /// Times the idle check found the books not in order.
    integrity_errors,
    /// Wake-ups of the event loop that failed.
    wake_errors,
    /// Steps that failed.
    step_errors,
    /// Prompt tokens of accepted requests.
    prompt_tokens,
    /// Tokens generated.
    generated_tokens,
    /// Drafts verified.
    num_drafts,
    /// Draft tokens verified.
    num_draft_tokens,
    /// Draft tokens accepted.
    num_accepted_tokens,
    /// Times the shared texts could not be written to their file.
    suffix_file_errors,
    /// Gauge: bytes of KV on disk.
    kv_file_bytes,
    /// Prompt tokens whose KV was read from disk.
    kv_file_tokens,
    /// Files of KV that could not be read, and were removed.
    kv_files_dropped,
    /// Times that KV could not be written to disk; it is not tried again.
    kv_file_errors,
    /// Nanoseconds since the engine started, at its last sign of life.
    heartbeat_ns,
}

impl Stats {
    /// Add to a count.
    pub fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }

    /// Set a gauge.
    pub fn set(gauge: &AtomicU64, value: u64) {
        gauge.store(value, Ordering::Relaxed);
    }

    /// The value of a count or a gauge.
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    /// Count one verified draft.
    pub fn count_draft(&self, drafted: usize, kept: usize) {
        Self::add(&self.num_drafts, 1);
        Self::add(&self.num_draft_tokens, drafted as u64);
        Self::add(&self.num_accepted_tokens, kept as u64);
        let drafted = self.drafted_per_pos.iter().take(drafted);
        let accepted = self.accepted_per_pos.iter().take(kept);
        drafted.chain(accepted).for_each(|position| Self::add(position, 1));
    }
}
