//! The few calls of the server that the module needs, as safe functions over thin handles. Everything `unsafe` about the module API that is not a
//! registration lives here, in `datatype.rs` and in `jobs.rs`.
//!
//! Rules that make the wrappers sound, kept by the callers and named in the SAFETY comments:
//! 1. A [`Ctx`] is made only from a pointer the server handed to a callback, or from the detached context, and is used only on the main thread. It is
//!    neither `Send` nor `Sync`. No thread of ours takes the server's global lock (`commit.rs` says why).
//! 2. Function pointers of the API are written once, at load, before any other thread exists. Calls that Redis 7.0 has are assumed bound
//!    ([`api!`] ends in an error value where they are not); newer ones are asked for with `Option`.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, Ordering};

use redis_module::raw;

/// Calls a function of the module API, or answers `$default` on a server that lacks it.
macro_rules! api {
    ($name:ident ( $($arg:expr),* $(,)? ) else $default:expr) => {{
        // SAFETY: rule 2 of this file: the pointer is written once, before other threads exist.
        match unsafe { redis_module::raw::$name } {
            // SAFETY: the argument pointers obey rule 1 or are owned by the caller for the length of the call.
            Some(function) => unsafe { function($($arg),*) },
            None => $default,
        }
    }};
}
pub(crate) use api;

/// A context of the server: the handle of one callback, or the module's own, on the main thread.
#[derive(Clone, Copy)]
pub struct Ctx {
    ptr: *mut raw::RedisModuleCtx,
    /// Not Send, not Sync: rule 1.
    _local: PhantomData<*mut ()>,
}

/// Context flags (`REDISMODULE_CTX_FLAGS_*`) the module asks for.
pub mod flags {
    /// Inside a Lua script or function.
    pub const LUA: i32 = 1;
    /// Inside MULTI/EXEC.
    pub const MULTI: i32 = 1 << 1;
    /// This server is a primary.
    pub const MASTER: i32 = 1 << 2;
    /// Cluster mode.
    pub const CLUSTER: i32 = 1 << 5;
    /// `maxmemory` is set and its policy evicts.
    pub const EVICT: i32 = 1 << 9;
    /// Above `maxmemory`.
    pub const OOM: i32 = 1 << 10;
    /// The command came over the link from the primary.
    pub const REPLICATED: i32 = 1 << 12;
    /// An RDB or AOF is being loaded.
    pub const LOADING: i32 = 1 << 13;
    /// A fork child saves or rewrites.
    pub const ACTIVE_CHILD: i32 = 1 << 18;
    /// The client may not be blocked.
    pub const DENY_BLOCKING: i32 = 1 << 21;
    /// The client speaks RESP3.
    pub const RESP3: i32 = 1 << 22;
}

/// Log levels of the server.
#[derive(Clone, Copy)]
pub enum Level {
    /// Chatty.
    Verbose,
    /// What an operator should see.
    Notice,
    /// What an operator should act on.
    Warning,
}

impl Ctx {
    /// Wraps the pointer that the server gave to a callback.
    ///
    /// # Safety
    /// `ptr` is valid until the wrapped value is last used, on the main thread.
    pub unsafe fn new(ptr: *mut raw::RedisModuleCtx) -> Ctx {
        Ctx { ptr, _local: PhantomData }
    }

    /// The raw pointer, for registrations.
    pub fn ptr(self) -> *mut raw::RedisModuleCtx {
        self.ptr
    }

    /// The context flags.
    pub fn flags(self) -> i32 {
        api!(RedisModule_GetContextFlags(self.ptr) else 0)
    }

    /// Whether every flag of `wanted` is set.
    pub fn has(self, wanted: i32) -> bool {
        self.flags() & wanted == wanted
    }

    /// Whether the client may not be blocked: in a transaction, a script, a function, or a module's own call.
    pub fn must_not_block(self) -> bool {
        self.flags() & (flags::MULTI | flags::LUA | flags::DENY_BLOCKING) != 0
    }

    /// The selected database.
    pub fn db(self) -> i32 {
        api!(RedisModule_GetSelectedDb(self.ptr) else 0)
    }

    /// Selects a database; false where it does not exist.
    pub fn select(self, db: i32) -> bool {
        api!(RedisModule_SelectDb(self.ptr, db) else 1) == 0
    }

    /// Writes a line to the server's log.
    pub fn log(self, level: Level, line: &str) {
        log_to(self.ptr, level, line);
    }

