//! Products with plain weights: F32, F16 and BF16, packed into tiles of sixteen rows.
//!
//! **Layout.** A tile holds sixteen rows of a matrix, column after column, the numbers of a column side by side as the file
//! has them. So one load makes sixteen numbers of one column, a number of `x` is spread over the lanes, and each lane is the
//! sum of its own row: no sum over lanes, no row that must be decoded into scratch first, and any width. Behind the last row
//! there are zeros. A tile is read from its first byte to its last, which is what the CPU reads ahead of, and the bytes are as
//! many as in the file. Numbers become f32 in the registers, exactly: a shift for BF16, an instruction for F16.
//!
//! **Order.** `sum = fma(w, x, sum)`, columns from first to last, from zero. Activations stay f32. So a result has the same bits
//! on every path, for any number of rows and whatever is computed beside it.
//!
//! **Blocks.** Up to `MOST` rows of `x` meet a tile, or up to `PAIR` rows two tiles, with a register of sums for each of both:
//! enough that the multipliers wait neither for each other nor for loads. With two tiles even a single row has two chains of
//! sums, which is what it takes to read weights as fast as memory gives them. So many rows read the weights once; of more rows,
//! the first read them from memory, the others find the tile in the second-level cache. The loops are plain: unrolled by hand,
//! the compiler began to move sums to memory and back.
//!
//! Rejected: dot products along the columns (what this replaced: less than half the speed for two to eight rows, since a tile of
//! four rows by four has as many loads as multiplications); activations rounded to bf16 for `vdpbf16ps` (twice the rate and, with
//! eight bits of an activation left, other answers than the published ones; split into two bf16 they are as slow as f32); the
//! panels of the encoder (`cells`: its weights become f32 or pairs of bf16 when it loads, which a model that is read from memory
//! for every token cannot afford).

// Tiles, rows and registers are numbered alike in several arrays.
#![allow(clippy::needless_range_loop)]

use super::lanes::LANES;
use super::rows::{Bf16, F16, F32, Format, Number};
use super::wide::Wide;

/// Rows of a tile.
pub const TILE: usize = LANES;

/// Some tiles of a matrix, what they are multiplied with, and where the products go.
#[derive(Clone, Copy)]
pub struct Tiles<'a> {
    /// How the numbers are encoded.
    pub format: Format,
    /// Whole tiles: [`tiles_bytes`].
    pub data: &'a [u8],
    /// Numbers per row.
    pub cols: usize,
    /// Rows of weights that there are: the last tile may have fewer than 16.
    pub rows: usize,
    /// Rows of `cols` numbers.
    pub x: &'a [f32],
    /// Product `(i, j)` goes to `y[i * stride + j]`.
    pub y: *mut f32,
    /// From the products of one row of `x` to those of the next.
    pub stride: usize,
}

/// The bytes that a matrix takes in tiles, a multiple of 32. `None` when they are too many.
pub fn tiles_bytes(format: Format, rows: usize, cols: usize) -> Option<usize> {
    rows.checked_next_multiple_of(TILE)?.checked_mul(format.row_bytes(cols)?)
}

/// Packs rows of `cols` numbers, as they lie in a file, into tiles. `to` is zeroed and has [`tiles_bytes`] bytes.
pub(crate) fn pack(format: Format, cols: usize, from: &[u8], to: &mut [u8]) {
    match format {
        Format::F32 => pack_as::<4>(cols, from, to),
        Format::F16 | Format::BF16 => pack_as::<2>(cols, from, to),
    }
}

/// Some columns of all sixteen rows after the others, so that what is written stays in the first-level cache.
fn pack_as<const BYTES: usize>(cols: usize, from: &[u8], to: &mut [u8]) {
    const COLUMNS: usize = 64;
    let (from, to) = (from.as_chunks::<BYTES>().0, to.as_chunks_mut::<BYTES>().0);
    for (rows, tile) in from.chunks(TILE * cols).zip(to.chunks_exact_mut(TILE * cols)) {
        for (block, tile) in tile.chunks_mut(TILE * COLUMNS).enumerate() {
            for (row, numbers) in rows.chunks_exact(cols).enumerate() {
                for (column, number) in tile.as_chunks_mut::<TILE>().0.iter_mut().zip(&numbers[block * COLUMNS..]) {
                    column[row] = *number;
                }
            }
        }
    }
}

/// The numbers of row `row` of a tile.
pub(crate) fn unpack_row(format: Format, tile: &[u8], row: usize, out: &mut [f32]) {
    fn unpack<N: Number>(tile: &[u8], row: usize, out: &mut [f32]) {
        for (out, number) in out.iter_mut().zip(N::ones(tile).iter().skip(row).step_by(TILE)) {
            *out = N::one(number);
        }
    }
    match format {
        Format::F32 => unpack::<F32>(tile, row, out),
        Format::F16 => unpack::<F16>(tile, row, out),
        Format::BF16 => unpack::<Bf16>(tile, row, out),
    }
}

