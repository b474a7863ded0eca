//! Sentence embeddings with BERT encoders, all-MiniLM-L6-v2 in the first place.
//!
//! A text becomes one or more windows of tokens, a window becomes one vector. A text longer than the model's window gets
//! several, cut where words begin, instead of being truncated: nothing of it is lost.
//!
//! **Forward pass.** Windows are computed together as the rows of one matrix, as many as fit into the length of the
//! longest possible window. Rows meet only in attention, which runs window by window, and no kernel's order depends on the
//! number of rows, so a window's vector has the same bits whatever is encoded beside it; there is no padding and no mask.
//! Every product is one of rows of cells with panels, and ends in what comes next (`kernels::cells`): query, key and value
//! are one product; bias and GELU, or bias and residual, are applied to sums that are still in the first-level cache. In
//! attention the keys of a head are the columns of one product and its values those of another, some rows at a time,
//! so that no matrix of all scores exists.
//!
//! **Precision.** Where the CPU multiplies bf16, products run in it, unless f32 is asked for. On the golden texts the cosine
//! to PyTorch's f32 is 0.99995 at worst (0.99998 on average), on 600 texts of conversations 0.99997 at worst, and a
//! similarity of two texts moves by 0.0005 (root of the mean square; 0.003 at most). That is less than what two texts that
//! say the same differ by, so vectors of either precision are compared with each other, and the model's name does not tell
//! them apart. Rejected: integer products of 8 bits, for their loss (onnxruntime's: cosine 0.97 at worst).
//!
//! **Batches.** Texts of several clients do not wait for each other to be encoded in one call: eight tokens fill the tallest
//! tile, which makes a text of that length nearly as busy with multiplying as a long one. 32 windows of 8 tokens take 0.92 ms
//! each at once and 1.00 ms one by one (bf16; 1.8 and 2.2 ms in f32, which waits for memory more). So each text belongs to one
//! thread, and nothing gathers them.
//!
//! **Memory.** The linear layers are copied once into mappings of their own, in panels; the table of words stays in the
//! mapped file, of which a text touches a few rows. Activations live in a [`Scratch`] that is used again and again.
//!
//! Rejected: candle's BERT (its products depend on the batch, it copies all weights into the process allocator and runs
//! thread pools of its own), padding to a common length (a batch of one short and one long text costs twice the long one).

use crate::Error;
use crate::kernels::{EncoderKernels, Finish, Panels, Strided, for_encoders, kernels as row_kernels, padded, place};
use crate::memory::MappedVec;
use crate::product::Matrix;
use linear::Linear;
use std::ops::Range;
use std::path::Path;

mod folder;
mod linear;
#[cfg(test)]
mod tests;

/// Rows that go through the feed-forward part at once, so that its inner activations stay in the cache.
const CHUNK: usize = 64;
/// Queries whose scores are in memory at once: they stay in the first-level cache between their three uses.
const QUERIES: usize = 16;

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
    kernels: &'static EncoderKernels,
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

/// In which numbers an encoder multiplies. Everything between two products is f32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// [`Bf16`](Precision::Bf16) where the CPU multiplies it, else [`F32`](Precision::F32).
    #[default]
    Auto,
    /// 32 bits.
    F32,
    /// The upper 16 bits of an f32: twice as fast, half the memory.
    Bf16,
}

impl Precision {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Auto => "auto",
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        }
    }

    /// The best kernels for a model of this shape. Cells of two need an even number of inputs everywhere.
    fn kernels(self, shape: Shape) -> Result<&'static EncoderKernels, Error> {
        let even = (shape.width / shape.heads).is_multiple_of(2) && shape.inner.is_multiple_of(2);
        let fits = |kernels: &&EncoderKernels| match (kernels.per_cell, self) {
            (1, Precision::Bf16) | (2, Precision::F32) => false,
            (per_cell, _) => per_cell == 1 || even,
        };
        let best = for_encoders().into_iter().find(fits);
        best.ok_or_else(|| Error::new("this CPU, or the shape of this model, does not allow products in bf16"))
    }
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
pub struct Window(pub(crate) Vec<u32>);

impl Window {
    /// The token ids, the opening and the closing one included.
    pub fn tokens(&self) -> &[u32] {
        &self.0
    }
}

