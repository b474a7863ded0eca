//! Running summaries: what the older turns of a session come to, moved forward in the background.
//!
//! When `summarize-at` turns of a session are not in its summary, a task makes the next one of the last and of all of these but the newest `summarize-keep`. MEM.SESSION
//! SUMMARIZE does it when asked. A summary is made of sentences of the turns (`engram_agent::Candidates`), or, where `summary-model` names a loaded model, written by that; if the
//! model cannot (not loaded, its context too small, its text too long or empty), sentences are taken after all, and the reply of SUMMARIZE says why.
//!
//! On the main thread the turns are read and the summary is committed, if the session still has those turns and that summary: a turn that was forgotten meanwhile is in no
//! summary. In between everything is on the pool, a sentence or a token per step. A turn leaves the window of the prompt with the commit, never before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use engram_agent::{Candidates, Parts, Turn, assemble, sentences};
use engram_inference::engine::{Engine, Owner, Request};
use engram_inference::gemma::{Role, Turn as Spoken};
use engram_inference::generation::{Finish, Generation, Step};
use engram_inference::pool::{Advance, Priority, Task};
use engram_inference::sampler::Sampling;
use engram_memory::{Entry, Language, Session, Summary};

use super::context::{counted, turn_of};
use super::generate::LOW;
use super::session::summary_fields;
use super::{Outcome, answer_for, read};
use crate::commit::{self, Expect, Needs, Ran, Stop, Target};
use crate::datatype::{Held, Worked};
use crate::ffi::{self, Ctx, Level};
use crate::grammar::Parsed;
use crate::jobs::{self, Job, Started};
use crate::models::{self, Counter, Embedding, Text};
use crate::reply::{Error, Value};

/// Turns that one summary takes in at most; of more it is made several times.
const TURNS: usize = 200;
/// How often a summary is made anew because a turn was forgotten meanwhile.
const ATTEMPTS: usize = 3;
/// Of a model's context the summary so far and the new turns may take so many tenths.
const PROMPT_TENTHS: usize = 7;
/// What the model is told.
const INSTRUCTION: &str = "Below are the summary of a conversation so far and the turns that followed. Write one new summary of all of it, in short \
    sentences. Keep who said what, names, numbers, dates, decisions, preferences and open questions. Leave out greetings. Write the summary only.";

/// Summaries that were committed.
pub static MADE: AtomicU64 = AtomicU64::new(0);

/// `MEM.SESSION SUMMARIZE key session [KEEP n] [MODEL name] [JOB id] [NOWAIT]`
pub fn summarize(ctx: Ctx, args: &Parsed) -> Outcome {
    if ctx.must_not_block() {
        return Err(Error::err(
            "MEM.SESSION SUMMARIZE is refused inside MULTI, scripts and functions: call it outside",
        ));
    }
    let (key, session, now) = (args.key("key"), args.text("session"), ffi::now());
    let model = args.opt_text("model").map(|name| models::gemma(Some(name))).transpose()?.map(|(name, _)| name);
    let nowait = args.flag("nowait");
    let found = read(ctx, key, |held| {
        held.space.existing_session(now, session)?;
        let settings = held.space.config();
        let keep = args.opt_u64("keep").unwrap_or(settings.summarize_keep);
        Ok((held.incarnation, keep, held.summarizing.begin(session)))
    })?;
    let Some((incarnation, keep, worked)) = found else { return Err(Error::err("no such space")) };
    let job = match jobs::start(ctx, "MEM.SESSION SUMMARIZE", args.opt_text("job"), args.fingerprint(), nowait)? {
        Started::Existing(job) => job,
        Started::New(job) => {
            let Some(worked) = worked else {
                let error =
                    Error::err("this session is being summed up already: MEM.SESSION SUMMARY shows what came of it");
                job.finish(Err(error.clone()));
                return Err(error);
            };
            let run = Run {
                target: Target { db: ctx.db(), key: key.into(), expect: Expect::Incarnation(incarnation) },
                session: session.to_owned(),
                keep: usize::try_from(keep).unwrap_or(usize::MAX),
                model,
                job: Some(job.clone()),
                attempts: 0,
                notes: Vec::new(),
                _worked: worked,
            };
            let flow = answer_for(ctx, &job, nowait);
            run.on_main_thread(None);
            return flow;
        }
    };
    answer_for(ctx, &job, nowait)
}

