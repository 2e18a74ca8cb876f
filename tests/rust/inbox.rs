//! The inbox and the outbox with real threads; `loom.rs` has every interleaving of the small cases.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a test reports by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mlxspec_scheduler::inbox::{Inbox, Refused};
use mlxspec_scheduler::outbox::Outbox;

const ROUNDS: u64 = 20_000;

fn drain<T, C>(inbox: &Inbox<T, C>) -> (Vec<T>, Vec<C>) {
    let (mut submissions, mut controls) = (Vec::new(), Vec::new());
    inbox.drain(&mut submissions, &mut controls);
    (submissions, controls)
}

#[test]
fn smoke() {
    let inbox = Inbox::new(4);
    inbox.try_submit(1).unwrap();
    inbox.control('a');
    inbox.try_submit(2).unwrap();
    assert_eq!(inbox.len_submissions(), 2);
    assert_eq!(drain(&inbox), (vec![1, 2], vec!['a']));
    assert_eq!(drain(&inbox), (vec![], vec![]));
}

#[test]
fn drain_appends() {
    let inbox = Inbox::new(4);
    let (mut submissions, mut controls) = (vec![0], vec!['z']);
    inbox.try_submit(1).unwrap();
    inbox.control('a');
    inbox.drain(&mut submissions, &mut controls);
    assert_eq!((submissions, controls), (vec![0, 1], vec!['z', 'a']));
}

#[test]
fn a_full_inbox_gives_the_submission_back_and_takes_controls() {
    let inbox = Inbox::new(2);
    inbox.try_submit("a").unwrap();
    inbox.try_submit("b").unwrap();
    assert_eq!(inbox.try_submit("c"), Err(Refused::Full("c")));
    (0..1_000).for_each(|i| inbox.control(i));
    let (submissions, controls) = drain(&inbox);
    assert_eq!((submissions, controls.len()), (vec!["a", "b"], 1_000));
    inbox.try_submit("c").unwrap();
}

#[test]
fn no_capacity_is_room_for_one() {
    let inbox = Inbox::<_, ()>::new(0);
    inbox.try_submit(1).unwrap();
    assert_eq!(inbox.try_submit(2), Err(Refused::Full(2)));
}

#[test]
fn a_closed_inbox_refuses_submissions_and_hands_out_what_it_holds() {
    let inbox = Inbox::new(4);
    inbox.try_submit(1).unwrap();
    assert!(!inbox.is_closed());
    inbox.close();
    inbox.close();
    assert!(inbox.is_closed());
    assert_eq!(inbox.try_submit(2), Err(Refused::Closed(2)));
    inbox.control('a');
    assert_eq!(drain(&inbox), (vec![1], vec!['a']));
}

#[test]
fn waiting_returns_at_once_when_there_is_news() {
    let begin = Instant::now();
    let inbox = Inbox::<_, ()>::new(4);
    inbox.try_submit(1).unwrap();
    inbox.wait(None);
    drain(&inbox);
    inbox.control(());
    inbox.wait(None);
    drain(&inbox);
    inbox.close();
    inbox.wait(None);
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn waiting_ends_with_the_time() {
    let inbox = Inbox::<(), ()>::new(4);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(20) {
        inbox.wait(Some(Duration::from_millis(20)));
    }
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_sleeping_consumer_is_woken_by_every_kind_of_push() {
    for push in [
        (|inbox| assert!(inbox.try_submit(1).is_ok())) as fn(&Inbox<i32, i32>),
        |inbox| inbox.control(1),
        Inbox::close,
    ] {
        let inbox = Inbox::new(4);
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(10));
                push(&inbox);
            });
            let news = || inbox.is_closed() || drain(&inbox) != (vec![], vec![]);
            while !news() {
                inbox.wait(None);
            }
        });
    }
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn drops() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let counted = || Counted(Arc::clone(&dropped));
    let inbox = Inbox::new(2);
    assert!(inbox.try_submit(counted()).is_ok());
    assert!(inbox.try_submit(counted()).is_ok());
    inbox.control(counted());
    assert_eq!(dropped.load(Ordering::Relaxed), 0);
    drop(inbox.try_submit(counted()));
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
    drop(inbox);
    assert_eq!(dropped.load(Ordering::Relaxed), 4);
}

