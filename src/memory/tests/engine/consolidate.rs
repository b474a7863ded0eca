//! Consolidation: plans, their steps, and what makes a step void.

use crate::support::*;
use engram_memory::*;
use std::collections::BTreeSet;

fn of(tier: Tier, kind: &str, importance: f64, content: &str) -> NewMemory {
    NewMemory {
        tier: Some(tier),
        kind: Some(kind.into()),
        importance: Some(importance),
        dedup: Dedup::Off,
        ..memory(content)
    }
}

fn plan(space: &Space, now: Millis, what: Consolidate) -> Plan {
    space.snapshot().plan_consolidation(now, &what, &Findings::default()).unwrap()
}

fn carry_out(space: &mut Space, now: Millis, plan: &Plan) -> usize {
    let mut done = 0;
    for step in &plan.steps {
        if let Some(effects) = space.decide_step(now, step, &mut BTreeSet::new()) {
            apply(space, &effects);
            done += 1;
        }
    }
    space.check_invariants();
    done
}

fn changes(plan: &Plan) -> Vec<Change> {
    plan.steps.iter().map(|step| step.change.clone()).collect()
}

#[test]
fn the_way_up() {
    let mut space = Space::new();
    let fact = store(&mut space, T0, of(Tier::Working, "fact", 0.7, "a fact"));
    let event = store(&mut space, T0, of(Tier::Working, "event", 0.9, "an event"));
    let chunk = store(&mut space, T0, of(Tier::Working, "chunk", 1.0, "a chunk"));
    let idle = store(&mut space, T0, of(Tier::Working, "fact", 0.69, "idle"));
    let tiers = |space: &Space| [fact, event, chunk, idle].map(|id| get(space, T0, id).tier);
    use Tier::*;
    for expected in [
        [ShortTerm, ShortTerm, ShortTerm, Working],
        [LongTerm, LongTerm, LongTerm, Working],
        [Semantic, Episodic, LongTerm, Working],
        [Semantic, Episodic, LongTerm, Working],
    ] {
        let plan = plan(&space, T0 + 1, Consolidate::default());
        carry_out(&mut space, T0 + 1, &plan);
        assert_eq!(tiers(&space), expected, "one step per memory and run");
    }
    assert_eq!(get(&space, T0, fact).expires, None);
    assert_eq!(get(&space, T0, event).expires, Some(T0 + 1 + 90 * DAY));
    assert_eq!(get(&space, T0, fact).created, T0);
}

#[test]
fn restricted() {
    let mut space = Space::new();
    let working = store(&mut space, T0, of(Tier::Working, "fact", 0.8, "w"));
    let short = store(&mut space, T0, of(Tier::ShortTerm, "fact", 0.8, "s"));
    let long = store(&mut space, T0, of(Tier::LongTerm, "fact", 0.5, "l"));
    let ids = |what: Consolidate| -> Vec<MemoryId> {
        let promoted = |change| match change {
            Change::Promote { id, .. } => id,
            other => panic!("{other:?}"),
        };
        changes(&plan(&space, T0, what)).into_iter().map(promoted).collect()
    };
    assert_eq!(ids(Consolidate::default()), [working, short]);
    assert_eq!(ids(Consolidate { from: Some(Tier::ShortTerm), ..Consolidate::default() }), [short]);
    assert_eq!(ids(Consolidate { to: Some(Tier::ShortTerm), ..Consolidate::default() }), [working]);
    assert_eq!(ids(Consolidate { threshold: Some(0.5), to: Some(Tier::Semantic), ..Consolidate::default() }), [long]);
    assert_eq!(ids(Consolidate { threshold: Some(0.9), ..Consolidate::default() }), []);
    assert_eq!(ids(Consolidate { limit: Some(1), ..Consolidate::default() }), [working]);
    assert!(plan(&space, T0, Consolidate { limit: Some(1), ..Consolidate::default() }).cut_short);
    assert!(!plan(&space, T0, Consolidate { limit: Some(2), ..Consolidate::default() }).cut_short);
    let snapshot = space.snapshot();
    for bad in [
        Consolidate { threshold: Some(1.5), ..Consolidate::default() },
        Consolidate { threshold: Some(f64::NAN), ..Consolidate::default() },
        Consolidate { dedup: Some(0.0), ..Consolidate::default() },
        Consolidate { dedup: Some(2.0), ..Consolidate::default() },
    ] {
        assert!(snapshot.plan_consolidation(T0, &bad, &Findings::default()).is_err());
    }
}

