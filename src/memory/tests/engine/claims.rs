//! Facts brought into order: many of one sort, what is said again after it was forgotten, and what others have to do with them.

use crate::support::*;
use engram_memory::*;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;

/// One lives in one place and likes many things.
fn rules() -> FactRules {
    FactRules {
        is_single: |attribute| !matches!(attribute, "likes" | "dislikes"),
        opposite: |attribute| match attribute {
            "likes" => Some("dislikes"),
            "dislikes" => Some("likes"),
            _ => None,
        },
    }
}

fn claim(text: &str) -> Claim {
    let [subject, attribute, value] = text.split(' ').collect::<Vec<_>>()[..] else { panic!("{text}") };
    Claim { subject: subject.into(), attribute: attribute.into(), value: value.into(), ended: false }
}

fn meta(text: &str) -> Option<Meta> {
    Some(claim(text).meta())
}

/// Reads what nobody has read, as an extractor would for which "@ann likes tea" states a fact and "ann likes tea" is one, and takes it in. Gives the plan.
fn learn(space: &mut Space, now: Millis, what: &Consolidate) -> Plan {
    let mut findings = Findings::default();
    for Unread { entry, .. } in space.snapshot().unread(now, 1_000) {
        findings.read.push(entry.clone());
        match entry.content.strip_prefix('@') {
            Some(said) => findings.facts.push(Finding {
                claim: claim(said),
                content: said.into(),
                kind: "fact",
                tier: Tier::Semantic,
                importance: 0.5,
                confidence: 0.9,
                source: entry.clone(),
            }),
            None if entry.content.split(' ').count() == 3 => {
                findings.described.push((entry.clone(), claim(&entry.content)))
            }
            None => {}
        }
    }
    let what = Consolidate { rules: rules(), ..what.clone() };
    let plan = space.snapshot().plan_consolidation(now, &what, &findings).unwrap();
    let mut passed_over = BTreeSet::new();
    for step in &plan.steps {
        if let Some(effects) = space.decide_step(now, step, &mut passed_over) {
            apply(space, &effects);
        }
    }
    space.check_invariants();
    plan
}

fn say(space: &mut Space, at: Millis, text: &str) -> MemoryId {
    let (session, kind) = (Some(format!("s{at}")), Some("message".into()));
    store(space, at, NewMemory { tier: Some(Tier::LongTerm), session, kind, ..memory(text) })
}

/// The facts that stand, without what was said.
fn standing(space: &Space, now: Millis) -> Vec<String> {
    let facts = space.scan(now, MemoryId::ZERO, 10_000, None).1.into_iter();
    let facts = facts.filter(|entry| entry.superseded.is_none() && Claim::of(entry).is_some());
    facts.map(|entry| entry.content.to_string()).collect()
}

#[test]
fn however_many_things_are_liked_each_is_learned_once() {
    let mut space = Space::new();
    for n in 0..100 {
        say(&mut space, T0 + n, &format!("@ann likes v{n}"));
    }
    learn(&mut space, T0 + 100, &Consolidate::default());
    assert_eq!(standing(&space, T0 + 100).len(), 100);
    assert!(space.snapshot().unread(T0 + 100, 10).is_empty(), "what was learned is not read again");
    // One more, one again, and one that turns.
    for text in ["@ann likes new", "@ann likes v7", "@ann dislikes v8"] {
        say(&mut space, T0 + 200, text);
    }
    learn(&mut space, T0 + 300, &Consolidate::default());
    let known = standing(&space, T0 + 300);
    assert_eq!(known.len(), 101, "{known:?}");
    assert!(known.contains(&"ann likes new".into()) && !known.contains(&"ann likes v8".into()), "{known:?}");
    assert!(space.snapshot().unread(T0 + 300, 10).is_empty());
}

#[test]
fn of_many_places_the_last_one_counts_and_all_are_known() {
    let mut space = Space::new();
    for n in 0..150 {
        say(&mut space, T0 + n, &format!("@ann lives_in c{n}"));
    }
    let mut runs = 0;
    while !space.snapshot().unread(T0 + 200, 1).is_empty() {
        learn(&mut space, T0 + 200, &Consolidate::default());
        runs += 1;
        assert!(runs <= 10, "a step takes so many; the next run goes on, and all come to an end");
    }
    assert_eq!(standing(&space, T0 + 200), ["ann lives_in c149"]);
    assert_eq!(space.len(), 300, "what was said, and each place once");
}

