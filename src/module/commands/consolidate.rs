//! MEM.CONSOLIDATE, by call and by timer.
//!
//! A consolidation is planned over a snapshot, off the main thread, as a list of steps; each step names the memories that it read and is committed by
//! itself, only if none of them has changed since. So however long planning takes, the main thread gives it at most one small unit at a time, and a
//! memory that was touched meanwhile is simply left for the next run. Inside MULTI and scripts the same plan is made and committed in place.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use engram_inference::pool::{Advance, Priority, Task};
use engram_memory::{Change, Consolidate, Plan, Snapshot, Step, Tier};

use super::{Outcome, answer_for, read, target, write};
use crate::commit::{self, Expect, Needs, Ran, Stop, Target};
use crate::datatype::{Held, Underway};
use crate::ffi::{self, Ctx, Level};
use crate::grammar::Parsed;
use crate::jobs::{self, Job, Place, Started};
use crate::models;
use crate::reply::{Error, Value};

/// Memories that a consolidation compares for similarity in place, at most; more are planned in the background only.
const INLINE_SIMILARITY: usize = 200;
/// Changes listed in a reply, at most; all are counted.
const LISTED: usize = 1_000;

/// Consolidations that ran, by call or timer.
pub static RUNS: AtomicU64 = AtomicU64::new(0);

/// `MEM.CONSOLIDATE key [FROM t] [TO t] [THRESHOLD f] [DEDUP f] [LIMIT n] [DRYRUN] [JOB id] [NOWAIT]`
pub fn consolidate(ctx: Ctx, args: &Parsed) -> Outcome {
    let key = args.key("key");
    let options = |held: &mut Held| -> Result<(Consolidate, Snapshot, usize), Error> {
        let options = Consolidate {
            from: args.opt_text("from").map(Tier::parse).transpose()?,
            to: args.opt_text("to").map(Tier::parse).transpose()?,
            threshold: args.opt_f64("threshold"),
            dedup: args.opt_f64("dedup"),
            limit: args.opt_usize("limit"),
        };
        Ok((options, held.space.snapshot(), held.space.len()))
    };
    let Some((options, snapshot, memories)) = read(ctx, key, options)? else { return Err(Error::err("no such space")) };
    let dry = args.flag("dryrun");
    if ctx.must_not_block() {
        if args.flag("nowait") || args.opt_text("job").is_some() {
            return Err(Error::err("JOB and NOWAIT are not possible inside MULTI, scripts and functions"));
        }
        let similarity = options.dedup.unwrap_or(snapshot.settings().dedup) > 0.0;
        if similarity && memories > INLINE_SIMILARITY {
            return Err(Error::new(
                "INLINELIMIT",
                format!(
                    "inside MULTI, scripts and functions at most {INLINE_SIMILARITY} memories are compared by similarity: call it outside"
                ),
            ));
        }
        let plan = snapshot.plan_consolidation(ffi::now(), &options)?;
        let mut report = Report::new(dry);
        for step in &plan.steps {
            let done = dry || write(ctx, key, Needs::FREE, |space, now| Ok(decide(space, now, step)))?;
            report.add(step, done);
        }
        RUNS.fetch_add(1, Ordering::Relaxed);
        return Ok(report.value().into());
    }
    let nowait = args.flag("nowait");
    let job = match jobs::start(ctx, "MEM.CONSOLIDATE", args.opt_text("job"), args.fingerprint(), nowait)? {
        Started::Existing(job) => job,
        Started::New(job) => {
            models::spawn(Priority::Normal, Run::new(target(ctx, key)?, snapshot, options, dry, Some(job.clone())));
            job
        }
    };
    answer_for(ctx, &job, nowait)
}

fn decide(space: &engram_memory::Space, now: u64, step: &Step) -> (bool, Vec<engram_memory::Effect>) {
    match space.decide_step(now, step) {
        Some(effects) => (true, effects),
        None => (false, Vec::new()),
    }
}

/// Whether the timer should consolidate this space now; plans the first run of one it has not seen.
pub fn is_due(held: &mut Held, now: u64) -> bool {
    let interval = held.space.config().consolidate_interval.saturating_mul(1_000);
    if interval == 0 {
        held.next_consolidation = 0;
        return false;
    }
    // A setting that was lowered takes effect at once.
    if held.next_consolidation == 0 || held.next_consolidation > now.saturating_add(interval) {
        held.next_consolidation = now.saturating_add(interval);
        return false;
    }
    if held.next_consolidation > now {
        return false;
    }
    held.next_consolidation = now.saturating_add(interval);
    true
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
        let mut run = Run::new(target.clone(), snapshot, Consolidate::default(), false, None);
        run.held = Some((underway, place));
        models::spawn(Priority::Normal, run);
    }
}

