//! The benchmark: what a client waits for and what a memory costs, beside the peers, on this machine, in one run. It starts the servers itself, prints tables,
//! and writes `docs/benchmarks.md`, `docs/benchmarks.json` and the plots beside them.
//!
//! `scripts/bench` builds the release module, brings the peers and runs it. Every section can be run alone; only a run of everything writes the page of
//! the repository, so that all figures in it are of one run.

mod conversations;
mod copy_questions;
mod dataset;
mod embedding;
mod engine;
mod generation;
mod heat;
mod in_process;
mod learning;
mod machine;
mod measure;
mod million;
mod paths;
mod plot;
mod quality;
mod random_gemma;
mod report;
mod server;
mod summaries;
mod text;
mod texts;
mod vectors;
mod wire;
mod world;
mod writes;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

use report::{Page, Report, Table, doing, number};
use world::{Options, World};

type Outcome<T> = Result<T, Box<dyn Error>>;

const USAGE: &str = "\
usage: scripts/bench [SECTION ...] [option ...]        everything but `million` when no section is named

sections, in this order:
  vectors      recall by vector over loopback, 10,000 and 100,000; what storing takes
  filters      the same with filters, 100,000
  clients      queries per second with 1 and 8 clients, 100,000
  in-process   the engine without a server, beside faiss and usearch
  writes       stores by vector while recalls run
  snapshots    100,000 memories under 2,000 changes a second, with readers and forks
  million      1,000,000 vectors (needs 6 GiB)
  embedding    the sentence encoder beside onnxruntime (scripts/bench-embedding)
  text         storing and recalling text, 10,000
  quality      what recall finds: needs --locomo FILE or --xquad FILE
  heat         what cooling saves and costs, 100,000; on LoCoMo with --locomo FILE
  summaries    what extractive summaries keep: needs --locomo FILE
  conversations  turns, contexts and documents; with --locomo FILE whether a context holds the evidence
  learning     consolidation of 100,000 memories, and PING meanwhile
  generation   tokens per second, PING meanwhile, and the two paths of an answer
options:
  --quick          a tenth of the sizes, a few minutes; judges no target
  --million        the section `million` too
  --locomo FILE    LoCoMo as JSON lines (format: tests/bench/quality.rs)
  --xquad FILE     XQuAD in English, as published
  --out FOLDER     where page, JSON and plots go: docs if everything ran, else var/bench
";
const SECTIONS: [&str; 15] = [
    "vectors",
    "filters",
    "clients",
    "in-process",
    "writes",
    "snapshots",
    "million",
    "embedding",
    "text",
    "quality",
    "heat",
    "summaries",
    "conversations",
    "learning",
    "generation",
];

/// The page that a run of everything writes.
const PAGE: Page = Page {
    name: "benchmarks",
    title: "Benchmarks",
    made_by: "make bench",
    how: "How each is measured is written at the head of its file in `tests/bench/`.",
};

fn main() {
    if let Err(error) = run() {
        eprintln!("engram-bench: {error}");
        std::process::exit(1);
    }
}

fn run() -> Outcome<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // A benchmark with peers, options and a page of its own: scripts/bench-engine.
    if let Some(("engine", rest)) = arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return engine::engine(&root, rest);
    }
    let (mut chosen, mut quick, mut million) = (Vec::new(), false, false);
    let (mut locomo, mut xquad, mut out) = (None, None, None);
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let mut path = || arguments.next().map(PathBuf::from).ok_or_else(|| format!("{argument} needs a path"));
        match argument.as_str() {
            "-h" | "--help" => {
                print!("{USAGE}");
                return Ok(());
            }
            "--quick" => quick = true,
            "--million" => million = true,
            "--locomo" => locomo = Some(path()?),
            "--xquad" => xquad = Some(path()?),
            "--out" => out = Some(path()?),
            section if SECTIONS.contains(&section) => chosen.push(argument),
            _ => return Err(format!("unknown section or option '{argument}'\n\n{USAGE}").into()),
        }
    }
    let everything = chosen.is_empty();
    if everything {
        chosen = SECTIONS.map(str::to_owned).to_vec();
        chosen.retain(|section| section != "million" || million);
    } else if million && !chosen.iter().any(|section| section == "million") {
        chosen.push("million".to_owned());
    }
    let scratch = root.join("var/bench");
    let (small, large) = if quick { (1_000, 10_000) } else { (10_000, 100_000) };
    let mut world = World::new(Options { quick, small, large });
    let mut report = Report::new(PAGE, quick);
    let server = std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
    report.version("Server", machine::first_line(&server, &["--version"]));
    report.version("Compiler", machine::first_line("rustc", &["--version"]));

    let mut took = Table::new("took", "How long this took", &["what", "seconds"]);
    for section in SECTIONS.into_iter().filter(|section| chosen.iter().any(|c| c == section)) {
        doing(&format!("section {section}"));
        let begun = Instant::now();
        let done = match section {
            "vectors" => vectors::latency(&mut world, &mut report),
            "filters" => vectors::filters(&mut world, &mut report),
            "clients" => vectors::clients(&mut world, &mut report),
            "in-process" => in_process::in_process(&mut world, &mut report),
            "writes" => writes::while_reading(&mut world, &mut report),
            "snapshots" => writes::snapshots(&mut world, &mut report),
            "million" => million::million(&mut report),
            "embedding" => embedding::embedding(&mut report, &root, &scratch),
            "text" => text::text(&mut report, small, if quick { 100 } else { 1_000 }),
            "quality" => quality::quality(&mut report, locomo.as_deref(), xquad.as_deref(), &scratch),
            "heat" => heat::heat(&mut report, locomo.as_deref(), large),
            "summaries" => summaries::summaries(&mut report, locomo.as_deref(), &root, quick),
            "conversations" => conversations::conversations(&mut report, locomo.as_deref(), small, quick),
            "learning" => learning::learning(&mut report, large),
            _ => generation::generation(&mut report, quick),
        };
        done.map_err(|error| format!("section {section}: {error}"))?;
        took.row([section.into(), number(begun.elapsed().as_secs_f64(), 0)]);
    }
    if everything && !million {
        report.unmeasured("RECALL by vector among 1,000,000", "≤ 2 ms at recall@10 ≥ 0.98", "not asked for: --million");
    }
    test_times(&root, &mut took);
    report.table(took);
    let folder = if everything && !quick { root.join("docs") } else { scratch };
    report.write(&out.unwrap_or(folder))
}

/// How long building and testing took, if `make test` has run in this checkout.
fn test_times(root: &Path, table: &mut Table) {
    let Ok(times) = std::fs::read_to_string(root.join("var/test-times.tsv")) else { return };
    for (step, seconds) in times.lines().filter_map(|line| line.split_once('\t')) {
        table.row([format!("make test: {step}").into(), number(seconds.parse().unwrap_or(f64::NAN), 0)]);
    }
}
