//! KV between one server and the next: the engine thread's way to the disk, a segment at a time.
//!
//! The scheduler decides what is read, written and removed; the runner moves the arrays. A disk that
//! takes no more ends the writing, and nothing else.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::config::SchedulerConfig;
use crate::engine::Runner;
use crate::ids::ModelId;
use crate::scheduler::Scheduler;
use crate::segment::{SEGMENT_TOKENS, SegmentRead};
use crate::segment_folder::SegmentFolder;
use crate::segment_index::SegmentIndex;
use crate::stats::Stats;

/// A folder of KV, or none.
#[derive(Debug)]
pub struct KvDisk<'a> {
    folder: Option<SegmentFolder>,
    stats: &'a Stats,
}

impl<'a> KvDisk<'a> {
    /// Open the configured folder, if there is one, and tell the scheduler what an earlier server left.
    pub fn open(config: &SchedulerConfig, scheduler: &mut Scheduler, stats: &'a Stats) -> Self {
        let path = config.kv_dir.as_deref().filter(|_| config.prefix_cache);
        let opened = path.map(|path| open(path, config.kv_dir_bytes));
        let folder = match opened {
            Some(Ok((folder, index))) => {
                scheduler.use_segments(index);
                folder.follow(scheduler.segments_mut());
                Some(folder)
            }
            Some(Err(_)) => {
                Stats::add(&stats.kv_file_errors, 1);
                None
            }
            None => None,
        };
        Self { folder, stats }
    }

    /// Read a segment, and have the scheduler go on from there.
    pub fn read(&self, scheduler: &mut Scheduler, runner: &mut dyn Runner, read: &SegmentRead) {
        let Some(folder) = &self.folder else { return };
        let there = runner.read_kv(read, &folder.path(read.name));
        scheduler.take_read(read, there);
        if there {
            let num_new = SEGMENT_TOKENS - read.known;
            Stats::add(&self.stats.kv_file_tokens, u64::from(num_new));
        } else {
            Stats::add(&self.stats.kv_files_dropped, 1);
        }
        folder.follow(scheduler.segments_mut());
    }

    /// Write the next segment of any model or of one; false if nothing was written.
    pub fn save_next(
        &self,
        scheduler: &mut Scheduler,
        runner: &mut dyn Runner,
        of: Option<ModelId>,
    ) -> bool {
        let Some(folder) = &self.folder else { return false };
        let Some(save) = scheduler.next_save(of) else {
            folder.follow(scheduler.segments_mut());
            return false;
        };
        let written = runner.save_kv(&save, &folder.path(save.name));
        if let Ok(num_bytes) = written {
            scheduler.saved(&save, num_bytes);
        } else {
            Stats::add(&self.stats.kv_file_errors, 1);
            scheduler.segments_mut().stop_saving();
        }
        folder.follow(scheduler.segments_mut());
        scheduler.segments().saves()
    }

    /// Write what is cached of all models or of one, for so long at most.
    pub fn save_all(
        &self,
        scheduler: &mut Scheduler,
        runner: &mut dyn Runner,
        of: Option<ModelId>,
        patience: Duration,
    ) {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline && self.save_next(scheduler, runner, of) {}
    }
}

fn open(path: &Path, max_bytes: u64) -> std::io::Result<(SegmentFolder, SegmentIndex)> {
    let folder = SegmentFolder::open(path)?;
    let left = folder.list()?;
    Ok((folder, SegmentIndex::new(left, max_bytes)))
}
