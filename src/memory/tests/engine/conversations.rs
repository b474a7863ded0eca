//! Sessions, documents and memories that wait for their vectors, against a naive model and by themselves.

use crate::support::*;
use engram_memory::*;
use std::collections::BTreeMap;

/// A session as a list.
#[derive(Debug, Default, Clone)]
struct Talk {
    turns: Vec<(MemoryId, String)>,
    covered: usize,
    fields: BTreeMap<String, String>,
    expires: Millis,
}

#[derive(Default)]
struct Model {
    talks: BTreeMap<String, Talk>,
    docs: BTreeMap<String, Vec<String>>,
    staged: BTreeMap<String, (Vec<String>, usize)>,
}

struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the simulation of conversations failed with seed {}", self.0);
        }
    }
}

const TTL: Millis = 24 * HOUR;

fn turn(role: &str, content: &str) -> NewTurn {
    NewTurn { role: role.into(), content: content.into(), ..NewTurn::default() }
}

fn document(name: &str, chunks: usize) -> Document {
    Document {
        name: name.into(),
        kind: None,
        source: Some("a shelf".into()),
        at: T0,
        created: T0,
        bytes: 100,
        tokens: 10,
        chunks: chunks as u32,
        meta: None,
    }
}

fn chunk(position: usize, content: &str, vector: &[f32]) -> NewChunk {
    NewChunk {
        content: content.into(),
        vectors: Vectors::Given(vector.to_vec()),
        position: position as u32,
        start: position as u64 * 10,
        end: position as u64 * 10 + 10,
        tokens: 3,
    }
}

fn ingest(space: &mut Space, now: Millis, name: &str, contents: &[&str]) {
    carry(space, |space| space.begin_document(document(name, contents.len()), Tier::LongTerm).unwrap());
    for (n, content) in contents.iter().enumerate() {
        let staged = vec![chunk(n, content, &[1.0, n as f32])];
        carry(space, |space| space.stage_chunks(now, name, &ChunkFields::default(), staged).unwrap());
    }
    carry(space, |space| space.show_document(now, name).unwrap());
}

fn append(space: &mut Space, now: Millis, session: &str, turns: Vec<NewTurn>) -> Vec<MemoryId> {
    let (ids, effects) = space.append(now, session, turns).unwrap();
    apply(space, &effects);
    ids
}

fn summary(covered: usize) -> Summary {
    Summary { text: format!("{covered} turns").into(), tokens: 2, covered, at: T0, model: None }
}

/// Applies what is decided.
fn carry(space: &mut Space, decide: impl FnOnce(&Space) -> Vec<Effect>) {
    let effects = decide(space);
    apply(space, &effects);
}

fn history(space: &Space, now: Millis, session: &str) -> Vec<String> {
    space.turns(now, session, 0).into_iter().map(|(_, entry)| entry.content.into()).collect()
}

#[test]
fn a_thousand_steps_beside_a_model() {
    for seed in 0..12 {
        let _seed = Seed(seed);
        let mut random = Random(seed);
        let (mut space, mut twin, mut model, mut now) = (precise(), precise(), Model::default(), T0);
        for (name, value) in [("episodic.capacity", "8"), ("long_term.capacity", "9"), ("session.turns", "4")] {
            let effects = space.set(now, name, value).unwrap();
            apply(&mut space, &effects);
            apply(&mut twin, &sent(&effects));
        }
        for _ in 0..250 {
            now += random.next() % HOUR;
            model.talks.retain(|_, talk| talk.expires > now);
            let effects = step(&mut random, &space, &mut model, now);
            apply(&mut space, &effects);
            apply(&mut twin, &sent(&effects));
            if random.chance(30) {
                let effects = space.trim(now, 3);
                let gone: Vec<MemoryId> =
                    [Removal::Evicted, Removal::Expired].into_iter().flat_map(|why| removed(&effects, why)).collect();
                for talk in model.talks.values_mut() {
                    let last = talk.turns.len().saturating_sub(4);
                    let held = talk.covered.min(last);
                    assert!(!talk.turns[held..].iter().any(|(id, _)| gone.contains(id)), "a held turn was evicted");
                    let covered = talk.turns[..talk.covered].iter().filter(|(id, _)| !gone.contains(id)).count();
                    talk.turns.retain(|(id, _)| !gone.contains(id));
                    talk.covered = covered;
                }
                for (name, contents) in &mut model.docs {
                    let standing: Vec<String> = space
                        .chunks(now, name)
                        .into_iter()
                        .filter(|c| !gone.contains(&c.id))
                        .map(|c| c.content.into())
                        .collect();
                    assert!(standing.iter().all(|content| contents.contains(content)));
                    *contents = standing;
                }
                model.docs.retain(|_, contents| !contents.is_empty());
                apply(&mut space, &effects);
                apply(&mut twin, &sent(&effects));
            }
            check(&space, &model, now);
            space.check_invariants();
            assert_eq!(digest(&space), digest(&twin));
        }
        twin.check_invariants();
        let loaded = load(&state(&space, 300));
        loaded.check_invariants();
        assert_eq!(digest(&loaded), digest(&space));
        check(&loaded, &model, now);
        let mut copy = space.copy();
        assert_eq!(digest(&copy), digest(&space));
        append(&mut copy, now, "s0", vec![turn("user", "only here")]);
        copy.check_invariants();
        space.check_invariants();
    }
}

