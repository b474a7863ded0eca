//! Vectors that behave as those of sentences do, the same in every run, and the truth about them.
//!
//! Uniform random vectors would flatter nobody and tell nothing: all are equally far from each other. These are made as people talk: every vector belongs to
//! a sentence group, that to a remark, a thread, a subject … (the levels below), each with a direction of its own, and adds a part that only it has, small
//! for some and large for others. The directions lie in a space whose axes weigh less and less, as the principal components of an encoder's output do, then
//! turned so that no coordinate is special. On 49,700 sentences embedded by all-MiniLM-L6-v2 the mean cosine to the nearest other is .71 and to the tenth
//! .57; the levels were chosen to give about the same here, and the benchmark prints what they gave.
//!
//! A query is one more vector of the same making that is not in the set: near something, equal to nothing. A vector depends on its number and the size of the
//! set alone, so a million of them need no table of directions and any number of threads.
//!
//! The truth is a full f32 comparison with every vector, on all cores, a block of rows at a time so that it is read from cache for every query.

use std::ops::Range;

use crate::texts::Random;

/// Dimensions: those of all-MiniLM-L6-v2.
pub const DIM: usize = 384;
/// Results asked for.
pub const K: usize = 10;

/// The levels, finest first: members of a group on average, and the cosine that two members share.
const LEVELS: [(usize, f32); 7] =
    [(3, 0.9), (12, 0.7), (40, 0.6), (150, 0.5), (600, 0.4), (3_000, 0.25), (20_000, 0.05)];
/// The share of a vector that comes from its groups: between these, at random.
const COMMON: Range<f32> = 0.61..0.96;
/// Rows that are compared with all queries before the next are read: 196 KiB.
const BLOCK: usize = 128;

/// A set and its queries.
pub struct Dataset {
    /// How many vectors are in the set.
    pub len: usize,
    base: Vec<f32>,
    queries: Vec<f32>,
}

impl Dataset {
    /// A set of `len` and so many queries.
    pub fn new(len: usize, queries: usize) -> Dataset {
        Dataset { len, base: made(len, 0..len), queries: made(len, len..len + queries) }
    }

    /// A vector of the set.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.base[row * DIM..][..DIM]
    }

    /// The set, one vector after the other.
    pub fn base(&self) -> &[f32] {
        &self.base
    }

    /// The queries, one after the other.
    pub fn queries(&self) -> &[f32] {
        &self.queries
    }

    /// Each query.
    pub fn each_query(&self) -> impl Iterator<Item = &[f32]> {
        self.queries.chunks_exact(DIM)
    }

    /// More vectors of the same making, in neither the set nor the queries.
    pub fn more(&self, count: usize) -> Vec<Vec<f32>> {
        let from = self.len + self.queries.len() / DIM;
        made(self.len, from..from + count).chunks_exact(DIM).map(<[f32]>::to_vec).collect()
    }

    /// The numbers of the nearest [`K`] to every query among those that pass, best first.
    pub fn truth(&self, passes: impl Fn(usize) -> bool + Sync) -> Vec<Vec<u32>> {
        let best = self.nearest(&self.queries, |_, row| passes(row));
        best.into_iter().map(|best| best.into_iter().map(|(_, row)| row).collect()).collect()
    }

    /// Within the set: the mean cosine to the nearest other vector and to the tenth, over a sample.
    pub fn closeness(&self) -> (f64, f64) {
        let sample = 200.min(self.len);
        let rows: Vec<usize> = (0..sample).map(|i| i * self.len / sample).collect();
        let queries: Vec<f32> = rows.iter().flat_map(|row| self.row(*row)).copied().collect();
        let best = self.nearest(&queries, |query, row| rows[query] != row);
        let mean = |place: usize| {
            best.iter().filter_map(|b| b.get(place)).map(|(cosine, _)| f64::from(*cosine)).sum::<f64>() / sample as f64
        };
        (mean(0), mean(K - 1))
    }

    fn nearest(&self, queries: &[f32], passes: impl Fn(usize, usize) -> bool + Sync) -> Vec<Vec<(f32, u32)>> {
        let queries: Vec<&[f32]> = queries.chunks_exact(DIM).collect();
        let share = queries.len().div_ceil(threads()).max(1);
        std::thread::scope(|scope| {
            let workers: Vec<_> = queries
                .chunks(share)
                .enumerate()
                .map(|(part, queries)| {
                    let passes = &passes;
                    scope.spawn(move || self.nearest_here(queries, |query, row| passes(part * share + query, row)))
                })
                .collect();
            workers.into_iter().flat_map(|w| w.join().unwrap_or_default()).collect()
        })
    }

    fn nearest_here(&self, queries: &[&[f32]], passes: impl Fn(usize, usize) -> bool) -> Vec<Vec<(f32, u32)>> {
        let mut best: Vec<Vec<(f32, u32)>> = vec![Vec::with_capacity(K + 1); queries.len()];
        for first in (0..self.len).step_by(BLOCK) {
            for (number, (query, best)) in queries.iter().zip(&mut best).enumerate() {
                for row in (first..self.len.min(first + BLOCK)).filter(|row| passes(number, *row)) {
                    let cosine = dot(query, self.row(row));
                    if best.len() < K || best.last().is_some_and(|worst| cosine > worst.0) {
                        let at = best.partition_point(|(other, _)| *other >= cosine);
                        best.insert(at, (cosine, row as u32));
                        best.truncate(K);
                    }
                }
            }
        }
        best
    }
}

