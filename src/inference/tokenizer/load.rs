//! Reading a vocabulary from a GGUF's metadata or from a file of its own: a `tokenizer.json` or, in its own module, a SentencePiece model.

use super::{Kind, List, Parts, Tokenizer, UNKNOWN_SURFACE, byte_value, sentencepiece};
use crate::error::Error;
use crate::gguf::{Gguf, Value};
use crate::memory::MappedFile;
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use std::collections::HashMap;
use std::path::Path;

/// No tokenizer of the family comes near this many bytes.
const MAX_FILE: usize = 256 << 20;
/// A piece that only vocabularies of the fourth generation have, which are made of merges; the ones before are SentencePiece's, whose merges a
/// `tokenizer.json` only imitates.
const FOURTH: &str = "<|turn>";

impl Tokenizer {
    /// The tokenizer that a GGUF carries under `tokenizer.ggml.*`.
    ///
    /// # Errors
    /// Names the key that is missing, of another type or inconsistent, or the kind of tokenizer that is not read.
    pub fn from_gguf(gguf: &Gguf) -> Result<Tokenizer, Error> {
        let get = |key: &str| gguf.get(&format!("tokenizer.ggml.{key}"));
        let array = |key: &str| match get(key) {
            Some(Value::List(values)) => Ok(values),
            Some(_) => Err(Error::new(format!("GGUF key tokenizer.ggml.{key} is not an array"))),
            None => Err(Error::new(format!("GGUF key tokenizer.ggml.{key} is missing"))),
        };
        let merged = match get("model") {
            Some(Value::Text("llama")) => false,
            Some(Value::Text("gemma4")) => true,
            Some(Value::Text(model)) => {
                return Err(Error::new(format!(
                    "GGUF key tokenizer.ggml.model is {model:?}; only \"llama\" (SentencePiece) and \"gemma4\" are read"
                )));
            }
            _ => return Err(Error::new("GGUF key tokenizer.ggml.model is missing or not a string")),
        };
        if let Some(Value::Bool(true)) = get("add_space_prefix") {
            return Err(Error::new(
                "GGUF key tokenizer.ggml.add_space_prefix is true; only vocabularies without a space prefix are read",
            ));
        }
        let (tokens, kinds) = (array("tokens")?, array("token_type")?);
        // The order of merges takes the place of scores.
        let scores = if merged { None } else { Some(array("scores")?) };
        let scored = scores.map_or(tokens.len(), |scores| scores.len());
        if tokens.len() != scored || tokens.len() != kinds.len() {
            return Err(Error::new(format!(
                "the GGUF's tokenizer has {} tokens, {scored} scores and {} token types; the three must agree",
                tokens.len(),
                kinds.len()
            )));
        }
        let mut pieces = Vec::with_capacity(tokens.len());
        let mut scores = scores.map(|scores| scores.iter());
        for (id, (token, kind)) in tokens.iter().zip(kinds.iter()).enumerate() {
            let Value::Text(token) = token else {
                return Err(Error::new(format!("entry {id} of GGUF key tokenizer.ggml.tokens is not a string")));
            };
            let score = match scores.as_mut().and_then(Iterator::next) {
                None => 0.0,
                Some(Value::F32(score)) => score,
                Some(_) => {
                    return Err(Error::new(format!("entry {id} of GGUF key tokenizer.ggml.scores is not an f32")));
                }
            };
            let kind = integer(kind).and_then(Kind::numbered).ok_or_else(|| {
                Error::new(format!("entry {id} of GGUF key tokenizer.ggml.token_type is not a number from 1 to 6"))
            })?;
            let kind = if merged && is_structure(token, kind) { Kind::Control } else { kind };
            pieces.push((token, score, kind));
        }
        let merges: Option<List<'_>> = match merged {
            false => None,
            true => Some(Box::new(array("merges")?.iter().enumerate().map(|(rank, merge)| {
                // A part may begin with a space, never hold one further on.
                let parts = match merge {
                    Value::Text(text) => text
                        .char_indices()
                        .skip(1)
                        .find(|(_, c)| *c == ' ')
                        .map(|(cut, _)| (&text[..cut], &text[cut + 1..])),
                    _ => None,
                };
                parts.ok_or_else(|| {
                    Error::new(format!("entry {rank} of GGUF key tokenizer.ggml.merges is not \"left right\""))
                })
            }))),
        };
        let id = |key: &str| match get(key) {
            None => Ok(None),
            Some(value) => integer(value)
                .and_then(|id| u32::try_from(id).ok())
                .map(Some)
                .ok_or_else(|| Error::new(format!("GGUF key tokenizer.ggml.{key} is not a token id"))),
        };
        let (bos, eos) = (id("bos_token_id")?, id("eos_token_id")?);
        let ends = [id("eot_token_id")?, id("eom_token_id")?].into_iter().flatten().collect();
        Tokenizer::build(Parts { pieces, merges, bos, eos, ends, unknown: UNKNOWN_SURFACE })
    }

    /// The tokenizer of a file of its own: a SentencePiece model (`tokenizer.model`), or a `tokenizer.json` as published with Gemma, a BPE model. Where
    /// the name does not end in `.model` or `.json`, a file that begins with a brace is taken for the latter. In the `tokenizer.json` of vocabularies
    /// that come from SentencePiece, a piece's score is the rank of the first merge that makes it, which is SentencePiece's order.
    ///
    /// # Errors
    /// Says what cannot be read, or which part of the file describes something other than such a tokenizer.
    pub fn from_file(path: &Path) -> Result<Tokenizer, Error> {
        let file = MappedFile::open(path)?;
        let read = || {
            if file.len() > MAX_FILE {
                let size = file.len();
                return Err(Error::new(format!("is {size} bytes; a tokenizer of at most {MAX_FILE} is accepted")));
            }
            let json = match path.extension().and_then(|extension| extension.to_str()) {
                Some("model") => false,
                Some("json") => true,
                _ => file.trim_ascii_start().starts_with(b"{"),
            };
            if !json {
                return sentencepiece::read(&file);
            }
            let json: File = serde_json::from_slice(&file)
                .map_err(|error| Error::new(format!("is not a BPE tokenizer.json: {error}")))?;
            json.tokenizer()
        };
        read().map_err(|error| error.at(path.display()))
    }

    /// The tokenizer of the bytes of a SentencePiece model file.
    ///
    /// # Errors
    /// Says where the bytes are no such file, or which option of the model is not read.
    pub fn from_sentencepiece(bytes: &[u8]) -> Result<Tokenizer, Error> {
        sentencepiece::read(bytes)
    }
}

