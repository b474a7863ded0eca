//! The nearest rows to a query.
//!
//! Signs first: the rows whose signs differ least from the query's are its candidates, and one bit of each dimension is
//! enough to find them among many, not to rank them. So candidates are scored with all that the space keeps of them, in the order
//! of their distance, a batch at a time; and from what is scored so far, the scan works out how many of the rest can be
//! expected to belong to the answer ([`Fit`]): scores fall with distance along a line, with a scatter about it. It stops
//! when that number is a small part of what was asked for. Vectors of one topic need a few hundred scores, a search for a duplicate
//! one batch, and vectors without any neighbours (random ones) as many as it takes, up to an exact scan: the quality is what is held, not the
//! work. Rejected: a fixed number of candidates, which is too many for most queries and too few for hard ones.
//!
//! Candidates are always taken up to a whole distance, so that which they are does not depend on the order of the rows.
//!
//! The distances of a query are measured once and kept while it takes more candidates. Several queries, the windows of a long one, share a pass over the
//! memory instead: each segment is compared with all of them while it is in the cache.

use super::best::Best;
use super::block::{Block, Segment};
use super::{DEAD, Index, Precision, Query, RowId, Rows};
use crate::MemoryId;
use crate::bitmap::Bitmap;
use crate::kernels::{self, GROUP};
use std::cell::Cell;

/// What is searched for.
pub(crate) struct Search<'a> {
    /// Windows of one query: an owner scores as the best pair of a window of the query and a row of its own.
    pub(crate) queries: &'a [Query],
    /// How many owners are wanted.
    pub(crate) limit: usize,
    pub(crate) among: Among<'a>,
    /// The least score that counts.
    pub(crate) floor: Option<f64>,
    pub(crate) effort: Effort,
    /// The id of the memory in a slot. Ties are broken by it.
    pub(crate) id_of: &'a dyn Fn(u32) -> MemoryId,
}

/// Which rows are searched.
#[derive(Clone, Copy)]
pub(crate) enum Among<'a> {
    All,
    /// The rows of these owners.
    Admitted(&'a Bitmap),
    /// These rows, exactly: the few that a selective filter left.
    Rows(&'a [RowId]),
}

/// How hard to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Every row is scored.
    Exact,
    /// As many as it takes for nearly all of the best.
    Auto,
}

/// How the answer was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    /// Every row was scored.
    Exact,
    /// Signs of all rows, scores of the nearest.
    OneBit,
    /// Signs of the rows that an index pointed to, scores of the nearest.
    Index,
    /// The listed rows were scored.
    Listed,
}

impl Path {
    /// The name that EXPLAIN gives it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Path::Exact => "exact",
            Path::OneBit => "one-bit",
            Path::Index => "index",
            Path::Listed => "listed",
        }
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Found {
    /// Scores and owners, each owner once, best first, ties by smaller id.
    pub(crate) hits: Vec<(f64, u32)>,
    pub(crate) path: Path,
    /// Rows whose signs or numbers were compared with a query.
    pub(crate) compared: usize,
    /// Rows whose numbers were compared after their signs.
    pub(crate) rescored: usize,
}

/// So few rows are scored one and all.
const FEW_ROWS: usize = 1536;
/// So short rows are: signs say little about them, and reading them costs hardly more.
const SHORT: usize = 128;
/// Candidates that a scan of the signs collects at first, and at most.
const CANDIDATES: usize = 512;
const MOST: usize = 8192;
/// So many rows are scanned exactly when a large part of them might matter. Of more, the answer is the best that was found.
const EXACTLY: usize = 1 << 17;
/// The least scatter of scores about a line, for vectors of one dimension; it falls with the square root of the dimensions.
const SCATTER: f64 = 0.4;
/// How many missing owners to expect, as a part of the number wanted, when no more candidates are scored.
const MISSING: f64 = 0.004;
/// Queries that share a pass.
const TOGETHER: usize = 8;
/// Rows that a kernel is given at a time.
const STEP: usize = 8;
/// Rows that an exact scan compares with one query before it turns to the next: they stay in the cache.
const RUN: usize = 256;
/// The part of the lists of an index that is read first, and the least number of them.
const PROBE: usize = 12;
const MIN_LISTS: usize = 8;

/// A row that may belong to the answer.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    row: RowId,
    owner: u32,
    distance: u16,
}

/// The candidates of one query.
#[derive(Default)]
struct Candidates {
    rows: Vec<Candidate>,
    /// The farthest distance that is still collected.
    limit: u16,
    /// The distances below this have been scored before.
    from: u16,
    /// How many to collect, up to a whole distance.
    wanted: usize,
    /// Whether there is a row that was left out for its distance.
    cut: bool,
    /// How many rows make it worth to look for a nearer limit.
    full: usize,
    /// How many there are of each distance.
    counts: Vec<u32>,
}

