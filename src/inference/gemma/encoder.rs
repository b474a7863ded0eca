//! Texts into vectors with a Gemma model that looks both ways (EmbeddingGemma).
//!
//! **From text to vector.** `<bos> prompt text <eos>` goes through the layers in one pass. The mean of the last layer's normed rows,
//! all of them, goes through two linear layers and is made one long. The prompt says whether the text is a question or what may
//! answer it; a model's own prompts are beside its weights, a GGUF has none and gets those the published model was trained with.
//!
//! **Sizes.** The model was trained so that the first numbers of a vector are a vector themselves (Matryoshka): of 768 the first 512, 256 or
//! 128, made one long again. Accepted are the powers of two from a sixth of the width on, which are those.
//!
//! **Long texts** become several windows as with the other encoders, cut where a word begins. Each is a text for itself: the second and
//! later ones begin with the prompt again.
//!
//! **Tokens.** The linear layers have no bias and nothing between them, so a vector is, but for its length, the mean of what they
//! make of each row: that is a token's vector, in the space of the texts' vectors, as it is with encoders that take the plain mean.
//!
//! **Bits.** A text is one thread's work and shares no batch; what the pages of keys and values held before is wiped ([`super::kv`]). So
//! a vector has the same bits whatever is computed before it or beside it.
//!
//! **Memory.** The table of words, the larger half of the model, is never multiplied with: it stays in the file however it is encoded. The
//! keys and values of one layer are there at a time, so that those of a long text stay in the cache.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::forward::Workspace;
use super::kv::KvCache;
use super::source::{Family, Kind, Source};
use super::{Gemma, LoadOptions, Progress};
use crate::embedder::Purpose;
use crate::encoder::{Encoded, Window};
use crate::kernels::kernels;
use crate::memory::MappedVec;
use crate::product::{Input, Matrix};
use crate::tokenizer::{Kind as PieceKind, SPACE};
use crate::{Error, Tokenizer};

/// Tokens of a text that the published model was trained for.
const WINDOW: usize = 2048;
/// Rows that go through the linear layers at once.
const CHUNK: usize = 32;
/// The smallest vectors are this part of the width.
const SMALLEST: usize = 6;

/// A text encoder: weights, tokenizer and prompts, immutable. Share it between threads; each thread brings its own [`Scratch`].
pub struct Encoder {
    model: Arc<Gemma>,
    prompts: Prompts,
    /// The tokens of the prompts, each without the white space at its end, which belongs to the word behind it.
    prefixes: [Vec<u32>; 2],
    edges: [u32; 2],
    window: usize,
    dim: usize,
}

/// What a text begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompts {
    /// One that may answer a question.
    pub document: String,
    /// A question.
    pub query: String,
}

impl Default for Prompts {
    fn default() -> Prompts {
        Prompts { document: "title: none | text: ".to_owned(), query: "task: search result | query: ".to_owned() }
    }
}

impl Prompts {
    fn of(&self, purpose: Purpose) -> &str {
        match purpose {
            Purpose::Document => &self.document,
            Purpose::Query => &self.query,
        }
    }

    /// Those of a model, where it says so.
    fn read(source: &Source) -> Result<Prompts, Error> {
        #[derive(Deserialize, Default)]
        struct Config {
            #[serde(default)]
            prompts: Named,
        }
        #[derive(Deserialize, Default)]
        struct Named {
            document: Option<String>,
            query: Option<String>,
        }
        let Kind::Folder(folder) = &source.kind else { return Ok(Prompts::default()) };
        let config: Config = folder.beside("config_sentence_transformers.json")?.unwrap_or_default();
        let usual = Prompts::default();
        Ok(Prompts {
            document: config.prompts.document.unwrap_or(usual.document),
            query: config.prompts.query.unwrap_or(usual.query),
        })
    }
}

/// The buffers of one thread.
pub struct Scratch {
    work: Workspace,
    cache: KvCache,
    /// Rows on their way through the linear layers.
    normed: Input,
    inner: Input,
    products: MappedVec<f32>,
}

impl Encoder {
    /// Loads a GGUF file, or the folder as it is published. `dim` is the length of the vectors, by default the width of the model;
    /// `prompts` stand in for the model's own.
    ///
    /// # Errors
    /// Names the file and what in it is missing, broken or of a kind that is not supported.
    pub fn load(path: &Path, dim: Option<usize>, prompts: Option<Prompts>) -> Result<Encoder, Error> {
        Encoder::read(path, dim, prompts).map_err(|error| error.at(path.display()))
    }

