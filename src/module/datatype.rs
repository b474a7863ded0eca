//! The native data type `engram-ms`: one memory space per key.
//!
//! What is saved, rewritten to the AOF and dumped is one thing: the space as batches of encoded effects ([`Space::encode_state`]), which are
//! applied again on load by the same code that applies them on a replica. In the RDB a space is a sequence of strings, each one batch, ended by an
//! empty string, so that no batch needs more memory than [`CHUNK`] and a broken file is noticed where it breaks. Rejected: a field-by-field layout,
//! which would be a second codec to keep right and to fuzz. COPY shares what snapshots share ([`Space::copy`]).
//!
//! A value is freed by the main thread, by the server's lazy-free thread, or by our reaper: a large space is always handed to the reaper, because DEL
//! frees in place and dropping a hundred thousand memories takes far longer than a client should wait.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::Instant;

use engram_memory::{Loader, MemoryId, Space, Whereabouts, decode_batch};
use redis_module::raw;

use crate::alerts::Watch;
use crate::commands::context::Contexts;
use crate::commit;
use crate::ffi::{self, Ctx, Key, Level, api};
use crate::heat;
use crate::keyspace;
use crate::reply::Error;

/// Nine characters, as the server wants; shown by TYPE.
pub const TYPE_NAME: &CStr = c"engram-ms";
/// The version of the layout described above.
const ENCODING_VERSION: c_int = 1;
/// The size that a saved batch aims at, in bytes.
const CHUNK: usize = 256 * 1024;
/// Spaces with more to free than this go to the reaper.
const REAP_ABOVE: usize = 256;

/// The value of a key: the space, and who it is.
pub struct Held {
    /// The memories.
    pub space: Space,
    /// Fresh at create, COPY and RESTORE; background work names it to be sure that it writes where it read. Not saved.
    pub incarnation: u64,
    /// When the timer consolidates next, Unix milliseconds; 0 = not yet planned. Not saved.
    pub next_consolidation: u64,
    /// When the timer looks at the heat of memories next, Unix milliseconds; 0 = not yet planned. Not saved.
    pub next_heat: u64,
    /// Whether such a look is under way, and what of it is in the totals. Not saved.
    pub heating: Mark,
    pub heats: heat::Told,
    /// How far memories have been cooled under pressure, None before; and whether that is under way. Not saved.
    pub cooled: Option<MemoryId>,
    pub cooling: Mark,
    /// When use counters were last sent to the replicas, Unix milliseconds. Not saved.
    pub use_sent: u64,
    /// Whether a consolidation by timer is under way. Not saved.
    pub consolidating: Mark,
    /// Whether a job re-embeds the space. Not saved.
    pub reembedding: Mark,
    /// Whether what has expired or is beyond a capacity is being removed. Not saved.
    pub trimming: Mark,
    /// Whether an index over its vectors is being built. Not saved.
    pub indexing: Mark,
    /// Stops the thread that builds the index. Not saved.
    pub stop_index: Arc<AtomicBool>,
    /// From when on another index is worth the while that it takes to build, though the one that there is finds nearly all at once. Not saved.
    pub index_rests_until: Option<Instant>,
    /// Whether vectors are being made that memories wait for, and until when nothing is tried after that has failed. Not saved.
    pub filling: Mark,
    pub fill_rests_until: Cell<Option<Instant>>,
    /// Contexts that were assembled of it. Not saved.
    pub contexts: Contexts,
    /// The documents that jobs are working on. Not saved.
    pub ingesting: Names,
    /// The sessions that are being summed up. Not saved.
    pub summarizing: Names,
    /// Memories whose use was noted since then. Not saved.
    pub used: BTreeSet<MemoryId>,
    /// What the alerts compare. Not saved.
    pub watch: Watch,
    /// The last consolidation on this server. Not saved.
    pub consolidated: Option<Consolidated>,
}

/// A consolidation that has ended.
#[derive(Clone)]
pub struct Consolidated {
    /// When, in Unix milliseconds.
    pub at: u64,
    /// How many changes of each kind it made.
    pub changes: Vec<(&'static str, u64)>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.stop_index.store(true, Ordering::Release);
    }
}

/// Whether background work of one kind is under way on a space.
#[derive(Clone, Default)]
pub struct Mark(Arc<AtomicBool>);