impl Candidates {
    fn start(&mut self, words: usize, from: u16, wanted: usize, limit: u16) {
        self.rows.clear();
        self.counts.clear();
        self.counts.resize(words * 64 + 1, 0);
        *self = Candidates {
            rows: std::mem::take(&mut self.rows),
            counts: std::mem::take(&mut self.counts),
            limit,
            from,
            wanted,
            cut: limit < u16::MAX,
            full: 2 * wanted,
        };
    }

    #[inline]
    fn push(&mut self, candidate: Candidate) {
        if candidate.distance >= self.from && candidate.distance <= self.limit {
            self.rows.push(candidate);
            if self.rows.len() >= self.full {
                self.shrink();
                self.full = 2 * self.wanted.max(self.rows.len());
            }
        }
    }

    /// Drops what is farther than the nearest `wanted` and their equals.
    fn shrink(&mut self) {
        self.counts.fill(0);
        for candidate in &self.rows {
            if let Some(count) = self.counts.get_mut(candidate.distance as usize) {
                *count += 1;
            }
        }
        let mut sum = 0;
        let enough = self.counts.iter().position(|count| {
            sum += *count as usize;
            sum >= self.wanted
        });
        if let Some(limit) = enough {
            self.limit = limit as u16;
            if sum < self.rows.len() {
                self.cut = true;
                self.rows.retain(|candidate| candidate.distance <= limit as u16);
            }
        }
    }

    /// Drops all but the nearest, and puts them in the order of their distance.
    fn finish(&mut self, sorted: &mut Vec<Candidate>) {
        self.shrink();
        let mut at = 0;
        let mut next: Vec<u32> = Vec::with_capacity(self.counts.len());
        next.extend(self.counts.iter().map(|count| {
            let from = at;
            at += count;
            from
        }));
        sorted.clear();
        sorted.resize(self.rows.len(), Candidate { row: RowId(0), owner: 0, distance: 0 });
        for candidate in &self.rows {
            if let Some(next) = next.get_mut(candidate.distance as usize) {
                if let Some(to) = sorted.get_mut(*next as usize) {
                    *to = *candidate;
                }
                *next += 1;
            }
        }
        std::mem::swap(&mut self.rows, sorted);
    }
}

/// Buffers of a thread that searches.
#[derive(Default)]
struct Scratch {
    distances: Vec<u16>,
    masks: Vec<u32>,
    candidates: Vec<Candidates>,
    sorted: Vec<Candidate>,
    counts: Vec<u32>,
    /// Distances of the rows that an index pointed to, and whose they are up to which place.
    measured: Vec<u16>,
    spans: Vec<(Span, usize)>,
}

thread_local! {
    static SCRATCH: Cell<Scratch> = Cell::default();
}

impl Rows {
    /// Searches. May run on several threads at once.
    pub(crate) fn search(&self, search: &Search<'_>) -> Found {
        let mut scan = Scan {
            rows: self,
            among: search.among,
            best: Best::new(search.limit, search.floor, search.id_of),
            limit: search.limit,
            population: self.len(),
            scratch: SCRATCH.take(),
            compared: 0,
            rescored: 0,
        };
        let path = if search.limit == 0 || search.queries.is_empty() { Path::Exact } else { scan.run(search) };
        let Scan { best, scratch, compared, rescored, .. } = scan;
        SCRATCH.set(scratch);
        Found { hits: best.finish(), path, compared, rescored }
    }

    /// How alike a query and a row are: the cosine as far as the row's precision goes, the same wherever and beside whatever it
    /// lies. 0 if there is no such row.
    pub(crate) fn score(&self, query: &Query, id: RowId) -> f64 {
        let mut score = 0.0;
        self.scores(query, &[Candidate { row: id, owner: 0, distance: 0 }], |_, s| score = s);
        score
    }

    /// Gives the score of every pair of a query and one of these rows, with the number that stands beside the row.
    pub(crate) fn each_score(&self, queries: &[Query], rows: &[(RowId, u32)], mut take: impl FnMut(u32, f64)) {
        let rows: Vec<Candidate> =
            rows.iter().map(|(row, owner)| Candidate { row: *row, owner: *owner, distance: 0 }).collect();
        for query in queries {
            self.scores(query, &rows, |candidate, score| take(candidate.owner, score));
        }
    }

