//! Tiles with AVX-512 and its VNNI: sixteen rows in a register.
//!
//! SAFETY of every block here: the functions run only behind [`runs`] (a [`Path`] is handed out by nothing else), so the CPU
//! has the instructions. Pointers come from the slices of [`Tiles`], whose lengths `Packed::multiply` has checked: a tile has
//! the parts of [`Quant::place`] for each of its blocks; a row of `x` has `blocks` blocks. Loads and
//! stores need no alignment. A prefetch may point anywhere.
// Tiles, rows and registers are numbered alike in several arrays.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::layout::{self, BLOCK, Kind, Place, QUAD, TILE, with_kind};
use super::{AHEAD, FEW, Meta, Path, Quant, Tiles, planes};

pub(super) static PATH: Path = Path { name: "avx512vnni", tiles, quantise, join };

pub(super) fn runs() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn tiles(job: Tiles<'_>) {
    with_kind!(job.quant, K => all::<K>(job));
}

/// Whether two tiles meet six rows of `x` rather than one tile twelve: both fill the registers with sums. Two tiles take fewer
/// loads; one is unpacked for twice as many rows.
const fn two_tiles(quant: Quant) -> bool {
    !matches!(quant, Quant::Q5_0 | Quant::Q5_1 | Quant::Q5_K | Quant::Q6_K)
}

/// All tiles with all rows. Few rows meet a tile together. One leaves it to the CPU to read ahead in order, which is a sixth
/// faster for it; beside the work of more it does not get far enough, and is asked. Still more meet a tile in groups that find it in the caches, and
/// the last of them ask for the next one, which nobody reads meanwhile.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn all<K: Kind>(job: Tiles<'_>) {
    let Some(bytes) = K::QUANT.tile_bytes(job.blocks) else { return };
    let count = job.rows.div_ceil(TILE);
    let mut at = 0;
    while at < count {
        let pair = const { two_tiles(K::QUANT) } && job.m > FEW && at + 1 < count;
        let first = &job.data[at * bytes..(at + 1) * bytes];
        let second = if pair { &job.data[(at + 1) * bytes..(at + 2) * bytes] } else { first };
        let most = if pair { 6 } else { 12 };
        let mut i = 0;
        while i < job.m {
            let rows = (job.m - i).min(most);
            let ahead = match job.m {
                0..=1 => 0,
                // Measured with eight rows of Q8_0: 165 instead of 123 GMAC/s; four answers with Q4_0 on two threads take 0.73 of the
                // time. The K family loses a fifth by it.
                2..=FEW if K::QUANT.shape().head == 0 => 8192,
                m if m <= AHEAD && i + rows == m => bytes * if pair { 2 } else { 1 },
                _ => 0,
            };
            match (pair, rows) {
                (true, 1) => some::<K, 2, 1>(job, [first, second], at, i, ahead),
                (true, 2) => some::<K, 2, 2>(job, [first, second], at, i, ahead),
                (true, 3) => some::<K, 2, 3>(job, [first, second], at, i, ahead),
                (true, 4) => some::<K, 2, 4>(job, [first, second], at, i, ahead),
                (true, 5) => some::<K, 2, 5>(job, [first, second], at, i, ahead),
                (true, _) => some::<K, 2, 6>(job, [first, second], at, i, ahead),
                (false, 1) => some::<K, 1, 1>(job, [first], at, i, ahead),
                (false, 2) => some::<K, 1, 2>(job, [first], at, i, ahead),
                (false, 3) => some::<K, 1, 3>(job, [first], at, i, ahead),
                (false, 4) => some::<K, 1, 4>(job, [first], at, i, ahead),
                (false, 5) => some::<K, 1, 5>(job, [first], at, i, ahead),
                (false, 6) => some::<K, 1, 6>(job, [first], at, i, ahead),
                (false, 7) => some::<K, 1, 7>(job, [first], at, i, ahead),
                (false, 8) => some::<K, 1, 8>(job, [first], at, i, ahead),
                (false, 9) => some::<K, 1, 9>(job, [first], at, i, ahead),
                (false, 10) => some::<K, 1, 10>(job, [first], at, i, ahead),
                (false, 11) => some::<K, 1, 11>(job, [first], at, i, ahead),
                (false, _) => some::<K, 1, 12>(job, [first], at, i, ahead),
            }
            i += rows;
        }
        at += if pair { 2 } else { 1 };
    }
}

