//! Any value is taken by a setting or refused. What is taken reads back as itself, and any text is a pattern of names.
#![no_main]

use engram_memory::{SETTINGS, Space};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &str)| {
    let (at, value) = input;
    let name = SETTINGS[usize::from(at) % SETTINGS.len()];
    let mut space = Space::new();
    let before = space.settings("*");
    assert!(space.settings(value).iter().all(|setting| before.contains(setting)));
    let Ok(effects) = space.set(1000, name, value) else { return };
    for effect in &effects {
        space.apply(effect).expect("a setting that was taken");
    }
    space.check_invariants();
    let after = space.settings("*");
    assert!(before.iter().zip(&after).all(|(before, after)| before == after || after.0 == name), "another one changed");
    for (name, value) in &after {
        assert!(space.set(1000, name, value).expect("its own value").is_empty(), "{name} {value} does not read back");
    }
});
