//! How a tile of sixteen rows lies in memory, and how it is made of the blocks of a GGUF file.

use crate::kernels::half;
use crate::memory::fetch;

/// Rows of a tile.
pub(super) const TILE: usize = 16;
/// Columns of a block.
pub(super) const BLOCK: usize = 32;
/// Blocks that share a head in the K family.
pub(super) const SUPER: usize = 8;
/// Columns that lie side by side.
pub(super) const QUAD: usize = 4;
/// Bytes of one quad of columns of a tile.
pub(super) const STEP: usize = TILE * QUAD;

/// The quantised formats of GGUF that models of the family come in. `d` and `m` are half-precision numbers of a block, `q`
/// a whole number per weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(non_camel_case_types, reason = "the names that GGUF tools write")]
pub enum Quant {
    /// `d·(q − 128)`, 8 bits (the file has signed bytes).
    Q8_0,
    /// `d·(q − 8)`, 4 bits.
    Q4_0,
    /// `d·q + m`, 4 bits.
    Q4_1,
    /// `d·(q − 16)`, 5 bits.
    Q5_0,
    /// `d·q + m`, 5 bits.
    Q5_1,
    /// `d·s·q − m·t`, 4 bits, with `d` and `m` per 256 weights and whole numbers `s` and `t` of 6 bits per 32.
    Q4_K,
    /// The same with 5 bits.
    Q5_K,
    /// `d·s·(q − 32)`, 6 bits, with `d` per 256 weights and a signed byte `s` per 16.
    Q6_K,
}

/// What one format has in a tile.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Bytes per 256 columns, before the first of their pairs of blocks: a multiple of 64.
    pub head: usize,
    /// Bytes per 32 columns, of which a pair of blocks has a multiple of 64.
    pub scales: usize,
    /// Bytes per 32 columns, a multiple of 64.
    pub weights: usize,
    /// What is added to a signed weight, as a power of two; `None` where weights are unsigned by nature.
    pub offset: Option<u32>,
}

/// Where the parts of one block begin in a tile.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// The head that it shares with the other blocks of its 256 columns.
    pub head: usize,
    pub scales: usize,
    pub weights: usize,
}

/// One format, known when the code is compiled.
pub(super) trait Kind {
    const QUANT: Quant;
}

macro_rules! kinds {
    ($d:tt $($name:ident),*) => {
        $(
            #[allow(non_camel_case_types, reason = "named as the format is")]
            pub(super) struct $name;
            impl Kind for $name {
                const QUANT: Quant = Quant::$name;
            }
        )*

        /// The expression, in which a name stands for the [`Kind`] that a [`Quant`] is.
        macro_rules! with_kind {
            ($d quant:expr, $d kind:ident => $d call:expr) => {
                match $d quant {
                    $(
                        $crate::packed::Quant::$name => {
                            type $d kind = $crate::packed::layout::$name;
                            $d call
                        }
                    )*
                }
            };
        }
    };
}
kinds!($ Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K);
pub(super) use with_kind;

impl Quant {
    /// All formats.
    pub const ALL: [Quant; 8] =
        [Quant::Q8_0, Quant::Q4_0, Quant::Q4_1, Quant::Q5_0, Quant::Q5_1, Quant::Q4_K, Quant::Q5_K, Quant::Q6_K];

