//! Any text is read as a filter or refused; what is read can be evaluated, and over columns it is what it is memory by memory.
#![no_main]

use engram_memory::{Filter, MemoryId, NewMemory, Selection, Space, Tier, Ttl};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

/// 67 memories of all sorts: one word of rows and a bit, every form of column, values of all types in one field.
static SPACE: LazyLock<Space> = LazyLock::new(|| {
    let mut space = Space::new();
    for n in 0..67u64 {
        let mixed = || [n.into(), "x".into(), true.into(), vec![1, 2].into(), ().into(), (n as f64 / 8.0).into()];
        let meta = [
            ("year", (1980 + n % 5).into()),
            ("mixed", mixed().into_iter().nth(n as usize % 6).expect("six")),
            ("name", format!("n{n}").into()),
        ];
        let fields = if n % 3 == 0 { 1 } else { 3 };
        let new = NewMemory {
            tier: Some(Tier::ALL[n as usize % 5]),
            content: format!("the content of {n}"),
            session: (n % 4 != 0).then(|| format!("s{}", n % 7)),
            importance: Some(n as f64 / 66.0),
            pinned: n % 9 == 0,
            ttl: if n % 5 == 0 { Ttl::Persist } else { Ttl::default() },
            tags: if n % 2 == 0 { vec!["a".into(), format!("t{}", n % 3)] } else { vec![] },
            meta: Some(meta.into_iter().take(fields).map(|(name, value)| (name.to_owned(), value)).collect()),
            ..NewMemory::default()
        };
        let stored = space.store(1000 + n, new).expect("a sound memory");
        for effect in &stored.effects {
            space.apply(effect).expect("its effect");
        }
    }
    space
});

fuzz_target!(|text: &str| {
    let _ = SPACE.filter(text);
    if let Ok(filter) = Filter::parse(text) {
        let (_, all) = SPACE.scan(2000, MemoryId::ZERO, usize::MAX, None);
        let plain: Vec<MemoryId> = all.iter().filter(|entry| filter.matches(entry)).map(|entry| entry.id).collect();
        assert_eq!(SPACE.forget(2000, &Selection::Filter(filter)), plain);
    }
});
