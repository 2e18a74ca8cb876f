//! What the scheduler gives up when the process runs short of memory, as [`crate::memory_guard`] asks.

use crate::error::{Refusal, SubmitError};
use crate::ids::ModelId;
use crate::memory_guard::Spare;
use crate::model::{Event, Model};
use crate::scheduler::Scheduler;

impl Scheduler {
    /// What could be given up if memory is short.
    pub fn spare(&self) -> Spare {
        let prefills = self.resident().map(Model::num_prefills).sum();
        Spare {
            prefixes: self.resident().map(|it| it.kv.num_prefixes()).sum(),
            idle_models: usize::from(self.residency.spare().is_some()),
            prefills,
            others: self.num_requests().1 - prefills,
        }
    }

    /// While memory is short nobody gets a row, but for one request where none runs.
    pub fn short_of_memory(&mut self, short: bool) {
        self.residency.short_of_memory(short);
        self.resident_mut().for_each(|it| it.closed = short);
    }

    /// Give up half of what each model caches.
    pub fn shrink_caches(&mut self) {
        self.resident_mut().for_each(|it| it.kv.shrink_cache());
    }

    /// Let a drafter go, or the least recently used idle model if others are wanted.
    pub fn evict_idle(&mut self) {
        self.residency.let_go_spare(self.now_ns);
    }

    /// End the newest request that has no token yet.
    pub fn refuse_prefill(&mut self, events: &mut Vec<Event>) {
        let newest = |it: &Model| it.newest_prefill();
        let Some(id) = self.resident().filter_map(newest).max() else {
            return;
        };
        for at in 0..self.entries.len() {
            let refused = SubmitError::Unavailable(Refusal::MemoryShort);
            let instances = self.entries[at].instances.iter_mut();
            instances.for_each(|it| it.refuse(id, refused.clone(), events));
            self.count_out(ModelId(at as u32));
        }
    }
}
