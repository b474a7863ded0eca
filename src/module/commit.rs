//! The commit path: the one way by which anything changes a space.
//!
//! A command on the main thread, a finished background job and a step of the timer all come to [`commit`]. Its order is fixed, because each check is only
//! worth something if nothing can happen between it and the write:
//! paused? → role → slot → key identity → memory → decide → apply → replicate → notify; whoever waits is answered after that.
//!
//! * *Paused* (CLIENT PAUSE, FAILOVER, CLUSTER FAILOVER): propagating then is an assertion that kills the server, so background work waits in the
//!   [queue](submit) and checks everything again; commands are held back by the server itself.
//! * *Role*: work that began on a primary which is a replica by now ends with READONLY.
//! * *Slot*: a key whose slot has moved to another node, or is moving and is not here, is not written.
//! * *Identity*: work that began on an absent key may write to whatever space stands there now; work that began on one space never writes to another:
//!   it ends with STALE. So DEL, RENAME, SET over the key, SWAPDB, FLUSHALL and RESTORE in the middle of a job never bring a key back.
//! * *Decide* reads the space and answers with effects; *apply* is the same code that a replica runs. Nothing is half done: a decision that fails has
//!   changed nothing, not even created the key.
//!
//! Background results are committed on the main thread, at most [`SLICE`] at a time: the thread that made one [wakes](wake) the event loop, which starts a
//! timer that is due at once, because a timer opens an execution unit, whose end flushes what was replicated, and the one-shot event that wakes the loop
//! does not. Rejected: committing on the thread that made the result, under the global lock. What a write sends to other clients (keyspace events to
//! subscribers, invalidations to clients that track) asserts the main thread on Redis 8, and killed the server.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engram_memory::{Effect, Removal, Space, Vector, encode_batch};

use crate::datatype::{self, Found, Held};
use crate::ffi::{self, Ctx, Key, Level, Mode, Str, flags};
use crate::reply::Error;
use crate::{keyspace, models, totals};

/// The main thread's time for background results before others get their turn.
const SLICE: Duration = Duration::from_micros(200);
/// Replicated batches are cut at about this size, in bytes.
const BATCH: usize = 4 * 1024 * 1024;

/// What must stand at the key for a commit to go ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Whatever is there: a command that reads and writes in one go, already checked by the server.
    Command,
    /// The work began when there was no key: nothing, or any space.
    Absent,
    /// The work began on this incarnation.
    Incarnation(u64),
}

/// Where a commit writes.
#[derive(Clone, Debug)]
pub struct Target {
    /// The database's number.
    pub db: i32,
    /// The key's name.
    pub key: Box<[u8]>,
    /// What must stand there.
    pub expect: Expect,
}

/// What a commit needs beyond its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Creates the space if there is none.
    pub create: bool,
    /// Adds data: refused above `maxmemory`.
    pub memory: bool,
}

impl Needs {
    /// Creates a space if need be, and takes memory.
    pub const STORE: Needs = Needs { create: true, memory: true };
    /// Creates a space if need be, but is done however little memory is left: settings are how one gets out of that.
    pub const SETTINGS: Needs = Needs { create: true, memory: false };
    /// Changes a space that exists, and takes memory.
    pub const CHANGE: Needs = Needs { create: false, memory: true };
    /// Changes a space that exists and only frees.
    pub const FREE: Needs = Needs { create: false, memory: false };
}

/// Why a commit did not happen.
#[derive(Debug)]
pub enum Stop {
    /// The server is paused: try again later.
    Later,
    /// It will not happen.
    Never(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Never(error)
    }
}

impl From<Stop> for Error {
    /// For who has looked at the pause before, under the same lock: it cannot stand in the way then.
    fn from(stop: Stop) -> Error {
        match stop {
            Stop::Never(error) => error,
            Stop::Later => Error::err("the server is paused: retry"),
        }
    }
}

