//! Memory pressure: what gives way when the server comes near `maxmemory`, or a space above its own `max-memory`.
//!
//! Above [`PRESSURE`] of `maxmemory`, below it so that writes need not fail first and Redis need not evict a whole space, every space gives up a little each
//! time the timer comes by: first its memories are [cooled](cool), oldest first, those in use spared; when nothing is left to cool, the least valuable go, from the working tier upward, never a semantic or pinned memory ([`give_up`]). It says so: a line in the log and an alert when
//! that begins and when it is over, and in INFO how many memories were cooled, and how many memories and bytes went. It is over when there is room again, or has been just enough
//! for [`QUIET`]: at the edge every store would otherwise begin it anew. That a space is above a limit of its own is told by the alerts alone.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engram_memory::{Effect, MemoryId, Space};

use crate::alerts;
use crate::commit::{self, Needs, Ran, Stop, Target};
use crate::datatype::{self, Found, Held, Underway};
use crate::ffi::{self, Ctx, Key, Level, Mode, Str};
use crate::heat;
use crate::keyspace;

/// Above this share of `maxmemory`, in percent, spaces are shrunk.
const PRESSURE: usize = 98;
/// Below this one there is room again.
const RELIEVED: f64 = 95.0;
/// How long it must have stayed below [`PRESSURE`] otherwise.
const QUIET: Duration = Duration::from_secs(10);
/// Bytes a space gives up per tick: some hundred memories.
const STEP: usize = 64 * 1024;

/// Memories and bytes given up since the start of the server.
static MEMORIES: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);
/// Memories cooled instead.
static COOLED: AtomicU64 = AtomicU64::new(0);

/// A time of pressure.
#[derive(Clone, Copy)]
struct Phase {
    began: Instant,
    /// When memory was last seen above the limit.
    last: Instant,
    /// What had been given up before.
    before: GivenUp,
}

static PHASE: Mutex<Option<Phase>> = Mutex::new(None);

fn phase() -> MutexGuard<'static, Option<Phase>> {
    PHASE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What was given up.
#[derive(Clone, Copy)]
pub struct GivenUp {
    /// Memories.
    pub memories: u64,
    /// The bytes that they took, and that the cooled ones took before.
    pub bytes: u64,
    /// Memories that were cooled instead.
    pub cooled: u64,
}

/// What was given up since the start of the server, under pressure or above a limit of a space's own.
pub fn given_up() -> GivenUp {
    GivenUp { memories: MEMORIES.load(Relaxed), bytes: BYTES.load(Relaxed), cooled: COOLED.load(Relaxed) }
}

/// Whether the server is under pressure.
pub fn is_on() -> bool {
    phase().is_some()
}

/// Memory in use, in percent of `maxmemory`; 0 without a limit.
pub fn used() -> f64 {
    100.0 * ffi::memory_ratio()
}

/// Looks whether pressure begins or is over, and says so. On the timer of a primary that is not paused.
pub fn watch(ctx: Ctx) {
    let (used, now) = (used(), Instant::now());
    let mut phase = phase();
    match &mut *phase {
        None if used > PRESSURE as f64 && keyspace::count() > 0 => {
            *phase = Some(Phase { began: now, last: now, before: given_up() });
            alerts::pressure(ctx, used, PRESSURE, true);
        }
        None => {}
        Some(current) if used > PRESSURE as f64 => current.last = now,
        Some(current) if used < RELIEVED || current.last.elapsed() >= QUIET => {
            let Phase { began, before, .. } = *current;
            *phase = None;
            let after = given_up();
            ctx.log(
                Level::Notice,
                &format!(
                    "engram: memory pressure is over after {} s: {} memories were cooled and {} given up, {} bytes in all",
                    began.elapsed().as_secs(),
                    after.cooled - before.cooled,
                    after.memories - before.memories,
                    after.bytes - before.bytes
                ),
            );
            alerts::pressure(ctx, used, PRESSURE, false);
        }
        Some(_) => {}
    }
}

/// This server is no primary: it gives up nothing by itself.
pub fn stand_down() {
    *phase() = None;
}

