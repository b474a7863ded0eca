//! An allocator that counts what the current thread holds, so that tests can bound and measure memory. A block counts as the
//! server's allocator would count it: jemalloc's size classes, with 4 classes per doubling from 128 bytes up.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator with counts per thread.
pub struct Counting;

fn class(bytes: usize) -> isize {
    let mut class = 16;
    let mut spacing = 16;
    while class < bytes {
        class += spacing;
        if class >= 128 && class.is_power_of_two() {
            spacing = class / 4;
        }
    }
    class as isize
}

fn count(bytes: isize) {
    // A thread that is being torn down counts no more.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: every call goes to the system's allocator unchanged; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(class(layout.size()));
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-class(layout.size()));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Bytes that this thread has allocated and not freed.
pub fn held() -> isize {
    HELD.with(Cell::get)
}

/// The most bytes that `f` held beyond what was held before it, and its result.
pub fn peak<T>(f: impl FnOnce() -> T) -> (isize, T) {
    let before = held();
    PEAK.with(|peak| peak.set(before));
    let result = f();
    (PEAK.with(Cell::get) - before, result)
}
