//! Wide buffers that a worker lends to whoever has bytes in hand at the moment, so that idle connections hold none.
//!
//! One list per thread: no lock, and no sharing between workers.

use std::cell::RefCell;

/// Size of a wide buffer.
pub(crate) const WIDE: usize = 64 * 1024;

/// How many a worker keeps. On one thread only a few are in use at the same instant.
const KEPT: usize = 16;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room for [`WIDE`] bytes.
pub(crate) fn borrow() -> Vec<u8> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(WIDE))
}

/// Takes a buffer back. One that grew or never was wide is freed.
pub(crate) fn give_back(mut buffer: Vec<u8>) {
    if (WIDE..=2 * WIDE).contains(&buffer.capacity()) {
        buffer.clear();
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < KEPT {
                spare.push(buffer);
            }
        });
    }
}
