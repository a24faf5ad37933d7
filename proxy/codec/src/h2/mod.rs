//! HTTP/2 (RFC 9113), on the path of every call between sidecars: calls of both sides in the shared types, and byte streams over CONNECT.
//!
//! From the wire upwards: `frame` and `hpack` know bytes, `section` heads; `engine` is the state of a connection without its I/O, with its
//! streams in `state`, what frames do to it in `receive` and `control`, what calls send in `send`, and what peers may not do for nothing in
//! `abuse`. `outgoing` gathers what leaves in one write. A call holds its stream by a `handle`; one task drives the connection through its
//! `link`: at the `server` together with its calls, at the `client` apart from them.

mod abuse;
mod alive;
mod client;
mod control;
mod engine;
mod fault;
mod frame;
mod handle;
mod hpack;
mod link;
mod outgoing;
mod receive;
mod section;
mod send;
mod server;
mod state;
mod stream;
mod tunnel;

pub use client::{Call, Connection, Tasks, Term, connect};
pub(crate) use client::{CallRecv, CallSend};
pub use fault::is_refused;
pub(crate) use server::ReplyWriter;
pub use server::serve;
pub(crate) use stream::Reader;
pub use tunnel::Tunnel;

#[cfg(test)]
mod tests;
