//! The vectors of a space: rows in append-only segments, and the search over them.
//!
//! **A row** is its numbers in the space's precision, the sign of each dimension as one bit, one over its length, and the slot of the
//! memory that it belongs to, its owner: 440 bytes for 384 dimensions of 8 bits. A memory has a row for each of its windows.
//! Of memories that have cooled (see `heat`) it is coarser than the space asks for: bytes where the space has floats, then half-bytes, 200 bytes.
//! Rows of one precision lie in segments of their own. Signs lie in all of them alike, so a search by signs does not tell them apart; what compares numbers asks
//! each segment for its precision.
//!
//! **A segment** is one block of memory of fixed capacity. Rows are written once, behind the written length, and never again; so a
//! snapshot, which is a clone, may read a block on another thread while the space appends to it. What changes is beside the block:
//! owners say whose a row is, or that it is dead, and are copied on write (4 bytes per row). A segment whose rows are all dead
//! is given back at once; one that is dead for a quarter is emptied by [`Rows::compactable`], a few rows per call, whose living the caller
//! appends again. Segments grow with the space from 8 rows to about 1,024, no larger than 2 MiB, and are as large as the
//! allocator's size class allows.
//!
//! **A search** ([`search`]) looks at the signs of all rows, then at the numbers of those whose signs differ least, and stops when what it
//! has not looked at is unlikely to belong to the answer. Few rows, or short ones, it compares all exactly. Beyond
//! some hundred thousand rows an [`Index`] of lists, built on another thread from a snapshot, says where to look first; rows
//! younger than it are looked at beside it. Results never depend on where a row lies: ties are broken by memory id.
//!
//! Rejected: one growing array (a snapshot would have to copy it); one allocation per vector (a scan would chase pointers, 7–9 times
//! slower); a graph index (pointers per row that cost more than the row, deletes that leave holes, and filters that it answers with
//! fewer results than asked); bytes kept beside halves or floats for a middle stage (a quarter more memory, for microseconds).

mod best;
mod block;
mod index;
mod search;
#[cfg(test)]
mod tests;
mod vector;

use crate::kernels::{self, GROUP, PLANES, Wide};
use block::{Block, Segment};
use std::sync::Arc;

pub(crate) use index::Index;
pub(crate) use search::{Among, Effort, Search};
#[allow(unused_imports, reason = "tests and measurements name what a search gives")]
pub(crate) use search::{Found, Path};
pub(crate) use vector::pair_similarity;
pub use vector::{Precision, Vector};

/// The owner of a row that belongs to nobody.
const DEAD: u32 = u32::MAX;
/// Bits of a [`RowId`] that say which row of its segment it is.
const ROW_BITS: u32 = 11;
/// How many precisions there are.
const PRECISIONS: usize = Precision::I4 as usize + 1;
/// By which part of what there is another segment adds to it, and the same for half-bytes.
const GROWTH: usize = 4;
const COARSE_GROWTH: usize = 8;
const MAX_ROWS: usize = 1024;
const MAX_BYTES: usize = 2 << 20;

/// Where a vector is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowId(u32);

impl RowId {
    /// As a number that another structure keeps.
    pub(crate) fn number(self) -> u32 {
        self.0
    }

    /// From the number that was kept.
    pub(crate) fn from_number(number: u32) -> RowId {
        RowId(number)
    }
}

impl RowId {
    fn new(place: usize, row: usize) -> RowId {
        RowId((place as u32) << ROW_BITS | row as u32)
    }

    /// The place of the segment in the list of segments.
    fn place(self) -> usize {
        (self.0 >> ROW_BITS) as usize
    }

    fn row(self) -> usize {
        (self.0 & ((1 << ROW_BITS) - 1)) as usize
    }
}

/// What a row of a space looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    dim: usize,
    precision: Precision,
    /// Words of signs.
    words: usize,
    /// Bytes from the numbers of one row to those of the next.
    stride: usize,
}

impl Shape {
    fn new(dim: usize, precision: Precision) -> Shape {
        let words = dim.div_ceil(64);
        let stride = match precision {
            Precision::I4 => words * (PLANES - 1) * size_of::<u64>(),
            _ => precision.bytes(dim).next_multiple_of(kernels::BYTES),
        };
        Shape { dim, precision, words, stride }
    }

    /// Bytes of a row in a block.
    fn row_bytes(self) -> usize {
        self.words * size_of::<u64>() + self.stride + size_of::<f32>()
    }

    /// Where a word of a row's signs is among the words of a block.
    fn sign_at(self, row: usize, word: usize) -> usize {
        (row / GROUP * self.words + word) * GROUP + row % GROUP
    }
}

/// All rows of a space. Cloning is O(1) and freezes what is seen.
#[derive(Clone)]
pub(crate) struct Rows {
    /// None where a segment was given back.
    segments: Arc<Vec<Option<Arc<Segment>>>>,
    /// What rows look like that have not cooled.
    shape: Shape,
    /// Rows that belong to a memory, by precision.
    live: [usize; PRECISIONS],
    index: Option<Arc<Index>>,
}

