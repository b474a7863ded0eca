//! Heat by the timer: what is neither young nor used cools, what is used warms up.
//!
//! A look at a space is planned over a snapshot, on the pool (which may train a dictionary there), and comes back as units of a few memories, each committed by itself through the
//! commit path, a short moment of the main thread; what changed meanwhile is passed over and looked at again next time. At the end, memories that have warmed up and
//! whose vectors are coarser than they should be are embedded anew, some at a time, behind everything else that the pool has to do. What is decided, and what it
//! does to a memory, is the engine's business: see `heat` there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use engram_agent::WordVector;
use engram_inference::pool::{Advance, Priority, Task};
use engram_memory::{Effect, Embedded, Heat, HeatPlan, HeatStats, MemoryId, Missing, Seen, Snapshot, Space};

use crate::commit::{self, Expect, Needs, Ran, Stop, Target};
use crate::datatype::{self, Found, Underway};
use crate::ffi::{self, Ctx, Key, Level, Mode, Str};
use crate::jobs::Place;
use crate::models::{self, Embedding, Text};
use crate::reply::Error;

/// Memories that are embedded between two commits.
const BATCH: usize = 16;

/// Looks that were taken.
pub static RUNS: AtomicU64 = AtomicU64::new(0);
/// Memories that were given each heat since the start of the server, in the order of [`Heat::ALL`].
static GIVEN: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
/// Memories whose vectors were made anew.
pub static REVIVED: AtomicU64 = AtomicU64::new(0);

/// Memories and bytes by heat of all spaces, as the timer found them when it last came by each.
static COUNTS: [AtomicI64; 3] = [const { AtomicI64::new(0) }; 3];
static BYTES: [AtomicI64; 3] = [const { AtomicI64::new(0) }; 3];

/// Memories that were given a heat since the start of the server.
pub fn given(heat: Heat) -> u64 {
    GIVEN[heat as usize].load(Relaxed)
}

/// Memories of a heat in all spaces, and their bytes.
pub fn total(heat: Heat) -> (u64, u64) {
    let of = |sum: &AtomicI64| u64::try_from(sum.load(Relaxed)).unwrap_or(0);
    (of(&COUNTS[heat as usize]), of(&BYTES[heat as usize]))
}

/// What of a space is in the totals. It goes out of them with the space.
#[derive(Default)]
pub struct Told([HeatStats; 3]);

impl Told {
    /// Brings the totals up to date.
    pub fn tell(&mut self, now: [HeatStats; 3]) {
        for (n, (was, is)) in self.0.iter().zip(now).enumerate() {
            COUNTS[n].fetch_add(is.count as i64 - was.count as i64, Relaxed);
            BYTES[n].fetch_add(is.bytes as i64 - was.bytes as i64, Relaxed);
        }
        self.0 = now;
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.tell(Default::default());
    }
}

/// Looks at a space, in the background.
pub fn start_by_timer(ctx: Ctx, target: &Target) {
    let name = Str::new(&target.key);
    let mut key = Key::open(ctx, &name, Mode::Peek);
    if let Found::Space(held) = datatype::find(&mut key)
        && target.expect == Expect::Incarnation(held.incarnation)
        // A look that takes longer than the interval is not overtaken by the next one, and a full queue skips it.
        && let Some(underway) = held.heating.set()
        && let Ok(place) = Place::take()
    {
        let snapshot = Some((held.space.snapshot(), held.space.seen()));
        let held = Some((underway, place));
        models::spawn(Priority::Normal, Look { target: target.clone(), snapshot, held });
    }
}

/// Notes what effects do to the heat of memories.
pub fn note(effects: &[Effect]) {
    for effect in effects {
        if let Effect::Heat { to, ids } = effect {
            GIVEN[*to as usize].fetch_add(ids.len() as u64, Relaxed);
        }
    }
}

/// A look on the pool: it plans, and hands the plan to the commit path.
struct Look {
    target: Target,
    snapshot: Option<(Snapshot, Arc<Seen>)>,
    held: Option<(Underway, Place)>,
}

impl Task for Look {
    fn step(&mut self) -> Advance {
        let (Some((snapshot, seen)), Some(held)) = (self.snapshot.take(), self.held.take()) else {
            return Advance::Done;
        };
        let plan = snapshot.plan_heat(ffi::now(), &seen);
        drop(snapshot);
        RUNS.fetch_add(1, Relaxed);
        let pending = Pending { target: self.target.clone(), plan, begun: false, next: 0, _held: held };
        commit_in_turns(pending);
        Advance::Done
    }

    fn panicked(&mut self, message: &str) {
        ffi::log(Level::Warning, &format!("engram: a panic while looking at heat ({message}); please report it"));
    }
}

/// A plan on its way through the commit queue.
struct Pending {
    target: Target,
    plan: HeatPlan,
    begun: bool,
    next: usize,
    /// Until the last unit is committed.
    _held: (Underway, Place),
}

/// Puts the plan into the commit queue; each time it gets its turn it commits one unit.
fn commit_in_turns(pending: Pending) {
    let mut pending = Some(pending);
    commit::submit(move |ctx| {
        let Some(this) = &mut pending else { return Ran::Done };
        match this.commit_one(ctx) {
            Ok(true) => return Ran::Again,
            Ok(false) => {
                if let Some(this) = pending.take() {
                    this.end(ctx);
                }
            }
            Err(Stop::Later) => return Ran::Later,
            Err(Stop::Never(error)) => {
                ctx.log(Level::Verbose, &format!("engram: a look at heat ended early: {}", error.line()));
            }
        }
        Ran::Done
    });
}

