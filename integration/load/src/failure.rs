//! Why a call failed, by kind: what the results count under `errors`.

use serde_json::{Map, Value};
use std::cell::Cell;
use std::io;

/// The kinds, in the order of [`NAMES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection could be made.
    Connect,
    /// The peer ended the connection or stream before the answer was whole.
    Closed,
    /// The peer reset the connection or stream.
    Reset,
    /// It took longer than it may.
    Timeout,
    /// Another status than expected.
    Status,
    /// Another length than expected.
    Length,
    /// What came is not the protocol.
    Malformed,
    /// gRPC ended with a status other than 0, or with none.
    GrpcStatus,
    /// The TLS handshake failed.
    Tls,
    /// The server's certificate names somebody else.
    Identity,
    /// The server chose none of the protocols offered.
    Alpn,
    /// Any other error of the socket.
    Io,
    /// Never sent: no worker became free in time.
    Unsent,
}

const NAMES: [&str; 13] = [
    "connect",
    "closed",
    "reset",
    "timeout",
    "status",
    "length",
    "malformed",
    "grpcStatus",
    "tls",
    "identity",
    "alpn",
    "io",
    "unsent",
];

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Reset,
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Io,
        }
    }
}

impl From<h2::Error> for Failure {
    fn from(error: h2::Error) -> Self {
        if error.is_io() {
            // h2 says "broken pipe" when a connection ends under a call without a goodbye.
            return match error.into_io() {
                Some(io) if io.kind() == io::ErrorKind::BrokenPipe => Self::Closed,
                Some(io) => Self::from(io),
                None => Self::Io,
            };
        }
        if error.is_go_away() {
            Self::Closed
        } else if error.is_reset() {
            Self::Reset
        } else {
            Self::Malformed
        }
    }
}

/// Counts by kind.
#[derive(Debug, Default)]
pub struct Failures([Cell<u64>; NAMES.len()]);

impl Failures {
    /// One more.
    pub fn add(&self, failure: Failure) {
        self.add_many(failure, 1);
    }

    /// `count` more.
    pub fn add_many(&self, failure: Failure, count: u64) {
        let cell = &self.0[failure as usize];
        cell.set(cell.get() + count);
    }

    /// Those of another too.
    pub fn add_all(&self, other: &Self) {
        for (mine, theirs) in self.0.iter().zip(&other.0) {
            mine.set(mine.get() + theirs.get());
        }
    }

    /// All kinds together.
    pub fn total(&self) -> u64 {
        self.0.iter().map(Cell::get).sum()
    }

    /// `{"total": N, KIND: count…}` with the kinds that occurred.
    pub fn json(&self) -> Value {
        let mut map = Map::new();
        map.insert("total".to_owned(), self.total().into());
        for (name, count) in NAMES.iter().zip(&self.0).filter(|(_, count)| count.get() > 0) {
            map.insert((*name).to_owned(), count.get().into());
        }
        Value::Object(map)
    }
}
