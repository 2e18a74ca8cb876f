//! Prefix cache: which row's KV begins like this prompt?
//!
//! ```text
//!   tokens    [ 0 .. 16 )   [ 16 .. 32 )   [ 32 .. 48 )   48 49 50
//!   hashes    a = H(salt,.)  b = H(a,.)     c = H(b,.)     not a full block
//!   index     a -> 1, 2, 3   b -> 1, 2      c -> 2
//! ```
//! A prefix is the known KV of one row: the running request's own, or a retired row's that nobody
//! runs in. Full blocks are findable once they are published, by a keyed hash chained over all
//! blocks before; as hashes can collide, tokens and salt are compared before anything is reused.
//! Every prefix holds its whole chain, so evicting the least recently used one takes leaves first:
//! a shared beginning is findable for as long as any of its continuations.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::config::BLOCK_TOKENS;
use crate::error::{IntegrityError, ensure};
use crate::ids::{PrefixId, Row};

const BLOCK: usize = BLOCK_TOKENS as usize;

/// What a prompt has in common with a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    /// Whose KV it is.
    pub prefix: PrefixId,
    /// The row it lies in.
    pub row: Row,
    /// Leading tokens in common; at least one block.
    pub num_tokens: u32,
    /// How many of them the draft model has read.
    pub num_read: u32,
    /// Whether less than a block of the prefix is left over.
    pub covers: bool,
}

#[derive(Debug)]
struct Prefix {
    row: Row,
    salt: Arc<str>,
    tokens: Vec<u32>,
    /// Leading tokens whose draft-model KV is in the row; may be more than `tokens`.
    num_read: u32,
    /// One per full block, chained.
    hashes: Vec<u64>,
    /// When the row was retired, or touched since; none while its request runs.
    retired: Option<u64>,
}

/// All published prefixes of one model.
#[derive(Debug)]
pub struct PrefixCache<S = RandomState> {
    hasher: S,
    prefixes: FxHashMap<PrefixId, Prefix>,
    /// Who holds the block with this hash, oldest first.
    index: FxHashMap<u64, Vec<PrefixId>>,
    /// The retired ones, least recently used first.
    retired: BTreeMap<u64, PrefixId>,
    clock: u64,
}

impl<S: BuildHasher> PrefixCache<S> {
    /// An empty cache; the hasher's key must be secret, lest a client finds collisions.
    pub fn new(hasher: S) -> Self {
        Self {
            hasher,
            prefixes: FxHashMap::default(),
            index: FxHashMap::default(),
            retired: BTreeMap::new(),
            clock: 0,
        }
    }

    /// Rows that nobody runs in.
    pub fn num_retired(&self) -> usize {
        self.retired.len()
    }

    /// The longest known beginning of `tokens` among prefixes of this salt.
    pub fn find(&self, salt: &str, tokens: &[u32]) -> Option<Hit> {
        let mut hash = self.hasher.hash_one(salt);
        let mut holders: Vec<&[PrefixId]> = Vec::new();
        for block in tokens.chunks_exact(BLOCK) {
            hash = chain(&self.hasher, hash, block);
            let Some(found) = self.index.get(&hash) else { break };
            holders.push(found);
        }
        let deepest_first = holders.iter().enumerate().rev();
        deepest_first
            .flat_map(|(at, ids)| ids.iter().rev().map(move |id| (at, *id)))
            .find_map(|(at, id)| self.compare(id, salt, tokens, (at + 1) * BLOCK))
    }

    /// The hit, if the prefix really has at least `least` tokens in common.
    fn compare(&self, id: PrefixId, salt: &str, tokens: &[u32], least: usize) -> Option<Hit> {
        let prefix = self.prefixes.get(&id).filter(|it| *it.salt == *salt)?;
        if prefix.tokens.get(..least)? != tokens.get(..least)? {
            return None;
        }
        let behind = prefix.tokens[least..].iter().zip(&tokens[least..]);
        let common = least + behind.take_while(|(a, b)| a == b).count();
        let covers = prefix.tokens.len() - common < BLOCK;
        let num_tokens = common as u32;
        let num_read = prefix.num_read.min(num_tokens);
        Some(Hit { prefix: id, row: prefix.row, num_tokens, num_read, covers })
    }

