//! Background work and the clients that wait for it.
//!
//! A command that needs a model blocks its client ([`Waiter`]) and hands a task to the pool of the inference crate. The server's rules for blocked clients,
//! each learnt the hard way by somebody, are kept here and nowhere else:
//! * unblock exactly once, even when the work panics: a dropped [`Waiter`] answers with an error;
//! * a reply is written by the thread that made it, into the server's buffer for this blocked client, which is glued to the client's when it is unblocked: a
//!   reply of a hundred thousand memories takes the main thread no time. Its context is taken when the client is blocked, because taking it looks at the
//!   client, which may leave at any time after that; for the same reason the protocol is remembered then. Errors are few and counted: the main thread writes them;
//! * the reply callback runs once, on the main thread, and never for a client that has left;
//! * a client that leaves, or is unblocked by an operator, is noticed by callbacks on the main thread that get nothing but the handle, so live handles are
//!   kept in a table. A handle is taken out of it before it is unblocked, because the server frees it right after;
//! * the time a worker spends counts for SLOWLOG and LATENCY through the measure calls.
//!
//! Long work (generation, consolidation, loading) is also a [`Job`] with a name: it can be listed, cancelled, waited for again and fetched later. A job
//! belongs to the ACL user that started it; others do not see it. Rejected: keeping results in keys, which would replicate them and need permissions.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use redis_module::raw;

use crate::config;
use crate::ffi::{self, Ctx, Level, api, flags};
use crate::reply::{Error, Value};

/// Finished jobs of one user kept for RESULT, at most.
const FINISHED_KEPT: usize = 1_000;

type OnGone = Box<dyn Fn() + Send + Sync>;

/// Locks a mutex whose data stay valid whatever a panicking holder did: every critical section here is a few plain assignments.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Live handles by address, with what to do when their client leaves.
static HANDLES: LazyLock<Mutex<HashMap<usize, Arc<OnGone>>>> = LazyLock::new(Mutex::default);

/// A blocked client that is owed one reply.
pub struct Waiter {
    blocked: Option<Blocked>,
    since: Instant,
}

/// When the command came that runs now: if its client waits already, when it was blocked.
pub fn began(waiting: &Option<Waiter>) -> Instant {
    waiting.as_ref().map_or_else(Instant::now, |waiter| waiter.since)
}

/// The server's side of a blocked client.
struct Blocked {
    handle: NonNull<raw::RedisModuleBlockedClient>,
    /// For writing the reply on any thread.
    writer: Option<NonNull<raw::RedisModuleCtx>>,
    resp3: bool,
}

// SAFETY: of a handle's operations, other threads may call unblock and the time measures; a thread-safe context that was taken of it may be written to and
// freed by the one thread that holds it until the handle is unblocked. Those are all that Waiter calls.
unsafe impl Send for Blocked {}

/// What the reply callback gets.
struct Answer {
    /// What is not written yet.
    error: Option<Error>,
    /// Runs on the main thread.
    then: Option<Box<dyn FnOnce(Ctx) + Send>>,
}

impl Waiter {
    /// Blocks the client of `ctx`. `on_gone` runs on the main thread if it leaves or is unblocked before it was answered.
    /// With `timeout_ms` above 0 it gets a null then. Never call it where [`Ctx::must_not_block`].
    pub fn block(ctx: Ctx, timeout_ms: u64, on_gone: impl Fn() + Send + Sync + 'static) -> Waiter {
        let timeout = i64::try_from(timeout_ms).unwrap_or(i64::MAX);
        let callback = if timeout_ms > 0 { on_deadline } else { on_unblocked_by_operator };
        let handle = api!(RedisModule_BlockClient(ctx.ptr(), Some(on_reply), Some(callback), Some(free_answer), timeout) else std::ptr::null_mut());
        let since = Instant::now();
        let Some(handle) = NonNull::new(handle) else { return Waiter { blocked: None, since } };
        lock(&HANDLES).insert(handle.addr().get(), Arc::new(Box::new(on_gone)));
        api!(RedisModule_SetDisconnectCallback(handle.as_ptr(), Some(on_disconnect)) else ());
        let writer = api!(RedisModule_GetThreadSafeContext(handle.as_ptr()) else std::ptr::null_mut());
        let blocked = Blocked { handle, writer: NonNull::new(writer), resp3: ctx.has(flags::RESP3) };
        Waiter { blocked: Some(blocked), since }
    }

    /// Work for this client begins on this thread.
    pub fn work_begins(&self) {
        if let Some(blocked) = &self.blocked {
            api!(RedisModule_BlockedClientMeasureTimeStart(blocked.handle.as_ptr()) else 0);
        }
    }

