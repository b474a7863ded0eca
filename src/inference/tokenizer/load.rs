//! Reading a vocabulary from a GGUF's metadata or from a `tokenizer.json`.

use super::{Kind, Tokenizer, Vocabulary, byte_value};
use crate::error::Error;
use candle_core::quantized::gguf_file::Value;
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use std::collections::HashMap;
use std::path::Path;

/// No `tokenizer.json` of the family comes near this many bytes; the file is read whole.
const MAX_FILE: u64 = 256 << 20;

impl Tokenizer {
    /// The tokenizer that a GGUF carries under `tokenizer.ggml.*`.
    ///
    /// # Errors
    /// Names the key that is missing, of another type or inconsistent, or the kind of tokenizer that is not read.
    pub fn from_gguf(metadata: &HashMap<String, Value>) -> Result<Tokenizer, Error> {
        let get = |key: &str| metadata.get(&format!("tokenizer.ggml.{key}"));
        let array = |key: &str| match get(key) {
            Some(Value::Array(values)) => Ok(values),
            Some(_) => Err(Error::new(format!("GGUF key tokenizer.ggml.{key} is not an array"))),
            None => Err(Error::new(format!("GGUF key tokenizer.ggml.{key} is missing"))),
        };
        match get("model") {
            Some(Value::String(model)) if model == "llama" => {}
            Some(Value::String(model)) => {
                return Err(Error::new(format!(
                    "GGUF key tokenizer.ggml.model is {model:?}; only \"llama\" (SentencePiece) is read"
                )));
            }
            _ => return Err(Error::new("GGUF key tokenizer.ggml.model is missing or not a string")),
        }
        if let Some(Value::Bool(true)) = get("add_space_prefix") {
            return Err(Error::new(
                "GGUF key tokenizer.ggml.add_space_prefix is true; only vocabularies without a space prefix are read",
            ));
        }
        let (tokens, scores, kinds) = (array("tokens")?, array("scores")?, array("token_type")?);
        if tokens.len() != scores.len() || tokens.len() != kinds.len() {
            return Err(Error::new(format!(
                "the GGUF's tokenizer has {} tokens, {} scores and {} token types; the three must agree",
                tokens.len(),
                scores.len(),
                kinds.len()
            )));
        }
        let mut pieces = Vec::with_capacity(tokens.len());
        for (id, ((token, score), kind)) in tokens.iter().zip(scores).zip(kinds).enumerate() {
            let Value::String(token) = token else {
                return Err(Error::new(format!("entry {id} of GGUF key tokenizer.ggml.tokens is not a string")));
            };
            let Value::F32(score) = score else {
                return Err(Error::new(format!("entry {id} of GGUF key tokenizer.ggml.scores is not an f32")));
            };
            let kind = integer(kind).and_then(kind_of).ok_or_else(|| {
                Error::new(format!("entry {id} of GGUF key tokenizer.ggml.token_type is not a number from 1 to 6"))
            })?;
            pieces.push((token.clone(), *score, kind));
        }
        let id = |key: &str| match get(key) {
            None => Ok(None),
            Some(value) => integer(value)
                .and_then(|id| u32::try_from(id).ok())
                .map(Some)
                .ok_or_else(|| Error::new(format!("GGUF key tokenizer.ggml.{key} is not a token id"))),
        };
        Tokenizer::new(Vocabulary { pieces, bos: id("bos_token_id")?, eos: id("eos_token_id")? })
    }

    /// The tokenizer of a `tokenizer.json` as published with Gemma: a BPE model whose merges come from SentencePiece.
    /// A piece's score is the rank of the first merge that makes it, which is SentencePiece's order.
    ///
    /// # Errors
    /// Says what cannot be read, or which part of the file describes something other than such a tokenizer.
    pub fn from_file(path: &Path) -> Result<Tokenizer, Error> {
        let within = |message: String| Error::new(message).at(path.display());
        let size = std::fs::metadata(path).map_err(|error| within(format!("cannot be read: {error}")))?.len();
        if size > MAX_FILE {
            return Err(within(format!("is {size} bytes; a tokenizer of at most {MAX_FILE} is accepted")));
        }
        let bytes = std::fs::read(path).map_err(|error| within(format!("cannot be read: {error}")))?;
        let file: File =
            serde_json::from_slice(&bytes).map_err(|error| within(format!("is not a BPE tokenizer.json: {error}")))?;
        drop(bytes);
        file.vocabulary().and_then(Tokenizer::new).map_err(|error| error.at(path.display()))
    }
}

/// Any integer of a GGUF value.
fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::U8(v) => Some((*v).into()),
        Value::I8(v) => Some((*v).into()),
        Value::U16(v) => Some((*v).into()),
        Value::I16(v) => Some((*v).into()),
        Value::U32(v) => Some((*v).into()),
        Value::I32(v) => Some((*v).into()),
        Value::U64(v) => i64::try_from(*v).ok(),
        Value::I64(v) => Some(*v),
        _ => None,
    }
}

/// The meaning of a GGUF token type.
fn kind_of(number: i64) -> Option<Kind> {
    let kinds = [Kind::Normal, Kind::Unknown, Kind::Control, Kind::UserDefined, Kind::Unused, Kind::Byte];
    kinds.get(usize::try_from(number.checked_sub(1)?).ok()?).copied()
}