    /// The scores of rows anywhere, in their order.
    fn scores(&self, query: &Query, rows: &[Candidate], mut take: impl FnMut(&Candidate, f64)) {
        let block = |candidate: &Candidate| Some(&*self.segment(candidate.row.place())?.block);
        let mut kinds = Precision::KEPT.into_iter().filter(|precision| self.live[*precision as usize] > 0);
        let (first, second) = (kinds.next().unwrap_or(self.shape.precision), kinds.next());
        if second.is_none() {
            return dots(first, query, rows, block, take);
        }
        // Rows of each precision by themselves, so many at a time, and then all in their order.
        let mut some: Vec<Candidate> = Vec::with_capacity(RUN);
        let mut places: Vec<usize> = Vec::with_capacity(RUN);
        for run in rows.chunks(RUN) {
            let mut scores = [0.0; RUN];
            for precision in Precision::KEPT.into_iter().filter(|precision| self.live[*precision as usize] > 0) {
                some.clear();
                places.clear();
                for (at, candidate) in run.iter().enumerate() {
                    if self.precision_of(candidate.row) == precision {
                        some.push(*candidate);
                        places.push(at);
                    }
                }
                let mut places = places.iter();
                dots(precision, query, &some, block, |_, score| {
                    if let Some(to) = places.next().and_then(|at| scores.get_mut(*at)) {
                        *to = score;
                    }
                });
            }
            run.iter().zip(scores).for_each(|(candidate, score)| take(candidate, score));
        }
    }
}

/// The scores of rows, in their order.
fn dots<'a>(
    precision: Precision,
    query: &Query,
    rows: &[Candidate],
    block: impl Fn(&Candidate) -> Option<&'a Block>,
    take: impl FnMut(&Candidate, f64),
) {
    match precision {
        Precision::I8 => {
            let kernel = |rows: &[&[u8]], out: &mut [i32]| kernels::wide_dots(&query.wide, rows, out);
            by_eight(rows, block, Block::codes, kernel, query.wide.inverse(), take);
        }
        Precision::F16 => {
            let kernel = |rows: &[&[u16]], out: &mut [f32]| kernels::half_dots(&query.floats, rows, out);
            by_eight(rows, block, Block::halves, kernel, 1.0, take);
        }
        Precision::F32 => {
            let kernel = |rows: &[&[f32]], out: &mut [f32]| kernels::float_dots(&query.floats, rows, out);
            by_eight(rows, block, Block::floats, kernel, 1.0, take);
        }
        Precision::I4 => plane_scores(query, rows, block, take),
    }
}

/// The same for rows of half-bytes, whose planes are brought together first: their signs lie apart.
fn plane_scores<'a>(
    query: &Query,
    rows: &[Candidate],
    block: impl Fn(&Candidate) -> Option<&'a Block>,
    mut take: impl FnMut(&Candidate, f64),
) {
    let mut planes = Vec::with_capacity(STEP * kernels::PLANES * query.signs.len());
    let ask = |rows: &[Candidate]| {
        for candidate in rows {
            if let Some(block) = block(candidate) {
                kernels::prefetch(block.lower_planes(candidate.row.row()));
                kernels::prefetch(block.inverse(candidate.row.row()));
            }
        }
    };
    let mut next = rows.chunks(STEP).skip(1);
    ask(rows.get(..STEP.min(rows.len())).unwrap_or(&[]));
    for rows in rows.chunks(STEP) {
        ask(next.next().unwrap_or(&[]));
        planes.clear();
        let (mut scales, mut dots) = ([0.0f64; STEP], [0; STEP]);
        for (n, (candidate, scale)) in rows.iter().zip(&mut scales).enumerate() {
            if let Some(block) = block(candidate) {
                block.append_planes(candidate.row.row(), &mut planes);
                let inverse = block.inverse(candidate.row.row()).first().copied().unwrap_or(0.0);
                *scale = query.wide.inverse() * f64::from(inverse);
            }
            planes.resize((n + 1) * kernels::PLANES * query.signs.len(), 0);
        }
        if let Some(dots) = dots.get_mut(..rows.len()) {
            kernels::plane_dots(&query.wide, &planes, dots);
        }
        for ((candidate, dot), scale) in rows.iter().zip(dots).zip(scales) {
            take(candidate, (f64::from(dot) * scale).clamp(-1.0, 1.0) + 0.0);
        }
    }
}