#[test]
fn what_would_expire_rises_first() {
    let mut space = Space::new();
    let calm = store(&mut space, T0 + HOUR / 2, of(Tier::Working, "fact", 1.0, "calm"));
    let soon = store(&mut space, T0, of(Tier::Working, "fact", 0.7, "soon"));
    let now = T0 + HOUR - 100_000;
    let plan = plan(&space, now, Consolidate { limit: Some(2), ..Consolidate::default() });
    assert_eq!(changes(&plan), [soon, calm].map(|id| Change::Promote { id, from: Tier::Working, to: Tier::ShortTerm }));
    assert!(plan.steps[0].reason.contains("before the next run"), "{}", plan.steps[0].reason);
    carry_out(&mut space, now, &plan);
    assert_eq!(get(&space, now, soon).expires, Some(now + DAY));
}

#[test]
fn equal_texts_merge() {
    let mut space = Space::new();
    let tagged =
        |tag: &str, new: NewMemory| NewMemory { tags: vec![tag.into()], from: vec![MemoryId { ms: 1, seq: 1 }], ..new };
    let a = store(&mut space, T0, tagged("a", of(Tier::Working, "fact", 0.3, "Tea is hot")));
    let b = store(&mut space, T0 + 1, tagged("b", of(Tier::ShortTerm, "fact", 0.6, "tea is  hot")));
    let c = store(
        &mut space,
        T0 + 2,
        NewMemory { pinned: true, ..tagged("a", of(Tier::Semantic, "fact", 0.6, "TEA is hot")) },
    );
    let other =
        store(&mut space, T0, NewMemory { session: Some("s".into()), ..of(Tier::Working, "fact", 0.3, "tea is hot") });
    let turn =
        store(&mut space, T0, NewMemory { role: Some("user".into()), ..of(Tier::Working, "fact", 0.3, "tea is hot") });
    for id in [a, b, b, c] {
        space.touch(id, T0 + 9);
    }
    let plan = plan(&space, T0 + 10, Consolidate::default());
    assert_eq!(
        changes(&plan),
        [Change::Merge { keep: b, drop: vec![c, a] }],
        "the more important, then the older stays"
    );
    carry_out(&mut space, T0 + 10, &plan);
    assert!(space.get(T0, a).is_none() && space.get(T0, c).is_none());
    assert!(space.get(T0, other).is_some() && space.get(T0, turn).is_some(), "other sessions and turns stay");
    let kept = get(&space, T0, b);
    assert_eq!((kept.importance, kept.uses, kept.accessed, kept.pinned), (0.6, 4, T0 + 9, true));
    assert_eq!(kept.tags.iter().map(|tag| &**tag).collect::<Vec<_>>(), ["b", "a"]);
    assert_eq!(kept.from, [MemoryId { ms: 1, seq: 1 }]);
    assert_eq!((kept.tier, kept.expires), (Tier::Semantic, None), "the longest life survives");
    assert_eq!(space.stats(T0).counters.merges, 2);
}

#[test]
fn a_merge_keeps_the_embedding() {
    let mut space = Space::new();
    let plain = store(&mut space, T0, of(Tier::LongTerm, "fact", 0.6, "tea"));
    store(
        &mut space,
        T0,
        NewMemory { vectors: Vectors::Given(vec![1.0, 0.0]), ..of(Tier::LongTerm, "fact", 0.5, "Tea") },
    );
    let plan = plan(&space, T0, Consolidate::default());
    carry_out(&mut space, T0, &plan);
    assert_eq!(recall(&space, T0, &[1.0, 0.0], 5).iter().map(|hit| hit.entry.id).collect::<Vec<_>>(), [plain]);
}

#[test]
fn similar_ones_merge() {
    let mut space = Space::new();
    let near = |content: &str, vector: [f32; 2], importance| NewMemory {
        vectors: Vectors::Given(vector.to_vec()),
        ..of(Tier::LongTerm, "chunk", importance, content)
    };
    let a = store(&mut space, T0, near("a", [1.0, 0.0], 0.2));
    let b = store(&mut space, T0, near("b", [1.0, 0.1], 0.5));
    let c = store(&mut space, T0, near("c", [0.0, 1.0], 0.5));
    assert!(plan(&space, T0, Consolidate::default()).steps.is_empty());
    let merge = plan(&space, T0, Consolidate { dedup: Some(0.99), ..Consolidate::default() });
    assert_eq!(changes(&merge), [Change::Merge { keep: b, drop: vec![a] }]);
    assert!(plan(&space, T0, Consolidate { dedup: Some(0.999), ..Consolidate::default() }).steps.is_empty());
    let effects = space.set(T0, "dedup", "0.9").unwrap();
    apply(&mut space, &effects);
    let by_setting = plan(&space, T0, Consolidate::default());
    assert_eq!(changes(&by_setting), changes(&merge));
    carry_out(&mut space, T0, &by_setting);
    assert!(space.get(T0, c).is_some() && space.get(T0, a).is_none());
}

