//! Sentence embeddings with BERT encoders, all-MiniLM-L6-v2 in the first place.
//!
//! A text becomes one or more windows of tokens, a window becomes one vector. A text longer than the model's window gets
//! several, cut where words begin, instead of being truncated: nothing of it is lost.
//!
//! **Forward pass.** Windows are computed together as the rows of one matrix, as many as fit into the length of the
//! longest possible window, because weights that are read once then serve all of them. Rows meet only in attention, which
//! runs window by window, and no kernel's order depends on the number of rows, so a window's vector has the same bits
//! whatever is encoded beside it; there is no padding and no mask. The scores of a head are computed as a weighted sum of
//! the rows of the transposed keys: the dot products are only a head wide (32 numbers here), so that summing up their
//! lanes would cost more than the products.
//!
//! **Memory.** The linear layers are copied once into mappings of their own, with query, key and value as one matrix; the
//! table of words stays in the mapped file, of which a text touches a few rows. Activations live in a [`Scratch`] that is
//! used again and again.
//!
//! Rejected: candle's BERT (its products depend on the batch, it copies all weights into the process allocator and runs
//! thread pools of its own), padding to a common length (a batch of one short and one long text costs twice the long one).

use crate::Error;
use crate::kernels::{Kernels, Strided, kernels};
use crate::memory::MappedVec;
use crate::product::Matrix;
use linear::Linear;
use std::path::Path;

mod folder;
mod linear;
#[cfg(test)]
mod tests;

/// Rows that go through the feed-forward part at once, so that its inner activations stay in the cache.
const CHUNK: usize = 64;
/// The weighted sums run over this many columns at a time at full speed; scores are padded to it.
const COLUMNS: usize = 32;

/// A sentence encoder: weights and tokenizer, immutable. Share it between threads; each thread brings its own [`Scratch`].
pub struct Encoder {
    name: String,
    shape: Shape,
    tokenizer: tokenizers::Tokenizer,
    /// Whether the piece with this id continues a word.
    continues: Vec<bool>,
    /// The tokens that open and close every window.
    edges: [u32; 2],
    pooling: Pooling,
    normalize: bool,
    words: Matrix,
    /// A row for each position, the embedding of the first token type added to it.
    positions: MappedVec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
}

/// The sizes of a model.
#[derive(Clone, Copy)]
struct Shape {
    width: usize,
    heads: usize,
    inner: usize,
    layers: usize,
    vocabulary: usize,
    positions: usize,
    /// Tokens of the longest window, its two edges included.
    window: usize,
    epsilon: f32,
}

/// How the vectors of a window's tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pooling {
    Mean,
    /// The vector of the first token.
    First,
}

struct Norm {
    gain: MappedVec<f32>,
    offset: MappedVec<f32>,
}

struct Layer {
    /// Query, key and value, one after the other.
    qkv: Linear,
    output: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    norm: Norm,
}

/// What a text becomes before it is encoded: at most [`Encoder::window`] tokens, all in the vocabulary of the encoder that
/// made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window(Vec<u32>);

impl Window {
    /// The token ids, the opening and the closing one included.
    pub fn tokens(&self) -> &[u32] {
        &self.0
    }
}

/// What is known about a loaded encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncoderInfo {
    /// The name of its folder.
    pub name: String,
    /// The length of its vectors.
    pub dim: usize,
    /// Tokens of the longest window, its two edges included.
    pub window: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Pieces in the vocabulary.
    pub vocabulary: usize,
    /// Bytes of weights in memory of our own; the table of words, which stays in the mapped file, is not counted.
    pub mapped_bytes: u64,
    /// Bytes of the table of words in the mapped file.
    pub file_bytes: u64,
}

/// The activations of one thread. Grows to what the largest encoder that used it needs, then stays.
#[derive(Default)]
pub struct Scratch {
    parts: Option<Activations>,
}

struct Activations {
    /// What `parts` was made for.
    sizes: [usize; 6],
    hidden: MappedVec<f32>,
    qkv: MappedVec<f32>,
    context: MappedVec<f32>,
    update: MappedVec<f32>,
    inner: MappedVec<f32>,
    keys: MappedVec<f32>,
    scores: MappedVec<f32>,
}