/// What the owner of the space keeps about its rows besides them.
#[derive(Clone, Default)]
pub(crate) struct RowCounts {
    /// Rows that belong to a memory.
    pub(crate) live: usize,
    /// Rows that belong to nobody and still take room.
    pub(crate) dead: usize,
    /// Bytes of all segments and of the index, as the allocator counts them.
    pub(crate) bytes: usize,
    /// The segments that are being filled, by precision.
    tails: [Option<usize>; PRECISIONS],
    /// Places in the list of segments whose segment was given back.
    free: Vec<u32>,
    /// Where the next compaction looks first.
    cursor: usize,
    /// The serial of the next segment.
    serial: u64,
}

/// A query in the forms that rows are compared with.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    /// For rows of bytes and the centroids of an index.
    wide: Wide,
    /// For rows of floats and halves, padded like a row.
    floats: Vec<f32>,
    signs: Vec<u64>,
}

impl Rows {
    /// No rows yet, of 1 to [`crate::limits::DIMENSIONS`] dimensions.
    pub(crate) fn new(dim: usize, precision: Precision) -> Rows {
        Rows { segments: Arc::default(), shape: Shape::new(dim, precision), live: [0; PRECISIONS], index: None }
    }

    pub(crate) fn dim(&self) -> usize {
        self.shape.dim
    }

    pub(crate) fn precision(&self) -> Precision {
        self.shape.precision
    }

    /// Rows that belong to a memory.
    pub(crate) fn len(&self) -> usize {
        self.live.iter().sum()
    }

    /// Bytes of a row of this precision and its owner.
    pub(crate) fn row_bytes(&self, precision: Precision) -> usize {
        Shape::new(self.shape.dim, precision).row_bytes() + size_of::<u32>()
    }

    /// How a row is kept; as the space asks for if there is no such row.
    pub(crate) fn precision_of(&self, id: RowId) -> Precision {
        self.segment(id.place()).map_or(self.shape.precision, |segment| segment.block.shape().precision)
    }

    fn segment(&self, place: usize) -> Option<&Segment> {
        self.segments.get(place)?.as_deref()
    }

    /// All segments with their places.
    fn segments(&self) -> impl Iterator<Item = (usize, &Segment)> {
        self.segments.iter().enumerate().filter_map(|(place, segment)| Some((place, segment.as_deref()?)))
    }

    /// Writes a vector behind the others of its precision. It has the space's dimension, and its precision or a coarser one.
    pub(crate) fn append(&mut self, counts: &mut RowCounts, owner: u32, vector: &Vector) -> RowId {
        let precision = vector.precision();
        debug_assert!(vector.dim() == self.shape.dim && precision as u8 >= self.shape.precision as u8 && owner != DEAD);
        let segments = Arc::make_mut(&mut self.segments);
        self.live[precision as usize] += 1;
        counts.live += 1;
        let tail = &mut counts.tails[precision as usize];
        if let Some(place) = *tail
            && let Some(Some(segment)) = segments.get_mut(place)
        {
            let row = segment.owners.len();
            // Full, or filled beyond what is seen here by another clone: then a segment of one's own.
            if segment.block.push(row, vector) {
                let segment = Arc::make_mut(segment);
                segment.owners.push(owner);
                segment.live += 1;
                return RowId::new(place, row);
            }
        }
        let shape = Shape::new(self.shape.dim, precision);
        let max = (MAX_BYTES / shape.row_bytes()).clamp(GROUP, MAX_ROWS);
        let rows = match precision {
            Precision::I4 => self.live[precision as usize] / COARSE_GROWTH,
            _ => (counts.live + counts.dead) / GROWTH,
        };
        let mut segment = Segment::new(shape, rows.clamp(GROUP, max), counts.serial);
        segment.block.push(0, vector);
        segment.owners.push(owner);
        segment.live = 1;
        counts.serial += 1;
        counts.bytes += segment.bytes();
        let segment = Some(Arc::new(segment));
        let place = match counts.free.pop().map(|place| place as usize) {
            Some(place) if place < segments.len() => {
                segments[place] = segment;
                place
            }
            _ => {
                segments.push(segment);
                segments.len() - 1
            }
        };
        *tail = Some(place);
        RowId::new(place, 0)
    }

    /// Makes a row nobody's.
    pub(crate) fn kill(&mut self, counts: &mut RowCounts, id: RowId) {
        if self.segment(id.place()).and_then(|segment| segment.owner(id.row())).is_none() {
            return;
        }
        let Some(place) = Arc::make_mut(&mut self.segments).get_mut(id.place()) else { return };
        let Some(segment) = place.as_mut().map(Arc::make_mut) else { return };
        let Some(owner) = segment.owners.get_mut(id.row()) else { return };
        *owner = DEAD;
        let precision = segment.block.shape().precision as usize;
        segment.live -= 1;
        self.live[precision] -= 1;
        counts.live -= 1;
        counts.dead += 1;
        if segment.live == 0 {
            counts.dead -= segment.owners.len();
            counts.bytes -= segment.bytes();
            if counts.tails[precision] == Some(id.place()) {
                counts.tails[precision] = None;
            }
            *place = None;
            counts.free.push(id.place() as u32);
        }
        if self.index.as_ref().is_some_and(|index| self.len() < index.len() / 4) {
            self.set_index(counts, None);
        }
    }