impl Pending {
    /// Whether there is more to come.
    fn commit_one(&mut self, ctx: Ctx) -> Result<bool, Stop> {
        if !self.begun {
            // Not to be taken back: nobody waits for it, so it comes in the first turn that may write.
            if ffi::is_paused() {
                return Err(Stop::Later);
            }
            self.begun = true;
            let effects = self.plan.begin();
            if !effects.is_empty() {
                commit::commit(ctx, &self.target, Needs::FREE, |_, _| Ok(((), effects)))?;
            }
            return Ok(true);
        }
        let Some(unit) = self.plan.units.get(self.next) else { return Ok(false) };
        commit::commit(ctx, &self.target, Needs::FREE, |space, now| {
            let effects = space.decide_heat(now, unit);
            note(&effects);
            Ok(((), effects))
        })?;
        self.next += 1;
        Ok(true)
    }

    /// Notes the look in the space, if that still stands, and has vectors made anew that are too coarse.
    fn end(self, ctx: Ctx) {
        let name = Str::new(&self.target.key);
        if !ctx.select(self.target.db) {
            return;
        }
        let mut key = Key::open(ctx, &name, Mode::Peek);
        let Found::Space(held) = datatype::find(&mut key) else { return };
        if self.target.expect != Expect::Incarnation(held.incarnation) {
            return;
        }
        held.space.set_seen(self.plan.seen);
        let fits = models::embedder().is_ok_and(|encoder| held.space.model() == Some(encoder.name()));
        if fits && !self.plan.coarse.is_empty() {
            let run = Box::new(Revival {
                target: self.target,
                ids: self.plan.coarse.into(),
                model: None,
                texts: VecDeque::new(),
                current: None,
                made: Vec::new(),
                _held: self._held,
            });
            run.on_main_thread(Ok(()));
        }
    }
}

/// Has the vectors of memories that have warmed up made anew: back and forth between the main thread and the pool, some at a time.
struct Revival {
    target: Target,
    ids: VecDeque<MemoryId>,
    /// The model that made what is in `made`.
    model: Option<String>,
    texts: VecDeque<Missing>,
    current: Option<(Missing, Embedding)>,
    made: Vec<Embedded>,
    _held: (Underway, Place),
}

impl Revival {
    fn on_main_thread(self: Box<Self>, worked: Result<(), Error>) {
        let (mut run, mut worked) = (Some(self), Some(worked));
        commit::submit(move |ctx| {
            if ffi::is_paused() {
                return Ran::Later;
            }
            let Some(mut this) = run.take() else { return Ran::Done };
            match worked.take().unwrap_or(Ok(())).map_err(Stop::Never).and_then(|()| this.unit(ctx)) {
                Ok(()) if this.texts.is_empty() => {}
                Ok(()) => models::spawn(Priority::Normal, Step(Some(this))),
                Err(Stop::Later) => {
                    run = Some(this);
                    return Ran::Later;
                }
                Err(Stop::Never(error)) => {
                    ctx.log(Level::Verbose, &format!("engram: making vectors anew failed: {}", error.line()));
                }
            }
            Ran::Done
        });
    }

    /// Gives the space what has been embedded and takes what comes next.
    fn unit(&mut self, ctx: Ctx) -> Result<(), Stop> {
        if let Some(model) = self.model.take() {
            let made = std::mem::take(&mut self.made);
            let revived = commit::commit(ctx, &self.target, Needs::CHANGE, |space, now| {
                let effects = space.revive(now, &model, made)?;
                Ok((effects.len() as u64, effects))
            })?;
            REVIVED.fetch_add(revived, Relaxed);
        }
        while self.texts.is_empty() && !self.ids.is_empty() {
            let ids: Vec<MemoryId> = self.ids.drain(..BATCH.min(self.ids.len())).collect();
            let coarse = |space: &Space, now| Ok((space.coarse_texts(now, &ids), Vec::new()));
            self.texts = commit::commit(ctx, &self.target, Needs::FREE, coarse)?.into();
        }
        Ok(())
    }

    /// One step on the pool: a window of a text. True if there is something for the main thread.
    fn embed(&mut self) -> Result<bool, Error> {
        let Some((_, embedding)) = &mut self.current else {
            let Some(next) = self.texts.pop_front() else { return Ok(true) };
            let text = Text::of(&next);
            self.current = Some((next, Embedding::of(text)));
            return Ok(false);
        };
        let Some((encoder, vectors)) = embedding.step()? else { return Ok(false) };
        self.model = Some(encoder.name().to_owned());
        let words = vectors.words.iter().map(WordVector::vector).collect();
        let windows = vectors.windows.clone();
        self.made.extend(self.current.take().map(|(memory, _)| Embedded { memory, windows, words }));
        Ok(self.texts.is_empty())
    }
}

/// The embedding of a batch, on the pool.
struct Step(Option<Box<Revival>>);

impl Task for Step {
    fn step(&mut self) -> Advance {
        let Some(run) = &mut self.0 else { return Advance::Done };
        let worked = match run.embed() {
            Ok(false) => return Advance::Again,
            Ok(true) => Ok(()),
            Err(error) => Err(error),
        };
        if let Some(run) = self.0.take() {
            run.on_main_thread(worked);
        }
        Advance::Done
    }

    fn panicked(&mut self, message: &str) {
        ffi::log(Level::Warning, &format!("engram: a panic while embedding ({message}); please report it"));
    }
}
