//! Quantised weights, packed for integer products.
//!
//! **Products.** The row `x` that a matrix is multiplied with is quantised to bytes, 32 numbers to a scale ([`Rows`]), and
//! a block of 32 weights meets 32 bytes in integers, exactly. Per block there is one rounding multiply and one rounding
//! fused multiply-add in f32, blocks in order: `sum = fma(Σ w·x, scale_w × scale_x, sum)`, and where the format has a
//! minimum, `sum = fma(min_w, −scale_x·Σx, sum)` behind it. That is all there is to the order, so a result has the same bits
//! whatever is computed beside it, on any number of threads and on every path below; the scalar one is the definition.
//!
//! **Layout.** Sixteen rows form a tile, a block of 32 columns of a tile is stored together, four columns of each row side
//! by side: 64 bytes, one 512-bit register, two of 256, four of 128, whose 32-bit lanes are the rows. A product broadcasts
//! four bytes of `x` and adds to sixteen rows at once, without a horizontal sum and for any width that is a multiple of 32:
//! the 640 and 1152 of small Gemmas have no whole blocks of 256. Weights are unsigned, `offset` added, because that is what
//! VNNI multiplies; `−offset × Σx`, known beforehand, is where an integer sum starts.
//!
//! A tile is read from its first byte to its last, because that is what the CPU reads ahead of: for every two blocks their
//! scales, then their weights, and before every eight what a format of the K family keeps per 256 columns, all of it in whole
//! lines of 64 bytes. So one row streams a matrix as fast as memory gives it, without a prefetch (29–32 GB/s where a plain read
//! has 31; with all scales of a tile before all its weights, 12–16, and 18–20 with prefetches). Nothing is rounded:
//! [`Packed::row`] gives the numbers that the file holds, and the bytes are as many as in the file.
//!
//! A head, of whose many products few matter, may lie in two planes instead ([`Planes`]).
//!
//! **Paths.** `avx512vnni`, `avx2vnni`, `avx2`, `neon` (with dot products) and `scalar`, chosen at run time. For up to
//! [`FEW`] rows of `x` a tile is read once, from memory; for more, one or two tiles stay in the first- and second-level cache
//! while all rows pass.
//!
//! Rejected: 8-bit activations with one scale per row (an outlier costs the others their bits); 16-bit activations (half the
//! speed); weights in the order of the file (llama.cpp's Q8_0: a horizontal sum per block and row); K formats rescaled to
//! blocks of 32 with 16-bit scales (their products of two scales need 19 bits).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod layout;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon;
mod planes;
mod rows;
mod scalar;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::OnceLock;

pub use layout::Quant;
pub use planes::{GROUP, Planes, Sketch};
pub use rows::{Meta, Rows};

use crate::Error;
use crate::memory::Piece;
use layout::TILE;

/// Rows of `x` up to which a tile is read from memory just once.
pub const FEW: usize = 8;
/// Rows up to which it pays to ask for the next tile while the last of them meet this one.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 2 * FEW;

/// A block whose largest number is not above this counts as zeros: 127 divided by it would be infinite.
const LEAST: f32 = 1e-30;

/// The numbers of a row as it lies in a GGUF file. `None` when the lengths do not fit together.
pub fn read_row(quant: Quant, row: &[u8], out: &mut [f32]) -> Option<()> {
    (quant.row_bytes(out.len())? == row.len()).then(|| layout::read_row(quant, row, out))
}

/// Packs whole rows as they lie in a GGUF file into `to`, which is zeroed and has the length of whole tiles.
pub fn pack_tiles(quant: Quant, cols: usize, from: &[u8], to: &mut [u8]) {
    layout::pack(quant, cols, from, to);
}

/// A matrix of quantised weights in tiles.
pub struct Packed {
    quant: Quant,
    rows: usize,
    cols: usize,
    data: Piece,
}

/// The functions of one path.
pub struct Path {
    /// Its name.
    pub name: &'static str,
    tiles: unsafe fn(Tiles<'_>),
    quantise: unsafe fn(&[f32], &mut [i8], &mut [Meta]),
    /// [`planes::join`].
    join: unsafe fn(usize, &[u8], &[u8], &mut [u8]),
}

impl Path {
    /// Makes bytes of numbers, 32 to a scale.
    ///
    /// # Panics
    /// When the lengths do not fit together.
    pub fn quantise(&self, from: &[f32], quants: &mut [i8], meta: &mut [Meta]) {
        assert!(quants.len() == from.len() && meta.len() * layout::BLOCK == from.len());
        // SAFETY: a `Path` is only handed out by `available`, after the CPU was seen to have its features.
        unsafe { (self.quantise)(from, quants, meta) }
    }

