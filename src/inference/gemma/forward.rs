//! The forward pass: tokens appended to a sequence, logits of the last or of every one.
//!
//! Everything that touches a position depends on that position and earlier ones alone, through kernels with one fixed order
//! ([`crate::kernels`]): however the tokens are cut into calls, the logits are the same to the bit.

use std::sync::Arc;

use super::config::Rope;
use super::kv::{KvCache, PAGE, Part};
use super::{CHUNK, Gemma, Layer};
use crate::Error;
use crate::kernels::{Kernels, Strided, kernels};
use crate::memory::MappedVec;

/// One text under a model: its keys and values, and the scratch to extend it.
pub struct Sequence {
    model: Arc<Gemma>,
    cache: KvCache,
    capacity: usize,
    len: usize,
    work: Work,
}

/// Activations for one chunk, each `CHUNK` rows.
struct Work {
    x: MappedVec<f32>,
    normed: MappedVec<f32>,
    q: MappedVec<f32>,
    k: MappedVec<f32>,
    v: MappedVec<f32>,
    mixed: MappedVec<f32>,
    gate: MappedVec<f32>,
    up: MappedVec<f32>,
    head: MappedVec<f32>,
    scores: MappedVec<f32>,
    logits: MappedVec<f32>,
    scratch: MappedVec<f32>,
    /// Cosines and sines per chunk row, of the local and the global layers.
    turns: [Turns; 2],
}

struct Turns {
    frequencies: MappedVec<f32>,
    cos: MappedVec<f32>,
    sin: MappedVec<f32>,
}

impl Turns {
    /// Frequencies `base^(−2j / head_dim) / factor`, in f32 as the reference has them.
    fn new(rope: Rope, head_dim: usize) -> Result<Turns, Error> {
        let half = head_dim / 2;
        let mut frequencies = MappedVec::zeroed(half)?;
        for (j, f) in frequencies.iter_mut().enumerate() {
            *f = (rope.base.powf(-2.0 * j as f64 / head_dim as f64) / rope.factor) as f32;
        }
        Ok(Turns { frequencies, cos: MappedVec::zeroed(CHUNK * half)?, sin: MappedVec::zeroed(CHUNK * half)? })
    }

    fn set(&mut self, row: usize, position: usize) {
        let half = self.frequencies.len();
        for (j, f) in self.frequencies.iter().enumerate() {
            let angle = position as f32 * f;
            self.cos[row * half + j] = angle.cos();
            self.sin[row * half + j] = angle.sin();
        }
    }

