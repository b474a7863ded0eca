//! Any text in any language is analysed: its words lie in it, one behind the other, and a memory of it is found by it.
#![no_main]

use engram_memory::{Language, Mode, NewMemory, Recall, Space, normalised, words};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &str)| {
    let (at, text) = input;
    let language = Language::ALL[usize::from(at) % Language::ALL.len()];
    let found = words(text, language);
    let mut end = 0;
    for word in &found {
        assert!(end <= word.range.start && word.range.start < word.range.end);
        assert!(text.get(word.range.clone()).is_some(), "a word that is cut");
        end = word.range.end;
    }
    let plain = normalised(text);
    assert!(!plain.starts_with(' ') && !plain.ends_with(' ') && !plain.contains("  "));
    let mut space = Space::new();
    for effect in space.set(1000, "language", language.name()).expect("its own name") {
        space.apply(&effect).expect("a setting that was taken");
    }
    let speaker: String = text.chars().take(9).collect();
    let new =
        |content: &str| NewMemory { content: content.into(), speaker: Some(speaker.clone()), ..NewMemory::default() };
    let Ok(stored) = space.store(1000, new(text)) else { return };
    for effect in &stored.effects {
        space.apply(effect).expect("its effect");
    }
    space.check_invariants();
    let twin = space.store(1001, new(&format!(" {}\n", text))).expect("the text was taken before");
    assert_eq!(twin.id, stored.id, "the same text but for spaces");
    let recall =
        Recall { text: Some(text.into()), mode: Some(Mode::Lexical), k: 2, explain: true, ..Recall::default() };
    let hits = space.snapshot().recall(1001, &recall).expect("a recall by words").hits;
    assert!(found.is_empty() || hits.len() == 1, "its own words do not find it");
});
