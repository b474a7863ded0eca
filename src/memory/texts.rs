//! The texts of a space: records in append-only pages.
//!
//! A record is a run of bytes; what it means is the business of `record`. Records are written once, behind the published length
//! of the open page, and never again, so a snapshot that holds the pages may read on another thread while the space appends. A
//! changed text is a new record, and the old one is dead; a page whose records are all dead is given back at once, one that is
//! dead for more than half is emptied by moving the living, a few at a time.
//!
//! Pages grow from 512 bytes to 64 KiB, so a space of five memories stays small; a record larger than a quarter of a page
//! has a page to itself. A record is found by a [`Place`] of 4 bytes: the page and the offset in units of 4 bytes.
//!
//! Rejected: one allocation per record (16 bytes of pointer, 16 of count and the allocator's rounding, against 4 and 2 here).

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Places are multiples of this many bytes.
const UNIT: usize = 4;
const OFFSET_BITS: u32 = 14;
const PAGE: usize = UNIT << OFFSET_BITS;
const FIRST_PAGE: usize = 512;
/// By which part of what lives another page adds room, up to a whole page.
const GROWTH: usize = 8;
/// A record of more bytes has a page to itself.
const LARGE: usize = PAGE / 4;
const PAGES: usize = 1 << (32 - OFFSET_BITS);

/// Where a record begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place(pub u32);

impl Place {
    fn new(page: usize, offset: usize) -> Place {
        Place((page as u32) << OFFSET_BITS | (offset / UNIT) as u32)
    }

    fn page(self) -> usize {
        (self.0 >> OFFSET_BITS) as usize
    }

    fn offset(self) -> usize {
        (self.0 & ((1 << OFFSET_BITS) - 1)) as usize * UNIT
    }
}

struct Page {
    bytes: Box<[UnsafeCell<u8>]>,
    /// How many of them are written. Only the writer changes it.
    len: AtomicUsize,
}

// SAFETY: a page is shared between the space, the only writer, and snapshots and copies of the space (`Texts::copy`) that read. The writer writes only behind `len` and then moves
// `len` on with Release (`Texts::append` takes `&mut`, and of the clones of a `Texts` only the space's appends: `Snapshot` has no
// method that does, and a copy has a page of its own in the place of the open one). Readers read only below a `len` that they have loaded with Acquire. So no byte is written while another thread may read it.
unsafe impl Sync for Page {}

impl Page {
    fn new(capacity: usize) -> Page {
        Page { bytes: (0..capacity).map(|_| UnsafeCell::new(0)).collect(), len: AtomicUsize::new(0) }
    }

    fn written(&self) -> &[u8] {
        let len = self.len.load(Ordering::Acquire).min(self.bytes.len());
        // SAFETY: `UnsafeCell<u8>` has the layout of `u8`; the first `len` bytes are initialised and never written again (see `Sync`).
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr().cast::<u8>(), len) }
    }

    /// Writes a record behind the others, if it fits, and tells where.
    ///
    /// # Safety
    /// The caller must be the only writer of this page.
    unsafe fn append(&self, record: &[u8]) -> Option<usize> {
        let at = self.len.load(Ordering::Relaxed);
        let room = self.bytes.get(at..at + record.len())?;
        for (to, from) in room.iter().zip(record) {
            // SAFETY: the cell lies behind `len`, so nobody reads it, and the caller is the only writer.
            unsafe { *to.get() = *from };
        }
        // Padding is zero from the beginning.
        self.len.store((at + record.len()).next_multiple_of(UNIT).min(self.bytes.len()), Ordering::Release);
        Some(at)
    }
}

/// All pages; cloning is O(1) and freezes what is seen.
#[derive(Clone, Default)]
pub(crate) struct Texts {
    pages: Arc<Vec<Arc<Page>>>,
}

/// What the owner of the space keeps about its texts besides them.
#[derive(Clone, Default)]
pub(crate) struct TextCounts {
    /// Bytes of all pages.
    pub bytes: usize,
    /// Bytes of records that are alive.
    pub live: usize,
    /// Dead bytes by page.
    dead: Vec<u32>,
    /// The page that is being filled.
    tail: Option<usize>,
    /// Pages that were given back.
    free: Vec<u32>,
}

/// The bytes that a record takes.
pub(crate) fn size(record: &[u8]) -> usize {
    record.len().next_multiple_of(UNIT)
}

impl Texts {
    /// A clone that may be written to as well: the page that is being filled, which has one writer, is copied for it.
    pub(crate) fn copy(&self, counts: &TextCounts) -> Texts {
        let mut copy = self.clone();
        if let Some(tail) = counts.tail
            && let Some(page) = Arc::make_mut(&mut copy.pages).get_mut(tail)
        {
            let own = Page::new(page.bytes.len());
            // SAFETY: the page is new, nobody else knows it.
            let _ = unsafe { own.append(page.written()) };
            *page = Arc::new(own);
        }
        copy
    }

    /// The bytes from a place to the end of its page: a record knows where it ends.
    pub(crate) fn at(&self, place: Place) -> &[u8] {
        self.pages.get(place.page()).and_then(|page| page.written().get(place.offset()..)).unwrap_or(&[])
    }

    /// Whether there is room for another record, whatever its size.
    pub(crate) fn has_room(&self, counts: &TextCounts) -> bool {
        self.pages.len() < PAGES || !counts.free.is_empty()
    }

