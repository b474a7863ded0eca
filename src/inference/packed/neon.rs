//! Tiles with NEON and its dot products: four rows in a register, four registers a tile.
//!
//! The dot product multiplies signed bytes. Weights of up to six bits are that as they are; those of Q8_0 become it by their
//! upper bit, which takes the 128 away that the others keep, so their sums start at nothing. Four quads of `x` lie in one
//! register, of which an instruction names one.
//!
//! Instructions that the compiler has no stable function for (`sdot`, and `fcvtl` in the oldest that we build with)
//! are written as such.
//!
//! SAFETY of every block here: the functions run only behind [`runs`] (a [`Path`] is handed out by nothing else), so the CPU
//! has the instructions. Pointers come from the slices of [`Tiles`], whose lengths `Packed::multiply` has checked: a tile has
//! the parts of [`Quant::place`] for each of its blocks; a row of `x` has `blocks` blocks. Loads and
//! stores need no alignment.
// Tiles, rows and registers are numbered alike in several arrays.
#![allow(clippy::needless_range_loop)]

use std::arch::aarch64::*;
use std::arch::asm;

use super::layout::{self, BLOCK, Kind, Place, QUAD, STEP, TILE, with_kind};
use super::{Meta, Path, Quant, Tiles, planes};

pub(super) static PATH: Path = Path { name: "neon", tiles, quantise, join: planes::join };

/// Rows of `x` that meet a tile at once: their sixteen integer sums, four registers of weights and four of `x` leave eight
/// of 32 for the rest.
const WIDE: usize = 4;
/// Registers of a tile.
const PARTS: usize = 4;
/// Rows in a register.
const LANES: usize = TILE / PARTS;

pub(super) fn runs() -> bool {
    std::arch::is_aarch64_feature_detected!("neon") && std::arch::is_aarch64_feature_detected!("dotprod")
}

#[target_feature(enable = "neon,dotprod")]
fn tiles(job: Tiles<'_>) {
    with_kind!(job.quant, K => all::<K>(job));
}

/// All tiles with all rows, [`WIDE`] at a time: the first of them read a tile from memory, the others find it in the caches.
#[target_feature(enable = "neon,dotprod")]
fn all<K: Kind>(job: Tiles<'_>) {
    let Some(bytes) = K::QUANT.tile_bytes(job.blocks) else { return };
    for (tile, data) in job.data.chunks_exact(bytes).enumerate() {
        let mut i = 0;
        while i < job.m {
            i += match job.m - i {
                1 => some::<K, 1>(job, data, tile, i),
                2 => some::<K, 2>(job, data, tile, i),
                3 => some::<K, 3>(job, data, tile, i),
                _ => some::<K, WIDE>(job, data, tile, i),
            };
        }
    }
}