impl Mark {
    /// Whether it is.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// From now on it is, until what this gives is dropped. None if it was already.
    pub fn set(&self) -> Option<Underway> {
        (!self.0.swap(true, Ordering::AcqRel)).then(|| Underway(self.clone()))
    }
}

/// Keeps a [`Mark`] set until it is dropped.
pub struct Underway(Mark);

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Release);
    }
}

/// The parts of a space, by name, that background work of one kind is under way on.
#[derive(Clone, Default)]
pub struct Names(Arc<Mutex<BTreeSet<Box<str>>>>);

impl Names {
    fn names(&self) -> MutexGuard<'_, BTreeSet<Box<str>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is under way on this one.
    pub fn has(&self, name: &str) -> bool {
        self.names().contains(name)
    }

    /// From now on it is, until what this gives is dropped. None if it was already.
    pub fn begin(&self, name: &str) -> Option<Worked> {
        self.names().insert(name.into()).then(|| Worked(self.clone(), name.into()))
    }
}

/// Keeps a name among those that are worked on until it is dropped.
pub struct Worked(Names, Box<str>);

impl Drop for Worked {
    fn drop(&mut self) {
        self.0.names().remove(&self.1);
    }
}

/// Memories whose use is remembered for the replicas between two sendings; that of more is kept here only.
const USED_KEPT: usize = engram_memory::limits::EFFECT_IDS;

impl Held {
    /// A value with a fresh incarnation around `space`.
    pub fn new(space: Space) -> Held {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Held {
            space,
            incarnation: NEXT.fetch_add(1, Ordering::Relaxed),
            next_consolidation: 0,
            next_heat: 0,
            heating: Mark::default(),
            heats: heat::Told::default(),
            cooled: None,
            cooling: Mark::default(),
            use_sent: 0,
            consolidating: Mark::default(),
            reembedding: Mark::default(),
            trimming: Mark::default(),
            indexing: Mark::default(),
            stop_index: Arc::default(),
            index_rests_until: None,
            contexts: Contexts::default(),
            ingesting: Names::default(),
            summarizing: Names::default(),
            filling: Mark::default(),
            fill_rests_until: Cell::new(None),
            used: BTreeSet::new(),
            watch: Watch::default(),
            consolidated: None,
        }
    }

    /// Notes that a memory was recalled.
    pub fn touch(&mut self, found: Whereabouts, now: u64) {
        self.space.touch_found(found, now);
        if self.used.len() < USED_KEPT {
            self.used.insert(found.id);
        }
    }
}

static TYPE: AtomicPtr<raw::RedisModuleType> = AtomicPtr::new(std::ptr::null_mut());

/// The registered type.
pub fn kind() -> *mut raw::RedisModuleType {
    TYPE.load(Ordering::Acquire)
}

/// Registers the type. Called once, at load.
pub fn register(ctx: Ctx) -> Result<(), Error> {
    let mut methods = raw::RedisModuleTypeMethods {
        version: u64::from(raw::REDISMODULE_TYPE_METHOD_VERSION),
        rdb_load: Some(rdb_load),
        rdb_save: Some(rdb_save),
        aof_rewrite: Some(aof_rewrite),
        mem_usage: Some(mem_usage),
        digest: Some(digest),
        free: Some(free),
        aux_load: None,
        aux_save: None,
        aux_save_triggers: 0,
        free_effort: Some(free_effort),
        unlink: None,
        copy: None,
        defrag: None,
        mem_usage2: None,
        free_effort2: None,
        unlink2: None,
        copy2: Some(copy),
        aux_save2: None,
    };
    let made = api!(RedisModule_CreateDataType(ctx.ptr(), TYPE_NAME.as_ptr(), ENCODING_VERSION, &mut methods) else std::ptr::null_mut());
    if made.is_null() {
        return Err(Error::err("the server refused to register the data type engram-ms"));
    }
    TYPE.store(made, Ordering::Release);
    Ok(())
}

/// What stands at a key.
pub enum Found<'k> {
    /// No such key.
    Missing,
    /// A space.
    Space(&'k mut Held),
    /// A value of another type.
    WrongType,
}

