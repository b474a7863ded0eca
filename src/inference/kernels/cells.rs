//! The arithmetic of the text encoders: products of a few rows with weights that were laid out for it, and what goes on
//! between two products.
//!
//! **Cells.** Everything that is multiplied is made of cells of four bytes: one f32, or two bf16 that lie side by side. A
//! layer has half as many cells in bf16, and the CPU instruction for it (`vdpbf16ps`) multiplies the two halves of a cell
//! with the two halves of another and adds both to an f32. So one source serves both: the same layout, the same loops,
//! another step ([`Cell::step`]). Sums, residuals, norms, softmax and GELU are f32 in either case; bf16 is what enters a
//! product, rounded to nearest once. It has twice the rate of f32, and half the bytes of weights have to be read, which is
//! what a short text waits for. What that costs in precision is said in [`crate::encoder`].
//!
//! **Layout.** The columns of a matrix (the outputs of a layer, the tokens of the transposed keys) are cut into panels of
//! [`PANEL`]; a panel holds, input by input, the cells of its columns side by side. A tile of up to eight rows by one panel
//! is 24 registers of running sums; each step loads the weights of three registers and one cell per row, which the
//! multiplication spreads over the lanes. So the multipliers wait neither for loads nor for each other, weights are read
//! from front to back once for every eight rows, and a text of eight tokens reads them once in all. Rows are dealt evenly to
//! tiles: nine become five and four, since one row alone has too few sums to keep the multipliers busy.
//!
//! **Order.** Each sum runs over its inputs from first to last, whatever the tile: a row's result has the same bits in any
//! batch. In f32 it has the same bits on every path too.
//!
//! Rejected: dot products along the inputs (a sum over lanes per result, and no register left for the third column); splitting
//! an activation into two bf16 (as slow as f32, and the loss of one is small enough); copying the rows of a tile side by
//! side (they are in the first-level cache anyway); blocking along the inputs (a panel streams from the second level at a
//! quarter of what that can deliver).

use super::Strided;
use super::lanes::{LANES, Lanes, bf16, exp, gelu_erf};
use super::vector;
use super::wide::Wide;
use std::ops::Range;

/// Columns of one panel; the last panel of a matrix has as many as are left, padded to sixteen.
pub const PANEL: usize = 3 * LANES;
/// Rows of the tallest tile of any path.
const TALLEST: usize = 8;

/// The sums of one tile.
#[repr(align(64))]
pub(super) struct Sums([[f32; PANEL]; TALLEST]);

/// What is in a cell, and how a kind of CPU multiplies it.
pub(super) trait Cell {
    /// Sixteen sums.
    type Wide: Wide;
    /// Numbers per cell.
    const INPUTS: usize;
    /// `sums + cell · weights`, lane by lane.
    fn step(cell: u32, weights: &[u32; LANES], sums: Self::Wide) -> Self::Wide;
    /// `INPUTS × 16` numbers, two at most, as cells.
    fn pack(from: &[Lanes; 2], to: &mut [u32; LANES]);
}

/// One f32 in a cell.
pub(super) struct Single<V>(std::marker::PhantomData<V>);

impl<V: Wide> Cell for Single<V> {
    type Wide = V;
    const INPUTS: usize = 1;

    #[inline(always)]
    fn step(cell: u32, weights: &[u32; LANES], sums: V) -> V {
        V::splat(f32::from_bits(cell)).fma(V::of_bits(weights), sums)
    }

    #[inline(always)]
    fn pack(from: &[Lanes; 2], to: &mut [u32; LANES]) {
        for (to, from) in to.iter_mut().zip(from[0].0) {
            *to = from.to_bits();
        }
    }
}

/// Two bf16 in a cell, on a CPU that does not multiply them: taken apart, with the bits of the instruction.
pub(super) struct Apart<V>(std::marker::PhantomData<V>);

impl<V: Wide> Cell for Apart<V> {
    type Wide = V;
    const INPUTS: usize = 2;

    #[inline(always)]
    fn step(cell: u32, weights: &[u32; LANES], sums: V) -> V {
        let (low, high) = V::of_halves(weights);
        let sums = V::splat(f32::from_bits(cell & 0xffff_0000)).fma(high, sums);
        V::splat(f32::from_bits(cell << 16)).fma(low, sums)
    }

