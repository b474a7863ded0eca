//! The arithmetic of search, once per kind of processor.
//!
//! A scan is a few loops: signs that differ between a query and contiguous rows ([`hamming`]), which of those distances are
//! small ([`at_most`]), and the dot product of a query with rows of bytes, halves or floats ([`wide_dots`], [`half_dots`],
//! [`float_dots`]). Each has a plain Rust twin, which is
//! what the others are tested against and what runs where nothing better is known.
//!
//! **Signs lie in groups of eight rows**, word by word: eight rows' first 64 signs, then their next 64. A vector register then
//! holds one word of eight rows, popcounts add up per lane, and no sum across a register is ever taken; row after row that sum
//! costs more than the popcounts themselves.
//!
//! **Bytes are compared exactly, with integers.** A row of bytes is `code + 128`, so that the one instruction that multiplies
//! bytes takes it (unsigned by signed). Such a product with a query rounded to bytes too would lose as much again as the row has
//! lost, and need a second pass over the survivors in floats; so a query has 16 bits per dimension, split into two bytes where
//! the processor multiplies bytes: twice the multiplications, which hide behind the loads, and one pass. [`Wide`] bounds the query so that the
//! sum fits 32 bits, hence all kinds of processors give the same bits: integers wrap on the way and come out right.
//!
//! **Half-bytes are planes of bits.** The highest bit of a code is the sign, so a coarse row has the same signs in the same place as any other, and a
//! scan by signs reads both alike; the other three bits lie beside each other as words too ([`plane_dots`]). A plane goes into a mask register as it is.
//!
//! **Signs, halves and floats are read one row after the other**, never several side by side: what is saved in loads of the query
//! is lost twice over as soon as rows come from memory, because a processor fetches ahead along one run and not along four.
//!
//! Halves and floats are summed in an order that depends on the kind of processor alone, never on which rows are beside a row: equal
//! vectors have equal scores.
//!
//! Rejected: simsimd, which compares one pair per call through a pointer and is up to seven times slower at it (signs 6 ns a row to 0.5,
//! halves 45 to 18, both in cache; `examples/bench_rows.rs` has them side by side), and a crate for run-time dispatch: it is the `match`
//! below.

use std::sync::atomic::{AtomicU8, Ordering};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

pub(crate) use scalar::{half_to_float, to_half};

/// Rows whose signs lie together.
pub(crate) const GROUP: usize = 8;
/// What the length of rows and queries of bytes is a multiple of.
pub(crate) const BYTES: usize = 64;

/// Planes of a row of half-bytes: the signs and the three bits below them.
pub(crate) const PLANES: usize = 4;

/// A kind of processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Any.
    Scalar = 1,
    /// x86-64 with AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2 = 2,
    /// x86-64 with AVX-512 F, BW, VL, VNNI and VPOPCNTDQ.
    #[cfg(target_arch = "x86_64")]
    Avx512 = 3,
    /// AArch64.
    #[cfg(target_arch = "aarch64")]
    Neon = 4,
}

/// The kind in use as a number, 0 until the first look.
static KIND: AtomicU8 = AtomicU8::new(0);

impl Kind {
    /// The kinds that this processor can run, the best first.
    pub(crate) fn available() -> Vec<Kind> {
        let mut kinds = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma") && has!("f16c");
            if avx2
                && has!("avx512f")
                && has!("avx512bw")
                && has!("avx512vl")
                && has!("avx512vnni")
                && has!("avx512vpopcntdq")
            {
                kinds.push(Kind::Avx512);
            }
            if avx2 {
                kinds.push(Kind::Avx2);
            }
        }
        #[cfg(target_arch = "aarch64")]
        kinds.push(Kind::Neon);
        kinds.push(Kind::Scalar);
        kinds
    }

    /// The kind in use: the best that the processor can run, found at the first call, unless [`force`] chose another.
    pub(crate) fn current() -> Kind {
        match KIND.load(Ordering::Relaxed) {
            1 => Kind::Scalar,
            #[cfg(target_arch = "x86_64")]
            2 => Kind::Avx2,
            #[cfg(target_arch = "x86_64")]
            3 => Kind::Avx512,
            #[cfg(target_arch = "aarch64")]
            4 => Kind::Neon,
            _ => {
                let best = Kind::available().first().copied().unwrap_or(Kind::Scalar);
                KIND.store(best as u8, Ordering::Relaxed);
                best
            }
        }
    }
}

/// Makes the whole process use one kind, for tests and measurements; a kind that this processor cannot run is ignored.
#[allow(dead_code, reason = "tests and measurements compare the kinds")]
pub(crate) fn force(kind: Kind) {
    if Kind::available().contains(&kind) {
        KIND.store(kind as u8, Ordering::Relaxed);
    }
}

/// Calls a kernel of the kind in use.
macro_rules! dispatch {
    ($name:ident($($argument:expr),*)) => {
        match Kind::current() {
            Kind::Scalar => scalar::$name($($argument),*),
            // SAFETY: `Kind::current` is only ever a kind that `Kind::available` found this processor to have.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2::$name($($argument),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { avx512::$name($($argument),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => unsafe { neon::$name($($argument),*) },
        }
    };
}

/// The largest product of `codes` with any of the rows of signs, a set bit being 1 and another -1: 64 codes to a word, `codes.len() / 64` words to a
/// row. Whole numbers: the same on every kind. None without a row.
pub(crate) fn best_sign_dot(codes: &[i8], rows: &[u64]) -> Option<i32> {
    let words = codes.len() / 64;
    if words == 0 || rows.len() < words {
        return None;
    }
    // Codes where a bit is set are added up; with those where none is, taken away, it is the product.
    let sum: i32 = codes.iter().map(|code| i32::from(*code)).sum();
    Some(2 * dispatch!(best_sign_sum(codes, rows)) - sum)
}

