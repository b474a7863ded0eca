//! Memory: what the space says it takes against what the allocator counts.

use crate::counting::held;
use crate::support::*;
use engram_memory::*;
use std::hint::black_box;

fn measure(what: &str, count: usize, mut new: impl FnMut(usize, &mut Random) -> NewMemory) {
    let mut random = Random(1);
    // What a thread remembers of words belongs to no space.
    let _ = words("warm", Language::English);
    let before = held();
    let mut space = Space::new();
    for tier in Tier::ALL {
        let effects = space.set(T0, &format!("{tier}.capacity"), "0").unwrap();
        apply(&mut space, &effects);
    }
    for n in 0..count {
        let memory = new(n, &mut random);
        store(&mut space, T0 + n as u64, memory);
    }
    let real = (held() - before) as f64 + size_of::<Space>() as f64;
    let said = space.memory_usage() as f64;
    assert!((said / real - 1.0).abs() < 0.1, "{what}: says {said}, takes {real} ({:.3})", said / real);
    // Half of it forgotten and compacted: still true.
    let all: Vec<MemoryId> = space.forget(T0, &Selection::Filter(Filter::parse("true").unwrap()));
    let half: Vec<MemoryId> = all.into_iter().step_by(2).collect();
    let effects = space.forget_effects(&half);
    apply(&mut space, &effects);
    while space.compact_step(1000) {}
    drop((effects, half));
    let real = (held() - before) as f64 + size_of::<Space>() as f64;
    let said = space.memory_usage() as f64;
    assert!((said / real - 1.0).abs() < 0.2, "{what}, half gone: says {said}, takes {real} ({:.3})", said / real);
    black_box(space);
}

#[test]
fn usage_is_true() {
    measure("text", 4000, |n, _| memory(&format!("memory {n}: {}", "some words ".repeat(n % 30))));
    measure("vectors", 3000, |n, random| with_vector(&format!("memory {n}"), &random.vector(384)));
    measure("everything", 3000, |n, random| {
        NewMemory {
            vectors: Vectors::Embedded {
                model: "m".into(),
                template: 1,
                windows: (0..n % 3).map(|_| random.vector(64)).collect(),
                words: (0..n % 5).map(|_| random.vector(64)).collect(),
            },
            session: Some(format!("session {}", n % 10)),
            speaker: Some("Ann".into()),
            tags: (0..n % 4).map(|t| format!("tag {t}")).collect(),
            meta: Some([("colour".to_owned(), "blue".into()), ("n".to_owned(), n.into())].into_iter().collect()),
            ..memory(&format!("memory {n} of everything"))
        }
        .or_plain(n % 3 == 0)
    });
    // A few memories take a few kilobytes, not a block of a thousand rows.
    let mut small = Space::new();
    for n in 0..5 {
        store(&mut small, T0, with_vector(&format!("m{n}"), &Random(n).vector(384)));
    }
    assert!(small.memory_usage() < 48 * 1024, "{}", small.memory_usage());
}

trait OrPlain {
    fn or_plain(self, plain: bool) -> Self;
}

impl OrPlain for NewMemory {
    /// Without vectors, which an embedding may not be.
    fn or_plain(self, plain: bool) -> NewMemory {
        if plain { NewMemory { vectors: Vectors::None, ..self } } else { self }
    }
}

/// A snapshot costs nothing that grows, and a change beside it copies little.
#[test]
fn snapshots_are_cheap() {
    let mut space = Space::new();
    for n in 0..5000 {
        let new = NewMemory { tier: Some(Tier::LongTerm), ..with_vector(&format!("m{n}"), &[1.0, n as f32]) };
        store(&mut space, T0 + n, new);
    }
    let before = held();
    let snapshot = space.snapshot();
    assert!(held() - before < 256);
    let id = MemoryId { ms: T0 + 2000, seq: 0 };
    let effects = space.update(T0, id, Update { importance: Some(0.9), ..Update::default() }).unwrap();
    apply(&mut space, &effects);
    assert!(held() - before < 16 * 1024, "{}", held() - before);
    black_box(snapshot);
}
