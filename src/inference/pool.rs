//! Threads that run tasks in steps.
//!
//! A task is anything with a next step. Two queues, high before normal; a worker takes the front task, runs one step without
//! holding any lock, and puts the task at the end of its queue. So any number of generations advance evenly, and a short
//! task of high priority (an embedding) waits for one step at most. Rejected: a thread per job (unbounded), work stealing
//! and a futures runtime (no step here is short enough to matter to them).
//!
//! A thread that has no task helps the one that runs a step of a model ([`crate::team`]), until a task comes. And the thread that
//! runs such a step, which takes a while, runs steps of high priority in between ([`Pool::run_urgent`]): with one thread, a
//! short task waits for a layer and not for a batch.
//!
//! The threads block all signals, which belong to the server's own thread, and have a lower priority than the server. A
//! step that panics ends its task alone.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::Error;
use crate::team::{Lead, Team};

/// Which queue a task waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Taken before all normal tasks.
    High,
    /// Taken when no high task waits.
    Normal,
}

/// What a step left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// Queue the task again.
    Again,
    /// Drop the task.
    Done,
}

/// Work in steps.
pub trait Task: Send {
    /// Runs the next step.
    fn step(&mut self) -> Advance;

    /// A step panicked with this message; the task is dropped after this call.
    fn panicked(&mut self, message: &str);
}

/// The pool; dropping it ends the threads after their current steps and drops the tasks that wait.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Mutex<Vec<Worker>>,
    nice: i32,
}

struct Shared {
    queues: Mutex<Queues>,
    ready: Condvar,
    team: Team,
    /// Tasks in the queues: what a helper looks at without the lock.
    calls: AtomicUsize,
    /// Workers with this number or a higher one end.
    wanted: AtomicUsize,
    /// High tasks in the queues.
    urgent: AtomicUsize,
}

struct Queues {
    high: VecDeque<Box<dyn Task>>,
    normal: VecDeque<Box<dyn Task>>,
    /// Tasks that a worker holds now.
    running: usize,
    /// Workers that sleep.
    idle: usize,
    /// Workers with this number or a higher one end.
    wanted: usize,
}

struct Worker {
    handle: JoinHandle<()>,
}

impl Pool {
    /// A pool of `threads` threads (at least 1) whose OS priority is lowered by `nice` (0 to 19, where the system allows).
    pub fn new(threads: usize, nice: i32) -> Result<Pool, Error> {
        let queues = Queues { high: VecDeque::new(), normal: VecDeque::new(), running: 0, idle: 0, wanted: 0 };
        let shared = Arc::new(Shared {
            queues: Mutex::new(queues),
            ready: Condvar::new(),
            team: Team::new(),
            calls: AtomicUsize::new(0),
            wanted: AtomicUsize::new(0),
            urgent: AtomicUsize::new(0),
        });
        let pool = Pool { shared, threads: Mutex::new(Vec::new()), nice };
        pool.set_threads(threads)?;
        Ok(pool)
    }

    /// Queues a task behind those of its priority.
    pub fn spawn(&self, priority: Priority, task: Box<dyn Task>) {
        self.shared.push(&mut lock(&self.shared.queues), priority, task);
        self.shared.ready.notify_one();
    }

    /// Changes the number of threads. Fewer: this waits until those that end have finished their current steps.
    pub fn set_threads(&self, threads: usize) -> Result<(), Error> {
        if !(1..=1024).contains(&threads) {
            return Err(Error::new(format!("a pool of {threads} threads; accepted are 1 to 1024")));
        }
        let mut workers = lock(&self.threads);
        lock(&self.shared.queues).wanted = threads;
        self.shared.wanted.store(threads, Ordering::SeqCst);
        // Numbers of helpers begin at 1, and those that end may still be there for a moment.
        self.shared.team.expect(1 + threads.max(workers.len()));
        while workers.len() < threads {
            let (shared, index, nice) = (Arc::clone(&self.shared), workers.len(), self.nice);
            let started = std::thread::Builder::new()
                .name(format!("engram-{index}"))
                .spawn(move || {
                    quieten(nice);
                    shared.work(index);
                })
                .map(|handle| workers.push(Worker { handle }));
            if let Err(e) = started {
                lock(&self.shared.queues).wanted = workers.len();
                return Err(Error::new(format!("thread {index} cannot be started: {e}")));
            }
        }
        self.end(&mut workers, threads);
        Ok(())
    }