/// Calls a kernel with the numbers of eight rows at a time, asking for the next eight before: faster also for rows that lie
/// side by side, because the processor's own guesses end with every page.
#[inline(always)]
fn by_eight<'a, T: 'a, D: Copy + Default + Into<f64>>(
    rows: &[Candidate],
    block: impl Fn(&Candidate) -> Option<&'a Block>,
    numbers: impl Fn(&'a Block, usize) -> &'a [T],
    kernel: impl Fn(&[&[T]], &mut [D]),
    scale: f64,
    mut take: impl FnMut(&Candidate, f64),
) {
    let ask = |rows: &[Candidate]| {
        for candidate in rows {
            if let Some(block) = block(candidate) {
                kernels::prefetch(numbers(block, candidate.row.row()));
                kernels::prefetch(block.inverse(candidate.row.row()));
            }
        }
    };
    let mut next = rows.chunks(STEP).skip(1);
    ask(rows.get(..STEP.min(rows.len())).unwrap_or(&[]));
    for rows in rows.chunks(STEP) {
        ask(next.next().unwrap_or(&[]));
        let mut data: [&[T]; STEP] = [&[]; STEP];
        let mut scales = [0.0f64; STEP];
        let mut dots = [D::default(); STEP];
        for ((candidate, data), to) in rows.iter().zip(&mut data).zip(&mut scales) {
            if let Some(block) = block(candidate) {
                *data = numbers(block, candidate.row.row());
                *to = block.inverse(candidate.row.row()).first().map_or(0.0, |inverse| scale * f64::from(*inverse));
            }
        }
        if let (Some(data), Some(dots)) = (data.get(..rows.len()), dots.get_mut(..rows.len())) {
            kernel(data, dots);
        }
        for ((candidate, dot), scale) in rows.iter().zip(dots).zip(scales) {
            let dot: f64 = dot.into();
            // Adding 0 makes -0 a 0, so that equal scores are equal bits.
            take(candidate, (dot * scale).clamp(-1.0, 1.0) + 0.0);
        }
    }
}

struct Scan<'a> {
    rows: &'a Rows,
    among: Among<'a>,
    best: Best<'a>,
    limit: usize,
    /// Rows that may be found.
    population: usize,
    scratch: Scratch,
    compared: usize,
    rescored: usize,
}

/// Where the distances of a scan come from.
#[derive(Clone, Copy)]
enum Source<'a> {
    /// All segments, each compared with all queries while it is in the cache.
    Segments,
    /// What was [measured](Scan::measure) before: of an index, or of all segments.
    Measured(Option<&'a Index>),
}

/// Rows one after the other whose distances have been measured.
#[derive(Clone, Copy)]
enum Span {
    /// A list of the index.
    List(u32),
    /// The segment at a place, which the index does not cover.
    Segment(usize),
}

impl<'a> Scan<'a> {
    fn run(&mut self, search: &Search<'a>) -> Path {
        let rows = self.rows.len();
        if let Among::Rows(listed) = self.among {
            self.listed(search.queries, listed);
            return Path::Listed;
        }
        let few = FEW_ROWS.max(32 * search.limit);
        if let Among::Admitted(bitmap) = self.among
            && rows > few
        {
            self.population = bitmap.count().min(rows);
        }
        let short = self.rows.dim() < SHORT;
        if search.effort == Effort::Exact || rows <= few || short || self.population <= few.max(rows / 64) {
            self.exact(search.queries.iter());
            return Path::Exact;
        }
        if let Some(index) = &self.rows.index {
            search.queries.iter().for_each(|query| self.indexed(index, query));
            return Path::Index;
        }
        let groups = search.queries.chunks(TOGETHER);
        let exact = groups.map(|queries| self.one_bit(queries)).fold(false, |any, exact| any | exact);
        if exact { Path::Exact } else { Path::OneBit }
    }

    fn admits(among: Among<'_>, owner: u32) -> bool {
        match among {
            Among::Admitted(bitmap) => bitmap.contains(owner),
            Among::All | Among::Rows(_) => true,
        }
    }

    fn listed(&mut self, queries: &[Query], listed: &[RowId]) {
        let owned = |row: &RowId| Some(Candidate { row: *row, owner: self.rows.owner(*row)?, distance: 0 });
        let rows: Vec<Candidate> = listed.iter().filter_map(owned).collect();
        for run in rows.chunks(RUN) {
            for query in queries {
                self.rows.scores(query, run, |candidate, score| self.best.push(score, candidate.owner));
            }
        }
        self.compared += rows.len();
    }

