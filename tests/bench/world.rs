//! What the sections share: the options, the peers that are there, and per size a set of vectors in a server of each kind. Building Redis 8's graph of 100,000
//! takes most of a minute of CPU, so it is done once; what storing costs (CPU, bytes, file, load) is measured while it is done.
//!
//! Engram holds the set in the key `v` at the defaults and, if it has that setting, in the key `h` at half precision; Redis 8 in the key `v` at its
//! defaults (Q8). Contents of memories and names of elements are the same short strings.

use std::path::PathBuf;

use crate::Outcome;
use crate::dataset::{DIM, Dataset};
use crate::measure::name;
use crate::plot;
use crate::report::{Report, Table, doing, none, number, progress};
use crate::server::Server;
use crate::wire::{blob, command};

/// Commands per write when a set is stored.
const BATCH: usize = 100;

/// What was asked for on the command line.
pub struct Options {
    /// Small and short.
    pub quick: bool,
    /// The size of the small set.
    pub small: usize,
    /// The size of the large one.
    pub large: usize,
}

/// A set and the servers that hold it.
pub struct Fixture {
    /// The vectors.
    pub data: Dataset,
    /// The nearest of every query.
    pub truth: Vec<Vec<u32>>,
    /// Engram.
    pub engram: Server,
    /// Redis 8, if it is there.
    pub redis8: Option<Server>,
    /// Whether there is a key `h`, or why not.
    pub half: Result<(), String>,
}

impl Fixture {
    /// MEM.RECALL of every query on this key, with these words at the end.
    pub fn recalls(&self, key: &str, more: &[&str]) -> Vec<Vec<u8>> {
        self.queries(|blob| vec![b"MEM.RECALL".to_vec(), key.into(), b"VECTOR".to_vec(), blob], more)
    }

    /// VSIM of every query, with these words at the end.
    pub fn vsims(&self, more: &[&str]) -> Vec<Vec<u8>> {
        let words =
            |blob| vec![b"VSIM".to_vec(), b"v".to_vec(), b"FP32".to_vec(), blob, b"COUNT".to_vec(), b"10".to_vec()];
        self.queries(words, more)
    }

    fn queries(&self, words: impl Fn(Vec<u8>) -> Vec<Vec<u8>>, more: &[&str]) -> Vec<Vec<u8>> {
        let one = |query| {
            let mut words = words(blob(query));
            words.extend(more.iter().map(|word| word.as_bytes().to_vec()));
            command(&words)
        };
        self.data.each_query().map(one).collect()
    }
}

/// Options, peers and fixtures.
pub struct World {
    /// The options.
    pub options: Options,
    redis8: Option<PathBuf>,
    fixtures: Vec<Fixture>,
}

impl World {
    /// Looks for the peers. Redis 8 is where `ENGRAM_REDIS8` says; `scripts/bench` sets it.
    pub fn new(options: Options) -> World {
        let redis8 = std::env::var_os("ENGRAM_REDIS8").map(PathBuf::from).filter(|path| path.is_file());
        World { options, redis8, fixtures: Vec::new() }
    }

    /// Redis 8, started, or a line in the report that says that it is missing.
    pub fn start_redis8(&self, report: &mut Report) -> Outcome<Option<Server>> {
        let Some(binary) = &self.redis8 else {
            report.skipped("Redis 8's vector sets: no binary (scripts/other-servers redis-8.0 fetches Debian's)");
            return Ok(None);
        };
        let version = crate::machine::first_line(&binary.to_string_lossy(), &["--version"]);
        report.version("Vector sets", format!("{version} (Debian's binary package)"));
        Ok(Some(Server::redis8(binary)?))
    }

    /// The set of that size in its servers; made, stored and measured when first asked for.
    pub fn fixture(&mut self, report: &mut Report, len: usize) -> Outcome<&Fixture> {
        let at = match self.fixtures.iter().position(|f| f.data.len == len) {
            Some(at) => at,
            None => {
                let fixture = self.load(report, len)?;
                self.fixtures.push(fixture);
                self.fixtures.len() - 1
            }
        };
        Ok(&self.fixtures[at])
    }

