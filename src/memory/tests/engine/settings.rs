//! Settings and presets as the space carries them out.

use crate::support::*;
use engram_memory::*;

fn set(space: &mut Space, name: &str, value: &str) {
    let effects = space.set(T0, name, value).unwrap();
    apply(space, &effects);
}

#[test]
fn list_and_change() {
    let mut space = Space::new();
    assert_eq!(space.settings("*").len(), SETTINGS.len());
    let working =
        [("working.capacity", "10".into()), ("working.ttl", "3600".into()), ("working.half-life", "0".into())];
    assert_eq!(space.settings("working.*"), working);
    assert!(space.settings("nothing*").is_empty());
    set(&mut space, "WORKING.TTL", "30m");
    assert_eq!(space.settings("working.ttl"), [("working.ttl", "1800".into())]);
    assert!(space.set(T0, "working.ttl", "30m").unwrap().is_empty(), "as before: no effect");
    let before = digest(&space);
    assert!(space.set(T0, "working.ttl", "soon").is_err() && space.set(T0, "nothing", "1").is_err());
    assert_eq!(digest(&space), before);
    assert!(digest(&load(&state(&space, 1000))) == before);
}

#[test]
fn a_lower_capacity_evicts() {
    let mut space = Space::new();
    for n in 0..100 {
        store(&mut space, T0 + n, NewMemory { importance: Some(n as f64 / 100.0), ..memory(&format!("m{n}")) });
    }
    let effects = space.set(T0 + 100, "short_term.capacity", "30").unwrap();
    // Much of it at once, and the rest with the next store or by and by.
    assert_eq!(removed(&effects, Removal::Evicted).len(), 64);
    apply(&mut space, &effects);
    assert!(space.len() == 36 && space.wants_trimming(T0 + 100));
    let mut stored = space.copy();
    store(&mut stored, T0 + 100, NewMemory { importance: Some(1.0), ..memory("another") });
    assert!(stored.len() == 30 && !stored.wants_trimming(T0 + 100));
    for left in [32, 30, 30] {
        let effects = space.trim(T0 + 100, 4);
        apply(&mut space, &effects);
        assert_eq!(space.len(), left);
    }
    assert!(!space.wants_trimming(T0 + 100));
    assert!(space.get(T0 + 100, MemoryId { ms: T0 + 99, seq: 0 }).is_some());
    set(&mut space, "short_term.capacity", "0");
    for n in 0..300 {
        store(&mut space, T0 + 200, memory(&format!("n{n}")));
    }
    assert_eq!(space.len(), 330);
    space.check_invariants();
}

/// Far over a capacity a store evicts more than it must, but not all; the least worth keeping goes, whoever takes it.
#[test]
fn far_over_a_capacity() {
    let mut space = Space::new();
    set(&mut space, "short_term.capacity", "0");
    for n in 0..1000u64 {
        let new =
            NewMemory { importance: Some((n * 7 % 1000) as f64 / 1000.0), pinned: n < 5, ..memory(&format!("m{n}")) };
        store(&mut space, T0 + n, new);
    }
    let now = T0 + 1000;
    assert!(space.set(now, "short_term.capacity", "4").unwrap_err().message().contains("5 pinned"));
    set(&mut space, "short_term.capacity", "100");
    let mut steps = 0;
    while space.wants_trimming(now) {
        let before = space.len();
        if steps % 2 == 0 {
            store(&mut space, now, NewMemory { importance: Some(1.0), ..memory(&format!("new {steps}")) });
        } else {
            let effects = space.trim(now, 50);
            apply(&mut space, &effects);
        }
        assert!(space.len() < before && space.len() + 65 > before);
        space.check_invariants();
        steps += 1;
    }
    assert_eq!(space.len(), 100);
    let all = space.forget(now, &Selection::Filter(Filter::parse("not .pinned").unwrap()));
    assert!(all.iter().all(|id| get(&space, now, *id).importance > 0.9));
    // Pinned since: nothing can be done about them.
    for id in &all {
        let effects = space.update(now, *id, Update { pinned: Some(true), ..Update::default() }).unwrap();
        apply(&mut space, &effects);
    }
    apply(&mut space, &[Effect::Set { name: "short_term.capacity".into(), value: "50".into() }]);
    assert!(space.trim(now, 10).is_empty() && !space.wants_trimming(now));
}

#[test]
fn presets() {
    let mut space = Space::new();
    let effects = space.preset(T0, "chatbot").unwrap();
    apply(&mut space, &effects);
    assert_eq!(space.config().tier(Tier::ShortTerm), TierSettings { capacity: 200, ttl: 12 * 3600, half_life: 0 });
    for n in 0..150 {
        store(&mut space, T0 + n, memory(&format!("m{n}")));
    }
    let effects = space.preset(T0 + 200, "default").unwrap();
    assert_eq!(removed(&effects, Removal::Evicted).len(), 50);
    apply(&mut space, &effects);
    assert_eq!((space.len(), space.config()), (100, Space::new().config()));
    assert!(space.preset(T0, "unheard").unwrap_err().message().contains("chatbot"));
}

#[test]
fn a_new_lifetime_counts_for_new_entries() {
    let mut space = Space::new();
    let old = store(&mut space, T0, memory("old"));
    set(&mut space, "short_term.ttl", "60");
    let new = store(&mut space, T0, memory("new"));
    assert_eq!((get(&space, T0, old).expires, get(&space, T0, new).expires), (Some(T0 + DAY), Some(T0 + 60_000)));
    space.check_invariants();
}

