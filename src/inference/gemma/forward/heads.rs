//! Attention of the rows of a batch, layer by layer.
//!
//! Queries of all heads that share a key/value head, of some positions, are a block that meets page after page
//! of keys and values ([`crate::kernels::PAGE`] positions) with the online softmax, segment after segment
//! ([`crate::kernels::SEGMENT`]). Where there are fewer blocks than threads want, as when one long text grows by a token, the
//! segments of a block are pieces for themselves, joined in a region of their own.

use std::ops::Range;

use super::super::config::GROUP;
use super::super::kv::{KvFormat, Layout};
use super::super::source::Family;
use super::{Own, Pass, Rows, scratch};
use crate::Error;
use crate::kernels::{AttentionKernels, PAGE, Running, SEGMENT, attention};
use crate::memory::MappedVec;
use crate::team::Shared;

/// Queries that meet a page together: twice the rows of the tallest tile, and scores and sums that fit the first-level cache.
const QUERIES: usize = 12;
/// The same where pages have to be unpacked first: more queries share that.
const QUERIES_OF_PACKED: usize = 48;
/// Queries of a block, at most.
const MOST_QUERIES: usize = if QUERIES_OF_PACKED > GROUP { QUERIES_OF_PACKED } else { GROUP };

/// Numbers of scratch that a thread needs for heads of up to `d` numbers, of which up to `group` share keys and values.
pub(super) fn scratch_len(layout: &Layout, group: usize, d: usize) -> usize {
    queries(layout.format()).max(group) * Block::each(d) + layout.scratch_len(d)
}

/// How many queries of a key/value head meet a page together, where a row does not have more.
fn queries(format: KvFormat) -> usize {
    match format {
        KvFormat::Bf16 => QUERIES,
        KvFormat::Q8 => QUERIES_OF_PACKED,
    }
}

/// Blocks from which on threads are busy without dividing one.
const ENOUGH: usize = 8;

/// Rows of one text whose queries to one key/value head are done together.
struct Block<'a> {
    part: &'a Rows,
    rows: Range<usize>,
    head: usize,
    /// What they see.
    segments: Range<usize>,
}

/// What a thread has for a block, query by query.
struct OwnBlock<'a> {
    queries: &'a mut [u32],
    scores: &'a mut [f32],
    weights: &'a mut [u32],
    /// Over the segments that are done, and how far they are.
    sums: &'a mut [f32],
    running: [Running; MOST_QUERIES],
    /// Over one segment.
    segment: &'a mut [f32],
    found: [Running; MOST_QUERIES],
    unpacked: &'a mut [u32],
}

impl Block<'_> {
    /// Numbers of scratch per query of `d` numbers.
    fn each(d: usize) -> usize {
        d / 2 + PAGE + PAGE / 2 + 2 * d
    }
}

/// The attention of one layer.
struct Heads<'a> {
    k: &'static AttentionKernels,
    layout: &'a Layout,
    index: usize,
    /// Numbers of a head.
    d: usize,
    /// Queries per key/value head.
    group: usize,
    /// From row to row of `qkv`.
    stride: usize,
    window: usize,
    scale: f32,
    cap: f32,
    both_ways: bool,
    qkv: &'a [f32],
}

