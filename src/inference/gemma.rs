//! Gemma text models from GGUF files, and from folders as they are published.
//!
//! A [`Gemma`] is immutable and shared: weights where the files are mapped, norms copied, the tokenizer. A [`Sequence`] is one
//! text under it. `generation` makes text of it; an [`Encoder`] is a model of the family that makes vectors instead.

mod config;
mod encoder;
mod forward;
mod head;
mod kv;
pub(crate) mod prefix;
mod source;
mod template;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use crate::Error;
use crate::constraint::Pieces;
use crate::loading::Loader;
pub use crate::loading::Progress;
use crate::memory::MappedVec;
use crate::packed::Planes;
use crate::pool::Pool;
use crate::product::Matrix;
use crate::tokenizer::Tokenizer;
use config::Config;
use source::{Family, Source};

pub use encoder::{Encoder, Prompts, Scratch};
pub use forward::{BATCH, LOGITS, Part, Sequence, Workspace};
pub use head::Logits;
pub(crate) use kv::KvCache;
pub use kv::KvFormat;
pub use prefix::{Limits, Stats};
use template::Template;
pub use template::{Role, Turn};

/// The table of what each token brings for every layer: a row of it is read per token, so it is used where it lies.
pub(crate) const OWN_INPUTS: &str = "per_layer_token_embd.weight";

/// The embedding.
pub(crate) const WORDS: &str = "token_embd.weight";

/// Rows from which a head is worth two planes: with fewer, all that is saved is less than a scan of the products takes.
const HEAD_ROWS: usize = 32_768;

/// What may be chosen when a model is loaded.
#[derive(Clone, Default)]
pub struct LoadOptions {
    /// A `tokenizer.json` or SentencePiece `tokenizer.model` to use instead of the model's own vocabulary.
    pub tokenizer: Option<PathBuf>,
    /// The context in tokens; at most, and by default, what the model was trained for.
    pub context: Option<usize>,
    /// Where no context is chosen, at most this many tokens of what the model was trained for.
    pub most_context: Option<usize>,
    /// How the keys and values of its texts are held.
    pub kv: KvFormat,
    /// The threads that help; without them the one that loads is alone. Between two pieces of the work it runs what waits in the pool
    /// with high priority.
    pub pool: Option<Arc<Pool>>,
}

/// What is known about a loaded model.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// `general.name` of the file, or the file's stem; the name of a folder.
    pub name: String,
    /// As a GGUF calls it: `gemma3`.
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
    /// How they are held.
    pub kv_format: KvFormat,
}

/// A loaded model.
pub struct Gemma {
    config: Config,
    info: ModelInfo,
    tokenizer: Tokenizer,
    template: Template,
    /// Made when the first constrained answer asks for them.
    pieces: OnceLock<Result<Arc<Pieces>, Error>>,
    layout: Arc<kv::Layout>,
    own_inputs: Option<OwnInputs>,
    /// For norms without a gain.
    ones: MappedVec<f32>,
    embedding: Matrix,
    output: Option<Matrix>,
    output_norm: MappedVec<f32>,
    layers: Vec<Layer>,
    /// What makes a text's vector of the mean of its positions, in an encoder.
    projection: Option<[Matrix; 2]>,
}

pub(crate) struct Layer {
    attn_norm: MappedVec<f32>,
    q: Matrix,
    /// None where it has the keys and values of another layer.
    k: Option<Matrix>,
    /// None as well where its keys are its values.
    v: Option<Matrix>,
    q_norm: Option<MappedVec<f32>>,
    k_norm: Option<MappedVec<f32>>,
    attn_output: Matrix,
    post_attention_norm: MappedVec<f32>,
    ffn_norm: MappedVec<f32>,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
    post_ffw_norm: MappedVec<f32>,
    own_input: Option<OwnInput>,
    /// What the stream is multiplied with behind it.
    scale: f32,
}

