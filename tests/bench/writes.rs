//! Writes while others read: how long a store waits while recalls keep the server busy, beside VADD under VSIM; and a space under heavy change with readers
//! on it and the process forking: what a write waits for then, and what copy-on-write costs in memory.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::dataset::Dataset;
use crate::measure::name;
use crate::report::{Report, Table, doing, median, ms, none, number, percentile, progress};
use crate::server::Server;
use crate::texts::Random;
use crate::wire::{blob, command, saturate};
use crate::world::{World, fill, memory, thousands, unlimited, vadd};

/// Single stores while one client recalls without a pause.
pub fn while_reading(world: &mut World, report: &mut Report) -> Outcome<()> {
    let len = world.options.large;
    let (rounds, writes) = if world.options.quick { (2, 200) } else { (5, 500) };
    let fixture = world.fixture(report, len)?;
    doing("stores while recalls run");
    let new = fixture.data.more(rounds * writes);
    let mut table = Table::new(
        "writes",
        format!("Storing by vector among {} while one client recalls", thousands(len)),
        &["what", "p50 ms", "p99 ms", "p99.9 ms"],
    );
    table.note(format!("{rounds} rounds of {writes} writes, taking turns, one after the other on one connection; the reader never pauses."));
    // The names differ from all in the set, and from one another.
    let content = |i: usize| name(len + i);
    let ours: Vec<_> = new.iter().enumerate().map(|(i, vector)| memory("v", &content(i), vector, &[])).collect();
    let mut subjects = vec![("MEM.STORE … VECTOR", &fixture.engram, fixture.recalls("v", &[]), ours)];
    if let Some(server) = &fixture.redis8 {
        let adds = new.iter().enumerate().map(|(i, vector)| vadd(&content(i), vector)).collect();
        subjects.push(("VADD (Q8)", server, fixture.vsims(&[]), adds));
    }
    let mut figures = vec![<[Vec<f64>; 2]>::default(); subjects.len()];
    let mut all = vec![Vec::new(); subjects.len()];
    for round in 0..rounds {
        for (s, (_, server, queries, stores)) in subjects.iter().enumerate() {
            let stores = &stores[round * writes..][..writes];
            let mut times: Vec<f64> = beside_readers(server, queries, 1, || {
                let mut wire = server.wire()?;
                stores.iter().map(|store| timed(|| wire.call(store).map(drop))).collect()
            })?;
            figures[s][0].push(percentile(&mut times, 0.5));
            figures[s][1].push(percentile(&mut times, 0.99));
            all[s].extend(times);
        }
    }
    for (((what, ..), [p50, p99]), all) in subjects.iter().zip(&figures).zip(&mut all) {
        table.row([(*what).into(), ms(median(p50)), ms(median(p99)), ms(percentile(all, 0.999))]);
    }
    let p99 = median(&figures[0][1]);
    report.target("insert by vector, p99 while recall runs", "< 1 ms", format!("{} ms", ms(p99)), p99 < 1_000.0);
    report.table(table);
    Ok(())
}

/// Microseconds of a call.
fn timed(call: impl FnOnce() -> Outcome<()>) -> Outcome<f64> {
    let started = Instant::now();
    call()?;
    Ok(started.elapsed().as_secs_f64() * 1e6)
}

/// Does something while so many clients query without a pause; they stop when it is done.
fn beside_readers<T>(
    server: &Server,
    queries: &[Vec<u8>],
    clients: usize,
    work: impl FnOnce() -> Outcome<T>,
) -> Outcome<T> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers = scope.spawn(|| {
            let mut outcome = Ok(());
            while outcome.is_ok() && !done.load(Relaxed) {
                outcome = saturate(server.port, queries, clients, Duration::from_millis(100))
                    .map(drop)
                    .map_err(|e| e.to_string());
            }
            outcome
        });
        let result = work();
        done.store(true, Relaxed);
        readers.join().map_err(|_| "the readers panicked")??;
        result
    })
}

