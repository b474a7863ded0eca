//! Time and bytes of lexical search: `cargo run --release -p engram-memory --example bench_lexical [documents...]`.
//!
//! Words are drawn as in conversations: the n-th most frequent one in proportion to 1 / (n + 2.7)^1.2, out of 20,000, the 6 most
//! frequent left out as stop words and the 20 most frequent in questions, whose words are in 1 to 10 % of the documents.
//! The module is private to the engine, so its sources are compiled into this example. Every query is asked in several rounds and its
//! fastest counts, every block of additions once; then medians: so that a busy machine shows little.

#![allow(dead_code, unused_imports, clippy::unwrap_used)]

#[path = "../bitmap.rs"]
mod bitmap;
#[path = "../lexical/mod.rs"]
mod lexical;

use engram_memory::MemoryId;
use lexical::{Analyser, Bm25, DocId, Language, LexicalCounts, Postings};
use std::time::Instant;

mod entry {
    /// As the engine counts: the size classes of jemalloc.
    pub(crate) fn block(bytes: usize) -> usize {
        match bytes {
            0..=128 => bytes.next_multiple_of(16),
            _ => bytes.next_multiple_of(bytes.next_power_of_two() / 8),
        }
    }
}

const VOCABULARY: usize = 20_000;

struct Words {
    seed: u64,
    /// The sum of the frequencies up to each word.
    sums: Vec<f64>,
}

impl Words {
    fn new() -> Words {
        let mut sum = 0.0;
        let sums = (0..VOCABULARY).map(|n| {
            sum += (n as f64 + 2.7).powf(-1.2);
            sum
        });
        Words { seed: 1, sums: sums.collect() }
    }

    fn uniform(&mut self) -> f64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A word that is not one of the `skip` most frequent, which are taken for stop words.
    fn next(&mut self, skip: usize) -> u32 {
        loop {
            let at = self.uniform() * self.sums.last().unwrap();
            let word = self.sums.partition_point(|sum| *sum < at);
            if word >= skip {
                // Spread over all hashes, one for one.
                return (word as u32).wrapping_mul(2_654_435_769) ^ 0x5bd1_e995;
            }
        }
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

const STOP_WORDS: usize = 6;
const COMMON_WORDS: usize = 20;
const ROUNDS: usize = 7;

fn measure(size: usize) {
    let mut words = Words::new();
    let documents: Vec<Vec<u32>> =
        (0..size.min(100_000)).map(|_| (0..11).map(|_| words.next(STOP_WORDS)).collect()).collect();
    let (mut postings, mut counts) = (Postings::default(), LexicalCounts::default());
    let (mut blocks, mut seals) = (Vec::new(), Vec::new());
    let mut block = Instant::now();
    for owner in 0..size {
        let one = Instant::now();
        postings.add(&mut counts, owner as u32, &documents[owner % documents.len()]);
        if owner % 1024 == 1023 {
            seals.push(one.elapsed().as_nanos() as f64 / 1e3);
            blocks.push(block.elapsed().as_nanos() as f64 / 1024.0);
            block = Instant::now();
        }
    }
    let terms: usize = documents
        .iter()
        .map(|document| {
            let mut document = document.clone();
            document.sort_unstable();
            document.dedup();
            document.len()
        })
        .sum();
    let bytes = counts.bytes() as f64 / size as f64;
    println!(
        "{size} documents: {:.0} ns per addition, sealing included; sealing {:.0} µs; {bytes:.1} bytes per document, {:.2} per posting",
        median(blocks),
        median(seals),
        bytes * documents.len() as f64 / terms as f64,
    );
    for length in [3, 5, 8] {
        let queries: Vec<Vec<u32>> =
            (0..101).map(|_| (0..length).map(|_| words.next(COMMON_WORDS)).collect()).collect();
        let mut times = vec![f64::MAX; queries.len()];
        let mut picks = times.clone();
        let mut found = 0;
        for _ in 0..ROUNDS {
            found = 0;
            for ((query, time), pick) in queries.iter().zip(&mut times).zip(&mut picks) {
                let start = Instant::now();
                let lexical = postings.search(query, &Bm25::default(), None);
                *time = time.min(start.elapsed().as_nanos() as f64 / 1e3);
                found += lexical.hits.len();
                let start = Instant::now();
                let best = lexical.best(50, |owner| MemoryId { ms: 1, seq: u64::from(owner) });
                *pick = pick.min(start.elapsed().as_nanos() as f64 / 1e3);
                assert!(best.len() <= 50);
            }
        }
        println!(
            "    {length} terms: {:.1} µs, {} found, the best 50 of them {:.1} µs",
            median(times),
            found / queries.len(),
            median(picks)
        );
    }
    let before = counts.dead();
    let mut steps = Vec::new();
    let ids: Vec<u32> = (0..size as u32).filter(|owner| owner % 10 < 3).collect();
    let sealed = size / 1024 * 1024;
    for owner in ids.iter().filter(|owner| (**owner as usize) < sealed) {
        postings.remove(&mut counts, DocId::from_number(*owner));
    }
    assert!(counts.dead() > before || sealed == 0);
    loop {
        let start = Instant::now();
        let moved = postings.compact(&mut counts, 1);
        if moved.is_empty() {
            break;
        }
        steps.push(start.elapsed().as_nanos() as f64 / 1e3);
    }
    if !steps.is_empty() {
        println!("    compaction: {} steps of {:.0} µs", steps.len(), median(steps));
    }
}

fn main() {
    let analyser = Analyser::new(Language::English);
    let long =
        "I went to a support group yesterday and the stories that people told were so powerful, it really inspired me.";
    let curly = long.replace(", it", " — it’s");
    for (name, text) in [("20 words", long), ("the same, not all ASCII", &curly), ("3 words", "She likes cats.")] {
        let mut times = Vec::new();
        let mut terms = Vec::new();
        for _ in 0..2001 {
            terms.clear();
            let start = Instant::now();
            analyser.terms(text, &mut terms);
            times.push(start.elapsed().as_nanos() as f64);
        }
        let (mut postings, mut counts) = (Postings::default(), LexicalCounts::default());
        let mut adds = Vec::new();
        for block in 0..100 {
            let start = Instant::now();
            (0..1024).for_each(|owner| {
                postings.add(&mut counts, block * 1024 + owner, &terms);
            });
            adds.push(start.elapsed().as_nanos() as f64 / 1024.0);
        }
        let (analysis, add) = (median(times), median(adds));
        println!("{name}: analysed in {analysis:.0} ns into {} terms, added in {add:.0} ns", terms.len());
    }
    let mut sizes: Vec<usize> = std::env::args().skip(1).filter_map(|size| size.parse().ok()).collect();
    if sizes.is_empty() {
        sizes = vec![10_000, 100_000, 1_000_000];
    }
    sizes.into_iter().for_each(measure);
}