/// A query to compare with rows of bytes: whole numbers of up to 16 bits, each also as `256 · high + low`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wide {
    whole: Vec<i16>,
    high: Vec<i8>,
    low: Vec<i8>,
    /// The sum of the numbers.
    sum: i32,
    /// 128 times that: what the offset of the rows adds to every product.
    offset: i32,
    /// One over the length of the vector of whole numbers.
    inverse: f64,
}

impl Wide {
    /// The direction of a vector, which is padded to the length of a row.
    pub(crate) fn new(vector: &[f32]) -> Wide {
        let padded = vector.len().next_multiple_of(BYTES);
        // As many bits as keep a sum of products with bytes within 31, and `high` a byte: 16 up to 512 dimensions, 10 at 16,384.
        let limit = (i32::MAX as usize / (127 * vector.len().max(1))).min(127 * 256) as f32;
        let largest = vector.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let scale = if largest > 0.0 { limit / largest } else { 0.0 };
        let mut whole: Vec<i16> = vector.iter().map(|x| rounded(x * scale) as i16).collect();
        whole.resize(padded, 0);
        let high: Vec<i8> = whole.iter().map(|x| ((i32::from(*x) + 128) >> 8) as i8).collect();
        let low = whole.iter().zip(&high).map(|(x, high)| (i32::from(*x) - 256 * i32::from(*high)) as i8).collect();
        let square: i64 = whole.iter().map(|x| i64::from(*x) * i64::from(*x)).sum();
        let inverse = if square > 0 { 1.0 / (square as f64).sqrt() } else { 0.0 };
        // Within 32 bits, as the limit has it.
        let sum = whole.iter().map(|x| i32::from(*x)).sum::<i32>();
        Wide { whole, high, low, sum, offset: sum.wrapping_mul(128), inverse }
    }

    /// Becomes a row of bytes, as rows are: the code + 128.
    pub(crate) fn set_row(&mut self, row: &[u8]) {
        self.whole.clear();
        self.whole.extend(row.iter().map(|byte| i16::from(*byte) - 128));
        self.low.clear();
        self.low.extend(row.iter().map(|byte| (byte ^ 128) as i8));
        self.high.clear();
        self.high.resize(row.len(), 0);
        self.sum = row.iter().map(|byte| i32::from(*byte) - 128).sum();
        self.offset = 128 * self.sum;
        self.inverse = 0.0;
    }

    /// The product with a row of half-bytes, from that with its codes: a code `c` stands for `2c - 15`.
    #[inline(always)]
    fn of_codes(&self, sum: i32) -> i32 {
        sum.wrapping_mul(2).wrapping_sub(self.sum.wrapping_mul(15))
    }

    /// One over the length of what the rows are multiplied with.
    pub(crate) fn inverse(&self) -> f64 {
        self.inverse
    }
}

/// The nearest whole number, halves to the even one: exact for |x| < 2^22, and free of library calls.
#[inline(always)]
pub(crate) fn rounded(x: f32) -> i32 {
    const MAGIC: f32 = 12_582_912.0;
    (x + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits()) as i32
}

/// Signs that differ between the query and each row of `groups`: `out[g * 8 + r]` is the distance of row `r` of group `g`, a
/// group being `query.len()` times eight words. Stops with the shorter of `out` and `groups`.
pub(crate) fn hamming(query: &[u64], groups: &[u64], out: &mut [u16]) {
    let rows = out.len().min(groups.len() / query.len().max(1)) / GROUP * GROUP;
    let (Some(groups), Some(out)) = (groups.get(..rows * query.len()), out.get_mut(..rows)) else { return };
    dispatch!(hamming(query, groups, out))
}

/// Which distances are at most `limit`: bit `i % 32` of `out[i / 32]`. `out` has a word for every 32 distances begun.
pub(crate) fn at_most(distances: &[u16], limit: u16, out: &mut [u32]) {
    dispatch!(at_most(distances, limit, out))
}

/// The products of a query with rows of bytes, a byte standing for itself less 128. Rows shorter than the query count as far as they go.
pub(crate) fn wide_dots(query: &Wide, rows: &[&[u8]], out: &mut [i32]) {
    dispatch!(wide_dots(query, rows, out))
}

/// The products of a query with rows of half-bytes, which lie in `rows` one behind the other: for each 64 numbers a word of their signs and three of the
/// bits below, the highest first. The four bits are a code `c`, which stands for `2c - 15`: odd, never 0, as far below it as above.
pub(crate) fn plane_dots(query: &Wide, rows: &[u64], out: &mut [i32]) {
    dispatch!(plane_dots(query, rows, out))
}

/// The products of a query with rows of floats, as long as the query.
pub(crate) fn float_dots(query: &[f32], rows: &[&[f32]], out: &mut [f32]) {
    dispatch!(float_dots(query, rows, out))
}

/// The products of a query with rows of halves, as long as the query.
pub(crate) fn half_dots(query: &[f32], rows: &[&[u16]], out: &mut [f32]) {
    dispatch!(half_dots(query, rows, out))
}

/// Asks for memory that is about to be read.
#[inline(always)]
pub(crate) fn prefetch<T>(data: &[T]) {
    let start = data.as_ptr().cast::<i8>();
    for line in (0..size_of_val(data)).step_by(64) {
        let at = start.wrapping_add(line);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch reads nothing that the program can see and never faults; SSE is part of x86-64.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at);
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: a prefetch changes no register, flag or memory and never faults.
        unsafe {
            std::arch::asm!("prfm pldl1keep, [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let _ = at;
    }
}

#[cfg(test)]
mod tests;
