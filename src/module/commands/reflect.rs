//! MEM.REFLECT: what a session has taught, as one insight with its sources.
//!
//! The material is read from a snapshot on the pool; a model, if one is named or `summary-model` is set, writes from it, and what it writes is kept only if it passes
//! `engram_agent::accept_insight`. Else, and without a model, the insight is put together from outcomes and facts. What is committed was drawn from memories that still say what was read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use engram_agent::{Insight, REFLECT, accept_insight, reflect as without_model};
use engram_inference::generation::Finish;
use engram_inference::pool::{Advance, Priority, Task};
use engram_memory::{Entry, NewMemory, Snapshot, Tier, Told};

use super::{Outcome, answer_for, read, target};
use crate::ask::{Question, ask};
use crate::commands::store::estimated_importance;
use crate::commit::{self, Needs, Ran, Stop, Target};
use crate::ffi::{self, Ctx, Level};
use crate::grammar::Parsed;
use crate::jobs::{self, Job, Started};
use crate::models;
use crate::reply::{Error, Value};
use crate::summing::{Source, question};

/// Tokens that a model may write.
const TOKENS: usize = 120;
/// How sure an insight is: put together from what is known, and written by a model.
const KNOWN: f64 = 0.9;
const WRITTEN: f64 = 0.7;

/// Insights that were stored.
pub static MADE: AtomicU64 = AtomicU64::new(0);

/// `MEM.REFLECT key SESSION s [MODEL name] [DRYRUN] [JOB id] [NOWAIT]`
pub fn reflect(ctx: Ctx, args: &Parsed) -> Outcome {
    if ctx.must_not_block() {
        return Err(Error::err("MEM.REFLECT is refused inside MULTI, scripts and functions: call it outside"));
    }
    let (key, nowait) = (args.key("key"), args.flag("nowait"));
    let session = args.opt_text("session").unwrap_or_default().to_owned();
    let model = args.opt_text("model").map(|name| models::gemma(Some(name))).transpose()?.map(|(name, _)| name);
    let Some(snapshot) = read(ctx, key, |held| Ok(held.space.snapshot()))? else {
        return Err(Error::err("no such space"));
    };
    let job = match jobs::start(ctx, "MEM.REFLECT", args.opt_text("job"), args.fingerprint(), nowait)? {
        Started::Existing(job) => job,
        Started::New(job) => {
            let setting = || Some(&*snapshot.settings().summary_model).filter(|name| !name.is_empty());
            let run = Run {
                target: target(ctx, key)?,
                model: model.or_else(|| setting().map(str::to_owned)),
                snapshot,
                session,
                dry: args.flag("dryrun"),
                told: Told::default(),
                written: None,
                begun: false,
                notes: Vec::new(),
                job: job.clone(),
            };
            models::spawn(Priority::Normal, Steps(Some(Box::new(run))));
            job
        }
    };
    answer_for(ctx, &job, nowait)
}

/// A reflection under way.
struct Run {
    target: Target,
    snapshot: Snapshot,
    session: String,
    model: Option<String>,
    dry: bool,
    told: Told,
    /// What the model wrote.
    written: Option<Result<(String, Finish), Error>>,
    begun: bool,
    notes: Vec<String>,
    job: Arc<Job>,
}

/// What a step came to.
enum Progress {
    Ask(String, Box<Question>),
    /// The insight, if there is one, and the model that wrote it.
    Done(Option<Insight>, Option<String>),
}

impl Run {
    fn advance(&mut self) -> Result<Progress, Error> {
        if !self.begun {
            self.begun = true;
            self.told = self.snapshot.told(ffi::now(), &self.session);
            if self.told.turns.is_empty() {
                return Err(Error::err(format!("session {} has no turns", self.session)));
            }
            if let Some(name) = &self.model {
                match self.question(name) {
                    Ok(question) => return Ok(Progress::Ask(name.clone(), Box::new(question))),
                    Err(why) => self.note(&why.message),
                }
            }
        }
        match self.written.take() {
            Some(Ok((text, _))) => match accept_insight(&text, &self.told) {
                Ok(insight) => return Ok(Progress::Done(Some(insight), self.model.clone())),
                Err(why) => self.note(&format!("what the model wrote was not kept: {why}")),
            },
            Some(Err(error)) => self.note(&error.message),
            None => {}
        }
        let insight = without_model(&self.told);
        if insight.is_none() {
            self.notes.push("there is nothing to learn: no turn has an outcome, and no fact is new".to_owned());
        }
        Ok(Progress::Done(insight, None))
    }

    fn note(&mut self, why: &str) {
        self.notes.push(format!("made of outcomes and facts: {why}"));
    }

