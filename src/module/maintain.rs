//! The timer: every [`TICK_MS`] on the main thread it commits what waited for a pause to end, and walks the spaces in turn, at most [`SLICE`] at a time.
//!
//! On a primary, per space, unless `engram.maintenance` pauses what is not urgent: what has expired and what is beyond a capacity goes, the space is brought under its `max-memory`, consolidation is started when it is due (planned on a
//! pool thread over a snapshot, committed step by step), so is a look at the heat of its memories ([`heat`]), vectors are made for memories that wait for them, use counters are sent to the replicas at most once a minute, vectors staged by a job that is no more are dropped. Every write goes through
//! [`commit`], as background work that began on this incarnation. On any server: rows of forgotten vectors are compacted, except beside a fork child,
//! where moving memory would copy pages; and words are indexed anew where a setting asks for it, a step per turn, with turns that follow each other closely.
//!
//! When the server runs out of memory under a limit, the module cools what is in no use and then drops the least worth keeping from the working tier upward, never a semantic or pinned
//! memory: see [`pressure`]. Every so often server and spaces are compared with the thresholds of the [`alerts`].

use std::collections::BTreeSet;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use engram_memory::{Effect, MemoryId, Space};
use redis_module::raw;

use crate::alerts;
use crate::commands::consolidate;
use crate::commit::{self, Expect, Needs, Ran, Stop, Target};
use crate::config;
use crate::datatype::{self, Found, Held, Underway};
use crate::ffi::{self, Ctx, Key, Level, Mode, Str, api, flags};
use crate::fill;
use crate::grammar::printable;
use crate::heat;
use crate::keyspace;
use crate::pressure::{self, Need};

/// How often the timer runs, in milliseconds.
const TICK_MS: i64 = 100;
/// The same while words are indexed anew somewhere.
const REINDEX_TICK_MS: i64 = 3;
/// The main thread's time per tick.
const SLICE: Duration = Duration::from_micros(500);
/// Expired memories, or memories beyond a capacity, that are removed in one unit.
const TRIM_UNIT: usize = 64;
/// Rows compacted in one step; there are several in a slice.
const COMPACT_ROWS: usize = 128;
/// Use counters go to the replicas at most this often, in milliseconds.
const USE_EVERY: u64 = 60_000;

/// The last space the timer looked at.
static CURSOR: AtomicU64 = AtomicU64::new(0);

/// Steps in which words were indexed anew.
pub static REINDEX_STEPS: AtomicU64 = AtomicU64::new(0);
/// Whether the last tick took such a step.
static REINDEXING: AtomicBool = AtomicBool::new(false);

/// Starts the timer. Called once, at load.
pub fn start(ctx: Ctx) {
    // As for SWAPDB: the version of the event's data is 1.
    let shutdown = raw::RedisModuleEvent { id: raw::REDISMODULE_EVENT_SHUTDOWN, dataver: 1 };
    api!(RedisModule_SubscribeToServerEvent(ctx.ptr(), shutdown, Some(on_shutdown)) else 1);
    arm(ctx);
}

fn arm(ctx: Ctx) {
    let wait = if REINDEXING.swap(false, Ordering::Relaxed) { REINDEX_TICK_MS } else { TICK_MS };
    if api!(RedisModule_CreateTimer(ctx.ptr(), wait, Some(tick), std::ptr::null_mut()) else 0) == 0 {
        ctx.log(Level::Warning, "engram: no timer: nothing expires or consolidates by itself");
    }
}

unsafe extern "C" fn tick(ctx: *mut raw::RedisModuleCtx, _data: *mut c_void) {
    // SAFETY: the server's context for this callback, on the main thread.
    let ctx = unsafe { Ctx::new(ctx) };
    if catch_unwind(AssertUnwindSafe(|| run(ctx))).is_err() {
        ctx.log(Level::Warning, "engram: a panic in the timer; please report it");
    }
    arm(ctx);
}

fn run(ctx: Ctx) {
    let started = Instant::now();
    commit::drain(ctx);
    let flags = ctx.flags();
    if flags & flags::LOADING != 0 {
        return;
    }
    let primary = flags & flags::MASTER != 0 && !ffi::is_paused();
    warn_of_eviction(ctx, flags);
    if primary {
        pressure::watch(ctx);
        alerts::compare_server(ctx);
    } else if flags & flags::MASTER == 0 {
        pressure::stand_down();
        alerts::stand_down();
    }
    let total = keyspace::count();
    for _ in 0..total {
        let Some((incarnation, place)) = keyspace::next(CURSOR.load(Ordering::Relaxed)) else { return };
        CURSOR.store(incarnation, Ordering::Relaxed);
        visit(ctx, incarnation, &place, primary, flags);
        if started.elapsed() >= SLICE {
            return;
        }
    }
}