    /// The name of the client's user, `default` where there is none.
    pub fn user(self) -> String {
        // Another module's own call has a client without a user, and 7.0 reads its name without looking. Such a call may not block, and is in no
        // transaction and no script.
        let flags = self.flags();
        if flags & flags::DENY_BLOCKING != 0 && flags & (flags::MULTI | flags::LUA) == 0 {
            return "default".to_owned();
        }
        let name = api!(RedisModule_GetCurrentUserName(self.ptr) else std::ptr::null_mut());
        match Str::owned(name) {
            Some(name) => String::from_utf8_lossy(name.bytes()).into_owned(),
            None => "default".to_owned(),
        }
    }

    /// Replicates `name` with binary arguments to the AOF and the replicas.
    pub fn replicate_apply(self, key: &Str, blob: &[u8]) {
        api!(RedisModule_Replicate(
            self.ptr, c"mem.apply".as_ptr(), c"sb".as_ptr(), key.ptr(), blob.as_ptr().cast::<c_char>(), blob.len()
        ) else 1);
    }

    /// Sends a keyspace event of the module class.
    pub fn notify(self, event: &CStr, key: &Str) {
        api!(RedisModule_NotifyKeyspaceEvent(self.ptr, raw::REDISMODULE_NOTIFY_MODULE as c_int, event.as_ptr(), key.ptr()) else 1);
    }

    /// Sends a message to the subscribers of a channel: those of this server and, in a cluster, of all its nodes. It is not propagated to replicas.
    pub fn publish(self, channel: &str, message: &str) {
        let (channel, message) = (Str::new(channel.as_bytes()), Str::new(message.as_bytes()));
        api!(RedisModule_PublishMessage(self.ptr, channel.ptr(), message.ptr()) else 0);
    }

    /// Tells transactions that watch the key, and clients that cache it, that it has changed. Opening a key for writing does not (see `lib.rs`).
    pub fn signal_modified(self, key: &Str) {
        api!(RedisModule_SignalModifiedKey(self.ptr, key.ptr()) else 0);
    }

    /// Runs a command of the server. `fmt` holds the modifiers and one `v`; arguments are passed as one vector.
    /// None where the server refuses before running it: a key of a slot that is elsewhere, a wrong number of arguments.
    pub fn call(self, command: &CStr, fmt: &CStr, args: &[&Str]) -> Option<CallReply> {
        let pointers: Vec<*mut raw::RedisModuleString> = args.iter().map(|s| s.ptr()).collect();
        let reply = api!(RedisModule_Call(self.ptr, command.as_ptr(), fmt.as_ptr(), pointers.as_ptr(), pointers.len()) else std::ptr::null_mut());
        NonNull::new(reply).map(CallReply)
    }

    /// Attaches the ACL user `name` to this context for calls with the modifier `C`; undone when the guard is dropped.
    /// None when the user no longer exists.
    pub fn as_user(self, name: &str) -> Option<UserGuard> {
        let name = Str::new(name.as_bytes());
        let user = api!(RedisModule_GetModuleUserFromUserName(name.ptr()) else std::ptr::null_mut());
        if user.is_null() {
            return None;
        }
        api!(RedisModule_SetContextUser(self.ptr, user) else ());
        Some(UserGuard { ctx: self, user })
    }
}

/// See [`Ctx::as_user`].
pub struct UserGuard {
    ctx: Ctx,
    user: *mut raw::RedisModuleUser,
}

impl Drop for UserGuard {
    fn drop(&mut self) {
        api!(RedisModule_SetContextUser(self.ctx.ptr, std::ptr::null()) else ());
        api!(RedisModule_FreeModuleUser(self.user) else ());
    }
}

/// Logs from any thread: the server's log function takes a null context.
pub fn log(level: Level, line: &str) {
    log_to(std::ptr::null_mut(), level, line);
}

fn log_to(ctx: *mut raw::RedisModuleCtx, level: Level, line: &str) {
    let level = match level {
        Level::Verbose => c"verbose",
        Level::Notice => c"notice",
        Level::Warning => c"warning",
    };
    let line = CString::new(line.replace('\0', "?")).unwrap_or_default();
    api!(RedisModule_Log(ctx, level.as_ptr(), c"%s".as_ptr(), line.as_ptr()) else ());
}

/// A reply of [`Ctx::call`].
pub struct CallReply(NonNull<raw::RedisModuleCallReply>);

