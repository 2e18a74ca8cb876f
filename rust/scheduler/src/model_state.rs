//! Where one model stands in memory, and what it takes there.

use crate::config::{KeepAlive, ModelPolicy};

/// A failed load is not tried again for this long, doubled by each further failure.
const BACKOFF_NS: u64 = 5_000_000_000;
const MOST_DOUBLINGS: u32 = 6;

/// Where a model stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Not in memory and not asked for.
    Absent,
    /// Asked for; waits for memory.
    Reserving,
    /// Its memory is reserved and the runner fills it.
    Loading,
    /// In memory; requests run.
    Resident,
    /// In memory; those running may end, others wait.
    Draining,
    /// The runner frees its memory.
    Evicting,
    /// Could not be loaded; not tried again before [`ModelState::retry_ns`].
    Failed,
}

/// One model's part of the state. Public so that a test can fold states that differ in age alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ModelState {
    pub(crate) policy: ModelPolicy,
    /// Where it stands.
    pub phase: Phase,
    /// Bytes it needs: estimated, then measured.
    pub need: u64,
    /// Bytes reserved or in use.
    pub held: u64,
    /// Requests that run in it.
    pub running: u32,
    /// Requests that wait for it.
    pub waiting: u32,
    /// How long it stays when idle; the last request that cared decides.
    pub keep_alive: KeepAlive,
    /// Reserving: when it was asked for. Resident: when it was loaded.
    pub since_ns: u64,
    /// When a request last came or went.
    pub used_ns: u64,
    /// Failed: when it may be tried again.
    pub retry_ns: u64,
    /// Loads that failed in a row.
    pub failures: u32,
    /// It is to leave once no request runs.
    pub(crate) unload: bool,
    /// Loading: it was told to break off.
    pub(crate) cancelled: bool,
}

impl ModelState {
    pub(crate) fn new(policy: ModelPolicy) -> Self {
        Self {
            policy,
            phase: if policy.preload { Phase::Reserving } else { Phase::Absent },
            need: policy.need,
            held: 0,
            running: 0,
            waiting: u32::from(policy.preload),
            keep_alive: policy.keep_alive,
            since_ns: 0,
            used_ns: 0,
            retry_ns: 0,
            failures: 0,
            unload: false,
            cancelled: false,
        }
    }

    /// When an idle model leaves by itself, if it ever does.
    pub fn expires_ns(&self) -> Option<u64> {
        let idle = self.in_memory() && self.running == 0 && !self.policy.pinned;
        match self.keep_alive {
            KeepAlive::For(ns) if idle => Some(self.used_ns.saturating_add(ns)),
            _ => None,
        }
    }

    pub(crate) fn in_memory(&self) -> bool {
        matches!(self.phase, Phase::Resident | Phase::Draining)
    }

    /// Back in line if somebody waits, else gone.
    pub(crate) fn settle(&mut self) {
        self.held = 0;
        (self.cancelled, self.unload) = (false, false);
        if self.waiting > 0 {
            self.phase = Phase::Reserving;
        } else {
            self.phase = Phase::Absent;
            self.keep_alive = self.policy.keep_alive;
        }
    }

    /// Those who waited run.
    pub(crate) fn admit(&mut self) {
        self.phase = if self.unload { Phase::Draining } else { Phase::Resident };
        self.running += std::mem::take(&mut self.waiting);
    }

    pub(crate) fn back_off(&mut self, now_ns: u64) {
        let doublings = self.failures.min(MOST_DOUBLINGS);
        self.failures += 1;
        self.waiting = 0;
        self.settle();
        self.phase = Phase::Failed;
        self.retry_ns = now_ns + (BACKOFF_NS << doublings);
    }
}
