//! How weights come from files into memory.
//!
//! Quantised matrices are packed piece by piece: the pages of a piece of the file are asked for, packed into the [`Arena`], and
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

use crate::Error;
use crate::memory::{Arena, MappedFile};
use crate::packed::{Packed, Quant, SHARE};
use crate::pool::Pool;
use crate::product::Matrix;
use crate::team::Lead;

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

    /// Packs the matrix that lies in `range` of a file.
    pub fn pack(
        &self,
        quant: Quant,
        rows: usize,
        cols: usize,
        file: &MappedFile,
        range: Range<usize>,
    ) -> Result<Packed, Error> {
        let from = file.get(range.clone()).unwrap_or_default();
        let room = self.arena.take(Packed::bytes_for(quant, rows, cols).unwrap_or(usize::MAX))?;
        Packed::pack_with(quant, rows, cols, from, room, |shares| {
            let mut at = range.start;
            for shares in shares.chunks(AT_ONCE) {
                self.check()?;
                let places: Vec<Range<usize>> = shares
                    .iter()
                    .map(|share| {
                        let start = at;
                        at += share.bytes();
                        start..at
                    })
                    .collect();
                let lead = match self.pool {
                    Some(pool) => pool.lead(),
                    None => Lead::alone(),
                };
                lead.run(shares.len(), &|n, _| {
                    file.populate(places[n].clone());
                    shares[n].pack();
                });
                drop(lead);
                let all = places.first().map_or(at, |first| first.start)..at;
                file.release(all.clone());
                self.advance(all.len());
            }
            Ok(())
        })
    }

    /// Reads the pages of a matrix that stays where it lies in its file; one that was packed is done.
    pub fn populate(&self, matrix: &Matrix) -> Result<(), Error> {
        let Some((file, range)) = matrix.in_place() else { return Ok(()) };
        let mut start = range.start;
        while start < range.end {
            self.check()?;
            let end = range.end.min(start + AT_ONCE * SHARE);
            file.populate(start..end);
            self.advance(end - start);
            start = end;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Error> {
        match self.progress.cancelled.load(Ordering::Relaxed) {
            true => Err(Error::new("loading was cancelled")),
            false => Ok(()),
        }
    }

    /// So many bytes more are done.
    fn advance(&self, bytes: usize) {
        self.progress.done.fetch_add(bytes as u64, Ordering::Relaxed);
        if let Some(pool) = self.pool {
            pool.run_urgent();
        }
    }
}
