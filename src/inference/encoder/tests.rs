use super::*;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

/// The folder of all-MiniLM-L6-v2: in `ENGRAM_MODEL_DIR` if that is set, else where `scripts/fetch-embedder` puts it.
fn folder() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::env::var_os("ENGRAM_MODEL_DIR").map_or(root.join("models"), PathBuf::from).join("all-MiniLM-L6-v2")
}

fn encoder() -> &'static Encoder {
    static ENCODER: OnceLock<Encoder> = OnceLock::new();
    ENCODER.get_or_init(|| match Encoder::load(&folder()) {
        Ok(encoder) => encoder,
        Err(error) => panic!("{error}; scripts/fetch-embedder gets the model"),
    })
}

fn encode(windows: &[Window]) -> Vec<Vec<f32>> {
    encoder().encode(windows, &mut Scratch::default()).unwrap()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The same model in a given precision; `None` where the CPU lacks it.
fn encoder_in(precision: Precision) -> Option<Encoder> {
    let bf16 = for_encoders().iter().any(|kernels| kernels.per_cell == 2);
    (bf16 || precision != Precision::Bf16).then(|| Encoder::load_as(&folder(), precision).unwrap())
}

#[test]
fn f32_agrees_with_the_reference() {
    // The file's six digits allow this much; a wrong norm or a swapped dimension does not pass.
    agrees_with_the_reference(&encoder_in(Precision::F32).unwrap(), 0.999_999_99, 1e-5);
}

#[test]
fn bf16_agrees_with_the_reference() {
    if let Some(encoder) = encoder_in(Precision::Bf16) {
        agrees_with_the_reference(&encoder, 0.9999, 4e-3);
    }
}

fn agrees_with_the_reference(encoder: &Encoder, least_cosine: f64, most_difference: f32) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/minilm.json");
    let golden: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let texts = golden["texts"].as_array().unwrap();
    assert!(texts.len() >= 30);
    let mut several = 0;
    for entry in texts {
        let text = entry["text"].as_str().unwrap();
        let tokens: Vec<u32> = serde_json::from_value(entry["tokens"].clone()).unwrap();
        assert_eq!(encoder.tokens(text), tokens, "{text:?}");
        let windows = encoder.windows(text);
        let lengths: Vec<usize> = windows.iter().map(|window| window.tokens().len() - 2).collect();
        assert_eq!(json!(lengths), entry["lengths"], "{text:?}");
        let expected: Vec<Vec<f32>> = serde_json::from_value(entry["vectors"].clone()).unwrap();
        let vectors = encoder.encode(&windows, &mut Scratch::default()).unwrap();
        assert_eq!(vectors.len(), expected.len());
        for (vector, expected) in vectors.iter().zip(&expected) {
            let cosine = cosine(vector, expected);
            assert!(cosine >= least_cosine, "{text:?}: {cosine}");
            for (a, b) in vector.iter().zip(expected) {
                assert!((a - b).abs() < most_difference, "{text:?}: {a} instead of {b}");
            }
        }
        several += usize::from(vectors.len() > 1);
    }
    assert!(several >= 3, "the golden set must hold texts of several windows");
}

#[test]
fn a_vector_has_the_same_bits_in_any_batch() {
    let texts = ["", "a", "the quick brown fox", &"some longer text, ".repeat(20), "ünïcode 🦜", &"word ".repeat(300)];
    for encoder in [Precision::F32, Precision::Bf16].into_iter().filter_map(encoder_in) {
        let windows_of = |text: &str| encoder.windows(text);
        let bits = |vector: &[f32]| vector.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let mut scratch = Scratch::default();
        let mut alone = Vec::new();
        for window in texts.iter().flat_map(|text| windows_of(text)) {
            let vector = encoder.encode(std::slice::from_ref(&window), &mut Scratch::default()).unwrap().remove(0);
            alone.push((window, bits(&vector)));
        }
        for turn in 0..texts.len() {
            let mut order: Vec<usize> = (0..texts.len()).collect();
            order.rotate_left(turn);
            let windows: Vec<Window> = order.iter().flat_map(|index| windows_of(texts[*index])).collect();
            for (window, vector) in windows.iter().zip(encoder.encode(&windows, &mut scratch).unwrap()) {
                let of_alone = alone.iter().find(|(other, _)| other == window).unwrap();
                assert_eq!(of_alone.1, bits(&vector), "{:?}", encoder.info().precision);
            }
        }
    }
}

