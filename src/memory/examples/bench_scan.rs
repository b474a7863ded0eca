//! Time of a recall per row, plain and with filters: `cargo run --release -p engram-memory --example bench_scan [rows] [dims]`.

use engram_memory::{Effect, Filter, NewMemory, Recall, Result, Space, Tier, Vectors};
use std::time::Instant;

const NOW: u64 = 1_700_000_000_000;

fn vector(seed: &mut u64, dims: usize) -> Vec<f32> {
    let mut next = || {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..dims).map(|_| next()).collect()
}

fn main() -> Result<()> {
    let mut numbers = std::env::args().skip(1).map(|n| n.parse::<usize>().unwrap_or(0).max(1));
    let rows = numbers.next().unwrap_or(10_000);
    let dims = numbers.next().unwrap_or(384);
    let mut seed = 1;
    let mut space = Space::new();
    space.apply(&Effect::Set { name: "long_term.capacity".into(), value: "0".into() })?;
    let start = Instant::now();
    for n in 0..rows {
        let new = NewMemory {
            tier: Some(Tier::LongTerm),
            content: format!("memory number {n} of the benchmark, as long as a short sentence"),
            vectors: Vectors::Given(vector(&mut seed, dims)),
            importance: Some((n % 100) as f64 / 100.0),
            ..NewMemory::default()
        };
        for effect in &space.store(NOW + n as u64, new)?.effects {
            space.apply(effect)?;
        }
    }
    let per_store = start.elapsed().as_nanos() as f64 / rows as f64;
    println!("{rows} rows of {dims} dimensions; a store takes {per_store:.0} ns");
    println!("{:.0} bytes per memory", space.memory_usage() as f64 / rows as f64);
    let snapshot = space.snapshot();
    for filter in
        [None, Some(".importance >= 0.5"), Some(".importance >= 0.99 and 'sentence' in .content"), Some("false")]
    {
        let recall = Recall {
            queries: vec![vector(&mut seed, dims)],
            k: 10,
            filter: filter.map(Filter::parse).transpose()?,
            ..Recall::default()
        };
        let mut times: Vec<f64> = Vec::new();
        let mut found = 0;
        for _ in 0..50 {
            let start = Instant::now();
            found = snapshot.recall(NOW, &recall)?.len();
            times.push(start.elapsed().as_nanos() as f64);
        }
        times.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        let name = filter.unwrap_or("no filter");
        println!("{name}: {found} found, {:.3} ms, {:.1} ns per row", median / 1e6, median / rows as f64);
    }
    Ok(())
}
