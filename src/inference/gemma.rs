//! Gemma 3 text models from GGUF files.
//!
//! A [`Gemma`] is immutable and shared: weights where the file is mapped, norms copied, the tokenizer. A [`Sequence`] is one
//! text under it. `generation` makes text of it.

mod config;
mod forward;
mod kv;
mod template;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::Error;
use crate::constraint::Pieces;
use crate::gguf::Gguf;
use crate::memory::{Arena, MappedVec};
use crate::product::Matrix;
use crate::tokenizer::Tokenizer;
use config::Config;

pub use forward::{BATCH, LOGITS, Part, Sequence, Workspace};
pub use template::{Role, Turn};

/// What may be chosen when a model is loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// A `tokenizer.json` or SentencePiece `tokenizer.model` to use instead of the GGUF's own vocabulary.
    pub tokenizer: Option<PathBuf>,
    /// The context in tokens; at most, and by default, what the model was trained for.
    pub context: Option<usize>,
    /// Where no context is chosen, at most this many tokens of what the model was trained for.
    pub most_context: Option<usize>,
}

/// How far loading is; shared with whoever watches or cancels it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes read so far.
    pub done: AtomicU64,
    /// Bytes to read; 0 until the file is open.
    pub total: AtomicU64,
    /// Set to make the load end with an error soon.
    pub cancelled: AtomicBool,
}

/// What is known about a loaded model.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// `general.name` of the file, or the file's stem.
    pub name: String,
    /// `gemma3`.
    pub architecture: String,
    /// Numbers in all tensors.
    pub parameters: u64,
    /// Transformer layers.
    pub layers: usize,
    /// Numbers per position between layers.
    pub width: usize,
    /// Pieces of the tokenizer.
    pub vocabulary: usize,
    /// The format of the layers' matrices, `mixed` when they differ.
    pub quantization: String,
    /// Tokens a sequence may have.
    pub context: usize,
    /// Tokens the model was trained for.
    pub trained_context: usize,
    /// The size of the model file, which is mapped.
    pub file_bytes: u64,
    /// Bytes in memory of our own, beside the file.
    pub mapped_bytes: u64,
    /// Bytes of keys and values per token of a sequence, in the layers that keep every token.
    pub kv_bytes_per_token: usize,
}

/// A loaded model.
pub struct Gemma {
    config: Config,
    info: ModelInfo,
    tokenizer: Tokenizer,
    /// Made when the first constrained answer asks for them.
    pieces: OnceLock<Result<Arc<Pieces>, Error>>,
    layout: Arc<kv::Layout>,
    embedding: Matrix,
    output: Option<Matrix>,
    output_norm: MappedVec<f32>,
    layers: Vec<Layer>,
}

pub(crate) struct Layer {
    attn_norm: MappedVec<f32>,
    q: Matrix,
    k: Matrix,
    v: Matrix,
    q_norm: MappedVec<f32>,
    k_norm: MappedVec<f32>,
    attn_output: Matrix,
    post_attention_norm: MappedVec<f32>,
    ffn_norm: MappedVec<f32>,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
    post_ffw_norm: MappedVec<f32>,
}

impl Layer {
    fn matrices(&self) -> [&Matrix; 7] {
        [&self.q, &self.k, &self.v, &self.attn_output, &self.gate, &self.up, &self.down]
    }

    /// The matrices that are multiplied with a norm of the stream.
    fn of_normed(&self) -> [&Matrix; 5] {
        [&self.q, &self.k, &self.v, &self.gate, &self.up]
    }

    fn norms(&self) -> [&MappedVec<f32>; 6] {
        let own = [&self.attn_norm, &self.q_norm, &self.k_norm];
        let [a, b, c] = own;
        [a, b, c, &self.post_attention_norm, &self.ffn_norm, &self.post_ffw_norm]
    }
}

impl Gemma {
    /// Loads the GGUF file at `path`: checks its header, shapes and extents, then reads its pages into the page cache with
    /// `progress`. Errors name the file and what was wrong in it.
    pub fn load(path: &Path, options: &LoadOptions, progress: &Progress) -> Result<Gemma, Error> {
        let gguf = Gguf::open(path)?;
        Gemma::read(&gguf, path, options, progress).map_err(|e| e.at(path.display()))
    }

