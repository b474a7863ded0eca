//! The forward pass: a batch of tokens of any number of texts, and logits where they are wanted.
//!
//! **Rows.** The tokens of all texts in a batch are the rows of one matrix; a prompt brings many, a text that is being generated
//! one. Rows meet only in attention, text by text, and no kernel's order depends on what is computed beside a row
//! ([`crate::kernels`], [`crate::packed`]): however tokens are cut into batches and whatever shares a batch, a row's
//! results have the same bits.
//!
//! **Regions.** A layer is a handful of regions that the threads of a [`Lead`] divide among themselves: norms and quantising
//! by rows, products by tiles of weights, attention by texts, heads and rows. What follows a product on the same numbers is
//! done where they are still in the cache: gate and up are one region which ends in the quantised input of down.
//!
//! **Both ways.** An encoder's text is one batch of its own: every position sees those behind it as well, so all its keys must be
//! there before the first query. A causal model's rows whose logits nobody wants end at the last layer that has keys and values
//! of its own: a prompt saves one layer of work, in Gemma 4's small models half of them.
//!
//! [`heads`] is what happens between queries, keys and values.

mod heads;

use std::ops::Range;
use std::sync::Arc;

use super::config::{LayerShape, Rope};
use super::head::{Head, Logits};
use super::kv::{KvCache, Places};
use super::source::Family;
use super::{Gemma, Layer, OwnInput, OwnInputs};
use crate::Error;
use crate::kernels::{Kernels, kernels};
use crate::memory::MappedVec;
use crate::packed::{Planes, path};
use crate::product::{Input, Matrix, TILE};
use crate::team::{Lead, Shared};

/// Rows that one batch may have: whole tiles of six, which products of many rows are made in.
pub const BATCH: usize = 132;
/// Rows of a batch whose logits may be wanted.
pub const LOGITS: usize = 32;
/// Columns of the feed-forward part that are done in one piece: those of one scale of the quantised input that follows.
const INNER: usize = 32;

/// A text under a model: its tokens' keys and values.
pub struct Sequence {
    model: Arc<Gemma>,
    cache: KvCache,
    capacity: usize,
    len: usize,
}

impl Sequence {
    /// An empty text that can grow to `capacity` tokens, at most the model's context. Keys and values are allocated as it
    /// grows.
    pub fn new(model: Arc<Gemma>, capacity: usize) -> Result<Sequence, Error> {
        let context = model.info().context;
        if capacity == 0 || capacity > context {
            return Err(Error::new(format!("a sequence of {capacity} tokens does not fit a context of {context}")));
        }
        Ok(Sequence { cache: KvCache::new(Arc::clone(model.layout())), capacity, len: 0, model })
    }

    /// How many tokens it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no token yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Begins with keys and values that are there: those of its first `len` tokens.
    pub(crate) fn resume(&mut self, cache: KvCache, len: usize) {
        (self.cache, self.len) = (cache, len);
    }

    /// Its keys and values.
    pub(crate) fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// Forgets the tokens from `len` on, of those that were appended together last all but the first.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Bytes of keys and values held now, those that are shared with others included.
    pub fn kv_bytes(&self) -> u64 {
        self.cache.bytes()
    }

    /// The model.
    pub fn model(&self) -> &Arc<Gemma> {
        &self.model
    }
}

/// Tokens to append to a text, at least one.
pub struct Part<'a> {
    /// The text; all texts of a batch have the same model.
    pub sequence: &'a mut Sequence,
    /// Its next tokens.
    pub tokens: &'a [u32],
    /// Of how many of the last tokens the logits are wanted.
    pub logits: usize,
    /// Whether all of them must be exact; if not, [`Logits::reach`] makes exact what is.
    pub exact: bool,
}

