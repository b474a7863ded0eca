//! Attention over one page of keys and values.
//!
//! **Form.** A page has the keys of [`PAGE`] positions side by side (`keys[d][position]`) and its values one position after
//! the other (`values[position][d]`), both in half precision. So both products run over a page without a horizontal sum:
//! 64 scores of a query are four registers that grow by one number of the query per step, and a piece of its result is four
//! registers that grow by one position per step, for several queries at once.
//!
//! **Order.** A score is a sum over `d` in order, a result a sum over the positions in order, page after page with the online
//! softmax of Milakov and Gimelshein (2018): the largest score so far, the sum of `exp(score − largest)`, and the results
//! scaled down when a larger score appears. Pages lie at fixed positions, so what a position sees does not depend on how many
//! positions are computed beside it.

use super::lanes::{LANES, Lanes, exp};
use super::wide::Wide;

/// Positions in a page of keys and values.
pub const PAGE: usize = 64;
/// Registers of one row of [`PAGE`] scores.
const WIDTH: usize = PAGE / LANES;

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

/// Half-precision numbers, sixteen at a time.
#[inline(always)]
fn sixteen<V: Wide>(from: &[u8], at: usize) -> V {
    match from.get(2 * at..).and_then(|rest| rest.first_chunk()) {
        Some(bytes) => V::of_f16(bytes),
        None => unreachable!("the caller has checked the length of the page"),
    }
}

/// `scores[i][t] = q_i · k_t` for every query, `d` numbers each, and all positions of a page.
#[inline(always)]
pub(super) fn scores<V: Wide, const N: usize>(q: &[f32], d: usize, keys: &[u8], scores: &mut [f32]) {
    assert!(keys.len() >= 2 * d * PAGE);
    let mut i = 0;
    let count = q.len() / d;
    while i < count {
        let (q, to) = (&q[i * d..], &mut scores[i * PAGE..]);
        // A token that is being generated has few queries, and reads every key for them: they share it.
        i += match count - i {
            left if left >= N => some_scores::<V, N>(q, d, keys, to),
            left if left >= 4 && N > 4 => some_scores::<V, 4>(q, d, keys, to),
            left if left >= 2 && N > 2 => some_scores::<V, 2>(q, d, keys, to),
            _ => some_scores::<V, 1>(q, d, keys, to),
        };
    }
}

