//! The shape of a model, from the metadata of its GGUF file or from its config.json.
//!
//! Both say the same in other words, so there is one reading with two names for each figure ([`Key`]); only what they say
//! in another form has two. A config.json leaves out what is the architecture's default, a GGUF hardly ever.

use serde_json::{Map, Value};

use super::source::{Family, Kind, Source};
use crate::Error;
use crate::gguf;

/// The shape, checked: no number in it can make later sizes overflow.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    pub family: Family,
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    pub epsilon: f32,
    pub context: usize,
    /// What each layer has for itself.
    pub shapes: Vec<LayerShape>,
    /// What the scores are multiplied with before the softmax.
    pub attention_scale: f32,
    /// Scores `s` become `cap · tanh(s / cap)` before the softmax.
    pub attention_cap: Option<f32>,
    /// And logits likewise.
    pub final_cap: Option<f32>,
    /// Numbers that each token brings for each layer, beside its embedding.
    pub layer_input: Option<usize>,
    /// The inner width of the two linear layers that make a text's vector of the mean of its positions.
    pub projection: Option<usize>,
}

/// What may differ between layers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LayerShape {
    pub head_dim: usize,
    pub kv_heads: usize,
    /// The inner width of its feed-forward part.
    pub ffn: usize,
    /// How many positions it sees: the last ones, its own included; in a model that looks both ways as many before its own as
    /// behind. `None` where it sees all.
    pub window: Option<usize>,
    pub rope: Rope,
    /// The layer whose keys and values it reads: itself where it makes its own, an earlier one where it has none.
    pub kv_source: usize,
    /// Whether its keys, before their norm and rotation, are its values too.
    pub keys_are_values: bool,
}

/// Rotary position embedding of one kind of layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rope {
    pub base: f64,
    /// Positions are divided by it (linear scaling).
    pub factor: f64,
    /// How many of the pairs of a head are rotated, the first ones; the frequencies are those of all pairs.
    pub pairs: usize,
}

/// A figure's name in a GGUF, without its architecture, and in config.json.
#[derive(Clone, Copy)]
struct Key(&'static str, &'static str);

const PATTERN: &str = "attention.sliding_window_pattern";
const MOST_HEADS: usize = 1 << 10;
const MOST_HEAD: usize = 1 << 12;
const MOST_WIDTH: usize = 1 << 16;
const MOST_FFN: usize = 1 << 20;

impl Config {
    /// The largest of a figure of the layers.
    pub(crate) fn most(&self, figure: impl Fn(&LayerShape) -> usize) -> usize {
        self.shapes.iter().map(figure).max().unwrap_or(0)
    }

    pub(crate) fn read(source: &Source) -> Result<Config, Error> {
        let keys = Keys(source);
        let family = source.family;
        keys.refuse_what_is_not_read()?;
        let layers = keys.size(Key("block_count", "num_hidden_layers"), 1, 512, None)?;
        let width = keys.size(Key("embedding_length", "hidden_size"), 1, MOST_WIDTH, None)?;
        let heads = keys.size(Key("attention.head_count", "num_attention_heads"), 1, MOST_HEADS, keys.published(8))?;
        let epsilon = keys.number(Key("attention.layer_norm_rms_epsilon", "rms_norm_eps"))?.unwrap_or(1e-6);
        if !(0.0..1.0).contains(&epsilon) {
            let name = keys.name(Key("attention.layer_norm_rms_epsilon", "rms_norm_eps"));
            return Err(Error::new(format!("{name} is {epsilon}, not in 0..1")));
        }
        let local = keys.pattern(layers)?;
        if family == Family::Gemma4 && local.last() == Some(&true) {
            return Err(Error::new("the last layer is local; in this architecture it must be global"));
        }
        let window = keys.size(Key("attention.sliding_window", "sliding_window"), 1, 1 << 20, keys.window())?;
        let shapes = keys.shapes(&local, heads, window)?;
        let Some(first) = shapes.first() else { return Err(Error::new("a model without layers")) };
        let capped = family == Family::Gemma2;
        let context_default = keys.published(if family == Family::Gemma2 { 8192 } else { 131_072 });
        Ok(Config {
            family,
            layers,
            width,
            heads,
            epsilon: epsilon as f32,
            context: keys.size(Key("context_length", "max_position_embeddings"), 1, 1 << 22, context_default)?,
            attention_scale: keys.attention_scale(layers, width, heads, first.head_dim)?,
            attention_cap: keys.cap("attn_logit_softcapping", capped.then_some(50.0))?,
            final_cap: keys.cap("final_logit_softcapping", capped.then_some(30.0))?,
            layer_input: keys.layer_input()?,
            projection: keys.projection(width)?,
            shapes,
        })
    }
}

