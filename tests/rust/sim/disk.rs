//! A simulated disk of KV segments, which outlives schedulers.

use std::collections::BTreeMap;

use mlxspec_scheduler::scheduler::Scheduler;
use mlxspec_scheduler::segment::{SEGMENT_TOKENS, SegmentName, SegmentRead, SegmentSave};
use mlxspec_scheduler::segment_index::SegmentIndex;

use super::SimRunner;
use super::script::Seen;

/// Bytes of a segment here.
pub(crate) const SEGMENT_BYTES: u64 = 10;

/// Segments by name, as rows hold them.
#[derive(Debug, Default)]
pub(crate) struct SimDisk {
    pub(crate) segments: BTreeMap<SegmentName, Vec<Seen>>,
    pub(crate) max_bytes: u64,
    /// Positions read, and segments written.
    pub(crate) seen: (u64, u64),
}

impl SimDisk {
    /// What a scheduler that starts finds here.
    pub(crate) fn index(&self) -> SegmentIndex {
        let left = self.segments.keys().map(|&name| (name, SEGMENT_BYTES));
        SegmentIndex::new(left, self.max_bytes)
    }

    pub(crate) fn write(&mut self, save: &SegmentSave, runner: &mut SimRunner) {
        let row = runner.slab(save.row.slab).row(save.row.slot);
        let old = self.segments.insert(save.name, row.piece(save.start, SEGMENT_TOKENS));
        assert!(old.is_none(), "a segment is written twice");
        self.seen.1 += 1;
    }

    /// False if the segment is not there.
    pub(crate) fn read(&mut self, read: &SegmentRead, runner: &mut SimRunner) -> bool {
        let Some(cells) = self.segments.get(&read.name) else { return false };
        runner.slab(read.row.slab).row(read.row.slot).fill(read.start, read.known, cells);
        self.seen.0 += u64::from(SEGMENT_TOKENS - read.known);
        true
    }

    /// Remove what the scheduler has given up.
    pub(crate) fn follow(&mut self, scheduler: &mut Scheduler) {
        scheduler.segments_mut().take_used();
        for name in scheduler.segments_mut().take_doomed() {
            self.segments.remove(&name);
        }
    }
}
