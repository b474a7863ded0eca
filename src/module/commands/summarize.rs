//! Running summaries: what the older turns of a session come to, moved forward in the background.
//!
//! When `summarize-at` turns of a session are not in its summary, a task makes the next one of the last and of all of these but the newest `summarize-keep`. MEM.SESSION
//! SUMMARIZE does it when asked. A summary is made of sentences of the turns, or, where `summary-model` names a loaded model, written by that (see `summing`).
//!
//! On the main thread the turns are read and the summary is committed, if the session still has those turns and that summary: a turn that was forgotten meanwhile is in no
//! summary. In between everything is on the pool, a sentence or a token per step. A turn leaves the window of the prompt with the commit, never before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use engram_inference::pool::{Advance, Priority, Task};
use engram_memory::{Entry, Session, Summary};

use super::session::summary_fields;
use super::{Outcome, answer_for, read};
use crate::ask::ask;
use crate::commit::{self, Expect, Needs, Ran, Stop, Target};
use crate::datatype::{Held, Worked};
use crate::ffi::{self, Ctx, Level};
use crate::grammar::Parsed;
use crate::jobs::{self, Job, Started};
use crate::models;
use crate::reply::{Error, Value};
use crate::summing::{Progress, Source, Summing};

/// Turns that one summary takes in at most; of more it is made several times.
const TURNS: usize = 200;
/// How often a summary is made anew because a turn was forgotten meanwhile.
const ATTEMPTS: usize = 3;
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

/// A summary that was made, of what, and behind which one.
struct Made {
    text: String,
    tokens: u32,
    model: Option<String>,
    turns: Vec<Arc<Entry>>,
    previous: Option<Summary>,
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
                Ok(Ok((source, previous))) => {
                    let making = Making { run: this, summing: Summing::new(source), previous };
                    models::spawn(Priority::Normal, Steps(Some(making)));
                }
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
    fn next(&mut self, ctx: Ctx) -> Result<Result<(Source, Option<Summary>), Value>, Error> {
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
            let previous = record.summary().cloned();
            let source = Source {
                previous: previous.as_ref().map(|summary| summary.text.to_string()),
                turns: turns.take_while(|(n, _)| *n < until).map(|(_, turn)| Arc::new(turn)).collect(),
                budget: usize::try_from(settings.summary_tokens).unwrap_or(usize::MAX),
                language: settings.language,
                model: self.model.clone().or(setting),
                instruction: INSTRUCTION,
            };
            Ok(Ok((source, previous)))
        })?;
        found.ok_or_else(|| Error::err("no such space"))
    }

    /// Commits a summary, unless its turns are not those of the session any more: then it is made again.
    fn commit(&mut self, ctx: Ctx, made: Made) -> Result<(), Error> {
        let Made { text, tokens, model, turns, previous } = made;
        let committed = commit::commit(ctx, &self.target, Needs::CHANGE, |space, now| {
            let record = space.existing_session(now, &self.session)?;
            let began = record.covered();
            let stands = space.turns(now, &self.session, began);
            let read = turns.iter().map(|turn| (turn.id, &turn.content));
            let same = record.summary() == previous.as_ref()
                && stands.iter().take(turns.len()).map(|(_, turn)| (turn.id, &turn.content)).eq(read);
            // Up to the first turn that was not read, where that stands now: turns between those that were read may have expired meanwhile.
            let covered = stands.get(turns.len()).map_or(Session::turns(record), |(n, _)| *n);
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
    run: Run,
    summing: Summing,
    /// The summary that the session has.
    previous: Option<Summary>,
}

impl Making {
    fn hand_over(self, text: Result<(String, u32, Option<String>), Error>) {
        let Making { mut run, summing, previous } = self;
        run.notes.extend(summing.notes);
        #[cfg(feature = "latch")]
        crate::latch::pass();
        let turns = summing.source.turns;
        run.on_main_thread(Some(text.map(|(text, tokens, model)| Made { text, tokens, model, turns, previous })));
    }

    fn cancel(self) {
        self.hand_over(Err(Error::new("CANCELLED", "cancelled; the session has the summary it had")));
    }
}

/// The task of a [`Making`]; empty while a model writes.
struct Steps(Option<Making>);

impl Task for Steps {
    fn step(&mut self) -> Advance {
        // It stays where it is until it is handed on, so that a panic finds it.
        let Some(making) = &mut self.0 else { return Advance::Done };
        let cancelled = making.run.job.as_ref().is_some_and(|job| job.is_cancelled());
        let progress = if cancelled { None } else { Some(making.summing.advance()) };
        if matches!(progress, Some(Progress::More)) {
            return Advance::Again;
        }
        let Some(mut making) = self.0.take() else { return Advance::Done };
        match progress {
            None => making.cancel(),
            Some(Progress::More) => {}
            Some(Progress::Ask(name, question)) => {
                let job = making.run.job.clone();
                let tenant = job.as_ref().map_or("", |job| job.user()).to_owned();
                // A summary is made of what is told once: nothing else will begin so.
                let scope = Some(making.run.scope());
                let goes_on = move || !job.as_ref().is_some_and(|job| job.is_cancelled());
                ask(*question, tenant, scope, goes_on, move |written| {
                    making.summing.written(written, name);
                    models::spawn(Priority::Normal, Steps(Some(making)));
                });
            }
            Some(Progress::Text(text, tokens, model)) => making.hand_over(Ok((text, tokens, model))),
        }
        Advance::Done
    }

    fn panicked(&mut self, message: &str) {
        ffi::log(Level::Warning, &format!("engram: a panic while summing up ({message}); please report it"));
        if let Some(making) = self.0.take() {
            making.hand_over(Err(Error::err("summing up failed with an internal error; the server's log has more")));
        }
    }
}
