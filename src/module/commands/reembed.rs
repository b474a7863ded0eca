//! MEM.REEMBED: a space moves to another model, vector length or precision while it is read and written.
//!
//! One job goes back and forth between two places. On the main thread, through the commit path, it stages what has been embedded and asks the space for the
//! next memories that are missing; on the pool it embeds their texts, a window per step and behind everything that clients wait for. When nothing is missing
//! it switches, in the same unit of work in which it has looked. So recall never meets vectors of two models, a memory that was stored or changed
//! meanwhile is embedded too, and what the replicas and the append-only file get are vectors.
//!
//! Making vectors coarser needs no model: it is done on the main thread, some thousand numbers at a time.
//!
//! What is staged outlives the job where the server dies or becomes a replica in the middle. A space is marked as long as a job works on it
//! (`Held::reembedding`); the timer of a primary drops what is staged where the mark is missing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use engram_agent::WordVector;
use engram_inference::Embedder;
use engram_inference::pool::{Advance, Priority, Task};
use engram_memory::{Effect, Embedded, MemoryId, Missing, Precision, Space, Way, limits};

use super::{Outcome, answer_for, expect_memory, read};
use crate::commit::{self, Expect, Needs, Ran, Stop, Target};
use crate::datatype::Underway;
use crate::ffi::{self, Ctx, Level};
use crate::grammar::Parsed;
use crate::jobs::{self, Job, Started};
use crate::models::{self, Embedding, Text};
use crate::reply::{Error, Value};

/// `MEM.REEMBED key [MODEL name] [PRECISION f32|f16|i8] [JOB id] [NOWAIT]`
pub fn reembed(ctx: Ctx, args: &Parsed) -> Outcome {
    if ctx.must_not_block() {
        return Err(Error::err("MEM.REEMBED is refused inside MULTI, scripts and functions: call it outside"));
    }
    let key = args.key("key");
    let model = args.opt_text("model");
    let precision = args.opt_text("precision").map(precision).transpose()?;
    let found = read(ctx, key, |held| {
        Ok((held.incarnation, held.reembedding.clone(), held.space.reembed_way(model.is_some(), precision)?))
    })?;
    let Some((incarnation, reembedding, mut way)) = found else { return Err(Error::err("no such space")) };
    if let Way::Embed { model: wanted, .. } = &mut way {
        *wanted = wanted.take().or_else(|| model.map(str::to_owned));
        models::expect_embedder()?;
        if let Ok(encoder) = models::embedder() {
            expect_name(wanted.as_deref(), &encoder)?;
        }
    }
    expect_memory(ctx)?;
    let name = args.opt_text("job");
    let attaches = name.is_some_and(|name| jobs::find(ctx, name).is_ok());
    if !attaches && reembedding.is_set() {
        return Err(Error::err(
            "this space is being re-embedded already: GEMMA.JOBS shows the job, GEMMA.CANCEL stops it",
        ));
    }
    let nowait = args.flag("nowait");
    let job = match jobs::start(ctx, "MEM.REEMBED", name, args.fingerprint(), nowait)? {
        Started::Existing(job) => job,
        Started::New(job) => {
            let target = Target { db: ctx.db(), key: key.into(), expect: Expect::Incarnation(incarnation) };
            Run::begin(target, way, job.clone(), reembedding.set());
            job
        }
    };
    answer_for(ctx, &job, nowait)
}

fn precision(name: &str) -> Result<Precision, Error> {
    Precision::ALL
        .into_iter()
        .find(|precision| precision.name().eq_ignore_ascii_case(name))
        .ok_or_else(|| Error::err(format!("PRECISION is '{name}': it takes f32, f16 or i8")))
}

/// An error if another encoder is wanted than this one.
fn expect_name(wanted: Option<&str>, encoder: &Embedder) -> Result<(), Error> {
    match wanted {
        Some(wanted) if wanted != encoder.name() => Err(Error::new(
            "NOMODEL",
            format!(
                "this server embeds by '{}' (engram.embedder), not by '{wanted}': load that model, or name this one",
                encoder.name()
            ),
        )),
        _ => Ok(()),
    }
}

/// The model that makes vectors, if one does, and their length.
type Kind = (Option<String>, usize);

/// One re-embedding, wherever it is at the moment.
struct Run {
    target: Target,
    way: Way,
    job: Arc<Job>,
    /// What embeds, once it is known.
    encoder: Option<Arc<Embedder>>,
    /// Model and length of the vectors, once they are being staged.
    kind: Option<Kind>,
    /// Up to where the space has been asked for what is missing.
    cursor: MemoryId,
    /// Memories to embed, the one that is being embedded, and those that have been.
    texts: VecDeque<Missing>,
    current: Option<(Missing, Embedding)>,
    made: Vec<Embedded>,
    report: Report,
    _underway: Option<Underway>,
}