/// The activations of a batch, made for a model and used again and again.
pub struct Workspace {
    pub(super) model: Arc<Gemma>,
    /// Rows that a batch may have, and those whose logits may be wanted.
    most: (usize, usize),
    x: MappedVec<f32>,
    qkv: MappedVec<f32>,
    /// What a branch adds to `x`, before its norm.
    branch: MappedVec<f32>,
    normed: Input,
    mixed: Input,
    inner: Input,
    pub(super) head: Input,
    pub(super) logits: MappedVec<f32>,
    pub(super) likely: Head,
    /// What the tokens bring for every layer, where they do.
    own: MappedVec<f32>,
    /// What a layer makes of it.
    own_gated: MappedVec<f32>,
    own_input: Input,
    /// Cosines and sines per row, for each kind of rotation that there is.
    turns: Vec<Turns>,
    /// What each thread needs for itself.
    pub(super) scratch: Vec<MappedVec<f32>>,
    /// How long one is.
    scratch_len: usize,
    /// What blocks of queries found in each segment, where segments are divided among threads: sums, the largest score, and the
    /// sum of weights, query by query.
    found: MappedVec<f32>,
}

/// The rows that one part of a batch has.
struct Rows {
    rows: Range<usize>,
    /// The position of the first.
    first: usize,
    places: Places,
}

struct Turns {
    rope: Rope,
    frequencies: MappedVec<f32>,
    cos: MappedVec<f32>,
    sin: MappedVec<f32>,
}

impl Turns {
    /// Frequencies `base^(−2j / head_dim) / factor`, in f32 as the reference has them.
    fn new(rope: Rope, head_dim: usize, most: usize) -> Result<Turns, Error> {
        let half = head_dim / 2;
        let mut frequencies = MappedVec::zeroed(half)?;
        // Pairs that are not rotated have the frequency 0.
        for (j, f) in frequencies.iter_mut().enumerate().take(rope.pairs) {
            *f = (rope.base.powf(-2.0 * j as f64 / head_dim as f64) / rope.factor) as f32;
        }
        Ok(Turns { rope, frequencies, cos: MappedVec::zeroed(most * half)?, sin: MappedVec::zeroed(most * half)? })
    }

    /// Whether a layer of this shape rotates so.
    fn is(&self, shape: &LayerShape) -> bool {
        self.rope == shape.rope && 2 * self.frequencies.len() == shape.head_dim
    }