    fn exact<'q>(&mut self, queries: impl Iterator<Item = &'q Query> + Clone) {
        let mut rows = std::mem::take(&mut self.scratch.sorted);
        let all = self.rows;
        for (place, segment) in all.segments() {
            rows.clear();
            let owners = segment.owners.iter().enumerate();
            rows.extend(
                owners
                    .filter(|(_, owner)| **owner != DEAD && Self::admits(self.among, **owner))
                    .map(|(row, owner)| Candidate { row: RowId::new(place, row), owner: *owner, distance: 0 }),
            );
            for run in rows.chunks(RUN) {
                for query in queries.clone() {
                    let take = |candidate: &Candidate, score| self.best.push(score, candidate.owner);
                    dots(segment.block.shape().precision, query, run, |_| Some(&*segment.block), take);
                }
            }
            self.compared += rows.len();
        }
        self.scratch.sorted = rows;
    }

    /// Whether it came to an exact scan.
    fn one_bit(&mut self, queries: &[Query]) -> bool {
        let mut pending: Vec<Pending<'_>> = queries.iter().map(Pending::new).collect();
        let (mut wanted, most) = self.wanted();
        let source = match queries {
            [query] => {
                self.measure(query, None, &[], true);
                Source::Measured(None)
            }
            _ => Source::Segments,
        };
        loop {
            pending = self.nearest(&pending, wanted, source);
            let Some(needed) = pending.iter().map(|pending| pending.wanted).max() else { return false };
            // Rows here and there cost some times what they cost one after the other.
            if needed > self.rows.len() / 8 && self.rows.len() <= EXACTLY {
                self.exact(pending.iter().map(|pending| pending.query));
                return true;
            }
            if wanted >= most {
                return false;
            }
            wanted = needed.min(most).max(2 * wanted);
        }
    }

    /// How many candidates to collect at first, and at most.
    fn wanted(&self) -> (usize, usize) {
        (CANDIDATES.max(8 * self.limit), MOST.max(16 * self.limit))
    }

    /// Scores the nearest rows of a source to each query, from a distance of its own on; gives the queries for which more than `wanted`
    /// may be needed.
    fn nearest<'q>(&mut self, queries: &[Pending<'q>], wanted: usize, source: Source<'_>) -> Vec<Pending<'q>> {
        let mut all = std::mem::take(&mut self.scratch.candidates);
        all.resize_with(all.len().max(queries.len()), Candidates::default);
        let words = self.rows.shape.words;
        match source {
            Source::Segments => {
                for (candidates, Pending { query, from, .. }) in all.iter_mut().zip(queries) {
                    let limit = self.guess(query, *from, wanted);
                    candidates.start(words, *from, wanted, limit);
                }
                for (place, segment) in self.rows.segments() {
                    for (candidates, pending) in all.iter_mut().zip(queries) {
                        self.segment(pending.query, place, segment, candidates);
                    }
                }
                for (candidates, Pending { query, from, .. }) in all.iter_mut().zip(queries) {
                    if candidates.cut && candidates.rows.len() < wanted {
                        // A bad guess.
                        candidates.start(words, *from, wanted, u16::MAX);
                        for (place, segment) in self.rows.segments() {
                            self.segment(query, place, segment, candidates);
                        }
                    }
                }
            }
            Source::Measured(index) => {
                for (candidates, Pending { from, .. }) in all.iter_mut().zip(queries) {
                    let limit = self.guess_measured(index, *from, wanted);
                    candidates.start(words, *from, wanted, limit);
                    self.collect(index, candidates);
                    if candidates.cut && candidates.rows.len() < wanted {
                        // A bad guess.
                        candidates.start(words, *from, wanted, u16::MAX);
                        self.collect(index, candidates);
                    }
                }
            }
        }
        let population = match source {
            Source::Segments | Source::Measured(None) => self.population,
            Source::Measured(Some(_)) => self.scratch.measured.len() * self.population / self.rows.len().max(1),
        };
        let mut unfinished = Vec::new();
        let mut sorted = std::mem::take(&mut self.scratch.sorted);
        for (candidates, pending) in all.iter_mut().zip(queries) {
            candidates.finish(&mut sorted);
            if let Some(wanted) = self.rescore(pending.query, candidates, population, source) {
                unfinished.push(Pending { query: pending.query, from: candidates.limit + 1, wanted });
            }
        }
        self.scratch.sorted = sorted;
        self.scratch.candidates = all;
        unfinished
    }

    /// A distance that some more than `wanted` rows are within, as the first rows of each segment have it: collecting
    /// with a limit from the start is several times cheaper than finding it on the way.
    fn guess(&mut self, query: &Query, from: u16, wanted: usize) -> u16 {
        let part = if self.rows.len() > 1 << 16 { 16 } else { 4 };
        let Scratch { distances, counts, .. } = &mut self.scratch;
        counts.clear();
        counts.resize(self.rows.shape.words * 64 + 1, 0);
        let (mut seen, mut all) = (0, 0);
        for (_, segment) in self.rows.segments() {
            all += segment.owners.len();
            distances.resize(segment.owners.len() / part / GROUP * GROUP, 0);
            kernels::hamming(&query.signs, segment.block.signs(distances.len()), distances);
            seen += distances.len();
            for (distance, owner) in distances.iter().zip(&segment.owners) {
                if *owner != DEAD
                    && *distance >= from
                    && Self::admits(self.among, *owner)
                    && let Some(count) = counts.get_mut(*distance as usize)
                {
                    *count += 1;
                }
            }
        }
        within(counts, wanted * seen / all.max(1))
    }

    /// The same from some of the distances that have been measured.
    fn guess_measured(&mut self, index: Option<&Index>, from: u16, wanted: usize) -> u16 {
        let part = if self.scratch.measured.len() > 1 << 16 { 16 } else { 4 };
        let Scratch { counts, measured, spans, .. } = &mut self.scratch;
        counts.clear();
        counts.resize(self.rows.shape.words * 64 + 1, 0);
        let mut start = 0;
        for (span, end) in spans.iter() {
            let distances = measured.get(start..*end).unwrap_or(&[]);
            let owners = match self.among {
                Among::Admitted(_) => self.rows.owners_of(*span, index),
                // Nobody asks whose they are, so that is not read.
                Among::All | Among::Rows(_) => &[],
            };
            for at in (0..distances.len()).step_by(part) {
                if let Some(distance) = distances.get(at).filter(|distance| **distance >= from)
                    && owners.get(at).is_none_or(|owner| Self::admits(self.among, *owner))
                    && let Some(count) = counts.get_mut(*distance as usize)
                {
                    *count += 1;
                }
            }
            start = *end;
        }
        within(counts, wanted / part)
    }

    /// Measures the distances of the rows of some lists and, if asked for, of all that no index covers: once, however many rounds it takes to find
    /// out how many of them matter.
    fn measure(&mut self, query: &Query, index: Option<&Index>, lists: &[(f32, u32)], others: bool) {
        let Scratch { measured, spans, .. } = &mut self.scratch;
        measured.clear();
        spans.clear();
        for (_, list) in lists {
            let (rows, _, signs) = index.map_or_else(Default::default, |index| index.list(*list));
            let start = measured.len();
            measured.resize(start + rows.len().next_multiple_of(GROUP), 0);
            kernels::hamming(&query.signs, signs, measured.get_mut(start..).unwrap_or(&mut []));
            measured.truncate(start + rows.len());
            spans.push((Span::List(*list), measured.len()));
        }
        if others {
            let covered = |place, segment| index.is_some_and(|index| index.covers(place, segment));
            for (place, segment) in self.rows.segments().filter(|(place, segment)| !covered(*place, segment)) {
                let start = measured.len();
                measured.resize(start + segment.owners.len(), 0);
                segment_distances(query, segment, measured.get_mut(start..).unwrap_or(&mut []));
                spans.push((Span::Segment(place), measured.len()));
            }
        }
        self.compared += measured.len();
    }

    /// Collects the near ones of the rows that have been measured; those of a list as they were when the index was built: whether they still live is asked
    /// of the few that are scored, for it takes a way through memory each.
    fn collect(&mut self, index: Option<&Index>, candidates: &mut Candidates) {
        let Scratch { masks, measured, spans, .. } = &mut self.scratch;
        let mut start = 0;
        for (span, end) in spans.iter() {
            let distances = measured.get(start..*end).unwrap_or(&[]);
            start = *end;
            masks.resize(distances.len().div_ceil(32), 0);
            kernels::at_most(distances, candidates.limit, masks);
            let owners = self.rows.owners_of(*span, index);
            let rows = match span {
                Span::List(list) => index.map_or(&[][..], |index| index.list(*list).0),
                Span::Segment(_) => &[],
            };
            for (at, distance) in marked(masks, distances) {
                let Some(owner) = owners.get(at).copied().filter(|owner| *owner != DEAD) else { continue };
                if Self::admits(self.among, owner) {
                    let row = match span {
                        Span::List(_) => rows.get(at).copied(),
                        Span::Segment(place) => Some(RowId::new(*place, at)),
                    };
                    if let Some(row) = row {
                        candidates.push(Candidate { row, owner, distance });
                    }
                }
            }
        }
    }

    /// Collects the near rows of a segment.
    fn segment(&mut self, query: &Query, place: usize, segment: &Segment, candidates: &mut Candidates) {
        let rows = segment.owners.len();
        let Scratch { distances, masks, .. } = &mut self.scratch;
        distances.resize(rows, 0);
        segment_distances(query, segment, distances);
        self.compared += rows;
        masks.resize(rows.div_ceil(32), 0);
        kernels::at_most(distances, candidates.limit, masks);
        for (row, distance) in marked(masks, distances) {
            let Some(owner) = segment.owner(row) else { continue };
            if Self::admits(self.among, owner) {
                candidates.push(Candidate { row: RowId::new(place, row), owner, distance });
            }
        }
    }

    /// Scores candidates in the order of their distance until the rest of the population is unlikely to matter. How many more there should
    /// be, if that does not come.
    fn rescore(
        &mut self,
        query: &Query,
        candidates: &Candidates,
        population: usize,
        source: Source<'_>,
    ) -> Option<usize> {
        let mut fit = Fit::new(self.rows.dim());
        let mut living = Vec::new();
        let mut rows = candidates.rows.as_slice();
        let mut batch = (2 * self.limit).clamp(32, 1024);
        let allowed = MISSING * self.limit as f64;
        let mut wanted = usize::MAX;
        while let Some(last) = rows.get(..batch.min(rows.len())).and_then(|rows| rows.last()) {
            let end = rows.partition_point(|candidate| candidate.distance <= last.distance);
            let (mut now, rest) = rows.split_at(end);
            if let Source::Measured(Some(_)) = source {
                // A row that an index names may be dead, or its segment gone and another in its place.
                living.clear();
                let lives = |candidate: &&Candidate| self.rows.owner(candidate.row) == Some(candidate.owner);
                living.extend(now.iter().filter(lives).copied());
                now = &living;
            }
            self.rows.scores(query, now, |candidate, score| {
                fit.add(candidate.distance, score);
                self.best.push(score, candidate.owner);
            });
            self.rescored += now.len();
            let needed = self.best.settle();
            if needed > f64::NEG_INFINITY {
                wanted = fit.wanted(needed, last.distance, candidates, population, allowed);
                if wanted == 0 {
                    return None;
                }
            }
            rows = rest;
            batch = batch.max(end);
        }
        candidates.cut.then_some(wanted)
    }

    /// Searches the lists nearest to the query, then as many again until they bring nothing better.
    fn indexed(&mut self, index: &Index, query: &Query) {
        let mut order = index.order(query);
        // A filter that admits one row in n thins every list, so what is looked for is farther away: more lists are read, though not n times as many.
        let thinned = (self.rows.len() as f64 / self.population.max(1) as f64).sqrt().max(1.0);
        let mut goal = ((index.lists() / PROBE).max(MIN_LISTS) as f64 * thinned) as usize;
        let mut lists = order.as_mut_slice();
        let mut others = true;
        while !lists.is_empty() {
            Index::nearest_first(lists, goal);
            let end = goal.min(lists.len());
            let (now, rest) = lists.split_at_mut(end);
            lists = rest;
            let before = (self.best.settle(), self.best.len());
            self.measure(query, Some(index), now, others);
            let mut pending = vec![Pending::new(query)];
            let (mut wanted, most) = self.wanted();
            loop {
                pending = self.nearest(&pending, wanted, Source::Measured(Some(index)));
                let Some(needed) = pending.first().map(|pending| pending.wanted).filter(|_| wanted < most) else {
                    break;
                };
                wanted = needed.min(most).max(2 * wanted);
            }
            let after = (self.best.settle(), self.best.len());
            if !others {
                if after == before && after.0 > f64::NEG_INFINITY {
                    return;
                }
                goal *= 2;
            }
            others = false;
        }
    }
}

