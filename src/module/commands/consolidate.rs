//! MEM.CONSOLIDATE, by call and by timer.
//!
//! A consolidation is planned over a snapshot, off the main thread, as a list of steps; each step names the memories that it read and is committed by
//! itself, only if none of them has changed since. So however long planning takes, the main thread gives it at most one small unit at a time, and a
//! memory that was touched meanwhile is simply left for the next run. Inside MULTI and scripts the same plan is made and committed in place.
//!
//! With EXTRACT, SUMMARIZE and LINK, and by timer where the space's settings say so, it is found out first what memories state, what turns come to and what belongs
//! together (see [`learn`]); that is part of the plan.

mod learn;
mod report;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use engram_agent::fact_rules;
use engram_inference::pool::{Advance, Priority, Task};
use engram_memory::{Change, Consolidate, Effect, Findings, MemoryId, Plan, Snapshot, Step, Tier};

use super::{Outcome, answer_for, read, target, write};
use crate::ask::ask;
use crate::commit::{self, Expect, Needs, Ran, Stop, Target};
use crate::datatype::{self, Held, Underway};
use crate::ffi::{self, Ctx, Level};
use crate::grammar::{Parsed, printable};
use crate::jobs::{self, Job, Place, Started};
use crate::models;
use crate::reply::{Error, Value};
pub use learn::waits_for_vectors;
use learn::{Learning, Progress, What};
use report::Report;

/// Memories that are consolidated in place, where nobody may be blocked, at most, and those that are compared for similarity there.
const INLINE: usize = 10_000;
const INLINE_SIMILARITY: usize = 200;

/// Consolidations that ran, by call or timer.
pub static RUNS: AtomicU64 = AtomicU64::new(0);
/// When the last one ended, in Unix milliseconds; 0 = none has.
pub static LAST: AtomicU64 = AtomicU64::new(0);
/// Facts that were learned, and statements that were refused.
pub static LEARNED: AtomicU64 = AtomicU64::new(0);
pub static REFUSED: AtomicU64 = AtomicU64::new(0);
/// Summaries of turns, and links.
pub static SUMMED_UP: AtomicU64 = AtomicU64::new(0);
pub static LINKED: AtomicU64 = AtomicU64::new(0);

/// `MEM.CONSOLIDATE key [FROM t] [TO t] [THRESHOLD f] [DEDUP f] [SUMMARIZE] [EXTRACT] [LINK] [MODEL name] [LIMIT n] [DRYRUN] [JOB id] [NOWAIT]`
pub fn consolidate(ctx: Ctx, args: &Parsed) -> Outcome {
    let key = args.key("key");
    let options = |held: &mut Held| -> Result<(Consolidate, Snapshot, usize), Error> {
        let options = Consolidate {
            from: args.opt_text("from").map(Tier::parse).transpose()?,
            to: args.opt_text("to").map(Tier::parse).transpose()?,
            threshold: args.opt_f64("threshold"),
            dedup: args.opt_f64("dedup"),
            limit: args.opt_usize("limit"),
            rules: fact_rules(),
        };
        Ok((options, held.space.snapshot(), held.space.len()))
    };
    let began = Instant::now();
    let Some((options, snapshot, memories)) = read(ctx, key, options)? else { return Err(Error::err("no such space")) };
    let dry = args.flag("dryrun");
    let what = What {
        extract: args.flag("extract"),
        summarize: args.flag("summarize"),
        link: args.flag("link"),
        model: args.opt_text("model").map(|name| models::gemma(Some(name))).transpose()?.map(|(name, _)| name),
    };
    if what.model.is_some() && !what.extract && !what.summarize {
        return Err(Error::err("MODEL is for what reads or writes: give it with EXTRACT or SUMMARIZE"));
    }
    if ctx.must_not_block() {
        if what.extract || what.summarize || what.link {
            return Err(Error::err(
                "EXTRACT, SUMMARIZE and LINK are refused inside MULTI, scripts and functions: call it outside",
            ));
        }
        if args.flag("nowait") || args.opt_text("job").is_some() {
            return Err(Error::err("JOB and NOWAIT are not possible inside MULTI, scripts and functions"));
        }
        let similarity = options.dedup.unwrap_or(snapshot.settings().dedup) > 0.0;
        let (most, what) =
            if similarity { (INLINE_SIMILARITY, "compared by similarity") } else { (INLINE, "consolidated") };
        if memories > most {
            return Err(Error::new(
                "INLINELIMIT",
                format!("inside MULTI, scripts and functions at most {most} memories are {what}: call it outside"),
            ));
        }
        let plan = snapshot.plan_consolidation(ffi::now(), &options, &Findings::default())?;
        let mut report = Report::new(dry, Vec::new(), Vec::new());
        let mut passed_over = BTreeSet::new();
        for step in &plan.steps {
            let made = match dry {
                true => Some(Made::default()),
                false => write(ctx, key, Needs::FREE, |space, now| Ok(decide(space, now, step, &mut passed_over)))?,
            };
            report.add(step, made.as_ref());
        }
        if plan.cut_short {
            report.is_cut_short();
        }
        report.ended(ctx, &Target { db: ctx.db(), key: key.into(), expect: Expect::Command }, began);
        return Ok(report.value().into());
    }
    let nowait = args.flag("nowait");
    let job = match jobs::start(ctx, "MEM.CONSOLIDATE", args.opt_text("job"), args.fingerprint(), nowait)? {
        Started::Existing(job) => job,
        Started::New(job) => {
            let target = target(ctx, key)?;
            let learning = Learning::new(snapshot, ffi::now(), what);
            let run = Run { target, learning, options, dry, job: Some(job.clone()), held: None, began };
            models::spawn(Priority::Normal, Steps(Some(Box::new(run))));
            job
        }
    };
    answer_for(ctx, &job, nowait)
}