/// The parts of a `tokenizer.json` that matter here. Its post-processor, truncation and padding concern callers that
/// add the begin token or make batches, which this tokenizer leaves to its caller.
#[derive(Deserialize)]
struct File {
    normalizer: Option<serde_json::Value>,
    pre_tokenizer: Option<serde_json::Value>,
    #[serde(default)]
    added_tokens: Vec<Added>,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    byte_fallback: bool,
    unk_token: Option<String>,
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

/// What a merge makes: written `"a b"` in older files and `["a", "b"]` in newer ones.
struct Merge(String);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Merge;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a merge: \"left right\" or [\"left\", \"right\"]")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Merge, E> {
                match text.split_once(' ') {
                    Some((left, right)) if !right.contains(' ') => Ok(Merge(left.to_owned() + right)),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Merge, A::Error> {
                use serde::de::Error as _;
                let mut merged = String::new();
                for index in 0..2 {
                    let part = parts.next_element::<std::borrow::Cow<'de, str>>()?;
                    merged.push_str(&part.ok_or_else(|| A::Error::invalid_length(index, &self))?);
                }
                match parts.next_element::<serde::de::IgnoredAny>()? {
                    None => Ok(Merge(merged)),
                    Some(_) => Err(A::Error::invalid_length(3, &self)),
                }
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl File {
    fn vocabulary(self) -> Result<Vocabulary, Error> {
        let Model { kind, byte_fallback, unk_token, vocab, merges } = self.model;
        if kind != "BPE" {
            return Err(Error::new(format!("the tokenizer's model is {kind:?}; only \"BPE\" is read")));
        }
        check_spaces(self.normalizer.as_ref(), self.pre_tokenizer.as_ref())?;

        let mut ranks = HashMap::with_capacity(merges.len());
        for (rank, Merge(piece)) in merges.into_iter().enumerate() {
            ranks.entry(piece).or_insert(rank);
        }
        let limit = vocab.len() + self.added_tokens.len();
        let mut slots: Vec<Option<(String, f32, Kind)>> = Vec::new();
        for (piece, id) in vocab {
            let kind = match () {
                () if unk_token.as_ref() == Some(&piece) => Kind::Unknown,
                () if byte_fallback && byte_value(&piece).is_some() => Kind::Byte,
                () => Kind::Normal,
            };
            let score = ranks.get(&piece).map_or(f32::NEG_INFINITY, |rank| -(*rank as f32));
            let slot = slot(&mut slots, id, limit)?;
            if let Some((other, ..)) = slot {
                return Err(Error::new(format!("the tokenizer's pieces {other:?} and {piece:?} both have id {id}")));
            }
            *slot = Some((piece, score, kind));
        }
        for added in self.added_tokens {
            let Added { id, content, special, single_word, lstrip, rstrip } = added;
            if single_word || lstrip || rstrip {
                return Err(Error::new(format!(
                    "the added token {content:?} has single_word, lstrip or rstrip, which is not supported"
                )));
            }
            let kind = match () {
                () if unk_token.as_ref() == Some(&content) => Kind::Unknown,
                () if special => Kind::Control,
                () => Kind::UserDefined,
            };
            let slot = slot(&mut slots, id, limit)?;
            let score = slot.as_ref().map_or(f32::NEG_INFINITY, |(_, score, _)| *score);
            *slot = Some((content, score, kind));
        }
        let pieces: Option<Vec<_>> = slots.into_iter().collect();
        let pieces = pieces.ok_or_else(|| Error::new("the tokenizer's ids have a gap"))?;
        let find = |name: &str| (0u32..).zip(&pieces).find(|(_, (piece, ..))| piece == name).map(|(id, _)| id);
        let (bos, eos) = (find("<bos>"), find("<eos>"));
        Ok(Vocabulary { pieces, bos, eos })
    }
}

/// The place for an id, which must be below the number of pieces.
fn slot(
    slots: &mut Vec<Option<(String, f32, Kind)>>,
    id: u32,
    limit: usize,
) -> Result<&mut Option<(String, f32, Kind)>, Error> {
    let index = id as usize;
    if index >= limit {
        return Err(Error::new(format!("the tokenizer's id {id} is beyond its {limit} pieces")));
    }
    if slots.len() <= index {
        slots.resize(index + 1, None);
    }
    Ok(&mut slots[index])
}

/// Spaces must become `▁` one for one and nothing else may happen before merging.
fn check_spaces(
    normalizer: Option<&serde_json::Value>,
    pre_tokenizer: Option<&serde_json::Value>,
) -> Result<(), Error> {
    let replace = serde_json::json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    if normalizer != Some(&replace) {
        return Err(Error::new(format!(
            "the tokenizer's normalizer is {}; only {replace} is read",
            normalizer.unwrap_or(&serde_json::Value::Null)
        )));
    }
    // After the replacement there is no space left to split on, so this one does nothing.
    let split =
        |value: &serde_json::Value| value["type"] == "Split" && value["pattern"] == serde_json::json!({"String": " "});
    match pre_tokenizer {
        None | Some(serde_json::Value::Null) => Ok(()),
        Some(value) if split(value) => Ok(()),
        Some(value) => {
            Err(Error::new(format!("the tokenizer's pre_tokenizer is {value}; only none or a split at spaces is read")))
        }
    }
}
