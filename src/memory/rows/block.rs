//! The memory of a run of rows, and who they belong to.

use super::vector::{Precision, Vector};
use super::{DEAD, Shape};
use crate::entry::block as allocated;
use crate::kernels::{GROUP, PLANES};
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::slice::from_raw_parts;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const LINE: usize = 64;
/// The bits of a half-byte below its sign, in the order of their planes.
const LOWER: [i8; PLANES - 1] = [2, 1, 0];

/// The rows of one segment, in one piece of memory: the signs of all rows in groups, then the numbers of each row padded to
/// whole cache lines (of half-bytes the planes below the signs, whole words and no padding), then one over the length of each.
///
/// A row is written once and never again. `claimed` hands each row to one writer, and `written` counts the rows that may be
/// read; so a block may be shared with readers on other threads while it fills, and two owners that both try to append cannot
/// write the same row: the second is refused and starts a block of its own.
pub(super) struct Block {
    memory: NonNull<u8>,
    shape: Shape,
    rows: usize,
    claimed: AtomicUsize,
    written: AtomicUsize,
}

// SAFETY: the memory is owned, and holds plain numbers. All writes to it are in `push`, to a row that this call alone has
// claimed and that `written` does not count yet; all reads are of rows below `written`, whose bytes were written before it was
// raised (Release) and are read after it was seen (Acquire), and never change again.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    /// Room for at least `rows` rows, and for as many more as the allocator gives for nothing.
    pub(super) fn new(shape: Shape, rows: usize) -> Block {
        let rows = rows.next_multiple_of(GROUP).max(GROUP);
        let rows = allocated(rows * shape.row_bytes()) / shape.row_bytes() / GROUP * GROUP;
        let layout = Block::layout(shape, rows);
        // SAFETY: the layout is not empty: there are at least `GROUP` rows of at least one word each.
        let memory = unsafe { alloc(layout) };
        let Some(memory) = NonNull::new(memory) else { handle_alloc_error(layout) };
        Block { memory, shape, rows, claimed: AtomicUsize::new(0), written: AtomicUsize::new(0) }
    }

    fn layout(shape: Shape, rows: usize) -> Layout {
        // A line is a power of two, and sizes are far below the address space: limits bound the dimensions, `Rows` the rows.
        match Layout::from_size_align(rows * shape.row_bytes(), LINE) {
            Ok(layout) => layout,
            Err(_) => handle_alloc_error(Layout::new::<u8>()),
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes as the allocator counts them.
    pub(super) fn bytes(&self) -> usize {
        allocated(self.rows * self.shape.row_bytes())
    }

    /// Where the numbers of a row start.
    fn data_at(&self, row: usize) -> usize {
        self.rows * self.shape.words * 8 + row * self.shape.stride
    }

    fn inverse_at(&self, row: usize) -> usize {
        self.data_at(self.rows) + row * size_of::<f32>()
    }

    /// Writes row `row` if it is the next one and nobody else has taken it.
    pub(super) fn push(&self, row: usize, vector: &Vector) -> bool {
        if row >= self.rows || self.claimed.compare_exchange(row, row + 1, Ordering::AcqRel, Ordering::Relaxed).is_err()
        {
            return false;
        }
        let Shape { dim, words, stride, .. } = self.shape;
        let data = self.data_at(row);
        // SAFETY: `data..data + stride` lies within the memory, as `row` is below `rows`, and this call alone has claimed the
        // row (see `Sync`), so nobody else reads or writes these bytes. Writing zeros makes them initialised.
        let bytes = unsafe {
            let start = self.memory.as_ptr().add(data);
            start.write_bytes(0, stride);
            std::slice::from_raw_parts_mut(start, stride)
        };
        let mut signs = Signs { block: self, row, words };
        match vector {
            Vector::I8(codes) => {
                // Padding is the code 0.
                bytes.fill(128);
                for (to, code) in bytes.iter_mut().zip(codes.iter().take(dim)) {
                    *to = *code as u8 ^ 128;
                }
                signs.write(bytes.chunks(64).map(|bytes| {
                    // The top bits of eight bytes at a time, gathered by a multiplication.
                    bytes.as_chunks::<8>().0.iter().enumerate().fold(0, |word, (n, eight)| {
                        let tops = u64::from_le_bytes(*eight) >> 7 & 0x0101_0101_0101_0101;
                        word | (tops.wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * n)
                    })
                }));
            }
            Vector::I4(numbers) => {
                let plane = |numbers: &[i8], bit: i8| positive(numbers.iter().map(|x| ((x + 15) / 2) >> bit & 1 == 1));
                let words = numbers.chunks(64).flat_map(|numbers| LOWER.map(|bit| plane(numbers, bit)));
                for (to, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
                    *to = word.to_ne_bytes();
                }
                signs.write(numbers.chunks(64).map(|numbers| plane(numbers, 3)));
            }
            Vector::F16(halves) => {
                for (to, half) in bytes.as_chunks_mut().0.iter_mut().zip(halves.iter().take(dim)) {
                    *to = half.to_ne_bytes();
                }
                signs.write(halves.chunks(64).map(|halves| positive(halves.iter().map(|x| x >> 15 == 0))));
            }
            Vector::F32(floats) => {
                for (to, float) in bytes.as_chunks_mut().0.iter_mut().zip(floats.iter().take(dim)) {
                    *to = float.to_ne_bytes();
                }
                signs.write(floats.chunks(64).map(|floats| positive(floats.iter().map(|x| x.to_bits() >> 31 == 0))));
            }
        }
        let square = vector.square();
        let inverse = if square > 0.0 { (1.0 / square.sqrt()) as f32 } else { 0.0 };
        // SAFETY: within the memory, as `row` is below `rows`; claimed, as above. The address is a multiple of 4: all parts
        // before it are multiples of a group's signs or of a line.
        unsafe { self.memory.as_ptr().add(self.inverse_at(row)).cast::<f32>().write(inverse) };
        self.written.store(row + 1, Ordering::Release);
        true
    }

    fn is_written(&self, row: usize) -> bool {
        row < self.written.load(Ordering::Acquire)
    }

    /// The signs of the first `rows` rows, less those of a group that is not full.
    pub(super) fn signs(&self, rows: usize) -> &[u64] {
        let groups = rows.min(self.written.load(Ordering::Acquire)) / GROUP;
        // SAFETY: the signs of the first `groups` groups are the first bytes of the memory, aligned to a line; every row of them
        // is written (see `Sync`), so all are initialised and will not change.
        unsafe { from_raw_parts(self.memory.as_ptr().cast(), groups * GROUP * self.shape.words) }
    }

    /// The signs of one row, word by word.
    pub(super) fn row_signs(&self, row: usize) -> impl Iterator<Item = u64> {
        let words = if self.is_written(row) { self.shape.words } else { 0 };
        (0..words).map(move |word| {
            // SAFETY: the row is written, so this word of it is within the memory, initialised and will not change.
            unsafe { self.memory.as_ptr().cast::<u64>().add(self.shape.sign_at(row, word)).read() }
        })
    }

    /// The numbers of a row with their padding; nothing if there is no such row, or it holds other numbers.
    fn data<T: Number>(&self, row: usize) -> &[T] {
        if !self.is_written(row) || T::PRECISION != self.shape.precision {
            return &[];
        }
        // SAFETY: the row is written, so its bytes are within the memory, initialised and will not change. Any bits are a `T`,
        // of which a row's stride is a multiple, and so is the address: both are whole lines, or whole words for half-bytes.
        unsafe {
            from_raw_parts(self.memory.as_ptr().add(self.data_at(row)).cast(), self.shape.stride / size_of::<T>())
        }
    }

    pub(super) fn codes(&self, row: usize) -> &[u8] {
        self.data(row)
    }

    pub(super) fn halves(&self, row: usize) -> &[u16] {
        self.data(row)
    }

    /// The planes of a row of half-bytes below its signs, word by word.
    pub(super) fn lower_planes(&self, row: usize) -> &[u64] {
        self.data(row)
    }

    /// Appends a row of half-bytes in the form that [`kernels::plane_dots`](crate::kernels::plane_dots) takes; zeros if there is no such row.
    pub(super) fn append_planes(&self, row: usize, out: &mut Vec<u64>) {
        let start = out.len();
        for (sign, lower) in self.row_signs(row).zip(self.lower_planes(row).as_chunks::<{ PLANES - 1 }>().0) {
            out.push(sign);
            out.extend_from_slice(lower);
        }
        out.resize(start + PLANES * self.shape.words, 0);
    }

    /// What the rows look like.
    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    pub(super) fn floats(&self, row: usize) -> &[f32] {
        self.data(row)
    }

    /// One over the length of what a row stores, as a slice, so that it can be asked for before it is needed.
    pub(super) fn inverse(&self, row: usize) -> &[f32] {
        if !self.is_written(row) {
            return &[];
        }
        // SAFETY: as in `data`; the address is a multiple of 4, see `push`.
        unsafe { from_raw_parts(self.memory.as_ptr().add(self.inverse_at(row)).cast(), 1) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and nobody has a reference any more.
        unsafe { dealloc(self.memory.as_ptr(), Block::layout(self.shape, self.rows)) };
    }
}

/// The numbers of a row.
trait Number {
    const PRECISION: Precision;
}

impl Number for u8 {
    const PRECISION: Precision = Precision::I8;
}

impl Number for u16 {
    const PRECISION: Precision = Precision::F16;
}

impl Number for f32 {
    const PRECISION: Precision = Precision::F32;
}

impl Number for u64 {
    const PRECISION: Precision = Precision::I4;
}

/// A word with a bit for each number that is not negative.
pub(super) fn positive(numbers: impl Iterator<Item = bool>) -> u64 {
    numbers.enumerate().fold(0, |word, (n, positive)| word | u64::from(positive) << n)
}

/// The signs of a row that is being written.
struct Signs<'a> {
    block: &'a Block,
    row: usize,
    words: usize,
}

impl Signs<'_> {
    /// Writes all words of the row; words that are missing are 0.
    fn write(&mut self, signs: impl Iterator<Item = u64>) {
        for (word, value) in signs.chain(std::iter::repeat(0)).take(self.words).enumerate() {
            // SAFETY: within the memory, aligned to eight bytes, and of a row that `push`, which made this, has claimed.
            unsafe {
                self.block.memory.as_ptr().cast::<u64>().add(self.block.shape.sign_at(self.row, word)).write(value)
            };
        }
    }
}

