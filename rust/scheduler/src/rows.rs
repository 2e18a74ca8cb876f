//! Rows: which dense KV row a request's tokens lie in.
//!
//! ```text
//! capacity 256:  slab 0 [ r3 | -- ]      capacity 512:  slab 1 [ r1 | r4 | r7 | -- ]
//! ```
//! A slab is one allocation of equally long rows, so that attention over all of them is one call.
//! Rows come in doubling capacities; a request that outgrows its row is copied into a longer one,
//! and nobody else's row moves. Slabs hold the blocks of all their rows, empty slots included, so
//! the block pool's count is the memory really allocated. A cached row, whose request has left, has a
//! slab of its own: requests run side by side, and what is cached can be freed at any time.

use std::collections::BTreeMap;

use crate::block_pool::{BlockPool, Blocks};
use crate::config::{BLOCK_TOKENS, ModelShape};
use crate::error::{IntegrityError, ensure};
use crate::ids::{RequestId, Row, SlabId};

/// A change of the KV arrays, carried out by the runner in order, before the step that brings it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvOp {
    /// Allocate a slab of zeroed rows.
    Create {
        /// The new slab.
        slab: SlabId,
        /// Its number of rows.
        slots: u32,
        /// Tokens per row.
        capacity: u32,
    },
    /// Free a slab; none of its rows is in use.
    Drop {
        /// The slab to free.
        slab: SlabId,
    },
    /// Copy the first `num_tokens` positions of a row into another.
    Copy {
        /// The row to read.
        from: Row,
        /// The row to write.
        to: Row,
        /// Positions to copy.
        num_tokens: u32,
    },
}

/// The pool has too few free blocks for a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom;

/// Whose KV a slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    Request(RequestId),
    /// Nobody runs here; the prefix cache knows what it is.
    Cached,
}

#[derive(Debug)]
pub(crate) struct Slab {
    pub(crate) capacity: u32,
    pub(crate) slots: Vec<Option<Owner>>,
    blocks: Blocks,
}

impl Slab {
    /// The request that runs in the slot.
    pub(crate) fn request(&self, slot: u32) -> Option<RequestId> {
        match self.slots.get(slot as usize) {
            Some(Some(Owner::Request(id))) => Some(*id),
            _ => None,
        }
    }

    fn is_cached(&self) -> bool {
        self.slots.contains(&Some(Owner::Cached))
    }
}

/// All slabs of one model and the block pool that pays for them.
#[derive(Debug)]
pub struct RowPool {
    pool: BlockPool,
    slabs: BTreeMap<SlabId, Slab>,
    next_slab: u32,
    /// From one slab's number to the next.
    slab_step: u32,
    max_slots: u32,
    /// Blocks of slabs that hold a cached row.
    num_cached: u32,
    ops: Vec<KvOp>,
}

impl RowPool {
    /// No rows yet, and all blocks free.
    pub fn new(total_blocks: u32, max_slots: u32) -> Self {
        Self {
            pool: BlockPool::new(total_blocks),
            slabs: BTreeMap::new(),
            next_slab: 0,
            slab_step: 1,
            max_slots: max_slots.max(1),
            num_cached: 0,
            ops: Vec::new(),
        }
    }

    /// Number slabs so that those of `count` pools, of which this is one, never have the same number.
    pub(crate) fn number_slabs(&mut self, first: u32, count: u32) {
        (self.next_slab, self.slab_step) = (first, count);
    }

    /// The pool that pays for the rows.
    pub fn pool(&self) -> &BlockPool {
        &self.pool
    }

    /// Changes of the KV arrays since the last call, oldest first.
    pub fn take_ops(&mut self) -> Vec<KvOp> {
        std::mem::take(&mut self.ops)
    }

    /// Whether changes wait to be carried out.
    pub fn has_ops(&self) -> bool {
        !self.ops.is_empty()
    }

    /// Whether this row can be written behind its first `num_known` positions: no change that waits makes
    /// it, fills it, or still has to read what an earlier owner left there.
    pub fn is_settled(&self, row: Row, num_known: u32) -> bool {
        !self.ops.iter().any(|op| match *op {
            KvOp::Create { slab, .. } => slab == row.slab,
            KvOp::Copy { from, to, num_tokens } => {
                to == row || (from == row && num_tokens > num_known)
            }
            KvOp::Drop { .. } => false,
        })
    }

