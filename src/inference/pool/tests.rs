//! Order, fairness, panics and the number of threads.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::*;

/// Sends its name at each of `left` steps, and what became of it.
struct Steps {
    name: &'static str,
    left: usize,
    panics: bool,
    log: Sender<String>,
}

impl Task for Steps {
    fn step(&mut self) -> Advance {
        assert!(!self.panics, "{} failed", self.name);
        self.log.send(self.name.to_owned()).unwrap();
        self.left -= 1;
        if self.left > 0 { Advance::Again } else { Advance::Done }
    }

    fn panicked(&mut self, message: &str) {
        self.log.send(format!("panic: {message}")).unwrap();
    }
}

/// Holds a worker until told.
struct Gate(Receiver<()>, Sender<String>);

impl Task for Gate {
    fn step(&mut self) -> Advance {
        self.1.send("gate".to_owned()).unwrap();
        let _ = self.0.recv();
        Advance::Done
    }

    fn panicked(&mut self, _: &str) {}
}

fn next(log: &Receiver<String>) -> String {
    log.recv_timeout(Duration::from_secs(20)).unwrap()
}

/// A pool of one thread that is held, its log, and what lets it go on.
fn held() -> (Pool, Sender<String>, Receiver<String>, Sender<()>) {
    let (log, seen) = channel();
    let (open, gate) = channel();
    let pool = Pool::new(1, 5).unwrap();
    pool.spawn(Priority::Normal, Box::new(Gate(gate, log.clone())));
    assert_eq!(next(&seen), "gate");
    (pool, log, seen, open)
}

fn steps(name: &'static str, left: usize, log: &Sender<String>) -> Box<Steps> {
    Box::new(Steps { name, left, panics: false, log: log.clone() })
}

#[test]
fn tasks_take_turns_and_high_goes_first() {
    let (pool, log, seen, open) = held();
    pool.spawn(Priority::Normal, steps("a", 3, &log));
    pool.spawn(Priority::Normal, steps("b", 2, &log));
    pool.spawn(Priority::High, steps("h", 2, &log));
    assert_eq!(pool.load(), (3, 1));
    open.send(()).unwrap();
    let order: String = (0..7).map(|_| next(&seen)).collect();
    assert_eq!(order, "hhababa");
}

#[test]
fn a_panic_ends_its_task_alone() {
    let (pool, log, seen, open) = held();
    pool.spawn(Priority::Normal, Box::new(Steps { name: "x", left: 9, panics: true, log: log.clone() }));
    pool.spawn(Priority::Normal, steps("a", 1, &log));
    open.send(()).unwrap();
    assert_eq!(next(&seen), "panic: x failed");
    assert_eq!(next(&seen), "a");
    assert_eq!(pool.threads(), 1);
}

#[test]
fn the_number_of_threads_changes_live() {
    let (pool, log, seen, open) = held();
    assert!(pool.set_threads(0).unwrap_err().to_string().contains("accepted are 1 to 1024"));
    // Another thread runs what waits behind the held one.
    pool.set_threads(3).unwrap();
    pool.spawn(Priority::Normal, steps("a", 2, &log));
    assert_eq!([next(&seen), next(&seen)], ["a", "a"]);
    open.send(()).unwrap();
    pool.set_threads(1).unwrap();
    assert_eq!(pool.threads(), 1);
    pool.spawn(Priority::Normal, steps("b", 1, &log));
    assert_eq!(next(&seen), "b");
}

#[test]
fn dropping_the_pool_waits_for_running_steps_and_drops_what_waits() {
    let (pool, log, seen, open) = held();
    pool.spawn(Priority::Normal, steps("never", 1, &log));
    drop(log);
    let opener = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        open.send(()).unwrap();
    });
    drop(pool);
    opener.join().unwrap();
    // Every sender is gone and nothing more was said.
    assert!(seen.recv_timeout(Duration::from_secs(20)).is_err());
}

#[test]
fn workers_are_named_block_signals_and_run_at_lower_priority() {
    struct Look(Sender<String>);
    impl Task for Look {
        fn step(&mut self) -> Advance {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let blocked = status.lines().find(|l| l.starts_with("SigBlk:")).unwrap().to_owned();
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            let nice = stat.rsplit(')').next().unwrap().split_whitespace().nth(16).unwrap().to_owned();
            self.0.send(format!("{} {blocked} {nice}", std::thread::current().name().unwrap())).unwrap();
            Advance::Done
        }
        fn panicked(&mut self, message: &str) {
            self.0.send(message.to_owned()).unwrap();
        }
    }
    let (log, seen) = channel();
    let pool = Pool::new(1, 15).unwrap();
    pool.spawn(Priority::High, Box::new(Look(log)));
    let line = next(&seen);
    // SIGKILL (9) and SIGSTOP (19) cannot be blocked, nor the C library's own 32 and 33.
    assert!(line.starts_with("engram-0 SigBlk:\tfffffffe7ffbfeff"), "{line}");
    let nice: i32 = line.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(nice >= 15, "{line}");
}
