//! What of one model's cached prefixes is still to be written to disk: the latest first, each from its
//! beginning on, a segment at a time.

use crate::ids::{PrefixId, Row};
use crate::prefix_cache::PrefixCache;
use crate::segment::{SEGMENT_TOKENS, SegmentName, names};
use crate::segment_index::SegmentIndex;

/// Prefixes to write; without a key, none ever.
#[derive(Debug)]
pub struct Saving {
    kv_key: Option<String>,
    /// In the order in which they were retired; some are gone by now.
    queue: Vec<PrefixId>,
    under_way: Option<Chain>,
}

/// The prefix that is being written.
#[derive(Debug)]
struct Chain {
    prefix: PrefixId,
    names: Vec<SegmentName>,
    /// How many of them are done.
    done: usize,
}

impl Saving {
    /// Nothing to write yet. See [`crate::config::ModelShape::kv_key`].
    pub fn new(kv_key: Option<String>) -> Self {
        Self { kv_key, queue: Vec::new(), under_way: None }
    }

    /// A prefix was retired; if it was before, it may have gone on with other tokens since.
    pub fn push(&mut self, prefix: PrefixId, cache: &PrefixCache) {
        self.under_way.take_if(|chain| chain.prefix == prefix);
        if self.kv_key.is_some() {
            self.queue.push(prefix);
            if self.queue.len() > 2 * cache.num_retired() {
                self.queue.retain(|&it| cache.get_retired(it).is_some());
            }
        }
    }

    /// The next segment to write: the row that holds it, its first position, and its name.
    pub fn next(
        &mut self,
        cache: &PrefixCache,
        index: &mut SegmentIndex,
    ) -> Option<(Row, u32, SegmentName)> {
        let kv_key = self.kv_key.as_deref().filter(|_| index.saves())?;
        loop {
            let chain = match self.under_way.take() {
                Some(chain) => chain,
                None => Chain::of(self.queue.pop()?, cache, kv_key),
            };
            let Some((row, ..)) = cache.get_retired(chain.prefix) else { continue };
            let missing = chain.names.iter().skip(chain.done).position(|&it| !index.contains(it));
            let Some(missing) = missing else {
                index.find(&chain.names);
                continue;
            };
            let at = chain.done + missing;
            let name = chain.names[at];
            self.under_way = Some(Chain { done: at, ..chain });
            return Some((row, at as u32 * SEGMENT_TOKENS, name));
        }
    }

    /// The segment was written. Where there is no room for it, those behind it are not tried.
    pub fn wrote(&mut self, index: &mut SegmentIndex, num_bytes: u64) {
        let Some(mut chain) = self.under_way.take() else { return };
        index.wrote(&chain.names[..=chain.done], num_bytes);
        if index.contains(chain.names[chain.done]) {
            chain.done += 1;
            self.under_way = Some(chain);
        }
    }
}

impl Chain {
    fn of(prefix: PrefixId, cache: &PrefixCache, kv_key: &str) -> Self {
        let retired = cache.get_retired(prefix);
        let names = retired.map(|(_, salt, tokens)| names(kv_key, salt, tokens));
        Self { prefix, names: names.unwrap_or_default(), done: 0 }
    }
}
