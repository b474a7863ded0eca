//! A Q8_0 matrix in two planes: one that says roughly what its products are, in half of the bytes, and one that makes them exact.
//!
//! The head of a small model is most of what a token reads, and of its hundreds of thousands of products a handful matter. So a
//! weight `w + 128 = 16 h + l` is split: the **coarse** plane has the upper nibbles `h` and the scales, the **fine** one the lower
//! nibbles `l`, tile for tile. Both together are the bytes of the packed matrix in another order: nothing is kept twice.
//!
//! *Coarse.* `16 (h + 1/2) − 128.5` is the middle of what `w` can be. That is a Q4_0 matrix, `d (h − 8)`, but for a factor of 16 and
//! an offset of 7.53 instead of 8, and both can be put on the side of `x` ([`Sketch`]): the kernels that are there multiply it.
//! *Exact.* The planes of a tile are joined in a scratch buffer to what the packed matrix has, and its own kernel multiplies that:
//! the same bits, by construction. *How far apart.* What a coarse product lacks is `Σ d (l − 7.5) x`. Lower nibbles are evenly
//! distributed and know nothing of each other or of `x`, and a bounded, even and symmetric distribution is strictly sub-Gaussian: so is the
//! sum, with the variance `21.25 Σ_b d_b² |x_b|²` over the blocks `b`, and it is beyond eight of its deviations with a probability
//! below 10⁻¹⁴. The largest `d_b²` among the rows of a tile are kept for that ([`Planes::spreads`]), a number per block of a tile: one
//! for all blocks would be useless in models with columns of outliers. `x` is quantised once, for both, and has no part in the error.
//! The offset is rounded to eighths of an integer sum's unit, which moves a product by less than a tenth of a deviation. Where weights are so small beside the
//! largest of their block that lower nibbles do follow them, the errors are larger than that; who uses this looks at those that it
//! meets (`gemma::head`).
//!
//! Rejected: a copy in four bits beside the matrix (half as much memory again); five bits and three (two formats more to multiply);
//! Q4_1 for the coarse plane, which needs no trick (20 bytes instead of 18 per block, and 16 d may overflow); Cauchy–Schwarz as the bound, which holds without a word about distributions (√32 times as
//! far: with weights from a Gaussian most rows of a head would have to be looked at).

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::layout::{self, BLOCK, STEP, TILE};
use super::{FEW, Meta, Packed, Path, Quant, Rows, Tiles};
use crate::Error;
use crate::kernels::{self, kernels};
use crate::memory::{MappedVec, Piece};

/// Tiles whose spreads are told together.
pub const GROUP: usize = 16;
/// The variance of a lower nibble.
const VARIANCE: f32 = (16.0 * 16.0 - 1.0) / 12.0;
/// Bytes of the lower, or upper, nibbles of a block of a tile.
const NIBBLES: usize = BLOCK * TILE / 2;

/// A matrix in Q8_0, in two planes.
pub struct Planes {
    rows: usize,
    cols: usize,
    /// All coarse tiles, then all fine ones.
    data: Piece,
    /// For each group of tiles and each block the largest squared scale in each of the tiles.
    widths: MappedVec<f32>,
    /// The mean of all squared scales, as a share of the mean of those.
    typical: f32,
}

/// Tiles of a share: some megabytes of a model's head.
const SHARE: usize = 8 * GROUP;

/// Some tiles of both planes that are being packed.
struct Share<'a> {
    coarse: &'a mut [u8],
    fine: &'a mut [u8],
    widths: &'a mut [f32],
    /// Sums over tiles and blocks of the mean squared scale, and of the largest.
    mean: f64,
    largest: f64,
}

