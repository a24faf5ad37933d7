//! The allocator that counts: every call of every thread, in a slot for each thread, so that a sidecar's data workers are told from the
//! threads beside them. On demand it also keeps who called it, for the workers alone.
#![expect(unsafe_code, reason = "a global allocator that counts is the only witness")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering::SeqCst};

/// Threads that are told apart; what comes later shares the last slot.
const THREADS: usize = 64;

struct Slot {
    thread: AtomicI32,
    allocations: AtomicU64,
    traced: AtomicBool,
}

static SLOTS: [Slot; THREADS] =
    [const { Slot { thread: AtomicI32::new(0), allocations: AtomicU64::new(0), traced: AtomicBool::new(false) } };
        THREADS];
static TAKEN: AtomicUsize = AtomicUsize::new(0);
static TRACES: Mutex<Vec<(Backtrace, usize)>> = Mutex::new(Vec::new());

thread_local! {
    static SLOT: Cell<usize> = const { Cell::new(usize::MAX) };
    /// Whether this thread is inside the counter: what it allocates there is nobody's.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: usize) {
    if INSIDE.get() {
        return;
    }
    if SLOT.get() == usize::MAX {
        SLOT.set(TAKEN.fetch_add(1, SeqCst).min(THREADS - 1));
        SLOTS[SLOT.get()].thread.store(rustix::thread::gettid().as_raw_nonzero().get(), SeqCst);
    }
    let slot = &SLOTS[SLOT.get()];
    slot.allocations.fetch_add(1, SeqCst);
    if slot.traced.load(SeqCst) {
        INSIDE.set(true);
        let trace = Backtrace::force_capture();
        if let Ok(mut traces) = TRACES.lock() {
            traces.push((trace, bytes));
        }
        INSIDE.set(false);
    }
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn workers() -> impl Iterator<Item = &'static Slot> {
    SLOTS.iter().filter(|slot| {
        let thread = slot.thread.load(SeqCst);
        let name = std::fs::read_to_string(format!("/proc/self/task/{thread}/comm"));
        name.is_ok_and(|name| name.starts_with("weft-worker"))
    })
}

/// Calls of the allocator by data workers since the start; a reallocation is one.
pub fn counted() -> u64 {
    workers().map(|slot| slot.allocations.load(SeqCst)).sum()
}

/// From now on keep who allocates, or stop.
pub fn trace(on: bool) {
    workers().for_each(|slot| slot.traced.store(on, SeqCst));
}

/// Who allocated while it was kept, as text, with the bytes.
pub fn traces() -> Vec<(String, usize)> {
    let taken = std::mem::take(&mut *TRACES.lock().unwrap());
    taken.into_iter().map(|(trace, bytes)| (trace.to_string(), bytes)).collect()
}
