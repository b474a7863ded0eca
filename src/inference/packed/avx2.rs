//! Tiles with AVX2, with and without VNNI: eight rows in a register, two registers a tile.
//!
//! **One source.** What differs is a [`Dot`], the step from bytes to integer sums. VNNI has one instruction for it, in two
//! encodings: that of CPUs without AVX-512 and that of CPUs with it. Without VNNI, pairs of products are added in sixteen
//! bits, which saturate: weights of up to six bits leave room for two such pairs together (4 × 63 × 128 = 32256), and bytes
//! are multiplied as magnitudes by signed numbers (2 × 128 × 127 = 32512), so no bit pattern saturates. The functions are
//! written once and always inlined into the three that enable an instruction set.
//!
//! SAFETY of every block here: the functions run only behind [`runs`] and [`vnni`] (a [`Path`] is handed out by nothing
//! else), so the CPU has the instructions. Pointers come from the slices of [`Tiles`], whose lengths `Packed::multiply` has
//! checked: a tile has the parts of [`Quant::place`] for each of its blocks; a row of `x` has `blocks`
//! blocks. Loads and stores need no alignment. A prefetch may point anywhere.
// Tiles, rows and registers are numbered alike in several arrays.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::layout::{self, BLOCK, Kind, Place, QUAD, STEP, TILE, with_kind};
use super::{AHEAD, Meta, Path, Quant, Tiles, planes};

pub(super) static PATH: Path = Path { name: "avx2", tiles: tiles_plain, quantise, join };
static VEX: Path = Path { name: "avx2vnni", tiles: tiles_vex, quantise, join };
static EVEX: Path = Path { name: "avx2vnni", tiles: tiles_evex, quantise, join };

/// Registers of a tile.
const HALVES: usize = 2;
/// Rows in a register.
const LANES: usize = TILE / HALVES;

pub(super) fn runs() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// The path with VNNI in the encoding that this CPU has.
pub(super) fn vnni() -> Option<&'static Path> {
    if !runs() {
        None
    } else if is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512vl") {
        Some(&EVEX)
    } else if is_x86_feature_detected!("avxvnni") {
        Some(&VEX)
    } else {
        None
    }
}

/// Multiplies bytes and adds four products to a lane.
trait Dot {
    /// Whether the weights of Q8_0 are multiplied as signed numbers, so that their sums start at nothing.
    const SIGNED: bool;
    /// Registers of a tile that rows of `x` meet at once, if there are several: where a product takes temporaries, one.
    const SIDES: usize;

    /// `sum + Σ weights·x` for eight columns.
    unsafe fn add<K: Kind>(sum: __m256i, weights: [__m256i; 2], x: [__m256i; 2]) -> __m256i;
}

struct Plain;
struct Vex;
struct Evex;

impl Dot for Plain {
    const SIGNED: bool = true;
    const SIDES: usize = 1;

    #[inline(always)]
    unsafe fn add<K: Kind>(sum: __m256i, [even, odd]: [__m256i; 2], [x, y]: [__m256i; 2]) -> __m256i {
        // SAFETY: see the module.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            if matches!(K::QUANT, Quant::Q8_0) {
                let even = _mm256_xor_si256(even, _mm256_set1_epi8(i8::MIN));
                let odd = _mm256_xor_si256(odd, _mm256_set1_epi8(i8::MIN));
                let even = _mm256_maddubs_epi16(_mm256_abs_epi8(even), _mm256_sign_epi8(x, even));
                let odd = _mm256_maddubs_epi16(_mm256_abs_epi8(odd), _mm256_sign_epi8(y, odd));
                let both = _mm256_add_epi32(_mm256_madd_epi16(even, ones), _mm256_madd_epi16(odd, ones));
                _mm256_add_epi32(sum, both)
            } else {
                let both = _mm256_add_epi16(_mm256_maddubs_epi16(even, x), _mm256_maddubs_epi16(odd, y));
                _mm256_add_epi32(sum, _mm256_madd_epi16(both, ones))
            }
        }
    }
}

impl Dot for Vex {
    const SIGNED: bool = false;
    const SIDES: usize = HALVES;

    #[inline(always)]
    unsafe fn add<K: Kind>(sum: __m256i, [even, odd]: [__m256i; 2], [x, y]: [__m256i; 2]) -> __m256i {
        // SAFETY: see the module.
        unsafe { _mm256_dpbusd_avx_epi32(_mm256_dpbusd_avx_epi32(sum, even, x), odd, y) }
    }
}