impl Share<'_> {
    /// Packs it from its rows in a file; `sizes` are the bytes of a row there, of a tile, and of a coarse tile.
    fn pack(&mut self, cols: usize, sizes: (usize, usize, usize), from: &[u8]) {
        let ((row_bytes, whole, coarse), blocks) = (sizes, cols / BLOCK);
        let mut tile = vec![0; whole];
        let planes = self.coarse.chunks_exact_mut(coarse).zip(self.fine.chunks_exact_mut(whole - coarse));
        for (n, (rows, (coarse, fine))) in from.chunks(TILE * row_bytes).zip(planes).enumerate() {
            if rows.len() < TILE * row_bytes {
                tile.fill(0);
            }
            layout::pack(Quant::Q8_0, cols, rows, &mut tile);
            split(blocks, &tile, coarse, fine);
            let widths = self.widths[n / GROUP * blocks * GROUP..].chunks_exact_mut(GROUP);
            for (block, widths) in widths.take(blocks).enumerate() {
                let mut scales = [0f32; TILE];
                let place = Quant::Q4_0.place(block).scales;
                kernels().decode_row(kernels::Format::F16, &coarse[place..place + 2 * TILE], &mut scales);
                // What is no number is no bound.
                let wider = |most: f32, d: &f32| if d.is_finite() { most.max(d * d) } else { f32::INFINITY };
                widths[n % GROUP] = scales.iter().fold(0.0, wider);
                self.mean += scales.iter().map(|d| f64::from(d * d)).sum::<f64>() / TILE as f64;
                self.largest += f64::from(widths[n % GROUP]);
            }
        }
    }
}

/// What a coarse product needs of rows of `x`, beside their bytes.
#[derive(Default)]
pub struct Sketch {
    meta: Vec<Meta>,
    /// The squared length of each block.
    energy: Vec<f32>,
}

impl Sketch {
    /// Makes it that of these rows.
    pub fn set(&mut self, x: &Rows) {
        self.meta.clear();
        self.energy.clear();
        for (quants, meta) in x.quants().as_chunks::<BLOCK>().0.iter().zip(x.meta()) {
            // An integer sum begins with −8 times the sum of the bytes, which `both` is the negative of; it should be −120.5 / 16 times.
            let both = (meta.both * 241 + 128) >> 8;
            self.meta.push(Meta { scale: 16.0 * meta.scale, low: 0, high: 0, both });
            let squares: i32 = quants.iter().map(|q| i32::from(*q) * i32::from(*q)).sum();
            self.energy.push(squares as f32 * meta.scale * meta.scale);
        }
    }

    /// The squared lengths of the blocks of one row.
    fn energy(&self, row: usize, blocks: usize) -> &[f32] {
        &self.energy[row * blocks..(row + 1) * blocks]
    }
}

