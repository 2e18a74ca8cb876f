//! What of a request's beginning lies on disk and is still to be read into its row.

use std::collections::VecDeque;

use crate::segment::{SEGMENT_TOKENS, SegmentName, names};
use crate::segment_index::SegmentIndex;

/// Segments to read, in order. Until they are looked for, there are none.
#[derive(Debug, Default)]
pub struct Unread {
    sought: bool,
    segments: VecDeque<(u32, SegmentName)>,
}

impl Unread {
    /// Look for the segments of `tokens` on disk, but once; the first `num_known` are known already.
    pub fn seek(
        &mut self,
        kv_key: &str,
        salt: &str,
        tokens: &[u32],
        num_known: u32,
        index: &mut SegmentIndex,
    ) {
        if std::mem::replace(&mut self.sought, true) || index.is_empty() {
            return;
        }
        let names = names(kv_key, salt, tokens);
        let found = index.find(&names);
        let starts = (0..).map(|at| at * SEGMENT_TOKENS);
        self.segments = starts.zip(names).take(found).collect();
        self.skip(num_known);
    }

    /// Whether a request had better wait for what is to be read.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// The next segment's first position and name, once the first `num_known` tokens are known.
    pub fn next(&mut self, num_known: u32) -> Option<(u32, SegmentName)> {
        self.skip(num_known);
        self.segments.front().copied()
    }

    /// The first `num_known` tokens are known, and what is left of the segments with them.
    pub fn skip(&mut self, num_known: u32) {
        while self.segments.front().is_some_and(|it| it.0 + SEGMENT_TOKENS <= num_known) {
            self.segments.pop_front();
        }
    }

    /// Read no further.
    pub fn give_up(&mut self) {
        self.segments.clear();
    }
}
