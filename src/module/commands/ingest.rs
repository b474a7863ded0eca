//! MEM.INGEST and MEM.DOCS: documents, cut into chunks.
//!
//! A job in three parts. A thread of its own cuts the text, which takes a fraction of a second per megabyte and is nothing that a thread of the pool should be kept with.
//! As many tasks as the pool has threads embed the chunks, a window per step behind everything that clients wait for. On the main thread, through the commit path, the
//! chunks are staged a few at a time, and shown by one effect when all are there: so a document is found whole or not at all, and what had its name before is found until then.
//!
//! What is staged outlives the job where the server dies or becomes a replica in the middle. A space knows which documents are being worked on
//! (`Held::ingesting`); the timer of a primary drops what is staged of others.
//!
//! Rejected: staging in the order of the document (the tasks would wait for each other), and one commit at the end (see `document` in the engine).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engram_agent::{Chunk, Chunker};
use engram_inference::pool::{Advance, Priority, Task};
use engram_memory::{ChunkFields, Document, NewChunk, Tier, Vectors, limits};

use super::store::{Wording, vectors_of_text};
use super::{Outcome, answer_for, expect_memory, read, target};
use crate::commit::{self, Expect, Needs, Ran, Stop, Target};
use crate::datatype::{self, Found, Names, Worked};
use crate::ffi::{self, Ctx, Key, Level, Mode, Str};
use crate::grammar::Parsed;
use crate::jobs::{self, Job, Started};
use crate::models::{self, Embedding};
use crate::reply::{Error, Value};

/// Chunks that are staged in one unit on the main thread.
const UNIT: usize = 4;
/// How far the thread that cuts a document stands back.
const CUT_NICE: i32 = 5;

/// `MEM.INGEST key doc|* text [...]`
pub fn ingest(ctx: Ctx, args: &Parsed) -> Outcome {
    if ctx.must_not_block() {
        return Err(Error::err("MEM.INGEST is refused inside MULTI, scripts and functions: call it outside"));
    }
    let (key, text) = (args.key("key"), args.text("text"));
    if text.trim().is_empty() || text.len() > limits::DOCUMENT_BYTES {
        return Err(Error::err(format!(
            "the text has {} bytes: a document has 1 to {}, not all of them white space",
            text.len(),
            limits::DOCUMENT_BYTES
        )));
    }
    let settings = read(ctx, key, |held| {
        let settings = held.space.config();
        Ok((settings.chunk, settings.overlap, held.ingesting.clone()))
    })?;
    let default = engram_memory::Settings::default();
    let (chunk, overlap, ingesting) = settings.unwrap_or((default.chunk, default.overlap, Names::default()));
    let size = args.opt_usize("chunk").unwrap_or(usize::try_from(chunk).unwrap_or(usize::MAX));
    let overlap = args.opt_usize("overlap").unwrap_or(usize::try_from(overlap).unwrap_or(usize::MAX));
    if overlap >= size {
        return Err(Error::err(format!(
            "the overlap is {overlap} tokens and the chunk size {size}: the overlap must be smaller (CHUNK, OVERLAP, or the settings chunk and overlap)"
        )));
    }
    let wording = Wording::at(ctx, key)?;
    models::expect_embedder()?;
    expect_memory(ctx)?;
    let name = match args.text("doc") {
        "*" => new_name(),
        name => name.to_owned(),
    };
    let job_name = args.opt_text("job");
    let attaches = job_name.is_some_and(|job| jobs::find(ctx, job).is_ok());
    if !attaches && ingesting.has(&name) {
        return Err(in_work(&name));
    }
    let target = target(ctx, key)?;
    let tier = args.opt_text("tier").map(Tier::parse).transpose()?;
    let now = ffi::now();
    let nowait = args.flag("nowait");
    let owned = |name: &str| args.opt_text(name).map(str::to_owned);
    let job = match jobs::start(ctx, "MEM.INGEST", job_name, args.fingerprint(), nowait)? {
        Started::Existing(job) => job,
        Started::New(job) => {
            let document = Document {
                name: name.as_str().into(),
                kind: args.opt_text("type").map(Into::into),
                source: args.opt_text("source").map(Into::into),
                at: args.opt_u64("at").unwrap_or(now),
                created: now,
                bytes: text.len() as u64,
                tokens: 0,
                chunks: 0,
                meta: args.object("meta").cloned(),
            };
            let fields = ChunkFields {
                tier,
                kind: owned("type"),
                session: owned("session"),
                tags: args.list("tags").iter().map(|tag| (*tag).to_owned()).collect(),
                importance: args.opt_f64("importance"),
            };
            let run = Run { job: job.clone(), target, document, fields, wording, size, overlap };
            // Block first, so that what fails at once answers this client.
            let flow = answer_for(ctx, &job, nowait);
            run.begin(text.to_owned());
            return flow;
        }
    };
    answer_for(ctx, &job, nowait)
}

