//! The server's allocator for everything the module allocates, so that `used_memory`, `maxmemory` and `MEMORY USAGE` see what memories cost.
//!
//! redis-module's own `RedisAlloc` has no `realloc` and no `alloc_zeroed`, and trusts jemalloc to align a block by its size, which a server built on
//! libc's malloc does not do. Here alignments above 16 over-allocate and keep the server's pointer just below the block. Model weights and scratch do
//! not come here: the inference crate maps them itself.

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::c_void;

use redis_module::raw;

/// What every allocator behind the server's `zmalloc` guarantees.
const SERVER_ALIGNMENT: usize = 16;

/// The global allocator of the loaded module.
pub struct ServerAllocator;

impl ServerAllocator {
    /// Aligns by hand: the block starts at the first aligned address that leaves room for the server's pointer below it.
    ///
    /// # Safety
    /// `layout.align()` is above [`SERVER_ALIGNMENT`], and the server's functions are bound (the module has been initialised).
    unsafe fn alloc_aligned(&self, layout: Layout) -> *mut u8 {
        let Some(size) = layout.size().checked_add(layout.align() + size_of::<*mut u8>()) else {
            return std::ptr::null_mut();
        };
        // SAFETY: the caller promises that the server's functions are bound; any size is valid.
        let base = unsafe { server_alloc(size) };
        if base.is_null() {
            return base;
        }
        let start = base.addr() + size_of::<*mut u8>();
        let aligned = start.next_multiple_of(layout.align());
        // SAFETY: aligned - base <= size_of::<*mut u8>() + align - 1, so block and header lie inside the allocation;
        // the header ends at an address aligned for a pointer because align > 16.
        unsafe {
            let block = base.add(aligned - base.addr());
            block.cast::<*mut u8>().sub(1).write(base);
            block
        }
    }
}

/// # Safety
/// The server's functions are bound: nothing in this module allocates before `RedisModule_OnLoad` has called `Export_RedisModule_Init`.
unsafe fn server_alloc(size: usize) -> *mut u8 {
    // SAFETY: reading a function pointer that is written once, before any other thread exists.
    match unsafe { raw::RedisModule_Alloc } {
        // SAFETY: a plain call of the server's zmalloc; it aborts rather than return null.
        Some(alloc) => unsafe { alloc(size).cast() },
        None => std::ptr::null_mut(),
    }
}

// SAFETY: alloc, realloc and dealloc agree on which blocks carry a header: exactly those whose layout asks for more than SERVER_ALIGNMENT.
unsafe impl GlobalAlloc for ServerAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() > SERVER_ALIGNMENT {
            // SAFETY: alignment checked on the line above.
            return unsafe { self.alloc_aligned(layout) };
        }
        // SAFETY: see server_alloc.
        unsafe { server_alloc(layout.size()) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.align() > SERVER_ALIGNMENT {
            // SAFETY: the block has layout.size() bytes.
            return unsafe {
                let block = self.alloc_aligned(layout);
                if !block.is_null() {
                    block.write_bytes(0, layout.size());
                }
                block
            };
        }
        // SAFETY: as in server_alloc; zcalloc returns zeroed memory.
        match unsafe { raw::RedisModule_Calloc } {
            // SAFETY: a plain call of the server's zcalloc.
            Some(calloc) => unsafe { calloc(1, layout.size()).cast() },
            None => std::ptr::null_mut(),
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if layout.align() > SERVER_ALIGNMENT {
            // SAFETY: old and new block both hold min(old, new) bytes; the old one is released once.
            return unsafe {
                let new = self.alloc(Layout::from_size_align_unchecked(new_size, layout.align()));
                if !new.is_null() {
                    new.copy_from_nonoverlapping(block, layout.size().min(new_size));
                    self.dealloc(block, layout);
                }
                new
            };
        }
        // SAFETY: as in server_alloc; the block came from zmalloc, without a header.
        match unsafe { raw::RedisModule_Realloc } {
            // SAFETY: a plain call of the server's zrealloc on a block it made.
            Some(realloc) => unsafe { realloc(block.cast::<c_void>(), new_size).cast() },
            None => std::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let base = if layout.align() > SERVER_ALIGNMENT {
            // SAFETY: alloc_aligned wrote the server's pointer there.
            unsafe { block.cast::<*mut u8>().sub(1).read() }
        } else {
            block
        };
        // SAFETY: base is what the server's allocator returned, released once.
        if let Some(free) = unsafe { raw::RedisModule_Free } {
            // SAFETY: as above.
            unsafe { free(base.cast()) }
        }
    }
}
