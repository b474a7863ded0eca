//! Capacities, lifetimes, eviction, promotion by hand, memory pressure.

use crate::support::*;
use engram_memory::*;

fn in_tier(tier: Tier, content: &str, importance: f64) -> NewMemory {
    NewMemory { tier: Some(tier), importance: Some(importance), ..memory(content) }
}

#[test]
fn a_full_tier_gives_up_its_lowest() {
    let mut space = Space::new();
    for n in 0..10 {
        let importance = if n == 4 { 0.1 } else { 0.5 };
        store(&mut space, T0 + n, in_tier(Tier::Working, &format!("m{n}"), importance));
    }
    // Importance first.
    let stored = space.store(T0 + 20, in_tier(Tier::Working, "new", 0.0)).unwrap();
    assert_eq!(removed(&stored.effects, Removal::Evicted), [MemoryId { ms: T0 + 4, seq: 0 }]);
    apply(&mut space, &stored.effects);
    assert!(space.get(T0 + 20, stored.id).is_some(), "a store never evicts what it stores");
    // Then recency: the store above is important least of all, and gone next.
    let next = space.store(T0 + 21, in_tier(Tier::Working, "next", 0.5)).unwrap();
    assert_eq!(removed(&next.effects, Removal::Evicted), [stored.id]);
    apply(&mut space, &next.effects);
    // Use saves: of equally important ones the oldest goes, unless it was used.
    let (m0, m1) = (MemoryId { ms: T0, seq: 0 }, MemoryId { ms: T0 + 1, seq: 0 });
    space.touch(m0, T0 + 22);
    let next = space.store(T0 + 23, in_tier(Tier::Working, "more", 0.5)).unwrap();
    assert_eq!(removed(&next.effects, Removal::Evicted), [m1]);
    assert_eq!(space.stats(T0).counters.evictions, 2);
}

#[test]
fn recency_outweighs_importance_in_time() {
    let mut space = Space::new();
    let effects = space.set(T0, "semantic.capacity", "2").unwrap();
    apply(&mut space, &effects);
    let old = store(&mut space, T0, in_tier(Tier::Semantic, "old", 0.8));
    // One half-life (30 days without a lifetime) later 0.8 is worth 0.4.
    let new = store(&mut space, T0 + 15 * DAY, in_tier(Tier::Semantic, "new", 0.5));
    let third = in_tier(Tier::Semantic, "third", 1.0);
    assert_eq!(removed(&space.store(T0 + 16 * DAY, third.clone()).unwrap().effects, Removal::Evicted), [new]);
    space.touch(new, T0 + 31 * DAY);
    assert_eq!(removed(&space.store(T0 + 31 * DAY, third).unwrap().effects, Removal::Evicted), [old]);
}

#[test]
fn fifo() {
    let mut space = Space::new();
    for (name, value) in [("eviction", "fifo"), ("working.capacity", "3")] {
        let effects = space.set(T0, name, value).unwrap();
        apply(&mut space, &effects);
    }
    let ids: Vec<MemoryId> = (0..3)
        .map(|n| store(&mut space, T0 + n, in_tier(Tier::Working, &format!("m{n}"), 1.0 - n as f64 / 10.0)))
        .collect();
    space.touch(ids[0], T0 + 50);
    let stored = space.store(T0 + 60, in_tier(Tier::Working, "new", 0.0)).unwrap();
    assert_eq!(removed(&stored.effects, Removal::Evicted), [ids[0]]);
    // Back to value: the index follows the setting.
    let effects = space.set(T0, "eviction", "value").unwrap();
    apply(&mut space, &effects);
    space.check_invariants();
    let stored = space.store(T0 + 60, in_tier(Tier::Working, "new", 0.0)).unwrap();
    assert_eq!(removed(&stored.effects, Removal::Evicted), [ids[2]]);
}

