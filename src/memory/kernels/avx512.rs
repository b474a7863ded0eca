//! AVX-512 with VNNI and VPOPCNTDQ.

use super::{GROUP, PLANES, Wide};
use std::arch::x86_64::*;

/// Bytes, halves or floats to a register.
const BYTES: usize = 64;
const FLOATS: usize = 16;

/// A group at a time: the processor works ahead on the next while this one adds up, and memory is read in its order, which it
/// fetches a quarter faster than four groups side by side.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vpopcntdq")]
pub(super) fn hamming(query: &[u64], groups: &[u64], out: &mut [u16]) {
    for (group, out) in groups.chunks_exact(query.len() * GROUP).zip(out.chunks_exact_mut(GROUP)) {
        let mut sum = _mm512_setzero_si512();
        for (word, rows) in query.iter().zip(group.chunks_exact(GROUP)) {
            // SAFETY: `rows` is eight words.
            let rows = unsafe { _mm512_loadu_si512(rows.as_ptr().cast()) };
            let differing = _mm512_xor_si512(rows, _mm512_set1_epi64(*word as i64));
            sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(differing));
        }
        // SAFETY: `out` is eight distances.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm512_cvtepi64_epi16(sum)) };
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn at_most(distances: &[u16], limit: u16, out: &mut [u32]) {
    let limits = _mm512_set1_epi16(limit as i16);
    let whole = distances.chunks_exact(32);
    let rest = whole.remainder();
    let full = whole.len().min(out.len());
    let (full, out_rest) = out.split_at_mut(full);
    for (distances, out) in whole.zip(full) {
        // SAFETY: `distances` is 32 of two bytes.
        let distances = unsafe { _mm512_loadu_si512(distances.as_ptr().cast()) };
        *out = _mm512_cmple_epu16_mask(distances, limits);
    }
    super::scalar::at_most(rest, limit, out_rest);
}

/// The sums of four registers of sixteen numbers each.
#[target_feature(enable = "avx512f,avx2")]
fn sums(a: __m512i, b: __m512i, c: __m512i, d: __m512i) -> [i32; 4] {
    let half = |x| _mm256_add_epi32(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64::<1>(x));
    let all = _mm256_hadd_epi32(_mm256_hadd_epi32(half(a), half(b)), _mm256_hadd_epi32(half(c), half(d)));
    let all = _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256::<1>(all));
    let mut out = [0; 4];
    // SAFETY: `out` has the size of the register.
    unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), all) };
    out
}

/// Four rows at a time: they share the loads of the query and the sums across registers, which are half of the work on rows this short.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2")]
pub(super) fn wide_dots(query: &Wide, rows: &[&[u8]], out: &mut [i32]) {
    let zero = _mm512_setzero_si512();
    for (rows, out) in rows.chunks(4).zip(out.chunks_mut(4)) {
        // Rows that are not there are the first again.
        let row = |n: usize| rows.get(n).or(rows.first()).copied().unwrap_or(&[]);
        let rows = [row(0), row(1), row(2), row(3)];
        let length = rows.iter().fold(query.high.len().min(query.low.len()), |length, row| length.min(row.len()));
        let (mut high, mut low) = ([zero; 4], [zero; 4]);
        for at in (0..length / BYTES * BYTES).step_by(BYTES) {
            // SAFETY: `at + 64` is within `length`, which is no more than the length of each of these.
            unsafe {
                let h = _mm512_loadu_si512(query.high.as_ptr().add(at).cast());
                let l = _mm512_loadu_si512(query.low.as_ptr().add(at).cast());
                for n in 0..4 {
                    let x = _mm512_loadu_si512(rows[n].as_ptr().add(at).cast());
                    high[n] = _mm512_dpbusd_epi32(high[n], x, h);
                    low[n] = _mm512_dpbusd_epi32(low[n], x, l);
                }
            }
        }
        let whole = |n: usize| _mm512_add_epi32(_mm512_slli_epi32::<8>(high[n]), low[n]);
        for (out, sum) in out.iter_mut().zip(sums(whole(0), whole(1), whole(2), whole(3))) {
            *out = sum.wrapping_sub(query.offset);
        }
    }
}

