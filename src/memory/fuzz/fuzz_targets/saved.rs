//! The same of a saved space in which some bytes were changed, cut out or put in: bytes out of nothing seldom get as far as a memory
//! whose vectors are staged.
#![no_main]

mod sound;

use engram_memory::{
    ChunkFields, Document, Effect, Embedded, MemoryId, NewChunk, NewMemory, NewTurn, Precision, Space, Summary, Tier,
    Vectors,
};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

/// Three memories of all sorts, all but the last of them staged; a session of three turns, two of them summed up and the last without vectors; a document
/// that is shown and one that is half there; three links. Few, so that an edit is likely to hit what is rare.
static SAVED: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut space = Space::new();
    for n in 0..3usize {
        let vector = |at: usize| (0..4).map(|i| if i == at % 4 { 1.0 } else { 0.25 }).collect::<Vec<f32>>();
        let vectors = match n {
            0 => Vectors::None,
            _ => Vectors::Embedded {
                model: "m".into(),
                template: 2,
                windows: (0..n).map(vector).collect(),
                words: (0..n).map(vector).collect(),
            },
        };
        let new = NewMemory {
            tier: Some(Tier::ALL[n + 1]),
            content: format!("the content of {n}"),
            vectors,
            session: Some("s".into()),
            speaker: Some("Ann".into()),
            source: (n == 1).then(|| "src".into()),
            from: vec![MemoryId { ms: 3, seq: 1 }; n],
            pinned: n == 2,
            tags: vec!["a".into(); n.min(1)],
            meta: (n == 1).then(|| [("year".to_owned(), 1980.into())].into_iter().collect()),
            ..NewMemory::default()
        };
        let stored = space.store(1000 + n as u64, new).expect("a sound memory");
        for effect in &stored.effects {
            space.apply(effect).expect("its effect");
        }
    }
    for effect in space.reembed_begin(Some("other"), 3, Precision::F16).expect("a sound kind") {
        space.apply(&effect).expect("its effect");
    }
    let (missing, _) = space.reembed_missing(MemoryId::ZERO, 2);
    let made = missing.into_iter().map(|memory| Embedded {
        memory,
        windows: vec![vec![0.5, 0.25, 1.0]; 2],
        words: vec![vec![1.0, -1.0, 0.5]; 3],
    });
    for effect in space.reembed_add("other", &made.collect::<Vec<_>>()).expect("sound vectors") {
        space.apply(&effect).expect("its effect");
    }
    assert_eq!(space.staged(), Some(2));
    let ids: Vec<MemoryId> = space.scan(2000, MemoryId::ZERO, 3, None).1.iter().map(|entry| entry.id).collect();
    for (from, to, reason) in [(0, 1, None), (1, 0, Some("the same text")), (1, 2, None)] {
        let linked = space.link(2000, ids[from], ids[to], "r", 0.5, reason);
        carry(&mut space, linked.expect("a sound link"));
    }
    converse(&mut space);
    let mut saved = Vec::new();
    space.encode_state(usize::MAX, &mut |chunk| saved.extend_from_slice(chunk));
    saved
});

fn carry(space: &mut Space, effects: Vec<Effect>) {
    for effect in effects {
        space.apply(&effect).expect("its effect");
    }
}

fn converse(space: &mut Space) {
    let now = 2000;
    let turn = |role: &str, awaits| NewTurn {
        role: role.into(),
        content: format!("by the {role}"),
        awaits,
        ..NewTurn::default()
    };
    let turns = vec![turn("user", false), turn("assistant", false), turn("tool", true)];
    carry(space, space.append(now, "t", turns).expect("sound turns").1);
    carry(space, space.set_fields(now, "t", vec![("topic".into(), Some("x".into()))]).expect("a sound field"));
    let summary = Summary { text: "two".into(), tokens: 1, covered: 2, at: now, model: Some("m".into()) };
    carry(space, space.summarize(now, "t", summary).expect("a sound summary"));
    for (name, chunks) in [("d", 1), ("e", 2)] {
        let document = Document {
            name: name.into(),
            kind: Some("text".into()),
            source: None,
            at: now,
            created: now,
            bytes: 9,
            tokens: 3,
            chunks,
            meta: None,
        };
        carry(space, space.begin_document(document, Tier::LongTerm).expect("a sound document"));
        let chunk = NewChunk {
            content: format!("of {name}"),
            vectors: Vectors::None,
            position: 0,
            start: 0,
            end: 4,
            tokens: 2,
        };
        carry(space, space.stage_chunks(now, name, &ChunkFields::default(), vec![chunk]).expect("a sound chunk"));
    }
    carry(space, space.show_document(now, "d").expect("it is there"));
}

// An edit: where (two bytes), how many bytes go, how many come, and these.
fuzz_target!(|edits: &[u8]| {
    let (mut batch, mut edits) = (SAVED.clone(), edits);
    while let Some((&[low, high, go, come], rest)) = edits.split_first_chunk() {
        let start = usize::from(u16::from_le_bytes([low, high])) % (batch.len() + 1);
        let end = (start + usize::from(go % 16)).min(batch.len());
        let (new, rest) = rest.split_at(usize::from(come % 16).min(rest.len()));
        batch.splice(start..end, new.iter().copied());
        edits = rest;
    }
    sound::check(&batch);
});
