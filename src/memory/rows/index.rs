//! Where to look first in a large space: rows in lists, each about a direction.
//!
//! An index is derived data over the segments that were full when it was built: directions (centroids), found by k-means
//! on a sample, and per direction the rows nearest to it with a copy of their signs, so that a search reads a few runs of memory instead of
//! all. It costs a space nothing while it changes: younger rows lie in segments that the index does not cover and are
//! looked at beside it, and of the rows it names, the owners in the segments say which still live. When too
//! much has changed, or enough of it and some time ago, another is built on another thread and takes its place: from the same directions until the space has doubled.
//!
//! It is never saved: after a load it is built again. Rejected: a graph (see the module's essay); an index that is updated in
//! place, which a snapshot would have to copy; rows grouped by list in the segments themselves, which makes every insert a write to
//! a random place, and compaction a rebuild.

use super::block::{Segment, positive};
use super::search::marked;
use super::vector::{Vector, codes};
use super::{DEAD, Query, RowCounts, RowId, Rows, Shape};
use crate::entry::block as allocated;
use crate::kernels::{self, BYTES, GROUP, Wide};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Rows from which on an index is worth its while.
const FROM: usize = 300_000;
/// How many lists there are, in square roots of the rows: more are costlier to choose from, fewer mix more that does not belong together.
const LISTS: usize = 4;
/// Sample rows per list, and rounds, of the training.
const SAMPLE: usize = 24;
const ROUNDS: usize = 6;
/// Directions that a row is compared with after their signs.
const LOOK: usize = 48;

/// One row in so many outside the index makes it worth another at once, and when the last one is some time ago: rows outside are all looked at.
const OUTSIDE: usize = 10;
const OUTSIDE_RESTED: usize = 64;

/// The lists of a large space.
pub(crate) struct Index {
    centroids: Centroids,
    /// Where each list starts among `rows`, in whole groups, and how many rows it has.
    lists: Vec<(u32, u32)>,
    pub(super) rows: Vec<RowId>,
    /// The owner of each row when the index was built: what a filter asks for, without a way to the segment of each. A row has no other owner ever; but it
    /// may have died, and its slot be another memory's.
    owners: Vec<u32>,
    /// The signs of the rows, in groups as in a block.
    pub(super) signs: Vec<u64>,
    words: usize,
    /// The serials of the segments that it covers, by place; 0 for the others.
    serials: Vec<u64>,
    len: usize,
    /// Rows that there were when the directions were found.
    pub(super) trained: usize,
}

/// Directions, as rows of bytes.
#[derive(Clone)]
struct Centroids {
    /// Code + 128, padded to whole lines.
    codes: Vec<u8>,
    stride: usize,
    /// One over the length of each.
    inverses: Vec<f32>,
    /// The signs, in groups as in a block.
    signs: Vec<u64>,
    words: usize,
}

impl Index {
    /// Rows that it names.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes as the allocator counts them.
    pub(super) fn bytes(&self) -> usize {
        let vectors = [
            self.centroids.codes.capacity(),
            self.centroids.inverses.capacity() * 4,
            self.centroids.signs.capacity() * 8,
            self.lists.capacity() * 8,
            self.rows.capacity() * 4,
            self.owners.capacity() * 4,
            self.signs.capacity() * 8,
            self.serials.capacity() * 8,
            size_of::<Index>() + 16,
        ];
        vectors.into_iter().map(allocated).sum()
    }

    /// Whether the segment at a place is the one that was there when the index was built.
    #[inline]
    pub(super) fn covers(&self, place: usize, segment: &Segment) -> bool {
        self.serials.get(place) == Some(&(segment.serial + 1))
    }