    /// Tokens that fit into the row.
    pub fn capacity(&self, row: Row) -> u32 {
        self.slabs.get(&row.slab).map_or(0, |slab| slab.capacity)
    }

    pub(crate) fn slab(&self, id: SlabId) -> Option<&Slab> {
        self.slabs.get(&id)
    }

    /// Give `owner` a row of exactly `capacity` tokens. `expected` is how many more rows of any
    /// capacity are about to be asked for: a new slab is made large enough for them if it can be.
    ///
    /// # Errors
    /// [`NoRoom`], and nothing has changed.
    pub fn place(&mut self, owner: RequestId, capacity: u32, expected: u32) -> Result<Row, NoRoom> {
        let row = match self.free_slot(capacity) {
            Some(row) => row,
            None => {
                Row { slab: self.create(capacity, self.num_slots(capacity, expected))?, slot: 0 }
            }
        };
        self.own(row, Owner::Request(owner));
        Ok(row)
    }

    /// Blocks that are short of `count` more rows of this capacity, side by side.
    pub fn num_missing(&self, capacity: u32, count: u32) -> u32 {
        if self.free_slot(capacity).is_some() {
            return 0;
        }
        let wanted = count.clamp(1, self.max_slots) * ModelShape::row_blocks(capacity);
        wanted.saturating_sub(self.pool.num_free())
    }

    /// Whether a row of this capacity can be had without a new slab.
    pub fn has_free_slot(&self, capacity: u32) -> bool {
        self.free_slot(capacity).is_some()
    }

    fn own(&mut self, row: Row, owner: Owner) {
        if let Some(slab) = self.slabs.get_mut(&row.slab) {
            slab.slots[row.slot as usize] = Some(owner);
        }
    }

    /// Move `owner` from `row` into a row of `capacity` tokens, keeping `num_tokens` positions.
    ///
    /// # Errors
    /// [`NoRoom`], and nothing has changed.
    pub fn grow(
        &mut self,
        owner: RequestId,
        row: Row,
        num_tokens: u32,
        capacity: u32,
    ) -> Result<Row, NoRoom> {
        let to = self.place(owner, capacity, 0)?;
        self.copy(row, to, num_tokens);
        self.release(row);
        Ok(to)
    }

    /// Copy the first `num_tokens` positions of a row into another.
    pub fn copy(&mut self, from: Row, to: Row, num_tokens: u32) {
        self.ops.push(KvOp::Copy { from, to, num_tokens });
    }

    /// Its request leaves, and the first `num_tokens` positions of the row are cached: where they
    /// are if the slab has no other row, else in a new slab just as long as they need. The new place.
    ///
    /// # Errors
    /// [`NoRoom`], and nothing has changed.
    pub fn cache(&mut self, row: Row, num_tokens: u32) -> Result<Row, NoRoom> {
        if self.slabs.get(&row.slab).is_some_and(|slab| slab.slots.len() == 1) {
            self.num_cached += ModelShape::row_blocks(self.capacity(row));
            self.own(row, Owner::Cached);
            return Ok(row);
        }
        let capacity = ModelShape::row_blocks(num_tokens) * BLOCK_TOKENS;
        let to = Row { slab: self.create(capacity, 1)?, slot: 0 };
        self.num_cached += ModelShape::row_blocks(capacity);
        self.own(to, Owner::Cached);
        self.copy(row, to, num_tokens);
        self.release(row);
        Ok(to)
    }

    /// Blocks that [`Self::cache`] would take from the free ones.
    pub fn cache_need(&self, row: Row, num_tokens: u32) -> u32 {
        let alone = self.slabs.get(&row.slab).is_some_and(|slab| slab.slots.len() == 1);
        if alone { 0 } else { ModelShape::row_blocks(num_tokens) }
    }

    /// `owner` runs on in a cached row, where it is.
    pub fn claim(&mut self, row: Row, owner: RequestId) {
        self.num_cached -= self.cached_blocks(row);
        self.own(row, Owner::Request(owner));
    }

