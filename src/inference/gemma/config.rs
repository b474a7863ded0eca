//! The shape of a Gemma 3 text model, from the metadata of its GGUF file.

use candle_core::quantized::gguf_file::Value;

use crate::Error;
use crate::gguf::Gguf;

/// The shape, checked: no number in it can make later sizes overflow.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub layers: usize,
    pub width: usize,
    pub ffn: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub epsilon: f32,
    pub window: usize,
    pub context: usize,
    /// Per layer: whether it sees only the last `window` positions.
    pub local: Vec<bool>,
    pub local_rope: Rope,
    pub global_rope: Rope,
    /// What the scores are multiplied with before the softmax.
    pub attention_scale: f32,
}

/// Rotary position embedding of one kind of layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rope {
    pub base: f64,
    /// Positions are divided by it (linear scaling).
    pub factor: f64,
}

impl Config {
    pub(crate) fn read(gguf: &Gguf) -> Result<Config, Error> {
        let architecture = gguf.text("general.architecture")?.unwrap_or("(none)");
        if architecture != "gemma3" {
            return Err(Error::new(format!("architecture {architecture:?} is not supported; accepted is \"gemma3\"")));
        }
        for key in ["gemma3.attn_logit_softcapping", "gemma3.final_logit_softcapping"] {
            if let Some(cap) = gguf.number(key)?.filter(|&cap| cap != 0.0) {
                return Err(Error::new(format!(
                    "metadata {key} is {cap}; only models without soft capping are accepted"
                )));
            }
        }
        let layers = size(gguf, "gemma3.block_count", 1, 512)?;
        let width = size(gguf, "gemma3.embedding_length", 1, 1 << 16)?;
        let heads = size(gguf, "gemma3.attention.head_count", 1, 1 << 10)?;
        let kv_heads = size_or(gguf, "gemma3.attention.head_count_kv", 1, 1 << 10, heads)?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(Error::new(format!("{heads} attention heads cannot share {kv_heads} key/value heads evenly")));
        }
        if heads / kv_heads > GROUP {
            return Err(Error::new(format!("{heads} attention heads are more than {GROUP} per key/value head")));
        }
        let head_dim = size(gguf, "gemma3.attention.key_length", 2, 1 << 12)?;
        let value_dim = size_or(gguf, "gemma3.attention.value_length", 2, 1 << 12, head_dim)?;
        if value_dim != head_dim || !head_dim.is_multiple_of(2) {
            return Err(Error::new(format!(
                "key length {head_dim} and value length {value_dim} must be equal and even in this architecture"
            )));
        }
        let epsilon = gguf.number("gemma3.attention.layer_norm_rms_epsilon")?.unwrap_or(1e-6);
        if !(0.0..1.0).contains(&epsilon) {
            return Err(Error::new(format!(
                "metadata gemma3.attention.layer_norm_rms_epsilon is {epsilon}, not in 0..1"
            )));
        }
        Ok(Config {
            layers,
            width,
            ffn: size(gguf, "gemma3.feed_forward_length", 1, 1 << 20)?,
            heads,
            kv_heads,
            head_dim,
            epsilon: epsilon as f32,
            window: size(gguf, "gemma3.attention.sliding_window", 1, 1 << 20)?,
            context: size(gguf, "gemma3.context_length", 1, 1 << 22)?,
            local: pattern(gguf, layers)?,
            local_rope: Rope { base: base(gguf, "gemma3.rope.freq_base_swa", 10_000.0)?, factor: 1.0 },
            global_rope: Rope { base: base(gguf, "gemma3.rope.freq_base", 1_000_000.0)?, factor: factor(gguf)? },
            attention_scale: if layers == LAYERS_27B {
                // The 27B model scales by its width per head instead of the size of a head.
                (heads as f32 / width as f32).sqrt()
            } else {
                1.0 / (head_dim as f32).sqrt()
            },
        })
    }
}

const LAYERS_27B: usize = 62;
/// Query heads that may share a key/value head.
pub(super) const GROUP: usize = 128;

/// A required whole number between `least` and `most`.
fn size(gguf: &Gguf, key: &str, least: usize, most: usize) -> Result<usize, Error> {
    let Some(value) = gguf.count(key)? else { return Err(Error::new(format!("metadata {key} is missing"))) };
    match usize::try_from(value) {
        Ok(n) if (least..=most).contains(&n) => Ok(n),
        _ => Err(Error::new(format!("metadata {key} is {value}; accepted are {least} to {most}"))),
    }
}

fn size_or(gguf: &Gguf, key: &str, least: usize, most: usize, default: usize) -> Result<usize, Error> {
    if gguf.metadata().contains_key(key) { size(gguf, key, least, most) } else { Ok(default) }
}

fn base(gguf: &Gguf, key: &str, default: f64) -> Result<f64, Error> {
    let base = gguf.number(key)?.unwrap_or(default);
    if base > 1.0 { Ok(base) } else { Err(Error::new(format!("metadata {key} is {base}; it must be above 1"))) }
}

/// The linear scaling of the global layers' positions.
fn factor(gguf: &Gguf) -> Result<f64, Error> {
    let (kind, key) = (gguf.text("gemma3.rope.scaling.type")?.unwrap_or("linear"), "gemma3.rope.scaling.factor");
    let factor = match kind {
        "none" => 1.0,
        "linear" => match gguf.number(key)? {
            Some(factor) => factor,
            None => gguf.number("gemma3.rope.scale_linear")?.unwrap_or(1.0),
        },
        other => {
            return Err(Error::new(format!(
                "metadata gemma3.rope.scaling.type is {other:?}; accepted are \"linear\" and \"none\""
            )));
        }
    };
    // Some writers put 0 where there is no scaling.
    if factor == 0.0 {
        return Ok(1.0);
    }
    if (1.0..=1e6).contains(&factor) {
        Ok(factor)
    } else {
        Err(Error::new(format!("metadata {key} is {factor}; accepted are 1 to 1,000,000")))
    }
}

/// Which layers are local. Gemma 3: five local ones, then a global one.
fn pattern(gguf: &Gguf, layers: usize) -> Result<Vec<bool>, Error> {
    const KEY: &str = "gemma3.attention.sliding_window_pattern";
    if let Some(Value::Array(items)) = gguf.metadata().get(KEY) {
        if items.len() != layers {
            return Err(Error::new(format!("metadata {KEY} has {} entries for {layers} layers", items.len())));
        }
        let flag = |v: &Value| match v {
            Value::Bool(local) => Ok(*local),
            _ => Err(Error::new(format!("metadata {KEY} must be a number or an array of booleans"))),
        };
        return items.iter().map(flag).collect();
    }
    let period = size_or(gguf, KEY, 1, 512, 6)?;
    Ok((1..=layers).map(|layer| !layer.is_multiple_of(period)).collect())
}
