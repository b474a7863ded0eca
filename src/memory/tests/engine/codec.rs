//! Effects as bytes: round trips, and bytes from anyone.

use crate::counting::peak;
use crate::support::*;
use engram_memory::*;
use proptest::prelude::*;

/// A space that has something of everything.
fn full() -> Space {
    let mut space = precise();
    let mut random = Random(5);
    for n in 0..40u64 {
        let new = NewMemory {
            tier: Some(Tier::ALL[n as usize % 5]),
            vectors: if n % 3 == 0 {
                Vectors::None
            } else {
                Vectors::Embedded {
                    model: "m".into(),
                    template: 1,
                    windows: (0..n % 3).map(|_| random.vector(5)).collect(),
                    words: (0..n % 4).map(|_| random.vector(5)).collect(),
                }
            },
            outcome: n.is_multiple_of(2).then(|| "done".into()),
            session: n.is_multiple_of(3).then(|| "s".into()),
            source: n.is_multiple_of(5).then(|| "src".into()),
            from: vec![MemoryId { ms: 3, seq: n }; n as usize % 3],
            pinned: n.is_multiple_of(11),
            ttl: if n % 4 == 0 { Ttl::Seconds(n + 1) } else { Ttl::Tier },
            tags: (0..n % 4).map(|tag| format!("t{tag}")).collect(),
            meta: n
                .is_multiple_of(4)
                .then(|| [("k".to_owned(), serde_json::json!({"x": [n, "y", null, 0.1]}))].into_iter().collect()),
            ..memory(&format!("content {n}"))
        };
        let id = store(&mut space, T0 + n, new);
        if n >= 2 {
            let other = MemoryId { ms: T0 + n - 2, seq: 0 };
            let linked =
                space.link(T0 + n, id, other, "follows", 0.1, (n % 2 == 0).then_some("the next")).unwrap_or_default();
            apply(&mut space, &linked);
        }
        space.touch(id, T0 + 100);
        space.note_recall(n % 3 == 0);
    }
    space
}

/// Every kind of effect.
fn effects() -> Vec<Effect> {
    let mut effects = Vec::new();
    for chunk in state(&full(), 500) {
        effects.extend(decode_batch(&chunk).unwrap());
    }
    let id = MemoryId { ms: T0, seq: 0 };
    let meta: Meta = [("x".to_owned(), serde_json::json!([1, 2.5]))].into_iter().collect();
    effects.push(Effect::Patch {
        id,
        patch: Box::new(Patch {
            content: Some("new".into()),
            vectors: Some((1, vec![Vector::new(&[1.0, 0.0, 0.0, 0.0, 0.0], Precision::F32); 2], Signs::default())),
            tier: Some((Tier::Semantic, T0)),
            expiry: Some((Some(T0 + 9), true)),
            kind: Some("event".into()),
            importance: Some(0.1),
            confidence: Some(0.2),
            outcome: Some(Some("done".into())),
            session: Some(None),
            speaker: Some(Some("Ann".into())),
            role: Some(None),
            source: Some(Some("src".into())),
            from: Some(vec![id]),
            at: Some(9),
            pinned: Some(true),
            tags: Some(vec!["t".into()]),
            meta: Some(Some(meta)),
            supersedes: Some(None),
            superseded: Some(Some(Superseded { by: MemoryId { ms: T0, seq: 1 }, at: 8 })),
            tokens: Some(9),
        }),
    });
    effects.push(Effect::Patch {
        id,
        patch: Box::new(Patch { expiry: Some((None, false)), meta: Some(None), ..Patch::default() }),
    });
    for reason in [Removal::Forgotten, Removal::Evicted, Removal::Expired, Removal::Merged] {
        effects.push(Effect::Remove { ids: vec![MemoryId { ms: T0 + reason as u64, seq: 0 }], reason });
    }
    let rel = |rel: Option<&str>| rel.map(Box::from);
    for name in [None, Some("follows")] {
        effects.push(Effect::Unlink {
            from: MemoryId { ms: T0 + 12, seq: 0 },
            to: MemoryId { ms: T0 + 10, seq: 0 },
            rel: rel(name),
        });
    }
    effects.push(Effect::Duplicate { id: MemoryId { ms: T0 + 10, seq: 0 }, importance: 0.9, accessed: T0, uses: 3 });
    effects.push(Effect::Use(vec![(MemoryId { ms: T0 + 11, seq: 0 }, T0 + 5, u32::MAX)]));
    effects.push(Effect::LastId(MemoryId { ms: T0 + 10, seq: 1 << 53 }));
    effects
}

