//! The one seam for text encoders: whoever embeds texts loads an [`Embedder`] and does not see which model is below.
//!
//! There are two kinds, the BERT encoders ([`crate::encoder`]) and the Gemma models that look both ways ([`crate::gemma::Encoder`]). They
//! differ in what a caller would have to know: the second kind wants to be told what a text is for, and its vectors may be cut. The first
//! ignores the one and refuses the other.
//!
//! The activations of a text are kept for the next one, as many as texts were ever embedded at once, and go with the embedder.

use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;

use crate::Error;
use crate::encoder::{self, Encoded, Encoder, Window};
use crate::folder::json;
use crate::gemma;

/// What a text is embedded for. Some models were trained to be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// To be found.
    #[default]
    Document,
    /// To find others.
    Query,
}

/// A loaded text encoder, shared between threads.
pub struct Embedder {
    name: String,
    kind: Kind,
}

enum Kind {
    Bert(Box<Encoder>, Kept<encoder::Scratch>),
    Gemma(gemma::Encoder, Kept<gemma::Scratch>),
}

/// Buffers that nobody uses at the moment.
type Kept<T> = Mutex<Vec<T>>;

/// A window with the bytes of the text that each of its tokens stands for.
pub type Spanned = (Window, Vec<Range<usize>>);

impl Embedder {
    /// Loads the model at `path`: a GGUF file, or a folder in the form of sentence-transformers. Its name is `name`, by default
    /// the path's last part without `.gguf`; vectors that are cut to `dim` numbers add `:dim` to it, for they are not to be mixed with others.
    ///
    /// # Errors
    /// Names the file and what in it is missing, broken or of a kind that is not supported.
    pub fn load(path: &Path, name: Option<&str>, dim: Option<usize>) -> Result<Embedder, Error> {
        let whole =
            path.canonicalize().map_err(|error| Error::new(format!("cannot be read: {error}")).at(path.display()))?;
        let mut name = name.map_or_else(
            || {
                let last = whole.file_name().unwrap_or_default().to_string_lossy();
                last.strip_suffix(".gguf").unwrap_or(&last).to_owned()
            },
            str::to_owned,
        );
        if whole.is_file() || is_gemma(&whole) {
            let encoder = gemma::Encoder::load(path, dim, None)?;
            if encoder.dim() < encoder.width() {
                name = format!("{name}:{}", encoder.dim());
            }
            return Ok(Embedder { name, kind: Kind::Gemma(encoder, Mutex::default()) });
        }
        let encoder = Encoder::load(path)?;
        if let Some(dim) = dim.filter(|dim| *dim != encoder.dim()) {
            let own = encoder.dim();
            let why = format!("vectors of {dim} numbers; this model makes {own}, and was not trained to have them cut");
            return Err(Error::new(why).at(path.display()));
        }
        Ok(Embedder { name, kind: Kind::Bert(Box::new(encoder), Mutex::default()) })
    }

    /// What the vectors that it makes are known by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The length of its vectors.
    pub fn dim(&self) -> usize {
        match &self.kind {
            Kind::Bert(encoder, _) => encoder.dim(),
            Kind::Gemma(encoder, _) => encoder.dim(),
        }
    }

    /// How many tokens a window holds at most, what the model puts around a text included.
    pub fn window(&self) -> usize {
        match &self.kind {
            Kind::Bert(encoder, _) => encoder.window(),
            Kind::Gemma(encoder, _) => encoder.window(),
        }
    }

    /// How its weights are encoded.
    pub fn precision(&self) -> String {
        match &self.kind {
            Kind::Bert(encoder, _) => encoder.info().precision.name().to_owned(),
            Kind::Gemma(encoder, _) => encoder.model().info().quantization.to_lowercase(),
        }
    }

    /// Bytes of weights in memory of our own, beside the mapped file.
    pub fn mapped_bytes(&self) -> u64 {
        match &self.kind {
            Kind::Bert(encoder, _) => encoder.info().mapped_bytes,
            Kind::Gemma(encoder, _) => encoder.model().info().mapped_bytes,
        }
    }

    /// What it puts in front of a text for this purpose: texts that differ in it have other vectors.
    pub fn prompt(&self, purpose: Purpose) -> &str {
        match &self.kind {
            Kind::Bert(..) => "",
            Kind::Gemma(encoder, _) => encoder.prompt(purpose),
        }
    }

    /// The tokens of a text alone.
    pub fn tokens(&self, text: &str) -> Vec<u32> {
        match &self.kind {
            Kind::Bert(encoder, _) => encoder.tokens(text),
            Kind::Gemma(encoder, _) => encoder.model().tokenizer().encode(text),
        }
    }

    /// The bytes of a text that each of its [`tokens`](Self::tokens) stands for, in order.
    pub fn spans(&self, text: &str) -> Vec<Range<usize>> {
        match &self.kind {
            Kind::Bert(encoder, _) => encoder.spans(text),
            Kind::Gemma(encoder, _) => encoder.spans(text),
        }
    }