    /// The slot that a row belongs to.
    pub(crate) fn owner(&self, id: RowId) -> Option<u32> {
        self.segment(id.place())?.owner(id.row())
    }

    /// The vector of a row.
    pub(crate) fn vector(&self, id: RowId) -> Option<Vector> {
        let segment = self.segment(id.place())?;
        segment.owners.get(id.row())?;
        let (block, row, dim) = (&segment.block, id.row(), self.shape.dim);
        Some(match block.shape().precision {
            Precision::I4 => Vector::I4(half_bytes(block, row).take(dim).collect()),
            Precision::F32 => Vector::F32(block.floats(row).get(..dim)?.into()),
            Precision::F16 => Vector::F16(block.halves(row).get(..dim)?.into()),
            Precision::I8 => Vector::I8(block.codes(row).get(..dim)?.iter().map(|x| (x ^ 128) as i8).collect()),
        })
    }

    /// Appends the stored form of a row, as [`Vector::write`] does.
    pub(crate) fn append_bytes(&self, id: RowId, out: &mut Vec<u8>) {
        let Some(segment) = self.segment(id.place()) else { return };
        let (block, row, dim) = (&segment.block, id.row(), self.shape.dim);
        match block.shape().precision {
            Precision::I4 => {
                if let Some(vector) = self.vector(id) {
                    vector.write(out);
                }
            }
            Precision::F32 => out.extend(block.floats(row).iter().take(dim).flat_map(|x| x.to_le_bytes())),
            Precision::F16 => out.extend(block.halves(row).iter().take(dim).flat_map(|x| x.to_le_bytes())),
            Precision::I8 => out.extend(block.codes(row).iter().take(dim).map(|x| x ^ 128)),
        }
    }

    /// Prepares a vector of length one to be searched for.
    pub(crate) fn query(&self, unit: &[f32]) -> Query {
        let mut floats = unit.to_vec();
        floats.resize(self.shape.dim, 0.0);
        let wide = Wide::new(&floats);
        let signs = floats.chunks(64).map(|floats| block::positive(floats.iter().map(|x| *x >= 0.0))).collect();
        match self.shape.precision {
            Precision::F32 | Precision::F16 => floats.resize(self.shape.stride / self.shape.precision.bytes(1), 0.0),
            Precision::I8 | Precision::I4 => floats = Vec::new(),
        }
        Query { wide, floats, signs }
    }

    /// Up to `budget` living rows of the next segment that is dead for a quarter or more, with their owners. None when no
    /// segment is. The caller moves each row: append, then kill.
    pub(crate) fn compactable(&self, counts: &mut RowCounts, budget: usize) -> Option<Vec<(u32, RowId)>> {
        let n = self.segments.len();
        let wasteful = |&place: &usize| {
            self.segment(place).is_some_and(|segment| {
                let rows = segment.owners.len();
                let closed = !counts.tails.contains(&Some(place)) || segment.is_full();
                closed && rows > 0 && (rows - segment.live as usize) * 4 >= rows
            })
        };
        let place = (0..n).map(|step| (counts.cursor + step) % n).find(wasteful)?;
        counts.cursor = place;
        counts.tails.iter_mut().filter(|tail| **tail == Some(place)).for_each(|tail| *tail = None);
        let owners = self.segment(place)?.owners.iter().enumerate();
        let living = owners.filter(|(_, owner)| **owner != DEAD).take(budget);
        Some(living.map(|(row, owner)| (*owner, RowId::new(place, row))).collect())
    }

    /// The counts as the segments themselves say, to check the kept ones: living and dead rows, bytes.
    pub(crate) fn recount(&self) -> (usize, usize, usize) {
        let index = self.index.as_ref().map_or(0, |index| index.bytes());
        self.segments().fold((0, 0, index), |(live, dead, bytes), (_, segment)| {
            let living = segment.owners.iter().filter(|owner| **owner != DEAD).count();
            assert_eq!(living, segment.live as usize);
            (live + living, dead + segment.owners.len() - living, bytes + segment.bytes())
        })
    }
}

/// The numbers of a row of half-bytes and of its padding.
fn half_bytes(block: &Block, row: usize) -> impl Iterator<Item = i8> {
    let words = block.row_signs(row).zip(block.lower_planes(row).as_chunks::<{ PLANES - 1 }>().0);
    words.flat_map(|(sign, lower)| {
        (0..64).map(move |bit| {
            let code = lower.iter().fold(sign >> bit & 1, |code, plane| code << 1 | plane >> bit & 1);
            2 * code as i8 - 15
        })
    })
}