    /// Joins the planes of a tile of so many blocks per row.
    fn join(&self, blocks: usize, coarse: &[u8], fine: &[u8], whole: &mut [u8]) {
        // SAFETY: as in `quantise`.
        unsafe { (self.join)(blocks, coarse, fine, whole) }
    }
}

/// Some tiles of a matrix, what they are multiplied with, and where the products go.
#[derive(Clone, Copy)]
struct Tiles<'a> {
    quant: Quant,
    /// Whole tiles.
    data: &'a [u8],
    /// Blocks per row.
    blocks: usize,
    /// The quantised rows, `m × blocks × 32`.
    x: &'a [i8],
    meta: &'a [Meta],
    m: usize,
    /// Product `(i, j)` goes to `y[i * stride + j]`, `j` counted from the first of these tiles.
    y: *mut f32,
    stride: usize,
    /// Rows of weights that there are: the last tile may have fewer than 16.
    rows: usize,
}

/// Every path this CPU can run, best first.
pub fn available() -> Vec<&'static Path> {
    let mut paths: Vec<&'static Path> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        if avx512::runs() {
            paths.push(&avx512::PATH);
        }
        paths.extend(avx2::vnni());
        if avx2::runs() {
            paths.push(&avx2::PATH);
        }
    }
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    if neon::runs() {
        paths.push(&neon::PATH);
    }
    paths.push(&scalar::PATH);
    paths
}

/// The best path for this CPU.
pub fn path() -> &'static Path {
    static BEST: OnceLock<&'static Path> = OnceLock::new();
    BEST.get_or_init(|| available().first().copied().unwrap_or(&scalar::PATH))
}

impl Packed {
    /// The bytes that a matrix takes in tiles. `None` when `cols` is no whole number of the format's blocks, or too large.
    pub fn bytes_for(quant: Quant, rows: usize, cols: usize) -> Option<usize> {
        quant.row_bytes(cols)?;
        quant.tile_bytes(cols / layout::BLOCK)?.checked_mul(rows.div_ceil(TILE))
    }

    /// Packs `rows × cols` numbers as they lie in a GGUF file into `room`, which has [`Packed::bytes_for`] bytes.
    pub fn pack(quant: Quant, rows: usize, cols: usize, from: &[u8], mut room: Piece) -> Result<Packed, Error> {
        let (name, found) = (quant.name(), from.len());
        let wanted = quant.row_bytes(cols).and_then(|row| row.checked_mul(rows));
        if wanted != Some(found) || Packed::bytes_for(quant, rows, cols) != Some(room.len()) {
            return Err(Error::new(format!("{rows} × {cols} in {name} are not {found} bytes")));
        }
        pack_tiles(quant, cols, from, &mut room);
        Packed::new(quant, rows, cols, room)
    }

    /// The matrix whose tiles, as [`pack_tiles`] makes them, are `data`.
    pub fn new(quant: Quant, rows: usize, cols: usize, data: Piece) -> Result<Packed, Error> {
        if Packed::bytes_for(quant, rows, cols) != Some(data.len()) {
            let (name, found) = (quant.name(), data.len());
            return Err(Error::new(format!("{rows} × {cols} in {name} are not {found} bytes in tiles")));
        }
        Ok(Packed { quant, rows, cols, data })
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Numbers per row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// How its numbers are encoded.
    pub fn quant(&self) -> Quant {
        self.quant
    }

    /// Its size in memory.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// How many tiles it has.
    pub fn tiles(&self) -> usize {
        self.rows.div_ceil(TILE)
    }

    /// The numbers of row `index`, as a dequantised file has them. `None` when there is no such row.
    pub fn row(&self, index: usize, out: &mut [f32]) -> Option<()> {
        if index >= self.rows {
            return None;
        }
        let tile = self.quant.tile_bytes(self.cols / layout::BLOCK)?;
        let data = self.data.get(index / TILE * tile..)?.get(..tile)?;
        layout::unpack_row(self.quant, data, index % TILE, out.get_mut(..self.cols)?);
        Some(())
    }

    /// The products of `x` with the rows of some tiles: that of row `i` of `x` with row `j` goes to `y[i * stride + j]`, where
    /// `j` counts from the matrix's first row.
    ///
    /// # Safety
    /// `y` must be valid for writes at all those places (it may itself lie before them), and nobody else may use them meanwhile.
    ///
    /// # Panics
    /// When `x` has another width or there are no such tiles.
    pub unsafe fn multiply(&self, path: &Path, tiles: std::ops::Range<usize>, x: &Rows, y: *mut f32, stride: usize) {
        assert_eq!(x.cols(), self.cols, "rows of another width");
        assert!(tiles.start <= tiles.end && tiles.end <= self.tiles());
        let blocks = self.cols / layout::BLOCK;
        let Some(bytes) = self.quant.tile_bytes(blocks) else { return };
        let first = tiles.start * TILE;
        let job = Tiles {
            quant: self.quant,
            data: &self.data[tiles.start * bytes..tiles.end * bytes],
            blocks,
            x: x.quants(),
            meta: x.meta(),
            m: x.len(),
            y: y.wrapping_add(first),
            stride,
            rows: (self.rows - first.min(self.rows)).min(tiles.len() * TILE),
        };
        // SAFETY: a `Path` is only handed out by `available`, after the CPU was seen to have its features; the slices have
        // the lengths that `Tiles` says, by the checks above and those of `Rows` and `pack`; `y` by the caller's promise.
        unsafe { (path.tiles)(job) }
    }
}
