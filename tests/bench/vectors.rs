//! Recall by vector: over loopback with one client and with eight, and with filters, beside Redis 8's VSIM and PING on the same data in the same minute.
//!
//! MEM.RECALL replies with whole memories (ten fields and more each), VSIM with names alone: the comparison is of what a client calls, not of equal replies.

use std::time::Duration;

use crate::Outcome;
use crate::dataset::recall;
use crate::measure::{Measured, Subject, interleave, name};
use crate::plot;
use crate::report::{Cell, Report, Table, doing, median, ms, none, number, percentile, times};
use crate::wire::{command, saturate};
use crate::world::{World, fill, memory, thousands, unlimited};

/// Shares that the filters admit, as the bound of a number from 0 to 999 that every memory has.
const BUCKETS: usize = 1_000;
const BOUNDS: [usize; 4] = [500, 100, 10, 1];

/// One client, by size.
pub fn latency(world: &mut World, report: &mut Report) -> Outcome<()> {
    let mut plotted = Vec::new();
    for len in [world.options.small, world.options.large] {
        let (rounds, per_round) = if world.options.quick { (5, 50) } else { (21, 200) };
        let large = len == world.options.large;
        let fixture = world.fixture(report, len)?;
        doing(&format!("recall by vector among {len}"));
        let mut names = vec!["PING", "MEM.RECALL, defaults"];
        let mut subjects =
            vec![Subject::ping(&fixture.engram)?, Subject::new(&fixture.engram, fixture.recalls("v", &[]))?];
        if fixture.half.is_ok() {
            names.push("MEM.RECALL, precision f16");
            subjects.push(Subject::new(&fixture.engram, fixture.recalls("h", &[]))?);
        }
        if let Some(server) = &fixture.redis8 {
            names.push("VSIM (Q8)");
            subjects.push(Subject::new(server, fixture.vsims(&[]))?);
        }
        let measured = interleave(&mut subjects, rounds, per_round)?;
        let by_name = |name: &str| names.iter().position(|n| *n == name).map(|at| &measured[at]);
        let ping = measured[0].p50;
        let vsim = by_name("VSIM (Q8)");
        let mut table = Table::new(
            "recall",
            format!("Recall by vector among {}, one client over loopback", thousands(len)),
            &["what", "p50 ms", "p99 ms", "server CPU ms", "recall@10", "beside PING", "beside VSIM"],
        );
        table.note(format!("{rounds} rounds of {per_round} queries each, taking turns; TCP_NODELAY, RESP2, top 10."));
        for (name, m) in names.iter().zip(&measured) {
            let is_ping = *name == "PING";
            table.row([
                Cell::from(*name),
                ms(m.p50),
                ms(m.p99),
                ms(m.cpu),
                if is_ping { none() } else { number(recall(&fixture.truth, &m.found), 4) },
                times(m.p50 / ping),
                vsim.filter(|_| !is_ping).map_or(none(), |vsim| times(m.p50 / vsim.p50)),
            ]);
        }
        let mut bars: Vec<_> = names.iter().zip(&measured).map(|(name, m)| ((*name).to_owned(), m.p50 / 1e3)).collect();
        bars.rotate_left(1);
        plotted.push((format!("{} memories", thousands(len)), bars));

        let ours = &measured[1];
        let quality = |m: &Measured| recall(&fixture.truth, &m.found);
        let among = format!("RECALL by vector among {}", thousands(len));
        let (most, share, i8, f16) = if large { (300.0, 1.0, 0.985, 0.995) } else { (100.0, 0.5, 0.99, 0.998) };
        report.target(
            &format!("{among}, p50"),
            &format!("≤ {} ms", most / 1e3),
            format!("{} ms", ms(ours.p50)),
            ours.p50 <= most,
        );
        let what = format!("{among}, beside VSIM");
        let aim = if large { "< 1 ×" } else { "≤ 0.5 ×" };
        match vsim {
            Some(vsim) => {
                let ratio = ours.p50 / vsim.p50;
                report.target(&what, aim, times(ratio).to_string(), ratio < share || ratio == share && !large);
            }
            None => report.unmeasured(&what, aim, "no Redis 8 here"),
        }
        let found = quality(ours);
        report.target(&format!("{among}, recall@10"), &format!("≥ {i8}"), format!("{found:.4}"), found >= i8);
        let (what, aim) = (format!("{among}, recall@10 at f16"), format!("≥ {f16}"));
        match (by_name("MEM.RECALL, precision f16"), &fixture.half) {
            (Some(half), _) => {
                let found = quality(half);
                report.target(&what, &aim, format!("{found:.4}"), found >= f16);
            }
            (None, half) => report.unmeasured(&what, &aim, half.as_ref().err().map_or("", String::as_str)),
        }
        report.table(table);
    }
    let svg = plot::bars("Recall by vector over loopback, p50 (shorter is better)", "ms", &plotted);
    report.plot("recall", "p50 of recall by vector over loopback, beside Redis 8's VSIM and PING", svg);
    Ok(())
}

