//! Any text is read as a filter or refused; what is read can be evaluated.
#![no_main]

use engram_memory::{Filter, MemoryId, NewMemory, Space};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static SPACE: LazyLock<(Space, MemoryId)> = LazyLock::new(|| {
    let mut space = Space::new();
    let meta = [("year", 1984.into()), ("list", vec![1, 2].into()), ("name", "x".into())];
    let new = NewMemory {
        content: "the content".into(),
        tags: vec!["a".into(), "b".into()],
        meta: Some(meta.into_iter().map(|(name, value): (&str, _)| (name.to_owned(), value)).collect()),
        ..NewMemory::default()
    };
    let stored = space.store(1000, new).expect("a sound memory");
    for effect in &stored.effects {
        space.apply(effect).expect("its effect");
    }
    (space, stored.id)
});

fuzz_target!(|text: &str| {
    let (space, id) = &*SPACE;
    let entry = space.get(1000, *id).expect("the memory");
    let _ = space.filter(text);
    if let Ok(filter) = Filter::parse(text) {
        filter.matches(entry);
    }
});
