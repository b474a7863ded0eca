//! How weights come from files into memory.
//!
//! Matrices are packed piece by piece: the pages of a piece of the file are asked for, packed into the [`Arena`], and
//! let go again a few pieces later, so that a file never is in this process's memory beside what is made of it. The pieces of a
//! matrix are shared with the threads of a pool that have nothing else to do, and between a few of them the pool's short tasks get
//! their turn and a cancellation is seen. What bounds it is memory: every byte of a model is read once, cleared once by the
//! system and written once.
//!
//! Rejected: reading pieces into a buffer instead of mapping them (the system's copy took longer than its page tables);
//! threads of its own (more than the pool's setting would be at work); asking for all pages at once, of the file or of the
//! arena (what was fetched or cleared has left the caches when it is used).

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::Error;
use crate::memory::{Arena, MappedFile, Piece};
use crate::pool::Pool;
use crate::team::Lead;

/// Bytes of a share, about: those of a large page, so that two threads seldom ask the system for the same one.
const SHARE: usize = 2 << 20;
/// Shares of a matrix between two looks at what else there is to do: some tens of milliseconds of one thread.
const AT_ONCE: usize = 8;

/// How far loading is; shared with whoever watches or cancels it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes read so far.
    pub done: AtomicU64,
    /// Bytes to read; 0 until the file is open.
    pub total: AtomicU64,
    /// Set to make the load end with an error soon.
    pub cancelled: AtomicBool,
}

/// What the matrices of a model are loaded with.
pub struct Loader<'a> {
    arena: Arena,
    progress: &'a Progress,
    pool: Option<&'a Pool>,
}

impl<'a> Loader<'a> {
    /// Room for `bytes` bytes of packed matrices; the threads of `pool` help where one is given.
    pub fn new(bytes: usize, progress: &'a Progress, pool: Option<&'a Pool>) -> Result<Loader<'a>, Error> {
        Ok(Loader { arena: Arena::new(bytes)?, progress, pool })
    }

    /// The room, used or not.
    pub fn bytes(&self) -> u64 {
        self.arena.bytes()
    }

    /// The tiles of the matrix that lies in `range` of a file: as many rows as a tile has are `tile.0` bytes there and `tile.1` bytes
    /// packed, which `pack` makes of those for whole tiles, the last of which may lack rows.
    pub fn pack(
        &self,
        file: &MappedFile,
        range: Range<usize>,
        tile: (usize, usize),
        pack: &(dyn Fn(&[u8], &mut [u8]) + Sync),
    ) -> Result<Piece, Error> {
        let (from, to) = (tile.0.max(1), tile.1.max(1));
        let mut room = self.room(range.len().div_ceil(from).saturating_mul(to))?;
        let tiles = (SHARE / to).max(1);
        // A share has one taker: nobody waits for the lock.
        let shares: Vec<Mutex<&mut [u8]>> = room.chunks_mut(tiles * to).map(Mutex::new).collect();
        self.each(file, range, tiles * from, &|n, bytes| {
            if let Some(share) = shares.get(n) {
                pack(bytes, &mut share.lock().unwrap_or_else(PoisonError::into_inner));
            }
        })?;
        drop(shares);
        Ok(room)
    }

    /// Room for `bytes` bytes.
    pub fn room(&self, bytes: usize) -> Result<Piece, Error> {
        self.arena.take(bytes)
    }

    /// Calls `work` with the number and the bytes of each share of so many bytes of a range of a file, once, on any thread.
    pub fn each(
        &self,
        file: &MappedFile,
        range: Range<usize>,
        share: usize,
        work: &(dyn Fn(usize, &[u8]) + Sync),
    ) -> Result<(), Error> {
        let share = share.max(1);
        let all: Vec<&[u8]> = file.get(range.clone()).unwrap_or_default().chunks(share).collect();
        let mut at = range.start;
        for (turn, shares) in all.chunks(AT_ONCE).enumerate() {
            self.check()?;
            let lead = match self.pool {
                Some(pool) => pool.lead(),
                None => Lead::alone(),
            };
            lead.run(shares.len(), &|n, _| {
                let start = at + n * share;
                file.populate(start..start + shares[n].len());
                work(turn * AT_ONCE + n, shares[n]);
            });
            drop(lead);
            let done: usize = shares.iter().map(|bytes| bytes.len()).sum();
            file.release(at..at + done);
            at += done;
            self.progress.done.fetch_add(done as u64, Ordering::Relaxed);
            if let Some(pool) = self.pool {
                pool.run_urgent();
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Error> {
        match self.progress.cancelled.load(Ordering::Relaxed) {
            true => Err(Error::new("loading was cancelled")),
            false => Ok(()),
        }
    }
}