/// Looks at an open key. The borrow ends with the key handle; nothing else reaches the value meanwhile, since commands, timers and commits take turns
/// on the main thread, and the pool sees snapshots only.
pub fn find(key: &mut Key) -> Found<'_> {
    if key.is_empty() {
        return Found::Missing;
    }
    match key.value(kind()) {
        // SAFETY: a value of our type is always a Box<Held> that `into_value` gave away, alive while its key is open; `&mut Key` makes the borrow unique.
        Some(value) => Found::Space(unsafe { value.cast::<Held>().as_mut() }),
        None => Found::WrongType,
    }
}

/// Puts a new value at a key opened for writing.
pub fn put(key: &Key, held: Held) -> bool {
    let value = into_value(held);
    if key.set(kind(), value) {
        return true;
    }
    // SAFETY: the server did not take the value, so it is still ours, unshared.
    drop(unsafe { Box::from_raw(value.cast::<Held>()) });
    false
}

fn into_value(held: Held) -> *mut c_void {
    Box::into_raw(Box::new(held)).cast()
}

/// # Safety
/// `value` is a value of our type, alive and not being changed for `'a`.
unsafe fn held<'a>(value: *const c_void) -> Option<&'a Held> {
    // SAFETY: promised by the caller; null is turned into None.
    unsafe { value.cast::<Held>().as_ref() }
}

/// A panic in a callback would abort the server: it is logged instead and `fallback` is answered.
fn guarded<T>(what: &str, fallback: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        ffi::log(Level::Warning, &format!("engram: a panic while {what}; please report it"));
        fallback
    })
}

unsafe extern "C" fn rdb_load(io: *mut raw::RedisModuleIO, version: c_int) -> *mut c_void {
    guarded("loading a space", std::ptr::null_mut(), || match load(io, version) {
        Ok(space) => {
            let held = Held::new(space);
            // SAFETY: both calls answer for the value being loaded; the name may be null (no name known) and is not kept.
            if let Some(name) = NonNull::new(api!(RedisModule_GetKeyNameFromIO(io) else std::ptr::null()).cast_mut()) {
                let db = api!(RedisModule_GetDbIdFromIO(io) else 0);
                // SAFETY: the server keeps the name alive during this callback.
                keyspace::note(held.incarnation, db, unsafe { ffi::string_bytes(name.as_ptr()) });
            }
            into_value(held)
        }
        Err(reason) => {
            ffi::log(Level::Warning, &format!("engram: a saved space was refused: {reason}"));
            std::ptr::null_mut()
        }
    })
}

fn load(io: *mut raw::RedisModuleIO, version: c_int) -> Result<Space, String> {
    if version != ENCODING_VERSION {
        return Err(format!("its layout has version {version}, this module reads version {ENCODING_VERSION}"));
    }
    let mut loader = Loader::default();
    loop {
        let mut len = 0usize;
        let bytes = api!(RedisModule_LoadStringBuffer(io, &mut len) else std::ptr::null_mut());
        if bytes.is_null() || api!(RedisModule_IsIOError(io) else 1) != 0 {
            if !bytes.is_null() {
                api!(RedisModule_Free(bytes.cast()) else ());
            }
            return Err("it ends too early".to_owned());
        }
        // SAFETY: the server made a buffer of `len` bytes, ours until it is freed below.
        let batch = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), len) };
        let applied = if batch.is_empty() { Ok(false) } else { loader.apply(batch).map(|()| true) };
        api!(RedisModule_Free(bytes.cast()) else ());
        if !applied.map_err(|e| e.to_string())? {
            return Ok(loader.finish());
        }
    }
}

/// Decodes and applies one batch of effects, from an RDB, an AOF or a primary.
pub fn apply_batch(space: &mut Space, batch: &[u8]) -> Result<bool, String> {
    let mut takes_away = false;
    for effect in decode_batch(batch).map_err(|e| e.to_string())? {
        space.apply(&effect).map_err(|e| e.to_string())?;
        takes_away |= commit::takes_away(&effect);
    }
    Ok(takes_away)
}

unsafe extern "C" fn rdb_save(io: *mut raw::RedisModuleIO, value: *mut c_void) {
    // SAFETY: the server passes a value of our type; it is not changed while it is saved (fork child, or main thread).
    let Some(held) = (unsafe { held(value) }) else { return };
    guarded("saving a space", (), || {
        held.space.encode_state(CHUNK, &mut |batch| {
            api!(RedisModule_SaveStringBuffer(io, batch.as_ptr().cast::<c_char>(), batch.len()) else ());
        });
        api!(RedisModule_SaveStringBuffer(io, c"".as_ptr(), 0) else ());
    });
}

