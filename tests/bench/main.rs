//! The benchmark: what a client waits for, measured over loopback against a server started by `scripts/serve`, each figure beside PING in the same run
//! because machines differ and shared ones drift. Writes `docs/benchmarks.md` and `docs/benchmarks.json`.
//!
//! `scripts/bench` builds the release module and runs it. Options: `--memories N` (10,000), `--quick` (a tenth of everything, writes nothing).

mod random_gemma;
mod report;
mod server;
mod texts;

use std::error::Error;
use std::time::{Duration, Instant};

use redis::{Connection, Value};

use report::{Report, percentile};
use server::Server;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Dimensions of the vectors that are stored by VECTOR.
const DIM: usize = 384;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|a| a == "--help" || a == "-h") {
        println!(
            "usage: scripts/bench [--memories N] [--quick]\n  --memories N  memories in the space that is recalled from (10000)\n  --quick       a tenth of everything, and no files written"
        );
        return Ok(());
    }
    let quick = args.iter().any(|a| a == "--quick");
    let asked = args.iter().position(|a| a == "--memories").and_then(|i| args.get(i + 1));
    let mut memories: usize = asked.map_or(Ok(10_000), |n| n.parse())?;
    let mut rounds = 1_000;
    if quick {
        memories /= 10;
        rounds /= 10;
    }
    let mut report = Report::new(memories);
    memory_by_text(&mut report, memories, rounds)?;
    memory_by_vector(&mut report, memories, rounds)?;
    generation(&mut report, quick)?;
    report.test_times();
    println!("\n{}", report.markdown());
    if quick {
        println!("(--quick: docs/benchmarks.md is not written)");
        return Ok(());
    }
    report.write()
}

