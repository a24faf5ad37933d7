//! Buffers that a worker lends to whoever has bytes in hand at the moment, so that idle connections hold none: wide ones for bulk and for
//! connections that carry many calls, narrow ones for the head and the short body of one message, and pieces of a shared one for what is read.
//!
//! One list per thread: no lock, and no sharing between workers.

use bytes::{Bytes, BytesMut};
use std::cell::RefCell;

/// Size of a wide buffer.
pub(crate) const WIDE: usize = 64 * 1024;

/// How many a worker keeps. On one thread only a few are in use at the same instant.
const KEPT: usize = 16;

/// Size of a narrow buffer.
pub(crate) const NARROW: usize = 4 * 1024;
/// How many narrow ones a worker keeps.
const KEPT_NARROW: usize = 64;

/// Size of the buffer that short reads share. What is read from it keeps it alive, so it is no wider than a few heads.
const SHARED: usize = 16 * 1024;
/// Room that a read must find in it.
const ROOM: usize = 4 * 1024;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static SPARE_NARROW: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static READ: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// An empty buffer with room for [`NARROW`] bytes.
pub(crate) fn borrow_narrow() -> Vec<u8> {
    SPARE_NARROW.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(NARROW))
}

/// Takes a narrow buffer back. One that grew is freed.
pub(crate) fn give_back_narrow(mut buffer: Vec<u8>) {
    if buffer.capacity() == NARROW {
        buffer.clear();
        SPARE_NARROW.with_borrow_mut(|spare| {
            if spare.len() < KEPT_NARROW {
                spare.push(buffer);
            }
        });
    }
}

/// Lets `read` append a little to a buffer with room for at least [`ROOM`] bytes, and cuts off what it appended.
pub(crate) fn read_into<R>(read: impl FnOnce(&mut BytesMut) -> R) -> (R, BytesMut) {
    READ.with_borrow_mut(|buffer| {
        if buffer.capacity() < ROOM {
            buffer.reserve(SHARED);
        }
        let result = read(buffer);
        (result, buffer.split())
    })
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
