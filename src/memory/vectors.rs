//! The vectors of a space: rows of f32 in append-only segments.
//!
//! A segment is one block of memory of fixed capacity, 64-byte aligned, its rows padded with zeros to whole cache lines. Rows
//! are written once, behind the published length, and never again; so a snapshot that holds the block and a length may read
//! on another thread while the space appends. What changes is beside the block: `owners` says which slot a row belongs to, or
//! that it is dead, and is copied on write (4 bytes per row). A segment whose rows are all dead is given back at once; one that
//! is dead for a quarter is emptied by [`Vectors::compact`], which moves the living to the end, a few rows per call.
//!
//! Segments grow from 16 rows to 1,024, but never beyond 2 MiB: a space of five memories stays small, and a large one is read
//! in long runs. Rejected: one growing array (a snapshot would have to copy it), and one allocation per vector (a scan would
//! chase pointers). The owners are apart from the block because they change when a memory goes and vectors never do.

use simsimd::SpatialSimilarity;
use std::cell::UnsafeCell;
use std::sync::Arc;

/// Floats in a cache line.
const LINE: usize = 16;
const MIN_ROWS: usize = 16;
const MAX_ROWS: usize = 1024;
const MAX_BYTES: usize = 2 << 20;
/// The owner of a row that belongs to nobody.
pub(crate) const DEAD: u32 = u32::MAX;

/// Where a vector is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowId {
    segment: u32,
    row: u32,
}

/// Where the vectors of one memory are, in the order of its windows.
#[derive(Debug, Clone, Default)]
pub(crate) enum Rows {
    #[default]
    None,
    One(RowId),
    Many(Arc<[RowId]>),
}

impl Rows {
    pub(crate) fn as_slice(&self) -> &[RowId] {
        match self {
            Rows::None => &[],
            Rows::One(row) => std::slice::from_ref(row),
            Rows::Many(rows) => rows,
        }
    }

    pub(crate) fn from_vec(rows: Vec<RowId>) -> Rows {
        match rows.as_slice() {
            [] => Rows::None,
            [row] => Rows::One(*row),
            _ => Rows::Many(rows.into()),
        }
    }
}

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([f32; LINE]);

/// The memory of one segment.
struct Block {
    lines: Box<[UnsafeCell<Line>]>,
    /// Floats from one row to the next: the dimension rounded up to whole lines.
    stride: usize,
}

// SAFETY: a block is shared between the space, the only writer, and snapshots that read. The writer writes a row only once,
// when it lies at or behind every length published so far (`Vectors::append` is the only caller of `write`, takes `&mut`, and
// `Vectors` of one space is never cloned into a second writer: `Snapshot` has no method that appends). Readers read only rows
// before the length of the `owners` that they hold, which was published after the rows were written and reached them through
// the synchronisation of handing the snapshot to their thread. So no byte is written while another thread may read it.
unsafe impl Sync for Block {}
// SAFETY: plain floats, owned.
unsafe impl Send for Block {}

impl Block {
    fn new(rows: usize, stride: usize) -> Block {
        let lines = rows * stride / LINE;
        Block { lines: (0..lines).map(|_| UnsafeCell::new(Line([0.0; LINE]))).collect(), stride }
    }

    fn rows(&self) -> usize {
        self.lines.len() * LINE / self.stride
    }

    fn bytes(&self) -> usize {
        self.lines.len() * size_of::<Line>()
    }

    /// Reads rows `from..to`, padding included. The rows must have been published.
    fn read(&self, from: usize, to: usize) -> &[f32] {
        let lines = self.lines.get(from * self.stride / LINE..to * self.stride / LINE).unwrap_or(&[]);
        // SAFETY: `UnsafeCell<Line>` has the layout of `Line`, which is `repr(C)` and exactly 16 floats (64 bytes, no padding),
        // so the slice covers `lines.len() * LINE` initialised floats. Published rows are never written again (see `Sync`
        // above), so a shared borrow is sound for as long as the block lives.
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast::<f32>(), lines.len() * LINE) }
    }

    /// Writes a row.
    ///
    /// # Safety
    /// The row must lie at or behind every length that has been published for this block, and the caller must be the only
    /// writer.
    unsafe fn write(&self, row: usize, vector: &[f32]) {
        let Some(lines) = self.lines.get(row * self.stride / LINE..(row + 1) * self.stride / LINE) else { return };
        for (line, floats) in lines.iter().zip(vector.chunks(LINE)) {
            let mut value = Line([0.0; LINE]);
            for (to, from) in value.0.iter_mut().zip(floats) {
                *to = *from;
            }
            // SAFETY: the pointer is valid and aligned, being that of a cell in `lines`; nobody reads or writes this row now,
            // as the caller promises.
            unsafe { *line.get() = value };
        }
    }
}