/// How a layer takes what each token brings for it.
pub(crate) struct OwnInput {
    gate: Matrix,
    projection: Matrix,
    norm: MappedVec<f32>,
}

/// What each token brings for every layer, beside its embedding.
pub(crate) struct OwnInputs {
    /// A row per token, for all layers one after the other.
    table: Matrix,
    /// The embedding's share in it.
    projection: Matrix,
    norm: MappedVec<f32>,
}

impl Layer {
    fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let own = self.own_input.iter().flat_map(|own| [&own.gate, &own.projection]);
        [&self.q, &self.attn_output, &self.gate, &self.up, &self.down]
            .into_iter()
            .chain(&self.k)
            .chain(&self.v)
            .chain(own)
    }

    /// The matrices that are multiplied with the stream, normed or not.
    fn of_stream(&self) -> impl Iterator<Item = &Matrix> {
        let own = self.own_input.iter().map(|own| &own.gate);
        [&self.q, &self.gate, &self.up].into_iter().chain(&self.k).chain(&self.v).chain(own)
    }

    fn norms(&self) -> impl Iterator<Item = &MappedVec<f32>> {
        let always = [&self.attn_norm, &self.post_attention_norm, &self.ffn_norm, &self.post_ffw_norm];
        always.into_iter().chain(&self.q_norm).chain(&self.k_norm).chain(self.own_input.iter().map(|own| &own.norm))
    }
}

impl Gemma {
    /// Loads the GGUF file at `path`, or the folder as it is published (`config.json`, `tokenizer.json`, `model.safetensors` or
    /// its parts), which may be named by its safetensors file: checks headers, shapes and extents, then reads the pages into
    /// the page cache with `progress`. Errors name the file and what was wrong in it.
    pub fn load(path: &Path, options: &LoadOptions, progress: &Progress) -> Result<Gemma, Error> {
        let source = Source::open(path)?;
        if source.family == Family::Embedding {
            let why = "the model makes embeddings and no text: load it with EMBEDDING, or name it with engram.embedder";
            return Err(Error::new(why).at(path.display()));
        }
        Gemma::read(&source, path, options, progress, HEAD_ROWS).map_err(|e| e.at(path.display()))
    }