/// The one commit function; see the head of this file. `decide` gets the space and the time in Unix milliseconds.
pub fn commit<T>(
    ctx: Ctx,
    target: &Target,
    needs: Needs,
    decide: impl FnOnce(&Space, u64) -> Result<(T, Vec<Effect>), Error>,
) -> Result<T, Stop> {
    let name = Str::new(&target.key);
    if target.expect != Expect::Command {
        check_server(ctx, target.db, &name)?;
    }
    let mut key = Key::open(ctx, &name, Mode::Write);
    let now = ffi::now();
    let mut created = false;
    let mut fresh: Option<Held> = None;
    let held = match datatype::find(&mut key) {
        Found::WrongType if matches!(target.expect, Expect::Incarnation(_)) => return Err(stale().into()),
        Found::WrongType => return Err(Error::wrong_type().into()),
        Found::Space(held) => match target.expect {
            Expect::Incarnation(began) if began != held.incarnation => return Err(stale().into()),
            _ => held,
        },
        Found::Missing if matches!(target.expect, Expect::Incarnation(_)) => return Err(stale().into()),
        Found::Missing if !needs.create => return Err(Error::err("no such space").into()),
        Found::Missing => {
            created = true;
            fresh.insert(Held::new(Space::new()))
        }
    };
    if needs.memory && ctx.has(flags::OOM) {
        return Err(Error::new("OOM", "command not allowed when used memory > 'maxmemory'.").into());
    }
    let (answer, effects) = decide(&held.space, now)?;
    if effects.is_empty() && !created {
        return Ok(answer);
    }
    apply(ctx, &name, held, &effects);
    if effects.iter().any(takes_away) {
        models::forget_space(target.db, &target.key);
    }
    if effects.iter().any(Effect::is_visible) {
        held.contexts.invalidate();
    }
    keyspace::note(held.incarnation, target.db, name.bytes());
    if let Some(fresh) = fresh
        && !datatype::put(&key, fresh)
    {
        return Err(Error::err("the server refused to create the key").into());
    }
    if created || effects.iter().any(Effect::is_visible) {
        ctx.signal_modified(&name);
    }
    Ok(answer)
}

/// The checks that the server makes for a command and nobody makes for background work.
fn check_server(ctx: Ctx, db: i32, name: &Str) -> Result<(), Stop> {
    if ffi::is_paused() {
        return Err(Stop::Later);
    }
    if !ctx.select(db) {
        return Err(stale().into());
    }
    if !ctx.has(flags::MASTER) {
        return Err(Error::new("READONLY", "this server has become a replica meanwhile: ask the new primary").into());
    }
    if !slot_is_here(ctx, name) {
        return Err(Error::new("STALE", "the slot of the key has moved to another node meanwhile: retry there").into());
    }
    Ok(())
}

/// Whether this node serves the key now. The server refuses a call that touches a key of a slot that is elsewhere, or that is migrating and whose key
/// has gone already: that is exactly the question.
pub fn slot_is_here(ctx: Ctx, name: &Str) -> bool {
    !ctx.has(flags::CLUSTER) || ctx.call(c"exists", c"v", &[name]).is_some()
}

fn stale() -> Error {
    Error::new(
        "STALE",
        "the space was deleted, renamed or replaced while this was being worked on; nothing was written: retry",
    )
}

/// Applies, replicates and notifies. The effects were decided against this very state, so that they apply is an invariant, not an input.
fn apply(ctx: Ctx, name: &Str, held: &mut Held, effects: &[Effect]) {
    let mut counted = held.space.counters();
    let mut events: Vec<&'static CStr> = Vec::new();
    let mut batch = Vec::new();
    let mut send = |effects: &[Effect]| {
        batch.clear();
        encode_batch(effects, &mut batch);
        ctx.replicate_apply(name, &batch);
    };
    let mut start = 0;
    let mut size = 0;
    for (i, effect) in effects.iter().enumerate() {
        // What an imported space counted elsewhere is nothing that happened here.
        let foreign = matches!(effect, Effect::Counters(_));
        if foreign {
            totals::add(&counted, &held.space.counters());
        }
        let applied = held.space.apply(effect);
        if foreign {
            counted = held.space.counters();
        }
        match applied {
            Ok(_) => {
                for event in events_of(effect).into_iter().flatten() {
                    if !events.contains(&event) {
                        events.push(event);
                    }
                }
            }
            Err(e) => {
                ffi::log(Level::Warning, &format!("engram: a decided effect did not apply ({e}); please report it"));
                debug_assert!(false, "a decided effect did not apply: {e}");
                // Replicas are told of what was applied here, and of nothing else.
                if start < i {
                    send(&effects[start..i]);
                }
                (start, size) = (i + 1, 0);
                continue;
            }
        }
        size += size_of_encoded(effect);
        if size >= BATCH || i + 1 == effects.len() {
            send(&effects[start..=i]);
            (start, size) = (i + 1, 0);
        }
    }
    if effects.is_empty() {
        // A space created empty, by CONFIG SET of what stands already: the key must exist on the replicas too.
        send(&[]);
    }
    totals::add(&counted, &held.space.counters());
    for event in events {
        ctx.notify(event, name);
    }
}

