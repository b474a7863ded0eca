//! Any bytes as a model file: an error or a model that runs, never a panic. Good seeds: the files of `tests/models`.

#![no_main]

use std::sync::Arc;

use engram_inference::gemma::{Gemma, LoadOptions, Progress, Role, Turn};
use engram_inference::generation::{Generation, Step};
use engram_inference::sampler::Sampling;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = tempfile::NamedTempFile::new() else { return };
    if std::fs::write(file.path(), bytes).is_err() {
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
