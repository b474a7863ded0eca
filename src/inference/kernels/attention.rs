//! Attention over one page of keys and values.
//!
//! **Form.** Queries, keys, weights and values are bf16, two to a cell of four bytes ([`super::cells`]); scores, results and the
//! softmax are f32. A page has the keys of [`PAGE`] positions side by side (`keys[d / 2][position]`, a cell holds two numbers
//! of one position) and behind them its values, two positions to a cell (`values[position / 2][d]`). So both products run
//! over a page without a horizontal sum: 64 scores of a query are four registers that grow by two numbers of the query per
//! step, and a piece of its result is four registers that grow by two positions per step, for several queries at once.
//!
//! **Why bf16.** Where the CPU multiplies it (`vdpbf16ps`), twice as many products per cycle as in f32: attention is what a
//! long prompt waits for. Its range is that of f32 (Gemma's values can pass 65,504, where f16 ends); its rounding, 2⁻⁹ of each
//! number, averages out in sums over 256 numbers and over positions, and is below that of the 8-bit inputs of the products
//! around it. It is what Gemma was trained in. Elsewhere a cell is taken apart and multiplied in f32, with the same bits.
//!
//! **Order.** A score is a sum over `d` in order, a result a sum over the positions in order, the upper half of a cell before
//! the lower one, as the instruction has it; page after page with the online softmax of Milakov and Gimelshein (2018): the
//! largest score so far, the sum of `exp(score − largest)`, and the results scaled down when a larger score appears. After
//! every [`SEGMENT`] positions a new softmax begins, and segments are joined in order ([`join`]): threads can divide the
//! segments of one long text without changing a bit. Pages and segments lie at fixed positions, so what a position sees
//! does not depend on how many positions are computed beside it.
//!
//! Rejected: f16 (a conversion per load, no faster product on most CPUs); keys in 8 bits with integer products (four times f32,
//! but the weights times the values would still need 16 bits, and queries get noise for every user, not for those who ask).

use super::cells::{self, Cell};
use super::lanes::{LANES, Lanes, bf16, exp};
use super::wide::Wide;

/// Positions in a page of keys and values.
pub const PAGE: usize = 64;
/// Positions over which one softmax runs before it is joined with those before.
pub const SEGMENT: usize = 4 * PAGE;
/// Registers of one row of [`PAGE`] scores.
const WIDTH: usize = PAGE / LANES;
/// How far ahead of the scores keys are asked for, in cells.
const AHEAD: usize = 512;
/// Queries up to which memory is what they wait for: then keys and values are asked for, the values of a page while it is
/// scored, the keys of the next while it is mixed. The CPU by itself reads ahead no further than 4 KB, and not across the
/// rows of values at all.
const FEW: usize = 4;

/// How far one query is: the largest score, and the sum of the weights relative to it.
#[derive(Clone, Copy, Debug)]
pub struct Running {
    /// The largest score of the pages seen.
    pub largest: f32,
    /// `Σ exp(score − largest)` over them.
    pub sum: f32,
}

impl Running {
    /// Before the first page.
    pub const START: Running = Running { largest: f32::NEG_INFINITY, sum: 0.0 };
}

/// Asks for the 256 bytes at a place, if they are there.
#[inline(always)]
fn ask<V: Wide>(cells: &[u32], at: usize) {
    if let Some(cells) = cells.get(at..at + PAGE) {
        V::prefetch(cells);
    }
}

/// Sixteen cells.
#[inline(always)]
fn sixteen(from: &[u32], at: usize) -> &[u32; LANES] {
    match from.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(cells) => cells,
        None => unreachable!("the caller has checked the length of the page"),
    }
}

/// `scores[i][t] = q_i · k_t` for every query, `d / 2` cells each, and all positions of a page.
#[inline(always)]
pub(super) fn scores<C: Cell, const N: usize>(q: &[u32], d: usize, page: &[u32], scores: &mut [f32]) {
    let each = d / 2;
    assert!(page.len() >= d * PAGE && d.is_multiple_of(2));
    let mut i = 0;
    let count = q.len() / each;
    while i < count {
        let (q, to) = (&q[i * each..], &mut scores[i * PAGE..]);
        // A token that is being generated has few queries, and reads every key for them: they share it.
        i += match count - i {
            left if left >= N => some_scores::<C, N>(q, each, page, to),
            left if left >= 4 && N > 4 => some_scores::<C, 4>(q, each, page, to),
            left if left >= 2 && N > 2 => some_scores::<C, 2>(q, each, page, to),
            _ => some_scores::<C, 1>(q, each, page, to),
        };
    }
}

