//! A folder as Gemma is published, with edits in one of its files: an error or a model that runs, never a panic.

#![no_main]

mod edits;

use std::sync::Arc;

use edits::edited;
use engram_inference::gemma::{Gemma, LoadOptions, Part, Progress, Sequence, Workspace};
use engram_inference::team::Lead;
use libfuzzer_sys::fuzz_target;

const FILES: [(&str, &[u8]); 3] = [
    ("config.json", include_bytes!("../../../../tests/models/gemma3/config.json")),
    ("model.safetensors", include_bytes!("../../../../tests/models/gemma3/model.safetensors")),
    ("tokenizer.json", include_bytes!("../../../../tests/models/gemma3/tokenizer.json")),
];

// Which file, and its edits. Without any the model is sound.
fuzz_target!(|input: &[u8]| {
    let Ok(dir) = tempfile::tempdir() else { return };
    let (which, edits) = input.split_first().unwrap_or((&0, &[]));
    for (n, (name, sound)) in FILES.iter().enumerate() {
        let file = if n == usize::from(*which) % FILES.len() { edited(sound, edits) } else { sound.to_vec() };
        if std::fs::write(dir.path().join(name), file).is_err() {
            return;
        }
    }
    let model = match Gemma::load(dir.path(), &LoadOptions::default(), &Progress::default()) {
        Ok(model) => Arc::new(model),
        Err(error) => return assert!(edits.len() > 3, "{error}"),
    };
    let Ok(mut work) = Workspace::new(Arc::clone(&model)) else { return };
    let Ok(mut sequence) = Sequence::new(model, 8) else { return };
    let part = Part { sequence: &mut sequence, tokens: &[2, 7, 8], logits: 1, exact: true };
    let _ = work.append(&mut [part], &Lead::alone(), &|| {});
});