    fn set(&mut self, row: usize, position: usize) {
        let half = self.frequencies.len();
        for (j, f) in self.frequencies.iter().enumerate() {
            let angle = position as f32 * f;
            (self.sin[row * half + j], self.cos[row * half + j]) = angle.sin_cos();
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

impl Workspace {
    /// Room for batches of a model.
    pub fn new(model: Arc<Gemma>) -> Result<Workspace, Error> {
        Workspace::of(model, BATCH, LOGITS)
    }

    /// Room for batches of up to `most` rows, `wanted` of them with logits.
    pub(super) fn of(model: Arc<Gemma>, most: usize, wanted: usize) -> Result<Workspace, Error> {
        let c = model.config();
        let layers = model.layers();
        let (dim, ffn) = (c.most(|shape| shape.head_dim), c.most(|shape| shape.ffn));
        let qkv = c.most(|shape| (c.heads + 2 * shape.kv_heads) * shape.head_dim);
        let group = c.most(|shape| c.heads / shape.kv_heads);
        let rows = |width: usize| MappedVec::zeroed(most * width);
        // Attention; gate and up of a piece; a normed row.
        let layout = model.layout();
        let attention = heads::scratch_len(layout, group, dim);
        let planes = model.output().planes().map_or(0, Planes::scratch_len);
        let scratch_len = attention.max(2 * most * INNER).max(c.width).max(dim).max(planes);
        let mut turns: Vec<Turns> = Vec::new();
        for shape in &c.shapes {
            if turns.iter().all(|turns| !turns.is(shape)) {
                turns.push(Turns::new(shape.rope, shape.head_dim, most)?);
            }
        }
        let own_inputs = c.layer_input.unwrap_or(0);
        let of_own = layers.iter().filter_map(|layer| layer.own_input.as_ref()).map(|own| &own.projection);
        let of_stream = layers.iter().flat_map(Layer::of_stream).chain(model.own_inputs().map(|own| &own.projection));
        Ok(Workspace {
            x: rows(c.width)?,
            qkv: rows(qkv)?,
            branch: rows(c.width)?,
            normed: Input::new(most, c.width, of_stream)?,
            mixed: Input::new(most, c.heads * dim, layers.iter().map(|layer| &layer.attn_output))?,
            inner: Input::new(most, ffn, layers.iter().map(|layer| &layer.down))?,
            head: Input::new(wanted, c.width, [model.output()])?,
            logits: MappedVec::zeroed(wanted * model.output().rows())?,
            likely: Head::new(model.output().planes(), wanted)?,
            own: rows(c.layers * own_inputs)?,
            own_gated: rows(own_inputs)?,
            own_input: Input::new(most, own_inputs, of_own)?,
            turns,
            scratch: Vec::new(),
            scratch_len,
            found: MappedVec::zeroed(0)?,
            most: (most, wanted),
            model,
        })
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> u64 {
        let vectors = [&self.x, &self.qkv, &self.branch, &self.logits, &self.own, &self.own_gated];
        let inputs = [&self.normed, &self.mixed, &self.inner, &self.head, &self.own_input];
        vectors.into_iter().chain(&self.scratch).map(MappedVec::bytes).sum::<u64>()
            + inputs.into_iter().map(Input::bytes).sum::<u64>()
            + self.likely.bytes()
    }

    /// The logits of the last batch: row `row` of those that were wanted, in the order of the parts and their tokens.
    pub fn logits(&self, row: usize) -> &[f32] {
        let (rows, place) = (self.model.output().rows(), self.likely.place(row));
        &self.logits[place * rows..(place + 1) * rows]
    }

    /// The same row, to choose from.
    pub fn of_row<'a>(&'a mut self, row: usize, lead: &'a Lead<'a>) -> Logits<'a> {
        Logits::new(self, row, lead)
    }

    /// Tiles of the head that were made exact for choices so far.
    pub fn reached(&self) -> u64 {
        self.likely.computed()
    }

    /// Appends the tokens of all parts to their texts, at most [`BATCH`] together, and computes the logits that are wanted, at
    /// most [`LOGITS`]. Between layers it calls `pause`. Where it fails, no text has changed.
    pub fn append(&mut self, parts: &mut [Part<'_>], lead: &Lead<'_>, pause: &dyn Fn()) -> Result<(), Error> {
        self.check(parts)?;
        let mut rows = Vec::with_capacity(parts.len());
        let mut next = 0;
        for part in parts.iter_mut() {
            let sequence = &mut *part.sequence;
            sequence.cache.reserve(sequence.len, sequence.len + part.tokens.len())?;
            let places = sequence.cache.places();
            rows.push(Rows { rows: next..next + part.tokens.len(), first: sequence.len, places });
            next += part.tokens.len();
        }
        let tokens: Vec<u32> = parts.iter().flat_map(|part| part.tokens.iter().copied()).collect();
        let wanted: Vec<(usize, bool)> = parts.iter().map(|part| (part.logits, part.exact)).collect();
        self.pass(&tokens, rows, Some(&wanted), lead, pause)?;
        for part in parts {
            part.sequence.len += part.tokens.len();
        }
        Ok(())
    }

    /// The last layer's rows of one text, before the model's last norm; `cache` is used for its keys and values. Its tokens
    /// must be known to the model.
    pub(super) fn whole(&mut self, tokens: &[u32], cache: &mut KvCache) -> Result<&mut [f32], Error> {
        let (len, most) = (tokens.len(), self.most.0);
        if !(1..=most).contains(&len) {
            return Err(Error::new(format!("a text of {len} tokens; 1 to {most} are accepted")));
        }
        cache.restart(len)?;
        let rows = vec![Rows { rows: 0..len, first: 0, places: cache.places() }];
        self.pass(tokens, rows, None, &Lead::alone(), &|| {})?;
        Ok(&mut self.x[..len * self.model.config().width])
    }

    /// Takes the rows through the layers, and makes the logits of so many of the last rows of each text. Where all rows are wanted
    /// as they come out of the last layer, `wanted` is none.
    fn pass(
        &mut self,
        tokens: &[u32],
        rows: Vec<Rows>,
        wanted: Option<&[(usize, bool)]>,
        lead: &Lead<'_>,
        pause: &dyn Fn(),
    ) -> Result<(), Error> {
        while self.scratch.len() < lead.members() {
            self.scratch.push(MappedVec::zeroed(self.scratch_len)?);
        }
        self.embed(tokens, &rows)?;
        let model = Arc::clone(&self.model);
        let mut pass = Pass { work: self, model: &model, k: kernels(), lead, rows, total: tokens.len() };
        if let Some(own) = model.own_inputs() {
            pass.own_inputs(own, tokens);
        }
        // Behind the last layer that has keys and values of its own, no later token looks at a row.
        let mut shapes = model.config().shapes.iter().enumerate();
        let last = shapes.rfind(|(index, shape)| shape.kv_source == *index).map(|(index, _)| index);
        for (index, layer) in model.layers().iter().enumerate() {
            pass.norm(None, &layer.attn_norm);
            pass.heads(index, layer);
            if let Some(wanted) = wanted.filter(|_| last == Some(index)) {
                pass.keep(index, wanted);
                if pass.total == 0 {
                    return Ok(());
                }
            }
            pass.rest(index, layer)?;
            pause();
        }
        if let Some(wanted) = wanted {
            pass.logits(wanted.iter().flat_map(|(count, exact)| std::iter::repeat_n(*exact, *count)));
        }
        Ok(())
    }

    /// Whether the parts fit the model, their texts and a batch.
    fn check(&self, parts: &[Part<'_>]) -> Result<(), Error> {
        let total: usize = parts.iter().map(|part| part.tokens.len()).sum();
        let wanted: usize = parts.iter().map(|part| part.logits).sum();
        if total > self.most.0 || wanted > self.most.1 {
            return Err(Error::new(format!("{total} tokens and {wanted} logits are more than a batch has room for")));
        }
        for Part { sequence, tokens, logits, .. } in parts {
            if !Arc::ptr_eq(&sequence.model, &self.model) {
                return Err(Error::new("a sequence of another model"));
            }
            let (end, capacity) = (sequence.len + tokens.len(), sequence.capacity);
            if tokens.is_empty() || *logits > tokens.len() {
                return Err(Error::new("logits need at least one more token"));
            }
            if end > capacity {
                return Err(Error::new(format!("{end} tokens are more than the sequence's {capacity}")));
            }
            let rows = self.model.embedding().rows();
            if let Some(token) = tokens.iter().find(|token| **token as usize >= rows) {
                return Err(Error::new(format!("token {token} is outside the model's vocabulary of {rows}")));
            }
        }
        Ok(())
    }

    fn embed(&mut self, tokens: &[u32], rows: &[Rows]) -> Result<(), Error> {
        let c = self.model.config();
        for (x, &token) in self.x.chunks_exact_mut(c.width).zip(tokens) {
            let known = self.model.embedding().row(token as usize, x);
            known.ok_or_else(|| Error::new(format!("token {token} has no embedding")))?;
            kernels().scale(x, (c.width as f32).sqrt());
        }
        for turns in &mut self.turns {
            for Rows { rows, first, .. } in rows {
                rows.clone().for_each(|row| turns.set(row, first + row - rows.start));
            }
        }
        Ok(())
    }
}

/// One batch on its way through the layers.
///
/// SAFETY of the blocks inside: the pieces of a region write to rows, columns or tiles of their own of the buffers of the
/// workspace, which this borrows exclusively, and read only what earlier regions have written. Each member of the team has a
/// scratch of its own. Keys and values of a position are written by the piece that has its row, and read in later regions.
struct Pass<'a> {
    work: &'a mut Workspace,
    model: &'a Gemma,
    k: &'static Kernels,
    lead: &'a Lead<'a>,
    rows: Vec<Rows>,
    total: usize,
}

impl Pass<'_> {
    /// Goes on with the last rows of each text alone, so many of each, from where a layer has its queries.
    fn keep(&mut self, index: usize, wanted: &[(usize, bool)]) {
        let stride = self.stride(index);
        let work = &mut *self.work;
        let mut next = 0;
        for (part, &(wanted, _)) in self.rows.iter_mut().zip(wanted) {
            let skipped = part.rows.len() - wanted;
            for (to, from) in (next..).zip(part.rows.start + skipped..part.rows.end) {
                let half = work.turns.iter_mut().flat_map(|turns| [&mut turns.cos, &mut turns.sin]);
                work.qkv.copy_within(from * stride..(from + 1) * stride, to * stride);
                for all in [&mut work.x, &mut work.own].into_iter().chain(half) {
                    let each = all.len() / work.most.0;
                    all.copy_within(from * each..(from + 1) * each, to * each);
                }
            }
            (part.rows, part.first) = (next..next + wanted, part.first + skipped);
            next += wanted;
        }
        self.rows.retain(|part| !part.rows.is_empty());
        self.total = next;
    }

    /// Numbers from row to row of a layer's queries, keys and values.
    fn stride(&self, index: usize) -> usize {
        let c = self.model.config();
        (c.heads + 2 * c.shapes[index].kv_heads) * c.shapes[index].head_dim
    }

    /// What follows the queries, keys and values of a layer.
    fn rest(&mut self, index: usize, layer: &Layer) -> Result<(), Error> {
        self.attention(index)?;
        self.product(Branch::Attention, &layer.attn_output);
        self.norm(Some(&layer.post_attention_norm), &layer.ffn_norm);
        self.feed_forward(layer);
        self.product(Branch::FeedForward, &layer.down);
        self.add(&layer.post_ffw_norm);
        if let Some(own) = &layer.own_input {
            self.own_input(index, own);
        }
        if layer.scale != 1.0 {
            let used = self.total * self.model.config().width;
            self.k.scale(&mut self.work.x[..used], layer.scale);
        }
        Ok(())
    }

    /// What the tokens bring for every layer: their rows of a table, and what their embeddings say.
    fn own_inputs(&mut self, own: &OwnInputs, tokens: &[u32]) {
        let (k, c) = (self.k, self.model.config());
        let (each, all) = (own.norm.len(), own.table.cols());
        self.input_of_stream();
        let work = &mut *self.work;
        let to = Shared::of(&mut work.own);
        products(self.lead, self.total, &[(&own.projection, 0)], &|matrix, rows, at| {
            // SAFETY: see `Pass`.
            unsafe { matrix.multiply(rows, &work.normed, to.at(at), all) };
        });
        let (mut brought, mut normed) = (vec![0.0; all], vec![0.0; each]);
        for (row, &token) in work.own.chunks_exact_mut(all).zip(tokens) {
            // Tokens were checked against the embedding's rows, of which this table has as many.
            if own.table.row(token as usize, &mut brought).is_none() {
                brought.fill(0.0);
            }
            k.scale(row, 1.0 / (c.width as f32).sqrt());
            k.scale(&mut brought, (each as f32).sqrt());
            for (said, brought) in row.chunks_exact_mut(each).zip(brought.chunks_exact(each)) {
                k.rms_norm(said, &own.norm, c.epsilon, &mut normed);
                said.copy_from_slice(&normed);
                k.add(said, brought);
                k.scale(said, std::f32::consts::FRAC_1_SQRT_2);
            }
        }
    }

    /// `x` itself as the input of the next products.
    fn input_of_stream(&mut self) {
        let width = self.model.config().width;
        let work = &mut *self.work;
        work.normed.reset(self.total, width);
        for (row, x) in work.x.chunks_exact(width).take(self.total).enumerate() {
            work.normed.set(row, x);
        }
    }

    /// A layer takes what the tokens bring for it.
    fn own_input(&mut self, index: usize, own: &OwnInput) {
        let (k, total) = (self.k, self.total);
        let each = own.gate.rows();
        self.input_of_stream();
        let work = &mut *self.work;
        let all = work.own.len() / work.most.0;
        let to = Shared::of(&mut work.own_gated);
        products(self.lead, total, &[(&own.gate, 0)], &|matrix, rows, at| {
            // SAFETY: see `Pass`.
            unsafe { matrix.multiply(rows, &work.normed, to.at(at), each) };
        });
        work.own_input.reset(total, each);
        for row in 0..total {
            let gated = &mut work.own_gated[row * each..(row + 1) * each];
            k.gelu_tanh_times(gated, &work.own[row * all + index * each..][..each]);
            work.own_input.set(row, gated);
        }
        self.product(Branch::Own, &own.projection);
        self.add(&own.norm);
    }

    /// Adds the branch to `x` if there is one, and norms `x` as the input of the next products.
    fn norm(&mut self, branch: Option<&[f32]>, gain: &[f32]) {
        let (k, width, epsilon) = (self.k, self.model.config().width, self.model.config().epsilon);
        let work = &mut *self.work;
        work.normed.reset(self.total, width);
        let (x, from, to) = (Shared::of(&mut work.x), &work.branch, work.normed.writer());
        let scratch = scratch(&mut work.scratch);
        by_rows(self.lead, self.total, &|rows, member| {
            // SAFETY: see `Pass`.
            let normed = unsafe { scratch[member].own(width) };
            for row in rows {
                // SAFETY: see `Pass`.
                let x = unsafe { x.slice(row * width, width) };
                if let Some(gain) = branch {
                    k.rms_norm(&from[row * width..(row + 1) * width], gain, epsilon, normed);
                    k.add(x, normed);
                }
                k.rms_norm(x, gain, epsilon, normed);
                // SAFETY: see `Pass`.
                unsafe { to.set(row, 0, normed) };
            }
        });
    }

    /// Adds the branch to `x`.
    fn add(&mut self, gain: &[f32]) {
        let (k, width, epsilon) = (self.k, self.model.config().width, self.model.config().epsilon);
        let work = &mut *self.work;
        let (x, from) = (Shared::of(&mut work.x), &work.branch);
        let scratch = scratch(&mut work.scratch);
        by_rows(self.lead, self.total, &|rows, member| {
            // SAFETY: see `Pass`.
            let normed = unsafe { scratch[member].own(width) };
            for row in rows {
                k.rms_norm(&from[row * width..(row + 1) * width], gain, epsilon, normed);
                // SAFETY: see `Pass`.
                k.add(unsafe { x.slice(row * width, width) }, normed);
            }
        });
    }

    /// Queries, keys and values: one region for the products, one for norms and rotation. Keys and values go to their pages.
    fn heads(&mut self, index: usize, layer: &Layer) {
        let (k, c, total) = (self.k, self.model.config(), self.total);
        let shape = &c.shapes[index];
        let d = shape.head_dim;
        let (q, kv, stride) = (c.heads * d, shape.kv_heads * d, self.stride(index));
        let work = &mut *self.work;
        let qkv = Shared::of(&mut work.qkv);
        let scratch = scratch(&mut work.scratch);
        let keys = layer.k.as_ref().map(|matrix| (matrix, q));
        let values = layer.v.as_ref().map(|matrix| (matrix, q + kv));
        let targets: Vec<(&Matrix, usize)> = [(&layer.q, 0)].into_iter().chain(keys).chain(values).collect();
        products(self.lead, total, &targets, &|matrix, rows, at| {
            // SAFETY: see `Pass`; the products of row `i` go to its `stride` numbers from column `at` on.
            unsafe { matrix.multiply(rows, &work.normed, qkv.at(at), stride) };
        });
        let Some(turns) = work.turns.iter().find(|turns| turns.is(shape)) else { return };
        let (layout, parts, ones) = (self.model.layout(), &self.rows, self.model.ones());
        let norm_of_values = c.family == Family::Gemma4;
        by_rows(self.lead, total, &|rows, member| {
            // SAFETY: see `Pass`.
            let normed = unsafe { scratch[member].own(d) };
            for row in rows {
                let Some(part) = parts.iter().find(|part| part.rows.contains(&row)) else { continue };
                let at = part.first + row - part.rows.start;
                // SAFETY: see `Pass`.
                let all = unsafe { qkv.slice(row * stride, stride) };
                let (queries, rest) = all.split_at_mut(q);
                for head in queries.chunks_exact_mut(d) {
                    if let Some(gain) = &layer.q_norm {
                        k.rms_norm(head, gain, c.epsilon, normed);
                        head.copy_from_slice(normed);
                    }
                    turns.turn(row, head);
                }
                if layer.k.is_none() {
                    continue;
                }
                let (keys, values) = rest.split_at_mut(kv);
                if layer.v.is_none() {
                    values.copy_from_slice(keys);
                }
                for (h, (key, value)) in keys.chunks_exact_mut(d).zip(values.chunks_exact_mut(d)).enumerate() {
                    if let Some(gain) = &layer.k_norm {
                        k.rms_norm(key, gain, c.epsilon, normed);
                        key.copy_from_slice(normed);
                    }
                    turns.turn(row, key);
                    if norm_of_values {
                        k.rms_norm(value, &ones[..d], c.epsilon, normed);
                        value.copy_from_slice(normed);
                    }
                    // SAFETY: see `Pass`; the position was reserved.
                    unsafe { layout.write(&part.places, index, h, at, key, value) };
                }
            }
        });
    }

    /// The product that ends a branch.
    fn product(&mut self, branch: Branch, matrix: &Matrix) {
        let work = &mut *self.work;
        let width = self.model.config().width;
        let to = Shared::of(&mut work.branch);
        let from = match branch {
            Branch::Attention => &work.mixed,
            Branch::FeedForward => &work.inner,
            Branch::Own => &work.own_input,
        };
        products(self.lead, self.total, &[(matrix, 0)], &|matrix, rows, at| {
            // SAFETY: see `Pass`.
            unsafe { matrix.multiply(rows, from, to.at(at), width) };
        });
    }

    /// Gate and up, and what they become together: the input of down.
    fn feed_forward(&mut self, layer: &Layer) {
        let (k, total, ffn) = (self.k, self.total, layer.gate.rows());
        let work = &mut *self.work;
        work.inner.reset(total, ffn);
        let to = work.inner.writer();
        let scratch = scratch(&mut work.scratch);
        let pieces = cut(ffn.div_ceil(INNER), 2 * layer.gate.cols() * INNER, self.lead);
        self.lead.run(pieces.len(), &|piece, member| {
            for piece in pieces[piece].clone() {
                let columns = piece * INNER..ffn.min((piece + 1) * INNER);
                let count = columns.len();
                // SAFETY: see `Pass`; a product of row `i` with column `j` of the piece goes to place `i × INNER + j`, and the
                // base is moved back by what `multiply` counts from the matrix's first row.
                unsafe {
                    let (gate, up) = scratch[member].own(2 * total * INNER).split_at_mut(total * INNER);
                    let back = |to: &mut [f32]| to.as_mut_ptr().wrapping_sub(columns.start);
                    layer.gate.multiply(columns.clone(), &work.normed, back(gate), INNER);
                    layer.up.multiply(columns.clone(), &work.normed, back(up), INNER);
                    for (row, (gate, up)) in gate.chunks_exact_mut(INNER).zip(up.chunks_exact(INNER)).enumerate() {
                        k.gelu_tanh_times(&mut gate[..count], &up[..count]);
                        to.set(row, columns.start, &gate[..count]);
                    }
                }
            }
        });
    }

    /// The logits of the rows, of which these are wanted exactly.
    fn logits(&mut self, exact: impl Iterator<Item = bool> + Clone) {
        let (k, c, model) = (self.k, self.model.config(), self.model);
        let work = &mut *self.work;
        work.head.reset(self.total, c.width);
        let planes = model.output().planes();
        let whole = work.likely.arrange(exact);
        let scratch = scratch(&mut work.scratch);
        let (x, to) = (&work.x, work.head.writer());
        // SAFETY: see `Pass`; there is no other thread here.
        let normed = unsafe { scratch[0].own(c.width) };
        for (i, x) in x.chunks_exact(c.width).take(self.total).enumerate() {
            k.rms_norm(x, model.output_norm(), c.epsilon, normed);
            // SAFETY: see `Pass`.
            unsafe { to.set(work.likely.place(i), 0, normed) };
        }
        let (logits, stride) = (Shared::of(&mut work.logits), model.output().rows());
        let x = &work.head;
        let bend = |rows: Range<usize>| {
            for i in (0..whole).filter(|_| c.final_cap.is_some()) {
                // SAFETY: see `Pass`; these products have just been made by the same thread.
                k.bend(unsafe { logits.slice(i * stride + rows.start, rows.len()) }, c.final_cap.unwrap_or_default());
            }
        };
        let Some(planes) = planes else {
            return products(self.lead, whole, &[(model.output(), 0)], &|matrix, rows, at| {
                // SAFETY: see `Pass`.
                unsafe { matrix.multiply(rows.clone(), x, logits.at(at), stride) };
                bend(rows);
            });
        };
        let pieces = cut(planes.tiles(), c.width * TILE, self.lead);
        self.lead.run(if whole > 0 { pieces.len() } else { 0 }, &|piece, member| {
            let tiles = pieces[piece].clone();
            // SAFETY: see `Pass`.
            unsafe {
                let (to, scratch) = (logits.at(0), scratch[member].own(planes.scratch_len()));
                planes.exact(path(), tiles.clone(), x.quantised(), 0..whole, to, stride, scratch);
            }
            bend(tiles.start * TILE..stride.min(tiles.end * TILE));
        });
        if whole < self.total {
            let rough = whole..self.total;
            work.likely.rough(planes, work.head.quantised(), rough, &mut work.logits, c.final_cap, self.lead);
        }
    }
}

/// What a product reads.
#[derive(Clone, Copy)]
enum Branch {
    Attention,
    FeedForward,
    Own,
}

/// One thread's scratch, for the closures of a region.
pub(super) struct Own(Shared<f32>, usize);

pub(super) fn scratch(all: &mut [MappedVec<f32>]) -> Vec<Own> {
    all.iter_mut().map(|scratch| Own(Shared::of(scratch), scratch.len())).collect()
}

impl Own {
    /// The first `len` numbers of what this thread has.
    ///
    /// # Safety
    /// Only the member that it belongs to may ask, once at a time.
    #[expect(
        clippy::mut_from_ref,
        reason = "it stands for a pointer; that the places are the caller's alone is its promise"
    )]
    pub(super) unsafe fn own(&self, len: usize) -> &mut [f32] {
        assert!(len <= self.1);
        // SAFETY: the length was just compared; the rest is the caller's promise.
        unsafe { self.0.slice(0, len) }
    }
}