/// What a step made.
#[derive(Default)]
struct Made {
    memories: Vec<MemoryId>,
    links: u64,
}

/// The effects of a step, and what it makes; None if it is not due any more.
fn decide(
    space: &engram_memory::Space,
    now: u64,
    step: &Step,
    passed_over: &mut BTreeSet<MemoryId>,
) -> (Option<Made>, Vec<Effect>) {
    let Some(effects) = space.decide_step(now, step, passed_over) else { return (None, Vec::new()) };
    let mut made = Made::default();
    for effect in &effects {
        match effect {
            Effect::Put { entry, .. } => made.memories.push(entry.id),
            Effect::Link(_) => made.links += 1,
            _ => {}
        }
    }
    (Some(made), effects)
}

/// Consolidates by the space's own settings, in the background.
pub fn start_by_timer(ctx: Ctx, target: &Target) {
    let found =
        read(ctx, &target.key, |held| Ok((held.incarnation, held.consolidating.clone(), held.space.snapshot())));
    if let Ok(Some((incarnation, consolidating, snapshot))) = found
        && target.expect == Expect::Incarnation(incarnation)
        // A run that takes longer than the interval is not overtaken by the next one, and a full queue skips it.
        && let Some(underway) = consolidating.set()
        && let Ok(place) = Place::take()
    {
        let settings = snapshot.settings();
        let what = What {
            extract: settings.extract,
            summarize: settings.turns_to_summary > 0,
            link: settings.link,
            model: None,
        };
        let options = Consolidate { rules: fact_rules(), ..Consolidate::default() };
        let (target, began, held) = (target.clone(), Instant::now(), Some((underway, place)));
        let learning = Learning::new(snapshot, ffi::now(), what);
        let run = Run { target, learning, options, dry: false, job: None, held, began };
        models::spawn(Priority::Normal, Steps(Some(Box::new(run))));
    }
}

/// One consolidation on the pool: finds out, plans, then hands one unit at a time to the commit path.
struct Run {
    target: Target,
    learning: Learning,
    options: Consolidate,
    dry: bool,
    job: Option<Arc<Job>>,
    /// Of a run by timer, until its last change is committed.
    held: Option<(Underway, Place)>,
    began: Instant,
}

impl Run {
    fn fail(self, error: Error) {
        match &self.job {
            Some(job) => job.finish(Err(error)),
            None => {
                ffi::log(Level::Verbose, &format!("engram: a consolidation by timer ended early: {}", error.line()))
            }
        }
    }

    /// All is found out: plans, and has the plan carried out.
    fn plan(self) {
        let (snapshot, now) = self.learning.snapshot();
        let plan = match snapshot.plan_consolidation(now, &self.options, &self.learning.found) {
            Ok(plan) => plan,
            Err(error) => return self.fail(error.into()),
        };
        let Run { target, learning, dry, job, held, began, .. } = self;
        // Before anything is written: what is shared with a snapshot is copied by who writes.
        let (refused, notes) = learning.end();
        #[cfg(feature = "latch")]
        crate::latch::pass();
        if !dry {
            REFUSED.fetch_add(refused.len() as u64, Ordering::Relaxed);
        }
        let mut report = Report::new(dry, refused, notes);
        if plan.cut_short && job.is_some() {
            report.is_cut_short();
        }
        if dry {
            plan.steps.iter().for_each(|step| report.add(step, Some(&Made::default())));
            if let Some(job) = &job {
                job.finish(Ok(report.value()));
            }
            return;
        }
        let passed_over = BTreeSet::new();
        commit_in_turns(Pending { target, plan, next: 0, passed_over, report, job, began, _held: held });
    }
}

/// The task of a [`Run`]; empty while a model is asked.
struct Steps(Option<Box<Run>>);

