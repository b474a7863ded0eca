//! The same of a saved space in which some bytes were changed, cut out or put in: bytes out of nothing seldom get as far as a memory
//! whose vectors are staged.
#![no_main]

mod sound;

use engram_memory::{Embedded, MemoryId, NewMemory, Precision, Space, Tier, Vectors};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

/// Three memories of all sorts, all but the last of them staged. Few, so that an edit is likely to hit what is rare.
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
    let mut saved = Vec::new();
    space.encode_state(usize::MAX, &mut |chunk| saved.extend_from_slice(chunk));
    saved
});

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
