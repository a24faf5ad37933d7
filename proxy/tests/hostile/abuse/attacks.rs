//! What an attacker sends: a first piece, and a flood of others.

use super::floods::Target;
use crate::frames::{
    self, ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE, PING, PRIORITY,
    RST_STREAM, SETTINGS, WINDOW_UPDATE,
};

/// What must become of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Must {
    /// The RFC demands a connection error, or nothing bounds the attack but its end.
    End,
    /// It ends, is held back, or costs nothing: that memory and other callers do not suffer is enough.
    BeBounded,
}

/// One of them.
pub struct Attack {
    pub name: &'static str,
    /// SETTINGS that the attacker begins with.
    pub settings: &'static [(u16, u32)],
    /// The frames before the flood.
    pub first: fn(&Target) -> Vec<u8>,
    /// The n-th piece of the flood.
    pub piece: fn(&Target, u32) -> Vec<u8>,
    pub pieces: u32,
    pub must: Must,
}

/// A flood of `pieces`, after nothing, of which it is enough that it is bounded.
const fn flood(name: &'static str, pieces: u32, piece: fn(&Target, u32) -> Vec<u8>) -> Attack {
    Attack { name, settings: &[], first: |_| Vec::new(), piece, pieces, must: Must::BeBounded }
}

/// What ends a connection.
const fn error(name: &'static str, pieces: u32, piece: fn(&Target, u32) -> Vec<u8>) -> Attack {
    Attack { must: Must::End, ..flood(name, pieces, piece) }
}

/// The n-th stream of a client.
const fn stream(n: u32) -> u32 {
    2 * n + 1
}

/// So many of a frame in one piece.
fn many(count: u32, one: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (0..count).flat_map(one).collect()
}

/// The head of a request whose block goes on.
fn unfinished(to: &Target) -> Vec<u8> {
    frames::frame(HEADERS, END_STREAM, 1, &frames::block(&to.fields("/flood")))
}

fn large(to: &Target, n: u32) -> Vec<u8> {
    many(100, |i| to.request(stream(n * 100 + i), END_STREAM, "/r-large"))
}