/// The keyspace events that an effect is worth. An eviction and a merge are forgetting too: the memory is gone, and not because its time was over.
fn events_of(effect: &Effect) -> [Option<&'static CStr>; 2] {
    let event = match effect {
        // Of a batch in which one memory supersedes another.
        Effect::Put { entry, .. } if entry.superseded.is_some() => return [Some(c"mem.store"), Some(c"mem.supersede")],
        Effect::Put { .. } if effect.is_visible() => c"mem.store",
        Effect::Patch { patch, .. } => {
            let superseded = matches!(patch.superseded, Some(Some(_)));
            return [patch.tier.map(|_| c"mem.promote"), superseded.then_some(c"mem.supersede")];
        }
        Effect::Remove { reason: Removal::Expired, .. } => c"mem.expire",
        Effect::Remove { .. } => c"mem.forget",
        Effect::Switch => c"mem.reembed",
        Effect::ShowDocument { .. } => c"mem.store",
        Effect::EndSession { turns: true, .. } | Effect::DropDocument { staged: false, .. } => c"mem.forget",
        _ => return [None, None],
    };
    [Some(event), None]
}

/// Whether a text is gone or another after an effect: a prompt that it stands in must not be gone on from.
pub fn takes_away(effect: &Effect) -> bool {
    match effect {
        Effect::Remove { .. } | Effect::EndSession { .. } | Effect::DropDocument { .. } => true,
        Effect::Patch { patch, .. } => patch.content.is_some(),
        _ => false,
    }
}

/// About how many bytes an effect is encoded to: what is long in it.
fn size_of_encoded(effect: &Effect) -> usize {
    // Four bytes a number at most, whatever the precision; the signs of the words take less than one vector does so.
    let numbers = |vectors: &[Vector]| vectors.iter().map(|v| v.dim() * size_of::<f32>()).sum::<usize>();
    match effect {
        Effect::Put { entry, vectors, .. } => 512 + entry.content.len() + 2 * numbers(vectors),
        Effect::Patch { patch, .. } => {
            512 + patch.content.as_ref().map_or(0, |c| c.len())
                + patch.vectors.as_ref().map_or(0, |(_, vectors, _)| 2 * numbers(vectors))
        }
        Effect::Remove { ids, .. } => 16 * ids.len(),
        Effect::Use(uses) => 28 * uses.len(),
        Effect::Turns { ids, .. } => 64 + 16 * ids.len(),
        Effect::Link(link) => 64 + link.rel.len() + link.reason.as_ref().map_or(0, |reason| reason.len()),
        Effect::Session(patch) => {
            let fields: usize =
                patch.fields.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, |v| v.len())).sum();
            let summary = patch.summary.iter().flatten().map(|summary| summary.text.len()).sum::<usize>();
            512 + fields + summary
        }
        _ => 128,
    }
}

/// Whether a background result is through.
#[derive(Debug, PartialEq, Eq)]
pub enum Ran {
    /// It has been committed, or has failed and said so.
    Done,
    /// One unit has been committed and there is more: it goes to the end of the queue, so that others get their turn.
    Again,
    /// The server is paused: it stays in the queue.
    Later,
}

type Pending = Box<dyn FnMut(Ctx) -> Ran + Send>;

static QUEUE: Mutex<VecDeque<Pending>> = Mutex::new(VecDeque::new());

/// Held for queue operations only.
fn queue() -> MutexGuard<'static, VecDeque<Pending>> {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hands a background result to the main thread, from any thread.
///
/// `result` is called again after it answered [`Ran::Later`] or [`Ran::Again`].
pub fn submit(result: impl FnMut(Ctx) -> Ran + Send + 'static) {
    queue().push_back(Box::new(result));
    wake();
}

/// Whether the event loop has been asked for a [`drain`] that has not begun yet.
static AWAKE: AtomicBool = AtomicBool::new(false);

/// Has the main thread commit what waits, in this turn of the event loop or the next. What is pushed before this call is seen by that drain.
fn wake() {
    if AWAKE.swap(true, Ordering::AcqRel) {
        return;
    }
    let woken = ffi::one_shot(|| {
        if !ffi::at_once(|ctx| {
            AWAKE.store(false, Ordering::Release);
            drain(ctx);
        }) {
            AWAKE.store(false, Ordering::Release);
        }
    });
    if !woken {
        // The timer of `maintain` comes by soon.
        AWAKE.store(false, Ordering::Release);
    }
}

/// Commits what waits, for at most [`SLICE`], on the main thread in a timer; asks for another turn if there is more to do at once.
pub fn drain(ctx: Ctx) {
    let started = Instant::now();
    loop {
        let Some(mut pending) = queue().pop_front() else { return };
        // A panic loses this result only: its client is answered when the closure is dropped.
        let ran = catch_unwind(AssertUnwindSafe(|| pending(ctx))).unwrap_or_else(|_| {
            ffi::log(Level::Warning, "engram: a panic while committing a result; please report it");
            Ran::Done
        });
        match ran {
            Ran::Done => {}
            Ran::Again => queue().push_back(pending),
            Ran::Later => {
                queue().push_front(pending);
                return;
            }
        }
        if started.elapsed() >= SLICE {
            if !queue().is_empty() {
                wake();
            }
            return;
        }
    }
}

/// How many results wait for a pause to end.
pub fn waiting() -> usize {
    queue().len()
}