impl CallReply {
    /// The text of an error reply.
    pub fn error(&self) -> Option<String> {
        if self.kind() != raw::REDISMODULE_REPLY_ERROR as c_int {
            return None;
        }
        let mut len = 0usize;
        let text = api!(RedisModule_CallReplyStringPtr(self.0.as_ptr(), &mut len) else std::ptr::null());
        // SAFETY: the reply owns `len` bytes at `text` as long as it lives; null is handled in bytes_at.
        Some(String::from_utf8_lossy(unsafe { bytes_at(text, len) }).into_owned())
    }

    /// Whether the reply is a null.
    pub fn is_null(&self) -> bool {
        self.kind() == raw::REDISMODULE_REPLY_NULL as c_int
    }

    fn kind(&self) -> c_int {
        api!(RedisModule_CallReplyType(self.0.as_ptr()) else -1)
    }
}

impl Drop for CallReply {
    fn drop(&mut self) {
        api!(RedisModule_FreeCallReply(self.0.as_ptr()) else ());
    }
}

/// # Safety
/// `len` bytes are readable at `ptr` for `'a`, or `ptr` is null.
unsafe fn bytes_at<'a>(ptr: *const c_char, len: usize) -> &'a [u8] {
    if ptr.is_null() {
        return &[];
    }
    // SAFETY: promised by the caller.
    unsafe { std::slice::from_raw_parts(ptr.cast(), len) }
}

/// A string of the server that this value owns one reference of. Made without a context, so it may outlive the command.
pub struct Str(NonNull<raw::RedisModuleString>);

impl Str {
    /// A new string of these bytes.
    #[expect(
        clippy::expect_used,
        reason = "the server's allocator aborts rather than fail, and the call exists in every server that loads us"
    )]
    pub fn new(bytes: &[u8]) -> Str {
        let made = api!(RedisModule_CreateString(std::ptr::null_mut(), bytes.as_ptr().cast(), bytes.len()) else std::ptr::null_mut());
        Str(NonNull::new(made).expect("RM_CreateString never returns null"))
    }

    /// Takes over one reference.
    fn owned(ptr: *mut raw::RedisModuleString) -> Option<Str> {
        NonNull::new(ptr).map(Str)
    }

    /// The raw pointer.
    pub fn ptr(&self) -> *mut raw::RedisModuleString {
        self.0.as_ptr()
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the string lives as long as self and module strings are not changed in place.
        unsafe { string_bytes(self.0.as_ptr()) }
    }
}

impl Drop for Str {
    fn drop(&mut self) {
        api!(RedisModule_FreeString(std::ptr::null_mut(), self.0.as_ptr()) else ());
    }
}

/// The bytes of a server string.
///
/// # Safety
/// `ptr` is a valid string that outlives `'a`.
pub unsafe fn string_bytes<'a>(ptr: *const raw::RedisModuleString) -> &'a [u8] {
    let mut len = 0usize;
    let bytes = api!(RedisModule_StringPtrLen(ptr, &mut len) else std::ptr::null());
    // SAFETY: the server says that `len` bytes stand there; the caller vouches for the lifetime.
    unsafe { bytes_at(bytes, len) }
}

/// The arguments of a command as byte slices.
///
/// # Safety
/// `argv` holds `argc` valid strings for `'a`.
pub unsafe fn arguments<'a>(argv: *mut *mut raw::RedisModuleString, argc: c_int) -> Vec<&'a [u8]> {
    (0..usize::try_from(argc).unwrap_or(0))
        // SAFETY: i < argc, and the caller vouches for the array.
        .map(|i| unsafe { string_bytes(*argv.add(i)) })
        .collect()
}

/// An open key.
pub struct Key(*mut raw::RedisModuleKey);

/// How a key is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// For reading.
    Read,
    /// For reading, without touching the key's LRU clock.
    Peek,
    /// For writing: expired keys are removed, watchers are told when it is closed.
    Write,
}

impl Key {
    /// Opens `name` in the selected database. A missing key opened for reading is a key of type empty too.
    pub fn open(ctx: Ctx, name: &Str, mode: Mode) -> Key {
        let mode = match mode {
            Mode::Read => raw::REDISMODULE_READ as c_int,
            Mode::Peek => (raw::REDISMODULE_READ | raw::REDISMODULE_OPEN_KEY_NOTOUCH) as c_int,
            Mode::Write => (raw::REDISMODULE_READ | raw::REDISMODULE_WRITE) as c_int,
        };
        Key(api!(RedisModule_OpenKey(ctx.ptr(), name.ptr(), mode) else std::ptr::null_mut()))
    }