impl Planes {
    /// Packs `rows × cols` numbers as they lie in a GGUF file into `room`, which has [`Packed::bytes_for`] bytes: `fill` is called with
    /// the bytes of a share, and with what packs each share when it is called with its number and its bytes, on any thread.
    pub fn pack(
        rows: usize,
        cols: usize,
        mut room: Piece,
        fill: impl FnOnce(usize, &(dyn Fn(usize, &[u8]) + Sync)) -> Result<(), Error>,
    ) -> Result<Planes, Error> {
        let fits = Packed::bytes_for(Quant::Q8_0, rows, cols) == Some(room.len());
        let blocks = cols / BLOCK;
        let sizes = (Quant::Q8_0.row_bytes(cols), Quant::Q8_0.tile_bytes(blocks), Quant::Q4_0.tile_bytes(blocks));
        let (true, (Some(row_bytes), Some(whole), Some(coarse))) = (fits, sizes) else {
            return Err(Error::new(format!("{rows} × {cols} in Q8_0 are not {} bytes in tiles", room.len())));
        };
        let tiles = rows.div_ceil(TILE);
        let mut widths = MappedVec::zeroed(tiles.div_ceil(GROUP) * blocks * GROUP)?;
        let (coarse_plane, fine_plane) = room.split_at_mut(tiles * coarse);
        // A share has whole groups, and one taker: nobody waits for the lock.
        let planes = coarse_plane.chunks_mut(SHARE * coarse).zip(fine_plane.chunks_mut(SHARE * (whole - coarse)));
        let shares = planes.zip(widths.chunks_mut(SHARE * blocks));
        let shares: Vec<Mutex<Share<'_>>> = shares
            .map(|((coarse, fine), widths)| Mutex::new(Share { coarse, fine, widths, mean: 0.0, largest: 0.0 }))
            .collect();
        fill(SHARE * TILE * row_bytes, &|n, from| {
            if let Some(share) = shares.get(n) {
                share.lock().unwrap_or_else(PoisonError::into_inner).pack(cols, (row_bytes, whole, coarse), from);
            }
        })?;
        let (mut mean, mut largest) = (0.0, 0.0);
        for share in shares {
            let share = share.into_inner().unwrap_or_else(PoisonError::into_inner);
            (mean, largest) = (mean + share.mean, largest + share.largest);
        }
        let typical = (mean / largest) as f32;
        Ok(Planes { rows, cols, data: room, widths, typical: if typical.is_finite() { typical } else { 0.0 } })
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many tiles.
    pub fn tiles(&self) -> usize {
        self.rows.div_ceil(TILE)
    }

    /// How many groups of [`GROUP`] tiles, the last of which may have fewer.
    pub fn groups(&self) -> usize {
        self.tiles().div_ceil(GROUP)
    }

    /// Bytes of the coarse plane of a group.
    pub fn group_bytes(&self) -> usize {
        GROUP * self.sizes().0
    }

    /// Its size in memory, beside [`Planes::extra_bytes`].
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// Bytes of what is kept of its scales.
    pub fn extra_bytes(&self) -> u64 {
        self.widths.bytes()
    }

    fn blocks(&self) -> usize {
        self.cols / BLOCK
    }

    /// The bytes of a tile in the coarse plane, in the fine one, and joined.
    fn sizes(&self) -> (usize, usize, usize) {
        let bytes = |quant: Quant| quant.tile_bytes(self.blocks()).unwrap_or(0);
        let (coarse, whole) = (bytes(Quant::Q4_0), bytes(Quant::Q8_0));
        (coarse, whole - coarse, whole)
    }

    /// Some tiles in the coarse plane and in the fine one.
    fn tiles_of(&self, tiles: Range<usize>) -> (&[u8], &[u8]) {
        let (coarse, fine, _) = self.sizes();
        let (first, second) = self.data.split_at(self.tiles() * coarse);
        (&first[tiles.start * coarse..tiles.end * coarse], &second[tiles.start * fine..tiles.end * fine])
    }

    /// The numbers of row `index`, as a dequantised file has them. `None` when there is no such row.
    pub fn row(&self, index: usize, out: &mut [f32]) -> Option<()> {
        if index >= self.rows {
            return None;
        }
        let (coarse, fine) = self.tiles_of(index / TILE..index / TILE + 1);
        for (block, out) in out.get_mut(..self.cols)?.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            let upper = layout::unpack(Quant::Q4_0, coarse, index % TILE, block);
            let lower = layout::nibbles(&fine[block * NIBBLES..][..NIBBLES], index % TILE);
            for ((out, upper_bits), lower) in out.iter_mut().zip(upper.weights).zip(lower) {
                *out = (i32::from(upper_bits << 4 | lower) - 128) as f32 * upper.scales[0];
            }
        }
        Some(())
    }