/// Has the summary of a session moved forward, if that is due and nobody does it already: when there are enough turns that it does not cover, or more than `fitted`, of which
/// is known that no more fit into a prompt. On the main thread of a primary.
pub fn begin_if_due(held: &Held, now: u64, db: i32, key: &[u8], session: &str, fitted: Option<usize>) {
    let settings = held.space.config();
    let Some(record) = held.space.session(now, session) else { return };
    let uncovered = (Session::turns(record) - record.covered()) as u64;
    let keep = fitted.map_or(settings.summarize_keep, |fitted| settings.summarize_keep.min(fitted as u64));
    let due = uncovered >= settings.summarize_at || fitted.is_some_and(|fitted| uncovered > fitted as u64);
    if settings.summarize_at == 0 || !due || uncovered <= keep {
        return;
    }
    let Some(worked) = held.summarizing.begin(session) else { return };
    let run = Run {
        target: Target { db, key: key.into(), expect: Expect::Incarnation(held.incarnation) },
        session: session.to_owned(),
        keep: usize::try_from(keep).unwrap_or(usize::MAX),
        model: None,
        job: None,
        attempts: 0,
        notes: Vec::new(),
        _worked: worked,
    };
    run.on_main_thread(None);
}

/// One session that is being summed up.
struct Run {
    target: Target,
    session: String,
    keep: usize,
    /// The model that writes; None = the setting.
    model: Option<String>,
    job: Option<Arc<Job>>,
    attempts: usize,
    notes: Vec<String>,
    _worked: Worked,
}

/// What a summary is made of.
struct Source {
    previous: Option<Summary>,
    turns: Vec<Entry>,
    budget: usize,
    language: Language,
    model: Option<String>,
}

/// A summary that was made, and what it was made of.
struct Made {
    text: String,
    tokens: u32,
    model: Option<String>,
    source: Source,
}

impl Run {
    /// Commits what was made, and begins the next one if there are more turns.
    fn on_main_thread(self, made: Option<Result<Made, Error>>) {
        let (mut run, mut made) = (Some(self), made);
        commit::submit(move |ctx| {
            if ffi::is_paused() {
                return Ran::Later;
            }
            let Some(mut this) = run.take() else { return Ran::Done };
            let turn = match made.take() {
                Some(Err(error)) => Err(error),
                Some(Ok(made)) => this.commit(ctx, made).and_then(|()| this.next(ctx)),
                None => this.next(ctx),
            };
            match turn {
                Ok(Ok(source)) => models::spawn(Priority::Normal, Steps(Some(Making::new(this, source)))),
                Ok(Err(reply)) => this.finish(Ok(reply)),
                Err(error) => this.finish(Err(error)),
            }
            Ran::Done
        });
    }

    /// What its keys and values are kept under: its session.
    fn scope(&self) -> String {
        // No user has a NUL in its name.
        models::scope_in_space(self.target.db, &self.target.key, &format!("\0{}", self.session))
    }

    fn finish(self, outcome: Result<Value, Error>) {
        match (self.job, outcome) {
            (Some(job), outcome) => job.finish(outcome),
            (None, Err(error)) => {
                ffi::log(
                    Level::Verbose,
                    &format!("engram: summing up session '{}' failed: {}", self.session, error.line()),
                );
            }
            (None, Ok(_)) => {}
        }
    }