/// A loader gives what applying the effects one by one gives, whatever they are and wherever one is refused.
#[test]
fn loading_is_applying() {
    let effects = effects();
    for end in [effects.len() / 2, effects.len() - 3, effects.len()] {
        let (mut space, mut loader) = (Space::new(), Loader::default());
        for effect in &effects[..end] {
            let refused = space.apply(effect).is_err();
            assert_eq!(loader.apply(&bytes(std::slice::from_ref(effect))).is_err(), refused);
            // The same memory again is refused, and changes nothing.
            if matches!(effect, Effect::Put { .. }) {
                assert!(loader.apply(&bytes(std::slice::from_ref(effect))).is_err());
            }
        }
        let loaded = loader.finish();
        loaded.check_invariants();
        assert_eq!(digest(&loaded), digest(&space));
        assert_eq!(state(&loaded, 1000), state(&space, 1000));
    }
}

fn bytes(effects: &[Effect]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_batch(effects, &mut out);
    out
}

/// Whatever the bytes: no panic, bounded memory; and what can be applied leaves a sound space that saves and loads.
fn survives(bytes: &[u8]) {
    let (used, decoded) = peak(|| decode_batch(bytes));
    // A list in memory is larger than its bytes, by this factor at most, plus one error.
    assert!(used < 200 * bytes.len() as isize + 4096, "{used} bytes for {}", bytes.len());
    let Ok(effects) = decoded else { return };
    let mut space = Space::new();
    let mut before = digest(&space);
    for effect in &effects {
        match space.apply(effect) {
            Ok(_) => before = digest(&space),
            Err(error) => {
                assert!(!error.message().is_empty());
                assert!(digest(&space) == before, "a refused effect changed something");
            }
        }
    }
    space.check_invariants();
    assert!(digest(&load(&state(&space, 1000))) == digest(&space));
}

#[test]
fn round_trip() {
    let effects = effects();
    let first = bytes(&effects);
    assert_eq!(bytes(&decode_batch(&first).unwrap()), first);
    let mut space = Space::new();
    apply(&mut space, &decode_batch(&first).unwrap());
    space.check_invariants();
    assert_eq!(&*get(&space, T0, MemoryId { ms: T0 + 10, seq: 0 }).content, "content 10");
    assert_eq!(get(&space, T0, MemoryId { ms: T0 + 10, seq: 0 }).importance, 0.9);
    assert_eq!(get(&space, T0, MemoryId { ms: T0 + 11, seq: 0 }).uses, u32::MAX);
}

#[test]
fn chunks() {
    let space = full();
    let saved = digest(&space);
    for size in [0, 100, 1000, 1_000_000] {
        let chunks = state(&space, size);
        assert!(size < 1_000_000 || chunks.len() == 1);
        assert!(size != 1000 || chunks.iter().rev().skip(1).all(|chunk| chunk.len() <= 1000));
        let loaded = load(&chunks);
        assert!(digest(&loaded) == saved);
        assert_eq!(loaded.stats(T0), space.stats(T0).into_with_memory(&loaded));
        let uses = |space: &Space| get(space, T0, MemoryId { ms: T0 + 10, seq: 0 }).uses;
        assert_eq!(uses(&loaded), uses(&space));
    }
    assert!(digest(&load(&state(&Space::new(), 10))) == digest(&Space::new()));
}

trait WithMemory {
    fn into_with_memory(self, of: &Space) -> Self;
}

impl WithMemory for Stats {
    /// The room kept for more depends on the order of growth; all else must be equal.
    fn into_with_memory(self, of: &Space) -> Stats {
        Stats { memory: of.memory_usage(), memory_parts: of.memory_parts(), ..self }
    }
}

/// Use and counters are saved and stay out of the digest; a changed bit of content is in it.
#[test]
fn what_a_digest_holds() {
    let mut space = full();
    let before = digest(&space);
    space.touch(MemoryId { ms: T0 + 10, seq: 0 }, T0 + 500);
    space.note_recall(true);
    while space.compact_step(10) {}
    assert!(digest(&space) == before);
    let effects =
        space.update(T0, MemoryId { ms: T0 + 10, seq: 0 }, Update { at: Some(1), ..Update::default() }).unwrap();
    apply(&mut space, &effects);
    assert!(digest(&space) != before);
}

#[test]
fn bad_bytes() {
    for (bytes, says) in [
        (&[][..], "ends where 1 more"),
        (&[9], "version 9"),
        (&[2, 200], "no effect 200"),
        (&[2, 4, 9, 0], "no removal for reason 9"),
        (&[2, 4, 0, 0xff, 0xff, 0xff, 0xff, 0x0f], "at most 1024"),
        (&[2, 7, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], "more than 64 bits"),
        (&[2, 7, 1, 0xff, 0], "not UTF-8"),
        (&[2, 9, 0, 0], "0-0 is not a memory id"),
        (&[2, 1, 2], "neither 0 nor 1"),
    ] {
        let error = decode_batch(bytes).unwrap_err();
        assert!(error.message().contains(says), "{error} | {says}");
    }
    let whole = bytes(&effects());
    for end in 0..whole.len().min(3000) {
        survives(&whole[..end]);
    }
}