#[inline(always)]
fn some_scores<V: Wide, const N: usize>(q: &[f32], d: usize, keys: &[u8], to: &mut [f32]) -> usize {
    let mut rows: [&[f32]; N] = [&[]; N];
    for (row, q) in rows.iter_mut().zip(q.chunks_exact(d)) {
        *row = q;
    }
    let mut sums = [[V::zero(); WIDTH]; N];
    for (j, keys) in keys.chunks_exact(2 * PAGE).take(d).enumerate() {
        let keys = [sixteen::<V>(keys, 0), sixteen(keys, LANES), sixteen(keys, 2 * LANES), sixteen(keys, 3 * LANES)];
        for n in 0..N {
            let x = V::splat(rows[n][j]);
            for w in 0..WIDTH {
                sums[n][w] = x.fma(keys[w], sums[n][w]);
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

/// Makes weights of the scores of one query: those at `from..to` count, the others become 0. Gives the factor for what was
/// summed before. With a `cap`, a score is `cap × tanh(scale × score / cap)`.
#[inline(always)]
pub(super) fn weigh(
    scores: &mut [f32],
    valid: std::ops::Range<usize>,
    scale: f32,
    cap: f32,
    state: &mut Running,
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
        scores.fill(0.0);
        return 1.0;
    }
    let largest = if largest > state.largest { largest } else { state.largest };
    let factor = exp(state.largest - largest);
    let mut sum = Lanes::ZERO;
    for at in (0..PAGE).step_by(LANES) {
        let weights = Lanes::load(scores, at).map(
            #[inline(always)]
            |score| exp(score - largest),
        );
        weights.store(scores, at);
        sum = sum.plus(weights);
    }
    *state = Running { largest, sum: state.sum.mul_add(factor, sum.sum()) };
    factor
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
pub(super) fn mix<V: Wide, const N: usize>(
    weights: &[f32],
    factors: &[f32],
    d: usize,
    values: &[u8],
    sums: &mut [f32],
) {
    assert!(values.len() >= 2 * d * PAGE && sums.len() >= factors.len() * d && weights.len() >= factors.len() * PAGE);
    let mut i = 0;
    while i < factors.len() {
        let (weights, left, sums) = (&weights[i * PAGE..], &factors[i..], &mut sums[i * d..]);
        i += match left.len() {
            count if count >= N => some_mix::<V, N>(weights, left, d, values, sums),
            count if count >= 4 && N > 4 => some_mix::<V, 4>(weights, left, d, values, sums),
            count if count >= 2 && N > 2 => some_mix::<V, 2>(weights, left, d, values, sums),
            _ => some_mix::<V, 1>(weights, left, d, values, sums),
        };
    }
}

#[inline(always)]
fn some_mix<V: Wide, const N: usize>(
    weights: &[f32],
    factors: &[f32],
    d: usize,
    values: &[u8],
    sums: &mut [f32],
) -> usize {
    let mut rows: [&[f32]; N] = [&[]; N];
    for (row, weights) in rows.iter_mut().zip(weights.chunks_exact(PAGE)) {
        *row = weights;
    }
    let mut c = 0;
    while c + PAGE <= d {
        let mut tile = [[V::zero(); WIDTH]; N];
        for n in 0..N {
            let factor = V::splat(factors[n]);
            for (w, sum) in tile[n].iter_mut().enumerate() {
                // What was summed before is scaled with one rounding.
                *sum = factor.fma(load::<V>(sums, n * d + c + w * LANES), V::zero());
            }
        }
        let mut t = 0;
        while t < PAGE {
            let at = t * d + c;
            let v = [
                sixteen::<V>(values, at),
                sixteen(values, at + LANES),
                sixteen(values, at + 2 * LANES),
                sixteen(values, at + 3 * LANES),
            ];
            for n in 0..N {
                let weight = V::splat(rows[n][t]);
                for (sum, v) in tile[n].iter_mut().zip(v) {
                    *sum = weight.fma(v, *sum);
                }
            }
            t += 1;
        }
        for (n, tile) in tile.into_iter().enumerate() {
            for (w, sum) in tile.into_iter().enumerate() {
                if let Some(to) = sums.get_mut(n * d + c + w * LANES..).and_then(|rest| rest.first_chunk_mut()) {
                    sum.store(to);
                }
            }
        }
        c += PAGE;
    }
    // The rest sixteen columns at a time, then column by column: the order over the positions is the same.
    while c + LANES <= d {
        for n in 0..N {
            let mut sum = V::splat(factors[n]).fma(load::<V>(sums, n * d + c), V::zero());
            for (t, weight) in rows[n].iter().enumerate() {
                sum = V::splat(*weight).fma(sixteen(values, t * d + c), sum);
            }
            if let Some(to) = sums.get_mut(n * d + c..).and_then(|rest| rest.first_chunk_mut()) {
                sum.store(to);
            }
        }
        c += LANES;
    }
    while c < d {
        for n in 0..N {
            let mut sum = factors[n].mul_add(sums[n * d + c], 0.0);
            for (t, weight) in rows[n].iter().enumerate() {
                let at = 2 * (t * d + c);
                let value = super::half(u16::from_le_bytes([values[at], values[at + 1]]));
                sum = weight.mul_add(value, sum);
            }
            sums[n * d + c] = sum;
        }
        c += 1;
    }
    N
}

#[inline(always)]
fn load<V: Wide>(from: &[f32], at: usize) -> V {
    match from.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(lanes) => V::load(lanes),
        None => unreachable!("the caller has checked the length of the sums"),
    }
}