impl Dot for Evex {
    const SIGNED: bool = false;
    const SIDES: usize = HALVES;

    #[inline(always)]
    unsafe fn add<K: Kind>(sum: __m256i, [even, odd]: [__m256i; 2], [x, y]: [__m256i; 2]) -> __m256i {
        // SAFETY: see the module.
        unsafe { _mm256_dpbusd_epi32(_mm256_dpbusd_epi32(sum, even, x), odd, y) }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn tiles_plain(job: Tiles<'_>) {
    with_kind!(job.quant, K => all::<K, Plain>(job));
}

#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn tiles_vex(job: Tiles<'_>) {
    with_kind!(job.quant, K => all::<K, Vex>(job));
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512vl,avx512vnni")]
fn tiles_evex(job: Tiles<'_>) {
    with_kind!(job.quant, K => all::<K, Evex>(job));
}

/// All tiles with all rows: the first of them read a tile from memory, the others find it in the caches, and the last of
/// several ask for the next one, which nobody reads meanwhile.
#[inline(always)]
fn all<K: Kind, D: Dot>(job: Tiles<'_>) {
    let Some(bytes) = K::QUANT.tile_bytes(job.blocks) else { return };
    for (tile, data) in job.data.chunks_exact(bytes).enumerate() {
        if job.m == 1 {
            some::<K, D, HALVES, 1>(job, data, tile, 0, 0, false);
        } else if D::SIDES == HALVES {
            rows::<K, D, HALVES>(job, data, tile, 0, job.m > 4);
        } else {
            rows::<K, D, 1>(job, data, tile, 0, false);
            rows::<K, D, 1>(job, data, tile, 1, true);
        }
    }
}

/// Registers `half` to `half + R` of a tile with all rows, as many at a time as 16 registers take: eight integer sums and
/// four registers of weights, or six and up to four, leave four for the rest; the sums of the blocks are in memory meanwhile.
#[inline(always)]
fn rows<K: Kind, D: Dot, const R: usize>(job: Tiles<'_>, data: &[u8], tile: usize, half: usize, last: bool) {
    let wide = if R == HALVES { 4 } else { 6 };
    let mut i = 0;
    while i < job.m {
        let count = (job.m - i).min(wide);
        let ahead = last && job.m <= AHEAD && i + count == job.m;
        match count {
            1 => some::<K, D, R, 1>(job, data, tile, half, i, ahead),
            2 => some::<K, D, R, 2>(job, data, tile, half, i, ahead),
            3 => some::<K, D, R, 3>(job, data, tile, half, i, ahead),
            4 => some::<K, D, R, 4>(job, data, tile, half, i, ahead),
            5 => some::<K, D, R, 5>(job, data, tile, half, i, ahead),
            _ => some::<K, D, R, 6>(job, data, tile, half, i, ahead),
        }
        i += count;
    }
}

/// Registers `half` to `half + R` of tile number `tile` with `T` rows of `x` from `row` on; `ahead` asks for the next
/// tile at the same time.
#[inline(always)]
fn some<K: Kind, D: Dot, const R: usize, const T: usize>(
    job: Tiles<'_>,
    data: &[u8],
    tile: usize,
    half: usize,
    row: usize,
    ahead: bool,
) {
    let shape = const { K::QUANT.shape() };
    let parts = const { if layout::has_halves(K::QUANT) { 2 } else { 1 } };
    let cols = job.blocks * BLOCK;
    let x = job.x[row * cols..(row + T) * cols].as_ptr();
    let meta = job.meta[row * job.blocks..(row + T) * job.blocks].as_ptr();
    let next = data.as_ptr_range().end;
    let data = data.as_ptr();
    // SAFETY: see the module.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); R]; T];
        for b in 0..job.blocks {
            let place = K::QUANT.place(b);
            if ahead {
                _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(place.scales).cast());
                for line in 0..shape.weights / 64 {
                    _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(place.weights + 64 * line).cast());
                }
            }
            for part in 0..parts {
                let mut dots = [[_mm256_setzero_si256(); R]; T];
                if let Some(bits) = shape.offset
                    && !(D::SIGNED && matches!(K::QUANT, Quant::Q8_0))
                {
                    for t in 0..T {
                        let meta = &*meta.add(t * job.blocks + b);
                        let start = match (parts, part) {
                            (1, _) => meta.both,
                            (_, 0) => meta.low,
                            (_, _) => meta.high,
                        };
                        dots[t] = [_mm256_set1_epi32(start << bits); R];
                    }
                }
                let pairs = BLOCK / QUAD / 2 / parts;
                for pair in part * pairs..(part + 1) * pairs {
                    let mut weights = [[_mm256_setzero_si256(); 2]; R];
                    for r in 0..R {
                        weights[r] = step::<K>(data.add(place.weights), pair, half + r);
                    }
                    for t in 0..T {
                        let x = x.add(t * cols + b * BLOCK + pair * 2 * QUAD).cast::<i32>();
                        let x = [_mm256_set1_epi32(x.read_unaligned()), _mm256_set1_epi32(x.add(1).read_unaligned())];
                        for r in 0..R {
                            dots[t][r] = D::add::<K>(dots[t][r], weights[r], x);
                        }
                    }
                }
                for r in 0..R {
                    let scale = scale::<K>(data, place, part, half + r);
                    for t in 0..T {
                        let factor = _mm256_mul_ps(scale, _mm256_set1_ps((*meta.add(t * job.blocks + b)).scale));
                        sums[t][r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[t][r]), factor, sums[t][r]);
                    }
                }
            }
            if layout::has_min(K::QUANT) {
                for r in 0..R {
                    let min = min::<K>(data, place, half + r);
                    for t in 0..T {
                        let meta = &*meta.add(t * job.blocks + b);
                        let total = _mm256_set1_ps(meta.both as f32 * meta.scale);
                        sums[t][r] = _mm256_fmadd_ps(min, total, sums[t][r]);
                    }
                }
            }
        }
        for r in 0..R {
            let first = tile * TILE + (half + r) * LANES;
            let lanes = job.rows.saturating_sub(first).min(LANES);
            let numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes as i32), numbers);
            for t in 0..T {
                _mm256_maskstore_ps(job.y.wrapping_add((row + t) * job.stride + first), mask, sums[t][r]);
            }
        }
    }
}

