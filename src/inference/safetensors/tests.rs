//! Hostile and broken files: an error each, never a panic.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::gemma::tests::tests_dir;
use crate::gemma::{Gemma, LoadOptions, Progress};

/// A file of this header and data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

fn tensor(kind: &str, shape: &[u64], from: u64, to: u64) -> Value {
    json!({"dtype": kind, "shape": shape, "data_offsets": [from, to]})
}

/// A folder that holds `bytes` as its model.safetensors.
fn folder_of(bytes: &[u8]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    dir
}

fn open(bytes: &[u8]) -> Result<Safetensors, Error> {
    Safetensors::folder(folder_of(bytes).path())
}

fn message<T>(result: Result<T, Error>) -> String {
    result.map(|_| ()).unwrap_err().to_string()
}

#[test]
fn reads_tensors_of_every_format() {
    let header = json!({
        "__metadata__": {"format": "pt"},
        "a.f": tensor("F32", &[2, 2], 0, 16),
        "a.h": tensor("F16", &[2], 16, 20),
        "a.b": tensor("BF16", &[3, 1], 20, 26),
        "other": tensor("I64", &[1], 26, 34),
    });
    let mut data: Vec<u8> = [1f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    data.extend([0x00, 0x3c, 0x00, 0xc0]);
    data.extend([0x80, 0x3f, 0x00, 0x40, 0x40, 0x40]);
    data.extend(7u64.to_le_bytes());
    let tensors = open(&file(&header.to_string(), &data)).unwrap().below(&["b.", "a."], "f");
    let mut row = [0.0; 2];
    assert_eq!(tensors.arena_bytes(&["b"]), 16 * 2 * 4);
    let progress = Progress::default();
    let loader = Loader::new(tensors.arena_bytes(&[]) + 16 * 2 * 4, &progress, None).unwrap();
    tensors.matrix("f", 2, 2, &loader).unwrap().row(1, &mut row).unwrap();
    assert_eq!(row, [3.0, 4.0]);
    tensors.mapped_rows("f", 2, 2).unwrap().row(0, &mut row).unwrap();
    assert_eq!(row, [1.0, 2.0]);
    assert_eq!(tensors.leading_rows("f", 1, 2, &loader).unwrap().rows(), 1);
    assert_eq!(tensors.vector("h", 2).unwrap()[..], [1.0, -2.0]);
    let b = tensors.matrix("b", 3, 1, &loader).unwrap();
    b.row(2, &mut row).unwrap();
    assert_eq!((row[0], tensors.shape("b").unwrap()), (3.0, &[3, 1][..]));
    assert_eq!((tensors.parameters(), tensors.has("h"), tensors.has("other")), (9, true, false));
    let says = |message: String, expected: &str| assert!(message.contains(expected), "{message}");
    says(message(tensors.vector("f", 4)), "the tensor f must be [4]; found [2, 2]");
    says(message(tensors.leading_rows("f", 3, 2, &loader)), "the tensor f must be [3 or more, 2]; found [2, 2]");
    says(message(tensors.vector("g", 4)), "the tensor g is missing");
    let all = open(&file(&header.to_string(), &data)).unwrap();
    says(message(all.vector("other", 1)), "the tensor other is I64; F32, F16 and BF16 are supported");
}

#[test]
fn broken_headers_are_named() {
    let one = |value: Value| json!({ "t": value }).to_string();
    let limit = MAX_HEADER + 1;
    for (bytes, expected) in [
        (Vec::new(), "0 bytes are no safetensors file"),
        (vec![1; 7], "7 bytes are no safetensors file"),
        (limit.to_le_bytes().to_vec(), "a header of 16777217 bytes; at most 16777216 are accepted"),
        (u64::MAX.to_le_bytes().to_vec(), "at most 16777216 are accepted"),
        (9u64.to_le_bytes().to_vec(), "cannot be read"),
        (file("", &[]), "cannot be read"),
        (file("[]", &[]), "cannot be read"),
        (file("{\"t\": 1}", &[]), "cannot be read"),
        (file(&one(tensor("F32", &[2], 0, 4)), &[0; 4]), "cannot be read"),
        (file(&one(tensor("F32", &[1], 0, 4)), &[0; 3]), "cannot be read"),
        (file(&one(tensor("F32", &[1], 0, 4)), &[0; 5]), "cannot be read"),
        (file(&one(tensor("F32", &[1], 4, 8)), &[0; 8]), "cannot be read"),
        (file(&one(tensor("F32", &[1], 4, 0)), &[0; 4]), "cannot be read"),
        (file(&one(tensor("F32", &[u64::MAX, 2], 0, 4)), &[0; 4]), "cannot be read"),
        (file(&one(tensor("F32", &[1 << 62, 4], 0, 0)), &[]), "cannot be read"),
        (file(&one(tensor("Q9", &[1], 0, 4)), &[0; 4]), "cannot be read"),
        // Two that overlap.
        (
            file(&json!({"a": tensor("F32", &[1], 0, 4), "b": tensor("F32", &[2], 0, 8)}).to_string(), &[0; 8]),
            "cannot be read",
        ),
    ] {
        let message = message(open(&bytes));
        assert!(message.contains(expected) && message.contains("model.safetensors"), "{expected}: {message}");
    }
}

#[test]
fn parts_must_be_in_the_folder_and_hold_every_tensor_once() {
    let part = |name: &str| file(&json!({ name: tensor("F32", &[1], 0, 4) }).to_string(), &[0; 4]);
    let dir = tempfile::tempdir().unwrap();
    let index = |map: Value| {
        fs::write(dir.path().join("model.safetensors.index.json"), json!({ "weight_map": map }).to_string()).unwrap();
        Safetensors::folder(dir.path())
    };
    fs::write(dir.path().join("one"), part("a")).unwrap();
    fs::write(dir.path().join("two"), part("b")).unwrap();
    fs::write(dir.path().join("again"), part("a")).unwrap();
    let both = index(json!({"a": "one", "b": "two"})).unwrap();
    assert_eq!((both.files().len(), both.has("a"), both.has("b")), (2, true, true));
    for (map, expected) in [
        (json!({"a": "one", "b": "again"}), "the tensor a is in another file too"),
        (json!({"a": "../one"}), "the path \"../one\" does not stay in the folder"),
        (json!({"a": "/etc/passwd"}), "does not stay in the folder"),
        (json!({"a": "three"}), "three cannot be opened"),
        (json!({"a": 1}), "invalid type"),
        (
            json!((0..300).map(|n| (n.to_string(), json!(n.to_string()))).collect::<serde_json::Map<_, _>>()),
            "300 files are more",
        ),
    ] {
        let message = message(index(map));
        assert!(message.contains(expected), "{message}");
    }
}

fn sound() -> PathBuf {
    tests_dir().join("models/gemma3")
}

/// The small Gemma 3 with other bytes for its tensors, loaded.
fn load(bytes: &[u8]) -> Result<Gemma, Error> {
    let dir = folder_of(bytes);
    for name in ["config.json", "tokenizer.json"] {
        fs::copy(sound().join(name), dir.path().join(name)).unwrap();
    }
    Gemma::load(dir.path(), &LoadOptions::default(), &Progress::default())
}

#[test]
fn a_model_cut_off_anywhere_is_an_error() {
    let bytes = fs::read(sound().join("model.safetensors")).unwrap();
    assert!(load(&bytes).is_ok());
    for part in 0..64 {
        let message = message(load(&bytes[..bytes.len() * part / 64]));
        assert!(message.contains("model.safetensors: cannot be read"), "{message}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Bytes of the header changed at random: it loads or it does not, and if it does it can be run.
    #[test]
    fn changed_bytes_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = fs::read(sound().join("model.safetensors")).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for (at, value) in changes {
            bytes[at.index(header)] = value;
        }
        if let Ok(model) = load(&bytes) {
            let _ = crate::gemma::tests::logits(&Arc::new(model), &[2, 7, 8], &[3]);
        }
    }
}
