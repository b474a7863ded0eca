//! Encodes texts on one thread and says how long it took; `scripts/bench-embedding` drives it.
//!
//! `cargo run --release -p engram-inference --example encode -- FOLDER [f32|bf16|auto]` prints a small table;
//! with `--serve` at the end it answers each line `{"texts": […], "runs": n}` of its input with one line: the milliseconds
//! of each run (wall and CPU time, tokenising included, all texts in one call) and, for `"vectors": true`, the vectors.

use engram_inference::{Encoder, Precision, Scratch};
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

fn cpu_ms() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call only writes to `t`.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
    t.tv_sec as f64 * 1e3 + t.tv_nsec as f64 * 1e-6
}

/// The vectors of all texts, and the milliseconds that took: wall and CPU time.
fn run(
    encoder: &Encoder,
    texts: &[String],
    scratch: &mut Scratch,
) -> Result<(Vec<Vec<f32>>, [f64; 2]), engram_inference::Error> {
    let (wall, cpu) = (Instant::now(), cpu_ms());
    let windows: Vec<_> = texts.iter().flat_map(|text| encoder.windows(text)).collect();
    let vectors = encoder.encode(&windows, scratch)?;
    Ok((vectors, [wall.elapsed().as_secs_f64() * 1e3, cpu_ms() - cpu]))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let serve = arguments.pop_if(|last| last == "--serve").is_some();
    let (folder, precision) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [folder] | [folder, "auto"] => (folder, Precision::Auto),
        [folder, "f32"] => (folder, Precision::F32),
        [folder, "bf16"] => (folder, Precision::Bf16),
        _ => return Err("usage: encode FOLDER [f32|bf16|auto] [--serve]".into()),
    };
    let start = Instant::now();
    let encoder = Encoder::load_as(Path::new(folder), precision)?;
    eprintln!("{:?} loaded in {:.0} ms", encoder.info(), start.elapsed().as_secs_f64() * 1e3);
    let mut scratch = Scratch::default();
    if serve {
        for line in std::io::stdin().lock().lines() {
            let request: serde_json::Value = serde_json::from_str(&line?)?;
            let texts: Vec<String> = serde_json::from_value(request["texts"].clone())?;
            let (mut wall, mut cpu, mut last) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..request["runs"].as_u64().unwrap_or(1) {
                let (vectors, [w, c]) = run(&encoder, &texts, &mut scratch)?;
                wall.push(w);
                cpu.push(c);
                last = vectors;
            }
            let mut answer = serde_json::json!({ "wall": wall, "cpu": cpu });
            if request["vectors"] == true {
                answer["vectors"] = serde_json::json!(last);
            }
            println!("{answer}");
            std::io::stdout().flush()?;
        }
        return Ok(());
    }
    println!("CPU milliseconds: least and median");
    for (texts, tokens) in [(1, 8), (1, 16), (1, 32), (1, 128), (1, encoder.window()), (4, 8), (8, 8), (32, 8)] {
        // One token per word, two for the edges.
        let batch = vec!["river ".repeat(tokens - 2); texts];
        let runs = 2 + 4000 / (texts * tokens);
        let mut times = Vec::with_capacity(runs);
        for _ in 0..runs {
            times.push(run(&encoder, &batch, &mut scratch)?.1[1]);
        }
        times.sort_by(f64::total_cmp);
        println!("{texts:3} × {tokens:4} tokens: {:.3} {:.3}", times[0], times[runs / 2]);
    }
    Ok(())
}
