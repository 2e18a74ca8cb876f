//! The engine thread's outbox: events go out once per step and wake an event loop once.
//!
//! The loop polls a pipe. Waking it costs a system call on either side, so a byte is written only
//! when none is on its way already: however many steps are published before the loop comes round,
//! the pipe holds one byte at most and a write never blocks.

use std::io;

use crate::sync::{AtomicU8, Mutex, Ordering, WakePipe, lock};

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

    /// Append all events to the vector, oldest first. Call whenever [`Self::wake_fd`] is readable;
    /// a call without need does no harm. Any thread; never blocks.
    ///
    /// # Errors
    /// When the pipe was closed behind our back. The events are handed out all the same.
    pub fn drain(&self, out: &mut Vec<E>) -> io::Result<()> {
        // Lower first: events published from here on raise the flag again.
        let lowered = self.flag.lower(|| self.pipe.read_byte());
        out.append(&mut lock(&self.events));
        lowered
    }

    /// The descriptor that is readable while events wait. Poll it; leave reading it to `drain`.
    #[cfg(unix)]
    pub fn wake_fd(&self) -> i32 {
        self.pipe.fd()
    }

    /// What the event loop does between two drains.
    #[cfg(loom)]
    pub fn wait_until_readable(&self) {
        self.pipe.wait_until_readable();
    }
}

const RAISED: u8 = 1;
const WRITTEN: u8 = 2;

/// Lets at most one byte into the pipe, and lets nobody read before it is there.
///
/// ```text
///          raise                 byte written                 lower
///   0 ──────────────► RAISED ──────────────► RAISED|WRITTEN ────────► RAISED ──────────► 0
///                     (one writer)                          (one reader)  byte read
/// ```
/// Publisher: store the event, then raise. Loop: lower, then take the events. Both ends are
/// read-modify-writes of one word, so one comes first. If it is the raise, lowering sees the
/// event. If it is the lowering, the raise finds 0 and writes a new byte. And a loop that comes
/// between raise and write does not wait for the byte: it wakes the loop once more, for nothing.
#[derive(Debug, Default)]
struct WakeFlag(AtomicU8);

impl WakeFlag {
    /// Call after the event can be taken. Writes a byte unless one is on its way.
    fn raise(&self, write: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if self.0.fetch_or(RAISED, Ordering::AcqRel) & RAISED != 0 {
            return Ok(());
        }
        let written = write();
        match written {
            Ok(()) => self.0.fetch_or(WRITTEN, Ordering::Release),
            Err(_) => self.0.swap(0, Ordering::Release),
        };
        written
    }

    /// Call before the events are taken. Reads the byte if there is one.
    fn lower(&self, read: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if self.0.fetch_and(!WRITTEN, Ordering::AcqRel) & WRITTEN == 0 {
            return Ok(());
        }
        let byte = read();
        self.0.swap(0, Ordering::AcqRel);
        byte
    }
}
