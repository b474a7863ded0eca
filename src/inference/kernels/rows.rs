//! Rows of weights as they lie in a file, read 32 numbers at a time.
//!
//! All reads go through bytes in little-endian order, so no alignment of the file is needed; on the CPUs this runs on the
//! compiler turns them into plain vector loads.

use super::lanes::{LANES, Lanes};

/// How a matrix is encoded. The quantised ones have blocks of 32 numbers along a row, as in GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// 4 bytes each.
    F32,
    /// IEEE half precision, 2 bytes each.
    F16,
    /// The upper half of an f32, 2 bytes each.
    BF16,
    /// Blocks of an f16 scale and 32 signed bytes: value = scale × q.
    Q8_0,
    /// Blocks of an f16 scale and 32 nibbles: value = scale × (q − 8); element `i < 16` is the low nibble of byte `i`,
    /// element `i + 16` the high one.
    Q4_0,
}

impl Format {
    /// All formats.
    pub const ALL: [Format; 5] = [Format::F32, Format::F16, Format::BF16, Format::Q8_0, Format::Q4_0];

    /// The name as GGUF tools write it.
    pub fn name(self) -> &'static str {
        match self {
            Format::F32 => "F32",
            Format::F16 => "F16",
            Format::BF16 => "BF16",
            Format::Q8_0 => "Q8_0",
            Format::Q4_0 => "Q4_0",
        }
    }

    /// How many numbers one block holds.
    pub const fn block_len(self) -> usize {
        match self {
            Format::F32 | Format::F16 | Format::BF16 => 1,
            Format::Q8_0 | Format::Q4_0 => BLOCK,
        }
    }

    /// How many bytes one block takes.
    pub const fn block_bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::F16 | Format::BF16 => 2,
            Format::Q8_0 => Q8_BYTES,
            Format::Q4_0 => Q4_BYTES,
        }
    }

    /// The bytes of a row of `cols` numbers, or `None` when `cols` is no whole number of blocks or too large.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }
}

/// Numbers per step of a dot product, and per block of the quantised formats.
pub(super) const BLOCK: usize = 32;
const Q8_BYTES: usize = 2 + BLOCK;
const Q4_BYTES: usize = 2 + BLOCK / 2;

/// A row of `len` numbers, read in steps of [`BLOCK`].
pub(super) trait Row: Copy {
    /// The numbers `at .. at + 32`; `at` is a multiple of 32.
    fn pair(self, at: usize) -> [Lanes; 2];
    /// The numbers from `at` to the end, fewer than 32, then zeros.
    fn end(self, at: usize) -> [Lanes; 2];
}

impl Row for &[f32] {
    #[inline(always)]
    fn pair(self, at: usize) -> [Lanes; 2] {
        let step = &self[at..at + BLOCK];
        [Lanes::load(step, 0), Lanes::load(step, LANES)]
    }

    #[inline(always)]
    fn end(self, at: usize) -> [Lanes; 2] {
        let rest = &self[at..];
        if rest.len() <= LANES {
            [Lanes::load_end(rest, 0), Lanes::ZERO]
        } else {
            [Lanes::load(rest, 0), Lanes::load_end(rest, LANES)]
        }
    }
}

/// A row of plain numbers of `WIDTH` bytes each, made f32 by `decode`.
macro_rules! plain_row {
    ($name:ident, $width:literal, $decode:expr) => {
        #[derive(Clone, Copy)]
        pub(super) struct $name<'a>(pub &'a [u8]);

        impl Row for $name<'_> {
            #[inline(always)]
            fn pair(self, at: usize) -> [Lanes; 2] {
                let step = &self.0[at * $width..(at + BLOCK) * $width];
                let mut out = [Lanes::ZERO; 2];
                for l in 0..LANES {
                    out[0].0[l] = $decode(&step[l * $width..]);
                }
                for l in 0..LANES {
                    out[1].0[l] = $decode(&step[(l + LANES) * $width..]);
                }
                out
            }

            #[inline(always)]
            fn end(self, at: usize) -> [Lanes; 2] {
                let mut out = [Lanes::ZERO; 2];
                for (i, bytes) in self.0[at * $width..].chunks_exact($width).enumerate() {
                    out[i / LANES].0[i % LANES] = $decode(bytes);
                }
                out
            }
        }
    };
}