    /// The rows of a list, their owners and their signs.
    pub(super) fn list(&self, list: u32) -> (&[RowId], &[u32], &[u64]) {
        let Some((start, count)) = self.lists.get(list as usize) else { return (&[], &[], &[]) };
        let (start, count) = (*start as usize, *count as usize);
        let padded = count.next_multiple_of(GROUP);
        let rows = self.rows.get(start..start + count).unwrap_or(&[]);
        let owners = self.owners.get(start..start + count).unwrap_or(&[]);
        (rows, owners, self.signs.get(start * self.words..(start + padded) * self.words).unwrap_or(&[]))
    }

    /// How near the direction of each list is to the query.
    pub(super) fn order(&self, query: &Query) -> Vec<(f32, u32)> {
        let Centroids { codes, stride, inverses, .. } = &self.centroids;
        let mut order = Vec::with_capacity(inverses.len());
        for (codes, inverses) in codes.chunks(8 * stride).zip(inverses.chunks(8)) {
            let mut rows: [&[u8]; 8] = [&[]; 8];
            let mut dots = [0; 8];
            rows.iter_mut().zip(codes.chunks_exact(*stride)).for_each(|(row, codes)| *row = codes);
            kernels::wide_dots(&query.wide, &rows, &mut dots);
            for (dot, inverse) in dots.iter().zip(inverses) {
                order.push((*dot as f32 * inverse, order.len() as u32));
            }
        }
        order
    }

    /// Puts the `n` lists nearest to the query first, in no order among themselves.
    pub(super) fn nearest_first(order: &mut [(f32, u32)], n: usize) {
        if let Some(last) = n.checked_sub(1).filter(|last| *last < order.len()) {
            order.select_nth_unstable_by(last, |a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        }
    }

    /// How many lists there are.
    pub(super) fn lists(&self) -> usize {
        self.lists.len()
    }
}

impl Centroids {
    fn new(directions: &[Vec<i8>], shape: Shape) -> Centroids {
        let (stride, words) = (stride(shape.dim), shape.words);
        let mut codes = Vec::with_capacity(directions.len() * stride);
        let mut inverses = Vec::with_capacity(directions.len());
        let mut signs = vec![0; directions.len().next_multiple_of(GROUP) * words];
        for (n, direction) in directions.iter().enumerate() {
            let end = codes.len() + stride;
            codes.extend(direction.iter().map(|code| *code as u8 ^ 128));
            codes.resize(end, 128);
            let square: i32 = direction.iter().map(|code| i32::from(*code) * i32::from(*code)).sum();
            inverses.push(if square > 0 { (1.0 / f64::from(square).sqrt()) as f32 } else { 0.0 });
            for (word, codes) in direction.chunks(64).enumerate() {
                if let Some(to) = signs.get_mut(shape.sign_at(n, word)) {
                    *to = positive(codes.iter().map(|code| *code >= 0));
                }
            }
        }
        Centroids { codes, stride, inverses, signs, words }
    }

    fn len(&self) -> usize {
        self.inverses.len()
    }
}

/// Finds the nearest direction of many rows: by signs the nearest [`LOOK`], of these the nearest by all that there is. With thousands of
/// directions this is several times faster than comparing all of them, and the direction is hardly ever another.
struct Assigner<'a> {
    centroids: &'a Centroids,
    distances: Vec<u16>,
    masks: Vec<u32>,
    counts: Vec<u32>,
    near: Vec<u32>,
    wide: Wide,
}

