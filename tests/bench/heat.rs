//! What cooling saves, what it costs, and what others notice of it.
//!
//! * LoCoMo (`--locomo FILE`): every conversation is stored at the defaults and asked, then cooled by the server's own timer, with settings under which nothing is young, and asked
//!   again: bytes by part and recall of the evidence, hot and cold, on the same memories and questions.
//! * 100,000 memories with vectors as of a model (imported, so that no model has to make them) and word vectors: how many of the exact top 10 are found, hot
//!   and cold, and how long PING takes while all of them cool.

use std::time::{Duration, Instant};

use redis::{Connection, Value as Reply};
use serde_json::json;

use crate::Outcome;
use crate::dataset::{DIM, Dataset, K, recall};
use crate::measure::{beside_a_busy_thread, name, pings, rows};
use crate::quality::{Figures, locomo, recall_of};
use crate::report::{Report, Table, doing, ms, none, number, percentile, progress};
use crate::server::Server;
use crate::texts::{Random, sentences};
use crate::wire::command;
use crate::world::thousands;

/// Nothing is young and nothing is used, as the timer of the next second sees it.
const AT_ONCE: [&str; 6] = ["hot-age", "0", "warm-age", "0", "heat-interval", "1"];
/// Lines of an import.
const LINES: usize = 500;
/// Words of a memory that have vectors.
const WORDS: usize = 13;

/// The section.
pub fn heat(report: &mut Report, locomo_file: Option<&std::path::Path>, len: usize) -> Outcome<()> {
    match locomo_file {
        Some(path) => conversations(report, path)?,
        None => report.skipped("Heat on LoCoMo: not shipped; name its file with --locomo"),
    }
    many(report, len)
}

