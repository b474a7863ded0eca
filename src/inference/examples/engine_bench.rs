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

use engram_inference::gemma::{Gemma, LoadOptions, Progress, Sequence};
use engram_inference::kernels::kernels;
use engram_inference::memory::MappedVec;
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
    let mut bench = Bench { path: path.into(), threads, model: None, sequence: None };
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
    model: Option<Arc<Gemma>>,
    /// The text of the single-stream commands; it holds nothing between them but its memory.
    sequence: Option<Sequence>,
}

impl Bench {
    fn answer(&mut self, words: &[&str]) -> Outcome<Value> {
        let number = |text: &str| text.parse::<usize>();
        match *words {
            ["version"] => Ok(json!({ "engram": env!("CARGO_PKG_VERSION"), "kernels": kernels().name })),
            ["load"] => self.load(),
            ["memory"] => memory(),
            ["prefill", n] => self.prefill(number(n)?),
            ["decode", depth, n] => self.decode(number(depth)?, number(n)?),
            ["streams", s, n] => self.streams(number(s)?, number(n)?),
            ["greedy", ids, n] => {
                let ids = ids.split(',').map(str::parse).collect::<Result<Vec<u32>, _>>()?;
                self.greedy(&ids, number(n)?)
            }
            ["bandwidth"] => bandwidth(self.threads),
            _ => Err("unknown command".into()),
        }
    }

    fn load(&mut self) -> Outcome<Value> {
        if self.threads != 1 {
            return Err(format!("a sequence steps on one thread, not on {}", self.threads).into());
        }
        (self.sequence, self.model) = (None, None);
        let began = Instant::now();
        let model = Arc::new(Gemma::load(&self.path, &LoadOptions::default(), &Progress::default())?);
        self.sequence = Some(Sequence::new(Arc::clone(&model), CONTEXT.min(model.info().context))?);
        self.model = Some(model);
        let seconds = began.elapsed().as_secs_f64();
        let mut reply = memory()?;
        reply["seconds"] = json!(seconds);
        Ok(reply)
    }

    fn model(&self) -> Outcome<&Arc<Gemma>> {
        Ok(self.model.as_ref().ok_or("nothing is loaded")?)
    }

    /// An empty text.
    fn cleared(&mut self) -> Outcome<&mut Sequence> {
        let model = Arc::clone(self.model()?);
        self.sequence = None;
        Ok(self.sequence.insert(Sequence::new(Arc::clone(&model), CONTEXT.min(model.info().context))?))
    }

    fn prefill(&mut self, n: usize) -> Outcome<Value> {
        let tokens = tokens(0, 0, n);
        let sequence = self.cleared()?;
        let began = Instant::now();
        sequence.extend_for_logits(&tokens)?;
        Ok(seconds(began))
    }

    fn decode(&mut self, depth: usize, n: usize) -> Outcome<Value> {
        let sequence = self.cleared()?;
        sequence.extend(&tokens(0, 0, depth))?;
        let began = Instant::now();
        for token in tokens(0, depth, n) {
            sequence.extend_for_logits(&[token])?;
        }
        Ok(seconds(began))
    }

    fn streams(&mut self, streams: usize, n: usize) -> Outcome<Value> {
        let model = self.model()?;
        let mut sequences = Vec::with_capacity(streams);
        for stream in 0..streams {
            let mut sequence = Sequence::new(Arc::clone(model), STREAM_DEPTH + n)?;
            sequence.extend(&tokens(stream, 0, STREAM_DEPTH))?;
            sequences.push((sequence, tokens(stream, STREAM_DEPTH, n)));
        }
        let began = Instant::now();
        for step in 0..n {
            for (sequence, tokens) in &mut sequences {
                sequence.extend_for_logits(&tokens[step..=step])?;
            }
        }
        Ok(seconds(began))
    }

    fn greedy(&mut self, prompt: &[u32], n: usize) -> Outcome<Value> {
        let sequence = self.cleared()?;
        let mut ids: Vec<u32> = Vec::with_capacity(n);
        while ids.len() < n {
            let logits = match ids.last() {
                None => sequence.extend_for_logits(prompt)?,
                Some(last) => sequence.extend_for_logits(&[*last])?,
            };
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