    /// The name as GGUF tools write it.
    pub fn name(self) -> &'static str {
        match self {
            Quant::Q8_0 => "Q8_0",
            Quant::Q4_0 => "Q4_0",
            Quant::Q4_1 => "Q4_1",
            Quant::Q5_0 => "Q5_0",
            Quant::Q5_1 => "Q5_1",
            Quant::Q4_K => "Q4_K",
            Quant::Q5_K => "Q5_K",
            Quant::Q6_K => "Q6_K",
        }
    }

    /// How many numbers one block of the file holds.
    pub const fn block_len(self) -> usize {
        match self {
            Quant::Q4_K | Quant::Q5_K | Quant::Q6_K => SUPER * BLOCK,
            _ => BLOCK,
        }
    }

    /// How many bytes one block of the file takes.
    pub const fn block_bytes(self) -> usize {
        match self {
            Quant::Q8_0 => 34,
            Quant::Q4_0 => 18,
            Quant::Q4_1 => 20,
            Quant::Q5_0 => 22,
            Quant::Q5_1 => 24,
            Quant::Q4_K => 144,
            Quant::Q5_K => 176,
            Quant::Q6_K => 210,
        }
    }

    /// The bytes of a row of `cols` numbers in a file, or `None` when `cols` is no whole number of blocks or too large.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    pub(super) const fn shape(self) -> Shape {
        const HALF: usize = 2 * TILE;
        const NIBBLES: usize = BLOCK * TILE / 2;
        const BITS: usize = BLOCK * TILE / 8;
        let (head, scales, weights, offset) = match self {
            Quant::Q8_0 => (0, HALF, BLOCK * TILE, Some(7)),
            Quant::Q4_0 => (0, HALF, NIBBLES, Some(3)),
            Quant::Q4_1 => (0, 2 * HALF, NIBBLES, None),
            Quant::Q5_0 => (0, HALF, NIBBLES + BITS, Some(4)),
            Quant::Q5_1 => (0, 2 * HALF, NIBBLES + BITS, None),
            Quant::Q4_K => (2 * HALF, 2 * TILE, NIBBLES, None),
            Quant::Q5_K => (2 * HALF, 2 * TILE, NIBBLES + BITS, None),
            Quant::Q6_K => (2 * HALF, 2 * TILE, NIBBLES + 2 * BITS, Some(5)),
        };
        Shape { head, scales, weights, offset }
    }

    /// Where block `block` is in a tile.
    #[inline(always)]
    pub(super) const fn place(self, block: usize) -> Place {
        let Shape { head, scales, weights, .. } = self.shape();
        let pair = 2 * (scales + weights);
        let start = (block / SUPER + 1) * head + block / 2 * pair;
        Place {
            head: block / SUPER * (head + SUPER / 2 * pair),
            scales: start + block % 2 * scales,
            weights: start + 2 * scales + block % 2 * weights,
        }
    }

    /// Where the low bits of a quad are among the weights of a block: two quads share bytes, the even one has the low nibbles,
    /// except that Q8_0 has all bits in one place. What belongs together is read together, in the order of memory: the CPU
    /// reads ahead of that, and with upper bits behind all low ones it did so at three quarters of the speed.
    #[inline(always)]
    pub(super) const fn low(self, quad: usize) -> usize {
        match self {
            Quant::Q8_0 => quad * STEP,
            Quant::Q4_0 | Quant::Q4_1 | Quant::Q4_K => quad / 2 * STEP,
            Quant::Q5_0 | Quant::Q5_1 | Quant::Q5_K => (1 + quad / 2) * STEP,
            Quant::Q6_K => (quad / 4 * 3 + 1 + quad / 2 % 2) * STEP,
        }
    }

    /// Where its upper bits are: with five bits, one for each byte of the quad, in the order of a mask register; with six, four
    /// quads share the bytes of their pairs.
    #[inline(always)]
    pub(super) const fn upper(self, quad: usize) -> usize {
        match self {
            Quant::Q6_K => quad / 4 * 3 * STEP,
            _ => quad * STEP / 8,
        }
    }

    /// The bytes of a tile of `blocks` blocks per row, a multiple of 64.
    pub(super) fn tile_bytes(self, blocks: usize) -> Option<usize> {
        // No format takes more than 48 bytes per column of a tile.
        blocks.checked_mul(48 * BLOCK)?;
        let Shape { head, scales, weights, .. } = self.shape();
        Some(blocks.div_ceil(SUPER) * head + blocks.next_multiple_of(2) * scales + blocks * weights)
    }
}

/// Whether the two halves of a block have scales of their own.
pub(super) const fn has_halves(quant: Quant) -> bool {
    matches!(quant, Quant::Q6_K)
}

/// Whether something is subtracted from every weight of a block.
pub(super) const fn has_min(quant: Quant) -> bool {
    matches!(quant, Quant::Q4_1 | Quant::Q5_1 | Quant::Q4_K | Quant::Q5_K)
}