/// Eight columns of eight rows as unsigned bytes, of the weights of one block: the two quads of a pair.
#[inline(always)]
unsafe fn step<K: Kind>(weights: *const u8, pair: usize, half: usize) -> [__m256i; 2] {
    const HALF: usize = STEP / HALVES;
    // SAFETY: see the module.
    unsafe {
        let load = |at: usize| _mm256_loadu_si256(weights.add(at + half * HALF).cast());
        if matches!(K::QUANT, Quant::Q8_0) {
            return [load(K::QUANT.low(2 * pair)), load(K::QUANT.low(2 * pair + 1))];
        }
        let both = load(K::QUANT.low(2 * pair));
        let nibble = _mm256_set1_epi8(15);
        let low = [_mm256_and_si256(both, nibble), _mm256_and_si256(_mm256_srli_epi16::<4>(both), nibble)];
        match K::QUANT {
            Quant::Q5_0 | Quant::Q5_1 | Quant::Q5_K => {
                let bits = weights.add(K::QUANT.upper(2 * pair) + half * HALF / 8).cast::<u32>();
                let even = fifth(bits.read_unaligned());
                let odd = fifth(bits.add(STEP / 8 / 4).read_unaligned());
                [_mm256_or_si256(low[0], even), _mm256_or_si256(low[1], odd)]
            }
            Quant::Q6_K => {
                let pairs = load(K::QUANT.upper(2 * pair));
                let (even, odd) = if pair.is_multiple_of(2) {
                    (_mm256_slli_epi16::<4>(pairs), _mm256_slli_epi16::<2>(pairs))
                } else {
                    (pairs, _mm256_srli_epi16::<2>(pairs))
                };
                let upper = _mm256_set1_epi8(0x30);
                [
                    _mm256_or_si256(low[0], _mm256_and_si256(even, upper)),
                    _mm256_or_si256(low[1], _mm256_and_si256(odd, upper)),
                ]
            }
            _ => low,
        }
    }
}

/// Sixteen in each byte whose bit is set.
#[inline(always)]
unsafe fn fifth(bits: u32) -> __m256i {
    // SAFETY: see the module.
    unsafe {
        let own = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
        let byte = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
        let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(bits as i32), byte);
        let set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, own), own);
        _mm256_and_si256(set, _mm256_set1_epi8(16))
    }
}

