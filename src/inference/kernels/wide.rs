//! Sixteen f32 in registers, for the products: the same few operations on each kind of CPU.
//!
//! Plain arrays ([`Lanes`]) vectorise well where results go to memory, and norms, softmax and gates are written that way.
//! In the tiles, whose sums stay in registers for a whole row, the compiler keeps failing at it (measured: 3 GB/s of Q8_0
//! weights instead of 20), and how it fails changes with its version. So the tiles are generic over [`Wide`], with
//! intrinsics where we have measured, and arrays elsewhere. Every implementation gives the same bits; a test compares them.

use super::lanes::{LANES, Lanes};
use super::rows::f16;

/// Sixteen f32. Every operation is exact or rounds once, as [`Lanes`] does.
pub(super) trait Wide: Copy {
    fn zero() -> Self;
    fn splat(x: f32) -> Self;
    fn load(from: &[f32; LANES]) -> Self;
    /// The f32 with these bits.
    fn of_bits(from: &[u32; LANES]) -> Self;
    fn store(self, to: &mut [f32; LANES]);
    /// `self × b + c` with one rounding.
    fn fma(self, b: Self, c: Self) -> Self;
    /// Sixteen f32, little endian.
    fn of_f32(from: &[u8; 4 * LANES]) -> Self;
    /// Sixteen half-precision numbers.
    fn of_f16(from: &[u8; 2 * LANES]) -> Self;
    /// Sixteen upper halves of f32.
    fn of_bf16(from: &[u8; 2 * LANES]) -> Self;
    /// The lower and the upper bf16 of sixteen cells.
    fn of_halves(from: &[u32; LANES]) -> (Self, Self);
    /// Asks for these numbers before they are needed, where the CPU can be asked.
    fn prefetch<T>(numbers: &[T]) {
        let _ = numbers;
    }
}

impl Wide for Lanes {
    #[inline(always)]
    fn zero() -> Lanes {
        Lanes::ZERO
    }

    #[inline(always)]
    fn splat(x: f32) -> Lanes {
        Lanes([x; LANES])
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Lanes {
        Lanes(*from)
    }

    #[inline(always)]
    fn of_bits(from: &[u32; LANES]) -> Lanes {
        let mut lanes = Lanes::ZERO;
        for (lane, bits) in lanes.0.iter_mut().zip(from) {
            *lane = f32::from_bits(*bits);
        }
        lanes
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        *to = self.0;
    }

    #[inline(always)]
    fn fma(self, b: Lanes, c: Lanes) -> Lanes {
        Lanes::fma(self, b, c)
    }

    #[inline(always)]
    fn of_f32(from: &[u8; 4 * LANES]) -> Lanes {
        lanes_of::<4>(from, |b| f32::from_le_bytes(*b))
    }

    #[inline(always)]
    fn of_f16(from: &[u8; 2 * LANES]) -> Lanes {
        lanes_of::<2>(from, |b| f16(u16::from_le_bytes(*b)))
    }

    #[inline(always)]
    fn of_bf16(from: &[u8; 2 * LANES]) -> Lanes {
        lanes_of::<2>(from, |b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16))
    }

    #[inline(always)]
    fn of_halves(from: &[u32; LANES]) -> (Lanes, Lanes) {
        (Lanes(from.map(|cell| f32::from_bits(cell << 16))), Lanes(from.map(|cell| f32::from_bits(cell & 0xffff_0000))))
    }
}

