//! Buffers that a worker lends to whoever has bytes in hand at the moment, so that idle connections hold none: broad and wide ones for bulk
//! and for connections that carry many calls, narrow ones for the head and the short body of one message, and pieces of a shared one for what is read.
//!
//! One list per thread: no lock, and no sharing between workers.

use bytes::{Bytes, BytesMut};
use std::cell::RefCell;

/// Size of a narrow buffer.
pub const NARROW: usize = 4 * 1024;
/// Size of a wide buffer.
pub const WIDE: usize = 64 * 1024;
/// Size of a broad buffer, for whoever fills wide ones again and again: 15 TLS records. With the overhead of their encryption they still
/// are four of the largest segments that the kernel hands on in one piece, without a small fifth.
pub const BROAD: usize = 240 * 1024;
/// A buffer that grew so far is of no use.
const MUCH: usize = 2 * BROAD;

/// How many of each size a worker keeps. On one thread only a few are in use at the same instant.
const KEPT: [usize; 3] = [64, 16, 6];

/// Size of the buffer that short reads share. What is read from it keeps it alive, so it is no wider than a few heads.
const SHARED: usize = 16 * 1024;
/// Room that a read must find in it.
const ROOM: usize = 4 * 1024;

thread_local! {
    static SPARE: RefCell<[Vec<Vec<u8>>; 3]> = const { RefCell::new([Vec::new(), Vec::new(), Vec::new()]) };
    static READ: RefCell<BytesMut> = RefCell::new(BytesMut::new());
    static FRAMES: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// An empty buffer with room for [`NARROW`] bytes.
pub(crate) fn borrow_narrow() -> Vec<u8> {
    take(0, NARROW)
}

/// Lets `read` append a little to a buffer with room for at least [`ROOM`] bytes, and cuts off what it appended.
pub(crate) fn read_into<R>(read: impl FnOnce(&mut BytesMut) -> R) -> (R, BytesMut) {
    READ.with_borrow_mut(|buffer| {
        if buffer.capacity() < ROOM {
            buffer.reserve(SHARED);
        }
        let result = read(buffer);
        (result, if buffer.is_empty() { BytesMut::new() } else { buffer.split() })
    })
}

/// The buffer that connections read frames into, one after another; empty, and without room when it is lent already.
pub(crate) fn borrow_read() -> BytesMut {
    FRAMES.with_borrow_mut(std::mem::take)
}

/// Takes it back. What was split off it stays where it is.
pub(crate) fn give_back_read(buffer: BytesMut) {
    let _ = FRAMES.try_with(|frames| {
        let mut frames = frames.borrow_mut();
        if buffer.capacity() <= WIDE && frames.capacity() < buffer.capacity() {
            *frames = buffer;
        }
    });
}

/// An empty buffer with room for [`WIDE`] bytes.
pub(crate) fn borrow() -> Vec<u8> {
    take(1, WIDE)
}

/// An empty buffer with room for [`BROAD`] bytes.
pub(crate) fn borrow_broad() -> Vec<u8> {
    take(2, BROAD)
}

fn take(class: usize, size: usize) -> Vec<u8> {
    SPARE.with_borrow_mut(|spare| spare[class].pop()).unwrap_or_else(|| Vec::with_capacity(size))
}

/// Takes a buffer back. One of another size than it was lent with is freed, or kept as the size that it has become.
pub(crate) fn give_back(mut buffer: Vec<u8>) {
    let class = match buffer.capacity() {
        NARROW => 0,
        WIDE..BROAD => 1,
        BROAD..MUCH => 2,
        _ => return,
    };
    buffer.clear();
    // One that outlives the thread's own storage is freed.
    let _ = SPARE.try_with(|spare| {
        let spare = &mut spare.borrow_mut()[class];
        if spare.len() < KEPT[class] {
            spare.push(buffer);
        }
    });
}

/// The contents of a wide buffer as [`Bytes`]. Much is lent, and the buffer comes back with the last handle on it; little is copied,
/// so that a few bytes which wait somewhere do not hold a wide buffer.
pub(crate) fn freeze(buffer: Vec<u8>) -> Bytes {
    if buffer.len() >= buffer.capacity() / 8 {
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
        let kept = || SPARE.with_borrow(|spare| spare[1].len());
        let mut buffer = borrow();
        buffer.resize(WIDE, 7);
        let at = buffer.as_ptr();
        let much = freeze(buffer);
        let slice = much.slice(10..20);
        assert_eq!((much.as_ptr(), much.len()), (at, WIDE));
        drop(much);
        assert_eq!(kept(), 0, "a handle is left");
        assert_eq!(&slice[..], [7; 10]);
        drop(slice);
        assert_eq!(kept(), 1);
        let mut buffer = borrow();
        buffer.extend_from_slice(b"little");
        let little = freeze(buffer);
        assert_eq!(&little[..], b"little");
        assert_eq!(kept(), 1, "given back at once");
        give_back(borrow_broad());
        assert_eq!((kept(), SPARE.with_borrow(|spare| spare[2].len())), (1, 1), "sizes are kept apart");
    }
}
