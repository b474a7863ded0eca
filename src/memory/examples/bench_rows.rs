//! Times of the kernels, of searches and of the index, with their recall:
//! `cargo run --release -p engram-memory --example bench_rows -- [kernels] [search] [index] [rows=N] [dims=N] [precision=i8]`.
//!
//! Searches run over made-up vectors whose nearest neighbours are about as near as those of real sentences (cosine .7 to the
//! nearest, .57 to the tenth of some ten thousands), and over random ones, which have no neighbours worth the name.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a measurement may stop at the first surprise")]

// The rows are inside the engine: this compiles them again, with what they need of it.
#[allow(dead_code, reason = "the engine uses the rest of it")]
#[path = "../bitmap.rs"]
mod bitmap;
#[allow(dead_code, reason = "the engine uses the rest of it")]
#[path = "../kernels/mod.rs"]
mod kernels;
#[allow(dead_code, unused_imports, reason = "the engine uses the rest of it")]
#[path = "../rows/mod.rs"]
mod rows;
/// Sizes as the allocator gives them: the engine's own function, which is beside much else that is of no use here.
mod entry {
    pub(crate) fn block(bytes: usize) -> usize {
        match bytes {
            0..=128 => bytes.next_multiple_of(16),
            _ => bytes.next_multiple_of(bytes.next_power_of_two() / 8),
        }
    }
}
use engram_memory::{Error, MemoryId, Result};

use bitmap::Bitmap;
use rows::{Among, Effort, Path, Precision, Query, RowCounts, RowId, Rows, Search, Vector};
use simsimd::{BinarySimilarity, SpatialSimilarity};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// About normal, from the four quarters of one number.
    fn normal(&mut self) -> f32 {
        let x = self.next();
        let sum: u64 = (0..4).map(|n| x >> (16 * n) & 0xffff).sum();
        (sum as f32 / 65536.0 - 2.0) * 1.732
    }
}

fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|x| *x /= norm);
    vector
}

/// A source of vectors.
enum Data {
    /// A tree of topics: areas, subjects in them, and matters in those, as many of each as a corpus of n texts would have, over
    /// a spectrum that falls off as real ones do.
    Topics {
        spectrum: Vec<f32>,
        areas: u64,
        matters: u64,
    },
    Uniform,
}

impl Data {
    fn topics(dims: usize, rows: usize) -> Data {
        let spectrum = (0..dims).map(|n| (1.0 + n as f32 / 24.0).powf(-0.4)).collect();
        Data::Topics { spectrum, areas: 40, matters: (rows / 12).max(1) as u64 }
    }