impl Task for Steps {
    fn step(&mut self) -> Advance {
        // It stays where it is until it is handed on, so that a panic finds it.
        let Some(run) = &mut self.0 else { return Advance::Done };
        if run.job.as_ref().is_some_and(|job| job.is_cancelled()) {
            if let Some(run) = self.0.take() {
                run.fail(Error::new("CANCELLED", "cancelled before anything was changed"));
            }
            return Advance::Done;
        }
        if let Some(job) = run.job.as_ref().filter(|_| run.learning.is_new()) {
            job.report(Vec::new());
        }
        match run.learning.advance() {
            Progress::More => return Advance::Again,
            Progress::Ask(name, question) => {
                let Some(mut run) = self.0.take() else { return Advance::Done };
                let job = run.job.clone();
                let tenant = job.as_ref().map_or("", |job| job.user()).to_owned();
                // What is read once is not read again: nothing else will begin so.
                let scope = models::scope_in_space(run.target.db, &run.target.key, "\0consolidation");
                let goes_on = move || !job.as_ref().is_some_and(|job| job.is_cancelled());
                ask(*question, tenant, Some(scope), goes_on, move |answer| {
                    run.learning.answered(answer, name);
                    models::spawn(Priority::Normal, Steps(Some(run)));
                });
            }
            Progress::Done => {
                if let Some(run) = self.0.take() {
                    run.plan();
                }
            }
        }
        Advance::Done
    }

    fn panicked(&mut self, message: &str) {
        ffi::log(
            Level::Warning,
            &format!("engram: a panic while planning a consolidation ({message}); please report it"),
        );
        if let Some(run) = self.0.take() {
            run.fail(Error::err("consolidation failed with an internal error; the server's log has more"));
        }
    }
}

/// A plan on its way through the commit queue.
struct Pending {
    target: Target,
    plan: Plan,
    next: usize,
    /// What is to be read again: see [`engram_memory::Space::decide_step`].
    passed_over: BTreeSet<MemoryId>,
    report: Report,
    job: Option<Arc<Job>>,
    began: Instant,
    _held: Option<(Underway, Place)>,
}

/// Puts the plan into the commit queue; each time it gets its turn it commits one unit.
fn commit_in_turns(mut pending: Pending) {
    commit::submit(move |ctx| match pending.commit_one(ctx) {
        Turn::Wait => Ran::Later,
        Turn::More => Ran::Again,
        Turn::Finished(outcome) => {
            match (&pending.job, outcome) {
                (Some(job), outcome) => job.finish(outcome),
                (None, Ok(_)) => {}
                (None, Err(error)) => {
                    ctx.log(Level::Verbose, &format!("engram: a consolidation by timer ended early: {}", error.line()))
                }
            }
            Ran::Done
        }
    });
}

enum Turn {
    Wait,
    More,
    Finished(Result<Value, Error>),
}

impl Pending {
    /// Notes what was done. Nobody gets the report of a run by timer: what it has to say is logged.
    fn ended(&self, ctx: Ctx) {
        self.report.ended(ctx, &self.target, self.began);
        if self.job.is_none() {
            let key = printable(&self.target.key);
            let notes = self.report.notes.iter();
            notes.for_each(|note| ctx.log(Level::Notice, &format!("engram: consolidating '{key}': {note}")));
        }
    }

    fn commit_one(&mut self, ctx: Ctx) -> Turn {
        if self.job.as_ref().is_some_and(|job| job.is_cancelled()) {
            self.ended(ctx);
            return Turn::Finished(Err(Error::new(
                "CANCELLED",
                format!("cancelled after {} changes; those stay", self.report.changes),
            )));
        }
        let Some(step) = self.plan.steps.get(self.next) else {
            // What it was decided on may be all memories once more: freeing that would be felt.
            datatype::reap(Box::new(std::mem::take(&mut self.plan)));
            self.ended(ctx);
            return Turn::Finished(Ok(std::mem::take(&mut self.report).value()));
        };
        // What adds memories is held back above `maxmemory`.
        let adds = matches!(step.change, Change::Revise(_) | Change::Summarize(_) | Change::Link(_));
        let needs = if adds { Needs::CHANGE } else { Needs::FREE };
        let passed_over = &mut self.passed_over;
        match commit::commit(ctx, &self.target, needs, |space, now| Ok(decide(space, now, step, passed_over))) {
            Ok(made) => {
                self.report.add(step, made.as_ref());
                self.next += 1;
                Turn::More
            }
            // What adds nothing goes on, so that what matters rises and what is over goes; what was to be learned is read again.
            Err(Stop::Never(error)) if adds && error.code == "OOM" => {
                self.passed_over.extend(step.memories());
                self.report.is_short_of_memory();
                self.report.add(step, None);
                self.next += 1;
                Turn::More
            }
            Err(Stop::Later) => Turn::Wait,
            Err(Stop::Never(error)) => {
                self.ended(ctx);
                Turn::Finished(Err(error))
            }
        }
    }
}
