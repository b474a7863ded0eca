//! A million vectors: whether recall stays fast and right, what the space takes, and whether other clients notice that it is being filled or indexed.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::dataset::{Dataset, recall};
use crate::measure::{Subject, interleave, name};
use crate::report::{Report, Table, doing, ms, none, number, percentile};
use crate::server::Server;
use crate::wire::{blob, command};
use crate::world::{brief, fill, memory, thousands, unlimited};

/// Stores and asks. The peers are left out: Redis 8 would build for ten minutes, faiss and usearch for as long.
pub fn million(report: &mut Report) -> Outcome<()> {
    const LEN: usize = 1_000_000;
    doing("making a million vectors, and the truth about them");
    let data = Dataset::new(LEN, 200);
    let truth = data.truth(|_| true);
    let server = Server::plain()?;
    unlimited(&server, "v")?;
    let (used, resident, cpu, begun) =
        (server.number("memory", "used_memory")?, server.resident()?, server.cpu()?, Instant::now());
    doing("storing a million vectors");
    let done = AtomicBool::new(false);
    let mut pings = std::thread::scope(|scope| -> Outcome<Vec<f64>> {
        let other = scope.spawn(|| {
            let (mut wire, ping) = (server.wire().map_err(|e| e.to_string())?, command(&["PING"]));
            let mut times = Vec::new();
            while !done.load(Relaxed) {
                let started = Instant::now();
                wire.call(&ping).map_err(|e| e.to_string())?;
                times.push(started.elapsed().as_secs_f64() * 1e6);
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok::<_, String>(times)
        });
        let filled =
            fill(&server, LEN, |row| memory("v", &name(row), data.row(row), &[])).and_then(|()| server.settle());
        done.store(true, Relaxed);
        let times = other.join().map_err(|_| "the other client panicked")?;
        filled?;
        Ok(times?)
    })?;
    let took = begun.elapsed().as_secs_f64();
    let (used, resident, cpu) =
        (server.number("memory", "used_memory")? - used, server.resident()? - resident, server.cpu()? - cpu);
    doing("recall by vector among a million");
    let queries = |more: &[&[u8]]| -> Vec<Vec<u8>> {
        let one = |query| command(&[&[&b"MEM.RECALL"[..], b"v", b"VECTOR", &blob(query)], more].concat());
        data.each_query().map(one).collect()
    };
    let mut names = vec!["PING", "MEM.RECALL, defaults"];
    let mut subjects = vec![Subject::ping(&server)?, Subject::new(&server, queries(&[]))?];
    let exact = queries(&[b"EXACT"]);
    match server.wire()?.call(&exact[0]) {
        Ok(_) => {
            names.push("MEM.RECALL … EXACT");
            subjects.push(Subject::new(&server, exact)?);
        }
        Err(error) => report.skipped(format!("EXACT among a million: not available: {}", brief(&*error))),
    }
    let measured = interleave(&mut subjects, 9, 100)?;
    let mut table = Table::new(
        "million",
        format!("{} vectors", thousands(LEN)),
        &["what", "p50 ms", "p99 ms", "server CPU ms", "recall@10"],
    );
    table.note(format!(
        "Stored in {took:.0} s, {cpu:.0} s of CPU, with what is built in the background; {:.0} bytes each by `used_memory`, {:.2} \
         GiB more resident. PING meanwhile: p50 {}, \
         p99.9 {}, worst {} ms.",
        used / LEN as f64,
        resident / f64::from(1 << 30),
        ms(percentile(&mut pings, 0.5)),
        ms(percentile(&mut pings, 0.999)),
        ms(percentile(&mut pings, 1.0)),
    ));
    for (name, m) in names.iter().zip(&measured) {
        let found = if *name == "PING" { none() } else { number(recall(&truth, &m.found), 4) };
        table.row([(*name).into(), ms(m.p50), ms(m.p99), ms(m.cpu), found]);
    }
    report.table(table);
    let (p50, found) = (measured[1].p50, recall(&truth, &measured[1].found));
    let what = format!("RECALL by vector among {}", thousands(LEN));
    report.target(&format!("{what}, p50"), "≤ 2 ms", format!("{} ms", ms(p50)), p50 <= 2_000.0);
    report.target(&format!("{what}, recall@10"), "≥ 0.98", format!("{found:.4}"), found >= 0.98);
    let gib = resident / f64::from(1 << 30);
    report.target(
        &format!("resident memory of {}", thousands(LEN)),
        "≤ 2 GB",
        format!("{gib:.2} GiB"),
        gib * 1.074 <= 2.0,
    );
    Ok(())
}