    /// What the next summary is to be made of, or the reply if there is nothing to do.
    fn next(&mut self, ctx: Ctx) -> Result<Result<Source, Value>, Error> {
        if self.job.as_ref().is_some_and(|job| job.is_cancelled()) {
            return Err(Error::new("CANCELLED", "cancelled; the session has the summary it had"));
        }
        let now = ffi::now();
        ctx.select(self.target.db);
        let found = read(ctx, &self.target.key, |held| {
            if self.target.expect != Expect::Incarnation(held.incarnation) {
                return Err(Error::new("STALE", "the space was replaced meanwhile: retry"));
            }
            let record = held.space.existing_session(now, &self.session)?;
            let (covered, settings) = (record.covered(), held.space.config());
            let until = Session::turns(record).saturating_sub(self.keep).min(covered + TURNS);
            if until <= covered {
                let Value::Map(mut fields) = summary_fields(record.summary(), record) else {
                    return Ok(Err(Value::Null));
                };
                let notes = self.notes.iter().map(|note| Value::from(note.as_str())).collect();
                fields.push(("notes".into(), Value::Array(notes)));
                return Ok(Err(Value::Map(fields)));
            }
            let turns = held.space.turns(now, &self.session, covered).into_iter();
            let setting = Some(&*settings.summary_model).filter(|name| !name.is_empty()).map(str::to_owned);
            Ok(Ok(Source {
                previous: record.summary().cloned(),
                turns: turns.take_while(|(n, _)| *n < until).map(|(_, turn)| turn).collect(),
                budget: usize::try_from(settings.summary_tokens).unwrap_or(usize::MAX),
                language: settings.language,
                model: self.model.clone().or(setting),
            }))
        })?;
        found.ok_or_else(|| Error::err("no such space"))
    }

    /// Commits a summary, unless its turns are not those of the session any more: then it is made again.
    fn commit(&mut self, ctx: Ctx, made: Made) -> Result<(), Error> {
        let Made { text, tokens, model, source } = made;
        let committed = commit::commit(ctx, &self.target, Needs::CHANGE, |space, now| {
            let record = space.existing_session(now, &self.session)?;
            let began = record.covered();
            let stands = space.turns(now, &self.session, began);
            let read = source.turns.iter().map(|turn| (turn.id, &turn.content));
            let same = record.summary() == source.previous.as_ref()
                && stands.iter().take(source.turns.len()).map(|(_, turn)| (turn.id, &turn.content)).eq(read);
            // Up to the first turn that was not read, where that stands now: turns between those that were read may have expired meanwhile.
            let covered = stands.get(source.turns.len()).map_or(Session::turns(record), |(n, _)| *n);
            if !same || text.is_empty() {
                return Ok((same, Vec::new()));
            }
            let summary =
                Summary { text: text.as_str().into(), tokens, covered, at: now, model: model.map(Into::into) };
            Ok((true, space.summarize(now, &self.session, summary)?))
        });
        match committed {
            Ok(true) if text.is_empty() => {
                Err(Error::err("the turns have no sentence that a summary could be made of"))
            }
            Ok(true) => {
                MADE.fetch_add(1, Ordering::Relaxed);
                self.attempts = 0;
                Ok(())
            }
            Ok(false) if self.attempts < ATTEMPTS => {
                self.attempts += 1;
                Ok(())
            }
            Ok(false) => Err(Error::new("STALE", "the session was changed while it was being summed up: retry")),
            Err(Stop::Never(error)) => Err(error),
            // Cannot be: the pause was looked at before, under the same lock.
            Err(Stop::Later) => Err(Error::err("the server is paused: retry")),
        }
    }
}

/// A summary in the making, on the pool.
struct Making {
    run: Option<Run>,
    source: Option<Source>,
    counter: Counter,
    phase: Phase,
    notes: Vec<String>,
}

enum Phase {
    Begin,
    /// A model has written, or why it has not.
    Written(Result<(String, Finish), Error>, String),
    /// Sentences are embedded.
    Embed {
        candidates: Candidates,
        vectors: Vec<Vec<f32>>,
        current: Option<Embedding>,
    },
    /// Sentences are chosen, by their vectors if there are any.
    Choose {
        candidates: Candidates,
        vectors: Option<Vec<Vec<f32>>>,
    },
}

impl Making {
    fn new(run: Run, source: Source) -> Making {
        Making {
            run: Some(run),
            source: Some(source),
            counter: Counter::current(),
            phase: Phase::Begin,
            notes: Vec::new(),
        }
    }