fn in_work(name: &str) -> Error {
    Error::err(format!("document {name} is being taken in already: GEMMA.JOBS shows the job, GEMMA.CANCEL stops it"))
}

/// A name for a document that came without one.
fn new_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("doc-{}-{}", ffi::now(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// What a job knows before there are chunks.
struct Run {
    job: Arc<Job>,
    target: Target,
    document: Document,
    fields: ChunkFields,
    wording: Wording,
    size: usize,
    overlap: usize,
}

impl Run {
    /// Cuts the text on a thread of its own, then goes on.
    fn begin(self, text: String) {
        let job = self.job.clone();
        let cut = move || {
            engram_inference::pool::quieten(CUT_NICE);
            let chunks = catch_unwind(AssertUnwindSafe(|| self.chunks(&text))).unwrap_or_else(|_| {
                ffi::log(Level::Warning, "engram: a panic while cutting a document; please report it");
                Err(Error::err("cutting the document failed with an internal error; the server's log has more"))
            });
            match chunks {
                Ok(chunks) => self.stage(chunks),
                Err(error) => self.job.finish(Err(error)),
            }
        };
        if std::thread::Builder::new().name("engram-chunks".to_owned()).spawn(cut).is_err() {
            job.finish(Err(Error::err("the system has no thread left to cut the document: retry")));
        }
    }

    fn chunks(&self, text: &str) -> Result<Vec<Chunk>, Error> {
        let encoder = models::wait_for_embedder(|| self.job.is_cancelled())?;
        let spans = |text: &str| encoder.spans(text);
        let chunker = Chunker::new(text, self.size, self.overlap, &spans)?;
        let mut chunks = Vec::new();
        for chunk in chunker {
            if self.job.is_cancelled() {
                return Err(cancelled());
            }
            if chunks.len() >= limits::CHUNKS {
                return Err(Error::err(format!(
                    "the document has more than {} chunks: raise CHUNK, or ingest it in parts",
                    limits::CHUNKS
                )));
            }
            chunks.push(chunk?);
            if chunks.len().is_multiple_of(32) {
                self.job.report(vec![("chunks", Value::from(chunks.len()))]);
            }
        }
        Ok(chunks)
    }

    /// Begins to stage, on the main thread.
    fn stage(mut self, chunks: Vec<Chunk>) {
        self.document.chunks = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
        self.document.tokens = chunks.iter().map(|chunk| chunk.tokens as u64).sum();
        let mut work = Some((self, chunks));
        commit::submit(move |ctx| {
            if ffi::is_paused() {
                return Ran::Later;
            }
            let Some((mut run, chunks)) = work.take() else { return Ran::Done };
            let job = run.job.clone();
            match run.begin_document(ctx) {
                Ok(worked) => Ingest::start(run, chunks, worked),
                Err(Stop::Never(error)) => job.finish(Err(error)),
                // Cannot be: the pause was looked at above, under the same lock.
                Err(Stop::Later) => job.finish(Err(Error::err("the server is paused: retry"))),
            }
            Ran::Done
        });
    }

    fn begin_document(&mut self, ctx: Ctx) -> Result<Worked, Stop> {
        let name = Str::new(&self.target.key);
        let tier = self.fields.tier.unwrap_or(Tier::LongTerm);
        if ctx.select(self.target.db)
            && let Found::Space(held) = datatype::find(&mut Key::open(ctx, &name, Mode::Peek))
            && held.ingesting.has(&self.document.name)
        {
            return Err(in_work(&self.document.name).into());
        }
        commit::commit(ctx, &self.target, Needs::STORE, |space, _| {
            Ok(((), space.begin_document(self.document.clone(), tier)?))
        })?;
        // From here on the work belongs to the space that stands there now.
        match datatype::find(&mut Key::open(ctx, &name, Mode::Peek)) {
            Found::Space(held) => {
                self.target.expect = Expect::Incarnation(held.incarnation);
                Ok(held.ingesting.begin(&self.document.name).ok_or_else(|| in_work(&self.document.name))?)
            }
            _ => Err(Error::err("no such space").into()),
        }
    }
}

fn cancelled() -> Error {
    Error::new("CANCELLED", "cancelled; nothing of the document was stored")
}

/// A document whose chunks are being embedded and staged.
struct Ingest {
    run: Run,
    state: Mutex<State>,
    /// Until the job ends: the tasks may hold this a moment longer.
    worked: Mutex<Option<Worked>>,
}

struct State {
    chunks: std::iter::Enumerate<std::vec::IntoIter<Chunk>>,
    /// Embedded and not staged.
    made: Vec<NewChunk>,
    staged: usize,
    /// Tasks that have not ended.
    tasks: usize,
    /// Whether something has been handed to the main thread and not done there.
    committing: bool,
    failed: Option<Error>,
}

impl Drop for Ingest {
    /// Answers where work was lost to a panic: a job that has ended takes no second end.
    fn drop(&mut self) {
        self.run.job.finish(Err(Error::err("the work was lost to an internal error; the server's log has more")));
    }
}

impl Ingest {
    fn start(run: Run, chunks: Vec<Chunk>, worked: Worked) {
        let (_, _, threads) = models::pool_load();
        let tasks = threads.min(chunks.len()).max(1);
        let state = State {
            chunks: chunks.into_iter().enumerate(),
            made: Vec::new(),
            staged: 0,
            tasks,
            committing: false,
            failed: None,
        };
        let ingest = Arc::new(Ingest { run, state: Mutex::new(state), worked: Mutex::new(Some(worked)) });
        for _ in 0..tasks {
            models::spawn(Priority::Normal, Embed { ingest: ingest.clone(), current: None, ended: false });
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands what has been made to the main thread, unless that has something already; and the end, once every task has ended.
    fn commit(self: &Arc<Ingest>) {
        {
            let mut state = self.state();
            let due = state.made.len() >= UNIT || state.tasks == 0;
            if state.committing || !due {
                return;
            }
            state.committing = true;
        }
        let ingest = self.clone();
        commit::submit(move |ctx| {
            if ffi::is_paused() {
                return Ran::Later;
            }
            if ingest.unit(ctx) { Ran::Again } else { Ran::Done }
        });
    }

    /// One unit on the main thread. True if there is another.
    fn unit(self: &Arc<Ingest>, ctx: Ctx) -> bool {
        let run = &self.run;
        let (unit, ended, mut failed) = {
            let mut state = self.state();
            let n = state.made.len().min(UNIT);
            let unit: Vec<NewChunk> = state.made.drain(..n).collect();
            (unit, state.tasks == 0, state.failed.clone())
        };
        if run.job.is_cancelled() {
            failed.get_or_insert_with(cancelled);
        }
        let name = &*run.document.name;
        if failed.is_none() && !unit.is_empty() {
            let staged = unit.len();
            let committed = commit::commit(ctx, &run.target, Needs::CHANGE, |space, now| {
                if space.config().template != run.wording.template {
                    return Err(Error::new(
                        "STALE",
                        "the setting template was changed while the document was being embedded: retry",
                    ));
                }
                Ok(((), space.stage_chunks(now, name, &run.fields, unit)?))
            });
            match committed {
                Ok(()) => {
                    let mut state = self.state();
                    state.staged += staged;
                    run.job.report(vec![
                        ("doc", Value::from(name)),
                        ("chunks", Value::from(u64::from(run.document.chunks))),
                        ("staged", Value::from(state.staged)),
                    ]);
                }
                Err(stop) => failed = Some(stop.into()),
            }
        }
        let mut state = self.state();
        if failed.is_some() {
            state.failed.clone_from(&failed);
            state.made.clear();
        }
        if !state.made.is_empty() && (ended || state.made.len() >= UNIT) {
            return true;
        }
        if !ended {
            state.committing = false;
            // A task that ended meanwhile saw that something was being done here.
            if state.tasks == 0 {
                state.committing = true;
                return true;
            }
            return false;
        }
        drop(state);
        let outcome = match failed {
            None => self.show(ctx).map_err(Error::from),
            Some(error) => Err(error),
        };
        if outcome.is_err() {
            // Where the space has gone, or is another server's by now, there is nothing to drop.
            let _ = commit::commit(ctx, &run.target, Needs::FREE, |space, _| Ok(((), space.unstage_document(name))));
        }
        // Who is answered may send the document again at once.
        self.worked.lock().unwrap_or_else(PoisonError::into_inner).take();
        run.job.finish(outcome);
        false
    }

    fn show(&self, ctx: Ctx) -> Result<Value, Stop> {
        let (run, document) = (&self.run, &self.run.document);
        commit::commit(ctx, &run.target, Needs::CHANGE, |space, now| {
            Ok(((), space.show_document(now, &document.name)?))
        })?;
        Ok(Value::map(vec![
            ("doc", Value::from(&*document.name)),
            ("chunks", Value::from(u64::from(document.chunks))),
            ("tokens", Value::from(document.tokens)),
        ]))
    }
}

/// One of the tasks that embed the chunks of a document.
struct Embed {
    ingest: Arc<Ingest>,
    current: Option<(usize, Chunk, Embedding)>,
    ended: bool,
}

impl Embed {
    /// A step: false when there is nothing left to do.
    fn advance(&mut self) -> Result<bool, Error> {
        let run = &self.ingest.run;
        let Some((position, chunk, embedding)) = &mut self.current else {
            let Some((position, chunk)) = self.ingest.state().chunks.next() else { return Ok(false) };
            let text = run.wording.text_of_chunk(&chunk.content, run.document.at);
            self.current = Some((position, chunk, Embedding::of(text)));
            return Ok(true);
        };
        let Some((encoder, vectors)) = embedding.step()? else { return Ok(true) };
        let vectors: Vectors = vectors_of_text(encoder.name(), &vectors, run.wording);
        let made = NewChunk {
            content: std::mem::take(&mut chunk.content),
            vectors,
            position: u32::try_from(*position).unwrap_or(u32::MAX),
            start: chunk.start as u64,
            end: chunk.end as u64,
            tokens: u32::try_from(chunk.tokens).unwrap_or(u32::MAX),
        };
        self.current = None;
        self.ingest.state().made.push(made);
        self.ingest.commit();
        Ok(true)
    }

    fn end(&mut self, failed: Option<Error>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        {
            let mut state = self.ingest.state();
            state.tasks = state.tasks.saturating_sub(1);
            if failed.is_some() {
                state.failed = failed;
            }
        }
        #[cfg(feature = "latch")]
        crate::latch::pass();
        self.ingest.commit();
    }
}

impl Task for Embed {
    fn step(&mut self) -> Advance {
        let stop = self.ingest.run.job.is_cancelled() || self.ingest.state().failed.is_some();
        match if stop { Ok(false) } else { self.advance() } {
            Ok(true) => return Advance::Again,
            Ok(false) => self.end(None),
            Err(error) => self.end(Some(error)),
        }
        Advance::Done
    }

    fn panicked(&mut self, message: &str) {
        ffi::log(Level::Warning, &format!("engram: a panic while embedding a document ({message}); please report it"));
        self.end(Some(Error::err("embedding failed with an internal error; the server's log has more")));
    }
}

/// `MEM.DOCS key`
pub fn docs(ctx: Ctx, args: &Parsed) -> Outcome {
    let rows = read(ctx, args.key("key"), |held| {
        let shown = held.space.documents().map(|(document, standing)| {
            let mut fields = vec![
                ("doc", Value::from(&*document.name)),
                ("chunks", Value::from(u64::from(document.chunks))),
                ("standing", Value::from(standing)),
                ("tokens", Value::from(document.tokens)),
                ("bytes", Value::from(document.bytes)),
                ("at", Value::from(document.at)),
                ("created", Value::from(document.created)),
            ];
            for (name, text) in [("type", &document.kind), ("source", &document.source)] {
                fields.extend(text.as_deref().map(|text| (name, Value::from(text))));
            }
            if let Some(meta) = &document.meta {
                fields.push(("meta", Value::from(serde_json::Value::Object(meta.clone()).to_string())));
            }
            Value::map(fields)
        });
        let staged = held.space.staged_documents().map(|(name, staged)| {
            Value::map(vec![
                ("doc", Value::from(name)),
                ("state", Value::from("being taken in")),
                ("staged", Value::from(staged)),
            ])
        });
        Ok(shown.chain(staged).collect::<Vec<_>>())
    })?;
    Ok(Value::Array(rows.unwrap_or_default()).into())
}
