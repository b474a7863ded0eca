//! Plain numbers as they lie in a file.
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

/// How plain numbers are read: sixteen at a time, or one by one.
pub(super) trait Number {
    /// The bytes of one number.
    type One: Copy;
    /// The bytes of sixteen.
    type Sixteen: Copy;
    /// Sixteen numbers each, and the bytes of those that are left.
    fn sixteens(bytes: &[u8]) -> (&[Self::Sixteen], &[u8]);
    /// One number each.
    fn ones(bytes: &[u8]) -> &[Self::One];
    /// Sixteen numbers as f32.
    fn wide<V: Wide>(bytes: &Self::Sixteen) -> V;
    /// One number as f32.
    fn one(bytes: &Self::One) -> f32;
}

/// Numbers of `$bytes` bytes each; sixteen are read by `$wide`, one by `$one`.
macro_rules! number {
    ($name:ident, $bytes:literal, $wide:ident, $one:expr) => {
        pub(super) struct $name;

        impl Number for $name {
            type One = [u8; $bytes];
            type Sixteen = [u8; $bytes * LANES];

            #[inline(always)]
            fn sixteens(bytes: &[u8]) -> (&[Self::Sixteen], &[u8]) {
                bytes.as_chunks()
            }

            #[inline(always)]
            fn ones(bytes: &[u8]) -> &[Self::One] {
                bytes.as_chunks().0
            }

            #[inline(always)]
            fn wide<V: Wide>(bytes: &Self::Sixteen) -> V {
                V::$wide(bytes)
            }

            #[inline(always)]
            fn one(bytes: &Self::One) -> f32 {
                $one(*bytes)
            }
        }
    };
}

number!(F32, 4, of_f32, f32::from_le_bytes);
number!(F16, 2, of_f16, |b| f16(u16::from_le_bytes(b)));
number!(Bf16, 2, of_bf16, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16));

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
        Format::F32 => decode_as::<V, F32>(row, out),
        Format::F16 => decode_as::<V, F16>(row, out),
        Format::BF16 => decode_as::<V, Bf16>(row, out),
    }
}

#[inline(always)]
fn decode_as<V: Wide, N: Number>(row: &[u8], out: &mut [f32]) {
    let (sixteens, rest) = N::sixteens(row);
    let (lanes, end) = out.as_chunks_mut::<LANES>();
    for (to, from) in lanes.iter_mut().zip(sixteens) {
        N::wide::<V>(from).store(to);
    }
    for (to, from) in end.iter_mut().zip(N::ones(rest)) {
        *to = N::one(from);
    }
}
