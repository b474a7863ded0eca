//! NEON, which every AArch64 has.

use super::{GROUP, PLANES, Wide, scalar};
use std::arch::aarch64::*;

#[target_feature(enable = "neon")]
pub(super) fn hamming(query: &[u64], groups: &[u64], out: &mut [u16]) {
    for (group, out) in groups.chunks_exact(query.len() * GROUP).zip(out.chunks_exact_mut(GROUP)) {
        let mut sums = [vdupq_n_u64(0); 4];
        for (word, rows) in query.iter().zip(group.chunks_exact(GROUP)) {
            let word = vdupq_n_u64(*word);
            for (sum, rows) in sums.iter_mut().zip(rows.chunks_exact(2)) {
                // SAFETY: `rows` is two words.
                let differing = veorq_u64(unsafe { vld1q_u64(rows.as_ptr()) }, word);
                let ones = vpaddlq_u16(vpaddlq_u8(vcntq_u8(vreinterpretq_u8_u64(differing))));
                *sum = vpadalq_u32(*sum, ones);
            }
        }
        let four = |a, b| vmovn_u32(vcombine_u32(vmovn_u64(a), vmovn_u64(b)));
        let all = vcombine_u16(four(sums[0], sums[1]), four(sums[2], sums[3]));
        // SAFETY: `out` is eight distances.
        unsafe { vst1q_u16(out.as_mut_ptr(), all) };
    }
}

#[target_feature(enable = "neon")]
pub(super) fn at_most(distances: &[u16], limit: u16, out: &mut [u32]) {
    const BITS: [u16; 8] = [1, 2, 4, 8, 16, 32, 64, 128];
    // SAFETY: eight numbers.
    let bits = unsafe { vld1q_u16(BITS.as_ptr()) };
    let limits = vdupq_n_u16(limit);
    let whole = distances.chunks_exact(32);
    let rest = whole.remainder();
    let full = whole.len().min(out.len());
    let (full, out_rest) = out.split_at_mut(full);
    for (distances, out) in whole.zip(full) {
        *out = distances.chunks_exact(8).enumerate().fold(0, |mask, (n, eight)| {
            // SAFETY: `eight` is eight distances.
            let within = vcleq_u16(unsafe { vld1q_u16(eight.as_ptr()) }, limits);
            mask | u32::from(vaddvq_u16(vandq_u16(within, bits))) << (8 * n)
        });
    }
    scalar::at_most(rest, limit, out_rest);
}

#[target_feature(enable = "neon")]
pub(super) fn wide_dots(query: &Wide, rows: &[&[u8]], out: &mut [i32]) {
    for (row, out) in rows.iter().zip(out) {
        let length = row.len().min(query.whole.len());
        let mut sums = [vdupq_n_s32(0); 4];
        for at in (0..length / 16 * 16).step_by(16) {
            // SAFETY: `at + 16` is within `length`, which is no more than the length of both.
            unsafe {
                let x = vld1q_u8(row.as_ptr().add(at));
                let low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(x)));
                let high = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(x)));
                let (q, r) = (vld1q_s16(query.whole.as_ptr().add(at)), vld1q_s16(query.whole.as_ptr().add(at + 8)));
                sums[0] = vmlal_s16(sums[0], vget_low_s16(low), vget_low_s16(q));
                sums[1] = vmlal_high_s16(sums[1], low, q);
                sums[2] = vmlal_s16(sums[2], vget_low_s16(high), vget_low_s16(r));
                sums[3] = vmlal_high_s16(sums[3], high, r);
            }
        }
        let sum = vaddvq_s32(vaddq_s32(vaddq_s32(sums[0], sums[1]), vaddq_s32(sums[2], sums[3])));
        *out = sum.wrapping_sub(query.offset);
    }
}

/// Bits become bytes with the weight of their plane, which add up to the codes.
#[target_feature(enable = "neon")]
pub(super) fn plane_dots(query: &Wide, rows: &[u64], out: &mut [i32]) {
    const BITS: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];
    // SAFETY: sixteen bytes.
    let bits = unsafe { vld1q_u8(BITS.as_ptr()) };
    let words = query.whole.len() / 64;
    for (row, out) in rows.chunks_exact((words * PLANES).max(1)).zip(out) {
        let mut sums = [vdupq_n_s32(0); 4];
        for (quarter, numbers) in query.whole.as_chunks::<16>().0.iter().enumerate() {
            let planes = row.get(quarter / 4 * PLANES..quarter / 4 * PLANES + PLANES).unwrap_or(&[0; PLANES]);
            let mut codes = vdupq_n_u8(0);
            for (plane, weight) in planes.iter().zip([8, 4, 2, 1]) {
                let two = plane >> (quarter % 4 * 16);
                let bytes = vcombine_u8(vdup_n_u8(two as u8), vdup_n_u8((two >> 8) as u8));
                codes = vorrq_u8(codes, vandq_u8(vtstq_u8(bytes, bits), vdupq_n_u8(weight)));
            }
            let low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(codes)));
            let high = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(codes)));
            // SAFETY: `numbers` is sixteen of two bytes.
            let (q, r) = unsafe { (vld1q_s16(numbers.as_ptr()), vld1q_s16(numbers.as_ptr().add(8))) };
            sums[0] = vmlal_s16(sums[0], vget_low_s16(low), vget_low_s16(q));
            sums[1] = vmlal_high_s16(sums[1], low, q);
            sums[2] = vmlal_s16(sums[2], vget_low_s16(high), vget_low_s16(r));
            sums[3] = vmlal_high_s16(sums[3], high, r);
        }
        *out = query.of_codes(vaddvq_s32(vaddq_s32(vaddq_s32(sums[0], sums[1]), vaddq_s32(sums[2], sums[3]))));
    }
}

#[target_feature(enable = "neon")]
pub(super) fn float_dots(query: &[f32], rows: &[&[f32]], out: &mut [f32]) {
    for (row, out) in rows.iter().zip(out) {
        let length = row.len().min(query.len());
        let mut sums = [vdupq_n_f32(0.0); 4];
        for at in (0..length / 16 * 16).step_by(16) {
            for (n, sum) in sums.iter_mut().enumerate() {
                // SAFETY: `at + 16` is within `length`, which is no more than the length of both, and `n` is below 4.
                unsafe {
                    let (q, x) = (vld1q_f32(query.as_ptr().add(at + 4 * n)), vld1q_f32(row.as_ptr().add(at + 4 * n)));
                    *sum = vfmaq_f32(*sum, q, x);
                }
            }
        }
        *out = vaddvq_f32(vaddq_f32(vaddq_f32(sums[0], sums[1]), vaddq_f32(sums[2], sums[3])));
    }
}

/// The conversion from halves is not in stable Rust; the plain one is two integer operations and a product, which the compiler
/// makes vectors of by itself.
#[target_feature(enable = "neon")]
pub(super) fn half_dots(query: &[f32], rows: &[&[u16]], out: &mut [f32]) {
    scalar::half_dots(query, rows, out);
}

/// Bits have to become bytes before they can be multiplied; what the compiler makes of the plain loop is no slower.
#[target_feature(enable = "neon")]
pub(super) fn best_sign_sum(codes: &[i8], rows: &[u64]) -> i32 {
    scalar::best_sign_sum(codes, rows)
}
