//! The only door to atomics, locks, parking, queues and the wake pipe.
//!
//! Normally these are std's and crossbeam's. Under `--cfg loom` the same names are loom's, and
//! `tests/rust/loom.rs` explores the interleavings of the code that uses them. crossbeam's queues
//! and the operating system's pipe are trusted and not explored: stand-ins with the same promises
//! take their place.

#[cfg(loom)]
pub use self::modelled::*;
#[cfg(not(loom))]
pub use self::real::*;

use std::sync::PoisonError;

/// Lock, also after a panic elsewhere: what our locks guard is whole between any two statements.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(not(loom))]
mod real {
    use std::io::{self, ErrorKind, Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    pub use crossbeam_queue::{ArrayQueue, SegQueue};
    pub use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
    pub use std::sync::{Mutex, MutexGuard};
    use std::thread::{self, Thread};

    use super::lock;

    /// The place where one thread sleeps until others wake it.
    #[derive(Debug, Default)]
    pub struct Parker(Mutex<Option<Thread>>);

    impl Parker {
        /// From now on [`Self::unpark`] means the calling thread.
        pub fn enter(&self) {
            *lock(&self.0) = Some(thread::current());
        }

        /// Sleep until unparked, now or since the last sleep, or until the time is over; it may
        /// also return early. Only for the thread that entered.
        pub fn park(&self, limit: Option<Duration>) {
            match limit {
                Some(limit) => thread::park_timeout(limit),
                None => thread::park(),
            }
        }

        /// Wake the thread, or keep it from its next sleep.
        pub fn unpark(&self) {
            let thread = lock(&self.0).clone();
            if let Some(thread) = thread {
                thread.unpark();
            }
        }
    }

    /// A pipe that carries wake-ups: bytes without meaning.
    ///
    /// In truth two sockets: std can make these non-blocking, and a pipe it cannot.
    #[derive(Debug)]
    pub struct WakePipe {
        reader: UnixStream,
        writer: UnixStream,
    }

    impl WakePipe {
        /// A pipe that child processes do not inherit.
        ///
        /// # Errors
        /// When the process may open no more files.
        pub fn new() -> io::Result<Self> {
            let (reader, writer) = UnixStream::pair()?;
            reader.set_nonblocking(true)?;
            Ok(Self { reader, writer })
        }

        /// Put one byte in; blocks if the pipe is full.
        ///
        /// # Errors
        /// When somebody closed the descriptor behind our back.
        pub fn write_byte(&self) -> io::Result<()> {
            (&self.writer).write_all(&[1])
        }

        /// Take one byte out; false if there is none. Never blocks.
        ///
        /// # Errors
        /// As for [`Self::write_byte`].
        pub fn read_byte(&self) -> io::Result<bool> {
            match (&self.reader).read_exact(&mut [0]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
                read => read.map(|()| true),
            }
        }

        /// The descriptor to poll for reading.
        pub fn fd(&self) -> i32 {
            self.reader.as_raw_fd()
        }
    }
}

#[cfg(loom)]
#[expect(
    missing_docs,
    clippy::missing_errors_doc,
    clippy::new_without_default,
    reason = "the names are those of `real` and crossbeam, documented there"
)]
mod modelled {
    use std::collections::VecDeque;
    use std::io;
    use std::time::Duration;

    use loom::sync::Condvar;
    pub use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
    pub use loom::sync::{Mutex, MutexGuard};

    use super::{PoisonError, lock};

    /// Not loom's `park`: that one forgets an unpark when the thread then waits for a lock, and
    /// takes an unpark for the end of any wait.
    #[derive(Debug, Default)]
    pub struct Parker {
        unparked: Mutex<bool>,
        changed: Condvar,
    }

    impl Parker {
        pub fn enter(&self) {}

        /// Loom has no clock: a limited sleep is over at once.
        pub fn park(&self, limit: Option<Duration>) {
            let mut unparked = lock(&self.unparked);
            while !*unparked && limit.is_none() {
                unparked = self.changed.wait(unparked).unwrap_or_else(PoisonError::into_inner);
            }
            *unparked = false;
        }

        pub fn unpark(&self) {
            *lock(&self.unparked) = true;
            self.changed.notify_all();
        }
    }

    /// crossbeam's unbounded queue. The length is an atomic beside the lock, so that a look at it,
    /// and a pop that finds nothing, order no more memory than they do in the real queue.
    #[derive(Debug)]
    pub struct SegQueue<T> {
        items: Mutex<VecDeque<T>>,
        len: AtomicUsize,
    }

    impl<T> SegQueue<T> {
        pub fn new() -> Self {
            Self { items: Mutex::new(VecDeque::new()), len: AtomicUsize::new(0) }
        }

        pub fn push(&self, item: T) {
            let mut items = lock(&self.items);
            items.push_back(item);
            self.len.store(items.len(), Ordering::Release);
        }

        pub fn pop(&self) -> Option<T> {
            if self.is_empty() {
                return None;
            }
            let mut items = lock(&self.items);
            let item = items.pop_front();
            self.len.store(items.len(), Ordering::Release);
            item
        }

        pub fn len(&self) -> usize {
            self.len.load(Ordering::Acquire)
        }

        pub fn is_empty(&self) -> bool {
            self.len() == 0
        }
    }

    /// crossbeam's bounded queue.
    #[derive(Debug)]
    pub struct ArrayQueue<T> {
        queue: SegQueue<T>,
        capacity: usize,
    }

    impl<T> ArrayQueue<T> {
        pub fn new(capacity: usize) -> Self {
            Self { queue: SegQueue::new(), capacity }
        }

        pub fn push(&self, item: T) -> Result<(), T> {
            let mut items = lock(&self.queue.items);
            if items.len() == self.capacity {
                return Err(item);
            }
            items.push_back(item);
            self.queue.len.store(items.len(), Ordering::Release);
            Ok(())
        }

        pub fn pop(&self) -> Option<T> {
            self.queue.pop()
        }

        pub fn len(&self) -> usize {
            self.queue.len()
        }

        pub fn is_empty(&self) -> bool {
            self.queue.is_empty()
        }

        pub fn capacity(&self) -> usize {
            self.capacity
        }
    }

    /// A pipe with room for one byte: a second one is an error.
    #[derive(Debug)]
    pub struct WakePipe {
        full: Mutex<bool>,
        readable: Condvar,
    }

    impl WakePipe {
        pub fn new() -> io::Result<Self> {
            Ok(Self { full: Mutex::new(false), readable: Condvar::new() })
        }

        pub fn write_byte(&self) -> io::Result<()> {
            let was_full = std::mem::replace(&mut *lock(&self.full), true);
            self.readable.notify_all();
            if was_full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }

        pub fn read_byte(&self) -> io::Result<bool> {
            Ok(std::mem::take(&mut *lock(&self.full)))
        }

        pub fn fd(&self) -> i32 {
            -1
        }

        /// What an event loop does with the descriptor.
        pub fn wait_until_readable(&self) {
            let mut full = lock(&self.full);
            while !*full {
                full = self.readable.wait(full).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}
