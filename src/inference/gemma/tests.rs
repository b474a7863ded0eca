//! The forward pass against `transformers` and against itself.

use std::path::PathBuf;
use std::sync::Arc;

use candle_core::quantized::gguf_file::{self, Content};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use serde_json::Value;

use super::*;
use crate::gguf::tests::file_of;
use crate::kernels::{PAGE, SEGMENT};
use crate::product::Input;
use crate::team::Lead;
use crate::team::tests::helped;

const NAMES: [&str; 5] = ["f32", "f16", "bf16", "q8_0", "q4_0"];

pub(crate) fn tests_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests")
}

pub(crate) fn model(name: &str) -> Arc<Gemma> {
    let path = tests_dir().join("models").join(name);
    Arc::new(Gemma::load(&path, &LoadOptions::default(), &Progress::default()).unwrap())
}

/// The same with its head in planes, if it is quantised so.
pub(crate) fn model_in_planes(name: &str) -> Arc<Gemma> {
    let path = tests_dir().join("models").join(name);
    let source = source::Source::open(&path).unwrap();
    Arc::new(Gemma::read(&source, &path, &LoadOptions::default(), &Progress::default(), 1).unwrap())
}

/// What these bytes load as.
fn loaded(bytes: &[u8]) -> Result<Gemma, Error> {
    let file = file_of(bytes);
    Gemma::load(file.path(), &LoadOptions::default(), &Progress::default())
}

pub(crate) fn golden(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(tests_dir().join("golden").join(name)).unwrap()).unwrap()
}

pub(crate) fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

/// Tokens per call where a test does not say otherwise.
const CHUNK: usize = LOGITS;

/// Appends tokens and gives the logits after each.
pub(crate) fn extend(sequence: &mut Sequence, work: &mut Workspace, tokens: &[u32]) -> Result<Vec<Vec<f32>>, Error> {
    let part = Part { sequence, tokens, logits: tokens.len(), exact: true };
    work.append(&mut [part], &Lead::alone(), &|| {})?;
    Ok((0..tokens.len()).map(|row| work.logits(row).to_vec()).collect())
}

/// The logits at every position when the tokens come in chunks of these sizes, the last size repeating.
pub(crate) fn logits(model: &Arc<Gemma>, tokens: &[u32], sizes: &[usize]) -> Vec<Vec<f32>> {
    let mut work = Workspace::new(Arc::clone(model)).unwrap();
    let mut sequence = Sequence::new(Arc::clone(model), tokens.len()).unwrap();
    let (mut all, mut at) = (Vec::new(), 0);
    for i in 0.. {
        let end = tokens.len().min(at + sizes[i.min(sizes.len() - 1)]);
        all.extend(extend(&mut sequence, &mut work, &tokens[at..end]).unwrap());
        at = end;
        if at == tokens.len() {
            break;
        }
    }
    all
}

pub(crate) fn bits(rows: &[Vec<f32>]) -> Vec<Vec<u32>> {
    rows.iter().map(|row| row.iter().map(|x| x.to_bits()).collect()).collect()
}

#[test]
fn logits_agree_with_transformers_at_every_position() {
    let golden = golden("gemma_logits.json");
    let model = model("random-f32.gguf");
    let tokens = ids(&golden["tokens"]);
    let shapes = &model.config().shapes;
    let window = shapes.iter().find_map(|shape| shape.window).expect("some layers see a window");
    assert!(tokens.len() > 3 * window, "the prompt must be longer than the window");
    assert!(shapes.iter().any(|shape| shape.window.is_none() && shape.rope.factor > 1.0));
    let bytes = std::fs::read(tests_dir().join("golden").join(golden["logits"].as_str().unwrap())).unwrap();
    let want: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let got = logits(&model, &tokens, &[CHUNK]);
    let vocabulary = got[0].len();
    assert_eq!(want.len(), tokens.len() * vocabulary);
    let (mut worst, mut total) = (0f32, 0.0);
    for (position, (got, want)) in got.iter().zip(want.chunks_exact(vocabulary)).enumerate() {
        for (g, w) in got.iter().zip(want) {
            let error = (g - w).abs();
            assert!(error <= 1e-1, "position {position}: {g} instead of {w}");
            worst = worst.max(error);
            total += f64::from(error);
        }
    }
    let mean = total / want.len() as f64;
    println!("largest difference {worst:e}, mean {mean:e}");
    // What bf16 loses in attention, 0.029 on average, is in the reference too; but the weights of a page are rounded relative
    // to the largest up to it, those of the reference relative to the largest of all.
    assert!(mean < 6e-3, "{mean}");
}