impl<'a> Assigner<'a> {
    fn new(centroids: &'a Centroids) -> Assigner<'a> {
        let distances = vec![0; centroids.len().next_multiple_of(GROUP)];
        let (masks, counts) = (vec![0; centroids.len().div_ceil(32)], vec![0; centroids.words * 64 + 1]);
        Assigner { centroids, distances, masks, counts, near: Vec::new(), wide: Wide::default() }
    }

    /// The list that a row of bytes belongs to.
    fn list(&mut self, row: &[u8]) -> u32 {
        let Centroids { codes, stride, inverses, signs, words } = self.centroids;
        self.wide.set_row(row);
        let row_signs: Vec<u64> =
            row.chunks(64).take(*words).map(|codes| positive(codes.iter().map(|code| *code >= 128))).collect();
        kernels::hamming(&row_signs, signs, &mut self.distances);
        // Those within the distance that LOOK of them are within.
        self.counts.fill(0);
        let distances = self.distances.get(..inverses.len()).unwrap_or(&[]);
        for distance in distances {
            if let Some(count) = self.counts.get_mut(*distance as usize) {
                *count += 1;
            }
        }
        let mut sum = 0;
        let limit = self.counts.iter().position(|count| {
            sum += *count as usize;
            sum >= LOOK
        });
        kernels::at_most(distances, limit.map_or(u16::MAX, |limit| limit as u16), &mut self.masks);
        self.near.clear();
        self.near.extend(marked(&self.masks, distances).map(|(at, _)| at as u32));
        let mut best = (f32::NEG_INFINITY, 0);
        for some in self.near.chunks(8) {
            let mut rows: [&[u8]; 8] = [&[]; 8];
            for (row, at) in rows.iter_mut().zip(some) {
                let at = *at as usize;
                *row = codes.get(at * stride..(at + 1) * stride).unwrap_or(&[]);
            }
            let mut dots = [0; 8];
            kernels::wide_dots(&self.wide, rows.get(..some.len()).unwrap_or(&[]), &mut dots);
            for (at, dot) in some.iter().zip(dots) {
                let score = dot as f32 * inverses.get(*at as usize).unwrap_or(&0.0);
                if score > best.0 {
                    best = (score, *at);
                }
            }
        }
        best.1
    }
}

/// Rows of a segment as bytes, padded, one after the other.
#[derive(Default)]
struct Codes(Vec<u8>);

impl Codes {
    fn push(&mut self, rows: &Rows, id: RowId) {
        let end = self.0.len() + stride(rows.dim());
        match rows.vector(id) {
            Some(Vector::I8(codes)) => self.0.extend(codes.iter().map(|code| *code as u8 ^ 128)),
            Some(vector) => self.0.extend(codes(&vector.to_f32()).iter().map(|code| *code as u8 ^ 128)),
            None => (),
        }
        self.0.resize(end, 128);
    }
}

fn stride(dim: usize) -> usize {
    dim.next_multiple_of(BYTES)
}

impl Rows {
    /// Whether there should be an index, or a newer one: at once if a tenth of the rows are outside the one that there is, if it is `rested` for
    /// far fewer.
    pub(crate) fn wants_index(&self, rested: bool) -> bool {
        self.len() >= FROM && self.is_stale(if rested { OUTSIDE_RESTED } else { OUTSIDE })
    }

    /// Whether more than one in so many rows are outside the index, or a quarter of what it names is gone.
    pub(super) fn is_stale(&self, outside: usize) -> bool {
        let Some(index) = &self.index else { return true };
        let full = self.segments().filter(|(_, segment)| segment.is_full());
        let (covered, others) = full.fold((0, 0), |(covered, others), (place, segment)| {
            let live = segment.live as usize;
            if index.covers(place, segment) { (covered + live, others) } else { (covered, others + live) }
        });
        others > self.len() / outside || covered < index.len / 4 * 3
    }