    /// A request begins to run in `row`, whose KV of `tokens` is known already.
    pub fn open(&mut self, row: Row, salt: Arc<str>, tokens: &[u32]) -> PrefixId {
        let id = PrefixId(self.tick());
        let (known, hashes) = (Vec::with_capacity(tokens.len()), Vec::new());
        let prefix = Prefix { row, salt, tokens: known, num_read: 0, hashes, retired: None };
        self.prefixes.insert(id, prefix);
        self.publish(id, tokens);
        id
    }

    /// Make the full blocks of a running row's `tokens` findable. Their KV must have been computed,
    /// and committed; tokens published before stay as they were.
    pub fn publish(&mut self, id: PrefixId, tokens: &[u32]) {
        let Some(prefix) = self.prefixes.get_mut(&id) else { return };
        let full = tokens.len() / BLOCK;
        for at in prefix.hashes.len()..full {
            let before = prefix.hashes.last().copied();
            let before = before.unwrap_or_else(|| self.hasher.hash_one(&*prefix.salt));
            let hash = chain(&self.hasher, before, &tokens[at * BLOCK..(at + 1) * BLOCK]);
            prefix.hashes.push(hash);
            self.index.entry(hash).or_default().push(id);
        }
        let known = prefix.tokens.len().min(full * BLOCK);
        prefix.tokens.extend_from_slice(&tokens[known..full * BLOCK]);
    }

    /// The draft model has read so many of the row's first tokens, no more and no less.
    pub fn note_read(&mut self, id: PrefixId, num_read: u32) {
        if let Some(prefix) = self.prefixes.get_mut(&id) {
            prefix.num_read = num_read;
        }
    }

    /// Whether a retired row holds the same full blocks, so that this one need not be kept. The
    /// other counts as used just now.
    pub fn is_spare(&mut self, id: PrefixId) -> bool {
        let twin = self.prefixes.get(&id).and_then(|prefix| {
            let holders = self.index.get(prefix.hashes.last()?)?;
            let twin = |other: &&PrefixId| {
                let retired = self.prefixes.get(other).is_some_and(|it| it.retired.is_some());
                let len = prefix.hashes.len() * BLOCK;
                retired && self.compare(**other, &prefix.salt, &prefix.tokens, len).is_some()
            };
            holders.iter().filter(|other| **other != id).find(twin).copied()
        });
        if let Some(twin) = twin {
            self.touch(twin);
        }
        twin.is_some()
    }

    /// The request has left: the KV of `tokens` is kept in `row`, and nobody runs there.
    pub fn retire(&mut self, id: PrefixId, row: Row, tokens: &[u32]) {
        self.publish(id, tokens);
        let stamp = self.tick();
        if let Some(prefix) = self.prefixes.get_mut(&id) {
            let known = prefix.tokens.len();
            prefix.tokens.extend_from_slice(&tokens[known..]);
            (prefix.row, prefix.retired) = (row, Some(stamp));
            self.retired.insert(stamp, id);
        }
    }

    /// A request runs on in a retired row, from its first `num_tokens` tokens.
    pub fn claim(&mut self, id: PrefixId, num_tokens: u32) {
        let Some(prefix) = self.prefixes.get_mut(&id) else { return };
        if let Some(stamp) = prefix.retired.take() {
            self.retired.remove(&stamp);
        }
        prefix.tokens.truncate(num_tokens as usize);
        let full = prefix.tokens.len() / BLOCK;
        for hash in prefix.hashes.split_off(full) {
            unlist(&mut self.index, hash, id);
        }
    }

    /// A running request's KV moved to another row.
    pub fn moved(&mut self, id: PrefixId, row: Row) {
        if let Some(prefix) = self.prefixes.get_mut(&id) {
            prefix.row = row;
        }
    }