impl Heads<'_> {
    /// The positions that a row sees.
    fn seen(&self, part: &Rows, row: usize) -> Range<usize> {
        let at = part.first + row - part.rows.start;
        match self.both_ways {
            true => at.saturating_sub(self.window)..at.saturating_add(self.window).min(part.rows.len() - 1) + 1,
            false => (at + 1).saturating_sub(self.window)..at + 1,
        }
    }

    /// The positions that some rows see.
    fn seen_by(&self, part: &Rows, rows: &Range<usize>) -> Range<usize> {
        self.seen(part, rows.start).start..self.seen(part, rows.end - 1).end
    }

    fn segments(&self, part: &Rows, rows: &Range<usize>) -> Range<usize> {
        let seen = self.seen_by(part, rows);
        seen.start / SEGMENT..(seen.end - 1) / SEGMENT + 1
    }

    /// Takes the queries of a block.
    ///
    /// # Safety
    /// As [`Own::own`].
    unsafe fn begin<'a>(&self, block: &Block<'_>, scratch: &'a Own) -> OwnBlock<'a> {
        let (d, count) = (self.d, block.rows.len() * self.group);
        // SAFETY: the caller's promise.
        let all = unsafe { scratch.own(count * Block::each(d) + self.layout.scratch_len(d)) };
        let (queries, rest) = all.split_at_mut(count * d / 2);
        let (scores, rest) = rest.split_at_mut(count * PAGE);
        let (weights, rest) = rest.split_at_mut(count * PAGE / 2);
        let (sums, rest) = rest.split_at_mut(count * d);
        let (segment, unpacked) = rest.split_at_mut(count * d);
        let queries = as_cells(queries);
        for (row, queries) in block.rows.clone().zip(queries.chunks_exact_mut(self.group * d / 2)) {
            let from = &self.qkv[row * self.stride + block.head * self.group * d..][..self.group * d];
            self.k.pack(from, queries);
        }
        sums.fill(0.0);
        let [running, found] = [[Running::START; MOST_QUERIES]; 2];
        let (weights, unpacked) = (as_cells(weights), as_cells(unpacked));
        OwnBlock { queries, scores, weights, sums, running, segment, found, unpacked }
    }

    /// What the queries find in one segment.
    fn segment(&self, block: &Block<'_>, segment: usize, own: &mut OwnBlock<'_>) {
        const PAGES: usize = SEGMENT / PAGE;
        let (d, count) = (self.d, block.rows.len() * self.group);
        let seen = self.seen_by(block.part, &block.rows);
        let first = (segment * PAGES).max(seen.start / PAGE);
        let held = (seen.end - 1) / PAGE + 1;
        let last = ((segment + 1) * PAGES).min(held);
        own.segment.fill(0.0);
        own.found = [Running::START; MOST_QUERIES];
        let mut factors = [1.0f32; MOST_QUERIES];
        for page in first..last {
            let here = |position: usize| position.clamp(page * PAGE, (page + 1) * PAGE) - page * PAGE;
            let places = &block.part.places;
            // SAFETY: see `Pass`; pages that a row sees are held.
            let cells = unsafe { self.layout.read(places, self.index, block.head, page, self.k, own.unpacked) };
            self.k.scores(own.queries, d, cells, own.scores);
            let states = own.found.iter_mut().zip(&mut factors);
            let rows = own.scores.chunks_exact_mut(PAGE).zip(own.weights.chunks_exact_mut(PAGE / 2));
            for (n, ((scores, weights), (state, factor))) in rows.zip(states).enumerate() {
                let seen = self.seen(block.part, block.rows.start + n / self.group);
                *factor = self.k.weigh(scores, here(seen.start)..here(seen.end), self.scale, self.cap, state, weights);
            }
            let next = match page + 1 < held {
                // SAFETY: as above.
                true => unsafe { self.layout.coming(places, self.index, block.head, page + 1) },
                false => &[],
            };
            self.k.mix(own.weights, &factors[..count], d, cells, next, own.segment);
        }
    }
}

/// Numbers of scratch as cells.
fn as_cells(numbers: &mut [f32]) -> &mut [u32] {
    // SAFETY: both are four bytes that begin at multiples of four, and every pattern is a value of either.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), numbers.len()) }
}

