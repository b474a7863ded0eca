//! Several threads at one product: a step of a model is a row of short regions, each a number of pieces that whoever is there
//! takes one by one.
//!
//! The thread that runs the step leads. It opens a region, takes pieces itself, and closes the region when no piece is left; it
//! waits only for helpers that are still inside one. A helper that comes late, or not at all because another process has its
//! core, costs nothing but its help. Between regions helpers watch for the next one, giving way to other threads after some
//! hundred looks, and leave when the step is over or a task waits for them in the pool's queue.
//!
//! Rejected: a fixed share of rows per thread with barriers (llama.cpp's way: one thread that is held up holds up all, and
//! waiting at full speed takes the core from the one that is waited for); rayon (a thread pool of its own, no bound on where
//! a closure runs).

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A region's work: called with the number of the piece and that of the member that does it.
type Work<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// A leader and its helpers.
#[derive(Default)]
pub struct Team {
    /// Odd while a region is open; every region has another number.
    region: AtomicUsize,
    /// Helpers that may be inside a region.
    inside: AtomicUsize,
    /// Helpers that watch.
    watching: AtomicUsize,
    next: AtomicUsize,
    pieces: AtomicUsize,
    work: UnsafeCell<Option<Work<'static>>>,
    /// Whether somebody leads.
    led: AtomicBool,
    /// Members that there can be, the leader among them.
    members: AtomicUsize,
    /// Those for whom the present leader is prepared.
    expected: AtomicUsize,
    failed: AtomicBool,
}

// SAFETY: `work` is written by the leader alone while no region is open and no helper is inside one, and read by helpers that
// have seen the region open after they had announced themselves in `inside`; see `lead` and `help`.
unsafe impl Sync for Team {}

/// Looks before a waiting thread gives way to others.
const LOOKS: u32 = 200;
/// Looks in vain after which a helper goes back to sleep when nobody leads.
const LINGER: u32 = 2_000;

/// The right to open regions; at most one thread has it.
pub struct Lead<'a> {
    team: Option<&'a Team>,
    members: usize,
}

impl Team {
    /// A team whose helpers are the threads that call [`Team::help`].
    pub fn new() -> Team {
        Team::default()
    }

    /// Leads the team until the result is dropped. Where another thread leads, this one works alone.
    pub fn lead(&self) -> Lead<'_> {
        if self.led.swap(true, Ordering::SeqCst) {
            return Lead::alone();
        }
        let members = self.members.load(Ordering::SeqCst).max(1);
        self.expected.store(members, Ordering::SeqCst);
        Lead { team: Some(self), members }
    }

    /// There can be helpers with numbers below `members`.
    pub fn expect(&self, members: usize) {
        self.members.store(members, Ordering::SeqCst);
    }

    /// Whether a helper would find something to do.
    pub fn is_led(&self) -> bool {
        self.led.load(Ordering::SeqCst)
    }

    /// Helps as member `member`, from 1 on and below what [`Team::expect`] was told, until nobody leads any more or `leave`
    /// says so.
    pub fn help(&self, member: usize, leave: impl Fn() -> bool) {
        self.watching.fetch_add(1, Ordering::SeqCst);
        let (mut last, mut looks, mut idle) = (0, 0, 0);
        loop {
            let region = self.region.load(Ordering::SeqCst);
            if region % 2 == 1 && region != last {
                self.inside.fetch_add(1, Ordering::SeqCst);
                // The leader closes a region before it looks at `inside`, so it is either still open or this sees it closed.
                if self.region.load(Ordering::SeqCst) == region && member < self.expected.load(Ordering::SeqCst) {
                    self.take_pieces(member);
                }
                self.inside.fetch_sub(1, Ordering::SeqCst);
                (last, looks, idle) = (region, 0, 0);
                continue;
            }
            if leave() {
                break;
            }
            idle = if self.is_led() { 0 } else { idle + 1 };
            if idle > LINGER {
                break;
            }
            wait(&mut looks);
        }
        self.watching.fetch_sub(1, Ordering::SeqCst);
    }

    fn take_pieces(&self, member: usize) {
        // SAFETY: a region is open and this thread is counted in `inside` (or is the leader): the leader does not touch
        // `work`, nor lets what it borrows go, before this returns.
        let Some(work) = (unsafe { *self.work.get() }) else { return };
        let pieces = self.pieces.load(Ordering::SeqCst);
        let all = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let piece = self.next.fetch_add(1, Ordering::SeqCst);
                if piece >= pieces {
                    break;
                }
                work(piece, member);
            }
        }));
        if all.is_err() {
            self.failed.store(true, Ordering::SeqCst);
        }
    }
}

