//! The generation engine beside llama.cpp: the same file, the same threads, the same tokens, in turns.
//!
//! Each engine is a program of its own that loads the file and answers commands over pipes (the protocol stands at the head of `llama.py`; ours is the
//! example `engine_bench`). All of them stay loaded and are asked one after the other, round by round and each time another first, so a machine that slows
//! down slows all of them; the figure is the median of the rounds. The files have random weights in the real shapes ([`crate::random_gemma`]): speed depends
//! on shapes, not on what the weights know.
//!
//! A turn during which other processes took more than a tenth of a core is disturbed. It is repeated, at most as often as there are rounds (never in a quick
//! run), and it is left out of the median if at least half as many quiet ones as rounds came together.
//!
//! The ceiling of a step of one stream is what memory gives as many threads that only read, divided by the bytes of the weights, which a step reads once. It is
//! measured in the same run. It counts no keys and values.
//!
//! A peer that is missing, and a number of threads that an engine does not take, leave their columns empty.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Outcome;
use crate::machine;
use crate::plot;
use crate::random_gemma::{self, FORMATS, GEMMA_3_1B, GEMMA_3_270M, Shape};
use crate::report::{Cell, Page, Report, Table, doing, median, none, number, times};

const USAGE: &str = "\
usage: scripts/bench-engine [option ...]

