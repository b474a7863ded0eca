//! Memory of our own, outside the process allocator.
//!
//! Inside a Redis server the global allocator is the server's: whatever it hands out counts against `maxmemory` and evicts
//! user data. Weights, key/value caches, activations and scratch therefore live in anonymous mappings ([`MappedVec`]) or
//! stay in the mapped model file ([`MappedFile`]). [`mapped_bytes`] counts the anonymous ones, so that a server can report
//! them.
//!
//! Packed weights share one mapping per model ([`Arena`]). Rejected: an arena with a free list for everything. The pieces are
//! few, large and of fixed size, and the kernel hands out zeroed pages lazily, so a cache that is never filled costs nothing.

mod slabs;

pub use slabs::{SlabPiece, Slabs};

use std::fs::File;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::Error;

static MAPPED: AtomicU64 = AtomicU64::new(0);

/// Bytes now held in anonymous mappings by all [`MappedVec`]s of the process (mapped model files are not counted).
pub fn mapped_bytes() -> u64 {
    MAPPED.load(Ordering::Relaxed)
}

/// A number for which all-zero bytes are a value and that needs no drop.
///
/// # Safety
/// Implementors must be plain numbers: no padding, no invalid bit pattern, no destructor, alignment at most 64.
pub unsafe trait Number: Copy + Default + Send + Sync + 'static {}
// SAFETY: plain numbers, every bit pattern valid.
unsafe impl Number for f32 {}
// SAFETY: as above.
unsafe impl Number for u8 {}
// SAFETY: as above.
unsafe impl Number for i8 {}
// SAFETY: as above.
unsafe impl Number for u16 {}
// SAFETY: as above.
unsafe impl Number for u32 {}

/// A zeroed slice of fixed length in an anonymous mapping of its own, page-aligned (so at least 64 bytes), unmapped on drop.
pub struct MappedVec<T: Number> {
    start: NonNull<T>,
    len: usize,
}

// SAFETY: the mapping is owned by this value alone and `T` is a plain number.
unsafe impl<T: Number> Send for MappedVec<T> {}
// SAFETY: shared access is read-only.
unsafe impl<T: Number> Sync for MappedVec<T> {}

impl<T: Number> MappedVec<T> {
    /// `len` zeros. Fails when the system gives no memory.
    pub fn zeroed(len: usize) -> Result<MappedVec<T>, Error> {
        let Some(bytes) = len.checked_mul(size_of::<T>()).filter(|&b| b <= isize::MAX as usize) else {
            return Err(Error::new(format!(
                "{len} numbers of {} bytes are more than an address space",
                size_of::<T>()
            )));
        };
        if bytes == 0 {
            return Ok(MappedVec { start: NonNull::dangling(), len: 0 });
        }
        // SAFETY: a fresh private anonymous mapping at an address the kernel chooses touches no existing memory.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        let start = if address == libc::MAP_FAILED { None } else { NonNull::new(address.cast::<T>()) };
        let Some(start) = start else {
            let why = std::io::Error::last_os_error();
            return Err(Error::new(format!("the system gives no {bytes} bytes of memory: {why}")));
        };
        MAPPED.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(MappedVec { start, len })
    }

    /// `len` zeros, at least and in whole pages, from the start of a large page on, and in large pages where the system has them.
    fn in_large_pages(len: usize) -> Result<MappedVec<T>, Error> {
        const LARGE: usize = 2 << 20;
        let bytes = len.saturating_mul(size_of::<T>()).checked_next_multiple_of(PAGE).unwrap_or(usize::MAX);
        let whole = MappedVec::<T>::zeroed(bytes.saturating_add(LARGE) / size_of::<T>())?;
        let (first, all) = (whole.start.addr().get(), size_of_val(&*whole));
        let before = first.next_multiple_of(LARGE) - first;
        let origin = whole.start;
        std::mem::forget(whole);
        MAPPED.fetch_sub((all - bytes) as u64, Ordering::Relaxed);
        // SAFETY: the mapping has a large page more than `bytes`, and `before` is less than that; what lies before and behind
        // the part that is kept are whole pages that nothing refers to. The advice changes how the rest is backed, not what it
        // holds; where it is refused, pages are small.
        unsafe {
            let start = origin.byte_add(before);
            let end = start.byte_add(bytes);
            if before > 0 {
                libc::munmap(origin.as_ptr().cast(), before);
            }
            libc::munmap(end.as_ptr().cast(), all - before - bytes);
            #[cfg(target_os = "linux")]
            libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE);
            Ok(MappedVec { start, len: bytes / size_of::<T>() })
        }
    }

    /// A copy of `values`.
    pub fn copy_of(values: &[T]) -> Result<MappedVec<T>, Error> {
        let mut made = MappedVec::zeroed(values.len())?;
        made.copy_from_slice(values);
        Ok(made)
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        (self.len * size_of::<T>()) as u64
    }
}

impl<T: Number> Deref for MappedVec<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `start` points to `len` initialised (zeroed by the kernel) numbers owned by `self`, or is dangling with
        // `len` 0; the length in bytes was checked against isize::MAX.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Number> DerefMut for MappedVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Number> Drop for MappedVec<T> {
    fn drop(&mut self) {
        let bytes = self.len * size_of::<T>();
        if bytes > 0 {
            // SAFETY: exactly the range that `zeroed` mapped; nothing borrows from `self` any more.
            unsafe { libc::munmap(self.start.as_ptr().cast(), bytes) };
            MAPPED.fetch_sub(bytes as u64, Ordering::Relaxed);
        }
    }
}

/// One mapping that is handed out in pieces, for the weights of a model: in large pages where the system has them, which a
/// product that streams hundreds of megabytes needs, and which small mappings would never get.
pub struct Arena {
    memory: Arc<MappedVec<u8>>,
    taken: AtomicUsize,
}

