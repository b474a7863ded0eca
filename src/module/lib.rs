//! Engram: everything an AI agent needs to remember and to think, inside redis-server.
//!
//! This crate is the only one that knows Redis, and it is thin: parse, call the engine, reply. Where to find what:
//! * `table` describes every command; `grammar` parses by it, `describe` registers by it, `commands` holds the handlers;
//! * `datatype` is the key's value, `keyspace` knows where the values are, `commit` is the one way to change one;
//! * `jobs` is everything about blocked clients and named jobs, `models` the encoder, the Gemma models and the pool;
//! * `maintain` is the timer, `pressure` what gives way when memory is short, `config` the settings;
//! * `info` is the INFO section, from `latency` and `totals`; `alerts` tells what an operator should know;
//! * `ffi` and `alloc` are the edge to the server.

mod alerts;
#[cfg(feature = "allocator")]
mod alloc;
mod ask;
mod commands;
mod commit;
pub mod config;
mod datatype;
pub mod describe;
mod ffi;
mod fill;
pub mod grammar;
mod heat;
mod info;
mod jobs;
mod keyspace;
#[cfg(feature = "latch")]
mod latch;
mod latency;
mod maintain;
mod models;
mod pressure;
pub mod reply;
mod streams;
mod summing;
pub mod table;
mod totals;
mod traffic;

use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};

use redis_module::raw;

use crate::ffi::{Ctx, Level, api};
use crate::reply::Error;

#[cfg(feature = "allocator")]
#[global_allocator]
static ALLOCATOR: alloc::ServerAllocator = alloc::ServerAllocator;

/// The module's name; its settings are `engram.*`.
const NAME: &std::ffi::CStr = c"engram";
/// 0.1.0 as MODULE LIST shows it.
const VERSION: c_int = 100;

const OK: c_int = 0;
const ERR: c_int = 1;

/// Entry point of the server.
///
/// # Safety
/// Called by the server, once, with a valid context and `argc` valid arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn RedisModule_OnLoad(
    ctx: *mut raw::RedisModuleCtx,
    argv: *mut *mut raw::RedisModuleString,
    argc: c_int,
) -> c_int {
    // Nothing may allocate before this call: it binds the allocator too.
    // SAFETY: the server's context; the name is a constant.
    if unsafe { raw::Export_RedisModule_Init(ctx, NAME.as_ptr(), VERSION, raw::REDISMODULE_APIVER_1 as c_int) } != OK {
        return ERR;
    }
    // SAFETY: promised by the server.
    let (ctx, args) = unsafe { (Ctx::new(ctx), ffi::arguments(argv, argc)) };
    match catch_unwind(AssertUnwindSafe(|| load(ctx, &args))) {
        Ok(Ok(())) => OK,
        Ok(Err(error)) => {
            ctx.log(Level::Warning, &format!("engram: not loaded: {}", error.message));
            ERR
        }
        Err(_) => ERR,
    }
}

fn load(ctx: Ctx, args: &[&[u8]]) -> Result<(), Error> {
    // SAFETY: reading a function pointer that Init has bound or left null. It came with 7.0, like the one below.
    let describes = unsafe { raw::RedisModule_SetCommandInfo }.is_some();
    // SAFETY: as above.
    let configures = unsafe { raw::RedisModule_RegisterStringConfig }.is_some();
    if !describes || !configures {
        return Err(Error::err("this server is too old: Engram needs Redis 7.0 or Valkey 7.2 or later"));
    }
    // The commit path says itself what has changed: a write that changes nothing, or only notes use, breaks no WATCH.
    let options = raw::REDISMODULE_OPTIONS_HANDLE_IO_ERRORS | raw::REDISMODULE_OPTION_NO_IMPLICIT_SIGNAL_MODIFIED;
    api!(RedisModule_SetModuleOptions(ctx.ptr(), options as c_int) else ());
    datatype::register(ctx)?;
    // SAFETY: at load, on the main thread, with the server's context.
    unsafe {
        config::register(ctx.ptr(), args)?;
        describe::register(ctx.ptr(), commands::handler)?;
    }
    ffi::make_detached(ctx);
    keyspace::register(ctx);
    info::register(ctx);
    #[cfg(feature = "latch")]
    latch::register(ctx);
    models::start(ctx)?;
    maintain::start(ctx);
    Ok(())
}

/// The server asks whether the module may be unloaded: it may not, since keys hold its type and threads run its code.
///
/// # Safety
/// Called by the server.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn RedisModule_OnUnload(_ctx: *mut raw::RedisModuleCtx) -> c_int {
    ffi::log(
        Level::Warning,
        "engram: cannot be unloaded while the server runs: keys hold its type and its threads are at work; restart without it",
    );
    ERR
}
