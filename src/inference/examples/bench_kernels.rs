//! The speed of products with plain weights: for each CPU path and format, GB of weights per second with one row of a matrix that
//! is larger than every cache (a token being decoded), and billions of multiplications per second with several rows (answers in a
//! batch, and a prompt being read). One thread, its own CPU time, the best of some tries.
//!
//! `cargo run --release -p engram-inference --example bench_kernels`, with the name of a path behind `--` for that one alone.
#![allow(clippy::unwrap_used)]

use engram_inference::kernels::{Format, Tiles, available, tiles_bytes};
use engram_inference::memory::Arena;

fn cpu_seconds() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call only writes to `t`.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

/// The least seconds of one call in some tries.
fn least(mut f: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    let end = cpu_seconds() + 0.2;
    while cpu_seconds() < end {
        let start = cpu_seconds();
        f();
        best = best.min(cpu_seconds() - start);
    }
    best
}

fn main() {
    let only = std::env::args().nth(1);
    println!("path, format, rows × columns: rows of x: GMAC/s");
    for path in available() {
        if path.name == "baseline" || only.as_ref().is_some_and(|only| only != path.name) {
            continue;
        }
        for format in Format::ALL {
            for (rows, cols) in [(200_000, 640), (2048, 640), (6912, 1152), (1152, 6912)] {
                // Small numbers in every format: 0x2c is the exponent of about 0.06 in half precision.
                let bytes = tiles_bytes(format, rows, cols).unwrap();
                let mut data = Arena::new(bytes).unwrap().take(bytes).unwrap();
                data.fill(0x2c);
                let mut line = format!("{:6} {:4} {rows:6} × {cols:4}:", path.name, format.name());
                for m in [1, 2, 4, 8, 32, 128] {
                    if rows > 100_000 && m > 8 {
                        continue;
                    }
                    let x: Vec<f32> = (0..m * cols).map(|i| (i as f32 * 0.37).sin()).collect();
                    let mut y = vec![0.0; m * rows];
                    // SAFETY: there is room for all products.
                    let seconds = least(|| unsafe {
                        path.product(Tiles { format, data: &data, cols, rows, x: &x, y: y.as_mut_ptr(), stride: rows });
                    });
                    line += &format!("  {m}: {:5.1}", (rows * cols * m) as f64 / seconds * 1e-9);
                    if m == 1 {
                        line += &format!(" ({:.1} GB/s)", data.len() as f64 / seconds * 1e-9);
                    }
                }
                println!("{line}");
            }
        }
    }
}
