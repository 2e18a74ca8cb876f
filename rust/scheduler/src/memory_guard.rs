//! What to give up when memory runs short, and in which order.
//!
//! ```text
//!   share of the limit
//!   1.00 |
//!        |  hard  new requests are refused; so is, when all else is given up, the newest prefill
//!   0.95 +------------------------------------------------------------------------------
//!        |  soft  nobody gets a row. Between measurements, one thing at a time:
//!        |        freed memory that MLX keeps -> cached prefixes -> idle models
//!   0.85 +------------------------------------------------------------------------------
//!        |        open, once it has been below by `HYSTERESIS`
//! ```
//! Requests that decode are never given up. Where nothing runs, the next request may, whatever is
//! measured: a server that is too large for its limit goes on, one request at a time.

use std::time::Duration;

/// Measured again so often while memory is short, in nanoseconds.
const SHORT_INTERVAL_NS: u64 = 50_000_000;
/// The same while it is not.
const INTERVAL_NS: u64 = 500_000_000;
/// Below the soft watermark by this share of the limit, memory is no longer short.
pub const HYSTERESIS: f64 = 0.03;

/// Shares of what this process may hold, above which memory is short, and very short.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Watermarks {
    /// Nobody gets a row, and what can be given up is. 0: no guard.
    pub soft: f64,
    /// New requests are refused.
    pub hard: f64,
}

impl Watermarks {
    /// Nothing is measured.
    pub const OFF: Self = Self { soft: 0.0, hard: 0.0 };
}

/// What there is to give up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spare {
    /// Cached prefixes, of all models.
    pub prefixes: usize,
    /// Models that may leave and run nothing, while others do.
    pub idle_models: usize,
    /// Requests that run and have no token yet.
    pub prefills: usize,
    /// Requests that run and have one.
    pub others: usize,
}

impl Spare {
    /// The last request is not refused for the memory that it takes alone.
    fn may_refuse(&self) -> bool {
        self.prefills > 0 && self.prefills + self.others > 1
    }
}

/// One thing to give up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Relief {
    /// Freed memory that the runner keeps for later.
    TrimPool,
    /// Half of the cached prefixes, least recently used first.
    ShrinkCache,
    /// The least recently used idle model.
    EvictModel,
    /// The newest request that has no token yet.
    RefusePrefill,
}

/// How short memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shortage {
    /// Not at all.
    None = 0,
    /// Above the soft watermark, or just below it after having been above.
    Soft = 1,
    /// Above the hard watermark.
    Hard = 2,
}

/// Decides by measurements alone; no clock and no threads.
#[derive(Debug)]
pub struct MemoryGuard {
    watermarks: Watermarks,
    shortage: Shortage,
    trimmed: bool,
    next_ns: u64,
}

impl MemoryGuard {
    /// Memory is not short.
    pub fn new(watermarks: Watermarks) -> Self {
        Self { watermarks, shortage: Shortage::None, trimmed: false, next_ns: 0 }
    }

    /// How short memory was when it was last measured.
    pub fn shortage(&self) -> Shortage {
        self.shortage
    }

    /// Whether it is time to measure; never if the guard is off.
    pub fn is_due(&self, now_ns: u64) -> bool {
        self.watermarks.soft > 0.0 && now_ns >= self.next_ns
    }

    /// How long an idle engine may sleep, which else would for `longest`.
    pub fn patience(&self, longest: Duration) -> Duration {
        match self.shortage {
            Shortage::None => longest,
            _ => longest.min(Duration::from_nanos(SHORT_INTERVAL_NS)),
        }
    }

    /// Take in a measurement, as a share of what may be held; what to give up before the next one.
    pub fn observe(&mut self, share: f64, left: Spare, now_ns: u64) -> Option<Relief> {
        self.shortage = self.judge(share);
        let short = self.shortage > Shortage::None;
        self.next_ns = now_ns + if short { SHORT_INTERVAL_NS } else { INTERVAL_NS };
        // Whatever is freed comes back through the runner's pool: every other relief trims it.
        self.trimmed = short && !self.trimmed;
        match (short, self.trimmed) {
            (false, _) => None,
            (true, true) => Some(Relief::TrimPool),
            (true, false) => self.choose(left),
        }
    }

    fn judge(&self, share: f64) -> Shortage {
        let was_short = self.shortage > Shortage::None;
        let open_below = self.watermarks.soft - if was_short { HYSTERESIS } else { 0.0 };
        if share >= self.watermarks.hard {
            Shortage::Hard
        } else if share >= open_below {
            Shortage::Soft
        } else {
            Shortage::None
        }
    }

    fn choose(&self, left: Spare) -> Option<Relief> {
        if left.prefixes > 0 {
            Some(Relief::ShrinkCache)
        } else if left.idle_models > 0 {
            Some(Relief::EvictModel)
        } else if left.may_refuse() && self.shortage == Shortage::Hard {
            Some(Relief::RefusePrefill)
        } else {
            None
        }
    }
}

/// A share in thousandths, for counters; negative is 0.
#[expect(clippy::cast_sign_loss, reason = "it saturates")]
pub fn permille(share: f64) -> u64 {
    (share * 1e3).round() as u64
}
