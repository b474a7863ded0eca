//! AVX2 with FMA and F16C.

use super::{GROUP, PLANES, Wide};
use std::arch::x86_64::*;

#[target_feature(enable = "avx2")]
pub(super) fn hamming(query: &[u64], groups: &[u64], out: &mut [u16]) {
    let low = _mm256_set1_epi8(0xf);
    let counts = _mm256_setr_epi8(
        0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,
    );
    let zero = _mm256_setzero_si256();
    // The ones of each 64 bits.
    let ones = |x: __m256i| {
        let upper = _mm256_and_si256(_mm256_srli_epi16::<4>(x), low);
        let bytes =
            _mm256_add_epi8(_mm256_shuffle_epi8(counts, _mm256_and_si256(x, low)), _mm256_shuffle_epi8(counts, upper));
        _mm256_sad_epu8(bytes, zero)
    };
    for (group, out) in groups.chunks_exact(query.len() * GROUP).zip(out.chunks_exact_mut(GROUP)) {
        let mut sums = [zero; 2];
        for (word, rows) in query.iter().zip(group.chunks_exact(GROUP)) {
            let word = _mm256_set1_epi64x(*word as i64);
            for (sum, rows) in sums.iter_mut().zip(rows.chunks_exact(4)) {
                // SAFETY: `rows` is four words.
                let rows = unsafe { _mm256_loadu_si256(rows.as_ptr().cast()) };
                *sum = _mm256_add_epi64(*sum, ones(_mm256_xor_si256(rows, word)));
            }
        }
        // The sums are below 2^16: 64 bits to 32, to 16, back in order.
        let both = _mm256_packus_epi32(sums[0], sums[1]);
        let packed = _mm256_packus_epi32(both, both);
        let ordered = _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5));
        // SAFETY: `out` is eight distances.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm256_castsi256_si128(ordered)) };
    }
}

#[target_feature(enable = "avx2")]
pub(super) fn at_most(distances: &[u16], limit: u16, out: &mut [u32]) {
    let limits = _mm256_set1_epi16(limit as i16);
    let whole = distances.chunks_exact(32);
    let rest = whole.remainder();
    let full = whole.len().min(out.len());
    let (full, out_rest) = out.split_at_mut(full);
    for (distances, out) in whole.zip(full) {
        // SAFETY: `distances` is 32 of two bytes: two registers.
        let (a, b) = unsafe {
            let at = distances.as_ptr().cast::<__m256i>();
            (_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1)))
        };
        let within = |x| _mm256_cmpeq_epi16(_mm256_min_epu16(x, limits), x);
        let bytes = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi16(within(a), within(b)));
        *out = _mm256_movemask_epi8(bytes) as u32;
    }
    super::scalar::at_most(rest, limit, out_rest);
}

/// The sum of eight numbers.
#[target_feature(enable = "avx2")]
fn sum(x: __m256i) -> i32 {
    let x = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let x = _mm_add_epi32(x, _mm_shuffle_epi32::<0b01_00_11_10>(x));
    _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32::<0b10_11_00_01>(x)))
}

#[target_feature(enable = "avx2,fma")]
fn sum_floats(x: __m256) -> f32 {
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps::<1>(x, x)))
}

#[target_feature(enable = "avx2")]
pub(super) fn wide_dots(query: &Wide, rows: &[&[u8]], out: &mut [i32]) {
    for (row, out) in rows.iter().zip(out) {
        let length = row.len().min(query.whole.len());
        let mut sums = [_mm256_setzero_si256(); 2];
        for at in (0..length / 32 * 32).step_by(32) {
            for (n, total) in sums.iter_mut().enumerate() {
                let at = at + 16 * n;
                // SAFETY: `at + 16` is within `length`, which is no more than the length of both.
                let (x, q) = unsafe {
                    (
                        _mm_loadu_si128(row.as_ptr().add(at).cast()),
                        _mm256_loadu_si256(query.whole.as_ptr().add(at).cast()),
                    )
                };
                *total = _mm256_add_epi32(*total, _mm256_madd_epi16(_mm256_cvtepu8_epi16(x), q));
            }
        }
        *out = sum(_mm256_add_epi32(sums[0], sums[1])).wrapping_sub(query.offset);
    }
}