/// Query heads that may share a key/value head.
pub(super) const GROUP: usize = 128;

/// The figures of a source.
struct Keys<'a>(&'a Source);

impl Keys<'_> {
    fn gguf_key(&self, key: &str) -> String {
        format!("{}.{key}", self.0.family.architecture())
    }

    /// A figure's name in messages.
    fn name(&self, key: Key) -> String {
        match &self.0.kind {
            Kind::Gguf(_) => format!("metadata {}", self.gguf_key(key.0)),
            Kind::Folder(_) => format!("config.json: {}", key.1),
        }
    }

    /// A default for what config.json leaves out.
    fn published<T>(&self, default: T) -> Option<T> {
        matches!(self.0.kind, Kind::Folder(_)).then_some(default)
    }

    fn count(&self, key: Key) -> Result<Option<u64>, Error> {
        match &self.0.kind {
            Kind::Gguf(gguf) => gguf.count(&self.gguf_key(key.0)),
            Kind::Folder(folder) => self.of_json(&folder.config, key.1, "a whole number of at least 0", Value::as_u64),
        }
    }

    fn number(&self, key: Key) -> Result<Option<f64>, Error> {
        match &self.0.kind {
            Kind::Gguf(gguf) => gguf.number(&self.gguf_key(key.0)),
            Kind::Folder(folder) => self.of_json(&folder.config, key.1, "a finite number", Value::as_f64),
        }
    }

    /// What config.json says under `key`; saying null is saying nothing.
    fn of_json<'v, T>(
        &self,
        map: &'v Map<String, Value>,
        key: &str,
        expected: &str,
        read: impl Fn(&'v Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        match map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match read(value) {
                Some(value) => Ok(Some(value)),
                None => Err(Error::new(format!("config.json: {key} is {value}, expected {expected}"))),
            },
        }
    }

    fn flag(&self, map: &Map<String, Value>, key: &str) -> Result<bool, Error> {
        Ok(self.of_json(map, key, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    /// A whole number between `least` and `most`.
    fn size(&self, key: Key, least: usize, most: usize, default: Option<usize>) -> Result<usize, Error> {
        match (self.count(key)?, default) {
            (Some(value), _) => self.within(key, value, least, most),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(Error::new(format!("{} is missing", self.name(key)))),
        }
    }

    fn within(&self, key: Key, value: u64, least: usize, most: usize) -> Result<usize, Error> {
        match usize::try_from(value) {
            Ok(n) if (least..=most).contains(&n) => Ok(n),
            _ => Err(Error::new(format!("{} is {value}; accepted are {least} to {most}", self.name(key)))),
        }
    }

    /// Kinds of models that differ from what is read here in more than figures.
    fn refuse_what_is_not_read(&self) -> Result<(), Error> {
        let experts = "mixtures of experts are not supported";
        match &self.0.kind {
            Kind::Gguf(_) => {
                let key = Key("expert_count", "");
                match self.count(key)? {
                    None | Some(0) => Ok(()),
                    Some(n) => Err(Error::new(format!("{} is {n}; {experts}", self.name(key)))),
                }
            }
            Kind::Folder(folder) => {
                let map = &folder.config;
                if self.flag(map, "enable_moe_block")? {
                    return Err(Error::new(format!("config.json: enable_moe_block is true; {experts}")));
                }
                if map.get("tie_word_embeddings") == Some(&Value::Bool(false)) {
                    return Err(Error::new(
                        "config.json: tie_word_embeddings is false; only models whose logits come of their embedding are read",
                    ));
                }
                if self.flag(map, "attention_bias")? {
                    return Err(Error::new("config.json: attention_bias is true; only layers without one are read"));
                }
                for key in ["hidden_activation", "hidden_act"] {
                    let found = self.of_json(map, key, "a text", Value::as_str)?;
                    // Early Gemma files say "gelu" for the same function.
                    if let Some(other) = found.filter(|&name| name != "gelu_pytorch_tanh" && name != "gelu") {
                        return Err(Error::new(format!(
                            "config.json: {key} is {other:?}; accepted is \"gelu_pytorch_tanh\""
                        )));
                    }
                }
                match map.get("use_bidirectional_attention") {
                    None | Some(Value::Null | Value::Bool(false)) => Ok(()),
                    Some(Value::Bool(true)) if self.0.family == Family::Embedding => Ok(()),
                    // Images alone see what is behind them.
                    Some(Value::String(kind)) if kind == "vision" && self.0.family == Family::Gemma4 => Ok(()),
                    Some(other) => Err(Error::new(format!(
                        "config.json: use_bidirectional_attention is {other}, which is not supported in this architecture"
                    ))),
                }
            }
        }
    }

    /// The window where it is not given.
    fn window(&self) -> Option<usize> {
        match (&self.0.kind, self.0.family) {
            (_, Family::Gemma2) | (Kind::Folder(_), Family::Gemma3) => Some(4096),
            (Kind::Folder(_), Family::Gemma4) => Some(512),
            _ => None,
        }
    }

    /// Which layers are local. Gemma 2: every second one, beginning with the first; others: five of them, then a global one.
    fn pattern(&self, layers: usize) -> Result<Vec<bool>, Error> {
        let key = Key(PATTERN, "sliding_window_pattern");
        let list = match &self.0.kind {
            Kind::Gguf(gguf) => match gguf.get(&self.gguf_key(PATTERN)) {
                Some(gguf::Value::List(items)) => Some(items.iter().map(flag_of_gguf).collect::<Option<Vec<_>>>()),
                _ => None,
            },
            Kind::Folder(folder) => {
                let kinds = self.of_json(&folder.config, "layer_types", "a list", Value::as_array)?;
                kinds.map(|items| items.iter().map(kind_of_json).collect())
            }
        };
        if let Some(list) = list {
            let (name, expected) = match &self.0.kind {
                Kind::Gguf(_) => (self.name(key), "must be a number or an array of booleans"),
                Kind::Folder(_) => {
                    ("config.json: layer_types".into(), "must be of \"sliding_attention\" and \"full_attention\"")
                }
            };
            let list = list.ok_or_else(|| Error::new(format!("{name} {expected}")))?;
            return if list.len() == layers {
                Ok(list)
            } else {
                Err(Error::new(format!("{name} has {} entries for {layers} layers", list.len())))
            };
        }
        let usual = if self.0.family == Family::Gemma2 { 2 } else { 6 };
        let named = if self.count(key)?.is_some() { key } else { Key(PATTERN, "_sliding_window_pattern") };
        let period = self.size(named, 1, 512, Some(usual))?;
        Ok((1..=layers).map(|layer| !layer.is_multiple_of(period)).collect())
    }

    /// What each layer has for itself.
    fn shapes(&self, local: &[bool], heads: usize, window: usize) -> Result<Vec<LayerShape>, Error> {
        let (family, layers) = (self.0.family, local.len());
        let of_4 = family == Family::Gemma4;
        let dims = self.head_dims(layers, local)?;
        let kv_heads = self.kv_heads(local, heads)?;
        let shared = if of_4 {
            self.size(Key("attention.shared_kv_layers", "num_kv_shared_layers"), 0, 512, Some(0))?
        } else {
            0
        };
        let Some(own) = layers.checked_sub(shared).filter(|&own| own > 0) else {
            return Err(Error::new(format!(
                "{shared} of {layers} layers share keys and values; one at least must make them"
            )));
        };
        let ffn = self.ffn(layers, own)?;
        let first = |kind: bool| local.iter().position(|&is_local| is_local == kind).and_then(|layer| dims.get(layer));
        let dim = |kind: bool| first(kind).or(dims.first()).copied().unwrap_or_default();
        if local.iter().zip(&dims).any(|(&is_local, &head_dim)| head_dim != dim(is_local)) {
            return Err(Error::new(format!("layers of one kind have heads of different sizes: {dims:?}")));
        }
        let ropes = self.ropes(dim(true), dim(false))?;
        // A window goes as far to both sides as half of what a model that looks back only has.
        let window = if family == Family::Embedding { window / 2 } else { window };
        let keys_are_values = |layer: usize, is_local: bool| match &self.0.kind {
            _ if !of_4 || is_local || layer >= own => Ok(false),
            Kind::Gguf(gguf) => Ok(!gguf.has(&format!("blk.{layer}.attn_v.weight"))),
            Kind::Folder(folder) => self.flag(&folder.config, "attention_k_eq_v"),
        };
        let mut shapes = Vec::with_capacity(layers);
        for (layer, (((&is_local, head_dim), kv_heads), ffn)) in
            local.iter().zip(dims).zip(kv_heads).zip(ffn).enumerate()
        {
            let source = local.iter().take(own).rposition(|&kind| kind == is_local);
            let kv_source = if layer < own { Some(layer) } else { source };
            shapes.push(LayerShape {
                head_dim,
                kv_heads,
                ffn,
                window: is_local.then_some(window),
                rope: if is_local { ropes.0 } else { ropes.1 },
                kv_source: kv_source.ok_or_else(|| {
                    Error::new(format!("layer {layer} shares keys and values, and no layer of its kind makes any"))
                })?,
                keys_are_values: keys_are_values(layer, is_local)?,
            });
        }
        if let Some(odd) = shapes.iter().find(|s| {
            let source = shapes.get(s.kv_source);
            source.is_none_or(|source| (source.head_dim, source.kv_heads) != (s.head_dim, s.kv_heads))
        }) {
            return Err(Error::new(format!("layers that share keys and values differ in their heads: {odd:?}")));
        }
        Ok(shapes)
    }

    fn head_dims(&self, layers: usize, local: &[bool]) -> Result<Vec<usize>, Error> {
        let of_4 = self.0.family == Family::Gemma4;
        let pair = |key: &'static str, value_key: &'static str, default: Option<usize>| {
            let head_dim = self.size(Key(key, "head_dim"), 2, MOST_HEAD, default)?;
            let value_dim = match self.0.kind {
                Kind::Gguf(_) => self.size(Key(value_key, ""), 2, MOST_HEAD, Some(head_dim))?,
                Kind::Folder(_) => head_dim,
            };
            if value_dim != head_dim || !head_dim.is_multiple_of(2) {
                return Err(Error::new(format!(
                    "key length {head_dim} and value length {value_dim} must be equal and even in this architecture"
                )));
            }
            Ok(head_dim)
        };
        let usual = pair("attention.key_length", "attention.value_length", self.published(256))?;
        if !of_4 {
            return Ok(vec![usual; layers]);
        }
        let (near, whole) = match &self.0.kind {
            Kind::Gguf(_) => (pair("attention.key_length_swa", "attention.value_length_swa", Some(usual))?, usual),
            Kind::Folder(_) => (usual, self.size(Key("", "global_head_dim"), 2, MOST_HEAD, Some(512))?),
        };
        let dims = local.iter().map(|&is_local| if is_local { near } else { whole }).collect();
        let dims = self.overridden("head_dim", dims, MOST_HEAD)?;
        match dims.iter().find(|dim| !dim.is_multiple_of(2)) {
            None => Ok(dims),
            Some(odd) => Err(Error::new(format!("a head of {odd} numbers; it must be even"))),
        }
    }

    fn kv_heads(&self, local: &[bool], heads: usize) -> Result<Vec<usize>, Error> {
        const KEY: Key = Key("attention.head_count_kv", "num_key_value_heads");
        let found = match &self.0.kind {
            Kind::Gguf(gguf) => match gguf.counts(&self.gguf_key(KEY.0), local.len())? {
                None => vec![heads; local.len()],
                Some(counts) => {
                    counts.into_iter().map(|n| self.within(KEY, n, 1, MOST_HEADS)).collect::<Result<_, _>>()?
                }
            },
            Kind::Folder(folder) => {
                let near = self.size(KEY, 1, MOST_HEADS, Some(4))?;
                let whole = if self.0.family == Family::Gemma4 && self.flag(&folder.config, "attention_k_eq_v")? {
                    self.size(Key("", "num_global_key_value_heads"), 1, MOST_HEADS, Some(near))?
                } else {
                    near
                };
                let all = local.iter().map(|&is_local| if is_local { near } else { whole }).collect();
                self.overridden("num_key_value_heads", all, MOST_HEADS)?
            }
        };
        if let Some(few) = found.iter().find(|&&kv_heads| heads / kv_heads > GROUP) {
            return Err(Error::new(format!(
                "{heads} attention heads on {few} key/value heads are more than {GROUP} each"
            )));
        }
        match found.iter().find(|&&kv_heads| !heads.is_multiple_of(kv_heads)) {
            None => Ok(found),
            Some(odd) => Err(Error::new(format!("{heads} attention heads cannot share {odd} key/value heads evenly"))),
        }
    }

    /// What newer files say of single layers, by number, in place of `values`.
    fn overridden(&self, key: &str, mut values: Vec<usize>, most: usize) -> Result<Vec<usize>, Error> {
        let Kind::Folder(folder) = &self.0.kind else { return Ok(values) };
        let Some(layers) = self.of_json(&folder.config, "per_layer_config", "an object", Value::as_object)? else {
            return Ok(values);
        };
        for (layer, own) in layers {
            let own = own.as_object().map(|own| self.of_json(own, key, "a whole number", Value::as_u64));
            let Some(value) = own.transpose()?.flatten() else { continue };
            let place = layer.parse::<usize>().ok().and_then(|layer| values.get_mut(layer));
            match (place, usize::try_from(value)) {
                (Some(place), Ok(n)) if (1..=most).contains(&n) => *place = n,
                _ => {
                    return Err(Error::new(format!(
                        "config.json: per_layer_config: {key} of layer {layer} is {value}"
                    )));
                }
            }
        }
        Ok(values)
    }

    fn ffn(&self, layers: usize, own: usize) -> Result<Vec<usize>, Error> {
        const KEY: Key = Key("feed_forward_length", "intermediate_size");
        match &self.0.kind {
            Kind::Gguf(gguf) => {
                let Some(counts) = gguf.counts(&self.gguf_key(KEY.0), layers)? else {
                    return Err(Error::new(format!("{} is missing", self.name(KEY))));
                };
                counts.into_iter().map(|n| self.within(KEY, n, 1, MOST_FFN)).collect()
            }
            Kind::Folder(folder) => {
                let usual = self.size(KEY, 1, MOST_FFN / 2, None)?;
                let double = self.flag(&folder.config, "use_double_wide_mlp")?;
                Ok((0..layers).map(|layer| if double && layer >= own { 2 * usual } else { usual }).collect())
            }
        }
    }

    /// The RoPE of local and of global layers, whose heads have these sizes.
    fn ropes(&self, near: usize, whole: usize) -> Result<(Rope, Rope), Error> {
        match &self.0.kind {
            Kind::Gguf(_) => self.ropes_of_gguf(near, whole),
            Kind::Folder(folder) => self.ropes_of_json(&folder.config, near, whole),
        }
    }

    fn ropes_of_gguf(&self, near: usize, whole: usize) -> Result<(Rope, Rope), Error> {
        let of_2 = self.0.family == Family::Gemma2;
        let base =
            |key: &'static str, default: f64| self.base(Key(key, ""), self.number(Key(key, ""))?.unwrap_or(default));
        let global = base("rope.freq_base", if of_2 { 10_000.0 } else { 1_000_000.0 })?;
        let local = base("rope.freq_base_swa", if of_2 { global } else { 10_000.0 })?;
        for (key, dim) in [("rope.dimension_count", whole), ("rope.dimension_count_swa", near)] {
            let rotated = self.size(Key(key, ""), 0, MOST_HEAD, Some(dim))?;
            if self.0.family == Family::Gemma4 && rotated != dim {
                return Err(Error::new(format!("{} is {rotated}; expected {dim}", self.name(Key(key, "")))));
            }
        }
        let pairs = if self.0.family == Family::Gemma4 { self.rotated_pairs(whole)? } else { whole / 2 };
        Ok((
            Rope { base: local, factor: 1.0, pairs: near / 2 },
            Rope { base: global, factor: self.gguf_factor()?, pairs },
        ))
    }

    /// Gemma 4's global layers rotate the first pairs of a head: their frequencies are divided by 1, the others' by so much
    /// that nothing is left of them.
    fn rotated_pairs(&self, head_dim: usize) -> Result<usize, Error> {
        const NAME: &str = "rope_freqs.weight";
        let divisors = self.0.vector(NAME, head_dim / 2)?;
        let pairs = divisors.iter().take_while(|&&divisor| divisor == 1.0).count();
        match divisors.iter().skip(pairs).find(|divisor| divisor.is_nan() || **divisor < 1e20) {
            None => Ok(pairs),
            Some(other) => Err(Error::new(format!(
                "tensor {NAME} has the divisor {other}; accepted is 1 and, after the last 1, at least 1e20"
            ))),
        }
    }

    fn base(&self, key: Key, base: f64) -> Result<f64, Error> {
        if base > 1.0 && base.is_finite() {
            Ok(base)
        } else {
            Err(Error::new(format!("{} is {base}; it must be above 1", self.name(key))))
        }
    }

    /// The linear scaling of the global layers' positions.
    fn gguf_factor(&self) -> Result<f64, Error> {
        let Kind::Gguf(gguf) = &self.0.kind else { return Ok(1.0) };
        let key = Key("rope.scaling.factor", "");
        let kind = gguf.text(&self.gguf_key("rope.scaling.type"))?.unwrap_or("linear");
        let factor = match kind {
            "none" => 1.0,
            "linear" => match self.number(key)? {
                Some(factor) => factor,
                None => self.number(Key("rope.scale_linear", ""))?.unwrap_or(1.0),
            },
            other => {
                let name = self.name(Key("rope.scaling.type", ""));
                return Err(Error::new(format!("{name} is {other:?}; accepted are \"linear\" and \"none\"")));
            }
        };
        // Some writers put 0 where there is no scaling.
        if factor == 0.0 { Ok(1.0) } else { checked_factor(&self.name(key), factor) }
    }

    /// Newer files have `rope_parameters`, one object or one for each kind of layer; older ones single keys.
    fn ropes_of_json(&self, config: &Map<String, Value>, near: usize, whole: usize) -> Result<(Rope, Rope), Error> {
        let of_2 = self.0.family == Family::Gemma2;
        let bases = if of_2 { (10_000.0, 10_000.0) } else { (10_000.0, 1_000_000.0) };
        let object = |map, key| self.of_json(map, key, "an object", Value::as_object);
        let parameters = object(config, "rope_parameters")?;
        let (local, global) = match parameters {
            Some(all) if all.contains_key("full_attention") || all.contains_key("sliding_attention") => {
                (object(all, "sliding_attention")?, object(all, "full_attention")?)
            }
            // One for all where there is one base, else for the global layers.
            Some(all) => (of_2.then_some(all), Some(all)),
            None => (None, object(config, "rope_scaling")?),
        };
        let base = |map: Option<&Map<String, Value>>, old: &'static str, default: f64| {
            let own = map.map(|map| self.of_json(map, "rope_theta", "a number", Value::as_f64)).transpose()?.flatten();
            let base = match own {
                Some(base) => base,
                None => self.number(Key("", old))?.unwrap_or(default),
            };
            self.base(Key("", old), base)
        };
        let global_base = base(global, "rope_theta", bases.1)?;
        let local_base = base(local, if of_2 { "rope_theta" } else { "rope_local_base_freq" }, bases.0)?;
        let of_4 = self.0.family == Family::Gemma4;
        // What Gemma 4 has where its file says nothing.
        let silent = if of_4 && parameters.is_none() { ("proportional", 0.25) } else { ("default", 1.0) };
        Ok((
            self.rope_of_json(local, local_base, near, ("default", 1.0), &["default"])?,
            self.rope_of_json(
                global,
                global_base,
                whole,
                silent,
                if of_4 { &["default", "proportional"] } else { &["default", "linear"] },
            )?,
        ))
    }

    fn rope_of_json(
        &self,
        map: Option<&Map<String, Value>>,
        base: f64,
        head_dim: usize,
        silent: (&str, f64),
        kinds: &[&str],
    ) -> Result<Rope, Error> {
        let text =
            |key| map.map(|map| self.of_json(map, key, "a text", Value::as_str)).transpose().map(Option::flatten);
        let number =
            |key| map.map(|map| self.of_json(map, key, "a number", Value::as_f64)).transpose().map(Option::flatten);
        let kind = text("rope_type")?.or(text("type")?).unwrap_or(silent.0);
        if !kinds.contains(&kind) {
            return Err(Error::new(format!("config.json: rope_type is {kind:?}; accepted are {kinds:?}")));
        }
        let factor = if kind == "default" { 1.0 } else { number("factor")?.unwrap_or(1.0) };
        let share = if kind == "proportional" { number("partial_rotary_factor")?.unwrap_or(silent.1) } else { 1.0 };
        if !(0.0..=1.0).contains(&share) {
            return Err(Error::new(format!("config.json: partial_rotary_factor is {share}; accepted are 0 to 1")));
        }
        let factor = checked_factor("config.json: the factor of rope_parameters", factor)?;
        Ok(Rope { base, factor, pairs: (share * head_dim as f64 / 2.0) as usize })
    }

    fn attention_scale(&self, layers: usize, width: usize, heads: usize, head_dim: usize) -> Result<f32, Error> {
        let largest = match self.0.family {
            Family::Gemma4 => return Ok(1.0),
            Family::Gemma2 => 46,
            Family::Gemma3 => 62,
            Family::Embedding => usize::MAX,
        };
        match self.0.kind {
            // The 27B models scale by their width per head instead of the size of a head; config.json says it.
            Kind::Gguf(_) if layers == largest => Ok((heads as f32 / width as f32).sqrt()),
            Kind::Gguf(_) => Ok(1.0 / (head_dim as f32).sqrt()),
            Kind::Folder(_) => {
                let key = Key("", "query_pre_attn_scalar");
                let scalar = self.number(key)?.unwrap_or(256.0);
                if (1.0..=1e6).contains(&scalar) {
                    Ok(1.0 / (scalar as f32).sqrt())
                } else {
                    Err(Error::new(format!("{} is {scalar}; accepted are 1 to 1,000,000", self.name(key))))
                }
            }
        }
    }

    /// A soft cap, `default` where the file says nothing of it; null and 0 say that there is none.
    fn cap(&self, key: &'static str, default: Option<f64>) -> Result<Option<f32>, Error> {
        let key = Key(key, key);
        let silent = match &self.0.kind {
            Kind::Gguf(gguf) => gguf.get(&self.gguf_key(key.0)).is_none(),
            Kind::Folder(folder) => !folder.config.contains_key(key.1),
        };
        let cap = if silent { default } else { self.number(key)? };
        match cap.filter(|&cap| cap != 0.0) {
            None => Ok(None),
            Some(cap) if (1e-3..=1e6).contains(&cap) => Ok(Some(cap as f32)),
            Some(cap) => Err(Error::new(format!("{} is {cap}; accepted are 0.001 to 1,000,000", self.name(key)))),
        }
    }

    fn layer_input(&self) -> Result<Option<usize>, Error> {
        if self.0.family != Family::Gemma4 {
            return Ok(None);
        }
        let key = Key("embedding_length_per_layer_input", "hidden_size_per_layer_input");
        // The default of a config.json without the key; null says that there is none.
        let silent = match &self.0.kind {
            Kind::Folder(folder) if !folder.config.contains_key(key.1) => 256,
            _ => 0,
        };
        Ok(Some(self.size(key, 0, MOST_HEAD, Some(silent))?).filter(|&n| n > 0))
    }

    fn projection(&self, width: usize) -> Result<Option<usize>, Error> {
        if self.0.family != Family::Embedding {
            return Ok(None);
        }
        let Kind::Folder(folder) = &self.0.kind else { return self.gguf_projection(width) };
        folder.projection(width).map(Some)
    }

    fn gguf_projection(&self, width: usize) -> Result<Option<usize>, Error> {
        let pooling = Key("pooling_type", "");
        match self.count(pooling)? {
            None | Some(1) => {}
            Some(other) => {
                return Err(Error::new(format!("{} is {other}; accepted is 1, the mean", self.name(pooling))));
            }
        }
        // The converter leaves the two out unless it is asked for them, and the vectors are then others.
        if self.count(Key("dense_2_feat_out", ""))?.is_none() {
            let name = self.name(Key("dense_2_feat_out", ""));
            return Err(Error::new(format!(
                "{name} is missing: the file lacks the layers behind the mean; convert the model with --sentence-transformers-dense-modules"
            )));
        }
        let size = |key: &'static str, least: usize, most: usize| self.size(Key(key, ""), least, most, None);
        let inner = size("dense_2_feat_out", 1, MOST_WIDTH)?;
        size("dense_2_feat_in", width, width)?;
        size("dense_3_feat_in", inner, inner)?;
        size("dense_3_feat_out", width, width)?;
        Ok(Some(inner))
    }
}

fn checked_factor(name: &str, factor: f64) -> Result<f64, Error> {
    if (1.0..=1e6).contains(&factor) {
        Ok(factor)
    } else {
        Err(Error::new(format!("{name} is {factor}; accepted are 1 to 1,000,000")))
    }
}

fn flag_of_gguf(value: gguf::Value) -> Option<bool> {
    match value {
        gguf::Value::Bool(local) => Some(local),
        _ => None,
    }
}

fn kind_of_json(value: &Value) -> Option<bool> {
    match value.as_str()? {
        "sliding_attention" => Some(true),
        "full_attention" => Some(false),
        _ => None,
    }
}