options:
  --quick            270M only, fewer tokens, two rounds: two minutes; judges no target
  --rounds N         rounds to take the median of (5)
  --wait SECONDS     before each turn, wait at most so long for other processes to rest (0)
  --models LIST      of 270m,1b
  --formats LIST     of q8_0,q4_0 (every matrix), and when named q4_0-head8 (the embedding in Q8_0), f16, q4_k_m (by llama.cpp's quantiser)
  --threads LIST     1,2
  --only LIST        of load,prefill,decode,streams
  --files            makes the model files, .cache/gemma, and measures nothing
  --out FOLDER       where page, JSON and plots go: docs if everything ran, else var/bench

environment, set by scripts/bench-engine where it can:
  ENGRAM_ENGINE_BENCH    our program: the example engine_bench of engram-inference
  ENGRAM_LLAMA_PYTHON    a Python with llama-cpp-python (scripts/bench-peers --llama)
  ENGRAM_IK_LLAMA        libllama.so of a built ik_llama.cpp, if there is one: another peer
";

/// The formats that a run measures if none is named.
const USUAL: [&str; 2] = ["q8_0", "q4_0"];
/// The one that llama.cpp's quantiser makes.
const Q4_K_M: &str = "q4_k_m";

const PAGE: Page = Page {
    name: "engine",
    title: "The generation engine beside llama.cpp",
    made_by: "scripts/bench-engine",
    how: "What is run and how is written at the head of `tests/bench/engine.rs` and `tests/bench/llama.py`.",
};

struct Options {
    quick: bool,
    rounds: usize,
    wait: Duration,
    models: Vec<String>,
    formats: Vec<String>,
    threads: Vec<usize>,
    only: Vec<String>,
    files: bool,
    out: Option<PathBuf>,
}

/// Runs it with these arguments; `root` is the repository's.
pub fn engine(root: &Path, arguments: &[String]) -> Outcome<()> {
    let Some(options) = Options::parse(arguments)? else {
        print!("{USAGE}");
        return Ok(());
    };
    let shapes: Vec<Shape> =
        [GEMMA_3_270M, GEMMA_3_1B].into_iter().filter(|s| options.models.iter().any(|m| m == s.name)).collect();
    let mut report = Report::new(PAGE, options.quick);
    let mut all = Results::default();
    for shape in &shapes {
        for format in &options.formats {
            let Some(path) = model(&mut report, root, shape, format)? else { continue };
            if options.files {
                println!("{}", path.display());
                continue;
            }
            for &threads in &options.threads {
                let config = Config { shape: shape.name, format: format.clone(), threads };
                measure(&mut report, &mut all, root, &options, &config, &path, random_gemma::weights(&path, shape)?)?;
            }
        }
    }
    if options.files {
        return Ok(());
    }
    all.show(&mut report);
    all.judge(&mut report);
    let folder = if options.everything() { root.join("docs") } else { root.join("var/bench") };
    report.write(options.out.as_deref().unwrap_or(&folder))
}

impl Options {
    /// None if help is asked for.
    fn parse(arguments: &[String]) -> Outcome<Option<Options>> {
        let owned = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
        let mut options = Options {
            quick: false,
            rounds: 0,
            wait: Duration::ZERO,
            models: Vec::new(),
            formats: owned(&USUAL),
            threads: vec![1, 2],
            only: owned(&["load", "prefill", "decode", "streams"]),
            files: false,
            out: None,
        };
        let known: Vec<&str> = FORMATS.iter().map(|f| f.name).chain([Q4_K_M]).collect();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
            let list = |value: &str, of: &[&str]| {
                let names: Vec<String> = value.split(',').map(str::to_owned).collect();
                match names.iter().find(|name| !of.contains(&name.as_str())) {
                    Some(name) => Err(format!("{argument}: '{name}' is none of {}", of.join(", "))),
                    None => Ok(names),
                }
            };
            match argument.as_str() {
                "-h" | "--help" => return Ok(None),
                "--quick" => options.quick = true,
                "--files" => options.files = true,
                "--rounds" => {
                    options.rounds =
                        value()?.parse::<usize>().ok().filter(|n| *n > 0).ok_or("--rounds needs a number")?
                }
                "--wait" => {
                    let seconds = value()?.parse().map_err(|_| "--wait needs a number of seconds")?;
                    options.wait = Duration::from_secs(seconds);
                }
                "--models" => options.models = list(value()?, &["270m", "1b"])?,
                "--formats" => options.formats = list(value()?, &known)?,
                "--only" => options.only = list(value()?, &["load", "prefill", "decode", "streams"])?,
                "--threads" => {
                    let threads = value()?.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>();
                    options.threads = threads.map_err(|_| "--threads needs numbers")?;
                    if options.threads.contains(&0) {
                        return Err("--threads needs numbers above zero".into());
                    }
                }
                "--out" => options.out = Some(value()?.into()),
                _ => return Err(format!("unknown option '{argument}'\n\n{USAGE}").into()),
            }
        }
        if options.models.is_empty() {
            options.models = owned(if options.quick { &["270m"] } else { &["270m", "1b"] });
        }
        if options.rounds == 0 {
            options.rounds = if options.quick { 2 } else { 5 };
        }
        Ok(Some(options))
    }

    /// Whether the figures are those of the repository's page.
    fn everything(&self) -> bool {
        !self.quick
            && self.models.len() == 2
            && USUAL.iter().all(|f| self.formats.iter().any(|g| g == f))
            && [1, 2].iter().all(|t| self.threads.contains(t))
            && self.only.len() == 4
    }

    /// What is asked of every engine.
    fn cases(&self) -> Vec<Case> {
        let wanted = |name: &str| self.only.iter().any(|n| n == name);
        let (prompts, depths, steps, rounds): (&[usize], _, _, _) =
            if self.quick { (&[128, 512], [0, 512], 16, 8) } else { (&[128, 512, 2048], [0, 2048], 64, 32) };
        let mut cases = Vec::new();
        if wanted("prefill") {
            cases.extend(prompts.iter().map(|&n| Case { work: Work::Prefill(n), steps: 1 }));
        }
        if wanted("decode") {
            cases.extend(depths.map(|depth| Case { work: Work::Decode(depth), steps }));
        }
        if wanted("streams") {
            cases.extend([1, 4, 8].map(|streams| Case { work: Work::Streams(streams), steps: rounds }));
        }
        cases
    }
}