pub const ATTACKS: &[Attack] = &[
    flood("rapid reset, CVE-2023-44487", 100, |to, n| {
        many(100, |i| {
            let stream = stream(n * 100 + i);
            let reset = frames::frame(RST_STREAM, 0, stream, &8u32.to_be_bytes());
            [to.request(stream, END_STREAM, "/reset"), reset].concat()
        })
    }),
    flood("streams that never end, beyond the limit", 100, |to, n| {
        many(100, |i| to.request(stream(n * 100 + i), 0, "/open"))
    }),
    Attack {
        first: unfinished,
        ..error("CONTINUATION flood, CVE-2024-27316", 8000, |_, n| {
            frames::frame(CONTINUATION, 0, 1, &frames::literal(format!("x-{n}").as_bytes(), &[b'a'; 8000]))
        })
    },
    Attack {
        first: unfinished,
        ..error("CONTINUATION flood of empty frames", 1000, |_, _| {
            many(1000, |_| frames::frame(CONTINUATION, 0, 1, &[]))
        })
    },
    flood("SETTINGS flood, CVE-2019-9515", 1000, |_, _| {
        many(1000, |n| frames::settings(&[(INITIAL_WINDOW_SIZE, 65_535 + n)]))
    }),
    flood("PING flood, CVE-2019-9512", 1000, |_, _| many(1000, |_| frames::frame(PING, 0, 0, b"floodfld"))),
    flood("acknowledgements that nobody asked for", 500, |_, _| {
        many(1000, |_| [frames::frame(PING, ACK, 0, b"unasked!"), frames::frame(SETTINGS, ACK, 0, &[])].concat())
    }),
    Attack {
        first: |to| to.request(1, 0, "/data"),
        ..flood("empty DATA flood, CVE-2019-9518", 1000, |_, _| many(1000, |_| frames::frame(DATA, 0, 1, &[])))
    },
    flood("WINDOW_UPDATE flood", 1000, |_, _| many(1000, |_| frames::frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes()))),
    error("WINDOW_UPDATE over 2^31-1, RFC 9113 6.9.1", 2, |_, _| {
        frames::frame(WINDOW_UPDATE, 0, 0, &(u32::MAX >> 1).to_be_bytes())
    }),
    error("WINDOW_UPDATE of nothing, RFC 9113 6.9", 1, |_, _| frames::frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
    error("INITIAL_WINDOW_SIZE over 2^31-1, RFC 9113 6.5.2", 1, |_, _| {
        frames::settings(&[(INITIAL_WINDOW_SIZE, 1 << 31)])
    }),
    flood("PRIORITY flood, CVE-2019-9513", 1000, |_, n| {
        many(1000, |i| frames::frame(PRIORITY, 0, stream(n * 1000 + i), &[0, 0, 0, 0, 9]))
    }),
    // An entry that fills the table (RFC 7541 section 6.2.1), and then nothing but its index, on every stream.
    flood("HPACK bomb: one entry of 4 KB referred to 100,000 times", 100, |to, n| {
        let entry = [&[0x40][..], &frames::integer(0, 7, 1), b"x", &frames::integer(0, 7, 4000), &[b'a'; 4000]];
        let entry = if n == 0 { entry.concat() } else { Vec::new() };
        let block = [frames::block(&to.fields("/bomb")), entry, vec![0xbe; 1000]].concat();
        frames::frame(HEADERS, END_HEADERS | END_STREAM, stream(n), &block)
    }),
    // Sizes of 0 and 4096 in turn: each empties the table.
    flood("changes of the size of the table, RFC 7541 4.2", 100, |to, n| {
        let block = [[0x20, 0x3f, 0xe1, 0x1f].repeat(3900), frames::block(&to.fields("/sizes"))].concat();
        frames::frame(HEADERS, END_HEADERS | END_STREAM, stream(n), &block)
    }),
    error("a table larger than was offered, RFC 7541 6.3", 1, |to, _| {
        let block = [frames::integer(0x20, 5, 1 << 24), frames::block(&to.fields("/table"))].concat();
        frames::frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)
    }),
    error("an index that no table has, RFC 7541 2.3.3", 1, |to, _| {
        let block = [frames::block(&to.fields("/index")), frames::integer(0x80, 7, 1 << 20)].concat();
        frames::frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)
    }),
    error("RST_STREAM of a stream that never was, RFC 9113 6.4", 1000, |_, n| {
        frames::frame(RST_STREAM, 0, stream(n), &8u32.to_be_bytes())
    }),
    flood("GOAWAY flood", 500, |_, _| many(1000, |_| frames::frame(GOAWAY, 0, 0, &[0; 8 + 64]))),
    flood("frames of a type that nobody knows", 1000, |_, _| many(1000, |_| frames::frame(0xbe, 0xff, 0, &[]))),
    error("a frame larger than was offered, RFC 9113 4.2", 1, |_, _| frames::frame(0xbe, 0, 0, &vec![0; 1 << 20])),
    error("DATA on stream 0, RFC 9113 6.1", 1, |_, _| frames::frame(DATA, 0, 0, b"data")),
    error("a HEADERS frame within a block of another, RFC 9113 4.3", 1, |to, _| {
        [unfinished(to), to.request(3, END_STREAM, "/within")].concat()
    }),
    error("a stream of the wrong parity, RFC 9113 5.1.1", 1, |to, _| to.request(2, END_STREAM, "/even")),
    error("a stream below one before, RFC 9113 5.1.1", 1, |to, _| {
        [to.request(9, END_STREAM, "/nine"), to.request(3, END_STREAM, "/three")].concat()
    }),
    Attack {
        first: |to| to.request(1, 0, "/window"),
        ..flood("DATA beyond the window, RFC 9113 6.9.1", 512, |_, _| {
            many(8, |_| frames::frame(DATA, 0, 1, &[b'x'; 16 * 1024]))
        })
    },
    Attack {
        settings: &[(INITIAL_WINDOW_SIZE, 0)],
        ..flood("a window that never opens, 1,000 answers of 1 MiB, CVE-2019-9517", 10, large)
    },
    Attack {
        settings: &[(INITIAL_WINDOW_SIZE, u32::MAX >> 1)],
        ..flood("a connection's window that never opens, CVE-2019-9517", 10, large)
    },
    Attack {
        settings: &[(INITIAL_WINDOW_SIZE, 1)],
        first: |to| large(to, 0),
        ..flood("windows that open by a byte, CVE-2019-9511", 1000, |_, _| {
            many(100, |n| frames::frame(WINDOW_UPDATE, 0, stream(n), &1u32.to_be_bytes()))
        })
    },
];
