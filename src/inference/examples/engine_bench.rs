//! The generation engine as one of the programs that `scripts/bench-engine` runs in turn. It speaks the protocol that `tests/bench/llama.py` describes, on
//! stdin and stdout, so that both do the same work at the same moment:
//! `cargo run --release -p engram-inference --example engine_bench -- model.gguf THREADS`
//!
//! Beyond that protocol it answers `bandwidth` with what this machine's memory gives so many threads that only read: the ceiling of a step of one stream, which
//! reads every weight once.

use std::io::{BufRead, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Barrier};
use std::time::Instant;

use engram_inference::gemma::{BATCH, Gemma, KvFormat, LoadOptions, Part, Progress, Sequence, Workspace};
use engram_inference::kernels::kernels;
use engram_inference::memory::MappedVec;
use engram_inference::pool::Pool;
use engram_inference::team::Lead;
use serde_json::{Value, json};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Tokens that a text can have; the peer's context is as long.
const CONTEXT: usize = 4096;
/// Tokens of each stream before the clock starts, as the protocol has it.
const STREAM_DEPTH: usize = 32;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, threads] = arguments.as_slice() else {
        return Err("usage: engine_bench model.gguf THREADS".into());
    };
    let threads = threads.parse::<NonZeroUsize>()?.get();
    // The thread that reads commands is one of them.
    let helpers = (threads > 1).then(|| Pool::new(threads - 1, 0).map(Arc::new)).transpose()?;
    let mut bench = Bench { path: path.into(), threads, helpers, loaded: None };
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        if words == ["quit"] {
            break;
        }
        let reply = bench.answer(&words).unwrap_or_else(|error| json!({ "error": error.to_string() }));
        writeln!(std::io::stdout(), "{reply}")?;
    }
    Ok(())
}

struct Bench {
    path: PathBuf,
    threads: usize,
    helpers: Option<Arc<Pool>>,
    loaded: Option<Loaded>,
}

struct Loaded {
    model: Arc<Gemma>,
    work: Workspace,
}

impl Loaded {
    /// An empty text.
    fn text(&self) -> Outcome<Sequence> {
        Ok(Sequence::new(Arc::clone(&self.model), CONTEXT.min(self.model.info().context))?)
    }

    /// Appends tokens, and computes the logits after the last one as far as a choice among the `keep` likeliest needs them, which a
    /// greedy one with 1 is; 0 is none.
    fn append(&mut self, sequence: &mut Sequence, tokens: &[u32], lead: &Lead<'_>, keep: usize) -> Outcome<()> {
        let last = tokens.len().div_ceil(BATCH);
        for (n, tokens) in tokens.chunks(BATCH).enumerate() {
            let logits = usize::from(keep > 0 && n + 1 == last);
            self.work.append(&mut [Part { sequence, tokens, logits, exact: false }], lead, &|| {})?;
        }
        if keep > 0 {
            self.work.of_row(0, lead).reach(keep, [], None);
        }
        Ok(())
    }
}

impl Bench {
    fn answer(&mut self, words: &[&str]) -> Outcome<Value> {
        let number = |text: &str| text.parse::<usize>();
        match *words {
            ["version"] => Ok(json!({ "engram": env!("CARGO_PKG_VERSION"), "kernels": kernels().name })),
            ["load"] => self.load(KvFormat::Bf16),
            ["load", "q8"] => self.load(KvFormat::Q8),
            ["memory"] => memory(),
            ["prefill", n] => self.prefill(number(n)?),
            ["decode", depth, n] => self.decode(number(depth)?, number(n)?, 1),
            // Beyond the protocol: for a choice among the `k` likeliest.
            ["decode", depth, n, k] => self.decode(number(depth)?, number(n)?, number(k)?),
            ["streams", s, n] => self.streams(number(s)?, number(n)?),
            ["greedy", ids, n] => {
                let ids = ids.split(',').map(str::parse).collect::<Result<Vec<u32>, _>>()?;
                self.greedy(&ids, number(n)?)
            }
            ["bandwidth"] => bandwidth(self.threads),
            _ => Err("unknown command".into()),
        }
    }

    fn load(&mut self, kv: KvFormat) -> Outcome<Value> {
        self.loaded = None;
        let options = LoadOptions { pool: self.helpers.clone(), kv, ..LoadOptions::default() };
        let began = Instant::now();
        let model = Arc::new(Gemma::load(&self.path, &options, &Progress::default())?);
        self.loaded = Some(Loaded { work: Workspace::new(Arc::clone(&model))?, model });
        let seconds = began.elapsed().as_secs_f64();
        let mut reply = memory()?;
        reply["seconds"] = json!(seconds);
        Ok(reply)
    }

    /// What is loaded, and the threads for a step.
    fn ready(&mut self) -> Outcome<(&mut Loaded, Lead<'_>)> {
        let loaded = self.loaded.as_mut().ok_or("nothing is loaded")?;
        let lead = match &self.helpers {
            Some(pool) => pool.lead(),
            None => Lead::alone(),
        };
        Ok((loaded, lead))
    }

    fn prefill(&mut self, n: usize) -> Outcome<Value> {
        let tokens = tokens(0, 0, n);
        let (loaded, lead) = self.ready()?;
        let mut sequence = loaded.text()?;
        let began = Instant::now();
        loaded.append(&mut sequence, &tokens, &lead, 1)?;
        Ok(seconds(began))
    }