impl Pass<'_> {
    /// Attention of every row to its text, into the input of the output product.
    pub(super) fn attention(&mut self, index: usize) -> Result<(), Error> {
        let c = self.model.config();
        let shape = &c.shapes[index];
        let (d, kv_heads) = (shape.head_dim, shape.kv_heads);
        let (q, group, stride) = (c.heads * d, c.heads / kv_heads, self.stride(index));
        let work = &mut *self.work;
        work.mixed.reset(self.total, q);
        let layout = self.model.layout();
        let heads = Heads {
            k: attention(),
            layout,
            index,
            d,
            group,
            stride,
            window: shape.window.unwrap_or(usize::MAX),
            scale: c.attention_scale,
            cap: c.attention_cap.unwrap_or(0.0),
            both_ways: c.family == Family::Embedding,
            qkv: &work.qkv,
        };
        // Blocks of rows of one text whose queries fill tiles.
        let step = (queries(layout.format()) / group).max(1);
        let blocks: Vec<Block<'_>> = self
            .rows
            .iter()
            .flat_map(|part| {
                let rows = part.rows.clone();
                rows.clone().step_by(step).map(move |row| (part, row..rows.end.min(row + step)))
            })
            .flat_map(|(part, rows)| (0..kv_heads).map(move |head| (part, rows.clone(), head)))
            .map(|(part, rows, head)| Block { segments: heads.segments(part, &rows), part, rows, head })
            .collect();
        let to = work.mixed.writer();
        let scratch = scratch(&mut work.scratch);
        let write = |block: &Block<'_>, n: usize, sums: &mut [f32], state: Running| {
            self.k.scale(sums, 1.0 / state.sum);
            let row = block.rows.start + n / group;
            // SAFETY: see `Pass`.
            unsafe { to.set(row, (block.head * group + n % group) * d, sums) };
        };
        let pieces: Vec<(usize, usize)> =
            blocks.iter().enumerate().flat_map(|(b, block)| block.segments.clone().map(move |s| (b, s))).collect();
        if !self.lead.has_help() || blocks.len() >= ENOUGH || pieces.len() == blocks.len() {
            self.lead.run(blocks.len(), &|piece, member| {
                let block = &blocks[piece];
                // SAFETY: see `Pass`.
                let mut own = unsafe { heads.begin(block, &scratch[member]) };
                for segment in block.segments.clone() {
                    heads.segment(block, segment, &mut own);
                    for (n, (sums, more)) in own.sums.chunks_exact_mut(d).zip(own.segment.chunks_exact(d)).enumerate() {
                        heads.k.join(sums, &mut own.running[n], more, own.found[n]);
                    }
                }
                for (n, sums) in own.sums.chunks_exact_mut(d).enumerate() {
                    write(block, n, sums, own.running[n]);
                }
            });
            return Ok(());
        }
        // What each piece finds has a place of its own.
        let most = blocks.iter().map(|block| block.rows.len()).max().unwrap_or(0) * group;
        let each = most * (d + 2);
        if work.found.len() < pieces.len() * each {
            work.found = MappedVec::zeroed(pieces.len() * each)?;
        }
        let found = Shared::of(&mut work.found);
        self.lead.run(pieces.len(), &|piece, member| {
            let (block, segment) = (&blocks[pieces[piece].0], pieces[piece].1);
            // SAFETY: see `Pass`.
            let mut own = unsafe { heads.begin(block, &scratch[member]) };
            heads.segment(block, segment, &mut own);
            for (n, sums) in own.segment.chunks_exact(d).enumerate() {
                // SAFETY: see `Pass`; this is the piece's place.
                let place = unsafe { found.slice(piece * each + n * (d + 2), d + 2) };
                place[..d].copy_from_slice(sums);
                (place[d], place[d + 1]) = (own.found[n].largest, own.found[n].sum);
            }
        });
        let ends = blocks.iter().scan(0, |end, block| {
            *end += block.segments.len();
            Some(*end)
        });
        for (block, end) in blocks.iter().zip(ends) {
            for n in 0..block.rows.len() * group {
                // SAFETY: see `Pass`; there is no other thread here.
                let sums = unsafe { scratch[0].own(d) };
                sums.fill(0.0);
                let mut state = Running::START;
                for piece in end - block.segments.len()..end {
                    // SAFETY: as above; the region that wrote it is over.
                    let place = unsafe { found.slice(piece * each + n * (d + 2), d + 2) };
                    let segment = Running { largest: place[d], sum: place[d + 1] };
                    heads.k.join(sums, &mut state, &place[..d], segment);
                }
                write(block, n, sums, state);
            }
        }
        Ok(())
    }
}