/// `R` tiles, the first of which is number `tile`, with `T` rows of `x` from `row` on. Asks for what is so many bytes
/// `ahead`, unless that is none.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn some<K: Kind, const R: usize, const T: usize>(
    job: Tiles<'_>,
    tiles: [&[u8]; R],
    tile: usize,
    row: usize,
    ahead: usize,
) {
    let shape = const { K::QUANT.shape() };
    let halves = const { layout::has_halves(K::QUANT) };
    let has_min = const { layout::has_min(K::QUANT) };
    let cols = job.blocks * BLOCK;
    let x = job.x[row * cols..(row + T) * cols].as_ptr();
    let meta = job.meta[row * job.blocks..(row + T) * job.blocks].as_ptr();
    // SAFETY: see the module.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); T]; R];
        for b in 0..job.blocks {
            let place = K::QUANT.place(b);
            if ahead > 0 {
                for tile in tiles {
                    let next = tile.as_ptr().wrapping_add(ahead);
                    _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(place.scales).cast());
                    for line in 0..shape.weights / 64 {
                        _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(place.weights + 64 * line).cast());
                    }
                }
            }
            let parts = if halves { 2 } else { 1 };
            for part in 0..parts {
                let mut dots = [[_mm512_setzero_si512(); T]; R];
                if let Some(bits) = shape.offset {
                    for t in 0..T {
                        let meta = &*meta.add(t * job.blocks + b);
                        let start = match (halves, part) {
                            (false, _) => meta.both,
                            (true, 0) => meta.low,
                            (true, _) => meta.high,
                        };
                        let start = _mm512_set1_epi32(start << bits);
                        for r in 0..R {
                            dots[r][t] = start;
                        }
                    }
                }
                let quads = BLOCK / QUAD / parts;
                for quad in part * quads..(part + 1) * quads {
                    let mut weights = [_mm512_setzero_si512(); R];
                    for r in 0..R {
                        weights[r] = step::<K>(tiles[r].as_ptr().add(place.weights), quad);
                    }
                    for t in 0..T {
                        let x = x.add(t * cols + b * BLOCK + quad * QUAD).cast::<i32>().read_unaligned();
                        let x = _mm512_set1_epi32(x);
                        for r in 0..R {
                            dots[r][t] = _mm512_dpbusd_epi32(dots[r][t], weights[r], x);
                        }
                    }
                }
                for r in 0..R {
                    let scale = scale::<K>(tiles[r].as_ptr(), place, part);
                    for t in 0..T {
                        let factor = _mm512_mul_ps(scale, _mm512_set1_ps((*meta.add(t * job.blocks + b)).scale));
                        sums[r][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r][t]), factor, sums[r][t]);
                    }
                }
            }
            if has_min {
                for r in 0..R {
                    let min = min::<K>(tiles[r].as_ptr(), place);
                    for t in 0..T {
                        let meta = &*meta.add(t * job.blocks + b);
                        let total = _mm512_set1_ps(meta.both as f32 * meta.scale);
                        sums[r][t] = _mm512_fmadd_ps(min, total, sums[r][t]);
                    }
                }
            }
        }
        for r in 0..R {
            let first = (tile + r) * TILE;
            let lanes = (job.rows - first).min(TILE);
            let mask = if lanes == TILE { !0 } else { (1u16 << lanes) - 1 };
            for t in 0..T {
                _mm512_mask_storeu_ps(job.y.add((row + t) * job.stride + first), mask, sums[r][t]);
            }
        }
    }
}

