//! Reading a sentence-transformers folder.

use super::{Encoder, Layer, Linear, Norm, Pooling, Precision, Shape};
use crate::Error;
use crate::folder::{json, modules, pooling_modes, read};
use crate::kernels::{EncoderKernels, kernels as row_kernels};
use crate::memory::MappedVec;
use crate::product::Matrix;
use crate::safetensors::Safetensors;
use serde::Deserialize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// No tokenizer comes near this many bytes.
const MAX_TOKENIZER: u64 = 256 << 20;
/// Larger figures in a configuration are refused before anything is computed with them.
const MAX_SIZE: usize = 1 << 20;
/// Attention needs memory that grows with the square of the window.
const MAX_POSITIONS: usize = 8192;

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    architectures: Vec<String>,
    hidden_act: String,
    hidden_size: usize,
    intermediate_size: usize,
    layer_norm_eps: f64,
    max_position_embeddings: usize,
    num_attention_heads: usize,
    num_hidden_layers: usize,
    position_embedding_type: Option<String>,
    vocab_size: usize,
}

#[derive(Deserialize, Default)]
struct SentenceConfig {
    max_seq_length: Option<usize>,
}

pub(super) fn load(dir: &Path, precision: Precision) -> Result<Encoder, Error> {
    let (transformer, pooling, normalize) = steps(dir)?;
    let config: Config = json(&transformer.join("config.json"))?;
    let limit = match transformer.join("sentence_bert_config.json") {
        path if path.exists() => json::<SentenceConfig>(&path)?.max_seq_length,
        _ => None,
    };
    let shape = shape(config, limit)?;
    let (tokenizer, continues, edges) = tokenizer(&transformer.join("tokenizer.json"), shape.vocabulary)?;
    let tensors = Safetensors::file(&transformer.join("model.safetensors"))?.below(&["", "bert."], WORDS);
    let name = dir.canonicalize().ok().and_then(|dir| Some(dir.file_name()?.to_string_lossy().into_owned()));
    let name = name.ok_or_else(|| Error::new("the folder has no name"))?;
    let kernels = precision.kernels(shape)?;
    weights(&tensors, shape, kernels)
        .map(|Weights { words, positions, norm, layers }| Encoder {
            name,
            shape,
            tokenizer,
            continues,
            edges,
            pooling,
            normalize,
            words,
            positions,
            norm,
            layers,
            kernels,
        })
        .map_err(|error| error.at("model.safetensors"))
}

/// The folder of the transformer, the pooling and whether vectors are normalised.
fn steps(dir: &Path) -> Result<(PathBuf, Pooling, bool), Error> {
    let modules = modules(dir)?;
    let kinds: Vec<&str> = modules.iter().map(|(kind, _)| kind.as_str()).collect();
    let normalize = match kinds.as_slice() {
        ["Transformer", "Pooling"] => false,
        ["Transformer", "Pooling", "Normalize"] => true,
        ["Transformer", "Pooling", other] => return Err(unsupported(other)),
        other => return Err(unsupported(&other.join(", "))),
    };
    match modules.as_slice() {
        [(_, transformer), (_, pooling), ..] => {
            Ok((transformer.clone(), self::pooling(&pooling.join("config.json"))?, normalize))
        }
        _ => Err(unsupported(&kinds.join(", "))),
    }
}

fn unsupported(modules: &str) -> Error {
    Error::new(format!(
        "modules.json: Transformer, Pooling and optionally Normalize are supported, in this order; found {modules}"
    ))
}

fn pooling(path: &Path) -> Result<Pooling, Error> {
    let on = pooling_modes(path)?;
    match on.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["mean_tokens"] => Ok(Pooling::Mean),
        ["cls_token"] => Ok(Pooling::First),
        _ => Err(Error::new(format!(
            "{}: exactly one of mean_tokens and cls_token is supported as pooling mode; found {on:?}",
            path.display()
        ))),
    }
}