/// What a window becomes when its tokens are asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// The vector of the whole window, as [`Encoder::encode`] gives it.
    pub vector: Vec<f32>,
    /// The vectors of the window's tokens, one after the other, its two edges included: as many as
    /// [`Window::tokens`] has, each of length [`Encoder::dim`], of any norm.
    pub tokens: Vec<f32>,
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
    /// In what it multiplies: [`Precision::F32`] or [`Precision::Bf16`].
    pub precision: Precision,
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
    /// What the parts were made for.
    sizes: [usize; 8],
    hidden: MappedVec<f32>,
    input: MappedVec<u32>,
    qkv: MappedVec<u32>,
    context: MappedVec<u32>,
    inner: MappedVec<u32>,
    keys: MappedVec<u32>,
    values: MappedVec<u32>,
    scores: MappedVec<f32>,
    weights: MappedVec<u32>,
}

impl Scratch {
    fn for_encoder(&mut self, encoder: &Encoder) -> Result<&mut Activations, Error> {
        let Shape { width, heads, inner, window, .. } = encoder.shape;
        let (cells, head) = (width / encoder.kernels.per_cell, width / heads);
        let mut sizes = [
            window * width,
            window * cells,
            3 * window * cells,
            window * cells,
            CHUNK * inner / encoder.kernels.per_cell,
            padded(window) * head / encoder.kernels.per_cell,
            padded(head) * window.div_ceil(encoder.kernels.per_cell),
            QUERIES * padded(window),
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
                input: MappedVec::zeroed(sizes[1])?,
                qkv: MappedVec::zeroed(sizes[2])?,
                context: MappedVec::zeroed(sizes[3])?,
                inner: MappedVec::zeroed(sizes[4])?,
                keys: MappedVec::zeroed(sizes[5])?,
                values: MappedVec::zeroed(sizes[6])?,
                scores: MappedVec::zeroed(sizes[7])?,
                weights: MappedVec::zeroed(sizes[7])?,
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
        Encoder::load_as(dir, Precision::Auto)
    }

    /// The same in a given precision.
    ///
    /// # Errors
    /// As [`load`](Self::load), and when the CPU does not multiply bf16 and nothing else is accepted.
    pub fn load_as(dir: &Path, precision: Precision) -> Result<Encoder, Error> {
        folder::load(dir, precision).map_err(|error| error.at(dir.display()))
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
            precision: if self.kernels.per_cell == 2 { Precision::Bf16 } else { Precision::F32 },
            mapped_bytes: weights.sum::<u64>() + norm(&self.norm) + self.positions.bytes(),
            file_bytes: self.words.bytes() as u64,
        }
    }

    /// The tokens of a text, all of them, without the edges of a window.
    pub fn tokens(&self, text: &str) -> Vec<u32> {
        // Encoding fails only for models that can fail on a word; `load` accepts WordPiece with an unknown piece alone.
        self.tokenizer.encode_fast(text, false).map(|encoding| encoding.get_ids().to_vec()).unwrap_or_default()
    }

    /// The bytes of a text that each of its [`tokens`](Self::tokens) stands for, in order.
    pub fn spans(&self, text: &str) -> Vec<Range<usize>> {
        // See `tokens`.
        let Ok(encoding) = self.tokenizer.encode(text, false) else { return Vec::new() };
        encoding.get_offsets().iter().map(|(start, end)| *start..*end).collect()
    }

    /// The windows of a text: one if it fits, else consecutive ones, cut before a piece that begins a word unless a single
    /// word fills the window. An empty text has one window, of the edges alone.
    pub fn windows(&self, text: &str) -> Vec<Window> {
        let tokens = self.tokens(text);
        self.cuts(&tokens).map(|range| self.window_of(&tokens[range])).collect()
    }