/// A mask register is a plane of 64 numbers: it lets its weight through into the code of each, or nothing.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2")]
pub(super) fn plane_dots(query: &Wide, rows: &[u64], out: &mut [i32]) {
    let words = query.high.len().min(query.low.len()) / BYTES;
    let (zero, weights) = (_mm512_setzero_si512(), [8, 4, 2, 1].map(|weight| _mm512_set1_epi8(weight)));
    for (rows, out) in rows.chunks((4 * words * PLANES).max(1)).zip(out.chunks_mut(4)) {
        let (mut high, mut low) = ([zero; 4], [zero; 4]);
        for (word, (h, l)) in query.high.chunks_exact(BYTES).zip(query.low.chunks_exact(BYTES)).enumerate() {
            // SAFETY: `h` and `l` are 64 bytes.
            let (h, l) = unsafe { (_mm512_loadu_si512(h.as_ptr().cast()), _mm512_loadu_si512(l.as_ptr().cast())) };
            for n in 0..4 {
                let at = (n * words + word) * PLANES;
                let planes = rows.get(at..at + PLANES).unwrap_or(&[0; PLANES]);
                let codes = planes
                    .iter()
                    .zip(weights)
                    .fold(zero, |codes, (plane, weight)| _mm512_mask_add_epi8(codes, *plane, codes, weight));
                high[n] = _mm512_dpbusd_epi32(high[n], codes, h);
                low[n] = _mm512_dpbusd_epi32(low[n], codes, l);
            }
        }
        let whole = |n: usize| _mm512_add_epi32(_mm512_slli_epi32::<8>(high[n]), low[n]);
        for (out, sum) in out.iter_mut().zip(sums(whole(0), whole(1), whole(2), whole(3))) {
            *out = query.of_codes(sum);
        }
    }
}

/// The product of a row with a query, of sixteen numbers at a time that a closure loads: four sums side by side, which do not wait for
/// each other.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn dot(query: &[f32], length: usize, load: impl Fn(usize) -> __m512) -> f32 {
    const STEP: usize = 4 * FLOATS;
    let length = length.min(query.len());
    let mut sums = [_mm512_setzero_ps(); 4];
    for at in (0..length / STEP * STEP).step_by(STEP) {
        for (n, sum) in sums.iter_mut().enumerate() {
            let at = at + n * FLOATS;
            // SAFETY: `at + 16` is within `length`, which is no more than that of the query.
            *sum = _mm512_fmadd_ps(unsafe { _mm512_loadu_ps(query.as_ptr().add(at)) }, load(at), *sum);
        }
    }
    for at in (length / STEP * STEP..length / FLOATS * FLOATS).step_by(FLOATS) {
        // SAFETY: as above.
        sums[0] = _mm512_fmadd_ps(unsafe { _mm512_loadu_ps(query.as_ptr().add(at)) }, load(at), sums[0]);
    }
    _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn float_dots(query: &[f32], rows: &[&[f32]], out: &mut [f32]) {
    for (row, out) in rows.iter().zip(out) {
        // SAFETY: `dot` loads sixteen numbers before the length that it is given.
        *out = dot(query, row.len(), |at| unsafe { _mm512_loadu_ps(row.as_ptr().add(at)) });
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn half_dots(query: &[f32], rows: &[&[u16]], out: &mut [f32]) {
    for (row, out) in rows.iter().zip(out) {
        // SAFETY: as in `float_dots`.
        *out = dot(query, row.len(), |at| unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(row.as_ptr().add(at).cast())) });
    }
}

/// A mask register is 64 signs: it lets a one through to be multiplied with each code, or nothing. Four rows share the loads of the codes and the
/// sums across registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2")]
pub(super) fn best_sign_sum(codes: &[i8], rows: &[u64]) -> i32 {
    let words = (codes.len() / BYTES).max(1);
    let (zero, one) = (_mm512_setzero_si512(), _mm512_set1_epi8(1));
    let mut best = i32::MIN;
    for rows in rows.chunks(4 * words) {
        let mut all = [zero; 4];
        for (word, codes) in codes.chunks_exact(BYTES).enumerate() {
            // SAFETY: `codes` is 64 bytes.
            let codes = unsafe { _mm512_loadu_si512(codes.as_ptr().cast()) };
            for (n, sum) in all.iter_mut().enumerate() {
                let bits = rows.get(n * words + word).copied().unwrap_or(0);
                *sum = _mm512_dpbusd_epi32(*sum, _mm512_maskz_mov_epi8(bits, one), codes);
            }
        }
        let whole = rows.len() / words;
        best = sums(all[0], all[1], all[2], all[3]).into_iter().take(whole).fold(best, i32::max);
    }
    best
}
