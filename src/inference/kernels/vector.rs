//! What is done to one row at a time: norms, softmax, gates.

use super::lanes::{LANES, Lanes, exp, gelu_tanh};

/// Calls `f` on sixteen numbers at a time with their index, the last ones padded with zeros, and folds with `join`.
#[inline(always)]
fn fold(x: &[f32], start: Lanes, pad: f32, join: impl Fn(Lanes, Lanes) -> Lanes) -> Lanes {
    let mut sum = start;
    let whole = x.len() / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        sum = join(sum, Lanes::load(x, at));
    }
    if whole < x.len() {
        let mut end = Lanes::splat(pad);
        end.0[..x.len() - whole].copy_from_slice(&x[whole..]);
        sum = join(sum, end);
    }
    sum
}

#[inline(always)]
fn sum(x: &[f32]) -> f32 {
    fold(
        x,
        Lanes::ZERO,
        0.0,
        #[inline(always)]
        |s, v| s.plus(v),
    )
    .sum()
}

#[inline(always)]
pub(super) fn sum_of_squares(x: &[f32]) -> f32 {
    fold(
        x,
        Lanes::ZERO,
        0.0,
        #[inline(always)]
        |s, v| v.fma(v, s),
    )
    .sum()
}

#[inline(always)]
pub(super) fn largest(x: &[f32]) -> f32 {
    fold(
        x,
        Lanes::splat(f32::NEG_INFINITY),
        f32::NEG_INFINITY,
        #[inline(always)]
        |s, v| v.max(s),
    )
    .largest()
}

#[inline(always)]
pub(super) fn exp_sum(row: &[f32], peak: f32) -> f32 {
    fold(
        row,
        Lanes::ZERO,
        f32::NEG_INFINITY,
        #[inline(always)]
        |s, v| {
            s.plus(v.map(
                #[inline(always)]
                |x| exp(x - peak),
            ))
        },
    )
    .sum()
}

#[inline(always)]
pub(super) fn rms_norm(x: &[f32], gain: &[f32], epsilon: f32, out: &mut [f32]) {
    let factor = 1.0 / (sum_of_squares(x) / x.len() as f32 + epsilon).sqrt();
    for ((o, &x), &g) in out.iter_mut().zip(x).zip(gain) {
        *o = x * factor * g;
    }
}

#[inline(always)]
pub(super) fn layer_norm(x: &mut [f32], gain: &[f32], offset: &[f32], epsilon: f32) {
    let mean = sum(x) / x.len() as f32;
    for v in x.iter_mut() {
        *v -= mean;
    }
    let factor = 1.0 / (sum_of_squares(x) / x.len() as f32 + epsilon).sqrt();
    for ((v, &g), &o) in x.iter_mut().zip(gain).zip(offset) {
        *v = (*v * factor).mul_add(g, o);
    }
}

#[inline(always)]
pub(super) fn add(x: &mut [f32], y: &[f32]) {
    for (a, &b) in x.iter_mut().zip(y) {
        *a += b;
    }
}

#[inline(always)]
pub(super) fn scale(x: &mut [f32], factor: f32) {
    for a in x.iter_mut() {
        *a *= factor;
    }
}

#[inline(always)]
pub(super) fn gelu_tanh_times(gate: &mut [f32], up: &[f32]) {
    for (g, &u) in gate.iter_mut().zip(up) {
        *g = gelu_tanh(*g) * u;
    }
}