#[test]
fn chunks_of_any_size_give_the_same_bits() {
    let golden = golden("gemma_logits.json");
    let tokens = ids(&golden["tokens"]);
    // Longer than a page of the cache, so that the local layers' pages are reused.
    let tokens: Vec<u32> = tokens.iter().cycle().take(3 * PAGE + 40).copied().collect();
    for name in NAMES {
        let model = model(&format!("random-{name}.gguf"));
        let alone = bits(&logits(&model, &tokens, &[1]));
        for sizes in [&[CHUNK][..], &[5], &[31, 1, 2, 32, 7]] {
            assert!(bits(&logits(&model, &tokens, sizes)) == alone, "{name}, chunks {sizes:?}");
        }
    }
}

#[test]
fn threads_that_divide_a_long_text_give_the_same_bits() {
    for kv in KvFormat::ALL {
        let path = tests_dir().join("models/random-q8_0.gguf");
        let options = LoadOptions { kv, ..LoadOptions::default() };
        let model = Arc::new(Gemma::load(&path, &options, &Progress::default()).unwrap());
        let golden = golden("gemma_logits.json");
        let tokens: Vec<u32> = ids(&golden["tokens"]).iter().cycle().take(SEGMENT + 3 * PAGE).copied().collect();
        let alone = bits(&logits(&model, &tokens, &[CHUNK, 1, 1, CHUNK]));
        helped(2, |team| {
            let lead = team.lead();
            while !lead.has_help() {
                std::thread::yield_now();
            }
            let mut work = Workspace::new(Arc::clone(&model)).unwrap();
            let mut sequence = Sequence::new(Arc::clone(&model), tokens.len()).unwrap();
            for (chunk, want) in tokens.chunks(7).zip(alone.chunks(7)) {
                let part = Part { sequence: &mut sequence, tokens: chunk, logits: chunk.len(), exact: true };
                work.append(&mut [part], &lead, &|| {}).unwrap();
                let got: Vec<Vec<f32>> = (0..chunk.len()).map(|row| work.logits(row).to_vec()).collect();
                assert!(bits(&got) == want, "{kv:?}");
            }
        });
    }
}

#[test]
fn keys_and_values_in_8_bits_take_half_the_room_and_change_little() {
    let golden = golden("gemma_logits.json");
    let tokens = ids(&golden["tokens"]);
    let path = tests_dir().join("models/random-f32.gguf");
    let [full, half] = KvFormat::ALL.map(|kv| {
        let options = LoadOptions { kv, ..LoadOptions::default() };
        Arc::new(Gemma::load(&path, &options, &Progress::default()).unwrap())
    });
    let share = half.info().kv_bytes_per_token as f64 / full.info().kv_bytes_per_token as f64;
    // Heads of 32 numbers or more have a scale for every 32; smaller ones for each.
    assert!((0.53..0.57).contains(&share), "{share}");
    let [full, half] = [full, half].map(|model| logits(&model, &tokens, &[CHUNK]).concat());
    let difference: f64 = full.iter().zip(&half).map(|(a, b)| f64::from((a - b).abs())).sum();
    let mean = difference / full.len() as f64;
    println!("mean difference {mean}");
    assert!(mean > 0.0 && mean < 0.1, "{mean}");
}