    fn read(path: &Path, dim: Option<usize>, prompts: Option<Prompts>) -> Result<Encoder, Error> {
        #[derive(Deserialize)]
        struct Limit {
            max_seq_length: Option<usize>,
        }
        let source = Source::open(path)?;
        if source.family != Family::Embedding {
            return Err(Error::new("the model makes text and no embeddings: load it without EMBEDDING"));
        }
        let limit = match &source.kind {
            Kind::Gguf(_) => None,
            Kind::Folder(folder) => folder.beside::<Limit>("sentence_bert_config.json")?.and_then(|l| l.max_seq_length),
        };
        let prompts = prompts.map_or_else(|| Prompts::read(&source), Ok)?;
        let model = Arc::new(Gemma::read(&source, path, &LoadOptions::default(), &Progress::default(), usize::MAX)?);
        let (tokenizer, width) = (model.tokenizer(), model.config().width);
        let (Some(bos), Some(eos)) = (tokenizer.bos(), tokenizer.eos()) else {
            return Err(Error::new("the tokenizer names no token that begins a text, or none that ends it"));
        };
        let dim = dim.unwrap_or(width);
        if dim != width && !sizes(width).any(|size| size == dim) {
            let accepted: Vec<String> = sizes(width).map(|size| size.to_string()).collect();
            let accepted = accepted.join(", ");
            return Err(Error::new(format!("vectors of {dim} numbers; accepted are {width}, cut to {accepted}")));
        }
        let prefix = |text: &str| tokenizer.encode(text.trim_end());
        let prefixes = [prefix(&prompts.document), prefix(&prompts.query)];
        let window = limit.unwrap_or(WINDOW).min(WINDOW).min(model.info().context);
        // A text has a place in every window that is larger than what surrounds it.
        let longest = prefixes.iter().map(Vec::len).fold(0, usize::max);
        if window < longest + 4 {
            return Err(Error::new(format!("a window of {window} tokens, of which a prompt takes {longest}")));
        }
        Ok(Encoder { prompts, prefixes, edges: [bos, eos], window, dim, model })
    }

    /// The length of the vectors.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The length of vectors that are not cut.
    pub fn width(&self) -> usize {
        self.model.config().width
    }

    /// How many tokens a window holds at most, prompt and edges included.
    pub fn window(&self) -> usize {
        self.window
    }

    /// What its texts begin with.
    pub fn prompt(&self, purpose: Purpose) -> &str {
        self.prompts.of(purpose)
    }

    /// The model below it.
    pub fn model(&self) -> &Gemma {
        &self.model
    }

    /// Buffers for one thread. They become resident as texts need them: those of the longest text that it encodes stay.
    ///
    /// # Errors
    /// The system gives no memory.
    pub fn scratch(&self) -> Result<Scratch, Error> {
        let [up, down] = self.projection();
        Ok(Scratch {
            work: Workspace::of(Arc::clone(&self.model), self.window, 0)?,
            cache: KvCache::new(Arc::clone(self.model.layout())),
            normed: Input::new(CHUNK, up.cols(), [up])?,
            inner: Input::new(CHUNK, down.cols(), [down])?,
            products: MappedVec::zeroed(CHUNK * up.rows().max(down.rows()))?,
        })
    }

    fn projection(&self) -> &[Matrix; 2] {
        // `Config` asks for the two layers of every model of this family.
        match self.model.projection() {
            Some(projection) => projection,
            None => unreachable!("an encoder without its linear layers is not loaded"),
        }
    }

    /// The bytes of a text that each of its tokens stands for, in order; the text alone, without a prompt.
    pub fn spans(&self, text: &str) -> Vec<Range<usize>> {
        let tokenizer = self.model.tokenizer();
        spans(tokenizer, text, &tokenizer.encode(text))
    }

    /// The windows of a text, at least one.
    pub fn windows(&self, text: &str, purpose: Purpose) -> Vec<Window> {
        let tokens = self.model.tokenizer().encode(&self.joined(text, purpose));
        self.cuts(&tokens, purpose).into_iter().map(|range| self.window_of(&tokens, range, purpose)).collect()
    }

    /// The same windows, and for each of their tokens the bytes of the text that it stands for; those of edges and prompts are
    /// empty ranges.
    pub fn windows_with_spans(&self, text: &str, purpose: Purpose) -> Vec<(Window, Vec<Range<usize>>)> {
        let joined = self.joined(text, purpose);
        let tokens = self.model.tokenizer().encode(&joined);
        let before = self.prompt(purpose).len();
        let mut spans = spans(self.model.tokenizer(), &joined, &tokens);
        for span in &mut spans {
            *span = span.start.saturating_sub(before)..span.end.saturating_sub(before);
        }
        let with_spans = self.cuts(&tokens, purpose).into_iter().map(|range| {
            let window = self.window_of(&tokens, range.clone(), purpose);
            let (start, end) = (spans[range.start].start, spans[range.end - 1].end);
            // What is in front of the text's own tokens, and the edge behind them.
            let front = window.0.len() - range.len() - 1;
            let mut of_window = vec![start..start; front];
            of_window.extend_from_slice(&spans[range]);
            of_window.push(end..end);
            (window, of_window)
        });
        with_spans.collect()
    }

    fn joined(&self, text: &str, purpose: Purpose) -> String {
        [self.prompt(purpose), text].concat()
    }

    fn prefix(&self, purpose: Purpose) -> &[u32] {
        let [document, query] = &self.prefixes;
        match purpose {
            Purpose::Document => document,
            Purpose::Query => query,
        }
    }

