//! What must hold whatever effects come: shared by the targets that make them.

use engram_memory::{Effect, Loader, Space, VERSION, decode_batch, encode_batch};

/// Reads a batch or refuses it, and applies it effect by effect: to a space, and to a loader, which must agree with it. What was refused
/// must have changed nothing, and what was accepted must be sound, be saved and be loaded, and give way to what is staged.
pub fn check(batch: &[u8]) {
    let Ok(effects) = decode_batch(batch) else { return };
    let (mut space, mut accepted, mut loader) = (Space::new(), Space::new(), Loader::default());
    for effect in &effects {
        let applied = space.apply(effect);
        assert_eq!(loader.apply(&bytes(effect)).is_ok(), applied.is_ok(), "a loader refuses what a space refuses");
        if applied.is_ok() {
            accepted.apply(effect).expect("it was accepted before");
        }
    }
    let loaded = loader.finish();
    for space in [&space, &accepted, &loaded] {
        space.check_invariants();
    }
    assert!(state(&accepted) == state(&space), "a refused effect changed something");
    assert!(state(&loaded) == state(&space), "loading is not applying");
    let mut again = Loader::default();
    for chunk in state(&space) {
        again.apply(&chunk).expect("what was saved applies");
    }
    assert!(state(&again.finish()) == state(&space), "what was saved loads to something else");
    for effect in space.reembed_finish().into_iter().flatten() {
        space.apply(&effect).expect("the vectors of every memory are staged");
        space.check_invariants();
    }
}

fn bytes(effect: &Effect) -> Vec<u8> {
    let mut out = Vec::new();
    encode_batch(std::slice::from_ref(effect), &mut out);
    assert_eq!(out.first(), Some(&VERSION));
    out
}

fn state(space: &Space) -> Vec<Vec<u8>> {
    let mut chunks = Vec::new();
    space.encode_state(4096, &mut |chunk| chunks.push(chunk.to_vec()));
    chunks
}