/// The share of the truth that was found, mean over the queries.
pub fn recall(truth: &[Vec<u32>], found: &[Vec<u32>]) -> f64 {
    let (mut hits, mut all) = (0, 0);
    for (truth, found) in truth.iter().zip(found) {
        hits += found.iter().filter(|row| truth.contains(row)).count();
        all += truth.len();
    }
    hits as f64 / all as f64
}

/// How many threads help where all cores should.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The vectors of these numbers, of length one.
fn made(len: usize, numbers: Range<usize>) -> Vec<f32> {
    let mut all = vec![0.0; numbers.len() * DIM];
    let share = numbers.len().div_ceil(threads()).max(1);
    std::thread::scope(|scope| {
        for (part, vectors) in all.chunks_mut(share * DIM).enumerate() {
            let first = numbers.start + part * share;
            scope.spawn(move || {
                let axes = axes();
                for (i, vector) in vectors.chunks_exact_mut(DIM).enumerate() {
                    make(len, first + i, &axes, vector);
                }
            });
        }
    });
    all
}

/// What every axis weighs, the squares adding up to one.
fn axes() -> [f32; DIM] {
    let mut axes = std::array::from_fn(|axis| 1.0 / ((axis + 1) as f32).sqrt());
    let length = axes.iter().map(|w: &f32| w * w).sum::<f32>().sqrt();
    axes.iter_mut().for_each(|w| *w /= length);
    axes
}

fn make(len: usize, number: usize, axes: &[f32; DIM], vector: &mut [f32]) {
    let mut own = Random::new(0x5eed_0000 ^ (number as u64) << 8);
    let leaves = (len / LEVELS[0].0).max(1);
    let leaf = own.below(leaves);
    let common = COMMON.start + own.fraction() * (COMMON.end - COMMON.start);
    let mut add = |random: &mut Random, weight: f32| {
        for (chunk, axes) in vector.chunks_exact_mut(4).zip(axes.chunks_exact(4)) {
            for ((x, axis), normal) in chunk.iter_mut().zip(axes).zip(random.normals()) {
                *x += weight * axis * normal;
            }
        }
    };
    for (level, (members, cosine)) in LEVELS.iter().enumerate() {
        let coarser = LEVELS.get(level + 1).map_or(0.0, |next| next.1);
        let group = leaf * (len / members).max(1) / leaves;
        let mut random = Random::new(0xd1ec_7100 + level as u64 + ((group as u64 + 1) << 32));
        // The cosines of the levels add up to that of the finest, which is made one.
        add(&mut random, common * ((cosine - coarser) / LEVELS[0].1).sqrt());
    }
    add(&mut own, (1.0 - common * common).sqrt());
    turn(vector);
    let length = dot(vector, vector).sqrt();
    vector.iter_mut().for_each(|x| *x /= length);
}

/// A rotation (up to scale) that spreads every axis over all coordinates: Hadamard transforms of thirds, twice, with the coordinates dealt out anew between.
fn turn(vector: &mut [f32]) {
    let mut dealt = [0.0; DIM];
    for round in 0..2 {
        for third in vector.chunks_exact_mut(DIM / 3) {
            let mut half = 1;
            while half < third.len() {
                for pair in third.chunks_exact_mut(2 * half) {
                    let (low, high) = pair.split_at_mut(half);
                    for (a, b) in low.iter_mut().zip(high) {
                        (*a, *b) = (*a + *b, *a - *b);
                    }
                }
                half *= 2;
            }
        }
        if round == 0 {
            for (i, x) in vector.iter().enumerate() {
                // 149 has no divisor in common with 384: every coordinate is dealt once. Flipped signs keep the second transform from undoing the first.
                let to = i * 149 % DIM;
                dealt[to] = if (i * 2_654_435_761) >> 7 & 1 == 0 { *x } else { -*x };
            }
            vector.copy_from_slice(&dealt);
        }
    }
}

/// The product of two vectors, in 16 sums that the compiler puts into registers.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    for (a, b) in a.chunks_exact(16).zip(b.chunks_exact(16)) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_is_like_sentences_and_the_truth_is_true() {
        let data = Dataset::new(5_000, 20);
        let (nearest, tenth) = data.closeness();
        assert!((0.66..0.76).contains(&nearest) && (0.5..0.62).contains(&tenth), "{nearest} {tenth}");
        let truth = data.truth(|row| row % 3 == 0);
        for (query, truth) in data.each_query().zip(&truth) {
            let mut all: Vec<u32> = (0..5_000).filter(|row| row % 3 == 0).collect();
            all.sort_by(|a, b| dot(query, data.row(*b as usize)).total_cmp(&dot(query, data.row(*a as usize))));
            assert_eq!(truth[..], all[..K]);
        }
        assert_eq!(recall(&truth, &truth), 1.0);
        assert!((dot(data.row(7), data.row(7)) - 1.0).abs() < 1e-5);
    }
}