fn step(random: &mut Random, space: &Space, model: &mut Model, now: Millis) -> Vec<Effect> {
    let name = format!("s{}", random.below(3));
    let doc = format!("d{}", random.below(3));
    let expires = now + TTL;
    match random.below(14) {
        0..=4 => {
            let contents: Vec<String> =
                (0..1 + random.below(3)).map(|_| format!("said {}", random.next() % 1000)).collect();
            let turns = contents.iter().map(|content| turn(ROLES[random.below(4)], content)).collect();
            let (ids, effects) = space.append(now, &name, turns).unwrap();
            let talk = model.talks.entry(name).or_default();
            talk.turns.extend(ids.into_iter().zip(contents));
            talk.expires = expires;
            effects
        }
        5 => {
            let talk = model.talks.entry(name.clone()).or_default();
            talk.fields.insert("topic".into(), "x".into());
            talk.expires = expires;
            space.set_fields(now, &name, vec![("topic".into(), Some("x".into()))]).unwrap()
        }
        6 | 7 => {
            let Some(talk) = model.talks.get_mut(&name) else { return Vec::new() };
            talk.covered = random.below(talk.turns.len() + 1);
            space.summarize(now, &name, summary(talk.covered)).unwrap()
        }
        8 => {
            let Some(talk) = model.talks.get_mut(&name).filter(|talk| !talk.turns.is_empty()) else {
                return Vec::new();
            };
            let n = random.below(talk.turns.len());
            let (id, _) = talk.turns.remove(n);
            if n < talk.covered {
                talk.covered = 0;
            }
            space.forget_effects(&[id])
        }
        9 => {
            let (_, effects) = space.delete_session(now, &name);
            model.talks.remove(&name);
            effects
        }
        10 => {
            let contents: Vec<String> =
                (0..1 + random.below(4)).map(|n| format!("{doc} part {n} {}", random.next())).collect();
            let effects = space.begin_document(document(&doc, contents.len()), Tier::LongTerm).unwrap();
            model.staged.insert(doc, (contents, 0));
            effects
        }
        11 | 12 => {
            let Some((contents, done)) = model.staged.get_mut(&doc) else { return Vec::new() };
            if *done < contents.len() {
                let new = vec![chunk(*done, &contents[*done], &[1.0, 2.0])];
                *done += 1;
                return space.stage_chunks(now, &doc, &ChunkFields::default(), new).unwrap();
            }
            let contents = contents.clone();
            model.staged.remove(&doc);
            model.docs.insert(doc.clone(), contents);
            space.show_document(now, &doc).unwrap()
        }
        _ => {
            model.docs.remove(&doc);
            space.forget_document(now, &doc).1
        }
    }
}

