//! What others notice of consolidation: PING while a space of 100,000 memories is consolidated in full, again and again.
//!
//! A tenth of the memories state a fact of one of some hundred people, who move about between five towns, so that facts contradict each other; a tenth are duplicates in groups of ten; three
//! tenths are turns of a thousand sessions, which become summaries; all others have vectors, so that what is alike is looked for and linked; importance is even from 0 to 1.

use serde_json::json;

use crate::Outcome;
use crate::dataset::Dataset;
use crate::measure::{beside_a_busy_thread, noticed};
use crate::report::{Report, Table, doing, ms, none, number};
use crate::server::Server;
use crate::wire::command;
use crate::world::{fill, memory, thousands};

/// Runs one behind the other, at most.
const RUNS: usize = 15;
/// Milliseconds that PING may take at most, but one in a thousand.
const FELT: f64 = 2.0;

/// Fills a space of so many memories and consolidates it.
pub fn learning(report: &mut Report, len: usize) -> Outcome<()> {
    doing(&format!("making {len} vectors"));
    let data = Dataset::new(len, 1);
    let server = Server::plain()?;
    let mut wire = server.wire()?;
    let tiers = ["working", "short_term", "long_term", "episodic", "semantic"];
    let unlimited: Vec<String> = tiers.iter().map(|tier| format!("{tier}.capacity")).collect();
    let mut words = vec!["MEM.CONFIG", "SET", "l", "consolidate-interval", "0"];
    unlimited.iter().for_each(|name| words.extend([name.as_str(), "0"]));
    wire.ask(&words)?;
    fill(&server, len, |row| store(row, data.row(row)))?;

    let mut table = Table::new(
        "consolidation",
        format!("PING of another client while {} memories …", thousands(len)),
        &["what", "seconds", "p50 ms", "p99.9 ms", "worst ms", "changes"],
    );
    table.note("A PING every millisecond. Full: EXTRACT SUMMARIZE LINK, as the timer does it; up to 15 times more.");
    let rest = || {
        std::thread::sleep(std::time::Duration::from_secs(5));
        Ok(())
    };
    let quiet = noticed(&server, rest)?;
    let busy = beside_a_busy_thread(|| noticed(&server, rest))?;
    for (what, felt) in [("lie there", quiet), ("lie there, beside a thread that computes", busy)] {
        table.row(std::iter::once(what.into()).chain(felt.cells()).chain([none()]).collect::<Vec<_>>());
    }
    let mut worst: f64 = 0.0;
    for (what, line) in [
        ("are consolidated", &["MEM.CONSOLIDATE", "l"][..]),
        ("are consolidated in full, once", &["MEM.CONSOLIDATE", "l", "EXTRACT", "SUMMARIZE", "LINK"]),
        ("are consolidated in full, again and again", &["MEM.CONSOLIDATE", "l", "EXTRACT", "SUMMARIZE", "LINK"]),
    ] {
        doing(&format!("{len} memories {what}"));
        let runs = if what.ends_with("again") { RUNS } else { 1 };
        let mut changes = 0;
        let felt = noticed(&server, || {
            for _ in 0..runs {
                let made = changes_of(&server, &command(line))?;
                changes += made;
                if made == 0 {
                    break;
                }
            }
            Ok(())
        })?;
        worst = worst.max(felt.p999);
        table.row(
            std::iter::once(what.into()).chain(felt.cells()).chain([number(changes as f64, 0)]).collect::<Vec<_>>(),
        );
    }
    report.table(table);
    report.target(
        &format!("PING p99.9 while {} memories are consolidated in full", thousands(len)),
        &format!("< {FELT} ms"),
        format!("{} ms", ms(worst)),
        worst < FELT * 1e3,
    );
    Ok(())
}

/// The numbers in front of the lists of a report, added up: all its changes.
fn changes_of(server: &Server, line: &[u8]) -> Outcome<usize> {
    const KINDS: [&str; 11] = [
        "promoted",
        "merged",
        "evicted",
        "expired",
        "learned",
        "confirmed",
        "superseded",
        "contested",
        "described",
        "summarized",
        "linked",
    ];
    let mut wire = server.wire()?;
    let text = String::from_utf8_lossy(wire.call(line)?).into_owned();
    let mut words = text.split("\r\n");
    let mut changes = 0;
    while let Some(word) = words.next() {
        if word == "changes" {
            break;
        }
        if KINDS.contains(&word)
            && let Some(count) = words.next().and_then(|count| count.strip_prefix(':'))
        {
            changes += count.parse::<usize>()?;
        }
    }
    Ok(changes)
}

fn store(row: usize, vector: &[f32]) -> Vec<u8> {
    const TOWNS: [&str; 5] = ["Rome", "Oslo", "Bonn", "Lyon", "Porto"];
    let importance = format!("{:.3}", (row * 7_919 % 1_000) as f64 / 1_000.0);
    let speaker = format!("P{}", row % 97);
    let common = ["IMPORTANCE", importance.as_str(), "SPEAKER", speaker.as_str()];
    match row % 10 {
        0 => {
            let text = format!("I live in {} now, and this is note {row}.", TOWNS[row / 10 % TOWNS.len()]);
            memory("l", &text, vector, &[&common[..], &["TYPE", "message"]].concat())
        }
        1 => memory("l", &format!("the same thing {}", row / 100), vector, &["NODEDUP", "IMPORTANCE", &importance]),
        2..=4 => {
            let turn = json!({
                "content": format!("In turn {row} we spoke about the garden, the {} trees and what they cost.", row % 50),
                "role": "user", "session": format!("s{}", row / 100), "tier": "episodic", "speaker": speaker,
                "importance": (row * 7_919 % 1_000) as f64 / 1_000.0, "noembed": true,
            });
            command(&["MEM.MSTORE", "l", &turn.to_string()])
        }
        _ => memory("l", &format!("note number {row} about nothing in particular"), vector, &common),
    }
}
