//! Blocks of KV memory: who holds how many, and how many are free.
//!
//! A block is a unit of account: [`crate::config::BLOCK_TOKENS`] KV positions of one model. It may
//! have several holders; the last one to release it makes it free again.

use crate::error::{IntegrityError, ensure};
use crate::ids::BlockId;

/// A hold on some blocks. Not `Clone`: give it back with [`BlockPool::release`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Blocks(Vec<BlockId>);

impl Blocks {
    /// How many blocks are held.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The held blocks' ids.
    pub fn ids(&self) -> &[BlockId] {
        &self.0
    }
}

/// All blocks of one model.
#[derive(Debug)]
pub struct BlockPool {
    ref_counts: Vec<u32>,
    free: Vec<BlockId>,
}

impl BlockPool {
    /// A pool of `total` free blocks.
    pub fn new(total: u32) -> Self {
        Self { ref_counts: vec![0; total as usize], free: (0..total).rev().map(BlockId).collect() }
    }

    /// Blocks in the pool, free or held.
    pub fn total(&self) -> u32 {
        self.ref_counts.len() as u32
    }

    /// Blocks nobody holds.
    pub fn num_free(&self) -> u32 {
        self.free.len() as u32
    }

    /// Take `count` free blocks, or none at all if there are fewer.
    pub fn allocate(&mut self, count: u32) -> Option<Blocks> {
        let keep = self.free.len().checked_sub(count as usize)?;
        let taken = self.free.split_off(keep);
        for id in &taken {
            self.ref_counts[id.0 as usize] = 1;
        }
        Some(Blocks(taken))
    }

    /// A second hold on the same blocks.
    pub fn share(&mut self, blocks: &Blocks) -> Blocks {
        for id in &blocks.0 {
            self.ref_counts[id.0 as usize] += 1;
        }
        Blocks(blocks.0.clone())
    }

    /// Give up a hold; blocks without holders become free.
    pub fn release(&mut self, blocks: Blocks) {
        for id in blocks.0 {
            let count = &mut self.ref_counts[id.0 as usize];
            *count -= 1;
            if *count == 0 {
                self.free.push(id);
            }
        }
    }

    /// Every free block has no holder, every other block has one; none is listed twice.
    ///
    /// # Errors
    /// Names the first block for which this does not hold.
    pub fn check_integrity(&self) -> Result<(), IntegrityError> {
        let mut listed = vec![false; self.ref_counts.len()];
        for id in &self.free {
            ensure!(!listed[id.0 as usize], "block {id} is free twice");
            ensure!(self.ref_counts[id.0 as usize] == 0, "block {id} is free and held");
            listed[id.0 as usize] = true;
        }
        for (id, count) in self.ref_counts.iter().enumerate() {
            ensure!((*count == 0) == listed[id], "block {id} is lost: no holder, not free");
        }
        Ok(())
    }
}