/// A piece of an [`Arena`], zeroed at first; the arena lives as long as one of its pieces.
pub struct Piece {
    memory: Arc<MappedVec<u8>>,
    start: usize,
    len: usize,
}

impl Arena {
    /// Where pieces begin.
    const ALIGN: usize = 64;

    /// Room for `bytes` bytes in pieces whose lengths are multiples of 64.
    pub fn new(bytes: usize) -> Result<Arena, Error> {
        let memory = MappedVec::<u8>::zeroed(bytes)?;
        #[cfg(target_os = "linux")]
        if bytes > 0 {
            // SAFETY: the range is this mapping's own; the advice changes how it is backed, not what it holds. Where it is
            // refused, pages are small.
            unsafe { libc::madvise(memory.start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
        }
        Ok(Arena { memory: Arc::new(memory), taken: AtomicUsize::new(0) })
    }

    /// Its size, pieces and what is left.
    pub fn bytes(&self) -> u64 {
        self.memory.bytes()
    }

    /// The next `len` bytes, from a multiple of 64 on.
    pub fn take(&self, len: usize) -> Result<Piece, Error> {
        let whole = len.checked_next_multiple_of(Arena::ALIGN);
        let end = |taken: usize| whole.and_then(|len| taken.checked_add(len)).filter(|end| *end <= self.memory.len());
        match self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, end) {
            Ok(start) => Ok(Piece { memory: Arc::clone(&self.memory), start, len }),
            Err(taken) => {
                Err(Error::new(format!("{len} bytes are more than the {} left of an arena", self.memory.len() - taken)))
            }
        }
    }
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `take` gave these bytes of the mapping to this piece alone, and the mapping lives as long as `memory`.
        unsafe { std::slice::from_raw_parts(self.memory.start.as_ptr().add(self.start), self.len) }
    }
}

impl DerefMut for Piece {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive: nothing else reaches into the mapping, whose
        // `MappedVec` an arena never dereferences.
        unsafe { std::slice::from_raw_parts_mut(self.memory.start.as_ptr().add(self.start), self.len) }
    }
}

/// Asks the CPU for the line of the cache in which `place` is, which will be used soon.
#[inline(always)]
pub(crate) fn fetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: SSE is part of the architecture, and a prefetch changes nothing that a program can see.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(place).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// The largest size of a page on the systems this runs on: what is a multiple of it is a multiple of theirs.
const PAGE: usize = 1 << 16;

/// A file mapped read-only and shared: its pages are the page cache's, not ours.
///
/// A file that someone shortens while it is mapped ends the process with SIGBUS at the next access, as with every program
/// that maps its models; replace a model by renaming a new file over it.
pub struct MappedFile {
    map: memmap2::Mmap,
}

impl MappedFile {
    /// Maps the file at `path`.
    pub fn open(path: &Path) -> Result<MappedFile, Error> {
        let place = path.display();
        let file = File::open(path).map_err(|e| Error::new(format!("{place} cannot be opened: {e}")))?;
        let meta = file.metadata().map_err(|e| Error::new(format!("{place} cannot be examined: {e}")))?;
        if !meta.is_file() {
            return Err(Error::new(format!("{place} is not a regular file")));
        }
        // SAFETY: the map is private to this type and only read; see the type's note on files that shrink.
        let map = unsafe { memmap2::Mmap::map(&file) };
        let map = map.map_err(|e| Error::new(format!("{place} cannot be mapped: {e}")))?;
        Ok(MappedFile { map })
    }

    /// Tells the kernel that `range` is not needed in this process for now: its pages no longer count as resident. They are
    /// read again when they are touched.
    pub fn release(&self, range: std::ops::Range<usize>) {
        // The page before may be needed again and is then read again; the one behind is mostly the next to be used.
        let (start, end) = (range.start / PAGE * PAGE, range.end.min(self.map.len()) / PAGE * PAGE);
        if start < end {
            // SAFETY: whole pages inside a read-only mapping of a file, which come back from the file when touched.
            unsafe { libc::madvise(self.map.as_ptr().add(start).cast_mut().cast(), end - start, libc::MADV_DONTNEED) };
        }
    }

    /// Asks the kernel to read `range` of the file into the page cache now. A hint: what it cannot do is read later.
    pub fn populate(&self, range: std::ops::Range<usize>) {
        let start = range.start / PAGE * PAGE;
        let len = range.end.min(self.map.len()).saturating_sub(start);
        // A failure leaves the pages to be read at first use, which is correct and only slower then.
        let _ = self.map.advise_range(memmap2::Advice::PopulateRead, start, len);
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_zeroed_aligned_and_counted() {
        let before = mapped_bytes();
        let mut v = MappedVec::<f32>::zeroed(1 << 20).unwrap();
        // Other tests map and unmap beside this one, but none of them as much as this.
        assert!(mapped_bytes() >= before.saturating_sub(1 << 20) + (1 << 20));
        assert!(v.iter().all(|&x| x == 0.0));
        assert_eq!(v.as_ptr() as usize % 64, 0);
        v[7] = 2.0;
        assert_eq!(v[7], 2.0);
        assert_eq!(MappedVec::copy_of(&v[6..9]).unwrap()[..], [0.0, 2.0, 0.0]);
        assert_eq!(MappedVec::<u8>::zeroed(0).unwrap().len(), 0);
    }

    #[test]
    fn more_than_the_address_space_is_an_error() {
        let message = MappedVec::<f32>::zeroed(usize::MAX / 2).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains("more than an address space"), "{message}");
    }

    #[test]
    fn only_files_are_mapped() {
        let message = MappedFile::open(Path::new("/")).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains("not a regular file"), "{message}");
    }
}
