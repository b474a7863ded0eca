//! The engine without a server, beside faiss and usearch in a Python process: what the search itself costs. A space of the engine is asked through the same
//! call that MEM.RECALL makes; the peers by their Python interface, which adds a few microseconds to each query.
//!
//! Approximate indexes trade recall for time, so they are asked at several efforts, and the engine is compared with the cheapest effort that finds at least as
//! much as it does.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use engram_memory::{Effect, NewMemory, Recall, Snapshot, Space, Vectors};
use serde_json::{Value, json};

use crate::Outcome;
use crate::dataset::{DIM, Dataset, K, recall};
use crate::measure::{name, rows};
use crate::plot;
use crate::report::{Cell, Report, Table, doing, median, ms, none, number, percentile, times};
use crate::world::{World, thousands};

const NOW: u64 = 1_700_000_000_000;
/// The peers' indexes with the efforts at which they are asked; an exact one has none.
const INDEXES: [(&str, &str, &[usize]); 3] = [
    ("flat", "faiss FlatIP (exact)", &[0]),
    ("hnsw32", "faiss HNSW32", &[16, 32, 64, 128, 256]),
    ("usearch-i8", "usearch HNSW i8", &[32, 64, 128, 256]),
];

/// The peers' process, ended when dropped.
struct Peers {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    _folder: tempfile::TempDir,
}