#[test]
fn pins_stay() {
    let mut space = Space::new();
    for n in 0..10 {
        let pinned = n != 7;
        store(&mut space, T0 + n, NewMemory { pinned, ..in_tier(Tier::Working, &format!("m{n}"), 1.0) });
    }
    let stored = space.store(T0 + 20, NewMemory { pinned: true, ..in_tier(Tier::Working, "new", 0.0) }).unwrap();
    assert_eq!(removed(&stored.effects, Removal::Evicted), [MemoryId { ms: T0 + 7, seq: 0 }]);
    apply(&mut space, &stored.effects);
    let error = refused(&space, T0 + 21, in_tier(Tier::Working, "more", 1.0));
    assert!(error.message().contains("tier working is full"), "{error}");
    let other = store(&mut space, T0 + 21, in_tier(Tier::ShortTerm, "more", 1.0));
    assert!(space.promote(T0 + 21, other, Tier::Working).unwrap_err().message().contains("is full"));
    assert!(space.set(T0, "working.capacity", "9").unwrap_err().message().contains("10 pinned"));
    // Another tier's pins do not matter, and expiry takes pins too.
    assert_eq!(count(&space, T0 + 2 * HOUR, Tier::Working), 0);
    assert!(space.store(T0 + 2 * HOUR, in_tier(Tier::Working, "more", 1.0)).is_ok());
}

#[test]
fn lifetimes() {
    let mut space = Space::new();
    let working = store(&mut space, T0, in_tier(Tier::Working, "w", 0.5));
    let own = store(&mut space, T0, NewMemory { ttl: Ttl::Seconds(10), ..in_tier(Tier::Semantic, "own", 0.5) });
    let kept = store(&mut space, T0, NewMemory { ttl: Ttl::Persist, ..in_tier(Tier::Working, "kept", 0.5) });
    let good = store(&mut space, T0, in_tier(Tier::Semantic, "s", 0.5));
    assert_eq!(space.next_expiry(), Some(T0 + 10_000));
    assert!(space.get(T0 + 9999, own).is_some() && space.get(T0 + 10_000, own).is_none());
    // Expired: not returned, not counted, not held against a capacity, though still there.
    let late = T0 + HOUR;
    assert_eq!((space.len(), space.count(late, None), count(&space, late, Tier::Working)), (4, 2, 1));
    assert_eq!(space.count(late, Some(&Filter::parse(".tier == 'semantic'").unwrap())), 1);
    let all = Selection::Filter(Filter::parse("true").unwrap());
    assert_eq!(space.forget(late, &all), [kept, good]);
    assert!(
        space.update(late, working, Update::default()).is_err() && space.promote(late, own, Tier::Working).is_err()
    );
    for n in 0..9 {
        let stored = space.store(late, in_tier(Tier::Working, &format!("n{n}"), 0.5)).unwrap();
        assert!(removed(&stored.effects, Removal::Evicted).is_empty());
        apply(&mut space, &stored.effects);
    }
    // The stores took the expired ones with them.
    assert_eq!((space.len(), space.stats(late).counters.expirations), (11, 2));
    let effects = space.expire_due(late + HOUR, 4);
    assert_eq!(removed(&effects, Removal::Expired).len(), 4);
    apply(&mut space, &effects);
    let effects = space.expire_due(late + HOUR, 100);
    apply(&mut space, &effects);
    assert_eq!((space.len(), space.next_expiry()), (2, None));
    space.check_invariants();
}

#[test]
fn promotion_by_hand() {
    let mut space = Space::new();
    let id = store(&mut space, T0, with_vector("a", &[1.0, 0.0]));
    for tier in [Tier::Semantic, Tier::Working, Tier::Episodic, Tier::LongTerm, Tier::ShortTerm] {
        let effects = space.promote(T0 + 5, id, tier).unwrap();
        assert_eq!(effects.len(), 1);
        apply(&mut space, &effects);
        assert_eq!((get(&space, T0, id).tier, get(&space, T0, id).entered), (tier, T0 + 5));
    }
    assert_eq!(get(&space, T0, id).expires, Some(T0 + 5 + DAY), "the new tier's lifetime counts from entering it");
    assert_eq!(get(&space, T0, id).created, T0);
    assert!(space.promote(T0, id, Tier::ShortTerm).unwrap().is_empty());
    assert_eq!(space.stats(T0).counters.promotions, 5);
    assert_eq!(contents(&recall(&space, T0, &[1.0, 0.0], 1)), ["a"]);
    assert!(
        space.promote(T0, MemoryId { ms: 3, seq: 3 }, Tier::Working).unwrap_err().message().contains("no such memory")
    );
    // Into a full tier: the lowest there gives way, never the one that enters.
    for n in 0..10 {
        store(&mut space, T0 + 10 + n, in_tier(Tier::Working, &format!("w{n}"), 0.9));
    }
    let effects = space.promote(T0 + 30, id, Tier::Working).unwrap();
    assert_eq!(removed(&effects, Removal::Evicted), [MemoryId { ms: T0 + 10, seq: 0 }]);
}

