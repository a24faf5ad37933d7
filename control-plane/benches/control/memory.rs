//! Counts what is on the heap: how much a value keeps is the difference between before and after it was made.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicUsize, Ordering};
/// As `weft` has it.
use tikv_jemallocator::Jemalloc;

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[expect(unsafe_code, reason = "an allocator cannot be written without; every call goes to jemalloc, unchanged")]
// SAFETY: the contract is that of the allocator beneath, to which each call is handed with the arguments it came with.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { Jemalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { Jemalloc.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LIVE.fetch_add(size, Ordering::Relaxed);
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { Jemalloc.realloc(at, layout, size) }
    }
}

/// Bytes that are allocated now, without the allocator's own overhead.
pub fn live() -> usize {
    LIVE.load(Ordering::Relaxed)
}

/// A value, and the bytes that it keeps.
pub fn kept<T>(make: impl FnOnce() -> T) -> (T, f64) {
    let before = live();
    let value = make();
    (value, live() as f64 - before as f64)
}