#[derive(Clone)]
struct Segment {
    block: Arc<Block>,
    /// The slot of each row, or [`DEAD`]. Its length is the published length of the segment.
    owners: Arc<Vec<u32>>,
    live: u32,
}

/// All segments of a space. Cloning is O(1) and freezes what is seen; only one clone may append (see [`Block`]).
#[derive(Clone, Default)]
pub(crate) struct Vectors {
    segments: Arc<Vec<Segment>>,
    /// 0 until the first vector fixes it.
    dim: usize,
}

/// What the owner of the space keeps about its vectors besides them.
#[derive(Default)]
pub(crate) struct VectorCounts {
    /// Rows that belong to a memory.
    pub live: usize,
    /// Rows that belong to nobody and still take room.
    pub dead: usize,
    /// Bytes of all blocks and owners.
    pub bytes: usize,
    /// The segment that is being filled.
    tail: Option<usize>,
    /// Places in the list of segments whose block was given back.
    free: Vec<u32>,
    /// Where the next compaction looks first.
    cursor: usize,
}

/// The dot product in the kernel that everything uses, so that equal vectors give equal bits everywhere. Both slices have one
/// length.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
    // The kernel refuses only slices of different lengths.
    <f32 as SpatialSimilarity>::dot(a, b).unwrap_or(f64::NAN)
}

/// A vector of length one in the same direction; None if it has no direction (all zeros) or a number that is not finite.
pub(crate) fn normalised(vector: &[f32]) -> Option<Vec<f32>> {
    // In f64: the squares of f32 neither overflow nor vanish there.
    let norm = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    (norm.is_finite() && norm > 0.0).then(|| vector.iter().map(|x| (f64::from(*x) / norm) as f32).collect())
}

/// Whether a vector from outside can stand in a segment: finite and of length one, within rounding.
pub(crate) fn is_normalised(vector: &[f32]) -> bool {
    let square = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>();
    (square - 1.0).abs() < 1e-3
}

/// How similar two memories are as wholes: the least cosine of a window with its counterpart. None if they have different numbers
/// of windows, or none: two long texts that share a paragraph are not the same text.
pub(crate) fn pair_similarity(a: &[&[f32]], b: &[impl AsRef<[f32]>]) -> Option<f64> {
    if a.is_empty() || a.len() != b.len() {
        return None;
    }
    a.iter().zip(b).map(|(a, b)| dot(a, b.as_ref())).reduce(f64::min)
}

impl Vectors {
    pub(crate) fn dim(&self) -> Option<usize> {
        (self.dim > 0).then_some(self.dim)
    }

    pub(crate) fn set_dim(&mut self, dim: usize) {
        self.dim = dim;
    }

    fn stride(&self) -> usize {
        self.dim.next_multiple_of(LINE)
    }

    /// Bytes of one row and its owner.
    pub(crate) fn row_bytes(&self) -> usize {
        if self.dim == 0 { 0 } else { self.stride() * size_of::<f32>() + size_of::<u32>() }
    }

    /// A query padded like a row, so that the kernel sees the same lengths on both sides.
    pub(crate) fn padded(&self, query: &[f32]) -> Vec<f32> {
        let mut padded = query.to_vec();
        padded.resize(self.stride(), 0.0);
        padded
    }

    /// A row with its padding.
    pub(crate) fn padded_row(&self, id: RowId) -> &[f32] {
        let row = id.row as usize;
        match self.segments.get(id.segment as usize) {
            Some(segment) if row < segment.owners.len() => segment.block.read(row, row + 1),
            _ => &[],
        }
    }

    /// A vector.
    pub(crate) fn row(&self, id: RowId) -> &[f32] {
        self.padded_row(id).get(..self.dim).unwrap_or(&[])
    }

    /// Calls `f` with the owner and the padded vector of every living row.
    pub(crate) fn for_each(&self, mut f: impl FnMut(u32, &[f32])) {
        for segment in self.segments.iter() {
            let rows = segment.block.read(0, segment.owners.len());
            for (&owner, row) in segment.owners.iter().zip(rows.chunks_exact(segment.block.stride)) {
                if owner != DEAD {
                    f(owner, row);
                }
            }
        }
    }