/// Has all memories of a space cool, and waits until they have.
fn cool(c: &mut Connection, key: &str) -> Outcome<()> {
    redis::cmd("MEM.CONFIG").arg("SET").arg(key).arg(&AT_ONCE).query::<()>(c)?;
    let begun = Instant::now();
    loop {
        let count = |c: &mut Connection, filter: &str| -> Outcome<u64> {
            Ok(redis::cmd("MEM.COUNT").arg(key).arg("FILTER").arg(filter).query(c)?)
        };
        if count(c, ".heat != 'cold'")? == 0 {
            return Ok(());
        }
        if begun.elapsed() > Duration::from_secs(300) {
            return Err(format!("{key} has not cooled in five minutes").into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn conversations(report: &mut Report, path: &std::path::Path) -> Outcome<()> {
    let collections = locomo(path)?;
    let server = Server::engram(&[])?;
    server.wait_for_embedder()?;
    doing("heat: LoCoMo, hot");
    let hot = recall_of(&server, &collections)?;
    let c = &mut server.connect()?;
    doing("heat: LoCoMo, cold");
    for collection in &collections {
        cool(c, &format!("{} ", collection.name))?;
    }
    // What is dead is given back a little at a time.
    std::thread::sleep(Duration::from_secs(3));
    let cold = recall_of(&server, &collections)?;
    let mut table = Table::new(
        "heat",
        "A memory of LoCoMo, hot and cold: bytes by part, and what is found",
        &["part", "hot", "cold"],
    );
    table.note("At the defaults, as MEM.STATS has it; the dictionaries of the texts are in `texts`. Recall@10 of the evidence, over the same spaces and questions.");
    for ((part, hot), (_, cold)) in hot.parts.iter().zip(&cold.parts) {
        table.row([part.as_str().into(), number(*hot, 0), number(*cold, 0)]);
    }
    let sum = |figures: &Figures| figures.parts.iter().map(|(_, bytes)| bytes).sum::<f64>();
    table.row(["all".into(), number(sum(&hot), 0), number(sum(&cold), 0)]);
    table.row(["recall@10".into(), number(hot.at10, 3), number(cold.at10, 3)]);
    report.table(table);
    let share = sum(&cold) / sum(&hot);
    report.target(
        "bytes of a cold memory, of a hot one's",
        "≤ 40 %, recall@10 within 0.5 points",
        format!("{:.1} %, {:+.1} points", 100.0 * share, 100.0 * (cold.at10 - hot.at10)),
        share <= 0.4 && cold.at10 >= hot.at10 - 0.005,
    );
    Ok(())
}

/// Base64 as RFC 4648 has it.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let shown = digit <= three.len();
            text.push(if shown { DIGITS[(bits >> (18 - 6 * digit) & 63) as usize] as char } else { '=' });
        }
    }
    text
}

/// A line of an import: a memory whose vectors a model made.
fn line(row: usize, sentence: &str, vector: &[f32], random: &mut Random) -> String {
    let largest = vector.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let codes: Vec<u8> = vector.iter().map(|x| (x / largest * 127.0).round() as i8 as u8).collect();
    let signs: Vec<u8> = (0..WORDS * DIM / 64).flat_map(|_| random.next().to_le_bytes()).collect();
    json!({"memory": {
        "content": format!("{}: {sentence}", name(row)), "tier": "long_term", "template": 1,
        "vectors": [base64(&codes)], "token_vectors": base64(&signs),
    }})
    .to_string()
}

fn many(report: &mut Report, len: usize) -> Outcome<()> {
    doing(&format!("heat: {} memories", thousands(len)));
    let data = Dataset::new(len, 200);
    let texts = sentences(len);
    let truth = data.truth(|_| true);
    let server = Server::engram(&[])?;
    let c = &mut server.connect()?;
    redis::cmd("MEM.CONFIG")
        .arg(&[
            "SET",
            "h",
            "long_term.capacity",
            "0",
            "long_term.ttl",
            "0",
            "consolidate-interval",
            "0",
            "heat-interval",
            "0",
            "token-vectors",
            "on",
        ])
        .query::<()>(c)?;
    let space = json!({"space": {"format": 1, "model": "imported", "dimensions": DIM, "precision": "i8"}}).to_string();
    redis::cmd("MEM.IMPORT").arg("h").arg(space).query::<Reply>(c)?;
    let mut random = Random::new(7);
    for from in (0..len).step_by(LINES) {
        let mut import = redis::cmd("MEM.IMPORT");
        import.arg("h");
        for (row, text) in texts.iter().enumerate().take(len).skip(from).take(LINES) {
            import.arg(line(row, text, data.row(row), &mut random));
        }
        import.query::<Reply>(c)?;
        progress("importing", from + LINES, len);
    }
    let mut wire = server.wire()?;
    let found = |wire: &mut crate::wire::Wire| -> Outcome<f64> {
        let mut all = Vec::new();
        for query in data.each_query() {
            let bytes: Vec<u8> = query.iter().flat_map(|x| x.to_le_bytes()).collect();
            let words = [&b"MEM.RECALL"[..], b"h", b"VECTOR", &bytes, b"K", b"10", b"NOTOUCH"].map(<[u8]>::to_vec);
            let mut rows = rows(wire.call(&command(&words))?);
            rows.truncate(K);
            all.push(rows);
        }
        Ok(recall(&truth, &all))
    };
    let (hot, before) = (found(&mut wire)?, bytes(c)?);
    let idle = pings(c, Duration::from_secs(2), || false)?;
    let busy = beside_a_busy_thread(|| pings(c, Duration::from_secs(4), || false))?;
    let begun = Instant::now();
    let (port_key, done) = ("h", std::sync::atomic::AtomicBool::new(false));
    let (during, took) = std::thread::scope(|scope| -> Outcome<(Vec<f64>, f64)> {
        let watcher = scope.spawn(|| -> Result<f64, String> {
            let outcome = server.connect().and_then(|mut c| cool(&mut c, port_key)).map_err(|error| error.to_string());
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            outcome.map(|()| begun.elapsed().as_secs_f64())
        });
        let times = pings(c, Duration::from_secs(300), || done.load(std::sync::atomic::Ordering::Relaxed))?;
        Ok((times, watcher.join().map_err(|_| "the watcher panicked")??))
    })?;
    std::thread::sleep(Duration::from_secs(5));
    let (cold, after) = (found(&mut wire)?, bytes(c)?);
    let mut table = Table::new(
        "heat-many",
        format!("{} memories cool", thousands(len)),
        &["what", "before", "beside a thread that computes", "meanwhile", "after"],
    );
    table.note(format!("Synthetic vectors of {DIM} dimensions, {WORDS} word vectors each; the top 10 of {} queries beside an exact comparison in f32.", truth.len()));
    let rounded = |times: &[f64], share: f64| ms(percentile(&mut times.to_vec(), share));
    for (what, share) in [("PING p50, ms", 0.5), ("PING p99, ms", 0.99), ("PING p99.9, ms", 0.999)] {
        table.row([what.into(), rounded(&idle, share), rounded(&busy, share), rounded(&during, share), none()]);
    }
    table.row(["agreement of the top 10".into(), number(hot, 3), none(), none(), number(cold, 3)]);
    let each = |bytes: f64| number(bytes / len as f64, 0);
    table.row(["bytes each".into(), each(before), none(), none(), each(after)]);
    table.row(["seconds".into(), none(), none(), number(took, 1), none()]);
    report.table(table);
    let p999 = percentile(&mut during.clone(), 0.999);
    report.target(
        &format!("PING p99.9 while {} memories cool", thousands(len)),
        "< 2 ms",
        format!("{} ms", ms(p999)),
        p999 < 2_000.0,
    );
    Ok(())
}

fn bytes(c: &mut Connection) -> Outcome<f64> {
    Ok(redis::cmd("MEMORY").arg(&["USAGE", "h"]).query(c)?)
}
