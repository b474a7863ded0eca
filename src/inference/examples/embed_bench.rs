//! How long an [`Embedder`] takes for texts of some lengths, on one thread.
//!
//! `cargo run --release -p engram-inference --example embed_bench -- PATH [DIMENSIONS]`, where PATH is what `engram.embedder` may name.

use engram_inference::{Embedder, Purpose};
use std::path::Path;
use std::time::Instant;

fn cpu_ms() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call only writes to `t`.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
    t.tv_sec as f64 * 1e3 + t.tv_nsec as f64 * 1e-6
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (path, dim) = match arguments.as_slice() {
        [path] => (path, None),
        [path, dim] => (path, Some(dim.parse()?)),
        _ => return Err("usage: embed_bench PATH [DIMENSIONS]".into()),
    };
    let start = Instant::now();
    let embedder = Embedder::load(Path::new(path), None, dim)?;
    let took = start.elapsed().as_secs_f64() * 1e3;
    println!(
        "{} ({}) loaded in {took:.0} ms; CPU milliseconds, least and median:",
        embedder.name(),
        embedder.precision()
    );
    for tokens in [8, 32, 256, 2048] {
        // As long as it takes for one window of at most so many tokens, what the model puts around the text not counted.
        let empty = embedder.windows("", Purpose::Document)[0].tokens().len();
        let most = tokens.min(embedder.window().saturating_sub(empty));
        let mut text = String::new();
        while embedder.tokens(&text).len() < most {
            text.push_str("river ");
        }
        for words in [false, true] {
            let runs = 5 + 1000 / tokens;
            let mut times = Vec::with_capacity(runs);
            for _ in 0..runs {
                let start = cpu_ms();
                for (window, _) in embedder.windows_with_spans(&text, Purpose::Document) {
                    embedder.embed(&window, words)?;
                }
                times.push(cpu_ms() - start);
            }
            times.sort_by(f64::total_cmp);
            let with = if words { ", with its tokens' vectors" } else { "" };
            println!("{most:5} tokens{with}: {:.2} {:.2}", times[0], times[runs / 2]);
        }
    }
    Ok(())
}
