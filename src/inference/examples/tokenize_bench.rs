//! How long a tokenizer takes to load, and how fast it encodes a text and what is meant to slow it.
//!
//!     cargo run --release -p engram-inference --example tokenize_bench -- MODEL TEXT
//!
//! MODEL is a GGUF, a `tokenizer.json` or a `tokenizer.model`, TEXT a file of UTF-8. Times are the least of several runs, in this thread's CPU time, which a
//! busy machine disturbs least; speeds are 10^6 bytes per second of it.

use std::path::Path;
use std::time::Duration;

use engram_inference::Tokenizer;
use engram_inference::gguf::Gguf;

/// What this thread has used.
fn used() -> Duration {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call only writes to `t`.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// The least time of `runs`, and the last result.
fn best<T>(runs: usize, mut work: impl FnMut() -> T) -> (Duration, T) {
    let timed = |work: &mut dyn FnMut() -> T| {
        let start = used();
        let made = work();
        (used() - start, made)
    };
    let mut least = timed(&mut work);
    for _ in 1..runs {
        let (time, made) = timed(&mut work);
        least = (least.0.min(time), made);
    }
    least
}

fn load(path: &Path) -> Result<Tokenizer, Box<dyn std::error::Error>> {
    if path.extension().is_some_and(|extension| extension == "gguf") {
        let (open, gguf) = best(3, || Gguf::open(path));
        let gguf = gguf?;
        let (build, tokenizer) = best(3, || Tokenizer::from_gguf(&gguf));
        println!("load: {:.0} ms for the file's header, {:.0} ms for the tokenizer", ms(open), ms(build));
        Ok(tokenizer?)
    } else {
        let (time, tokenizer) = best(3, || Tokenizer::from_file(path));
        println!("load: {:.0} ms", ms(time));
        Ok(tokenizer?)
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(model), Some(text), None) = (arguments.next(), arguments.next(), arguments.next()) else {
        return Err("usage: tokenize_bench MODEL TEXT".into());
    };
    let tokenizer = load(Path::new(&model))?;
    let mapped = engram_inference::memory::mapped_bytes();
    println!("{} pieces, {:.1} MB mapped", tokenizer.vocabulary_size(), mapped as f64 / 1e6);
    let text = std::fs::read_to_string(text)?;
    let (first, _) = best(1, || tokenizer.encode(&text));
    println!("{:<28} {:>8.1} MB/s", "the text, first time", text.len() as f64 / 1e6 / first.as_secs_f64());
    let mb = 1 << 20;
    let repeated = |part: &str| part.repeat(mb / part.len());
    // Letters and spaces without a pattern.
    let mut state = 1u32;
    let mut letter = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b"abcdefghijklmnopqrstuvwxyz      "[(state >> 27) as usize])
    };
    let noise: String = (0..mb).map(|_| letter()).collect();
    let cases = [
        ("the text", text.clone()),
        ("one letter", repeated("a")),
        ("two letters", repeated("ab")),
        ("random words", noise.clone()),
        ("random letters", noise.replace(' ', "e")),
        ("digits", repeated("31415926")),
        ("spaces", repeated(" ")),
        ("newlines", repeated("\n")),
        ("newlines and spaces", repeated(" \n")),
        ("tabs", repeated("\t")),
        ("emoji", repeated("\u{1f999}")),
        ("joined emoji", repeated("\u{1f636}\u{200d}\u{1f32b}\u{fe0f}")),
        ("characters without a piece", repeated("\u{13000}")),
        ("angle brackets", repeated("<")),
        ("control pieces", repeated("<end_of_turn><turn|>")),
        ("lower lines", repeated("▁")),
        ("Chinese", repeated("我想在苹果工作一三一四一五一天")),
    ];
    for (name, text) in cases {
        let (time, ids) = best(5, || tokenizer.encode(&text));
        let speed = text.len() as f64 / 1e6 / time.as_secs_f64();
        println!("{name:<28} {speed:>8.1} MB/s {:>8} tokens of {} bytes", ids.len(), text.len());
    }
    Ok(())
}
