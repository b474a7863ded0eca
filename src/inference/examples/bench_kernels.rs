//! The speed of the products: for each CPU path and weight format, one row (GB of weights per second: a token being decoded)
//! and 32 rows (billions of multiplications per second: a prompt being read). One thread, its own CPU time.
//!
//! `cargo run --release -p engram-inference --example bench_kernels`

use engram_inference::kernels::{Encoded, Format, available, scratch_len};

fn cpu_seconds() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call only writes to `t`.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

/// The least seconds of one call in some tries.
fn least(mut f: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    let end = cpu_seconds() + 0.3;
    while cpu_seconds() < end {
        let start = cpu_seconds();
        f();
        best = best.min(cpu_seconds() - start);
    }
    best
}

fn main() {
    const COLS: usize = 1152;
    const ROWS: usize = 6912;
    let x: Vec<f32> = (0..32 * COLS).map(|i| (i as f32 * 0.37).sin()).collect();
    let (mut y, mut scratch) = (vec![0.0; 32 * ROWS], vec![0.0; scratch_len(COLS)]);
    println!("{ROWS} × {COLS}; path, format, 1 row GB/s, 32 rows GMAC/s");
    for path in available() {
        for format in Format::ALL {
            let bytes = format.row_bytes(COLS).unwrap_or(0) * ROWS;
            // Small numbers in every format: 0x2c is the exponent of about 0.06 in half precision.
            let data = vec![0x2c; bytes];
            let w = Encoded { format, data: &data, cols: COLS };
            let rows = if path.name == "baseline" { ROWS / 16 } else { ROWS };
            let w = Encoded { data: &w.data[..bytes / ROWS * rows], ..w };
            let one = least(|| path.product(&x, 1, w, &mut y, &mut scratch));
            let many = least(|| path.product(&x, 32, w, &mut y, &mut scratch));
            let (gb, gmac) = (w.data.len() as f64 / one * 1e-9, (32 * rows * COLS) as f64 / many * 1e-9);
            println!("{:9} {:5} {gb:7.2} {gmac:7.2}", path.name, format.name());
        }
    }
}
