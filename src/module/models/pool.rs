//! The threads that all models share.

use std::sync::{Arc, OnceLock};

use engram_inference::pool::{Advance, Pool, Priority, Task};

use crate::config;
use crate::ffi::{self, Level};
use crate::reply::Error;

static POOL: OnceLock<Arc<Pool>> = OnceLock::new();
/// The threads leave the processor to the server when both want it.
const NICE: i32 = 10;

/// Starts the threads. Called once, at load.
pub(super) fn start() -> Result<(), Error> {
    let pool = Pool::new(config::threads(), NICE).map_err(|e| Error::err(format!("no threads for models: {e}")))?;
    if POOL.set(Arc::new(pool)).is_err() {
        return Err(Error::err("the module is loaded already"));
    }
    config::on_threads_change(|threads| {
        if let Some(pool) = POOL.get() {
            // Fewer threads are waited for until their steps end, and a step may plan a whole consolidation: not on the main thread.
            std::thread::spawn(move || {
                if let Err(error) = pool.set_threads(threads) {
                    ffi::log(Level::Warning, &format!("engram: engram.threads: {error}"));
                }
            });
        }
    });
    Ok(())
}

/// The pool, once it was started.
pub(super) fn pool() -> Option<&'static Arc<Pool>> {
    POOL.get()
}

/// Hands work to the pool.
pub fn spawn(priority: Priority, task: impl Task + 'static) {
    if let Some(pool) = POOL.get() {
        pool.spawn(priority, Box::new(task));
    }
}

/// Tasks that wait for a thread, those that one is running, and how many threads there should be: the pool is not asked how many there are, because it
/// answers only when those that end have finished their steps.
pub fn pool_load() -> (usize, usize, usize) {
    POOL.get().map_or((0, 0, 0), |pool| {
        let (waiting, running) = pool.load();
        (waiting, running, config::threads())
    })
}

/// Work of one step, at high priority.
pub fn spawn_once(work: impl FnOnce() + Send + 'static) {
    spawn_once_at(Priority::High, work);
}

/// Work of one step.
pub(super) fn spawn_once_at(priority: Priority, work: impl FnOnce() + Send + 'static) {
    struct Once<F>(Option<F>);
    impl<F: FnOnce() + Send> Task for Once<F> {
        fn step(&mut self) -> Advance {
            if let Some(work) = self.0.take() {
                work();
            }
            Advance::Done
        }
        fn panicked(&mut self, message: &str) {
            ffi::log(Level::Warning, &format!("engram: a background job panicked ({message}); please report it"));
        }
    }
    spawn(priority, Once(Some(work)));
}