/// A block and who its rows belong to.
pub(super) struct Segment {
    pub(super) block: Arc<Block>,
    /// The slot of each row, or [`DEAD`]. Its length is what this segment, be it a space's or a snapshot's, sees of the block.
    pub(super) owners: Vec<u32>,
    /// Rows that belong to somebody.
    pub(super) live: u32,
    /// Tells a segment from all others that were ever in its place.
    pub(super) serial: u64,
}

impl Segment {
    pub(super) fn new(shape: Shape, rows: usize, serial: u64) -> Segment {
        let block = Block::new(shape, rows);
        let owners = Vec::with_capacity(block.rows());
        Segment { block: Arc::new(block), owners, live: 0, serial }
    }

    /// Whether no row will come any more.
    pub(super) fn is_full(&self) -> bool {
        self.owners.len() == self.block.rows()
    }

    /// The slot that a row belongs to.
    pub(super) fn owner(&self, row: usize) -> Option<u32> {
        self.owners.get(row).copied().filter(|owner| *owner != DEAD)
    }

    /// Bytes as the allocator counts them.
    pub(super) fn bytes(&self) -> usize {
        let shared = 2 * size_of::<usize>();
        self.block.bytes()
            + allocated(self.block.rows() * size_of::<u32>())
            + allocated(size_of::<Block>() + shared)
            + allocated(size_of::<Segment>() + shared)
            + size_of::<usize>()
    }
}

/// A copy has room for the whole segment: it is made in order to be written.
impl Clone for Segment {
    fn clone(&self) -> Segment {
        let mut owners = Vec::with_capacity(self.block.rows());
        owners.extend_from_slice(&self.owners);
        Segment { block: self.block.clone(), owners, live: self.live, serial: self.serial }
    }
}