#[test]
fn every_format_loads_and_decodes_as_candle_does() {
    for name in NAMES {
        let path = tests_dir().join("models").join(format!("random-{name}.gguf"));
        let model = model(&format!("random-{name}.gguf"));
        assert_eq!(model.info().quantization, name.to_uppercase());
        let mut file = std::fs::File::open(&path).unwrap();
        let content = Content::read(&mut file).unwrap();
        let layer = &model.layers()[0];
        for (tensor, matrix) in [
            ("token_embd", model.embedding()),
            ("blk.0.attn_k", layer.k.as_ref().unwrap()),
            ("blk.0.ffn_up", &layer.up),
            ("blk.0.ffn_down", &layer.down),
        ] {
            let q = content.tensor(&mut file, &format!("{tensor}.weight"), &Device::Cpu).unwrap();
            let reference = q.dequantize(&Device::Cpu).unwrap();
            let rows: Vec<Vec<f32>> = reference.to_vec2().unwrap();
            let mut row = vec![0.0; matrix.cols()];
            for (i, want) in rows.iter().enumerate() {
                matrix.row(i, &mut row).unwrap();
                assert!(row == *want, "{name} {tensor} row {i}");
            }
            // And the product, with candle's own in f32; whole numbers up to 127 are their own bytes.
            let cols = matrix.cols();
            let x: Vec<f32> =
                (0..2 * cols).map(|i| if i % 32 == 0 { 127.0 } else { (i * 37 % 200) as f32 - 100.0 }).collect();
            let mut input = Input::new(2, cols, [matrix]).unwrap();
            input.reset(2, cols);
            (0..2).for_each(|i| input.set(i, &x[i * cols..(i + 1) * cols]));
            let mut y = vec![0.0; 2 * matrix.rows()];
            // SAFETY: `y` has room for two rows of products.
            unsafe { matrix.multiply(0..matrix.rows(), &input, y.as_mut_ptr(), matrix.rows()) };
            let x = Tensor::from_vec(x, (2, matrix.cols()), &Device::Cpu).unwrap();
            let want: Vec<f32> = x.matmul(&reference.t().unwrap()).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            assert!(y.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-2), "{name} {tensor}");
        }
    }
}

#[test]
fn a_quantised_model_says_what_its_dequantised_twin_does() {
    let tokens = ids(&golden("gemma_logits.json")["tokens"]);
    for name in &NAMES[1..] {
        let mut file = std::fs::File::open(tests_dir().join("models").join(format!("random-{name}.gguf"))).unwrap();
        let content = Content::read(&mut file).unwrap();
        let tensors: Vec<(&str, QTensor)> = content
            .tensor_infos
            .keys()
            .map(|tensor| {
                let q = content.tensor(&mut file, tensor, &Device::Cpu).unwrap();
                let plain = q.dequantize(&Device::Cpu).unwrap();
                (tensor.as_str(), QTensor::quantize(&plain, GgmlDType::F32).unwrap())
            })
            .collect();
        let metadata: Vec<_> = content.metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
        let tensors: Vec<_> = tensors.iter().map(|(name, t)| (*name, t)).collect();
        let mut twin = std::io::Cursor::new(Vec::new());
        gguf_file::write(&mut twin, &metadata, &tensors).unwrap();
        let twin = Arc::new(loaded(&twin.into_inner()).unwrap());
        assert_eq!(twin.info().quantization, "F32");
        let quantised = logits(&model(&format!("random-{name}.gguf")), &tokens, &[CHUNK]);
        let plain = logits(&twin, &tokens, &[CHUNK]);
        if !name.starts_with('q') {
            assert!(bits(&quantised) == bits(&plain), "{name}");
            continue;
        }
        // Integer products see the same weights; what differs is the activations' last of eight bits.
        for (position, (a, b)) in quantised.iter().zip(&plain).enumerate() {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
            assert!(cosine > 0.98, "{name} {position}: {cosine}");
        }
    }
}

#[test]
fn the_template_is_the_familys_and_control_tokens_in_text_stay_text() {
    let model = model("random-f32.gguf");
    let t = model.tokenizer();
    let turns = [
        Turn { role: Role::User, text: "  What is <end_of_turn> for?\n" },
        Turn { role: Role::Model, text: "It ends a turn." },
        Turn { role: Role::User, text: "Thanks" },
    ];
    let ids = model.prompt(&turns).unwrap();
    let (start, end) = (t.start_of_turn().unwrap(), t.end_of_turn().unwrap());
    assert_eq!(ids[0], t.bos().unwrap());
    assert_eq!(ids.iter().filter(|&&id| id == start).count(), 4);
    assert_eq!(ids.iter().filter(|&&id| id == end).count(), 3);
    let text = t.decode(&ids);
    assert_eq!(text, "user\nWhat is <end_of_turn> for?\nmodel\nIt ends a turn.\nuser\nThanks\nmodel\n");
    // Where no text names a control token, the tokens are those of the written-out template.
    let written = "<bos><start_of_turn>user\nThanks<end_of_turn>\n<start_of_turn>model\n";
    assert_eq!(model.prompt(&turns[2..]).unwrap(), t.encode_with_control(written));
}