/// Bits become bytes with the weight of their plane, which add up to the codes.
#[target_feature(enable = "avx2")]
pub(super) fn plane_dots(query: &Wide, rows: &[u64], out: &mut [i32]) {
    let words = query.high.len().min(query.low.len()) / 64;
    let places = _mm256_setr_epi8(
        0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3,
    );
    let bits = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let (ones, weights) = (_mm256_set1_epi16(1), [8, 4, 2, 1].map(|weight| _mm256_set1_epi8(weight)));
    for (row, out) in rows.chunks_exact((words * PLANES).max(1)).zip(out) {
        let (mut high, mut low) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        let numbers = query.high.as_chunks::<32>().0.iter().zip(query.low.as_chunks::<32>().0);
        for (half, (h, l)) in numbers.enumerate() {
            let planes = row.get(half / 2 * PLANES..half / 2 * PLANES + PLANES).unwrap_or(&[0; PLANES]);
            let mut codes = _mm256_setzero_si256();
            for (plane, weight) in planes.iter().zip(weights) {
                let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32((plane >> (half % 2 * 32)) as i32), places);
                let set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bits), bits);
                codes = _mm256_or_si256(codes, _mm256_and_si256(set, weight));
            }
            // SAFETY: `h` and `l` are 32 bytes.
            let (h, l) = unsafe { (_mm256_loadu_si256(h.as_ptr().cast()), _mm256_loadu_si256(l.as_ptr().cast())) };
            // Two products of up to 15 · 128 are far from the end of 16 bits.
            high = _mm256_add_epi32(high, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, h), ones));
            low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, l), ones));
        }
        *out = query.of_codes(sum(_mm256_add_epi32(_mm256_slli_epi32::<8>(high), low)));
    }
}

/// The product of a row with a query, of eight numbers at a time that a closure loads: four sums side by side, which do not wait for
/// each other.
#[target_feature(enable = "avx2,fma")]
fn dot(query: &[f32], length: usize, load: impl Fn(usize) -> __m256) -> f32 {
    const FLOATS: usize = 8;
    const STEP: usize = 4 * FLOATS;
    let length = length.min(query.len());
    let mut sums = [_mm256_setzero_ps(); 4];
    for at in (0..length / STEP * STEP).step_by(STEP) {
        for (n, sum) in sums.iter_mut().enumerate() {
            let at = at + n * FLOATS;
            // SAFETY: `at + 8` is within `length`, which is no more than that of the query.
            *sum = _mm256_fmadd_ps(unsafe { _mm256_loadu_ps(query.as_ptr().add(at)) }, load(at), *sum);
        }
    }
    for at in (length / STEP * STEP..length / FLOATS * FLOATS).step_by(FLOATS) {
        // SAFETY: as above.
        sums[0] = _mm256_fmadd_ps(unsafe { _mm256_loadu_ps(query.as_ptr().add(at)) }, load(at), sums[0]);
    }
    sum_floats(_mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3])))
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn float_dots(query: &[f32], rows: &[&[f32]], out: &mut [f32]) {
    for (row, out) in rows.iter().zip(out) {
        // SAFETY: `dot` loads eight numbers before the length that it is given.
        *out = dot(query, row.len(), |at| unsafe { _mm256_loadu_ps(row.as_ptr().add(at)) });
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn half_dots(query: &[f32], rows: &[&[u16]], out: &mut [f32]) {
    for (row, out) in rows.iter().zip(out) {
        // SAFETY: as in `float_dots`.
        *out = dot(query, row.len(), |at| unsafe { _mm256_cvtph_ps(_mm_loadu_si128(row.as_ptr().add(at).cast())) });
    }
}

/// Bits become bytes of 0 or 1, which multiply the codes.
#[target_feature(enable = "avx2")]
pub(super) fn best_sign_sum(codes: &[i8], rows: &[u64]) -> i32 {
    let places = _mm256_setr_epi8(
        0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3,
    );
    let bits = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let (one, ones) = (_mm256_set1_epi8(1), _mm256_set1_epi16(1));
    let mut best = i32::MIN;
    for row in rows.chunks_exact((codes.len() / 64).max(1)) {
        let mut sum = _mm256_setzero_si256();
        for (codes, word) in codes.chunks_exact(64).zip(row) {
            for (half, codes) in codes.chunks_exact(32).enumerate() {
                // SAFETY: `codes` is 32 bytes.
                let codes = unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) };
                let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32((word >> (32 * half)) as i32), places);
                let set = _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(bytes, bits), bits), one);
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(set, codes), ones));
            }
        }
        let half = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
        let half = _mm_add_epi32(half, _mm_shuffle_epi32::<0b00_00_11_10>(half));
        best = best.max(_mm_cvtsi128_si32(half).wrapping_add(_mm_extract_epi32::<1>(half)));
    }
    best
}
