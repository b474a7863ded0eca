//! Conversations and documents, with the encoder in the server: what appending a turn costs, what a context costs, what a megabyte of text costs and what
//! others feel of it, and, on LoCoMo (`--locomo FILE`; the format is that of `quality.rs`), whether a context holds what is asked about.
//!
//! * **Turns** have 190 bytes, more or less, and stand in sessions of twenty, which nothing summarises. Alone: each is appended when the one before has its vector.
//!   Meanwhile: as fast as they are taken, so that vectors are made on every thread all the time; then until none is awaited.
//! * **Contexts** are of 4,000 tokens. A field of another session, set in front of each, makes the server forget the last. What is compared takes turns,
//!   question by question.
//! * **Documents**: a megabyte made of the tests' texts, a different sentence between the paragraphs. Its chunks are read back and embedded again by
//!   GEMMA.EMBED, from one connection more than the server has threads, so that none of these is idle. Both are done beside PINGs and recalls, in turns; the server keeps no embedding.
//! * **Evidence**: every turn of a conversation is appended in order by MEM.SESSION APPEND with SPEAKER and AT, one space per conversation and one session per session
//!   of LoCoMo, whoever spoke first as the user. Questions come from outside of any session, except where the table says so: there the conversation's
//!   last session is the one in which they are asked. Questions whose premise is false are left out.
//!
//! The last table measures nothing: it counts what one turn takes elsewhere, by the published code (see [`peers`]).

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use redis::{Connection, FromRedisValue, Value as Reply};

use crate::Outcome;
use crate::measure::pings;
use crate::quality::{self, Collection};
use crate::report::{Report, Table, doing, median, ms, none, number, percentile, progress, times};
use crate::server::Server;
use crate::texts;
use crate::wire::{Wire, command};
use crate::world::{thousands, unlimited};

/// Turns of a session that is not to be summarised.
const SHORT_SESSION: usize = 20;
/// Turns of the session that contexts are made of.
const LONG_SESSION: usize = 100;
/// The budget of a context.
const BUDGET: usize = 4_000;
/// Memories that a context of that budget recalls when K is not given.
const RECALLED: usize = 250;
/// Texts of one GEMMA.EMBED.
const EMBEDDED: usize = 8;
/// How long a vector may take that is made behind a reply.
const PATIENCE: Duration = Duration::from_secs(300);

/// The section.
pub fn conversations(report: &mut Report, locomo: Option<&Path>, memories: usize, quick: bool) -> Outcome<()> {
    appends(report, quick)?;
    contexts(report, memories, quick)?;
    documents(report, quick)?;
    evidence(report, locomo, quick)?;
    peers(report);
    Ok(())
}

/// So many turns of two sentences each.
fn turns(n: usize) -> Vec<String> {
    texts::sentences(2 * n).chunks(2).map(|two| two.join(" ")).collect()
}

/// A field of a reply that is a map.
fn field<T: FromRedisValue>(reply: &HashMap<String, Reply>, name: &str) -> Outcome<T> {
    Ok(redis::from_redis_value_ref(reply.get(name).ok_or_else(|| format!("the reply has no {name}"))?)?)
}

