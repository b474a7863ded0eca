//! Any bytes are read as effects or refused; what is read is applied or refused; what comes of it is sound, and saves and loads.
#![no_main]

use engram_memory::{Space, VERSION, decode_batch};
use libfuzzer_sys::fuzz_target;

fn digest(space: &Space) -> Vec<u8> {
    let mut bytes = Vec::new();
    space.digest(&mut |part| bytes.extend_from_slice(part));
    bytes
}

fuzz_target!(|bytes: &[u8]| {
    let batch = [&[VERSION], bytes].concat();
    let Ok(effects) = decode_batch(&batch) else { return };
    let mut space = Space::new();
    for effect in &effects {
        let _ = space.apply(effect);
    }
    space.check_invariants();
    let mut loaded = Space::new();
    space.encode_state(4096, &mut |chunk| {
        for effect in decode_batch(chunk).expect("what was saved is readable") {
            loaded.apply(&effect).expect("what was saved applies");
        }
    });
    assert!(digest(&loaded) == digest(&space), "what was saved loads to something else");
});
