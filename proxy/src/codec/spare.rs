//! Wide buffers that a worker lends to whoever has bytes in hand at the moment, so that idle connections hold none.
//!
//! One list per thread: no lock, and no sharing between workers.

use bytes::Bytes;
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

/// The contents of a wide buffer as [`Bytes`]. Much is lent, and the buffer comes back with the last handle on it; little is copied,
/// so that a few bytes which wait somewhere do not hold a wide buffer.
pub(crate) fn freeze(buffer: Vec<u8>) -> Bytes {
    if buffer.len() >= WIDE / 8 {
        return Bytes::from_owner(Lent(buffer));
    }
    let bytes = Bytes::copy_from_slice(&buffer);
    give_back(buffer);
    bytes
}

struct Lent(Vec<u8>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_is_lent_and_comes_back_and_little_is_copied() {
        SPARE.with_borrow_mut(Vec::clear);
        let mut buffer = borrow();
        buffer.resize(WIDE, 7);
        let at = buffer.as_ptr();
        let much = freeze(buffer);
        let slice = much.slice(10..20);
        assert_eq!((much.as_ptr(), much.len()), (at, WIDE));
        drop(much);
        assert_eq!(SPARE.with_borrow(Vec::len), 0, "a handle is left");
        assert_eq!(&slice[..], [7; 10]);
        drop(slice);
        assert_eq!(SPARE.with_borrow(Vec::len), 1);
        let mut buffer = borrow();
        buffer.extend_from_slice(b"little");
        let little = freeze(buffer);
        assert_eq!(&little[..], b"little");
        assert_eq!(SPARE.with_borrow(Vec::len), 1, "given back at once");
    }
}