/// What the embeddings came to.
#[derive(Default)]
struct Report {
    /// Made: more than there are memories where texts changed meanwhile.
    embedded: usize,
    /// Those that took the place of the caller's own vectors.
    replaced: usize,
    /// Texts of more windows than a memory may have, which were left without a vector.
    too_long: usize,
}

/// What a unit of work on the main thread came to.
enum Turn {
    /// There is more to do there.
    Again,
    /// There are texts to embed.
    Embed,
    /// It is through.
    Finished(Value),
}

/// What a space lacks before it can switch.
enum Lack {
    /// Nothing: it has.
    Nothing,
    /// The embeddings of these; more are behind the cursor.
    Embeddings(Vec<Missing>, MemoryId),
    /// Perhaps what is behind the cursor; what was in front of it has been converted.
    Rest(MemoryId),
}

impl Run {
    fn begin(target: Target, way: Way, job: Arc<Job>, underway: Option<Underway>) {
        let run = Box::new(Run {
            target,
            way,
            job,
            encoder: None,
            kind: None,
            cursor: MemoryId::ZERO,
            texts: VecDeque::new(),
            current: None,
            made: Vec::new(),
            report: Report::default(),
            _underway: underway,
        });
        match run.way {
            Way::Convert(_) => run.on_main_thread(Ok(())),
            // The encoder may be being loaded.
            Way::Embed { .. } => models::spawn(Priority::Normal, Step(Some(run))),
        }
    }

    /// Goes on there, unit by unit, until there is something to embed; or ends there, if the work on the pool has failed.
    fn on_main_thread(self: Box<Run>, worked: Result<(), Error>) {
        let (mut run, mut worked) = (Some(self), Some(worked));
        commit::submit(move |ctx| {
            if ffi::is_paused() {
                return Ran::Later;
            }
            let Some(mut this) = run.take() else { return Ran::Done };
            let turn = match worked.take() {
                Some(Err(error)) => Err(Stop::Never(error)),
                _ if this.job.is_cancelled() => {
                    Err(Error::new("CANCELLED", "cancelled before the switch; the space has the vectors it had").into())
                }
                _ => this.unit(ctx),
            };
            match turn {
                Ok(Turn::Again) => {
                    run = Some(this);
                    return Ran::Again;
                }
                Ok(Turn::Embed) => models::spawn(Priority::Normal, Step(Some(this))),
                Ok(Turn::Finished(value)) => this.job.finish(Ok(value)),
                // A pause begins on this thread, and was looked at above.
                Err(Stop::Later) => this.fail(ctx, Error::err("the server is paused: retry")),
                Err(Stop::Never(error)) => this.fail(ctx, error),
            }
            Ran::Done
        });
    }

    /// One unit of work on the main thread: begin to stage, or stage what has been embedded and see what is missing, or switch.
    fn unit(&mut self, ctx: Ctx) -> Result<Turn, Stop> {
        let Some((model, _)) = &self.kind else {
            self.kind = Some(self.commit(ctx, |space| self.stage(space))?);
            return Ok(Turn::Again);
        };
        if let (Some(model), false) = (model, self.made.is_empty()) {
            self.commit(ctx, |space| Ok(((), space.reembed_add(model, &self.made)?)))?;
            for made in self.made.drain(..).filter(|made| !made.windows.is_empty()) {
                self.report.embedded += 1;
                self.report.replaced += usize::from(made.memory.own);
            }
        }
        if !self.texts.is_empty() {
            return Ok(Turn::Embed);
        }
        let (lack, memories, staged) = self.commit(ctx, |space| {
            let (lack, effects) = match (space.reembed_finish(), &self.way) {
                (Some(switch), _) => (Lack::Nothing, switch),
                (None, Way::Convert(_)) => {
                    let (effects, cursor) = space.reembed_convert(self.cursor)?;
                    (Lack::Rest(cursor), effects)
                }
                (None, Way::Embed { .. }) => {
                    let (missing, cursor) = space.reembed_missing(self.cursor, limits::STAGED);
                    (Lack::Embeddings(missing, cursor), Vec::new())
                }
            };
            Ok(((lack, space.len(), space.staged().unwrap_or(0)), effects))
        })?;
        self.job.report(vec![("memories", Value::from(memories)), ("staged", Value::from(staged))]);
        match lack {
            Lack::Nothing => return Ok(Turn::Finished(self.reply(memories))),
            Lack::Rest(cursor) => self.cursor = cursor,
            Lack::Embeddings(missing, cursor) => {
                self.cursor = cursor;
                self.texts = missing.into();
            }
        }
        Ok(if self.texts.is_empty() { Turn::Again } else { Turn::Embed })
    }