    /// Work for this client ends.
    pub fn work_ends(&self) {
        if let Some(blocked) = &self.blocked {
            api!(RedisModule_BlockedClientMeasureTimeEnd(blocked.handle.as_ptr()) else 0);
        }
    }

    /// Answers and unblocks.
    pub fn answer(mut self, result: Result<Value, Error>) {
        self.send(result, None);
    }

    /// Answers and unblocks; `then` runs on the main thread, and not at all if the client has left.
    pub fn answer_then(mut self, result: Result<Value, Error>, then: impl FnOnce(Ctx) + Send + 'static) {
        self.send(result, Some(Box::new(then)));
    }

    fn send(&mut self, result: Result<Value, Error>, then: Option<Box<dyn FnOnce(Ctx) + Send>>) {
        let Some(Blocked { handle, writer, resp3 }) = self.blocked.take() else { return };
        let error = match (result, writer) {
            (Ok(value), Some(writer)) => {
                value.emit_to(writer.as_ptr(), resp3);
                None
            }
            (Ok(_), None) => Some(Error::err("the server has no context to write the reply to")),
            (Err(error), _) => Some(error),
        };
        if let Some(writer) = writer {
            api!(RedisModule_FreeThreadSafeContext(writer.as_ptr()) else ());
        }
        lock(&HANDLES).remove(&handle.addr().get());
        let answer = Box::into_raw(Box::new(Answer { error, then }));
        // The server takes the answer over and gives it to free_answer, whether the client is still there or not.
        api!(RedisModule_UnblockClient(handle.as_ptr(), answer.cast()) else 1);
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let lost = "the work was lost to an internal error, nothing was written; the server's log has more";
        self.send(Err(Error::err(lost)), None);
    }
}

unsafe extern "C" fn on_reply(
    ctx: *mut raw::RedisModuleCtx,
    _argv: *mut *mut raw::RedisModuleString,
    _argc: c_int,
) -> c_int {
    let answer = api!(RedisModule_GetBlockedClientPrivateData(ctx) else std::ptr::null_mut());
    // SAFETY: the private data is the Answer given at unblocking, freed only after this callback.
    if let Some(answer) = unsafe { answer.cast::<Answer>().as_mut() } {
        if let Some(error) = &answer.error {
            error.emit(ctx);
        }
        if let Some(then) = answer.then.take() {
            // SAFETY: the server's context for this callback, on the main thread.
            let ctx = unsafe { Ctx::new(ctx) };
            if catch_unwind(AssertUnwindSafe(|| then(ctx))).is_err() {
                ctx.log(Level::Warning, "engram: a panic after a reply; please report it");
            }
        }
    }
    0
}

unsafe extern "C" fn free_answer(_ctx: *mut raw::RedisModuleCtx, answer: *mut c_void) {
    if !answer.is_null() {
        // SAFETY: the server gives the Answer back exactly once.
        drop(unsafe { Box::from_raw(answer.cast::<Answer>()) });
    }
}

unsafe extern "C" fn on_unblocked_by_operator(
    ctx: *mut raw::RedisModuleCtx,
    _argv: *mut *mut raw::RedisModuleString,
    _argc: c_int,
) -> c_int {
    gone(api!(RedisModule_GetBlockedClientHandle(ctx) else std::ptr::null_mut()));
    Error::new("UNBLOCKED", "the client was unblocked by CLIENT UNBLOCK; a write that had been accepted still happens")
        .emit(ctx);
    0
}

unsafe extern "C" fn on_deadline(
    ctx: *mut raw::RedisModuleCtx,
    _argv: *mut *mut raw::RedisModuleString,
    _argc: c_int,
) -> c_int {
    gone(api!(RedisModule_GetBlockedClientHandle(ctx) else std::ptr::null_mut()));
    Value::Null.emit(ctx);
    0
}

unsafe extern "C" fn on_disconnect(_ctx: *mut raw::RedisModuleCtx, handle: *mut raw::RedisModuleBlockedClient) {
    gone(handle);
}

fn gone(handle: *mut raw::RedisModuleBlockedClient) {
    let on_gone = lock(&HANDLES).remove(&handle.addr());
    if let Some(on_gone) = on_gone {
        on_gone();
    }
}