impl Rows {
    /// Whose the rows of a span are, or were.
    fn owners_of<'i>(&'i self, span: Span, index: Option<&'i Index>) -> &'i [u32] {
        match span {
            Span::List(list) => index.map_or(&[], |index| index.list(list).1),
            Span::Segment(place) => self.segment(place).map_or(&[], |segment| &segment.owners),
        }
    }
}

/// The distances of all rows of a segment.
fn segment_distances(query: &Query, segment: &Segment, out: &mut [u16]) {
    let signs = segment.block.signs(out.len());
    kernels::hamming(&query.signs, signs, out);
    // The rows of a group that is not full yet.
    let whole = signs.len() / query.signs.len().max(1);
    for (row, distance) in out.iter_mut().enumerate().skip(whole) {
        let differing = segment.block.row_signs(row).zip(&query.signs).map(|(a, b)| (a ^ b).count_ones());
        *distance = differing.sum::<u32>() as u16;
    }
}

/// The distance within which some more than `share` of what was counted lie, so that the whole has hardly ever too few there.
fn within(counts: &[u32], share: usize) -> u16 {
    let share = share as f64;
    let enough = (share + 4.0 * share.sqrt()) as u32;
    let mut sum = 0;
    let limit = counts.iter().position(|count| {
        sum += count;
        sum > enough
    });
    limit.map_or(u16::MAX, |limit| limit as u16)
}