#[test]
fn what_has_expired_goes() {
    let mut space = Space::new();
    let id = store(&mut space, T0, of(Tier::Working, "fact", 0.9, "late"));
    let plan = plan(&space, T0 + HOUR, Consolidate::default());
    assert_eq!(changes(&plan), [Change::Expire { id }]);
    carry_out(&mut space, T0 + HOUR, &plan);
    assert_eq!((space.len(), space.stats(T0).counters.expirations), (0, 1));
}

/// A tier can be over its capacity when it was filled under another one, as a file from elsewhere may have it.
#[test]
fn a_tier_over_its_capacity() {
    let mut space = Space::new();
    let ids: Vec<MemoryId> =
        (0..8).map(|n| store(&mut space, T0 + n, of(Tier::Working, "chunk", 0.5, &format!("m{n}")))).collect();
    space.apply(&Effect::Set { name: "working.capacity".into(), value: "6".into() }).unwrap();
    let plan = plan(&space, T0 + 9, Consolidate::default());
    assert_eq!(changes(&plan), [ids[0], ids[1]].map(|id| Change::Evict { id }));
    assert_eq!(carry_out(&mut space, T0 + 9, &plan), 2);
    assert_eq!((space.len(), space.stats(T0).counters.evictions), (6, 2));
}

#[test]
fn a_promotion_into_a_full_tier_evicts_there() {
    let mut space = Space::new();
    let effects = space.set(T0, "short_term.capacity", "2").unwrap();
    apply(&mut space, &effects);
    let weak = store(&mut space, T0, of(Tier::ShortTerm, "chunk", 0.1, "weak"));
    store(&mut space, T0, of(Tier::ShortTerm, "chunk", 0.6, "strong"));
    let rising = store(&mut space, T0, of(Tier::Working, "chunk", 0.9, "rising"));
    let plan = plan(&space, T0 + 1, Consolidate::default());
    carry_out(&mut space, T0 + 1, &plan);
    assert!(space.get(T0, weak).is_none());
    assert_eq!(get(&space, T0, rising).tier, Tier::ShortTerm);
}

#[test]
fn a_step_is_void_when_anything_changed() {
    let mut space = Space::new();
    let a = store(&mut space, T0, of(Tier::Working, "fact", 0.9, "a"));
    let b = store(&mut space, T0, of(Tier::LongTerm, "chunk", 0.2, "same"));
    let c = store(&mut space, T0, of(Tier::LongTerm, "chunk", 0.1, "same"));
    let plan = plan(&space, T0, Consolidate::default());
    let [merge, promote] = &plan.steps[..] else { panic!("{:?}", changes(&plan)) };
    assert!(
        space.decide_step(T0, merge, &mut BTreeSet::new()).is_some()
            && space.decide_step(T0, promote, &mut BTreeSet::new()).is_some()
    );
    // A use and a compaction change nothing that was read.
    space.touch(a, T0 + 1);
    space.compact_step(100);
    assert!(space.decide_step(T0, promote, &mut BTreeSet::new()).is_some());
    assert!(space.decide_step(T0 + 2 * HOUR, promote, &mut BTreeSet::new()).is_none(), "it has expired meanwhile");
    let effects = space.update(T0, a, Update { importance: Some(0.1), ..Update::default() }).unwrap();
    apply(&mut space, &effects);
    assert!(space.decide_step(T0, promote, &mut BTreeSet::new()).is_none());
    let effects = space.forget_effects(&[c]);
    apply(&mut space, &effects);
    assert!(space.decide_step(T0, merge, &mut BTreeSet::new()).is_none());
    assert!(space.get(T0, b).is_some());
    // An id that went and came back is another memory.
    let mut space = Space::new();
    let with_id =
        |content| NewMemory { id: Some(MemoryId { ms: 5, seq: 5 }), ..of(Tier::Working, "fact", 0.9, content) };
    let id = store(&mut space, T0, with_id("a"));
    let plan = self::plan(&space, T0, Consolidate::default());
    let effects = space.forget_effects(&[id]);
    apply(&mut space, &effects);
    store(&mut space, T0, with_id("b"));
    assert!(space.decide_step(T0, &plan.steps[0], &mut BTreeSet::new()).is_none());
}
