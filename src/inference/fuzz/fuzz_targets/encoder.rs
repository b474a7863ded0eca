//! The folder of an encoder with edits in one of its files: an error or an encoder that runs, never a panic.

#![no_main]

mod edits;

use edits::edited;
use engram_inference::{Encoder, Scratch};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

/// The files of a sound encoder: one layer of two heads, eight numbers wide.
static FILES: LazyLock<[(&str, Vec<u8>); 6]> = LazyLock::new(|| {
    let modules = br#"[{"path": "", "type": "x.Transformer"}, {"path": "pool", "type": "x.Pooling"}, {"path": "norm", "type": "x.Normalize"}]"#;
    let config = br#"{"architectures": ["BertModel"], "hidden_act": "gelu", "hidden_size": 8, "intermediate_size": 12, "layer_norm_eps": 1e-9,
        "max_position_embeddings": 6, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 7}"#;
    let tokenizer = br###"{"version": "1.0", "added_tokens": [], "normalizer": {"type": "BertNormalizer", "clean_text": true,
        "handle_chinese_chars": true, "strip_accents": null, "lowercase": true}, "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]}, "[SEP]": {"id": "[SEP]", "ids": [2], "tokens": ["[SEP]"]}}},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
        "vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "b": 4, "##a": 5, "##b": 6}}}"###;
    [
        ("modules.json", modules.to_vec()),
        ("config.json", config.to_vec()),
        ("pool/config.json", br#"{"pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true}"#.to_vec()),
        ("sentence_bert_config.json", br#"{"max_seq_length": 5}"#.to_vec()),
        ("tokenizer.json", tokenizer.to_vec()),
        ("model.safetensors", tensors()),
    ]
});

fn tensors() -> Vec<u8> {
    let mut shapes: Vec<(String, Vec<usize>)> = vec![
        ("embeddings.word_embeddings.weight".into(), vec![7, 8]),
        ("embeddings.position_embeddings.weight".into(), vec![6, 8]),
        ("embeddings.token_type_embeddings.weight".into(), vec![2, 8]),
    ];
    let layer = |name: &str| format!("encoder.layer.0.{name}");
    for part in ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"] {
        shapes.push((layer(&format!("{part}.weight")), vec![8, 8]));
        shapes.push((layer(&format!("{part}.bias")), vec![8]));
    }
    for (part, outputs, inputs) in [("intermediate.dense", 12, 8), ("output.dense", 8, 12)] {
        shapes.push((layer(&format!("{part}.weight")), vec![outputs, inputs]));
        shapes.push((layer(&format!("{part}.bias")), vec![outputs]));
    }
    for norm in ["embeddings.LayerNorm".into(), layer("attention.output.LayerNorm"), layer("output.LayerNorm")] {
        shapes.push((format!("{norm}.weight"), vec![8]));
        shapes.push((format!("{norm}.bias"), vec![8]));
    }
    let (mut header, mut data) = (Vec::new(), Vec::<u8>::new());
    for (name, shape) in shapes {
        let start = data.len();
        data.extend((0..shape.iter().product()).flat_map(|n: usize| ((n % 11) as f32 / 8.0 - 0.5).to_le_bytes()));
        header.push(format!(r#""{name}":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{start},{}]}}"#, data.len()));
    }
    let header = format!("{{{}}}", header.join(","));
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

/// In place of the fuzzer's hook, which ends the run at a panic even if it is caught.
fn say_panics() {
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
}

// Which file, and its edits. Without any the encoder is sound.
fuzz_target!(init: say_panics(), |input: &[u8]| {
    let Ok(dir) = tempfile::tempdir() else { return };
    let (which, edits) = input.split_first().unwrap_or((&0, &[]));
    for (n, (name, sound)) in FILES.iter().enumerate() {
        let file = if n == usize::from(*which) % FILES.len() { edited(sound, edits) } else { sound.clone() };
        let path = dir.path().join(name);
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        if made.and_then(|()| std::fs::write(path, file)).is_err() {
            return;
        }
    }
    let encoder = match Encoder::load(dir.path()) {
        Ok(encoder) => encoder,
        Err(error) => return assert!(edits.len() > 3, "{error}"),
    };
    let windows: Vec<_> = encoder.windows_with_spans("ab Abba ü b 🦜").into_iter().map(|(window, _)| window).collect();
    let _ = encoder.encode_with_tokens(&windows, &mut Scratch::default());
});