/// Reads the weights of block `index` of 32 columns of a row of the file, as unsigned numbers, and gives what the block says
/// beside them: what goes among the scales for this row, one or two entries of `scales / TILE` bytes together. The row has the
/// length of the format.
#[inline(always)]
fn read<K: Kind>(row: &[u8], index: usize, weights: &mut [u8; BLOCK]) -> [[u8; 2]; 2] {
    let per = K::QUANT.block_len() / BLOCK;
    let bytes = K::QUANT.block_bytes();
    let block = &row[index / per * bytes..][..bytes];
    let part = index % per;
    let two = |at: usize| [block[at], block[at + 1]];
    let nibbles = |weights: &mut [u8; BLOCK], from: &[u8]| {
        let (low, high) = weights.split_at_mut(BLOCK / 2);
        for ((low, high), byte) in low.iter_mut().zip(high).zip(&from[..BLOCK / 2]) {
            (*low, *high) = (byte & 15, byte >> 4);
        }
    };
    // A bit of each of 32 weights: a byte's eight bits, each in a byte of its own, are moved to where the fifth bit is.
    let fifth = |weights: &mut [u8; BLOCK], from: &[u8]| {
        for (eight, byte) in weights.as_chunks_mut::<8>().0.iter_mut().zip(&from[..4]) {
            let apart = (u64::from(*byte) * 0x0101_0101_0101_0101) & 0x8040_2010_0804_0201;
            let bits = ((apart + 0x7f7f_7f7f_7f7f_7f7f) & 0x8080_8080_8080_8080) >> 3;
            *eight = (u64::from_le_bytes(*eight) | bits).to_le_bytes();
        }
    };
    match K::QUANT {
        Quant::Q8_0 => {
            for (weight, byte) in weights.iter_mut().zip(&block[2..]) {
                *weight = byte ^ 0x80;
            }
            [two(0), [0; 2]]
        }
        Quant::Q4_0 => {
            nibbles(weights, &block[2..]);
            [two(0), [0; 2]]
        }
        Quant::Q5_0 => {
            nibbles(weights, &block[6..]);
            fifth(weights, &block[2..]);
            [two(0), [0; 2]]
        }
        Quant::Q4_1 => {
            nibbles(weights, &block[4..]);
            [two(0), two(2)]
        }
        Quant::Q5_1 => {
            nibbles(weights, &block[8..]);
            fifth(weights, &block[4..]);
            [two(0), two(2)]
        }
        Quant::Q4_K | Quant::Q5_K => {
            let packed = &block[4..16];
            let (scale, min) = if part < 4 {
                (packed[part] & 63, packed[part + 4] & 63)
            } else {
                let both = packed[part + 4];
                (both & 15 | packed[part - 4] >> 6 << 4, both >> 4 | packed[part] >> 6 << 4)
            };
            // Sub-blocks come in pairs: the low nibbles of 32 bytes, then their high ones.
            let low = if K::QUANT == Quant::Q4_K { &block[16..] } else { &block[48..] };
            let low = &low[part / 2 * BLOCK..][..BLOCK];
            for (weight, low) in weights.iter_mut().zip(low) {
                *weight = low >> (part % 2 * 4) & 15;
            }
            if K::QUANT == Quant::Q5_K {
                for (weight, bits) in weights.iter_mut().zip(&block[16..][..BLOCK]) {
                    *weight |= (bits >> part & 1) << 4;
                }
            }
            [[scale, min], [0; 2]]
        }
        Quant::Q6_K => {
            // Two halves of 128: 64 bytes of low nibbles, 32 bytes of upper pairs of bits, 8 scales each.
            let (half, quarter) = (part / 4, part % 4);
            let low = &block[half * 64 + quarter % 2 * BLOCK..][..BLOCK];
            let high = &block[128 + half * BLOCK..][..BLOCK];
            for ((weight, low), high) in weights.iter_mut().zip(low).zip(high) {
                *weight = low >> (quarter / 2 * 4) & 15 | (high >> (2 * quarter) & 3) << 4;
            }
            [two(192 + half * 8 + quarter * 2), [0; 2]]
        }
    }
}

