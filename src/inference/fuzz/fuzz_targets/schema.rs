//! Any text as a JSON Schema: an error or a grammar, never a panic; and what a model of random weights writes under the grammar is JSON. Input that
//! does not begin as an object is read as edits of a schema with every keyword.

#![no_main]

mod edits;

use std::path::Path;
use std::sync::{Arc, LazyLock};

use edits::edited;
use engram_inference::constraint::Grammar;
use engram_inference::gemma::{Gemma, LoadOptions, Progress, Role, Turn, Workspace};
use engram_inference::generation::{Generation, Step};
use engram_inference::sampler::Sampling;
use libfuzzer_sys::fuzz_target;

const SOUND: &str = r##"{"type": "object", "properties": {"a": {"type": "string", "minLength": 1, "maxLength": 3},
    "b": {"type": ["integer", "null"], "minimum": -2, "exclusiveMaximum": 9}, "c": {"$ref": "#/$defs/x"},
    "d": {"type": "number", "exclusiveMinimum": 0.5, "maximum": 1e3}, "e": {"oneOf": [{"const": "y"}, {"type": "boolean"}]},
    "f": {"allOf": [{"type": "array", "maxItems": 2}, {"items": {"enum": [1, "z", [], {"k": null}]}}]}},
    "required": ["a"], "additionalProperties": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}, "minProperties": 1, "maxProperties": 4,
    "$defs": {"x": {"type": "array", "prefixItems": [{"type": "integer"}], "items": {"$ref": "#/$defs/x"}, "minItems": 1, "maxItems": 3}}}"##;

static MODEL: LazyLock<Arc<Gemma>> = LazyLock::new(|| {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/models/random-q4_0.gguf");
    Arc::new(Gemma::load(&file, &LoadOptions::default(), &Progress::default()).expect("a sound model"))
});

fuzz_target!(|bytes: &[u8]| {
    let text = if bytes.starts_with(b"{") { bytes.to_vec() } else { edited(SOUND.as_bytes(), bytes) };
    let Ok(grammar) = Grammar::schema(&String::from_utf8_lossy(&text)) else { return };
    let prompt = MODEL.prompt(&[Turn { role: Role::User, text: "Hello" }]).expect("a short prompt");
    let seed = bytes.iter().fold(0u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    let sampling = Sampling { max_tokens: 48, temperature: 1.5, seed, ..Sampling::default() };
    // What takes more tokens at the least is refused.
    let Ok(mut generation) = Generation::constrained(MODEL.clone(), prompt, sampling, Some(Arc::new(grammar))) else {
        return;
    };
    let mut work = Workspace::new(MODEL.clone()).expect("memory for a small model");
    while let Step::Running = generation.step(&mut work).expect("a sound model runs") {}
    if let Err(error) = serde_json::from_str::<serde_json::Value>(generation.text()) {
        panic!("{error}: {}", generation.text());
    }
});