/// A query that is not answered yet.
struct Pending<'q> {
    query: &'q Query,
    /// Rows nearer than this are scored.
    from: u16,
    /// How many candidates more it should take.
    wanted: usize,
}

impl<'q> Pending<'q> {
    fn new(query: &'q Query) -> Pending<'q> {
        Pending { query, from: 0, wanted: 0 }
    }
}

/// The places of the marked distances, and they.
pub(super) fn marked(masks: &[u32], distances: &[u16]) -> impl Iterator<Item = (usize, u16)> {
    masks
        .iter()
        .enumerate()
        .flat_map(move |(word, mask)| {
            let mut mask = *mask;
            std::iter::from_fn(move || {
                let bit = mask.trailing_zeros() as usize;
                mask &= mask.wrapping_sub(1);
                (bit < 32).then(|| word * 32 + bit)
            })
        })
        .filter_map(|at| Some((at, *distances.get(at)?)))
}

/// What the rows scored so far say about those that are not: a line through their scores by distance, and the scatter about it.
struct Fit {
    dim: f64,
    n: f64,
    distance: f64,
    score: f64,
    distance_squares: f64,
    products: f64,
    score_squares: f64,
}

impl Fit {
    fn new(dim: usize) -> Fit {
        Fit {
            dim: dim as f64,
            n: 0.0,
            distance: 0.0,
            score: 0.0,
            distance_squares: 0.0,
            products: 0.0,
            score_squares: 0.0,
        }
    }