    /// The same windows, and for each of their tokens the bytes of the text that it stands for. The edges stand for none:
    /// their ranges are empty. Keeping track of the bytes takes time that [`windows`](Self::windows) saves.
    pub fn windows_with_spans(&self, text: &str) -> Vec<(Window, Vec<Range<usize>>)> {
        // See `tokens`.
        let Ok(encoding) = self.tokenizer.encode(text, false) else { return Vec::new() };
        let (tokens, offsets) = (encoding.get_ids(), encoding.get_offsets());
        let with_spans = self.cuts(tokens).map(|range| {
            let of_window = &offsets[range.clone()];
            let (start, end) = (of_window.first().map_or(0, |span| span.0), of_window.last().map_or(0, |span| span.1));
            let inner = of_window.iter().map(|(start, end)| *start..*end);
            let spans = std::iter::once(start..start).chain(inner).chain(std::iter::once(end..end)).collect();
            (self.window_of(&tokens[range]), spans)
        });
        with_spans.collect()
    }

    fn window_of(&self, tokens: &[u32]) -> Window {
        Window([&self.edges[..1], tokens, &self.edges[1..]].concat())
    }

    /// Where the windows of a text begin and end; at least one.
    fn cuts(&self, tokens: &[u32]) -> impl Iterator<Item = Range<usize>> {
        let most = self.shape.window - self.edges.len();
        let begins_word = |id: u32| !self.continues.get(id as usize).is_some_and(|continues| *continues);
        let mut next = Some(0);
        std::iter::from_fn(move || {
            let start = next?;
            let rest = &tokens[start..];
            let length = match rest.len() <= most {
                true => rest.len(),
                false => (1..=most).rev().find(|at| begins_word(rest[*at])).unwrap_or(most),
            };
            next = (length < rest.len()).then_some(start + length);
            Some(start..start + length)
        })
    }

    /// One vector per window, of length [`dim`](Self::dim) and, if the model says so, norm 1. The bits of a vector do not
    /// depend on the windows beside it.
    ///
    /// # Errors
    /// The system gives no memory for the activations (only possible when `scratch` is first used with this encoder), or
    /// a window was made by an encoder with a larger window or vocabulary.
    pub fn encode(&self, windows: &[Window], scratch: &mut Scratch) -> Result<Vec<Vec<f32>>, Error> {
        let mut vectors = Vec::with_capacity(windows.len());
        self.each(windows, scratch, |rows| vectors.push(self.pool(rows)))?;
        Ok(vectors)
    }