#[inline(always)]
fn some_scores<C: Cell, const N: usize>(q: &[u32], each: usize, page: &[u32], to: &mut [f32]) -> usize {
    let mut rows: [&[u32]; N] = [&[]; N];
    for (row, q) in rows.iter_mut().zip(q.chunks_exact(each)) {
        *row = q;
    }
    let mut sums = [[C::Wide::zero(); WIDTH]; N];
    for (j, keys) in page.chunks_exact(PAGE).take(each).enumerate() {
        if N <= FEW {
            ask::<C::Wide>(page, j * PAGE + AHEAD);
            ask::<C::Wide>(page, (each + j) * PAGE);
        }
        for n in 0..N {
            let q = rows[n][j];
            for (w, sum) in sums[n].iter_mut().enumerate() {
                *sum = C::step(q, sixteen(keys, w * LANES), *sum);
            }
        }
    }
    for (to, sums) in to.as_chunks_mut::<LANES>().0.chunks_exact_mut(WIDTH).zip(sums) {
        for (to, sum) in to.iter_mut().zip(sums) {
            sum.store(to);
        }
    }
    N
}

/// Makes weights, as cells, of the scores of one query: those at `valid` count, the others become 0. Gives the factor for
/// what was summed before. With a `cap`, a score is `cap × tanh(scale × score / cap)`. `scores` is used up.
#[inline(always)]
pub(super) fn weigh<C: Cell>(
    scores: &mut [f32],
    valid: std::ops::Range<usize>,
    scale: f32,
    cap: f32,
    state: &mut Running,
    weights: &mut [u32],
) -> f32 {
    let Some(scores) = scores.first_chunk_mut::<PAGE>() else { return 1.0 };
    for (t, score) in scores.iter_mut().enumerate() {
        let scaled = *score * scale;
        let capped = if cap > 0.0 { cap * tanh(scaled / cap) } else { scaled };
        *score = if t >= valid.start && t < valid.end { capped } else { f32::NEG_INFINITY };
    }
    let mut largest = Lanes::splat(f32::NEG_INFINITY);
    for at in (0..PAGE).step_by(LANES) {
        largest = Lanes::load(scores, at).max(largest);
    }
    let largest = largest.largest();
    if largest == f32::NEG_INFINITY {
        weights.fill(0);
        return 1.0;
    }
    let largest = if largest > state.largest { largest } else { state.largest };
    let factor = exp(state.largest - largest);
    let mut sum = Lanes::ZERO;
    for at in (0..PAGE).step_by(LANES) {
        // Their sum is that of the weights that will be used: a mean of equal values stays what they are.
        let weights = Lanes::load(scores, at).map(
            #[inline(always)]
            |score| bf16(exp(score - largest)),
        );
        weights.store(scores, at);
        sum = sum.plus(weights);
    }
    cells::pack::<C>(scores, weights);
    *state = Running { largest, sum: state.sum.mul_add(factor, sum.sum()) };
    factor
}

/// The cells of a page of keys and values in 8 bits: 64 × `d` pairs of bytes in the order of the cells, then scales in bf16, for
/// keys of each group of 32 numbers 64 positions side by side, for values of each position its groups.
#[inline(always)]
pub(super) fn unpack(page: &[u8], to: &mut [u32]) {
    let (d, half) = (to.len() / PAGE, page.len() / 2);
    let groups = d.div_ceil(GROUP);
    assert!(to.len() == d * PAGE && page.len() == 2 * PAGE * (d + 2 * groups));
    let (keys, values) = page.split_at(half);
    let (key_cells, value_cells) = to.split_at_mut(d * PAGE / 2);
    let (keys, scales) = keys.split_at(d * PAGE);
    for (j, (cells, pairs)) in key_cells.chunks_exact_mut(PAGE).zip(keys.chunks_exact(2 * PAGE)).enumerate() {
        let scales = &scales[2 * PAGE * (2 * j / GROUP)..][..2 * PAGE];
        let scales = scales.as_chunks::<2>().0;
        for ((cell, pair), scale) in cells.iter_mut().zip(pairs.as_chunks::<2>().0).zip(scales) {
            let scale = of_bf16(*scale);
            *cell = cell_of(*pair, scale, scale);
        }
    }
    let (values, scales) = values.split_at(d * PAGE);
    let scales = scales.chunks_exact(4 * groups.max(1));
    for ((cells, pairs), scales) in
        value_cells.chunks_exact_mut(d.max(1)).zip(values.chunks_exact(2 * d.max(1))).zip(scales)
    {
        let (first, second) = scales.as_chunks::<2>().0.split_at(groups);
        let groups = first.iter().zip(second);
        for ((cells, pairs), (first, second)) in cells.chunks_mut(GROUP).zip(pairs.chunks(2 * GROUP)).zip(groups) {
            let (first, second) = (of_bf16(*first), of_bf16(*second));
            for (cell, pair) in cells.iter_mut().zip(pairs.as_chunks::<2>().0) {
                *cell = cell_of(*pair, first, second);
            }
        }
    }
}

/// Numbers of a position that share a scale.
const GROUP: usize = 32;

#[inline(always)]
fn of_bf16(bytes: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_ne_bytes(bytes)) << 16)
}

#[inline(always)]
fn cell_of(pair: [u8; 2], low: f32, high: f32) -> u32 {
    let number = |byte: u8, scale: f32| bf16(f32::from(byte.cast_signed()) * scale).to_bits();
    number(pair[0], low) >> 16 | number(pair[1], high)
}