impl Peers {
    fn start(python: &Path, data: &Dataset) -> Outcome<Peers> {
        let folder = tempfile::tempdir()?;
        for (file, vectors) in [("base.f32", data.base()), ("queries.f32", data.queries())] {
            let mut file = std::io::BufWriter::new(std::fs::File::create(folder.path().join(file))?);
            for x in vectors {
                file.write_all(&x.to_le_bytes())?;
            }
            file.flush()?;
        }
        let queries = data.queries().len() / DIM;
        let mut child = Command::new(python)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/peers.py"))
            .arg(folder.path())
            .args([data.len, DIM, queries, K].map(|n| n.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let to = child.stdin.take().ok_or("no pipe to the peers")?;
        let from = BufReader::new(child.stdout.take().ok_or("no pipe from the peers")?);
        Ok(Peers { child, to, from, _folder: folder })
    }

    fn ask(&mut self, what: &Value) -> Outcome<Value> {
        writeln!(self.to, "{what}")?;
        self.to.flush()?;
        let mut line = String::new();
        if self.from.read_line(&mut line)? == 0 {
            return Err("the process of faiss and usearch has ended: its message is above".into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        // It has nothing worth keeping; if it is gone already there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One way to find the nearest, timed round by round.
struct Way {
    what: String,
    /// The index and the effort; None = the engine.
    peer: Option<(&'static str, usize)>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    found: Vec<Vec<u32>>,
}

/// The engine beside the peers, for both sizes.
pub fn in_process(world: &mut World, report: &mut Report) -> Outcome<()> {
    let python = std::env::var_os("ENGRAM_PEERS_PYTHON").map(PathBuf::from).filter(|path| path.is_file());
    if python.is_none() {
        report.skipped("faiss and usearch: no Python environment with them (scripts/bench-peers makes one)");
    }
    for len in [world.options.small, world.options.large] {
        let large = len == world.options.large;
        let (rounds, per_round) = if world.options.quick { (3, 50) } else { (9, 100) };
        doing(&format!("the engine in-process, {len} vectors"));
        let data = Dataset::new(len, if world.options.quick { 100 } else { 400 });
        let truth = data.truth(|_| true);
        let queries = data.queries().len() / DIM;
        let space = space(&data)?;
        let snapshot = space.snapshot();
        let way = |what: String, peer| Way { what, peer, p50: Vec::new(), p99: Vec::new(), found: Vec::new() };
        let mut ways = vec![way("Engram".to_owned(), None)];
        let mut built = vec![(none(), number(space.memory_usage() as f64 / len as f64, 0))];
        let mut peers = python.as_deref().map(|python| Peers::start(python, &data)).transpose()?;
        if let Some(peers) = &mut peers {
            let versions = peers.ask(&json!({ "do": "versions" }))?;
            for (what, version) in versions.as_object().into_iter().flatten() {
                report.version(what, version.as_str().unwrap_or("unknown"));
            }
            for (index, what, efforts) in INDEXES {
                doing(&format!("building {what}, {len} vectors"));
                let reply = peers.ask(&json!({ "do": "build", "index": index }))?;
                let figure = |field: &str| reply[field].as_f64().unwrap_or(f64::NAN);
                for effort in efforts {
                    built.push((number(figure("seconds"), 1), number(figure("bytes") / len as f64, 0)));
                    let effort_shown = if *effort > 0 { format!(", ef {effort}") } else { String::new() };
                    ways.push(way(format!("{what}{effort_shown}"), Some((index, *effort))));
                }
            }
        }
        doing(&format!("searching in-process, {len} vectors"));
        // The first round is over all queries and tells what is found.
        for round in 0..=rounds {
            let (first, count) = if round == 0 { (0, queries) } else { (round * per_round, per_round) };
            for way in &mut ways {
                let (mut times, found) = match (&mut peers, way.peer) {
                    (Some(peers), Some((index, ef))) => {
                        let asked = json!({ "do": "time", "index": index, "ef": ef, "from": first, "count": count });
                        let reply = peers.ask(&asked)?;
                        (
                            serde_json::from_value(reply["times"].clone())?,
                            serde_json::from_value(reply["found"].clone())?,
                        )
                    }
                    _ => ask_engine(&snapshot, &data, first, count)?,
                };
                if round == 0 {
                    way.found = found;
                } else {
                    way.p50.push(percentile(&mut times, 0.5));
                    way.p99.push(percentile(&mut times, 0.99));
                }
            }
        }
        let mut table = Table::new(
            "in-process",
            format!("Search in-process among {}", thousands(len)),
            &["what", "p50 ms", "p99 ms", "recall@10", "bytes each", "build s", "beside Engram"],
        );
        table.note(
            "One thread, one query a call, taking turns. Engram: a snapshot of a space with the defaults, contents and all fields \
             included in its bytes. The peers hold vectors alone, their \
             bytes are the growth of their process.",
        );
        let engine = (median(&ways[0].p50), recall(&truth, &ways[0].found));
        for (way, (seconds, bytes)) in ways.iter().zip(built) {
            table.row([
                Cell::from(way.what.as_str()),
                ms(median(&way.p50)),
                ms(median(&way.p99)),
                number(recall(&truth, &way.found), 4),
                bytes,
                seconds,
                times(median(&way.p50) / engine.0),
            ]);
        }
        report.table(table);
        if large {
            compare(report, &ways, engine, &truth, len);
        }
    }
    Ok(())
}

fn compare(report: &mut Report, ways: &[Way], engine: (f64, f64), truth: &[Vec<u32>], len: usize) {
    let points = |index: &str| -> Vec<(f64, f64)> {
        let of = ways.iter().filter(|way| way.peer.is_some_and(|(i, _)| i == index));
        of.map(|way| (median(&way.p50), recall(truth, &way.found))).collect()
    };
    let what = format!("in-process among {}: Engram beside faiss HNSW at equal recall", thousands(len));
    let hnsw = points("hnsw32");
    match hnsw.iter().filter(|(_, found)| *found >= engine.1).map(|(p50, _)| *p50).reduce(f64::min) {
        Some(p50) => report.target(&what, "< 1 ×", times(engine.0 / p50).to_string(), engine.0 < p50),
        None if hnsw.is_empty() => report.unmeasured(&what, "< 1 ×", "no faiss here"),
        None => report.target(&what, "< 1 ×", "faiss reaches that recall at no effort tried", true),
    }
    let line = |points: Vec<(f64, f64)>| points.into_iter().map(|(p50, found)| (p50 / 1e3, found)).collect();
    let mut series = vec![
        ("Engram".to_owned(), line(vec![engine])),
        ("faiss HNSW32".to_owned(), line(hnsw)),
        ("usearch HNSW i8".to_owned(), line(points("usearch-i8"))),
        ("faiss FlatIP".to_owned(), line(points("flat"))),
    ];
    series.retain(|(_, points): &(String, Vec<_>)| !points.is_empty());
    let (x, y) = (plot::Axis { title: "p50, ms", log: true }, plot::Axis { title: "recall@10", log: false });
    let title = format!("Search in-process among {} (up and to the left is better)", thousands(len));
    report.plot(
        "in-process",
        "recall@10 against the time of a search, in-process",
        plot::lines(&title, &x, &y, &series),
    );
}

/// A space that holds the set.
fn space(data: &Dataset) -> Outcome<Space> {
    let mut space = Space::new();
    space.apply(&Effect::Set { name: "short_term.capacity".into(), value: "0".into() })?;
    for row in 0..data.len {
        let new =
            NewMemory { content: name(row), vectors: Vectors::Given(data.row(row).to_vec()), ..NewMemory::default() };
        for effect in &space.store(NOW + row as u64, new)?.effects {
            space.apply(effect)?;
        }
    }
    Ok(space)
}

/// The times of so many queries, and what they found.
fn ask_engine(snapshot: &Snapshot, data: &Dataset, first: usize, count: usize) -> Outcome<(Vec<f64>, Vec<Vec<u32>>)> {
    let all = data.queries().len() / DIM;
    let (mut times, mut found) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for i in first..first + count {
        let query = data.queries()[i % all * DIM..][..DIM].to_vec();
        let recall = Recall { queries: vec![query], k: K, ..Recall::default() };
        let started = Instant::now();
        let hits = snapshot.recall(NOW, &recall)?.hits;
        times.push(started.elapsed().as_secs_f64() * 1e6);
        found.push(hits.iter().flat_map(|hit| rows(hit.entry.content.as_bytes())).collect());
    }
    Ok((times, found))
}