/// Filters that admit less and less.
pub fn filters(world: &mut World, report: &mut Report) -> Outcome<()> {
    let len = world.options.large;
    let (rounds, per_round) = if world.options.quick { (3, 20) } else { (7, 40) };
    let fixture = world.fixture(report, len)?;
    doing("giving every memory a number to filter by");
    // A prime keeps the numbers even over the set, whatever lies near what.
    let bucket = |row: usize| row * 7_919 % BUCKETS;
    unlimited(&fixture.engram, "a")?;
    fill(&fixture.engram, len, |row| {
        memory("a", &name(row), fixture.data.row(row), &["META", &format!("{{\"bucket\":{}}}", bucket(row))])
    })?;
    fixture.engram.settle()?;
    if let Some(server) = &fixture.redis8 {
        let attribute = |row: usize| format!("{{\"bucket\":{}}}", bucket(row));
        fill(server, len, |row| command(&["VSETATTR", "v", &name(row), &attribute(row)]))?;
    }
    let mut table = Table::new(
        "filters",
        format!("Recall by vector with a filter among {}", thousands(len)),
        &["filter admits", "what", "p50 ms", "p99 ms", "server CPU ms", "recall@10", "results", "beside VSIM"],
    );
    table.note(
        "Ours: a number in META. VSIM: the same JSON as attribute, and its default effort. Both: `FILTER '.bucket < n'`, ten results asked for.",
    );
    let (mut ours_line, mut vsim_line) = (Vec::new(), Vec::new());
    let mut empty = Vec::new();
    for bound in BOUNDS {
        let filter = format!(".bucket < {bound}");
        let share = bound as f64 / BUCKETS as f64 * 100.0;
        doing(&format!("recall with a filter that admits {share} %"));
        let truth = fixture.data.truth(|row| bucket(row) < bound);
        let mut subjects = vec![Subject::new(&fixture.engram, fixture.recalls("a", &["FILTER", &filter]))?];
        if let Some(server) = &fixture.redis8 {
            subjects.push(Subject::new(server, fixture.vsims(&["FILTER", &filter]))?);
        }
        let measured = interleave(&mut subjects, rounds, per_round)?;
        let vsim = measured.get(1);
        for (what, m) in ["MEM.RECALL", "VSIM (Q8)"].into_iter().zip(&measured) {
            table.row([
                number(share, 1),
                what.into(),
                ms(m.p50),
                ms(m.p99),
                ms(m.cpu),
                number(recall(&truth, &m.found), 4),
                number(m.results(), 2),
                vsim.map_or(none(), |vsim| times(m.p50 / vsim.p50)),
            ]);
        }
        let ours = &measured[0];
        ours_line.push((share, ours.p50 / 1e3));
        vsim_line.extend(vsim.map(|vsim| (share, vsim.p50 / 1e3)));
        // How many there are to be found, query by query: ten, or all that pass in a small set.
        if ours.found.iter().zip(&truth).any(|(found, truth)| found.len() < truth.len()) {
            empty.push(share);
        }
        if bound == 10 {
            let among = format!("RECALL among {} with a 1 % filter", thousands(len));
            report.target(&format!("{among}, p50"), "≤ 0.1 ms", format!("{} ms", ms(ours.p50)), ours.p50 <= 100.0);
            let what = format!("{among}: VSIM takes");
            match vsim.map(|vsim| vsim.p50 / ours.p50) {
                Some(ratio) => report.target(&what, "≥ 30 ×", times(ratio).to_string(), ratio >= 30.0),
                None => report.unmeasured(&what, "≥ 30 ×", "no Redis 8 here"),
            }
        }
    }
    let measured = if empty.is_empty() { "always".to_owned() } else { format!("fewer at {empty:?} %") };
    report.target("K results whatever the filter, if K match", "always", measured, empty.is_empty());
    report.table(table);
    let mut series = vec![("MEM.RECALL".to_owned(), ours_line), ("VSIM (Q8)".to_owned(), vsim_line)];
    series.retain(|(_, points)| !points.is_empty());
    let (x, y) = (
        plot::Axis { title: "% of the memories that the filter admits", log: true },
        plot::Axis { title: "p50, ms", log: true },
    );
    let svg = plot::lines(&format!("Recall with a filter among {} (lower is better)", thousands(len)), &x, &y, &series);
    report.plot("filters", "p50 of a filtered recall by the share that the filter admits", svg);
    Ok(())
}