/// The scales of eight rows in one block, or in half of it.
#[inline(always)]
unsafe fn scale<K: Kind>(tile: *const u8, place: Place, part: usize, half: usize) -> __m256 {
    // SAFETY: see the module.
    unsafe {
        let own = tile.add(place.scales);
        let head = tile.add(place.head + 2 * LANES * half);
        match K::QUANT {
            Quant::Q4_K | Quant::Q5_K => {
                let scale = _mm256_cvtepu8_epi32(_mm_loadl_epi64(own.add(LANES * half).cast()));
                _mm256_mul_ps(halves(head), _mm256_cvtepi32_ps(scale))
            }
            Quant::Q6_K => {
                let scale = _mm256_cvtepi8_epi32(_mm_loadl_epi64(own.add(part * TILE + LANES * half).cast()));
                _mm256_mul_ps(halves(head), _mm256_cvtepi32_ps(scale))
            }
            _ => halves(own.add(2 * LANES * half)),
        }
    }
}

/// What is subtracted from eight rows in one block.
#[inline(always)]
unsafe fn min<K: Kind>(tile: *const u8, place: Place, half: usize) -> __m256 {
    // SAFETY: see the module.
    unsafe {
        let own = tile.add(place.scales);
        match K::QUANT {
            Quant::Q4_K | Quant::Q5_K => {
                let min = _mm256_cvtepu8_epi32(_mm_loadl_epi64(own.add(TILE + LANES * half).cast()));
                let head = halves(tile.add(place.head + 2 * (TILE + LANES * half)));
                _mm256_mul_ps(head, _mm256_cvtepi32_ps(min))
            }
            _ => halves(own.add(2 * (TILE + LANES * half))),
        }
    }
}

/// Eight half-precision numbers.
#[inline(always)]
unsafe fn halves(from: *const u8) -> __m256 {
    // SAFETY: see the module.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn quantise(from: &[f32], quants: &mut [i8], meta: &mut [Meta]) {
    let blocks = from.as_chunks::<BLOCK>().0.iter().zip(quants.as_chunks_mut::<BLOCK>().0);
    let sign = _mm256_set1_ps(-0.0);
    for ((from, to), meta) in blocks.zip(meta) {
        // SAFETY: 32 numbers are read, and 32 bytes written.
        unsafe {
            let load = |i: usize| _mm256_loadu_ps(from.as_ptr().add(i * LANES));
            let x = [load(0), load(1), load(2), load(3)];
            let mut most = _mm256_setzero_ps();
            for x in x {
                // The maximum of a NaN and a number is the second operand.
                most = _mm256_max_ps(_mm256_andnot_ps(sign, x), most);
            }
            let most = _mm_max_ps(_mm256_castps256_ps128(most), _mm256_extractf128_ps::<1>(most));
            let most = _mm_max_ps(most, _mm_movehl_ps(most, most));
            let largest = _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most)));
            let factor = _mm256_set1_ps(if largest > super::LEAST { 127.0 / largest } else { 0.0 });
            let whole = |x: __m256| {
                let x = _mm256_mul_ps(x, factor);
                let number = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_ORD_Q>(x, x));
                _mm256_and_si256(_mm256_cvtps_epi32(x), number)
            };
            let low = _mm256_packs_epi32(whole(x[0]), whole(x[1]));
            let high = _mm256_packs_epi32(whole(x[2]), whole(x[3]));
            // Packing goes by halves of registers, so fours are put in order behind it.
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            let bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
            _mm256_storeu_si256(to.as_mut_ptr().cast(), bytes);
            let twos = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
            let fours = _mm256_madd_epi16(twos, _mm256_set1_epi16(-1));
            let sums = _mm_hadd_epi32(_mm256_castsi256_si128(fours), _mm256_extracti128_si256::<1>(fours));
            let sums = _mm_hadd_epi32(sums, sums);
            let (low, high) = (_mm_cvtsi128_si32(sums), _mm_extract_epi32::<1>(sums));
            *meta = Meta { scale: largest / 127.0, low, high, both: low + high };
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn join(blocks: usize, coarse: &[u8], fine: &[u8], whole: &mut [u8]) {
    planes::join(blocks, coarse, fine, whole);
}
