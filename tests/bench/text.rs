//! Memories by text: storing, recalling what was never asked before and what was, with the encoder in the server.

use std::time::Instant;

use redis::{Connection, Value};

use crate::Outcome;
use crate::report::{Report, Table, doing, ms, none, number, percentile, progress, times};
use crate::server::Server;
use crate::texts;
use crate::world::{thousands, unlimited};

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

/// Everything about text.
pub fn text(report: &mut Report, memories: usize, rounds: usize) -> Outcome<()> {
    let server = Server::engram(&[])?;
    server.wait_for_embedder()?;
    unlimited(&server, "m")?;
    let c = &mut server.connect()?;
    let sentences = texts::sentences(memories + 2 * rounds);
    let before = server.number("memory", "used_memory")?;

    doing(&format!("storing {} texts", memories - rounds));
    let started = Instant::now();
    for (batch_number, batch) in sentences[..memories - rounds].chunks(100).enumerate() {
        let mut cmd = redis::cmd("MEM.MSTORE");
        cmd.arg("m");
        for text in batch {
            cmd.arg(serde_json::json!({ "content": text }).to_string());
        }
        cmd.query::<Value>(c)?;
        progress("storing texts", batch_number * 100 + batch.len(), memories - rounds);
    }
    let rate = (memories - rounds) as f64 / started.elapsed().as_secs_f64();

    let mut table = Table::new(
        "text",
        format!("Text in, {} memories", thousands(memories)),
        &["what", "p50 ms", "p99 ms", "beside PING", "per second"],
    );
    table.row(["MEM.MSTORE, batches of 100".into(), none(), none(), none(), number(rate, 0)]);
    let mut latency = |what: &str, (mut calls, mut pings): (Vec<f64>, Vec<f64>)| -> f64 {
        let p50 = percentile(&mut calls, 0.5);
        let cells = [what.into(), ms(p50), ms(percentile(&mut calls, 0.99)), times(p50 / percentile(&mut pings, 0.5))];
        table.row([&cells[..], &[none()]].concat());
        p50
    };
    doing("storing and recalling texts one by one");
    let store = timed(c, rounds, |c, i| {
        Ok(redis::cmd("MEM.STORE").arg("m").arg(&sentences[memories - rounds + i]).query(c)?)
    })?;
    latency("MEM.STORE, a new text", store);
    let stored: usize = redis::cmd("MEM.COUNT").arg("m").query(c)?;
    assert_eq!(stored, memories, "every text was stored");
    let bytes = (server.number("memory", "used_memory")? - before) / memories as f64;
    let usage: f64 = redis::cmd("MEMORY").arg("USAGE").arg("m").query(c)?;
    let new = &sentences[memories..];
    let recall = |c: &mut Connection, i: usize| Ok(redis::cmd("MEM.RECALL").arg("m").arg(&new[i]).query(c)?);
    let unseen = latency("MEM.RECALL, a text never seen", timed(c, rounds, recall)?);
    let cached = latency("MEM.RECALL, its embedding cached", timed(c, rounds, recall)?);
    let filtered = timed(c, rounds, |c, i| {
        Ok(redis::cmd("MEM.RECALL").arg("m").arg(&new[i]).arg("FILTER").arg(".importance > 0.9").query(c)?)
    })?;
    latency("MEM.RECALL, cached, FILTER that nothing passes", filtered);
    table.note(format!(
        "Sentences of ten to sixteen words. Embedding is included. {bytes:.0} bytes a memory by `used_memory` (with the cache of \
         embeddings), {:.0} by MEMORY USAGE.",
        usage / memories as f64
    ));
    report.table(table);
    let among = format!("RECALL of a text among {}", thousands(memories));
    report.target(&format!("{among}, never seen, p50"), "≤ 6 ms", format!("{} ms", ms(unseen)), unseen <= 6_000.0);
    report.target(
        &format!("{among}, embedding cached, p50"),
        "≤ 0.5 ms",
        format!("{} ms", ms(cached)),
        cached <= 500.0,
    );
    Ok(())
}
