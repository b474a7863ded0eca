//! Where a model is read from: a GGUF file, or a folder as it is published (config.json and safetensors).
//!
//! One set of names, the GGUF's, is used for both; a folder's are looked up in [`NAMES`]. What the two keep differently is
//! settled here, so that everything else sees one model: Gemma 2 and 3 are published with the gain of a norm as what it
//! differs from 1, and with rows in the embedding that no piece of the tokenizer has.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{OWN_INPUTS, WORDS};
use crate::Error;
use crate::folder::{chat_template, json, modules, pooling_modes};
use crate::gguf::Gguf;
use crate::loading::Loader;
use crate::memory::{MappedFile, MappedVec};
use crate::product::Matrix;
use crate::safetensors::Safetensors;
use crate::tokenizer::Tokenizer;

/// A line of models of one architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Gemma2,
    Gemma3,
    Gemma4,
    /// Gemma 3 that looks both ways and makes vectors.
    Embedding,
}

impl Family {
    const ALL: [Family; 4] = [Family::Gemma2, Family::Gemma3, Family::Gemma4, Family::Embedding];

    /// What GGUF calls it.
    pub(crate) fn architecture(self) -> &'static str {
        match self {
            Family::Gemma2 => "gemma2",
            Family::Gemma3 => "gemma3",
            Family::Gemma4 => "gemma4",
            Family::Embedding => "gemma-embedding",
        }
    }
}

/// A model that can be read.
pub(crate) struct Source {
    pub(crate) family: Family,
    pub(crate) kind: Kind,
}

pub(crate) enum Kind {
    Gguf(Gguf),
    Folder(Folder),
}

/// An opened folder.
pub(crate) struct Folder {
    dir: PathBuf,
    /// The part of config.json that describes the text model.
    pub(crate) config: Map<String, Value>,
    tensors: Safetensors,
}

/// Tensors outside layers: their names in a GGUF and in a folder.
const NAMES: [(&str, &str); 5] = [
    ("token_embd.weight", "embed_tokens.weight"),
    ("output_norm.weight", "norm.weight"),
    ("per_layer_token_embd.weight", "embed_tokens_per_layer.weight"),
    ("per_layer_model_proj.weight", "per_layer_model_projection.weight"),
    ("per_layer_proj_norm.weight", "per_layer_projection_norm.weight"),
];

/// Tensors of a layer, likewise.
const LAYER_NAMES: [(&str, &str); 17] = [
    ("attn_norm.weight", "input_layernorm.weight"),
    ("attn_q.weight", "self_attn.q_proj.weight"),
    ("attn_k.weight", "self_attn.k_proj.weight"),
    ("attn_v.weight", "self_attn.v_proj.weight"),
    ("attn_q_norm.weight", "self_attn.q_norm.weight"),
    ("attn_k_norm.weight", "self_attn.k_norm.weight"),
    ("attn_output.weight", "self_attn.o_proj.weight"),
    ("post_attention_norm.weight", "post_attention_layernorm.weight"),
    ("ffn_norm.weight", "pre_feedforward_layernorm.weight"),
    ("ffn_gate.weight", "mlp.gate_proj.weight"),
    ("ffn_up.weight", "mlp.up_proj.weight"),
    ("ffn_down.weight", "mlp.down_proj.weight"),
    ("post_ffw_norm.weight", "post_feedforward_layernorm.weight"),
    ("inp_gate.weight", "per_layer_input_gate.weight"),
    ("proj.weight", "per_layer_projection.weight"),
    ("post_norm.weight", "post_per_layer_input_norm.weight"),
    ("layer_output_scale.weight", "layer_scalar"),
];

/// The modules of a folder that are the linear layers behind the mean of the positions.
const DENSE: [usize; 2] = [2, 3];

/// What stands before the names of the text model's tensors: in text models, encoders, and models of several kinds of input.
const PREFIXES: [&str; 4] = ["model.", "", "language_model.model.", "model.language_model."];