/// Calls `work` with ranges of the rows `0..total`.
fn by_rows(lead: &Lead<'_>, total: usize, work: &(dyn Fn(Range<usize>, usize) + Sync)) {
    /// Rows that are worth a piece.
    const FEW: usize = 4;
    let each = if lead.has_help() { FEW } else { total.max(1) };
    lead.run(total.div_ceil(each), &|piece, member| work(piece * each..total.min((piece + 1) * each), member));
}

/// Cuts `all` units of `bytes` each into the pieces that threads take one after the other: large ones first, since the CPU has
/// to learn anew where to read ahead with each, and smaller and smaller ones, so that all end together. (Guided
/// self-scheduling: Polychronopoulos and Kuck, 1987.)
pub(super) fn cut(all: usize, bytes: usize, lead: &Lead<'_>) -> Vec<Range<usize>> {
    /// What is not cut further.
    const LEAST: usize = 64 << 10;
    let parts = if lead.has_help() { 2 * lead.members() } else { 1 };
    let least = LEAST.div_ceil(bytes.max(1));
    let mut from = 0;
    std::iter::from_fn(|| {
        let next = from..all.min(from + (all - from).div_ceil(parts).max(least));
        from = next.end;
        (!next.is_empty()).then_some(next)
    })
    .collect()
}