    #[inline(always)]
    fn pack(from: &[Lanes; 2], to: &mut [u32; LANES]) {
        for (i, to) in to.iter_mut().enumerate() {
            let numbers = &from[i / (LANES / 2)].0;
            let at = 2 * i % LANES;
            *to = bf16(numbers[at]).to_bits() >> 16 | bf16(numbers[at + 1]).to_bits();
        }
    }
}

/// A matrix cut into panels.
#[derive(Clone, Copy)]
pub struct Panels<'a> {
    /// The cells of all panels, one panel after the other.
    pub cells: &'a [u32],
    /// Cells of each column.
    pub inputs: usize,
    /// Columns that are asked for; there are [`padded`] of them.
    pub columns: usize,
}

/// How many columns there are in memory for `columns` of a matrix.
pub const fn padded(columns: usize) -> usize {
    columns.next_multiple_of(LANES)
}

/// Where the cell of `column` and `input` lies in the panels of a matrix of `columns` columns and `inputs` cells each.
#[inline(always)]
pub const fn place(column: usize, input: usize, columns: usize, inputs: usize) -> usize {
    let first = column / PANEL * PANEL;
    let left = padded(columns) - first;
    let width = if left < PANEL { left } else { PANEL };
    first * inputs + input * width + column % PANEL
}

/// What becomes of the sums of a product.
pub enum Finish<'a> {
    /// They are written as they are.
    Store {
        /// The result.
        y: &'a mut [f32],
        /// From row to row.
        stride: usize,
    },
    /// Each row is multiplied with its factor and written as cells.
    Scale {
        /// One per row.
        factors: &'a [f32],
        /// The result.
        y: &'a mut [u32],
        /// From row to row.
        stride: usize,
    },
    /// `sum + bias`, as cells; rows follow each other.
    Bias {
        /// One per column, zeros behind them up to [`padded`].
        bias: &'a [f32],
        /// The result.
        y: &'a mut [u32],
    },
    /// `gelu(sum + bias)`, as cells; rows follow each other.
    Gelu {
        /// One per column, zeros behind them up to [`padded`].
        bias: &'a [f32],
        /// The result.
        y: &'a mut [u32],
    },
    /// `y + sum + bias`; rows follow each other.
    Add {
        /// One per column, zeros behind them up to [`padded`].
        bias: &'a [f32],
        /// What is added to.
        y: &'a mut [f32],
    },
}