    /// About the products of rows `x_rows` of `x` with the rows of some tiles: that of the `i`-th of them with row `j` goes to
    /// `y[i * stride + j]`, where `j` counts from the matrix's first row.
    ///
    /// # Safety
    /// `y` must be valid for writes at all those places (it may itself lie before them), and nobody else may use them meanwhile.
    ///
    /// # Panics
    /// When `x` has another width, the sketch is of other rows, or there are no such rows or tiles.
    #[expect(clippy::too_many_arguments, reason = "what is multiplied with what, and where the products go")]
    pub unsafe fn coarse(
        &self,
        path: &Path,
        tiles: Range<usize>,
        x: &Rows,
        sketch: &Sketch,
        x_rows: Range<usize>,
        y: *mut f32,
        stride: usize,
    ) {
        let (coarse, _) = self.tiles_of(tiles.clone());
        // SAFETY: the caller's promise.
        unsafe { self.run(path, Quant::Q4_0, coarse, tiles, (x, &sketch.meta), x_rows, y, stride) };
    }

    /// The products themselves, with the bits that [`Packed::multiply`] gives; `scratch` has [`Planes::scratch_len`] numbers.
    ///
    /// # Safety
    /// As for [`Planes::coarse`].
    ///
    /// # Panics
    /// When `x` has another width, the scratch is too short, or there are no such rows or tiles.
    #[expect(clippy::too_many_arguments, reason = "what is multiplied with what, and where the products go")]
    pub unsafe fn exact(
        &self,
        path: &Path,
        tiles: Range<usize>,
        x: &Rows,
        x_rows: Range<usize>,
        y: *mut f32,
        stride: usize,
        scratch: &mut [f32],
    ) {
        let (coarse_bytes, fine_bytes, whole) = self.sizes();
        let scratch = bytes_of(scratch);
        // More rows meet two tiles at a time.
        let step = if x_rows.len() > FEW { 2 } else { 1 };
        let mut first = tiles.start;
        while first < tiles.end {
            let some = first..tiles.end.min(first + step);
            let (coarse, fine) = self.tiles_of(some.clone());
            let joined = &mut scratch[..some.len() * whole];
            let planes = coarse.chunks_exact(coarse_bytes).zip(fine.chunks_exact(fine_bytes));
            for (joined, (coarse, fine)) in joined.chunks_exact_mut(whole).zip(planes) {
                path.join(self.blocks(), coarse, fine, joined);
            }
            first = some.end;
            // Memory brings the next tiles while these are multiplied.
            let (coarse, fine) = self.tiles_of(first..tiles.end.min(first + step));
            ask(coarse);
            ask(fine);
            // SAFETY: the caller's promise.
            unsafe { self.run(path, Quant::Q8_0, joined, some, (x, x.meta()), x_rows.clone(), y, stride) };
        }
    }

    /// How much scratch [`Planes::exact`] needs: two tiles.
    pub fn scratch_len(&self) -> usize {
        (2 * self.sizes().2).div_ceil(size_of::<f32>())
    }

    /// Multiplies tiles that lie in `data` in this form.
    ///
    /// # Safety
    /// As for [`Planes::coarse`].
    #[expect(clippy::too_many_arguments, reason = "what is multiplied with what, and where the products go")]
    unsafe fn run(
        &self,
        path: &Path,
        quant: Quant,
        data: &[u8],
        tiles: Range<usize>,
        (x, meta): (&Rows, &[Meta]),
        x_rows: Range<usize>,
        y: *mut f32,
        stride: usize,
    ) {
        let blocks = self.blocks();
        assert!(
            x.cols() == self.cols && quant.tile_bytes(blocks).is_some_and(|bytes| data.len() == tiles.len() * bytes)
        );
        let first = tiles.start * TILE;
        let job = Tiles {
            quant,
            data,
            blocks,
            x: &x.quants()[x_rows.start * self.cols..x_rows.end * self.cols],
            meta: &meta[x_rows.start * blocks..x_rows.end * blocks],
            m: x_rows.len(),
            y: y.wrapping_add(first),
            stride,
            rows: (self.rows - first.min(self.rows)).min(tiles.len() * TILE),
        };
        // SAFETY: a `Path` is only handed out by `available`, after the CPU was seen to have its features; the slices have the
        // lengths that `Tiles` says, by the check and the slicing above; `y` by the caller's promise.
        unsafe { (path.tiles)(job) }
    }

