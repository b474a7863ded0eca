//! Rows of weights as they lie in a file, read 32 numbers at a time.
//!
//! All reads go through bytes in little-endian order, so no alignment of the file is needed.

use super::lanes::LANES;
use super::wide::Wide;

/// How the numbers of a matrix that is not quantised are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// 4 bytes each.
    F32,
    /// IEEE half precision, 2 bytes each.
    F16,
    /// The upper half of an f32, 2 bytes each.
    BF16,
}

impl Format {
    /// All formats.
    pub const ALL: [Format; 3] = [Format::F32, Format::F16, Format::BF16];

    /// The name as GGUF tools write it.
    pub fn name(self) -> &'static str {
        match self {
            Format::F32 => "F32",
            Format::F16 => "F16",
            Format::BF16 => "BF16",
        }
    }

    /// How many bytes one number takes.
    pub const fn bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::F16 | Format::BF16 => 2,
        }
    }

    /// The bytes of a row of `cols` numbers, or `None` when they are too many.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        cols.checked_mul(self.bytes())
    }
}

/// Numbers per step of a dot product.
pub(super) const BLOCK: usize = 32;

/// A row of numbers, read in steps of [`BLOCK`].
pub(super) trait Row: Copy {
    /// The numbers `at .. at + 32`; `at` is a multiple of 32.
    fn pair<V: Wide>(self, at: usize) -> [V; 2];
    /// The numbers from `at` to the end, fewer than 32, then zeros.
    fn end<V: Wide>(self, at: usize) -> [V; 2];
}

impl Row for &[f32] {
    #[inline(always)]
    fn pair<V: Wide>(self, at: usize) -> [V; 2] {
        let (low, high) = halves::<f32, LANES>(&self[at..at + BLOCK]);
        [V::load(low), V::load(high)]
    }

    #[inline(always)]
    fn end<V: Wide>(self, at: usize) -> [V; 2] {
        padded(&self[at..]).as_slice().pair(0)
    }
}

/// The two halves of a slice of `2 × N` elements.
#[inline(always)]
fn halves<T, const N: usize>(both: &[T]) -> (&[T; N], &[T; N]) {
    match both.as_chunks::<N>().0 {
        [low, high] => (low, high),
        _ => unreachable!("a step has two halves"),
    }
}

/// The last numbers of a row and zeros.
#[inline(always)]
fn padded(rest: &[f32]) -> [f32; BLOCK] {
    let mut all = [0.0; BLOCK];
    all[..rest.len()].copy_from_slice(rest);
    all
}

/// A row of plain numbers of `$width` bytes each; the last ones are made f32 by `$decode`, one by one.
macro_rules! plain_row {
    ($name:ident, $width:literal, $wide:ident, $decode:expr) => {
        #[derive(Clone, Copy)]
        pub(super) struct $name<'a>(pub &'a [u8]);

        impl Row for $name<'_> {
            #[inline(always)]
            fn pair<V: Wide>(self, at: usize) -> [V; 2] {
                let step = &self.0[at * $width..(at + BLOCK) * $width];
                let (low, high) = halves::<u8, { LANES * $width }>(step);
                [V::$wide(low), V::$wide(high)]
            }

            #[inline(always)]
            fn end<V: Wide>(self, at: usize) -> [V; 2] {
                let mut all = [0.0; BLOCK];
                for (x, bytes) in all.iter_mut().zip(self.0[at * $width..].as_chunks::<$width>().0) {
                    *x = $decode(*bytes);
                }
                all.as_slice().pair(0)
            }
        }
    };
}

plain_row!(F32Row, 4, of_f32, f32::from_le_bytes);
plain_row!(F16Row, 2, of_f16, |b| f16(u16::from_le_bytes(b)));
plain_row!(Bf16Row, 2, of_bf16, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16));

/// Half precision to single, exact, subnormal numbers, infinities and NaN included.
#[inline(always)]
pub(crate) fn f16(half: u16) -> f32 {
    let half = u32::from(half);
    // The exponent field keeps its bias of 15 here; multiplying by 2^112 corrects it and makes subnormal numbers normal.
    let magnitude = (half & 0x7fff) << 13;
    let scaled = f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23);
    let bits = if half & 0x7c00 == 0x7c00 { magnitude | 0x7f80_0000 } else { scaled.to_bits() };
    f32::from_bits(bits | (half & 0x8000) << 16)
}

/// All numbers of one row.
#[inline(always)]
pub(super) fn decode<V: Wide>(format: Format, row: &[u8], out: &mut [f32]) {
    match format {
        Format::F32 => decode_as::<V, _>(F32Row(row), out),
        Format::F16 => decode_as::<V, _>(F16Row(row), out),
        Format::BF16 => decode_as::<V, _>(Bf16Row(row), out),
    }
}

#[inline(always)]
pub(super) fn decode_as<V: Wide, R: Row>(row: R, out: &mut [f32]) {
    let mut at = 0;
    let (lanes, rest) = out.as_chunks_mut::<LANES>();
    for two in lanes.chunks_exact_mut(2) {
        let [a, b] = row.pair::<V>(at);
        a.store(&mut two[0]);
        b.store(&mut two[1]);
        at += BLOCK;
    }
    let odd = lanes.len() % 2;
    if odd + rest.len() > 0 {
        let mut end = [0.0; BLOCK];
        let [a, b] = row.end::<V>(at);
        for (half, to) in [a, b].into_iter().zip(end.as_chunks_mut::<LANES>().0) {
            half.store(to);
        }
        let left = &mut out[at..];
        left.copy_from_slice(&end[..left.len()]);
    }
}
