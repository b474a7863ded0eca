//! The one seam for products with weights: every linear layer of a language model is a [`Matrix`], what it is multiplied with an
//! [`Input`], and [`Matrix::multiply`] the only way to use them. All weights are packed into tiles when they are read, and their
//! part of the file is let go: quantised ones for integer products ([`crate::packed`]), plain ones for products in f32
//! ([`crate::kernels`]). The models do not see the difference.

use std::ops::Range;
use std::sync::Arc;

use crate::Error;
use crate::kernels::{self, Tiles, kernels, pack_tiles, tiles_bytes, unpack_row};
use crate::loading::Loader;
use crate::memory::{MappedFile, MappedVec, Piece};
use crate::packed::{self, Packed, Planes, Quant, Rows, path};
use crate::team::Shared;

/// How the numbers of a matrix are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A number for itself.
    Plain(kernels::Format),
    /// In blocks with common scales.
    Quant(Quant),
}

impl Format {
    /// The name as GGUF tools write it.
    pub fn name(self) -> &'static str {
        match self {
            Format::Plain(plain) => plain.name(),
            Format::Quant(quant) => quant.name(),
        }
    }

    /// Numbers that cannot be separated.
    pub fn block_len(self) -> usize {
        match self {
            Format::Plain(_) => 1,
            Format::Quant(quant) => quant.block_len(),
        }
    }

    /// The bytes of a row of `cols` numbers in a file, or `None` when `cols` is no whole number of blocks or too large.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        match self {
            Format::Plain(plain) => plain.row_bytes(cols),
            Format::Quant(quant) => quant.row_bytes(cols),
        }
    }

    /// The bytes that a matrix takes in an [`Arena`](crate::memory::Arena). `None` when `cols` is no whole number of blocks, or they
    /// are too many.
    pub fn arena_bytes(self, rows: usize, cols: usize) -> Option<usize> {
        self.tiles_bytes(rows, cols)?.checked_next_multiple_of(64)
    }

    fn tiles_bytes(self, rows: usize, cols: usize) -> Option<usize> {
        match self {
            Format::Plain(plain) => tiles_bytes(plain, rows, cols),
            Format::Quant(quant) => Packed::bytes_for(quant, rows, cols),
        }
    }
}

/// A matrix of weights, `rows × cols`.
pub struct Matrix {
    rows: usize,
    cols: usize,
    data: Data,
}

enum Data {
    Plain(kernels::Format, Piece),
    Quant(Packed),
    Planes(Planes),
    /// Rows to be read one by one, not multiplied with.
    Table(Format, Arc<MappedFile>, Range<usize>),
}

pub use crate::kernels::TILE;

impl Matrix {
    /// The matrix that lies in `range` of a mapped file, row after row, packed.
    pub fn in_file(
        file: &Arc<MappedFile>,
        range: Range<usize>,
        format: Format,
        rows: usize,
        cols: usize,
        loader: &Loader<'_>,
    ) -> Result<Matrix, Error> {
        checked(file, &range, format, rows, cols)?;
        let many = || Error::new(format!("{rows} × {cols} are more bytes than an address space has"));
        let from = format.row_bytes(cols).and_then(|row| row.checked_mul(TILE)).ok_or_else(many)?;
        let to = format.tiles_bytes(TILE, cols).ok_or_else(many)?;
        let room = loader.pack(file, range, (from, to), &|from, to| match format {
            Format::Plain(plain) => pack_tiles(plain, cols, from, to),
            Format::Quant(quant) => packed::pack_tiles(quant, cols, from, to),
        })?;
        let data = match format {
            Format::Plain(plain) => Data::Plain(plain, room),
            Format::Quant(quant) => Data::Quant(Packed::new(quant, rows, cols, room)?),
        };
        Ok(Matrix { rows, cols, data })
    }