fn check(space: &Space, model: &Model, now: Millis) {
    let names: Vec<&str> = space.sessions(now).map(|(name, _)| name).collect();
    assert_eq!(names, model.talks.keys().collect::<Vec<_>>());
    for (name, talk) in &model.talks {
        assert_eq!(
            history(space, now, name),
            talk.turns.iter().map(|(_, content)| content.clone()).collect::<Vec<_>>()
        );
        let session = space.session(now, name).unwrap();
        assert_eq!(session.covered(), talk.covered, "{name}");
        assert_eq!(session.fields().len(), talk.fields.len());
    }
    let docs: Vec<(&str, usize)> = space.documents().map(|(document, standing)| (&*document.name, standing)).collect();
    assert_eq!(docs, model.docs.iter().map(|(name, contents)| (&**name, contents.len())).collect::<Vec<_>>());
    for (name, contents) in &model.docs {
        let chunks: Vec<String> = space.chunks(now, name).into_iter().map(|chunk| chunk.content.into()).collect();
        assert_eq!(chunks, *contents);
    }
    // What is staged is seen by nobody.
    let visible: usize = model.docs.values().map(Vec::len).sum();
    assert_eq!(space.count(now, Some(&Filter::parse(".doc").unwrap())), visible);
    assert_eq!(count(space, now, Tier::LongTerm), visible);
}

#[test]
fn a_document_is_seen_at_once_or_not_at_all() {
    let mut space = precise();
    ingest(&mut space, T0, "guide", &["old one", "old two"]);
    carry(&mut space, |space| space.begin_document(document("guide", 1), Tier::LongTerm).unwrap());
    carry(&mut space, |space| {
        space.stage_chunks(T0, "guide", &ChunkFields::default(), vec![chunk(0, "new", &[1.0, 0.0])]).unwrap()
    });
    let before = digest(&space);
    assert_eq!(contents(&recall(&space, T0, &[1.0, 0.0], 9)), ["old one", "old two"]);
    assert_eq!(space.count(T0, None), 2);
    // The same text stored beside it is a memory of its own, not the chunk that nobody sees.
    let mut beside = space.copy();
    store(&mut beside, T0, memory("new"));
    assert_eq!(beside.count(T0, None), 3);
    // What is staged goes with the files, unseen; and is dropped without a trace.
    let mut loaded = load(&state(&space, 100));
    assert_eq!(digest(&loaded), before);
    carry(&mut loaded, |loaded| loaded.unstage_document("guide"));
    while loaded.wants_trimming(T0) {
        carry(&mut loaded, |loaded| loaded.trim(T0, 10));
    }
    assert_eq!((loaded.len(), digest(&loaded)), (2, before));
    loaded.check_invariants();
    // Shown: the old one goes at once, the new one is there.
    carry(&mut space, |space| space.show_document(T0, "guide").unwrap());
    assert_eq!(contents(&recall(&space, T0, &[1.0, 0.0], 9)), ["new"]);
    assert_eq!(
        space.get(T0, recall(&space, T0, &[1.0, 0.0], 1)[0].entry.id).unwrap().passage.unwrap().doc,
        "guide".into()
    );
    assert_eq!(space.count(T0, None), 1);
    assert!(space.wants_trimming(T0));
    carry(&mut space, |space| space.trim(T0, 10));
    assert_eq!(space.len(), 1);
    assert!(!space.wants_trimming(T0));
    space.check_invariants();
    let (ids, effects) = space.forget_document(T0, "guide");
    assert_eq!(ids.len(), 1);
    apply(&mut space, &effects);
    assert_eq!((space.count(T0, None), space.documents().count()), (0, 0));
}

#[test]
fn a_document_that_cannot_be_shown() {
    let mut space = precise();
    carry(&mut space, |space| space.set(T0, "long_term.capacity", "2").unwrap());
    let error = space.begin_document(document("book", 3), Tier::LongTerm).unwrap_err();
    assert!(error.message().contains("raise long_term.capacity"), "{error}");
    carry(&mut space, |space| space.begin_document(document("book", 2), Tier::LongTerm).unwrap());
    assert!(space.show_document(T0, "book").unwrap_err().message().contains("0 of its 2"));
    assert_eq!(space.show_document(T0, "other").unwrap_err().code(), "STALE");
    assert_eq!(space.stage_chunks(T0, "other", &ChunkFields::default(), vec![]).unwrap_err().code(), "STALE");
    assert!(space.unstage_document("other").is_empty());
}