    fn decode(&mut self, depth: usize, n: usize, keep: usize) -> Outcome<Value> {
        let (loaded, lead) = self.ready()?;
        let mut sequence = loaded.text()?;
        loaded.append(&mut sequence, &tokens(0, 0, depth), &lead, 0)?;
        let (began, before) = (Instant::now(), loaded.work.reached());
        for token in tokens(0, depth, n) {
            loaded.append(&mut sequence, &[token], &lead, keep)?;
        }
        let mut reply = seconds(began);
        reply["tiles_per_token"] = json!((loaded.work.reached() - before) as f64 / n as f64);
        Ok(reply)
    }

    fn streams(&mut self, streams: usize, n: usize) -> Outcome<Value> {
        let (loaded, lead) = self.ready()?;
        let mut texts = Vec::with_capacity(streams);
        for stream in 0..streams {
            let mut sequence = loaded.text()?;
            loaded.append(&mut sequence, &tokens(stream, 0, STREAM_DEPTH), &lead, 0)?;
            texts.push((sequence, tokens(stream, STREAM_DEPTH, n)));
        }
        let began = Instant::now();
        for step in 0..n {
            let parts = texts.iter_mut();
            let mut parts: Vec<Part<'_>> = parts
                .map(|(sequence, tokens)| Part { sequence, tokens: &tokens[step..=step], logits: 1, exact: false })
                .collect();
            loaded.work.append(&mut parts, &lead, &|| {})?;
            for row in 0..streams {
                loaded.work.of_row(row, &lead).reach(1, [], None);
            }
        }
        Ok(seconds(began))
    }

    fn greedy(&mut self, prompt: &[u32], n: usize) -> Outcome<Value> {
        let (loaded, lead) = self.ready()?;
        let mut sequence = loaded.text()?;
        let mut ids: Vec<u32> = Vec::with_capacity(n);
        while ids.len() < n {
            match ids.last() {
                None => loaded.append(&mut sequence, prompt, &lead, 1)?,
                Some(&last) => loaded.append(&mut sequence, &[last], &lead, 1)?,
            }
            let logits = loaded.work.logits(0);
            // The first of the highest.
            let mut best = 0;
            for (id, logit) in logits.iter().enumerate() {
                if *logit > logits[best] {
                    best = id;
                }
            }
            ids.push(u32::try_from(best)?);
        }
        Ok(json!({ "ids": ids }))
    }
}

/// The tokens at `first..first + n` of a stream's text, as the protocol has them.
fn tokens(stream: usize, first: usize, n: usize) -> Vec<u32> {
    (first..first + n).map(|i| (1_000 + (7_919 * i + 104_729 * stream + 13) % 250_000) as u32).collect()
}

fn seconds(began: Instant) -> Value {
    json!({ "seconds": began.elapsed().as_secs_f64() })
}

/// What the process has in memory now, the pages of a mapped file that it has touched included.
fn memory() -> Outcome<Value> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| -> Outcome<f64> {
        let line =
            status.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such field in /proc/self/status")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse::<f64>()? * 1024.0 / 1e6)
    };
    Ok(json!({ "resident_mb": field("VmRSS:")?, "anonymous_mb": field("RssAnon:")? }))
}

/// The best of several passes over 512 MB, far more than any cache, each thread over its own part. In large pages where the system has them: with small ones
/// a linear pass waits for addresses to be translated, which is no limit of the memory.
fn bandwidth(threads: usize) -> Outcome<Value> {
    const WORDS: usize = (512 << 20) / size_of::<u32>();
    const PASSES: usize = 8;
    let mut words = MappedVec::<u32>::zeroed(WORDS)?;
    // SAFETY: advice about the whole of a mapping that `words` owns; it changes no content, and where it is refused nothing is lost.
    #[cfg(target_os = "linux")]
    unsafe {
        libc::madvise(words.as_mut_ptr().cast(), size_of_val(&words[..]), libc::MADV_HUGEPAGE);
    }
    // Pages that were never written are all the same page of zeros.
    words.fill(1);
    let start = Barrier::new(threads);
    let mut best = f64::INFINITY;
    for _ in 0..PASSES {
        let took = std::thread::scope(|scope| -> Outcome<f64> {
            let workers: Vec<_> = words
                .chunks(WORDS.div_ceil(threads))
                .map(|part| {
                    let start = &start;
                    scope.spawn(move || {
                        start.wait();
                        let began = Instant::now();
                        std::hint::black_box(sum(part));
                        (began, Instant::now())
                    })
                })
                .collect();
            let mut times = Vec::with_capacity(threads);
            for worker in workers {
                times.push(worker.join().map_err(|_| "a thread panicked")?);
            }
            let first = times.iter().map(|(began, _)| *began).min().ok_or("no thread")?;
            let last = times.iter().map(|(_, ended)| *ended).max().ok_or("no thread")?;
            Ok((last - first).as_secs_f64())
        })?;
        best = best.min(took);
    }
    Ok(json!({ "gb_per_second": size_of_val(&words[..]) as f64 / 1e9 / best, "threads": threads }))
}

/// Adds all of them with the widest loads of the processor.
fn sum(words: &[u32]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has what the function is compiled for, as was just asked.
            return unsafe { sum_avx512(words) };
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { sum_avx2(words) };
        }
    }
    sum_plain(words)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn sum_avx512(words: &[u32]) -> u32 {
    sum_plain(words)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(words: &[u32]) -> u32 {
    sum_plain(words)
}

/// Enough independent sums that additions never wait for each other; the compiler makes vectors of them.
#[inline(always)]
fn sum_plain(words: &[u32]) -> u32 {
    let mut sums = [0u32; 128];
    let (chunks, rest) = words.as_chunks::<128>();
    for chunk in chunks {
        for (sum, word) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().chain(rest).fold(0, |all, word| all.wrapping_add(*word))
}