    /// Loads it with its head in planes from so many rows on.
    fn read(
        source: &Source,
        path: &Path,
        options: &LoadOptions,
        progress: &Progress,
        planes_from: usize,
    ) -> Result<Gemma, Error> {
        let config = Config::read(source)?;
        let tokenizer = match &options.tokenizer {
            Some(path) => Tokenizer::from_file(path)?,
            None => source.tokenizer()?,
        };
        let (vocabulary, rows) = (tokenizer.vocabulary_size(), source.rows(WORDS)?);
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
        let total = source.files().iter().map(|file| file.len() as u64).sum();
        progress.total.store(total, Ordering::Relaxed);
        // What the tensors take of the file is what has been done; the header is small beside it.
        let loader = Loader::new(source.arena_bytes()?, progress, options.pool.as_deref())?;
        let width = config.width;
        let has_head = source.has("output.weight");
        let table = |name: &str, planes_from| source.table(name, vocabulary, width, planes_from, &loader);
        let embedding = match config.family {
            // Only rows of it are read.
            Family::Embedding => source.mapped_table(WORDS, vocabulary, width)?,
            // Where it is not the head as well, only rows of it are read.
            _ => table(WORDS, if has_head { usize::MAX } else { planes_from })?,
        };
        let output = if has_head { Some(table("output.weight", planes_from)?) } else { None };
        let own_inputs = match config.layer_input {
            None => None,
            Some(own) => {
                let all = config.layers * own;
                Some(OwnInputs {
                    table: source.mapped_table(OWN_INPUTS, vocabulary, all)?,
                    projection: source.matrix("per_layer_model_proj.weight", all, width, &loader)?,
                    norm: source.gain("per_layer_proj_norm.weight", own)?,
                })
            }
        };
        let mut layers = Vec::with_capacity(config.layers);
        for (i, shape) in config.shapes.iter().enumerate() {
            let matrix = |name: &str, rows, cols| source.matrix(&format!("blk.{i}.{name}.weight"), rows, cols, &loader);
            let gain = |name: &str, len| source.gain(&format!("blk.{i}.{name}.weight"), len);
            let (q, kv) = (config.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
            let own = shape.kv_source == i;
            let normed = config.family != Family::Gemma2;
            let when = |is: bool, name: &str| if is { gain(name, shape.head_dim).map(Some) } else { Ok(None) };
            let scale = format!("blk.{i}.layer_output_scale.weight");
            layers.push(Layer {
                attn_norm: gain("attn_norm", width)?,
                q: matrix("attn_q", q, width)?,
                k: if own { Some(matrix("attn_k", kv, width)?) } else { None },
                v: if own && !shape.keys_are_values { Some(matrix("attn_v", kv, width)?) } else { None },
                q_norm: when(normed, "attn_q_norm")?,
                k_norm: when(normed && own, "attn_k_norm")?,
                attn_output: matrix("attn_output", width, q)?,
                post_attention_norm: gain("post_attention_norm", width)?,
                ffn_norm: gain("ffn_norm", width)?,
                gate: matrix("ffn_gate", shape.ffn, width)?,
                up: matrix("ffn_up", shape.ffn, width)?,
                down: matrix("ffn_down", width, shape.ffn)?,
                post_ffw_norm: gain("post_ffw_norm", width)?,
                own_input: match config.layer_input {
                    None => None,
                    Some(own) => Some(OwnInput {
                        gate: matrix("inp_gate", own, width)?,
                        projection: matrix("proj", width, own)?,
                        norm: gain("post_norm", width)?,
                    }),
                },
                scale: if source.has(&scale) { source.vector(&scale, 1)?.first().copied().unwrap_or(1.0) } else { 1.0 },
            });
        }
        let projection = match config.projection {
            None => None,
            Some(inner) => Some([source.dense(2, inner, width, &loader)?, source.dense(3, width, inner, &loader)?]),
        };
        let output_norm = source.gain("output_norm.weight", width)?;
        let quantization = quantization(&layers);
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let norms = layers.iter().flat_map(Layer::norms).map(MappedVec::bytes).sum::<u64>();
        let parameters = source.parameters();
        let layout = Arc::new(kv::Layout::new(&config, options.kv)?);
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
            file_bytes: total,
            mapped_bytes: norms
                + output_norm.bytes()
                + loader.bytes()
                + output.as_ref().unwrap_or(&embedding).planes().map_or(0, Planes::extra_bytes),
            kv_bytes_per_token: layout.bytes_per_token(),
            kv_format: layout.format(),
        };
        progress.done.store(total, Ordering::Relaxed);
        let ones = MappedVec::copy_of(&vec![1.0; config.most(|shape| shape.head_dim)])?;
        let pieces = OnceLock::new();
        // The families before write their turns in one way only.
        let published = if config.family == Family::Gemma4 { source.chat_template()? } else { None };
        let template = Template::new(config.family, published.as_deref());
        Ok(Gemma {
            config,
            info,
            tokenizer,
            template,
            pieces,
            layout,
            own_inputs,
            ones,
            embedding,
            output,
            output_norm,
            layers,
            projection,
        })
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

    pub(crate) fn projection(&self) -> Option<&[Matrix; 2]> {
        self.projection.as_ref()
    }

    pub(crate) fn layers(&self) -> &[Layer] {
        &self.layers
    }

    pub(crate) fn own_inputs(&self) -> Option<&OwnInputs> {
        self.own_inputs.as_ref()
    }

    pub(crate) fn ones(&self) -> &[f32] {
        &self.ones
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