/// Whether a piece of a Gemma 4 vocabulary is structure although its file says user-defined, as converters do with what is to be seen in a model's
/// answer (`<|channel>`, `<tool_call|>`). The family's own files have them as control pieces, and a text must not be able to spell them.
fn is_structure(piece: &str, kind: Kind) -> bool {
    kind == Kind::UserDefined && (piece.starts_with("<|") || piece.ends_with("|>"))
}

/// Any integer of a GGUF value.
fn integer(value: Value) -> Option<i64> {
    match value {
        Value::U8(v) => Some(v.into()),
        Value::I8(v) => Some(v.into()),
        Value::U16(v) => Some(v.into()),
        Value::I16(v) => Some(v.into()),
        Value::U32(v) => Some(v.into()),
        Value::I32(v) => Some(v.into()),
        Value::U64(v) => i64::try_from(v).ok(),
        Value::I64(v) => Some(v),
        _ => None,
    }
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

/// What a merge makes, and where its two parts meet: written `"a b"` in older files and `["a", "b"]` in newer ones.
struct Merge(String, usize);

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
                    Some((left, right)) if !right.contains(' ') => Ok(Merge(left.to_owned() + right, left.len())),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Merge, A::Error> {
                use serde::de::Error as _;
                let (mut merged, mut cut) = (String::new(), 0);
                for index in 0..2 {
                    cut = merged.len();
                    let part = parts.next_element::<std::borrow::Cow<'de, str>>()?;
                    merged.push_str(&part.ok_or_else(|| A::Error::invalid_length(index, &self))?);
                }
                match parts.next_element::<serde::de::IgnoredAny>()? {
                    None => Ok(Merge(merged, cut)),
                    Some(_) => Err(A::Error::invalid_length(3, &self)),
                }
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl File {
    fn tokenizer(self) -> Result<Tokenizer, Error> {
        let Model { kind, byte_fallback, unk_token, vocab, merges } = self.model;
        if kind != "BPE" {
            return Err(Error::new(format!("the tokenizer's model is {kind:?}; only \"BPE\" is read")));
        }
        check_spaces(self.normalizer.as_ref(), self.pre_tokenizer.as_ref())?;

        let listed = self.added_tokens.iter().any(|added| added.content == FOURTH);
        let mut ranks = HashMap::with_capacity(if listed { 0 } else { merges.len() });
        for (rank, Merge(piece, _)) in merges.iter().enumerate().filter(|_| !listed) {
            ranks.entry(piece.as_str()).or_insert(rank);
        }
        let limit = vocab.len() + self.added_tokens.len();
        let mut slots: Vec<Option<(String, f32, Kind)>> = Vec::new();
        for (piece, id) in vocab {
            let kind = match () {
                () if unk_token.as_ref() == Some(&piece) => Kind::Unknown,
                () if byte_fallback && byte_value(&piece).is_some() => Kind::Byte,
                () => Kind::Normal,
            };
            let score = ranks.get(piece.as_str()).map_or(f32::NEG_INFINITY, |rank| -(*rank as f32));
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
        let pieces = pieces.iter().map(|(text, score, kind)| (text.as_str(), *score, *kind)).collect();
        let parts = merges.iter().map(|Merge(text, cut)| Ok(text.split_at(*cut)));
        let merges: Option<List<'_>> = if listed { Some(Box::new(parts)) } else { None };
        Tokenizer::build(Parts { pieces, merges, bos, eos, ends: Vec::new(), unknown: UNKNOWN_SURFACE })
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
