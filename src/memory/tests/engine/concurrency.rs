//! Snapshots on other threads while the space goes on.

use crate::support::*;
use engram_memory::*;
use std::sync::mpsc;
use std::thread;

fn assert_sendable<T: Send + Sync>() {}

#[test]
fn what_may_cross_threads() {
    assert_sendable::<Snapshot>();
    assert_sendable::<Hit>();
    assert_sendable::<Plan>();
    assert_sendable::<Effect>();
    assert_sendable::<Space>();
}

/// Readers scan snapshots over and over while the space stores, forgets and compacts; each sees its snapshot unchanged.
#[test]
fn readers_see_what_stood() {
    let (send, receive) = mpsc::channel::<(Snapshot, Vec<(MemoryId, f64)>)>();
    let query = Recall { queries: vec![vec![1.0, 0.5, 0.25]], k: 50, ..Recall::default() };
    let show = |snapshot: &Snapshot, query: &Recall| -> Vec<(MemoryId, f64)> {
        snapshot.recall(T0, query).unwrap().hits.iter().map(|hit| (hit.entry.id, hit.score)).collect()
    };
    let asked = query.clone();
    let reader = thread::spawn(move || {
        let mut read = 0;
        for (snapshot, seen) in receive {
            for _ in 0..20 {
                assert_eq!(show(&snapshot, &asked), seen);
                read += 1;
            }
        }
        read
    });
    let mut random = Random(3);
    let mut space = Space::new();
    let mut ids = Vec::new();
    for n in 0..1500u64 {
        let new = NewMemory { tier: Some(Tier::LongTerm), ..with_vector(&format!("m{n}"), &random.vector(3)) };
        ids.push(store(&mut space, T0 + n, new));
        if n % 3 == 0 {
            let gone = *random.pick(&ids);
            let effects = space.forget_effects(&[gone]);
            apply(&mut space, &effects);
            space.compact_step(8);
        }
        if n % 25 == 0 {
            let snapshot = space.snapshot();
            let seen = show(&snapshot, &query);
            send.send((snapshot, seen)).unwrap();
        }
    }
    drop(send);
    assert_eq!(reader.join().unwrap(), 60 * 20);
    space.check_invariants();
}
