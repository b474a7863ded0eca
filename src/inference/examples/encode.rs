//! Measures a sentence encoder on one thread: `cargo run --release -p engram-inference --example encode -- models/all-MiniLM-L6-v2`.

use engram_inference::{Encoder, Scratch};
use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: encode FOLDER")?;
    let start = Instant::now();
    let encoder = Encoder::load(Path::new(&folder))?;
    println!("{:?} loaded in {:.0} ms", encoder.info(), start.elapsed().as_secs_f64() * 1e3);
    let mut scratch = Scratch::default();
    for (tokens, runs) in [(8, 200), (32, 100), (128, 30), (encoder.window(), 20)] {
        // One token per word, two for the edges.
        let windows = encoder.windows(&"river ".repeat(tokens - 2));
        assert_eq!((windows.len(), windows[0].tokens().len()), (1, tokens));
        let mut times = Vec::with_capacity(runs);
        for _ in 0..runs {
            let start = Instant::now();
            encoder.encode(&windows, &mut scratch)?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        println!("{tokens:4} tokens: best {:.2} ms, median {:.2} ms", times[0], times[runs / 2]);
    }
    let batch: Vec<_> = (0..32).flat_map(|_| encoder.windows(&"river ".repeat(6))).collect();
    let start = Instant::now();
    encoder.encode(&batch, &mut scratch)?;
    println!("32 windows of 8 tokens at once: {:.2} ms", start.elapsed().as_secs_f64() * 1e3);
    Ok(())
}
