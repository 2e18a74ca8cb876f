//! Which segments of prefixes lie on disk, how large they are, and which must go.
//!
//! The least recently used go first, and of a chain its last one: a segment is of no use without all
//! those before it. What is decided here is carried out by [`crate::segment_folder`].

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use crate::error::{IntegrityError, ensure};
use crate::segment::SegmentName;

#[derive(Debug, Clone, Copy)]
struct Stored {
    num_bytes: u64,
    /// When it was last of use.
    stamp: u64,
}

/// The segments on disk, of all models.
#[derive(Debug, Default)]
pub struct SegmentIndex {
    max_bytes: u64,
    num_bytes: u64,
    stored: FxHashMap<SegmentName, Stored>,
    /// Least recently used first.
    by_age: BTreeMap<u64, SegmentName>,
    clock: u64,
    doomed: Vec<SegmentName>,
    /// Used since the last call of [`Self::take_used`], the last of a chain first.
    used: Vec<SegmentName>,
    saves: bool,
}

impl SegmentIndex {
    /// What an earlier server left, least recently used first, cut to `max_bytes`; none if 0.
    pub fn new(left: impl IntoIterator<Item = (SegmentName, u64)>, max_bytes: u64) -> Self {
        let mut index = Self { max_bytes, saves: max_bytes > 0, ..Self::default() };
        for (name, num_bytes) in left {
            index.insert(name, num_bytes);
        }
        index.evict();
        index
    }

    /// Whether segments are to be written.
    pub fn saves(&self) -> bool {
        self.saves
    }

    /// Write no more segments; those that are there can still be read.
    pub fn stop_saving(&mut self) {
        self.saves = false;
    }

    /// Whether there is nothing to be found.
    pub fn is_empty(&self) -> bool {
        self.stored.is_empty()
    }

    /// Bytes on disk.
    pub fn num_bytes(&self) -> u64 {
        self.num_bytes
    }

    /// Whether this segment is there.
    pub fn contains(&self, name: SegmentName) -> bool {
        self.stored.contains_key(&name)
    }

    /// How many of a chain's first segments are there; they are of use again.
    pub fn find(&mut self, chain: &[SegmentName]) -> usize {
        let found = chain.iter().take_while(|&&name| self.contains(name)).count();
        self.touch(&chain[..found]);
        self.used.extend(chain[..found].iter().rev());
        found
    }

    /// The last segment of a chain was written; those before it are of use.
    pub fn wrote(&mut self, chain: &[SegmentName], num_bytes: u64) {
        if let Some((&name, before)) = chain.split_last() {
            self.insert(name, num_bytes);
            self.touch(before);
            self.evict();
        }
    }

    /// A segment could not be read, and is not to be looked for again.
    pub fn lost(&mut self, name: SegmentName) {
        self.remove(name);
        self.doomed.push(name);
    }

    /// Segments to be removed from the disk.
    pub fn take_doomed(&mut self) -> Vec<SegmentName> {
        std::mem::take(&mut self.doomed)
    }

    /// Segments that were found since the last call, least important first.
    pub fn take_used(&mut self) -> Vec<SegmentName> {
        std::mem::take(&mut self.used)
    }

    fn insert(&mut self, name: SegmentName, num_bytes: u64) {
        self.remove(name);
        self.clock += 1;
        self.stored.insert(name, Stored { num_bytes, stamp: self.clock });
        self.by_age.insert(self.clock, name);
        self.num_bytes += num_bytes;
    }

    /// The first of a chain becomes the most recently used.
    fn touch(&mut self, chain: &[SegmentName]) {
        for name in chain.iter().rev() {
            if let Some(stored) = self.stored.get_mut(name) {
                self.clock += 1;
                self.by_age.remove(&stored.stamp);
                stored.stamp = self.clock;
                self.by_age.insert(self.clock, *name);
            }
        }
    }

    fn evict(&mut self) {
        while self.num_bytes > self.max_bytes
            && let Some((_, &name)) = self.by_age.first_key_value()
        {
            self.lost(name);
        }
    }

    fn remove(&mut self, name: SegmentName) {
        if let Some(stored) = self.stored.remove(&name) {
            self.by_age.remove(&stored.stamp);
            self.num_bytes -= stored.num_bytes;
        }
    }

    /// Bytes add up and are within their limit; every segment is listed once by its age.
    ///
    /// # Errors
    /// Names the first violation.
    pub fn check_integrity(&self) -> Result<(), IntegrityError> {
        let sum: u64 = self.stored.values().map(|it| it.num_bytes).sum();
        ensure!(sum == self.num_bytes, "{sum} bytes stored, {} counted", self.num_bytes);
        ensure!(sum <= self.max_bytes, "{sum} bytes stored, {} allowed", self.max_bytes);
        ensure!(self.stored.len() == self.by_age.len(), "segments without an age, or twice");
        for (stamp, name) in &self.by_age {
            let listed = self.stored.get(name).is_some_and(|it| it.stamp == *stamp);
            ensure!(listed, "segment {name} is listed under another age");
        }
        Ok(())
    }
}