impl Lead<'_> {
    /// A leader without helpers.
    pub fn alone() -> Lead<'static> {
        Lead { team: None, members: 1 }
    }

    /// Members that there can be, this one included.
    pub fn members(&self) -> usize {
        self.members
    }

    /// Whether anybody helps at the moment: what is not worth dividing then is done in one piece.
    pub fn has_help(&self) -> bool {
        self.team.is_some_and(|team| team.watching.load(Ordering::SeqCst) > 0)
    }

    /// Does `pieces` pieces of work, each once, on whatever threads there are; this one is member 0. A panic in one of them
    /// comes out here, after all have ended.
    pub fn run(&self, pieces: usize, work: &(dyn Fn(usize, usize) + Sync)) {
        let Some(team) = self.team.filter(|team| pieces > 1 && team.watching.load(Ordering::SeqCst) > 0) else {
            (0..pieces).for_each(|piece| work(piece, 0));
            return;
        };
        // SAFETY: the lifetime is made longer only for the time of this call: it does not return before the region is closed
        // and no helper is inside, and a helper reads `work` only inside.
        let work = unsafe { std::mem::transmute::<Work<'_>, Work<'static>>(work) };
        // SAFETY: no region is open and nobody is inside one, see the end of this function; only one thread leads.
        unsafe { *team.work.get() = Some(work) };
        team.pieces.store(pieces, Ordering::SeqCst);
        team.next.store(0, Ordering::SeqCst);
        team.region.fetch_add(1, Ordering::SeqCst);
        // It catches every panic, so the region is closed in any case.
        team.take_pieces(0);
        team.region.fetch_add(1, Ordering::SeqCst);
        let mut looks = 0;
        while team.inside.load(Ordering::SeqCst) > 0 {
            wait(&mut looks);
        }
        if team.failed.swap(false, Ordering::SeqCst) {
            resume_unwind(Box::new("a piece of a model's step panicked"));
        }
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        if let Some(team) = self.team {
            team.led.store(false, Ordering::SeqCst);
        }
    }
}

fn wait(looks: &mut u32) {
    *looks += 1;
    if *looks > LOOKS {
        std::thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
}

/// A pointer that the pieces of a region may share: each writes to places of its own.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(*mut T);

// SAFETY: what is done with the pointer is `unsafe` and argued where it is done.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn of(slice: &mut [T]) -> Shared<T> {
        Shared(slice.as_mut_ptr())
    }

    pub(crate) fn at_start(start: std::ptr::NonNull<T>) -> Shared<T> {
        Shared(start.as_ptr())
    }

    /// `len` places from `at` on.
    ///
    /// # Safety
    /// They must lie in the slice that this was made of, which must still be there, and nobody else may use them meanwhile.
    #[expect(
        clippy::mut_from_ref,
        reason = "it stands for a pointer; that the places are the caller's alone is its promise"
    )]
    pub(crate) unsafe fn slice(&self, at: usize, len: usize) -> &mut [T] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), len) }
    }

    /// The pointer to place `at`.
    ///
    /// # Safety
    /// It must lie in the slice, or right behind it.
    pub(crate) unsafe fn at(&self, at: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(at) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    use super::*;

    /// A team with some helpers, and what ends them.
    pub(crate) fn helped(helpers: usize, test: impl FnOnce(&Team)) {
        let team = Arc::new(Team::new());
        team.expect(helpers + 1);
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for member in 1..=helpers {
                let (team, over) = (Arc::clone(&team), &over);
                scope.spawn(move || {
                    while !over.load(Ordering::SeqCst) {
                        team.help(member, || over.load(Ordering::SeqCst));
                    }
                });
            }
            test(&team);
            over.store(true, Ordering::SeqCst);
        });
    }

    #[test]
    fn every_piece_is_done_once_and_before_the_region_ends() {
        for helpers in [0, 1, 3] {
            helped(helpers, |team| {
                let lead = team.lead();
                for round in 0..2_000u32 {
                    let pieces = (round % 17) as usize;
                    let done: Vec<AtomicU32> = (0..pieces).map(|_| AtomicU32::new(0)).collect();
                    lead.run(pieces, &|piece, member| {
                        assert!(member <= helpers);
                        done[piece].fetch_add(1, Ordering::SeqCst);
                    });
                    assert!(done.iter().all(|count| count.load(Ordering::SeqCst) == 1));
                }
            });
        }
    }

    #[test]
    fn who_comes_second_works_alone() {
        let team = Team::new();
        let first = team.lead();
        let second = team.lead();
        assert!(second.team.is_none());
        drop(second);
        assert!(team.is_led());
        drop(first);
        assert!(!team.is_led() && team.lead().team.is_some());
    }

    #[test]
    fn a_panic_comes_out_at_the_leader_and_the_team_goes_on() {
        helped(2, |team| {
            let lead = team.lead();
            for _ in 0..50 {
                let result = catch_unwind(AssertUnwindSafe(|| {
                    lead.run(40, &|piece, _| assert!(piece != 7, "piece seven"));
                }));
                assert!(result.is_err());
                let sum = AtomicUsize::new(0);
                lead.run(10, &|piece, _| {
                    sum.fetch_add(piece, Ordering::SeqCst);
                });
                assert_eq!(sum.load(Ordering::SeqCst), 45);
            }
        });
    }
}