/// All numbers of a row of the file.
pub(super) fn read_row(quant: Quant, row: &[u8], out: &mut [f32]) {
    let offset = quant.shape().offset.map_or(0, |bits| 1i32 << bits);
    let per = quant.block_len() / BLOCK;
    let mut weights = [0; BLOCK];
    for (index, out) in out.chunks_exact_mut(BLOCK).enumerate() {
        let [first, second] = with_kind!(quant, K => read::<K>(row, index, &mut weights));
        let block = &row[index / per * quant.block_bytes()..][..quant.block_bytes()];
        let head = |at: usize| half(u16::from_le_bytes([block[at], block[at + 1]]));
        let (scales, min) = match quant {
            Quant::Q8_0 | Quant::Q4_0 | Quant::Q5_0 => ([half(u16::from_le_bytes(first)); 2], 0.0),
            Quant::Q4_1 | Quant::Q5_1 => ([half(u16::from_le_bytes(first)); 2], -half(u16::from_le_bytes(second))),
            Quant::Q4_K | Quant::Q5_K => ([head(0) * f32::from(first[0]); 2], head(2) * f32::from(first[1])),
            Quant::Q6_K => (first.map(|scale| head(208) * f32::from(scale.cast_signed())), 0.0),
        };
        for (i, (out, weight)) in out.iter_mut().zip(weights).enumerate() {
            *out = (i32::from(weight) - offset) as f32 * scales[i / (BLOCK / 2)] - min;
        }
    }
}

/// Packs whole rows `from` into `to`, which is zeroed and has the length of whole tiles.
pub(super) fn pack(quant: Quant, cols: usize, from: &[u8], to: &mut [u8]) {
    with_kind!(quant, K => pack_kind::<K>(cols, from, to));
}

/// A block of all sixteen rows after the other, so that what is written stays in the first-level cache.
fn pack_kind<K: Kind>(cols: usize, from: &[u8], to: &mut [u8]) {
    let shape = const { K::QUANT.shape() };
    let blocks = cols / BLOCK;
    let (Some(row_bytes), Some(tile_bytes)) = (K::QUANT.row_bytes(cols), K::QUANT.tile_bytes(blocks)) else { return };
    // Rows that a last tile lacks are zeros.
    let mut weights = [[0; BLOCK]; TILE];
    let (rows_bytes, ahead) = (TILE * row_bytes, TILE * row_bytes / blocks.max(1));
    for ((number, rows), tile) in from.chunks(rows_bytes).enumerate().zip(to.chunks_exact_mut(tile_bytes)) {
        if rows.len() < rows_bytes {
            weights = [[0; BLOCK]; TILE];
        }
        let next = from.get((number + 1) * rows_bytes..).unwrap_or_default();
        for index in 0..blocks {
            // Sixteen rows at once are no order that the CPU reads ahead in; the next ones from end to end are.
            let soon = next.get(index * ahead..(index + 1) * ahead).unwrap_or_default();
            soon.chunks(64).flat_map(<[u8]>::first).for_each(fetch);
            let place = K::QUANT.place(index);
            if shape.head > 0 && index.is_multiple_of(SUPER) {
                for (row, bytes) in rows.chunks_exact(row_bytes).enumerate() {
                    let block = &bytes[index / SUPER * K::QUANT.block_bytes()..][..K::QUANT.block_bytes()];
                    pack_head::<K>(row, block, &mut tile[place.head..][..shape.head]);
                }
            }
            let scales = &mut tile[place.scales..][..shape.scales];
            for (row, (bytes, weights)) in rows.chunks_exact(row_bytes).zip(&mut weights).enumerate() {
                pack_scales::<K>(row, read::<K>(bytes, index, weights), scales);
            }
            pack_weights::<K>(&weights, &mut tile[place.weights..][..shape.weights]);
        }
    }
}