/// A hundred thousand memories, two thousand changes a second, four readers, a fork every ten seconds.
pub fn snapshots(world: &mut World, report: &mut Report) -> Outcome<()> {
    const RATE: usize = 2_000;
    const READERS: usize = 4;
    let len = world.options.large;
    let (seconds, fork_every) = if world.options.quick { (5, 2) } else { (30, 10) };
    doing(&format!("a space of {len} under change, with {READERS} readers and forks"));
    let data = Dataset::new(len, 100);
    let server = Server::plain()?;
    let mut wire = server.wire()?;
    unlimited(&server, "v")?;
    wire.ask(&["MEM.CONFIG", "SET", "v", "long_term.capacity", "0", "long_term.ttl", "0"])?;
    // Ids of our own, so that changes can be made without having asked for them.
    let id = |row: usize| format!("1700000000000-{}", row + 1);
    fill(&server, len, |row| memory("v", &name(row), data.row(row), &["ID", &id(row)]))?;
    server.settle()?;
    let queries: Vec<Vec<u8>> =
        data.each_query().map(|query| command(&[&b"MEM.RECALL"[..], b"v", b"VECTOR", &blob(query)])).collect();

    // Every memory is changed at most once, in an order of its own, so that no change meets a deleted memory.
    let changes = (RATE * seconds).min(len);
    let mut random = Random::new(5);
    let mut rows: Vec<usize> = (0..len).collect();
    for i in (1..len).rev() {
        rows.swap(i, random.below(i + 1));
    }
    let change = |i: usize| -> Vec<u8> {
        let id = id(rows[i]);
        match i % 4 {
            0 => command(&["MEM.UPDATE", "v", &id, "IMPORTANCE", "0.9"]),
            1 => command(&[&b"MEM.UPDATE"[..], b"v", id.as_bytes(), b"VECTOR", &blob(data.row(rows[(i + 1) % len]))]),
            2 => command(&["MEM.FORGET", "v", &id]),
            _ => command(&["MEM.PROMOTE", "v", &id, "long_term"]),
        }
    };
    let resident = server.resident()?;
    let mut peak = resident;
    let (mut service, mut since_due, mut fork) = (Vec::new(), Vec::new(), Vec::new());
    let begun = Instant::now();
    let mut next_fork = begun + Duration::from_secs(fork_every) / 2;
    beside_readers(&server, &queries, READERS, || {
        let mut control = server.wire()?;
        let mut looked = Instant::now();
        for i in 0..changes {
            let due = begun + Duration::from_secs_f64(i as f64 / RATE as f64);
            // Far behind its plan the writer would only measure how far.
            if begun.elapsed() > Duration::from_secs(2 * seconds as u64) {
                break;
            }
            let bytes = change(i);
            if let Some(early) = due.checked_duration_since(Instant::now()) {
                std::thread::sleep(early);
            }
            service.push(timed(|| wire.call(&bytes).map(drop))?);
            since_due.push(due.elapsed().as_secs_f64() * 1e6);
            if Instant::now() >= next_fork {
                let mut refused = None;
                let took = timed(|| {
                    refused = control.call(&command(&["BGSAVE"])).err();
                    Ok(())
                })?;
                match refused {
                    None => {
                        fork.push(took);
                        next_fork += Duration::from_secs(fork_every);
                    }
                    // The last save still runs: the machine is slower than the plan.
                    Some(error) if error.to_string().contains("in progress") => next_fork += Duration::from_secs(1),
                    Some(error) => return Err(error),
                }
            }
            if looked.elapsed() >= Duration::from_millis(100) {
                looked = Instant::now();
                peak = peak.max(server.resident()?);
                progress("changes", i, changes);
            }
        }
        Ok(())
    })?;
    let took = begun.elapsed().as_secs_f64();
    while server.number("persistence", "rdb_bgsave_in_progress")? > 0.0 {
        std::thread::sleep(Duration::from_millis(50));
    }
    let copied = server.number("persistence", "rdb_last_cow_size")?;
    let mut table = Table::new(
        "snapshots",
        format!(
            "{} memories under {} changes a second, {READERS} recall clients, a fork every {fork_every} s",
            thousands(len),
            thousands(RATE)
        ),
        &["what", "figure", "unit"],
    );
    table.note("Changes: importance, vector, deletion and promotion, a quarter each. From due: from when the plan said, so a wait \
     that delays later writes counts for them too.");
    let made = service.len();
    table.row(["changes made per second".into(), number(made as f64 / took, 0), "1/s".into()]);
    for (what, times) in [("a write, from sent to reply", &mut service), ("a write, from due to reply", &mut since_due)]
    {
        for (share, name) in [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")] {
            table.row([format!("{what}, {name}").into(), ms(percentile(times, share)), "ms".into()]);
        }
    }
    let mib = |bytes: f64| number(bytes / f64::from(1 << 20), 1);
    table.row(["forks".into(), number(fork.len() as f64, 0), none()]);
    table.row(["BGSAVE, until it has forked, worst".into(), ms(percentile(&mut fork, 1.0)), "ms".into()]);
    table.row(["resident memory at the start".into(), mib(resident), "MiB".into()]);
    table.row(["resident memory at its peak".into(), mib(peak), "MiB".into()]);
    table.row(["copied on write during the last fork".into(), mib(copied), "MiB".into()]);
    report.table(table);
    Ok(())
}