unsafe extern "C" fn aof_rewrite(io: *mut raw::RedisModuleIO, key: *mut raw::RedisModuleString, value: *mut c_void) {
    // SAFETY: as in rdb_save.
    let Some(held) = (unsafe { held(value) }) else { return };
    guarded("rewriting a space", (), || {
        held.space.encode_state(CHUNK, &mut |batch| {
            api!(RedisModule_EmitAOF(io, c"mem.apply".as_ptr(), c"sb".as_ptr(), key, batch.as_ptr().cast::<c_char>(), batch.len()) else ());
        });
    });
}

unsafe extern "C" fn mem_usage(value: *const c_void) -> usize {
    // SAFETY: as in rdb_save.
    unsafe { held(value) }.map_or(0, |h| size_of::<Held>() + h.space.memory_usage())
}

unsafe extern "C" fn digest(digest: *mut raw::RedisModuleDigest, value: *mut c_void) {
    // SAFETY: as in rdb_save.
    let Some(held) = (unsafe { held(value) }) else { return };
    guarded("digesting a space", (), || {
        held.space.digest(&mut |piece| {
            api!(RedisModule_DigestAddStringBuffer(digest, piece.as_ptr().cast::<c_char>(), piece.len()) else ());
        });
        api!(RedisModule_DigestEndSequence(digest) else ());
    });
}

unsafe extern "C" fn free_effort(_key: *mut raw::RedisModuleString, value: *const c_void) -> usize {
    // SAFETY: as in rdb_save.
    unsafe { held(value) }.map_or(1, |h| h.space.free_effort())
}

unsafe extern "C" fn copy(ctx: *mut raw::RedisModuleKeyOptCtx, value: *const c_void) -> *mut c_void {
    // SAFETY: as in rdb_save.
    let Some(held) = (unsafe { held(value) }) else { return std::ptr::null_mut() };
    guarded("copying a space", std::ptr::null_mut(), || {
        let copied = Held::new(held.space.copy());
        let name = api!(RedisModule_GetToKeyNameFromOptCtx(ctx) else std::ptr::null());
        if !name.is_null() {
            let db = api!(RedisModule_GetToDbIdFromOptCtx(ctx) else 0);
            // SAFETY: the server keeps the name alive during this callback.
            keyspace::note(copied.incarnation, db, unsafe { ffi::string_bytes(name) });
        }
        into_value(copied)
    })
}

unsafe extern "C" fn free(value: *mut c_void) {
    if value.is_null() {
        return;
    }
    // SAFETY: the server gives the value back for good; it came from `into_value`.
    let held = unsafe { Box::from_raw(value.cast::<Held>()) };
    guarded("freeing a space", (), || {
        keyspace::forget(held.incarnation);
        // Before it is dropped, which may be later on another thread.
        held.stop_index.store(true, Ordering::Release);
        if held.space.free_effort() > REAP_ABOVE {
            reap(held);
        }
    });
}

/// What the reaper drops.
type Garbage = Box<dyn Send>;

/// Drops a large space, or what was large in one, on the reaper thread; here, if that thread cannot be had.
pub fn reap(value: Garbage) {
    static REAPER: OnceLock<Option<Mutex<mpsc::Sender<Garbage>>>> = OnceLock::new();
    let reaper = REAPER.get_or_init(|| {
        let (send, receive) = mpsc::channel::<Garbage>();
        let thread =
            std::thread::Builder::new().name("engram-reaper".into()).spawn(move || receive.into_iter().for_each(drop));
        thread.ok().map(|_| Mutex::new(send))
    });
    if let Some(sender) = reaper
        && let Ok(sender) = sender.lock()
    {
        // A reaper that has gone gives the value back inside the error, and it is dropped here.
        let _ = sender.send(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_space_that_goes_stops_what_is_built_for_it() {
        let held = Held::new(Space::new());
        let stop = held.stop_index.clone();
        assert!(!stop.load(Ordering::Acquire));
        drop(held);
        assert!(stop.load(Ordering::Acquire));
    }

    #[test]
    fn a_mark_is_set_once_at_a_time() {
        let mark = Mark::default();
        let underway = mark.set();
        assert!(underway.is_some() && mark.is_set() && mark.set().is_none());
        drop(underway);
        assert!(!mark.is_set() && mark.set().is_some());
    }
}
