//! A latch for the tests of the commit path, built only with the feature `latch`: `ENGRAM.LATCH CLOSE` holds every background job at the point where its
//! work is done and its result not yet committed; `OPEN` lets all go; `WAITING` counts those held. So a test can do to the key whatever it likes in between.

use std::ffi::c_int;
use std::sync::{Condvar, Mutex, PoisonError};

use redis_module::raw;

use crate::ffi::{self, Ctx, api};
use crate::reply::{Error, Value};

struct State {
    closed: bool,
    waiting: u64,
}

static STATE: Mutex<State> = Mutex::new(State { closed: false, waiting: 0 });
static OPENED: Condvar = Condvar::new();

/// Waits while the latch is closed. Called on background threads only.
pub fn pass() {
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    state.waiting += 1;
    while state.closed {
        state = OPENED.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
    state.waiting -= 1;
}

/// Registers `ENGRAM.LATCH`.
pub fn register(ctx: Ctx) {
    api!(RedisModule_CreateCommand(ctx.ptr(), c"engram.latch".as_ptr(), Some(run), c"readonly allow-stale".as_ptr(), 0, 0, 0) else 1);
}

unsafe extern "C" fn run(ctx: *mut raw::RedisModuleCtx, argv: *mut *mut raw::RedisModuleString, argc: c_int) -> c_int {
    // SAFETY: the server's own arguments, for the length of this call.
    let args = unsafe { ffi::arguments(argv, argc) };
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    match args.get(1).map(|a| a.to_ascii_uppercase()).as_deref() {
        Some(b"CLOSE") => state.closed = true,
        Some(b"OPEN") => {
            state.closed = false;
            OPENED.notify_all();
        }
        Some(b"WAITING") => {
            Value::from(state.waiting).emit(ctx);
            return 0;
        }
        _ => {
            Error::err("usage: ENGRAM.LATCH CLOSE|OPEN|WAITING").emit(ctx);
            return 0;
        }
    }
    Value::Ok.emit(ctx);
    0
}