/// One consolidation on the pool: plans in its first step, then hands one unit at a time to the commit path.
struct Run {
    target: Target,
    snapshot: Option<Snapshot>,
    options: Consolidate,
    dry: bool,
    job: Option<Arc<Job>>,
    /// Of a run by timer, until its last change is committed.
    held: Option<(Underway, Place)>,
}

impl Run {
    fn new(target: Target, snapshot: Snapshot, options: Consolidate, dry: bool, job: Option<Arc<Job>>) -> Run {
        Run { target, snapshot: Some(snapshot), options, dry, job, held: None }
    }

    fn fail(&self, error: Error) {
        match &self.job {
            Some(job) => job.finish(Err(error)),
            None => {
                ffi::log(Level::Verbose, &format!("engram: a consolidation by timer ended early: {}", error.line()))
            }
        }
    }
}

impl Task for Run {
    fn step(&mut self) -> Advance {
        let Some(snapshot) = self.snapshot.take() else { return Advance::Done };
        if let Some(job) = &self.job {
            job.report(Vec::new());
        }
        let plan = match snapshot.plan_consolidation(ffi::now(), &self.options) {
            Ok(plan) => plan,
            Err(error) => {
                self.fail(error.into());
                return Advance::Done;
            }
        };
        drop(snapshot);
        #[cfg(feature = "latch")]
        crate::latch::pass();
        RUNS.fetch_add(1, Ordering::Relaxed);
        let report = Report::new(self.dry);
        if self.dry {
            let mut report = report;
            plan.steps.iter().for_each(|step| report.add(step, true));
            if let Some(job) = &self.job {
                job.finish(Ok(report.value()));
            }
            return Advance::Done;
        }
        let (job, held) = (self.job.clone(), self.held.take());
        commit_in_turns(Pending { target: self.target.clone(), plan, next: 0, report, job, _held: held });
        Advance::Done
    }

    fn panicked(&mut self, message: &str) {
        ffi::log(
            Level::Warning,
            &format!("engram: a panic while planning a consolidation ({message}); please report it"),
        );
        self.fail(Error::err("consolidation failed with an internal error; the server's log has more"));
    }
}

/// A plan on its way through the commit queue.
struct Pending {
    target: Target,
    plan: Plan,
    next: usize,
    report: Report,
    job: Option<Arc<Job>>,
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
    fn commit_one(&mut self, ctx: Ctx) -> Turn {
        if self.job.as_ref().is_some_and(|job| job.is_cancelled()) {
            return Turn::Finished(Err(Error::new(
                "CANCELLED",
                format!("cancelled after {} changes; those stay", self.report.changes),
            )));
        }
        let Some(step) = self.plan.steps.get(self.next) else {
            return Turn::Finished(Ok(std::mem::replace(&mut self.report, Report::new(false)).value()));
        };
        match commit::commit(ctx, &self.target, Needs::FREE, |space, now| Ok(decide(space, now, step))) {
            Ok(done) => {
                self.report.add(step, done);
                self.next += 1;
                Turn::More
            }
            Err(Stop::Later) => Turn::Wait,
            Err(Stop::Never(error)) => Turn::Finished(Err(error)),
        }
    }
}

/// What a consolidation did, or would do.
struct Report {
    dry: bool,
    promoted: u64,
    merged: u64,
    evicted: u64,
    expired: u64,
    skipped: u64,
    changes: u64,
    listed: Vec<Value>,
}

impl Report {
    fn new(dry: bool) -> Report {
        Report { dry, promoted: 0, merged: 0, evicted: 0, expired: 0, skipped: 0, changes: 0, listed: Vec::new() }
    }

    fn add(&mut self, step: &Step, done: bool) {
        if !done {
            self.skipped += 1;
            return;
        }
        let (counter, change, id) = match &step.change {
            Change::Promote { id, .. } => (&mut self.promoted, "promote", *id),
            Change::Merge { keep, .. } => (&mut self.merged, "merge", *keep),
            Change::Evict { id } => (&mut self.evicted, "evict", *id),
            Change::Expire { id } => (&mut self.expired, "expire", *id),
        };
        *counter += match &step.change {
            Change::Merge { drop, .. } => drop.len() as u64,
            _ => 1,
        };
        self.changes += 1;
        if self.listed.len() < LISTED {
            self.listed.push(Value::map(vec![
                ("change", Value::from(change)),
                ("id", Value::from(id.to_string())),
                ("reason", Value::from(step.reason.as_str())),
            ]));
        }
    }

    fn value(self) -> Value {
        Value::map(vec![
            ("dry_run", Value::from(i64::from(self.dry))),
            ("promoted", Value::from(self.promoted)),
            ("merged", Value::from(self.merged)),
            ("evicted", Value::from(self.evicted)),
            ("expired", Value::from(self.expired)),
            ("skipped", Value::from(self.skipped)),
            ("changes", Value::Array(self.listed)),
        ])
    }
}