    /// Writes a record. The caller has asked [`Texts::has_room`].
    pub(crate) fn append(&mut self, counts: &mut TextCounts, record: &[u8]) -> Place {
        counts.live += size(record);
        let pages = Arc::make_mut(&mut self.pages);
        if record.len() <= LARGE
            && let Some(tail) = counts.tail
            && let Some(page) = pages.get(tail)
            // SAFETY: `&mut self` makes this the only writer, as `Page::append` asks.
            && let Some(offset) = unsafe { page.append(record) }
        {
            return Place::new(tail, offset);
        }
        let capacity = if record.len() > LARGE {
            size(record)
        } else {
            // An unfilled tail end is dead from here on: bounded by a quarter of a page.
            (counts.live / GROWTH).next_power_of_two().clamp(FIRST_PAGE, PAGE).max(size(record).next_power_of_two())
        };
        let page = Page::new(capacity);
        counts.bytes += capacity;
        // SAFETY: the page is new, nobody else knows it.
        let _ = unsafe { page.append(record) };
        let at = match counts.free.pop() {
            Some(free) if (free as usize) < pages.len() => free as usize,
            _ => {
                pages.push(Arc::new(Page::new(0)));
                counts.dead.push(0);
                pages.len() - 1
            }
        };
        if let Some(place) = pages.get_mut(at) {
            *place = Arc::new(page);
        }
        if record.len() <= LARGE {
            counts.tail = Some(at);
        }
        Place::new(at, 0)
    }

    /// Marks a record of `size` bytes as dead.
    pub(crate) fn kill(&mut self, counts: &mut TextCounts, place: Place, size: usize) {
        let at = place.page();
        let (Some(page), Some(dead)) = (self.pages.get(at), counts.dead.get_mut(at)) else { return };
        counts.live -= size;
        *dead += size as u32;
        if *dead as usize >= page.written().len() {
            *dead = 0;
            counts.bytes -= page.bytes.len();
            if counts.tail == Some(at) {
                counts.tail = None;
            }
            if let Some(page) = Arc::make_mut(&mut self.pages).get_mut(at) {
                *page = Arc::new(Page::new(0));
            }
            counts.free.push(at as u32);
        }
    }

    /// The places of a page that is dead for more than half, if there is one. The caller moves what lives there: append, then kill.
    pub(crate) fn compactable(&self, counts: &mut TextCounts) -> Option<std::ops::Range<Place>> {
        let wasteful = |&at: &usize| {
            let (written, dead) = (self.pages[at].written().len(), counts.dead[at] as usize);
            dead * 2 > written.max(FIRST_PAGE)
        };
        let at = (0..self.pages.len().min(counts.dead.len())).find(wasteful)?;
        if counts.tail == Some(at) {
            counts.tail = None;
        }
        Some(Place::new(at, 0)..Place(((at as u32) << OFFSET_BITS).wrapping_add(1 << OFFSET_BITS)))
    }

    /// Bytes of all pages, counted: to check the kept figure.
    pub(crate) fn recount(&self) -> usize {
        self.pages.iter().map(|page| page.bytes.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_stays_for_a_snapshot() {
        let (mut texts, mut counts) = (Texts::default(), TextCounts::default());
        let record = |n: usize| vec![n as u8; n * 37 % 300 + 1];
        let places: Vec<Place> = (0..2000).map(|n| texts.append(&mut counts, &record(n))).collect();
        let snapshot = texts.clone();
        let large = vec![7; 3 * PAGE];
        let place = texts.append(&mut counts, &large);
        assert_eq!(&texts.at(place)[..large.len()], large);
        assert!(texts.has_room(&counts));
        for (n, place) in places.iter().enumerate() {
            assert_eq!(&texts.at(*place)[..record(n).len()], record(n), "{n}");
            texts.kill(&mut counts, *place, size(&record(n)));
        }
        texts.kill(&mut counts, place, size(&large));
        // An open page may keep an unwritten end.
        assert_eq!((counts.live, counts.bytes), (0, texts.recount()));
        assert!(counts.bytes <= PAGE, "{}", counts.bytes);
        for (n, place) in places.iter().enumerate() {
            assert_eq!(&snapshot.at(*place)[..record(n).len()], record(n), "{n}");
        }
        let again = texts.append(&mut counts, b"after");
        assert_eq!(&texts.at(again)[..5], b"after");
    }

    #[test]
    fn wasteful_pages_are_found() {
        let (mut texts, mut counts) = (Texts::default(), TextCounts::default());
        let places: Vec<Place> = (0..4000).map(|_| texts.append(&mut counts, &[1; 40])).collect();
        assert!(texts.compactable(&mut counts).is_none());
        places.iter().skip(500).step_by(3).for_each(|place| texts.kill(&mut counts, *place, 40));
        places.iter().skip(501).step_by(3).for_each(|place| texts.kill(&mut counts, *place, 40));
        let mut steps = 0;
        while let Some(range) = texts.compactable(&mut counts) {
            let live: Vec<Place> =
                places.iter().skip(502).step_by(3).copied().filter(|place| range.contains(place)).collect();
            assert!(!live.is_empty());
            for place in live {
                let _ = texts.append(&mut counts, &[1; 40]);
                texts.kill(&mut counts, place, 40);
            }
            steps += 1;
        }
        assert!(steps > 0);
        assert_eq!(counts.bytes, texts.recount());
    }
}