    fn load(&self, report: &mut Report, len: usize) -> Outcome<Fixture> {
        doing(&format!("making {len} vectors, and the truth about them"));
        let data = Dataset::new(len, if self.options.quick { 100 } else { 400 });
        let truth = data.truth(|_| true);
        let (nearest, tenth) = data.closeness();
        let mut table = Table::new(
            "storing",
            format!("Storing {} vectors", thousands(len)),
            &["what", "per CPU second", "bytes each", "MEMORY USAGE each", "RDB bytes each", "load, CPU s"],
        );
        table.note(format!(
            "{DIM} dimensions, the same for all; in the set the mean cosine to the nearest is {nearest:.2} and to the tenth \
             {tenth:.2}. Pipelines of {BATCH}, one client; CPU time \
             of all threads of the server, background work included. Bytes: growth of `used_memory` over the number stored. Load: \
              `DEBUG RELOAD NOSAVE` into the empty server."
        ));
        let engram = Server::plain()?;
        unlimited(&engram, "v")?;
        let ours = store(&engram, "v", len, |row| memory("v", &name(row), data.row(row), &[]))?;
        let ours_saved = reload(&engram, len)?;
        ours.row(&mut table, "MEM.STORE … VECTOR, defaults", Some(ours_saved));
        let half = engram.wire()?.ask(&["MEM.CONFIG", "SET", "h", "precision", "f16"]);
        let half = half.map(drop).map_err(|e| format!("not available: {}", brief(&*e)));
        if half.is_ok() {
            unlimited(&engram, "h")?;
            let stored = store(&engram, "h", len, |row| memory("h", &name(row), data.row(row), &[]))?;
            stored.row(&mut table, "… precision f16", None);
        }
        let mut plotted = vec![("Engram", [ours.bytes, ours_saved.0])];
        let redis8 = self.start_redis8(report)?;
        if let Some(server) = &redis8 {
            let stored = store(server, "v", len, |row| vadd(&name(row), data.row(row)))?;
            let saved = reload(server, len)?;
            stored.row(&mut table, "VADD (Q8)", Some(saved));
            plotted.push(("Vector set (Q8)", [stored.bytes, saved.0]));
        }
        report.table(table);
        if len == self.options.large {
            let group = |title: &str, which: usize| {
                (title.to_owned(), plotted.iter().map(|(what, bytes)| ((*what).to_owned(), bytes[which])).collect())
            };
            let groups = [group("in memory", 0), group("in the RDB file", 1)];
            let title = format!("Bytes of a memory with a vector of {DIM} dimensions (shorter is better)");
            report.plot("bytes", "bytes per memory, in memory and in the file", plot::bars(&title, "B", &groups));
            let inserts = format!("{:.0}", ours.per_cpu_second);
            report.target("insert by vector, per CPU second", "≥ 50,000", inserts, ours.per_cpu_second >= 50_000.0);
            let bytes = format!("{:.0}", ours.bytes);
            report.target("bytes per memory stored by VECTOR, default precision", "≤ 560", bytes, ours.bytes <= 560.0);
            let (rdb, load) = ours_saved;
            report.target("RDB bytes per vector", "≤ 450", format!("{rdb:.0}"), rdb <= 450.0);
            report.target(
                &format!("load of {}", thousands(len)),
                "≤ 0.2 s of CPU",
                format!("{load:.2} s"),
                load <= 0.2,
            );
        }
        Ok(Fixture { data, truth, engram, redis8, half })
    }
}

/// Lifts the limits of the tier that memories are stored in.
pub fn unlimited(server: &Server, key: &str) -> Outcome<()> {
    server.wire()?.ask(&["MEM.CONFIG", "SET", key, "short_term.capacity", "0", "short_term.ttl", "0"]).map(drop)
}

/// MEM.STORE of a vector, with these words at the end.
pub fn memory(key: &str, content: &str, vector: &[f32], more: &[&str]) -> Vec<u8> {
    let vector = blob(vector);
    let mut words = vec![&b"MEM.STORE"[..], key.as_bytes(), content.as_bytes(), b"VECTOR", &vector];
    words.extend(more.iter().map(|word| word.as_bytes()));
    command(&words)
}

/// VADD of a vector to the set `v`.
pub fn vadd(element: &str, vector: &[f32]) -> Vec<u8> {
    command(&[&b"VADD"[..], b"v", b"FP32", &blob(vector), element.as_bytes()])
}

/// What a server said in an error, without what the client library puts before it, as far as a cell has room.
pub fn brief(error: &dyn std::error::Error) -> String {
    const ROOM: usize = 60;
    let text = error.to_string();
    let said = text.rsplit_once("ResponseError: ").map_or(text.as_str(), |(_, said)| said);
    let short: String = said.chars().take(ROOM).collect();
    if short.len() < said.len() { short + "…" } else { short }
}

/// A number with its thousands apart, for titles.
pub fn thousands(count: usize) -> String {
    number(count as f64, 0).to_string()
}

/// What storing a set cost.
struct Stored {
    per_cpu_second: f64,
    bytes: f64,
    usage: f64,
}

impl Stored {
    /// Adds a row, with the bytes in the file and the seconds to load it where they were measured.
    fn row(&self, table: &mut Table, what: &str, saved: Option<(f64, f64)>) {
        let (rdb, load) = saved.map_or((none(), none()), |(rdb, load)| (number(rdb, 0), number(load, 2)));
        table.row([
            what.into(),
            number(self.per_cpu_second, 0),
            number(self.bytes, 0),
            number(self.usage, 0),
            rdb,
            load,
        ]);
    }
}

/// Runs the command of every row, in pipelines.
pub fn fill(server: &Server, len: usize, command: impl Fn(usize) -> Vec<u8>) -> Outcome<()> {
    let mut wire = server.wire()?;
    for first in (0..len).step_by(BATCH) {
        let commands: Vec<Vec<u8>> = (first..len.min(first + BATCH)).map(&command).collect();
        wire.pipeline(&commands)?;
        progress("storing", first + commands.len(), len);
    }
    Ok(())
}

fn store(server: &Server, key: &str, len: usize, command: impl Fn(usize) -> Vec<u8>) -> Outcome<Stored> {
    doing(&format!("storing {len} vectors in {key}"));
    let (bytes, cpu) = (server.number("memory", "used_memory")?, server.cpu()?);
    fill(server, len, command)?;
    server.settle()?;
    let (bytes, cpu) = (server.number("memory", "used_memory")? - bytes, server.cpu()? - cpu);
    let usage: f64 = server.wire()?.ask(&["MEMORY", "USAGE", key, "SAMPLES", "0"])?.parse()?;
    let len = len as f64;
    Ok(Stored { per_cpu_second: len / cpu, bytes: bytes / len, usage: usage / len })
}

/// Saves everything and loads it again: bytes of the file per row, and CPU seconds of the load.
fn reload(server: &Server, len: usize) -> Outcome<(f64, f64)> {
    let mut wire = server.wire()?;
    wire.ask(&["SAVE"])?;
    let file = std::fs::metadata(server.folder().join("dump.rdb"))?.len() as f64;
    wire.ask(&["FLUSHALL", "SYNC"])?;
    let cpu = server.cpu()?;
    wire.ask(&["DEBUG", "RELOAD", "NOSAVE"])?;
    Ok((file / len as f64, server.cpu()? - cpu))
}