/// What decides over the words of a space counts for those that stand, and back again gives the same.
#[test]
fn words_follow_their_settings() {
    let mut space = Space::new();
    for n in 0..50 {
        let speaker = (n % 2 == 0).then(|| "Caroline".to_owned());
        store(
            &mut space,
            T0 + n,
            NewMemory { speaker, tier: Some(Tier::LongTerm), ..memory(&format!("walking home {n}")) },
        );
    }
    let found = |space: &Space, text: &str| {
        let recall = Recall { text: Some(text.into()), k: 100, ..Recall::default() };
        space.snapshot().recall(T0 + 99, &recall).unwrap().hits.len()
    };
    let before = (space.live_bytes(), found(&space, "walk"), found(&space, "Caroline"));
    assert_eq!((before.1, before.2), (50, 25));
    for (name, value, walk, caroline) in [
        ("language", "none", 0, 25),
        ("template", "plain", 0, 0),
        ("lexical", "off", 0, 0),
        ("lexical", "on", 0, 0),
        ("template", "spoken", 0, 25),
        ("language", "english", 50, 25),
    ] {
        let effects = space.set(T0 + 99, name, value).unwrap();
        apply(&mut space, &effects);
        space.check_invariants();
        assert_eq!((found(&space, "walk"), found(&space, "Caroline")), (walk, caroline), "{name} {value}");
    }
    assert_eq!((space.live_bytes(), found(&space, "walk"), found(&space, "Caroline")), before);
}

/// In a space of more than a few memories the words are indexed anew in steps, and recall goes by the old ones until the last.
#[test]
fn words_are_indexed_anew_in_steps() {
    const LAST: u64 = T0 + 100_000;
    let mut space = Space::new();
    let content = |n: u64| format!("walking home {n}, {}", "past the lanes of the old town ".repeat(n as usize % 5));
    let new = |n: u64| NewMemory {
        speaker: n.is_multiple_of(2).then(|| "Caroline".to_owned()),
        tier: Some(Tier::LongTerm),
        ..memory(&content(n))
    };
    let mut ids: Vec<MemoryId> = (0..3000).map(|n| store(&mut space, T0 + n, new(n))).collect();
    let found = |space: &Space, text: &str| -> Vec<(MemoryId, u64)> {
        let recall = Recall { text: Some(text.into()), k: 5000, ..Recall::default() };
        let hits = space.snapshot().recall(LAST, &recall).unwrap().hits;
        hits.iter().map(|hit| (hit.entry.id, hit.score.to_bits())).collect()
    };
    let set = |space: &mut Space, name: &str, value: &str| {
        let effects = space.set(LAST, name, value).unwrap();
        apply(space, &effects);
    };
    // There and back before it is done: nothing has changed.
    let before = (found(&space, "walk"), digest(&space), space.live_bytes());
    set(&mut space, "language", "none");
    assert!(space.is_reindexing() && space.reindex_step());
    assert_eq!(found(&space, "walk"), before.0);
    let frozen = space.snapshot();
    set(&mut space, "language", "english");
    assert!(!space.is_reindexing() && !space.reindex_step());
    assert_eq!((found(&space, "walk"), digest(&space), space.live_bytes()), before);

    // Another setting on the way begins anew; memories come, change and go meanwhile, in front of the cursor and behind it.
    set(&mut space, "language", "none");
    set(&mut space, "template", "plain");
    let mut steps = 0;
    while space.is_reindexing() {
        for at in [steps * 3, ids.len() / 2, ids.len() - 1] {
            let id = ids.swap_remove(at);
            let effects = match at % 2 {
                0 => space.forget_effects(&[id]),
                _ => {
                    ids.push(id);
                    let content = Some(format!("walking away {at}"));
                    space
                        .update(LAST, id, Update { content, vectors: Some(Vectors::None), ..Update::default() })
                        .unwrap()
                }
            };
            apply(&mut space, &effects);
            ids.push(store(
                &mut space,
                T0 + 3000 + (steps * 10 + at) as u64 % 7,
                new(5000 + (steps * 3000 + at) as u64),
            ));
        }
        space.compact_step(50);
        space.check_invariants();
        assert_eq!(found(&space, "walk").len(), space.len(), "by the old words in step {steps}");
        assert!(found(&space, "Caroline").len() > 1000);
        assert!(space.reindex_step());
        steps += 1;
    }
    assert!((5..100).contains(&steps), "{steps}");
    space.check_invariants();
    assert_eq!((found(&space, "walk").len(), found(&space, "Caroline").len()), (0, 0));
    assert_eq!(found(&space, "walking").len(), space.len());
    assert!(space.take_retired().is_some());
    // As if all of it had been indexed so from the beginning.
    let loaded = load(&state(&space, 10_000));
    assert_eq!((found(&loaded, "walking home"), digest(&loaded)), (found(&space, "walking home"), digest(&space)));
    assert_eq!(loaded.live_bytes(), space.live_bytes());
    drop(frozen);

    // Off at once, on again in steps, off in the middle of them.
    let bytes = space.live_bytes();
    set(&mut space, "lexical", "off");
    assert!(!space.is_reindexing() && space.live_bytes() < bytes);
    space.check_invariants();
    set(&mut space, "lexical", "on");
    assert!(space.is_reindexing() && found(&space, "walking").is_empty());
    space.check_invariants();
    set(&mut space, "lexical", "off");
    assert!(!space.is_reindexing());
    set(&mut space, "lexical", "on");
    while space.reindex_step() {}
    space.check_invariants();
    assert_eq!((found(&space, "walking").len(), space.live_bytes()), (space.len(), bytes));
}