#[test]
fn what_is_said_again_after_it_was_forgotten_is_learned_again() {
    let mut space = Space::new();
    say(&mut space, T0, "@ann lives_in rome");
    say(&mut space, T0 + 1, "@ann lives_in paris");
    learn(&mut space, T0 + 2, &Consolidate::default());
    assert_eq!(standing(&space, T0 + 2), ["ann lives_in paris"]);
    let facts = space.scan(T0 + 2, MemoryId::ZERO, 10, None).1;
    let paris = facts.iter().find(|entry| &*entry.content == "ann lives_in paris").unwrap().id;
    let effects = space.forget_effects(&[paris]);
    apply(&mut space, &effects);
    assert!(standing(&space, T0 + 2).is_empty());
    say(&mut space, T0 + 3, "@ann lives_in rome");
    learn(&mut space, T0 + 4, &Consolidate::default());
    assert_eq!(standing(&space, T0 + 4), ["ann lives_in rome"]);
    // Nor does it matter out of which tier memories rise.
    say(&mut space, T0 + 5, "@ann lives_in oslo");
    learn(&mut space, T0 + 6, &Consolidate { from: Some(Tier::ShortTerm), ..Consolidate::default() });
    assert_eq!(standing(&space, T0 + 6), ["ann lives_in oslo"]);
}

#[test]
fn what_replaces_two_has_both_in_its_line() {
    let mut space = Space::new();
    let fact = |text: &str, confidence, at| NewMemory {
        meta: meta(text),
        confidence: Some(confidence),
        at: Some(at),
        ..memory(text)
    };
    let sure = store(&mut space, T0, fact("ann lives_in rome", 0.95, T0));
    let weak = store(&mut space, T0, fact("ann lives_in paris", 0.5, T0 + 1));
    learn(&mut space, T0 + 2, &Consolidate::default());
    assert_eq!(standing(&space, T0 + 2).len(), 2, "a weak one does not replace a sure one");
    say(&mut space, T0 + 3, "@ann lives_in oslo");
    learn(&mut space, T0 + 4, &Consolidate::default());
    let now = get(&space, T0 + 4, weak).superseded.unwrap().by;
    assert_eq!(get(&space, T0 + 4, sure).superseded.unwrap().by, now);
    assert_eq!((get(&space, T0 + 4, now).supersedes, get(&space, T0 + 4, weak).supersedes), (Some(weak), Some(sure)));
    // And where the weak one had one behind it already.
    let mut space = Space::new();
    let sure = store(&mut space, T0, fact("ann lives_in rome", 0.95, T0));
    let weak = store(&mut space, T0, fact("ann lives_in paris", 0.5, T0 + 1));
    let weaker = NewMemory { supersedes: Some(weak), ..fact("ann lives_in graz", 0.5, T0 + 2) };
    let weaker = store(&mut space, T0, weaker);
    say(&mut space, T0 + 3, "@ann lives_in oslo");
    learn(&mut space, T0 + 4, &Consolidate::default());
    let now = get(&space, T0 + 4, weaker).superseded.unwrap().by;
    let line = [now, weaker, weak].map(|id| get(&space, T0 + 4, id).supersedes);
    assert_eq!(line, [Some(weaker), Some(weak), Some(sure)]);
}