#[test]
fn the_last_turns_of_a_session_stand_whatever_comes() {
    let mut space = precise();
    for (name, value) in [("episodic.capacity", "5"), ("session.turns", "10")] {
        carry(&mut space, |space| space.set(T0, name, value).unwrap());
    }
    let said: Vec<String> = (0..30).map(|n| format!("turn {n}")).collect();
    for content in &said {
        append(&mut space, T0, "s", vec![turn("user", content)]);
        carry(&mut space, |space| space.trim(T0, 100));
    }
    // Nothing is summed up, so nothing may go.
    assert_eq!(history(&space, T0, "s"), said);
    carry(&mut space, |space| space.summarize(T0, "s", summary(28)).unwrap());
    carry(&mut space, |space| space.trim(T0, 100));
    // Ten are held whatever the summary covers; of the rest the tier keeps five.
    assert_eq!(history(&space, T0, "s"), said[15..]);
    assert_eq!(space.session(T0, "s").unwrap().covered(), 13);
    // The end of the record lets go of all, and they stay memories.
    let end = T0 + DAY;
    assert!(space.wants_trimming(end));
    carry(&mut space, |space| space.trim(end, 100));
    assert!(space.session(end, "s").is_none());
    carry(&mut space, |space| space.trim(end, 100));
    assert_eq!(count(&space, end, Tier::Episodic), 5);
    space.check_invariants();
}

#[test]
fn what_is_forgotten_does_not_live_on_in_the_summary() {
    let mut space = precise();
    let ids = append(&mut space, T0, "s", (0..5).map(|n| turn("user", &format!("turn {n}"))).collect());
    carry(&mut space, |space| space.summarize(T0, "s", summary(3)).unwrap());
    carry(&mut space, |space| space.forget_effects(&ids[4..]));
    assert_eq!(space.session(T0, "s").unwrap().covered(), 3);
    carry(&mut space, |space| space.forget_effects(&ids[1..2]));
    assert_eq!(space.session(T0, "s").unwrap().summary(), None);
    assert_eq!(history(&space, T0, "s"), ["turn 0", "turn 2", "turn 3"]);
    space.check_invariants();
}