#[test]
fn pressure() {
    let mut space = Space::new();
    let mut ids = Vec::new();
    for (n, tier) in Tier::ALL.into_iter().enumerate() {
        for i in 0..4 {
            let new = NewMemory {
                pinned: i == 3,
                ..in_tier(tier, &format!("{tier} {i} {}", "x".repeat(1000)), 0.9 - i as f64 / 10.0)
            };
            ids.push(store(&mut space, T0 + (n * 10 + i) as u64, new));
        }
    }
    let one = removed(&space.shrink(T0, 1), Removal::Evicted);
    assert_eq!(one, [ids[2]], "working first, the lowest first, no pin");
    assert!(space.shrink(T0, 0).is_empty());
    let all = removed(&space.shrink(T0, usize::MAX), Removal::Evicted);
    let expected: Vec<MemoryId> = (0..4).flat_map(|tier| [2, 1, 0].map(|i| ids[tier * 4 + i])).collect();
    assert_eq!(all, expected, "never semantic");
    let before = space.live_bytes();
    let effects = space.shrink(T0, 4000);
    apply(&mut space, &effects);
    assert!(before - space.live_bytes() >= 4000 && before - space.live_bytes() < 6000);
    space.check_invariants();
}

#[test]
fn max_memory() {
    let mut space = Space::new();
    let effects = space.set(T0, "max-memory", "20kb").unwrap();
    apply(&mut space, &effects);
    let text = |n: u64| format!("{n} {}", "x".repeat(1000));
    for n in 0..60 {
        store(&mut space, T0 + n, in_tier(Tier::ShortTerm, &text(n), 0.5));
        assert!(space.live_bytes() <= 20 * 1024);
    }
    assert!(space.len() > 8 && space.stats(T0).counters.evictions > 30);
    for n in 60..100 {
        let new = in_tier(Tier::Semantic, &text(n), 0.5);
        match space.store(T0 + n, new) {
            Ok(stored) => apply(&mut space, &stored.effects),
            Err(error) => {
                assert_eq!(error.code(), "OOM");
                assert!(error.message().contains("max-memory of 20480 bytes"), "{error}");
                assert_eq!(
                    count(&space, T0 + n, Tier::ShortTerm),
                    0,
                    "semantic is refused only when nothing else can go"
                );
                return;
            }
        }
    }
    panic!("the space grew beyond its max-memory");
}

/// What a full tier gives up counts once, and the rest of the room is found elsewhere.
#[test]
fn a_full_tier_and_max_memory_together() {
    let mut space = Space::new();
    let effects = space.set(T0, "working.capacity", "3").unwrap();
    apply(&mut space, &effects);
    for n in 0..3 {
        store(&mut space, T0 + n, in_tier(Tier::Working, &format!("{n} {}", "x".repeat(1000)), 0.5));
    }
    let max = space.live_bytes();
    let effects = space.set(T0, "max-memory", &max.to_string()).unwrap();
    apply(&mut space, &effects);
    let new = in_tier(Tier::Working, &"y".repeat(max / 2), 0.5);
    let stored = space.store(T0 + 9, new).unwrap();
    let mut gone = removed(&stored.effects, Removal::Evicted);
    apply(&mut space, &stored.effects);
    assert!(space.live_bytes() <= max && space.get(T0 + 9, stored.id).is_some());
    assert_eq!(gone.len(), 3);
    gone.dedup();
    assert_eq!(gone.len(), 3, "each once");
}
