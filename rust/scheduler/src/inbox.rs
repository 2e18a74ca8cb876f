//! The engine thread's inbox: many threads push, one thread drains and sleeps.
//!
//! Two queues, because two promises differ. *Submissions* are bounded: a full queue hands the value
//! back and the client hears 429. *Controls* (aborts and the like) are unbounded: an abort that
//! could be refused would leave a request running for nobody. Pushing takes no lock, except to wake
//! a consumer that sleeps.
//!
//! ```text
//!   try_submit(T) ──► gate ──► bounded queue ────┐
//!                                                ├──► drain() ──► engine thread
//!   control(C) ──────────────► unbounded queue ──┘       ▲
//!   close() ────► gate                                   │
//!       └── all three, last of all ──► doorbell ──► wait() sleeps
//! ```

use std::time::Duration;

use crate::sync::{ArrayQueue, AtomicBool, AtomicUsize, Ordering, Parker, SegQueue, fence};

/// Why a submission came back, and the submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused<T> {
    /// The queue was full.
    Full(T),
    /// The inbox was closed.
    Closed(T),
}

/// Submissions `T` and controls `C` on their way to one consumer.
#[derive(Debug)]
pub struct Inbox<T, C> {
    submissions: ArrayQueue<T>,
    controls: SegQueue<C>,
    gate: Gate,
    doorbell: Doorbell,
}

impl<T, C> Inbox<T, C> {
    /// An open inbox with room for `capacity` submissions, and for one if that is 0.
    pub fn new(capacity: usize) -> Self {
        Self {
            submissions: ArrayQueue::new(capacity.max(1)),
            controls: SegQueue::new(),
            gate: Gate::default(),
            doorbell: Doorbell::default(),
        }
    }

    /// Push a submission and wake the consumer. Any thread; never blocks.
    ///
    /// # Errors
    /// The value comes back when the queue is full or the inbox closed. One that does not come back
    /// will be drained, also if the inbox closes at this moment.
    pub fn try_submit(&self, item: T) -> Result<(), Refused<T>> {
        if !self.gate.enter() {
            return Err(Refused::Closed(item));
        }
        let pushed = self.submissions.push(item);
        self.gate.leave();
        self.doorbell.ring();
        pushed.map_err(Refused::Full)
    }

    /// Push a control and wake the consumer. Any thread; never blocks, never refused, not even
    /// after [`Self::close`].
    pub fn control(&self, control: C) {
        self.controls.push(control);
        self.doorbell.ring();
    }

    /// Refuse submissions from now on and wake the consumer. Any thread, any number of times.
    pub fn close(&self) {
        self.gate.shut();
        self.doorbell.ring();
    }

    /// Whether the inbox is closed **and** the last `try_submit` that got in before has landed.
    ///
    /// Once true it stays true, and one [`Self::drain`] after that takes the last submission there
    /// will ever be.
    pub fn is_closed(&self) -> bool {
        self.gate.is_shut_and_empty()
    }

    /// Submissions pushed and not yet drained.
    pub fn len_submissions(&self) -> usize {
        self.submissions.len()
    }

    /// Append what is there to both vectors, oldest first. Consumer only; never blocks.
    ///
    /// Whoever sees a control also sees, by the end of the same call or in an earlier one, every
    /// submission that the control's pusher knew of: an abort is never seen without its submit.
    /// For that the controls are taken first. The submission's push happens before the control's
    /// push (one thread, or a submit that returned the id that is aborted), that before the pop of
    /// the control, and that before our look at the submissions, which therefore finds it. There it
    /// stands behind at most `capacity - 1` others, so `capacity` pops reach it. Bounding both
    /// loops keeps eager pushers from holding the consumer here.
    pub fn drain(&self, submissions: &mut Vec<T>, controls: &mut Vec<C>) {
        let num_controls = self.controls.len();
        controls.extend((0..num_controls).map_while(|_| self.controls.pop()));
        let capacity = self.submissions.capacity();
        submissions.extend((0..capacity).map_while(|_| self.submissions.pop()));
    }

    /// Sleep until something is pushed, the inbox is closed, or the time is over. Consumer only.
    ///
    /// Returns at once if something is there already or the inbox is closed. It may also return
    /// early for no reason: drain, find nothing, wait again.
    pub fn wait(&self, limit: Option<Duration>) {
        self.doorbell.sleep_unless(|| self.has_news(), limit);
    }

    fn has_news(&self) -> bool {
        !self.controls.is_empty() || !self.submissions.is_empty() || self.is_closed()
    }
}

const SHUT: usize = 1;
const VISITOR: usize = 2;

/// Counts the submitters between their look at the gate and their push, so that "closed" can mean
/// "nothing more will come". The lowest bit says shut, the others count visitors.
#[derive(Debug, Default)]
struct Gate(AtomicUsize);

impl Gate {
    /// A visitor may come in only while the gate is open: shut and empty is for ever.
    fn enter(&self) -> bool {
        let admit = |seen: usize| (seen & SHUT == 0).then_some(seen + VISITOR);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, admit).is_ok()
    }

    /// Release: who finds the gate empty also finds what the visitor pushed.
    fn leave(&self) {
        self.0.fetch_sub(VISITOR, Ordering::Release);
    }

    fn shut(&self) {
        self.0.fetch_or(SHUT, Ordering::Relaxed);
    }

    fn is_shut_and_empty(&self) -> bool {
        self.0.load(Ordering::Acquire) == SHUT
    }
}

/// Wakes one sleeper without losing a ring.
///
/// The ringer writes its news, then reads `sleeping`; the sleeper writes `sleeping`, then reads the
/// news. With a fence between the two on both sides at least one of them sees what the other wrote:
/// either the sleeper stays up or the ringer wakes it. All changes of `sleeping` are swaps, so they
/// have one order, and of many ringers the one that turns it off pays for the wake-up.
#[derive(Debug, Default)]
struct Doorbell {
    sleeping: AtomicBool,
    parker: Parker,
}

impl Doorbell {
    /// Call after the news can be seen.
    fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel) {
            self.parker.unpark();
        }
    }

    fn sleep_unless(&self, has_news: impl Fn() -> bool, limit: Option<Duration>) {
        self.parker.enter();
        self.sleeping.swap(true, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        if !has_news() {
            self.parker.park(limit);
        }
        self.sleeping.swap(false, Ordering::AcqRel);
    }
}