    /// Decides to begin, and of which kind the vectors will be.
    fn stage(&self, space: &Space) -> Result<(Kind, Vec<Effect>), Error> {
        let (model, dim) = match &self.encoder {
            Some(encoder) => (Some(encoder.name().to_owned()), encoder.dim()),
            None => (space.model().map(str::to_owned), space.dim().unwrap_or(0)),
        };
        let effects = space.reembed_begin(model.as_deref(), dim, self.precision())?;
        Ok(((model, dim), effects))
    }

    fn precision(&self) -> Precision {
        match &self.way {
            Way::Convert(precision) | Way::Embed { precision, .. } => *precision,
        }
    }

    fn commit<T>(&self, ctx: Ctx, decide: impl FnOnce(&Space) -> Result<(T, Vec<Effect>), Error>) -> Result<T, Stop> {
        commit::commit(ctx, &self.target, Needs::CHANGE, |space, _| decide(space))
    }

    fn reply(&self, memories: usize) -> Value {
        let (model, dim) = self.kind.clone().unwrap_or_default();
        Value::map(vec![
            ("memories", Value::from(memories)),
            ("embedded", Value::from(self.report.embedded)),
            ("replaced", Value::from(self.report.replaced)),
            ("too_long", Value::from(self.report.too_long)),
            ("model", model.map_or(Value::Null, Value::from)),
            ("dimensions", Value::from(dim)),
            ("precision", Value::from(self.precision().name())),
        ])
    }

    /// Ends without a switch, on the main thread.
    fn fail(&self, ctx: Ctx, error: Error) {
        // Where the space has gone or is another server's by now there is nothing to drop.
        let _ = commit::commit(ctx, &self.target, Needs::FREE, |space, _| Ok(((), space.reembed_cancel())));
        self.job.finish(Err(error));
    }

    /// One step on the pool: finds the encoder, or embeds a window. True if there is something for the main thread.
    fn embed(&mut self) -> Result<bool, Error> {
        let Some(own) = &self.encoder else { return self.find_encoder() };
        let Some((memory, embedding)) = &mut self.current else {
            let Some(next) = self.texts.pop_front() else { return Ok(true) };
            let text = Text::of(&next);
            let embedding = Embedding::of(text);
            self.current = Some((next, embedding));
            return Ok(false);
        };
        let (windows, words) = match embedding.step() {
            Ok(None) => return Ok(false),
            Ok(Some((encoder, vectors))) => {
                expect_name(Some(own.name()), &encoder)?;
                (vectors.windows.clone(), vectors.words.iter().map(WordVector::vector).collect())
            }
            // A window takes a byte at least. Such a text came with NOEMBED, or with a vector, and is left without one.
            Err(_) if memory.text.len() > limits::WINDOWS && models::has_too_many_windows(own, &memory.text) => {
                self.report.too_long += 1;
                (Vec::new(), Vec::new())
            }
            Err(error) => return Err(error),
        };
        self.made.extend(self.current.take().map(|(memory, _)| Embedded { memory, windows, words }));
        let vectors: usize = self.made.iter().map(|made| made.windows.len()).sum();
        Ok(self.texts.is_empty() || vectors >= limits::STAGED)
    }

    fn find_encoder(&mut self) -> Result<bool, Error> {
        match models::embedder() {
            Ok(encoder) => {
                if let Way::Embed { model: wanted, .. } = &self.way {
                    expect_name(wanted.as_deref(), &encoder)?;
                }
                self.encoder = Some(encoder);
                Ok(true)
            }
            Err(error) if error.code == "LOADING" => {
                // A moment only: with one thread, the load is queued behind this very task.
                std::thread::sleep(Duration::from_millis(2));
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// A re-embedding on the pool.
struct Step(Option<Box<Run>>);

impl Step {
    fn hand_over(&mut self, worked: Result<(), Error>) {
        if let Some(run) = self.0.take() {
            run.on_main_thread(worked);
        }
    }
}

impl Task for Step {
    fn step(&mut self) -> Advance {
        let Some(run) = &mut self.0 else { return Advance::Done };
        match if run.job.is_cancelled() { Ok(true) } else { run.embed() } {
            Ok(false) => return Advance::Again,
            Ok(true) => {
                #[cfg(feature = "latch")]
                if !run.made.is_empty() {
                    crate::latch::pass();
                }
                self.hand_over(Ok(()));
            }
            Err(error) => self.hand_over(Err(error)),
        }
        Advance::Done
    }

    fn panicked(&mut self, message: &str) {
        ffi::log(Level::Warning, &format!("engram: a panic while re-embedding ({message}); please report it"));
        self.hand_over(Err(Error::err("re-embedding failed with an internal error; the server's log has more")));
    }
}
