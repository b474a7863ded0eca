//! Storing, saving, loading and recalling in one process: `cargo run --release -p engram-memory --example bench_space [rows] [dims] [queries]`.
//!
//! Prints microseconds per memory (one thread), bytes per memory as the space counts them, and bytes per memory in a file.

use engram_memory::{Effect, Filter, Loader, NewMemory, Recall, Result, Space, Tier, Vectors};
use std::hint::black_box;
use std::time::Instant;

const NOW: u64 = 1_700_000_000_000;

struct Random(u64);

impl Random {
    fn float(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 24) as f32 - 0.5
    }

    fn vector(&mut self, dims: usize) -> Vec<f32> {
        (0..dims).map(|_| self.float()).collect()
    }

    /// A vector near one of some topics, as sentences are: random ones have no neighbours at all.
    fn near(&mut self, topics: &[Vec<f32>]) -> Vec<f32> {
        let topic = &topics[((self.float() + 0.5) * topics.len() as f32) as usize % topics.len()];
        topic.iter().map(|x| x + 0.8 * self.float()).collect()
    }
}

fn main() -> Result<()> {
    let mut numbers = std::env::args().skip(1).map(|n| n.parse::<usize>().unwrap_or(0).max(1));
    let rows = numbers.next().unwrap_or(100_000);
    let dims = numbers.next().unwrap_or(384);
    let count = numbers.next().unwrap_or(100);
    let mut random = Random(1);
    let mut space = Space::new();
    for (name, value) in [("long_term.capacity", "0"), ("long_term.ttl", "0")] {
        space.apply(&Effect::Set { name: name.into(), value: value.into() })?;
    }
    let topics: Vec<Vec<f32>> = (0..rows / 50 + 1).map(|_| random.vector(dims)).collect();
    let per = |start: Instant| start.elapsed().as_secs_f64() * 1e6 / rows as f64;

    let memories: Vec<NewMemory> = (0..rows)
        .map(|n| NewMemory {
            tier: Some(Tier::LongTerm),
            content: format!("memory {n}"),
            vectors: Vectors::Given(random.near(&topics)),
            ..NewMemory::default()
        })
        .collect();
    let start = Instant::now();
    for (n, new) in memories.into_iter().enumerate() {
        for effect in &space.store(NOW + n as u64 / 20, new)?.effects {
            space.apply(effect)?;
        }
    }
    println!("store       {:8.2} us per memory", per(start));
    println!("memory      {:8.1} bytes per memory", space.memory_usage() as f64 / rows as f64);
    for (part, bytes) in space.memory_parts() {
        println!("  {part:9} {:8.1}", bytes as f64 / rows as f64);
    }

    let mut file = Vec::new();
    let start = Instant::now();
    space.encode_state(1 << 20, &mut |bytes| file.push(bytes.to_vec()));
    println!("save        {:8.2} us per memory", per(start));
    println!("file        {:8.1} bytes per memory", file.iter().map(Vec::len).sum::<usize>() as f64 / rows as f64);

    let start = Instant::now();
    let mut loader = Loader::default();
    for batch in &file {
        loader.apply(batch)?;
    }
    let loaded = loader.finish();
    println!("load        {:8.2} us per memory", per(start));
    drop(loaded);

    let (start, mut longest) = (Instant::now(), 0.0_f64);
    space.apply(&Effect::Set { name: "language".into(), value: "none".into() })?;
    loop {
        let step = Instant::now();
        if !space.reindex_step() {
            break;
        }
        longest = longest.max(step.elapsed().as_secs_f64() * 1e6);
    }
    println!("reindex     {:8.2} us per memory, {longest:.0} us the longest step", per(start));

    let queries: Vec<Vec<f32>> = (0..count).map(|_| random.near(&topics)).collect();
    let snapshot = space.snapshot();
    for (name, filter) in [("recall", None), ("with filter", Some(".importance < 0")), ("half", Some(".at % 2 == 0"))] {
        let filter = filter.map(Filter::parse).transpose()?;
        let mut times = Vec::new();
        for query in &queries {
            let recall = Recall { queries: vec![query.clone()], k: 10, filter: filter.clone(), ..Recall::default() };
            let start = Instant::now();
            black_box(snapshot.recall(NOW, &recall)?);
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        times.sort_by(f64::total_cmp);
        println!("{name:11} {:8.1} us, the median of {}", times[times.len() / 2], queries.len());
    }
    Ok(())
}
