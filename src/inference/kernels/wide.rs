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
    /// The tree of [`Lanes::sum`].
    fn sum(self) -> f32;
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
    fn sum(self) -> f32 {
        Lanes::sum(self)
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

    /// `a[l] + a[l + 4]`, then `+ 2`, then `+ 1`: the end of the tree of sums.
    #[inline(always)]
    fn sum8(a: __m256) -> f32 {
        // SAFETY: see the module.
        unsafe {
            let b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let c = _mm_add_ps(b, _mm_movehl_ps(b, b));
            _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps::<1>(c, c)))
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
        fn sum(self) -> f32 {
            // SAFETY: see the module.
            sum8(unsafe { _mm256_add_ps(_mm512_castps512_ps256(self.0), _mm512_extractf32x8_ps::<1>(self.0)) })
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
        fn sum(self) -> f32 {
            // SAFETY: see the module.
            sum8(unsafe { _mm256_add_ps(self.0, self.1) })
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
