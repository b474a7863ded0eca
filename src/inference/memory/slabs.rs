//! Pieces of one size that come and go, in large pages: those of keys and values.
//!
//! A piece of its own mapping lies in pages of 4 KB, behind whose end the CPU does not read ahead, and for each of which it
//! looks the address up. So pieces are cut from slabs that begin where a large page does. A slab whose pieces have all come
//! back is given back to the system, except the last one, which is where the next piece will be wanted.
//!
//! Rejected: one arena for all keys and values (it has to be as large as they may ever become, or to be copied); sizes of all
//! kinds from one heap (it frays).

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::MappedVec;
use crate::Error;
use crate::team::Shared;

/// A large page; on systems whose large pages are larger, slabs are in small ones.
const LARGE: usize = 2 << 20;
/// What a slab has at least, when one piece is not larger.
const SLAB: usize = 4 * LARGE;

/// Where pieces of `len` bytes come from.
pub struct Slabs {
    len: usize,
    slabs: Mutex<Vec<Slab>>,
}

struct Slab {
    memory: Arc<MappedVec<u8>>,
    /// Where pieces lie that came back.
    returned: Vec<usize>,
    /// From here on no piece was taken yet: it is all zeros.
    fresh: usize,
    /// How many are in use.
    used: usize,
}

/// A piece, zeroed at first; it goes back to its slab when it is dropped.
pub struct SlabPiece {
    from: Arc<Slabs>,
    memory: Arc<MappedVec<u8>>,
    start: usize,
}

impl Slabs {
    /// Where pieces of `len` bytes can be had; they are given at multiples of 64.
    pub fn new(len: usize) -> Arc<Slabs> {
        Arc::new(Slabs { len, slabs: Mutex::new(Vec::new()) })
    }

    /// Bytes from one piece to the next.
    fn step(&self) -> usize {
        self.len.next_multiple_of(64).max(64)
    }

    fn slabs(&self) -> MutexGuard<'_, Vec<Slab>> {
        // Nothing in here can fail between two changes that belong together.
        self.slabs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A piece. Fails when the system gives no memory.
    pub fn take(self: &Arc<Slabs>) -> Result<SlabPiece, Error> {
        let step = self.step();
        let mut slabs = self.slabs();
        let room = |slab: &Slab| !slab.returned.is_empty() || slab.fresh + step <= slab.memory.len();
        let at = match slabs.iter().position(room) {
            Some(at) => at,
            None => {
                let len = if self.len == 0 { step } else { (SLAB / step).max(1) * step };
                let memory = Arc::new(MappedVec::in_large_pages(len)?);
                slabs.push(Slab { memory, returned: Vec::new(), fresh: 0, used: 0 });
                slabs.len() - 1
            }
        };
        let slab = &mut slabs[at];
        slab.used += 1;
        let (start, used_before) = match slab.returned.pop() {
            Some(start) => (start, true),
            None => {
                slab.fresh += step;
                (slab.fresh - step, false)
            }
        };
        let mut piece = SlabPiece { from: Arc::clone(self), memory: Arc::clone(&slab.memory), start };
        drop(slabs);
        if used_before {
            piece.fill(0);
        }
        Ok(piece)
    }

    /// A piece with these bytes, of which there are as many as a piece has.
    pub fn copy_of(self: &Arc<Slabs>, bytes: &[u8]) -> Result<SlabPiece, Error> {
        let mut piece = self.take()?;
        piece.copy_from_slice(bytes);
        Ok(piece)
    }

    /// Takes the piece at `start` of a slab back.
    fn give_back(&self, memory: &Arc<MappedVec<u8>>, start: usize) {
        let mut slabs = self.slabs();
        let Some(at) = slabs.iter().position(|slab| Arc::ptr_eq(&slab.memory, memory)) else { return };
        let slab = &mut slabs[at];
        slab.returned.push(start);
        slab.used -= 1;
        if slab.used == 0 && slabs.len() > 1 {
            slabs.swap_remove(at);
        }
    }
}

impl SlabPiece {
    fn address(&self) -> NonNull<u8> {
        // SAFETY: `take` gave this piece a place inside the mapping.
        unsafe { self.memory.start.add(self.start) }
    }

    /// A pointer by which several threads may write to places of their own, though they only share this: the memory is the
    /// system's and not part of this value.
    pub(crate) fn shared(&self) -> Shared<u8> {
        Shared::at_start(self.address())
    }
}

impl Deref for SlabPiece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: these bytes of the mapping are this piece's alone until it is given back, and the mapping lives as long as
        // `memory`.
        unsafe { std::slice::from_raw_parts(self.address().as_ptr(), self.from.len) }
    }
}

impl DerefMut for SlabPiece {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive; nobody dereferences the whole mapping.
        unsafe { std::slice::from_raw_parts_mut(self.address().as_ptr(), self.from.len) }
    }
}

impl Drop for SlabPiece {
    fn drop(&mut self) {
        self.from.give_back(&self.memory, self.start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_zeroed_apart_and_come_back() {
        let slabs = Slabs::new(1_000_001);
        let mut pieces: Vec<SlabPiece> = (0..20).map(|_| slabs.take().unwrap()).collect();
        for (n, piece) in (1..).zip(&mut pieces) {
            assert!(piece.len() == 1_000_001 && piece.as_ptr().addr() % 64 == 0 && piece.iter().all(|byte| *byte == 0));
            piece.fill(n);
        }
        for (n, piece) in (1..).zip(&pieces) {
            assert!(piece.iter().all(|byte| *byte == n));
        }
        assert_eq!(slabs.slabs().len(), 3);
        assert!(slabs.slabs().iter().all(|slab| slab.memory.as_ptr().addr() % LARGE == 0));
        pieces.drain(3..);
        assert_eq!(slabs.slabs().len(), 1);
        pieces.clear();
        assert_eq!(slabs.slabs().len(), 1, "the last slab stays");
        assert!(slabs.take().unwrap().iter().all(|byte| *byte == 0), "what was there before is gone");
        assert_eq!(slabs.copy_of(&vec![7; 1_000_001]).unwrap()[1_000_000], 7);
    }

    #[test]
    fn pieces_larger_than_a_slab_have_one_each() {
        let slabs = Slabs::new(3 * SLAB);
        let (a, b) = (slabs.take().unwrap(), slabs.take().unwrap());
        assert_eq!(slabs.slabs().len(), 2);
        drop((a, b));
        let none = Slabs::new(0);
        assert!(none.take().unwrap().is_empty());
    }
}