/// All products: two tiles with up to `PAIR` rows of `x` at once, one with up to `MOST`.
///
/// # Safety
/// `data`, `x` and `rows` must fit together, and the products be writable at their places by this caller alone.
#[inline(always)]
pub(super) unsafe fn product<V: Wide, const PAIR: usize, const MOST: usize>(job: Tiles<'_>) {
    // SAFETY: the caller's promise.
    unsafe {
        match job.format {
            Format::F32 => all::<V, F32, PAIR, MOST>(job),
            Format::F16 => all::<V, F16, PAIR, MOST>(job),
            Format::BF16 => all::<V, Bf16, PAIR, MOST>(job),
        }
    }
}

/// # Safety
/// As for [`product`].
#[inline(always)]
unsafe fn all<V: Wide, N: Number, const PAIR: usize, const MOST: usize>(job: Tiles<'_>) {
    let m = job.x.len() / job.cols;
    let mut tiles = N::sixteens(job.data).0.chunks_exact(job.cols);
    let mut first = 0;
    while let Some(one) = tiles.next() {
        let other = tiles.next();
        let mut row = 0;
        while row < m {
            let left = m - row;
            // SAFETY: the tiles have rows from `first` on, and the rows of `x` exist; the rest is the caller's promise.
            row += unsafe {
                match other {
                    Some(other) if left <= PAIR || PAIR == MOST => {
                        few::<V, N, 2, PAIR>(job, [one, other], first, row, left.min(PAIR))
                    }
                    _ => {
                        if let Some(other) = other {
                            few::<V, N, 1, MOST>(job, [other], first + TILE, row, left.min(MOST));
                        }
                        few::<V, N, 1, MOST>(job, [one], first, row, left.min(MOST))
                    }
                }
            };
        }
        first += 2 * TILE;
    }
}

/// `R` tiles with `rows` rows of `x`, `MOST` at most; gives how many rows that were.
///
/// # Safety
/// As for [`some`].
#[inline(always)]
unsafe fn few<V: Wide, N: Number, const R: usize, const MOST: usize>(
    job: Tiles<'_>,
    tiles: [&[N::Sixteen]; R],
    first: usize,
    row: usize,
    rows: usize,
) -> usize {
    // SAFETY: the caller's promise. The guards are known when a path is compiled: it has the blocks up to its own height.
    unsafe {
        match rows {
            12 if MOST >= 12 => some::<V, N, R, 12>(job, tiles, first, row),
            11 if MOST >= 11 => some::<V, N, R, 11>(job, tiles, first, row),
            10 if MOST >= 10 => some::<V, N, R, 10>(job, tiles, first, row),
            9 if MOST >= 9 => some::<V, N, R, 9>(job, tiles, first, row),
            8 if MOST >= 8 => some::<V, N, R, 8>(job, tiles, first, row),
            7 if MOST >= 7 => some::<V, N, R, 7>(job, tiles, first, row),
            6 if MOST >= 6 => some::<V, N, R, 6>(job, tiles, first, row),
            5 if MOST >= 5 => some::<V, N, R, 5>(job, tiles, first, row),
            4 if MOST >= 4 => some::<V, N, R, 4>(job, tiles, first, row),
            3 if MOST >= 3 => some::<V, N, R, 3>(job, tiles, first, row),
            2 if MOST >= 2 => some::<V, N, R, 2>(job, tiles, first, row),
            _ => some::<V, N, R, 1>(job, tiles, first, row),
        }
    }
    rows
}

/// `R` tiles, which begin with row `first` of the weights, with `T` rows of `x` from `row` on.
///
/// # Safety
/// Each tile has `cols` columns; the rest is as for [`product`].
#[inline(always)]
unsafe fn some<V: Wide, N: Number, const R: usize, const T: usize>(
    job: Tiles<'_>,
    tiles: [&[N::Sixteen]; R],
    first: usize,
    row: usize,
) {
    let mut x: [&[f32]; T] = [&[]; T];
    for (t, x) in x.iter_mut().enumerate() {
        *x = &job.x[(row + t) * job.cols..(row + t + 1) * job.cols];
    }
    let mut sums = [[V::zero(); R]; T];
    for column in 0..job.cols {
        let mut weights = [V::zero(); R];
        for r in 0..R {
            // SAFETY: a tile has so many columns.
            weights[r] = N::wide(unsafe { tiles[r].get_unchecked(column) });
        }
        for t in 0..T {
            // SAFETY: and so has a row.
            let x = V::splat(unsafe { *x[t].get_unchecked(column) });
            for r in 0..R {
                sums[t][r] = weights[r].fma(x, sums[t][r]);
            }
        }
    }
    for (t, sums) in sums.into_iter().enumerate() {
        for (r, sum) in sums.into_iter().enumerate() {
            let at = first + r * TILE;
            let lanes = (job.rows - at).min(TILE);
            // SAFETY: the caller's promise: there are so many products from here on.
            unsafe {
                let y = job.y.add((row + t) * job.stride + at);
                if lanes == TILE {
                    sum.store(&mut *y.cast::<[f32; TILE]>());
                } else {
                    let mut all = [0.0; TILE];
                    sum.store(&mut all);
                    y.copy_from_nonoverlapping(all.as_ptr(), lanes);
                }
            }
        }
    }
}