impl Scratch {
    fn for_encoder(&mut self, encoder: &Encoder) -> Result<&mut Activations, Error> {
        let Shape { width, heads, inner, window, .. } = encoder.shape;
        let padded = window.next_multiple_of(COLUMNS);
        let mut sizes = [
            window * width,
            window * width * 3,
            window * width,
            CHUNK * inner,
            width / heads * padded,
            window * padded,
        ];
        if let Some(parts) = &self.parts {
            for (size, have) in sizes.iter_mut().zip(parts.sizes) {
                *size = have.max(*size);
            }
        }
        let enough = self.parts.take().filter(|parts| parts.sizes == sizes);
        let parts = match enough {
            Some(parts) => parts,
            None => Activations {
                sizes,
                hidden: MappedVec::zeroed(sizes[0])?,
                qkv: MappedVec::zeroed(sizes[1])?,
                context: MappedVec::zeroed(sizes[2])?,
                update: MappedVec::zeroed(sizes[2])?,
                inner: MappedVec::zeroed(sizes[3])?,
                keys: MappedVec::zeroed(sizes[4])?,
                scores: MappedVec::zeroed(sizes[5])?,
            },
        };
        Ok(self.parts.insert(parts))
    }
}

impl Encoder {
    /// Loads a sentence-transformers folder: `modules.json`, `config.json`, `tokenizer.json`, `model.safetensors` and the
    /// pooling's configuration.
    ///
    /// # Errors
    /// Names the file and what in it is missing, broken or of a kind that is not supported.
    pub fn load(dir: &Path) -> Result<Encoder, Error> {
        folder::load(dir).map_err(|error| error.at(dir.display()))
    }

    /// The name of the model: that of its folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The length of the vectors.
    pub fn dim(&self) -> usize {
        self.shape.width
    }

    /// How many tokens a window holds at most, its two edges included.
    pub fn window(&self) -> usize {
        self.shape.window
    }

    /// Figures about the model.
    pub fn info(&self) -> EncoderInfo {
        let Shape { width, layers, vocabulary, window, .. } = self.shape;
        let norm = |norm: &Norm| norm.gain.bytes() + norm.offset.bytes();
        let weights = self.layers.iter().map(|layer| {
            let Layer { qkv, output, attention_norm, up, down, norm: last } = layer;
            [qkv, output, up, down].map(Linear::bytes).iter().sum::<u64>() + norm(attention_norm) + norm(last)
        });
        EncoderInfo {
            name: self.name.clone(),
            dim: width,
            window,
            layers,
            vocabulary,
            mapped_bytes: weights.sum::<u64>() + norm(&self.norm) + self.positions.bytes(),
            file_bytes: self.words.bytes() as u64,
        }
    }

    /// The tokens of a text, all of them, without the edges of a window.
    pub fn tokens(&self, text: &str) -> Vec<u32> {
        // Encoding fails only for models that can fail on a word; `load` accepts WordPiece with an unknown piece alone.
        self.tokenizer.encode_fast(text, false).map(|encoding| encoding.get_ids().to_vec()).unwrap_or_default()
    }

    /// The windows of a text: one if it fits, else consecutive ones, cut before a piece that begins a word unless a single
    /// word fills the window. An empty text has one window, of the edges alone.
    pub fn windows(&self, text: &str) -> Vec<Window> {
        let tokens = self.tokens(text);
        let most = self.shape.window - self.edges.len();
        let mut windows = Vec::with_capacity(tokens.len() / most + 1);
        let mut rest = tokens.as_slice();
        loop {
            let begins_word = |at: &usize| !self.continues.get(rest[*at] as usize).is_some_and(|continues| *continues);
            let cut = match rest.len() <= most {
                true => rest.len(),
                false => (1..=most).rev().find(begins_word).unwrap_or(most),
            };
            let (first, after) = rest.split_at(cut);
            let mut window = Vec::with_capacity(first.len() + self.edges.len());
            window.push(self.edges[0]);
            window.extend_from_slice(first);
            window.push(self.edges[1]);
            windows.push(Window(window));
            rest = after;
            if rest.is_empty() {
                return windows;
            }
        }
    }

    /// One vector per window, of length [`dim`](Self::dim) and, if the model says so, norm 1. The bits of a vector do not
    /// depend on the windows beside it.
    ///
    /// # Errors
    /// The system gives no memory for the activations (only possible when `scratch` is first used with this encoder), or
    /// a window was made by an encoder with a larger window or vocabulary.
    pub fn encode(&self, windows: &[Window], scratch: &mut Scratch) -> Result<Vec<Vec<f32>>, Error> {
        let Shape { window: most, vocabulary, .. } = self.shape;
        if windows.iter().any(|w| w.0.len() > most || w.0.iter().any(|id| *id as usize >= vocabulary)) {
            return Err(Error::new(format!("a window to encode was not made by this encoder, {}", self.name)));
        }
        let parts = scratch.for_encoder(self)?;
        let mut vectors = Vec::with_capacity(windows.len());
        let mut rest = windows;
        while !rest.is_empty() {
            let mut rows = 0;
            let fit = rest.iter().take_while(|window| {
                rows += window.0.len();
                rows <= most
            });
            let (batch, after) = rest.split_at(fit.count());
            self.forward(batch, parts);
            let mut start = 0;
            for window in batch {
                let end = start + window.0.len();
                vectors.push(self.pool(&parts.hidden[start * self.shape.width..end * self.shape.width]));
                start = end;
            }
            rest = after;
        }
        Ok(vectors)
    }