#[inline(always)]
fn lanes_of<const WIDTH: usize>(from: &[u8], decode: impl Fn(&[u8; WIDTH]) -> f32) -> Lanes {
    let mut lanes = Lanes::ZERO;
    for (lane, bytes) in lanes.0.iter_mut().zip(from.as_chunks::<WIDTH>().0) {
        *lane = decode(bytes);
    }
    lanes
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    //! SAFETY of every block here: the types are used only by the paths of [`super::super`] whose `#[target_feature]` has
    //! what the intrinsics need, and those run only after the CPU was seen to have it. Loads and stores go through
    //! references to arrays of exactly the size read or written, with instructions that need no alignment.

    use std::arch::x86_64::*;

    use std::mem::transmute;

    use super::super::cells::Cell;
    use super::super::lanes::{LANES, Lanes};
    use super::Wide;

    /// One 512-bit register: needs avx512f, avx512bw, avx512dq, avx512vl, avx2, fma and f16c.
    #[derive(Clone, Copy)]
    pub(in super::super) struct V512(__m512);

    /// Two 256-bit registers: needs avx2, fma and f16c.
    #[derive(Clone, Copy)]
    pub(in super::super) struct V256(__m256, __m256);

    /// One request per cache line, into the second level: the first has too few places for lines on their way.
    #[inline(always)]
    fn prefetch<T>(numbers: &[T]) {
        let (mut at, start) = (0, numbers.as_ptr().cast::<i8>());
        while at < size_of_val(numbers) {
            // SAFETY: a request for an address inside `numbers`; it reads nothing. Every x86-64 CPU has the instruction.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(start.add(at)) }
            at += 64;
        }
    }

    impl Wide for V512 {
        #[inline(always)]
        fn prefetch<T>(numbers: &[T]) {
            prefetch(numbers);
        }

        #[inline(always)]
        fn zero() -> V512 {
            // SAFETY: see the module.
            V512(unsafe { _mm512_setzero_ps() })
        }

        #[inline(always)]
        fn splat(x: f32) -> V512 {
            // SAFETY: see the module.
            V512(unsafe { _mm512_set1_ps(x) })
        }

        #[inline(always)]
        fn load(from: &[f32; LANES]) -> V512 {
            // SAFETY: see the module.
            V512(unsafe { _mm512_loadu_ps(from.as_ptr()) })
        }

        #[inline(always)]
        fn of_bits(from: &[u32; LANES]) -> V512 {
            // SAFETY: see the module.
            V512(unsafe { _mm512_loadu_ps(from.as_ptr().cast()) })
        }

        #[inline(always)]
        fn store(self, to: &mut [f32; LANES]) {
            // SAFETY: see the module.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), self.0) }
        }

        #[inline(always)]
        fn fma(self, b: V512, c: V512) -> V512 {
            // SAFETY: see the module.
            V512(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
        }

        #[inline(always)]
        fn of_f32(from: &[u8; 4 * LANES]) -> V512 {
            // SAFETY: see the module; every x86 CPU is little endian.
            V512(unsafe { _mm512_loadu_ps(from.as_ptr().cast()) })
        }

        #[inline(always)]
        fn of_f16(from: &[u8; 2 * LANES]) -> V512 {
            // SAFETY: see the module.
            V512(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) })
        }

        #[inline(always)]
        fn of_bf16(from: &[u8; 2 * LANES]) -> V512 {
            // SAFETY: see the module.
            unsafe {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
                V512(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
            }
        }

        #[inline(always)]
        fn of_halves(from: &[u32; LANES]) -> (V512, V512) {
            // SAFETY: see the module.
            unsafe {
                let cells = _mm512_loadu_si512(from.as_ptr().cast());
                let upper = _mm512_and_si512(cells, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
                (V512(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(cells))), V512(_mm512_castsi512_ps(upper)))
            }
        }
    }

    /// Two bf16 in a cell: needs what [`V512`] needs, and avx512bf16.
    pub(in super::super) struct Pairs;

    impl Cell for Pairs {
        type Wide = V512;
        const INPUTS: usize = 2;

        #[inline(always)]
        fn step(cell: u32, weights: &[u32; LANES], sums: V512) -> V512 {
            // SAFETY: see the module; `__m512i` and `__m512bh` are 64 bytes without an invalid pattern.
            unsafe {
                let weights = _mm512_loadu_si512(weights.as_ptr().cast());
                let cell = _mm512_set1_epi32(cell.cast_signed());
                V512(_mm512_dpbf16_ps(
                    sums.0,
                    transmute::<__m512i, __m512bh>(cell),
                    transmute::<__m512i, __m512bh>(weights),
                ))
            }
        }

        #[inline(always)]
        fn pack(from: &[Lanes; 2], to: &mut [u32; LANES]) {
            // SAFETY: see the module and `step`.
            unsafe {
                let (low, high) = (_mm512_loadu_ps(from[0].0.as_ptr()), _mm512_loadu_ps(from[1].0.as_ptr()));
                let packed = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                _mm512_storeu_si512(to.as_mut_ptr().cast(), packed);
            }
        }
    }

    impl Wide for V256 {
        #[inline(always)]
        fn prefetch<T>(numbers: &[T]) {
            prefetch(numbers);
        }

        #[inline(always)]
        fn zero() -> V256 {
            V256::splat(0.0)
        }

        #[inline(always)]
        fn splat(x: f32) -> V256 {
            // SAFETY: see the module.
            let v = unsafe { _mm256_set1_ps(x) };
            V256(v, v)
        }

        #[inline(always)]
        fn load(from: &[f32; LANES]) -> V256 {
            // SAFETY: see the module; the second half begins 8 numbers on.
            unsafe { V256(_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))) }
        }

        #[inline(always)]
        fn of_bits(from: &[u32; LANES]) -> V256 {
            // SAFETY: see the module; the second half begins 8 numbers on.
            unsafe { V256(_mm256_loadu_ps(from.as_ptr().cast()), _mm256_loadu_ps(from.as_ptr().add(8).cast())) }
        }

        #[inline(always)]
        fn store(self, to: &mut [f32; LANES]) {
            // SAFETY: see the module; the second half begins 8 numbers on.
            unsafe {
                _mm256_storeu_ps(to.as_mut_ptr(), self.0);
                _mm256_storeu_ps(to.as_mut_ptr().add(8), self.1);
            }
        }

        #[inline(always)]
        fn fma(self, b: V256, c: V256) -> V256 {
            // SAFETY: see the module.
            unsafe { V256(_mm256_fmadd_ps(self.0, b.0, c.0), _mm256_fmadd_ps(self.1, b.1, c.1)) }
        }

        #[inline(always)]
        fn of_f32(from: &[u8; 4 * LANES]) -> V256 {
            // SAFETY: see the module; the second half begins 32 bytes on.
            unsafe { V256(_mm256_loadu_ps(from.as_ptr().cast()), _mm256_loadu_ps(from.as_ptr().add(32).cast())) }
        }

        #[inline(always)]
        fn of_f16(from: &[u8; 2 * LANES]) -> V256 {
            // SAFETY: see the module; the second half begins 16 bytes on.
            unsafe {
                let low = _mm_loadu_si128(from.as_ptr().cast());
                let high = _mm_loadu_si128(from.as_ptr().add(16).cast());
                V256(_mm256_cvtph_ps(low), _mm256_cvtph_ps(high))
            }
        }

        #[inline(always)]
        fn of_bf16(from: &[u8; 2 * LANES]) -> V256 {
            // SAFETY: see the module; the second half begins 16 bytes on.
            unsafe {
                let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.as_ptr().cast()));
                let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.as_ptr().add(16).cast()));
                let shift = |v| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(v));
                V256(shift(low), shift(high))
            }
        }

        #[inline(always)]
        fn of_halves(from: &[u32; LANES]) -> (V256, V256) {
            // SAFETY: see the module; the second half begins 8 cells on.
            unsafe {
                let first = _mm256_loadu_si256(from.as_ptr().cast());
                let second = _mm256_loadu_si256(from.as_ptr().add(8).cast());
                let lower = |cells| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(cells));
                let mask = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
                let upper = |cells| _mm256_castsi256_ps(_mm256_and_si256(cells, mask));
                (V256(lower(first), lower(second)), V256(upper(first), upper(second)))
            }
        }
    }
}

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
pub(super) mod arm {
    //! SAFETY of every block here: the type is used only by the path of [`super::super`] whose `#[target_feature]` has what the
    //! intrinsics need, and that runs only after the CPU was seen to have it. Loads and stores go through references to arrays
    //! of exactly the size read or written, and need no alignment.