plain_row!(F32Row, 4, |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
plain_row!(F16Row, 2, |b: &[u8]| f16(u16::from_le_bytes([b[0], b[1]])));
plain_row!(Bf16Row, 2, |b: &[u8]| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16));

/// Half precision to single, exact, subnormal numbers, infinities and NaN included.
#[inline(always)]
pub(super) fn f16(half: u16) -> f32 {
    let half = u32::from(half);
    // The exponent field keeps its bias of 15 here; multiplying by 2^112 corrects it and makes subnormal numbers normal.
    let magnitude = (half & 0x7fff) << 13;
    let scaled = f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23);
    let bits = if half & 0x7c00 == 0x7c00 { magnitude | 0x7f80_0000 } else { scaled.to_bits() };
    f32::from_bits(bits | (half & 0x8000) << 16)
}

#[derive(Clone, Copy)]
pub(super) struct Q8Row<'a>(pub &'a [u8]);

impl Row for Q8Row<'_> {
    #[inline(always)]
    fn pair(self, at: usize) -> [Lanes; 2] {
        let block = &self.0[at / BLOCK * Q8_BYTES..(at / BLOCK + 1) * Q8_BYTES];
        let scale = f16(u16::from_le_bytes([block[0], block[1]]));
        let mut out = [Lanes::ZERO; 2];
        for l in 0..LANES {
            out[0].0[l] = f32::from(block[2 + l].cast_signed()) * scale;
        }
        for l in 0..LANES {
            out[1].0[l] = f32::from(block[2 + LANES + l].cast_signed()) * scale;
        }
        out
    }

    #[inline(always)]
    fn end(self, _: usize) -> [Lanes; 2] {
        [Lanes::ZERO; 2] // rows are whole blocks
    }
}

#[derive(Clone, Copy)]
pub(super) struct Q4Row<'a>(pub &'a [u8]);

impl Row for Q4Row<'_> {
    #[inline(always)]
    fn pair(self, at: usize) -> [Lanes; 2] {
        let block = &self.0[at / BLOCK * Q4_BYTES..(at / BLOCK + 1) * Q4_BYTES];
        let scale = f16(u16::from_le_bytes([block[0], block[1]]));
        let mut out = [Lanes::ZERO; 2];
        for l in 0..LANES {
            out[0].0[l] = (i32::from(block[2 + l] & 15) - 8) as f32 * scale;
        }
        for l in 0..LANES {
            out[1].0[l] = (i32::from(block[2 + l] >> 4) - 8) as f32 * scale;
        }
        out
    }

    #[inline(always)]
    fn end(self, _: usize) -> [Lanes; 2] {
        [Lanes::ZERO; 2]
    }
}

/// All numbers of one row.
#[inline(always)]
pub(super) fn decode(format: Format, row: &[u8], out: &mut [f32]) {
    match format {
        Format::F32 => decode_as(F32Row(row), out),
        Format::F16 => decode_as(F16Row(row), out),
        Format::BF16 => decode_as(Bf16Row(row), out),
        Format::Q8_0 => decode_as(Q8Row(row), out),
        Format::Q4_0 => decode_as(Q4Row(row), out),
    }
}

#[inline(always)]
pub(super) fn decode_as<R: Row>(row: R, out: &mut [f32]) {
    let whole = out.len() / BLOCK * BLOCK;
    for at in (0..whole).step_by(BLOCK) {
        let [a, b] = row.pair(at);
        a.store(out, at);
        b.store(out, at + LANES);
    }
    if whole < out.len() {
        let [a, b] = row.end(whole);
        for (i, x) in out[whole..].iter_mut().enumerate() {
            *x = if i < LANES { a.0[i] } else { b.0[i - LANES] };
        }
    }
}