    /// Writes a vector behind the others. It has the space's dimension.
    pub(crate) fn append(&mut self, counts: &mut VectorCounts, owner: u32, vector: &[f32]) -> RowId {
        let stride = self.stride();
        let segments = Arc::make_mut(&mut self.segments);
        let open = counts
            .tail
            .filter(|&tail| segments.get(tail).is_some_and(|segment| segment.owners.len() < segment.block.rows()));
        let at = match open {
            Some(at) => at,
            None => {
                let max = (MAX_BYTES / (stride * size_of::<f32>())).clamp(1, MAX_ROWS);
                let rows = (counts.live + counts.dead).next_power_of_two().clamp(MIN_ROWS.min(max), max);
                let block = Arc::new(Block::new(rows, stride));
                counts.bytes += block.bytes() + rows * size_of::<u32>();
                let segment = Segment { block, owners: Arc::new(Vec::with_capacity(rows)), live: 0 };
                match counts.free.pop() {
                    Some(place) if (place as usize) < segments.len() => {
                        segments[place as usize] = segment;
                        place as usize
                    }
                    _ => {
                        segments.push(segment);
                        segments.len() - 1
                    }
                }
            }
        };
        counts.tail = Some(at);
        let segment = &mut segments[at];
        let row = segment.owners.len();
        // SAFETY: `row` is the length published last and no greater one was published before: `owners` only grows, and a block
        // has one chain of them, because only this `Vectors` appends. `&mut self` makes this the only writer.
        unsafe { segment.block.write(row, vector) };
        push_owner(&mut segment.owners, segment.block.rows(), owner);
        segment.live += 1;
        counts.live += 1;
        RowId { segment: at as u32, row: row as u32 }
    }

    /// Marks a row as nobody's.
    pub(crate) fn kill(&mut self, counts: &mut VectorCounts, id: RowId) {
        let place = id.segment as usize;
        let Some(segment) = Arc::make_mut(&mut self.segments).get_mut(place) else { return };
        if segment.owners.get(id.row as usize).is_none_or(|owner| *owner == DEAD) {
            return;
        }
        Arc::make_mut(&mut segment.owners)[id.row as usize] = DEAD;
        segment.live -= 1;
        counts.live -= 1;
        counts.dead += 1;
        if segment.live == 0 {
            counts.dead -= segment.owners.len();
            counts.bytes -= segment.block.bytes() + segment.block.rows() * size_of::<u32>();
            if counts.tail == Some(place) {
                counts.tail = None;
            }
            let stride = segment.block.stride;
            *segment = Segment { block: Arc::new(Block::new(0, stride)), owners: Arc::new(Vec::new()), live: 0 };
            counts.free.push(id.segment);
        }
    }

    /// Up to `budget` living rows of the next segment that is dead for a quarter or more, with their owners. None when no
    /// segment is. The caller moves each row: append, then kill.
    pub(crate) fn compactable(&self, counts: &mut VectorCounts, budget: usize) -> Option<Vec<(u32, RowId)>> {
        let n = self.segments.len();
        let wasteful = |&place: &usize| {
            let segment = &self.segments[place];
            let rows = segment.owners.len();
            let sealed = counts.tail != Some(place) || rows == segment.block.rows();
            sealed && rows > 0 && (rows - segment.live as usize) * 4 >= rows
        };
        let place = (0..n).map(|step| (counts.cursor + step) % n).find(wasteful)?;
        counts.cursor = place;
        if counts.tail == Some(place) {
            counts.tail = None;
        }
        let owners = self.segments[place].owners.iter().enumerate();
        let living = owners.filter(|(_, owner)| **owner != DEAD).take(budget);
        Some(living.map(|(row, owner)| (*owner, RowId { segment: place as u32, row: row as u32 })).collect())
    }

    /// The counts as the segments themselves say, to check the kept ones: living and dead rows, bytes.
    pub(crate) fn recount(&self) -> (usize, usize, usize) {
        self.segments.iter().fold((0, 0, 0), |(live, dead, bytes), segment| {
            let living = segment.owners.iter().filter(|owner| **owner != DEAD).count();
            assert_eq!(living, segment.live as usize);
            let size = segment.block.bytes() + segment.block.rows() * size_of::<u32>();
            (live + living, dead + segment.owners.len() - living, bytes + size)
        })
    }
}

/// Appends to shared owners: a copy, when one is needed, has room for the whole segment.
fn push_owner(owners: &mut Arc<Vec<u32>>, capacity: usize, owner: u32) {
    if Arc::get_mut(owners).is_none() {
        let mut copy = Vec::with_capacity(capacity);
        copy.extend_from_slice(owners);
        *owners = Arc::new(copy);
    }
    Arc::make_mut(owners).push(owner);
}