#[test]
fn windows_hold_the_whole_text() {
    let encoder = encoder();
    let edges = encoder.windows("");
    assert_eq!(edges.iter().map(Window::tokens).collect::<Vec<_>>(), [[101, 102]]);
    for text in ["electroencephalographic ".repeat(90), "ab".repeat(40) + " " + &"x y, z; ".repeat(400)] {
        let windows = encoder.windows(&text);
        assert!(windows.len() > 1);
        let mut joined = Vec::new();
        for (index, window) in windows.iter().enumerate() {
            let tokens = window.tokens();
            assert!(tokens.len() <= encoder.window());
            assert_eq!((tokens[0], tokens[tokens.len() - 1]), (101, 102));
            assert!(index == 0 || !encoder.continues[tokens[1] as usize], "window {index} begins inside a word");
            joined.extend_from_slice(&tokens[1..tokens.len() - 1]);
        }
        assert_eq!(joined, encoder.tokens(&text));
    }
}

#[test]
fn token_vectors_come_from_the_same_pass() {
    let encoder = encoder();
    let text = "Ünïcode parrots 🦜 re-tokenised, ".repeat(40);
    let (windows, spans): (Vec<Window>, Vec<_>) = encoder.windows_with_spans(&text).into_iter().unzip();
    assert_eq!(windows, encoder.windows(&text));
    assert!(windows.len() > 1);
    let inner = spans.iter().flat_map(|spans: &Vec<_>| spans[1..spans.len() - 1].iter().cloned());
    assert_eq!(encoder.spans(&text), inner.collect::<Vec<_>>());
    let mut end = 0;
    for (window, spans) in windows.iter().zip(&spans) {
        assert_eq!(spans.len(), window.tokens().len());
        for (id, span) in window.tokens().iter().zip(spans) {
            assert!(span.start >= end || span.is_empty(), "{span:?} after {end}");
            assert_eq!(span.is_empty(), encoder.edges.contains(id));
            let piece = encoder.tokenizer.id_to_token(*id).unwrap();
            let said = text.get(span.clone()).unwrap();
            if said.is_ascii() && !said.is_empty() {
                assert_eq!(piece.trim_start_matches("##"), said.to_lowercase());
            }
            end = end.max(span.end);
        }
    }
    let mut scratch = Scratch::default();
    let with_tokens = encoder.encode_with_tokens(&windows, &mut scratch).unwrap();
    for ((encoded, vector), window) in with_tokens.iter().zip(encode(&windows)).zip(&windows) {
        assert_eq!(encoded.vector, vector);
        let rows: Vec<&[f32]> = encoded.tokens.chunks(encoder.dim()).collect();
        assert_eq!(rows.len(), window.tokens().len());
        let sum: Vec<f32> = (0..encoder.dim()).map(|at| rows.iter().map(|row| row[at]).sum()).collect();
        assert!((cosine(&sum, &vector) - 1.0).abs() < 1e-6);
    }
    assert_eq!(encoder.windows_with_spans(""), [(encoder.windows("").remove(0), vec![0..0, 0..0])]);
}

#[test]
fn similar_texts_are_near() {
    let vectors: Vec<Vec<f32>> = ["My cat loves tuna.", "The kitten enjoys eating fish.", "The bank raised its rates."]
        .iter()
        .flat_map(|text| encode(&encoder().windows(text)))
        .collect();
    assert!(cosine(&vectors[0], &vectors[1]) > cosine(&vectors[0], &vectors[2]) + 0.3);
}

/// A folder with a tiny model: 1 layer, width 8, 2 heads, 7 pieces, 6 positions. `change` may spoil its files, given by
/// name, before they are written; a file that is set to null is left out.
fn tiny(change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> tempfile::TempDir {
    let (width, inner) = (8, 12);
    let mut tensors = json!({
        "embeddings.word_embeddings.weight": [7, width],
        "embeddings.position_embeddings.weight": [6, width],
        "embeddings.token_type_embeddings.weight": [2, width],
        "embeddings.LayerNorm.weight": [width],
        "embeddings.LayerNorm.bias": [width],
    });
    for (name, outputs, inputs) in [
        ("attention.self.query", width, width),
        ("attention.self.key", width, width),
        ("attention.self.value", width, width),
        ("attention.output.dense", width, width),
        ("intermediate.dense", inner, width),
        ("output.dense", width, inner),
    ] {
        tensors[format!("encoder.layer.0.{name}.weight")] = json!([outputs, inputs]);
        tensors[format!("encoder.layer.0.{name}.bias")] = json!([outputs]);
    }
    for name in ["attention.output.LayerNorm", "output.LayerNorm"] {
        tensors[format!("encoder.layer.0.{name}.weight")] = json!([width]);
        tensors[format!("encoder.layer.0.{name}.bias")] = json!([width]);
    }
    let files = json!({
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "pool", "type": "sentence_transformers.models.Pooling"},
        ],
        "pool/config.json": {"word_embedding_dimension": width, "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false},
        "config.json": {
            "architectures": ["BertModel"], "hidden_act": "gelu", "hidden_size": width, "intermediate_size": inner,
            "layer_norm_eps": 1e-12, "max_position_embeddings": 6, "num_attention_heads": 2, "num_hidden_layers": 1,
            "vocab_size": 7,
        },
        "tokenizer.json": {
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                    {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]},
                    "[SEP]": {"id": "[SEP]", "ids": [2], "tokens": ["[SEP]"]}},
            },
            "decoder": null,
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "b": 4, "##a": 5, "##b": 6}},
        },
        "tensors": tensors,
        "dtype": "F32",
    });
    let Value::Object(mut files) = files else { unreachable!() };
    change(&mut files);
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("pool")).unwrap();
    let dtype = files.remove("dtype").unwrap();
    let tensors = files.remove("tensors").unwrap();
    fs::write(dir.path().join("model.safetensors"), safetensors(&tensors, dtype.as_str().unwrap())).unwrap();
    for (name, content) in files.into_iter().filter(|(_, content)| !content.is_null()) {
        fs::write(dir.path().join(name), content.to_string()).unwrap();
    }
    dir
}