/// The file of a model, made if it is not there; none if what makes it is missing.
fn model(report: &mut Report, root: &Path, shape: &Shape, format: &str) -> Outcome<Option<PathBuf>> {
    let folder = root.join(".cache/gemma");
    if let Some(format) = FORMATS.iter().find(|f| f.name == format) {
        doing(&format!("model file {}-{}", shape.name, format.name));
        return random_gemma::cached(&folder, shape, format).map(Some);
    }
    let path = folder.join(format!("{}-{format}.gguf", shape.name));
    if !path.is_file() {
        let Some(python) = std::env::var_os("ENGRAM_LLAMA_PYTHON") else {
            report.skipped(format!(
                "{} {format}: its file is made by llama.cpp's quantiser, which is not here",
                shape.name
            ));
            return Ok(None);
        };
        doing(&format!("quantising {}-{format}", shape.name));
        let whole = random_gemma::cached(&folder, shape, &random_gemma::F16)?;
        let unfinished = path.with_extension("unfinished");
        let mut quantise = Command::new(python);
        quantise.arg(root.join("tests/bench/llama.py")).arg("--quantize").args([&whole, &unfinished]).arg(format);
        let status = quantise.status()?;
        if !status.success() {
            return Err(format!("llama.cpp's quantiser: {status}, see above").into());
        }
        std::fs::rename(&unfinished, &path)?;
    }
    Ok(Some(path))
}

/// What is measured of every engine at once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    /// A prompt of so many tokens.
    Prefill(usize),
    /// Steps of one stream after so many tokens.
    Decode(usize),
    /// Steps of so many streams at once.
    Streams(usize),
}

#[derive(Clone, Copy)]
struct Case {
    work: Work,
    steps: usize,
}

impl Case {
    fn command(&self) -> String {
        match self.work {
            Work::Prefill(n) => format!("prefill {n}"),
            Work::Decode(depth) => format!("decode {depth} {}", self.steps),
            Work::Streams(streams) => format!("streams {streams} {}", self.steps),
        }
    }

    fn tokens(&self) -> usize {
        match self.work {
            Work::Prefill(n) => n,
            Work::Decode(_) => self.steps,
            Work::Streams(streams) => streams * self.steps,
        }
    }
}

#[derive(Clone, PartialEq, Eq)]
struct Config {
    shape: &'static str,
    format: String,
    threads: usize,
}

impl std::fmt::Display for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let s = if self.threads == 1 { "" } else { "s" };
        write!(f, "{} {}, {} thread{s}", self.shape, self.format, self.threads)
    }
}

/// An engine in a process of its own.
struct Program {
    engine: usize,
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

/// Ours and the peers, in the order of the columns.
const ENGINES: [&str; 3] = ["Engram", "llama.cpp", "ik_llama.cpp"];
type PerEngine = [Option<f64>; ENGINES.len()];

impl Program {
    /// Starts an engine; none if it is not here.
    fn start(engine: usize, root: &Path, model: &Path, threads: usize) -> Outcome<Option<Program>> {
        let python = || {
            let mut command = Command::new(std::env::var_os("ENGRAM_LLAMA_PYTHON")?);
            command.arg(root.join("tests/bench/llama.py"));
            Some(command)
        };
        let command = match engine {
            0 => std::env::var_os("ENGRAM_ENGINE_BENCH").map(Command::new),
            1 => python(),
            _ => std::env::var_os("ENGRAM_IK_LLAMA").and_then(|library| {
                let mut command = python()?;
                command.arg("--library").arg(library);
                Some(command)
            }),
        };
        let Some(mut command) = command else { return Ok(None) };
        command.arg(model).arg(threads.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("{} cannot be started: {e}", ENGINES[engine]))?;
        let (to, from) = (child.stdin.take().ok_or("no stdin")?, child.stdout.take().ok_or("no stdout")?);
        Ok(Some(Program { engine, child, to, from: BufReader::new(from) }))
    }

    fn ask(&mut self, command: &str) -> Outcome<Value> {
        writeln!(self.to, "{command}")?;
        let mut line = String::new();
        if self.from.read_line(&mut line)? == 0 {
            return Err(format!("{} ended at '{command}'", ENGINES[self.engine]).into());
        }
        let reply: Value = serde_json::from_str(&line)?;
        match reply["error"].as_str() {
            Some(error) => Err(format!("{}: {error}", ENGINES[self.engine]).into()),
            None => Ok(reply),
        }
    }