    fn window_of(&self, tokens: &[u32], range: Range<usize>, purpose: Purpose) -> Window {
        let prefix = if range.start == 0 { &[] } else { self.prefix(purpose) };
        let [bos, eos] = self.edges;
        Window([&[bos], prefix, &tokens[range], &[eos]].concat())
    }

    /// Where the windows of a text that begins with its prompt begin and end: at least one, none empty but that of no tokens.
    fn cuts(&self, tokens: &[u32], purpose: Purpose) -> Vec<Range<usize>> {
        let (tokenizer, room) = (self.model.tokenizer(), self.window - self.edges.len());
        let begins_word = |id: u32| tokenizer.piece(id).is_some_and(|piece| piece.starts_with([SPACE, '\n']));
        let (mut cuts, mut start) = (Vec::new(), 0);
        loop {
            // The first window has the prompt among its tokens; it holds some of the text in any case.
            let front = self.prefix(purpose).len();
            let (most, least) = if start == 0 { (room, front + 1) } else { (room - front, 1) };
            let rest = &tokens[start..];
            if rest.len() <= most {
                cuts.push(start..tokens.len());
                return cuts;
            }
            let length = (least..=most).rev().find(|at| begins_word(rest[*at])).unwrap_or(most);
            cuts.push(start..start + length);
            start += length;
        }
    }

    /// The vector of a window, of length [`dim`](Self::dim) and norm 1, and where they are wanted those of its tokens.
    ///
    /// # Errors
    /// The system gives no memory, or the window was made by another encoder.
    pub fn encode(&self, window: &Window, tokens: bool, scratch: &mut Scratch) -> Result<Encoded, Error> {
        let (k, config, gain) = (kernels(), self.model.config(), self.model.output_norm());
        let vocabulary = self.model.embedding().rows();
        if window.0.len() > self.window || window.0.iter().any(|id| *id as usize >= vocabulary) {
            return Err(Error::new(format!(
                "a window to encode was not made by this encoder, {}",
                self.model.info().name
            )));
        }
        let Scratch { work, cache, normed, inner, products } = scratch;
        let rows = work.whole(&window.0, cache)?;
        let (mut mean, mut one) = (vec![0.0; config.width], vec![0.0; config.width]);
        let count = rows.len() / config.width;
        for row in rows.chunks_exact_mut(config.width) {
            k.rms_norm(row, gain, config.epsilon, &mut one);
            row.copy_from_slice(&one);
            k.add(&mut mean, row);
        }
        k.scale(&mut mean, 1.0 / count as f32);
        // The first `dim` numbers of what the linear layers make of rows.
        let mut project = |rows: &[f32]| {
            let mut all = Vec::with_capacity(rows.len() / config.width * self.dim);
            let [up, down] = self.projection();
            for rows in rows.chunks(CHUNK * config.width) {
                let count = rows.len() / config.width;
                for (matrix, input) in [(up, &mut *normed), (down, &mut *inner)] {
                    input.reset(count, matrix.cols());
                    let from: &[f32] = if std::ptr::eq(matrix, up) { rows } else { products };
                    from.chunks_exact(matrix.cols()).take(count).enumerate().for_each(|(i, row)| input.set(i, row));
                    // SAFETY: `products` has room for a chunk of rows of either layer, and is borrowed here alone.
                    unsafe { matrix.multiply(0..matrix.rows(), input, products.as_mut_ptr(), matrix.rows()) };
                }
                all.extend(products.chunks_exact(down.rows()).take(count).flat_map(|row| &row[..self.dim]));
            }
            all
        };
        let mut vector = project(&mean);
        let length = k.sum_of_squares(&vector).sqrt();
        k.scale(&mut vector, 1.0 / length.max(1e-12));
        Ok(Encoded { vector, tokens: if tokens { project(rows) } else { Vec::new() } })
    }
}

/// The lengths that vectors of this width may be cut to, the largest first.
fn sizes(width: usize) -> impl Iterator<Item = usize> {
    (0..usize::BITS).rev().map(|bit| 1 << bit).filter(move |size| *size < width && size * SMALLEST >= width)
}

/// The bytes of a text that each of its tokens stands for, in order.
fn spans(tokenizer: &Tokenizer, text: &str, tokens: &[u32]) -> Vec<Range<usize>> {
    let mut at = 0;
    let span = |id: &u32| {
        let start = at;
        match tokenizer.kind(*id) {
            Some(PieceKind::Byte) => at += 1,
            // It stands for one character that no piece covers.
            Some(PieceKind::Unknown) | None => {
                at += text.get(at..).and_then(|r| r.chars().next()).map_or(0, char::len_utf8)
            }
            Some(_) => {
                for c in tokenizer.piece(*id).unwrap_or_default().chars() {
                    let is_space = c == SPACE && text.as_bytes().get(at) == Some(&b' ');
                    at += if is_space { 1 } else { c.len_utf8() };
                }
            }
        }
        at = at.min(text.len());
        start..at
    };
    tokens.iter().map(span).collect()
}

#[cfg(test)]
mod tests;