/// A safetensors file with these shapes and varied small values, each exact in bfloat16.
fn safetensors(shapes: &Value, dtype: &str) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape) in shapes.as_object().unwrap() {
        let start = data.len();
        let count: u64 = shape.as_array().unwrap().iter().map(|size| size.as_u64().unwrap()).product();
        for index in 0..count {
            let value = ((index * 37 + name.len() as u64 * 11) % 29) as f32 / 16.0 - 0.75;
            match dtype {
                "F32" => data.extend(value.to_le_bytes()),
                "F16" => data.extend(half::f16::from_f32(value).to_le_bytes()),
                "BF16" => data.extend(half::bf16::from_f32(value).to_le_bytes()),
                _ => data.extend((value as f64).to_le_bytes()),
            }
        }
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]}));
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

fn vector(dir: &tempfile::TempDir, text: &str) -> Vec<f32> {
    let encoder = Encoder::load(dir.path()).unwrap();
    encoder.encode(&encoder.windows(text), &mut Scratch::default()).unwrap().remove(0)
}

#[test]
fn follows_the_folder() {
    let dir = tiny(|_| {});
    let encoder = Encoder::load(dir.path()).unwrap();
    assert_eq!((encoder.dim(), encoder.window()), (8, 6));
    assert_eq!(encoder.info().name, dir.path().file_name().unwrap().to_str().unwrap());
    assert_eq!(encoder.windows("ab ab").iter().map(Window::tokens).collect::<Vec<_>>(), [[1, 3, 6, 3, 6, 2]]);
    // "abb" stays whole, a word longer than a window is cut inside.
    let windows = encoder.windows("a ab abb ababab");
    let tokens: Vec<&[u32]> = windows.iter().map(Window::tokens).collect();
    assert_eq!(tokens, [&[1, 3, 3, 6, 2][..], &[1, 3, 6, 6, 2], &[1, 3, 6, 5, 6, 2], &[1, 5, 6, 2]]);

    // Other element types hold the same numbers.
    let expected = vector(&dir, "ab b");
    for dtype in ["F16", "BF16"] {
        assert_eq!(vector(&tiny(|files| files["dtype"] = dtype.into()), "ab b"), expected);
    }
    // Mean and first-token pooling differ, and normalising gives the first its direction.
    let mean = |files: &mut serde_json::Map<String, Value>| {
        files["pool/config.json"] = json!({"pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true});
    };
    assert_ne!(vector(&tiny(mean), "ab b"), expected);
    let normalized = vector(
        &tiny(|files| {
            let module = json!({"path": "norm", "type": "sentence_transformers.models.Normalize"});
            files["modules.json"].as_array_mut().unwrap().push(module);
        }),
        "ab b",
    );
    assert!((cosine(&normalized, &expected) - 1.0).abs() < 1e-6);
    assert!((normalized.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-6);
    assert!((expected.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() > 1e-3);
}

#[test]
fn a_scratch_serves_encoders_of_any_size_and_foreign_windows_are_refused() {
    let dir = tiny(|_| {});
    let small = Encoder::load(dir.path()).unwrap();
    let mut scratch = Scratch::default();
    let before = small.encode(&small.windows("ab b"), &mut scratch).unwrap();
    let large = encoder().encode(&encoder().windows("ab b"), &mut scratch).unwrap();
    assert_eq!(large, encode(&encoder().windows("ab b")));
    assert_eq!(small.encode(&small.windows("ab b"), &mut scratch).unwrap(), before);
    let error = small.encode(&encoder().windows("ab b"), &mut scratch).unwrap_err().to_string();
    assert!(error.contains("was not made by this encoder"), "{error}");
}

#[test]
fn a_broken_folder_is_refused_with_a_reason() {
    type Files = serde_json::Map<String, Value>;
    fn refusal(change: impl FnOnce(&mut Files)) -> String {
        let dir = tiny(change);
        Encoder::load(dir.path()).err().unwrap().to_string()
    }
    type Change<'a> = &'a dyn Fn(&mut Files);
    let cases: [(&str, Change); 23] = [
        ("modules.json: cannot be read", &|f| f["modules.json"] = Value::Null),
        ("found Transformer, Pooling, Dense, Normalize", &|f| {
            for kind in ["Dense", "Normalize"] {
                f["modules.json"].as_array_mut().unwrap().push(json!({"path": "x", "type": format!("m.{kind}")}));
            }
        }),
        ("found Dense", &|f| f["modules.json"].as_array_mut().unwrap().push(json!({"path": "x", "type": "Dense"}))),
        ("\"../pool\" does not stay", &|f| f["modules.json"][1]["path"] = "../pool".into()),
        ("found [\"cls_token\", \"max_tokens\"]", &|f| f["pool/config.json"]["pooling_mode_max_tokens"] = true.into()),
        ("found []", &|f| f["pool/config.json"]["pooling_mode_cls_token"] = false.into()),
        ("found [\"RobertaModel\"]", &|f| f["config.json"]["architectures"] = json!(["RobertaModel"])),
        ("found \"relu\"", &|f| f["config.json"]["hidden_act"] = "relu".into()),
        ("found \"relative_key\"", &|f| f["config.json"]["position_embedding_type"] = "relative_key".into()),
        ("hidden_size 8 is not a multiple", &|f| f["config.json"]["num_attention_heads"] = 3.into()),
        ("num_attention_heads is 0", &|f| f["config.json"]["num_attention_heads"] = 0.into()),
        ("max_position_embeddings is 9000000", &|f| f["config.json"]["max_position_embeddings"] = 9_000_000.into()),
        ("layer_norm_eps must be", &|f| f["config.json"]["layer_norm_eps"] = (-1.0).into()),
        ("a window of 2 tokens", &|f| {
            f.insert("sentence_bert_config.json".into(), json!({"max_seq_length": 2}));
        }),
        ("must be WordPiece", &|f| {
            f["tokenizer.json"]["model"] = json!({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"});
        }),
        ("has id 70", &|f| f["tokenizer.json"]["model"]["vocab"]["c"] = 70.into()),
        ("\"[UNK]\" is not in the vocabulary", &|f| {
            f["tokenizer.json"]["model"]["vocab"].as_object_mut().unwrap().remove("[UNK]");
        }),
        ("one token before and one after", &|f| f["tokenizer.json"]["post_processor"] = Value::Null),
        ("the token 70 before or after a text", &|f| {
            f["tokenizer.json"]["post_processor"]["special_tokens"]["[SEP]"]["ids"] = json!([70]);
        }),
        ("tokenizer.json: cannot be used", &|f| {
            f["tokenizer.json"]["post_processor"]["special_tokens"].as_object_mut().unwrap().remove("[SEP]");
        }),
        ("tokenizer.json: cannot be used", &|f| {
            f["tokenizer.json"]["post_processor"]["single"][1]["Sequence"]["id"] = "B".into();
        }),
        ("encoder.layer.0.output.dense.bias is missing", &|f| {
            f["tensors"].as_object_mut().unwrap().remove("encoder.layer.0.output.dense.bias");
        }),
        ("must be [7, 8]; found [7, 9]", &|f| f["tensors"]["embeddings.word_embeddings.weight"] = json!([7, 9])),
    ];
    for (reason, change) in cases {
        let message = refusal(change);
        assert!(message.contains(reason), "{message:?} does not say {reason:?}");
    }
    assert!(refusal(|f| f["dtype"] = "F64".into()).contains("F64; F32, F16 and BF16 are supported"));
    let absent = Encoder::load(Path::new("/nonexistent")).err().unwrap().to_string();
    assert!(absent.contains("/nonexistent: modules.json: cannot be read"), "{absent}");
}

#[test]
fn a_truncated_or_lying_tensor_file_is_refused() {
    let dir = tiny(|_| {});
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for length in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let error = Encoder::load(dir.path()).err().unwrap().to_string();
        assert!(error.contains("model.safetensors"), "{length}: {error}");
    }
    let header_beyond_the_file = [&u64::MAX.to_le_bytes()[..], &whole[8..]].concat();
    fs::write(&path, header_beyond_the_file).unwrap();
    assert!(Encoder::load(dir.path()).is_err());
}
