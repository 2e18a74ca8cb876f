//! KV memory of one model: rows for requests, and the prefixes cached in what they leave free.
//!
//! ```text
//!            place: copied from a cached row, or claimed as it is
//!   waiting ------------------------------------------------------> running --+
//!              cached <-- retire: kept where it is, or moved out of the way <-+
//!                 |
//!                 +--> evicted, least recently used first, when blocks are short
//! ```
//! One budget pays for both. A cached row is nobody's: whoever needs a row may have its blocks.

use std::collections::BTreeSet;
use std::hash::RandomState;

use crate::block_pool::BlockPool;
use crate::config::{BLOCK_TOKENS, ModelShape};
use crate::error::{IntegrityError, ensure};
use crate::ids::{PrefixId, Row, SlabId};
use crate::prefix_cache::{Hit, PrefixCache};
use crate::request::Request;
use crate::rows::{KvOp, NoRoom, Owner, RowPool};
use crate::saving::Saving;
use crate::segment::SegmentName;
use crate::segment_index::SegmentIndex;

/// The rows of one model and what is known of their KV.
#[derive(Debug)]
pub struct KvMemory {
    rows: RowPool,
    cache: PrefixCache,
    /// Whether rows are cached at all.
    caching: bool,
    /// Prefixes touched since then are of use to somebody who waits.
    awaited_since: u64,
    num_evictions: u64,
    saving: Saving,
}

impl KvMemory {
    /// All blocks free. `caching` is whether KV outlives its request.
    pub fn new(shape: &ModelShape, caching: bool) -> Self {
        Self {
            rows: RowPool::new(shape.total_blocks, shape.slab_slots),
            cache: PrefixCache::new(RandomState::new()),
            caching,
            awaited_since: 0,
            num_evictions: 0,
            saving: Saving::new(shape.kv_key.clone()),
        }
    }

    /// See [`RowPool::number_slabs`].
    pub(crate) fn number_slabs(&mut self, first: u32, count: u32) {
        self.rows.number_slabs(first, count);
    }

    /// Leading tokens of the request whose KV is here.
    pub(crate) fn num_known(&self, request: &Request) -> u32 {
        self.find(request).map_or(0, |hit| hit.num_tokens)
    }

    /// Which row is where.
    pub fn rows(&self) -> &RowPool {
        &self.rows
    }

    /// The blocks that pay for the rows.
    pub fn pool(&self) -> &BlockPool {
        self.rows.pool()
    }

    /// Cached rows evicted so far because somebody needed their blocks.
    pub fn num_evictions(&self) -> u64 {
        self.num_evictions
    }

    /// Changes of the KV arrays since the last call, oldest first.
    pub fn take_ops(&mut self) -> Vec<KvOp> {
        self.rows.take_ops()
    }

    /// Whether a row of this capacity, and `expected` more, will cost cached rows.
    pub(crate) fn will_evict(&self, capacity: u32, expected: u32) -> bool {
        self.rows.num_cached() > 0 && self.rows.num_missing(capacity, expected + 1) > 0
    }