/// Tile number `tile` with `T` rows of `x` from `row` on; gives `T`.
#[target_feature(enable = "neon,dotprod")]
fn some<K: Kind, const T: usize>(job: Tiles<'_>, data: &[u8], tile: usize, row: usize) -> usize {
    let shape = const { K::QUANT.shape() };
    // As many quads as a register of `x` has: half a block.
    const QUADS: usize = 16 / QUAD;
    let cols = job.blocks * BLOCK;
    let x = job.x[row * cols..(row + T) * cols].as_ptr();
    let meta = job.meta[row * job.blocks..(row + T) * job.blocks].as_ptr();
    let data = data.as_ptr();
    // SAFETY: see the module.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); PARTS]; T];
        for b in 0..job.blocks {
            let place = K::QUANT.place(b);
            let weights = data.add(place.weights);
            let mut dots = [[vdupq_n_s32(0); PARTS]; T];
            for half in 0..2 {
                if let Some(bits) = shape.offset
                    && !matches!(K::QUANT, Quant::Q8_0)
                    && (half == 0 || layout::has_halves(K::QUANT))
                {
                    for t in 0..T {
                        let meta = &*meta.add(t * job.blocks + b);
                        let start = match (layout::has_halves(K::QUANT), half) {
                            (false, _) => meta.both,
                            (true, 0) => meta.low,
                            (true, _) => meta.high,
                        };
                        dots[t] = [vdupq_n_s32(start << bits); PARTS];
                    }
                }
                let mut fours = [vdupq_n_s8(0); T];
                for t in 0..T {
                    fours[t] = vld1q_s8(x.add(t * cols + b * BLOCK + half * BLOCK / 2));
                }
                for quad in 0..QUADS {
                    for p in 0..PARTS {
                        let weights = step::<K>(weights, half * QUADS + quad, p);
                        for t in 0..T {
                            dots[t][p] = match quad {
                                0 => dot::<0>(dots[t][p], weights, fours[t]),
                                1 => dot::<1>(dots[t][p], weights, fours[t]),
                                2 => dot::<2>(dots[t][p], weights, fours[t]),
                                _ => dot::<3>(dots[t][p], weights, fours[t]),
                            };
                        }
                    }
                }
                if half == 1 || layout::has_halves(K::QUANT) {
                    for p in 0..PARTS {
                        let scale = scale::<K>(data, place, half, p);
                        for t in 0..T {
                            let factor = vmulq_n_f32(scale, (*meta.add(t * job.blocks + b)).scale);
                            sums[t][p] = vfmaq_f32(sums[t][p], vcvtq_f32_s32(dots[t][p]), factor);
                        }
                    }
                }
            }
            if layout::has_min(K::QUANT) {
                for p in 0..PARTS {
                    let min = min::<K>(data, place, p);
                    for t in 0..T {
                        let meta = &*meta.add(t * job.blocks + b);
                        sums[t][p] = vfmaq_n_f32(sums[t][p], min, meta.both as f32 * meta.scale);
                    }
                }
            }
        }
        let first = tile * TILE;
        let lanes = (job.rows - first).min(TILE);
        for t in 0..T {
            let y = job.y.add((row + t) * job.stride + first);
            let mut all = [0f32; TILE];
            for p in 0..PARTS {
                vst1q_f32(all.as_mut_ptr().add(p * LANES), sums[t][p]);
            }
            if lanes == TILE {
                y.cast::<[f32; TILE]>().write_unaligned(all);
            } else {
                y.copy_from_nonoverlapping(all.as_ptr(), lanes);
            }
        }
    }
    T
}

/// `sum + Σ weights·x`, with the four bytes of `x` that are number `LANE`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot<const LANE: usize>(mut sum: int32x4_t, weights: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction changes nothing but `sum`.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {weights:v}.16b, {x:v}.4b[{lane}]",
            sum = inout(vreg) sum,
            weights = in(vreg) weights,
            x = in(vreg) x,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// Four columns of four rows as signed bytes, of the weights of one block.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn step<K: Kind>(weights: *const u8, quad: usize, part: usize) -> int8x16_t {
    // SAFETY: see the module.
    unsafe {
        let load = |at: usize| vld1q_u8(weights.add(at + part * STEP / PARTS));
        if matches!(K::QUANT, Quant::Q8_0) {
            return vreinterpretq_s8_u8(veorq_u8(load(K::QUANT.low(quad)), vdupq_n_u8(0x80)));
        }
        let both = load(K::QUANT.low(quad));
        let low = if quad.is_multiple_of(2) { vandq_u8(both, vdupq_n_u8(15)) } else { vshrq_n_u8::<4>(both) };
        vreinterpretq_s8_u8(match K::QUANT {
            Quant::Q5_0 | Quant::Q5_1 | Quant::Q5_K => {
                let at = K::QUANT.upper(quad) + part * STEP / PARTS / 8;
                let bits = vcombine_u8(vdup_n_u8(*weights.add(at)), vdup_n_u8(*weights.add(at + 1)));
                let own = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
                vorrq_u8(low, vandq_u8(vtstq_u8(bits, own), vdupq_n_u8(16)))
            }
            Quant::Q6_K => {
                let pairs = load(K::QUANT.upper(quad));
                let pairs = match quad % 4 {
                    0 => vshlq_n_u8::<4>(pairs),
                    1 => vshlq_n_u8::<2>(pairs),
                    2 => pairs,
                    _ => vshrq_n_u8::<2>(pairs),
                };
                vorrq_u8(low, vandq_u8(pairs, vdupq_n_u8(0x30)))
            }
            _ => low,
        })
    }
}