    use std::arch::aarch64::*;
    use std::arch::asm;

    use super::super::lanes::LANES;
    use super::Wide;

    const QUADS: usize = 4;

    /// Four registers of four: needs neon.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Quads([float32x4_t; QUADS]);

    impl Quads {
        #[inline(always)]
        fn of(quad: impl Fn(usize) -> float32x4_t) -> Quads {
            Quads([quad(0), quad(1), quad(2), quad(3)])
        }
    }

    impl Wide for Quads {
        #[inline(always)]
        fn zero() -> Quads {
            Quads::splat(0.0)
        }

        #[inline(always)]
        fn splat(x: f32) -> Quads {
            // SAFETY: see the module.
            Quads([unsafe { vdupq_n_f32(x) }; QUADS])
        }

        #[inline(always)]
        fn load(from: &[f32; LANES]) -> Quads {
            // SAFETY: see the module.
            Quads::of(|i| unsafe { vld1q_f32(from.as_ptr().add(i * QUADS)) })
        }

        #[inline(always)]
        fn of_bits(from: &[u32; LANES]) -> Quads {
            // SAFETY: see the module.
            Quads::of(|i| unsafe { vreinterpretq_f32_u32(vld1q_u32(from.as_ptr().add(i * QUADS))) })
        }

        #[inline(always)]
        fn store(self, to: &mut [f32; LANES]) {
            for (i, quad) in self.0.into_iter().enumerate() {
                // SAFETY: see the module.
                unsafe { vst1q_f32(to.as_mut_ptr().add(i * QUADS), quad) }
            }
        }

