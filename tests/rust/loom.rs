//! Every interleaving of the small cases of the inbox and the outbox. A lost wake-up shows as a
//! deadlock, which loom reports.
//!
//! `RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 cargo test --test loom`
#![cfg(loom)]
#![allow(clippy::unwrap_used, reason = "a test reports by panicking")]

use loom::sync::Arc;
use loom::thread;

use mlxspec_scheduler::inbox::{Inbox, Refused};
use mlxspec_scheduler::outbox::Outbox;

fn drain<T, C>(inbox: &Inbox<T, C>) -> (Vec<T>, Vec<C>) {
    let (mut submissions, mut controls) = (Vec::new(), Vec::new());
    inbox.drain(&mut submissions, &mut controls);
    (submissions, controls)
}

/// The consumer's loop: wait, drain, until `done` says so of all that came.
fn consume<T, C>(inbox: &Inbox<T, C>, done: impl Fn(&[T], &[C]) -> bool) -> (Vec<T>, Vec<C>) {
    let (mut submissions, mut controls) = (Vec::new(), Vec::new());
    while !done(&submissions, &controls) {
        inbox.wait(None);
        inbox.drain(&mut submissions, &mut controls);
    }
    (submissions, controls)
}

#[test]
fn submitting_while_parking_loses_no_wake_up() {
    loom::model(|| {
        let inbox = Arc::new(Inbox::<u32, ()>::new(2));
        let sender = Arc::clone(&inbox);
        let sender = thread::spawn(move || {
            sender.try_submit(1).unwrap();
            sender.try_submit(2).unwrap();
        });
        let (submissions, _) = consume(&inbox, |submissions, _| submissions.len() == 2);
        assert_eq!(submissions, [1, 2]);
        sender.join().unwrap();
    });
}

#[test]
fn two_senders_while_parking_lose_no_wake_up() {
    loom::model(|| {
        let inbox = Arc::new(Inbox::<u32, u32>::new(2));
        let (submitter, aborter) = (Arc::clone(&inbox), Arc::clone(&inbox));
        let submitter = thread::spawn(move || submitter.try_submit(1).unwrap());
        let aborter = thread::spawn(move || aborter.control(7));
        let done = |submissions: &[u32], controls: &[u32]| submissions.len() + controls.len() == 2;
        assert_eq!(consume(&inbox, done), (vec![1], vec![7]));
        submitter.join().unwrap();
        aborter.join().unwrap();
    });
}

#[test]
fn closing_while_parking_loses_no_wake_up() {
    loom::model(|| {
        let inbox = Arc::new(Inbox::<u32, ()>::new(1));
        let closer = Arc::clone(&inbox);
        let closer = thread::spawn(move || closer.close());
        while !inbox.is_closed() {
            inbox.wait(None);
        }
        closer.join().unwrap();
    });
}

#[test]
fn closing_and_submitting_drains_what_was_accepted() {
    loom::model(|| {
        let inbox = Arc::new(Inbox::<u32, ()>::new(1));
        let (sender, closer) = (Arc::clone(&inbox), Arc::clone(&inbox));
        let sender = thread::spawn(move || sender.try_submit(1));
        let closer = thread::spawn(move || closer.close());
        let mut drained = Vec::new();
        loop {
            let last = inbox.is_closed();
            drained.extend(drain(&inbox).0);
            if last {
                break;
            }
            inbox.wait(None);
        }
        match sender.join().unwrap() {
            Ok(()) => assert_eq!(drained, [1]),
            Err(refused) => assert_eq!((refused, drained.len()), (Refused::Closed(1), 0)),
        }
        closer.join().unwrap();
    });
}

#[test]
fn a_control_is_never_seen_without_the_submission_before_it() {
    loom::model(|| {
        let inbox = Arc::new(Inbox::<u32, u32>::new(2));
        let sender = Arc::clone(&inbox);
        let sender = thread::spawn(move || {
            sender.try_submit(1).unwrap();
            sender.control(1);
        });
        let (submissions, controls) = drain(&inbox);
        assert!(controls.is_empty() || submissions == controls);
        sender.join().unwrap();
    });
}

#[test]
fn publishing_while_draining_loses_no_event() {
    loom::model(|| {
        let outbox = Arc::new(Outbox::<u32>::new().unwrap());
        let engine = Arc::clone(&outbox);
        let engine = thread::spawn(move || {
            engine.publish(&mut vec![1]).unwrap();
            engine.publish(&mut vec![2]).unwrap();
        });
        let mut out = Vec::new();
        while out.len() < 2 {
            outbox.wait_until_readable();
            outbox.drain(&mut out).unwrap();
        }
        assert_eq!(out, [1, 2]);
        engine.join().unwrap();
    });
}

#[test]
fn draining_without_a_wake_neither_blocks_nor_loses_an_event() {
    loom::model(|| {
        let outbox = Arc::new(Outbox::<u32>::new().unwrap());
        let engine = Arc::clone(&outbox);
        let engine = thread::spawn(move || {
            engine.publish(&mut vec![1]).unwrap();
            engine.publish(&mut vec![2]).unwrap();
        });
        let mut out = Vec::new();
        outbox.drain(&mut out).unwrap();
        while out.len() < 2 {
            outbox.wait_until_readable();
            outbox.drain(&mut out).unwrap();
        }
        engine.join().unwrap();
    });
}