/// Puts what a block of the K family has once into the head of its tile.
fn pack_head<K: Kind>(row: usize, block: &[u8], head: &mut [u8]) {
    if K::QUANT == Quant::Q6_K {
        head[2 * row..][..2].copy_from_slice(&block[208..210]);
    } else {
        head[2 * row..][..2].copy_from_slice(&block[..2]);
        head[2 * (TILE + row)..][..2].copy_from_slice(&block[2..4]);
    }
}

/// Puts the scales of a block of one row among those of the others.
#[inline(always)]
fn pack_scales<K: Kind>(row: usize, [first, second]: [[u8; 2]; 2], scales: &mut [u8]) {
    match K::QUANT {
        Quant::Q4_K | Quant::Q5_K | Quant::Q6_K => (scales[row], scales[TILE + row]) = (first[0], first[1]),
        _ => {
            scales[2 * row..][..2].copy_from_slice(&first);
            if K::QUANT.shape().scales > 2 * TILE {
                // Kept with the sign of the K family: what is subtracted.
                scales[2 * (TILE + row)..][..2].copy_from_slice(&[second[0], second[1] ^ 0x80]);
            }
        }
    }
}

/// Puts the weights of a block of all rows to their places, four of a row in the bytes of a `u32`.
#[inline(always)]
fn pack_weights<K: Kind>(weights: &[[u8; BLOCK]; TILE], place: &mut [u8]) {
    let quads = turned(weights);
    let mut put = |at: usize, quads: [u32; TILE]| {
        for (place, quad) in place[at..][..STEP].as_chunks_mut::<QUAD>().0.iter_mut().zip(quads) {
            *place = quad.to_le_bytes();
        }
    };
    if K::QUANT == Quant::Q8_0 {
        for (at, quads) in quads.into_iter().enumerate() {
            put(K::QUANT.low(at), quads);
        }
        return;
    }
    for (at, [even, odd]) in quads.as_chunks().0.iter().enumerate() {
        let both = std::array::from_fn(|row| even[row] & 0x0f0f_0f0f | (odd[row] & 0x0f0f_0f0f) << 4);
        put(K::QUANT.low(2 * at), both);
    }
    match K::QUANT {
        Quant::Q5_0 | Quant::Q5_1 | Quant::Q5_K => {
            // Half a byte for each row.
            for (at, quads) in quads.iter().enumerate() {
                let halves = quads.map(|quad| {
                    let bits = quad >> 4 & 0x0101_0101;
                    let bits = bits | bits >> 7;
                    (bits | bits >> 14) & 15
                });
                let bytes = place[K::QUANT.upper(at)..][..TILE / 2].iter_mut().zip(halves.as_chunks().0);
                for (byte, [even, odd]) in bytes {
                    *byte = (even | odd << 4) as u8;
                }
            }
        }
        Quant::Q6_K => {
            for (at, four) in quads.as_chunks::<4>().0.iter().enumerate() {
                let pairs = |quad: u32| quad >> 4 & 0x0303_0303;
                let all = |row| four.iter().rev().fold(0, |all, quads: &[u32; TILE]| all << 2 | pairs(quads[row]));
                put(K::QUANT.upper(4 * at), std::array::from_fn(all));
            }
        }
        _ => {}
    }
}

/// The quads of all rows, column by column.
#[inline(always)]
fn turned(rows: &[[u8; BLOCK]; TILE]) -> [[u32; TILE]; BLOCK / QUAD] {
    let mut turned = [[0; TILE]; BLOCK / QUAD];
    for (group, rows) in rows.as_chunks::<4>().0.iter().enumerate() {
        for half in 0..2 {
            let four = turn(rows.map(|row| row.as_chunks::<16>().0[half]));
            for (turned, column) in turned[4 * half..].iter_mut().zip(four) {
                turned[4 * group..][..4].copy_from_slice(&column);
            }
        }
    }
    turned
}

