//! Any bytes as a model file: an error or a model that runs, never a panic. Input that does not begin as a GGUF file does is read as edits of
//! a sound one, because bytes out of nothing seldom get as far as a tensor.

#![no_main]

use std::sync::Arc;

use engram_inference::gemma::{Gemma, LoadOptions, Progress, Role, Turn};
use engram_inference::generation::{Generation, Step};
use engram_inference::sampler::Sampling;
use libfuzzer_sys::fuzz_target;

const SOUND: &[u8] = include_bytes!("../../../../tests/models/random-q4_0.gguf");

/// The sound file with its edits: where (two bytes, which reach over its header), how many bytes go, how many come, and these.
fn edited(mut edits: &[u8]) -> Vec<u8> {
    let mut file = SOUND.to_vec();
    while let Some((&[low, high, go, come], rest)) = edits.split_first_chunk() {
        let start = usize::from(u16::from_le_bytes([low, high])).min(file.len());
        let end = (start + usize::from(go % 16)).min(file.len());
        let (new, rest) = rest.split_at(usize::from(come % 16).min(rest.len()));
        file.splice(start..end, new.iter().copied());
        edits = rest;
    }
    file
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = tempfile::NamedTempFile::new() else { return };
    let written = if bytes.starts_with(b"GGUF") { bytes.to_vec() } else { edited(bytes) };
    if std::fs::write(file.path(), written).is_err() {
        return;
    }
    let Ok(model) = Gemma::load(file.path(), &LoadOptions::default(), &Progress::default()) else { return };
    let model = Arc::new(model);
    let Ok(prompt) = model.prompt(&[Turn { role: Role::User, text: "Hello <end_of_turn>" }]) else { return };
    let sampling = Sampling { max_tokens: 3, ..Sampling::default() };
    let Ok(mut generation) = Generation::new(model, prompt, sampling) else { return };
    while let Ok(Step::Running) = generation.step() {}
    let _ = (generation.take_text(), generation.confidence());
});