/// What a space has to give up now.
#[derive(Clone, Copy)]
pub struct Need {
    bytes: usize,
    /// Because it is above its own limit, rather than the server near its.
    own: bool,
}

/// What this space has to give up now, if anything.
pub fn need(space: &Space) -> Option<Need> {
    let limit = usize::try_from(space.config().max_memory).unwrap_or(usize::MAX);
    let used = space.live_bytes();
    if limit > 0 && used > limit {
        return Some(Need { bytes: (used - limit).min(STEP), own: true });
    }
    (self::used() > PRESSURE as f64).then_some(Need { bytes: STEP, own: false })
}

/// Has a space give up what it has to: by cooling, as long as there is something to cool.
pub fn relieve(ctx: Ctx, target: &Target, need: Need) {
    let name = Str::new(&target.key);
    let cooling = match datatype::find(&mut Key::open(ctx, &name, Mode::Peek)) {
        Found::Space(held) if held.cooled != Some(MemoryId::ZERO) => {
            // What cools from an earlier turn goes on.
            let Some(underway) = held.cooling.set() else { return };
            Some((underway, held.cooled.unwrap_or(MemoryId::ZERO)))
        }
        _ => None,
    };
    match cooling {
        Some((underway, from)) => cool(target, need, underway, from),
        None => drop_least(ctx, target, need),
    }
}

/// There is no need any more: what has been written or warmed meanwhile can be cooled when there is again.
pub fn relieved(held: &mut Held) {
    held.cooled = None;
}

/// Cools memories behind `cursor`, a few in each turn of the event loop, until as much is free as is needed or there are no more.
fn cool(target: &Target, need: Need, underway: Underway, mut cursor: MemoryId) {
    let target = target.clone();
    let mut freed = 0;
    commit::submit(move |ctx| {
        let _until_the_last = &underway;
        let mut next = cursor;
        let cooled = commit::commit(ctx, &target, Needs::FREE, |space, now| {
            let (effects, further) = space.cool(now, cursor);
            next = further;
            heat::note(&effects);
            let memories = effects.iter().map(|effect| match effect {
                Effect::Heat { ids, .. } => ids.len() as u64,
                _ => 0,
            });
            Ok(((memories.sum::<u64>(), space.live_bytes()), effects))
        });
        let (memories, before) = match cooled {
            Ok(cooled) => cooled,
            Err(Stop::Later) => return Ran::Later,
            Err(Stop::Never(_)) => return Ran::Done,
        };
        cursor = next;
        let name = Str::new(&target.key);
        let mut key = Key::open(ctx, &name, Mode::Peek);
        let Found::Space(held) = datatype::find(&mut key) else { return Ran::Done };
        let gained = before.saturating_sub(held.space.live_bytes());
        freed += gained;
        COOLED.fetch_add(memories, Relaxed);
        BYTES.fetch_add(gained as u64, Relaxed);
        held.cooled = Some(cursor);
        if cursor == MemoryId::ZERO || freed >= need.bytes { Ran::Done } else { Ran::Again }
    });
}

/// Has a space drop what is least worth keeping.
fn drop_least(ctx: Ctx, target: &Target, need: Need) {
    let given = commit::commit(ctx, target, Needs::FREE, |space, now| {
        let effects = give_up(space, now, need.bytes);
        let removed = effects.iter().map(|effect| match effect {
            Effect::Remove { ids, .. } => ids.len() as u64,
            _ => 0,
        });
        Ok(((removed.sum::<u64>(), space.live_bytes()), effects))
    });
    // A pause or a replaced space: the next turn sees what stands then.
    let Ok((memories, before)) = given else { return };
    let name = Str::new(&target.key);
    let mut key = Key::open(ctx, &name, Mode::Peek);
    if let Found::Space(held) = datatype::find(&mut key) {
        MEMORIES.fetch_add(memories, Relaxed);
        BYTES.fetch_add(before.saturating_sub(held.space.live_bytes()) as u64, Relaxed);
        if need.own {
            held.watch.gave_up(memories);
        }
    }
}

/// How a space comes to take `bytes` bytes less where nothing is left to cool.
fn give_up(space: &Space, now: u64, bytes: usize) -> Vec<Effect> {
    space.shrink(now, bytes)
}