    fn read(gguf: &Gguf, path: &Path, options: &LoadOptions, progress: &Progress) -> Result<Gemma, Error> {
        let config = Config::read(gguf)?;
        let total = gguf.file().len();
        progress.total.store(total as u64, Ordering::Relaxed);
        // What the tensors take of the file is what has been done; the header is small beside it.
        let advance = |matrix: Matrix| {
            if progress.cancelled.load(Ordering::Relaxed) {
                return Err(Error::new("loading was cancelled"));
            }
            progress.done.fetch_add(matrix.bytes() as u64, Ordering::Relaxed);
            Ok(matrix)
        };
        let arena = Arena::new(gguf.arena_bytes()?)?;
        let tensor = |name: &str, rows, cols| gguf.matrix(name, rows, cols, &arena).and_then(advance);
        let (width, q, kv) = (config.width, config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let (rows, _) = gguf.shape("token_embd.weight")?;
        let tokenizer = match &options.tokenizer {
            Some(path) => Tokenizer::from_file(path)?,
            None => Tokenizer::from_gguf(gguf.metadata())?,
        };
        let vocabulary = tokenizer.vocabulary_size();
        if vocabulary == 0 || vocabulary > rows {
            return Err(Error::new(format!("the tokenizer has {vocabulary} pieces, the model {rows}")));
        }
        let context = match options.context {
            None => options.most_context.map_or(config.context, |most| config.context.min(most.max(1))),
            Some(n) if (1..=config.context).contains(&n) => n,
            Some(n) => {
                let most = config.context;
                return Err(Error::new(format!("a context of {n} was asked for; this model accepts 1 to {most}")));
            }
        };
        let embedding = tensor("token_embd.weight", rows, width)?;
        let output = if gguf.has("output.weight") { Some(tensor("output.weight", rows, width)?) } else { None };
        let mut layers = Vec::with_capacity(config.layers);
        for i in 0..config.layers {
            let matrix = |name: &str, rows, cols| tensor(&format!("blk.{i}.{name}.weight"), rows, cols);
            let vector = |name: &str, len| gguf.vector(&format!("blk.{i}.{name}.weight"), len);
            layers.push(Layer {
                attn_norm: vector("attn_norm", width)?,
                q: matrix("attn_q", q, width)?,
                k: matrix("attn_k", kv, width)?,
                v: matrix("attn_v", kv, width)?,
                q_norm: vector("attn_q_norm", config.head_dim)?,
                k_norm: vector("attn_k_norm", config.head_dim)?,
                attn_output: matrix("attn_output", width, q)?,
                post_attention_norm: vector("post_attention_norm", width)?,
                ffn_norm: vector("ffn_norm", width)?,
                gate: matrix("ffn_gate", config.ffn, width)?,
                up: matrix("ffn_up", config.ffn, width)?,
                down: matrix("ffn_down", width, config.ffn)?,
                post_ffw_norm: vector("post_ffw_norm", width)?,
            });
        }
        let output_norm = gguf.vector("output_norm.weight", width)?;
        let quantization = quantization(&layers);
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let norms = layers.iter().flat_map(Layer::norms).map(MappedVec::bytes).sum::<u64>();
        let parameters = gguf.parameters();
        let layout = Arc::new(kv::Layout::new(&config));
        let info = ModelInfo {
            name: gguf.text("general.name")?.filter(|n| !n.is_empty()).map_or(stem, str::to_owned),
            architecture: "gemma3".to_owned(),
            parameters,
            layers: config.layers,
            width,
            vocabulary,
            quantization: quantization.to_owned(),
            context,
            trained_context: config.context,
            file_bytes: total as u64,
            mapped_bytes: norms + output_norm.bytes() + arena.bytes(),
            kv_bytes_per_token: layout.bytes_per_token(),
        };
        progress.done.store(total as u64, Ordering::Relaxed);
        Ok(Gemma { config, info, tokenizer, pieces: OnceLock::new(), layout, embedding, output, output_norm, layers })
    }

    /// What is known about the model.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The vocabulary as constrained answers use it. The first call takes a moment: not for a thread that must not wait.
    pub(crate) fn pieces(&self) -> Result<Arc<Pieces>, Error> {
        self.pieces.get_or_init(|| Pieces::new(&self.tokenizer).map(Arc::new)).clone()
    }

    /// Multiplications that one token costs in the layers.
    pub(crate) fn work_per_token(&self) -> usize {
        self.layers.iter().flat_map(Layer::matrices).map(|matrix| matrix.rows() * matrix.cols()).sum()
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn embedding(&self) -> &Matrix {
        &self.embedding
    }

    /// The matrix that makes logits; the embedding's where the file has none of its own.
    pub(crate) fn output(&self) -> &Matrix {
        self.output.as_ref().unwrap_or(&self.embedding)
    }

    pub(crate) fn output_norm(&self) -> &[f32] {
        &self.output_norm
    }

    pub(crate) fn layers(&self) -> &[Layer] {
        &self.layers
    }

    pub(crate) fn layout(&self) -> &Arc<kv::Layout> {
        &self.layout
    }
}

/// The format of all matrices of the layers, or `mixed`.
fn quantization(layers: &[Layer]) -> &'static str {
    let mut formats = layers.iter().flat_map(Layer::matrices).map(|m| m.format().name());
    let first = formats.next().unwrap_or("mixed");
    if formats.all(|f| f == first) { first } else { "mixed" }
}

#[cfg(test)]
pub(crate) mod tests;