/// The scales of four rows in one block, or in half of it.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn scale<K: Kind>(tile: *const u8, place: Place, half: usize, part: usize) -> float32x4_t {
    // SAFETY: see the module.
    unsafe {
        let own = tile.add(place.scales);
        let head = tile.add(place.head + 2 * LANES * part);
        match K::QUANT {
            Quant::Q4_K | Quant::Q5_K => {
                let scale = whole(own.add(LANES * part).cast::<[u8; LANES]>().read());
                vmulq_f32(halves(head), vcvtq_f32_s32(scale))
            }
            Quant::Q6_K => {
                let scale = whole(own.add(half * TILE + LANES * part).cast::<[i8; LANES]>().read());
                vmulq_f32(halves(head), vcvtq_f32_s32(scale))
            }
            _ => halves(own.add(2 * LANES * part)),
        }
    }
}

/// What is subtracted from four rows in one block.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn min<K: Kind>(tile: *const u8, place: Place, part: usize) -> float32x4_t {
    // SAFETY: see the module.
    unsafe {
        let own = tile.add(place.scales);
        match K::QUANT {
            Quant::Q4_K | Quant::Q5_K => {
                let min = whole(own.add(TILE + LANES * part).cast::<[u8; LANES]>().read());
                let head = halves(tile.add(place.head + 2 * (TILE + LANES * part)));
                vmulq_f32(head, vcvtq_f32_s32(min))
            }
            _ => halves(own.add(2 * (TILE + LANES * part))),
        }
    }
}

/// Four bytes as whole numbers.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn whole<B: Copy + Into<i32>>(bytes: [B; LANES]) -> int32x4_t {
    let numbers = bytes.map(Into::into);
    // SAFETY: four numbers are read.
    unsafe { vld1q_s32(numbers.as_ptr()) }
}

/// Four half-precision numbers.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn halves(from: *const u8) -> float32x4_t {
    // SAFETY: see the module; the instruction changes nothing but its result.
    unsafe {
        let halves = vld1_u8(from);
        let numbers: float32x4_t;
        asm!(
            "fcvtl {numbers:v}.4s, {halves:v}.4h",
            numbers = lateout(vreg) numbers,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
        numbers
    }
}

#[target_feature(enable = "neon,dotprod")]
fn quantise(from: &[f32], quants: &mut [i8], meta: &mut [Meta]) {
    let blocks = from.as_chunks::<BLOCK>().0.iter().zip(quants.as_chunks_mut::<BLOCK>().0);
    for ((from, to), meta) in blocks.zip(meta) {
        // SAFETY: 32 numbers are read, and 32 bytes written.
        unsafe {
            let mut most = vdupq_n_f32(0.0);
            for four in from.as_chunks::<LANES>().0 {
                // Of a NaN and a number, the number.
                most = vmaxnmq_f32(most, vabsq_f32(vld1q_f32(four.as_ptr())));
            }
            let largest = vmaxvq_f32(most);
            let factor = if largest > super::LEAST { 127.0 / largest } else { 0.0 };
            let mut sums = [0i32; 2];
            for (half, (from, to)) in from.as_chunks::<TILE>().0.iter().zip(to.as_chunks_mut::<TILE>().0).enumerate() {
                // To the nearest, ties to even; a NaN becomes a zero.
                let whole = |i: usize| vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(from.as_ptr().add(i * LANES)), factor));
                let low = vcombine_s16(vqmovn_s32(whole(0)), vqmovn_s32(whole(1)));
                let high = vcombine_s16(vqmovn_s32(whole(2)), vqmovn_s32(whole(3)));
                let bytes = vcombine_s8(vqmovn_s16(low), vqmovn_s16(high));
                vst1q_s8(to.as_mut_ptr(), bytes);
                sums[half] = -i32::from(vaddlvq_s8(bytes));
            }
            let [low, high] = sums;
            *meta = Meta { scale: largest / 127.0, low, high, both: low + high };
        }
    }
}