    /// The same in [`Planes`], where it is encoded so that it can be.
    pub fn in_planes(
        file: &Arc<MappedFile>,
        range: Range<usize>,
        format: Format,
        rows: usize,
        cols: usize,
        loader: &Loader<'_>,
    ) -> Result<Matrix, Error> {
        let room = Packed::bytes_for(Quant::Q8_0, rows, cols);
        let (Format::Quant(Quant::Q8_0), Some(room)) = (format, room) else {
            return Matrix::in_file(file, range, format, rows, cols, loader);
        };
        checked(file, &range, format, rows, cols)?;
        let fill = |share: usize, work: &(dyn Fn(usize, &[u8]) + Sync)| loader.each(file, range, share, work);
        let planes = Planes::pack(rows, cols, loader.room(room)?, fill)?;
        Ok(Matrix { rows, cols, data: Data::Planes(planes) })
    }

    /// The matrix that lies in `range` of a mapped file, used in place: its rows can be read, and nothing can be multiplied
    /// with it.
    pub fn table(
        file: &Arc<MappedFile>,
        range: Range<usize>,
        format: Format,
        rows: usize,
        cols: usize,
    ) -> Result<Matrix, Error> {
        checked(file, &range, format, rows, cols)?;
        Ok(Matrix { rows, cols, data: Data::Table(format, Arc::clone(file), range) })
    }

    /// How many rows: the length of a product.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many numbers a row has: the length of what it is multiplied with.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// How its numbers are encoded.
    pub fn format(&self) -> Format {
        match &self.data {
            Data::Plain(plain, _) => Format::Plain(*plain),
            Data::Quant(packed) => Format::Quant(packed.quant()),
            Data::Planes(_) => Format::Quant(Quant::Q8_0),
            Data::Table(format, ..) => *format,
        }
    }

    /// The size of its data in bytes.
    pub fn bytes(&self) -> usize {
        match &self.data {
            Data::Plain(_, data) => data.len(),
            Data::Quant(packed) => packed.bytes(),
            Data::Planes(planes) => planes.bytes(),
            Data::Table(_, _, range) => range.len(),
        }
    }

    /// Its planes, where it lies in them.
    pub(crate) fn planes(&self) -> Option<&Planes> {
        if let Data::Planes(planes) = &self.data { Some(planes) } else { None }
    }

    /// `y[i * stride + j] = x_i · row_j` for the rows `x_i` of the input and `j` in `rows`, which begins at a multiple of
    /// [`TILE`] and ends there or with the matrix. Each result has the same bits whatever the input's other rows are, and whichever
    /// rows of the matrix are computed with it.
    ///
    /// # Safety
    /// `y` must be valid for writes at all those places (it may itself lie before them), and nobody else may use them meanwhile.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub unsafe fn multiply(&self, rows: Range<usize>, x: &Input, y: *mut f32, stride: usize) {
        assert!(rows.start.is_multiple_of(TILE) && rows.start <= rows.end && rows.end <= self.rows);
        assert!(x.cols == self.cols, "{} numbers for a matrix of {} columns", x.cols, self.cols);
        if rows.is_empty() || x.len == 0 {
            return;
        }
        assert!(rows.end == self.rows || rows.end.is_multiple_of(TILE));
        match &self.data {
            Data::Plain(format, data) => {
                let Some(bytes) = tiles_bytes(*format, TILE, self.cols) else { return };
                let job = Tiles {
                    format: *format,
                    data: &data[rows.start / TILE * bytes..rows.end.div_ceil(TILE) * bytes],
                    cols: self.cols,
                    rows: rows.len(),
                    x: &x.plain[..x.len * self.cols],
                    y: y.wrapping_add(rows.start),
                    stride,
                };
                // SAFETY: the caller's promise.
                unsafe { kernels().product(job) };
            }
            Data::Quant(packed) => {
                let tiles = rows.start / TILE..rows.end.div_ceil(TILE);
                // SAFETY: the caller's promise.
                unsafe { packed.multiply(path(), tiles, &x.quant, y, stride) };
            }
            Data::Planes(_) => panic!("planes need scratch: who has some multiplies with them"),
            Data::Table(..) => panic!("a table is not multiplied with"),
        }
    }

    /// The numbers of row `index`, as the file has them. `None` when there is no such row.
    pub fn row(&self, index: usize, out: &mut [f32]) -> Option<()> {
        if index >= self.rows {
            return None;
        }
        let out = out.get_mut(..self.cols)?;
        match &self.data {
            Data::Plain(format, data) => {
                let bytes = tiles_bytes(*format, TILE, self.cols)?;
                unpack_row(*format, data.get(index / TILE * bytes..)?.get(..bytes)?, index % TILE, out);
            }
            Data::Quant(packed) => packed.row(index, out)?,
            Data::Planes(planes) => planes.row(index, out)?,
            Data::Table(format, file, range) => {
                let bytes = format.row_bytes(self.cols)?;
                let row = file.get(range.clone())?.get(index.checked_mul(bytes)?..)?.get(..bytes)?;
                match format {
                    Format::Plain(plain) => kernels().decode_row(*plain, row, out),
                    Format::Quant(quant) => packed::read_row(*quant, row, out)?,
                }
            }
        }
        Some(())
    }
}