    /// Calls the threads that have nothing to do to help with a step of a model, until the result is dropped.
    pub fn lead(&self) -> Lead<'_> {
        let lead = self.shared.team.lead();
        if lock(&self.shared.queues).idle > 0 {
            self.shared.ready.notify_all();
        }
        lead
    }

    /// Runs a step of each task of high priority that waits now: for a task that takes long, between two parts of its own step.
    pub fn run_urgent(&self) {
        for _ in 0..self.shared.urgent.load(Ordering::SeqCst) {
            let mut queues = lock(&self.shared.queues);
            let Some(task) = queues.high.pop_front() else { return };
            self.shared.taken(Priority::High);
            drop(self.shared.run_step(queues, Priority::High, task));
        }
    }

    /// How many threads there are.
    pub fn threads(&self) -> usize {
        lock(&self.threads).len()
    }

    /// Tasks that wait for a thread, and tasks that one is running.
    pub fn load(&self) -> (usize, usize) {
        let queues = lock(&self.shared.queues);
        (queues.high.len() + queues.normal.len(), queues.running)
    }

    fn end(&self, workers: &mut Vec<Worker>, keep: usize) {
        self.shared.ready.notify_all();
        for worker in workers.drain(keep..) {
            // A worker catches every panic of a task; should it have died all the same, there is nothing left to end.
            let _ = worker.handle.join();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.shared.queues).wanted = 0;
        self.shared.wanted.store(0, Ordering::SeqCst);
        let mut workers = std::mem::take(&mut *lock(&self.threads));
        self.end(&mut workers, 0);
    }
}

impl Queues {
    fn queue(&mut self, priority: Priority) -> &mut VecDeque<Box<dyn Task>> {
        match priority {
            Priority::High => &mut self.high,
            Priority::Normal => &mut self.normal,
        }
    }

    fn take(&mut self) -> Option<(Priority, Box<dyn Task>)> {
        let high = self.high.pop_front().map(|task| (Priority::High, task));
        high.or_else(|| self.normal.pop_front().map(|task| (Priority::Normal, task)))
    }
}

impl Shared {
    fn push(&self, queues: &mut Queues, priority: Priority, task: Box<dyn Task>) {
        queues.queue(priority).push_back(task);
        self.calls.fetch_add(1, Ordering::SeqCst);
        if priority == Priority::High {
            self.urgent.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn taken(&self, priority: Priority) {
        self.calls.fetch_sub(1, Ordering::SeqCst);
        if priority == Priority::High {
            self.urgent.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Runs a step of a task that was taken from the queues, without the lock, and queues it again if there is more.
    fn run_step<'a>(
        &'a self,
        mut queues: MutexGuard<'a, Queues>,
        priority: Priority,
        mut task: Box<dyn Task>,
    ) -> MutexGuard<'a, Queues> {
        queues.running += 1;
        drop(queues);
        let again = run(task.as_mut());
        if !again {
            // Its destructor is the caller's code too.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(task)));
            queues = lock(&self.queues);
        } else {
            queues = lock(&self.queues);
            self.push(&mut queues, priority, task);
        }
        queues.running -= 1;
        queues
    }

    /// The life of worker `index`.
    fn work(&self, index: usize) {
        let mut queues = lock(&self.queues);
        loop {
            if index >= queues.wanted {
                // A wake-up meant for a task may have reached this thread: pass it on.
                self.ready.notify_one();
                return;
            }
            if let Some((priority, task)) = queues.take() {
                self.taken(priority);
                queues = self.run_step(queues, priority, task);
            } else if self.team.is_led() {
                drop(queues);
                self.team.help(1 + index, || {
                    self.calls.load(Ordering::SeqCst) > 0 || index >= self.wanted.load(Ordering::SeqCst)
                });
                queues = lock(&self.queues);
            } else {
                queues.idle += 1;
                queues = self.ready.wait(queues).unwrap_or_else(PoisonError::into_inner);
                queues.idle -= 1;
            }
        }
    }
}

/// One step; whether there is another.
fn run(task: &mut dyn Task) -> bool {
    match catch_unwind(AssertUnwindSafe(|| task.step())) {
        Ok(advance) => advance == Advance::Again,
        Err(payload) => {
            let text = message(payload.as_ref());
            let _ = catch_unwind(AssertUnwindSafe(|| task.panicked(&text)));
            false
        }
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a message".to_owned())
}

/// No lock here is held while foreign code runs, so a poisoned one still guards consistent data.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Blocks all signals and lowers the priority of the calling thread.
pub fn quieten(nice: i32) {
    // SAFETY: an all-zero sigset_t is a value; sigfillset and pthread_sigmask write and read only that local.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
    }
    // SAFETY: on Linux `who` 0 is the calling thread; a refusal leaves the priority as it was, which is harmless.
    #[cfg(target_os = "linux")]
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, nice.clamp(0, 19));
    }
    #[cfg(not(target_os = "linux"))]
    let _ = nice;
}

#[cfg(test)]
mod tests;