#[test]
fn sessions_are_copied_cleared_renewed_and_deleted() {
    let mut space = precise();
    let ids = append(&mut space, T0, "a", vec![turn("user", "hello"), turn("assistant", "hi")]);
    carry(&mut space, |space| space.set_fields(T0, "a", vec![("topic".into(), Some("greeting".into()))]).unwrap());
    carry(&mut space, |space| space.summarize(T0, "a", summary(1)).unwrap());
    let (turns, effects) = space.copy_session(T0 + 5, "a", "b", false).unwrap();
    assert_eq!(turns, 2);
    apply(&mut space, &effects);
    assert_eq!(history(&space, T0 + 5, "b"), ["hello", "hi"]);
    let b = space.session(T0 + 5, "b").unwrap();
    assert_eq!((b.covered(), b.fields().len(), b.expires()), (1, 1, Some(T0 + 5 + DAY)));
    let expires: Vec<_> = space.turns(T0 + 5, "b", 0).into_iter().map(|(_, turn)| turn.expires).collect();
    assert_eq!(expires, [Some(T0 + 5 + 90 * DAY); 2], "the lifetime of the tier counts anew");
    let mut full = space.copy();
    carry(&mut full, |space| space.set(T0, "max-memory", "100").unwrap());
    assert_eq!(full.copy_session(T0, "a", "c", false).unwrap_err().code(), "OOM");
    assert!(space.copy_session(T0, "a", "b", false).unwrap_err().message().contains("REPLACE"));
    assert!(space.copy_session(T0, "nobody", "c", false).unwrap_err().message().contains("no such session"));
    let (_, effects) = space.copy_session(T0 + 5, "a", "b", true).unwrap();
    apply(&mut space, &effects);
    assert_eq!(history(&space, T0 + 5, "b"), ["hello", "hi"]);
    space.check_invariants();
    // The same id with the same content is the same turn; with another content it is an error.
    let again = NewTurn { id: Some(ids[0]), ..turn("user", "hello") };
    assert_eq!(append(&mut space, T0 + 6, "a", vec![again.clone()]), ids[..1]);
    assert_eq!(history(&space, T0 + 6, "a").len(), 2);
    assert!(space.append(T0, "a", vec![NewTurn { content: "other".into(), ..again.clone() }]).is_err());
    assert!(space.append(T0, "b", vec![again]).is_err());
    assert!(space.append(T0, "a", vec![turn("boss", "no")]).unwrap_err().message().contains("user, assistant"));
    let (turns, effects) = space.clear_session(T0 + 7, "a").unwrap();
    assert_eq!(turns, 2);
    apply(&mut space, &effects);
    assert!(history(&space, T0 + 7, "a").is_empty());
    assert_eq!(space.session(T0 + 7, "a").unwrap().fields().len(), 1);
    let later = T0 + DAY + 6;
    assert!(space.session(later, "b").is_none(), "its time is over");
    assert!(space.session(later, "a").is_some());
    carry(&mut space, |space| space.touch_session(later, "a").unwrap());
    assert!(space.touch_session(later, "b").is_err());
    // An append to a name whose record is over begins a new one; the turns of the old one are memories and no more.
    append(&mut space, later, "b", vec![turn("user", "good morning")]);
    assert_eq!(history(&space, later, "b"), ["good morning"]);
    assert_eq!(space.count(later, Some(&Filter::parse(r#".session == "b""#).unwrap())), 3);
    let (turns, effects) = space.delete_session(later, "b");
    assert_eq!(turns, 3);
    apply(&mut space, &effects);
    assert_eq!(space.count(later, None), 0);
    space.check_invariants();
}

#[test]
fn a_session_is_imported_over_itself() {
    let mut space = precise();
    let ids = append(&mut space, T0, "a", vec![turn("user", "hello"), turn("assistant", "hi")]);
    let new = NewSession {
        turns: vec![NewTurn { id: Some(ids[0]), at: Some(T0 - 5), ..turn("user", "hello") }, turn("tool", "42")],
        summary: Some(summary(1)),
        fields: vec![("mood".into(), "good".into())],
        meta: None,
    };
    assert!(space.import_session(T0, "a", new.clone(), false).unwrap_err().message().contains("REPLACE"));
    assert!(space.import_session(T0, "b", new.clone(), false).unwrap_err().message().contains("take the ids out"));
    let (imported, effects) = space.import_session(T0 + 1, "a", new.clone(), true).unwrap();
    apply(&mut space, &effects);
    assert_eq!(imported[0], ids[0]);
    assert_eq!(history(&space, T0 + 1, "a"), ["hello", "42"]);
    assert_eq!(space.session(T0 + 1, "a").unwrap().covered(), 1);
    let twice = NewSession { turns: vec![new.turns[0].clone(), new.turns[0].clone()], ..NewSession::default() };
    assert!(space.import_session(T0, "a", twice, true).is_err());
    let over = NewSession { summary: Some(summary(3)), ..new };
    assert!(space.import_session(T0, "c", over, false).unwrap_err().message().contains("covers 3"));
    space.check_invariants();
}

#[test]
fn turns_get_their_vectors_later() {
    let mut space = precise();
    let waiting = |content: &str| NewTurn { awaits: true, ..turn("user", content) };
    let ids = append(&mut space, T0, "s", vec![waiting("one"), waiting("two"), turn("user", "three")]);
    assert_eq!(space.awaiting(), 2);
    let missing = space.first_awaiting(T0, 9);
    assert_eq!(missing.iter().map(|m| m.id).collect::<Vec<_>>(), ids[..2]);
    let made = |memory: &Missing, vector: &[f32]| {
        let made = Embedded {
            memory: memory.clone(),
            windows: if vector.is_empty() { vec![] } else { vec![vector.to_vec()] },
            words: vec![],
        };
        (made, 7)
    };
    // A restart in between finds them.
    let mut loaded = load(&state(&space, 50));
    assert_eq!(loaded.awaiting(), 2);
    let effects = loaded.fill(T0, "m", vec![made(&missing[0], &[1.0, 0.0]), made(&missing[1], &[])]).unwrap();
    apply(&mut loaded, &sent(&effects));
    assert_eq!(loaded.awaiting(), 0);
    assert_eq!((loaded.vectors(ids[0]).len(), get(&loaded, T0, ids[0]).tokens), (1, 7));
    assert_eq!(contents(&recall(&loaded, T0, &[1.0, 0.0], 9)), ["one"]);
    loaded.check_invariants();
    // What has another text by now is passed over.
    carry(&mut space, |space| {
        space
            .update(
                T0,
                ids[0],
                Update { content: Some("uno".into()), vectors: Some(Vectors::None), ..Update::default() },
            )
            .unwrap()
    });
    assert_eq!(space.awaiting(), 1);
    assert!(space.fill(T0, "m", vec![made(&missing[0], &[1.0, 0.0])]).unwrap().is_empty());
    space.check_invariants();
}

#[test]
fn an_import_begins_a_session_of_its_own_where_one_has_ended() {
    let mut space = precise();
    carry(&mut space, |space| space.set(T0, "episodic.ttl", "1h").unwrap());
    let old: Vec<_> = (0..200).map(|n| (format!("old {n}").into(), Some("x".into()))).collect();
    carry(&mut space, |space| space.set_fields(T0, "s", old).unwrap());
    append(&mut space, T0, "s", vec![turn("user", "of old")]);
    // Nobody has taken the record away yet.
    let now = T0 + TTL;
    let fields = (0..100).map(|n| (format!("new {n}").into(), "y".into())).collect();
    let turns = vec![turn("user", "one"), turn("assistant", "two")];
    let new = NewSession { fields, turns, summary: Some(summary(1)), ..NewSession::default() };
    carry(&mut space, |space| space.import_session(now, "s", new, false).unwrap().1);
    space.check_invariants();
    let session = space.session(now, "s").unwrap();
    assert_eq!((session.created(), session.turns(), session.covered(), session.fields().len()), (now, 2, 1, 100));
    assert_eq!(history(&space, now, "s"), ["one", "two"]);
    assert_eq!(digest(&load(&state(&space, 300))), digest(&space));
}

#[test]
fn a_record_never_has_more_fields_than_can_be_loaded() {
    let mut space = precise();
    let fields = |of: &str, n: usize| -> Vec<(Box<str>, Option<Box<str>>)> {
        (0..n).map(|i| (format!("{of}{i}").into(), Some("x".into()))).collect()
    };
    carry(&mut space, |space| space.set_fields(T0, "s", fields("a", 256)).unwrap());
    // Those that are there take no room.
    carry(&mut space, |space| space.set_fields(T0, "s", fields("a", 256)).unwrap());
    assert!(space.set_fields(T0, "s", fields("b", 1)).is_err());
    let patch = SessionPatch {
        name: "s".into(),
        created: T0,
        expires: None,
        fields: fields("b", 200),
        meta: None,
        summary: None,
    };
    assert!(space.apply(&Effect::Session(Box::new(patch))).is_err());
    assert_eq!(digest(&load(&state(&space, 300))), digest(&space));
}

#[test]
fn no_effect_shows_or_hides_a_chunk_but_those_of_its_document() {
    let mut space = precise();
    ingest(&mut space, T0, "shown", &["alpha"]);
    carry(&mut space, |space| space.begin_document(document("staged", 1), Tier::LongTerm).unwrap());
    let staged = vec![chunk(0, "beta", &[1.0, 2.0])];
    let effects = space.stage_chunks(T0, "staged", &ChunkFields::default(), staged).unwrap();
    let hidden = effects.iter().find_map(|effect| match effect {
        Effect::Put { entry, .. } => Some(entry.id),
        _ => None,
    });
    apply(&mut space, &effects);
    let (shown, hidden) = (space.chunks(T0, "shown")[0].id, hidden.unwrap());
    let before = state(&space, 300);
    for (id, expires) in
        [(shown, Some(0)), (shown, Some(1)), (hidden, None), (hidden, Some(0)), (hidden, Some(T0 + HOUR))]
    {
        let patch = Patch { expiry: Some((expires, false)), ..Patch::default() };
        assert!(space.apply(&Effect::Patch { id, patch: Box::new(patch) }).is_err(), "{id} {expires:?}");
    }
    for expires in [Some(0), Some(1)] {
        assert!(space.apply(&Effect::ShowDocument { name: "staged".into(), expires }).is_err());
    }
    assert_eq!(state(&space, 300), before);
    space.check_invariants();
    load(&before).check_invariants();
}

#[test]
fn a_chunk_that_is_shown_has_the_value_that_the_settings_give_it() {
    let mut space = precise();
    carry(&mut space, |space| space.set(T0, "long_term.capacity", "3").unwrap());
    ingest(&mut space, T0, "old", &["alpha", "beta"]);
    carry(&mut space, |space| space.begin_document(document("new", 1), Tier::LongTerm).unwrap());
    let staged = vec![chunk(0, "gamma", &[1.0, 2.0])];
    carry(&mut space, |space| space.stage_chunks(T0 + HOUR, "new", &ChunkFields::default(), staged).unwrap());
    for eviction in ["fifo", "value", "fifo"] {
        carry(&mut space, |space| space.set(T0 + HOUR, "eviction", eviction).unwrap());
        space.check_invariants();
    }
    carry(&mut space, |space| space.show_document(T0 + HOUR, "new").unwrap());
    space.check_invariants();
    carry(&mut space, |space| space.set(T0 + HOUR, "long_term.capacity", "1").unwrap());
    assert_eq!(space.chunks(T0 + HOUR, "new").len(), 1, "the first in is the first out");
}

#[test]
fn what_was_reworded_does_not_live_on_in_the_summary() {
    let mut space = precise();
    let turns = (0..4).map(|n| turn("user", &format!("my number is {n}"))).collect();
    let ids = append(&mut space, T0, "s", turns);
    carry(&mut space, |space| space.summarize(T0, "s", summary(2)).unwrap());
    let reword = |space: &Space, id| {
        let update =
            Update { content: Some("my number is a secret".into()), vectors: Some(Vectors::None), ..Update::default() };
        space.update(T0, id, update).unwrap()
    };
    carry(&mut space, |space| reword(space, ids[3]));
    assert_eq!(space.session(T0, "s").unwrap().covered(), 2);
    carry(&mut space, |space| space.update(T0, ids[0], Update { importance: Some(0.9), ..Update::default() }).unwrap());
    assert_eq!(space.session(T0, "s").unwrap().covered(), 2);
    carry(&mut space, |space| reword(space, ids[0]));
    assert_eq!(space.session(T0, "s").unwrap().summary(), None);
    space.check_invariants();
    assert_eq!(digest(&load(&state(&space, 300))), digest(&space));
}

#[test]
fn records_end_a_few_turns_at_a_time() {
    let mut space = precise();
    for n in 0..5 {
        let turns = (0..40).map(|i| turn("user", &format!("{n} {i}"))).collect();
        append(&mut space, T0, &format!("s{n}"), turns);
    }
    let now = T0 + TTL;
    let units = std::iter::from_fn(|| {
        let effects = space.end_sessions(now, 64);
        apply(&mut space, &effects);
        space.check_invariants();
        (!effects.is_empty()).then_some(effects.len())
    });
    assert_eq!(units.collect::<Vec<_>>(), [2, 2, 1]);
}

#[test]
fn what_has_gone_gets_no_vectors() {
    let mut space = precise();
    let awaiting = |content: &str| NewTurn { awaits: true, ..turn("user", content) };
    append(&mut space, T0, "gone", (0..20).map(|n| awaiting(&format!("gone {n}"))).collect());
    let ids = append(&mut space, T0, "here", vec![awaiting("here")]);
    carry(&mut space, |space| space.delete_session(T0, "gone").1);
    let missing: Vec<MemoryId> = space.first_awaiting(T0, 16).into_iter().map(|missing| missing.id).collect();
    assert_eq!(missing, ids);
    assert_eq!((space.turn_counts(T0, "gone"), space.turn_counts(T0, "here")), ((0, 0, 0), (1, 0, 1)));
}