/// The name in a folder of what a GGUF calls `name`.
fn published(name: &str) -> Option<String> {
    let in_table = |table: &[(&str, &str)], name: &str| {
        table.iter().find(|(gguf, _)| *gguf == name).map(|(_, published)| (*published).to_owned())
    };
    match name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        Some((layer, part)) => Some(format!("layers.{layer}.{}", in_table(&LAYER_NAMES, part)?)),
        None => in_table(&NAMES, name),
    }
}

impl Source {
    /// Opens a GGUF file, a folder, or a folder by its safetensors file.
    pub(crate) fn open(path: &Path) -> Result<Source, Error> {
        let whole = path.is_dir();
        if !whole && path.extension().is_none_or(|extension| extension != "safetensors") {
            let gguf = Gguf::open(path)?;
            let architecture = gguf.text("general.architecture").map_err(|e| e.at(path.display()))?.unwrap_or("(none)");
            let family = Family::ALL.into_iter().find(|family| family.architecture() == architecture);
            let family = family.ok_or_else(|| unsupported(architecture).at(path.display()))?;
            return Ok(Source { family, kind: Kind::Gguf(gguf) });
        }
        let dir = if whole { path } else { path.parent().unwrap_or(Path::new("")) };
        let (family, config) = described(dir).map_err(|e| e.at(dir.display()))?;
        let tensors = if whole { Safetensors::folder(dir) } else { Safetensors::file(path) };
        let tensors = tensors.map_err(|e| e.at(dir.display()))?.below(&PREFIXES, "embed_tokens.weight");
        Ok(Source { family, kind: Kind::Folder(Folder { dir: dir.to_owned(), config, tensors }) })
    }

    /// The mapped files.
    pub(crate) fn files(&self) -> Vec<&Arc<MappedFile>> {
        match &self.kind {
            Kind::Gguf(gguf) => vec![gguf.file()],
            Kind::Folder(folder) => folder.tensors.files().iter().collect(),
        }
    }

    /// The name that the model has for itself.
    pub(crate) fn name(&self) -> Result<Option<String>, Error> {
        match &self.kind {
            Kind::Gguf(gguf) => Ok(gguf.text("general.name")?.filter(|name| !name.is_empty()).map(str::to_owned)),
            Kind::Folder(folder) => {
                let dir = folder.dir.canonicalize().ok();
                Ok(dir.and_then(|dir| Some(dir.file_name()?.to_string_lossy().into_owned())))
            }
        }
    }

    /// The numbers in all tensors together.
    pub(crate) fn parameters(&self) -> u64 {
        match &self.kind {
            Kind::Gguf(gguf) => gguf.parameters(),
            Kind::Folder(folder) => folder.tensors.parameters(),
        }
    }

    /// Its own tokenizer.
    pub(crate) fn tokenizer(&self) -> Result<Tokenizer, Error> {
        match &self.kind {
            Kind::Gguf(gguf) => Tokenizer::from_gguf(gguf),
            Kind::Folder(folder) => {
                let [own, model] = ["tokenizer.json", "tokenizer.model"].map(|name| folder.dir.join(name));
                Tokenizer::from_file(if !own.exists() && model.exists() { &model } else { &own })
            }
        }
    }