    /// Forget the prefix; its row is the caller's to release.
    pub fn remove(&mut self, id: PrefixId) -> Option<Row> {
        let prefix = self.prefixes.remove(&id)?;
        if let Some(stamp) = prefix.retired {
            self.retired.remove(&stamp);
        }
        for hash in prefix.hashes {
            unlist(&mut self.index, hash, id);
        }
        Some(prefix.row)
    }

    /// A retired prefix is of use again: it becomes the most recently used.
    pub fn touch(&mut self, id: PrefixId) {
        let now = self.tick();
        if let Some(prefix) = self.prefixes.get_mut(&id)
            && let Some(stamp) = &mut prefix.retired
        {
            self.retired.remove(stamp);
            *stamp = now;
            self.retired.insert(now, id);
        }
    }

    /// The least recently used retired prefix from before `until`, other than `spared`.
    pub fn oldest(&self, until: u64, spared: Option<PrefixId>) -> Option<PrefixId> {
        self.retired.range(..until).map(|(_, id)| *id).find(|id| Some(*id) != spared)
    }

    /// Retired rows and their prefixes.
    pub fn retired(&self) -> impl Iterator<Item = (PrefixId, Row)> {
        self.retired.values().filter_map(|id| Some((*id, self.prefixes.get(id)?.row)))
    }

    /// Row, salt and tokens of a prefix that nobody runs in.
    pub fn get_retired(&self, id: PrefixId) -> Option<(Row, &str, &[u32])> {
        let prefix = self.prefixes.get(&id).filter(|it| it.retired.is_some())?;
        Some((prefix.row, &*prefix.salt, &prefix.tokens))
    }

    /// The row and the published tokens of a prefix.
    pub(crate) fn get(&self, id: PrefixId) -> Option<(Row, &[u32])> {
        self.prefixes.get(&id).map(|it| (it.row, it.tokens.as_slice()))
    }

    /// A moment later than all before.
    pub fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// The index lists exactly what the prefixes hold, under hashes chained from their tokens.
    ///
    /// # Errors
    /// Names the first violation.
    pub fn check_integrity(&self) -> Result<(), IntegrityError> {
        let mut listed = 0;
        for (id, prefix) in &self.prefixes {
            let mut hash = self.hasher.hash_one(&*prefix.salt);
            let blocks = prefix.tokens.chunks_exact(BLOCK);
            ensure!(blocks.len() == prefix.hashes.len(), "prefix {id} has unpublished blocks");
            for (block, published) in blocks.zip(&prefix.hashes) {
                hash = chain(&self.hasher, hash, block);
                ensure!(hash == *published, "prefix {id} has a block under another's hash");
                let holders = self.index.get(&hash).map_or(&[][..], Vec::as_slice);
                ensure!(holders.contains(id), "a block of prefix {id} cannot be found");
                listed += 1;
            }
            let kept = prefix.retired.map(|stamp| self.retired.get(&stamp));
            ensure!(kept.is_none_or(|it| it == Some(id)), "prefix {id} cannot be evicted");
        }
        let indexed: usize = self.index.values().map(Vec::len).sum();
        ensure!(indexed == listed, "{indexed} blocks are findable, {listed} exist");
        let retired = self.prefixes.values().filter(|it| it.retired.is_some()).count();
        ensure!(retired == self.retired.len(), "{retired} rows retired, others listed");
        Ok(())
    }
}

/// The hash of a block and of all before it.
fn chain(hasher: &impl BuildHasher, before: u64, block: &[u32]) -> u64 {
    let mut hasher = hasher.build_hasher();
    hasher.write_u64(before);
    u32::hash_slice(block, &mut hasher);
    hasher.finish()
}

fn unlist(index: &mut FxHashMap<u64, Vec<PrefixId>>, hash: u64, id: PrefixId) {
    if let Some(holders) = index.get_mut(&hash) {
        if let Some(at) = holders.iter().position(|it| *it == id) {
            holders.remove(at);
        }
        if holders.is_empty() {
            index.remove(&hash);
        }
    }
}
