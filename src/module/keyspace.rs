//! Where the spaces are. The server has no list of the keys of one type, and the timer must find every space to expire and consolidate it.
//!
//! The list is only a hint: incarnation → the database and key where it was last seen, noted whenever a space is created, loaded, copied, or touched by
//! a write, and after RENAME and MOVE by a keyspace event, SWAPDB by a server event. When a space leaves a place, by whichever way, the language models
//! forget what they keep of prompts with its memories, which they keep by place. Whoever uses an entry opens the key and compares the incarnation; one
//! that does not match is dropped. Rejected: scanning the keyspace for our type, which finds a space only after walking all keys of all databases.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use redis_module::raw;

use crate::datatype::{self, Found};
use crate::ffi::{self, Ctx, Key, Level, Mode, Str, api};
use crate::models;

/// A database and a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The database's number.
    pub db: i32,
    /// The key's name.
    pub key: Box<[u8]>,
}

static PLACES: LazyLock<Mutex<BTreeMap<u64, Place>>> = LazyLock::new(Mutex::default);

/// The lock is held for map operations only and is never taken by a fork child: saving, digesting and sizing do not come here.
fn places() -> MutexGuard<'static, BTreeMap<u64, Place>> {
    PLACES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes where a space stands.
pub fn note(incarnation: u64, db: i32, key: &[u8]) {
    let mut places = places();
    let left = match places.get_mut(&incarnation) {
        Some(place) if place.db == db && *place.key == *key => None,
        Some(place) => Some(std::mem::replace(place, Place { db, key: key.into() })),
        None => places.insert(incarnation, Place { db, key: key.into() }),
    };
    drop(places);
    if let Some(Place { db, key }) = left {
        models::forget_space(db, &key);
    }
}

/// Drops a space that is gone or not where it was noted.
pub fn forget(incarnation: u64) {
    let left = places().remove(&incarnation);
    if let Some(Place { db, key }) = left {
        models::forget_space(db, &key);
    }
}

/// The noted space after this incarnation, in a circle.
pub fn next(after: u64) -> Option<(u64, Place)> {
    let places = places();
    let (incarnation, place) = places.range(after + 1..).next().or_else(|| places.iter().next())?;
    Some((*incarnation, place.clone()))
}

/// Whether a space is noted.
pub fn has(incarnation: u64) -> bool {
    places().contains_key(&incarnation)
}

/// How many spaces are noted.
pub fn count() -> usize {
    places().len()
}

/// Subscribes to what moves keys. Called once, at load.
pub fn register(ctx: Ctx) {
    let generic = raw::REDISMODULE_NOTIFY_GENERIC as c_int;
    if api!(RedisModule_SubscribeToKeyspaceEvents(ctx.ptr(), generic, Some(on_key_event)) else 1) != 0 {
        ctx.log(
            Level::Warning,
            "engram: no keyspace events: a renamed space is found again by the timer only after its next write",
        );
    }
    // The header's constant of this name is not exported by anybody; the version of its data is 1.
    let swap = raw::RedisModuleEvent { id: raw::REDISMODULE_EVENT_SWAPDB, dataver: 1 };
    let subscribed = api!(RedisModule_SubscribeToServerEvent(ctx.ptr(), swap, Some(on_swap)) else 1);
    if subscribed != 0 {
        ctx.log(
            Level::Warning,
            "engram: no SWAPDB events: a swapped space is found again by the timer only after its next write",
        );
    }
}

unsafe extern "C" fn on_key_event(
    ctx: *mut raw::RedisModuleCtx,
    _kind: c_int,
    event: *const c_char,
    key: *mut raw::RedisModuleString,
) -> c_int {
    // SAFETY: the server passes a terminated event name and a live key name.
    let event = unsafe { CStr::from_ptr(event) };
    if event != c"rename_to" && event != c"move_to" {
        return 0;
    }
    // SAFETY: the server made the context for this callback and selected the database of the key in it.
    let (ctx, name) = unsafe { (Ctx::new(ctx), Str::new(ffi::string_bytes(key))) };
    let mut opened = Key::open(ctx, &name, Mode::Peek);
    if let Found::Space(held) = datatype::find(&mut opened) {
        note(held.incarnation, ctx.db(), name.bytes());
    }
    0
}

unsafe extern "C" fn on_swap(
    _ctx: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    _sub: u64,
    data: *mut std::ffi::c_void,
) {
    // SAFETY: for this event the server passes a RedisModuleSwapDbInfo that lives during the callback.
    let Some(info) = (unsafe { data.cast::<raw::RedisModuleSwapDbInfo>().as_ref() }) else { return };
    for place in places().values_mut() {
        let to = if place.db == info.dbnum_first {
            info.dbnum_second
        } else if place.db == info.dbnum_second {
            info.dbnum_first
        } else {
            continue;
        };
        let from = std::mem::replace(&mut place.db, to);
        models::forget_space(from, &place.key);
    }
}