    /// Builds an index of the segments that are full. None when `stop` was set, or there is nothing to build it of.
    /// For a thread of its own, on a clone: it takes seconds. The same rows give the same index.
    pub(crate) fn build_index(&self, stop: &AtomicBool) -> Option<Index> {
        let segments: Vec<(usize, &Segment)> = self.segments().filter(|(_, segment)| segment.is_full()).collect();
        let total: usize = segments.iter().map(|(_, segment)| segment.live as usize).sum();
        let known = self.index.as_deref().filter(|index| total < 2 * index.trained && total > index.trained / 2);
        let (centroids, trained) = match known {
            Some(index) => (index.centroids.clone(), index.trained),
            None => (self.train(&segments, total, stop)?, total),
        };
        // Which list each row belongs to, by place and row: known from the old index, if it has these directions, else found.
        let mut lists: Vec<Vec<u32>> = vec![Vec::new(); self.segments.len()];
        let mut serials = vec![0; self.segments.len()];
        for (place, segment) in &segments {
            if let (Some(lists), Some(serial)) = (lists.get_mut(*place), serials.get_mut(*place)) {
                lists.resize(segment.owners.len(), NO_LIST);
                *serial = segment.serial + 1;
            }
        }
        if let Some(index) = known {
            for list in 0..index.lists.len() as u32 {
                for row in index.list(list).0 {
                    if let Some(to) = lists.get_mut(row.place()).and_then(|lists| lists.get_mut(row.row()))
                        && self.segment(row.place()).is_some_and(|segment| index.covers(row.place(), segment))
                    {
                        *to = list;
                    }
                }
            }
        }
        let mut assigner = Assigner::new(&centroids);
        let mut codes = Codes::default();
        for (place, segment) in &segments {
            let Some(lists) = lists.get_mut(*place) else { continue };
            for from in (0..lists.len()).step_by(SLICE) {
                if stop.load(Ordering::Relaxed) {
                    return None;
                }
                let Some(lists) = lists.get_mut(from..(from + SLICE).min(segment.owners.len())) else { continue };
                for (row, list) in lists.iter_mut().enumerate() {
                    if *list == NO_LIST && segment.owner(from + row).is_some() {
                        codes.0.clear();
                        codes.push(self, RowId::new(*place, from + row));
                        *list = assigner.list(&codes.0);
                    }
                }
            }
        }
        drop(assigner);
        self.gather(centroids, trained, &segments, &lists, serials, stop)
    }

    /// Lays the rows of each list beside each other.
    fn gather(
        &self,
        centroids: Centroids,
        trained: usize,
        segments: &[(usize, &Segment)],
        lists: &[Vec<u32>],
        serials: Vec<u64>,
        stop: &AtomicBool,
    ) -> Option<Index> {
        let words = self.shape.words;
        let mut counts = vec![0u32; centroids.len()];
        let living = || {
            segments.iter().flat_map(|(place, segment)| {
                let lists = lists.get(*place).map_or(&[][..], Vec::as_slice).iter().enumerate();
                lists.filter(|(row, _)| segment.owner(*row).is_some()).map(|(row, list)| (*place, *segment, row, *list))
            })
        };
        let mut len = 0;
        for (_, _, _, list) in living() {
            if let Some(count) = counts.get_mut(list as usize) {
                *count += 1;
                len += 1;
            }
        }
        let mut total = 0;
        let places: Vec<(u32, u32)> = counts
            .iter()
            .map(|count| {
                let start = total;
                total += count.next_multiple_of(GROUP as u32);
                (start, *count)
            })
            .collect();
        let mut rows = vec![RowId(0); total as usize];
        let mut owners = vec![DEAD; total as usize];
        let mut signs = vec![0u64; total as usize * words];
        ask_for_large_pages(&signs);
        let mut next: Vec<u32> = places.iter().map(|(start, _)| *start).collect();
        for (place, segment, row, list) in living() {
            if row % SLICE == 0 && stop.load(Ordering::Relaxed) {
                return None;
            }
            let Some(next) = next.get_mut(list as usize) else { continue };
            let at = *next as usize;
            *next += 1;
            if let (Some(to), Some(owner)) = (rows.get_mut(at), owners.get_mut(at)) {
                *to = RowId::new(place, row);
                *owner = segment.owner(row).unwrap_or(DEAD);
            }
            for (word, value) in segment.block.row_signs(row).enumerate() {
                if let Some(to) = signs.get_mut(self.shape.sign_at(at, word)) {
                    *to = value;
                }
            }
        }
        Some(Index { centroids, lists: places, rows, owners, signs, words, serials, len, trained })
    }

