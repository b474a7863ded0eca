//! The one seam for products with weights: every linear layer of every model is a [`Matrix`], and [`Matrix::multiply`] is
//! the only way to use it. What is inside may be replaced (repacked blocks, integer dot products, several threads); the
//! models do not see it.

use std::ops::Range;
use std::sync::Arc;

use crate::Error;
use crate::kernels::{Encoded, Format, kernels, scratch_len};
use crate::memory::{MappedFile, MappedVec};

/// A matrix of weights, `rows × cols`, row after row; it stays where its model file is mapped, or in a mapping of its own.
pub struct Matrix {
    rows: usize,
    cols: usize,
    format: Format,
    data: Data,
}

enum Data {
    File(Arc<MappedFile>, Range<usize>),
    Own(MappedVec<u8>),
}

impl Matrix {
    /// The matrix that lies in `range` of a mapped file, used in place.
    pub fn in_file(
        file: &Arc<MappedFile>,
        range: Range<usize>,
        format: Format,
        rows: usize,
        cols: usize,
    ) -> Result<Matrix, Error> {
        check(format, rows, cols, range.len())?;
        if range.end > file.len() {
            return Err(Error::new(format!("bytes {range:?} lie outside a file of {} bytes", file.len())));
        }
        Ok(Matrix { rows, cols, format, data: Data::File(Arc::clone(file), range) })
    }

    /// A copy of f32 values, row after row.
    pub fn from_f32(values: &[f32], rows: usize, cols: usize) -> Result<Matrix, Error> {
        check(Format::F32, rows, cols, size_of_val(values))?;
        let mut data = MappedVec::zeroed(size_of_val(values))?;
        for (to, value) in data.chunks_exact_mut(4).zip(values) {
            to.copy_from_slice(&value.to_le_bytes());
        }
        Ok(Matrix { rows, cols, format: Format::F32, data: Data::Own(data) })
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
        self.format
    }

    /// The size of its data in bytes.
    pub fn bytes(&self) -> usize {
        self.data().len()
    }

    fn data(&self) -> &[u8] {
        match &self.data {
            Data::File(file, range) => &file[range.clone()],
            Data::Own(data) => data,
        }
    }

    /// `y[i * rows + j] = x_i · row_j` for `m` rows `x_i` of `cols` numbers each. `y` holds at least `m × rows` numbers,
    /// `scratch` at least [`Matrix::scratch_len`]. Each result is bit-equal whatever `m` is.
    ///
    /// # Panics
    /// When one of the slices is too short.
    pub fn multiply(&self, x: &[f32], m: usize, y: &mut [f32], scratch: &mut [f32]) {
        let w = Encoded { format: self.format, data: self.data(), cols: self.cols };
        kernels().product(&x[..m * self.cols], m, w, &mut y[..m * self.rows], scratch);
    }

    /// How much scratch [`Matrix::multiply`] needs.
    pub fn scratch_len(&self) -> usize {
        scratch_len(self.cols)
    }

    /// The numbers of row `index`, as the products see them. `None` when there is no such row.
    pub fn row(&self, index: usize, out: &mut [f32]) -> Option<()> {
        let bytes = self.format.row_bytes(self.cols)?;
        let row = self.data().get(index.checked_mul(bytes)?..)?.get(..bytes)?;
        kernels().decode_row(self.format, row, out.get_mut(..self.cols)?);
        Some(())
    }
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
        let mut y = [0.0; 6];
        m.multiply(&[1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0], 2, &mut y, &mut vec![0.0; m.scratch_len()]);
        assert_eq!(y, [0.0, 4.0, 8.0, 3.0, 11.0, 19.0]);
        let mut row = [0.0; 4];
        assert_eq!(m.row(2, &mut row), Some(()));
        assert_eq!(row, [8.0, 9.0, 10.0, 11.0]);
        assert_eq!(m.row(3, &mut row), None);
        assert_eq!((m.rows(), m.cols(), m.format(), m.bytes()), (3, 4, Format::F32, 48));
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let message =
            |values: &[f32], rows, cols| Matrix::from_f32(values, rows, cols).map(|_| ()).unwrap_err().to_string();
        assert_eq!(message(&[0.0; 5], 2, 3), "2 × 3 in F32 are 24 bytes, found 20");
        assert_eq!(message(&[], 0, 3), "a matrix of 0 × 3 is empty");
        assert!(check(Format::Q8_0, 2, 33, 70).unwrap_err().to_string().contains("whole blocks of 32"));
        assert!(check(Format::F16, usize::MAX, 9, 70).unwrap_err().to_string().contains("address space"));
    }
}