/// Many clients at once.
pub fn clients(world: &mut World, report: &mut Report) -> Outcome<()> {
    let len = world.options.large;
    let (rounds, time) = if world.options.quick { (2, 1_000) } else { (5, 2_000) };
    let time = Duration::from_millis(time);
    let fixture = world.fixture(report, len)?;
    let mut table = Table::new(
        "clients",
        format!("Queries per second among {}", thousands(len)),
        &["clients", "what", "queries/s", "p50 ms", "p99 ms", "server CPU ms", "driver CPU ms", "beside VSIM"],
    );
    table.note(format!(
        "{rounds} rounds of {} s each, taking turns. The clients are one thread that polls their sockets, each with one query in \
         flight; it shares the machine's cores with the server, \
         and its own CPU time per query is shown.",
        time.as_secs_f64()
    ));
    let mut at_eight = None;
    for clients in [1, 8] {
        doing(&format!("{clients} clients at once"));
        let mut subjects = vec![("MEM.RECALL", &fixture.engram, fixture.recalls("v", &[]))];
        subjects.extend(fixture.redis8.as_ref().map(|server| ("VSIM (Q8)", server, fixture.vsims(&[]))));
        // Per subject and round: rate, p50, p99, CPU of the server and of the driver.
        let mut figures: Vec<[Vec<f64>; 5]> = vec![Default::default(); subjects.len()];
        for _ in 0..rounds {
            for ((_, server, queries), figures) in subjects.iter().zip(&mut figures) {
                let before = server.cpu()?;
                let mut load = saturate(server.port, queries, clients, time)?;
                let cpu = (server.cpu()? - before) * 1e6 / load.times.len() as f64;
                let (p50, p99) = (percentile(&mut load.times, 0.5), percentile(&mut load.times, 0.99));
                for (all, figure) in figures.iter_mut().zip([load.rate, p50, p99, cpu, load.driver]) {
                    all.push(figure);
                }
            }
        }
        let medians: Vec<[f64; 5]> = figures.iter().map(|f| f.each_ref().map(|all| median(all))).collect();
        for ((what, ..), [rate, p50, p99, cpu, driver]) in subjects.iter().zip(&medians) {
            table.row([
                number(clients as f64, 0),
                Cell::from(*what),
                number(*rate, 0),
                ms(*p50),
                ms(*p99),
                ms(*cpu),
                ms(*driver),
                medians.get(1).map_or(none(), |vsim| times(rate / vsim[0])),
            ]);
        }
        if clients == 8 {
            at_eight = medians.get(1).map(|vsim| medians[0][0] / vsim[0]);
        }
    }
    let what = format!("8 clients among {}: queries per second beside VSIM", thousands(len));
    match at_eight {
        Some(ratio) => report.target(&what, "≥ 2 ×", times(ratio).to_string(), ratio >= 2.0),
        None => report.unmeasured(&what, "≥ 2 ×", "no Redis 8 here"),
    }
    report.table(table);
    Ok(())
}