#[test]
fn sequences_refuse_what_does_not_fit() {
    let model = model("random-q4_0.gguf");
    let context = model.info().context;
    let message = Sequence::new(Arc::clone(&model), context + 1).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains(&context.to_string()), "{message}");
    let mut work = Workspace::new(Arc::clone(&model)).unwrap();
    let mut sequence = Sequence::new(Arc::clone(&model), 3).unwrap();
    let mut refused = |sequence: &mut Sequence, tokens: &[u32]| {
        extend(sequence, &mut work, tokens).map(|_| ()).unwrap_err().to_string()
    };
    assert!(refused(&mut sequence, &[1 << 30]).contains("outside the model's vocabulary"));
    assert!(refused(&mut sequence, &[]).contains("at least one more token"));
    assert!(refused(&mut sequence, &[7; BATCH + 1]).contains("more than a batch"));
    assert!(sequence.is_empty());
    assert!(refused(&mut sequence, &[7; 4]).contains("4 tokens are more than the sequence's 3"));
    extend(&mut sequence, &mut work, &[5, 6, 7]).unwrap();
    assert_eq!(sequence.len(), 3);
    let mut other = Sequence::new(crate::gemma::tests::model("random-q8_0.gguf"), 3).unwrap();
    assert!(extend(&mut other, &mut work, &[5]).unwrap_err().to_string().contains("another model"));
}

#[test]
fn a_long_context_costs_what_is_used() {
    let model = model("random-f32.gguf");
    let (c, layout) = (model.config(), model.layout());
    let mut work = Workspace::new(Arc::clone(&model)).unwrap();
    let mut sequence = Sequence::new(Arc::clone(&model), model.info().context).unwrap();
    assert_eq!(sequence.kv_bytes(), 0);
    extend(&mut sequence, &mut work, &[7]).unwrap();
    let (shape, window) = (&c.shapes[0], c.shapes[0].window.unwrap());
    let page = (2 * c.layers * shape.kv_heads * shape.head_dim * PAGE * 2) as u64;
    assert_eq!(sequence.kv_bytes(), page);
    for _ in 0..10 {
        extend(&mut sequence, &mut work, &[7; 31]).unwrap();
        assert!(sequence.kv_bytes() <= layout.bytes_for(sequence.len()));
    }
    // The window is smaller than a page, and lies in the last one when the last tokens come: the others have let theirs go.
    assert!(window <= PAGE && sequence.len() > 4 * PAGE);
    assert_eq!(sequence.kv_bytes(), page + (4 * PAGE * model.info().kv_bytes_per_token) as u64);
}

#[test]
fn loading_reports_and_can_be_cancelled() {
    let path = tests_dir().join("models/random-f32.gguf");
    let progress = Progress::default();
    let model = Gemma::load(&path, &LoadOptions { context: Some(64), ..LoadOptions::default() }, &progress).unwrap();
    assert_eq!(progress.done.load(Ordering::Relaxed), model.info().file_bytes);
    assert_eq!(progress.total.load(Ordering::Relaxed), model.info().file_bytes);
    assert_eq!(model.info().context, 64);
    assert!(model.info().trained_context > 64);
    progress.cancelled.store(true, Ordering::Relaxed);
    let message = Gemma::load(&path, &LoadOptions::default(), &progress).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("cancelled"), "{message}");
    let options = LoadOptions { context: Some(1 << 23), ..LoadOptions::default() };
    let message = Gemma::load(&path, &options, &Progress::default()).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("a context of 8388608 was asked for"), "{message}");
}