    /// The program, in Jinja, that writes its prompts; none where it came without one.
    pub(crate) fn chat_template(&self) -> Result<Option<Cow<'_, str>>, Error> {
        match &self.kind {
            Kind::Gguf(gguf) => Ok(gguf.text("tokenizer.chat_template")?.map(Cow::from)),
            Kind::Folder(folder) => Ok(chat_template(&folder.dir)?.map(Cow::from)),
        }
    }

    /// Whether there is a tensor of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        match &self.kind {
            Kind::Gguf(gguf) => gguf.has(name),
            Kind::Folder(folder) => published(name).is_some_and(|name| folder.tensors.has(&name)),
        }
    }

    /// How many rows a matrix has.
    pub(crate) fn rows(&self, name: &str) -> Result<usize, Error> {
        match &self.kind {
            Kind::Gguf(gguf) => Ok(gguf.shape(name)?.0),
            Kind::Folder(folder) => match folder.tensors.shape(&known(name)?)? {
                [rows, _] => Ok(*rows),
                other => Err(Error::new(format!("tensor {name} has {} dimensions, expected 2", other.len()))),
            },
        }
    }

    /// The bytes that its matrices take in an [`Arena`](crate::memory::Arena).
    pub(crate) fn arena_bytes(&self) -> Result<usize, Error> {
        // The table of which only rows are read.
        let mapped = if self.family == Family::Embedding { WORDS } else { OWN_INPUTS };
        match &self.kind {
            Kind::Gguf(gguf) => gguf.arena_bytes(&[mapped]),
            Kind::Folder(folder) => {
                let mut all = folder.tensors.arena_bytes(&[&known(mapped)?]);
                if self.family == Family::Embedding {
                    for number in DENSE {
                        all = all.saturating_add(folder.dense(number)?.0.arena_bytes(&[]));
                    }
                }
                Ok(all)
            }
        }
    }

    /// The tensor as a matrix of exactly this shape, packed.
    pub(crate) fn matrix(&self, name: &str, rows: usize, cols: usize, loader: &Loader<'_>) -> Result<Matrix, Error> {
        match &self.kind {
            Kind::Gguf(gguf) => gguf.matrix(name, rows, cols, loader),
            Kind::Folder(folder) => folder.tensors.matrix(&known(name)?, rows, cols, loader),
        }
    }

    /// The first `rows` rows of a table that may have more of them: those that no piece of the tokenizer has are nobody's. In planes,
    /// where they can be and are at least `planes_from`.
    pub(crate) fn table(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        planes_from: usize,
        loader: &Loader<'_>,
    ) -> Result<Matrix, Error> {
        match &self.kind {
            Kind::Gguf(gguf) => gguf.head(name, rows, cols, planes_from, loader),
            Kind::Folder(folder) => folder.tensors.leading_rows(&known(name)?, rows, cols, loader),
        }
    }

    /// The same, used where it lies: for a table of which single rows are read.
    pub(crate) fn mapped_table(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix, Error> {
        match &self.kind {
            Kind::Gguf(gguf) => gguf.mapped_rows(name, rows, cols),
            Kind::Folder(folder) => folder.tensors.mapped_rows(&known(name)?, rows, cols),
        }
    }

    /// Linear layer `number` of those behind the mean of the positions, the first being 2.
    pub(crate) fn dense(&self, number: usize, rows: usize, cols: usize, loader: &Loader<'_>) -> Result<Matrix, Error> {
        match &self.kind {
            Kind::Gguf(gguf) => gguf.matrix(&format!("dense_{number}.weight"), rows, cols, loader),
            Kind::Folder(folder) => {
                let (tensors, place) = folder.dense(number)?;
                tensors.matrix("linear.weight", rows, cols, loader).map_err(|e| e.at(place))
            }
        }
    }

    /// What a norm multiplies with, copied.
    pub(crate) fn gain(&self, name: &str, len: usize) -> Result<MappedVec<f32>, Error> {
        let mut gain = self.vector(name, len)?;
        if matches!(self.kind, Kind::Folder(_)) && self.family != Family::Gemma4 {
            gain.iter_mut().for_each(|g| *g += 1.0);
        }
        Ok(gain)
    }

    /// The tensor as `len` plain numbers, copied.
    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<MappedVec<f32>, Error> {
        match &self.kind {
            Kind::Gguf(gguf) => gguf.vector(name, len),
            Kind::Folder(folder) => folder.tensors.vector(&known(name)?, len),
        }
    }
}

fn known(name: &str) -> Result<String, Error> {
    published(name).ok_or_else(|| Error::new(format!("tensor {name} is missing")))
}

fn unsupported(architecture: &str) -> Error {
    Error::new(format!(
        "architecture {architecture:?} is not supported; accepted are \"gemma2\", \"gemma3\", \"gemma4\" and \"gemma-embedding\""
    ))
}

