//! A million vectors: whether recall stays fast and right, with filters too and while rows come and go, what the space takes, and whether other clients notice
//! that it is being filled, indexed, saved or loaded.

use std::time::{Duration, Instant};

use crate::Outcome;
use crate::dataset::{Dataset, recall};
use crate::measure::{self, Measured, Subject, interleave, name};
use crate::report::{Report, Table, doing, ms, none, number};
use crate::server::Server;
use crate::wire::{blob, command};
use crate::world::{fill, memory, thousands, unlimited};

const LEN: usize = 1_000_000;
/// Every memory has a number below this to filter by; the filters admit those below the bounds.
const BUCKETS: usize = 1_000;
const BOUNDS: [usize; 4] = [500, 100, 10, 1];
/// One memory in so many is forgotten and stored again.
const CHURN: usize = 20;

/// Stores, asks, changes, saves and loads. The peers are left out: Redis 8 would build for ten minutes, faiss and usearch for as long.
pub fn million(report: &mut Report) -> Outcome<()> {
    doing("making a million vectors, and the truth about them");
    let data = Dataset::new(LEN, 200);
    let bucket = |row: usize| row * 7_919 % BUCKETS;
    let truth = data.truth(|_| true);
    let filtered = BOUNDS.map(|bound| data.truth(|row| bucket(row) < bound));
    let server = Server::plain()?;
    unlimited(&server, "v")?;
    let store = |row: usize, more: &[&str]| {
        let meta = format!("{{\"bucket\":{}}}", bucket(row));
        memory("v", &name(row), data.row(row), &[&["META", meta.as_str()][..], more].concat())
    };
    let id = |row: usize| format!("1700000000000-{}", row + 1);
    let (used, resident, cpu, begun) =
        (server.number("memory", "used_memory")?, server.resident()?, server.cpu()?, Instant::now());
    let mut pings = Table::new(
        "million-pings",
        format!("PING of another client while {} memories …", thousands(LEN)),
        &["what", "seconds", "p50 ms", "p99.9 ms", "worst ms"],
    );
    pings.note("A PING every millisecond. Building the index is part of storing and of what follows a load.");
    doing("storing a million vectors");
    noticed(&server, &mut pings, "are stored", || fill(&server, LEN, |row| store(row, &["ID", &id(row)])))?;
    noticed(&server, &mut pings, "are indexed to the end", || rested(&server))?;
    let took = begun.elapsed().as_secs_f64();
    let (used, resident, cpu) =
        (server.number("memory", "used_memory")? - used, server.resident()? - resident, server.cpu()? - cpu);

    let queries = |more: &[&[u8]]| -> Vec<Vec<u8>> {
        let one = |query| command(&[&[&b"MEM.RECALL"[..], b"v", b"VECTOR", &blob(query)], more].concat());
        data.each_query().map(one).collect()
    };
    let mut table = Table::new(
        "million",
        format!("{} vectors", thousands(LEN)),
        &["what", "p50 ms", "p99 ms", "server CPU ms", "recall@10", "results"],
    );
    table.note(format!(
        "Stored in {took:.0} s, {cpu:.0} s of CPU, with what is built in the background; {:.0} bytes each by `used_memory`, {:.2} \
         GiB more resident. Filters: a number in META. Changed: one memory in {CHURN} forgotten and stored again.",
        used / LEN as f64,
        resident / f64::from(1 << 30),
    ));
    let mut ask = |what: &str, queries: Vec<Vec<u8>>, truth: &[Vec<u32>], rounds: usize| -> Outcome<(f64, f64)> {
        doing(&format!("among a million: {what}"));
        let mut subjects = [Subject::new(&server, queries)?];
        let [m]: [Measured; 1] = interleave(&mut subjects, rounds, 100)?.try_into().map_err(|_| "one was measured")?;
        let found = (!truth.is_empty()).then(|| recall(truth, &m.found));
        let results = found.map_or(none(), |_| number(m.results(), 2));
        table.row([
            what.into(),
            ms(m.p50),
            ms(m.p99),
            ms(m.cpu),
            found.map_or(none(), |found| number(found, 4)),
            results,
        ]);
        Ok((m.p50, found.unwrap_or(0.0)))
    };
    ask("PING", vec![command(&["PING"])], &[], 9)?;
    let (p50, found) = ask("MEM.RECALL, defaults", queries(&[]), &truth, 9)?;
    let (_, exactly) = ask("MEM.RECALL … EXACT", queries(&[b"EXACT"]), &truth, 2)?;
    for (bound, truth) in BOUNDS.into_iter().zip(&filtered) {
        let filter = format!(".bucket < {bound}");
        let what = format!("a filter that admits {} %", bound as f64 / BUCKETS as f64 * 100.0);
        ask(&what, queries(&[b"FILTER", filter.as_bytes()]), truth, 3)?;
    }
    let changed = |row: &usize| row % CHURN == 3;
    noticed(&server, &mut pings, "change by a twentieth", || {
        let mut wire = server.wire()?;
        for rows in (0..LEN).filter(changed).collect::<Vec<_>>().chunks(100) {
            let forget: Vec<_> = rows.iter().map(|row| command(&["MEM.FORGET", "v", &id(*row)])).collect();
            wire.pipeline(&forget)?;
            wire.pipeline(&rows.iter().map(|row| store(*row, &[])).collect::<Vec<_>>())?;
        }
        Ok(())
    })?;
    let (_, late) = ask("just changed", queries(&[]), &truth, 3)?;
    noticed(&server, &mut pings, "are indexed again", || rested(&server))?;
    ask("changed, indexed again", queries(&[]), &truth, 5)?;

    doing("saving and loading a million");
    noticed(&server, &mut pings, "are saved in the background", || {
        server.wire()?.ask(&["BGSAVE"])?;
        while server.number("persistence", "rdb_bgsave_in_progress")? > 0.0 {
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    })?;
    let file = std::fs::metadata(server.folder().join("dump.rdb"))?.len() as f64;
    noticed(&server, &mut pings, "are loaded by DEBUG RELOAD", || {
        server.wire()?.ask(&["DEBUG", "RELOAD", "NOSAVE"]).map(drop)
    })?;
    noticed(&server, &mut pings, "are indexed after a load", || server.settle())?;
    ask("loaded", queries(&[]), &truth, 3)?;
    table.note(format!("The RDB file has {:.0} bytes per memory.", file / LEN as f64));
    report.table(table);

    let what = format!("RECALL by vector among {}", thousands(LEN));
    report.target(&format!("{what}, p50"), "≤ 2 ms", format!("{} ms", ms(p50)), p50 <= 2_000.0);
    for (how, found, least) in [("", found, 0.98), (", EXACT", exactly, 0.99), (", just changed", late, 0.98)] {
        report.target(&format!("{what}{how}, recall@10"), &format!("≥ {least}"), format!("{found:.4}"), found >= least);
    }
    let gib = resident / f64::from(1 << 30);
    report.target(
        &format!("resident memory of {}", thousands(LEN)),
        "≤ 2 GB",
        format!("{gib:.2} GiB"),
        gib * 1.074 <= 2.0,
    );
    report.table(pings);
    Ok(())
}

/// Waits until the index has rested and what came since is in it.
fn rested(server: &Server) -> Outcome<()> {
    server.settle()?;
    std::thread::sleep(Duration::from_secs(20));
    server.settle()
}

/// Does something while another client sends PINGs, and adds a row that says how long it waited.
fn noticed(server: &Server, table: &mut Table, what: &str, work: impl FnOnce() -> Outcome<()>) -> Outcome<()> {
    let felt = measure::noticed(server, work)?;
    table.row([what.into()].into_iter().chain(felt.cells()).collect::<Vec<_>>());
    Ok(())
}