fn shape(config: Config, limit: Option<usize>) -> Result<Shape, Error> {
    let refuse = |what: String| Err(Error::new(format!("config.json: {what}")));
    if config.architectures != ["BertModel"] {
        return refuse(format!("the architecture must be [\"BertModel\"]; found {:?}", config.architectures));
    }
    if config.hidden_act != "gelu" {
        return refuse(format!("hidden_act must be \"gelu\"; found {:?}", config.hidden_act));
    }
    if let Some(kind) = config.position_embedding_type.filter(|kind| kind != "absolute") {
        return refuse(format!("position_embedding_type must be \"absolute\"; found {kind:?}"));
    }
    let sizes = [
        ("hidden_size", config.hidden_size, MAX_SIZE),
        ("intermediate_size", config.intermediate_size, MAX_SIZE),
        ("max_position_embeddings", config.max_position_embeddings, MAX_POSITIONS),
        ("num_attention_heads", config.num_attention_heads, MAX_SIZE),
        ("num_hidden_layers", config.num_hidden_layers, MAX_SIZE),
        ("vocab_size", config.vocab_size, MAX_SIZE),
    ];
    if let Some((key, size, most)) = sizes.into_iter().find(|(_, size, most)| !(1..=*most).contains(size)) {
        return refuse(format!("{key} is {size}; 1 to {most} are accepted"));
    }
    if !config.hidden_size.is_multiple_of(config.num_attention_heads) {
        return refuse(format!(
            "hidden_size {} is not a multiple of num_attention_heads {}",
            config.hidden_size, config.num_attention_heads
        ));
    }
    if !(config.layer_norm_eps > 0.0 && config.layer_norm_eps < 1.0) {
        return refuse(format!("layer_norm_eps must be between 0 and 1; found {}", config.layer_norm_eps));
    }
    let window = limit.unwrap_or(config.max_position_embeddings).min(config.max_position_embeddings);
    if window < 3 {
        return Err(Error::new(format!("a window of {window} tokens holds no text; at least 3 are needed")));
    }
    Ok(Shape {
        width: config.hidden_size,
        heads: config.num_attention_heads,
        inner: config.intermediate_size,
        layers: config.num_hidden_layers,
        vocabulary: config.vocab_size,
        positions: config.max_position_embeddings,
        window,
        epsilon: config.layer_norm_eps as f32,
    })
}

/// The tokenizer without the truncation and padding that its file may ask for, which pieces continue a word, and the two
/// tokens around a text.
fn tokenizer(path: &Path, vocabulary: usize) -> Result<(tokenizers::Tokenizer, Vec<bool>, [u32; 2]), Error> {
    // One text is one thread's work here.
    tokenizers::utils::parallelism::set_parallelism(false);
    let refuse = |what: String| Error::new(format!("tokenizer.json: {what}"));
    let bytes = read(path, MAX_TOKENIZER)?;
    let mut tokenizer = unpanicked(|| tokenizers::Tokenizer::from_bytes(bytes))
        .map_err(|error| refuse(format!("cannot be read: {error}")))?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|error| refuse(format!("cannot be used: {error}")))?;
    let tokenizers::ModelWrapper::WordPiece(model) = tokenizer.get_model() else {
        return Err(refuse("the model must be WordPiece".into()));
    };
    let (unknown, prefix) = (model.unk_token.clone(), model.continuing_subword_prefix.clone());
    let pieces = tokenizer.get_vocab(true);
    if !pieces.contains_key(&unknown) {
        return Err(refuse(format!("the unknown piece {unknown:?} is not in the vocabulary")));
    }
    let mut continues = vec![false; vocabulary];
    for (piece, id) in &pieces {
        match continues.get_mut(*id as usize) {
            Some(continues) => *continues = !prefix.is_empty() && piece.starts_with(&prefix),
            None => {
                return Err(refuse(format!(
                    "the piece {piece:?} has id {id}, beyond the vocab_size {vocabulary} of config.json"
                )));
            }
        }
    }
    let empty =
        unpanicked(|| tokenizer.encode_fast("", true)).map_err(|error| refuse(format!("cannot be used: {error}")))?;
    let edges: [u32; 2] = empty.get_ids().try_into().map_err(|_| {
        refuse(format!("one token before and one after a text are supported; found {:?}", empty.get_tokens()))
    })?;
    if let Some(edge) = edges.iter().find(|edge| **edge as usize >= vocabulary) {
        return Err(refuse(format!(
            "the token {edge} before or after a text is beyond the vocab_size {vocabulary} of config.json"
        )));
    }
    Ok((tokenizer, continues, edges))
}