/// Rows that matrices are multiplied with, in the form that each of those matrices wants.
pub struct Input {
    plain: MappedVec<f32>,
    quant: Rows,
    /// Whether a plain matrix, and whether a quantised one, is multiplied with it.
    wants: (bool, bool),
    cols: usize,
    len: usize,
}

impl Input {
    /// Room for `most` rows of up to `cols` numbers for these matrices.
    pub fn new<'a>(most: usize, cols: usize, matrices: impl IntoIterator<Item = &'a Matrix>) -> Result<Input, Error> {
        let mut wants = (false, false);
        for matrix in matrices {
            match matrix.format() {
                Format::Plain(_) => wants.0 = true,
                Format::Quant(_) => wants.1 = true,
            }
        }
        let plain = if wants.0 { most.saturating_mul(cols) } else { 0 };
        let quant = if wants.1 { most } else { 0 };
        Ok(Input { plain: MappedVec::zeroed(plain)?, quant: Rows::new(quant, cols)?, wants, cols, len: 0 })
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> u64 {
        self.plain.bytes() + self.quant.bytes()
    }

    /// The rows in bytes, where a quantised matrix is multiplied with them.
    pub(crate) fn quantised(&self) -> &Rows {
        &self.quant
    }

    /// Begins anew with `len` rows of `cols` numbers; each must be set before it is used.
    ///
    /// # Panics
    /// When there is no room for them.
    pub fn reset(&mut self, len: usize, cols: usize) {
        assert!(!self.wants.0 || len * cols <= self.plain.len(), "{len} × {cols} do not fit");
        (self.len, self.cols) = (len, cols);
        if self.wants.1 {
            self.quant.reset(len, self.cols);
        }
    }

    /// What sets rows, from several threads.
    pub(crate) fn writer(&mut self) -> Writer {
        let (quants, meta) = self.quant.parts();
        Writer {
            plain: Shared::of(&mut self.plain),
            quants: Shared::of(quants),
            meta: Shared::of(meta),
            wants: self.wants,
            cols: self.cols,
            len: self.len,
        }
    }

    /// Sets one row.
    pub fn set(&mut self, row: usize, values: &[f32]) {
        assert!(row < self.len && values.len() == self.cols);
        // SAFETY: this is the only user of the writer, within its borrow, and the row exists.
        unsafe { self.writer().set(row, 0, values) }
    }
}

/// Sets rows of an [`Input`], piece by piece.
#[derive(Clone, Copy)]
pub(crate) struct Writer {
    plain: Shared<f32>,
    quants: Shared<i8>,
    meta: Shared<crate::packed::Meta>,
    wants: (bool, bool),
    cols: usize,
    len: usize,
}