    /// The same vectors, and beside each what it was made from: the last layer's vector of every token.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_with_tokens(&self, windows: &[Window], scratch: &mut Scratch) -> Result<Vec<Encoded>, Error> {
        let mut all = Vec::with_capacity(windows.len());
        self.each(windows, scratch, |rows| all.push(Encoded { vector: self.pool(rows), tokens: rows.to_vec() }))?;
        Ok(all)
    }

    /// Calls `take` with the rows of each window.
    fn each(&self, windows: &[Window], scratch: &mut Scratch, mut take: impl FnMut(&[f32])) -> Result<(), Error> {
        let Shape { width, window: most, vocabulary, .. } = self.shape;
        if windows.iter().any(|w| w.0.len() > most || w.0.iter().any(|id| *id as usize >= vocabulary)) {
            return Err(Error::new(format!("a window to encode was not made by this encoder, {}", self.name)));
        }
        let parts = scratch.for_encoder(self)?;
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
                take(&parts.hidden[start * width..end * width]);
                start = end;
            }
            rest = after;
        }
        Ok(())
    }

    /// Fills `parts.hidden` with the last layer's row for each token of the windows, one after the other.
    fn forward(&self, batch: &[Window], parts: &mut Activations) {
        let Shape { width, inner, epsilon, .. } = self.shape;
        let kernels = self.kernels;
        let (cells, inner_cells) = (width / kernels.per_cell, inner / kernels.per_cell);
        let tokens = batch.iter().flat_map(|window| window.0.iter().zip(self.positions.chunks_exact(width)));
        let rows_of = parts.hidden.chunks_exact_mut(width).zip(parts.input.chunks_exact_mut(cells));
        let mut rows = 0;
        for ((row, cells), (id, position)) in rows_of.zip(tokens) {
            // Always there: `encode` has checked the id.
            let _ = self.words.row(*id as usize, row);
            row_kernels().add(row, position);
            self.norm.apply(kernels, row, epsilon, cells);
            rows += 1;
        }
        for layer in &self.layers {
            layer.qkv.apply(kernels, &parts.input, rows, &mut parts.qkv);
            let mut start = 0;
            for window in batch {
                self.attend(start, window.0.len(), parts);
                start += window.0.len();
            }
            for start in (0..rows).step_by(CHUNK) {
                let count = CHUNK.min(rows - start);
                let hidden = &mut parts.hidden[start * width..(start + count) * width];
                let input = &mut parts.input[start * cells..(start + count) * cells];
                layer.output.add(kernels, &parts.context[start * cells..], count, hidden);
                layer.attention_norm.apply(kernels, hidden, epsilon, input);
                layer.up.apply_gelu(kernels, input, count, &mut parts.inner[..count * inner_cells]);
                layer.down.add(kernels, &parts.inner, count, hidden);
                layer.norm.apply(kernels, hidden, epsilon, input);
            }
        }
    }

    /// Attention of the window whose rows are `start..start + count`, from `parts.qkv` to `parts.context`.
    fn attend(&self, start: usize, count: usize, parts: &mut Activations) {
        let Shape { width, heads, .. } = self.shape;
        let kernels = self.kernels;
        let head = width / heads;
        let (cells, inputs, groups) =
            (width / kernels.per_cell, head / kernels.per_cell, count.div_ceil(kernels.per_cell));
        let stride = 3 * cells;
        let tokens = padded(count);
        let rows =
            |which: usize, at: usize| parts.qkv[start * stride + which * cells + at..].chunks(stride).take(count);
        for at in (0..cells).step_by(inputs) {
            // The scores are products with the keys as columns.
            for (token, key) in rows(1, at).enumerate() {
                for (input, cell) in key[..inputs].iter().enumerate() {
                    parts.keys[place(token, input, count, inputs)] = *cell;
                }
            }
            let keys = Panels { cells: &parts.keys, inputs, columns: count };
            // The context is the product of the weights with the values, a column for each number of the head.
            let mut values = rows(2, at);
            for group in 0..groups {
                let (first, second) =
                    (values.next().unwrap_or_default(), if kernels.per_cell == 2 { values.next() } else { None });
                for (input, cell) in first[..inputs].iter().enumerate() {
                    match kernels.per_cell {
                        1 => parts.values[place(input, group, head, groups)] = *cell,
                        _ => {
                            let other = second.map_or(0, |row| row[input]);
                            parts.values[place(2 * input, group, head, groups)] = (*cell & 0xffff) | (other << 16);
                            parts.values[place(2 * input + 1, group, head, groups)] =
                                (*cell >> 16) | (other & 0xffff_0000);
                        }
                    }
                }
            }
            let values = Panels { cells: &parts.values, inputs: groups, columns: head };
            for block in (0..count).step_by(QUERIES) {
                let rows = QUERIES.min(count - block);
                let x = Strided { data: &parts.qkv[(start + block) * stride + at..], stride, rows };
                let scores = &mut parts.scores[..rows * tokens];
                kernels.product(x, keys, Finish::Store { y: scores, stride: tokens });
                let weights = &mut parts.weights[..rows * tokens];
                let mut factors = [0.0; QUERIES];
                for ((scores, weights), factor) in
                    scores.chunks_exact_mut(tokens).zip(weights.chunks_exact_mut(tokens)).zip(&mut factors)
                {
                    *factor = kernels.weigh(scores, count, weights);
                }
                let x = Strided { data: weights, stride: tokens, rows };
                let context = &mut parts.context[(start + block) * cells + at..];
                kernels.product(x, values, Finish::Scale { factors: &factors, y: context, stride: cells });
            }
        }
    }

    /// The vector of a window from its rows.
    fn pool(&self, rows: &[f32]) -> Vec<f32> {
        let (kernels, width) = (row_kernels(), self.shape.width);
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
    /// Each row of `x` becomes its norm, in place and as cells.
    fn apply(&self, kernels: &EncoderKernels, x: &mut [f32], epsilon: f32, cells: &mut [u32]) {
        let width = self.gain.len();
        for (row, cells) in x.chunks_exact_mut(width).zip(cells.chunks_exact_mut(width / kernels.per_cell)) {
            kernels.norm(row, &self.gain, &self.offset, epsilon, cells);
        }
    }
}