#[test]
fn mpsc_every_accepted_submission_arrives_once_and_in_its_senders_order() {
    let inbox = Inbox::<(u64, u64), ()>::new(64);
    let mut seen = [0; 3];
    thread::scope(|scope| {
        for sender in 0..3 {
            let inbox = &inbox;
            scope.spawn(move || {
                for i in 0..ROUNDS {
                    while inbox.try_submit((sender, i)).is_err() {
                        thread::yield_now();
                    }
                }
            });
        }
        while seen.iter().sum::<u64>() < 3 * ROUNDS {
            inbox.wait(None);
            for (sender, i) in drain(&inbox).0 {
                assert_eq!(i, seen[sender as usize]);
                seen[sender as usize] += 1;
            }
        }
    });
}

#[test]
fn abort_is_never_seen_without_its_submit() {
    let inbox = Inbox::<u64, u64>::new(8);
    thread::scope(|scope| {
        for sender in 0..2 {
            let inbox = &inbox;
            scope.spawn(move || {
                for id in (sender..2 * ROUNDS).step_by(2) {
                    while inbox.try_submit(id).is_err() {
                        thread::yield_now();
                    }
                    inbox.control(id);
                }
            });
        }
        let (mut live, mut num_aborted) = (std::collections::HashSet::new(), 0);
        while num_aborted < 2 * ROUNDS {
            inbox.wait(None);
            let (submissions, controls) = drain(&inbox);
            live.extend(submissions);
            for id in controls {
                assert!(live.remove(&id), "abort of {id} came before its submit");
                num_aborted += 1;
            }
        }
    });
}

#[test]
fn what_is_accepted_while_closing_is_drained() {
    for _ in 0..200 {
        let inbox = Inbox::<u64, ()>::new(1 << 16);
        thread::scope(|scope| {
            let sender =
                scope.spawn(|| (0..u64::MAX).take_while(|&i| inbox.try_submit(i).is_ok()).count());
            scope.spawn(|| inbox.close());
            let mut num_drained = 0;
            loop {
                let last = inbox.is_closed();
                num_drained += drain(&inbox).0.len();
                if last {
                    break;
                }
                inbox.wait(None);
            }
            assert_eq!(num_drained, sender.join().unwrap());
        });
    }
}

#[test]
fn outbox_smoke() {
    let outbox = Outbox::new().unwrap();
    let mut events = vec![1, 2];
    outbox.publish(&mut events).unwrap();
    assert!(events.is_empty());
    outbox.publish(&mut vec![3]).unwrap();
    let mut out = vec![0];
    outbox.drain(&mut out).unwrap();
    assert_eq!(out, [0, 1, 2, 3]);
}

#[test]
fn draining_an_outbox_without_a_wake_does_not_block() {
    let outbox = Outbox::new().unwrap();
    let mut out = Vec::new();
    outbox.drain(&mut out).unwrap();
    outbox.publish(&mut Vec::new()).unwrap();
    outbox.drain(&mut out).unwrap();
    outbox.publish(&mut vec![1]).unwrap();
    outbox.drain(&mut out).unwrap();
    outbox.drain(&mut out).unwrap();
    assert_eq!(out, [1]);
}

#[test]
fn publishing_without_a_reader_never_fills_the_pipe() {
    let outbox = Outbox::new().unwrap();
    // A pipe holds some hundred KiB at most: one byte per publish would block here.
    (0..1_000_000).for_each(|i| outbox.publish(&mut vec![i]).unwrap());
    let mut out = Vec::new();
    outbox.drain(&mut out).unwrap();
    assert_eq!(out.len(), 1_000_000);
}

#[test]
fn outbox_spsc_no_event_is_lost_or_out_of_order() {
    let outbox = Outbox::new().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..ROUNDS {
                outbox.publish(&mut vec![2 * i, 2 * i + 1]).unwrap();
            }
        });
        let mut out = Vec::new();
        while out.len() < 2 * ROUNDS as usize {
            outbox.drain(&mut out).unwrap();
        }
        assert!(out.iter().copied().eq(0..2 * ROUNDS));
    });
}
