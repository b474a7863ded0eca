//! A space as lines of JSON and back.

use crate::support::*;
use engram_memory::{
    ChunkFields, Counters, Document, Effect, MemoryId, Meta, Millis, NewChunk, NewTurn, Space, Summary, Tier, Ttl,
    Vectors, limits,
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn exported(space: &Space, now: Millis, count: usize) -> Vec<String> {
    let (mut lines, mut cursor) = (Vec::new(), "0".to_owned());
    for _ in 0..10_000 {
        let page = space.export(now, &cursor, count).unwrap();
        assert!(page.len() <= count.max(2));
        cursor = page.next().to_owned();
        lines.extend(page.lines());
        if cursor == "0" {
            return lines;
        }
    }
    panic!("an export without an end");
}

fn objects<T: AsRef<str>>(lines: &[T]) -> Vec<Meta> {
    lines.iter().map(|line| serde_json::from_str(line.as_ref()).unwrap()).collect()
}

/// Takes lines in calls of `size`; gives how many of them changed something.
fn import(space: &mut Space, now: Millis, lines: &[String], size: usize, replace: bool) -> usize {
    let mut written = 0;
    for lines in lines.chunks(size) {
        let (imported, effects) = space.import(now, &objects(lines), replace).unwrap();
        assert_eq!(imported.written + imported.unchanged, lines.len());
        written += imported.written;
        apply(space, &sent(&effects));
    }
    space.check_invariants();
    written
}

fn import_json(space: &mut Space, now: Millis, lines: &[Value], replace: bool) {
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    import(space, now, &lines, limits::BATCH, replace);
}

fn refusal(space: &Space, now: Millis, lines: &[Value], replace: bool) -> String {
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    space.import(now, &objects(&lines), replace).map(|_| ()).unwrap_err().message().to_owned()
}

fn document(name: &str, chunks: usize) -> Document {
    Document {
        name: name.into(),
        kind: Some("text".into()),
        source: None,
        at: T0,
        created: T0,
        bytes: 10,
        tokens: 3,
        chunks: chunks as u32,
        meta: Some([("k".to_owned(), json!({"x": [1, 0.1, null]}))].into_iter().collect()),
    }
}

fn chunk(random: &mut Random, n: usize, vectors: Vectors) -> NewChunk {
    NewChunk {
        content: format!("part {n} {}", random.next()),
        vectors,
        position: n as u32,
        start: n as u64,
        end: n as u64 + 1,
        tokens: 1,
    }
}

fn any_vectors(random: &mut Random) -> Vectors {
    if random.chance(30) {
        return Vectors::None;
    }
    Vectors::Embedded {
        model: "m".into(),
        template: 2,
        windows: (0..1 + random.below(2)).map(|_| random.vector(9)).collect(),
        words: (0..random.below(4)).map(|_| random.vector(9)).collect(),
    }
}

/// A space of everything that there is, and some of it gone again.
fn any_space(random: &mut Random, precision: &str, steps: usize) -> (Space, Millis) {
    let mut space = Space::new();
    let mut now = T0;
    for (name, value) in
        [("precision", precision), ("short_term.capacity", "20"), ("episodic.capacity", "6"), ("session.turns", "3")]
    {
        let effects = space.set(now, name, value).unwrap();
        apply(&mut space, &effects);
    }
    for _ in 0..steps {
        now += random.next() % (HOUR / 2);
        let (session, doc) = (format!("s\u{e9}:{}", random.below(3)), format!("d {}", random.below(3)));
        let ids = space.scan(now, MemoryId::ZERO, 1000, None).1;
        let effects = match random.below(14) {
            13 if ids.len() > 1 => {
                let (from, to) = (random.pick(&ids).id, random.pick(&ids).id);
                let weight = random.unit().max(0.01);
                space.link(now, from, to, ["r", "a:b \u{1f408}"][random.below(2)], weight, None).unwrap_or_default()
            }
            13 => Vec::new(),
            0..=2 => {
                let new = engram_memory::NewMemory {
                    tier: Some(Tier::ALL[random.below(5)]),
                    vectors: any_vectors(random),
                    importance: Some(random.unit()),
                    confidence: Some(random.unit()),
                    outcome: random.chance(30).then(|| "do\"ne\n".into()),
                    session: random.chance(30).then(|| session.clone()),
                    speaker: random.chance(30).then(|| "Ann".into()),
                    source: random.chance(30).then(|| "src".into()),
                    from: vec![MemoryId { ms: 3, seq: 1 }; random.below(3)],
                    pinned: random.chance(5),
                    ttl: *random.pick(&[Ttl::Tier, Ttl::Persist, Ttl::Seconds(3600)]),
                    tags: (0..random.below(3)).map(|n| format!("t{n}")).collect(),
                    meta: random.chance(30).then(|| [("x".to_owned(), json!([0.1, {"y": "z"}]))].into_iter().collect()),
                    supersedes: ids
                        .iter()
                        .find(|entry| entry.superseded.is_none() && entry.role.is_none())
                        .map(|e| e.id)
                        .filter(|_| random.chance(20)),
                    awaits: random.chance(50),
                    tokens: random.below(3) as u32,
                    ..memory(&format!("c\u{1f408} {}", random.next()))
                };
                space.store(now, new).map(|stored| stored.effects).unwrap_or_default()
            }
            3..=6 => {
                let turns = (0..1 + random.below(3)).map(|_| NewTurn {
                    role: (*random.pick(&["user", "assistant"])).into(),
                    content: format!("said {}", random.next()),
                    at: random.chance(20).then_some(5),
                    tokens: 7,
                    awaits: random.chance(50),
                    ..NewTurn::default()
                });
                space.append(now, &session, turns.collect()).unwrap().1
            }
            7 => {
                let covered = space.session(now, &session).map_or(0, |session| random.below(session.turns() + 1));
                let summary = Summary { text: "so far".into(), tokens: 2, covered, at: now, model: None };
                space.summarize(now, &session, summary).unwrap_or_default()
            }
            8 => space.set_fields(now, &session, vec![("topic".into(), Some("x".into()))]).unwrap(),
            9 => {
                let chunks = 1 + random.below(4);
                let effects = space.begin_document(document(&doc, chunks), Tier::LongTerm).unwrap();
                apply(&mut space, &effects);
                for n in 0..chunks {
                    let vectors = any_vectors(random);
                    let new = chunk(random, n, vectors);
                    let effects = space.stage_chunks(now, &doc, &ChunkFields::default(), vec![new]).unwrap();
                    apply(&mut space, &effects);
                }
                // Some are never shown.
                if random.chance(80) { space.show_document(now, &doc).unwrap() } else { Vec::new() }
            }
            10 if random.chance(30) => space.forget_document(now, &doc).1,
            10 => Vec::new(),
            11 => ids.first().map(|entry| space.forget_effects(&[entry.id])).unwrap_or_default(),
            _ => {
                ids.iter().for_each(|entry| {
                    if random.chance(20) {
                        space.touch(entry.id, now)
                    }
                });
                space.note_recall(random.chance(50));
                space.trim(now, 1000)
            }
        };
        apply(&mut space, &effects);
    }
    loop {
        let effects = space.trim(now, 1000);
        if effects.is_empty() {
            return (space, now);
        }
        apply(&mut space, &effects);
    }
}

#[test]
fn every_space_comes_back_as_it_was() {
    for seed in 0..60u64 {
        let mut random = Random(seed);
        let (space, now) = any_space(&mut random, ["i8", "f16", "f32"][seed as usize % 3], 80);
        let lines = exported(&space, now, 1 + random.below(20));
        assert_eq!(lines, exported(&space, now, 10_000), "seed {seed}: pages of another size");
        let mut other = Space::new();
        let written = import(&mut other, now, &lines, 1 + random.below(30), false);
        assert!(digest(&other) == digest(&space), "seed {seed}: it is another space");
        assert_eq!(exported(&other, now, 7), lines, "seed {seed}");
        assert!(written > 0);
        // Again, in other pieces, and over itself: nothing changes.
        for replace in [false, true] {
            assert_eq!(import(&mut other, now, &lines, 1 + random.below(50), replace), 0, "seed {seed}");
        }
        let counters = |space: &Space| space.stats(now).counters;
        assert_eq!(counters(&other), counters(&space), "seed {seed}");
    }
}

#[test]
fn a_walk_beside_writers_gives_what_stands_exactly_once() {
    for seed in 0..20u64 {
        let mut random = Random(seed);
        let (mut space, now) = any_space(&mut random, "i8", 120);
        let before: Vec<MemoryId> =
            space.scan(now, MemoryId::ZERO, 10_000, None).1.iter().map(|entry| entry.id).collect();
        let (mut lines, mut cursor, mut n) = (Vec::new(), "0".to_owned(), 0);
        loop {
            let page = space.export(now, &cursor, 1 + random.below(4)).unwrap();
            cursor = page.next().to_owned();
            lines.extend(objects(&page.lines()));
            if cursor == "0" {
                break;
            }
            n += 1;
            let said = NewTurn { role: "user".into(), content: format!("late {n}"), ..NewTurn::default() };
            let name = format!("s\u{e9}:{}", random.below(4));
            let effects = space.append(now, &name, vec![said]).unwrap().1;
            apply(&mut space, &effects);
            if random.chance(30) {
                let gone = *random.pick(&before);
                let effects = space.forget_effects(&[gone]);
                apply(&mut space, &effects);
            }
        }
        let given: Vec<String> = lines
            .iter()
            .filter_map(|line| line.get("memory").or_else(|| line.get("turn")))
            .map(|memory| memory["id"].as_str().unwrap().to_owned())
            .collect();
        for id in before.iter().filter(|id| space.get(now, **id).is_some()) {
            assert_eq!(given.iter().filter(|given| **given == id.to_string()).count(), 1, "seed {seed}: {id}");
        }
        let mut other = Space::new();
        let (_, effects) = other.import(now, &lines, false).unwrap();
        apply(&mut other, &effects);
        other.check_invariants();
    }
}

#[test]
fn what_a_person_writes() {
    let mut space = Space::new();
    let lines = [
        json!({"session": {"id": "s"}}),
        json!({"turn": {"session": "s", "role": "user", "content": "hello"}}),
        json!({"turn": {"session": "s", "role": "assistant", "content": "hi", "id": "7-7", "noembed": true}}),
        json!({"summary": {"session": "s", "text": "They greeted.", "turns": 1}}),
        json!({"memory": {"content": "a fact", "tags": ["a", "a"], "expires": null}}),
    ];
    import_json(&mut space, T0, &lines, false);
    let turns = space.turns(T0, "s", 0);
    let said: Vec<(&str, &str, bool)> =
        turns.iter().map(|(_, turn)| (&*turn.content, turn.tier.name(), turn.awaits)).collect();
    assert_eq!(said, [("hello", "episodic", true), ("hi", "episodic", false)]);
    assert_eq!(turns[0].1.id, MemoryId { ms: T0, seq: 0 });
    let fact = get(&space, T0, MemoryId { ms: T0, seq: 1 });
    assert_eq!((fact.tier, fact.expires, fact.tags.len(), fact.awaits), (Tier::ShortTerm, None, 1, true));
    assert_eq!(space.session(T0, "s").unwrap().expires(), Some(T0 + DAY));
    assert_eq!(space.session(T0, "s").unwrap().covered(), 1);
    // Vectors as numbers make a space of the caller's own, in which nothing waits.
    let mut own = Space::new();
    let lines =
        [json!({"memory": {"content": "x", "vector": [3, 4]}}), json!({"memory": {"content": "y", "id": "9-9"}})];
    import_json(&mut own, T0, &lines, false);
    assert_eq!((own.dim(), own.model(), own.awaiting()), (Some(2), None, 0));
    assert!((own.vectors(MemoryId { ms: T0, seq: 0 })[0][0] - 0.6).abs() < 0.01);
}

#[test]
fn what_is_there_and_is_another() {
    let mut random = Random(3);
    let mut space = precise();
    let turns =
        ["one", "two", "three"].map(|said| NewTurn { role: "user".into(), content: said.into(), ..NewTurn::default() });
    let (ids, effects) = space.append(T0, "s", turns.into()).unwrap();
    apply(&mut space, &effects);
    let summary = Summary { text: "sum".into(), tokens: 1, covered: 2, at: T0, model: None };
    let effects = space.summarize(T0, "s", summary).unwrap();
    apply(&mut space, &effects);
    let fact = store(&mut space, T0, with_vector("a fact", &[1.0, 0.0]));
    for part in 0..2 {
        if part == 0 {
            let effects = space.begin_document(document("d", 2), Tier::LongTerm).unwrap();
            apply(&mut space, &effects);
        }
        let new = chunk(&mut random, part, Vectors::None);
        let effects = space.stage_chunks(T0, "d", &ChunkFields::default(), vec![new]).unwrap();
        apply(&mut space, &effects);
    }
    let effects = space.show_document(T0, "d").unwrap();
    apply(&mut space, &effects);
    let lines: Vec<Value> = exported(&space, T0, 100).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let changed = |kind: &str, nth: usize, field: &str, value: Value| -> Vec<Value> {
        let mut lines = lines.clone();
        let line = lines.iter_mut().filter(|line| line.get(kind).is_some()).nth(nth).unwrap();
        line[kind][field] = value;
        lines
    };
    for (kind, nth, field, value, says) in [
        ("memory", 0, "content", json!("another"), format!("memory {fact} exists")),
        ("memory", 0, "importance", json!(0.9), format!("memory {fact} exists")),
        ("memory", 1, "position", json!(1), "exists and is another".into()),
        ("turn", 1, "content", json!("zwei"), format!("memory {} exists", ids[1])),
        ("session", 0, "created", json!(5), "session s exists".into()),
        ("summary", 0, "text", json!("another"), "summary of session s exists".into()),
        ("document", 0, "source", json!("elsewhere"), "document d exists".into()),
    ] {
        let lines = changed(kind, nth, field, value.clone());
        let error = refusal(&space, T0, &lines, false);
        assert!(error.contains(&says) && error.contains("REPLACE"), "{kind} {field}: {error}");
        for size in [100, 1] {
            let mut other = space.copy();
            let texts: Vec<String> = lines.iter().map(Value::to_string).collect();
            assert!(import(&mut other, T0, &texts, size, true) > 0, "{kind} {field}");
            // All but the counters.
            let (after, count) = (exported(&other, T0, 100), texts.len() - 1);
            assert_eq!(objects(&after[..count]), objects(&texts[..count]), "{kind} {field} in calls of {size}");
        }
    }
    let error = refusal(&space, T0, &changed("space", 0, "settings", json!({"dedup": "0.5"})), false);
    assert!(error.contains("dedup is 0") && error.contains("REPLACE"), "{error}");
    // A turn keeps its place, and the summary what it covers, even if the text is new and waits for its vectors.
    let mut other = space.copy();
    let turn = json!({"turn": {"id": ids[1].to_string(), "session": "s", "role": "user", "content": "zwei", "noembed": false}});
    import_json(&mut other, T0, &[turn], true);
    let said: Vec<String> = other.turns(T0, "s", 0).into_iter().map(|(_, turn)| turn.content.into()).collect();
    assert_eq!((said.join(" "), other.awaiting()), ("one zwei three".into(), 1));
    assert_eq!(other.session(T0, "s").unwrap().covered(), 2);
    // The only chunk of a document takes its own place.
    let gone = space.chunks(T0, "d")[1].id;
    let effects = space.forget_effects(&[gone]);
    apply(&mut space, &effects);
    let mut line = lines.iter().find(|line| line["memory"]["doc"] == "d").unwrap().clone();
    line["memory"]["position"] = json!(1);
    import_json(&mut space, T0, &[line], true);
    assert_eq!(space.documents().map(|(_, chunks)| chunks).collect::<Vec<_>>(), [1]);
}

#[test]
fn nothing_gives_way() {
    let mut space = Space::new();
    let memory =
        |n: usize| json!({"memory": {"content": format!("fact {n}"), "tier": "working", "id": format!("5-{n}")}});
    let many: Vec<Value> = (1..=11).map(memory).collect();
    let error = refusal(&space, T0, &many, false);
    assert!(error.contains("tier working holds 10") && error.contains("working.capacity"), "{error}");
    let settings = |name: &str, value: &str| json!({"space": {"settings": {name: value}}});
    let with = |first: Value| [vec![first], many.clone()].concat();
    let error = refusal(&space, T0, &with(settings("max-memory", "500")), false);
    assert!(error.contains("max-memory") || error.contains("capacity"), "{error}");
    import_json(&mut space, T0, &with(settings("working.capacity", "11")), false);
    assert_eq!(space.len(), 11);
    let error = refusal(&space, T0, &[memory(12)], false);
    assert!(error.contains("11 of its places are taken"), "{error}");
    // One in the place of another is none more.
    import_json(&mut space, T0, &[json!({"memory": {"content": "new", "tier": "working", "id": "5-1"}})], true);
    let error = refusal(&space, T0, &[settings("working.capacity", "5")], true);
    assert!(error.contains("holds more than the capacity"), "{error}");
    let mut small = Space::new();
    import_json(&mut small, T0, &[settings("max-memory", "500")], false);
    assert!(refusal(&small, T0, &many[..5], false).contains("beyond its max-memory of 500"));
    // What a session holds takes no place.
    let mut space = Space::new();
    import_json(&mut space, T0, &[settings("episodic.capacity", "1"), json!({"session": {"id": "s"}})], false);
    let turn = |n: usize| json!({"turn": {"session": "s", "role": "user", "content": format!("said {n}")}});
    import_json(&mut space, T0, &(0..20).map(turn).collect::<Vec<_>>(), false);
    assert!(space.trim(T0, 100).is_empty());
    assert_eq!(space.turns(T0, "s", 0).len(), 20);
}

#[test]
fn lines_of_an_old_export() {
    let mut space = Space::new();
    let lines = [
        json!({"session": {"id": "s", "expires": T0}}),
        json!({"turn": {"session": "s", "role": "user", "content": "hello", "id": "5-5", "expires": T0 - 1}}),
        json!({"turn": {"session": "s", "role": "user", "content": "still here", "id": "5-6", "expires": null}}),
        json!({"summary": {"session": "s", "text": "They greeted.", "turns": 2}}),
    ];
    import_json(&mut space, T0, &lines, false);
    assert_eq!((space.session_count(), space.count(T0, None)), (0, 1));
    // The id of what has expired is free.
    import_json(&mut space, T0, &[json!({"memory": {"content": "anew", "id": "5-5", "expires": null}})], false);
    assert_eq!(space.count(T0, None), 2);
}

#[test]
fn what_is_no_line() {
    let mut random = Random(1);
    let (space, now) = any_space(&mut random, "i8", 60);
    let (empty, before) = (Space::new(), digest(&space));
    let id = "1-1";
    let f32s = |n: usize| "AACAPw==".repeat(n);
    for (line, says) in [
        (json!({}), "0 members"),
        (json!({"memory": {"content": "x"}, "turn": {}}), "2 members"),
        (json!({"memories": {}}), "'memories' is no kind of line: space, session"),
        (json!({"memory": []}), "'memory' takes an object, not this array"),
        (json!({"memory": {}}), "the field 'content' of a memory is missing"),
        (json!({"memory": {"content": ""}}), "the content is empty"),
        (json!({"memory": {"content": 5}}), "the field 'content' of a memory takes a string, not this number"),
        (json!({"memory": {"content": "x", "importence": 1}}), "did you mean importance?"),
        (json!({"memory": {"content": "x", "importance": 2}}), "IMPORTANCE is 2"),
        (json!({"memory": {"content": "x", "tier": "upper"}}), "unknown tier 'upper'"),
        (json!({"memory": {"content": "x", "id": "0-0"}}), "'0-0' is not a memory id"),
        (json!({"memory": {"content": "x", "expires": 1}}), "the field 'expires' of a memory takes a time above 1"),
        (json!({"memory": {"content": "x", "created": -1}}), "takes a whole number from 0"),
        (json!({"memory": {"content": "x", "at": 1u64 << 60}}), "AT is"),
        (json!({"memory": {"content": "x", "tags": "a"}}), "takes an array of strings"),
        (json!({"memory": {"content": "x", "meta": {"tier": 1}}}), "built-in name"),
        (json!({"memory": {"content": "x", "superseded": {"by": id}}}), "takes the members by and at"),
        (json!({"memory": {"content": "x", "supersedes": id, "id": id}}), "SUPERSEDES"),
        (
            json!({"memory": {"content": "x", "doc": "nobody's", "position": 0, "total": 1}}),
            "whose own line must come before",
        ),
        (json!({"memory": {"content": "x", "doc": "d"}}), "the field 'position' of a chunk is missing"),
        (json!({"memory": {"content": "x", "vectors": ["A"]}}), "bytes in Base64"),
        (json!({"memory": {"content": "x", "vectors": ["AAAA"]}}), "one of 3 bytes"),
        (json!({"memory": {"content": "x", "vectors": ["AAAAAAAAAAAA"]}}), "all zeros"),
        (json!({"memory": {"content": "x", "vectors": [f32s(1)]}}), "9 dimensions as i8"),
        (json!({"memory": {"content": "x", "vector": [1, 2]}}), "the vector has 2 dimensions"),
        (json!({"memory": {"content": "x", "vector": ["a"]}}), "takes an array of numbers"),
        (json!({"memory": {"content": "x", "vector": [0, 0, 0, 0, 0, 0, 0, 0, 0]}}), "no direction"),
        (json!({"memory": {"content": "x", "token_vectors": "AAAA"}}), "a multiple of 8 bytes"),
        (json!({"memory": {"content": "x", "noembed": true, "vectors": ["AQEBAQEBAQEB"]}}), "exclude each other"),
        (json!({"turn": {"content": "x", "role": "user"}}), "the field 'session' of a turn is missing"),
        (json!({"turn": {"content": "x", "session": "s"}}), "the field 'role' of a turn is missing"),
        (json!({"turn": {"content": "x", "session": "s", "role": "boss"}}), "role 'boss'"),
        (json!({"session": {}}), "the field 'id' of a session is missing"),
        (json!({"session": {"id": ""}}), "SESSION has 0 bytes"),
        (json!({"session": {"id": "z", "fields": {"a": 1}}}), "the field 'a' of a session takes a string"),
        (json!({"session": {"id": "z", "history": []}}), "unknown field 'history' of a session"),
        (json!({"summary": {"session": "s\u{e9}:0", "text": " "}}), "a summary has"),
        (json!({"summary": {"session": "s\u{e9}:0", "text": "x", "turns": 5_000_000_000u64}}), "below 2^32"),
        (json!({"document": {"name": ""}}), "the document's name has 0 bytes"),
        (json!({"document": {"name": "x", "chunks": 200_000}}), "at most 100000 chunks"),
        (json!({"space": {"format": 2}}), "format 2: this server reads format 1"),
        (json!({"space": {"model": "m"}}), "'dimensions' beside it"),
        (json!({"space": {"dimensions": 0}}), "REEMBED"),
        (json!({"space": {"model": "m", "dimensions": 9, "precision": "f32"}}), "kept as i8"),
        (json!({"space": {"model": "m", "dimensions": 9, "precision": "i4"}}), "is not a precision"),
        (
            json!({"space": {"model": "n", "dimensions": 9}}),
            "of m, of 9 dimensions and kept as i8, those of the lines of n",
        ),
        (json!({"space": {"settings": {"dedop": "1"}}}), "did you mean dedup?"),
        (json!({"space": {"settings": {"dedup": []}}}), "the setting 'dedup' takes a string"),
        (json!({"counters": {"hits": -1}}), "takes a whole number"),
    ] {
        let good = json!({"memory": {"content": "good", "noembed": true}});
        let error = refusal(&space, now, &[good, line.clone()], true);
        assert!(error.starts_with("line 2: ") && error.contains(says), "{line}: {error}");
    }
    for (line, says) in [
        (json!({"memory": {"content": "x", "vectors": ["AAAA"]}}), "the line of the space"),
        (json!({"memory": {"content": "x", "vector": []}}), "0 dimensions"),
        (json!({"space": {"dimensions": 99_999}}), "99999 dimensions"),
    ] {
        let error = refusal(&empty, now, std::slice::from_ref(&line), false);
        assert!(error.contains(says), "{line}: {error}");
    }
    let twice = [json!({"memory": {"content": "x", "id": id}}), json!({"memory": {"content": "y", "id": id}})];
    assert!(refusal(&space, now, &twice, true).contains("comes twice"));
    let many = vec![json!({"memory": {"content": "x"}}); limits::BATCH + 1];
    assert!(refusal(&space, now, &many, false).contains("at most 10000"));
    assert!(digest(&space) == before);
    for cursor in ["", "1", "m:0:0:0:0", "s:x:"] {
        assert!(space.export(now, cursor, 1).err().unwrap().message().contains("begin with 0"), "{cursor}");
    }
}

#[test]
fn a_page_is_bounded() {
    let mut space = precise();
    for n in 0..40 {
        store(&mut space, T0 + n, memory(&format!("{n} {}", "long ".repeat(20_000))));
    }
    let page = space.export(T0 + 50, "0", 1000).unwrap();
    let next = page.next().to_owned();
    assert!((5..20).contains(&page.len()) && next != "0", "{}", page.len());
    assert!(page.bytes().abs_diff(page.lines().iter().map(String::len).sum()) < 20_000);
    assert_eq!(exported(&space, T0 + 50, 1000).len(), 42);
    // The first page spoke of no vectors.
    store(&mut space, T0 + 60, with_vector("late", &[1.0, 0.0]));
    let error = space.export(T0 + 60, &next, 10).err().unwrap();
    assert_eq!(error.code(), "STALE");
}

/// Lines of a space in which something was broken.
fn broken(random: &mut Random, lines: &[String]) -> Vec<Meta> {
    let mut lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let odd = [
        json!(null),
        json!(-1),
        json!(0),
        json!(1),
        json!(2.5),
        json!("x"),
        json!(""),
        json!("AAAA"),
        json!([]),
        json!(["x"]),
        json!({}),
        json!(true),
        json!(u64::MAX),
    ];
    for _ in 0..1 + random.below(4) {
        let n = random.below(lines.len());
        match random.below(6) {
            0 => drop(lines.remove(n)),
            1 => {
                let other = random.below(lines.len());
                lines.swap(n, other);
            }
            2 => {
                let line = lines[n].clone();
                lines.push(line);
            }
            _ => {
                let other = random.below(lines.len());
                let foreign =
                    lines[other].as_object().and_then(|line| line.values().next()).cloned().unwrap_or_default();
                let Some(line) = lines[n].as_object_mut().and_then(|line| line.values_mut().next()) else { continue };
                let Some(members) = line.as_object_mut().filter(|members| !members.is_empty()) else { continue };
                let name = members.keys().nth(random.below(members.len())).unwrap().clone();
                let value = match foreign.get(&name) {
                    Some(value) if random.chance(60) => value.clone(),
                    _ => random.pick(&odd).clone(),
                };
                members.insert(name, value);
            }
        }
        if lines.is_empty() {
            break;
        }
    }
    lines.into_iter().filter_map(|line| line.as_object().cloned()).collect()
}

#[test]
fn broken_lines_are_taken_whole_or_not_at_all() {
    let mut taken = 0;
    for seed in 0..1500u64 {
        let mut random = Random(seed);
        let now = T0 + 3 * DAY;
        let (source, _) = any_space(&mut random, "i8", 40);
        let mut target = if random.chance(50) { source.copy() } else { Space::new() };
        let lines = broken(&mut random, &exported(&source, now, 100));
        let (before, state_before) = (digest(&target), state(&target, 1 << 20));
        let replace = random.chance(60);
        match target.import(now, &lines, replace) {
            Ok((_, effects)) => {
                taken += 1;
                for effect in sent(&effects) {
                    target.apply(&effect).unwrap_or_else(|error| panic!("seed {seed}: {error} {effect:?}"));
                }
                target.check_invariants();
                let (again, _) = target.import(now, &lines, replace).unwrap_or_default();
                assert!(again.written <= lines.len());
                let loaded = load(&state(&target, 300));
                assert!(digest(&loaded) == digest(&target), "seed {seed}");
            }
            Err(_) => assert!(digest(&target) == before && state(&target, 1 << 20) == state_before),
        }
    }
    assert!(taken > 200, "{taken}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_a_cursor_or_not(text in "[stm]:[0-9]{1,10}:0(:[0-9A-Za-z=-]{0,9}){0,2}") {
        let (space, now) = any_space(&mut Random(1), "i8", 30);
        if let Ok(page) = space.export(now, &text, 10) {
            prop_assert!(page.len() <= 10);
        }
    }
}

#[test]
fn counters_only_rise() {
    let mut space = Space::new();
    import_json(&mut space, T0, &[json!({"counters": {"hits": 5, "stores": 2}})], false);
    import_json(&mut space, T0, &[json!({"counters": {"hits": 3, "misses": 1}})], false);
    assert_eq!(space.stats(T0).counters, Counters { hits: 5, misses: 1, stores: 2, ..Counters::default() });
    let effect = Effect::Counters(Counters::default());
    space.apply(&effect).unwrap();
}