    /// Rotates the pairs `(j, j + half)` of one head.
    fn turn(&self, row: usize, head: &mut [f32]) {
        let half = self.frequencies.len();
        let (a, b) = head.split_at_mut(half);
        let angles = self.cos[row * half..].iter().zip(&self.sin[row * half..]);
        for ((a, b), (&cos, &sin)) in a.iter_mut().zip(b).zip(angles) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

impl Sequence {
    /// An empty sequence that can grow to `capacity` tokens, at most the model's context. Keys and values are allocated as
    /// it grows.
    pub fn new(model: Arc<Gemma>, capacity: usize) -> Result<Sequence, Error> {
        let context = model.info().context;
        if capacity == 0 || capacity > context {
            return Err(Error::new(format!("a sequence of {capacity} tokens does not fit a context of {context}")));
        }
        let c = model.config();
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let rows = |width: usize| MappedVec::zeroed(CHUNK * width);
        let work = Work {
            x: rows(c.width)?,
            normed: rows(c.width)?,
            q: rows(q)?,
            k: rows(kv)?,
            v: rows(kv)?,
            mixed: rows(q)?,
            gate: rows(c.ffn)?,
            up: rows(c.ffn)?,
            head: MappedVec::zeroed(c.head_dim.max(c.width))?,
            scores: MappedVec::zeroed(c.heads / c.kv_heads * capacity)?,
            logits: MappedVec::zeroed(model.output().rows())?,
            scratch: MappedVec::zeroed(model.scratch_len())?,
            turns: [Turns::new(c.global_rope, c.head_dim)?, Turns::new(c.local_rope, c.head_dim)?],
        };
        let cache = KvCache::new(c, capacity);
        Ok(Sequence { cache, capacity, len: 0, work, model })
    }

    /// How many tokens it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no token yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of keys and values held now.
    pub fn kv_bytes(&self) -> u64 {
        self.cache.bytes()
    }

    /// Appends tokens without asking for logits.
    pub fn extend(&mut self, tokens: &[u32]) -> Result<(), Error> {
        for chunk in tokens.chunks(CHUNK) {
            self.append(chunk)?;
        }
        Ok(())
    }

    /// Appends at least one token and gives the logits after the last one, one per row of the vocabulary.
    pub fn extend_for_logits(&mut self, tokens: &[u32]) -> Result<&[f32], Error> {
        if tokens.is_empty() {
            return Err(Error::new("logits need at least one more token"));
        }
        self.extend(tokens)?;
        let last = tokens.len().div_ceil(CHUNK) * CHUNK - CHUNK;
        Ok(self.logits(tokens.len() - last - 1))
    }

    /// Appends tokens and hands `each` the index and the logits of every one of them, in order.
    pub fn extend_with_all_logits(&mut self, tokens: &[u32], mut each: impl FnMut(usize, &[f32])) -> Result<(), Error> {
        for (n, chunk) in tokens.chunks(CHUNK).enumerate() {
            self.append(chunk)?;
            for row in 0..chunk.len() {
                each(n * CHUNK + row, self.logits(row));
            }
        }
        Ok(())
    }

    /// The logits of one row of the chunk appended last.
    fn logits(&mut self, row: usize) -> &[f32] {
        let (model, w) = (&self.model, &mut self.work);
        let width = model.config().width;
        let x = &w.x[row * width..(row + 1) * width];
        kernels().rms_norm(x, model.output_norm(), model.config().epsilon, &mut w.normed[..width]);
        model.output().multiply(&w.normed[..width], 1, &mut w.logits, &mut w.scratch);
        &w.logits
    }

    fn append(&mut self, tokens: &[u32]) -> Result<(), Error> {
        let (first, n) = (self.len, tokens.len());
        if first + n > self.capacity {
            return Err(Error::new(format!("{} tokens are more than the sequence's {}", first + n, self.capacity)));
        }
        self.cache.reserve(first + n)?;
        let model = Arc::clone(&self.model);
        let c = model.config();
        let k = kernels();
        for (row, &token) in tokens.iter().enumerate() {
            let x = &mut self.work.x[row * c.width..(row + 1) * c.width];
            if model.embedding().row(token as usize, x).is_none() {
                let rows = model.embedding().rows();
                return Err(Error::new(format!("token {token} is outside the model's vocabulary of {rows}")));
            }
            k.scale(x, (c.width as f32).sqrt());
        }
        for turns in &mut self.work.turns {
            (0..n).for_each(|row| turns.set(row, first + row));
        }
        for (index, layer) in model.layers().iter().enumerate() {
            self.attention(&model, k, index, layer, n);
            self.feed_forward(&model, k, layer, n);
        }
        self.len += n;
        Ok(())
    }

    fn attention(&mut self, model: &Gemma, k: &Kernels, index: usize, layer: &Layer, n: usize) {
        let (c, w, first) = (model.config(), &mut self.work, self.len);
        let d = c.head_dim;
        norm_rows(k, &w.x, &layer.attn_norm, c.epsilon, n, &mut w.normed);
        layer.q.multiply(&w.normed, n, &mut w.q, &mut w.scratch);
        layer.k.multiply(&w.normed, n, &mut w.k, &mut w.scratch);
        layer.v.multiply(&w.normed, n, &mut w.v, &mut w.scratch);
        let turns = &w.turns[usize::from(c.local[index])];
        for row in 0..n {
            for head in w.q[row * c.heads * d..(row + 1) * c.heads * d].chunks_exact_mut(d) {
                k.rms_norm(head, &layer.q_norm, c.epsilon, &mut w.head[..d]);
                head.copy_from_slice(&w.head[..d]);
                turns.turn(row, head);
            }
            for h in 0..c.kv_heads {
                let at = (row * c.kv_heads + h) * d;
                let key = self.cache.row_mut(index, Part::Keys, h, first + row);
                k.rms_norm(&w.k[at..at + d], &layer.k_norm, c.epsilon, key);
                turns.turn(row, key);
                self.cache.row_mut(index, Part::Values, h, first + row).copy_from_slice(&w.v[at..at + d]);
            }
        }
        // All query heads of a key/value head at one position see the same positions: they are one tile.
        let group = c.heads / c.kv_heads;
        w.mixed[..n * c.heads * d].fill(0.0);
        for row in 0..n {
            let end = first + row + 1;
            let start = if c.local[index] { end.saturating_sub(c.window) } else { 0 };
            let span = end - start;
            for h in 0..c.kv_heads {
                let at = (row * c.heads + h * group) * d;
                let queries = Strided { data: &w.q[at..at + group * d], stride: d, rows: group };
                let scores = &mut w.scores[..group * span];
                for (from, to) in pages(start, end) {
                    let keys = self.cache.rows(index, Part::Keys, h, from, to);
                    let keys = Strided { data: keys, stride: d, rows: to - from };
                    k.dot_rows(queries, keys, d, &mut scores[from - start..], span);
                }
                for row in scores.chunks_exact_mut(span) {
                    k.softmax(row, c.attention_scale);
                }
                for (from, to) in pages(start, end) {
                    let weights = Strided { data: &scores[from - start..], stride: span, rows: group };
                    let values = self.cache.rows(index, Part::Values, h, from, to);
                    let values = Strided { data: values, stride: d, rows: to - from };
                    k.mix_rows(weights, values, d, &mut w.mixed[at..at + group * d], d);
                }
            }
        }
        layer.attn_output.multiply(&w.mixed, n, &mut w.normed, &mut w.scratch);
        add_normed(k, &mut w.x, &w.normed, &layer.post_attention_norm, c.epsilon, n, &mut w.head);
    }

    fn feed_forward(&mut self, model: &Gemma, k: &Kernels, layer: &Layer, n: usize) {
        let (c, w) = (model.config(), &mut self.work);
        norm_rows(k, &w.x, &layer.ffn_norm, c.epsilon, n, &mut w.normed);
        layer.gate.multiply(&w.normed, n, &mut w.gate, &mut w.scratch);
        layer.up.multiply(&w.normed, n, &mut w.up, &mut w.scratch);
        k.gelu_tanh_times(&mut w.gate[..n * c.ffn], &w.up[..n * c.ffn]);
        layer.down.multiply(&w.gate, n, &mut w.normed, &mut w.scratch);
        add_normed(k, &mut w.x, &w.normed, &layer.post_ffw_norm, c.epsilon, n, &mut w.head);
    }
}

/// The pieces of `start .. end` that lie in one page each.
fn pages(start: usize, end: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut from = start;
    std::iter::from_fn(move || {
        if from >= end {
            return None;
        }
        let piece = (from, end.min((from / PAGE + 1) * PAGE));
        from = piece.1;
        Some(piece)
    })
}

/// The first `n` rows of `x`, normed.
fn norm_rows(k: &Kernels, x: &[f32], gain: &[f32], epsilon: f32, n: usize, out: &mut [f32]) {
    let width = gain.len();
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)).take(n) {
        k.rms_norm(x, gain, epsilon, out);
    }
}

/// `x += norm(y)`, row by row.
fn add_normed(k: &Kernels, x: &mut [f32], y: &[f32], gain: &[f32], epsilon: f32, n: usize, row: &mut [f32]) {
    let width = gain.len();
    for (x, y) in x.chunks_exact_mut(width).zip(y.chunks_exact(width)).take(n) {
        k.rms_norm(y, gain, epsilon, &mut row[..width]);
        k.add(x, &row[..width]);
    }
}