/// One space's turn.
fn visit(ctx: Ctx, incarnation: u64, place: &keyspace::Place, primary: bool, flags: i32) {
    if !ctx.select(place.db) {
        return keyspace::forget(incarnation);
    }
    let name = Str::new(&place.key);
    let now = ffi::now();
    let due = {
        let mut key = Key::open(ctx, &name, Mode::Peek);
        let Found::Space(held) = datatype::find(&mut key) else { return keyspace::forget(incarnation) };
        if held.incarnation != incarnation {
            return keyspace::forget(incarnation);
        }
        if flags & ffi::flags::ACTIVE_CHILD == 0 {
            let begun = Instant::now();
            while held.space.compact_step(COMPACT_ROWS) && begun.elapsed() < SLICE {}
        }
        if held.space.reindex_step() {
            REINDEXING.store(true, Ordering::Relaxed);
            REINDEX_STEPS.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(retired) = held.space.take_retired() {
            datatype::reap(Box::new(retired));
        }
        let rested = held.index_rests_until.is_none_or(|until| until <= Instant::now());
        if held.space.wants_index(rested)
            && let Some(underway) = held.indexing.set()
        {
            build_index(held, place, incarnation, underway);
        }
        held.heats.tell(held.space.heats());
        if !primary {
            return;
        }
        // Paused, it is due when it goes on.
        let maintains = config::maintains();
        let config = held.space.config();
        let (consolidation, look) = (config.consolidate_interval, config.heat_interval);
        let consolidate = maintains && is_due(&mut held.next_consolidation, consolidation, now);
        let heat = maintains && is_due(&mut held.next_heat, look, now);
        let used = if now.saturating_sub(held.use_sent) >= USE_EVERY && !held.used.is_empty() {
            held.use_sent = now;
            std::mem::take(&mut held.used)
        } else {
            BTreeSet::new()
        };
        // Of a server that died, or became a replica, before it had made them; or that had no encoder.
        fill::begin(held, place.db, &place.key);
        let need = pressure::need(&held.space);
        if need.is_none() {
            pressure::relieved(held);
        }
        alerts::compare_space(ctx, held, place);
        // Of a job that ended with its server, or with this one's being a replica.
        let abandoned = held.space.staged().is_some() && !held.reembedding.is_set();
        let unattended: Vec<Box<str>> = held
            .space
            .staged_documents()
            .map(|(name, _)| name)
            .filter(|name| !held.ingesting.has(name))
            .map(Box::from)
            .collect();
        let trim = if maintains && held.space.wants_trimming(now) { held.trimming.set() } else { None };
        Due { abandoned, unattended, trim, consolidate, heat, used, need }
    };
    let target = Target { db: place.db, key: place.key.clone(), expect: Expect::Incarnation(incarnation) };
    if due.abandoned {
        write(ctx, &target, |space, _| space.reembed_cancel());
    }
    if !due.unattended.is_empty() {
        write(ctx, &target, |space, _| due.unattended.iter().flat_map(|name| space.unstage_document(name)).collect());
    }
    if let Some(underway) = due.trim {
        trim(&target, underway);
    }
    if let Some(need) = due.need {
        pressure::relieve(ctx, &target, need);
    }
    if !due.used.is_empty() {
        write(ctx, &target, |space, _| {
            let used = due.used.iter().filter_map(|id| space.usage(*id).map(|(accessed, uses)| (*id, accessed, uses)));
            vec![Effect::Use(used.collect())]
        });
    }
    if due.consolidate {
        consolidate::start_by_timer(ctx, &target);
    }
    if due.heat {
        heat::start_by_timer(ctx, &target);
    }
}

/// Whether what comes every `interval` seconds (0 = never) should come now. `next` is when, in Unix milliseconds: set here, the first time to an interval from now.
fn is_due(next: &mut u64, interval: u64, now: u64) -> bool {
    let interval = interval.saturating_mul(1_000);
    if interval == 0 {
        *next = 0;
        return false;
    }
    let due = *next != 0 && *next <= now;
    // A setting that was lowered takes effect at once.
    if due || *next == 0 || *next > now.saturating_add(interval) {
        *next = now.saturating_add(interval);
    }
    due
}

/// Removes what has expired and what is beyond a capacity, a unit in each turn of the event loop, until nothing of it is left.
fn trim(target: &Target, underway: Underway) {
    let target = target.clone();
    commit::submit(move |ctx| {
        let _until_the_last = &underway;
        let mut more = false;
        let trimmed = commit::commit(ctx, &target, Needs::FREE, |space, now| {
            let effects = space.trim(now, TRIM_UNIT);
            more = !effects.is_empty();
            Ok(((), effects))
        });
        match trimmed {
            Ok(()) if more => Ran::Again,
            Err(Stop::Later) => Ran::Later,
            Ok(()) | Err(Stop::Never(_)) => Ran::Done,
        }
    });
}

/// Builds an index over the vectors of a large space on a thread of its own, behind everything else that wants the processor: it takes seconds, which the
/// pool's threads owe to those who wait. It stops soon after its space has gone, or when the server shuts down. The index is no part of the data: a replica
/// builds its own, and a loaded space a new one.
fn build_index(held: &mut Held, place: &keyspace::Place, incarnation: u64, underway: Underway) {
    let (snapshot, stop, place) = (held.space.snapshot(), Arc::<AtomicBool>::default(), place.clone());
    held.stop_index = stop.clone();
    building().push(Arc::downgrade(&stop));
    // Nothing to do if there is no thread to be had: the mark is taken back, and the next turn tries again.
    let _ = std::thread::Builder::new().name("engram-index".to_owned()).spawn(move || {
        engram_inference::pool::quieten(INDEX_NICE);
        let vectors = snapshot.size();
        let started = Instant::now();
        let mut built = catch_unwind(AssertUnwindSafe(|| snapshot.build_index(&stop))).ok().flatten();
        drop(snapshot);
        let took = started.elapsed();
        commit::submit(move |ctx| {
            let _until_here = &underway;
            let name = Str::new(&place.key);
            if built.is_some()
                && ctx.select(place.db)
                && let Found::Space(held) = datatype::find(&mut Key::open(ctx, &name, Mode::Peek))
                && held.incarnation == incarnation
            {
                built = built.take().and_then(|built| held.space.install_index(built));
                held.index_rests_until = Some(Instant::now() + took * INDEX_REST);
                let key = printable(&place.key);
                ctx.log(
                    Level::Notice,
                    &format!("engram: built the index over {vectors} memories of '{key}' in {} ms", took.as_millis()),
                );
            }
            if let Some(useless) = built.take() {
                datatype::reap(Box::new(useless));
            }
            Ran::Done
        });
    });
}

/// What stops the threads that build an index.
fn building() -> MutexGuard<'static, Vec<Weak<AtomicBool>>> {
    static BUILDING: Mutex<Vec<Weak<AtomicBool>>> = Mutex::new(Vec::new());
    let mut building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    building.retain(|stop| stop.strong_count() > 1);
    building
}

