//! The timer: every [`TICK_MS`] on the main thread it commits what waited for a pause to end, and walks the spaces in turn, at most [`SLICE`] at a time.
//!
//! On a primary, per space: what has expired goes, the space is brought under its `max-memory`, consolidation is started when it is due (planned on a
//! pool thread over a snapshot, committed step by step), use counters are sent to the replicas at most once a minute. Every write goes through
//! [`commit`], as background work that began on this incarnation. On any server: rows of forgotten vectors are compacted, except beside a fork child,
//! where moving memory would copy pages.
//!
//! When the server runs out of memory under a limit, the module drops the least worth keeping from the working tier upward, never a semantic or pinned
//! memory (T9): see [`PRESSURE`].

use std::collections::BTreeSet;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engram_memory::{Effect, MemoryId, Space};
use redis_module::raw;

use crate::commands::consolidate;
use crate::commit::{self, Expect, Needs, Stop, Target};
use crate::datatype::{self, Found};
use crate::ffi::{self, Ctx, Key, Level, Mode, Str, api, flags};
use crate::keyspace;

/// How often the timer runs, in milliseconds.
const TICK_MS: i64 = 100;
/// The main thread's time per tick.
const SLICE: Duration = Duration::from_micros(500);
/// Expired memories removed in one unit.
const EXPIRE_AT_ONCE: usize = 64;
/// Rows compacted in one step.
const COMPACT_ROWS: usize = 1_024;
/// Use counters go to the replicas at most this often, in milliseconds.
const USE_EVERY: u64 = 60_000;
/// Above this share of `maxmemory` spaces are shrunk, below `maxmemory` itself so that writes need not fail first.
const PRESSURE: f64 = 0.98;
/// Bytes a space gives up per tick under pressure.
const SHRINK_STEP: usize = 256 * 1024;

/// The last space the timer looked at.
static CURSOR: AtomicU64 = AtomicU64::new(0);

/// Starts the timer. Called once, at load.
pub fn start(ctx: Ctx) {
    arm(ctx);
}

fn arm(ctx: Ctx) {
    if api!(RedisModule_CreateTimer(ctx.ptr(), TICK_MS, Some(tick), std::ptr::null_mut()) else 0) == 0 {
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
            held.space.compact_step(COMPACT_ROWS);
        }
        if !primary {
            return;
        }
        let consolidate = consolidate::is_due(held, now);
        let used = if now.saturating_sub(held.use_sent) >= USE_EVERY && !held.used.is_empty() {
            held.use_sent = now;
            std::mem::take(&mut held.used)
        } else {
            BTreeSet::new()
        };
        let over = over_limit(held.space.live_bytes(), held.space.config().max_memory);
        Due { expire: held.space.next_expiry().is_some_and(|at| at <= now), consolidate, used, over }
    };
    let target = Target { db: place.db, key: place.key.clone(), expect: Expect::Incarnation(incarnation) };
    if due.expire {
        write(ctx, &target, |space, now| space.expire_due(now, EXPIRE_AT_ONCE));
    }
    if let Some(bytes) = due.over {
        write(ctx, &target, |space, now| space.shrink(now, bytes));
    }
    if !due.used.is_empty() {
        write(ctx, &target, |space, now| {
            let used = due
                .used
                .iter()
                .filter_map(|id| space.get(now, *id))
                .map(|entry| (entry.id, entry.accessed(), entry.uses()));
            vec![Effect::Use(used.collect())]
        });
    }
    if due.consolidate {
        consolidate::start_by_timer(ctx, &target);
    }
}

struct Due {
    expire: bool,
    consolidate: bool,
    used: BTreeSet<MemoryId>,
    over: Option<usize>,
}

/// How many bytes a space should give up now.
fn over_limit(usage: usize, limit: u64) -> Option<usize> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if limit > 0 && usage > limit {
        return Some((usage - limit).min(SHRINK_STEP));
    }
    (ffi::memory_ratio() > PRESSURE).then_some(SHRINK_STEP)
}

fn write(ctx: Ctx, target: &Target, decide: impl FnOnce(&Space, u64) -> Vec<Effect>) {
    match commit::commit(ctx, target, Needs::FREE, |space, now| Ok(((), decide(space, now)))) {
        // A pause or a replaced space: the next turn sees what stands then.
        Ok(()) | Err(Stop::Later | Stop::Never(_)) => {}
    }
}

/// Says once per change of mind that a policy which evicts keys takes whole spaces, permanent memories included (T9).
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
