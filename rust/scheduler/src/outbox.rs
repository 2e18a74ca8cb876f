//! The engine thread's outbox: events go out once per step and wake an event loop once.
//!
//! The loop polls a pipe. Waking it costs a system call on either side, so a byte is written only
//! when none is on its way already: however many steps are published before the loop comes round,
//! the pipe holds one byte at most and a write never blocks.

use std::io;

use crate::sync::{AtomicBool, Mutex, Ordering, WakePipe, lock};

/// Events `E` on their way to one event loop.
#[derive(Debug)]
pub struct Outbox<E> {
    // A lock, not a queue: both sides hold it for one copy of a step's events, neither takes another
    // lock or the GIL inside, and both vectors keep their room, so a step allocates nothing here.
    events: Mutex<Vec<E>>,
    flag: WakeFlag,
    pipe: WakePipe,
}

impl<E> Outbox<E> {
    /// An empty outbox.
    ///
    /// # Errors
    /// When the process may open no more files.
    pub fn new() -> io::Result<Self> {
        let (events, flag) = (Mutex::new(Vec::new()), WakeFlag::default());
        Ok(Self { events, flag, pipe: WakePipe::new()? })
    }

    /// Move all events out of the vector to the loop, and wake it. Any thread; never blocks.
    ///
    /// # Errors
    /// When the pipe was closed behind our back. The events are kept, and the next publish tries
    /// to wake again.
    pub fn publish(&self, events: &mut Vec<E>) -> io::Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        lock(&self.events).append(events);
        self.flag.raise(|| self.pipe.write_byte())
    }

    /// Wake the loop although there are no events: something else it reads has changed.
    ///
    /// # Errors
    /// As for [`Self::publish`].
    pub fn wake(&self) -> io::Result<()> {
        self.flag.raise(|| self.pipe.write_byte())
    }

    /// Append all events to the vector, oldest first. Call whenever [`Self::wake_fd`] is readable;
    /// a call without need does no harm. Any thread; never blocks.
    ///
    /// # Errors
    /// When the pipe was closed behind our back. The events are handed out all the same.
    pub fn drain(&self, out: &mut Vec<E>) -> io::Result<()> {
        // Lower first: events published from then on raise the flag again.
        let lowered = self.flag.lower(|| self.pipe.read_byte());
        out.append(&mut lock(&self.events));
        lowered
    }

    /// The descriptor that is readable while events wait. Poll it; leave reading it to `drain`.
    pub fn wake_fd(&self) -> i32 {
        self.pipe.fd()
    }

    /// What the event loop does between two drains.
    #[cfg(loom)]
    pub fn wait_until_readable(&self) {
        self.pipe.wait_until_readable();
    }
}

/// True from before a byte is written until after it is read: one byte at most is in the pipe.
///
/// ```text
///   publisher                          loop
///     store the events                   byte is readable
///     raise: false -> true?              lower: read the byte, true -> false
///        └─ yes: write the byte          take the events
/// ```
/// Both ends swap one word, so one swap comes first. If it is the raise, the loop's swap sees the
/// events and the loop takes them. If it is the lowering, the raise finds false and writes a byte.
/// A loop that comes without a byte, or before it is written, leaves the flag alone: who reads
/// the byte lowers, so the byte on its way still brings the loop to what it missed.
#[derive(Debug, Default)]
struct WakeFlag(AtomicBool);

impl WakeFlag {
    /// Call after the events can be taken. Writes a byte unless one is on its way.
    fn raise(&self, write: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if self.0.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let written = write();
        if written.is_err() {
            self.0.swap(false, Ordering::AcqRel);
        }
        written
    }

    /// Call before the events are taken. `read` tells whether there was a byte.
    fn lower(&self, read: impl FnOnce() -> io::Result<bool>) -> io::Result<()> {
        if read()? {
            self.0.swap(false, Ordering::AcqRel);
        }
        Ok(())
    }
}