/// The server shuts down: nobody will search what is being built.
unsafe extern "C" fn on_shutdown(
    _ctx: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    _sub: u64,
    _data: *mut c_void,
) {
    building().iter().filter_map(Weak::upgrade).for_each(|stop| stop.store(true, Ordering::Release));
}

/// How far the thread that builds an index stands back.
const INDEX_NICE: i32 = 10;
/// How long an index stays though another would be somewhat better, in times that it took to build.
const INDEX_REST: u32 = 8;

struct Due {
    abandoned: bool,
    unattended: Vec<Box<str>>,
    trim: Option<Underway>,
    consolidate: bool,
    heat: bool,
    used: BTreeSet<MemoryId>,
    need: Option<Need>,
}

fn write(ctx: Ctx, target: &Target, decide: impl FnOnce(&Space, u64) -> Vec<Effect>) {
    match commit::commit(ctx, target, Needs::FREE, |space, now| Ok(((), decide(space, now)))) {
        // A pause or a replaced space: the next turn sees what stands then.
        Ok(()) | Err(Stop::Later | Stop::Never(_)) => {}
    }
}

/// Says once per change of mind that a policy which evicts keys takes whole spaces, permanent memories included.
fn warn_of_eviction(ctx: Ctx, flags: i32) {
    use std::sync::atomic::AtomicBool;
    static WARNED: AtomicBool = AtomicBool::new(false);
    let evicts = flags & ffi::flags::EVICT != 0;
    if WARNED.swap(evicts, Ordering::Relaxed) != evicts && evicts {
        ctx.log(
            Level::Warning,
            "engram: maxmemory-policy evicts keys: under memory pressure whole memory spaces can be deleted, permanent memories included; \
             set it to noeviction (Engram then drops the least valuable memories itself)",
        );
    }
}
