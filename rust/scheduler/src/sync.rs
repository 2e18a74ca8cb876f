//! The only door to atomics, locks, parking, the queues and the wake pipe.
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
    use std::io::{self, PipeReader, PipeWriter, Read, Write};
    use std::time::Duration;

    pub use crossbeam_queue::{ArrayQueue, SegQueue};
    pub use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence};
    pub use std::sync::{Mutex, MutexGuard};
    pub use std::thread::{Thread, current};

    /// Park this thread until unparked or until the time is over; it may return early.
    pub fn park(limit: Option<Duration>) {
        match limit {
            Some(limit) => std::thread::park_timeout(limit),
            None => std::thread::park(),
        }
    }

    /// A pipe that carries wake-ups: bytes without meaning.
    #[derive(Debug)]
    pub struct WakePipe {
        reader: PipeReader,
        writer: PipeWriter,
    }

    impl WakePipe {
        /// A pipe that child processes do not inherit.
        ///
        /// # Errors
        /// When the process may open no more files.
        pub fn new() -> io::Result<Self> {
            let (reader, writer) = io::pipe()?;
            Ok(Self { reader, writer })
        }

        /// Put one byte in; blocks if the pipe is full.
        ///
        /// # Errors
        /// When somebody closed the descriptor behind our back.
        pub fn write_byte(&self) -> io::Result<()> {
            (&self.writer).write_all(&[1])
        }

        /// Take one byte out; blocks if there is none.
        ///
        /// # Errors
        /// As for [`Self::write_byte`].
        pub fn read_byte(&self) -> io::Result<()> {
            (&self.reader).read_exact(&mut [0])
        }

        /// The descriptor to poll for reading.
        #[cfg(unix)]
        pub fn fd(&self) -> i32 {
            std::os::fd::AsRawFd::as_raw_fd(&self.reader)
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
    pub use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence};
    pub use loom::sync::{Mutex, MutexGuard};
    pub use loom::thread::{Thread, current};

    use super::lock;

    /// Loom has no clock: a limited park is one that is over at once.
    pub fn park(limit: Option<Duration>) {
        match limit {
            Some(_) => loom::thread::yield_now(),
            None => loom::thread::park(),
        }
    }

    /// crossbeam's unbounded queue. The length is an atomic beside the lock, so that looking at it
    /// orders no more memory than it does in the real queue.
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

    /// A pipe with room for one byte: where the real one would block, this one is an error.
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
            self.turn(false)?;
            self.readable.notify_all();
            Ok(())
        }

        pub fn read_byte(&self) -> io::Result<()> {
            self.turn(true)
        }

        fn turn(&self, from: bool) -> io::Result<()> {
            let mut full = lock(&self.full);
            if *full != from {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            *full = !from;
            Ok(())
        }

        pub fn fd(&self) -> i32 {
            -1
        }

        /// What an event loop does with the descriptor.
        pub fn wait_until_readable(&self) {
            let mut full = lock(&self.full);
            while !*full {
                full = self.readable.wait(full).unwrap_or_else(std::sync::PoisonError::into_inner);
            }
        }
    }
}