#[test]
fn effects_that_do_not_fit() {
    let mut space = full();
    let before = digest(&space);
    let id = MemoryId { ms: T0 + 10, seq: 0 };
    let unit = |len: usize| {
        let mut vector = vec![0.0; len];
        vector[0] = 1.0;
        Vector::new(&vector, Precision::F32)
    };
    let full_of = |x: f32| Vector::new(&[x; 5], Precision::F32);
    let patch = |patch: Patch| Effect::Patch { id, patch: Box::new(patch) };
    let entry = Box::new(space.get(T0, id).unwrap());
    let absent = MemoryId { ms: 1, seq: 1 };
    let cases = [
        (Effect::Model { model: Some("other".into()), dim: 5, precision: Precision::F32 }, "fixed already"),
        (Effect::Model { model: Some("m".into()), dim: 6, precision: Precision::F32 }, "fixed already"),
        (Effect::Model { model: None, dim: 0, precision: Precision::I8 }, "0 dimensions"),
        (Effect::Model { model: Some("m".into()), dim: 5, precision: Precision::I8 }, "fixed already"),
        (
            patch(Patch {
                vectors: Some((1, vec![Vector::new(&[1.0, 0.0, 0.0, 0.0, 0.0], Precision::F16)], Signs::default())),
                ..Patch::default()
            }),
            "precision",
        ),
        (
            patch(Patch {
                vectors: Some((
                    1,
                    vec![unit(5), Vector::new(&[1.0, 0.0, 0.0, 0.0, 0.0], Precision::I4)],
                    Signs::default(),
                )),
                ..Patch::default()
            }),
            "precision",
        ),
        (Effect::Put { entry, vectors: vec![unit(5)], signs: Signs::default() }, "id"),
        (patch(Patch { vectors: Some((1, vec![unit(4)], Signs::default())), ..Patch::default() }), "4 dimensions"),
        (
            patch(Patch { vectors: Some((1, vec![full_of(2.0)], Signs::default())), ..Patch::default() }),
            "not of length one",
        ),
        (
            patch(Patch { vectors: Some((1, vec![full_of(f32::NAN)], Signs::default())), ..Patch::default() }),
            "not of length one",
        ),
        (
            patch(Patch { vectors: Some((1, vec![unit(5); 1025], Signs::default())), ..Patch::default() }),
            "1025 vectors",
        ),
        (patch(Patch { importance: Some(f64::INFINITY), ..Patch::default() }), "IMPORTANCE"),
        (patch(Patch { content: Some("".into()), ..Patch::default() }), "content is empty"),
        (Effect::Patch { id: absent, patch: Box::default() }, "no such memory"),
        (Effect::Duplicate { id: absent, importance: 0.5, accessed: 1, uses: 1 }, "no such memory"),
        (Effect::Duplicate { id, importance: -1.0, accessed: 1, uses: 1 }, "IMPORTANCE"),
        (Effect::Duplicate { id, importance: 0.9, accessed: u64::MAX, uses: 1 }, "accessed"),
        (Effect::Use(vec![(id, u64::MAX, 1)]), "accessed"),
        (Effect::Set { name: "working.ttl".into(), value: "soon".into() }, "working.ttl"),
        (Effect::Set { name: "x".into(), value: "1".into() }, "unknown setting"),
        (Effect::LastId(MemoryId::ZERO), "0-0"),
    ];
    for (effect, says) in cases {
        let error = space.apply(&effect).unwrap_err();
        assert!(error.message().contains(says), "{error} | {says}");
        space.check_invariants();
    }
    assert!(digest(&space) == before);
    let gone = Effect::Remove { ids: vec![absent], reason: Removal::Forgotten };
    assert_eq!(space.apply(&gone), Ok(Applied { memories: 0 }));
}

#[test]
fn mutated_bytes() {
    let whole = bytes(&effects());
    let mut random = Random(11);
    for _ in 0..1500 {
        let mut mutated = whole.clone();
        for _ in 0..1 + random.below(8) {
            let at = random.below(mutated.len());
            match random.below(4) {
                0 => mutated[at] = random.next() as u8,
                1 => mutated[at] ^= 1 << random.below(8),
                2 => drop(mutated.drain(at..(at + random.below(9)).min(mutated.len()))),
                _ => {
                    let copy = mutated[at..(at + random.below(99)).min(mutated.len())].to_vec();
                    let to = random.below(mutated.len());
                    mutated.splice(to..to, copy);
                }
            }
        }
        survives(&mutated);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Some(first) = bytes.first_mut() {
            *first = VERSION;
        }
        survives(&bytes);
    }
}