    /// By how much the exponential of a coarse product is too large in the mean, as a logarithm, in a tile with this spread: half the variance of
    /// a typical row.
    pub fn excess(&self, spread: f32) -> f32 {
        if spread.is_finite() { spread * spread * self.typical / 2.0 } else { 0.0 }
    }

    /// The deviation that no row's coarse product with row `row` of the sketch exceeds, for each tile of a group; infinite where there
    /// is none.
    pub fn spreads(&self, group: usize, sketch: &Sketch, row: usize) -> [f32; GROUP] {
        let blocks = self.blocks();
        let mut sums = [0f32; GROUP];
        let widths = self.widths[group * blocks * GROUP..(group + 1) * blocks * GROUP].as_chunks::<GROUP>().0;
        for (widths, energy) in widths.iter().zip(sketch.energy(row, blocks)) {
            for (sum, width) in sums.iter_mut().zip(widths) {
                *sum += width * energy;
            }
        }
        sums.map(|sum| if sum.is_finite() { (sum * VARIANCE).sqrt() } else { f32::INFINITY })
    }
}

/// Asks for these bytes before they are needed, where the CPU can be asked.
fn ask(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a request for an address inside the bytes; it reads nothing. Every x86-64 CPU has the instruction.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

/// Numbers as the bytes that they lie in.
fn bytes_of(numbers: &mut [f32]) -> &mut [u8] {
    // SAFETY: the same memory for the same time; any bytes are numbers, and bytes need no alignment.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), size_of_val(numbers)) }
}

/// Takes a packed tile apart.
fn split(blocks: usize, whole: &[u8], coarse: &mut [u8], fine: &mut [u8]) {
    for (block, fine) in fine.as_chunks_mut::<NIBBLES>().0.iter_mut().enumerate().take(blocks) {
        let (from, to) = (Quant::Q8_0.place(block), Quant::Q4_0.place(block));
        coarse[to.scales..][..2 * TILE].copy_from_slice(&whole[from.scales..][..2 * TILE]);
        let pairs = whole[from.weights..][..2 * NIBBLES].as_chunks::<{ 2 * STEP }>().0;
        let upper = coarse[to.weights..][..NIBBLES].as_chunks_mut::<STEP>().0;
        for (pair, (upper, lower)) in pairs.iter().zip(upper.iter_mut().zip(fine.as_chunks_mut::<STEP>().0)) {
            for i in 0..STEP {
                upper[i] = pair[i] >> 4 | pair[STEP + i] & 0xf0;
                lower[i] = pair[i] & 15 | pair[STEP + i] << 4;
            }
        }
    }
}

/// Puts a packed tile together again. A plain loop that compilers make vectors of: paths compile it with what their CPUs have.
#[inline(always)]
pub(super) fn join(blocks: usize, coarse: &[u8], fine: &[u8], whole: &mut [u8]) {
    for (block, fine) in fine.as_chunks::<NIBBLES>().0.iter().enumerate().take(blocks) {
        let (to, from) = (Quant::Q8_0.place(block), Quant::Q4_0.place(block));
        whole[to.scales..][..2 * TILE].copy_from_slice(&coarse[from.scales..][..2 * TILE]);
        let pairs = whole[to.weights..][..2 * NIBBLES].as_chunks_mut::<{ 2 * STEP }>().0;
        let upper = coarse[from.weights..][..NIBBLES].as_chunks::<STEP>().0;
        for (pair, (upper, lower)) in pairs.iter_mut().zip(upper.iter().zip(fine.as_chunks::<STEP>().0)) {
            for i in 0..STEP {
                pair[i] = upper[i] << 4 | lower[i] & 15;
                pair[STEP + i] = upper[i] & 0xf0 | lower[i] >> 4;
            }
        }
    }
}