#[test]
fn fields_of_a_caller_are_left_alone() {
    let mut space = Space::new();
    let own = json!({"value": 42}).as_object().cloned();
    let full: Option<Meta> = Some((0..limits::META_FIELDS).map(|n| (format!("f{n}"), json!(n))).collect());
    let other = json!({"colour": "red"}).as_object().cloned();
    let given = [("ann", own), ("bo", full), ("cy", other)];
    let ids = given
        .clone()
        .map(|(who, meta)| store(&mut space, T0, NewMemory { meta, ..memory(&format!("{who} likes tea")) }));
    learn(&mut space, T0 + 1, &Consolidate::default());
    let metas = ids.map(|id| get(&space, T0, id).meta);
    assert_eq!(metas[0], given[0].1, "its own 'value' is no fact's");
    assert_eq!(metas[1], given[1].1, "there is no room for three more");
    assert_eq!(
        metas[2].as_ref().map(|meta| (meta["colour"].clone(), meta["subject"].clone())),
        Some((json!("red"), json!("cy")))
    );
    assert!(space.snapshot().unread(T0 + 1, 10).is_empty());
}

#[test]
fn what_found_no_step_is_read_again() {
    let mut space = Space::new();
    for text in ["ann likes tea", "bo likes tea", "cy likes tea"] {
        store(&mut space, T0, memory(text));
    }
    for left in [2, 1, 0] {
        let plan = learn(&mut space, T0 + 1, &Consolidate { limit: Some(1), ..Consolidate::default() });
        assert_eq!(plan.cut_short, left > 0);
        assert_eq!(space.snapshot().unread(T0 + 1, 10).len(), left);
    }
    assert_eq!(standing(&space, T0 + 1).len(), 3);
}

#[test]
fn facts_that_differ_never_merge_however_alike() {
    let mut space = Space::new();
    let fact = |text: &str, importance, at| NewMemory {
        meta: meta(text),
        importance: Some(importance),
        at: Some(at),
        ..with_vector(text, &[1.0, 0.0])
    };
    let old = store(&mut space, T0, fact("ann birthday may-4", 0.9, T0));
    let new = store(&mut space, T0, fact("ann birthday may-5", 0.5, T0 + 1));
    let teas = ["ann likes tea", "ann likes  tea"].map(|text| {
        let fact = NewMemory { meta: meta("ann likes tea"), dedup: Dedup::Off, ..with_vector(text, &[1.0, 0.0]) };
        store(&mut space, T0, fact)
    });
    learn(&mut space, T0 + 2, &Consolidate { dedup: Some(0.9), ..Consolidate::default() });
    assert_eq!(get(&space, T0, old).superseded.map(|superseded| superseded.by), Some(new));
    assert_eq!(teas.iter().filter(|id| space.get(T0, **id).is_some()).count(), 1, "those that say the same do");
}

#[test]
fn what_merges_keeps_its_history() {
    let mut space = Space::new();
    let first = store(&mut space, T0, memory("tea"));
    let second = store(&mut space, T0 + 1, NewMemory { supersedes: Some(first), ..memory("coffee") });
    let again = NewMemory { dedup: Dedup::Off, importance: Some(0.9), ..memory("coffee") };
    let third = store(&mut space, T0 + 2, again);
    learn(&mut space, T0 + 3, &Consolidate::default());
    assert!(space.get(T0 + 3, second).is_none());
    assert_eq!(get(&space, T0 + 3, third).supersedes, Some(first));
    assert_eq!(get(&space, T0 + 3, first).superseded.map(|superseded| superseded.by), Some(third));
}

#[test]
fn what_was_made_of_one_that_merged_was_made_of_the_one_that_stays() {
    let mut space = Space::new();
    let said = say(&mut space, T0, "@ann likes tea");
    learn(&mut space, T0 + 1, &Consolidate::default());
    let session = get(&space, T0, said).session.map(String::from);
    let again = store(
        &mut space,
        T0 + 2,
        NewMemory {
            dedup: Dedup::Off,
            importance: Some(0.9),
            session,
            kind: Some("message".into()),
            marks: Marks { read: true, ..Marks::default() },
            ..memory("@ann likes tea")
        },
    );
    learn(&mut space, T0 + 3, &Consolidate::default());
    assert!(space.get(T0 + 3, said).is_none());
    let facts = space.scan(T0 + 3, MemoryId::ZERO, 10, None).1;
    let fact = facts.iter().find(|entry| Claim::of(entry).is_some()).unwrap();
    assert_eq!(fact.from, [again]);
    let effects = space.forget_effects(&[again]);
    apply(&mut space, &effects);
    assert!(space.is_empty(), "its last source was forgotten");
}