    /// Whether there is no such key.
    pub fn is_empty(&self) -> bool {
        self.0.is_null() || api!(RedisModule_KeyType(self.0) else 0) == raw::REDISMODULE_KEYTYPE_EMPTY as c_int
    }

    /// The module value, if the key holds one of `kind`.
    pub fn value(&self, kind: *mut raw::RedisModuleType) -> Option<NonNull<c_void>> {
        if self.0.is_null() || kind.is_null() {
            return None;
        }
        let found = api!(RedisModule_ModuleTypeGetType(self.0) else std::ptr::null_mut());
        if found != kind {
            return None;
        }
        NonNull::new(api!(RedisModule_ModuleTypeGetValue(self.0) else std::ptr::null_mut()))
    }

    /// Sets the module value of a key opened for writing.
    pub fn set(&self, kind: *mut raw::RedisModuleType, value: *mut c_void) -> bool {
        api!(RedisModule_ModuleTypeSetValue(self.0, kind, value) else 1) == 0
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        if !self.0.is_null() {
            api!(RedisModule_CloseKey(self.0) else ());
        }
    }
}

/// The detached context of the module, for timers that are started outside any command.
static DETACHED: AtomicPtr<raw::RedisModuleCtx> = AtomicPtr::new(std::ptr::null_mut());

/// Makes the detached context. Called once, at load.
pub fn make_detached(ctx: Ctx) {
    DETACHED
        .store(api!(RedisModule_GetDetachedThreadSafeContext(ctx.ptr()) else std::ptr::null_mut()), Ordering::Release);
}

/// The module's own context, on the main thread. Its client has a user, that of a timer's context has none: a call as an ACL user that the server denies
/// is logged under the name of the context's own user, and 7.0 reads that name without looking whether there is one.
pub fn own(_on_main_thread: Ctx) -> Option<Ctx> {
    let ptr = DETACHED.load(Ordering::Acquire);
    // SAFETY: the detached context is never freed; whoever has another context is on the main thread.
    (!ptr.is_null()).then(|| unsafe { Ctx::new(ptr) })
}

/// Whether nothing may be propagated now: CLIENT PAUSE, FAILOVER or CLUSTER FAILOVER is under way.
pub fn is_paused() -> bool {
    api!(RedisModule_AvoidReplicaTraffic() else 0) != 0
}

/// used_memory / maxmemory, 0 without a limit.
pub fn memory_ratio() -> f64 {
    f64::from(api!(RedisModule_GetUsedMemoryRatio() else 0.0))
}

/// Unix milliseconds.
pub fn now() -> u64 {
    u64::try_from(api!(RedisModule_Milliseconds() else 0)).unwrap_or(0)
}

/// The id of the client that issued the command.
pub fn client_id(ctx: Ctx) -> u64 {
    api!(RedisModule_GetClientId(ctx.ptr()) else 0)
}

/// Runs `once` when the event loop turns next, outside any command. False where the server cannot. It may not replicate: see the head of `commit.rs`.
pub fn one_shot(once: fn()) -> bool {
    unsafe extern "C" fn run(data: *mut c_void) {
        // SAFETY: the data is the function pointer given below.
        let once = unsafe { std::mem::transmute::<*mut c_void, fn()>(data) };
        let _ = std::panic::catch_unwind(once);
    }
    api!(RedisModule_EventLoopAddOneShot(Some(run), once as *mut c_void) else 1) == 0
}

/// Runs `once` in a timer that is due now, so that what it replicates is flushed. On the main thread only. False where the server cannot.
pub fn at_once(once: fn(Ctx)) -> bool {
    unsafe extern "C" fn run(ctx: *mut raw::RedisModuleCtx, data: *mut c_void) {
        // SAFETY: the data is the function pointer given below; the server made the context for this callback, on the main thread.
        let (once, ctx) = unsafe { (std::mem::transmute::<*mut c_void, fn(Ctx)>(data), Ctx::new(ctx)) };
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| once(ctx))).is_err() {
            ctx.log(Level::Warning, "engram: a panic in a timer; please report it");
        }
    }
    let ptr = DETACHED.load(Ordering::Acquire);
    !ptr.is_null() && api!(RedisModule_CreateTimer(ptr, 0, Some(run), once as *mut c_void) else 0) != 0
}

/// Fills `bytes` from the server's random source.
pub fn random(bytes: &mut [u8]) {
    api!(RedisModule_GetRandomBytes(bytes.as_mut_ptr(), bytes.len()) else ());
}
