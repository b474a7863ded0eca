//! Any bytes as a model file: an error or a model that runs, never a panic. Input that does not begin as a GGUF file does is read as edits of
//! a sound one.

#![no_main]

mod edits;

use std::sync::Arc;

use edits::edited;
use engram_inference::gemma::{Gemma, LoadOptions, Progress, Role, Turn, Workspace};
use engram_inference::generation::{Generation, Step};
use engram_inference::gguf::Gguf;
use engram_inference::sampler::Sampling;
use engram_inference::tokenizer::Tokenizer;
use libfuzzer_sys::fuzz_target;

const SOUND: &[u8] = include_bytes!("../../../../tests/models/random-q4_0.gguf");

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = tempfile::NamedTempFile::new() else { return };
    let written = if bytes.starts_with(b"GGUF") { bytes.to_vec() } else { edited(SOUND, bytes) };
    if std::fs::write(file.path(), written).is_err() {
        return;
    }
    // A vocabulary is read without the model that it belongs to as well.
    if let Ok(tokenizer) = Gguf::open(file.path()).and_then(|gguf| Tokenizer::from_gguf(&gguf)) {
        let _ = tokenizer.decode(&tokenizer.encode("Hello <end_of_turn>"));
    }
    let Ok(model) = Gemma::load(file.path(), &LoadOptions::default(), &Progress::default()) else { return };
    let model = Arc::new(model);
    let Ok(prompt) = model.prompt(&[Turn { role: Role::User, text: "Hello <end_of_turn>" }]) else { return };
    let sampling = Sampling { max_tokens: 3, ..Sampling::default() };
    let Ok(mut work) = Workspace::new(Arc::clone(&model)) else { return };
    let Ok(mut generation) = Generation::new(model, prompt, sampling) else { return };
    while let Ok(Step::Running) = generation.step(&mut work) {}
    let _ = (generation.take_text(), generation.confidence());
});