/// Joins a segment with those before it: `sums = sums × exp(state − both) + more × exp(segment − both)`.
#[inline(always)]
pub(super) fn join(sums: &mut [f32], state: &mut Running, more: &[f32], segment: Running) {
    if segment.largest == f32::NEG_INFINITY {
        return;
    }
    let largest = if segment.largest > state.largest { segment.largest } else { state.largest };
    let (before, now) = (exp(state.largest - largest), exp(segment.largest - largest));
    for (sum, more) in sums.iter_mut().zip(more) {
        *sum = more.mul_add(now, *sum * before);
    }
    *state = Running { largest, sum: segment.sum.mul_add(now, state.sum * before) };
}

/// `x = cap × tanh(x / cap)`.
#[inline(always)]
pub(super) fn bend(x: &mut [f32], cap: f32) {
    for x in x {
        *x = cap * tanh(*x / cap);
    }
}

/// `tanh(x)`, by the exponential.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let e = exp(-2.0 * x.abs());
    let t = (1.0 - e) / (1.0 + e);
    if x < 0.0 { -t } else { t }
}

/// `sums_i = factor_i × sums_i + Σ_t weights[i][t] · v_t`, `d` numbers each, over all positions of a page.
#[inline(always)]
pub(super) fn mix<C: Cell, const N: usize>(
    weights: &[u32],
    factors: &[f32],
    d: usize,
    page: &[u32],
    next: &[u32],
    sums: &mut [f32],
) {
    const EACH: usize = PAGE / 2;
    let values = &page[d * EACH..2 * d * EACH];
    assert!(sums.len() >= factors.len() * d && weights.len() >= factors.len() * EACH);
    let mut i = 0;
    while i < factors.len() {
        let (weights, left, sums) = (&weights[i * EACH..], &factors[i..], &mut sums[i * d..]);
        i += match left.len() {
            count if count >= N => some_mix::<C, N>(weights, left, d, (values, next), sums),
            count if count >= 4 && N > 4 => some_mix::<C, 4>(weights, left, d, (values, next), sums),
            count if count >= 2 && N > 2 => some_mix::<C, 2>(weights, left, d, (values, next), sums),
            _ => some_mix::<C, 1>(weights, left, d, (values, next), sums),
        };
    }
}

#[inline(always)]
fn some_mix<C: Cell, const N: usize>(
    weights: &[u32],
    factors: &[f32],
    d: usize,
    (values, next): (&[u32], &[u32]),
    sums: &mut [f32],
) -> usize {
    let mut rows: [&[u32]; N] = [&[]; N];
    for (row, weights) in rows.iter_mut().zip(weights.chunks_exact(PAGE / 2)) {
        *row = weights;
    }
    let mut c = 0;
    while c + PAGE <= d {
        columns::<C, N, WIDTH>(&rows, factors, d, (values, next), c, sums);
        c += PAGE;
    }
    // The rest sixteen columns at a time, then column by column: the order over the positions is the same.
    while c + LANES <= d {
        columns::<C, N, 1>(&rows, factors, d, (values, &[]), c, sums);
        c += LANES;
    }
    let halves = |cell: u32| (f32::from_bits(cell << 16), f32::from_bits(cell & 0xffff_0000));
    while c < d {
        for n in 0..N {
            let mut sum = factors[n] * sums[n * d + c];
            for (t, weight) in rows[n].iter().enumerate() {
                let ((weight, above), (value, upper)) = (halves(*weight), halves(values[t * d + c]));
                sum = weight.mul_add(value, above.mul_add(upper, sum));
            }
            sums[n * d + c] = sum;
        }
        c += 1;
    }
    N
}

/// `W × 16` columns from `c` on, of all positions.
#[inline(always)]
fn columns<C: Cell, const N: usize, const W: usize>(
    rows: &[&[u32]; N],
    factors: &[f32],
    d: usize,
    (values, next): (&[u32], &[u32]),
    c: usize,
    sums: &mut [f32],
) {
    let mut tile = [[C::Wide::zero(); W]; N];
    for n in 0..N {
        let factor = C::Wide::splat(factors[n]);
        for (w, sum) in tile[n].iter_mut().enumerate() {
            // What was summed before is scaled with one rounding.
            *sum = factor.fma(load(sums, n * d + c + w * LANES), C::Wide::zero());
        }
    }
    for t in 0..PAGE / 2 {
        let values = &values[t * d + c..t * d + c + W * LANES];
        if N <= FEW {
            // As many steps as there are, as many lines have the keys.
            ask::<C::Wide>(next, (c / 2 + t) * PAGE);
        }
        for n in 0..N {
            let weight = rows[n][t];
            for (w, sum) in tile[n].iter_mut().enumerate() {
                *sum = C::step(weight, sixteen(values, w * LANES), *sum);
            }
        }
    }
    for (n, tile) in tile.into_iter().enumerate() {
        for (w, sum) in tile.into_iter().enumerate() {
            if let Some(to) = sums.get_mut(n * d + c + w * LANES..).and_then(|rest| rest.first_chunk_mut()) {
                sum.store(to);
            }
        }
    }
}

#[inline(always)]
fn load<V: Wide>(from: &[f32], at: usize) -> V {
    match from.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(lanes) => V::load(lanes),
        None => unreachable!("the caller has checked the length of the sums"),
    }
}
