//! Storing and updating: defaults, ids, duplicates, models, bad input.

use crate::support::*;
use engram_memory::*;
use serde_json::json;

fn meta(value: serde_json::Value) -> Option<Meta> {
    value.as_object().cloned()
}

#[test]
fn defaults() {
    let mut space = Space::new();
    let id = store(&mut space, T0, memory("The cat sat."));
    let entry = get(&space, T0, id);
    assert_eq!(id, MemoryId { ms: T0, seq: 0 });
    assert_eq!((entry.tier, &*entry.kind), (Tier::ShortTerm, "fact"));
    assert_eq!((entry.importance, entry.confidence), (0.5, 1.0));
    assert_eq!((entry.at, entry.created, entry.entered, entry.accessed), (T0, T0, T0, T0));
    assert_eq!((entry.expires, entry.own_expiry, entry.uses), (Some(T0 + DAY), false, 0));
    assert_eq!((entry.windows, entry.template, entry.pinned), (0, 0, false));
    assert!(entry.session.is_none() && entry.outcome.is_none() && entry.meta.is_none() && entry.tags.is_empty());
}

#[test]
fn every_field_is_kept_and_saved() {
    let mut space = precise();
    let new = NewMemory {
        tier: Some(Tier::Episodic),
        id: Some(MemoryId { ms: 7, seq: 9 }),
        content: "Ünï\n\"code\" 🐈".into(),
        vectors: Vectors::Embedded {
            model: "minilm".into(),
            template: 1,
            windows: vec![vec![3.0, 4.0], vec![0.0, -2.0]],
            words: vec![vec![1.0, -1.0]],
        },
        importance: Some(0.25),
        confidence: Some(0.75),
        kind: Some("event".into()),
        outcome: Some("task_completed".into()),
        session: Some("s".into()),
        speaker: Some("Ann".into()),
        role: Some("user".into()),
        source: Some("file.txt".into()),
        from: vec![MemoryId { ms: 1, seq: 0 }],
        at: Some(12),
        ttl: Ttl::Seconds(60),
        pinned: true,
        tags: vec!["a".into(), "b".into(), "a".into()],
        meta: meta(json!({"x": 0.1, "y": [1, {"z": null}], "big": 9007199254740993u64})),
        supersedes: None,
        dedup: Dedup::Off,
        tokens: 7,
        awaits: false,
        marks: Marks::default(),
        passage: None,
        held: false,
    };
    let id = store(&mut space, T0, new);
    let loaded = load(&state(&space, 10));
    for space in [&space, &loaded] {
        let e = get(space, T0, id);
        assert_eq!((e.tier, &*e.content, &*e.kind), (Tier::Episodic, "Ünï\n\"code\" 🐈", "event"));
        assert_eq!((e.importance, e.confidence, e.at), (0.25, 0.75, 12));
        assert_eq!((e.outcome.as_deref(), e.session.as_deref()), (Some("task_completed"), Some("s")));
        assert_eq!(
            (e.speaker.as_deref(), e.role.as_deref(), e.source.as_deref()),
            (Some("Ann"), Some("user"), Some("file.txt"))
        );
        assert_eq!(
            (e.from.as_slice(), e.expires, e.own_expiry),
            (&[MemoryId { ms: 1, seq: 0 }][..], Some(T0 + 60_000), true)
        );
        assert_eq!((e.pinned, e.template, e.windows), (true, 1, 2));
        assert_eq!(e.tags.iter().map(|tag| &**tag).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(e.meta, meta(json!({"x": 0.1, "y": [1, {"z": null}], "big": 9007199254740993u64})));
        assert_eq!(space.vectors(e.id), [[0.6f32, 0.8], [0.0, -1.0]]);
        assert_eq!((space.model(), space.dim()), (Some("minilm"), Some(2)));
    }
}

#[test]
fn ids() {
    let mut space = Space::new();
    let given = |ms, seq, content: &str| NewMemory { id: Some(MemoryId { ms, seq }), ..memory(content) };
    assert_eq!(store(&mut space, T0, memory("a")), MemoryId { ms: T0, seq: 0 });
    assert_eq!(store(&mut space, T0, memory("b")), MemoryId { ms: T0, seq: 1 });
    assert_eq!(store(&mut space, T0 - 5, memory("c")), MemoryId { ms: T0, seq: 2 });
    // A given id need not be the largest.
    assert_eq!(store(&mut space, T0, given(5, 5, "d")), MemoryId { ms: 5, seq: 5 });
    assert_eq!(store(&mut space, T0, given(T0 + 10, 3, "e")), MemoryId { ms: T0 + 10, seq: 3 });
    // Later ids stay above all seen, forgotten ones included, also after a reload.
    let effects = space.forget_effects(&[MemoryId { ms: T0 + 10, seq: 3 }]);
    apply(&mut space, &effects);
    let mut space = load(&state(&space, 1000));
    assert_eq!(store(&mut space, T0 + 1, memory("f")), MemoryId { ms: T0 + 10, seq: 4 });
    // In use: an error, unless it is the same content again.
    let error = refused(&space, T0, given(5, 5, "other"));
    assert_eq!(error.message(), "id exists, use MEM.UPDATE: 5-5 holds another content");
    let again = space.store(T0, given(5, 5, "d")).unwrap();
    assert_eq!((again.id, again.duplicate), (MemoryId { ms: 5, seq: 5 }, true));
    // What has expired gives its id back.
    let gone = T0 + 40 * DAY;
    let id = store(&mut space, gone, given(5, 5, "new"));
    assert_eq!(&*get(&space, gone, id).content, "new");
    space.check_invariants();
    assert!(refused(&space, T0, given(0, 0, "x")).message().contains("not a memory id"));
}

#[test]
fn duplicates() {
    let mut space = Space::new();
    let of = |content: &str, session: Option<&str>, speaker: Option<&str>, importance| NewMemory {
        session: session.map(Into::into),
        speaker: speaker.map(Into::into),
        importance: Some(importance),
        ..memory(content)
    };
    let first = store(&mut space, T0, of("The cat  sat.", Some("s"), None, 0.4));
    let again = space.store(T0 + 5, of(" the CAT sat. ", Some("s"), None, 0.9)).unwrap();
    assert_eq!((again.id, again.duplicate), (first, true));
    apply(&mut space, &again.effects);
    let entry = get(&space, T0, first);
    assert_eq!((entry.importance, entry.uses, entry.accessed), (0.9, 1, T0 + 5));
    assert_eq!(&*entry.content, "The cat  sat.");
    // A smaller importance does not lower it.
    store(&mut space, T0 + 6, of("the cat sat.", Some("s"), None, 0.1));
    assert_eq!((get(&space, T0, first).importance, get(&space, T0, first).uses), (0.9, 2));
    for other in [of("the cat sat.", None, None, 0.5), of("the cat sat.", Some("s"), Some("Ann"), 0.5)] {
        assert!(!space.store(T0, other).unwrap().duplicate);
    }
    let off = NewMemory { dedup: Dedup::Off, ..of("the cat sat.", Some("s"), None, 0.5) };
    assert!(!space.store(T0, off).unwrap().duplicate);
    // What has expired is no duplicate.
    assert!(!space.store(T0 + 2 * DAY, of("the cat sat.", Some("s"), None, 0.5)).unwrap().duplicate);
    assert_eq!(space.stats(T0).counters.duplicates, 2);
}

#[test]
fn duplicates_by_similarity() {
    let mut space = Space::new();
    let first = store(&mut space, T0, with_vector("one", &[1.0, 0.0]));
    let near = |dedup| NewMemory { dedup, ..with_vector("two", &[1.0, 0.1]) };
    assert!(!space.store(T0, near(Dedup::Default)).unwrap().duplicate);
    assert!(!space.store(T0, near(Dedup::Similar(0.999))).unwrap().duplicate);
    let stored = space.store(T0, near(Dedup::Similar(0.99))).unwrap();
    assert_eq!((stored.id, stored.duplicate), (first, true));
    let elsewhere = NewMemory { session: Some("s".into()), ..near(Dedup::Similar(0.9)) };
    assert!(!space.store(T0, elsewhere).unwrap().duplicate);
    // By the setting.
    let effects = space.set(T0, "dedup", "0.99").unwrap();
    apply(&mut space, &effects);
    assert!(space.store(T0, near(Dedup::Default)).unwrap().duplicate);
    assert!(!space.store(T0, near(Dedup::Exact)).unwrap().duplicate);
    for f in [0.0, -1.0, 1.1, f64::NAN] {
        assert!(refused(&space, T0, near(Dedup::Similar(f))).message().contains("DEDUP"));
    }
    // Within one batch, and never of a long text by one of its windows.
    let (ids, _) = Space::new().store_many(T0, vec![near(Dedup::Off), near(Dedup::Similar(0.9))]).unwrap();
    assert_eq!(ids[0], ids[1]);
    let long = Vectors::Embedded {
        model: "m".into(),
        template: 1,
        windows: vec![vec![1.0, 0.0], vec![0.0, 1.0]],
        words: vec![],
    };
    let short = Vectors::Embedded { model: "m".into(), template: 1, windows: vec![vec![1.0, 0.0]], words: vec![] };
    let mut space = Space::new();
    store(&mut space, T0, NewMemory { vectors: long, ..memory("long") });
    let new = NewMemory { vectors: short, dedup: Dedup::Similar(0.5), ..memory("short") };
    assert!(!space.store(T0, new).unwrap().duplicate);
}

#[test]
fn batches() {
    let mut space = Space::new();
    let working = |content: &str| NewMemory { tier: Some(Tier::Working), ..memory(content) };
    for n in 0..10 {
        store(&mut space, T0 + n, working(&format!("old {n}")));
    }
    let batch =
        vec![working("a"), working("old 0"), working("A "), NewMemory { importance: Some(0.9), ..working("a") }];
    let (ids, effects) = space.store_many(T0 + 20, batch).unwrap();
    assert_eq!((ids[0], ids[2], ids[3]), (MemoryId { ms: T0 + 20, seq: 0 }, ids[0], ids[0]));
    assert_eq!(ids[1], MemoryId { ms: T0, seq: 0 });
    // "old 0" would have been the first to go; it was stored again by the same call.
    assert_eq!(removed(&effects, Removal::Evicted), [MemoryId { ms: T0 + 1, seq: 0 }]);
    apply(&mut space, &effects);
    space.check_invariants();
    assert_eq!((get(&space, T0, ids[0]).importance, get(&space, T0, ids[0]).uses), (0.9, 2));
    assert_eq!(count(&space, T0, Tier::Working), 10);

    let error = space.store_many(T0, (0..11).map(|n| working(&format!("new {n}"))).collect()).unwrap_err();
    assert!(error.message().contains("tier working holds 10"), "{error}");
    let error =
        space.store_many(T0, vec![working("x"), NewMemory { importance: Some(2.0), ..working("y") }]).unwrap_err();
    assert_eq!(error.message(), "memory 2: IMPORTANCE is 2: it takes a number from 0 to 1");
    // A given id later in the call is not taken by one that is made before it.
    let next = MemoryId { ms: T0 + 30, seq: 0 };
    let (ids, _) = space.store_many(T0 + 30, vec![working("p"), NewMemory { id: Some(next), ..working("q") }]).unwrap();
    assert!(ids[0] > next && ids[1] == next);
    let twice = vec![NewMemory { id: Some(next), ..working("q") }, NewMemory { id: Some(next), ..working("r") }];
    assert!(space.store_many(T0, twice).unwrap_err().message().contains("id exists"));
    assert_eq!(space.store_many(T0, Vec::new()).unwrap().0, []);
}

#[test]
fn models_and_dimensions() {
    let embedded = |model: &str, vector: &[f32], content: &str| NewMemory {
        vectors: Vectors::Embedded { model: model.into(), template: 1, windows: vec![vector.to_vec()], words: vec![] },
        ..memory(content)
    };
    let mut own = Space::new();
    store(&mut own, T0, with_vector("a", &[1.0, 0.0, 0.0]));
    assert_eq!((own.model(), own.dim()), (None, Some(3)));
    let error = refused(&own, T0, embedded("m", &[1.0, 0.0, 0.0], "b"));
    assert!(error.message().contains("the caller's own vectors of 3 dimensions"), "{error}");
    let error = refused(&own, T0, with_vector("b", &[1.0, 0.0]));
    assert_eq!(error.message(), "the vector has 2 dimensions: those of this space have 3");

    let mut made = Space::new();
    store(&mut made, T0, embedded("m", &[1.0, 0.0], "a"));
    assert_eq!((made.model(), made.dim()), (Some("m"), Some(2)));
    store(&mut made, T0, with_vector("b", &[0.0, 5.0]));
    let error = refused(&made, T0, embedded("n", &[1.0, 0.0], "c"));
    assert!(error.message().contains("the model m") && error.message().contains("embedded by n"), "{error}");
    assert!(refused(&made, T0, embedded("m", &[1.0], "c")).message().contains("1 dimensions"));
    // A batch fixes it for itself too.
    let error = Space::new().store_many(T0, vec![with_vector("a", &[1.0]), with_vector("b", &[1.0, 1.0])]).unwrap_err();
    assert!(error.message().starts_with("memory 2: the vector has 2 dimensions"), "{error}");
    // Text without an embedding fixes nothing.
    let mut none = Space::new();
    store(&mut none, T0, memory("a"));
    assert_eq!(none.dim(), None);
}

#[test]
fn bad_vectors() {
    let space = Space::new();
    for (vector, says) in [
        (vec![], "0 dimensions"),
        (vec![1.0; 16_385], "16385 dimensions"),
        (vec![0.0, 0.0], "no direction"),
        (vec![f32::NAN, 1.0], "no direction"),
        (vec![f32::INFINITY, 1.0], "no direction"),
    ] {
        let error = refused(&space, T0, with_vector("a", &vector));
        assert!(error.message().contains(says), "{error}");
    }
    // Extreme numbers have a direction all the same.
    let mut space = Space::new();
    let id = store(&mut space, T0, with_vector("a", &[f32::MAX, f32::MAX]));
    assert!((space.vectors(id)[0][0] - 0.5f32.sqrt()).abs() < 1e-6);
    store(&mut space, T0, with_vector("b", &[1e-45, 0.0]));
    space.check_invariants();
}

#[test]
fn bad_fields() {
    let space = Space::new();
    let base = || memory("content");
    let long = "x".repeat(300);
    let nested = (0..20).fold(json!(1), |inner, _| json!([inner]));
    let cases: Vec<(NewMemory, &str)> = vec![
        (memory(""), "content is empty"),
        (memory(" \n "), "content is empty"),
        (memory(&"x".repeat((1 << 20) + 1)), "1048577 bytes"),
        (NewMemory { importance: Some(1.5), ..base() }, "IMPORTANCE is 1.5"),
        (NewMemory { importance: Some(f64::NAN), ..base() }, "IMPORTANCE is NaN"),
        (NewMemory { confidence: Some(-0.1), ..base() }, "CONFIDENCE is -0.1"),
        (NewMemory { kind: Some(String::new()), ..base() }, "TYPE has 0 bytes"),
        (NewMemory { session: Some(long.clone()), ..base() }, "SESSION has 300 bytes"),
        (NewMemory { outcome: Some(long.clone()), ..base() }, "OUTCOME has 300 bytes"),
        (NewMemory { speaker: Some(long.clone()), ..base() }, "SPEAKER"),
        (NewMemory { role: Some(long.clone()), ..base() }, "ROLE"),
        (NewMemory { source: Some("x".repeat(5000)), ..base() }, "SOURCE has 5000 bytes"),
        (NewMemory { at: Some(u64::MAX), ..base() }, "AT is 18446744073709551615"),
        (NewMemory { ttl: Ttl::Seconds(0), ..base() }, "TTL is 0"),
        (NewMemory { ttl: Ttl::Seconds(u64::MAX), ..base() }, "TTL is"),
        (NewMemory { tags: vec![String::new()], ..base() }, "tag 1 has 0 bytes"),
        (NewMemory { tags: (0..129).map(|n| n.to_string()).collect(), ..base() }, "129 tags"),
        (NewMemory { from: vec![MemoryId::ZERO], ..base() }, "FROM: 0-0"),
        (NewMemory { from: vec![MemoryId { ms: 1, seq: 1 }; 1025], ..base() }, "FROM: 1025 ids"),
        (
            NewMemory { meta: meta(json!({"session": 1})), ..base() },
            "'session' is a built-in name: use the option SESSION",
        ),
        (NewMemory { meta: meta(json!({"heat": 1})), ..base() }, "'heat' is a built-in name"),
        (NewMemory { meta: meta(json!({"doc": 1})), ..base() }, "use the option SOURCE"),
        (NewMemory { meta: meta(json!({"_x": 1})), ..base() }, "begins with _"),
        (NewMemory { meta: meta(json!({"": 1})), ..base() }, "a field name has 1 to"),
        (NewMemory { meta: meta(json!({"x": nested})), ..base() }, "META is too large"),
        (NewMemory { meta: meta(json!({"x": "y".repeat(70_000)})), ..base() }, "META is too large"),
        (NewMemory { meta: Some((0..257).map(|n| (format!("f{n}"), json!(n))).collect()), ..base() }, "257 fields"),
    ];
    for (new, says) in cases {
        let error = refused(&space, T0, new);
        assert!(error.message().contains(says), "{error} | {says}");
        assert_eq!(error.code(), "ERR");
    }
}

#[test]
fn updates() {
    let mut space = Space::new();
    let id = store(&mut space, T0, NewMemory { meta: meta(json!({"x": 1})), ..with_vector("a", &[1.0, 0.0]) });
    let update = |space: &mut Space, update: Update| {
        let effects = space.update(T0 + 1, id, update).unwrap();
        apply(space, &effects);
        space.check_invariants();
        effects.len()
    };
    assert_eq!(update(&mut space, Update { importance: Some(0.5), ..Update::default() }), 0, "nothing changes");
    assert_eq!(update(&mut space, Update { meta: Some(meta(json!({"y": 2}))), ..Update::default() }), 1);
    assert_eq!(get(&space, T0, id).meta, meta(json!({"y": 2})));
    assert!(space.filter(".x == 1").is_err() && space.filter(".y == 2").is_ok());
    update(
        &mut space,
        Update { outcome: Some(Some("done".into())), session: Some(Some("s".into())), ..Update::default() },
    );
    assert_eq!(get(&space, T0, id).outcome.as_deref(), Some("done"));
    update(&mut space, Update { outcome: Some(None), ..Update::default() });
    assert_eq!(get(&space, T0, id).outcome, None);
    // Vectors go with the content.
    let content = |vectors| Update { content: Some("b".into()), vectors, ..Update::default() };
    assert!(space.update(T0, id, content(None)).unwrap_err().message().contains("its vectors are not"));
    update(&mut space, content(Some(Vectors::Given(vec![0.0, 2.0]))));
    assert_eq!(space.vectors(id), [[0.0f32, 1.0]]);
    assert_eq!(contents(&recall(&space, T0, &[0.0, 1.0], 5)), ["b"]);
    let none = Update { content: Some("c".into()), vectors: Some(Vectors::None), ..Update::default() };
    update(&mut space, none);
    assert!(recall(&space, T0, &[0.0, 1.0], 5).is_empty());
    assert!(space.store(T0, NewMemory { session: Some("s".into()), ..memory("C") }).unwrap().duplicate);
    // Tier and lifetime.
    update(&mut space, Update { tier: Some(Tier::Semantic), ..Update::default() });
    assert_eq!((get(&space, T0, id).expires, get(&space, T0, id).entered), (None, T0 + 1));
    update(&mut space, Update { ttl: Some(Ttl::Seconds(9)), ..Update::default() });
    assert_eq!(get(&space, T0, id).expires, Some(T0 + 9001));
    update(&mut space, Update { tier: Some(Tier::Working), ..Update::default() });
    assert_eq!(get(&space, T0, id).expires, Some(T0 + 9001), "a lifetime of its own is kept");
    update(&mut space, Update { ttl: Some(Ttl::Tier), ..Update::default() });
    assert_eq!(get(&space, T0, id).expires, Some(T0 + 1 + HOUR));
    update(&mut space, Update { ttl: Some(Ttl::Persist), ..Update::default() });
    assert_eq!(get(&space, T0, id).expires, None);

    let before = digest(&space);
    for (update, says) in [
        (Update { importance: Some(7.0), ..Update::default() }, "IMPORTANCE"),
        (Update { vectors: Some(Vectors::Given(vec![1.0])), ..Update::default() }, "1 dimensions"),
        (Update { meta: Some(meta(json!({"tier": 1}))), ..Update::default() }, "use the option TIER"),
        (Update { content: Some(" ".into()), vectors: Some(Vectors::None), ..Update::default() }, "content is empty"),
    ] {
        assert!(space.update(T0, id, update).unwrap_err().message().contains(says), "{says}");
    }
    assert_eq!(digest(&space), before);
    let error = space.update(T0, MemoryId { ms: 1, seq: 1 }, Update::default()).unwrap_err();
    assert_eq!(error.message(), "no such memory: 1-1");
}
