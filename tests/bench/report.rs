//! What the benchmark prints and writes.

use std::fmt::Write as _;
use std::path::Path;

use crate::Outcome;

/// The value below which this share of the times lies; sorts them.
pub fn percentile(times: &mut [f64], share: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    let last = times.len().saturating_sub(1);
    times.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}

/// Shows how far something is, on one line of a terminal.
pub fn progress(what: &str, done: usize, of: usize) {
    use std::io::{IsTerminal as _, Write as _};
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{what}: {done} of {of}");
        if done >= of {
            eprintln!();
        }
        let _ = std::io::stderr().flush();
    }
}

struct Row {
    what: String,
    figure: String,
    beside: Option<String>,
}

/// The table in the making.
pub struct Report {
    memories: usize,
    rows: Vec<Row>,
}

impl Report {
    /// A report about spaces of so many memories.
    pub fn new(memories: usize) -> Report {
        Report { memories, rows: Vec::new() }
    }

    /// Adds a figure and shows it.
    pub fn row(&mut self, what: &str, figure: &str, beside: Option<String>) {
        println!("{what}: {figure}{}", beside.as_deref().map(|b| format!("  ({b})")).unwrap_or_default());
        self.rows.push(Row { what: what.to_owned(), figure: figure.to_owned(), beside });
    }

    /// Adds the latency of a command, in microseconds, beside PINGs of the same minute.
    pub fn latency(&mut self, what: &str, times: &mut [f64], pings: &mut [f64]) {
        let (p50, p99, ping) = (percentile(times, 0.5), percentile(times, 0.99), percentile(pings, 0.5));
        self.row(
            what,
            &format!("p50 {:.3} ms, p99 {:.3} ms", p50 / 1e3, p99 / 1e3),
            Some(format!("{:.1} × PING", p50 / ping)),
        );
    }

    /// The page.
    pub fn markdown(&self) -> String {
        let mut page =
            String::from("# Benchmarks\n\nMade by `make bench`; every figure below was printed by it in one run.\n\n");
        let _ = writeln!(
            page,
            "* Machine: {}, {} cores visible",
            cpu(),
            std::thread::available_parallelism().map_or(0, usize::from)
        );
        let _ = writeln!(
            page,
            "* Server: {}",
            first_line(&std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned()), &["--version"])
        );
        let _ = writeln!(page, "* Compiler: {}", first_line("rustc", &["--version"]));
        let _ = writeln!(page, "* Memories in the space that is recalled from: {}\n", self.memories);
        page.push_str("| what | figure | beside PING in the same run |\n|---|---|---|\n");
        for row in &self.rows {
            let _ = writeln!(page, "| {} | {} | {} |", row.what, row.figure, row.beside.as_deref().unwrap_or("–"));
        }
        page
    }

    /// Adds how long building and testing took, if `make test` has run in this checkout.
    pub fn test_times(&mut self) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../var/test-times.tsv");
        let Ok(times) = std::fs::read_to_string(path) else { return };
        for (step, seconds) in times.lines().filter_map(|line| line.split_once('\t')) {
            self.row(&format!("make test: {step}"), &format!("{seconds} s"), None);
        }
    }

    /// Writes `docs/benchmarks.md` and `docs/benchmarks.json`.
    pub fn write(&self) -> Outcome<()> {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        std::fs::create_dir_all(&docs)?;
        std::fs::write(docs.join("benchmarks.md"), self.markdown())?;
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|r| serde_json::json!({ "what": r.what, "figure": r.figure, "beside_ping": r.beside }))
            .collect();
        let json = serde_json::json!({ "machine": cpu(), "memories": self.memories, "rows": rows });
        std::fs::write(docs.join("benchmarks.json"), format!("{json:#}\n"))?;
        println!("written: docs/benchmarks.md, docs/benchmarks.json");
        Ok(())
    }
}

fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|l| l.strip_prefix("model name").and_then(|l| l.split(':').nth(1)))
        .unwrap_or("unknown")
        .trim()
        .to_owned();
    let has = |flag: &str| info.lines().any(|l| l.starts_with("flags") && l.split_whitespace().any(|f| f == flag));
    let simd = if has("avx512f") {
        "AVX-512"
    } else if has("avx2") {
        "AVX2"
    } else {
        "no AVX2"
    };
    format!("{model} ({}, {simd})", std::env::consts::ARCH)
}

fn first_line(program: &str, args: &[&str]) -> String {
    let output = std::process::Command::new(program).args(args).output();
    output
        .ok()
        .and_then(|o| String::from_utf8(o.stdout).ok())
        .and_then(|o| o.lines().next().map(str::to_owned))
        .unwrap_or_else(|| "unknown".to_owned())
}