#[test]
fn links_are_made_as_far_as_there_is_room_in_all() {
    let mut space = Space::new();
    let ids: Vec<MemoryId> = (0..limits::LINKS as u64 + 4)
        .map(|n| store(&mut space, T0 + n, NewMemory { tier: Some(Tier::Semantic), ..memory(&format!("m{n}")) }))
        .collect();
    for other in &ids[1..limits::LINKS] {
        let effects = space.link(T0, ids[0], *other, "to", 1.0, None).unwrap();
        apply(&mut space, &effects);
    }
    let (now, entry) = (T0 + 1_000, Arc::new(get(&space, T0 + 1_000, ids[0])));
    let link = |to: &MemoryId| Link {
        from: ids[0],
        to: *to,
        rel: "similar".into(),
        weight: 0.9,
        at: now,
        reason: Some("so".into()),
    };
    let kin = vec![(entry, ids[limits::LINKS..].iter().map(link).collect())];
    let findings = Findings { kin, ..Findings::default() };
    let plan = space.snapshot().plan_consolidation(now, &Consolidate::default(), &findings).unwrap();
    for step in &plan.steps {
        // Each effect is applied, or this panics.
        let effects = space.decide_step(now, step, &mut BTreeSet::new()).unwrap();
        apply(&mut space, &effects);
    }
    space.check_invariants();
    let similar = space.snapshot_for(ids[0]).related(now, ids[0], Some("similar"), 1, 10).unwrap();
    assert_eq!(similar.len(), 1, "255 were there, and 256 is the most");
}

#[test]
fn what_is_superseded_makes_the_room_for_what_supersedes_it() {
    let mut space = Space::new();
    let effects = space.set(T0, "semantic.capacity", "1").unwrap();
    apply(&mut space, &effects);
    for (n, text) in ["@ann lives_in rome", "@ann lives_in oslo"].into_iter().enumerate() {
        say(&mut space, T0 + n as u64, text);
        learn(&mut space, T0 + 10 + n as u64, &Consolidate::default());
    }
    assert_eq!(standing(&space, T0 + 20), ["ann lives_in oslo"]);
    assert_eq!(space.len(), 4, "the older one is history");
    assert_eq!(space.stats(T0 + 20).counters.evictions, 0);
}

#[test]
fn what_was_said_earlier_and_is_read_later_finds_its_place() {
    let mut space = Space::new();
    let said = |space: &mut Space, at: Millis, text: &str| {
        let (session, kind) = (Some(format!("s{at}")), Some("message".into()));
        store(space, T0, NewMemory { tier: Some(Tier::LongTerm), at: Some(at), session, kind, ..memory(text) })
    };
    said(&mut space, T0 + 5_000, "@ann lives_in rome");
    learn(&mut space, T0 + 1, &Consolidate::default());
    said(&mut space, T0 + 2_000, "@ann lives_in rome");
    said(&mut space, T0 + 9_000, "@ann lives_in oslo");
    learn(&mut space, T0 + 2, &Consolidate::default());
    assert_eq!(standing(&space, T0 + 3), ["ann lives_in oslo"]);
    // With another place between the two it is a fact of its own, which is over.
    said(&mut space, T0 + 1_000, "@ann lives_in oslo");
    learn(&mut space, T0 + 4, &Consolidate::default());
    assert_eq!(standing(&space, T0 + 5), ["ann lives_in oslo"]);
    assert!(space.snapshot().unread(T0 + 5, 10).is_empty());
}

#[test]
fn a_correction_of_an_earlier_time_stands() {
    let mut space = Space::new();
    let fact = |text: &str, at, supersedes| NewMemory { meta: meta(text), at: Some(at), supersedes, ..memory(text) };
    let wrong = store(&mut space, T0, fact("ann lives_in rome", T0 + 9, None));
    store(&mut space, T0, fact("ann lives_in oslo", T0 + 5, Some(wrong)));
    learn(&mut space, T0 + 20, &Consolidate::default());
    assert_eq!(standing(&space, T0 + 20), ["ann lives_in oslo"]);
}
