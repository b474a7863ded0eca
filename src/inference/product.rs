//! The one seam for products with weights: every linear layer of a language model is a [`Matrix`], what it is multiplied with an
//! [`Input`], and [`Matrix::multiply`] the only way to use them. Quantised weights are packed for integer products
//! ([`crate::packed`]); plain ones stay where their file is mapped and are multiplied in f32 ([`crate::kernels`]). The models
//! do not see the difference.

use std::ops::Range;
use std::sync::Arc;

use crate::Error;
use crate::kernels::{self, Encoded, kernels, scratch_len};
use crate::memory::{Arena, MappedFile, MappedVec};
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

    /// The bytes that a matrix takes in an [`Arena`]; 0 for one that stays in its file.
    pub fn arena_bytes(self, rows: usize, cols: usize) -> Option<usize> {
        match self {
            Format::Plain(_) => Some(0),
            Format::Quant(quant) => Packed::bytes_for(quant, rows, cols)?.checked_next_multiple_of(64),
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
    File(kernels::Format, Arc<MappedFile>, Range<usize>),
    Own(MappedVec<u8>),
    Packed(Packed),
    Planes(Planes),
    /// Rows to be read one by one, not multiplied with.
    Table(Quant, Arc<MappedFile>, Range<usize>),
}

/// Rows of a matrix that are computed together: those of a tile of packed weights.
pub const TILE: usize = 16;

impl Matrix {
    /// The matrix that lies in `range` of a mapped file, row after row: packed into `arena` if it is quantised, else used in
    /// place.
    pub fn in_file(
        file: &Arc<MappedFile>,
        range: Range<usize>,
        format: Format,
        rows: usize,
        cols: usize,
        arena: &Arena,
    ) -> Result<Matrix, Error> {
        let quant = match format {
            Format::Plain(plain) => return Matrix::plain_in_file(file, range, plain, rows, cols),
            Format::Quant(quant) => quant,
        };
        let bytes = checked(file, &range, format, rows, cols)?;
        let room = Packed::bytes_for(quant, rows, cols)
            .ok_or_else(|| Error::new(format!("{rows} × {cols} are more bytes than an address space has")))?;
        let packed = Packed::pack(quant, rows, cols, bytes, arena.take(room)?)?;
        file.release(range);
        Ok(Matrix { rows, cols, data: Data::Packed(packed) })
    }

    /// The same in [`Planes`], where it is encoded so that it can be.
    pub fn in_planes(
        file: &Arc<MappedFile>,
        range: Range<usize>,
        format: Format,
        rows: usize,
        cols: usize,
        arena: &Arena,
    ) -> Result<Matrix, Error> {
        let room = Packed::bytes_for(Quant::Q8_0, rows, cols);
        let (Format::Quant(Quant::Q8_0), Some(room)) = (format, room) else {
            return Matrix::in_file(file, range, format, rows, cols, arena);
        };
        let planes = Planes::pack(rows, cols, checked(file, &range, format, rows, cols)?, arena.take(room)?)?;
        file.release(range);
        Ok(Matrix { rows, cols, data: Data::Planes(planes) })
    }

    /// The matrix that lies in `range` of a mapped file, used in place however it is encoded: its rows can be read, and where
    /// they are quantised nothing can be multiplied with it.
    pub fn table(
        file: &Arc<MappedFile>,
        range: Range<usize>,
        format: Format,
        rows: usize,
        cols: usize,
    ) -> Result<Matrix, Error> {
        match format {
            Format::Plain(plain) => Matrix::plain_in_file(file, range, plain, rows, cols),
            Format::Quant(quant) => {
                checked(file, &range, format, rows, cols)?;
                Ok(Matrix { rows, cols, data: Data::Table(quant, Arc::clone(file), range) })
            }
        }
    }

    /// The matrix of plain numbers that lies in `range` of a mapped file, row after row, used in place.
    pub fn plain_in_file(
        file: &Arc<MappedFile>,
        range: Range<usize>,
        format: kernels::Format,
        rows: usize,
        cols: usize,
    ) -> Result<Matrix, Error> {
        checked(file, &range, Format::Plain(format), rows, cols)?;
        Ok(Matrix { rows, cols, data: Data::File(format, Arc::clone(file), range) })
    }

    /// A copy of f32 values, row after row.
    pub fn from_f32(values: &[f32], rows: usize, cols: usize) -> Result<Matrix, Error> {
        check(Format::Plain(kernels::Format::F32), rows, cols, size_of_val(values))?;
        let mut data = MappedVec::zeroed(size_of_val(values))?;
        for (to, value) in data.chunks_exact_mut(4).zip(values) {
            to.copy_from_slice(&value.to_le_bytes());
        }
        Ok(Matrix { rows, cols, data: Data::Own(data) })
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
            Data::File(format, ..) => Format::Plain(*format),
            Data::Own(_) => Format::Plain(kernels::Format::F32),
            Data::Packed(packed) => Format::Quant(packed.quant()),
            Data::Planes(_) => Format::Quant(Quant::Q8_0),
            Data::Table(quant, ..) => Format::Quant(*quant),
        }
    }

    /// The size of its data in bytes.
    pub fn bytes(&self) -> usize {
        match &self.data {
            Data::File(_, _, range) | Data::Table(_, _, range) => range.len(),
            Data::Own(data) => data.len(),
            Data::Packed(packed) => packed.bytes(),
            Data::Planes(planes) => planes.bytes(),
        }
    }

    /// Asks for the pages of a matrix that stays in its file.
    pub fn populate(&self) {
        if let Data::File(_, file, range) = &self.data {
            file.populate(range.clone());
        }
    }

    /// The numbers of a plain matrix.
    fn plain(&self) -> Option<(kernels::Format, &[u8])> {
        match &self.data {
            Data::File(format, file, range) => Some((*format, file.get(range.clone())?)),
            Data::Own(data) => Some((kernels::Format::F32, data)),
            Data::Packed(_) | Data::Planes(_) | Data::Table(..) => None,
        }
    }

    /// Its planes, where it lies in them.
    pub(crate) fn planes(&self) -> Option<&Planes> {
        if let Data::Planes(planes) = &self.data { Some(planes) } else { None }
    }

    /// `y[i * stride + j] = x_i · row_j` for the rows `x_i` of the input and `j` in `rows`, which begins at a multiple of
    /// [`TILE`]. `scratch` holds at least [`Matrix::scratch_len`] numbers. Each result has the same bits whatever the input's
    /// other rows are, and whichever rows of the matrix are computed with it.
    ///
    /// # Safety
    /// `y` must be valid for writes at all those places (it may itself lie before them), and nobody else may use them meanwhile.
    ///
    /// # Panics
    /// When the shapes do not fit or the scratch is too short.
    pub unsafe fn multiply(&self, rows: Range<usize>, x: &Input, y: *mut f32, stride: usize, scratch: &mut [f32]) {
        assert!(rows.start.is_multiple_of(TILE) && rows.start <= rows.end && rows.end <= self.rows);
        assert!(x.cols == self.cols, "{} numbers for a matrix of {} columns", x.cols, self.cols);
        if rows.is_empty() || x.len == 0 {
            return;
        }
        if let Data::Packed(packed) = &self.data {
            assert!(rows.end == self.rows || rows.end.is_multiple_of(TILE));
            // SAFETY: the caller's promise.
            unsafe { packed.multiply(path(), rows.start / TILE..rows.end.div_ceil(TILE), &x.quant, y, stride) };
            return;
        }
        if let Data::Planes(planes) = &self.data {
            let tiles = rows.start / TILE..rows.end.div_ceil(TILE);
            // SAFETY: the caller's promise.
            unsafe { planes.exact(path(), tiles, &x.quant, 0..x.len, y, stride, scratch) };
            return;
        }
        let Some((format, data)) = self.plain() else { panic!("a table is not multiplied with") };
        let Some(bytes) = format.row_bytes(self.cols) else { return };
        let (scratch, out) = scratch.split_at_mut(scratch_len(self.cols));
        // In pieces whose products stay in the cache until they are written to their places.
        for first in (rows.start..rows.end).step_by(TILE) {
            let count = TILE.min(rows.end - first);
            let w = Encoded { format, data: &data[first * bytes..(first + count) * bytes], cols: self.cols };
            let out = &mut out[..x.len * count];
            kernels().product(&x.plain[..x.len * self.cols], x.len, w, out, scratch);
            for (i, row) in out.chunks_exact(count).enumerate() {
                // SAFETY: the caller's promise.
                unsafe { std::ptr::copy_nonoverlapping(row.as_ptr(), y.wrapping_add(i * stride + first), count) };
            }
        }
    }

    /// How much scratch [`Matrix::multiply`] needs for up to `most` rows of input.
    pub fn scratch_len(&self, most: usize) -> usize {
        match &self.data {
            Data::Packed(_) => 0,
            Data::Planes(planes) => planes.scratch_len(),
            _ => scratch_len(self.cols) + most * TILE,
        }
    }

    /// The numbers of row `index`, as the file has them. `None` when there is no such row.
    pub fn row(&self, index: usize, out: &mut [f32]) -> Option<()> {
        if let Data::Packed(packed) = &self.data {
            return packed.row(index, out);
        }
        if let Data::Planes(planes) = &self.data {
            return planes.row(index, out);
        }
        if let Data::Table(quant, file, range) = &self.data {
            let bytes = quant.row_bytes(self.cols)?;
            let row = file.get(range.clone())?.get(index.checked_mul(bytes)?..)?.get(..bytes)?;
            return packed::read_row(*quant, row, out.get_mut(..self.cols)?);
        }
        let (format, data) = self.plain()?;
        let bytes = format.row_bytes(self.cols)?;
        let row = data.get(index.checked_mul(bytes)?..)?.get(..bytes)?;
        kernels().decode_row(format, row, out.get_mut(..self.cols)?);
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

    #[test]
    fn multiplies_and_gives_rows() {
        let values: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let m = Matrix::from_f32(&values, 3, 4).unwrap();
        let mut x = Input::new(2, 4, [&m]).unwrap();
        x.reset(2, 4);
        x.set(0, &[1.0, 0.0, 0.0, 0.0]);
        x.set(1, &[0.0, 1.0, 1.0, 0.0]);
        let mut y = [0.0; 6];
        // SAFETY: two rows of three products fit into `y`.
        unsafe { m.multiply(0..3, &x, y.as_mut_ptr(), 3, &mut vec![0.0; m.scratch_len(2)]) };
        assert_eq!(y, [0.0, 4.0, 8.0, 3.0, 11.0, 19.0]);
        let mut row = [0.0; 4];
        assert_eq!(m.row(2, &mut row), Some(()));
        assert_eq!(row, [8.0, 9.0, 10.0, 11.0]);
        assert_eq!(m.row(3, &mut row), None);
        assert_eq!((m.rows(), m.cols(), m.format().name(), m.bytes()), (3, 4, "F32", 48));
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let message =
            |values: &[f32], rows, cols| Matrix::from_f32(values, rows, cols).map(|_| ()).unwrap_err().to_string();
        assert_eq!(message(&[0.0; 5], 2, 3), "2 × 3 in F32 are 24 bytes, found 20");
        assert_eq!(message(&[], 0, 3), "a matrix of 0 × 3 is empty");
        let quant = Format::Quant(Quant::Q8_0);
        assert!(check(quant, 2, 33, 70).unwrap_err().to_string().contains("whole blocks of 32"));
        let plain = Format::Plain(kernels::Format::F16);
        assert!(check(plain, usize::MAX, 9, 70).unwrap_err().to_string().contains("address space"));
    }
}