/// Times `rounds` calls, in microseconds, with a PING before each so that both see the same machine.
fn timed(
    c: &mut Connection,
    rounds: usize,
    mut call: impl FnMut(&mut Connection, usize) -> Outcome<()>,
) -> Outcome<(Vec<f64>, Vec<f64>)> {
    let (mut calls, mut pings) = (Vec::with_capacity(rounds), Vec::with_capacity(rounds));
    for i in 0..rounds {
        let started = Instant::now();
        redis::cmd("PING").query::<()>(c)?;
        pings.push(started.elapsed().as_secs_f64() * 1e6);
        let started = Instant::now();
        call(c, i)?;
        calls.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok((calls, pings))
}

/// Bytes of a space per memory, as the server counts them for the key.
fn bytes_per_memory(c: &mut Connection, key: &str, memories: usize) -> Outcome<f64> {
    let bytes: f64 = redis::cmd("MEMORY").arg("USAGE").arg(key).query(c)?;
    Ok(bytes / memories as f64)
}

fn memory_by_text(report: &mut Report, memories: usize, rounds: usize) -> Outcome<()> {
    let server = Server::start(&[])?;
    let c = &mut server.connect()?;
    server.wait_for_embedder(c)?;
    let sentences = texts::sentences(memories + 2 * rounds);
    c.set_read_timeout(Some(Duration::from_secs(600)))?;
    redis::cmd("MEM.CONFIG").arg("SET").arg("m").arg("short_term.capacity").arg(0).query::<()>(c)?;

    let started = Instant::now();
    for (done, batch) in sentences[..memories - rounds].chunks(100).enumerate() {
        let mut cmd = redis::cmd("MEM.MSTORE");
        cmd.arg("m");
        for text in batch {
            cmd.arg(serde_json::json!({ "content": text }).to_string());
        }
        cmd.query::<Value>(c)?;
        report::progress("storing text by MEM.MSTORE", (done + 1) * batch.len(), memories - rounds);
    }
    let rate = (memories - rounds) as f64 / started.elapsed().as_secs_f64();
    report.row("MEM.MSTORE text, batches of 100", &format!("{rate:.0} memories/s"), None);

    let (mut store, mut ping) = timed(c, rounds, |c, i| {
        Ok(redis::cmd("MEM.STORE").arg("m").arg(&sentences[memories - rounds + i]).query(c)?)
    })?;
    report.latency("MEM.STORE text (new), embedding included", &mut store, &mut ping);
    let stored: usize = redis::cmd("MEM.COUNT").arg("m").query(c)?;
    assert_eq!(stored, memories, "every text was stored");
    let bytes = bytes_per_memory(c, "m", memories)?;
    report.row(
        "bytes per memory stored as text, f32 vector of 384 included (MEMORY USAGE)",
        &format!("{bytes:.0}"),
        None,
    );

    let new = &sentences[memories..];
    let (mut recall, mut ping) =
        timed(c, rounds, |c, i| Ok(redis::cmd("MEM.RECALL").arg("m").arg(&new[i]).query(c)?))?;
    report.latency("MEM.RECALL text never seen, embedding included", &mut recall, &mut ping);
    let (mut recall, mut ping) =
        timed(c, rounds, |c, i| Ok(redis::cmd("MEM.RECALL").arg("m").arg(&new[i]).query(c)?))?;
    report.latency("MEM.RECALL text whose embedding is cached", &mut recall, &mut ping);
    let (mut filtered, mut ping) = timed(c, rounds, |c, i| {
        Ok(redis::cmd("MEM.RECALL").arg("m").arg(&new[i]).arg("FILTER").arg(".importance > 0.9").query(c)?)
    })?;
    report.latency("MEM.RECALL text, cached, FILTER that nothing passes", &mut filtered, &mut ping);
    Ok(())
}

fn memory_by_vector(report: &mut Report, memories: usize, rounds: usize) -> Outcome<()> {
    let server = Server::start(&["--engram.embedder", ""])?;
    let c = &mut server.connect()?;
    redis::cmd("MEM.CONFIG").arg("SET").arg("v").arg("short_term.capacity").arg(0).query::<()>(c)?;
    let mut random = texts::Random::new(7);
    let mut vector = move || -> Vec<u8> { (0..DIM).flat_map(|_| random.normal().to_le_bytes()).collect() };
    let started = Instant::now();
    let mut stored = 0;
    while stored < memories {
        let mut pipe = redis::pipe();
        for _ in 0..200.min(memories - stored) {
            stored += 1;
            pipe.cmd("MEM.STORE").arg("v").arg(format!("memory number {stored}")).arg("VECTOR").arg(vector()).ignore();
        }
        pipe.query::<()>(c)?;
    }
    let rate = memories as f64 / started.elapsed().as_secs_f64();
    report.row("MEM.STORE by VECTOR, pipelines of 200", &format!("{rate:.0} memories/s"), None);
    let bytes = bytes_per_memory(c, "v", memories)?;
    report.row(
        "bytes per memory stored by VECTOR, f32 vector of 384 included (MEMORY USAGE)",
        &format!("{bytes:.0}"),
        None,
    );
    let queries: Vec<Vec<u8>> = (0..rounds).map(|_| vector()).collect();
    let (mut recall, mut ping) =
        timed(c, rounds, |c, i| Ok(redis::cmd("MEM.RECALL").arg("v").arg("VECTOR").arg(&queries[i]).query(c)?))?;
    report.latency("MEM.RECALL by VECTOR, exact", &mut recall, &mut ping);
    Ok(())
}

fn generation(report: &mut Report, quick: bool) -> Outcome<()> {
    let server = Server::start(&["--engram.embedder", ""])?;
    let c = &mut server.connect()?;
    c.set_read_timeout(Some(Duration::from_secs(600)))?;
    // Speed depends on shapes, not on what the weights know: random ones in the real shape of Gemma 3 270M, with a small vocabulary's text.
    report::progress("writing a model of the shape of Gemma 3 270M, Q8_0, random weights", 0, 1);
    let file = server.model_dir().join("bench-270m-q8_0.gguf");
    random_gemma::write(&file, &random_gemma::GEMMA_3_270M)?;
    redis::cmd("GEMMA.LOAD").arg("bench").arg("bench-270m-q8_0.gguf").query::<()>(c)?;
    let prompt = texts::sentences(if quick { 8 } else { 40 }).join(" ");
    let tokens = if quick { 16 } else { 128 };
    let generate = |c: &mut Connection, seed: usize| -> Outcome<Vec<(String, Value)>> {
        let mut cmd = redis::cmd("GEMMA.GENERATE");
        cmd.arg(&prompt).arg("MAXTOKENS").arg(tokens).arg("SEED").arg(seed);
        let reply: Vec<(String, Value)> = cmd.query(c)?;
        Ok(reply)
    };
    let number = |reply: &[(String, Value)], field: &str| -> Outcome<f64> {
        let (_, value) = reply.iter().find(|(name, _)| name == field).ok_or("a field is missing in the reply")?;
        Ok(redis::from_redis_value_ref(value)?)
    };
    let (mut decode, mut prefill) = (Vec::new(), Vec::new());
    for seed in 0..if quick { 1 } else { 5 } {
        let reply = generate(c, seed)?;
        decode.push(number(&reply, "tokens_per_second")?);
        prefill.push(number(&reply, "prompt_tokens_per_second")?);
    }
    report.row(
        "GEMMA.GENERATE, shape of Gemma 3 270M Q8_0, one thread: answer",
        &format!("{:.1} tokens/s", percentile(&mut decode, 0.5)),
        None,
    );
    report.row(
        "GEMMA.GENERATE, shape of Gemma 3 270M Q8_0, one thread: prompt",
        &format!("{:.1} tokens/s", percentile(&mut prefill, 0.5)),
        None,
    );

    let quiet = pings(c, Duration::from_secs(if quick { 1 } else { 5 }), |_| false)?;
    let busy = std::thread::scope(|scope| -> Outcome<Vec<f64>> {
        let workers: Vec<_> = (0..2)
            .map(|seed| {
                let mut c = server.connect()?;
                c.set_read_timeout(Some(Duration::from_secs(600)))?;
                Ok(scope.spawn(move || generate(&mut c, 100 + seed).map(drop).map_err(|e| e.to_string())))
            })
            .collect::<Outcome<_>>()?;
        let busy = pings(c, Duration::from_secs(120), |_| workers.iter().all(|w| w.is_finished()))?;
        for worker in workers {
            worker.join().map_err(|_| "a generation panicked")??;
        }
        Ok(busy)
    })?;
    for (name, mut times) in [("PING, idle server", quiet), ("PING while two generations run", busy)] {
        let (p50, p999) = (percentile(&mut times, 0.5), percentile(&mut times, 0.999));
        report.row(name, &format!("p50 {:.3} ms, p99.9 {:.3} ms", p50 / 1e3, p999 / 1e3), None);
    }
    Ok(())
}

/// PINGs back to back until time is up or `stop` says so; microseconds each.
fn pings(c: &mut Connection, time: Duration, stop: impl Fn(usize) -> bool) -> Outcome<Vec<f64>> {
    let begun = Instant::now();
    let mut times = Vec::new();
    while begun.elapsed() < time && !stop(times.len()) {
        let started = Instant::now();
        redis::cmd("PING").query::<()>(c)?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(times)
}
