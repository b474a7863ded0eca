//! Rows of numbers, and the same rows in bytes for integer products.

use super::Path;
use super::layout::BLOCK;
use crate::Error;
use crate::memory::MappedVec;

/// What belongs to a block of 32 quantised numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Meta {
    /// A number is its byte times this.
    pub scale: f32,
    /// The sum of the first sixteen bytes, negated.
    pub low: i32,
    /// That of the other sixteen.
    pub high: i32,
    /// Both together.
    pub both: i32,
}

// SAFETY: three i32 and an f32, without padding; every bit pattern is a value.
unsafe impl crate::memory::Number for Meta {}

/// Up to a fixed number of rows in bytes: each number is a byte from −127 to 127 times the scale of its block of 32.
pub struct Rows {
    quants: MappedVec<i8>,
    meta: MappedVec<Meta>,
    cols: usize,
    len: usize,
}

impl Rows {
    /// Room for `most` rows of up to `cols` numbers.
    pub fn new(most: usize, cols: usize) -> Result<Rows, Error> {
        let cols = cols.next_multiple_of(BLOCK);
        let numbers = most.checked_mul(cols).ok_or_else(|| Error::new("more rows than an address space has"))?;
        Ok(Rows { quants: MappedVec::zeroed(numbers)?, meta: MappedVec::zeroed(numbers / BLOCK)?, cols: 0, len: 0 })
    }

    /// Begins anew with `len` rows of `cols` numbers, a multiple of 32; each must be [`set`](Rows::set) before it is used.
    ///
    /// # Panics
    /// When there is no room for them.
    pub fn reset(&mut self, len: usize, cols: usize) {
        assert!(cols.is_multiple_of(BLOCK) && len * cols <= self.quants.len(), "{len} × {cols} do not fit");
        (self.len, self.cols) = (len, cols);
    }

    /// Row `index`, in bytes.
    pub fn set(&mut self, path: &Path, index: usize, from: &[f32]) {
        assert!(index < self.len && from.len() == self.cols);
        let blocks = self.cols / BLOCK;
        let quants = &mut self.quants[index * self.cols..][..self.cols];
        path.quantise(from, quants, &mut self.meta[index * blocks..][..blocks]);
    }

    /// All bytes, row after row, and what belongs to their blocks.
    pub(crate) fn parts(&mut self) -> (&mut [i8], &mut [Meta]) {
        (&mut self.quants, &mut self.meta)
    }

    /// How many rows there are now.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> u64 {
        self.quants.bytes() + self.meta.bytes()
    }

    /// Numbers per row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    pub(super) fn quants(&self) -> &[i8] {
        &self.quants[..self.len * self.cols]
    }

    pub(super) fn meta(&self) -> &[Meta] {
        &self.meta[..self.len * self.cols / BLOCK]
    }
}