    /// A step: the text and who wrote it once there is one.
    fn advance(&mut self) -> Result<Progress, Error> {
        let Some(source) = &self.source else { return Err(Error::err("there is nothing to sum up")) };
        let counter = self.counter.clone();
        let count = |text: &str| counted(&counter, text);
        let turns: Vec<Turn> = source.turns.iter().map(turn_of).collect();
        let previous = source.previous.as_ref().map(|summary| &*summary.text);
        let candidates = || Candidates::new(previous, &turns);
        match std::mem::replace(&mut self.phase, Phase::Begin) {
            Phase::Begin => {
                let writing = source.model.as_ref().map(|name| begin_to_write(name, previous, &turns, source.budget));
                match writing {
                    Some(Ok((name, engine, generation))) => {
                        return Ok(Progress::Write(name, engine, Box::new(generation)));
                    }
                    Some(Err(why)) => {
                        self.notes.push(format!("sentences were taken from the turns: {}", why.message));
                    }
                    None => {}
                }
                self.phase = Phase::Embed { candidates: candidates(), vectors: Vec::new(), current: None };
            }
            Phase::Written(result, name) => {
                let why = match result {
                    Ok((text, finish)) => match written(&text, finish, source.budget, &count) {
                        Some(text) => return Ok(Progress::Text(text, Some(name))),
                        None => format!("{name} wrote nothing that fits"),
                    },
                    Err(error) => error.message,
                };
                let next = candidates();
                self.notes.push(format!("sentences were taken from the turns: {why}"));
                self.phase = Phase::Embed { candidates: next, vectors: Vec::new(), current: None };
            }
            Phase::Embed { candidates, mut vectors, mut current } => {
                let embedding = match current.as_mut() {
                    Some(embedding) => embedding,
                    None => {
                        let Some(text) = candidates.texts().nth(vectors.len()) else {
                            self.phase = Phase::Choose { candidates, vectors: Some(vectors) };
                            return Ok(Progress::More);
                        };
                        current.insert(Embedding::of(Text::document(text)))
                    }
                };
                match embedding.step() {
                    Ok(None) => {}
                    Ok(Some((_, embedded))) => {
                        vectors.push(embedded.windows.first().cloned().unwrap_or_default());
                        current = None;
                    }
                    // By words, then.
                    Err(_) => {
                        self.phase = Phase::Choose { candidates, vectors: None };
                        return Ok(Progress::More);
                    }
                }
                self.phase = Phase::Embed { candidates, vectors, current };
            }
            Phase::Choose { candidates, vectors } => {
                let text = candidates.select(vectors.as_deref(), source.language, source.budget, &count);
                return Ok(Progress::Text(text, None));
            }
        }
        Ok(Progress::More)
    }

    fn hand_over(&mut self, made: Result<Made, Error>) {
        if let Some(mut run) = self.run.take() {
            run.notes.append(&mut self.notes);
            #[cfg(feature = "latch")]
            crate::latch::pass();
            run.on_main_thread(Some(made));
        }
    }
}

/// What a step came to.
enum Progress {
    More,
    /// A model of this name writes it.
    Write(String, Arc<Engine>, Box<Generation>),
    /// The summary, and the model that wrote it.
    Text(String, Option<String>),
}

/// The task of a [`Making`]; empty while a model writes.
struct Steps(Option<Making>);

impl Making {
    fn is_cancelled(&self) -> bool {
        self.run.as_ref().and_then(|run| run.job.as_ref()).is_some_and(|job| job.is_cancelled())
    }

    fn cancel(&mut self) {
        self.hand_over(Err(Error::new("CANCELLED", "cancelled; the session has the summary it had")));
    }

    fn fail(&mut self, message: &str) {
        ffi::log(Level::Warning, &format!("engram: a panic while summing up ({message}); please report it"));
        self.hand_over(Err(Error::err("summing up failed with an internal error; the server's log has more")));
    }
}