    /// Fills `parts.hidden` with the last layer's row for each token of the windows, one after the other.
    fn forward(&self, batch: &[Window], parts: &mut Activations) {
        let Shape { width, inner, epsilon, .. } = self.shape;
        let kernels = kernels();
        let tokens = batch.iter().flat_map(|window| window.0.iter().zip(self.positions.chunks_exact(width)));
        let mut rows = 0;
        for (row, (id, position)) in parts.hidden.chunks_exact_mut(width).zip(tokens) {
            // Always there: `encode` has checked the id.
            let _ = self.words.row(*id as usize, row);
            kernels.add(row, position);
            kernels.layer_norm(row, &self.norm.gain, &self.norm.offset, epsilon);
            rows += 1;
        }
        for layer in &self.layers {
            layer.qkv.apply(kernels, &parts.hidden, rows, &mut parts.qkv);
            let mut start = 0;
            for window in batch {
                self.attend(kernels, start, window.0.len(), parts);
                start += window.0.len();
            }
            for start in (0..rows).step_by(CHUNK) {
                let count = CHUNK.min(rows - start);
                let hidden = &mut parts.hidden[start * width..(start + count) * width];
                let update = &mut parts.update[..count * width];
                layer.output.apply(kernels, &parts.context[start * width..], count, update);
                layer.attention_norm.apply_sum(kernels, hidden, update, epsilon);
                layer.up.apply(kernels, hidden, count, &mut parts.inner);
                kernels.gelu_erf(&mut parts.inner[..count * inner]);
                layer.down.apply(kernels, &parts.inner, count, update);
                layer.norm.apply_sum(kernels, hidden, update, epsilon);
            }
        }
    }

    /// Attention of the window whose rows are `start..start + count`, from `parts.qkv` to `parts.context`.
    fn attend(&self, kernels: &Kernels, start: usize, count: usize, parts: &mut Activations) {
        let Shape { width, heads, .. } = self.shape;
        let head = width / heads;
        let (stride, padded) = (3 * width, count.next_multiple_of(COLUMNS));
        let scale = 1.0 / (head as f32).sqrt();
        parts.context[start * width..(start + count) * width].fill(0.0);
        for at in (0..width).step_by(head) {
            let part =
                |which: usize| Strided { data: &parts.qkv[start * stride + which * width + at..], stride, rows: count };
            let keys = &mut parts.keys[..head * padded];
            keys.fill(0.0);
            for (token, key) in part(1).data.chunks(stride).take(count).enumerate() {
                for (column, value) in keys[token..].iter_mut().step_by(padded).zip(&key[..head]) {
                    *column = *value;
                }
            }
            let scores = &mut parts.scores[..count * padded];
            scores.fill(0.0);
            let keys = Strided { data: keys, stride: padded, rows: head };
            kernels.mix_rows(part(0), keys, padded, scores, padded);
            for row in scores.chunks_exact_mut(padded) {
                kernels.softmax(&mut row[..count], scale);
            }
            let weights = Strided { data: scores, stride: padded, rows: count };
            kernels.mix_rows(weights, part(2), head, &mut parts.context[start * width + at..], width);
        }
    }

    /// The vector of a window from its rows.
    fn pool(&self, rows: &[f32]) -> Vec<f32> {
        let (kernels, width) = (kernels(), self.shape.width);
        let (first, others) = rows.split_at(width);
        let mut vector = first.to_vec();
        if self.pooling == Pooling::Mean {
            for row in others.chunks_exact(width) {
                kernels.add(&mut vector, row);
            }
            kernels.scale(&mut vector, 1.0 / (rows.len() / width) as f32);
        }
        if self.normalize {
            let length = kernels.sum_of_squares(&vector).sqrt();
            kernels.scale(&mut vector, 1.0 / length.max(1e-12));
        }
        vector
    }
}

impl Norm {
    /// `x = norm(x + y)`, row by row.
    fn apply_sum(&self, kernels: &Kernels, x: &mut [f32], y: &[f32], epsilon: f32) {
        kernels.add(x, y);
        for row in x.chunks_exact_mut(self.gain.len()) {
            kernels.layer_norm(row, &self.gain, &self.offset, epsilon);
        }
    }
}