/// Four quads of four rows, column by column.
#[inline(always)]
fn turn(rows: [[u8; 16]; 4]) -> [[u32; 4]; 4] {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;
        // SAFETY: SSE2 is part of the architecture, and sixteen bytes are sixteen bytes however they are called.
        unsafe {
            let [a, b, c, d] = rows.map(|row| std::mem::transmute::<[u8; 16], __m128i>(row));
            let (low, more) = (_mm_unpacklo_epi32(a, b), _mm_unpacklo_epi32(c, d));
            let (high, most) = (_mm_unpackhi_epi32(a, b), _mm_unpackhi_epi32(c, d));
            let columns = [
                _mm_unpacklo_epi64(low, more),
                _mm_unpackhi_epi64(low, more),
                _mm_unpacklo_epi64(high, most),
                _mm_unpackhi_epi64(high, most),
            ];
            std::mem::transmute::<[__m128i; 4], [[u32; 4]; 4]>(columns)
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::array::from_fn(|column| rows.map(|row| u32::from_le_bytes(row.as_chunks().0[column])))
}

/// One block of a row of a tile: its unsigned weights, the scales of its two halves, and what is subtracted.
pub(super) struct Unpacked {
    pub weights: [u8; BLOCK],
    pub scales: [f32; 2],
    pub min: f32,
}

/// Block `index` of row `row` of a tile.
pub(super) fn unpack(quant: Quant, tile: &[u8], row: usize, index: usize) -> Unpacked {
    let shape = quant.shape();
    let place = quant.place(index);
    let head = |at: usize| {
        let head = &tile[place.head..][..shape.head];
        half(u16::from_le_bytes([head[2 * at], head[2 * at + 1]]))
    };
    let scales = &tile[place.scales..][..shape.scales];
    let at = |at: usize| half(u16::from_le_bytes([scales[2 * at], scales[2 * at + 1]]));
    let (scales, min) = match quant {
        Quant::Q8_0 | Quant::Q4_0 | Quant::Q5_0 => ([at(row); 2], 0.0),
        Quant::Q4_1 | Quant::Q5_1 => ([at(row); 2], at(TILE + row)),
        Quant::Q4_K | Quant::Q5_K => {
            let scale = head(row) * f32::from(scales[row]);
            ([scale; 2], head(TILE + row) * f32::from(scales[TILE + row]))
        }
        Quant::Q6_K => {
            let scale = |of: usize| head(row) * f32::from(scales[of].cast_signed());
            ([scale(row), scale(TILE + row)], 0.0)
        }
    };
    let place = &tile[place.weights..][..shape.weights];
    let mut weights = [0; BLOCK];
    for (i, weight) in weights.iter_mut().enumerate() {
        let (at, lane) = (i / QUAD, row * QUAD + i % QUAD);
        *weight = match quant {
            Quant::Q8_0 => place[quant.low(at) + lane],
            _ => place[quant.low(at) + lane] >> (at % 2 * 4) & 15,
        };
        match quant {
            Quant::Q5_0 | Quant::Q5_1 | Quant::Q5_K => {
                *weight |= (place[quant.upper(at) + lane / 8] >> (lane % 8) & 1) << 4;
            }
            Quant::Q6_K => *weight |= (place[quant.upper(at) + lane] >> (at % 4 * 2) & 3) << 4,
            _ => {}
        }
    }
    Unpacked { weights, scales, min }
}

/// All numbers of one row of a tile.
pub(super) fn unpack_row(quant: Quant, tile: &[u8], row: usize, out: &mut [f32]) {
    let offset = quant.shape().offset.map_or(0, |bits| 1i32 << bits);
    for (index, out) in out.chunks_exact_mut(BLOCK).enumerate() {
        let Unpacked { weights, scales, min } = unpack(quant, tile, row, index);
        for (i, (out, weight)) in out.iter_mut().zip(weights).enumerate() {
            *out = (i32::from(weight) - offset) as f32 * scales[i / (BLOCK / 2)] - min;
        }
    }
}

/// The 32 numbers of one row among the nibbles of a block of a tile.
pub(super) fn nibbles(block: &[u8], row: usize) -> [u8; BLOCK] {
    std::array::from_fn(|i| block[i / QUAD / 2 * STEP + row * QUAD + i % QUAD] >> (i / QUAD % 2 * 4) & 15)
}