    /// Whether a text's tokens are those of its lines, each with the newlines that end it.
    pub fn lines_are_apart(&self) -> bool {
        match &self.kind {
            // A word never goes on behind white space.
            Kind::Bert(..) => true,
            Kind::Gemma(encoder, _) => encoder.model().tokenizer().lines_are_apart(),
        }
    }

    /// The windows of a text: one if it fits, else several, cut where words begin.
    pub fn windows(&self, text: &str, purpose: Purpose) -> Vec<Window> {
        match &self.kind {
            Kind::Bert(encoder, _) => encoder.windows(text),
            Kind::Gemma(encoder, _) => encoder.windows(text, purpose),
        }
    }

    /// The same windows, and for each of their tokens the bytes of the text that it stands for; empty ranges for what the model
    /// puts around it. Keeping track of the bytes takes time that [`windows`](Self::windows) saves.
    pub fn windows_with_spans(&self, text: &str, purpose: Purpose) -> Vec<Spanned> {
        match &self.kind {
            Kind::Bert(encoder, _) => encoder.windows_with_spans(text),
            Kind::Gemma(encoder, _) => encoder.windows_with_spans(text, purpose),
        }
    }

    /// The vector of a window, of length [`dim`](Self::dim), and those of its tokens if they are wanted. Its bits depend on nothing else.
    ///
    /// # Errors
    /// The system gives no memory for the activations, or the window was made by another encoder.
    pub fn embed(&self, window: &Window, tokens: bool) -> Result<Encoded, Error> {
        match &self.kind {
            Kind::Bert(encoder, kept) => {
                let mut scratch = take(kept).unwrap_or_default();
                let window = std::slice::from_ref(window);
                let encoded = if tokens {
                    encoder.encode_with_tokens(window, &mut scratch).map(|mut all| all.pop())
                } else {
                    let alone = |vector| Encoded { vector, tokens: Vec::new() };
                    encoder.encode(window, &mut scratch).map(|mut all| all.pop().map(alone))
                };
                keep(kept, scratch);
                encoded?.ok_or_else(|| Error::new("the encoder gave no vector"))
            }
            Kind::Gemma(encoder, kept) => {
                let mut scratch = take(kept).map_or_else(|| encoder.scratch(), Ok)?;
                let encoded = encoder.encode(window, tokens, &mut scratch);
                keep(kept, scratch);
                encoded
            }
        }
    }
}

fn take<T>(kept: &Kept<T>) -> Option<T> {
    kept.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

fn keep<T>(kept: &Kept<T>, scratch: T) {
    kept.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
}

/// Whether a folder says that its model is of the Gemma family. Where it says nothing that can be read, the loader tells why.
fn is_gemma(dir: &Path) -> bool {
    #[derive(Deserialize)]
    struct Config {
        model_type: Option<String>,
    }
    let config: Result<Config, Error> = json(&dir.join("config.json"));
    config.is_ok_and(|config| config.model_type.is_some_and(|kind| kind.starts_with("gemma")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemma::tests::tests_dir;

    #[test]
    fn the_name_tells_cut_vectors_apart() {
        let models = tests_dir().join("models");
        let load = |file: &str, name, dim| Embedder::load(&models.join(file), name, dim);
        for (file, name, dim, expected) in [
            ("embeddinggemma.gguf", None, None, "embeddinggemma"),
            ("embeddinggemma", None, Some(64), "embeddinggemma"),
            ("embeddinggemma", None, Some(32), "embeddinggemma:32"),
            ("embeddinggemma.gguf", Some("e"), Some(16), "e:16"),
        ] {
            let embedder = load(file, name, dim).unwrap();
            assert_eq!((embedder.name(), embedder.dim()), (expected, dim.unwrap_or(64)));
        }
        for (file, dim, expected) in [
            ("embeddinggemma", Some(48), "vectors of 48 numbers; accepted are 64, cut to 32, 16"),
            ("embeddinggemma", Some(128), "accepted are 64"),
            ("gemma3.gguf", None, "makes text and no embeddings"),
            ("gemma3", None, "makes text and no embeddings"),
            ("nothing", None, "cannot be read"),
        ] {
            let message = load(file, None, dim).map(|_| ()).unwrap_err().to_string();
            assert!(message.contains(file) && message.contains(expected), "{file}: {message}");
        }
    }

    #[test]
    fn buffers_are_used_again() {
        let embedder = Embedder::load(&tests_dir().join("models/embeddinggemma"), None, None).unwrap();
        let Kind::Gemma(_, kept) = &embedder.kind else { panic!("a Gemma model") };
        for text in ["a", "a somewhat longer text", ""] {
            let window = &embedder.windows(text, Purpose::Query)[0];
            assert_eq!(embedder.embed(window, false).unwrap().vector.len(), 64);
            assert_eq!(kept.lock().unwrap().len(), 1);
        }
    }
}
