//! The kernels in plain Rust: the meaning of the others, and what runs on a processor without any of their instructions.

use super::{GROUP, PLANES, Wide};

pub(super) fn hamming(query: &[u64], groups: &[u64], out: &mut [u16]) {
    for (group, out) in groups.chunks_exact(query.len() * GROUP).zip(out.chunks_exact_mut(GROUP)) {
        out.fill(0);
        for (word, rows) in query.iter().zip(group.chunks_exact(GROUP)) {
            for (out, row) in out.iter_mut().zip(rows) {
                *out += (word ^ row).count_ones() as u16;
            }
        }
    }
}

pub(super) fn at_most(distances: &[u16], limit: u16, out: &mut [u32]) {
    for (distances, out) in distances.chunks(32).zip(out) {
        *out = distances.iter().enumerate().fold(0, |mask, (i, d)| mask | u32::from(*d <= limit) << i);
    }
}

pub(super) fn wide_dots(query: &Wide, rows: &[&[u8]], out: &mut [i32]) {
    for (row, out) in rows.iter().zip(out) {
        let products = query.whole.iter().zip(*row).map(|(q, x)| i32::from(*q) * (i32::from(*x) - 128));
        *out = products.fold(0, i32::wrapping_add);
    }
}

pub(super) fn plane_dots(query: &Wide, rows: &[u64], out: &mut [i32]) {
    let words = query.whole.len() / 64;
    for (row, out) in rows.chunks_exact((words * PLANES).max(1)).zip(out) {
        let mut sum = 0i32;
        for (planes, numbers) in row.as_chunks::<PLANES>().0.iter().zip(query.whole.chunks_exact(64)) {
            for (bit, number) in numbers.iter().enumerate() {
                let code = planes.iter().fold(0, |code, plane| code << 1 | (plane >> bit & 1) as i32);
                sum = sum.wrapping_add(i32::from(*number) * code);
            }
        }
        *out = query.of_codes(sum);
    }
}

/// Partial sums side by side, so that the compiler may use whatever registers there are.
const LANES: usize = 16;

fn lanes<T: Copy>(query: &[f32], row: &[T], float: impl Fn(T) -> f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    for (q, x) in query.chunks(LANES).zip(row.chunks(LANES)) {
        for ((sum, q), x) in sums.iter_mut().zip(q).zip(x) {
            *sum += q * float(*x);
        }
    }
    sums.iter().sum()
}

pub(super) fn float_dots(query: &[f32], rows: &[&[f32]], out: &mut [f32]) {
    for (row, out) in rows.iter().zip(out) {
        *out = lanes(query, row, |x| x);
    }
}

pub(super) fn half_dots(query: &[f32], rows: &[&[u16]], out: &mut [f32]) {
    for (row, out) in rows.iter().zip(out) {
        *out = lanes(query, row, half_to_float);
    }
}

/// A half as a float, exactly; what stands for infinity or no number comes out as a large number.
#[inline(always)]
pub(crate) fn half_to_float(half: u16) -> f32 {
    // The exponent of a half is 112 less than that of a float; multiplying also normalises what is below a half's normal range.
    const SCALE: f32 = f32::from_bits((127 + 112) << 23);
    let magnitude = f32::from_bits(u32::from(half & 0x7fff) << 13) * SCALE;
    f32::from_bits(magnitude.to_bits() | u32::from(half & 0x8000) << 16)
}

/// The nearest half of a finite float, ties to even; what is too large becomes the largest half.
pub(crate) fn to_half(float: f32) -> u16 {
    const LARGEST: u16 = 0x7bff;
    let bits = float.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    // Below 2^-14 a half counts in steps of 2^-24, as does a float between 0.5 and 1: adding 0.5 rounds to them.
    let half = if magnitude < (127 - 14) << 23 {
        (f32::from_bits(magnitude) + 0.5).to_bits() - 0.5f32.to_bits()
    } else {
        let even = magnitude >> 13 & 1;
        ((magnitude - (112 << 23)) + 0xfff + even) >> 13
    };
    sign | half.min(u32::from(LARGEST)) as u16
}

/// The largest sum of the codes whose bits a row has set.
pub(super) fn best_sign_sum(codes: &[i8], rows: &[u64]) -> i32 {
    let sum = |row: &[u64]| -> i32 {
        let words = codes.chunks_exact(64).zip(row);
        let word = |(codes, word): (&[i8], &u64)| -> i32 {
            codes.iter().enumerate().map(|(bit, code)| i32::from(*code) * (word >> bit & 1) as i32).sum()
        };
        words.map(word).sum()
    };
    rows.chunks_exact((codes.len() / 64).max(1)).map(sum).max().unwrap_or(i32::MIN)
}