impl Writer {
    /// Sets the numbers of a row from column `at` on, which is a multiple of 32; so is their number, or they reach the row's end.
    ///
    /// # Safety
    /// The input must still be borrowed, and nobody else may use these places meanwhile.
    ///
    /// # Panics
    /// When there are no such places.
    pub(crate) unsafe fn set(&self, row: usize, at: usize, values: &[f32]) {
        const BLOCK: usize = 32;
        assert!(row < self.len && at + values.len() <= self.cols && at.is_multiple_of(BLOCK));
        let place = row * self.cols + at;
        if self.wants.0 {
            // SAFETY: the places exist by the assertion; nobody else uses them by the caller's promise.
            unsafe { self.plain.slice(place, values.len()) }.copy_from_slice(values);
        }
        if self.wants.1 {
            assert!(values.len().is_multiple_of(BLOCK));
            // SAFETY: as above; there is a scale for every 32 numbers.
            let (quants, meta) = unsafe {
                (self.quants.slice(place, values.len()), self.meta.slice(place / BLOCK, values.len() / BLOCK))
            };
            path().quantise(values, quants, meta);
        }
    }
}

/// The bytes of a matrix in its file.
fn checked<'a>(
    file: &'a MappedFile,
    range: &Range<usize>,
    format: Format,
    rows: usize,
    cols: usize,
) -> Result<&'a [u8], Error> {
    check(format, rows, cols, range.len())?;
    let bytes = file.get(range.clone());
    bytes.ok_or_else(|| Error::new(format!("bytes {range:?} lie outside a file of {} bytes", file.len())))
}

fn check(format: Format, rows: usize, cols: usize, found: usize) -> Result<(), Error> {
    if rows == 0 || cols == 0 {
        return Err(Error::new(format!("a matrix of {rows} × {cols} is empty")));
    }
    let name = format.name();
    let Some(row) = format.row_bytes(cols) else {
        return Err(Error::new(format!("{name} needs rows of whole blocks of {}, found {cols}", format.block_len())));
    };
    match row.checked_mul(rows) {
        Some(bytes) if bytes == found => Ok(()),
        Some(bytes) => Err(Error::new(format!("{rows} × {cols} in {name} are {bytes} bytes, found {found}"))),
        None => Err(Error::new(format!("{rows} × {cols} in {name} are more bytes than an address space has"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::tests::file_of;
    use crate::loading::Progress;

    #[test]
    fn multiplies_and_gives_rows() {
        let bytes: Vec<u8> = (0..12).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let format = Format::Plain(kernels::Format::F32);
        let progress = Progress::default();
        let loader = Loader::new(format.arena_bytes(3, 4).unwrap(), &progress, None).unwrap();
        let file = Arc::new(MappedFile::open(file_of(&bytes).path()).unwrap());
        let m = Matrix::in_file(&file, 0..bytes.len(), format, 3, 4, &loader).unwrap();
        let mut x = Input::new(2, 4, [&m]).unwrap();
        x.reset(2, 4);
        x.set(0, &[1.0, 0.0, 0.0, 0.0]);
        x.set(1, &[0.0, 1.0, 1.0, 0.0]);
        let mut y = [0.0; 6];
        // SAFETY: two rows of three products fit into `y`.
        unsafe { m.multiply(0..3, &x, y.as_mut_ptr(), 3) };
        assert_eq!(y, [0.0, 4.0, 8.0, 3.0, 11.0, 19.0]);
        let mut row = [0.0; 4];
        assert_eq!(m.row(2, &mut row), Some(()));
        assert_eq!(row, [8.0, 9.0, 10.0, 11.0]);
        assert_eq!(m.row(3, &mut row), None);
        assert_eq!((m.rows(), m.cols(), m.format().name(), m.bytes()), (3, 4, "F32", 256));
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let message =
            |rows, cols, found| check(Format::Plain(kernels::Format::F32), rows, cols, found).unwrap_err().to_string();
        assert_eq!(message(2, 3, 20), "2 × 3 in F32 are 24 bytes, found 20");
        assert_eq!(message(0, 3, 0), "a matrix of 0 × 3 is empty");
        let quant = Format::Quant(Quant::Q8_0);
        assert!(check(quant, 2, 33, 70).unwrap_err().to_string().contains("whole blocks of 32"));
        let plain = Format::Plain(kernels::Format::F16);
        assert!(check(plain, usize::MAX, 9, 70).unwrap_err().to_string().contains("address space"));
    }
}