    fn add(&mut self, distance: u16, score: f64) {
        let distance = f64::from(distance);
        self.n += 1.0;
        self.distance += distance;
        self.score += score;
        self.distance_squares += distance * distance;
        self.products += distance * score;
        self.score_squares += score * score;
    }

    /// How many rows should be scored beyond a distance, so that at most `allowed` can be expected among the others that
    /// score `needed` or more.
    fn wanted(&self, needed: f64, scored: u16, candidates: &Candidates, population: usize, allowed: f64) -> usize {
        let (mean_distance, mean_score) = (self.distance / self.n, self.score / self.n);
        let spread = self.distance_squares - self.n * mean_distance * mean_distance;
        let covariance = self.products - self.n * mean_distance * mean_score;
        let slope = if spread > 0.5 { (covariance / spread).min(0.0) } else { 0.0 };
        let residue = self.score_squares - self.n * mean_score * mean_score - slope * slope * spread;
        // Few rows, or many equal ones, may lie on a line by chance: the scatter of signs is never that small.
        let scatter = (residue.max(0.0) / (self.n - 2.0).max(1.0)).sqrt().max(SCATTER / self.dim.sqrt());
        let above = |distance: f64| tail((needed - mean_score - slope * (distance - mean_distance)) / scatter);
        // Rows at each distance, and how many of them can be expected to matter.
        let mut steps: Vec<(f64, f64)> = Vec::with_capacity(128);
        let counts = candidates.counts.iter().enumerate().skip(scored as usize + 1);
        let counts = counts.take((candidates.limit as usize).saturating_sub(scored as usize));
        for (distance, count) in counts.filter(|(_, count)| **count > 0) {
            let count = f64::from(*count);
            steps.push((count, count * above(distance as f64)));
        }
        if candidates.cut {
            // The others: a normal distribution that has as many within the limit, and grows as fast there.
            let population = population.max(2 * candidates.rows.len()) as f64;
            let width = (self.dim as usize / 96).max(1);
            let end = candidates.limit as usize + 1;
            let count = |back: usize| {
                let counts =
                    candidates.counts.get(end.saturating_sub((back + 1) * width)..end.saturating_sub(back * width));
                f64::from(counts.map_or(0, |counts| counts.iter().sum::<u32>()).max(1))
            };
            let growth = (count(0) / count(1)).clamp(1.1, 16.0).ln() / width as f64;
            let z = deviations(candidates.rows.len() as f64 / population);
            let deviation = (z / growth).max(1.0);
            let mean = end as f64 - 0.5 + z * deviation;
            let step = (deviation / 6.0).ceil();
            let mut distance = end as f64;
            while distance <= mean + 4.0 * deviation {
                let middle = distance + (step - 1.0) / 2.0;
                let off = (middle - mean) / deviation;
                let count = population * step / (deviation * 2.507) * (-0.5 * off * off).exp();
                steps.push((count, count * above(middle)));
                distance += step;
            }
        }
        let mut missing: f64 = steps.iter().map(|(_, missing)| missing).sum();
        let mut rows = 0.0;
        for (count, part) in steps {
            if missing <= allowed {
                break;
            }
            rows += count;
            missing -= part;
        }
        rows as usize
    }
}

/// So many standard deviations a normal distribution has a part (of up to a half) beyond: the inverse of [`tail`].
fn deviations(part: f64) -> f64 {
    (-0.717 + (0.514 - 1.664 * (2.0 * part.min(0.5)).ln()).sqrt()) / 0.832
}

/// The part of a normal distribution beyond so many standard deviations, within a few hundredths of itself.
fn tail(z: f64) -> f64 {
    let upper = 0.5 * (-0.717 * z.abs() - 0.416 * z * z).exp();
    if z < 0.0 { 1.0 - upper } else { upper }
}
