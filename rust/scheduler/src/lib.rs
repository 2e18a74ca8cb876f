//! The scheduler of mlxspec: it owns requests, queues, KV blocks, draft lengths and counters.
//!
//! Tensors stay in Python, text stays in the API. The parts, from the outside in:
//!
//! 1. [`engine::Engine`]: `submit` and `abort` from any thread, `run` on the engine's own thread,
//!    events back through an [`outbox`] that wakes an event loop once per step.
//! 2. [`scheduler::Scheduler`]: all state, no threads: `next_action`, `commit`, `fail`.
//! 3. [`residency::Residency`]: which models are in memory, which come and which go.
//! 4. [`model::Model`]: one model's requests: admission, rows, preemption, drafts.
//! 5. [`kv_memory`]: where a request's KV lies, and what of it is there already: [`rows`] paid for from
//!    one [`block_pool`], found again by the [`prefix_cache`].
//! 6. [`segment`], [`segment_index`], [`segment_folder`]: what of it outlives the process, on disk.
//! 7. [`batch`], [`prefill_pace`], [`layout`], [`drafting`], [`draft_len`], [`suffix`], [`corpus`]: one
//!    question each.
//!
//! The core is sans-IO: time is passed in, randomness is seeded, and nothing but [`py`] (behind the
//! feature `python`) knows of Python.

pub mod acceptance;
pub mod action;
pub mod archive;
pub mod batch;
pub mod block_pool;
pub mod board;
pub mod canary;
pub mod config;
pub mod corpus;
pub mod corpus_file;
pub mod draft;
pub mod draft_choice;
pub mod draft_len;
pub mod draft_model;
pub mod draft_plan;
pub mod drafters;
pub mod drafting;
pub mod edits;
pub mod engine;
pub mod error;
pub mod fair_share;
pub mod ids;
pub mod inbox;
pub(crate) mod instances;
pub mod kv_disk;
pub mod kv_memory;
pub mod layout;
pub(crate) mod limits;
pub mod memory_guard;
pub mod model;
pub mod model_state;
pub mod outbox;
pub mod prefill_pace;
pub mod prefix_cache;
#[cfg(feature = "python")]
pub mod py;
pub(crate) mod ranking;
pub mod request;
pub mod residency;
pub mod rows;
pub mod runner;
pub mod sampling;
pub mod saving;
pub mod scheduler;
pub mod segment;
pub mod segment_folder;
pub mod segment_index;
pub mod short_memory;
pub mod speculation_stats;
pub mod stats;
pub mod step_cost;
pub mod suffix;
pub mod sync;
pub mod token_counts;
pub mod unread;
pub mod waiter;