/// Waits until every memory of the space has its vector.
fn wait_for_vectors(c: &mut Connection, key: &str) -> Outcome<()> {
    let begun = Instant::now();
    loop {
        let stats: HashMap<String, Reply> = redis::cmd("MEM.STATS").arg(key).query(c)?;
        if field::<usize>(&stats, "awaiting")? == 0 {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("vectors of {key} are awaited for {} s", PATIENCE.as_secs()).into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Microseconds of a command.
fn timed(wire: &mut Wire, command: &[u8]) -> Outcome<f64> {
    let started = Instant::now();
    wire.call(command)?;
    Ok(started.elapsed().as_secs_f64() * 1e6)
}

/// p50 and p99 as cells.
fn cells(times: &mut [f64]) -> [crate::report::Cell; 2] {
    [ms(percentile(times, 0.5)), ms(percentile(times, 0.99))]
}

/// MEM.SESSION APPEND: its reply, and the vectors behind it.
fn appends(report: &mut Report, quick: bool) -> Outcome<()> {
    const WARM: usize = SHORT_SESSION;
    let (alone, many) = if quick { (100, 300) } else { (500, 2_000) };
    doing("appending turns");
    let server = Server::engram(&[])?;
    server.wait_for_embedder()?;
    let (mut wire, c) = (server.wire()?, &mut server.connect()?);
    wire.ask(&["MEM.CONFIG", "SET", "a", "episodic.capacity", "0"])?;
    let commands: Vec<Vec<u8>> = turns(WARM + alone + many)
        .iter()
        .enumerate()
        .map(|(i, turn)| {
            let (session, role) = (i / SHORT_SESSION, if i % 2 == 0 { "user" } else { "assistant" });
            command(&["MEM.SESSION", "APPEND", "a", &format!("s{session}"), role, turn])
        })
        .collect();
    let ping = command(&["PING"]);
    let (mut quiet, mut busy, mut ping_quiet, mut ping_busy) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    wire.pipeline(&commands[..WARM])?;
    wait_for_vectors(c, "a")?;
    append_usec(&server)?;
    for append in &commands[WARM..WARM + alone] {
        ping_quiet.push(timed(&mut wire, &ping)?);
        quiet.push(timed(&mut wire, append)?);
        wait_for_vectors(c, "a")?;
    }
    let alone_usec = append_usec(&server)?;
    let begun = Instant::now();
    for append in &commands[WARM + alone..] {
        ping_busy.push(timed(&mut wire, &ping)?);
        busy.push(timed(&mut wire, append)?);
    }
    let busy_usec = append_usec(&server)?;
    wait_for_vectors(c, "a")?;
    let rate = many as f64 / begun.elapsed().as_secs_f64();

    let columns = ["what", "p50 ms", "p99 ms", "beside PING", "in the server, mean ms", "per second"];
    let mut table = Table::new("appends", "Appending turns to sessions", &columns);
    table.note(format!(
        "Turns of about 190 bytes, sessions of {SHORT_SESSION}; a PING before each. Alone: {} turns, each when the one before has its vector. Meanwhile: {} as fast as \
         they are taken, while vectors are made of them; per second: these, from the first to the last vector. In the server: \
         its own account (INFO commandstats), which is its thread's time for the command.",
        thousands(alone),
        thousands(many)
    ));
    let mut p50 = Vec::new();
    for (what, mut times_of, ping, usec) in [
        ("MEM.SESSION APPEND, alone", quiet, ping_quiet, alone_usec),
        ("MEM.SESSION APPEND, vectors made meanwhile", busy, ping_busy, busy_usec),
    ] {
        let [half, most] = cells(&mut times_of);
        p50.push(median(&times_of));
        table.row([what.into(), half, most, times(median(&times_of) / median(&ping)), ms(usec), none()]);
    }
    table.row(["turns, until each has its vector".into(), none(), none(), none(), none(), number(rate, 0)]);
    report.table(table);
    report.target(
        "MEM.SESSION APPEND, p50, its vector behind the reply",
        "≤ 0.1 ms",
        format!("{} ms alone, {} ms while vectors are made", ms(p50[0]), ms(p50[1])),
        p50[0] <= 100.0,
    );
    Ok(())
}

/// The server's own account of a MEM.SESSION APPEND, on average since this was asked last: what its thread spends on it before the reply, in microseconds.
fn append_usec(server: &Server) -> Outcome<f64> {
    let stats = server.info("commandstats", "cmdstat_mem.session|append")?;
    let usec = stats.split(',').find_map(|part| part.strip_prefix("usec_per_call=")).ok_or("no usec_per_call")?;
    server.wire()?.ask(&["CONFIG", "RESETSTAT"])?;
    Ok(usec.parse()?)
}

/// MEM.CONTEXT, and what it is made of.
fn contexts(report: &mut Report, memories: usize, quick: bool) -> Outcome<()> {
    let rounds = if quick { 30 } else { 200 };
    let server = Server::engram(&[])?;
    server.wait_for_embedder()?;
    unlimited(&server, "c")?;
    let (mut wire, c) = (server.wire()?, &mut server.connect()?);
    let sentences = texts::sentences(memories + 2 * LONG_SESSION + 2 * rounds);
    for (batch_number, batch) in sentences[..memories].chunks(100).enumerate() {
        let mut cmd = redis::cmd("MEM.MSTORE");
        cmd.arg("c");
        for text in batch {
            cmd.arg(serde_json::json!({ "content": text }).to_string());
        }
        cmd.query::<Reply>(c)?;
        progress("storing texts", batch_number * 100 + batch.len(), memories);
    }
    // The same turns in two sessions: one is summarised as it runs, by the defaults; the other has all its turns whole.
    let (words, questions) = sentences[memories..].split_at(2 * LONG_SESSION);
    let (unseen, alone) = questions.split_at(rounds);
    for (session, summarize_at) in [("whole", "0"), ("summarised", "25")] {
        wire.ask(&["MEM.CONFIG", "SET", "c", "summarize-at", summarize_at])?;
        for (i, two) in words.chunks(2).enumerate() {
            let role = if i % 2 == 0 { "user" } else { "assistant" };
            wire.ask(&["MEM.SESSION", "APPEND", "c", session, role, &two.join(" ")])?;
            wait_for_vectors(c, "c")?;
        }
        server.settle()?;
        // Fixed, so that the first session is not summarised when the second is.
        wire.ask(&["MEM.CONFIG", "SET", "c", "summarize-at", "0"])?;
    }
    doing("contexts");
    let (budget, recalled) = (BUDGET.to_string(), RECALLED.to_string());
    let context = |question: &str, session: &str| {
        command(&["MEM.CONTEXT", "c", "QUERY", question, "SESSION", session, "TOKENS", &budget])
    };
    let [mut embed, mut first, mut recall, mut summarised, mut whole, mut again] = <[Vec<f64>; 6]>::default();
    for (other, question) in alone.iter().zip(unseen) {
        // Never seen: the embedding by itself, of another text of the same kind, and with the context behind it.
        embed.push(timed(&mut wire, &command(&["GEMMA.EMBED", "1", other]))?);
        first.push(timed(&mut wire, &context(question, "whole"))?);
    }
    let mut changes = 0;
    for question in unseen {
        let recalls = command(&["MEM.RECALL", "c", question, "K", &recalled, "NOTOUCH"]);
        for (asked, all) in [
            (recalls, &mut recall),
            (context(question, "summarised"), &mut summarised),
            (context(question, "whole"), &mut whole),
        ] {
            changes += 1;
            wire.ask(&["MEM.SESSION", "SET", "c", "other", "n", &changes.to_string()])?;
            all.push(timed(&mut wire, &asked)?);
        }
        again.push(timed(&mut wire, &context(question, "whole"))?);
    }
    let reply: HashMap<String, Reply> = redis::cmd("MEM.CONTEXT")
        .arg(&["c", "QUERY", unseen[0].as_str(), "SESSION", "whole", "TOKENS", &budget])
        .query(c)?;
    let (tokens, shown, said): (usize, Vec<String>, Vec<String>) =
        (field(&reply, "tokens")?, field(&reply, "memories")?, field(&reply, "turns")?);

    let title = format!("Contexts of {} tokens from {} memories", thousands(BUDGET), thousands(memories));
    let mut table = Table::new("contexts", title, &["what", "p50 ms", "p99 ms"]);
    table.note(format!(
        "And a session of {LONG_SESSION} turns of about 190 bytes: summarised by the defaults (what the summary does not cover is whole) or all of it whole. {rounds} questions, their embeddings \
         cached except where it says so; something is written before each, so that nothing else is, \
         but the tokens of memories, which are counted once: the questions never seen come first and have them counted. One of them, all turns whole: {} tokens, {} memories, {} turns.",
        thousands(tokens),
        shown.len(),
        said.len(),
    ));
    let recall_name = format!("MEM.RECALL K {RECALLED} NOTOUCH: the recall in it");
    let p50 = [&summarised, &whole, &again].map(|times| median(times));
    for (what, all) in [
        (recall_name.as_str(), &mut recall),
        ("MEM.CONTEXT, session summarised", &mut summarised),
        ("MEM.CONTEXT, all turns whole", &mut whole),
        ("MEM.CONTEXT, nothing written since", &mut again),
        ("MEM.CONTEXT, all turns whole, question never seen", &mut first),
        ("GEMMA.EMBED, such a question", &mut embed),
    ] {
        let [half, most] = cells(all);
        table.row([what.into(), half, most]);
    }
    report.table(table);
    let slower = p50[0].max(p50[1]);
    let what =
        format!("MEM.CONTEXT of {} tokens, {} memories, {LONG_SESSION} turns", thousands(BUDGET), thousands(memories));
    report.target(
        &format!("{what}, p50 beyond the embedding"),
        "≤ 5 ms",
        format!("{} ms", ms(slower)),
        slower <= 5_000.0,
    );
    report.target(&format!("{what}, cached, p50"), "≤ 0.2 ms", format!("{} ms", ms(p50[2])), p50[2] <= 200.0);
    Ok(())
}

/// A text of so many bytes: the tests' texts again and again, after each paragraph a sentence that stands nowhere else.
fn long_text(bytes: usize) -> String {
    const TEXTS: [&str; 2] = [include_str!("../data/handbook.md"), include_str!("../data/lighthouse.txt")];
    let paragraphs: Vec<&str> =
        TEXTS.iter().flat_map(|text| text.split("\n\n")).map(str::trim).filter(|p| !p.is_empty()).collect();
    let mut text = String::with_capacity(bytes + 10_000);
    let sentences = texts::sentences(bytes / 100);
    for (paragraph, sentence) in paragraphs.iter().cycle().zip(&sentences) {
        for part in [paragraph, sentence.as_str()] {
            text.push_str(part);
            text.push_str("\n\n");
        }
        if text.len() >= bytes {
            break;
        }
    }
    text
}

/// What was felt beside something: PINGs and recalls, in microseconds.
#[derive(Default)]
struct Felt {
    pings: Vec<f64>,
    recalls: Vec<f64>,
}

impl Felt {
    /// Feels until `work` is done, and how long that took.
    fn beside<T>(
        &mut self,
        server: &Server,
        questions: &[String],
        work: impl FnOnce() -> Outcome<T>,
    ) -> Outcome<(T, f64)> {
        let done = AtomicBool::new(false);
        let (mut for_pings, mut for_recalls) = (server.connect()?, server.wire()?);
        std::thread::scope(|scope| {
            let pinging =
                scope.spawn(|| pings(&mut for_pings, PATIENCE * 10, || done.load(Relaxed)).map_err(|e| e.to_string()));
            let recalling = scope.spawn(|| -> Result<Vec<f64>, String> {
                let mut times = Vec::new();
                for question in questions.iter().cycle() {
                    if done.load(Relaxed) {
                        break;
                    }
                    times.push(
                        timed(&mut for_recalls, &command(&["MEM.RECALL", "m", question])).map_err(|e| e.to_string())?,
                    );
                    std::thread::sleep(Duration::from_millis(100));
                }
                Ok(times)
            });
            let begun = Instant::now();
            let worked = work();
            let took = begun.elapsed().as_secs_f64();
            done.store(true, Relaxed);
            self.pings.extend(pinging.join().map_err(|_| "the PINGs panicked")??);
            self.recalls.extend(recalling.join().map_err(|_| "the recalls panicked")??);
            Ok((worked?, took))
        })
    }
}

/// MEM.INGEST beside GEMMA.EMBED of the same chunks.
fn documents(report: &mut Report, quick: bool) -> Outcome<()> {
    let (bytes, rounds, memories) = if quick { (100_000, 1, 100) } else { (1_000_000, 2, 1_000) };
    let server = Server::engram(&["--engram.embedding-cache", "0"])?;
    server.wait_for_embedder()?;
    unlimited(&server, "m")?;
    let c = &mut server.connect()?;
    let mut sentences = texts::sentences(memories + 100);
    let questions = sentences.split_off(memories);
    for text in &sentences {
        redis::cmd("MEM.STORE").arg("m").arg(text).query::<()>(c)?;
    }
    let text = long_text(bytes);
    let threads: HashMap<String, usize> = redis::cmd("CONFIG").arg(&["GET", "engram.threads"]).query(c)?;
    let clients = threads.values().copied().next().unwrap_or(1) + 1;

    let (mut idle, mut ingesting, mut embedding) = (Felt::default(), Felt::default(), Felt::default());
    idle.beside(&server, &questions, || {
        std::thread::sleep(Duration::from_secs(if quick { 1 } else { 10 }));
        Ok(())
    })?;
    let (mut seconds, mut cpu, mut chunks, mut tokens) = ([0.0, 0.0], [0.0, 0.0], Vec::new(), 0);
    for round in 0..rounds {
        doing(&format!("taking a document in, round {}", round + 1));
        let key = format!("d{round}");
        let before = server.cpu()?;
        let (reply, took) = ingesting.beside(&server, &questions, || {
            Ok(redis::cmd("MEM.INGEST").arg(&[&key, "book", &text]).query::<HashMap<String, Reply>>(c)?)
        })?;
        (seconds[0], cpu[0]) = (seconds[0] + took, cpu[0] + server.cpu()? - before);
        tokens = field(&reply, "tokens")?;
        let found: Vec<HashMap<String, Reply>> = redis::cmd("MEM.TIMELINE").arg(&[&key, "-", "+"]).query(c)?;
        chunks = found.iter().map(|chunk| field(chunk, "content")).collect::<Outcome<Vec<String>>>()?;
        if chunks.len() != field::<usize>(&reply, "chunks")? {
            return Err("the space has not the chunks that MEM.INGEST counted".into());
        }
        doing(&format!("embedding its {} chunks, round {}", chunks.len(), round + 1));
        let before = server.cpu()?;
        let ((), took) = embedding.beside(&server, &questions, || embed_all(&server, &chunks, clients))?;
        (seconds[1], cpu[1]) = (seconds[1] + took, cpu[1] + server.cpu()? - before);
    }
    let ratio = seconds[0] / seconds[1];
    let title = format!("A document of {} bytes", thousands(text.len()));
    let columns = ["what", "seconds", "CPU s", "PING p50 ms", "PING p99.9 ms", "recall p50 ms", "recall p99 ms"];
    let mut table = Table::new("documents", title, &columns);
    table.note(format!(
        "{} chunks, {} tokens with what they repeat; {rounds} round(s) of each, in turns. GEMMA.EMBED: the same chunks, {EMBEDDED} at a time, from {clients} connections. PINGs half a millisecond \
         apart, and a recall by text (embedding included) among {} memories every 100 ms, beside all of them. The server keeps no embedding.",
        thousands(chunks.len()),
        thousands(tokens),
        thousands(memories),
    ));
    let each = |sums: [f64; 2], which: usize| number(sums[which] / rounds as f64, 2);
    let mut p999 = [0.0; 3];
    let rows = [("idle server", idle, none(), none())];
    let rows = rows.into_iter().chain([
        ("MEM.INGEST", ingesting, each(seconds, 0), each(cpu, 0)),
        ("GEMMA.EMBED of its chunks", embedding, each(seconds, 1), each(cpu, 1)),
    ]);
    for (at, (what, mut felt, wall, used)) in rows.enumerate() {
        p999[at] = percentile(&mut felt.pings, 0.999);
        let [recall50, recall99] = cells(&mut felt.recalls);
        table.row([what.into(), wall, used, ms(median(&felt.pings)), ms(p999[at]), recall50, recall99]);
    }
    table.row([
        "MEM.INGEST beside GEMMA.EMBED".into(),
        times(ratio),
        times(cpu[0] / cpu[1]),
        none(),
        none(),
        none(),
        none(),
    ]);
    report.table(table);
    report.target(
        "MEM.INGEST of 1 MB, beside embedding its chunks",
        "≤ 1.2 ×",
        format!("{}, of CPU time {}", times(ratio), times(cpu[0] / cpu[1])),
        ratio <= 1.2,
    );
    report.target(
        "PING p99.9 while 1 MB is taken in",
        "< 5 ms",
        format!("{} ms, idle {} ms", ms(p999[1]), ms(p999[0])),
        p999[1] < 5_000.0,
    );
    Ok(())
}

/// Embeds all texts, from so many connections.
fn embed_all(server: &Server, texts: &[String], clients: usize) -> Outcome<()> {
    let batches: Vec<Vec<u8>> = texts
        .chunks(EMBEDDED)
        .map(|batch| {
            let count = batch.len().to_string();
            let words = ["GEMMA.EMBED", count.as_str()].into_iter().chain(batch.iter().map(String::as_str));
            command(&words.chain(["BLOB"]).collect::<Vec<_>>())
        })
        .collect();
    let wires = (0..clients).map(|_| server.wire()).collect::<Outcome<Vec<_>>>()?;
    let (batches, next) = (&batches, &AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let embed = |mut wire: Wire| {
            scope.spawn(move || -> Result<(), String> {
                while let Some(batch) = batches.get(next.fetch_add(1, Relaxed)) {
                    wire.call(batch).map_err(|e| e.to_string())?;
                }
                Ok(())
            })
        };
        let workers: Vec<_> = wires.into_iter().map(embed).collect();
        workers.into_iter().try_for_each(|worker| Ok(worker.join().map_err(|_| "an embedding panicked")??))
    })
}

/// How a question is asked of a conversation.
struct Asked {
    name: &'static str,
    /// Tokens of a context; None for MEM.RECALL.
    tokens: Option<usize>,
    /// Whether it is asked in the last session.
    in_session: bool,
}

const fn asked(name: &'static str, tokens: Option<usize>, in_session: bool) -> Asked {
    Asked { name, tokens, in_session }
}

const DEPTH: usize = 40;
const WAYS: [Asked; 5] = [
    asked("MEM.RECALL K 40", None, false),
    asked("MEM.CONTEXT TOKENS 4000", Some(4_000), false),
    asked("MEM.CONTEXT TOKENS 2000", Some(2_000), false),
    asked("MEM.CONTEXT TOKENS 1000", Some(1_000), false),
    asked("MEM.CONTEXT TOKENS 4000 SESSION, the last one", Some(4_000), true),
];

/// What a way found, a figure per question.
#[derive(Default)]
struct Found {
    all: Vec<f64>,
    share: Vec<f64>,
    tokens: Vec<f64>,
    memories: Vec<f64>,
    turns: Vec<f64>,
    micros: Vec<f64>,
}

/// Whether contexts hold the evidence of LoCoMo's questions.
fn evidence(report: &mut Report, locomo: Option<&Path>, quick: bool) -> Outcome<()> {
    const WHAT: &str = "LoCoMo questions with all their evidence in a context of 4,000 tokens";
    const AIM: &str = "at least those with all of it in RECALL K 40";
    let Some(path) = locomo else {
        report.skipped("Evidence in contexts: LoCoMo is not shipped; name its file with --locomo");
        report.unmeasured(WHAT, AIM, "no data: --locomo FILE");
        return Ok(());
    };
    let mut collections = quality::locomo(path)?;
    if quick {
        collections.truncate(1);
    }
    let server = Server::engram(&[])?;
    server.wait_for_embedder()?;
    let c = &mut server.connect()?;
    let (mut said, mut found) = (0, WAYS.map(|_| Found::default()));
    for collection in &collections {
        let (names, last) = append_all(&server, c, collection)?;
        said += names.len();
        let questions = collection.questions.iter().filter(|q| q.category != 5 && !q.evidence.is_empty());
        for (done, question) in questions.enumerate() {
            let evidence: HashSet<&str> = question.evidence.iter().map(String::as_str).collect();
            for (way, found) in WAYS.iter().zip(&mut found) {
                ask(
                    c,
                    collection,
                    way,
                    &last,
                    &question.text,
                    |ids| {
                        let held = ids.iter().filter_map(|id| names.get(id).copied()).collect::<HashSet<&str>>();
                        evidence.iter().filter(|id| held.contains(*id)).count() as f64 / evidence.len() as f64
                    },
                    found,
                )?;
            }
            progress(&format!("asking {}", collection.name), done + 1, collection.questions.len());
        }
    }
    let mean = |all: &[f64]| all.iter().sum::<f64>() / all.len() as f64;
    let asked = found[0].all.len();
    let columns = ["how", "all evidence", "mean share", "tokens", "memories", "turns", "p50 ms"];
    let title = format!("Evidence in contexts: LoCoMo, {} conversations turn by turn", collections.len());
    let mut table = Table::new("evidence", title, &columns);
    table.note(format!(
        "{} turns appended by MEM.SESSION APPEND with SPEAKER and AT, one session per session of LoCoMo; {} questions, from outside of any session except in the last row. All evidence: the share of \
         questions all of whose evidence is among the memories and turns of the reply; mean share: of the evidence of a question. Tokens, memories and turns on average; p50 with the question's \
         embedding, except that MEM.RECALL, which comes first, leaves it cached for the others.",
        thousands(said),
        thousands(asked),
    ));
    for (way, found) in WAYS.iter().zip(&found) {
        let context = |figure: &[f64], digits| if way.tokens.is_some() { number(mean(figure), digits) } else { none() };
        table.row([
            way.name.into(),
            number(mean(&found.all), 3),
            number(mean(&found.share), 3),
            context(&found.tokens, 0),
            number(mean(&found.memories), 1),
            context(&found.turns, 1),
            ms(median(&found.micros)),
        ]);
    }
    report.table(table);
    let (recall, context) = (mean(&found[0].all), mean(&found[1].all));
    report.target(WHAT, &format!("≥ {recall:.3}: {AIM}"), format!("{context:.3}"), context >= recall);
    Ok(())
}

/// Appends a conversation's turns; the data's name of each by its id, and the last session.
fn append_all<'a>(
    server: &Server,
    c: &mut Connection,
    collection: &'a Collection,
) -> Outcome<(HashMap<String, &'a str>, String)> {
    let key = &collection.name;
    let settings = ["episodic.capacity", "0", "episodic.ttl", "0", "session.ttl", "0"];
    redis::cmd("MEM.CONFIG").arg("SET").arg(key).arg(&settings).query::<()>(c)?;
    let (mut names, mut last, mut first_speaker) = (HashMap::new(), String::new(), None);
    for (done, turn) in collection.turns.iter().enumerate() {
        let said = turn.said.as_ref().ok_or("a turn of LoCoMo has no speaker")?;
        let role = if *first_speaker.get_or_insert(&said.speaker) == &said.speaker { "user" } else { "assistant" };
        let id: String = redis::cmd("MEM.SESSION")
            .arg(&["APPEND", key, &said.session, role, &turn.content, "SPEAKER", &said.speaker, "AT", &said.at])
            .query(c)?;
        names.insert(id, turn.id.as_str());
        last.clone_from(&said.session);
        progress(&format!("appending {key}"), done + 1, collection.turns.len());
    }
    wait_for_vectors(c, key)?;
    // Summaries are made behind the turns.
    server.settle()?;
    Ok((names, last))
}

/// Asks a question in one way and adds what came of it; `share` says how much of the evidence is among these ids.
fn ask(
    c: &mut Connection,
    collection: &Collection,
    way: &Asked,
    last: &str,
    question: &str,
    share: impl Fn(&[String]) -> f64,
    found: &mut Found,
) -> Outcome<()> {
    let key = &collection.name;
    let started = Instant::now();
    let (mut ids, turns, tokens): (Vec<String>, Vec<String>, usize) = match way.tokens {
        None => {
            let hits: Vec<HashMap<String, Reply>> =
                redis::cmd("MEM.RECALL").arg(&[key, "TEXT", question, "NOTOUCH", "K"]).arg(DEPTH).query(c)?;
            (hits.iter().map(|hit| field(hit, "id")).collect::<Outcome<_>>()?, Vec::new(), 0)
        }
        Some(tokens) => {
            let mut cmd = redis::cmd("MEM.CONTEXT");
            cmd.arg(&[key, "QUERY", question, "TOKENS"]).arg(tokens);
            if way.in_session {
                cmd.arg(&["SESSION", last]);
            }
            let reply: HashMap<String, Reply> = cmd.query(c)?;
            (field(&reply, "memories")?, field(&reply, "turns")?, field(&reply, "tokens")?)
        }
    };
    found.micros.push(started.elapsed().as_secs_f64() * 1e6);
    found.memories.push(ids.len() as f64);
    found.turns.push(turns.len() as f64);
    found.tokens.push(tokens as f64);
    ids.extend(turns);
    let share = share(&ids);
    found.share.push(share);
    found.all.push(f64::from(u8::from(share == 1.0)));
    Ok(())
}

/// What one turn of a chat takes here and elsewhere, counted in the published code; nothing is measured.
fn peers(report: &mut Report) {
    let columns = [
        "one turn of a chat by",
        "round trips",
        "processes beside the client",
        "calls to model APIs, in the turn",
        "calls to model APIs, after it",
        "writes until it can be recalled",
        "read in",
    ];
    let mut table = Table::new("turn", "One turn of a chat, here and elsewhere", &columns);
    table.note(
        "Counted, not measured, in the code named in the last column, with its defaults: the user's message is stored, memories are recalled, the prompt is built, the model answers, and the answer is \
         stored, in a session that exists. Round trips are those of the client, its own call of the model among them; a call to a model counts wherever it is made from, to a provider or to a model server \
         on the same machine; retries, telemetry, authentication and dashboards do not count. In brackets: what is optional, or depends on what is said.",
    );
    table.note(
        "agent-memory-server is redis/agent-memory-server 0.15.2 at 3f703c0d; mem0 is mem0ai/mem0 2.0.18 at 8d5b7865. Both take more out of a conversation than turns: facts, written by a language \
         model, which is most of their calls. Here turns are recalled as they were said, and a summary by a language model [setting `summary-model`] is made by the same process.",
    );
    table.row([
        "GEMMA.CHAT".into(),
        "1".into(),
        "1: redis-server".into(),
        "0".into(),
        "0".into(),
        "1: the turn; its vector follows, and a recall waits for it".into(),
        "`src/module/commands/chat.rs`, `src/module/fill.rs`".into(),
    ]);
    table.row([
        "agent-memory-server, as its example does it".into(),
        "8".into(),
        "3: API, task worker [none with `--task-backend=asyncio`], Redis".into(),
        "2: question embedded, answer [+ query rewritten in semantic mode, + session summarised near its limit]".into(),
        "2 + 3 per fact: extraction, facts embedded together; each fact embedded to find its like, topics, entities [the last two by local BERT or off; + 1 where it is merged]".into(),
        "8 and 30 s without a message: session, task, mark, delayed task; then session, two marks, the facts [`index_all_messages_in_long_term_memory`: 3, no pause]".into(),
        "`examples/memory_prompt_agent.py`, `agent-memory-client/agent_memory_client/client.py` (append is GET and PUT of the session), `agent_memory_server/{api,long_term_memory,extraction,config}.py`, `docker-compose.yml`".into(),
    ]);
    table.row([
        "agent-memory-server, fewest".into(),
        "4".into(),
        "the same".into(),
        "the same".into(),
        "the same".into(),
        "the same".into(),
        "`agent_memory_server/api.py`: PUT /v1/working-memory/{id} (the client sends the whole session), POST /v1/memory/prompt, the model, PUT [3 if both messages are put at the end]".into(),
    ]);
    table.row([
        "mem0, the library".into(),
        "5".into(),
        "0: Qdrant and SQLite run in the client's process [or a vector store of two dozen kinds]".into(),
        "5: question embedded, answer, messages embedded, facts extracted, facts embedded [+ 1 for entities of the question and + 1 for those of the facts with the extra `nlp`]".into(),
        "0".into(),
        "1 to the vector store, inside `add`, which the client waits for, behind 3 of the calls [`infer=False`: messages as they are, 1 call and 1 write each, none to extract]".into(),
        "`README.md` (Basic Usage), `mem0/memory/main.py`, `mem0/configs/vector_stores/qdrant.py`".into(),
    ]);
    table.row([
        "mem0, its server".into(),
        "3".into(),
        "2: server, Postgres [+ dashboard]".into(),
        "the same 5, 4 of them made by the server".into(),
        "0".into(),
        "the same".into(),
        "`server/main.py` (POST /search, POST /memories), `server/docker-compose.yaml`".into(),
    ]);
    report.table(table);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_and_texts_are_as_described() {
        let turns = turns(500);
        assert!(turns.iter().all(|turn| (140..=240).contains(&turn.len())));
        let text = long_text(100_000);
        assert!((100_000..110_000).contains(&text.len()));
        let paragraphs: Vec<&str> = text.split("\n\n").skip(1).step_by(2).collect();
        assert_eq!(paragraphs.iter().collect::<HashSet<_>>().len(), paragraphs.len(), "no sentence stands twice");
    }
}