/// What the library makes of a file, which it trusts: a template that names a token or a text that is not there makes it panic.
fn unpanicked<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("it contradicts itself".into()))
}

struct Weights {
    words: Matrix,
    positions: MappedVec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
}

const WORDS: &str = "embeddings.word_embeddings.weight";

fn weights(tensors: &Safetensors, shape: Shape, kernels: &EncoderKernels) -> Result<Weights, Error> {
    let Shape { width, inner, vocabulary, positions: rows, .. } = shape;
    // Exactly so many rows, of which each text reads a few.
    tensors.bytes(WORDS, &[Some(vocabulary), Some(width)])?;
    let words = tensors.mapped_rows(WORDS, vocabulary, width)?;
    let one = |name: String, shape: &[usize]| stacked(tensors, &[name], shape);
    let mut positions = one("embeddings.position_embeddings.weight".into(), &[rows, width])?;
    let (format, types) = tensors.bytes("embeddings.token_type_embeddings.weight", &[None, Some(width)])?;
    let Some(first) = format.row_bytes(width).and_then(|bytes| types.get(..bytes)) else {
        return Err(Error::new("the tensor embeddings.token_type_embeddings.weight has no row"));
    };
    let mut first_type = MappedVec::zeroed(width)?;
    row_kernels().decode_row(format, first, &mut first_type);
    for row in positions.chunks_exact_mut(width) {
        row_kernels().add(row, &first_type);
    }
    let norm = |name: &str| {
        let (gain, offset) = (one(format!("{name}.weight"), &[width])?, one(format!("{name}.bias"), &[width])?);
        Ok::<_, Error>(Norm { gain, offset })
    };
    // `names` are layers of the same size, stacked; the first is multiplied with `scale`.
    let scaled = |names: &[String], outputs: usize, inputs: usize, scale: f32| {
        let with = |suffix: &str| names.iter().map(|name| format!("{name}.{suffix}")).collect::<Vec<_>>();
        let mut weight = stacked(tensors, &with("weight"), &[outputs, inputs])?;
        let mut bias = stacked(tensors, &with("bias"), &[outputs])?;
        row_kernels().scale(&mut weight[..outputs * inputs], scale);
        row_kernels().scale(&mut bias[..outputs], scale);
        Linear::new(kernels, &weight, &bias)
    };
    let linear = |name: String, outputs, inputs| scaled(&[name], outputs, inputs, 1.0);
    // Scores are divided by the root of the length of a head: here, once, instead of score by score.
    let scale = 1.0 / ((width / shape.heads) as f32).sqrt();
    let layers = (0..shape.layers).map(|index| {
        let at = |name: &str| format!("encoder.layer.{index}.{name}");
        Ok(Layer {
            qkv: scaled(
                &["query", "key", "value"].map(|part| at(&format!("attention.self.{part}"))),
                width,
                width,
                scale,
            )?,
            output: linear(at("attention.output.dense"), width, width)?,
            attention_norm: norm(&at("attention.output.LayerNorm"))?,
            up: linear(at("intermediate.dense"), inner, width)?,
            down: linear(at("output.dense"), width, inner)?,
            norm: norm(&at("output.LayerNorm"))?,
        })
    });
    let layers = layers.collect::<Result<_, Error>>()?;
    Ok(Weights { words, positions, norm: norm("embeddings.LayerNorm")?, layers })
}

/// The numbers of the named tensors, all of this shape, one after the other.
fn stacked(tensors: &Safetensors, names: &[String], shape: &[usize]) -> Result<MappedVec<f32>, Error> {
    let sizes: Vec<Option<usize>> = shape.iter().copied().map(Some).collect();
    let found = names.iter().map(|name| tensors.bytes(name, &sizes)).collect::<Result<Vec<_>, _>>()?;
    let count: usize = shape.iter().product();
    let mut numbers = MappedVec::zeroed(count * names.len())?;
    for ((format, bytes), numbers) in found.into_iter().zip(numbers.chunks_exact_mut(count)) {
        row_kernels().decode_row(format, bytes, numbers);
    }
    Ok(numbers)
}
