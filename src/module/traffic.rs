//! Who else is being served just now: what decides whether a recall of some hundred microseconds runs on the main thread or makes room there.
//!
//! Seen is the last change from one client to another among this module's commands, and the last write. A client alone, however busy, never counts
//! as others; several that take turns always do. Everything here is called on the main thread only.
//!
//! Rejected: counting the commands of one turn of the event loop, which would say that others wait when they already do, but hardly ever one command
//! earlier, when it would help.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// How long a client that was served counts as being there.
const RECENT: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, Default)]
struct Traffic {
    /// The client of the command that runs.
    client: u64,
    /// When a command came from another client than the one before.
    turned: Option<Instant>,
    /// The last client that wrote, and when.
    wrote: Option<(u64, Instant)>,
}

thread_local! {
    static TRAFFIC: Cell<Traffic> = Cell::default();
}

/// A command of this module begins.
pub fn note(client: u64, writes: bool) {
    let mut traffic = TRAFFIC.get();
    let now = Instant::now();
    if traffic.client != client {
        traffic.client = client;
        traffic.turned = Some(now);
    }
    if writes {
        traffic.wrote = Some((client, now));
    }
    TRAFFIC.set(traffic);
}

/// Whether clients besides the one whose command runs have been served a moment ago.
pub fn others_wait() -> bool {
    TRAFFIC.get().turned.is_some_and(|turned| turned.elapsed() < RECENT)
}

/// Whether one of them wrote.
pub fn others_write() -> bool {
    let traffic = TRAFFIC.get();
    traffic.wrote.is_some_and(|(client, at)| client != traffic.client && at.elapsed() < RECENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_alone_keeps_nobody_waiting() {
        // A thread of its own has traffic of its own.
        note(1, false);
        std::thread::sleep(RECENT);
        for _ in 0..3 {
            note(1, true);
            assert!(!others_wait() && !others_write());
        }
        note(2, false);
        assert!(others_wait() && others_write());
        note(2, true);
        assert!(others_wait() && !others_write());
    }
}