/// What multiplies: called with a matrix, some of its rows, and the place of the products with its first row.
type Multiply<'a> = dyn Fn(&Matrix, Range<usize>, usize) + Sync + 'a;

/// Calls `work` with some rows of a matrix, and the place where the products with the matrix's first row go, until all rows of
/// all matrices are done.
fn products(lead: &Lead<'_>, total: usize, targets: &[(&Matrix, usize)], work: &Multiply<'_>) {
    if total == 0 {
        return;
    }
    /// Tiles that are multiplied side by side.
    const PAIR: usize = 2 * TILE;
    let cols = targets.iter().map(|(matrix, _)| matrix.cols()).max().unwrap_or(0);
    let pairs = |matrix: &Matrix| matrix.rows().div_ceil(PAIR);
    let all = targets.iter().map(|(matrix, _)| pairs(matrix)).sum();
    let mut pieces: Vec<(&Matrix, Range<usize>, usize)> = Vec::new();
    for piece in cut(all, cols * PAIR, lead) {
        let mut first = 0;
        for &(matrix, at) in targets {
            let (from, to) = (piece.start.max(first) - first, piece.end.max(first) - first);
            let rows = (from * PAIR).min(matrix.rows())..(to * PAIR).min(matrix.rows());
            if !rows.is_empty() {
                pieces.push((matrix, rows, at));
            }
            first += pairs(matrix);
        }
    }
    lead.run(pieces.len(), &|piece, _| {
        let (matrix, rows, at) = &pieces[piece];
        work(matrix, rows.clone(), *at);
    });
}