/// Four columns of sixteen rows as unsigned bytes, of the weights of one block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn step<K: Kind>(weights: *const u8, quad: usize) -> __m512i {
    // SAFETY: see the module.
    unsafe {
        let load = |at: usize| _mm512_loadu_si512(weights.add(at).cast());
        if matches!(K::QUANT, Quant::Q8_0) {
            return load(K::QUANT.low(quad));
        }
        let both = load(K::QUANT.low(quad));
        let low = if quad.is_multiple_of(2) { both } else { _mm512_srli_epi16::<4>(both) };
        let low = _mm512_and_si512(low, _mm512_set1_epi8(15));
        match K::QUANT {
            Quant::Q5_0 | Quant::Q5_1 | Quant::Q5_K => {
                let mask = weights.add(K::QUANT.upper(quad)).cast::<u64>().read_unaligned();
                _mm512_mask_add_epi8(low, mask, low, _mm512_set1_epi8(16))
            }
            Quant::Q6_K => {
                let pairs = load(K::QUANT.upper(quad));
                let pairs = match quad % 4 {
                    0 => _mm512_slli_epi16::<4>(pairs),
                    1 => _mm512_slli_epi16::<2>(pairs),
                    2 => pairs,
                    _ => _mm512_srli_epi16::<2>(pairs),
                };
                _mm512_or_si512(low, _mm512_and_si512(pairs, _mm512_set1_epi8(0x30)))
            }
            _ => low,
        }
    }
}

/// The scales of sixteen rows in one block, or in half of it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn scale<K: Kind>(tile: *const u8, place: Place, part: usize) -> __m512 {
    // SAFETY: see the module.
    unsafe {
        let own = tile.add(place.scales);
        let head = || halves(tile.add(place.head));
        match K::QUANT {
            Quant::Q4_K | Quant::Q5_K => {
                let scale = _mm512_cvtepu8_epi32(_mm_loadu_si128(own.cast()));
                _mm512_mul_ps(head(), _mm512_cvtepi32_ps(scale))
            }
            Quant::Q6_K => {
                let scale = _mm512_cvtepi8_epi32(_mm_loadu_si128(own.add(part * TILE).cast()));
                _mm512_mul_ps(head(), _mm512_cvtepi32_ps(scale))
            }
            _ => halves(own),
        }
    }
}

/// What is subtracted from sixteen rows in one block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn min<K: Kind>(tile: *const u8, place: Place) -> __m512 {
    // SAFETY: see the module.
    unsafe {
        let own = tile.add(place.scales);
        match K::QUANT {
            Quant::Q4_K | Quant::Q5_K => {
                let min = _mm512_cvtepu8_epi32(_mm_loadu_si128(own.add(TILE).cast()));
                let head = halves(tile.add(place.head + 2 * TILE));
                _mm512_mul_ps(head, _mm512_cvtepi32_ps(min))
            }
            _ => halves(own.add(2 * TILE)),
        }
    }
}

/// Sixteen half-precision numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn halves(from: *const u8) -> __m512 {
    // SAFETY: see the module.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn quantise(from: &[f32], quants: &mut [i8], meta: &mut [Meta]) {
    let blocks = from.as_chunks::<BLOCK>().0.iter().zip(quants.as_chunks_mut::<BLOCK>().0);
    for ((from, to), meta) in blocks.zip(meta) {
        // SAFETY: 32 numbers are read, and 32 bytes written.
        unsafe {
            let (a, b) = (_mm512_loadu_ps(from.as_ptr()), _mm512_loadu_ps(from.as_ptr().add(TILE)));
            // The maximum of a NaN and a number is the second operand.
            let largest = _mm512_max_ps(_mm512_abs_ps(b), _mm512_max_ps(_mm512_abs_ps(a), _mm512_setzero_ps()));
            let largest = _mm512_reduce_max_ps(largest);
            let factor = _mm512_set1_ps(if largest > super::LEAST { 127.0 / largest } else { 0.0 });
            let whole = |x: __m512| {
                let x = _mm512_mul_ps(x, factor);
                _mm512_maskz_cvtps_epi32(_mm512_cmp_ps_mask::<_CMP_ORD_Q>(x, x), x)
            };
            let (a, b) = (_mm512_cvtepi32_epi8(whole(a)), _mm512_cvtepi32_epi8(whole(b)));
            _mm_storeu_si128(to.as_mut_ptr().cast(), a);
            _mm_storeu_si128(to.as_mut_ptr().add(TILE).cast(), b);
            let sum = |x: __m128i| -_mm512_reduce_add_epi32(_mm512_cvtepi8_epi32(x));
            let (low, high) = (sum(a), sum(b));
            *meta = Meta { scale: largest / 127.0, low, high, both: low + high };
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn join(blocks: usize, coarse: &[u8], fine: &[u8], whole: &mut [u8]) {
    planes::join(blocks, coarse, fine, whole);
}
