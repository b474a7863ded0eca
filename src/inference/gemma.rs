//! Gemma 3 text models from GGUF files, and from folders as they are published.
//!
//! A [`Gemma`] is immutable and shared: weights where the files are mapped, norms copied, the tokenizer. A [`Sequence`] is one
//! text under it. `generation` makes text of it.

mod config;
mod forward;
mod kv;
mod source;
mod template;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::Error;
use crate::constraint::Pieces;
use crate::memory::MappedVec;
use crate::product::Matrix;
use crate::tokenizer::Tokenizer;
use config::Config;
use source::{Family, Source};

pub use forward::Sequence;
pub use template::{Role, Turn};

/// Tokens per pass through the model when a prompt is read.
pub(crate) const CHUNK: usize = 32;

/// How much of the file one cancellable piece of loading reads.
const PIECE: usize = 16 << 20;

/// What may be chosen when a model is loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// A `tokenizer.json` to use instead of the model's own vocabulary.
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
    /// `general.name` of the file, or the file's stem; the name of a folder.
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
    /// The size of the model's files, which are mapped.
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
    embedding: Matrix,
    output: Option<Matrix>,
    output_norm: MappedVec<f32>,
    layers: Vec<Layer>,
    chunk: usize,
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

    fn norms(&self) -> [&MappedVec<f32>; 6] {
        let own = [&self.attn_norm, &self.q_norm, &self.k_norm];
        let [a, b, c] = own;
        [a, b, c, &self.post_attention_norm, &self.ffn_norm, &self.post_ffw_norm]
    }
}

impl Gemma {
    /// Loads the GGUF file at `path`, or the folder as it is published (`config.json`, `tokenizer.json`, `model.safetensors` or
    /// its parts), which may be named by its safetensors file: checks headers, shapes and extents, then reads the pages into
    /// the page cache with `progress`. Errors name the file and what was wrong in it.
    pub fn load(path: &Path, options: &LoadOptions, progress: &Progress) -> Result<Gemma, Error> {
        let source = Source::open(path)?;
        let model = Gemma::read(&source, path, options).map_err(|e| e.at(path.display()))?;
        let files = source.files();
        progress.total.store(files.iter().map(|file| file.len() as u64).sum(), Ordering::Relaxed);
        for file in files {
            let total = file.len();
            for at in (0..total).step_by(PIECE) {
                if progress.cancelled.load(Ordering::Relaxed) {
                    return Err(Error::new("loading was cancelled").at(path.display()));
                }
                let end = total.min(at + PIECE);
                file.populate(at..end);
                progress.done.fetch_add((end - at) as u64, Ordering::Relaxed);
            }
        }
        Ok(model)
    }

    fn read(source: &Source, path: &Path, options: &LoadOptions) -> Result<Gemma, Error> {
        if source.family != Family::Gemma3 {
            let found = source.family.architecture();
            return Err(Error::new(format!("architecture {found:?} is not supported; accepted is \"gemma3\"")));
        }
        let config = Config::read(source)?;
        if let Some(cap) = config.attention_cap.or(config.final_cap) {
            return Err(Error::new(format!("a soft cap of {cap}; only models without soft capping are accepted")));
        }
        let tokenizer = match &options.tokenizer {
            Some(path) => Tokenizer::from_file(path)?,
            None => source.tokenizer()?,
        };
        let (vocabulary, rows) = (tokenizer.vocabulary_size(), source.rows("token_embd.weight")?);
        if vocabulary == 0 || vocabulary > rows {
            return Err(Error::new(format!("the tokenizer has {vocabulary} pieces, the model {rows}")));
        }
        let (width, q, kv) = (config.width, config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let embedding = source.table("token_embd.weight", vocabulary, width)?;
        let head = "output.weight";
        let output = if source.has(head) { Some(source.table(head, vocabulary, width)?) } else { None };
        let mut layers = Vec::with_capacity(config.layers);
        for i in 0..config.layers {
            let matrix = |name: &str, rows, cols| source.matrix(&format!("blk.{i}.{name}.weight"), rows, cols);
            let gain = |name: &str, len| source.gain(&format!("blk.{i}.{name}.weight"), len);
            layers.push(Layer {
                attn_norm: gain("attn_norm", width)?,
                q: matrix("attn_q", q, width)?,
                k: matrix("attn_k", kv, width)?,
                v: matrix("attn_v", kv, width)?,
                q_norm: gain("attn_q_norm", config.head_dim)?,
                k_norm: gain("attn_k_norm", config.head_dim)?,
                attn_output: matrix("attn_output", width, q)?,
                post_attention_norm: gain("post_attention_norm", width)?,
                ffn_norm: gain("ffn_norm", width)?,
                gate: matrix("ffn_gate", config.ffn, width)?,
                up: matrix("ffn_up", config.ffn, width)?,
                down: matrix("ffn_down", width, config.ffn)?,
                post_ffw_norm: gain("post_ffw_norm", width)?,
            });
        }
        let output_norm = source.gain("output_norm.weight", width)?;
        let context = match options.context {
            None => options.most_context.map_or(config.context, |most| config.context.min(most.max(1))),
            Some(n) if (1..=config.context).contains(&n) => n,
            Some(n) => {
                let most = config.context;
                return Err(Error::new(format!("a context of {n} was asked for; this model accepts 1 to {most}")));
            }
        };
        let quantization = quantization(&layers);
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let norms = layers.iter().flat_map(Layer::norms).map(MappedVec::bytes).sum::<u64>();
        let parameters = source.parameters();
        let info = ModelInfo {
            name: source.name()?.unwrap_or(stem),
            architecture: config.family.architecture().to_owned(),
            parameters,
            layers: config.layers,
            width,
            vocabulary,
            quantization: quantization.to_owned(),
            context,
            trained_context: config.context,
            file_bytes: source.files().iter().map(|file| file.len() as u64).sum(),
            mapped_bytes: norms + output_norm.bytes(),
            kv_bytes_per_token: config.kv_bytes_per_token(),
        };
        // A pass over a chunk is what others wait for: about eight billion multiplications at most.
        let chunk = (8_000_000_000 / parameters.max(1)).clamp(8, CHUNK as u64) as usize;
        Ok(Gemma { config, info, tokenizer, pieces: OnceLock::new(), embedding, output, output_norm, layers, chunk })
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

    /// How many tokens of a prompt one step of a generation reads.
    pub(crate) fn chunk(&self) -> usize {
        self.chunk
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

    /// The scratch that the widest of its products needs.
    pub(crate) fn scratch_len(&self) -> usize {
        let all = self.layers.iter().flat_map(Layer::matrices).map(Matrix::scratch_len);
        all.fold(self.output().scratch_len(), usize::max)
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