    /// The field of the reply that is a number.
    fn figure(&mut self, command: &str, field: &str) -> Outcome<f64> {
        let reply = self.ask(command)?;
        Ok(reply[field].as_f64().ok_or_else(|| format!("'{command}' is answered without {field}"))?)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = writeln!(self.to, "quit");
        // It may be at work still, if the benchmark ends early.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Default)]
struct Results {
    speeds: Vec<(Config, Work, PerEngine)>,
    loads: Vec<Load>,
    /// Bytes per second of memory by configuration, and the weights that a step reads.
    ceilings: Vec<(Config, f64, u64)>,
    disturbed: Disturbed,
}

struct Load {
    config: Config,
    file: u64,
    seconds: PerEngine,
    /// Megabytes in memory after the first load, and at the end.
    loaded: PerEngine,
    worked: PerEngine,
    /// How many greedy tokens are the same as ours from the start on.
    equal: PerEngine,
}

/// Prompt of the comparison of greedy tokens: a text's beginning and words.
const PROMPT: &str = "2,105,9000,107,1234,77777,200123,50000,31337,106";
const GREEDY: usize = 24;

fn measure(
    report: &mut Report,
    all: &mut Results,
    root: &Path,
    options: &Options,
    config: &Config,
    path: &Path,
    weights: u64,
) -> Outcome<()> {
    doing(&config.to_string());
    let mut prober = Program::start(0, root, path, config.threads)?;
    let mut programs = Vec::new();
    for (engine, name) in ENGINES.iter().enumerate() {
        match Program::start(engine, root, path, config.threads)? {
            Some(program) => programs.push(program),
            // The third is one that few have.
            None if engine < 2 => report.skipped(format!("{name}: it is not here")),
            None => {}
        }
    }
    let mut load = Load {
        config: config.clone(),
        file: std::fs::metadata(path)?.len(),
        seconds: [None; ENGINES.len()],
        loaded: [None; ENGINES.len()],
        worked: [None; ENGINES.len()],
        equal: [None; ENGINES.len()],
    };
    // The first load reads the file into the page cache and is not timed; an engine that cannot is out of this configuration.
    let mut ready = Vec::new();
    for mut program in programs {
        let begun = program.ask("version").and_then(|v| Ok((v, program.figure("load", "resident_mb")?)));
        let versions = match begun {
            Ok((versions, megabytes)) => {
                load.loaded[program.engine] = Some(megabytes);
                versions
            }
            Err(error) => {
                report.skipped(format!("{config}: {error}"));
                continue;
            }
        };
        for (what, version) in versions.as_object().into_iter().flatten() {
            let what =
                if what == "features" { format!("{}'s features", ENGINES[program.engine]) } else { what.clone() };
            report.version(&what, version.as_str().unwrap_or_default());
        }
        ready.push(program);
    }
    let mut programs = ready;
    if options.only.iter().any(|n| n == "load") {
        load.seconds = in_turns(&mut programs, options, "load", &mut all.disturbed)?;
    }
    let mut greedy: Vec<(usize, Vec<Value>)> = Vec::new();
    for program in &mut programs {
        let ids = program.ask(&format!("greedy {PROMPT} {GREEDY}"))?["ids"].as_array().cloned().unwrap_or_default();
        greedy.push((program.engine, ids));
    }
    if let Some((_, ours)) = greedy.iter().find(|(engine, _)| *engine == 0) {
        for (engine, theirs) in greedy.iter().filter(|(engine, _)| *engine != 0) {
            load.equal[*engine] = Some(ours.iter().zip(theirs).take_while(|(a, b)| a == b).count() as f64);
        }
    }
    for case in options.cases() {
        // What memory gives is asked of our program, which needs no model for it.
        if let Some(prober) = &mut prober {
            all.ceilings.push((config.clone(), prober.figure("bandwidth", "gb_per_second")? * 1e9, weights));
        }
        let seconds = in_turns(&mut programs, options, &case.command(), &mut all.disturbed)?;
        let speeds = seconds.map(|s| s.map(|s| case.tokens() as f64 / s));
        let shown = ENGINES.iter().zip(speeds).filter_map(|(name, s)| Some(format!("{name} {:.1}", s?)));
        doing(&format!("{config}: {}: {} tokens/s", case.command(), shown.collect::<Vec<_>>().join(", ")));
        all.speeds.push((config.clone(), case.work, speeds));
    }
    for program in &mut programs {
        load.worked[program.engine] = Some(program.figure("memory", "resident_mb")?);
    }
    all.loads.push(load);
    Ok(())
}

/// How much of a core other processes may take in a quiet turn.
const REST: f64 = 0.1;

/// How many turns other processes disturbed.
#[derive(Default)]
struct Disturbed {
    turns: usize,
    of: usize,
}

/// The seconds of each engine for a command: medians of the rounds, each of which begins with another engine.
fn in_turns(
    programs: &mut [Program],
    options: &Options,
    command: &str,
    disturbed: &mut Disturbed,
) -> Outcome<PerEngine> {
    let mut quiet = [const { Vec::new() }; ENGINES.len()];
    let mut all = quiet.clone();
    let (count, rounds) = (programs.len(), options.rounds);
    for round in 0..if options.quick { rounds } else { 2 * rounds } {
        for turn in 0..count {
            let program = &mut programs[(round + turn) % count];
            let engine = program.engine;
            if quiet[engine].len() >= rounds {
                continue;
            }
            let asked = Instant::now();
            while asked.elapsed() < options.wait && !Busy::rests(&program.child) {}
            let (before, began) = (Busy::now(&program.child), Instant::now());
            let seconds = program.figure(command, "seconds")?;
            let others = Busy::now(&program.child).others_since(&before) / began.elapsed().as_secs_f64();
            disturbed.of += 1;
            all[engine].push(seconds);
            if others <= REST {
                quiet[engine].push(seconds);
            } else {
                disturbed.turns += 1;
            }
        }
    }
    let mut figures = [None; ENGINES.len()];
    for program in programs {
        let engine = program.engine;
        let enough = 2 * quiet[engine].len() >= rounds;
        figures[engine] = Some(median(if enough { &quiet[engine] } else { &all[engine] }));
    }
    Ok(figures)
}

/// Processor time used so far, in seconds: of all processes (and of other machines on this processor, as far as the system knows), and of one.
struct Busy {
    all: f64,
    one: f64,
}

impl Busy {
    /// Zeros where the system does not say: then every turn counts as quiet.
    fn now(child: &Child) -> Busy {
        let numbers = |text: &str, fields: &[usize]| -> f64 {
            let words: Vec<&str> = text.split_whitespace().collect();
            fields.iter().filter_map(|&f| words.get(f)?.parse::<f64>().ok()).sum::<f64>() / 100.0
        };
        let all = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        // user nice system idle iowait irq softirq steal
        let all = numbers(all.lines().next().unwrap_or_default(), &[1, 2, 3, 6, 7, 8]);
        let one = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
        // Behind the name in brackets, which may hold spaces: state and ten numbers, then user and system time.
        let one = numbers(one.rsplit(')').next().unwrap_or_default(), &[11, 12]);
        Busy { all, one }
    }

    /// Whether other processes rest, seen for half a second, in which this one does nothing.
    fn rests(child: &Child) -> bool {
        const LOOK: Duration = Duration::from_millis(500);
        let before = Busy::now(child);
        std::thread::sleep(LOOK);
        Busy::now(child).others_since(&before) <= REST * LOOK.as_secs_f64()
    }

    fn others_since(&self, before: &Busy) -> f64 {
        (self.all - before.all) - (self.one - before.one)
    }
}

/// Ours beside a peer's.
fn ratio(of: &PerEngine, peer: usize) -> Option<f64> {
    Some(of[0]? / of[peer]?)
}

fn cell(value: Option<f64>, digits: usize) -> Cell {
    value.map_or_else(none, |v| number(v, digits))
}

impl Results {
    /// The engines that gave any figure.
    fn engines(&self) -> Vec<usize> {
        (0..ENGINES.len()).filter(|&e| self.loads.iter().any(|load| load.loaded[e].is_some())).collect()
    }

    /// The steps per second of one stream that memory allows.
    fn ceiling(&self, config: &Config) -> Option<f64> {
        // Memory gives what it gave in the best moment of the run.
        let same = self.ceilings.iter().filter(|(c, ..)| c.threads == config.threads);
        let best = same.map(|(_, bytes, _)| *bytes).fold(0.0, f64::max);
        let (.., weights) = self.ceilings.iter().find(|(c, ..)| c == config)?;
        Some(best / *weights as f64)
    }

    fn show(&self, report: &mut Report) {
        let engines = self.engines();
        let Disturbed { turns, of } = self.disturbed;
        report.version("Turns disturbed by other processes", format!("{turns} of {of}"));
        report.version("Compiler", machine::first_line("rustc", &["--version"]));
        let mut threads: Vec<usize> = self.ceilings.iter().map(|(c, ..)| c.threads).collect();
        threads.sort_unstable();
        threads.dedup();
        for threads in threads {
            let same = self.ceilings.iter().filter(|(c, ..)| c.threads == threads);
            let best = same.map(|(_, bytes, _)| *bytes).fold(0.0, f64::max);
            report.version(&format!("Memory, read by {threads} thread(s)"), format!("{:.1} GB/s", best / 1e9));
        }
        let names = |first: &[&str], unit: &str| {
            let mut names: Vec<String> = first.iter().map(|&n| n.to_owned()).collect();
            for &engine in &engines {
                names.push(format!("{}{unit}", ENGINES[engine]));
            }
            names
        };
        let table = |name: &str, title: &str, columns: &[String]| {
            Table::new(name, title, &columns.iter().map(String::as_str).collect::<Vec<_>>())
        };
        type Row = (Config, String, PerEngine);
        let pick = |of: &dyn Fn(Work) -> Option<String>| -> Vec<Row> {
            self.speeds
                .iter()
                .filter_map(|(config, work, speeds)| Some((config.clone(), of(*work)?, *speeds)))
                .collect()
        };
        let peers: Vec<usize> = engines.iter().copied().filter(|&e| e != 0).collect();
        for (name, title, what, rows) in [
            (
                "prefill",
                "Prompts, tokens/s",
                "tokens",
                pick(&|w| if let Work::Prefill(n) = w { Some(n.to_string()) } else { None }),
            ),
            (
                "decode",
                "One stream, tokens/s",
                "depth",
                pick(&|w| if let Work::Decode(n) = w { Some(n.to_string()) } else { None }),
            ),
            (
                "streams",
                "Several streams at once, tokens/s of all",
                "streams",
                pick(&|w| if let Work::Streams(n) = w { Some(n.to_string()) } else { None }),
            ),
        ] {
            if rows.is_empty() {
                continue;
            }
            let mut columns = names(&["model", "threads", what], "");
            columns.extend(peers.iter().map(|&p| format!("Engram / {}", ENGINES[p])));
            let ceiling = name == "decode";
            if ceiling {
                columns.push("ceiling".to_owned());
                columns.extend(engines.iter().map(|&e| format!("{}, share of it", ENGINES[e])));
            }
            let mut made = table(name, title, &columns);
            for (config, what, speeds) in &rows {
                let mut row: Vec<Cell> = vec![
                    format!("{} {}", config.shape, config.format).into(),
                    number(config.threads as f64, 0),
                    number(what.parse().unwrap_or(f64::NAN), 0),
                ];
                row.extend(engines.iter().map(|&e| cell(speeds[e], 1)));
                row.extend(peers.iter().map(|&p| ratio(speeds, p).map_or_else(none, times)));
                if ceiling {
                    let most = self.ceiling(config);
                    row.push(cell(most, 1));
                    row.extend(engines.iter().map(|&e| match (speeds[e], most) {
                        (Some(speed), Some(most)) => percent(speed / most),
                        _ => none(),
                    }));
                }
                made.row(row);
            }
            report.table(made);
            let mut groups = Vec::new();
            let shown = match name {
                "prefill" => "512",
                "decode" => "0",
                _ => "8",
            };
            for (config, _, speeds) in rows.iter().filter(|(_, what, _)| what == shown) {
                let mut bars: Vec<(String, f64)> =
                    engines.iter().filter_map(|&e| Some((ENGINES[e].to_owned(), speeds[e]?))).collect();
                if ceiling {
                    bars.extend(self.ceiling(config).map(|most| ("what memory allows".to_owned(), most)));
                }
                groups.push((config.to_string(), bars));
            }
            let words = match name {
                "prefill" => "A prompt of 512 tokens",
                "decode" => "One stream at depth 0",
                _ => "Eight streams",
            };
            report.plot(name, format!("{words}, tokens/s"), plot::bars(words, "tokens/s", &groups));
        }
        let mut columns = names(&["model", "threads", "file MB"], ": load s");
        columns.extend(engines.iter().map(|&e| format!("{}: MB loaded", ENGINES[e])));
        columns.extend(engines.iter().map(|&e| format!("{}: MB at the end", ENGINES[e])));
        columns.extend(peers.iter().map(|&p| format!("greedy tokens as {}, of {GREEDY}", ENGINES[p])));
        let mut made = table("load", "Loading and memory", &columns);
        made.note(
            "The file is in the page cache. Memory is what the process has resident: the mapped file, weights laid out anew, keys and values; \
             for the peers also Python.",
        );
        for load in &self.loads {
            let mut row: Vec<Cell> = vec![
                format!("{} {}", load.config.shape, load.config.format).into(),
                number(load.config.threads as f64, 0),
                number(load.file as f64 / 1e6, 0),
            ];
            row.extend(engines.iter().map(|&e| cell(load.seconds[e], 2)));
            row.extend(engines.iter().map(|&e| cell(load.loaded[e], 0)));
            row.extend(engines.iter().map(|&e| cell(load.worked[e], 0)));
            row.extend(peers.iter().map(|&p| cell(load.equal[p], 0)));
            made.row(row);
        }
        report.table(made);
    }

    /// The targets: the worst configuration decides.
    fn judge(&self, report: &mut Report) {
        let least = |values: Vec<Option<f64>>| values.into_iter().flatten().min_by(f64::total_cmp);
        let most = |values: Vec<Option<f64>>| values.into_iter().flatten().max_by(f64::total_cmp);
        let over = |work: &dyn Fn(Work) -> bool, config: &dyn Fn(&Config) -> bool| -> Vec<Option<f64>> {
            let chosen = self.speeds.iter().filter(|(c, w, _)| work(*w) && config(c));
            chosen.map(|(.., speeds)| ratio(speeds, 1)).collect()
        };
        // How one of our own figures stands to another of the same configuration.
        let own = |of: Work, to: Work| -> Vec<Option<f64>> {
            let find = |config: &Config, work: Work| {
                self.speeds.iter().find(|(c, w, _)| c == config && *w == work).and_then(|(.., speeds)| speeds[0])
            };
            self.loads.iter().map(|l| Some(find(&l.config, of)? / find(&l.config, to)?)).collect()
        };
        let hard = |c: &Config| c.shape == "1b" && c.format.starts_with("q4_0");
        let decode = |w: Work| w == Work::Decode(0);
        let prefill = |w: Work| matches!(w, Work::Prefill(_));
        let mut at_least = |what: &str, aim: f64, found: Option<f64>| match found {
            Some(found) => report.target(what, &format!("≥ {aim} ×"), format!("{found:.2} ×"), found >= aim),
            None => report.unmeasured(what, &format!("≥ {aim} ×"), "not measured"),
        };
        at_least("one stream beside llama.cpp, one thread", 1.3, least(over(&decode, &|c| c.threads == 1)));
        at_least("the same, two threads, without 1B Q4_0", 1.3, least(over(&decode, &|c| c.threads == 2 && !hard(c))));
        at_least("the same, two threads, 1B Q4_0", 1.1, least(over(&decode, &|c| c.threads == 2 && hard(c))));
        at_least("prompts beside llama.cpp, Q8_0", 3.0, least(over(&prefill, &|c| c.format == "q8_0")));
        at_least("prompts beside llama.cpp, Q4_0", 1.7, least(over(&prefill, &|c| c.format.starts_with("q4_0"))));
        at_least("4 streams beside llama.cpp", 2.5, least(over(&|w| w == Work::Streams(4), &|_| true)));
        at_least("8 streams beside llama.cpp", 4.0, least(over(&|w| w == Work::Streams(8), &|_| true)));
        let streams = [4, 8].into_iter().flat_map(|s| own(Work::Streams(s), Work::Streams(1)));
        at_least("4 and 8 streams beside one stream", 1.0, least(streams.collect()));
        let share = least(
            self.speeds
                .iter()
                .filter(|(_, w, _)| decode(*w))
                .map(|(c, _, speeds)| Some(speeds[0]? / self.ceiling(c)?))
                .collect(),
        );
        let lost = least(own(Work::Decode(2048), Work::Decode(0))).map(|kept| 1.0 - kept);
        let loading = most(self.loads.iter().map(|l| ratio(&l.seconds, 1)).collect());
        let size = most(self.loads.iter().map(|l| Some(l.loaded[0]? * 1e6 / l.file as f64)).collect());
        for (what, aim, found, met) in [
            (
                "one stream, of what memory allows",
                "≥ 70 %",
                share.map(|s| percent(s).to_string()),
                share.is_some_and(|s| s >= 0.7),
            ),
            (
                "one stream at a depth of 2,048 loses",
                "≤ 8 %",
                lost.map(|l| percent(l).to_string()),
                lost.is_some_and(|l| l <= 0.08),
            ),
            (
                "time to load beside llama.cpp",
                "≤ 1.2 ×",
                loading.map(|l| format!("{l:.2} ×")),
                loading.is_some_and(|l| l <= 1.2),
            ),
            (
                "memory after loading, beside the file",
                "≤ 1.2 ×",
                size.map(|s| format!("{s:.2} ×")),
                size.is_some_and(|s| s <= 1.2),
            ),
        ] {
            match found {
                Some(found) => report.target(what, aim, found, met),
                None => report.unmeasured(what, aim, "not measured"),
            }
        }
    }
}

/// A share of one, shown in per cent.
fn percent(share: f64) -> Cell {
    number(share * 100.0, 0).with_unit(" %")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Outcome<Option<Options>> {
        Options::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_read_and_only_a_whole_run_is_the_page() -> Outcome<()> {
        let whole = parse("")?.ok_or("help")?;
        assert!(whole.everything() && whole.cases().len() == 8 && whole.rounds == 5);
        let part = parse("--models 1b --formats q4_k_m --threads 2 --only decode --rounds 3")?.ok_or("help")?;
        assert!(!part.everything() && part.cases().len() == 2 && part.threads == [2]);
        assert!(!parse("--quick")?.ok_or("help")?.everything());
        assert!(parse("--help")?.is_none());
        for wrong in ["--rounds 0", "--models 4b", "--formats q9", "--threads 0", "--wait", "--only", "--odd"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        Ok(())
    }

    #[test]
    fn the_worst_configuration_decides_and_what_is_missing_is_said() {
        let config = |threads| Config { shape: "270m", format: "q8_0".to_owned(), threads };
        let mut all = Results::default();
        for (threads, ours, theirs) in [(1, 130.0, 100.0), (2, 200.0, 180.0)] {
            all.speeds.push((config(threads), Work::Decode(0), [Some(ours), Some(theirs), None]));
            all.ceilings.push((config(threads), 40e9, 200_000_000));
        }
        assert_eq!(all.ceiling(&config(1)), Some(200.0));
        let mut report = Report::new(PAGE, false);
        all.judge(&mut report);
        let page = report.markdown();
        let line = |what: &str| page.lines().find(|l| l.contains(what)).unwrap_or_default().to_owned();
        assert!(line("beside llama.cpp, one thread").contains("1.30 ×") && line("one thread").contains("yes"));
        assert!(line("two threads, without").contains("1.11 ×") && line("two threads, without").contains("no"));
        assert!(line("8 streams").contains("not measured"));
        assert!(line("of what memory allows").contains("65 %"));
    }
}