    /// Finds directions: k-means of a sample, [`LISTS`] times the square root of the rows.
    fn train(&self, segments: &[(usize, &Segment)], total: usize, stop: &AtomicBool) -> Option<Centroids> {
        let wanted = LISTS * (total as f64).sqrt() as usize;
        let every = (total / (wanted * SAMPLE).max(1)).max(1);
        let living = segments.iter().flat_map(|(place, segment)| {
            (0..segment.owners.len()).filter(|row| segment.owner(*row).is_some()).map(|row| RowId::new(*place, row))
        });
        let mut sample = Codes::default();
        for row in living.step_by(every) {
            sample.push(self, row);
        }
        let (dim, stride) = (self.dim(), stride(self.dim()));
        let rows: Vec<&[u8]> = sample.0.chunks_exact(stride).collect();
        let signed = |row: &[u8]| -> Vec<i8> { row.iter().take(dim).map(|code| (code ^ 128) as i8).collect() };
        let apart = (rows.len() / wanted.max(1)).max(1);
        let mut directions: Vec<Vec<i8>> = rows.iter().step_by(apart).take(wanted).map(|row| signed(row)).collect();
        if directions.is_empty() {
            return None;
        }
        for round in 0..ROUNDS {
            let centroids = Centroids::new(&directions, self.shape);
            let mut assigner = Assigner::new(&centroids);
            let mut sums = vec![0.0f32; directions.len() * dim];
            for rows in rows.chunks(SLICE) {
                if stop.load(Ordering::Relaxed) {
                    return None;
                }
                for row in rows {
                    // Rows differ little in length, so the mean of the codes points where the mean of the rows does.
                    let at = assigner.list(row) as usize * dim;
                    for (sum, code) in sums.get_mut(at..at + dim).unwrap_or(&mut []).iter_mut().zip(*row) {
                        *sum += f32::from(*code) - 128.0;
                    }
                }
            }
            for (n, (direction, sums)) in directions.iter_mut().zip(sums.chunks_exact(dim)).enumerate() {
                *direction = codes(sums);
                if direction.iter().all(|code| *code == 0)
                    && let Some(row) = rows.get((n * apart + round + 1) % rows.len())
                {
                    // Nobody's: another row of the sample takes its place.
                    *direction = signed(row);
                }
            }
        }
        Some(Centroids::new(&directions, self.shape))
    }

    /// Searches with another index from now on, or with none; gives the one that there was.
    pub(crate) fn set_index(&mut self, counts: &mut RowCounts, index: Option<Arc<Index>>) -> Option<Arc<Index>> {
        counts.bytes -= self.index.as_ref().map_or(0, |index| index.bytes());
        counts.bytes += index.as_ref().map_or(0, |index| index.bytes());
        std::mem::replace(&mut self.index, index)
    }
}

/// The list of a row that is in none.
const NO_LIST: u32 = u32::MAX;
/// Rows between two looks at `stop`.
const SLICE: usize = 128;
/// Asks the system for large pages under memory that is written once and then only read: a search reads some megabytes of it here and there, and with small
/// pages waits for their addresses longer than for them. What a fork child shares stays shared, since nothing is written again.
fn ask_for_large_pages(memory: &[u64]) {
    #[cfg(target_os = "linux")]
    {
        const LARGE: usize = 2 << 20;
        let (start, end) = (memory.as_ptr().addr().next_multiple_of(LARGE), memory.as_ptr_range().end.addr());
        let inside = end.saturating_sub(start) / LARGE * LARGE;
        if inside > 0 {
            let at = memory.as_ptr().with_addr(start).cast_mut().cast();
            // SAFETY: whole pages within one allocation that is borrowed here; the advice changes nothing that a program can see, and a refusal is harmless.
            unsafe { libc::madvise(at, inside, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}