        #[inline(always)]
        fn fma(self, b: Quads, c: Quads) -> Quads {
            // SAFETY: see the module.
            Quads::of(|i| unsafe { vfmaq_f32(c.0[i], self.0[i], b.0[i]) })
        }

        #[inline(always)]
        fn of_f32(from: &[u8; 4 * LANES]) -> Quads {
            // SAFETY: see the module.
            Quads::of(|i| unsafe { vreinterpretq_f32_u8(vld1q_u8(from.as_ptr().add(4 * i * QUADS))) })
        }

        #[inline(always)]
        fn of_f16(from: &[u8; 2 * LANES]) -> Quads {
            // The compiler has no stable function for it.
            // SAFETY: see the module; the instruction changes nothing but its result.
            Quads::of(|i| unsafe {
                let halves = vld1_u8(from.as_ptr().add(2 * i * QUADS));
                let numbers: float32x4_t;
                asm!(
                    "fcvtl {numbers:v}.4s, {halves:v}.4h",
                    numbers = lateout(vreg) numbers,
                    halves = in(vreg) halves,
                    options(pure, nomem, nostack, preserves_flags),
                );
                numbers
            })
        }

        #[inline(always)]
        fn of_bf16(from: &[u8; 2 * LANES]) -> Quads {
            // SAFETY: see the module.
            Quads::of(|i| unsafe {
                let upper = vreinterpret_u16_u8(vld1_u8(from.as_ptr().add(2 * i * QUADS)));
                vreinterpretq_f32_u32(vshll_n_u16::<16>(upper))
            })
        }

        #[inline(always)]
        fn of_halves(from: &[u32; LANES]) -> (Quads, Quads) {
            // SAFETY: see the module.
            unsafe {
                let cells = |i: usize| vld1q_u32(from.as_ptr().add(i * QUADS));
                let upper = |i| vreinterpretq_f32_u32(vandq_u32(cells(i), vdupq_n_u32(0xffff_0000)));
                (Quads::of(|i| vreinterpretq_f32_u32(vshlq_n_u32::<16>(cells(i)))), Quads::of(upper))
            }
        }
    }
}