impl Task for Steps {
    fn step(&mut self) -> Advance {
        let Some(mut making) = self.0.take() else { return Advance::Done };
        if making.is_cancelled() {
            making.cancel();
            return Advance::Done;
        }
        match making.advance() {
            Ok(Progress::More) => {
                self.0 = Some(making);
                return Advance::Again;
            }
            Ok(Progress::Write(name, engine, generation)) => {
                let tenant =
                    making.run.as_ref().and_then(|run| run.job.as_ref()).map_or("", |job| job.user()).to_owned();
                // A summary is made of what is told once: nothing else will begin so.
                let scope = making.run.as_ref().map(|run| run.scope());
                let owner = Box::new(Writing { name, making: Some(making) });
                engine.submit(Request { generation: *generation, tenant, scope, priority: LOW, owner });
            }
            Ok(Progress::Text(text, model)) => {
                let tokens = u32::try_from(making.counter.count(&text)).unwrap_or(u32::MAX);
                if let Some(source) = making.source.take() {
                    making.hand_over(Ok(Made { text, tokens, model, source }));
                }
            }
            Err(error) => making.hand_over(Err(error)),
        }
        Advance::Done
    }

    fn panicked(&mut self, message: &str) {
        if let Some(making) = &mut self.0 {
            making.fail(message);
        }
    }
}

/// A summary that a model writes.
struct Writing {
    name: String,
    making: Option<Making>,
}

impl Owner for Writing {
    fn goes_on(&mut self, _: &mut Generation) -> bool {
        let cancelled = self.making.as_ref().is_none_or(Making::is_cancelled);
        if cancelled && let Some(mut making) = self.making.take() {
            making.cancel();
        }
        !cancelled
    }

    fn stepped(&mut self, generation: &mut Generation, step: Result<Step, engram_inference::Error>) {
        let result = match step {
            Ok(Step::Running) => return,
            Ok(Step::Done(finish)) => Ok((generation.text().to_owned(), finish)),
            Err(error) => Err(Error::err(format!("generation failed: {error}"))),
        };
        if let Some(mut making) = self.making.take() {
            making.phase = Phase::Written(result, std::mem::take(&mut self.name));
            models::spawn(Priority::Normal, Steps(Some(making)));
        }
    }

    fn panicked(&mut self, message: &str) {
        if let Some(mut making) = self.making.take() {
            making.fail(message);
        }
    }
}

/// Begins to have a model write; what was said is data in its prompt, as in any other.
fn begin_to_write(
    name: &str,
    previous: Option<&str>,
    turns: &[Turn],
    budget: usize,
) -> Result<(String, Arc<Engine>, Generation), Error> {
    let (name, engine) = models::engine(Some(name))?;
    let gemma = engine.model().clone();
    let counter = Counter::of(name.clone(), gemma.clone());
    let room = gemma.info().context * PROMPT_TENTHS / 10;
    let parts = Parts { system: Some(INSTRUCTION), summary: previous, turns, ..Parts::default() };
    let context = assemble(&parts, room, &|text| counted(&counter, text))?;
    if !context.dropped.is_empty() {
        return Err(Error::err(format!(
            "the context of {name} does not hold the summary so far and {} turns",
            turns.len()
        )));
    }
    let text = context.text();
    let prompt = gemma.prompt(&[Spoken { role: Role::User, text: &text }]).map_err(|e| Error::err(e.to_string()))?;
    let sampling = Sampling {
        max_tokens: budget.min(gemma.info().context.saturating_sub(prompt.len())).max(1),
        temperature: 0.0,
        ..Sampling::default()
    };
    let generation = Generation::new(gemma, prompt, sampling).map_err(|e| Error::err(e.to_string()))?;
    Ok((name, engine, generation))
}

/// What a model wrote, if it can stand: up to its last whole sentence where it ran out of tokens.
fn written(text: &str, finish: Finish, budget: usize, count: &dyn Fn(&str) -> usize) -> Option<String> {
    let text = text.trim();
    let whole = match finish {
        Finish::Length => {
            let sentences = sentences(text);
            let last = sentences.len().checked_sub(2).and_then(|last| sentences.get(last))?;
            text.get(..last.end)?
        }
        _ => text,
    };
    (!whole.trim().is_empty() && count(whole) <= budget).then(|| whole.trim().to_owned())
}
