//! How fast packed products are on this CPU: `cargo run --release -p engram-inference --example bench_packed`, with the name of a
//! path behind `--` for that one alone.
//!
//! For each format and path: a matrix larger than every cache with one row (GB/s of weights) and with 8 rows, and one that
//! fits the caches with 128 rows (multiplications per second); one thread, the best of some rounds.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Instant;

use engram_inference::memory::Arena;
use engram_inference::packed::{Packed, Quant, Rows, available};

fn main() {
    let only = std::env::args().nth(1);
    for path in available() {
        if path.name == "scalar" || only.as_ref().is_some_and(|only| only != path.name) {
            continue;
        }
        for quant in [Quant::Q8_0, Quant::Q4_0, Quant::Q5_0, Quant::Q4_K, Quant::Q6_K] {
            let mut line = format!("{:11} {:5}", path.name, quant.name());
            for (rows, cols, m) in [
                (200_000, 768, 1),
                (200_000, 768, 4),
                (200_000, 768, 8),
                (2048, 1024, 32),
                (2048, 1024, 128),
                (1024, 6912, 128),
            ] {
                let bytes: Vec<u8> = (0..rows * quant.row_bytes(cols).unwrap()).map(|i| (i % 37) as u8).collect();
                let len = Packed::bytes_for(quant, rows, cols).unwrap();
                let mut room = Arena::new(len).unwrap().take(len).unwrap();
                // Touched once, so that the time to pack is not that of the system's to give memory.
                room.fill(0);
                let started = Instant::now();
                let w = Packed::pack(quant, rows, cols, &bytes, room).unwrap();
                if m == 1 {
                    line += &format!("  packed at {:.2} GB/s", len as f64 / started.elapsed().as_secs_f64() / 1e9);
                }
                let mut x = Rows::new(m, cols).unwrap();
                x.reset(m, cols);
                for i in 0..m {
                    x.set(path, i, &vec![0.5; cols]);
                }
                let mut y = vec![0f32; m * rows];
                let rounds = if rows > 100_000 { 6 } else { 20 };
                let best = (0..rounds).map(|_| {
                    let started = Instant::now();
                    // SAFETY: `y` has room for all products.
                    unsafe { w.multiply(path, 0..w.tiles(), &x, y.as_mut_ptr(), rows) };
                    started.elapsed().as_secs_f64()
                });
                let best = best.fold(f64::INFINITY, f64::min);
                let (macs, read) = ((rows * cols * m) as f64 / best / 1e9, len as f64 / best / 1e9);
                line += &format!("  {rows}x{cols}x{m}: {read:.1} GB/s {macs:.0} GMAC/s");
            }
            println!("{line}");
        }
    }
}