    /// The question to a model: of a long session what its context holds of the end.
    fn question(&self, name: &str) -> Result<Question, Error> {
        let insights: Vec<&str> = self.told.insights.iter().map(|insight| &*insight.content).collect();
        let mut turns: &[Arc<Entry>] = &self.told.turns;
        loop {
            let source = Source {
                previous: Some(insights.join("\n")).filter(|insights| !insights.is_empty()),
                turns: turns.to_vec(),
                budget: TOKENS,
                language: self.snapshot.settings().language,
                model: None,
                instruction: REFLECT,
            };
            match question(name, &source) {
                Err(_) if turns.len() > 1 => turns = turns.get(turns.len().div_ceil(2)..).unwrap_or_default(),
                result => return result,
            }
        }
    }

    /// Stores the insight, and answers.
    fn commit(self, insight: Option<Insight>, model: Option<String>) {
        let Run { target, snapshot, session, dry, told, notes, job, .. } = self;
        let embedded = super::consolidate::waits_for_vectors(&snapshot);
        let Some(insight) = insight else {
            return job.finish(Ok(reply(None, None, None, &notes)));
        };
        if dry {
            return job.finish(Ok(reply(None, Some(&insight), model.as_deref(), &notes)));
        }
        let importance = estimated_importance(snapshot.settings(), &insight.text, "insight", None);
        drop(snapshot);
        let at = told.turns.last().map(|turn| turn.at);
        commit::submit(move |ctx| {
            let stored = commit::commit(ctx, &target, Needs::CHANGE, |space, now| {
                let new = NewMemory {
                    tier: Some(Tier::Semantic),
                    content: insight.text.clone(),
                    importance: Some(importance),
                    confidence: Some(if model.is_some() { WRITTEN } else { KNOWN }),
                    session: Some(session.clone()),
                    source: model.clone(),
                    from: insight.from.clone(),
                    at,
                    awaits: embedded,
                    ..NewMemory::default()
                };
                let stored = space.store_insight(now, &told, new)?;
                Ok(((stored.id, stored.duplicate), stored.effects))
            });
            match stored {
                Err(Stop::Later) => return Ran::Later,
                Err(Stop::Never(error)) => job.finish(Err(error)),
                Ok((id, duplicate)) => {
                    let mut notes = notes.clone();
                    if duplicate {
                        notes.push("this insight was there already".to_owned());
                    } else {
                        MADE.fetch_add(1, Ordering::Relaxed);
                    }
                    job.finish(Ok(reply(Some(id.to_string()), Some(&insight), model.as_deref(), &notes)));
                }
            }
            Ran::Done
        });
    }
}

fn reply(id: Option<String>, insight: Option<&Insight>, model: Option<&str>, notes: &[String]) -> Value {
    let from = insight.into_iter().flat_map(|insight| &insight.from).map(|id| Value::from(id.to_string()));
    Value::map(vec![
        ("id", Value::from(id)),
        ("content", Value::from(insight.map(|insight| insight.text.clone()))),
        ("from", Value::Array(from.collect())),
        ("model", Value::from(model.map(str::to_owned))),
        ("notes", Value::Array(notes.iter().map(|note| Value::from(note.as_str())).collect())),
    ])
}

/// The task of a [`Run`]; empty while a model writes.
struct Steps(Option<Box<Run>>);

impl Task for Steps {
    fn step(&mut self) -> Advance {
        // It stays where it is until it is handed on, so that a panic finds it.
        let Some(run) = &mut self.0 else { return Advance::Done };
        if !run.begun {
            run.job.report(Vec::new());
        }
        let progress = match run.job.is_cancelled() {
            true => Err(Error::new("CANCELLED", "cancelled before anything was stored")),
            false => run.advance(),
        };
        let Some(mut run) = self.0.take() else { return Advance::Done };
        #[cfg(feature = "latch")]
        crate::latch::pass();
        match progress {
            Ok(Progress::Done(insight, model)) => run.commit(insight, model),
            Err(error) => run.job.finish(Err(error)),
            Ok(Progress::Ask(name, question)) => {
                let (job, tenant) = (run.job.clone(), run.job.user().to_owned());
                let scope = models::scope_in_space(run.target.db, &run.target.key, &format!("\0{}", run.session));
                ask(
                    *question,
                    tenant,
                    Some(scope),
                    move || !job.is_cancelled(),
                    move |written| {
                        (run.written, run.model) = (Some(written), Some(name));
                        models::spawn(Priority::Normal, Steps(Some(run)));
                    },
                );
            }
        }
        Advance::Done
    }

    fn panicked(&mut self, message: &str) {
        ffi::log(Level::Warning, &format!("engram: a panic while reflecting ({message}); please report it"));
        if let Some(run) = self.0.take() {
            run.job.finish(Err(Error::err("reflecting failed with an internal error; the server's log has more")));
        }
    }
}
