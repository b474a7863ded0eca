//! Both sources of a model say the same, and `transformers` agrees with it; a source that is not sound is an error.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::quantized::gguf_file::Content;
use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::gemma::config::{Config, Rope};
use crate::gemma::tests::{golden, ids, logits, tests_dir};
use crate::gemma::{Gemma, LOGITS, LoadOptions, Progress};

const FAMILIES: [(&str, Family); 5] = [
    ("gemma2", Family::Gemma2),
    ("gemma3", Family::Gemma3),
    ("gemma4-e", Family::Gemma4),
    ("gemma4-dense", Family::Gemma4),
    ("embeddinggemma", Family::Embedding),
];

fn folder(name: &str) -> PathBuf {
    tests_dir().join("models").join(name)
}

fn gguf(name: &str) -> PathBuf {
    tests_dir().join("models").join(format!("{name}.gguf"))
}

fn config(path: &Path) -> Config {
    Config::read(&Source::open(path).unwrap()).unwrap()
}

fn load(path: &Path) -> Result<Gemma, Error> {
    Gemma::load(path, &LoadOptions::default(), &Progress::default())
}

fn message(path: &Path) -> String {
    match Source::open(path).and_then(|source| Config::read(&source)) {
        Ok(config) => panic!("read as {config:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_folder_and_a_gguf_describe_one_model() {
    for (name, family) in FAMILIES {
        let read = config(&folder(name));
        assert_eq!(read, config(&gguf(name)), "{name}");
        assert_eq!((read.family, read.width, read.context), (family, 64, 512), "{name}");
    }
}

#[test]
fn what_sets_the_families_apart_is_read() {
    let two = config(&folder("gemma2"));
    assert_eq!((two.attention_cap, two.final_cap, two.layer_input), (Some(4.0), Some(12.0), None));
    assert_eq!(local(&two), [true, false, true, false]);
    assert!(two.shapes.iter().all(|s| s.rope == Rope { base: 10_000.0, factor: 1.0, pairs: 16 }));

    let three = config(&folder("gemma3"));
    assert_eq!(three.shapes[5].rope, Rope { base: 1_000_000.0, factor: 8.0, pairs: 16 });
    let windows: Vec<_> = three.shapes.iter().map(|s| s.window).collect();
    assert_eq!(windows, [Some(16), Some(16), Some(16), Some(16), Some(16), None]);

    let e = config(&folder("gemma4-e"));
    assert_eq!((e.layer_input, e.attention_scale, e.attention_cap, e.final_cap), (Some(32), 1.0, None, Some(12.0)));
    let sources: Vec<_> =
        e.shapes.iter().map(|s| (s.kv_source, s.ffn, s.head_dim, s.kv_heads, s.keys_are_values)).collect();
    assert_eq!(sources, [(0, 64, 32, 1, false), (1, 64, 64, 1, false), (0, 128, 32, 1, false), (1, 128, 64, 1, false)]);
    assert_eq!(e.shapes[1].rope, Rope { base: 1_000_000.0, factor: 1.0, pairs: 8 });
    assert_eq!(e.shapes[0].rope, Rope { base: 10_000.0, factor: 1.0, pairs: 16 });

    let dense = config(&folder("gemma4-dense"));
    let heads: Vec<_> = dense.shapes.iter().map(|s| (s.kv_heads, s.keys_are_values)).collect();
    assert_eq!(heads, [(2, false), (1, true), (2, false), (1, true)]);

    let embedding = config(&folder("embeddinggemma"));
    assert_eq!(embedding.projection, Some(128));
    assert_eq!(embedding.shapes.iter().map(|s| s.window).collect::<Vec<_>>(), [Some(8), None, Some(8)]);
}

#[test]
fn a_folder_and_a_gguf_hold_the_same_numbers() {
    for (name, _) in FAMILIES {
        let (published, gguf_source) = (Source::open(&folder(name)).unwrap(), Source::open(&gguf(name)).unwrap());
        let content = Content::read(&mut fs::File::open(gguf(name)).unwrap()).unwrap();
        let progress = Progress::default();
        let mut compared = 0;
        for (tensor, info) in &content.tensor_infos {
            // These two are a folder's config.json and files of their own.
            if tensor == "rope_freqs.weight" || tensor.starts_with("dense_") {
                continue;
            }
            match *info.shape.dims() {
                [len] => {
                    let [a, b] = [&published, &gguf_source].map(|source| match tensor.contains("norm") {
                        true => source.gain(tensor, len).unwrap(),
                        false => source.vector(tensor, len).unwrap(),
                    });
                    assert_eq!(a[..], b[..], "{name} {tensor}");
                }
                [rows, cols] => {
                    // Two tiled matrices of the widest format.
                    let loader = Loader::new(2 * 4 * rows.next_multiple_of(16) * cols, &progress, None).unwrap();
                    let [a, b] =
                        [&published, &gguf_source].map(|source| source.matrix(tensor, rows, cols, &loader).unwrap());
                    let (mut x, mut y) = (vec![0.0; cols], vec![0.0; cols]);
                    for row in 0..rows {
                        a.row(row, &mut x).unwrap();
                        b.row(row, &mut y).unwrap();
                        assert_eq!(x, y, "{name} {tensor} row {row}");
                    }
                }
                ref other => panic!("{tensor} {other:?}"),
            }
            compared += 1;
        }
        assert!(compared > 30, "{name}: {compared}");
    }
}

/// The window of each layer.
fn local(config: &Config) -> Vec<bool> {
    config.shapes.iter().map(|shape| shape.window.is_some()).collect()
}

#[test]
fn every_family_agrees_with_transformers_from_its_folder_and_from_a_gguf() {
    for (name, family) in FAMILIES.into_iter().filter(|(_, family)| *family != Family::Embedding) {
        let golden = golden(&format!("{name}.json"));
        let bytes = fs::read(tests_dir().join("golden").join(golden["logits"].as_str().unwrap())).unwrap();
        let want: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let (tokens, greedy) = (ids(&golden["tokens"]), ids(&golden["greedy"]["tokens"]));
        let together = [&tokens[..], &greedy].concat();
        let mut all: Vec<Vec<Vec<f32>>> = Vec::new();
        for path in [folder(name), gguf(name)] {
            let model = Arc::new(load(&path).unwrap());
            assert_eq!(model.config().family, family);
            assert_eq!(model.tokenizer().encode(golden["prompt"].as_str().unwrap()), tokens[1..], "{name}");
            assert_eq!(model.info().quantization, "BF16");
            let rows = logits(&model, &together, &[LOGITS]);
            // However the tokens come.
            assert!(rows == logits(&model, &together, &[1]) && rows == logits(&model, &together, &[7, 1, 3]), "{name}");
            let (mut worst, mut total) = (0f32, 0.0);
            for (got, want) in rows.iter().flatten().zip(&want) {
                worst = worst.max((got - want).abs());
                total += f64::from((got - want).abs());
            }
            let mean = total / want.len() as f64;
            println!("{name}: largest difference {worst:e}, mean {mean:e}");
            // What bf16 loses is in the reference too; a weight may be rounded relative to another page's largest.
            assert!(
                rows[0].len() * tokens.len() == want.len() && worst < 3e-2 && mean < 5e-4,
                "{name}: {worst} {mean}"
            );
            for (row, &token) in rows[tokens.len() - 1..].iter().zip(&greedy) {
                let best = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
                assert_eq!(best as u32, token, "{name}");
            }
            all.push(rows);
        }
        assert!(all[0] == all[1], "{name}: the sources differ");
    }
}

#[test]
fn a_folder_may_be_named_by_its_file_and_has_its_name() {
    assert!(load(&folder("gemma3").join("model.safetensors")).is_ok());
    let (published, gguf) = (load(&folder("gemma3")).unwrap(), load(&gguf("gemma3")).unwrap());
    assert_eq!((published.info().name.as_str(), published.info().architecture.as_str()), ("gemma3", "gemma3"));
    assert_eq!(published.info().parameters, gguf.info().parameters);
    let options = LoadOptions { tokenizer: Some(folder("gemma3").join("tokenizer.json")), ..LoadOptions::default() };
    assert!(Gemma::load(&folder("gemma3"), &options, &Progress::default()).is_ok());
}

#[test]
fn a_model_of_vectors_generates_no_text() {
    for path in [folder("embeddinggemma"), gguf("embeddinggemma")] {
        let message = load(&path).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains("makes embeddings and no text") && message.contains("embeddinggemma"), "{message}");
    }
}

/// A copy of a family's folder with its config.json changed.
fn changed(name: &str, change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> TempDir {
    let dir = copied(&folder(name));
    let path = dir.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let text = if config.get("text_config").is_some() { &mut config["text_config"] } else { &mut config };
    change(text.as_object_mut().unwrap());
    fs::write(path, config.to_string()).unwrap();
    dir
}

fn copied(from: &Path) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            match entry.path() {
                path if path.is_dir() => copy(&path, &to.join(entry.file_name())),
                path => drop(fs::copy(path, to.join(entry.file_name())).unwrap()),
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    copy(from, dir.path());
    dir
}

#[test]
fn what_a_config_does_not_say_is_what_the_architecture_has() {
    // As the 4B model is published: most of what makes it is left out.
    let dir = changed("gemma3", |config| {
        for key in ["num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings", "layer_types"]
        {
            config.remove(key);
        }
        config.remove("query_pre_attn_scalar");
        config.remove("rope_parameters");
        config.insert("rope_scaling".into(), json!({"factor": 8.0, "rope_type": "linear"}));
    });
    let read = config(dir.path());
    let first = &read.shapes[0];
    assert_eq!((read.heads, first.kv_heads, first.head_dim, read.context), (8, 4, 256, 131_072));
    assert_eq!(read.attention_scale, 1.0 / 16.0);
    assert_eq!(local(&read)[..6], [true, true, true, true, true, false]);
    assert_eq!(read.shapes[5].rope, Rope { base: 1_000_000.0, factor: 8.0, pairs: 128 });
    assert_eq!(read.shapes[0].rope, Rope { base: 10_000.0, factor: 1.0, pairs: 128 });

    let dir = changed("gemma2", |config| {
        config.remove("attn_logit_softcapping");
        config.insert("final_logit_softcapping".into(), Value::Null);
        config.remove("sliding_window");
        config.remove("rope_theta");
        config.insert("rope_parameters".into(), json!({"rope_type": "default", "rope_theta": 5000.0}));
    });
    let read = config(dir.path());
    assert_eq!((read.attention_cap, read.final_cap, read.shapes[0].window), (Some(50.0), None, Some(4096)));
    assert!(read.shapes.iter().all(|s| s.rope.base == 5000.0));

    // As transformers 5 saves Gemma 4.
    let dir = changed("gemma4-dense", |config| {
        config.remove("global_head_dim");
        config.remove("num_global_key_value_heads");
        let own = json!({"head_dim": 64, "num_key_value_heads": 1});
        config.insert("per_layer_config".into(), json!({"1": own, "3": own}));
        config.remove("rope_parameters");
    });
    assert_eq!(config(dir.path()), config(&folder("gemma4-dense")));
}

#[test]
fn a_config_that_does_not_fit_is_named() {
    for (name, key, value, expected) in [
        ("gemma3", "model_type", json!("llama"), "config.json: model_type \"llama\" is not supported"),
        ("gemma3", "model_type", Value::Null, "model_type \"(none)\" is not supported"),
        ("gemma3", "num_hidden_layers", Value::Null, "config.json: num_hidden_layers is missing"),
        ("gemma3", "num_hidden_layers", json!(-1), "num_hidden_layers is -1, expected a whole number of at least 0"),
        ("gemma3", "num_hidden_layers", json!(7), "layer_types has 6 entries for 7 layers"),
        ("gemma3", "hidden_size", json!(1 << 30), "hidden_size is 1073741824; accepted are 1 to 65536"),
        ("gemma3", "num_key_value_heads", json!(3), "2 attention heads cannot share 3 key/value heads evenly"),
        ("gemma3", "head_dim", json!(31), "must be equal and even"),
        ("gemma3", "rms_norm_eps", json!(2.0), "config.json: rms_norm_eps is 2, not in 0..1"),
        ("gemma3", "layer_types", json!(["none"]), "must be of \"sliding_attention\" and \"full_attention\""),
        ("gemma3", "layer_types", json!("all"), "layer_types is \"all\", expected a list"),
        ("gemma3", "sliding_window", json!(0), "sliding_window is 0; accepted are 1 to 1048576"),
        ("gemma3", "attention_bias", json!(true), "attention_bias is true"),
        ("gemma3", "tie_word_embeddings", json!(false), "tie_word_embeddings is false"),
        ("gemma3", "hidden_activation", json!("silu"), "hidden_activation is \"silu\""),
        ("gemma3", "query_pre_attn_scalar", json!(0), "query_pre_attn_scalar is 0; accepted are 1 to 1,000,000"),
        ("gemma3", "attn_logit_softcapping", json!(-1.0), "attn_logit_softcapping is -1"),
        ("gemma3", "quantization_config", json!({}), "quantization_config is there"),
        ("gemma3", "use_bidirectional_attention", json!("all"), "use_bidirectional_attention is \"all\""),
        ("gemma3", "rope_parameters", json!({"full_attention": {"rope_type": "yarn"}}), "rope_type is \"yarn\""),
        ("gemma3", "rope_parameters", json!({"full_attention": {"rope_theta": 0.5}}), "is 0.5; it must be above 1"),
        ("gemma3", "rope_parameters", json!({"full_attention": {"rope_type": "linear", "factor": 0.1}}), "is 0.1"),
        ("gemma3", "rope_parameters", json!([]), "rope_parameters is [], expected an object"),
        ("gemma4-e", "enable_moe_block", json!(true), "mixtures of experts are not supported"),
        ("gemma4-e", "use_bidirectional_attention", json!("all"), "use_bidirectional_attention is \"all\""),
        ("gemma4-e", "num_kv_shared_layers", json!(4), "4 of 4 layers share keys and values"),
        ("gemma4-e", "num_kv_shared_layers", json!(3), "no layer of its kind makes any"),
        (
            "gemma4-e",
            "layer_types",
            json!(["full_attention", "full_attention", "full_attention", "sliding_attention"]),
            "must be global",
        ),
        ("gemma4-e", "hidden_size_per_layer_input", json!(1 << 20), "accepted are 0 to 4096"),
        ("gemma4-e", "global_head_dim", json!(33), "a head of 33 numbers"),
        ("gemma4-e", "per_layer_config", json!({"3": {"head_dim": 128}}), "heads of different sizes"),
        ("gemma4-e", "per_layer_config", json!({"9": {"head_dim": 128}}), "head_dim of layer 9 is 128"),
        (
            "gemma4-e",
            "rope_parameters",
            json!({"full_attention": {"rope_type": "proportional", "partial_rotary_factor": 2}}),
            "is 2;",
        ),
    ] {
        let dir = changed(name, |config| drop(config.insert(key.into(), value.clone())));
        let message = message(dir.path());
        assert!(message.contains(expected), "{key} {value}: {message}");
    }
}

#[test]
fn what_stands_around_an_embedder_must_be_what_is_read() {
    for (file, from, to, expected) in [
        (
            "modules.json",
            "models.Dense",
            "models.LSTM",
            "Transformer, Pooling, Dense, Dense and Normalize are supported",
        ),
        ("modules.json", "3_Dense", "../3_Dense", "does not stay in the folder"),
        (
            "1_Pooling/config.json",
            "\"pooling_mode_mean_tokens\": true",
            "\"pooling_mode_mean_tokens\": false",
            "must be mean_tokens",
        ),
        ("2_Dense/config.json", "128", "127", "expected 64 to some width and back"),
        ("2_Dense/config.json", "Identity", "Tanh", "2_Dense: a linear layer alone is supported"),
        ("3_Dense/config.json", "false", "true", "3_Dense: a linear layer alone is supported"),
    ] {
        let dir = copied(&folder("embeddinggemma"));
        let path = dir.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file}");
        fs::write(&path, text.replace(from, to)).unwrap();
        let message = message(dir.path());
        assert!(message.contains(expected), "{file}: {message}");
    }
}

#[test]
fn rows_that_no_piece_has_are_left_out() {
    let dir = copied(&folder("gemma3"));
    let path = dir.path().join("tokenizer.json");
    let mut file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let vocab = file["model"]["vocab"].as_object_mut().unwrap();
    let last = vocab.iter().max_by_key(|(_, id)| id.as_u64()).map(|(piece, _)| piece.clone()).unwrap();
    vocab.remove(&last);
    fs::write(&path, file.to_string()).unwrap();
    let model = load(dir.path()).unwrap();
    assert_eq!((model.info().vocabulary, model.embedding().rows()), (447, 447));
}

#[test]
fn a_folder_that_lacks_something_says_what() {
    for (name, file, expected) in [
        ("gemma3", "config.json", "config.json: cannot be read"),
        ("gemma3", "tokenizer.json", "tokenizer.json"),
        ("gemma3", "model.safetensors", "model.safetensors"),
        ("gemma4-e", "model-00002-of-00002.safetensors", "model-00002-of-00002.safetensors"),
    ] {
        let dir = copied(&folder(name));
        fs::remove_file(dir.path().join(file)).unwrap();
        let message = load(dir.path()).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains(&*dir.path().to_string_lossy()), "{message}");
    }
    let dir = changed("gemma3", |config| drop(config.insert("intermediate_size".into(), json!(96))));
    let message = load(dir.path()).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("mlp.gate_proj.weight must be [96, 64]; found [64, 64]"), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Bytes of config.json changed at random: it is read or it is not, and never with sizes that overflow.
    #[test]
    fn a_changed_config_never_panics(
        family in 0..FAMILIES.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), "[0-9\\-.eE,:\"\\[\\]{}a-z]"), 1..6),
    ) {
        let from = folder(FAMILIES[family].0);
        let dir = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(&from).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name() != "config.json" {
                std::os::unix::fs::symlink(entry.path(), dir.path().join(entry.file_name())).unwrap();
            }
        }
        let mut bytes = fs::read(from.join("config.json")).unwrap();
        for (at, with) in changes {
            let at = at.index(bytes.len());
            bytes[at] = with.as_bytes()[0];
        }
        fs::write(dir.path().join("config.json"), bytes).unwrap();
        if let Ok(config) = Source::open(dir.path()).and_then(|source| Config::read(&source)) {
            prop_assert_eq!(config.shapes.len(), config.layers);
            prop_assert!(config.shapes.iter().all(|s| s.kv_source < config.layers && s.rope.pairs <= s.head_dim / 2));
        }
        let _ = load(dir.path());
    }
}