    /// Blocks that releasing the row would free, if it is cached; else 0.
    pub fn cached_blocks(&self, row: Row) -> u32 {
        let slab = self.slabs.get(&row.slab).filter(|slab| slab.is_cached());
        slab.map_or(0, |slab| slab.blocks.len() as u32)
    }

    /// Blocks of all cached rows: they can be freed at any time.
    pub fn num_cached(&self) -> u32 {
        self.num_cached
    }

    /// Give the row back; a slab without rows is freed at once.
    pub fn release(&mut self, row: Row) {
        self.num_cached -= self.cached_blocks(row);
        let Some(slab) = self.slabs.get_mut(&row.slab) else {
            return;
        };
        slab.slots[row.slot as usize] = None;
        if slab.slots.iter().all(Option::is_none)
            && let Some(slab) = self.slabs.remove(&row.slab)
        {
            self.pool.release(slab.blocks);
            self.ops.push(KvOp::Drop { slab: row.slab });
        }
    }

    /// Who owns which row.
    pub(crate) fn owners(&self) -> BTreeMap<Row, Owner> {
        let slots = self.slabs.iter().flat_map(|(id, slab)| {
            let owned =
                slab.slots.iter().enumerate().filter_map(|(at, owner)| Some((at, (*owner)?)));
            owned.map(|(at, owner)| (Row { slab: *id, slot: at as u32 }, owner))
        });
        slots.collect()
    }

    fn free_slot(&self, capacity: u32) -> Option<Row> {
        self.slabs.iter().filter(|(_, slab)| slab.capacity == capacity).find_map(|(id, slab)| {
            let slot = slab.slots.iter().position(Option::is_none)? as u32;
            Some(Row { slab: *id, slot })
        })
    }

    /// A new slab has as many slots as rows of its capacity run already, or are expected: the number
    /// of slabs stays logarithmic, and when it is made at most half of all slots are empty. Fewer
    /// slots, when blocks are short.
    fn num_slots(&self, capacity: u32, expected: u32) -> u32 {
        let alike = |slab: &&Slab| slab.capacity == capacity && !slab.is_cached();
        let running: usize = self.slabs.values().filter(alike).map(|slab| slab.slots.len()).sum();
        let affordable = self.pool.num_free() / ModelShape::row_blocks(capacity).max(1);
        let wanted = (running as u32).max(expected + 1).next_power_of_two();
        wanted.min(self.max_slots).min(affordable)
    }

    fn create(&mut self, capacity: u32, slots: u32) -> Result<SlabId, NoRoom> {
        if slots == 0 {
            return Err(NoRoom);
        }
        let blocks = self.pool.allocate(slots * ModelShape::row_blocks(capacity)).ok_or(NoRoom)?;
        let id = SlabId(self.next_slab);
        self.next_slab += self.slab_step;
        let slots_of = vec![None; slots as usize];
        self.slabs.insert(id, Slab { capacity, slots: slots_of, blocks });
        self.ops.push(KvOp::Create { slab: id, slots, capacity });
        Ok(id)
    }

    /// Slabs pay exactly for their rows, and no slab is empty.
    ///
    /// # Errors
    /// Names the first slab for which this does not hold.
    pub fn check_integrity(&self) -> Result<(), IntegrityError> {
        self.pool.check_integrity()?;
        let (mut held, mut cached) = (0, 0);
        for (id, slab) in &self.slabs {
            let blocks = slab.slots.len() as u32 * ModelShape::row_blocks(slab.capacity);
            ensure!(
                slab.blocks.len() as u32 == blocks,
                "slab {id} holds other blocks than its rows need"
            );
            ensure!(slab.slots.iter().any(Option::is_some), "slab {id} is empty and not freed");
            held += blocks;
            if slab.is_cached() {
                ensure!(slab.slots.len() == 1, "slab {id} is cached and has room to run in");
                cached += blocks;
            }
        }
        ensure!(cached == self.num_cached, "{cached} blocks cached, {} counted", self.num_cached);
        ensure!(
            held + self.pool.num_free() == self.pool.total(),
            "{held} blocks held and {} free do not make {}",
            self.pool.num_free(),
            self.pool.total()
        );
        Ok(())
    }
}