/// How many clients wait for background work.
pub fn blocked_clients() -> usize {
    lock(&HANDLES).len()
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------------
// The bounded queue

static QUEUED: AtomicU64 = AtomicU64::new(0);

/// A place in the bounded queue, given back when dropped.
#[derive(Debug)]
pub struct Place(());

impl Place {
    /// Takes a place, or says that the queue is full.
    pub fn take() -> Result<Place, Error> {
        let limit = u64::try_from(config::queue_limit()).unwrap_or(u64::MAX);
        let taken = QUEUED.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < limit).then_some(n + 1));
        match taken {
            Ok(_) => Ok(Place(())),
            Err(n) => Err(Error::new(
                "QUEUEFULL",
                format!("{n} background jobs are waiting or running, engram.queue-limit is {limit}: try again later"),
            )),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        QUEUED.fetch_sub(1, Ordering::AcqRel);
    }
}

/// How many jobs are waiting or running.
pub fn queued() -> u64 {
    QUEUED.load(Ordering::Acquire)
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------------
// Named jobs

/// Long work with a name.
pub struct Job {
    /// Its name, unique among those of its user.
    pub id: String,
    /// The command that started it.
    pub kind: &'static str,
    user: String,
    request: u128,
    created: u64,
    cancelled: AtomicBool,
    state: Mutex<State>,
    place: Mutex<Option<Place>>,
}

struct State {
    running: bool,
    /// Goes on without anybody waiting.
    detached: bool,
    waiters: Vec<(u64, Waiter)>,
    next_waiter: u64,
    outcome: Option<Result<Value, Error>>,
    finished: u64,
    progress: Vec<(&'static str, Value)>,
}

/// Jobs by user and name.
type Jobs = HashMap<(String, String), Arc<Job>>;

static JOBS: LazyLock<Mutex<Jobs>> = LazyLock::new(Mutex::default);

/// What asking for a job under a name came to.
pub enum Started {
    /// A new job: the caller hands its work to the pool.
    New(Arc<Job>),
    /// The same request runs or has run under this name: attach to it.
    Existing(Arc<Job>),
}

/// Starts a job for the user of `ctx`, or finds the one that runs under this name. `request` is a fingerprint of what is asked for: the same name with
/// another request is an error.
pub fn start(
    ctx: Ctx,
    kind: &'static str,
    name: Option<&str>,
    request: u128,
    detached: bool,
) -> Result<Started, Error> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let user = ctx.user();
    let now = ffi::now();
    // The same words mean other keys in another database.
    let request = request.wrapping_add(u128::try_from(ctx.db()).unwrap_or(0));
    let mut jobs = lock(&JOBS);
    sweep(&mut jobs, now);
    let id = match name {
        Some(name) => name.to_owned(),
        None => format!("job-{}-{}", now, NEXT.fetch_add(1, Ordering::Relaxed)),
    };
    if let Some(job) = jobs.get(&(user.clone(), id.clone())) {
        if job.kind != kind || job.request != request {
            return Err(Error::err(format!(
                "a job named '{id}' exists with another request: choose another name, or wait until its result has gone"
            )));
        }
        return Ok(Started::Existing(job.clone()));
    }
    let limit = config::user_queue_limit();
    let unfinished = |job: &&Arc<Job>| job.user == user && lock(&job.state).outcome.is_none();
    if limit > 0 && jobs.values().filter(unfinished).count() >= limit {
        return Err(Error::new(
            "QUEUEFULL",
            format!(
                "this user has {limit} jobs waiting or running, engram.user-queue-limit is {limit}: try again later"
            ),
        ));
    }
    let place = Place::take()?;
    let job = Arc::new(Job {
        id: id.clone(),
        kind,
        user: user.clone(),
        request,
        created: now,
        cancelled: AtomicBool::new(false),
        state: Mutex::new(State {
            running: false,
            detached,
            waiters: Vec::new(),
            next_waiter: 0,
            outcome: None,
            finished: 0,
            progress: Vec::new(),
        }),
        place: Mutex::new(Some(place)),
    });
    jobs.insert((user, id), job.clone());
    Ok(Started::New(job))
}

/// Drops results that are older than `engram.job-ttl`, and the oldest beyond [`FINISHED_KEPT`].
fn sweep(jobs: &mut Jobs, now: u64) {
    let ttl = config::job_ttl_ms();
    jobs.retain(|_, job| {
        let state = lock(&job.state);
        state.outcome.is_none() || now.saturating_sub(state.finished) <= ttl
    });
    // Counted per user, so that nobody's jobs push out another's results.
    let mut finished: HashMap<String, Vec<(u64, String)>> = HashMap::new();
    for ((user, id), job) in jobs.iter() {
        let state = lock(&job.state);
        if state.outcome.is_some() {
            finished.entry(user.clone()).or_default().push((state.finished, id.clone()));
        }
    }
    for (user, mut finished) in finished {
        finished.sort_unstable();
        let surplus = finished.len().saturating_sub(FINISHED_KEPT);
        for (_, id) in finished.into_iter().take(surplus) {
            jobs.remove(&(user.clone(), id));
        }
    }
}

/// Finds a job of the user of `ctx`.
pub fn find(ctx: Ctx, id: &str) -> Result<Arc<Job>, Error> {
    let mut jobs = lock(&JOBS);
    sweep(&mut jobs, ffi::now());
    jobs.get(&(ctx.user(), id.to_owned()))
        .cloned()
        .ok_or_else(|| Error::err(format!("no such job: '{id}' (GEMMA.JOBS lists them)")))
}

/// Every job of the user of `ctx`, oldest first.
pub fn list(ctx: Ctx) -> Value {
    let user = ctx.user();
    let now = ffi::now();
    let mut jobs = lock(&JOBS);
    sweep(&mut jobs, now);
    let mut mine: Vec<&Arc<Job>> = jobs.values().filter(|job| job.user == user).collect();
    mine.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
    Value::Array(mine.into_iter().map(|job| job.describe(now)).collect())
}

impl Job {
    fn describe(&self, now: u64) -> Value {
        let state = lock(&self.state);
        let phase = match &state.outcome {
            Some(Ok(_)) => "done",
            Some(Err(_)) => "failed",
            None if self.is_cancelled() => "cancelling",
            None if state.running => "running",
            None => "waiting",
        };
        let end = if state.outcome.is_some() { state.finished } else { now };
        let mut fields: Vec<(&'static str, Value)> = vec![
            ("id", Value::from(self.id.as_str())),
            ("command", Value::from(self.kind)),
            ("state", Value::from(phase)),
            ("waiting_clients", Value::from(state.waiters.len())),
            ("age_ms", Value::from(end.saturating_sub(self.created))),
        ];
        fields.extend(state.progress.iter().cloned());
        if let Some(Err(error)) = &state.outcome {
            fields.push(("error", Value::from(error.line())));
        }
        Value::map(fields)
    }

    /// Whose it is.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Blocks the client of `ctx` until the job ends; a job that has ended answers at once with its outcome.
    pub fn wait(self: &Arc<Job>, ctx: Ctx, timeout_ms: u64) -> Option<Result<Value, Error>> {
        let mut state = lock(&self.state);
        if let Some(outcome) = &state.outcome {
            return Some(outcome.clone());
        }
        let number = state.next_waiter;
        state.next_waiter += 1;
        let job: Weak<Job> = Arc::downgrade(self);
        let waiter = Waiter::block(ctx, timeout_ms, move || {
            if let Some(job) = job.upgrade() {
                job.left(number);
            }
        });
        state.waiters.push((number, waiter));
        None
    }

    /// A client has left; the last one takes the job with it, unless it was started to go on alone.
    fn left(&self, number: u64) {
        let mut state = lock(&self.state);
        let mut gone = Vec::new();
        state.waiters.retain_mut(|(n, waiter)| {
            let leaves = *n == number;
            if leaves {
                gone.push(std::mem::replace(waiter, Waiter { blocked: None, since: waiter.since }));
            }
            !leaves
        });
        if state.waiters.is_empty() && !state.detached {
            self.cancel();
        }
        drop(state);
        // The handle must still be unblocked once: dropping the waiter does.
        drop(gone);
    }

    /// Asks the work to stop at its next step.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    /// Whether the work should stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Whether the work has ended.
    pub fn is_finished(&self) -> bool {
        lock(&self.state).outcome.is_some()
    }

    /// From now on it goes on without anybody waiting.
    pub fn detach(&self) {
        lock(&self.state).detached = true;
    }

    /// The work is being done; `progress` is shown by GEMMA.JOBS.
    pub fn report(&self, progress: Vec<(&'static str, Value)>) {
        let mut state = lock(&self.state);
        state.running = true;
        state.progress = progress;
    }

    /// Ends the job and answers everybody who waits. Later calls change nothing.
    pub fn finish(&self, outcome: Result<Value, Error>) {
        let waiters = {
            let mut state = lock(&self.state);
            if state.outcome.is_some() {
                return;
            }
            state.outcome = Some(outcome.clone());
            state.finished = ffi::now();
            std::mem::take(&mut state.waiters)
        };
        lock(&self.place).take();
        if let Err(error) = &outcome {
            ffi::log(Level::Verbose, &format!("engram: {} '{}' failed: {}", self.kind, self.id, error.line()));
        }
        for (_, waiter) in waiters {
            waiter.answer(outcome.clone());
        }
    }
}