/// The bytes of the small Q4_0 model with some metadata replaced.
fn changed(changes: &[(&str, Option<gguf_file::Value>)]) -> Vec<u8> {
    let mut file = std::fs::File::open(tests_dir().join("models/random-q4_0.gguf")).unwrap();
    let mut content = Content::read(&mut file).unwrap();
    for (key, value) in changes {
        match value {
            Some(value) => content.metadata.insert((*key).to_owned(), value.clone()),
            None => content.metadata.remove(*key),
        };
    }
    let tensors: Vec<(&String, QTensor)> = content
        .tensor_infos
        .keys()
        .map(|name| (name, content.tensor(&mut file, name, &Device::Cpu).unwrap()))
        .collect();
    let metadata: Vec<_> = content.metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, t)| (name.as_str(), t)).collect();
    let mut bytes = std::io::Cursor::new(Vec::new());
    gguf_file::write(&mut bytes, &metadata, &tensors).unwrap();
    bytes.into_inner()
}

#[test]
fn metadata_that_does_not_fit_is_named() {
    use gguf_file::Value::{Array, Bool, F32, String, U32};
    assert!(loaded(&changed(&[])).is_ok());
    let layers = model("random-q4_0.gguf").info().layers;
    for (key, value, expected) in [
        ("general.architecture", Some(String("llama".into())), "architecture \"llama\" is not supported"),
        ("general.architecture", None, "architecture \"(none)\" is not supported"),
        ("gemma3.block_count", None, "metadata gemma3.block_count is missing"),
        ("gemma3.block_count", Some(U32(0)), "accepted are 1 to 512"),
        ("gemma3.block_count", Some(U32(layers as u32 + 1)), "blk.7.attn_norm.weight is missing"),
        ("gemma3.block_count", Some(Array(vec![U32(1)])), "is an array of 1, expected a whole number"),
        ("gemma3.embedding_length", Some(U32(7)), "tensor token_embd.weight has shape"),
        ("gemma3.attention.head_count", Some(U32(u32::MAX)), "accepted are 1 to 1024"),
        ("gemma3.attention.head_count_kv", Some(U32(3)), "cannot share 3 key/value heads"),
        ("gemma3.attention.key_length", Some(U32(31)), "must be equal and even"),
        ("gemma3.attention.layer_norm_rms_epsilon", Some(F32(f32::NAN)), "expected a finite number"),
        ("gemma3.attention.layer_norm_rms_epsilon", Some(F32(-1.0)), "not in 0..1"),
        ("gemma3.attention.sliding_window", None, "sliding_window is missing"),
        ("gemma3.attention.sliding_window_pattern", Some(Array(vec![Bool(true)])), "has 1 entries for 7 layers"),
        ("gemma3.attention.sliding_window_pattern", Some(Array(vec![U32(1); layers])), "array of booleans"),
        ("gemma3.final_logit_softcapping", Some(F32(-30.0)), "final_logit_softcapping"),
        ("gemma3.rope.freq_base", Some(F32(0.0)), "must be above 1"),
        ("gemma3.rope.scaling.type", Some(String("yarn".into())), "accepted are \"linear\" and \"none\""),
        ("gemma3.rope.scaling.factor", Some(F32(0.5)), "accepted are 1 to 1,000,000"),
        ("gemma3.context_length", Some(U32(0)), "accepted are 1 to 4194304"),
        ("tokenizer.ggml.tokens", None, "tokenizer.ggml.tokens"),
    ] {
        let message = loaded(&changed(&[(key, value)])).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(expected), "{key}: {message}");
    }
}

#[test]
fn the_pattern_of_local_layers_may_be_a_number_or_a_list() {
    use gguf_file::Value::{Array, Bool, U32};
    const KEY: &str = "gemma3.attention.sliding_window_pattern";
    let local = |value| {
        let model = loaded(&changed(&[(KEY, value)])).unwrap();
        model.config().shapes.iter().map(|shape| shape.window.is_some()).collect::<Vec<_>>()
    };
    assert_eq!(local(None), [true, true, true, true, true, false, true]);
    assert_eq!(local(Some(U32(2))), [true, false, true, false, true, false, true]);
    let list = [false, true, true, false, false, true, true];
    assert_eq!(local(Some(Array(list.map(Bool).to_vec()))), list);
}