    fn vector(&self, dims: usize, random: &mut Random) -> Vec<f32> {
        match self {
            Data::Uniform => unit((0..dims).map(|_| random.normal()).collect()),
            Data::Topics { spectrum, areas, matters } => {
                // Matters differ in how often they come up: the square of an even share.
                let share = (random.next() >> 11) as f64 / (1u64 << 53) as f64;
                let matter = (share * share * *matters as f64) as u64;
                let (subject, area) = (matter / 12, matter % areas);
                let field = subject / 16;
                let mut seeds = [(0, area), (1, field), (2, subject), (3, matter), (4, random.next())]
                    .map(|(level, number)| Random(number << 3 | level));
                // How much is the matter's and how much the text's own differs from text to text.
                let own = 0.65 + 0.6 * (random.next() >> 40) as f32 / (1 << 24) as f32;
                let weights = [0.3, 0.5, 0.7, 1.0, own];
                let vector = (0..dims).map(|n| {
                    let mixed: f32 = seeds.iter_mut().zip(weights).map(|(seed, weight)| seed.normal() * weight).sum();
                    mixed * spectrum[n]
                });
                unit(vector.collect())
            }
        }
    }
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Median and least nanoseconds per row.
fn time(name: &str, rows: usize, mut run: impl FnMut() -> f64) {
    let repeats = (4_000_000 / rows).clamp(5, 200);
    let mut times: Vec<f64> = (0..repeats)
        .map(|_| {
            let start = Instant::now();
            black_box(run());
            start.elapsed().as_nanos() as f64 / rows as f64
        })
        .collect();
    let median = median(&mut times);
    println!("  {name:<34} {rows:>9} rows  {median:7.2} ns per row (least {:.2})", times[0]);
}

fn bench_kernels(dims: usize) {
    for rows in [10_000, 100_000, 1_000_000] {
        let mut random = Random(1);
        let padded = dims.next_multiple_of(64);
        let query: Vec<f32> = unit((0..padded).map(|_| random.normal()).collect());
        let words = padded / 64;
        let signs: Vec<u64> = (0..rows * words).map(|_| random.next()).collect();
        let query_signs: Vec<u64> = (0..words).map(|_| random.next()).collect();
        let mut codes: Vec<u8> = signs.iter().flat_map(|word| word.to_le_bytes()).cycle().take(rows * padded).collect();
        codes.iter_mut().for_each(|code| *code = (*code).max(1));
        let wide = kernels::Wide::new(&query);
        for kind in kernels::Kind::available() {
            if kind == kernels::Kind::Scalar && rows > 10_000 {
                continue;
            }
            kernels::force(kind);
            let mut distances = vec![0u16; 1024];
            let mut masks = vec![0u32; 32];
            time(&format!("{kind:?} signs"), rows, || {
                let mut sum = 0u64;
                for run in signs.chunks(1024 * words) {
                    kernels::hamming(&query_signs, run, &mut distances);
                    sum += u64::from(distances[7]);
                }
                sum as f64
            });
            time(&format!("{kind:?} signs and choice"), rows, || {
                let mut sum = 0u64;
                for run in signs.chunks(1024 * words) {
                    kernels::hamming(&query_signs, run, &mut distances);
                    kernels::at_most(&distances, dims as u16 / 3, &mut masks);
                    sum += u64::from(masks[7]);
                }
                sum as f64
            });
            time(&format!("{kind:?} bytes"), rows, || {
                let mut out = [0; 8];
                let mut best = i32::MIN;
                for run in codes.chunks_exact(8 * padded) {
                    let rows: [&[u8]; 8] = std::array::from_fn(|n| &run[n * padded..(n + 1) * padded]);
                    kernels::wide_dots(&wide, &rows, &mut out);
                    best = out.iter().fold(best, |best, x| best.max(*x));
                }
                f64::from(best)
            });
            if rows <= 100_000 {
                let halves: Vec<u16> = codes.iter().map(|code| kernels::to_half(f32::from(*code) - 128.0)).collect();
                time(&format!("{kind:?} halves"), rows, || {
                    let mut out = [0.0; 8];
                    let mut best = f32::MIN;
                    for run in halves.chunks_exact(8 * padded) {
                        let rows: [&[u16]; 8] = std::array::from_fn(|n| &run[n * padded..(n + 1) * padded]);
                        kernels::half_dots(&query, &rows, &mut out);
                        best = out.iter().fold(best, |best, x| best.max(*x));
                    }
                    f64::from(best)
                });
                let floats: Vec<f32> = codes.iter().map(|code| f32::from(*code) - 128.0).collect();
                time(&format!("{kind:?} floats"), rows, || {
                    let mut out = [0.0; 8];
                    let mut best = f32::MIN;
                    for run in floats.chunks_exact(8 * padded) {
                        let rows: [&[f32]; 8] = std::array::from_fn(|n| &run[n * padded..(n + 1) * padded]);
                        kernels::float_dots(&query, &rows, &mut out);
                        best = out.iter().fold(best, |best, x| best.max(*x));
                    }
                    f64::from(best)
                });
                if kind == kernels::Kind::current() && kernels::Kind::available()[0] == kind {
                    time("simsimd floats", rows, || {
                        floats.chunks_exact(padded).map(|row| f32::dot(&query, row).unwrap()).fold(f64::MIN, f64::max)
                    });
                    let query: Vec<simsimd::f16> = query.iter().map(|x| simsimd::f16(kernels::to_half(*x))).collect();
                    let halves: Vec<simsimd::f16> = halves.iter().map(|x| simsimd::f16(*x)).collect();
                    time("simsimd halves", rows, || {
                        halves
                            .chunks_exact(padded)
                            .map(|row| <simsimd::f16 as SpatialSimilarity>::dot(&query, row).unwrap())
                            .fold(f64::MIN, f64::max)
                    });
                }
            }
        }
        kernels::force(kernels::Kind::available()[0]);
        let bytes: Vec<i8> = codes.iter().map(|code| (*code ^ 128) as i8).collect();
        let query_bytes: Vec<i8> = query.iter().map(|x| (x * 400.0) as i8).collect();
        time("simsimd bytes (query of 8 bits)", rows, || {
            bytes.chunks_exact(padded).map(|row| i8::dot(&query_bytes, row).unwrap()).fold(f64::MIN, f64::max)
        });
        let flat: Vec<u8> = signs.iter().flat_map(|word| word.to_le_bytes()).collect();
        let query_flat: Vec<u8> = query_signs.iter().flat_map(|word| word.to_le_bytes()).collect();
        time("simsimd signs", rows, || {
            flat.chunks_exact(words * 8).map(|row| u8::hamming(&query_flat, row).unwrap()).fold(f64::MAX, f64::min)
        });
    }
}

fn id_of(slot: u32) -> MemoryId {
    MemoryId { ms: 1, seq: u64::from(slot) }
}

struct Space {
    rows: Rows,
    counts: RowCounts,
    ids: Vec<RowId>,
    /// The vectors as they came, where there is room for them: the truth of the recall.
    floats: Vec<f32>,
}

fn fill(data: &Data, n: usize, dims: usize, precision: Precision) -> Space {
    let mut random = Random(42);
    let mut rows = Rows::new(dims, precision);
    let mut counts = RowCounts::default();
    let (mut ids, mut floats) = (Vec::with_capacity(n), Vec::with_capacity(n * dims));
    let (mut quantising, mut appending) = (0.0, 0.0);
    for slot in 0..n {
        let vector = data.vector(dims, &mut random);
        let start = Instant::now();
        let stored = Vector::new(&vector, precision);
        let between = Instant::now();
        ids.push(rows.append(&mut counts, slot as u32, &stored));
        appending += between.elapsed().as_nanos() as f64;
        quantising += (between - start).as_nanos() as f64;
        floats.extend(vector);
    }
    println!(
        "  {n} rows of {dims} at {precision}: {:.0} bytes per row; a row takes {:.0} ns to quantise and {:.0} ns to append",
        counts.bytes as f64 / n as f64,
        quantising / n as f64,
        appending / n as f64
    );
    Space { rows, counts, ids, floats }
}

/// The ten nearest by the floats that came.
fn truth(space: &Space, query: &[f32], dims: usize) -> Vec<(f64, u32)> {
    let mut best: Vec<(f64, u32)> = Vec::new();
    for (at, eight) in space.floats.chunks(8 * dims).enumerate() {
        let rows: Vec<&[f32]> = eight.chunks(dims).collect();
        let mut out = [0.0; 8];
        kernels::float_dots(query, &rows, &mut out);
        for (n, _) in rows.iter().enumerate() {
            let score = f64::from(out[n]);
            if best.len() < 10 || score > best[9].0 {
                best.push((score, (at * 8 + n) as u32));
                best.sort_by(|a, b| b.0.total_cmp(&a.0));
                best.truncate(10);
            }
        }
    }
    best
}

struct Measured {
    times: Vec<f64>,
    right: usize,
    rescored: usize,
    compared: usize,
    paths: [usize; 4],
}

fn measure(space: &Space, queries: &[Query], truths: &[Vec<(f64, u32)>], among: Among<'_>, effort: Effort, name: &str) {
    let mut m = Measured { times: Vec::new(), right: 0, rescored: 0, compared: 0, paths: [0; 4] };
    for round in 0..3 {
        for (query, truth) in queries.iter().zip(truths) {
            let search =
                Search { queries: std::slice::from_ref(query), limit: 10, among, floor: None, effort, id_of: &id_of };
            let start = Instant::now();
            let found = space.rows.search(&search);
            m.times.push(start.elapsed().as_nanos() as f64 / 1e3);
            if round == 0 {
                m.right += truth.iter().filter(|(_, owner)| found.hits.iter().any(|hit| hit.1 == *owner)).count();
                m.rescored += found.rescored;
                m.compared += found.compared;
                m.paths[[Path::Exact, Path::OneBit, Path::Index, Path::Listed]
                    .iter()
                    .position(|p| *p == found.path)
                    .unwrap()] += 1;
            }
        }
    }
    let n = queries.len();
    let p50 = median(&mut m.times);
    println!(
        "  {name:<26} p50 {p50:9.1} us  p10 {:9.1}  p99 {:9.1}  recall@10 {:.4}  compared {:>8}  scored {:>6}  exact/signs/index/listed {:?}",
        m.times[m.times.len() / 10],
        m.times[m.times.len() * 99 / 100],
        m.right as f64 / (10 * n) as f64,
        m.compared / n,
        m.rescored / n,
        m.paths
    );
}

fn bench_search(sizes: &[usize], dims: usize, precision: Precision, with_index: bool) {
    for data_name in ["topics", "uniform"] {
        for &n in sizes {
            let data = if data_name == "topics" { Data::topics(dims, n) } else { Data::Uniform };
            println!("{data_name}, {n}:");
            let mut space = fill(&data, n, dims, precision);
            let mut random = Random(4711);
            let count = if n >= 1_000_000 { 100 } else { 300 };
            let vectors: Vec<Vec<f32>> = (0..count).map(|_| data.vector(dims, &mut random)).collect();
            let truths: Vec<Vec<(f64, u32)>> = vectors.iter().map(|query| truth(&space, query, dims)).collect();
            let mean = |at: usize| truths.iter().map(|truth| truth[at].0).sum::<f64>() / count as f64;
            println!("  mean cosine to the nearest {:.3}, to the tenth {:.3}", mean(0), mean(9));
            space.floats = Vec::new();
            let queries: Vec<Query> = vectors.iter().map(|query| space.rows.query(query)).collect();
            let few = &queries[..count.min(20)];
            measure(&space, few, &truths, Among::All, Effort::Exact, "exact");
            measure(&space, &queries, &truths, Among::All, Effort::Auto, "auto");
            let mut half = Bitmap::none(n);
            (0..n as u32).filter(|slot| slot % 2 == 0).for_each(|slot| half.insert(slot));
            measure(&space, few, &truths, Among::Admitted(&half), Effort::Auto, "one in 2 (recall is of all)");
            let mut tenth = Bitmap::none(n);
            (0..n as u32).filter(|slot| slot % 10 == 0).for_each(|slot| tenth.insert(slot));
            measure(&space, few, &truths, Among::Admitted(&tenth), Effort::Auto, "one in 10 (recall is of all)");
            let listed: Vec<RowId> = space.ids.iter().copied().step_by(n / 1000).collect();
            measure(&space, few, &truths, Among::Rows(&listed), Effort::Auto, "1000 listed");
            let search = Search {
                queries: &queries[..8],
                limit: 10,
                among: Among::All,
                floor: None,
                effort: Effort::Auto,
                id_of: &id_of,
            };
            let start = Instant::now();
            black_box(space.rows.search(&search));
            println!("  eight queries in one: {:.1} us", start.elapsed().as_nanos() as f64 / 1e3);
            let floor = Search { queries: &queries[..1], limit: 1, floor: Some(0.95), ..search };
            let mut times: Vec<f64> = (0..100)
                .map(|n| {
                    let floor = Search { queries: &queries[n..n + 1], ..floor };
                    let start = Instant::now();
                    black_box(space.rows.search(&floor));
                    start.elapsed().as_nanos() as f64 / 1e3
                })
                .collect();
            println!("  a duplicate (limit 1, floor .95): {:.1} us", median(&mut times));
            if with_index {
                let start = Instant::now();
                let index = space.rows.build_index(&AtomicBool::new(false)).unwrap();
                println!("  index built in {:.2} s", start.elapsed().as_secs_f64());
                let before = space.counts.bytes;
                space.rows.set_index(&mut space.counts, Some(Arc::new(index)));
                println!("  index of {:.1} bytes per row", (space.counts.bytes - before) as f64 / n as f64);
                measure(&space, &queries, &truths, Among::All, Effort::Auto, "auto with index");
                measure(&space, few, &truths, Among::Admitted(&half), Effort::Auto, "one in 2 (recall is of all)");
                measure(&space, few, &truths, Among::Admitted(&tenth), Effort::Auto, "one in 10 (recall is of all)");
            }
        }
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| words.iter().any(|w| w == word) || !words.iter().any(|w| !w.contains('='));
    let value = |name: &str| words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let dims = value("dims").map_or(384, |dims| dims.parse().expect("dims is a number"));
    let precision = value("precision").map_or(Precision::I8, |precision| precision.parse().expect("f32, f16 or i8"));
    let rows = value("rows").map(|rows| rows.parse().expect("rows is a number"));
    let sizes = |all: &[usize]| rows.map_or(all.to_vec(), |rows| vec![rows]);
    println!("kernels for {:?}", kernels::Kind::current());
    if has("kernels") {
        bench_kernels(dims);
    }
    if has("search") {
        bench_search(&sizes(&[10_000, 100_000]), dims, precision, false);
    }
    if has("index") {
        bench_search(&sizes(&[1_000_000]), dims, precision, true);
    }
}