    /// What these requests are going to reuse is evicted last.
    pub(crate) fn await_by<'a>(&mut self, waiting: impl Iterator<Item = &'a Request>) {
        self.awaited_since = self.cache.tick();
        for request in waiting {
            if let Some(hit) = self.find(request) {
                self.cache.touch(hit.prefix);
            }
        }
    }

    /// Its last token has to be computed in any case, for what follows it; all of them, where something
    /// is gathered of them.
    fn find(&self, request: &Request) -> Option<Hit> {
        if request.harvest > 0 {
            return None;
        }
        let known = request.tokens.len().saturating_sub(1);
        self.cache.find(&request.salt, &request.tokens[..known])
    }

    /// Give the request a row of `capacity` tokens that holds what is known of its KV already;
    /// `expected` more rows are about to be asked for.
    ///
    /// # Errors
    /// [`NoRoom`], and the request waits on.
    pub(crate) fn place(
        &mut self,
        request: &mut Request,
        capacity: u32,
        expected: u32,
    ) -> Result<(), NoRoom> {
        let Some(hit) = self.find(request) else {
            return self.place_empty(request, capacity, expected);
        };
        let fits = self.rows.cached_blocks(hit.row) > 0 && self.rows.capacity(hit.row) == capacity;
        let alone = expected == 0 && !self.rows.has_free_slot(capacity);
        if fits && hit.covers && alone {
            self.claim(request, hit);
            return Ok(());
        }
        match self.make_room(capacity, expected, Some(hit.prefix)) {
            Ok(()) => {
                let row = self.rows.place(request.id, capacity, expected)?;
                self.copy(request, hit, row);
            }
            Err(NoRoom) if fits => self.claim(request, hit),
            Err(NoRoom) => self.place_empty(request, capacity, expected)?,
        }
        Ok(())
    }

    fn place_empty(
        &mut self,
        request: &mut Request,
        capacity: u32,
        expected: u32,
    ) -> Result<(), NoRoom> {
        self.make_room(capacity, expected, None)?;
        let row = self.rows.place(request.id, capacity, expected)?;
        self.open(request, row, 0, 0);
        Ok(())
    }

    /// Run on in the cached row itself.
    fn claim(&mut self, request: &mut Request, hit: Hit) {
        self.rows.claim(hit.row, request.id);
        self.cache.claim(hit.prefix, hit.num_tokens);
        (request.row, request.prefix) = (Some(hit.row), Some(hit.prefix));
        (request.num_computed, request.num_read) = (hit.num_tokens, hit.num_read);
        self.cache.note_read(hit.prefix, hit.num_read);
    }

    /// Run in `row`, on a copy; the original goes if the copy can stand for it.
    fn copy(&mut self, request: &mut Request, hit: Hit, row: Row) {
        self.rows.copy(hit.row, row, hit.num_tokens);
        self.open(request, row, hit.num_tokens, hit.num_read);
        if hit.covers && self.rows.cached_blocks(hit.row) > 0 {
            self.forget(hit.prefix);
        }
    }

    fn open(&mut self, request: &mut Request, row: Row, num_computed: u32, num_read: u32) {
        let known = &request.tokens[..num_computed as usize];
        let salt = || request.salt.clone();
        // What is only read is seldom the beginning of anything else.
        let caches = self.caching && request.generates();
        request.prefix = caches.then(|| self.cache.open(row, salt(), known));
        (request.row, request.num_computed) = (Some(row), num_computed);
        request.num_read = num_read;
        self.publish(request);
    }

    /// Evict cached rows until there is room for a row, and for the `expected` ones beside it as
    /// long as nobody awaits what is evicted; `spared` stays.
    fn make_room(
        &mut self,
        capacity: u32,
        expected: u32,
        spared: Option<PrefixId>,
    ) -> Result<(), NoRoom> {
        let kept = spared.and_then(|id| self.cache.get(id));
        let kept = kept.map_or(0, |(row, _)| self.rows.cached_blocks(row));
        if self.rows.num_missing(capacity, 1) > self.rows.num_cached() - kept {
            return Err(NoRoom);
        }
        self.evict_while(u64::MAX, spared, |rows| rows.num_missing(capacity, 1) > 0);
        let until = self.awaited_since;
        self.evict_while(until, spared, |rows| rows.num_missing(capacity, expected + 1) > 0);
        Ok(())
    }

    fn evict_while(
        &mut self,
        until: u64,
        spared: Option<PrefixId>,
        short: impl Fn(&RowPool) -> bool,
    ) {
        while short(&self.rows)
            && let Some(id) = self.cache.oldest(until, spared)
        {
            self.forget(id);
            self.num_evictions += 1;
        }
    }

    /// Cached prefixes that no request runs in.
    pub(crate) fn num_prefixes(&self) -> usize {
        self.cache.num_retired()
    }

    /// Give up half of the cached prefixes, least recently used first; slabs without any row go.
    pub(crate) fn shrink_cache(&mut self) {
        for _ in 0..self.num_prefixes().div_ceil(2) {
            if let Some(id) = self.cache.oldest(u64::MAX, None) {
                self.forget(id);
                self.num_evictions += 1;
            }
        }
    }

    fn forget(&mut self, id: PrefixId) {
        if let Some(row) = self.cache.remove(id) {
            self.rows.release(row);
        }
    }

    /// Move a running request into a row of `capacity` tokens.
    ///
    /// # Errors
    /// [`NoRoom`], and the request stays where it is.
    pub(crate) fn grow(&mut self, request: &mut Request, capacity: u32) -> Result<(), NoRoom> {
        let Some(from) = request.row else { return Err(NoRoom) };
        self.make_room(capacity, 0, None)?;
        let to = self.rows.grow(request.id, from, request.num_computed, capacity)?;
        request.row = Some(to);
        if let Some(prefix) = request.prefix {
            self.cache.moved(prefix, to);
        }
        Ok(())
    }

    /// Take over what others have computed meanwhile of what the request begins with.
    pub(crate) fn catch_up(&mut self, request: &mut Request) {
        let Some(hit) = self.find(request).filter(|it| it.num_tokens > request.num_computed) else {
            return;
        };
        if let Some(row) = request.row {
            self.rows.copy(hit.row, row, hit.num_tokens);
            (request.num_computed, request.num_read) = (hit.num_tokens, hit.num_read);
            self.publish(request);
        }
    }

    /// Make the full blocks that the request has computed findable.
    pub(crate) fn publish(&mut self, request: &Request) {
        if let Some(prefix) = request.prefix {
            self.cache.publish(prefix, request.computed());
            self.cache.note_read(prefix, request.num_read);
        }
    }

    /// The request leaves its row; its KV stays, if there is room for it.
    pub(crate) fn retire(&mut self, request: &mut Request) {
        let (Some(row), Some(prefix)) = (request.row, request.prefix) else {
            self.release(request);
            return;
        };
        self.publish(request);
        let kept = if request.num_computed < BLOCK_TOKENS || self.cache.is_spare(prefix) {
            Err(NoRoom)
        } else {
            self.keep(row, request.computed().len() as u32)
        };
        match kept {
            Ok(to) => {
                self.cache.retire(prefix, to, request.computed());
                self.saving.push(prefix, &self.cache);
                (request.row, request.prefix) = (None, None);
            }
            Err(NoRoom) => self.release(request),
        }
    }

    fn keep(&mut self, row: Row, num_tokens: u32) -> Result<Row, NoRoom> {
        let need = self.rows.cache_need(row, num_tokens);
        if need > self.pool().num_free() + self.rows.num_cached() {
            return Err(NoRoom);
        }
        self.evict_while(u64::MAX, None, |rows| rows.pool().num_free() < need);
        self.rows.cache(row, num_tokens)
    }

    /// The next segment of what is cached to write to disk: its row, first position and name. None
    /// while rows are still to be moved.
    pub(crate) fn next_save(
        &mut self,
        index: &mut SegmentIndex,
    ) -> Option<(Row, u32, SegmentName)> {
        if self.rows.has_ops() {
            return None;
        }
        self.saving.next(&self.cache, index)
    }

    /// That segment was written.
    pub(crate) fn saved(&mut self, index: &mut SegmentIndex, num_bytes: u64) {
        self.saving.wrote(index, num_bytes);
    }

    /// The request leaves its row, and its KV is not to be used again.
    pub(crate) fn release(&mut self, request: &mut Request) {
        if let Some(prefix) = request.prefix.take() {
            self.cache.remove(prefix);
        }
        if let Some(row) = request.row.take() {
            self.rows.release(row);
        }
    }

    /// What is cached in these slabs is not to be used again.
    pub(crate) fn distrust(&mut self, slabs: &BTreeSet<SlabId>) {
        let lost: Vec<PrefixId> = self
            .cache
            .retired()
            .filter_map(|(id, row)| slabs.contains(&row.slab).then_some(id))
            .collect();
        for id in lost {
            self.forget(id);
        }
    }

    /// Running requests have a row each, and have published no more than they computed; every
    /// other row is a cached prefix's.
    ///
    /// # Errors
    /// Names the first violation.
    pub(crate) fn check_integrity(&self, running: &[Request]) -> Result<(), IntegrityError> {
        self.rows.check_integrity()?;
        self.cache.check_integrity()?;
        let owners = self.rows.owners();
        let num_rows = running.len() + self.cache.num_retired();
        ensure!(owners.len() == num_rows, "{} rows for {num_rows} owners", owners.len());
        for (id, row) in self.cache.retired() {
            ensure!(owners.get(&row) == Some(&Owner::Cached), "row of prefix {id} is not cached");
        }
        for request in running {
            let owner = Owner::Request(request.id);
            let own = request.row.is_some_and(|row| owners.get(&row) == Some(&owner));
            ensure!(own, "request {} has no row of its own", request.id);
            let Some((row, tokens)) = request.prefix.and_then(|it| self.cache.get(it)) else {
                continue;
            };
            ensure!(Some(row) == request.row, "prefix of request {} is elsewhere", request.id);
            let true_so_far = request.computed().starts_with(tokens);
            ensure!(true_so_far, "request {} published what it has not computed", request.id);
        }
        Ok(())
    }
}