/// The family of a folder and the part of its config.json that describes the text model.
fn described(dir: &Path) -> Result<(Family, Map<String, Value>), Error> {
    let mut config: Map<String, Value> = json(&dir.join("config.json"))?;
    let quantised = config.contains_key("quantization_config");
    // Models with other kinds of input describe each of their parts.
    if let Some(Value::Object(text)) = config.remove("text_config") {
        config = text;
    }
    if quantised || config.contains_key("quantization_config") {
        return Err(Error::new(
            "config.json: quantization_config is there; only weights in F32, F16 and BF16 are read",
        ));
    }
    let family = match config.get("model_type").and_then(Value::as_str) {
        Some("gemma2") => Family::Gemma2,
        Some("gemma3_text") if config.get("use_bidirectional_attention") == Some(&Value::Bool(true)) => {
            Family::Embedding
        }
        Some("gemma3_text") => Family::Gemma3,
        Some("gemma4_text") => Family::Gemma4,
        other => {
            return Err(Error::new(format!(
                "config.json: model_type {:?} is not supported; accepted are \"gemma2\", \"gemma3_text\" and \"gemma4_text\"",
                other.unwrap_or("(none)")
            )));
        }
    };
    Ok((family, config))
}

impl Folder {
    /// A JSON file that may be beside the weights.
    pub(crate) fn beside<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Error> {
        let path = self.dir.join(name);
        if path.exists() { json(&path).map(Some) } else { Ok(None) }
    }

    /// The tensors of linear layer `number`, and where they are.
    fn dense(&self, number: usize) -> Result<(Safetensors, String), Error> {
        let modules = modules(&self.dir)?;
        let Some((_, dir)) = modules.get(number) else {
            return Err(Error::new(format!("modules.json: there is no module {number}")));
        };
        let place = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let tensors = Safetensors::file(&dir.join("model.safetensors")).map_err(|e| e.at(&place))?;
        Ok((tensors, place))
    }

    /// The inner width of the two layers behind the mean that sentence-transformers' files describe.
    pub(crate) fn projection(&self, width: usize) -> Result<usize, Error> {
        let modules = modules(&self.dir)?;
        let kinds: Vec<&str> = modules.iter().map(|(kind, _)| kind.as_str()).collect();
        let (["Transformer", "Pooling", "Dense", "Dense", "Normalize"], [_, (_, pooling), (_, up), (_, down), _]) =
            (kinds.as_slice(), modules.as_slice())
        else {
            return Err(Error::new(format!(
                "modules.json: Transformer, Pooling, Dense, Dense and Normalize are supported, in this order; found {}",
                kinds.join(", ")
            )));
        };
        let modes = pooling_modes(&pooling.join("config.json"))?;
        if modes != ["mean_tokens"] {
            return Err(Error::new(format!("the pooling mode must be mean_tokens; found {modes:?}")));
        }
        let (first, second) = (dense(up)?, dense(down)?);
        if first.0 != width || second != (first.1, width) || !(1..=1 << 16).contains(&first.1) {
            return Err(Error::new(format!(
                "the Dense layers are {} to {} and {} to {}; expected {width} to some width and back",
                first.0, first.1, second.0, second.1
            )));
        }
        Ok(first.1)
    }
}

/// The inputs and outputs of a linear layer without bias or activation.
fn dense(dir: &Path) -> Result<(usize, usize), Error> {
    #[derive(serde::Deserialize)]
    struct Dense {
        in_features: usize,
        out_features: usize,
        #[serde(default)]
        bias: bool,
        activation_function: String,
    }
    let place = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let dense: Dense = json(&dir.join("config.json")).map_err(|e| e.at(&place))?;
    if dense.bias || !dense.activation_function.ends_with("Identity") {
        let (bias, activation) = (dense.bias, dense.activation_function);
        return Err(
            Error::new(format!("a linear layer alone is supported; found bias {bias} and {activation}")).at(place)
        );
    }
    Ok((dense.in_features, dense.out_features))
}

#[cfg(test)]
mod tests;