/// What brings the sums of one tile to where they belong: [`end_tile`].
pub(super) type End = unsafe fn(Place, &Sums, &mut Finish<'_>);

/// Where the sums of a tile belong.
pub(super) struct Place {
    rows: Range<usize>,
    columns: Range<usize>,
    /// Columns of the whole matrix.
    all: usize,
}

/// The products of all rows of `x` with all columns of `panels`. `end` must be a function of the path that this is
/// compiled for that the compiler cannot look into: the constants of GELU, kept in registers throughout, made the tiles
/// spill their sums.
#[inline(always)]
pub(super) fn product<C: Cell, const M: usize>(
    x: Strided<'_, u32>,
    panels: Panels<'_>,
    mut finish: Finish<'_>,
    end: End,
) {
    let Panels { cells, inputs, columns } = panels;
    let mut sums = Sums([[0.0; PANEL]; TALLEST]);
    let tiles = x.rows.div_ceil(M);
    let mut column = 0;
    while column < columns {
        let width = PANEL.min(padded(columns) - column);
        let panel = &cells[column * inputs..(column + width) * inputs];
        for tile in 0..tiles {
            let rows = tile * x.rows / tiles..(tile + 1) * x.rows / tiles;
            match width / LANES {
                3 => tall::<C, M, 3>(x, rows.start, rows.len(), panel, inputs, &mut sums),
                2 => tall::<C, M, 2>(x, rows.start, rows.len(), panel, inputs, &mut sums),
                _ => tall::<C, M, 1>(x, rows.start, rows.len(), panel, inputs, &mut sums),
            }
            let place = Place { rows, columns: column..columns.min(column + PANEL), all: columns };
            // SAFETY: of the same path as this, so the CPU has what it needs.
            unsafe { end(place, &sums, &mut finish) };
        }
        column += width;
    }
}

/// A tile of `rows` rows, `M` at most.
#[inline(always)]
fn tall<C: Cell, const M: usize, const N: usize>(
    x: Strided<'_, u32>,
    first: usize,
    rows: usize,
    panel: &[u32],
    inputs: usize,
    sums: &mut Sums,
) {
    // The guards are known when a path is compiled: it has the tiles up to its own height.
    match rows {
        8 if M >= 8 => tile::<C, 8, N>(x, first, panel, inputs, sums),
        7 if M >= 7 => tile::<C, 7, N>(x, first, panel, inputs, sums),
        6 if M >= 6 => tile::<C, 6, N>(x, first, panel, inputs, sums),
        5 if M >= 5 => tile::<C, 5, N>(x, first, panel, inputs, sums),
        4 if M >= 4 => tile::<C, 4, N>(x, first, panel, inputs, sums),
        3 if M >= 3 => tile::<C, 3, N>(x, first, panel, inputs, sums),
        2 if M >= 2 => tile::<C, 2, N>(x, first, panel, inputs, sums),
        _ => tile::<C, 1, N>(x, first, panel, inputs, sums),
    }
}

#[inline(always)]
fn tile<C: Cell, const M: usize, const N: usize>(
    x: Strided<'_, u32>,
    first: usize,
    panel: &[u32],
    inputs: usize,
    to: &mut Sums,
) {
    let mut rows: [&[u32]; M] = [&[]; M];
    for (i, row) in rows.iter_mut().enumerate() {
        *row = x.row(first + i, inputs);
    }
    let mut sums = [[C::Wide::zero(); N]; M];
    for (k, weights) in panel.as_chunks::<LANES>().0.as_chunks::<N>().0.iter().take(inputs).enumerate() {
        for i in 0..M {
            // SAFETY: `k < inputs`, the length of each row.
            let cell = unsafe { *rows[i].get_unchecked(k) };
            for j in 0..N {
                sums[i][j] = C::step(cell, &weights[j], sums[i][j]);
            }
        }
    }
    for (to, sums) in to.0.iter_mut().zip(sums) {
        for (to, sum) in to.as_chunks_mut::<LANES>().0.iter_mut().zip(sums) {
            sum.store(to);
        }
    }
}

/// Brings the sums of a tile to where they belong. Sums go through registers once on that way: what is written and read
/// again at once costs more than the arithmetic.
#[inline(always)]
pub(super) fn end_tile<C: Cell>(place: Place, sums: &Sums, finish: &mut Finish<'_>) {
    let Place { rows, columns, all } = place;
    let width = columns.len();
    for (row, sums) in rows.zip(&sums.0) {
        let sums = sums.as_chunks::<LANES>().0;
        let at = row * all + columns.start;
        match finish {
            Finish::Store { y, stride } => {
                let to = &mut y[row * *stride + columns.start..][..width];
                for (to, sums) in to.chunks_mut(LANES).zip(sums) {
                    write(sums, to);
                }
            }
            Finish::Add { bias, y } => {
                let bias = bias[columns.start..].as_chunks::<LANES>().0;
                for ((to, sums), bias) in y[at..at + width].chunks_mut(LANES).zip(sums).zip(bias) {
                    let before = match to.first_chunk() {
                        Some(before) => Lanes(*before),
                        None => Lanes::load_end(to, 0),
                    };
                    write(&before.plus(Lanes(*sums).plus(Lanes(*bias))).0, to);
                }
            }
            Finish::Scale { factors, y, stride } => {
                let factor = factors[row];
                let to = &mut y[row * *stride + columns.start / C::INPUTS..];
                cells_of::<C>(
                    sums,
                    width,
                    to,
                    #[inline(always)]
                    |_, sum| Lanes(sum).map(|sum| sum * factor),
                );
            }
            Finish::Bias { bias, y } => {
                let bias = bias[columns.start..].as_chunks::<LANES>().0;
                cells_of::<C>(
                    sums,
                    width,
                    &mut y[at / C::INPUTS..],
                    #[inline(always)]
                    |i, sum| Lanes(sum).plus(Lanes(bias[i])),
                );
            }
            Finish::Gelu { bias, y } => {
                let bias = bias[columns.start..].as_chunks::<LANES>().0;
                cells_of::<C>(
                    sums,
                    width,
                    &mut y[at / C::INPUTS..],
                    #[inline(always)]
                    |i, sum| Lanes(sum).plus(Lanes(bias[i])).map(gelu_erf),
                );
            }
        }
    }
}

/// The first `width` of the sums of a row as cells, after `f` of sixteen of them and their index.
#[inline(always)]
fn cells_of<C: Cell>(sums: &[[f32; LANES]], width: usize, y: &mut [u32], f: impl Fn(usize, [f32; LANES]) -> Lanes) {
    let to = &mut y[..width.div_ceil(C::INPUTS)];
    for (group, to) in to.chunks_mut(LANES).enumerate() {
        let mut numbers = [Lanes::ZERO; 2];
        for (i, numbers) in numbers.iter_mut().enumerate().take(C::INPUTS) {
            let at = group * C::INPUTS + i;
            if at * LANES < width {
                *numbers = f(at, sums[at]);
            }
        }
        if width < (group + 1) * C::INPUTS * LANES && !width.is_multiple_of(LANES) {
            // Nothing but zero stands behind the last column.
            for (i, number) in numbers.iter_mut().flat_map(|lanes| &mut lanes.0).enumerate() {
                if group * C::INPUTS * LANES + i >= width {
                    *number = 0.0;
                }
            }
        }
        let mut cells = [0; LANES];
        C::pack(&numbers, &mut cells);
        write(&cells, to);
    }
}

/// Writes as much of `from` as `to` holds, in the cases that occur all the time without a call.
#[inline(always)]
fn write<T: Copy>(from: &[T; LANES], to: &mut [T]) {
    const HALF: usize = LANES / 2;
    if let Ok(to) = <&mut [T; LANES]>::try_from(&mut *to) {
        *to = *from;
    } else if let (Ok(to), Some(from)) = (<&mut [T; HALF]>::try_from(&mut *to), from.first_chunk()) {
        *to = *from;
    } else {
        to.copy_from_slice(&from[..to.len()]);
    }
}

/// Writes numbers as cells; the last cell is filled up with zeros.
#[inline(always)]
pub(super) fn pack<C: Cell>(from: &[f32], to: &mut [u32]) {
    let step = C::INPUTS * LANES;
    let whole = from.len() / step;
    let (first, last) = to.split_at_mut(whole * LANES);
    for (from, to) in from.chunks_exact(step).zip(first.as_chunks_mut::<LANES>().0) {
        C::pack(&[Lanes::load(from, 0), Lanes::load(from, step - LANES)], to);
    }
    let rest = &from[whole * step..];
    if !rest.is_empty() {
        let (mut numbers, mut cells) = ([0.0; 2 * LANES], [0; LANES]);
        numbers[..rest.len()].copy_from_slice(rest);
        C::pack(&[Lanes::load(&numbers, 0), Lanes::load(&numbers, step - LANES)], &mut cells);
        let count = rest.len().div_ceil(C::INPUTS);
        last[..count].copy_from_slice(&cells[..count]);
    }
}

/// [`vector::layer_norm`] in place, and its result as cells.
#[inline(always)]
pub(super) fn norm<C: Cell>(x: &mut [f32], gain: &[f32], offset: &[f32], epsilon: f32, cells: &mut [u32]) {
    vector::layer_norm(x, gain, offset, epsilon);
    pack::<C>(x, cells);
}

/// The first `count` scores of a row become the weights `exp(score − largest)`, as cells, zeros behind them; what the
/// weights have to be multiplied with to be one in all is the result. `scores` is a multiple of sixteen long.
#[inline(always)]
pub(super) fn weigh<C: Cell>(scores: &mut [f32], count: usize, cells: &mut [u32]) -> f32 {
    scores[count..].fill(f32::NEG_INFINITY);
    let lanes = scores.as_chunks_mut::<LANES>().0;
    let mut peak = Lanes::splat(f32::NEG_INFINITY);
    for scores in lanes.iter() {
        peak = Lanes(*scores).max(peak);
    }
    let peak = peak.largest();
    let mut sum = Lanes::ZERO;
    for scores in lanes {
        for score in scores.iter_mut() {
            *score = exp(*score - peak);
        }
        sum = sum.plus(Lanes(*scores));
    }
    pack::<C>(scores, cells);
    1.0 / sum.sum()
}
